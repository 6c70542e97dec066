//! The bytes of a fuzzer as a script: each step takes what it needs from the front.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// What is left of the script. Once it is used up there are zeros, and no bytes.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    pub(crate) fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// As many bytes as the next one says.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..len).unwrap_or_default()
    }

    /// All up to the next line's end, and that.
    pub(crate) fn line(&mut self) -> &'a [u8] {
        let len = self.0.iter().position(|byte| *byte == b'\n').unwrap_or(self.0.len());
        let line = self.0.split_off(..len).unwrap_or_default();
        self.byte();
        line
    }
}

/// A runtime whose time passes only where nothing else is to be done, so that no wait takes any.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A place for files that costs no disk, where the system has one.
pub(crate) fn folder() -> tempfile::TempDir {
    static MEMORY: OnceLock<bool> = OnceLock::new();
    let memory = std::path::Path::new("/dev/shm");
    if *MEMORY.get_or_init(|| tempfile::tempdir_in(memory).is_ok()) {
        return tempfile::tempdir_in(memory).unwrap();
    }
    tempfile::tempdir().unwrap()
}
