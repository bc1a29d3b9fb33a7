//! What becomes of a process whose life ends: whether it gets another one, how soon, how often.
//!
//! On the wire a word (`"on_failure"`) or an object with numbers; both are read into one value here. Who carries it
//! out is the control plane.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

crate::methods::words! {
    /// When a process is started again.
    RestartPolicy or Never {
        /// Not at all.
        Never = "never",
        /// When its leader returned something but 0, was ended by a signal, or was lost with the keeper.
        OnFailure = "on_failure",
        /// Whenever its leader ends, and when it was lost with the keeper.
        Always = "always",
    }
}

crate::methods::words! {
    /// How much may die before a restart is given up.
    RestartReach or Records {
        /// Kernel and keeper, with a reboot too: what the restart needs is sealed in the state folder.
        Records = "records",
        /// Nothing but the process: what the restart needs is in the kernel's memory only.
        Kernel = "kernel",
    }
}

/// Whether a process is started again, under the same id. A `process.kill` by a client, the end of its connection and
/// the kernel's shutdown are never answered with a restart. What is left of the tree ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// When.
    pub policy: RestartPolicy,
    /// How many times, since the last life that lasted `reset_after_ms`.
    pub limit: u32,
    /// Before the first restart; it doubles with each.
    pub backoff_ms: u32,
    /// The longest it gets.
    pub backoff_max_ms: u32,
    /// A life this long makes the count and the delay begin anew.
    pub reset_after_ms: u32,
    /// How much may die.
    pub reach: RestartReach,
}

impl Default for Restart {
    fn default() -> Restart {
        Restart {
            policy: RestartPolicy::Never,
            limit: 10,
            backoff_ms: 500,
            backoff_max_ms: 60_000,
            reset_after_ms: 60_000,
            reach: RestartReach::Records,
        }
    }
}

impl Restart {
    /// True exactly when nothing is asked for.
    pub fn is_never(&self) -> bool {
        self.policy == RestartPolicy::Never
    }
}

#[derive(Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "RestartNumbers")]
struct Numbers {
    /// When.
    policy: RestartPolicy,
    /// How many times, since the last life that lasted `resetAfterMs`; 10 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// Before the first restart, milliseconds; it doubles with each. 500 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_ms: Option<u32>,
    /// The longest it gets, milliseconds; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff_max_ms: Option<u32>,
    /// A life this long makes count and delay begin anew, milliseconds; 60,000 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_after_ms: Option<u32>,
    /// How much may die; `records` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<RestartReach>,
}

impl Serialize for Restart {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == (Restart { policy: self.policy, ..Restart::default() }) {
            return self.policy.serialize(serializer);
        }
        let Restart { policy, limit, backoff_ms, backoff_max_ms, reset_after_ms, reach } = *self;
        Numbers {
            policy,
            limit: Some(limit),
            backoff_ms: Some(backoff_ms),
            backoff_max_ms: Some(backoff_max_ms),
            reset_after_ms: Some(reset_after_ms),
            reach: Some(reach),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Restart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RestartVisitor;

        impl<'de> Visitor<'de> for RestartVisitor {
            type Value = Restart;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"never\", \"on_failure\", \"always\" or {policy, limit, backoffMs, …}")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Restart, E> {
                let known = [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::Always];
                let policy = known.into_iter().find(|policy| policy.word() == word);
                let policy = policy.ok_or_else(|| E::invalid_value(Unexpected::Str(word), &self))?;
                Ok(Restart { policy, ..Restart::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Restart, A::Error> {
                let read = Numbers::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let usual = Restart::default();
                Ok(Restart {
                    policy: read.policy,
                    limit: read.limit.unwrap_or(usual.limit),
                    backoff_ms: read.backoff_ms.unwrap_or(usual.backoff_ms),
                    backoff_max_ms: read.backoff_max_ms.unwrap_or(usual.backoff_max_ms),
                    reset_after_ms: read.reset_after_ms.unwrap_or(usual.reset_after_ms),
                    reach: read.reach.unwrap_or(usual.reach),
                })
            }
        }

        deserializer.deserialize_any(RestartVisitor)
    }
}

impl JsonSchema for Restart {
    fn schema_name() -> Cow<'static, str> {
        "Restart".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Whether a process is started again when its life ends, under the same id.",
            "anyOf": [generator.subschema_for::<RestartPolicy>(), generator.subschema_for::<Numbers>()],
        })
    }
}

/// How far a process that may be started again is with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// What was asked for.
    pub policy: RestartPolicy,
    /// Restarts since the last life that was long enough.
    pub attempts: u32,
    /// How many there may be.
    pub limit: u32,
    /// True exactly while the next life waits for its time.
    pub pending: bool,
    /// How much may die before it is given up.
    pub reach: RestartReach,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_and_numbers_are_one_wish() {
        let read = |text: &str| serde_json::from_str::<Restart>(text);
        let word = read("\"always\"").expect("a word");
        assert_eq!(word, Restart { policy: RestartPolicy::Always, ..Restart::default() });
        let numbers = read(r#"{"policy": "on_failure", "limit": 2, "reach": "kernel"}"#).expect("numbers");
        assert_eq!((numbers.limit, numbers.backoff_ms), (2, 500));
        for wish in [word, numbers, Restart::default()] {
            let text = serde_json::to_string(&wish).expect("it can be written");
            assert_eq!(read(&text).expect("and read"), wish);
        }
        for wrong in ["\"sometimes\"", r#"{"limit": 3}"#, r#"{"policy": "always", "limits": 3}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
