//! Taking back: at once for whatever the kernel guards, and named for what it can't take from a running process.
//!
//! Invariant: when a grant is gone no call is allowed by it, nothing is read by it, and what ran under it is being ended or is
//! named with what it keeps.

use crate::auth::principal::Principal;
use crate::auth::subject::Party;
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::grants::Id;
use crate::state::{Cast, Place, StreamSubscription, Trace};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{CutReason, DeadReason, PermissionRevoked, StreamEndReason};
use kairo_wire::id::ProcessId;
use kairo_wire::method::Method;
use kairo_wire::methods::permission::{
    GrantScope, GrantedPermission, KeptProcess, RevokeCause, RevokeParams, RevokeResult, RunningOption,
};
use kairo_wire::methods::status::{EndCause, EndedBy};
use kairo_wire::methods::system;
use kairo_wire::methods::view::Watch;
use kairo_wire::permission::{Guard, PERMISSIONS, Permission};
use std::sync::Arc;

/// How something is taken back.
#[derive(Clone, Debug)]
pub(crate) struct Taking {
    /// Why.
    pub cause: RevokeCause,
    /// What becomes of what runs under it.
    pub running: RunningOption,
    /// By whom, if by somebody.
    pub by: Option<system::Principal>,
}

impl Kernel {
    /// `permission.revoke`.
    pub(crate) fn revoke(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: &RevokeParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let not_found = |what: &str| WireError::new(Code::NotFound, format!("there is no grant {what}"));
        let mut cause = RevokeCause::Revoked;
        let (ids, decides_by) = match (&params.grant, &params.principal) {
            (Some(id), None) => {
                let grant = self.permissions.grants.get(id.as_str());
                let grant = grant.ok_or_else(|| not_found(id).with("grant", id.as_str()))?;
                let by = self.may_decide(turn, asking, Permission::PermissionDecide, &grant.party)?;
                if params.used {
                    cause = RevokeCause::Used;
                }
                if params.used && grant.scope != GrantScope::Once {
                    return Err(WireError::invalid("used", "this grant is for more than one use"));
                }
                (vec![Arc::clone(&grant.id)], by)
            }
            (None, Some(_)) if params.used => {
                return Err(WireError::invalid("used", "it is said of one grant"));
            }
            (None, Some(text)) => {
                let uid = self.principal(asking.connection).uid(self.config.owner_uid);
                let party = self.party_named("principal", text, uid)?;
                let by = self.may_decide(turn, asking, Permission::PermissionDecide, &party)?;
                (self.grants_of(&party), by)
            }
            _ => return Err(WireError::invalid("grant", "one grant is named, or a principal")),
        };
        if ids.is_empty() {
            return Err(not_found(&format!("of {}", params.principal.as_deref().unwrap_or_default())));
        }
        let by = Some(self.principal_told(asking.connection));
        let taking = Taking { cause, running: params.running, by };
        let mut result = RevokeResult::default();
        for id in ids {
            let RevokeResult { revoked, ended, kept, closed } = self.take_back(turn, &id, &taking);
            result.revoked.extend(revoked);
            result.ended.extend(ended);
            result.kept.extend(kept);
            result.closed += closed;
        }
        self.spend(turn, decides_by);
        self.answer_when_written(turn, asking, &result);
        Ok(())
    }

    /// All grants of a party.
    pub(crate) fn grants_of(&self, party: &Party) -> Vec<Id> {
        self.permissions.grants.of_party(party).map(|grant| Arc::clone(&grant.id)).collect()
    }

    /// Takes a grant out of force, and what was given by it.
    pub(crate) fn take_back(&mut self, turn: &mut Turn<'_>, id: &str, taking: &Taking) -> RevokeResult {
        let mut result = RevokeResult::default();
        let mut gone = vec![Id::from(id)];
        let mut taking = taking.clone();
        while let Some(id) = gone.pop() {
            let RevokeResult { revoked, ended, kept, closed } = self.take_one_back(turn, &id, &taking);
            result.revoked.extend(revoked);
            result.ended.extend(ended);
            result.kept.extend(kept);
            result.closed += closed;
            gone.extend(self.permissions.grants.resting_on(&id).map(|grant| Arc::clone(&grant.id)));
            taking.cause = RevokeCause::Source;
        }
        self.await_expiry(turn);
        result
    }

    fn take_one_back(&mut self, turn: &mut Turn<'_>, id: &str, taking: &Taking) -> RevokeResult {
        let mut result = RevokeResult::default();
        let Some(grant) = self.permissions.remove(id) else { return result };
        self.keep_grant(id);
        result.revoked.push(id.to_owned());
        // Only what is for a manifest is something to run under.
        let under = match grant.declared {
            Some(_) => self.cast_so(|cast| cast.under.as_deref() == Some(id)),
            None => Vec::new(),
        };
        for (serial, process) in under {
            match taking.running {
                RunningOption::End => {
                    self.doom(turn, serial, EndedBy { cause: EndCause::Kill, principal: taking.by.clone() });
                    result.ended.push(process);
                }
                RunningOption::Keep => {
                    result.kept.push(KeptProcess { id: process, permissions: kept(&grant) })
                }
            }
        }
        result.closed = self.close_unheld(turn, &grant.party);
        let event = PermissionRevoked {
            grant: grant.told(),
            cause: taking.cause,
            by: taking.by.clone(),
            running: taking.running,
            ended: result.ended.clone(),
            kept: result.kept.clone(),
        };
        self.publish(turn, Audience::Administration(grant.party.uid), &Trace::default(), &event);
        result
    }

    /// What runs, or will again, and whose name and right are such; oldest first.
    pub(crate) fn cast_so(&self, is: impl Fn(&Cast) -> bool) -> Vec<(u64, ProcessId)> {
        let all = self.state.processes.iter();
        let such = all.filter(|(_, process)| is(&process.cast) && process.is_member());
        let mut such: Vec<(u64, ProcessId)> =
            such.map(|(serial, process)| (*serial, process.id.clone())).collect();
        such.sort_unstable_by_key(|(serial, _)| *serial);
        such
    }

    /// The next grant has expired.
    pub(crate) fn grants_rang(&mut self, turn: &mut Turn<'_>) {
        self.permissions.expiry = None;
        let now_ms = wall_ms(turn.at);
        let over = self.permissions.grants.due(now_ms);
        let taking = Taking { cause: RevokeCause::Expired, running: RunningOption::End, by: None };
        for id in over {
            self.take_back(turn, &id, &taking);
        }
        self.await_expiry(turn);
    }

    /// A session is over, and with it what was granted for it. Returns those grants.
    pub(crate) fn session_over(
        &mut self,
        turn: &mut Turn<'_>,
        session: &str,
        running: RunningOption,
    ) -> Vec<String> {
        let over = self.permissions.grants.of_session(session);
        let mut over: Vec<(Id, GrantScope)> =
            over.map(|grant| (Arc::clone(&grant.id), grant.scope)).collect();
        over.retain(|(id, scope)| *scope != GrantScope::Once || !self.bequeath(id, session));
        for (id, scope) in &over {
            let cause = if *scope == GrantScope::Once { RevokeCause::Used } else { RevokeCause::Session };
            self.take_back(turn, id, &Taking { cause, running, by: None });
        }
        over.into_iter().map(|(id, _)| id.as_ref().to_owned()).collect()
    }

    /// A life is over: if no other follows it under the same grant, so is that.
    pub(crate) fn life_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let (session, last) = (process.session.clone(), !process.awaits_another());
        self.asker_gone(turn, session.as_str(), None);
        if last {
            self.session_over(turn, session.as_str(), RunningOption::End);
        }
    }

    /// An intent is over, and with it what was granted for it.
    pub(crate) fn intent_over(&mut self, turn: &mut Turn<'_>, intent: &str) {
        let over = self.permissions.grants.of_intent(intent);
        let over: Vec<Id> = over.map(|grant| Arc::clone(&grant.id)).collect();
        let taking = Taking { cause: RevokeCause::Intent, running: RunningOption::End, by: None };
        for id in over {
            self.take_back(turn, &id, &taking);
        }
    }

    /// Grants of sessions that ended while there was no kernel are over.
    pub fn settle_grants(&mut self, at: Moment, out: &mut kairo_dataplane::command::Commands) {
        let turn = &mut Turn { at, here: None, out };
        let (mut sessions, mut intents) = self.permissions.grants.ends();
        sessions.retain(|session| self.session_ends(session) == Some(true));
        for session in sessions {
            self.session_over(turn, &session, RunningOption::End);
        }
        let over = |id: &str| self.state.intents.named(id).is_none_or(|intent| intent.is_over());
        intents.retain(|id| over(id));
        for intent in intents {
            self.intent_over(turn, &intent);
        }
        self.await_expiry(turn);
    }

    /// Whether a session of ours is over; none if it is not for the kernel to know.
    pub(crate) fn session_ends(&self, session: &str) -> Option<bool> {
        if session.starts_with(crate::agents::SESSION_PREFIX) {
            return Some(!self.agents.sessions.contains_key(session));
        }
        let is_life = session.len() == 16 && session.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_life.then(|| self.of_life(session).is_none_or(|process| !process.is_member()))
    }

    /// Closes what connections read that may no longer, of those that go by this name. Returns how many.
    pub(crate) fn close_unheld(&mut self, turn: &mut Turn<'_>, party: &Party) -> u32 {
        let keys: Vec<ConnectionKey> = self.permissions.known.of(party).copied().collect();
        let closed: u32 = keys.into_iter().map(|key| self.close_unallowed(turn, key)).sum();
        closed + self.close_outliving(turn, party)
    }

    /// Closes what a connection reads that it may not.
    pub(crate) fn close_unallowed(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) -> u32 {
        if matches!(self.principal(key), Principal::Owner) {
            return 0;
        }
        let Some(peer) = self.state.connections.get(key) else { return 0 };
        let (topics, attached) = (peer.topics.clone(), peer.attached.clone());
        let streams: Vec<u64> = peer.streams.iter().copied().collect();
        let (mut closed, turn_at) = (0, turn.at);
        for serial in streams {
            let Some(stream) = self.state.streams.get(&serial) else { continue };
            if !self.reads(turn.at, key, stream) {
                self.end_with_record(turn, serial, StreamEndReason::Revoked);
                closed += 1;
            }
        }
        closed += self.end_inlets(turn, key, |kernel, process| {
            let sees = kernel.may_see(turn_at, key, Permission::ProcessWrite, process);
            !sees || !kernel.may_now(turn_at, key, Permission::ProcessWrite, None)
        });
        for serial in topics {
            let hears = match self.state.topics.get(&serial) {
                Some(topic) => self.may_now(turn.at, key, Permission::EventSubscribe, Some(&topic.text)),
                None => {
                    let of = self.state.watches.get(&serial).map(|watch| Arc::clone(&watch.topics));
                    let made_of = of.unwrap_or_default();
                    self.may_now(turn.at, key, Permission::ViewRead, None)
                        && self.may_hear(turn.at, key, Watch::ROW.name, &made_of).is_ok()
                }
            };
            if !hears {
                self.watch_over(turn, serial);
                self.cut(turn, serial, CutReason::Revoked);
                closed += 1;
            }
        }
        for attachment in attached {
            let of = self.state.consumers.attachments.get(&attachment).map(|of| of.consumer);
            let consumer = of.and_then(|consumer| self.state.consumers.all.get(&consumer));
            let Some(topic) = consumer.map(|consumer| consumer.topic.clone()) else { continue };
            if !self.may_now(turn.at, key, Permission::EventSubscribe, Some(topic.as_str())) {
                self.end_attachment(turn, attachment, DeadReason::Gone);
                closed += 1;
            }
        }
        self.refuse_waiting(turn, key);
        self.close_if_over(turn, key);
        closed
    }

    fn reads(&self, at: Moment, key: ConnectionKey, stream: &StreamSubscription) -> bool {
        let process = match &stream.place {
            Place::Reading { process, .. } => self.state.processes.get(process),
            Place::Following { .. } | Place::Waiting { .. } => None,
        };
        let seen = process.is_none_or(|process| self.may_see(at, key, Permission::ProcessRead, process));
        seen && self.may_now(at, key, Permission::ProcessRead, None)
    }

    /// Whether a connection may this, as it stands now.
    pub(crate) fn may_now(
        &self,
        at: Moment,
        key: ConnectionKey,
        permission: Permission,
        resource: Option<&str>,
    ) -> bool {
        self.denial_now(at, key, any_method_of(permission), permission, resource).is_none()
    }
}

/// A method that takes a permission, so that what was granted by method counts.
fn any_method_of(permission: Permission) -> Option<&'static str> {
    let first = kairo_wire::method::METHODS.iter().find(|row| row.permission == permission);
    first.map(|row| row.name)
}

/// What a running process keeps of a grant: what only its containment guards.
fn kept(grant: &Grant) -> Vec<GrantedPermission> {
    let contained = |permission: Permission| {
        PERMISSIONS
            .iter()
            .any(|row| row.permission == permission && matches!(row.guard, Guard::Containment(_)))
    };
    grant.rules.iter().filter(|clause| contained(clause.permission)).map(|clause| clause.told()).collect()
}
