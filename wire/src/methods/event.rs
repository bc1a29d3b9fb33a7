//! The log and its bus: publishing events, subscribing to them by topic, reading what was.

use crate::codec::raw::Raw;
use crate::id::{EventId, SubscriptionId, TopicPattern};
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Delivers the events whose topic matches a pattern as EVENT frames: from now on, or from a place in the log.
    ///
    /// `*` stands for one or more characters without a dot, `>` for one or more characters; everything else
    /// stands for itself. Events about what the caller may not see are left out. An event is delivered when the log has it,
    /// so none is seen that a killed kernel forgets. With `fromSeq` or `fromTimeMs` the past comes first, marked `replayed`,
    /// then what happens, without gap or repetition. A subscriber that doesn't read is brought what it missed from the
    /// log when it reads again, and is cut with an `event.cut` notice that names the place to resume from when it hasn't for
    /// too long.
    Subscribe = "subscribe"(SubscribeParams) -> SubscribeResult {
        required: [need("topic")],
        permission: EventSubscribe,
        since: Since::V1,
        errors: [Busy, Unavailable],
        example: r#"{"topic": "kairo.process.>", "fromSeq": 1}"#,
    }

    /// Ends a subscription to events. After the reply nothing of it arrives.
    Unsubscribe = "unsubscribe"(UnsubscribeParams) -> UnsubscribeResult {
        required: [need("subscriptionId")],
        permission: EventSubscribe,
        since: Since::V1,
        errors: [],
        example: r#"{"subscriptionId": "topic_00112233445566778899aabbccddeeff"}"#,
    }

    /// Publishes an event under the caller's name.
    ///
    /// Its place in the log, its id, its time, its source and its principal are the kernel's. Types of the kernel
    /// (`kairo.process.*` and the like) can't be published by clients. What `meta` says of correlation, causation and
    /// intent counts where the parameters say nothing. While more events wait to be written than memory should hold, it is
    /// `E_BUSY`.
    Publish = "event.publish"(Draft) -> PublishResult {
        required: [need("type")],
        permission: EventPublish,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [TooLarge, Unavailable, NotFound, Busy],
        example: r#"{"type": "render.frame.done", "data": {"frame": 17}, "ack": "log"}"#,
    }

    /// Publishes many events at once, in order, and answers when the last of them is acknowledged.
    ///
    /// If one of them can't be published, none is, and the error names it. Events of others may come between them.
    PublishBatch = "event.publish_batch"(PublishBatchParams) -> PublishBatchResult {
        required: [need("events")],
        permission: EventPublish,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [TooLarge, Unavailable, NotFound, Busy],
        example: r#"{"events": [{"type": "a.b"}, {"type": "a.c", "data": 1}], "ack": "disk"}"#,
    }

    /// Reads events from the log, a page at a time, in order or backwards.
    ///
    /// All conditions must hold. A page ends at `limit`, or when it is large; `next` says where to go on, and is absent
    /// at the end. Ranges that are no longer there are listed in `gaps`, never left out silently.
    Replay = "event.replay"(ReplayParams) -> ReplayResult {
        required: [],
        permission: EventSubscribe,
        since: Since::Release("0.1.0"),
        errors: [Unavailable],
        example: r#"{"types": ["kairo.process.*"], "fromSeq": 1, "limit": 100}"#,
    }

    /// Publishes an event and waits for exactly one answer to it.
    ///
    /// The event begins a story of its own: its id is its correlation. It is answered by the first event that is published
    /// with `answers` and this id: its data is the result, its `error` is `E_REQUEST_FAILED`. With `replyType` the first
    /// event of that type and of this story that another connection, or the kernel, brings about is an answer, too; any other
    /// event of the story, such as one of progress, is none; it takes `event.subscribe` for that type. An answer counts if it has its place before `timeoutMs` are over
    /// (`E_TIMEOUT`). Whoever can't hear the request can't answer it. Nobody is told that nobody listens: that is a
    /// timeout. Publishing an answer to what is answered, over or unknown is `E_CONFLICT`, and the event isn't published.
    Request = "event.request"(RequestParams) -> RequestResult {
        required: [need("type")],
        permission: EventPublish,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [TooLarge, Unavailable, RequestFailed, Busy],
        example: r#"{"type": "render.estimate", "data": {"frames": 240}, "timeoutMs": 2000}"#,
    }
}

crate::methods::words! {
    /// When a publisher is answered.
    Ack or Log {
        /// When the event has its place: a killed kernel may forget it.
        Memory = "memory",
        /// When it is written: a killed kernel doesn't forget it, a power failure may.
        Log = "log",
        /// When the disk has it.
        Disk = "disk",
    }
}

crate::methods::words! {
    /// Who may hear of an event of a client.
    Reach or User {
        /// The publisher's user with everything that runs as it, and the daemon's owner.
        User = "user",
        /// Whoever may touch what the publisher started.
        Private = "private",
    }
}

/// An event to be published.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// Its type, at most 255 bytes.
    #[serde(rename = "type")]
    pub topic: String,
    /// What it says: any value, kept exactly; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Raw>,
    /// Names a part of the caller: its own name is put in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The story it belongs to; without one it begins its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The event it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// The intent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// The tool call it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The id of the request it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// What went wrong: the request has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AnswerError>,
    /// Who may hear of it.
    #[serde(default)]
    pub reach: Reach,
    /// When to answer; of a batch, the batch's counts.
    #[serde(default)]
    pub ack: Ack,
}

/// Why a request failed, in the words of whoever was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerError {
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// For people.
    pub message: String,
}

/// What is asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventRequestParams")]
pub struct RequestParams {
    /// The event's type, at most 255 bytes.
    #[serde(rename = "type")]
    pub topic: String,
    /// What it says: any value, kept exactly; at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Raw>,
    /// How long to wait; 5,000 without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Events of this type are answers, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_type: Option<String>,
    /// Names a part of the caller: its own name is put in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Who may hear of it, and so may answer.
    #[serde(default)]
    pub reach: Reach,
}

/// The answer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventRequestResult")]
pub struct RequestResult {
    /// The event that asked, and the story it began.
    pub id: EventId,
    /// The event that answered.
    pub answer_id: EventId,
    /// Its place.
    pub seq: u64,
    /// What it says.
    pub data: Raw,
}

/// What was published.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishResult {
    /// Its name.
    pub id: EventId,
    /// Its place.
    pub seq: u64,
    /// The story it belongs to.
    pub correlation_id: String,
    /// What was waited for.
    pub ack: Ack,
}

/// Events to be published together.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishBatchParams {
    /// In order, at most 4,096.
    pub events: Vec<Draft>,
    /// When to answer.
    #[serde(default)]
    pub ack: Ack,
}

/// What was published.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishBatchResult {
    /// How many.
    pub count: u32,
    /// Place of the first.
    pub first_seq: u64,
    /// Place of the last.
    pub last_seq: u64,
    /// What was waited for.
    pub ack: Ack,
}

/// Which events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventSubscribeParams")]
pub struct SubscribeParams {
    /// The pattern.
    pub topic: TopicPattern,
    /// Begin at this place in the log, this event included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Begin with the events of this time, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_time_ms: Option<u64>,
    /// Only of this story.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Only of this intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
}

impl SubscribeParams {
    /// All events of a topic, from now on.
    pub fn live(topic: TopicPattern) -> SubscribeParams {
        SubscribeParams { topic, from_seq: None, from_time_ms: None, correlation_id: None, intent_id: None }
    }
}

/// The new subscription.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventSubscribeResult")]
pub struct SubscribeResult {
    /// Its name.
    pub subscription_id: SubscriptionId,
    /// The place the next event will have: what happens from now on has it or a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seq: Option<u64>,
}

/// Which subscription.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnsubscribeParams {
    /// As `subscribe` gave it.
    pub subscription_id: SubscriptionId,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UnsubscribeResult {
    /// False if there is no such subscription (any more).
    pub ok: bool,
}

crate::methods::words! {
    /// In which order.
    Order or Forward {
        /// Oldest first.
        Forward = "forward",
        /// Newest first.
        Backward = "backward",
    }
}

/// Which events of the past.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayParams {
    /// Patterns of types; one of them must match. None for all.
    #[serde(default)]
    pub types: Vec<TopicPattern>,
    /// Sources; one of them must be it. None for all.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Only of this story.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Only of this intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// First place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Last place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// Not before, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_time_ms: Option<u64>,
    /// Not after, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_time_ms: Option<u64>,
    /// In which order.
    #[serde(default)]
    pub order: Order,
    /// Most events of the page, at most 1,000, which is what it is without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of the past.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayResult {
    /// In the order asked for; each as an EVENT frame with the feature `envelope` carries it.
    pub events: Vec<Raw>,
    /// `fromSeq` (backwards: `toSeq`) of the next page, if there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Ranges among them that are no longer there.
    #[serde(default)]
    pub gaps: Vec<Gap>,
    /// The last place there was.
    pub last_seq: u64,
}

crate::methods::words! {
    /// Why events are no longer there.
    GapCause {
        /// A retention rule replaced them by a summary.
        Compacted = "compacted",
        /// The disk lost them.
        Damaged = "damaged",
    }
}

/// A range of places whose events are, or may be, no longer there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// First place.
    pub from: u64,
    /// Last place.
    pub to: u64,
    /// Why.
    pub cause: GapCause,
    /// What stood there, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Raw>,
}
