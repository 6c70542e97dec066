//! Fault 56: generated names through every frame that has one. What they may do is judged by what lies in
//! the store, not by the code under test; what lies outside is neither changed nor read.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;

use echo_core::ListReply;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::canaries::Canaries;
use super::support::process::long;
use super::*;

/// Names that mean something to a file system, to a shell, to this server, or to what a test has laid out.
const COMPONENTS: [&[u8]; 58] = [
    b"a",
    b"b",
    b"A",
    b"new",
    b"plain",
    b"PLAIN",
    b"real",
    b"file",
    b"up",
    b"out",
    b"secret-link",
    b"dangling",
    b"loop",
    b"self",
    b"proc",
    b"parts",
    b"inside",
    b"pipe",
    b"device",
    b"socket",
    b"..",
    b".",
    b"",
    b"...",
    b". ",
    b".. ",
    b" ..",
    b"..\0",
    b"a\0b",
    b"\0",
    b"a\nb",
    b"\x1b[2J",
    b"\x7f",
    b"\r",
    b"\xc0\xae\xc0\xae",
    b"\xc0\xaf",
    b"\xe0\x80\xae",
    b"\xff\xfe",
    b"\xef\xbc\x8e\xef\xbc\x8e",
    b"\xe2\x80\xae",
    b"%2e%2e",
    b"%2f",
    b"..\\..",
    b"~",
    b"~root",
    b"-rf",
    b"$HOME",
    b"`id`",
    b"CON",
    b".echo-server",
    b".ECHO-SERVER",
    b"lock",
    b"1-0.part",
    b"1-0.state",
    b"1-0.new",
    b".plain.echo-part",
    b"outside",
    b"secret",
];

const JOINTS: [&[u8]; 5] = [b"/", b"//", b"/./", b"/../", b"\\"];

/// Writes names, each time the same ones.
struct Writer {
    random: fastrand::Rng,
    /// A file outside, by its path.
    secret: Vec<u8>,
}

impl Writer {
    fn pick(&mut self, from: &[&[u8]]) -> Vec<u8> {
        from[self.random.usize(..from.len())].to_vec()
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.u8(0..20) {
            0 => (0..self.random.usize(0..40)).map(|_| self.random.u8(..)).collect(),
            1 => self.long(),
            2 => self.outside(),
            3 => self.mutated(),
            _ => self.joined(),
        }
    }

    fn joined(&mut self) -> Vec<u8> {
        let mut name = match self.random.u8(0..12) {
            0 => b"/".to_vec(),
            1 => b"../".repeat(self.random.usize(1..9)),
            2 => b"./".to_vec(),
            _ => Vec::new(),
        };
        for number in 0..self.random.usize(1..6) {
            if number > 0 {
                let plain = self.random.u8(0..10) > 0;
                name.extend(if plain { b"/".to_vec() } else { self.pick(&JOINTS) });
            }
            // Most are harmless, so that some names get far.
            let from = if self.random.bool() { &COMPONENTS[..20] } else { &COMPONENTS[..] };
            name.extend(self.pick(from));
        }
        if self.random.u8(0..20) == 0 {
            name.extend(self.pick(&[b"/", b"/.", b"/..", b"\0", b"\0.txt", b" "]));
        }
        name
    }

    /// At and beyond the bounds of components, names, frames and of PATH_MAX (4,096).
    fn long(&mut self) -> Vec<u8> {
        let lens = [63, 65, 254, 255, 256, 1023, 1024, 1025, 4000, 4095, 4096, 4097, 65_535];
        let len = lens[self.random.usize(..lens.len())];
        let unit = self.pick(&[b"a", b"a/", b"aaaaaaa/", "\u{1f600}".as_bytes(), b"../", b"real/"]);
        let mut name = unit.repeat(len / unit.len() + 1);
        name.truncate(len);
        name
    }

    /// The file outside, by ways that programs have fallen for.
    fn outside(&mut self) -> Vec<u8> {
        let secret = self.secret.clone();
        let way = self.pick(&[
            b"",
            b"/",
            b"../../../../../../../..",
            b"out/../..",
            b"proc/self/root",
            b"self/root",
            b"up/../",
        ]);
        [way, secret].concat()
    }

    /// A name with one byte changed, one left out, or one more.
    fn mutated(&mut self) -> Vec<u8> {
        let mut name = self.joined();
        let at = self.random.usize(..=name.len());
        match self.random.u8(0..3) {
            0 if at < name.len() => name[at] = self.random.u8(..),
            1 if at < name.len() => drop(name.remove(at)),
            _ => name.insert(at, self.random.u8(..)),
        }
        name
    }
}

/// What a name is good for, by the rules of PROTOCOL.md and by what lies there.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    TooLong,
    NoName,
    Private,
    /// On the way there is something else than a folder, or it is a link.
    Blocked,
    /// It is the name of something that is no file.
    Occupied,
    Nothing,
    File,
}

fn judge(store: &Path, name: &[u8]) -> Judged {
    let components: Vec<_> = name.split(|byte| *byte == b'/').collect();
    let odd = |it: &&[u8]| matches!(**it, [] | [b'.'] | [b'.', b'.']) || it.len() > 255;
    // PUT has 27 bytes before its name, GET 42.
    if name.len() > 4096 - 27 {
        return Judged::TooLong;
    }
    if name.len() > 1024
        || components.len() > 32
        || components.iter().any(odd)
        || name.iter().any(|byte| *byte < 0x20 || *byte == 0x7f)
    {
        return Judged::NoName;
    }
    if components[0] == b".echo-server" {
        return Judged::Private;
    }
    let mut path = store.to_owned();
    for (place, component) in (1..).zip(&components) {
        path.push(std::ffi::OsStr::from_bytes(component));
        let last = place == components.len();
        match fs::symlink_metadata(&path) {
            Err(_) => return Judged::Nothing,
            Ok(it) if last && it.is_file() => return Judged::File,
            Ok(_) if last => return Judged::Occupied,
            Ok(it) if it.is_dir() => {}
            Ok(_) => return Judged::Blocked,
        }
    }
    Judged::Nothing
}

/// The codes that PUT (or its COMMIT), GET and REMOVE are refused with.
fn refusals(judged: &Judged) -> [Option<ErrorCode>; 3] {
    use ErrorCode::{Forbidden, Malformed, NotFound, TooLong};
    match judged {
        Judged::TooLong => [Some(TooLong); 3],
        Judged::NoName => [Some(Malformed); 3],
        Judged::Private => [Some(Forbidden); 3],
        Judged::Blocked => [Some(Forbidden), Some(NotFound), Some(NotFound)],
        Judged::Occupied => [Some(Forbidden), Some(NotFound), Some(Forbidden)],
        Judged::Nothing => [None, Some(NotFound), Some(NotFound)],
        Judged::File => [None; 3],
    }
}

fn with_name(before: &[u8], name: &[u8]) -> Vec<u8> {
    [before, &(name.len() as u16).to_be_bytes(), name].concat()
}

impl Talk {
    async fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<Bytes, ErrorCode> {
        self.ask(kind, |out| out.extend_from_slice(payload)).await
    }

    async fn put_raw(&mut self, name: &[u8], bytes: &[u8]) -> Result<(), ErrorCode> {
        let before = [&[0][..], &u64::MAX.to_be_bytes(), &[0; 16]].concat();
        self.frame(Kind::PUT, &with_name(&before, name)).await?;
        self.data(bytes).await?;
        self.commit(bytes).await.map(drop)
    }

    async fn get_raw(&mut self, name: &[u8]) -> Result<Bytes, ErrorCode> {
        self.frame(Kind::GET, &with_name(&[0; 40], name)).await?;
        self.read(1 << 20).await
    }
}

/// What a store should not hold, but may.
fn lay_out_traps(place: &Place, outside: &Path) -> Vec<(PathBuf, String)> {
    for (name, goal) in [
        ("up", Path::new("..")),
        ("out", outside),
        ("secret-link", Path::new("../outside/secret")),
        ("dangling", Path::new("../outside/new")),
        ("loop", Path::new("loop")),
        ("self", Path::new("/proc/self")),
        ("proc", Path::new("/proc")),
        ("parts", Path::new(".echo-server")),
        ("inside", Path::new("real")),
    ] {
        symlink(goal, place.path(name)).unwrap();
    }
    let all = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, place.path("pipe"), FileType::Fifo, all, 0).unwrap();
    // /dev/null; who may not make one has a pipe more.
    let null = rustix::fs::makedev(1, 3);
    if mknodat(CWD, place.path("device"), FileType::CharacterDevice, all, null).is_err() {
        mknodat(CWD, place.path("device"), FileType::Fifo, all, 0).unwrap();
    }
    drop(UnixListener::bind(place.path("socket")).unwrap());
    traps(place)
}

/// Links and special files of the store, with what they are.
fn traps(place: &Place) -> Vec<(PathBuf, String)> {
    let mut traps = Vec::new();
    for entry in fs::read_dir(place.store()).unwrap() {
        let path = entry.unwrap().path();
        let it = fs::symlink_metadata(&path).unwrap();
        if !it.is_file() && !it.is_dir() {
            let kind = it.file_type();
            assert!(
                kind.is_symlink() || kind.is_fifo() || kind.is_socket() || kind.is_char_device()
            );
            traps.push((path.clone(), format!("{} {:?}", it.ino(), fs::read_link(&path).ok())));
        }
    }
    traps.sort();
    traps
}

/// All that a list tells is a file of the store, by a way without links, and what was asked for.
async fn check_list(talk: &mut Talk, place: &Place, name: &[u8]) {
    for (cursor, prefix) in [(&b""[..], name), (name, &b""[..])] {
        let payload = [with_name(&[], cursor), with_name(&[], prefix)].concat();
        let code = match name.len() {
            4093.. => Some(ErrorCode::TooLong),
            1025.. => Some(ErrorCode::Malformed),
            _ => None,
        };
        let answer = talk.frame(Kind::LIST, &payload).await;
        assert_eq!(answer.as_ref().err(), code.as_ref(), "{}", name.escape_ascii());
        let Ok(answer) = answer else { continue };
        for entry in ListReply::parse(&answer).unwrap().entries {
            let listed = entry.name.as_bytes();
            assert!(listed.starts_with(prefix) && listed > cursor, "{:?}", entry.name);
            assert_eq!(judge(&place.store(), listed), Judged::File, "{:?}", entry.name);
        }
    }
}

#[test]
fn no_generated_name_leads_out_of_the_store() {
    let place = Place::new();
    let mut server = place.serve_with(&["--anonymous-put", "--files-bytes=64MiB"]);
    let canaries = Canaries::lay_out(&place);
    let traps_before = lay_out_traps(&place, &canaries.folder);
    let count = if long() { 50_000 } else { 2_000 };
    let secret = canaries.folder.join("secret").as_os_str().as_bytes().to_vec();
    let mut writer = Writer { random: fastrand::Rng::with_seed(56), secret };
    let mut met = BTreeMap::<String, u32>::new();
    run(async {
        let mut talk = place.connect().await;
        for number in 0..count {
            for (name, bytes) in [("plain", "in the store"), ("real/file", "in a folder")] {
                if !place.path(name).exists() {
                    talk.store(name, bytes.as_bytes()).await.unwrap();
                }
            }
            let name = writer.name();
            let shown = name.escape_ascii();
            let path = place.store().join(std::ffi::OsStr::from_bytes(&name));
            let judged = judge(&place.store(), &name);
            *met.entry(format!("{judged:?}")).or_default() += 1;
            let bytes = format!("file {number}");
            let stored = talk.put_raw(&name, bytes.as_bytes()).await;
            assert_eq!(stored.err(), refusals(&judged)[0], "PUT {shown}: {judged:?}");
            let judged = judge(&place.store(), &name);
            match talk.get_raw(&name).await {
                Ok(read) => assert_eq!(read, bytes, "GET {shown}"),
                // Its frame is longer than that of PUT.
                Err(code) if name.len() > 4096 - 42 => assert_eq!(code, ErrorCode::TooLong),
                Err(code) => assert_eq!(Some(code), refusals(&judged)[1], "GET {shown}"),
            }
            if number % 16 == 0 {
                check_list(&mut talk, &place, &name).await;
            }
            if writer.random.u8(0..4) > 0 {
                let removed = talk.frame(Kind::REMOVE, &with_name(&[], &name)).await;
                let expected = refusals(&judged)[2];
                if name.len() <= 4096 - 27 {
                    assert_eq!(removed.err(), expected, "REMOVE {shown}: {judged:?}");
                    assert!(expected.is_some() || !path.exists());
                } else {
                    assert!(removed.is_err());
                }
            }
        }
        assert_eq!(talk.ask(Kind::ECHO, |out| out.push(1)).await.unwrap(), "\x01");
    });
    eprintln!("{count} names: {met:?}");
    let rare = met.values().min().unwrap();
    assert!(met.len() == 7 && *rare >= count / 500, "the generator reaches everything: {met:?}");
    canaries.check();
    assert_eq!(traps(&place), traps_before);
    assert_eq!(server.stop(), Some(0));
    let stderr = server.stderr();
    assert!(!stderr.contains("panicked=1") && !stderr.contains(" ERROR "), "{stderr}");
}
