//! Pipes with a name in the file system, for programs that know paths only.
//!
//! ```text
//!  BASE/NAME ─ both ends opened, watched ─ its user's, for one side only ─▶ BASE/UID/NAME ─ somebody opens it ─▶ no name
//! ```
//!
//! It is made in a folder that is ours alone and moved to its user's when it is finished, so nobody can put anything else in
//! its place between two steps. Until somebody opens it a [`Plug`] holds the end that is theirs where they read: what is written
//! waits, and nobody finds an end that is none. From then on nobody else can open it, and the end of theirs is the end. Where they
//! write nobody holds theirs: an open file that reads tells by itself whether there was ever a writer, to whoever has it.
//!
//! Invariant: a name is in the file system no longer than its [`Plug`] lives, but for one that is [left](Plug::leave) or of a kernel
//! that is killed; what nobody goes on with, [`prepare`] clears.

use super::pipe;
use super::platform::fifo as platform;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What somebody who opens a fifo does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Reads what we write.
    Reads,
    /// Writes what we read.
    Writes,
}

/// Whose a fifo is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The only one, besides root, who can open it.
    pub uid: u32,
    /// Of that user.
    pub gid: u32,
}

/// A fifo that waits to be opened.
#[derive(Debug)]
pub struct Fifo {
    /// Our end, non-blocking.
    pub ours: OwnedFd,
    /// Keeps it until it is opened.
    pub plug: Plug,
    /// In force, bytes.
    pub capacity_bytes: usize,
}

/// The name of a fifo nobody has opened, and the other end of it if that is needed. Dropped, both are gone.
#[derive(Debug)]
pub struct Plug {
    /// What its opening is told by.
    pub watch: i32,
    name: Name,
    _end: Option<OwnedFd>,
}

impl Plug {
    /// Leaves the name where it is, for whoever goes on.
    pub fn leave(mut self) {
        self.name.0 = PathBuf::new();
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.name.0
    }
}

#[derive(Debug)]
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Whose folder it is may have removed it before.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where fifos are made, and what tells when one is opened. One for each reactor.
#[derive(Debug)]
pub struct Folder {
    base: PathBuf,
    watch: OwnedFd,
}

impl Folder {
    /// Makes fifos in a folder that was [prepared](prepare).
    pub fn open(base: &Path) -> io::Result<Folder> {
        Ok(Folder { base: base.to_path_buf(), watch: platform::watch()? })
    }

    /// A descriptor that is readable when a fifo was opened.
    pub fn ear(&self) -> io::Result<OwnedFd> {
        self.watch.try_clone()
    }

    /// Appends the [watches](Plug::watch) of those that were opened since the last call. Never blocks.
    pub fn opened(&self, into: &mut Vec<i32>) -> io::Result<()> {
        platform::opened(&self.watch, into)
    }

    /// Makes a fifo called `name`, which nobody can guess, for `user`, with room for `bytes` if that can be had.
    pub fn make(&self, name: &str, user: User, side: Side, bytes: usize) -> io::Result<Fifo> {
        let mut path = Name(self.base.join(name));
        platform::make(&path.0)?;
        let open = |access| {
            let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::open(&path.0, flags, Mode::empty())
        };
        let reader = open(OFlags::RDONLY)?;
        let capacity_bytes = pipe::set_capacity(&reader, bytes)?;
        let writer = if side == Side::Reads { Some(open(OFlags::WRONLY)?) } else { None };
        let watch = platform::watch_opening(&self.watch, &path.0)?;
        give(&reader, user)?;
        let mode = if side == Side::Reads { Mode::RUSR } else { Mode::WUSR };
        rustix::fs::fchmod(&reader, mode)?;
        let theirs = self.of(user)?.join(name);
        fs::rename(&path.0, &theirs)?;
        path.0 = theirs;
        let (ours, end) = match writer {
            Some(writer) => (writer, Some(reader)),
            None => (reader, None),
        };
        Ok(Fifo { ours, plug: Plug { watch, name: path, _end: end }, capacity_bytes })
    }

    /// Goes on waiting for somebody to write to a fifo that another kernel made. None if somebody has opened it; its name is gone
    /// then. Errors: it can't be waited for, or its name was removed for another reason.
    pub fn resume(&self, ours: &impl AsFd, path: PathBuf) -> io::Result<Option<Plug>> {
        let name = Name(path);
        // Whoever comes from here on is told of, whoever came before is seen. Who may only write can't watch, its owner or not; and
        // is its owner, or root.
        let only_theirs = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        let mut watch = platform::watch_opening(&self.watch, &name.0);
        if watch.as_ref().is_err_and(only_theirs) {
            rustix::fs::fchmod(ours, Mode::RUSR | Mode::WUSR)?;
            watch = platform::watch_opening(&self.watch, &name.0);
            rustix::fs::fchmod(ours, Mode::WUSR)?;
        }
        if was_opened(ours)? {
            return Ok(None);
        }
        Ok(Some(Plug { watch: watch?, name, _end: None }))
    }

    /// The folder of a user, which is made with the first fifo.
    fn of(&self, user: User) -> io::Result<PathBuf> {
        let path = self.base.join(user.uid.to_string());
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty())?;
        // Another reactor may have made it this moment, and not given it away yet.
        if rustix::fs::fstat(&folder)?.st_uid != user.uid {
            give(&folder, user)?;
        }
        Ok(path)
    }
}

/// True exactly when somebody has opened the other end of a fifo of which `ours` was the first end, and reads.
pub fn was_opened(ours: &impl AsFd) -> io::Result<bool> {
    // Whoever is there first, then whoever was: nobody goes in between. An open file that reads is hung up only if there was a
    // writer in its time (fs/pipe.c), and looking takes nothing out.
    let scratch = pipe::pipe(4_096, pipe::NonBlocking::Both)?;
    match pipe::tee(ours.as_fd(), scratch.writer.as_fd(), 1) {
        Ok(0) => {}
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
        Ok(_) | Err(_) => return Ok(true),
    }
    let mut polled = [PollFd::new(ours, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(!polled[0].revents().is_empty())
}

/// Gives what is ours to a user.
fn give(what: &impl AsFd, user: User) -> io::Result<()> {
    if user.uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let owner = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
    Ok(rustix::fs::fchown(what, Some(owner.0), Some(owner.1))?)
}

/// Makes the folder of a kernel's fifos, empty but for those that are `kept`: what else is there was left by one that was killed.
/// Others find their own folders in it, and see no one else's.
pub fn prepare(base: &Path, kept: &[&Path]) -> io::Result<()> {
    if kept.iter().any(|path| path.symlink_metadata().is_ok() && path.starts_with(base)) {
        for user in fs::read_dir(base)?.flatten() {
            let path = user.path();
            if !kept.iter().any(|kept| kept.parent() == Some(&path)) {
                remove(&path)?;
                continue;
            }
            for left in fs::read_dir(&path)?.flatten().map(|left| left.path()) {
                if !kept.contains(&&*left) {
                    remove(&left)?;
                }
            }
        }
        return Ok(());
    }
    clear(base)?;
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new().mode(0o700).create(base)?;
    fs::set_permissions(base, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

/// Removes the folder with all that is in it. Who waits for the other side of a fifo in there finds its end.
pub fn clear(base: &Path) -> io::Result<()> {
    if base.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    for user in fs::read_dir(base)?.flatten() {
        remove(&user.path())?;
    }
    fs::remove_dir(base)
}

/// Removes the folder, unless somebody goes on with what is in it.
pub fn leave(base: &Path) -> io::Result<()> {
    for user in fs::read_dir(base).into_iter().flatten().flatten() {
        // It has something in it, or nothing.
        let _ = fs::remove_dir(user.path());
    }
    match fs::remove_dir(base) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Ok(())
        }
        removed => removed,
    }
}

/// Removes a fifo, a folder of them, or whatever else is there.
fn remove(path: &Path) -> io::Result<()> {
    let release = |path: &Path| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // What can't be opened is removed all the same.
        drop(rustix::fs::open(path, flags, Mode::empty()));
    };
    let kind = match path.symlink_metadata() {
        Ok(found) => found.file_type(),
        // Whose folder it is may have been quicker.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_dir() {
        if is_fifo(&kind) {
            release(path);
        }
        return fs::remove_file(path);
    }
    let within = fs::read_dir(path).into_iter().flatten().flatten();
    within
        .filter(|entry| entry.file_type().is_ok_and(|kind| is_fifo(&kind)))
        .for_each(|entry| release(&entry.path()));
    fs::remove_dir_all(path)
}

fn is_fifo(kind: &fs::FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(kind)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn me() -> User {
        User { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn opened(folder: &Folder) -> Vec<i32> {
        let mut opened = Vec::new();
        folder.opened(&mut opened).unwrap();
        opened
    }

    #[test]
    fn what_was_written_before_anybody_came_is_there_and_the_name_goes_with_its_plug() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("fifos");
        prepare(&base, &[]).unwrap();
        let folder = Folder::open(&base).unwrap();
        let Fifo { ours, plug, capacity_bytes } = folder.make("name", me(), Side::Reads, 65_536).unwrap();
        let path = plug.path().to_path_buf();
        let found = path.symlink_metadata().unwrap();
        assert!(found.file_type().is_fifo() && found.mode() & 0o777 == 0o400);
        let of_user = path.parent().unwrap().symlink_metadata().unwrap();
        assert_eq!((of_user.mode() & 0o777, of_user.uid()), (0o700, me().uid));
        assert!(capacity_bytes >= 4_096 && opened(&folder).is_empty());
        rustix::io::write(&ours, b"early").unwrap();
        let mut reader = File::open(&path).unwrap();
        assert_eq!(opened(&folder), [plug.watch]);
        drop(plug);
        assert!(!path.exists());
        rustix::io::write(&ours, b" late").unwrap();
        drop(ours);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "early late");
    }

    fn write_end(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn an_open_file_that_reads_knows_whether_there_was_ever_a_writer() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("fifos");
        prepare(&base, &[]).unwrap();
        let folder = Folder::open(&base).unwrap();
        fn wrote(path: &Path) -> OwnedFd {
            let end = write_end(path);
            rustix::io::write(&end, b"x").unwrap();
            end
        }
        // Nobody; one who is there, has written, has gone, has written and gone.
        type Deed = fn(&Path) -> Option<OwnedFd>;
        let deeds: [(Deed, bool); 5] = [
            (|_| None, false),
            (|path| Some(write_end(path)), true),
            (|path| Some(wrote(path)), true),
            (|path| Some(write_end(path)).filter(|_| false), true),
            (|path| Some(wrote(path)).filter(|_| false), true),
        ];
        for (number, (deed, opened)) in deeds.into_iter().enumerate() {
            let Fifo { ours, plug, .. } =
                folder.make(&format!("deed{number}"), me(), Side::Writes, 4_096).unwrap();
            let path = plug.path().to_path_buf();
            // The kernel goes, and the next one comes with nothing but the open file.
            plug.leave();
            assert!(path.exists());
            let end = deed(&path);
            assert_eq!(was_opened(&ours).unwrap(), opened, "deed {number}");
            let resumed = Folder::open(&base).unwrap().resume(&ours, path.clone()).unwrap();
            assert_eq!((resumed.is_none(), path.exists()), (opened, !opened), "deed {number}");
            drop((end, resumed));
        }
        assert_eq!(fs::read_dir(base.join(me().uid.to_string())).unwrap().count(), 0);
    }

    #[test]
    fn the_next_one_is_told_of_an_opening_and_what_is_kept_stays() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("fifos");
        prepare(&base, &[]).unwrap();
        let first = Folder::open(&base).unwrap();
        let [kept, left] = ["kept", "left"].map(|name| {
            let Fifo { ours, plug, .. } = first.make(name, me(), Side::Writes, 4_096).unwrap();
            let path = plug.path().to_path_buf();
            plug.leave();
            (ours, path)
        });
        drop(first);
        fs::write(base.join("unfinished"), b"").unwrap();
        prepare(&base, &[&kept.1]).unwrap();
        assert!(kept.1.exists() && !left.1.exists() && fs::read_dir(&base).unwrap().count() == 1);
        let next = Folder::open(&base).unwrap();
        let plug = next.resume(&kept.0, kept.1.clone()).unwrap().unwrap();
        assert_eq!(kept.1.symlink_metadata().unwrap().mode() & 0o777, 0o200);
        let writer = write_end(&kept.1);
        assert_eq!(opened(&next), [plug.watch]);
        // Left with somebody's fifo in it the folder stays; without, it goes.
        leave(&base).unwrap();
        assert!(kept.1.exists());
        drop((plug, writer));
        leave(&base).unwrap();
        assert!(!base.exists());
        // What has no name any more can't be waited for.
        prepare(&base, &[&kept.1]).unwrap();
        let Fifo { ours, plug, .. } = next.make("gone", me(), Side::Writes, 4_096).unwrap();
        let path = plug.path().to_path_buf();
        drop(plug);
        assert_eq!(next.resume(&ours, path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn whoever_waits_at_what_a_killed_kernel_left_is_let_go() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("fifos");
        prepare(&base, &[]).unwrap();
        let folder = Folder::open(&base).unwrap();
        let left = [("read", Side::Reads), ("written", Side::Writes)].map(|(name, side)| {
            let fifo = folder.make(name, me(), side, 4_096).unwrap();
            let path = fifo.plug.path().to_path_buf();
            // As a kill does: the ends go, the name stays.
            let kept = path.with_extension("kept");
            fs::hard_link(&path, &kept).unwrap();
            drop(fifo);
            kept
        });
        let [read, written] = left;
        let (say, said) = std::sync::mpsc::channel();
        let say_too = say.clone();
        let me = || rustix::thread::gettid().as_raw_nonzero();
        let reader = std::thread::spawn(move || {
            say.send(me()).unwrap();
            let mut bytes = Vec::new();
            File::open(read).unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        });
        let writer = std::thread::spawn(move || {
            say_too.send(me()).unwrap();
            File::options().write(true).open(written).unwrap().write_all(b"lost")
        });
        for thread in said.iter().take(2) {
            // It has nothing to sleep for but open(2).
            let sleeps = || {
                let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S'))
            };
            while !sleeps() {
                std::thread::yield_now();
            }
        }
        prepare(&base, &[]).unwrap();
        assert!(reader.join().unwrap().is_empty());
        // Its reader was there and is gone.
        drop(writer.join().unwrap());
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        clear(&base).unwrap();
        assert!(!base.exists());
    }
}
