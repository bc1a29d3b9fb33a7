//! When a resource that was granted has all of one that is asked for.
//!
//! Invariant: answered no where it can't be told, so that what allows never allows too much. What *forbids* is asked the other way:
//! whether the two may have anything in common ([`may_meet`]).

use crate::auth::subject::Party;
use crate::events::pattern::Pattern;
use kairo_sandbox::manifest::pattern::{self, call_covers, is_within, topic_covers, variable_covers};
use kairo_sandbox::manifest::single;
use kairo_wire::permission::Resource;

/// Longest resource, bytes: as long as a path can be.
const BYTES_MAX: usize = 4_096;

/// What is wrong with a resource somebody names, in words. What passes is written in the one way it is compared.
pub(crate) fn check(form: Resource, text: &str) -> Result<(), String> {
    if text.len() > BYTES_MAX {
        return Err("at most 4,096 bytes".to_owned());
    }
    single::text(text)?;
    let words = |fine: bool, why: &str| if fine { Ok(()) } else { Err(why.to_owned()) };
    match form {
        _ if text == "*" => Ok(()),
        Resource::None => Err("this permission is for nothing in particular".to_owned()),
        Resource::Path => single::path(text),
        Resource::Endpoint => single::endpoint(text),
        Resource::Port => single::ports(text, 0),
        Resource::Variable => single::variable(text),
        Resource::Method => single::call(text),
        Resource::Topic => Pattern::new(text).map(drop).map_err(|error| error.to_string()),
        Resource::Reach => words(["none", "inside", "any"].contains(&text), "none, inside or any"),
        Resource::Principal => {
            let (start, rest) = text.split_once('*').unwrap_or((text, ""));
            let kind = start.split_once(':').map(|(kind, _)| kind);
            let is_one = match text.ends_with('*') {
                true => rest.is_empty() && kind.is_some_and(|kind| KINDS.contains(&kind)),
                false => Party::from_text(text, 0).is_some() && !text.contains('*'),
            };
            words(
                is_one,
                "skill:NAME, agent:NAME, session:ID or user:UID, with * at its end for all that begin so",
            )
        }
        Resource::Process | Resource::Device | Resource::Limit => Ok(()),
    }
}

/// What principals begin with.
const KINDS: [&str; 4] = ["skill", "agent", "session", "user"];

/// Whether `granted` has all of `asked`. `*` has all of everything; nothing else has all that `*` asks for.
pub(crate) fn covers(form: Resource, granted: &str, asked: &str) -> bool {
    if granted == "*" || granted == asked {
        return true;
    }
    match form {
        Resource::None | Resource::Limit | Resource::Device => false,
        Resource::Method => call_covers(granted, asked),
        Resource::Process | Resource::Principal => begins(granted, asked),
        Resource::Topic => topic_covers(granted, asked),
        Resource::Path => is_within(asked, granted),
        Resource::Endpoint => endpoint(granted, asked),
        Resource::Port => ports(granted)
            .zip(ports(asked))
            .is_some_and(|(granted, asked)| granted.0 <= asked.0 && asked.1 <= granted.1),
        Resource::Reach => matches!((granted, asked), ("any", "inside" | "none") | ("inside", "none")),
        Resource::Variable => variable_covers(granted, asked),
    }
}

/// Whether what is forbidden may have something in common with what is asked for.
pub(crate) fn may_meet(form: Resource, forbidden: &str, asked: &str) -> bool {
    if asked == "*" || covers(form, forbidden, asked) || covers(form, asked, forbidden) {
        return true;
    }
    match form {
        Resource::Path => pattern::may_meet(forbidden, asked),
        Resource::Port => {
            ports(forbidden).zip(ports(asked)).is_none_or(|(one, other)| one.0 <= other.1 && other.0 <= one.1)
        }
        // Two patterns with wildcards in both may cross in ways that take a search to find: they are taken to.
        Resource::Topic => [forbidden, asked].iter().all(|pattern| pattern.contains(['*', '>'])),
        Resource::Endpoint => {
            let split =
                |text: &str| text.rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned()));
            let (Some((host, port)), Some((other, others))) = (split(forbidden), split(asked)) else {
                return true;
            };
            let hosts = hosts(&host, &other) || hosts(&other, &host);
            hosts && (port == "*" || others == "*" || may_meet(Resource::Port, &port, &others))
        }
        _ => false,
    }
}

/// True if a resource stands for more than itself, so that it is found by trying and not by looking it up.
pub(crate) fn is_wild(form: Resource, resource: &str) -> bool {
    match form {
        Resource::Path => false,
        Resource::Port | Resource::Reach => true,
        Resource::Endpoint => resource.contains(['*', '-']),
        _ => resource.contains(['*', '>']),
    }
}

fn begins(granted: &str, asked: &str) -> bool {
    granted.strip_suffix('*').is_some_and(|start| asked.starts_with(start))
}

fn endpoint(granted: &str, asked: &str) -> bool {
    let Some(((host, port), (other, others))) = granted.rsplit_once(':').zip(asked.rsplit_once(':')) else {
        return false;
    };
    hosts(host, other) && (port == "*" || covers(Resource::Port, port, others))
}

fn hosts(wide: &str, narrow: &str) -> bool {
    let below =
        |base: &str| narrow.strip_suffix(base).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1);
    wide == "*" || wide == narrow || wide.strip_prefix("*.").is_some_and(below)
}

fn ports(text: &str) -> Option<(u16, u16)> {
    match text.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_all_of_another_or_has_not() {
        use Resource::*;
        for (form, granted, asked, yes) in [
            (Topic, "photo.>", "photo.done", true),
            (Topic, "photo.*", "photo.a.b", false),
            (Topic, "photo.done", "photo.>", false),
            (Path, "/home/u", "/home/u/x", true),
            (Path, "/home/u", "/home/ux", false),
            (Process, "build-*", "build-7", true),
            (Process, "build-7", "build-70", false),
            (Process, "build-7", "*", false),
            (Method, "process.*", "process.spawn", true),
            (Method, "process.*", "processes", false),
            (Endpoint, "*:443", "a.example.org:443", true),
            (Endpoint, "*.example.org:443", "a.example.org:443", true),
            (Endpoint, "*.example.org:443", "example.org:443", false),
            (Endpoint, "*.example.org:443", "aexample.org:443", false),
            (Endpoint, "a.example.org:*", "a.example.org:80", true),
            (Endpoint, "a.example.org:80-90", "a.example.org:85", true),
            (Endpoint, "a.example.org:443", "*:443", false),
            (Port, "8000-8010", "8005", true),
            (Port, "8000-8010", "8005-8011", false),
            (Reach, "any", "inside", true),
            (Reach, "inside", "any", false),
            (Variable, "PHOTO_*", "PHOTO_LANG", true),
            (Limit, "memoryBytes=1", "memoryBytes=2", false),
            (None, "x", "y", false),
        ] {
            assert_eq!(covers(form, granted, asked), yes, "{granted} {asked}");
            assert!(covers(form, "*", asked) && (asked == granted || !covers(form, granted, "*")));
            assert!(!yes || may_meet(form, granted, asked), "{granted} {asked}");
        }
    }

    #[test]
    fn what_is_forbidden_in_part_is_met() {
        use Resource::*;
        for (form, forbidden, asked, yes) in [
            (Path, "/home/u/.ssh", "/home/u", true),
            (Path, "/home/u/.ssh", "/usr", false),
            (Path, "~/.ssh", "/home/u", true),
            (Port, "8000-8010", "8005-9000", true),
            (Port, "80", "443", false),
            (Endpoint, "evil.example.org:*", "*:443", true),
            (Endpoint, "evil.example.org:80", "*:443", false),
            (Topic, "photo.secret.>", "photo.>", true),
            (Topic, "photo.secret", "photo.done", false),
            (Process, "vault", "*", true),
            (Process, "vault", "build", false),
        ] {
            assert_eq!(may_meet(form, forbidden, asked), yes, "{forbidden} {asked}");
        }
    }
}
