//! From ring to disk, and from disk to readers: the reactor's half of the [`spool`](crate::spool).
//!
//! ```text
//!  taken ─▶ asked_to ─(writing thread)─▶ written_to          pins the ring while all is well
//!                                          │
//!  reader behind the ring ─▶ asked ─(reading thread)─▶ one piece ─▶ frames ─▶ … ─▶ the ring, and live
//! ```
//!
//! Invariants: `written_to ≤ asked_to ≤ total`, and while the spool works every byte is below `written_to` (on disk) or in
//! the ring, so whoever falls behind finds the next byte in one of them. A reader has at most one piece under way or in
//! hand. The source waits for a slow disk; of a disk that fails it waits for nothing: the stream goes on in memory as its
//! readers' policies have it, and the spool is tried again, each time after a longer while.

use super::table::Place;
use super::timers::Alarm;
use super::{Reactor, processes::Stream};
use crate::command::Policy;
use crate::control::{Notice, SpoolNews};
use crate::driver::Driver;
use crate::key::{Channel, ProcessKey, SubscriptionKey};
use crate::limits::{
    SPOOL_BATCH_BYTES, SPOOL_RECORD_BYTES_MAX, SPOOL_RETRY_NS, SPOOL_RETRY_NS_MAX, SPOOL_WAIT_NS,
};
use crate::meter::SpoolMeter;
use crate::spool::service::{Answer, Job, Numbers, Piece, StreamKey};
use crate::spool::{Cut, SpoolLimits};
use crate::stream::history::{History, Peek};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The spool of one stream.
#[derive(Debug)]
pub(super) struct StreamSpool {
    session: Arc<str>,
    limits: SpoolLimits,
    state: State,
    /// The writing thread has found the files.
    opened: bool,
    /// Bytes before this are on disk, or were.
    written_to: u64,
    /// Bytes before this are on their way there.
    asked_to: u64,
    /// Jobs without an answer.
    in_flight: u32,
    /// Generation of the ring the writing thread has.
    ring: Option<u64>,
    /// The next attempt after a failure comes after this.
    retry_ns: u64,
    /// How far the spool was good when it failed, until it works again.
    broken_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A former kernel has written some of it; nobody has said how much.
    Opening,
    Working,
    Failed,
}

impl StreamSpool {
    pub(super) fn new(session: &str, limits: SpoolLimits) -> StreamSpool {
        StreamSpool {
            session: session.into(),
            limits,
            state: State::Working,
            opened: false,
            written_to: 0,
            asked_to: 0,
            in_flight: 0,
            ring: None,
            retry_ns: SPOOL_RETRY_NS,
            broken_at: None,
        }
    }

    /// The offset its source must not overwrite.
    pub(super) fn pinned(&self) -> Option<u64> {
        match self.state {
            State::Opening | State::Working => Some(self.written_to),
            State::Failed => None,
        }
    }

    /// True when the byte at `offset` is, or will be, on disk, unless it was cut there.
    pub(super) fn has(&self, offset: u64) -> bool {
        offset < self.asked_to || self.state == State::Opening
    }

    /// True while nobody has said how much there is on disk.
    pub(super) fn is_opening(&self) -> bool {
        self.state == State::Opening
    }

    fn failed(&mut self, numbers: Numbers) {
        self.state = State::Failed;
        self.written_to = numbers.end;
        self.asked_to = numbers.end;
        self.ring = None;
    }
}

/// What a reader has from disk, of one stream.
#[derive(Debug, Default)]
pub(super) struct Disk {
    fetch: Fetch,
    /// It has seen the newest byte once: a reader that drops is not served from disk any more.
    live: bool,
    /// The reading thread may have a file open for it.
    used: bool,
}

#[derive(Debug, Default)]
enum Fetch {
    #[default]
    Nothing,
    /// A piece is under way; without a damaged place it reaches up to there.
    Asked { to: u64 },
    /// A short one has a gap behind it.
    Piece { offset: u64, bytes: Bytes, short: bool },
    /// The disk has nothing of `[from, to)`.
    Gap { from: u64, to: u64 },
}

impl Disk {
    /// What it has in hand at an offset.
    pub(super) fn bytes(&self, at: u64) -> Option<&[u8]> {
        let Fetch::Piece { offset, bytes, .. } = &self.fetch else { return None };
        bytes.get(at.checked_sub(*offset)? as usize..).filter(|bytes| !bytes.is_empty())
    }

    /// What there is at an offset, at most so much: in memory, or, of what that has no more, in hand.
    pub(super) fn or<'a>(&'a self, history: &'a History, at: u64, max: usize) -> Option<&'a [u8]> {
        match history.peek(at, max) {
            Peek::Bytes(bytes) => Some(bytes),
            Peek::Gap(_) | Peek::Nothing => self.bytes(at).map(|bytes| &bytes[..bytes.len().min(max)]),
        }
    }

    /// Where the gap ends in which an offset lies, if the disk is known to have nothing there.
    pub(super) fn gap(&self, at: u64) -> Option<u64> {
        match self.fetch {
            Fetch::Gap { from, to } if (from..to).contains(&at) => Some(to),
            Fetch::Nothing | Fetch::Asked { .. } | Fetch::Piece { .. } | Fetch::Gap { .. } => None,
        }
    }

    /// True when what memory has no more of at `offset` is to be had from disk, for a reader of this policy.
    pub(super) fn may_fetch<F>(&self, stream: &Stream<F>, policy: Policy, offset: u64) -> bool {
        let dropping = policy == Policy::DropOldest && self.live || policy == Policy::Latest;
        let there = stream.spool.as_ref().is_some_and(|spool| spool.has(offset));
        there && !dropping && self.gap(offset).is_none()
    }

    /// True exactly when the piece in hand ends at `at` because the disk has nothing there.
    pub(super) fn ends_at(&self, at: u64) -> bool {
        matches!(&self.fetch, Fetch::Piece { offset, bytes, short: true } if offset + bytes.len() as u64 == at)
    }
}

/// The first offset from `at` on that is in memory.
fn first_retained(history: &History, at: u64) -> u64 {
    match history.peek(at, 1) {
        Peek::Gap(to) => to,
        Peek::Bytes(_) | Peek::Nothing => at,
    }
}

/// One past the last byte that is in memory without a hole from `from` on.
fn contiguous_end(history: &History, from: u64) -> u64 {
    let mut end = from;
    // A run ends with the head, and another begins there.
    for _ in 0..2 {
        if let Peek::Bytes(run) = history.peek(end, usize::MAX) {
            end += run.len() as u64;
        }
    }
    end
}

fn publish(meter: &SpoolMeter, numbers: Numbers) {
    meter.oldest.set(numbers.oldest);
    meter.end.set(numbers.end);
    meter.bytes.set(numbers.bytes);
    meter.segments.store(numbers.segments, Ordering::Relaxed);
}

impl<D: Driver> Reactor<D> {
    /// Begins the spool of a stream. One that a former kernel has written goes on where the disk says it ends, and until
    /// that is known its source waits.
    pub(super) fn begin_spool(&mut self, place: Place, channel: Channel, inherited: bool) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = StreamKey { process: process.key, channel };
        let Some(spool) = &mut process.streams[channel as usize].spool else { return };
        if inherited {
            spool.state = State::Opening;
        }
        let job = Job::Open { stream, session: spool.session.clone(), limits: spool.limits };
        self.spool_job(place, channel, job);
    }

    /// Hands a job over. Where there is no thread to do it, it has failed.
    fn spool_job(&mut self, place: Place, channel: Channel, job: Job) {
        let done = self.spools.as_ref().is_some_and(|spools| spools.submit(job));
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = StreamKey { process: process.key, channel };
        let Some(spool) = &mut process.streams[channel as usize].spool else { return };
        spool.in_flight += 1;
        if !done {
            let numbers = Numbers { end: spool.written_to, ..Numbers::default() };
            let mail = Answer::Written { stream, outcome: Err(libc::EAGAIN), numbers, cuts: Vec::new() };
            self.post.send(self.id, super::Mail::Spool(mail));
        }
    }

    /// A stream has got bytes: enough of them are written, fewer wait a little.
    pub(super) fn spool_taken(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get(place) else { return };
        let stream = &process.streams[channel as usize];
        let Some(spool) = &stream.spool else { return };
        if spool.state != State::Working {
            return;
        }
        if stream.history.total().saturating_sub(spool.asked_to) >= SPOOL_BATCH_BYTES {
            return self.spool_pending(place, channel);
        }
        let alarm = Alarm::Spool(place.slot, place.generation, channel);
        if !self.timers.is_armed(alarm) {
            self.timers.arm(alarm, self.at.monotonic_ns.saturating_add(SPOOL_WAIT_NS));
        }
    }

    /// Has everything written that is not yet: what hangs together at a time, for after a failure the middle may be gone.
    fn spool_pending(&mut self, place: Place, channel: Channel) {
        loop {
            let Some(process) = self.processes.get_mut(place) else { return };
            let key = StreamKey { process: process.key, channel };
            let stream = &mut process.streams[channel as usize];
            let Some(spool) = &mut stream.spool else { return };
            let from = first_retained(&stream.history, spool.asked_to);
            let to = contiguous_end(&stream.history, from);
            if from >= to || spool.state == State::Failed {
                return;
            }
            // Once a stream's ring is plain memory, all of it was asked for.
            let Ok((generation, ring)) = stream.history.ring_to_spool() else { return };
            let mut handed = None;
            if spool.ring != Some(generation) {
                match ring.try_clone_to_owned() {
                    Ok(fd) => handed = Some(Job::Ring { stream: key, ring: fd }),
                    // What is asked of the ring it has not got fails, and is tried again.
                    Err(error) => tracing::warn!(%error, "a ring is not handed to the spool"),
                }
                spool.ring = Some(generation);
            }
            spool.asked_to = to;
            let fresh = spool.broken_at.is_some() && spool.in_flight == 0;
            if let (Some(spools), Some(job)) = (&self.spools, handed) {
                spools.submit(job);
            }
            self.spool_job(place, channel, Job::Append { stream: key, from, to, fresh });
        }
    }

    /// A stream has ended: what is left of it is written, and the writing thread lets go of its ring.
    pub(super) fn end_spool(&mut self, place: Place, channel: Channel) {
        self.timers.disarm(Alarm::Spool(place.slot, place.generation, channel));
        // If nobody has said yet how far the disk is: it leaves out what it has.
        self.spool_pending(place, channel);
        let Some(process) = self.processes.get(place) else { return };
        let stream = StreamKey { process: process.key, channel };
        if let (Some(spools), Some(_)) = (&self.spools, &process.streams[channel as usize].spool) {
            spools.submit(Job::Close { stream });
        }
    }

    /// A process is forgotten, and with it what it had on disk.
    pub(super) fn forget_spool(&mut self, place: Place, process: ProcessKey, channel: Channel) {
        self.timers.disarm(Alarm::Spool(place.slot, place.generation, channel));
        if let Some(spools) = &self.spools {
            spools.submit(Job::Forget { stream: StreamKey { process, channel } });
        }
    }

    /// Bytes have waited enough, or a failed spool is tried again.
    pub(super) fn spool_waited(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        let Some(spool) = &mut stream.spool else { return };
        if spool.state != State::Failed {
            return self.spool_pending(place, channel);
        }
        if stream.closed {
            return;
        }
        if spool.in_flight > 0 {
            return self.retry_later(place, channel);
        }
        if !spool.opened {
            return self.begin_spool(place, channel, true);
        }
        let from = first_retained(&stream.history, spool.written_to);
        if from >= stream.history.total() {
            // There is nothing to try it with yet.
            return self.retry_later(place, channel);
        }
        spool.state = State::Working;
        (spool.asked_to, spool.written_to) = (from, from);
        self.spool_pending(place, channel);
    }

    fn retry_later(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let Some(spool) = &mut process.streams[channel as usize].spool else { return };
        let at_ns = self.at.monotonic_ns.saturating_add(spool.retry_ns);
        spool.retry_ns = (spool.retry_ns * 2).min(SPOOL_RETRY_NS_MAX);
        self.timers.arm(Alarm::Spool(place.slot, place.generation, channel), at_ns);
    }

    pub(super) fn spool_answered(&mut self, answer: Answer) {
        match answer {
            Answer::Written { stream, outcome, numbers, cuts } => {
                self.spool_cut(stream, numbers, &cuts);
                self.spool_written(stream, outcome, numbers);
            }
            Answer::Cut { stream, numbers, cuts } => self.spool_cut(stream, numbers, &cuts),
            Answer::Piece { subscription, channel, offset, piece } => {
                self.piece_read(subscription, channel, offset, piece);
            }
        }
    }

    fn spool_cut(&mut self, stream: StreamKey, numbers: Numbers, cuts: &[Cut]) {
        let StreamKey { process: key, channel } = stream;
        let Some(process) = self.place_of_process(key).and_then(|place| self.processes.get(place)) else {
            return;
        };
        publish(&process.meter.streams[channel as usize].spool, numbers);
        let news = cuts.iter().map(|cut| SpoolNews::Truncated(*cut));
        self.notices.extend(news.map(|news| Notice::Spool { process: key, channel, news }));
    }

    fn spool_written(&mut self, stream: StreamKey, outcome: Result<(), i32>, numbers: Numbers) {
        let StreamKey { process: key, channel } = stream;
        let Some(place) = self.place_of_process(key) else { return };
        let Some(process) = self.processes.get_mut(place) else { return };
        let errno = &process.meter.streams[channel as usize].spool.errno;
        let stream = &mut process.streams[channel as usize];
        let Some(spool) = &mut stream.spool else { return };
        spool.in_flight = spool.in_flight.saturating_sub(1);
        let news = match outcome {
            Err(number) => {
                if spool.state == State::Failed {
                    return;
                }
                errno.store(number, Ordering::Relaxed);
                spool.failed(numbers);
                let first = spool.broken_at.is_none();
                spool.broken_at.get_or_insert(numbers.end);
                self.retry_later(place, channel);
                first.then_some(SpoolNews::Failed { errno: number, good_to: numbers.end })
            }
            Ok(()) if !spool.opened => {
                spool.opened = true;
                self.spool_opened(place, channel, numbers)
            }
            Ok(()) => {
                spool.written_to = numbers.end;
                errno.store(0, Ordering::Relaxed);
                spool.retry_ns = SPOOL_RETRY_NS;
                let mended = spool.broken_at.take();
                mended.map(|good_to| SpoolNews::Resumed { good_to, from: numbers.resumed.max(good_to) })
            }
        };
        self.notices.extend(news.map(|news| Notice::Spool { process: key, channel, news }));
        self.resume_sources(place);
        self.deliver_all(place);
    }

    /// The disk has said where the spool ends: it goes on there, or with the first byte behind that memory still has.
    fn spool_opened(&mut self, place: Place, channel: Channel, numbers: Numbers) -> Option<SpoolNews> {
        let process = self.processes.get_mut(place)?;
        let stream = &mut process.streams[channel as usize];
        let spool = stream.spool.as_mut().filter(|spool| spool.state == State::Opening)?;
        spool.state = State::Working;
        if stream.closed {
            // Its ring may be gone, and with it its length.
            stream.history.was_longer(numbers.end);
            process.meter.streams[channel as usize].taken_bytes.set(stream.history.total());
        }
        let from = first_retained(&stream.history, numbers.end);
        spool.asked_to = spool.asked_to.max(from);
        spool.written_to = from;
        // After a failure the first byte that is written tells.
        let untold = spool.broken_at.is_none() && from > numbers.end;
        if !stream.closed {
            self.spool_pending(place, channel);
        }
        untold.then_some(SpoolNews::Resumed { good_to: numbers.end, from })
    }

    /// Asks for what a reader needs at `offset`, unless a piece is under way or not yet written. It wants to see past
    /// `beyond`. True if something will come.
    pub(super) fn fetch(
        &mut self,
        place: Place,
        process: Place,
        channel: Channel,
        offset: u64,
        beyond: u64,
    ) -> bool {
        let Some(reader) = self.readers.get_mut(place) else { return false };
        let Some(running) = self.processes.get_mut(process) else { return false };
        let stream = &running.streams[channel as usize];
        let policy = reader.subscriber.policy;
        if !reader.disk[channel as usize].may_fetch(stream, policy, beyond) {
            return false;
        }
        let (Some(spool), Some(spools)) = (&stream.spool, &self.spools) else { return false };
        let fetch = &mut reader.disk[channel as usize].fetch;
        if matches!(fetch, Fetch::Asked { .. }) || beyond >= spool.written_to {
            // Its answer, or the next that is written, wakes us.
            return true;
        }
        let bytes_max = ((spool.written_to - offset) as usize).min(SPOOL_RECORD_BYTES_MAX);
        let key = reader.subscriber.key;
        if !spools.read(key, channel, spool.session.clone(), offset, bytes_max) {
            return false;
        }
        *fetch = Fetch::Asked { to: offset + bytes_max as u64 };
        reader.disk[channel as usize].used = true;
        true
    }

    fn piece_read(&mut self, key: SubscriptionKey, channel: Channel, offset: u64, piece: Piece) {
        let Some(place) = self.reader_places.get(&key.serial).copied() else { return };
        let Some(reader) = self.readers.get_mut(place) else { return };
        let fetch = &mut reader.disk[channel as usize].fetch;
        let Fetch::Asked { to } = *fetch else { return };
        *fetch = match piece {
            Piece::Bytes(bytes) => Fetch::Piece { offset, short: offset + (bytes.len() as u64) < to, bytes },
            Piece::Gap(end) => Fetch::Gap { from: offset, to: end },
            // It was written and is there no more.
            Piece::End => Fetch::Gap { from: offset, to },
        };
        self.deliver(place);
    }

    /// A reader has come up to the newest byte: it holds nothing of the disk any more.
    pub(super) fn is_live(&mut self, place: Place, channel: Channel) {
        let Some(reader) = self.readers.get_mut(place) else { return };
        let disk = &mut reader.disk[channel as usize];
        disk.live = true;
        if !matches!(disk.fetch, Fetch::Asked { .. }) {
            disk.fetch = Fetch::Nothing;
            if std::mem::take(&mut disk.used) && reader.disk.iter().all(|disk| !disk.used) {
                self.leave_disk(place);
            }
        }
    }

    /// What is open for a reader is closed.
    fn leave_disk(&self, place: Place) {
        if let (Some(spools), Some(reader)) = (&self.spools, self.readers.get(place)) {
            spools.leave(reader.subscriber.key);
        }
    }

    /// A reader is going.
    pub(super) fn part_from_disk(&self, place: Place) {
        if self.readers.get(place).is_some_and(|reader| reader.disk.iter().any(|disk| disk.used)) {
            self.leave_disk(place);
        }
    }
}
