//! Raw video from ffmpeg, at once into an encoder, a hash, the disk, readers that come and go, and readers that have stopped.
//!
//! What is encoded again has every frame as it was; hashes are those of the same video where no kernel is; who has stopped
//! holds nobody up, and what it missed is told. Once with a history that is spooled, and once relayed.

use super::guests::{By, Guest};
use super::tools::{all, connect, ended, equal, filtered, has, joined, only, output, reading, same, sum_of};
use super::{Seen, Site};
use crate::chaos::{Random, Wrong};
use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

const SIZE: &str = "320x180";
const FRAME_BYTES: usize = 320 * 180 * 3 / 2;
const FRAMES: u64 = 150;
const GUESTS: usize = 6;
/// Reads raw video and writes it losslessly compressed.
pub(super) const ENCODER: [&str; 18] = [
    "ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", SIZE, "-r", "30", "-i", "-",
    "-c:v", "ffv1", "-f", "matroska", "-",
];
/// The way back.
const DECODER: [&str; 10] =
    ["ffmpeg", "-v", "error", "-i", "-", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"];

/// The video, as it is where no kernel is.
pub(super) struct Video {
    words: Vec<String>,
    pub(super) bytes: Vec<u8>,
    pub(super) sum: String,
}

impl Video {
    fn shot(frames: u64) -> Result<Video, Wrong> {
        let source = format!("testsrc2=size={SIZE}:rate=30");
        let frames = frames.to_string();
        let words = ["ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", &source, "-frames:v", &frames];
        let words = [&words[..], &["-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]].concat();
        let bytes = output(&words, Stdio::null())?;
        let sum = sum_of(&bytes)?;
        Ok(Video { words: words.into_iter().map(str::to_owned).collect(), bytes, sum })
    }

    /// One as long as scenes are.
    pub(super) fn shot_for(scale: u64) -> Result<Video, Wrong> {
        Video::shot(FRAMES * scale)
    }

    /// Starts it, as a process that waits for a word.
    pub(super) fn spawn(&self, raw: &mut Raw, options: &Json) {
        let waiting = ["sh", "-c", "read go; exec \"$@\"", "sh"].map(str::to_owned);
        let command = [&waiting[..], &self.words[..]].concat();
        raw.ok("process.spawn", json!({"id": "camera", "command": command, "options": options}));
    }

    /// What was encoded has every frame as it was.
    pub(super) fn is_in(&self, encoded: &[u8]) -> Result<(), Wrong> {
        let decoded = filtered(&DECODER, encoded)?;
        same("frames", &(decoded.len() / FRAME_BYTES), &(self.bytes.len() / FRAME_BYTES))?;
        equal("the frames", &decoded, &self.bytes)
    }
}

/// With a history, and all of it on disk.
pub(super) fn kept(site: &Site<'_>, random: &mut Random) -> Result<Seen, Wrong> {
    run(site, random, true)
}

/// With nothing kept: from the child to its readers.
pub(super) fn relayed(site: &Site<'_>, random: &mut Random) -> Result<Seen, Wrong> {
    run(site, random, false)
}

fn run(site: &Site<'_>, random: &mut Random, is_kept: bool) -> Result<Seen, Wrong> {
    if !has("ffmpeg") {
        return Ok(Seen::Lacks("ffmpeg"));
    }
    let video = Video::shot_for(site.scale)?;
    let mut raw = connect(site.socket);
    let options = if is_kept { json!({"spool": true}) } else { json!({"history": "none"}) };
    video.spawn(&mut raw, &options);
    let pipe = |raw: &mut Raw, id: &str, policy: &str| {
        let (opened, descriptors) = raw.open(json!({"id": id, "transport": "pipe", "policy": policy}));
        only(descriptors).map(|descriptor| (opened, descriptor))
    };
    let (_, hashed) = pipe(&mut raw, "camera", "block")?;
    let hash = reading(&["sha256sum"], hashed)?;
    let mut stopped = Stopped::open(site)?;
    let in_place = if is_kept { in_place(site)? } else { None };
    let (encoder, encoded) = if is_kept {
        let options = json!({"stdin": {"stream": {"id": "camera"}}});
        raw.ok("process.spawn", json!({"id": "encoder", "command": ENCODER, "options": options}));
        (None, File::from(pipe(&mut raw, "encoder", "block")?.1))
    } else {
        let mut encoder = reading(&ENCODER, pipe(&mut raw, "camera", "block")?.1)?;
        let stdout = encoder.stdout.take().ok_or("its stdout is a pipe")?;
        (Some(encoder), File::from(OwnedFd::from(stdout)))
    };
    let total = video.bytes.len() as u64;
    let mut guests = vec![Guest::faithful(By::Frames, "block"), Guest::faithful(By::Socket, "block")];
    if is_kept {
        guests
            .push(Guest { nap: std::time::Duration::from_millis(1), ..Guest::faithful(By::Frames, "spool") });
    }
    guests.extend((0..GUESTS).map(|_| Guest::drawn(random, total, is_kept)));
    let early = guests.iter().filter(|guest| guest.joins_at == 0).count() as u64;
    let given = std::thread::scope(|scope| {
        let encoded = scope.spawn(|| all(encoded));
        let guests: Vec<_> =
            guests.iter().map(|guest| scope.spawn(|| guest.visit(site, "camera", &video.bytes))).collect();
        // Those that want the first byte are there when it comes: two that have stopped and the hash besides, and an encoder that is no child.
        let there = 3 + early + u64::from(!is_kept) + u64::from(in_place.is_some());
        super::tools::until("all readers are there", || Ok(readers(&mut raw, "camera") >= there))?;
        raw.ok("process.stdin.write", json!({"id": "camera", "data": "go\n"}));
        // All are waited for, whoever fails: the first wrong is told.
        let given: Vec<_> = guests.into_iter().map(|guest| joined("a guest", guest)).collect();
        let encoded = joined("the encoder", encoded);
        let given = given.into_iter().sum::<Result<u64, Wrong>>()?;
        video.is_in(&encoded?).map(|()| given)
    })?;
    encoder.map(ended).transpose()?;
    let said = String::from_utf8_lossy(&ended(hash)?).into_owned();
    same("the hash", &said.split(' ').next().unwrap_or_default(), &video.sum.as_str())?;
    if let Some(reader) = in_place {
        let said = String::from_utf8_lossy(&ended(reader)?).into_owned();
        let is_whole = said.contains(&video.sum) && said.contains("\"gaps\": []");
        is_whole
            .then_some(())
            .ok_or_else(|| format!("in place, {} was to be read, and was {said}", video.sum))?;
    }
    stopped.looks_at_last(&video.bytes)?;
    if is_kept {
        let late = Guest::faithful(By::Frames, "spool");
        late.visit(site, "camera", &video.bytes)
            .map_err(|wrong| format!("read again from the disk: {wrong}"))?;
    }
    Ok(Seen::Bytes(given + 2 * total))
}

/// One that reads the ring in place and sums it, where there is a Python and our own reader in it.
fn in_place(site: &Site<'_>) -> Result<Option<Child>, Wrong> {
    let script = site.tree.join("tests/fixtures/shared_ring.py");
    if !has("python3") || File::open(&script).is_err() {
        return Ok(None);
    }
    let mut command = Command::new("python3");
    command.arg(script).arg(site.socket).args(["camera", "block"]).stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child.map(Some).map_err(|error| format!("python3: {error}"))
}

/// How many read a process's stdout.
fn readers(raw: &mut Raw, id: &str) -> u64 {
    let status = raw.ok("process.status", json!({"id": id, "detail": true}));
    status["detail"]["readers"].as_array().map_or(0, Vec::len) as u64
}

/// Two that came at the beginning and do not read until it is over.
struct Stopped {
    events: Raw,
    frames: Raw,
    piped: OwnedFd,
    name: Json,
}

impl Stopped {
    fn open(site: &Site<'_>) -> Result<Stopped, Wrong> {
        // Only the connection a reader is of is told its name.
        let mut events = connect(site.socket);
        events.ok("subscribe", json!({"topic": "kairo.stream.gap"}));
        let mut frames = connect(site.socket);
        frames.ok("stream.open", json!({"id": "camera", "policy": "drop_oldest"}));
        let (opened, descriptors) =
            events.open(json!({"id": "camera", "transport": "pipe", "policy": "drop_oldest"}));
        Ok(Stopped { events, frames, piped: only(descriptors)?, name: opened["subscriptionId"].clone() })
    }

    /// Everything is over: what it has and what it missed is everything, in order.
    fn looks_at_last(&mut self, truth: &[u8]) -> Result<(), Wrong> {
        self.in_frames(truth).map_err(|wrong| format!("one that had stopped: {wrong}"))?;
        let piped = self.piped.try_clone().map_err(|error| error.to_string())?;
        let bytes = all(File::from(piped))?;
        let total = truth.len() as u64;
        let (mut place, mut read) = (0, 0);
        // A pipe has no place for records: what went by is told as events.
        while place < total {
            let left = (bytes.len() - read) as u64;
            if place + left == total {
                return equal("the end of a pipe that had stopped", &bytes[read..], &truth[place as usize..]);
            }
            let gap = self
                .events
                .event("kairo.stream.gap", |event| event["payload"]["subscriptionId"] == self.name);
            let number = |field: &str| gap["payload"][field].as_u64().unwrap_or(u64::MAX);
            let (from, to) = (number("from"), number("to"));
            let run = from.checked_sub(place).filter(|run| *run <= left);
            let run = run
                .ok_or_else(|| format!("a gap from {from} to {to} at {place}, with {left} bytes more"))?
                as usize;
            equal(
                "a pipe that had stopped",
                &bytes[read..read + run],
                &truth[place as usize..from as usize],
            )?;
            (read, place) = (read + run, to);
        }
        same("what is left in a pipe", &(bytes.len() - read), &0)
    }

    fn in_frames(&mut self, truth: &[u8]) -> Result<(), Wrong> {
        let mut place = 0;
        loop {
            let frame = self.frames.frame().ok_or("the connection ended")?;
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                same("the offset of a chunk", &chunk.offset, &Some(place))?;
                let end = place as usize + chunk.data.len();
                equal("a chunk", &chunk.data, truth.get(place as usize..end).unwrap_or_default())?;
                place = end as u64;
            } else if frame.kind == EVENT {
                let event = frame.json();
                let data = &event["data"];
                if event["topic"] == "stream.end" {
                    return same("the end", &place, &(truth.len() as u64));
                }
                if event["topic"] == "stream.gap" {
                    same("a gap", &data["from"], &json!(place))?;
                    place = data["to"].as_u64().unwrap_or(u64::MAX);
                }
            }
        }
    }
}
