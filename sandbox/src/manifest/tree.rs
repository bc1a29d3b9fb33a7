//! What a text of any syntax is read into, and how shapes are read out of it.
//!
//! Invariant: a tree has no duplicate keys, no value that is none, at most [`NODES_MAX`] values, and no list or map longer or
//! deeper than the bounds below; texts in it show as what they are.

use super::refusal::{Reason, Refusal, is_hidden};
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

/// Longest text of a manifest, bytes.
pub const BYTES_MAX: usize = 16 << 20;
/// Longest text of TOML, bytes.
pub const TOML_BYTES_MAX: usize = 1 << 20;
/// Most entries of one list or map.
pub const ENTRIES_MAX: usize = crate::profile::ENTRIES_MAX;
/// Most values, in all.
pub const NODES_MAX: usize = 65_536;
/// Deepest value: what there is needs six.
pub const DEPTH_MAX: usize = 12;
/// Longest text, bytes.
pub const TEXT_BYTES_MAX: usize = crate::profile::TEXT_BYTES_MAX;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Where a value stands, from the inside out.
pub(super) enum Trail<'a> {
    Top,
    Key(&'a Trail<'a>, &'a str),
    Place(&'a Trail<'a>, usize),
}

impl Trail<'_> {
    /// A refusal of what stands here.
    pub(super) fn refuse(&self, reason: Reason, why: impl Into<String>) -> Refusal {
        let (mut refusal, mut at) = (Refusal::new("", reason, why), self);
        loop {
            (refusal, at) = match at {
                Trail::Top => return refusal,
                Trail::Key(above, key) => (refusal.below(key), above),
                Trail::Place(above, place) => (refusal.at(*place), above),
            };
        }
    }
}

/// Holds the bounds while a tree grows.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    nodes: usize,
}

impl Bounds {
    /// One more value, this deep.
    pub(super) fn node(&mut self, depth: usize, trail: &Trail<'_>) -> Result<(), Refusal> {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            return Err(trail.refuse(Reason::Bound, format!("deeper than {DEPTH_MAX} levels")));
        }
        if self.nodes > NODES_MAX {
            return Err(trail.refuse(Reason::Bound, format!("more than {NODES_MAX} values in all")));
        }
        Ok(())
    }

    /// One more entry of a list or map that has so many.
    pub(super) fn entry(&self, count: usize, trail: &Trail<'_>) -> Result<(), Refusal> {
        match count {
            0..ENTRIES_MAX => Ok(()),
            _ => Err(trail.refuse(Reason::Bound, format!("more than {ENTRIES_MAX} entries"))),
        }
    }

    /// A key that isn't there yet.
    pub(super) fn key(
        &self,
        key: &str,
        map: &[(String, Tree)],
        seen: &mut std::collections::HashSet<String>,
        trail: &Trail<'_>,
    ) -> Result<(), Refusal> {
        self.entry(map.len(), trail)?;
        let here = Trail::Key(trail, key);
        shown(key).map_err(|why| here.refuse(Reason::Text, format!("a key {why}")))?;
        match seen.insert(key.to_owned()) {
            true => Ok(()),
            false => Err(here.refuse(Reason::Duplicate, "it stands here twice")),
        }
    }
}

/// A text that is one.
pub(super) fn text(text: &str, trail: &Trail<'_>) -> Result<Tree, Refusal> {
    match text.len() {
        0..=TEXT_BYTES_MAX => {}
        long => {
            let why = format!("a text of {long} bytes; at most {TEXT_BYTES_MAX} are taken");
            return Err(trail.refuse(Reason::Bound, why));
        }
    }
    shown(text).map_err(|why| trail.refuse(Reason::Text, format!("a text {why}")))?;
    Ok(Tree::Text(text.to_owned()))
}

/// Whether whoever reads a text sees all of it, in its order: an approval is given to what is seen.
pub(super) fn shown(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    match text.chars().find(|c| is_hidden(*c)) {
        None => Ok(()),
        Some(c) => Err(format!("has {}, which is not shown", c.escape_unicode())),
    }
}

/// A shape read out of a tree.
pub(super) fn read<T: de::DeserializeOwned>(tree: Tree) -> Result<T, Refusal> {
    T::deserialize(tree)
}

impl<'de> de::Deserializer<'de> for Tree {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self {
            Tree::Bool(value) => visitor.visit_bool(value),
            Tree::Integer(value) => visitor.visit_i64(value),
            Tree::Float(value) => visitor.visit_f64(value),
            Tree::Text(value) => visitor.visit_string(value),
            Tree::List(values) => visitor.visit_seq(List { rest: values.into_iter().enumerate() }),
            Tree::Map(values) => visitor.visit_map(Fields { rest: values.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let found = match &self {
            Tree::Text(name) => return visitor.visit_enum(name.as_str().into_deserializer()),
            Tree::Bool(value) => Unexpected::Bool(*value),
            Tree::Integer(value) => Unexpected::Signed(*value),
            Tree::Float(value) => Unexpected::Float(*value),
            Tree::List(_) => Unexpected::Seq,
            Tree::Map(_) => Unexpected::Map,
        };
        Err(de::Error::invalid_type(found, &format!("one of {}", names.join(", ")).as_str()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct List {
    rest: std::iter::Enumerate<std::vec::IntoIter<Tree>>,
}

impl<'de> de::SeqAccess<'de> for List {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some((place, value)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(value).map(Some).map_err(|refusal| refusal.at(place))
    }
}

struct Fields {
    rest: std::vec::IntoIter<(String, Tree)>,
    value: Option<(String, Tree)>,
}

impl<'de> de::MapAccess<'de> for Fields {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        let read = seed.deserialize(StrDeserializer::<Refusal>::new(&key)).map_err(|refusal| {
            // A key of a closed set that isn't a field, such as a protection, has no name yet.
            if refusal.field.is_empty() { refusal.below(&key) } else { refusal }
        })?;
        self.value = Some((key, value));
        Ok(Some(read))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        match self.value.take() {
            Some((key, value)) => seed.deserialize(value).map_err(|refusal| refusal.below(&key)),
            None => Err(de::Error::custom("a value without its key")),
        }
    }
}
