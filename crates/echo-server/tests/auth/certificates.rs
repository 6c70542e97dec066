//! Certificates of clients that stand for users.

use rcgen::{DistinguishedName, DnType};

use crate::house::*;
use crate::support::http::Admin;
use crate::support::traffic::*;
use crate::support::{Server, Signal};
use crate::trust::{Trust, named};

const PUT: u8 = 0x90;
const GET: u8 = 0x93;
const LIST: u8 = 0x96;

struct Setting {
    house: House,
    trust: Trust,
}

impl Setting {
    fn new() -> Self {
        let house = House::new();
        let trust = Trust::in_house(&house);
        Self { house, trust }
    }

    fn open(&self, more: &[&str]) -> Server {
        self.house.open_secured(more)
    }

    /// Says HELLO at a listener under TLS, with a certificate of that name.
    fn meet(&self, server: &Server, place: usize, name: &str) -> Peer {
        self.trust.meet(&server.uris()[place + SECURED], Some(&self.trust.issue_to(name)))
    }
}

/// The code of the ERROR that answers a frame, or 0.
fn refusal(peer: &Peer, frame: &[u8]) -> u16 {
    peer.send(frame);
    let answer = peer.read_frame().expect("an answer");
    if answer.kind == ERROR { answer.error().0 } else { 0 }
}

/// Who the certificate names is in at once; who it does not may still log in, as may who shows none.
#[test]
fn a_certificate_lets_its_user_in() {
    let it = Setting::new();
    let server = it.open(&["--access-log", "--log=json", "--admin=127.0.0.1:0"]);
    it.meet(&server, REQUIRED, "alice").round_trip(&echo(b"in at once"));
    // Raw bytes as well: who is in may do all that a user may.
    let alice = it.trust.issue_to("alice");
    let uri = &server.uris()[REQUIRED + SECURED];
    it.trust.connect(uri, Some(&alice)).peer.round_trip(b"text\n");
    let peer = it.trust.connect(uri, None).peer;
    peer.send(b"text\n");
    assert_eq!(peer.read_to_end(), (Vec::new(), End::Fin));
    for shown in [None, Some(it.trust.issue_to("stranger"))] {
        let peer = it.trust.meet(uri, shown.as_ref());
        assert_eq!(refusal(&peer, &echo(b"x")), 5);
        log_in(&peer, "alice", PASSWORD).unwrap();
        peer.round_trip(&echo(b"in by password"));
    }
    let metrics = Admin::of(&server).metrics();
    let counted = |result: &str| {
        metrics.get(&format!("echo_auth_{result}_total{{mechanism=\"certificate\"}}"))
    };
    assert_eq!((counted("success"), counted("failure")), (2, 1));
    let mut server = server;
    assert_eq!(server.stop(), Some(0));
    let users = server.stderr().matches("\"user\":\"alice\"").count();
    assert_eq!(users, 4, "{}", server.stderr());
}

/// Who must say who he is has no longer for it where he may begin with a handshake, silent or not.
#[test]
fn the_time_to_authenticate_is_kept_beside_tls() {
    let it = Setting::new();
    let server = it.open(&["--frame-timeout=500ms", "--admin=127.0.0.1:0"]);
    let admin = Admin::of(&server);
    let uri = &server.uris()[REQUIRED];
    let (silent, polite) = (Peer::connect(uri), Peer::connect(uri));
    // When its first byte comes, a timer runs already, for a peer that may be idle.
    std::thread::sleep(std::time::Duration::from_millis(50)); // The pace of a peer.
    polite.hello();
    for peer in [silent, polite] {
        peer.read_to_end();
    }
    let metrics = admin.metrics();
    assert_eq!(metrics.get("echo_limit_reached_total{limit=\"auth_timeout\"}"), 2);
}

/// Each may do what `--allow` says, and no more, wherever he comes: as after a login.
#[test]
fn its_user_may_do_what_he_may() {
    let it = Setting::new();
    let files = it.house.path("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("there"), b"content").unwrap();
    let server = it.open(&["--files", files.to_str().unwrap()]);
    let name = |name: &str| [&(name.len() as u16).to_be_bytes(), name.as_bytes()].concat();
    let get = frame(GET, &[&[0; 40][..], &name("there")].concat());
    let list = frame(LIST, &[0; 4]);
    let put = frame(PUT, &[&[0; 25][..], &name("new")].concat());
    for place in [REQUIRED, OPEN] {
        for by_password in [false, true] {
            for (user, codes) in [("alice", [0, 6, 6, 0]), ("bob", [6, 0, 0, 6])] {
                for (frame, code) in
                    [echo(b"x"), get.clone(), list.clone(), put.clone()].iter().zip(codes)
                {
                    let peer = if by_password {
                        let peer = it.meet(&server, place, "stranger");
                        log_in(&peer, user, PASSWORD).unwrap();
                        peer
                    } else {
                        it.meet(&server, place, user)
                    };
                    let told = (place, by_password, user, frame[0]);
                    assert_eq!((refusal(&peer, frame), told), (code, told));
                }
            }
        }
    }
    // Who may not echo does not so by raw bytes either.
    for place in [REQUIRED, OPEN] {
        let bob = it.trust.issue_to("bob");
        let peer = it.trust.connect(&server.uris()[place + SECURED], Some(&bob)).peer;
        peer.send(b"text\n");
        assert_eq!(peer.read_to_end(), (Vec::new(), End::Fin));
    }
}

/// By AUTH whoever comes by a certificate may be somebody else, once; a try that fails takes nothing away.
#[test]
fn a_login_wins_over_a_certificate() {
    let it = Setting::new();
    let server = it.open(&[]);
    let peer = it.meet(&server, REQUIRED, "alice");
    assert_eq!(log_in(&peer, "bob", "wrong"), Err((5, false)));
    peer.round_trip(&echo(b"still alice"));
    let (proof, _) = challenged(&peer, "bob", PASSWORD);
    peer.round_trip(&echo(b"alice until it is proved"));
    peer.send(&response(&proof));
    assert_eq!(peer.read_frame().unwrap().payload[0], 1);
    assert_eq!(refusal(&peer, &echo(b"x")), 6);
    assert_eq!(refusal(&peer, &start(b"n,,n=alice,r=abc")), 2);
    // The third failure ends the connection of a certificate's user too.
    let peer = it.meet(&server, REQUIRED, "alice");
    for closes in [false, false, true] {
        assert_eq!(log_in(&peer, "bob", "wrong"), Err((5, closes)));
    }
    assert!(peer.read_frame().is_none());
}

/// Where users alone are served a certificate is one of two ways in; elsewhere every client must show one. One that
/// nobody vouches for is refused everywhere.
#[test]
fn certificates_are_optional_for_users_alone() {
    let it = Setting::new();
    let server = it.open(&[]);
    let (required, open) = (&server.uris()[REQUIRED + SECURED], &server.uris()[OPEN + SECURED]);
    it.trust.meet(required, None);
    // The client's handshake ends before it is refused.
    assert!(it.trust.connect(open, None).peer.read_frame().is_none());
    it.meet(&server, OPEN, "stranger").round_trip(&echo(b"anybody with a certificate"));
    let other = House::new();
    let foreign = Trust::in_house(&other).issue_to("alice");
    for uri in [required, open] {
        assert!(it.trust.connect(uri, Some(&foreign)).peer.read_frame().is_none());
    }
    // Without users, certificates are as before.
    let plain = Setting::new();
    let path = |name: &str| plain.house.path(name).display().to_string();
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &ca];
    let server = Server::start(&[&["--listen=tls://127.0.0.1:0"][..], &tls].concat());
    let alice = plain.trust.issue_to("alice");
    plain.trust.meet(&server.uris()[0], Some(&alice)).round_trip(&echo(b"x"));
}

/// A reload is for those who come: who is in stays who he was.
#[test]
fn a_reload_is_for_those_who_come() {
    let it = Setting::new();
    let server = it.open(&[]);
    let before = it.meet(&server, REQUIRED, "alice");
    before.round_trip(&echo(b"in"));
    it.house.user(&["remove", "alice"], false);
    it.house.user(&["add", "carol", "--no-password"], false);
    assert_eq!(refusal(&it.meet(&server, REQUIRED, "carol"), &echo(b"x")), 5);
    server.signal(Signal::HUP);
    server.wait_for_stderr("reloaded: ");
    it.meet(&server, REQUIRED, "carol").round_trip(&echo(b"in"));
    assert_eq!(refusal(&it.meet(&server, REQUIRED, "alice"), &echo(b"x")), 5);
    before.round_trip(&echo(b"still in"));
}

/// Who has no password is refused by SCRAM as who does not exist, and may be given one.
#[test]
fn users_without_a_password_come_by_certificate_alone() {
    let it = Setting::new();
    let told = it.house.user(&["add", "carol", "--no-password", "--allow", "echo"], false);
    assert_eq!(told, "added carol\n");
    let listed = it.house.user(&["list"], false);
    assert!(listed.contains("carol\techo\tno password\n"), "{listed}");
    let listed = it.house.user(&["list", "--json"], false);
    assert!(listed.lines().last().unwrap().contains("\"password\":false"), "{listed}");
    let both = it.house.try_user(&["add", "dave", "--no-password"], true);
    assert_eq!((both.0, both.2.lines().count()), (Some(64), 1), "{both:?}");
    let server = it.open(&[]);
    it.meet(&server, REQUIRED, "carol").round_trip(&echo(b"in"));
    let challenge = |user: &str| {
        let peer = meet(&server.uris()[REQUIRED]);
        let (client, first) = client(user, PASSWORD);
        peer.send(&start(&first));
        let challenge = peer.read_frame().unwrap().payload;
        let (_, proof) = client.answer(&challenge[1..]).unwrap();
        peer.send(&response(&proof));
        (String::from_utf8(challenge).unwrap().split(',').nth(1).unwrap().len(), peer.read_frame())
    };
    assert_eq!(challenge("carol"), challenge("nobody"));
    assert_eq!(it.house.user(&["passwd", "carol"], true), "changed the password of carol\n");
    assert_eq!(
        it.house.user(&["passwd", "bob", "--no-password"], false),
        "removed the password of bob\n"
    );
    server.signal(Signal::HUP);
    server.wait_for_stderr("reloaded: ");
    log_in(&meet(&server.uris()[REQUIRED]), "carol", PASSWORD).unwrap();
    assert_eq!(log_in(&meet(&server.uris()[REQUIRED]), "bob", PASSWORD), Err((5, false)));
}

/// Names elsewhere in a certificate stand for nobody: those of hosts and mailboxes, of which there may be many.
#[test]
fn only_the_common_name_counts() {
    let it = Setting::new();
    let server = it.open(&[]);
    let uri = &server.uris()[REQUIRED + SECURED];
    let mut unit = named("stranger");
    unit.push(DnType::OrganizationalUnitName, "alice");
    let mut organisation = DistinguishedName::new();
    organisation.push(DnType::OrganizationName, "alice");
    for subject in [unit, organisation] {
        let peer = it.trust.meet(uri, Some(&it.trust.issue(subject)));
        assert_eq!(refusal(&peer, &echo(b"x")), 5);
    }
    let peer = it.trust.meet(uri, Some(&it.trust.issue_with(named("stranger"), &["alice"])));
    assert_eq!(refusal(&peer, &echo(b"x")), 5);
    let mut more = named("alice");
    more.push(DnType::OrganizationName, "bob");
    it.trust.meet(uri, Some(&it.trust.issue_with(more, &["bob"]))).round_trip(&echo(b"in"));
}
