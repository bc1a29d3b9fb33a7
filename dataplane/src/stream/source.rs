//! Where a stream's bytes come from, and how they are taken so that a killed kernel can be accounted for.
//!
//! ```text
//!  0  page.name(stream)          whose bytes the staging pipe holds
//!  1  m = splice(source → staging)
//!     a new ring goes to the keeper now, before any byte is in it alone
//!  2  ring.expect(m)             E = T + m
//!  3  read(staging → ring)       until the staging pipe is empty
//!  4  ring.commit(m)             T = E
//! ```
//!
//! Killed anywhere in between: E > T means that E − FIONREAD(staging) bytes had come; E = T means that whatever the
//! staging pipe holds is new. Invariant: the staging pipe is empty whenever nobody is inside [`take`].

use crate::driver::Driver;
use crate::key::{Channel, ProcessKey};
use crate::points::{Point, reach};
use crate::stream::history::History;
use kairo_shm::layout::RingError;
use kairo_shm::page::{Page, Side};
use kairo_shm::writer::Writer;
use std::io;

/// The readable end of a child's output.
#[derive(Debug)]
pub struct Source<F> {
    /// A pipe's read end or a PTY master.
    pub fd: F,
    /// A PTY ends with EIO where a pipe ends with 0 bytes.
    pub terminal: bool,
    /// True exactly while a readiness poll is in flight.
    pub armed: bool,
}

/// The pipes all streams of a reactor share, one a side, and the page that says whose bytes are in them.
#[derive(Debug)]
pub struct Staging<F> {
    /// From sources to rings, and from inlets to inboxes.
    pub output: StagingPipe<F>,
    /// From inboxes to children.
    pub input: StagingPipe<F>,
    /// Step 0.
    pub page: Page,
}

/// A pipe that bytes stop in on their way, and that is empty between two ways.
#[derive(Clone, Debug)]
pub struct StagingPipe<F> {
    /// Where bytes leave.
    pub read_end: F,
    /// Where they come in.
    pub write_end: F,
    /// Its capacity, bytes.
    pub bytes_max: usize,
}

/// What a dead kernel had taken of one stream, in the keeper's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Bytes `[.., in_ring_to)` are in the ring, as far as it reaches back.
    pub in_ring_to: u64,
    /// So many more are in the staging pipe, to be read before the source.
    pub staged_bytes: u64,
}

/// An output's name in its reactor's page; never 0.
pub fn output_name(process: ProcessKey, channel: Channel) -> u64 {
    process.serial << 1 | channel as u64
}

/// An input's name in its reactor's page; never 0, and on a side of its own.
pub fn input_name(process: ProcessKey) -> u64 {
    process.serial << 1
}

/// An outlet's name in its reactor's page, on the side of inputs; none of them has it.
pub fn outlet_name(serial: u64) -> u64 {
    serial << 1 | 1
}

/// The name in its reactor's page of what others write for a process, on the side of outputs; none of them has it.
pub fn inlet_name(process: ProcessKey) -> u64 {
    1 << 63 | process.serial << 1
}

impl Account {
    /// From T and E of the stream's ring (0 and 0 if it had none yet), what FIONREAD says of the staging pipe, and
    /// whether the page names this stream. The kernel must be dead. None: these numbers can't be.
    pub fn of(taken: u64, expected: u64, staged_bytes: u64, named: bool) -> Option<Account> {
        let in_ring_to = match (named, expected > taken) {
            // Killed before step 2: whatever is staged came after T. After step 4 nothing is staged.
            (true, false) => taken,
            // Killed in step 3: what is not in the staging pipe any more is in the ring.
            (true, true) => expected.checked_sub(staged_bytes).filter(|end| *end >= taken)?,
            // The staging pipe is somebody else's, so this stream was left complete.
            (false, _) => return Some(Account { in_ring_to: taken, staged_bytes: 0 }),
        };
        Some(Account { in_ring_to, staged_bytes })
    }
}

/// What a [`take`] brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes more.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Every holder of the other end is gone and everything was taken.
    End,
}

/// Bytes could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// No memory for the ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The system's refusal.
    #[error(transparent)]
    Os(#[from] io::Error),
}

/// Takes at most `max` bytes from `source` into `history`. `name` is the stream's for the page; never 0. `hold` hands
/// a new ring to the keeper.
pub fn take<D: Driver>(
    driver: &mut D,
    source: &Source<D::Fd>,
    staging: &Staging<D::Fd>,
    name: u64,
    history: &mut History,
    max: usize,
    hold: impl FnOnce(&mut D, &Writer),
) -> Result<Taken, TakeError> {
    let (page, staging) = (&staging.page, &staging.output);
    let max = max.min(staging.bytes_max);
    page.name(Side::Output, name);
    reach(Point::TakeNamed);
    let bytes = match fill(driver, source, staging, max) {
        Ok(Taken::Bytes(bytes)) => bytes,
        Ok(other) => return Ok(other),
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
            return take_by_copy(driver, source, history, max, hold);
        }
        Err(error) => return Err(error.into()),
    };
    reach(Point::TakeSpliced);
    let (ring, new) = history.ring()?;
    if new {
        hold(driver, ring);
    }
    ring.expect(bytes);
    reach(Point::TakeExpected);
    let mut at = 0;
    while at < bytes {
        let room = ring.room(bytes);
        match driver.read(&staging.read_end, &mut room[at..bytes])? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => at += n,
        }
    }
    reach(Point::TakeRead);
    ring.commit(bytes);
    reach(Point::TakeCommitted);
    Ok(Taken::Bytes(bytes))
}

/// Step 1. A terminal gives no more than its buffer at once, and a splice from it sets aside pages for all it is asked for:
/// so it is asked for little, several times.
fn fill<D: Driver>(
    driver: &mut D,
    source: &Source<D::Fd>,
    staging: &StagingPipe<D::Fd>,
    max: usize,
) -> io::Result<Taken> {
    let (piece, pieces) = if source.terminal { (TERMINAL_BYTES, TERMINAL_PIECES) } else { (max, 1) };
    let mut bytes = 0;
    for _ in 0..pieces {
        let room = (max - bytes).min(piece);
        if room == 0 {
            break;
        }
        match driver.splice(&source.fd, &staging.write_end, room) {
            Ok(0) if bytes == 0 => return Ok(Taken::End),
            Ok(0) => break,
            Ok(more) => bytes += more,
            Err(_) if bytes > 0 => break,
            Err(error) => return source.refusal(error),
        }
    }
    Ok(Taken::Bytes(bytes))
}

/// What a terminal gives at most at once, bytes.
const TERMINAL_BYTES: usize = 4096;
/// How often it is asked in a row; each answer takes a slot of the staging pipe.
const TERMINAL_PIECES: usize = 16;

impl<F> Source<F> {
    /// What an error of reading it means.
    fn refusal(&self, error: io::Error) -> io::Result<Taken> {
        let end = self.terminal && error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        match error.kind() {
            io::ErrorKind::WouldBlock => Ok(Taken::Nothing),
            _ if end => Ok(Taken::End),
            _ => Err(error),
        }
    }
}

/// The same with one read, where there is no splice. What a kernel killed between the read and the commit had taken can't
/// be told afterwards, but that it may have taken something can: E > T, and at most one read is missing behind T.
fn take_by_copy<D: Driver>(
    driver: &mut D,
    source: &Source<D::Fd>,
    history: &mut History,
    max: usize,
    hold: impl FnOnce(&mut D, &Writer),
) -> Result<Taken, TakeError> {
    let (ring, new) = history.ring()?;
    if new {
        hold(driver, ring);
    }
    let max = ring.room_bytes(max);
    ring.expect(max);
    let read = driver.read(&source.fd, ring.room(max));
    if let Ok(bytes) = read {
        ring.commit(bytes);
    }
    ring.expect(0);
    Ok(match read {
        Ok(0) => Taken::End,
        Ok(bytes) => Taken::Bytes(bytes),
        Err(error) => source.refusal(error)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A take of 10 bytes at offset 100, cut off after each step.
    #[test]
    fn a_take_that_was_cut_off_anywhere_is_accounted_for_to_the_byte() {
        let total = |account: Option<Account>| account.map(|it| it.in_ring_to + it.staged_bytes).unwrap();
        let before_splice = Account::of(100, 100, 0, true);
        let spliced = Account::of(100, 100, 10, true);
        let expected = Account::of(100, 110, 10, true);
        let half_read = Account::of(100, 110, 4, true);
        let all_read = Account::of(100, 110, 0, true);
        let committed = Account::of(110, 110, 0, true);
        assert_eq!(total(before_splice), 100);
        for account in [spliced, expected, half_read, all_read, committed] {
            assert_eq!(total(account), 110);
        }
        assert_eq!(half_read, Some(Account { in_ring_to: 106, staged_bytes: 4 }));
        let bystander = Account::of(55, 55, 4, false);
        assert_eq!(bystander, Some(Account { in_ring_to: 55, staged_bytes: 0 }));
        assert_eq!(Account::of(100, 110, 11, true), None, "more is staged than was expected");
    }
}
