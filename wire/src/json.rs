//! Raw values to JSON and back, for command lines, documents and introspection.
//!
//! What JSON lacks: bytes that are no text become `{"$base64": "…"}` and come back from it; `undefined` is null, and
//! left out under a key; a date is ISO 8601 text; a float that is not a number is null. Keys keep their order.

use crate::codec::decode;
use crate::codec::encode::{self, Dialect};
use crate::codec::raw::{Raw, RawRef};
use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq, Serializer};
use std::fmt;

/// JSON on one line.
pub fn to_text(raw: RawRef<'_>) -> Result<String, serde_json::Error> {
    serde_json::to_string(&raw)
}

/// JSON on many lines.
pub fn to_text_pretty(raw: RawRef<'_>) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&raw)
}

/// JSON as a value.
pub fn to_value(raw: RawRef<'_>) -> Result<serde_json::Value, serde_json::Error> {
    serde_json::to_value(raw)
}

/// The MessagePack value of a JSON text, integers exact.
pub fn from_text(text: &str) -> Result<Raw, serde_json::Error> {
    serde_json::from_str(text)
}

/// Serializes MessagePack bytes as the value they stand for.
pub(crate) fn transcode<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    // A visitor can't hold the serializer and be called by a decoder that wants a value of its own: read into a tree
    // of borrowed nodes first.
    let node: Node<'_> = decode::from_slice_with_nil(bytes).map_err(S::Error::custom)?;
    node.serialize(serializer)
}

/// Bytes as a string if they are text, else as `{"$base64"}`.
pub(crate) fn bytes_to_json<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => serializer.serialize_str(text),
        Err(_) => {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("$base64", &base64(bytes))?;
            map.end()
        }
    }
}

/// Reads any value of any decoder into MessagePack bytes.
pub(crate) fn collect<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BytesMut, D::Error> {
    let mut out = BytesMut::new();
    de::DeserializeSeed::deserialize(Collect(&mut out), deserializer)?;
    Ok(out)
}

/// A MessagePack value, understood as far as JSON goes.
enum Node<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(std::borrow::Cow<'a, str>),
    Bytes(&'a [u8]),
    Array(Vec<Node<'a>>),
    Map(Vec<(String, Node<'a>)>),
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Node::Null => serializer.serialize_unit(),
            Node::Bool(value) => serializer.serialize_bool(*value),
            Node::Unsigned(value) => serializer.serialize_u64(*value),
            Node::Signed(value) => serializer.serialize_i64(*value),
            Node::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Node::Float(_) => serializer.serialize_unit(),
            Node::Text(text) => serializer.serialize_str(text),
            Node::Bytes(bytes) => bytes_to_json(bytes, serializer),
            Node::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Node::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'de>, E> {
        Ok(Node::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(Node::Signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node<'de>, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(text.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(text.to_owned().into()))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Node<'de>, E> {
        Ok(Node::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// Appends the value it is given to MessagePack bytes.
struct Collect<'b>(&'b mut BytesMut);

impl<'de> de::DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Collect<'_> {
    fn put<T: Serialize + ?Sized, E: de::Error>(self, value: &T) -> Result<(), E> {
        encode::to_buf(self.0, Dialect::Int64, value).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.put(&())
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.put(&())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.put(&value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.put(text)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<(), E> {
        encode::put_bin_header(self.0, bytes.len());
        self.0.put_slice(bytes);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut items = BytesMut::new();
        let mut count = 0usize;
        while seq.next_element_seed(Collect(&mut items))?.is_some() {
            count += 1;
        }
        encode::put_array_header(self.0, count);
        self.0.put_slice(&items);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut entries = BytesMut::new();
        let mut count = 0usize;
        while let Some(key) = map.next_key::<String>()? {
            if key == "$base64" && count == 0 {
                let text: String = map.next_value()?;
                let bytes = from_base64(&text).ok_or_else(|| de::Error::custom("$base64 is not base64"))?;
                if map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom("$base64 stands alone"));
                }
                return self.visit_bytes(&bytes);
            }
            encode::put_str(&mut entries, &key);
            map.next_value_seed(Collect(&mut entries))?;
            count += 1;
        }
        match u16::try_from(count) {
            Ok(count) => encode::put_map16(self.0, count),
            Err(_) => return Err(de::Error::custom("a map of more than 65535 entries is not sent")),
        }
        self.0.put_slice(&entries);
        Ok(())
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if place <= group.len() { char::from(BASE64[sextet]) } else { '=' });
        }
    }
    text
}

/// The bytes of a base64 text; none if it isn't exactly what [`base64`] writes.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | BASE64.iter().position(|known| known == digit)? as u32;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len().max(1)]);
    }
    (base64(&bytes) == text).then_some(bytes)
}
