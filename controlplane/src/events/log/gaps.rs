//! Ranges of which a reader can't be shown everything: what was dropped, with a summary, and what was lost.
//!
//! Each is a value under its first sequence number and its reason. Invariant: ranges that were dropped don't overlap; a
//! drop that touches an older one takes it in.

use super::backend::{Fault, Op, Space, View};
use super::keys::{self, Room};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Most types a summary names; the rest are counted together.
pub(super) const TYPES_MAX: usize = 64;

/// A range with something missing in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its first sequence number.
    pub from: u64,
    /// Its last.
    pub to: u64,
    /// Why.
    pub why: Reason,
}

/// Why something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retention dropped events in the range.
    Compacted(Summary),
    /// They were lost. What happened, in words.
    Damaged(String),
}

/// What is left of dropped events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were dropped; when it is less than the range is long, the others are still there.
    pub events: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Lowest of their times, milliseconds since 1970.
    pub first_ms: u64,
    /// Highest.
    pub last_ms: u64,
    /// How many of which type, by type.
    pub types: Vec<(String, u64)>,
    /// How many of types that are not named.
    pub others: u64,
}

impl Summary {
    /// Takes in one event.
    pub(super) fn add(&mut self, topic: &str, time_ms: u64, bytes: u64) {
        self.merge(&Summary {
            events: 1,
            bytes,
            first_ms: time_ms,
            last_ms: time_ms,
            types: vec![(topic.to_owned(), 1)],
            others: 0,
        });
    }

    /// Takes in another one.
    pub(crate) fn merge(&mut self, other: &Summary) {
        if other.events == 0 {
            return;
        }
        let empty = self.events == 0;
        self.first_ms = if empty { other.first_ms } else { self.first_ms.min(other.first_ms) };
        self.last_ms = self.last_ms.max(other.last_ms);
        self.events += other.events;
        self.bytes += other.bytes;
        self.others += other.others;
        for (topic, count) in &other.types {
            match self.types.binary_search_by(|entry| entry.0.as_str().cmp(topic)) {
                Ok(at) => self.types[at].1 += count,
                Err(at) if self.types.len() < TYPES_MAX => self.types.insert(at, (topic.clone(), *count)),
                Err(_) => self.others += count,
            }
        }
    }
}

impl Gap {
    /// True if it and the range have a number in common.
    pub(super) fn meets(&self, from: u64, to: u64) -> bool {
        self.from <= to && self.to >= from
    }

    pub(super) fn key(&self) -> Bytes {
        let mut key = BytesMut::from(&keys::numbered(Room::Gap, self.from)[..]);
        key.put_u8(matches!(self.why, Reason::Damaged(_)) as u8);
        key.freeze()
    }

    pub(super) fn put(&self) -> Result<Op, Fault> {
        let value = match &self.why {
            Reason::Compacted(summary) => rmp_serde::to_vec(&(self.to, Some(summary), None::<&str>)),
            Reason::Damaged(what) => rmp_serde::to_vec(&(self.to, None::<&Summary>, Some(what))),
        };
        let value = value.map_err(|error| Fault::Damaged(error.to_string()))?;
        Ok(Op::Put(Space::State, self.key(), value.into()))
    }

    fn parse(key: &[u8], value: &[u8]) -> Option<Gap> {
        let from = keys::number(key.get(1..9)?)?;
        let (to, summary, what): (u64, Option<Summary>, Option<String>) =
            rmp_serde::from_slice(value).ok()?;
        let why = match summary {
            Some(summary) => Reason::Compacted(summary),
            None => Reason::Damaged(what.unwrap_or_default()),
        };
        Some(Gap { from, to, why })
    }
}

/// Gaps that have a number in common with the range, in order. There are few: each takes in what it touches.
pub(super) fn between(view: &dyn View, from: u64, to: u64) -> Result<Vec<Gap>, Fault> {
    let end = keys::numbered(Room::Gap, to.saturating_add(1));
    let rows = view.rows(Space::State, &[Room::Gap as u8], &end, false);
    let mut gaps = Vec::new();
    for row in rows {
        let (key, value) = row?;
        gaps.extend(Gap::parse(&key, &value).filter(|gap| gap.meets(from, to)));
    }
    Ok(gaps)
}
