//! The limit on open files, and how many connections fit in it.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::{CONFIG, Failure, RAISE_OPEN_FILES};

/// Descriptors that are neither connections nor stored files: listeners, the runtime's own, stdio.
const RESERVE: u64 = 64;

/// The fewest with which the runtime, a listener and a connection exist.
const MINIMUM: u64 = 16;

/// Raises the soft limit to the hard one and returns what is in force; `None` is no limit.
pub(crate) fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    }
}

/// How many connections to allow beside `stored` files that are open: `wanted` must fit, `default` is lowered. Where
/// the limit is low, files get half of what there is, and find none where more are open at once.
pub(crate) fn fit(
    wanted: Option<NonZeroUsize>,
    default: NonZeroUsize,
    stored: u64,
    open_files: Option<u64>,
) -> Result<NonZeroUsize, Failure> {
    let connections = wanted.unwrap_or(default);
    let Some(open_files) = open_files else { return Ok(connections) };
    if open_files < MINIMUM {
        return Err(Failure::new(
            CONFIG,
            format!(
                "cannot start: {open_files} open files are allowed, but at least {MINIMUM} are \
                 needed: {RAISE_OPEN_FILES}"
            ),
        ));
    }
    let room = open_files.saturating_sub(RESERVE);
    let kept = RESERVE + stored.min(room / 2);
    let room = usize::try_from(open_files.saturating_sub(kept)).unwrap_or(usize::MAX);
    if connections.get() <= room {
        return Ok(connections);
    }
    if wanted.is_some() {
        return Err(Failure::new(
            CONFIG,
            format!(
                "--max-connections {connections} does not fit: {open_files} open files are \
                 allowed, {kept} of them are kept; ask for at most {room}, or raise the limit \
                 (ulimit -Hn, LimitNOFILE=)"
            ),
        ));
    }
    let room = NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN);
    tracing::warn!(
        "--max-connections is {room} instead of {default}: {open_files} open files are allowed, \
         {kept} of them are kept; raise the limit (ulimit -Hn, LimitNOFILE=) for more"
    );
    Ok(room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_bends_and_a_wish_does_not() {
        let number = |n| NonZeroUsize::new(n).unwrap();
        let fitted = |wanted: Option<usize>, open_files| {
            let fitted = fit(wanted.map(number), number(10_000), 0, open_files);
            fitted.map(NonZeroUsize::get).map_err(|failure| failure.code)
        };
        assert_eq!(fitted(None, None), Ok(10_000));
        assert_eq!(fitted(None, Some(10_064)), Ok(10_000));
        assert_eq!(fitted(None, Some(1024)), Ok(960));
        assert_eq!(fitted(None, Some(16)), Ok(1));
        assert_eq!(fitted(None, Some(15)), Err(CONFIG));
        assert_eq!(fitted(Some(960), Some(1024)), Ok(960));
        assert_eq!(fitted(Some(961), Some(1024)), Err(CONFIG));
        assert_eq!(fitted(Some(20_000), None), Ok(20_000));
    }

    /// Connections leave room for the files that clients have open.
    #[test]
    fn stored_files_have_their_share() {
        let number = |n| NonZeroUsize::new(n).unwrap();
        let fitted = |wanted: Option<usize>, open_files| {
            let fitted = fit(wanted.map(number), number(10_000), 1280, Some(open_files));
            fitted.map(NonZeroUsize::get).map_err(|failure| failure.code)
        };
        assert_eq!(fitted(None, 20_000), Ok(10_000));
        assert_eq!(fitted(None, 10_064), Ok(8_720));
        assert_eq!(fitted(Some(8_720), 10_064), Ok(8_720));
        assert_eq!(fitted(Some(8_721), 10_064), Err(CONFIG));
        assert_eq!(fitted(None, 1024), Ok(480), "half of what there is");
        assert_eq!(fitted(None, 16), Ok(1));
    }
}
