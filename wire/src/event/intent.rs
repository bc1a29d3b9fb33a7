//! What becomes of intents.

use super::is_zero;
use crate::codec::raw::Raw;
use crate::id::EventId;
use crate::methods::intent::{IntentOnDisconnect, Stopped};
use crate::methods::system::Principal;

super::events! {
    /// To whoever registered for it: an intent is being cancelled, and its things are stopped after this time.
    IntentCancelNotice = "intent.cancel", Notice {
        /// Which.
        pub intent_id: EventId,
        /// The story it belongs to.
        pub correlation_id: String,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who does it.
        pub by: Principal,
        /// How long the receiver has, milliseconds; `intent.release` ends it sooner.
        pub grace_ms: u64,
    }

    /// An intent has begun. Its id is this event's.
    IntentStarted = "kairo.intent.started", Bus {
        /// Its name.
        pub intent_id: EventId,
        /// What is to be done.
        pub name: String,
        /// What was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub query: Option<String>,
        /// Whatever its client wants kept with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub context: Option<Raw>,
        /// The intent it is part of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub parent: Option<EventId>,
        /// It is cancelled this many milliseconds after it began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub deadline_ms: Option<u64>,
        /// What becomes of it when the connection ends that began it.
        pub on_disconnect: IntentOnDisconnect,
        /// Who began it.
        pub owner: Principal,
    }

    /// An intent was ended. What it has started goes on.
    IntentEnded = "kairo.intent.ended", Bus {
        /// Which.
        pub intent_id: EventId,
        /// What was to be done.
        pub name: String,
        /// What came of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub result: Option<Raw>,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
        /// In a sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub summary: Option<String>,
        /// From begin to end, milliseconds.
        pub duration_ms: u64,
    }

    /// An intent, or everything of a story, is being stopped.
    IntentCancelling = "kairo.intent.cancelling", Bus {
        /// The intent, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub intent_id: Option<EventId>,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who does it.
        pub by: Principal,
        /// Between SIGTERM and SIGKILL, milliseconds.
        pub grace_ms: u64,
        /// It was under way when the kernel before this one ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        pub resumed: bool,
    }

    /// Everything an intent, or a story, had begun is gone.
    IntentCancelled = "kairo.intent.cancelled", Bus {
        /// The intent, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub intent_id: Option<EventId>,
        /// The story.
        pub correlation_id: String,
        /// Why, as it was said; `deadline` and `disconnect` are the kernel's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub reason: Option<String>,
        /// Who did it.
        pub by: Principal,
        /// Everything that was stopped, in the order it went; at most 1,024 of them.
        pub stopped: Vec<Stopped>,
        /// How many more there were.
        #[serde(default, skip_serializing_if = "is_zero")]
        pub more: u64,
        /// Intents that were cancelled with it, in the order they were over.
        pub children: Vec<EventId>,
        /// What had not gone when the time was up.
        pub left: u32,
        /// From the cancel until all was gone, milliseconds.
        pub duration_ms: u64,
    }
}
