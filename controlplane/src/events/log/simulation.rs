//! A disk that fails: memory with a seed, for simulations.
//!
//! What is written and not synced may be gone after a crash, from some batch on, as the journal of a real database is cut
//! where it was torn; a batch is never there by half. Writes and syncs fail when they are told to, until the disk is mounted
//! again; only who mounted it last writes to it, as a killed process writes no more. Nothing of a kernel that serves anybody
//! is here.

use super::backend::memory::Memory;
use super::backend::{Backend, Fault, Op, Source};
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The disk, as whoever plays the world holds it.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Every batch that a power failure leaves.
    synced: Vec<Vec<Op>>,
    /// Those behind them.
    unsynced: Vec<Vec<Op>>,
    /// How many more writes succeed, and how the next one fails.
    write_fault: Option<(u64, ErrorKind)>,
    sync_fault: Option<ErrorKind>,
    mounts: u64,
}

/// The end of it that a log writes to.
pub struct Mounted {
    disk: Disk,
    mount: u64,
    memory: Memory,
}

impl Disk {
    /// What is there now, to be opened.
    pub fn mount(&self) -> Result<Mounted, Fault> {
        let mut memory = Memory::default();
        let mut state = self.lock();
        (state.write_fault, state.sync_fault) = (None, None);
        state.mounts += 1;
        let mount = state.mounts;
        for batch in state.synced.iter().chain(&state.unsynced) {
            memory.write(&mut batch.clone())?;
        }
        drop(state);
        Ok(Mounted { disk: self.clone(), mount, memory })
    }

    /// The power fails: of what was not synced only the beginning stays, as `chance` has it. Returns how many batches went.
    pub fn crash(&self, chance: u64) -> usize {
        let mut state = self.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        let stays = (chance % (unsynced.len() as u64 + 1)) as usize;
        let gone = unsynced.len() - stays;
        state.synced.extend(unsynced.into_iter().take(stays));
        state.mounts += 1;
        gone
    }

    /// Whoever has mounted it is killed, and nothing that was written is lost.
    pub fn kill(&self) {
        self.lock().mounts += 1;
    }

    /// After `writes` more of them, writes fail.
    pub fn fail_writes(&self, writes: u64, kind: ErrorKind) {
        self.lock().write_fault = Some((writes, kind));
    }

    /// The next sync fails.
    pub fn fail_sync(&self, kind: ErrorKind) {
        self.lock().sync_fault = Some(kind);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self, mount: u64) -> Result<(), Fault> {
        if self.mounts == mount { Ok(()) } else { Err(Error::from(ErrorKind::NotConnected).into()) }
    }
}

impl Backend for Mounted {
    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault> {
        let mut state = self.disk.lock();
        state.check(self.mount)?;
        match &mut state.write_fault {
            Some((0, kind)) => return Err(Error::from(*kind).into()),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        state.unsynced.push(batch.clone());
        drop(state);
        self.memory.write(batch)
    }

    fn sync(&mut self) -> Result<(), Fault> {
        let mut state = self.disk.lock();
        state.check(self.mount)?;
        if let Some(kind) = state.sync_fault {
            return Err(Error::from(kind).into());
        }
        let unsynced = std::mem::take(&mut state.unsynced);
        state.synced.extend(unsynced);
        Ok(())
    }

    fn source(&self) -> Arc<dyn Source> {
        self.memory.source()
    }
}
