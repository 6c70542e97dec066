//! A connection that is ready for use: dialled, greeted where the target speaks frames, and authenticated
//! where that is asked for.

use super::{Dialect, Error, Options, Session, Target, dial, hello, login};
use crate::endpoint::Mode;
use crate::stream::Stream;

/// A connection made.
pub(super) struct Up {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// The frames that were asked: HELLO and AUTH.
    pub(super) asked: u64,
    /// What came behind the last answer.
    pub(super) input: Vec<u8>,
}

/// Makes one, with a single try.
pub(super) async fn establish(target: &Target, options: &Options) -> Result<Up, Error> {
    let (mut stream, peer) = dial::dial(target, options).await?;
    let mode = match target {
        Target::Endpoint(endpoint) => endpoint.mode.unwrap_or_default(),
        Target::Memory(_) => Mode::Auto,
    };
    let (session, mut input) = match (mode, options.hello) {
        (Mode::Raw, _) => (hello::unasked(Dialect::Raw, peer), Vec::new()),
        (_, false) => (hello::unasked(Dialect::Framed, peer), Vec::new()),
        _ => hello::negotiate(&mut stream, peer, mode, options.timeout).await?,
    };
    let hellos = u64::from(options.hello && session.dialect == Dialect::Framed);
    let auths = login::authenticate(&mut stream, &session, &mut input, options).await?;
    Ok(Up { stream, session, asked: hellos + auths, input })
}
