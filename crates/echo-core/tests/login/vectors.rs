//! The examples of PROTOCOL.md.

use echo_core::{AuthReply, AuthRequest};

/// The payloads of PROTOCOL.md, read, and written back.
#[test]
fn the_vectors_of_the_protocol() {
    let bytes = |hex: &str| -> Vec<u8> {
        let digits = hex.trim_matches('_');
        let pairs = (0..digits.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    };
    let text = include_str!("../../PROTOCOL.md");
    let block = text.split("```auth\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(block.lines().count(), 9);
    for line in block.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let payload = bytes(words[2]);
        let mut out = Vec::new();
        match (words[1], words[3]) {
            ("client", "malformed") => assert!(AuthRequest::parse(&payload).is_err(), "{line}"),
            ("server", "malformed") => assert!(AuthReply::parse(&payload).is_err(), "{line}"),
            (_, what) => {
                let last = bytes(words[words.len() - 1]);
                let (mechanism, data) = (words[4].as_bytes(), &last[..]);
                let reply = match what {
                    "challenge" => AuthReply::Challenge(data),
                    _ => AuthReply::Success(data),
                };
                let request = match what {
                    "start" => AuthRequest::Start { mechanism, initial: data },
                    _ => AuthRequest::Response(data),
                };
                if words[1] == "client" {
                    assert_eq!(AuthRequest::parse(&payload), Ok(request), "{line}");
                    request.put(&mut out);
                } else {
                    assert_eq!(AuthReply::parse(&payload), Ok(reply), "{line}");
                    reply.put(&mut out);
                }
                assert_eq!(out, payload, "{line}");
            }
        }
    }
}
