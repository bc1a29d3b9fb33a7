//! Events one by one, around what can't be read.
//!
//! A damaged block makes every read into it fail, a damaged index every read of a range that reaches into its table. So
//! after a failure the range is read in windows that shrink until one can be read, or is a single number that can't.
//! Where reading works again behind that one is found by looking at single numbers in doubling steps and then halving;
//! what lies between is a hole. Invariant: steps move in one direction and never overlap.

use crate::events::log::backend::{Fault, Rows, Space, View};
use crate::events::log::keys;
use bytes::Bytes;
use std::io::ErrorKind;

/// Rows that are stepped over rather than looked for anew: to look is to read a block, which has dozens.
const NEAR: u64 = 96;

/// By how much windows shrink after a failure, and from where.
const SHRINK: u64 = 16;
const WINDOW_MAX: u64 = 4_096;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::events::log) enum Step {
    /// An event.
    Event(u64, Bytes),
    /// From the lower to the higher number nothing can be read.
    Hole(u64, u64),
}

/// A walk through a range of events.
pub(in crate::events::log) struct Events<'a> {
    view: &'a dyn View,
    /// What is left of the range; none when nothing is.
    rest: Option<(u64, u64)>,
    backward: bool,
    /// How much of it is read as one.
    window: u64,
    /// The rows of a window, and its far end.
    rows: Option<(Rows<'a>, u64)>,
    back: Option<(u64, Bytes)>,
}

impl Fault {
    /// True if trying again is of no use: what is on the disk is not what was written.
    pub(in crate::events::log) fn is_damage(&self) -> bool {
        /// Input/output error.
        const EIO: i32 = 5;
        match self {
            Fault::Damaged(_) => true,
            Fault::Io(error) => {
                let kinds = [ErrorKind::UnexpectedEof, ErrorKind::InvalidData, ErrorKind::NotFound];
                error.raw_os_error() == Some(EIO)
                    || kinds.contains(&error.kind())
                    || error.kind() == ErrorKind::Other
            }
        }
    }
}

impl<'a> Events<'a> {
    pub(in crate::events::log) fn new(view: &'a dyn View, from: u64, to: u64, backward: bool) -> Events<'a> {
        let rest = (from <= to).then_some((from, to));
        Events { view, rest, backward, window: u64::MAX, rows: None, back: None }
    }

    /// The next event at `at` or beyond it, or a hole before one.
    pub(in crate::events::log) fn next_from(&mut self, at: u64) -> Result<Option<Step>, Fault> {
        if let Some((seq, record)) = self.back.take().filter(|(seq, _)| self.reaches(*seq, at)) {
            return Ok(Some(Step::Event(seq, record)));
        }
        self.skip_to(at);
        while let Some((from, to)) = self.rest {
            let (view, backward, size) = (self.view, self.backward, self.window);
            let (rows, edge) = self.rows.get_or_insert_with(|| window(view, from, to, backward, size));
            let edge = *edge;
            match rows.next() {
                None => {
                    self.rows = None;
                    self.leave(edge);
                    self.window = self.window.saturating_mul(2);
                }
                Some(Ok((key, record))) => {
                    let Some(seq) = keys::number(&key) else { continue };
                    self.leave(seq);
                    if self.reaches(seq, at) {
                        return Ok(Some(Step::Event(seq, record)));
                    }
                }
                Some(Err(fault)) if fault.is_damage() => {
                    self.rows = None;
                    let length = if self.backward { to - edge } else { edge - from };
                    if length == 0 {
                        let (first, last) = self.hole(from, to)?;
                        self.leave(if self.backward { first } else { last });
                        return Ok(Some(Step::Hole(first, last)));
                    }
                    self.window = length.min(WINDOW_MAX).div_ceil(SHRINK);
                }
                Some(Err(fault)) => return Err(fault),
            }
        }
        Ok(None)
    }

    /// Gives back an event that wasn't the one.
    pub(super) fn put_back(&mut self, seq: u64, record: Bytes) {
        self.back = Some((seq, record));
    }

    fn reaches(&self, seq: u64, at: u64) -> bool {
        if self.backward { seq <= at } else { seq >= at }
    }

    /// Narrows the range to what begins at `at`; a long way is looked for anew.
    fn skip_to(&mut self, at: u64) {
        let Some((from, to)) = self.rest else { return };
        let way = if self.backward { to.saturating_sub(at) } else { at.saturating_sub(from) };
        if way > NEAR || (way > 0 && self.rows.is_none()) {
            self.rows = None;
            self.rest =
                Some(if self.backward { (from, at) } else { (at, to) }).filter(|(from, to)| from <= to);
        }
    }

    /// What is left behind `seq`.
    fn leave(&mut self, seq: u64) {
        self.rest = self.rest.and_then(|(from, to)| {
            let rest = if self.backward { (from, seq.checked_sub(1)?) } else { (seq + 1, to) };
            Some(rest).filter(|(from, to)| from <= to)
        });
    }

    /// The hole that begins where the range does.
    fn hole(&self, from: u64, to: u64) -> Result<(u64, u64), Fault> {
        let (length, backward) = (to - from, self.backward);
        // By how far it is from the beginning of the range; the beginning itself can't be read.
        let readable = |far: u64| {
            let seq = if backward { to - far } else { from + far };
            match rows(self.view, seq, seq, backward).next() {
                Some(Err(fault)) if fault.is_damage() => Ok(false),
                Some(Err(fault)) => Err(fault),
                Some(Ok(_)) | None => Ok(true),
            }
        };
        let (mut bad, mut good) = (0, 1);
        while good <= length && !readable(good)? {
            bad = good;
            good *= 2;
        }
        good = good.min(length + 1);
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if readable(middle)? { good = middle } else { bad = middle }
        }
        Ok(if backward { (to - bad, to) } else { (from, from + bad) })
    }
}

fn rows(view: &dyn View, from: u64, to: u64, backward: bool) -> Rows<'_> {
    view.rows(Space::Events, &keys::event(from), &keys::event(to.saturating_add(1)), backward)
}

/// The first `size` numbers of the range, in the direction of the walk, and the last of these.
fn window(view: &dyn View, from: u64, to: u64, backward: bool, size: u64) -> (Rows<'_>, u64) {
    let far = size - 1;
    if backward {
        let edge = from.max(to.saturating_sub(far));
        (rows(view, edge, to, true), edge)
    } else {
        let edge = to.min(from.saturating_add(far));
        (rows(view, from, edge, false), edge)
    }
}
