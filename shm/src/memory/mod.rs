//! Anonymous shared memory of a size that nobody can change any more. This file only chooses the platform.
//!
//! Each platform gives: `anonymous(name, bytes)`, a descriptor of zeroed memory; `seal(fd, writers)`, which fixes the
//! size for good and, for [`Writers::Nobody`], lets no new writable mapping be made where the platform can say so;
//! `is_fixed(fd)`, whether its size can't change; `read_only(fd)`, another descriptor of the same memory that can't be
//! written through; `sleep(word, seen, timeout)` with `wake(word)`, for words that several processes share; and
//! `SEND_FLAGS` and `RECEIVE_FLAGS`, for doorbells.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use linux::{RECEIVE_FLAGS, SEND_FLAGS, anonymous, is_fixed, read_only, seal, sleep, wake};
#[cfg(target_os = "macos")]
pub(crate) use macos::{RECEIVE_FLAGS, SEND_FLAGS, anonymous, is_fixed, read_only, seal, sleep, wake};

/// Who may map sealed memory writable from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Whoever has the descriptor.
    Anybody,
    /// Nobody, its maker included; mappings that exist stay.
    Nobody,
    /// Anybody for now: it can be sealed once more.
    Undecided,
}
