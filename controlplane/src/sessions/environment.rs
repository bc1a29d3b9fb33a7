//! The environment of a child: a short list from the daemon's own, what the request gives, and some names of ours.
//!
//! Secrets of the daemon's environment never reach a child by accident: what is not on the list stays. Precedence,
//! lowest first: the daemon's, the account's, the request's, the kernel's. The same `PATH` that the child sees finds its program.

use crate::config::{Account, Config};
use crate::sessions::containing::Contained;
use crate::state::Trace;
use kairo_sandbox::containment::KERNEL_DESCRIPTOR;
use kairo_wire::id::EventId;
use std::collections::BTreeMap;

/// Names and values.
pub(crate) type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

/// Names a child gets from the daemon's environment; `LC_*` besides.
const INHERITED: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TERM", "TMPDIR", "XDG_RUNTIME_DIR"];

/// Where a program is looked for if nobody names a `PATH`.
const SEARCH_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a terminal is called if nobody says.
const TERMINAL: &[u8] = b"xterm-256color";

/// What goes into an environment.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    /// The user the child becomes, if it isn't the daemon's.
    pub account: Option<&'a Account>,
    /// Of the request.
    pub given: Variables,
    /// Take the daemon's environment whole.
    pub inherit: bool,
    /// It is contained.
    pub contained: Option<&'a Contained>,
    /// It gets a terminal.
    pub terminal: bool,
    /// `KAIRO_SESSION`.
    pub session: &'a str,
    /// `KAIRO_PROCESS_ID`.
    pub process_id: &'a str,
    /// The story it is part of.
    pub trace: &'a Trace,
    /// The event of its birth: what it does follows from that.
    pub birth: &'a EventId,
}

/// Mixes them.
pub(crate) fn compose(config: &Config, from: Ingredients<'_>) -> Variables {
    let mut all: Variables =
        config.environment.iter().filter(|(name, _)| comes_along(name, &from)).cloned().collect();
    if let Some(account) = from.account {
        all.insert(b"HOME".into(), account.home.clone());
        all.insert(b"USER".into(), account.name.clone().into_bytes());
        all.insert(b"LOGNAME".into(), account.name.clone().into_bytes());
        all.insert(b"SHELL".into(), account.shell.clone());
        // These name folders of the daemon's user.
        all.remove(&b"XDG_RUNTIME_DIR"[..]);
        all.remove(&b"TMPDIR"[..]);
    }
    all.extend(from.given);
    all.entry(b"PATH".into()).or_insert_with(|| SEARCH_PATH.into());
    if from.terminal {
        all.entry(b"TERM".into()).or_insert_with(|| TERMINAL.into());
    }
    all.insert(b"KAIRO_SESSION".into(), from.session.into());
    all.insert(b"KAIRO_PROCESS_ID".into(), from.process_id.into());
    place_in_story(&mut all, from.trace, from.birth);
    if let Some(path) = config.socket_path.as_ref().filter(|_| from.contained.is_none_or(|it| it.finds_paths))
    {
        all.insert(b"KAIRO_IPC_SOCKET".into(), path.clone());
    }
    if from.contained.is_some_and(|it| it.containment.kernel) {
        all.insert(DESCRIPTOR.into(), KERNEL_DESCRIPTOR.to_string().into_bytes());
    }
    all
}

/// Where a contained child finds its connection to the kernel.
const DESCRIPTOR: &[u8] = b"KAIRO_IPC_FD";

/// Whether a variable of the daemon's own environment goes to a child.
fn comes_along(name: &[u8], from: &Ingredients<'_>) -> bool {
    match from.contained.and_then(|it| it.environment.as_ref()) {
        Some(rules) => is_inherited(name) || (rules.lets_in(name) && !is_ours(name)),
        None if from.inherit => !is_ours(name),
        None => is_inherited(name),
    }
}

/// What a child passes on to whatever it calls. A trace of the request's own is left alone.
fn place_in_story(all: &mut Variables, trace: &Trace, birth: &EventId) {
    if let Some(correlation) = &trace.correlation {
        all.insert(b"KAIRO_CORRELATION_ID".into(), correlation.clone().into_bytes());
    }
    all.insert(b"KAIRO_CAUSATION_ID".into(), birth.as_str().into());
    match &trace.intent {
        Some(intent) => drop(all.insert(b"KAIRO_INTENT_ID".into(), intent.clone().into_bytes())),
        None => drop(all.remove(&b"KAIRO_INTENT_ID"[..])),
    }
    if let (Some(trace), Some(span)) = (&trace.trace, &trace.span) {
        all.entry(b"TRACEPARENT".into()).or_insert_with(|| format!("00-{trace}-{span}-01").into_bytes());
    }
}

/// Names whose values no two lives share.
pub(crate) fn differs_in_every_life(name: &[u8]) -> bool {
    matches!(
        name,
        b"KAIRO_SESSION"
            | b"KAIRO_PROCESS_ID"
            | b"KAIRO_CORRELATION_ID"
            | b"KAIRO_CAUSATION_ID"
            | b"KAIRO_INTENT_ID"
            | b"TRACEPARENT"
    )
}

/// The folders of `PATH`.
pub(crate) fn search_path(variables: &Variables) -> Vec<u8> {
    variables.get(&b"PATH"[..]).cloned().unwrap_or_else(|| SEARCH_PATH.into())
}

/// As execve(2) takes them.
pub(crate) fn lines(variables: &Variables) -> Vec<Vec<u8>> {
    variables.iter().map(|(name, value)| [name, &b"="[..], value].concat()).collect()
}

fn is_inherited(name: &[u8]) -> bool {
    name.starts_with(b"LC_") || INHERITED.iter().any(|inherited| inherited.as_bytes() == name)
}

/// Names a child must have from this kernel or not at all.
fn is_ours(name: &[u8]) -> bool {
    name == b"KAIRO_IPC_SOCKET" || name == DESCRIPTOR || differs_in_every_life(name)
}
