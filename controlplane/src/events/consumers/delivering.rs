//! From the log to whoever is attached.
//!
//! Invariant: a consumer asks the log for one page at a time, and only for what somebody can take or is to be put aside.

use super::{Asked, Consumer, Delivery};
use crate::auth::grant::{hears, may_touch};
use crate::calls::Turn;
use crate::clock::after_ms;
use crate::events::form::{Form, put_frame};
use crate::events::journal::News;
use crate::events::log::{Query, Types};
use crate::events::outlet::{Found, Hearer, Question};
use crate::events::pattern::Pattern;
use crate::events::record::Record;
use crate::kernel::Kernel;
use crate::state::Timer;
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::WireError;
use kairo_wire::event::{CutReason, DeadReason, EventGapRecord};
use kairo_wire::methods::event::Gap;

/// Most events that are looked at and not delivered.
const BUFFER_EVENTS: usize = 256;
/// Most bytes of them; one always fits.
const BUFFER_BYTES: usize = 256 << 10;

impl Kernel {
    /// Delivers what can be delivered, and asks the log for what is missing for that.
    pub(crate) fn feed(&mut self, turn: &mut Turn<'_>, serial: u64) {
        while let Some(consumer) = self.state.consumers.all.get(&serial) {
            let has_room = consumer.pending.len() < consumer.settings.max_in_flight as usize;
            let Some((seq, record)) = consumer.buffer.front().filter(|_| has_room) else { break };
            let (seq, record) = (*seq, record.clone());
            if !self.deliver_one(turn, serial, seq, &record, 1) {
                break;
            }
            if let Some(consumer) = self.state.consumers.all.get_mut(&serial) {
                consumer.buffer.pop_front();
            }
        }
        self.ask_for(serial);
    }

    /// Asks for the next page, if one is wanted.
    fn ask_for(&mut self, serial: u64) {
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        if consumer.asked.is_some() || self.journal.broken.is_some() {
            return;
        }
        let listens = self.receiver_of(consumer).is_some();
        let most = consumer.settings.max_deliver;
        let is_spent = |seq: &u64| consumer.pending.get(seq).is_some_and(|delivery| delivery.count >= most);
        let has_room = consumer.pending.len() < consumer.settings.max_in_flight as usize;
        let wanted = match (consumer.ripe.first(), consumer.ripe.last()) {
            (Some(first), Some(last)) if listens => Some((*first, *last)),
            (Some(_), Some(_)) => consumer.ripe.iter().copied().find(is_spent).map(|seq| (seq, seq)),
            (_, _) => None,
        };
        let (from, to, asked) = match wanted {
            Some((from, to)) => (from, to, Asked::Ripe(from, to)),
            None if listens && has_room && !consumer.live && consumer.buffer.is_empty() => {
                (consumer.next, Query::default().to, Asked::Next)
            }
            None => return,
        };
        let query = Query {
            types: Types::new(consumer.topic.as_str()).into_iter().collect(),
            from,
            to,
            from_ms: consumer.from_ms,
            ..Query::default()
        };
        let principal = consumer.hears_as(self.config.owner_uid);
        let ticket = self.state.next_serial();
        let hearer = Hearer { principal, dialect: Dialect::Int64, envelope: true };
        self.state.consumers.asked.insert(ticket, serial);
        if let Some(consumer) = self.state.consumers.all.get_mut(&serial) {
            consumer.asked = Some((ticket, asked));
        }
        let question =
            Question { ticket, query, limit: BUFFER_EVENTS, hearer, subscription: None, raw: true };
        self.journal.ask(question);
    }

    /// A page that was asked for was read.
    pub(crate) fn consumer_paged(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        found: Result<Found, WireError>,
    ) {
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        let Some((_, asked)) = consumer.asked.take() else { return };
        let Ok(found) = found else { return self.detach_all(turn, serial, CutReason::Log) };
        match asked {
            Asked::Next => self.next_paged(turn, serial, found),
            Asked::Ripe(from, to) => self.ripe_paged(turn, serial, (from, to), found),
        }
        self.save_consumer(serial);
        self.feed(turn, serial);
    }

    fn next_paged(&mut self, turn: &mut Turn<'_>, serial: u64, found: Found) {
        let told = self.journal.told_seq;
        self.tell_gaps(turn, serial, &found.gaps);
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        if consumer.attached.is_empty() {
            return;
        }
        consumer.buffer.extend(found.records);
        consumer.next = found.seen + 1;
        if found.more || found.seen < told {
            return;
        }
        consumer.live = true;
        consumer.from_ms = 0;
        if let Ok(pattern) = Pattern::new(consumer.topic.as_str()) {
            self.state.matcher.insert(serial, consumer.topic.as_str(), pattern);
        }
    }

    fn ripe_paged(&mut self, turn: &mut Turn<'_>, serial: u64, (from, to): (u64, u64), found: Found) {
        self.tell_gaps(turn, serial, &found.gaps);
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        let seen = to.min(found.seen);
        // One before that which has become ripe meanwhile was not asked for.
        let mut missing = consumer.ripe.range(from.min(seen)..=seen).copied().collect::<Vec<u64>>();
        missing.retain(|seq| *seq >= from);
        missing.retain(|seq| found.records.binary_search_by_key(seq, |(of, _)| *of).is_err());
        for (seq, record) in &found.records {
            let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
            let Some(delivery) = consumer.pending.get(seq).filter(|_| consumer.ripe.contains(seq)) else {
                continue;
            };
            if delivery.count >= consumer.settings.max_deliver {
                self.put_aside(turn, serial, *seq, record);
            } else {
                let count = delivery.count + 1;
                if self.deliver_one(turn, serial, *seq, record, count)
                    && let Some(consumer) = self.state.consumers.all.get_mut(&serial)
                {
                    consumer.counts.redelivered += 1;
                    consumer.dirty = true;
                }
            }
        }
        // What is not there any more can't be delivered; the gap has been told.
        if let Some(consumer) = self.state.consumers.all.get_mut(&serial) {
            for seq in missing {
                consumer.unlist(seq);
                consumer.dirty = true;
            }
        }
    }

    /// An event happened that may be for a consumer that is up to date.
    pub(crate) fn consumer_told(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        news: &News,
        record: &Record<'_>,
    ) {
        let owner_uid = self.config.owner_uid;
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return };
        if !consumer.live || news.seq < consumer.next {
            return;
        }
        if !hears(&consumer.hears_as(owner_uid), &record.audience) {
            return;
        }
        let bytes: usize = consumer.buffer.iter().map(|(_, record)| record.len()).sum();
        let is_full = consumer.buffer.len() >= BUFFER_EVENTS || bytes + news.record.len() > BUFFER_BYTES;
        if is_full && !consumer.buffer.is_empty() {
            // The rest waits in the log.
            (consumer.live, consumer.next) = (false, news.seq);
            self.state.matcher.remove(serial);
            return;
        }
        consumer.buffer.push_back((news.seq, news.record.clone()));
        consumer.next = news.seq + 1;
        self.feed(turn, serial);
    }

    /// Whose turn it is to receive: a place in the list of attachments.
    fn receiver_of(&self, consumer: &Consumer) -> Option<usize> {
        let count = consumer.attached.len();
        (0..count).map(|step| (consumer.turn + step) % count).find(|place| {
            let attachment = self.state.consumers.attachments.get(&consumer.attached[*place]);
            let peer = attachment.and_then(|attachment| self.state.connections.get(attachment.connection));
            peer.is_some_and(|peer| {
                !peer.closing && !self.is_busy(peer) && may_touch(&peer.principal, &consumer.creator)
            })
        })
    }

    /// Sends an event to one of those who are attached. False if nobody can take it.
    fn deliver_one(
        &mut self,
        turn: &mut Turn<'_>,
        serial: u64,
        seq: u64,
        record: &Bytes,
        count: u32,
    ) -> bool {
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return false };
        let Some(place) = self.receiver_of(consumer) else { return false };
        let attachment = consumer.attached[place];
        let Some(to) = self.state.consumers.attachments.get(&attachment) else { return false };
        let connection = to.connection;
        let Some(peer) = self.state.connections.get_mut(connection) else { return false };
        let form = Form {
            dialect: peer.dialect,
            envelope: true,
            replayed: !consumer.live || count > 1,
            subscription: Some(to.id.as_str()),
            delivery: Some(count),
        };
        let mut frame = BytesMut::new();
        let written =
            Record::parse(seq, record).and_then(|record| put_frame(&mut frame, &record, None, &form));
        if let Err(error) = written {
            tracing::error!(component = "controlplane", seq, %error, "an event was not sent");
        }
        self.quotas.news_given(peer, frame.len());
        turn.out.push(Command::News { connection, frames: frame.freeze() });
        let until_ns = Some(after_ms(turn.at, consumer.settings.ack_wait_ms));
        let Some(consumer) = self.state.consumers.all.get_mut(&serial) else { return false };
        consumer.turn = (place + 1) % consumer.attached.len();
        consumer.unlist(seq);
        consumer.list(seq, Delivery { count, held: Some(attachment), until_ns, reason: DeadReason::Timeout });
        self.watch_consumer(turn, serial);
        true
    }

    fn tell_gaps(&mut self, turn: &mut Turn<'_>, serial: u64, gaps: &[Gap]) {
        let Some(consumer) = self.state.consumers.all.get(&serial).filter(|_| !gaps.is_empty()) else {
            return;
        };
        for attachment in &consumer.attached {
            let Some(to) = self.state.consumers.attachments.get(attachment) else { continue };
            let Some(peer) = self.state.connections.get_mut(to.connection) else { continue };
            let mut frames = BytesMut::new();
            for gap in gaps {
                let record = EventGapRecord { subscription_id: to.id.clone(), gap: gap.clone() };
                if let Err(error) = put_notice(&mut frames, peer.dialect, &record) {
                    tracing::error!(component = "controlplane", %error, "a gap was not told");
                }
            }
            self.quotas.news_given(peer, frames.len());
            turn.out.push(Command::News { connection: peer.key, frames: frames.freeze() });
        }
    }

    /// A connection has room again.
    pub(crate) fn feed_attached(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey) {
        let Some(peer) = self.state.connections.get(connection) else { return };
        let attachments = &self.state.consumers.attachments;
        let consumers: Vec<u64> =
            peer.attached.iter().filter_map(|of| attachments.get(of)).map(|of| of.consumer).collect();
        for serial in consumers {
            self.feed(turn, serial);
        }
    }

    /// Has the timer ring when the first of a consumer's times comes, or before.
    pub(crate) fn watch_consumer(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(consumer) = self.state.consumers.all.get(&serial) else { return };
        let Some((at_ns, _)) = consumer.times.first().copied() else { return };
        let timer = match consumer.timer {
            Some((_, armed_ns)) if armed_ns <= at_ns => return,
            Some((timer, _)) => {
                turn.out.push(Command::Arm { timer, at_ns });
                timer
            }
            None => {
                let home = consumer.attached.first().and_then(|of| self.state.consumers.attachments.get(of));
                let home = home.map_or(kairo_dataplane::key::ReactorId(0), |of| of.connection.reactor);
                let timer = self.arm(turn, home, at_ns);
                self.state.timers.insert(timer.serial, Timer::Consumer { consumer: serial });
                timer
            }
        };
        if let Some(consumer) = self.state.consumers.all.get_mut(&serial) {
            consumer.timer = Some((timer, at_ns));
        }
    }
}
