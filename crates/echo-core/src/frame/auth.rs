//! Payloads of AUTH frames. What they carry is the mechanism's own and no business of the frame's.

use bytes::BufMut;

use super::MalformedControl;

const START: u8 = 0;
const RESPONSE: u8 = 1;
const CHALLENGE: u8 = 0;
const SUCCESS: u8 = 1;

/// What a client sends to authenticate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AuthRequest<'a> {
    /// Begins an exchange; one that was under way is given up.
    Start {
        /// The name of a SASL mechanism, at most 255 bytes.
        mechanism: &'a [u8],
        /// The mechanism's first message.
        initial: &'a [u8],
    },
    /// The answer to a challenge.
    Response(&'a [u8]),
}

impl<'a> AuthRequest<'a> {
    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, MalformedControl> {
        match payload {
            [START, len, rest @ ..] => {
                let split = rest.split_at_checked(usize::from(*len)).ok_or(MalformedControl)?;
                Ok(Self::Start { mechanism: split.0, initial: split.1 })
            }
            [RESPONSE, data @ ..] => Ok(Self::Response(data)),
            _ => Err(MalformedControl),
        }
    }

    /// Writes the payload. A mechanism's name is cut at 255 bytes.
    pub fn put(&self, out: &mut impl BufMut) {
        match *self {
            Self::Start { mechanism, initial } => {
                let mechanism = &mechanism[..mechanism.len().min(usize::from(u8::MAX))];
                out.put_u8(START);
                out.put_u8(mechanism.len() as u8);
                out.put_slice(mechanism);
                out.put_slice(initial);
            }
            Self::Response(data) => {
                out.put_u8(RESPONSE);
                out.put_slice(data);
            }
        }
    }
}

/// Without what it carries, which may be a secret.
impl std::fmt::Debug for AuthRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start { .. } => "Start",
            Self::Response(_) => "Response",
        })
    }
}

/// What the server answers, unless it is an ERROR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum AuthReply<'a> {
    /// The exchange goes on.
    Challenge(&'a [u8]),
    /// The client has authenticated.
    Success(&'a [u8]),
}

impl<'a> AuthReply<'a> {
    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, MalformedControl> {
        match payload {
            [CHALLENGE, data @ ..] => Ok(Self::Challenge(data)),
            [SUCCESS, data @ ..] => Ok(Self::Success(data)),
            _ => Err(MalformedControl),
        }
    }

    /// Writes the payload.
    pub fn put(&self, out: &mut impl BufMut) {
        let (status, data) = match *self {
            Self::Challenge(data) => (CHALLENGE, data),
            Self::Success(data) => (SUCCESS, data),
        };
        out.put_u8(status);
        out.put_slice(data);
    }
}

/// Without what it carries.
impl std::fmt::Debug for AuthReply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Challenge(_) => "Challenge",
            Self::Success(_) => "Success",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn payloads_are_their_fields() {
        let start = AuthRequest::Start { mechanism: b"XY", initial: b"n,," };
        let (mut out, mut reply) = (Vec::new(), Vec::new());
        start.put(&mut out);
        assert_eq!(out, b"\0\x02XYn,,");
        AuthReply::Success(b"v=1").put(&mut reply);
        assert_eq!(reply, b"\x01v=1");
        for bad in [&b""[..], b"\0", b"\0\x01", b"\0\x03XY", b"\x02", b"\xff"] {
            assert_eq!(AuthRequest::parse(bad), Err(MalformedControl), "{bad:?}");
        }
        for bad in [&b""[..], b"\x02", b"\xff"] {
            assert_eq!(AuthReply::parse(bad), Err(MalformedControl), "{bad:?}");
        }
        let canary = AuthRequest::Response(b"canary");
        assert!(!format!("{canary:?} {:?}", AuthReply::Challenge(b"canary")).contains("canary"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LONG").is_some() { 1_000_000 } else { 10_000 }))]

        #[test]
        fn what_is_read_is_written_back(payload in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..40)) {
            let (mut request, mut reply) = (Vec::new(), Vec::new());
            if let Ok(parsed) = AuthRequest::parse(&payload) {
                parsed.put(&mut request);
                prop_assert_eq!(&request, &payload);
            }
            if let Ok(parsed) = AuthReply::parse(&payload) {
                parsed.put(&mut reply);
                prop_assert_eq!(&reply, &payload);
            }
        }
    }
}
