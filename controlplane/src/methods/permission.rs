//! Who the caller is, what it may, and what is decided about that. How requests, grants and their ends come about is in
//! [`permissions`](crate::permissions).

use crate::auth::decision::{Deed, Denial, Verdict};
use crate::auth::grant::may_touch;
use crate::auth::principal::{AGENT, Principal};
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::asking::clause;
use crate::sessions::readers::Departure;
use crate::state::Place;
use crate::table::{Answers, Entry};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::{self, Method};
use kairo_wire::methods::permission::{
    Approve, Can, CanParams, CanResult, Deny, DenyResult, Give, GrantScope, Grants, GrantsResult, Identify,
    IdentifyParams, IdentifyResult, IdentifyStatus, Pending, PendingResult, Request, Revoke, SmallestGrant,
    VaultGet,
};
use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::{Permission, PermissionScope};
use std::ops::Bound;
use std::sync::Arc;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Identify::ROW, Answers::AtOnce, identify),
    (VaultGet::ROW, Answers::AtOnce, vault_get),
    (Request::ROW, Answers::Later, request),
    (Pending::ROW, Answers::AtOnce, pending),
    (Approve::ROW, Answers::Later, approve),
    (Deny::ROW, Answers::Later, deny),
    (Give::ROW, Answers::Later, give),
    (Grants::ROW, Answers::AtOnce, grants),
    (Revoke::ROW, Answers::Later, revoke),
    (Can::ROW, Answers::AtOnce, can),
];

/// Longest name of a skill, bytes: it is kept with everything the skill starts.
const SKILL_BYTES_MAX: usize = 255;
/// Grants of one page, and without a wish.
const PAGE_MAX: u32 = 1_000;
const PAGE: u32 = 100;

fn identify(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Identify>()?;
    if let Some(name) = name_of(kernel, asking, &params)? {
        let before = kernel.principal(asking.connection);
        let Some(after) = before.lowered(&name, kernel.config.owner_uid) else {
            let message = format!("the connection acts as {before} already, for all its life");
            return Err(WireError::new(Code::Conflict, message));
        };
        let session = params.agent_session.as_deref().map(Arc::from);
        if let Some(peer) = kernel.state.connections.get_mut(asking.connection) {
            if peer.principal != after {
                peer.principal = after;
                peer.party = None;
                peer.rights = Default::default();
            }
            peer.agent_session = session.or(peer.agent_session.take());
        }
        end_unseen(kernel, turn, asking.connection);
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

fn request(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Request>()?;
    kernel.ask(turn, asking, params)
}

fn approve(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Approve>()?;
    kernel.approve(turn, asking, params)
}

fn deny(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Deny>()?;
    kernel.deny(turn, asking, &params)?;
    kernel.answer(turn, asking, &DenyResult { ok: true });
    Ok(())
}

fn give(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Give>()?;
    kernel.give(turn, asking, params)
}

fn revoke(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Revoke>()?;
    kernel.revoke(turn, asking, &params)
}

impl Kernel {
    /// Whether a connection may know what was asked for and granted to somebody.
    fn knows_of(&self, connection: ConnectionKey, party: &Party) -> bool {
        match self.principal(connection) {
            Principal::Owner => true,
            Principal::User { uid } => *uid == party.uid,
            Principal::Nobody { .. } => false,
            Principal::Skill(_) => self.standing(connection).parties.contains(party),
        }
    }
}

fn pending(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Pending>()?;
    let by = kernel.principal(asking.connection).to_string();
    let wanted = |text: String| params.principal.as_deref().is_none_or(|wanted| wanted == text);
    let mut requests: Vec<_> = kernel
        .permissions
        .requests
        .iter()
        .filter(|(_, request)| wanted(request.party.to_string()))
        .filter(|(_, request)| {
            let decides =
                || kernel.may_decide(turn, asking, Permission::PermissionDecide, &request.party).is_ok();
            *request.by == *by || kernel.knows_of(asking.connection, &request.party) || decides()
        })
        .map(|(id, request)| request.told(id))
        .collect();
    requests.sort_by_key(|request| request.at_ms);
    kernel.answer(turn, asking, &PendingResult { requests });
    Ok(())
}

fn grants(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Grants>()?;
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(WireError::invalid("limit", format!("1 to {PAGE_MAX}")));
    }
    let after = params.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let wanted = |grant: &Grant| {
        params.principal.as_deref().is_none_or(|wanted| wanted == grant.party.to_string())
            && kernel.knows_of(asking.connection, &grant.party)
    };
    let mut found =
        kernel.permissions.grants.range::<str, _>((after, Bound::Unbounded)).map(|(_, grant)| grant);
    let mut found = found.by_ref().filter(|grant| wanted(grant));
    let grants = found.by_ref().take(limit as usize).map(|grant| grant.told()).collect();
    let more = found.next().is_some();
    kernel.answer(turn, asking, &GrantsResult { grants, more });
    Ok(())
}

fn can(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Can>()?;
    let (permission, method) = match (&params.permission, &params.method) {
        (Some(name), None) => (named(name)?, None),
        (None, Some(name)) => {
            let row = method::row(name).ok_or_else(|| WireError::unknown_method(name))?;
            (row.permission, Some(row.name))
        }
        _ => return Err(WireError::invalid("permission", "a permission is named, or a method")),
    };
    if let Some(resource) =
        params.resource.as_deref().filter(|_| permission.scope() != PermissionScope::Everybody)
    {
        clause(permission.name(), Some(resource), None)?;
    }
    let (standing, who) = match &params.principal {
        None => (kernel.standing(asking.connection), kernel.principal(asking.connection).to_string()),
        Some(text) => {
            let own = kernel.principal(asking.connection).uid(kernel.config.owner_uid);
            let party = kernel.party_named("principal", text, params.uid.unwrap_or(own))?;
            if !kernel.knows_of(asking.connection, &party) {
                kernel.may_decide(turn, asking, Permission::PermissionDecide, &party)?;
            }
            (kernel.standing_of(&party.principal(kernel.config.owner_uid)), text.clone())
        }
    };
    let deed = Deed { permission, method, resource: params.resource.as_deref() };
    let snapshot = &kernel.permissions.snapshot;
    let verdict = match (method, params.resource.is_some()) {
        (Some(_), false) => standing.decide_call(snapshot, &deed, wall_ms(turn.at)).0,
        _ => standing.decide(snapshot, &deed, wall_ms(turn.at)),
    };
    let result = match verdict {
        Verdict::Anyway => {
            let reason = match standing.kind {
                PrincipalKind::Owner => "the owner may everything".to_owned(),
                kind => format!("{who} may by what it is: {}", kind.word()),
            };
            CanResult { allowed: true, reason, grant: None, smallest: None }
        }
        Verdict::Granted(grant) => CanResult {
            allowed: true,
            reason: format!("granted by {} ({})", grant.by, grant.scope.word()),
            grant: Some(grant.id.as_ref().to_owned()),
            smallest: None,
        },
        Verdict::Denied(denial) => {
            let smallest = smallest(&standing.parties, &denial, &deed, &params);
            let reason = denial.reason(permission, params.resource.as_deref());
            let grant = match denial {
                Denial::Forbidden(grant) => Some(grant.as_ref().to_owned()),
                Denial::Policy(_) | Denial::Nothing => None,
            };
            CanResult { allowed: false, reason, grant, smallest }
        }
    };
    kernel.answer(turn, asking, &result);
    Ok(())
}

fn named(name: &str) -> Result<Permission, WireError> {
    Permission::from_name(name)
        .ok_or_else(|| WireError::invalid("permission", format!("there is no permission {name:?}")))
}

/// The smallest grant that would allow what was denied: to the most particular name, for this alone, once. Nothing allows what
/// is forbidden, and nobody can be granted anything as a user of the kernel, or without a name.
fn smallest(
    parties: &[Party],
    denial: &Denial,
    deed: &Deed<'_>,
    params: &CanParams,
) -> Option<SmallestGrant> {
    let party = parties.first().filter(|_| *denial == Denial::Nothing)?;
    if party.subject == Subject::User && deed.permission.scope() != PermissionScope::Administrator {
        return None;
    }
    let (permission, resource) = match (deed.method, &params.resource) {
        (Some(method), None) => (Permission::KernelCall, Some(method.to_owned())),
        (_, resource) => (deed.permission, resource.clone()),
    };
    Some(SmallestGrant {
        principal: party.to_string(),
        permission: permission.name().to_owned(),
        resource,
        scope: GrantScope::Once,
    })
}
