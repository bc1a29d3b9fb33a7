//! Why a manifest is not taken: a field, a kind of reason that programs can tell apart, and words for people.
//!
//! Invariant: the field is a path from the top (`permissions.files[3].path`), empty only where the text as a whole is
//! meant.

use serde::Serialize;
use serde::de::{self, Expected, Unexpected};
use std::fmt;

/// What kind of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// It can't be read as what it is said to be.
    Syntax,
    /// It is longer, deeper or more than is taken.
    Bound,
    /// A key stands twice in one map.
    Duplicate,
    /// A key, or a value of a closed set, that nothing knows.
    Unknown,
    /// A key that has to be there.
    Missing,
    /// A value of another type.
    Type,
    /// A text that is empty, or shows as something it isn't.
    Text,
    /// A path that isn't one place.
    Path,
    /// A host that isn't one name, or more than one owner's.
    Host,
    /// A port out of range.
    Port,
    /// It contradicts another field.
    Contradiction,
    /// A profile can't say it.
    Profile,
}

/// Why, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct Refusal {
    /// Which field.
    pub field: String,
    /// What kind of reason.
    pub reason: Reason,
    /// In words.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.why),
            field => write!(f, "{field}: {}", self.why),
        }
    }
}

impl Refusal {
    /// A refusal.
    pub(super) fn new(field: impl Into<String>, reason: Reason, why: impl Into<String>) -> Refusal {
        Refusal { field: field.into(), reason, why: why.into() }
    }

    /// The same, seen from the map that has it under a key.
    pub(super) fn below(mut self, key: &str) -> Refusal {
        let key = spelled(key);
        self.field = match self.field.as_str() {
            "" => key,
            field if field.starts_with('[') => format!("{key}{field}"),
            field => format!("{key}.{field}"),
        };
        self
    }

    /// The same, seen from the list that has it at a place.
    pub(super) fn at(mut self, place: usize) -> Refusal {
        self.field = match self.field.as_str() {
            "" => format!("[{place}]"),
            field if field.starts_with('[') => format!("[{place}]{field}"),
            field => format!("[{place}].{field}"),
        };
        self
    }
}

/// Whether a character isn't shown, or changes how others are.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
        || matches!(c, '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Another's words, which may quote what was read.
pub(super) fn quoted(words: &str) -> String {
    let escape = |c: char| if is_hidden(c) { c.escape_unicode().collect::<String>() } else { c.to_string() };
    words.chars().take(300).map(escape).collect()
}

/// A key as it may be shown: whole where it is an ordinary name, escaped and shortened where it isn't.
pub(super) fn spelled(key: &str) -> String {
    let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    if !key.is_empty() && key.len() <= 64 && key.chars().all(ordinary) {
        return key.to_owned();
    }
    let short: String = key.chars().take(64).collect();
    let mut out = String::from("\"");
    for c in short.chars() {
        if c == ' ' || c.is_ascii_graphic() && c != '"' && c != '\\' {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out.push('"');
    out
}

/// What a reader of shapes complains of. Fields are added on the way up.
impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        Refusal::new("", Reason::Type, message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Refusal {
        let quote = match found {
            Unexpected::Signed(_) | Unexpected::Float(_) | Unexpected::Bool(_) => {
                " (a text that looks like something else stands in quotes)"
            }
            _ => "",
        };
        let found = match found {
            Unexpected::Str(text) => format!("the text {}", spelled(text)),
            Unexpected::Signed(number) => format!("the number {number}"),
            Unexpected::Seq => "a list".to_owned(),
            Unexpected::Map => "a map".to_owned(),
            other => other.to_string(),
        };
        Refusal::new("", Reason::Type, format!("{found} where {expected} belongs{quote}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Refusal {
        Refusal::new("", Reason::Type, format!("{found} where {expected} belongs"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Refusal {
        let why = format!("{} is none of {}", spelled(variant), expected.join(", "));
        Refusal::new("", Reason::Unknown, why)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Refusal {
        let why = match expected {
            [] => "nothing may stand here".to_owned(),
            expected => format!("there is no such key; there are {}", expected.join(", ")),
        };
        Refusal::new(spelled(field), Reason::Unknown, why)
    }

    fn missing_field(field: &'static str) -> Refusal {
        Refusal::new(field, Reason::Missing, "it has to be there")
    }

    fn duplicate_field(field: &'static str) -> Refusal {
        Refusal::new(field, Reason::Duplicate, "it stands here twice")
    }
}
