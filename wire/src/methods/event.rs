//! Subscribing to the kernel's events by topic.

use crate::id::{SubscriptionId, TopicPattern};
use crate::method::{Since, methods, need};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Delivers the events whose topic matches a pattern, from now on, as EVENT frames.
    ///
    /// `*` stands for one or more characters without a dot, `>` for one or more characters; everything else
    /// stands for itself. Events about what the caller may not see are left out.
    Subscribe = "subscribe"(SubscribeParams) -> SubscribeResult {
        required: [need("topic")],
        permission: EventSubscribe,
        since: Since::V1,
        errors: [Busy],
        example: r#"{"topic": "kairo.process.>"}"#,
    }

    /// Ends a subscription to events. After the reply nothing of it arrives.
    Unsubscribe = "unsubscribe"(UnsubscribeParams) -> UnsubscribeResult {
        required: [need("subscriptionId")],
        permission: EventSubscribe,
        since: Since::V1,
        errors: [],
        example: r#"{"subscriptionId": "topic_00112233445566778899aabbccddeeff"}"#,
    }
}

/// Which events.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventSubscribeParams")]
pub struct SubscribeParams {
    /// The pattern.
    pub topic: TopicPattern,
}

/// The new subscription.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EventSubscribeResult")]
pub struct SubscribeResult {
    /// Its name.
    pub subscription_id: SubscriptionId,
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
