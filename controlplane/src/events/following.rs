//! Subscriptions that are not up to date: they are brought what they miss from the log, a page at a time.
//!
//! ```text
//!   from a place ─▶ Behind ──page, as fast as it reads──▶ … ──nothing more──▶ Live
//!                     ▲ └──has not read for too long──▶ cut                    │
//!                     └────────────────too much unread─────────────────────────┘
//! ```
//!
//! Invariant: what a subscription has got is all it wanted up to the place it stands at; going from one state to the
//! other neither skips nor repeats an event.

use crate::calls::Turn;
use crate::clock::after_ms;
use crate::events::journal::{Awaiting, unkept};
use crate::events::log::{Query, Types};
use crate::events::outlet::{Answer, Found, Hearer, Question};
use crate::intents::members::Member;
use crate::kernel::Kernel;
use crate::state::{Connection, Pending, Timer, TopicPlace, TopicSubscription};
use bytes::BytesMut;
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::WireError;
use kairo_wire::event::{CutReason, EventCutRecord};
use std::sync::Arc;

/// Most bytes of events a connection may have unread: past it, what follows waits in the log. Below the mark at which
/// its calls are no longer read.
pub(crate) const NEWS_UNREAD_BYTES_MAX: usize = 768 << 10;
/// A page is asked for when there are fewer unread than this.
pub(crate) const PAGE_BELOW_BYTES: usize = NEWS_UNREAD_BYTES_MAX / 2;
/// Most events of a page for a subscription.
const PAGE_EVENTS: usize = 512;

impl Connection {
    /// For whom what it asks is written.
    pub(crate) fn hearer(&self) -> Hearer {
        Hearer { principal: self.principal.clone(), dialect: self.dialect, envelope: self.envelope }
    }

    /// True when so many more bytes of events are too many. One event always passes.
    pub(crate) fn is_choked(&self, more: usize) -> bool {
        self.news_unsent > 0 && self.news_unsent + more > NEWS_UNREAD_BYTES_MAX
    }
}

impl Kernel {
    /// From now on the subscription is brought events from `next` on out of the log.
    pub(crate) fn fall_behind(&mut self, turn: &mut Turn<'_>, serial: u64, next: u64) {
        let patience_ms = self.config.limits.subscriber_patience_ms;
        let Some(topic) = self.state.topics.get(&serial) else { return };
        let connection = topic.connection;
        let timer = self.arm(turn, connection.reactor, after_ms(turn.at, patience_ms));
        let read = self.state.connections.get(connection).map_or(0, |peer| peer.news_read);
        self.state.timers.insert(timer.serial, Timer::Slow { topic: serial, read });
        if let Some(topic) = self.state.topics.get_mut(&serial) {
            topic.place = TopicPlace::Behind { next, asked: None, timer };
        }
        self.page(serial);
    }

    /// Asks for the next page of a subscription that is behind and whose connection reads.
    fn page(&mut self, serial: u64) {
        let Some(topic) = self.state.topics.get(&serial) else { return };
        let TopicPlace::Behind { next, asked: None, .. } = topic.place else { return };
        let Some(peer) = self.state.connections.get(topic.connection) else { return };
        if peer.closing || self.is_busy(peer) {
            return;
        }
        let question = Question {
            ticket: 0,
            query: topic.query(next),
            limit: PAGE_EVENTS,
            hearer: peer.hearer(),
            subscription: Some(topic.id.clone()),
            raw: false,
        };
        let ticket = self.state.next_serial();
        self.state.pages.insert(ticket, serial);
        if let Some(TopicSubscription { place: TopicPlace::Behind { asked, .. }, .. }) =
            self.state.topics.get_mut(&serial)
        {
            *asked = Some(ticket);
        }
        self.journal.ask(Question { ticket, ..question });
    }

    /// What was asked of the log was read.
    pub fn answered(&mut self, at: Moment, answer: Answer, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let Answer { ticket, found, keep } = answer;
        let kept = !keep.is_empty();
        for (key, value) in keep {
            self.journal.value(key, value);
        }
        if let Some(consumer) = self.state.consumers.asking(ticket) {
            return self.consumer_paged(turn, consumer, found);
        }
        match self.state.pages.remove(&ticket) {
            Some(serial) if self.state.watches.contains_key(&serial) => self.watched(turn, serial, found),
            Some(serial) => match found {
                Ok(found) => self.paged(turn, serial, found),
                Err(_) => self.cut(turn, serial, CutReason::Log),
            },
            None => self.was_read(turn, ticket, found, kept),
        }
    }

    fn paged(&mut self, turn: &mut Turn<'_>, serial: u64, found: Found) {
        let told = self.journal.told_seq;
        let Some(topic) = self.state.topics.get_mut(&serial) else { return };
        let TopicPlace::Behind { timer, .. } = topic.place else { return };
        let next = found.seen + 1;
        let up_to_date = !found.more && found.seen >= told;
        topic.place = match up_to_date {
            true => TopicPlace::Live { next },
            false => TopicPlace::Behind { next, asked: None, timer },
        };
        if up_to_date {
            // A time is where the past begins; a clock that goes back later takes nothing away.
            topic.from_time_ms = 0;
        }
        if let Some(peer) =
            self.state.connections.get_mut(topic.connection).filter(|_| !found.bytes.is_empty())
        {
            self.quotas.news_given(peer, found.bytes.len());
            turn.out.push(Command::News { connection: peer.key, frames: found.bytes });
        }
        match up_to_date {
            true => self.disarm(turn, timer),
            false => self.page(serial),
        }
    }

    /// A call is answered with what was read, once what it changed is written.
    fn was_read(&mut self, turn: &mut Turn<'_>, call: u64, found: Result<Found, WireError>, kept: bool) {
        let found = found.and_then(|found| self.may_be_told(turn.at, call, &found.topics).map(|()| found));
        match self.state.calls.get_mut(&call).map(|call| &mut call.pending) {
            Some(Pending::Replay { .. }) => {}
            Some(Pending::Changes { topics, .. }) => {
                if let Some(found) = found.as_ref().ok().filter(|found| found.more) {
                    *topics = Arc::clone(&found.topics);
                    return;
                }
            }
            Some(Pending::Watch { .. }) => return self.watch_begins(turn, call, found),
            Some(_) | None => return,
        }
        let result = found.map(|found| Raw::written(found.bytes));
        match (result, &self.journal.broken) {
            (Ok(_), Some(reason)) if kept => {
                let error = unkept(reason);
                self.reject(turn, call, &error);
            }
            // A receipt waits for the log itself.
            (Ok(result), _) if kept && self.flight_of(call).is_none() => {
                self.journal.when_written(Awaiting::Call(call, result))
            }
            (Ok(result), _) => self.resolve::<Raw>(turn, call, &result),
            (Err(error), _) => self.reject(turn, call, &error),
        }
    }

    /// Events have gone out on a connection: there is room for more.
    pub(crate) fn news_sent(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, bytes: usize) {
        let Some(peer) = self.state.connections.get_mut(connection) else { return };
        self.quotas.news_sent(peer, bytes);
        let topics: Vec<u64> = peer.topics.iter().copied().collect();
        for serial in topics {
            self.page(serial);
            self.look(serial);
        }
        self.feed_attached(turn, connection);
    }

    /// A subscription has been behind for its patience: has its connection read anything meanwhile?
    pub(crate) fn look_after(&mut self, turn: &mut Turn<'_>, serial: u64, read: u64, timer: TimerKey) {
        let Some(topic) = self.state.topics.get(&serial) else { return };
        if !matches!(topic.place, TopicPlace::Behind { timer: armed, .. } if armed == timer) {
            return;
        }
        let connection = topic.connection;
        let now = self.state.connections.get(connection).map_or(read, |peer| peer.news_read);
        let waits = self.state.connections.get(connection).is_some_and(|peer| self.is_busy(peer));
        if waits && now == read {
            return self.cut(turn, serial, CutReason::Slow);
        }
        turn.out.push(Command::Arm {
            timer,
            at_ns: after_ms(turn.at, self.config.limits.subscriber_patience_ms),
        });
        self.state.timers.insert(timer.serial, Timer::Slow { topic: serial, read: now });
    }

    /// Ends a subscription and says from where it can be taken up again.
    pub(crate) fn cut(&mut self, turn: &mut Turn<'_>, serial: u64, reason: CutReason) {
        let Some(topic) = self.state.topics.get(&serial) else { return };
        let (connection, id) = (topic.connection, topic.id.clone());
        let (TopicPlace::Live { next: seq } | TopicPlace::Behind { next: seq, .. }) = topic.place;
        self.end_topic(turn, serial);
        let Some(peer) = self.state.connections.get(connection).filter(|peer| peer.envelope) else { return };
        let mut frame = BytesMut::new();
        let record = EventCutRecord { subscription_id: id, seq, reason };
        if put_notice(&mut frame, peer.dialect, &record).is_ok() {
            turn.out.push(Command::Reply { connection, frame: frame.freeze() });
        }
    }

    /// The log can't be read any more by whoever had yet to be brought something from it.
    pub(crate) fn cut_readers_of_the_log(&mut self, turn: &mut Turn<'_>) {
        let behind = |topic: &TopicSubscription| matches!(topic.place, TopicPlace::Behind { .. });
        let topics: Vec<u64> =
            self.state.topics.iter().filter(|(_, topic)| behind(topic)).map(|(serial, _)| *serial).collect();
        for serial in topics {
            self.cut(turn, serial, CutReason::Log);
        }
        for serial in self.state.consumers.serials() {
            self.detach_all(turn, serial, CutReason::Log);
        }
    }

    /// Ends a subscription to events.
    pub(crate) fn end_topic(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(topic) = self.state.topics.remove(&serial) else { return };
        self.state.matcher.remove(serial);
        self.state.subscriptions.remove(topic.id.as_str());
        if let Some(peer) = self.state.connections.get_mut(topic.connection) {
            peer.topics.remove(&serial);
        }
        self.bill_subscription(topic.connection, false);
        if let TopicPlace::Behind { timer, asked, .. } = topic.place {
            self.disarm(turn, timer);
            if let Some(ticket) = asked {
                self.state.pages.remove(&ticket);
            }
        }
        self.strike(turn, Member::Topic(serial), topic.under.as_deref());
    }
}

impl TopicSubscription {
    /// Whether it wants an event of a type that matches.
    pub(crate) fn takes(&self, record: &crate::events::record::Record<'_>) -> bool {
        let is = |wanted: &Option<std::sync::Arc<str>>, of: &Option<std::borrow::Cow<'_, str>>| {
            wanted.as_deref().is_none_or(|wanted| of.as_deref() == Some(wanted))
        };
        is(&self.correlation, &record.correlation) && is(&self.intent, &record.intent)
    }

    fn query(&self, next: u64) -> Query {
        Query {
            types: Types::new(&self.text).into_iter().collect(),
            correlation: self.correlation.as_deref().map(str::to_owned),
            intent: self.intent.as_deref().map(str::to_owned),
            from: next,
            from_ms: self.from_time_ms,
            ..Query::default()
        }
    }
}
