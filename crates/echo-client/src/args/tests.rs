use echo_core::client::Options;

use super::datagrams::REPLY_TIMEOUT;
use super::*;

#[test]
fn durations_have_units() {
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
    assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
    assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
    assert_eq!(duration("0"), Ok(Duration::ZERO));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    for wrong in ["", "30", "s", "1.5s", "-1s", "+1s", "1 s", "1S", "1d", "٣s", "25h"] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
    assert_eq!(duration("99999999999999999999h"), Err("at most 24h".to_owned()));
    assert!(timeout("0").is_err() && timeout("0ms").is_err());
}

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn the_defaults_are_those_of_the_library() {
    let help = Args::command().render_help().to_string();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let Options { connect_timeout, timeout, .. } = Options::default();
    for (what, default) in [
        ("addresses of the name", connect_timeout),
        ("is due", timeout),
        ("datagram may take", REPLY_TIMEOUT),
    ] {
        let told = format!("{what} [default: {default:?}]");
        assert!(words.contains(&told), "{told}: {words}");
    }
    let options = |uri: &str| {
        let options = Connecting::default().options(&uri.parse().unwrap(), Duration::from_secs(1));
        format!("{:?}", options.unwrap())
    };
    let stream = Options { retry: Duration::from_secs(1), ..Options::default() };
    assert_eq!(options("tcp://h:1"), format!("{stream:?}"));
    let datagrams = Options { timeout: REPLY_TIMEOUT, ..stream };
    assert_eq!(options("udp://h:1"), format!("{datagrams:?}"));
}

#[test]
fn targets_take_no_options_of_servers() {
    assert!(target("unix:/x?perm=0600").is_err());
    assert!(target("tcp://h:1?rate=1").is_err());
    assert!(target("tcp://h:1?mode=framed").is_ok());
    assert!(target("udp://h:1?rate=1").is_err());
    assert!(target("udp://h:1?mode=raw").is_ok());
}

#[test]
fn targets_are_no_listeners() {
    for (wrong, told) in [
        ("", "no host"),
        ("tcp://127.0.0.1", "no port"),
        ("tcp://127.0.0.1:", "no port"),
        ("tcp://:7777", "no host"),
        ("127.0.0.1:65536", "from 1 to 65535"),
    ] {
        let words = target(wrong).unwrap_err();
        assert!(words.contains(told), "{wrong}: {words}");
        assert!(!words.contains("port 0") && !words.contains("[::]"), "{wrong}: {words}");
    }
}

/// Whom to trust is said of tls:// targets alone, and whole.
#[test]
fn trust_is_for_tls() {
    let fits = |line: &str, uri: &str| {
        let words = ["echo-client"].into_iter().chain(line.split_whitespace());
        Args::try_parse_from(words).unwrap().connecting.fits(&uri.parse().unwrap())
    };
    for line in ["", "--ca a", "--insecure", "--cert c --key k", "--ca a --cert c --key k"] {
        assert_eq!(fits(line, "tls://h:1"), Ok(()), "{line}");
        assert_eq!(fits(line, "tcp://h:1").is_ok(), line.is_empty(), "{line}");
    }
    for (line, told) in [
        ("--cert c", "--cert takes its --key"),
        ("--key k", "--key takes its --cert"),
        ("--ca a --insecure", "--ca and --insecure exclude each other: keep one"),
    ] {
        assert_eq!(fits(line, "tls://h:1"), Err(told.to_owned()));
    }
}

#[test]
fn a_path_is_called_by_its_last_part() {
    let name = |path: &str| own_name(path.as_ref()).ok().map(|it| it.as_encoded_bytes().to_vec());
    assert_eq!(name("a/b"), Some(b"b".to_vec()));
    assert_eq!(name("/a/b/"), Some(b"b".to_vec()));
    for path in ["/", "..", "."] {
        assert_eq!(name(path), None, "{path}");
    }
}
