//! `kairo events`, `kairo publish`: the log and its news.
//!
//! The past comes in pages, what happens over a subscription; past and then present is one subscription from a place, so
//! that nothing is missed or shown twice between the two, or over a daemon that was killed.

use crate::cli::args::events::{AckChoice, Events, Publish};
use crate::cli::context::{Context, Outcome, json_of, raw_of, value_of, versioned};
use crate::cli::failure::Failure;
use crate::cli::gist::{Paint, Tone, cut, envelope, gist};
use crate::cli::moment::{Moment, now_ms};
use crate::cli::table::visible;
use kairo_client::{BusEvent, CallOptions, EventItem, topic};
use kairo_wire::event::CutReason;
use kairo_wire::id::TopicPattern;
use kairo_wire::methods::event::{self, Ack, Draft, Gap, Order, ReplayParams, SubscribeParams};
use serde_json::json;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

pub(crate) fn events(context: &Context, args: &Events) -> Outcome {
    let patterns = args.patterns.iter().map(|text| pattern(text)).collect::<Result<Vec<_>, _>>()?;
    let begins_now = matches!(args.from, None | Some(Moment::Now));
    if args.follow || (begins_now && args.to.is_none() && !args.reverse) {
        live(context, args, &patterns)
    } else {
        past(context, args, patterns)
    }
}

pub(crate) fn pattern(text: &str) -> Result<TopicPattern, Failure> {
    TopicPattern::from_text(text)
        .ok_or_else(|| Failure::usage("a pattern is not empty").advise("write > for everything"))
}

/// What is asked for of the log.
fn question(args: &Events, types: Vec<TopicPattern>, now_ms: u64) -> Result<ReplayParams, Failure> {
    let seq = |moment: Option<Moment>| match moment {
        Some(Moment::Seq(seq)) => Some(seq),
        _ => None,
    };
    if args.to == Some(Moment::Start) {
        return Err(Failure::usage("--to start: nothing lies before it"));
    }
    Ok(ReplayParams {
        types,
        sources: args.source.clone(),
        correlation_id: args.correlation.clone(),
        intent_id: args.intent.clone(),
        from_seq: seq(args.from),
        to_seq: seq(args.to),
        from_time_ms: args.from.and_then(|from| from.time_ms(now_ms)),
        to_time_ms: args.to.and_then(|to| to.time_ms(now_ms)),
        order: if args.reverse { Order::Backward } else { Order::Forward },
        limit: args.limit.map(|limit| limit.try_into().unwrap_or(u32::MAX)),
    })
}

fn past(context: &Context, args: &Events, patterns: Vec<TopicPattern>) -> Outcome {
    if args.limit == Some(0) {
        return Ok(0);
    }
    let params = question(args, patterns, now_ms())?;
    let client = context.lasting(args.lasting.no_reconnect)?;
    let mut printer = Printer::new(context);
    for page in client.replay(params) {
        for item in page?.items {
            printer.show(&item)?;
        }
    }
    printer.flush()?;
    Ok(0)
}

fn live(context: &Context, args: &Events, patterns: &[TopicPattern]) -> Outcome {
    let client = context.lasting(args.lasting.no_reconnect)?;
    if io::stdout().is_terminal() && !args.follow && args.limit.is_none() && !context.json {
        eprintln!("kairo: waiting for events; Ctrl-C ends");
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut events = client.events_from(subscription(args, patterns, now_ms())?)?;
    let mut printer = Printer::new(context);
    while left > 0 {
        let Some(item) = events.next() else { break };
        let item = item?;
        if let EventItem::Event(event) = &item {
            if !is_wanted(args, patterns, event) {
                continue;
            }
            left -= 1;
        }
        printer.show(&item)?;
        printer.flush()?;
    }
    Ok(0)
}

/// One subscription, even for several patterns: two would show an event twice, and not in order.
fn subscription(args: &Events, patterns: &[TopicPattern], now_ms: u64) -> Result<SubscribeParams, Failure> {
    let topic = match patterns {
        [one] => one.clone(),
        _ => pattern(">")?,
    };
    let (from_seq, from_time_ms) = match args.from {
        None | Some(Moment::Now) => (None, None),
        Some(Moment::Start) => (Some(1), None),
        Some(Moment::Seq(seq)) => (Some(seq), None),
        Some(moment) => (None, moment.time_ms(now_ms)),
    };
    let (correlation_id, intent_id) = (args.correlation.clone(), args.intent.clone());
    Ok(SubscribeParams { topic, from_seq, from_time_ms, correlation_id, intent_id })
}

/// What a subscription has no words for.
fn is_wanted(args: &Events, patterns: &[TopicPattern], event: &BusEvent) -> bool {
    let from = |source: &String| event.source.as_deref() == Some(source);
    let matches = |pattern: &TopicPattern| topic::matches(pattern.as_str(), &event.topic);
    (patterns.len() == 1 || patterns.iter().any(matches))
        && (args.source.is_empty() || args.source.iter().any(from))
}

/// Prints items as they come; what is printed of the past leaves in large pieces.
#[derive(Debug)]
pub(crate) struct Printer<'c> {
    context: &'c Context,
    paint: Paint,
    width: Option<usize>,
    out: BufWriter<StdoutLock<'static>>,
}

impl Printer<'_> {
    pub(crate) fn new(context: &Context) -> Printer<'_> {
        let (paint, width) = (Paint(context.colour()), context.width());
        Printer { context, paint, width, out: BufWriter::new(io::stdout().lock()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    pub(crate) fn show(&mut self, item: &EventItem<BusEvent>) -> Result<(), Failure> {
        if self.context.json {
            let object = match item {
                EventItem::Event(event) => envelope(event)?,
                EventItem::Gap(gap) => json!({ "gap": json_of(gap)? }),
                EventItem::Cut { seq, reason } => json!({ "cut": { "seq": seq, "reason": reason.word() } }),
                EventItem::Resumed { outage, complete } => {
                    json!({ "resumed": { "outageMs": outage.as_millis() as u64, "complete": complete } })
                }
            };
            writeln!(self.out, "{}", versioned(object))?;
            return Ok(());
        }
        match item {
            EventItem::Event(event) => writeln!(self.out, "{}", line(event, self.paint, self.width)?)?,
            EventItem::Gap(gap) => eprintln!("kairo: {}", missing(gap)),
            // It goes on there by itself.
            EventItem::Cut { reason: CutReason::Slow, .. } | EventItem::Resumed { complete: true, .. } => {}
            EventItem::Cut { reason: CutReason::Cancelled, .. } => {
                eprintln!("kairo: what this belongs to was cancelled");
            }
            EventItem::Cut { reason: CutReason::Deleted, .. } => eprintln!("kairo: the consumer was deleted"),
            EventItem::Cut { reason: CutReason::Revoked, .. } => {
                eprintln!("kairo: what allowed this was taken back")
            }
            EventItem::Cut { reason: CutReason::Log, .. } => {
                eprintln!("kairo: the daemon's log has failed; only what happens from now on is shown");
            }
            EventItem::Resumed { complete: false, .. } => {
                eprintln!("kairo: what happened in between is not shown")
            }
        }
        Ok(())
    }
}

pub(crate) fn missing(gap: &Gap) -> String {
    let Gap { from, to, cause, summary } = gap;
    let known = summary.as_ref().and_then(|summary| value_of(summary).ok()).map(|summary| gist(&summary));
    let known = known.filter(|known| !known.is_empty()).map(|known| format!(": {known}")).unwrap_or_default();
    format!("events @{from} to @{to} are no longer in the log ({}){known}", cause.word())
}

/// `2026-11-29T10:00:00.000Z @17 kairo.process.exited id=x code=0`
fn line(event: &BusEvent, paint: Paint, width: Option<usize>) -> Result<String, Failure> {
    let payload = value_of(&event.payload)?;
    let time = visible(event.time.as_deref().unwrap_or("-"));
    let place = event.seq.map(|seq| format!(" @{seq}")).unwrap_or_default();
    let topic = visible(&event.topic);
    let taken = time.chars().count() + place.len() + topic.chars().count() + 2;
    let said = gist(&payload);
    let said = width.map_or(said.clone(), |width| cut(&said, width.saturating_sub(taken).max(8)));
    let (head, topic) =
        (paint.dim(&format!("{time}{place}")), paint.tone(&topic, Tone::of(&topic, &payload)));
    Ok(format!("{head} {topic} {said}").trim_end().to_owned())
}

pub(crate) fn publish(context: &Context, args: &Publish) -> Outcome {
    let data = args.data.as_deref().map(|typed| raw_of(typed, "the data")).transpose()?;
    let draft = Draft {
        topic: args.topic.clone(),
        data,
        source: args.source.clone(),
        correlation_id: args.correlation.clone(),
        causation_id: args.causation.clone(),
        intent_id: args.intent.clone(),
        ack: match args.ack {
            AckChoice::Memory => Ack::Memory,
            AckChoice::Log => Ack::Log,
            AckChoice::Disk => Ack::Disk,
        },
        ..Draft::default()
    };
    let options = CallOptions { idempotency_key: args.key.clone(), ..CallOptions::default() };
    let published = context.client()?.call_with::<event::Publish>(&draft, &options)?;
    if context.json {
        context.object(json_of(&published)?)?;
    } else {
        context.line(&format!("{} @{}", published.id.as_str(), published.seq))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;
    use kairo_wire::codec::raw::Raw;
    use kairo_wire::methods::event::GapCause;

    fn typed(words: &[&str]) -> Events {
        let cli = Cli::try_parse_from([&["kairo", "events"], words].concat()).unwrap();
        let Command::Events(events) = cli.command else { panic!() };
        events
    }

    fn patterns(args: &Events) -> Vec<TopicPattern> {
        args.patterns.iter().map(|text| pattern(text).unwrap()).collect()
    }

    fn event() -> BusEvent {
        BusEvent {
            topic: "a\x1b[2J".into(),
            payload: Raw::of(&json!({"x": "\n"})).unwrap(),
            time: Some("2026-01-01T00:00:00.000Z".into()),
            source: Some("kernel".into()),
            seq: Some(17),
            ..BusEvent::default()
        }
    }

    #[test]
    fn an_event_can_not_move_the_cursor() {
        let line = line(&event(), Paint(false), None).unwrap();
        assert!(!line.contains('\x1b') && !line.contains('\n') && line.contains(" @17 "), "{line:?}");
    }

    #[test]
    fn several_patterns_are_one_subscription() {
        let one = typed(&["a.*"]);
        assert_eq!(subscription(&one, &patterns(&one), 0).unwrap().topic.as_str(), "a.*");
        let two = typed(&["a.*", "b.>", "--from", "1s", "--source", "kernel"]);
        let params = subscription(&two, &patterns(&two), 5_000).unwrap();
        assert_eq!((params.topic.as_str(), params.from_time_ms), (">", Some(4_000)));
        let of = |topic: &str| BusEvent { topic: topic.into(), ..event() };
        assert!(is_wanted(&two, &patterns(&two), &of("b.c.d")));
        assert!(!is_wanted(&two, &patterns(&two), &of("c")));
        assert!(!is_wanted(&two, &patterns(&two), &BusEvent { source: None, ..of("a.b") }));
    }

    #[test]
    fn what_is_typed_is_what_is_asked() {
        let args = typed(&["--from", "@7", "--to", "now", "--reverse", "--limit", "3"]);
        let asked = question(&args, patterns(&args), 9).unwrap();
        assert_eq!((asked.from_seq, asked.to_time_ms, asked.limit), (Some(7), Some(9), Some(3)));
        assert_eq!(asked.order, Order::Backward);
        assert!(question(&typed(&["--to", "start"]), Vec::new(), 9).is_err());
        assert!(Cli::try_parse_from(["kairo", "events", "-f", "--reverse"]).is_err());
    }

    #[test]
    fn a_gap_says_what_stood_there() {
        let summary = Some(Raw::of(&json!({"events": 5})).unwrap());
        let gap = Gap { from: 3, to: 9, cause: GapCause::Compacted, summary };
        assert_eq!(missing(&gap), "events @3 to @9 are no longer in the log (compacted): events=5");
    }
}
