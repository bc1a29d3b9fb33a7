//! Views: tables the kernel folds out of its events, built in and defined by clients.
//!
//! A row is the fold of the events its reader may hear: two readers may see different numbers under one key. How
//! events are folded is the control plane's.

use crate::codec::raw::Raw;
use crate::id::{SubscriptionId, TopicPattern};
use crate::method::{Since, methods, need};
use crate::methods::rows::ViewValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

methods! {
    /// Defines a view, or defines it anew.
    ///
    /// It is folded from the first event that is kept, by and by: `seq` and `lag` of `view.list` say how far it is. The
    /// same definition again changes nothing. It folds only what its definer may hear.
    Define = "view.define"(ViewDefineParams) -> ViewDefineResult {
        required: [need("definition")],
        permission: ViewDefine,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Conflict, Busy],
        example: r#"{"definition": {"name": "exits", "topic": "kairo.process.exited", "key": ["data.id"],
            "filter": [{"path": "data.durationMs", "op": "gt", "value": 1000}],
            "reducers": [{"name": "runs", "op": "count"}, {"name": "cpu", "op": "sum", "path": "data.usage.userUs"}]}}"#,
    }

    /// Forgets a view that was defined.
    Drop = "view.drop"(ViewNameParams) -> ViewDoneResult {
        required: [need("name")],
        permission: ViewDefine,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Conflict],
        example: r#"{"name": "exits"}"#,
    }

    /// Folds a view again from the first event that is kept.
    Rebuild = "view.rebuild"(ViewNameParams) -> ViewDoneResult {
        required: [need("name")],
        permission: ViewDefine,
        changes: true,
        since: Since::Release("0.1.0"),
        errors: [Conflict],
        example: r#"{"name": "exits"}"#,
    }

    /// Lists the views and how far each is.
    List = "view.list"(ViewListParams) -> ViewListResult {
        required: [],
        permission: ViewRead,
        since: Since::Release("0.1.0"),
        errors: [],
        example: r#"{}"#,
    }

    /// Reads rows of a view in the order of their keys.
    Get = "view.get"(ViewGetParams) -> ViewGetResult {
        required: [need("name")],
        permission: ViewRead,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"name": "processes", "limit": 100}"#,
    }

    /// Reads the rows of a view that have changed since an event, each once, as they are now.
    ///
    /// With `waitMs` it answers when there are some, or when that time is over.
    Changes = "view.changes"(ViewChangesParams) -> ViewChangesResult {
        required: [need("name")],
        permission: ViewRead,
        since: Since::Release("0.1.0"),
        errors: [NotFound],
        example: r#"{"name": "processes", "since": 1024}"#,
    }

    /// Tells of the rows of a view as they change, until `unsubscribe`.
    ///
    /// Comes as `view.changed`, one for each key, with the row as it is then: who reads slowly is told less often and misses
    /// no last state.
    Watch = "view.watch"(ViewWatchParams) -> ViewWatchResult {
        required: [need("name")],
        permission: ViewRead,
        since: Since::Release("0.1.0"),
        errors: [NotFound, Busy],
        example: r#"{"name": "processes", "since": 1024}"#,
    }
}

/// A view, as a client defines it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ViewDefinition {
    /// Its name: at most 128 bytes, no control characters.
    pub name: String,
    /// Which events it folds, as `subscribe` takes it.
    pub topic: TopicPattern,
    /// What must hold of an event, all of it; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<ViewCondition>,
    /// Fields whose values make the key of the row; at most 4, none for a single row. Several are joined by `/`, and a
    /// `/` or `\` within one has a `\` before it. An event that lacks one, or has a container there, is skipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// What a row holds; 1 to 16.
    pub reducers: Vec<ViewReducer>,
    /// How much its rows may take, bytes, of what all defined views may take together; 4 MiB if absent. New rows are made
    /// until half of it is taken, the rest is for those to grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// A condition on a field of an event. On a field that isn't there none holds but `exists: false`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ViewCondition {
    /// Which field: `data.usage.userUs`, `type`, `source`, `principal`, `correlationId`, `causationId`, `intentId`,
    /// `toolCallId`, `seq` or `timeMs`.
    pub path: String,
    /// How it compares. Text and numbers never compare with each other.
    pub op: ViewOperator,
    /// With what: text, a number or a boolean.
    #[serde(default, skip_serializing_if = "raw_absent")]
    pub value: Raw,
}

fn raw_absent(raw: &Raw) -> bool {
    raw.as_ref().is_absent()
}

crate::methods::words! {
    /// How a field compares.
    ViewOperator {
        /// Equal.
        Equal = "eq",
        /// Not equal.
        Unequal = "ne",
        /// Less.
        Less = "lt",
        /// Less or equal.
        AtMost = "le",
        /// Greater.
        Greater = "gt",
        /// Greater or equal.
        AtLeast = "ge",
        /// It is there; with the value `false`, it isn't.
        Exists = "exists",
        /// It is text that begins so.
        Prefix = "prefix",
    }
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ViewReducer {
    /// Its name in the row: at most 64 bytes, no control characters.
    pub name: String,
    /// What it makes of the events.
    pub op: ViewReduction,
    /// Of which field; `count` alone can do without and counts events then. An event that lacks it is not counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How many values `collect` keeps, 1 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}

crate::methods::words! {
    /// What a reducer makes of values.
    ViewReduction {
        /// Their number.
        Count = "count",
        /// Their sum. Of integers it is exact; past 64 bits it is the nearest float, and named in `inexact`. With a
        /// float among them it is a float.
        Sum = "sum",
        /// The least number, else the least text.
        Min = "min",
        /// The greatest text, else the greatest number.
        Max = "max",
        /// The newest.
        Last = "last",
        /// The oldest.
        First = "first",
        /// The newest `n`, oldest of them first.
        Collect = "collect",
    }
}

/// What to define.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewDefineParams {
    /// The whole of it; a key it doesn't have is refused.
    pub definition: ViewDefinition,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewDefineResult {
    /// False if it was defined so already.
    pub changed: bool,
}

/// Which view.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewNameParams {
    /// Its name.
    pub name: String,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewDoneResult {
    /// False if there is no such view.
    pub ok: bool,
}

/// Nothing to say.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewListParams {}

/// All views.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewListResult {
    /// In the order of their names.
    pub views: Vec<ViewSummary>,
}

/// A view and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewSummary {
    /// Its name.
    pub name: String,
    /// It was not defined by a client.
    #[serde(default)]
    pub builtin: bool,
    /// What it folds, if the caller may change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Box<ViewDefinition>>,
    /// The last event it has looked at.
    pub seq: u64,
    /// Events it has yet to look at.
    pub lag: u64,
    /// Rows it holds, those of other readers included.
    pub rows: u64,
    /// What they take, bytes.
    pub bytes: u64,
    /// Events it has folded.
    pub events: u64,
    /// Events it could make nothing of.
    pub skipped: u64,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skips: Vec<ViewSkip>,
    /// Events that would have made a row past the limit.
    pub overflowed: u64,
    /// Rows of what was over that have made room, oldest first.
    #[serde(default)]
    pub evicted: u64,
    /// The last event in its checkpoint; absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_seq: Option<u64>,
    /// Ranges that were no longer in the log.
    pub gaps: u64,
    /// Events that were in them, as far as it was told.
    pub missed: u64,
    /// The newest of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gap: Vec<ViewGap>,
}

/// An event a view could make nothing of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewSkip {
    /// Which.
    pub seq: u64,
    /// Why.
    pub reason: String,
}

/// Events `[from, to)` a view has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewGap {
    /// The first.
    pub from: u64,
    /// One past the last.
    pub to: u64,
    /// How many there were, if the log says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
}

/// Which rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewGetParams {
    /// Of which view.
    pub name: String,
    /// With this key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// With keys that begin so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// At most so many, 1 to 1,000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// With keys after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewGetResult {
    /// By key.
    pub rows: Vec<ViewRow>,
    /// There may be more: ask again with this as `after`. It may come with few rows, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The last event the view has looked at.
    pub seq: u64,
}

/// Changes of which view.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewChangesParams {
    /// Its name.
    pub name: String,
    /// Of the row with this key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// After which event; `seq` of the answer before.
    #[serde(default)]
    pub since: u64,
    /// At most so many keys, 1 to 1,000; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// How long to wait for the first, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u32>,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewChangesResult {
    /// Rows that are new or changed, as they are now.
    pub rows: Vec<ViewRow>,
    /// Keys whose row is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// What has changed is no longer known: read the view again, and watch from `seq` on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// Ask again with this as `since`.
    pub seq: u64,
}

/// What to watch.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewWatchParams {
    /// Its name.
    pub name: String,
    /// Of the row with this key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// After which event: `seq` of a reading, or of the last change that was told; from now on if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// What will be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewWatchResult {
    /// In each `view.changed`; `unsubscribe` takes it.
    pub subscription_id: SubscriptionId,
    /// Changes after this event are told.
    pub seq: u64,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ViewRow {
    /// What it is about.
    pub key: String,
    /// The last event in it.
    pub seq: u64,
    /// A map.
    #[schemars(with = "ViewValue")]
    pub value: Raw,
    /// Reducers whose value is not exact.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inexact: Vec<String>,
}
