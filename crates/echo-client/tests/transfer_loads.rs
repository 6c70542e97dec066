//! Large files: what both ends take for them, what others notice of it, and restarts in the middle of one
//! under TLS.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]
#![allow(clippy::disallowed_types, reason = "black-box tests measure real time")]

mod support;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::daemon::{Daemon, program};
use support::{long, noise};

/// What either side may take in memory, whatever the file.
const BOUND_KIB: u64 = 64 << 10;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for folder in ["store", "here", "there", "tls"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn serve(&self, listen: &str, more: &[&str]) -> Daemon {
        let store = self.path("store").display().to_string();
        let args = ["--listen", listen, "--anonymous-put", "--files", &store];
        Daemon::start(&[&args, more].concat())
    }

    fn socket(&self) -> String {
        format!("unix:{}", self.path("socket").display())
    }

    fn client(&self, task: &str, target: &str, args: &[&str]) -> Child {
        self.spawn(Command::new(env!("CARGO_BIN_EXE_echo-client")), task, target, args)
    }

    /// One that gives way to the server and its other clients, as one on another host would.
    fn client_elsewhere(&self, task: &str, args: &[&str]) -> Child {
        let mut command = Command::new("nice");
        command.args(["-n", "19", env!("CARGO_BIN_EXE_echo-client")]);
        self.spawn(command, task, &self.socket(), args)
    }

    fn spawn(&self, mut command: Command, task: &str, target: &str, args: &[&str]) -> Child {
        command.arg(task).arg(target).args(args).current_dir(self.path("here"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }
}

/// It ends well.
#[track_caller]
fn ends_well(child: Child) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}

/// The most memory that a process has had so far, in KiB; nothing once it has ended.
fn peak_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Looks at a process until it has ended. The peak only grows, so that the last look is the right one.
fn peak_of(mut child: Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak_kib(child.id()).unwrap_or(peak);
        thread::sleep(Duration::from_millis(1)); // std can only poll.
    }
    ends_well(child);
    peak
}

#[test]
fn a_large_file_takes_no_more_memory_than_a_small_one() {
    let place = Place::new();
    let daemon = place.serve(&place.socket(), &[]);
    // Half of it is a hole; the beginning is not.
    let len = if long() { 4 << 30 } else { 256 << 20 };
    let mut file = File::create(place.path("here/large")).unwrap();
    (0..len >> 25).for_each(|_| file.write_all(&noise(16 << 20)).unwrap());
    file.set_len(len).unwrap();
    let put = peak_of(place.client("put", &place.socket(), &["large"]));
    let after_put = peak_kib(daemon.pid()).unwrap();
    let get = peak_of(place.client("get", &place.socket(), &["large", "-o", "../there/large"]));
    let server = peak_kib(daemon.pid()).unwrap();
    eprintln!(
        "{} MiB: put {put} KiB, get {get} KiB, server {after_put} KiB after the put, {server} KiB in all",
        len >> 20
    );
    assert!(put.max(get).max(server) <= BOUND_KIB);
    assert_eq!(fs::metadata(place.path("there/large")).unwrap().len(), len);
}

/// Round trips of a short message, until told to stop.
fn round_trips(place: &Place, stop: &AtomicBool) -> Vec<Duration> {
    let mut stream = UnixStream::connect(place.path("socket")).unwrap();
    let (message, mut reply) = ([&[0, 0, 0, 60][..], &[7; 60]].concat(), [0; 64]);
    let mut times = Vec::new();
    while !stop.load(Relaxed) {
        let began = Instant::now();
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut reply).unwrap();
        times.push(began.elapsed());
        assert_eq!(reply[..], message[..]);
        thread::sleep(Duration::from_micros(500)); // A peer that asks now and then, as people do.
    }
    times.sort();
    times
}

/// p50 and p99 of the round trips while `work` runs, in microseconds.
fn latency_beside(place: &Place, work: impl FnOnce()) -> [f64; 2] {
    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let times = scope.spawn(|| round_trips(place, &stop));
        work();
        stop.store(true, Relaxed);
        times.join().unwrap()
    });
    [50, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64() * 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What others notice of a transfer: calm, a put and a get in turns, so that all see the same machine. Each
/// echo is checked always; its times are printed, for a
/// machine that is quiet and a build that is optimised.
#[test]
fn others_are_served_beside_transfers() {
    let place = Place::new();
    let _daemon = place.serve(&place.socket(), &[]);
    let (rounds, len) = if long() { (5, 1 << 30) } else { (1, 16 << 20) };
    let mut file = File::create(place.path("here/large")).unwrap();
    (0..len >> 20).for_each(|_| file.write_all(&noise(1 << 20)).unwrap());
    drop(file);
    let (mut calm, mut put, mut get) = ([vec![], vec![]], [vec![], vec![]], [vec![], vec![]]);
    let add = |to: &mut [Vec<f64>; 2], [p50, p99]: [f64; 2]| {
        to[0].push(p50);
        to[1].push(p99);
    };
    let pause = Duration::from_millis(if long() { 3000 } else { 300 });
    for _ in 0..rounds {
        // The time in which nothing else happens is what is measured.
        add(&mut calm, latency_beside(&place, || thread::sleep(pause)));
        let storing = || ends_well(place.client_elsewhere("put", &["large"]));
        add(&mut put, latency_beside(&place, storing));
        let fetch = ["large", "-o", "../there/large"];
        let fetching = || ends_well(place.client_elsewhere("get", &fetch));
        add(&mut get, latency_beside(&place, fetching));
        fs::remove_file(place.path("there/large")).unwrap();
    }
    let [calm, put, get] = [calm, put, get].map(|it| it.map(median));
    for (name, [p50, p99]) in [("calm", calm), ("put", put), ("get", get)] {
        let (to_p50, to_p99) = (p50 / calm[0], p99 / calm[1]);
        eprintln!("{name}: p50 {p50:.0} µs ({to_p50:.2}), p99 {p99:.0} µs ({to_p99:.2})");
    }
}

/// The server is restarted by drain and by kill in the middle of transfers under TLS: the client goes on by
/// itself.
#[test]
fn transfers_outlast_restarts_under_tls() {
    let place = Place::new();
    let made = Command::new(program())
        .args(["tls", "self-signed", "--name", "127.0.0.1", "--out"])
        .arg(place.path("tls"))
        .output();
    assert!(made.unwrap().status.success());
    let file = |name: &str| place.path(name).display().to_string();
    let (cert, key) = (file("tls/cert.pem"), file("tls/key.pem"));
    let more = ["--tls-cert", &cert, "--tls-key", &key, "--drain-timeout=300ms"];
    let bytes = noise(if long() { 512 << 20 } else { 32 << 20 });
    fs::write(place.path("here/large"), &bytes).unwrap();
    let mut random = fastrand::Rng::with_seed(12);
    // A loopback address of this test's own, so that nobody else takes the port between two servers.
    let host = format!("127.{}.{}.7", 1 + std::process::id() % 254, random.u8(1..255));
    let mut daemon = place.serve(&format!("tls://{host}:0"), &more);
    let listen = daemon.target.clone();
    for (task, args) in [("put", &["large"][..]), ("get", &["large", "-o", "../there/large"])] {
        // The certificate is for another address than this one of loopback.
        let args = [args, &["--insecure", "-q"]].concat();
        let child = place.client(task, &listen, &args);
        for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
            thread::sleep(Duration::from_millis(random.u64(50..250))); // Anywhere in the transfer.
            daemon.signal(signal);
            // A transfer that is cut at the drain's deadline is forced: exit code 3.
            let _ = daemon.wait();
            daemon = place.serve(&listen, &more);
        }
        ends_well(child);
    }
    assert!(fs::read(place.path("store/large")).unwrap() == bytes);
    assert!(fs::read(place.path("there/large")).unwrap() == bytes);
}
