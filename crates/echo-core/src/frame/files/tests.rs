use proptest::prelude::*;

use super::*;

/// What `put` writes.
fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

proptest! {
    /// Fault 29: no payload makes a parser panic, and what it accepts writes back the same.
    #[test]
    fn parsers_take_anything(payload in proptest::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(put) = Put::parse(&payload) {
            let out = written(|out| put.put(out));
            prop_assert_eq!(Put::parse(&out), Ok(put));
        }
        if let Ok(reply) = GetReply::parse(&payload) {
            let out = written(|out| reply.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
        if let Ok(list) = List::parse(&payload) {
            let out = written(|out| list.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
        if let Ok(list) = ListReply::parse(&payload) {
            let out = written(|out| list.put(out));
            prop_assert_eq!(&out[..], &payload[..]);
        }
        if let Ok(remove) = Remove::parse(&payload) {
            let out = written(|out| remove.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
        if let Ok(get) = Get::parse(&payload) {
            let out = written(|out| get.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
        if let Ok(commit) = Commit::parse(&payload) {
            let out = written(|out| commit.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
        if let Ok(reply) = PutReply::parse(&payload) {
            let out = written(|out| reply.put(out));
            prop_assert_eq!(&out[..], &payload[..out.len()]);
        }
    }

    /// Whatever a payload is cut to, it is refused and not read past its end.
    #[test]
    fn what_is_written_is_read_and_what_is_cut_is_refused(
        resume: bool,
        keep in proptest::option::of((0u32..=0o7777, any::<i64>(), 0u32..1_000_000_000)),
        size in proptest::option::of(0..u64::MAX),
        name in "[a-z]{1,9}(/[a-z.]{3,9}){0,3}",
    ) {
        let keep = keep.map(|(mode, mtime_s, mtime_ns)| Attributes { mode, mtime_s, mtime_ns });
        let name = FileName::new(name.as_bytes()).unwrap();
        let put = Put { resume, keep, size, name };
        let out = written(|out| put.put(out));
        prop_assert_eq!(Put::parse(&out), Ok(put));
        let entry = Entry { size: size.unwrap_or(1), attributes: keep.unwrap_or_default(), name };
        let list = ListReply { more: resume, entries: vec![entry; 3] };
        let listed = written(|out| list.put(out));
        prop_assert_eq!(listed.len(), 1 + 3 * entry.encoded_len());
        prop_assert_eq!(ListReply::parse(&listed), Ok(list));
        for len in 0..out.len() {
            prop_assert_eq!(Put::parse(&out[..len]), Err(MalformedControl));
        }
    }

    /// What passes for a name can leave no folder.
    #[test]
    fn names_lead_nowhere_else(name in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(name) = FileName::new(&name) {
            for component in name.components() {
                prop_assert!(!component.is_empty() && component != b"." && component != b"..");
                prop_assert!(!component.contains(&b'/') && !component.contains(&0));
            }
        }
    }
}

#[test]
fn names() {
    let long = "a".repeat(255);
    let whole = [&long[..]; 4].join("/");
    let deep = ["a"; 32].join("/");
    for name in ["a", "a/b", "...", ".hidden", "a b", "é/\u{fffd}", "-", "\\", &long, &whole, &deep]
    {
        assert!(FileName::new(name.as_bytes()).is_ok(), "{name}");
    }
    assert!(FileName::new(b"\xff\xfe/\x80").is_ok());
    for (name, why) in [
        ("", BadName::Empty),
        ("/", BadName::Component),
        ("/etc/passwd", BadName::Component),
        ("a/", BadName::Component),
        ("a//b", BadName::Component),
        ("a/./b", BadName::Component),
        ("..", BadName::Component),
        ("a/../../b", BadName::Component),
        ("a\0b", BadName::Control),
        ("a\nb", BadName::Control),
        ("a\x7fb", BadName::Control),
        (&"a".repeat(256), BadName::TooLong),
        (&(whole.clone() + "/b"), BadName::TooLong),
        (&format!("{deep}/b"), BadName::TooDeep),
    ] {
        assert_eq!(FileName::new(name.as_bytes()), Err(why), "{name:?}");
    }
    assert_eq!(FileName::new(whole.as_bytes()).unwrap().components().count(), 4);
}

#[test]
fn impossible_attributes_are_refused() {
    let attributes = Attributes { mode: 0o644, mtime_s: -1, mtime_ns: 999_999_999 };
    let reply = GetReply { offset: 1, size: 2, attributes };
    let mut out = written(|out| reply.put(out));
    assert_eq!(GetReply::parse(&out), Ok(reply));
    out[28..].copy_from_slice(&1_000_000_000u32.to_be_bytes());
    assert_eq!(GetReply::parse(&out), Err(MalformedControl));
    out[28..].fill(0);
    out[16..20].copy_from_slice(&0o10000u32.to_be_bytes());
    assert_eq!(GetReply::parse(&out), Err(MalformedControl));
}

#[test]
fn a_digest_is_shown_as_sha256sum_does() {
    let mut bytes = [0; 32];
    bytes[0] = 0xE3;
    assert_eq!(Digest(bytes).to_string(), format!("e3{}", "00".repeat(31)));
}

/// The test vectors of PROTOCOL.md.
#[test]
fn vectors() {
    let protocol = include_str!("../../../PROTOCOL.md");
    let block = protocol.split("```files\n").nth(1).unwrap().split("```").next().unwrap();
    for line in block.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, kind, first, second] = fields[..] else { panic!("{line}") };
        let digits = format!("{first}{second}").replace('_', "");
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let payload: Vec<_> = (0..digits.len()).step_by(2).map(byte).collect();
        let again = match kind.strip_prefix("bad-").unwrap_or(kind) {
            "put" => Put::parse(&payload).map(|it| written(|out| it.put(out))),
            "get" => Get::parse(&payload).map(|it| written(|out| it.put(out))),
            "read" => Read::parse(&payload).map(|it| written(|out| it.put(out))),
            "commit" => Commit::parse(&payload).map(|it| written(|out| it.put(out))),
            "list" => List::parse(&payload).map(|it| written(|out| it.put(out))),
            "remove" => Remove::parse(&payload).map(|it| written(|out| it.put(out))),
            other => panic!("{other}"),
        };
        let expected = if kind.starts_with("bad-") { Err(MalformedControl) } else { Ok(payload) };
        assert_eq!(again, expected, "{name}");
    }
}
