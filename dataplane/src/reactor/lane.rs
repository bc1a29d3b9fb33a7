//! The lane to the keeper: packets out, in order, and what comes back.
//!
//! Invariant: packets leave in the order they were made; what a full lane doesn't take waits here.

use super::mail::Mail;
use super::{Kind, Reactor};
use crate::command::{Credentials, NamedInlet, Spawn, Subscribe, Wiring};
use crate::control::{Failure, Lineage, Notice, Outcome, Peer, SpawnFailure, SpawnStage};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::keeper::link::{self, FromKeeper};
use crate::keeper::protocol::{
    End, ProtocolError, SEVERAL_BYTES_MAX, VERSION, VERSION_CONTAINS, VERSION_DIVIDES, VERSION_JOINS,
    VERSION_MEASURES, VERSION_PLACES,
};
use crate::key::{Channel, ProcessKey, SubscriptionKey, Ticket};
use crate::points::{Point, reach};
use crate::sys::pipe::{NonBlocking, Pipe, pipe};
use crate::sys::socket;
use std::collections::VecDeque;
use std::io;

/// What each of several messages takes beside its own bytes, at most.
const SEVERAL_OVERHEAD_BYTES: usize = 5;

#[derive(Debug)]
pub(super) struct Lane<F> {
    fd: Option<F>,
    queue: VecDeque<(Vec<u8>, Vec<F>)>,
    packet: Vec<u8>,
    armed: bool,
    shutdown_sent: bool,
    /// What the keeper understands.
    version: u16,
    /// It has said so itself.
    greeted: bool,
    /// Spawns that not every keeper understands, until it has.
    waiting: Vec<Spawn>,
    /// Readers whose outlets not every keeper holds, until it has.
    readers: Vec<Subscribe>,
    /// Paths into stdins that not every keeper holds, until it has.
    inlets: Vec<(ProcessKey, Box<NamedInlet>, Ticket)>,
}

impl<F: Clone> Lane<F> {
    pub(super) fn new(fd: F) -> Lane<F> {
        Lane {
            fd: Some(fd),
            queue: VecDeque::new(),
            packet: Vec::new(),
            armed: false,
            shutdown_sent: false,
            version: VERSION,
            greeted: false,
            waiting: Vec::new(),
            readers: Vec::new(),
            inlets: Vec::new(),
        }
    }

    /// True exactly when packets wait: a stream that needs a new ring kept had better wait too.
    pub(super) fn is_full(&self) -> bool {
        !self.queue.is_empty()
    }

    /// True exactly when the keeper does what was new with this version; none before it has said what it can.
    pub(super) fn speaks(&self, version: u16) -> Option<bool> {
        (self.greeted || self.fd.is_none()).then_some(self.fd.is_some() && self.version >= version)
    }

    /// A process is to begin once the keeper has said what it can.
    pub(super) fn await_greeting_for(&mut self, spawn: Spawn) {
        self.waiting.push(spawn);
    }

    /// A reader is to begin once the keeper has said what it can.
    pub(super) fn await_greeting(&mut self, reader: Subscribe) {
        self.readers.push(reader);
    }

    /// A path is to be made then.
    pub(super) fn await_greeting_with(
        &mut self,
        process: ProcessKey,
        inlet: Box<NamedInlet>,
        ticket: Ticket,
    ) {
        self.inlets.push((process, inlet, ticket));
    }

    /// One that was to is not to any more.
    pub(super) fn forget_reader(&mut self, key: SubscriptionKey) {
        self.readers.retain(|reader| reader.subscription != key);
    }

    /// How many of those that wait can be one packet.
    fn together(&self) -> usize {
        if !self.greeted || self.version < 4 {
            return 1;
        }
        let mut bytes = 0;
        let fits = self.queue.iter().take_while(|(packet, fds)| {
            bytes += packet.len() + SEVERAL_OVERHEAD_BYTES;
            fds.is_empty() && bytes <= SEVERAL_BYTES_MAX
        });
        fits.count()
    }

    /// Makes a packet and sends it with its descriptors. An error means that the keeper will never see it.
    pub(super) fn send<D: Driver<Fd = F>>(
        &mut self,
        driver: &mut D,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), ProtocolError>,
        fds: &[F],
    ) -> io::Result<()> {
        let Some(lane) = self.fd.clone() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        encode(&mut self.packet).map_err(io::Error::other)?;
        let mut with = fds.to_vec();
        if let Some(memory) = link::pack(&mut self.packet)? {
            with.push(driver.import(memory));
        }
        if self.queue.is_empty() {
            match driver.send_packet(&lane, &self.packet, &with) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.queue.push_back((self.packet.clone(), with));
        if !self.armed {
            self.armed = true;
            driver.submit(Kind::LaneWrite.only(), Op::Poll(lane, Interest::Write));
        }
        Ok(())
    }
}

impl<D: Driver> Reactor<D> {
    pub(super) fn greet_keeper(&mut self) {
        let Some(lane) = self.lane.fd.clone() else { return };
        let pid = std::process::id() as i32;
        // A lane that is broken already says so when it is read.
        let _ = self.lane.send(&mut self.driver, |packet| link::encode_hello(pid, packet), &[]);
        self.driver.submit(Kind::LaneRead.only(), Op::Poll(lane, Interest::Read));
    }

    pub(super) fn lane_writable(&mut self) {
        self.lane.armed = false;
        let Some(lane) = self.lane.fd.clone() else { return };
        while let Some((packet, fds)) = self.lane.queue.front() {
            let together = self.lane.together();
            let waiting = self.lane.queue.iter().take(together).map(|(packet, _)| &packet[..]);
            let sent = match together {
                2.. if link::encode_several(waiting, &mut self.lane.packet).is_ok() => {
                    self.driver.send_packet(&lane, &self.lane.packet, &[]).map(|()| together)
                }
                _ => self.driver.send_packet(&lane, packet, fds).map(|()| 1),
            };
            match sent {
                Ok(sent) => drop(self.lane.queue.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.lane.armed = true;
                    self.driver.submit(Kind::LaneWrite.only(), Op::Poll(lane, Interest::Write));
                    return;
                }
                // The reading side finds out, and says so.
                Err(_) => self.lane.queue.clear(),
            }
        }
        self.lane_is_free();
    }

    pub(super) fn lane_readable(&mut self) {
        let Some(lane) = self.lane.fd.clone() else { return };
        loop {
            let (mut packet, mut fds) = (std::mem::take(&mut self.lane.packet), Vec::new());
            let received = self.driver.receive_packet(&lane, &mut packet, &mut fds);
            let message = match received {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => link::decode(&packet[..len], fds).map_err(io::Error::other),
                Err(error) => Err(error),
            };
            self.lane.packet = packet;
            match message {
                Ok(message) => self.hear(message),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.driver.submit(Kind::LaneRead.only(), Op::Poll(lane, Interest::Read));
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.keeper_gone(&error),
            }
        }
    }

    /// What the keeper can is known.
    fn go_on_with_the_unheard(&mut self) {
        for reader in std::mem::take(&mut self.lane.readers) {
            self.subscribe(reader);
        }
        for (process, inlet, ticket) in std::mem::take(&mut self.lane.inlets) {
            self.open_inlet(process, inlet, ticket);
        }
    }

    fn hear(&mut self, message: FromKeeper<D::Fd>) {
        match message {
            FromKeeper::Hello { pid, version } => {
                tracing::debug!(pid, version, "keeper");
                self.lane.version = version;
                self.lane.greeted = true;
                for spawn in std::mem::take(&mut self.lane.waiting) {
                    self.start(spawn);
                }
                self.go_on_with_the_unheard();
                for place in self.processes.places() {
                    self.note_blockers(place, &Channel::ALL);
                }
            }
            FromKeeper::Spawned(spawned) => self.spawned(*spawned),
            FromKeeper::Contained { process, finding } => {
                self.notices.push_back(Notice::Contained { process, finding });
            }
            FromKeeper::Measured { process, program } => {
                self.notices.push_back(Notice::Measured { process, program });
            }
            FromKeeper::SpawnFailed { process, failure } => self.spawn_failed(process, failure),
            FromKeeper::Exited { process, status, usage, at_ns } => {
                self.exited(process, status, usage, at_ns);
                self.settle();
            }
            FromKeeper::TreeEnded { process } => {
                self.tree_ended(process);
                self.settle();
            }
            FromKeeper::Signalled { ticket, outcome } => {
                let outcome = outcome.map(|processes| Outcome::Signalled { processes });
                self.done(ticket, outcome.map_err(Failure::Os));
            }
            FromKeeper::Held { .. } => {}
        }
        self.settle();
    }

    /// Has the keeper start a process; one that is contained or looked at only by a keeper that can.
    pub(super) fn send_spawn(&mut self, mut spawn: Spawn) {
        let key = spawn.process;
        let divided =
            spawn.containment.as_ref().is_some_and(|containment| containment.later.namespaces.is_some());
        let needs = [
            (spawn.containment.is_some(), VERSION_CONTAINS, SpawnStage::Containment),
            (divided, VERSION_DIVIDES, SpawnStage::Containment),
            (spawn.program.is_some(), VERSION_MEASURES, SpawnStage::Measure),
            (!spawn.placement.cpus.is_empty(), VERSION_PLACES, SpawnStage::Affinity),
            (spawn.wiring.stdin_file.is_some(), VERSION_JOINS, SpawnStage::StdinFile),
            (spawn.wiring.is_joined(), VERSION_JOINS, SpawnStage::Joint),
        ];
        for (_, version, stage) in needs.into_iter().filter(|(needed, ..)| *needed) {
            if !self.lane.greeted && self.lane.fd.is_some() {
                return self.lane.waiting.push(spawn);
            }
            if self.lane.version < version {
                drop(self.joint_ends(&spawn.wiring));
                return self.spawn_failed(key, SpawnFailure { stage, errno: libc::ENOSYS });
            }
        }
        // A keeper that knows of no record of what is denied contains all the same.
        if let Some(containment) = spawn.containment.as_mut().filter(|_| self.lane.version < VERSION_DIVIDES)
        {
            containment.later.log = false;
        }
        let joints = match self.joint_ends(&spawn.wiring) {
            Ok(ends) => ends,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                return self.spawn_failed(key, SpawnFailure { stage: SpawnStage::Resources, errno });
            }
        };
        let mut beside = match spawn.containment.as_ref().filter(|containment| containment.kernel) {
            None => Vec::new(),
            Some(_) => match self.connect_child(&spawn) {
                Ok(end) => vec![end],
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return self.spawn_failed(key, SpawnFailure { stage: SpawnStage::KernelSocket, errno });
                }
            },
        };
        beside.extend(joints);
        let sent = self.lane.send(&mut self.driver, |packet| link::encode_spawn(&spawn, packet), &beside);
        reach(Point::SpawnSent);
        if let Err(error) = sent {
            tracing::debug!(%error, "spawn was not sent");
            let (stage, errno) = match error.kind() {
                io::ErrorKind::Other => (SpawnStage::Resources, libc::E2BIG),
                _ => (SpawnStage::Keeper, error.raw_os_error().unwrap_or(libc::EPIPE)),
            };
            self.spawn_failed(key, SpawnFailure { stage, errno });
        }
    }

    /// The ends of pipes a child shares with another, which are then nobody's here. The two ask one after the other: the first
    /// makes the pipe.
    fn joint_ends(&mut self, wiring: &Wiring) -> io::Result<Vec<D::Fd>> {
        let mut ends = Vec::new();
        for (joint, reads) in [(wiring.stdin, true), (wiring.stdout, false)] {
            let Some(joint) = joint else { continue };
            match self.joints.remove(&joint.name) {
                Some(Some(end)) => ends.push(end),
                Some(None) => return Err(io::ErrorKind::BrokenPipe.into()),
                None => {
                    let made = pipe(joint.pipe_bytes as usize, NonBlocking::Neither);
                    let Ok(Pipe { reader, writer, .. }) = made else {
                        // The other one must not wait for what there will never be.
                        self.joints.insert(joint.name, None);
                        return made.map(|_| ends);
                    };
                    let (own, others) = if reads { (reader, writer) } else { (writer, reader) };
                    ends.push(self.driver.import(own));
                    let others = self.driver.import(others);
                    self.joints.insert(joint.name, Some(others));
                }
            }
        }
        Ok(ends)
    }

    /// Makes a connection for a child before there is one: who is at the other end is known by whom it was made for, so
    /// nothing has to be asked of a socket. The child's end.
    fn connect_child(&mut self, spawn: &Spawn) -> io::Result<D::Fd> {
        let (ours, theirs) = socket::stream_pair(false)?;
        let own = || Credentials {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
        };
        let Credentials { uid, gid, groups } = spawn.credentials.clone().unwrap_or_else(own);
        let lineage = Lineage::Child { ancestors: Vec::new(), session: Some(spawn.session.clone()) };
        let peer = Peer { pid: 0, uid, gid, groups, lineage };
        self.post.send(self.id, Mail::Connection { socket: ours, peer });
        Ok(self.driver.import(theirs))
    }

    /// Tells the keeper something that needs no answer. If it is gone, that is told when the lane is read.
    pub(super) fn tell_keeper(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), ProtocolError>) {
        if let Err(error) = self.lane.send(&mut self.driver, encode, &[]) {
            tracing::debug!(%error, "the keeper was not told");
        }
    }

    /// The keeper need not tell an end again. Only once it is kept: one that is not is told to our successor.
    pub(super) fn acknowledge(&mut self, process: ProcessKey) {
        reach(Point::ExitTold);
        if self.is_unheld(process) {
            return;
        }
        self.tell_keeper(|packet| link::encode_acknowledge(process, packet));
    }

    /// Drops the keeper's duplicate of one end, so that the child sees it closed.
    pub(super) fn close_end(&mut self, process: ProcessKey, end: End) {
        if self.is_unheld(process) {
            return;
        }
        self.tell_keeper(|packet| link::encode_close_channel(process, end, packet));
    }

    /// Has the keeper keep a note of a process, if it understands that, and let go of what is in the note from now on.
    pub(super) fn annotate(&mut self, process: ProcessKey, note: &[u8]) {
        if self.lane.version >= 3 && !self.is_unheld(process) {
            self.tell_keeper(|packet| link::encode_annotate(process, note, packet));
        }
        let place = self.place_of_process(process);
        let Some(noted) = place.and_then(|place| self.processes.get_mut(place)) else { return };
        for end in std::mem::take(&mut noted.releasing) {
            // For an end that is closed already this means all that is held of it.
            self.close_end(process, end);
        }
    }

    /// Ends all reactors, and nothing else.
    pub(super) fn leave(&mut self) {
        self.post.begin_shutdown();
        if self.lane.version >= 3 {
            self.tell_keeper(link::encode_leave);
        }
        for reactor in 0..self.post.reactors() {
            self.post.send(crate::key::ReactorId(reactor), Mail::Stop);
        }
    }

    fn keeper_gone(&mut self, error: &io::Error) {
        self.lane.fd = None;
        self.lane.queue.clear();
        self.go_on_with_the_unheard();
        self.joints.clear();
        self.lane_is_free();
        if self.post.is_shutting_down() {
            self.stopping = true;
            return;
        }
        tracing::error!(%error, "the keeper is gone");
        for place in self.processes.places() {
            if let Some(process) = self.processes.get(place)
                && process.is_starting()
            {
                let failure = SpawnFailure { stage: SpawnStage::Keeper, errno: libc::EPIPE };
                let key = process.key;
                self.spawn_failed(key, failure);
            }
        }
        self.notices.push_back(Notice::KeeperLost);
    }

    pub(super) fn shut_down(&mut self, grace_ns: u64) {
        self.post.begin_shutdown();
        if std::mem::replace(&mut self.lane.shutdown_sent, true) {
            return;
        }
        if self.lane.fd.is_none() {
            for reactor in 0..self.post.reactors() {
                self.post.send(crate::key::ReactorId(reactor), super::mail::Mail::Stop);
            }
        }
        self.tell_keeper(|packet| link::encode_shutdown(grace_ns, packet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::protocol::{VERSION_FRAMES, VERSION_HOLDS};

    #[test]
    fn an_earlier_keeper_is_given_nothing_it_has_no_word_for() {
        let speaks = |says, greeted, word| Lane { version: says, greeted, ..Lane::new(()) }.speaks(word);
        assert_eq!(speaks(VERSION, false, VERSION_FRAMES), None, "it has not said what it is");
        assert_eq!(speaks(VERSION_HOLDS - 1, true, VERSION_HOLDS), Some(false));
        assert_eq!(speaks(VERSION_HOLDS, true, VERSION_HOLDS), Some(true));
        assert_eq!(speaks(VERSION_HOLDS, true, VERSION_FRAMES), Some(false));
        assert_eq!(speaks(VERSION_FRAMES, true, VERSION_FRAMES), Some(true));
    }
}
