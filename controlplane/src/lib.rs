//! The control plane: identity, authorization, sessions, events and methods. Every decision, no stream byte.
//!
//! ```text
//!   reactor ──Control──▶ ControlPlane (a lock) ──▶ Kernel (a pure state machine) ──▶ Commands ──▶ reactor
//! ```
//!
//! [`kernel::Kernel`] takes time and randomness as arguments, does no I/O, starts no thread and never waits, so that
//! it runs whole under a seeded simulation. A request's way: [`kernel`] checks it and finds its row, [`auth`] says who
//! asks and whether it may, `methods` do it, by way of sessions and [`events`] where they must.
//! What moves bytes is the data plane; what travels is the wire's.

#![forbid(unsafe_code)]

pub mod agents;
pub mod audit;
pub mod auth;
mod calls;
mod clock;
pub mod config;
pub mod digest;
pub mod entropy;
pub mod events;
pub mod histogram;
pub mod intents;
mod invariants;
pub mod kernel;
mod methods;
pub mod permissions;
mod pipelines;
pub mod quotas;
pub mod receipts;
pub mod records;
pub mod sessions;
mod shortcut;
mod state;
mod table;
