//! Streams that a client writes: processes without a child, whose output comes from whoever was given its writing end.
//!
//! To readers, histories, spools and rates it is a process like any other. The keeper knows nothing of it: it ends with its
//! kernel. Invariant: it exits, and its tree ends, with its output, whoever ended that; so it has exactly one of each end.

use super::Reactor;
use super::table::Place;
use crate::command::{OutletKind, Spawn};
use crate::control::{Descriptors, ExitStatus, Notice, Outcome, SpawnFailure, SpawnStage, Usage};
use crate::driver::Driver;
use crate::key::{Channel, ProcessKey, Ticket};
use crate::stream::source::Source;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<D: Driver> Reactor<D> {
    /// Gives a process that is in the tables its writing end, for whoever asked.
    pub(super) fn publish(&mut self, place: Place, spawn: &Spawn, kind: OutletKind) {
        let key = spawn.process;
        match self.writing_end(place, kind) {
            Ok((descriptors, bytes)) => {
                for channel in Channel::ALL {
                    self.begin_spool(place, channel, false);
                }
                self.arm_source(place, Channel::Stdout);
                self.notices.push_back(Notice::Published { process: key, descriptors, bytes });
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::ENOSYS);
                self.spawn_failed(key, SpawnFailure { stage: SpawnStage::Resources, errno });
            }
        }
    }

    fn writing_end(&mut self, place: Place, kind: OutletKind) -> io::Result<(Descriptors, usize)> {
        let OutletKind::Pipe { bytes } = kind else { return Err(io::ErrorKind::Unsupported.into()) };
        let (fd, theirs, bytes) = self.driver.inlet(bytes as usize)?;
        let Some(process) = self.processes.get_mut(place) else { return Err(io::ErrorKind::NotFound.into()) };
        process.begin_without_a_child();
        process.meter.streams[0]
            .pipe_bytes
            .store(u32::try_from(bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
        process.streams[0].source = Some(Source { fd, terminal: false, armed: false });
        Ok((Descriptors(Arc::new(vec![theirs])), bytes))
    }

    /// The output of a process has ended. If a client wrote it, so has the process.
    pub(super) fn producer_over(&mut self, place: Place) {
        let at_ns = self.at.monotonic_ns;
        let Some(process) = self.processes.get_mut(place) else { return };
        let Some(status) = process.produced.as_mut().and_then(Option::take) else { return };
        let (key, usage) = (process.key, Usage::default());
        process.exit_without_a_child();
        self.notices.push_back(Notice::Exited { process: key, status, usage, at_ns });
        self.notices.push_back(Notice::Ended { process: key });
    }

    /// A signal for a process that has no child: one that ends others ends its output. False if there is a child.
    pub(super) fn signal_producer(&mut self, key: ProcessKey, signal: i32, ticket: Option<Ticket>) -> bool {
        let Some(place) = self.place_of_process(key) else { return false };
        let Some(process) = self.processes.get_mut(place) else { return false };
        let Some(produced) = &mut process.produced else { return false };
        let ends =
            [libc::SIGTERM, libc::SIGKILL, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT].contains(&signal);
        let mut processes = 0;
        if let Some(status) = produced.as_mut().filter(|_| ends) {
            *status = ExitStatus::Signal { signal, core: false };
            processes = 1;
            self.close_stream(place, Channel::Stdout);
        }
        if let Some(ticket) = ticket {
            self.done(ticket, Ok(Outcome::Signalled { processes }));
        }
        true
    }

    /// True if a client writes this process's output: then the keeper has never heard of it.
    pub(super) fn is_produced(&self, key: ProcessKey) -> bool {
        let process = self.place_of_process(key).and_then(|place| self.processes.get(place));
        process.is_some_and(|process| process.produced.is_some())
    }
}
