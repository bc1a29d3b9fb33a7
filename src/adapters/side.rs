//! Side files: where a program reports that is told to report into a file.
//!
//! One regular file per session, in a folder only this user can enter; the program makes it, or opens it, and never waits
//! for us. It is read as it grows, given back to the disk from the front as far as it was read, and removed with its
//! process. Being a file it survives any kernel: the next one goes on at the first byte that wasn't given back.
//! Invariant: nothing but a regular file is ever read, and of it at most [`BEHIND_MAX`] bytes at a time.

use kairo_dataplane::sys::file::{changed, first_data, punch, watch_folder};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Read at a time.
const PIECE_BYTES: usize = 64 << 10;
/// A program that is further ahead writes no reports but something else: the middle is left out.
const BEHIND_MAX: u64 = 1 << 20;
/// Read bytes are given back when they are as many.
const PUNCH_BYTES: u64 = 64 << 10;

/// Makes the folder, private whatever it was, and removes the files of sessions that are over.
pub(crate) fn prepare(folder: &Path, living: &BTreeSet<String>) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        }
        made => made?,
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_living = entry.file_name().to_str().is_some_and(|name| living.contains(name));
        if !is_living && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What tells of changes in the folder.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    /// None where the system can't tell: whoever reads then looks now and then.
    pub(crate) fn on(folder: &Path) -> Option<Watch> {
        let failed =
            |error| tracing::debug!(component = "adapters", %error, "side files are looked at now and then");
        watch_folder(folder).map_err(failed).ok().map(Watch)
    }

    /// To be waited on.
    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// The sessions whose files changed; none when any may have.
    pub(crate) fn changed(&self) -> Option<Vec<OsString>> {
        changed(&self.0).ok().flatten()
    }
}

/// What a reading gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// Bytes are missing here.
    Gap,
}

/// The file of one process.
#[derive(Debug)]
pub(crate) struct Side {
    path: PathBuf,
    /// One past the last byte that was read.
    read: u64,
    punched: u64,
    /// True exactly when a former kernel may have given bytes back.
    resumed: bool,
}

impl Side {
    pub(crate) fn new(folder: &Path, session: &str, resumed: bool) -> Side {
        Side { path: folder.join(session), read: 0, punched: 0, resumed }
    }

    /// Reads what has come.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Found<'_>)) -> io::Result<()> {
        let Some(file) = self.open()? else { return Ok(()) };
        let length = file.metadata()?.len();
        if length < self.read {
            // It was begun anew.
            (self.read, self.punched) = (0, 0);
            each(Found::Gap);
        }
        if std::mem::take(&mut self.resumed) {
            self.read = first_data(&file).min(length);
            self.punched = self.read;
            if self.read > 0 {
                each(Found::Gap);
            }
        }
        if length - self.read > BEHIND_MAX {
            self.read = length - BEHIND_MAX;
            each(Found::Gap);
        }
        let mut piece = vec![0; PIECE_BYTES.min((length - self.read) as usize)];
        while self.read < length {
            let wanted = piece.len().min((length - self.read) as usize);
            let count = file.read_at(&mut piece[..wanted], self.read)?;
            if count == 0 {
                break;
            }
            each(Found::Bytes(&piece[..count]));
            self.read += count as u64;
        }
        if self.read - self.punched >= PUNCH_BYTES {
            // A file system that can't keeps the file as it is, until its process is gone.
            let _ = punch(&file, self.read);
            self.punched = self.read;
        }
        Ok(())
    }

    /// The file, if the program has made it. A fifo or a link in its place is nothing we follow or wait for.
    fn open(&self) -> io::Result<Option<File>> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(&self.path);
        match file {
            Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // The program may never have made it.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    fn all(side: &mut Side) -> Vec<Option<Vec<u8>>> {
        let mut found = Vec::new();
        side.read(|piece| {
            found.push(match piece {
                Found::Bytes(bytes) => Some(bytes.to_vec()),
                Found::Gap => None,
            });
        })
        .unwrap();
        found
    }

    #[test]
    fn a_file_is_read_as_it_grows_and_goes_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut side = Side::new(folder.path(), "s", false);
        assert!(all(&mut side).is_empty());
        let path = folder.path().join("s");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"one").unwrap();
        assert_eq!(all(&mut side), [Some(b"one".to_vec())]);
        writer.write_all(b"two").unwrap();
        assert_eq!(all(&mut side), [Some(b"two".to_vec())]);
        File::create(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(all(&mut side), [None, Some(b"x".to_vec())]);
        drop(side);
        assert!(!path.exists());
    }

    #[test]
    fn what_was_read_is_given_back_and_a_next_kernel_goes_on_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let mut side = Side::new(folder.path(), "s", false);
        let mut writer = File::create(&path).unwrap();
        let mut written = 0;
        for _ in 0..40 {
            writer.write_all(&[b'a'; 50_000]).unwrap();
            written += 50_000;
            all(&mut side);
        }
        let found = std::fs::metadata(&path).unwrap();
        let holes = found.blocks() * 512 < written;
        // As after a kill: nobody removes it.
        std::mem::forget(side);
        writer.write_all(b"\nnews\n").unwrap();
        let mut next = Side::new(folder.path(), "s", true);
        let again = all(&mut next);
        let bytes: Vec<u8> = again.iter().flatten().flatten().copied().collect();
        assert!(bytes.ends_with(b"\nnews\n"));
        if holes {
            assert!(again[0].is_none() && (bytes.len() as u64) < 2 * PUNCH_BYTES + 50_000, "{}", bytes.len());
        }
    }

    #[test]
    fn a_fifo_a_link_and_a_flood_are_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut side = Side::new(folder.path(), "s", false);
        assert!(all(&mut side).is_empty());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.path().join("other"), &path).unwrap();
        std::fs::write(folder.path().join("other"), "secret").unwrap();
        assert!(side.read(|_| panic!("it was followed")).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let found = all(&mut side);
        assert!(found[0].is_none());
        assert_eq!(found.iter().flatten().map(Vec::len).sum::<usize>() as u64, BEHIND_MAX);
    }

    #[test]
    fn the_folder_is_private_and_holds_living_sessions_only() {
        let folder = tempfile::tempdir().unwrap();
        let sides = folder.path().join("adapters");
        prepare(&sides, &BTreeSet::new()).unwrap();
        for session in ["gone", "here"] {
            std::fs::write(sides.join(session), "").unwrap();
        }
        std::fs::set_permissions(&sides, Permissions::from_mode(0o755)).unwrap();
        prepare(&sides, &BTreeSet::from(["here".to_owned()])).unwrap();
        assert!(!sides.join("gone").exists() && sides.join("here").exists());
        assert_eq!(std::fs::metadata(&sides).unwrap().mode() & 0o777, 0o700);
    }
}
