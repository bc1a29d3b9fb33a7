//! What scenes have in common: programs that are there or not, descriptors that are read with patience, sums and ends.

use crate::chaos::Wrong;
use crate::support::raw::{PATIENCE, Raw};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value as Json, json};
use std::any::Any;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

/// A connection that has asked for offsets, ends and large chunks.
pub(super) fn connect(socket: &Path) -> Raw {
    let mut raw = Raw::connect(socket);
    let features = json!(["records", "int64", "chunks"]);
    raw.ok("kernel.hello", json!({"client": "soak", "features": features, "chunkBytesMax": 1 << 20}));
    raw
}

/// True if there is a program called so.
pub(super) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// What a program writes that must go well; `input` is written into it.
pub(super) fn output(words: &[&str], input: Stdio) -> Result<Vec<u8>, Wrong> {
    let (program, arguments) = words.split_first().ok_or("no words")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(input).stderr(Stdio::piped());
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    well(program, &output)?;
    Ok(output.stdout)
}

fn well(program: &str, output: &Output) -> Result<(), Wrong> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    output
        .status
        .success()
        .then_some(())
        .ok_or_else(|| format!("{program} ended with {}: {text}", output.status))
}

/// The same for a program that is given bytes.
pub(super) fn filtered(words: &[&str], bytes: &[u8]) -> Result<Vec<u8>, Wrong> {
    let mut file = tempfile::tempfile().map_err(|error| format!("no temporary file: {error}"))?;
    let written = file.write_all(bytes).and_then(|()| std::io::Seek::rewind(&mut file));
    written.map_err(|error| format!("a temporary file: {error}"))?;
    output(words, Stdio::from(file))
}

/// What `sha256sum` says of these bytes.
pub(super) fn sum_of(bytes: &[u8]) -> Result<String, Wrong> {
    let said = filtered(&["sha256sum"], bytes)?;
    Ok(String::from_utf8_lossy(&said).split(' ').next().unwrap_or_default().to_owned())
}

/// A program that reads what comes from a descriptor until it ends, in a process of its own.
pub(super) fn reading(words: &[&str], descriptor: OwnedFd) -> Result<Child, Wrong> {
    let (program, arguments) = words.split_first().ok_or("no words")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::from(descriptor)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("{program}: {error}"))
}

/// What it has written when it has ended, which is soon: what it reads has come to its end.
pub(super) fn ended(mut child: Child) -> Result<Vec<u8>, Wrong> {
    let stdout = child.stdout.take().map(|stdout| File::from(OwnedFd::from(stdout)));
    let said = stdout.map_or(Ok(Vec::new()), all);
    if said.is_err() {
        // It has no end by itself; that it was so is the error.
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = said?;
    well("a reader", &output)?;
    Ok(said)
}

/// Reads some bytes; none at the end. An error if nothing comes for too long.
pub(super) fn some(from: &mut File, into: &mut [u8]) -> Result<usize, Wrong> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut ready = [PollFd::new(&*from, PollFlags::IN)];
    match poll(&mut ready, Some(&patience)) {
        Ok(0) => return Err(format!("nothing came from a descriptor for {PATIENCE:?}")),
        Ok(_) => {}
        Err(error) => return Err(format!("poll: {error}")),
    }
    from.read(into).map_err(|error| format!("a descriptor: {error}"))
}

/// Reads to the end.
pub(super) fn all(mut from: File) -> Result<Vec<u8>, Wrong> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 1 << 18]);
    loop {
        match some(&mut from, &mut piece)? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// The one descriptor that came.
pub(super) fn only(descriptors: Vec<OwnedFd>) -> Result<OwnedFd, Wrong> {
    let count = descriptors.len();
    <[_; 1]>::try_from(descriptors).map(|[one]| one).map_err(|_| format!("{count} descriptors came, not one"))
}

/// What the kernel says of a process's stdout.
pub(super) fn stdout_of(raw: &mut Raw, id: &str) -> Json {
    let status = raw.ok("process.status", json!({"id": id, "detail": true}));
    let streams = status["detail"]["streams"].as_array().cloned().unwrap_or_default();
    streams.into_iter().find(|stream| stream["stream"] == "stdout").unwrap_or(Json::Null)
}

/// How much of it has been taken.
pub(super) fn taken(raw: &mut Raw, id: &str) -> u64 {
    stdout_of(raw, id)["bytes"].as_u64().unwrap_or(0)
}

/// An error unless two are the same.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, shall: &T) -> Result<(), Wrong> {
    if is == shall { Ok(()) } else { Err(format!("{what}: {is:?}, not {shall:?}")) }
}

/// An error unless these bytes are those, which says where they part.
pub(super) fn equal(what: &str, is: &[u8], shall: &[u8]) -> Result<(), Wrong> {
    if is == shall {
        return Ok(());
    }
    let parted = is.iter().zip(shall).position(|(one, other)| one != other);
    let at = parted.unwrap_or(is.len().min(shall.len()));
    Err(format!("{what}: {} bytes, {} expected; they part at {at}", is.len(), shall.len()))
}

/// Waits until it is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool, Wrong>) -> Result<(), Wrong> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err(format!("waited in vain: {what}"));
        }
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    Ok(())
}

/// A thread's end, whose panic is a wrong too.
pub(super) fn joined<T>(
    who: &str,
    thread: std::thread::ScopedJoinHandle<'_, Result<T, Wrong>>,
) -> Result<T, Wrong> {
    let ended = thread.join().unwrap_or_else(|panic| Err(told(&*panic)));
    ended.map_err(|wrong| format!("{who}: {wrong}"))
}

/// What a panic said.
pub(super) fn told(panic: &(dyn Any + Send)) -> Wrong {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
