//! Requests: an event that wants exactly one answer, and the call that waits for it.
//!
//! ```text
//!   event.request ─▶ request event ─▶ whoever hears it ─▶ event with `answers` ─▶ (written) ─▶ result or E_REQUEST_FAILED
//!                                                          of the type `replyType`, of the same story, from elsewhere
//! ```
//!
//! Each request begins a story of its own, so its id is its correlation as well. Invariants: a request has at most one
//! answer, the first in the order of the log; whoever can't hear a request can't answer it; an event that says it answers
//! something is refused unless it does.

use crate::auth::grant::hears;
use crate::calls::Turn;
use crate::clock::after_ms;
use crate::events::bus::Fresh;
use crate::events::journal::Awaiting;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::{Pending, Timer};
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::EventId;
use kairo_wire::methods::event::{AnswerError, Draft, RequestResult};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A request that is open.
#[derive(Debug)]
pub(crate) struct Request {
    /// The event that asks.
    pub id: EventId,
    /// Its type.
    pub topic: Arc<str>,
    /// The call that waits.
    pub call: u64,
    /// Whose that is.
    pub connection: ConnectionKey,
    /// Who may hear it.
    pub audience: Audience,
    /// An event of this type is an answer, too.
    pub reply: Option<Arc<str>>,
    /// It has an answer that is on its way to the log.
    pub answered: bool,
}

/// All that are open, by the id of their event.
pub(crate) type Requests = BTreeMap<Arc<str>, Request>;

/// The last words for a call that asked.
#[derive(Debug)]
pub(crate) enum Reply {
    /// It is answered.
    Result(Raw),
    /// With an error.
    Failure(Box<WireError>),
}

impl Kernel {
    /// Opens a request that was published, for a call that is parked.
    pub(crate) fn open_request(&mut self, turn: &mut Turn<'_>, request: Request, timeout_ms: u64) {
        let (call, home, event) = (request.call, request.connection.reactor, request.id.shared());
        let timer = self.arm(turn, home, after_ms(turn.at, timeout_ms));
        self.state.timers.insert(timer.serial, Timer::Patience { call });
        self.state.requests.insert(Arc::clone(&event), request);
        if let Some(call) = self.state.calls.get_mut(&call) {
            call.pending = Pending::Request { event, timer: Some(timer) };
        }
    }

    /// Whether a draft that says it answers something may.
    pub(crate) fn check_answer(
        &self,
        connection: ConnectionKey,
        draft: &Draft,
    ) -> Result<(), Box<WireError>> {
        let Some(answers) = &draft.answers else {
            return match draft.error {
                Some(_) => {
                    Err(Box::new(WireError::invalid("error", "only an answer is one: answers is missing")))
                }
                None => Ok(()),
            };
        };
        let principal = self.principal(connection);
        let request = self.state.requests.get(&**answers);
        if request.is_some_and(|request| !request.answered && hears(principal, &request.audience)) {
            return Ok(());
        }
        let message =
            format!("answers: there is no open request {answers:?}: it is answered, over, or never was");
        Err(Box::new(WireError::new(Code::Conflict, message).with("field", "answers")))
    }

    /// An event has its place: it may be what somebody waits for.
    pub(crate) fn consider_answer(&mut self, turn: &mut Turn<'_>, fresh: &Fresh<'_>, seq: u64) {
        let answers = fresh.answer.map(|answer| answer.to);
        let named = answers.or(fresh.trace.correlation.as_deref());
        let Some(name) = named.filter(|name| self.state.requests.contains_key(*name)) else { return };
        let name: Arc<str> = name.into();
        let Some(request) = self.state.requests.get(&name) else { return };
        let is_reply = || {
            request.reply.as_deref() == Some(&*fresh.topic)
                && turn.here != Some(request.connection)
                && hears(self.principal(request.connection), &fresh.audience)
        };
        if request.answered || !(answers.is_some() || is_reply()) {
            return;
        }
        let call = request.call;
        let reply = reply_of(&request.id, fresh, seq);
        if let Some(request) = self.state.requests.get_mut(&name) {
            request.answered = true;
        }
        // What has come in time counts, however long the log takes.
        let timer = self.state.calls.get_mut(&call).and_then(|call| match &mut call.pending {
            Pending::Request { timer, .. } => timer.take(),
            _ => None,
        });
        if let Some(timer) = timer {
            self.disarm(turn, timer);
        }
        self.journal.when_written(Awaiting::Reply(call, reply));
    }

    /// The answer to a request is in the log.
    pub(crate) fn replied(&mut self, turn: &mut Turn<'_>, call: u64, reply: Reply) {
        match reply {
            Reply::Result(result) => self.resolve(turn, call, &result),
            Reply::Failure(error) => self.reject(turn, call, &error),
        }
    }

    /// A call waits for no answer any more. Returns the timer it had.
    pub(crate) fn close_request(&mut self, event: &str, timer: Option<TimerKey>) -> Option<TimerKey> {
        self.state.requests.remove(event);
        timer
    }
}

fn reply_of(request: &EventId, fresh: &Fresh<'_>, seq: u64) -> Reply {
    let answer = fresh.id.clone();
    if let Some(AnswerError { code, message }) = fresh.answer.and_then(|answer| answer.error) {
        let mut failure = WireError::new(Code::RequestFailed, message.clone())
            .with("message", message.as_str())
            .with("requestId", request.as_str())
            .with("answerId", answer.as_str());
        if let Some(code) = code {
            failure = failure.with("code", code.as_str());
        }
        return Reply::Failure(Box::new(failure));
    }
    let result = RequestResult { id: request.clone(), answer_id: answer, seq, data: fresh.data.to_owned() };
    match Raw::of(&result) {
        Ok(result) => Reply::Result(result),
        Err(error) => Reply::Failure(Box::new(error.into())),
    }
}
