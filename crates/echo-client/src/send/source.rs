//! Where the messages come from.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use echo_core::MAX_PAYLOAD_LEN;

use crate::args::Sending;
use crate::escape::{escape, hex};
use crate::failure::Failure;
use crate::message;
use crate::stdio::{self, Input};

/// The longest line: two digits and a space for each byte of the longest message.
const LINE_MAX: usize = 3 * MAX_PAYLOAD_LEN as usize;

/// The messages, one after the other.
pub(super) enum Source {
    Given { items: Vec<Item>, at: usize, rounds_left: u64 },
    Lines { lines: Lines, count: u64, last: Bytes, times_left: u64 },
}

/// A message of the command line's.
pub(super) enum Item {
    Text(Bytes),
    File(PathBuf),
}

impl Source {
    /// Where the last message came from.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Lines { lines, .. } => lines.origin(),
            Self::Given { items, at, .. } => match items.get(at.saturating_sub(1)) {
                Some(Item::File(path)) => escape(&path.display().to_string()),
                _ => format!("message {at}"),
            },
        }
    }

    pub(super) fn new(args: &Sending) -> Result<Self, Failure> {
        if args.stdin_lines {
            let input = stdio::read_stdin();
            let input = input.map_err(|error| Failure::local("cannot start", &error))?;
            let (lines, count) = (Lines::new(input, args.hex), args.count.get());
            return Ok(Self::Lines { lines, count, last: Bytes::new(), times_left: 0 });
        }
        let texts = args.texts().map_err(Failure::Local)?;
        let files = args.file.iter().cloned().map(Item::File);
        let items: Vec<_> = texts.into_iter().map(Item::Text).chain(files).collect();
        Ok(Self::Given { items, at: 0, rounds_left: args.count.get() })
    }

    /// The next message; `None` behind the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let (items, at, rounds_left) = match self {
            Self::Lines { lines, count, last, times_left } => {
                if *times_left == 0 {
                    let Some(line) = lines.next().await? else { return Ok(None) };
                    (*last, *times_left) = (line, *count);
                }
                *times_left -= 1;
                return Ok(Some(last.clone()));
            }
            Self::Given { items, at, rounds_left } => (items, at, rounds_left),
        };
        if *at == items.len() {
            *at = 0;
            *rounds_left -= 1;
        }
        if *rounds_left == 0 {
            return Ok(None);
        }
        *at += 1;
        match &items[*at - 1] {
            Item::Text(text) => Ok(Some(text.clone())),
            Item::File(path) => match message::read(path.clone(), false).await {
                Ok(bytes) => Ok(Some(bytes.into())),
                Err(words) => Err(Failure::Local(words)),
            },
        }
    }
}

/// The lines of stdin.
pub(super) struct Lines {
    input: Input,
    hex: bool,
    /// What came and is no line yet; so much of it has no newline.
    rest: BytesMut,
    searched: usize,
    number: u64,
}

impl Lines {
    fn new(input: Input, hex: bool) -> Self {
        Self { input, hex, rest: BytesMut::new(), searched: 0, number: 0 }
    }

    fn origin(&self) -> String {
        format!("line {}", self.number)
    }

    /// # Cancel safety
    /// Nothing is lost.
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let newline = loop {
            let newline = self.rest[self.searched..].iter().position(|byte| *byte == b'\n');
            if newline.is_some() {
                break newline;
            }
            self.searched = self.rest.len();
            if self.searched > LINE_MAX {
                self.number += 1;
                return Err(Failure::Local(message::too_long(&self.origin())));
            }
            match self.input.recv().await {
                Some(Ok(chunk)) => self.rest.extend_from_slice(&chunk),
                Some(Err(error)) => return Err(Failure::local("cannot read stdin", &error)),
                None if self.rest.is_empty() => return Ok(None),
                // The last line may do without a newline.
                None => break None,
            }
        };
        let mut line = match newline {
            Some(at) => self.rest.split_to(self.searched + at + 1),
            None => self.rest.split(),
        };
        line.truncate(line.len() - usize::from(newline.is_some()));
        self.searched = 0;
        self.number += 1;
        if !self.hex {
            return Ok(Some(line.freeze()));
        }
        let digits = String::from_utf8_lossy(&line);
        match hex(&digits) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(words) => Err(Failure::Local(format!("{}: {words}", self.origin()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// What the lines are of stdin that comes in these pieces.
    async fn lines(pieces: &[&str], hex: bool) -> Result<Vec<String>, String> {
        let (input, chunks) = mpsc::channel(pieces.len().max(1));
        for piece in pieces {
            input.send(Ok(Bytes::copy_from_slice(piece.as_bytes()))).await.unwrap();
        }
        drop(input);
        let (mut lines, mut all) = (Lines::new(chunks, hex), Vec::new());
        while let Some(line) = lines.next().await.map_err(|failure| failure.to_string())? {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn lines_however_they_come() {
        for (pieces, expected) in [
            (&[][..], &[][..]),
            (&["\n"], &[""]),
            (&["one\ntwo\n"], &["one", "two"]),
            (&["one\n\ntwo"], &["one", "", "two"]),
            (&["o", "ne", "\n", "t", "wo\nthree", "\n"], &["one", "two", "three"]),
            (&["one\r\n"], &["one\r"]),
        ] {
            assert_eq!(lines(pieces, false).await.unwrap(), expected, "{pieces:?}");
        }
        assert_eq!(lines(&["61 62\n", "63\n"], true).await.unwrap(), ["ab", "c"]);
        let outcome = lines(&["61\n6\n"], true).await;
        assert_eq!(
            outcome,
            Err("line 2: a byte has two hexadecimal digits: 6 stands alone".to_owned())
        );
    }

    #[tokio::test]
    async fn a_line_that_does_not_end_takes_bounded_memory() {
        let (input, chunks) = mpsc::channel(1);
        let mut lines = Lines::new(chunks, false);
        let endless = async move {
            let chunk = Bytes::from(vec![b'x'; 1 << 20]);
            let mut sent = 0;
            while input.send(Ok(chunk.clone())).await.is_ok() {
                sent += chunk.len();
            }
            sent
        };
        let judged = async move { lines.next().await.unwrap_err().to_string() };
        let (sent, told) = tokio::join!(endless, judged);
        assert!(told.starts_with("too long: line 1: "), "{told}");
        assert!(sent <= LINE_MAX + (3 << 20), "{sent}");
    }
}
