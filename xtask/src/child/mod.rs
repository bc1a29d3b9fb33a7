//! The children of a round: each writes what can be checked, or answers what it is told.
//!
//! They are this program in a role (`xtask child flood …`), because a round starts dozens and must be short. A child
//! that finds something wrong itself (its stdin out of order, its stdout gone) says so by its exit code, which the
//! round compares with the one it asked for.
//!
//! Not here: who checks what they write (`chaos::check`).

mod flood;
mod talk;
mod tree;

use clap::{Args, FromArgMatches, Subcommand};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

#[cfg(test)]
pub(crate) use flood::record;
pub(crate) use flood::{RECORD_BYTES, parse_record};
pub(crate) use talk::{answer_to, question};

/// Its stdout or stdin was gone or wrong in itself.
pub(crate) const EXIT_IO: u8 = 90;
/// What it read is not what was to be written.
pub(crate) const EXIT_STDIN: u8 = 91;

/// Which child to be.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Writes a checkable sequence.
    Flood(flood::Flood),
    /// Writes back what it reads, and checks it.
    Echo(talk::Echo),
    /// Answers questions, one a line.
    Repl(talk::Repl),
    /// Starts daemons that write on when it is gone.
    Tree(tree::Tree),
    /// Leaves its session and starts one writer: the middle of a double fork.
    Half(tree::Half),
    /// Waits and ends.
    Sleepy(Sleepy),
}

/// How a child begins and ends.
#[derive(Clone, Debug, Default, Args)]
pub struct Life {
    /// Append a line here when it begins: more than one line is a child started twice.
    #[arg(long)]
    birth: Option<PathBuf>,
    /// What it returns.
    #[arg(long, default_value_t = 0)]
    exit: u8,
    /// The signal it ends itself with, instead.
    #[arg(long)]
    die: Option<i32>,
}

/// Waits and ends.
#[derive(Clone, Debug, Args)]
pub struct Sleepy {
    #[command(flatten)]
    life: Life,
    /// How long, milliseconds.
    #[arg(long)]
    ms: u64,
    /// Don't end by SIGTERM.
    #[arg(long)]
    stubborn: bool,
    /// Return 1 unless this is at least its so manieth birth.
    #[arg(long, default_value_t = 1)]
    lives: usize,
}

/// Plays the role these words name: `child flood …`.
#[must_use]
pub fn main(words: &[String]) -> ExitCode {
    let command = Role::augment_subcommands(clap::Command::new("child"));
    let role = command.try_get_matches_from(words).and_then(|matches| Role::from_arg_matches(&matches));
    match role {
        Ok(role) => play(role),
        Err(error) => complain("its flags are wrong", &io::Error::other(error)),
    }
}

/// Plays a role to its end.
#[must_use]
pub fn play(role: Role) -> ExitCode {
    let life = match &role {
        Role::Flood(flood) => flood.life.clone(),
        Role::Echo(echo) => echo.life.clone(),
        Role::Repl(repl) => repl.life.clone(),
        Role::Tree(tree) => tree.life.clone(),
        Role::Half(_) => Life::default(),
        Role::Sleepy(sleepy) => sleepy.life.clone(),
    };
    if let Err(error) = life.begin() {
        return complain("its birth could not be noted", &error);
    }
    let played = match role {
        Role::Flood(flood) => flood.play(),
        Role::Echo(echo) => echo.play(),
        Role::Repl(repl) => repl.play(),
        Role::Tree(tree) => tree.play(),
        Role::Half(half) => half.play(),
        Role::Sleepy(sleepy) => sleepy.play(),
    };
    match played {
        Ok(()) => life.end(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            eprintln!("{error}");
            ExitCode::from(EXIT_STDIN)
        }
        Err(error) => complain("its input or output failed", &error),
    }
}

fn complain(what: &str, error: &io::Error) -> ExitCode {
    // Its stderr may be what failed.
    let _ = writeln!(io::stderr(), "{what}: {error}");
    ExitCode::from(EXIT_IO)
}

impl Life {
    fn begin(&self) -> io::Result<()> {
        let Some(path) = &self.birth else { return Ok(()) };
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }

    fn births(&self) -> io::Result<usize> {
        self.birth.as_ref().map_or(Ok(1), |path| Ok(std::fs::read_to_string(path)?.lines().count()))
    }

    fn end(&self) -> ExitCode {
        if let Some(signal) = self.die.and_then(|number| Signal::try_from(number).ok()) {
            // One that is ignored leaves the exit code, which the round will not take for the signal.
            let _ = raise(signal);
        }
        ExitCode::from(self.exit)
    }
}

impl Sleepy {
    fn play(self) -> io::Result<()> {
        if self.stubborn {
            // A handler that only notes it: the signal no longer ends us.
            signal_hook::flag::register(Signal::SIGTERM as i32, Arc::new(AtomicBool::new(false)))?;
            // Whoever sends the signal waits for this line, or the handler would come too late.
            io::stdout().write_all(b"stubborn\n")?;
            io::stdout().flush()?;
        }
        pause(self.ms * 1000);
        if self.life.births()? < self.lives {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Stdout without a buffer.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Stdin without a buffer.
fn stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// A terminal that changes nothing, if this is one.
fn make_raw() -> io::Result<()> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        let mut attributes = tcgetattr(stdout.as_fd())?;
        cfmakeraw(&mut attributes);
        tcsetattr(stdout.as_fd(), SetArg::TCSANOW, &attributes)?;
    }
    Ok(())
}

fn pause(us: u64) {
    if us > 0 {
        std::thread::sleep(Duration::from_micros(us));
    }
}
