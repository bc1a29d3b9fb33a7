//! Commands about events, their stories, and what is made of them.

use crate::cli::args::Lasting;
use crate::cli::moment::Moment;
use clap::{Args, ValueEnum};

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
