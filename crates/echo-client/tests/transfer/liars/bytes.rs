//! Bytes, sizes, digests and attributes that are not true.

use super::*;

/// What servers say of an upload is judged too.
#[test]
fn uploads_that_are_not_confirmed_are_not_told_as_stored() {
    let reply = |offset, bytes: &[u8]| {
        let mut payload = Vec::new();
        PutReply { offset, prefix: Sha256::digest(bytes).into() }.put(&mut payload);
        frame(Kind::PUT, &payload)
    };
    let large = vec![b'x'; 100_000];
    for (what, opened, committed) in [
        ("another digest", reply(0, b""), frame(Kind::COMMIT, &Sha256::digest(b"other"))),
        ("no digest", reply(0, b""), frame(Kind::COMMIT, b"yes")),
        ("another kind", reply(0, b""), frame(Kind::DONE, &Sha256::digest(&large))),
        ("more than there is", reply(100_001, &large), None),
        ("more than there can be", reply(u64::MAX, b""), None),
        ("another prefix, and again", reply(7, b"evil"), None),
        ("garbage", frame(Kind::PUT, b"?"), None),
        ("the end", reply(0, b""), None),
    ] {
        for len in [100, 100_000] {
            let folder = place();
            fs::write(folder.path().join("here/a"), &large[..len]).unwrap();
            let (opened, committed) = (opened.clone(), committed.clone());
            let target = liar(move |kind, payload| match kind {
                Kind::PUT => opened.clone(),
                Kind::DATA => frame(Kind::DATA, &(payload.len() as u64).to_be_bytes()),
                Kind::COMMIT => committed.clone(),
                _ => None,
            });
            let output = run("put", &folder, &target, &["a"]);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{what}, {len}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{what}, {len}: {stderr}");
            assert_eq!(output.stdout, b"", "{what}, {len}");
        }
    }
}

/// A server that counts other bytes than were sent has lost some of them, or lies.
#[test]
fn bytes_of_an_upload_that_are_miscounted_are_told() {
    for (len, counted) in [
        (100, 0),
        (100, 99),
        (100_000, 0),
        (100_000, 100_001),
        (100_000, u64::MAX),
        (700_000, 700_000),
    ] {
        let folder = place();
        let bytes = vec![b'x'; len];
        fs::write(folder.path().join("here/a"), &bytes).unwrap();
        let target = liar(move |kind, _| match kind {
            Kind::PUT => {
                let mut payload = Vec::new();
                PutReply { offset: 0, prefix: Sha256::digest(b"").into() }.put(&mut payload);
                frame(Kind::PUT, &payload)
            }
            Kind::DATA => frame(Kind::DATA, &u64::to_be_bytes(counted)),
            Kind::COMMIT => frame(Kind::COMMIT, &Sha256::digest(&bytes)),
            _ => None,
        });
        let output = run("put", &folder, &target, &["a"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{stderr}");
        // Of more than one frame the first.
        let sent = len.min(512 << 10);
        let at = counted.min(sent as u64);
        let told = format!(
            "echo-client: different at byte {at}: the server counts {counted} bytes of the file where \
             {sent} were sent\n"
        );
        assert_eq!(stderr, told);
    }
}

/// What is on stdout cannot be taken back: it is not begun again there.
#[test]
fn what_was_printed_is_not_printed_again() {
    let folder = place();
    let first = AtomicBool::new(true);
    let target = liar(move |kind, _| match kind {
        Kind::GET => {
            first.store(true, Relaxed);
            opened(8 << 20, 0)
        }
        Kind::READ if first.swap(false, Relaxed) => {
            frame(Kind::DATA, &[b'x'; 512 << 10]) // As much as a client reads at once.
        }
        Kind::READ => frame(Kind::ERROR, b"\0\x04\0too much to do"),
        _ => None,
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-client"));
    command.args(["get", &target, "a", "-o", "-", "--retry=1m"]);
    let output = command.current_dir(&folder).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 512 << 10), "{stderr}");
    assert!(stderr.contains("too much to do"), "{stderr}");
}

/// What a server answers to GET, to each READ, and to DONE.
type Lies = (&'static str, Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);

fn lies() -> Vec<Lies> {
    let (data, done) = (
        |bytes| frame(Kind::DATA, bytes),
        |bytes: &[u8]| frame(Kind::DONE, &Sha256::digest(bytes)),
    );
    let none = |mode, mtime_ns| Attributes { mode, mtime_s: 0, mtime_ns };
    let twice = |frame: Option<Vec<u8>>| frame.map(|frame| frame.repeat(2));
    let error = frame(Kind::ERROR, b"\0\x07\0\x1b[31mred\n\nlines");
    vec![
        ("another digest", opened(4, 0), data(b"evil"), frame(Kind::DONE, &[7; 32])),
        ("too short", opened(4, 0), data(b"evi"), done(b"evi")),
        ("too long", opened(4, 0), data(b"evil!"), done(b"evil!")),
        ("nothing, again and again", opened(1 << 30, 0), data(b""), None),
        ("an offset that nobody asked for", opened(4, 2), data(b"il"), done(b"evil")),
        ("an offset behind the end", opened(4, 5), None, None),
        ("an offset behind all", opened(4, u64::MAX), None, None),
        ("more than there can be", opened(u64::MAX, 0), data(b"evil"), done(b"evil")),
        ("no mode", opened_with(4, 0, none(0o10000, 0)), data(b"evil"), done(b"evil")),
        ("no time", opened_with(4, 0, none(0, 1_000_000_000)), data(b"evil"), done(b"evil")),
        ("answers in another order", data(b"evil"), opened(4, 0), done(b"evil")),
        ("the digest too early", opened(4, 0), done(b"evil"), data(b"evil")),
        ("more answers than questions", twice(opened(4, 0)), data(b"evil"), done(b"evil")),
        ("an answer of the server's own", frame(Kind::PROBE, b"12345678"), None, None),
        ("a frame too long", opened(1 << 30, 0), Some(b"\x91\xff\xff\xff".to_vec()), None),
        ("another kind", frame(Kind::PUT, &[0; 40]), None, None),
        ("garbage", frame(Kind::GET, b"?"), None, None),
        ("the end", None, None, None),
        ("the end in the middle", opened(1 << 30, 0), None, None),
        ("an error with escapes", error, None, None),
    ]
}

#[test]
fn bytes_that_are_not_right_do_not_appear() {
    for (what, opened, data, done) in lies() {
        let folder = place();
        // As one file, and as a small one of a folder, of which all is asked for at once.
        for names in [vec![], vec![&b"d/a"[..]]] {
            let (opened, data, done) = (opened.clone(), data.clone(), done.clone());
            let target = liar(move |kind, payload| match kind {
                Kind::LIST => list(&names, false),
                Kind::GET if !names.is_empty() && payload.ends_with(b"\0\x01d") => missing(),
                Kind::GET => opened.clone(),
                Kind::READ => data.clone(),
                Kind::DONE => done.clone(),
                _ => None,
            });
            let output = get(&folder, &target, &["d"]);
            assert_nothing_written(&folder, &output, what);
            assert!(!output.stderr.contains(&0x1b), "{what}");
        }
    }
}

/// What there is no room for is not begun with: a server that is believed would fill the disk.
#[test]
fn more_than_fits_is_not_asked_for() {
    for (size, told) in [
        (i64::MAX as u64, "cannot write it: 8.00 EiB are to come, and "),
        (1 << 62, "cannot write it: 4.00 EiB are to come, and "),
        (1 << 63, "the server tells of 9223372036854775808 bytes, and no file is that long"),
        (u64::MAX, "the server tells of 18446744073709551615 bytes, and no file is that long"),
    ] {
        let before: [&[u8]; 2] = [b"", b"ev"];
        for before in before {
            let folder = place();
            let asked = Arc::new(AtomicUsize::new(0));
            let reads = Arc::clone(&asked);
            if !before.is_empty() {
                fs::write(folder.path().join("here/.a.echo-part"), before).unwrap();
            }
            let offset = before.len() as u64;
            let target = liar(move |kind, payload| match kind {
                Kind::GET => opened(size, offset),
                Kind::READ if reads.fetch_add(1, Relaxed) < 100 => {
                    let Read { len } = Read::parse(payload).unwrap();
                    frame(Kind::DATA, &vec![0; len as usize])
                }
                _ => None,
            });
            let output = get(&folder, &target, &["a"]);
            assert_nothing_written(&folder, &output, told);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.starts_with(&format!("echo-client: a: {told}")), "{stderr}");
            assert_eq!(asked.load(Relaxed), 0);
            // Nothing of it is left, nor lost.
            let left = tree(&folder.path().join("here")).into_values().collect::<Vec<_>>();
            assert_eq!(left.concat(), before);
            assert_eq!(left.len(), usize::from(!before.is_empty()));
        }
    }
}

/// What is resumed is judged whole.
#[test]
fn what_was_there_does_not_make_a_lie_true() {
    let right = |bytes: &[u8]| frame(Kind::DONE, &Sha256::digest(bytes));
    for (what, opened, data, done) in [
        ("shorter than that", opened(2, 3), None, None),
        ("from elsewhere", opened(4, 2), frame(Kind::DATA, b"il"), right(b"evil")),
        ("with another end", opened(4, 3), frame(Kind::DATA, b"L"), right(b"evil")),
        ("with too much", opened(4, 3), frame(Kind::DATA, b"evil"), right(b"evil")),
        ("with nothing", opened(3, 3), None, right(b"evil")),
    ] {
        let folder = place();
        fs::write(folder.path().join("here/.d.echo-part"), b"evi").unwrap();
        let target = liar(move |kind, _| match kind {
            Kind::LIST => list(&[], false),
            Kind::GET => opened.clone(),
            Kind::READ => data.clone(),
            Kind::DONE => done.clone(),
            _ => None,
        });
        let output = get(&folder, &target, &["d"]);
        assert_nothing_written(&folder, &output, what);
    }
}

/// Sizes that a list tells are only guesses, permissions only those of users.
#[test]
fn what_a_list_gets_wrong_is_right_in_the_end() {
    let folder = place();
    let large = vec![b'x'; 100_000];
    let asked = AtomicU32::new(0);
    let target = liar_with_folder(move |kind, payload| match kind {
        Kind::LIST => {
            let mut out = vec![0];
            for (name, size) in [(&b"d/a"[..], u64::MAX), (b"d/b", u64::MAX), (b"d/c", 4)] {
                let name = FileName::new(name).unwrap();
                Entry { size, attributes: Attributes::default(), name }.put(&mut out);
            }
            frame(Kind::LIST, &out)
        }
        Kind::GET => opened_with(100_000, 0, Attributes { mode: 0o7751, ..Attributes::default() }),
        Kind::READ => {
            let Read { len } = Read::parse(payload).unwrap();
            asked.store(len, Relaxed);
            frame(Kind::DATA, &large[..len as usize])
        }
        // Of a file that was taken for a small one not all is read.
        Kind::DONE if asked.load(Relaxed) == 65_536 => frame(Kind::ERROR, b"\0\x02\0early"),
        Kind::DONE => frame(Kind::DONE, &Sha256::digest(&large)),
        _ => None,
    });
    let output = get(&folder, &target, &["d", "-p", "--connections=1"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["a", "b", "c"] {
        let path = folder.path().join("here/d").join(name);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o751, "{name}");
        assert!(fs::read(path).unwrap() == vec![b'x'; 100_000], "{name}");
    }
}

/// Small files are asked for in one go, by a list.
#[test]
fn small_files_that_are_not_right_do_not_appear() {
    for (size, data, digest) in
        [(4, &b"evil"[..], &b"other"[..]), (3, b"evil", b"evil"), (5, b"evil", b"evil")]
    {
        let folder = place();
        let target = liar_with_folder(move |kind, _| match kind {
            Kind::LIST => list(&[b"d/a"], false),
            Kind::GET => opened(size, 0),
            Kind::READ => frame(Kind::DATA, data),
            Kind::DONE => frame(Kind::DONE, &Sha256::digest(digest)),
            _ => None,
        });
        let output = get(&folder, &target, &["d"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(!folder.path().join("here/d/a").exists(), "{stderr}");
    }
}
