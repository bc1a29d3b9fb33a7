//! What programs write by a path, from the pipe it leads into to the inbox of the child it is for.
//!
//! ```text
//!  0  page.name(inlet)           whose bytes the output staging pipe holds
//!  1  m = splice(pipe → staging)
//!  2  inbox.await_bytes(m)       C = A + m
//!  3  read(staging → inbox)      until the staging pipe is empty
//!  4  inbox.admit()              A = C
//! ```
//!
//! The steps of a [take](super::source::take), with C for E and A for T, and accounted for as that is: killed anywhere, each byte
//! is in the pipe, in the staging pipe or in the inbox, and in one of them. Here the inbox is the keeper's before step 1, for
//! nobody would look for it afterwards. Invariant: the staging pipe is empty whenever nobody is inside [`take_in`].

use crate::driver::Driver;
use crate::points::{Point, reach};
use crate::stream::source::{Staging, Taken};
use kairo_shm::inbox::Inbox;
use kairo_shm::page::Side;
use std::io;

/// Takes at most `max` bytes from `pipe` into `inbox`, as far as that has room. `name` is the inlet's for the page; never 0.
pub fn take_in<D: Driver>(
    driver: &mut D,
    pipe: &D::Fd,
    staging: &Staging<D::Fd>,
    name: u64,
    inbox: &mut Inbox,
    max: usize,
) -> io::Result<Taken> {
    let (page, staging) = (&staging.page, &staging.output);
    let max = max.min(staging.bytes_max).min(inbox.room_bytes());
    page.name(Side::Output, name);
    let bytes = loop {
        match driver.splice(pipe, &staging.write_end, max) {
            Ok(0) => return Ok(Taken::End),
            Ok(bytes) => break bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    reach(Point::InletSpliced);
    inbox.await_bytes(bytes);
    reach(Point::InletExpected);
    let (room, mut at) = (inbox.awaited(), 0);
    while at < bytes {
        match driver.read(&staging.read_end, &mut room[at..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    reach(Point::InletRead);
    inbox.admit();
    reach(Point::InletAdmitted);
    Ok(Taken::Bytes(bytes))
}
