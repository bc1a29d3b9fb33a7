//! Events of clients: what they may be, and whose they are.
//!
//! A client says what happened; who says so, for whom and when is the kernel's to say. Invariant: no client publishes an
//! event that the kernel could have published.

use crate::calls::Turn;
use crate::events::bus::{Answer, Fresh};
use crate::events::journal::unkept;
use crate::events::record::Audience;
use crate::intents::requests;
use crate::kernel::Kernel;
use crate::permissions::Grant;
use crate::state::Trace;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::decode::entries;
use kairo_wire::codec::encode::{put_map16, put_str};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::EventFrame;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::EventId;
use kairo_wire::limits::{EVENT_DATA_BYTES_MAX, META_BYTES_MAX, TOPIC_BYTES_MAX};
use kairo_wire::method::Method;
use kairo_wire::methods::event::{Draft, Publish, Reach};
use kairo_wire::permission::Permission;
use std::sync::Arc;

/// Types of the kernel begin so.
const RESERVED: [&str; 14] = [
    "kairo.process.",
    "kairo.stream.",
    "kairo.kernel.",
    "kairo.security.",
    "kairo.intent.",
    "kairo.device.",
    "kairo.system.",
    "kairo.view.",
    "kairo.event.",
    "kairo.permission.",
    "kairo.agent.",
    "kairo.session.",
    "kairo.audit.",
    "kairo.quota.",
];
/// … or are one of these.
const NOTICES: [&str; 10] = [
    "intent.cancel",
    "process.exit",
    "stream.overflow",
    "stream.gap",
    "stream.end",
    "event.gap",
    "event.cut",
    "view.changed",
    "view.reset",
    "kairo.intent.cancelled",
];
/// Requests to the kernel that are events.
const REQUESTS: [&str; 2] = [requests::CANCEL, requests::CANCEL_STORY];
/// What a client wanted that sent an EVENT frame.
const PUBLISH: &str = Publish::NAME;

/// An event that has its place.
#[derive(Debug)]
pub(crate) struct Published {
    /// Its name.
    pub id: EventId,
    /// Its place; 0 if the log takes nothing any more.
    pub seq: u64,
    /// The story it belongs to.
    pub correlation: String,
}

impl Kernel {
    /// Whether events of clients are taken at all.
    pub(crate) fn takes_events(&self) -> Result<(), WireError> {
        if let Some(reason) = &self.journal.broken {
            return Err(unkept(reason));
        }
        if self.journal.unwritten_bytes() > self.config.limits.unwritten_bytes_max {
            return Err(WireError::new(Code::Busy, "more events wait to be written than memory should hold"));
        }
        Ok(())
    }

    /// Whether a client may publish this. Returns the grant that lets it, which is spent before it is published.
    pub(crate) fn check_draft(
        &self,
        at: Moment,
        connection: ConnectionKey,
        draft: &Draft,
    ) -> Result<Option<Arc<Grant>>, Box<WireError>> {
        let grant = self.may_be(at, connection, PUBLISH, Permission::EventPublish, &draft.topic)?;
        if let Some(id) = &draft.intent_id {
            self.may_be_under(connection, PUBLISH, "intentId", id)?;
        }
        self.requested(connection, &draft.topic, draft.data.as_ref().map(Raw::as_ref))?;
        check_topic("type", &draft.topic)?;
        let texts = [
            ("source", &draft.source),
            ("correlationId", &draft.correlation_id),
            ("causationId", &draft.causation_id),
            ("intentId", &draft.intent_id),
            ("toolCallId", &draft.tool_call_id),
            ("error.code", &draft.error.as_ref().and_then(|error| error.code.clone())),
        ];
        let mut bytes = draft.error.as_ref().map_or(0, |error| error.message.len());
        for (field, text) in texts {
            let Some(text) = text else { continue };
            bytes += text.len();
            if text.is_empty() {
                return Err(Box::new(WireError::invalid(field, "it is not empty")));
            }
            if text.chars().any(char::is_control) {
                return Err(Box::new(WireError::invalid(field, "it has no control characters")));
            }
        }
        if bytes > META_BYTES_MAX {
            let message = format!("an event has at most {META_BYTES_MAX} bytes of text around its data");
            return Err(Box::new(WireError::too_large("metaBytesMax", message)));
        }
        let length = draft.data.as_ref().map_or(0, |data| data.bytes().len());
        if length > EVENT_DATA_BYTES_MAX {
            let message = format!("data: an event carries at most {EVENT_DATA_BYTES_MAX} bytes");
            return Err(Box::new(WireError::too_large("eventDataBytesMax", message).with("field", "data")));
        }
        self.check_answer(connection, draft)?;
        Ok(grant)
    }

    /// Publishes what was checked, under the caller's name; once, if there is a key.
    pub(crate) fn publish_draft(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        story: &Trace,
        draft: Draft,
        key: Option<&str>,
    ) -> Published {
        let mut trace = story.clone();
        let said = |place: &mut Option<String>, text: Option<String>| {
            if text.is_some() {
                *place = text;
            }
        };
        said(&mut trace.correlation, draft.correlation_id);
        said(&mut trace.causation, draft.causation_id);
        said(&mut trace.intent, draft.intent_id);
        said(&mut trace.tool_call, draft.tool_call_id);
        let principal = self.principal(connection);
        let own = principal.to_string();
        let source = draft.source.map_or_else(|| own.clone(), |part| format!("{own}/{part}"));
        let audience = self.audience_of(connection, draft.reach);
        let id = self.name_event();
        let data = draft.data.unwrap_or(Raw::NIL);
        let fresh = Fresh {
            id: id.clone(),
            topic: draft.topic.into(),
            source: &source,
            audience,
            trace: &trace,
            key,
            data: data.as_ref(),
            answer: draft.answers.as_deref().map(|to| Answer { to, error: draft.error.as_ref() }),
        };
        let seq = self.admit(turn, &fresh, None);
        if let Ok(Some(wanted)) = self.requested(connection, &fresh.topic, Some(data.as_ref())) {
            self.give_cancel(turn, connection, &trace, wanted, Some(id.as_str()));
        }
        let correlation = trace.correlation.unwrap_or_else(|| id.as_str().to_owned());
        Published { id, seq, correlation }
    }

    /// Who may hear what a client publishes.
    pub(crate) fn audience_of(&self, connection: ConnectionKey, reach: Reach) -> Audience {
        let principal = self.principal(connection);
        match reach {
            Reach::User => Audience::User(principal.uid(self.config.owner_uid)),
            Reach::Private => Audience::Of(principal.creator(self.config.owner_uid)),
        }
    }

    /// A client sent an EVENT frame: it is published in its name, and nobody answers.
    pub(crate) fn overheard(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, payload: &[u8]) {
        let outcome = self.takes_events().and_then(|()| {
            let draft = draft_of(payload)?;
            let grant = self.check_draft(turn.at, connection, &draft).map_err(|error| *error)?;
            self.within_rate(turn, connection, 1)?;
            self.spend(turn, grant);
            Ok(draft)
        });
        match outcome {
            Ok(draft) => {
                let trace = self.trace_of(connection, None);
                self.publish_draft(turn, connection, &trace, draft, None);
            }
            Err(error) => {
                tracing::debug!(component = "controlplane", connectionId = ?connection, %error, "an event was not taken");
                if error.code == Code::PermissionDenied {
                    let trace = self.trace_of(connection, None);
                    self.tell_denied(turn, connection, &trace, PUBLISH, &error);
                }
            }
        }
    }
}

/// Whether a client may publish events of this type, which stands in `field`.
pub(crate) fn check_topic(field: &str, topic: &str) -> Result<(), Box<WireError>> {
    let wrong = |what: &str| Err(Box::new(WireError::invalid(field, what)));
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX {
        return wrong(&format!("a type has 1 to {TOPIC_BYTES_MAX} bytes"));
    }
    if topic.chars().any(char::is_control) {
        return wrong("a type has no control characters");
    }
    let reserved = RESERVED.iter().any(|prefix| topic.starts_with(prefix)) || NOTICES.contains(&topic);
    if reserved && !REQUESTS.contains(&topic) {
        let why = format!("only the kernel publishes {topic}");
        return Err(Box::new(WireError::denied("event.publish", &why).with("field", field)));
    }
    Ok(())
}

/// What an EVENT frame says: `{topic, payload | data, …}`, or a topic and whatever else stands beside it.
fn draft_of(payload: &[u8]) -> Result<Draft, WireError> {
    let frame = EventFrame::parse(payload).map_err(WireError::from)?;
    let owned = |text: Option<std::borrow::Cow<'_, str>>| text.map(std::borrow::Cow::into_owned);
    let data = match frame.body() {
        Some(data) => Some(data.to_owned()),
        None => beside_topic(payload),
    };
    let error = frame.error.map(|error| error.decode()).transpose().map_err(WireError::from)?;
    Ok(Draft {
        topic: frame.topic.into_owned(),
        data,
        correlation_id: owned(frame.correlation_id),
        causation_id: owned(frame.causation_id),
        intent_id: owned(frame.intent_id),
        tool_call_id: owned(frame.tool_call_id),
        answers: owned(frame.answers),
        error,
        ..Draft::default()
    })
}

/// A map of everything in `payload` but the topic, as window managers of v1 send it.
fn beside_topic(payload: &[u8]) -> Option<Raw> {
    let rest: Vec<_> = entries(payload).filter(|(key, _)| *key != b"topic").collect();
    let mut buf = bytes::BytesMut::new();
    put_map16(&mut buf, u16::try_from(rest.len()).ok()?);
    for (key, value) in rest {
        put_str(&mut buf, &String::from_utf8_lossy(key));
        buf.extend_from_slice(value);
    }
    RawRef::new(&buf).ok().map(RawRef::to_owned)
}
