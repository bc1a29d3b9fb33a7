//! The contract as a document: what `docs/WIRE.md` holds.
//!
//! Prose about frames and encoding stands here; everything about methods, events, errors, permissions, features and
//! limits comes from the rows. A test holds that the file in the repository is what this renders.

use crate::introspect::{definition_name, description};
use serde_json::Value;
use std::fmt::Write;

const HEAD: &str = include_str!("document.md");

/// `docs/WIRE.md`, whole.
pub fn render() -> String {
    let description = description();
    let mut out = String::from(HEAD);
    limits(&mut out, &description);
    features(&mut out, &description);
    errors(&mut out, &description);
    permissions(&mut out, &description);
    methods(&mut out, &description);
    events(&mut out, &description);
    types(&mut out, &description);
    out
}

/// Writing to a `String` cannot fail.
macro_rules! put {
    ($out:expr, $($format:tt)+) => {{
        let _ = writeln!($out, $($format)+);
    }};
}

fn rows<'a>(description: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    description[name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// In a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn limits(out: &mut String, description: &Value) {
    put!(out, "\n## Limits\n\n| limit | value | counts | past it |\n|---|---|---|---|");
    for row in rows(description, "limits") {
        put!(
            out,
            "| `{}` | {} | {} | {} |",
            text(row, "name"),
            row["value"],
            text(row, "unit"),
            text(row, "past")
        );
    }
}

fn features(out: &mut String, description: &Value) {
    put!(out, "\n## Features\n\nNegotiated by name in `kernel.hello`.\n\n| feature | with it |\n|---|---|");
    for row in rows(description, "features") {
        put!(out, "| `{}` | {} |", text(row, "name"), cell(text(row, "doc")));
    }
}

fn errors(out: &mut String, description: &Value) {
    put!(
        out,
        "\n## Errors\n\nAny method may answer `E_INVALID_PARAMS`, `E_PERMISSION_DENIED`, `E_TIMEOUT`, `E_CANCELLED`, \
         `E_QUOTA_EXCEEDED` and `E_INTERNAL`.\n\n| code | when | retryable |\n|---|---|---|"
    );
    for row in rows(description, "errors") {
        let retryable = if row["retryable"] == true { "yes" } else { "no" };
        put!(out, "| `{}` | {} | {retryable} |", text(row, "code"), cell(text(row, "doc")));
    }
}

fn permissions(out: &mut String, description: &Value) {
    put!(
        out,
        "\n## Permissions\n\nChecked against: *everybody*, nothing; *caller*, the caller alone; *process*, the caller and \
         the process it names;\n*filtered*, each thing the caller would be told; *administrator*, the daemon's owner;\n*principal*, whom the \
         caller decides about; *granted*, what was granted, and nothing before. A grant names resources of the form in the fourth \
         column;\nthe fifth says who keeps to it: the kernel at each call, or a protection of containment.\n\n\
         | permission | allows to | checked against | resource | guard |\n|---|---|---|---|---|"
    );
    for row in rows(description, "permissions") {
        let (name, doc, scope) = (text(row, "name"), cell(text(row, "doc")), text(row, "scope"));
        put!(out, "| `{name}` | {doc} | {scope} | {} | {} |", text(row, "resource"), text(row, "guard"));
    }
}

fn methods(out: &mut String, description: &Value) {
    put!(out, "\n## Methods");
    for row in rows(description, "methods") {
        put!(out, "\n### `{}`\n\n{}\n", text(row, "name"), text(row, "doc"));
        put!(out, "Since {}; needs `{}`.", text(row, "since"), text(row, "permission"));
        let errors: Vec<String> =
            rows(row, "errors").filter_map(Value::as_str).map(|code| format!("`{code}`")).collect();
        if !errors.is_empty() {
            put!(out, "Errors: {}.", errors.join(", "));
        }
        put!(out, "\nParameters, for example `{}`:\n", row["example"]);
        let required: Vec<&str> = rows(row, "required").filter_map(Value::as_str).collect();
        shape(out, description, &row["params"], Some(&required));
        put!(out, "\nResult:\n");
        shape(out, description, &row["result"], None);
    }
}

fn events(out: &mut String, description: &Value) {
    put!(
        out,
        "\n## Events\n\n*Notices* and *records* are `{{topic, data}}`; *bus* events are `{{topic, payload, correlationId, \
         causationId, traceId, source,\ntime, id}}`, and a bus event's fields below are those of its `payload`."
    );
    for row in rows(description, "events") {
        put!(out, "\n### `{}` ({})\n\n{}\n", text(row, "topic"), text(row, "shape"), text(row, "doc"));
        shape(out, description, &row["data"], None);
    }
}

fn types(out: &mut String, description: &Value) {
    put!(out, "\n## Types\n");
    let shown = shown_in_place(description);
    for (name, schema) in description["$defs"].as_object().into_iter().flatten() {
        if shown.contains(&name.as_str()) {
            continue;
        }
        put!(out, "### {name}\n");
        if let Some(doc) = schema["description"].as_str() {
            put!(out, "{doc}\n");
        }
        if schema["properties"].is_object() {
            fields(out, schema, None);
        } else if let Some(words) = schema["oneOf"].as_array().filter(|words| words.iter().all(is_word)) {
            put!(out, "| word | means |\n|---|---|");
            for word in words {
                put!(out, "| `{}` | {} |", word["const"], cell(text(word, "description")));
            }
        } else {
            put!(out, "{}", type_of(schema));
        }
        put!(out, "");
    }
    while out.ends_with("\n\n") {
        out.pop();
    }
}

fn is_word(schema: &Value) -> bool {
    schema["const"].is_string()
}

/// Definitions whose fields stand with the method or event that has them.
fn shown_in_place(description: &Value) -> Vec<&str> {
    let methods = rows(description, "methods").flat_map(|row| [&row["params"], &row["result"]]);
    let events = rows(description, "events").map(|row| &row["data"]);
    let references = methods.chain(events).filter_map(|schema| schema["$ref"].as_str());
    references.filter_map(definition_name).filter(|name| !LINKED.contains(name)).collect()
}

/// Results that are types of their own: linked, not repeated.
const LINKED: &[&str] = &["ProcessStatus"];

/// The fields of parameters, a result or an event.
fn shape(out: &mut String, description: &Value, schema: &Value, required: Option<&[&str]>) {
    let name = schema["$ref"].as_str().and_then(definition_name);
    let resolved = match name {
        Some(name) if !LINKED.contains(&name) => &description["$defs"][name],
        _ => schema,
    };
    match resolved["properties"].as_object() {
        Some(_) => fields(out, resolved, required),
        None if resolved["type"] == "object" => put!(out, "none."),
        None => put!(out, "{}.", type_of(resolved)),
    }
}

fn fields(out: &mut String, schema: &Value, required: Option<&[&str]>) {
    let by_schema: Vec<&str> = rows(schema, "required").filter_map(Value::as_str).collect();
    let required = required.unwrap_or(&by_schema);
    put!(out, "| field | type | |\n|---|---|---|");
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let optional = if required.contains(&name.as_str()) { "" } else { ", optional" };
        put!(out, "| `{name}` | {}{optional} | {} |", type_of(field), cell(text(field, "description")));
    }
}

/// A schema in a few words.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(definition_name) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`\"{word}\"`");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[key].as_array() {
            let choices: Vec<String> =
                choices.iter().filter(|choice| choice["type"] != "null").map(type_of).collect();
            return choices.join(" or ");
        }
    }
    match &schema["type"] {
        Value::String(name) => named_type(name, schema),
        Value::Array(names) => {
            let names: Vec<String> = names
                .iter()
                .filter_map(Value::as_str)
                .filter(|name| *name != "null")
                .map(|name| named_type(name, schema))
                .collect();
            names.join(" or ")
        }
        _ => "any value".to_owned(),
    }
}

fn named_type(name: &str, schema: &Value) -> String {
    match name {
        "array" => format!("array of {}", type_of(&schema["items"])),
        "object" => match &schema["additionalProperties"] {
            values @ Value::Object(_) => format!("map of {}", type_of(values)),
            _ => "map".to_owned(),
        },
        "integer" => match (schema["minimum"].as_i64(), schema["maximum"].as_i64()) {
            (Some(least), Some(most)) => format!("integer {least} to {most}"),
            _ => "integer".to_owned(),
        },
        other => other.to_owned(),
    }
}
