//! The contract as data: what `kernel.introspect` answers.
//!
//! Built from the rows once, when it is first asked for. Schemas are JSON Schema 2020-12; those used more than once
//! stand under `$defs` beside the rows, and the description of one method carries the ones it needs.

use crate::codec::raw::Raw;
use crate::error::ERRORS;
use crate::event::EVENTS;
use crate::limits::LIMITS;
use crate::method::{METHODS, MethodRow};
use crate::methods::system::FEATURES;
use crate::permission::PERMISSIONS;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// Version of this contract's implementation.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the wire.
pub const PROTOCOL: u32 = 1;

/// Everything.
pub fn all() -> &'static Raw {
    &answers().0
}

/// One method.
pub fn method(name: &str) -> Option<&'static Raw> {
    answers().1.get(name)
}

/// Everything, as JSON.
pub fn description() -> Value {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    let methods: Vec<Value> = METHODS.iter().map(|row| describe(row, &mut generator)).collect();
    let events: Vec<Value> = EVENTS
        .iter()
        .copied()
        .flatten()
        .map(|row| {
            let data = (row.data)(&mut generator);
            json!({ "topic": row.topic, "shape": row.shape.name(), "doc": text(row.doc), "data": data })
        })
        .collect();
    let errors: Vec<Value> = ERRORS
        .iter()
        .map(|row| json!({ "code": row.name, "doc": text(row.doc), "retryable": row.retryable }))
        .collect();
    let permissions: Vec<Value> = PERMISSIONS
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "doc": text(row.doc), "scope": row.scope.name(),
                "resource": row.resource.name(), "guard": row.guard.name(),
            })
        })
        .collect();
    let features: Vec<Value> =
        FEATURES.iter().map(|row| json!({ "name": row.name, "doc": row.doc })).collect();
    let limits: Vec<Value> = LIMITS
        .iter()
        .map(|row| json!({ "name": row.name, "value": row.value, "unit": row.unit, "past": row.past }))
        .collect();
    json!({
        "name": "kairo",
        "version": VERSION,
        "protocol": PROTOCOL,
        "methods": methods,
        "events": events,
        "errors": errors,
        "permissions": permissions,
        "features": features,
        "limits": limits,
        "$defs": generator.take_definitions(true),
    })
}

fn describe(row: &MethodRow, generator: &mut SchemaGenerator) -> Value {
    let required: Vec<&str> = row.required.iter().map(|need| need.name).collect();
    let errors: Vec<&str> = row.errors.iter().map(|code| code.name()).collect();
    // A test holds that every example is JSON.
    let example: Value = serde_json::from_str(row.example).unwrap_or_default();
    json!({
        "name": row.name,
        "doc": text(row.doc),
        "since": row.since.name(),
        "permission": row.permission.name(),
        "required": required,
        "errors": errors,
        "example": example,
        "params": (row.params)(generator),
        "result": (row.result)(generator),
    })
}

/// A doc comment as text: each line begins with the blank behind its slashes.
pub(crate) fn text(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n").trim().to_owned()
}

fn answers() -> &'static (Raw, BTreeMap<String, Raw>) {
    static ANSWERS: OnceLock<(Raw, BTreeMap<String, Raw>)> = OnceLock::new();
    ANSWERS.get_or_init(|| {
        let description = description();
        let empty = Map::new();
        let definitions = description["$defs"].as_object().unwrap_or(&empty);
        let methods = description["methods"].as_array().into_iter().flatten().filter_map(|method| {
            let mut method = method.as_object()?.clone();
            let used = used_definitions(&Value::Object(method.clone()), definitions);
            method.insert("$defs".to_owned(), Value::Object(used));
            let name = method.get("name")?.as_str()?.to_owned();
            Some((name, encode(&Value::Object(method))))
        });
        (encode(&description), methods.collect())
    })
}

/// A JSON value of ours is always encodable: it has no map of 65,536 entries.
fn encode(value: &Value) -> Raw {
    Raw::of(value).unwrap_or_default()
}

/// The definitions `value` refers to, and those they refer to.
fn used_definitions(value: &Value, definitions: &Map<String, Value>) -> Map<String, Value> {
    let mut names = BTreeSet::new();
    let mut todo = vec![value];
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(items) => todo.extend(items),
            Value::Object(entries) => {
                if let Some(name) = entries.get("$ref").and_then(Value::as_str).and_then(definition_name)
                    && names.insert(name.to_owned())
                    && let Some(definition) = definitions.get(name)
                {
                    todo.push(definition);
                }
                todo.extend(entries.values());
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    names
        .into_iter()
        .filter_map(|name| definitions.get(&name).map(|value| (name.clone(), value.clone())))
        .collect()
}

/// The last part of `#/$defs/Name`.
pub(crate) fn definition_name(reference: &str) -> Option<&str> {
    reference.strip_prefix("#/$defs/")
}
