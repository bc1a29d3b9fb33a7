//! Events to publish, whoever publishes and counts them, and fjall by itself writing as many.

use super::bare::Bare;
use super::daemon::Daemon;
use super::flow::{Flow, Seen};
use super::raw::{EVENT, RESPONSE, outcome, request_bytes, value};
use bytes::Bytes;
use kairo_client::ConnectOptions;
use kairo_controlplane::events::record::{Audience, Record};
use kairo_wire::codec::raw::RawRef;
use serde_json::json;
use std::time::Instant;

/// Bytes of a record as the log keeps it, and of the noise in one that a client of the daemon's user published.
pub(crate) const RECORD_BYTES: usize = 300;
pub(crate) const DATA_BYTES: usize = 194;
/// Types of events begin so.
pub(crate) const PREFIX: &str = "bench.kind";
pub(crate) const KINDS: u64 = 20;
/// Calls a publisher has in flight.
const IN_FLIGHT: usize = 8;

/// The type of an event.
pub(crate) fn topic(seq: u64) -> String {
    format!("{PREFIX}.{}", seq % KINDS)
}

/// Text that doesn't compress, another for each event.
pub(crate) fn noise(seq: u64, bytes: usize) -> String {
    let mut state = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = String::with_capacity(bytes + 16);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.push_str(&format!("{state:016x}"));
    }
    noise.truncate(bytes);
    noise
}

/// Requests that publish events 1 to `events` in batches.
pub(crate) fn batches(events: u64, size: u64, ack: &str) -> Vec<Vec<u8>> {
    let draft = |seq| json!({"type": topic(seq), "data": noise(seq, DATA_BYTES)});
    let batch = |first: u64| {
        let drafts: Vec<_> = (first..(first + size).min(events + 1)).map(draft).collect();
        let params = json!({"events": drafts, "ack": ack});
        request_bytes(1 << 20 | first, "event.publish_batch", value(&params))
    };
    (1..=events).step_by(size as usize).map(batch).collect()
}

/// Sends requests, so many in flight, until all are answered well.
pub(crate) fn publish(flow: &mut Flow, requests: &[Vec<u8>]) {
    let mut answered = 0;
    let mut sent = 0;
    while answered < requests.len() {
        while sent < requests.len() && sent - answered < IN_FLIGHT {
            flow.send(&requests[sent]);
            sent += 1;
        }
        if let Seen::Other(frame) = flow.next(|_| {})
            && frame.kind == RESPONSE
        {
            outcome(&frame.value()).expect("it is published");
            answered += 1;
        }
    }
}

/// Reads so many events of ours; anything else is a loss.
pub(crate) fn count(flow: &mut Flow, events: usize) {
    for at in 0..events {
        let Seen::Other(frame) = flow.next(|_| {}) else { panic!("nobody asked for chunks") };
        let is_ours = frame.payload.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes());
        assert!(frame.kind == EVENT && is_ours, "after {at} events: {}", frame.json());
    }
}

/// Events a second from the first request until the last is acknowledged and a subscriber has counted every one.
pub(crate) fn rate_with_a_subscriber(daemon: &Daemon, requests: &[Vec<u8>], events: usize) -> f64 {
    let (mut publisher, mut subscriber) = (Flow::events(&daemon.socket), Flow::events(&daemon.socket));
    subscriber.call("subscribe", json!({"topic": format!("{PREFIX}.>")}));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| count(&mut subscriber, events));
        publish(&mut publisher, requests);
    });
    events as f64 / begun.elapsed().as_secs_f64()
}

/// A client that doesn't come back: a lost connection is an error.
pub(crate) fn client(daemon: &Daemon) -> kairo_client::Client {
    let options = ConnectOptions { reconnect: None, ..ConnectOptions::default() };
    kairo_client::Client::connect_with(&daemon.socket, &options).expect("the daemon accepts connections")
}

/// Events a second that fjall by itself writes, `first` and those behind it.
pub(crate) fn rate_of_bare(bare: &Bare, first: u64, records: &[String], size: usize, flush: bool) -> f64 {
    let begun = Instant::now();
    for (number, batch) in records.chunks(size).enumerate() {
        let numbered = batch.iter().zip(first + (number * size) as u64..);
        bare.write(numbered.map(|(record, seq)| (seq, topic(seq), record.as_str())), flush);
    }
    records.len() as f64 / begun.elapsed().as_secs_f64()
}

/// What fjall by itself is given to write.
pub(crate) fn records(events: u64) -> Vec<String> {
    (1..=events).map(|seq| noise(seq, RECORD_BYTES)).collect()
}

/// One event as the log keeps it, which the kernel says that `source` has published.
pub(crate) fn record(
    seq: u64,
    topic: &str,
    source: &str,
    audience: Audience,
    story: &str,
    data: RawRef<'_>,
) -> Bytes {
    let record = Record {
        seq,
        id: (u128::from(seq) << 64 | u128::from(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_be_bytes(),
        time_ms: 1_700_000_000_000 + seq,
        topic: topic.into(),
        source: source.into(),
        principal: source.into(),
        audience,
        correlation: Some(story.into()),
        causation: None,
        intent: None,
        trace: None,
        span: None,
        key: None,
        tool_call: None,
        answers: None,
        error: None,
        data,
    };
    record.encode().expect("it can be encoded")
}
