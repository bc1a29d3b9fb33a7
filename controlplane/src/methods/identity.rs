//! Who the caller is, and what is kept from it.

use crate::auth::grant::may_touch;
use crate::auth::principal::{AGENT, Principal};
use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::Place;
use crate::table::{Answers, Entry};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::Method;
use kairo_wire::methods::identity::{Identify, IdentifyParams, IdentifyResult, IdentifyStatus, VaultGet};
use std::sync::Arc;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] =
    &[(Identify::ROW, Answers::AtOnce, identify), (VaultGet::ROW, Answers::AtOnce, vault_get)];

/// Longest name of a skill, bytes: it is kept with everything the skill starts.
const SKILL_BYTES_MAX: usize = 255;

fn identify(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Identify>()?;
    if let Some(name) = name_of(kernel, asking, &params)? {
        let before = kernel.principal(asking.connection);
        let Some(after) = before.lowered(&name, kernel.config.owner_uid) else {
            let message = format!("the connection acts as {before} already, for all its life");
            return Err(WireError::new(Code::Conflict, message));
        };
        let session = params.agent_session.as_deref().map(Arc::from);
        kernel.act_as(turn, asking.connection, after)?;
        if let Some(peer) = kernel.state.connections.get_mut(asking.connection) {
            peer.agent_session = session.or(peer.agent_session.take());
        }
        kernel.note_names(asking.connection);
        end_unseen(kernel, turn, asking.connection);
        kernel.close_unallowed(turn, asking.connection);
    }
    kernel.answer(turn, asking, &IdentifyResult { status: IdentifyStatus::Identified });
    Ok(())
}

/// As what the connection is to act, if it says so.
fn name_of(
    kernel: &Kernel,
    asking: &Asking<'_>,
    params: &IdentifyParams,
) -> Result<Option<String>, WireError> {
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    match (said(&params.skill_id), said(&params.agent_id)) {
        (Some(_), Some(_)) => {
            Err(WireError::invalid("agentId", "a connection acts as a skill or as an agent"))
        }
        (_, None) if said(&params.agent_session).is_some() => {
            Err(WireError::invalid("agentSession", "it goes with agentId"))
        }
        (Some(name), None) if name.len() > SKILL_BYTES_MAX => {
            Err(WireError::invalid("skillId", format!("at most {SKILL_BYTES_MAX} bytes")))
        }
        (Some(name), None) if name.starts_with(AGENT) => {
            Err(WireError::invalid("skillId", "it begins as the name of an agent does: agentId takes those"))
        }
        (Some(name), None) => Ok(Some(name)),
        (None, Some(agent)) => {
            let principal = kernel.principal(asking.connection);
            if !matches!(principal, Principal::Owner | Principal::User { .. }) {
                let why = "what the kernel has started is an agent by the session it was started in";
                return Err(WireError::denied(asking.method, why));
            }
            let uid = principal.uid(kernel.config.owner_uid);
            let there = kernel.agents.agents.contains_key(&(uid, Arc::from(agent.as_str())));
            let session = match &params.agent_session {
                Some(id) => Some(kernel.agent_session(id)?.1),
                None => None,
            };
            let of_another = session.is_some_and(|session| session.uid != uid || *session.agent != *agent);
            if !there || of_another {
                let what =
                    if there { "this session is of another agent" } else { "there is no agent of this name" };
                return Err(WireError::new(Code::NotFound, what).with("agent", agent));
            }
            Ok(Some(format!("{AGENT}{agent}")))
        }
        (None, None) => Ok(None),
    }
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
