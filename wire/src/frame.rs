//! Frames: an 8-byte header, then that many bytes of MessagePack.
//!
//! ```text
//!  0      2      3      4              8
//!  ┌──────┬──────┬──────┬──────────────┬───────────────┐
//!  │ "KA" │  1   │ kind │ length, BE   │ payload       │
//!  └──────┴──────┴──────┴──────────────┴───────────────┘
//! ```
//!
//! Its own room because both ends and the data plane need frames without the rest. Invariant: no memory is taken
//! by a length a peer claimed before the bytes are there; a decoder between frames holds no memory at all. What a
//! payload means is in `request`, `response`, `event` and `chunk`.

use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES};
use bytes::{BufMut, BytesMut};

/// The first two bytes of every frame.
pub const MAGIC: [u8; 2] = *b"KA";

/// The third.
pub const VERSION: u8 = 1;

/// The TYPE byte of a header. Values other than the four named are carried along and ignored by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// A call, client to kernel.
    pub const REQUEST: Kind = Kind(1);
    /// Its answer.
    pub const RESPONSE: Kind = Kind(2);
    /// A notice or a bus event.
    pub const EVENT: Kind = Kind(3);
    /// Bytes of a stream.
    pub const STREAM_CHUNK: Kind = Kind(4);
}

/// Why the bytes are not a frame. After one of these a connection cannot be resynchronised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first two bytes.
    #[error("bad magic {0:02x?}: a frame begins with \"KA\"")]
    Magic([u8; 2]),
    /// The third byte.
    #[error("protocol version {0} is not spoken here, only {VERSION}")]
    Version(u8),
    /// The length.
    #[error("a payload of {length} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLong {
        /// As claimed.
        length: u32,
    },
}

/// A header that passed its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// Bytes of payload, at most [`FRAME_BYTES_MAX`].
    pub length: usize,
}

impl Header {
    /// Reads and checks a header.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, FrameError> {
        let [m0, m1, version, kind, l0, l1, l2, l3] = *bytes;
        if [m0, m1] != MAGIC {
            return Err(FrameError::Magic([m0, m1]));
        }
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length as usize > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong { length });
        }
        Ok(Header { kind: Kind(kind), length: length as usize })
    }

    /// The eight bytes.
    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.length <= FRAME_BYTES_MAX, "a frame of ours is never over the limit");
        let [l0, l1, l2, l3] = (self.length as u32).to_be_bytes();
        [MAGIC[0], MAGIC[1], VERSION, self.kind.0, l0, l1, l2, l3]
    }
}

/// Appends a header for a payload of known length.
pub fn put_header(buf: &mut BytesMut, kind: Kind, length: usize) {
    buf.put_slice(&Header { kind, length }.bytes());
}

/// Appends a header whose length is not known yet; give the result to [`finish`].
pub fn begin(kind: Kind, buf: &mut BytesMut) -> usize {
    let at = buf.len();
    put_header(buf, kind, 0);
    at
}

/// Writes the length of everything appended since [`begin`] into its header.
pub fn finish(buf: &mut BytesMut, at: usize) {
    let length = buf.len() - at - HEADER_BYTES;
    debug_assert!(length <= FRAME_BYTES_MAX, "a frame of ours is never over the limit");
    buf[at + 4..at + HEADER_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
}

/// Cuts a stream of bytes into frames.
///
/// Frames that lie whole in the input are handed out as slices of it; only a frame cut by the end of the input is
/// copied. `partial` is empty and unallocated exactly when the decoder stands between two frames.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Vec<u8>,
    failed: Option<FrameError>,
}

impl Decoder {
    /// One that stands before the first frame.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Bytes of an unfinished frame.
    pub fn pending_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Memory it holds, bytes.
    pub fn reserved_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the next bytes and calls `each` with the kind and payload of every frame they complete, in order.
    /// Frames before a bad header are handed out; the error stays, and later input is not looked at.
    pub fn feed(&mut self, input: &[u8], mut each: impl FnMut(Kind, &[u8])) -> Result<(), FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let outcome = self.cut(input, &mut each);
        if let Err(error) = outcome {
            self.failed = Some(error);
            self.partial = Vec::new();
        }
        outcome
    }

    fn cut(&mut self, mut input: &[u8], each: &mut impl FnMut(Kind, &[u8])) -> Result<(), FrameError> {
        if !self.partial.is_empty() {
            match self.complete(input)? {
                None => return Ok(()),
                Some((header, rest)) => {
                    each(header.kind, &self.partial[HEADER_BYTES..]);
                    self.partial = Vec::new();
                    input = rest;
                }
            }
        }
        while let Some(bytes) = input.first_chunk::<HEADER_BYTES>() {
            let header = Header::parse(bytes)?;
            let end = HEADER_BYTES + header.length;
            if input.len() < end {
                break;
            }
            each(header.kind, &input[HEADER_BYTES..end]);
            input = &input[end..];
        }
        self.partial.extend_from_slice(input);
        Ok(())
    }

    /// Tops the unfinished frame up from `input`. Returns its header and the rest once it is whole.
    fn complete<'i>(&mut self, mut input: &'i [u8]) -> Result<Option<(Header, &'i [u8])>, FrameError> {
        input = self.take(input, HEADER_BYTES);
        let Some(bytes) = self.partial.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(bytes)?;
        let end = HEADER_BYTES + header.length;
        input = self.take(input, end);
        Ok((self.partial.len() == end).then_some((header, input)))
    }

    /// Moves bytes from the input until `partial` has `end` of them. Memory at most doubles what has arrived, and
    /// never passes `end`.
    fn take<'i>(&mut self, input: &'i [u8], end: usize) -> &'i [u8] {
        let want = end.saturating_sub(self.partial.len()).min(input.len());
        let len = self.partial.len() + want;
        if len > self.partial.capacity() {
            let capacity = (len * 2).min(end);
            self.partial.reserve_exact(capacity - self.partial.len());
        }
        let (head, rest) = input.split_at(want);
        self.partial.extend_from_slice(head);
        rest
    }
}
