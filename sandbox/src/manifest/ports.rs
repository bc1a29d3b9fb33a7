//! Sets of ports, as ranges.
//!
//! Invariant: ranges are in order, none is empty, and between two of them at least one port is missing; so equal sets are equal.

use super::refusal::{Reason, Refusal, spelled};
use serde::{Deserialize, Serialize, Serializer, de};
use std::fmt;

/// Ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Takes in a range, both ends included.
    fn add(&mut self, first: u16, last: u16) {
        self.0.push((first, last));
        self.0.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in self.0.drain(..) {
            match merged.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        self.0 = merged;
    }

    /// Takes in all of another's.
    pub(super) fn extend(&mut self, other: &Ports) {
        other.0.iter().for_each(|(first, last)| self.add(*first, *last));
    }

    /// What is in it and not in the other.
    pub(super) fn without(&self, other: &Ports) -> Ports {
        let mut rest = Ports::default();
        for (first, last) in &self.0 {
            let mut from = u32::from(*first);
            for (taken, until) in &other.0 {
                let (taken, until) = (u32::from(*taken), u32::from(*until));
                if until < from || taken > u32::from(*last) {
                    continue;
                }
                if taken > from {
                    rest.0.push((from as u16, (taken - 1) as u16));
                }
                from = until + 1;
            }
            if from <= u32::from(*last) {
                rest.0.push((from as u16, *last));
            }
        }
        rest
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|(first, last)| usize::from(last - first) + 1).sum()
    }

    /// Each.
    pub(super) fn each(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A port or a range of them as it is written: `443` or `8000-8010`.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Number(i64),
    Range(String),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Entry, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or a range such as 8000-8010")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Entry, E> {
                Ok(Entry::Number(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::Range(text.to_owned()))
            }
        }
        from.deserialize_any(Written)
    }
}

impl schemars::JsonSchema for Entry {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A port, or a range of ports.",
            "oneOf": [
                { "type": "integer", "minimum": 0, "maximum": 65535 },
                { "type": "string", "pattern": "^[1-9][0-9]{0,4}-[1-9][0-9]{0,4}$" },
            ],
        })
    }
}

impl Entry {
    /// Adds what is written to a set; `lowest` is 0 where the system may choose.
    pub(super) fn add_to(&self, ports: &mut Ports, lowest: u16) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::new("", Reason::Port, why));
        let port = |number: i64| u16::try_from(number).ok().filter(|port| *port >= lowest);
        let (first, last) = match self {
            Entry::Number(number) => (port(*number), port(*number)),
            Entry::Range(text) => {
                // Digits only: no sign, no blank, no zero in front.
                let end = |text: &str| {
                    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
                    if plain { text.parse().ok().and_then(port) } else { None }
                };
                match text.split_once('-') {
                    Some((first, last)) => (end(first), end(last)),
                    None => return refuse(format!("{} is no range: write 443 or 8000-8010", spelled(text))),
                }
            }
        };
        match (first, last) {
            (Some(first), Some(last)) if first <= last => ports.add(first, last),
            (Some(_), Some(_)) => return refuse("a range goes from the lower port to the higher".to_owned()),
            _ => return refuse(format!("a port is a number from {lowest} to 65535")),
        }
        Ok(())
    }
}

/// The set of a list.
pub(super) fn set(entries: &[Entry], lowest: u16) -> Result<Ports, Refusal> {
    let mut ports = Ports::default();
    for (place, entry) in entries.iter().enumerate() {
        entry.add_to(&mut ports, lowest).map_err(|refusal| refusal.at(place))?;
    }
    match ports.is_empty() {
        true => Err(Refusal::new("", Reason::Missing, "no port is named")),
        false => Ok(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Ports {
        let entry =
            |text: &&str| text.parse().map_or_else(|_| Entry::Range((*text).to_owned()), Entry::Number);
        set(&texts.iter().map(entry).collect::<Vec<_>>(), 0).unwrap()
    }

    #[test]
    fn equal_sets_are_equal_however_they_are_written() {
        assert_eq!(of(&["8000-8002", "8003", "443"]), of(&["443", "8001-8003", "8000"]));
        assert_eq!(of(&["8000-8002", "8003", "443"]).to_string(), "443, 8000-8003");
        assert_eq!(of(&["65535", "0", "65534"]).to_string(), "0, 65534-65535");
    }

    #[test]
    fn what_one_has_beyond_another_is_exact() {
        let without = |a: &[&str], b: &[&str]| of(a).without(&of(b)).to_string();
        assert_eq!(without(&["1-65535"], &["1-442", "444-65535"]), "443");
        assert_eq!(without(&["10-20"], &["12-13", "15", "19-30"]), "10-11, 14, 16-18");
        assert_eq!(without(&["10-20"], &["1-65535"]), "");
        assert_eq!(without(&["10-20", "30"], &["25"]), "10-20, 30");
        for seed in 0..200_u16 {
            let (a, b) = (
                of(&[&format!("{}-{}", 1 + seed % 7, 9 + seed % 11), "30"]),
                of(&[&format!("{}-{}", 3 + seed % 5, 8 + seed % 13)]),
            );
            let named: Vec<u16> = a.each().filter(|port| !b.each().any(|other| other == *port)).collect();
            assert_eq!(a.without(&b).each().collect::<Vec<_>>(), named);
        }
    }

    #[test]
    fn what_is_no_port_is_refused() {
        for text in ["80-", "-80", "8010-8000", "1-65536", "01-80", "http", "1 - 2", "0-1", "+1-2"] {
            assert!(Entry::Range(text.to_owned()).add_to(&mut Ports::default(), 0).is_err(), "{text}");
        }
        for number in [-1, 65_536, i64::MAX] {
            assert!(Entry::Number(number).add_to(&mut Ports::default(), 0).is_err());
        }
        assert!(Entry::Number(0).add_to(&mut Ports::default(), 1).is_err());
    }
}
