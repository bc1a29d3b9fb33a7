//! Commands about events, their stories, and what is made of them.

use crate::cli::args::Lasting;
use crate::cli::moment::Moment;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Show events as they happen, or from the log, one a line
///
/// Without --from and --to they are shown as they happen. With --from the log is read, and with -f what happens then
/// follows without gap or repetition. In a pattern, * stands for one part of a topic and > for the rest.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo events -f 'kairo.process.>'\n  kairo events --count 1 kairo.process.exited\n  \
    kairo events 'kairo.process.*' --from 1h -f --json | jq -c .payload\n  \
    kairo events --from 2026-11-29T10:00:00Z --to 2026-11-29T10:05:00Z --source kernel\n  \
    kairo events --reverse --limit 20    # the latest, newest first\n  kairo events --from @1024 --correlation nightly"
)]
pub(crate) struct Events {
    /// Which topics; one of them must match
    #[arg(default_value = ">", value_name = "PATTERN")]
    pub(crate) patterns: Vec<String>,
    /// Begin there: 1h (ago; s m h d w), @SEQ, a time such as 2026-11-29T10:00:00Z, start, or now
    #[arg(long, value_name = "WHEN")]
    pub(crate) from: Option<Moment>,
    /// End there, likewise; what is there is shown
    #[arg(long, value_name = "WHEN", conflicts_with = "follow")]
    pub(crate) to: Option<Moment>,
    /// Only what this published
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: Vec<String>,
    /// Only of this story
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// Only of this intent
    #[arg(long, value_name = "ID")]
    pub(crate) intent: Option<String>,
    /// End after this many
    #[arg(long, visible_alias = "count", value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Newest first
    #[arg(long, conflicts_with = "follow")]
    pub(crate) reverse: bool,
    /// Go on with what happens (the default without --from, --to and --reverse)
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

/// Publish an event
///
/// It gets its place in the log, its id, its time and its source from the daemon. Types of the kernel, such as
/// kairo.process.exited, can't be published.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo publish render.frame.done '{\"frame\": 17}'\n  \
    kairo publish build.finished --ack disk --correlation nightly\n  make-report | kairo publish report.made -\n  \
    kairo publish payment.sent '{\"to\": \"x\"}' --key payment-4711    # once, however often it is tried")]
pub(crate) struct Publish {
    /// Its type
    #[arg(value_name = "TYPE")]
    pub(crate) topic: String,
    /// What it says, JSON; - reads it from stdin
    pub(crate) data: Option<String>,
    /// The story it belongs to; without one it begins its own
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// The event it follows from
    #[arg(long, value_name = "ID")]
    pub(crate) causation: Option<String>,
    /// The intent it belongs to
    #[arg(long, value_name = "ID")]
    pub(crate) intent: Option<String>,
    /// Names a part of the caller; its own name is put in front
    #[arg(long, value_name = "NAME")]
    pub(crate) source: Option<String>,
    /// Two with the same key are one
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// Return when it has its place, when a killed daemon doesn't forget it, or when the disk has it
    #[arg(long, value_enum, default_value_t = AckChoice::Log)]
    pub(crate) ack: AckChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AckChoice {
    Memory,
    Log,
    Disk,
}

/// Show what followed from what
///
/// All events of a story, each under the event that caused it, with the time from cause to effect, and how long
/// processes and intents took. Many of one type under one cause are shown as one, with their number.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo trace nightly\n  kairo trace build    # the story of the latest process of this name\n  \
    kairo trace 0d5c7a2e-9f1b-4c3d-8e6f-1a2b3c4d5e6f --all\n  kairo trace nightly --json | jq -c '[.depth, .event.topic]'"
)]
pub(crate) struct Trace {
    /// A correlation, an event's id or a process
    #[arg(value_name = "CORRELATION|EVENT-ID|PROCESS-ID")]
    pub(crate) of: String,
    /// Every event, however many of a type there are
    #[arg(long)]
    pub(crate) all: bool,
}

/// List views: tables that are made of events
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo views\n  kairo views --json | jq -c '.views[] | [.name, .lag]'")]
pub(crate) struct Views {}

/// Show a view, or define one
///
/// The rows of a view are made of the events its reader may hear, by and by; the daemon has views of processes,
/// sessions, intents, correlations and of what is live.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  kairo view processes\n  kairo view processes --watch\n  kairo view exits build --json\n  \
        kairo view define exits.json\n  kairo view drop exits"
)]
pub(crate) struct View {
    #[command(subcommand)]
    pub(crate) command: Option<ViewSubcommand>,
    /// Its name; `kairo views` lists them
    #[arg(required = true)]
    pub(crate) name: Option<String>,
    /// Only the row with this key
    pub(crate) key: Option<String>,
    /// Only rows whose keys begin so
    #[arg(long, conflicts_with = "key")]
    pub(crate) prefix: Option<String>,
    /// Go on with the rows that change
    #[arg(long, short)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ViewSubcommand {
    Define(ViewDefine),
    Drop(ViewName),
    Rebuild(ViewName),
}

/// Define a view, or define it anew
///
/// FILE holds an object with `name`, `topic` and `reducers`, and perhaps `filter` and `key`:
/// {"name": "exits", "topic": "kairo.process.exited", "key": ["data.id"], "reducers": [{"name": "runs", "op": "count"}]}.
/// Reducers are count, sum, min, max, last, first and collect.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo view define exits.json\n  make-view | kairo view define -")]
pub(crate) struct ViewDefine {
    /// JSON; - reads it from stdin
    pub(crate) file: PathBuf,
}

/// Forget a view that was defined, or fold one again from the first event that is kept
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo view drop exits\n  kairo view rebuild exits")]
pub(crate) struct ViewName {
    /// Its name
    pub(crate) name: String,
}
