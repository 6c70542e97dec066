use std::path::Path;

use proptest::prelude::*;

use super::*;

fn tcp(host: &str, port: u16) -> Endpoint {
    let address = Address::Tcp { host: host.to_owned(), port };
    Endpoint { address, tls: false, mode: None, perm: None, rate: None, options: Vec::new() }
}

fn unix(name: UnixName) -> Endpoint {
    Endpoint {
        address: Address::Unix(name),
        tls: false,
        mode: None,
        perm: None,
        rate: None,
        options: Vec::new(),
    }
}

fn udp(host: &str, port: u16) -> Endpoint {
    let address = Address::Udp { host: host.to_owned(), port };
    Endpoint { address, ..tcp(host, port) }
}

fn path(path: impl AsRef<Path>) -> Endpoint {
    unix(UnixName::Path(path.as_ref().to_owned()))
}

#[test]
fn uris() {
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let rated = |rate, endpoint| Endpoint { rate: NonZeroU32::new(rate), ..endpoint };
    let unixgram = |name: &str| Endpoint {
        address: Address::Unixgram(UnixName::Path(name.into())),
        ..path(name)
    };
    for (text, right) in [
        ("tcp://127.0.0.1:7777", tcp("127.0.0.1", 7777)),
        ("TCP://localhost:0", tcp("localhost", 0)),
        ("tcp://my_host-1.example.:65535", tcp("my_host-1.example.", 65535)),
        ("tcp://[::1]:7", tcp("::1", 7)),
        ("tcp://[fe80::1%25eth0]:7", tcp("fe80::1%eth0", 7)),
        ("tcp://[fe80::1%eth0]:7", tcp("fe80::1%eth0", 7)),
        ("tcp://[fe80::1%3]:7", tcp("fe80::1%3", 7)),
        ("tcp://[fe80::1%25]:7", tcp("fe80::1%25", 7)),
        ("tcp://h:1?mode=raw", Endpoint { mode: Some(Mode::Raw), ..tcp("h", 1) }),
        (
            "tcp://h:1?a=%26%3d&mode=auto&b&a=2",
            Endpoint {
                mode: Some(Mode::Auto),
                options: vec![option("a", "&="), option("b", ""), option("a", "2")],
                ..tcp("h", 1)
            },
        ),
        (
            "systemd:echo%20server?mode=raw&rate=5",
            rated(
                5,
                Endpoint {
                    address: Address::Systemd("echo server".into()),
                    mode: Some(Mode::Raw),
                    ..tcp("h", 1)
                },
            ),
        ),
        ("unix:/run/echo.sock", path("/run/echo.sock")),
        ("unix:///run/echo.sock", path("/run/echo.sock")),
        ("unix:echo.sock?perm=660", Endpoint { perm: Some(0o660), ..path("echo.sock") }),
        ("unix:a%20b%3Fc:%25", path("a b?c:%")),
        ("unix:@echo", unix(UnixName::Abstract(b"echo".to_vec()))),
        ("unix:@a%00b%ff", unix(UnixName::Abstract(b"a\0b\xff".to_vec()))),
        ("unix:%40echo", path("@echo")),
        ("udp://[::]:7", udp("::", 7)),
        ("udp://h:0?rate=5&mode=raw", rated(5, Endpoint { mode: Some(Mode::Raw), ..udp("h", 0) })),
        ("unixgram:/run/e?rate=4294967295", rated(u32::MAX, unixgram("/run/e"))),
        ("unixgram:a?perm=0600", Endpoint { perm: Some(0o600), ..unixgram("a") }),
    ] {
        assert_eq!(text.parse(), Ok(right), "{text}");
    }
}

#[test]
fn targets() {
    let raw = |endpoint| Endpoint { mode: Some(Mode::Raw), ..endpoint };
    for (text, right) in [
        ("localhost", tcp("localhost", 7777)),
        ("tls:443", tcp("tls", 443)),
        ("10.0.0.1:7", tcp("10.0.0.1", 7)),
        ("10.0.0.1:7?mode=raw", raw(tcp("10.0.0.1", 7))),
        ("[::1]", tcp("::1", 7777)),
        ("[::1]:7", tcp("::1", 7)),
        ("::1", tcp("::1", 7777)),
        ("fe80::1%eth0", tcp("fe80::1%eth0", 7777)),
        ("raw://h:7", raw(tcp("h", 7))),
        ("tcp://h:7", tcp("h", 7)),
        ("TLS://h:7", Endpoint { tls: true, ..tcp("h", 7) }),
        ("unix:a.sock", path("a.sock")),
        ("udp://h:7", udp("h", 7)),
        ("UDP://h:7?mode=raw", raw(udp("h", 7))),
        ("unixgram:a", "unixgram:a".parse().unwrap()),
    ] {
        assert_eq!(Endpoint::target(text), Ok(right), "{text}");
    }
    for (text, wrong) in [
        ("/run/a.sock", EndpointError::TcpPath),
        ("tcp://h", EndpointError::NoPort),
        ("raw://h", EndpointError::NoPort),
        ("raw://h:7?mode=raw", EndpointError::Repeated("the mode")),
        ("http://h:7", EndpointError::UnknownScheme("http".into())),
        ("systemd:echo", EndpointError::Unserved("systemd".into())),
        ("udp://h", EndpointError::NoPort),
        ("unixgram:", EndpointError::NoPath),
        ("", EndpointError::NoHost),
        ("h:", EndpointError::NoPort),
    ] {
        assert_eq!(Endpoint::target(text), Err(wrong), "{text}");
    }
}

#[test]
fn names_of_passed_sockets() {
    use EndpointError::{BadName, PermWithoutPath};
    for (text, wrong) in [
        ("systemd:", BadName(String::new())),
        ("systemd:a%3Ab", BadName("a%3Ab".into())),
        ("systemd:a%0Ab", BadName("a%0Ab".into())),
        ("systemd:echo?perm=0600", PermWithoutPath),
        (&format!("systemd:{}", "x".repeat(256)), BadName("x".repeat(256))),
    ] {
        assert_eq!(text.parse::<Endpoint>(), Err(wrong), "{text}");
    }
}

#[test]
fn wrong_uris() {
    use EndpointError::*;
    let long = format!("unix:{}", "x".repeat(108));
    let long_name = format!("unix:@{}", "x".repeat(108));
    for (text, wrong) in [
        ("", NoScheme),
        ("127.0.0.1:7777", NoScheme),
        ("/run/echo.sock", NoScheme),
        ("tcp:h:7", NoSlashes),
        ("localhost:7777", UnknownScheme("localhost".into())),
        ("raw://h:7", UnknownScheme("raw".into())),
        ("udp:h:7", NoSlashes),
        ("udp://h", NoPort),
        ("udp://h:7?perm=0600", PermWithoutPath),
        ("udp://h:7?rate=0", BadRate("0".into())),
        ("udp://h:7?rate=+1", BadRate("+1".into())),
        ("udp://h:7?rate=4294967296", BadRate("4294967296".into())),
        ("udp://h:7?rate=1&rate=1", Repeated("the rate")),
        ("tcp://h:7?rate=1", RateWithoutDatagrams),
        ("unix:a?rate=1", RateWithoutDatagrams),
        ("unixgram:", NoPath),
        ("unixgram:@x?perm=0600", PermWithoutPath),
        ("unix:a b", Blank),
        ("unix:a\u{85}", Blank),
        ("tcp://:7777", NoHost),
        ("tcp://::1:7", BadHost("::1:7".into())),
        ("tcp://[::1:7", BadHost("[::1:7".into())),
        ("tcp://[::1]7", BadHost("[::1]7".into())),
        ("tcp://[127.0.0.1]:7", BadHost("[127.0.0.1]:7".into())),
        ("tcp://[::1%25e/h0]:7", TcpPath),
        ("tcp://*:7", BadHost("*:7".into())),
        ("tcp://h%41:7", BadHost("h%41:7".into())),
        ("tcp://h", NoPort),
        ("tcp://h:", NoPort),
        ("tcp://h:65536", BadPort("65536".into())),
        ("tcp://h:+7", BadPort("+7".into())),
        ("tcp://h:http", BadPort("http".into())),
        ("tcp://user@h:7", UserInfo),
        ("tcp://h:7/", TcpPath),
        ("tcp://h:7?perm=0600", PermWithoutPath),
        ("unix:@x?perm=0600", PermWithoutPath),
        ("unix:", NoPath),
        ("unix:@", NoPath),
        ("unix:?mode=raw", NoPath),
        ("unix://run/echo.sock", UnixHost),
        (&long, PathTooLong(108)),
        (&long_name, PathTooLong(108)),
        ("unix:a%00", ZeroInPath),
        ("unix:a%", BadPercent),
        ("unix:a%4", BadPercent),
        ("unix:a%4g", BadPercent),
        ("unix:a%+4", BadPercent),
        ("unix:a?", BadOption("".into())),
        ("unix:a?=1", BadOption("=1".into())),
        ("unix:a?x=%ff", BadOption("x=%ff".into())),
        ("unix:a?mode=cooked", BadMode("cooked".into())),
        ("unix:a?mode=raw&mode=raw", Repeated("the mode")),
        ("unix:a?perm=0600&perm=0600", Repeated("the perm")),
        ("unix:a?perm=", BadPerm("".into())),
        ("unix:a?perm=+60", BadPerm("+60".into())),
        ("unix:a?perm=0688", BadPerm("0688".into())),
        ("unix:a?perm=1777", BadPerm("1777".into())),
        ("unix:a?perm=00600", BadPerm("00600".into())),
    ] {
        let error = text.parse::<Endpoint>().unwrap_err();
        assert_eq!(error, wrong, "{text}");
        assert!(!error.to_string().contains('\n'), "{text}");
    }
}

/// sd_listen_fds_with_names(3): no colon and no control character, and not empty.
#[test]
fn wrong_descriptor_names() {
    use EndpointError::*;
    for (text, wrong) in [
        ("systemd:", BadName(String::new())),
        ("systemd:a%3Ab", BadName("a%3Ab".into())),
        ("systemd:a%0Ab", BadName("a%0Ab".into())),
        ("systemd:echo?perm=0600", PermWithoutPath),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap_err(), wrong, "{text}");
    }
}

#[test]
fn bound_uris() {
    let v4 = LocalAddr::Tcp("127.0.0.1:4321".parse().unwrap());
    let v6 = LocalAddr::Tcp("[::1]:4321".parse().unwrap());
    let udp = LocalAddr::Udp("127.0.0.1:4321".parse().unwrap());
    let file = LocalAddr::Unix(UnixName::Path("a".into()));
    for (given, bound, right) in [
        ("tcp://127.0.0.1:0", &v4, "tcp://127.0.0.1:4321"),
        ("tcp://127.0.0.1:7?mode=raw&x", &v4, "tcp://127.0.0.1:7?mode=raw&x"),
        ("tcp://localhost:0?mode=raw", &v4, "tcp://127.0.0.1:4321?mode=raw"),
        ("tcp://localhost:0", &v6, "tcp://[::1]:4321"),
        ("TCP://[fe80::1%25lo]:0", &v6, "TCP://[fe80::1%25lo]:4321"),
        ("udp://localhost:0?rate=7", &udp, "udp://127.0.0.1:4321?rate=7"),
        ("unixgram:%61?perm=600", &file, "unixgram:%61?perm=600"),
        ("unix:%61?perm=600&mode=raw", &file, "unix:%61?perm=600&mode=raw"),
    ] {
        assert_eq!(Endpoint::with_bound(given, bound), right);
    }
}

#[tokio::test]
async fn resolves() {
    let resolve = async |text: &str| text.parse::<Endpoint>().unwrap().resolve().await;
    assert_eq!(resolve("tcp://127.0.0.1:7").await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
    assert_eq!(resolve("tcp://[::1]:7").await.unwrap(), ["[::1]:7".parse().unwrap()]);
    assert_eq!(resolve("tcp://[fe80::1%258]:7").await.unwrap(), ["[fe80::1%8]:7".parse().unwrap()]);

    let localhost = resolve("tcp://localhost:7").await.unwrap();
    assert!(localhost.iter().all(|addr| addr.ip().is_loopback() && addr.port() == 7));
    assert_eq!(localhost.iter().collect::<HashSet<_>>().len(), localhost.len());

    let error = resolve("tcp://[fe80::1%25no-such-card]:7").await.unwrap_err();
    assert!(error.to_string().contains("no network interface \"no-such-card\""), "{error}");
    // A label of 64 bytes is refused without asking a name server.
    let error = resolve(&format!("tcp://{}:7", "x".repeat(64))).await.unwrap_err();
    assert!(error.to_string().contains("does not resolve"), "{error}");
    assert_eq!(resolve("unix:x").await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

/// The loopback interface has index 1 in every network namespace.
#[test]
fn scope_of_loopback() {
    assert_eq!(scope_id("lo").unwrap(), 1);
}

fn any_address() -> impl Strategy<Value = (Address, Option<u32>)> {
    let host = prop_oneof![
        "[a-zA-Z0-9._-]{1,20}",
        any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
        (any::<Ipv6Addr>(), "[a-z0-9._-]{1,8}").prop_map(|(ip, scope)| format!("{ip}%{scope}")),
    ];
    let bytes = || prop::collection::vec(any::<u8>(), 1..=107);
    let datagrams = any::<bool>();
    let internet = (host, any::<u16>(), datagrams).prop_map(|(host, port, datagrams)| {
        let address =
            if datagrams { Address::Udp { host, port } } else { Address::Tcp { host, port } };
        (address, None)
    });
    prop_oneof![
        internet,
        bytes().prop_map(|name| (Address::Unix(UnixName::Abstract(name)), None)),
        bytes().prop_map(|name| (Address::Unixgram(UnixName::Abstract(name)), None)),
        (prop_oneof![Just(""), Just("@"), Just("//"), Just("///")], "[^\0]{1,25}", perm())
            .prop_map(|(start, rest, perm)| {
                (Address::Unix(UnixName::Path(format!("{start}{rest}").into())), perm)
            }),
    ]
}

fn perm() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(0..=0o777_u32)
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    let mode = prop::option::of(prop_oneof![Just(Mode::Auto), Just(Mode::Framed), Just(Mode::Raw)]);
    let options = prop::collection::vec((".+", ".*"), 0..3);
    let rate = prop::option::of(any::<NonZeroU32>());
    let all = (any_address(), any::<bool>(), mode, rate, options);
    all.prop_map(|((address, perm), secured, mode, rate, mut options)| {
        options.retain(|(name, _)| !["mode", "perm", "rate"].contains(&name.as_str()));
        let rate = rate.filter(|_| address.is_datagram());
        let tls = secured && matches!(address, Address::Tcp { .. });
        Endpoint { address, tls, mode, perm, rate, options }
    })
}

proptest! {
    #[test]
    fn displayed_parses_back(endpoint in any_endpoint()) {
        let text = endpoint.to_string();
        let parsed: Endpoint = text.parse().unwrap();
        prop_assert_eq!(&parsed, &endpoint);
        // Paths of different bytes can be equal: `a//b` and `a/b`.
        prop_assert_eq!(parsed.to_string(), text);
    }

    #[test]
    fn no_text_panics(
        start in prop_oneof![Just(""), Just("tcp://"), Just("tcp://["), Just("unix:"), Just("tcp://h:1?")],
        text in any::<String>(),
        near in "[%2@:/?&=\\[\\]a-f0-9é]{0,20}",
    ) {
        for text in [format!("{start}{text}"), format!("{start}{near}")] {
            let _ = Endpoint::target(&text);
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
                let bound = LocalAddr::Tcp(([127, 0, 0, 1], 1).into());
                Endpoint::with_bound(&text, &bound).parse::<Endpoint>().unwrap();
            }
        }
    }
}

#[test]
fn a_target_is_told_as_it_is_given() {
    for text in ["raw://host:7", "raw://[::1]:7", "tcp://host:7?mode=framed", "unix:/x?mode=raw"] {
        assert_eq!(Endpoint::target(text).unwrap().to_target(), text);
    }
    assert_eq!(Endpoint::target("host").unwrap().to_target(), "tcp://host:7777");
}

#[test]
fn passwords_in_messages_are_hidden() {
    for (message, shown) in [
        ("bad 'tls://bob:s3:c@h:1' here", "bad 'tls://bob:…@h:1' here"),
        ("bob:s3@h", "bob:…@h"),
        ("cannot listen on tcp://bob:s@3@h:0: no", "cannot listen on tcp://bob:…@h:0: no"),
        ("unix:@name", "unix:@name"),
        ("tcp://bob@h:1", "tcp://bob@h:1"),
        ("a@b, tcp://h:1", "a@b, tcp://h:1"),
    ] {
        assert_eq!(without_passwords(message), shown);
    }
}
