//! `kairo run --manifest`: the leave to start a skill, and what becomes of it while that runs.
//!
//! The program runs under the kernel in this process. If there is a daemon, that decides: what is approved is remembered,
//! told and taken back there, and the kernel here is told the same for this one start. Then this command stands for the
//! program: it ends it when the daemon takes the grant back, unless whoever did that lets it go on.

use crate::cli::consent::{Asker, unless_decided};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::skill::Skill;
use crate::cli::table::visible;
use kairo_client::{BusEvent, Client, EventItem, Events};
use kairo_wire::error::Code;
use kairo_wire::event::{Event, PermissionRevoked};
use kairo_wire::methods::permission::{
    Grant, GrantScope, Grants, GrantsParams, Revoke, RevokeCause, RevokeParams, RunningOption,
};

/// The daemon's grant, while the program runs under it.
#[derive(Debug)]
pub(crate) struct Permit {
    daemon: Client,
    revoked: Events,
    grant: Grant,
}

impl Permit {
    /// Has the skill approved, by the daemon if one is there and by the kernel in this process. None if nothing is left
    /// that could be taken back.
    pub(crate) fn obtain(context: &Context, skill: &Skill, own: &Client) -> Result<Option<Permit>, Failure> {
        let Some(daemon) = context.lasting_if_there()? else {
            Asker::of_own(context, skill, own).settle()?;
            return Ok(None);
        };
        // Before there is anything to take back.
        let revoked = daemon.events(PermissionRevoked::TOPIC)?;
        let asker = Asker::of_daemon(context, skill, &daemon);
        let grant = loop {
            let grant = asker.settle()?;
            if grant.scope != GrantScope::Once || use_up(&daemon, &grant)? {
                break grant;
            }
        };
        Asker::of_own(context, skill, own).follow()?;
        Ok((grant.scope != GrantScope::Once).then_some(Permit { daemon, revoked, grant }))
    }

    /// Ends the program when the grant is taken back: `end_it` does.
    pub(crate) fn stand_for(self, end_it: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
        let work = move || {
            let Permit { daemon, revoked, grant } = self;
            for item in revoked {
                let end = match item {
                    Ok(EventItem::Event(event)) => match verdict(&event, &grant.id) {
                        Some(verdict) => verdict,
                        None => continue,
                    },
                    // What happened meanwhile isn't told.
                    Ok(
                        EventItem::Resumed { complete: false, .. }
                        | EventItem::Gap(_)
                        | EventItem::Cut { .. },
                    ) => match is_in_force(&daemon, &grant) {
                        Ok(true) | Err(_) => continue,
                        Ok(false) => (RunningOption::End, "it is no longer in force".to_owned()),
                    },
                    Ok(EventItem::Resumed { .. }) => continue,
                    Err(lost) => {
                        eprintln!("kairo: {lost}: {} can't be taken back any more", grant.id);
                        return;
                    }
                };
                let (running, why) = end;
                let who = visible(&grant.principal);
                if running == RunningOption::Keep {
                    eprintln!("kairo: {} of {who}: {why}; the program goes on", grant.id);
                    return;
                }
                eprintln!("kairo: {} of {who}: {why}; the program is ended", grant.id);
                return end_it();
            }
        };
        std::thread::Builder::new().name("permit".to_owned()).spawn(work)?;
        Ok(())
    }
}

/// Uses up what is good for one start; false if somebody else has. Nothing starts there that would do so.
fn use_up(daemon: &Client, grant: &Grant) -> Result<bool, Failure> {
    let params = RevokeParams {
        grant: Some(grant.id.clone()),
        running: RunningOption::Keep,
        used: true,
        ..RevokeParams::default()
    };
    match daemon.call::<Revoke>(&params) {
        // Who may not decide may not do that either; the kernel here starts it once.
        Err(error) if error.code() == Some(Code::PermissionDenied) => Ok(true),
        called => Ok(unless_decided(called)?.is_some()),
    }
}

fn is_in_force(daemon: &Client, grant: &Grant) -> Result<bool, Failure> {
    let mut params = GrantsParams { principal: Some(grant.principal.clone()), ..GrantsParams::default() };
    loop {
        let page = daemon.call::<Grants>(&params)?;
        if page.grants.iter().any(|one| one.id == grant.id) {
            return Ok(true);
        }
        match page.grants.last().filter(|_| page.more) {
            Some(last) => params.after = Some(last.id.clone()),
            None => return Ok(false),
        }
    }
}

/// What an event says of a grant, if it is about that.
fn verdict(event: &BusEvent, grant: &str) -> Option<(RunningOption, String)> {
    let told: PermissionRevoked = event.payload.decode().ok()?;
    if told.grant.id != grant {
        return None;
    }
    let why = match &told.by {
        Some(by) => format!("{} by the {}", words(told.cause), by.kind.word()),
        None => words(told.cause).to_owned(),
    };
    Some((told.running, why))
}

/// A cause, in words.
pub(crate) fn words(cause: RevokeCause) -> &'static str {
    match cause {
        RevokeCause::Revoked => "taken back",
        RevokeCause::Expired => "its time is over",
        RevokeCause::Used => "used up",
        RevokeCause::Session => "its session has ended",
        RevokeCause::Intent => "its intent has ended",
        RevokeCause::Replaced => "another approval has taken its place",
        RevokeCause::Policy => "forbidden by the policy",
        RevokeCause::Source => "what it was given by is gone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::codec::raw::Raw;
    use serde_json::json;

    fn event(cause: &str, running: &str) -> BusEvent {
        let payload = json!({
            "grant": {
                "id": "gr_1", "principal": "skill:x", "uid": 0, "effect": "allow", "permissions": [],
                "scope": "always", "by": "owner", "atMs": 1,
            },
            "cause": cause,
            "by": { "kind": "owner", "uid": 0 },
            "running": running,
        });
        BusEvent {
            topic: PermissionRevoked::TOPIC.into(),
            payload: Raw::of(&payload).unwrap(),
            ..BusEvent::default()
        }
    }

    #[test]
    fn what_is_taken_back_ends_the_program_unless_it_may_go_on() {
        let of = |cause, running| verdict(&event(cause, running), "gr_1").unwrap();
        let end = (RunningOption::End, "taken back by the owner".to_owned());
        assert_eq!(of("revoked", "end"), end);
        assert_eq!(of("replaced", "keep").0, RunningOption::Keep);
        assert!(verdict(&event("revoked", "end"), "gr_2").is_none());
    }
}
