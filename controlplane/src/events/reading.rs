//! Answering what the kernel asks of the log: pages for subscriptions that are not up to date, pages of a replay.
//!
//! Done off the lock and off the reactors: what comes out is ready to be sent. Invariant: what a hearer may not hear is
//! not in it, and a page says how far it has looked, not how much it found.

use crate::auth::grant::hears;
use crate::events::form::{Form, put_frame, put_value};
use crate::events::log::{self, Page, PageLimit, Query, Reader, Reason, Types};
use crate::events::outlet::{Answer, Found, Hearer, Question};
use crate::events::record::Record;
use bytes::{Bytes, BytesMut};
use kairo_dataplane::key::Channel;
use kairo_wire::codec::CodecError;
use kairo_wire::codec::encode::{self, to_buf};
use kairo_wire::codec::raw::Raw;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{Event, EventGapRecord, ProcessEnded, ProcessExited, ProcessSpawned, StreamClosed};
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::event::{Gap, GapCause};
use kairo_wire::methods::stream::StreamName;
use serde::{Deserialize, Serialize};

/// Bytes of records of one page for a subscription: it has to fit what a connection may have unread.
const FEED_BYTES_MAX: usize = 192 << 10;
/// Bytes of records of one page of a replay: well below the limit of a frame.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Events a page looks at: some milliseconds.
const LOOKED_AT_MAX: usize = 20_000;

/// Reads what was asked for.
pub fn answer(reader: &Reader, question: &Question) -> Answer {
    answer_with(question, read(reader, question))
}

/// The answer that was found.
pub(crate) fn answer_with(question: &Question, found: Result<Found, ReadError>) -> Answer {
    let found = found.map_err(|error| WireError::new(Code::Unavailable, error.to_string()));
    Answer { ticket: question.ticket, found, keep: Vec::new() }
}

/// What is told of a process once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Milestone {
    /// It runs.
    Born,
    /// Its leader exited.
    Exited,
    /// Its tree is gone.
    Ended,
    /// An output closed.
    Closed(Channel),
}

/// The latest ends of processes in the log, by session: more than there can be that a keeper has not been told are kept.
pub fn ends_told(reader: &Reader) -> Result<Vec<(String, Milestone)>, log::LogError> {
    const LATEST: usize = 1_024;
    let limit = PageLimit { events: LATEST, bytes: PAGE_BYTES_MAX, looked_at: LOOKED_AT_MAX };
    let mut told = Vec::new();
    for topic in [ProcessExited::TOPIC, ProcessEnded::TOPIC, StreamClosed::TOPIC] {
        let types = vec![Types::Exact(topic.to_owned())];
        let page = reader.scan(&Query { types, backward: true, ..Query::default() }, None, limit)?;
        told.extend(milestones(&page));
    }
    Ok(told)
}

/// Births and closed outputs in the log from this place on, by session.
pub fn births_told(reader: &Reader, from: u64) -> Result<Vec<(String, Milestone)>, log::LogError> {
    let limit = PageLimit { events: LOOKED_AT_MAX, bytes: PAGE_BYTES_MAX, looked_at: LOOKED_AT_MAX };
    let types = [ProcessSpawned::TOPIC, StreamClosed::TOPIC].map(|topic| Types::Exact(topic.to_owned()));
    let query = Query { types: types.into(), from, ..Query::default() };
    let (mut told, mut next) = (Vec::new(), Some(from));
    while let Some(at) = next {
        let page = reader.scan(&query, Some(at), limit)?;
        told.extend(milestones(&page));
        next = page.next;
    }
    Ok(told)
}

fn milestones(page: &Page) -> impl Iterator<Item = (String, Milestone)> {
    let events = page.events.iter().filter_map(|(seq, bytes)| record(*seq, bytes));
    events.filter_map(|event| milestone(&event))
}

/// What an event tells, and of which session.
fn milestone(event: &Record<'_>) -> Option<(String, Milestone)> {
    #[derive(Deserialize)]
    struct Of {
        session: String,
        stream: Option<StreamName>,
    }
    let of: Of = event.data.decode().ok()?;
    let what = match (&*event.topic, of.stream) {
        (StreamClosed::TOPIC, Some(StreamName::Stdout)) => Milestone::Closed(Channel::Stdout),
        (StreamClosed::TOPIC, Some(StreamName::Stderr)) => Milestone::Closed(Channel::Stderr),
        (ProcessSpawned::TOPIC, _) => Milestone::Born,
        (ProcessExited::TOPIC, _) => Milestone::Exited,
        (ProcessEnded::TOPIC, _) => Milestone::Ended,
        _ => return None,
    };
    Some((of.session, what))
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error("an event can't be sent: {0}")]
    Codec(#[from] CodecError),
}

fn read(reader: &Reader, question: &Question) -> Result<Found, ReadError> {
    if question.is_replay() {
        return Ok(Draft::read(reader, question)?.finish(question)?);
    }
    let page = page(reader, question, FEED_BYTES_MAX)?;
    let found = found(&page, question);
    if question.raw {
        let hears = |(seq, bytes): &&(u64, Bytes)| {
            record(*seq, bytes).is_some_and(|event| hears(&question.hearer.principal, &event.audience))
        };
        let records: Vec<(u64, Bytes)> = page.events.iter().filter(hears).cloned().collect();
        let gaps = page.gaps.iter().map(told).collect();
        return Ok(Found { events: records.len(), records, gaps, ..found });
    }
    let Some(subscription) = &question.subscription else { return Ok(found) };
    let (bytes, events) = frames(&page, &question.hearer, subscription)?;
    Ok(Found { bytes, events, ..found })
}

fn page(reader: &Reader, question: &Question, bytes: usize) -> Result<Page, log::LogError> {
    let limit = PageLimit { events: question.limit, bytes, looked_at: LOOKED_AT_MAX };
    reader.scan(&question.query, None, limit)
}

/// How far a page has looked.
fn found(page: &Page, question: &Question) -> Found {
    let end = page.end_seq.max(question.query.from.saturating_sub(1));
    let seen = page.next.map_or(end, |next| next.saturating_sub(1));
    Found { seen, more: page.next.is_some(), ..Found::default() }
}

/// What is written beside an event's record, about.
const ENVELOPE_BYTES: usize = 384;

/// Room for the events of a page, written.
fn room(page: &Page) -> BytesMut {
    let records: usize = page.events.iter().map(|(_, record)| record.len() + ENVELOPE_BYTES).sum();
    BytesMut::with_capacity(records + ENVELOPE_BYTES)
}

/// The events of a page that a hearer may hear of.
fn heard<'p>(page: &'p Page, hearer: &'p Hearer) -> impl Iterator<Item = Record<'p>> {
    let events = page.events.iter().filter_map(|(seq, bytes)| record(*seq, bytes));
    events.filter(|event| hears(&hearer.principal, &event.audience))
}

/// What can't be read as a record is left out: the store has checked it, so a later version wrote it.
fn record(seq: u64, bytes: &Bytes) -> Option<Record<'_>> {
    Record::parse(seq, bytes)
        .inspect_err(|error| tracing::warn!(component = "log", seq, %error, "an event is stepped over"))
        .ok()
}

/// EVENT frames, each gap before what follows it; and how many events.
fn frames(page: &Page, hearer: &Hearer, subscription: &SubscriptionId) -> Result<(Bytes, usize), CodecError> {
    let form = Form {
        dialect: hearer.dialect,
        envelope: hearer.envelope,
        replayed: true,
        subscription: Some(subscription.as_str()),
        delivery: None,
    };
    let (mut buf, mut events) = (room(page), 0);
    let mut gaps = page.gaps.iter().filter(|_| hearer.envelope).peekable();
    let mut tell = |buf: &mut BytesMut, before: u64| -> Result<(), CodecError> {
        while let Some(gap) = gaps.next_if(|gap| gap.from <= before) {
            let record = EventGapRecord { subscription_id: subscription.clone(), gap: told(gap) };
            put_notice(buf, hearer.dialect, &record)?;
        }
        Ok(())
    };
    for event in heard(page, hearer) {
        tell(&mut buf, event.seq)?;
        put_frame(&mut buf, &event, None, &form)?;
        events += 1;
    }
    tell(&mut buf, u64::MAX)?;
    Ok((buf.freeze(), events))
}

/// A page of a replay, written as the result of `event.replay` but for its end.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Its events are written, and no longer in it.
    pub(crate) page: Page,
    written: BytesMut,
    events: usize,
}

impl Draft {
    pub(crate) fn read(reader: &Reader, question: &Question) -> Result<Draft, log::LogError> {
        let mut page = page(reader, question, PAGE_BYTES_MAX)?;
        let hearer = &question.hearer;
        let form = Form {
            dialect: hearer.dialect,
            envelope: hearer.envelope,
            replayed: true,
            subscription: None,
            delivery: None,
        };
        let mut written = room(&page);
        encode::put_map16(&mut written, if page.next.is_some() { 4 } else { 3 });
        // In front, so that it is found without a look at the events: a client asks for the next page first of all.
        if let Some(next) = page.next {
            encode::put_str(&mut written, "next");
            encode::put_uint(&mut written, hearer.dialect, next);
        }
        encode::put_str(&mut written, "events");
        // Nearly always all are heard.
        let head = written.len();
        encode::put_array_header(&mut written, page.events.len());
        let (first, mut events) = (written.len(), 0);
        for event in heard(&page, hearer) {
            put_value(&mut written, &event, &form);
            events += 1;
        }
        if events < page.events.len() {
            let values = written.split_off(first);
            written.truncate(head);
            encode::put_array_header(&mut written, events);
            written.extend_from_slice(&values);
        }
        page.events = Vec::new();
        Ok(Draft { page, written, events })
    }

    pub(crate) fn finish(self, question: &Question) -> Result<Found, CodecError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Rest {
            gaps: Vec<Gap>,
            last_seq: u64,
        }
        let Draft { page, mut written, events } = self;
        let rest = Rest { gaps: page.gaps.iter().map(told).collect(), last_seq: page.end_seq };
        // The rest is a map of its own to the encoder: what follows its header are the entries that belong here.
        let mut map = BytesMut::new();
        to_buf(&mut map, question.hearer.dialect, &rest)?;
        written.extend_from_slice(&map[3..]);
        Ok(Found { bytes: written.freeze(), events, ..found(&page, question) })
    }
}

fn told(gap: &log::Gap) -> Gap {
    let (cause, summary) = match &gap.why {
        Reason::Compacted(summary) => (GapCause::Compacted, Raw::of(&Summary::of(summary)).ok()),
        Reason::Damaged(what) => (GapCause::Damaged, Raw::of(what).ok()),
    };
    Gap { from: gap.from, to: gap.to, cause, summary }
}

/// A summary as a client reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    events: u64,
    bytes: u64,
    first_ms: u64,
    last_ms: u64,
    types: std::collections::BTreeMap<&'a str, u64>,
    others: u64,
}

impl<'a> Summary<'a> {
    fn of(summary: &'a log::Summary) -> Summary<'a> {
        Summary {
            events: summary.events,
            bytes: summary.bytes,
            first_ms: summary.first_ms,
            last_ms: summary.last_ms,
            types: summary.types.iter().map(|(topic, count)| (topic.as_str(), *count)).collect(),
            others: summary.others,
        }
    }
}
