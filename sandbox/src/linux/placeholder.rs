//! Empty folders in the places of names that are denied and not there: what isn't there can't be mounted over.
//!
//! One is seen by everybody as long as a contained program runs that may not make it, and is gone afterwards. An empty
//! folder harms least: it is made and removed in one step each, `rmdir` takes nothing else with it, and Git doesn't see
//! it. It is known as ours by the time of its last change; who puts something into it makes it theirs.
//!
//! Invariant: who needs one holds a shared lock on it; who removes one has it locked for itself. So the last one removes
//! it, whichever keeper that is, and one that a killed keeper left is removed by the next that meets it.

use super::{owned, paths};
use crate::containment::Owner;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

/// When ours were changed last: a moment in 2001 that no folder of today was changed at by chance.
const MARK: libc::time_t = 1_000_000_000;
/// Most of one tree: each is a descriptor of its keeper.
const HELD_MAX: usize = 64;
/// Tries to get hold of one that others make and remove meanwhile.
const TRIES: usize = 1_000;

/// Those one tree needs. They go with it, unless others need them too.
#[derive(Debug, Default)]
pub struct Placeholders {
    held: Vec<(PathBuf, OwnedFd)>,
    owner: Option<(u32, u32, Vec<u32>)>,
}

impl Placeholders {
    /// None yet. They are made as, and belong to, `owner`, or whoever we are.
    pub(super) fn new(owner: Option<Owner<'_>>) -> Placeholders {
        let owner = owner.map(|owner| (owner.uid, owner.gid, owner.groups.to_vec()));
        Placeholders { held: Vec::new(), owner }
    }

    /// True exactly when nothing stands anywhere.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn paths(&self) -> Vec<Vec<u8>> {
        self.held.iter().map(|(path, _)| path.as_os_str().as_bytes().to_vec()).collect()
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.held.iter().any(|(held, _)| held == path)
    }

    /// Sees to it that something is there, by a path whose folder is there and has no links.
    pub(super) fn take(&mut self, path: &Path) -> io::Result<()> {
        if self.held.len() == HELD_MAX {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let _assumed = self.assume()?;
        for _ in 0..TRIES {
            let (folder, name) = entry(path)?;
            // SAFETY: the descriptor is open and the string ends in NUL, both until the end of the call; neither is kept.
            let made = unsafe { libc::mkdirat(folder.as_raw_fd(), name.as_ptr(), 0o755) } == 0;
            let error = io::Error::last_os_error();
            if !made && error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            match hold(&folder, &name, made) {
                Ok(Some(fd)) => {
                    self.held.push((path.to_owned(), fd));
                    return Ok(());
                }
                // Something else came to be there: that is denied as it is.
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Holds what is there already, if it is one.
    pub(super) fn join(&mut self, path: &Path) -> io::Result<()> {
        if self.has(path) || !is_marked(&std::fs::symlink_metadata(path)?) {
            return Ok(());
        }
        self.take(path)
    }

    /// Acts in the file system as the owner, who may ask for no folder where it could make none.
    fn assume(&self) -> io::Result<Option<Assumed>> {
        let owner = self.owner.as_ref();
        owner.map(|(uid, gid, groups)| Assumed::new(*uid, *gid, groups)).transpose()
    }
}

impl Drop for Placeholders {
    fn drop(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let Ok(_assumed) = self.assume() else { return };
        for (path, fd) in self.held.drain(..) {
            // What can't be removed is found by the next who needs it.
            let _ = remove(&path, &fd);
        }
    }
}

/// The folder a path is in, and its name there.
fn entry(path: &Path) -> io::Result<(OwnedFd, CString)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((paths::open(folder, false)?, CString::new(name.as_bytes())?))
}

fn is_marked(found: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    found.is_dir() && found.mtime() == MARK
}

/// Opens a placeholder and locks it, or says that it is none.
fn hold(folder: &OwnedFd, name: &CString, made: bool) -> io::Result<Option<OwnedFd>> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: as in `take`. What is opened is a descriptor of ours.
    let opened = owned(unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) }.into());
    let fd = match opened {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound || made => return Err(error),
        Err(_) => return Ok(None),
    };
    let time = libc::timespec { tv_sec: MARK, tv_nsec: 0 };
    // SAFETY: the array outlives the call, which only reads it; the descriptor is ours.
    if made && unsafe { libc::futimens(fd.as_raw_fd(), [time, time].as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no pointer; the descriptor is ours.
    if unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let file = std::fs::File::from(fd);
    if !names(folder, name, &file)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    let ours = is_marked(&file.metadata()?);
    Ok(ours.then(|| file.into()))
}

/// Whether an entry of a folder is what is open here.
fn names(folder: &OwnedFd, name: &CString, file: &std::fs::File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: all zeroes is a value of this structure, which is plain numbers.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the string ends in NUL, the out-pointer is to a local, and both outlive the call.
    let looked =
        unsafe { libc::fstatat(folder.as_raw_fd(), name.as_ptr(), &mut found, libc::AT_SYMLINK_NOFOLLOW) };
    if looked != 0 {
        return Err(io::Error::last_os_error());
    }
    let open = file.metadata()?;
    Ok((found.st_dev, found.st_ino) == (open.dev(), open.ino()))
}

/// Removes it if nobody else needs it and it is what it was.
fn remove(path: &Path, fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is ours.
    if unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let file = std::fs::File::from(fd.try_clone()?);
    let (folder, name) = entry(path)?;
    if is_marked(&file.metadata()?) && names(&folder, &name, &file)? {
        // SAFETY: as in `take`.
        unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) };
    }
    Ok(())
}

/// Another user, as far as files go. This process's again when it is dropped.
struct Assumed {
    uid: libc::uid_t,
    gid: libc::gid_t,
    groups: Vec<libc::gid_t>,
    dumpable: libc::c_int,
}

impl Assumed {
    fn new(uid: u32, gid: u32, groups: &[u32]) -> io::Result<Assumed> {
        // SAFETY: the buffer is as long as is said and outlives the call; the rest takes integers only and is of this thread.
        let own = unsafe {
            let mut own = vec![0; usize::try_from(libc::getgroups(0, ptr::null_mut())).unwrap_or(0)];
            let count = libc::getgroups(own.len() as libc::c_int, own.as_mut_ptr());
            own.truncate(usize::try_from(count).unwrap_or(0));
            own
        };
        // SAFETY: these take integers only, and change nothing.
        let dumpable = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
        // SAFETY: as above.
        let assumed =
            unsafe { Assumed { uid: libc::geteuid(), gid: libc::getegid(), groups: own, dumpable } };
        if !become_in_files(uid, gid, groups) {
            // What was changed is changed back by dropping.
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(assumed)
    }
}

impl Drop for Assumed {
    fn drop(&mut self) {
        become_in_files(self.uid, self.gid, &self.groups);
        // It is lost by becoming somebody else, if only in files.
        if self.dumpable == 0 || self.dumpable == 1 {
            // SAFETY: integers only, for this process.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, self.dumpable, 0, 0, 0) };
        }
    }
}

/// True exactly when this thread's files are this user's afterwards.
fn become_in_files(uid: u32, gid: u32, groups: &[u32]) -> bool {
    // SAFETY: raw calls, which concern this thread alone; the slice outlives the call, which only reads it. -1 is nobody, and
    // asks who it is.
    unsafe {
        // Root gives up and takes back its groups as root.
        let back = uid == libc::geteuid();
        if back {
            libc::syscall(libc::SYS_setfsuid, uid);
        }
        let grouped = libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0;
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
        let is = |call, id: u32| libc::syscall(call, -1i64) == i64::from(id);
        grouped && is(libc::SYS_setfsgid, gid) && is(libc::SYS_setfsuid, uid)
    }
}
