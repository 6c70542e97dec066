//! Descriptors are kept for the files that clients have open.

use super::*;

/// At the most connections that a low limit lets in, transfers still find theirs.
#[test]
fn transfers_work_among_all_connections() {
    let place = Place::new();
    fs::write(place.path("a"), noise(100_000, 1)).unwrap();
    let mut command = support::command_with_open_files(256);
    command.args(place.args()).args(["--anonymous-put", "--files-transfers=40"]);
    // Of 256 descriptors 64 are kept for other uses, and half of what is left for files.
    let server = Server::start_command(command, 1);
    server.wait_for_stderr("--max-connections is 96 instead of");
    run(async {
        let mut talks = Vec::new();
        for _ in 0..96 {
            talks.push(place.connect().await);
        }
        let block = noise(600_000, 2);
        let (uploads, others) = talks.split_at_mut(30);
        for (index, talk) in uploads.iter_mut().enumerate() {
            talk.put(&format!("x/y/z/{index}"), false).await.unwrap();
            talk.data(&block).await.unwrap();
        }
        eventually("their parts are open", || place.parts() >= 30).await;
        for talk in &mut others[..10] {
            assert_eq!(talk.get("a", 0, [0; 32]).await.unwrap().size, 100_000);
        }
        for talk in uploads {
            talk.commit(&block).await.unwrap();
        }
        for talk in &mut others[..10] {
            assert_eq!(talk.read(1 << 20).await.unwrap().len(), 100_000);
        }
    });
    assert_eq!(place.visible().len(), 31);
}
