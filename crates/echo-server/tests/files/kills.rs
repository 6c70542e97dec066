//! Fault 49: the server killed at each system call of an upload, and at any moment. What is visible is
//! whole and right, and what was parked goes on to the right digest.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::support::injection;
use super::support::process::long;
use super::support::{PATIENCE, Signal};
use super::*;

/// What one upload does, over a file that was there before; cut, if it is not to be `whole`. Says whether the
/// server lives to the end of it.
async fn upload(place: &Place, bytes: &[u8], whole: bool) -> bool {
    let endpoint = Endpoint::target(&place.uri()).unwrap();
    let options = Options { timeout: PATIENCE, ..Options::default() };
    let Ok(mut dialogue) = Dialogue::connect(&endpoint, &options).await else { return false };
    let name = FileName::new(b"folder/a").unwrap();
    let mut put = Vec::new();
    Put { resume: true, keep: None, size: Some(bytes.len() as u64), name }.put(&mut put);
    if dialogue.send(Kind::PUT, &[&put]).await.is_err() {
        return false;
    }
    let Ok((_, reply)) = dialogue.recv().await else { return false };
    let Ok(reply) = PutReply::parse(&reply) else { return false };
    let offset = usize::try_from(reply.offset).unwrap();
    assert_eq!(reply.prefix, sha(&bytes[..offset]), "what is parked is a prefix");
    let end = if whole { bytes.len() } else { bytes.len() / 2 };
    for block in bytes[offset.min(end)..end].chunks(256 << 10) {
        if dialogue.send(Kind::DATA, &[block]).await.is_err() || dialogue.recv().await.is_err() {
            return false;
        }
    }
    if !whole {
        return true;
    }
    let mut commit = Vec::new();
    Commit { digest: sha(bytes), size: bytes.len() as u64 }.put(&mut commit);
    dialogue.send(Kind::COMMIT, &[&commit]).await.is_ok() && dialogue.recv().await.is_ok()
}

/// The file is as it was, or as it is to be; then it goes on to its end.
async fn check_and_finish(place: &Place, old: &[u8], new: &[u8], when: &str) {
    let found = fs::read(place.path("folder/a")).unwrap();
    assert!(found == old || found == new, "{when}: torn: {} bytes", found.len());
    assert_eq!(place.visible(), [place.path("folder/a")], "{when}");
    let _server = place.serve();
    assert!(upload(place, new, true).await, "{when}");
    assert!(fs::read(place.path("folder/a")).unwrap() == new, "{when}");
    eventually("nothing is left", || place.parts() == 0).await;
    assert_eq!(place.visible(), [place.path("folder/a")], "{when}");
}

#[test]
fn killed_at_each_call_of_an_upload() {
    if !injection::can_inject("killed_at_each_call_of_an_upload") {
        return;
    }
    let (old, new) = (noise(100_000, 1), noise(2_000_000, 2));
    // Each thread counts its own calls, and jobs go to several. All but the last are of the store alone.
    let most = if long() { 12 } else { 3 };
    let calls =
        ["pwrite64", "fsync", "fdatasync", "ftruncate", "renameat", "unlinkat", "openat", "write"];
    for call in calls {
        let mut died = 0;
        for nth in 1..=most {
            died += u32::from(killed_at(call, nth, &old, &new));
        }
        assert!(died > 0, "{call}: none of {most}");
    }
}

/// Kills a server at the `nth` of such calls. Says whether it came to that.
fn killed_at(call: &str, nth: u32, old: &[u8], new: &[u8]) -> bool {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    fs::write(place.path("folder/a"), old).unwrap();
    let when = format!("{call} {nth}");
    let injection = format!("{call}:signal=KILL:when={nth}");
    let mut server = Server::spawn(place.injected(&injection, None, &["--anonymous-put"]));
    let mut lived = false;
    run(async {
        // It may die before it listens.
        let socket = place.folder.path().join("socket");
        eventually("it listens or is dead", || {
            UnixStream::connect(&socket).is_ok() || !server.is_running()
        })
        .await;
        // One that is parked, and goes on.
        lived = upload(&place, new, false).await && upload(&place, new, true).await;
        let _ = server.is_running().then(|| server.signal(Signal::KILL));
        server.wait(PATIENCE);
        let _ = fs::remove_file(&socket);
        check_and_finish(&place, old, new, &when).await;
    });
    !lived
}

#[test]
fn killed_at_any_moment() {
    let (old, new) = (noise(100_000, 3), noise(8 << 20, 4));
    let rounds = if long() { 200 } else { 20 };
    let mut random = fastrand::Rng::with_seed(5);
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    for round in 0..rounds {
        fs::write(place.path("folder/a"), &old).unwrap();
        let mut server = place.serve();
        let delay = Duration::from_micros(random.u64(0..60_000));
        run(async {
            let kill = async {
                tokio::time::sleep(delay).await;
                server.signal(Signal::KILL);
            };
            tokio::join!(upload(&place, &new, true), kill);
            server.wait(PATIENCE);
            check_and_finish(&place, &old, &new, &format!("round {round} after {delay:?}")).await;
        });
    }
}
