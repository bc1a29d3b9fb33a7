//! The dispatch table: from a method's name to what it does.
//!
//! Filled from the wire's rows at the start; rows can be added while the kernel runs. Invariant: a name has one route.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use kairo_wire::error::WireError;
use kairo_wire::method::MethodRow;
use kairo_wire::permission::Permission;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What a method does: answers, parks, or fails with an error that is then the answer.
pub(crate) type Handler = fn(&mut Kernel, &mut Turn<'_>, &Asking<'_>) -> Result<(), WireError>;

/// When a method answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// Before it returns.
    AtOnce,
    /// Perhaps later: it counts against the calls in flight.
    Later,
}

/// Where a call goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The row it is made of; none for one that was added later.
    pub row: Option<&'static MethodRow>,
    /// What the caller must hold.
    pub permission: Permission,
    /// It changes something.
    pub changes: bool,
    /// A key makes it happen once, and its answer is kept.
    pub keeps_receipt: bool,
    /// That it was called is an event.
    pub told: bool,
    /// When.
    pub answers: Answers,
    /// What.
    pub handler: Handler,
}

/// A row and its behaviour, as the files of [`methods`](crate::methods) list them.
pub(crate) type Entry = (&'static MethodRow, Answers, Handler);

/// Hashes names eight bytes at a time. The table's keys are ours, so nobody can make them collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    fn write_u8(&mut self, _: u8) {
        // The end mark of a str: no two keys differ in nothing else.
    }
}

/// Routes by name.
#[derive(Debug, Default)]
pub(crate) struct Table(HashMap<Box<str>, Route, BuildHasherDefault<NameHasher>>);

impl Table {
    /// A table of these.
    pub(crate) fn of(entries: impl Iterator<Item = &'static Entry>) -> Table {
        let mut table = Table::default();
        for (row, answers, handler) in entries {
            let route = Route {
                row: Some(row),
                permission: row.permission,
                changes: row.changes,
                keeps_receipt: row.keeps_receipt(),
                told: row.is_told(),
                answers: *answers,
                handler: *handler,
            };
            table.insert(row.name, route);
        }
        table
    }

    /// Adds a route, or replaces it. Returns what was there.
    pub(crate) fn insert(&mut self, name: &str, route: Route) -> Option<Route> {
        self.0.insert(name.into(), route)
    }

    /// The route of a name.
    pub(crate) fn get(&self, name: &str) -> Option<Route> {
        self.0.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods;
    use kairo_wire::method::METHODS;

    #[test]
    fn every_row_has_one_behaviour_and_every_behaviour_a_row() {
        let mut behaviours: Vec<&str> = methods::all().map(|(row, _, _)| row.name).collect();
        let mut rows: Vec<&str> = METHODS.iter().map(|row| row.name).collect();
        behaviours.sort_unstable();
        rows.sort_unstable();
        assert_eq!(behaviours, rows);
    }

    #[test]
    fn a_row_can_be_added_later() {
        let mut table = Table::of(methods::all());
        let route = table.get("kernel.ping").expect("there is a ping");
        assert!(table.get("plugin.ping").is_none());
        assert!(table.insert("plugin.ping", route).is_none());
        assert!(table.get("plugin.ping").is_some());
    }
}
