//! A frame on its way by an outlet in frames, noted before its first byte leaves, so that whoever comes after a kill can send the
//! rest of this very frame.
//!
//! ```text
//!   parcel:  [ bytes that are here │ bytes of a stream, which stay there until they are through ]
//!            ▲ from: T when it began
//! ```
//!
//! T counts bytes of the wire. What is here is a frame's header and prelude, or frames altogether; a large payload is only named.
//! Invariants: a parcel begins when all of the one before has gone; there are two places, and a word says which one counts, so
//! that a kill in the middle of a note leaves the one before, of which nothing is missing.

use super::{Inbox, RingError, field};
use crate::layout::PAGE_BYTES;
use std::ops::Range;

/// Parcels there have been; the last one is in the place of this number. 0: the inbox has none.
const NUMBER: usize = 3328;
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
        self.set(NUMBER, number);
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

    #[test]
    fn what_can_not_be_is_none() {
        let mut inbox = Inbox::for_parcels(4096, at(0)).unwrap();
        inbox.begin_parcel(&[b"x"], Parcel::default());
        inbox.settle(2);
        assert_eq!(inbox.parcel(), None, "more has gone than there was");
        assert_eq!(Inbox::create(4096).unwrap().parcel(), None);
    }
}
