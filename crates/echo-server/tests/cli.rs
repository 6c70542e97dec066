//! The command line seen from outside: options, exit codes, what is said where.

mod support;

use support::Server;

#[test]
fn an_empty_drain_is_clean() {
    let mut server = Server::start(&["--listen", "tcp://127.0.0.1:0"]);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.summary()["connections"], 0);
}
