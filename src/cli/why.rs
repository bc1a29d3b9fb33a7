//! `kairo why`: what was refused, to whom, what was lacking, and the smallest grant that would allow it.
//!
//! The denial is an event; what would allow it is asked of the kernel as things are now.

use crate::cli::args::permission::Why;
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::gist::{brief, envelope};
use crate::cli::grants::typed;
use crate::cli::table::visible;
use crate::cli::trace::{Told, first, is_an_events_name, newest};
use kairo_client::Client;
use kairo_wire::error::Code;
use kairo_wire::event::{Event, PermissionDenied, SecurityDenied};
use kairo_wire::id::TopicPattern;
use kairo_wire::methods::event::ReplayParams;
use kairo_wire::methods::permission::{Can, CanParams, CanResult};
use kairo_wire::permission::{Permission, Resource};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a contained program tried, and its containment refused.
const VIOLATION: &str = "kairo.security.violation";

pub(crate) fn why(context: &Context, args: &Why) -> Outcome {
    let client = context.client()?;
    let told = denial(&client, &args.denial)?;
    let found = Denial::of(&told);
    let now = found.question().map(|params| client.call::<Can>(&params)).transpose()?;
    if context.json {
        context.object(json!({ "event": envelope(&told.event)?, "now": json_of(&now)? }))?;
    } else {
        context.text(&page(&told, &found, now.as_ref()))?;
    }
    Ok(0)
}

/// The event that was named.
fn denial(client: &Client, named: &str) -> Result<Told, Failure> {
    let types = [SecurityDenied::TOPIC, PermissionDenied::TOPIC, VIOLATION];
    let types: Vec<_> = types.into_iter().filter_map(TopicPattern::from_text).collect();
    let of_denials = ReplayParams { types, ..newest() };
    let found = if named == "last" {
        first(client, of_denials, |_| true)?
    } else if let Ok(seq) = named.trim_start_matches('@').parse() {
        first(client, ReplayParams { from_seq: Some(seq), to_seq: Some(seq), ..of_denials }, |_| true)?
    } else if is_an_events_name(named) {
        let is_it = |told: &Told| told.event.id.as_deref() == Some(named);
        first(client, ReplayParams { limit: None, ..of_denials }, is_it)?
    } else {
        let why = format!("{}: no place in the log and no event's id", visible(named));
        return Err(Failure::usage(why).advise("write a number, an event's id, or last"));
    };
    found.ok_or_else(|| {
        let what = if named == "last" {
            "the log has no denial".to_owned()
        } else {
            format!("no denial is {named}")
        };
        Failure::new(Code::NotFound.name(), what).advise(
            "`kairo events --reverse --limit 20 'kairo.security.*' kairo.permission.denied` shows the latest",
        )
    })
}

/// Who wanted what, as far as the event says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Denial {
    principal: Option<String>,
    uid: Option<u32>,
    method: Option<String>,
    permission: Option<String>,
    resource: Option<String>,
    /// What a contained program tried: a system call, a path, a port.
    subject: Option<String>,
    /// What was lacking.
    reason: Option<String>,
    /// What would have to be granted, in words.
    hint: Option<String>,
    /// Who decided so, or the grant that forbids it.
    by: Option<String>,
}

impl Denial {
    fn of(told: &Told) -> Denial {
        let said = &told.payload;
        let text = |at: &str| said.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let uid = |at: &str| said.pointer(at).and_then(Value::as_u64).and_then(|uid| uid.try_into().ok());
        if &*told.event.topic == PermissionDenied::TOPIC {
            return Denial {
                principal: text("/request/principal"),
                uid: uid("/request/uid"),
                permission: text("/request/permissions/0/permission"),
                resource: text("/request/permissions/0/resource"),
                reason: text("/reason"),
                by: text("/by"),
                ..Denial::default()
            };
        }
        if &*told.event.topic == VIOLATION {
            let rule = text("/rule");
            return Denial {
                principal: named(&said["principal"]),
                subject: text("/subject"),
                reason: text("/mechanism").map(|by| rule.map_or(by.clone(), |rule| format!("{by}, {rule}"))),
                hint: text("/hint"),
                by: text("/id").map(|id| format!("the sandbox of {id}")),
                ..Denial::default()
            };
        }
        let permission = text("/permission");
        // What a call is for is what its permission is for, if that is for something in particular.
        let is_for_some = permission.as_deref().and_then(Permission::from_name);
        let is_for_some = is_for_some.is_some_and(|permission| permission.resource() != Resource::None);
        Denial {
            principal: named(&said["principal"]),
            uid: uid("/principal/uid").or_else(|| uid("/uid")),
            method: text("/method"),
            permission,
            resource: text("/resource").or_else(|| text("/target")).filter(|_| is_for_some),
            reason: text("/reason"),
            by: text("/grant"),
            ..Denial::default()
        }
    }

    /// Whether it would be allowed now, if that can be asked.
    fn question(&self) -> Option<CanParams> {
        self.permission.as_ref().or(self.method.as_ref())?;
        // The right to one method is less than one to all that take its permission.
        Some(CanParams {
            permission: self.permission.clone().filter(|_| self.method.is_none()),
            method: self.method.clone(),
            resource: self.resource.clone(),
            principal: self.principal.clone(),
            uid: self.uid,
        })
    }
}

/// A principal as it is typed.
fn named(principal: &Value) -> Option<String> {
    if let Some(text) = principal.as_str() {
        return Some(text.to_owned());
    }
    let field = |name: &str| principal[name].as_str();
    match (field("agent"), field("skill"), field("kind")?) {
        (Some(agent), _, _) => Some(format!("agent:{agent}")),
        (None, Some(skill), _) => Some(format!("skill:{skill}")),
        (None, None, "user") => Some(format!("user:{}", principal["uid"])),
        (None, None, kind) => Some(kind.to_owned()),
    }
}

fn page(told: &Told, denial: &Denial, now: Option<&CanResult>) -> String {
    let or = |text: &Option<String>, other: &str| visible(text.as_deref().unwrap_or(other));
    let event = &told.event;
    let place = event.seq.map(|seq| format!(" @{seq}")).unwrap_or_default();
    // Writing to a String does not fail.
    let mut page =
        format!("{}{place} {}\n", visible(event.time.as_deref().unwrap_or("-")), visible(&event.topic));
    let _ = write!(page, "{} wanted ", or(&denial.principal, "somebody"));
    match (&denial.permission, &denial.method) {
        (Some(permission), method) => {
            let _ = write!(page, "{}", visible(permission));
            if let Some(resource) = &denial.resource {
                let _ = write!(page, " for {}", visible(resource));
            }
            if let Some(method) = method {
                let _ = write!(page, " by {}", visible(method));
            }
        }
        (None, Some(method)) => {
            let _ = write!(page, "{}", visible(method));
        }
        (None, None) => {
            let said = denial.subject.clone().unwrap_or_else(|| brief(&told.payload));
            let _ = write!(page, "{}", visible(&said));
        }
    }
    let _ = writeln!(page, "\nrefused: {}", or(&denial.reason, "no reason is told"));
    if let Some(by) = &denial.by {
        let _ = writeln!(page, "by {}", visible(by));
    }
    if let Some(hint) = &denial.hint {
        let _ = writeln!(page, "it would take: {}", visible(hint));
    }
    match now {
        Some(CanResult { allowed: true, reason, .. }) => {
            let _ = writeln!(page, "now it would be allowed: {}", visible(reason));
        }
        Some(CanResult { smallest: Some(smallest), .. }) => {
            let _ = writeln!(page, "it would be allowed by: {}", typed(smallest));
        }
        Some(CanResult { reason, .. }) => {
            let _ = writeln!(page, "no grant would allow it: {}", visible(reason));
        }
        None => {}
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_client::BusEvent;

    fn told(topic: &str, payload: Value) -> Told {
        Told {
            event: BusEvent { topic: topic.into(), seq: Some(7), ..BusEvent::default() },
            payload,
            time_ms: 0,
        }
    }

    #[test]
    fn a_denied_call_is_asked_about_again_as_its_principal() {
        let told = told(
            SecurityDenied::TOPIC,
            json!({
                "principal": {"kind": "skill", "uid": 7, "skill": "x"}, "method": "event.publish",
                "permission": "event.publish", "resource": "a.b", "reason": "nothing grants it",
            }),
        );
        let denial = Denial::of(&told);
        let asked = denial.question().unwrap();
        assert_eq!(
            (asked.principal.as_deref(), asked.method.as_deref(), asked.resource.as_deref(), asked.uid),
            (Some("skill:x"), Some("event.publish"), Some("a.b"), Some(7))
        );
        assert_eq!(asked.permission, None);
        let text = page(&told, &denial, None);
        assert!(
            text.contains(
                "skill:x wanted event.publish for a.b by event.publish\nrefused: nothing grants it\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_denied_request_says_who_denied_it() {
        let told = told(
            PermissionDenied::TOPIC,
            json!({
                "request": {"principal": "agent:a", "uid": 7, "permissions": [{"permission": "process.read", "resource": "cam"}]},
                "by": "policy:no-cameras", "reason": "\u{1b}[2J",
            }),
        );
        let denial = Denial::of(&told);
        let text = page(&told, &denial, None);
        assert!(
            text.contains("agent:a wanted process.read for cam\nrefused: \\u{1b}[2J\nby policy:no-cameras\n"),
            "{text}"
        );
        assert_eq!(denial.question().unwrap().resource.as_deref(), Some("cam"));
    }

    #[test]
    fn what_containment_refused_is_told_with_what_it_would_take() {
        let told = told(
            VIOLATION,
            json!({
                "id": "p", "principal": {"kind": "skill", "uid": 7, "skill": "x"}, "mechanism": "landlock",
                "rule": "read", "subject": "/etc/\u{1b}passwd", "hint": "files.read of /etc", "count": 1,
            }),
        );
        let denial = Denial::of(&told);
        assert_eq!(denial.question().map(|_| ()), None);
        let text = page(&told, &denial, None);
        let said = "skill:x wanted /etc/\\u{1b}passwd\nrefused: landlock, read\nby the sandbox of p\n\
            it would take: files.read of /etc\n";
        assert!(text.ends_with(said), "{text}");
        assert_eq!(named(&json!({"kind": "user", "uid": 5})).as_deref(), Some("user:5"));
        assert_eq!(named(&json!({"kind": "agent", "uid": 5, "agent": "a"})).as_deref(), Some("agent:a"));
        assert_eq!(named(&json!("session:as_1")).as_deref(), Some("session:as_1"));
    }
}
