//! `kairo views`, `kairo view`: what the daemon makes of events.
//!
//! A view that is watched is read once whole and then as it changes. If the daemon no longer knows what has changed, it is
//! read again, so what was printed last for a key is always how it stands.

use crate::cli::args::events::{View, ViewSubcommand};
use crate::cli::context::{Context, Outcome, json_of, raw_of, value_of};
use crate::cli::failure::Failure;
use crate::cli::gist::gist;
use crate::cli::table::{Edge, Table, bytes, visible};
use kairo_client::Client;
use kairo_wire::error::Code;
use kairo_wire::methods::view::{
    self, ViewChangesParams, ViewDefineParams, ViewDefinition, ViewGetParams, ViewListParams, ViewNameParams,
    ViewRow, ViewSummary,
};
use serde_json::json;
use std::io;
use std::path::Path;

/// How long the daemon waits for a change before it answers that there is none, milliseconds.
const WAIT_MS: u32 = 30_000;
/// Rows of a page.
const PAGE_ROWS: u32 = 1_000;

pub(crate) fn views(context: &Context) -> Outcome {
    let found = context.client()?.call::<view::List>(&ViewListParams {})?;
    if context.json {
        context.object(json_of(&found)?)?;
    } else {
        context.text(&overview(&found.views).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

fn overview(views: &[ViewSummary]) -> Table {
    let mut table = Table::new(&[
        ("VIEW", Edge::Left),
        ("ROWS", Edge::Right),
        ("SIZE", Edge::Right),
        ("EVENTS", Edge::Right),
        ("LAG", Edge::Right),
        ("SKIPPED", Edge::Right),
        ("OF", Edge::Left),
    ]);
    for view in views {
        let of = match &view.definition {
            Some(definition) => definition.topic.as_str().to_owned(),
            None if view.builtin => "built in".to_owned(),
            None => String::new(),
        };
        let lost = view.skipped + view.overflowed + view.missed;
        table.row([
            view.name.clone(),
            view.rows.to_string(),
            bytes(view.bytes),
            view.events.to_string(),
            view.lag.to_string(),
            lost.to_string(),
            of,
        ]);
    }
    table
}

pub(crate) fn view(context: &Context, args: &View) -> Outcome {
    match (&args.command, &args.name) {
        (Some(ViewSubcommand::Define(args)), _) => define(context, &args.file),
        (Some(ViewSubcommand::Drop(args)), _) => {
            let params = ViewNameParams { name: args.name.clone() };
            let done = context.client()?.call::<view::Drop>(&params)?;
            finished(context, &args.name, done.ok)
        }
        (Some(ViewSubcommand::Rebuild(args)), _) => {
            let params = ViewNameParams { name: args.name.clone() };
            let done = context.client()?.call::<view::Rebuild>(&params)?;
            finished(context, &args.name, done.ok)
        }
        (None, Some(name)) if args.watch => watch(context, args, name),
        (None, Some(name)) => show(context, args, name),
        (None, None) => Err(Failure::usage("which view?").advise("`kairo views` lists them")),
    }
}

fn finished(context: &Context, name: &str, ok: bool) -> Outcome {
    if !ok {
        return Err(unknown(&format!("there is no view {name}")));
    }
    if context.json {
        context.object(json!({ "ok": true }))?;
    }
    Ok(0)
}

fn unknown(what: &str) -> Failure {
    Failure::new(Code::NotFound.name(), what).advise("`kairo views` lists what there is")
}

fn define(context: &Context, file: &Path) -> Outcome {
    let named = |error: io::Error| Failure::new("E_IO", format!("{}: {error}", file.display()));
    let text = if file.as_os_str() == "-" {
        "-".to_owned()
    } else {
        std::fs::read_to_string(file).map_err(named)?
    };
    let definition: ViewDefinition = raw_of(&text, "the definition")?.decode().map_err(|error| {
        Failure::usage(format!("the definition: {error}")).advise("`kairo view define --help` shows one")
    })?;
    let done = context.client()?.call::<view::Define>(&ViewDefineParams { definition })?;
    if context.json {
        context.object(json_of(&done)?)?;
    } else if !done.changed {
        context.line("it was defined so already")?;
    }
    Ok(0)
}

fn show(context: &Context, args: &View, name: &str) -> Outcome {
    let (rows, seq) = read(&context.client()?, args, name)?;
    if let (Some(key), true) = (&args.key, rows.is_empty()) {
        return Err(unknown(&format!("{name} has no row {key}")));
    }
    if context.json {
        context.object(json!({ "rows": json_of(&rows)?, "seq": seq }))?;
    } else if let (Some(_), [row]) = (&args.key, &rows[..]) {
        let value = value_of(&row.value)?;
        context.line(&serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string()))?;
    } else {
        let mut table = Table::new(&[("KEY", Edge::Left), ("", Edge::Left)]);
        for row in &rows {
            table.row([row.key.clone(), gist(&value_of(&row.value)?)]);
        }
        context.text(&table.render(context.width(), context.colour()))?;
    }
    Ok(0)
}

/// All rows that are asked for, and the event from which on they may have changed.
fn read(client: &Client, args: &View, name: &str) -> Result<(Vec<ViewRow>, u64), Failure> {
    let mut params = ViewGetParams {
        name: name.to_owned(),
        key: args.key.clone(),
        prefix: args.prefix.clone(),
        limit: Some(PAGE_ROWS),
        after: None,
    };
    let mut rows = Vec::new();
    let mut begun = None;
    loop {
        let page = client.call::<view::Get>(&params)?;
        rows.extend(page.rows);
        let seq = *begun.get_or_insert(page.seq);
        match page.next {
            Some(next) => params.after = Some(next),
            None => return Ok((rows, seq)),
        }
    }
}

fn watch(context: &Context, args: &View, name: &str) -> Outcome {
    let client = context.lasting(args.lasting.no_reconnect)?;
    let wanted = |key: &str| {
        args.key.as_deref().is_none_or(|wanted| wanted == key)
            && args.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
    };
    'whole: loop {
        let (rows, mut since) = read(&client, args, name)?;
        for row in &rows {
            tell(context, row)?;
        }
        loop {
            let params = ViewChangesParams {
                name: name.to_owned(),
                key: args.key.clone(),
                since,
                limit: Some(PAGE_ROWS),
                wait_ms: Some(WAIT_MS),
            };
            let changed = client.call::<view::Changes>(&params)?;
            if changed.reset {
                continue 'whole;
            }
            for row in changed.rows.iter().filter(|row| wanted(&row.key)) {
                tell(context, row)?;
            }
            for key in changed.removed.iter().filter(|key| wanted(key)) {
                match context.json {
                    true => context.object(json!({ "removed": key }))?,
                    false => context.line(&format!("{} is gone", visible(key)))?,
                }
            }
            since = changed.seq;
        }
    }
}

fn tell(context: &Context, row: &ViewRow) -> Result<(), Failure> {
    if context.json {
        return context.object(json!({ "row": json_of(row)? }));
    }
    context.line(&format!("{} {}", visible(&row.key), gist(&value_of(&row.value)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;
    use kairo_wire::codec::raw::Raw;

    #[test]
    fn a_view_is_shown_or_worked_on() {
        let typed = |words: &[&str]| Cli::try_parse_from([&["kairo", "view"], words].concat());
        let Ok(Cli { command: Command::View(view), .. }) = typed(&["exits", "build", "--watch"]) else {
            panic!()
        };
        assert_eq!(
            (view.name.as_deref(), view.key.as_deref(), view.watch),
            (Some("exits"), Some("build"), true)
        );
        let Ok(Cli { command: Command::View(view), .. }) = typed(&["drop", "exits"]) else { panic!() };
        assert!(matches!(view.command, Some(ViewSubcommand::Drop(name)) if name.name == "exits"));
        assert!(typed(&[]).is_err() && typed(&["exits", "a", "--prefix", "b"]).is_err());
    }

    #[test]
    fn the_overview_tells_what_is_missing() {
        let view: ViewSummary = Raw::of(&json!({
            "name": "exits", "seq": 9, "lag": 2, "rows": 3, "bytes": 2048, "events": 7, "skipped": 1,
            "overflowed": 1, "gaps": 1, "missed": 4, "builtin": true,
        }))
        .unwrap()
        .decode()
        .unwrap();
        let text = overview(&[view]).render(None, false);
        assert!(text.contains("exits     3  2.0 KiB       7    2        6  built in"), "{text}");
    }
}
