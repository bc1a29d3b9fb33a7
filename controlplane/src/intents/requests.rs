//! Ways to ask for a cancel: the call, and the two events that are requests.
//!
//! ```text
//!   intent.cancel {intentId | correlationId} ─────┐
//!   kairo.intent.cancel {intentId}  (published) ──┼─▶ wanted: what, and whether the caller may ─▶ given
//!   kairo.cancel {targetCorrelationId} (the same) ┘
//! ```
//!
//! Invariant: only what a client publishes now is a request. The log is read by readers, who ask for nothing.

use crate::auth::grant::may_touch;
use crate::calls::Turn;
use crate::intents::Stage;
use crate::intents::cancelling::{Order, Target};
use crate::intents::members::{Member, denied, no_intent, over};
use crate::kernel::Kernel;
use crate::state::Trace;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::IntentCancelled;
use kairo_wire::limits::{INTENT_GRACE_MS_MAX, INTENT_TEXT_BYTES_MAX};
use serde::Deserialize;
use std::sync::Arc;

/// The request to cancel an intent.
pub(crate) const CANCEL: &str = "kairo.intent.cancel";
/// The request to cancel a story, as v1 has it.
pub(crate) const CANCEL_STORY: &str = "kairo.cancel";

/// A request that was checked.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// What.
    pub target: Target,
    /// Why.
    pub reason: Option<String>,
    /// Between SIGTERM and SIGKILL; the kernel's own if absent.
    pub grace_ms: Option<u64>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Given {
    /// It is under way: the cancel's name in the tables.
    UnderWay(u64),
    /// It was done before.
    Done(Box<IntentCancelled>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfIntent {
    intent_id: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    grace_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfStory {
    target_correlation_id: String,
    #[serde(default)]
    reason: Option<String>,
}

impl Kernel {
    /// Whether the caller may cancel this intent.
    pub(crate) fn wants_intent(
        &self,
        connection: ConnectionKey,
        method: &str,
        id: &str,
        (reason, grace_ms): (Option<String>, Option<u64>),
    ) -> Result<Wanted, WireError> {
        check_reason(reason.as_deref())?;
        let Some(intent) = self.state.intents.named(id) else { return Err(no_intent("intentId", id)) };
        if !may_touch(self.principal(connection), &intent.creator) {
            return Err(denied(method, "intentId", id));
        }
        if matches!(intent.stage, Stage::Ended { .. }) {
            return Err(over("intentId", id, "is ended"));
        }
        Ok(Wanted { target: Target::Intent(intent.serial), reason, grace_ms })
    }

    /// Whether the caller may cancel anything of this story.
    pub(crate) fn wants_story(
        &self,
        connection: ConnectionKey,
        method: &str,
        story: &str,
        (reason, grace_ms): (Option<String>, Option<u64>),
    ) -> Result<Wanted, WireError> {
        check_reason(reason.as_deref())?;
        let principal = self.principal(connection);
        let intents = &self.state.intents;
        let creator = |member: &Member| match member {
            Member::Intent(serial) => intents.all.get(serial).map(|intent| intent.creator.clone()),
            Member::Process(serial) => {
                self.state.processes.get(serial).map(|process| process.creator.clone())
            }
            Member::Call(ticket) => {
                self.state.calls.get(ticket).map(|call| call.connection).map(|of| self.creator(of))
            }
            Member::Stream(serial) => self.state.streams.get(serial).map(|of| self.reader_of(of)),
            Member::Topic(serial) => self.state.topics.get(serial).map(|of| self.creator(of.connection)),
            Member::Inlet(serial) => self.state.inlets.get(serial).map(|of| self.holder_of(of)),
        };
        // The first that may be touched is enough; who has begun that many things may look at them.
        let mut members = intents.of_story.get(story).into_iter().flatten().filter_map(creator).peekable();
        let under_way = intents.stories.get(story).and_then(|serial| intents.cancels.get(serial));
        let known =
            under_way.map(|cancel| &cancel.creator).or(intents.receipts.get(story).map(|(_, of, _)| of));
        let nothing = members.peek().is_none();
        let own = members.any(|creator| may_touch(principal, &creator));
        let foreign = match known {
            Some(of) => !own && !may_touch(principal, of),
            None => !own && !nothing,
        };
        if foreign {
            let why = format!("nothing of correlation {story} is the caller's");
            return Err(WireError::denied(method, &why).with("field", "correlationId").with("id", story));
        }
        Ok(Wanted { target: Target::Story(story.into()), reason, grace_ms })
    }

    fn creator(&self, connection: ConnectionKey) -> crate::auth::principal::Creator {
        self.principal(connection).creator(self.config.owner_uid)
    }

    /// There is something of a story, or was when it was cancelled.
    pub(crate) fn knows_story(&self, story: &str) -> bool {
        let intents = &self.state.intents;
        intents.of_story.contains_key(story)
            || intents.stories.contains_key(story)
            || intents.receipts.contains_key(story)
    }

    /// The receipt of a cancel that is over.
    pub(crate) fn receipt_of(&self, target: &Target) -> Option<Box<IntentCancelled>> {
        let intents = &self.state.intents;
        match target {
            Target::Intent(serial) => match &intents.all.get(serial)?.stage {
                Stage::Cancelled { receipt, .. } => Some(receipt.clone()),
                Stage::Open | Stage::Cancelling | Stage::Ended { .. } => None,
            },
            Target::Story(story) => intents.receipts.get(story).map(|(_, _, receipt)| receipt.clone()),
        }
    }

    /// What a published event asks for; nothing if it is no request.
    pub(crate) fn requested(
        &self,
        connection: ConnectionKey,
        topic: &str,
        data: Option<RawRef<'_>>,
    ) -> Result<Option<Wanted>, WireError> {
        let wrong = |what: &str| WireError::invalid("data", what);
        match (topic, data) {
            (CANCEL, Some(data)) => {
                let OfIntent { intent_id, reason, grace_ms } =
                    data.decode().map_err(|_| wrong("it is {intentId, reason?, graceMs?}"))?;
                self.wants_intent(connection, topic, &intent_id, (reason, grace_ms)).map(Some)
            }
            (CANCEL_STORY, Some(data)) => {
                let OfStory { target_correlation_id, reason } =
                    data.decode().map_err(|_| wrong("it is {targetCorrelationId, reason?}"))?;
                if target_correlation_id.is_empty() {
                    return Err(wrong("targetCorrelationId is not empty"));
                }
                self.wants_story(connection, topic, &target_correlation_id, (reason, None)).map(Some)
            }
            (CANCEL | CANCEL_STORY, None) => Err(wrong("it says what is to be cancelled")),
            _ => Ok(None),
        }
    }

    /// Carries a request out that was checked. `cause` is the event that was the request.
    pub(crate) fn give_cancel(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        trace: &Trace,
        wanted: Wanted,
        cause: Option<&str>,
    ) -> Given {
        let Wanted { target, reason, grace_ms } = wanted;
        let order = Order {
            reason,
            by: self.principal_told(connection),
            principal: Some(self.principal(connection).clone()),
            grace_ms: grace_ms.map_or(self.config.limits.kill_grace_ms, |ms| ms.min(INTENT_GRACE_MS_MAX)),
            trace: trace.clone(),
            cause: cause.map(str::to_owned),
        };
        match target {
            Target::Intent(serial) => self.give_intent(turn, serial, order),
            Target::Story(story) => self.give_story(turn, connection, &story, order),
        }
    }

    fn give_intent(&mut self, turn: &mut Turn<'_>, serial: u64, mut order: Order) -> Given {
        let intent = self.state.intents.all.get(&serial);
        if let Some(Stage::Cancelled { receipt, .. }) = intent.map(|intent| &intent.stage) {
            return Given::Done(receipt.clone());
        }
        if let Some(intent) = intent.filter(|intent| matches!(intent.stage, Stage::Open)) {
            let causation = order.cause.clone().or_else(|| order.trace.causation.clone());
            order.trace = Trace {
                causation: causation.or_else(|| intent.trace.causation.clone()),
                ..intent.own_trace(&order)
            };
            self.cancel_intent(turn, serial, order);
        }
        Given::UnderWay(serial)
    }

    fn give_story(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        story: &Arc<str>,
        mut order: Order,
    ) -> Given {
        let intents = &self.state.intents;
        if let Some(serial) = intents.stories.get(story) {
            return Given::UnderWay(*serial);
        }
        if !intents.of_story.contains_key(&**story)
            && let Some((_, _, receipt)) = intents.receipts.get(story)
        {
            return Given::Done(receipt.clone());
        }
        let creator = self.creator(connection);
        let causation = order.cause.clone().or_else(|| order.trace.causation.clone());
        order.trace = Trace {
            correlation: Some((**story).to_owned()),
            causation,
            principal: order.trace.principal.clone(),
            ..Trace::default()
        };
        Given::UnderWay(self.cancel_story(turn, story, creator, order))
    }
}

fn check_reason(reason: Option<&str>) -> Result<(), WireError> {
    match reason {
        Some(reason) if reason.len() > INTENT_TEXT_BYTES_MAX => {
            let message = format!("reason: it has at most {INTENT_TEXT_BYTES_MAX} bytes");
            Err(WireError::too_large("intentTextBytesMax", message).with("field", "reason"))
        }
        _ => Ok(()),
    }
}

/// What is asked for is not one thing.
pub(crate) fn which() -> WireError {
    WireError::new(Code::InvalidParams, "one of intentId and correlationId says what is to be cancelled")
        .with("field", "intentId")
}
