//! Reducers: what a row keeps of the values of its events.
//!
//! Each keeps one value, its cell. Cells of rows with other audiences add up to what one reader is shown, so a cell keeps
//! with a value the event it came with. Sums of integers are kept in 128 bits, which no number of events fills.
//! Floats are added in the order of the events, those of several audiences in the order of the audiences, and a sum
//! stays finite: past the greatest float it is that.

use crate::events::record::Record;
use crate::events::views::definition::{COLLECT_MAX, DefinitionError};
use crate::events::views::fold::Skip;
use crate::events::views::value::{Path, Scalar};
use kairo_wire::codec::raw::Raw;
use kairo_wire::methods::view::{ViewReducer, ViewReduction};
use serde::{Deserialize, Serialize};

/// Longest value that is kept, bytes. An event with a longer one is skipped.
const VALUE_BYTES_MAX: usize = 1024;

/// A reducer, compiled.
#[derive(Debug)]
pub(super) struct Reducer {
    op: ViewReduction,
    path: Option<Path>,
    most: usize,
}

/// What an event gives a reducer.
pub(super) enum Given {
    One,
    Integer(i128),
    Float(f64),
    Value(u64, Raw),
}

/// The integers, high and low half, and the floats if there were any.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sum(i64, u64, Option<f64>);

/// A value and the event it came with.
#[derive(Clone, Serialize, Deserialize)]
struct Kept(u64, Raw);

impl Sum {
    fn integers(self) -> i128 {
        (i128::from(self.0) << 64) | i128::from(self.1)
    }

    fn plus(self, integers: i128, floats: Option<f64>) -> Sum {
        let total = self.integers().saturating_add(integers);
        let floats = match (self.2, floats) {
            (Some(one), Some(other)) => Some(finite(one + other)),
            (one, other) => one.or(other),
        };
        Sum((total >> 64) as i64, total as u64, floats)
    }

    /// As it is shown, and whether that is exact.
    fn show(self) -> Option<(Raw, bool)> {
        let total = self.integers();
        let exact = match self.2 {
            Some(floats) => return Some((Raw::of(&finite(total as f64 + floats)).ok()?, true)),
            None => u64::try_from(total)
                .map(|total| Raw::of(&total))
                .or_else(|_| i64::try_from(total).map(|total| Raw::of(&total))),
        };
        match exact {
            Ok(raw) => Some((raw.ok()?, true)),
            Err(_) => Some((Raw::of(&(total as f64)).ok()?, false)),
        }
    }
}

fn finite(sum: f64) -> f64 {
    sum.clamp(f64::MIN, f64::MAX)
}

impl Reducer {
    pub(super) fn new(at: usize, reducer: &ViewReducer) -> Result<Reducer, DefinitionError> {
        let path = reducer.path.as_deref();
        let path =
            path.map(|path| Path::new(path, || format!("definition.reducers[{at}].path"))).transpose()?;
        let most = reducer.n.unwrap_or(1).min(COLLECT_MAX) as usize;
        Ok(Reducer { op: reducer.op, path, most })
    }

    /// What it needs of an event; nothing if the event has no such field.
    pub(super) fn take(&self, record: &Record<'_>) -> Result<Option<Given>, &'static str> {
        let Some(path) = &self.path else { return Ok(Some(Given::One)) };
        let Some(found) = path.find(record) else { return Ok(None) };
        let given = match self.op {
            ViewReduction::Count => Given::One,
            ViewReduction::Sum => match found.scalar() {
                Some(Scalar::Integer(value)) => Given::Integer(value),
                Some(Scalar::Float(value)) if value.is_finite() => Given::Float(value),
                _ => return Err("is no finite number"),
            },
            ViewReduction::Min | ViewReduction::Max => match found.scalar() {
                Some(Scalar::Integer(_) | Scalar::Float(_) | Scalar::Text(_)) => kept(record, found.raw())?,
                _ => return Err("is no number or text"),
            },
            ViewReduction::First | ViewReduction::Last | ViewReduction::Collect => kept(record, found.raw())?,
        };
        Ok(Some(given))
    }

    /// The cell before the first event.
    pub(super) fn fresh(&self) -> Raw {
        let cell = match self.op {
            ViewReduction::Count => Raw::of(&0),
            ViewReduction::Sum => Raw::of(&Sum::default()),
            _ => Raw::of(&[(); 0]),
        };
        cell.unwrap_or_default()
    }

    /// The cell with one event more.
    pub(super) fn fold(&self, cell: &Raw, given: Given) -> Result<Raw, Skip> {
        let unreadable = |_| Skip::new("its row can't be read");
        let folded = match given {
            Given::One => Raw::of(&(cell.decode::<u64>().map_err(unreadable)? + 1)),
            Given::Integer(value) => Raw::of(&cell.decode::<Sum>().map_err(unreadable)?.plus(value, None)),
            Given::Float(value) => Raw::of(&cell.decode::<Sum>().map_err(unreadable)?.plus(0, Some(value))),
            Given::Value(seq, value) => {
                let mut values: Vec<Kept> = cell.decode().map_err(unreadable)?;
                values.push(Kept(seq, value));
                self.reduce(&mut values);
                Raw::of(&values)
            }
        };
        folded.map_err(|_| Skip::new("its row can't be written"))
    }

    /// Leaves the values this reducer wants; they are in the order of their events.
    fn reduce(&self, values: &mut Vec<Kept>) {
        let wins = |one: &Kept, other: &Kept| {
            let (one, other) = (Scalar::of(one.1.as_ref()), Scalar::of(other.1.as_ref()));
            let order = one.zip(other).and_then(|(one, other)| one.order(&other));
            order.is_some_and(
                |order| if self.op == ViewReduction::Min { order.is_lt() } else { order.is_gt() },
            )
        };
        match self.op {
            // Of equals the oldest.
            ViewReduction::Min | ViewReduction::Max => {
                let best = values.drain(..).reduce(|best, next| if wins(&next, &best) { next } else { best });
                values.extend(best);
            }
            ViewReduction::First => values.truncate(1),
            ViewReduction::Last | ViewReduction::Collect => {
                values.drain(..values.len().saturating_sub(self.most));
            }
            ViewReduction::Count | ViewReduction::Sum => {}
        }
    }

    /// What cells of one text come to, and whether that is exact. No value if there was none.
    pub(super) fn show(&self, cells: &[&Raw]) -> Option<(Option<Raw>, bool)> {
        match self.op {
            ViewReduction::Count => {
                let counts = cells.iter().map(|cell| cell.decode::<u64>().ok()).sum::<Option<u64>>()?;
                Some((Some(Raw::of(&counts).ok()?), true))
            }
            ViewReduction::Sum => {
                let mut total = Sum::default();
                for cell in cells {
                    let sum: Sum = cell.decode().ok()?;
                    total = total.plus(sum.integers(), sum.2);
                }
                total.show().map(|(value, exact)| (Some(value), exact))
            }
            _ => {
                let mut values: Vec<Kept> = Vec::new();
                for cell in cells {
                    values.extend(cell.decode::<Vec<Kept>>().ok()?);
                }
                values.sort_by_key(|Kept(seq, _)| *seq);
                self.reduce(&mut values);
                let mut values = values.into_iter().map(|Kept(_, value)| value);
                if self.op == ViewReduction::Collect {
                    return Some((Some(Raw::of(&values.collect::<Vec<Raw>>()).ok()?), true));
                }
                Some((values.next(), true))
            }
        }
    }
}

fn kept(record: &Record<'_>, raw: Option<Raw>) -> Result<Given, &'static str> {
    let raw = raw.filter(|raw| raw.bytes().len() <= VALUE_BYTES_MAX).ok_or("is too long")?;
    Ok(Given::Value(record.seq, raw))
}
