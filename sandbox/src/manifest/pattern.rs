//! Paths and patterns: which are taken, and when one has all of another.
//!
//! Whether one covers another is answered no where it can't be told: then something is called new that may not be, never the
//! other way round.

use super::refusal::{Reason, Refusal};
use crate::environment::{is_hook, is_secret};
use crate::profile::{Environment, Files, Profile};

/// The one spelling of a path, without empty parts, `.` and a slash at the end.
pub(super) fn path(written: &str) -> Result<String, Refusal> {
    let refuse = |why: String| Refusal::new("", Reason::Path, why);
    if written.contains(['*', '?', '[', ']']) {
        return Err(refuse(
            "patterns are not expanded: name the folder, which stands for all below it".to_owned(),
        ));
    }
    // What a profile takes is a profile's to say.
    let files = Files { read: vec![written.to_owned()], ..Files::default() };
    Profile { files, ..Profile::default() }.check().map_err(|complaint| refuse(complaint.why))?;
    let (base, rest) = match written.as_bytes().first() {
        Some(b'/') => ("", written),
        _ => written.split_at(1),
    };
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(match (base, parts.as_slice()) {
        ("", []) => "/".to_owned(),
        (base, []) => format!("{base}/"),
        (base, parts) => format!("{base}/{}", parts.join("/")),
    })
}

/// Whether a path is this one or below it. What begins at another base can't be told, but for the root, which has all.
pub fn is_within(path: &str, folder: &str) -> bool {
    let start = folder.trim_end_matches('/');
    folder == "/" || path == folder || path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether two paths may have something in common.
pub fn may_meet(one: &str, other: &str) -> bool {
    let base = |path: &str| path.as_bytes().first().copied();
    base(one) != base(other) || is_within(one, other) || is_within(other, one)
}

/// A variable's name, or the beginning of one and a star.
pub(super) fn variable(name: &str) -> Result<(), Refusal> {
    let environment = Environment { allow: vec![name.to_owned()], ..Environment::default() };
    let checked = Profile { environment, ..Profile::default() }.check();
    checked.map_err(|complaint| Refusal::new("", Reason::Text, complaint.why))
}

/// Whether a pattern lets in all another does. Hooks and secrets are let in by their whole name only.
pub fn variable_covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_suffix('*') {
        _ if wide == narrow => true,
        None => false,
        Some(_) if !narrow.ends_with('*') && (is_hook(narrow.as_bytes()) || is_secret(narrow.as_bytes())) => {
            false
        }
        Some(start) => narrow.trim_end_matches('*').starts_with(start),
    }
}

/// A topic: `*` is anything between two dots, `>` anything at all.
pub(super) fn topic(pattern: &str) -> Result<(), Refusal> {
    const CHARS_MAX: usize = 128;
    match pattern.chars().count() {
        0..=CHARS_MAX => Ok(()),
        long => Err(Refusal::new(
            "",
            Reason::Bound,
            format!("{long} characters; a pattern has at most {CHARS_MAX}"),
        )),
    }
}

/// Whether a pattern of topics matches all another does: the wide one is run over the narrow one, whose wildcards only
/// wildcards as wide may take.
pub fn topic_covers(wide: &str, narrow: &str) -> bool {
    let wide: Vec<char> = wide.chars().collect();
    let takes = |token: char, with: char| match with {
        '>' => token == '>',
        '*' => matches!(token, '*' | '>'),
        literal => token == literal || token == '*' && literal != '.' || token == '>',
    };
    let mut reached = vec![false; wide.len() + 1];
    reached[0] = true;
    for with in narrow.chars() {
        let mut next = vec![false; wide.len() + 1];
        for (at, token) in wide.iter().enumerate() {
            let stays = reached[at + 1] && matches!(token, '*' | '>');
            next[at + 1] = (reached[at] || stays) && takes(*token, with);
        }
        reached = next;
    }
    reached[wide.len()]
}

/// A method, `process.spawn`, or all of a room, `process.*`.
pub(super) fn call(method: &str) -> Result<(), Refusal> {
    let word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let parts: Vec<&str> = method.strip_suffix(".*").unwrap_or(method).split('.').collect();
    match method.len() <= 128 && parts.iter().all(|part| word(part)) {
        true => Ok(()),
        false => Err(Refusal::new(
            "",
            Reason::Text,
            "a method is named as process.spawn, a room of them as process.*",
        )),
    }
}

/// Whether one has all methods of another.
pub fn call_covers(wide: &str, narrow: &str) -> bool {
    wide == narrow || wide.strip_suffix('*').is_some_and(|room| narrow.starts_with(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (written, spelling) in [
            ("/", "/"),
            ("//", "/"),
            ("/usr/", "/usr"),
            ("/usr//lib/./x", "/usr/lib/x"),
            (".", "./"),
            ("./", "./"),
            ("~", "~/"),
            ("~/x/", "~/x"),
            ("./a//b", "./a/b"),
        ] {
            assert_eq!(path(written).unwrap(), spelling, "{written}");
        }
        for wrong in [
            "x",
            "a/b",
            "../x",
            "/a/../b",
            "~root/x",
            ".x",
            "..",
            "/a/*",
            "/a/?.x",
            "/proc/self/x",
            "$HOME/x",
        ] {
            assert_eq!(path(wrong).unwrap_err().reason, Reason::Path, "{wrong}");
        }
    }

    #[test]
    fn a_folder_has_what_is_below_it_by_name() {
        for (below, folder, yes) in [
            ("/usr/lib", "/usr", true),
            ("/usr", "/usr", true),
            ("/usrlib", "/usr", false),
            ("/usr", "/usr/lib", false),
            ("./x", "./", true),
            ("~/x", "./", false),
            ("~/x", "/", true),
            ("/home/u/x", "~/", false),
            ("./", "./", true),
        ] {
            assert_eq!(is_within(below, folder), yes, "{below} {folder}");
        }
    }

    #[test]
    fn a_pattern_covers_another_only_if_it_matches_all_of_it() {
        for (wide, narrow, yes) in [
            ("a.>", "a.b", true),
            ("a.>", "a.*", true),
            ("a.>", "a.*.c", true),
            ("a.*", "a.>", false),
            ("a.*", "a.b.c", false),
            (">", "a.>", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.*.c", true),
            ("a.*", "a.*.c", false),
            ("a.b", "a.*", false),
            ("a.*", "a.b*", true),
            ("*", "*", true),
            ("a", "", false),
        ] {
            assert_eq!(topic_covers(wide, narrow), yes, "{wide} {narrow}");
        }
        assert!(
            variable_covers("CARGO_*", "CARGO_HOME")
                && variable_covers("*", "CARGO_*")
                && variable_covers("X", "X")
        );
        assert!(
            !variable_covers("*", "GITHUB_TOKEN")
                && !variable_covers("LD_*", "LD_PRELOAD")
                && !variable_covers("A", "A*")
        );
        assert!(call_covers("process.*", "process.spawn") && !call_covers("process.spawn", "process.*"));
        assert!(call("process.spawn").is_ok() && call("process.*").is_ok() && call("subscribe").is_ok());
        for wrong in ["*", "process.", ".spawn", "Process.spawn", "process.*.x", "a b"] {
            assert!(call(wrong).is_err(), "{wrong}");
        }
    }
}
