//! What the kernel tells unasked: events of the bus to whoever subscribed, notices to whom they concern.

pub mod pattern;
pub mod record;
pub mod views;

pub(crate) mod bus;
