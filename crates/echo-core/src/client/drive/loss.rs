//! The end of a connection: whether the client goes on, and what is said of it.

use std::io;
use std::time::Duration;

use super::{Driver, Happened, Link};
use crate::client::error::{Bytes, Words, leaving};
use crate::client::{ClosedEarly, Dialect, Error};
use crate::frame::Goaway;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    Goaway(Goaway),
    Fin,
    Failed(io::Error),
    Silent(Duration),
}

impl Driver {
    /// The connection has ended.
    pub(super) fn lose(&mut self, ended: End) -> Result<Happened, Error> {
        self.link = Link::Down;
        // A defect that came first, whatever ended the connection behind it.
        if let Some(fault) = self.requests.resized() {
            return Err(fault);
        }
        let is_due = self.requests.is_due();
        let done = self.finishing && !is_due && !self.requests.is_inside_frame();
        let framed = self.session.as_ref().is_some_and(|it| it.dialect == Dialect::Framed);
        let goes_on = self.retry.is_allowed() && framed;
        if let End::Failed(error) = &ended
            && let Some(refused) = Error::secured(error)
        {
            return Err(refused);
        }
        match &ended {
            End::Goaway(_) | End::Fin if done => return Err(self.finished()),
            End::Failed(_) if done && goes_on => return Err(self.finished()),
            End::Silent(_) if !is_due => return Err(self.silent(&ended)),
            _ if !goes_on => return Err(self.why(ended)),
            _ => {}
        }
        let why = self.why(ended);
        self.retry.lose(why, is_due);
        self.requests.start_over(Dialect::Framed, 0);
        Ok(Happened::Lost)
    }

    fn why(&mut self, ended: End) -> Error {
        let (asked, answered) = self.requests.counts();
        let (bytes_unanswered, bytes_answered) = self.requests.byte_counts();
        let orderly = matches!(ended, End::Goaway(_) | End::Fin);
        let (how, goaway) = match (ended, self.broken.take()) {
            (End::Goaway(goaway), _) => (leaving(goaway.reason), Some(goaway)),
            (End::Failed(error), _) | (End::Fin, Some(error))
                if error.kind() == io::ErrorKind::TimedOut =>
            {
                let unanswered = Bytes(bytes_unanswered);
                return Error::TimedOut(format!("{}: {unanswered} unanswered", Words(&error)));
            }
            (End::Failed(error), _) | (End::Fin, Some(error)) => (Words(&error).to_string(), None),
            (End::Fin, None) => ("the server ended the stream".to_owned(), None),
            (ended @ End::Silent(_), _) => return self.silent(&ended),
        };
        let inside_frame = self.requests.is_inside_frame();
        Error::ClosedEarly(Box::new(ClosedEarly {
            how,
            goaway,
            orderly,
            inside_frame,
            asked,
            answered,
            bytes_unanswered,
            bytes_answered,
        }))
    }

    fn silent(&self, ended: &End) -> Error {
        let End::Silent(limit) = ended else { return Error::Over };
        Error::TimedOut(if self.requests.is_due() {
            match self.requests.byte_counts().0 {
                0 => format!("nothing came for {limit:?}: a reply is due"),
                unanswered => {
                    format!("nothing came for {limit:?}: {} unanswered", Bytes(unanswered))
                }
            }
        } else {
            let all = Bytes(self.requests.byte_counts().1);
            format!("the server did not end the stream for {limit:?}, all {all} answered")
        })
    }
}
