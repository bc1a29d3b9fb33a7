//! `cargo xtask`: the workshop's own command line.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::chaos::Options;
use xtask::child::Role;

/// What the workshop does to the kernel that no user would.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Chaos(Options),
    Soak(xtask::soak::Options),
    /// What the rounds of chaos start; not for people.
    #[command(hide = true)]
    Child {
        #[command(subcommand)]
        role: Role,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Chaos(options) => xtask::chaos::main(&options),
        Command::Soak(options) => xtask::soak::main(&options),
        Command::Child { role } => xtask::child::play(role),
    }
}
