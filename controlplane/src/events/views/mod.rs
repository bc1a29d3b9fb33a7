//! Views: tables folded out of the log, event by event in the order of `seq`.
//!
//! ```text
//!   log ──pages──▶ Views ──▶ View: fold ──▶ rows ──▶ get, changed
//!                              └──────────▶ checkpoint (what changed) ──▶ store ──▶ restore
//! ```
//!
//! A pure engine: who hosts it reads the log, hands pages in ([`Views::apply`], from where each of
//! [`Views::cursors`] is), and stores what [`View::checkpoint`] gives. Rules: a view is a function of the events alone,
//! so that it is the same byte for byte if it is folded again, whatever the pages and restarts; an event a view can't
//! digest is counted and passed over; a row that would be new past [`Bounds`] isn't made and its events are counted,
//! those that are there go on; where that is wanted the oldest rows of what is over make room, and are counted; a reader is shown what it may hear of and nothing else.

mod correlations;
mod declared;
mod definition;
mod fold;
mod host;
mod intents;
mod live;
mod processes;
mod reduce;
mod table;
mod value;
mod view;

#[cfg(test)]
mod tests;

pub use definition::DefinitionError;
pub use host::{Host, Keeping};
pub use view::{Checkpoint, Query, RestoreError, View};

use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::digest::named;
use crate::events::record::Record;
use bytes::Bytes;
use declared::Declared;
use definition::Defined;
use fold::Fold;
use kairo_wire::codec::CodecError;
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::view::{ViewChangesResult, ViewDefinition, ViewGap, ViewGetResult, ViewSummary};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most views that clients may define.
pub const DEFINED_MAX: usize = 128;

/// Of these, most of one definer.
pub const DEFINED_BY_ONE_MAX: usize = 32;

/// Most rows one read or watch gives.
pub const ROWS_MAX: usize = 1_000;

/// How much a view may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Rows.
    pub keys: usize,
    /// What they take, bytes, about. New ones are made until they take half of it; those that are there may grow.
    pub bytes: usize,
    /// Rows of what is over. Past it, and where there is no room, the oldest of them go.
    pub finished: usize,
}

/// How much views may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Each built-in one.
    pub builtin: Bounds,
    /// A defined one whose definition doesn't say.
    pub defined: Bounds,
    /// Bytes of all defined ones together.
    pub defined_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            builtin: Bounds { keys: 100_000, bytes: 8 << 20, finished: 5_000 },
            defined: Bounds { keys: 1_000_000, bytes: 4 << 20, finished: usize::MAX },
            defined_bytes: 256 << 20,
        }
    }
}

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// There is no such view.
    #[error("there is no such view")]
    Unknown,
    /// It is another's, or built in.
    #[error("it is not the caller's view")]
    Foreign,
    /// The definition is wrong.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// There are as many as there may be.
    #[error("there are at most {DEFINED_MAX} defined views, and {DEFINED_BY_ONE_MAX} of one definer")]
    Full,
    /// They may take no more together.
    #[error(
        "views take at most {0} bytes together, and this one would take more than is left; `maxBytes` says how much it takes"
    )]
    Budget(u64),
    /// It can't be written.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl From<ViewError> for WireError {
    fn from(error: ViewError) -> WireError {
        let code = match error {
            ViewError::Definition(error) => return error.into(),
            ViewError::Unknown => Code::NotFound,
            ViewError::Foreign => Code::Conflict,
            ViewError::Full => Code::Busy,
            ViewError::Budget(_) => {
                return WireError::new(Code::Busy, error.to_string()).with("limit", "viewBytesMax");
            }
            ViewError::Codec(_) => Code::Internal,
        };
        WireError::new(code, error.to_string())
    }
}

/// All views.
#[derive(Debug)]
pub struct Views {
    owner_uid: u32,
    limits: Limits,
    views: BTreeMap<Arc<str>, (Option<Defined>, View)>,
}

impl Views {
    /// The built-in ones, at their beginning; `owner_uid` is the daemon's.
    pub fn new(owner_uid: u32, limits: Limits) -> Views {
        let builtin = Fold::BUILTIN.into_iter().map(|(name, fold)| {
            let digest = digest(&[b"builtin", name.as_bytes()], limits.builtin);
            (name.into(), (None, View::new(fold, digest, limits.builtin)))
        });
        Views { owner_uid, limits, views: builtin.collect() }
    }

    /// Folds a page of the log: all events it has from the number `from` on, in their order. Only views that have looked
    /// at everything before `from` take part.
    pub fn apply_page(&mut self, from: u64, page: &[(u64, Bytes)]) {
        let mut views: Vec<&mut View> =
            self.views.values_mut().map(|(_, view)| view).filter(|view| view.seq() + 1 >= from).collect();
        for (seq, bytes) in page {
            let record = Record::parse(*seq, bytes).ok();
            for view in &mut views {
                view.fold(*seq, record.as_ref());
            }
        }
    }

    /// Folds what a reading of the log gave for the numbers from `from` to `to`: `events`, and what is missing among them.
    pub fn apply(&mut self, from: u64, to: u64, events: &[(u64, Bytes)], gaps: &[ViewGap]) {
        let mut rest = events;
        for gap in gaps {
            let (before, behind) = rest.split_at(rest.partition_point(|(seq, _)| *seq < gap.from));
            self.apply_page(from, before);
            self.each_at(from, |view| view.gap(*gap));
            rest = behind;
        }
        self.apply_page(from, rest);
        self.each_at(from, |view| view.pass(to));
    }

    /// Every view that has looked at everything before `from`.
    fn each_at(&mut self, from: u64, mut what: impl FnMut(&mut View)) {
        self.views
            .values_mut()
            .map(|(_, view)| view)
            .filter(|view| view.seq() + 1 >= from)
            .for_each(&mut what);
    }

    /// Where views are, least first: a page is to be read from behind each.
    pub fn cursors(&self) -> BTreeSet<u64> {
        self.views.values().map(|(_, view)| view.seq()).collect()
    }

    /// All of them by name, for who stores them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut View)> {
        self.views.iter_mut().map(|(name, (_, view))| (name, view))
    }

    /// The definition of a view as it is to be stored; none for a built-in one.
    pub fn definition(&self, name: &str) -> Option<Bytes> {
        self.views.get(name)?.0.as_ref()?.encode().ok()
    }

    /// Takes a definition as it was stored, and gives its view's name.
    pub fn load(&mut self, bytes: &[u8]) -> Result<Arc<str>, ViewError> {
        let defined = Defined::decode(bytes)?;
        let name: Arc<str> = defined.definition.name.as_str().into();
        self.put(Arc::clone(&name), defined)?;
        Ok(name)
    }

    /// Takes a checkpoint as it was stored. On an error the view is at its beginning and has to be folded again.
    pub fn restore<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        name: &str,
        header: &[u8],
        rows: impl Iterator<Item = (N, V)>,
    ) -> Result<(), RestoreError> {
        let (_, view) = self.views.get_mut(name).ok_or(RestoreError::Definition)?;
        view.restore(header, rows)
    }

    /// Defines a view, or defines it anew. False if it is defined so already.
    pub fn define(&mut self, definition: ViewDefinition, definer: &Principal) -> Result<bool, ViewError> {
        let name: Arc<str> = definition.name.as_str().into();
        let defined = Defined { definition, definer: definer.clone() };
        match self.views.get(&name) {
            Some((Some(before), _)) if *before == defined => return Ok(false),
            Some((before, _)) => self.may_change(before.as_ref().ok_or(ViewError::Foreign)?, definer)?,
            None => {
                let defined = || self.views.values().filter_map(|(defined, _)| defined.as_ref());
                let own = defined().filter(|defined| defined.definer == *definer).count();
                if own >= DEFINED_BY_ONE_MAX || defined().count() >= DEFINED_MAX {
                    return Err(ViewError::Full);
                }
            }
        }
        let others = self.views.iter().filter(|(other, _)| **other != name);
        let taken: u64 = others.filter_map(|(_, (of, _))| Some(self.bytes_of(of.as_ref()?))).sum();
        if taken.saturating_add(self.bytes_of(&defined)) > self.limits.defined_bytes {
            return Err(ViewError::Budget(self.limits.defined_bytes));
        }
        self.put(name, defined)?;
        Ok(true)
    }

    fn put(&mut self, name: Arc<str>, defined: Defined) -> Result<(), ViewError> {
        let fold = Fold::Declared(Box::new(Declared::new(&defined)?));
        let bytes = usize::try_from(self.bytes_of(&defined)).unwrap_or(usize::MAX);
        let bounds = Bounds { bytes, ..self.limits.defined };
        let digest = digest(&[b"declared", &defined.encode()?], bounds);
        self.views.insert(name, (Some(defined), View::new(fold, digest, bounds)));
        Ok(())
    }

    /// How much a defined view may take.
    fn bytes_of(&self, defined: &Defined) -> u64 {
        defined.definition.max_bytes.unwrap_or(self.limits.defined.bytes as u64)
    }

    fn may_change(&self, defined: &Defined, principal: &Principal) -> Result<(), ViewError> {
        let own = defined.definer == *principal;
        let may = own || may_touch(principal, &defined.definer.creator(self.owner_uid));
        if may { Ok(()) } else { Err(ViewError::Foreign) }
    }

    /// Forgets a view. False if there is none of this name.
    pub fn drop(&mut self, name: &str, principal: &Principal) -> Result<bool, ViewError> {
        let Some((defined, _)) = self.views.get(name) else { return Ok(false) };
        self.may_change(defined.as_ref().ok_or(ViewError::Foreign)?, principal)?;
        Ok(self.views.remove(name).is_some())
    }

    /// Begins a view again, a built-in one for the owner alone. False if there is none of this name.
    pub fn rebuild(&mut self, name: &str, principal: &Principal) -> Result<bool, ViewError> {
        let Some((defined, _)) = self.views.get(name) else { return Ok(false) };
        match defined {
            Some(defined) => self.may_change(defined, principal)?,
            None if *principal == Principal::Owner => {}
            None => return Err(ViewError::Foreign),
        }
        if let Some((_, view)) = self.views.get_mut(name) {
            view.rebuild();
        }
        Ok(true)
    }

    /// Reads rows that `principal` may hear of.
    pub fn get(
        &self,
        name: &str,
        query: &Query<'_>,
        principal: &Principal,
    ) -> Result<ViewGetResult, ViewError> {
        let (_, view) = self.views.get(name).ok_or(ViewError::Unknown)?;
        Ok(view.get(&Query { limit: query.limit.clamp(1, ROWS_MAX), ..*query }, principal))
    }

    /// The rows that changed after the event `since`, each once, as they are now; with the key `only` alone, if there is
    /// one.
    pub fn changed_since(
        &self,
        name: &str,
        since: u64,
        only: Option<&str>,
        limit: usize,
        principal: &Principal,
    ) -> Result<ViewChangesResult, ViewError> {
        let (_, view) = self.views.get(name).ok_or(ViewError::Unknown)?;
        Ok(view.changed_since(since, only, limit.clamp(1, ROWS_MAX), principal))
    }

    /// Begins a view again that has seen any of these ranges `[from, to)`, which are lost now, or events there are none of.
    pub fn saw(&mut self, name: &str, last_seq: u64, lost: &[(u64, u64)]) -> bool {
        let Some((_, view)) = self.views.get_mut(name) else { return false };
        let seen = |(from, to): &(u64, u64)| *from <= view.seq() && !view.misses(*from, *to);
        let wrong = view.seq() > last_seq || lost.iter().any(seen);
        if wrong {
            view.rebuild();
        }
        wrong
    }

    /// Of which types the events are that a view is made of.
    pub fn topics(&self, name: &str) -> Result<Arc<[Arc<str>]>, ViewError> {
        self.views.get(name).map(|(_, view)| view.topics()).ok_or(ViewError::Unknown)
    }

    /// How far a view is.
    pub fn seq(&self, name: &str) -> Result<u64, ViewError> {
        self.views.get(name).map(|(_, view)| view.seq()).ok_or(ViewError::Unknown)
    }

    /// All of them and how far they are; `last_seq` is the last event there is.
    pub fn list(&self, last_seq: u64, principal: &Principal) -> Vec<ViewSummary> {
        let summary = |(name, (defined, view)): (&Arc<str>, &(Option<Defined>, View))| {
            let mut summary = view.summary(name, last_seq);
            let shown = defined.as_ref().filter(|defined| self.may_change(defined, principal).is_ok());
            summary.definition = shown.map(|defined| Box::new(defined.definition.clone()));
            summary
        };
        self.views.iter().map(summary).collect()
    }
}

/// Views of one digest make the same rows of the same events.
fn digest(of: &[&[u8]], bounds: Bounds) -> u128 {
    let [keys, bytes, finished] =
        [bounds.keys, bounds.bytes, bounds.finished].map(|bound| (bound as u64).to_le_bytes());
    named(&[of, &[&keys[..], &bytes[..], &finished[..]]].concat())
}
