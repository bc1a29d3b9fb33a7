//! Everything that happens is an event: it gets its place in one order, is kept, and is told to whoever may hear of it.
//!
//! ```text
//!   publish ─▶ bus ─▶ journal ─▶ outlet ═▶ log        what is written is told: ─▶ bus ─▶ subscribers
//!                                   following ◀══ reading ══ log      what was, for those who come later or are slow
//! ```

pub mod ahead;
pub mod batch;
pub mod compacting;
pub mod consumers;
pub mod form;
pub mod log;
pub mod outlet;
pub mod pattern;
pub mod reading;
pub mod record;
pub mod views;
pub mod writing;

pub(crate) mod bus;
pub(crate) mod following;
pub(crate) mod journal;
pub(crate) mod matching;
pub(crate) mod publishing;
pub(crate) mod requesting;
pub(crate) mod story;
pub(crate) mod watching;
