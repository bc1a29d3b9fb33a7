//! Who asks, and what they may do.
//!
//! ```text
//!   principal (what the operating system says about the peer) ─▶ subject (the names it goes by)
//!                                                                    │
//!   policy (what its kind may) · snapshot (what was granted) · rules (what the owner wrote down)
//!                                                                    ▼
//!                                                     decision ─▶ yes, by which grant; or no, and why
//!   grant: whether it may touch that process · resource: when what was granted has all of what is asked for
//! ```

pub mod decision;
pub mod grant;
pub mod policy;
pub mod principal;
pub(crate) mod resource;
pub mod rules;
pub mod snapshot;
pub mod subject;
