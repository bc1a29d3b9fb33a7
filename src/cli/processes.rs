//! Commands that start, list, signal and await processes of the daemon.

use crate::cli::args::Shutdown;
use crate::cli::args::process::{Kill, Ps, Resize, Signal, Spawn, SpawnStdin, SpoolSize, Target, Wait};
use crate::cli::consent::Asker;
use crate::cli::context::{Context, Outcome, accompanied, json_of, milliseconds, process_id, seconds};
use crate::cli::failure::{Failure, exit_of};
use crate::cli::moment::now_ms;
use crate::cli::program::{RestartChoice, YesNo};
use crate::cli::skill::Skill;
use crate::cli::{pipeline, program, terminal};
use crate::cli::{stats, status};
use kairo_client::{CallError, Client};
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::{Pty, SignalName, StderrOption, StdinOption, TerminalSize, WhenUnread};
use kairo_wire::methods::pipeline::{
    self as wire_pipeline, PipelineKillParams, PipelineTargetParams, PipelineWaitParams,
};
use kairo_wire::methods::process::{
    self, KillParams, ListParams, ResizeParams, Scope, SignalParams, SpawnParams, StatusParams, WaitParams,
    WaitResult,
};
use kairo_wire::methods::restart::RestartPolicy;
use kairo_wire::methods::spool::{SpoolOption, SpoolSizes};
use kairo_wire::methods::status::{ProcessStatus, State};
use kairo_wire::methods::system::{self, ShutdownParams};
use serde_json::json;
use std::slice;

pub(crate) fn spawn(context: &Context, args: &Spawn) -> Outcome {
    if pipeline::is_meant(&args.program) {
        let id = args.id.clone().map_or_else(random_id, Ok)?;
        return pipeline::spawn(context, args, &id);
    }
    if args.tap {
        return Err(Failure::usage("--tap is for what is between programs: there is no '|'"));
    }
    let mut options = program::options(&args.program)?;
    if args.pty {
        let size = args.size.or_else(terminal::size);
        let size =
            size.map_or(TerminalSize::DEFAULT, |size| TerminalSize { rows: size.rows, cols: size.cols });
        options.pty = Pty(Some(size));
    }
    options.stdin = match args.stdin {
        SpawnStdin::Pipe => StdinOption::Pipe,
        SpawnStdin::Null => StdinOption::Null,
    };
    if args.merge_stderr {
        options.stderr = StderrOption::Stdout;
    }
    if args.block_unread {
        options.when_unread = WhenUnread::Block;
    }
    options.durable = args.durable.map(|wish| wish == YesNo::Yes);
    options.restart.policy = match args.restart {
        RestartChoice::Never => RestartPolicy::Never,
        RestartChoice::OnFailure => RestartPolicy::OnFailure,
        RestartChoice::Always => RestartPolicy::Always,
    };
    if let Some(limit) = args.restart_limit {
        options.restart.limit = limit;
    }
    if let Some(SpoolSize(bytes_max)) = args.spool {
        options.spool = SpoolOption(Some(SpoolSizes { bytes_max, ..SpoolSizes::default() }));
    }
    options.agent_session.clone_from(&args.agent_session);
    let id = match &args.id {
        Some(id) => process_id(id)?,
        None => process_id(&random_id()?)?,
    };
    let mut command = program::command(&args.program)?;
    let skill = Skill::of(&args.program)?;
    let client = match &skill {
        // Somebody may take their time to decide.
        Some(_) => context.lasting(false)?,
        None => context.client()?,
    };
    if let Some(skill) = &skill {
        Asker::of_daemon(context, skill, &client).settle()?;
        skill.enter(0, &mut options, &mut command);
    }
    let params = SpawnParams { id, command, options: Some(Box::new(options)) };
    let spawned = client.call_with::<process::Spawn>(&params, &accompanied(&args.story))?;
    if context.json {
        context.object(json_of(&spawned)?)?;
    } else {
        context.line(&spawned.id.to_string())?;
        if let Some(receipt) = spawned.sandbox.as_ref().filter(|_| args.program.receipt) {
            context.text(&program::receipt(receipt)?)?;
        }
    }
    Ok(0)
}

/// A name for a process nobody named.
fn random_id() -> Result<String, Failure> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|error| Failure::new("E_IO", format!("no randomness: {error}")))?;
    Ok(format!("p{:08x}", u32::from_ne_bytes(random)))
}

pub(crate) fn ps(context: &Context, args: &Ps) -> Outcome {
    let mut processes = context.client()?.call::<process::List>(&ListParams {})?.processes;
    if !args.all {
        processes.retain(status::is_alive);
    }
    if context.json {
        context.object(json!({ "processes": json_of(&processes)? }))?;
    } else if args.quiet {
        for id in processes.iter().filter_map(|one| one.id.as_ref()) {
            context.line(&crate::cli::table::visible(&id.to_string()))?;
        }
    } else {
        context.text(&status::table(&processes, now_ms()).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

pub(crate) fn status(context: &Context, args: &Target) -> Outcome {
    let id = process_id(&args.id)?;
    let client = context.client()?;
    let found = match known_status(&client, &id) {
        Ok(found) => found,
        Err(unknown) => {
            let of = PipelineTargetParams { id };
            let Ok(status) = client.call::<wire_pipeline::Status>(&of) else { return Err(unknown) };
            match context.json {
                true => context.object(json!({ "pipeline": json_of(&status)? }))?,
                false => context.text(&pipeline::describe(&status, now_ms()))?,
            }
            return Ok(0);
        }
    };
    if context.json {
        context.object(json!({ "process": json_of(&found)? }))?;
    } else {
        context.text(&status::describe(&id, &found, now_ms()))?;
    }
    Ok(0)
}

/// The status in detail of a process that exists.
pub(crate) fn known_status(client: &Client, id: &ProcessId) -> Result<ProcessStatus, Failure> {
    let found = client.call::<process::Status>(&StatusParams { id: id.clone(), detail: true })?;
    // What was lost is unknown to v1 clients, and known well enough here.
    if found.state == State::Unknown && found.detail.is_none() {
        return Err(Failure::new(Code::NotFound.name(), format!("there is no process {id}"))
            .advise("`kairo ps --all` lists what there is"));
    }
    Ok(found)
}

pub(crate) fn wait(context: &Context, args: &Wait) -> Outcome {
    let timeout_ms = args.timeout.map(|typed| seconds(typed, "--timeout").map(milliseconds)).transpose()?;
    let params = WaitParams { id: process_id(&args.id)?, timeout_ms };
    let client = context.lasting(args.lasting.no_reconnect)?;
    let ended = client.call::<process::Wait>(&params);
    if ended.as_ref().is_err_and(|error| error.code() == Some(Code::NotFound))
        && let Ok(ended) =
            client.call::<wire_pipeline::Wait>(&PipelineWaitParams { id: params.id.clone(), timeout_ms })
    {
        if context.json {
            context.object(json_of(&ended)?)?;
        }
        if args.stats {
            let stages: Vec<ProcessId> = ended.stages.iter().map(|stage| stage.id.clone()).collect();
            stats::print(context, &client, &stages)?;
        }
        return Ok(pipeline::exit_code(&ended));
    }
    let ended = ended.map_err(|error| match error.code() {
        Some(Code::Timeout) => Failure::new(Code::Timeout.name(), format!("{} still runs", args.id))
            .advise("wait longer, or end it with `kairo kill`"),
        _ => error.into(),
    })?;
    if context.json {
        context.object(json_of(&ended)?)?;
    }
    if args.stats {
        stats::print(context, &client, slice::from_ref(&params.id))?;
    }
    Ok(exit_code(&ended))
}

/// The exit code of a process that was waited for.
pub(crate) fn exit_code(ended: &WaitResult) -> u8 {
    match &ended.exit {
        Some(exit) => exit_of(exit.code, exit.signal),
        None => exit_of(Some(ended.exit_code), None),
    }
}

pub(crate) fn kill(context: &Context, args: &Kill) -> Outcome {
    let signal = args.signal.as_deref().map(signal_name).transpose()?;
    let grace_ms = args.grace.map(|typed| seconds(typed, "--grace").map(milliseconds)).transpose()?;
    let ids = args.ids.iter().map(|id| process_id(id)).collect::<Result<Vec<_>, _>>()?;
    if args.story.key.is_some() && ids.len() > 1 {
        return Err(Failure::usage("--key is for one call, and several processes are several"));
    }
    let story = accompanied(&args.story);
    let client = context.client()?;
    let mut first_failure = None;
    for id in ids {
        let of = PipelineKillParams { id: id.clone(), signal: signal.clone(), grace_ms };
        let params = KillParams { id, signal: signal.clone(), grace_ms, scope: Some(scope(args.leader)) };
        match client.call_with::<process::Kill>(&params, &story) {
            Ok(killed) if context.json => context.object(json_of(&killed)?)?,
            Ok(_) => {}
            Err(error) if error.code() == Some(Code::NotFound) && !args.leader => {
                match client.call_with::<wire_pipeline::Kill>(&of, &story) {
                    Ok(killed) if context.json => context.object(json_of(&killed)?)?,
                    Ok(_) => {}
                    Err(_) => first_failure = first_failure.or(Some(error)),
                }
            }
            Err(error @ CallError::Kernel(_)) => first_failure = first_failure.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    first_failure.map_or(Ok(0), |error| Err(error.into()))
}

pub(crate) fn signal(context: &Context, args: &Signal) -> Outcome {
    let id = process_id(&args.id)?;
    let params = SignalParams { id, signal: signal_name(&args.signal)?, scope: Some(scope(args.leader)) };
    let sent = context.client()?.call_with::<process::Signal>(&params, &accompanied(&args.story))?;
    if context.json {
        context.object(json_of(&sent)?)?;
    }
    Ok(0)
}

fn scope(leader: bool) -> Scope {
    if leader { Scope::Leader } else { Scope::Tree }
}

fn signal_name(text: &str) -> Result<SignalName, Failure> {
    SignalName::from_text(text).ok_or_else(|| {
        Failure::usage(format!("there is no signal {text:?}"))
            .advise("write a name, such as HUP, or a number from 1 to 64")
    })
}

pub(crate) fn resize(context: &Context, args: &Resize) -> Outcome {
    let size = args.size.or_else(terminal::size).ok_or_else(|| {
        Failure::usage("this is no terminal whose size could be taken")
            .advise("write it: kairo resize ID 120x40")
    })?;
    let params = ResizeParams { id: process_id(&args.id)?, rows: size.rows, cols: size.cols };
    let resized = context.client()?.call_with::<process::Resize>(&params, &accompanied(&args.story))?;
    if context.json {
        context.object(json_of(&resized)?)?;
    }
    Ok(0)
}

pub(crate) fn shutdown(context: &Context, args: &Shutdown) -> Outcome {
    let grace_ms = args.grace.map(|typed| seconds(typed, "--grace").map(milliseconds)).transpose()?;
    let client = context.client()?;
    let stopping = client.call::<system::Shutdown>(&ShutdownParams { grace_ms })?;
    if context.json {
        context.object(json_of(&stopping)?)?;
    } else {
        context.line(&format!("ending {} processes and the daemon", stopping.processes))?;
    }
    // The connection ends when the daemon does.
    for notice in client.exits() {
        if notice.is_err() {
            break;
        }
    }
    Ok(0)
}
