//! The steps by which bytes leave, into children and outlets, so that whoever comes after a kill knows how many did.
//!
//! ```text
//!  0  page.name(stream)          whose bytes the input staging pipe holds
//!  1  write, tee or splice       m bytes from T on, into that pipe
//!  2  inbox.expect(m)            E = T + m
//!  3  splice(staging → there)    as far as there is room
//!  4  inbox.settle(T + moved)    T = E; what is left in the staging pipe is thrown away, for it is where it came from
//! ```
//!
//! Killed anywhere in between: E > T means that all below E less FIONREAD(staging) went, E = T that all below T did. What is spliced
//! is nowhere else, so the inbox says that it may be, and what is left of it is kept there ([`transfer`]). Invariant: the staging
//! pipe is empty whenever nobody is inside one of these.

use crate::driver::Driver;
use crate::points::{Point, reach};
use crate::stream::relay::{self, splice, tee};
use crate::stream::source::{Staging, StagingPipe};
use kairo_shm::inbox::Inbox;
use kairo_shm::page::Side;
use std::io::{self, IoSlice};

/// What came of feeding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Something went in.
    Some,
    /// The child takes nothing now.
    Full,
    /// Nobody will ever read it.
    Broken,
}

/// Where an attempt to move bytes has ended.
pub(super) enum Moved {
    /// All that was tried.
    All,
    /// The child takes no more now.
    Full,
    /// Nobody will ever read it.
    Broken,
}

/// Moves `pieces`, which stay where they are until they are through, into `fd` as far as it has `room`. The inbox says how far
/// they have come.
pub fn carry<D: Driver>(
    driver: &mut D,
    (fd, room): (&D::Fd, usize),
    inbox: &Inbox,
    staging: &Staging<D::Fd>,
    name: u64,
    pieces: [&[u8]; 2],
) -> io::Result<Fed> {
    let max = room.min(staging.input.bytes_max).min(inbox.capacity_bytes());
    if max == 0 {
        return Ok(Fed::Full);
    }
    let [first, second] = pieces;
    let first = &first[..first.len().min(max)];
    let second = &second[..second.len().min(max - first.len())];
    let before = inbox.written();
    inbox.lend(first.len() + second.len());
    reach(Point::InputAppended);
    let moved = advance(driver, fd, inbox, staging, name, [first, second])?;
    Ok(fed(moved, inbox.written() - before))
}

/// Duplicates what is at the front of the pipe `from` into `fd`, behind `head`, by the same steps: it stays there. What came of it,
/// unless there is nothing to be had.
pub fn duplicate<D: Driver>(
    driver: &mut D,
    (head, from): (&[u8], &D::Fd),
    (fd, room): (&D::Fd, usize),
    inbox: &Inbox,
    staging: &Staging<D::Fd>,
    name: u64,
) -> io::Result<Fed> {
    let max = room.min(staging.input.bytes_max).min(inbox.capacity_bytes() - head.len());
    if max == 0 {
        return Ok(Fed::Full);
    }
    staging.page.name(Side::Input, name);
    let staged = stage(driver, head, &staging.input, |driver, pipe| tee(driver, from, pipe, max))?;
    if staged == 0 {
        return Ok(Fed::Full);
    }
    let before = inbox.written();
    inbox.lend(staged);
    let moved = onward(driver, fd, inbox, &staging.input.read_end, staged, [&[], &[]])?;
    Ok(fed(moved, inbox.written() - before))
}

/// Moves what is at the front of the pipe `from` into `fd` by the same steps, behind what is here of the last parcel: no copy of it
/// is left there, so what `fd` has no room for is kept here, too. What came of it, and how much has left `from`.
pub fn transfer<D: Driver>(
    driver: &mut D,
    from: &D::Fd,
    (fd, max): (&D::Fd, usize),
    inbox: &mut Inbox,
    staging: &Staging<D::Fd>,
    name: u64,
) -> io::Result<(Fed, usize)> {
    let pipe = &staging.input;
    let parcel = inbox.parcel().ok_or(io::ErrorKind::InvalidData)?;
    debug_assert!(inbox.is_moving(), "nobody would know where it is");
    staging.page.name(Side::Input, name);
    let (head, max) = (inbox.parcel_bytes(&parcel), max.min(pipe.bytes_max));
    let here_bytes = head.len();
    let staged = stage(driver, head, pipe, |driver, pipe| splice(driver, from, pipe, max))?;
    if staged == 0 {
        return Ok((Fed::Full, 0));
    }
    inbox.lend(staged);
    let (moved, end) = send_staged(driver, fd, inbox, &pipe.read_end, staged, [&[], &[]])?;
    let (left, here_left) = (staged - moved, here_bytes.saturating_sub(moved));
    let fed = match end {
        Moved::All => Fed::Some,
        Moved::Full => Fed::Full,
        Moved::Broken => Fed::Broken,
    };
    if fed == Fed::Full && left > here_left {
        inbox.keep_staged(left, |into| read_whole(driver, &pipe.read_end, into))?;
        reach(Point::FrameKept);
    } else if left > 0 {
        drain(driver, &pipe.read_end)?;
    }
    Ok((fed, staged.saturating_sub(here_bytes)))
}

/// `head`, and behind it what `more` brings, into the staging pipe: how much is there now.
fn stage<D: Driver>(
    driver: &mut D,
    head: &[u8],
    pipe: &StagingPipe<D::Fd>,
    more: impl FnOnce(&mut D, &D::Fd) -> relay::Moved,
) -> io::Result<usize> {
    let staged = if head.is_empty() { 0 } else { driver.write(&pipe.write_end, head)? };
    let staged = match more(driver, &pipe.write_end) {
        relay::Moved::Bytes(more) => staged + more,
        relay::Moved::Nothing | relay::Moved::End | relay::Moved::Full => staged,
        refused => {
            drain(driver, &pipe.read_end)?;
            return Err(match refused {
                relay::Moved::Broken(error) => error,
                _ => io::ErrorKind::Unsupported.into(),
            });
        }
    };
    reach(Point::InputStaged);
    Ok(staged)
}

fn fed(moved: Moved, bytes: u64) -> Fed {
    match moved {
        Moved::Broken => Fed::Broken,
        Moved::Full if bytes == 0 => Fed::Full,
        Moved::All | Moved::Full => Fed::Some,
    }
}

/// One way through the staging pipe.
pub(super) fn advance<D: Driver>(
    driver: &mut D,
    fd: &D::Fd,
    inbox: &Inbox,
    staging: &Staging<D::Fd>,
    name: u64,
    pieces: [&[u8]; 2],
) -> io::Result<Moved> {
    let pipe = &staging.input;
    staging.page.name(Side::Input, name);
    let staged = match pieces {
        [one, []] | [[], one] => driver.write(&pipe.write_end, one)?,
        both => driver.gather(&pipe.write_end, &both.map(IoSlice::new))?,
    };
    reach(Point::InputStaged);
    onward(driver, fd, inbox, &pipe.read_end, staged, pieces)
}

/// From the staging pipe on. Where nothing can be spliced `pieces` are written, which are the staged ones.
fn onward<D: Driver>(
    driver: &mut D,
    fd: &D::Fd,
    inbox: &Inbox,
    pipe: &D::Fd,
    staged: usize,
    pieces: [&[u8]; 2],
) -> io::Result<Moved> {
    let (moved, end) = send_staged(driver, fd, inbox, pipe, staged, pieces)?;
    if moved < staged {
        drain(driver, pipe)?;
    }
    Ok(end)
}

/// Steps 2 to 4, but for what is left then: how much has gone, and why no more.
fn send_staged<D: Driver>(
    driver: &mut D,
    fd: &D::Fd,
    inbox: &Inbox,
    pipe: &D::Fd,
    staged: usize,
    pieces: [&[u8]; 2],
) -> io::Result<(usize, Moved)> {
    inbox.expect(staged);
    reach(Point::InputExpected);
    let (mut moved, mut end) = (0, Moved::All);
    let is_there = pieces[0].len() + pieces[1].len() >= staged;
    while moved < staged {
        match driver.splice(pipe, fd, staged - moved) {
            Ok(0) => end = Moved::Broken,
            Ok(bytes) => moved += bytes,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => end = Moved::Full,
                io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput if is_there => {
                    let [first, second] = pieces;
                    let rest = first.get(moved..).filter(|rest| !rest.is_empty());
                    let rest = rest.unwrap_or_else(|| &second[moved - first.len()..]);
                    moved += by_copy(driver, fd, &rest[..rest.len().min(staged - moved)], &mut end)?;
                }
                _ => end = Moved::Broken,
            },
        }
        reach(Point::InputSpliced);
        if !matches!(end, Moved::All) {
            break;
        }
    }
    inbox.settle(inbox.written() + moved as u64);
    reach(Point::InputSettled);
    Ok((moved, end))
}

/// Where nothing can be spliced into the child, a plain write. A kernel killed inside it leaves E > T, and how much went
/// in can't be told.
fn by_copy<D: Driver>(driver: &mut D, fd: &D::Fd, bytes: &[u8], end: &mut Moved) -> io::Result<usize> {
    match driver.write(fd, bytes) {
        Ok(0) => *end = Moved::Broken,
        Ok(written) => {
            if written < bytes.len() {
                *end = Moved::Full;
            }
            return Ok(written);
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => *end = Moved::Full,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(_) => *end = Moved::Broken,
    }
    Ok(0)
}

/// Takes bytes out of a pipe that are in it for certain.
fn read_whole<D: Driver>(driver: &mut D, pipe: &D::Fd, into: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while at < into.len() {
        match driver.read(pipe, &mut into[at..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => at += bytes,
        }
    }
    Ok(())
}

/// Throws away what the child had no room for.
fn drain<D: Driver>(driver: &mut D, pipe: &D::Fd) -> io::Result<()> {
    let mut scratch = [0; 16 << 10];
    while driver.queued(pipe)? > 0 {
        driver.read(pipe, &mut scratch)?;
    }
    Ok(())
}
