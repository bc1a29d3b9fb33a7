//! How agents and sessions begin and end.

use crate::agents::{AGENTS_MAX, Agent, SESSION_PREFIX, SESSIONS_MAX, Session, is_name};
use crate::auth::grant::may_touch;
use crate::auth::principal::AGENT;
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::wall_ms;
use crate::entropy::bits;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::asking::clause;
use crate::permissions::giving::{Basis, Wish};
use crate::permissions::revoking::Taking;
use crate::permissions::{Clause, Grant};
use crate::state::{Cast, Timer, Trace};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{AgentCreated, AgentRemoved, SessionCreated, SessionEnded};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::agent::{
    Agent as ToldAgent, AgentSession, CreateParams, CreateResult, RemoveParams, RemoveResult,
    SessionCreateParams, SessionCreateResult, SessionEndParams, SessionEndResult,
};
use kairo_wire::methods::permission::{GrantScope, RevokeCause, RunningOption};
use kairo_wire::methods::status::{EndCause, EndedBy};
use kairo_wire::permission::Permission;
use std::sync::Arc;

/// Most permissions of one agent.
const CLAUSES_MAX: usize = 1_024;

impl Kernel {
    /// `agent.create`.
    pub(crate) fn create_agent(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: CreateParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        if !is_name(&params.name) {
            return Err(WireError::invalid("name", "1 to 128 letters, digits, `.`, `_` and `-`"));
        }
        let uid = self.principal(asking.connection).uid(self.config.owner_uid);
        let name: Arc<str> = params.name.as_str().into();
        let party = Party { uid, subject: Subject::Agent(Arc::clone(&name)) };
        let decides_by = self.may_decide(turn, asking, Permission::AgentManage, &party)?;
        let rules = params.permissions.map(|told| clauses(&told)).transpose()?;
        let mut basis = Basis::of(decides_by);
        rules.iter().flatten().try_for_each(|clause| self.may_give(turn, asking, clause, &mut basis))?;
        let of_user = self.agents.agents.keys().filter(|(of, _)| *of == uid).count();
        let created = !self.agents.agents.contains_key(&(uid, Arc::clone(&name)));
        if created && of_user >= AGENTS_MAX {
            let message = format!("a user has at most {AGENTS_MAX} agents");
            return Err(WireError::new(Code::Busy, message).with("limit", "agentsMax"));
        }
        let now_ms = wall_ms(turn.at);
        let expires_ms = params.lifetime_ms.map(|ms| now_ms.saturating_add(ms));
        let by: Box<str> = self.principal(asking.connection).to_string().into();
        let created_ms =
            self.agents.agents.get(&(uid, Arc::clone(&name))).map_or(now_ms, |agent| agent.created_ms);
        if let Some(rules) = rules {
            self.permit_agent(turn, asking, &party, rules, &basis)?;
        }
        self.spend_all(turn, basis);
        self.agents.agents.insert((uid, Arc::clone(&name)), Agent { by, created_ms, expires_ms });
        self.keep_agent(uid, &name);
        self.await_agents(turn);
        if created {
            let event = AgentCreated { name: params.name, uid, expires_ms };
            self.publish(turn, Audience::Administration(uid), &asking.trace, &event);
        }
        let result = CreateResult { principal: party.to_string(), created, expires_ms };
        self.answer_when_written(turn, asking, &result);
        Ok(())
    }

    /// An agent may exactly this: what was granted to it when it was made before is taken back.
    fn permit_agent(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        party: &Party,
        rules: Vec<Clause>,
        basis: &Basis,
    ) -> Result<(), WireError> {
        const REQUEST: &str = "agent.create";
        let mut former = self.grants_of(party);
        let is_former = |id: &str| {
            let grant = self.permissions.grants.get(id);
            grant.is_some_and(|grant| grant.request.as_deref() == Some(REQUEST))
        };
        former.retain(|id| is_former(id));
        let wish = Wish { scope: None, otherwise: GrantScope::Always, expires_in_ms: None };
        let terms = self.terms(turn, asking, basis, &wish)?;
        if !rules.is_empty() {
            let grant = self.drafted(turn, party.clone(), rules, &terms, (None, None))?;
            self.put_in_force(turn, &asking.trace, Grant { request: Some(REQUEST.into()), ..grant });
        }
        self.declare(party);
        let taking = Taking { cause: RevokeCause::Replaced, running: RunningOption::Keep, by: None };
        for id in former {
            self.take_back(turn, &id, &taking);
        }
        Ok(())
    }

    /// `agent.remove`.
    pub(crate) fn remove_agent(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: &RemoveParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let uid = self.principal(asking.connection).uid(self.config.owner_uid);
        let party = self.agent_named(uid, &params.name)?;
        let decides_by = self.may_decide(turn, asking, Permission::AgentManage, &party)?;
        let result = self.end_agent(turn, &party, RevokeCause::Revoked, params.running);
        self.spend(turn, decides_by);
        self.answer_when_written(turn, asking, &result);
        Ok(())
    }

    fn agent_named(&self, uid: u32, name: &str) -> Result<Party, WireError> {
        match self.agents.agents.get_key_value(&(uid, Arc::from(name))) {
            Some(((_, name), _)) => Ok(Party { uid, subject: Subject::Agent(Arc::clone(name)) }),
            None => {
                Err(WireError::new(Code::NotFound, format!("there is no agent {name}")).with("agent", name))
            }
        }
    }

    fn end_agent(
        &mut self,
        turn: &mut Turn<'_>,
        party: &Party,
        cause: RevokeCause,
        running: RunningOption,
    ) -> RemoveResult {
        let mut result = RemoveResult::default();
        let Subject::Agent(name) = &party.subject else { return result };
        let of = |session: &Session| session.uid == party.uid && session.agent == *name;
        let sessions = self.agents.sessions.iter().filter(|(_, session)| of(session));
        let sessions: Vec<Arc<str>> = sessions.map(|(id, _)| Arc::clone(id)).collect();
        for session in sessions {
            let ended = self.end_session(turn, &session, cause, running);
            result.revoked.extend(ended.revoked);
            result.ended.extend(ended.ended);
            result.sessions.push(session.as_ref().to_owned());
        }
        if running == RunningOption::End {
            let acts = |cast: &Cast| cast.acts_as.as_ref().is_some_and(|acts_as| acts_as.party() == *party);
            // What ran in its sessions is told already.
            let outside = self.cast_so(|cast| acts(cast) && cast.session().is_none());
            result.ended.extend(self.end_those(turn, outside));
        }
        for id in self.grants_of(party) {
            let gone = self.take_back(turn, &id, &Taking { cause, running, by: None });
            result.revoked.extend(gone.revoked);
        }
        self.agents.agents.remove(&(party.uid, Arc::clone(name)));
        // One of the same name that is made later is another one; whoever acts as this one is left with what any child may,
        // so it is cut off instead.
        self.dismiss(turn, party, RunningOption::Keep);
        self.undeclare(party);
        self.keep_agent(party.uid, name);
        self.await_agents(turn);
        let event = AgentRemoved { name: name.as_ref().to_owned(), uid: party.uid, cause };
        self.publish(turn, Audience::Administration(party.uid), &Trace::default(), &event);
        result
    }

    /// Ends processes, and names them.
    fn end_those(&mut self, turn: &mut Turn<'_>, those: Vec<(u64, ProcessId)>) -> Vec<ProcessId> {
        let end = |(serial, process)| {
            self.doom(turn, serial, EndedBy { cause: EndCause::Kill, principal: None });
            process
        };
        those.into_iter().map(end).collect()
    }

    /// Closes the connections of a party that is no more; those of processes only if they aren't ended.
    fn dismiss(&mut self, turn: &mut Turn<'_>, party: &Party, running: RunningOption) {
        let keys: Vec<ConnectionKey> = self.permissions.known.of(party).copied().collect();
        for key in keys {
            let is_it = self.standing(key).parties.contains(party);
            let is_ended = running == RunningOption::End
                && self.state.connections.get(key).is_some_and(|peer| peer.life.is_some());
            if is_it && !is_ended {
                self.cut_off(turn, key, "whom it acts as is no more");
            }
        }
    }

    /// `session.create`.
    pub(crate) fn create_session(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: &SessionCreateParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let uid = self.principal(asking.connection).uid(self.config.owner_uid);
        let party = self.agent_named(uid, &params.agent)?;
        let decides_by = self.may_decide(turn, asking, Permission::AgentManage, &party)?;
        let Subject::Agent(agent) = &party.subject else { return Ok(()) };
        let of =
            self.agents.sessions.values().filter(|session| session.uid == uid && session.agent == *agent);
        if of.count() >= SESSIONS_MAX {
            let message = format!("an agent has at most {SESSIONS_MAX} sessions");
            return Err(WireError::new(Code::Busy, message).with("limit", "sessionsMax"));
        }
        let now_ms = wall_ms(turn.at);
        let until = self.agents.agents.get(&(uid, Arc::clone(agent))).and_then(|agent| agent.expires_ms);
        let own = params.lifetime_ms.map(|ms| now_ms.saturating_add(ms));
        let expires_ms = own.into_iter().chain(until).min();
        let id: Arc<str> = format!("{SESSION_PREFIX}{:032x}", bits(&mut *self.entropy)).into();
        let session = Session { uid, agent: Arc::clone(agent), created_ms: now_ms, expires_ms };
        self.agents.sessions.insert(Arc::clone(&id), session);
        self.spend(turn, decides_by);
        self.keep_session(&id);
        self.await_agents(turn);
        let session_id = id.as_ref().to_owned();
        let event =
            SessionCreated { session_id: session_id.clone(), agent: agent.as_ref().to_owned(), expires_ms };
        self.publish(turn, Audience::Administration(uid), &asking.trace, &event);
        self.answer_when_written(turn, asking, &SessionCreateResult { session_id, expires_ms });
        Ok(())
    }

    /// `session.end`.
    pub(crate) fn finish_session(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        params: &SessionEndParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let (id, session) = self.agent_session(&params.session_id)?;
        let party = Party { uid: session.uid, subject: Subject::Agent(Arc::clone(&session.agent)) };
        let decides_by = self.may_decide(turn, asking, Permission::AgentManage, &party)?;
        let result = self.end_session(turn, &id, RevokeCause::Revoked, params.running);
        self.spend(turn, decides_by);
        self.answer_when_written(turn, asking, &result);
        Ok(())
    }

    /// A session that has begun and is not over.
    pub(crate) fn agent_session(&self, id: &str) -> Result<(Arc<str>, Session), WireError> {
        let found =
            self.agents.sessions.get_key_value(id).map(|(id, session)| (Arc::clone(id), session.clone()));
        found.ok_or_else(|| {
            WireError::new(Code::NotFound, format!("there is no session {id}")).with("sessionId", id)
        })
    }

    fn end_session(
        &mut self,
        turn: &mut Turn<'_>,
        id: &str,
        cause: RevokeCause,
        running: RunningOption,
    ) -> SessionEndResult {
        let mut result = SessionEndResult::default();
        let Some((id, session)) = self.agents.sessions.remove_entry(id) else { return result };
        self.keep_session(&id);
        if running == RunningOption::End {
            let inside = self.running_in(&id);
            result.ended = self.end_those(turn, inside);
        }
        result.revoked = self.session_over(turn, &id, running);
        // What is being ended may say so yet; nobody else acts in it any more.
        let inside = Party { uid: session.uid, subject: Subject::Session(Arc::clone(&id)) };
        self.dismiss(turn, &inside, running);
        self.leave_session(turn, &id);
        self.await_agents(turn);
        let event = SessionEnded {
            session_id: id.as_ref().to_owned(),
            agent: session.agent.as_ref().to_owned(),
            cause,
            ended: result.ended.clone(),
        };
        self.publish(turn, Audience::Administration(session.uid), &Trace::default(), &event);
        result
    }

    /// What runs in a session, or will again.
    fn running_in(&self, session: &str) -> Vec<(u64, ProcessId)> {
        self.cast_so(|cast| cast.session() == Some(session))
    }

    /// All agents a connection may know of.
    pub(crate) fn agents_told(&self, connection: ConnectionKey) -> Vec<ToldAgent> {
        let principal = self.principal(connection);
        let mut told = Vec::new();
        for ((uid, name), agent) in &self.agents.agents {
            let creator = Party { uid: *uid, subject: Subject::Agent(Arc::clone(name)) };
            if !may_touch(principal, &creator.principal(self.config.owner_uid).creator(self.config.owner_uid))
            {
                continue;
            }
            let sessions = self
                .agents
                .sessions
                .iter()
                .filter(|(_, session)| session.uid == *uid && session.agent == *name);
            let sessions = sessions.map(|(id, session)| AgentSession {
                session_id: id.as_ref().to_owned(),
                created_ms: session.created_ms,
                expires_ms: session.expires_ms,
                processes: self.running_in(id).into_iter().map(|(_, id)| id).collect(),
            });
            told.push(ToldAgent {
                name: name.as_ref().to_owned(),
                uid: *uid,
                by: agent.by.as_ref().to_owned(),
                created_ms: agent.created_ms,
                expires_ms: agent.expires_ms,
                sessions: sessions.collect(),
            });
        }
        told
    }

    /// Arms the timer of the next agent or session to expire.
    fn await_agents(&mut self, turn: &mut Turn<'_>) {
        let agents = self.agents.agents.values().filter_map(|agent| agent.expires_ms);
        let next = agents.chain(self.agents.sessions.values().filter_map(|session| session.expires_ms)).min();
        self.agents.expiry = self.ring_at(turn, self.agents.expiry, next, Timer::Agents);
    }

    /// The next agent or session has expired.
    pub(crate) fn agents_rang(&mut self, turn: &mut Turn<'_>) {
        self.agents.expiry = None;
        let now_ms = wall_ms(turn.at);
        let over = |until: Option<u64>| until.is_some_and(|until| until <= now_ms);
        let sessions = self.agents.sessions.iter().filter(|(_, session)| over(session.expires_ms));
        let sessions: Vec<Arc<str>> = sessions.map(|(id, _)| Arc::clone(id)).collect();
        for id in sessions {
            self.end_session(turn, &id, RevokeCause::Expired, RunningOption::End);
        }
        let agents = self.agents.agents.iter().filter(|(_, agent)| over(agent.expires_ms));
        let agents: Vec<Party> = agents
            .map(|((uid, name), _)| Party { uid: *uid, subject: Subject::Agent(Arc::clone(name)) })
            .collect();
        for party in agents {
            self.end_agent(turn, &party, RevokeCause::Expired, RunningOption::End);
        }
        self.await_agents(turn);
    }

    /// For the start: agents and sessions whose time came while there was no kernel.
    pub fn settle_agents(&mut self, at: Moment, out: &mut kairo_dataplane::command::Commands) {
        self.agents_rang(&mut Turn { at, here: None, out });
    }

    /// Who acts as an agent.
    pub(crate) fn agent_text(name: &str) -> String {
        format!("{AGENT}{name}")
    }
}

fn clauses(told: &[kairo_wire::methods::permission::GrantedPermission]) -> Result<Vec<Clause>, WireError> {
    if told.len() > CLAUSES_MAX {
        let message = format!("permissions: an agent has at most {CLAUSES_MAX}");
        return Err(WireError::too_large("agentPermissionsMax", message).with("field", "permissions"));
    }
    let read = |(at, one): (usize, &kairo_wire::methods::permission::GrantedPermission)| {
        clause(&one.permission, one.resource.as_deref(), one.purpose.as_deref()).map_err(|error| {
            let field =
                error.details.as_ref().and_then(|details| details.get("field")?.as_str().map(str::to_owned));
            error.with("field", format!("permissions[{at}].{}", field.unwrap_or_default()))
        })
    };
    told.iter().enumerate().map(read).collect()
}
