//! The table of receipts, and how one is written down.
//!
//! Invariant: `order` names exactly the receipts that are given, each once, the oldest first; what is in flight is in no
//! order and never goes by itself.

use crate::events::journal::kept;
use bytes::Bytes;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::methods::event::Ack;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What names of receipts begin with in the log.
pub const PREFIX: &[u8] = b"once/";

/// What a key stands for.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// The first call is being carried out.
    InFlight(InFlight),
    /// It was.
    Given(Given),
}

/// A call that is being carried out.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Of its parameters.
    pub body: u64,
    /// Its ticket; 0 until it is parked.
    pub call: u64,
    /// Tickets of its repetitions.
    pub waiting: Vec<u64>,
}

/// What a call has led to.
#[derive(Debug)]
pub(crate) struct Given {
    /// Of its parameters.
    pub body: u64,
    /// Its place among all of them.
    pub order: u64,
    /// When it was given, milliseconds since 1970.
    pub at_ms: u64,
    /// The answer.
    pub result: Raw,
    /// How far the log has to be.
    pub kept: Kept,
    /// Without the log it is not so.
    pub strict: bool,
}

/// How far the log has to be until a receipt counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// The entry it is; 0 if it was there before, the last one if the log takes nothing any more.
    pub entry: u64,
    /// Written, flushed, or neither.
    pub ack: Ack,
}

/// As it is stored. A later version appends.
#[derive(Serialize, Deserialize)]
struct Stored<'a>(u64, u64, u64, #[serde(borrow)] RawRef<'a>);

/// The name of a receipt in the log.
pub(super) fn key_of(name: u128) -> Bytes {
    Bytes::from([PREFIX, &name.to_be_bytes()].concat())
}

/// What [`key_of`] named.
pub(super) fn name_of(key: &[u8]) -> Option<u128> {
    Some(u128::from_be_bytes(key.strip_prefix(PREFIX)?.try_into().ok()?))
}

impl Given {
    pub(super) fn encode(&self) -> Option<Bytes> {
        let stored = Stored(self.body, self.order, self.at_ms, self.result.as_ref());
        kept(&stored)
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Given> {
        let Stored(body, order, at_ms, result) = from_slice(bytes).ok()?;
        let kept = Kept { entry: 0, ack: Ack::Log };
        Some(Given { body, order, at_ms, result: result.to_owned(), kept, strict: false })
    }
}

impl Receipt {
    /// Of the parameters.
    pub(super) fn body(&self) -> u64 {
        match self {
            Receipt::InFlight(flight) => flight.body,
            Receipt::Given(given) => given.body,
        }
    }
}

/// All of them, by the name in the key.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    table: BTreeMap<u128, Receipt>,
    order: BTreeMap<u64, u128>,
    last: u64,
}

impl Receipts {
    pub(super) fn get(&self, name: u128) -> Option<&Receipt> {
        self.table.get(&name)
    }

    pub(super) fn next_order(&self) -> u64 {
        self.last + 1
    }

    pub(super) fn begin(&mut self, name: u128, flight: InFlight) {
        self.table.insert(name, Receipt::InFlight(flight));
    }

    /// The first call has this ticket.
    pub(crate) fn park(&mut self, name: u128, ticket: u64) {
        if let Some(Receipt::InFlight(flight)) = self.table.get_mut(&name) {
            flight.call = ticket;
        }
    }

    pub(super) fn wait(&mut self, name: u128, ticket: u64) {
        if let Some(flight) = self.flight_mut(name) {
            flight.waiting.push(ticket);
        }
    }

    /// A repetition waits no more.
    pub(crate) fn unwait(&mut self, name: u128, ticket: u64) {
        if let Some(flight) = self.flight_mut(name) {
            flight.waiting.retain(|other| *other != ticket);
        }
    }

    /// The call that is being carried out.
    pub(crate) fn flight(&self, name: u128) -> Option<&InFlight> {
        match self.table.get(&name) {
            Some(Receipt::InFlight(flight)) => Some(flight),
            Some(Receipt::Given(_)) | None => None,
        }
    }

    pub(super) fn flight_mut(&mut self, name: u128) -> Option<&mut InFlight> {
        match self.table.get_mut(&name) {
            Some(Receipt::InFlight(flight)) => Some(flight),
            Some(Receipt::Given(_)) | None => None,
        }
    }

    /// Takes out what is in flight: the key is free.
    pub(crate) fn land(&mut self, name: u128) -> Option<InFlight> {
        self.flight(name)?;
        match self.table.remove(&name) {
            Some(Receipt::InFlight(flight)) => Some(flight),
            Some(Receipt::Given(_)) | None => None,
        }
    }

    pub(super) fn give(&mut self, name: u128, given: Given) {
        self.last = self.last.max(given.order);
        self.order.insert(given.order, name);
        self.table.insert(name, Receipt::Given(given));
    }

    pub(super) fn remove(&mut self, name: u128) {
        if let Some(Receipt::Given(given)) = self.table.get(&name) {
            self.order.remove(&given.order);
            self.table.remove(&name);
        }
    }

    /// A receipt that is out of the window.
    pub(super) fn beyond(&self, now_ms: u64, window_ms: u64, most: usize) -> Option<u128> {
        let (_, name) = self.order.first_key_value()?;
        let expired = self.order.len() > most || self.is_over(*name, now_ms, window_ms);
        expired.then_some(*name)
    }

    pub(super) fn is_over(&self, name: u128, now_ms: u64, window_ms: u64) -> bool {
        let Some(Receipt::Given(given)) = self.table.get(&name) else { return false };
        now_ms >= given.at_ms.saturating_add(window_ms)
    }

    /// Most receipts that were given later.
    pub(super) fn newer_than(&self, order: u64) -> u64 {
        (self.last - order).min(self.order.len() as u64)
    }

    pub(super) fn oldest_ms(&self) -> Option<u64> {
        let (_, name) = self.order.first_key_value()?;
        match self.table.get(name) {
            Some(Receipt::Given(given)) => Some(given.at_ms),
            Some(Receipt::InFlight(_)) | None => None,
        }
    }

    /// Takes away what the log, or the disk where that was asked for, did not take and is not so without it.
    pub(super) fn withdraw(&mut self, written: u64, flushed: u64) {
        let gone = |name: &&u128| match self.table.get(name) {
            Some(Receipt::Given(given)) => {
                let kept = if given.kept.ack == Ack::Disk { flushed } else { written };
                given.strict && given.kept.entry > kept
            }
            Some(Receipt::InFlight(_)) | None => false,
        };
        let names: Vec<u128> = self.order.values().filter(gone).copied().collect();
        for name in names {
            self.remove(name);
        }
    }

    /// What is in flight, by name.
    pub(crate) fn flights(&self) -> impl Iterator<Item = (u128, &InFlight)> {
        self.table.iter().filter_map(|(name, receipt)| match receipt {
            Receipt::InFlight(flight) => Some((*name, flight)),
            Receipt::Given(_) => None,
        })
    }

    /// True if both tables say the same.
    pub(crate) fn are_whole(&self) -> bool {
        let given = self.table.values().filter(|receipt| matches!(receipt, Receipt::Given(_))).count();
        let named = self.order.iter().all(|(order, name)| match self.table.get(name) {
            Some(Receipt::Given(given)) => given.order == *order,
            Some(Receipt::InFlight(_)) | None => false,
        });
        named && given == self.order.len() && self.order.keys().all(|order| *order <= self.last)
    }

    /// How many are given.
    pub(crate) fn count(&self) -> usize {
        self.order.len()
    }
}
