//! What somebody may, and what is decided about that. How requests, grants and their ends come about is in
//! [`permissions`](crate::permissions).

use crate::auth::decision::{Deed, Denial, Standing, Verdict};
use crate::auth::principal::Principal;
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::asking::clause;
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::method::{self, Method};
use kairo_wire::methods::permission::{
    Approve, Can, CanParams, CanResult, Deny, DenyResult, Give, GrantScope, Grants, GrantsResult, Pending,
    PendingResult, Request, Revoke, SmallestGrant,
};
use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::{Permission, PermissionScope};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Request::ROW, Answers::Later, request),
    (Pending::ROW, Answers::AtOnce, pending),
    (Approve::ROW, Answers::Later, approve),
    (Deny::ROW, Answers::Later, deny),
    (Give::ROW, Answers::Later, give),
    (Grants::ROW, Answers::AtOnce, grants),
    (Revoke::ROW, Answers::Later, revoke),
    (Can::ROW, Answers::AtOnce, can),
];

/// Grants of one page, and without a wish.
const PAGE_MAX: u32 = 1_000;
const PAGE: u32 = 100;

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

/// Whether somebody may know what was asked for and granted to a party.
fn knows_of(principal: &Principal, standing: &Standing, party: &Party) -> bool {
    match principal {
        Principal::Owner => true,
        Principal::User { uid } => *uid == party.uid,
        Principal::Nobody { .. } => false,
        Principal::Skill(_) => standing.parties.contains(party),
    }
}

fn pending(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Pending>()?;
    let (principal, standing) = (kernel.principal(asking.connection), kernel.standing(asking.connection));
    let by = principal.to_string();
    let wanted = |text: String| params.principal.as_deref().is_none_or(|wanted| wanted == text);
    let mut requests: Vec<_> = kernel
        .permissions
        .requests
        .iter()
        .filter(|(_, request)| wanted(request.party.to_string()))
        .filter(|(_, request)| {
            let decides =
                || kernel.may_decide(turn, asking, Permission::PermissionDecide, &request.party).is_ok();
            *request.by == *by || knows_of(principal, &standing, &request.party) || decides()
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
    let standing = kernel.standing(asking.connection);
    let principal = kernel.principal(asking.connection);
    let wanted = |grant: &Grant| {
        knows_of(principal, &standing, &grant.party)
            && params.principal.as_deref().is_none_or(|wanted| wanted == grant.party.to_string())
    };
    let (grants, more) = {
        let all = kernel.permissions.grants.after(params.after.as_deref());
        let mut found = all.filter(|grant| wanted(grant));
        let grants = found.by_ref().take(limit as usize).map(|grant| grant.told()).collect();
        (grants, found.next().is_some())
    };
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
            let own_standing = kernel.standing(asking.connection);
            if !knows_of(kernel.principal(asking.connection), &own_standing, &party) {
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
