//! Who holds how much of the memory of all histories, and who gives when it is too much.
//!
//! ```text
//!  a history grows ─▶ charge ─▶ over the budget? ─▶ ended streams' bytes, oldest first
//!                                                ─▶ living streams over their share, a few at a time
//!                                                ─▶ the other reactors are asked for the same
//! ```
//!
//! Invariant: a byte that a waiting reader still needs is never given up; so the budget is what is kept to as far as
//! readers let it. What is given up is counted and told like everything that is cut.

use super::mail::Mail;
use super::table::Place;
use super::timers::Alarm;
use super::{Reactor, Turn};
use crate::budget::ChargeKind;
use crate::command::HistorySize;
use crate::control::Notice;
use crate::driver::Driver;
use crate::key::{Channel, ProcessKey, ReactorId};
use crate::limits::{HISTORY_SHARE_BYTES_MIN, SQUEEZED_BATCH_BYTES, SQUEEZED_TAIL_BYTES_MIN};
use kairo_shm::layout::PAGE_BYTES;
use std::sync::atomic::Ordering;

/// Streams that give before others have their turn: each gets a new ring.
const GIVERS_PER_TURN: usize = 8;
/// Nobody looks again sooner than this for something to give, having found nothing, nanoseconds.
const IN_VAIN_INTERVAL_NS: u64 = 10_000_000;

impl<D: Driver> Reactor<D> {
    /// Counts what a stream's history holds, and has somebody give if all of them hold too much.
    pub(super) fn charge(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        let (was, now) = (stream.charge, stream.history.charge());
        if was == now {
            return;
        }
        stream.charge = now;
        process.meter.streams[channel as usize].held_bytes.set(now.bytes);
        self.budget.change(was, now);
        if now.bytes > was.bytes && self.budget.is_over() {
            self.later(Turn::Squeeze);
        }
    }

    /// Publishes what a history is at the beginning, or was when it was taken over.
    pub(super) fn take_stock(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let stream = &mut process.streams[channel as usize];
        let (size, cut) = (stream.history.size(), stream.history.cut());
        let meter = &process.meter.streams[channel as usize];
        meter.head_bytes.store(size.head_bytes, Ordering::Relaxed);
        meter.tail_bytes.store(size.tail_bytes, Ordering::Relaxed);
        meter.cut_from.set(cut.0);
        meter.cut_bytes.set(cut.1 - cut.0);
        // It was told by whoever cut it.
        stream.pace.cut = cut;
        self.charge(place, channel);
    }

    /// A process is forgotten, and with it what it holds.
    pub(super) fn discharge(&self, process: &super::processes::Process<D::Fd>) {
        for stream in &process.streams {
            self.budget.change(stream.charge, Default::default());
        }
    }

    /// Gives what this reactor can give. If that is not enough the others are asked, unless it was them who asked.
    pub(super) fn squeeze(&mut self, asked: bool) {
        while self.budget.is_over() && self.drop_oldest_retained() {}
        if !self.budget.is_over() {
            self.others_asked = false;
            return;
        }
        let now_ns = self.at.monotonic_ns;
        // Going through all streams in vain is not repeated at every byte that comes.
        let again_ns = self.in_vain_ns.map_or(0, |in_vain_ns| in_vain_ns + IN_VAIN_INTERVAL_NS);
        if now_ns < again_ns {
            return self.timers.arm(Alarm::Squeeze, again_ns);
        }
        let elsewhere = self.budget.retained_bytes() > 0 && self.post.reactors() > 1;
        if !asked && elsewhere && !std::mem::replace(&mut self.others_asked, true) {
            // What has ended goes first, wherever it is: they are given time to do it.
            self.timers.arm(Alarm::Squeeze, now_ns + IN_VAIN_INTERVAL_NS);
            return self.ask_others();
        }
        // Some can't give all of what is over their share; then the largest of the others give more.
        if self.squeeze_living(self.budget.share_bytes()) || self.squeeze_living(HISTORY_SHARE_BYTES_MIN) {
            return self.later(Turn::Squeeze);
        }
        self.in_vain_ns = Some(now_ns);
        if !asked {
            self.ask_others();
        }
    }

    fn ask_others(&self) {
        for reactor in (0..self.post.reactors()).map(ReactorId).filter(|reactor| *reactor != self.id) {
            self.post.send(reactor, Mail::Squeeze);
        }
    }

    /// Makes the largest living histories smaller that are over `share`. True if one became smaller.
    fn squeeze_living(&mut self, share: u64) -> bool {
        let mut over: Vec<(u64, Place, Channel)> = Vec::new();
        for place in self.processes.places() {
            let Some(process) = self.processes.get(place) else { continue };
            for channel in Channel::ALL {
                let charge = process.streams[channel as usize].charge;
                if charge.kind == ChargeKind::Live && charge.bytes > share {
                    over.push((charge.bytes, place, channel));
                }
            }
        }
        over.sort_unstable_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        let mut givers = 0;
        for (before, place, channel) in over {
            // A new ring must be in the keeper's hands before a byte is in it alone.
            if givers == GIVERS_PER_TURN || self.lane.is_full() || !self.budget.is_over() {
                break;
            }
            self.squeeze_one(place, channel, share);
            let after = self.processes.get(place).map_or(0, |p| p.streams[channel as usize].charge.bytes);
            givers += usize::from(after < before);
        }
        givers > 0
    }

    fn squeeze_one(&mut self, place: Place, channel: Channel, share: u64) {
        let pinned = self.pinned(place, channel);
        let Some(process) = self.processes.get_mut(place) else { return };
        let history = &mut process.streams[channel as usize].history;
        let beside = u64::from(history.size().head_bytes) + (SQUEEZED_BATCH_BYTES + PAGE_BYTES) as u64;
        // A share is far below 4 GiB or more than any tail: the smaller of the two fits.
        let tail_bytes = share.saturating_sub(beside).min(u64::from(u32::MAX)) as u32;
        let changed = history.squeeze(tail_bytes.max(SQUEEZED_TAIL_BYTES_MIN), pinned);
        self.resized(place, channel, changed);
    }

    /// Gives a history other sizes, as far as the memory of all allows it to grow.
    pub(super) fn resize_history(
        &mut self,
        place: Place,
        channel: Channel,
        head_bytes: Option<u32>,
        tail_bytes: Option<u32>,
    ) {
        let pinned = self.pinned(place, channel);
        let mut room = self.budget.room_bytes();
        let full = self.lane.is_full();
        let Some(process) = self.processes.get_mut(place) else { return };
        let history = &mut process.streams[channel as usize].history;
        let size = history.size();
        let mut granted = |wanted: Option<u32>, now: u32| {
            let more = u64::from(wanted.unwrap_or(now).saturating_sub(now)).min(room);
            room -= more;
            wanted.unwrap_or(now).min(now.saturating_add(more as u32))
        };
        let head_bytes = granted(head_bytes, size.head_bytes);
        let wanted = HistorySize { head_bytes, tail_bytes: granted(tail_bytes, size.tail_bytes) };
        if full && history.charge().kind == ChargeKind::Live {
            tracing::warn!("the keeper is behind: a history stays as it is");
            return;
        }
        let changed = history.tune(wanted, pinned);
        self.resized(place, channel, changed);
    }

    /// Publishes what came of a change of size.
    pub(super) fn resized(
        &mut self,
        place: Place,
        channel: Channel,
        changed: Result<bool, kairo_shm::layout::RingError>,
    ) {
        match changed {
            Ok(true) => self.hold_new_ring(place, channel),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a history stays as it is"),
        }
        let Some(process) = self.processes.get(place) else { return };
        let (key, history) = (process.key, process.streams[channel as usize].history.size());
        let meter = &process.meter.streams[channel as usize];
        let before = meter.head_bytes.swap(history.head_bytes, Ordering::Relaxed) != history.head_bytes;
        if meter.tail_bytes.swap(history.tail_bytes, Ordering::Relaxed) != history.tail_bytes || before {
            self.notices.push_back(Notice::Resized { process: key, channel, history });
        }
        self.history_changed(place, channel);
    }

    /// Gives up what is retained of the stream that ended first and that no reader waits to have read. False if there
    /// is none.
    fn drop_oldest_retained(&mut self) -> bool {
        let is_free = |(_, (key, channel)): &(usize, (ProcessKey, Channel))| {
            self.place_of_process(*key).is_none_or(|place| self.pinned(place, *channel).is_none())
        };
        let Some((at, (key, channel))) = self.retained.order().enumerate().find(is_free) else {
            return false;
        };
        self.retained.take_out(at);
        let Some(place) = self.place_of_process(key) else { return true };
        let Some(process) = self.processes.get_mut(place) else { return true };
        let history = &mut process.streams[channel as usize].history;
        self.retained.subtract(history.retained_bytes());
        history.drop_retained();
        let total = history.total();
        self.hold_total(key, channel, total);
        self.history_changed(place, channel);
        true
    }

    /// Keeps what is retained of ended streams within this reactor's share of their own budget.
    pub(super) fn trim_retained(&mut self) {
        while self.retained.is_over() && self.drop_oldest_retained() {}
    }
}
