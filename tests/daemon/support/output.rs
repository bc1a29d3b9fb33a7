//! Starting children and collecting what they say, over a raw connection.

use super::raw::{EVENT, Frame, Raw, STREAM_CHUNK, field, until};
use rmpv::Value;
use serde_json::{Value as Json, json};

/// What a subscription delivered.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// `data` of each chunk, in order.
    pub(crate) chunks: Vec<Vec<u8>>,
    /// Stream, from, to.
    pub(crate) gaps: Vec<(String, u64, u64)>,
    /// `data` of each `stream.end`.
    pub(crate) ends: Vec<Json>,
}

impl Output {
    /// Stdout as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The end record of a stream.
    pub(crate) fn end(&self, stream: &str) -> &Json {
        self.ends.iter().find(|end| end["stream"] == stream).unwrap_or(&Json::Null)
    }
}

/// One STREAM_CHUNK.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) subscription: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) offset: Option<u64>,
    pub(crate) time: Option<u64>,
    pub(crate) partial: bool,
    pub(crate) data: Vec<u8>,
}

impl Chunk {
    /// Reads one; `data` must be bytes.
    pub(crate) fn of(frame: &Frame) -> Chunk {
        let value = frame.value();
        let text = |name| field(&value, name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number =
            |name| field(&value, name).and_then(|value| value.as_u64().or(value.as_f64().map(|f| f as u64)));
        let data = match field(&value, "data") {
            Some(Value::Binary(data)) => data.clone(),
            other => panic!("data of a chunk is {other:?}"),
        };
        Chunk {
            subscription: text("subscriptionId"),
            stream: text("stream"),
            sequence: number("sequence").expect("a chunk has a sequence"),
            offset: number("offset"),
            time: number("time"),
            partial: field(&value, "partial").and_then(Value::as_bool).unwrap_or(false),
            data,
        }
    }
}

impl Raw {
    /// Starts a process that must start.
    pub(crate) fn spawn(&mut self, id: &str, argv: &[&str], options: Json) {
        let reply = self.ok("process.spawn", json!({"id": id, "command": argv, "options": options}));
        assert_eq!(reply["status"], "spawned");
    }

    /// Waits until the trees of these are gone.
    pub(crate) fn wait_until_ended(&mut self, ids: &[&str]) {
        until("all trees are gone", || {
            ids.iter().all(|id| {
                let status = self.ok("process.status", json!({"id": id, "detail": true}));
                status["detail"]["phase"] == "ended" || status["state"] == "unknown"
            })
        });
    }

    /// Subscribes and returns the subscription's id.
    pub(crate) fn subscribe(&mut self, id: &str, options: Json) -> String {
        let mut params = options;
        params["pid"] = id.into();
        let reply = self.ok("process.stdout.subscribe", params);
        reply["subscriptionId"].as_str().expect("a subscription has an id").to_owned()
    }

    /// Reads a subscription (with records) up to the end of `streams` streams.
    pub(crate) fn collect(&mut self, subscription: &str, streams: usize) -> Output {
        let (mut output, mut sequence, mut aside) = (Output::default(), None, Vec::new());
        while output.ends.len() < streams {
            let frame = self.frame().expect("the connection lasts until the streams end");
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                if chunk.subscription == subscription {
                    assert_eq!(
                        chunk.sequence,
                        sequence.map_or(chunk.sequence, |last: u64| last + 1),
                        "sequence"
                    );
                    sequence = Some(chunk.sequence);
                    output.take(chunk);
                    continue;
                }
            } else if frame.kind == EVENT && output.record(&frame.json(), subscription) {
                continue;
            }
            aside.push(frame);
        }
        self.put_back(aside);
        output
    }

    /// Starts a process, reads both its streams to their ends, and returns all of it.
    pub(crate) fn run(&mut self, id: &str, argv: &[&str], options: Json) -> Output {
        self.spawn(id, argv, options);
        let subscription = self.subscribe(id, json!({}));
        self.collect(&subscription, 2)
    }

    /// Waits for the exit and returns the reply.
    pub(crate) fn wait_for_exit(&mut self, id: &str) -> Json {
        self.ok("process.wait", json!({"id": id}))
    }

    /// Waits until a fact about a process is told to this connection's own subscription of the topic.
    pub(crate) fn event_of(&mut self, topic: &str, id: &str) -> Json {
        let subscribed = self.ok("subscribe", json!({"topic": topic}));
        // It may have happened before the subscription: then the status says so.
        let phase = self.ok("process.status", json!({"id": id, "detail": true}))["detail"]["phase"].clone();
        let wanted = topic.rsplit('.').next().unwrap_or_default();
        let event = if phase == wanted || phase == "ended" {
            Json::Null
        } else {
            self.event(topic, |event| event["payload"]["id"] == id)
        };
        self.ok("unsubscribe", json!({"subscriptionId": subscribed["subscriptionId"]}));
        event
    }

    /// Waits for an event with this topic that satisfies `wanted`; others are dropped.
    pub(crate) fn event(&mut self, topic: &str, wanted: impl Fn(&Json) -> bool) -> Json {
        loop {
            let frame = self.frame().expect("the connection lasts until the event");
            if frame.kind == EVENT {
                let event = frame.json();
                if event["topic"] == topic && wanted(&event) {
                    return event;
                }
            }
        }
    }
}

impl Output {
    fn take(&mut self, chunk: Chunk) {
        let bytes = if chunk.stream == "stderr" { &mut self.stderr } else { &mut self.stdout };
        let missed: u64 = self.gaps.iter().filter(|gap| gap.0 == chunk.stream).map(|gap| gap.2 - gap.1).sum();
        if let Some(offset) = chunk.offset {
            assert_eq!(offset, bytes.len() as u64 + missed, "the offset of a chunk of {}", chunk.stream);
        }
        bytes.extend_from_slice(&chunk.data);
        self.chunks.push(chunk.data);
    }

    /// True if the event belongs to the subscription and was noted.
    fn record(&mut self, event: &Json, subscription: &str) -> bool {
        let data = &event["data"];
        if data["subscriptionId"] != subscription {
            return false;
        }
        match event["topic"].as_str() {
            Some("stream.gap") => {
                let number = |name: &str| data[name].as_u64().expect("a gap is from and to");
                self.gaps.push((
                    data["stream"].as_str().unwrap_or_default().into(),
                    number("from"),
                    number("to"),
                ));
            }
            Some("stream.end") => self.ends.push(data.clone()),
            _ => return false,
        }
        true
    }
}
