//! The limit on open files, and how many connections fit in it.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::{CONFIG, Failure, RAISE_OPEN_FILES};

/// Descriptors that are no connections: listeners, the runtime's own, stdio.
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

/// How many connections to allow: `wanted` must fit, `default` is lowered.
pub(crate) fn fit(
    wanted: Option<NonZeroUsize>,
    default: NonZeroUsize,
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
    let room = usize::try_from(open_files.saturating_sub(RESERVE)).unwrap_or(usize::MAX);
    if connections.get() <= room {
        return Ok(connections);
    }
    if wanted.is_some() {
        return Err(Failure::new(
            CONFIG,
            format!(
                "--max-connections {connections} does not fit: {open_files} open files are \
                 allowed, {RESERVE} of them are kept; ask for at most {room}, or raise the limit \
                 (ulimit -Hn, LimitNOFILE=)"
            ),
        ));
    }
    let room = NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN);
    tracing::warn!(
        "--max-connections is {room} instead of {default}: {open_files} open files are allowed, \
         {RESERVE} of them are kept; raise the limit (ulimit -Hn, LimitNOFILE=) for more"
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
            let fitted = fit(wanted.map(number), number(10_000), open_files);
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
}
