//! Going on with the processes of a kernel that died, and holding their streams for its readers until they are back.
//!
//! A reader that makes its source wait did not stop wanting that because its kernel died. So a stream that such readers
//! had is held where the slowest of them had come to, by a *ghost*, until as many have subscribed again or the grace is
//! over. Invariant: a process that is here is held by the keeper as it is here, for whoever comes after us.

use super::inlets::AdoptedInlet;
use super::outlets::AdoptedOutlet;
use super::pacing::Pace;
use super::processes::{Phase, Process, Stream, stay_on};
use super::producing::Produced;
use super::spool::StreamSpool;
use super::table::Place;
use super::timers::Alarm;
use super::{Reactor, Turn};
use crate::command::{Feed, HistorySize, Rate, Unread};
use crate::control::StreamEnd;
use crate::driver::Driver;
use crate::keeper::link;
use crate::keeper::protocol::VERSION_AWAITS;
use crate::keeper::settlement::Heir;
use crate::key::Channel;
use crate::meter::ProcessMeter;
use crate::spool::SpoolLimits;
use crate::stream::history::History;
use crate::stream::inflow::Inflow;
use crate::stream::source::Source;
use crate::stream::times::Times;
use kairo_shm::layout::End;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A process of a dead kernel, and what whoever decides knows of it.
#[derive(Debug)]
pub struct Adopted {
    /// What the keeper held of it, settled.
    pub heir: Heir,
    /// How much of each output is kept, by `Channel as usize`.
    pub history: [HistorySize; 2],
    /// How fast each output may go.
    pub rate: [Option<Rate>; 2],
    /// What an unread stream does when history is full.
    pub unread: Unread,
    /// How much of it goes to disk.
    pub spool: Option<SpoolLimits>,
    /// How long those streams were whose end was told, by `Channel as usize`.
    pub ends: [Option<StreamEnd>; 2],
    /// The output that fills its stdin, if that is not over.
    pub feed: Option<Feed>,
    /// Who reads it by an outlet that the keeper had.
    pub outlets: Vec<AdoptedOutlet>,
    /// The path its stdin is written by, which the keeper had.
    pub inlet: Option<AdoptedInlet>,
    /// The core that serves its streams, if it lives and one was asked for.
    pub reactor_cpu: Option<u16>,
    /// Bytes that went into its stdin, if that is over and nothing else is held of it.
    pub stdin: u64,
    /// Numbers the control plane reads at any time.
    pub meter: Arc<ProcessMeter>,
}

/// Stands for the waiting readers that a dead kernel had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ghost {
    /// The slowest of them still needs this.
    pub(super) offset: u64,
    /// How many are not back.
    pub(super) awaited: u32,
}

impl<D: Driver> Reactor<D> {
    /// Takes all of them over, before anybody is let in.
    pub(super) fn inherit_all(&mut self, adopted: Vec<Adopted>) {
        let mut feeds = Vec::new();
        for mut adopted in adopted {
            let (feed, outlets) = (adopted.feed.take(), std::mem::take(&mut adopted.outlets));
            let inlet = adopted.inlet.take();
            adopted.reactor_cpu.into_iter().for_each(stay_on);
            let target = self.inherit(adopted);
            if let Some(inlet) = inlet {
                self.inherit_inlet(target, inlet);
            }
            for outlet in outlets {
                self.inherit_outlet(target, outlet);
            }
            feeds.extend(feed.map(|feed| (target, feed)));
        }
        // A feed is one of the readers that were waited for, and has come back.
        for (target, feed) in feeds {
            self.begin_feed(target, feed);
            if let Some(source) = self.place_of_process(feed.source) {
                let mut wanted = [false; 2];
                wanted[feed.channel as usize] = true;
                self.come_back(source, wanted);
            }
        }
    }

    fn inherit(&mut self, adopted: Adopted) -> Place {
        let Adopted { heir, history, rate, unread, spool, ends, stdin: went_in, meter, .. } = adopted;
        let now_ns = self.at.monotonic_ns;
        let Heir { mut session, rings, inbox, .. } = heir;
        let lending = session.lending.take();
        let (key, terminal) = (session.process, session.terminal);
        let [stdin, stdout, stderr] = std::mem::take(&mut session.ends).map(|end| self.import_end(end));
        let (input, pipe_bytes) = match (terminal, &stdout, stdin) {
            (true, Some((master, _)), _) => (Some(master.clone()), 0),
            (false, _, Some((fd, bytes))) => (Some(fd), bytes as usize),
            (true, None, _) | (false, _, None) => (None, 0),
        };
        let [first, second] = rings;
        let sizes = [(stdout, first, terminal), (stderr, second, false)];
        let mut streams = Channel::ALL.into_iter().zip(sizes).map(|(channel, (fd, ring, terminal))| {
            let meter = &meter.streams[channel as usize];
            meter.pipe_bytes.store(fd.as_ref().map_or(0, |(_, bytes)| *bytes), Ordering::Relaxed);
            let (size, end) = (history[channel as usize], ends[channel as usize]);
            let told = if fd.is_some() { session.blockers[channel as usize] } else { 0 };
            let mut stream = inherited_stream(size, fd.map(|(fd, _)| fd), ring, end, terminal, unread, told);
            stream.closed &= lending.is_none() || channel != Channel::Stdout;
            stream.pace = Pace::new(rate[channel as usize], now_ns);
            stream.spool = spool.map(|limits| StreamSpool::new(&session.session, limits));
            stream
        });
        let streams = std::array::from_fn(|channel| {
            streams.next().unwrap_or_else(|| Stream::new(history[channel], Pace::default()))
        });
        let phase = if session.exit.is_some() { Phase::Exited } else { Phase::Running };
        let inflow = Inflow::inherited(input, pipe_bytes, inbox, went_in);
        meter.stdin_closed.store(inflow.is_closed(), Ordering::Relaxed);
        meter.stdin_pipe_bytes.store(pipe_bytes as u32, Ordering::Relaxed);
        meter.stdin_bytes.set(inflow.written());
        meter.stdin_parked_bytes.set(inflow.parked_bytes());
        let place = self.processes.insert_with(|_| Process {
            key,
            streams,
            readers: Vec::new(),
            announcements: Vec::new(),
            phase,
            unread,
            inflow,
            parked: Default::default(),
            inlet: None,
            feeding: None,
            unfed: false,
            releasing: Vec::new(),
            produced: session.produced.then(|| Produced::inherited(session.exit.is_none())),
            lending: None,
            meter,
        });
        self.process_places.insert(key.serial, place);
        for channel in Channel::ALL {
            self.go_on_with(place, channel);
        }
        self.go_on_with_producer(place, lending);
        // Its kernel may have died before there was one.
        self.open_accounts(place);
        self.input_accounted(place);
        self.later(Turn::Input(place));
        place
    }

    fn import_end(&mut self, end: Option<(OwnedFd, u32)>) -> Option<(D::Fd, u32)> {
        end.map(|(fd, bytes)| (self.driver.import(fd), bytes))
    }

    fn go_on_with(&mut self, place: Place, channel: Channel) {
        let Some(process) = self.processes.get_mut(place) else { return };
        let exited = process.phase == Phase::Exited;
        let stream = &mut process.streams[channel as usize];
        let total_bytes = stream.history.total();
        if exited {
            stream.exit_mark = total_bytes;
        }
        if stream.closed {
            stream.history.end(End::Complete);
        }
        let (closed, awaited) = (stream.closed, stream.ghost.is_some());
        let meter = &process.meter.streams[channel as usize];
        meter.taken_bytes.set(total_bytes);
        meter.closed.store(closed, Ordering::Relaxed);
        self.begin_spool(place, channel, true);
        self.take_stock(place, channel);
        if awaited {
            let at_ns = self.at.monotonic_ns.saturating_add(self.reconnect_grace_ns);
            self.timers.arm(Alarm::ghosts(place), at_ns);
        }
        if closed {
            self.end_spool(place, channel);
            self.retire(place, channel);
        } else {
            self.arm_source(place, channel);
        }
    }

    /// A reader is back. The stream is let go when the last one is.
    pub(super) fn come_back(&mut self, place: Place, wanted: [bool; 2]) {
        let Some(process) = self.processes.get_mut(place) else { return };
        for channel in Channel::ALL.into_iter().filter(|channel| wanted[*channel as usize]) {
            let stream = &mut process.streams[channel as usize];
            if let Some(ghost) = &mut stream.ghost {
                ghost.awaited = ghost.awaited.saturating_sub(1);
                stream.ghost = stream.ghost.filter(|ghost| ghost.awaited > 0);
            }
        }
        if process.streams.iter().all(|stream| stream.ghost.is_none()) {
            self.timers.disarm(Alarm::ghosts(place));
        }
        self.resume_sources(place);
    }

    /// Notes for the next kernel whom it has to wait for: in the ring, or, where there is none before a first byte, with the
    /// keeper.
    pub(super) fn note_blockers(&mut self, place: Place, of: &[Channel]) {
        let is_told = self.lane.speaks(VERSION_AWAITS) == Some(true);
        let mut news = false;
        for channel in of {
            self.pinned(place, *channel);
            let Some(process) = self.processes.get(place) else { return };
            let stream = &process.streams[*channel as usize];
            if !is_told || process.is_unheld() || stream.closed || !stream.history.is_untouched() {
                continue;
            }
            let count = self.blockers(place, *channel).map_or(0, |(_, count)| count);
            if let Some(process) = self.processes.get_mut(place) {
                news |= std::mem::replace(&mut process.streams[*channel as usize].told, count) != count;
            }
        }
        if let Some(process) = self.processes.get(place).filter(|_| news) {
            let (key, counts) = (process.key, process.streams.each_ref().map(|stream| stream.told));
            self.tell_keeper(|packet| link::encode_blockers(key, counts, packet));
        }
    }

    /// Whoever is not back is not waited for any more.
    pub(super) fn lay_ghosts(&mut self, place: Place) {
        let Some(process) = self.processes.get_mut(place) else { return };
        for stream in &mut process.streams {
            stream.ghost = None;
        }
        self.resume_sources(place);
        for channel in Channel::ALL {
            self.retire(place, channel);
        }
    }
}

fn inherited_stream<F>(
    size: HistorySize,
    fd: Option<F>,
    ring: Option<kairo_shm::writer::Writer>,
    end: Option<StreamEnd>,
    terminal: bool,
    unread: Unread,
    told: u32,
) -> Stream<F> {
    let (offset, blockers) = ring.as_ref().map_or((0, told), |ring| ring.pinned());
    let history = match (ring, end) {
        (None, Some(end)) => History::gone(size, end.total_bytes),
        (ring, _) => History::inherited(size, ring),
    };
    Stream {
        delivered: if unread == Unread::Block { offset } else { 0 },
        ghost: (blockers > 0).then_some(Ghost { offset, awaited: blockers }),
        told,
        closed: fd.is_none(),
        source: fd.map(|fd| Source { fd, terminal, armed: false }),
        times: Times::since(history.total()),
        history,
        ..Stream::new(size, Pace::default())
    }
}
