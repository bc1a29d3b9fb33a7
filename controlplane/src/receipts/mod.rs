//! Calls that happen once: a call that changes something and carries the key of an earlier one gets that one's answer.
//!
//! ```text
//!   call K ──▶ in flight ──done──▶ receipt, written with what was done ──▶ answers to all who asked
//!   call K ───────┘ │                 └── for as long as the window is, in every later kernel too
//!                   └──failed──▶ all are told, and the key is free
//! ```
//!
//! A key belongs to who used it and to the method; other parameters under the same key are an error, because one of the two
//! calls is a mistake. Whoever made the first call may go: what is under way stays under way, for those who wait or come
//! back.
//!
//! Invariants: of any number of calls with one key one does something; none of them is answered before the log has the
//! receipt, unless the call said that memory is enough or the log takes nothing any more. Keys of writes to a stdin are the
//! data plane's, which knows what has been written; what only lasts as long as its connection has no receipt.

mod keeping;
mod succession;

pub use keeping::PREFIX;
pub(crate) use keeping::Receipts;

use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::digest::IdempotencyKey;
use crate::events::journal::{Awaiting, unkept};
use crate::kernel::Kernel;
use crate::state::Pending;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::WriteKey;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::event::Ack;
use kairo_wire::response::{AnswerMeta, Idempotency};
use keeping::{Given, InFlight, Kept, Receipt};

/// Receipts that are out of the window and go with one call.
const SWEEP: usize = 8;

/// Which receipt a call is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The name in its key.
    pub name: u128,
    /// It repeats a call.
    pub repeats: bool,
}

impl IdempotencyKey {
    /// For the data plane.
    pub(crate) fn write_key(self) -> WriteKey {
        let IdempotencyKey { name, body } = self;
        WriteKey { key: [(name >> 64) as u64, name as u64], body }
    }
}

impl Kernel {
    /// Looks whether a call was made before. False if it was, and then it is answered or waits; true if it is to be carried
    /// out, and then `asking` names the receipt it will get.
    pub(crate) fn is_first(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &mut Asking<'_>,
        keeps_receipt: bool,
    ) -> Result<bool, WireError> {
        let Some(text) = asking.meta.as_ref().and_then(|meta| meta.idempotency_key.as_deref()) else {
            return Ok(true);
        };
        if text.is_empty() {
            return Err(WireError::invalid("meta.idempotencyKey", "a key is not empty"));
        }
        let caller = self.principal(asking.connection).creator(self.config.owner_uid);
        let key = IdempotencyKey::of(&caller, asking.method, text, asking.params.bytes());
        asking.key = Some(key);
        if !keeps_receipt {
            return Ok(true);
        }
        self.sweep_receipts(turn.at);
        if self.receipts.is_over(key.name, wall_ms(turn.at), self.config.limits.receipt_ms) {
            self.forget_receipt(key.name);
        }
        match self.receipts.get(key.name) {
            None => {
                let flight = InFlight { body: key.body, call: 0, waiting: Vec::new() };
                self.receipts.begin(key.name, flight);
                asking.claim = Some(Claim { name: key.name, repeats: false });
                Ok(true)
            }
            Some(receipt) if receipt.body() != key.body => Err(conflict(text)),
            Some(_) => {
                asking.claim = Some(Claim { name: key.name, repeats: true });
                self.repeat(turn, asking, key.name);
                Ok(false)
            }
        }
    }

    /// Answers a repetition as its first call was or will be.
    fn repeat(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>, name: u128) {
        let awaited = match self.receipts.get(name) {
            Some(Receipt::Given(given)) => Some((given.kept, self.is_kept(given))),
            Some(Receipt::InFlight(_)) | None => None,
        };
        let pending = if awaited.is_some() { Pending::Published } else { Pending::Repeat { name } };
        let ticket = self.park(turn, asking, pending);
        match awaited {
            Some((_, true)) => self.answer_with_receipt(turn, ticket),
            Some((kept, false)) => self.await_receipt(ticket, kept),
            None => self.receipts.wait(name, ticket),
        }
    }

    /// What a keyed call has led to, which is kept with whatever else is handed over at this moment. `kept` says when those
    /// who asked are answered; a receipt of something that is not so without the log is `strict`.
    pub(crate) fn give_receipt(
        &mut self,
        turn: &mut Turn<'_>,
        name: u128,
        result: &Raw,
        ack: Ack,
        strict: bool,
    ) {
        let Some(flight) = self.receipts.land(name) else { return };
        let order = self.receipts.next_order();
        let at_ms = wall_ms(turn.at);
        let mut given = Given {
            body: flight.body,
            order,
            at_ms,
            result: result.clone(),
            kept: Kept { entry: 0, ack },
            strict,
        };
        given.kept.entry = self.journal.value(keeping::key_of(name), given.encode());
        let (kept, done) = (given.kept, self.is_kept(&given));
        self.receipts.give(name, given);
        for ticket in std::iter::once(flight.call).chain(flight.waiting) {
            self.settle_pending(turn, ticket);
            let headless = self.state.calls.get(&ticket).is_some_and(|call| call.headless);
            match done || headless {
                true => self.answer_with_receipt(turn, ticket),
                false => self.await_receipt(ticket, kept),
            }
        }
        self.sweep_receipts(turn.at);
    }

    fn await_receipt(&mut self, ticket: u64, kept: Kept) {
        match kept.ack {
            Ack::Disk => self.journal.when_flushed(Awaiting::Receipt(ticket)),
            Ack::Log | Ack::Memory => self.journal.when_written(Awaiting::Receipt(ticket)),
        }
    }

    /// The log is as far as the callers want.
    fn is_kept(&self, given: &Given) -> bool {
        self.journal.broken.is_some()
            || match given.kept.ack {
                Ack::Memory => true,
                Ack::Log => given.kept.entry <= self.journal.written,
                Ack::Disk => given.kept.entry <= self.journal.flushed,
            }
    }

    /// Answers a parked call with the receipt it waited for.
    pub(crate) fn answer_with_receipt(&mut self, turn: &mut Turn<'_>, ticket: u64) {
        let Some(claim) = self.state.calls.get(&ticket).and_then(|call| call.claim) else { return };
        match self.receipts.get(claim.name) {
            Some(Receipt::Given(given)) => {
                let result = given.result.clone();
                self.resolve_now(turn, ticket, &result);
            }
            Some(Receipt::InFlight(_)) | None => {
                let reason = self.journal.broken.clone().unwrap_or_default();
                self.reject(turn, ticket, &unkept(&reason));
            }
        }
    }

    /// What is said of a receipt beside the answer.
    pub(crate) fn meta_of(&self, claim: Claim) -> Option<AnswerMeta> {
        let Some(Receipt::Given(given)) = self.receipts.get(claim.name) else { return None };
        let limits = &self.config.limits;
        Some(AnswerMeta {
            idempotency: Idempotency {
                replayed: claim.repeats,
                durable: !self.config.embedded && given.kept.entry <= self.journal.written,
                expires_at_ms: given.at_ms.saturating_add(limits.receipt_ms),
                newer: self.receipts.newer_than(given.order),
                newer_max: limits.receipts_max as u64,
                oldest_at_ms: self.receipts.oldest_ms().unwrap_or(given.at_ms),
            },
        })
    }

    /// Forgets some of what is out of the window, the oldest first.
    fn sweep_receipts(&mut self, at: Moment) {
        let limits = &self.config.limits;
        let (now_ms, window_ms, most) = (wall_ms(at), limits.receipt_ms, limits.receipts_max);
        for _ in 0..SWEEP {
            let Some(name) = self.receipts.beyond(now_ms, window_ms, most) else {
                return;
            };
            self.forget_receipt(name);
        }
    }

    fn forget_receipt(&mut self, name: u128) {
        self.receipts.remove(name);
        self.journal.value(keeping::key_of(name), None);
    }

    /// The log takes nothing any more: what is not so without it was not done.
    pub(crate) fn withdraw_receipts(&mut self) {
        self.receipts.withdraw(self.journal.written, self.journal.flushed);
    }

    /// A process of a former kernel was spawned with this key: a call that carries it gets the process's receipt. For
    /// adoption: the process is in the tables.
    pub fn remember_key(&mut self, at: Moment, process: u64, key: IdempotencyKey) {
        let Some(process) = self.state.processes.get(&process) else { return };
        if let Ok(result) = Raw::of(&crate::sessions::lifecycle::receipt(process)) {
            self.remember_result(at, key, result);
        }
    }

    /// True if what a call with this key has led to is known.
    pub(crate) fn has_receipt(&self, key: IdempotencyKey) -> bool {
        matches!(self.receipts.get(key.name), Some(Receipt::Given(given)) if given.body == key.body)
    }

    /// The same for what such a call is answered with.
    pub(crate) fn remember_result(&mut self, at: Moment, key: IdempotencyKey, result: Raw) {
        if let Some(Receipt::Given(given)) = self.receipts.get(key.name)
            && given.body == key.body
            && given.result == result
        {
            return;
        }
        let order = self.receipts.next_order();
        let mut given = Given {
            body: key.body,
            order,
            at_ms: wall_ms(at),
            result,
            kept: Kept { entry: 0, ack: Ack::Log },
            strict: false,
        };
        given.kept.entry = self.journal.value(keeping::key_of(key.name), given.encode());
        self.receipts.remove(key.name);
        self.receipts.give(key.name, given);
    }

    /// What former kernels have given. For the start, before anything else is told.
    pub fn recall_receipts(&mut self, values: impl IntoIterator<Item = (bytes::Bytes, bytes::Bytes)>) {
        for (key, value) in values {
            match keeping::name_of(&key).zip(Given::parse(&value)) {
                Some((name, given)) => self.receipts.give(name, given),
                None => tracing::warn!(component = "controlplane", "a receipt can't be read"),
            }
        }
    }
}

fn conflict(text: &str) -> WireError {
    let message = format!("meta.idempotencyKey: {text:?} was used for another call");
    WireError::new(Code::Conflict, message).with("field", "meta.idempotencyKey").with("idempotencyKey", text)
}
