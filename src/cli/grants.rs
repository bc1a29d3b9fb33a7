//! `kairo grants`, `grant`, `revoke`, `can`: who may what.

use crate::cli::args::permission::{Can, Grant as Give, Grants, Revoke};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::moment::now_ms;
use crate::cli::table::{Edge, Table, duration, visible};
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::permission::{
    self, CanParams, CanResult, Grant, GrantEffect, GrantParams, GrantScope, GrantedPermission, GrantsParams,
    KeptProcess, ManifestProgram, ManifestSummary, RevokeParams, RevokeResult, SmallestGrant,
};
use kairo_wire::permission::Permission;
use serde_json::json;
use std::fmt::Write as _;

/// Grants of a page.
const PAGE: u32 = 1_000;
/// What is asked for may not be done.
const REFUSED: u8 = 1;
/// What may be granted is in the contract's description.
const PERMISSIONS_ADVICE: &str = "`kairo introspect --json | jq -r '.permissions[].name'` lists permissions";

pub(crate) fn grants(context: &Context, args: &Grants) -> Outcome {
    let client = context.client()?;
    let mut params =
        GrantsParams { principal: args.principal.clone(), limit: Some(PAGE), ..GrantsParams::default() };
    let mut found = Vec::new();
    loop {
        let page = client.call::<permission::Grants>(&params)?;
        found.extend(page.grants);
        match found.last().filter(|_| page.more) {
            Some(last) => params.after = Some(last.id.clone()),
            None => break,
        }
    }
    if context.json {
        context.object(json!({ "grants": json_of(&found)? }))?;
    } else {
        context.text(&table(&found, now_ms()).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

fn table(grants: &[Grant], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        ("GRANT", Edge::Left),
        ("TO", Edge::Left),
        ("SCOPE", Edge::Left),
        ("ENDS IN", Edge::Right),
        ("BY", Edge::Left),
        ("WHAT", Edge::Left),
    ]);
    for grant in grants {
        let ends = grant.expires_ms.map(|at| duration(at.saturating_sub(now_ms)));
        let forbids = if grant.effect == GrantEffect::Forbid { "never " } else { "" };
        table.row([
            grant.id.clone(),
            grant.principal.clone(),
            bound(grant),
            ends.unwrap_or_else(|| "-".to_owned()),
            grant.by.clone(),
            format!("{forbids}{}", asked_for(grant.manifest.as_ref(), &grant.permissions)),
        ]);
    }
    table
}

/// A scope, and what it is bound to.
fn bound(grant: &Grant) -> String {
    let to = grant.session.as_ref().or(grant.intent.as_ref());
    to.map_or_else(|| scope(grant.scope).to_owned(), |to| format!("{} {to}", scope(grant.scope)))
}

pub(crate) fn scope(scope: GrantScope) -> &'static str {
    scope.word()
}

/// What a grant or a request is about, in a few words.
pub(crate) fn asked_for(manifest: Option<&ManifestSummary>, permissions: &[GrantedPermission]) -> String {
    match (manifest, permissions) {
        (Some(manifest), permissions) => {
            let programs = match manifest.programs.len() {
                0 | 1 => String::new(),
                several => format!(", {several} programs"),
            };
            format!("{} {} ({} permissions{programs})", manifest.name, manifest.version, permissions.len())
        }
        (None, permissions) => {
            let words: Vec<String> = permissions.iter().map(named).collect();
            words.join(", ")
        }
    }
}

/// The programs something is for. A kernel before there were several tells one apart.
pub(crate) fn programs_of(manifest: &ManifestSummary) -> Vec<ManifestProgram> {
    let only = manifest.program.clone().zip(manifest.program_digest.clone());
    let only = only.filter(|_| manifest.programs.is_empty());
    let only = only.map(|(path, digest)| ManifestProgram { path, digest });
    only.into_iter().chain(manifest.programs.iter().cloned()).collect()
}

/// A line for each program, that says of which it is another one than was approved before.
pub(crate) fn programs(all: &[ManifestProgram], changed: &[ManifestProgram]) -> String {
    let line = |program: &ManifestProgram| {
        let since =
            if changed.contains(program) { ", another one than was approved of it before" } else { "" };
        format!("program {} (sha256 {}){since}\n", visible(&program.path.to_text()), visible(&program.digest))
    };
    all.iter().map(line).collect()
}

fn named(permission: &GrantedPermission) -> String {
    match &permission.resource {
        Some(resource) => format!("{} {resource}", permission.permission),
        None => permission.permission.clone(),
    }
}

/// A permission, for what, and what for, to be shown.
pub(crate) fn shown(permission: &GrantedPermission) -> String {
    let purpose = permission.purpose.as_ref().map(|purpose| format!(" — {purpose}")).unwrap_or_default();
    visible(&format!("{}{purpose}", named(permission)))
}

pub(crate) fn grant(context: &Context, args: &Give) -> Outcome {
    let params = GrantParams {
        principal: args.principal.clone(),
        permission: args.permission.clone(),
        resource: args.resource.clone(),
        effect: if args.forbid { GrantEffect::Forbid } else { GrantEffect::Allow },
        scope: args.scope.map(Into::into),
        session: args.session.clone(),
        intent: args.intent.clone(),
        expires_in_ms: args.lasts.map(|lasts| lasts.0),
        purpose: args.purpose.clone(),
        uid: args.uid,
    };
    let done = context.client()?.call::<permission::Give>(&params).map_err(|error| match error.code() {
        Some(Code::InvalidParams) => Failure::from(error).advise(PERMISSIONS_ADVICE),
        _ => error.into(),
    })?;
    given(context, &done.grant)
}

/// Says what is in force from now on.
pub(crate) fn given(context: &Context, grant: &Grant) -> Outcome {
    match context.json {
        true => context.object(json!({ "grant": json_of(grant)? }))?,
        false => context.line(&visible(&grant.id))?,
    }
    Ok(0)
}

pub(crate) fn revoke(context: &Context, args: &Revoke) -> Outcome {
    let of_principal = args.what.contains(':');
    let what = Some(args.what.clone());
    let params = RevokeParams {
        grant: what.clone().filter(|_| !of_principal),
        principal: what.filter(|_| of_principal),
        running: args.running.option(),
        used: false,
    };
    let done = context.client()?.call::<permission::Revoke>(&params).map_err(|error| match error.code() {
        Some(Code::NotFound) => {
            let why = format!("there is no grant {} in force", visible(&args.what));
            Failure::new(Code::NotFound.name(), why).advise("`kairo grants` lists those that are")
        }
        _ => error.into(),
    })?;
    match context.json {
        true => context.object(json_of(&done)?)?,
        false => context.text(&revoked(&done))?,
    }
    Ok(0)
}

/// What ended with something.
pub(crate) fn went(sessions: &[String], grants: &[String], processes: &[ProcessId]) -> String {
    let sessions = sessions.iter().map(|session| format!("ended session {}", visible(session)));
    let grants = grants.iter().map(|grant| format!("revoked {}", visible(grant)));
    let processes = processes.iter().map(|id| format!("ended {}", visible(&id.to_string())));
    sessions.chain(grants).chain(processes).map(|line| line + "\n").collect()
}

/// What came of it.
fn revoked(done: &RevokeResult) -> String {
    let mut text = went(&[], &done.revoked, &done.ended);
    // Writing to a String does not fail.
    for KeptProcess { id, permissions } in &done.kept {
        let id = visible(&id.to_string());
        if permissions.is_empty() {
            let _ = writeln!(text, "{id} goes on");
        } else {
            let _ = writeln!(text, "{id} goes on, and keeps until it ends");
        }
        for permission in permissions {
            let _ = writeln!(text, "  {}", shown(permission));
        }
    }
    if done.closed > 0 {
        let _ = writeln!(text, "closed {} subscriptions", done.closed);
    }
    text
}

pub(crate) fn can(context: &Context, args: &Can) -> Outcome {
    // Where both have a name, what a method takes is the permission.
    let is_permission = Permission::from_name(&args.deed).is_some();
    let deed = Some(args.deed.clone());
    let params = CanParams {
        permission: deed.clone().filter(|_| is_permission),
        method: deed.filter(|_| !is_permission),
        resource: args.resource.clone(),
        principal: args.principal.clone(),
        uid: args.uid,
    };
    let told = context.client()?.call::<permission::Can>(&params).map_err(|error| match error.code() {
        Some(Code::UnknownMethod) => {
            let why = format!("there is no permission and no method {}", visible(&args.deed));
            Failure::new(Code::UnknownMethod.name(), why).advise(PERMISSIONS_ADVICE)
        }
        _ => error.into(),
    })?;
    match context.json {
        true => context.object(json_of(&told)?)?,
        false => context.text(&verdict(&told))?,
    }
    Ok(if told.allowed { 0 } else { REFUSED })
}

fn verdict(told: &CanResult) -> String {
    let mut text = format!("{}: {}\n", if told.allowed { "yes" } else { "no" }, visible(&told.reason));
    if let Some(grant) = &told.grant {
        let _ = writeln!(text, "grant {}", visible(grant));
    }
    if let Some(smallest) = &told.smallest {
        let _ = writeln!(text, "it would be allowed by: {}", typed(smallest));
    }
    text
}

/// A grant as the command that gives it.
pub(crate) fn typed(grant: &SmallestGrant) -> String {
    let SmallestGrant { principal, permission, resource, scope } = grant;
    let mut words = vec!["kairo".to_owned(), "grant".to_owned(), quoted(principal), quoted(permission)];
    words.extend(resource.as_deref().map(quoted));
    if *scope != GrantScope::Always {
        words.extend(["--scope".to_owned(), scope.word().to_owned()]);
    }
    words.join(" ")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    visible(&format!("'{}'", word.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_grant_is_a_line_to_type() {
        let grant = |resource: Option<&str>, scope| SmallestGrant {
            principal: "skill:x".to_owned(),
            permission: "event.publish".to_owned(),
            resource: resource.map(str::to_owned),
            scope,
        };
        assert_eq!(typed(&grant(None, GrantScope::Always)), "kairo grant skill:x event.publish");
        assert_eq!(
            typed(&grant(Some("it's.>"), GrantScope::Once)),
            "kairo grant skill:x event.publish 'it'\\''s.>' --scope once"
        );
    }

    #[test]
    fn what_goes_on_is_named_with_what_it_keeps() {
        let id = |text: &str| ProcessId::from_text(text).unwrap();
        let keeps = GrantedPermission {
            permission: "file.read".to_owned(),
            resource: Some("/home".to_owned()),
            purpose: None,
        };
        let done = RevokeResult {
            revoked: vec!["gr_1".to_owned()],
            ended: vec![id("a")],
            kept: vec![KeptProcess { id: id("b"), permissions: vec![keeps] }],
            closed: 2,
        };
        let text = "revoked gr_1\nended a\nb goes on, and keeps until it ends\n  file.read /home\nclosed 2 subscriptions\n";
        assert_eq!(revoked(&done), text);
    }

    #[test]
    fn a_no_says_what_would_make_it_a_yes() {
        let told = CanResult {
            allowed: false,
            reason: "nothing grants it".to_owned(),
            grant: None,
            smallest: Some(SmallestGrant {
                principal: "agent:a".to_owned(),
                permission: "process.spawn".to_owned(),
                resource: None,
                scope: GrantScope::Session,
            }),
        };
        let text = "no: nothing grants it\nit would be allowed by: kairo grant agent:a process.spawn --scope session\n";
        assert_eq!(verdict(&told), text);
    }
}
