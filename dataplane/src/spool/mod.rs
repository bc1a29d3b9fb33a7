//! The spool: a stream's bytes on disk, so that output of any length can be read again from any offset.
//!
//! ```text
//!  STATE/spool/<session>/<stdout|stderr>/<first offset, 20 digits>.seg
//!
//!  ring ─(pinned)─▶ service ─▶ writer ─▶ segment ─▶ reader ─▶ service ─▶ whoever fell behind
//! ```
//!
//! A room of its own because nothing of it runs on a reactor: files block. [`segment`] is the format, [`writer`] appends
//! and cuts, [`reader`] walks by offset in bounded memory, [`quota`] shares the disk out, `service` is the two threads
//! that do it for the reactors. The first four know nothing of rings, processes or reactors.
//!
//! Invariant: a byte that was reported as written is read back equal, or named as a gap; never anything else. A segment is
//! contiguous: what is missing lies between segments, or is a record whose checksum says so.
//!
//! Not here: which bytes are written when, and who is served from disk (`reactor/spool`).

pub mod quota;
pub mod reader;
pub mod segment;
pub(crate) mod service;
pub mod writer;

pub use reader::{Found, Reader};

use crate::key::Channel;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// How much of a stream is kept on disk. What is past a bound goes oldest segment first, and is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolLimits {
    /// Size at which a segment is full, header included.
    pub segment_bytes: u64,
    /// Of a stream, all its segments together.
    pub bytes_max: Option<u64>,
    /// A segment whose last byte is older than this goes, milliseconds.
    pub age_ms_max: Option<u64>,
    /// Segments of a stream.
    pub segments_max: Option<u32>,
    /// Flush a segment to the device when it is full and when its stream ends. Otherwise the system flushes when it
    /// likes, and a power failure (not: a killed kernel) may cost what it had not flushed.
    pub sync: bool,
    /// Leave the files when the session is forgotten.
    pub keep: bool,
}

impl Default for SpoolLimits {
    fn default() -> SpoolLimits {
        SpoolLimits {
            segment_bytes: crate::limits::SPOOL_SEGMENT_BYTES,
            bytes_max: None,
            age_ms_max: None,
            segments_max: None,
            sync: false,
            keep: false,
        }
    }
}

/// What a kernel needs to take over the spool of a session it did not start: kept with the session's record. Where the
/// spool ends is not in it, for the disk alone knows that for sure ([`writer::Writer::resume`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolRecord {
    /// Version of this record.
    pub v: u32,
    /// As they were asked for.
    pub limits: SpoolLimits,
}

impl SpoolRecord {
    /// Of a session with these limits.
    pub fn new(limits: SpoolLimits) -> SpoolRecord {
        SpoolRecord { v: 1, limits }
    }
}

/// Whose bytes a segment holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// `KAIRO_SESSION`.
    pub session: String,
    /// Which output.
    pub channel: Channel,
}

impl Identity {
    /// Refuses what is not one folder's name.
    pub fn new(session: &str, channel: Channel) -> Result<Identity, SpoolError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if session.is_empty() || session.len() > segment::SESSION_BYTES_MAX || !session.bytes().all(plain) {
            return Err(SpoolError::Session { session: session.to_owned() });
        }
        Ok(Identity { session: session.to_owned(), channel })
    }

    /// Its folder under `root`.
    pub fn folder(&self, root: &Path) -> PathBuf {
        root.join(&self.session).join(self.channel.name())
    }
}

/// What went wrong with a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system said no.
    #[error("{step} {}: {source}", path.display())]
    Os {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// Written by a later version of this program. Nothing of it is touched.
    #[error("{} has format version {version}, and this kernel knows up to {}", path.display(), segment::VERSION)]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Not a segment, or not this stream's. Nothing of it is touched.
    #[error("{} is no segment of this stream: {why}", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What gave it away.
        why: &'static str,
    },
    /// Bytes were given that lie before the end of the spool.
    #[error("bytes from offset {offset} are on disk already, up to {end}")]
    Behind {
        /// First offset given.
        offset: u64,
        /// End of the spool.
        end: u64,
    },
    /// A session's name is no name of ours.
    #[error("{session:?} is no session's name")]
    Session {
        /// As it was given.
        session: String,
    },
}

impl SpoolError {
    pub(crate) fn os<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SpoolError + 'a {
        move |source| SpoolError::Os { step, path: path.to_owned(), source }
    }

    /// The system's number for it; EPROTO where a file is not ours to touch, EINVAL where we were given nonsense.
    pub fn errno(&self) -> i32 {
        match self {
            SpoolError::Os { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            SpoolError::Newer { .. } | SpoolError::Foreign { .. } => libc::EPROTO,
            SpoolError::Behind { .. } | SpoolError::Session { .. } => libc::EINVAL,
        }
    }
}

/// Bytes `[from, to)` of a stream that the spool no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First offset.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// Why.
    pub why: CutReason,
}

/// Why bytes left the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutReason {
    /// The stream's own bound: bytes, segments or age.
    Limit,
    /// All spools together were over the daemon's quota, and this was the largest.
    Quota,
    /// Somebody deleted the file.
    Deleted,
}

/// Opens the spool of a stream for reading, whether its session lives or not.
pub fn open(root: &Path, session: &str, channel: Channel) -> Result<Reader, SpoolError> {
    Ok(Reader::new(root, Identity::new(session, channel)?))
}

/// Removes the spool of a session. What is not there is removed already.
pub fn remove(root: &Path, session: &str) -> Result<(), SpoolError> {
    let folder = root.join(Identity::new(session, Channel::Stdout)?.session);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SpoolError::os("remove", &folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Sessions that have a spool under `root`: for whoever knows which of them are still remembered.
pub fn sessions(root: &Path) -> Result<Vec<String>, SpoolError> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(SpoolError::os("list", root))?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| Identity::new(name, Channel::Stdout).is_ok()).collect())
}

#[cfg(test)]
mod tests;
