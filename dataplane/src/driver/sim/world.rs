//! The fake world as a test sees it: a clock, chance from a seed, and the other ends of everything.
//!
//! A test is the clients ([`World::connect`]), the children ([`World::pipe_from_child`] and its kin) and the keeper
//! ([`World::lane`]). It acts between two waits of the driver, and whatever it does is part of the one history that
//! the seed names. Invariant, checked by [`World::assert_clean`]: in the end no descriptor is open and no buffer
//! lent. What the driver does is in [`super`].

use super::descriptor::{Backlog, Fd, Kind, Packet};
use super::flow::{ReadEnd, WriteEnd, flow};
use crate::control::{Lineage, Moment, Peer};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;

/// Bytes a fake socket holds in one direction.
const SOCKET_BYTES: usize = 200 << 10;
/// Packets a fake lane holds in one direction.
const LANE_PACKETS: usize = 16;

/// How unkind the world is: chances in 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A send, write, read, receive or splice moves less than it could.
    pub short: u64,
    /// A poll is answered although nothing is ready.
    pub spurious: u64,
    /// An attempt says `EAGAIN` although it could succeed.
    pub again: u64,
    /// A completion comes later than it could.
    pub delay: u64,
    /// By up to this many nanoseconds.
    pub delay_ns_max: u64,
    /// A cancellation comes too late.
    pub late_cancel: u64,
    /// Buffers that can be lent at once.
    pub buffers: u16,
}

impl Faults {
    /// Everything goes as well as it can.
    pub const NONE: Faults =
        Faults { short: 0, spurious: 0, again: 0, delay: 0, delay_ns_max: 0, late_cancel: 0, buffers: 64 };
}

#[derive(Debug)]
pub(super) struct Shared {
    chance: Cell<u64>,
    monotonic_ns: Cell<u64>,
    pub(super) faults: Cell<Faults>,
    /// What is open, by serial.
    open: RefCell<BTreeMap<u64, &'static str>>,
    next_serial: Cell<u64>,
    pub(super) lent: Cell<usize>,
    pub(super) inflight: Cell<usize>,
    pub(super) submitted: Cell<u64>,
    pub(super) answered: Cell<u64>,
    pub(super) idle: Cell<bool>,
    adoptable: RefCell<BTreeMap<RawFd, Fd>>,
}

impl Shared {
    /// A number from the seed.
    pub(super) fn draw(&self) -> u64 {
        // SplitMix64.
        let state = self.chance.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.chance.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
    /// Below `bound`, which isn't 0.
    pub(super) fn below(&self, bound: u64) -> u64 {
        self.draw() % bound
    }
    /// True `per_mille` times in 1,000.
    pub(super) fn happens(&self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }
    /// `most`, or now and then less, but not 0.
    pub(super) fn cut(&self, most: usize) -> usize {
        if most > 1 && self.happens(self.faults.get().short) {
            1 + self.below(most as u64 - 1) as usize
        } else {
            most
        }
    }
    pub(super) fn now_ns(&self) -> u64 {
        self.monotonic_ns.get()
    }
    pub(super) fn advance_to(&self, ns: u64) {
        self.monotonic_ns.set(self.monotonic_ns.get().max(ns));
    }
    pub(super) fn opened(&self, what: &'static str) -> u64 {
        let serial = self.next_serial.get();
        self.next_serial.set(serial + 1);
        self.open.borrow_mut().insert(serial, what);
        serial
    }
    pub(super) fn closed(&self, serial: u64) {
        let what = self.open.borrow_mut().remove(&serial);
        assert!(what.is_some(), "descriptor {serial} was closed twice");
    }
    pub(super) fn adopted(&self, number: RawFd) -> Option<Fd> {
        self.adoptable.borrow().get(&number).cloned()
    }
}

/// The world outside the driver. Clones are the same world.
#[derive(Clone, Debug)]
pub struct World(pub(super) Rc<Shared>);

impl World {
    /// The world of a seed; how unkind it is comes from the seed too. Every fourth is kind.
    pub fn new(seed: u64) -> World {
        let world = World::kind(seed);
        if !seed.is_multiple_of(4) {
            let shared = &world.0;
            let chance = |most: u64| shared.below(most + 1);
            shared.faults.set(Faults {
                short: chance(400),
                spurious: chance(100),
                again: chance(100),
                delay: chance(500),
                delay_ns_max: 1 + chance(5_000_000),
                late_cancel: chance(500),
                buffers: 1 + chance(8) as u16,
            });
        }
        world
    }

    /// A world without faults. The seed still decides in which order things that are ready are told.
    pub fn kind(seed: u64) -> World {
        World(Rc::new(Shared {
            chance: Cell::new(seed),
            monotonic_ns: Cell::new(1_000_000_000),
            faults: Cell::new(Faults::NONE),
            open: RefCell::default(),
            next_serial: Cell::new(0),
            lent: Cell::new(0),
            inflight: Cell::new(0),
            submitted: Cell::new(0),
            answered: Cell::new(0),
            idle: Cell::new(false),
            adoptable: RefCell::default(),
        }))
    }

    /// Changes how unkind the world is from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.faults.set(faults);
    }

    /// How unkind it is.
    pub fn faults(&self) -> Faults {
        self.0.faults.get()
    }

    /// A number below `bound` (not 0) from the seed, for the test's own choices.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// Both clocks, as the driver tells them.
    pub fn now(&self) -> Moment {
        let monotonic_ns = self.0.now_ns();
        Moment { monotonic_ns, wall_ns: 1_700_000_000_000_000_000 + monotonic_ns }
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        self.0.advance_to(self.0.now_ns() + ns);
    }

    /// True exactly when the driver's last wait found that nothing can happen any more unless the test acts.
    pub fn is_idle(&self) -> bool {
        self.0.idle.get()
    }

    /// Operations submitted and not answered.
    pub fn inflight(&self) -> usize {
        self.0.inflight.get()
    }

    /// Descriptors that are open, by what they are.
    pub fn open(&self) -> Vec<&'static str> {
        self.0.open.borrow().values().copied().collect()
    }

    /// A listening socket for the driver, and where to connect to it.
    pub fn listener(&self) -> (Fd, Port) {
        let backlog = Rc::new(Backlog { waiting: RefCell::default(), listeners: Cell::new(1) });
        let fd = self.fd(Kind::Listener(Rc::clone(&backlog)));
        (fd, Port { world: self.clone(), backlog })
    }

    /// A connected socket for the driver, and the client at its other end.
    pub fn connect(&self, peer: Peer) -> (Fd, Remote) {
        let (theirs_in, ours_out) = flow(SOCKET_BYTES);
        let (ours_in, theirs_out) = flow(SOCKET_BYTES);
        let fd = self.fd(Kind::Socket { read: ours_in, write: ours_out, peer });
        (fd, Remote { read: Some(theirs_in), write: Some(theirs_out) })
    }

    /// A pipe of `capacity` bytes that a child writes: the read end for the driver, and the child.
    pub fn pipe_from_child(&self, capacity: usize) -> (Fd, Remote) {
        let (read, write) = flow(capacity);
        (self.fd(Kind::Reader { read, private: false }), Remote { read: None, write: Some(write) })
    }

    /// A pipe of `capacity` bytes that a child reads: the write end for the driver, and the child.
    pub fn pipe_to_child(&self, capacity: usize) -> (Fd, Remote) {
        let (read, write) = flow(capacity);
        (self.fd(Kind::Writer { write, private: false }), Remote { read: Some(read), write: None })
    }

    /// A file for the driver that takes `bytes_max` bytes, then no more; one that `appends` can't be spliced into. What is in
    /// it is in the cell.
    pub fn file(&self, bytes_max: usize, appends: bool) -> (Fd, Rc<RefCell<Vec<u8>>>) {
        let bytes = Rc::<RefCell<Vec<u8>>>::default();
        (self.fd(Kind::File { bytes: Rc::clone(&bytes), bytes_max, appends }), bytes)
    }

    /// A terminal: the master for the driver, and the child on the other side. It ends with `EIO`.
    pub fn terminal(&self) -> (Fd, Remote) {
        let (theirs_in, ours_out) = flow(4096);
        let (ours_in, theirs_out) = flow(4096);
        let kind = Kind::Terminal { read: ours_in, write: ours_out, size: Rc::new(Cell::new((0, 0))) };
        (self.fd(kind), Remote { read: Some(theirs_in), write: Some(theirs_out) })
    }

    /// A lane: the kernel's end for the driver, and the keeper.
    pub fn lane(&self) -> (Fd, KeeperEnd) {
        let (theirs_in, ours_out) = flow(LANE_PACKETS);
        let (ours_in, theirs_out) = flow(LANE_PACKETS);
        (
            self.fd(Kind::Lane { read: ours_in, write: ours_out }),
            KeeperEnd { read: theirs_in, write: theirs_out },
        )
    }

    /// Makes `fd` what `Driver::adopt(number)` finds.
    pub fn offer(&self, number: RawFd, fd: Fd) {
        self.0.adoptable.borrow_mut().insert(number, fd);
    }

    /// Takes back what was offered.
    pub fn withdraw(&self, number: RawFd) {
        let offered = self.0.adoptable.borrow_mut().remove(&number);
        drop(offered);
    }

    /// Panics unless everything was given back: call it when driver and test have let go of all they had.
    pub fn assert_clean(&self) {
        assert_eq!(self.0.inflight.get(), 0, "operations in flight");
        assert_eq!(self.0.submitted.get(), self.0.answered.get(), "operations without an answer");
        assert_eq!(self.0.lent.get(), 0, "buffers lent");
        assert_eq!(self.open(), Vec::<&str>::new(), "descriptors open");
    }

    pub(super) fn fd(&self, kind: Kind) -> Fd {
        Fd::new(Rc::clone(&self.0), kind)
    }
}

/// A peer of the owner's: uid 1000, no child of the keeper.
pub fn owner(pid: i32) -> Peer {
    Peer { pid, uid: 1000, gid: 1000, groups: Vec::new(), lineage: Lineage::Outside }
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub struct Port {
    world: World,
    backlog: Rc<Backlog>,
}

impl Port {
    /// Connects; the driver accepts when it likes. `None` if nobody listens.
    pub fn connect(&self, peer: Peer) -> Option<Remote> {
        if self.backlog.listeners.get() == 0 {
            return None;
        }
        let (fd, client) = self.world.connect(peer);
        self.backlog.waiting.borrow_mut().push_back(fd);
        Some(client)
    }
}

/// The test's end of a socket, a pipe or a terminal. Dropping it closes both directions.
#[derive(Debug)]
pub struct Remote {
    read: Option<ReadEnd<u8>>,
    write: Option<WriteEnd<u8>>,
}

impl Remote {
    /// Writes what there is room for; `None` if nobody reads (EPIPE).
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        let write = self.write.as_ref().filter(|write| !write.is_broken())?;
        let count = bytes.len().min(write.room());
        write.put(bytes[..count].iter().copied());
        Some(count)
    }

    /// Reads at most `max`; empty if there is nothing yet, `None` at the end.
    pub fn read(&self, max: usize) -> Option<Vec<u8>> {
        let read = self.read.as_ref()?;
        if read.len() == 0 && read.is_ending() {
            return None;
        }
        Some(read.take(max.min(read.len())))
    }

    /// Bytes that can be read now.
    pub fn readable(&self) -> usize {
        self.read.as_ref().map_or(0, ReadEnd::len)
    }

    /// Closes the sending half.
    pub fn close_write(&mut self) {
        self.write = None;
    }

    /// Closes the receiving half.
    pub fn close_read(&mut self) {
        self.read = None;
    }

    /// Another holder of the same ends: a grandchild that inherited them.
    pub fn inherit(&self) -> Remote {
        Remote { read: self.read.clone(), write: self.write.clone() }
    }
}

/// The keeper's end of a lane.
#[derive(Debug)]
pub struct KeeperEnd {
    read: ReadEnd<Packet>,
    write: WriteEnd<Packet>,
}

impl KeeperEnd {
    /// The next packet and its descriptors, if there is one.
    pub fn receive(&self) -> Option<(Vec<u8>, Vec<Fd>)> {
        let packet = self.read.take(self.read.len().min(1)).pop()?;
        Some((packet.bytes, packet.fds))
    }

    /// Sends a packet with duplicates of `fds`. False if the lane is full or closed.
    pub fn send(&self, bytes: &[u8], fds: &[Fd]) -> bool {
        assert!(!bytes.is_empty(), "an empty packet reads as the end");
        if self.write.is_broken() || self.write.room() == 0 {
            return false;
        }
        let fds = fds.iter().map(Fd::duplicate).collect();
        self.write.put([Packet { bytes: bytes.to_vec(), fds }]);
        true
    }

    /// True exactly when the kernel's end is closed.
    pub fn is_closed(&self) -> bool {
        self.read.is_ending()
    }
}
