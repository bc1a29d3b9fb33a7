//! One process's output into another's input, through history.
//!
//! ```text
//!   source ─▶ ring ─┬─ cursors of readers                       (taps)
//!                   └─ the feed ─▶ input staging pipe ─▶ stdin of the target
//! ```
//!
//! A feed is a reader that waits: its source goes no further than it, and what it has not come to stays in the ring, from where
//! it goes in. How far that is, is what the target's inbox says went in ([`fed_to`](crate::stream::inflow::Inflow::fed_to)), in
//! the steps of every input: so whoever finds ring and inbox after a kill goes on at the byte. When the source is over the target's input is closed; when the target's input is closed first, so is the
//! source's end here, if it was there for that, whoever else reads: looking at a pipeline must not change how it ends.
//!
//! Invariants: both live on this reactor; a target names its feed exactly while its source lists it.

use super::Reactor;
use super::Turn;
use super::table::Place;
use crate::command::Feed;
use crate::control::Notice;
use crate::driver::Driver;
use crate::key::Channel;
use crate::limits::{TAKE_BYTES_MAX, TURN_BYTES_MAX};
use crate::stream::history::Peek;
use crate::stream::source::{TakeError, input_name};
use crate::stream::steps::Fed;

/// What came of trying to feed.
enum Step {
    /// Bytes were tried.
    Fed(Fed),
    /// There are none.
    Nothing,
    /// Not before the keeper has taken what waits for it.
    Later,
    /// There will be none, or nobody takes them.
    Over,
}

/// Where a target's bytes come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Feeding {
    pub(super) source: Place,
    pub(super) channel: Channel,
    /// The source's output closes when nobody can be fed any more.
    ends_source: bool,
    /// The offset it begins at.
    pub(super) from: u64,
}

impl<D: Driver> Reactor<D> {
    /// Has an output fill the stdin of `target`, from the first byte on behind which nothing is missing; where a former kernel
    /// had begun with it, from where that had come to. Without its source there is nothing to wait for.
    pub(super) fn begin_feed(&mut self, target: Place, feed: Feed) {
        let Feed { source, channel, ends_source } = feed;
        let source = self.place_of_process(source);
        let from = source.and_then(|source| self.processes.get_mut(source)).map(|process| {
            let stream = &mut process.streams[channel as usize];
            stream.feeds.push(target);
            let (from, to) = stream.history.cut();
            if from == to { 0 } else { to }
        });
        let Some(process) = self.processes.get_mut(target) else { return };
        process.feeding =
            source.zip(from).map(|(source, from)| Feeding { source, channel, ends_source, from });
        process.unfed = process.feeding.is_none();
        if let Some(source) = source {
            self.note_blockers(source, &[channel]);
        }
        self.open_feed(target);
    }

    /// Makes what is fed into, once the target's input is there.
    pub(super) fn open_feed(&mut self, target: Place) {
        let Some(process) = self.processes.get_mut(target) else { return };
        if process.is_starting() {
            return;
        }
        let from = process.feeding.map(|feeding| feeding.from);
        if from.is_none() && !process.unfed {
            return;
        }
        if let Err(error) = process.inflow.begin_feed(from.unwrap_or(0)) {
            tracing::error!(%error, "no memory for what a process is fed");
            let mut answers = Vec::new();
            process.inflow.fail(&mut answers);
            return self.input_closed(target, answers);
        }
        let over = process.inflow.fd().is_none();
        if process.unfed {
            process.inflow.end_feed();
        }
        if over {
            // It was closed before a former kernel could say so.
            let (process, written) = (process.key, process.inflow.written());
            self.notices.push_back(Notice::InputClosed { process, written });
            return self.feed_over(target);
        }
        self.push_input(target);
    }

    /// How far the slowest of those who are fed from an output has come, and how many there are.
    pub(super) fn fed_to(&self, source: Place, channel: Channel) -> Option<(u64, u32)> {
        let feeds = &self.processes.get(source)?.streams[channel as usize].feeds;
        let places = feeds.iter().filter_map(|target| {
            let process = self.processes.get(*target)?;
            Some(process.inflow.fed_to().unwrap_or(process.feeding?.from))
        });
        Some((places.min()?, feeds.len() as u32))
    }

    /// Hands on what an output has to those who are fed from it.
    pub(super) fn feed_all(&mut self, source: Place) {
        for channel in Channel::ALL {
            let Some(process) = self.processes.get(source) else { return };
            for target in process.streams[channel as usize].feeds.clone() {
                self.push_input(target);
            }
        }
    }

    /// Moves as much as goes from a source into its target.
    pub(super) fn feed(&mut self, target: Place) {
        let mut turn_bytes = 0;
        loop {
            let Some(process) = self.processes.get(target) else { return };
            let Some(Feeding { source, .. }) = process.feeding else { return };
            if process.is_starting() {
                return;
            }
            let written = process.inflow.written();
            match self.feed_some(target) {
                Ok(Step::Fed(Fed::Some)) => {}
                Ok(Step::Fed(Fed::Full)) => {
                    self.await_stdin(target);
                    return self.fed(target, source);
                }
                Ok(Step::Nothing) => return self.fed(target, source),
                Ok(Step::Later) => return self.once_lane_is_free(Turn::Input(target)),
                // Closed by us, or found closed: the usual way of an input that is over.
                Ok(Step::Over) => return self.move_input(target),
                Ok(Step::Fed(Fed::Broken)) => return self.break_input(target),
                Err(error) => {
                    tracing::error!(%error, "nothing can be fed into a process any more");
                    return self.break_input(target);
                }
            }
            let Some(process) = self.processes.get(target) else { return };
            turn_bytes += (process.inflow.written() - written) as usize;
            if turn_bytes >= TURN_BYTES_MAX {
                self.later(Turn::Input(target));
                return self.fed(target, source);
            }
        }
    }

    /// Moves what is next, once, from where it lies in the ring.
    fn feed_some(&mut self, target: Place) -> Result<Step, TakeError> {
        if let Err(error) = self.hold_inbox(target) {
            tracing::warn!(%error, "an inbox is not kept");
        }
        if self.lane.is_full() {
            // What is not in the keeper's hands must not leave: it could not be accounted for.
            return Ok(Step::Later);
        }
        if self.staging.is_none() {
            self.staging = Some(self.open_staging()?);
        }
        let Some(staging) = &self.staging else { return Ok(Step::Nothing) };
        let feeding = self.processes.get(target).and_then(|process| process.feeding);
        let Some(Feeding { source, channel, .. }) = feeding else { return Ok(Step::Nothing) };
        let Some((from, into)) = self.processes.get_two_mut(source, target) else { return Ok(Step::Over) };
        let Some(at) = into.inflow.fed_to() else { return Ok(Step::Over) };
        let stream = &mut from.streams[channel as usize];
        match stream.history.peek(at, TAKE_BYTES_MAX) {
            Peek::Bytes(bytes) => {
                let fed = into.inflow.feed(&mut self.driver, staging, input_name(into.key), bytes)?;
                stream.delivered = stream.delivered.max(into.inflow.fed_to().unwrap_or(at));
                Ok(Step::Fed(fed))
            }
            Peek::Nothing if !stream.closed => Ok(Step::Nothing),
            Peek::Nothing => {
                into.inflow.end_feed();
                Ok(Step::Over)
            }
            Peek::Gap(to) => {
                // What waits is never overtaken, so this history was given up by somebody who knows better.
                tracing::error!(at, to, "what a process is fed is gone");
                into.inflow.end_feed();
                Ok(Step::Over)
            }
        }
    }

    /// Something went from a source into its target, or nothing more goes now.
    fn fed(&mut self, target: Place, source: Place) {
        if let Some(process) = self.processes.get(target) {
            process.meter.stdin_bytes.set(process.inflow.written());
        }
        self.resume_sources(source);
    }

    /// The target's stdin was closed by whoever read it.
    fn break_input(&mut self, target: Place) {
        let Some(process) = self.processes.get_mut(target) else { return };
        let mut answers = Vec::new();
        process.inflow.fail(&mut answers);
        process.meter.stdin_bytes.set(process.inflow.written());
        self.input_closed(target, answers);
    }

    /// A target takes nothing more: its source need not wait for it, nor be there, if it was for that.
    pub(super) fn feed_over(&mut self, target: Place) {
        let feeding = self.processes.get_mut(target).and_then(|process| process.feeding.take());
        let Some(Feeding { source, channel, ends_source, .. }) = feeding else { return };
        let Some(process) = self.processes.get_mut(source) else { return };
        let stream = &mut process.streams[channel as usize];
        stream.feeds.retain(|other| *other != target);
        if ends_source && stream.source.is_some() {
            self.close_stream(source, channel);
        } else {
            self.resume_sources(source);
        }
        self.retire(source, channel);
    }

    /// A process is gone from here: nobody is fed from it any more, and it isn't fed.
    pub(super) fn unlink_feeds(&mut self, place: Place) {
        self.feed_over(place);
        let Some(process) = self.processes.get_mut(place) else { return };
        let targets: Vec<Place> =
            process.streams.iter_mut().flat_map(|stream| stream.feeds.drain(..)).collect();
        for target in targets {
            if let Some(process) = self.processes.get_mut(target) {
                process.feeding = None;
                process.unfed = true;
                process.inflow.end_feed();
                self.push_input(target);
            }
        }
    }
}
