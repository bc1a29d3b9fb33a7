//! Stopping everything that belongs to an intent or a story.
//!
//! ```text
//!   cancel ─▶ told: log, whoever registered ─▶ the intents under it, each the same way ─▶ its own members
//!                                   └─ their grace ─┘                                       └─▶ gone ─▶ receipt
//! ```
//!
//! What is to be looked at lies on a stack and is worked off some at a time, so that a large tree holds the lock no longer
//! than a small one. Invariant: once a cancel has begun nothing new begins under it, so its stack only shrinks; and what
//! is asked to stop is asked once, by whichever kernel.

use crate::auth::grant::may_touch;
use crate::auth::principal::{Creator, Principal};
use crate::calls::Turn;
use crate::clock::{MS, after_ms, wall_ms};
use crate::events::record::Audience;
use crate::intents::members::Member;
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::state::{Phase, Timer, Trace};
use bytes::BytesMut;
use kairo_dataplane::command::{Command, Scope};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::{ReactorId, TimerKey};
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{CutReason, IntentCancelNotice, IntentCancelling, StreamEndReason};
use kairo_wire::id::EventId;
use kairo_wire::methods::intent::{Stopped, StoppedHow, StoppedKind};
use kairo_wire::methods::status::{EndCause, EndedBy};
use kairo_wire::methods::system;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Things stopped under one hold of the lock: some tens of microseconds.
const STEP: usize = 16;
/// How long what has got its SIGKILL is waited for.
const PATIENCE_MS: u64 = 5_000;

/// What is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// An intent, by serial.
    Intent(u64),
    /// A story.
    Story(Arc<str>),
}

/// Something still to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// An intent under a cancelled one.
    Visit(u64),
    /// The members of a cancel behind this one.
    Members(u64, Option<Member>),
}

/// By whom, why and how.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Why.
    pub reason: Option<String>,
    /// Who, as it is told.
    pub by: system::Principal,
    /// Who; none for the kernel itself. What of a story it may not touch is left alone.
    pub principal: Option<Principal>,
    /// Between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    /// Of the cancel as an event.
    pub trace: Trace,
    /// The event that asked for it.
    pub cause: Option<String>,
}

/// A cancel under way.
#[derive(Debug)]
pub(crate) struct Cancel {
    /// What is stopped.
    pub target: Target,
    /// The event of its begin.
    pub of: EventId,
    /// Whose thing it is.
    pub creator: Creator,
    /// By whom, why and how.
    pub order: Order,
    /// When it began.
    pub began: Moment,
    /// What was asked to stop and is still there; true if it got its SIGKILL.
    pub pending: BTreeMap<Member, bool>,
    /// Intents it waits for.
    pub intents: BTreeSet<u64>,
    /// What is gone.
    pub stopped: Vec<Stopped>,
    /// … and was too much to list.
    pub more: u64,
    /// Intents that are over.
    pub children: Vec<EventId>,
    /// What was given up.
    pub left: u32,
    /// All members were looked at.
    pub walked: bool,
    /// Rings when the grace of those who registered is over.
    pub hold: Option<TimerKey>,
    /// Rings when what is left is given up.
    pub patience: Option<TimerKey>,
    /// Calls that wait for the receipt.
    pub callers: Vec<u64>,
}

impl Kernel {
    /// Begins to stop an intent and all under it. It is open.
    pub(crate) fn cancel_intent(&mut self, turn: &mut Turn<'_>, serial: u64, order: Order) {
        self.begin_cancel(turn, serial, order, None);
        self.walk(turn);
    }

    /// The same of a story. Returns the cancel's name in the tables.
    pub(crate) fn cancel_story(
        &mut self,
        turn: &mut Turn<'_>,
        story: &Arc<str>,
        creator: Creator,
        order: Order,
    ) -> u64 {
        let serial = self.state.next_serial();
        let of = self.name_event();
        self.tell_cancelling(turn, of.clone(), None, &creator, &order, false);
        let cancel = Cancel::new(Target::Story(Arc::clone(story)), of, creator, order, turn.at);
        self.take_up_story(turn, serial, cancel);
        self.walk(turn);
        serial
    }

    /// A story's cancel goes into the tables.
    pub(crate) fn take_up_story(&mut self, turn: &mut Turn<'_>, serial: u64, mut cancel: Cancel) {
        let Target::Story(story) = cancel.target.clone() else { return };
        let intents = &self.state.intents;
        let members = intents.of_story.get(&*story).into_iter().flatten();
        let of_it: BTreeSet<u64> = members
            .filter_map(|member| match member {
                Member::Intent(serial) => Some(*serial),
                _ => None,
            })
            .filter(|serial| {
                intents.all.get(serial).is_some_and(|intent| cancel.order.reaches(&intent.creator))
            })
            .collect();
        // Those under another of them come with it.
        let tops = of_it.iter().filter(|serial| {
            let parent = intents.all.get(serial).and_then(|intent| intent.parent);
            parent.is_none_or(|parent| !of_it.contains(&parent))
        });
        cancel.intents = tops.copied().collect();
        self.arm_patience(turn, serial, &mut cancel, 0);
        self.state.intents.steps.push(Step::Members(serial, None));
        self.state.intents.steps.extend(cancel.intents.iter().rev().map(|intent| Step::Visit(*intent)));
        self.state.intents.stories.insert(story, serial);
        self.state.intents.cancels.insert(serial, Box::new(cancel));
        self.keep_story(serial);
    }

    /// An open intent becomes one that is being cancelled. `former` is the event of a cancel that another kernel began.
    pub(crate) fn begin_cancel(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        order: Order,
        former: Option<(EventId, Moment)>,
    ) {
        let Some(intent) = self.state.intents.all.get_mut(&serial) else { return };
        let resumed = former.is_some();
        intent.stage = Stage::Cancelling;
        let (id, creator) = (intent.id.clone(), intent.creator.clone());
        let deadline = intent.deadline.and_then(|(_, timer)| timer);
        let children: BTreeSet<u64> = intent.children.clone();
        let hold_ms = intent.registered.values().copied().max().unwrap_or(0);
        if let Some((_, timer)) = &mut intent.deadline {
            *timer = None;
        }
        if let Some(timer) = deadline {
            self.disarm(turn, timer);
        }
        let (of, began) = former.unwrap_or_else(|| (self.name_event(), turn.at));
        let name = if resumed { self.name_event() } else { of.clone() };
        self.tell_cancelling(turn, name, Some(id), &creator, &order, resumed);
        self.tell_registered(turn, serial, &order);
        let mut cancel = Cancel::new(Target::Intent(serial), of, creator, order, began);
        if hold_ms > 0 {
            let timer = self.arm(turn, ReactorId(0), after_ms(turn.at, hold_ms));
            self.state.timers.insert(timer.serial, Timer::CancelHold { cancel: serial });
            cancel.hold = Some(timer);
        }
        self.arm_patience(turn, serial, &mut cancel, hold_ms);
        let steps = &mut self.state.intents.steps;
        if cancel.hold.is_none() {
            steps.push(Step::Members(serial, None));
        }
        steps.extend(children.iter().rev().map(|child| Step::Visit(*child)));
        cancel.intents = children;
        self.state.intents.cancels.insert(serial, Box::new(cancel));
        self.keep_intent(serial);
    }

    fn arm_patience(&mut self, turn: &mut Turn<'_>, serial: u64, cancel: &mut Cancel, hold_ms: u64) {
        let ms = hold_ms.saturating_add(cancel.order.grace_ms).saturating_add(PATIENCE_MS);
        let timer = self.arm(turn, ReactorId(0), after_ms(turn.at, ms));
        self.state.timers.insert(timer.serial, Timer::CancelPatience { cancel: serial });
        cancel.patience = Some(timer);
    }

    fn tell_cancelling(
        &mut self,
        turn: &mut Turn<'_>,
        id: EventId,
        intent_id: Option<EventId>,
        creator: &Creator,
        order: &Order,
        resumed: bool,
    ) {
        let Order { reason, by, grace_ms, trace, .. } = order;
        let event = IntentCancelling {
            intent_id,
            reason: reason.clone(),
            by: by.clone(),
            grace_ms: *grace_ms,
            resumed,
        };
        self.publish_as(turn, id, Audience::Of(creator.clone()), trace, &event);
    }

    fn tell_registered(&mut self, turn: &mut Turn<'_>, serial: u64, order: &Order) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        let mut notice = IntentCancelNotice {
            intent_id: intent.id.clone(),
            correlation_id: (*intent.correlation).to_owned(),
            reason: order.reason.clone(),
            by: order.by.clone(),
            grace_ms: 0,
        };
        for (connection, grace_ms) in intent.registered.clone() {
            notice.grace_ms = grace_ms;
            let Some(peer) = self.state.connections.get(connection).filter(|peer| !peer.closing) else {
                continue;
            };
            let mut frame = BytesMut::new();
            if put_notice(&mut frame, peer.dialect, &notice).is_ok() {
                turn.out.push(Command::Reply { connection, frame: frame.freeze() });
            }
        }
    }

    /// Looks at what lies on the stack, a few of it now, the rest when the walker rings.
    pub(crate) fn walk(&mut self, turn: &mut Turn<'_>) {
        if self.state.intents.walker.is_some() {
            return;
        }
        self.walk_on(turn);
    }

    /// The walker has rung.
    pub(crate) fn walk_on(&mut self, turn: &mut Turn<'_>) {
        self.state.intents.walker = None;
        let mut budget = STEP;
        while let Some(step) = self.state.intents.steps.pop() {
            if budget == 0 {
                self.state.intents.steps.push(step);
                let timer = self.arm(turn, ReactorId(0), turn.at.monotonic_ns);
                self.state.timers.insert(timer.serial, Timer::CancelWalk);
                self.state.intents.walker = Some(timer);
                return;
            }
            match step {
                Step::Visit(serial) => {
                    budget -= 1;
                    self.visit(turn, serial);
                }
                Step::Members(serial, after) => budget = self.stop_some(turn, serial, after, budget),
            }
        }
    }

    /// An intent under a cancelled one, or of a cancelled story.
    fn visit(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(intent) = self.state.intents.all.get(&serial) else { return };
        if !matches!(intent.stage, Stage::Open) {
            return;
        }
        let above = intent.parent.and_then(|parent| self.state.intents.cancels.get(&parent));
        let story = || self.state.intents.cancels.get(self.state.intents.stories.get(&*intent.correlation)?);
        let Some(above) = above.or_else(story) else { return };
        let mut order = above.order.clone();
        order.trace = Trace { causation: Some(above.of.as_str().to_owned()), ..intent.own_trace(&order) };
        self.begin_cancel(turn, serial, order, None);
    }

    /// Stops members behind `after`, so many of them. Returns how many more there may be.
    fn stop_some(&mut self, turn: &mut Turn<'_>, serial: u64, after: Option<Member>, budget: usize) -> usize {
        let intents = &self.state.intents;
        let Some(cancel) = intents.cancels.get(&serial) else { return budget };
        let list = match &cancel.target {
            Target::Intent(serial) => {
                intents.all.get(serial).and_then(|intent| intents.of_intent.get(intent.id.as_str()))
            }
            Target::Story(story) => intents.of_story.get(&**story),
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let members: Vec<Member> = list
            .into_iter()
            .flat_map(|list| list.range((from, Bound::Unbounded)))
            .take(budget)
            .copied()
            .collect();
        let rest = budget - members.len();
        if rest == 0 {
            let last = members.last().copied();
            self.state.intents.steps.push(Step::Members(serial, last));
        }
        for member in members {
            self.stop_member(turn, serial, member);
        }
        if rest > 0 {
            if let Some(cancel) = self.state.intents.cancels.get_mut(&serial) {
                cancel.walked = true;
            }
            self.check_cancel(turn, serial);
        }
        rest
    }

    fn stop_member(&mut self, turn: &mut Turn<'_>, serial: u64, member: Member) {
        let Some(cancel) = self.state.intents.cancels.get(&serial) else { return };
        let cancelled = || WireError::new(Code::Cancelled, "the intent it belongs to was cancelled");
        match member {
            Member::Intent(_) => {}
            Member::Process(process) => self.stop_process(turn, serial, process),
            Member::Call(ticket) => {
                let Some(call) = self.state.calls.get(&ticket) else { return };
                if !self.reaches_connection(cancel, call.connection) {
                    return;
                }
                let method = call.pending.method().to_owned();
                self.note_stopped(turn, serial, StoppedKind::Call, method, StoppedHow::Ended);
                self.abandon(turn, ticket, &cancelled(), EndCause::Cancel);
            }
            Member::Stream(stream) => {
                let Some(of) = self.state.streams.get(&stream) else { return };
                if !self.reaches(cancel, &self.reader_of(of)) {
                    return;
                }
                let id = of.id.as_str().to_owned();
                self.note_stopped(turn, serial, StoppedKind::Stream, id, StoppedHow::Ended);
                self.end_with_record(turn, stream, StreamEndReason::Cancelled);
            }
            Member::Topic(topic) => {
                let Some(of) = self.state.topics.get(&topic) else { return };
                let connection = of.connection;
                if !self.reaches_connection(cancel, connection) {
                    return;
                }
                let id = of.id.as_str().to_owned();
                self.note_stopped(turn, serial, StoppedKind::Events, id, StoppedHow::Ended);
                self.cut(turn, topic, CutReason::Cancelled);
                self.close_if_over(turn, connection);
            }
            Member::Inlet(process) => {
                let Some(of) = self.state.inlets.get(&process) else { return };
                if !self.reaches(cancel, &self.holder_of(of)) {
                    return;
                }
                let id = self.state.processes.get(&process).map(|process| process.id.key().into_owned());
                self.note_stopped(
                    turn,
                    serial,
                    StoppedKind::Stdin,
                    id.unwrap_or_default(),
                    StoppedHow::Ended,
                );
                self.end_inlet(turn, process);
            }
        }
    }

    fn reaches_connection(&self, cancel: &Cancel, connection: kairo_dataplane::key::ConnectionKey) -> bool {
        self.reaches(cancel, &self.principal(connection).creator(self.config.owner_uid))
    }

    fn reaches(&self, cancel: &Cancel, creator: &Creator) -> bool {
        match cancel.target {
            Target::Intent(_) => true,
            Target::Story(_) => cancel.order.reaches(creator),
        }
    }

    fn stop_process(&mut self, turn: &mut Turn<'_>, serial: u64, process: u64) {
        let (Some(cancel), Some(of)) =
            (self.state.intents.cancels.get(&serial), self.state.processes.get(&process))
        else {
            return;
        };
        if matches!(cancel.target, Target::Story(_)) {
            // What belongs to an intent that is cancelled with it is that one's to stop.
            let intent = of.trace.intent.as_deref().and_then(|intent| self.state.intents.named(intent));
            if !cancel.order.reaches(&of.creator)
                || intent.is_some_and(|intent| matches!(intent.stage, Stage::Cancelling))
            {
                return;
            }
        }
        if of.tree_gone {
            let id = of.id.key().into_owned();
            self.note_stopped(turn, serial, StoppedKind::Process, id, StoppedHow::Ended);
            return self.renounce(turn, process);
        }
        let by = EndedBy { cause: EndCause::Cancel, principal: Some(cancel.order.by.clone()) };
        let grace_ms = cancel.order.grace_ms;
        let dying = of.killing.as_ref().is_some_and(|killing| killing.scope == Scope::Tree);
        let spent = of.killing.as_ref().is_some_and(|killing| killing.timer.is_none());
        if let Some(cancel) = self.state.intents.cancels.get_mut(&serial) {
            cancel.pending.insert(Member::Process(process), dying && spent);
        }
        if dying && of.phase != Phase::Starting {
            // It has had its signal, from a former kernel perhaps.
            return self.renounce(turn, process);
        }
        self.doom_within(turn, process, by, grace_ms);
    }

    /// The time of those who registered is over, or all of them are ready.
    pub(crate) fn hold_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(cancel) = self.state.intents.cancels.get_mut(&serial) else { return };
        let Some(timer) = cancel.hold.take() else { return };
        self.disarm(turn, timer);
        self.state.intents.steps.push(Step::Members(serial, None));
        self.walk(turn);
    }

    /// Somebody who registered is ready, or gone.
    pub(crate) fn unregister(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        connection: kairo_dataplane::key::ConnectionKey,
    ) -> bool {
        let Some(intent) = self.state.intents.all.get_mut(&serial) else { return false };
        let was = intent.registered.remove(&connection).is_some();
        let waits = intent.registered.values().any(|grace_ms| *grace_ms > 0);
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.registered.remove(&serial);
        }
        if was && !waits {
            self.hold_over(turn, serial);
        }
        was
    }
}

impl Order {
    /// Whether whoever gave it may touch what `creator` began.
    pub(crate) fn reaches(&self, creator: &Creator) -> bool {
        self.principal.as_ref().is_none_or(|principal| may_touch(principal, creator))
    }
}

impl Intent {
    /// Of what the kernel does to it: in its own story, by whoever gave the order.
    pub(crate) fn own_trace(&self, order: &Order) -> Trace {
        Trace { principal: order.trace.principal.clone(), ..self.trace.clone() }
    }
}

impl Cancel {
    pub(crate) fn new(target: Target, of: EventId, creator: Creator, order: Order, began: Moment) -> Cancel {
        Cancel {
            target,
            of,
            creator,
            order,
            began,
            pending: BTreeMap::new(),
            intents: BTreeSet::new(),
            stopped: Vec::new(),
            more: 0,
            children: Vec::new(),
            left: 0,
            walked: false,
            hold: None,
            patience: None,
            callers: Vec::new(),
        }
    }

    /// Milliseconds since it began, by the clock of the wall if a former kernel began it.
    pub(crate) fn lasted_ms(&self, at: Moment) -> u64 {
        let began_ms = self.began.wall_ns / MS;
        let by_clock = at.monotonic_ns.saturating_sub(self.began.monotonic_ns) / MS;
        if self.began.monotonic_ns > 0 { by_clock } else { wall_ms(at).saturating_sub(began_ms) }
    }
}
