//! A stream of which nothing is kept: its bytes go from the child's pipe to readers' descriptors and never come here.
//!
//! ```text
//!  alone:    source ─splice─▶ descriptor, or the connection's socket behind a frame's prelude
//!  several:  source ─tee─▶ a pipe that takes them, or a pipe of the reader's own ─splice─▶ descriptor, socket
//!                   └─ what all have is let go, last: splice ─▶ /dev/null
//! ```
//!
//! tee(2) always begins at the front of a pipe, so a reader that got fewer bytes than another waits at the front until the
//! others' lead is let go, and goes on there: [`Branch::taken`] says how far each is. Invariants: no byte is let go that a
//! waiting reader hasn't taken, and none is taken twice; what a reader has taken and was not given is in its pipe or its
//! carry, or `gap_from` says from where on it is lost. Who reads, and when, is the reactor's.

use crate::driver::Driver;
use crate::stream::source::StagingPipe;
use bytes::Bytes;
use std::io;

/// A frame of at least so many bytes is spliced behind its prelude; a smaller one is cheaper read and sent in one call.
pub const SPLICE_BYTES_MIN: usize = 32 << 10;
/// So much is read at once for a descriptor that can't be spliced into, bytes.
pub const COPY_BYTES: usize = 128 << 10;

/// What a reader has of a relayed stream, and was not given yet.
#[derive(Debug)]
pub struct Branch<F> {
    /// One past the last byte it has.
    pub taken: u64,
    /// It lost what comes from here on, up to where it takes on again.
    pub gap_from: Option<u64>,
    /// Its own pipe, while others read the same stream and it can't be given bytes at once.
    pub pipe: Option<StagingPipe<F>>,
    /// Bytes in memory, before those in the pipe.
    pub carry: Bytes,
}

impl<F> Branch<F> {
    /// Of a reader that wants bytes from `offset` on and comes when `passed` bytes have gone by.
    pub fn joining(passed: u64, offset: u64) -> Branch<F> {
        let gap_from = (offset < passed).then_some(offset);
        Branch { taken: passed, gap_from, pipe: None, carry: Bytes::new() }
    }

    /// Of a reader that stands at `offset`, which may be ahead of what has gone by.
    pub fn at(passed: u64, offset: u64) -> Branch<F> {
        Branch { taken: passed.max(offset), ..Branch::joining(passed, offset) }
    }

    /// Bytes it has and was not given; `offset` is what it gets next.
    pub fn staged(&self, offset: u64) -> usize {
        self.gap_from.unwrap_or(self.taken).saturating_sub(offset) as usize
    }

    /// It may be given bytes from the front of the source, which is at `passed`.
    pub fn is_at(&self, passed: u64) -> bool {
        self.taken == passed && self.gap_from.is_none()
    }

    /// Everything up to `passed` is gone. One that waits for nobody may have lost some of it.
    pub fn fell_behind(&mut self, passed: u64) {
        if self.taken < passed && self.gap_from.is_none() {
            self.gap_from = Some(self.taken);
        }
        self.taken = self.taken.max(passed);
    }
}

/// What an attempt to move bytes came to.
#[derive(Debug)]
pub enum Moved {
    /// So many went.
    Bytes(usize),
    /// The source has ended.
    End,
    /// There is nothing.
    Nothing,
    /// The other side takes no more now.
    Full,
    /// It can't be done to such a descriptor.
    Unsuited,
    /// The other side takes nothing any more.
    Broken(io::Error),
}

impl Moved {
    fn of<D: Driver>(driver: &mut D, from: &D::Fd, moved: io::Result<usize>) -> Option<Moved> {
        use io::ErrorKind::{Interrupted, InvalidInput, Unsupported, WouldBlock};
        Some(match moved {
            Ok(0) => Moved::End,
            Ok(bytes) => Moved::Bytes(bytes),
            Err(error) if error.kind() == Interrupted => return None,
            // It isn't said which side is in the way.
            Err(error) if error.kind() == WouldBlock => match driver.queued(from) {
                Ok(0) => Moved::Nothing,
                Ok(_) => Moved::Full,
                Err(error) => Moved::Broken(error),
            },
            Err(error) if matches!(error.kind(), Unsupported | InvalidInput) => Moved::Unsuited,
            Err(error) => Moved::Broken(error),
        })
    }
}

/// Moves at most `max` bytes, not 0, from the front of a pipe.
pub fn splice<D: Driver>(driver: &mut D, from: &D::Fd, into: &D::Fd, max: usize) -> Moved {
    loop {
        let moved = driver.splice(from, into, max);
        if let Some(moved) = Moved::of(driver, from, moved) {
            return moved;
        }
    }
}

/// Duplicates at most `max` bytes, not 0, from the front of a pipe into another.
pub fn tee<D: Driver>(driver: &mut D, from: &D::Fd, into: &D::Fd, max: usize) -> Moved {
    loop {
        let moved = driver.tee(from, into, max);
        if let Some(moved) = Moved::of(driver, from, moved) {
            return moved;
        }
    }
}

/// Reads what there is, at most as much as `into` holds.
pub fn read<D: Driver>(driver: &mut D, from: &D::Fd, into: &mut [u8]) -> Moved {
    loop {
        match driver.read(from, into) {
            Ok(0) => return Moved::End,
            Ok(bytes) => return Moved::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Moved::Broken(error),
        }
    }
}

/// Lets `bytes` go that are in a pipe for certain.
pub fn let_go<D: Driver>(driver: &mut D, from: &D::Fd, void: &D::Fd, mut bytes: usize) -> io::Result<()> {
    while bytes > 0 {
        match driver.splice(from, void, bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(gone) => bytes -= gone,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a pipe that seems empty has ended: by a pipe of ours that is empty before and after.
pub fn probe<D: Driver>(driver: &mut D, from: &D::Fd, trial: &StagingPipe<D::Fd>) -> Moved {
    let seen = tee(driver, from, &trial.write_end, 1);
    if let Moved::Bytes(_) = seen {
        // It came this moment, and is in the source still.
        read(driver, &trial.read_end, &mut [0; 1]);
    }
    seen
}
