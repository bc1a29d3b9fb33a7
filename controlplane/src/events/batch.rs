//! Many events published by one call: read without the lock, then checked and published under it in slices.
//!
//! ```text
//!   call ─park─▶ in hand ─read, no lock─▶ check, slice by slice ─▶ publish, slice by slice ─▶ acknowledged
//!                                              └── one is wrong: none is published
//! ```
//!
//! Invariant: the log is handed a batch whole, so that a crash forgets all of it or nothing, its receipt included; others may
//! publish between two slices.

use crate::calls::Turn;
use crate::events::journal::unkept;
use crate::kernel::Kernel;
use crate::methods::event::acknowledge_parked;
use crate::permissions::Grant;
use crate::permissions::grants::Id;
use crate::state::Trace;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::limits::EVENTS_IN_BATCH_MAX;
use kairo_wire::method::{Method, params};
use kairo_wire::methods::event::{Ack, Draft, PublishBatch, PublishBatchParams, PublishBatchResult};
use kairo_wire::permission::Permission;
use kairo_wire::request;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::vec::IntoIter;

/// What is done under one hold of the lock: some tens of microseconds.
const SLICE: usize = 128;
/// An event that is published costs as much as so many that are checked.
const PUBLISHING: usize = 4;

/// A batch that its caller holds while nobody holds the lock.
#[derive(Debug)]
pub struct Batch {
    call: u64,
    connection: ConnectionKey,
    story: Trace,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Unread,
    Wrong(WireError),
    Checking { params: PublishBatchParams, checked: usize, met: Met },
    Publishing { left: IntoIter<Draft>, ack: Ack, result: PublishBatchResult },
}

/// What one event of a batch may have, and no other.
#[derive(Debug, Default)]
struct Met {
    /// Requests that are answered.
    answered: BTreeSet<String>,
    /// Grants for one use.
    spent: BTreeMap<Id, Arc<Grant>>,
}

impl Batch {
    /// Of a call that is parked.
    pub(crate) fn new(call: u64, connection: ConnectionKey, story: Trace) -> Batch {
        Batch { call, connection, story, stage: Stage::Unread }
    }

    /// Reads it out of the frame it came in, which takes longer than the lock may be held.
    pub(crate) fn read(&mut self, payload: &[u8]) {
        if matches!(self.stage, Stage::Unread) {
            self.stage = match read(payload) {
                Ok(params) => Stage::Checking { params, checked: 0, met: Met::default() },
                Err(error) => Stage::Wrong(error),
            };
        }
    }
}

fn read(payload: &[u8]) -> Result<PublishBatchParams, WireError> {
    // It has been read before: only its parameters can be wrong.
    let Ok(request) = request::read(payload) else {
        return Err(WireError::invalid("params", "they can't be read"));
    };
    let params = params::<PublishBatch>(request.params)?;
    if params.events.is_empty() {
        return Err(WireError::invalid("events", "a batch has at least one event"));
    }
    if params.events.len() > EVENTS_IN_BATCH_MAX {
        let message = format!("events: a batch has at most {EVENTS_IN_BATCH_MAX} events");
        return Err(WireError::too_large("eventsInBatchMax", message).with("field", "events"));
    }
    Ok(params)
}

impl Met {
    /// One more event of the batch, which this grant lets its client publish.
    fn meet(&mut self, draft: &Draft, grant: Option<Arc<Grant>>) -> Result<(), WireError> {
        if draft.answers.as_ref().is_some_and(|answers| !self.answered.insert(answers.clone())) {
            let error = WireError::new(Code::Conflict, "answers: the batch answers one request twice");
            return Err(error.with("field", "answers"));
        }
        let Some(grant) = grant.filter(|grant| grant.is_for_one_call()) else { return Ok(()) };
        match self.spent.insert(Arc::clone(&grant.id), Arc::clone(&grant)) {
            None => Ok(()),
            Some(_) => {
                let permission = Permission::EventPublish;
                let why = format!("{} is for one event", grant.id);
                let error = WireError::denied(PublishBatch::NAME, &why).with("permission", permission.name());
                Err(error.with("resource", draft.topic.as_str()).with("grant", grant.id.as_ref()))
            }
        }
    }
}

impl Kernel {
    /// Does the next slice. Returns the batch if there is more.
    pub(crate) fn slice(&mut self, turn: &mut Turn<'_>, mut batch: Box<Batch>) -> Option<Box<Batch>> {
        let mut budget = SLICE;
        loop {
            batch.stage = match batch.stage {
                Stage::Unread => return Some(batch),
                Stage::Wrong(ref error) => {
                    if error.code == Code::PermissionDenied {
                        self.tell_denied(turn, batch.connection, &batch.story, PublishBatch::NAME, error);
                    }
                    self.reject(turn, batch.call, error);
                    return None;
                }
                Stage::Checking { params, checked, met } => {
                    let (stage, used) =
                        self.check_slice(turn, batch.connection, params, checked, met, budget);
                    budget -= used;
                    stage
                }
                Stage::Publishing { mut left, ack, mut result } => {
                    while budget >= PUBLISHING
                        && let Some(draft) = left.next()
                    {
                        budget -= PUBLISHING;
                        let seq = self.publish_draft(turn, batch.connection, &batch.story, draft, None).seq;
                        result.first_seq = if result.first_seq == 0 { seq } else { result.first_seq };
                        result.last_seq = seq;
                    }
                    if left.len() == 0 {
                        self.finish_batch(turn, batch.call, ack, &result);
                        return None;
                    }
                    Stage::Publishing { left, ack, result }
                }
            };
            if budget < PUBLISHING {
                return Some(batch);
            }
        }
    }

    /// Checks some. Returns what is to be done next, and how many were looked at.
    fn check_slice(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        params: PublishBatchParams,
        checked: usize,
        mut met: Met,
        budget: usize,
    ) -> (Stage, usize) {
        let count = params.events.len();
        let to = count.min(checked + budget);
        for (place, draft) in params.events.iter().enumerate().take(to).skip(checked) {
            let outcome = self.check_draft(turn.at, connection, draft).map_err(|error| *error);
            if let Err(error) = outcome.and_then(|grant| met.meet(draft, grant)) {
                return (Stage::Wrong(error.with("event", place)), place - checked);
            }
        }
        if to < count {
            return (Stage::Checking { params, checked: to, met }, to - checked);
        }
        if let Some(reason) = &self.journal.broken {
            return (Stage::Wrong(unkept(reason)), to - checked);
        }
        if let Err(error) = self.within_rate(turn, connection, count) {
            return (Stage::Wrong(error), to - checked);
        }
        self.journal.hold();
        met.spent.into_values().for_each(|grant| self.spend(turn, Some(grant)));
        let ack = params.ack;
        let result = PublishBatchResult { count: count as u32, first_seq: 0, last_seq: 0, ack };
        (Stage::Publishing { left: params.events.into_iter(), ack, result }, to - checked)
    }

    fn finish_batch(&mut self, turn: &mut Turn<'_>, call: u64, ack: Ack, result: &PublishBatchResult) {
        self.journal.let_go();
        let outcome = match &self.journal.broken {
            Some(reason) => Err(unkept(reason)),
            None => acknowledge_parked(self, turn, call, ack, result),
        };
        if let Err(error) = outcome {
            self.reject(turn, call, &error);
        }
    }
}
