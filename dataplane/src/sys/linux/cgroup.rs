//! cgroup v2 folders: one per session, where this machine lets us make them.
//!
//! A folder holds exactly a tree: children are born into it, `cgroup.kill` ends all of them at once, and
//! `cgroup.events` says when nobody is left. None of this needs a controller; limits do. Ours stand in
//! `kairo-PID` below our own cgroup, so that what a keeper that died left behind can be told and removed.
//! Which sessions get one is the keeper's business.

use crate::command::CgroupLimits;
use crate::keeper::protocol::{Limit, Mechanism};
use kairo_sandbox::ability::{LEAF, is_managed, own_cgroup};
use rustix::fs::{AtFlags, Mode, OFlags, inotify};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The folder of all sessions of this keeper.
#[derive(Debug)]
pub(crate) struct Cgroups {
    path: PathBuf,
    folder: OwnedFd,
    news: OwnedFd,
    born: u64,
}

/// The folder of one session. To be given back to [`Cgroups::remove`].
#[derive(Debug)]
#[must_use = "a cgroup stays until it is removed"]
pub(crate) struct Cgroup {
    name: String,
    watched: bool,
}

/// The controllers limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Length of a period of `cpu.max`, microseconds.
const CPU_PERIOD_US: u64 = 100_000;

impl Cgroups {
    /// Makes our folder below our own cgroup, with every controller that can be had. `movable` says whether a
    /// process may be moved aside into a leaf of its own: a cgroup that has processes cannot give controllers
    /// to its children. Errors: no cgroup v2, or not ours to write.
    pub(crate) fn establish(movable: impl Fn(i32) -> bool) -> io::Result<Cgroups> {
        let own = own_cgroup().ok_or_else(|| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        remove_leftovers(&own);
        let path = own.join(format!("kairo-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        let established = Cgroups::within(&own, &path, movable);
        if established.is_err() {
            let _ = std::fs::remove_dir(&path);
        }
        established
    }

    fn within(own: &Path, path: &Path, movable: impl Fn(i32) -> bool) -> io::Result<Cgroups> {
        // A child is born there only if we may also take processes from where we are.
        rustix::fs::access(own.join("cgroup.procs"), rustix::fs::Access::WRITE_OK)?;
        if enable(own).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) && !is_managed(own) {
            step_aside(own, movable);
            // Refused again: limits are refused then, one by one, for want of their files.
            let _ = enable(own);
        }
        let _ = enable(path);
        let folder = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let news = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        Ok(Cgroups { path: path.to_owned(), folder, news, born: 0 })
    }

    /// A new folder with these limits, and what is in force. `ENOENT`: a controller isn't delegated to us.
    pub(crate) fn create(&mut self, limits: &CgroupLimits) -> io::Result<(Cgroup, Vec<Limit>)> {
        let name = format!("s{}", self.born);
        self.born += 1;
        rustix::fs::mkdirat(&self.folder, &name, Mode::from_raw_mode(0o755))?;
        let cgroup = Cgroup { name, watched: false };
        match self.limit(&cgroup, limits) {
            Ok(in_force) => Ok((cgroup, in_force)),
            Err(error) => {
                self.remove(cgroup);
                Err(error)
            }
        }
    }

    fn limit(&self, cgroup: &Cgroup, limits: &CgroupLimits) -> io::Result<Vec<Limit>> {
        let mut in_force = Vec::new();
        let mut put = |name: &str, file: &str, text: String, value: u64| -> io::Result<()> {
            self.write(cgroup, file, text.as_bytes())?;
            in_force.push(Limit { name: name.to_owned(), mechanism: Mechanism::Cgroup, value });
            Ok(())
        };
        if let Some(bytes) = limits.memory_bytes {
            put("memory", "memory.max", bytes.to_string(), bytes)?;
            // Without swap accounting there is no such file, and no swap to go past the limit into either.
            let _ = self.write(cgroup, "memory.swap.max", b"0");
        }
        if let Some(percent) = limits.cpu_percent {
            let quota = u64::from(percent) * CPU_PERIOD_US / 100;
            put("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}"), percent.into())?;
        }
        if let Some(count) = limits.pids {
            put("pids", "pids.max", count.to_string(), count)?;
        }
        Ok(in_force)
    }

    /// The folder, for a child to be born in.
    pub(crate) fn open(&self, cgroup: &Cgroup) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(rustix::fs::openat(&self.folder, &cgroup.name, flags, Mode::empty())?)
    }

    /// True exactly when a process that isn't dead is in the folder or below it.
    pub(crate) fn populated(&self, cgroup: &Cgroup) -> bool {
        let mut text = [0u8; 128];
        let read = self
            .file(cgroup, "cgroup.events", OFlags::RDONLY)
            .and_then(|file| Ok(rustix::io::read(&file, &mut text)?));
        // A folder that is gone has nobody in it.
        read.is_ok_and(|read| memchr::memmem::find(&text[..read], b"populated 1").is_some())
    }

    /// Makes [`Cgroups::as_fd`] readable when `populated` changes.
    pub(crate) fn watch(&self, cgroup: &mut Cgroup) -> io::Result<()> {
        if !cgroup.watched {
            let path = self.path.join(&cgroup.name).join("cgroup.events");
            inotify::add_watch(&self.news, &path, inotify::WatchFlags::MODIFY)?;
            cgroup.watched = true;
        }
        Ok(())
    }

    /// Takes the news: it says only that something changed somewhere.
    pub(crate) fn take_news(&self) {
        let mut space = [0u8; 1024];
        while matches!(rustix::io::read(&self.news, &mut space), Ok(read) if read > 0) {}
    }

    /// Everybody in the folder and below it.
    pub(crate) fn members(&self, cgroup: &Cgroup, into: &mut Vec<i32>) {
        collect(&self.path.join(&cgroup.name), into);
    }

    /// SIGKILL to everybody at once, whatever they fork. `ENOENT` before Linux 5.14.
    pub(crate) fn kill(&self, cgroup: &Cgroup) -> io::Result<()> {
        self.write(cgroup, "cgroup.kill", b"1")
    }

    /// Removes the folder, and those a member made below it.
    pub(crate) fn remove(&mut self, cgroup: Cgroup) {
        // The watch goes with the file.
        if rustix::fs::unlinkat(&self.folder, &cgroup.name, AtFlags::REMOVEDIR) == Err(Errno::BUSY) {
            remove_empty(&self.path.join(&cgroup.name));
        }
    }

    fn write(&self, cgroup: &Cgroup, file: &str, text: &[u8]) -> io::Result<()> {
        let file = self.file(cgroup, file, OFlags::WRONLY)?;
        rustix::io::write(&file, text)?;
        Ok(())
    }

    fn file(&self, cgroup: &Cgroup, file: &str, access: OFlags) -> io::Result<OwnedFd> {
        let path = format!("{}/{file}", cgroup.name);
        Ok(rustix::fs::openat(&self.folder, path, access | OFlags::CLOEXEC, Mode::empty())?)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove_empty(&self.path);
    }
}

impl AsFd for Cgroups {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }
}

/// Hands down what there is of our controllers, all at once: `cpu` and `pids` alone would be handed down with
/// processes in the way, as for threads, and then stand in the way of everything else.
fn enable(folder: &Path) -> io::Result<()> {
    let offered = std::fs::read_to_string(folder.join("cgroup.controllers"))?;
    let wanted = CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|word| word == *name));
    let request: Vec<String> = wanted.map(|name| format!("+{name}")).collect();
    std::fs::write(folder.join("cgroup.subtree_control"), request.join(" "))
}

/// Moves everybody in `own` into a leaf beside the sessions, if all of them may be moved.
fn step_aside(own: &Path, movable: impl Fn(i32) -> bool) {
    let mut members = Vec::new();
    members_of(own, &mut members);
    if !members.iter().all(|pid| movable(*pid)) {
        return;
    }
    let leaf = own.join(LEAF);
    // There already if a kernel before us stepped aside.
    let _ = std::fs::create_dir(&leaf);
    for pid in members {
        // Gone since, or refused: then the controllers are refused too, and that is reported.
        let _ = std::fs::write(leaf.join("cgroup.procs"), pid.to_string());
    }
}

fn members_of(folder: &Path, into: &mut Vec<i32>) {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
}

fn collect(folder: &Path, into: &mut Vec<i32>) {
    members_of(folder, into);
    each_folder(folder, |below| collect(below, into));
}

fn remove_empty(folder: &Path) {
    each_folder(folder, remove_empty);
    let _ = std::fs::remove_dir(folder);
}

fn each_folder(folder: &Path, mut act: impl FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            act(&entry.path());
        }
    }
}

/// Removes what keepers that are gone have left below our cgroup, where nobody is in it any more.
pub fn clear_leftovers() {
    if let Some(own) = own_cgroup() {
        remove_leftovers(&own);
    }
}

/// Removes the empty folders of keepers that are gone.
fn remove_leftovers(own: &Path) {
    each_folder(own, |folder| {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let pid = name.strip_prefix("kairo-").and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_empty(folder);
        }
    });
}
