//! What everybody may at a moment: the grants by whom they are for and what they are about, and the policy.
//!
//! A value that never changes: a grant more or less makes another snapshot, which shares all but a path of its trees with the one
//! before. Invariant: a decision looks at the entries of one permission of at most a few parties, however many others there are.

use crate::auth::resource::{covers, is_wild, may_meet};
use crate::auth::rules::{Effect, Policy};
use crate::auth::subject::{Party, is_meant};
use crate::permissions::Grant;
use imbl::{OrdMap, OrdSet};
use kairo_wire::methods::permission::{GrantEffect, GrantScope};
use kairo_wire::permission::{Permission, Resource};
use std::sync::Arc;

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Which one it is.
    epoch: u64,
    held: OrdMap<(Party, Permission), Held>,
    /// Who may nothing but what is granted, because somebody once said what that is.
    declared: OrdSet<Party>,
    policy: Arc<Policy>,
}

/// What one party holds of one permission.
#[derive(Clone, Debug, Default)]
struct Held {
    allowed: Side,
    forbidden: Side,
}

type Id = Arc<str>;

/// Grants of one effect, by what they are for.
#[derive(Clone, Debug, Default)]
struct Side {
    /// For everything.
    all: OrdMap<Id, Arc<Grant>>,
    /// For a resource that is found by its text.
    named: OrdMap<(Arc<str>, Id), Arc<Grant>>,
    /// For one that has to be tried.
    wild: OrdMap<(Arc<str>, Id), Arc<Grant>>,
}

/// What was found for a question.
pub(crate) enum Found {
    /// A grant.
    Grant(Arc<Grant>),
    /// A rule of the policy, by its name.
    Rule(String),
}

/// What a party holds of a permission, whatever the resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// For everything, and not for one use only.
    pub whole: bool,
    /// Something.
    pub some: bool,
    /// The first of it ends then, milliseconds since 1970.
    pub until_ms: u64,
}

impl Extent {
    /// Nothing at all.
    pub(crate) const NOTHING: Extent = Extent { whole: false, some: false, until_ms: u64::MAX };

    /// Both.
    pub(crate) fn and(self, other: Extent) -> Extent {
        Extent {
            whole: self.whole || other.whole,
            some: self.some || other.some,
            until_ms: self.until_ms.min(other.until_ms),
        }
    }
}

impl Side {
    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.named.is_empty() && self.wild.is_empty()
    }

    fn put(&mut self, form: Resource, resource: Option<&Arc<str>>, grant: &Arc<Grant>) {
        let id = Arc::clone(&grant.id);
        match resource.filter(|resource| !is_all(form, resource)) {
            None => drop(self.all.insert(id, Arc::clone(grant))),
            Some(text) => {
                let side = if is_wild(form, text) { &mut self.wild } else { &mut self.named };
                side.insert((Arc::clone(text), id), Arc::clone(grant));
            }
        }
    }

    fn take(&mut self, form: Resource, resource: Option<&Arc<str>>, id: &Id) {
        match resource.filter(|resource| !is_all(form, resource)) {
            None => drop(self.all.remove(id)),
            Some(text) => {
                let side = if is_wild(form, text) { &mut self.wild } else { &mut self.named };
                side.remove(&(Arc::clone(text), Arc::clone(id)));
            }
        }
    }

    /// The grants that have all of `asked`, in no order that means anything.
    fn covering<'a>(
        &'a self,
        permission: Permission,
        asked: Option<&'a str>,
        now_ms: u64,
    ) -> impl Iterator<Item = &'a Arc<Grant>> {
        let form = permission.resource();
        let own_alone = form == Resource::Process && asked.is_some();
        let all = self.all.values().filter(move |_| !own_alone);
        let named = |text: &'a str| {
            let text: Arc<str> = text.into();
            let from = (Arc::clone(&text), Id::from(""));
            let same = self.named.range(from..).take_while(move |((of, _), _)| *of == text);
            same.map(|(_, grant)| grant)
        };
        // Of a path, what is named is a folder above it as well.
        let texts = asked.into_iter().flat_map(move |asked| {
            above(asked).filter(move |text| form == Resource::Path || text.len() == asked.len())
        });
        let wild = asked.into_iter().flat_map(move |asked| {
            let wild = self.wild.iter().filter(move |((pattern, _), _)| covers(form, pattern, asked));
            wild.map(|(_, grant)| grant)
        });
        let found = all.chain(texts.flat_map(named)).chain(wild);
        let reaches = move |grant: &Grant| asked.is_none_or(|asked| grant.reaches(permission, asked));
        found.filter(move |grant| grant.is_live(now_ms) && reaches(grant))
    }

    /// A grant that may have something in common with `asked`.
    fn meeting(&self, form: Resource, asked: Option<&str>, now_ms: u64) -> Option<&Arc<Grant>> {
        let live = |grant: &&Arc<Grant>| grant.is_live(now_ms);
        if let Some(grant) = self.all.values().find(live) {
            return Some(grant);
        }
        let with_resource = self.named.iter().chain(self.wild.iter());
        let mut meeting = with_resource.filter(|((text, _), _)| may_meet(form, text, asked.unwrap_or("*")));
        meeting.find(|(_, grant)| live(grant)).map(|(_, grant)| grant)
    }

    fn extent(&self, now_ms: u64) -> Extent {
        let mut extent = Extent::NOTHING;
        let with_resource = self.named.values().chain(self.wild.values()).map(|grant| (false, grant));
        for (whole, grant) in self.all.values().map(|grant| (true, grant)).chain(with_resource) {
            if !grant.is_live(now_ms) {
                continue;
            }
            extent.some = true;
            extent.whole |= whole && grant.scope != GrantScope::Once;
            extent.until_ms = extent.until_ms.min(grant.expires_ms.unwrap_or(u64::MAX));
            if extent.whole && grant.expires_ms.is_none() {
                break;
            }
            if extent.some && !whole {
                // What has a resource is looked at when one is known.
                extent.until_ms = extent.until_ms.min(now_ms.saturating_add(RECHECK_MS));
                break;
            }
        }
        extent
    }
}

/// Whether a resource stands for all there are. Of processes, none means what somebody has started itself, and `*` others' too.
fn is_all(form: Resource, resource: &str) -> bool {
    form != Resource::Process && resource == "*"
}

/// How long it may be taken for granted that somebody holds something of a permission.
const RECHECK_MS: u64 = 1_000;

/// A path and all folders above it, from the root.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| &path[..at.max(1)]);
    slashes.chain(std::iter::once(path))
}

impl Snapshot {
    /// One without grants.
    pub fn new(policy: Arc<Policy>) -> Snapshot {
        Snapshot { policy, ..Snapshot::default() }
    }

    /// Which one it is; a later one has a higher number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// True if nothing is granted, and nothing forbidden by the policy.
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.policy.rules.iter().all(|rule| rule.effect != Effect::Forbid)
    }

    /// The policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same with one grant more.
    #[must_use]
    pub fn with(&self, grant: &Arc<Grant>) -> Snapshot {
        let mut next = self.clone();
        next.epoch += 1;
        for rule in &grant.rules {
            let held = next.held.entry((grant.party.clone(), rule.permission)).or_default();
            let side = held.side(grant.effect);
            side.put(rule.permission.resource(), rule.resource.as_ref(), grant);
        }
        next
    }

    /// The same with one grant less.
    #[must_use]
    pub fn without(&self, grant: &Grant) -> Snapshot {
        let mut next = self.clone();
        next.epoch += 1;
        for rule in &grant.rules {
            let key = (grant.party.clone(), rule.permission);
            let Some(held) = next.held.get_mut(&key) else { continue };
            held.side(grant.effect).take(rule.permission.resource(), rule.resource.as_ref(), &grant.id);
            if held.allowed.is_empty() && held.forbidden.is_empty() {
                next.held.remove(&key);
            }
        }
        next
    }

    /// The same, and this party may nothing but what is granted.
    #[must_use]
    pub fn declaring(&self, party: Party) -> Snapshot {
        Snapshot { epoch: self.epoch + 1, declared: self.declared.update(party), ..self.clone() }
    }

    /// The same, and this party may again what any may that nobody has said anything of.
    #[must_use]
    pub fn forgetting(&self, party: &Party) -> Snapshot {
        Snapshot { epoch: self.epoch + 1, declared: self.declared.without(party), ..self.clone() }
    }

    /// Whether this party may nothing but what is granted.
    pub fn is_declared(&self, party: &Party) -> bool {
        self.declared.contains(party)
    }

    /// Whether anything is said of this party: then what it starts is taken for it.
    pub fn is_known(&self, party: &Party) -> bool {
        let first = (party.clone(), Permission::KernelTalk);
        let granted = || self.held.range(first..).next().is_some_and(|((of, _), _)| of == party);
        let text = party.to_string();
        let named = || {
            let means = |pattern: &str| pattern != "*" && is_meant(pattern, &text);
            self.policy.rules.iter().any(|rule| rule.effect == Effect::Forbid && means(&rule.principal))
        };
        self.is_declared(party) || granted() || named()
    }

    /// What of a permission is granted to a party.
    pub(crate) fn allowed(&self, party: &Party, permission: Permission, now_ms: u64) -> Extent {
        let held = self.held.get(&(party.clone(), permission));
        held.map_or(Extent::NOTHING, |held| held.allowed.extent(now_ms))
    }

    /// What of a permission is forbidden to a party.
    pub(crate) fn forbidden(&self, party: &Party, permission: Permission, now_ms: u64) -> Extent {
        let held = self.held.get(&(party.clone(), permission));
        let mut extent = held.map_or(Extent::NOTHING, |held| held.forbidden.extent(now_ms));
        let text = party.to_string();
        for rule in self.policy.forbidding(&text, permission) {
            extent.some = true;
            extent.whole |= rule.resource.is_none();
        }
        extent
    }

    /// The grants that allow it.
    pub(crate) fn allowing<'a>(
        &'a self,
        party: &Party,
        permission: Permission,
        resource: Option<&'a str>,
        now_ms: u64,
    ) -> impl Iterator<Item = &'a Arc<Grant>> + use<'a> {
        let held = self.held.get(&(party.clone(), permission));
        held.into_iter().flat_map(move |held| held.allowed.covering(permission, resource, now_ms))
    }

    /// What forbids it.
    pub(crate) fn forbidding(
        &self,
        party: &Party,
        permission: Permission,
        resource: Option<&str>,
        now_ms: u64,
    ) -> Option<Found> {
        let form = permission.resource();
        let held = self.held.get(&(party.clone(), permission));
        if let Some(grant) = held.and_then(|held| held.forbidden.meeting(form, resource, now_ms)) {
            return Some(Found::Grant(Arc::clone(grant)));
        }
        let text = party.to_string();
        let rule = self.policy.forbidding(&text, permission).find(|rule| {
            rule.resource.as_deref().is_none_or(|of| may_meet(form, of, resource.unwrap_or("*")))
        });
        rule.map(|rule| Found::Rule(rule.name.clone()))
    }
}

impl Held {
    fn side(&mut self, effect: GrantEffect) -> &mut Side {
        match effect {
            GrantEffect::Allow => &mut self.allowed,
            GrantEffect::Forbid => &mut self.forbidden,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::subject::Subject;
    use crate::permissions::Clause;

    fn party(name: &str) -> Party {
        Party { uid: 1, subject: Subject::Skill(name.into()) }
    }

    fn grant(id: &str, to: &str, permission: Permission, resource: Option<&str>) -> Arc<Grant> {
        let clause = Clause { permission, resource: resource.map(Into::into), purpose: None };
        Arc::new(Grant::new(id, party(to), vec![clause]))
    }

    #[test]
    fn a_snapshot_is_what_it_was_whatever_comes_after() {
        let read = Permission::FileRead;
        let before = Snapshot::default();
        let one = grant("1", "x", read, Some("/usr"));
        let after = before.with(&one);
        let may = |of: &Snapshot, path| of.allowing(&party("x"), read, Some(path), 0).next().is_some();
        assert!(!may(&before, "/usr") && may(&after, "/usr/lib/x") && !may(&after, "/etc"));
        assert!(!may(&after.without(&one), "/usr") && may(&after, "/usr"));
        assert!(
            after.epoch() > before.epoch() && after.is_known(&party("x")) && !after.is_known(&party("w"))
        );
        assert!(!after.without(&one).is_known(&party("x")));
    }

    #[test]
    fn two_grants_of_one_thing_are_taken_back_one_by_one() {
        let publish = Permission::EventPublish;
        let all = [
            grant("1", "x", publish, Some("a.>")),
            grant("2", "x", publish, Some("a.>")),
            grant("3", "x", publish, Some("a.b")),
            grant("4", "x", publish, None),
        ];
        let mut snapshot = all.iter().fold(Snapshot::default(), |snapshot, grant| snapshot.with(grant));
        let may = |of: &Snapshot, topic| of.allowing(&party("x"), publish, Some(topic), 0).next().is_some();
        for (taken, left) in [
            (3, [true, true, false]),
            (0, [true, true, false]),
            (1, [true, false, false]),
            (2, [false, false, false]),
        ] {
            snapshot = snapshot.without(&all[taken]);
            assert_eq!(["a.b", "a.c", "b"].map(|topic| may(&snapshot, topic)), left, "without {taken}");
        }
    }

    #[test]
    fn a_path_is_looked_up_by_every_folder_above_it() {
        assert_eq!(above("/usr/lib/x").collect::<Vec<_>>(), ["/", "/usr", "/usr/lib", "/usr/lib/x"]);
        assert_eq!(above("/").collect::<Vec<_>>(), ["/", "/"]);
    }
}
