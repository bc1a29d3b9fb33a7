//! Durable consumers: named positions in the log that the kernel keeps, so that each event is worked on until somebody says
//! that it is done.

use crate::id::{SubscriptionId, TopicPattern};
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Makes a durable consumer: a name with a position in the log, which survives connections and kernels.
    ///
    /// It begins with what happens from now on, or at a place or a time. Names are each user's own. One that is there
    /// already with the same settings is answered as it is; with others it is `E_ALREADY_EXISTS`. It hears what its
    /// creator may hear. Events reach it through connections that attach; each is delivered to one of them, again after
    /// `ackWaitMs` without an answer, a `consumer.nak` or the end of its connection, each time after the next `backoffMs`,
    /// and after `maxDeliver` deliveries it is put aside as a `kairo.kernel.dead_letter`.
    Create = "consumer.create"(CreateParams) -> ConsumerStatus {
        required: [need("name"), need("topic")],
        permission: EventSubscribe,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [AlreadyExists, Busy, Unavailable],
        example: r#"{"name": "thumbnails", "topic": "render.frame.*", "fromSeq": 1, "maxDeliver": 3}"#,
    }

    /// Has this connection receive events of a consumer, until it unsubscribes or ends.
    ///
    /// They come as EVENT frames with `seq`, `subscriptionId` and `delivery`, which counts from 1; so the connection needs
    /// the feature `envelope` (`E_CONFLICT` without). Of several connections each event goes to one. What is no longer
    /// in the log is told as `event.gap` and stepped over.
    Attach = "consumer.attach"(NameParams) -> AttachResult {
        required: [need("name")],
        permission: EventSubscribe,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Busy, Unavailable],
        example: r#"{"name": "thumbnails"}"#,
    }

    /// Says that an event is done, or with `upTo` that all delivered ones up to it are.
    ///
    /// The answer comes when the log has it: then it is never delivered again. `ok` is false, and nothing changes, for
    /// what is done already or was put aside; a place that has not been delivered is `E_CONFLICT`.
    Ack = "consumer.ack"(AckParams) -> AckResult {
        required: [need("name"), need("seq")],
        permission: EventSubscribe,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Unavailable],
        example: r#"{"name": "thumbnails", "seq": 17}"#,
    }

    /// Says that an event could not be worked on: it is delivered again after `delayMs`, else after the consumer's backoff.
    ///
    /// `ok` and errors are as with `consumer.ack`.
    Nak = "consumer.nak"(NakParams) -> AckResult {
        required: [need("name"), need("seq")],
        permission: EventSubscribe,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Unavailable],
        example: r#"{"name": "thumbnails", "seq": 17, "delayMs": 1000}"#,
    }

    /// Lists the consumers the caller may use.
    List = "consumer.list"(ListParams) -> ListResult {
        required: [],
        permission: EventSubscribe,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{}"#,
    }

    /// Where a consumer stands.
    Status = "consumer.status"(NameParams) -> ConsumerStatus {
        required: [need("name")],
        permission: EventSubscribe,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"name": "thumbnails"}"#,
    }

    /// Forgets a consumer. Connections that are attached get `event.cut`.
    Delete = "consumer.delete"(NameParams) -> DeleteResult {
        required: [need("name")],
        permission: EventSubscribe,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"name": "thumbnails"}"#,
    }
}

/// A new consumer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerCreateParams")]
pub struct CreateParams {
    /// At most 128 bytes.
    pub name: String,
    /// Which events.
    pub topic: TopicPattern,
    /// Begin at this place, this event included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Begin with the events of this time, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_time_ms: Option<u64>,
    /// How long an event may be without an answer, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_wait_ms: Option<u64>,
    /// How often an event is delivered, from 1 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_deliver: Option<u32>,
    /// How long to wait before the second delivery, the third …; the last counts for all that follow. At most 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<Vec<u64>>,
    /// How many events may be without an answer, from 1 to 4,096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// What is put aside is published under this type as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}

impl CreateParams {
    /// How it is to treat what it delivers.
    pub fn settings(&self) -> Settings {
        let usual = Settings::default();
        Settings {
            ack_wait_ms: self.ack_wait_ms.unwrap_or(usual.ack_wait_ms),
            max_deliver: self.max_deliver.unwrap_or(usual.max_deliver),
            backoff_ms: self.backoff_ms.clone().unwrap_or(usual.backoff_ms),
            max_in_flight: self.max_in_flight.unwrap_or(usual.max_in_flight),
            dead_letter_topic: self.dead_letter_topic.clone(),
        }
    }
}

/// How a consumer treats what it delivers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerSettings")]
pub struct Settings {
    /// How long an event may be without an answer; usually 30 s.
    pub ack_wait_ms: u64,
    /// How often an event is delivered; usually 5 times.
    pub max_deliver: u32,
    /// How long to wait before the second delivery, the third …; usually not at all.
    pub backoff_ms: Vec<u64>,
    /// How many events may be without an answer; usually 1,024.
    pub max_in_flight: u32,
    /// What is put aside is published under this type as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ack_wait_ms: 30_000,
            max_deliver: 5,
            backoff_ms: Vec::new(),
            max_in_flight: 1_024,
            dead_letter_topic: None,
        }
    }
}

/// Which consumer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerNameParams")]
pub struct NameParams {
    /// Its name.
    pub name: String,
}

/// The new subscription.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerAttachResult")]
pub struct AttachResult {
    /// What `unsubscribe` takes, and what the events name.
    pub subscription_id: SubscriptionId,
}

crate::methods::words! {
    /// What is done.
    AckMode or Single {
        /// This event.
        Single = "single",
        /// It and all that were delivered and lie before it.
        UpTo = "upTo",
    }
}

/// What is done.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerAckParams")]
pub struct AckParams {
    /// Of which consumer.
    pub name: String,
    /// The event's place.
    pub seq: u64,
    /// It alone, or all up to it.
    #[serde(default)]
    pub mode: AckMode,
}

/// What is to be delivered again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerNakParams")]
pub struct NakParams {
    /// Of which consumer.
    pub name: String,
    /// The event's place.
    pub seq: u64,
    /// When, milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConsumerAckResult")]
pub struct AckResult {
    /// False if nothing changed.
    pub ok: bool,
    /// How many events it was about.
    pub events: u64,
    /// All up to this place are done.
    pub position: u64,
}

/// Nothing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ConsumerListParams")]
pub struct ListParams {}

/// Consumers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ConsumerListResult")]
pub struct ListResult {
    /// By user and name.
    pub consumers: Vec<ConsumerStatus>,
}

/// Where a consumer stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// The user it belongs to.
    pub uid: u32,
    /// Which events.
    pub topic: TopicPattern,
    /// All up to this place are done.
    pub position: u64,
    /// Places of the log behind that.
    pub lag: u64,
    /// Delivered and not done.
    pub pending: u64,
    /// Done.
    pub acked: u64,
    /// Deliveries that were not the first.
    pub redelivered: u64,
    /// Put aside.
    pub dead: u64,
    /// Connections that are attached.
    pub attached: u64,
    /// How it treats what it delivers.
    pub settings: Settings,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ConsumerDeleteResult")]
pub struct DeleteResult {
    /// It is gone.
    pub ok: bool,
}
