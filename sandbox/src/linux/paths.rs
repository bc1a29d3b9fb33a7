//! Granted paths, opened so that nobody who may have been there before can send a grant elsewhere.
//!
//! A contained program that may make files in a folder could leave a symbolic link there under a name that the next
//! spawn grants. So no link is followed to where things may be changed, and to where they may only be read one that
//! is root's: systems are full of those (`/bin`, `/lib64`). Anything else grants nothing and is listed as missing.

use super::owned;
use crate::links::without_links;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// linux/openat2.h
const RESOLVE_NO_SYMLINKS: u64 = 0x04;

/// `struct open_how`.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens what a path names, to be named in a rule and for nothing else.
pub(super) fn open(path: &Path, follows_roots_links: bool) -> io::Result<OwnedFd> {
    match open_plain(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) && follows_roots_links => {
            open_plain(&without_links(path)?)
        }
        outcome => outcome,
    }
}

fn open_plain(path: &Path) -> io::Result<OwnedFd> {
    owned(open_without_links(&CString::new(path.as_os_str().as_bytes())?))
}

/// openat2(2) and nothing else.
pub(super) fn open_without_links(path: &CStr) -> libc::c_long {
    let how =
        OpenHow { flags: (libc::O_PATH | libc::O_CLOEXEC) as u64, mode: 0, resolve: RESOLVE_NO_SYMLINKS };
    // SAFETY: a C string and a structure of the size given, both of which outlive the call.
    unsafe {
        let (how, size) = (ptr::from_ref(&how), size_of::<OpenHow>());
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    fn is_root() -> bool {
        std::fs::metadata("/proc/self").unwrap().uid() == 0
    }

    #[test]
    fn roots_links_lead_to_what_is_read_and_nobodys_to_what_is_changed() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().canonicalize().unwrap().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("file"), "x").unwrap();
        let link = there.with_file_name("link");
        symlink("./there/../there", &link).unwrap();
        let through = link.join("file");
        assert!(open(&there.join("file"), false).is_ok());
        assert_eq!(open(&through, false).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(open(&through, true).is_ok(), is_root());
        if is_root() {
            lchown(&link, Some(65_534), Some(65_534)).unwrap();
            assert_eq!(open(&through, true).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
        symlink("round", there.with_file_name("round")).unwrap();
        assert!(open(&there.with_file_name("round"), true).is_err());
        assert!(open(&there.join("nothing"), true).is_err());
    }
}
