//! How fast sources are taken from and readers are given to, and what is told about those that wait.
//!
//! ```text
//!  source ──allowed──▶ take ──moved──▶ history ──allowance──▶ frame ──spent──▶ reader
//!     └─ dry: an alarm for the moment a worthwhile amount is there ─┘
//! ```
//!
//! Nobody polls: whoever is out of tokens has exactly one alarm, and a source or reader with nothing to move has none.
//! Invariants: a stream that is told to have stalled is told to have resumed; of one kind of event about one stream
//! there is at most one a second, and the last of them says everything. The arithmetic is the
//! [`throttle`](crate::stream::throttle)'s.

use super::table::Place;
use super::timers::Alarm;
use super::{Reactor, Turn};
use crate::command::{Rate, Tuning};
use crate::control::{Failure, Notice, Outcome};
use crate::driver::Driver;
use crate::key::{Channel, ProcessKey, SubscriptionKey, Ticket};
use crate::limits::TELL_INTERVAL_NS;
use crate::stream::throttle::TokenBucket;
use std::sync::atomic::Ordering;

/// A bucket and who waits at it.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    bucket: Option<TokenBucket>,
    /// Since when somebody waits, and until when.
    waits: Option<(u64, u64)>,
}

impl Throttle {
    pub(super) fn new(rate: Option<Rate>, now_ns: u64) -> Throttle {
        Throttle { bucket: rate.map(|rate| TokenBucket::new(rate, now_ns)), waits: None }
    }

    pub(super) fn rate(&self) -> Option<Rate> {
        self.bucket.map(|bucket| bucket.rate())
    }

    fn change(&mut self, rate: Option<Rate>, now_ns: u64) {
        match (&mut self.bucket, rate) {
            (Some(bucket), Some(rate)) => bucket.change(rate, now_ns),
            (bucket, rate) => *bucket = rate.map(|rate| TokenBucket::new(rate, now_ns)),
        }
    }

    pub(super) fn spend(&mut self, bytes: usize) {
        if let Some(bucket) = &mut self.bucket {
            bucket.spend(bytes as u64);
        }
    }
}

/// What may go to a reader now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Bytes.
    pub(super) bytes: usize,
    /// What there can be at most, bytes: more is paid for afterwards.
    burst_bytes: usize,
}

impl Allowance {
    /// True exactly when a frame of so many bytes, which can't be cut, may go.
    pub(super) fn affords(self, bytes: usize) -> bool {
        bytes.min(self.burst_bytes) <= self.bytes
    }

    pub(super) fn less(self, bytes: usize) -> Allowance {
        Allowance { bytes: self.bytes.saturating_sub(bytes), ..self }
    }
}

/// Events of one kind about one stream.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// No earlier than this is the next.
    next_ns: u64,
    /// There is something to tell.
    due: bool,
}

/// The pace of one stream.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub(super) throttle: Throttle,
    /// True exactly while an alarm looks for a stall.
    watched: bool,
    /// True exactly while it is told to have stalled.
    stalled: bool,
    /// What is gone, as it was published last.
    pub(super) cut: (u64, u64),
    truncated: Told,
    throttled: Told,
}

impl Pace {
    pub(super) fn new(rate: Option<Rate>, now_ns: u64) -> Pace {
        Pace { throttle: Throttle::new(rate, now_ns), ..Pace::default() }
    }
}

fn source(place: Place, channel: Channel) -> Alarm {
    Alarm::Source(place.slot, place.generation, channel)
}

fn stall(place: Place, channel: Channel) -> Alarm {
    Alarm::Stall(place.slot, place.generation, channel)
}

fn tell(place: Place, channel: Channel) -> Alarm {
    Alarm::Tell(place.slot, place.generation, channel)
}

fn reader(place: Place) -> Alarm {
    Alarm::Reader(place.slot, place.generation)
}

impl<D: Driver> Reactor<D> {
    fn pace(&mut self, place: Place, channel: Channel) -> Option<&mut Pace> {
        Some(&mut self.processes.get_mut(place)?.streams[channel as usize].pace)
    }

    /// How much of `room` may be taken from a source now; 0 and an alarm if it has to wait.
    pub(super) fn allowed(&mut self, place: Place, channel: Channel, room: usize) -> usize {
        let now_ns = self.at.monotonic_ns;
        let Some(pace) = self.pace(place, channel) else { return 0 };
        let Some(bucket) = &mut pace.throttle.bucket else { return room };
        if pace.throttle.waits.is_some_and(|(_, until_ns)| now_ns < until_ns) {
            return 0;
        }
        let available = bucket.available(now_ns);
        if available > 0 {
            self.source_flows(place, channel);
            return room.min(usize::try_from(available).unwrap_or(usize::MAX));
        }
        let until_ns = bucket.ready_ns(bucket.worthwhile_bytes());
        let since_ns = pace.throttle.waits.map_or(now_ns, |(since_ns, _)| since_ns);
        pace.throttle.waits = Some((since_ns, until_ns));
        pace.throttled.due = true;
        if let Some(process) = self.processes.get(place) {
            process.meter.streams[channel as usize].throttled.store(true, Ordering::Relaxed);
        }
        self.timers.arm(source(place, channel), until_ns);
        self.tell(place, channel);
        0
    }

    /// A source doesn't wait for its rate, or waits no longer.
    fn source_flows(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let waits = &mut process.streams[channel as usize].pace.throttle.waits;
        if let Some((since_ns, _)) = waits.take() {
            let meter = &process.meter.streams[channel as usize];
            meter.throttled.store(false, Ordering::Relaxed);
            meter.throttled_ns.add(now_ns.saturating_sub(since_ns));
            self.timers.disarm(source(place, channel));
        }
    }

    /// Bytes were taken from a source, by its rate or because they could not wait.
    pub(super) fn moved(&mut self, place: Place, channel: Channel, bytes: usize) {
        if let Some(pace) = self.pace(place, channel) {
            pace.throttle.spend(bytes);
        }
        self.history_changed(place, channel);
    }

    /// What a history holds has changed: what is gone of it is counted, told, and its memory charged.
    pub(super) fn history_changed(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        let cut = stream.history.cut();
        if cut != stream.pace.cut {
            stream.pace.cut = cut;
            stream.pace.truncated.due = cut.0 < cut.1;
            let meter = &process.meter.streams[channel as usize];
            meter.cut_from.set(cut.0);
            meter.cut_bytes.set(cut.1 - cut.0);
            self.tell(place, channel);
        }
        self.charge(place, channel);
    }

    /// Looks after a while whether a source that has begun to wait still does.
    pub(super) fn watch_stall(&mut self, place: Place, channel: Channel) {
        let at_ns = self.at.monotonic_ns + self.stall_ns;
        let Some(pace) = self.pace(place, channel) else { return };
        if !std::mem::replace(&mut pace.watched, true) {
            self.timers.arm(stall(place, channel), at_ns);
        }
    }

    /// One alarm serves any number of short waits: it looks, and comes back if another wait has begun since.
    pub(super) fn look_for_stall(&mut self, place: Place, channel: Channel) {
        let (now_ns, stall_ns) = (self.at.monotonic_ns, self.stall_ns);
        let Some(process) = self.processes.get_mut(place) else { return };
        let key = process.key;
        let stream = &mut process.streams[channel as usize];
        stream.pace.watched = false;
        let Some(since_ns) = stream.paused_since_ns else { return };
        if since_ns + stall_ns > now_ns {
            stream.pace.watched = true;
            return self.timers.arm(stall(place, channel), since_ns + stall_ns);
        }
        if !std::mem::replace(&mut stream.pace.stalled, true) {
            self.notices.push_back(Notice::Stalled { process: key, channel, since_ns });
        }
    }

    /// A source has waited for a reader and goes on.
    pub(super) fn stall_over(&mut self, place: Place, channel: Channel, waited_ns: u64) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let key = process.key;
        if std::mem::take(&mut process.streams[channel as usize].pace.stalled) {
            self.notices.push_back(Notice::Resumed { process: key, channel, waited_ns });
        }
    }

    /// Tells what is due about a stream, now or when its time has come.
    pub(super) fn tell(&mut self, place: Place, channel: Channel) {
        let now_ns = self.at.monotonic_ns;
        let Some(pace) = self.pace(place, channel) else { return };
        let next_ns = [pace.truncated, pace.throttled].into_iter().filter(|told| told.due);
        let Some(next_ns) = next_ns.map(|told| told.next_ns).min() else { return };
        if next_ns > now_ns {
            if !self.timers.is_armed(tell(place, channel)) {
                self.timers.arm(tell(place, channel), next_ns);
            }
            return;
        }
        self.tell_before(place, channel, now_ns);
        self.tell(place, channel);
    }

    /// Tells what is due and whose time comes before `before_ns`.
    fn tell_before(&mut self, place: Place, channel: Channel, before_ns: u64) {
        let next_ns = self.at.monotonic_ns + TELL_INTERVAL_NS;
        let Some(process) = self.processes.get_mut(place) else { return };
        let key = process.key;
        let waited_ns = process.meter.streams[channel as usize].throttled_ns.get();
        let pace = &mut process.streams[channel as usize].pace;
        let is_time = |told: &mut Told| {
            let is_time = told.due && told.next_ns <= before_ns;
            if is_time {
                *told = Told { next_ns, due: false };
            }
            is_time
        };
        if is_time(&mut pace.truncated) {
            let (from, to) = pace.cut;
            self.notices.push_back(Notice::Truncated { process: key, channel, from, to });
        }
        if is_time(&mut pace.throttled)
            && let Some(rate) = pace.throttle.rate()
        {
            self.notices.push_back(Notice::Throttled { process: key, channel, rate, waited_ns });
        }
    }

    /// Nothing more is taken from a source: what was left to tell is told, and nothing rings for it any more.
    pub(super) fn source_over(&mut self, place: Place, channel: Channel) {
        self.source_flows(place, channel);
        self.tell_before(place, channel, u64::MAX);
        for alarm in [source, stall, tell] {
            self.timers.disarm(alarm(place, channel));
        }
    }

    pub(super) fn tune(&mut self, key: ProcessKey, tuning: Tuning, ticket: Ticket) {
        let Some(place) = self.place_of_process(key) else {
            return self.done(ticket, Err(Failure::Gone));
        };
        if let (Some(process), Some(unread)) = (self.processes.get_mut(place), tuning.unread) {
            process.unread = unread;
        }
        for channel in Channel::ALL {
            if tuning.channels[channel as usize] {
                self.retune(place, channel, tuning);
            }
            // A source that waits looks again whether it must.
            self.later(Turn::Source(place, channel));
        }
        let Some(process) = self.processes.get(place) else { return };
        let history = Channel::ALL.map(|channel| process.streams[channel as usize].history.size());
        let rate = Channel::ALL.map(|channel| process.streams[channel as usize].pace.throttle.rate());
        self.done(ticket, Ok(Outcome::Tuned { history, rate }));
    }

    fn retune(&mut self, place: Place, channel: Channel, tuning: Tuning) {
        let now_ns = self.at.monotonic_ns;
        if let Some(rate) = tuning.rate {
            self.source_flows(place, channel);
            if let Some(pace) = self.pace(place, channel) {
                pace.throttle.change(rate, now_ns);
            }
        }
        if tuning.head_bytes.is_some() || tuning.tail_bytes.is_some() {
            self.resize_history(place, channel, tuning.head_bytes, tuning.tail_bytes);
        }
    }

    pub(super) fn pace_reader(&mut self, subscription: SubscriptionKey, rate: Option<Rate>) {
        let now_ns = self.at.monotonic_ns;
        let Some(place) = self.reader_places.get(&subscription.serial).copied() else { return };
        self.reader_flows(place);
        if let Some(reader) = self.readers.get_mut(place) {
            reader.throttle.change(rate, now_ns);
        }
        self.deliver(place);
    }

    /// What may go to a reader now; none and an alarm if it has to wait.
    pub(super) fn allowance(&mut self, place: Place) -> Option<Allowance> {
        let now_ns = self.at.monotonic_ns;
        let reader = self.readers.get_mut(place)?;
        let Some(bucket) = &mut reader.throttle.bucket else {
            return Some(Allowance { bytes: usize::MAX, burst_bytes: usize::MAX });
        };
        if reader.throttle.waits.is_some_and(|(_, until_ns)| now_ns < until_ns) {
            return None;
        }
        let bytes = usize::try_from(bucket.available(now_ns)).unwrap_or(usize::MAX);
        let burst_bytes = usize::try_from(bucket.rate().burst_bytes).unwrap_or(usize::MAX);
        if bytes == 0 {
            self.hold_back(place, 0);
            return None;
        }
        self.reader_flows(place);
        Some(Allowance { bytes, burst_bytes })
    }

    /// Has a reader wait until `bytes`, or a worthwhile amount, may go to it.
    pub(super) fn hold_back(&mut self, place: Place, bytes: usize) {
        let now_ns = self.at.monotonic_ns;
        let Some(it) = self.readers.get_mut(place) else { return };
        let Some(bucket) = &it.throttle.bucket else { return };
        let until_ns = bucket.ready_ns(bucket.worthwhile_bytes().max(bytes as u64)).max(now_ns + 1);
        let since_ns = it.throttle.waits.map_or(now_ns, |(since_ns, _)| since_ns);
        it.throttle.waits = Some((since_ns, until_ns));
        it.subscriber.meter.throttled.store(true, Ordering::Relaxed);
        self.timers.arm(reader(place), until_ns);
    }

    /// A reader doesn't wait for its rate, or waits no longer.
    pub(super) fn reader_flows(&mut self, place: Place) {
        let now_ns = self.at.monotonic_ns;
        let Some(it) = self.readers.get_mut(place) else { return };
        if let Some((since_ns, _)) = it.throttle.waits.take() {
            it.subscriber.meter.throttled.store(false, Ordering::Relaxed);
            it.subscriber.meter.throttled_ns.add(now_ns.saturating_sub(since_ns));
            self.timers.disarm(reader(place));
        }
    }
}
