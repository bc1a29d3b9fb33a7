//! Who the caller is, and what is kept from it.

use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::Place;
use crate::table::{Answers, Entry};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::Method;
use kairo_wire::methods::permission::{Identify, IdentifyResult, IdentifyStatus, VaultGet};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] =
    &[(Identify::ROW, Answers::AtOnce, identify), (VaultGet::ROW, Answers::AtOnce, vault_get)];

/// Longest name of a skill, bytes: it is kept with everything the skill starts.
const SKILL_BYTES_MAX: usize = 255;

fn identify(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Identify>()?;
    if let Some(name) = params.skill_id.filter(|name| !name.is_empty()) {
        if name.len() > SKILL_BYTES_MAX {
            return Err(WireError::invalid("skillId", format!("at most {SKILL_BYTES_MAX} bytes")));
        }
        let before = kernel.principal(asking.connection);
        let Some(after) = before.lowered(&name, kernel.config.owner_uid) else {
            let message = format!("the connection acts as {before} already, for all its life");
            return Err(WireError::new(Code::Conflict, message));
        };
        kernel.act_as(turn, asking.connection, after)?;
        end_unseen(kernel, turn, asking.connection);
    }
    kernel.answer(turn, asking, &IdentifyResult { status: IdentifyStatus::Identified });
    Ok(())
}

/// Whoever has given up rights no longer reads what it may not see.
fn end_unseen(kernel: &mut Kernel, turn: &mut Turn<'_>, connection: ConnectionKey) {
    let Some(peer) = kernel.state.connections.get(connection) else { return };
    let is_unseen = |serial: &&u64| {
        let Some(stream) = kernel.state.streams.get(serial) else { return false };
        let creator = match &stream.place {
            Place::Reading { process, .. } => {
                kernel.state.processes.get(process).map(|process| &process.creator)
            }
            Place::Following { creator } => Some(creator),
            Place::Waiting { .. } => None,
        };
        creator.is_some_and(|creator| !may_touch(&peer.principal, creator))
    };
    let unseen: Vec<u64> = peer.streams.iter().filter(is_unseen).copied().collect();
    for serial in unseen {
        kernel.end_reader(turn, serial, Departure::Unasked);
    }
}

fn vault_get(_: &mut Kernel, _: &mut Turn<'_>, _: &Asking<'_>) -> Result<(), WireError> {
    Err(WireError::vault_unavailable())
}
