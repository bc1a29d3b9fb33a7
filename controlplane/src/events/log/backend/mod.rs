//! What the log needs of the thing that keeps it: ordered keys in a few spaces, batches that are whole or not there.
//!
//! [`disk`] keeps them in files, [`memory`] in memory; [`simulation`](super::simulation) is a memory that fails. Invariant:
//! a view shows every batch whole or not at all, and the same ones for as long as it lives.

pub mod disk;
mod flusher;
pub(super) mod journal;
pub mod memory;
mod trees;

use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// One order of keys. Few, because each costs memory and files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Sequence number to record.
    Events,
    /// Type and sequence number, written with the event.
    Types,
    /// All other orders, written later.
    Index,
    /// Values, lives, gaps and the log's own accounts.
    State,
    /// The audit: retention never looks at it.
    Audit,
}

impl Space {
    /// All of them, in the order they are made.
    pub const ALL: [Space; 5] = [Space::Events, Space::Types, Space::Index, Space::State, Space::Audit];
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The key has this value.
    Put(Space, Bytes, Bytes),
    /// The key has none.
    Delete(Space, Bytes),
}

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system said no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What is there is not what was written.
    #[error("{0}")]
    Damaged(String),
}

/// A key and its value, or why they can't be had.
pub type Row = Result<(Bytes, Bytes), Fault>;
/// Rows in order.
pub type Rows<'a> = Box<dyn Iterator<Item = Row> + 'a>;

/// The one writer.
pub trait Backend: Send {
    /// Makes what is made late, if that is not done. To be called before anything is noted that counts on it.
    fn make(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// All of it or nothing; when it returns, a killed process loses none of it, and `batch` is empty.
    fn write(&mut self, batch: &mut Vec<Op>) -> Result<(), Fault>;
    /// When it returns, a power failure loses nothing written before.
    fn sync(&mut self) -> Result<(), Fault>;
    /// Where it is read.
    fn source(&self) -> Arc<dyn Source>;
}

/// Where views come from.
pub trait Source: Send + Sync {
    /// What is there now.
    fn view(&self) -> Box<dyn View + '_>;
    /// Bytes it takes, files or memory.
    fn bytes(&self) -> u64;
    /// Bytes of one space, about.
    fn space_bytes(&self, space: Space) -> u64;
}

/// What was there at one moment.
pub trait View {
    /// The value of one key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fault>;
    /// All rows from `from` to before `to`, or from the last of them back.
    fn rows(&self, space: Space, from: &[u8], to: &[u8], backward: bool) -> Rows<'_>;
}
