//! A server whose settings are changed.

use std::os::unix::net::UnixStream;

use crate::support::Server;
use crate::support::ending::{Settings, ends, with_args};
use crate::support::process::eventually;
use crate::support::traffic::{Peer, be, echo};

/// A server with a control socket, on the settings of a file.
pub(crate) struct Reloadable {
    pub(crate) settings: Settings,
    pub(crate) control: String,
    pub(crate) server: Server,
}

impl Reloadable {
    /// `$FOLDER` in a text is the folder of the file.
    pub(crate) fn start(text: &str, listeners: usize) -> Self {
        let settings = Settings::new("");
        let control = settings.beside("control");
        settings.write(&expanded(&settings, text));
        let args = ["--config", settings.path(), "--control", &control];
        let server = Server::start_command(with_args(&args), listeners);
        Self { settings, control, server }
    }

    pub(crate) fn write(&self, text: &str) {
        self.settings.write(&expanded(&self.settings, text));
    }

    /// Asks for a reload, and gives the exit code and the server's words.
    pub(crate) fn reload(&self) -> (Option<i32>, String) {
        let (code, stdout, stderr) =
            ends(with_args(&["ctl", "reload", "--control", &self.control]));
        assert_eq!(code == Some(0), stderr.is_empty());
        (code, stdout + &stderr)
    }

    /// Asks for a reload without a process between, and gives whether it failed, and the server's words.
    pub(crate) fn ask(&self) -> (u8, String) {
        let peer = Peer::connect(&format!("unix:{}", self.control));
        peer.send(&echo(b"reload"));
        let answer = peer.read_frame().unwrap().payload;
        (answer[0], String::from_utf8(answer[1..].to_vec()).unwrap())
    }

    /// What a new connection to the first listener is told: the longest frame, and the greeting.
    pub(crate) fn told(&self) -> (u64, String) {
        let hello = Peer::connect(&self.server.uris()[0]).hello().payload;
        (be(&hello[2..6]), String::from_utf8(hello[12..].to_vec()).unwrap())
    }

    /// Waits until of these two Unix sockets in the folder one is listened on, and the other is not.
    pub(crate) fn listens_only(&self, name: &str, other: &str) {
        let listens = |name| UnixStream::connect(self.settings.beside(name)).is_ok();
        eventually("the other is gone", || !listens(other));
        assert!(listens(name), "{name}");
    }
}

fn expanded(settings: &Settings, text: &str) -> String {
    text.replace("$FOLDER", settings.beside("x").strip_suffix("/x").unwrap())
}

pub(crate) const FIRST: &str = "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/first\"]\n\
                     max-frame = 1000\ngreeting = \"first\"\n";
pub(crate) const SECOND: &str = "listen = [\"tcp://127.0.0.1:0\", \"unix:$FOLDER/second\"]\n\
                      max-frame = 2000\ngreeting = \"second\"\n";
