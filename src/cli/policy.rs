//! `kairo policy check`: what a policy says, and what it would decide about a manifest.

use crate::cli::args::permission::{PolicyCheck, PolicyCommand, PolicySubcommand};
use crate::cli::context::{Context, Outcome};
use crate::cli::failure::Failure;
use crate::cli::manifest;
use crate::cli::skill::digest;
use crate::cli::table::{Edge, Table, visible};
use crate::config::policy;
use kairo_controlplane::auth::rules::{Effect, Policy, Question, Rule};
use kairo_controlplane::permissions::asked_by;
use kairo_wire::permission::Permission;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

pub(crate) fn policy(context: &Context, args: &PolicyCommand) -> Outcome {
    match &args.command {
        PolicySubcommand::Check(args) => check(context, args),
    }
}

fn check(context: &Context, args: &PolicyCheck) -> Outcome {
    let file = file(context, args)?;
    let policy = policy::read(&file)?;
    let verdict = args.manifest.is_some().then(|| verdict(&policy, args)).transpose()?;
    if context.json {
        let rules: Vec<Value> = policy.rules.iter().map(object).collect();
        let verdict = verdict.as_ref().map(Verdict::object);
        context.object(
            json!({ "file": file, "rules": rules, "children": policy.children, "decides": verdict }),
        )?;
        return Ok(0);
    }
    context.line(&format!("{}: in order", visible(&file.display().to_string())))?;
    match verdict {
        Some(verdict) => context.text(&verdict.page())?,
        None => context.text(&table(&policy).render(context.width(), context.colour()))?,
    }
    Ok(0)
}

/// The one that was named, or that counts.
fn file(context: &Context, args: &PolicyCheck) -> Result<PathBuf, Failure> {
    args.file.clone().or_else(|| context.config.policy.clone()).ok_or_else(|| {
        let looked = context.environment.policy_candidates();
        let looked: Vec<_> = looked.iter().map(|path| path.display().to_string()).collect();
        let why = format!("there is no policy ({}): everything is for people to decide", looked.join(", "));
        Failure::new("E_CONFIG", why).advise("name a file: kairo policy check FILE")
    })
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Approve => "approve",
        Effect::Forbid => "forbid",
        Effect::Ask => "ask",
    }
}

fn object(rule: &Rule) -> Value {
    let program = match rule.program.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    json!({
        "name": rule.name, "effect": word(rule.effect), "principal": rule.principal, "permission": rule.permission,
        "resource": rule.resource, "manifest": rule.manifest, "program": program,
        "scope": rule.scope.map(|scope| scope.word()), "expiresSeconds": rule.expires_seconds,
    })
}

fn table(policy: &Policy) -> Table {
    let mut table = Table::new(&[
        ("RULE", Edge::Left),
        ("EFFECT", Edge::Left),
        ("FOR", Edge::Left),
        ("SCOPE", Edge::Left),
        ("WHAT", Edge::Left),
    ]);
    for rule in &policy.rules {
        table.row([
            rule.name.clone(),
            word(rule.effect).to_owned(),
            rule.principal.clone(),
            rule.scope.map_or("-", |scope| scope.word()).to_owned(),
            named(&rule.permission, rule.resource.as_deref()),
        ]);
    }
    table
}

fn named(permission: &str, resource: Option<&str>) -> String {
    resource.map_or_else(|| permission.to_owned(), |resource| format!("{permission} {resource}"))
}

/// What the policy says of a manifest.
#[derive(Debug)]
struct Verdict {
    principal: String,
    /// That decides all of it.
    rule: Option<Rule>,
    /// What no rule approves.
    open: Vec<String>,
}

fn verdict(policy: &Policy, args: &PolicyCheck) -> Result<Verdict, Failure> {
    let Some(file) = &args.manifest else { return Err(Failure::usage("which manifest?")) };
    let manifest = manifest::read(file)?;
    let principal = args.principal.clone().unwrap_or_else(|| format!("skill:{}", manifest.identity.name));
    let programs = args.program.iter().map(|program| digest(program)).collect::<Result<Vec<_>, _>>()?;
    let programs: Vec<&str> = programs.iter().map(String::as_str).collect();
    let asked = asked_by(&manifest);
    let asked: Vec<(Permission, Option<&str>)> =
        asked.iter().map(|clause| (clause.permission, clause.resource.as_deref())).collect();
    let digest = manifest.digest();
    let decide = |asked: &[(Permission, Option<&str>)]| {
        let manifest = Some(digest.as_str());
        let question = Question { principal: &principal, asked, manifest, programs: &programs };
        policy.decide(&question).cloned()
    };
    let rule = decide(&asked);
    let open = match &rule {
        Some(_) => Vec::new(),
        None => {
            let open = asked.iter().filter(|one| decide(&[**one]).is_none());
            open.map(|(permission, resource)| named(permission.name(), *resource)).collect()
        }
    };
    Ok(Verdict { principal, rule, open })
}

impl Verdict {
    fn object(&self) -> Value {
        let effect = self.rule.as_ref().map_or(Effect::Ask, |rule| rule.effect);
        json!({
            "principal": self.principal, "effect": word(effect), "rule": self.rule.as_ref().map(|rule| &rule.name),
            "open": self.open,
        })
    }

    fn page(&self) -> String {
        let who = visible(&self.principal);
        let Some(rule) = &self.rule else {
            let mut page = format!("what {who} asks for would wait for somebody; no rule approves\n");
            for one in &self.open {
                // Writing to a String does not fail.
                let _ = writeln!(page, "  {}", visible(one));
            }
            return page;
        };
        let name = visible(&rule.name);
        match rule.effect {
            Effect::Forbid => {
                let what = visible(&named(&rule.permission, rule.resource.as_deref()));
                format!("what {who} asks for would be denied: rule {name} forbids {what}\n")
            }
            Effect::Approve | Effect::Ask => {
                let scope = rule.scope.map_or(String::new(), |scope| format!(", scope {}", scope.word()));
                format!("what {who} asks for would be approved: rule {name}{scope}\n")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn typed(words: &[&str]) -> PolicyCheck {
        match Cli::try_parse_from([&["kairo", "policy", "check"], words].concat()).unwrap().command {
            Command::Policy(PolicyCommand { command: PolicySubcommand::Check(check) }) => check,
            other => panic!("{other:?}"),
        }
    }

    fn told(policy: &str) -> String {
        let policy: Policy = toml::from_str(policy).unwrap();
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/manifests/git-helper.toml");
        verdict(&policy.check().unwrap(), &typed(&["--manifest", manifest])).unwrap().page()
    }

    #[test]
    fn what_a_policy_would_decide_is_said_with_its_rule() {
        let all = "[[rule]]\nname = \"all\"\neffect = \"approve\"\nprincipal = \"skill:git-*\"\nscope = \"session\"\n";
        let some = "[[rule]]\neffect = \"approve\"\nprincipal = \"*\"\npermission = \"file.*\"\n";
        let none = "[[rule]]\nname = \"no-net\"\neffect = \"forbid\"\nprincipal = \"skill:*\"\npermission = \"network.*\"\n";
        assert_eq!(told(all), "what skill:git-helper asks for would be approved: rule all, scope session\n");
        let denied = "what skill:git-helper asks for would be denied: rule no-net forbids network.*\n";
        assert_eq!(told(&format!("{all}{none}")), denied);
        let open = told(some);
        assert!(open.contains("would wait for somebody") && open.contains("  network.connect "), "{open}");
        assert!(!open.contains("file."), "{open}");
        assert!(Cli::try_parse_from(["kairo", "policy", "check", "--as", "skill:x"]).is_err());
    }
}
