//! Beginning, ending, cancelling and watching intents. What belongs to one and how it is stopped is in
//! [`intents`](crate::intents).

use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::events::journal::unkept;
use crate::events::log::Query;
use crate::events::outlet::{Hearer, Question};
use crate::intents::members::{denied, no_intent, over};
use crate::intents::requests::{Given, which};
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::state::{Pending, Topics};
use crate::table::{Answers, Entry};
use kairo_wire::error::{Code, WireError};
use kairo_wire::limits::{
    INTENT_DATA_BYTES_MAX, INTENT_GRACE_MS_MAX, INTENT_NAME_BYTES_MAX, INTENT_REGISTRATIONS_MAX,
    INTENT_TEXT_BYTES_MAX, INTENTS_LISTED_MAX, REPLAY_EVENTS_MAX,
};
use kairo_wire::method::Method;
use kairo_wire::methods::event::Order;
use kairo_wire::methods::intent::{
    Begin, Cancel, End, EndResult, IntentListResult, IntentStatus, List, Register, RegisterResult, Release,
    ReleaseResult, Status, Timeline,
};
use kairo_wire::permission::Permission;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Begin::ROW, Answers::Later, begin),
    (End::ROW, Answers::Later, end),
    (List::ROW, Answers::AtOnce, list),
    (Status::ROW, Answers::AtOnce, status),
    (Timeline::ROW, Answers::Later, timeline),
    (Cancel::ROW, Answers::Later, cancel),
    (Register::ROW, Answers::AtOnce, register),
    (Release::ROW, Answers::AtOnce, release),
];

/// Intents a page of a list looks at.
const LOOKED_AT_MAX: usize = 2_000;
/// Intents under one whose events a timeline shows; those that began first.
const TIMELINE_INTENTS_MAX: usize = 256;

fn text(field: &str, text: Option<&str>) -> Result<(), WireError> {
    match text {
        Some(text) if text.len() > INTENT_TEXT_BYTES_MAX => {
            let message = format!("{field}: it has at most {INTENT_TEXT_BYTES_MAX} bytes");
            Err(WireError::too_large("intentTextBytesMax", message).with("field", field))
        }
        _ => Ok(()),
    }
}

fn data(field: &str, data: Option<&kairo_wire::codec::raw::Raw>) -> Result<(), WireError> {
    if data.is_some_and(|data| data.bytes().len() > INTENT_DATA_BYTES_MAX) {
        let message = format!("{field}: it has at most {INTENT_DATA_BYTES_MAX} bytes");
        return Err(WireError::too_large("intentDataBytesMax", message).with("field", field));
    }
    Ok(())
}

fn begin(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Begin>()?;
    kernel.takes_events()?;
    if params.name.len() > INTENT_NAME_BYTES_MAX {
        return Err(WireError::invalid("name", format!("it has at most {INTENT_NAME_BYTES_MAX} bytes")));
    }
    if params.name.chars().any(char::is_control) {
        return Err(WireError::invalid("name", "it has no control characters"));
    }
    text("query", params.query.as_deref())?;
    data("context", params.context.as_ref())?;
    let result = kernel.begin_intent(turn, asking, params)?;
    let call = kernel.park(turn, asking, Pending::Published);
    kernel.answer_kept(turn, call, &result);
    Ok(())
}

impl Kernel {
    /// The intent a caller names, if it may watch it.
    fn observed(&self, asking: &Asking<'_>, id: &str) -> Result<&Intent, WireError> {
        self.own_intent(asking.connection, asking.method, "intentId", id)
    }

    /// … if it may end it.
    fn controlled(&self, asking: &Asking<'_>, id: &str) -> Result<&Intent, WireError> {
        let Some(intent) = self.state.intents.named(id) else { return Err(no_intent("intentId", id)) };
        match may_touch(self.principal(asking.connection), &intent.creator) {
            true => Ok(intent),
            false => Err(denied(asking.method, "intentId", id)),
        }
    }

    fn intent_told(&self, intent: &Intent, whole: bool) -> IntentStatus {
        let [processes, calls, subscriptions] = self.count_members(intent.id.as_str());
        let (mut error, mut summary, mut ended_at_ms, mut cancelled) = (None, None, None, None);
        match &intent.stage {
            Stage::Open | Stage::Cancelling => {}
            Stage::Ended { at_ms, error: with, summary: said, .. } => {
                (ended_at_ms, error, summary) = (Some(*at_ms), with.clone(), said.clone());
            }
            Stage::Cancelled { at_ms, receipt } => {
                ended_at_ms = Some(*at_ms);
                cancelled = whole.then(|| (**receipt).clone());
            }
        }
        IntentStatus {
            intent_id: intent.id.clone(),
            name: intent.name.clone(),
            query: intent.query.clone(),
            state: intent.state(),
            parent: intent.parent_id.clone(),
            correlation_id: (*intent.correlation).to_owned(),
            seq: intent.seq,
            owner: intent.creator.told(self.config.owner_uid),
            started_at_ms: intent.started_ms,
            deadline_at_ms: intent.deadline.map(|(at_ms, _)| at_ms).filter(|_| !intent.is_over()),
            ended_at_ms,
            on_disconnect: intent.on_disconnect,
            children: intent.children.len() as u32,
            processes,
            calls,
            subscriptions,
            error,
            summary,
            cancelled,
        }
    }
}

fn end(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<End>()?;
    if params.result.is_some() && params.error.is_some() {
        return Err(WireError::invalid("error", "an intent ends with a result or with an error"));
    }
    text("error", params.error.as_deref())?;
    text("summary", params.summary.as_deref())?;
    data("result", params.result.as_ref())?;
    let intent = kernel.controlled(asking, &params.intent_id)?;
    let (serial, id) = (intent.serial, intent.id.clone());
    let is_first = match &intent.stage {
        Stage::Open if !intent.children.is_empty() => {
            let open = intent.children.len();
            return Err(over("intentId", id.as_str(), "has open intents under it").with("children", open));
        }
        Stage::Open => true,
        Stage::Ended { .. } => false,
        Stage::Cancelling => return Err(over("intentId", id.as_str(), "is being cancelled")),
        Stage::Cancelled { .. } => return Err(over("intentId", id.as_str(), "is cancelled")),
    };
    if is_first {
        kernel.end_intent(turn, serial, &asking.trace, params);
    }
    let stage = kernel.state.intents.all.get(&serial).map(|intent| &intent.stage);
    let Some(Stage::Ended { seq, duration_ms, .. }) = stage else { return Ok(()) };
    let result = EndResult { intent_id: id, duration_ms: *duration_ms, seq: *seq };
    // A second end may come before the log has the first.
    let call = kernel.park(turn, asking, Pending::Published);
    kernel.answer_kept(turn, call, &result);
    Ok(())
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<List>()?;
    let limit = params.limit.map_or(INTENTS_LISTED_MAX, |limit| limit as usize).clamp(1, INTENTS_LISTED_MAX);
    let principal = kernel.principal(asking.connection);
    let all = &kernel.state.intents;
    let under = match &params.parent {
        Some(id) => Some(kernel.own_intent(asking.connection, asking.method, "parent", id)?.serial),
        None => None,
    };
    let is_wanted = |intent: &Intent| {
        may_touch(principal, &intent.creator)
            && params.state.is_none_or(|state| state == intent.state())
            && under.is_none_or(|under| intent.parent == Some(under))
    };
    let (mut intents, mut next) = (Vec::new(), None);
    let from = params.after_seq.map_or(0, |after| after.saturating_add(1));
    for (looked_at, (seq, serial)) in all.by_seq.range(from..).enumerate() {
        if intents.len() == limit || looked_at == LOOKED_AT_MAX {
            next = Some(seq - 1);
            break;
        }
        if let Some(intent) = all.all.get(serial).filter(|intent| is_wanted(intent)) {
            intents.push(kernel.intent_told(intent, false));
        }
    }
    kernel.answer(turn, asking, &IntentListResult { intents, next });
    Ok(())
}

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    let status = kernel.intent_told(kernel.observed(asking, &params.intent_id)?, true);
    kernel.answer(turn, asking, &status);
    Ok(())
}

fn timeline(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Timeline>()?;
    if let Some(reason) = &kernel.journal.broken {
        return Err(unkept(reason));
    }
    // All there is of it is shown, whatever its types.
    kernel.may(turn, asking.connection, asking.method, Permission::EventSubscribe, ">")?;
    let limit = params.limit.map_or(REPLAY_EVENTS_MAX, |limit| limit as usize).clamp(1, REPLAY_EVENTS_MAX);
    let top = kernel.observed(asking, &params.intent_id)?;
    let (id, from) = (top.id.as_str().to_owned(), params.from_seq.unwrap_or(1).max(top.seq));
    let (mut or_intents, mut level) = (Vec::new(), vec![top]);
    while !level.is_empty() && or_intents.len() < TIMELINE_INTENTS_MAX {
        let family = level.iter().flat_map(|intent| &intent.family);
        level = family.filter_map(|serial| kernel.state.intents.all.get(serial)).map(|of| &**of).collect();
        or_intents.extend(level.iter().map(|intent| intent.id.as_str().to_owned()));
    }
    or_intents.truncate(TIMELINE_INTENTS_MAX);
    let all = Query::default();
    let query = Query {
        intent: Some(id),
        or_intents,
        from,
        to: params.to_seq.unwrap_or(all.to).min(all.to),
        backward: params.order == Order::Backward,
        ..all
    };
    let Some(peer) = kernel.state.connections.get(asking.connection) else { return Ok(()) };
    let hearer = Hearer { principal: peer.principal.clone(), dialect: peer.dialect, envelope: true };
    let ticket = kernel.park(turn, asking, Pending::Replay { topics: Topics::default() });
    kernel.journal.ask_for_all(Question { ticket, query, limit, hearer, subscription: None, raw: false });
    Ok(())
}

fn cancel(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Cancel>()?;
    let how = (params.reason, params.grace_ms);
    let wanted = match (params.intent_id.as_deref(), params.correlation_id.as_deref()) {
        (Some(id), None) => kernel.wants_intent(asking.connection, asking.method, id, how)?,
        (None, Some(story)) if !story.is_empty() => {
            if !kernel.knows_story(story) {
                let message = format!("correlationId: there is nothing of {story}");
                return Err(WireError::new(Code::NotFound, message).with("field", "correlationId"));
            }
            kernel.wants_story(asking.connection, asking.method, story, how)?
        }
        _ => return Err(which()),
    };
    let target = wanted.target.clone();
    match kernel.give_cancel(turn, asking.connection, &asking.trace, wanted, None) {
        Given::Done(receipt) => {
            let call = kernel.park(turn, asking, Pending::Published);
            kernel.answer_kept(turn, call, &*receipt);
        }
        Given::UnderWay(cancel) if kernel.state.intents.cancels.contains_key(&cancel) => {
            let call = kernel.park(turn, asking, Pending::Cancelling { cancel });
            if let Some(cancel) = kernel.state.intents.cancels.get_mut(&cancel) {
                cancel.callers.push(call);
            }
        }
        // There was nothing to wait for.
        Given::UnderWay(_) => {
            if let Some(receipt) = kernel.receipt_of(&target) {
                let call = kernel.park(turn, asking, Pending::Published);
                kernel.answer_kept(turn, call, &*receipt);
            }
        }
    }
    Ok(())
}

fn register(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Register>()?;
    let intent = kernel.observed(asking, &params.intent_id)?;
    let (serial, intent_id) = (intent.serial, intent.id.clone());
    match &intent.stage {
        Stage::Open => {}
        Stage::Cancelling => return Err(over("intentId", intent_id.as_str(), "is being cancelled")),
        Stage::Ended { .. } | Stage::Cancelled { .. } => {
            return Err(over("intentId", intent_id.as_str(), "is over"));
        }
    }
    if intent.registered.len() >= INTENT_REGISTRATIONS_MAX {
        let message = format!("{INTENT_REGISTRATIONS_MAX} clients are registered for this intent");
        return Err(WireError::new(Code::Busy, message).with("limit", "intentRegistrationsMax"));
    }
    let grace_ms = params.grace_ms.min(INTENT_GRACE_MS_MAX);
    if let Some(peer) = kernel.state.connections.get_mut(asking.connection) {
        peer.registered.insert(serial);
    }
    if let Some(intent) = kernel.state.intents.all.get_mut(&serial) {
        intent.registered.insert(asking.connection, grace_ms);
    }
    kernel.answer(turn, asking, &RegisterResult { intent_id, grace_ms });
    Ok(())
}

fn release(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Release>()?;
    let serial = kernel.observed(asking, &params.intent_id)?.serial;
    let ok = kernel.unregister(turn, serial, asking.connection);
    kernel.answer(turn, asking, &ReleaseResult { ok });
    Ok(())
}
