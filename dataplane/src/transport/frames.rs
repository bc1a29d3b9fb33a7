//! What stands in front of a stream's bytes on the wire, and the records between them.
//!
//! A chunk is `{subscriptionId, stream, sequence, offset?, partial?, data}`; `data` comes last, so that the payload can be
//! sent from where it lies, behind a prelude made here. Key order and shapes are the wire's (docs/WIRE.md); they are
//! written by hand because this is the one hot encoder, and a test reads them back with the wire's decoder.

use crate::key::Channel;
use kairo_wire::frame::{Header, Kind};
use kairo_wire::limits::HEADER_BYTES;
use std::sync::Arc;

/// How a subscription's frames look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// `subscriptionId`.
    pub id: Arc<str>,
    /// Largest `data`, bytes.
    pub chunk_bytes_max: usize,
    /// With offsets, gap and end records.
    pub records: bool,
    /// 64-bit integers as integers.
    pub exact_integers: bool,
    /// msgpack of the process id, for `stream.overflow`.
    pub process_id: bytes::Bytes,
}

/// One chunk's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Of which stream.
    pub channel: Channel,
    /// From 1, over both channels.
    pub sequence: u64,
    /// Of the first byte.
    pub offset: u64,
    /// A piece of a longer line.
    pub partial: bool,
    /// Length of `data`.
    pub bytes: usize,
}

impl Framing {
    /// Appends header and prelude of a chunk: everything but its `data.len()` bytes.
    pub fn prelude(&self, chunk: Chunk, out: &mut Vec<u8>) {
        let at = self.open(Kind::STREAM_CHUNK, out);
        let keys = 4 + u8::from(self.records) + u8::from(chunk.partial);
        put_map(out, keys);
        self.put_names(chunk.channel, out);
        put_str(out, "sequence");
        self.put_uint(out, chunk.sequence);
        if self.records {
            put_str(out, "offset");
            self.put_uint(out, chunk.offset);
        }
        if chunk.partial {
            put_str(out, "partial");
            out.push(0xc3);
        }
        put_str(out, "data");
        put_bin_header(out, chunk.bytes);
        close(at, chunk.bytes, out);
    }

    /// Appends the record of a gap: `stream.gap` with its range, or what a v1 reader knows, `stream.overflow`.
    pub fn gap(&self, channel: Channel, from: u64, to: u64, out: &mut Vec<u8>) {
        let at = self.open(Kind::EVENT, out);
        put_map(out, 2);
        put_str(out, "topic");
        put_str(out, if self.records { "stream.gap" } else { "stream.overflow" });
        put_str(out, "data");
        if self.records {
            put_map(out, 4);
            self.put_names(channel, out);
            put_str(out, "from");
            self.put_uint(out, from);
            put_str(out, "to");
            self.put_uint(out, to);
        } else {
            put_map(out, 2);
            put_str(out, "subscriptionId");
            put_str(out, &self.id);
            put_str(out, "processId");
            out.extend_from_slice(&self.process_id);
        }
        close(at, 0, out);
    }

    /// Appends the record a stream ends with; nothing for v1 readers.
    pub fn end(&self, channel: Channel, total: u64, gap_bytes: u64, reason: &str, out: &mut Vec<u8>) {
        if !self.records {
            return;
        }
        let at = self.open(Kind::EVENT, out);
        put_map(out, 2);
        put_str(out, "topic");
        put_str(out, "stream.end");
        put_str(out, "data");
        put_map(out, 5);
        self.put_names(channel, out);
        put_str(out, "totalBytes");
        self.put_uint(out, total);
        put_str(out, "gapBytes");
        self.put_uint(out, gap_bytes);
        put_str(out, "reason");
        put_str(out, reason);
        close(at, 0, out);
    }

    fn open(&self, kind: Kind, out: &mut Vec<u8>) -> usize {
        let at = out.len();
        out.extend_from_slice(&Header { kind, length: 0 }.bytes());
        at
    }

    fn put_names(&self, channel: Channel, out: &mut Vec<u8>) {
        put_str(out, "subscriptionId");
        put_str(out, &self.id);
        put_str(out, "stream");
        put_str(out, channel.name());
    }

    fn put_uint(&self, out: &mut Vec<u8>, value: u64) {
        match value {
            0..=0x7f => out.push(value as u8),
            0x80..=0xff => out.extend_from_slice(&[0xcc, value as u8]),
            0x100..=0xffff => {
                out.push(0xcd);
                out.extend_from_slice(&(value as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                out.push(0xce);
                out.extend_from_slice(&(value as u32).to_be_bytes());
            }
            _ if self.exact_integers => {
                out.push(0xcf);
                out.extend_from_slice(&value.to_be_bytes());
            }
            _ => {
                debug_assert!(value < 1 << 53, "an offset that a float can't hold");
                out.push(0xcb);
                out.extend_from_slice(&(value as f64).to_be_bytes());
            }
        }
    }
}

/// Fills in the length of the frame begun at `at`, of which `behind` bytes are still to come.
fn close(at: usize, behind: usize, out: &mut [u8]) {
    let length = (out.len() - at - HEADER_BYTES + behind) as u32;
    out[at + 4..at + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
}

fn put_map(out: &mut Vec<u8>, keys: u8) {
    out.extend_from_slice(&[0xde, 0, keys]);
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    let len = text.len();
    match len {
        0..=31 => out.push(0xa0 | len as u8),
        32..=255 => out.extend_from_slice(&[0xd9, len as u8]),
        _ => {
            debug_assert!(len <= 0xffff, "names here are short");
            out.push(0xda);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

fn put_bin_header(out: &mut Vec<u8>, len: usize) {
    match len {
        0..=0xff => out.extend_from_slice(&[0xc4, len as u8]),
        0x100..=0xffff => {
            out.push(0xc5);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(0xc6);
            out.extend_from_slice(&(len as u32).to_be_bytes());
        }
    }
}
