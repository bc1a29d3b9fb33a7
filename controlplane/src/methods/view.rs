//! Views: reading, defining, watching. What they are made of is in [`views`](crate::events::views), which is asked off the
//! lock; how a watcher is told is in [`watching`](crate::events::watching).

use crate::calls::{Asking, Turn};
use crate::clock::after_ms;
use crate::events::journal::unkept;
use crate::events::outlet::{Inquiry, Wanted};
use crate::kernel::Kernel;
use crate::state::{Pending, Timer, Topics};
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::method::Method;
use kairo_wire::methods::view::{Changes, Define, Drop, Get, List, Rebuild, Watch};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Define::ROW, Answers::Later, define),
    (Drop::ROW, Answers::Later, drop),
    (Rebuild::ROW, Answers::Later, rebuild),
    (List::ROW, Answers::Later, list),
    (Get::ROW, Answers::Later, get),
    (Changes::ROW, Answers::Later, changes),
    (Watch::ROW, Answers::Later, watch),
];

fn define(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Define>()?;
    kernel.may_hear(turn.at, asking.connection, asking.method, &[params.definition.topic.as_str().into()])?;
    change(kernel, turn, asking, Wanted::Define(Box::new(params.definition)))
}

fn drop(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Drop>()?;
    change(kernel, turn, asking, Wanted::Drop(params.name))
}

fn rebuild(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Rebuild>()?;
    change(kernel, turn, asking, Wanted::Rebuild(params.name))
}

fn list(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<List>()?;
    let hearing = Box::new(kernel.hearing(turn.at, asking.connection));
    inquire(kernel, turn, asking, Pending::Replay { topics: Topics::default() }, Wanted::List(hearing));
    Ok(())
}

fn get(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Get>()?;
    inquire(kernel, turn, asking, Pending::Replay { topics: Topics::default() }, Wanted::Get(params));
    Ok(())
}

fn changes(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let of = asking.read::<Changes>()?;
    let pending = Pending::Changes { since: of.since, topics: Topics::default(), timer: None };
    let wait_ms = of.wait_ms;
    let ticket = inquire(kernel, turn, asking, pending, Wanted::Poll(of));
    let (Some(wait_ms), Some(call)) = (wait_ms, ticket) else { return Ok(()) };
    let armed = kernel.arm(turn, asking.connection.reactor, after_ms(turn.at, wait_ms.into()));
    kernel.state.timers.insert(armed.serial, Timer::Patience { call });
    if let Some(Pending::Changes { timer, .. }) =
        kernel.state.calls.get_mut(&call).map(|call| &mut call.pending)
    {
        *timer = Some(armed);
    }
    Ok(())
}

fn watch(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let of = asking.read::<Watch>()?;
    kernel.may_subscribe(turn, asking.connection)?;
    inquire(kernel, turn, asking, Pending::Watch { of: of.clone() }, Wanted::Begin(of));
    Ok(())
}

/// What is changed has to be kept.
fn change(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    what: Wanted,
) -> Result<(), WireError> {
    if let Some(reason) = &kernel.journal.broken {
        return Err(unkept(reason));
    }
    inquire(kernel, turn, asking, Pending::Replay { topics: Topics::default() }, what);
    Ok(())
}

/// Asks the views; the ticket of the call that waits.
fn inquire(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    pending: Pending,
    what: Wanted,
) -> Option<u64> {
    let peer = kernel.state.connections.get(asking.connection)?;
    let hearer = peer.hearer();
    let ticket = kernel.park(turn, asking, pending);
    kernel.journal.inquire(Inquiry::Want { ticket, what, hearer });
    Some(ticket)
}
