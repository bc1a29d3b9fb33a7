//! The view `intents`: a row per intent, with the counts of its processes.
//!
//! Processes of an intent may be another's to hear of than the intent is: their counts are rows of their own, and who
//! may hear of both is shown the sum. Invariant: without the intent's own row nothing is shown.

use crate::events::record::Record;
use crate::events::views::fold::{Fields, Folded, Shown, Skip, cut};
use crate::events::views::table::{self, Part, Table};
use kairo_wire::codec::decode::from_slice;
use kairo_wire::event::{Event, ProcessEnded, ProcessExited, ProcessLost, ProcessSpawned};
use kairo_wire::methods::rows::{IntentOutcome, IntentRow, ProcessCounts};
use serde::{Deserialize, Serialize};

pub(super) const STARTED: &str = "kairo.intent.started";
pub(super) const ENDED: &str = "kairo.intent.ended";
pub(super) const CANCELLED: &str = "kairo.intent.cancelled";

/// Longest text kept of an intent, bytes.
const TEXT_BYTES_MAX: usize = 512;

/// What one audience may hear of an intent.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct State(Option<IntentRow>, u64, u64, u64);

impl table::State for State {
    fn is_over(&self) -> bool {
        let State(row, started, _, ended) = self;
        row.as_ref().is_none_or(|row| row.state != IntentOutcome::Open) && ended >= started
    }
}

pub(super) fn fold(record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let fields = Fields::of(record);
    let count: fn(&mut State) -> &mut u64 = match &*record.topic {
        STARTED | ENDED | CANCELLED => {
            // What cancels a story that is no intent names none.
            let Some(id) = named(record, fields)? else { return Ok(Folded::No) };
            let fresh = || Some(State::default());
            return table.update(record.seq, (id, &record.audience), fresh, |state| {
                let row = state.0.get_or_insert_with(|| blank(id));
                apply(row, record, fields);
                Ok(())
            });
        }
        ProcessSpawned::TOPIC => |state| &mut state.1,
        ProcessExited::TOPIC => |state| &mut state.2,
        ProcessEnded::TOPIC | ProcessLost::TOPIC => |state| &mut state.3,
        _ => return Ok(Folded::No),
    };
    let Some(intent) = record.intent.as_deref() else { return Ok(Folded::No) };
    table.update(
        record.seq,
        (intent, &record.audience),
        || Some(State::default()),
        |state| {
            *count(state) += 1;
            Ok(())
        },
    )
}

/// The intent an event of intents is about.
pub(super) fn named<'a>(record: &Record<'_>, fields: Fields<'a>) -> Result<Option<&'a str>, Skip> {
    if record.topic == CANCELLED && fields.inner("intentId").is_none() {
        return Ok(None);
    }
    fields.need("intentId").map(Some)
}

fn blank(id: &str) -> IntentRow {
    IntentRow {
        id: id.to_owned(),
        name: None,
        parent: None,
        owner: None,
        state: IntentOutcome::Open,
        started_at_ms: None,
        ended_at_ms: None,
        deadline_ms: None,
        summary: None,
        processes: ProcessCounts::default(),
    }
}

/// The first end is the end.
fn apply(row: &mut IntentRow, record: &Record<'_>, fields: Fields<'_>) {
    let text = |name| fields.get::<&str>(name).map(|text| cut(text, TEXT_BYTES_MAX));
    if record.topic == STARTED {
        row.name = text("name");
        row.parent = text("parent");
        row.deadline_ms = fields.get("deadlineMs").map(|after: u64| record.time_ms.saturating_add(after));
        row.owner = Some(cut(&record.principal, TEXT_BYTES_MAX));
        row.started_at_ms = Some(record.time_ms);
        return;
    }
    row.summary = row.summary.take().or_else(|| text("summary"));
    if row.state == IntentOutcome::Open {
        row.ended_at_ms = Some(record.time_ms);
        row.state = match &*record.topic {
            CANCELLED => IntentOutcome::Cancelled,
            _ if fields.inner("error").is_some() => IntentOutcome::Failed,
            _ => IntentOutcome::Ended,
        };
    }
}

pub(super) fn show(parts: &[Part<'_>]) -> Option<Shown> {
    let mut shown: Option<IntentRow> = None;
    let mut processes = ProcessCounts::default();
    for part in parts {
        let State(row, started, exited, ended) = from_slice(part.state).ok()?;
        shown = shown.or(row);
        processes.started += started;
        processes.exited += exited;
        processes.ended += ended;
    }
    Shown::of(&IntentRow { processes, ..shown? })
}
