//! Writers. A sequence, in which every offset has one right byte, for pipes; records, which name themselves, for
//! where several write into one stream or where a gap may be.
//!
//! ```text
//! record: "KRec" tag:u8 number:u64 filler (a function of tag and number) '\n'      64 bytes, written whole
//! ```
//!
//! A writer that may be killed keeps a witness: a file with how many bytes it has written for certain, and how many
//! it has at most. Both are noted around each write, so the file is right whenever the writer dies.

use super::{Life, make_raw, pause, stdout};
use crate::support::pattern;
use clap::Args;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes of a record; a write of up to 4 KiB of them to a pipe is whole (pipe(7), PIPE_BUF).
pub(crate) const RECORD_BYTES: usize = 64;
const MAGIC: &[u8; 4] = b"KRec";

/// Writes a checkable sequence.
#[derive(Clone, Debug, Args)]
pub struct Flood {
    #[command(flatten)]
    pub(super) life: Life,
    /// How many bytes, in all.
    #[arg(long)]
    bytes: u64,
    /// Of one write.
    #[arg(long, default_value_t = 65536)]
    write_bytes: usize,
    /// Between two writes, microseconds.
    #[arg(long, default_value_t = 0)]
    pause_us: u64,
    /// As many bytes to stderr as well, a sequence of its own.
    #[arg(long)]
    both: bool,
    /// Records with this tag instead of the sequence.
    #[arg(long)]
    tag: Option<u8>,
    /// Begin once stdin has ended.
    #[arg(long)]
    gate: bool,
    /// Note here how far it is.
    #[arg(long)]
    witness: Option<PathBuf>,
}

impl Flood {
    /// A writer of records within a process that is something else as well.
    pub(super) fn of_records(tag: u8, bytes: u64, write_bytes: usize) -> Flood {
        let life = Life::default();
        Flood {
            life,
            bytes,
            write_bytes,
            pause_us: 0,
            both: false,
            tag: Some(tag),
            gate: false,
            witness: None,
        }
    }

    pub(super) fn play(self) -> io::Result<()> {
        make_raw()?;
        if self.gate {
            io::copy(&mut io::stdin(), &mut io::sink())?;
        }
        let mut out = stdout()?;
        let mut second =
            if self.both { Some(File::from(io::stderr().as_fd().try_clone_to_owned()?)) } else { None };
        let witness = self.witness.as_ref().map(File::create).transpose()?;
        let mut at = 0;
        while at < self.bytes {
            let length = (self.write_bytes as u64).min(self.bytes - at) as usize;
            let piece = match self.tag {
                Some(tag) => records(tag, at, length),
                None => pattern::bytes(at, length),
            };
            note(witness.as_ref(), 8, at + piece.len() as u64)?;
            out.write_all(&piece)?;
            if let Some(second) = &mut second {
                second.write_all(&piece)?;
            }
            at += piece.len() as u64;
            note(witness.as_ref(), 0, at)?;
            pause(self.pause_us);
        }
        Ok(())
    }
}

fn note(witness: Option<&File>, place: u64, bytes: u64) -> io::Result<()> {
    witness.map_or(Ok(()), |file| file.write_all_at(&bytes.to_be_bytes(), place))
}

/// Whole records, at least one, of at most about this length.
fn records(tag: u8, at: u64, length: usize) -> Vec<u8> {
    let first = at / RECORD_BYTES as u64;
    let count = (length / RECORD_BYTES).max(1) as u64;
    (first..first + count).flat_map(|number| record(tag, number)).collect()
}

/// The record of this tag and number.
pub(crate) fn record(tag: u8, number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = tag;
    bytes[5..13].copy_from_slice(&number.to_be_bytes());
    // Hexadecimal, so that neither a line's end nor the magic is in it; the number may hold one, see `parse_record`.
    let mut word = (number ^ u64::from(tag) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in &mut bytes[13..RECORD_BYTES - 1] {
        *byte = b"0123456789abcdef"[(word >> 60) as usize];
        word = word.rotate_left(4) ^ 0x5bd1;
    }
    bytes[RECORD_BYTES - 1] = b'\n';
    bytes
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordError;

/// Tag and number of a record; every other of its bytes follows from them.
pub(crate) fn parse_record(bytes: &[u8]) -> Result<(u8, u64), RecordError> {
    let whole: &[u8; RECORD_BYTES] = bytes.try_into().map_err(|_| RecordError)?;
    let number = whole[5..13].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if record(whole[4], number) == *whole { Ok((whole[4], number)) } else { Err(RecordError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_itself_and_no_other() {
        let mut bytes = record(3, 77);
        assert_eq!(parse_record(&bytes), Ok((3, 77)));
        for at in 0..RECORD_BYTES {
            bytes[at] ^= 1;
            assert_eq!(parse_record(&bytes), Err(RecordError), "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(parse_record(&bytes[1..]), Err(RecordError));
    }
}
