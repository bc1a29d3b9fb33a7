//! What can be typed: commands, flags, help.
//!
//! Shapes only. Every command's help ends in examples; the help texts are tested, so that a change to the command
//! line is a change somebody meant. What is typed is judged in [`crate::config`] and in each command's own file. Here is
//! what concerns the daemon as a whole; the rest is by rooms.

pub(crate) mod audit;
pub(crate) mod events;
pub(crate) mod permission;
pub(crate) mod process;

use crate::cli::adapters::Adapters;
use crate::cli::manifest::ManifestCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use kairo_dataplane::points::Point;
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs programs, streams them both ways, keeps count of every byte.
#[derive(Debug, Parser)]
#[command(name = "kairo", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: the child's own; 125 Kairo failed; 126 not executable, or not approved; 127 not found; \
    128+n ended by signal n.\n\nExamples:\n  kairo run -- sh -c 'echo hello; exit 3'\n  \
    kairo serve &\n  kairo spawn --id repl --pty python3\n  kairo attach repl"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// The daemon's socket [env: KAIRO_IPC_SOCKET] [default: /run/kairo/kernel.sock for root, else
    /// $XDG_RUNTIME_DIR/kairo/kernel.sock]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub(crate) socket: Option<String>,
    /// Configuration file [env: KAIRO_CONFIG] [default: $XDG_CONFIG_HOME/kairo/config.toml, else
    /// /etc/kairo/config.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
    /// Print JSON, one value a line, each with "v":1
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(process::Run),
    Serve(Serve),
    Spawn(process::Spawn),
    Attach(process::Attach),
    Write(process::Write),
    Logs(process::Logs),
    Open(process::Open),
    Ps(process::Ps),
    Status(process::Target),
    Wait(process::Wait),
    Kill(process::Kill),
    Signal(process::Signal),
    Limit(process::Limit),
    Resize(process::Resize),
    Shutdown(Shutdown),
    Events(events::Events),
    Publish(events::Publish),
    Log(events::Log),
    Audit(audit::Audit),
    Trace(events::Trace),
    Intent(events::Intent),
    Intents(events::Intents),
    Cancel(events::Cancel),
    Consumers(events::Consumers),
    Consume(events::Consume),
    Views(events::Views),
    View(events::View),
    Approvals(permission::Approvals),
    Approve(permission::Approve),
    Deny(permission::Deny),
    Grants(permission::Grants),
    Grant(permission::Grant),
    Revoke(permission::Revoke),
    Can(permission::Can),
    Why(permission::Why),
    Agents(permission::Agents),
    Agent(permission::Agent),
    Session(permission::Session),
    Policy(permission::PolicyCommand),
    Adapters(Adapters),
    Call(Call),
    Introspect(Introspect),
    Doctor(Doctor),
    Quotas(Quotas),
    Config(ConfigCommand),
    Manifest(ManifestCommand),
    Completions(Completions),
    /// The process that forks; started by the kernel, not by people.
    #[command(hide = true)]
    Keeper {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Run the daemon in the foreground
///
/// Prints one line when it is ready. Refuses to start over a living socket, over a file that is not its own, or in
/// a folder where others could replace the socket. What it started goes on when it ends: by SIGTERM or SIGINT, by a
/// crash or kill -9. The next `kairo serve` with the same --state takes it over, with every byte. `kairo shutdown` ends
/// the programs too.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo serve\n  kairo serve --socket /tmp/k/kernel.sock --state /tmp/k/state --driver poll --cores 1\n  \
    kairo serve --group media --log info,kairo_dataplane=debug --log-format json --log-file /var/log/kairo/kairo.log"
)]
pub(crate) struct Serve {
    /// Folder for what outlives the daemon [env: KAIRO_STATE] [default: /var/lib/kairo for root, else
    /// $XDG_STATE_HOME/kairo]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<String>,
    /// auto, uring or poll [env: KAIRO_DRIVER] [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(crate) driver: Option<String>,
    /// Reactor threads, or auto for one per core [env: KAIRO_CORES] [default: auto]
    #[arg(long, value_name = "N")]
    pub(crate) cores: Option<String>,
    /// Let members of this group connect, as users with processes of their own [env: KAIRO_GROUP]
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// What is approved and forbidden while nobody is there to be asked [default: $XDG_CONFIG_HOME/kairo/policy.toml, else
    /// /etc/kairo/policy.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
    /// Take a state folder that another machine or user has written; the processes it tells of are lost
    #[arg(long)]
    pub(crate) adopt_foreign_state: bool,
    /// Die when a named point is reached for the Nth time, as by kill -9 (for tests).
    #[arg(long, value_name = "POINT[:N]", hide = true, value_parser = parse_point)]
    pub(crate) die_at: Option<(Point, u64)>,
}

fn parse_point(text: &str) -> Result<(Point, u64), String> {
    match text.split_once(':') {
        None => Ok((text.parse()?, 1)),
        Some((point, nth)) => Ok((point.parse()?, nth.parse().map_err(|_| format!("{nth:?} is no number"))?)),
    }
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogFlags {
    /// Log level or filter [env: KAIRO_LOG] [default: info; run: warn]
    #[arg(long = "log", value_name = "FILTER")]
    pub(crate) level: Option<String>,
    /// text or json [env: KAIRO_LOG_FORMAT] [default: text]
    #[arg(long = "log-format", value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Log to a file, rotated as the configuration says, and not to stderr [env: KAIRO_LOG_FILE]
    #[arg(long = "log-file", value_name = "FILE")]
    pub(crate) file: Option<String>,
}

/// What accompanies a call that changes something.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Story {
    /// Do it as part of this intent
    #[arg(long, value_name = "INTENT")]
    pub(crate) intent: Option<String>,
    /// Do it as part of this story: what follows from it carries this correlation
    #[arg(long, value_name = "ID")]
    pub(crate) correlation: Option<String>,
    /// Do it once: another call with the same key gets the answer of the first
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

/// For commands that go on for long.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Lasting {
    /// End when the daemon is gone, instead of waiting for it to come back for KAIRO_RECONNECT seconds [default: 30]
    #[arg(long)]
    pub(crate) no_reconnect: bool,
}

/// End every process, then the daemon
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo shutdown\n  kairo shutdown --grace 30")]
pub(crate) struct Shutdown {
    /// Seconds between SIGTERM and SIGKILL [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<f64>,
}

/// Call any method of the daemon
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo call kernel.ping\n  kairo call process.status '{\"id\": \"repl\", \"detail\": true}'\n  \
    echo '{\"id\": \"repl\"}' | kairo call process.wait -"
)]
pub(crate) struct Call {
    /// Its name; `kairo introspect` lists them
    pub(crate) method: String,
    /// Its parameters, JSON; - reads them from stdin
    #[arg(default_value = "{}")]
    pub(crate) params: String,
    /// Seconds to wait for the answer at most
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<f64>,
    #[command(flatten)]
    pub(crate) story: Story,
}

/// Describe the daemon's methods, events, errors and permissions
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo introspect\n  kairo introspect process.spawn\n  kairo introspect --json process.spawn | jq .params"
)]
pub(crate) struct Introspect {
    /// One method; all of them if absent
    pub(crate) method: Option<String>,
    /// What this program knows, without asking a daemon
    #[arg(long)]
    pub(crate) offline: bool,
}

/// Tell which guarantees hold on this machine, and why others don't
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo doctor\n  kairo doctor --json | jq '.facts[] | select(.standing != \"holds\")'"
)]
pub(crate) struct Doctor {}

/// Show how much each principal has of what there is a quota of, and may have
///
/// What a principal has counts for those it is under as well: a session for whoever started it, a skill for its user.
/// Without --principal only what somebody has had, or was refused, is shown. Bounds are set in config.toml (quotas).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo quotas\n  kairo quotas --principal skill:render\n  \
    kairo quotas --json | jq '.accounts[] | select(.quotas[].refused > 0) | .principal'")]
pub(crate) struct Quotas {
    /// Only of this one: owner, user:UID, skill:NAME, session:ID
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
}

/// Look at the configuration
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo config check\n  kairo config check /etc/kairo/config.toml\n  kairo config check --json | jq .config.limits"
)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    pub(crate) command: ConfigSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigSubcommand {
    Check(ConfigCheck),
}

/// Read a configuration file as the daemon would, and say what comes of it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo config check\n  kairo config check ./config.toml")]
pub(crate) struct ConfigCheck {
    /// The file; the one that counts if absent
    pub(crate) file: Option<PathBuf>,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo completions bash > ~/.local/share/bash-completion/completions/kairo\n  \
    kairo completions zsh > \"${fpath[1]}/_kairo\"\n  kairo completions fish > ~/.config/fish/completions/kairo.fish"
)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: ShellChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShellChoice {
    Bash,
    Zsh,
    Fish,
}
