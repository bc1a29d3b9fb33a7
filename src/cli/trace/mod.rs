//! `kairo trace`: a story, from its events to a picture.
//!
//! What is named may be a correlation, an event or a process; the log is asked in this order, cheapest first. Who caused
//! whom is in [`tree`], what it looks like in [`picture`].

mod picture;
pub(crate) mod tree;

use crate::cli::args::events::Trace;
use crate::cli::context::{Context, Outcome, value_of};
use crate::cli::events::missing;
use crate::cli::failure::Failure;
use crate::cli::gist::envelope;
use kairo_client::{BusEvent, CallError, Client, EventItem, Replay};
use kairo_wire::codec::time::from_iso;
use kairo_wire::error::Code;
use kairo_wire::event::{
    Event, IntentCancelled, IntentEnded, IntentStarted, ProcessExited, ProcessLost, ProcessSpawned,
};
use kairo_wire::id::TopicPattern;
use kairo_wire::methods::event::{Gap, Order, ReplayParams};
use picture::Picture;
use serde_json::{Value, json};
use std::io::{self, BufWriter, Write};
use tree::{Deed, Life, Took, Tree};

/// An event with what it says.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) event: BusEvent,
    pub(crate) payload: Value,
    pub(crate) time_ms: u64,
}

pub(crate) fn trace(context: &Context, args: &Trace) -> Outcome {
    let client = context.client()?;
    let story = story_of(&client, &args.of)?;
    let params = ReplayParams { correlation_id: Some(story.clone()), ..ReplayParams::default() };
    let (events, gaps) = all(client.replay(params), Failure::from)?;
    show(context, &story, &events, &gaps, Some(args.of.as_str()), args.all)
}

/// Shows events in the order of the log as trees.
pub(crate) fn show(
    context: &Context,
    story: &str,
    events: &[Told],
    gaps: &[Gap],
    named: Option<&str>,
    all: bool,
) -> Outcome {
    for gap in gaps {
        eprintln!("kairo: {}", missing(gap));
    }
    let tree = Tree::new(events.iter().map(deed).collect());
    let mut out = BufWriter::new(io::stdout().lock());
    if context.json {
        tree.walk(true, |row| {
            let value = object(events, &tree, row)?;
            writeln!(out, "{}", crate::cli::context::versioned(value))?;
            Ok::<(), Failure>(())
        })?;
    } else {
        let picture = Picture::new(context, events, &tree, named);
        writeln!(out, "{}", picture.title(story))?;
        tree.walk(all, |row| writeln!(out, "{}", picture.line(row)))?;
    }
    out.flush()?;
    Ok(0)
}

fn object(events: &[Told], tree: &Tree, row: &tree::Row<'_>) -> Result<Value, Failure> {
    let told = &events[row.at];
    let since = row.parent.map(|parent| told.time_ms.saturating_sub(events[parent].time_ms));
    let took = match tree.took(row.at) {
        Some(Took::Ms(took)) => Some(took),
        Some(Took::Unended) | None => None,
    };
    let parent = row.parent.and_then(|parent| events[parent].event.id.clone());
    Ok(json!({
        "depth": row.trail.len(), "parent": parent, "sinceCauseMs": since, "tookMs": took,
        "event": envelope(&told.event)?,
    }))
}

/// All events of a question, oldest first, and what is missing among them.
pub(crate) fn all(pages: Replay, failed: fn(CallError) -> Failure) -> Result<(Vec<Told>, Vec<Gap>), Failure> {
    let (mut events, mut gaps) = (Vec::new(), Vec::new());
    for page in pages {
        for item in page.map_err(failed)?.items {
            match item {
                EventItem::Event(event) => events.push(told(event)?),
                EventItem::Gap(gap) => gaps.push(gap),
                EventItem::Cut { .. } | EventItem::Resumed { .. } => {}
            }
        }
    }
    Ok((events, gaps))
}

pub(crate) fn told(event: BusEvent) -> Result<Told, Failure> {
    let payload = value_of(&event.payload)?;
    let time_ms = event.time.as_deref().and_then(from_iso).and_then(|time| time.try_into().ok()).unwrap_or(0);
    Ok(Told { event, payload, time_ms })
}

/// The correlation of what was named.
fn story_of(client: &Client, named: &str) -> Result<String, Failure> {
    let story = ReplayParams { correlation_id: Some(named.to_owned()), ..newest() };
    if first(client, story, |_| true)?.is_some() {
        return Ok(named.to_owned());
    }
    let found = match of_process(client, named)? {
        Some(event) => Some(event),
        // The log has no order by name, so all of it is looked at.
        None if is_an_events_name(named) => {
            let is_it = |told: &Told| told.event.id.as_deref() == Some(named);
            first(client, ReplayParams { limit: None, ..newest() }, is_it)?
        }
        None => None,
    };
    found.and_then(|told| told.event.correlation_id).map(String::from).ok_or_else(|| {
        Failure::new(Code::NotFound.name(), format!("the log knows no story, event or process {named}"))
            .advise("`kairo events --reverse --limit 20` shows the latest")
    })
}

pub(crate) fn newest() -> ReplayParams {
    ReplayParams { order: Order::Backward, limit: Some(1), ..ReplayParams::default() }
}

fn of_process(client: &Client, named: &str) -> Result<Option<Told>, Failure> {
    let types = TopicPattern::from_text(ProcessSpawned::TOPIC).into_iter().collect();
    let is_it = |told: &Told| match &told.payload["id"] {
        Value::String(id) => id == named,
        // An id may be a number.
        other => other.as_i64().is_some_and(|id| named.parse() == Ok(id)),
    };
    first(client, ReplayParams { types, limit: None, ..newest() }, is_it)
}

/// The first event in the order asked for that is the one.
pub(crate) fn first(
    client: &Client,
    params: ReplayParams,
    is_it: impl Fn(&Told) -> bool,
) -> Result<Option<Told>, Failure> {
    for page in client.replay(params) {
        for item in page?.items {
            let EventItem::Event(event) = item else { continue };
            let told = told(event)?;
            if is_it(&told) {
                return Ok(Some(told));
            }
        }
    }
    Ok(None)
}

/// A UUID, which an event's name is.
pub(crate) fn is_an_events_name(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn deed(told: &Told) -> Deed {
    let Told { event, payload, time_ms } = told;
    Deed {
        id: event.id.clone().unwrap_or_default().into(),
        cause: event.causation_id.clone().map(String::from),
        topic: event.topic.clone().into(),
        time_ms: *time_ms,
        life: life(&event.topic, payload),
    }
}

fn life(topic: &str, payload: &Value) -> Option<Life> {
    let named = |field: &str| payload[field].as_str().map(str::to_owned);
    match topic {
        ProcessSpawned::TOPIC => named("session").map(Life::Begins),
        ProcessExited::TOPIC | ProcessLost::TOPIC => named("session").map(Life::Ends),
        IntentStarted::TOPIC => named("intentId").map(Life::Begins),
        IntentEnded::TOPIC | IntentCancelled::TOPIC => named("intentId").map(Life::Ends),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_lives_from_its_spawn_to_its_exit() {
        let payload = json!({"session": "s"});
        assert!(matches!(life("kairo.process.spawned", &payload), Some(Life::Begins(name)) if name == "s"));
        assert!(matches!(life("kairo.process.exited", &payload), Some(Life::Ends(name)) if name == "s"));
        assert!(life("kairo.process.spawned", &json!(7)).is_none() && life("a", &payload).is_none());
    }

    #[test]
    fn an_events_name_is_told_from_a_process() {
        assert!(is_an_events_name("00112233-4455-4677-8899-aabbccddeeff"));
        assert!(!is_an_events_name("build") && !is_an_events_name(""));
    }
}
