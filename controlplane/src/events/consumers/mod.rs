//! Durable consumers: a name, a position in the log, and what was delivered and is not done.
//!
//! ```text
//!   log ─page─▶ buffer ─deliver─▶ pending ──ack──▶ done
//!   news ─────────┘        ▲         ├─nak, too late, connection gone─▶ backoff ─▶ ripe ─page─┐
//!                          └─────────┼────────────────────────────────────────────────────────┘
//!                                    └─as often as it may be─▶ dead letter
//! ```
//!
//! An event is in exactly one of these: not looked at (its place is `next` or later), in the buffer, pending, or settled.
//! What is written down is the position and what is pending, in one value per consumer, at most one on its way to the log
//! at a time: acknowledgements that come meanwhile go together in the next. First deliveries are written with the next
//! acknowledgement; a kernel that dies before delivers them again, for the first time.
//!
//! Invariants: an acknowledgement that was answered is in the log, and what it acknowledges is never delivered again; what is
//! not settled is delivered again, or put aside and told; nobody who publishes waits for a consumer.

mod delivering;
mod keeping;
mod settling;

pub use keeping::{CONFIG_PREFIX, STATE_PREFIX};

use crate::auth::principal::{Creator, Principal, Skill};
use crate::calls::Turn;
use crate::events::journal::Awaiting;
use crate::kernel::Kernel;
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::envelope::put_notice;
use kairo_wire::event::{CutReason, DeadReason, EventCutRecord};
use kairo_wire::id::{SubscriptionId, TopicPattern};
use kairo_wire::methods::consumer::{AckResult, ConsumerStatus, Settings};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What somebody has asked of the log for a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// What comes next.
    Next,
    /// What is ripe, from this place to that.
    Ripe(u64, u64),
}

/// An event that was delivered and is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// How often it was.
    pub count: u32,
    /// The attachment that has it; none while it waits to be delivered again.
    pub held: Option<u64>,
    /// Until when it is held or waits; none if it is ripe.
    pub until_ns: Option<u64>,
    /// What became of the last delivery.
    pub reason: DeadReason,
}

/// A connection that receives events of a consumer.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// Its name on the wire.
    pub id: SubscriptionId,
    /// Who receives.
    pub connection: ConnectionKey,
    /// From which consumer.
    pub consumer: u64,
}

/// Numbers that are written down with the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Done.
    pub acked: u64,
    /// Delivered again.
    pub redelivered: u64,
    /// Put aside.
    pub dead: u64,
}

/// A durable consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Its name, its user's own.
    pub name: Arc<str>,
    /// Who made it: it hears what this one may.
    pub creator: Creator,
    /// Which events.
    pub topic: TopicPattern,
    /// How they are treated.
    pub settings: Settings,
    /// Of the past, only since then.
    pub from_ms: u64,
    /// Everything below has been looked at.
    pub next: u64,
    /// It is told what happens; else it is brought events out of the log.
    pub live: bool,
    /// Looked at and not delivered.
    pub buffer: VecDeque<(u64, Bytes)>,
    /// Delivered and not done.
    pub pending: BTreeMap<u64, Delivery>,
    /// When something of that changes by itself, and what.
    pub times: BTreeSet<(u64, u64)>,
    /// What of it is to be delivered again now.
    pub ripe: BTreeSet<u64>,
    /// What is asked of the log, and under which ticket.
    pub asked: Option<(u64, Asked)>,
    /// Who receives, by serial of the attachment.
    pub attached: Vec<u64>,
    /// Whose turn it is.
    pub turn: usize,
    /// Rings when the first of `times` may have come, and when that is.
    pub timer: Option<(TimerKey, u64)>,
    /// Numbers.
    pub counts: Counts,
    /// What is on its way to the log: those who are answered then.
    pub saving: Option<Vec<(u64, AckResult)>>,
    /// What has changed since.
    pub dirty: bool,
    /// Those who are answered when that is in the log.
    pub waiting: Vec<(u64, AckResult)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    /// By serial.
    pub all: BTreeMap<u64, Consumer>,
    /// By user and name.
    pub names: BTreeMap<(u32, Arc<str>), u64>,
    /// Who receives.
    pub attachments: BTreeMap<u64, Attachment>,
    /// For whom a page was asked, by ticket.
    pub asked: BTreeMap<u64, u64>,
}

impl Consumers {
    /// The consumer a page is for.
    pub(crate) fn asking(&mut self, ticket: u64) -> Option<u64> {
        self.asked.remove(&ticket)
    }

    /// All there are.
    pub(crate) fn serials(&self) -> Vec<u64> {
        self.all.keys().copied().collect()
    }

    /// How many a user has.
    pub(crate) fn count_of(&self, uid: u32) -> usize {
        self.names.keys().filter(|(of, _)| *of == uid).count()
    }

    /// The one of a name.
    pub(crate) fn named(&self, uid: u32, name: &str) -> Option<(u64, &Consumer)> {
        let serial = *self.names.get(&(uid, Arc::from(name)))?;
        Some((serial, self.all.get(&serial)?))
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, serial: u64, consumer: Consumer) {
        self.names.insert((consumer.creator.uid, Arc::clone(&consumer.name)), serial);
        self.all.insert(serial, consumer);
    }
}

impl Consumer {
    /// One that begins at `next`.
    pub(crate) fn new(
        name: Arc<str>,
        creator: Creator,
        topic: TopicPattern,
        settings: Settings,
        next: u64,
    ) -> Self {
        Consumer {
            name,
            creator,
            topic,
            settings,
            from_ms: 0,
            next,
            live: false,
            buffer: VecDeque::new(),
            pending: BTreeMap::new(),
            times: BTreeSet::new(),
            ripe: BTreeSet::new(),
            asked: None,
            attached: Vec::new(),
            turn: 0,
            timer: None,
            counts: Counts::default(),
            saving: None,
            dirty: false,
            waiting: Vec::new(),
        }
    }

    /// Everything below was delivered, or is none of its events. `told` is the last place the bus was told.
    pub(crate) fn undelivered_from(&self, told: u64) -> u64 {
        match self.buffer.front() {
            Some((seq, _)) => *seq,
            None if self.live => self.next.max(told + 1),
            None => self.next,
        }
    }

    /// Everything up to here is settled.
    pub(crate) fn position(&self, told: u64) -> u64 {
        let first = self.pending.first_key_value().map_or(u64::MAX, |(seq, _)| *seq);
        first.min(self.undelivered_from(told)).saturating_sub(1)
    }

    /// As it is told.
    pub(crate) fn status(&self, told: u64) -> ConsumerStatus {
        let position = self.position(told);
        ConsumerStatus {
            name: self.name.to_string(),
            uid: self.creator.uid,
            topic: self.topic.clone(),
            position,
            lag: told.saturating_sub(position),
            pending: self.pending.len() as u64,
            acked: self.counts.acked,
            redelivered: self.counts.redelivered,
            dead: self.counts.dead,
            attached: self.attached.len() as u64,
            settings: self.settings.clone(),
        }
    }

    /// The principal whose ears it has.
    pub(crate) fn hears_as(&self, owner_uid: u32) -> Principal {
        let Creator { uid, session, name } = self.creator.clone();
        match (&session, &name) {
            (None, None) if uid == owner_uid => Principal::Owner,
            (None, None) => Principal::User { uid },
            (_, _) => Principal::Skill(Skill { uid, session, name }),
        }
    }

    /// Takes a pending event off all lists.
    fn unlist(&mut self, seq: u64) -> Option<Delivery> {
        let delivery = self.pending.remove(&seq)?;
        if let Some(at_ns) = delivery.until_ns {
            self.times.remove(&(at_ns, seq));
        }
        self.ripe.remove(&seq);
        Some(delivery)
    }

    /// Puts it on the lists it belongs on.
    fn list(&mut self, seq: u64, delivery: Delivery) {
        match delivery.until_ns {
            Some(at_ns) => drop(self.times.insert((at_ns, seq))),
            None => drop(self.ripe.insert(seq)),
        }
        self.pending.insert(seq, delivery);
    }

    /// What it has looked at and not delivered it looks at again, when somebody is there.
    fn fall_back(&mut self, told: u64) {
        self.next = self.undelivered_from(told);
        self.buffer.clear();
        self.live = false;
    }

    /// What is broken about it.
    pub(crate) fn is_whole(&self) -> bool {
        let listed = self.pending.iter().all(|(seq, delivery)| match delivery.until_ns {
            Some(at_ns) => self.times.contains(&(at_ns, *seq)) && !self.ripe.contains(seq),
            None => self.ripe.contains(seq) && delivery.held.is_none(),
        });
        let held = self.pending.values().filter_map(|delivery| delivery.held);
        let held = held.into_iter().all(|attachment| self.attached.contains(&attachment));
        let timed = self.times.is_empty() || self.timer.is_some();
        let buffered = self.buffer.iter().all(|(seq, _)| *seq < self.next && !self.pending.contains_key(seq));
        listed && held && timed && buffered && self.times.len() + self.ripe.len() == self.pending.len()
    }
}

impl Kernel {
    /// Ends the place of a connection at a consumer; what it had is delivered to others.
    pub(crate) fn end_attachment(&mut self, turn: &mut Turn<'_>, attachment: u64, reason: DeadReason) {
        let Some(gone) = self.state.consumers.attachments.remove(&attachment) else { return };
        self.state.subscriptions.remove(gone.id.as_str());
        if let Some(peer) = self.state.connections.get_mut(gone.connection) {
            peer.attached.remove(&attachment);
        }
        self.bill_subscription(gone.connection, false);
        let told = self.journal.told_seq;
        let Some(consumer) = self.state.consumers.all.get_mut(&gone.consumer) else { return };
        consumer.attached.retain(|other| *other != attachment);
        let has = |delivery: &Delivery| delivery.held == Some(attachment);
        let held: Vec<u64> =
            consumer.pending.iter().filter(|(_, delivery)| has(delivery)).map(|(seq, _)| *seq).collect();
        if consumer.attached.is_empty() {
            consumer.fall_back(told);
            self.state.matcher.remove(gone.consumer);
        }
        for seq in held {
            self.deliver_again(turn, gone.consumer, seq, None, reason);
        }
        self.save_consumer(gone.consumer);
        self.feed(turn, gone.consumer);
    }

    /// Ends all places at a consumer and says why.
    pub(crate) fn detach_all(&mut self, turn: &mut Turn<'_>, serial: u64, reason: CutReason) {
        let told = self.journal.told_seq;
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        let seq = consumer.undelivered_from(told);
        for attachment in consumer.attached.clone() {
            let Some(of) = self.state.consumers.attachments.get(&attachment) else { continue };
            let (connection, subscription_id) = (of.connection, of.id.clone());
            self.end_attachment(turn, attachment, DeadReason::Gone);
            let Some(peer) = self.state.connections.get(connection) else { continue };
            let mut frame = BytesMut::new();
            if put_notice(&mut frame, peer.dialect, &EventCutRecord { subscription_id, seq, reason }).is_ok()
            {
                turn.out.push(Command::Reply { connection, frame: frame.freeze() });
            }
            self.close_if_over(turn, connection);
        }
    }

    /// Forgets a consumer, and asks the log to.
    pub(crate) fn drop_consumer(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.detach_all(turn, serial, CutReason::Deleted);
        let Some(consumer) = self.state.consumers.all.remove(&serial) else { return };
        let key = (consumer.creator.uid, Arc::clone(&consumer.name));
        self.state.consumers.names.remove(&key);
        if let Some((ticket, _)) = consumer.asked {
            self.state.consumers.asked.remove(&ticket);
        }
        if let Some((timer, _)) = consumer.timer {
            self.disarm(turn, timer);
        }
        for prefix in [CONFIG_PREFIX, STATE_PREFIX] {
            self.journal.value(keeping::key_of(prefix, key.0, &key.1), None);
        }
        // What was done is done: its consumer is gone with it.
        for (call, result) in consumer.saving.into_iter().flatten().chain(consumer.waiting) {
            match Raw::of(&result) {
                Ok(result) => self.journal.when_written(Awaiting::Call(call, result)),
                Err(error) => self.reject(turn, call, &error.into()),
            }
        }
    }
}
