//! The signals that stop the server, and the one that makes it read its settings anew.

use std::fmt;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens to the signals from its creation on, so that none is missed between two waits.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signalled {
    Stop(Stop),
    Reload,
}

/// A signal that asks for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Terminate,
    Interrupt,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        // Asked of other daemons by habit. Once listened to, they end the process no more.
        for other in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::alarm()]
        {
            drop(signal(other)?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signalled {
        tokio::select! {
            biased; // Who wants the end wants no reload before it.
            _ = self.terminate.recv() => Signalled::Stop(Stop::Terminate),
            _ = self.interrupt.recv() => Signalled::Stop(Stop::Interrupt),
            _ = self.hang_up.recv() => Signalled::Reload,
        }
    }

    /// Waits for the next signal that asks for the end, and leaves others to be told later. Cancel
    /// safe.
    pub(crate) async fn stop(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.interrupt.recv() => Stop::Interrupt,
        }
    }
}

impl Stop {
    /// The signal's number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}
