//! fjall by itself: its own settings, and the keys that appending an event writes.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserValue};
use std::path::Path;

/// An open database.
pub(crate) struct Bare {
    database: Database,
    events: Keyspace,
    types: Keyspace,
}

impl Bare {
    pub(crate) fn open(folder: &Path) -> Bare {
        let database = Database::builder(folder).open().expect("fjall opens");
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).expect("a keyspace");
        let (events, types) = (keyspace("events"), keyspace("types"));
        Bare { database, events, types }
    }

    /// Writes places, types and records in one commit.
    pub(crate) fn write<T: AsRef<str>, R: Into<UserValue>>(
        &self,
        rows: impl Iterator<Item = (u64, T, R)>,
        flush: bool,
    ) {
        let mut batch = self.database.batch();
        if flush {
            batch = batch.durability(Some(PersistMode::SyncData));
        }
        for (seq, topic, record) in rows {
            let seq = seq.to_be_bytes();
            batch.insert(&self.events, seq, record);
            batch.insert(&self.types, [topic.as_ref().as_bytes(), &[0], &seq].concat(), []);
        }
        batch.commit().expect("it can be written");
    }

    /// Has what was written lie in tables.
    pub(crate) fn settle(&self) {
        for keyspace in [&self.events, &self.types] {
            keyspace.rotate_memtable_and_wait().expect("it can be flushed");
        }
    }

    /// Bytes of all records.
    pub(crate) fn scan(&self) -> usize {
        self.events.iter().map(|row| row.into_inner().expect("it can be read").1.len()).sum()
    }
}
