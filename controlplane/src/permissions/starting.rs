//! Starting programs as somebody: as a skill whose manifest was approved, in a session of an agent, or as whoever starts them.
//!
//! Invariant: what a named principal starts has that name, unless it is given another that it may have; so nobody gets rid of what
//! is said of it by starting itself again.

use crate::auth::decision::{Deed, Denial, Standing, Verdict};
use crate::auth::principal::{AGENT, Principal, Skill};
use crate::auth::subject::{Party, Subject, known_as};
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::permissions::programs::Place;
use crate::permissions::standing::refused;
use crate::state::{ActsAs, Cast};
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::WireError;
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::permission::{GrantScope, ManifestSummary, SkillOption};
use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::Permission;
use std::sync::Arc;

const METHOD: &str = "process.spawn";
/// Names in a line of processes that start each other: each costs a decision a look, and all are written down with each.
const LINE_MAX: usize = 256;

/// As whom something is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// Whom it is for the kernel.
    pub acts_as: Option<ActsAs>,
    /// The grant it runs under.
    pub under: Option<Arc<Grant>>,
    /// Whoever starts it, and whoever started that.
    pub line: Arc<[Party]>,
    /// Which of the programs that grant is for it is.
    pub nth: usize,
}

/// For what an approval has to be good.
#[derive(Clone, Debug)]
pub(crate) struct Occasion<'a> {
    /// The user whose skill it is.
    pub uid: u32,
    /// The session it is wanted in.
    pub session: Option<&'a str>,
    /// The intent it is wanted for.
    pub intent: Option<&'a str>,
    /// The life that ran under it before, if it is a restart.
    pub after: Option<&'a str>,
    /// A program starts it: a skill, an agent, a child.
    pub by_program: bool,
    /// Where it is started.
    pub place: Place<'a>,
}

impl Kernel {
    /// As whom a spawn of this connection starts its program.
    pub(crate) fn identity(
        &self,
        at: Moment,
        connection: ConnectionKey,
        (options, place): (Option<&SpawnOptions>, Place<'_>),
        intent: Option<&str>,
    ) -> Result<Identity, WireError> {
        let line = self.line(connection)?;
        Ok(Identity { line, ..self.name_for(at, connection, (options, place), intent)? })
    }

    /// Everybody a connection goes by, and whoever started it does. A session that is over is left out: nothing is said of it
    /// any more, and a process that starts the next one and ends, for ever, would have an endless line.
    fn line(&self, connection: ConnectionKey) -> Result<Arc<[Party]>, WireError> {
        let Standing { parties, bound, .. } = self.standing(connection);
        let goes_on = |party: &Party| match &party.subject {
            Subject::Session(session) => self.session_ends(session) != Some(true),
            Subject::User | Subject::Agent(_) | Subject::Skill(_) => true,
        };
        let line: Vec<Party> = parties.into_iter().chain(bound).filter(goes_on).collect();
        if line.len() > LINE_MAX {
            let message = format!(
                "whoever starts it and whoever started that go by {} names; {LINE_MAX} is most",
                line.len()
            );
            return Err(WireError::too_large("lineMax", message));
        }
        Ok(line.into())
    }

    fn name_for(
        &self,
        at: Moment,
        connection: ConnectionKey,
        (options, place): (Option<&SpawnOptions>, Place<'_>),
        intent: Option<&str>,
    ) -> Result<Identity, WireError> {
        let principal = self.principal(connection);
        let peer = self.state.connections.get(connection);
        let own = peer.and_then(|peer| peer.party.as_ref());
        let uid = own.map_or_else(|| principal.uid(self.config.owner_uid), |party| party.uid);
        let inherited = peer.and_then(|peer| peer.agent_session.clone());
        let asked = options.and_then(|options| options.agent_session.as_deref());
        let session = match asked {
            Some(id) => Some(self.session_for(connection, uid, id)?),
            // Whoever acts in a session does so as long as that is there.
            None => match inherited {
                Some(session) if !self.agents.sessions.contains_key(&session) => {
                    return Err(WireError::denied(METHOD, "the session of its caller is over"));
                }
                inherited => inherited.map(|session| (session, None)),
            },
        };
        let id = session.as_ref().map(|(id, _)| Arc::clone(id));
        if let Some(skill) = options.and_then(|options| options.skill.as_ref()) {
            let life = peer.and_then(|peer| peer.life.as_deref());
            let session = id.as_deref().or(life).or(skill.session.as_deref());
            let by_program = matches!(principal, Principal::Skill(_));
            let nth = place.nth;
            let occasion = Occasion { uid, session, intent, after: None, by_program, place };
            let under = self.approval_of(at, skill, &occasion)?;
            self.forbids_none(at, &self.standing(connection), &under)?;
            let name = skill.name.as_str().into();
            return Ok(Identity {
                acts_as: Some(ActsAs { uid, name, session: id }),
                under: Some(under),
                nth,
                ..Identity::default()
            });
        }
        if let Some((id, Some(agent))) = session {
            let name = Kernel::agent_text(&agent).into();
            return Ok(Identity {
                acts_as: Some(ActsAs { uid, name, session: Some(id) }),
                ..Identity::default()
            });
        }
        let Principal::Skill(Skill { session: None, name: Some(name), .. }) = principal else {
            return Ok(Identity::default());
        };
        let party = own.cloned().or_else(|| known_as(principal));
        let said = |party: &Party| {
            matches!(party.subject, Subject::Agent(_)) || self.permissions.snapshot.is_known(party)
        };
        if !party.as_ref().is_some_and(said) {
            return Ok(Identity::default());
        }
        let process = peer.and_then(|peer| peer.life.as_deref()).and_then(|life| self.of_life(life));
        let under = process.and_then(|process| process.cast.under.as_ref());
        let under = under.and_then(|id| self.permissions.grants.get(id)).cloned();
        let acts_as = Some(ActsAs { uid, name: Arc::clone(name), session: id });
        Ok(Identity { acts_as, under, ..Identity::default() })
    }

    /// The session a caller wants something started in: its users', or one of its own agent.
    fn session_for(
        &self,
        connection: ConnectionKey,
        uid: u32,
        id: &str,
    ) -> Result<(Arc<str>, Option<Arc<str>>), WireError> {
        let (id, session) = self.agent_session(id)?;
        let principal = self.principal(connection);
        let may = match principal {
            Principal::Owner => true,
            Principal::User { uid } => *uid == session.uid,
            Principal::Skill(skill) => skill.agent() == Some(&*session.agent) && uid == session.uid,
            Principal::Nobody { .. } => false,
        };
        match may {
            true if uid == session.uid => Ok((id, Some(session.agent))),
            _ => Err(WireError::denied(METHOD, "options.agentSession: it is somebody else's")
                .with("sessionId", id.as_ref())),
        }
    }

    /// The approval a skill is started under.
    pub(crate) fn approval_of(
        &self,
        at: Moment,
        skill: &SkillOption,
        occasion: &Occasion<'_>,
    ) -> Result<Arc<Grant>, WireError> {
        let party = Party { uid: occasion.uid, subject: Subject::Skill(skill.name.as_str().into()) };
        let now_ms = wall_ms(at);
        let meant = |grant: &Grant| {
            let Some(declared) = grant.declared.as_deref() else { return false };
            let ManifestSummary { digest, programs, .. } = &declared.summary;
            let wanted = skill.manifest_digest.as_deref();
            // One that names no program is for whoever knows which it starts.
            (!programs.is_empty() || !occasion.by_program)
                && wanted.is_none_or(|wanted| digest.eq_ignore_ascii_case(wanted))
                && declared.fits(&occasion.place)
        };
        let bound = |grant: &Grant| occasion.after.is_some() && grant.session.as_deref() == occasion.after;
        let good = |grant: &&Arc<Grant>| {
            let here = self.is_good_in(grant, occasion.session, occasion.intent);
            meant(grant) && grant.is_live(now_ms) && (here || bound(grant))
        };
        if let Some(grant) = self.permissions.approvals(&party).filter(good).max_by_key(|grant| grant.at_ms) {
            return Ok(Arc::clone(grant));
        }
        let why = match self.permissions.approvals(&party).any(|grant| meant(grant)) {
            true => "its approval is used up, expired, or for another session or intent",
            false if self.permissions.approvals(&party).next().is_some() => {
                "another manifest of it, or another program, or a pipeline of other programs, was approved, or none by its \
                 digest, which only the kernel's users can start"
            }
            false => "no manifest of it was approved",
        };
        let message = format!("options.skill: {}: {why}; permission.request asks for it", skill.name);
        Err(WireError::denied(METHOD, &message).with("skill", skill.name.as_str()))
    }

    /// What was approved may have been forbidden since, to the skill or to whoever starts it.
    fn forbids_none(&self, at: Moment, starter: &Standing, under: &Grant) -> Result<(), WireError> {
        let bound = starter.parties.iter().chain(&starter.bound).cloned().collect();
        let skill = Standing { kind: PrincipalKind::Skill, parties: vec![under.party.clone()], bound };
        for clause in &under.rules {
            let resource = Some(clause.resource.as_deref().unwrap_or("*"));
            let deed = Deed { permission: clause.permission, method: None, resource };
            let verdict = skill.decide(&self.permissions.snapshot, &deed, wall_ms(at));
            if let Verdict::Denied(denial @ (Denial::Forbidden(_) | Denial::Policy(_))) = verdict {
                return Err(refused(METHOD, &denial, clause.permission, resource));
            }
        }
        Ok(())
    }

    /// Whether somebody may still be started as this, now that it has waited.
    pub(crate) fn is_still_good(
        &self,
        at: Moment,
        connection: ConnectionKey,
        (acts_as, under): (Option<&ActsAs>, Option<&Arc<str>>),
    ) -> Result<(), WireError> {
        let over = |why: &str| Err(WireError::denied(METHOD, why));
        if !self.may_now(at, connection, Permission::ProcessSpawn, None) {
            return over("it takes the permission process.spawn, which was taken back meanwhile");
        }
        let session = acts_as.and_then(|acts_as| acts_as.session.as_deref());
        if session.is_some_and(|session| !self.agents.sessions.contains_key(session)) {
            return over("options.agentSession: it is over meanwhile");
        }
        if acts_as.is_some_and(|acts_as| !self.is_there(acts_as, wall_ms(at))) {
            return over("its agent was removed meanwhile");
        }
        let Some(under) = under else { return Ok(()) };
        let life = self.state.connections.get(connection).and_then(|peer| peer.life.as_ref());
        // One that was for one use may have had it, in another life than the caller's.
        let is_free = |grant: &Grant| {
            grant.scope != GrantScope::Once || grant.session.is_none() || grant.session.as_ref() == life
        };
        let good = |grant: &Arc<Grant>| grant.is_live(wall_ms(at)) && is_free(grant);
        match self.permissions.grants.get(under).is_some_and(good) {
            true => Ok(()),
            false => over("options.skill: its approval was taken back or used up meanwhile"),
        }
    }

    /// Whether whom something acts as since then is still there: an agent may have been removed, and another one made of its name.
    pub(crate) fn is_there(&self, acts_as: &ActsAs, since_ms: u64) -> bool {
        let Some(name) = acts_as.name.strip_prefix(AGENT) else { return true };
        let agent = self.agents.agents.get(&(acts_as.uid, name.into()));
        agent.is_some_and(|agent| agent.created_ms <= since_ms)
    }

    /// Whether what ran in a name when it began may be started in it again.
    pub(crate) fn stands(&self, at: Moment, cast: &Cast, started_ms: u64) -> Result<(), WireError> {
        let over = |why: &str| Err(WireError::denied(METHOD, why));
        if cast.session().is_some_and(|session| !self.agents.sessions.contains_key(session)) {
            return over("the session it ran in is over");
        }
        if cast.acts_as.as_ref().is_some_and(|acts_as| !self.is_there(acts_as, started_ms)) {
            return over("the agent it ran as is no more");
        }
        let grant = cast.under.as_ref().map(|id| self.permissions.grants.get(id));
        match grant.is_none_or(|grant| grant.is_some_and(|grant| grant.is_live(wall_ms(at)))) {
            true => Ok(()),
            false => over("what it ran under was taken back"),
        }
    }

    /// A life begins under an approval that was for one use: it is this life's.
    pub(crate) fn occupy(&mut self, under: Option<&Arc<str>>, life: &str) {
        let Some(grant) = under.and_then(|id| self.permissions.grants.get(id)) else { return };
        // What such a life starts runs under it too, and ends with it.
        if grant.scope != GrantScope::Once || grant.declared.is_none() || grant.session.is_some() {
            return;
        }
        let grant = Grant::clone(grant);
        self.give_to(grant, life);
    }

    /// From now on a grant is this life's.
    fn give_to(&mut self, grant: Grant, life: &str) {
        let grant = Arc::new(Grant { session: Some(life.into()), ..grant });
        let id = Arc::clone(&grant.id);
        self.permissions.remove(&id);
        self.permissions.insert(grant);
        self.keep_grant(&id);
    }

    /// A life is over: what was for one start of its pipeline is that of another stage, if one is left. False if none is.
    pub(crate) fn bequeath(&mut self, grant: &str, life: &str) -> bool {
        let Some(grant) = self.permissions.grants.get(grant) else { return false };
        let Some(stage) = self.of_life(life).and_then(|process| process.wired.stage) else { return false };
        let Some(pipeline) = self.state.pipelines.get(stage.pipeline) else { return false };
        let stages = pipeline.stages.iter().filter_map(|stage| self.state.processes.get(&stage.process?));
        let mut left = stages.filter(|process| process.cast.under.as_ref() == Some(&grant.id));
        let Some(heir) = left.find(|process| process.is_member() && process.session.as_str() != life) else {
            return false;
        };
        let (grant, life) = (Grant::clone(grant), heir.session.as_str().to_owned());
        self.give_to(grant, &life);
        true
    }
}
