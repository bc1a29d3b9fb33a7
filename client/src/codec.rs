//! From payloads to what the rest of the client works with; every surprise becomes the same kind of loss.

use crate::error::Lost;
use crate::state::StreamFrame;
use bytes::Bytes;
use kairo_wire::codec::check::check;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::envelope::EventFrame;
use kairo_wire::event::{
    Event, EventCutRecord, EventGapRecord, ProcessExitNotice, StreamEndRecord, StreamGapRecord,
    StreamOverflowNotice,
};
use kairo_wire::response::{CallError as Refusal, Response};
use serde::de::DeserializeOwned;
use std::fmt;

/// A kernel that sends what it should not can't be talked to any further.
pub(crate) fn nonsense(what: impl fmt::Display) -> Lost {
    Lost::Payload(what.to_string().into())
}

/// An answer: the number of its call, and its result as raw MessagePack, which may be a part of the piece it came in.
pub(crate) fn response(
    payload: &[u8],
    shared: Option<&Bytes>,
) -> Result<(u64, Result<Bytes, Refusal>), Lost> {
    let response = Response::read(payload).map_err(nonsense)?;
    let call = response.id.decode().map_err(nonsense)?;
    Ok((call, response.outcome.map(|result| kept(result.bytes(), shared))))
}

/// Bytes up to this many are copied out of the receive buffer; more are shared with it. What is short must not keep a long
/// buffer alive.
pub(crate) const COPIED_BYTES_MAX: usize = 4 << 10;

/// A part of a payload, for as long as it is wanted.
pub(crate) fn kept(part: &[u8], shared: Option<&Bytes>) -> Bytes {
    match shared {
        Some(piece) if part.len() > COPIED_BYTES_MAX => piece.slice_ref(part),
        _ => Bytes::copy_from_slice(part),
    }
}

/// A value of a known type.
pub(crate) fn value<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Lost> {
    from_slice(raw).map_err(nonsense)
}

/// What the kernel says of a subscription to events.
pub(crate) enum Word {
    Gap(EventGapRecord),
    Cut(EventCutRecord),
}

/// If an EVENT frame says something of a subscription to events: what.
pub(crate) fn word(found: &EventFrame<'_>) -> Result<Option<Word>, Lost> {
    let Some(data) = found.data else { return Ok(None) };
    match found.topic.as_ref() {
        EventGapRecord::TOPIC => data.decode().map(|gap| Some(Word::Gap(gap))).map_err(nonsense),
        EventCutRecord::TOPIC => data.decode().map(|cut| Some(Word::Cut(cut))).map_err(nonsense),
        _ => Ok(None),
    }
}

/// If an EVENT frame belongs to a subscription to a process: whose, and what it says.
pub(crate) fn record(found: &EventFrame<'_>) -> Result<Option<(String, StreamFrame)>, Lost> {
    let Some(data) = found.data else { return Ok(None) };
    let (subscription, frame) = match found.topic.as_ref() {
        StreamGapRecord::TOPIC => {
            let gap: StreamGapRecord = data.decode().map_err(nonsense)?;
            (gap.subscription_id, StreamFrame::Gap { stream: gap.stream, from: gap.from, to: gap.to })
        }
        StreamEndRecord::TOPIC => {
            let end: StreamEndRecord = data.decode().map_err(nonsense)?;
            let StreamEndRecord { subscription_id, stream, total_bytes, gap_bytes, reason } = end;
            (subscription_id, StreamFrame::End { stream, total_bytes, gap_bytes, reason })
        }
        StreamOverflowNotice::TOPIC => {
            let overflow: StreamOverflowNotice = data.decode().map_err(nonsense)?;
            (overflow.subscription_id, StreamFrame::Overflow)
        }
        _ => return Ok(None),
    };
    Ok(Some((subscription.as_str().to_owned(), frame)))
}

/// What an EVENT frame means to a stream that has its connection to itself.
pub(crate) struct Read {
    /// It belongs to a subscription.
    pub(crate) record: Option<(String, StreamFrame)>,
    /// It tells of an exit.
    pub(crate) exit: Option<ProcessExitNotice>,
}

/// Reads an EVENT payload that has not been checked yet.
pub(crate) fn read_event(payload: &[u8]) -> Result<Read, Lost> {
    check(payload).map_err(nonsense)?;
    let found = EventFrame::parse(payload).map_err(nonsense)?;
    let exit = match found.data {
        Some(data) if found.topic == ProcessExitNotice::TOPIC => Some(data.decode().map_err(nonsense)?),
        _ => None,
    };
    Ok(Read { record: record(&found)?, exit })
}
