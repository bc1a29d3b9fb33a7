//! A reader: how far it has come on each channel, how it wants bytes cut, and what happens when it is slow.
//!
//! Invariant: a cursor only grows, and everything between two of its values was delivered or reported as a gap.
//! In line modes what is not yet a whole line simply stays behind the cursor: there is no carry.

use crate::command::{Mode, Policy, Sink};
use crate::key::{Channel, ProcessKey, SubscriptionKey};
use crate::limits::LINE_BYTES_MAX;
use crate::meter::ReaderMeter;
use memchr::{memchr, memrchr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One reader of one process.
#[derive(Debug)]
pub struct Subscriber {
    /// Its name in the data plane.
    pub key: SubscriptionKey,
    /// What it reads.
    pub process: ProcessKey,
    /// By channel; none where it doesn't read, or has delivered that stream's end.
    pub cursors: [Option<Cursor>; 2],
    /// How bytes become frames.
    pub mode: Mode,
    /// What happens when it is slow.
    pub policy: Policy,
    /// Where bytes go.
    pub sink: Sink,
    /// Number of the last frame.
    pub sequence: u64,
    /// By channel: all before this is in its client's socket, whole frames only. What a kernel that dies still had to
    /// send of a frame the client asks for again.
    pub confirmed: [u64; 2],
    /// Bytes on their way to another reactor.
    pub in_flight_bytes: usize,
    /// Channel to begin with next time, so that one never starves the other.
    pub next_channel: usize,
    /// Published numbers.
    pub meter: Arc<ReaderMeter>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Next offset to deliver.
    pub offset: u64,
    /// Bytes it missed so far.
    pub gap_bytes: u64,
}

impl Subscriber {
    /// Moves a cursor over delivered bytes.
    pub fn advance(&mut self, channel: Channel, bytes: usize) {
        if let Some(cursor) = &mut self.cursors[channel as usize] {
            cursor.offset += bytes as u64;
            self.meter.offset[channel as usize].set(cursor.offset);
        }
    }

    /// A reader in another process says that it has come to `offset`; it knows itself what it missed.
    pub fn stand_at(&mut self, channel: Channel, offset: u64) {
        let Some(cursor) = &mut self.cursors[channel as usize] else { return };
        cursor.offset = offset;
        self.meter.offset[channel as usize].set(offset);
        self.confirm();
    }

    /// Moves a cursor over bytes that are gone. Returns how many.
    pub fn skip(&mut self, channel: Channel, to: u64) -> u64 {
        let Some(cursor) = &mut self.cursors[channel as usize] else { return 0 };
        let missed = to.saturating_sub(cursor.offset);
        cursor.offset += missed;
        cursor.gap_bytes += missed;
        self.meter.offset[channel as usize].set(cursor.offset);
        self.meter.gap_bytes.add(missed);
        missed
    }

    /// Counts bytes that went by a reader which has moved its cursor itself.
    pub fn missed(&mut self, channel: Channel, bytes: u64) {
        if let Some(cursor) = &mut self.cursors[channel as usize] {
            cursor.gap_bytes += bytes;
            self.meter.gap_bytes.add(bytes);
        }
    }

    /// The offset this reader keeps the source from overwriting; after the stream's end, what is still on its way.
    pub fn pinned(&self, channel: Channel) -> Option<u64> {
        let confirmed = self.confirmed[channel as usize];
        let at = match (self.policy, self.cursors[channel as usize]) {
            (Policy::Block, Some(cursor)) => confirmed.min(cursor.offset),
            (Policy::Block, None) if self.in_flight_bytes > 0 && confirmed > 0 => confirmed,
            (Policy::Block, None) | (Policy::DropOldest | Policy::Spool | Policy::Latest, _) => return None,
        };
        Some(at.saturating_sub(self.in_flight_bytes as u64))
    }

    /// Everything that was sent is in the client's socket, or on its way there and counted.
    pub fn confirm(&mut self) {
        for (confirmed, cursor) in self.confirmed.iter_mut().zip(&self.cursors) {
            *confirmed = cursor.map_or(*confirmed, |cursor| cursor.offset);
        }
    }

    /// True exactly when it has delivered the end of every stream it reads, and nothing is on its way any more.
    pub fn is_drained(&self) -> bool {
        self.in_flight_bytes == 0 && self.cursors.iter().all(Option::is_none)
    }

    /// Its descriptor takes no more. That nobody reads it is nothing to tell.
    pub fn failed(&self, error: &std::io::Error) {
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            self.meter.errno.store(error.raw_os_error().unwrap_or(libc::EIO), Ordering::Relaxed);
        }
    }

    /// The numbers of the next frame.
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.meter.sequence.set(self.sequence);
        self.sequence
    }
}

/// How much of a run is the next frame, and whether it is a piece of a longer line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the frame, never 0.
    pub bytes: usize,
    /// The line goes on in the next frame.
    pub partial: bool,
}

/// Cuts the next frame from the front of `run` (not empty). `closed` says that nothing can be added to it: the
/// stream ended there, or a gap follows. None: not yet a whole line.
pub fn cut(mode: Mode, run: &[u8], chunk_bytes_max: usize, closed: bool) -> Option<Cut> {
    let line_bytes_max = LINE_BYTES_MAX.min(chunk_bytes_max);
    let whole = |bytes: usize| Some(Cut { bytes, partial: false });
    let end_of_line = match mode {
        Mode::Chunk => return whole(run.len().min(chunk_bytes_max)),
        Mode::Line => memchr(b'\n', &run[..run.len().min(line_bytes_max)]),
        Mode::Lines => memrchr(b'\n', &run[..run.len().min(chunk_bytes_max)]),
    };
    match end_of_line {
        Some(at) => whole(at + 1),
        None if run.len() > line_bytes_max || (run.len() == line_bytes_max && !closed) => {
            Some(Cut { bytes: line_bytes_max, partial: true })
        }
        None if closed => whole(run.len()),
        None => None,
    }
}

/// How far ahead a mode needs to look for its next frame.
pub fn look_bytes(mode: Mode, chunk_bytes_max: usize) -> usize {
    match mode {
        Mode::Chunk | Mode::Lines => chunk_bytes_max,
        Mode::Line => LINE_BYTES_MAX.min(chunk_bytes_max) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ReactorId;

    const MAX: usize = 65_535;

    fn pieces(mode: Mode, mut run: &[u8], max: usize) -> Vec<(usize, bool)> {
        let mut pieces = Vec::new();
        while !run.is_empty() {
            let look = &run[..run.len().min(look_bytes(mode, max))];
            let cut = cut(mode, look, max, look.len() == run.len()).expect("a closed run is always cut");
            pieces.push((cut.bytes, cut.partial));
            run = &run[cut.bytes..];
        }
        pieces
    }

    #[test]
    fn what_is_on_its_way_to_another_reactor_is_pinned_beyond_the_streams_end() {
        let home = ReactorId(0);
        let mut reader = Subscriber {
            key: SubscriptionKey { home, serial: 1 },
            process: ProcessKey { home, serial: 2 },
            cursors: [Some(Cursor { offset: 1_000, gap_bytes: 0 }), None],
            mode: Mode::Chunk,
            policy: Policy::Block,
            sink: Sink::Descriptor(0),
            sequence: 0,
            confirmed: [1_000, 0],
            in_flight_bytes: 300,
            next_channel: 0,
            meter: Arc::default(),
        };
        assert_eq!((reader.pinned(Channel::Stdout), reader.is_drained()), (Some(700), false));
        reader.cursors = [None; 2];
        assert_eq!((reader.pinned(Channel::Stdout), reader.is_drained()), (Some(700), false));
        assert_eq!(reader.pinned(Channel::Stderr), None);
        reader.in_flight_bytes = 0;
        assert_eq!((reader.pinned(Channel::Stdout), reader.is_drained()), (None, true));
    }

    #[test]
    fn lines_keep_empty_lines_carriage_returns_and_the_unterminated_tail() {
        assert_eq!(
            pieces(Mode::Line, b"a\r\n\n\nbc\nd", MAX),
            [(3, false), (1, false), (1, false), (3, false), (1, false)]
        );
        assert_eq!(pieces(Mode::Lines, b"a\r\n\n\nbc\nd", MAX), [(8, false), (1, false)]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_whole_and_one_byte_more_makes_pieces() {
        let mut line = vec![b'x'; MAX - 1];
        line.push(b'\n');
        assert_eq!(pieces(Mode::Line, &line, MAX), [(MAX, false)]);
        line.insert(0, b'x');
        assert_eq!(pieces(Mode::Line, &line, MAX), [(MAX, true), (1, false)]);
        assert_eq!(pieces(Mode::Lines, &line, 1 << 20), [(MAX + 1, false)], "a larger chunk holds it whole");
    }

    #[test]
    fn an_unfinished_line_waits_until_its_stream_is_closed() {
        assert_eq!(cut(Mode::Line, b"abc", MAX, false), None);
        assert_eq!(cut(Mode::Lines, b"abc", MAX, false), None);
        assert_eq!(cut(Mode::Line, b"abc", MAX, true), Some(Cut { bytes: 3, partial: false }));
        assert_eq!(cut(Mode::Chunk, b"abc", MAX, false), Some(Cut { bytes: 3, partial: false }));
    }
}
