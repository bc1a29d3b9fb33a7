//! Commands that need no daemon: `serve`, `doctor`, `config check`, `completions`.

use crate::adapters::registry::Registry;
use crate::cli::args::{Cli, Completions, ConfigCheck, Serve, ShellChoice};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::table::visible;
use crate::config::environment::VARIABLES;
use crate::config::{self, Flags, policy};
use crate::doctor::{self, Standing};
use crate::kernel::daemon;
use crate::socket_guard::GuardError;
use crate::state::StateError;
use clap::CommandFactory;
use clap_complete::aot::{Shell, generate};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

pub(crate) fn serve(context: &Context, args: &Serve) -> Outcome {
    let options = daemon::Options {
        json: context.json,
        die_at: args.die_at,
        adopt_foreign_state: args.adopt_foreign_state,
        environment: context.environment.clone(),
        adapters: Registry::load(&context.config, &context.environment)?,
        policy: policy::load(&context.config)?,
    };
    let error = match daemon::serve(&context.config, &options) {
        Ok(()) => return Ok(0),
        Err(error) => error,
    };
    let error = match error.downcast::<GuardError>() {
        Ok(GuardError::State(state)) => return Err(state.into()),
        Ok(guard) => return Err(guard.into()),
        Err(error) => error,
    };
    Err(match error.downcast::<StateError>() {
        Ok(state) => state.into(),
        Err(error) => error.into(),
    })
}

pub(crate) fn doctor(context: &Context) -> Outcome {
    let findings = doctor::findings();
    if context.json {
        context.object(json!({ "facts": json_of(&findings)? }))?;
        return Ok(0);
    }
    let colour = context.colour();
    let widest = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut page = String::new();
    for finding in &findings {
        let (mark, paint) = match finding.standing {
            Standing::Holds => ("✓", "\x1b[32m"),
            Standing::Partly => ("~", "\x1b[33m"),
            Standing::Lacks => ("✗", "\x1b[31m"),
        };
        let (paint, plain) = if colour { (paint, "\x1b[0m") } else { ("", "") };
        // Writing to a String does not fail.
        let _ = writeln!(page, "{paint}{mark}{plain} {:<widest$}  {}", finding.name, visible(&finding.value));
        if let Some(advice) = &finding.advice {
            let _ = writeln!(page, "  {:<widest$}  → {}", "", visible(advice));
        }
    }
    context.text(&page)?;
    Ok(0)
}

/// Checks the file named, or the one that counts, with the environment and flags over it.
pub(crate) fn config_check(context: &Context, args: &ConfigCheck) -> Outcome {
    let config = match &args.file {
        None => context.config.clone(),
        Some(file) => {
            let flags = Flags { config: Some(file.clone()), ..Flags::default() };
            config::load(&flags, &context.environment)?
        }
    };
    // The files beside it are part of what a daemon starts with.
    let adapters = Registry::load(&config, &context.environment)?;
    policy::load(&config)?;
    let files = adapters.files().into_iter().chain(config.policy.as_deref());
    let files: Vec<&Path> = files.collect();
    if context.json {
        let variables: Vec<_> =
            VARIABLES.iter().map(|(name, use_)| json!({ "name": name, "use": use_ })).collect();
        context.object(
            json!({ "config": json_of(&config)?, "adapterFiles": adapters.files(), "variables": variables }),
        )?;
        return Ok(0);
    }
    match &config.file {
        Some(file) => context.line(&format!("{}: in order", file.display()))?,
        None => {
            let looked: Vec<_> = context
                .environment
                .config_candidates()
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            context.line(&format!("no file ({}); defaults are in force", looked.join(", ")))?;
        }
    }
    for file in files {
        context.line(&format!("{}: in order", file.display()))?;
    }
    let text = toml::to_string(&config).map_err(|error| Failure::new("E_CONFIG", error.to_string()))?;
    context.text(&text)?;
    Ok(0)
}

pub(crate) fn completions(args: &Completions) -> Outcome {
    let shell = match args.shell {
        ShellChoice::Bash => Shell::Bash,
        ShellChoice::Zsh => Shell::Zsh,
        ShellChoice::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "kairo", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(0)
}
