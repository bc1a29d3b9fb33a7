//! Keys of the log: how each thing is named in its space, so that the order of bytes is the order wanted.
//!
//! ```text
//!   events  seq                                  types   type 0x00 seq
//!   index   c|i|s  length  text  seq             t  block → least and greatest time
//!   state   l order · v name · g first-seq · m account · r rule
//!   audit   a number · k number · n
//! ```
//!
//! Numbers are big-endian. A text longer than 255 bytes is indexed by its beginning: an index names who may match, the
//! record says who does.

use bytes::{BufMut, Bytes, BytesMut};

/// Sequence numbers that share one entry of the time index.
pub(super) const BLOCK: u64 = 1_024;

/// A kind of key in the index or the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Room {
    Correlation = b'c',
    Intent = b'i',
    Source = b's',
    Time = b't',
    Life = b'l',
    Value = b'v',
    Gap = b'g',
    Account = b'm',
    Rule = b'r',
    Link = b'a',
    Checkpoint = b'k',
    Anchor = b'n',
}

/// The key of an event.
pub(super) fn event(seq: u64) -> Bytes {
    Bytes::copy_from_slice(&seq.to_be_bytes())
}

/// The key of an event under its type.
pub(super) fn typed(topic: &str, seq: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(topic.len() + 9);
    key.put_slice(topic.as_bytes());
    key.put_u8(0);
    key.put_u64(seq);
    key.freeze()
}

/// The key of an event under a text.
pub(super) fn indexed(room: Room, text: &str, seq: u64) -> Bytes {
    let text = &text.as_bytes()[..text.len().min(usize::from(u8::MAX))];
    let mut key = BytesMut::with_capacity(text.len() + 10);
    key.put_u8(room as u8);
    key.put_u8(text.len() as u8);
    key.put_slice(text);
    key.put_u64(seq);
    key.freeze()
}

/// A key that ends in a number.
pub(super) fn numbered(room: Room, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(9);
    key.put_u8(room as u8);
    key.put_u64(number);
    key.freeze()
}

/// A key that ends in a name.
pub(super) fn named(room: Room, name: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(1 + name.len());
    key.put_u8(room as u8);
    key.put_slice(name);
    key.freeze()
}

/// The number a key ends in.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    key.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Bytes that are so many numbers.
pub(super) fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    let words: &[[u8; 8]; N] = words.try_into().ok()?;
    Some(words.map(u64::from_be_bytes))
}

/// The first key behind all that begin with `prefix`.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if last < u8::MAX {
            key.push(last + 1);
            return key;
        }
    }
    // Nothing is behind a prefix of 0xff alone: longer than any key of ours.
    vec![u8::MAX; 1 << 10]
}
