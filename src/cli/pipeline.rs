//! Pipelines on the command line: `kairo run -- a '|' b`, `--pipeline FILE`, and what else takes a pipeline's id.
//!
//! A word that is exactly `|` ends a stage; it has to be quoted, or the shell makes a pipeline of its own. A file says the same
//! in TOML, with options for each stage (docs/PIPELINES.md). Under `kairo run` the first stage reads our stdin, the last one's
//! stdout is ours, and all complain where we do. Invariant: what a flag says holds for every stage, or is refused.

use crate::cli::args::process::{Program, Run, RunStdin, Spawn, SpawnStdin};
use crate::cli::consent::Asker;
use crate::cli::context::{Context, Outcome, accompanied, json_of, process_id, versioned};
use crate::cli::failure::{Failure, exit_of};
use crate::cli::member::Member;
use crate::cli::permit::Permit;
use crate::cli::program::{self, RestartChoice};
use crate::cli::progress::Output;
use crate::cli::run::{FORWARDED, forward};
use crate::cli::skill::Skill;
use crate::cli::stats;
use crate::cli::table::{bytes, duration, visible};
use crate::cli::violations::Violations;
use crate::config::policy;
use crate::kernel::embedded::Embedded;
use crate::logging;
use kairo_client::{CallOptions, Client, ConnectOptions};
use kairo_wire::codec::raw::Raw;
use kairo_wire::codec::text::OsText;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::{StderrOption, StdinOption};
use kairo_wire::methods::pipeline::{
    self, EdgeStderr, FlowStatus, Neighbour, PipelineEdge, PipelineKillParams, PipelineSpawnParams,
    PipelineSpawnResult, PipelineStage, PipelineStatus, PipelineTargetParams, PipelineWaitParams,
    PipelineWaitResult,
};
use kairo_wire::methods::stream::StreamName;
use serde_json::{Value as Json, json};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// What ends a stage.
const BAR: &str = "|";

/// True exactly when several programs are meant.
pub(crate) fn is_meant(program: &Program) -> bool {
    program.pipeline.is_some() || program.command.iter().any(|word| word == BAR)
}

/// What was asked for, in the words of the wire.
fn params(program: &Program, id: Option<&str>) -> Result<PipelineSpawnParams, Failure> {
    if let Some(path) = &program.pipeline {
        return from_file(path, id);
    }
    let options = program::options(program)?;
    let mut stages = Vec::new();
    for words in program.command.split(|word| word == BAR) {
        if words.is_empty() {
            return Err(Failure::usage("there is no program before or behind a '|'"));
        }
        let command = words.iter().cloned().map(text).collect::<Result<Vec<OsText>, Failure>>()?;
        stages.push(PipelineStage { id: None, command, options: Some(Box::new(options.clone())) });
    }
    // How fast the whole may write is how fast its end may.
    let last = stages.len() - 1;
    for stage in &mut stages[..last] {
        stage.options.get_or_insert_default().rate = None;
    }
    let id = process_id(id.unwrap_or("pipeline"))?;
    Ok(PipelineSpawnParams { id, edges: vec![PipelineEdge::default(); stages.len() - 1], stages })
}

fn text(word: OsString) -> Result<OsText, Failure> {
    OsText::new(word.into_vec()).ok_or_else(|| Failure::usage("the command holds a NUL byte"))
}

/// The TOML form, as it is typed.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<Json>,
    #[serde(default)]
    stage: Vec<serde_json::Map<String, Json>>,
}

fn from_file(path: &Path, id: Option<&str>) -> Result<PipelineSpawnParams, Failure> {
    let failed = |why: String| Failure::new("E_PIPELINE", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    read(&text, id).map_err(failed)
}

fn read(text: &str, id: Option<&str>) -> Result<PipelineSpawnParams, String> {
    let mut file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let (mut stages, mut edges) = (Vec::new(), Vec::new());
    let last = file.stage.len().saturating_sub(1);
    for (index, mut stage) in file.stage.drain(..).enumerate() {
        match stage.remove("edge") {
            Some(_) if index == last => {
                return Err("the last stage has no edge: nothing is behind it".to_owned());
            }
            Some(edge) => edges.push(edge),
            None if index < last => edges.push(json!({})),
            None => {}
        }
        stages.push(Json::Object(stage));
    }
    let id = id.map(Json::from).or(file.id).unwrap_or_else(|| "pipeline".into());
    // By way of the wire's form, so that what is wrong is named as the kernel would.
    let raw =
        Raw::of(&json!({ "id": id, "stages": stages, "edges": edges })).map_err(|error| error.to_string())?;
    raw.decode::<PipelineSpawnParams>().map_err(|error| error.to_string())
}

/// `kairo run` of several programs.
pub(crate) fn run(context: &Context, args: &Run) -> Outcome {
    let program = &args.program;
    refuse(&[(args.pty, "--pty", PIPES)])?;
    suits(program)?;
    let mut params = params(program, None)?;
    surround(&mut params, args)?;
    let skill = if program.manifest.is_some() { skill(program, &mut params)? } else { None };
    let contains = params.stages.iter().any(|stage| {
        stage.options.as_ref().is_some_and(|options| options.sandbox.is_some() || options.skill.is_some())
    });
    let policy = policy::load(&context.config)?;
    let (kernel, connection) = Embedded::start(&context.config, None, policy, contains)?;
    let _logging =
        logging::begin(&context.config.log).map_err(|error| Failure::new("E_LOG", error.to_string()))?;
    let client = Client::over(connection, &ConnectOptions::default())?;
    let permit = skill.as_ref().map(|skill| Permit::obtain(context, skill, &client)).transpose();
    let outcome = permit.and_then(|permit| supervise(context, args, &client, (params, permit.flatten())));
    drop(client);
    kernel.end()?;
    outcome
}

/// Our own folder, environment, stdin and stderr for all of them.
fn surround(params: &mut PipelineSpawnParams, args: &Run) -> Result<(), Failure> {
    let here = OsText::new(std::env::current_dir()?.into_os_string().into_vec());
    for (index, stage) in params.stages.iter_mut().enumerate() {
        let options = stage.options.get_or_insert_default();
        options.inherit_env = true;
        if options.cwd.is_none() {
            options.cwd.clone_from(&here);
        }
        if index == 0 && options.stdin == StdinOption::Pipe {
            options.stdin = match args.stdin {
                RunStdin::Inherit => StdinOption::Inherit,
                RunStdin::Null => StdinOption::Null,
            };
        }
        let merged = params.edges.get(index).is_some_and(|edge| edge.stderr == EdgeStderr::Merged);
        if options.stderr == StderrOption::Pipe && !merged {
            options.stderr = StderrOption::Inherit;
        }
    }
    Ok(())
}

/// A stage has no terminal.
const PIPES: &str = "programs that are joined have pipes";

/// What can't be had of several programs, and why.
fn refuse(flags: &[(bool, &str, &str)]) -> Result<(), Failure> {
    match flags.iter().find(|(given, ..)| *given) {
        Some((_, flag, why)) => Err(Failure::usage(format!("{flag} is for one program: {why}"))
            .advise("name it in the options of a stage, in a file for --pipeline, if it can be had there")),
        None => Ok(()),
    }
}

fn suits(program: &Program) -> Result<(), Failure> {
    refuse(&[
        (program.adapter.is_some(), "--adapter", "an adapter reads what one program says of how far it is"),
        (program.program_digest.is_some(), "--program-digest", "each stage has a digest of its own"),
    ])
}

/// Has every stage start as the skill of the manifest, contained by what that lists.
fn skill(program: &Program, params: &mut PipelineSpawnParams) -> Result<Option<Skill>, Failure> {
    let first = |stage: &PipelineStage| OsString::from_vec(stage.command[0].as_bytes().to_vec());
    let names: Vec<OsString> = params.stages.iter().map(first).collect();
    let Some(skill) = Skill::of_all(program, &names)? else { return Ok(None) };
    for (index, stage) in params.stages.iter_mut().enumerate() {
        skill.enter(index, stage.options.get_or_insert_default(), &mut stage.command);
    }
    Ok(Some(skill))
}

/// What was started, as it is typed.
fn words(params: &PipelineSpawnParams) -> Vec<OsString> {
    let stages = params.stages.iter().map(|stage| {
        let words = stage.command.iter().map(|word| OsString::from_vec(word.as_bytes().to_vec()));
        words.collect::<Vec<_>>()
    });
    stages.collect::<Vec<_>>().join(&OsString::from(BAR))
}

fn supervise(
    context: &Context,
    args: &Run,
    client: &Client,
    (mut params, permit): (PipelineSpawnParams, Option<Permit>),
) -> Outcome {
    // Before the spawn: what is asked of us from here on is asked of the programs.
    let signals = Signals::new(FORWARDED)?;
    let Some(last) = params.stages.last_mut() else {
        return Err(Failure::usage("a pipeline has at least one stage"));
    };
    // Our stdout is the one reader: paced there, what is left at the program's exit keeps the rate as well.
    let rate = last.options.as_mut().and_then(|options| options.rate.take());
    let name = last.id.get_or_insert(process_id("run")?).clone();
    let output = Output::to(client, &name, StreamName::Stdout, rate, None)?;
    let id = params.id.clone();
    let mut member = Member::of(context, args, &words(&params))?;
    let correlation_id =
        member.as_ref().map(|member| &member.correlation).or(args.correlation.as_ref()).cloned();
    let call = CallOptions { correlation_id, ..CallOptions::default() };
    let watched = params.stages.iter().any(|stage| stage.options.as_ref().is_some_and(|one| one.watch));
    let ids = stage_ids(&params)?;
    let violations = watched.then(|| Violations::begin(context, client, &ids)).transpose()?;
    let spawned = client.call_with::<pipeline::Spawn>(&params, &call)?;
    if args.program.receipt {
        io::stderr().lock().write_all(receipts(&spawned)?.as_bytes())?;
    }
    let end = |grace_ms| PipelineKillParams { id: id.clone(), signal: None, grace_ms };
    if let Some(permit) = permit {
        let (kernel, end) = (client.clone(), end(None));
        // It may have ended by itself.
        permit.stand_for(move || drop(kernel.call::<pipeline::Kill>(&end)))?;
    }
    if let Some(member) = &mut member {
        let (kernel, end) = (client.clone(), end(None));
        member.stand_for(move |grace_ms| {
            let kill = PipelineKillParams { grace_ms: Some(grace_ms), ..end.clone() };
            kernel.call::<pipeline::Kill>(&kill).is_ok()
        })?;
    }
    forward(client.clone(), ids.clone(), signals, false)?;
    let ended = wait(client, &id, None)?;
    output.drain()?;
    if let Some(violations) = violations.filter(|_| ended.exit_code != 0) {
        violations.drain();
    }
    member.map_or(Ok(()), |member| member.over(json!({ "code": ended.exit_code })))?;
    if context.json {
        let status = client.call::<pipeline::Status>(&PipelineTargetParams { id })?;
        let mut report = json_of(&ended)?;
        report["edges"] = json_of(&status.edges)?;
        report["stages"] = json_of(&status.stages)?;
        if args.stats {
            let stats = ids.iter().map(|id| stats::object(client, id)).collect::<Result<Vec<_>, _>>()?;
            report["stats"] = json!(stats);
        }
        writeln!(io::stderr().lock(), "{}", versioned(report))?;
    } else if args.stats {
        stats::print(context, client, &ids)?;
    }
    Ok(exit_code(&ended))
}

/// What the stages will be called.
fn stage_ids(params: &PipelineSpawnParams) -> Result<Vec<ProcessId>, Failure> {
    let stages = params.stages.iter().enumerate();
    let id = |(index, stage): (usize, &PipelineStage)| match &stage.id {
        Some(id) => Ok(id.clone()),
        None => process_id(&format!("{}.{index}", params.id)),
    };
    stages.map(id).collect()
}

/// The receipts of all stages that have one, for people.
fn receipts(spawned: &PipelineSpawnResult) -> Result<String, Failure> {
    let mut text = String::new();
    for stage in &spawned.stages {
        if let Some(receipt) = &stage.sandbox {
            // Writing to a String does not fail.
            let _ = write!(text, "{}:\n{}", visible(&stage.id.to_string()), program::receipt(receipt)?);
        }
    }
    Ok(text)
}

fn wait(client: &Client, id: &ProcessId, timeout_ms: Option<u64>) -> Result<PipelineWaitResult, Failure> {
    Ok(client.call::<pipeline::Wait>(&PipelineWaitParams { id: id.clone(), timeout_ms })?)
}

/// The exit code of a pipeline that was waited for.
pub(crate) fn exit_code(ended: &PipelineWaitResult) -> u8 {
    exit_of(Some(ended.exit_code), None)
}

/// `kairo spawn` of several programs.
pub(crate) fn spawn(context: &Context, args: &Spawn, id: &str) -> Outcome {
    let own = "what is kept of a stage's output is named with the stage";
    refuse(&[
        (args.pty, "--pty", PIPES),
        (args.spool.is_some(), "--spool", own),
        (args.block_unread, "--block-unread", own),
        (args.durable.is_some(), "--durable", "stages are answered for together"),
        (
            args.restart != RestartChoice::Never,
            "--restart",
            "another life could not be joined to its neighbours",
        ),
    ])?;
    suits(&args.program)?;
    let named = args.id.is_some() || args.program.pipeline.is_none();
    let mut params = params(&args.program, named.then_some(id))?;
    let manifest = args.program.manifest.is_some();
    let skill = if manifest { skill(&args.program, &mut params)? } else { None };
    if args.program.pipeline.is_none() {
        let last = params.stages.len() - 1;
        for (index, stage) in params.stages.iter_mut().enumerate() {
            let options = stage.options.get_or_insert_default();
            if index == 0 && args.stdin == SpawnStdin::Null {
                options.stdin = StdinOption::Null;
            }
            if args.merge_stderr && index == last {
                options.stderr = StderrOption::Stdout;
            }
            options.agent_session.clone_from(&args.agent_session);
        }
        let stderr = if args.merge_stderr { EdgeStderr::Merged } else { EdgeStderr::Apart };
        params.edges.fill(PipelineEdge { tap: args.tap, stderr });
    }
    // Somebody may take their time to decide.
    let client = if manifest { context.lasting(false)? } else { context.client()? };
    if let Some(skill) = &skill {
        Asker::of_daemon(context, skill, &client).settle()?;
    }
    let spawned = client.call_with::<pipeline::Spawn>(&params, &accompanied(&args.story))?;
    if context.json {
        context.object(json_of(&spawned)?)?;
        return Ok(0);
    }
    context.line(&spawned.id.to_string())?;
    if args.program.receipt {
        context.text(&receipts(&spawned)?)?;
    }
    Ok(0)
}

/// The page of a pipeline, for `kairo status`.
pub(crate) fn describe(status: &PipelineStatus, now_ms: u64) -> String {
    let mut page = String::new();
    let mut row = |name: &str, fact: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(page, "{name:<10}{}", visible(fact));
    };
    row("pipeline", &status.id.to_string());
    row("state", status.state.word());
    row("started", &format!("{} ago", duration(now_ms.saturating_sub(status.started_at_ms))));
    for (index, stage) in status.stages.iter().enumerate() {
        let mut text = stage.id.to_string();
        if let Some(pid) = stage.pid {
            let _ = write!(text, ", pid {pid}");
        }
        let _ = write!(text, ", in {}, out {}", flow(&stage.input), flow(&stage.output));
        match stage.waits_for {
            Some(Neighbour::Previous) => text.push_str(", waits for the one before it"),
            Some(Neighbour::Next) => text.push_str(", waits for the one behind it"),
            None => {}
        }
        if let Some(exit) = &stage.exit {
            let _ = match (exit.signal_name.as_deref(), exit.code) {
                (Some(signal), _) => write!(text, ", ended by {signal}"),
                (None, Some(code)) => write!(text, ", exited {code}"),
                (None, None) => Ok(()),
            };
        }
        row(&format!("stage {index}"), &text);
        if let Some(edge) = status.edges.get(index).filter(|edge| edge.tap) {
            row("tap", &format!("{} held", bytes(edge.held_bytes.unwrap_or(0))));
        }
    }
    if let Some(code) = status.exit_code {
        row("exit", &code.to_string());
    }
    page
}

fn flow(flow: &FlowStatus) -> String {
    let Some(total) = flow.bytes else { return "?".to_owned() };
    let about = if flow.approximate { "about " } else { "" };
    match flow.bytes_per_second {
        Some(rate) if rate > 0 => format!("{about}{} ({}/s)", bytes(total), bytes(rate)),
        Some(_) | None => format!("{about}{}", bytes(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_one() {
        let params = read(include_str!("../../examples/pipelines/film.toml"), None).unwrap();
        assert_eq!((params.stages.len(), params.edges.len(), params.edges[0].tap), (3, 2, true));
    }

    #[test]
    fn a_file_says_what_the_wire_says() {
        let text = r#"
            id = "film"
            [[stage]]
            command = ["ffmpeg", "-i", "in.mp4", "-"]
            options = { cwd = "/srv", limits = { memory = 512 } }
            edge = { tap = true, stderr = "merged" }
            [[stage]]
            id = "filter"
            command = ["filter"]
            [[stage]]
            command = ["sha256sum"]
        "#;
        let params = read(text, None).unwrap();
        assert_eq!(params.id, ProcessId::Text("film".into()));
        assert_eq!(params.edges.len(), 2);
        assert_eq!(params.edges[0], PipelineEdge { tap: true, stderr: EdgeStderr::Merged });
        assert_eq!(params.edges[1], PipelineEdge::default());
        assert_eq!(params.stages[1].id, Some(ProcessId::Text("filter".into())));
        let options = params.stages[0].options.as_ref().unwrap();
        assert_eq!(options.limits.as_ref().unwrap().memory, Some(512));
        assert_eq!(read(text, Some("other")).unwrap().id, ProcessId::Text("other".into()));
        for wrong in [
            "stages = []",
            "[[stage]]\ncommand = [\"a\"]\nedge = {}",
            "[[stage]]\ncommand = [\"a\"]\ncolour = 1",
        ] {
            assert!(read(wrong, None).is_err(), "{wrong}");
        }
    }
}
