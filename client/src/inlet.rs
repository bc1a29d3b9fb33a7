//! Bytes in: one socket, one buffer, whole frames out.
//!
//! A read asks for the rest of the frame at hand and a little more, so that big frames arrive with one copy (the
//! kernel's) and what is left over for the next is small enough to move. Small frames come many to a read.
//! Nothing here understands a payload.
//!
//! ```text
//!   buffer  ┌─────────┬──────────┬─────────────┬───────────────┐
//!           │ handed  │ frame at │ lookahead   │ room          │
//!           │ out     │ hand     │ (≤ 32 KiB)  │               │
//!           └─────────┴──────────┴─────────────┴───────────────┘
//!                     ↑ start                  ↑ len           ↑ buffer.len()
//! ```
//!
//! Descriptors that come with bytes are kept in their order until they are asked for.
//!
//! Invariant: `start <= len <= buffer.len()`, and the bytes from `start` begin with a header. All of the buffer is
//! initialized, as a receive that takes descriptors wants it; it is so once, and not at each read.

use crate::error::Lost;
use bytes::Bytes;
use kairo_wire::frame::{FrameError, Header, Kind};
use kairo_wire::limits::HEADER_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, FdFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// What a read asks for past the frame at hand. Left-overs are moved, so it is small beside a chunk of 1 MiB and
/// large beside a reply.
const LOOKAHEAD_BYTES: usize = 32 << 10;

/// First and smallest size of the buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// Why no frame came.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The peer is gone, with `unread` bytes of an unfinished frame.
    Closed { unread: usize },
    /// The time is over; everything is as it was.
    Deadline,
    /// The bytes are no frames.
    Frame(FrameError),
    /// The system said no.
    Os(io::Error),
}

impl From<Stop> for Lost {
    fn from(stop: Stop) -> Lost {
        match stop {
            Stop::Closed { unread } => Lost::Closed { unread },
            Stop::Frame(error) => Lost::Frame(error),
            Stop::Os(error) => Lost::Os(Arc::new(error)),
            // Only this side sets deadlines.
            Stop::Deadline => Lost::ClosedHere,
        }
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Inlet {
    socket: Arc<UnixStream>,
    buffer: Vec<u8>,
    start: usize,
    len: usize,
    descriptors: VecDeque<OwnedFd>,
}

/// So many come with one answer at most; more are closed.
const DESCRIPTORS_MAX: usize = 8;

impl Inlet {
    pub(crate) fn new(socket: Arc<UnixStream>) -> Inlet {
        Inlet { socket, buffer: Vec::new(), start: 0, len: 0, descriptors: VecDeque::new() }
    }

    /// Reads until a whole frame is at hand, and returns what it is and where its payload is in [`Inlet::bytes`].
    /// The frame stays at hand until [`Inlet::consume`].
    pub(crate) fn fill(&mut self, deadline: Option<Instant>) -> Result<(Kind, Range<usize>), Stop> {
        self.tidy();
        loop {
            let wanted = match self.at_hand()? {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            self.make_room(wanted);
            if let Some(deadline) = deadline {
                self.wait(deadline)?;
            }
            match self.receive() {
                Ok(0) | Err(Errno::CONNRESET) => return Err(Stop::Closed { unread: self.len - self.start }),
                Ok(received) => self.len += received,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Stop::Os(errno.into())),
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut self.buffer[self.len..])];
        let received = rustix::net::recvmsg(&self.socket, &mut room, &mut control, RecvFlags::empty())?;
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else { continue };
            for descriptor in descriptors {
                // The flag that does it with the receive is not there on every system.
                rustix::io::fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
                self.descriptors.push_back(descriptor);
            }
        }
        Ok(received.bytes)
    }

    /// Descriptors that have come, in order.
    pub(crate) fn take_descriptors(&mut self) -> impl Iterator<Item = OwnedFd> + '_ {
        self.descriptors.drain(..)
    }

    /// The frame at hand, or how many bytes it lacks.
    fn at_hand(&self) -> Result<Result<(Kind, Range<usize>), usize>, Stop> {
        let ready = &self.buffer[self.start..self.len];
        let Some(header) = ready.first_chunk::<HEADER_BYTES>() else {
            return Ok(Err(HEADER_BYTES - ready.len()));
        };
        let header = Header::parse(header).map_err(Stop::Frame)?;
        let end = HEADER_BYTES + header.length;
        if ready.len() < end {
            return Ok(Err(end - ready.len()));
        }
        Ok(Ok((header.kind, self.start + HEADER_BYTES..self.start + end)))
    }

    /// The frame at hand without reading, if it is whole.
    pub(crate) fn ready(&self) -> Option<(Kind, Range<usize>)> {
        // A bad header is reported by the next `fill`.
        self.at_hand().ok()?.ok()
    }

    /// Makes sure that the rest of the frame at hand, and some lookahead, fit behind what is there.
    fn make_room(&mut self, wanted: usize) {
        let room = wanted + LOOKAHEAD_BYTES;
        if self.buffer.len() - self.len >= room {
            return;
        }
        let left = self.len - self.start;
        let size = (left + room).max(BUFFER_BYTES);
        if self.buffer.len() < size {
            // Fresh from the system it is zero already, and not touched.
            let mut larger = vec![0; size];
            larger[..left].copy_from_slice(&self.buffer[self.start..self.len]);
            self.buffer = larger;
        } else {
            self.buffer.copy_within(self.start..self.len, 0);
        }
        (self.start, self.len) = (0, left);
    }

    fn wait(&self, deadline: Instant) -> Result<(), Stop> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(Stop::Deadline),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Stop::Os(errno.into())),
            }
        }
    }

    /// The buffer the ranges refer to.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Is done with the frame whose payload ends at `end`.
    pub(crate) fn consume(&mut self, end: usize) {
        self.release(end);
        self.tidy();
    }

    /// An empty buffer begins at its beginning.
    fn tidy(&mut self) {
        if self.start == self.len {
            (self.start, self.len) = (0, 0);
        }
    }

    /// The same, but the bytes stay where they are until the next [`Inlet::fill`].
    pub(crate) fn release(&mut self, end: usize) {
        debug_assert!(self.start <= end && end <= self.len);
        self.start = end;
    }

    /// Hands everything up to the last whole frame out as one shared, immutable piece and goes on with a fresh
    /// buffer for the rest. The ranges of frames at hand refer to the piece.
    pub(crate) fn share(&mut self) -> Bytes {
        let mut end = self.start;
        while let Some(header) = self.buffer[end..self.len].first_chunk::<HEADER_BYTES>() {
            match Header::parse(header) {
                Ok(header) if self.len - end >= HEADER_BYTES + header.length => {
                    end += HEADER_BYTES + header.length;
                }
                _ => break,
            }
        }
        let rest = self.buffer[end..self.len].to_vec();
        (self.start, self.len) = (0, rest.len());
        let mut whole = std::mem::replace(&mut self.buffer, rest);
        whole.truncate(end);
        Bytes::from(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    fn pair() -> (Inlet, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Inlet::new(Arc::new(ours)), theirs)
    }

    fn frame(length: usize, fill: u8) -> Vec<u8> {
        let mut bytes = Header { kind: Kind::EVENT, length }.bytes().to_vec();
        bytes.resize(HEADER_BYTES + length, fill);
        bytes
    }

    #[test]
    fn frames_of_all_sizes_come_whole_however_they_are_cut() {
        let sizes = [0usize, 1, 7, 100, 40_000, 65_600, 1_048_700, 3, 500_000, 0];
        for cut in [1_000_003usize, 4_097, 33_000] {
            let (mut inlet, mut theirs) = pair();
            let writer = std::thread::spawn(move || {
                let all: Vec<u8> =
                    sizes.iter().enumerate().flat_map(|(at, size)| frame(*size, at as u8)).collect();
                for piece in all.chunks(cut) {
                    theirs.write_all(piece).unwrap();
                }
            });
            for (at, size) in sizes.iter().enumerate() {
                let (kind, range) = inlet.fill(None).unwrap();
                assert_eq!(kind, Kind::EVENT);
                assert_eq!(range.len(), *size);
                assert!(inlet.bytes()[range.clone()].iter().all(|byte| *byte == at as u8));
                inlet.consume(range.end);
            }
            assert!(matches!(inlet.fill(None), Err(Stop::Closed { unread: 0 })));
            writer.join().unwrap();
        }
    }

    #[test]
    fn a_frame_byte_by_byte_is_a_frame() {
        let (mut inlet, mut theirs) = pair();
        let writer = std::thread::spawn(move || {
            for byte in frame(20, 5) {
                theirs.write_all(&[byte]).unwrap();
            }
        });
        let (_, range) = inlet.fill(None).unwrap();
        assert_eq!(range.len(), 20);
        writer.join().unwrap();
    }

    #[test]
    fn a_deadline_leaves_an_unfinished_frame_where_it_is() {
        let (mut inlet, mut theirs) = pair();
        theirs.write_all(&frame(10, 1)[..12]).unwrap();
        assert!(matches!(inlet.fill(Some(Instant::now() + Duration::from_millis(5))), Err(Stop::Deadline)));
        theirs.write_all(&frame(10, 1)[12..]).unwrap();
        assert_eq!(inlet.fill(Some(Instant::now() + Duration::from_secs(20))).unwrap().1.len(), 10);
    }

    #[test]
    fn a_peer_that_dies_in_a_frame_is_told_from_one_that_closes() {
        let (mut inlet, mut theirs) = pair();
        theirs.write_all(&frame(10, 1)[..12]).unwrap();
        drop(theirs);
        assert!(matches!(inlet.fill(None), Err(Stop::Closed { unread: 12 })));
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        let (mut inlet, mut theirs) = pair();
        theirs.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        assert!(matches!(inlet.fill(None), Err(Stop::Frame(FrameError::Magic(_)))));
    }

    #[test]
    fn a_shared_piece_holds_whole_frames_and_the_rest_stays() {
        let (mut inlet, mut theirs) = pair();
        let mut all = frame(100, 1);
        all.extend(frame(200, 2));
        all.extend(&frame(300, 3)[..50]);
        theirs.write_all(&all).unwrap();
        let (_, first) = inlet.fill(None).unwrap();
        let piece = inlet.share();
        assert_eq!(piece.len(), 108 + 208);
        assert_eq!(first, 8..108);
        assert!(inlet.ready().is_none());
        theirs.write_all(&frame(300, 3)[50..]).unwrap();
        let (_, last) = inlet.fill(None).unwrap();
        assert_eq!(inlet.bytes()[last], [3; 300]);
    }
}
