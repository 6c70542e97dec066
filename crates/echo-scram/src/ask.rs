//! Where a password comes from: a file, the environment, or somebody who types it. Never from an
//! argument, which every process of the host can read.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// The variable that may hold the password.
pub const VARIABLE: &str = "ECHO_PASSWORD";

/// More than the longest password and its line's end.
const MAX_LEN: usize = 2048;

/// End of text: what Ctrl-C types while it is no signal.
const INTERRUPT: u8 = 3;

/// End of transmission: what Ctrl-D types.
const END: u8 = 4;

/// What Ctrl-\ types while it is no signal.
const QUIT: u8 = 0x1c;

/// What keys that type no character begin with.
const ESCAPE: u8 = 0x1b;

/// The signal that ended the question: what an error of the kind `Interrupted` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedBy(pub i32);

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::from_named_raw(self.0) {
            Some(Signal::INT) => f.write_str("ended by SIGINT"),
            Some(Signal::TERM) => f.write_str("ended by SIGTERM"),
            Some(Signal::QUIT) => f.write_str("ended by SIGQUIT"),
            Some(Signal::HUP) => f.write_str("ended by SIGHUP"),
            _ => write!(f, "ended by signal {}", self.0),
        }
    }
}

impl std::error::Error for EndedBy {}

impl EndedBy {
    /// What an error of [`password`] holds.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    fn by(signal: Signal) -> io::Error {
        io::Error::new(ErrorKind::Interrupted, Self(signal.as_raw()))
    }
}

/// Reads a password from `file`, else from [`VARIABLE`], else from the terminal, where `prompts` are
/// shown one after the other: what is typed has to be the same each time.
///
/// # Errors
/// In words that say what to do, and never what was read. A signal that asks for the end (SIGINT, SIGTERM,
/// SIGHUP, SIGQUIT) ends the question, with `Interrupted`, and the terminal is as it was.
///
/// # Panics
/// Where it asks a terminal on a thread of a Tokio runtime.
pub fn password(file: Option<&Path>, prompts: &[&str]) -> io::Result<Zeroizing<String>> {
    if let Some(path) = file {
        let read = File::open(path).and_then(|mut file| line(&mut file));
        return read.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
        });
    }
    match env::var(VARIABLE) {
        Ok(password) if !password.is_empty() => return Ok(Zeroizing::new(password)),
        Err(env::VarError::NotUnicode(_)) => {
            return Err(io::Error::new(ErrorKind::InvalidData, format!("{VARIABLE} is not UTF-8")));
        }
        _ => {}
    }
    let mut terminal = Terminal::open().map_err(|_| {
        let text = format!("no password: give --password-file FILE, or set {VARIABLE}");
        io::Error::new(ErrorKind::NotFound, text)
    })?;
    let mut first: Option<Zeroizing<String>> = None;
    for prompt in prompts {
        let typed = terminal.ask(prompt)?;
        if first.as_ref().is_some_and(|first| *first != typed) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the two are not the same"));
        }
        first = Some(typed);
    }
    first.ok_or_else(|| ErrorKind::InvalidInput.into())
}

/// Reads the first line, and nothing behind it: that may be for others.
///
/// # Errors
/// In words that never hold what was read.
pub fn first_line(from: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN));
    let mut byte = Zeroizing::new([0]);
    while bytes.len() < MAX_LEN && bytes.last() != Some(&b'\n') {
        match from.read(&mut byte[..]) {
            Ok(0) => break,
            Ok(_) => bytes.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    line(&mut &bytes[..])
}

/// All there is, as one line, whose end is not part of it.
fn line(from: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN));
    from.take(MAX_LEN as u64).read_to_end(&mut bytes)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let wrong = |what: &str| Err(io::Error::new(ErrorKind::InvalidData, what.to_owned()));
    match std::str::from_utf8(line) {
        _ if bytes.len() == MAX_LEN => wrong("too long for a password"),
        _ if line.contains(&b'\n') => wrong("more than one line"),
        Ok("") => wrong("it is empty"),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => wrong("it is not UTF-8"),
    }
}

/// The terminal of this process, whatever stdin and stdout are. Dropped, it is as it was.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open("/dev/tty", flags, Mode::empty())?);
        let before = tcgetattr(&file)?;
        Ok(Self { file, before })
    }

    fn ask(&mut self, prompt: &str) -> io::Result<Zeroizing<String>> {
        let terminal = self.file.try_clone()?;
        let (done, mut typed) = oneshot::channel();
        let so_far = Arc::new(Mutex::new(Line::default()));
        let reader = Arc::clone(&so_far);
        let typed = runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
            // Listened to before the echo goes.
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut hang_up = signal(SignalKind::hangup())?;
            let mut quit = signal(SignalKind::quit())?;
            let mut continued = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
            self.silence()?;
            self.file.write_all(prompt.as_bytes())?;
            // After a signal it is left to itself: who asked ends, and its thread with it.
            thread::Builder::new().spawn(move || drop(done.send(read_typed(terminal, &reader))))?;
            loop {
                tokio::select! {
                    typed = &mut typed => break typed.unwrap_or_else(|_| Err(ErrorKind::Other.into())),
                    _ = interrupt.recv() => break Err(EndedBy::by(Signal::INT)),
                    _ = terminate.recv() => break Err(EndedBy::by(Signal::TERM)),
                    _ = hang_up.recv() => break Err(EndedBy::by(Signal::HUP)),
                    _ = quit.recv() => break Err(EndedBy::by(Signal::QUIT)),
                    _ = continued.recv() => {
                        // A shell has had the terminal, and left it as it likes it. What was typed before belongs
                        // to a prompt that has scrolled away: what is read of it, and what is not, which goes with
                        // the echo. Nothing is read between.
                        let mut so_far = lock(&so_far);
                        self.silence()?;
                        *so_far = Line::default();
                        drop(so_far);
                        self.file.write_all(format!("\r\n{prompt}").as_bytes())?;
                    }
                }
            }
        });
        let restored = tcsetattr(&self.file, OptionalActions::Flush, &self.before);
        let restored = restored.map_err(io::Error::from).and_then(|()| self.file.write_all(b"\n"));
        match (typed, restored) {
            // A terminal that is gone ends what is read before its signal has come, or after.
            (Err(typed), Err(error)) if EndedBy::of(&typed).is_none() && is_gone(&error) => {
                Err(EndedBy::by(Signal::HUP))
            }
            // It takes nothing any more: how the question ended says more.
            (Err(typed), _) => Err(typed),
            (Ok(typed), restored) => restored.map(|()| typed),
        }
    }

    fn silence(&self) -> io::Result<()> {
        let mut silent = self.before.clone();
        // Ctrl-C is read as what it types.
        silent.local_modes -= LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON;
        Ok(tcsetattr(&self.file, OptionalActions::Flush, &silent)?)
    }
}

/// What calls to a terminal end with once it has hung up.
fn is_gone(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

/// What has been typed of a line.
struct Line {
    bytes: Zeroizing<Vec<u8>>,
    key: Key,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(MAX_LEN)), key: Key::Character }
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads to the line's end, letter by letter.
fn read_typed(mut terminal: File, typed: &Mutex<Line>) -> io::Result<Zeroizing<String>> {
    loop {
        is_ready(&terminal, None)?;
        let mut typed = lock(typed);
        // Else it was taken back, and reading would wait while nobody else gets at the line.
        if !is_ready(&terminal, Some(&Timespec::default()))? {
            continue;
        }
        let mut byte = [0];
        if terminal.read(&mut byte)? == 0 || typed.take(byte[0])? {
            return line(&mut &typed.bytes[..]);
        }
    }
}

/// Whether something can be read, or will never be, within this time.
fn is_ready(terminal: &File, within: Option<&Timespec>) -> io::Result<bool> {
    match poll(&mut [PollFd::new(terminal, PollFlags::IN)], within) {
        // The signal is another thread's.
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

impl Line {
    /// Takes what was typed. Whether it is the line's end.
    fn take(&mut self, byte: u8) -> io::Result<bool> {
        if self.key.is_no_character(byte) {
            return Ok(false);
        }
        let bytes = &mut self.bytes;
        match byte {
            b'\n' | b'\r' => return Ok(true),
            INTERRUPT => return Err(EndedBy::by(Signal::INT)),
            QUIT => return Err(EndedBy::by(Signal::QUIT)),
            END if bytes.is_empty() => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "no password was typed"));
            }
            // Whoever has begun with one and changes his mind has Ctrl-C.
            END => {}
            // Backspace and Ctrl-H take a character back, Ctrl-U all.
            0x7f | 0x08 => while bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            0x15 => bytes.clear(),
            // Nobody sees that he has typed one, and no password can hold it.
            0x00..0x20 => {}
            byte if bytes.len() < MAX_LEN - 1 => bytes.push(byte),
            _ => {}
        }
        Ok(false)
    }
}

/// Where among the bytes of a key it is: an arrow, for one, sends `ESC [ A` or `ESC O A`.
#[derive(Clone, Copy)]
enum Key {
    Character,
    Begun,
    Inside,
}

impl Key {
    /// Whether this byte is of a key that types no character.
    fn is_no_character(&mut self, byte: u8) -> bool {
        let (next, is_none) = match (*self, byte) {
            (_, ESCAPE) => (Self::Begun, true),
            (Self::Begun, b'[' | b'O') | (Self::Inside, 0x20..0x40) => (Self::Inside, true),
            (Self::Inside, 0x40..0x7f) => (Self::Character, true),
            _ => (Self::Character, false),
        };
        *self = next;
        is_none
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Closed, it needs nothing.
        let _ = tcsetattr(&self.file, OptionalActions::Flush, &self.before);
        // Tokio keeps every signal that was ever listened to, and nobody else listens to this one: without this,
        // Ctrl-\ would end the process no more.
        let _ = echo_sys::give_back(Signal::QUIT.as_raw());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line() {
        let read = |mut bytes: &[u8]| line(&mut bytes).map(|it| it.to_string());
        for (bytes, password) in [(&b"canary"[..], "canary"), (b"a b \r\n", "a b "), (b"x\n", "x")]
        {
            assert_eq!(read(bytes).unwrap(), password);
        }
        for bad in [&b""[..], b"\n", b"canary\n\n", b"canary\ntwo\n", b"canary\xff", &[b'x'; 4000]]
        {
            let error = read(bad).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
