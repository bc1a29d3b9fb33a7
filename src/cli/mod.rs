//! The command line: what was typed, carried out.
//!
//! [`args`] says what can be typed, [`failure`] how a command ends when it can't go on, [`context`] what all commands
//! share. The rest is one file per family of commands, each a client of the daemon (or, for `run`, of an embedded
//! kernel) like any other: nothing here reaches into a kernel.

mod adapters;
mod agents;
mod approvals;
pub(crate) mod args;
mod attach;
mod audit;
mod consent;
mod consumers;
mod context;
mod describe;
mod detach;
mod escape;
mod events;
mod failure;
mod gist;
mod grants;
mod intents;
mod limit;
mod local;
mod log;
mod logs;
mod manifest;
mod member;
mod moment;
mod notice;
mod open;
mod output;
mod permit;
mod pin;
mod pipeline;
mod policy;
mod processes;
mod program;
mod progress;
mod quotas;
mod run;
mod skill;
mod stats;
mod status;
mod streams;
mod table;
mod terminal;
mod trace;
mod views;
mod violations;
mod why;

use crate::config::Flags;
use crate::config::environment::Environment;
use args::{Cli, Command, ConfigSubcommand, LogFlags};
use clap::Parser;
use clap::error::ErrorKind;
use context::{Context, Outcome, flags};
use failure::{FAILED, Failure};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// Reads the command line and carries it out.
pub(crate) fn main(words: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nobody may be reading; there is nothing else to do with the words.
            let _ = error.print();
            return ExitCode::from(if asked_for { 0 } else { FAILED });
        }
    };
    let json = cli.global.json;
    let ended = perform(&cli);
    // What is still in the buffer counts as output of the command.
    let ended = ended.and_then(|exit| std::io::stdout().flush().map(|()| exit).map_err(Failure::from));
    match ended {
        Ok(exit) => ExitCode::from(exit),
        Err(failure) => {
            if let Some(text) = failure.text(json) {
                eprintln!("{text}");
            }
            ExitCode::from(failure.exit())
        }
    }
}

fn perform(cli: &Cli) -> Outcome {
    if let Command::Completions(args) = &cli.command {
        return local::completions(args);
    }
    let context = Context::new(&cli.global, &all_flags(cli), Environment::read())?;
    match &cli.command {
        Command::Run(args) => run::run(&context, args),
        Command::Serve(args) => local::serve(&context, args),
        Command::Spawn(args) => processes::spawn(&context, args),
        Command::Attach(args) => attach::attach(&context, args),
        Command::Write(args) => streams::write(&context, args),
        Command::Open(args) => open::open(&context, args),
        Command::Logs(args) => logs::logs(&context, args),
        Command::Ps(args) => processes::ps(&context, args),
        Command::Status(args) => processes::status(&context, args),
        Command::Wait(args) => processes::wait(&context, args),
        Command::Kill(args) => processes::kill(&context, args),
        Command::Signal(args) => processes::signal(&context, args),
        Command::Limit(args) => limit::limit(&context, args),
        Command::Resize(args) => processes::resize(&context, args),
        Command::Shutdown(args) => processes::shutdown(&context, args),
        Command::Events(args) => events::events(&context, args),
        Command::Publish(args) => events::publish(&context, args),
        Command::Log(args) => log::log(&context, args),
        Command::Audit(args) => audit::audit(&context, args),
        Command::Adapters(args) => adapters::adapters(&context, args),
        Command::Trace(args) => trace::trace(&context, args),
        Command::Intent(args) => intents::intent(&context, args),
        Command::Intents(args) => intents::intents(&context, args),
        Command::Cancel(args) => intents::cancel(&context, args),
        Command::Consumers(args) => consumers::consumers(&context, args),
        Command::Consume(args) => consumers::consume(&context, args),
        Command::Views(_) => views::views(&context),
        Command::View(args) => views::view(&context, args),
        Command::Approvals(args) => approvals::approvals(&context, args),
        Command::Approve(args) => approvals::approve(&context, args),
        Command::Deny(args) => approvals::deny(&context, args),
        Command::Grants(args) => grants::grants(&context, args),
        Command::Grant(args) => grants::grant(&context, args),
        Command::Revoke(args) => grants::revoke(&context, args),
        Command::Can(args) => grants::can(&context, args),
        Command::Why(args) => why::why(&context, args),
        Command::Agents(_) => agents::agents(&context),
        Command::Agent(args) => agents::agent(&context, args),
        Command::Session(args) => agents::session(&context, args),
        Command::Policy(args) => policy::policy(&context, args),
        Command::Call(args) => describe::call(&context, args),
        Command::Introspect(args) => describe::introspect(&context, args),
        Command::Doctor(_) => local::doctor(&context),
        Command::Quotas(args) => quotas::quotas(&context, args),
        Command::Config(args) => match &args.command {
            ConfigSubcommand::Check(args) => local::config_check(&context, args),
        },
        Command::Manifest(args) => manifest::manifest(&context, args),
        Command::Completions(args) => local::completions(args),
        Command::Keeper { .. } => {
            Err(Failure::usage("the keeper is started by the kernel, not from the command line"))
        }
    }
}

/// The flags that bear on the configuration.
fn all_flags(cli: &Cli) -> Flags {
    let common = flags(&cli.global);
    match &cli.command {
        Command::Serve(args) => Flags {
            state: args.state.clone(),
            driver: args.driver.clone(),
            cores: args.cores.clone(),
            group: args.group.clone(),
            policy: args.policy.clone(),
            ..with_log(common, &args.log, None)
        },
        // A program that is run has our stderr: only what is wrong is said there.
        Command::Run(args) => Flags {
            driver: args.driver.clone(),
            cores: Some("1".to_owned()),
            ..with_log(common, &args.log, Some("warn"))
        },
        // The file that is checked is the one that counts, so a broken one elsewhere does not matter.
        Command::Config(args) => match &args.command {
            ConfigSubcommand::Check(check) => {
                Flags { config: check.file.clone().or(common.config.clone()), ..common }
            }
        },
        _ => common,
    }
}

fn with_log(flags: Flags, log: &LogFlags, level: Option<&str>) -> Flags {
    Flags {
        log_level: log.level.clone().or_else(|| level.map(str::to_owned)),
        log_format: log.format.clone(),
        log_file: log.file.clone(),
        ..flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_summary_an_example_and_json() {
        let mut root = Cli::command();
        root.build();
        let mut commands: Vec<&clap::Command> = root.get_subcommands().collect();
        while let Some(command) = commands.pop() {
            let name = command.get_name();
            if command.is_hide_set() || name == "help" {
                continue;
            }
            assert!(command.get_about().is_some(), "{name} says nothing of itself");
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("kairo "), "{name} has no example");
            assert!(
                command.get_arguments().any(|argument| argument.get_id() == "json"),
                "{name} has no --json"
            );
            commands.extend(command.get_subcommands());
        }
    }

    #[test]
    fn what_is_in_the_examples_can_be_typed() {
        let mut root = Cli::command();
        root.build();
        let mut commands: Vec<clap::Command> = root.get_subcommands().cloned().collect();
        commands.push(root);
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands().cloned());
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter_map(|line| line.trim().strip_prefix("kairo ")) {
                let words = words_of(line);
                if let Err(error) = Cli::try_parse_from(std::iter::once("kairo".to_owned()).chain(words)) {
                    panic!("kairo {line}: {error}");
                }
            }
        }
    }

    /// A shell's idea of words, as far as the examples go: quotes, and the end at a pipe, a redirection or a comment.
    fn words_of(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
        for c in line.chars() {
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (Some(_), c) => word.get_or_insert_default().push(c),
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (None, '|' | '>' | '<' | '#' | '&') => break,
                (None, ' ') => words.extend(word.take()),
                (None, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn flags_of_the_run_and_of_the_program_are_told_apart() {
        let cli = Cli::try_parse_from(["kairo", "run", "--json", "--", "ls", "--json", "-la"]).unwrap();
        assert!(cli.global.json);
        let Command::Run(run) = cli.command else { panic!() };
        assert_eq!(run.program.command, ["ls", "--json", "-la"]);
        let cli = Cli::try_parse_from(["kairo", "spawn", "--id", "x", "ls", "--pty"]).unwrap();
        let Command::Spawn(spawn) = cli.command else { panic!() };
        assert!(!spawn.pty && spawn.program.command == ["ls", "--pty"]);
    }

    #[test]
    fn help_is_what_somebody_meant_it_to_be() {
        let mut text = String::new();
        let mut root = Cli::command().term_width(100);
        root.build();
        for command in root.get_subcommands_mut() {
            if !command.is_hide_set() && command.get_name() != "help" {
                text.push_str(&command.render_long_help().to_string());
                text.push_str("\n────────────────────────────────────────\n");
            }
        }
        let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
        if std::env::var_os("KAIRO_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
            std::fs::write(&golden, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap();
        assert!(
            text == expected,
            "help has changed; if that was meant: KAIRO_WRITE_GOLDEN=1 cargo test help_is"
        );
    }
}
