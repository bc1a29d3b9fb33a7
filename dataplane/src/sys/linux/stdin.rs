//! A file as a child's stdin, opened by the child on its way to exec, in the keeper's memory or a copy of it.

use std::ffi::c_char;

/// Makes a file descriptor 0. Whatever it is, opening it doesn't wait: the keeper stands still meanwhile.
pub(super) fn open(path: *const c_char) -> bool {
    // SAFETY: a C string the keeper made for this spawn; the descriptors are this child's.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
        let file = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0);
        file >= 0
            && libc::syscall(libc::SYS_fcntl, file, libc::F_SETFL, 0) >= 0
            && libc::syscall(libc::SYS_dup3, file, 0, 0) == 0
    }
}
