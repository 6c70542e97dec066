use std::cell::RefCell;

use super::*;

fn v6(host: u16) -> SocketAddr {
    SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(), 7)
}

fn v4(host: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, host].into(), 7)
}

/// What becomes of an attempt, and after how many milliseconds.
#[derive(Clone, Copy)]
enum Outcome {
    Connects(u64),
    Refuses(u64),
    Swallows,
}
use Outcome::{Connects, Refuses, Swallows};

/// Counts attempts that are under way.
struct Open<'a>(&'a RefCell<usize>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.borrow_mut() -= 1;
    }
}

/// Races attempts without a network: who won or failed first, when, and when each one began.
async fn play(script: &[(SocketAddr, Outcome)]) -> (Result<SocketAddr, SocketAddr>, u64, Vec<u64>) {
    let start = Instant::now();
    let ms = || start.elapsed().as_millis() as u64;
    let (began, open) = (RefCell::new(Vec::new()), RefCell::new(0));
    let connect = |addr: SocketAddr| {
        began.borrow_mut().push(ms());
        let outcome = script.iter().find(|(it, _)| *it == addr).unwrap().1;
        *open.borrow_mut() += 1;
        let guard = Open(&open);
        async move {
            let _guard = guard;
            match outcome {
                Connects(after) => sleep(Duration::from_millis(after)).await,
                Refuses(after) => {
                    sleep(Duration::from_millis(after)).await;
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Swallows => std::future::pending().await,
            }
            Ok(addr)
        }
    };
    let mut failed = None;
    let addrs = script.iter().map(|(addr, _)| *addr).collect();
    let deadline = start + Duration::from_secs(5);
    let raced = timeout_at(deadline, race(addrs, connect, &mut failed)).await;
    assert_eq!(*open.borrow(), 0, "the losers are closed");
    let won = match (raced, failed) {
        (Ok(Some((addr, connected))), _) => {
            assert_eq!(addr, connected);
            Ok(addr)
        }
        (_, Some((addr, _))) => Err(addr),
        (_, None) => Err(v4(0)),
    };
    (won, ms(), began.into_inner())
}

#[tokio::test(start_paused = true)]
async fn the_first_to_connect_wins() {
    // One that answers in time is the only one that is asked.
    let (won, took, began) = play(&[(v6(1), Connects(249)), (v4(1), Connects(0))]).await;
    assert_eq!((won, took, began), (Ok(v6(1)), 249, vec![0]));
    // One that swallows packets costs 250 ms, not its time-out.
    let (won, took, began) = play(&[(v6(1), Swallows), (v4(1), Connects(20))]).await;
    assert_eq!((won, took, began), (Ok(v4(1)), 270, vec![0, 250]));
    // A slow one may still win.
    let (won, took, began) = play(&[(v6(1), Connects(300)), (v4(1), Connects(100))]).await;
    assert_eq!((won, took, began), (Ok(v6(1)), 300, vec![0, 250]));
    // One that refuses makes way at once, and the next has its whole time.
    let script = [(v6(1), Refuses(10)), (v4(1), Swallows), (v6(2), Connects(1)), (v4(2), Swallows)];
    let (won, took, began) = play(&script).await;
    assert_eq!((won, took, began), (Ok(v6(2)), 261, vec![0, 10, 260]));
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_counts() {
    let script = [(v6(1), Refuses(100)), (v4(1), Refuses(5)), (v6(2), Refuses(5))];
    assert_eq!(play(&script).await, (Err(v6(1)), 110, vec![0, 100, 105]));
    let script = [(v6(1), Swallows), (v4(1), Refuses(5)), (v6(2), Swallows)];
    assert_eq!(play(&script).await, (Err(v4(1)), 5000, vec![0, 250, 255]));
    assert_eq!(play(&[(v6(1), Swallows)]).await, (Err(v4(0)), 5000, vec![0]));
    assert_eq!(play(&[]).await, (Err(v4(0)), 0, vec![]));
}

#[test]
fn families_take_turns() {
    let given = vec![v6(1), v6(2), v6(3), v4(1), v4(2)];
    assert_eq!(interleave(given), [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    assert_eq!(interleave(vec![v4(1), v4(2), v6(1)]), [v4(1), v6(1), v4(2)]);
    assert_eq!(interleave(vec![v4(1)]), [v4(1)]);
    assert!(interleave(Vec::new()).is_empty());
}

#[test]
fn the_family_is_asked_for_or_the_sources() {
    let six = Some("::1".parse().unwrap());
    for (family, source, admitted) in [
        (Family::Any, None, (true, true)),
        (Family::V4, None, (true, false)),
        (Family::V6, None, (false, true)),
        (Family::Any, Some("127.0.0.2".parse().unwrap()), (true, false)),
        (Family::Any, six, (false, true)),
    ] {
        let options = Options { family, source, ..Options::default() };
        let found = (admits(&options, &v4(1)), admits(&options, &v6(1)));
        assert_eq!(found, admitted, "{family:?} {source:?}");
    }
}

#[tokio::test]
async fn a_target_is_told_as_it_is_given() {
    let target = Endpoint::target("raw://127.0.0.1:7").unwrap();
    let options = Options { family: Family::V6, ..Options::default() };
    let deadline = Instant::now() + options.connect_timeout;
    let error = addresses(&target, &options, deadline).await.unwrap_err();
    let told = "unresolved: raw://127.0.0.1:7 has no address of the family asked for";
    assert_eq!(error.to_string(), told);
    let told = "timed out: raw://127.0.0.1:7: no connection within 5s";
    assert_eq!(late(target.to_target(), &options).to_string(), told);
}
