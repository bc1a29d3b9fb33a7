//! What each method does. A row in the wire's `methods/` has its behaviour in the file of the same name here.
//!
//! A method reads its parameters, looks whether the caller may, and answers or parks the call. What takes more than
//! that (lives of processes, readers, the bus) is in `sessions` and `events`. Invariant: a method that returns an
//! error has answered nothing and parked nothing.

use crate::table::Entry;

pub(crate) mod agent;
pub(crate) mod audit;
pub(crate) mod consumer;
pub(crate) mod device;
pub(crate) mod event;
pub(crate) mod identity;
pub(crate) mod intent;
pub(crate) mod log;
pub(crate) mod open;
pub(crate) mod permission;
pub(crate) mod pipeline;
pub(crate) mod process;
pub(crate) mod publish;
pub(crate) mod quota;
pub(crate) mod stream;
pub(crate) mod system;
pub(crate) mod usage;
pub(crate) mod view;

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static Entry> {
    [
        system::METHODS,
        process::METHODS,
        stream::METHODS,
        open::METHODS,
        event::METHODS,
        intent::METHODS,
        log::METHODS,
        consumer::METHODS,
        view::METHODS,
        identity::METHODS,
        permission::METHODS,
        device::METHODS,
        agent::METHODS,
        quota::METHODS,
        audit::METHODS,
        usage::METHODS,
        pipeline::METHODS,
        publish::METHODS,
    ]
    .into_iter()
    .flatten()
}
