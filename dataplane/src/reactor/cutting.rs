//! What a reader's next frame is: cut from memory or disk, and for one that wants the newest only, where that begins.
//!
//! Invariant: of a reader that wants the newest, the cursor is at the front of a frame whenever this is asked.

use super::Reactor;
use super::delivery::Step;
use super::pacing::Allowance;
use super::processes::Stream;
use super::spool::Disk;
use super::table::Place;
use crate::command::Mode;
use crate::driver::Driver;
use crate::key::Channel;
use crate::limits::LINE_BYTES_MAX;
use crate::stream::history::{History, Peek};
use crate::stream::subscriber::{Cursor, Cut, Subscriber, cut, look_bytes};
use crate::transport::frames::Framing;
use memchr::{memchr, memrchr};

impl<D: Driver> Reactor<D> {
    /// Passes what a reader has no use for, once it could be given something: all but the newest frame. None where that is next.
    pub(super) fn pass_to_newest(&mut self, place: Place, process: Place, channel: Channel) -> Option<Step> {
        if self.allowance(place).is_none() {
            return Some(Step::Throttled);
        }
        let (reader, running) = (self.readers.get(place)?, self.processes.get(process)?);
        let stream = &running.streams[channel as usize];
        let chunk_bytes_max = reader.framing.as_ref()?.chunk_bytes_max;
        let Cursor { offset, .. } = reader.subscriber.cursors[channel as usize]?;
        let from = newest(&stream.history, reader.subscriber.mode, chunk_bytes_max, stream.closed);
        (from > offset).then(|| self.gap(place, channel, offset, from))
    }
}

/// Where the newest frame of what is in memory begins.
fn newest(history: &History, mode: Mode, chunk_bytes_max: usize, closed: bool) -> u64 {
    let line_bytes_max = LINE_BYTES_MAX.min(chunk_bytes_max);
    let look = match mode {
        Mode::Chunk | Mode::Lines => chunk_bytes_max,
        // The line, and what has come of the next one.
        Mode::Line => 2 * line_bytes_max,
    };
    let total = history.total();
    let at = total.saturating_sub(look as u64);
    let at = if let Peek::Gap(to) = history.peek(at, 1) { to } else { at };
    let mut joined = Vec::new();
    let Peek::Bytes(run) = history.peek_joined(at, look, &mut joined) else { return at };
    let begins = match mode {
        Mode::Chunk => 0,
        // At the first of as many as fit, or in the one that doesn't.
        Mode::Lines if at == 0 => 0,
        Mode::Lines => memchr(b'\n', run).map_or(0, |end| end + 1) % run.len(),
        Mode::Line => {
            let whole = if closed { Some(run.len()) } else { memrchr(b'\n', run).map(|end| end + 1) };
            // A line without an end that is longer than a frame comes in pieces: the newest is as good as any.
            let end = whole.unwrap_or(run.len().saturating_sub(line_bytes_max));
            let before = &run[..end.saturating_sub(usize::from(whole.is_some()))];
            memrchr(b'\n', before).map_or(if whole.is_some() { 0 } else { end }, |end| end + 1)
        }
    };
    at + begins as u64
}

/// What a reader gets next on a channel.
pub(super) enum Next<'a> {
    /// A frame.
    Frame {
        bytes: &'a [u8],
        /// A piece of a longer line.
        partial: bool,
        /// They lie in the ring, where a waiting reader's stay until they are sent.
        in_ring: bool,
    },
    /// A line of so many bytes, which it may not have yet.
    Costs(usize),
    /// Not a whole line in hand; the disk has bytes from this offset on.
    OnDisk(u64),
    /// Nothing, or not yet a whole line.
    Nothing,
}

impl Next<'_> {
    /// Why there is no frame, without the borrow.
    pub(super) fn frameless(&self) -> Next<'static> {
        match *self {
            Next::Costs(bytes) => Next::Costs(bytes),
            Next::OnDisk(beyond) => Next::OnDisk(beyond),
            Next::Frame { .. } | Next::Nothing => Next::Nothing,
        }
    }
}

/// Cuts a reader's next frame on a channel, as large as its rate allows now: from what it was brought from disk, as far
/// as that goes, else from memory.
pub(super) fn next_cut<'a, F>(
    subscriber: &Subscriber,
    disk: &'a Disk,
    framing: &Framing,
    stream: &'a Stream<F>,
    channel: Channel,
    allowance: Allowance,
    scratch: &'a mut Vec<u8>,
) -> Next<'a> {
    let Some(Cursor { offset, .. }) = subscriber.cursors[channel as usize] else {
        return Next::Nothing;
    };
    let look = match subscriber.mode {
        Mode::Chunk => look_bytes(Mode::Chunk, framing.chunk_bytes_max).min(allowance.bytes),
        mode => look_bytes(mode, framing.chunk_bytes_max),
    };
    let piece = disk.bytes(offset);
    let in_ring = piece.is_none();
    let run = match (piece, subscriber.mode) {
        (Some(piece), Mode::Chunk) => &piece[..piece.len().min(look)],
        (Some(piece), Mode::Line | Mode::Lines) if piece.len() >= look => &piece[..look],
        (Some(piece), Mode::Line | Mode::Lines) => {
            scratch.clear();
            scratch.extend_from_slice(piece);
            if let Peek::Bytes(more) = stream.history.peek(offset + piece.len() as u64, look - piece.len()) {
                scratch.extend_from_slice(more);
            }
            scratch
        }
        (None, mode) => {
            let peek = match mode {
                Mode::Chunk => stream.history.peek(offset, look),
                Mode::Line | Mode::Lines => stream.history.peek_joined(offset, look, scratch),
            };
            let Peek::Bytes(run) = peek else { return Next::Nothing };
            run
        }
    };
    let end = offset + run.len() as u64;
    let next = if disk.bytes(end).is_some() { Peek::Bytes(&[]) } else { stream.history.peek(end, 1) };
    let fetch =
        matches!(next, Peek::Gap(_)) && disk.may_fetch(stream, subscriber.policy, end) && !disk.ends_at(end);
    let closed = match next {
        Peek::Bytes(_) => false,
        Peek::Gap(_) => !fetch,
        Peek::Nothing => stream.closed,
    };
    let cuts = |mode, run| cut(mode, run, framing.chunk_bytes_max, closed);
    let frame = |bytes, partial| Next::Frame { bytes, partial, in_ring };
    match cuts(subscriber.mode, run) {
        None if fetch => Next::OnDisk(end),
        None => Next::Nothing,
        Some(Cut { bytes, partial }) if bytes <= allowance.bytes => frame(&run[..bytes], partial),
        // Fewer lines, or the first of them.
        Some(Cut { bytes, .. }) => match memrchr(b'\n', &run[..allowance.bytes.min(bytes)]) {
            Some(at) => frame(&run[..=at], false),
            None => match cuts(Mode::Line, run) {
                Some(Cut { bytes, partial }) if allowance.affords(bytes) => frame(&run[..bytes], partial),
                first => Next::Costs(first.map_or(bytes, |first| first.bytes)),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::HistorySize;

    fn of(bytes: &[u8]) -> History {
        let mut history = History::new(HistorySize { head_bytes: 4_096, tail_bytes: 1 << 20 });
        let (ring, _) = history.ring().unwrap();
        ring.room(bytes.len()).copy_from_slice(bytes);
        ring.commit(bytes.len());
        history
    }

    #[test]
    fn the_newest_is_the_last_chunk_the_last_whole_line_or_the_lines_that_fit() {
        let history = of(b"one\ntwo\n\nfour\nfi");
        let at = |mode, max, closed| newest(&history, mode, max, closed);
        assert_eq!((at(Mode::Chunk, 4, false), at(Mode::Chunk, 100, false)), (12, 0));
        assert_eq!((at(Mode::Line, 100, false), at(Mode::Line, 100, true)), (9, 14));
        assert_eq!((at(Mode::Lines, 100, false), at(Mode::Lines, 8, false)), (0, 9));
        let empty = of(b"a\n\n");
        assert_eq!(newest(&empty, Mode::Line, 100, false), 2);
        assert_eq!(newest(&empty, Mode::Line, 100, true), 2);
    }

    #[test]
    fn a_line_that_does_not_fit_is_passed_to_its_latest_piece() {
        let history = of(&[b'x'; 50]);
        assert_eq!(newest(&history, Mode::Line, 10, false), 40);
        assert_eq!(newest(&of(b"ab"), Mode::Line, 10, false), 0);
    }
}
