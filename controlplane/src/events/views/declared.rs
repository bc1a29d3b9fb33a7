//! A view a client defined: which events, of which rows, reduced to what.
//!
//! Invariant: it folds nothing its definer may not hear.

use crate::auth::grant::hears;
use crate::auth::principal::Principal;
use crate::events::pattern::Pattern;
use crate::events::record::Record;
use crate::events::views::definition::{Defined, DefinitionError, check};
use crate::events::views::fold::{Folded, Shown, Skip};
use crate::events::views::reduce::{Given, Reducer};
use crate::events::views::table::{Part, State, Table};
use crate::events::views::value::{Path, Scalar};
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::raw::Raw;
use kairo_wire::methods::view::{ViewCondition, ViewOperator};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt::Write;

/// A definition, ready to fold.
#[derive(Debug)]
pub(super) struct Declared {
    topic: Box<str>,
    pattern: Pattern,
    filter: Vec<Condition>,
    key: Vec<Path>,
    reducers: Vec<(String, Reducer)>,
    definer: Principal,
}

impl Declared {
    /// Compiles what passes all checks.
    pub(super) fn new(defined: &Defined) -> Result<Declared, DefinitionError> {
        let Defined { definition, definer } = defined;
        check(definition)?;
        let pattern = Pattern::new(definition.topic.as_str())
            .map_err(|error| DefinitionError::new("definition.topic", error.to_string()))?;
        let filter = definition.filter.iter().enumerate();
        let key = definition.key.iter().enumerate();
        let reducers = definition.reducers.iter().enumerate();
        Ok(Declared {
            topic: definition.topic.as_str().into(),
            pattern,
            filter: filter.map(|(at, condition)| Condition::new(at, condition)).collect::<Result<_, _>>()?,
            key: key
                .map(|(at, path)| Path::new(path, || format!("definition.key[{at}]")))
                .collect::<Result<_, _>>()?,
            reducers: reducers
                .map(|(at, reducer)| Ok((reducer.name.clone(), Reducer::new(at, reducer)?)))
                .collect::<Result<_, DefinitionError>>()?,
            definer: definer.clone(),
        })
    }

    /// Of which types its events are.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn fold(&self, record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
        let wanted = self.pattern.matches(&record.topic)
            && hears(&self.definer, &record.audience)
            && self.filter.iter().all(|condition| condition.holds(record));
        if !wanted {
            return Ok(Folded::No);
        }
        let text = self.key_of(record)?;
        let given: Vec<Option<Given>> = self
            .reducers
            .iter()
            .map(|(name, reducer)| {
                reducer.take(record).map_err(|wrong| Skip::new(format!("{name}: {wrong}")))
            })
            .collect::<Result<_, _>>()?;
        let fresh = || Some(self.reducers.iter().map(|(_, reducer)| reducer.fresh()).collect::<Vec<Raw>>());
        table.update(record.seq, (&text, &record.audience), fresh, |cells: &mut Vec<Raw>| {
            for (((_, reducer), cell), given) in self.reducers.iter().zip(cells).zip(given) {
                if let Some(given) = given {
                    *cell = reducer.fold(cell, given)?;
                }
            }
            Ok(())
        })
    }

    fn key_of(&self, record: &Record<'_>) -> Result<String, Skip> {
        let mut text = String::new();
        for (at, path) in self.key.iter().enumerate() {
            let found = path.find(record).ok_or_else(|| Skip::new(format!("key[{at}]: is missing")))?;
            let part = found.scalar().ok_or_else(|| Skip::new(format!("key[{at}]: is no text or number")))?;
            if at > 0 {
                text.push('/');
            }
            if self.key.len() == 1 {
                // Nothing is written to a text without success.
                let _ = write!(text, "{part}");
                continue;
            }
            for character in part.to_string().chars() {
                if matches!(character, '/' | '\\') {
                    text.push('\\');
                }
                text.push(character);
            }
        }
        Ok(text)
    }

    pub(super) fn show(&self, parts: &[Part<'_>]) -> Option<Shown> {
        let rows = parts.iter().map(|part| from_slice(part.state).ok()).collect::<Option<Vec<Vec<Raw>>>>()?;
        let mut inexact = Vec::new();
        let mut values = Vec::with_capacity(self.reducers.len());
        for (at, (name, reducer)) in self.reducers.iter().enumerate() {
            let cells: Vec<&Raw> = rows.iter().filter_map(|row| row.get(at)).collect();
            let (value, exact) = reducer.show(&cells)?;
            if !exact {
                inexact.push(name.clone());
            }
            values.push((name.as_str(), value));
        }
        Some(Shown { value: Raw::of(&Named(&values)).ok()?, inexact })
    }
}

impl State for Vec<Raw> {}

/// Values by name, in the order of the definition.
struct Named<'v>(&'v [(&'v str, Option<Raw>)]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0 {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

/// A condition, compiled.
#[derive(Debug)]
struct Condition {
    path: Path,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Compare(fn(Ordering) -> bool, Scalar<'static>),
    /// Also what doesn't compare is unequal.
    Unequal(Scalar<'static>),
    Exists(bool),
    Prefix(String),
}

impl Condition {
    fn new(at: usize, condition: &ViewCondition) -> Result<Condition, DefinitionError> {
        let field = |name: &str| format!("definition.filter[{at}].{name}");
        let path = Path::new(&condition.path, || field("path"))?;
        let given = condition.value.as_ref();
        let value = || {
            let scalar = Scalar::of(given).map(Scalar::into_owned);
            scalar.ok_or_else(|| DefinitionError::new(field("value"), "is to be text, a number or a boolean"))
        };
        let test = match condition.op {
            ViewOperator::Exists if given.is_absent() => Test::Exists(true),
            ViewOperator::Exists => match value()? {
                Scalar::Bool(there) => Test::Exists(there),
                _ => return Err(DefinitionError::new(field("value"), "`exists` takes a boolean")),
            },
            ViewOperator::Prefix => match value()? {
                Scalar::Text(text) => Test::Prefix(text.into_owned()),
                _ => return Err(DefinitionError::new(field("value"), "`prefix` takes text")),
            },
            ViewOperator::Equal => Test::Compare(Ordering::is_eq, value()?),
            ViewOperator::Unequal => Test::Unequal(value()?),
            ViewOperator::Less => Test::Compare(Ordering::is_lt, value()?),
            ViewOperator::AtMost => Test::Compare(Ordering::is_le, value()?),
            ViewOperator::Greater => Test::Compare(Ordering::is_gt, value()?),
            ViewOperator::AtLeast => Test::Compare(Ordering::is_ge, value()?),
        };
        Ok(Condition { path, test })
    }

    fn holds(&self, record: &Record<'_>) -> bool {
        let found = self.path.find(record);
        if let Test::Exists(there) = self.test {
            return found.is_some() == there;
        }
        let Some(found) = found else { return false };
        let scalar = found.scalar();
        match &self.test {
            Test::Exists(_) => false,
            Test::Unequal(other) => {
                scalar.and_then(|scalar| scalar.compare(other)).is_none_or(Ordering::is_ne)
            }
            Test::Compare(holds, other) => scalar.and_then(|scalar| scalar.compare(other)).is_some_and(holds),
            Test::Prefix(prefix) => matches!(scalar, Some(Scalar::Text(text)) if text.starts_with(&**prefix)),
        }
    }
}
