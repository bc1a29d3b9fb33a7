//! Adapters: a declared parser turns what a program says anyway into progress that everybody understands.
//!
//! A declaration ([`declaration`]) is data, shipped with the program or written by the user; [`parser`] reads bytes
//! under it and yields [`progress::Progress`]. Nothing in these three touches a descriptor or a clock: bytes and time are
//! arguments, so that the same bytes give the same events however they were cut. [`registry`] is all declarations there are,
//! [`catalogue`] what the control plane wants to know of them at a spawn. [`host`] is the thread that reads, [`side`] the files
//! that programs report into.
//!
//! The room is here and not in the control plane because that one sees no byte of a stream and has no use for patterns;
//! `regex` and `toml` are this crate's already. The invariant: whatever a program writes costs bounded memory and
//! linear time, and a line that makes no sense is counted and never ends anything.

pub(crate) mod catalogue;
pub(crate) mod declaration;
pub(crate) mod host;
mod lines;
pub(crate) mod parser;
pub(crate) mod progress;
pub(crate) mod registry;
pub(crate) mod side;
