//! The grants there are, and what finds them: by whom they are for, by what ends them, by what they rest on, by their time.
//!
//! Invariant: every index names exactly the grants of the table, so no question about some of them looks at all.

use crate::auth::subject::{Party, Subject};
use crate::permissions::Grant;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// What grants and requests are called.
pub(crate) type Id = Arc<str>;

/// Names, by something they have in common.
#[derive(Debug)]
pub(crate) struct Index<K, V = Id>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Index(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Index<K, V> {
    /// Adds one.
    pub(crate) fn put(&mut self, key: &K, name: &V) {
        match self.0.get_mut(key) {
            Some(names) => drop(names.insert(name.clone())),
            None => drop(self.0.insert(key.clone(), BTreeSet::from([name.clone()]))),
        }
    }

    /// Takes one out.
    pub(crate) fn take(&mut self, key: &K, name: &V) {
        if let Some(names) = self.0.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Those of one key, in order.
    pub(crate) fn of<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = &V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten()
    }

    /// All keys there are.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// How many names there are under all keys.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}

/// All grants.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    all: BTreeMap<Id, Arc<Grant>>,
    of_party: Index<Party>,
    /// That end with a session, an intent, another grant.
    of_session: Index<Arc<str>>,
    of_intent: Index<Box<str>>,
    resting: Index<Id>,
    /// By when they expire.
    due: BTreeSet<(u64, Id)>,
}

/// The sessions a grant ends with.
fn sessions(grant: &Grant) -> impl Iterator<Item = &Arc<str>> {
    let own = match &grant.party.subject {
        Subject::Session(session) => Some(session),
        _ => None,
    };
    own.into_iter().chain(&grant.session)
}

impl Grants {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// One.
    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Grant>> {
        self.all.get(id)
    }

    /// Adds one.
    pub(crate) fn insert(&mut self, grant: Arc<Grant>) {
        let id = &grant.id;
        self.of_party.put(&grant.party, id);
        sessions(&grant).for_each(|session| self.of_session.put(session, id));
        grant.intent.iter().for_each(|intent| self.of_intent.put(intent, id));
        grant.rests_on.iter().for_each(|source| self.resting.put(source, id));
        self.due.extend(grant.expires_ms.map(|at_ms| (at_ms, Arc::clone(id))));
        self.all.insert(Arc::clone(id), grant);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Arc<Grant>> {
        let grant = self.all.remove(id)?;
        let id = &grant.id;
        self.of_party.take(&grant.party, id);
        sessions(&grant).for_each(|session| self.of_session.take(session, id));
        grant.intent.iter().for_each(|intent| self.of_intent.take(intent, id));
        grant.rests_on.iter().for_each(|source| self.resting.take(source, id));
        if let Some(at_ms) = grant.expires_ms {
            self.due.remove(&(at_ms, Arc::clone(id)));
        }
        Some(grant)
    }

    fn found<'a>(&'a self, ids: impl Iterator<Item = &'a Id>) -> impl Iterator<Item = &'a Arc<Grant>> {
        ids.filter_map(|id| self.all.get(id))
    }

    /// Those of a party.
    pub(crate) fn of_party<'a>(&'a self, party: &Party) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.found(self.of_party.of(party))
    }

    /// Those that end with a session.
    pub(crate) fn of_session<'a>(&'a self, session: &str) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.found(self.of_session.of(session))
    }

    /// Those that end with an intent.
    pub(crate) fn of_intent<'a>(&'a self, intent: &str) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.found(self.of_intent.of(intent))
    }

    /// Those that were given by this one.
    pub(crate) fn resting_on<'a>(&'a self, id: &str) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.found(self.resting.of(id))
    }

    /// Sessions and intents that grants end with.
    pub(crate) fn ends(&self) -> (Vec<Arc<str>>, Vec<Box<str>>) {
        (self.of_session.keys().cloned().collect(), self.of_intent.keys().cloned().collect())
    }

    /// Grants that others rest on and that are not there.
    pub(crate) fn missing(&self) -> Vec<Id> {
        self.resting.keys().filter(|id| !self.all.contains_key(*id)).cloned().collect()
    }

    /// When the next one expires.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(at_ms, _)| *at_ms)
    }

    /// Those whose time is over.
    pub(crate) fn due(&self, now_ms: u64) -> Vec<Id> {
        self.due.iter().take_while(|(at_ms, _)| *at_ms <= now_ms).map(|(_, id)| Arc::clone(id)).collect()
    }

    /// Those that come after one, by their ids.
    pub(crate) fn after(&self, id: Option<&str>) -> impl Iterator<Item = &Arc<Grant>> {
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.range::<str, _>((from, Bound::Unbounded)).map(|(_, grant)| grant)
    }

    /// Whether the indexes are as the table is.
    pub(crate) fn is_whole(&self) -> bool {
        let counted = |count: fn(&Grant) -> usize| self.all.values().map(|grant| count(grant)).sum::<usize>();
        self.of_party.count() == self.all.len()
            && self.of_session.count() == counted(|grant| sessions(grant).collect::<BTreeSet<_>>().len())
            && self.of_intent.count() == counted(|grant| usize::from(grant.intent.is_some()))
            && self.resting.count() == counted(|grant| grant.rests_on.len())
            && self.due.len() == counted(|grant| usize::from(grant.expires_ms.is_some()))
    }
}
