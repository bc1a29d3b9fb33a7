//! A frame on its way by an outlet in frames, noted before its first byte leaves, so that whoever comes after a kill can send the
//! rest of this very frame.
//!
//! ```text
//!   parcel:  [ bytes that are here │ bytes of a stream, which stay there until they are through ]
//!            ▲ from: T when it began
//! ```
//!
//! T counts bytes of the wire. What is here is a frame's header and prelude, or frames altogether; a large payload is only named.
//! Where a payload leaves its stream as it is staged ([`Inbox::moves`]), what can't go on is kept here instead: read into the other
//! place, which then counts.
//!
//! Invariants: a parcel begins when all of the one before has gone, or with what is left of it; there are two places, and a word says
//! which one counts, so that a kill in the middle of a note leaves the one before.

use super::{Inbox, RingError, field};
use crate::layout::PAGE_BYTES;
use std::io;
use std::ops::Range;

/// Parcels there have been; the last one is in the place of this number. 0: the inbox has none.
const NUMBER: usize = 3328;
/// 1 while what is staged of a payload may not be where it came from.
const MOVES: usize = 3336;
/// The number of a parcel that is being read into its place, if it is the next one.
const KEEPING: usize = 3344;
/// The first of two places, seven words each.
const PLACES: usize = 3392;
const PLACE_BYTES: usize = 64;

const _: () =
    assert!(NUMBER >= field::RECORDS + super::KEYS_MAX as usize * field::RECORD_BYTES, "behind them");
const _: () = assert!(PLACES + 2 * PLACE_BYTES <= PAGE_BYTES, "they fit the header");

/// What is noted of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parcel {
    /// Where on the wire it begins.
    pub from: u64,
    /// So many of its bytes are here.
    pub here_bytes: usize,
    /// The rest of it is these bytes of the stream.
    pub payload: Range<u64>,
    /// Number of its last chunk.
    pub sequence: u64,
    /// Where its reader stands once all of it has gone.
    pub then: Standing,
}

/// Where a reader stands in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What it gets next; none if it has been told the end.
    pub offset: Option<u64>,
    /// Bytes it has missed.
    pub gap_bytes: u64,
}

impl Parcel {
    /// One past its last byte on the wire.
    pub fn to(&self) -> u64 {
        self.from + self.here_bytes as u64 + (self.payload.end - self.payload.start)
    }

    /// What of the payload is still to go once the wire has all below `written`.
    pub fn payload_left(&self, written: u64) -> Range<u64> {
        let sent = written.saturating_sub(self.from + self.here_bytes as u64);
        (self.payload.start + sent).min(self.payload.end)..self.payload.end
    }
}

impl Inbox {
    /// An empty one for parcels with up to `bytes` bytes of their own, of a reader that stands there. Nothing else is ever in it.
    pub fn for_parcels(bytes: usize, standing: Standing) -> Result<Inbox, RingError> {
        let mut inbox = Inbox::create(2 * bytes)?;
        inbox.begin_feed(0);
        inbox.begin_parcel(&[], Parcel { then: standing, ..Parcel::default() });
        Ok(inbox)
    }

    /// Notes what is next. `pieces` are the bytes that are to be here; where it begins and how many they are is filled in.
    pub fn begin_parcel(&mut self, pieces: &[&[u8]], mut parcel: Parcel) {
        let number = self.get(NUMBER) + 1;
        let mut at = self.place_of_parcel(number);
        parcel.here_bytes = pieces.iter().map(|piece| piece.len()).sum();
        parcel.from = self.written();
        assert!(parcel.here_bytes <= self.capacity_bytes() / 2, "what is too long is not to be here");
        for piece in pieces {
            self.map.bytes_mut(at, piece.len()).copy_from_slice(piece);
            at += piece.len();
        }
        self.note_parcel(number, &parcel);
        self.set(NUMBER, number);
    }

    fn note_parcel(&self, number: u64, parcel: &Parcel) {
        let Standing { offset, gap_bytes } = parcel.then;
        let words = [
            parcel.from,
            parcel.here_bytes as u64,
            parcel.payload.start,
            parcel.payload.end,
            parcel.sequence,
            offset.map_or(0, |offset| offset + 1),
            gap_bytes,
        ];
        for (nth, word) in words.into_iter().enumerate() {
            self.set(PLACES + (number % 2) as usize * PLACE_BYTES + nth * 8, word);
        }
    }

    /// Notes whether what is staged of a payload leaves its stream with that, until the stream's own account has it.
    pub fn moves(&self, does: bool) {
        self.set(MOVES, does.into());
    }

    /// True exactly while it may have.
    pub fn is_moving(&self) -> bool {
        self.get(MOVES) == 1
    }

    /// Of a dead kernel's moving parcel so much is staged: settles what has gone. True if the rest is to be [kept](Inbox::keep_staged).
    /// None: that can't be.
    pub fn settle_moving(&self, staged: usize) -> Option<bool> {
        if self.is_keeping() {
            return Some(true);
        }
        let (written, expected) = (self.written(), self.expected());
        // Killed before it was noted how much is on its way: nothing of it has gone.
        let end = if expected > written { expected } else { written + staged as u64 };
        let gone = end.checked_sub(staged as u64).filter(|gone| *gone >= written)?;
        self.settle(gone);
        Some(staged > self.parcel_bytes(&self.parcel()?).len())
    }

    fn is_keeping(&self) -> bool {
        self.get(KEEPING) == self.get(NUMBER) + 1
    }

    /// What is staged of the last parcel, all before it having gone, and some of it being the stream's, is to be here: `read` takes
    /// it out of the pipe, whole. Goes on where a dead kernel was in the middle of this, with what is staged still.
    pub fn keep_staged(
        &mut self,
        staged: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let (number, written) = (self.get(NUMBER) + 1, self.written());
        if !self.is_keeping() {
            self.lend(staged);
            self.expect(staged);
            self.set(KEEPING, number);
        }
        let bytes = (self.expected() - written) as usize;
        // If nothing is expected any more it is all here, and noted.
        if bytes > 0 {
            let parcel = self.parcel().filter(|_| (staged..=self.capacity_bytes() / 2).contains(&bytes));
            let parcel = parcel.ok_or(io::ErrorKind::InvalidData)?;
            let at = self.place_of_parcel(number) + bytes - staged;
            read(self.map.bytes_mut(at, staged))?;
            let payload = parcel.payload_left(written + bytes as u64);
            self.note_parcel(number, &Parcel { from: written, here_bytes: bytes, payload, ..parcel });
            self.settle(written);
        }
        self.set(NUMBER, number);
        Ok(())
    }

    /// The last one, which may have gone. None: there was none, or what is noted can't be.
    pub fn parcel(&self) -> Option<Parcel> {
        let number = self.get(NUMBER);
        let word = |nth: usize| self.get(PLACES + (number % 2) as usize * PLACE_BYTES + nth * 8);
        let parcel = Parcel {
            from: word(0),
            here_bytes: usize::try_from(word(1)).ok()?,
            payload: word(2)..word(3),
            sequence: word(4),
            then: Standing { offset: word(5).checked_sub(1), gap_bytes: word(6) },
        };
        let fits =
            parcel.here_bytes <= self.capacity_bytes() / 2 && parcel.payload.start <= parcel.payload.end;
        let stands = fits && (parcel.from..=parcel.to()).contains(&self.written());
        (number > 0 && stands).then_some(parcel)
    }

    /// What is here of the last one and has not gone.
    pub fn parcel_bytes(&self, parcel: &Parcel) -> &[u8] {
        let sent = (self.written().saturating_sub(parcel.from)).min(parcel.here_bytes as u64) as usize;
        self.map.bytes(self.place_of_parcel(self.get(NUMBER)) + sent, parcel.here_bytes - sent)
    }

    fn place_of_parcel(&self, number: u64) -> usize {
        self.geometry.place(0) + (number % 2) as usize * (self.capacity_bytes() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(inbox: &Inbox) -> Inbox {
        Inbox::open(inbox.descriptor().try_clone_to_owned().unwrap()).unwrap()
    }

    fn at(offset: u64) -> Standing {
        Standing { offset: Some(offset), gap_bytes: 3 }
    }

    #[test]
    fn whoever_opens_it_finds_what_is_left_of_a_frame_and_where_its_reader_stands() {
        let mut inbox = Inbox::for_parcels(4096, at(500)).unwrap();
        assert_eq!(again(&inbox).parcel(), Some(Parcel { then: at(500), ..Parcel::default() }));
        let frame = Parcel { payload: 500..600, sequence: 1, then: at(600), ..Parcel::default() };
        inbox.begin_parcel(&[b"head", b"er"], frame);
        for (written, here, left) in
            [(0, &b"header"[..], 500..600), (4, b"er", 500..600), (10, b"", 504..600)]
        {
            inbox.settle(written);
            let found = again(&inbox);
            let parcel = found.parcel().expect("it is under way");
            assert_eq!((found.parcel_bytes(&parcel), parcel.payload_left(written)), (here, left));
            assert_eq!((parcel.to(), parcel.sequence, parcel.then), (106, 1, at(600)));
        }
        inbox.settle(106);
        let parcel = again(&inbox).parcel().expect("it has gone");
        assert_eq!((parcel.to(), parcel.payload_left(106)), (106, 600..600));
    }

    #[test]
    fn the_one_before_counts_until_the_next_one_is_all_noted() {
        let mut inbox = Inbox::for_parcels(4096, at(0)).unwrap();
        inbox.begin_parcel(&[b"first"], Parcel { sequence: 1, then: at(5), ..Parcel::default() });
        inbox.settle(5);
        inbox.begin_parcel(
            &[b"second"],
            Parcel { sequence: 2, then: Standing::default(), ..Parcel::default() },
        );
        let second = inbox.parcel().expect("it is under way");
        assert_eq!((inbox.parcel_bytes(&second), second.then.offset), (&b"second"[..], None));
        // As it was before the last word of the note.
        inbox.set(NUMBER, inbox.get(NUMBER) - 1);
        let first = again(&inbox).parcel().expect("it has gone");
        assert_eq!((first.from, first.to(), first.sequence, first.then), (0, 5, 1, at(5)));
    }

    /// A frame of 6 bytes of its own and 100 of a stream, 60 of which were staged when `gone` bytes had left, and `noted` says that
    /// something was on its way.
    fn moving(gone: u64, noted: bool) -> (Inbox, &'static [u8]) {
        const STAGED: &[u8] = b"header012345678901234567890123456789012345678901234567890123456789";
        let mut inbox = Inbox::for_parcels(4096, at(500)).unwrap();
        let frame = Parcel { payload: 500..600, sequence: 1, then: at(600), ..Parcel::default() };
        inbox.begin_parcel(&[b"header"], frame);
        inbox.moves(true);
        inbox.lend(STAGED.len());
        inbox.expect(if noted { STAGED.len() } else { 0 });
        (inbox, &STAGED[gone as usize..])
    }

    fn kept(inbox: &Inbox) -> (&[u8], Range<u64>, u64) {
        let parcel = inbox.parcel().expect("it is under way");
        assert_eq!((parcel.to(), parcel.sequence, parcel.then), (106, 1, at(600)));
        (inbox.parcel_bytes(&parcel), parcel.payload_left(inbox.written()), inbox.written())
    }

    #[test]
    fn what_was_staged_is_kept_wherever_a_kernel_was_killed() {
        for (gone, noted) in [(0, false), (0, true), (3, true), (6, true), (20, true)] {
            let (inbox, staged) = moving(gone, noted);
            let mut inbox = again(&inbox);
            assert!(inbox.is_moving());
            assert_eq!(inbox.settle_moving(staged.len()), Some(true));
            // Whoever settles it is killed as well: at once, after some was read, after all was, and before the word that counts.
            assert_eq!(again(&inbox).settle_moving(staged.len()), Some(true));
            let half = |into: &mut [u8]| {
                into[..10].copy_from_slice(&staged[..10]);
                Err(io::ErrorKind::Interrupted.into())
            };
            assert!(inbox.keep_staged(staged.len(), half).is_err());
            let (mut inbox, rest) = (again(&inbox), &staged[10..]);
            assert_eq!(inbox.settle_moving(rest.len()), Some(true));
            let all = |into: &mut [u8]| {
                into.copy_from_slice(rest);
                Err(io::ErrorKind::Interrupted.into())
            };
            assert!(inbox.keep_staged(rest.len(), all).is_err());
            let mut inbox = again(&inbox);
            for _ in 0..2 {
                assert_eq!(inbox.settle_moving(0), Some(true));
                inbox.keep_staged(0, |_| Ok(())).unwrap();
                assert_eq!(kept(&inbox), (staged, 560..600, gone));
                inbox.set(NUMBER, inbox.get(NUMBER) - 1);
            }
            inbox.keep_staged(0, |_| Ok(())).unwrap();
            assert_eq!(again(&inbox).settle_moving(0), Some(false), "it is all done");
            assert_eq!(kept(&again(&inbox)), (staged, 560..600, gone));
        }
    }

    #[test]
    fn what_has_gone_or_is_here_anyway_is_not_kept() {
        let (inbox, _) = moving(66, true);
        assert_eq!(inbox.settle_moving(0), Some(false));
        assert_eq!(kept(&inbox), (&b""[..], 560..600, 66));
        for staged in [0, 4, 6] {
            let (inbox, _) = moving(0, false);
            assert_eq!(inbox.settle_moving(staged), Some(false));
            assert_eq!(kept(&inbox), (&b"header"[..], 500..600, 0));
        }
        let (inbox, _) = moving(0, true);
        assert_eq!(inbox.settle_moving(67), None, "more is staged than was expected");
    }

    #[test]
    fn what_can_not_be_is_none() {
        let mut inbox = Inbox::for_parcels(4096, at(0)).unwrap();
        inbox.begin_parcel(&[b"x"], Parcel::default());
        inbox.settle(2);
        assert_eq!(inbox.parcel(), None, "more has gone than there was");
        assert_eq!(Inbox::create(4096).unwrap().parcel(), None);
    }
}
