//! The client killed at its system calls, and at any moment: what is visible is whole and right, and
//! another call goes on where it was, and moves nothing twice.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use super::*;

/// Calls of a client that touch files, sockets or stdout.
const CALLS: [&str; 12] = [
    "openat",
    "read",
    "pread64",
    "write",
    "pwrite64",
    "sendto",
    "recvfrom",
    "fsync",
    "ftruncate",
    "flock",
    "renameat",
    "connect",
];

/// A transfer of one large file, over one that has its name.
struct Transfer {
    task: &'static str,
    args: &'static [&'static str],
    goal: &'static str,
}

const TRANSFERS: [Transfer; 2] = [
    Transfer { task: "put", args: &["large", "--json"], goal: "store/large" },
    Transfer {
        task: "get",
        args: &["large", "-o", "../there/large", "--json"],
        goal: "there/large",
    },
];

impl Transfer {
    /// A place where it can begin, with the file that it is to replace.
    fn prepare(&self, place: &Place, old: &[u8], new: &[u8]) {
        place.write(if self.task == "put" { "here/large" } else { "store/large" }, new);
        place.write(self.goal, old);
    }

    /// The same under strace, which is the client's child: a killed client is dead, and waited for.
    fn traced(&self, place: &Place, options: &[&str], log: &Path) -> Command {
        let plain = place.command(self.task, self.args);
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o"]).arg(log).args(options);
        command.arg(plain.get_program()).args(plain.get_args());
        command.current_dir(place.path("here"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What there is after a client was killed; then it is called again and goes on. Whether there was
    /// anything to go on with.
    #[track_caller]
    fn check(&self, place: &Place, mut daemon: Daemon, old: &[u8], new: &[u8], when: &str) -> bool {
        let found = fs::read(place.path(self.goal)).unwrap();
        assert!(found == old || found == new, "{when}: torn: {} bytes", found.len());
        // The server parks what it got of a client that is gone.
        daemon.signal(Signal::TERM);
        daemon.wait();
        let part = match self.task {
            "put" => place.parked(),
            _ => fs::metadata(place.path("there/.large.echo-part")).map_or(0, |it| it.len()),
        };
        let _daemon = place.serve();
        let events = place.events(self.task, &self.args[..self.args.len() - 1]);
        let last = events.last().unwrap();
        assert_eq!((&last["sha256"], &last["bytes"]), (&sum(new).into(), &new.len().into()));
        assert_eq!(last["resumed_from"], part, "{when}");
        assert_eq!(last["transferred"], new.len() as u64 - part, "{when}: moved twice");
        assert!(fs::read(place.path(self.goal)).unwrap() == new, "{when}");
        place.assert_no_leftovers();
        part > 0
    }
}

/// How often the busiest thread makes each call: strace counts for each thread.
fn most_calls(log: &Path) -> BTreeMap<&'static str, usize> {
    let log = fs::read_to_string(log).unwrap();
    let mut counts = BTreeMap::new();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(rest)) = (words.next(), words.next()) else { continue };
        let call = CALLS
            .iter()
            .find(|call| rest.strip_prefix(**call).is_some_and(|rest| rest.starts_with('(')));
        if let Some(call) = call {
            *counts.entry((*call, thread)).or_insert(0) += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in counts {
        let entry = most.entry(call).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

#[test]
fn killed_at_each_call() {
    if !support::can_trace("killed_at_each_call") {
        return;
    }
    let (old, new) = (noise(100_000), noise(3_000_000));
    let trace = format!("trace={}", CALLS.join(","));
    let (mut resumed, mut tried, mut killed) = (BTreeSet::new(), 0, 0);
    for transfer in &TRANSFERS {
        let place = Place::new();
        transfer.prepare(&place, &old, &new);
        let log = place.path("trace");
        let daemon = place.serve();
        let output = transfer.traced(&place, &["-e", &trace], &log).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        drop(daemon);
        for (call, count) in most_calls(&log) {
            let mut moments: BTreeSet<_> = (1..=count).collect();
            if !long() {
                moments.retain(|nth| [count, count.div_ceil(2)].contains(nth));
            }
            for nth in moments {
                let when = format!("{} at {call} {nth} of {count}", transfer.task);
                transfer.prepare(&place, &old, &new);
                let daemon = place.serve();
                let inject = format!("inject={call}:signal=KILL:when={nth}");
                // It may come through, if its threads share the calls in another way.
                let output = transfer.traced(&place, &["-e", &inject], &log).output().unwrap();
                tried += 1;
                killed += i32::from(output.status.signal() == Some(9));
                if transfer.check(&place, daemon, &old, &new, &when) {
                    resumed.insert(transfer.task);
                }
            }
        }
    }
    assert!(killed * 4 >= tried * 3, "{killed} of {tried} were killed");
    assert_eq!(resumed.len(), 2, "some were killed in the middle: {resumed:?}");
}

#[test]
fn killed_at_any_moment() {
    let place = Place::new();
    let (old, new) = (noise(1000), noise(16 << 20));
    let mut random = fastrand::Rng::with_seed(10);
    for round in 0..if long() { 200 } else { 10 } {
        for transfer in &TRANSFERS {
            transfer.prepare(&place, &old, &new);
            let daemon = place.serve();
            let mut child = place.command(transfer.task, transfer.args).spawn().unwrap();
            let delay = Duration::from_micros(random.u64(0..80_000));
            thread::sleep(delay); // Anywhere.
            child.kill().unwrap();
            child.wait().unwrap();
            let when = format!("{} {round} after {delay:?}", transfer.task);
            transfer.check(&place, daemon, &old, &new, &when);
        }
    }
}
