//! The view `correlations`: a row per story, from its first event to its last.
//!
//! Anybody may name a story, so its events may be different audiences' to hear of: each has its part, and a reader is
//! shown the sum of what it may hear.

use crate::events::record::Record;
use crate::events::views::fold::{Folded, Shown, Skip};
use crate::events::views::intents;
use crate::events::views::table::{Part, State, Table};
use kairo_wire::codec::decode::from_slice;
use kairo_wire::event::{Event, ProcessEnded, ProcessLost, ProcessSpawned};
use kairo_wire::id::EventId;
use kairo_wire::methods::rows::{CorrelationRoot, CorrelationRow};
use serde::{Deserialize, Serialize};

/// Most types that are counted apart.
const TYPES_MAX: usize = 16;

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Moment(u64, u64);

/// First and last moment (seq, time), events, how many of which type and of others, the first event's id, and how much
/// is under way: processes and intents. The first type is the first event's.
#[derive(Serialize, Deserialize)]
pub(super) struct Story(Moment, Moment, u64, Vec<(String, u64)>, u64, (u64, u64), u64);

impl State for Story {
    fn is_over(&self) -> bool {
        self.6 == 0
    }
}

pub(super) fn fold(record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let Some(correlation) = record.correlation.as_deref() else { return Ok(Folded::No) };
    let now = Moment(record.seq, record.time_ms);
    let fresh = || {
        let id = u128::from_be_bytes(record.id);
        Some(Story(now, now, 0, Vec::new(), 0, ((id >> 64) as u64, id as u64), 0))
    };
    table.update(record.seq, (correlation, &record.audience), fresh, |story| {
        let Story(_, last, events, types, others, _, open) = story;
        *open = match &*record.topic {
            ProcessSpawned::TOPIC | intents::STARTED => *open + 1,
            ProcessEnded::TOPIC | ProcessLost::TOPIC | intents::ENDED | intents::CANCELLED => {
                open.saturating_sub(1)
            }
            _ => *open,
        };
        *last = now;
        *events += 1;
        match types.iter().position(|(topic, _)| *topic == *record.topic) {
            Some(at) => types[at].1 += 1,
            None if types.len() < TYPES_MAX => types.push((record.topic.to_string(), 1)),
            None => *others += 1,
        }
        Ok(())
    })
}

pub(super) fn show(parts: &[Part<'_>]) -> Option<Shown> {
    let mut shown: Option<CorrelationRow> = None;
    for part in parts {
        let Story(first, last, events, types, others, (high, low), _) = from_slice(part.state).ok()?;
        let row = shown.get_or_insert_with(|| CorrelationRow {
            root: CorrelationRoot { id: String::new(), topic: String::new() },
            first_seq: u64::MAX,
            first_time_ms: 0,
            last_seq: 0,
            last_time_ms: 0,
            events: 0,
            types: Default::default(),
            other_types: 0,
        });
        if first.0 < row.first_seq {
            let id = EventId::new(u128::from(high) << 64 | u128::from(low));
            let topic = types.first().map(|(topic, _)| topic.clone()).unwrap_or_default();
            row.root = CorrelationRoot { id: id.as_str().to_owned(), topic };
            (row.first_seq, row.first_time_ms) = (first.0, first.1);
        }
        if last.0 > row.last_seq {
            (row.last_seq, row.last_time_ms) = (last.0, last.1);
        }
        row.events += events;
        row.other_types += others;
        for (topic, count) in types {
            *row.types.entry(topic).or_default() += count;
        }
    }
    Shown::of(&shown?)
}
