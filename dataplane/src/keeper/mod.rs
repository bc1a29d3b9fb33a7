//! The keeper: a small process that starts children, holds their descriptors and reaps them.
//!
//! ```text
//!  reactor 0 ──lane── ┐                                ┌── child ── descendants
//!  reactor 1 ──lane── ┤ keeper: fork, hold, reap, kill ├── child
//!                     └── (hands over to a successor)  └── child
//! ```
//!
//! It is a process of its own because a child can't outlive its parent's memory of it: while the keeper lives,
//! the children of a kernel that died are still somebody's, with their pipes, rings and exit codes. It is also
//! the only one that forks, with a small memory and one thread. Nobody reaches it but over its lanes, which
//! only the kernel that launched it has; it holds kernel-side ends only, never a child's.
//!
//! A kernel needs [`link`]; whoever comes after a dead one [`successor`] and [`settlement`]. What a child may do is decided
//! elsewhere.

mod checking;
mod flags;
mod handover;
mod lane;
mod lingering;
pub mod link;
pub mod main;
mod producers;
pub mod protocol;
mod session;
pub mod settlement;
mod signalling;
mod spawn;
mod stdio;
pub(crate) mod succession;
pub mod successor;
mod testament;
mod tree;
