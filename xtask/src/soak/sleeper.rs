//! `yes` into readers that sleep: the source stands still, memory does not grow, and at the end every byte has come.

use super::tools::{connect, only, same, some, taken, until};
use super::{Seen, Site};
use crate::chaos::{Random, Wrong};
use crate::support::output::Chunk;
use crate::support::processes::memory_bytes;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK};
use serde_json::json;
use std::fs::File;
use std::time::Duration;

/// What the kernel may come to have for one stream and a reader that sleeps.
const MEMORY_BYTES_MAX: u64 = 48 << 20;
/// What may be on its way between `yes` and a reader: pipes, history, sockets.
const UNDERWAY_BYTES_MAX: u64 = 16 << 20;
/// How long a count must stay what it is.
const STILL: Duration = Duration::from_millis(60);
/// How often they sleep.
const NAPS: u64 = 4;
/// Pipes nobody reads, of 1 MiB each: more than an ordinary user may have pages for.
const DEAF: usize = 80;

/// Bytes of `yes` from their reader's own place.
#[derive(Default)]
pub(super) struct Eaten(pub(super) u64);

impl Eaten {
    pub(super) fn eat(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        let shall = |at: u64| if at.is_multiple_of(2) { b'y' } else { b'\n' };
        let wrong = bytes.iter().zip(self.0..).find(|(byte, at)| **byte != shall(*at));
        if let Some((byte, at)) = wrong {
            return Err(format!("{byte} at {at}"));
        }
        self.0 += bytes.len() as u64;
        Ok(())
    }
}

pub(super) fn run(site: &Site<'_>, random: &mut Random) -> Result<Seen, Wrong> {
    let mut bytes = 0;
    for (engine, options) in [("kept", json!({})), ("relayed", json!({"history": "none"}))] {
        for way in [in_a_pipe, in_frames] {
            let mut raw = connect(site.socket);
            let id = format!("{engine}{bytes}");
            let command = ["sh", "-c", "read go; exec yes"];
            raw.ok("process.spawn", json!({"id": id, "command": command, "options": options}));
            let memory = memory_bytes(site.kernel, "Pss");
            let sleeper = Sleeper { site, raw, id: &id, memory };
            bytes += way(sleeper, random).map_err(|wrong| format!("{id}: {wrong}"))?;
        }
    }
    Ok(Seen::Bytes(bytes))
}

/// One process, and somebody who watches it.
struct Sleeper<'a> {
    site: &'a Site<'a>,
    raw: Raw,
    id: &'a str,
    /// What the kernel had at the beginning.
    memory: u64,
}

impl Sleeper<'_> {
    fn go(&mut self) {
        self.raw.ok("process.stdin.write", json!({"id": self.id, "data": "go\n"}));
    }

    /// Waits until the source stands still, and looks how much the kernel has of it.
    fn sleeps(&mut self, eaten: &Eaten) -> Result<(), Wrong> {
        until("the source stands still", || {
            let before = taken(&mut self.raw, self.id);
            std::thread::sleep(STILL);
            Ok(before > eaten.0 && before == taken(&mut self.raw, self.id))
        })?;
        let ahead = taken(&mut self.raw, self.id).saturating_sub(eaten.0);
        if ahead > UNDERWAY_BYTES_MAX {
            return Err(format!("{ahead} bytes are on their way to a reader that sleeps"));
        }
        let grown = memory_bytes(self.site.kernel, "Pss").saturating_sub(self.memory);
        if grown > MEMORY_BYTES_MAX {
            return Err(format!("the kernel has grown by {} MiB", grown >> 20));
        }
        Ok(())
    }

    fn kill(&mut self) {
        self.raw.ok("process.kill", json!({"id": self.id, "signal": "KILL", "graceMs": 0}));
    }

    /// Everything that was taken has come.
    fn is_all(&mut self, eaten: &Eaten) -> Result<u64, Wrong> {
        same("the count", &eaten.0, &taken(&mut self.raw, self.id))?;
        Ok(eaten.0)
    }
}

fn in_a_pipe(mut sleeper: Sleeper<'_>, random: &mut Random) -> Result<u64, Wrong> {
    let mut open = |policy: &str| {
        let asked = json!({"id": sleeper.id, "transport": "pipe", "policy": policy, "pipeBytes": 1 << 20});
        only(sleeper.raw.open(asked).1).map(File::from)
    };
    let mut file = open("block")?;
    let deaf = (0..DEAF).map(|_| open("drop_oldest")).collect::<Result<Vec<_>, _>>()?;
    sleeper.go();
    let (mut piece, mut eaten) = (vec![0; 1 << 18], Eaten::default());
    for _ in 0..NAPS * sleeper.site.scale {
        let enough = eaten.0 + random.of_any_size(1..=4 << 20);
        while eaten.0 < enough {
            let read = some(&mut file, &mut piece)?;
            eaten.eat(&piece[..read])?;
        }
        sleeper.sleeps(&eaten)?;
    }
    sleeper.kill();
    loop {
        match some(&mut file, &mut piece)? {
            0 => break,
            read => eaten.eat(&piece[..read])?,
        }
    }
    drop(deaf);
    sleeper.is_all(&eaten)
}

fn in_frames(mut sleeper: Sleeper<'_>, random: &mut Random) -> Result<u64, Wrong> {
    let mut reader = connect(sleeper.site.socket);
    reader.subscribe(sleeper.id, json!({"stream": "stdout"}));
    sleeper.go();
    let (mut eaten, mut naps) = (Eaten::default(), NAPS * sleeper.site.scale);
    let mut enough = random.of_any_size(1..=4 << 20);
    loop {
        let frame = reader.frame().ok_or("the connection ended")?;
        if frame.kind == STREAM_CHUNK {
            let chunk = Chunk::of(&frame);
            same("the offset of a chunk", &chunk.offset, &Some(eaten.0))?;
            eaten.eat(&chunk.data)?;
        } else if frame.kind == EVENT && frame.json()["topic"] == "stream.end" {
            same("the end", &frame.json()["data"]["totalBytes"], &json!(eaten.0))?;
            return sleeper.is_all(&eaten);
        }
        if naps > 0 && eaten.0 >= enough {
            sleeper.sleeps(&eaten)?;
            naps -= 1;
            enough = eaten.0 + random.of_any_size(1..=4 << 20);
            if naps == 0 {
                sleeper.kill();
            }
        }
    }
}
