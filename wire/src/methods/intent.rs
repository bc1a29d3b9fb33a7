//! Intents: what somebody is about to do, what is done for it, and its end. Everything an intent has begun can be stopped
//! at once.

use crate::codec::raw::Raw;
use crate::event::IntentCancelled;
use crate::id::EventId;
use crate::method::{Since, methods, need};
use crate::methods::event::{Order, ReplayResult};
use crate::methods::system::Principal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Begins an intent. What a call with `meta.intentId` starts belongs to it, and what that starts.
    ///
    /// Without `parent` it is part of the intent the call itself belongs to: that of `meta.intentId`, or of the process that
    /// calls. A parent is open, and the caller's own.
    Begin = "intent.begin"(BeginParams) -> BeginResult {
        required: [need("name")],
        permission: IntentBegin,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Busy, TooLarge, Unavailable],
        example: r#"{"name": "nightly render", "deadlineMs": 3600000}"#,
    }

    /// Ends an intent: with a result, or with an error. What it has started goes on.
    ///
    /// Ending it again is answered the same. An intent with open intents under it can't be ended.
    End = "intent.end"(EndParams) -> EndResult {
        required: [need("intentId")],
        permission: IntentControl,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, TooLarge],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff", "result": {"frames": 240}}"#,
    }

    /// Lists intents, in the order they began; those the caller may not observe are left out.
    List = "intent.list"(IntentListParams) -> IntentListResult {
        required: [],
        permission: IntentList,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{"state": "open"}"#,
    }

    /// Says how an intent stands, and what belongs to it.
    Status = "intent.status"(IntentStatusParams) -> IntentStatus {
        required: [need("intentId")],
        permission: IntentObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff"}"#,
    }

    /// Reads the events of an intent and of all intents under it from the log, as `event.replay` does; it takes
    /// `event.subscribe` for all types, too.
    Timeline = "intent.timeline"(TimelineParams) -> ReplayResult {
        required: [need("intentId")],
        permission: IntentObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Unavailable],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff", "limit": 100}"#,
    }

    /// Stops everything that belongs to an intent, or to a correlation, and answers when it is gone.
    ///
    /// Intents under it come first. Processes get SIGTERM and, after the grace, SIGKILL, whole trees; waiting calls answer
    /// `E_CANCELLED`; subscriptions end. Whoever has registered for it is told before, and waited for. A second call changes
    /// nothing and is answered with the same receipt. With a correlation, what the caller may not touch is left alone.
    Cancel = "intent.cancel"(IntentCancelParams) -> IntentCancelled {
        required: [],
        permission: IntentControl,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Busy],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff", "reason": "not needed any more"}"#,
    }

    /// Asks to be told when an intent is cancelled (the notice `intent.cancel`), and for a time before its things are stopped.
    ///
    /// The time is over when everybody who asked for one has called `intent.release`. It ends with the connection.
    Register = "intent.register"(RegisterParams) -> RegisterResult {
        required: [need("intentId")],
        permission: IntentObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Conflict, Busy],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff", "graceMs": 500}"#,
    }

    /// Takes back an `intent.register`; during a cancel: the caller is ready for its things to be stopped.
    Release = "intent.release"(ReleaseParams) -> ReleaseResult {
        required: [need("intentId")],
        permission: IntentObserve,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"intentId": "00112233-4455-4677-8899-aabbccddeeff"}"#,
    }
}

crate::methods::words! {
    /// What becomes of an intent when the connection ends that began it.
    IntentOnDisconnect or Keep {
        /// It stays open.
        Keep = "keep",
        /// It is cancelled.
        Cancel = "cancel",
        /// It is ended, with the intents under it.
        End = "end",
    }
}

crate::methods::words! {
    /// How far an intent has come.
    IntentState {
        /// It has begun.
        Open = "open",
        /// Its things are being stopped.
        Cancelling = "cancelling",
        /// It was ended.
        Ended = "ended",
        /// It was cancelled, and its things are gone.
        Cancelled = "cancelled",
    }
}

crate::methods::words! {
    /// What was stopped.
    StoppedKind {
        /// A process, with its tree.
        Process = "process",
        /// A call that waited.
        Call = "call",
        /// A subscription to a process's output.
        Stream = "stream",
        /// A subscription to events.
        Events = "events",
        /// A path into a process's stdin.
        Stdin = "stdin",
    }
}

crate::methods::words! {
    /// How it was stopped.
    StoppedHow {
        /// It exited by itself, after the signal.
        Exited = "exited",
        /// The signal ended it.
        Terminated = "terminated",
        /// SIGKILL ended it, or some of its tree.
        Killed = "killed",
        /// A call or a subscription: it was ended. A process: it ran no more, and is not started again.
        Ended = "ended",
        /// It had not gone when the time was up, or nobody knows.
        Abandoned = "abandoned",
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BeginParams {
    /// In a few words, at most 255 bytes.
    pub name: String,
    /// What was asked for, at most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Whatever the client wants kept with it, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Raw>,
    /// The intent it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// It is cancelled this many milliseconds after it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What becomes of it when the caller's connection ends.
    #[serde(default)]
    pub on_disconnect: IntentOnDisconnect,
}

/// What has begun.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BeginResult {
    /// Its name: that of the event of its begin.
    pub intent_id: EventId,
    /// The story it belongs to.
    pub correlation_id: String,
    /// The place of the event.
    pub seq: u64,
}

/// How it ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndParams {
    /// Which.
    pub intent_id: String,
    /// What came of it, at most 64 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Raw>,
    /// What went wrong; not together with `result`. At most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// In a sentence, at most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// What has ended.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndResult {
    /// Which.
    pub intent_id: EventId,
    /// From begin to end.
    pub duration_ms: u64,
    /// The place of the event; 0 if the log takes nothing any more.
    pub seq: u64,
}

/// Which intents.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentListParams {
    /// In this state; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<IntentState>,
    /// Directly under this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Begun behind this place; a page's `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_seq: Option<u64>,
    /// Most of them; at most 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// A page of intents.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentListResult {
    /// In the order they began.
    pub intents: Vec<IntentStatus>,
    /// Where to go on; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// Which.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentStatusParams {
    /// Which.
    pub intent_id: String,
}

/// An intent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentStatus {
    /// Its name.
    pub intent_id: EventId,
    /// What is to be done.
    pub name: String,
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// How far it has come.
    pub state: IntentState,
    /// The intent it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<EventId>,
    /// The story it belongs to.
    pub correlation_id: String,
    /// The place of the event of its begin.
    pub seq: u64,
    /// Who began it.
    pub owner: Principal,
    /// Milliseconds since 1970.
    pub started_at_ms: u64,
    /// When it will be cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_at_ms: Option<u64>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// What becomes of it when the connection ends that began it.
    pub on_disconnect: IntentOnDisconnect,
    /// Intents directly under it that are not over.
    pub children: u32,
    /// Processes that belong to it and are there.
    pub processes: u32,
    /// Its calls that wait.
    pub calls: u32,
    /// Its subscriptions.
    pub subscriptions: u32,
    /// What it was ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it was ended with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// How it was cancelled; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<IntentCancelled>,
}

/// Which events of an intent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimelineParams {
    /// Which.
    pub intent_id: String,
    /// From this place on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// Up to this place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// Most of them; at most 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// In which direction.
    #[serde(default)]
    pub order: Order,
}

/// What is to be stopped: one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntentCancelParams {
    /// An intent with all intents under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<String>,
    /// Everything of this story that the caller may touch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Why, at most 4,096 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds between SIGTERM and SIGKILL; 0 sends SIGKILL at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_ms: Option<u64>,
}

/// One thing that was stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// What.
    pub kind: StoppedKind,
    /// The id of a process or of a subscription, the method of a call, for a path into a stdin the id of its process.
    pub id: String,
    /// How.
    pub how: StoppedHow,
    /// From the cancel until it was gone, milliseconds.
    pub ms: u64,
    /// The intent it belonged to, if that is one under the cancelled one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<EventId>,
}

/// Which, and how long.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterParams {
    /// Which.
    pub intent_id: String,
    /// Milliseconds between the notice and the stop, at most 60,000; 0 if the notice is enough.
    #[serde(default)]
    pub grace_ms: u64,
}

/// What was granted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegisterResult {
    /// Which.
    pub intent_id: EventId,
    /// How long.
    pub grace_ms: u64,
}

/// Which.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseParams {
    /// Which.
    pub intent_id: String,
}

/// Whether there was something to release.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseResult {
    /// False if the caller was not registered.
    pub ok: bool,
}
