//! The progress bar of `kairo run --adapter`, and how a program's output gets past it.
//!
//! A bar is the last line of the terminal, so whatever else is written there has to make it step aside. Output that goes
//! to a terminal is therefore written here, in whole lines, while there is a bar; everything else goes to its descriptor
//! without passing us.

use crate::cli::failure::Failure;
use crate::cli::table::visible;
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kairo_client::{Client, EventItem, Events, Item, Subscription};
use kairo_wire::event::{Event, ProcessProgress, StreamEndReason};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::stream::{Rate, Selector, StreamName, SubscribeParams};
use std::io::{self, IsTerminal, Write};
use std::thread::JoinHandle;
use std::time::Duration;

/// Steps of a whole bar.
const STEPS: u64 = 1_000;
/// What is kept of a line until its end has come.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A bar on our stderr. It goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// Follows the progress of whatever the client may see; none if our stderr is no terminal.
    pub(crate) fn begin(client: &Client) -> Result<Option<Bar>, Failure> {
        if !io::stderr().is_terminal() {
            return Ok(None);
        }
        let events = client.events(ProcessProgress::TOPIC)?;
        // Shown with the first progress: of a program that says nothing there is nothing to show.
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::hidden());
        let shown = bar.clone();
        std::thread::Builder::new().name("progress".to_owned()).spawn(move || follow(events, &shown))?;
        Ok(Some(Bar(bar)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Until the kernel ends.
fn follow(events: Events, bar: &ProgressBar) {
    for event in events {
        let Ok(EventItem::Event(event)) = event else { continue };
        let Ok(progress) = event.payload.as_ref().decode::<ProcessProgress>() else { continue };
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        // Both templates are ours, so there is nothing in them to be refused.
        let template = if progress.percent.is_some() { "[{bar:30}] {msg}" } else { "{spinner} {msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(percent) = progress.percent {
            bar.set_position((percent / 100.0 * STEPS as f64) as u64);
        } else {
            bar.tick();
        }
        bar.set_message(said(&progress));
    }
}

/// A line for people: ` 37%  2.96 of 8 s  0.96/s  5 seconds left`.
fn said(progress: &ProcessProgress) -> String {
    let mut parts = Vec::new();
    if let Some(percent) = progress.percent {
        parts.push(format!("{percent:>3.0}%"));
    }
    let unit = progress.unit.as_deref().map(|unit| format!(" {}", visible(unit))).unwrap_or_default();
    match (progress.done, progress.total) {
        (Some(done), Some(total)) => parts.push(format!("{} of {}{unit}", short(done), short(total))),
        (Some(done), None) => parts.push(format!("{}{unit}", short(done))),
        (None, _) => {}
    }
    parts.extend(progress.rate.map(|rate| format!("{}/s", short(rate))));
    let left = progress.eta_ms.filter(|ms| *ms > 0).map(Duration::from_millis);
    parts.extend(left.map(|left| format!("{} left", HumanDuration(left))));
    parts.join("  ")
}

/// Two digits behind the point, if they say anything.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An output of the program on its way to ours.
#[derive(Debug)]
pub(crate) enum Output {
    /// It goes to our descriptor, and doesn't pass here.
    Direct(Subscription),
    /// It is written past the bar.
    Past(JoinHandle<Result<(), Failure>>),
}

impl Output {
    /// From its first byte, to our output of the same name.
    pub(crate) fn to(
        client: &Client,
        id: &ProcessId,
        stream: StreamName,
        rate: Option<Rate>,
        bar: Option<&Bar>,
    ) -> Result<Output, Failure> {
        let (selector, number, terminal) = match stream {
            StreamName::Stdout => (Selector::Stdout, 1, io::stdout().is_terminal()),
            StreamName::Stderr => (Selector::Stderr, 2, io::stderr().is_terminal()),
        };
        let bar = bar.filter(|_| terminal).map(|bar| bar.0.clone());
        let descriptor = bar.is_none().then_some(number);
        let params = SubscribeParams {
            id: Some(id.clone()),
            stream: selector,
            descriptor,
            rate,
            ..Default::default()
        };
        let subscription = client.subscribe(&params)?;
        let Some(bar) = bar else { return Ok(Output::Direct(subscription)) };
        let work = move || match stream {
            StreamName::Stdout => past(&bar, subscription, io::stdout()),
            StreamName::Stderr => past(&bar, subscription, io::stderr()),
        };
        Ok(Output::Past(std::thread::Builder::new().name("output".to_owned()).spawn(work)?))
    }

    /// Waits until everything the program wrote is where it goes, or nobody reads that any more.
    pub(crate) fn drain(self) -> Result<(), Failure> {
        match self {
            Output::Direct(output) => output.into_iter().try_for_each(|item| match item? {
                Item::End { stream, reason: StreamEndReason::Full, .. } => {
                    Err(unwritable(stream, "no space is left there"))
                }
                Item::End { stream, reason: StreamEndReason::Unwritable, .. } => {
                    Err(unwritable(stream, "it takes no more"))
                }
                Item::End { .. } | Item::Chunk(_) | Item::Gap { .. } | Item::Overflow => Ok(()),
            }),
            Output::Past(thread) => {
                thread.join().unwrap_or_else(|_| Err(Failure::new("E_IO", "the output was not written")))
            }
        }
    }
}

/// The program's output could not be written where it was to go.
fn unwritable(stream: StreamName, why: &str) -> Failure {
    let name = match stream {
        StreamName::Stdout => "stdout",
        StreamName::Stderr => "stderr",
    };
    Failure::new("E_IO", format!("{name} could not be written: {why}"))
}

/// Writes whole lines, each while the bar is away; of what has no end yet a line's worth is held back.
fn past(bar: &ProgressBar, output: Subscription, mut to: impl Write) -> Result<(), Failure> {
    let mut held = Vec::new();
    let mut write = |bytes: &[u8]| bar.suspend(|| to.write_all(bytes).and_then(|()| to.flush()));
    for item in output {
        let Item::Chunk(chunk) = item? else { continue };
        held.extend_from_slice(&chunk.data);
        let over = held.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
        let ready = if over == 0 && held.len() > LINE_BYTES_MAX { held.len() } else { over };
        if ready > 0 {
            write(&held[..ready])?;
            held.drain(..ready);
        }
    }
    Ok(write(&held)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_line_says_what_is_known() {
        let mut progress = ProcessProgress {
            id: ProcessId::from_text("x").unwrap(),
            session: String::new(),
            adapter: String::new(),
            done: Some(2.961),
            total: Some(8.0),
            unit: Some("s".to_owned()),
            rate: Some(0.96),
            eta_ms: Some(5_249),
            percent: Some(37.01),
            raw: BTreeMap::new(),
            broken_lines: 0,
        };
        assert_eq!(said(&progress), " 37%  2.96 of 8 s  0.96/s  5 seconds left");
        (progress.total, progress.percent, progress.eta_ms, progress.rate) = (None, None, None, None);
        assert_eq!(said(&progress), "2.96 s");
    }
}
