//! `echo-client rm`.

use std::os::unix::ffi::OsStrExt;

use echo_core::client::{Dialogue, Fault};
use echo_core::{ErrorCode, ErrorFrame, FileName, Kind, Remove};

use super::patience::Patience;
use super::report::Report;
use super::{Trouble, WINDOW, accepted, connect, options, send, with_output};
use crate::args::Removing;
use crate::failure::Failure;
use crate::notice;
use crate::stdio::Output;

/// Removes what the command line names.
pub(crate) async fn run(args: &Removing) -> Result<(), Failure> {
    with_output(args.asking.json, |output| remove(args, output)).await
}

async fn remove(args: &Removing, output: Output) -> Result<(), Failure> {
    let checked = args.names.iter().map(|name| {
        let bytes = name.as_bytes();
        // As it was when the command line was read.
        FileName::new(bytes).map_err(|why| Failure::Local(why.to_string()))
    });
    let names = checked.collect::<Result<Vec<_>, _>>()?;
    let report = Report::new(args.asking.json, args.asking.connecting.quiet, output);
    let options = options(&args.asking.connecting, &args.target)?;
    let mut patience = Patience::new(options.retry);
    let mut removal =
        Removal { names: &names, report: &report, answered: 0, asked: 0, doubtful: 0, failed: 0 };
    loop {
        let mut dialogue = connect(&args.target, &options, patience.left(), &report).await?;
        match removal.go_on(&mut dialogue, &mut patience).await {
            Ok(()) => break,
            Err(Trouble::Lost(error))
                if error.fault() == Fault::Path && !patience.left().is_zero() =>
            {
                report.lost(&notice::lost(&error, true)).await;
                patience.pause().await;
                removal.doubtful = removal.asked;
            }
            Err(trouble) => return Err(trouble.into()),
        }
    }
    match removal.failed {
        0 => Ok(()),
        failed => Err(Failure::Local(format!("{failed} of {} files not removed", names.len()))),
    }
}

/// Files that are removed in their order, over as many connections as it takes.
struct Removal<'a> {
    names: &'a [FileName<'a>],
    report: &'a Report,
    answered: usize,
    /// So many were asked for, over whichever connection.
    asked: usize,
    /// So many were asked for over one that was lost: those without an answer may be removed, or not.
    doubtful: usize,
    failed: usize,
}

impl Removal<'_> {
    /// Asks for all that has no answer, which may be lost in the middle of it.
    async fn go_on(
        &mut self,
        dialogue: &mut Dialogue,
        patience: &mut Patience,
    ) -> Result<(), Trouble> {
        let mut next = self.answered;
        while let Some(first) = self.names.get(self.answered) {
            while let Some(&name) = self.names.get(next)
                && next < self.answered + WINDOW
            {
                next += 1;
                // Before it is sent: nobody knows how far a send has come that fails.
                self.asked = self.asked.max(next);
                send(dialogue, Kind::REMOVE, |out| Remove { name }.put(out)).await?;
            }
            let (header, payload) = dialogue.recv().await?;
            let missing = header.kind == Kind::ERROR
                && ErrorFrame::parse(&payload).is_ok_and(|it| it.code == ErrorCode::NotFound);
            match accepted((header, payload)) {
                Ok(_) => self.report.removed(first.as_bytes()).await,
                // Removed by what was asked before, as far as anybody can tell, and gone as it should be.
                Err(Trouble::File(_)) if missing && self.answered < self.doubtful => {
                    self.report.removed(first.as_bytes()).await;
                }
                Err(Trouble::File(why)) => {
                    self.failed += 1;
                    self.report.failed(None, first.as_bytes(), &why).await;
                }
                Err(trouble) => return Err(trouble),
            }
            self.answered += 1;
            patience.finished();
        }
        Ok(())
    }
}
