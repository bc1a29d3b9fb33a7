//! `kairo events`, `kairo call`, `kairo introspect`: the daemon's own words.

use crate::cli::args::{Call, Events, Introspect};
use crate::cli::context::{Context, Outcome, seconds};
use crate::cli::failure::Failure;
use crate::cli::table::{Edge, Table, visible};
use kairo_client::{BusEvent, CallOptions};
use kairo_wire::codec::raw::Raw;
use kairo_wire::methods::system::{self, IntrospectParams};
use kairo_wire::{introspect as offline, json as wire_json};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read};

pub(crate) fn events(context: &Context, args: &Events) -> Outcome {
    let client = context.client()?;
    if io::stdout().is_terminal() && !args.follow && args.count.is_none() && !context.json {
        eprintln!("kairo: waiting for events; Ctrl-C ends");
    }
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut events = client.events(&args.pattern)?;
    while left > 0 {
        let Some(event) = events.next() else { break };
        let event = event?;
        let payload = value(&event.payload)?;
        if context.json {
            context.object(event_json(&event, payload))?;
        } else {
            context.line(&event_line(&event, &payload))?;
        }
        left -= 1;
    }
    Ok(0)
}

fn event_json(event: &BusEvent, payload: Value) -> Value {
    json!({
        "topic": event.topic, "payload": payload, "source": event.source, "time": event.time, "id": event.id,
        "correlationId": event.correlation_id, "causationId": event.causation_id, "traceId": event.trace_id,
    })
}

fn event_line(event: &BusEvent, payload: &Value) -> String {
    let time = event.time.as_deref().unwrap_or("-");
    visible(&format!("{time} {} {payload}", event.topic))
}

pub(crate) fn call(context: &Context, args: &Call) -> Outcome {
    let params = match args.params.as_str() {
        "-" => io::read_to_string(io::stdin().lock().by_ref())?,
        typed => typed.to_owned(),
    };
    let params = wire_json::from_text(&params).map_err(|error| {
        Failure::usage(format!("the parameters are no JSON: {error}"))
            .advise("write an object in single quotes: '{\"id\": \"repl\"}'")
    })?;
    let deadline = args.timeout.map(|typed| seconds(typed, "--timeout")).transpose()?;
    let options = CallOptions { deadline, ..CallOptions::default() };
    let result = value(&context.client()?.call_raw(&args.method, &params, &options)?)?;
    if context.json {
        context.object(json!({ "result": result }))?;
    } else {
        context.line(&pretty(&result))?;
    }
    Ok(0)
}

fn value(raw: &Raw) -> Result<Value, Failure> {
    wire_json::to_value(raw.as_ref()).map_err(|error| Failure::new("E_SHAPE", error.to_string()))
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
        value(known.ok_or_else(unknown)?)?
    } else {
        let params = IntrospectParams { method: args.method.clone() };
        value(&context.client()?.call::<system::Introspect>(&params)?)?
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
    let method = match &found["method"] {
        Value::Object(_) => &found["method"],
        _ => found,
    };
    let mut page = String::new();
    let text = |key: &str| method[key].as_str().unwrap_or_default();
    // Writing to a String does not fail.
    let _ = writeln!(page, "{}    needs {}, since {}\n", text("name"), text("permission"), text("since"));
    let _ = writeln!(page, "{}\n", text("doc").trim());
    for key in ["params", "result", "errors", "example"] {
        match &method[key] {
            Value::Null => {}
            Value::String(line) => drop(writeln!(page, "{key}: {line}")),
            other => drop(writeln!(page, "{key}: {}", pretty(other))),
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_a_line_and_a_page() {
        let all = value(offline::all()).unwrap();
        let lines = overview(&all).render(None, false);
        for row in kairo_wire::method::METHODS {
            assert!(lines.contains(row.name), "{}", row.name);
            let page = page(&value(offline::method(row.name).unwrap()).unwrap());
            assert!(page.contains(row.name) && page.contains("params:"), "{page}");
        }
    }

    #[test]
    fn an_event_can_not_move_the_cursor() {
        let event = BusEvent {
            topic: "a\x1b[2J".to_owned(),
            payload: Raw::ABSENT,
            source: None,
            time: Some("2026-01-01T00:00:00.000Z".to_owned()),
            id: None,
            correlation_id: None,
            causation_id: None,
            trace_id: None,
        };
        let line = event_line(&event, &json!({"x": "\n"}));
        assert!(!line.contains('\x1b') && !line.contains('\n'), "{line:?}");
    }
}
