//! How an intent begins, and how it ends without being cancelled: by its client, with its client.
//!
//! Invariant: an intent's guardian knows it, exactly while both are there and it matters; the same as with
//! [wards](crate::sessions::wards).

use crate::auth::grant::may_touch;
use crate::auth::principal::Creator;
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::digest::GuardianDigest;
use crate::events::record::Audience;
use crate::intents::cancelling::Order;
use crate::intents::gone::lasted_ms;
use crate::intents::members::over;
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::sessions::wards::Guardian;
use crate::state::Trace;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{Event, IntentEnded, IntentStarted};
use kairo_wire::id::EventId;
use kairo_wire::limits::{INTENT_DEPTH_MAX, INTENTS_OPEN_MAX};
use kairo_wire::methods::intent::{BeginParams, BeginResult, EndParams, IntentOnDisconnect};
use std::collections::{BTreeMap, BTreeSet};

impl Kernel {
    /// Begins a checked intent.
    pub(crate) fn begin_intent(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: BeginParams,
    ) -> Result<BeginResult, WireError> {
        let parent = self.parent_of(asking, params.parent.as_deref())?;
        let principal = self.principal(asking.connection);
        let (creator, owner) =
            (principal.creator(self.config.owner_uid), self.principal_told(asking.connection));
        self.has_room_for_intent(&creator)?;
        let id = self.name_event();
        let above = parent.and_then(|parent| self.state.intents.all.get(&parent));
        let mut trace = asking.trace.clone();
        if let Some(above) = above {
            trace.correlation.get_or_insert_with(|| (*above.correlation).to_owned());
            trace.causation.get_or_insert_with(|| above.id.as_str().to_owned());
        }
        trace.begin(&id);
        trace.intent = Some(id.as_str().to_owned());
        let (depth, parent_id) = above.map_or((0, None), |above| (above.depth + 1, Some(above.id.clone())));
        let BeginParams { name, query, context, deadline_ms, on_disconnect, .. } = params;
        let event = IntentStarted {
            intent_id: id.clone(),
            name: name.clone(),
            query: query.clone(),
            context,
            parent: parent_id.clone(),
            deadline_ms,
            on_disconnect,
            owner,
        };
        let seq = self.publish_placed(turn, id.clone(), &creator, &trace, &event);
        let serial = self.state.next_serial();
        let correlation = trace.correlation.clone().unwrap_or_default();
        let intent = Intent {
            serial,
            id: id.clone(),
            name,
            query,
            parent,
            parent_id,
            depth,
            children: BTreeSet::new(),
            family: BTreeSet::new(),
            creator,
            correlation: correlation.as_str().into(),
            // What happens in it follows from its begin.
            trace: Trace { causation: Some(id.as_str().to_owned()), tool_call: None, ..trace },
            seq,
            started_ms: wall_ms(turn.at),
            deadline: None,
            on_disconnect,
            guardian: None,
            guardian_digest: None,
            left: false,
            registered: BTreeMap::new(),
            stage: Stage::Open,
        };
        self.state.intents.insert(intent);
        if let Some(delay_ms) = deadline_ms {
            self.arm_deadline(turn, serial, wall_ms(turn.at).saturating_add(delay_ms));
        }
        if on_disconnect != IntentOnDisconnect::Keep {
            self.guard_intent(asking.connection, serial);
        }
        self.keep_intent(serial);
        Ok(BeginResult { intent_id: id, correlation_id: correlation, seq })
    }

    fn has_room_for_intent(&self, creator: &Creator) -> Result<(), WireError> {
        let open = self.state.intents.open.get(&creator.uid).copied().unwrap_or(0);
        if open >= INTENTS_OPEN_MAX {
            let message = format!("{INTENTS_OPEN_MAX} intents of this user are not over");
            return Err(WireError::new(Code::Busy, message).with("limit", "intentsOpenMax"));
        }
        Ok(())
    }

    /// The open intent a new one is to be part of: the one that is named, or the one the call belongs to.
    fn parent_of(&self, asking: &Asking<'_>, named: Option<&str>) -> Result<Option<u64>, WireError> {
        let parent = match named {
            Some(id) => self.own_intent(asking.connection, asking.method, "parent", id)?,
            None => {
                let inherited = asking.trace.intent.as_deref().and_then(|id| self.state.intents.named(id));
                // One that was ended is a matter of the past; one that was cancelled takes nothing new.
                match inherited.filter(|intent| !matches!(intent.stage, Stage::Ended { .. })) {
                    Some(intent) => intent,
                    None => return Ok(None),
                }
            }
        };
        let id = parent.id.as_str();
        if matches!(parent.stage, Stage::Ended { .. }) {
            return Err(over("parent", id, "is ended"));
        }
        self.may_begin_under(Some(id))?;
        if parent.depth + 1 >= INTENT_DEPTH_MAX {
            let message = format!("parent: there are at most {INTENT_DEPTH_MAX} intents within each other");
            return Err(WireError::new(Code::Conflict, message).with("limit", "intentDepthMax"));
        }
        Ok(Some(parent.serial))
    }

    /// Publishes an event about an intent and returns its place.
    fn publish_placed<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        id: EventId,
        creator: &Creator,
        trace: &Trace,
        event: &E,
    ) -> u64 {
        self.publish_as(turn, id, Audience::Of(creator.clone()), trace, event);
        if self.journal.broken.is_some() { 0 } else { self.journal.last_seq }
    }

    /// Ends an open intent. Returns the place of the event.
    pub(crate) fn end_intent(&mut self, turn: &mut Turn<'_>, serial: u64, story: &Trace, params: EndParams) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        let EndParams { result, error, summary, .. } = params;
        let (creator, duration_ms) = (intent.creator.clone(), lasted_ms(intent, turn));
        let event = IntentEnded {
            intent_id: intent.id.clone(),
            name: intent.name.clone(),
            result,
            error: error.clone(),
            summary: summary.clone(),
            duration_ms,
        };
        let said =
            |own: &Option<String>, otherwise: &Option<String>| own.clone().or_else(|| otherwise.clone());
        let trace = Trace {
            causation: said(&story.causation, &intent.trace.causation),
            principal: story.principal.clone(),
            tool_call: story.tool_call.clone(),
            ..intent.trace.clone()
        };
        let id = self.name_event();
        let seq = self.publish_placed(turn, id, &creator, &trace, &event);
        let at_ms = wall_ms(turn.at);
        self.conclude_intent(turn, serial, Stage::Ended { at_ms, seq, duration_ms, error, summary });
    }

    /// An intent's time is over.
    pub(crate) fn intent_deadline(&mut self, turn: &mut Turn<'_>, serial: u64) {
        if let Some((_, timer)) =
            self.state.intents.all.get_mut(&serial).and_then(|intent| intent.deadline.as_mut())
        {
            *timer = None;
        }
        self.cancel_by_kernel(turn, serial, "deadline");
    }

    /// The kernel's own order.
    fn cancel_by_kernel(&mut self, turn: &mut Turn<'_>, serial: u64, reason: &str) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        if !matches!(intent.stage, Stage::Open) {
            return;
        }
        let order = Order {
            reason: Some(reason.to_owned()),
            by: intent.creator.told(self.config.owner_uid),
            principal: None,
            grace_ms: self.config.limits.kill_grace_ms,
            trace: Trace { principal: None, ..intent.trace.clone() },
            cause: None,
        };
        self.cancel_intent(turn, serial, order);
    }

    fn guard_intent(&mut self, connection: ConnectionKey, serial: u64) {
        let digest = GuardianDigest::of(&self.token(connection));
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.intents.insert(serial);
        }
        if let Some(intent) = self.state.intents.all.get_mut(&serial) {
            intent.guardian = Some(Guardian::Present(connection));
            intent.guardian_digest = Some(digest);
        }
    }

    /// A client of a former kernel is back: what of that is its own has its guardian again. True if there was any.
    pub(crate) fn resume_intents(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        digest: GuardianDigest,
    ) -> bool {
        let orphans = &self.state.intents.orphans;
        let named: Vec<u64> =
            orphans.range((digest, 0)..=(digest, u64::MAX)).map(|(_, serial)| *serial).collect();
        let mut any = false;
        for serial in named {
            let Some(intent) = self.state.intents.all.get(&serial) else { continue };
            if !may_touch(self.principal(connection), &intent.creator) {
                continue;
            }
            self.release_intent(turn, serial);
            if let Some(peer) = self.state.connections.get_mut(connection) {
                peer.intents.insert(serial);
            }
            if let Some(intent) = self.state.intents.all.get_mut(&serial) {
                intent.guardian = Some(Guardian::Present(connection));
            }
            any = true;
        }
        any
    }

    /// An intent has no guardian any more.
    pub(crate) fn release_intent(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(intent) = self.state.intents.all.get_mut(&serial) else { return };
        match intent.guardian.take() {
            Some(Guardian::Present(connection)) => {
                if let Some(peer) = self.state.connections.get_mut(connection) {
                    peer.intents.remove(&serial);
                }
            }
            Some(Guardian::Orphaned { digest, timer }) => {
                self.state.intents.orphans.remove(&(digest, serial));
                timer.into_iter().for_each(|timer| self.disarm(turn, timer));
            }
            Some(Guardian::Gone) | None => {}
        }
    }

    /// Nobody has come back for an intent.
    pub(crate) fn intent_orphaned(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.guardian_gone(turn, serial);
    }

    /// A connection takes its intents with it, as they asked for.
    pub(crate) fn end_intents(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey) {
        let Some(peer) = self.state.connections.get_mut(connection) else { return };
        let registered = std::mem::take(&mut peer.registered);
        let guarded = std::mem::take(&mut peer.intents);
        for serial in registered {
            self.unregister(turn, serial, connection);
        }
        for serial in guarded {
            self.guardian_gone(turn, serial);
        }
    }

    fn guardian_gone(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.release_intent(turn, serial);
        // One that ended with another of the same connection has none any more.
        let Some(intent) = self.state.intents.all.get_mut(&serial).filter(|intent| !intent.is_over()) else {
            return;
        };
        intent.guardian = Some(Guardian::Gone);
        match intent.on_disconnect {
            IntentOnDisconnect::Keep => {}
            IntentOnDisconnect::Cancel => self.cancel_by_kernel(turn, serial, "disconnect"),
            IntentOnDisconnect::End => self.end_family(turn, serial),
        }
    }

    /// Ends an intent with all that are open under it, those first.
    fn end_family(&mut self, turn: &mut Turn<'_>, top: u64) {
        let (mut order, mut stack) = (Vec::new(), vec![top]);
        while let Some(serial) = stack.pop() {
            let Some(intent) = self.state.intents.all.get(&serial) else { continue };
            order.push(serial);
            stack.extend(&intent.children);
        }
        for serial in &order {
            if let Some(intent) = self.state.intents.all.get_mut(serial) {
                intent.left = true;
            }
        }
        for serial in order.into_iter().rev() {
            self.end_if_left(turn, serial);
        }
    }

    /// Ends an intent that is to be ended, unless something under it is still being cancelled.
    pub(crate) fn end_if_left(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        if !intent.left || !intent.children.is_empty() || !matches!(intent.stage, Stage::Open) {
            return;
        }
        let story = Trace { causation: None, principal: None, ..intent.trace.clone() };
        let error = Some("its client's connection ended".to_owned());
        self.end_intent(turn, serial, &story, EndParams { error, ..EndParams::default() });
    }
}
