//! Commands about processes and their streams.

use crate::cli::args::events::parse_span;
use crate::cli::args::{Lasting, LogFlags, Story};
use crate::cli::detach::DetachKeys;
use crate::cli::logs::Amount;
use crate::cli::pin::Pin;
use crate::cli::program::{RestartChoice, YesNo};
use crate::cli::terminal::Size;
use crate::config::raw::Span;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Run a program under a kernel of its own, without a daemon
///
/// Its stdout becomes ours, exactly; stdin, stderr, environment and working folder are ours. Signals sent to
/// kairo go to everything the program started. However kairo ends, the program's tree ends with it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo run -- ffmpeg -v error -f lavfi -i testsrc2 -t 10 -f rawvideo - | md5sum\n  \
    kairo run --limit 20M -- cat big.iso | ssh host 'cat > big.iso'\n  \
    kairo run --limit memory=512MiB --cwd /tmp -- make\n  kairo run --adapter ffmpeg -- ffmpeg -i in.mkv out.mp4    # with a progress bar\n  \
    kairo run --manifest skill.yaml --receipt -- ./tool    # asks, unless it is approved\n  kairo run --intent \"$INTENT\" -- make\n  kairo run -- ffmpeg -i in.mkv -f nut - '|' filter '|' ffmpeg -i - out.mkv    # ends as a shell with pipefail\n  \
    kairo run --stats --pin 0@1 -- encode in.raw > out    # cores, and numbers on stderr at the end\n  kairo run --json -- true    # the same for programs"
)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) program: Program,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    /// auto, uring or poll [env: KAIRO_DRIVER] [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(crate) driver: Option<String>,
    /// Give the program a terminal, attached to ours
    #[arg(long)]
    pub(crate) pty: bool,
    /// Run it as part of this intent of the daemon: `kairo cancel` ends it, and the log tells of it
    #[arg(long, value_name = "INTENT")]
    pub(crate) intent: Option<String>,
    /// The story it belongs to; the program finds it in KAIRO_CORRELATION_ID
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// At the end, print on stderr what it used and who waited for whom; with --json as JSON
    #[arg(long)]
    pub(crate) stats: bool,
    /// Stdin of the program: inherit ours, or null
    #[arg(long, value_enum, default_value_t = RunStdin::Inherit)]
    pub(crate) stdin: RunStdin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunStdin {
    Inherit,
    Null,
}

/// What to start, for `run` and `spawn` alike.
#[derive(Debug, Args)]
pub(crate) struct Program {
    /// Working folder of the program
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// Set an environment variable; NAME alone passes ours on
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Limit the program and what it starts: a rate of output such as 20M (bytes a second, powers of 1024) or
    /// rate=20M,burst=1M; memory=512MiB, cpu=150 (percent of one core), pids=64, or an rlimit such as nofile=1024
    #[arg(long, value_name = "RATE|NAME=VALUE")]
    pub(crate) limit: Vec<String>,
    /// Keep the program to these cores, and the kernel's thread that serves its streams to one: 0, 2-5,8, 0@1 or @1
    #[arg(long, value_name = "CPUS[@CPU]")]
    pub(crate) pin: Option<Pin>,
    /// Accept a weaker limit, or a weaker check of its digest, where this machine can't enforce what is asked for
    #[arg(long)]
    pub(crate) allow_weaker: bool,
    /// Contain it by this profile (TOML or JSON): what it asks for is in force, or nothing is started
    #[arg(long, value_name = "FILE", group = "contained")]
    pub(crate) sandbox: Option<PathBuf>,
    /// It is the skill of this manifest (.json, .yaml, .yml or .toml): asks for what that lists, and runs contained by it
    /// once it is approved, by somebody or by the policy
    #[arg(long, value_name = "FILE", group = "contained")]
    pub(crate) manifest: Option<PathBuf>,
    /// Where nobody can be asked here, wait so long for somebody to decide elsewhere: 90s, 5m (s m h d w)
    #[arg(long, value_name = "DURATION", requires = "manifest", value_parser = parse_span)]
    pub(crate) wait: Option<Span>,
    /// What `session` means when it is asked or approved [default: the session of this terminal]
    #[arg(long, value_name = "ID", requires = "manifest")]
    pub(crate) session: Option<String>,
    /// Say what of its profile is in force, and by what
    #[arg(long, requires = "contained")]
    pub(crate) receipt: bool,
    /// Run it only if its SHA-256 is this, up to the moment it is executed; scripts, which are read again later, only with
    /// --allow-weaker
    #[arg(long, value_name = "HEX")]
    pub(crate) program_digest: Option<String>,
    /// Read its output for how far it is, with this adapter (`kairo adapters` lists them), or auto for the one that suits
    #[arg(long, value_name = "NAME")]
    pub(crate) adapter: Option<String>,
    /// Several programs, the output of each the input of the next, as this file says (TOML; docs/PIPELINES.md)
    #[arg(
        long, value_name = "FILE", conflicts_with = "command",
        conflicts_with_all = ["cwd", "env", "limit", "contained", "program_digest", "adapter"]
    )]
    pub(crate) pipeline: Option<PathBuf>,
    /// The program and its arguments; behind a word that is '|' (in quotes) the next one, which reads what it writes
    #[arg(
        required_unless_present = "pipeline",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(crate) command: Vec<OsString>,
}

/// Start a program under the daemon
///
/// It goes on when kairo and its callers are gone. Its output is kept (its beginning and its latest) and can be
/// read with `kairo logs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo spawn --id repl --pty python3\n  \
    kairo spawn --id build --cwd /src --env CC=clang --limit memory=2GiB -- make -j4\n  \
    kairo spawn --id encoder --spool=10GiB -- ffmpeg -i in.mp4 -f rawvideo -\n  \
    kairo spawn --stdin null -- sh -c 'sleep 1; echo done'    # prints the id it was given\n  \
    kairo spawn --id server --durable --restart on-failure -- ./server\n  \
    kairo spawn --id film --pipeline film.toml    # status, wait and kill take its name\n  \
    kairo spawn --manifest skill.yaml --wait 5m -- ./tool")]
pub(crate) struct Spawn {
    /// Its name; a random one if absent
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Give it a terminal for stdin, stdout and stderr
    #[arg(long)]
    pub(crate) pty: bool,
    /// Size of that terminal [default: ours, else 80x24]
    #[arg(long, value_name = "COLSxROWS", requires = "pty")]
    pub(crate) size: Option<Size>,
    /// Its stdin: a pipe that `kairo write` fills, or null
    #[arg(long, value_enum, default_value_t = SpawnStdin::Pipe)]
    pub(crate) stdin: SpawnStdin,
    /// Between programs joined by '|': let it all pass the kernel, which counts it and keeps its latest for `kairo logs`
    #[arg(long)]
    pub(crate) tap: bool,
    /// Mix stderr into stdout
    #[arg(long, conflicts_with = "pty")]
    pub(crate) merge_stderr: bool,
    /// Make it wait, when nobody reads and its history is full, and not forget the middle
    #[arg(long)]
    pub(crate) block_unread: bool,
    /// Write its output to disk too, all of it or the last SIZE of each stream (64MiB, 10GiB), to be read later
    #[arg(long, value_name = "SIZE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) spool: Option<SpoolSize>,
    /// Return when the disk has the record of it; `no` writes none [default: written, on disk within a second]
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "yes", require_equals = true)]
    pub(crate) durable: Option<YesNo>,
    /// Start it again when it ends: never, on-failure or always; after a reboot too
    #[arg(long, value_enum, default_value_t = RestartChoice::Never, value_name = "WHEN")]
    pub(crate) restart: RestartChoice,
    /// How many times, since it last ran for a minute
    #[arg(long, value_name = "N", requires = "restart")]
    pub(crate) restart_limit: Option<u32>,
    /// Start it in this session of an agent: it is that agent, for all it calls
    #[arg(long, value_name = "ID")]
    pub(crate) agent_session: Option<String>,
    #[command(flatten)]
    pub(crate) story: Story,
    #[command(flatten)]
    pub(crate) program: Program,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpawnStdin {
    Pipe,
    Null,
}

/// `--spool`, with or without a size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpoolSize(pub(crate) Option<u64>);

impl std::str::FromStr for SpoolSize {
    type Err = String;
    fn from_str(text: &str) -> Result<SpoolSize, String> {
        if text.is_empty() {
            return Ok(SpoolSize(None));
        }
        let size = crate::config::raw::ByteSize::parse(text);
        size.map(|size| SpoolSize(Some(size.0)))
            .ok_or_else(|| format!("{text:?} is no size; write 64MiB or 10GiB"))
    }
}

/// Connect this terminal to a process
///
/// A process with a terminal gets ours, raw, in our size, and is left with the detach keys. Of a process without
/// one the output is shown and lines typed here go to its stdin; Ctrl-C leaves it. Ends with its exit code.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo attach repl\n  kairo attach --detach-keys 'ctrl-\\' editor\n  kairo attach --replay build"
)]
pub(crate) struct Attach {
    /// The process
    pub(crate) id: String,
    /// Keys that leave: ctrl-X and characters, separated by commas, or none
    #[arg(long, value_name = "KEYS", default_value = DetachKeys::DEFAULT)]
    pub(crate) detach_keys: DetachKeys,
    /// Show what is kept of its output first
    #[arg(long)]
    pub(crate) replay: bool,
    /// Only watch: what is typed here stays here
    #[arg(long)]
    pub(crate) read_only: bool,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

/// Write to a process's stdin or terminal
///
/// Returns when the bytes are in its pipe. Escapes are understood as in C: \n \t \e \xHH \NNN \uHHHH.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo write repl 'print(6*7)\\n'\n  \
    kairo write --close sorter < words.txt\n  kairo write --raw sh 'printf \"\\n\"'")]
pub(crate) struct Write {
    /// The process
    pub(crate) id: String,
    /// What to write; absent or -: our stdin, as it is
    #[arg(allow_hyphen_values = true)]
    pub(crate) data: Option<String>,
    /// Take backslashes as they are
    #[arg(long)]
    pub(crate) raw: bool,
    /// Close its stdin afterwards (a terminal gets its end-of-file character)
    #[arg(long)]
    pub(crate) close: bool,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

/// Show what a process has written
///
/// Its stdout goes to stdout, its stderr to stderr. What is no longer kept is named on stderr. All of it is kept of a
/// process spawned with --spool.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo logs build\n  kairo logs -f repl\n  kairo logs --tail 100 -f build\n  \
    kairo logs --grep 'error|warning' -n build\n  \
    kairo logs --stream stdout --from 1048576 --head 1MiB encoder > piece.raw\n  \
    kairo logs --save all.raw encoder\n  kairo logs -f --from now --json build"
)]
pub(crate) struct Logs {
    /// The process
    pub(crate) id: String,
    /// Go on until its streams end
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Which stream [default: both; with --save stdout]
    #[arg(long, value_enum)]
    pub(crate) stream: Option<StreamChoice>,
    /// Where to begin: oldest, now, or a byte offset
    #[arg(long, value_name = "WHERE", default_value = "oldest")]
    pub(crate) from: FromChoice,
    /// Only the beginning: so many lines, or with a unit (512B, 64KiB, 1MiB) bytes, of each stream
    #[arg(long, value_name = "AMOUNT", conflicts_with = "tail")]
    pub(crate) head: Option<Amount>,
    /// Only the end, counted likewise; with --follow what comes then, too
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) tail: Option<Amount>,
    /// Only lines that match, of the part that is looked at; a line over 64 KiB is matched in pieces
    #[arg(long, value_name = "REGEX")]
    pub(crate) grep: Option<regex::bytes::Regex>,
    /// Print the byte offset of each line that matches
    #[arg(long, short = 'n', requires = "grep")]
    pub(crate) offsets: bool,
    /// Write the bytes of one stream to FILE; it is called FILE.partial until it is whole
    #[arg(long, value_name = "FILE", conflicts_with = "grep")]
    pub(crate) save: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamChoice {
    Stdout,
    Stderr,
    Both,
}

/// `--from`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FromChoice {
    Oldest,
    Now,
    Offset(u64),
}

impl std::str::FromStr for FromChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<FromChoice, String> {
        match text {
            "oldest" => Ok(FromChoice::Oldest),
            "now" => Ok(FromChoice::Now),
            _ => text
                .parse()
                .map(FromChoice::Offset)
                .map_err(|_| "write oldest, now or a byte offset".to_owned()),
        }
    }
}

/// Make an output of a process, or its stdin, a path that any program can open
///
/// Prints the path of a fifo that only this user can open. Whoever opens it first has the stream, and then nobody else finds
/// it. It is gone when nobody has opened it in time, and when the stream or the daemon ends.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ffmpeg -i \"$(kairo open cam)\" out.mkv\n  kairo open --stream stderr --from now build\n  \
    kairo open --policy drop_oldest --wait 10m cam\n  zcat words.gz > \"$(kairo open --stdin sorter)\""
)]
pub(crate) struct Open {
    /// The process
    pub(crate) id: String,
    /// Which stream
    #[arg(long, value_enum, default_value_t = OutputChoice::Stdout)]
    pub(crate) stream: OutputChoice,
    /// Its stdin instead: what is written there is what it reads, and the end of that the end of its stdin
    #[arg(long, conflicts_with_all = ["stream", "from", "policy"])]
    pub(crate) stdin: bool,
    /// With --stdin: its stdin stays open when the last writer has closed the path
    #[arg(long, requires = "stdin")]
    pub(crate) keep_open: bool,
    /// Where to begin: oldest, now, or a byte offset
    #[arg(long, value_name = "WHERE", default_value = "oldest")]
    pub(crate) from: FromChoice,
    /// When its reader is slow: block makes the process wait, drop_oldest misses bytes, spool reads them from disk
    #[arg(long, value_enum, default_value_t = PolicyChoice::Block)]
    pub(crate) policy: PolicyChoice,
    /// How long it waits for somebody to open it: 90s, 5m (s m h) [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    pub(crate) wait: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputChoice {
    Stdout,
    Stderr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyChoice {
    Block,
    #[value(name = "drop_oldest")]
    DropOldest,
    Spool,
}

/// List processes
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo ps\n  kairo ps --all\n  kairo ps --json | jq -r '.processes[].id'"
)]
pub(crate) struct Ps {
    /// Those that have ended, too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only their ids
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Tell everything about one process
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo status repl\n  kairo status --json repl | jq .process.pid")]
pub(crate) struct Target {
    /// The process
    pub(crate) id: String,
}

/// Wait for a process to end, and end with its exit code
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo wait build && echo built\n  kairo wait --timeout 30 build    # 125 if it still runs then"
)]
pub(crate) struct Wait {
    /// The process
    pub(crate) id: String,
    /// Seconds to wait at most
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<f64>,
    /// At the end, print on stderr what it used and who waited for whom; with --json as JSON
    #[arg(long)]
    pub(crate) stats: bool,
    #[command(flatten)]
    pub(crate) lasting: Lasting,
}

/// End a process and everything it started
///
/// SIGTERM to all of them, then SIGKILL to those that are left.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo kill repl\n  kairo kill --grace 0.5 build\n  kairo kill --signal INT --leader encoder"
)]
pub(crate) struct Kill {
    /// The process
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// The first signal, by name or number [default: TERM]
    #[arg(long, short, value_name = "SIGNAL")]
    pub(crate) signal: Option<String>,
    /// Seconds until SIGKILL [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<f64>,
    /// Only the process itself, not what it started
    #[arg(long)]
    pub(crate) leader: bool,
    #[command(flatten)]
    pub(crate) story: Story,
}

/// Send a signal
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo signal server HUP\n  kairo signal --leader encoder SIGUSR1\n  kairo signal build 19"
)]
pub(crate) struct Signal {
    /// The process
    pub(crate) id: String,
    /// The signal, by name (HUP, SIGHUP) or number
    pub(crate) signal: String,
    /// Only the process itself, not what it started
    #[arg(long)]
    pub(crate) leader: bool,
    #[command(flatten)]
    pub(crate) story: Story,
}

/// Change how fast a process may write, and how much of it is kept
///
/// Its output is taken at this rate, and it waits when its pipe is full. Prints what is in force; what isn't named
/// stays as it is. Less is kept from now on, what is kept no more is counted; more as far as the daemon's memory for
/// histories allows.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo limit encoder 20M\n  kairo limit encoder 20M --burst 1M --stream stdout\n  \
    kairo limit encoder none    # as fast as it can\n  kairo limit build --tail 8MiB\n  kairo limit build    # what is in force"
)]
pub(crate) struct Limit {
    /// The process
    pub(crate) id: String,
    /// Bytes a second of each output, such as 500k or 20M (powers of 1024), or none
    pub(crate) rate: Option<String>,
    /// Bytes at once after a pause [default: a tenth of a second's]
    #[arg(long, value_name = "SIZE")]
    pub(crate) burst: Option<String>,
    /// Bytes of its beginning to keep; it can't grow once something behind it is gone
    #[arg(long, value_name = "SIZE")]
    pub(crate) head: Option<String>,
    /// Bytes of its end to keep
    #[arg(long, value_name = "SIZE")]
    pub(crate) tail: Option<String>,
    /// Which stream
    #[arg(long, value_enum, default_value_t = StreamChoice::Both)]
    pub(crate) stream: StreamChoice,
    /// Make it wait, when nobody reads and its history is full (true), or forget the middle (false)
    #[arg(long, value_name = "BOOL")]
    pub(crate) block_unread: Option<bool>,
    #[command(flatten)]
    pub(crate) story: Story,
}

/// Change the size of a process's terminal
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo resize repl 120x40\n  kairo resize repl    # to the size of this terminal"
)]
pub(crate) struct Resize {
    /// The process
    pub(crate) id: String,
    /// Columns and rows; ours if absent
    #[arg(value_name = "COLSxROWS")]
    pub(crate) size: Option<Size>,
    #[command(flatten)]
    pub(crate) story: Story,
}
