//! What a reader may ask for, and whether an event is it.

use crate::events::log::gaps::{Gap, Reason};
use crate::events::pattern::{Pattern, PatternError};
use crate::events::record::Record;

/// What to look for. Every part that is given has to be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Any of these; all when empty.
    pub types: Vec<Types>,
    /// Any of these; all when empty.
    pub sources: Vec<String>,
    /// The story.
    pub correlation: Option<String>,
    /// The intent.
    pub intent: Option<String>,
    /// … or one of these, if there is one.
    pub or_intents: Vec<String>,
    /// Lowest sequence number.
    pub from: u64,
    /// Highest.
    pub to: u64,
    /// Lowest time, milliseconds since 1970.
    pub from_ms: u64,
    /// Highest.
    pub to_ms: u64,
    /// The latest first.
    pub backward: bool,
}

impl Default for Query {
    fn default() -> Query {
        Query {
            types: Vec::new(),
            sources: Vec::new(),
            correlation: None,
            intent: None,
            or_intents: Vec::new(),
            from: 1,
            to: u64::MAX - 1,
            from_ms: 0,
            to_ms: u64::MAX,
            backward: false,
        }
    }
}

/// Types that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Types {
    /// One.
    Exact(String),
    /// All that match.
    Matching {
        /// What they all begin with.
        prefix: String,
        /// The pattern.
        pattern: Pattern,
    },
}

/// How much may be in one page; it has at least one event if there is one, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Events.
    pub events: usize,
    /// Bytes of records.
    pub bytes: usize,
    /// Events that are looked at, in the page or not.
    pub looked_at: usize,
}

impl Types {
    /// A type, or a pattern if it has a wildcard.
    pub fn new(text: &str) -> Result<Types, PatternError> {
        match text.find(['*', '>']) {
            None if text.is_empty() => Err(PatternError::Empty),
            None => Ok(Types::Exact(text.to_owned())),
            Some(end) => Ok(Types::Matching { prefix: text[..end].to_owned(), pattern: Pattern::new(text)? }),
        }
    }

    /// True if `topic` is one of them.
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Types::Exact(text) => text == topic,
            Types::Matching { prefix, pattern } => topic.starts_with(prefix) && pattern.matches(topic),
        }
    }
}

impl Query {
    /// True if the event is one that is looked for. Its sequence number is not asked.
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        (self.from_ms..=self.to_ms).contains(&record.time_ms)
            && same(&self.correlation, record.correlation.as_deref())
            && (same(&self.intent, record.intent.as_deref())
                || self.or_intents.iter().any(|intent| record.intent.as_deref() == Some(intent)))
            && (self.sources.is_empty() || self.sources.iter().any(|source| *source == record.source))
            && self.wants(&record.topic)
    }

    /// False if an event of this time and type is none, whatever else it says.
    pub(super) fn may_be(&self, time_ms: u64, topic: &str) -> bool {
        (self.from_ms..=self.to_ms).contains(&time_ms) && self.wants(topic)
    }

    /// True if time and type are all that is asked for.
    pub(super) fn is_of_types(&self) -> bool {
        self.sources.is_empty() && self.correlation.is_none() && self.intent.is_none()
    }

    /// True if every event is one.
    pub(super) fn is_open(&self) -> bool {
        self.types.is_empty() && self.is_of_types() && !self.is_timed()
    }

    pub(super) fn is_timed(&self) -> bool {
        self.from_ms > 0 || self.to_ms < u64::MAX
    }

    fn wants(&self, topic: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|types| types.matches(topic))
    }

    /// True unless nothing that is looked for can be missing there.
    pub(super) fn minds(&self, gap: &Gap) -> bool {
        match &gap.why {
            Reason::Damaged(_) => true,
            Reason::Compacted(summary) => {
                let overlaps = summary.first_ms <= self.to_ms && summary.last_ms >= self.from_ms;
                let named = summary.types.iter().any(|(topic, _)| self.wants(topic));
                overlaps && (named || summary.others > 0)
            }
        }
    }
}
