//! `kairo adapters`: which there are, and what one makes of a text.

use crate::adapters::declaration::{AUTO, Declaration};
use crate::adapters::parser::Parser;
use crate::adapters::registry::{Entry, Registry};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::table::{Edge, Table, visible};
use clap::Args;
use kairo_wire::error::Code;
use serde_json::json;
use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// List adapters, which read a program's own output for how far it is
///
/// The user's are in adapters.toml and adapters/*.toml beside the configuration file, and take the place of ours of the
/// same name.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo adapters\n  ninja | kairo adapters --try ninja    # what it makes of a text, as JSON"
)]
pub(crate) struct Adapters {
    /// Read our stdin with this adapter and print the events that come of it
    #[arg(long = "try", value_name = "NAME")]
    pub(crate) name: Option<String>,
}

pub(crate) fn adapters(context: &Context, args: &Adapters) -> Outcome {
    let registry = Registry::load(&context.config, &context.environment)?;
    match &args.name {
        None => list(context, &registry),
        Some(name) => attempt(context, &registry, name),
    }
}

fn list(context: &Context, registry: &Registry) -> Outcome {
    if context.json {
        let all = registry.entries().map(described).collect::<Result<Vec<_>, _>>()?;
        context.object(json!({ "adapters": all }))?;
        return Ok(0);
    }
    let mut table =
        Table::new(&["NAME", "PROGRAMS", "READS", "AS", "FROM"].map(|heading| (heading, Edge::Left)));
    for entry in registry.entries() {
        let of = &entry.declaration;
        let [source, format] = [json_of(&of.source)?, json_of(&of.format)?];
        table.row(vec![
            of.name.clone(),
            if of.programs.is_empty() { "-".to_owned() } else { of.programs.join(" ") },
            source.as_str().unwrap_or_default().to_owned(),
            format.as_str().unwrap_or_default().to_owned(),
            entry.file.as_ref().map_or("kairo".to_owned(), |file| file.display().to_string()),
        ]);
    }
    context.text(&table.render(context.width(), context.colour()))?;
    Ok(0)
}

fn described(entry: &Entry) -> Result<serde_json::Value, Failure> {
    let of = &entry.declaration;
    Ok(json!({
        "name": of.name, "match": of.programs, "source": json_of(&of.source)?, "format": json_of(&of.format)?,
        "arguments": of.arguments, "environment": of.environment, "file": entry.file,
    }))
}

/// The adapter that was asked for, for a program; none if none suits and `auto` was asked for.
pub(crate) fn wanted(
    registry: &Registry,
    name: &str,
    program: &OsStr,
) -> Result<Option<Arc<Declaration>>, Failure> {
    if name == AUTO {
        return Ok(registry.suiting(Path::new(program)).cloned());
    }
    registry.named(name).cloned().map(Some).ok_or_else(|| {
        Failure::new(Code::NotFound.name(), format!("there is no adapter {}", visible(name)))
            .advise("`kairo adapters` lists what there is")
    })
}

/// As if our stdin were the stream that it reads.
fn attempt(context: &Context, registry: &Registry, name: &str) -> Outcome {
    let Some(declaration) = wanted(registry, name, OsStr::new(""))? else {
        return Err(Failure::usage("--try takes the name of one adapter"));
    };
    let source = declaration.source;
    let mut parser = Parser::new(declaration, 0);
    let (begun, mut input) = (Instant::now(), std::io::stdin().lock());
    let (mut buffer, mut events) = (vec![0; 64 << 10], Vec::new());
    loop {
        let count = input.read(&mut buffer)?;
        let now_ms = begun.elapsed().as_millis() as u64;
        parser.feed(source, &buffer[..count], now_ms, &mut events);
        parser.flush(now_ms, &mut events);
        if count == 0 {
            parser.end(source, now_ms, &mut events);
        }
        for event in events.drain(..) {
            context.object(json_of(&event)?)?;
        }
        if count == 0 {
            return Ok(0);
        }
    }
}
