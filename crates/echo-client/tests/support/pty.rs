//! The client under a pseudo terminal, and what a person would see there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};
use tempfile::TempDir;

use super::LIMIT;

pub(crate) const UP: &str = "\x1b[A";
pub(crate) const LEFT: &str = "\x1b[D";
pub(crate) const CTRL_A: &str = "\x01";
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
pub(crate) const CTRL_R: &str = "\x12";
pub(crate) const CTRL_W: &str = "\x17";
pub(crate) const CTRL_Z: &str = "\x1a";
pub(crate) const TAB: &str = "\t";
pub(crate) const ENTER: &str = "\r";

/// How often a screen is looked at on which nothing happens.
const LOOK: Duration = Duration::from_millis(20);

/// A client, the terminal that it runs on, and what it has written there.
pub(crate) struct Pty {
    child: Child,
    master: Option<File>,
    screen: vt100::Parser,
    pub(crate) raw: Vec<u8>,
    _state: Option<TempDir>,
}

/// What differs from an ordinary terminal.
pub(crate) struct Setting<'a> {
    pub(crate) term: &'a str,
    pub(crate) size: (u16, u16),
    /// `$XDG_STATE_HOME`; a folder of its own if there is none.
    pub(crate) state: Option<&'a Path>,
    pub(crate) env: &'a [(&'a str, &'a str)],
}

impl Default for Setting<'_> {
    fn default() -> Self {
        Self { term: "xterm-256color", size: (24, 80), state: None, env: &[] }
    }
}

/// Both ends of a terminal: its user's, and its programs'.
pub(crate) fn open() -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let peer = ioctl_tiocgptpeer(&master, flags).unwrap();
    (File::from(master), peer)
}

impl Pty {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(&Setting::default(), args)
    }

    /// Whatever bytes its arguments have.
    pub(crate) fn start_with(args: &[&OsStr]) -> Self {
        Self::spawn(&Setting::default(), env!("CARGO_BIN_EXE_echo-client"), args)
    }

    pub(crate) fn start_in(setting: &Setting<'_>, args: &[&str]) -> Self {
        Self::spawn(setting, env!("CARGO_BIN_EXE_echo-client"), args)
    }

    /// Runs another program.
    pub(crate) fn run(program: &str, args: &[&str]) -> Self {
        Self::spawn(&Setting::default(), program, args)
    }

    fn spawn(setting: &Setting<'_>, program: &str, args: &[impl AsRef<OsStr>]) -> Self {
        let (master, peer) = open();
        set_size(&master, setting.size);
        let own = setting.state.is_none().then(|| tempfile::tempdir().unwrap());
        let state = setting.state.or_else(|| own.as_ref().map(TempDir::path)).unwrap();
        // A session of its own with this terminal, without a process in between.
        // SIGINT as at a terminal, whatever started the tests: see `heeding`.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "setsid", "--ctty", program]).args(args);
        command.env("TERM", setting.term).env("XDG_STATE_HOME", state).env("LC_ALL", "C.UTF-8");
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.envs(setting.env.iter().copied());
        let fd = || peer.try_clone().unwrap();
        let child = command.stdin(fd()).stdout(fd()).stderr(fd()).spawn().unwrap();
        drop((command, peer));
        let (rows, cols) = non_zero(setting.size);
        let screen = vt100::Parser::new(rows, cols, 0);
        Self { child, master: Some(master), screen, raw: Vec::new(), _state: own }
    }

    /// Presses these keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.press_bytes(keys.as_bytes());
    }

    pub(crate) fn press_bytes(&mut self, keys: &[u8]) {
        self.master.as_mut().unwrap().write_all(keys).unwrap();
    }

    /// The same on a dumb terminal, where Enter is a new line.
    #[track_caller]
    pub(crate) fn enter_dumb(&mut self, line: &str) {
        self.prompt();
        self.press(&format!("{line}\n"));
    }

    /// Waits for the prompt, types a line, presses Enter.
    #[track_caller]
    pub(crate) fn enter(&mut self, line: &str) {
        self.prompt();
        self.press(line);
        self.press(ENTER);
    }

    /// Waits until the cursor stands behind an empty prompt.
    #[track_caller]
    pub(crate) fn prompt(&mut self) {
        self.wait("an empty prompt", |pty| {
            let line = pty.line();
            line.ends_with("> ") && pty.column() == line.chars().count()
        });
    }

    /// Waits until the screen holds this text.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        self.wait(text, |pty| pty.contents().contains(text));
    }

    /// Waits until something can be seen.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, seen: impl Fn(&Self) -> bool) {
        let mut patience = LIMIT;
        loop {
            // All that has come is looked at together, but a client may never pause.
            for _ in 0..100 {
                if self.read(Duration::ZERO) != Came::Output {
                    break;
                }
            }
            if seen(self) {
                return;
            }
            // Not all that is waited for shows on the screen.
            let came = self.read(LOOK);
            patience = if came == Came::Output { LIMIT } else { patience.saturating_sub(LOOK) };
            if came == Came::End || patience.is_zero() {
                let contents = self.contents();
                panic!("not seen ({came:?}): {what}\n--- on the screen:\n{contents}");
            }
        }
    }

    /// Takes what the client writes within this time.
    fn read(&mut self, limit: Duration) -> Came {
        let Some(master) = &mut self.master else { return Came::End };
        let limit = Timespec::try_from(limit).unwrap();
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        if poll(&mut fds, Some(&limit)).unwrap() == 0 {
            return Came::Nothing;
        }
        let mut buffer = [0; 4096];
        match master.read(&mut buffer) {
            Ok(len @ 1..) => {
                self.screen.process(&buffer[..len]);
                self.raw.extend_from_slice(&buffer[..len]);
                Came::Output
            }
            // That the last descriptor of the other side is closed comes as an error.
            _ => Came::End,
        }
    }

    /// What the screen shows; a line that is longer than the screen is wide is one line.
    pub(crate) fn contents(&self) -> String {
        self.screen.screen().contents()
    }

    /// The same without the ends of lines, wherever the editor has broken a long one.
    pub(crate) fn unbroken(&self) -> String {
        self.contents().replace('\n', "")
    }

    /// What stands in the cursor's row, to the cursor at least.
    pub(crate) fn line(&self) -> String {
        let screen = self.screen.screen();
        let (row, column) = screen.cursor_position();
        let width = screen.size().1.get();
        let text = screen.rows(0, width).nth(row.into()).unwrap_or_default();
        format!("{text:column$}", column = usize::from(column))
    }

    pub(crate) fn column(&self) -> usize {
        self.screen.screen().cursor_position().1.into()
    }

    /// Whether the cell under the first letter of `text` is dim.
    pub(crate) fn is_dim(&self, text: &str) -> bool {
        let screen = self.screen.screen();
        let width = screen.size().1.get();
        screen.rows(0, width).enumerate().any(|(row, line)| {
            line.find(text).is_some_and(|at| {
                let column = line[..at].chars().count() as u16;
                screen.cell(row as u16, column).is_some_and(vt100::Cell::dim)
            })
        })
    }

    /// How often the terminal was sent this.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.raw.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }

    pub(crate) fn resize(&mut self, size: (u16, u16)) {
        set_size(self.master.as_ref().unwrap(), size);
        let (rows, cols) = non_zero(size);
        self.screen.screen_mut().set_size(rows, cols);
    }

    /// Whether the terminal is as a shell wants it: it shows what is typed, line by line.
    pub(crate) fn is_cooked(&self) -> bool {
        let modes = tcgetattr(self.master.as_ref().unwrap()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Has it so.
    pub(crate) fn cook(&self) {
        let master = self.master.as_ref().unwrap();
        let mut attributes = tcgetattr(master).unwrap();
        attributes.local_modes |= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(master, OptionalActions::Now, &attributes).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Takes the terminal away.
    pub(crate) fn hang_up(&mut self) {
        self.master = None;
    }

    /// Waits for the client's end and returns its exit code.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Option<i32> {
        loop {
            match self.read(LIMIT) {
                Came::Output => {}
                Came::End => break,
                Came::Nothing => panic!("the client hangs:\n{}", self.contents()),
            }
        }
        self.child.wait().unwrap().code()
    }
}

/// What came of a read.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Output,
    Nothing,
    End,
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, (ws_row, ws_col): (u16, u16)) {
    tcsetwinsize(terminal, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn non_zero((rows, cols): (u16, u16)) -> (NonZeroU16, NonZeroU16) {
    (NonZeroU16::new(rows).unwrap(), NonZeroU16::new(cols).unwrap())
}
