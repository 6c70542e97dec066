//! The terminal: a line editor on a thread of its own, and output that does not disturb it.
//!
//! ```text
//! session ── prompt ──▶ editor thread: one line for each prompt ── Typed ──▶ session
//!    └── notice, while a line is being edited ──▶ printer thread ──▶ above that line
//! ```
//!
//! A read of the terminal cannot be cancelled, so neither thread is joined: the process may end
//! while they wait, and [`Output`] then undoes what the editor has done to the terminal's mode.
//! The printer is a thread because the editor takes one text at a time, and none between two lines.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::read;
use rustix::process::getpgrp;
use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios};
use rustix::termios::{tcgetattr, tcgetpgrp, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Cmd, ColorMode, CompletionType, Config, Editor, ExternalPrinter, KeyEvent};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::helper::Line;
use super::history;
use crate::colours::Colours;
use crate::escape::escape;
use crate::failure::reason;

/// How often it is looked whether Ctrl-D was pressed while a command runs: soon for a person.
const LOOK: Duration = Duration::from_millis(50);

/// The longest line that the kernel edits, its end included (termios(3)).
const LINE_MAX: usize = 4096;

/// Lines that are taken from the kernel before their time: more than anybody types ahead.
const AHEAD_MAX: usize = 1000;

/// Lines that are kept: years of use.
const HISTORY_MAX: usize = 10_000;

/// What the editor thread has to say.
#[derive(Debug)]
pub(super) enum Typed {
    Line(String),
    /// Ctrl-C: the line is abandoned.
    Abandoned,
    /// Ctrl-D, or the terminal is gone.
    End,
    /// Something that the user should know. A line, or its end, follows.
    Trouble(String),
}

/// The user's terminal.
pub(super) struct Terminal {
    pub(super) input: Input,
    pub(super) output: Output,
}

/// Where lines come from.
pub(super) struct Input {
    asked: std_mpsc::SyncSender<Asked>,
    typed: mpsc::Receiver<(Typed, bool)>,
    /// Lines that were typed while a command ran, without their ends.
    ahead: VecDeque<Vec<u8>>,
    /// The editor left something unread behind the last line. That is its next line's: it may have read
    /// what comes before it.
    unread: bool,
}

/// What the editor thread is asked for.
enum Asked {
    /// A line behind this prompt: as it is, and as it is shown.
    Line(String, String),
    /// The line that was typed ahead, with all that belongs to a line.
    Ahead(Vec<u8>),
}

/// Where everything goes.
pub(super) struct Output {
    pub(super) colours: Colours,
    notices: mpsc::Sender<String>,
    /// The prompt of the line that is being edited.
    editing: Option<String>,
    /// It cannot move its cursor: the kernel edits lines, and notices come between them.
    dumb: bool,
    mode: Termios,
}

/// Room for one notice.
pub(super) struct Room<'a> {
    notices: mpsc::Permit<'a, String>,
    prompt: Option<&'a str>,
}

impl Terminal {
    /// Starts the threads; nothing is asked yet.
    pub(super) fn open(colours: Colours) -> io::Result<Self> {
        let mode = tcgetattr(io::stdin())?;
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .color_mode(if colours.enabled() { ColorMode::Enabled } else { ColorMode::Disabled })
            .history_ignore_space(true)
            .max_history_size(HISTORY_MAX)
            .map_err(io::Error::other)?
            .build();
        let mut editor = Editor::with_config(config).map_err(io::Error::other)?;
        editor.set_helper(Some(Line(colours)));
        // A Ctrl-D that comes between two lines finds the terminal in the kernel's own mode, where it is
        // kept as a NUL, which is what the editor reads then (n_tty, `__DISABLED_CHAR`).
        editor.bind_sequence(KeyEvent::ctrl('@'), Cmd::EndOfFile);
        let printer = editor.create_external_printer().ok();
        let dumb = printer.is_none();
        let (ask, asked) = std_mpsc::sync_channel(1);
        let (answer, typed) = mpsc::channel(1);
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        thread("editor").spawn(move || edit(editor, &asked, &answer, dumb))?;
        let (notices, waiting) = mpsc::channel(1);
        thread("printer").spawn(move || print(printer, waiting))?;
        Ok(Self {
            input: Input { asked: ask, typed, ahead: VecDeque::new(), unread: false },
            output: Output { colours, notices, editing: None, dumb, mode },
        })
    }

    /// Asks for a line. [`Input::typed`] has it then.
    pub(super) fn ask(&mut self, prompt: String) {
        let styled = self.output.colours.strong(&prompt);
        // A thread that is gone shows in `typed`.
        let _ = if let Some(line) = self.input.ahead.pop_front() {
            self.output.print(&format!("{styled}{}", escape(&String::from_utf8_lossy(&line))));
            self.input.asked.send(Asked::Ahead(line))
        } else {
            self.output.editing = Some(prompt.clone());
            self.input.asked.send(Asked::Line(prompt, styled))
        };
    }

    /// The line that was asked for has come, or its end.
    pub(super) fn edited(&mut self, typed: &Typed) {
        self.output.editing = None;
        if self.output.dumb && matches!(typed, Typed::End) {
            write("\n");
        }
    }
}

impl Input {
    /// What the user does with the line that was asked for.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn typed(&mut self) -> Typed {
        let (typed, unread) = self.typed.recv().await.unwrap_or((Typed::End, false));
        self.unread = unread;
        typed
    }

    /// Waits for a Ctrl-D while no line is asked for. The kernel edits lines then: those that are typed
    /// ahead are kept for their time, and a Ctrl-D behind them, or behind half a line, counts.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn left(&mut self) {
        while self.unread && is_ready() {
            sleep(LOOK).await;
        }
        self.unread = false;
        while !self.takes_end() {
            sleep(LOOK).await;
        }
    }

    /// Takes what was typed; whether its end is among it, which the shell would find otherwise.
    fn takes_end(&mut self) -> bool {
        let mut line = [0; LINE_MAX];
        while self.ahead.len() < AHEAD_MAX && is_ours() && is_ready() {
            match read(io::stdin(), &mut line) {
                // What ends without a newline ends with Ctrl-D.
                Ok(len) if line[..len].last() != Some(&b'\n') => return true,
                Ok(len) => self.ahead.push_back(line[..len - 1].to_vec()),
                Err(_) => break,
            }
        }
        false
    }

    /// Drops what was typed ahead, as the kernel does at Ctrl-C.
    pub(super) fn forget(&mut self) {
        self.ahead.clear();
    }
}

/// Whether the terminal has something to read.
fn is_ready() -> bool {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// Whether what is typed is for us: in the background it is the shell's. A terminal that controls
/// nobody is not shared.
fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).map_or(true, |group| group == getpgrp())
}

impl Output {
    /// Shows a line while none is being edited.
    pub(super) fn print(&self, line: &str) {
        write(&format!("{line}\n"));
    }

    /// Waits until a notice can be shown while a line is being edited. `None`: the terminal is gone.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn room(&self) -> Option<Room<'_>> {
        let prompt = self.editing.as_deref().filter(|_| self.dumb);
        Some(Room { notices: self.notices.reserve().await.ok()?, prompt })
    }

    /// The process was stopped and goes on, with the terminal as the shell left it. Whether the line
    /// is to be drawn again.
    ///
    /// The editor does this by itself where Ctrl-Z stopped it, but often before that has happened:
    /// the kernel may stop a thread other than the one that asked for it.
    pub(super) fn resume(&self) -> bool {
        let edits = self.editing.is_some() && !self.dumb;
        if edits && let Ok(mut raw) = tcgetattr(io::stdin()) {
            raw.input_modes.remove(
                InputModes::BRKINT
                    | InputModes::ICRNL
                    | InputModes::INPCK
                    | InputModes::ISTRIP
                    | InputModes::IXON,
            );
            raw.local_modes.remove(
                LocalModes::ECHO | LocalModes::ICANON | LocalModes::IEXTEN | LocalModes::ISIG,
            );
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
            write("\x1b[?2004h");
        }
        self.editing.is_some()
    }

    /// Ctrl-C came as a signal while a line was being edited. On a dumb terminal the kernel has
    /// thrown the line away; elsewhere Ctrl-C is no signal then, and it came too late for a command.
    pub(super) fn interrupted(&self) {
        if let Some(prompt) = self.editing.as_ref().filter(|_| self.dumb) {
            write(&format!("\n{prompt}"));
        }
    }
}

impl Room<'_> {
    /// Shows these lines, and the one that is being edited again.
    pub(super) fn show(self, lines: &[String]) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.notices.send(match self.prompt {
            Some(prompt) => format!("\n{lines}{prompt}"),
            // Nothing to show, and the editor would end it with a new line: up and down again.
            None if lines.is_empty() => "\x1b[A\n".to_owned(),
            None => lines,
        });
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.editing.is_some() {
            // Pasted text is no longer marked, and the shell's prompt gets a line of its own.
            write(if self.dumb { "\n" } else { "\x1b[?2004l\r\n" });
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.mode);
        }
    }
}

/// A terminal that takes nothing is not worth a failure: its end shows in the editor.
fn write(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Prints notices above the line that is being edited.
fn print(mut printer: Option<impl ExternalPrinter>, mut waiting: mpsc::Receiver<String>) {
    while let Some(notice) = waiting.blocking_recv() {
        match &mut printer {
            Some(printer) => {
                let _ = printer.print(notice);
            }
            None => write(&notice),
        }
    }
}

/// Edits one line for each prompt.
fn edit(
    mut editor: Editor<Line, FileHistory>,
    asked: &std_mpsc::Receiver<Asked>,
    answer: &mpsc::Sender<(Typed, bool)>,
    dumb: bool,
) {
    let mut kept = load(&mut editor, answer);
    while let Ok(asked) = asked.recv() {
        let (line, unread) = match asked {
            Asked::Line(prompt, styled) => {
                let line = editor.readline(&(prompt, styled));
                // On a dumb terminal it has read no more than the line.
                (line, !dumb && is_ready())
            }
            Asked::Ahead(line) => {
                let line = String::from_utf8(line)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error).into());
                (line, false)
            }
        };
        let typed = match line {
            Ok(line) => {
                keep(&mut editor, &line, &mut kept, answer);
                Typed::Line(line)
            }
            Err(ReadlineError::Interrupted) => Typed::Abandoned,
            // From the kernel, which passes what is typed as it is.
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let words = "that is not UTF-8: write bytes as \\xNN".to_owned();
                let _ = answer.blocking_send((Typed::Trouble(words), false));
                Typed::Abandoned
            }
            Err(_) => Typed::End,
        };
        if answer.blocking_send((typed, unread)).is_err() {
            return;
        }
    }
}

/// The file that lines are kept in, if it can be used.
fn load(
    editor: &mut Editor<Line, FileHistory>,
    answer: &mpsc::Sender<(Typed, bool)>,
) -> Option<PathBuf> {
    let path = history::path(|name| std::env::var_os(name))?;
    let usable = history::make_folder(&path)
        .and_then(|()| history::check(&path))
        .and_then(|()| history::mend(&path));
    let loaded = usable.and_then(|()| match editor.load_history(&path) {
        Err(ReadlineError::Io(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    match loaded {
        Ok(()) => Some(path),
        Err(error) => {
            complain(&path, &error, answer);
            None
        }
    }
}

/// Keeps the line for later sessions, at once: the process may be killed.
fn keep(
    editor: &mut Editor<Line, FileHistory>,
    line: &str,
    kept: &mut Option<PathBuf>,
    answer: &mpsc::Sender<(Typed, bool)>,
) {
    let _ = editor.add_history_entry(line);
    if let Some(path) = kept
        && let Err(error) = history::check(path)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.append_history(path))
    {
        let error = match error {
            ReadlineError::Io(error) => error,
            error => io::Error::other(error),
        };
        complain(path, &error, answer);
        *kept = None;
    }
}

fn complain(path: &std::path::Path, error: &io::Error, answer: &mpsc::Sender<(Typed, bool)>) {
    let path = escape(&path.display().to_string());
    let words = format!("the history is not kept: {path}: {}", reason(error));
    let _ = answer.blocking_send((Typed::Trouble(words), false));
}
