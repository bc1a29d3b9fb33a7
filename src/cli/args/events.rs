//! Commands about events, their stories, and what is made of them.

use crate::cli::args::Lasting;
use crate::cli::moment::Moment;
use crate::config::raw::{ByteSize, Span};
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

/// Begin and end intents, and see what happened in them
///
/// An intent is what somebody is about to do. What is started with --intent belongs to it, and what that starts; `kairo
/// cancel` stops all of it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo intent begin 'nightly render'    # prints its id\n  \
    kairo intent end 00112233-4455-4677-8899-aabbccddeeff --result '{\"frames\": 240}'\n  \
    kairo intent timeline 00112233-4455-4677-8899-aabbccddeeff --tree")]
pub(crate) struct Intent {
    #[command(subcommand)]
    pub(crate) command: IntentSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IntentSubcommand {
    Begin(IntentBegin),
    End(IntentEnd),
    Timeline(IntentTimeline),
}

/// Begin an intent, and print its id
///
/// With --on-disconnect cancel or end the command stays until the intent is over: it holds the connection that the intent
/// lives with.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo intent begin 'nightly render' --deadline 3600\n  \
    kairo spawn --intent \"$(kairo intent begin build)\" -- make\n  \
    kairo intent begin 'while I am here' --on-disconnect cancel")]
pub(crate) struct IntentBegin {
    /// In a few words
    pub(crate) name: String,
    /// What was asked for
    #[arg(long, value_name = "TEXT")]
    pub(crate) query: Option<String>,
    /// Whatever is to be kept with it, JSON; - reads it from stdin
    #[arg(long, value_name = "JSON")]
    pub(crate) context: Option<String>,
    /// The intent it is part of
    #[arg(long, value_name = "INTENT")]
    pub(crate) parent: Option<String>,
    /// Cancel it after so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub(crate) deadline: Option<f64>,
    /// What becomes of it when this command ends
    #[arg(long, value_enum, default_value_t = DisconnectChoice::Keep, value_name = "WHAT")]
    pub(crate) on_disconnect: DisconnectChoice,
    /// The story it belongs to; without one it begins its own
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// Begin it once: another with the same key is the same
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DisconnectChoice {
    Keep,
    Cancel,
    End,
}

/// End an intent, with a result or an error
///
/// What it has started goes on; `kairo cancel` stops that.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo intent end 00112233-4455-4677-8899-aabbccddeeff --summary 'all frames are there'\n  \
    kairo intent end 00112233-4455-4677-8899-aabbccddeeff --error 'no space left'"
)]
pub(crate) struct IntentEnd {
    /// The intent
    pub(crate) id: String,
    /// What came of it, JSON; - reads it from stdin
    #[arg(long, value_name = "JSON", conflicts_with = "error")]
    pub(crate) result: Option<String>,
    /// What went wrong
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
    /// In a sentence
    #[arg(long, value_name = "TEXT")]
    pub(crate) summary: Option<String>,
}

/// Show what happened in an intent and all under it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo intent timeline 00112233-4455-4677-8899-aabbccddeeff\n  \
    kairo intent timeline 00112233-4455-4677-8899-aabbccddeeff --reverse --limit 10\n  \
    kairo intent timeline 00112233-4455-4677-8899-aabbccddeeff --tree")]
pub(crate) struct IntentTimeline {
    /// The intent
    pub(crate) id: String,
    /// End after this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
    /// Newest first
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Each event under its cause, as `kairo trace` shows it
    #[arg(long, conflicts_with_all = ["reverse", "limit"])]
    pub(crate) tree: bool,
}

/// List intents
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo intents\n  kairo intents --all\n  kairo intents --json | jq -r '.intents[].intentId'"
)]
pub(crate) struct Intents {
    /// Those that are over, too
    #[arg(long, short)]
    pub(crate) all: bool,
}

/// Stop everything that belongs to an intent or a story
///
/// Intents under it come first. Processes get SIGTERM and, after the grace, SIGKILL, with all they started; calls that wait
/// and subscriptions end. Returns when all of it is gone, with what was stopped and how long it took.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo cancel 00112233-4455-4677-8899-aabbccddeeff --reason 'not needed any more'\n  \
    kairo cancel --correlation nightly --grace 0.5"
)]
pub(crate) struct Cancel {
    /// The intent
    #[arg(value_name = "INTENT", required_unless_present = "correlation", conflicts_with = "correlation")]
    pub(crate) intent: Option<String>,
    /// Everything of this story that is ours to touch
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Seconds between SIGTERM and SIGKILL [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<f64>,
}

/// List durable consumers
///
/// A consumer is a position in the log that the daemon keeps: each event is delivered until somebody says that it is done.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo consumers\n  kairo consumers --json | jq -c '.consumers[] | [.name, .lag]'\n  \
    kairo consumers --delete thumbnails"
)]
pub(crate) struct Consumers {
    /// Forget this one
    #[arg(long, value_name = "NAME")]
    pub(crate) delete: Option<String>,
}

/// Work on events, each until it is done
///
/// With --topic the consumer is made if it isn't there. An event is shown, or given to a command on its stdin as JSON, and
/// is done when it was printed, or when the command returned 0; else it is delivered again. What was delivered when this
/// command, the daemon or the machine went away is delivered again, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo consume thumbnails --topic 'render.frame.*' --from start\n  \
    kairo consume thumbnails --exec './thumbnail \"$KAIRO_EVENT_TYPE\"'\n  \
    kairo consume audit --json --limit 100\n  \
    kairo consume audit --ack manual    # done is what `kairo call consumer.ack` says")]
pub(crate) struct Consume {
    /// The consumer
    pub(crate) name: String,
    /// Make it, if it isn't there, for events whose type matches this
    #[arg(long, value_name = "PATTERN")]
    pub(crate) topic: Option<String>,
    /// Where a new one begins: 1h (ago), @SEQ, a time, start, or now [default: now]
    #[arg(long, value_name = "WHEN", requires = "topic")]
    pub(crate) from: Option<Moment>,
    /// A new one's patience for an answer, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", requires = "topic")]
    pub(crate) ack_wait: Option<f64>,
    /// How often a new one delivers an event before it puts it aside [default: 5]
    #[arg(long, value_name = "N", requires = "topic")]
    pub(crate) max_deliver: Option<u32>,
    /// Say that an event is done when it is printed, or never
    #[arg(long, value_enum, default_value_t = DoneChoice::Auto, value_name = "WHEN")]
    pub(crate) ack: DoneChoice,
    /// Give each event to this shell command
    #[arg(long, value_name = "COMMAND", conflicts_with = "ack")]
    pub(crate) exec: Option<String>,
    /// End after this many
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DoneChoice {
    Auto,
    Manual,
}

/// See how the event log stands, or drop what is old from it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo log status\n  kairo log compact --older-than 7d --dry-run\n  \
    kairo log compact --type kairo.process.progress --latest-by session")]
pub(crate) struct Log {
    #[command(subcommand)]
    pub(crate) command: LogSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogSubcommand {
    Status(LogStatus),
    Compact(LogCompact),
}

/// Show how much is in the log, what is dropped from it, and how far its consumers are
///
/// Returns 1 if the log is broken: processes go on, and nothing is kept any more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo log status\n  kairo log status --json | jq .bytes")]
pub(crate) struct LogStatus {}

/// Drop what is old from the log, now
///
/// Without flags what the configuration says (the table events of config.toml). With --type only such events are
/// dropped, wherever they are; without it from the beginning of the log. A summary stays in the place of what was dropped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo log compact\n  kairo log compact --older-than 7d --dry-run\n  \
    kairo log compact --bytes 1GiB\n  kairo log compact --type 'render.*' --keep 1000\n  \
    kairo log compact --type kairo.process.progress --latest-by session")]
pub(crate) struct LogCompact {
    /// What is older: 90m, 7d (s m h d w)
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub(crate) older_than: Option<Span>,
    /// As much as there is above this, such as 512MiB
    #[arg(long, value_name = "SIZE", conflicts_with = "topic", value_parser = parse_size)]
    pub(crate) bytes: Option<ByteSize>,
    /// Only events whose type matches
    #[arg(long = "type", value_name = "PATTERN")]
    pub(crate) topic: Option<String>,
    /// All but the latest for each value of this field of their data
    #[arg(long, value_name = "FIELD", requires = "topic")]
    pub(crate) latest_by: Option<String>,
    /// All but so many of the latest
    #[arg(long, value_name = "N", requires = "topic")]
    pub(crate) keep: Option<u64>,
    /// Only say what would be dropped
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(super) fn parse_span(text: &str) -> Result<Span, String> {
    Span::parse(text).ok_or_else(|| format!("{text:?}: write 90m or 7d"))
}

fn parse_size(text: &str) -> Result<ByteSize, String> {
    ByteSize::parse(text).ok_or_else(|| format!("{text:?}: write 512MiB or 1GiB"))
}
