//! The audit: reading, verifying, exporting, signing and dropping. What it is, is in [`audit`](crate::audit).

use crate::audit::Order;
use crate::audit::inspecting::{Filter, Inspected, Inspection};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::events::journal::unkept;
use crate::events::log::Types;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::{Pending, Topics};
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::event::KernelAuditPruned;
use kairo_wire::method::Method;
use kairo_wire::methods::audit::{
    AuditCheckpoint, AuditExport, AuditPrune, AuditQuery, AuditQueryParams, AuditStatus, AuditVerify,
};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (AuditQuery::ROW, Answers::Later, query),
    (AuditStatus::ROW, Answers::Later, status),
    (AuditVerify::ROW, Answers::Later, verify),
    (AuditExport::ROW, Answers::Later, export),
    (AuditCheckpoint::ROW, Answers::Later, checkpoint),
    (AuditPrune::ROW, Answers::Later, prune),
];

/// Most records of one answer, and how many there are without a wish.
const RECORDS_MAX: u32 = 1_000;
const RECORDS: u32 = 100;

fn query(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let filter = filter(asking.read::<AuditQuery>()?)?;
    inspect(kernel, turn, asking, Inspected::Records(Box::new(filter)))
}

fn filter(params: AuditQueryParams) -> Result<Filter, WireError> {
    let AuditQueryParams { principal, topic, from_ms, to_ms, intent_id, target, grant, after, limit } =
        params;
    let types = topic.map(|topic| Types::new(topic.as_str())).transpose();
    Ok(Filter {
        principal,
        types: types.map_err(|error| WireError::invalid("type", error))?,
        from_ms: from_ms.unwrap_or(0),
        to_ms: to_ms.unwrap_or(u64::MAX),
        intent: intent_id,
        target,
        grant,
        after: after.unwrap_or(0),
        limit: limit.unwrap_or(RECORDS).clamp(1, RECORDS_MAX) as usize,
    })
}

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<AuditStatus>()?;
    inspect(kernel, turn, asking, Inspected::Standing)
}

fn verify(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<AuditVerify>()?;
    inspect(kernel, turn, asking, Inspected::Soundness(params.after))
}

fn export(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let page = asking.read::<AuditExport>()?;
    if page.after.is_none() {
        order(kernel, Order::Sign { at_ms: wall_ms(turn.at) })?;
    }
    inspect(kernel, turn, asking, Inspected::Lines(page))
}

fn checkpoint(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<AuditCheckpoint>()?;
    order(kernel, Order::Sign { at_ms: wall_ms(turn.at) })?;
    inspect(kernel, turn, asking, Inspected::Checkpoint)
}

fn prune(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let before_ms = asking.read::<AuditPrune>()?.before_ms;
    kernel.takes_events()?;
    // In the same batch as what it does: nothing is dropped without a record of who wanted it.
    let audience = Audience::Administration(kernel.config.owner_uid);
    kernel.publish(turn, audience, &asking.trace, &KernelAuditPruned { before_ms });
    order(kernel, Order::Prune { before_ms, at_ms: wall_ms(turn.at) })?;
    inspect(kernel, turn, asking, Inspected::Standing)
}

fn order(kernel: &mut Kernel, order: Order) -> Result<(), WireError> {
    match &kernel.journal.broken {
        Some(reason) => Err(unkept(reason)),
        None => {
            kernel.journal.order(order);
            Ok(())
        }
    }
}

/// Has the audit looked at, once all that has happened before is in it.
fn inspect(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
    what: Inspected,
) -> Result<(), WireError> {
    let Some(peer) = kernel.state.connections.get(asking.connection) else { return Ok(()) };
    let dialect = peer.dialect;
    let ticket = kernel.park(turn, asking, Pending::Replay { topics: Topics::default() });
    kernel.journal.inspect(Inspection { ticket, dialect, what });
    Ok(())
}
