//! What a process's standard descriptors have to do with other processes and with files: asked for, looked up, carried out.
//!
//! A stdin can be a file, which the child opens itself, or another process's output, which the data plane writes into it
//! ([`Feed`]); between stages of a pipeline it can be a pipe the two share ([`Joint`]). Invariant: a process is in its source's
//! `feeds` exactly while the data plane may still write into its stdin, so a source is not forgotten before all of it has
//! gone where it belongs.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::pipelines::StageOf;
use crate::pipelines::adopting::StageRecord;
use crate::sessions::plan::Plan;
use crate::state::{Phase, Process};
use kairo_dataplane::command::{Feed, Joint, Wiring};
use kairo_dataplane::key::{Channel, ProcessKey, ReactorId};
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::options::{SpawnOptions, StdinOption, StdinStream};
use kairo_wire::methods::stream::StreamName;
use kairo_wire::permission::Permission;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a process to be is wired to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wires {
    /// Its stdin is this file.
    file: Option<Vec<u8>>,
    /// Its stdin is filled by this, as it was asked for.
    stream: Option<StdinStream>,
    /// The same, once it is found.
    pub fed: Option<Fed>,
    /// Its stdin is a pipe another child writes.
    pub stdin: Option<Joint>,
    /// Its stdout is a pipe another child reads.
    pub stdout: Option<Joint>,
    /// Where all lives that it is joined to.
    pub home: Option<ReactorId>,
}

/// What a process is joined to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wired {
    /// Which of its stdin and its stdout is a pipe shared with another child.
    pub joined: [bool; 2],
    /// The output that fills its stdin.
    pub fed: Option<Fed>,
    /// Processes whose stdins its outputs fill, by serial.
    pub feeds: BTreeSet<u64>,
    /// Its place in a pipeline.
    pub stage: Option<StageOf>,
}

/// The output that fills a process's stdin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fed {
    /// The life it is of.
    pub session: String,
    /// Its process, by serial.
    #[serde(skip)]
    pub source: u64,
    /// It is its stderr.
    pub stderr: bool,
    /// It ends with the stdin: an edge of a pipeline.
    pub ends_source: bool,
}

impl Fed {
    /// Which output.
    pub(crate) fn channel(&self) -> Channel {
        if self.stderr { Channel::Stderr } else { Channel::Stdout }
    }

    /// As the data plane knows it.
    pub(crate) fn feed(&self, home: ReactorId) -> Feed {
        let source = ProcessKey { home, serial: self.source };
        Feed { source, channel: self.channel(), ends_source: self.ends_source }
    }
}

impl Wires {
    /// What was asked for, if it can be asked for at all.
    pub(crate) fn asked(asked: &SpawnOptions) -> Result<Wires, WireError> {
        let (file, stream) = match &asked.stdin {
            StdinOption::File(path) if path.as_bytes().is_empty() => {
                return Err(WireError::invalid("options.stdin.file", "a file's name is not empty"));
            }
            StdinOption::File(path) => (Some(path.as_bytes().to_vec()), None),
            StdinOption::Stream(stream) => (None, Some(stream.clone())),
            StdinOption::Pipe | StdinOption::Null | StdinOption::Inherit => (None, None),
        };
        if stream.is_some() && !asked.restart.is_never() {
            let message =
                "options.stdin.stream and options.restart: another life would not find what this one read";
            return Err(WireError::new(Code::Conflict, message).with("field", "options.stdin.stream"));
        }
        Ok(Wires { file, stream, ..Wires::default() })
    }

    /// Of a process that is about to be started, at this place of a pipeline.
    pub(crate) fn wired(self, stage: Option<StageOf>) -> Wired {
        let joined = [self.stdin.is_some(), self.stdout.is_some()];
        Wired { joined, fed: self.fed, feeds: BTreeSet::new(), stage }
    }

    /// For the data plane.
    pub(crate) fn wiring(&self, home: ReactorId) -> Wiring {
        Wiring {
            stdin_file: self.file.clone(),
            stdin: self.stdin,
            stdout: self.stdout,
            feed: self.fed.as_ref().map(|fed| fed.feed(home)),
        }
    }
}

impl Kernel {
    /// Whether a plan may read what it is to read, and where that is.
    pub(crate) fn wire(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        plan: &mut Plan,
    ) -> Result<(), WireError> {
        if let Some(path) = &plan.wires.file {
            let path = absolute(path, plan.cwd.as_deref());
            let text = String::from_utf8_lossy(&path).into_owned();
            self.may(turn, asking.connection, asking.method, Permission::FileRead, &text)
                .map_err(|error| error.with("field", "options.stdin.file"))?;
        }
        if let Some(stream) = plan.wires.stream.take() {
            if stream.id == plan.id {
                let message = "options.stdin.stream: it is the life this one takes the place of";
                return Err(WireError::new(Code::Conflict, message).with("field", "options.stdin.stream"));
            }
            plan.wires.fed = Some(self.source(turn, asking, &stream)?);
        }
        Ok(())
    }

    fn source(&self, turn: &Turn<'_>, asking: &Asking<'_>, stream: &StdinStream) -> Result<Fed, WireError> {
        const FIELD: &str = "options.stdin.stream";
        let channel = match stream.stream {
            StreamName::Stdout => Channel::Stdout,
            StreamName::Stderr => Channel::Stderr,
        };
        let Some(process) = self.state.exactly(&stream.id) else {
            return Err(WireError::process_not_found(&stream.id.to_string())
                .with("field", FIELD)
                .with("id", stream.id.to_string()));
        };
        if !self.may_see(turn.at, asking.connection, Permission::ProcessRead, process) {
            return Err(WireError::denied_process(asking.method, &stream.id.to_string())
                .with("field", FIELD)
                .with("permission", Permission::ProcessRead.name())
                .with("resource", stream.id.to_string()));
        }
        let there = matches!(process.phase, Phase::Running | Phase::Exited) && process.pid != 0;
        if !there || !process.has(channel) {
            let message = format!("{FIELD}: process {} has no {}", stream.id, channel.name());
            return Err(WireError::new(Code::Conflict, message).with("field", FIELD));
        }
        if process.is_relayed() {
            return Err(WireError::new(Code::Conflict, format!("{FIELD}: nothing is kept of {}", stream.id))
                .with("field", FIELD));
        }
        Ok(Fed {
            session: process.session.as_str().to_owned(),
            source: process.key.serial,
            stderr: channel == Channel::Stderr,
            ends_source: false,
        })
    }

    /// Where a process to be lives that is joined to others: with them.
    pub(crate) fn home_of_joined(&self, plan: &Plan) -> Option<ReactorId> {
        let source = plan.wires.fed.as_ref().and_then(|fed| self.state.processes.get(&fed.source));
        plan.wires.home.or(source.map(|source| source.key.home))
    }

    /// A process is fed from now on.
    pub(crate) fn begin_feeding(&mut self, serial: u64) {
        let source = self.state.processes.get(&serial).and_then(|process| process.source());
        if let Some(source) = source.and_then(|source| self.state.processes.get_mut(&source)) {
            source.wired.feeds.insert(serial);
        }
    }

    /// Joins a process to be to its source and its pipeline. What its record says of the latter.
    pub(crate) fn joined(&mut self, process: &mut Process) -> Option<StageRecord> {
        if let Some(fed) = &mut process.wired.fed
            && let Some(source) = self.state.processes.get_mut(&fed.source)
        {
            source.wired.feeds.insert(process.key.serial);
            fed.session = source.session.as_str().to_owned();
        }
        let of = process.wired.stage?;
        let pipeline = self.state.pipelines.get(of.pipeline)?;
        Some(StageRecord::of(pipeline, of.index))
    }

    /// Nothing more goes into a process's stdin: its source has one less to wait for.
    pub(crate) fn end_feeding(&mut self, turn: &mut Turn<'_>, process: u64, source: Option<u64>) {
        let Some(serial) = source else { return };
        let listed =
            self.state.processes.get_mut(&serial).is_some_and(|source| source.wired.feeds.remove(&process));
        if listed {
            self.settle(turn, serial);
        }
    }
}

impl Process {
    /// Whose output fills its stdin, by serial.
    pub(crate) fn source(&self) -> Option<u64> {
        self.wired.fed.as_ref().map(|fed| fed.source)
    }
}

/// Where a path is, seen from a folder.
fn absolute(path: &[u8], cwd: Option<&[u8]>) -> Vec<u8> {
    match cwd {
        Some(cwd) if !path.starts_with(b"/") => [cwd, b"/", path].concat(),
        Some(_) | None => path.to_vec(),
    }
}
