//! clone(2) and clone3(2) onto a stack of the child's own, in the keeper's memory or a copy of it.
//!
//! What a child is and does is in `fork`; here is how it comes to run.

use super::fork::{Brief, run_child};
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

const STACK_BYTES: usize = 64 * 1024;
const GUARD_BYTES: usize = 4096;
/// A flag of clone3 alone: libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A stack for one child at a time, with a guard page below.
#[derive(Debug)]
pub(super) struct Stack(*mut c_void);

impl Stack {
    pub(super) fn new() -> io::Result<Stack> {
        let bytes = GUARD_BYTES + STACK_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let low = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if low == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack(low);
        // SAFETY: lies within the mapping just made, which nobody else knows.
        let usable = unsafe { low.byte_add(GUARD_BYTES) };
        // SAFETY: as above.
        if unsafe { libc::mprotect(usable, STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    fn low(&self) -> *mut c_void {
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe { self.0.byte_add(GUARD_BYTES) }
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, which lives as long as `self`.
        unsafe { self.0.byte_add(GUARD_BYTES + STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no child is on it, since clone returns only when it has left.
        unsafe { libc::munmap(self.0, GUARD_BYTES + STACK_BYTES) };
    }
}

fn clone_flags(brief: &Brief) -> c_int {
    let files = if brief.share_files { libc::CLONE_FILES } else { 0 };
    match brief.report {
        -1 => libc::CLONE_VM | libc::CLONE_VFORK | files,
        _ => 0,
    }
}

/// libc's clone, where clone3 is not to be had. A pid, or a negative errno.
pub(super) fn clone(stack: &Stack, brief: &mut Brief) -> i64 {
    extern "C" fn enter(brief: *mut c_void) -> c_int {
        run_child(brief.cast())
    }
    let flags = clone_flags(brief) | libc::SIGCHLD;
    // SAFETY: the stack is mapped, 16-aligned at its top and unused; `brief` and all it points to outlive the
    // call, which returns only when the child has executed or exited (CLONE_VFORK), and nobody else runs.
    let pid = unsafe { libc::clone(enter, stack.top(), flags, ptr::from_mut(brief).cast()) };
    if pid < 0 {
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    } else {
        pid.into()
    }
}

/// clone3(2), which can bear a child into a cgroup. A pid, or a negative errno.
pub(super) fn clone3(stack: &Stack, brief: &mut Brief, cgroup: Option<BorrowedFd<'_>>) -> i64 {
    // SAFETY: clone_args is plain numbers; zero means "not used" for each.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = clone_flags(brief) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.stack = stack.low() as u64;
    arguments.stack_size = STACK_BYTES as u64;
    if let Some(folder) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = folder.as_raw_fd() as u64;
    }
    raw_clone3(&arguments, brief)
}

#[cfg(target_arch = "x86_64")]
fn raw_clone3(arguments: &libc::clone_args, brief: *mut Brief) -> i64 {
    let result: i64;
    // SAFETY: the child starts on the mapped, unused stack that `arguments` names, with nothing of this frame,
    // and goes straight into `run_child`, which never returns. The parent goes on at `2:` once the child is
    // gone (CLONE_VFORK) with all its registers but rax, rcx and r11 as they were; memory is clobbered.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") arguments,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") brief,
            in("r13") run_child as extern "C" fn(*mut Brief) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn raw_clone3(arguments: &libc::clone_args, brief: *mut Brief) -> i64 {
    let result: i64;
    // SAFETY: the child starts on the mapped, unused stack that `arguments` names, with nothing of this frame,
    // and goes straight into `run_child`, which never returns. The parent goes on at `2:` once the child is
    // gone (CLONE_VFORK) with all its registers but x0 as they were; memory is clobbered.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") arguments as *const libc::clone_args => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") brief,
            in("x21") run_child as extern "C" fn(*mut Brief) -> !,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn raw_clone3(_: &libc::clone_args, _: *mut Brief) -> i64 {
    -i64::from(libc::ENOSYS)
}
