//! The account of a subscription: every byte of a stream is delivered, or named as missed, or the reader is told.
//!
//! Chunks say at which offset they begin, gap records name a range that was skipped, the end record says how long
//! the stream was. This room adds them up and refuses the first that does not fit. It knows nothing of sockets
//! or frames, so it can be tested on paper.
//!
//! The account outlives its connection: a new one numbers its chunks from 1 again, and its end record counts only the
//! gaps it told of itself.
//!
//! Invariant, per stream: `next` is one past the last byte accounted for, delivered or named as a gap.

use crate::error::StreamError;
use kairo_wire::methods::stream::{Start, StreamName};

/// Where one stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    /// The kernel chooses the first offset (`from: now`), and has not told it yet.
    Anywhere,
    /// Everything before `next` is accounted for.
    At {
        next: u64,
        /// Bytes named as missed since this connection began.
        gap_bytes: u64,
        /// Bytes named as missed on the connections before.
        gap_bytes_before: u64,
    },
}

impl Track {
    fn at(next: u64) -> Track {
        Track::At { next, gap_bytes: 0, gap_bytes_before: 0 }
    }
}

/// The account of one subscription.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    tracks: [Track; 2],
    /// Number of the next chunk.
    sequence: u64,
    /// The kernel granted `records`: chunks have offsets, gaps and ends are told.
    records: bool,
    /// Something has been accounted for.
    begun: bool,
}

fn index(stream: StreamName) -> usize {
    match stream {
        StreamName::Stdout => 0,
        StreamName::Stderr => 1,
    }
}

impl Ledger {
    pub(crate) fn new(start: Start, records: bool) -> Ledger {
        let at = Track::at;
        let tracks = match start {
            _ if !records => [Track::Anywhere; 2],
            Start::Oldest => [at(0); 2],
            Start::Now => [Track::Anywhere; 2],
            Start::At(offset) => [at(offset); 2],
            Start::Each { stdout, stderr } => [at(stdout), at(stderr)],
        };
        Ledger { tracks, sequence: 1, records, begun: false }
    }

    /// A connection begins to deliver, the first or another one. `from` is where the kernel begins, if it has told.
    pub(crate) fn begin(&mut self, from: Option<Start>) {
        self.sequence = 1;
        let told = match from {
            Some(Start::At(offset)) => [Some(offset); 2],
            Some(Start::Each { stdout, stderr }) => [Some(stdout), Some(stderr)],
            Some(Start::Oldest | Start::Now) | None => [None; 2],
        };
        for (track, told) in self.tracks.iter_mut().zip(told) {
            match (&mut *track, told) {
                (Track::Anywhere, Some(offset)) if self.records => *track = Track::at(offset),
                (Track::Anywhere, _) => {}
                (Track::At { gap_bytes, gap_bytes_before, .. }, _) => {
                    *gap_bytes_before += std::mem::take(gap_bytes);
                }
            }
        }
    }

    /// Something has been accounted for.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Accounts for a chunk; returns where its bytes are in the stream.
    pub(crate) fn chunk(
        &mut self,
        stream: StreamName,
        sequence: u64,
        offset: Option<u64>,
        length: usize,
    ) -> Result<u64, StreamError> {
        if sequence != self.sequence {
            return Err(StreamError::OutOfSequence { expected: self.sequence, found: sequence });
        }
        self.sequence += 1;
        let track = &mut self.tracks[index(stream)];
        let (next, gap_bytes, gap_bytes_before) = match (*track, offset) {
            (Track::At { next, gap_bytes, gap_bytes_before }, _) => (next, gap_bytes, gap_bytes_before),
            (Track::Anywhere, offset) => (offset.unwrap_or(0), 0, 0),
        };
        let offset = match offset {
            Some(offset) => offset,
            None if self.records => return Err(StreamError::NoOffset { stream }),
            None => next,
        };
        if offset > next {
            return Err(StreamError::Missing { stream, from: next, to: offset });
        }
        if offset < next {
            return Err(StreamError::Repeated { stream, from: offset, to: next });
        }
        *track = Track::At { next: offset + length as u64, gap_bytes, gap_bytes_before };
        self.begun = true;
        Ok(offset)
    }

    /// Accounts for a named gap.
    pub(crate) fn gap(&mut self, stream: StreamName, from: u64, to: u64) -> Result<(), StreamError> {
        let track = &mut self.tracks[index(stream)];
        let (next, gap_bytes, gap_bytes_before) = match *track {
            Track::At { next, gap_bytes, gap_bytes_before } => (next, gap_bytes, gap_bytes_before),
            Track::Anywhere => (from, 0, 0),
        };
        if from > next {
            return Err(StreamError::Missing { stream, from: next, to: from });
        }
        if from < next || to <= from {
            return Err(StreamError::Repeated { stream, from, to: next });
        }
        *track = Track::At { next: to, gap_bytes: gap_bytes + (to - from), gap_bytes_before };
        self.begun = true;
        Ok(())
    }

    /// Closes the account of a stream, and opens that of its id's next life. Returns how many bytes were missed in all.
    pub(crate) fn end(
        &mut self,
        stream: StreamName,
        total_bytes: u64,
        gap_bytes: u64,
    ) -> Result<u64, StreamError> {
        let track = &mut self.tracks[index(stream)];
        let found = std::mem::replace(track, Track::at(0));
        match found {
            Track::Anywhere => Ok(gap_bytes),
            Track::At { next, .. } if next < total_bytes => {
                Err(StreamError::Missing { stream, from: next, to: total_bytes })
            }
            Track::At { next, .. } if next > total_bytes => {
                Err(StreamError::Repeated { stream, from: total_bytes, to: next })
            }
            Track::At { gap_bytes: counted, .. } if counted != gap_bytes => {
                Err(StreamError::GapsDisagree { stream, counted, told: gap_bytes })
            }
            Track::At { gap_bytes_before, .. } => Ok(gap_bytes_before + gap_bytes),
        }
    }

    /// One past the last byte accounted for, if that is known.
    pub(crate) fn position(&self, stream: StreamName) -> Option<u64> {
        match self.tracks[index(stream)] {
            Track::Anywhere => None,
            Track::At { next, .. } => Some(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StreamName::{Stderr, Stdout};

    #[test]
    fn a_whole_stream_adds_up() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        assert_eq!(ledger.chunk(Stdout, 1, Some(0), 10), Ok(0));
        assert_eq!(ledger.chunk(Stderr, 2, Some(0), 3), Ok(0));
        assert_eq!(ledger.chunk(Stdout, 3, Some(10), 5), Ok(10));
        assert_eq!(ledger.position(Stdout), Some(15));
        assert_eq!(ledger.end(Stdout, 15, 0), Ok(0));
        assert_eq!(ledger.end(Stderr, 3, 0), Ok(0));
    }

    #[test]
    fn a_missing_byte_is_named_exactly() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        ledger.chunk(Stdout, 1, Some(0), 10).unwrap();
        let missing = Err(StreamError::Missing { stream: Stdout, from: 10, to: 11 });
        assert_eq!(ledger.clone().chunk(Stdout, 2, Some(11), 1), missing);
        assert_eq!(ledger.clone().gap(Stdout, 11, 20), missing.clone().map(|_| ()));
        assert_eq!(ledger.end(Stdout, 11, 0), missing);
    }

    #[test]
    fn the_first_chunk_of_a_stream_from_its_beginning_starts_at_zero() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        let missing = StreamError::Missing { stream: Stderr, from: 0, to: 1 };
        assert_eq!(ledger.chunk(Stderr, 1, Some(1), 1), Err(missing));
        let mut ledger = Ledger::new(Start::Each { stdout: 7, stderr: 9 }, true);
        assert_eq!(ledger.chunk(Stderr, 1, Some(9), 1), Ok(9));
        assert!(ledger.chunk(Stdout, 2, Some(8), 1).is_err());
    }

    #[test]
    fn bytes_told_twice_are_an_error_too() {
        let mut ledger = Ledger::new(Start::At(5), true);
        ledger.chunk(Stdout, 1, Some(5), 5).unwrap();
        let repeated = StreamError::Repeated { stream: Stdout, from: 9, to: 10 };
        assert_eq!(ledger.chunk(Stdout, 2, Some(9), 5), Err(repeated.clone()));
        assert_eq!(ledger.clone().end(Stdout, 9, 0), Err(repeated));
        assert!(ledger.clone().gap(Stdout, 9, 12).is_err());
        assert!(ledger.gap(Stdout, 10, 10).is_err());
    }

    #[test]
    fn gaps_are_accounted_for_and_must_agree_with_the_end() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        assert_eq!(ledger.gap(Stdout, 0, 100), Ok(()));
        assert_eq!(ledger.chunk(Stdout, 1, Some(100), 1), Ok(100));
        let disagree = StreamError::GapsDisagree { stream: Stdout, counted: 100, told: 99 };
        assert_eq!(ledger.clone().end(Stdout, 101, 99), Err(disagree));
        assert_eq!(ledger.end(Stdout, 101, 100), Ok(100));
    }

    #[test]
    fn a_lost_frame_shows_in_the_sequence_even_without_offsets() {
        let mut ledger = Ledger::new(Start::Oldest, false);
        assert_eq!(ledger.chunk(Stdout, 1, None, 4), Ok(0));
        assert_eq!(ledger.chunk(Stdout, 2, None, 4), Ok(4));
        let lost = StreamError::OutOfSequence { expected: 3, found: 4 };
        assert_eq!(ledger.chunk(Stdout, 4, None, 4), Err(lost));
    }

    #[test]
    fn from_now_begins_wherever_the_kernel_is() {
        let mut ledger = Ledger::new(Start::Now, true);
        assert_eq!(ledger.position(Stdout), None);
        assert_eq!(ledger.chunk(Stdout, 1, Some(1_000), 4), Ok(1_000));
        assert!(ledger.chunk(Stdout, 2, Some(1_005), 4).is_err());
        assert_eq!(ledger.end(Stderr, 77, 0), Ok(0));
    }

    #[test]
    fn an_id_that_lives_again_begins_at_zero() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        ledger.chunk(Stdout, 1, Some(0), 4).unwrap();
        ledger.end(Stdout, 4, 0).unwrap();
        assert_eq!(ledger.chunk(Stdout, 2, Some(0), 4), Ok(0));
    }

    #[test]
    fn a_chunk_without_an_offset_is_refused_where_offsets_were_granted() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        assert_eq!(ledger.chunk(Stdout, 1, None, 4), Err(StreamError::NoOffset { stream: Stdout }));
    }

    #[test]
    fn an_account_goes_on_over_another_connection() {
        let mut ledger = Ledger::new(Start::Oldest, true);
        ledger.begin(None);
        ledger.gap(Stdout, 0, 100).unwrap();
        ledger.chunk(Stdout, 1, Some(100), 10).unwrap();
        ledger.begin(Some(Start::Each { stdout: 110, stderr: 0 }));
        assert_eq!(ledger.position(Stdout), Some(110));
        assert_eq!(ledger.chunk(Stdout, 1, Some(110), 10), Ok(110));
        ledger.gap(Stdout, 120, 130).unwrap();
        assert_eq!(ledger.end(Stdout, 130, 10), Ok(110), "its end counts its own gaps, ours all of them");
    }
}
