//! Whole frames through [`Framed`](tokio_util::codec::Framed), for clients, tests and other
//! people's code. The server's pass-through shares the header parser, not these buffers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::{HEADER_LEN, Header, Kind, MAX_CONTROL_LEN, MAX_PAYLOAD_LEN};
use crate::Error;

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the frame is.
    pub kind: Kind,
    /// Its payload. It shares the connection's read block: copy what is to be kept for long.
    pub payload: Bytes,
}

impl Frame {
    /// An ECHO frame.
    pub fn echo(payload: impl Into<Bytes>) -> Self {
        Self { kind: Kind::ECHO, payload: payload.into() }
    }
}

/// Decodes and encodes [`Frame`]s, bounded: a longer frame is an error at its header, and memory
/// grows with what arrived, never with what a header declares.
///
/// `reserve`ing the declared length, as length-delimited codecs do, would let 1,000 peers that send
/// four bytes each claim gigabytes.
#[derive(Clone, Debug)]
pub struct FrameCodec {
    max_frame: u32,
}

impl FrameCodec {
    /// A codec that passes payloads of up to `max_frame` bytes, at most [`MAX_PAYLOAD_LEN`], and
    /// control frames of up to [`MAX_CONTROL_LEN`] in any case.
    pub const fn new(max_frame: u32) -> Self {
        let max_frame = if max_frame > MAX_PAYLOAD_LEN { MAX_PAYLOAD_LEN } else { max_frame };
        Self { max_frame }
    }

    /// A control frame may be longer than a small limit for the rest.
    const fn limit(&self, kind: Kind) -> u32 {
        match kind {
            Kind::ECHO | Kind::PROBE => self.max_frame,
            _ if self.max_frame < MAX_CONTROL_LEN => MAX_CONTROL_LEN,
            _ => self.max_frame,
        }
    }
}

impl Default for FrameCodec {
    fn default() -> Self {
        Self::new(crate::Limits::default().max_frame)
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let Some(head) = src.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let header = Header::parse(*head);
        let max = self.limit(header.kind);
        if header.len > max {
            return Err(Error::FrameTooLong { len: header.len, max });
        }
        if src.len() - HEADER_LEN < header.len as usize {
            return Ok(None);
        }
        src.advance(HEADER_LEN);
        Ok(Some(Frame { kind: header.kind, payload: src.split_to(header.len as usize).freeze() }))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, Error> {
        match self.decode(src)? {
            Some(frame) => Ok(Some(frame)),
            None if src.is_empty() => Ok(None),
            None => Err(Error::Truncated),
        }
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = Error;

    fn encode(&mut self, frame: Frame, dst: &mut BytesMut) -> Result<(), Error> {
        let len = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        let max = self.limit(frame.kind);
        if len > max {
            return Err(Error::FrameTooLong { len, max });
        }
        dst.reserve(HEADER_LEN + frame.payload.len());
        dst.put_slice(&Header { kind: frame.kind, len }.to_bytes());
        dst.put_slice(&frame.payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fault 26: a declared length allocates nothing.
    #[test]
    fn a_header_alone_reserves_nothing() {
        let mut codec = FrameCodec::new(MAX_PAYLOAD_LEN);
        let mut src =
            BytesMut::from(&Header { kind: Kind::ECHO, len: MAX_PAYLOAD_LEN }.to_bytes()[..]);
        let before = src.capacity();
        assert!(codec.decode(&mut src).unwrap().is_none());
        assert_eq!(src.capacity(), before);
    }

    #[test]
    fn an_end_inside_a_frame_is_truncated() {
        for cut in 1..6 {
            let mut src = BytesMut::from(&b"\0\0\0\x02ab"[..cut]);
            assert!(matches!(FrameCodec::default().decode_eof(&mut src), Err(Error::Truncated)));
        }
        assert!(matches!(FrameCodec::default().decode_eof(&mut BytesMut::new()), Ok(None)));
    }

    #[test]
    fn over_long_frames_are_refused_both_ways() {
        let mut codec = FrameCodec::new(2);
        let mut src = BytesMut::from(&b"\0\0\0\x03"[..]);
        assert!(matches!(codec.decode(&mut src), Err(Error::FrameTooLong { len: 3, max: 2 })));
        let mut dst = BytesMut::new();
        assert!(codec.encode(Frame::echo(&b"abc"[..]), &mut dst).is_err());
        assert!(dst.is_empty());
    }

    proptest! {
        /// Fault 8: every split of a stream of frames decodes to the same frames.
        #[test]
        fn round_trip_at_every_split(frames in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8), step in 1usize..20) {
            let frames: Vec<Frame> = frames.into_iter().map(|(kind, payload)| Frame { kind: Kind(kind), payload: payload.into() }).collect();
            let mut wire = BytesMut::new();
            let mut codec = FrameCodec::new(40);
            for frame in &frames {
                codec.encode(frame.clone(), &mut wire).unwrap();
            }
            let (mut src, mut out) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(step) {
                src.extend_from_slice(piece);
                while let Some(frame) = codec.decode(&mut src).unwrap() {
                    out.push(frame);
                }
            }
            prop_assert!(codec.decode_eof(&mut src).unwrap().is_none());
            prop_assert_eq!(out, frames);
        }

        /// Fault 29: random input ends in frames or an error, never in a panic.
        #[test]
        fn random_input(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut src = BytesMut::from(&bytes[..]);
            let mut codec = FrameCodec::new(1000);
            while let Ok(Some(_)) = codec.decode(&mut src) {}
            let _ = codec.decode_eof(&mut src);
        }
    }
}
