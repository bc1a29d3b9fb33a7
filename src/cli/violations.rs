//! What a contained process is denied, said on stderr beside its own complaints.
//!
//! A thread of its own follows `kairo.security.violation`, so that nothing waits for it: one line each, an object with
//! `--json`.

use crate::cli::context::{Context, json_of};
use crate::cli::failure::Failure;
use crate::cli::notice::{Voice, put};
use crate::cli::table::visible;
use kairo_client::{Client, EventItem, Events};
use kairo_wire::event::{Event, SecurityViolation};
use kairo_wire::id::ProcessId;
use serde_json::json;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A refusal is heard of a moment after the exit it led to: how long for the next one, and for all.
const NEXT: Duration = Duration::from_millis(50);
const ALL: Duration = Duration::from_millis(150);

/// Says what some processes are denied, from when it was begun.
#[derive(Debug)]
pub(crate) struct Violations(Receiver<()>);

impl Violations {
    pub(crate) fn begin(
        context: &Context,
        client: &Client,
        ids: &[ProcessId],
    ) -> Result<Violations, Failure> {
        let events = client.events(SecurityViolation::TOPIC)?;
        let (said, heard) = channel();
        let (voice, ids) = (context.voice(), ids.to_vec());
        let work = move || follow(events, voice, &ids, &said);
        std::thread::Builder::new().name("violations".to_owned()).spawn(work)?;
        Ok(Violations(heard))
    }

    /// Waits for what may be on its way still, after an end that may be due to it.
    pub(crate) fn drain(&self) {
        let until = Instant::now() + ALL;
        while Instant::now() < until && self.0.recv_timeout(NEXT).is_ok() {}
    }
}

/// Until the kernel ends.
fn follow(events: Events, voice: Voice, ids: &[ProcessId], said: &Sender<()>) {
    for event in events {
        let Ok(EventItem::Event(event)) = event else { continue };
        let Ok(violation) = event.payload.as_ref().decode::<SecurityViolation>() else { continue };
        if !ids.contains(&violation.id) {
            continue;
        }
        let object = json_of(&violation).map(|violation| json!({ "violation": violation }));
        put(voice, &words(&violation), object.unwrap_or_default());
        // Nobody may wait for it.
        let _ = said.send(());
    }
}

fn words(violation: &SecurityViolation) -> String {
    let SecurityViolation { mechanism, rule, subject, hint, count, .. } = violation;
    let times = if *count > 1 { format!(" ({count} times)") } else { String::new() };
    let subject = visible(subject);
    format!("denied by {}: {subject}, {rule}{times}; hint: {}", mechanism.word(), visible(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::event::ViolationMechanism;

    #[test]
    fn a_line_says_what_was_denied_by_what_and_what_would_help() {
        let mut violation: SecurityViolation = serde_json::from_value(json!({
            "id": "x", "session": "s", "principal": {"kind": "skill", "uid": 1}, "mechanism": "landlock",
            "rule": "fs.read_file", "subject": "/a\u{1b}b", "hint": "files.read: [\"/a\"]", "count": 1,
        }))
        .unwrap();
        assert!(!words(&violation).contains('\u{1b}'));
        (violation.subject, violation.count) = ("/a".to_owned(), 3);
        let said = "denied by landlock: /a, fs.read_file (3 times); hint: files.read: [\"/a\"]";
        assert_eq!((violation.mechanism, words(&violation).as_str()), (ViolationMechanism::Landlock, said));
    }
}
