//! The loop, seen from where a skill is started: what it asks for is asked of the kernel, and if that has no answer, of
//! whoever sits at this terminal.
//!
//! Invariant: nothing is started on a word that was not given: an end of input, an answer that means nothing and a
//! terminal that isn't one are no approval. Nobody is asked about what would be refused anyway.

use crate::cli::approvals::PIPELINE;
use crate::cli::context::Context;
use crate::cli::failure::{Failure, NOT_EXECUTABLE};
use crate::cli::grants::programs;
use crate::cli::manifest::{Lack, New, lacks, page};
use crate::cli::skill::Skill;
use crate::cli::table::visible;
use kairo_client::{CallError, Client};
use kairo_wire::error::Code;
use kairo_wire::methods::permission::{
    Approve, ApproveParams, Can, CanParams, Deny, DenyParams, Grant, GrantScope, Request, RequestResult,
    RequestStatus,
};
use kairo_wire::permission::Permission;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::unregister;
use signal_hook::{SigId, flag};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Asks one kernel about one skill.
#[derive(Debug)]
pub(crate) struct Asker<'a> {
    context: &'a Context,
    skill: &'a Skill,
    client: &'a Client,
    /// The kernel outlives this command: it can remember, and others can decide.
    lasts: bool,
}

/// What somebody answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes(GrantScope),
    No,
    /// By this signal.
    Interrupted(u8),
}

impl Asker<'_> {
    /// For a daemon.
    pub(crate) fn of_daemon<'a>(context: &'a Context, skill: &'a Skill, client: &'a Client) -> Asker<'a> {
        Asker { context, skill, client, lasts: true }
    }

    /// For a kernel in this process.
    pub(crate) fn of_own<'a>(context: &'a Context, skill: &'a Skill, client: &'a Client) -> Asker<'a> {
        Asker { context, skill, client, lasts: false }
    }

    /// Asks until it is decided; what is approved is in force then.
    pub(crate) fn settle(&self) -> Result<Grant, Failure> {
        let mut asked = self.request(Duration::ZERO)?;
        loop {
            match asked.status {
                RequestStatus::Approved => return granted(asked),
                RequestStatus::Denied => return Err(self.denied(&asked)),
                RequestStatus::Pending if self.can_ask()? => match self.ask(&asked)? {
                    Answer::Yes(scope) => {
                        if let Some(grant) = self.approve(&asked, scope)? {
                            return Ok(grant);
                        }
                    }
                    Answer::Interrupted(number) => {
                        self.deny(&asked, "interrupted where it was started")?;
                        let why = format!("{} is not approved: interrupted", self.skill.title());
                        return Err(self.unapproved(why, &asked).ending_with(128 + number));
                    }
                    Answer::No => {
                        self.deny(&asked, "answered no where it was started")?;
                        let why = format!("{} is not approved: it was answered no", self.skill.title());
                        return Err(self.unapproved(why, &asked));
                    }
                },
                RequestStatus::Pending if self.lasts && !self.skill.wait.is_zero() => {
                    self.say_waiting(&asked);
                    let answered = self.request(self.skill.wait)?;
                    if answered.status == RequestStatus::Pending {
                        return Err(self.undecided(&answered));
                    }
                    asked = answered;
                    continue;
                }
                RequestStatus::Pending => return Err(self.undecided(&asked)),
            }
            // Somebody else has decided while we were asking.
            asked = self.request(Duration::ZERO)?;
        }
    }

    /// What another kernel was told is approved here as well, for this one start, unless the policy forbids it.
    pub(crate) fn follow(&self) -> Result<Grant, Failure> {
        let asked = self.request(Duration::ZERO)?;
        match asked.status {
            RequestStatus::Approved => granted(asked),
            RequestStatus::Denied => Err(self.denied(&asked)),
            RequestStatus::Pending => {
                let grant = self.approve(&asked, GrantScope::Once)?;
                grant.ok_or_else(|| self.undecided(&asked))
            }
        }
    }

    fn request(&self, wait: Duration) -> Result<RequestResult, Failure> {
        let until = Instant::now().checked_add(wait);
        loop {
            let left = until.map_or(wait, |until| until.saturating_duration_since(Instant::now()));
            match self.client.call::<Request>(&self.skill.request(left)) {
                // The next kernel doesn't know of it; asked twice it is one request.
                Err(CallError::Interrupted { .. }) => {}
                answered => return Ok(answered?),
            }
        }
    }

    /// Somebody is here who may decide.
    fn can_ask(&self) -> Result<bool, Failure> {
        if self.context.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(false);
        }
        let params = CanParams {
            permission: Some(Permission::PermissionDecide.name().to_owned()),
            resource: Some(self.skill.principal()),
            ..CanParams::default()
        };
        Ok(self.client.call::<Can>(&params)?.allowed)
    }

    fn ask(&self, asked: &RequestResult) -> Result<Answer, Failure> {
        let folder = self.skill.folder.display().to_string();
        let lacks = lacks(self.context, &self.skill.manifest, Some(folder));
        let stopping: Vec<String> =
            lacks.iter().filter(|lack| !lack.accepted).map(ToString::to_string).collect();
        if !stopping.is_empty() {
            let why =
                format!("this machine can't enforce for {}: {}", self.skill.title(), stopping.join("; "));
            return Err(Failure::new(Code::Unsupported.name(), why)
                .advise("`kairo doctor` tells what it can; a manifest accepts less by name (acceptWeaker)"));
        }
        let interruption = Interruption::watch()?;
        let mut err = io::stderr().lock();
        err.write_all(self.question(asked, &lacks).as_bytes())?;
        loop {
            err.write_all(if self.lasts { CHOICES } else { CHOICES_ONCE }.as_bytes())?;
            err.flush()?;
            let line = typed(&interruption)?;
            if let Some(number) = interruption.number() {
                return Ok(Answer::Interrupted(number));
            }
            if let Some(answer) = answer(&line, self.lasts) {
                return Ok(answer);
            }
        }
    }

    /// Who asks for what.
    fn question(&self, asked: &RequestResult, lacks: &[Lack]) -> String {
        let skill = self.skill;
        // Writing to a String does not fail.
        let mut text = format!("\nkairo: the skill {} asks for permissions\n", skill.title());
        text.push_str(&programs(&skill.named(), &asked.changed));
        let _ = writeln!(
            text,
            "working in {}, started by {}",
            visible(&skill.folder.display().to_string()),
            user()
        );
        if skill.programs.len() > 1 {
            text.push_str(PIPELINE);
        }
        if skill.programs.iter().any(|program| program.is_script) {
            text.push_str("note: it is a script: it may be changed after it was looked at, before it is read to be run\n");
        }
        let new = asked
            .newly
            .as_ref()
            .map(|lines| New { lines: lines.clone(), since: "what was approved of it before".to_owned() });
        text.push_str(&page(&skill.manifest, lacks, new.as_ref()));
        text.push('\n');
        text
    }

    /// None if somebody else has decided meanwhile.
    fn approve(&self, asked: &RequestResult, scope: GrantScope) -> Result<Option<Grant>, Failure> {
        let params =
            ApproveParams { request_id: asked.request_id.clone(), scope: Some(scope), expires_in_ms: None };
        unless_decided(self.client.call::<Approve>(&params)).map(|done| done.map(|done| done.grant))
    }

    fn deny(&self, asked: &RequestResult, reason: &str) -> Result<(), Failure> {
        let params = DenyParams { request_id: asked.request_id.clone(), reason: Some(reason.to_owned()) };
        unless_decided(self.client.call::<Deny>(&params)).map(drop)
    }

    fn say_waiting(&self, asked: &RequestResult) {
        let (title, id) = (self.skill.title(), &asked.request_id);
        eprintln!("kairo: {title} waits for a decision: kairo approve {id}, or kairo deny {id}");
    }

    fn denied(&self, asked: &RequestResult) -> Failure {
        let by = asked.by.as_deref().map(|by| format!(" by {}", visible(by))).unwrap_or_default();
        let why = asked.reason.as_deref().map(|why| format!(": {}", visible(why))).unwrap_or_default();
        let failure = self.unapproved(format!("{} is denied{by}{why}", self.skill.title()), asked);
        match asked.by.as_deref().is_some_and(|by| by.starts_with("policy:")) {
            true => failure.advise("`kairo policy check --manifest FILE` tells what the policy says of it"),
            false => failure,
        }
    }

    fn undecided(&self, asked: &RequestResult) -> Failure {
        let (title, id) = (self.skill.title(), &asked.request_id);
        if !self.lasts {
            let why = format!("{title} is not approved, and nobody can be asked here");
            return self.unapproved(why, asked).advise(
                "run it on a terminal, have a policy approve it (docs/PERMISSIONS.md), or start `kairo serve`, which \
                 keeps requests for `kairo approve`",
            );
        }
        let why = format!("{title} is not approved: request {id} waits for a decision");
        self.unapproved(why, asked).advise(format!(
            "decide it with `kairo approve {id}` and start it again, or have it wait for that with --wait 5m"
        ))
    }

    fn unapproved(&self, why: String, asked: &RequestResult) -> Failure {
        let code = match asked.status {
            RequestStatus::Denied => Code::PermissionDenied.name(),
            RequestStatus::Pending | RequestStatus::Approved => "E_NOT_APPROVED",
        };
        Failure::new(code, why).ending_with(NOT_EXECUTABLE).detail(json!({
            "requestId": asked.request_id,
            "principal": self.skill.principal(),
            "manifestDigest": self.skill.digest,
            "programDigest": self.skill.only().map(|program| &program.digest),
            "programs": self.skill.named(),
        }))
    }
}

fn granted(asked: RequestResult) -> Result<Grant, Failure> {
    let grant = asked.grant.map(|grant| *grant);
    grant.ok_or_else(|| Failure::new("E_SHAPE", "it is approved, and the kernel names no grant"))
}

/// None if there is nothing left to decide.
pub(crate) fn unless_decided<T>(called: Result<T, CallError>) -> Result<Option<T>, Failure> {
    match called {
        Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
        called => Ok(Some(called?)),
    }
}

const CHOICES: &str = "allow it? [o]nce / for this [s]ession / [a]lways / [N]o ";
const CHOICES_ONCE: &str = "allow it? [o]nce / [N]o   (with `kairo serve` running it could be remembered) ";

/// What a line means; none if it means nothing.
fn answer(line: &str, lasts: bool) -> Option<Answer> {
    match line.trim().to_ascii_lowercase().as_str() {
        "" | "n" | "no" => Some(Answer::No),
        "o" | "once" => Some(Answer::Yes(GrantScope::Once)),
        "s" | "session" if lasts => Some(Answer::Yes(GrantScope::Session)),
        "a" | "always" if lasts => Some(Answer::Yes(GrantScope::Always)),
        _ => None,
    }
}

/// What ends a question without an answer.
const INTERRUPTIONS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// Whether somebody wants this to end, while a question stands.
#[derive(Debug)]
struct Interruption {
    number: Arc<AtomicUsize>,
    handlers: Vec<SigId>,
}

impl Interruption {
    fn watch() -> io::Result<Interruption> {
        let mut watch = Interruption { number: Arc::default(), handlers: Vec::new() };
        for number in INTERRUPTIONS {
            let place = Arc::clone(&watch.number);
            watch.handlers.push(flag::register_usize(number, place, number as usize)?);
        }
        Ok(watch)
    }

    /// The signal, if one has come.
    fn number(&self) -> Option<u8> {
        Some(self.number.load(Ordering::Relaxed) as u8).filter(|number| *number > 0)
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
    }
}

/// A line of the terminal, and not a byte more: what comes behind it is the program's. What there is of it at its end, or
/// when a signal comes.
fn typed(interruption: &Interruption) -> Result<String, Failure> {
    let mut line = Vec::new();
    let mut byte = [0];
    let stdin = io::stdin();
    while line.len() < 256 && interruption.number().is_none() {
        // A read would go on behind a signal; this doesn't.
        let waited = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&LOOK));
        match waited.and_then(|ready| if ready > 0 { read(&stdin, &mut byte).map(Some) } else { Ok(None) }) {
            Ok(Some(0)) => break,
            Ok(Some(_)) if byte == *b"\n" => break,
            Ok(Some(_)) => line.extend(byte),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// A signal that comes between the look at it and the wait is seen after so long.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Who we are, for people.
fn user() -> String {
    let uid = nix::unistd::getuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => visible(&user.name),
        Ok(None) | Err(_) => format!("user {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_that_means_yes_is_one() {
        let yes = |scope| Some(Answer::Yes(scope));
        for (line, lasting, alone) in [
            ("o", yes(GrantScope::Once), yes(GrantScope::Once)),
            (" Once\r", yes(GrantScope::Once), yes(GrantScope::Once)),
            ("s", yes(GrantScope::Session), None),
            ("always", yes(GrantScope::Always), None),
            ("", Some(Answer::No), Some(Answer::No)),
            ("N", Some(Answer::No), Some(Answer::No)),
            ("y", None, None),
            ("oo", None, None),
        ] {
            assert_eq!((answer(line, true), answer(line, false)), (lasting, alone), "{line:?}");
        }
    }
}
