//! How much somebody may give: who decides about whom, by which grants, and for how long at most.
//!
//! Invariant: a program gives nothing that it hasn't got itself, and what it gives ends with each of the grants it gave it by.
//! What it forbids stays: lifting that would give somebody something.

use crate::auth::decision::{Deed, Verdict};
use crate::auth::principal::Principal;
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::grants::Id;
use crate::permissions::standing::refused;
use crate::permissions::{Clause, Grant};
use kairo_wire::error::WireError;
use kairo_wire::method::row;
use kairo_wire::methods::permission::GrantScope;
use kairo_wire::permission::{Permission, Resource};
use std::sync::Arc;

/// The grants by which somebody gives; none for those who may by what they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Basis(Vec<Arc<Grant>>);

/// How long something is to be good, as far as whoever gives it says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub scope: Option<GrantScope>,
    /// What is meant if nothing is said.
    pub otherwise: GrantScope,
    pub expires_in_ms: Option<u64>,
}

/// On what terms something is granted.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub scope: GrantScope,
    pub expires_ms: Option<u64>,
    pub by: String,
    /// The session and the intent that are meant if nobody names one: that of whoever gives.
    pub session: Option<Arc<str>>,
    pub intent: Option<Box<str>>,
    /// With what it ends.
    pub rests_on: Vec<Id>,
}

impl Terms {
    /// Of somebody who may by what it is.
    pub(crate) fn plain(scope: GrantScope, expires_ms: Option<u64>, by: String) -> Terms {
        Terms { scope, expires_ms, by, session: None, intent: None, rests_on: Vec::new() }
    }
}

impl Basis {
    /// One that is by this, if it is by a grant.
    pub(crate) fn of(grant: Option<Arc<Grant>>) -> Basis {
        Basis(grant.into_iter().collect())
    }

    fn add(&mut self, grant: Option<Arc<Grant>>) {
        let is_new = |grant: &Arc<Grant>| self.0.iter().all(|other| other.id != grant.id);
        let new = grant.filter(is_new);
        self.0.extend(new);
    }

    /// The one of these that ends first.
    fn latest(&self) -> Option<(u64, &Grant)> {
        let ends = self.0.iter().filter_map(|grant| Some((grant.expires_ms?, &**grant)));
        ends.min_by_key(|(at_ms, _)| *at_ms)
    }
}

/// How far a scope goes: one use, to the end of something, for good.
fn width(scope: GrantScope) -> u8 {
    match scope {
        GrantScope::Once => 0,
        GrantScope::Session | GrantScope::Intent => 1,
        GrantScope::Always => 2,
    }
}

/// The widest scope of what is given by a grant. An approval for one start lasts as long as that life.
fn widest(grant: &Grant) -> GrantScope {
    match grant.scope {
        GrantScope::Once if grant.declared.is_some() => GrantScope::Session,
        scope => scope,
    }
}

/// Of the grants by which something is allowed, so many are compared.
const COMPARED_MAX: usize = 64;

/// The one that lasts longest: any would do for a call, but more may be given by one than by another.
fn longest<'a>(grants: impl Iterator<Item = &'a Arc<Grant>>) -> Option<Arc<Grant>> {
    let lasts = |grant: &&Arc<Grant>| (width(widest(grant)), grant.expires_ms.unwrap_or(u64::MAX));
    grants.take(COMPARED_MAX).max_by_key(lasts).cloned()
}

impl Kernel {
    /// Whether the caller may decide about somebody. Returns by what.
    pub(crate) fn may_decide(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        permission: Permission,
        party: &Party,
    ) -> Result<Option<Arc<Grant>>, WireError> {
        let principal = self.principal(asking.connection);
        let denied =
            |why: &str| Err(WireError::denied(asking.method, why).with("permission", permission.name()));
        match principal {
            Principal::Owner => Ok(None),
            Principal::User { uid } if *uid == party.uid => Ok(None),
            Principal::User { .. } => denied("it is about somebody of another user"),
            Principal::Nobody { .. } => denied("nobody can be told to be you"),
            Principal::Skill(skill) => {
                let standing = self.standing(asking.connection);
                let mut names = standing.parties.iter().chain(&standing.bound);
                if skill.uid != party.uid || party.subject == Subject::User {
                    return denied("it is about somebody of another user, or the user");
                }
                if names.any(|name| name == party) {
                    return denied("nobody decides about itself");
                }
                let text = party.to_string();
                let deed = Deed { permission, method: Some(asking.method), resource: Some(&text) };
                let (snapshot, now_ms) = (&self.permissions.snapshot, wall_ms(turn.at));
                match standing.decide(snapshot, &deed, now_ms) {
                    Verdict::Denied(denial) => Err(refused(asking.method, &denial, permission, Some(&text))),
                    Verdict::Granted(_) => Ok(longest(standing.allowing(snapshot, &deed, now_ms))),
                    Verdict::Anyway => Ok(None),
                }
            }
        }
    }

    /// A user can't give what only the administrator has, and a program nothing that it hasn't got. Adds by what it has it.
    pub(crate) fn may_give(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        clause: &Clause,
        basis: &mut Basis,
    ) -> Result<(), WireError> {
        let standing = self.standing(asking.connection);
        let resource = Some(clause.resource.as_deref().unwrap_or("*"));
        // A method by its whole name is as much as the permission it takes.
        let method = resource.filter(|_| clause.permission == Permission::KernelCall).and_then(row);
        let deed = match method {
            Some(row) => Deed { permission: row.permission, method: Some(row.name), resource: None },
            None => Deed { permission: clause.permission, method: None, resource },
        };
        let (permission, principal) = (clause.permission, self.principal(asking.connection));
        // What any program may, it may to what it has started itself; here others are named.
        let of_others = permission.resource() == Resource::Process && clause.resource.is_some();
        let (snapshot, now_ms) = (&self.permissions.snapshot, wall_ms(turn.at));
        let has = match (of_others, principal, resource) {
            (true, Principal::Skill(skill), Some(id)) => {
                let by = self.by_grant(turn.at, asking.connection, permission, skill.uid, id);
                let of_user = (skill.uid, id);
                by.map(|_| longest(self.grants_for(turn.at, &standing, permission, of_user))).ok()
            }
            _ => match standing.decide(snapshot, &deed, now_ms) {
                Verdict::Granted(_) => Some(longest(standing.allowing(snapshot, &deed, now_ms))),
                Verdict::Anyway => Some(None),
                Verdict::Denied(_) => None,
            },
        };
        let Some(by) = has else {
            let why = format!("nobody gives what it hasn't got: {}", permission.name());
            return Err(WireError::denied(asking.method, &why).with("permission", permission.name()));
        };
        basis.add(by);
        Ok(())
    }

    /// The terms on which a caller gives: what it says, if that is no more than it may; else as much as that.
    pub(crate) fn terms(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        basis: &Basis,
        wish: &Wish,
    ) -> Result<Terms, WireError> {
        let refused = |field: &str, grant: &Grant| {
            let why = format!("{field}: nobody gives for longer than it has itself, by {}", grant.id);
            Err(WireError::denied(asking.method, &why).with("field", field).with("grant", grant.id.as_ref()))
        };
        let mut scope = wish.scope.unwrap_or(wish.otherwise);
        for grant in &basis.0 {
            let own = widest(grant);
            if width(scope) <= width(own) {
                continue;
            }
            if wish.scope.is_some() {
                return refused("scope", grant);
            }
            scope = own;
        }
        let wanted = wish.expires_in_ms.map(|ms| wall_ms(turn.at).saturating_add(ms));
        let latest = basis.latest();
        if let Some((_, grant)) = latest.filter(|(at_ms, _)| wanted.is_some_and(|wanted| wanted > *at_ms)) {
            return refused("expiresInMs", grant);
        }
        let lasting = basis.0.iter().filter(|grant| !grant.is_for_one_call());
        Ok(Terms {
            scope,
            expires_ms: wanted.or(latest.map(|(at_ms, _)| at_ms)),
            by: self.principal(asking.connection).to_string(),
            session: basis.0.iter().find_map(|grant| grant.session.clone()),
            intent: basis.0.iter().find_map(|grant| grant.intent.clone()),
            rests_on: lasting.map(|grant| Arc::clone(&grant.id)).collect(),
        })
    }

    /// Something was done by a grant: one that was for one call has had it.
    pub(crate) fn spend(&mut self, turn: &mut Turn<'_>, grant: Option<Arc<Grant>>) {
        if let Some(grant) = grant.filter(|grant| grant.is_for_one_call()) {
            self.use_up(turn, &grant);
        }
    }

    /// Something was given.
    pub(crate) fn spend_all(&mut self, turn: &mut Turn<'_>, basis: Basis) {
        basis.0.into_iter().for_each(|grant| self.spend(turn, Some(grant)));
    }
}
