//! What PROTOCOL.md says comes back for a client that sends some bytes and then closes its side:
//! a pure function, written from the document and not from the server.

use echo_core::{Kind, Mode};

/// What an answer has to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// `None` is any byte.
    bytes: Vec<Option<u8>>,
    /// Where ERROR texts of any length stand: the frame at that offset is an ERROR with this code
    /// and these flags.
    errors: Vec<(usize, u8, u8)>,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Between frames.
    Fin,
    /// Inside a frame: what comes is a prefix.
    Cut,
}

impl Answer {
    pub(crate) fn new(bytes: &[u8], end: End) -> Self {
        let bytes = bytes.iter().copied().map(Some).collect();
        Self { bytes, errors: Vec::new(), end }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().copied().map(Some));
    }

    fn error(&mut self, code: u8, closes: bool) {
        self.errors.push((self.bytes.len(), code, u8::from(closes)));
    }

    /// Whether `got` is this answer.
    pub(crate) fn matches(&self, mut got: &[u8]) -> bool {
        let mut errors = self.errors.iter().peekable();
        for at in 0..=self.bytes.len() {
            while let Some((_, code, flags)) = errors.next_if(|error| error.0 == at) {
                let Some(&[0x82, 0, high, low, 0, got_code, got_flags, ..]) =
                    got.first_chunk::<8>()
                else {
                    return false;
                };
                let end = 4 + (usize::from(high) << 8 | usize::from(low));
                if (got_code, got_flags) != (*code, *flags) || got.len() < end {
                    return false;
                }
                got = &got[end..];
            }
            match (self.bytes.get(at), got.split_first()) {
                (Some(expected), Some((byte, rest))) => {
                    if expected.is_some_and(|expected| expected != *byte) {
                        return false;
                    }
                    got = rest;
                }
                (Some(_), None) => return self.end == End::Cut && errors.peek().is_none(),
                (None, _) => {}
            }
        }
        got.is_empty()
    }
}

/// The answer to `input`.
pub(crate) fn answer(mode: Mode, max: u32, input: &[u8]) -> Answer {
    let framed = match mode {
        Mode::Raw => false,
        Mode::Framed => true,
        Mode::Auto => looks_framed(input, max),
    };
    if framed { answer_frames(max, input) } else { Answer::new(input, End::Fin) }
}

fn looks_framed(input: &[u8], max: u32) -> bool {
    let Some(&[kind, a, b, c]) = input.first_chunk() else { return false };
    let len = u32::from_be_bytes([0, a, b, c]);
    match kind {
        0x00 | 0x83 => len <= max,
        0x80 => len <= 4096,
        _ => false,
    }
}

fn answer_frames(max: u32, mut rest: &[u8]) -> Answer {
    let mut out = Answer::new(&[], End::Fin);
    let (mut control, mut greeted, mut answered) = (false, false, 0u8);
    while let Some((&[kind, a, b, c], after)) = rest.split_first_chunk() {
        let head = [kind, a, b, c];
        let len = u32::from_be_bytes([0, a, b, c]);
        let payload = &after[..after.len().min(len as usize)];
        let whole = payload.len() == len as usize;
        rest = &after[payload.len()..];
        control |= matches!(kind, 0x80 | 0x83 | 0x84 | 0x90..=0x9f);
        answered = answered.wrapping_add(1);
        let refusal = match kind {
            0x00 if len <= max => None,
            0x83 if len >= 32 && len <= max => None,
            0x80 if len <= 4096 => {
                if !whole {
                    return out;
                }
                (1..6).contains(&len).then_some(3)
            }
            0x83 if len < 32 => Some(3),
            0x00 | 0x80 | 0x83 => Some(1),
            _ => {
                if control {
                    out.error(2, true);
                }
                if greeted {
                    out.put(&[0x81, 0, 0, 10, 0, 2, 0, 0, 0, 0, 0, 0, 0, answered]);
                }
                return out;
            }
        };
        match refusal {
            Some(code) if control => out.error(code, false),
            Some(_) => return out,
            None if kind == Kind::HELLO.0 => {
                greeted = true;
                out.put(&[0x80, 0, 0, 12, 0, 1]);
                out.put(&max.to_be_bytes());
                out.put(&[0, 0, 0, 1, 0, 0]);
            }
            None => {
                if kind == Kind::PROBE.0 && payload.len() < 32 {
                    // Its header goes out with its stamps.
                    return out;
                }
                out.put(&head);
                let start = out.bytes.len();
                out.put(payload);
                if kind == Kind::PROBE.0 {
                    out.bytes[start + 8..start + 24].fill(None);
                    out.bytes[start + 24] = Some(payload[24] | 1);
                }
                if !whole {
                    out.end = End::Cut;
                    return out;
                }
            }
        }
        if !whole {
            return out;
        }
    }
    out
}
