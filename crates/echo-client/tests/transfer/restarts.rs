//! The server restarted again and again in the middle of a transfer, by drain and by kill: the client goes
//! on by itself, what arrives is right, and little of it goes over the network twice.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::*;

/// What a restart may cost: frames under way, what both sides have in buffers, and what the server has
/// not written yet.
const LOST: u64 = 4 << 20;

/// Passes bytes on between a client and the server, counts them, and restarts the server whenever so many
/// more have passed.
struct Between {
    place: Place,
    daemon: Mutex<Option<Daemon>>,
    passed: AtomicU64,
    next: AtomicU64,
    every: u64,
    restarts: AtomicU64,
    most: u64,
}

impl Between {
    fn listen(place: Place, every: u64, most: u64) -> Arc<Self> {
        let listener = UnixListener::bind(place.path("between")).unwrap();
        let between = Arc::new(Self {
            daemon: Mutex::new(Some(place.serve())),
            place,
            passed: AtomicU64::new(0),
            next: AtomicU64::new(every),
            every,
            restarts: AtomicU64::new(0),
            most,
        });
        let all = Arc::downgrade(&between);
        thread::spawn(move || {
            for client in listener.incoming() {
                let Some(between) = all.upgrade() else { return };
                let client = client.unwrap();
                // Not while it is restarted.
                let server = {
                    let _up = between.daemon.lock().unwrap();
                    UnixStream::connect(between.place.path("socket")).unwrap()
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let between = Arc::clone(&between);
                    thread::spawn(move || between.pass(from, to));
                }
            }
        });
        between
    }

    fn pass(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let passed = self.passed.fetch_add(len as u64, SeqCst) + len as u64;
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
            if passed >= self.next.load(SeqCst) {
                self.restart(passed);
            }
        }
        // One side is gone, and so is the other.
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn restart(&self, passed: u64) {
        let mut daemon = self.daemon.lock().unwrap();
        let restarts = self.restarts.load(SeqCst);
        if passed < self.next.load(SeqCst) || restarts == self.most {
            return;
        }
        let signal = if restarts.is_multiple_of(2) { Signal::KILL } else { Signal::TERM };
        if let Some(mut old) = daemon.take() {
            old.signal(signal);
            old.wait();
        }
        *daemon = Some(self.place.serve());
        self.next.store(passed + self.every, SeqCst);
        self.restarts.store(restarts + 1, SeqCst);
    }
}

#[test]
fn transfers_outlast_restarts() {
    let (size, restarts) = if long() { (512 << 20, 20) } else { (16 << 20, 10) };
    let bytes = noise(size);
    for task in ["put", "get"] {
        let place = Place::new();
        place.write(if task == "put" { "here/large" } else { "store/large" }, &bytes);
        let between = Between::listen(place, size as u64 / (restarts + 1), restarts);
        let place = &between.place;
        let target = format!("unix:{}", place.path("between").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
        command.args([task, &target, "large", "--json"]).current_dir(place.path("here"));
        if task == "get" {
            command.args(["-o", "../there"]);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &stderr[..]), (Some(0), ""), "{task}");
        let events = objects(&String::from_utf8(output.stdout).unwrap());
        let done = events.last().unwrap();
        assert_eq!((&done["sha256"], &done["resumed_from"]), (&sum(&bytes).into(), &0.into()));
        let goal = if task == "put" { "store/large" } else { "there/large" };
        assert!(fs::read(place.path(goal)).unwrap() == bytes, "{task}");
        place.assert_no_leftovers();
        assert_eq!(between.restarts.load(SeqCst), restarts, "{task}");
        let lost = events.iter().filter(|it| it["event"] == "lost").count() as u64;
        assert!(lost >= restarts, "{task}: {lost} of {restarts}");
        // As the client counts, and as counted on the way, with headers and answers.
        let most = size as u64 + restarts * LOST;
        let moved = done["transferred"].as_u64().unwrap();
        let passed = between.passed.load(SeqCst);
        assert!((size as u64..=most).contains(&moved), "{task}: {moved} of {size}");
        assert!((size as u64..=most + most / 100).contains(&passed), "{task}: {passed} of {size}");
    }
}

/// Passes bytes on until a file is there: what the server says after that is lost, with the connection.
fn pass_until(goal: &Path, client: &UnixStream, server: &UnixStream) {
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
    let (mut from, mut to) = (server, client);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer)
        && !goal.exists()
        && to.write_all(&buffer[..len]).is_ok()
    {}
    for end in [client, server] {
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// The answer to COMMIT is lost with the connection: the file is stored, and nothing of it is sent again, for which there
/// would be no room in the quota.
#[test]
fn what_is_stored_without_an_answer_is_not_sent_again() {
    for (len, args) in [
        (0, &["file"][..]),
        (1000, &["file"]),
        (3_000_000, &["file"]),
        (20 << 20, &["-", "--as", "file"]),
    ] {
        let (place, bytes) = (Place::new(), noise(len));
        place.write("here/file", &bytes);
        let (uri, store) = (place.target(), place.path("store").display().to_string());
        let quota = (len + len / 2 + 1).to_string();
        let args_of =
            ["--listen", &uri, "--files", &store, "--anonymous-put", "--files-bytes", &quota];
        let _daemon = Daemon::start(&args_of);
        let listener = UnixListener::bind(place.path("between")).unwrap();
        let (socket, goal) = (place.path("socket"), place.path("store/file"));
        thread::spawn(move || {
            for (number, client) in listener.incoming().enumerate() {
                let (client, server) = (client.unwrap(), UnixStream::connect(&socket).unwrap());
                let until = if number == 0 { &goal } else { Path::new("/none") };
                pass_until(until, &client, &server);
            }
        });
        let target = format!("unix:{}", place.path("between").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
        command.args(["put", "--json", &target]).args(args).current_dir(place.path("here"));
        command.stdin(fs::File::open(place.path("here/file")).unwrap());
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{len}: {told}");
        let events = objects(&String::from_utf8(output.stdout).unwrap());
        let last = events.last().unwrap();
        assert_eq!((&last["sha256"], &last["bytes"]), (&sum(&bytes).into(), &len.into()));
        assert_eq!(last["transferred"], len, "sent again");
        assert!(fs::read(place.path("store/file")).unwrap() == bytes);
    }
}
