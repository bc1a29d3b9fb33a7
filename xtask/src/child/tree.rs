//! A leader that leaves daemons behind: forked twice, each in a session of its own, they write on into the stdout
//! they were given until they are done.
//!
//! ```text
//! tree ──▶ half (setsid, ends) ──▶ flood --tag n      one line for each daemon
//!  └─▶ records with tag 0, then ends
//! ```

use super::Life;
use super::flood::Flood;
use clap::Args;
use std::io;
use std::process::{Command, Stdio};

/// Starts daemons that write on when it is gone.
#[derive(Clone, Debug, Args)]
pub struct Tree {
    #[command(flatten)]
    pub(super) life: Life,
    /// How many daemons.
    #[arg(long)]
    daemons: u8,
    /// Bytes each writes, the leader included.
    #[arg(long)]
    bytes: u64,
    /// Between two writes of a daemon, microseconds.
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
}

/// Leaves its session and starts one writer: the middle of a double fork.
#[derive(Clone, Debug, Args)]
pub struct Half {
    #[arg(long)]
    tag: u8,
    #[arg(long)]
    bytes: u64,
    #[arg(long)]
    pause_us: u64,
}

/// Writes of a daemon and its leader are short enough to be whole (pipe(7), PIPE_BUF).
const WRITE_BYTES: u64 = 2048;

impl Tree {
    pub(super) fn play(self) -> io::Result<()> {
        let mut halves = Vec::new();
        for tag in 1..=self.daemons {
            let half = ["half", "--tag", &tag.to_string()].map(str::to_owned);
            halves.push(own(&[&half[..], &figures(self.bytes, self.pause_us)].concat())?.spawn()?);
        }
        for half in &mut halves {
            half.wait()?;
        }
        Flood::of_records(0, self.bytes, WRITE_BYTES as usize).play()
    }
}

impl Half {
    pub(super) fn play(self) -> io::Result<()> {
        nix::unistd::setsid()?;
        let tag = self.tag.to_string();
        let flood = ["flood", "--tag", &tag, "--write-bytes", &WRITE_BYTES.to_string()].map(str::to_owned);
        own(&[&flood[..], &figures(self.bytes, self.pause_us)].concat())?.spawn().map(drop)
    }
}

fn figures(bytes: u64, pause_us: u64) -> Vec<String> {
    ["--bytes".to_owned(), bytes.to_string(), "--pause-us".to_owned(), pause_us.to_string()].into()
}

/// This program in a role, with our stdout and stderr.
fn own(arguments: &[String]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("child").args(arguments).stdin(Stdio::null());
    Ok(command)
}
