//! `kairo call`, `kairo introspect`: the daemon's own words.

use crate::cli::args::{Call, Introspect};
use crate::cli::context::{Context, Outcome, accompanied, raw_of, seconds, value_of};
use crate::cli::failure::Failure;
use crate::cli::table::{Edge, Table};
use kairo_client::CallOptions;
use kairo_wire::introspect as offline;
use kairo_wire::methods::system::{self, IntrospectParams};
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(crate) fn call(context: &Context, args: &Call) -> Outcome {
    let params = raw_of(&args.params, "the parameters")?;
    let deadline = args.timeout.map(|typed| seconds(typed, "--timeout")).transpose()?;
    let options = CallOptions { deadline, ..accompanied(&args.story) };
    let result = value_of(&context.client()?.call_raw(&args.method, &params, &options)?)?;
    if context.json {
        context.object(json!({ "result": result }))?;
    } else {
        context.line(&pretty(&result))?;
    }
    Ok(0)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

pub(crate) fn introspect(context: &Context, args: &Introspect) -> Outcome {
    let found = if args.offline {
        let known = match &args.method {
            Some(name) => offline::method(name),
            None => Some(offline::all()),
        };
        let unknown =
            || Failure::new("E_NOT_FOUND", "there is no such method").advise("`kairo introspect` lists them");
        value_of(known.ok_or_else(unknown)?)?
    } else {
        let params = IntrospectParams { method: args.method.clone() };
        value_of(&context.client()?.call::<system::Introspect>(&params)?)?
    };
    if context.json {
        context.object(found)?;
    } else {
        match &args.method {
            Some(_) => context.text(&page(&found))?,
            None => context.text(&overview(&found).render(context.width(), context.colour()))?,
        }
    }
    Ok(0)
}

/// All methods, a line each.
fn overview(found: &Value) -> Table {
    let mut table = Table::new(&[
        ("METHOD", Edge::Left),
        ("PERMISSION", Edge::Left),
        ("SINCE", Edge::Left),
        ("", Edge::Left),
    ]);
    for method in found["methods"].as_array().into_iter().flatten() {
        let text = |key: &str| method[key].as_str().unwrap_or_default().to_owned();
        let summary = text("doc").lines().next().unwrap_or_default().to_owned();
        table.row([text("name"), text("permission"), text("since"), summary]);
    }
    table
}

/// One method, to be read.
fn page(found: &Value) -> String {
    let text = |key: &str| found[key].as_str().unwrap_or_default();
    let mut page = format!("{}    needs {}, since {}\n\n", text("name"), text("permission"), text("since"));
    let _ = writeln!(page, "{}", text("doc").trim());
    for (title, key) in [("Parameters", "params"), ("Result", "result")] {
        let _ = write!(page, "\n{title}:\n{}", fields(&found[key], &found["$defs"]));
    }
    let errors: Vec<&str> =
        found["errors"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !errors.is_empty() {
        let _ = writeln!(page, "\nErrors: {}", errors.join(", "));
    }
    let _ = writeln!(page, "\nExample:\n  kairo call {} '{}'", text("name"), found["example"]);
    page
}

/// Objects within objects are shown down to this depth.
const DEPTH_SHOWN: usize = 3;

/// The fields of an object's schema, a line each; what is no object is one line.
fn fields(schema: &Value, defs: &Value) -> String {
    let mut lines = String::new();
    match object(schema, defs) {
        Some(object) => put_fields(&mut lines, object, defs, 1),
        None => drop(writeln!(lines, "  {}", kind(schema, defs))),
    }
    if lines.is_empty() { "  none\n".to_owned() } else { lines }
}

fn put_fields(lines: &mut String, object: &Value, defs: &Value, depth: usize) {
    let required: Vec<&str> =
        object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, property) in object["properties"].as_object().into_iter().flatten() {
        let must = if required.contains(&name.as_str()) { "*" } else { " " };
        let doc = property["description"].as_str().unwrap_or_default().replace('\n', " ");
        let _ =
            writeln!(lines, "{:indent$}{name}{must} {}  {doc}", "", kind(property, defs), indent = 2 * depth);
        if let Some(inner) = object_within(property, defs).filter(|_| depth < DEPTH_SHOWN) {
            put_fields(lines, inner, defs, depth + 1);
        }
    }
}

/// The schema, if it is that of an object with fields.
fn object<'v>(schema: &'v Value, defs: &'v Value) -> Option<&'v Value> {
    Some(resolved(schema, defs)).filter(|schema| schema["properties"].is_object())
}

/// The object a field holds: itself, one of its choices, or the items of an array.
fn object_within<'v>(schema: &'v Value, defs: &'v Value) -> Option<&'v Value> {
    let schema = resolved(schema, defs);
    let choices = [&schema["anyOf"], &schema["oneOf"]].into_iter().filter_map(Value::as_array).flatten();
    object(schema, defs)
        .or_else(|| choices.filter_map(|choice| object(choice, defs)).next())
        .or_else(|| object(&schema["items"], defs))
}

/// The schema a reference stands for.
fn resolved<'v>(schema: &'v Value, defs: &'v Value) -> &'v Value {
    match schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        Some(name) => &defs[name],
        None => schema,
    }
}

/// What kind of value a schema takes, in a few words.
fn kind(schema: &Value, defs: &Value) -> String {
    let schema = resolved(schema, defs);
    if let Some(word) = schema["const"].as_str() {
        return format!("{word:?}");
    }
    let choices = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    if let Some(choices) = choices {
        let kinds: Vec<String> =
            choices.iter().map(|one| kind(one, defs)).filter(|kind| kind != "null").collect();
        return kinds.join(" | ");
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().map(Value::to_string).collect::<Vec<_>>().join(" | ");
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("[{}]", self::kind(&schema["items"], defs)),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            kinds.collect::<Vec<_>>().join(" | ")
        }
        _ => "any".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_line_and_a_page() {
        let all = value_of(offline::all()).unwrap();
        let lines = overview(&all).render(None, false);
        for row in kairo_wire::method::METHODS {
            assert!(lines.contains(row.name), "{}", row.name);
            let page = page(&value_of(offline::method(row.name).unwrap()).unwrap());
            assert!(page.contains(row.name) && page.contains("Parameters:\n  "), "{page}");
        }
    }

    #[test]
    fn a_page_tells_what_each_parameter_is() {
        let page = page(&value_of(offline::method("process.kill").unwrap()).unwrap());
        assert!(page.contains("  id* string | integer  Which."), "{page}");
        assert!(page.contains("  scope  \"tree\" | \"leader\"  `tree` if absent."), "{page}");
        assert!(page.contains("kairo call process.kill '{"), "{page}");
    }
}
