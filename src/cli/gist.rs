//! Events for people: what one says in a few words, and in which colour.

use crate::cli::context::value_of;
use crate::cli::table::{duration, visible};
use kairo_client::BusEvent;
use serde_json::{Map, Value, json};

/// Values within values are shown up to this length.
const NESTED_CHARS_MAX: usize = 48;

/// What an event says, on a line: `id=build code=0`.
pub(crate) fn gist(payload: &Value) -> String {
    let words = match payload {
        Value::Null => String::new(),
        Value::Object(fields) => {
            let words: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}={}", word(value))).collect();
            words.join(" ")
        }
        other => word(other),
    };
    visible(&words)
}

/// The same without what is not for people or is told otherwise: values within values, names of lives, times.
pub(crate) fn brief(payload: &Value) -> String {
    let Value::Object(fields) = payload else { return gist(payload) };
    let told = |name: &str, value: &Value| {
        let nested = matches!(value, Value::Object(_))
            || value.as_array().is_some_and(|items| items.iter().any(|item| !item.is_string()));
        !nested && name != "session" && !name.ends_with("AtMs")
    };
    let kept = fields.iter().filter(|(name, value)| told(name, value));
    gist(&Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect()))
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => text.clone(),
        Value::Object(_) | Value::Array(_) => {
            let text = value.to_string();
            match (value, text.chars().count() > NESTED_CHARS_MAX) {
                (_, false) => text,
                (Value::Array(items), true) => format!("[…{}]", items.len()),
                (_, true) => "{…}".to_owned(),
            }
        }
        other => other.to_string(),
    }
}

/// The whole envelope.
pub(crate) fn envelope(event: &BusEvent) -> Result<Value, crate::cli::failure::Failure> {
    let payload = value_of(&event.payload)?;
    let mut object = json!({
        "topic": event.topic, "payload": payload, "source": event.source, "time": event.time, "id": event.id,
        "correlationId": event.correlation_id, "causationId": event.causation_id, "traceId": event.trace_id,
    });
    if let Value::Object(fields) = &mut object {
        put(fields, "seq", event.seq);
        let texts = [
            ("principal", &event.principal),
            ("intentId", &event.intent_id),
            ("spanId", &event.span_id),
            ("idempotencyKey", &event.idempotency_key),
            ("toolCallId", &event.tool_call_id),
        ];
        for (name, text) in texts {
            put(fields, name, text.as_deref());
        }
        put(fields, "replayed", event.replayed.then_some(true));
        put(fields, "delivery", event.delivery);
    }
    Ok(object)
}

fn put<T: Into<Value>>(fields: &mut Map<String, Value>, name: &str, value: Option<T>) {
    if let Some(value) = value {
        fields.insert(name.to_owned(), value.into());
    }
}

/// How an event looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Something began.
    Begun,
    /// Something ended as it should.
    Good,
    /// Something was refused, failed or lost.
    Bad,
    /// Anything else.
    Plain,
}

impl Tone {
    /// Of an event, by its type and what it says.
    pub(crate) fn of(topic: &str, payload: &Value) -> Tone {
        let last = topic.rsplit('.').next().unwrap_or_default();
        let failed = payload["signal"].is_number()
            || payload["code"].as_i64().is_some_and(|code| code != 0)
            || payload["error"].is_string()
            || payload["error"].is_object();
        match last {
            "denied" | "lost" | "cancelled" | "exceeded" => Tone::Bad,
            _ if last.ends_with("failed") || last.ends_with("damaged") || failed => Tone::Bad,
            "spawned" | "started" | "restarted" | "ready" | "resumed" => Tone::Begun,
            "exited" | "ended" | "finished" | "done" => Tone::Good,
            _ => Tone::Plain,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Tone::Begun => "1;36",
            Tone::Good => "1;32",
            Tone::Bad => "1;31",
            Tone::Plain => "1",
        }
    }
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    pub(crate) fn tone(self, text: &str, tone: Tone) -> String {
        self.with(text, tone.code())
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with(text, "2")
    }

    fn with(self, text: &str, code: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A span between two events: `12ms`, `3.2s`, `5m10s`.
pub(crate) fn span(milliseconds: u64) -> String {
    if milliseconds < 1_000 { format!("{milliseconds}ms") } else { duration(milliseconds) }
}

/// Cuts a text to so many columns.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_short_and_moves_no_cursor() {
        let payload = json!({"id": "x", "code": 0, "text": "a b", "argv": ["sh", "-c"], "usage": {"a": "y".repeat(99)}});
        let gist = gist(&payload);
        for part in ["id=x", "code=0", "text=\"a b\"", "argv=[\"sh\",\"-c\"]", "usage={…}"] {
            assert!(gist.contains(part), "{gist}");
        }
        let story = json!({"id": "x", "session": "s", "startedAtMs": 1, "owner": {}, "argv": ["sh"], "streams": [{}]});
        assert_eq!(brief(&story), "id=x argv=[\"sh\"]");
        assert_eq!(super::gist(&Value::Null), "");
        assert!(!super::gist(&json!("\x1b[2J")).contains('\x1b'));
    }

    #[test]
    fn a_failure_is_seen_whatever_its_type() {
        assert_eq!(Tone::of("kairo.process.exited", &json!({"code": 0})), Tone::Good);
        assert_eq!(Tone::of("kairo.process.exited", &json!({"code": 3})), Tone::Bad);
        assert_eq!(Tone::of("kairo.process.exited", &json!({"signal": 9})), Tone::Bad);
        assert_eq!(Tone::of("kairo.security.denied", &json!({})), Tone::Bad);
        assert_eq!(Tone::of("kairo.stream.spool_failed", &json!({})), Tone::Bad);
        assert_eq!(Tone::of("a", &json!(null)), Tone::Plain);
        assert_eq!(Paint(false).tone("x", Tone::Bad), "x");
        assert!(Paint(true).tone("x", Tone::Bad).contains("31m"));
    }

    #[test]
    fn spans_and_cuts() {
        assert_eq!((span(7), span(1_500)), ("7ms".to_owned(), "1.5s".to_owned()));
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".to_owned(), "ab…".to_owned()));
    }
}
