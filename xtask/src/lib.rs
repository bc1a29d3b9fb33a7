//! What the workshop does to the kernel that no user would.
//!
//! [`chaos`] kills kernels under a load and counts; [`child`] is what the load is made of; [`soak`] runs real programs through
//! a kernel and compares. They are a library so that `cargo test` runs the same rounds as `cargo xtask`. Nothing here links the kernel or its client
//! library: what is checked is checked from outside, over the wire and `/proc`. Only a ring that is written in place is mapped as any client maps it.
//!
//! Not here: the commands' flags (`main`).

#![forbid(unsafe_code)]

pub mod chaos;
pub mod child;
pub mod soak;
pub(crate) mod support;
