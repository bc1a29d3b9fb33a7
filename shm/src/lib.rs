//! The ring that carries a stream's bytes, in memory that several processes can map.
//!
//! A ring is one sealed `memfd`: a header page, the *head* (the first bytes of the stream, kept for good) and the
//! *tail* (the latest bytes, a circle). The tail is mapped twice in a row, so every run of bytes in it is one
//! contiguous slice. Bytes are named by their offset in the stream, never by their place in memory.
//!
//! ```text
//!  file    | header | head ........ | tail ................ |
//!  memory  | header | head ........ | tail ................ | tail again ......... |
//! ```
//!
//! Invariant: `taken − tail_bytes ≤ oldest ≤ taken ≤ expected`. [`layout`] says where things are, [`writer`] owns
//! the only writable mapping, [`reader`] is what everybody else has, [`seat`] is where one of them stands, [`shared`] is
//! all of it from a client's side, [`producer`] a ring that a client writes, and [`follow`] one whose kernel died. [`page`] is the note a reactor leaves about the stream it is just moving, [`inbox`] is
//! the way in: bytes that wait for a child to read them. What a stream *is* is not known here; see the data plane.

pub mod follow;
pub mod inbox;
pub mod layout;
mod map;
mod memory;
pub mod page;
pub mod producer;
pub mod reader;
pub mod seat;
pub mod shared;
mod words;
pub mod writer;
