//! What a client may define: the checks of a definition, and the form it is stored in.
//!
//! Invariant: what passed here folds any event in a time and a size that are bounded by the limits below.

use crate::auth::principal::{Principal, Skill};
use bytes::Bytes;
use kairo_wire::codec::CodecError;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::WireError;
use kairo_wire::methods::view::{ViewDefinition, ViewReducer, ViewReduction};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest name of a view, bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest name of a reducer, bytes.
const REDUCER_NAME_BYTES_MAX: usize = 64;
/// Most conditions.
const FILTER_MAX: usize = 16;
/// Most paths of a key.
const KEY_MAX: usize = 4;
/// Most reducers.
const REDUCERS_MAX: usize = 16;
/// Longest value a field is compared with, bytes.
const VALUE_BYTES_MAX: usize = 1024;
/// Most values `collect` keeps.
pub(super) const COLLECT_MAX: u32 = 100;

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {wrong}")]
pub struct DefinitionError {
    /// Where, from `definition` on.
    pub field: String,
    /// What.
    pub wrong: String,
}

impl DefinitionError {
    pub(super) fn new(field: impl Into<String>, wrong: impl Into<String>) -> DefinitionError {
        DefinitionError { field: field.into(), wrong: wrong.into() }
    }
}

impl From<DefinitionError> for WireError {
    fn from(error: DefinitionError) -> WireError {
        WireError::invalid(&error.field, &error.wrong)
    }
}

/// Checks sizes and names; paths, the pattern and values are checked by who compiles them.
pub(super) fn check(definition: &ViewDefinition) -> Result<(), DefinitionError> {
    name("definition.name", &definition.name, NAME_BYTES_MAX)?;
    at_most("definition.filter", definition.filter.len(), FILTER_MAX)?;
    at_most("definition.key", definition.key.len(), KEY_MAX)?;
    at_most("definition.reducers", definition.reducers.len(), REDUCERS_MAX)?;
    if definition.reducers.is_empty() {
        return Err(DefinitionError::new("definition.reducers", "a view has a reducer"));
    }
    for (at, condition) in definition.filter.iter().enumerate() {
        let field = format!("definition.filter[{at}].value");
        at_most(&field, condition.value.bytes().len(), VALUE_BYTES_MAX)?;
    }
    for (at, reducer) in definition.reducers.iter().enumerate() {
        check_reducer(at, reducer)?;
        if definition.reducers[..at].iter().any(|other| other.name == reducer.name) {
            return Err(DefinitionError::new(format!("definition.reducers[{at}].name"), "is there twice"));
        }
    }
    Ok(())
}

fn check_reducer(at: usize, reducer: &ViewReducer) -> Result<(), DefinitionError> {
    let field = |name: &str| format!("definition.reducers[{at}].{name}");
    name(&field("name"), &reducer.name, REDUCER_NAME_BYTES_MAX)?;
    if reducer.path.is_none() && reducer.op != ViewReduction::Count {
        return Err(DefinitionError::new(field("path"), format!("`{}` needs one", reducer.op.word())));
    }
    match (reducer.op, reducer.n) {
        (ViewReduction::Collect, Some(1..=COLLECT_MAX)) => Ok(()),
        (ViewReduction::Collect, _) => {
            Err(DefinitionError::new(field("n"), format!("`collect` needs one from 1 to {COLLECT_MAX}")))
        }
        (_, Some(_)) => Err(DefinitionError::new(field("n"), "only `collect` has one")),
        (_, None) => Ok(()),
    }
}

fn name(field: &str, text: &str, most: usize) -> Result<(), DefinitionError> {
    let wrong = if text.is_empty() {
        "a name is not empty".to_owned()
    } else if text.len() > most {
        format!("has at most {most} bytes")
    } else if text.contains(char::is_control) {
        "has no control characters".to_owned()
    } else {
        return Ok(());
    };
    Err(DefinitionError::new(field, wrong))
}

fn at_most(field: &str, count: usize, most: usize) -> Result<(), DefinitionError> {
    if count > most {
        return Err(DefinitionError::new(field, format!("has at most {most}")));
    }
    Ok(())
}

/// A definition with who made it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Defined {
    pub definition: ViewDefinition,
    pub definer: Principal,
}

/// The form it is stored in: definition; kind, user, session and name of the definer.
#[derive(Serialize, Deserialize)]
struct Stored(ViewDefinition, u8, u32, Option<Arc<str>>, Option<Arc<str>>);

impl Defined {
    /// As it is stored.
    pub(super) fn encode(&self) -> Result<Bytes, CodecError> {
        let definition = self.definition.clone();
        let stored = match &self.definer {
            Principal::Owner => Stored(definition, 0, 0, None, None),
            Principal::User { uid } => Stored(definition, 1, *uid, None, None),
            Principal::Skill(Skill { uid, session, name }) => {
                Stored(definition, 2, *uid, session.clone(), name.clone())
            }
            Principal::Nobody { uid } => Stored(definition, 3, *uid, None, None),
        };
        Raw::of(&stored).map(|raw| Bytes::copy_from_slice(raw.bytes()))
    }

    /// What was stored.
    pub(super) fn decode(bytes: &[u8]) -> Result<Defined, CodecError> {
        let Stored(definition, kind, uid, session, name) = from_slice(bytes)?;
        let definer = match kind {
            0 => Principal::Owner,
            1 => Principal::User { uid },
            2 => Principal::Skill(Skill { uid, session, name }),
            _ => Principal::Nobody { uid },
        };
        Ok(Defined { definition, definer })
    }
}
