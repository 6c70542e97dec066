//! Fault 69: a server that lies, and wants the terminal. No control character of a peer's ever
//! reaches it. About 1,000 of each kind, `LONG=1` for
//! a million replies and more, 100,000 errors and 20,000 connections.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;

use support::pty::*;
use support::*;

/// What terminals act on: titles, clipboards, colours, cursors, answers; in seven bits and in eight,
/// in UTF-8 and torn out of it; and what makes text read differently from what it says.
const ATTACKS: &[&[u8]] = &[
    b"\x1b]0;title\x07",
    b"\x1b]52;c;Zm9v\x07",
    b"\x1b[2J\x1b[H",
    b"\x1b[31m",
    b"\x1b[6n",
    b"\x1bP$q\"p\x1b\\",
    b"\x1bc",
    b"\x9b2J",
    b"\x9d0;title\x9c",
    b"\xc2\x9b31m",
    b"\xc2\x85",
    b"\r\n",
    b"\n",
    b"\r",
    b"\x08\x08\x08",
    b"\x7f",
    b"\x00",
    b"\x0e",
    b"\xe2\x80\xae",
    b"\xe2\x81\xa6",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
    b"\xf3\xa0\x80\xa1",
    b"\xff",
    b"\xc2",
    b"\xe2\x80",
    b"\xed\xa0\x80",
    b"text",
    b"\\",
    b"> ",
    "übung 漢字".as_bytes(),
];

fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.usize(1..6) {
        match random.u8(..3) {
            0 => bytes.push(random.u8(..)),
            1 => bytes.extend(random.char(..).to_string().bytes()),
            _ => bytes.extend_from_slice(random.choice(ATTACKS).unwrap()),
        }
    }
    bytes
}

/// A terminal that shows escape sequences, had it got any: all that it gets is text and new lines.
fn dumb() -> Setting<'static> {
    Setting { term: "dumb", ..Setting::default() }
}

/// Asserts that a dumb terminal got nothing but text, then forgets what it got.
#[track_caller]
fn only_text(pty: &mut Pty) {
    let whole = match std::str::from_utf8(&pty.raw) {
        Ok(text) => text.len(),
        // A character that has come in part stays for the next time.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(error) => panic!("{error}: {}", pty.raw.escape_ascii()),
    };
    let raw: Vec<u8> = pty.raw.drain(..whole).collect();
    let text = std::str::from_utf8(&raw).unwrap();
    let harmful = |c: &char| {
        c.is_control() && !matches!(c, '\r' | '\n')
            || matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(at) = text.find(|c| harmful(&c)) {
        panic!("{:?}", text[at.saturating_sub(100)..].chars().take(200).collect::<String>());
    }
    // No return of the carriage but before a new line.
    assert!(!text.trim_end_matches('\r').replace("\r\n", "").contains('\r'), "{text:?}");
}

/// How many rounds of 1,000.
fn rounds() -> usize {
    if long() { 1000 } else { 1 }
}

/// Each reply is right, and something else comes behind it.
#[test]
fn bytes_behind_replies() {
    let target = serve(|mut stream| {
        let mut random = fastrand::Rng::with_seed(1);
        while stream.read_exact(&mut [0]).is_ok() {
            let answer = [&b"x"[..], &garbage(&mut random)].concat();
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let mut pty = Pty::start_in(&dumb(), &[&format!("raw://{target}")]);
    for round in 0..rounds() {
        let count = 1000 + round;
        pty.enter_dumb(&format!(":repeat {count} x"));
        pty.expect(&format!("{count} sent, {count} answered, 0 lost"));
        let shown = pty.count("unexpected: ");
        // What comes behind the last one may be a notice at the next prompt.
        assert!(shown + 1 >= count, "{shown} of {count} were shown");
        only_text(&mut pty);
    }
}

/// What is sent is itself what attacks, and a true server gives it back.
#[test]
fn replies_as_they_were_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("message");
    let target = serve(|stream| framed_echo(stream, 1 << 20));
    let mut pty = Pty::start_in(&dumb(), &[&target]);
    let mut random = fastrand::Rng::with_seed(2);
    for round in 0..rounds() * 50 {
        let mut message = Vec::new();
        while message.len() < 1500 {
            message.extend(garbage(&mut random));
        }
        message.truncate(900 + round % 600);
        fs::write(&path, &message).unwrap();
        pty.enter_dumb(&format!(":repeat 20 :file {}", path.display()));
        pty.wait("all replies", |pty| pty.count("20 sent, 20 answered, 0 lost") > 0);
        only_text(&mut pty);
    }
}

/// In the words of ERROR frames, instead of replies.
#[test]
fn words_of_errors() {
    let target = serve(|mut stream| {
        greet(&mut stream, 1 << 20);
        let mut random = fastrand::Rng::with_seed(3);
        loop {
            if read_frame(&mut stream, 1 << 20).is_empty() {
                return;
            }
            let text = garbage(&mut random);
            let mut frame = vec![0x82, 0, 0, 3 + text.len() as u8, 0, random.u8(..5), 0];
            frame.extend(text);
            if stream.write_all(&frame).is_err() {
                return;
            }
        }
    });
    let mut pty = Pty::start_in(&dumb(), &[&target]);
    pty.enter_dumb(":watch 1ms x");
    for _ in 0..if long() { 100 } else { 1 } {
        pty.wait("refusals", |pty| pty.count("refused: the server says: ") >= 1000);
        only_text(&mut pty);
    }
    pty.press(CTRL_C);
    pty.expect(" lost (");
}

/// In greetings, of one connection after the other, each of which then ends in another way.
#[test]
fn words_of_greetings_and_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(4);
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            if stream.read_exact(&mut [0; 10]).is_err() {
                continue;
            }
            let text = garbage(&mut random);
            let mut answer = b"\x80\0\0\0\0\x01\0\0\0\x40\0\0\0\x01\0".to_vec();
            answer.push(text.len() as u8);
            answer.extend(&text);
            answer[3] = answer.len() as u8 - 4;
            // Some are greeted with garbage alone, but not the first: the REPL would end.
            let greets = number == 0 || random.u8(..4) > 0;
            let answer = if greets { answer } else { text };
            if stream.write_all(&answer).is_ok() && random.bool() {
                // Some garbage is the beginning of an answer: who waits for the rest sends nothing.
                if greets {
                    let _ = stream.read(&mut [0; 100]);
                }
                let _ = stream.write_all(&garbage(&mut random));
            }
        }
    });
    let args = ["--retry", "0", &target];
    let mut pty = Pty::start_in(&dumb(), &args);
    pty.enter_dumb(":watch 1ms x");
    for _ in 0..if long() { 100 } else { 1 } {
        pty.wait("greetings", |pty| pty.count("the server says: ") >= 200);
        only_text(&mut pty);
    }
    pty.press(CTRL_C);
    pty.expect(" lost (");
}

/// While a line is being edited, on a terminal that could do it all: what reaches it is text and
/// the editor's own sequences.
#[test]
fn notices_above_a_line() {
    let (next, wanted) = channel::<usize>();
    let target = serve(move |mut stream| {
        greet(&mut stream, 1 << 20);
        let mut random = fastrand::Rng::with_seed(5);
        for number in wanted {
            // Few enough to be shown whole.
            let texts = (0..20).map(|_| garbage(&mut random)).chain([format!("#{number}#").into()]);
            let frames = texts.flat_map(|text| [vec![0, 0, 0, text.len() as u8], text].concat());
            stream.write_all(&frames.collect::<Vec<_>>()).unwrap();
        }
    });
    let mut pty = Pty::start(&[&target]);
    pty.prompt();
    pty.press("half a line");
    for number in 0..rounds() * 50 {
        next.send(number).unwrap();
        pty.expect(&format!("#{number}#"));
    }
    pty.wait("the line again", |pty| pty.line().ends_with("> half a line"));
    let text = String::from_utf8(std::mem::take(&mut pty.raw)).unwrap();
    let mut rest = &text[..];
    while let Some(at) = rest.find(|c: char| c.is_control() && !matches!(c, '\r' | '\n')) {
        rest = &rest[at..];
        let own = own_sequence(rest);
        assert!(own > 0, "{:?}", rest.chars().take(100).collect::<String>());
        rest = &rest[own..];
    }
}

/// The length of one of the editor's own sequences: colours, cursor, erasing, the modes that mark
/// pasted text and whole updates.
fn own_sequence(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\x1b[") else { return 0 };
    let (private, body) = body.strip_prefix('?').map_or((false, body), |body| (true, body));
    let digits = body.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(0);
    let own = match body[digits..].chars().next() {
        Some('h' | 'l') => private && matches!(&body[..digits], "2004" | "2026"),
        Some('A' | 'B' | 'C' | 'D' | 'J' | 'K' | 'm') => !private,
        _ => false,
    };
    if own { text.len() - body.len() + digits + 1 } else { 0 }
}
