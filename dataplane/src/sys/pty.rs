//! Pseudo-terminals: a master for us, a terminal for a child, sane and of the right size before anybody runs.
//!
//! The master is non-blocking, the terminal is not (they are separate open files). Reading, resizing and hanging
//! up belong to the drivers; making it the child's controlling terminal belongs to the forker.

use super::platform::process as platform;
use crate::command::TerminalSize;
use rustix::termios::{InputModes, OptionalActions, Winsize};
use std::io;
use std::os::fd::OwnedFd;

/// Both ends.
#[derive(Debug)]
pub struct Pty {
    /// Ours: non-blocking, close-on-exec.
    pub master: OwnedFd,
    /// The child's: close-on-exec.
    pub terminal: OwnedFd,
}

/// Opens a pair of this size, with the line discipline's defaults and UTF-8 erase; `owner` may open the terminal
/// by name, as programs that ask for a password do.
pub fn open(size: TerminalSize, owner: Option<u32>) -> io::Result<Pty> {
    let master = platform::open_master()?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let terminal = platform::open_terminal(&master)?;
    let mut modes = rustix::termios::tcgetattr(&terminal)?;
    modes.input_modes |= InputModes::IUTF8;
    rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    let winsize = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&terminal, winsize)?;
    if let Some(uid) = owner {
        rustix::fs::fchown(&terminal, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    super::pipe::set_nonblocking(&master)?;
    Ok(Pty { master, terminal })
}
