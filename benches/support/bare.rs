//! fjall by itself: its own settings, and the keys that an event has in the log.

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, UserValue};
use kairo_wire::id::EventId;
use std::path::Path;

/// The index has one entry of times for so many events, as the log's.
const BLOCK: u64 = 1_024;

/// Which keys an event has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Those that are written with it: its place, its type.
    Own,
    /// All that the log has of it in the end: its story and its source, too, and the times of its block.
    All,
}

/// An open database.
pub(crate) struct Bare {
    database: Database,
    events: Keyspace,
    types: Keyspace,
    index: Keyspace,
    keys: Keys,
}

impl Bare {
    pub(crate) fn open(folder: &Path, keys: Keys) -> Bare {
        let database = Database::builder(folder).open().expect("fjall opens");
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).expect("a keyspace");
        let (events, types, index) = (keyspace("events"), keyspace("types"), keyspace("index"));
        Bare { database, events, types, index, keys }
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
        for (number, topic, record) in rows {
            let seq = number.to_be_bytes();
            if self.keys == Keys::All {
                // An event that begins a story gives it its own name.
                let name = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                let story = EventId::from_bytes(name.to_be_bytes());
                batch.insert(&self.index, [b"c", &[36][..], story.as_str().as_bytes(), &seq].concat(), []);
                batch.insert(&self.index, [b"s", &[6][..], b"user:0", &seq].concat(), []);
                if number % BLOCK == 0 {
                    batch.insert(&self.index, [&b"t"[..], &(number / BLOCK).to_be_bytes()].concat(), [0; 16]);
                }
            }
            batch.insert(&self.events, seq, record);
            batch.insert(&self.types, [topic.as_ref().as_bytes(), &[0], &seq].concat(), []);
        }
        batch.commit().expect("it can be written");
    }

    /// Has what was written lie in tables.
    pub(crate) fn settle(&self) {
        for keyspace in [&self.events, &self.types, &self.index] {
            keyspace.rotate_memtable_and_wait().expect("it can be flushed");
        }
    }

    /// Bytes of all records.
    pub(crate) fn scan(&self) -> usize {
        self.events.iter().map(|row| row.into_inner().expect("it can be read").1.len()).sum()
    }
}
