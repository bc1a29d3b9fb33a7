//! What happens to processes.

use crate::codec::raw::Raw;
use crate::codec::text::OsText;
use crate::id::ProcessId;
use crate::methods::status::{EndedBy, ProcessUsage, ProgramRead, StreamTotal, TreeKnowledge};
use crate::methods::stream::StreamName;
use crate::methods::system::Principal;
use std::collections::BTreeMap;

super::events! {
    /// A process's leader exited. Goes to each connection that may see it, after the bytes the leader had left.
    ProcessExitNotice = "process.exit", Notice {
        /// As its client named it.
        pub id: ProcessId,
        /// Its exit code, or 128+n if signal n ended it.
        pub code: i32,
    }

    /// A program runs.
    ProcessSpawned = "kairo.process.spawned", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// Secrets replaced.
        pub argv: Vec<OsText>,
        /// Its working folder.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub cwd: Option<OsText>,
        /// Who started it.
        pub owner: Principal,
        /// Milliseconds since 1970.
        pub started_at_ms: u64,
        /// How well its tree is known.
        pub tree: TreeKnowledge,
        /// Its outputs.
        pub streams: Vec<StreamName>,
        /// The receipt of its sandbox, if it asked for one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub sandbox: Option<Raw>,
        /// What it executes, if that was asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub program: Option<ProgramRead>,
        /// Whom it is for the kernel, if somebody with a name: `skill:NAME` or `agent:NAME`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub acts_as: Option<String>,
        /// The grant it runs under.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub grant: Option<String>,
    }

    /// A process's leader exited.
    ProcessExited = "kairo.process.exited", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// What it returned; absent if a signal ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub code: Option<i32>,
        /// The signal that ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signal: Option<i32>,
        /// Its name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signal_name: Option<String>,
        /// It left a core.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub core: bool,
        /// Who or what ended it.
        pub ended_by: EndedBy,
        /// What it used.
        pub usage: ProcessUsage,
        /// From spawn to exit, milliseconds.
        pub duration_ms: u64,
    }

    /// Bytes went into a process's stdin or terminal. Told at most once a second and at the end, for all writes since.
    ProcessWritten = "kairo.process.written", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// The first byte's offset.
        pub from: u64,
        /// One past the last.
        pub to: u64,
        /// How many calls that were.
        pub calls: u64,
    }

    /// Nobody of a process's tree is left.
    ProcessEnded = "kairo.process.ended", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// From spawn to here, milliseconds.
        pub duration_ms: u64,
        /// Its outputs.
        pub streams: Vec<StreamTotal>,
        /// Bytes that went into its stdin.
        pub stdin_bytes: u64,
    }

    /// The keeper died, or the machine was restarted: what has become of a process can't be told any more.
    ProcessLost = "kairo.process.lost", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// In the operating system.
        pub pid: i32,
        /// This life's name.
        pub session: String,
        /// What took it.
        pub cause: LossCause,
        /// What is known of its outputs: those that had ended, and those this kernel has seen.
        pub streams: Vec<StreamTotal>,
        /// Its leader was found running still, under nobody: its pid names it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub running: bool,
    }

    /// A process is started again: a new life of the same id begins.
    ProcessRestarted = "kairo.process.restarted", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// The life that begins.
        pub session: String,
        /// The life that ended.
        pub former: String,
        /// Restarts since the last life that was long enough, this one included.
        pub attempt: u32,
        /// How long it had waited, milliseconds.
        pub delay_ms: u64,
        /// What ended the former life.
        pub cause: RestartCause,
    }

    /// A process that asked for restarts gets no more: it has had as many as it may.
    ProcessRestartsSpent = "kairo.process.restarts_spent", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// Its last life.
        pub session: String,
        /// Restarts it has had.
        pub attempts: u32,
    }

    /// How far a process is, read from its own output by an adapter. Numbers it doesn't say, and that can't be worked out,
    /// are null.
    ProcessProgress = "kairo.process.progress", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// This life's name.
        pub session: String,
        /// What reads it.
        pub adapter: String,
        /// What is done, in `unit`.
        pub done: Option<f64>,
        /// Of how much.
        pub total: Option<f64>,
        /// What is counted.
        pub unit: Option<String>,
        /// `unit` a second.
        pub rate: Option<f64>,
        /// What is left, milliseconds.
        pub eta_ms: Option<u64>,
        /// 0 to 100.
        pub percent: Option<f64>,
        /// The report in the program's own words.
        pub raw: BTreeMap<String, String>,
        /// Lines that made no sense, since this kernel reads it.
        pub broken_lines: u64,
    }
}

crate::methods::words! {
    /// What took a process.
    LossCause {
        /// Its keeper died.
        Keeper = "keeper",
        /// The machine was restarted.
        Reboot = "reboot",
        /// Its records came from another machine.
        Moved = "moved",
    }
}

crate::methods::words! {
    /// What ended the life before a restart.
    RestartCause {
        /// Its leader ended.
        Exited = "exited",
        /// Its program could not be started again.
        NotStarted = "not_started",
        /// It was lost.
        Lost = "lost",
    }
}
