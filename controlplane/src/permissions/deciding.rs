//! Deciding: what a decision puts in force, and what it takes the place of. By whom is in [`giving`](super::giving).
//!
//! Invariant: what was decided is written down before its call is answered.

use crate::auth::subject::Party;
use crate::calls::{Asking, Turn};
use crate::clock::{MS, after_ms, wall_ms};
use crate::entropy::bits;
use crate::events::journal::Awaiting;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::asking::{approved, clause};
use crate::permissions::giving::{Basis, Terms, Wish};
use crate::permissions::grants::Id;
use crate::permissions::revoking::Taking;
use crate::permissions::{Clause, GRANTS_MAX, Grant, Request};
use crate::state::{Timer, Trace};
use kairo_dataplane::key::{ReactorId, TimerKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::PermissionApproved;
use kairo_wire::methods::permission::{
    ApproveParams, ApproveResult, DenyParams, GrantEffect, GrantParams, GrantScope, RequestResult,
    RequestStatus, RevokeCause, RunningOption,
};
use kairo_wire::permission::Permission;
use serde::Serialize;
use std::sync::Arc;

/// How long a grant for a session can last that the kernel can't see the end of, milliseconds.
const FOREIGN_SESSION_MS: u64 = 12 * 3_600_000;

impl Kernel {
    /// `permission.approve`.
    pub(crate) fn approve(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: ApproveParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let (request, by) = self.pending_request(turn, asking, &params.request_id)?;
        let (request, mut basis) = (request.clone(), Basis::of(by));
        request.rules.iter().try_for_each(|clause| self.may_give(turn, asking, clause, &mut basis))?;
        let wish = Wish {
            scope: params.scope,
            otherwise: request.scope.unwrap_or(GrantScope::Session),
            expires_in_ms: params.expires_in_ms,
        };
        let terms = self.terms(turn, asking, &basis, &wish)?;
        let news = request.news.clone();
        let id = params.request_id;
        let grant = self.grant_request(turn, &asking.trace, &id, request, terms)?;
        self.spend_all(turn, basis);
        let waiting = self.permissions.requests.remove(id.as_str()).map(|request| request.waiting);
        self.await_requests(turn);
        for call in waiting.into_iter().flatten() {
            self.resolve_when_written(turn, call, &approved(&id, &grant, news.clone()));
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
        let (_, decides_by) = self.pending_request(turn, asking, &params.request_id)?;
        let by = self.principal(asking.connection).to_string();
        self.deny_request(turn, &asking.trace, &params.request_id, &by, params.reason.as_deref());
        self.spend(turn, decides_by);
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
        let Some(request) = self.permissions.requests.remove(id) else { return };
        self.tell_denied_request(turn, trace, id, &request, by, reason);
        self.answer_denied(turn, id, request, Some(by), reason);
        self.await_requests(turn);
    }

    /// Answers whoever waits for what nobody will approve any more.
    pub(crate) fn answer_denied(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        request: Request,
        by: Option<&str>,
        reason: Option<&str>,
    ) {
        let result = RequestResult {
            by: by.map(str::to_owned),
            reason: reason.map(str::to_owned),
            ..request.news.answer(id, RequestStatus::Denied)
        };
        for call in request.waiting {
            self.resolve(turn, call, &result);
        }
    }

    /// A request that waits, and by what the caller may decide it.
    fn pending_request(
        &self,
        turn: &Turn<'_>,
        asking: &Asking<'_>,
        id: &str,
    ) -> Result<(&Request, Option<Arc<Grant>>), WireError> {
        let gone = || {
            WireError::new(Code::NotFound, format!("no request {id} waits for a decision"))
                .with("requestId", id)
        };
        let request = self.permissions.requests.get(id).ok_or_else(gone)?;
        let by = self.may_decide(turn, asking, Permission::PermissionDecide, &request.party)?;
        Ok((request, by))
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
        let by = self.may_decide(turn, asking, Permission::PermissionDecide, &party)?;
        let purpose = params.purpose.as_deref();
        let clause = clause(&params.permission, params.resource.as_deref(), purpose)?;
        let mut basis = Basis::default();
        if params.effect == GrantEffect::Allow {
            basis = Basis::of(by.clone());
            self.may_give(turn, asking, &clause, &mut basis)?;
        }
        let wish =
            Wish { scope: params.scope, otherwise: GrantScope::Always, expires_in_ms: params.expires_in_ms };
        let terms = self.terms(turn, asking, &basis, &wish)?;
        let session = params.session.as_deref().map(Arc::from);
        let intent = params.intent.as_deref().map(Box::from);
        let grant = Grant {
            effect: params.effect,
            ..self.drafted(turn, party, vec![clause], &terms, (session, intent))?
        };
        let grant = self.put_in_force(turn, &asking.trace, grant);
        self.spend_all(turn, basis);
        self.spend(turn, by);
        self.answer_when_written(turn, asking, &ApproveResult { grant: grant.told() });
        Ok(())
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
        let Request { party, rules, declared, session, intent, by, .. } = request;
        let grant = self.drafted(turn, party, rules, &terms, (session, intent))?;
        let grant = Grant { declared, request: Some(id.into()), asked_by: Some(by), ..grant };
        if grant.declared.is_some() {
            let replaced = |other: &&Arc<Grant>| {
                let place = |of: &Grant| (of.scope, of.session.clone(), of.intent.clone());
                place(other) == place(&grant) || is_void(other, &grant)
            };
            let replaced = self.permissions.approvals(&grant.party).filter(replaced);
            let replaced: Vec<Id> = replaced.map(|other| Arc::clone(&other.id)).collect();
            let taking = Taking { cause: RevokeCause::Replaced, running: RunningOption::Keep, by: None };
            for id in replaced {
                self.take_back(turn, &id, &taking);
            }
            self.declare(&grant.party.clone());
        }
        Ok(self.put_in_force(turn, trace, grant))
    }

    /// A grant on these terms, of nothing that was asked for yet.
    pub(crate) fn drafted(
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
                    .or_else(|| terms.session.clone())
                    .ok_or_else(|| WireError::invalid("scope", "there is no session it could mean"))?;
                (Some(session), None)
            }
            GrantScope::Intent => {
                let intent = intent
                    .or_else(|| terms.intent.clone())
                    .ok_or_else(|| WireError::invalid("scope", "there is no intent it could mean"))?;
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
            rests_on: terms.rests_on.clone(),
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
            self.close_unheld(turn, &grant.party);
        }
        self.await_expiry(turn);
        grant
    }

    /// Arms the timer of the next grant to expire.
    pub(crate) fn await_expiry(&mut self, turn: &mut Turn<'_>) {
        let next = self.permissions.grants.next_due();
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

/// True if an approval of a skill is void once another one of it was given: its manifest is another.
fn is_void(other: &Grant, by: &Grant) -> bool {
    let Some((of, new)) = other.declared.as_deref().zip(by.declared.as_deref()) else { return false };
    of.summary.digest != new.summary.digest
}
