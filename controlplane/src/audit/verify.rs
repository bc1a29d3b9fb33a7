//! Verifying: what comes in the order of a chain is held against what came before.
//!
//! The same for the store and for an export. Invariant: what is not as it was written is named by the numbers it is about,
//! and what follows is still looked at; whoever rewrites a record and all hashes behind it is found at the next checkpoint.

use super::chain::{Head, Link};
use super::checkpoint::{Checkpoint, PublicKey};
use crate::digest::hex;
use kairo_wire::methods::audit::AuditProblem;

/// Most problems that are told: a chain with more is known to be broken.
const PROBLEMS_MAX: usize = 100;

/// Looks at records and checkpoints, one after the other.
#[derive(Debug)]
pub struct Checker {
    /// The last record, as it says itself.
    head: Head,
    /// The last checkpoint there was.
    last: Option<Checkpoint>,
    /// Who has to have signed them; whoever did if it is none.
    key: Option<PublicKey>,
    /// What is there is not known to begin at the beginning: a first checkpoint may follow one that isn't here.
    is_part: bool,
    /// Records that were looked at.
    pub records: u64,
    /// Checkpoints that were.
    pub checkpoints: u64,
    /// What was found.
    pub problems: Vec<AuditProblem>,
}

impl Checker {
    /// Of a whole chain.
    pub fn whole(key: Option<PublicKey>) -> Checker {
        Checker {
            head: Head::default(),
            last: None,
            key,
            is_part: false,
            records: 0,
            checkpoints: 0,
            problems: Vec::new(),
        }
    }

    /// Of what lies behind a place, whatever that is; `last` is the checkpoint before it, if there is one.
    pub fn behind(head: Head, last: Option<Checkpoint>, key: Option<PublicKey>) -> Checker {
        let is_part = head.n > 0;
        Checker { head, last, is_part, ..Checker::whole(key) }
    }

    /// Of what stands behind a checkpoint for all that was dropped before it.
    pub fn anchored(anchor: Checkpoint, key: Option<PublicKey>) -> Checker {
        let mut checker = Checker { head: anchor.head(), is_part: true, ..Checker::whole(key) };
        checker.checkpoint(anchor);
        checker
    }

    /// With what was found before.
    pub(super) fn with(mut self, mut problems: Vec<AuditProblem>) -> Checker {
        problems.append(&mut self.problems);
        self.problems = problems;
        self
    }

    /// The last record there was.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The last checkpoint there was.
    pub fn last(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    /// The last record that is signed.
    pub fn signed_to(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.n)
    }

    /// Notes a problem.
    pub fn tell(&mut self, from: u64, to: u64, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(AuditProblem { from, to, what: what.into() });
        }
    }

    /// What is missing between the last record and `next`.
    fn miss(&mut self, next: u64) {
        let (from, to) = (self.head.n + 1, next - 1);
        self.tell(from, to, "missing: dropped, or moved elsewhere");
    }

    /// A record is next.
    pub fn record(&mut self, link: &Link) {
        self.records += 1;
        let (n, at) = (link.n(), self.head.n);
        if n <= at {
            let what = format!("it stands behind record {at}: it was inserted, or moved");
            return self.tell(n, n, what);
        }
        if n > at + 1 {
            self.miss(n);
        } else if self.head.hash_of(&link.body) != link.hash {
            let before = if at == 0 { "the beginning".to_owned() } else { format!("record {at}") };
            self.tell(n, n, format!("changed: it does not follow from {before} with the hash it has"));
        }
        self.head = Head { n, hash: link.hash };
    }

    /// A record that can't be read is next.
    pub fn unreadable(&mut self, n: u64, what: &str) {
        self.tell(n, n, format!("it can't be read: {what}"));
    }

    /// A checkpoint is next.
    pub fn checkpoint(&mut self, one: Checkpoint) {
        self.checkpoints += 1;
        let n = one.n;
        if !one.is_signed() {
            // What it says is nobody's word.
            return self.tell(n, n, "the checkpoint behind it is not signed with the key it names");
        }
        let signed = self.signed_to();
        if n < signed || n < self.head.n {
            let at = self.head.n;
            return self.tell(n, n, format!("the checkpoint behind it stands behind record {at}"));
        }
        if n > self.head.n {
            self.miss(n + 1);
        } else if one.hash != self.head.hash {
            self.tell(signed + 1, n, "changed: the hash that was signed behind them is another");
        }
        if self.key.is_some_and(|key| key != one.key) {
            self.tell(
                n,
                n,
                format!("the checkpoint behind it is signed with another key: {}", hex(&one.key)),
            );
        }
        let follows = match &self.last {
            Some(last) => one.previous == last.digest() && one.count == n - signed,
            None => self.is_part || (one.previous == [0; 32] && one.count == n),
        };
        if !follows {
            let what =
                "the checkpoint behind it follows another one than is there: one is missing, or was put in";
            self.tell(n, n, what);
        }
        self.head = one.head();
        self.last = Some(one);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::audit::checkpoint::Key;
    use crate::events::record::tests::record;
    use bytes::Bytes;
    use kairo_wire::codec::raw::Raw;

    /// Something of a chain.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) enum Piece {
        Record(Bytes),
        Checkpoint(Checkpoint),
    }

    /// A chain with a checkpoint behind every `every` records, and at its end.
    pub(crate) fn chain(records: u64, every: u64, key: &Key) -> Vec<Piece> {
        let (mut head, mut last, mut pieces) = (Head::default(), None, Vec::new());
        for n in 1..=records {
            let data = Raw::of(&serde_json::json!({"n": n, "float": 0.1, "bytes": "x"})).expect("a value");
            let bytes = record(2 * n, "kairo.security.denied", &data).encode().expect("a record");
            pieces.push(Piece::Record(head.add(2 * n, &bytes)));
            if n % every == 0 || n == records {
                let one = key.sign(&head, 1_000 + n, last.as_ref());
                pieces.push(Piece::Checkpoint(one.clone()));
                last = Some(one);
            }
        }
        pieces
    }

    fn check(pieces: &[Piece], key: Option<&Key>) -> Checker {
        let mut checker = Checker::whole(key.map(Key::public));
        for piece in pieces {
            match piece {
                Piece::Record(stored) => checker.record(&Link::parse(stored).expect("a link")),
                Piece::Checkpoint(one) => checker.checkpoint(one.clone()),
            }
        }
        checker
    }

    fn first(pieces: &[Piece], key: &Key) -> Option<(u64, u64)> {
        check(pieces, Some(key)).problems.first().map(|problem| (problem.from, problem.to))
    }

    fn place(pieces: &[Piece], n: u64) -> usize {
        let is = |piece: &Piece| matches!(piece, Piece::Record(stored) if Link::parse(stored).is_some_and(|link| link.n() == n));
        pieces.iter().position(is).expect("it is there")
    }

    fn flip(stored: &Bytes, at: usize) -> Bytes {
        let mut bytes = stored.to_vec();
        bytes[at] ^= 4;
        bytes.into()
    }

    fn flipped(piece: &Piece, at: usize) -> Piece {
        match piece {
            Piece::Record(stored) => Piece::Record(flip(stored, at)),
            Piece::Checkpoint(one) => {
                Piece::Checkpoint(Checkpoint::parse(&flip(&one.encode(), at)).expect("it is as long"))
            }
        }
    }

    #[test]
    fn what_is_as_it_was_written_has_no_problems() {
        let key = Key::new(&[1; 32]);
        let pieces = chain(50, 7, &key);
        let checker = check(&pieces, Some(&key));
        assert_eq!(checker.problems, []);
        assert_eq!((checker.records, checker.checkpoints, checker.signed_to()), (50, 8, 50));
        let middle = place(&pieces, 15);
        let Piece::Checkpoint(anchor) = &pieces[middle - 1] else { panic!("a checkpoint is before it") };
        let mut part = Checker::anchored(anchor.clone(), Some(key.public()));
        for piece in &pieces[middle..] {
            match piece {
                Piece::Record(stored) => part.record(&Link::parse(stored).expect("a link")),
                Piece::Checkpoint(one) => part.checkpoint(one.clone()),
            }
        }
        assert_eq!((part.problems.len(), part.head().n), (0, 50));
    }

    #[test]
    fn a_record_that_is_changed_dropped_moved_or_put_in_is_named() {
        let key = Key::new(&[1; 32]);
        let whole = chain(40, 10, &key);
        for n in 1..=40 {
            let at = place(&whole, n);
            let mut changed = whole.clone();
            changed[at] = flipped(&changed[at], 60);
            assert_eq!(first(&changed, &key), Some((n, n)), "changed");
            let mut dropped = whole.clone();
            dropped.remove(at);
            assert_eq!(first(&dropped, &key), Some((n, n)), "dropped");
            let mut doubled = whole.clone();
            doubled.insert(at, whole[at].clone());
            assert_eq!(first(&doubled, &key), Some((n, n)), "put in");
        }
        let mut moved = whole.clone();
        let (here, there) = (place(&whole, 12), place(&whole, 15));
        moved.swap(here, there);
        assert_eq!(first(&moved, &key), Some((12, 14)), "what should be there is missing");
    }

    #[test]
    fn a_history_that_is_written_anew_is_found_at_the_next_checkpoint() {
        let key = Key::new(&[1; 32]);
        let mut pieces = chain(40, 10, &key);
        // From record 13 on everything says something else, and every hash is right.
        let mut head = Head {
            n: 12,
            hash: Link::parse(match &pieces[place(&pieces, 12)] {
                Piece::Record(stored) => stored,
                Piece::Checkpoint(_) => unreachable!(),
            })
            .expect("a link")
            .hash,
        };
        for piece in &mut pieces[12..] {
            if let Piece::Record(stored) = piece
                && Link::parse(stored).expect("a link").n() > 12
            {
                *stored = head.add(99, b"a forged record");
            }
        }
        assert_eq!(first(&pieces, &key), Some((11, 20)));
    }

    #[test]
    fn who_signs_with_another_key_is_found_by_whoever_knows_the_key() {
        let (key, other) = (Key::new(&[1; 32]), Key::new(&[2; 32]));
        let forged = chain(20, 10, &other);
        assert_eq!(first(&forged, &key), Some((10, 10)));
        assert_eq!(check(&forged, None).problems, [], "who doesn't know the key can't tell");
    }

    #[test]
    fn a_checkpoint_that_is_taken_out_or_changed_is_named() {
        let key = Key::new(&[1; 32]);
        let whole = chain(40, 10, &key);
        let at = place(&whole, 20) + 1;
        let mut without = whole.clone();
        without.remove(at);
        assert_eq!(first(&without, &key), Some((30, 30)));
        for byte in [0, 9, 45, 60, 100, 180] {
            let mut changed = whole.clone();
            changed[at] = flipped(&changed[at], byte);
            assert!(first(&changed, &key).is_some(), "{byte}");
        }
    }

    /// The property: whatever is done to a chain but cutting off its end at a checkpoint is found.
    #[test]
    fn any_tampering_is_found() {
        let key = Key::new(&[1; 32]);
        for seed in 1..=200u64 {
            let mut state = seed;
            let mut dice = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % below
            };
            let whole = chain(5 + dice(40) as u64, 1 + dice(12) as u64, &key);
            let mut pieces = whole.clone();
            let (at, other) = (dice(pieces.len() - 1), dice(pieces.len()));
            match dice(4) {
                0 => {
                    let length = match &pieces[at] {
                        Piece::Record(stored) => stored.len(),
                        Piece::Checkpoint(one) => one.encode().len(),
                    };
                    pieces[at] = flipped(&pieces[at], dice(length));
                }
                1 => drop(pieces.remove(at)),
                2 => pieces.insert(other, whole[at].clone()),
                _ => pieces.swap(at, other),
            }
            let found = check(&pieces, Some(&key)).problems;
            assert_eq!(found.is_empty(), pieces == whole, "seed {seed}: {found:?}");
        }
    }
}
