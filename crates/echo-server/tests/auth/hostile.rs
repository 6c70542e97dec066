//! Certificates that an authority should not have made: whatever they name, nobody is let in by it, and the server goes
//! on.

use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString};
use rcgen::{DistinguishedName, DnType, DnValue};

use crate::house::*;
use crate::support::traffic::*;
use crate::trust::{Shown, Trust, named};

/// The object identifier of a common name, under which rcgen takes a second one as an attribute of another kind.
const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];

#[test]
fn what_is_no_users_name_lets_nobody_in() {
    let house = House::new();
    let trust = Trust::in_house(&house);
    let server = house.open_secured(&["--log-level=debug"]);
    let uri = &server.uris()[REQUIRED + SECURED];
    let text = |text: &str| named(text);
    let mut two = named("alice");
    two.push(DnType::CustomDnType(COMMON_NAME.to_vec()), "alice");
    let mut mixed = named("stranger");
    mixed.push(DnType::CustomDnType(COMMON_NAME.to_vec()), "alice");
    let utf16: Vec<u8> = "alice".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let utf32: Vec<u8> = "alice".chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
    let other = |value: DnValue| named(value);
    for (what, subject) in [
        ("no name at all", DistinguishedName::new()),
        ("an empty one", text("")),
        ("NUL behind it", text("alice\0")),
        ("NUL and more behind it", text("alice\0.example")),
        ("NUL alone", text("\0")),
        ("another case", text("Alice")),
        ("a blank behind it", text("alice ")),
        ("a blank before it", text(" alice")),
        ("one that SASLprep would change to it", text("a\u{ad}lice")),
        ("a part of it", text("alic")),
        ("two names at once", text("alice,bob")),
        ("two common names", two),
        ("two different common names", mixed),
        ("60 KiB", text(&"alice".repeat(12 << 10))),
        ("60 KiB of NUL", text(&"\0".repeat(60 << 10))),
        ("control characters", text("alice\u{1b}[2J\n")),
        ("UTF-16", other(DnValue::BmpString(BmpString::from_utf16be(utf16).unwrap()))),
        ("UTF-32", other(DnValue::UniversalString(UniversalString::from_utf32be(utf32).unwrap()))),
        ("T.61", other(DnValue::TeletexString(TeletexString::try_from("alice").unwrap()))),
    ] {
        let shown = trust.issue(subject);
        let peer = trust.meet(uri, Some(&shown));
        peer.send(&echo(b"x"));
        let answer =
            peer.read_frame().unwrap_or_else(|| panic!("{what}: the connection has ended"));
        assert_eq!((answer.kind, answer.error().0), (ERROR, 5), "{what}");
        // He may still say who he is.
        log_in(&peer, "alice", PASSWORD).unwrap_or_else(|told| panic!("{what}: {told:?}"));
    }
    // One that is longer than a handshake's message may be ends it.
    let huge = trust.issue_to("alice".repeat(14 << 10));
    assert!(huge.certificate.len() > 64 << 10);
    assert!(trust.connect(uri, Some(&huge)).peer.read_frame().is_none());
    // In the other strings of characters that are what they say it is the same name.
    for value in [
        DnValue::Ia5String(Ia5String::try_from("alice").unwrap()),
        DnValue::PrintableString(PrintableString::try_from("alice").unwrap()),
        DnValue::Utf8String("alice".to_owned()),
    ] {
        let shown: Shown = trust.issue(named(value));
        trust.meet(uri, Some(&shown)).round_trip(&echo(b"in"));
    }
    let mut server = server;
    assert_eq!(server.stop(), Some(0));
    let log = server.stderr();
    assert!(!log.contains("panicked at") && !log.contains('\u{1b}'), "{log}");
    assert!(log.lines().all(|line| line.len() < 1000), "a certificate floods the log");
}
