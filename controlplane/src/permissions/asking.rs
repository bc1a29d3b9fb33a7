//! Asking for permissions: what is asked for becomes a request, and the policy decides it, or somebody has to.
//!
//! A manifest is read while nobody holds the lock. Invariant: one thing asked for twice is one request.

use crate::auth::principal::Principal;
use crate::auth::resource::check;
use crate::auth::rules::{Effect, Question};
use crate::auth::subject::{Party, Subject};
use crate::calls::{Asking, Turn};
use crate::clock::{after_ms, wall_ms};
use crate::entropy::bits;
use crate::events::record::Audience;
use crate::kernel::{Errand, Kernel};
use crate::permissions::declared::Declared;
use crate::permissions::giving::Terms;
use crate::permissions::grants::Id;
use crate::permissions::pending::Asker;
use crate::permissions::programs;
use crate::permissions::{Clause, Grant, News, PURPOSE_BYTES_MAX, Request};
use crate::state::{Pending, Timer, Trace};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::WireError;
use kairo_wire::event::{PermissionDenied, PermissionRequested};
use kairo_wire::methods::permission::{
    GrantScope, ManifestProgram, RequestParams, RequestResult, RequestStatus,
};
use kairo_wire::permission::{Permission, PermissionScope};
use std::sync::Arc;

/// A manifest that its caller holds while nobody holds the lock.
#[derive(Debug)]
pub struct Asked {
    call: u64,
    connection: ConnectionKey,
    trace: Trace,
    params: RequestParams,
    programs: Vec<ManifestProgram>,
    declared: Option<Result<Declared, WireError>>,
}

impl Asked {
    /// Reads the manifest, which takes longer than the lock may be held.
    pub(crate) fn read(&mut self) {
        let params = &mut self.params;
        let text = params.manifest.take().unwrap_or_default();
        let programs = std::mem::take(&mut self.programs);
        self.declared = Some(Declared::read(&text, params.syntax, programs));
    }
}

impl Kernel {
    /// `permission.request`.
    pub(crate) fn ask(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        mut params: RequestParams,
    ) -> Result<(), WireError> {
        self.takes_events()?;
        let wrong = |field: &str, why: &str| Err(WireError::invalid(field, why));
        if params.purpose.as_ref().is_some_and(|text| text.len() > PURPOSE_BYTES_MAX) {
            return wrong("purpose", &format!("at most {PURPOSE_BYTES_MAX} bytes"));
        }
        let clause = match (&params.manifest, &params.permission) {
            (Some(_), Some(_)) => return wrong("permission", "a manifest is asked for, or one permission"),
            (None, None) => return wrong("manifest", "a manifest is asked for, or one permission"),
            (Some(_), None) => None,
            (None, Some(permission)) => {
                Some(clause(permission, params.resource.as_deref(), params.purpose.as_deref())?)
            }
        };
        let programs = programs::named(&mut params)?;
        // Else whoever asked could start whatever it likes as that skill.
        let by_program = matches!(self.principal(asking.connection), Principal::Skill(_));
        if by_program && clause.is_none() && programs.is_empty() {
            return wrong(
                "programDigest",
                "a program asks for a skill with the digest of that skill's program",
            );
        }
        if clause.is_some() && !programs.is_empty() {
            let field = if programs.len() > 1 { "programs" } else { "program" };
            return wrong(field, "it goes with a manifest");
        }
        let call = self.park(turn, asking, Pending::Decision { request: None, timer: None });
        let asked = Box::new(Asked {
            call,
            connection: asking.connection,
            trace: asking.trace.clone(),
            params,
            programs,
            declared: None,
        });
        match clause {
            None => self.in_hand = Some(Errand::Declare(asked)),
            Some(clause) => self.asked_for(turn, *asked, vec![clause], None),
        }
        Ok(())
    }

    /// A manifest has been read.
    pub(crate) fn declared(&mut self, turn: &mut Turn<'_>, mut asked: Box<Asked>) {
        match asked.declared.take() {
            Some(Ok(declared)) => {
                let clauses = declared.clauses();
                self.asked_for(turn, *asked, clauses, Some(Arc::new(declared)));
            }
            Some(Err(error)) => self.reject(turn, asked.call, &error),
            None => {}
        }
    }

    fn asked_for(
        &mut self,
        turn: &mut Turn<'_>,
        asked: Asked,
        rules: Vec<Clause>,
        declared: Option<Arc<Declared>>,
    ) {
        // Nobody waits for it any more.
        if !self.state.calls.contains_key(&asked.call) {
            return;
        }
        let request = match self.request_of(turn, &asked, rules, declared) {
            Ok(request) => request,
            Err(error) => return self.reject(turn, asked.call, &error),
        };
        if let Some(grant) = self.approval_for(&request, wall_ms(turn.at)) {
            let id = grant.request.as_deref().unwrap_or(&grant.id);
            let result = approved(id, &grant, request.news);
            return self.resolve(turn, asked.call, &result);
        }
        if let Some(id) = self.permissions.requests.like(&request) {
            self.ask_also(&id, asked.connection);
            return self.await_decision(turn, &asked, &id);
        }
        self.consider(turn, &asked, request);
    }

    /// What is asked for, for whom.
    fn request_of(
        &self,
        turn: &Turn<'_>,
        asked: &Asked,
        rules: Vec<Clause>,
        declared: Option<Arc<Declared>>,
    ) -> Result<Request, WireError> {
        let principal = self.principal(asked.connection);
        let uid = principal.uid(self.config.owner_uid);
        let standing = self.standing(asked.connection);
        let party = match &declared {
            Some(declared) => Party { uid, subject: Subject::Skill(declared.summary.name.as_str().into()) },
            None => match standing.parties.into_iter().find(|party| party.subject != Subject::User) {
                Some(party) => party,
                None => {
                    let why = "the kernel's users ask for skills, by their manifests; permission.grant gives one to somebody";
                    return Err(WireError::invalid("permission", why));
                }
            },
        };
        let peer = self.state.connections.get(asked.connection);
        let own = peer.and_then(|peer| peer.agent_session.clone().or_else(|| peer.life.clone()));
        // Whoever is in a session can't have one decided about for another.
        let session = own.or_else(|| asked.params.session.as_deref().map(Arc::from));
        let news = declared.as_ref().and_then(|declared| self.news(&party, declared)).unwrap_or_default();
        let life = peer.and_then(|peer| peer.life.clone());
        let at_ms = wall_ms(turn.at);
        Ok(Request {
            party,
            by: principal.to_string().into(),
            by_program: matches!(principal, Principal::Skill(_)),
            asker: life.map(|life| Asker { life, connections: [asked.connection].into() }),
            rules,
            declared,
            scope: asked.params.scope,
            session,
            intent: asked.trace.intent.as_deref().map(Into::into),
            at_ms,
            until_ms: at_ms.saturating_add(self.config.limits.request_ms),
            bytes: 0,
            news,
            waiting: Vec::new(),
        })
    }

    /// What a manifest reaches that the last one of its skill that was approved doesn't, and which programs it has instead of that one's.
    fn news(&self, party: &Party, declared: &Declared) -> Option<News> {
        let former = self.permissions.approvals(party).max_by_key(|grant| grant.at_ms)?;
        let older = former.declared.as_deref()?;
        let lines = declared.manifest.beyond(&older.manifest);
        let newly = lines.into_iter().map(|line| format!("{}: {}", line.group.name(), line.text)).collect();
        Some(News { newly: Some(newly), changed: declared.changed(older) })
    }

    /// The grant that has been given for exactly this already.
    fn approval_for(&self, request: &Request, now_ms: u64) -> Option<Arc<Grant>> {
        let declared = request.declared.as_deref()?;
        let good = |grant: &&Arc<Grant>| {
            let same = grant.declared.as_deref().is_some_and(|of| of.summary == declared.summary);
            same && grant.is_live(now_ms)
                && self.is_good_in(grant, request.session.as_deref(), request.intent.as_deref())
        };
        self.permissions.approvals(&request.party).find(good).cloned()
    }

    /// Whether a grant counts in a session and an intent.
    pub(crate) fn is_good_in(&self, grant: &Grant, session: Option<&str>, intent: Option<&str>) -> bool {
        match grant.scope {
            // One that is in use is that life's.
            GrantScope::Once => grant.session.is_none(),
            GrantScope::Always => true,
            GrantScope::Session => grant.session.as_deref().is_some_and(|of| session == Some(of)),
            GrantScope::Intent => grant
                .intent
                .as_deref()
                .zip(intent)
                .is_some_and(|(of, intent)| of == intent || self.is_below(intent, of)),
        }
    }

    /// Whether an intent is part of another.
    fn is_below(&self, intent: &str, above: &str) -> bool {
        let mut next = self.state.intents.named(intent);
        while let Some(one) = next {
            let Some(parent) = one.parent_id.as_ref() else { return false };
            if parent.as_str() == above {
                return true;
            }
            next = self.state.intents.named(parent.as_str());
        }
        false
    }

    /// Lets the policy decide, or puts a request before somebody.
    fn consider(&mut self, turn: &mut Turn<'_>, asked: &Asked, request: Request) {
        let name = request.party.to_string();
        let rules: Vec<(Permission, Option<&str>)> =
            request.rules.iter().map(|clause| (clause.permission, clause.resource.as_deref())).collect();
        let summary = request.declared.as_deref().map(|declared| &declared.summary);
        let programs = summary.iter().flat_map(|summary| &summary.programs);
        let programs: Vec<&str> = programs.map(|program| program.digest.as_str()).collect();
        let question = Question {
            principal: &name,
            asked: &rules,
            manifest: summary.map(|summary| summary.digest.as_str()),
            programs: &programs,
        };
        let policy = self.permissions.snapshot.policy();
        let decision = policy.decide(&question).cloned();
        let others = decision.as_ref().is_some_and(|rule| rule.effect == Effect::Approve)
            && self.is_anothers(asked.connection, &request);
        let id: Id = format!("rq_{:032x}", bits(&mut *self.entropy)).into();
        match decision {
            Some(_) if others => self.put_before_somebody(turn, asked, &id, request),
            Some(rule) if rule.effect == Effect::Forbid => {
                let reason = format!("rule {} of the policy forbids it", rule.name);
                let by = format!("policy:{}", rule.name);
                self.tell_denied_request(turn, &asked.trace, &id, &request, &by, Some(&reason));
                let result = RequestResult {
                    by: Some(by),
                    reason: Some(reason),
                    ..request.news.answer(&id, RequestStatus::Denied)
                };
                self.resolve(turn, asked.call, &result);
            }
            Some(rule) => {
                let lasts_ms = rule.expires_seconds.map(|seconds| seconds.saturating_mul(1_000));
                let expires_ms = lasts_ms.map(|ms| wall_ms(turn.at).saturating_add(ms));
                let scope = rule.scope.unwrap_or(GrantScope::Always);
                let terms = Terms::plain(scope, expires_ms, format!("policy:{}", rule.name));
                let news = request.news.clone();
                match self.grant_request(turn, &asked.trace, &id, request, terms) {
                    Ok(grant) => {
                        let result = approved(&id, &grant, news);
                        self.resolve_when_written(turn, asked.call, &result);
                    }
                    Err(error) => self.reject(turn, asked.call, &error),
                }
            }
            None => self.put_before_somebody(turn, asked, &id, request),
        }
    }

    /// Whether a program asks under a name that isn't its own and to which something was given that it hasn't asked for itself.
    /// What a policy says of names isn't said of whoever takes one: its approval would put that program in the place of the one
    /// that was approved, so somebody decides.
    fn is_anothers(&self, connection: ConnectionKey, request: &Request) -> bool {
        let asked_itself = |grant: &Arc<Grant>| grant.asked_by.as_ref() == Some(&request.by);
        request.by_program
            && request.declared.is_some()
            && !self.standing(connection).parties.contains(&request.party)
            && self.permissions.grants.of_party(&request.party).any(|grant| !asked_itself(grant))
    }

    /// What was asked for of another manifest or program of the same skill, for the same session, is no longer wanted.
    fn supersede_request(&mut self, turn: &mut Turn<'_>, asked: &Asked, by: &Request) {
        let is_older = |other: &Request| {
            other.declared.is_some()
                && (&other.by, &other.session) == (&by.by, &by.session)
                && other.intent == by.intent
        };
        let older = self.permissions.requests.of_party(&by.party);
        let older = older.filter(|(_, other)| by.declared.is_some() && is_older(other));
        let older: Vec<Id> = older.map(|(id, _)| Arc::clone(id)).collect();
        for id in older {
            let reason = "another manifest, or another program, was asked for instead";
            self.deny_request(turn, &asked.trace, &id, &by.by, Some(reason));
        }
    }

    fn put_before_somebody(&mut self, turn: &mut Turn<'_>, asked: &Asked, id: &Id, request: Request) {
        self.supersede_request(turn, asked, &request);
        let (event, uid) = (PermissionRequested { request: request.told(id) }, request.party.uid);
        let owner = *self.principal(asked.connection) == Principal::Owner;
        if let Err(error) = self.keep_request(turn, id, request, owner) {
            return self.reject(turn, asked.call, &error);
        }
        self.publish(turn, Audience::Administration(uid), &asked.trace, &event);
        self.await_decision(turn, asked, id);
    }

    /// Answers a call that it is pending, or lets it wait for the decision.
    fn await_decision(&mut self, turn: &mut Turn<'_>, asked: &Asked, id: &str) {
        let Some(wait_ms) = asked.params.wait_ms.filter(|wait_ms| *wait_ms > 0) else {
            return self.answer_pending(turn, asked.call, id);
        };
        let timer = self.arm(turn, asked.connection.reactor, after_ms(turn.at, wait_ms.into()));
        self.state.timers.insert(timer.serial, Timer::Patience { call: asked.call });
        if let Some(call) = self.state.calls.get_mut(&asked.call) {
            call.pending = Pending::Decision { request: Some(id.into()), timer: Some(timer) };
        }
        if let Some(waiting) = self.permissions.requests.waiting(id) {
            waiting.push(asked.call);
        }
    }

    /// Answers a call that nobody has decided.
    pub(crate) fn answer_pending(&mut self, turn: &mut Turn<'_>, call: u64, id: &str) {
        let news = self.permissions.requests.get(id).map(|request| request.news.clone()).unwrap_or_default();
        self.resolve(turn, call, &news.answer(id, RequestStatus::Pending));
    }

    /// Tells that what was asked for was denied.
    pub(crate) fn tell_denied_request(
        &mut self,
        turn: &mut Turn<'_>,
        trace: &Trace,
        id: &str,
        request: &Request,
        by: &str,
        reason: Option<&str>,
    ) {
        let event = PermissionDenied {
            request: request.told(id),
            by: by.to_owned(),
            reason: reason.map(str::to_owned),
        };
        self.publish(turn, Audience::Administration(request.party.uid), trace, &event);
    }
}

/// The answer of what was approved.
pub(crate) fn approved(request_id: &str, grant: &Grant, news: News) -> RequestResult {
    RequestResult {
        grant: Some(Box::new(grant.told())),
        by: Some(grant.by.as_ref().to_owned()),
        ..news.answer(request_id, RequestStatus::Approved)
    }
}

/// One permission, as it is named on the wire.
pub(crate) fn clause(
    permission: &str,
    resource: Option<&str>,
    purpose: Option<&str>,
) -> Result<Clause, WireError> {
    let Some(permission) = Permission::from_name(permission) else {
        return Err(WireError::invalid("permission", format!("there is no permission {permission:?}")));
    };
    let form = permission.resource();
    if permission.scope() == PermissionScope::Everybody {
        return Err(WireError::invalid("permission", "everybody has it"));
    }
    if let Some(resource) = resource {
        check(form, resource).map_err(|why| WireError::invalid("resource", why))?;
    }
    Ok(Clause { permission, resource: resource.map(Arc::from), purpose: purpose.map(Box::from) })
}
