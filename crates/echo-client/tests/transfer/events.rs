//! `--json`: an object for each event.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::channel;

use tokio::time::Instant;

use super::*;

fn named<'a>(events: &'a [Value], event: &str, name: &str) -> &'a Value {
    let found = events.iter().find(|it| it["event"] == event && it["name"] == name);
    found.unwrap_or_else(|| panic!("no {event} of {name} in {events:?}"))
}

/// Asserts which fields there are: those are documented, no others.
#[track_caller]
fn assert_fields(object: &Value, fields: &[&str]) {
    let mut expected = fields.to_vec();
    expected.sort_unstable();
    let mut found: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}

const ARRIVED: [&str; 7] =
    ["event", "name", "bytes", "sha256", "resumed_from", "transferred", "seconds"];

#[test]
fn each_file_is_an_event() {
    let place = Place::new();
    let _daemon = place.serve();
    let (small, large) = (noise(100), noise(300_000));
    place.write("here/d/small", &small);
    place.write("here/d/large", &large);
    symlink("small", place.path("here/d/link")).unwrap();
    let odd = place.path("here/d").join(OsStr::from_bytes(b"\xff"));
    fs::write(odd, b"odd").unwrap();
    let put = place.events("put", &["d"]);
    assert_eq!(put.len(), 4, "{put:?}");
    let skipped = named(&put, "skipped", "d/link");
    assert_fields(skipped, &["event", "name", "error"]);
    // Whoever wants silence is told all the same what is not stored.
    assert_eq!(place.events("put", &["-q", "d"]).len(), 4);
    // What is there in part is resumed, on either side.
    fs::write(place.path("there/.large.echo-part"), &large[..100_000]).unwrap();
    let got = place.events("get", &["d/large", "d/small", "-o", "../there"]);
    assert_eq!(got.len(), 2);
    for (events, event, resumed) in [(&put, "stored", 0), (&got, "got", 100_000)] {
        for (name, bytes, resumed) in [("d/small", &small, 0), ("d/large", &large, resumed)] {
            let told = named(events, event, name);
            assert_fields(told, &ARRIVED);
            assert_eq!(told["sha256"], sum(bytes));
            assert_eq!(told["bytes"], bytes.len());
            assert_eq!((&told["resumed_from"], told["seconds"].is_f64()), (&resumed.into(), true));
            assert_eq!(told["transferred"], bytes.len() as u64 - resumed);
        }
    }
    assert!(fs::read(place.path("there/large")).unwrap() == large);
    // A name that JSON cannot hold.
    let odd = put.iter().find(|it| it["name_hex"] == "64 2f ff").unwrap();
    assert_eq!((&odd["event"], &odd["bytes"]), (&"stored".into(), &3.into()));
    let listed = place.events("ls", &[]);
    assert_eq!(listed.len(), 3);
    let fields = ["event", "name", "bytes", "mode", "mtime", "mtime_ns"];
    assert_fields(named(&listed, "file", "d/small"), &fields);
    let removed = place.events("rm", &["d/small"]);
    assert_eq!(removed, [serde_json::json!({ "event": "removed", "name": "d/small" })]);
}

/// Exit codes and the last line on stderr are those without `--json`.
#[test]
fn failures_are_events() {
    let place = Place::new();
    let daemon = place.serve();
    place.write("here/a", b"1");
    let fails = |task: &str, args: &[&str], told: &str| {
        let output = place.run(task, &[&["--json"], args].concat());
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(stderr, format!("echo-client: {told}\n"));
        let events = objects(&String::from_utf8(output.stdout).unwrap());
        let last = serde_json::json!({ "event": "error", "error": told });
        assert_eq!(events.last(), Some(&last));
        events
    };
    let events = fails("put", &["a", "missing"], "1 of 2 files not transferred");
    assert_eq!(events.len(), 3);
    let failed = named(&events, "failed", "missing");
    assert_eq!(failed["error"], "cannot read it: No such file or directory");
    for (task, told) in
        [("get", "1 of 1 files not transferred"), ("rm", "1 of 1 files not removed")]
    {
        let events = fails(task, &["missing"], told);
        let failed = named(&events, "failed", "missing");
        let why = "refused: the server says: there is no file of that name (error 7)";
        assert_eq!((&failed["error"], events.len()), (&why.into(), 2));
    }
    drop(daemon);
    let told = format!("refused: {}: Connection refused (is it running?)", place.target());
    for (task, arg) in [("put", "a"), ("get", "a"), ("ls", "a"), ("rm", "a")] {
        assert_eq!(fails(task, &[arg, "--retry=0"], &told).len(), 1, "{task}");
    }
}

/// Told once a second, while it runs, and true.
#[test]
fn what_takes_long_is_told_on_its_way() {
    let place = Place::new();
    let _daemon = place.serve();
    let mut command = place.command("put", &["-", "--as", "slow", "--json"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let began = Instant::now();
    let (said, told) = channel();
    let reader = thread::spawn(move || {
        for line in stdout.lines() {
            said.send((serde_json::from_str::<Value>(&line.unwrap()).unwrap(), began.elapsed()))
                .unwrap();
        }
    });
    let (mut fed, mut events) = (0, Vec::new());
    while events.len() < 2 {
        assert!(began.elapsed() < support::LIMIT, "there is no progress: {events:?}");
        stdin.write_all(&[b'x'; 10_000]).unwrap();
        fed += 10_000;
        events.extend(told.try_iter());
        thread::sleep(Duration::from_millis(5)); // The pace of who feeds it.
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    reader.join().unwrap();
    events.extend(told.iter());
    let (stored, _) = events.pop().unwrap();
    assert_eq!((&stored["event"], &stored["bytes"]), (&"stored".into(), &fed.into()));
    for (event, at) in &events {
        let fields = ["bytes", "size", "resumed_from", "transferred", "rate", "seconds_left"];
        assert_fields(event, &[&fields[..], &["event", "name", "seconds"]].concat());
        assert_eq!((&event["event"], &event["name"]), (&"progress".into(), &"slow".into()));
        assert!(event["size"].is_null() && event["seconds_left"].is_null());
        let number = |name: &str| event[name].as_f64().unwrap();
        assert!(number("bytes") > 0. && number("bytes") <= f64::from(fed));
        assert_eq!((number("resumed_from"), number("transferred")), (0., number("bytes")));
        assert!((1. ..=at.as_secs_f64()).contains(&number("seconds")), "{event} at {at:?}");
        let rate = number("transferred") / number("seconds");
        assert!((number("rate") - rate).abs() <= 1., "{event}");
    }
    assert!(events.len() as u64 <= began.elapsed().as_secs(), "at a bounded pace");
}
