//! Deciding: by whom, and what a decision puts in force.
//!
//! Invariant: nobody decides about itself, and a program only about what it was granted to decide.

use crate::auth::decision::{Deed, Verdict};
use crate::auth::principal::Principal;
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::{MS, after_ms, wall_ms};
use crate::entropy::bits;
use crate::events::journal::Awaiting;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::asking::{approved, clause};
use crate::permissions::revoking::Taking;
use crate::permissions::standing::refused;
use crate::permissions::{Clause, GRANTS_MAX, Grant, Request};
use crate::state::{Timer, Trace};
use kairo_dataplane::key::{ReactorId, TimerKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::PermissionApproved;
use kairo_wire::method::row;
use kairo_wire::methods::permission::{
    ApproveParams, ApproveResult, DenyParams, GrantEffect, GrantParams, GrantScope, RequestResult,
    RequestStatus, RevokeCause, RunningOption,
};
use kairo_wire::permission::{Permission, Resource};
use serde::Serialize;
use std::sync::Arc;

/// How long a grant for a session can last that the kernel can't see the end of, milliseconds.
const FOREIGN_SESSION_MS: u64 = 12 * 3_600_000;

/// On what terms something is granted.
pub(crate) struct Terms {
    pub scope: GrantScope,
    pub expires_ms: Option<u64>,
    pub by: String,
}

impl Kernel {
    /// Whether the caller may decide about somebody.
    pub(crate) fn may_decide(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        permission: Permission,
        party: &Party,
    ) -> Result<(), WireError> {
        let principal = self.principal(asking.connection);
        let denied =
            |why: &str| Err(WireError::denied(asking.method, why).with("permission", permission.name()));
        match principal {
            Principal::Owner => Ok(()),
            Principal::User { uid } if *uid == party.uid => Ok(()),
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
                let verdict = standing.decide(&self.permissions.snapshot, &deed, wall_ms(turn.at));
                match verdict {
                    Verdict::Denied(denial) => Err(refused(asking.method, &denial, permission, Some(&text))),
                    _ => Ok(()),
                }
            }
        }
    }

    /// `permission.approve`.
    pub(crate) fn approve(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: ApproveParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let request = self.pending_request(turn, asking, &params.request_id)?.clone();
        request.rules.iter().try_for_each(|clause| self.may_give(turn, asking, clause))?;
        let scope = params.scope.or(request.scope).unwrap_or(GrantScope::Session);
        let terms = Terms {
            scope,
            expires_ms: params.expires_in_ms.map(|ms| wall_ms(turn.at).saturating_add(ms)),
            by: self.principal(asking.connection).to_string(),
        };
        let newly = request.newly.clone();
        let id = params.request_id;
        let grant = self.grant_request(turn, &asking.trace, &id, request, terms)?;
        let waiting = self.permissions.requests.remove(id.as_str()).map(|request| request.waiting);
        for call in waiting.into_iter().flatten() {
            self.resolve_when_written(turn, call, &approved(id.clone(), &grant, newly.clone()));
        }
        self.answer_when_written(turn, asking, &ApproveResult { grant: grant.told() });
        Ok(())
    }

    /// `permission.deny`.
    pub(crate) fn deny(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: &DenyParams,
    ) -> Result<(), WireError> {
        self.pending_request(turn, asking, &params.request_id)?;
        let by = self.principal(asking.connection).to_string();
        self.deny_request(turn, &asking.trace, &params.request_id, &by, params.reason.as_deref());
        Ok(())
    }

    /// Denies what waits for a decision, and tells whoever waits for that.
    pub(crate) fn deny_request(
        &mut self,
        turn: &mut Turn<'_>,
        trace: &Trace,
        id: &str,
        by: &str,
        reason: Option<&str>,
    ) {
        let Some(mut request) = self.permissions.requests.remove(id) else { return };
        let waiting = std::mem::take(&mut request.waiting);
        self.tell_denied_request(turn, trace, id, &request, by, reason);
        let result = RequestResult {
            request_id: id.to_owned(),
            status: RequestStatus::Denied,
            grant: None,
            by: Some(by.to_owned()),
            reason: reason.map(str::to_owned),
            newly: request.newly,
        };
        for call in waiting {
            self.resolve(turn, call, &result);
        }
    }

    fn pending_request(&self, turn: &Turn<'_>, asking: &Asking<'_>, id: &str) -> Result<&Request, WireError> {
        let gone = || {
            WireError::new(Code::NotFound, format!("no request {id} waits for a decision"))
                .with("requestId", id)
        };
        let request = self.permissions.requests.get(id).ok_or_else(gone)?;
        self.may_decide(turn, asking, Permission::PermissionDecide, &request.party)?;
        Ok(request)
    }

    /// `permission.grant`.
    pub(crate) fn give(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: GrantParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let own = self.principal(asking.connection).uid(self.config.owner_uid);
        let uid = params.uid.unwrap_or(own);
        let party = self.party_named("principal", &params.principal, uid)?;
        self.may_decide(turn, asking, Permission::PermissionDecide, &party)?;
        let purpose = params.purpose.as_deref();
        let clause = clause(&params.permission, params.resource.as_deref(), purpose)?;
        if params.effect == GrantEffect::Allow {
            self.may_give(turn, asking, &clause)?;
        }
        let scope = params.scope.unwrap_or(GrantScope::Always);
        let terms = Terms {
            scope,
            expires_ms: params.expires_in_ms.map(|ms| wall_ms(turn.at).saturating_add(ms)),
            by: self.principal(asking.connection).to_string(),
        };
        let session = params.session.as_deref().map(Arc::from);
        let intent = params.intent.as_deref().map(Box::from);
        let grant = Grant {
            effect: params.effect,
            ..self.drafted(turn, party, vec![clause], &terms, (session, intent))?
        };
        let grant = self.put_in_force(turn, &asking.trace, grant);
        self.answer_when_written(turn, asking, &ApproveResult { grant: grant.told() });
        Ok(())
    }

    /// A user can't give what only the administrator has, and a program nothing that it hasn't got.
    pub(crate) fn may_give(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        clause: &Clause,
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
        let has = if let (true, Principal::Skill(skill), Some(id)) = (of_others, principal, resource) {
            self.by_grant(turn.at, asking.connection, permission, skill.uid, id).is_ok()
        } else {
            let verdict = standing.decide(&self.permissions.snapshot, &deed, wall_ms(turn.at));
            !matches!(verdict, Verdict::Denied(_))
        };
        if has {
            return Ok(());
        }
        let why = format!("nobody gives what it hasn't got: {}", permission.name());
        Err(WireError::denied(asking.method, &why).with("permission", permission.name()))
    }

    /// Whom a text names.
    pub(crate) fn party_named(&self, field: &str, text: &str, uid: u32) -> Result<Party, WireError> {
        Party::from_text(text, uid).ok_or_else(|| {
            WireError::invalid(
                field,
                "agent:NAME, skill:NAME, session:ID or user:UID; the owner may everything",
            )
        })
    }

    /// Puts what was asked for in force. What it takes the place of is taken back.
    pub(crate) fn grant_request(
        &mut self,
        turn: &mut Turn<'_>,
        trace: &Trace,
        id: &str,
        request: Request,
        terms: Terms,
    ) -> Result<Arc<Grant>, WireError> {
        let Request { party, rules, declared, session, intent, .. } = request;
        let grant = self.drafted(turn, party, rules, &terms, (session, intent))?;
        let grant = Grant { declared, request: Some(id.into()), ..grant };
        if grant.declared.is_some() {
            let replaced = |other: &&Arc<Grant>| {
                other.party == grant.party
                    && other.declared.is_some()
                    && (other.scope, &other.session, &other.intent)
                        == (grant.scope, &grant.session, &grant.intent)
                    || is_void(other, &grant)
            };
            let replaced: Vec<Arc<str>> = self
                .permissions
                .grants
                .values()
                .filter(replaced)
                .map(|other| Arc::clone(&other.id))
                .collect();
            let taking = Taking { cause: RevokeCause::Replaced, running: RunningOption::Keep, by: None };
            for id in replaced {
                self.take_back(turn, &id, &taking);
            }
            self.declare(&grant.party.clone());
        }
        Ok(self.put_in_force(turn, trace, grant))
    }

    fn drafted(
        &mut self,
        turn: &Turn<'_>,
        party: Party,
        rules: Vec<Clause>,
        terms: &Terms,
        (session, intent): (Option<Arc<str>>, Option<Box<str>>),
    ) -> Result<Grant, WireError> {
        if self.permissions.grants.len() >= GRANTS_MAX {
            let message = format!("there are at most {GRANTS_MAX} grants");
            return Err(WireError::too_large("grantsMax", message));
        }
        let (session, intent) = match terms.scope {
            GrantScope::Once | GrantScope::Always => (None, None),
            GrantScope::Session => {
                let session = session
                    .ok_or_else(|| WireError::invalid("scope", "there is no session it could mean"))?;
                (Some(session), None)
            }
            GrantScope::Intent => {
                let intent =
                    intent.ok_or_else(|| WireError::invalid("scope", "there is no intent it could mean"))?;
                if self.state.intents.named(&intent).is_none_or(|intent| intent.is_over()) {
                    return Err(WireError::invalid("intent", "there is no such intent, or it is over"));
                }
                (None, Some(intent))
            }
        };
        let ends = session.as_deref().map(|session| self.session_ends(session));
        if ends == Some(Some(true)) {
            return Err(WireError::invalid("session", "there is no such session, or it is over"));
        }
        let foreign = ends == Some(None);
        let latest = foreign.then(|| wall_ms(turn.at).saturating_add(FOREIGN_SESSION_MS));
        let id = format!("gr_{:032x}", bits(&mut *self.entropy));
        Ok(Grant {
            scope: terms.scope,
            session,
            intent,
            expires_ms: terms.expires_ms.into_iter().chain(latest).min(),
            by: terms.by.as_str().into(),
            at_ms: wall_ms(turn.at),
            ..Grant::new(&id, party, rules)
        })
    }

    /// Puts a grant in force, writes it down and tells of it.
    pub(crate) fn put_in_force(&mut self, turn: &mut Turn<'_>, trace: &Trace, grant: Grant) -> Arc<Grant> {
        let grant = Arc::new(grant);
        self.permissions.insert(Arc::clone(&grant));
        self.keep_grant(&grant.id);
        let event = PermissionApproved { grant: grant.told() };
        self.publish(turn, Audience::Administration(grant.party.uid), trace, &event);
        if grant.effect == GrantEffect::Forbid {
            self.close_forbidden(turn);
        }
        self.await_expiry(turn);
        grant
    }

    /// Arms the timer of the next grant to expire.
    pub(crate) fn await_expiry(&mut self, turn: &mut Turn<'_>) {
        let next = self.permissions.grants.values().filter_map(|grant| grant.expires_ms).min();
        self.permissions.expiry = self.ring_at(turn, self.permissions.expiry, next, Timer::Grants);
    }

    /// Has a timer ring at this time of the clock and at no other. Returns it, and when that is.
    pub(crate) fn ring_at(
        &mut self,
        turn: &mut Turn<'_>,
        armed: Option<(TimerKey, u64)>,
        at_ms: Option<u64>,
        purpose: Timer,
    ) -> Option<(TimerKey, u64)> {
        if armed.map(|(_, armed_ms)| armed_ms) == at_ms {
            return armed;
        }
        if let Some((timer, _)) = armed {
            self.disarm(turn, timer);
        }
        let at_ms = at_ms?;
        let delay_ms = at_ms.saturating_sub(wall_ms(turn.at)).min(u64::MAX / MS / 2);
        let timer = self.arm(turn, ReactorId(0), after_ms(turn.at, delay_ms));
        self.state.timers.insert(timer.serial, purpose);
        Some((timer, at_ms))
    }

    /// Answers a call when the log has what it did.
    pub(crate) fn answer_when_written<R: Serialize>(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        result: &R,
    ) {
        let call = self.park(turn, asking, crate::state::Pending::Published);
        self.resolve_when_written(turn, call, result);
    }

    /// The same for a call that is parked.
    pub(crate) fn resolve_when_written<R: Serialize>(&mut self, turn: &mut Turn<'_>, call: u64, result: &R) {
        match Raw::of(result) {
            Ok(result) => {
                self.settle_pending(turn, call);
                self.journal.when_written(Awaiting::Call(call, result));
            }
            Err(error) => self.reject(turn, call, &WireError::from(error)),
        }
    }
}

/// True if an approval is void once another manifest, or another program, of its skill was approved for a scope as wide.
fn is_void(other: &Grant, by: &Grant) -> bool {
    let Some((of, new)) = other.declared.as_deref().zip(by.declared.as_deref()) else { return false };
    other.party == by.party && of.summary.digest != new.summary.digest
}
