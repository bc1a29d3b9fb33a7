//! The policy of whoever runs the kernel: what is approved and forbidden while nobody is there to be asked.
//!
//! A value, read once at the start. Rules are tried in order: the first that suits a request decides it, but a rule that
//! forbids is heeded wherever it stands, and at every call. Invariant: a request of many permissions is approved by the policy
//! only if each of them is.

use crate::auth::resource::{check, covers, may_meet};
use crate::auth::subject::is_meant;
use crate::digest::sha256_of;
use kairo_wire::methods::permission::GrantScope;
use kairo_wire::permission::{PERMISSIONS, Permission, Resource};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Everything it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// In order.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    /// What programs may that the kernel has started and nobody has granted anything: permissions by name, or `process.*`.
    /// Absent, what the table of [`policy`](crate::auth::policy) says.
    pub children: Option<Vec<String>>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// A request is approved without asking.
    Approve,
    /// A request is denied, and what would be done under any grant is refused.
    Forbid,
    /// A request waits for somebody, whatever later rules say.
    Ask,
}

/// One rule. What it doesn't name it doesn't mind.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// What it is called in decisions; its number if it has no name.
    #[serde(default)]
    pub name: String,
    /// What it does.
    pub effect: Effect,
    /// For whom: `skill:photo-index`, `skill:*`, `agent:*`, `*`.
    pub principal: String,
    /// What: `file.read`, `file.*`, `*`.
    #[serde(default = "anything")]
    pub permission: String,
    /// For which resources.
    #[serde(default)]
    pub resource: Option<String>,
    /// Only what this manifest asks for: its digest, hexadecimal.
    #[serde(default)]
    pub manifest: Option<String>,
    /// Only for these programs: SHA-256 of one, or of several in a list, hexadecimal. What approves suits a request of which each
    /// program is among them; what forbids or asks, one of which any is.
    #[serde(default, deserialize_with = "one_or_several")]
    pub program: Vec<String>,
    /// How long an approval is good.
    #[serde(default)]
    pub scope: Option<GrantScope>,
    /// At most so long, seconds.
    #[serde(default)]
    pub expires_seconds: Option<u64>,
}

/// A text, or a list of texts that isn't empty: an empty one would mind no program.
fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Typed {
        One(String),
        Several(Vec<String>),
    }
    match Typed::deserialize(from)? {
        Typed::One(one) => Ok(vec![one]),
        Typed::Several(several) if several.is_empty() => Err(D::Error::custom("at least one digest")),
        Typed::Several(several) => Ok(several),
    }
}

fn anything() -> String {
    "*".to_owned()
}

/// Why a policy is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Complaint {
    /// Where.
    pub field: String,
    /// What is wrong.
    pub why: String,
}

/// What a request is, as far as rules ask.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// For whom, as a text.
    pub principal: &'a str,
    /// What, and for which resource.
    pub asked: &'a [(Permission, Option<&'a str>)],
    /// The manifest it comes from.
    pub manifest: Option<&'a str>,
    /// The digests of the programs it is for, as far as it names them.
    pub programs: &'a [&'a str],
}

impl Rule {
    fn is_for(&self, permission: Permission, resource: Option<&str>) -> bool {
        let of = &self.resource;
        is_meant(&self.permission, permission.name())
            && of.as_deref().is_none_or(|of| covers(permission.resource(), of, resource.unwrap_or("*")))
    }

    fn suits(&self, question: &Question<'_>) -> bool {
        let same = |wanted: &str, there: &str| wanted.eq_ignore_ascii_case(there);
        let manifest = self.manifest.as_deref();
        let named = |there: &&str| self.program.iter().any(|wanted| same(wanted, there));
        let mut programs = question.programs.iter();
        let suits = match self.effect {
            _ if self.program.is_empty() => true,
            Effect::Approve => programs.len() > 0 && programs.all(named),
            Effect::Forbid | Effect::Ask => programs.any(named),
        };
        is_meant(&self.principal, question.principal)
            && manifest.is_none_or(|wanted| question.manifest.is_some_and(|there| same(wanted, there)))
            && suits
    }
}

impl Policy {
    /// Names the rules that have none, and refuses what means nothing.
    pub fn check(mut self) -> Result<Policy, Complaint> {
        for (at, rule) in self.rules.iter_mut().enumerate() {
            let complain = |field: &str, why: &str| {
                Err(Complaint { field: format!("rule[{at}].{field}"), why: why.to_owned() })
            };
            if rule.name.is_empty() {
                rule.name = (at + 1).to_string();
            }
            if rule.principal != "*"
                && !["agent:", "skill:", "session:", "user:"]
                    .iter()
                    .any(|kind| rule.principal.starts_with(kind))
            {
                return complain(
                    "principal",
                    "agent:NAME, skill:NAME, session:ID or user:UID, with * at its end for all that begin so",
                );
            }
            if !names_some(&rule.permission) {
                return complain("permission", "there is no permission of this name");
            }
            if let Some(Err(why)) = rule.resource.as_deref().map(|resource| fits(&rule.permission, resource))
            {
                return complain("resource", &why);
            }
            let digests = rule.manifest.iter().map(|digest| ("manifest", digest));
            let mut digests = digests.chain(rule.program.iter().map(|digest| ("program", digest)));
            if let Some((field, _)) = digests.find(|(_, digest)| sha256_of(digest).is_none()) {
                return complain(field, "a digest is 64 hexadecimal digits");
            }
            if matches!(rule.scope, Some(GrantScope::Session | GrantScope::Intent))
                && rule.effect != Effect::Approve
            {
                return complain("scope", "only an approval has one");
            }
        }
        for (at, name) in self.children.iter().flatten().enumerate() {
            if !names_some(name) {
                let why = "there is no permission of this name".to_owned();
                return Err(Complaint { field: format!("children[{at}]"), why });
            }
        }
        Ok(self)
    }

    /// What is to become of a request: the first rule that forbids any of it, else what the first rule says that suits each
    /// part, if all of them are approved. None: somebody has to be asked.
    pub fn decide<'a>(&'a self, question: &Question<'_>) -> Option<&'a Rule> {
        let suiting = || self.rules.iter().filter(|rule| rule.suits(question));
        let forbids = |rule: &&Rule| {
            let meets = |(permission, resource): &(Permission, Option<&str>)| {
                is_meant(&rule.permission, permission.name())
                    && rule
                        .resource
                        .as_deref()
                        .is_none_or(|of| may_meet(permission.resource(), of, resource.unwrap_or("*")))
            };
            rule.effect == Effect::Forbid && question.asked.iter().any(meets)
        };
        if let Some(rule) = suiting().find(forbids) {
            return Some(rule);
        }
        let mut last = None;
        for (permission, resource) in question.asked {
            let rule = suiting()
                .find(|rule| rule.effect != Effect::Forbid && rule.is_for(*permission, *resource))?;
            if rule.effect == Effect::Ask {
                return None;
            }
            // The one that lets it be for the shortest time is the one that counts.
            let shorter = |one: &'a Rule, other: &'a Rule| {
                let span =
                    |rule: &Rule| (rule.scope.map_or(3, breadth), rule.expires_seconds.unwrap_or(u64::MAX));
                if span(other) < span(one) { other } else { one }
            };
            last = Some(last.map_or(rule, |before| shorter(before, rule)));
        }
        last
    }

    /// Rules that forbid something of a permission to somebody.
    pub(crate) fn forbidding<'a>(
        &'a self,
        party: &'a str,
        permission: Permission,
    ) -> impl Iterator<Item = &'a Rule> {
        // What is said of a certain manifest or program is said of requests.
        let always = |rule: &&Rule| rule.manifest.is_none() && rule.program.is_empty();
        self.rules.iter().filter(|rule| rule.effect == Effect::Forbid).filter(always).filter(move |rule| {
            is_meant(&rule.principal, party) && is_meant(&rule.permission, permission.name())
        })
    }

    /// Whether a program may this that the kernel has started and nobody has granted anything, if the policy says.
    pub(crate) fn of_children(&self, permission: Permission) -> Option<bool> {
        let names = self.children.as_ref()?;
        Some(names.iter().any(|name| is_meant(name, permission.name())))
    }
}

/// From narrow to wide.
fn breadth(scope: GrantScope) -> u8 {
    match scope {
        GrantScope::Once => 0,
        GrantScope::Intent => 1,
        GrantScope::Session => 2,
        GrantScope::Always => 3,
    }
}

/// Whether a resource is one of any of the permissions a rule is about. What is written as a path is one for all of them.
fn fits(permission: &str, resource: &str) -> Result<(), String> {
    if resource.starts_with(['/', '~', '.']) {
        return check(Resource::Path, resource);
    }
    let meant = PERMISSIONS.iter().filter(|row| is_meant(permission, row.name));
    let mut checked = meant.map(|row| check(row.resource, resource));
    let first = checked.next().unwrap_or(Ok(()));
    if first.is_ok() || checked.any(|checked| checked.is_ok()) { Ok(()) } else { first }
}

fn names_some(pattern: &str) -> bool {
    PERMISSIONS.iter().any(|row| is_meant(pattern, row.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rule(effect: Effect, principal: &str, permission: &str, resource: Option<&str>) -> Rule {
        Rule {
            name: String::new(),
            effect,
            principal: principal.to_owned(),
            permission: permission.to_owned(),
            resource: resource.map(str::to_owned),
            manifest: None,
            program: Vec::new(),
            scope: None,
            expires_seconds: None,
        }
    }

    fn policy(rules: Vec<Rule>) -> Policy {
        Policy { rules, children: None }.check().expect("a policy")
    }

    fn decided<'a>(policy: &'a Policy, asked: &[(Permission, Option<&str>)]) -> Option<(&'a str, Effect)> {
        let question = Question { principal: "skill:x", asked, manifest: Some("aa"), programs: &[] };
        policy.decide(&question).map(|rule| (rule.name.as_str(), rule.effect))
    }

    #[test]
    fn all_of_a_request_is_approved_or_somebody_is_asked() {
        let read = (Permission::FileRead, Some("/usr/lib"));
        let write = (Permission::FileWrite, Some("/home/u/x"));
        let policy = policy(vec![
            rule(Effect::Approve, "skill:*", "file.read", Some("/usr")),
            rule(Effect::Ask, "skill:x", "file.write", Some("/home/u/x")),
            rule(Effect::Approve, "*", "file.write", None),
        ]);
        assert_eq!(decided(&policy, &[read]), Some(("1", Effect::Approve)));
        assert_eq!(decided(&policy, &[read, write]), None);
        assert_eq!(decided(&policy, &[(Permission::FileRead, Some("/etc"))]), None);
        assert_eq!(decided(&policy, &[(Permission::FileRead, None)]), None);
        assert_eq!(decided(&policy, &[(Permission::FileWrite, Some("/tmp"))]), Some(("3", Effect::Approve)));
    }

    #[test]
    fn what_is_forbidden_in_part_is_forbidden_wherever_the_rule_stands() {
        let policy = policy(vec![
            rule(Effect::Approve, "*", "*", None),
            rule(Effect::Forbid, "skill:*", "file.*", Some("/home/u/.ssh")),
        ]);
        assert_eq!(decided(&policy, &[(Permission::FileRead, Some("/home"))]), Some(("2", Effect::Forbid)));
        assert_eq!(decided(&policy, &[(Permission::FileRead, Some("/usr"))]), Some(("1", Effect::Approve)));
        let first = decided(&policy, &[(Permission::FileRead, Some("/usr")), (Permission::FileWrite, None)]);
        assert_eq!(first, Some(("2", Effect::Forbid)));
    }

    #[test]
    fn a_pipeline_is_approved_only_if_each_of_its_programs_is_and_forbidden_if_any_is() {
        let [a, b, c] = ["0a", "0b", "0c"].map(|digit| digit.repeat(32));
        let read = |effect: &str, program: Value| {
            serde_json::from_value::<Rule>(json!({ "effect": effect, "principal": "*", "program": program }))
        };
        let of = |effect: &str, program: Value| policy(vec![read(effect, program).expect("a rule")]);
        let asked = [(Permission::FileRead, Some("/usr"))];
        let decided = |policy: &Policy, programs: &[&str]| {
            let question = Question { principal: "skill:x", asked: &asked, manifest: None, programs };
            policy.decide(&question).map(|rule| rule.effect)
        };
        let both = of("approve", json!([a, b.to_uppercase()]));
        assert_eq!(decided(&both, &[&a, &b]), Some(Effect::Approve));
        assert_eq!(decided(&both, &[&b]), Some(Effect::Approve));
        assert_eq!(decided(&both, &[&a, &c]), None);
        assert_eq!(decided(&both, &[]), None);
        let one = of("approve", json!(a));
        assert_eq!((decided(&one, &[&a]), decided(&one, &[&a, &b])), (Some(Effect::Approve), None));
        let none = of("forbid", json!(c));
        assert_eq!((decided(&none, &[&a, &c]), decided(&none, &[&a])), (Some(Effect::Forbid), None));
        assert!(read("ask", json!([])).is_err());
    }

    #[test]
    fn a_policy_that_means_nothing_names_its_field() {
        let field = |rule: Rule| Policy { rules: vec![rule], children: None }.check().map_err(|c| c.field);
        assert_eq!(field(rule(Effect::Ask, "x", "*", None)), Err("rule[0].principal".to_owned()));
        assert_eq!(field(rule(Effect::Ask, "*", "file.raed", None)), Err("rule[0].permission".to_owned()));
        let digest = Rule { manifest: Some("1".to_owned()), ..rule(Effect::Ask, "*", "*", None) };
        assert_eq!(field(digest), Err("rule[0].manifest".to_owned()));
        let children = Policy { rules: vec![], children: Some(vec!["x".to_owned()]) };
        assert_eq!(children.check().unwrap_err().field, "children[0]");
    }
}
