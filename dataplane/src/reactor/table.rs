//! A table whose places have lives: what a token names is found only in the life it was made for.

use slab::Slab;

/// A place and its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) struct Table<T> {
    entries: Slab<(u32, T)>,
    next_generation: u32,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Table<T> {
        Table { entries: Slab::new(), next_generation: 1 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Inserts what `make` builds of its own place.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Place) -> T) -> Place {
        let generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
        let entry = self.entries.vacant_entry();
        let place = Place { slot: entry.key() as u32, generation };
        entry.insert((generation, make(place)));
        place
    }

    pub(crate) fn get(&self, place: Place) -> Option<&T> {
        let (generation, value) = self.entries.get(place.slot as usize)?;
        (*generation == place.generation).then_some(value)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(place.slot as usize)?;
        (*generation == place.generation).then_some(value)
    }

    /// Two different ones, if both are there.
    pub(crate) fn get_two_mut(&mut self, one: Place, other: Place) -> Option<(&mut T, &mut T)> {
        if one.slot == other.slot || self.get(one).is_none() || self.get(other).is_none() {
            return None;
        }
        let (one, other) = self.entries.get2_mut(one.slot as usize, other.slot as usize)?;
        Some((&mut one.1, &mut other.1))
    }

    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        self.get(place)?;
        Some(self.entries.remove(place.slot as usize).1)
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |(slot, (generation, _)): (usize, &(u32, T))| Place {
            slot: slot as u32,
            generation: *generation,
        };
        self.entries.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_of_a_former_life_finds_nobody() {
        let mut table = Table::new();
        let first = table.insert_with(|_| "first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert_with(|_| "second");
        assert_eq!(first.slot, second.slot);
        assert_eq!((table.get(first), table.get(second)), (None, Some(&"second")));
    }
}
