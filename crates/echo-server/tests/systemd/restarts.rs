//! Stops and restarts that nobody notices.

use std::thread;

use crate::inside::{Clients, TCP, UNIX, drop_in, journal, must, property, settings};
use crate::support::traffic::{ECHO, GOAWAY, Peer, echo, header};
use crate::under_systemd;

/// Each client counts what it got, and the server says how much it answered.
#[test]
fn a_stop_under_load_loses_no_frame() {
    under_systemd(|| {
        must("systemctl start echo-server.service");
        thread::scope(|scope| {
            let (ready, started) = std::sync::mpsc::channel();
            for _ in 0..16 {
                let ready = ready.clone();
                scope.spawn(move || {
                    let peer = Peer::connect(TCP);
                    peer.hello();
                    let (mut answered, burst) = (1, echo(&[7; 1000]).repeat(8));
                    loop {
                        // After the drain has begun the server may no longer read.
                        let _ = peer.try_send(&burst);
                        for _ in 0..8 {
                            let frame = peer.read_frame().expect("GOAWAY comes before the end");
                            if frame.kind == GOAWAY {
                                return assert_eq!(frame.goaway().1, answered);
                            }
                            assert!(frame.kind == ECHO && frame.payload == [7; 1000]);
                            answered += 1;
                        }
                        let _ = ready.send(());
                    }
                });
            }
            (0..100).for_each(|_| started.recv().unwrap());
            must("systemctl stop echo-server.service");
        });
        assert_eq!(
            (property("Result"), property("ExecMainStatus")),
            ("success".into(), "0".into())
        );
        assert!(journal().contains("forced=0 failed=0 panicked=0"), "{}", journal());
    });
}

#[test]
fn twenty_restarts_refuse_nobody_and_lose_no_datagram() {
    under_systemd(|| {
        // One client asks faster than one source may by default.
        settings("udp-rate = 1000000\n");
        must("systemctl start echo-server.socket");
        let clients = Clients::beside(&[TCP, UNIX], true, |clients| {
            for _ in 0..20 {
                must("systemctl restart echo-server.service");
                let (echoes, datagrams) =
                    (Clients::count(&clients.echoes) + 20, Clients::count(&clients.datagrams) + 5);
                crate::support::process::eventually("all clients go on", || {
                    Clients::count(&clients.echoes) > echoes
                        && Clients::count(&clients.datagrams) > datagrams
                });
            }
        });
        let refused = (Clients::count(&clients.refused), Clients::count(&clients.reset));
        assert_eq!(refused, (0, 0), "{}", journal());
    });
}

/// A drain that moves gets more time than the unit gives.
#[test]
fn a_drain_that_makes_progress_is_not_killed() {
    under_systemd(|| {
        drop_in("service", "[Service]\nTimeoutStopSec=2\n");
        settings("drain-timeout = \"60s\"\n");
        must("systemctl start echo-server.service");
        let peer = Peer::connect(TCP);
        peer.hello();
        peer.send(&header(ECHO, 8));
        thread::scope(|scope| {
            scope.spawn(|| {
                // The rest of the frame, a byte each second: eight seconds in a stop of two.
                for byte in 0..8 {
                    thread::sleep(std::time::Duration::from_secs(1));
                    peer.send(&[byte]);
                }
                assert_eq!(peer.read_frame().unwrap().payload, [0, 1, 2, 3, 4, 5, 6, 7]);
                assert_eq!(peer.read_frame().unwrap().goaway().1, 2);
            });
            must("systemctl stop echo-server.service");
        });
        assert_eq!(
            (property("Result"), property("ExecMainStatus")),
            ("success".into(), "0".into())
        );
    });
}
