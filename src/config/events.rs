//! What is kept of the event log: `[events]`, and `[[events.rules]]` for some types of events.

use super::raw::{ByteSize, RawEvents, RawRule, Span};
use super::{ConfigError, File, bounded, checked};
use kairo_controlplane::events::log::Types;
use serde::Serialize;
use toml::Spanned;

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// Ages, sizes and counts are below this, so that every number of ours can hold them.
const MOST: u64 = 1 << 50;
/// Most rules.
const RULES_MAX: usize = 64;

/// What is dropped from the log by and by.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct Events {
    /// Older events go, milliseconds; none: age doesn't matter.
    pub(crate) retain_ms: Option<u64>,
    /// Above so many bytes of events the oldest go; none: size doesn't matter.
    pub(crate) retain_bytes: Option<u64>,
    /// What goes wherever it is.
    pub(crate) rules: Vec<EventRule>,
}

/// What is kept of some types of events.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(crate) struct EventRule {
    /// Which.
    #[serde(rename = "type")]
    pub(crate) topic: String,
    /// Older ones go, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_age_ms: Option<u64>,
    /// All but the latest for each value of this field of their data go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latest_by: Option<String>,
    /// All but so many go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_count: Option<u64>,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            retain_ms: Some(30 * DAY_MS),
            retain_bytes: Some(4 << 30),
            rules: vec![EventRule {
                topic: "kairo.process.progress".to_owned(),
                max_age_ms: Some(DAY_MS),
                latest_by: None,
                max_count: None,
            }],
        }
    }
}

/// Checks what the file says; where it is silent the defaults count. 0 days or bytes: without a limit. Rules replace those
/// of the defaults, an empty list too.
pub(super) fn decide(from: &File<'_>, raw: RawEvents) -> Result<Events, ConfigError> {
    let usual = Events::default();
    let days = checked("events.retain_days", from.said(raw.retain_days), |days| bounded(days, 0, 36_500))?;
    let bytes = checked("events.retain_bytes", from.said(raw.retain_bytes), |ByteSize(bytes)| {
        bounded(bytes, 0, MOST)
    })?;
    let unless_0 = |number: u64| (number > 0).then_some(number);
    let rules = match raw.rules {
        None => usual.rules,
        Some(rules) => {
            let count = |rules: Vec<Spanned<RawRule>>| match rules.len() <= RULES_MAX {
                true => Ok(rules),
                false => Err(format!("there are at most {RULES_MAX}")),
            };
            let rules = checked("events.rules", from.said(Some(rules)), count)?.unwrap_or_default();
            rules.into_iter().map(|rule| decide_rule(from, rule)).collect::<Result<_, _>>()?
        }
    };
    Ok(Events {
        retain_ms: days.map_or(usual.retain_ms, |days| unless_0(days as u64 * DAY_MS)),
        retain_bytes: bytes.map_or(usual.retain_bytes, unless_0),
        rules,
    })
}

fn decide_rule(from: &File<'_>, raw: Spanned<RawRule>) -> Result<EventRule, ConfigError> {
    let place = raw.span();
    let RawRule { topic, max_age, latest_by, max_count } = raw.into_inner();
    let rule = EventRule {
        topic: checked("events.rules.type", from.said(Some(topic)), |text| match Types::new(&text) {
            Ok(_) => Ok(text),
            Err(error) => Err(format!("{text:?} is no pattern of types: {error}")),
        })?
        .unwrap_or_default(),
        max_age_ms: checked("events.rules.max_age", from.said(max_age), |Span(ms)| bounded(ms, 1_000, MOST))?,
        latest_by: checked("events.rules.latest_by", from.said(latest_by), |text| {
            match text.strip_prefix("data.").unwrap_or(&text) {
                field if field.is_empty() || field.len() > 255 => {
                    Err("must be a field of the data".to_owned())
                }
                field => Ok(field.to_owned()),
            }
        })?,
        max_count: checked("events.rules.max_count", from.said(max_count), |count| {
            bounded(count, 0, MOST as i64).map(|count| count as u64)
        })?,
    };
    let says_something = |rule: EventRule| match rule.max_age_ms.is_some()
        || rule.latest_by.is_some()
        || rule.max_count.is_some()
    {
        true => Ok(rule),
        false => Err("a rule has max_age, latest_by or max_count".to_owned()),
    };
    let said = from.said(Some(Spanned::new(place, rule.clone())));
    Ok(checked("events.rules", said, says_something)?.unwrap_or(rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::{Flags, decide as decide_all};
    use std::path::Path;

    fn decided(text: &str) -> Result<Events, String> {
        let machine = Environment::pretend(1000, &[("HOME", "/home/u")]);
        decide_all(&Flags::default(), &machine, Some((Path::new("kairo.toml"), text)))
            .map(|config| config.events)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_said_and_what_is_not_said_is_as_usual() {
        assert_eq!(decided("").unwrap(), Events::default());
        let text = "[events]\nretain_days = 7\nretain_bytes = \"1 GiB\"\n\
            [[events.rules]]\ntype = \"render.*\"\nmax_age = \"90m\"\nmax_count = 5\n\
            [[events.rules]]\ntype = \"a.b\"\nlatest_by = \"data.session\"\n";
        let rule = |topic: &str, max_age_ms, latest_by: Option<&str>, max_count| EventRule {
            topic: topic.to_owned(),
            max_age_ms,
            latest_by: latest_by.map(str::to_owned),
            max_count,
        };
        let expected = Events {
            retain_ms: Some(7 * DAY_MS),
            retain_bytes: Some(1 << 30),
            rules: vec![
                rule("render.*", Some(90 * 60_000), None, Some(5)),
                rule("a.b", None, Some("session"), None),
            ],
        };
        assert_eq!(decided(text).unwrap(), expected);
        let nothing = decided("[events]\nretain_days = 0\nretain_bytes = 0\nrules = []\n").unwrap();
        assert_eq!(nothing, Events { retain_ms: None, retain_bytes: None, rules: Vec::new() });
    }

    #[test]
    fn what_means_nothing_is_named_with_its_line() {
        for (text, wrong) in [
            ("[events]\nretain_days = -1\n", "kairo.toml:2: events.retain_days:"),
            ("[[events.rules]]\ntype = \"\"\nmax_count = 1\n", "kairo.toml:2: events.rules.type:"),
            ("[[events.rules]]\ntype = \"a\"\n", "kairo.toml:1: events.rules: a rule has"),
            ("[[events.rules]]\ntype = \"a\"\nmax_age = \"soon\"\n", "kairo.toml:3:"),
            ("[[events.rules]]\ntype = \"a\"\nmax_age = \"1s\"\nlatest_by = \"data.\"\n", "kairo.toml:4:"),
            ("[[events.rules]]\nmax_age = \"1s\"\n", "type"),
        ] {
            let error = decided(text).unwrap_err();
            assert!(error.contains(wrong), "{text}: {error}");
        }
    }
}
