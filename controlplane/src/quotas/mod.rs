//! Quotas: how much of everything a principal may have at a time.
//!
//! ```text
//!   connection, process ──▶ account ──belongs to──▶ account ──▶ … ──▶ owner or user
//!                           session s               whoever started s
//! ```
//!
//! What somebody has is counted in its *account* and in those above it, so that starting children, or taking other names,
//! is no way around a bound. `holder` says whose an account is, [`bounds`] how much it may have, `ledger` counts,
//! `billing` says what counts for whom, `refusing` what is refused and how that is told. Invariant: each number is what a
//! walk over the tables would count, after every step; `Kernel::broken` walks them.

mod billing;
pub mod bounds;
mod bucket;
pub(crate) mod holder;
pub(crate) mod ledger;
mod refusing;

pub(crate) use billing::Welcome;
