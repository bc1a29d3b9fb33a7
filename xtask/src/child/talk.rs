//! Children that are talked to. Both check what they read, so that a byte lost, doubled or out of order on its way
//! in is found where it arrives.

use super::{Life, make_raw, pause, stdin, stdout};
use crate::support::pattern;
use clap::Args;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Writes back what it reads, and checks it.
#[derive(Clone, Debug, Args)]
pub struct Echo {
    #[command(flatten)]
    pub(super) life: Life,
    /// How many bytes it takes at a time.
    #[arg(long, default_value_t = 65536)]
    read_bytes: usize,
    /// Between two reads, microseconds.
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
}

impl Echo {
    pub(super) fn play(self) -> io::Result<()> {
        let (mut from, mut to) = (stdin()?, stdout()?);
        let mut buffer = vec![0; self.read_bytes];
        let mut at = 0;
        loop {
            let got = from.read(&mut buffer)?;
            if got == 0 {
                return Ok(());
            }
            if let Some(wrong) = pattern::wrong_at(&buffer[..got], at) {
                return Err(wrong_input(format!("byte {wrong} of stdin is wrong")));
            }
            to.write_all(&buffer[..got])?;
            at += got as u64;
            pause(self.pause_us);
        }
    }
}

/// Answers questions, one a line.
#[derive(Clone, Debug, Args)]
pub struct Repl {
    #[command(flatten)]
    pub(super) life: Life,
    /// Leave the terminal as it is: it echoes, and edits lines.
    #[arg(long)]
    cooked: bool,
    /// How many questions there will be.
    #[arg(long)]
    questions: u64,
}

impl Repl {
    pub(super) fn play(self) -> io::Result<()> {
        if !self.cooked {
            make_raw()?;
        }
        let mut to = stdout()?;
        // Questions that come before the terminal is as it should be would be echoed: this line is waited for.
        to.write_all(b"ready\r\n")?;
        let mut lines = BufReader::new(stdin()?).lines();
        for number in 0..self.questions {
            let line = lines.next().unwrap_or_else(|| Err(wrong_input("stdin ended early".to_owned())))?;
            if line != question(number) {
                return Err(wrong_input(format!("not question {number} but {line:?} was read")));
            }
            to.write_all(answer_to(number).as_bytes())?;
            to.write_all(b"\r\n")?;
        }
        Ok(())
    }
}

/// What a child is asked, without its line's end.
pub(crate) fn question(number: u64) -> String {
    format!("? {number}")
}

/// What it says, without its line's end.
pub(crate) fn answer_to(number: u64) -> String {
    format!("= {number} {:016x}", number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn wrong_input(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
