//! STREAM_CHUNK frames: bytes of a stream.
//!
//! `{subscriptionId, stream, sequence, [offset], [time], [partial], data}`. `data` comes last, so that whoever sends can write
//! the header and everything before the bytes, and then move the bytes without copying them here. No key or value
//! before it contains the text `data`: v1 clients look for that.

use crate::codec::check::check;
use crate::codec::decode;
use crate::codec::encode::{self, Dialect};
use crate::frame::{Header, Kind};
use crate::limits::{CHUNK_BYTES_MAX, EXACT_INTEGER_END, HEADER_BYTES};
use crate::methods::stream::StreamName;
use crate::response::ResponseError;
use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use std::borrow::Cow;

/// What stands before the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude<'a> {
    /// Whose.
    pub subscription_id: &'a str,
    /// Of which stream.
    pub stream: StreamName,
    /// Counts the frames of the subscription from 1.
    pub sequence: u64,
    /// Of the first byte, from the stream's birth; sent with the feature `records`.
    pub offset: Option<u64>,
    /// When the last byte was read from the child: CLOCK_MONOTONIC, nanoseconds; sent with the feature `timestamps`, if
    /// it is known.
    pub time: Option<u64>,
    /// In the line modes: the bytes are a piece of a line that is longer than a chunk, and not its last.
    pub partial: bool,
}

/// Most bytes [`put_prelude`] writes, for ids of ours.
pub const PRELUDE_BYTES_MAX: usize = 192;

/// Appends a frame up to its bytes; exactly `length` of them must follow.
pub fn put_prelude(buf: &mut BytesMut, dialect: Dialect, prelude: &Prelude<'_>, length: usize) {
    debug_assert!(length <= CHUNK_BYTES_MAX, "a chunk is within its limit");
    debug_assert!(
        prelude.sequence < EXACT_INTEGER_END && prelude.offset.is_none_or(|at| at < EXACT_INTEGER_END)
    );
    let at = buf.len();
    buf.put_slice(&[0; HEADER_BYTES]);
    // Three months after the start of a machine its time fits no float any more: whoever reads floats is told none.
    let time = prelude.time.filter(|time| dialect == Dialect::Int64 || *time < EXACT_INTEGER_END);
    let optional = [prelude.offset.is_some(), time.is_some(), prelude.partial];
    encode::put_map16(buf, 4 + optional.into_iter().map(u16::from).sum::<u16>());
    encode::put_str(buf, "subscriptionId");
    encode::put_str(buf, prelude.subscription_id);
    encode::put_str(buf, "stream");
    encode::put_str(buf, prelude.stream.word());
    encode::put_str(buf, "sequence");
    encode::put_uint(buf, dialect, prelude.sequence);
    if let Some(offset) = prelude.offset {
        encode::put_str(buf, "offset");
        encode::put_uint(buf, dialect, offset);
    }
    if let Some(time) = time {
        encode::put_str(buf, "time");
        encode::put_uint(buf, dialect, time);
    }
    if prelude.partial {
        encode::put_str(buf, "partial");
        buf.put_u8(0xc3);
    }
    encode::put_str(buf, "data");
    encode::put_bin_header(buf, length);
    let payload = buf.len() - at - HEADER_BYTES + length;
    let header = Header { kind: Kind::STREAM_CHUNK, length: payload }.bytes();
    buf[at..at + HEADER_BYTES].copy_from_slice(&header);
}

/// A chunk, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chunk<'a> {
    /// Whose.
    #[serde(borrow)]
    pub subscription_id: Cow<'a, str>,
    /// Of which stream.
    pub stream: StreamName,
    /// Counts the frames of the subscription from 1.
    pub sequence: u64,
    /// Of the first byte; with the feature `records`.
    pub offset: Option<u64>,
    /// See [`Prelude::time`].
    #[serde(default)]
    pub time: Option<u64>,
    /// See [`Prelude::partial`].
    #[serde(default)]
    pub partial: bool,
    /// The bytes.
    #[serde(borrow)]
    pub data: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Checks and reads a STREAM_CHUNK payload.
    pub fn read(payload: &'a [u8]) -> Result<Chunk<'a>, ResponseError> {
        check(payload)?;
        Ok(decode::from_slice(payload)?)
    }
}
