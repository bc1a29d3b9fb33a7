//! What a cancel has stopped is gone: how, and the receipt when that was the last of it.
//!
//! Invariant: a cancel is over exactly when all of its members were looked at, none of them is there any more, and the
//! intents under it are over; or when what is left was given up.

use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::events::journal::Awaiting;
use crate::events::record::Audience;
use crate::intents::cancelling::{Cancel, Target};
use crate::intents::members::Member;
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::state::{Pending, Process, Trace};
use kairo_dataplane::control::ExitStatus;
use kairo_wire::codec::raw::Raw;
use kairo_wire::event::IntentCancelled;
use kairo_wire::limits::STOPPED_LISTED_MAX;
use kairo_wire::methods::intent::{Stopped, StoppedHow, StoppedKind};
use serde::Serialize;
use std::sync::Arc;

impl Kernel {
    /// The cancels a member of an intent and a story may belong to.
    fn cancels_of(&self, intent: Option<&str>, story: Option<&str>) -> [Option<u64>; 2] {
        let intents = &self.state.intents;
        let of_intent =
            intent.and_then(|id| intents.names.get(id)).filter(|serial| intents.cancels.contains_key(serial));
        let of_story = story.and_then(|story| intents.stories.get(story));
        [of_intent.copied(), of_story.copied()]
    }

    /// A member is gone.
    pub(crate) fn member_gone(
        &mut self,
        turn: &mut Turn<'_>,
        member: Member,
        intent: Option<&str>,
        story: Option<&str>,
    ) {
        if self.state.intents.cancels.is_empty() {
            return;
        }
        for serial in self.cancels_of(intent, story).into_iter().flatten() {
            let Some(cancel) = self.state.intents.cancels.get_mut(&serial) else { continue };
            let Some(killed) = cancel.pending.remove(&member) else { continue };
            if let Member::Process(process) = member
                && let Some(process) = self.state.processes.get(&process)
            {
                let (id, how) = (process.id.key().into_owned(), process.how_gone(killed));
                self.note_stopped(turn, serial, StoppedKind::Process, id, how);
            }
            self.check_cancel(turn, serial);
        }
    }

    /// A process that is being stopped got its SIGKILL.
    pub(crate) fn note_killed(&mut self, serial: u64) {
        if self.state.intents.cancels.is_empty() {
            return;
        }
        let Some(process) = self.state.processes.get(&serial) else { return };
        let cancels = self.cancels_of(process.trace.intent.as_deref(), process.trace.correlation.as_deref());
        for cancel in cancels.into_iter().flatten() {
            let pending = self.state.intents.cancels.get_mut(&cancel).map(|cancel| &mut cancel.pending);
            if let Some(killed) = pending.and_then(|pending| pending.get_mut(&Member::Process(serial))) {
                *killed = true;
            }
        }
    }

    /// Something is listed in the receipt to be.
    pub(crate) fn note_stopped(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        kind: StoppedKind,
        id: String,
        how: StoppedHow,
    ) {
        let Some(cancel) = self.state.intents.cancels.get_mut(&serial) else { return };
        let ms = cancel.lasted_ms(turn.at);
        cancel.list(Stopped { kind, id, how, ms, intent_id: None });
    }

    /// What is left is given up.
    pub(crate) fn patience_with_cancel_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(cancel) = self.state.intents.cancels.get_mut(&serial) else { return };
        cancel.patience = None;
        let left = std::mem::take(&mut cancel.pending);
        cancel.left += left.len() as u32;
        for member in left.into_keys() {
            let Member::Process(process) = member else { continue };
            let Some(process) = self.state.processes.get(&process) else { continue };
            let id = process.id.key().into_owned();
            self.note_stopped(turn, serial, StoppedKind::Process, id, StoppedHow::Abandoned);
        }
        self.check_cancel(turn, serial);
    }

    /// Ends a cancel that has nothing more to wait for.
    pub(crate) fn check_cancel(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let over = self.state.intents.cancels.get(&serial).is_some_and(|cancel| cancel.is_over());
        if !over {
            return;
        }
        let Some(cancel) = self.state.intents.cancels.remove(&serial) else { return };
        if let Some(timer) = cancel.patience {
            self.disarm(turn, timer);
        }
        let Cancel { target, of, creator, order, began: _, callers, .. } = &*cancel;
        let intent = match target {
            Target::Intent(serial) => self.state.intents.all.get(serial),
            Target::Story(_) => None,
        };
        let story = match (intent, target) {
            (Some(intent), _) => Arc::clone(&intent.correlation),
            (None, Target::Story(story)) => Arc::clone(story),
            (None, Target::Intent(_)) => return,
        };
        let receipt = Box::new(IntentCancelled {
            intent_id: intent.map(|intent| intent.id.clone()),
            correlation_id: (*story).to_owned(),
            reason: order.reason.clone(),
            by: order.by.clone(),
            stopped: cancel.stopped.clone(),
            more: cancel.more,
            children: cancel.children.clone(),
            left: cancel.left,
            duration_ms: cancel.lasted_ms(turn.at),
        });
        let causation = order.cause.clone().unwrap_or_else(|| of.as_str().to_owned());
        let of_intent = intent.map(|intent| intent.own_trace(order)).unwrap_or_else(|| order.trace.clone());
        let trace = Trace { correlation: Some((*story).to_owned()), causation: Some(causation), ..of_intent };
        self.publish(turn, Audience::Of(creator.clone()), &trace, &*receipt);
        let callers = callers.clone();
        match target {
            Target::Intent(_) => self.intent_cancelled(turn, serial, receipt.clone()),
            Target::Story(story) => {
                self.state.intents.stories.remove(story);
                let (story, of, creator) = (Arc::clone(story), of.clone(), creator.clone());
                // An event that found nothing to stop is answered, and that is all.
                let of_nothing = receipt.stopped.is_empty() && receipt.children.is_empty();
                let kept = !(of_nothing && order.cause.is_some());
                self.story_cancelled(story, of, creator, receipt.clone(), kept);
            }
        }
        for call in callers {
            self.answer_kept(turn, call, &*receipt);
        }
        self.tell_above(turn, serial, &receipt);
    }

    fn intent_cancelled(&mut self, turn: &mut Turn<'_>, serial: u64, receipt: Box<IntentCancelled>) {
        self.conclude_intent(turn, serial, Stage::Cancelled { at_ms: wall_ms(turn.at), receipt });
    }

    /// An intent is over: nobody watches over it, and its value says how.
    pub(crate) fn conclude_intent(&mut self, turn: &mut Turn<'_>, serial: u64, stage: Stage) {
        let Some(intent) = self.state.intents.all.get_mut(&serial) else { return };
        let parent = intent.parent;
        let timer = intent.deadline.as_mut().and_then(|(_, timer)| timer.take());
        let registered = std::mem::take(&mut intent.registered);
        for connection in registered.into_keys() {
            if let Some(peer) = self.state.connections.get_mut(connection) {
                peer.registered.remove(&serial);
            }
        }
        if let Some(timer) = timer {
            self.disarm(turn, timer);
        }
        self.release_intent(turn, serial);
        self.state.intents.conclude(serial, stage);
        if let Some(id) = self.state.intents.all.get(&serial).map(|intent| intent.id.clone()) {
            self.intent_over(turn, id.as_str());
        }
        self.keep_intent(serial);
        self.forget_intents();
        if let Some(parent) = parent {
            self.end_if_left(turn, parent);
        }
    }

    /// Answers a call when the log has what was put until now.
    pub(crate) fn answer_kept<R: Serialize>(&mut self, turn: &mut Turn<'_>, call: u64, result: &R) {
        match Raw::of(result) {
            Ok(result) if self.journal.broken.is_none() && !self.journal.is_settled() => {
                if let Some(call) = self.state.calls.get_mut(&call) {
                    call.pending = Pending::Published;
                }
                self.journal.when_written(Awaiting::Call(call, result));
            }
            Ok(result) => self.resolve(turn, call, &result),
            Err(error) => self.reject(turn, call, &error.into()),
        }
    }

    /// Whoever waits for this intent hears that it is over.
    fn tell_above(&mut self, turn: &mut Turn<'_>, serial: u64, receipt: &IntentCancelled) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        let above = [intent.parent, self.state.intents.stories.get(&*intent.correlation).copied()];
        for above in above.into_iter().flatten() {
            let Some(cancel) = self.state.intents.cancels.get_mut(&above) else { continue };
            if !cancel.intents.remove(&serial) {
                continue;
            }
            cancel.take_in(receipt);
            self.check_cancel(turn, above);
        }
    }
}

impl Cancel {
    fn is_over(&self) -> bool {
        self.walked && self.hold.is_none() && self.pending.is_empty() && self.intents.is_empty()
    }

    fn list(&mut self, stopped: Stopped) {
        if self.stopped.len() < STOPPED_LISTED_MAX {
            self.stopped.push(stopped);
        } else {
            self.more += 1;
        }
    }

    /// What an intent under it had stopped.
    fn take_in(&mut self, receipt: &IntentCancelled) {
        let of = |stopped: &Stopped| stopped.intent_id.clone().or_else(|| receipt.intent_id.clone());
        for stopped in &receipt.stopped {
            self.list(Stopped { intent_id: of(stopped), ..stopped.clone() });
        }
        self.more += receipt.more;
        self.left += receipt.left;
        self.children.extend(receipt.children.iter().cloned());
        self.children.extend(receipt.intent_id.clone());
    }
}

impl Process {
    /// How it went that was asked to stop.
    pub(crate) fn how_gone(&self, killed: bool) -> StoppedHow {
        const SIGKILL: i32 = crate::sessions::ending::SIGKILL;
        match self.exit {
            _ if killed => StoppedHow::Killed,
            Some((ExitStatus::Signal { signal: SIGKILL, .. }, _)) => StoppedHow::Killed,
            Some((ExitStatus::Signal { .. }, _)) => StoppedHow::Terminated,
            Some((ExitStatus::Code(_), _)) => StoppedHow::Exited,
            None if self.pid == 0 => StoppedHow::Ended,
            None => StoppedHow::Abandoned,
        }
    }
}

/// Milliseconds an intent has lasted.
pub(crate) fn lasted_ms(intent: &Intent, turn: &Turn<'_>) -> u64 {
    wall_ms(turn.at).saturating_sub(intent.started_ms)
}
