//! Connections, and the table of them.
//!
//! Invariant: a key finds the connection it was given for, never a later one in the same place, and for good: one that is gone
//! is found as long as something of it goes on.

use super::Connection;
use crate::auth::decision::Rights;
use crate::permissions::recognizing::Recognized;
use crate::quotas::Welcome;
use crate::quotas::ledger::AccountId;
use kairo_dataplane::control::Peer;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::limits::CHUNK_V1_BYTES_MAX;
use std::collections::{BTreeMap, BTreeSet};

impl Connection {
    /// One that has negotiated nothing and has nothing.
    pub(crate) fn new(
        key: ConnectionKey,
        peer: Peer,
        known: Recognized,
        account: AccountId,
        welcome: Welcome,
    ) -> Connection {
        let Recognized { principal, life, agent_session, party } = known;
        Connection {
            key,
            peer,
            principal,
            account,
            welcome,
            dialect: Dialect::V1,
            records: false,
            timestamps: false,
            envelope: false,
            news_unsent: 0,
            news_read: 0,
            chunk_bytes_max: CHUNK_V1_BYTES_MAX as u32,
            greeted: false,
            half_closed: false,
            closing: welcome == Welcome::Closed,
            calls: Vec::new(),
            streams: BTreeSet::new(),
            inlets: BTreeSet::new(),
            following: BTreeSet::new(),
            waiting: 0,
            topics: BTreeSet::new(),
            attached: BTreeSet::new(),
            cpu: None,
            parked_bytes: 0,
            wards: BTreeSet::new(),
            token: None,
            intents: BTreeSet::new(),
            registered: BTreeSet::new(),
            life,
            agent_session,
            party,
            names: Vec::new(),
            rights: Rights::default(),
        }
    }
}

/// Connections by the place their reactor gave them.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    reactors: Vec<Vec<Option<Box<Connection>>>>,
    /// Those that are gone and yet not over; their places may be others'.
    lingering: BTreeMap<ConnectionKey, Box<Connection>>,
}

impl Connections {
    /// Adds one; whoever was in its place is gone.
    pub(crate) fn insert(&mut self, connection: Connection) {
        let (reactor, slot) = (usize::from(connection.key.reactor.0), connection.key.slot as usize);
        if self.reactors.len() <= reactor {
            self.reactors.resize_with(reactor + 1, Vec::new);
        }
        let slots = &mut self.reactors[reactor];
        if slots.len() <= slot {
            slots.resize_with(slot + 1, || None);
        }
        slots[slot] = Some(Box::new(connection));
    }

    /// The one of this key, not a later one in the same place.
    pub(crate) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        let slot =
            self.reactors.get(usize::from(key.reactor.0)).and_then(|slots| slots.get(key.slot as usize));
        let connection = slot.and_then(Option::as_deref);
        connection.filter(|it| it.key.generation == key.generation).or_else(|| self.lingers(key))
    }

    /// The same, to change.
    pub(crate) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        let slots = self.reactors.get_mut(usize::from(key.reactor.0));
        let slot = slots.and_then(|slots| slots.get_mut(key.slot as usize));
        let connection = slot.and_then(Option::as_deref_mut);
        connection
            .filter(|it| it.key.generation == key.generation)
            .or_else(|| self.lingering.get_mut(&key).map(|connection| &mut **connection))
    }

    /// One that is gone and yet not over.
    pub(crate) fn lingers(&self, key: ConnectionKey) -> Option<&Connection> {
        self.lingering.get(&key).map(|connection| &**connection)
    }

    /// Its socket is gone and its place free, but not all that is its own.
    pub(crate) fn linger(&mut self, key: ConnectionKey) {
        if let Some(mut connection) = self.remove(key) {
            connection.greeted = false;
            self.lingering.insert(key, connection);
        }
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, key: ConnectionKey) -> Option<Box<Connection>> {
        if let Some(lingering) = self.lingering.remove(&key) {
            return Some(lingering);
        }
        self.get(key)?;
        let slots = self.reactors.get_mut(usize::from(key.reactor.0))?;
        let connection = slots.get_mut(key.slot as usize)?.take();
        while slots.last().is_some_and(Option::is_none) {
            slots.pop();
        }
        connection
    }

    /// All of them, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        let there = self.reactors.iter().flatten().flatten();
        there.chain(self.lingering.values()).map(|connection| &**connection)
    }
}
