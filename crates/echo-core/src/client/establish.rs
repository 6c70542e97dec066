//! A connection that is ready for use: dialled, and greeted where the target speaks frames.

use super::{Dialect, Error, Options, Session, Target, dial, hello};
use crate::endpoint::Mode;
use crate::stream::Stream;

/// A connection made.
pub(super) struct Up {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// What came behind the answer to HELLO.
    pub(super) input: Vec<u8>,
}

/// Makes one, with a single try.
pub(super) async fn establish(target: &Target, options: &Options) -> Result<Up, Error> {
    let (mut stream, peer) = dial::dial(target, options).await?;
    let mode = match target {
        Target::Endpoint(endpoint) => endpoint.mode.unwrap_or_default(),
        Target::Memory(_) => Mode::Auto,
    };
    let (session, input) = match (mode, options.hello) {
        (Mode::Raw, _) => (hello::unasked(Dialect::Raw, peer), Vec::new()),
        (_, false) => (hello::unasked(Dialect::Framed, peer), Vec::new()),
        _ => hello::negotiate(&mut stream, peer, mode, options.timeout).await?,
    };
    Ok(Up { stream, session, input })
}
