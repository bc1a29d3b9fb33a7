//! The scenes over kernels that are killed: what is promised to outlive them is exact, and the rest is told.
//!
//! ```text
//! all is opened ─▶ go ─▶ ✝ next kernel ✝ next kernel … ─▶ all have read to the end ─▶ no more kills ─▶ compared
//! ```
//!
//! Readers are descriptors, which outlive kernels, or follow from kernel to kernel by offset. Invariant: a scene speaks to a kernel
//! that may die only where it says so ([`Follower`]).

use super::archive::copied;
use super::media::{ENCODER, Video};
use super::sleeper::Eaten;
use super::tools::{all, connect, ended, equal, filtered, joined, only, output, reading, same, some, taken};
use super::{Seen, Site};
use crate::chaos::{Random, Wrong};
use crate::support::output::Chunk;
use crate::support::raw::{EVENT, PATIENCE, Raw, STREAM_CHUNK};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a slow reader sleeps at each of its pieces, so that kernels die meanwhile.
const NAP: Duration = Duration::from_millis(1);
const PIECE_BYTES: usize = 32 << 10;
/// How often a reader of `yes` sleeps, and how long.
const NAPS: u64 = 8;
const LONG_NAP: Duration = Duration::from_millis(120);

/// Somebody who reads in frames what has a history, over as many kernels as it takes.
struct Follower<'a> {
    site: &'a Site<'a>,
    id: &'a str,
    policy: &'static str,
    bytes: Vec<u8>,
    resumes: Option<String>,
}

impl<'a> Follower<'a> {
    fn new(site: &'a Site<'a>, id: &'a str, policy: &'static str) -> Follower<'a> {
        Follower { site, id, policy, bytes: Vec::new(), resumes: None }
    }

    /// Reads to the end.
    fn all(mut self) -> Result<Vec<u8>, Wrong> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Its kernel may be gone at any word.
            let Ok(raw) = Raw::try_connect(self.site.socket) else {
                std::thread::park_timeout(NAP);
                continue;
            };
            if self.reads(raw)?.is_some() {
                return Ok(self.bytes);
            }
        }
        Err(format!("{} has no end: {} bytes came", self.id, self.bytes.len()))
    }

    /// As long as its kernel lives. Some at the end.
    fn reads(&mut self, mut raw: Raw) -> Result<Option<()>, Wrong> {
        let hello = json!({"features": ["records", "int64", "chunks"], "chunkBytesMax": 1 << 20});
        let mut open = json!({"id": self.id, "policy": self.policy, "from": self.bytes.len()});
        if let Some(resumes) = &self.resumes {
            open["resumes"] = resumes.as_str().into();
        }
        if raw.try_call("kernel.hello", hello).is_none() {
            return Ok(None);
        }
        match raw.try_call("stream.open", open) {
            None => return Ok(None),
            Some(Err(refusal)) if refusal.info["retryable"] == true => return Ok(None),
            Some(Err(refusal)) => return Err(format!("{} does not open: {refusal:?}", self.id)),
            Some(Ok(opened)) => self.resumes = opened["subscriptionId"].as_str().map(str::to_owned),
        }
        while let Some(frame) = raw.frame() {
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                same("the offset of a chunk", &chunk.offset, &Some(self.bytes.len() as u64))?;
                self.bytes.extend(chunk.data);
                std::thread::park_timeout(NAP);
            } else if frame.kind == EVENT {
                let event = frame.json();
                if event["topic"] == "stream.gap" {
                    return Err(format!("one that waits was told {event}"));
                }
                if event["topic"] == "stream.end" && event["data"]["reason"] == "closed" {
                    return Ok(Some(()));
                }
            }
        }
        Ok(None)
    }
}

/// Reads a descriptor to its end, slowly.
fn slowly(mut from: File) -> Result<Vec<u8>, Wrong> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        match some(&mut from, &mut piece)? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&piece[..read]),
        }
        std::thread::park_timeout(NAP);
    }
}

fn open(raw: &mut Raw, id: &str, transport: &str, policy: &str) -> Result<File, Wrong> {
    only(raw.open(json!({"id": id, "transport": transport, "policy": policy})).1).map(File::from)
}

/// Raw video to an encoder, hashes by pipe and by fifo, the disk, a slow reader and one that has stopped.
pub(super) fn video(site: &Site<'_>, is_kept: bool) -> Result<Seen, Wrong> {
    if !super::tools::has("ffmpeg") {
        return Ok(Seen::Lacks("ffmpeg"));
    }
    let video = Video::shot_for(site.scale)?;
    let total = video.bytes.len() as u64;
    let mut raw = connect(site.socket);
    let mut options = json!({"whenUnread": "block"});
    match is_kept {
        true => options["spool"] = true.into(),
        false => options["history"] = "none".into(),
    }
    video.spawn(&mut raw, &options);
    let hashed = reading(&["sha256sum"], open(&mut raw, "camera", "pipe", "block")?.into())?;
    let by_path = if is_kept { Some(by_path(&mut raw)?) } else { None };
    let slow = open(&mut raw, "camera", "socket", "block")?;
    let stopped = open(&mut raw, "camera", "pipe", "drop_oldest")?;
    let (encoder, encoded) = if is_kept {
        let options = json!({"stdin": {"stream": {"id": "camera"}}, "whenUnread": "block"});
        raw.ok("process.spawn", json!({"id": "encoder", "command": ENCODER, "options": options}));
        (None, open(&mut raw, "encoder", "pipe", "block")?)
    } else {
        let mut encoder = reading(&ENCODER, open(&mut raw, "camera", "pipe", "block")?.into())?;
        let stdout = encoder.stdout.take().ok_or("its stdout is a pipe")?;
        (Some(encoder), File::from(std::os::fd::OwnedFd::from(stdout)))
    };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| slowly(slow));
        let encoded = scope.spawn(|| all(encoded));
        let framed = is_kept.then(|| scope.spawn(|| Follower::new(site, "camera", "block").all()));
        raw.ok("process.stdin.write", json!({"id": "camera", "data": "go\n"}));
        site.may_die(true);
        let (slow, encoded) = (joined("a slow reader", slow), joined("the encoder", encoded));
        equal("a slow reader", &slow?, &video.bytes)?;
        video.is_in(&encoded?)?;
        framed
            .map_or(Ok(()), |framed| equal("one in frames", &joined("one in frames", framed)?, &video.bytes))
    })?;
    encoder.map(ended).transpose()?;
    for hash in [Some(hashed), by_path].into_iter().flatten() {
        let said = String::from_utf8_lossy(&ended(hash)?).into_owned();
        same("the hash", &said.split(' ').next().unwrap_or_default(), &video.sum.as_str())?;
    }
    site.may_die(false);
    let held = all(stopped)?;
    equal("one that had stopped", &held, &video.bytes[..held.len().min(video.bytes.len())])?;
    if is_kept {
        equal("the disk", &Follower::new(site, "camera", "spool").all()?, &video.bytes)?;
    }
    is_counted(site, "camera", total)?;
    Ok(Seen::Bytes(4 * total))
}

/// A hash of what a path is read by.
fn by_path(raw: &mut Raw) -> Result<std::process::Child, Wrong> {
    let opened = raw.ok("stream.open", json!({"id": "camera", "transport": "fifo"}));
    let path = opened["path"].as_str().ok_or("a fifo has a path")?;
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    reading(&["sha256sum"], file.into())
}

/// The kernel has counted so many bytes; or fewer, by no more than it says it may not have counted.
fn is_counted(site: &Site<'_>, id: &str, total: u64) -> Result<(), Wrong> {
    let mut raw = connect(site.socket);
    let page = raw.ok("event.replay", json!({"fromSeq": 1, "types": ["kairo.stream.uncertain"]}));
    let mut doubts: BTreeMap<u64, u64> = BTreeMap::new();
    let of_it = |event: &&Json| event["payload"]["id"] == id;
    for event in page["events"].as_array().into_iter().flatten().filter(of_it) {
        let number =
            |name: &str| event["payload"][name].as_u64().ok_or_else(|| format!("no {name}: {event}"));
        let to = number("to")?;
        doubts.entry(number("from")?).and_modify(|known| *known = to.max(*known)).or_insert(to);
    }
    let uncounted: u64 = doubts.iter().map(|(from, to)| to - from).sum();
    let counted = taken(&mut raw, id);
    let is_right = (counted..=counted + uncounted).contains(&total);
    is_right
        .then_some(())
        .ok_or_else(|| format!("{counted} of {total} bytes are counted, doubts are {doubts:?}"))
}

/// A tar of a tree through a compressor: what went by the tap is what was packed, and is the tree.
pub(super) fn archive(site: &Site<'_>) -> Result<Seen, Wrong> {
    let Some((folder, compressor)) = copied(site)? else {
        return Ok(Seen::Lacks("tar, or a tree that can be read"));
    };
    let tree = folder.to_str().ok_or("a folder has a name")?;
    let mut bytes = 0;
    for round in 0..site.scale {
        let id = format!("archive{round}");
        let mut raw = connect(site.socket);
        let pack = ["sh", "-c", "read go; exec tar cf - -C \"$0\" .", tree];
        let last = json!({"whenUnread": "block"});
        let stages = json!([{"command": pack}, {"command": [compressor, "-c"], "options": last}]);
        raw.ok("pipeline.spawn", json!({"id": id, "stages": stages, "edges": [{"tap": true}]}));
        let (first, second) = (format!("{id}.0"), format!("{id}.1"));
        let tap = open(&mut raw, &first, "pipe", "block")?;
        let (tapped, packed) = std::thread::scope(|scope| {
            let tapped = scope.spawn(|| slowly(tap));
            let packed = scope.spawn(|| Follower::new(site, &second, "block").all());
            raw.ok("process.stdin.write", json!({"id": first, "data": "go\n"}));
            site.may_die(true);
            let (tapped, packed) = (joined("the tap", tapped), joined("the end", packed));
            Ok::<_, Wrong>((tapped?, packed?))
        })?;
        site.may_die(false);
        let mut raw = connect(site.socket);
        let ended = raw.ok("pipeline.wait", json!({"id": id, "timeoutMs": 30_000}));
        same("the exit code", &ended["exitCode"], &json!(0))?;
        let status = raw.ok("pipeline.status", json!({"id": id}));
        same("what is counted at the tap", &status["stages"][0]["output"]["bytes"], &json!(tapped.len()))?;
        equal("what was packed", &filtered(&[compressor, "-dc"], &packed)?, &tapped)?;
        let unpacked = tempfile::tempdir().map_err(|error| format!("no folder: {error}"))?;
        let to = unpacked.path().to_str().ok_or("a folder has a name")?;
        filtered(&["tar", "xf", "-", "-C", to], &tapped)?;
        output(&["diff", "-r", tree, to], Stdio::null()).map_err(|wrong| format!("the tree: {wrong}"))?;
        bytes += tapped.len() as u64;
    }
    std::fs::remove_dir_all(&folder).map_err(|error| format!("the tree: {error}"))?;
    Ok(Seen::Bytes(bytes))
}

/// `yes` into a reader that sleeps, with a history and without.
pub(super) fn sleeper(site: &Site<'_>, random: &mut Random) -> Result<Seen, Wrong> {
    let mut bytes = 0;
    for (id, options) in [
        ("kept", json!({"whenUnread": "block"})),
        ("relayed", json!({"history": "none", "whenUnread": "block"})),
    ] {
        let mut raw = connect(site.socket);
        let command = ["sh", "-c", "read go; exec yes"];
        raw.ok("process.spawn", json!({"id": id, "command": command, "options": options}));
        let mut file = open(&mut raw, id, "pipe", "block")?;
        raw.ok("process.stdin.write", json!({"id": id, "data": "go\n"}));
        site.may_die(true);
        let (mut piece, mut eaten) = (vec![0; PIECE_BYTES], Eaten::default());
        for _ in 0..NAPS * site.scale {
            let enough = eaten.0 + random.of_any_size(1..=4 << 20);
            while eaten.0 < enough {
                let read = some(&mut file, &mut piece)?;
                eaten.eat(&piece[..read])?;
            }
            std::thread::park_timeout(LONG_NAP);
        }
        site.may_die(false);
        connect(site.socket).ok("process.kill", json!({"id": id, "signal": "KILL", "graceMs": 0}));
        loop {
            match some(&mut file, &mut piece)? {
                0 => break,
                read => eaten.eat(&piece[..read])?,
            }
        }
        is_counted(site, id, eaten.0)?;
        bytes += eaten.0;
    }
    Ok(Seen::Bytes(bytes))
}
