//! `kairo log status`, `kairo log compact`: the event log as a whole.

use crate::cli::args::events::{Log, LogCompact, LogSubcommand};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::events::pattern;
use crate::cli::table::{Edge, Table, bytes, duration};
use kairo_wire::methods::log::{
    self, CompactParams, CompactResult, LogStatusParams, LogStatusResult, RetentionPolicy, RetentionRule,
};
use std::fmt::Write as _;

pub(crate) fn log(context: &Context, args: &Log) -> Outcome {
    match &args.command {
        LogSubcommand::Status(_) => status(context),
        LogSubcommand::Compact(args) => compact(context, args),
    }
}

fn status(context: &Context) -> Outcome {
    let found = context.client()?.call::<log::LogStatus>(&LogStatusParams {})?;
    if context.json {
        context.object(json_of(&found)?)?;
    } else {
        let mut text = told(&found);
        if !found.consumers.is_empty() {
            text.push('\n');
            text.push_str(&consumers(&found).render(context.width(), context.colour()));
        }
        context.text(&text)?;
    }
    Ok(if found.broken.is_some() { 1 } else { 0 })
}

fn told(log: &LogStatusResult) -> String {
    let mut lines = vec![match log.first_seq {
        Some(first) => format!("events   {} from @{first} to @{}", log.events, log.last_seq),
        None => format!("events   none; the last was @{}", log.last_seq),
    }];
    lines.push(format!("bytes    {}, stored in {}", bytes(log.bytes), bytes(log.stored_bytes)));
    if log.unwritten_bytes > 0 {
        lines.push(format!("waiting  {} to be written", bytes(log.unwritten_bytes)));
    }
    lines.push(format!("indexes  {} events behind", log.index_lag));
    lines.push(format!("gaps     {}", log.gaps));
    lines.push(format!("policy   {}", policy(&log.policy)));
    lines.extend(log.policy.rules.iter().map(|one| format!("         {}", rule(one))));
    if log.compacting {
        lines.push("now      dropping what is old".to_owned());
    }
    if let Some(reason) = &log.broken {
        lines.push(format!("BROKEN   nothing is kept any more: {reason}"));
    }
    lines.join("\n") + "\n"
}

fn policy(policy: &RetentionPolicy) -> String {
    match (policy.age_ms, policy.bytes) {
        (None, None) => "everything is kept".to_owned(),
        (Some(age), None) => format!("what is older than {} is dropped", duration(age)),
        (None, Some(most)) => format!("what is above {} is dropped", bytes(most)),
        (Some(age), Some(most)) => {
            format!("what is older than {} or above {} is dropped", duration(age), bytes(most))
        }
    }
}

fn rule(rule: &RetentionRule) -> String {
    let mut text = rule.topic.clone();
    if let Some(age) = rule.age_ms {
        let _ = write!(text, ", for {}", duration(age));
    }
    if let Some(field) = &rule.latest_by {
        let _ = write!(text, ", the latest by {field}");
    }
    if let Some(count) = rule.count {
        let _ = write!(text, ", the latest {count}");
    }
    text
}

fn consumers(log: &LogStatusResult) -> Table {
    let mut table = Table::new(&[("CONSUMER", Edge::Left), ("DONE TO", Edge::Right), ("LAG", Edge::Right)]);
    for one in &log.consumers {
        table.row([one.name.clone(), format!("@{}", one.position), one.lag.to_string()]);
    }
    table
}

fn compact(context: &Context, args: &LogCompact) -> Outcome {
    let params = CompactParams {
        older_than_ms: args.older_than.map(|span| span.0),
        bytes: args.bytes.map(|size| size.0),
        topic: args.topic.as_deref().map(pattern).transpose()?,
        latest_by: args.latest_by.clone(),
        count: args.keep,
        dry_run: args.dry_run,
    };
    let done = context.client()?.call::<log::Compact>(&params)?;
    if context.json {
        context.object(json_of(&done)?)?;
    } else {
        context.text(&dropped(&done))?;
    }
    Ok(0)
}

fn dropped(done: &CompactResult) -> String {
    let verb = if done.dry_run { "would drop" } else { "dropped" };
    let mut text = format!("{verb} {} events, {}\n", done.events, bytes(done.bytes));
    for range in &done.ranges {
        let _ = writeln!(text, "  @{} to @{}: {} events", range.from, range.to, range.events);
    }
    text
}
