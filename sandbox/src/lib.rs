//! Containment: what was asked for, against what this machine can enforce, gives what is in force.
//!
//! ```text
//!  Profile (asked for) ─┐
//!                       ├─▶ Plan ──▶ applied by the keeper ──▶ Receipt (asked for, in force, why not)
//!  Ability (probed) ────┘
//! ```
//!
//! A plan is a pure function of a [`profile`] and an [`ability`], so every machine can be pretended in a test.
//! Nothing weaker than what was asked for is ever planned silently: it is a refusal, unless weaker was accepted
//! by name. When what is planned is applied is the keeper's to say, between fork and exec; how, is in `enforce`.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(target_os = "macos")]
use macos as platform;

pub use platform::{denials, enforce};

pub mod ability;
pub mod containment;
pub mod environment;
pub mod filter;
pub mod links;
pub mod manifest;
pub mod plan;
pub mod profile;
pub mod protection;
pub mod receipt;
pub mod report;
pub mod seatbelt;
pub mod violation;
pub mod wish;
