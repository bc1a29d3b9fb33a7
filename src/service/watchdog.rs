//! Signs of life for a service manager: sent only after every reactor and the control plane have shown one.
//!
//! A thread of its own, started only if the manager asks. It asks each reactor by mail, as commands come, and takes the
//! control plane's lock, as every call does. What is stuck on either doesn't answer, and then nothing is sent: the manager
//! ends this kernel and starts another.

use super::Service;
use kairo_controlplane::kernel::ControlPlane;
use kairo_dataplane::plane::PlaneHandle;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// Starts it, if it is wanted. It ends with the process.
pub(crate) fn watch(
    service: &Arc<Service>,
    plane: PlaneHandle,
    control: &Arc<ControlPlane>,
) -> io::Result<()> {
    let Some(patience) = service.watchdog() else { return Ok(()) };
    let (service, control) = (Arc::clone(service), Arc::clone(control));
    let keep_watch = move || {
        loop {
            let begun = Instant::now();
            if all_alive(&plane, &control, patience / 2) {
                service.tell(&["WATCHDOG=1"]);
            } else {
                tracing::error!(component = "service", "no sign of life from every reactor in time");
            }
            std::thread::sleep((patience / 2).saturating_sub(begun.elapsed()));
        }
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(keep_watch)?;
    Ok(())
}

fn all_alive(plane: &PlaneHandle, control: &ControlPlane, within: Duration) -> bool {
    let until = Instant::now() + within;
    // Never returns while somebody sits on the lock.
    control.with(|_| ());
    let (reactors, signs) = plane.pulse();
    let mut alive = std::collections::BTreeSet::new();
    while alive.len() < usize::from(reactors) {
        match signs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(reactor) => alive.insert(reactor),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        };
    }
    true
}
