//! As what a connection stands, and the question every call asks.

use crate::auth::decision::{Deed, Denial, Standing, Verdict};
use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::auth::subject::{Party, Subject, claimed, known_as};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::revoking::Taking;
use crate::state::Process;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::error::WireError;
use kairo_wire::methods::permission::{RevokeCause, RunningOption};
use kairo_wire::permission::{Permission, Resource};
use std::sync::Arc;

impl Kernel {
    /// As what a connection stands.
    pub(crate) fn standing(&self, connection: ConnectionKey) -> Standing {
        let principal = self.principal(connection);
        let peer = self.state.connections.get(connection);
        let life = peer.and_then(|peer| peer.life.as_ref());
        let session = peer.and_then(|peer| peer.agent_session.as_ref());
        let started_as = peer.and_then(|peer| peer.party.as_ref());
        let mut of = self.standing_of(principal);
        // Whoever runs as another user is who it was started as all the same.
        if let Some(party) = started_as.filter(|party| !of.parties.contains(party)) {
            of.bound.extend(std::mem::replace(&mut of.parties, vec![party.clone()]));
        }
        let uid = started_as.map_or_else(|| principal.uid(self.config.owner_uid), |party| party.uid);
        for session in session.into_iter().chain(life) {
            let party = Party { uid, subject: Subject::Session(Arc::clone(session)) };
            if !of.parties.contains(&party) {
                of.parties.push(party);
            }
        }
        if let Some(process) = life.and_then(|life| self.of_life(life)) {
            self.bind_by_ancestors(&mut of, process);
        }
        of
    }

    /// Notes the names a connection goes by. They change when it takes one; that the records of who started it are forgotten some
    /// day only makes them fewer.
    pub(crate) fn note_names(&mut self, connection: ConnectionKey) {
        let Standing { mut parties, bound, .. } = self.standing(connection);
        parties.extend(bound);
        let Some(peer) = self.state.connections.get_mut(connection) else { return };
        let former = std::mem::replace(&mut peer.names, parties);
        let known = &mut self.permissions.known;
        former.iter().for_each(|party| known.take(party, &connection));
        peer.names.iter().for_each(|party| known.put(party, &connection));
    }

    /// As what a principal stands that is nothing else.
    pub(crate) fn standing_of(&self, principal: &Principal) -> Standing {
        let parties: Vec<Party> = known_as(principal).into_iter().collect();
        let creator = principal.creator(self.config.owner_uid);
        let user = (creator.uid != self.config.owner_uid)
            .then_some(Party { uid: creator.uid, subject: Subject::User });
        let bound = claimed(&creator).into_iter().chain(user);
        let bound = bound.filter(|party| !parties.contains(party)).collect();
        Standing { kind: principal.kind(), parties, bound }
    }

    /// The process whose life this is.
    pub(crate) fn of_life(&self, life: &str) -> Option<&Process> {
        let serial = self.state.sessions.get(life)?;
        self.state.processes.get(serial).map(|process| &**process)
    }

    /// What is forbidden to whoever started it is forbidden to a process: else it would only have to be started.
    fn bind_by_ancestors(&self, of: &mut Standing, process: &Process) {
        for party in claimed(&process.creator).iter().chain(&*process.cast.line) {
            if !of.parties.contains(party) && !of.bound.contains(party) {
                of.bound.push(party.clone());
            }
        }
    }

    /// Whether the caller may make such a call, as far as that is known before its method looks. Returns the grant it is
    /// allowed by.
    pub(crate) fn may_call(
        &mut self,
        at: Moment,
        asking: &Asking<'_>,
        permission: Permission,
    ) -> Result<Option<Arc<Grant>>, WireError> {
        let now_ms = wall_ms(at);
        let snapshot = Arc::clone(&self.permissions.snapshot);
        let connection = asking.connection;
        let known = self
            .state
            .connections
            .get(connection)
            .and_then(|peer| peer.rights.recall(&snapshot, permission, now_ms));
        let verdict = match known {
            Some(verdict) => verdict,
            None => {
                let deed = Deed { permission, method: Some(asking.method), resource: None };
                let (verdict, until_ms) = self.standing(connection).decide_call(&snapshot, &deed, now_ms);
                if let Some((peer, until_ms)) = self.state.connections.get_mut(connection).zip(until_ms) {
                    peer.rights.learn(&snapshot, permission, &verdict, (now_ms, until_ms));
                }
                verdict
            }
        };
        match verdict {
            Verdict::Anyway => Ok(None),
            Verdict::Granted(grant) => Ok(Some(grant)),
            Verdict::Denied(denial) => {
                let resource = resource_in(asking.params, permission.resource());
                Err(refused(asking.method, &denial, permission, resource.as_deref()))
            }
        }
    }

    /// Whether the caller may do this to that, now that the method knows to what.
    pub(crate) fn may(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        method: &str,
        permission: Permission,
        resource: &str,
    ) -> Result<(), WireError> {
        let grant = self.may_be(turn.at, connection, method, permission, resource)?;
        self.spend(turn, grant);
        Ok(())
    }

    /// The same, without using anything up. Returns the grant it is allowed by.
    pub(crate) fn may_be(
        &self,
        at: Moment,
        connection: ConnectionKey,
        method: &str,
        permission: Permission,
        resource: &str,
    ) -> Result<Option<Arc<Grant>>, WireError> {
        let Some(peer) = self.state.connections.get(connection) else { return Ok(None) };
        // What is remembered to need no second thought holds for all resources.
        let known = peer.rights.recall(&self.permissions.snapshot, permission, wall_ms(at));
        if matches!(peer.principal, Principal::Owner) || matches!(known, Some(Verdict::Anyway)) {
            return Ok(None);
        }
        let deed = Deed { permission, method: Some(method), resource: Some(resource) };
        let verdict = self.standing(connection).decide(&self.permissions.snapshot, &deed, wall_ms(at));
        match verdict {
            Verdict::Anyway => Ok(None),
            Verdict::Granted(grant) => Ok(Some(grant)),
            Verdict::Denied(denial) => Err(refused(method, &denial, permission, Some(resource))),
        }
    }

    /// What forbids a connection to do this to that, if anything does.
    pub(crate) fn forbidden(
        &self,
        at: Moment,
        connection: ConnectionKey,
        permission: Permission,
        resource: &str,
    ) -> Option<Denial> {
        let deed = Deed { permission, method: None, resource: Some(resource) };
        match self.standing(connection).decide(&self.permissions.snapshot, &deed, wall_ms(at)) {
            Verdict::Denied(denial @ (Denial::Forbidden(_) | Denial::Policy(_))) => Some(denial),
            _ => None,
        }
    }

    /// Whether a connection may look at a process: its own, if that is not forbidden, or one it was granted to look at.
    pub(crate) fn may_see(
        &self,
        at: Moment,
        connection: ConnectionKey,
        permission: Permission,
        process: &Process,
    ) -> bool {
        let principal = self.principal(connection);
        if *principal == Principal::Owner {
            return true;
        }
        match (may_touch(principal, &process.creator), self.permissions.snapshot.is_empty()) {
            (own, true) => own,
            (true, false) => self.forbidden(at, connection, permission, &process.id.to_string()).is_none(),
            (false, false) => self
                .by_grant(at, connection, permission, process.creator.uid, &process.id.to_string())
                .is_ok(),
        }
    }

    /// The grant by which a connection may do this to a process of its user that it hasn't started.
    pub(crate) fn by_grant(
        &self,
        at: Moment,
        connection: ConnectionKey,
        permission: Permission,
        uid: u32,
        id: &str,
    ) -> Result<Arc<Grant>, Denial> {
        if let Some(denial) = self.forbidden(at, connection, permission, id) {
            return Err(denial);
        }
        let standing = self.standing(connection);
        let mut granted = self.grants_for(at, &standing, permission, (uid, id));
        granted.next().cloned().ok_or(Denial::Nothing)
    }

    /// The grants by which somebody may do this to a process of a user that it hasn't started, whatever forbids it.
    pub(crate) fn grants_for<'a>(
        &'a self,
        at: Moment,
        standing: &'a Standing,
        permission: Permission,
        (uid, id): (u32, &'a str),
    ) -> impl Iterator<Item = &'a Arc<Grant>> {
        let parties = standing.parties.iter().filter(move |party| party.uid == uid);
        let snapshot = &self.permissions.snapshot;
        parties.flat_map(move |party| snapshot.allowing(party, permission, Some(id), wall_ms(at)))
    }

    /// A grant that was for one use has had it.
    pub(crate) fn use_up(&mut self, turn: &mut Turn<'_>, grant: &Arc<Grant>) {
        self.once_used = true;
        let taking = Taking { cause: RevokeCause::Used, running: RunningOption::Keep, by: None };
        self.take_back(turn, &grant.id, &taking);
    }
}

/// What a call is about, as far as its parameters say: for the record, when it is refused before its method looks.
fn resource_in(params: RawRef<'_>, form: Resource) -> Option<String> {
    let names: &[&[u8]] = match form {
        Resource::Topic => &[b"type", b"topic"],
        Resource::Process => &[b"id", b"pid"],
        _ => return None,
    };
    crate::events::story::named(params, names)
}

/// The error of a call that is refused for want of a permission.
pub(crate) fn refused(
    method: &str,
    denial: &Denial,
    permission: Permission,
    resource: Option<&str>,
) -> WireError {
    let error =
        WireError::denied(method, &denial.reason(permission, resource)).with("permission", permission.name());
    let error = match resource {
        Some(resource) => error.with("resource", resource),
        None => error,
    };
    match denial {
        Denial::Forbidden(grant) => error.with("grant", grant.as_ref()),
        Denial::Policy(rule) => error.with("rule", rule.as_str()),
        Denial::Nothing => error,
    }
}
