//! Why a file frame is not served, in the words and the number that its client gets.

use std::borrow::Cow;
use std::{error, fmt, io};

use echo_core::{ErrorCode, ErrorFrame, Kind};
use rustix::io::Errno;

use super::counts::Limit;
use super::trouble::{self, Doing};
use crate::exit::reason;

/// The answer to a frame that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) code: ErrorCode,
    pub(super) text: Cow<'static, str>,
    /// The bound that was hit.
    pub(super) limit: Option<Limit>,
    /// Its reason was told before: it answers what was sent behind a frame that was refused.
    pub(super) again: bool,
}

/// Among errors of the system, a bound of the server's.
impl error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into(), limit: None, again: false }
    }

    /// A bound is hit.
    pub(super) fn over(limit: Limit, code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { limit: Some(limit), ..Self::new(code, text) }
    }

    /// The payload of such a frame cannot be read.
    pub(super) fn malformed(kind: Kind) -> Self {
        Self::new(ErrorCode::Malformed, format!("malformed {kind:?} frame"))
    }

    /// A frame that does not fit what is under way.
    pub(super) fn out_of_place(text: &'static str) -> Self {
        Self::new(ErrorCode::UnexpectedKind, text)
    }

    pub(super) fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "there is no file of that name")
    }

    /// Its place cannot be a file's.
    pub(super) fn no_place() -> Self {
        Self::new(ErrorCode::Forbidden, "no file can have that name: something else is there")
    }

    /// The payload of the ERROR frame.
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(64);
        ErrorFrame { code: self.code, closes: false, text: Cow::Borrowed(&self.text) }
            .put(&mut payload);
        payload
    }

    /// What reading a file, or a folder, came to.
    pub(super) fn reading(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            // What is no file, or lies behind what is no folder, is not there for clients.
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR) => Self::not_found(),
            other => {
                trouble::tell(Doing::Read, &error);
                match other {
                    Some(Errno::ACCESS | Errno::PERM) => {
                        Self::new(ErrorCode::Failed, "the server may not read it")
                    }
                    _ => Self::failed(&error),
                }
            }
        }
    }

    /// What removing came to.
    pub(super) fn removing(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Self::not_found(),
            _ => Self::changing(Doing::Remove, error),
        }
    }

    /// What writing came to.
    pub(super) fn writing(error: io::Error) -> Self {
        Self::changing(Doing::Write, error)
    }

    fn changing(doing: Doing, error: io::Error) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(refusal) => return refusal,
            Err(error) => error,
        };
        let full = |text| Self::over(Limit::Disk, ErrorCode::NoSpace, text);
        let refusal = match Errno::from_io_error(&error) {
            // What a client asks for alone: it is told, and nobody else.
            Some(Errno::FBIG) => return full("the server cannot store a file that long"),
            Some(Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                return Self::no_place();
            }
            Some(Errno::NOSPC) => full("the server's disk is full"),
            Some(Errno::DQUOT) => full("the server has used up its quota on its disk"),
            Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => {
                Self::new(ErrorCode::Failed, "the server may not write there")
            }
            _ => Self::failed(&error),
        };
        trouble::tell(doing, &error);
        refusal
    }

    /// Something is done, and the disk failed to keep it.
    pub(super) fn not_durable(done: &str, error: &io::Error) -> Self {
        trouble::tell(Doing::Sync, error);
        let Self { code, text, .. } = Self::failed(error);
        Self::new(code, format!("{done}, but may not outlast a crash: {text}"))
    }

    fn failed(error: &io::Error) -> Self {
        Self::new(ErrorCode::Failed, format!("the server's storage failed: {}", reason(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_a_code() {
        for (errno, code) in [
            (Errno::NOSPC, ErrorCode::NoSpace),
            (Errno::DQUOT, ErrorCode::NoSpace),
            (Errno::FBIG, ErrorCode::NoSpace),
            (Errno::NOTDIR, ErrorCode::Forbidden),
            (Errno::LOOP, ErrorCode::Forbidden),
            (Errno::ROFS, ErrorCode::Failed),
            (Errno::IO, ErrorCode::Failed),
        ] {
            assert_eq!(Refusal::writing(errno.into()).code, code, "{errno:?}");
        }
        assert_eq!(Refusal::reading(Errno::LOOP.into()).code, ErrorCode::NotFound);
        assert_eq!(Refusal::reading(Errno::IO.into()).code, ErrorCode::Failed);
    }
}
