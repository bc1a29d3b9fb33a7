//! Permissions on their way: asked for, pending, granted, in force, gone.
//!
//! ```text
//!   asking (a manifest is read off the lock) ─▶ policy ─┬─ approves, forbids ─────────────▶ decided
//!                                                      └─ silent ─▶ pending ─▶ deciding ─▶ decided
//!   decided ─▶ Grant ─▶ snapshot (in force) ─▶ revoking: taken back, expired, used, its session or intent over
//! ```
//!
//! What a decision is made from is in [`auth`](crate::auth); by what somebody may decide, and how much, in `giving`. Invariant: the snapshot holds exactly the grants of the table, and
//! the log has each of them before its call is answered.

pub(crate) mod asking;
pub(crate) mod deciding;
pub(crate) mod declared;
pub(crate) mod giving;
pub(crate) mod grants;
pub(crate) mod keeping;
pub(crate) mod pending;
pub(crate) mod programs;
pub(crate) mod recognizing;
pub(crate) mod revoking;
pub(crate) mod standing;
pub(crate) mod starting;
pub(crate) mod waiting;

pub use declared::asked_by;
pub use keeping::{DECLARED_PREFIX, GRANT_PREFIX};

use crate::auth::rules::Policy;
use crate::auth::snapshot::Snapshot;
use crate::auth::subject::Party;
use declared::Declared;
use grants::{Grants, Id, Index};
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::methods::permission::{
    self as wire, GrantEffect, GrantScope, GrantedPermission, ManifestProgram, PendingRequest, RequestResult,
    RequestStatus,
};
use kairo_wire::permission::Permission;
use pending::{Asker, Requests};
use std::sync::Arc;

/// Grants there may be: an index of so many is some tens of megabytes.
pub(crate) const GRANTS_MAX: usize = 100_000;
/// What the purpose of a request may have, bytes.
pub(crate) const PURPOSE_BYTES_MAX: usize = 500;

/// One permission, for what, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Which.
    pub permission: Permission,
    /// For what; none for all.
    pub resource: Option<Arc<str>>,
    /// In words.
    pub purpose: Option<Box<str>>,
}

impl Clause {
    /// As it is told.
    pub(crate) fn told(&self) -> GrantedPermission {
        GrantedPermission {
            permission: self.permission.name().to_owned(),
            resource: self.resource.as_deref().map(str::to_owned),
            purpose: self.purpose.as_deref().map(str::to_owned),
        }
    }
}

/// Something granted, or forbidden.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its name.
    pub id: Arc<str>,
    /// To whom.
    pub party: Party,
    /// Whether it allows.
    pub effect: GrantEffect,
    /// What.
    pub rules: Vec<Clause>,
    /// How long.
    pub scope: GrantScope,
    /// Until this session ends.
    pub session: Option<Arc<str>>,
    /// Until this intent ends.
    pub intent: Option<Box<str>>,
    /// At latest until then, milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// The manifest it is for.
    pub(crate) declared: Option<Arc<Declared>>,
    /// The request it came of.
    pub request: Option<Box<str>>,
    /// Who asked for it, if somebody did.
    pub(crate) asked_by: Option<Box<str>>,
    /// The grants by which a program gave it; it ends with the first of them.
    pub(crate) rests_on: Vec<Id>,
    /// Who granted it.
    pub by: Box<str>,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

impl Grant {
    /// One that allows this for good, by nobody yet.
    pub fn new(id: &str, party: Party, rules: Vec<Clause>) -> Grant {
        Grant {
            id: id.into(),
            party,
            effect: GrantEffect::Allow,
            rules,
            scope: GrantScope::Always,
            session: None,
            intent: None,
            expires_ms: None,
            declared: None,
            request: None,
            asked_by: None,
            rests_on: Vec::new(),
            by: "".into(),
            at_ms: 0,
        }
    }

    /// Whether its time is not over.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        self.expires_ms.is_none_or(|until| now_ms < until)
    }

    /// Whether one call or one event uses it up. An approval that is for one use is for one start of its program.
    pub(crate) fn is_for_one_call(&self) -> bool {
        self.scope == GrantScope::Once && self.declared.is_none()
    }

    /// Whether it may be used for this: the manifest it is for may deny itself a path below one it is allowed.
    pub(crate) fn reaches(&self, permission: Permission, resource: &str) -> bool {
        !self.declared.as_deref().is_some_and(|declared| declared.denies(permission, resource))
    }

    /// As it is told.
    pub(crate) fn told(&self) -> wire::Grant {
        wire::Grant {
            id: self.id.as_ref().to_owned(),
            principal: self.party.to_string(),
            uid: self.party.uid,
            effect: self.effect,
            permissions: self.rules.iter().map(Clause::told).collect(),
            scope: self.scope,
            session: self.session.as_deref().map(str::to_owned),
            intent: self.intent.as_deref().map(str::to_owned),
            expires_ms: self.expires_ms,
            manifest: self.declared.as_deref().map(|declared| declared.summary.clone()),
            request_id: self.request.as_deref().map(str::to_owned),
            by: self.by.as_ref().to_owned(),
            at_ms: self.at_ms,
            rests_on: self.rests_on.iter().map(|id| id.as_ref().to_owned()).collect(),
        }
    }
}

/// What is asked for, against what was last approved of the same name.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// What the manifest doesn't reach that was approved.
    pub newly: Option<Vec<String>>,
    /// The programs that aren't those that were.
    pub changed: Vec<ManifestProgram>,
}

impl News {
    /// The answer of a request that has come to this.
    pub(crate) fn answer(self, request_id: &str, status: RequestStatus) -> RequestResult {
        let News { newly, changed } = self;
        let request_id = request_id.to_owned();
        RequestResult { request_id, status, grant: None, by: None, reason: None, newly, changed }
    }
}

/// Something asked for that nobody has decided.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// For whom.
    pub party: Party,
    /// Who asked.
    pub by: Box<str>,
    /// That is a program: a skill, an agent, a child.
    pub by_program: bool,
    /// The process it asked from, if the kernel has started it.
    pub asker: Option<Asker>,
    /// What.
    pub rules: Vec<Clause>,
    /// By which manifest.
    pub declared: Option<Arc<Declared>>,
    /// How long it would be wanted.
    pub scope: Option<GrantScope>,
    /// The session a `session` scope would mean.
    pub session: Option<Arc<str>>,
    /// The intent an `intent` scope would mean.
    pub intent: Option<Box<str>>,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Until when it waits for a decision, milliseconds since 1970.
    pub until_ms: u64,
    /// What it takes, bytes.
    pub bytes: usize,
    /// What is new in it.
    pub news: News,
    /// Calls that wait for the decision.
    pub waiting: Vec<u64>,
}

impl Request {
    /// As it is told.
    pub(crate) fn told(&self, id: &str) -> PendingRequest {
        PendingRequest {
            request_id: id.to_owned(),
            principal: self.party.to_string(),
            uid: self.party.uid,
            by: self.by.as_ref().to_owned(),
            at_ms: self.at_ms,
            permissions: self.rules.iter().map(Clause::told).collect(),
            manifest: self.declared.as_deref().map(|declared| declared.summary.clone()),
            scope: self.scope,
            newly: self.news.newly.clone(),
            changed: self.news.changed.clone(),
        }
    }

    /// True if the same is asked for.
    pub(crate) fn is_like(&self, other: &Request) -> bool {
        let manifest =
            |request: &Request| request.declared.as_deref().map(|declared| declared.summary.clone());
        self.party == other.party
            && self.by == other.by
            && self.session == other.session
            && self.intent == other.intent
            && manifest(self) == manifest(other)
            && self.rules == other.rules
    }
}

/// All there are.
#[derive(Debug)]
pub(crate) struct Permissions {
    /// In force.
    pub snapshot: Arc<Snapshot>,
    /// The same, to be found.
    pub grants: Grants,
    /// Nobody has decided.
    pub requests: Requests,
    /// The connections that go by a name, known by it or only bound by it. One that no longer is may still be among them.
    pub known: Index<Party, ConnectionKey>,
    /// Rings when the next grant expires, and at which time of the clock that is.
    pub expiry: Option<(TimerKey, u64)>,
    /// The same of requests.
    pub patience: Option<(TimerKey, u64)>,
}

impl Permissions {
    /// None but what the policy says.
    pub(crate) fn new(policy: Arc<Policy>) -> Permissions {
        Permissions {
            snapshot: Arc::new(Snapshot::new(policy)),
            grants: Grants::default(),
            requests: Requests::default(),
            known: Index::default(),
            expiry: None,
            patience: None,
        }
    }

    /// Puts a grant in force.
    pub(crate) fn insert(&mut self, grant: Arc<Grant>) {
        self.snapshot = Arc::new(self.snapshot.with(&grant));
        self.grants.insert(grant);
    }

    /// Takes one out of force.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Arc<Grant>> {
        let grant = self.grants.remove(id)?;
        self.snapshot = Arc::new(self.snapshot.without(&grant));
        Some(grant)
    }

    /// The approvals of a skill's manifests that are in force.
    pub(crate) fn approvals<'a>(&'a self, party: &Party) -> impl Iterator<Item = &'a Arc<Grant>> {
        self.grants.of_party(party).filter(|grant| grant.declared.is_some())
    }
}
