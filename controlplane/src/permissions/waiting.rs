//! Calls that wait while a right is taken away, and what may be told of the log by way of views.
//!
//! Invariant: a parked call is answered with nothing its caller may not know by then. What it asked to be done and is done already
//! stays done, and it is told so.

use crate::auth::decision::{Deed, Denial, Hearing, Verdict};
use crate::auth::grant::may_touch;
use crate::auth::principal::{Creator, Principal};
use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::standing::refused;
use crate::state::{self, Awaited, Call, Pending};
use kairo_dataplane::command::Command;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::WireError;
use kairo_wire::methods::status::EndCause;
use kairo_wire::permission::Permission;
use std::sync::Arc;

/// Why not, and for which resource.
type Refusal = (Denial, Permission, Option<String>);

impl Kernel {
    /// Which events a connection may hear.
    pub(crate) fn hearing(&self, at: Moment, key: ConnectionKey) -> Hearing {
        let snapshot = Arc::clone(&self.permissions.snapshot);
        Hearing { snapshot, standing: self.standing(key), now_ms: wall_ms(at) }
    }

    /// Whether a connection may hear all events of these types: so it may see what is made of them.
    pub(crate) fn may_hear(
        &self,
        at: Moment,
        key: ConnectionKey,
        method: &str,
        topics: &[Arc<str>],
    ) -> Result<(), WireError> {
        if topics.is_empty() || matches!(self.principal(key), Principal::Owner) {
            return Ok(());
        }
        let hearing = self.hearing(at, key);
        let refuse = |topic: &Arc<str>| {
            let denial = hearing.denies(topic)?;
            Some(refused(method, &denial, Permission::EventSubscribe, Some(topic)))
        };
        topics.iter().find_map(refuse).map_or(Ok(()), Err)
    }

    /// The same for whoever waits for the answer of a call.
    pub(crate) fn may_be_told(&self, at: Moment, call: u64, topics: &[Arc<str>]) -> Result<(), WireError> {
        let Some(call) = self.state.calls.get(&call).filter(|call| !call.headless) else { return Ok(()) };
        let method = call.row.map_or(call.pending.method(), |row| row.name);
        self.may_hear(at, call.connection, method, topics)
    }

    /// Refuses what a connection waits for and may not any more.
    pub(crate) fn refuse_waiting(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        let calls = self.state.connections.get(key).map(|peer| peer.calls.clone()).unwrap_or_default();
        for ticket in calls {
            let Some(call) = self.state.calls.get(&ticket) else { continue };
            if let Err(error) = self.may_wait(turn.at, key, call) {
                self.abandon(turn, ticket, &error, EndCause::Kill);
            }
        }
    }

    /// Whether a call may go on waiting.
    fn may_wait(&self, at: Moment, key: ConnectionKey, call: &Call) -> Result<(), WireError> {
        let Some(row) = call.row else { return Ok(()) };
        let mut pending = &call.pending;
        // Whoever repeats a call waits for what that waits for.
        if let Pending::Repeat { name } = pending
            && let Some(first) = self.receipts.flight(*name).and_then(|of| self.state.calls.get(&of.call))
        {
            pending = &first.pending;
        }
        if pending.is_done() {
            return Ok(());
        }
        if let Pending::Reuse { plan, .. } = pending {
            self.is_still_good(at, key, (plan.cast.acts_as.as_ref(), plan.cast.under.as_ref()))?;
        }
        if let Pending::Changes { topics, .. } = pending {
            self.may_hear(at, key, row.name, topics)?;
        }
        let of_call = self.denial_now(at, key, Some(row.name), row.permission, None);
        let of_call = of_call.map(|denial| (denial, row.permission, None));
        let of_pending = self.refusal_of(at, key, row.name, row.permission, pending);
        // What was granted for one use has had it, and is it.
        let counts = |(denial, ..): &Refusal| !(call.once && *denial == Denial::Nothing);
        match of_call.into_iter().chain(of_pending).find(counts) {
            None => Ok(()),
            Some((denial, permission, resource)) => {
                Err(refused(row.name, &denial, permission, resource.as_deref()))
            }
        }
    }

    /// Whoever a connection was is no more: what it waits for is refused, and it is closed.
    pub(crate) fn cut_off(&mut self, turn: &mut Turn<'_>, key: ConnectionKey, why: &str) {
        self.end_lasting(turn, key);
        let Some(peer) = self.state.connections.get_mut(key).filter(|peer| !peer.closing) else { return };
        peer.closing = true;
        for ticket in peer.calls.clone() {
            let Some(call) = self.state.calls.get(&ticket).filter(|call| !call.pending.is_done()) else {
                continue;
            };
            let error = WireError::denied(call.row.map_or(call.pending.method(), |row| row.name), why);
            self.abandon(turn, ticket, &error, EndCause::Kill);
        }
        turn.out.push(Command::Close { connection: key });
    }

    /// A session is over: whoever comes from it is nobody, and so is whoever is there.
    pub(crate) fn leave_session(&mut self, turn: &mut Turn<'_>, session: &str) {
        let inside =
            self.state.connections.iter().filter(|peer| peer.agent_session.as_deref() == Some(session));
        let inside: Vec<ConnectionKey> = inside.map(|peer| peer.key).collect();
        for key in inside {
            self.cut_off(turn, key, "the session it is in is over");
        }
    }

    /// Why a call may not go on waiting for what it is about.
    fn refusal_of(
        &self,
        at: Moment,
        key: ConnectionKey,
        method: &str,
        permission: Permission,
        pending: &Pending,
    ) -> Option<Refusal> {
        let denies = |permission: Permission, resource: &str| {
            let denial = self.denial_now(at, key, Some(method), permission, Some(resource))?;
            Some((denial, permission, Some(resource.to_owned())))
        };
        match pending {
            Pending::Wait { process, .. } | Pending::Usage { process } | Pending::Deed { process, .. } => {
                let process = self.state.processes.get(process)?;
                let id = process.id.to_string();
                Some((
                    self.denies_what_is_of(at, key, permission, &process.creator, &id)?,
                    permission,
                    Some(id),
                ))
            }
            Pending::Pipeline { pipeline, .. } => {
                let pipeline = self.state.pipelines.get(*pipeline)?;
                let id = pipeline.id.to_string();
                let denial = self.denies_what_is_of(at, key, permission, &pipeline.creator, &id)?;
                Some((denial, permission, Some(id)))
            }
            Pending::Request { event, .. } => {
                denies(Permission::EventPublish, &self.state.requests.get(event)?.topic)
            }
            // Its reader was closed, if it may not read.
            Pending::Open { opened } if !self.state.subscriptions.contains_key(opened.id.as_str()) => {
                Some((Denial::Nothing, permission, None))
            }
            Pending::Replay { topics } => {
                topics.iter().find_map(|topic| denies(Permission::EventSubscribe, topic))
            }
            _ => None,
        }
    }

    /// Why a connection may not do this to what somebody has started.
    fn denies_what_is_of(
        &self,
        at: Moment,
        key: ConnectionKey,
        permission: Permission,
        creator: &Creator,
        id: &str,
    ) -> Option<Denial> {
        match self.principal(key) {
            Principal::Owner => None,
            of if may_touch(of, creator) => self.forbidden(at, key, permission, id),
            _ => self.by_grant(at, key, permission, creator.uid, id).err(),
        }
    }

    /// Why a connection may not do this, as it stands now.
    pub(crate) fn denial_now(
        &self,
        at: Moment,
        key: ConnectionKey,
        method: Option<&str>,
        permission: Permission,
        resource: Option<&str>,
    ) -> Option<Denial> {
        let deed = Deed { permission, method, resource };
        let (snapshot, standing) = (&self.permissions.snapshot, self.standing(key));
        let verdict = match resource {
            Some(_) => standing.decide(snapshot, &deed, wall_ms(at)),
            None => standing.decide_call(snapshot, &deed, wall_ms(at)).0,
        };
        match verdict {
            Verdict::Denied(denial) => Some(denial),
            Verdict::Anyway | Verdict::Granted(_) => None,
        }
    }
}

impl Pending {
    /// Whether what was asked for has been done, so that only the word of it is waited for.
    fn is_done(&self) -> bool {
        match self {
            Pending::Deed { deed: state::Deed::Write { .. }, .. } | Pending::Deed { sent: false, .. } => {
                false
            }
            Pending::Spawn { .. }
            | Pending::Pipeline { what: Awaited::Start, .. }
            | Pending::Deed { .. }
            | Pending::Published
            | Pending::Compaction { .. }
            | Pending::Cancelling { .. } => true,
            Pending::Reuse { .. }
            | Pending::Wait { .. }
            | Pending::Pipeline { .. }
            | Pending::Metrics
            | Pending::Usage { .. }
            | Pending::Request { .. }
            | Pending::Repeat { .. }
            | Pending::Decision { .. }
            | Pending::Replay { .. }
            | Pending::Changes { .. }
            | Pending::Open { .. }
            | Pending::Watch { .. } => false,
        }
    }
}
