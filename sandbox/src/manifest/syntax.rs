//! From text to a tree: JSON, YAML and TOML, each as strictly as the others.
//!
//! Nothing is guessed and nothing is dropped: what a syntax lets pass (keys that stand twice, values that are none, parts
//! that stand for others) is refused while it is read, before it can grow.

use super::refusal::{Reason, Refusal, quoted};
use super::tree::{self, BYTES_MAX, Bounds, ENTRIES_MAX, TOML_BYTES_MAX, Trail, Tree};
use super::yaml;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// What a manifest is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// RFC 8259.
    Json,
    /// YAML 1.2, core schema, without anchors, tags and merges.
    Yaml,
    /// TOML 1.0.
    Toml,
}

impl Syntax {
    /// By the end of a file's name.
    pub fn of_extension(extension: &str) -> Option<Syntax> {
        match extension {
            "json" => Some(Syntax::Json),
            "yaml" | "yml" => Some(Syntax::Yaml),
            "toml" => Some(Syntax::Toml),
            _ => None,
        }
    }
}

/// The tree of a text.
pub(super) fn parse(bytes: &[u8], syntax: Syntax) -> Result<Tree, Refusal> {
    if bytes.len() > BYTES_MAX {
        let why = format!("{} bytes; at most {BYTES_MAX} are taken", bytes.len());
        return Err(Refusal::new("", Reason::Bound, why));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| Refusal::new("", Reason::Syntax, format!("it is no UTF-8: {error}")))?;
    let read = Read { kept: RefCell::default(), bounds: RefCell::default() };
    if syntax == Syntax::Toml {
        within_bounds(text)?;
    }
    let top = Value { read: &read, trail: &Trail::Top, depth: 0 };
    let found = match syntax {
        Syntax::Yaml => return yaml::parse(text),
        Syntax::Json => {
            let mut json = serde_json::Deserializer::from_str(text);
            let found = top.deserialize(&mut json).and_then(|tree| json.end().map(|()| tree));
            found.map_err(|error| error.to_string())
        }
        Syntax::Toml => {
            toml::Deserializer::parse(text).and_then(|toml| top.deserialize(toml)).map_err(|error| {
                let start = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                format!("line {}: {}", start.matches('\n').count() + 1, error.message())
            })
        }
    };
    found.map_err(|why| match read.kept.into_inner() {
        Some(refusal) => refusal,
        None => Refusal::new("", Reason::Syntax, quoted(&why)),
    })
}

/// TOML is read as a whole before any of it is seen: what is too much is told from its headings, and what is long besides
/// is not read.
fn within_bounds(text: &str) -> Result<(), Refusal> {
    let mut tables: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        let Some((name, _)) = line.trim_start().strip_prefix("[[").and_then(|rest| rest.split_once("]]"))
        else {
            continue;
        };
        let count = tables.entry(name.trim()).or_default();
        *count += 1;
        if *count > ENTRIES_MAX {
            let refusal = Refusal::new("", Reason::Bound, format!("more than {ENTRIES_MAX} entries"));
            return Err(name.trim().rsplit('.').fold(refusal, Refusal::below));
        }
    }
    match text.len() {
        0..=TOML_BYTES_MAX => Ok(()),
        long => {
            let why = format!("{long} bytes; of TOML at most {TOML_BYTES_MAX} are taken");
            Err(Refusal::new("", Reason::Bound, why))
        }
    }
}

/// What is true of a whole text while it is read.
struct Read {
    /// Our own refusal: what comes back through another's error type is words only.
    kept: RefCell<Option<Refusal>>,
    bounds: RefCell<Bounds>,
}

/// A value about to be read.
#[derive(Clone, Copy)]
struct Value<'a> {
    read: &'a Read,
    trail: &'a Trail<'a>,
    depth: usize,
}

impl Value<'_> {
    fn keep<T, E: de::Error>(&self, result: Result<T, Refusal>) -> Result<T, E> {
        result.map_err(|refusal| {
            let error = E::custom(&refusal);
            *self.read.kept.borrow_mut() = Some(refusal);
            error
        })
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Tree;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Tree, D::Error> {
        self.keep::<_, D::Error>(self.read.bounds.borrow_mut().node(self.depth, self.trail))?;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false, a list or a map")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        let too_large = || self.trail.refuse(Reason::Type, format!("{value} is larger than any number here"));
        self.keep(i64::try_from(value).map(Tree::Integer).map_err(|_| too_large()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        self.keep(tree::text(value, self.trail))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        self.keep(Err(no_value(self.trail)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        loop {
            let trail = Trail::Place(self.trail, list.len());
            let value = Value { trail: &trail, depth: self.depth + 1, ..self };
            let Some(value) = from.next_element_seed(value)? else { return Ok(Tree::List(list)) };
            self.keep::<_, A::Error>(self.read.bounds.borrow().entry(list.len(), self.trail))?;
            list.push(value);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Tree, A::Error> {
        let (mut map, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = from.next_key::<String>()? {
            self.keep::<_, A::Error>(self.read.bounds.borrow().key(&key, &map, &mut seen, self.trail))?;
            let trail = Trail::Key(self.trail, &key);
            let value = from.next_value_seed(Value { trail: &trail, depth: self.depth + 1, ..self })?;
            map.push((key, value));
        }
        Ok(Tree::Map(map))
    }
}

/// A key without a value is a mistake more often than a wish.
pub(super) fn no_value(trail: &Trail<'_>) -> Refusal {
    trail.refuse(
        Reason::Type,
        "it has no value: leave the key out, or put a text that looks like none in quotes",
    )
}
