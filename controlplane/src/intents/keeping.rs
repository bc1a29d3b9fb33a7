//! Intents as the log keeps them: named values, written with the event that changed them, and what a new kernel makes
//! of those it finds.
//!
//! ```text
//!   intent/ID ─▶ open: as it was, its deadline armed, its guardian waited for
//!             ─▶ being cancelled: that goes on, and nothing is signalled twice
//!             ─▶ over: remembered for a while, with its receipt
//! ```
//!
//! Fields are named, so a later version adds some; a reader takes what it knows. Invariant: what is not in a value was
//! not under way: events are never acted on when they are read, so no cancel of the past cancels anything.

use crate::auth::principal::{Creator, Principal};
use crate::calls::Turn;
use crate::clock::{MS, after_ms, wall_ms};
use crate::digest::GuardianDigest;
use crate::events::record::Audience;
use crate::intents::cancelling::{Cancel, Order, Target};
use crate::intents::members::Member;
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::sessions::wards::Guardian;
use crate::state::{Timer, Trace};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ReactorId;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::event::{IntentCancelled, IntentCancelling};
use kairo_wire::id::EventId;
use kairo_wire::methods::intent::{IntentOnDisconnect, StoppedKind};
use kairo_wire::methods::status::EndCause;
use kairo_wire::methods::system;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the names of their values begin with.
pub const PREFIX: &[u8] = b"intent/";

const VERSION: u32 = 1;

/// An intent, or the cancel of a story, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    v: u32,
    /// Of an intent: that of its begin. Of a story: that of its cancel.
    id: EventId,
    /// It is no intent but a story.
    #[serde(default)]
    story: bool,
    #[serde(default)]
    name: String,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    parent: Option<EventId>,
    #[serde(default)]
    depth: usize,
    uid: u32,
    of_session: Option<String>,
    of_skill: Option<String>,
    correlation_id: String,
    #[serde(default)]
    causation_id: Option<String>,
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(default)]
    span_id: Option<String>,
    #[serde(default)]
    principal: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    started_ms: u64,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default)]
    on_disconnect: IntentOnDisconnect,
    #[serde(default)]
    guardian: Option<String>,
    #[serde(default)]
    cancel: Option<KeptCancel>,
    #[serde(default)]
    ended: Option<KeptEnd>,
    #[serde(default)]
    cancelled: Option<(u64, IntentCancelled)>,
}

/// A cancel under way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptCancel {
    of: EventId,
    reason: Option<String>,
    by: system::Principal,
    /// Whose rights it has; none if it has the kernel's.
    uid: Option<u32>,
    of_session: Option<String>,
    of_skill: Option<String>,
    grace_ms: u64,
    cause: Option<String>,
    principal: Option<String>,
    began_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptEnd {
    at_ms: u64,
    seq: u64,
    duration_ms: u64,
    error: Option<String>,
    summary: Option<String>,
}

fn owned(text: &Option<std::sync::Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

fn key(id: &EventId) -> Bytes {
    [PREFIX, id.as_str().as_bytes()].concat().into()
}

impl KeptCancel {
    fn of(cancel: &Cancel, owner_uid: u32) -> KeptCancel {
        let Order { reason, by, principal, grace_ms, trace, cause } = &cancel.order;
        let creator = principal.as_ref().map(|principal| principal.creator(owner_uid));
        KeptCancel {
            of: cancel.of.clone(),
            reason: reason.clone(),
            by: by.clone(),
            uid: creator.as_ref().map(|creator| creator.uid),
            of_session: creator.as_ref().and_then(|creator| owned(&creator.session)),
            of_skill: creator.as_ref().and_then(|creator| owned(&creator.name)),
            grace_ms: *grace_ms,
            cause: cause.clone(),
            principal: trace.principal.as_deref().map(str::to_owned),
            began_ms: cancel.began.wall_ns / MS,
        }
    }

    fn order(&self, trace: Trace, owner_uid: u32) -> Order {
        let principal = self.uid.map(|uid| {
            let (session, name) = (self.of_session.as_deref(), self.of_skill.as_deref());
            let creator = Creator { uid, session: session.map(Into::into), name: name.map(Into::into) };
            Principal::of_creator(&creator, owner_uid)
        });
        let said_by = self.principal.as_deref().map(Into::into);
        let trace = Trace { causation: Some(self.of.as_str().to_owned()), principal: said_by, ..trace };
        Order {
            reason: self.reason.clone(),
            by: self.by.clone(),
            principal,
            grace_ms: self.grace_ms,
            trace,
            cause: self.cause.clone(),
        }
    }
}

impl Kept {
    fn of(intent: &Intent, cancel: Option<&Cancel>, owner_uid: u32) -> Kept {
        let (mut ended, mut cancelled) = (None, None);
        match &intent.stage {
            Stage::Open | Stage::Cancelling => {}
            Stage::Ended { at_ms, seq, duration_ms, error, summary } => {
                let (error, summary) = (error.clone(), summary.clone());
                ended = Some(KeptEnd { at_ms: *at_ms, seq: *seq, duration_ms: *duration_ms, error, summary });
            }
            Stage::Cancelled { at_ms, receipt } => cancelled = Some((*at_ms, (**receipt).clone())),
        }
        let mut kept = Kept::empty(intent.id.clone(), &intent.creator, &intent.correlation);
        kept.name.clone_from(&intent.name);
        kept.query.clone_from(&intent.query);
        kept.parent.clone_from(&intent.parent_id);
        kept.depth = intent.depth;
        kept.causation_id.clone_from(&intent.trace.causation);
        kept.trace_id.clone_from(&intent.trace.trace);
        kept.span_id.clone_from(&intent.trace.span);
        kept.principal = owned(&intent.trace.principal);
        (kept.seq, kept.started_ms) = (intent.seq, intent.started_ms);
        kept.deadline_ms = intent.deadline.map(|(at_ms, _)| at_ms);
        kept.on_disconnect = intent.on_disconnect;
        kept.guardian = intent.guardian_digest.map(|digest| digest.to_string());
        kept.cancel = cancel.map(|cancel| KeptCancel::of(cancel, owner_uid));
        (kept.ended, kept.cancelled) = (ended, cancelled);
        kept
    }

    fn empty(id: EventId, creator: &Creator, story: &str) -> Kept {
        Kept {
            v: VERSION,
            id,
            story: false,
            name: String::new(),
            query: None,
            parent: None,
            depth: 0,
            uid: creator.uid,
            of_session: owned(&creator.session),
            of_skill: owned(&creator.name),
            correlation_id: story.to_owned(),
            causation_id: None,
            trace_id: None,
            span_id: None,
            principal: None,
            seq: 0,
            started_ms: 0,
            deadline_ms: None,
            on_disconnect: IntentOnDisconnect::Keep,
            guardian: None,
            cancel: None,
            ended: None,
            cancelled: None,
        }
    }

    fn creator(&self) -> Creator {
        Creator {
            uid: self.uid,
            session: self.of_session.as_deref().map(Into::into),
            name: self.of_skill.as_deref().map(Into::into),
        }
    }

    fn trace(&self) -> Trace {
        Trace {
            correlation: Some(self.correlation_id.clone()),
            causation: self.causation_id.clone(),
            intent: (!self.story).then(|| self.id.as_str().to_owned()),
            trace: self.trace_id.clone(),
            span: self.span_id.clone(),
            tool_call: None,
            call_seq: None,
            principal: self.principal.as_deref().map(Into::into),
        }
    }

    fn encode(&self) -> Option<Bytes> {
        let mut buf = BytesMut::new();
        match to_buf(&mut buf, Dialect::Int64, self) {
            Ok(()) => Some(buf.freeze()),
            Err(error) => {
                tracing::error!(component = "controlplane", intentId = self.id.as_str(), %error, "an intent was not kept");
                None
            }
        }
    }

    fn into_intent(self, serial: u64, parent: Option<u64>) -> Intent {
        let (creator, trace) = (self.creator(), self.trace());
        let stage = match (self.ended, self.cancelled) {
            (Some(KeptEnd { at_ms, seq, duration_ms, error, summary }), _) => {
                Stage::Ended { at_ms, seq, duration_ms, error, summary }
            }
            (None, Some((at_ms, receipt))) => Stage::Cancelled { at_ms, receipt: Box::new(receipt) },
            (None, None) => Stage::Open,
        };
        Intent {
            serial,
            id: self.id,
            name: self.name,
            query: self.query,
            parent,
            parent_id: self.parent,
            depth: self.depth,
            children: BTreeSet::new(),
            family: BTreeSet::new(),
            creator,
            correlation: self.correlation_id.into(),
            trace,
            seq: self.seq,
            started_ms: self.started_ms,
            deadline: self.deadline_ms.map(|at_ms| (at_ms, None)),
            on_disconnect: self.on_disconnect,
            guardian: None,
            guardian_digest: self.guardian.as_deref().and_then(GuardianDigest::from_text),
            left: false,
            registered: BTreeMap::new(),
            stage,
        }
    }
}

impl Kernel {
    /// Has the log keep an intent as it is now.
    pub(crate) fn keep_intent(&mut self, serial: u64) {
        let intents = &self.state.intents;
        let Some(intent) = intents.all.get(&serial) else { return };
        let cancel = intents.cancels.get(&serial).map(|cancel| &**cancel);
        let (key, value) = (key(&intent.id), Kept::of(intent, cancel, self.config.owner_uid).encode());
        if value.is_some() {
            self.journal.value(key, value);
        }
    }

    /// The same of a story's cancel.
    pub(crate) fn keep_story(&mut self, serial: u64) {
        let Some(cancel) = self.state.intents.cancels.get(&serial) else { return };
        let Target::Story(story) = &cancel.target else { return };
        let mut kept = Kept::empty(cancel.of.clone(), &cancel.creator, story);
        kept.story = true;
        kept.cancel = Some(KeptCancel::of(cancel, self.config.owner_uid));
        if let Some(value) = kept.encode() {
            self.journal.value(key(&kept.id), Some(value));
        }
    }

    /// A story was cancelled: its receipt is remembered.
    pub(crate) fn story_cancelled(
        &mut self,
        story: std::sync::Arc<str>,
        of: EventId,
        creator: Creator,
        receipt: Box<IntentCancelled>,
        remembered: bool,
    ) {
        if !remembered {
            self.journal.value(key(&of), None);
            return;
        }
        let mut kept = Kept::empty(of.clone(), &creator, &story);
        kept.story = true;
        kept.cancelled = Some((0, (*receipt).clone()));
        if let Some(value) = kept.encode() {
            self.journal.value(key(&of), Some(value));
        }
        if let Some(former) = self.state.intents.keep_receipt(story, of, creator, receipt) {
            self.journal.value(key(&former), None);
        }
        self.forget_intents();
    }

    /// What is over is not remembered for ever.
    pub(crate) fn forget_intents(&mut self) {
        while let Some(id) = self.state.intents.forget_one() {
            self.journal.value(key(&id), None);
        }
    }

    /// Takes in what the log has of intents. To be called once, after what the keeper handed over is in the tables and
    /// before there are connections. A value that can't be read is left where it is.
    pub fn recall_intents(&mut self, at: Moment, values: Vec<(Bytes, Bytes)>, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let mut past = Vec::new();
        for (name, value) in values {
            match from_slice::<Kept>(&value) {
                Ok(kept) => past.push(kept),
                Err(error) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    tracing::error!(component = "controlplane", name, %error, "an intent can't be read");
                }
            }
        }
        // Parents before their children, and the oldest of what is over first.
        past.sort_by_key(|kept| kept.seq);
        let (mut cancels, mut stories) = (Vec::new(), Vec::new());
        for mut kept in past {
            let cancel = kept.cancel.take();
            if kept.story {
                stories.push((kept, cancel));
                continue;
            }
            let serial = self.recall_intent(turn, kept);
            cancels.extend(cancel.map(|cancel| (serial, cancel)));
        }
        for (serial, cancel) in &cancels {
            self.resume_cancel(turn, *serial, cancel);
        }
        for (kept, cancel) in stories {
            self.recall_story(turn, kept, cancel.as_ref());
        }
        self.forget_intents();
        self.walk(turn);
    }

    fn recall_intent(&mut self, turn: &mut Turn<'_>, kept: Kept) -> u64 {
        let serial = self.state.next_serial();
        let parent = kept.parent.as_ref().and_then(|id| self.state.intents.names.get(id.as_str())).copied();
        let intent = kept.into_intent(serial, parent);
        let (over, deadline, digest) = (intent.is_over(), intent.deadline, intent.guardian_digest);
        self.state.intents.insert(intent);
        if over {
            return serial;
        }
        if let Some((at_ms, _)) = deadline {
            self.arm_deadline(turn, serial, at_ms);
        }
        if let Some(digest) = digest {
            let at_ns = after_ms(turn.at, self.config.limits.reconnect_grace_ms);
            let timer = self.arm(turn, ReactorId(0), at_ns);
            self.state.timers.insert(timer.serial, Timer::IntentOrphan { intent: serial });
            self.state.intents.orphans.insert((digest, serial));
            if let Some(intent) = self.state.intents.all.get_mut(&serial) {
                intent.guardian = Some(Guardian::Orphaned { digest, timer: Some(timer) });
            }
        }
        serial
    }

    /// A cancel that another kernel began goes on: what has had its signal gets no second one.
    fn resume_cancel(&mut self, turn: &mut Turn<'_>, serial: u64, kept: &KeptCancel) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        let order = kept.order(intent.trace.clone(), self.config.owner_uid);
        let id = intent.id.as_str().to_owned();
        let began = Moment { monotonic_ns: 0, wall_ns: kept.began_ms.saturating_mul(MS) };
        self.begin_cancel(turn, serial, order, Some((kept.of.clone(), began)));
        // Those it stopped and nobody has accounted for, as there was no kernel when they went.
        let mut gone: Vec<u64> = self
            .state
            .processes
            .values()
            .filter(|process| process.trace.intent.as_deref() == Some(&id) && !process.is_member())
            .filter(|process| process.ended_by.as_ref().is_some_and(|by| by.cause == EndCause::Cancel))
            .map(|process| process.key.serial)
            .collect();
        gone.sort_unstable();
        for process in gone {
            let Some(process) = self.state.processes.get(&process) else { continue };
            let (id, how) = (process.id.key().into_owned(), process.how_gone(false));
            self.note_stopped(turn, serial, StoppedKind::Process, id, how);
        }
    }

    fn recall_story(&mut self, turn: &mut Turn<'_>, mut kept: Kept, cancel: Option<&KeptCancel>) {
        let (creator, story) = (kept.creator(), std::sync::Arc::<str>::from(&*kept.correlation_id));
        if let Some((_, receipt)) = kept.cancelled.take() {
            self.state.intents.keep_receipt(story, kept.id, creator, Box::new(receipt));
            return;
        }
        let Some(cancel) = cancel else { return };
        let order = cancel.order(kept.trace(), self.config.owner_uid);
        let Order { reason, by, grace_ms, trace, .. } = order.clone();
        let event = IntentCancelling { intent_id: None, reason, by, grace_ms, resumed: true };
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
        let began = Moment { monotonic_ns: 0, wall_ns: cancel.began_ms.saturating_mul(MS) };
        let serial = self.state.next_serial();
        let cancel = Cancel::new(Target::Story(story), kept.id, creator, order, began);
        self.take_up_story(turn, serial, cancel);
    }

    /// Arms an intent's deadline, which is a time of the wall.
    pub(crate) fn arm_deadline(&mut self, turn: &mut Turn<'_>, serial: u64, at_ms: u64) {
        let delay_ms = at_ms.saturating_sub(wall_ms(turn.at));
        let timer = self.arm(turn, ReactorId(0), after_ms(turn.at, delay_ms));
        self.state.timers.insert(timer.serial, Timer::IntentDeadline { intent: serial });
        if let Some(intent) = self.state.intents.all.get_mut(&serial) {
            intent.deadline = Some((at_ms, Some(timer)));
        }
    }

    /// Members of an intent by kind: processes, calls, subscriptions.
    pub(crate) fn count_members(&self, id: &str) -> [u32; 3] {
        let mut counts = [0; 3];
        for member in self.state.intents.of_intent.get(id).into_iter().flatten() {
            let kind = match member {
                Member::Intent(_) => continue,
                Member::Process(_) => 0,
                Member::Call(_) => 1,
                Member::Stream(_) | Member::Topic(_) | Member::Inlet(_) => 2,
            };
            counts[kind] += 1;
        }
        counts
    }
}
