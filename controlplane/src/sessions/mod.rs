//! Processes: from a request to a plan, from a plan to a child, from a child to its three ends, from its record
//! to oblivion.
//!
//! ```text
//!   request ─plan▶ Plan ─launch▶ Starting ──▶ Running ──▶ Exited ──▶ tree gone, streams closed ─retention▶ forgotten
//!                     └ waits for its id ┘       └─ending─▶ SIGTERM … SIGKILL
//! ```
//!
//! What is written down of a life is in `recording`, what follows on its end in `restart`, what a former kernel
//! has left in `recall`, and what is done for those who read progress out of its output in `adapting`. What a child is kept from is in
//! `containing`, what it executes in `measuring`, what it was denied in
//! `violating`.
//!
//! Invariant: an id names at most one process that is not over. The methods that ask for all this are in
//! `methods/process`, readers of the output in `readers`; [`adoption`] takes over from a kernel that died.

pub(crate) mod adapting;
pub mod adoption;
pub(crate) mod containing;
pub(crate) mod ending;
pub(crate) mod environment;
pub(crate) mod launch;
pub(crate) mod lifecycle;
pub(crate) mod measuring;
pub(crate) mod outlets;
pub(crate) mod outliving;
pub(crate) mod pacing;
pub(crate) mod parting;
pub(crate) mod placing;
pub(crate) mod plan;
pub(crate) mod readers;
pub(crate) mod recall;
pub(crate) mod record;
pub(crate) mod recording;
pub(crate) mod relaying;
pub(crate) mod report;
pub(crate) mod restart;
pub(crate) mod retention;
pub(crate) mod spool;
pub(crate) mod violating;
pub(crate) mod wards;
pub(crate) mod wiring;
pub(crate) mod writing;
