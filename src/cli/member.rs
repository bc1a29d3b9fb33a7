//! `kairo run --intent`: a program under a kernel of its own, as part of an intent of the daemon.
//!
//! The daemon doesn't know the program, so this command stands for it: it registers for the intent's cancel, ends the program
//! in the time it is given then, and tells the log of begin and end. The registration ends with this command, and so the
//! daemon needn't wait longer than the program lives.

use crate::cli::args::process::Run;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use kairo_client::{CallError, CallOptions, Cancels, Client, EventItem};
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::EventId;
use kairo_wire::methods::event::{self, Draft};
use kairo_wire::methods::intent::{IntentStatusParams, Register, RegisterParams, Status};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// How long the program is asked to be given at a cancel; what is left of it after most of that is killed.
const GRACE_MS: u64 = 5_000;
/// How long the log may take to hear of the end: the program's exit code isn't kept waiting for a daemon that is gone.
const LAST_WORD: Duration = Duration::from_secs(2);

/// This command, as part of an intent.
#[derive(Debug)]
pub(crate) struct Member {
    daemon: Client,
    intent: String,
    /// The story the program belongs to.
    pub(crate) correlation: String,
    begun: EventId,
    since: Instant,
    cancels: Option<Cancels>,
}

impl Member {
    /// Takes part if that was asked for, before there is a program.
    pub(crate) fn of(context: &Context, args: &Run, command: &[OsString]) -> Result<Option<Member>, Failure> {
        let Some(intent) = &args.intent else { return Ok(None) };
        Member::join(context, intent, args.correlation.as_deref(), command).map(Some)
    }

    fn join(
        context: &Context,
        intent: &str,
        correlation: Option<&str>,
        command: &[OsString],
    ) -> Result<Member, Failure> {
        let daemon = context.lasting_silently(false)?;
        let cancels = daemon.cancels();
        register(&daemon, intent)?;
        let correlation = match correlation {
            Some(correlation) => correlation.to_owned(),
            None => {
                daemon.call::<Status>(&IntentStatusParams { intent_id: intent.to_owned() })?.correlation_id
            }
        };
        let argv: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let started = Draft {
            correlation_id: Some(correlation.clone()),
            intent_id: Some(intent.to_owned()),
            ..draft("kairo.run.started", &json!({ "argv": argv, "pid": std::process::id() }))?
        };
        let begun = daemon.call::<event::Publish>(&started)?.id;
        Ok(Member {
            daemon,
            intent: intent.to_owned(),
            correlation,
            begun,
            since: Instant::now(),
            cancels: Some(cancels),
        })
    }

    /// Ends the program when the intent is cancelled: `end` does, within so many milliseconds, and says whether it could.
    pub(crate) fn stand_for(&mut self, end: impl Fn(u64) -> bool + Send + 'static) -> Result<(), Failure> {
        let Some(cancels) = self.cancels.take() else { return Ok(()) };
        let (daemon, intent) = (self.daemon.clone(), self.intent.clone());
        let work = move || {
            for item in cancels {
                let grace_ms = match item {
                    Ok(EventItem::Event(cancel)) => cancel.grace_ms,
                    Ok(EventItem::Resumed { .. }) => match register(&daemon, &intent) {
                        // It was cancelled, or ended, while nobody was there.
                        Err(CallError::Kernel(_)) => 0,
                        Ok(()) | Err(_) => continue,
                    },
                    Ok(EventItem::Gap(_) | EventItem::Cut { .. }) => continue,
                    Err(_) => return,
                };
                if !end(grace_ms - grace_ms / 5) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("intent".to_owned()).spawn(work)?;
        Ok(())
    }

    /// Tells of the program's end: its code or its signal.
    pub(crate) fn over(self, mut said: Value) -> Result<(), Failure> {
        said["durationMs"] = (self.since.elapsed().as_millis() as u64).into();
        let exited = Draft {
            correlation_id: Some(self.correlation.clone()),
            causation_id: Some(self.begun.as_str().to_owned()),
            intent_id: Some(self.intent.clone()),
            ..draft("kairo.run.exited", &said)?
        };
        let options = CallOptions { deadline: Some(LAST_WORD), ..CallOptions::default() };
        let told = self.daemon.call_with::<event::Publish>(&exited, &options);
        if matches!(told, Err(CallError::Kernel(_))) {
            // An intent that is being cancelled takes nothing new; the story does.
            let exited = Draft { intent_id: None, ..exited };
            let _ = self.daemon.call_with::<event::Publish>(&exited, &options);
        }
        Ok(())
    }
}

fn register(daemon: &Client, intent: &str) -> Result<(), CallError> {
    let params = RegisterParams { intent_id: intent.to_owned(), grace_ms: GRACE_MS };
    daemon.call::<Register>(&params).map(drop)
}

fn draft(topic: &str, data: &Value) -> Result<Draft, Failure> {
    let data = Raw::of(data).map_err(|error| Failure::new("E_SHAPE", error.to_string()))?;
    Ok(Draft { topic: topic.to_owned(), data: Some(data), ..Draft::default() })
}
