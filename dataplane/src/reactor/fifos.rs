//! Pipes with a name in the file system, from their making to the moment somebody opens them.
//!
//! ```text
//!  made ─▶ unopened ──opened──▶ a pipe like any other
//!             └──nobody came──▶ over
//! ```
//!
//! What goes into one meanwhile waits in it. Making, giving away and removing are calls to a file system in memory, as runtime
//! folders are. Invariant: whoever
//! has one holds its plug exactly while nobody has opened it; a reader isn't done before.

use super::readers::refusal;
use super::table::Place;
use super::timers::Alarm;
use super::{Kind, Reactor};
use crate::control::{Failure, Notice};
use crate::driver::Driver;
use crate::driver::op::{Interest, Op};
use crate::sys::fifo::{Fifo, Folder, Plug, Side, User, was_opened};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Where a reactor makes fifos, and those nobody has opened yet.
#[derive(Debug)]
pub(super) struct Fifos<F> {
    folder: Folder,
    /// Readable when one was opened; a poll of it is always in flight.
    ear: F,
    /// Whose, by what it is watched by.
    unopened: HashMap<i32, Whose>,
}

/// Who waits for a fifo to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    /// A reader, for whoever reads.
    Reader(Place),
    /// A process, for whoever writes its stdin.
    Input(Place),
}

impl Whose {
    fn alarm(self) -> Alarm {
        match self {
            Whose::Reader(Place { slot, generation }) => Alarm::Fifo(slot, generation),
            Whose::Input(Place { slot, generation }) => Alarm::Inlet(slot, generation),
        }
    }
}

impl<D: Driver> Reactor<D> {
    /// Makes a fifo of this name for a user: our end, what keeps it until it is opened, and its capacity.
    pub(super) fn make_fifo(
        &mut self,
        name: &str,
        user: User,
        side: Side,
        bytes: u32,
    ) -> Result<(D::Fd, Plug, usize), Failure> {
        let made = self.fifos().and_then(|fifos| fifos.folder.make(name, user, side, bytes as usize));
        let Fifo { ours, plug, capacity_bytes } = made.map_err(|error| refusal(&error))?;
        Ok((self.driver.import(ours), plug, capacity_bytes))
    }

    /// Goes on waiting for somebody to write to a fifo of a former kernel. None if somebody has opened it.
    pub(super) fn resume_fifo(&mut self, ours: &OwnedFd, path: PathBuf) -> io::Result<Option<Plug>> {
        match self.fifos() {
            Ok(fifos) => fifos.folder.resume(ours, path),
            // Without a folder of our own nobody can be waited for; who is there is served.
            Err(error) => {
                if was_opened(ours)? {
                    Ok(None)
                } else {
                    Err(error)
                }
            }
        }
    }

    fn fifos(&mut self) -> io::Result<&mut Fifos<D::Fd>> {
        if self.fifos.is_none() {
            let base = self.fifo_base.as_deref().ok_or(io::ErrorKind::Unsupported)?;
            let folder = Folder::open(base)?;
            let ear = self.driver.import(folder.ear()?);
            self.driver.submit(Kind::Fifo.only(), Op::Poll(ear.clone(), Interest::Read));
            self.fifos = Some(Fifos { folder, ear, unopened: HashMap::new() });
        }
        self.fifos.as_mut().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// It waits so long for somebody to open it.
    pub(super) fn await_opening(&mut self, whose: Whose, watch: i32, wait_ns: u64) {
        if let Some(fifos) = &mut self.fifos {
            fifos.unopened.insert(watch, whose);
        }
        self.timers.arm(whose.alarm(), self.at.monotonic_ns.saturating_add(wait_ns));
    }

    /// Some fifos were opened: each is a pipe between us and whoever did, and nobody else finds it.
    pub(super) fn fifos_opened(&mut self) {
        let Some(fifos) = &mut self.fifos else { return };
        let mut opened = Vec::new();
        if let Err(error) = fifos.folder.opened(&mut opened) {
            return tracing::error!(%error, "nobody tells any more which fifos are opened");
        }
        self.driver.submit(Kind::Fifo.only(), Op::Poll(fifos.ear.clone(), Interest::Read));
        for watch in opened {
            let Some(whose) = self.fifos.as_mut().and_then(|fifos| fifos.unopened.remove(&watch)) else {
                continue;
            };
            self.timers.disarm(whose.alarm());
            match whose {
                Whose::Reader(place) => {
                    if let Some(reader) = self.readers.get_mut(place) {
                        reader.plug = None;
                    }
                    self.deliver(place);
                }
                Whose::Input(place) => self.inlet_opened(place),
            }
        }
    }

    /// Nobody has come in time.
    pub(super) fn never_opened(&mut self, place: Place) {
        let Some(reader) = self.readers.get(place) else { return };
        let subscription = reader.subscriber.key;
        reader.subscriber.meter.errno.store(libc::ETIMEDOUT, Ordering::Relaxed);
        self.drop_reader(place);
        self.notices.push_back(Notice::Drained { subscription });
    }

    /// Nobody is to open it any more.
    pub(super) fn part_from_fifo(&mut self, whose: Whose, plug: &Plug) {
        if let Some(fifos) = &mut self.fifos {
            fifos.unopened.remove(&plug.watch);
        }
        self.timers.disarm(whose.alarm());
    }
}
