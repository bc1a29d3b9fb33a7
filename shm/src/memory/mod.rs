//! Anonymous shared memory of a size that nobody can change any more. This file only chooses the platform.
//!
//! Each platform gives: `anonymous(name, bytes)`, a descriptor of zeroed memory; `seal(fd, writers)`, which fixes the
//! size for good and, for [`Writers::Nobody`], lets no new writable mapping be made where the platform can say so;
//! and `is_fixed(fd)`, whether its size can't change.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use linux::{anonymous, is_fixed, seal};
#[cfg(target_os = "macos")]
pub(crate) use macos::{anonymous, is_fixed, seal};

/// Who may map sealed memory writable from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Whoever has the descriptor.
    Anybody,
    /// Nobody, its maker included; mappings that exist stay.
    Nobody,
}
