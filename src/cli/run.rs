//! `kairo run`: one program under a kernel of its own.
//!
//! The kernel is embedded: it starts before this program has threads, and this program is its one client, over a
//! socket pair. The child's stdin and stderr are ours through the keeper; its stdout is relayed to our descriptor 1,
//! counted and unseen; to a terminal it goes through history, without passing the client either. Under an adapter its stderr does so too, if that is read; what
//! goes to a terminal that shows a progress bar passes the client, which makes room for it ([`Output`]). Signals are
//! handed on to everything the child started. When this program goes, however it goes, the keeper ends what is left.

use crate::adapters::declaration::{Declaration, Source};
use crate::adapters::registry::Registry;
use crate::cli::adapters::wanted;
use crate::cli::args::process::{Run, RunStdin};
use crate::cli::attach::{Session, on_terminal};
use crate::cli::context::{Context, Outcome, json_of, process_id, versioned};
use crate::cli::detach::DetachKeys;
use crate::cli::failure::Failure;
use crate::cli::member::Member;
use crate::cli::permit::Permit;
use crate::cli::processes::exit_code;
use crate::cli::progress::{Bar, Output};
use crate::cli::skill::Skill;
use crate::cli::stats;
use crate::cli::violations::Violations;
use crate::cli::{pipeline, program, terminal};
use crate::config::policy;
use crate::kernel::embedded::Embedded;
use crate::logging;
use kairo_client::{CallError, CallOptions, Client, ConnectOptions, Item};
use kairo_dataplane::sys::pipe::SPLICES;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::{
    HistoryOption, Pty, SignalName, SpawnOptions, StderrOption, StdinOption, TerminalSize,
};
use kairo_wire::methods::process::{
    self, KillParams, KillResult, Scope, SignalParams, SpawnParams, StatusParams, WaitParams, WaitResult,
};
use kairo_wire::methods::stream::{Rate, Selector, StreamName, SubscribeParams};
use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStringExt;
use std::slice;
use std::sync::Arc;

/// The id of the one process.
const ID: &str = "run";

pub(crate) fn run(context: &Context, args: &Run) -> Outcome {
    if pipeline::is_meant(&args.program) {
        return pipeline::run(context, args);
    }
    let adapter = adapter(context, args)?;
    let skill = Skill::of(&args.program)?;
    let adapters = adapter.as_ref().map(|(registry, _)| registry.clone());
    let policy = policy::load(&context.config)?;
    let contains = args.program.sandbox.is_some() || skill.is_some();
    let (kernel, connection) = Embedded::start(&context.config, adapters, policy, contains)?;
    let _logging =
        logging::begin(&context.config.log).map_err(|error| Failure::new("E_LOG", error.to_string()))?;
    let client = Client::over(connection, &ConnectOptions::default())?;
    let permit = skill.as_ref().map(|skill| Permit::obtain(context, skill, &client)).transpose();
    let outcome = permit.and_then(|permit| {
        let started = Started { skill: skill.as_ref(), permit: permit.flatten() };
        supervise(context, args, &client, adapter.map(|(_, declaration)| declaration).as_deref(), started)
    });
    drop(client);
    kernel.end()?;
    outcome
}

/// The adapter that suits what was asked for, if one was, and all there are.
fn adapter(context: &Context, args: &Run) -> Result<Option<(Registry, Arc<Declaration>)>, Failure> {
    let Some(name) = &args.program.adapter else { return Ok(None) };
    let registry = Registry::load(&context.config, &context.environment)?;
    let found = wanted(&registry, name, &args.program.command[0])?;
    Ok(found.map(|declaration| (registry, declaration)))
}

/// As what it is started, and by whose leave.
struct Started<'a> {
    skill: Option<&'a Skill>,
    permit: Option<Permit>,
}

fn supervise(
    context: &Context,
    args: &Run,
    client: &Client,
    adapter: Option<&Declaration>,
    Started { skill, permit }: Started<'_>,
) -> Outcome {
    let id = process_id(ID)?;
    // Before the spawn: what is asked of us from here on is asked of the program.
    let signals = Signals::new(FORWARDED)?;
    let mut options = spawn_options(args)?;
    options.adapter = adapter.map(|declaration| declaration.name.clone());
    // Our stdout is the one reader: paced there, what is left at the program's exit keeps the rate as well.
    let rate = options.rate.take();
    let bar = adapter.filter(|_| !args.pty).and_then(|_| Bar::begin(client).transpose()).transpose()?;
    let mut outputs = Vec::new();
    if !args.pty {
        outputs.push(Output::to(client, &id, StreamName::Stdout, rate, bar.as_ref())?);
        if bar.is_some() || adapter.is_some_and(|adapter| adapter.reads(Source::Stderr)) {
            options.stderr = StderrOption::Pipe;
            outputs.push(Output::to(client, &id, StreamName::Stderr, None, bar.as_ref())?);
        }
    }
    let mut command = program::command(&args.program)?;
    let contained = args.program.sandbox.is_some() || skill.is_some();
    if let Some(skill) = skill {
        skill.enter(0, &mut options, &mut command);
    }
    let violations =
        contained.then(|| Violations::begin(context, client, std::slice::from_ref(&id))).transpose()?;
    let params = SpawnParams { id: id.clone(), command, options: Some(Box::new(options)) };
    let mut member = Member::of(context, args, &args.program.command)?;
    let correlation_id =
        member.as_ref().map(|member| &member.correlation).or(args.correlation.as_ref()).cloned();
    let spawned = client
        .call_with::<process::Spawn>(&params, &CallOptions { correlation_id, ..CallOptions::default() })?;
    if let Some(receipt) = spawned.sandbox.as_ref().filter(|_| args.program.receipt) {
        io::stderr().lock().write_all(program::receipt(receipt)?.as_bytes())?;
    }
    if let Some(permit) = permit {
        let end = ending(client, &id);
        // It may have ended by itself.
        permit.stand_for(move || drop(end(None)))?;
    }
    if let Some(member) = &mut member {
        let end = ending(client, &id);
        member.stand_for(move |grace_ms| end(Some(grace_ms)).is_ok())?;
    }
    forward(client.clone(), vec![id.clone()], signals, args.pty)?;
    let ended = if args.pty {
        on_a_terminal(client, &id, args, rate)?
    } else {
        let ended = wait(client, &id)?;
        outputs.into_iter().try_for_each(Output::drain)?;
        ended
    };
    drop(bar);
    // Of what went well nothing need be waited for.
    if let Some(violations) = violations.filter(|_| ended.exit_code != 0) {
        violations.drain();
    }
    if let Some(member) = member {
        member.over(how(&ended))?;
    }
    report(context, client, &id, (&ended, args.stats))?;
    Ok(exit_code(&ended))
}

/// Ends the program, in its time if one is given.
fn ending(client: &Client, id: &ProcessId) -> impl Fn(Option<u64>) -> Result<KillResult, CallError> + use<> {
    let (kernel, id) = (client.clone(), id.clone());
    move |grace_ms| {
        let kill = KillParams { id: id.clone(), signal: None, grace_ms, scope: Some(Scope::Tree) };
        kernel.call::<process::Kill>(&kill)
    }
}

/// How it ended: by a code or a signal.
fn how(ended: &WaitResult) -> Json {
    match ended.exit.as_ref().map(|exit| (exit.code, exit.signal)) {
        Some((_, Some(signal))) => json!({ "signal": signal }),
        Some((code, None)) => json!({ "code": code }),
        None => json!({ "code": ended.exit_code }),
    }
}

fn spawn_options(args: &Run) -> Result<SpawnOptions, Failure> {
    let mut options = program::options(&args.program)?;
    options.inherit_env = true;
    if options.cwd.is_none() {
        let here = std::env::current_dir()?.into_os_string().into_vec();
        options.cwd = kairo_wire::codec::text::OsText::new(here);
    }
    if args.pty {
        let size = terminal::size().map(|size| TerminalSize { rows: size.rows, cols: size.cols });
        options.pty = Pty(Some(size.unwrap_or(TerminalSize::DEFAULT)));
        return Ok(options);
    }
    if args.program.adapter.is_none() && !io::stdout().is_terminal() {
        // Nobody looks at it, so it needn't come here; for a terminal that would save nothing.
        options.history = relayed();
    }
    options.stdin = match args.stdin {
        RunStdin::Inherit => StdinOption::Inherit,
        RunStdin::Null => StdinOption::Null,
    };
    options.stderr = StderrOption::Inherit;
    Ok(options)
}

/// The history of what is relayed, where that can be had.
fn relayed() -> HistoryOption {
    if SPLICES { HistoryOption::None } else { HistoryOption::Default }
}

fn wait(client: &Client, id: &ProcessId) -> Result<WaitResult, Failure> {
    Ok(client.call::<process::Wait>(&WaitParams { id: id.clone(), timeout_ms: None })?)
}

/// Its terminal and ours, until its end.
fn on_a_terminal(
    client: &Client,
    id: &ProcessId,
    args: &Run,
    rate: Option<Rate>,
) -> Result<WaitResult, Failure> {
    let stream = Selector::Stdout;
    let params = SubscribeParams { id: Some(id.clone()), stream, rate, ..SubscribeParams::default() };
    let output = client.subscribe(&params)?;
    let session = Session {
        client: client.clone(),
        id: id.clone(),
        name: args.program.command[0].to_string_lossy().into(),
    };
    // There is nowhere to come back to, so there are no keys that leave.
    let nowhere: DetachKeys = "none".parse().map_err(Failure::usage)?;
    let raw = on_terminal(&session, Some(nowhere))?;
    for item in output {
        if let Item::Chunk(chunk) = item? {
            let mut out = io::stdout().lock();
            terminal::watch(&chunk.data);
            out.write_all(&chunk.data)?;
            out.flush()?;
        }
    }
    drop(raw);
    wait(client, id)
}

/// Signals that are meant for the program when they are sent to us.
pub(crate) const FORWARDED: [i32; 8] =
    [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH];

/// Hands signals on to everything the programs started, for as long as this program lives.
pub(crate) fn forward(
    client: Client,
    ids: Vec<ProcessId>,
    mut signals: Signals,
    pty: bool,
) -> Result<(), Failure> {
    let work = move || {
        for number in signals.forever() {
            // With a terminal of its own the program learns of its size from that.
            if number == SIGWINCH && pty {
                continue;
            }
            let Some(signal) = SignalName::from_number(number.into()) else { continue };
            let take = |id: &ProcessId| {
                let params =
                    SignalParams { id: id.clone(), signal: signal.clone(), scope: Some(Scope::Tree) };
                client.call::<process::Signal>(&params).is_ok()
            };
            let taken = ids.iter().filter(|id| take(id)).count();
            if taken == 0 && number != SIGWINCH && number != SIGCONT {
                // Nobody is left to take it, so it is ours.
                std::process::exit(128 + number);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(work)?;
    Ok(())
}

/// The numbers of the run, as far as they are wanted, on stderr, because stdout is the program's.
fn report(
    context: &Context,
    client: &Client,
    id: &ProcessId,
    (ended, stats): (&WaitResult, bool),
) -> Result<(), Failure> {
    if !context.json {
        return if stats { stats::print(context, client, slice::from_ref(id)) } else { Ok(()) };
    }
    let found = client.call::<process::Status>(&StatusParams { id: id.clone(), detail: true })?;
    let streams = found.detail.map(|detail| detail.streams).unwrap_or_default();
    let mut report =
        json!({ "exitCode": ended.exit_code, "exit": json_of(&ended.exit)?, "streams": json_of(&streams)? });
    if stats {
        report["stats"] = stats::object(client, id)?;
    }
    writeln!(io::stderr().lock(), "{}", versioned(report))?;
    Ok(())
}
