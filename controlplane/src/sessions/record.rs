//! What stays with the keeper of a session, for a kernel that comes after us: a record, and a note.
//!
//! The *record* is given with the spawn and never changes: whose process it is, how it was started, by which promises.
//! The *note* is what has been decided since: a kill under way, the terminal's size. Both are opaque to the keeper.
//! Neither holds a secret: of an argv what may be told, of an environment a digest.
//!
//! Fields are named on the wire, so a later version adds some and leaves out others; a reader takes what it knows.
//! Invariant: a process that is adopted from what was written for it is, as far as anybody can ask, the same one.

use crate::auth::principal::Creator;
use crate::digest::{GuardianDigest, IdempotencyKey};
use crate::pipelines::adopting::StageRecord;
use crate::sessions::containing::Containing;
use crate::sessions::ending::Killing;
use crate::sessions::lifecycle::Doubt;
use crate::sessions::plan::Published;
use crate::sessions::wiring::{Fed, Wired};
use crate::state::{Cast, Process, Trace};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::{HistorySize, OutletKind, Placement, Rate, Scope, TerminalSize, Unread};
use kairo_dataplane::control::{Moment, StreamEnd};
use kairo_dataplane::key::Channel;
use kairo_dataplane::spool::{SpoolLimits, SpoolRecord};
use kairo_wire::codec::CodecError;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::text::OsText;
use kairo_wire::id::{EventId, ProcessId};
use kairo_wire::methods::status::{EndedBy, RecordStatus};
use serde::{Deserialize, Serialize};

/// Version of both.
const VERSION: u32 = 2;

/// Given with the spawn.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    v: u32,
    /// Its name on the wire.
    pub id: ProcessId,
    /// The user of who started it.
    uid: u32,
    /// The session of who started it.
    of_session: Option<String>,
    /// The skill who started it.
    of_skill: Option<String>,
    /// The user it runs as, if not the daemon's.
    pub run_uid: Option<u32>,
    /// Secrets replaced.
    argv: Vec<OsText>,
    cwd: Option<OsText>,
    /// Tells equal environments from different ones.
    pub environment_digest: u64,
    head_bytes: u32,
    tail_bytes: u32,
    /// How fast each output may go.
    pub rate: Option<Rate>,
    when_unread_block: bool,
    /// What of its output goes to disk.
    spool: Option<SpoolRecord>,
    /// Rows and columns.
    terminal: Option<(u16, u16)>,
    /// It has a second output.
    pub stderr: bool,
    started_ns: u64,
    started_wall_ns: u64,
    /// Digest of the token of the connection it dies with; see [`GuardianDigest`].
    guardian: Option<String>,
    /// See [`IdempotencyKey`].
    idempotency_key: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    trace_id: Option<String>,
    /// The event of its birth.
    #[serde(default)]
    birth: Option<EventId>,
    #[serde(default)]
    intent_id: Option<String>,
    #[serde(default)]
    span_id: Option<String>,
    /// The place of the call that started it.
    #[serde(default)]
    call_seq: Option<u64>,
    /// Who acted, in a word.
    #[serde(default)]
    principal: Option<String>,
    /// The life whose record says that this one is due, if it is a restart.
    #[serde(default)]
    pub follows: Option<String>,
    /// It is not to be written down in the state folder.
    #[serde(default)]
    unrecorded: bool,
    /// What reads its output.
    #[serde(default)]
    pub adapter: Option<String>,
    /// It was started contained.
    #[serde(default)]
    pub contained: bool,
    /// Whom it is for the kernel: of which user, by which name, in which session of an agent.
    #[serde(default)]
    acts_as: Option<(u32, String, Option<String>)>,
    /// The grant it runs under.
    #[serde(default)]
    under: Option<String>,
    /// Who started it, and who started that: of which user, by which name.
    #[serde(default)]
    line: Vec<(u32, String)>,
    /// Its stdin, its stdout is a pipe shared with another child.
    #[serde(default)]
    joined: [bool; 2],
    /// The output that fills its stdin.
    #[serde(default)]
    fed: Option<Fed>,
    /// Its place in a pipeline.
    #[serde(default)]
    pub stage: Option<StageRecord>,
    /// Cores it is bound to, and the core that serves its streams.
    #[serde(default)]
    cores: (Vec<u16>, Option<u16>),
    /// It is a stream that this process writes; in place, or through a pipe.
    #[serde(default)]
    published: Option<(i32, bool)>,
}

/// Decided since.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Note {
    v: u32,
    /// It was stopped by `process.pause`.
    pub paused: bool,
    /// Rows and columns.
    terminal: Option<(u16, u16)>,
    /// Who or what ends it.
    pub ended_by: Option<EndedBy>,
    /// The last signal a client sent, and who did.
    pub signalled: Option<(i32, EndedBy)>,
    /// It is being killed: when the grace is over, whether the whole tree is meant, and whether SIGKILL was sent.
    killing: Option<(u64, bool, bool)>,
    /// How its outputs are kept and paced; none in notes of kernels that could not change it.
    pub output: Option<Output>,
    /// By channel, length and cut bytes of outputs that have ended and of which nothing is held any more.
    let_go: [Option<(u64, u64)>; 2],
    /// Bytes that went into its stdin, once that is over.
    pub stdin: Option<u64>,
    /// Channels and ranges in which kernels before may have lost count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    doubts: Vec<(u8, u64, u64)>,
    /// Of a stage: all of its pipeline ran once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// How the outputs of a process are kept and paced, by channel where there are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Output {
    pub history: [HistorySize; 2],
    pub rate: [Option<Rate>; 2],
    pub unread: Unread,
}

impl Record {
    /// Of a process that is about to be started.
    pub(crate) fn of(
        process: &Process,
        guardian: Option<GuardianDigest>,
        key: Option<IdempotencyKey>,
        stage: Option<StageRecord>,
    ) -> Record {
        let text = |bytes: &Vec<u8>| OsText::new(bytes.clone());
        let owned = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Record {
            v: VERSION,
            id: process.id.clone(),
            uid: process.creator.uid,
            of_session: owned(&process.creator.session),
            of_skill: owned(&process.creator.name),
            run_uid: process.run_uid,
            argv: process.argv.iter().filter_map(text).collect(),
            cwd: process.cwd.as_ref().and_then(text),
            environment_digest: process.environment_digest,
            // Both outputs begin alike.
            head_bytes: process.history[0].head_bytes,
            tail_bytes: process.history[0].tail_bytes,
            rate: process.rate[0],
            when_unread_block: process.unread == Unread::Block,
            spool: process.spool.map(SpoolRecord::new),
            terminal: process.terminal.map(|size| (size.rows, size.cols)),
            stderr: process.open[1],
            started_ns: process.started.monotonic_ns,
            started_wall_ns: process.started.wall_ns,
            guardian: guardian.map(|digest| digest.to_string()),
            idempotency_key: key.map(|key| key.to_string()),
            correlation_id: process.trace.correlation.clone(),
            causation_id: process.trace.causation.clone(),
            trace_id: process.trace.trace.clone(),
            birth: Some(process.birth.clone()),
            intent_id: process.trace.intent.clone(),
            span_id: process.trace.span.clone(),
            call_seq: process.trace.call_seq,
            principal: process.trace.principal.as_deref().map(str::to_owned),
            follows: process.follows.clone(),
            unrecorded: process.record == RecordStatus::None,
            adapter: process.adapter.clone(),
            contained: !matches!(process.contained, Containing::Not),
            acts_as: process.cast.acts_as_written(),
            under: owned(&process.cast.under),
            line: process.cast.line_written(),
            joined: process.wired.joined,
            fed: process.wired.fed.clone(),
            stage,
            cores: (process.placement.cpus.clone(), process.placement.reactor_cpu),
            published: process
                .published
                .map(|published| (published.pid, published.kind == OutletKind::Shared)),
        }
    }

    /// As the keeper keeps it.
    pub(crate) fn encode(&self) -> Bytes {
        encode(self)
    }

    /// How it stands in the state folder, until somebody has found it there.
    pub(crate) fn status(&self) -> RecordStatus {
        if self.unrecorded { RecordStatus::None } else { RecordStatus::Failed }
    }

    /// Reads one back; a version below 2 had no promises to keep.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Record, CodecError> {
        from_slice(bytes)
    }

    /// Which outputs are ours, by channel.
    pub(crate) fn outputs(&self) -> [bool; 2] {
        [!self.joined[1], self.stderr]
    }

    /// What it is joined to; its place in a pipeline is for the pipeline to say.
    pub(crate) fn wired(&self) -> Wired {
        Wired { joined: self.joined, fed: self.fed.clone(), ..Wired::default() }
    }

    /// Who writes it, if a client does.
    pub(crate) fn published(&self) -> Option<Published> {
        let (pid, in_place) = self.published?;
        // The size is told by its meter.
        let kind = if in_place { OutletKind::Shared } else { OutletKind::Pipe { bytes: 0 } };
        Some(Published { kind, pid })
    }

    /// Where it was put.
    pub(crate) fn placement(&self) -> Placement {
        Placement { cpus: self.cores.0.clone(), reactor_cpu: self.cores.1 }
    }

    /// In whose name it runs.
    pub(crate) fn cast(&self) -> Cast {
        Cast::read(self.acts_as.as_ref(), self.under.as_deref(), &self.line)
    }

    pub(crate) fn creator(&self) -> Creator {
        Creator {
            uid: self.uid,
            session: self.of_session.as_deref().map(Into::into),
            name: self.of_skill.as_deref().map(Into::into),
        }
    }

    pub(crate) fn argv(&self) -> Vec<Vec<u8>> {
        self.argv.iter().map(|argument| argument.as_bytes().to_vec()).collect()
    }

    pub(crate) fn cwd(&self) -> Option<Vec<u8>> {
        self.cwd.as_ref().map(|cwd| cwd.as_bytes().to_vec())
    }

    /// How its outputs began.
    pub(crate) fn output(&self) -> Output {
        let history = HistorySize { head_bytes: self.head_bytes, tail_bytes: self.tail_bytes };
        let unread = if self.when_unread_block { Unread::Block } else { Unread::Drop };
        Output { history: [history; 2], rate: [self.rate; 2], unread }
    }

    pub(crate) fn spool(&self) -> Option<SpoolLimits> {
        self.spool.map(|spool| spool.limits)
    }

    pub(crate) fn terminal(&self) -> Option<TerminalSize> {
        self.terminal.map(|(rows, cols)| TerminalSize { rows, cols })
    }

    pub(crate) fn started(&self) -> Moment {
        Moment { monotonic_ns: self.started_ns, wall_ns: self.started_wall_ns }
    }

    pub(crate) fn guardian(&self) -> Option<GuardianDigest> {
        self.guardian.as_deref().and_then(GuardianDigest::from_text)
    }

    pub(crate) fn idempotency_key(&self) -> Option<IdempotencyKey> {
        self.idempotency_key.as_deref().and_then(IdempotencyKey::from_text)
    }

    pub(crate) fn trace(&self) -> Trace {
        Trace {
            correlation: self.correlation_id.clone(),
            causation: self.causation_id.clone(),
            trace: self.trace_id.clone(),
            intent: self.intent_id.clone(),
            span: self.span_id.clone(),
            tool_call: None,
            call_seq: self.call_seq,
            principal: self.principal.as_deref().map(Into::into),
        }
    }

    /// The event of its birth, if its kernel named it.
    pub(crate) fn birth(&self) -> Option<EventId> {
        self.birth.clone()
    }
}

impl Note {
    /// Of a process as it is now.
    pub(crate) fn of(process: &Process) -> Note {
        let killing = process
            .killing
            .as_ref()
            .map(|killing| (killing.deadline_ns, killing.scope == Scope::Tree, killing.timer.is_none()));
        Note {
            v: VERSION,
            paused: process.paused,
            terminal: process.terminal.map(|size| (size.rows, size.cols)),
            ended_by: process.ended_by.clone(),
            signalled: process.signalled.clone(),
            killing,
            output: Some(Output { history: process.history, rate: process.rate, unread: process.unread }),
            let_go: process.let_go.map(|end| end.map(|end| (end.total_bytes, end.cut_bytes))),
            stdin: process.stdin_end,
            doubts: process.uncertain.iter().map(|of| (of.channel as u8, of.at, of.to)).collect(),
            whole: process.wired.stage.is_some_and(|stage| stage.whole),
        }
    }

    /// As the keeper keeps it.
    pub(crate) fn encode(&self) -> Bytes {
        encode(self)
    }

    /// Reads one back; no note says nothing.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Note, CodecError> {
        if bytes.is_empty() { Ok(Note::default()) } else { from_slice(bytes) }
    }

    pub(crate) fn terminal(&self) -> Option<TerminalSize> {
        self.terminal.map(|(rows, cols)| TerminalSize { rows, cols })
    }

    /// How long an output was of which nothing is held any more.
    pub(crate) fn let_go(&self, channel: Channel) -> Option<StreamEnd> {
        let (total_bytes, cut_bytes) = self.let_go[channel as usize]?;
        Some(StreamEnd { total_bytes, cut_bytes })
    }

    /// Where kernels before may have lost count.
    pub(crate) fn doubts(&self) -> Vec<Doubt> {
        let channel = |of: u8| if of == 0 { Channel::Stdout } else { Channel::Stderr };
        self.doubts.iter().map(|(of, at, to)| Doubt { channel: channel(*of), at: *at, to: *to }).collect()
    }

    /// The kill under way, without its timer, and whether there is to be one.
    pub(crate) fn killing(&self) -> Option<(Killing, bool)> {
        self.killing.map(|(deadline_ns, tree, spent)| {
            let scope = if tree { Scope::Tree } else { Scope::Leader };
            (Killing { timer: None, deadline_ns, scope }, !spent)
        })
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut buf = BytesMut::new();
    if let Err(error) = to_buf(&mut buf, Dialect::Int64, value) {
        tracing::error!(component = "controlplane", %error, "nothing is written down of a session");
        buf.clear();
    }
    buf.freeze()
}
