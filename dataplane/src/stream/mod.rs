//! Streams: where a child's bytes are, who has read how far, and who waits for whom.
//!
//! ```text
//!  child ─pipe─▶ source ─splice─▶ staging ─read─▶ history ◀─ cursor ─ subscriber ─▶ transport
//!  child ◀─pipe─ inflow ◀─ writes, intake ◀─ fifo
//!  child ─pipe─▶ source ───────────splice, tee───────── branch ◀─ subscriber ─▶ transport   (nothing is kept)
//! ```
//!
//! Nothing here does I/O of its own accord: the reactor drives it. [`source`] takes bytes exactly, [`history`]
//! keeps them by offset, [`relay`] lets them by unseen where nothing is kept, [`subscriber`] is a reader's place and how it cuts
//! bytes into frames, [`inflow`] is the way back and [`intake`] from a path into it, [`steps`] how whatever leaves is accounted for, [`throttle`] how fast, [`times`] when. How frames reach a client is the
//! [`transport`](crate::transport)'s matter.

pub mod history;
pub mod inflow;
pub mod intake;
pub mod relay;
pub mod source;
pub mod steps;
pub mod subscriber;
pub mod throttle;
pub mod times;
