//! `kairo approvals`, `approve`, `deny`: what was asked for, and the answer.

use crate::cli::args::permission::{Approvals, Approve, Deny};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::grants::{asked_for, programs, programs_of, scope, shown};
use crate::cli::moment::now_ms;
use crate::cli::table::{Edge, Table, duration, visible};
use kairo_client::{CallError, Client, EventItem};
use kairo_wire::error::Code;
use kairo_wire::event::{Event, PermissionRequested};
use kairo_wire::methods::permission::{
    self, ApproveParams, DenyParams, GrantedPermission, ManifestSummary, Pending, PendingParams,
    PendingRequest,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt::Write as _;

pub(crate) fn approvals(context: &Context, args: &Approvals) -> Outcome {
    if args.watch {
        return watch(context, args);
    }
    let requests = pending(&context.client()?, args)?;
    if let Some(id) = &args.request {
        let found = requests.iter().find(|request| request.request_id == *id).ok_or_else(|| unknown(id))?;
        match context.json {
            true => context.object(json!({ "request": json_of(found)? }))?,
            false => context.text(&page(found, now_ms()))?,
        }
    } else if context.json {
        context.object(json!({ "requests": json_of(&requests)? }))?;
    } else {
        context.text(&table(&requests, now_ms()).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

fn pending(client: &Client, args: &Approvals) -> Result<Vec<PendingRequest>, Failure> {
    let params = PendingParams { principal: args.principal.clone() };
    Ok(client.call::<Pending>(&params)?.requests)
}

/// What waits now, and then what is asked for; each once.
fn watch(context: &Context, args: &Approvals) -> Outcome {
    let client = context.lasting(false)?;
    // Before the question, so that nothing falls between the two.
    let events = client.events(PermissionRequested::TOPIC)?;
    let mut known = BTreeSet::new();
    let all = |known: &mut BTreeSet<String>| -> Result<(), Failure> {
        for request in pending(&client, args)? {
            if known.insert(request.request_id.clone()) {
                tell(context, &request)?;
            }
        }
        Ok(())
    };
    all(&mut known)?;
    for item in events {
        match item? {
            EventItem::Event(event) => {
                let told: PermissionRequested =
                    event.payload.decode().map_err(|error| Failure::new("E_SHAPE", error.to_string()))?;
                let request = told.request;
                let wanted = args.principal.as_ref().is_none_or(|wanted| *wanted == request.principal);
                if wanted && known.insert(request.request_id.clone()) {
                    tell(context, &request)?;
                }
            }
            // What was asked for meanwhile waits, if it isn't decided.
            EventItem::Gap(_) | EventItem::Cut { .. } | EventItem::Resumed { .. } => all(&mut known)?,
        }
    }
    Ok(0)
}

fn tell(context: &Context, request: &PendingRequest) -> Result<(), Failure> {
    if context.json {
        return context.object(json!({ "request": json_of(request)? }));
    }
    let (id, who) = (visible(&request.request_id), visible(&request.principal));
    context.line(&format!("{id} {who} {}", what(request)))
}

fn table(requests: &[PendingRequest], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        ("REQUEST", Edge::Left),
        ("FOR", Edge::Left),
        ("AGE", Edge::Right),
        ("SCOPE", Edge::Left),
        ("WHAT", Edge::Left),
    ]);
    for request in requests {
        table.row([
            request.request_id.clone(),
            request.principal.clone(),
            duration(now_ms.saturating_sub(request.at_ms)),
            request.scope.map_or("-", scope).to_owned(),
            what(request),
        ]);
    }
    table
}

/// What is to be known of an approval that names no program, and of one that names several.
const NO_PROGRAM: &str = "note: it names no program, and is approved for any\n";
pub(crate) const PIPELINE: &str =
    "note: it is a pipeline, and is approved for these programs together, each in its place\n";

/// In a few words.
fn what(request: &PendingRequest) -> String {
    let new = match request.newly.as_deref() {
        Some([]) => ", nothing new".to_owned(),
        Some(new) => format!(", {} new", new.len()),
        None => String::new(),
    };
    let changed = request.changed.iter().map(|program| format!(", another {}", program.path.to_text()));
    let changed: String = changed.collect();
    visible(&format!("{}{new}{changed}", asked_for(request.manifest.as_ref(), &request.permissions)))
}

/// All of it.
fn page(request: &PendingRequest, now_ms: u64) -> String {
    let PendingRequest { request_id, principal, uid, by, at_ms, .. } = request;
    let age = duration(now_ms.saturating_sub(*at_ms));
    // Writing to a String does not fail.
    let mut page = format!("{}\n", visible(request_id));
    let _ = writeln!(page, "for {} of user {uid}, asked by {}, {age} ago", visible(principal), visible(by));
    if let Some(manifest) = &request.manifest {
        let ManifestSummary { name, version, digest, .. } = manifest;
        let all = programs_of(manifest);
        let _ = writeln!(page, "manifest {} {} ({})", visible(name), visible(version), visible(digest));
        page.push_str(&programs(&all, &request.changed));
        let note = match all.len() {
            0 => NO_PROGRAM,
            1 => "",
            _ => PIPELINE,
        };
        page.push_str(note);
    }
    if let Some(wanted) = request.scope {
        let _ = writeln!(page, "wanted for: {}", scope(wanted));
    }
    page.push_str("\nit would be allowed\n");
    for permission in &merged(&request.permissions) {
        let _ = writeln!(page, "  {}", shown(permission));
    }
    match request.newly.as_deref() {
        Some([]) => page.push_str("\nit reaches nothing beyond what was approved of it before\n"),
        Some(new) => {
            page.push_str("\nit newly reaches, since what was approved of it before\n");
            new.iter().for_each(|line| {
                let _ = writeln!(page, "  {}", visible(line));
            });
        }
        None => {}
    }
    page
}

/// What is asked for of one thing for one purpose is one line.
fn merged(permissions: &[GrantedPermission]) -> Vec<GrantedPermission> {
    let mut lines: Vec<GrantedPermission> = Vec::new();
    for next in permissions {
        let same = |line: &&mut GrantedPermission| {
            next.resource.is_some() && line.resource == next.resource && line.purpose == next.purpose
        };
        match lines.iter_mut().find(same) {
            Some(line) => line.permission = format!("{}, {}", line.permission, next.permission),
            None => lines.push(next.clone()),
        }
    }
    lines
}

pub(crate) fn approve(context: &Context, args: &Approve) -> Outcome {
    let params = ApproveParams {
        request_id: args.request.clone(),
        scope: args.scope.map(Into::into),
        expires_in_ms: args.lasts.map(|lasts| lasts.0),
    };
    let done = context
        .client()?
        .call::<permission::Approve>(&params)
        .map_err(|error| gone(error, args.request.as_str()))?;
    crate::cli::grants::given(context, &done.grant)
}

pub(crate) fn deny(context: &Context, args: &Deny) -> Outcome {
    let params = DenyParams { request_id: args.request.clone(), reason: args.reason.clone() };
    let done =
        context.client()?.call::<permission::Deny>(&params).map_err(|error| gone(error, &args.request))?;
    if context.json {
        context.object(json_of(&done)?)?;
    }
    Ok(0)
}

fn gone(error: CallError, id: &str) -> Failure {
    if error.code() == Some(Code::NotFound) { unknown(id) } else { error.into() }
}

fn unknown(id: &str) -> Failure {
    let why = format!("no request {} waits for a decision", visible(id));
    Failure::new(Code::NotFound.name(), why).advise("`kairo approvals` lists those that do")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::methods::permission::ManifestProgram;

    fn program(path: &str, digest: &str) -> ManifestProgram {
        ManifestProgram { path: path.into(), digest: digest.to_owned() }
    }

    fn request() -> PendingRequest {
        let permission = |permission: &str, resource: &str| GrantedPermission {
            permission: permission.to_owned(),
            resource: Some(resource.to_owned()),
            purpose: Some("the \x1b[2Jindex".to_owned()),
        };
        PendingRequest {
            request_id: "rq_1".to_owned(),
            principal: "skill:photo-index".to_owned(),
            uid: 7,
            by: "owner".to_owned(),
            at_ms: 1_000,
            permissions: vec![permission("file.read", "/usr"), permission("event.publish", "photo.>")],
            manifest: Some(ManifestSummary {
                name: "photo-index".to_owned(),
                version: "1.4.0".to_owned(),
                digest: "ab".to_owned(),
                program: Some("/bin/tool".into()),
                program_digest: Some("cd".to_owned()),
                programs: vec![program("/bin/tool", "cd")],
            }),
            scope: None,
            newly: Some(vec!["read /usr".to_owned()]),
            changed: Vec::new(),
        }
    }

    #[test]
    fn a_request_is_told_in_a_line_and_in_full() {
        let text = table(&[request()], 6_000).render(None, false);
        assert!(
            text.contains(
                "rq_1     skill:photo-index  5.0s  -      photo-index 1.4.0 (2 permissions), 1 new"
            ),
            "{text}"
        );
        let text = page(&request(), 6_000);
        for said in [
            "for skill:photo-index of user 7, asked by owner, 5.0s ago\n",
            "manifest photo-index 1.4.0 (ab)\nprogram /bin/tool (sha256 cd)\n",
            "  file.read /usr — the \\u{1b}[2Jindex\n",
            "since what was approved of it before\n  read /usr\n",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        let mut more = request();
        let read = more.permissions[0].clone();
        more.permissions.push(GrantedPermission { permission: "file.execute".to_owned(), ..read });
        let text = page(&more, 6_000);
        assert!(text.contains("  file.read, file.execute /usr — the"), "{text}");
        let mut joined = request();
        let manifest = joined.manifest.as_mut().unwrap();
        manifest.programs.push(program("/bin/\x1b[2Jother", "ef"));
        joined.changed = vec![program("/bin/\x1b[2Jother", "ef")];
        let text = page(&joined, 6_000);
        for said in [
            "program /bin/tool (sha256 cd)\nprogram /bin/\\u{1b}[2Jother (sha256 ef), another one than was approved",
            "a pipeline, and is approved for these programs together",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        let line = "photo-index 1.4.0 (2 permissions, 2 programs), 1 new, another /bin/\\u{1b}[2Jother";
        assert_eq!(what(&joined), line);
        let manifest = joined.manifest.as_mut().unwrap();
        manifest.programs.clear();
        assert!(page(&joined, 6_000).contains("program /bin/tool (sha256 cd)\n"), "of an older kernel");
        let manifest = joined.manifest.as_mut().unwrap();
        (manifest.program, manifest.program_digest) = (None, None);
        assert!(page(&joined, 6_000).contains("names no program, and is approved for any"));
        let one = PendingRequest { manifest: None, newly: None, ..request() };
        assert!(what(&one).starts_with("file.read /usr, event.publish photo.>"), "{}", what(&one));
    }
}
