//! The judge is judged: a server with a known defect must be found out.

use std::io::Write;
use std::thread;

use socket2::{Domain, Socket, Type};

use crate::channel::Channel;
use crate::client::{Behaviour, Connection, Plan, Stage};
use crate::script::{Item, Pool, Script, Speech};
use crate::support::traffic::{ECHO, ERROR, GOAWAY, HELLO, Peer, frame};
use crate::verdict::{Before, judge};

const ITEMS: u64 = 200;

/// The right answers to the first items, one after the other.
fn answers(script: &Script<'_>) -> Vec<Vec<u8>> {
    let answer = |index| match script.item(index) {
        Item::Hello => frame(HELLO, &[0; 12]),
        Item::ShortProbe => frame(ERROR, &[0, 3, 0]),
        Item::Echo(_) | Item::Probe(_) => {
            let mut reply = Vec::new();
            script.request(index, &mut reply);
            if let Item::Probe(_) = script.item(index) {
                reply[4 + 8..4 + 24].fill(0x11);
                reply[4 + 24] |= 1;
            }
            reply
        }
    };
    (0..ITEMS).map(answer).collect()
}

fn goaway(answered: u64) -> Vec<u8> {
    frame(GOAWAY, &[&[0, 0][..], &answered.to_be_bytes()].concat())
}

/// What is said of a server that sends this, when all the items had arrived before the drain.
fn verdict(script: Script<'_>, sent: &[Vec<u8>]) -> Result<(), String> {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair");
    let (behaviour, seed, uri) = (Behaviour::Bursts, 0, String::new());
    let plan = Plan { behaviour, speech: script.speech, uri, seed, stuck: false };
    let stage = Stage::default();
    let connection = Connection::over(Channel::Plain(Peer::from(ours)), plan, script, &stage);
    let outcome = thread::scope(|scope| {
        // The judge may hang up in the middle.
        scope.spawn(|| {
            (&theirs)
                .write_all(&sent.concat())
                .and_then(|()| theirs.shutdown(std::net::Shutdown::Write))
        });
        connection.read()
    })?;
    let arrived = (0..ITEMS).map(|index| script.request_len(index)).sum();
    judge(&connection, &Before { arrived, confirmed: 0 }, &outcome, false).map(drop)
}

/// Changes the right answers, and expects the judge to say what is wrong.
#[track_caller]
fn assert_found(script: Script<'_>, defect: impl FnOnce(&mut Vec<Vec<u8>>), said: &str) {
    let mut sent = answers(&script);
    if script.speech == Speech::Hello {
        sent.push(goaway(ITEMS));
    }
    assert_eq!(verdict(script, &sent), Ok(()));
    defect(&mut sent);
    let verdict = verdict(script, &sent).expect_err("a defect is found");
    assert!(verdict.contains(said), "{verdict}");
}

#[test]
fn a_server_with_a_defect_is_found_out() {
    let pool = Pool::new();
    let last = ITEMS as usize - 1;
    for speech in [Speech::Raw, Speech::Echo, Speech::Hello] {
        // A seed with something to lose at the end.
        let long = |seed: &u64| {
            let script = Script::new(&pool, *seed, speech);
            (last - 1..=last).all(|item| matches!(script.item(item as u64), Item::Echo(20..1000)))
        };
        let script = Script::new(&pool, (1..).find(long).expect("a seed"), speech);
        let found = |defect: fn(&mut Vec<Vec<u8>>), said| assert_found(script, defect, said);
        let framed = speech != Speech::Raw;
        let wrong = if framed { "is no answer to" } else { "differs at byte" };
        found(|sent| drop(sent.remove(198)), wrong);
        found(|sent| sent.insert(198, sent[198].clone()), wrong);
        found(|sent| sent.swap(198, 199), wrong);
        found(|sent| *sent[199].last_mut().unwrap() ^= 1, wrong);
        found(
            |sent| sent.truncate(199),
            if speech == Speech::Hello { "no GOAWAY" } else { "lost" },
        );
        if framed {
            found(
                |sent| {
                    sent.truncate(200);
                    sent[199].pop();
                },
                "inside a frame",
            );
        }
        match speech {
            Speech::Echo => found(|sent| sent.push(goaway(ITEMS)), "is no answer to"),
            Speech::Hello => {
                found(|sent| sent[200] = goaway(ITEMS + 1), "GOAWAY says 201");
                found(|sent| sent[200] = goaway(ITEMS - 1), "GOAWAY says 199");
                found(|sent| drop(sent.pop()), "no GOAWAY");
                found(
                    |sent| {
                        sent.remove(199);
                        sent[199] = goaway(ITEMS - 1);
                    },
                    "lost",
                );
                found(|sent| sent.push(frame(ECHO, &[])), "after GOAWAY");
                found(|sent| sent.push(vec![ECHO]), "after GOAWAY");
            }
            Speech::Raw => {}
        }
    }
}
