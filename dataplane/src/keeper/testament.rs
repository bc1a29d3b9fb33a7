//! What a keeper leaves behind that has nobody to hand anything to: one file, from which another keeper begins.
//!
//! ```text
//!  "KAIROEST" version │ entry: length, message │ its parts: length, bytes … │ entry … │ end
//!                       session ─▶ per end: what nobody had read;  facts;  stream ─▶ its ring
//! ```
//!
//! Only what is over is in it: a keeper with a living child doesn't end. The file is written beside its place, flushed,
//! and moved there; the keeper that begins from it removes it once a kernel has taken everything over. Invariant: at no
//! instant is a session neither in the file nor in a keeper.

use crate::control::Tree;
use crate::keeper::protocol::{Blob, End};
use crate::keeper::session::{Exit, Kept, Ring, Session, Sessions};
use crate::keeper::succession::ToSuccessor;
use crate::sys::pipe::{NonBlocking, Pipe, pipe};
use crate::sys::process::sealed_memory;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const MAGIC: &[u8; 8] = b"KAIROEST";
/// Raised by every change of what is in the file.
const VERSION: u32 = 1;
/// Longest message of an entry, bytes.
const ENTRY_BYTES_MAX: u64 = 256 * 1024;
/// Longest part of an entry, bytes: a ring of the largest history.
const PART_BYTES_MAX: u64 = 64 << 20;

/// Writes everything that is over and not forgotten. True if there was anything.
pub(super) fn write(path: &Path, sessions: &Sessions) -> io::Result<bool> {
    let left: Vec<&Session> = sessions.iter().map(|(_, session)| session).filter(|s| !s.forgotten).collect();
    if left.is_empty() {
        // One of an earlier life is out of date.
        let _ = std::fs::remove_file(path);
        return Ok(false);
    }
    let draft = path.with_extension("tmp");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let mut out = BufWriter::new(file);
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    for session in left {
        write_session(&mut out, session)?;
    }
    entry(&mut out, &ToSuccessor::Complete)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(true)
}

fn write_session(out: &mut impl Write, session: &Session) -> io::Result<()> {
    let unread = session.ends.each_ref().map(|end| end.as_ref().map(|kept| kept.pipe_bytes));
    let exit = session.exit.map(|exit| (exit.status, exit.usage));
    entry(
        out,
        &ToSuccessor::Session {
            process: session.process,
            session: &session.name,
            pid: session.pid,
            start_ticks: session.start_ticks,
            tree: Tree::BestEffort,
            exit,
            ended: session.end_acknowledged,
            terminal: session.terminal,
            pipe_bytes: unread,
            record: Blob(&session.record),
        },
    )?;
    part(out, &[u8::from(session.acknowledged)])?;
    for (end, kept) in End::ALL.into_iter().zip(&session.ends) {
        if let Some(kept) = kept {
            // What a child didn't read it will not read any more.
            let bytes = if end == End::Stdin { Vec::new() } else { rest_of(kept)? };
            part(out, &bytes)?;
        }
    }
    let exited_ns = session.exit.map(|exit| exit.at_ns);
    let (process, limits, note) = (session.process, session.limits.clone(), Blob(&session.note));
    entry(out, &ToSuccessor::Facts { process, limits, exited_ns, note })?;
    for ring in &session.rings {
        let (end, slot, generation) = (ring.end, ring.slot, ring.generation);
        entry(out, &ToSuccessor::Stream { process, end, slot, generation })?;
        let mut memory = File::from(ring.memory.try_clone()?);
        let mut bytes = Vec::new();
        memory.rewind()?;
        memory.read_to_end(&mut bytes)?;
        part(out, &bytes)?;
    }
    Ok(())
}

/// What is still in a pipe or terminal.
fn rest_of(kept: &Kept) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::from(kept.fd.try_clone()?).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        // Another process has its write end, or a terminal has ended: this is all there is.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(bytes),
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(bytes),
        Err(error) => Err(error),
    }
}

fn entry(out: &mut impl Write, message: &ToSuccessor<'_>) -> io::Result<()> {
    part(out, &rmp_serde::to_vec(message).map_err(io::Error::other)?)
}

fn part(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(bytes)
}

/// Why there is nothing to begin from.
#[derive(Debug, thiserror::Error)]
pub(super) enum TestamentError {
    /// It can't be read.
    #[error("{0}")]
    Os(#[from] io::Error),
    /// It is no such file, or is cut off or bent.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// A later release wrote it.
    #[error("it is of version {0}, and this release reads {VERSION}: start the release that wrote it")]
    Newer(u32),
}

/// Reads a file back.
pub(super) fn read(path: &Path) -> Result<Sessions, TestamentError> {
    let mut file = BufReader::new(File::open(path)?);
    let (mut magic, mut version) = ([0; 8], [0; 4]);
    file.read_exact(&mut magic).map_err(|_| TestamentError::Damaged("too short"))?;
    file.read_exact(&mut version).map_err(|_| TestamentError::Damaged("too short"))?;
    if magic != *MAGIC {
        return Err(TestamentError::Damaged("another kind of file"));
    }
    match u32::from_le_bytes(version) {
        VERSION => {}
        newer => return Err(TestamentError::Newer(newer)),
    }
    let (mut sessions, mut last) = (Sessions::default(), None);
    loop {
        let bytes = read_part(&mut file, ENTRY_BYTES_MAX)?;
        let message = rmp_serde::from_slice(&bytes).map_err(|_| TestamentError::Damaged("no entry"))?;
        match message {
            ToSuccessor::Complete => return Ok(sessions),
            ToSuccessor::Session { .. } => {
                let session = read_session(&mut file, message)?;
                let pid = session.pid;
                last = Some(sessions.insert(session));
                // Somebody else may have it by now.
                sessions.release_pid(pid);
            }
            ToSuccessor::Facts { limits, exited_ns, note, .. } => {
                let session = last.and_then(|index| sessions.get_mut(index));
                let session = session.ok_or(TestamentError::Damaged("facts of nobody"))?;
                session.limits = limits;
                session.note = note.0.into();
                if let (Some(exit), Some(at_ns)) = (&mut session.exit, exited_ns) {
                    exit.at_ns = at_ns;
                }
            }
            ToSuccessor::Stream { end, slot, generation, .. } => {
                let memory = read_memory(&mut file)?;
                let session = last.and_then(|index| sessions.get_mut(index));
                let session = session.ok_or(TestamentError::Damaged("a ring of nobody"))?;
                session.rings.push(Ring { end, slot, generation, memory });
            }
            _ => return Err(TestamentError::Damaged("an entry that has no place here")),
        }
    }
}

fn read_session(file: &mut impl Read, message: ToSuccessor<'_>) -> Result<Session, TestamentError> {
    let ToSuccessor::Session {
        process,
        session,
        pid,
        start_ticks,
        exit,
        ended,
        terminal,
        pipe_bytes,
        record,
        ..
    } = message
    else {
        return Err(TestamentError::Damaged("no session"));
    };
    let acknowledged = read_part(file, 1)? == [1];
    let mut ends = [None, None, None];
    for (end, _) in ends.iter_mut().zip(pipe_bytes).filter(|(_, bytes)| bytes.is_some()) {
        *end = Some(refilled(&read_part(file, PART_BYTES_MAX)?)?);
    }
    // Its input is nobody's.
    ends[End::Stdin as usize] = None;
    Ok(Session {
        pid,
        start_ticks,
        // What is left of a terminal comes through a pipe.
        terminal: terminal && ends[End::Stdout as usize].is_none(),
        ends,
        exit: exit.map(|(status, usage)| Exit { status, usage, at_ns: 0 }),
        acknowledged,
        end_acknowledged: ended,
        ended: true,
        ..Session::of_nobody(process, 0, session, record.0)
    })
}

/// A pipe in which these bytes are, and then the end.
fn refilled(bytes: &[u8]) -> io::Result<Kept> {
    let Pipe { reader, writer, capacity_bytes } = pipe(bytes.len().max(4096), NonBlocking::Both)?;
    let mut writer = File::from(writer);
    // A user without pipe memory left gets what fits: the rest could not be handed over any other way.
    let mut left = bytes;
    while !left.is_empty() {
        match writer.write(left) {
            Ok(written) => left = &left[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    let fd: OwnedFd = reader;
    Ok(Kept { fd, pipe_bytes: u32::try_from(capacity_bytes).unwrap_or(u32::MAX) })
}

fn read_length(file: &mut impl Read, bytes_max: u64) -> Result<u64, TestamentError> {
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| TestamentError::Damaged("cut off"))?;
    let length = u64::from_le_bytes(length);
    if length > bytes_max { Err(TestamentError::Damaged("an impossible length")) } else { Ok(length) }
}

/// A ring, which is not to stay in our own memory on its way.
fn read_memory(file: &mut impl Read) -> Result<OwnedFd, TestamentError> {
    let length = read_length(file, PART_BYTES_MAX)?;
    let mut part = file.take(length);
    let memory = sealed_memory(&mut part)?;
    if part.limit() == 0 { Ok(memory) } else { Err(TestamentError::Damaged("cut off")) }
}

fn read_part(file: &mut impl Read, bytes_max: u64) -> Result<Vec<u8>, TestamentError> {
    let length = read_length(file, bytes_max)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(TestamentError::Damaged("cut off")) }
}
