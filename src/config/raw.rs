//! What a configuration file says, before anybody has judged it.
//!
//! Shapes only: every value keeps its place in the text, so that the check in [`crate::config`] can name the
//! line of a value that reads well and means nothing. A key that is not known is an error: a misspelt limit
//! that is silently ignored is worse than none.

use crate::config::ConfigError;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Unexpected, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use toml::Spanned;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawConfig {
    pub(crate) socket: Option<Spanned<String>>,
    pub(crate) state: Option<Spanned<String>>,
    pub(crate) driver: Option<Spanned<String>>,
    pub(crate) cores: Option<Spanned<i64>>,
    pub(crate) group: Option<Spanned<String>>,
    pub(crate) policy: Option<Spanned<String>>,
    pub(crate) log: RawLog,
    pub(crate) limits: RawLimits,
    pub(crate) events: RawEvents,
    pub(crate) quotas: BTreeMap<String, Spanned<RawQuotas>>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLog {
    pub(crate) level: Option<Spanned<String>>,
    pub(crate) format: Option<Spanned<String>>,
    pub(crate) file: Option<Spanned<String>>,
    pub(crate) rotate: Option<Spanned<String>>,
    pub(crate) keep: Option<Spanned<i64>>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawLimits {
    pub(crate) history_head_bytes: Option<Spanned<ByteSize>>,
    pub(crate) history_tail_bytes: Option<Spanned<ByteSize>>,
    pub(crate) history_bytes_max: Option<Spanned<ByteSize>>,
    pub(crate) pipe_bytes: Option<Spanned<ByteSize>>,
    pub(crate) history_memory_max: Option<Spanned<ByteSize>>,
    pub(crate) ended_history_bytes_max: Option<Spanned<ByteSize>>,
    pub(crate) spool_bytes_max: Option<Spanned<ByteSize>>,
    pub(crate) view_bytes_max: Option<Spanned<ByteSize>>,
    pub(crate) ended_processes_max: Option<Spanned<i64>>,
    pub(crate) ended_seconds_max: Option<Spanned<i64>>,
    pub(crate) stdin_parked_bytes_max: Option<Spanned<ByteSize>>,
    pub(crate) kill_grace_ms: Option<Spanned<i64>>,
    pub(crate) stall_ms: Option<Spanned<i64>>,
}

/// `[quotas.*]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawQuotas {
    pub(crate) processes: Option<Spanned<i64>>,
    pub(crate) bytes_in_flight: Option<Spanned<ByteSize>>,
    pub(crate) connections: Option<Spanned<i64>>,
    pub(crate) subscriptions: Option<Spanned<i64>>,
    pub(crate) events_per_second: Option<Spanned<i64>>,
    pub(crate) spool_bytes: Option<Spanned<ByteSize>>,
}

/// `[events]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawEvents {
    pub(crate) retain_days: Option<Spanned<i64>>,
    pub(crate) retain_bytes: Option<Spanned<ByteSize>>,
    pub(crate) rules: Option<Spanned<Vec<Spanned<RawRule>>>>,
}

/// `[[events.rules]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRule {
    #[serde(rename = "type")]
    pub(crate) topic: Spanned<String>,
    pub(crate) max_age: Option<Spanned<Span>>,
    pub(crate) latest_by: Option<Spanned<String>>,
    pub(crate) max_count: Option<Spanned<i64>>,
}

/// A time, milliseconds: `"1d"`, `"90m"`, `"1h30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

impl Span {
    /// Reads `90s`, `1h30m`, `2d`; the units are s, m, h, d, w.
    pub(crate) fn parse(text: &str) -> Option<Span> {
        let mut rest = text;
        let mut sum = 0u64;
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit_on) = rest.split_at(unit_at);
            let unit = unit_on.chars().next()?;
            let milliseconds = match unit {
                's' => 1_000,
                'm' => 60_000,
                'h' => 3_600_000,
                'd' => 86_400_000,
                'w' => 604_800_000,
                _ => return None,
            };
            sum = number.parse::<u64>().ok()?.checked_mul(milliseconds)?.checked_add(sum)?;
            rest = &unit_on[unit.len_utf8()..];
        }
        (!text.is_empty()).then_some(Span(sum))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        let text = String::deserialize(from)?;
        let expected = "a time, such as \"90m\" or \"1d\"";
        Span::parse(&text).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &expected))
    }
}

/// A count of bytes: `65536`, or text with a unit, `"64 KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl ByteSize {
    /// Reads `512`, `512B`, `64k`, `64 KiB`, `1MiB`, `2 GiB`. Units are powers of 1024; `KB` and `MB` are refused,
    /// because half the world reads them as powers of 1000.
    pub(crate) fn parse(text: &str) -> Option<ByteSize> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..digits].parse().ok()?;
        let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            _ => return None,
        };
        number.checked_mul(1 << shift).map(ByteSize)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 65536 or \"64 KiB\"")
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<ByteSize, E> {
                ByteSize::parse(value).ok_or_else(|| E::invalid_value(Unexpected::Str(value), &self))
            }
        }
        from.deserialize_any(Reader).map_err(D::Error::custom)
    }
}

impl RawConfig {
    /// Reads a file's text. Errors name the line and, where there is one, the key.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<RawConfig, ConfigError> {
        parse(path, text)
    }
}

/// Reads the text of any file of ours into its shape. Errors name the line and, where there is one, the key.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        ConfigError::Syntax {
            path: path.to_path_buf(),
            line: line_at(text, at),
            field: field_at(text, at),
            message: error.message().to_owned(),
        }
    })
}

/// The line of a byte offset, counted from 1.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    let upto = offset.min(text.len());
    text.as_bytes()[..upto].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// The dotted key whose line holds an offset, as far as the text tells.
fn field_at(text: &str, offset: usize) -> Option<String> {
    let line = line_at(text, offset);
    let key = text.lines().nth(line - 1)?.split('=').next()?.trim();
    if key.is_empty() || key.starts_with('[') {
        return None;
    }
    let table = text.lines().take(line - 1).filter_map(|above| above.trim().strip_prefix('[')).last();
    Some(match table.and_then(|rest| rest.split(']').next()) {
        Some(table) => format!("{}.{key}", table.trim_start_matches('[').trim()),
        None => key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_sizes_are_read_with_binary_units_only() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64 KiB", 65_536), ("1MiB", 1 << 20), ("2g", 2 << 30)]
        {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
        }
        for text in ["", "KiB", "-1", "64 KB", "1.5 MiB", "99999999999 GiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_line() {
        let text = "driver = \"auto\"\n\n[limits]\nhistory_tale_bytes = 1\n";
        let error = RawConfig::parse(Path::new("c.toml"), text).unwrap_err().to_string();
        assert!(error.contains("c.toml:4"), "{error}");
        assert!(error.contains("history_tale_bytes"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named_with_its_field() {
        let text = "[log]\nlevel = 3\n";
        let error = RawConfig::parse(Path::new("c.toml"), text).unwrap_err().to_string();
        assert!(error.contains("c.toml:2"), "{error}");
        assert!(error.contains("log.level"), "{error}");
        let text = "[limits]\npipe_bytes = \"64 KB\"\n";
        let error = RawConfig::parse(Path::new("c.toml"), text).unwrap_err().to_string();
        assert!(error.contains("limits.pipe_bytes") && error.contains("64 KiB"), "{error}");
    }
}
