//! When which bytes of a stream were read.
//!
//! A mark stands for a run of bytes: where it ends, and when its last byte was read. Invariant: a byte's time is that of the
//! read that brought it, or, where marks had to be joined, of a later read; never of an earlier one. What there is of them is
//! bounded: what the history has lost loses its marks first, then neighbours are joined, the oldest of the tail first. The
//! latest quarter of what there may be stays exact.

/// Marks of a stream nobody has asked the times of.
const MARKS_UNASKED: usize = 64;
/// Marks of a stream somebody asks the times of.
const MARKS_ASKED: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Of the run: one past its last byte.
    end: u64,
    /// CLOCK_MONOTONIC, nanoseconds; 0 if nobody knows.
    read_ns: u64,
}

/// The times of one stream.
#[derive(Debug, Default)]
pub struct Times {
    marks: Vec<Mark>,
    /// Readers that ask for them.
    asked: usize,
}

impl Times {
    /// Of a stream whose first bytes somebody else has read.
    pub fn since(total: u64) -> Times {
        let marks = if total > 0 { vec![Mark { end: total, read_ns: 0 }] } else { Vec::new() };
        Times { marks, asked: 0 }
    }

    /// One more reader asks, or one less.
    pub fn ask(&mut self, more: bool) {
        self.asked = if more { self.asked + 1 } else { self.asked.saturating_sub(1) };
    }

    /// Somebody asks: the clock is worth looking at for every read.
    pub fn are_asked(&self) -> bool {
        self.asked > 0
    }

    /// Bytes up to `end` were read; of those before, `[cut.0, cut.1)` are kept no more.
    pub fn note(&mut self, end: u64, read_ns: u64, cut: (u64, u64)) {
        let most = if self.are_asked() { MARKS_ASKED } else { MARKS_UNASKED };
        if self.marks.len() >= most {
            self.forget(cut);
            let whole = cut.0 >= cut.1;
            let head = if whole { 0 } else { self.marks.partition_point(|mark| mark.end <= cut.0) };
            if self.marks.len() > most / 2 {
                // A head is complete once something behind it is gone: it is joined only if it takes the tail's room.
                let from = if head > most / 4 { 0 } else { head };
                self.join(from, self.marks.len() - most / 4);
            }
        }
        self.marks.push(Mark { end, read_ns });
    }

    /// When the byte at `offset` was read, if that is known.
    pub fn of(&self, offset: u64) -> Option<u64> {
        let at = self.marks.partition_point(|mark| mark.end <= offset);
        self.marks.get(at).map(|mark| mark.read_ns).filter(|read_ns| *read_ns > 0)
    }

    /// Leaves one mark, that says nothing, for all that is gone.
    fn forget(&mut self, (from, to): (u64, u64)) {
        let first = self.marks.partition_point(|mark| mark.end <= from);
        let end = self.marks.partition_point(|mark| mark.end <= to);
        if first + 1 < end {
            self.marks[end - 1].read_ns = 0;
            let begun = if first == 0 { 0 } else { self.marks[first - 1].end };
            // A run that began in the head still tells of that part.
            let first = if begun < from {
                self.marks[first].end = from;
                first + 1
            } else {
                first
            };
            self.marks.drain(first..end - 1);
        }
    }

    /// Joins neighbours within `[from, to)`.
    fn join(&mut self, from: usize, to: usize) {
        let mut place = 0;
        self.marks.retain(|_| {
            let inner = place >= from && place < to.saturating_sub(1);
            place += 1;
            // The second of two stays, and stands for both.
            !(inner && (place - 1 - from).is_multiple_of(2))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_has_the_time_of_the_read_that_brought_it() {
        let mut times = Times::default();
        times.note(10, 100, (0, 0));
        times.note(11, 200, (0, 0));
        assert_eq!([0, 9, 10, 11].map(|at| times.of(at)), [Some(100), Some(100), Some(200), None]);
    }

    #[test]
    fn bytes_somebody_else_has_read_have_none() {
        let mut times = Times::since(10);
        times.note(20, 7, (0, 0));
        assert_eq!([9, 10].map(|at| times.of(at)), [None, Some(7)]);
    }

    /// Reads of one byte each, at a time that is the offset plus 1,000; the history keeps `head` and `tail` bytes.
    fn filled(reads: u64, head: u64, tail: u64, asked: bool) -> Times {
        let mut times = Times::default();
        times.ask(asked);
        for read in 0..reads {
            let end = read + 1;
            times.note(end, 1_000 + read, (head.min(end), end.saturating_sub(tail).max(head.min(end))));
        }
        times
    }

    #[test]
    fn no_time_is_too_early_and_the_latest_are_exact() {
        for (head, tail, asked) in [(64, 500, false), (64, 500, true), (700, 90_000, true), (9, 10, false)] {
            let times = filled(50_000, head, tail, asked);
            let most = if asked { MARKS_ASKED } else { MARKS_UNASKED };
            assert!(times.marks.len() <= most, "{} marks", times.marks.len());
            assert!(times.marks.is_sorted_by(|one, other| one.end < other.end));
            for at in 0..50_000 {
                let known = times.of(at);
                assert!(known.is_none_or(|ns| ns >= 1_000 + at), "{at}: {known:?}");
            }
            for at in 50_000 - most as u64 / 4..50_000 {
                assert_eq!(times.of(at), Some(1_000 + at), "{head} {tail}");
            }
        }
    }

    #[test]
    fn a_complete_head_keeps_its_times_however_much_follows() {
        let times = filled(200_000, 200, 3_000, true);
        for at in 0..200 {
            // As exact as they were when the first byte behind it was gone.
            assert!(times.of(at).is_some_and(|ns| ns < 1_128 + at), "{at}: {:?}", times.of(at));
        }
    }
}
