//! Configuration: what was said, then what was decided.
//!
//! Three voices, the later one wins: the file ([`raw`]), the environment ([`environment`]), the flags. Each value
//! carries where it was said until it has been checked; an error names that place. What comes out,
//! [`Config`], has no optional doubt left in it and is what the rest of the program sees. Nothing here touches
//! the machine but [`load`], which reads the file, and the look-up of a group's number.

pub(crate) mod environment;
pub(crate) mod events;
pub(crate) mod policy;
mod quotas;
pub(crate) mod raw;

use environment::Environment;
use events::Events;
use kairo_controlplane::quotas::bounds::Rules;
use raw::{ByteSize, RawConfig, line_at};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use toml::Spanned;

/// What was typed on the command line, unchecked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) socket: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) driver: Option<String>,
    pub(crate) cores: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) log_level: Option<String>,
    pub(crate) log_format: Option<String>,
    pub(crate) log_file: Option<String>,
}

/// Everything the program goes by.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Config {
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    /// Where the daemon listens.
    pub(crate) socket: PathBuf,
    /// Where the daemon keeps what outlives it.
    pub(crate) state: PathBuf,
    /// How the kernel below is asked.
    pub(crate) driver: DriverChoice,
    /// Reactor threads; none means one per core the process may use.
    pub(crate) cores: Option<u16>,
    /// Who may connect besides the owner.
    pub(crate) group: Option<Group>,
    /// The file with the policy, if there is one.
    pub(crate) policy: Option<PathBuf>,
    /// What is logged, and where to.
    pub(crate) log: LogConfig,
    /// How much of everything.
    pub(crate) limits: Limits,
    /// What is kept of the event log.
    pub(crate) events: Events,
    /// How much each principal may have.
    pub(crate) quotas: Rules,
}

/// The reactor's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DriverChoice {
    /// io_uring where it works, else readiness.
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// Readiness (epoll, kqueue).
    Poll,
}

/// A group of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct LogConfig {
    /// A level, or a filter such as `info,kairo_dataplane=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
    /// None is stderr.
    pub(crate) file: Option<PathBuf>,
    pub(crate) rotate: Rotate,
    /// Rotated files that are kept.
    pub(crate) keep: u16,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// When a new log file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Rotate {
    Never,
    Hourly,
    Daily,
}

/// Numbers with a bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Limits {
    /// First bytes of each stream that are kept.
    pub(crate) history_head_bytes: u32,
    /// Latest bytes of each stream that are kept.
    pub(crate) history_tail_bytes: u32,
    /// What a subscriber's `bufferSize` may raise one stream's history to.
    pub(crate) history_bytes_max: u32,
    /// Size asked for each pipe of a child.
    pub(crate) pipe_bytes: u32,
    /// Memory of all histories, of living and ended streams.
    pub(crate) history_memory_max: u64,
    /// History of ended streams, all together.
    pub(crate) ended_history_bytes_max: u64,
    /// Spools, all together.
    pub(crate) spool_bytes_max: u64,
    /// Rows of views that clients defined, all together.
    pub(crate) view_bytes_max: u64,
    /// Ended processes that are remembered.
    pub(crate) ended_processes_max: u32,
    /// How long an ended process is remembered.
    pub(crate) ended_seconds_max: u32,
    /// Bytes parked for stdin, per connection.
    pub(crate) stdin_parked_bytes_max: u32,
    /// From SIGTERM to SIGKILL.
    pub(crate) kill_grace_ms: u32,
    /// After which a stream that waits for a reader has stalled.
    pub(crate) stall_ms: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            history_head_bytes: 64 << 10,
            history_tail_bytes: 256 << 10,
            history_bytes_max: 16 << 20,
            pipe_bytes: 256 << 10,
            history_memory_max: 1 << 30,
            ended_history_bytes_max: 256 << 20,
            spool_bytes_max: 16 << 30,
            view_bytes_max: 256 << 20,
            ended_processes_max: 10_000,
            ended_seconds_max: 3_600,
            stdin_parked_bytes_max: 16 << 20,
            kill_grace_ms: 5_000,
            stall_ms: 1_000,
        }
    }
}

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    File { path: PathBuf, line: usize },
    Variable(&'static str),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// It isn't TOML, or has a key or a type that doesn't exist.
    #[error("{}:{line}: {}{message}", path.display(), field.as_ref().map(|f| format!("{f}: ")).unwrap_or_default())]
    Syntax { path: PathBuf, line: usize, field: Option<String>, message: String },
    /// What decides for its reader can be written by others.
    #[error("{}: {why}: a policy is its kernel's owner's alone to write", path.display())]
    Exposed { path: PathBuf, why: String },
    /// It reads well and means nothing.
    #[error("{origin}: {field}: {message}")]
    Value { origin: Origin, field: &'static str, message: String },
    /// A place has no default here.
    #[error("{field} has no default here, because neither {looked_for} is set: give {flag}")]
    NoDefault { field: &'static str, looked_for: &'static str, flag: &'static str },
}

/// A value and where it was said.
struct Said<T> {
    value: T,
    origin: Origin,
}

impl<T> Said<T> {
    fn check<U>(
        self,
        field: &'static str,
        judge: impl FnOnce(T) -> Result<U, String>,
    ) -> Result<U, ConfigError> {
        judge(self.value).map_err(|message| ConfigError::Value { origin: self.origin, field, message })
    }
}

/// The file's values, with their lines.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn said<T>(&self, value: Option<Spanned<T>>) -> Option<Said<T>> {
        value.map(|spanned| {
            let line = line_at(self.text, spanned.span().start);
            Said { value: spanned.into_inner(), origin: Origin::File { path: self.path.to_path_buf(), line } }
        })
    }
}

/// Reads the file that counts, if there is one, and decides.
pub(crate) fn load(flags: &Flags, environment: &Environment) -> Result<Config, ConfigError> {
    let named = flags.config.clone().or_else(|| environment.path("KAIRO_CONFIG"));
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(ConfigError::Read { path, source }),
    };
    let found = match named {
        Some(path) => Some(read(path)?),
        None => match environment.config_candidates().into_iter().find(|path| path.exists()) {
            Some(path) => Some(read(path)?),
            None => None,
        },
    };
    let file = found.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
    let mut config = decide(flags, environment, file)?;
    // One that nobody has named counts if it is there.
    if config.policy.is_none() {
        config.policy = environment.policy_candidates().into_iter().find(|path| path.exists());
    }
    Ok(config)
}

/// File < environment < flags, checked.
pub(crate) fn decide(
    flags: &Flags,
    environment: &Environment,
    file: Option<(&Path, &str)>,
) -> Result<Config, ConfigError> {
    let (path, text) = file.unwrap_or((Path::new(""), ""));
    let raw = RawConfig::parse(path, text)?;
    let from = File { path, text };
    let pick =
        |flag: (&Option<String>, &'static str), variable: &'static str, in_file: Option<Said<String>>| {
            let typed = flag.0.clone().map(|value| Said { value, origin: Origin::Flag(flag.1) });
            let set =
                || environment.text(variable).map(|value| Said { value, origin: Origin::Variable(variable) });
            typed.or_else(set).or(in_file)
        };
    let in_file =
        from.said(raw.cores).map(|said| Said { value: said.value.to_string(), origin: said.origin });
    let cores = pick((&flags.cores, "--cores"), "KAIRO_CORES", in_file);
    let socket = pick((&flags.socket, "--socket"), "KAIRO_IPC_SOCKET", from.said(raw.socket));
    let state = pick((&flags.state, "--state"), "KAIRO_STATE", from.said(raw.state));
    let driver = pick((&flags.driver, "--driver"), "KAIRO_DRIVER", from.said(raw.driver));
    let group = pick((&flags.group, "--group"), "KAIRO_GROUP", from.said(raw.group));
    let policy = flags.policy.clone().map(|value| Said { value, origin: Origin::Flag("--policy") });
    let level = pick((&flags.log_level, "--log"), "KAIRO_LOG", from.said(raw.log.level));
    let format = pick((&flags.log_format, "--log-format"), "KAIRO_LOG_FORMAT", from.said(raw.log.format));
    let log_file = pick((&flags.log_file, "--log-file"), "KAIRO_LOG_FILE", from.said(raw.log.file));
    Ok(Config {
        file: file.map(|(path, _)| path.to_path_buf()),
        socket: path_or("socket", socket, environment.default_socket(), "--socket")?,
        state: path_or("state", state, environment.default_state(), "--state")?,
        driver: checked("driver", driver, |text| text.parse())?.unwrap_or(DriverChoice::Auto),
        cores: checked("cores", cores, |text| parse_cores(&text))?.flatten(),
        group: checked("group", group, |text| find_group(&text))?,
        policy: checked("policy", policy.or(from.said(raw.policy)), |text| check_path(&text))?,
        log: LogConfig {
            level: checked("log.level", level, check_filter)?.unwrap_or_else(|| "info".to_owned()),
            format: checked("log.format", format, |text| text.parse())?.unwrap_or(LogFormat::Text),
            file: checked("log.file", log_file, |text| check_path(&text))?,
            rotate: checked("log.rotate", from.said(raw.log.rotate), |text| text.parse())?
                .unwrap_or(Rotate::Daily),
            keep: checked("log.keep", from.said(raw.log.keep), |keep| bounded(keep, 1, 1_000))?
                .map_or(7, |keep| keep as u16),
        },
        limits: decide_limits(&from, raw.limits)?,
        events: events::decide(&from, raw.events)?,
        quotas: quotas::decide(&from, raw.quotas)?,
    })
}

/// What all streams together may take: memory of histories, of those of ended streams, and disk.
fn decide_stores(
    from: &File<'_>,
    [memory, ended, spool, view]: [Option<Spanned<ByteSize>>; 4],
) -> Result<[u64; 4], ConfigError> {
    const MIB: u64 = 1 << 20;
    let default = Limits::default();
    let size = |field, value: Option<Spanned<ByteSize>>, least: u64, most: u64, otherwise: u64| {
        let judge = |ByteSize(bytes)| bounded(bytes, least, most);
        checked(field, from.said(value), judge).map(|found| found.unwrap_or(otherwise))
    };
    Ok([
        size("limits.history_memory_max", memory, MIB, 1 << 40, default.history_memory_max)?,
        size("limits.ended_history_bytes_max", ended, 0, 1 << 40, default.ended_history_bytes_max)?,
        size("limits.spool_bytes_max", spool, MIB, 1 << 50, default.spool_bytes_max)?,
        size("limits.view_bytes_max", view, 0, 1 << 40, default.view_bytes_max)?,
    ])
}

fn decide_limits(from: &File<'_>, raw: raw::RawLimits) -> Result<Limits, ConfigError> {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let default = Limits::default();
    let size = |field, value: Option<Spanned<ByteSize>>, least: u64, most: u64, otherwise: u32| {
        let judge = |ByteSize(bytes)| bounded(bytes, least, most);
        // `most` fits u32 at every call below, so the cast keeps the number.
        checked(field, from.said(value), judge).map(|found| found.map_or(otherwise, |bytes| bytes as u32))
    };
    let count = |field, value: Option<Spanned<i64>>, least: i64, most: i64, otherwise: u32| {
        checked(field, from.said(value), |number| bounded(number, least, most))
            .map(|found| found.map_or(otherwise, |number| number as u32))
    };
    let stores =
        [raw.history_memory_max, raw.ended_history_bytes_max, raw.spool_bytes_max, raw.view_bytes_max];
    let [history_memory_max, ended_history_bytes_max, spool_bytes_max, view_bytes_max] =
        decide_stores(from, stores)?;
    let head =
        size("limits.history_head_bytes", raw.history_head_bytes, 0, 64 * MIB, default.history_head_bytes)?;
    let tail = size(
        "limits.history_tail_bytes",
        raw.history_tail_bytes,
        4 * KIB,
        64 * MIB,
        default.history_tail_bytes,
    )?;
    Ok(Limits {
        history_head_bytes: head,
        history_tail_bytes: tail,
        history_bytes_max: size(
            "limits.history_bytes_max",
            raw.history_bytes_max,
            4 * KIB,
            1024 * MIB,
            default.history_bytes_max,
        )?,
        pipe_bytes: size("limits.pipe_bytes", raw.pipe_bytes, 4 * KIB, 64 * MIB, default.pipe_bytes)?,
        history_memory_max,
        ended_history_bytes_max,
        spool_bytes_max,
        view_bytes_max,
        ended_processes_max: count(
            "limits.ended_processes_max",
            raw.ended_processes_max,
            0,
            1_000_000,
            default.ended_processes_max,
        )?,
        ended_seconds_max: count(
            "limits.ended_seconds_max",
            raw.ended_seconds_max,
            0,
            31_536_000,
            default.ended_seconds_max,
        )?,
        stdin_parked_bytes_max: size(
            "limits.stdin_parked_bytes_max",
            raw.stdin_parked_bytes_max,
            64 * KIB,
            1024 * MIB,
            default.stdin_parked_bytes_max,
        )?,
        kill_grace_ms: count("limits.kill_grace_ms", raw.kill_grace_ms, 0, 3_600_000, default.kill_grace_ms)?,
        stall_ms: count("limits.stall_ms", raw.stall_ms, 1, 3_600_000, default.stall_ms)?,
    })
}

fn checked<T, U>(
    field: &'static str,
    said: Option<Said<T>>,
    judge: impl FnOnce(T) -> Result<U, String>,
) -> Result<Option<U>, ConfigError> {
    said.map(|said| said.check(field, judge)).transpose()
}

fn path_or(
    field: &'static str,
    said: Option<Said<String>>,
    default: Option<PathBuf>,
    flag: &'static str,
) -> Result<PathBuf, ConfigError> {
    let named = checked(field, said, |text| check_path(&text))?;
    let looked_for = "XDG_RUNTIME_DIR, XDG_STATE_HOME nor HOME";
    named.or(default).ok_or(ConfigError::NoDefault { field, looked_for, flag })
}

/// A path is taken relative to the current folder, and has a length a socket address can hold only where it is
/// bound; here it just has to be one.
fn check_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be a path".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("{text:?} is not a path: {error}"))
}

fn check_filter(text: String) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) if !text.trim().is_empty() => Ok(text),
        Ok(_) => Err("is empty; use error, warn, info, debug, trace or off".to_owned()),
        Err(error) => {
            Err(format!("{text:?} is no level or filter ({error}); try info or info,kairo_dataplane=debug"))
        }
    }
}

fn parse_cores(text: &str) -> Result<Option<u16>, String> {
    match text {
        "auto" => Ok(None),
        _ => match text.parse::<u16>() {
            Ok(cores @ 1..=1024) => Ok(Some(cores)),
            _ => Err(format!("{text:?} must be auto or a number from 1 to 1024")),
        },
    }
}

fn find_group(text: &str) -> Result<Group, String> {
    let found = match text.parse::<u32>() {
        Ok(gid) => nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)),
        Err(_) => nix::unistd::Group::from_name(text),
    };
    match found {
        Ok(Some(group)) => Ok(Group { name: group.name, gid: group.gid.as_raw() }),
        Ok(None) => Err(format!("there is no group {text:?} on this machine")),
        Err(errno) => Err(format!("looking up group {text:?} failed: {}", errno.desc())),
    }
}

fn bounded<N: PartialOrd + fmt::Display>(number: N, least: N, most: N) -> Result<N, String> {
    if number >= least && number <= most {
        Ok(number)
    } else {
        Err(format!("{number} must be from {least} to {most}"))
    }
}

/// Gives an enum of words its parser, with an error that lists the words.
macro_rules! words {
    ($kind:ty { $($word:literal => $value:expr),+ $(,)? }) => {
        impl FromStr for $kind {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)+
                    _ => Err(format!("{text:?} must be one of: {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words!(DriverChoice { "auto" => DriverChoice::Auto, "uring" => DriverChoice::Uring, "poll" => DriverChoice::Poll });
words!(LogFormat { "text" => LogFormat::Text, "json" => LogFormat::Json });
words!(Rotate { "never" => Rotate::Never, "hourly" => Rotate::Hourly, "daily" => Rotate::Daily });

#[cfg(test)]
mod tests {
    use super::*;

    fn user(variables: &[(&str, &str)]) -> Environment {
        let mut all = vec![("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        all.extend_from_slice(variables);
        Environment::pretend(1000, &all)
    }

    fn decided(flags: &Flags, variables: &[(&str, &str)], text: &str) -> Result<Config, String> {
        decide(flags, &user(variables), Some((Path::new("kairo.toml"), text)))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn flags_beat_the_environment_and_the_environment_beats_the_file() {
        let text =
            "socket = \"/file\"\nstate = \"/file\"\ndriver = \"poll\"\ncores = 3\n[log]\nlevel = \"debug\"\n";
        let variables = [("KAIRO_IPC_SOCKET", "/environment"), ("KAIRO_STATE", "/environment")];
        let flags = Flags { socket: Some("/flag".to_owned()), ..Flags::default() };
        let config = decided(&flags, &variables, text).unwrap();
        assert_eq!(config.socket, PathBuf::from("/flag"));
        assert_eq!(config.state, PathBuf::from("/environment"));
        assert_eq!(config.driver, DriverChoice::Poll);
        assert_eq!(config.cores, Some(3));
        assert_eq!(config.log.level, "debug");
    }

    #[test]
    fn an_empty_machine_gets_the_documented_defaults() {
        let config = decide(&Flags::default(), &user(&[]), None).unwrap();
        assert_eq!(config.socket, PathBuf::from("/run/user/1000/kairo/kernel.sock"));
        assert_eq!(config.driver, DriverChoice::Auto);
        assert_eq!((config.cores, config.group, config.file), (None, None, None));
        assert_eq!(
            (config.log.format, config.log.rotate, config.log.keep),
            (LogFormat::Text, Rotate::Daily, 7)
        );
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn a_bad_value_is_named_with_where_it_was_said() {
        let none = Flags::default();
        let error = decided(&none, &[], "\n[limits]\npipe_bytes = 1\n").unwrap_err();
        assert!(error.starts_with("kairo.toml:3: limits.pipe_bytes: 1 must be from"), "{error}");
        let error = decided(&none, &[("KAIRO_DRIVER", "kqueue")], "").unwrap_err();
        assert!(error.contains("environment variable KAIRO_DRIVER"), "{error}");
        assert!(error.contains("auto, uring, poll"), "{error}");
        let flags = Flags { cores: Some("0".to_owned()), ..Flags::default() };
        let error = decided(&flags, &[], "").unwrap_err();
        assert!(error.starts_with("flag --cores: cores:"), "{error}");
        let error = decided(&none, &[], "cores = -2").unwrap_err();
        assert!(error.starts_with("kairo.toml:1: cores:"), "{error}");
        let error = decided(&none, &[], "group = \"no-such-group-here\"").unwrap_err();
        assert!(error.contains("there is no group"), "{error}");
        let error = decided(&none, &[], "[log]\nlevel = \"lou=d=er\"").unwrap_err();
        assert!(error.starts_with("kairo.toml:2: log.level:"), "{error}");
    }

    #[test]
    fn a_machine_without_any_home_is_asked_for_a_path() {
        let error =
            decide(&Flags::default(), &Environment::pretend(1000, &[]), None).unwrap_err().to_string();
        assert!(error.contains("--socket"), "{error}");
    }

    #[test]
    fn a_file_named_by_a_flag_must_exist() {
        let flags = Flags { config: Some(PathBuf::from("/nonexistent/kairo.toml")), ..Flags::default() };
        assert!(matches!(load(&flags, &user(&[])), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn every_limit_can_be_set_in_the_file() {
        let text = "[limits]\nhistory_head_bytes = 0\nhistory_tail_bytes = \"1 MiB\"\nhistory_bytes_max = \"2 MiB\"\n\
            pipe_bytes = \"1 MiB\"\nhistory_memory_max = \"8 GiB\"\nended_history_bytes_max = \"1 GiB\"\nspool_bytes_max = \"2 GiB\"\nview_bytes_max = \"3 MiB\"\nended_processes_max = 5\n\
            ended_seconds_max = 6\nstdin_parked_bytes_max = \"64 KiB\"\nkill_grace_ms = 7\nstall_ms = 8\n";
        let limits = decided(&Flags::default(), &[], text).unwrap().limits;
        let expected = Limits {
            history_head_bytes: 0,
            history_tail_bytes: 1 << 20,
            history_bytes_max: 2 << 20,
            pipe_bytes: 1 << 20,
            history_memory_max: 8 << 30,
            ended_history_bytes_max: 1 << 30,
            spool_bytes_max: 2 << 30,
            view_bytes_max: 3 << 20,
            ended_processes_max: 5,
            ended_seconds_max: 6,
            stdin_parked_bytes_max: 64 << 10,
            kill_grace_ms: 7,
            stall_ms: 8,
        };
        assert_eq!(limits, expected);
    }
}
