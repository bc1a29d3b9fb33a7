//! Rates and sizes of a process's output: what is asked for, checked; what came of it, remembered; who waits, told.
//!
//! Invariant: `Process::rate`, `Process::history` and `Process::unread` are what the data plane was last told or has last
//! said, so that they can be handed to a next kernel. How bytes are held back is the data plane's.

use crate::calls::Turn;
use crate::config::Config;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::plan::TAIL_BYTES_MIN;
use crate::sessions::report;
use crate::state::Process;
use kairo_dataplane::command::{HistorySize, Rate, Tuning, Unread};
use kairo_dataplane::control::Outcome;
use kairo_dataplane::key::{Channel, ProcessKey};
use kairo_wire::error::WireError;
use kairo_wire::event::{StreamResumed, StreamStalled, StreamStore, StreamThrottled, StreamTruncated};
use kairo_wire::limits::EXACT_INTEGER_END;
use kairo_wire::methods::options::{HistoryOption, WhenUnread};
use kairo_wire::methods::stream::{self, ConfigureParams, ConfigureResult, StreamSetting};

/// A rate that was asked for under the name `field`; none for no limit.
pub(crate) fn rate(asked: Option<stream::Rate>, field: &str) -> Result<Option<Rate>, WireError> {
    let Some(stream::Rate { bytes_per_second, burst }) = asked else { return Ok(None) };
    if bytes_per_second >= EXACT_INTEGER_END {
        return Err(WireError::invalid(&format!("{field}.bytesPerSecond"), "a number below 2^53"));
    }
    if burst.is_some_and(|burst| !(1..EXACT_INTEGER_END).contains(&burst)) {
        return Err(WireError::invalid(&format!("{field}.burst"), "1 to 2^53 − 1 bytes"));
    }
    let usual = Rate::of(bytes_per_second);
    let rate = Rate { burst_bytes: burst.unwrap_or(usual.burst_bytes), ..usual };
    Ok((bytes_per_second > 0).then_some(rate))
}

/// As it is told to clients.
pub(crate) fn told(rate: Rate) -> stream::Rate {
    stream::Rate { bytes_per_second: rate.bytes_per_second, burst: Some(rate.burst_bytes) }
}

pub(crate) fn unread(asked: WhenUnread) -> Unread {
    match asked {
        WhenUnread::Drop => Unread::Drop,
        WhenUnread::Block => Unread::Block,
    }
}

/// Checks sizes that were asked for; none stays as it is.
pub(crate) fn sizes(config: &Config, asked: HistoryOption) -> Result<(Option<u32>, Option<u32>), WireError> {
    let most = config.limits.history_bytes_max;
    let (head_bytes, tail_bytes) = match asked {
        HistoryOption::Default => {
            let HistorySize { head_bytes, tail_bytes } = config.limits.history;
            return Ok((Some(head_bytes), Some(tail_bytes)));
        }
        HistoryOption::None => {
            return Err(WireError::unsupported("history", "that is decided when a process is spawned"));
        }
        HistoryOption::Sizes { head_bytes, tail_bytes } => (head_bytes, tail_bytes),
    };
    if head_bytes.is_some_and(|bytes| bytes > most) {
        return Err(WireError::invalid("history.headBytes", format!("at most {most} bytes")));
    }
    if tail_bytes.is_some_and(|bytes| !(TAIL_BYTES_MIN..=most).contains(&bytes)) {
        return Err(WireError::invalid("history.tailBytes", format!("{TAIL_BYTES_MIN} to {most} bytes")));
    }
    Ok((head_bytes, tail_bytes))
}

/// A change that was asked for, checked.
pub(crate) fn tuning(config: &Config, params: &ConfigureParams) -> Result<Tuning, WireError> {
    let (head_bytes, tail_bytes) = match params.history {
        Some(asked) => sizes(config, asked)?,
        None => (None, None),
    };
    Ok(Tuning {
        channels: [params.stream.stdout(), params.stream.stderr()],
        rate: params.rate.map(|asked| rate(Some(asked), "rate")).transpose()?,
        head_bytes,
        tail_bytes,
        unread: params.when_unread.map(unread),
    })
}

impl Process {
    /// Remembers what came of a change, and tells what is in force.
    pub(crate) fn tuned(&mut self, tuning: &Tuning, outcome: Outcome) -> ConfigureResult {
        self.unread = tuning.unread.unwrap_or(self.unread);
        if let Outcome::Tuned { history, rate } = outcome {
            (self.history, self.rate) = (history, rate);
        }
        self.settings()
    }

    /// What is in force of its outputs.
    fn settings(&self) -> ConfigureResult {
        let setting = |channel: Channel| StreamSetting {
            stream: report::stream_name(channel),
            rate: self.rate[channel as usize].map(told),
            history_head_bytes: self.history[channel as usize].head_bytes,
            history_tail_bytes: self.history[channel as usize].tail_bytes,
        };
        ConfigureResult {
            id: self.id.clone(),
            streams: Channel::ALL.into_iter().filter(|c| self.has(*c)).map(setting).collect(),
            when_unread: match self.unread {
                Unread::Drop => WhenUnread::Drop,
                Unread::Block => WhenUnread::Block,
            },
        }
    }
}

impl Kernel {
    /// A history has another size: by a wish, or because memory is tight.
    pub(crate) fn resized(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        channel: Channel,
        history: HistorySize,
    ) {
        if let Some(process) = self.state.processes.get_mut(&key.serial) {
            process.history[channel as usize] = history;
        }
        self.annotate(turn, key.serial, usize::MAX);
    }

    /// An output waits for a reader for too long.
    pub(crate) fn stalled(&mut self, turn: &mut Turn<'_>, key: ProcessKey, channel: Channel, since_ns: u64) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let readers: Vec<_> =
            process.readers.iter().filter_map(|serial| self.state.streams.get(serial)).collect();
        let holder = readers.iter().copied().find(|stream| report::holds(process, stream, channel));
        let connection = holder.map(|stream| stream.connection);
        let event = |subscription_id| StreamStalled {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(channel),
            offset: process.meter.streams[channel as usize].taken_bytes.get(),
            waited_ms: turn.at.monotonic_ns.saturating_sub(since_ns) / crate::clock::MS,
            for_what: report::held_by(holder, readers.is_empty()).to_owned(),
            subscription_id,
            reader: connection.map(|connection| self.principal_told(connection)),
        };
        let (own, others) = (event(holder.map(|stream| stream.id.clone())), event(None));
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish_to(turn, Audience::Of(creator.clone()), &trace, connection, &own, &others);
    }

    /// It waits no longer.
    pub(crate) fn stall_over(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        channel: Channel,
        waited_ns: u64,
    ) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let event = StreamResumed {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(channel),
            waited_ms: waited_ns / crate::clock::MS,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
    }

    /// Bytes are no longer in memory.
    pub(crate) fn truncated(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        channel: Channel,
        (from, to): (u64, u64),
    ) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let event = StreamTruncated {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(channel),
            store: StreamStore::History,
            from,
            to,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
    }

    /// An output waits for its rate.
    pub(crate) fn throttled(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        channel: Channel,
        rate: Rate,
        waited_ns: u64,
    ) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let event = StreamThrottled {
            id: process.id.clone(),
            session: process.session.as_str().to_owned(),
            stream: report::stream_name(channel),
            bytes_per_second: rate.bytes_per_second,
            burst: rate.burst_bytes,
            waited_ms: waited_ns / crate::clock::MS,
        };
        let (creator, trace) = (process.creator.clone(), process.story());
        self.publish(turn, Audience::Of(creator.clone()), &trace, &event);
    }
}
