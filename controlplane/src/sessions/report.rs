//! What is told about a process: the pre-encoded v1 status, the detail, how it ended.
//!
//! The numbers of streams and readers come from meters the reactors keep; each is whole, all together are not of one
//! instant. Invariant: nothing of other principals' subscriptions is told but that they are there.

use crate::auth::principal::{Creator, Principal};
use crate::kernel::Kernel;
use crate::sessions::pacing;
use crate::sessions::restart::Renewal;
use crate::sessions::spool;
use crate::state::{Phase, Place, Process, StreamSubscription};
use kairo_dataplane::command::{Mode, Policy, Unread};
use kairo_dataplane::control::{ExitStatus, Tree};
use kairo_dataplane::key::{Channel, ConnectionKey};
use kairo_dataplane::meter::ReaderMeter;
use kairo_wire::codec::raw::Raw;
use kairo_wire::codec::text::OsText;
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::options::{OnDisconnect, SignalName, TerminalSize, WhenUnread};
use kairo_wire::methods::status::{
    self, ByteRange, Detail, EndCause, EndedBy, Exit, LimitStatus, ProcessStatus, ProcessUsage, ReaderOffset,
    ReaderStatus, RecordStatus, State, StdinStatus, StreamEngine, StreamStatus, TreeKnowledge, Waiting,
};
use kairo_wire::methods::stream::{self, StreamName};
use kairo_wire::methods::system;
use std::sync::atomic::Ordering;

fn encoded(status: &ProcessStatus) -> Raw {
    // A status without detail is a handful of integers and cannot fail to encode.
    Raw::of(status).unwrap_or_default()
}

/// The v1 status of a process that runs, or is being started.
pub(crate) fn running(pid: Option<i32>) -> Raw {
    encoded(&ProcessStatus { state: State::Running, pid, ..ProcessStatus::UNKNOWN })
}

/// The v1 status of a process whose leader has exited.
pub(crate) fn exited(status: ExitStatus) -> Raw {
    encoded(&ProcessStatus {
        state: State::Exited,
        exit_code: Some(status.v1_code()),
        ..ProcessStatus::UNKNOWN
    })
}

/// The v1 status of what nobody knows.
pub(crate) fn unknown() -> Raw {
    encoded(&ProcessStatus::UNKNOWN)
}

/// Bytes of the operating system as text of the wire; none if there is a NUL among them.
pub(crate) fn text(bytes: Vec<u8>) -> Option<OsText> {
    OsText::new(bytes)
}

/// The same for an argv.
pub(crate) fn texts(argv: &[Vec<u8>]) -> Vec<OsText> {
    argv.iter().cloned().filter_map(text).collect()
}

/// How well a tree is known.
pub(crate) fn tree(tree: Tree) -> TreeKnowledge {
    match tree {
        Tree::Exact => TreeKnowledge::Exact,
        Tree::BestEffort => TreeKnowledge::BestEffort,
    }
}

/// The wire's name of an output.
pub(crate) fn stream_name(channel: Channel) -> StreamName {
    match channel {
        Channel::Stdout => StreamName::Stdout,
        Channel::Stderr => StreamName::Stderr,
    }
}

/// How a process ended, once it has.
pub(crate) fn exit(process: &Process) -> Option<Exit> {
    let ((status, usage), exited) = (process.exit?, process.exited?);
    let (code, signal, core) = match status {
        ExitStatus::Code(code) => (Some(code), None, false),
        ExitStatus::Signal { signal, core } => (None, Some(signal), core),
    };
    let itself = EndedBy { cause: EndCause::Itself, principal: None };
    Some(Exit {
        code,
        signal,
        signal_name: signal.and_then(SignalName::name_of).map(|name| format!("SIG{name}")),
        core,
        ended_by: process.ended_by.clone().unwrap_or(itself),
        usage: ProcessUsage {
            user_us: usage.user_us,
            system_us: usage.system_us,
            max_rss_kib: usage.max_rss_kib,
            minor_faults: usage.minor_faults,
            major_faults: usage.major_faults,
            voluntary_switches: usage.voluntary_switches,
            involuntary_switches: usage.involuntary_switches,
        },
        duration_ms: crate::clock::between_ms(process.started, exited),
    })
}

impl Principal {
    /// As it is told to clients.
    pub(crate) fn told(&self, owner_uid: u32) -> system::Principal {
        let (kind, uid) = (self.kind(), self.uid(owner_uid));
        match self {
            Principal::Skill(skill) => skill.told(kind, uid),
            Principal::Owner | Principal::User { .. } | Principal::Nobody { .. } => {
                system::Principal { kind, uid, skill: None, agent: None }
            }
        }
    }
}

impl Creator {
    /// As it is told to clients.
    pub(crate) fn told(&self, owner_uid: u32) -> system::Principal {
        Principal::of_creator(self, owner_uid).told(owner_uid)
    }
}

impl Kernel {
    /// Everything about a process, as `viewer` may know it.
    pub(crate) fn detail(&self, process: &Process, viewer: ConnectionKey) -> ProcessStatus {
        let (state, pid, exit_code) = match process.phase {
            Phase::Starting => (State::Running, None, None),
            Phase::Running => (State::Running, Some(process.pid), None),
            Phase::Exited => (State::Exited, None, process.exit.map(|(status, _)| status.v1_code())),
            Phase::Lost => (State::Unknown, None, None),
        };
        let readers: Vec<&StreamSubscription> =
            process.readers.iter().filter_map(|serial| self.state.streams.get(serial)).collect();
        let meter = &process.meter;
        let detail = Detail {
            phase: phase(process),
            session: process.session.as_str().to_owned(),
            pid: (process.pid != 0).then_some(process.pid),
            owner: process.creator.told(self.config.owner_uid),
            argv: texts(&process.argv),
            cwd: process.cwd.clone().and_then(text),
            env_digest: format!("{:016x}", process.environment_digest),
            started_at_ms: crate::clock::wall_ms(process.started),
            tree: tree(process.tree),
            terminal: process.terminal.map(|size| TerminalSize { rows: size.rows, cols: size.cols }),
            stdin: StdinStatus {
                bytes: meter.stdin_bytes.get(),
                parked_bytes: meter.stdin_parked_bytes.get(),
                pipe_bytes: meter.stdin_pipe_bytes.load(Ordering::Relaxed),
                closed: meter.stdin_closed.load(Ordering::Relaxed),
            },
            streams: Channel::ALL
                .into_iter()
                .filter(|c| process.has(*c))
                .map(|c| output(process, c))
                .collect(),
            readers: readers.iter().filter_map(|stream| reader(process, stream, viewer)).collect(),
            waiting_for: waiting(process, &readers, viewer),
            limits: process
                .limits
                .iter()
                .map(|limit| LimitStatus {
                    name: limit.name.clone(),
                    mechanism: limit.mechanism.to_owned(),
                    value: limit.value,
                })
                .collect(),
            sandbox: process.receipt(),
            program: process.program(),
            history_head_bytes: process.history[0].head_bytes,
            history_tail_bytes: process.history[0].tail_bytes,
            when_unread: match process.unread {
                Unread::Drop => WhenUnread::Drop,
                Unread::Block => WhenUnread::Block,
            },
            on_disconnect: if process.guardian.is_some() { OnDisconnect::Kill } else { OnDisconnect::Keep },
            exit: exit(process),
            restart: process.renewal.as_deref().map(Renewal::told),
            record: if process.phase == Phase::Starting { RecordStatus::None } else { process.record },
            cpus: process.placement.cpus.clone(),
            reactor_cpu: process.placement.reactor_cpu,
        };
        ProcessStatus { state, pid, exit_code, id: Some(process.id.clone()), detail: Some(Box::new(detail)) }
    }
}

fn phase(process: &Process) -> status::Phase {
    match process.phase {
        Phase::Starting => status::Phase::Starting,
        Phase::Lost => status::Phase::Lost,
        Phase::Exited if process.tree_gone => status::Phase::Ended,
        Phase::Exited => status::Phase::Exited,
        Phase::Running if process.killing.is_some() => status::Phase::Ending,
        Phase::Running if process.paused => status::Phase::Paused,
        Phase::Running => status::Phase::Running,
    }
}

fn output(process: &Process, channel: Channel) -> StreamStatus {
    let meter = &process.meter.streams[channel as usize];
    let (cut_from, cut_bytes) = (meter.cut_from.get(), meter.cut_bytes.get());
    StreamStatus {
        stream: stream_name(channel),
        bytes: meter.taken_bytes.get(),
        cut_bytes,
        pipe_bytes: meter.pipe_bytes.load(Ordering::Relaxed),
        paused: meter.paused.load(Ordering::Relaxed),
        paused_ms: meter.paused_ns.get() / crate::clock::MS,
        closed: !process.open[channel as usize],
        engine: if process.is_relayed() { StreamEngine::Relay } else { StreamEngine::History },
        cut: (cut_bytes > 0 && !process.is_relayed())
            .then_some(ByteRange { from: cut_from, to: cut_from + cut_bytes }),
        history_head_bytes: meter.head_bytes.load(Ordering::Relaxed),
        history_tail_bytes: meter.tail_bytes.load(Ordering::Relaxed),
        held_bytes: meter.held_bytes.get(),
        rate: process.rate[channel as usize].map(pacing::told),
        throttled: meter.throttled.load(Ordering::Relaxed),
        throttled_ms: meter.throttled_ns.get() / crate::clock::MS,
        spool: process.spool.map(|_| spool::status(&meter.spool)),
    }
}

/// Which outputs a reader reads.
fn channels<'a>(process: &'a Process, stream: &StreamSubscription) -> impl Iterator<Item = Channel> + 'a {
    let wish = stream.wish;
    Channel::ALL.into_iter().filter(move |channel| {
        process.has(*channel)
            && match channel {
                Channel::Stdout => wish.stdout,
                Channel::Stderr => wish.stderr,
            }
    })
}

fn numbers(stream: &StreamSubscription) -> Option<&ReaderMeter> {
    match &stream.place {
        Place::Reading { meter, .. } => Some(meter),
        Place::Waiting { .. } | Place::Following { .. } => None,
    }
}

fn own_name(stream: &StreamSubscription, viewer: ConnectionKey) -> Option<SubscriptionId> {
    (stream.connection == viewer).then(|| stream.id.clone())
}

fn reader(process: &Process, stream: &StreamSubscription, viewer: ConnectionKey) -> Option<ReaderStatus> {
    let meter = numbers(stream)?;
    let at = channels(process, stream).map(|channel| {
        let offset = meter.offset[channel as usize].get();
        let taken = process.meter.streams[channel as usize].taken_bytes.get();
        ReaderOffset { stream: stream_name(channel), offset, lag_bytes: taken.saturating_sub(offset) }
    });
    Some(ReaderStatus {
        subscription_id: own_name(stream, viewer),
        policy: match stream.wish.policy {
            Policy::Block => stream::Policy::Block,
            Policy::DropOldest => stream::Policy::DropOldest,
            Policy::Spool => stream::Policy::Spool,
            Policy::Latest => stream::Policy::Latest,
        },
        mode: match stream.wish.mode {
            Mode::Chunk => stream::Mode::Chunk,
            Mode::Line => stream::Mode::Line,
            Mode::Lines => stream::Mode::Lines,
        },
        sequence: meter.sequence.get(),
        gap_bytes: meter.gap_bytes.get(),
        stalled: meter.stalled.load(Ordering::Relaxed),
        stalled_ms: meter.stalled_ns.get() / crate::clock::MS,
        at: at.collect(),
        rate: stream.wish.rate.map(pacing::told),
        throttled: meter.throttled.load(Ordering::Relaxed),
        throttled_ms: meter.throttled_ns.get() / crate::clock::MS,
    })
}

/// Whether a paused output waits for this reader: it asked for every byte, and takes no more or waits for its rate.
pub(crate) fn holds(process: &Process, stream: &StreamSubscription, channel: Channel) -> bool {
    let waits = numbers(stream).is_some_and(|meter| {
        meter.stalled.load(Ordering::Relaxed) || meter.throttled.load(Ordering::Relaxed)
    });
    waits && stream.wish.policy == Policy::Block && channels(process, stream).any(|own| own == channel)
}

/// What a paused output waits for, in words: a reader that holds it, or whoever else.
pub(crate) fn held_by(holder: Option<&StreamSubscription>, unread: bool) -> &'static str {
    match holder.map(numbers) {
        Some(Some(meter)) if meter.throttled.load(Ordering::Relaxed) => "a reader's rate",
        Some(_) => "a reader with the policy block",
        None if unread => "somebody to read",
        None => "a reader",
    }
}

/// Who waits for whom: outputs for stalled readers that asked for every byte, stdin for the child.
fn waiting(process: &Process, readers: &[&StreamSubscription], viewer: ConnectionKey) -> Vec<Waiting> {
    let mut list = Vec::new();
    for channel in Channel::ALL {
        if !process.meter.streams[channel as usize].paused.load(Ordering::Relaxed) {
            continue;
        }
        let before = list.len();
        for stream in readers.iter().copied().filter(|stream| holds(process, stream, channel)) {
            list.push(Waiting {
                what: channel.name().to_owned(),
                for_what: held_by(Some(stream), false).to_owned(),
                subscription_id: own_name(stream, viewer),
            });
        }
        if list.len() == before {
            let for_what = match process.spool {
                // What is not on disk yet stays in memory until it is.
                Some(_) if process.unread == Unread::Drop => "the disk".to_owned(),
                Some(_) | None if !process.wired.feeds.is_empty() => "another process's stdin".to_owned(),
                Some(_) | None => held_by(None, readers.is_empty()).to_owned(),
            };
            list.push(Waiting { what: channel.name().to_owned(), for_what, subscription_id: None });
        }
    }
    if process.meter.stdin_parked_bytes.get() > 0 {
        let for_what = "the child to read".to_owned();
        list.push(Waiting { what: "stdin".to_owned(), for_what, subscription_id: None });
    }
    list
}
