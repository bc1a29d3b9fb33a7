//! Where to look next: at what an index names, or at one event after the other while most of them are wanted anyway.
//!
//! To ask an index is to read a key beside every event, and to begin is to look for a dozen lists: where every other event
//! matches that costs more than it spares. So a walk begins without, asks once it has looked in vain too often, and goes
//! without again when the index passes nothing over. Invariant: no event that matches is left out.

use super::indexed_to;
use super::postings::Candidates;
use super::query::Query;
use crate::events::log::backend::{Fault, View};

/// Events that don't match are looked at in vain this often before an index is asked at first …
const PATIENCE: u32 = 24;
/// … and this often at most, after many that did.
const PATIENCE_MAX: u32 = 96;

/// What to look at.
pub(super) struct Guide<'a> {
    view: &'a dyn View,
    query: &'a Query,
    range: (u64, u64),
    /// Made when first asked.
    candidates: Option<Candidates<'a>>,
    /// Events that may be looked at in vain.
    patience: u32,
    /// The last answer came from an index.
    asked: bool,
}

impl<'a> Guide<'a> {
    pub(super) fn new(view: &'a dyn View, query: &'a Query, range: (u64, u64)) -> Guide<'a> {
        Guide { view, query, range, candidates: None, patience: PATIENCE, asked: false }
    }

    /// The next number to look at, `at` or beyond it.
    pub(super) fn next(&mut self, at: u64) -> Result<Option<u64>, Fault> {
        self.asked = self.patience == 0;
        if !self.asked {
            return Ok(Some(at));
        }
        let candidates = match &mut self.candidates {
            Some(candidates) => candidates,
            none => {
                let indexed_to = indexed_to(self.view)?;
                none.insert(Candidates::new(self.view, self.query, self.range, indexed_to)?)
            }
        };
        let next = candidates.next(at)?;
        // It has passed nothing over.
        self.patience = if next == Some(at) { 2 } else { 0 };
        Ok(next)
    }

    /// True if only what an index named is looked at now.
    pub(super) fn was_asked(&self) -> bool {
        self.asked
    }

    /// What was looked at was wanted, or wasn't.
    pub(super) fn learn(&mut self, wanted: bool) {
        self.patience = match wanted {
            true if self.patience > 0 => (self.patience + 1).min(PATIENCE_MAX),
            true => 0,
            false => self.patience.saturating_sub(1),
        };
    }
}
