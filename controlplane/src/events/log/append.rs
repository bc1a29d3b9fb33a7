//! What is written: batches of events, lives and values.
//!
//! Invariant: the totals in the state are those of the events that are there, in the same batch that changed them.

use super::backend::{Op, Space};
use super::keys::{self, Room};
use super::{Log, LogError};
use crate::audit::Order;
use bytes::{BufMut, Bytes, BytesMut};

/// The account of all events, by name.
pub(super) const TOTALS: &[u8] = b"totals";

/// What is written as one.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// Events, their numbers rising.
    pub events: Vec<Stored<'a>>,
    /// Records of sessions.
    pub lives: Vec<Life>,
    /// Values to keep or to drop.
    pub values: Vec<Value>,
    /// What is to be done to the audit, behind the events.
    pub orders: Vec<Order>,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Stored<'a> {
    /// Its place.
    pub seq: u64,
    /// Its type, as in the record.
    pub topic: &'a str,
    /// The encoded record.
    pub record: Bytes,
}

/// One record of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// How to read it.
    pub kind: Kind,
    /// What it says.
    pub bytes: Bytes,
}

/// One named value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub key: Bytes,
    /// None drops it.
    pub bytes: Option<Bytes>,
}

/// What a record of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry as it is.
    Clear,
    /// A spec, sealed.
    Sealed,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Clear => 1,
            Kind::Sealed => 2,
        }
    }

    pub(super) fn of(byte: u8) -> Option<Kind> {
        [Kind::Clear, Kind::Sealed].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Events.
    pub events: u64,
    /// Of their records.
    pub bytes: u64,
    /// The highest number ever used.
    pub last: u64,
}

impl Totals {
    pub(super) fn put(self) -> Op {
        let value = [self.events, self.bytes, self.last].map(u64::to_be_bytes).concat();
        Op::Put(Space::State, keys::named(Room::Account, TOTALS), value.into())
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Totals> {
        let [events, bytes, last] = keys::numbers(bytes)?;
        Some(Totals { events, bytes, last })
    }
}

impl Log {
    /// Writes a batch, whole or not at all. When it returns, a killed process loses none of it. After an error nothing is
    /// written any more.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        let mut totals = self.totals;
        let mut ops = std::mem::take(&mut self.spare);
        ops.reserve(2 * batch.events.len() + batch.lives.len() + batch.values.len() + 1);
        for event in &batch.events {
            if event.seq <= totals.last {
                let last = totals.last;
                return Err(LogError::Order { seq: event.seq, last });
            }
            totals.last = event.seq;
            totals.events += 1;
            totals.bytes += event.record.len() as u64;
            ops.push(Op::Put(Space::Events, keys::event(event.seq), event.record.clone()));
            ops.push(Op::Put(Space::Types, keys::typed(event.topic, event.seq), Bytes::new()));
        }
        ops.extend(batch.lives.iter().zip(self.next_life..).map(|(life, order)| put_life(order, life)));
        ops.extend(batch.values.iter().map(|value| {
            let key = keys::named(Room::Value, &value.key);
            match &value.bytes {
                Some(bytes) => Op::Put(Space::State, key, bytes.clone()),
                None => Op::Delete(Space::State, key),
            }
        }));
        self.audit(batch, &mut ops)?;
        if totals != self.totals {
            ops.push(totals.put());
            // A log that says how far it is has a database, whole.
            self.backend.make().inspect_err(|_| self.failed = true)?;
            self.lease(totals.last)?;
        }
        self.write(ops)?;
        self.audited()?;
        if let Some(head) = self.head.as_mut().filter(|_| totals != self.totals) {
            head.mark(totals.last).inspect_err(|_| self.failed = true)?;
        }
        self.totals = totals;
        self.next_life += batch.lives.len() as u64;
        batch.events.iter().for_each(|event| self.recent.add(event.seq, event.record.clone()));
        self.bound()
    }

    /// Makes what was written survive a power failure. After an error nothing is written any more.
    pub fn sync(&mut self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        self.backend.sync().inspect_err(|_| self.failed = true)?;
        Ok(())
    }

    /// Puts `lives` in the place of all there are, at once.
    pub fn replace_lives(&mut self, lives: &[Life]) -> Result<(), LogError> {
        let old = self.reader.lives()?;
        let mut ops: Vec<Op> =
            old.iter().map(|life| Op::Delete(Space::State, keys::numbered(Room::Life, life.0))).collect();
        ops.extend(lives.iter().zip(self.next_life..).map(|(life, order)| put_life(order, life)));
        self.write(ops)?;
        self.next_life += lives.len() as u64;
        Ok(())
    }

    /// Reserves numbers up to well behind `last`, before they are used.
    pub(super) fn lease(&mut self, last: u64) -> Result<(), LogError> {
        let Some(head) = &mut self.head else { return Ok(()) };
        // A lease without a mark would say that something of it was used.
        head.begin(self.totals.last).and_then(|()| head.lease(last)).inspect_err(|_| self.failed = true)
    }
}

fn put_life(order: u64, life: &Life) -> Op {
    let mut value = BytesMut::with_capacity(1 + life.bytes.len());
    value.put_u8(life.kind.byte());
    value.put_slice(&life.bytes);
    Op::Put(Space::State, keys::numbered(Room::Life, order), value.freeze())
}
