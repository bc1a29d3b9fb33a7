//! `kairo intent`, `kairo intents`, `kairo cancel`: what is to be done, and how to stop it.

use crate::cli::args::events::{
    Cancel, DisconnectChoice, Intent, IntentBegin, IntentEnd, IntentSubcommand, IntentTimeline, Intents,
};
use crate::cli::context::{Context, Outcome, json_of, milliseconds, raw_of, seconds};
use crate::cli::events::Printer;
use crate::cli::failure::{FAILED, Failure};
use crate::cli::gist::span;
use crate::cli::moment::now_ms;
use crate::cli::table::{Edge, Table, duration, visible};
use crate::cli::trace;
use crate::cli::trace::tree::{Deed, Tree};
use kairo_client::{CallOptions, Client, EventItem};
use kairo_wire::error::Code;
use kairo_wire::event::{Event, IntentCancelled, IntentEnded};
use kairo_wire::methods::event::Order;
use kairo_wire::methods::intent::{
    self, BeginParams, EndParams, IntentCancelParams, IntentListParams, IntentOnDisconnect, IntentState,
    IntentStatus, StoppedKind, TimelineParams,
};
use std::collections::BTreeMap;
use std::convert::Infallible;

pub(crate) fn intent(context: &Context, args: &Intent) -> Outcome {
    match &args.command {
        IntentSubcommand::Begin(args) => begin(context, args),
        IntentSubcommand::End(args) => end(context, args),
        IntentSubcommand::Timeline(args) => timeline(context, args),
    }
}

fn begin(context: &Context, args: &IntentBegin) -> Outcome {
    let deadline_ms =
        args.deadline.map(|typed| seconds(typed, "--deadline").map(milliseconds)).transpose()?;
    let params = BeginParams {
        name: args.name.clone(),
        query: args.query.clone(),
        context: args.context.as_deref().map(|typed| raw_of(typed, "the context")).transpose()?,
        parent: args.parent.clone(),
        deadline_ms,
        on_disconnect: match args.on_disconnect {
            DisconnectChoice::Keep => IntentOnDisconnect::Keep,
            DisconnectChoice::Cancel => IntentOnDisconnect::Cancel,
            DisconnectChoice::End => IntentOnDisconnect::End,
        },
    };
    let options = CallOptions {
        correlation_id: args.correlation.clone(),
        idempotency_key: args.key.clone(),
        ..CallOptions::default()
    };
    let stays = args.on_disconnect != DisconnectChoice::Keep;
    let client = if stays { context.lasting(false)? } else { context.client()? };
    let begun = client.call_with::<intent::Begin>(&params, &options)?;
    if context.json {
        context.object(json_of(&begun)?)?;
    } else {
        context.line(begun.intent_id.as_str())?;
    }
    if stays { until_over(&client, begun.intent_id.as_str(), begun.seq) } else { Ok(0) }
}

/// Stays until the intent is over; with 125 if it was cancelled.
fn until_over(client: &Client, id: &str, seq: u64) -> Outcome {
    let topic = crate::cli::events::pattern("kairo.intent.*")?;
    let params = kairo_wire::methods::event::SubscribeParams {
        // What happened since its begin counts.
        from_seq: Some(seq),
        ..kairo_wire::methods::event::SubscribeParams::live(topic)
    };
    for item in client.events_from(params)? {
        let EventItem::Event(event) = item? else { continue };
        let told = trace::told(event)?;
        if told.payload["intentId"] != id {
            continue;
        }
        match told.event.topic.as_str() {
            IntentEnded::TOPIC => return Ok(0),
            IntentCancelled::TOPIC => return Ok(FAILED),
            _ => {}
        }
    }
    Ok(FAILED)
}

fn end(context: &Context, args: &IntentEnd) -> Outcome {
    let params = EndParams {
        intent_id: args.id.clone(),
        result: args.result.as_deref().map(|typed| raw_of(typed, "the result")).transpose()?,
        error: args.error.clone(),
        summary: args.summary.clone(),
    };
    let ended = context.client()?.call::<intent::End>(&params).map_err(advised)?;
    if context.json {
        context.object(json_of(&ended)?)?;
    } else {
        context.line(&format!("ended after {}", span(ended.duration_ms)))?;
    }
    Ok(0)
}

fn advised(error: kairo_client::CallError) -> Failure {
    let unknown = error.code() == Some(Code::NotFound);
    let failure = Failure::from(error);
    if unknown { failure.advise("`kairo intents --all` lists what there is") } else { failure }
}

fn timeline(context: &Context, args: &IntentTimeline) -> Outcome {
    let client = context.client()?;
    let params = TimelineParams {
        intent_id: args.id.clone(),
        limit: args.limit,
        order: if args.reverse { Order::Backward } else { Order::Forward },
        ..TimelineParams::default()
    };
    if args.tree {
        let (events, gaps) = trace::all(client.timeline(params), advised)?;
        return trace::show(context, &args.id, &events, &gaps, Some(&args.id), false);
    }
    if args.limit == Some(0) {
        return Ok(0);
    }
    let mut printer = Printer::new(context);
    for page in client.timeline(params) {
        for item in page.map_err(advised)?.items {
            printer.show(&item)?;
        }
    }
    printer.flush()?;
    Ok(0)
}

pub(crate) fn intents(context: &Context, args: &Intents) -> Outcome {
    let client = context.client()?;
    let mut found = Vec::new();
    let states = match args.all {
        true => vec![None],
        false => vec![Some(IntentState::Open), Some(IntentState::Cancelling)],
    };
    for state in states {
        let mut params = IntentListParams { state, ..IntentListParams::default() };
        loop {
            let page = client.call::<intent::List>(&params)?;
            found.extend(page.intents);
            match page.next {
                Some(next) => params.after_seq = Some(next),
                None => break,
            }
        }
    }
    found.sort_by_key(|intent| intent.seq);
    // One that went from one state to the other between the two questions is in both answers.
    found.dedup_by(|next, former| next.seq == former.seq);
    if context.json {
        context.object(serde_json::json!({ "intents": json_of(&found)? }))?;
    } else {
        context.text(&table(&found, now_ms()).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

/// Intents in the order they began, each under the one it is part of.
fn table(intents: &[IntentStatus], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        ("INTENT", Edge::Left),
        ("STATE", Edge::Left),
        ("AGE", Edge::Right),
        ("PROCESSES", Edge::Right),
        ("CALLS", Edge::Right),
        ("NAME", Edge::Left),
    ]);
    let deed = |intent: &IntentStatus| Deed {
        id: intent.intent_id.as_str().to_owned(),
        cause: intent.parent.as_ref().map(|parent| parent.as_str().to_owned()),
        ..Deed::default()
    };
    let tree = Tree::new(intents.iter().map(deed).collect());
    let walked: Result<(), Infallible> = tree.walk(true, |row| {
        let intent = &intents[row.at];
        let until = intent.ended_at_ms.unwrap_or(now_ms);
        let last = intent.error.as_ref().or(intent.summary.as_ref());
        let words = last.map(|words| format!(": {words}")).unwrap_or_default();
        table.row([
            intent.intent_id.as_str().to_owned(),
            intent.state.word().to_owned(),
            duration(until.saturating_sub(intent.started_at_ms)),
            intent.processes.to_string(),
            intent.calls.to_string(),
            format!("{}{}{words}", "  ".repeat(row.trail.len().min(16)), intent.name),
        ]);
        Ok(())
    });
    match walked {
        Ok(()) => table,
    }
}

pub(crate) fn cancel(context: &Context, args: &Cancel) -> Outcome {
    let grace_ms = args.grace.map(|typed| seconds(typed, "--grace").map(milliseconds)).transpose()?;
    let params = IntentCancelParams {
        intent_id: args.intent.clone(),
        correlation_id: args.correlation.clone(),
        reason: args.reason.clone(),
        grace_ms,
    };
    // It goes on in the next daemon, and a second call has the same answer.
    let client = context.lasting(false)?;
    let receipt = client.call::<intent::Cancel>(&params).map_err(advised)?;
    if context.json {
        context.object(json_of(&receipt)?)?;
    } else {
        context.text(&stopped(&receipt).render(context.width(), context.colour()))?;
        context.line(&sentence(&receipt))?;
    }
    Ok(if receipt.left > 0 { FAILED } else { 0 })
}

fn stopped(receipt: &IntentCancelled) -> Table {
    let mut table = Table::new(&[
        ("STOPPED", Edge::Left),
        ("HOW", Edge::Left),
        ("AFTER", Edge::Right),
        ("WHAT", Edge::Left),
    ]);
    for one in &receipt.stopped {
        table.row([one.kind.word().to_owned(), one.how.word().to_owned(), span(one.ms), one.id.clone()]);
    }
    table
}

/// `stopped 3 processes and 1 call in 120ms, of 2 intents under it as well`
fn sentence(receipt: &IntentCancelled) -> String {
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for one in &receipt.stopped {
        let name = match one.kind {
            StoppedKind::Process => "processes",
            StoppedKind::Call => "calls",
            StoppedKind::Stream | StoppedKind::Events => "subscriptions",
            StoppedKind::Stdin => "ways into stdins",
        };
        *counts.entry(name).or_default() += 1;
    }
    let mut parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    if receipt.more > 0 {
        parts.push(format!("more: {}", receipt.more));
    }
    if !receipt.children.is_empty() {
        parts.push(format!("intents under it: {}", receipt.children.len()));
    }
    if receipt.left > 0 {
        parts.push(format!("NOT gone: {}", receipt.left));
    }
    let what = if parts.is_empty() { "nothing was there to stop".to_owned() } else { parts.join(", ") };
    let reason = receipt.reason.as_ref().map(|reason| format!(" ({})", visible(reason))).unwrap_or_default();
    format!("cancelled in {}{reason}; {what}", span(receipt.duration_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::codec::raw::Raw;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn read<T: DeserializeOwned>(value: &Value) -> T {
        Raw::of(value).unwrap().decode().unwrap()
    }

    fn status(id: &str, parent: Option<&str>, name: &str) -> IntentStatus {
        let owner = json!({"kind": "owner", "uid": 0});
        read(&json!({
            "intentId": id, "name": name, "state": "open", "parent": parent, "correlationId": "c", "seq": 1,
            "owner": owner, "startedAtMs": 1_000, "onDisconnect": "keep", "children": 0, "processes": 2,
            "calls": 0, "subscriptions": 0,
        }))
    }

    #[test]
    fn an_intent_stands_under_the_one_it_is_part_of() {
        let text = table(
            &[status("a", None, "night"), status("b", None, "day"), status("c", Some("a"), "render")],
            4_000,
        );
        let text = text.render(None, false);
        let names: Vec<&str> =
            text.lines().skip(1).map(|line| &line[line.find("0  ").unwrap() + 3..]).collect();
        assert_eq!(names, ["night", "  render", "day"], "{text}");
    }

    #[test]
    fn a_receipt_is_a_sentence() {
        let stopped = |kind: &str| json!({"kind": kind, "id": "x", "how": "terminated", "ms": 12});
        let mut receipt: IntentCancelled = read(&json!({
            "correlationId": "c", "reason": "late", "by": {"kind": "owner", "uid": 0}, "children": ["d"], "left": 1,
            "stopped": [stopped("process"), stopped("process"), stopped("call")], "durationMs": 120,
        }));
        let expected = "cancelled in 120ms (late); calls: 1, processes: 2, intents under it: 1, NOT gone: 1";
        assert_eq!(sentence(&receipt), expected);
        assert!(super::stopped(&receipt).render(None, false).contains("process  terminated   12ms  x"));
        (receipt.stopped, receipt.children, receipt.left) = (Vec::new(), Vec::new(), 0);
        assert!(sentence(&receipt).ends_with("nothing was there to stop"));
    }
}
