//! Causality without effort: what a call says of the story it belongs to, what the kernel knows without being told, and
//! what follows from it.
//!
//! ```text
//!   meta ─▶ trace of the call ─▶ kairo.kernel.called ─▶ what it starts ─▶ what that does, and what that calls
//!             ▲ where meta is silent: the process that calls, because the kernel knows whose child it is
//! ```
//!
//! Invariant: a cause is given its name before anything that follows from it.

use crate::calls::{Asking, Turn};
use crate::digest::trace_of;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::{Process, Trace};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::decode::{entries, str_body};
use kairo_wire::codec::raw::RawRef;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{KernelCallFailed, KernelCalled, SecurityDenied};
use kairo_wire::id::{EventId, ProcessId};
use kairo_wire::method::Method;
use kairo_wire::methods::{pipeline, process};
use kairo_wire::request::Meta;
use std::borrow::Cow;

impl Trace {
    /// Begins a process: a story of its own if it is part of none, and a span of its own. `birth` names its first event.
    pub(crate) fn begin(&mut self, birth: &EventId) {
        let correlation = self.correlation.get_or_insert_with(|| birth.as_str().to_owned());
        self.trace.get_or_insert_with(|| trace_of(correlation));
        self.span = Some(birth.as_str().chars().filter(|c| *c != '-').take(16).collect());
    }
}

impl Process {
    /// Of what happens to it: it follows from its birth, once that has been told.
    pub(crate) fn story(&self) -> Trace {
        if self.pid == 0 {
            return self.trace.clone();
        }
        Trace { causation: Some(self.birth.as_str().to_owned()), ..self.trace.clone() }
    }
}

/// Trace and parent span of a `traceparent` (W3C Trace Context: version-trace-parent-flags); nothing if it is none.
fn of_traceparent(text: &str) -> Option<(String, String)> {
    let mut parts = text.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let blank = |part: &str| part.bytes().all(|byte| byte == b'0');
    let is_one = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(parent, 16);
    (is_one && !blank(trace) && !blank(parent)).then(|| (trace.to_owned(), parent.to_owned()))
}

impl Kernel {
    /// The place of a call in a larger story.
    pub(crate) fn trace_of(&self, connection: ConnectionKey, meta: Option<&Meta<'_>>) -> Trace {
        let principal = self.principal(connection);
        let life = self.state.connections.get(connection).and_then(|peer| peer.life.as_deref());
        let process = life.and_then(|life| self.of_life(life));
        let mut trace = process.map(Process::story).unwrap_or_default();
        trace.principal = Some(principal.to_string().into());
        trace.tool_call = None;
        let inherited = trace.intent.clone();
        let Some(meta) = meta else { return trace };
        let said =
            |text: &Option<Cow<'_, str>>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
        let mut is = |place: fn(&mut Trace) -> &mut Option<String>, text: Option<String>| {
            if text.is_some() {
                *place(&mut trace) = text;
            }
        };
        is(|trace| &mut trace.correlation, said(&meta.correlation_id));
        is(|trace| &mut trace.causation, said(&meta.causation_id));
        let named = said(&meta.intent_id).filter(|id| inherited.as_ref() != Some(id));
        is(|trace| &mut trace.intent, said(&meta.intent_id));
        if let Some(intent) = named.and_then(|id| self.state.intents.named(&id)) {
            // What belongs to an intent belongs to its story, if nothing else was said.
            let of = |text: &Option<Cow<'_, str>>, own: &Option<String>, otherwise: &Option<String>| {
                said(text).or_else(|| otherwise.clone()).or_else(|| own.clone())
            };
            trace.correlation = of(&meta.correlation_id, &trace.correlation, &intent.trace.correlation);
            trace.causation = of(&meta.causation_id, &trace.causation, &intent.trace.causation);
            (trace.trace, trace.span) = (intent.trace.trace.clone(), intent.trace.span.clone());
        }
        if let Some((id, span)) = meta.traceparent.as_deref().and_then(of_traceparent) {
            (trace.trace, trace.span) = (Some(id), Some(span));
        }
        trace
    }

    /// Tells that a call is made; what it does follows from that.
    pub(crate) fn tell_call(&mut self, turn: &mut Turn<'_>, asking: &mut Asking<'_>) {
        let creator = self.principal(asking.connection).creator(self.config.owner_uid);
        let grant = asking.grant.as_ref().map(|grant| grant.id.as_ref().to_owned());
        let event = KernelCalled { method: asking.method.to_owned(), target: target(asking.params), grant };
        let id = self.publish(turn, Audience::Of(creator), &asking.trace, &event);
        asking.trace.correlation.get_or_insert_with(|| id.as_str().to_owned());
        asking.trace.causation = Some(id.as_str().to_owned());
        asking.trace.call_seq = Some(self.journal.last_seq);
    }

    /// Tells once more what a former kernel was asked, if it was killed before that was kept: what the call has started lives
    /// on, and has to follow from something.
    pub(crate) fn tell_lost_call(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let trace = &process.trace;
        let lost = trace.call_seq.is_some_and(|seq| seq > self.journal.inherited_seq);
        let Some(id) = trace.causation.as_deref().map(EventId::from_text).filter(|_| lost) else {
            return;
        };
        let (creator, trace) = (process.creator.clone(), Trace { causation: None, ..trace.clone() });
        let whole = process.wired.stage.and_then(|of| self.state.pipelines.get(of.pipeline));
        let (method, target) = match whole {
            Some(pipeline) => (pipeline::Spawn::ROW.name, &pipeline.id),
            None => (process::Spawn::ROW.name, &process.id),
        };
        let (method, target) = (method.to_owned(), Some(target.to_string()));
        let event = KernelCalled { method, target, grant: None };
        self.publish_as(turn, id, Audience::Of(creator), &trace, &event);
    }

    /// Tells that a call that was made came to nothing.
    pub(crate) fn tell_failure(
        &mut self,
        turn: &mut Turn<'_>,
        audience: Audience,
        trace: &Trace,
        method: &str,
        error: &WireError,
    ) {
        let code = error.code.name().to_owned();
        let event =
            KernelCallFailed { method: method.to_owned(), code, message: error.message.clone().into_owned() };
        self.publish(turn, audience, trace, &event);
    }

    /// Tells that a call was refused.
    pub(crate) fn tell_refusal(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        error: &WireError,
        told: bool,
    ) {
        if error.code != Code::PermissionDenied {
            if told {
                let creator = self.principal(asking.connection).creator(self.config.owner_uid);
                self.tell_failure(turn, Audience::Of(creator), &asking.trace, asking.method, error);
            }
            return;
        }
        let trace = match told {
            true => asking.trace.clone(),
            false => self.trace_of(asking.connection, asking.meta.as_ref()),
        };
        self.tell_denied(turn, asking.connection, &trace, asking.method, error);
    }

    /// Tells that somebody wanted what it may not.
    pub(crate) fn tell_denied(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        trace: &Trace,
        method: &str,
        error: &WireError,
    ) {
        let principal = self.principal_told(connection);
        let uid = principal.uid;
        let fact = |name: &str| {
            error.details.as_ref().and_then(|details| details.get(name)?.as_str().map(str::to_owned))
        };
        let target = fact("id");
        let (permission, resource, grant) = (fact("permission"), fact("resource"), fact("grant"));
        tracing::warn!(
            component = "controlplane", connectionId = ?connection, method,
            target = target.as_deref().unwrap_or(""), reason = %error.message, "a call was refused"
        );
        let (method, reason) = (method.to_owned(), error.message.clone().into_owned());
        let event = SecurityDenied { principal, method, target, reason, permission, resource, grant };
        self.publish(turn, Audience::Administration(uid), trace, &event);
    }
}

/// What a call is about: its `id` or `pid`, or the subscription or intent it names.
fn target(params: RawRef<'_>) -> Option<String> {
    named(params, &[b"id", b"pid", b"subscriptionId", b"intentId"])
}

/// The first of these parameters that is there, as far as it is a name.
pub(crate) fn named(params: RawRef<'_>, names: &[&[u8]]) -> Option<String> {
    if !params.is_map() {
        return None;
    }
    const LONGEST: usize = 255;
    let value = names.iter().find_map(|name| entries(params.bytes()).find(|(key, _)| key == name))?.1;
    match str_body(value) {
        Some(text) => Some(String::from_utf8_lossy(text).chars().take(LONGEST).collect()),
        None => RawRef::new(value).ok()?.decode::<ProcessId>().ok().map(|id| id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_only_if_it_is_one() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let taken = Some((trace.to_owned(), span.to_owned()));
        assert_eq!(of_traceparent(&format!("00-{trace}-{span}-01")), taken);
        assert_eq!(of_traceparent(&format!("01-{trace}-{span}-00-more")), taken, "a later version has more");
        for wrong in [
            String::new(),
            "00".to_owned(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{}-01", &span[1..]),
        ] {
            assert_eq!(of_traceparent(&wrong), None, "{wrong:?}");
        }
    }
}
