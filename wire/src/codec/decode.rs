//! Reading values into types, with the tolerance existing clients need.
//!
//! | comes as | is taken for |
//! |---|---|
//! | any width of integer, a whole float below 2⁵³ | an integer |
//! | nil or `d4 00 00` under a key | the key is not there |
//! | invalid UTF-8 in a str | bytes where bytes are wanted, else text with U+FFFD |
//! | extension −1 (a date) | milliseconds where a number is wanted, ISO 8601 where text is |
//! | integer or boolean as a key | its text |
//! | unknown keys, keys of other types | skipped |
//!
//! Text and bytes are borrowed from the input wherever the type allows.

mod fields;

pub use fields::Fields;

use crate::codec::CodecError;
use crate::codec::check::{CheckError, value_end};
use crate::codec::raw::RAW;
use crate::codec::time::Timestamp;
use crate::limits::{DEPTH_MAX, EXACT_INTEGER_END};
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, Error as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use std::borrow::Cow;

/// Reads one value that fills `bytes`. Bytes of a peer go through [`check`](crate::codec::check::check) first, which
/// has the better errors; without it this is slower to refuse, and as safe.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, CodecError> {
    read(bytes, false)
}

/// The same, but nil under a key is a value: for those who show what is there.
pub(crate) fn from_slice_with_nil<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, CodecError> {
    read(bytes, true)
}

fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8], keeps_nil: bool) -> Result<T, CodecError> {
    let mut decoder = Decoder { rest: bytes, depth: 0, keeps_nil };
    let value = T::deserialize(&mut decoder)?;
    match decoder.rest.len() {
        0 => Ok(value),
        extra => Err(CheckError::Trailing(extra).into()),
    }
}

impl From<CheckError> for CodecError {
    fn from(error: CheckError) -> CodecError {
        CodecError::other(error)
    }
}

/// The text keys of a map and the bytes of their values, in order, up to the first that is malformed. Nothing if it is
/// no map. Unlike a struct's fields, a nil value is there.
pub fn entries(bytes: &[u8]) -> TextEntries<'_> {
    let mut decoder = Decoder { rest: bytes, depth: 0, keeps_nil: false };
    let (left, is_map) = match decoder.token() {
        Ok(Token::Map(length)) => (length, true),
        _ => (0, false),
    };
    TextEntries { rest: decoder.rest, left, is_map }
}

/// See [`entries`].
pub struct TextEntries<'a> {
    rest: &'a [u8],
    left: usize,
    is_map: bool,
}

impl<'a> TextEntries<'a> {
    /// True when it is a map whose entries have all been there, and nothing follows them.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_map && self.left == 0 && self.rest.is_empty()
    }

    #[inline]
    fn value(&mut self) -> Option<&'a [u8]> {
        let (value, rest) = self.rest.split_at_checked(value_end(self.rest).ok()?)?;
        self.rest = rest;
        Some(value)
    }
}

impl<'a> Iterator for TextEntries<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let (key, value) = (self.value()?, self.value()?);
            self.left -= 1;
            if let Some(key) = str_body(key) {
                return Some((key, value));
            }
        }
        None
    }
}

/// The bytes of a str that is known to be whole.
#[inline]
pub fn str_body(value: &[u8]) -> Option<&[u8]> {
    match value.first()? {
        0xa0..=0xbf => value.get(1..),
        0xd9 => value.get(2..),
        0xda => value.get(3..),
        0xdb => value.get(5..),
        _ => None,
    }
}

struct Decoder<'de> {
    rest: &'de [u8],
    /// Arrays and maps around the current place.
    depth: usize,
    /// Nil under a key is a value; only `undefined` is absent.
    keeps_nil: bool,
}

/// A value that has been read, or the beginning of a container.
enum Token<'de> {
    Nil,
    Absent,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Str(&'de [u8]),
    Bin(&'de [u8]),
    Array(usize),
    Map(usize),
    Time(Timestamp),
    Extension,
}

impl Token<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match *self {
            Token::Nil => Unexpected::Other("nil"),
            Token::Absent => Unexpected::Other("undefined"),
            Token::Bool(value) => Unexpected::Bool(value),
            Token::Unsigned(value) => Unexpected::Unsigned(value),
            Token::Signed(value) => Unexpected::Signed(value),
            Token::Float(value) => Unexpected::Float(value),
            Token::Str(_) => Unexpected::Other("text"),
            Token::Bin(_) => Unexpected::Other("binary"),
            Token::Array(_) => Unexpected::Seq,
            Token::Map(_) => Unexpected::Map,
            Token::Time(_) => Unexpected::Other("a date"),
            Token::Extension => Unexpected::Other("an extension type"),
        }
    }
}

impl<'de> Decoder<'de> {
    fn take(&mut self, length: usize) -> Result<&'de [u8], CodecError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(CheckError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CheckError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn length<const N: usize>(&mut self) -> Result<usize, CodecError> {
        Ok(self.array::<N>()?.iter().fold(0, |value, digit| value << 8 | *digit as usize))
    }

    /// The bytes of the next value, whole.
    fn raw(&mut self) -> Result<&'de [u8], CodecError> {
        let end = value_end(self.rest)?;
        self.take(end)
    }

    /// True if the next value stands for absence; it is consumed then.
    #[inline]
    fn skip_absent(&mut self) -> bool {
        self.rest = match self.rest {
            [0xc0, rest @ ..] if !self.keeps_nil => rest,
            [0xd4, 0x00, 0x00, rest @ ..] => rest,
            _ => return false,
        };
        true
    }

    fn token(&mut self) -> Result<Token<'de>, CodecError> {
        let [marker] = self.array::<1>()?;
        Ok(match marker {
            0x00..=0x7f => Token::Unsigned(marker.into()),
            0xe0..=0xff => Token::Signed((marker as i8).into()),
            0x80..=0x8f => Token::Map((marker & 0x0f) as usize),
            0x90..=0x9f => Token::Array((marker & 0x0f) as usize),
            0xa0..=0xbf => Token::Str(self.take((marker & 0x1f) as usize)?),
            0xc0 => Token::Nil,
            0xc1 => return Err(CodecError::other("byte c1 is not MessagePack")),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => self.length::<1>().and_then(|n| self.take(n)).map(Token::Bin)?,
            0xc5 => self.length::<2>().and_then(|n| self.take(n)).map(Token::Bin)?,
            0xc6 => self.length::<4>().and_then(|n| self.take(n)).map(Token::Bin)?,
            0xc7 => self.length::<1>().and_then(|n| self.extension(n))?,
            0xc8 => self.length::<2>().and_then(|n| self.extension(n))?,
            0xc9 => self.length::<4>().and_then(|n| self.extension(n))?,
            0xca => Token::Float(f32::from_be_bytes(self.array()?).into()),
            0xcb => Token::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Token::Unsigned(u8::from_be_bytes(self.array()?).into()),
            0xcd => Token::Unsigned(u16::from_be_bytes(self.array()?).into()),
            0xce => Token::Unsigned(u32::from_be_bytes(self.array()?).into()),
            0xcf => Token::Unsigned(u64::from_be_bytes(self.array()?)),
            0xd0 => Token::Signed(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Token::Signed(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Token::Signed(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Token::Signed(i64::from_be_bytes(self.array()?)),
            0xd4 => self.extension(1)?,
            0xd5 => self.extension(2)?,
            0xd6 => self.extension(4)?,
            0xd7 => self.extension(8)?,
            0xd8 => self.extension(16)?,
            0xd9 => self.length::<1>().and_then(|n| self.take(n)).map(Token::Str)?,
            0xda => self.length::<2>().and_then(|n| self.take(n)).map(Token::Str)?,
            0xdb => self.length::<4>().and_then(|n| self.take(n)).map(Token::Str)?,
            0xdc => Token::Array(self.length::<2>()?),
            0xdd => Token::Array(self.length::<4>()?),
            0xde => Token::Map(self.length::<2>()?),
            0xdf => Token::Map(self.length::<4>()?),
        })
    }

    fn extension(&mut self, length: usize) -> Result<Token<'de>, CodecError> {
        let [kind] = self.array::<1>()?;
        let body = self.take(length)?;
        Ok(match (kind as i8, body) {
            (0, [0]) => Token::Absent,
            (-1, body) => match Timestamp::parse(body) {
                Some(time) => Token::Time(time),
                // What JavaScript sends for an invalid date.
                None => Token::Absent,
            },
            _ => Token::Extension,
        })
    }

    fn visit<V: Visitor<'de>>(&mut self, token: Token<'de>, visitor: V) -> Result<V::Value, CodecError> {
        match token {
            Token::Nil | Token::Absent => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) if value >= 0 => visitor.visit_u64(value as u64),
            Token::Signed(value) => visitor.visit_i64(value),
            Token::Float(value) => visit_float(value, visitor),
            Token::Str(bytes) => visit_text(bytes, visitor),
            Token::Bin(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::Array(length) => self.nested(|decoder| {
                let mut items = Items { decoder, left: length, index: 0 };
                let value = visitor.visit_seq(&mut items)?;
                items.finish()?;
                Ok(value)
            }),
            Token::Map(length) => self.nested(|decoder| {
                let mut entries = Entries { decoder, left: length, key: Cow::Borrowed(b"") };
                let value = visitor.visit_map(&mut entries)?;
                entries.finish()?;
                Ok(value)
            }),
            Token::Time(time) => visitor.visit_string(time.iso()),
            Token::Extension => Err(CodecError::invalid_type(token.unexpected(), &visitor)),
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, CodecError>) -> Result<T, CodecError> {
        if self.depth == DEPTH_MAX {
            return Err(CheckError::TooDeep.into());
        }
        self.depth += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn visit_number<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, CodecError> {
        match self.token()? {
            Token::Time(time) => match time.milliseconds() {
                after @ 0.. => visitor.visit_u64(after as u64),
                before => visitor.visit_i64(before),
            },
            token => self.visit(token, visitor),
        }
    }
}

/// A whole float that is exact is an integer.
fn visit_float<'de, V: Visitor<'de>>(value: f64, visitor: V) -> Result<V::Value, CodecError> {
    if value.fract() == 0.0 && value.abs() < EXACT_INTEGER_END as f64 {
        let whole = value as i64;
        return if whole >= 0 { visitor.visit_u64(whole as u64) } else { visitor.visit_i64(whole) };
    }
    visitor.visit_f64(value)
}

fn visit_text<'de, V: Visitor<'de>>(bytes: &'de [u8], visitor: V) -> Result<V::Value, CodecError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => visitor.visit_borrowed_str(text),
        Err(_) => visitor.visit_string(String::from_utf8_lossy(bytes).into_owned()),
    }
}

macro_rules! numbers {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
            self.visit_number(visitor)
        })+
    };
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = CodecError;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        let token = self.token()?;
        self.visit(token, visitor)
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f32 deserialize_f64
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        match self.token()? {
            Token::Str(bytes) | Token::Bin(bytes) => visitor.visit_borrowed_bytes(bytes),
            token => self.visit(token, visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        if self.skip_absent() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        if name == RAW {
            return visitor.visit_borrowed_bytes(self.raw()?);
        }
        visitor.visit_newtype_struct(self)
    }

    /// An array is no struct, although serde would take it for one by position.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match self.token()? {
            token @ Token::Array(_) => Err(CodecError::mismatch("a map", token.unexpected())),
            token => self.visit(token, visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        match self.token()? {
            Token::Str(bytes) => visitor.visit_enum(Word(&String::from_utf8_lossy(bytes))),
            token => Err(CodecError::mismatch("a word", token.unexpected())),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        self.raw()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i128 u128 char str string unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    index: usize,
}

impl Items<'_, '_> {
    /// Skips what the visitor didn't want.
    fn finish(self) -> Result<(), CodecError> {
        for _ in 0..self.left {
            self.decoder.raw()?;
        }
        Ok(())
    }
}

impl<'de> de::SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = CodecError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, CodecError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let index = self.index;
        self.index += 1;
        seed.deserialize(&mut *self.decoder).map(Some).map_err(|error| error.at_index(index))
    }

    fn size_hint(&self) -> Option<usize> {
        // Never more than what has arrived could hold, whatever the peer claims.
        Some(self.left.min(self.decoder.rest.len()))
    }
}

struct Entries<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    key: Cow<'de, [u8]>,
}

impl<'de> Entries<'_, 'de> {
    /// Reads the next key whose value is there; false at the end.
    fn next(&mut self) -> Result<bool, CodecError> {
        while self.left > 0 {
            self.left -= 1;
            let before = self.decoder.rest;
            // The usual key, without the detour.
            if let [marker @ 0xa0..=0xbf, rest @ ..] = before
                && let Some((key, rest)) = rest.split_at_checked((marker & 0x1f) as usize)
            {
                self.key = Cow::Borrowed(key);
                self.decoder.rest = rest;
                if self.decoder.skip_absent() {
                    continue;
                }
                return Ok(true);
            }
            self.key = match self.decoder.token()? {
                Token::Str(bytes) => Cow::Borrowed(bytes),
                Token::Unsigned(number) => Cow::Owned(number.to_string().into_bytes()),
                Token::Signed(number) => Cow::Owned(number.to_string().into_bytes()),
                Token::Bool(value) => Cow::Borrowed(if value { b"true" } else { b"false" }),
                Token::Nil
                | Token::Absent
                | Token::Float(_)
                | Token::Bin(_)
                | Token::Array(_)
                | Token::Map(_)
                | Token::Time(_)
                | Token::Extension => {
                    self.decoder.rest = before;
                    self.decoder.raw()?;
                    self.decoder.raw()?;
                    continue;
                }
            };
            if !self.decoder.skip_absent() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn finish(self) -> Result<(), CodecError> {
        for _ in 0..2 * self.left {
            self.decoder.raw()?;
        }
        Ok(())
    }
}

impl<'de> de::MapAccess<'de> for &mut Entries<'_, 'de> {
    type Error = CodecError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, CodecError> {
        if !self.next()? {
            return Ok(None);
        }
        seed.deserialize(Key(&self.key))
            .map(Some)
            .map_err(|error| error.within(&String::from_utf8_lossy(&self.key)))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, CodecError> {
        seed.deserialize(&mut *self.decoder)
            .map_err(|error| error.within(&String::from_utf8_lossy(&self.key)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.min(self.decoder.rest.len()))
    }
}

/// A key of a map, as text.
struct Key<'a>(&'a [u8]);

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = CodecError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_str(&String::from_utf8_lossy(self.0))
    }

    /// The fields of a struct are compared as bytes: no key needs to be valid UTF-8 to be unknown.
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, CodecError> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        visitor.visit_enum(Word(&String::from_utf8_lossy(self.0)))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct ignored_any
    }
}

/// A word of a closed set.
struct Word<'a>(&'a str);

impl<'de> de::EnumAccess<'de> for Word<'_> {
    type Error = CodecError;
    type Variant = NoContent;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, NoContent), CodecError> {
        seed.deserialize(Key(self.0.as_bytes())).map(|value| (value, NoContent))
    }
}

/// Behind a word there is nothing.
struct NoContent;

impl<'de> de::VariantAccess<'de> for NoContent {
    type Error = CodecError;

    fn unit_variant(self) -> Result<(), CodecError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, CodecError> {
        Err(CodecError::mismatch("a map", "a word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, CodecError> {
        Err(CodecError::invalid_type(Unexpected::UnitVariant, &visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, CodecError> {
        Err(CodecError::invalid_type(Unexpected::UnitVariant, &visitor))
    }
}
