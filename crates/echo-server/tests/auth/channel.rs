//! SCRAM-SHA-256-PLUS under real TLS: bound to its channel, and a better mechanism that was hidden.

use echo_scram::Binding;

use crate::house::*;
use crate::support::traffic::*;
use crate::trust::Trust;

/// Who has another channel than the server, and who was told that there is no binding, is told so, whether the
/// password is right or not; who can bind to nothing comes in without.
#[test]
fn the_login_is_bound_to_the_channel() {
    let house = House::new();
    let trust = Trust::in_house(&house);
    let server = house.open_secured(&[]);
    let (secured, plain) = (&server.uris()[REQUIRED + SECURED], &server.uris()[REQUIRED]);
    let elsewhere = trust.connect(secured, None).binding.to_vec();
    let log_in = |password: &str, binding: &dyn Fn([u8; 32]) -> Binding, over_tls: bool| {
        let (peer, own) = if over_tls {
            let it = trust.connect(secured, None);
            (it.peer, it.binding)
        } else {
            (Peer::connect(plain), [0; 32])
        };
        peer.hello();
        let binding = binding(own);
        let mechanism = binding.mechanism().name().as_bytes();
        let (client, first) = client_bound("alice", password, binding);
        let length = [mechanism.len() as u8];
        peer.send(&frame(AUTH, &[b"\0", &length[..], mechanism, &first].concat()));
        let answer = peer.read_frame().unwrap();
        if answer.kind == ERROR {
            return text(&answer);
        }
        let (proven, proof) = client.answer(&answer.payload[1..]).unwrap();
        peer.send(&response(&proof));
        let answer = peer.read_frame().unwrap();
        if answer.kind == ERROR {
            return text(&answer);
        }
        proven.verify(&answer.payload[1..]).unwrap();
        peer.round_trip(&echo(b"in"));
        "in".to_owned()
    };
    let bound = |own: [u8; 32]| Binding::TlsExporter(own.to_vec());
    let foreign = |_| Binding::TlsExporter(elsewhere.clone());
    let (without, hidden) = (|_| Binding::Unsupported, |_| Binding::NotOffered);
    assert_eq!(log_in(PASSWORD, &bound, true), "in");
    assert_eq!(log_in(PASSWORD, &without, true), "in");
    assert_eq!(log_in(PASSWORD, &hidden, false), "in");
    assert_eq!(log_in("wrong", &bound, true), "wrong name or password");
    let other_channel =
        "what the client is bound to is not this connection: somebody stands between";
    for password in [PASSWORD, "wrong"] {
        assert_eq!(log_in(password, &foreign, true), other_channel);
        let told = log_in(password, &hidden, true);
        assert!(told.starts_with("the mechanism does not go with"), "{told}");
        let told = log_in(password, &bound, false);
        assert_eq!(told, "known here, without TLS, is SCRAM-SHA-256 alone");
    }
}

/// The words of an ERROR that says denied.
fn text(answer: &Frame) -> String {
    assert_eq!(answer.error(), (5, false));
    String::from_utf8(answer.payload[3..].to_vec()).unwrap()
}
