//! Whether somebody may do something: one function, asked by every call, by `permission.can` and by whoever explains.
//!
//! ```text
//!   forbidden to any name it goes by ──▶ no
//!   its kind may, and nobody has said what exactly it may ──▶ yes
//!   granted to a name it is known by ──▶ yes
//!   else ──▶ no
//! ```
//!
//! Invariant: for one snapshot, one standing and one time the answer is one. What doesn't depend on a resource is remembered by
//! the connection ([`Rights`]) until the snapshot changes or something in it expires.

use crate::auth::policy::holds;
use crate::auth::snapshot::{Extent, Found, Snapshot};
use crate::auth::subject::Party;
use crate::permissions::{Clause, Grant};
use kairo_wire::methods::permission::GrantScope;
use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::{Permission, PermissionScope};
use std::sync::Arc;

/// As what somebody stands before the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of what kind it is.
    pub kind: PrincipalKind,
    /// Whom it is known as; the most particular comes first.
    pub parties: Vec<Party>,
    /// Other names it or whoever started it goes by: what is forbidden to them is forbidden to it.
    pub bound: Vec<Party>,
}

/// Something that would be done.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'a> {
    /// What it takes.
    pub permission: Permission,
    /// The method that is called, if one is.
    pub method: Option<&'a str>,
    /// For what, if that is known.
    pub resource: Option<&'a str>,
}

/// Whether it may.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// By what it is.
    Anyway,
    /// By this grant.
    Granted(Arc<Grant>),
    /// Not.
    Denied(Denial),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// This grant forbids it.
    Forbidden(Arc<str>),
    /// This rule of the policy does.
    Policy(String),
    /// Nothing allows it.
    Nothing,
}

impl Denial {
    /// In words.
    pub fn reason(&self, permission: Permission, resource: Option<&str>) -> String {
        let name = permission.name();
        let of = resource.map(|resource| format!(" for {resource}")).unwrap_or_default();
        match self {
            Denial::Forbidden(grant) => format!("{name}{of} is forbidden by {grant}"),
            Denial::Policy(rule) => format!("{name}{of} is forbidden by rule {rule} of the policy"),
            Denial::Nothing => format!("it takes the permission {name}{of}"),
        }
    }
}

/// Which events somebody may hear, as things are when it asks.
#[derive(Clone, Debug)]
pub struct Hearing {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) standing: Standing,
    pub(crate) now_ms: u64,
}

impl Hearing {
    /// Why it may not hear events of this type. A grant for one use is for one subscription, and none.
    pub(crate) fn denies(&self, topic: &str) -> Option<Denial> {
        const SUBSCRIBE: &str = "subscribe";
        let permission = Permission::EventSubscribe;
        let deed = Deed { permission, method: Some(SUBSCRIBE), resource: Some(topic) };
        match self.standing.decide(&self.snapshot, &deed, self.now_ms) {
            Verdict::Anyway => None,
            Verdict::Granted(grant) => (grant.scope == GrantScope::Once).then_some(Denial::Nothing),
            Verdict::Denied(denial) => Some(denial),
        }
    }
}

/// What a connection remembers of earlier decisions.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    epoch: u64,
    until_ms: u64,
    anyway: u64,
    granted: Vec<(Permission, Arc<Grant>)>,
}

// One bit for each permission.
const _: () = assert!(kairo_wire::permission::PERMISSIONS.len() <= 64);

impl Rights {
    /// What is remembered of calls that take `permission`.
    pub(crate) fn recall(&self, snapshot: &Snapshot, permission: Permission, now_ms: u64) -> Option<Verdict> {
        if self.epoch != snapshot.epoch() || now_ms >= self.until_ms {
            return None;
        }
        if self.anyway & bit(permission) != 0 {
            return Some(Verdict::Anyway);
        }
        let granted = self.granted.iter().find(|(of, _)| *of == permission);
        granted.map(|(_, grant)| Verdict::Granted(Arc::clone(grant)))
    }

    /// Remembers it until then.
    pub(crate) fn learn(
        &mut self,
        snapshot: &Snapshot,
        permission: Permission,
        verdict: &Verdict,
        (now_ms, until_ms): (u64, u64),
    ) {
        if self.epoch != snapshot.epoch() || now_ms >= self.until_ms {
            *self = Rights { epoch: snapshot.epoch(), until_ms: u64::MAX, ..Rights::default() };
        }
        match verdict {
            Verdict::Anyway => self.anyway |= bit(permission),
            Verdict::Granted(grant) => self.granted.push((permission, Arc::clone(grant))),
            Verdict::Denied(_) => return,
        }
        self.until_ms = self.until_ms.min(until_ms);
    }
}

fn bit(permission: Permission) -> u64 {
    1 << (permission as u8)
}

/// What its kind may do without anybody having granted it.
fn anyway(snapshot: &Snapshot, standing: &Standing, permission: Permission) -> bool {
    let kind = standing.kind;
    let everybodys = permission.scope() == PermissionScope::Everybody;
    if !matches!(kind, PrincipalKind::Skill | PrincipalKind::Agent) {
        return holds(kind, permission);
    }
    if standing.parties.iter().any(|party| snapshot.is_declared(party)) {
        let always = [Permission::PermissionRequest, Permission::PermissionRead];
        return everybodys || always.contains(&permission);
    }
    match snapshot.policy().of_children(permission) {
        Some(said) => said && permission.scope() != PermissionScope::Administrator || everybodys,
        None => holds(kind, permission),
    }
}

impl Standing {
    /// Everybody whose prohibitions count.
    fn everybody(&self) -> impl Iterator<Item = &Party> {
        self.parties.iter().chain(&self.bound)
    }

    /// The grants that allow it, whatever forbids it.
    pub(crate) fn allowing<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        deed: &'a Deed<'a>,
        now_ms: u64,
    ) -> impl Iterator<Item = &'a Arc<Grant>> {
        let own = move |party: &Party| snapshot.allowing(party, deed.permission, deed.resource, now_ms);
        // What only the administrator may is reached by its whole name, not by a pattern.
        let by_call = move |party: &Party| {
            let of = |method| snapshot.allowing(party, Permission::KernelCall, Some(method), now_ms);
            deed.method.map(of).into_iter().flatten()
        };
        let is_enough = |grant: &&Arc<Grant>| {
            let is_whole = |rule: &Clause| {
                rule.permission == Permission::KernelCall && rule.resource.as_deref() == deed.method
            };
            deed.permission.scope() != PermissionScope::Administrator || grant.rules.iter().any(is_whole)
        };
        self.parties.iter().flat_map(own).chain(self.parties.iter().flat_map(by_call).filter(is_enough))
    }

    /// What forbids it the method itself.
    fn forbids_call(&self, snapshot: &Snapshot, deed: &Deed<'_>, now_ms: u64) -> Option<Found> {
        let method = deed.method?;
        let forbids = |party| snapshot.forbidding(party, Permission::KernelCall, Some(method), now_ms);
        self.everybody().find_map(forbids)
    }

    /// Whether it may do this, of which the resource is known, or there is none.
    pub fn decide(&self, snapshot: &Snapshot, deed: &Deed<'_>, now_ms: u64) -> Verdict {
        if self.kind == PrincipalKind::Owner {
            return Verdict::Anyway;
        }
        let forbids = |party| snapshot.forbidding(party, deed.permission, deed.resource, now_ms);
        let found = self.forbids_call(snapshot, deed, now_ms);
        match found.or_else(|| self.everybody().find_map(forbids)) {
            Some(Found::Grant(grant)) => return Verdict::Denied(Denial::Forbidden(Arc::clone(&grant.id))),
            Some(Found::Rule(rule)) => return Verdict::Denied(Denial::Policy(rule)),
            None => {}
        }
        if anyway(snapshot, self, deed.permission) {
            return Verdict::Anyway;
        }
        match self.allowing(snapshot, deed, now_ms).next() {
            Some(grant) => Verdict::Granted(Arc::clone(grant)),
            None => Verdict::Denied(Denial::Nothing),
        }
    }

    /// Whether it may make a call at all. Where that depends on a resource which only the method knows, it may if there is any
    /// it could be allowed for, and the method asks again. With it comes until when that needs no second thought; none if each
    /// call has to be looked at.
    pub(crate) fn decide_call(
        &self,
        snapshot: &Snapshot,
        deed: &Deed<'_>,
        now_ms: u64,
    ) -> (Verdict, Option<u64>) {
        if self.kind == PrincipalKind::Owner {
            return (Verdict::Anyway, Some(u64::MAX));
        }
        let forbidden = |permission| {
            let of = |party| snapshot.forbidden(party, permission, now_ms);
            self.everybody().map(of).fold(Extent::NOTHING, Extent::and)
        };
        let asks_again = deed.permission.resource().is_known_to_methods();
        let (own, calls) = (forbidden(deed.permission), forbidden(Permission::KernelCall));
        if own.whole || calls.some || (own.some && !asks_again) {
            let verdict = self.decide(snapshot, deed, now_ms);
            // A method asks again about what it is for, not about itself.
            let of_call = calls.some && self.forbids_call(snapshot, deed, now_ms).is_some();
            if !asks_again || own.whole || of_call || !matches!(verdict, Verdict::Denied(_)) {
                return (verdict, None);
            }
        }
        if anyway(snapshot, self, deed.permission) {
            return (Verdict::Anyway, (!own.some && !calls.some).then_some(u64::MAX));
        }
        let allowed = |party| snapshot.allowed(party, deed.permission, now_ms);
        let allowed = self.parties.iter().map(allowed).fold(Extent::NOTHING, Extent::and);
        match self.allowing(snapshot, deed, now_ms).next() {
            Some(grant) => {
                let lasts = allowed.whole && !own.some && !calls.some;
                (Verdict::Granted(Arc::clone(grant)), lasts.then_some(allowed.until_ms))
            }
            None if asks_again && allowed.some => (Verdict::Anyway, None),
            None => (Verdict::Denied(Denial::Nothing), None),
        }
    }
}
