//! `kairo consumers`, `kairo consume`: events until they are done.
//!
//! An event is done when what was to become of it has become of it, and the daemon is told after that: so whatever dies in
//! between, it is delivered again rather than lost.

use crate::cli::args::events::{Consume, Consumers, DoneChoice};
use crate::cli::context::{Context, Outcome, json_of, milliseconds, seconds, versioned};
use crate::cli::events::{Printer, pattern};
use crate::cli::failure::Failure;
use crate::cli::gist::envelope;
use crate::cli::moment::{Moment, now_ms};
use crate::cli::table::{Edge, Table};
use kairo_client::{BusEvent, Call, CallError, Client, EventItem};
use kairo_wire::error::Code;
use kairo_wire::methods::consumer::{
    self, AckMode, AckParams, ConsumerStatus, CreateParams, ListParams, NakParams, NameParams,
};
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Answers that may be waited for at once.
const ACKS_UNDER_WAY: usize = 256;

pub(crate) fn consumers(context: &Context, args: &Consumers) -> Outcome {
    let client = context.client()?;
    if let Some(name) = &args.delete {
        let deleted = client.call::<consumer::Delete>(&NameParams { name: name.clone() }).map_err(advised)?;
        if context.json {
            context.object(json_of(&deleted)?)?;
        }
        return Ok(0);
    }
    let found = client.call::<consumer::List>(&ListParams {})?;
    if context.json {
        context.object(json_of(&found)?)?;
    } else {
        context.text(&table(&found.consumers).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

fn table(consumers: &[ConsumerStatus]) -> Table {
    let mut table = Table::new(&[
        ("CONSUMER", Edge::Left),
        ("DONE TO", Edge::Right),
        ("LAG", Edge::Right),
        ("PENDING", Edge::Right),
        ("AGAIN", Edge::Right),
        ("DEAD", Edge::Right),
        ("READERS", Edge::Right),
        ("TOPIC", Edge::Left),
    ]);
    for one in consumers {
        table.row([
            one.name.clone(),
            format!("@{}", one.position),
            one.lag.to_string(),
            one.pending.to_string(),
            one.redelivered.to_string(),
            one.dead.to_string(),
            one.attached.to_string(),
            one.topic.as_str().to_owned(),
        ]);
    }
    table
}

fn advised(error: CallError) -> Failure {
    let unknown = error.code() == Some(Code::NotFound);
    let failure = Failure::from(error);
    if unknown { failure.advise("make it with --topic, or see `kairo consumers`") } else { failure }
}

pub(crate) fn consume(context: &Context, args: &Consume) -> Outcome {
    let client = context.lasting(args.lasting.no_reconnect)?;
    if let Some(topic) = &args.topic {
        client.call::<consumer::Create>(&creation(args, topic, now_ms())?)?;
    }
    let mut events = client.consume(&args.name).map_err(advised)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut work = Work { args, client: &client, printer: Printer::new(context), acks: Vec::new() };
    while left > 0 {
        let item = match events.next_within(Duration::ZERO)? {
            Some(item) => item,
            None => {
                work.settle()?;
                let Some(item) = events.next() else { break };
                item?
            }
        };
        match &item {
            EventItem::Event(event) => {
                work.on(event, &item)?;
                left -= 1;
            }
            other => work.printer.show(other)?,
        }
    }
    work.settle()?;
    Ok(0)
}

fn creation(args: &Consume, topic: &str, now_ms: u64) -> Result<CreateParams, Failure> {
    let ack_wait_ms =
        args.ack_wait.map(|typed| seconds(typed, "--ack-wait").map(milliseconds)).transpose()?;
    let (from_seq, from_time_ms) = match args.from {
        None | Some(Moment::Now) => (None, None),
        Some(Moment::Start) => (Some(1), None),
        Some(Moment::Seq(seq)) => (Some(seq), None),
        Some(moment) => (None, moment.time_ms(now_ms)),
    };
    Ok(CreateParams {
        name: args.name.clone(),
        topic: pattern(topic)?,
        from_seq,
        from_time_ms,
        ack_wait_ms,
        max_deliver: args.max_deliver,
        backoff_ms: None,
        max_in_flight: None,
        dead_letter_topic: None,
    })
}

/// What is done with events.
struct Work<'c> {
    args: &'c Consume,
    client: &'c Client,
    printer: Printer<'c>,
    acks: Vec<Call<consumer::Ack>>,
}

impl Work<'_> {
    fn on(&mut self, event: &BusEvent, item: &EventItem<BusEvent>) -> Result<(), Failure> {
        let Some(seq) = event.seq else { return Ok(()) };
        match &self.args.exec {
            Some(command) if !given(command, event, seq)? => {
                let params = NakParams { name: self.args.name.clone(), seq, delay_ms: None };
                // If the daemon went away with it, it is delivered again as well.
                match self.client.call::<consumer::Nak>(&params) {
                    Ok(_) | Err(CallError::Interrupted { .. }) => return Ok(()),
                    Err(error) => return again(error),
                }
            }
            Some(_) => {}
            None => self.printer.show(item)?,
        }
        if self.args.ack == DoneChoice::Manual {
            return self.printer.flush();
        }
        // What is not out yet is not done.
        if self.args.exec.is_none() {
            self.printer.flush()?;
        }
        let params = AckParams { name: self.args.name.clone(), seq, mode: AckMode::Single };
        self.acks.push(self.client.begin::<consumer::Ack>(&params)?);
        if self.acks.len() >= ACKS_UNDER_WAY { self.settle() } else { Ok(()) }
    }

    /// Waits until the daemon knows what is done.
    fn settle(&mut self) -> Result<(), Failure> {
        self.printer.flush()?;
        for ack in self.acks.drain(..) {
            ack.wait().map(drop).or_else(again)?;
        }
        Ok(())
    }
}

/// A daemon that doesn't know of the delivery any more delivers again, and then it is done.
fn again(error: CallError) -> Result<(), Failure> {
    if error.code() == Some(Code::Conflict) { Ok(()) } else { Err(error.into()) }
}

/// Gives an event to a command; true if it returned 0.
fn given(command: &str, event: &BusEvent, seq: u64) -> Result<bool, Failure> {
    let line = format!("{}\n", versioned(envelope(event)?));
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("KAIRO_EVENT_TYPE", event.topic.as_str())
        .env("KAIRO_EVENT_SEQ", seq.to_string())
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(line.as_bytes()) {
            // It may do without reading.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    Ok(child.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command as Typed};
    use clap::Parser;

    fn typed(words: &[&str]) -> Result<Consume, clap::Error> {
        let cli = Cli::try_parse_from([&["kairo", "consume"], words].concat())?;
        let Typed::Consume(consume) = cli.command else { panic!() };
        Ok(consume)
    }

    #[test]
    fn a_new_consumer_is_what_was_typed() {
        let args = typed(&["c", "--topic", "a.*", "--from", "2s", "--ack-wait", "1.5", "--max-deliver", "3"])
            .unwrap();
        let params = creation(&args, "a.*", 5_000).unwrap();
        assert_eq!((params.from_seq, params.from_time_ms), (None, Some(3_000)));
        assert_eq!((params.ack_wait_ms, params.max_deliver), (Some(1_500), Some(3)));
        assert!(typed(&["c", "--from", "start"]).is_err(), "one that is there has its place");
        assert!(typed(&["c", "--ack", "manual", "--exec", "true"]).is_err());
    }

    #[test]
    fn a_command_gets_the_event_and_its_success_counts() {
        let event = BusEvent { topic: "a.b".into(), ..BusEvent::default() };
        assert!(
            given(
                "test \"$KAIRO_EVENT_TYPE $KAIRO_EVENT_SEQ\" = 'a.b 7' && grep -q '\"topic\":\"a.b\"'",
                &event,
                7
            )
            .unwrap()
        );
        assert!(!given("exit 3", &event, 7).unwrap());
    }
}
