//! What a view makes of one event, and how what it made is shown.
//!
//! A fold is a function of the record and the rows alone: no clock, no randomness, no order but that of the events.
//! Invariant: a fold that fails has changed nothing.

use crate::events::record::Record;
use crate::events::views::declared::Declared;
use crate::events::views::table::{Part, State, Table};
use crate::events::views::{correlations, intents, live, processes};
use kairo_wire::codec::CodecError;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::event::{Event, StreamClosed};
use kairo_wire::methods::rows::{ProcessRow, SessionRow};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// Why an event could not be digested. Says nothing of what was in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Skip(Cow<'static, str>);

impl Skip {
    pub(super) fn new(reason: impl Into<Cow<'static, str>>) -> Skip {
        Skip(reason.into())
    }
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Folded {
    /// It is in the rows.
    Yes,
    /// It is none of this view's.
    No,
    /// It would have made a row past the limits.
    Overflowed,
}

/// A row as it is shown.
pub(super) struct Shown {
    /// A map.
    pub value: Raw,
    /// Names in it that are not exact.
    pub inexact: Vec<String>,
}

impl Shown {
    pub(super) fn of<T: Serialize>(value: &T) -> Option<Shown> {
        Some(Shown { value: Raw::of(value).ok()?, inexact: Vec::new() })
    }
}

/// A kind of view.
#[derive(Debug)]
pub(super) enum Fold {
    Processes,
    Sessions,
    Intents,
    Correlations,
    Live,
    Declared(Box<Declared>),
}

impl Fold {
    /// Those that are always there, by name.
    pub(super) const BUILTIN: [(&'static str, Fold); 5] = [
        ("correlations", Fold::Correlations),
        ("intents", Fold::Intents),
        ("live", Fold::Live),
        ("processes", Fold::Processes),
        ("sessions", Fold::Sessions),
    ];

    /// Of which types the events are that it is made of.
    pub(super) fn topics(&self) -> Arc<[Arc<str>]> {
        let all: &[&str] = match self {
            Fold::Processes | Fold::Sessions => &["kairo.process.>", StreamClosed::TOPIC],
            Fold::Intents => &["kairo.intent.>", "kairo.process.>"],
            Fold::Live => &["kairo.intent.>", "kairo.process.>", StreamClosed::TOPIC],
            // It names the types of all there are.
            Fold::Correlations => &[">"],
            Fold::Declared(declared) => &[declared.topic()],
        };
        all.iter().map(|topic| Arc::from(*topic)).collect()
    }

    /// Folds one event.
    pub(super) fn fold(&self, record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
        match self {
            Fold::Processes => processes::fold(record, table),
            Fold::Sessions => processes::fold_session(record, table),
            Fold::Intents => intents::fold(record, table),
            Fold::Correlations => correlations::fold(record, table),
            Fold::Live => live::fold(record, table),
            Fold::Declared(declared) => declared.fold(record, table),
        }
    }

    /// [`State::is_over`] of a state as it is stored.
    pub(super) fn is_over(&self, state: &[u8]) -> bool {
        fn over<S: State>(state: &[u8]) -> bool {
            from_slice::<S>(state).is_ok_and(|state| state.is_over())
        }
        match self {
            Fold::Processes => over::<ProcessRow>(state),
            Fold::Sessions => over::<SessionRow>(state),
            Fold::Intents => over::<intents::State>(state),
            Fold::Correlations => over::<correlations::Story>(state),
            Fold::Live | Fold::Declared(_) => false,
        }
    }

    /// What the rows of one text are together; `parts` are those the reader may hear, in the order of their audiences.
    pub(super) fn show(&self, parts: &[Part<'_>]) -> Option<Shown> {
        match self {
            Fold::Processes | Fold::Sessions | Fold::Live => newest(parts),
            Fold::Intents => intents::show(parts),
            Fold::Correlations => correlations::show(parts),
            Fold::Declared(declared) => declared.show(parts),
        }
    }
}

/// Rows that are about one thing have one audience; if two things share a name, the newer is shown.
fn newest(parts: &[Part<'_>]) -> Option<Shown> {
    let part = parts.iter().max_by_key(|part| part.seq)?;
    Some(Shown { value: from_slice(part.state).ok()?, inexact: Vec::new() })
}

/// What an event says, field by field: one that isn't what it should be doesn't spoil the others.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub RawRef<'a>);

impl<'a> Fields<'a> {
    pub(super) fn of(record: &Record<'a>) -> Fields<'a> {
        Fields(record.data)
    }

    /// A field, if it is there and can be read.
    pub(super) fn get<T: Deserialize<'a>>(self, name: &str) -> Option<T> {
        self.0.get(name)?.decode().ok()
    }

    /// A field without which the event means nothing.
    pub(super) fn need<T: Deserialize<'a>>(self, name: &'static str) -> Result<T, Skip> {
        let value = self.0.get(name).ok_or_else(|| Skip::new(format!("{name}: is missing")))?;
        value.decode().map_err(|error: CodecError| match error.problem() {
            kairo_wire::codec::Problem::Mismatch { expected, .. } => {
                Skip::new(format!("{name}: expected {expected}"))
            }
            _ => Skip::new(format!("{name}: can't be read")),
        })
    }

    /// A field that holds fields.
    pub(super) fn inner(self, name: &str) -> Option<Fields<'a>> {
        self.0.get(name).map(Fields)
    }
}

/// The beginning of a text, at most `most` bytes of it.
pub(super) fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text[..end.unwrap_or(0)].to_owned()
}
