//! A spawn, checked: what was asked for becomes a plan that can be carried out, or an error that names the field.
//!
//! Nothing is ignored: an option is carried out or refused. What the wire's types rule out (a NUL in an argument,
//! a terminal without extent) doesn't get here. A plan holds no reference to the request, so it can
//! wait for its id to be free. How it is carried out is in [`launch`](crate::sessions::launch).

use crate::auth::principal::{Creator, Principal};
use crate::config::{Account, Config};
use crate::digest::IdempotencyKey;
use crate::permissions::starting::Identity;
use crate::pipelines::StageOf;
use crate::records::Life;
use crate::sessions::adapting;
use crate::sessions::containing::{self, Contained, Narrowed, Within};
use crate::sessions::environment::Variables;
use crate::sessions::measuring;
use crate::sessions::pacing;
use crate::sessions::placing;
use crate::sessions::relaying;
use crate::sessions::spool;
use crate::sessions::wiring::Wires;
use crate::state::{Cast, Connection, Trace};
use kairo_dataplane::command::{
    CgroupLimits, Credentials, HistorySize, OutletKind, Placement, ProgramCheck, Rate, StderrTarget,
    StdinSource, Stdio, TerminalSize, Unread,
};
use kairo_dataplane::spool::SpoolLimits;
use kairo_wire::codec::text::OsText;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::limits::ARGUMENTS_BYTES_MAX;
use kairo_wire::methods::options::{
    self, HistoryOption, OnDisconnect, SpawnOptions, StderrOption, StdinOption, User,
};
use kairo_wire::methods::process::SpawnParams;
use kairo_wire::methods::restart::{Restart, RestartReach};
use std::sync::Arc;

/// Longest single argument or variable, bytes, its NUL not counted (execve(2), MAX_ARG_STRLEN).
const STRING_BYTES_MAX: usize = 131_071;
/// Smallest tail of a history, bytes.
pub(crate) const TAIL_BYTES_MIN: u32 = 4_096;
/// Pipe sizes that may be asked for, bytes; what is in force is in the status.
const PIPE_BYTES: std::ops::RangeInclusive<u32> = 4_096..=(1 << 30);

/// What is going to be started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Its name on the wire.
    pub id: ProcessId,
    /// Who starts it.
    pub creator: Creator,
    /// argv.
    pub argv: Vec<Vec<u8>>,
    /// Which of it is secret.
    pub secret_args: Vec<usize>,
    /// Variables of the request.
    pub given: Variables,
    /// Begin with the daemon's environment.
    pub inherit_env: bool,
    /// Where it works; none is where the keeper does.
    pub cwd: Option<Vec<u8>>,
    /// Its descriptors.
    pub stdio: Stdio,
    /// What they have to do with others.
    pub wires: Wires,
    /// Its place among others that are started with it.
    pub stage: Option<StageOf>,
    /// Whom it becomes, if not the daemon's user.
    pub account: Option<Account>,
    /// setrlimit(2).
    pub rlimits: Vec<(u32, u64)>,
    /// Of its cgroup.
    pub cgroup: CgroupLimits,
    /// What it is kept from.
    pub contained: Option<Box<Contained>>,
    /// How what it executes is looked at.
    pub program: Option<ProgramCheck>,
    /// How much is kept.
    pub history: HistorySize,
    /// How fast each output may go.
    pub rate: Option<Rate>,
    /// What an unread output does.
    pub unread: Unread,
    /// How much of it goes to disk.
    pub spool: Option<SpoolLimits>,
    /// It dies with its connection.
    pub guarded: bool,
    /// Of the request.
    pub trace: Trace,
    /// Of the request.
    pub given_key: Option<IdempotencyKey>,
    /// Whether it is written down, and whether the answer waits for that.
    pub durable: Option<bool>,
    /// Whether it is started again.
    pub restart: Restart,
    /// The request as it came, if a restart may need it when the kernel is gone.
    pub request: Option<Box<SpawnParams>>,
    /// The life whose record says that this one is due, if it is a restart.
    pub follows: Option<String>,
    /// What reads its output.
    pub adapter: Option<String>,
    /// In whose name it is started.
    pub cast: Cast,
    /// On which cores.
    pub placement: Placement,
    /// It is a stream that a client writes, and nothing is started.
    pub published: Option<Published>,
}

/// How a client writes a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// By what.
    pub kind: OutletKind,
    /// Its process.
    pub pid: i32,
}

/// Whoever asks for a spawn, as far as a plan depends on it.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    /// Its rights.
    pub principal: &'a Principal,
    /// Its group, and …
    pub gid: u32,
    /// … its other groups.
    pub groups: &'a [u32],
    /// What it is in itself.
    pub within: Within<'a>,
    /// As whom it starts something.
    pub identity: Identity,
}

impl<'a> Asker<'a> {
    /// The peer behind a connection.
    pub(crate) fn behind(connection: &'a Connection, within: Within<'a>, identity: Identity) -> Asker<'a> {
        let Connection { principal, peer, .. } = connection;
        Asker { principal, gid: peer.gid, groups: &peer.groups, within, identity }
    }
}

impl Plan {
    /// Its terminal's size.
    pub(crate) fn terminal(&self) -> Option<TerminalSize> {
        match self.stdio {
            Stdio::Pty(size) => Some(size),
            Stdio::Pipes { .. } => None,
        }
    }

    /// Which outputs will be ours, by channel.
    pub(crate) fn outputs(&self) -> [bool; 2] {
        let second = matches!(self.stdio, Stdio::Pipes { stderr: StderrTarget::Pipe, .. });
        [self.wires.stdout.is_none(), second && self.published.is_none()]
    }

    /// What a life was, as far as its record tells; never carried out.
    pub(crate) fn of_the_past(life: &Life, terminal: Option<TerminalSize>) -> Plan {
        let second = if life.stderr { StderrTarget::Pipe } else { StderrTarget::Stdout };
        let pipes = Stdio::Pipes { stdin: StdinSource::Pipe, stderr: second, pipe_bytes: 0 };
        Plan {
            id: life.id.clone(),
            creator: life.creator(),
            argv: life.argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            secret_args: Vec::new(),
            given: Variables::new(),
            inherit_env: false,
            cwd: life.cwd.clone().map(OsText::into_bytes),
            stdio: terminal.map_or(pipes, Stdio::Pty),
            wires: Wires::default(),
            stage: None,
            account: None,
            rlimits: Vec::new(),
            cgroup: CgroupLimits::default(),
            contained: None,
            program: None,
            history: HistorySize { head_bytes: life.history.0, tail_bytes: life.history.1 },
            unread: Unread::Drop,
            guarded: false,
            trace: Trace::default(),
            given_key: None,
            rate: None,
            spool: life.spool,
            durable: None,
            restart: Restart::default(),
            follows: None,
            request: None,
            adapter: None,
            cast: life.cast(),
            placement: Placement::default(),
            published: None,
        }
    }
}

/// Checks a request.
pub(crate) fn check(config: &Config, asker: &Asker<'_>, params: SpawnParams) -> Result<Plan, WireError> {
    let request = kept_request(&params);
    let asked = params.options.map(|options| *options).unwrap_or_default();
    let owner = *asker.principal == Principal::Owner;
    records(config, &asked)?;
    if asked.inherit_env && !owner {
        return Err(WireError::denied("process.spawn", "options.inheritEnv is the owner's only"));
    }
    let argv: Vec<Vec<u8>> = params.command.into_iter().map(|argument| argument.into_bytes()).collect();
    let mut given = variables(&asked)?;
    arguments(&argv, &given)?;
    let account = account(config, asker, asked.user.as_ref())?;
    let cwd = folder(&asked, account.as_ref())?;
    let secret_args = secrets(&asked, argv.len())?;
    let limits = asked.limits.clone().unwrap_or_default();
    let stdio = stdio(config, owner, &asked)?;
    let wires = Wires::asked(&asked)?;
    let history = history(config, &asked, &stdio)?;
    let rlimits: Vec<(u32, u64)> =
        limits.rlimits.iter().map(|(name, value)| ((config.numbers.rlimit)(*name), *value)).collect();
    let cgroup = cgroup(&limits, asked.allow_weaker)?;
    let place = (account.as_ref(), cwd.as_deref());
    let Identity { acts_as, under, line, nth } = asker.identity.clone();
    let declared = under.as_deref().and_then(|grant| grant.declared.as_deref());
    // What a skill's process starts in the skill's name is contained as that process is.
    let declared = declared.filter(|_| asked.skill.is_some());
    let approved = declared.map(|declared| &declared.profile);
    let Narrowed { contained, rlimits, cgroup } =
        containing::narrow(config, asker.within, (&asked, approved), place, &mut given, (rlimits, cgroup))?;
    Ok(Plan {
        adapter: adapting::choose(config, asked.adapter.as_deref(), &argv[0], &stdio, account.is_some())?,
        id: params.id,
        creator: asker.principal.creator(config.owner_uid),
        secret_args,
        given,
        inherit_env: asked.inherit_env,
        cwd,
        stdio,
        wires,
        stage: None,
        account,
        rlimits,
        cgroup,
        contained,
        program: measuring::asked(config, &asked, declared.map(|declared| (declared, nth)))?,
        history,
        placement: placing::asked(&config.cores, asker.principal, &asked)?,
        rate: pacing::rate(asked.rate, "options.rate")?,
        unread: pacing::unread(asked.when_unread),
        spool: spool::limits(config, asked.spool)?,
        guarded: asked.on_disconnect == OnDisconnect::Kill,
        trace: Trace::default(),
        given_key: None,
        durable: asked.durable,
        restart: asked.restart,
        request,
        follows: None,
        argv,
        cast: Cast { acts_as, under: under.map(|grant| Arc::clone(&grant.id)), line },
        published: None,
    })
}

/// A copy of the request, if its restart is to survive the kernel.
fn kept_request(params: &SpawnParams) -> Option<Box<SpawnParams>> {
    let restart = params.options.as_ref()?.restart;
    (!restart.is_never() && restart.reach == RestartReach::Records).then(|| Box::new(params.clone()))
}

/// Whether what is asked of records and restarts can be had, and goes together.
fn records(config: &Config, asked: &SpawnOptions) -> Result<(), WireError> {
    let sealed = !asked.restart.is_never() && asked.restart.reach == RestartReach::Records;
    if config.embedded && asked.durable == Some(true) {
        return Err(WireError::unsupported("options.durable", "an embedded kernel keeps no records"));
    }
    if config.embedded && sealed {
        let why = "an embedded kernel keeps no records; ask for reach: kernel";
        return Err(WireError::unsupported("options.restart", why));
    }
    let secrets = match (asked.secret_env.is_empty(), asked.secret_args.is_empty()) {
        (true, true) => None,
        (false, _) => Some("secretEnv"),
        (true, false) => Some("secretArgs"),
    };
    let conflict = match (secrets, asked.durable) {
        (Some(name), _) => Some((name, "secrets are not written down, so it could not be started again")),
        (None, Some(false)) => Some(("durable", "without a record it could not be started again")),
        (None, _) => None,
    };
    match conflict {
        Some((name, why)) if sealed => {
            let message = format!("options.restart and options.{name}: {why}; ask for reach: kernel");
            let fields = vec!["options.restart".to_owned(), format!("options.{name}")];
            Err(WireError::new(Code::Conflict, message)
                .with("field", "options.restart")
                .with("fields", fields))
        }
        Some(_) | None => Ok(()),
    }
}

fn variables(asked: &SpawnOptions) -> Result<Variables, WireError> {
    let mut given = Variables::new();
    for (name, value) in &asked.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let field = format!("options.env.{name}");
            return Err(WireError::invalid(
                &field,
                "a variable's name is not empty and has no '=' and no NUL",
            ));
        }
        given.insert(name.clone().into_bytes(), value.as_bytes().to_vec());
    }
    Ok(given)
}

fn arguments(argv: &[Vec<u8>], given: &Variables) -> Result<(), WireError> {
    match argv.first() {
        None => return Err(WireError::invalid("command", "names at least a program")),
        Some(program) if program.is_empty() => {
            return Err(WireError::invalid("command[0]", "the program's name is not empty"));
        }
        Some(_) => {}
    }
    let mut total = 0;
    for (nth, argument) in argv.iter().enumerate() {
        if argument.len() > STRING_BYTES_MAX {
            return Err(too_large(&format!("command[{nth}]"), argument.len(), STRING_BYTES_MAX));
        }
        // A pointer each, as execve(2) counts.
        total += argument.len() + 9;
    }
    for (name, value) in given {
        let length = name.len() + value.len() + 1;
        if length > STRING_BYTES_MAX {
            let field = format!("options.env.{}", String::from_utf8_lossy(name));
            return Err(too_large(&field, length, STRING_BYTES_MAX));
        }
        total += length + 9;
    }
    if total > ARGUMENTS_BYTES_MAX {
        return Err(too_large("command", total, ARGUMENTS_BYTES_MAX));
    }
    Ok(())
}

fn too_large(field: &str, bytes: usize, bound: usize) -> WireError {
    let message = format!("{field}: {bytes} bytes are over the limit of {bound}");
    WireError::too_large("argumentsBytesMax", message).with("field", field)
}

/// Whom the child becomes: none for the daemon's own user.
fn account(config: &Config, asker: &Asker<'_>, wanted: Option<&User>) -> Result<Option<Account>, WireError> {
    let caller = asker.principal.uid(config.owner_uid);
    let (uid, named) = match wanted {
        None => (caller, None),
        Some(User::Uid(uid)) => (*uid, config.accounts.by_uid(*uid)),
        Some(User::Name(name)) => match config.accounts.by_name(name) {
            Some(account) => (account.credentials.uid, Some(account)),
            None => return Err(WireError::invalid("options.user", format!("there is no user {name:?}"))),
        },
    };
    if uid != caller && !(config.owner_uid == 0 && *asker.principal == Principal::Owner) {
        return Err(WireError::denied(
            "process.spawn",
            "options.user: only root may start programs as others",
        ));
    }
    if uid == config.owner_uid {
        return Ok(None);
    }
    if config.owner_uid != 0 {
        return Err(WireError::denied(
            "process.spawn",
            "this daemon can start programs for its own user only",
        ));
    }
    let nameless = |gid: u32, groups: Vec<u32>| Account {
        name: uid.to_string(),
        credentials: Credentials { uid, gid, groups },
        home: b"/".into(),
        shell: b"/bin/sh".into(),
    };
    if uid == caller {
        // The groups of the peer, as the operating system tells them, not those of the database.
        let (gid, groups) = (asker.gid, asker.groups.to_vec());
        let mut account = config.accounts.by_uid(uid).unwrap_or_else(|| nameless(gid, Vec::new()));
        account.credentials = Credentials { uid, gid, groups };
        return Ok(Some(account));
    }
    match named {
        Some(account) => Ok(Some(account)),
        None => Err(WireError::invalid("options.user", format!("there is no user {uid}"))),
    }
}

fn folder(asked: &SpawnOptions, account: Option<&Account>) -> Result<Option<Vec<u8>>, WireError> {
    match &asked.cwd {
        None => Ok(account.map(|account| account.home.clone())),
        Some(cwd) if cwd.as_bytes().is_empty() => {
            Err(WireError::invalid("options.cwd", "a folder's name is not empty"))
        }
        Some(cwd) => Ok(Some(cwd.as_bytes().to_vec())),
    }
}

fn secrets(asked: &SpawnOptions, count: usize) -> Result<Vec<usize>, WireError> {
    for (nth, place) in asked.secret_args.iter().enumerate() {
        if *place as usize >= count {
            let field = format!("options.secretArgs[{nth}]");
            return Err(WireError::invalid(&field, format!("the command has no argument {place}")));
        }
    }
    Ok(asked.secret_args.iter().map(|place| *place as usize).collect())
}

fn stdio(config: &Config, owner: bool, asked: &SpawnOptions) -> Result<Stdio, WireError> {
    let inherits = |field| {
        if config.embedded && owner {
            Ok(())
        } else {
            Err(WireError::unsupported(field, "only an embedded kernel has descriptors to inherit"))
        }
    };
    if let Some(size) = asked.pty.0 {
        if asked.stdin != StdinOption::Pipe || asked.stderr == StderrOption::Inherit {
            let message = "options.pty: a terminal is all three standard descriptors";
            return Err(WireError::new(Code::Conflict, message).with("field", "options.pty"));
        }
        return Ok(Stdio::Pty(terminal_size(size)));
    }
    let stdin = match asked.stdin {
        StdinOption::Pipe => StdinSource::Pipe,
        // What it reads instead is in its wires.
        StdinOption::Null | StdinOption::File(_) => StdinSource::Null,
        StdinOption::Stream(_) => StdinSource::Pipe,
        StdinOption::Inherit => inherits("options.stdin").map(|()| StdinSource::Inherit)?,
    };
    let stderr = match asked.stderr {
        StderrOption::Pipe => StderrTarget::Pipe,
        StderrOption::Stdout => StderrTarget::Stdout,
        StderrOption::Inherit => inherits("options.stderr").map(|()| StderrTarget::Inherit)?,
    };
    let pipe_bytes = asked.pipe_bytes.unwrap_or(config.limits.pipe_bytes);
    if !PIPE_BYTES.contains(&pipe_bytes) {
        let message = format!("{} to {} bytes", PIPE_BYTES.start(), PIPE_BYTES.end());
        return Err(WireError::invalid("options.pipeBytes", message));
    }
    Ok(Stdio::Pipes { stdin, stderr, pipe_bytes })
}

/// The wire's size as the data plane's.
pub(crate) fn terminal_size(size: options::TerminalSize) -> TerminalSize {
    TerminalSize { rows: size.rows, cols: size.cols }
}

fn cgroup(limits: &options::Limits, allow_weaker: bool) -> Result<CgroupLimits, WireError> {
    for (field, zero) in [
        ("options.limits.cpu", limits.cpu == Some(0)),
        ("options.limits.memory", limits.memory == Some(0)),
        ("options.limits.pids", limits.pids == Some(0)),
    ] {
        if zero {
            return Err(WireError::invalid(field, "a limit is at least 1"));
        }
    }
    let memory_bytes = match limits.memory {
        None => None,
        Some(mib) => match mib.checked_mul(1 << 20) {
            Some(bytes) => Some(bytes),
            None => return Err(WireError::invalid("options.limits.memory", "more than there can be")),
        },
    };
    Ok(CgroupLimits { memory_bytes, cpu_percent: limits.cpu, pids: limits.pids, allow_weaker })
}

fn history(config: &Config, asked: &SpawnOptions, stdio: &Stdio) -> Result<HistorySize, WireError> {
    let (usual, most) = (config.limits.history, config.limits.history_bytes_max);
    let (head_bytes, tail_bytes) = match asked.history {
        HistoryOption::Default => return Ok(usual),
        HistoryOption::None => return relaying::no_history(asked, stdio),
        HistoryOption::Sizes { head_bytes, tail_bytes } => {
            (head_bytes.unwrap_or(usual.head_bytes), tail_bytes.unwrap_or(usual.tail_bytes))
        }
    };
    if head_bytes > most {
        let message = format!("at most {most} bytes");
        return Err(WireError::invalid("options.history.headBytes", message));
    }
    if !(TAIL_BYTES_MIN..=most).contains(&tail_bytes) {
        let message = format!("{TAIL_BYTES_MIN} to {most} bytes");
        return Err(WireError::invalid("options.history.tailBytes", message));
    }
    Ok(HistorySize { head_bytes, tail_bytes })
}
