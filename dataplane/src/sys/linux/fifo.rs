//! How Linux does it: mknodat, inotify.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Room for some two hundred openings; what doesn't fit comes with the next read.
const EVENTS_BYTES: usize = 4_096;

pub(crate) fn make(path: &Path) -> io::Result<()> {
    Ok(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?)
}

pub(crate) fn watch() -> io::Result<OwnedFd> {
    Ok(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?)
}

pub(crate) fn watch_opening(watch: &OwnedFd, path: &Path) -> io::Result<i32> {
    Ok(inotify::add_watch(watch, path, WatchFlags::OPEN | WatchFlags::ONESHOT)?)
}

pub(crate) fn opened(watch: &OwnedFd, into: &mut Vec<i32>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::OPEN) => into.push(event.wd()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
