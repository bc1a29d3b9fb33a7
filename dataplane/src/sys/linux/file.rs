//! How Linux does it: inotify, fallocate, lseek.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Room for a few dozen changes; what doesn't fit comes with the next read.
const EVENTS_BYTES: usize = 4_096;

pub(crate) fn watch_folder(folder: &Path) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // Not CLOSE_WRITE: whoever opens a file to give a part of it back would be told of that, and look again for ever.
    let news = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, folder, news | WatchFlags::ONLYDIR)?;
    Ok(watch)
}

pub(crate) fn changed(watch: &OwnedFd) -> io::Result<Option<Vec<OsString>>> {
    let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut names: Vec<OsString> = Vec::new();
    let mut overflow = false;
    loop {
        match events.next() {
            Ok(event) => {
                overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                if let Some(name) = event.file_name() {
                    let name = OsStr::from_bytes(name.to_bytes());
                    if names.last().is_none_or(|last| last != name) {
                        names.push(name.to_owned());
                    }
                }
            }
            Err(Errno::AGAIN) => return Ok(if overflow { None } else { Some(names) }),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(crate) fn punch(file: &File, end: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, end)?)
}

pub(crate) fn first_data(file: &File) -> u64 {
    seek(file, SeekFrom::Data(0)).unwrap_or(0)
}
