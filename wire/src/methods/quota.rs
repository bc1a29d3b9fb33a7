//! Quotas: how much each principal has of what there is a bound on, and how much it may have.

use crate::method::{Since, methods};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Tells how much principals have of what there is a quota of.
    ///
    /// The owner is told of everybody, a user of whatever runs as it, everybody else of itself. What a principal has counts
    /// for those it belongs to as well: what a session has for whoever started it, what a skill has for its user. Those who
    /// have nothing, and had nothing for a while, are not listed.
    Status = "quota.status"(StatusParams) -> StatusResult {
        required: [],
        permission: QuotaRead,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"principal": "skill:render"}"#,
    }
}

crate::methods::words! {
    /// What there is a quota of.
    QuotaName {
        /// Trees that live, or will be started again.
        Processes = "processes",
        /// Bytes on their way: writes that a stdin hasn't taken, events that a connection hasn't been sent.
        BytesInFlight = "bytesInFlight",
        /// Connections.
        Connections = "connections",
        /// Subscriptions to streams, events and views, and places at durable consumers.
        Subscriptions = "subscriptions",
        /// Events published in a second, alone, in a batch or as a request.
        EventsPerSecond = "eventsPerSecond",
        /// Bytes that spools may take: the bounds of those that are written, the size of those that are not any more. One
        /// without a bound, which only those without this quota may have, counts as nothing.
        SpoolBytes = "spoolBytes",
    }
}

impl QuotaName {
    /// All of them, in the order they are told.
    pub const ALL: [QuotaName; 6] = [
        QuotaName::Processes,
        QuotaName::BytesInFlight,
        QuotaName::Connections,
        QuotaName::Subscriptions,
        QuotaName::EventsPerSecond,
        QuotaName::SpoolBytes,
    ];
}

/// Whose.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "QuotaStatusParams")]
#[serde(rename_all = "camelCase")]
pub struct StatusParams {
    /// Only of this principal, as an answer names it: `owner`, `user:1000`, `skill:NAME`, `session:ID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
}

/// Everybody the caller may know of.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "QuotaStatusResult")]
#[serde(rename_all = "camelCase")]
pub struct StatusResult {
    /// By name.
    pub accounts: Vec<QuotaAccount>,
}

/// What one principal has.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaAccount {
    /// Who.
    pub principal: String,
    /// As which user.
    pub uid: u32,
    /// For whom it counts as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under: Option<String>,
    /// Each quota, in the same order.
    pub quotas: Vec<QuotaUse>,
}

/// One quota of one principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuotaUse {
    /// Of what.
    pub quota: QuotaName,
    /// How much it has, with what belongs to it; of a rate, in this second.
    pub used: u64,
    /// How much it may have; absent if there is no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most it had since it was first seen, or the kernel started.
    pub peak: u64,
    /// How often it was refused more.
    pub refused: u64,
}

impl QuotaUse {
    /// Whether there is no room for more.
    pub fn is_reached(&self) -> bool {
        self.limit.is_some_and(|limit| self.used >= limit)
    }
}
