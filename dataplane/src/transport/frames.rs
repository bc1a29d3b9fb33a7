//! What stands in front of a stream's bytes on the wire, and the records between them, for one subscription.
//!
//! The shapes are the wire's ([`chunk`] and [`envelope`](kairo_wire::envelope)); what is here is only what a subscription fixes
//! once: its names, its dialect, and whether it has asked for records.

use crate::key::Channel;
use bytes::BytesMut;
use kairo_wire::chunk::{self, Prelude};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::envelope::put_notice;
use kairo_wire::event::{Event, StreamEndReason, StreamEndRecord, StreamGapRecord, StreamOverflowNotice};
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::methods::stream::StreamName;

/// How a subscription's frames look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
    /// `subscriptionId`.
    pub id: SubscriptionId,
    /// `processId`, for the v1 notice of a gap.
    pub process_id: ProcessId,
    /// Largest `data`, bytes.
    pub chunk_bytes_max: usize,
    /// With offsets, gap and end records.
    pub records: bool,
    /// With the time of each read.
    pub timestamps: bool,
    /// How integers are written.
    pub dialect: Dialect,
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
    /// When its last byte was read, if that is known and asked for.
    pub time: Option<u64>,
    /// A piece of a longer line.
    pub partial: bool,
    /// Length of `data`.
    pub bytes: usize,
}

fn name(channel: Channel) -> StreamName {
    match channel {
        Channel::Stdout => StreamName::Stdout,
        Channel::Stderr => StreamName::Stderr,
    }
}

impl Framing {
    /// Appends header and prelude of a chunk: everything but its bytes.
    pub fn prelude(&self, chunk: Chunk, out: &mut BytesMut) {
        let prelude = Prelude {
            subscription_id: self.id.as_str(),
            stream: name(chunk.channel),
            sequence: chunk.sequence,
            offset: self.records.then_some(chunk.offset),
            time: chunk.time,
            partial: chunk.partial,
        };
        chunk::put_prelude(out, self.dialect, &prelude, chunk.bytes);
    }

    /// Appends the record of a gap: `stream.gap` with its range, or what a v1 reader knows, `stream.overflow`.
    pub fn gap(&self, channel: Channel, from: u64, to: u64, out: &mut BytesMut) {
        let subscription_id = self.id.clone();
        if self.records {
            self.put(&StreamGapRecord { subscription_id, stream: name(channel), from, to }, out);
        } else {
            let process_id = self.process_id.clone();
            self.put(&StreamOverflowNotice { subscription_id, process_id }, out);
        }
    }

    /// Appends the record a stream ends with; nothing for v1 readers.
    pub fn end(&self, channel: Channel, total_bytes: u64, gap_bytes: u64, out: &mut BytesMut) {
        if self.records {
            let reason = StreamEndReason::Closed;
            let (subscription_id, stream) = (self.id.clone(), name(channel));
            self.put(&StreamEndRecord { subscription_id, stream, total_bytes, gap_bytes, reason }, out);
        }
    }

    fn put<E: Event>(&self, record: &E, out: &mut BytesMut) {
        if let Err(error) = put_notice(out, self.dialect, record) {
            tracing::error!(%error, topic = E::TOPIC, "a record was not encoded");
        }
    }
}
