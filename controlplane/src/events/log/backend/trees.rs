//! The trees of the database, one for each space, and the numbers that order what is in them.
//!
//! Every batch has a number, and so has every list of files a tree had. A view is a number: it shows all batches below it,
//! from the files of its time, which stay for as long as it is open. Invariant: a batch's number is published when all of
//! the batch is in the trees, never before.

use super::journal::{self, Item};
use super::{Fault, Op, Rows, Source, Space, View};
use bytes::Bytes;
use lsm_tree::compaction::{CompactionStrategy, Leveled};
use lsm_tree::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy, PinningPolicy};
use lsm_tree::{
    AbstractTree, AnyTree, Cache, CompressionType, Config, DescriptorTable, Guard, InternalValue,
    SequenceNumberCounter, ValueType,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Blocks kept in memory, of all spaces together.
const CACHE_BYTES: u64 = 8 << 20;
/// Files kept open.
const FILES_MAX: usize = 256;
/// Keys that come in no order are merged in tables of this size: a step of the work is short then.
const TABLE_BYTES: u64 = 1 << 20;
/// So many tables of one flush each are merged at once.
const FRESH_TABLES: u8 = 8;

/// With fewer fresh tables nothing is merged or moved.
const WORTH_TABLES: usize = 4;

/// The trees.
pub(super) struct Trees {
    trees: [AnyTree; Space::ALL.len()],
    /// Gives the next number.
    numbers: SequenceNumberCounter,
    /// Behind the last whole batch.
    published: AtomicU64,
    /// Held from taking a batch's number to publishing it.
    writing: Mutex<()>,
    /// How many views there are of each number.
    views: Mutex<BTreeMap<u64, usize>>,
    folder: PathBuf,
    /// Held for as long as anybody reads or writes.
    _lock: std::fs::File,
}

impl From<lsm_tree::Error> for Fault {
    fn from(error: lsm_tree::Error) -> Fault {
        match error {
            lsm_tree::Error::Io(error) => Fault::Io(error),
            other => Fault::Damaged(format!("{other:?}")),
        }
    }
}

fn config(space: Space, config: Config) -> Config {
    let block = match space {
        Space::Events | Space::Types | Space::Index | Space::Audit => 8 << 10,
        Space::State => 4 << 10,
    };
    let config = config
        .data_block_size_policy(BlockSizePolicy::all(block))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        .index_block_pinning_policy(PinningPolicy::all(false))
        .filter_block_pinning_policy(PinningPolicy::all(false));
    match space {
        // Read in order only: a filter would be of no use.
        Space::Events | Space::Types | Space::Index | Space::Audit => {
            config.filter_policy(FilterPolicy::disabled()).expect_point_read_hits(true)
        }
        Space::State => config,
    }
}

/// How the tables of a space are merged. Those of events are only moved, for their keys rise.
fn strategy(space: Space) -> Arc<dyn CompactionStrategy> {
    let leveled = Leveled::default();
    Arc::new(match space {
        Space::Events | Space::State | Space::Audit => leveled,
        Space::Types | Space::Index => {
            leveled.with_table_target_size(TABLE_BYTES).with_l0_threshold(FRESH_TABLES)
        }
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trees {
    /// Opens or makes the trees in `folder`.
    pub(super) fn open(folder: &Path, lock: std::fs::File) -> Result<Trees, Fault> {
        let numbers = SequenceNumberCounter::new(1);
        // What a tree would show by itself: views have numbers of their own.
        let shown = SequenceNumberCounter::default();
        let cache = Arc::new(Cache::with_capacity_bytes(CACHE_BYTES));
        let files = Arc::new(DescriptorTable::new(FILES_MAX));
        let open = |space: Space| {
            let path = folder.join("keyspaces").join(journal::id(space).to_string());
            let made = Config::new(path, numbers.clone(), shown.clone())
                .use_cache(cache.clone())
                .use_descriptor_table(Some(files.clone()));
            config(space, made).open()
        };
        let trees = [
            open(Space::Events)?,
            open(Space::Types)?,
            open(Space::Index)?,
            open(Space::State)?,
            open(Space::Audit)?,
        ];
        let highest = trees.iter().filter_map(AbstractTree::get_highest_persisted_seqno).max();
        numbers.fetch_max(highest.map_or(1, |highest| highest + 1));
        let published = AtomicU64::new(numbers.get());
        Ok(Trees {
            trees,
            numbers,
            published,
            writing: Mutex::default(),
            views: Mutex::default(),
            folder: folder.to_path_buf(),
            _lock: lock,
        })
    }

    /// The highest number in each space's tables.
    pub(super) fn in_tables(&self) -> [Option<u64>; Space::ALL.len()] {
        self.trees.each_ref().map(AbstractTree::get_highest_persisted_seqno)
    }

    /// Takes in a batch from a journal, but not what is `in_tables`. Returns the bytes it takes in memory.
    pub(super) fn again(
        &self,
        number: u64,
        items: &[Item<'_>],
        in_tables: &[Option<u64>; Space::ALL.len()],
    ) -> u64 {
        let mut bytes = 0;
        for item in items {
            let space = Space::ALL.into_iter().find(|space| journal::id(*space) == item.space);
            let Some(space) = space.map(|space| space as usize) else { continue };
            if in_tables[space].is_some_and(|highest| number <= highest) {
                continue;
            }
            let tree = &self.trees[space];
            bytes += match item.value {
                Some(value) => tree.insert(item.key, value, number).0,
                None => tree.remove(item.key, number).0,
            };
        }
        self.numbers.fetch_max(number + 1);
        self.published.fetch_max(number + 1, Ordering::AcqRel);
        bytes
    }

    /// Writes a batch, once `note` has it. Returns the bytes it takes in memory.
    pub(super) fn write(
        &self,
        batch: &mut Vec<Op>,
        note: impl FnOnce(u64, &[Op]) -> Result<(), Fault>,
    ) -> Result<u64, Fault> {
        let _writing = locked(&self.writing);
        let number = self.numbers.next();
        note(number, batch)?;
        // Only the writer has them changed, so they can be looked up once.
        let tables = self.trees.each_ref().map(AbstractTree::active_memtable);
        let mut bytes = 0;
        for op in batch.drain(..) {
            let (space, key, value, what) = match op {
                Op::Put(space, key, value) => (space, key, value, ValueType::Value),
                Op::Delete(space, key) => (space, key, Bytes::new(), ValueType::Tombstone),
            };
            bytes +=
                tables[space as usize].insert(InternalValue::from_components(key, value, number, what)).0;
        }
        self.published.fetch_max(number + 1, Ordering::AcqRel);
        Ok(bytes)
    }

    /// What is in memory is to be flushed; what comes now goes elsewhere.
    pub(super) fn rotate(&self) {
        for tree in &self.trees {
            tree.rotate_memtable();
        }
    }

    /// Writes what was rotated to tables, which the disk has when this returns.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        let flush = |tree: &AnyTree| -> Result<(), Fault> {
            let lock = tree.get_flush_lock();
            tree.flush(&lock, self.watermark())?;
            Ok(())
        };
        // Nearly all of it is waiting for the disk, half a dozen times for each tree: they wait together.
        std::thread::scope(|scope| {
            let running = self.trees.each_ref().map(|tree| scope.spawn(|| flush(tree)));
            let panicked = |_| Err(Fault::Io(std::io::Error::other("a flush panicked")));
            running.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })?;
        self.settle()
    }

    /// One step of merging in every space. False if there was nothing to do.
    pub(super) fn compact(&self) -> Result<bool, Fault> {
        let mut moved = false;
        for space in Space::ALL {
            let tree = &self.trees[space as usize];
            if tree.level_table_count(0).is_some_and(|fresh| fresh < WORTH_TABLES) {
                continue;
            }
            let before = tree.current_version().id();
            tree.compact(strategy(space), self.watermark())?;
            moved |= tree.current_version().id() != before;
        }
        if moved {
            self.settle()?;
        }
        Ok(moved)
    }

    /// New views are to see the new files, and nobody needs the old ones, unless a view is open.
    fn settle(&self) -> Result<(), Fault> {
        {
            let _writing = locked(&self.writing);
            self.published.fetch_max(self.numbers.get(), Ordering::AcqRel);
        }
        let watermark = self.watermark();
        for tree in &self.trees {
            tree.get_version_history_lock().maintenance(&tree.tree_config().path, watermark)?;
        }
        Ok(())
    }

    /// No view is of a lower number, nor will be.
    fn watermark(&self) -> u64 {
        let views = locked(&self.views);
        let published = self.published.load(Ordering::Acquire);
        views.keys().next().map_or(published, |least| published.min(*least))
    }
}

impl Source for Trees {
    fn view(&self) -> Box<dyn View + '_> {
        let mut views = locked(&self.views);
        let at = self.published.load(Ordering::Acquire);
        *views.entry(at).or_default() += 1;
        Box::new(Moment { trees: self, at })
    }

    fn bytes(&self) -> u64 {
        let tables = self.trees.iter().map(AbstractTree::disk_space).sum::<u64>();
        tables + journal::bytes(&self.folder)
    }

    fn space_bytes(&self, space: Space) -> u64 {
        let tree = &self.trees[space as usize];
        tree.disk_space() + tree.active_memtable().size()
    }
}

struct Moment<'a> {
    trees: &'a Trees,
    at: u64,
}

impl Drop for Moment<'_> {
    fn drop(&mut self) {
        let mut views = locked(&self.trees.views);
        if let Some(count) = views.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                views.remove(&self.at);
            }
        }
    }
}

impl View for Moment<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.trees.trees[space as usize].get(key, self.at)?.map(Bytes::from))
    }

    fn rows(&self, space: Space, from: &[u8], to: &[u8], backward: bool) -> Rows<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        let rows = self.trees.trees[space as usize].range(from..to, self.at, None);
        let row = |guard: lsm_tree::IterGuardImpl| match guard.into_inner() {
            Ok((key, value)) => Ok((key.into(), value.into())),
            Err(error) => Err(Fault::from(error)),
        };
        if backward { Box::new(rows.rev().map(row)) } else { Box::new(rows.map(row)) }
    }
}
