//! Writing values, in the receiver's dialect.
//!
//! The shape is that of the encoder existing clients were written against: maps are always map16 in declaration
//! order, integers take their shortest form, an absent value is `d4 00 00`. In the `V1` dialect integers outside
//! −2³¹…2³²−1 are floats, because those clients get a type they can't compute with otherwise; past 2⁵³
//! such a float is not exact, so nothing that must be (offsets, sequence numbers) goes there.

use crate::codec::CodecError;
use crate::codec::raw::{ABSENT, RAW};
use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::ser::{self, Serializer};

/// How integers go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Outside −2³¹…2³²−1 as float64: everybody who has not negotiated otherwise.
    #[default]
    V1,
    /// Exact: negotiated as `int64`.
    Int64,
}

/// Appends a value.
pub fn to_buf<T: Serialize + ?Sized>(
    buf: &mut BytesMut,
    dialect: Dialect,
    value: &T,
) -> Result<(), CodecError> {
    value.serialize(&mut Encoder { buf, dialect, raw: false })
}

/// Appends a str.
pub fn put_str(buf: &mut BytesMut, text: &str) {
    let length = text.len();
    match length {
        0..=31 => buf.put_u8(0xa0 | length as u8),
        32..=0xff => buf.put_slice(&[0xd9, length as u8]),
        0x100..=0xffff => put_marked(buf, 0xda, &(length as u16).to_be_bytes()),
        _ => put_marked(buf, 0xdb, &(length as u32).to_be_bytes()),
    }
    buf.put_slice(text.as_bytes());
}

/// A text of at most 31 bytes as it is written, `N` being one more than its length: for [`key`](crate::codec::encode::key).
pub(crate) const fn short_str<const N: usize>(text: &str) -> [u8; N] {
    assert!(text.len() <= 31 && N == text.len() + 1);
    let mut written = [0xa0 | text.len() as u8; N];
    let mut at = 0;
    while at < text.len() {
        written[at + 1] = text.as_bytes()[at];
        at += 1;
    }
    written
}

/// What [`put_str`] writes for a short literal.
macro_rules! key {
    ($text:literal) => {{
        const WRITTEN: [u8; $text.len() + 1] = $crate::codec::encode::short_str($text);
        &WRITTEN as &'static [u8]
    }};
}
pub(crate) use key;

/// Appends the marker and length of a bin; its bytes follow.
pub fn put_bin_header(buf: &mut BytesMut, length: usize) {
    match length {
        0..=0xff => buf.put_slice(&[0xc4, length as u8]),
        0x100..=0xffff => put_marked(buf, 0xc5, &(length as u16).to_be_bytes()),
        _ => put_marked(buf, 0xc6, &(length as u32).to_be_bytes()),
    }
}

/// Appends the head of a map16.
pub fn put_map16(buf: &mut BytesMut, entries: u16) {
    put_marked(buf, 0xde, &entries.to_be_bytes());
}

/// Appends an unsigned integer.
pub fn put_uint(buf: &mut BytesMut, dialect: Dialect, value: u64) {
    match value {
        0..=0x7f => buf.put_u8(value as u8),
        0x80..=0xff => buf.put_slice(&[0xcc, value as u8]),
        0x100..=0xffff => put_marked(buf, 0xcd, &(value as u16).to_be_bytes()),
        0x1_0000..=0xffff_ffff => put_marked(buf, 0xce, &(value as u32).to_be_bytes()),
        _ => match dialect {
            Dialect::Int64 => put_marked(buf, 0xcf, &value.to_be_bytes()),
            Dialect::V1 => put_marked(buf, 0xcb, &(value as f64).to_be_bytes()),
        },
    }
}

/// Appends a signed integer.
pub fn put_int(buf: &mut BytesMut, dialect: Dialect, value: i64) {
    match value {
        0.. => put_uint(buf, dialect, value as u64),
        -32..=-1 => buf.put_u8(value as u8),
        -0x80..-32 => buf.put_slice(&[0xd0, value as u8]),
        -0x8000..-0x80 => put_marked(buf, 0xd1, &(value as i16).to_be_bytes()),
        -0x8000_0000..-0x8000 => put_marked(buf, 0xd2, &(value as i32).to_be_bytes()),
        _ => match dialect {
            Dialect::Int64 => put_marked(buf, 0xd3, &value.to_be_bytes()),
            Dialect::V1 => put_marked(buf, 0xcb, &(value as f64).to_be_bytes()),
        },
    }
}

fn put_marked<const N: usize>(buf: &mut BytesMut, marker: u8, digits: &[u8; N]) {
    // One reservation instead of two.
    let mut whole = [0u8; 9];
    whole[0] = marker;
    whole[1..=N].copy_from_slice(digits);
    buf.put_slice(&whole[..=N]);
}

fn put_float(buf: &mut BytesMut, dialect: Dialect, value: f64) {
    // JavaScript has one kind of number: a whole one goes out as an integer.
    let whole = value.fract() == 0.0 && (-2_147_483_648.0..=4_294_967_295.0).contains(&value);
    if dialect == Dialect::V1 && whole {
        put_int(buf, dialect, value as i64);
    } else {
        put_marked(buf, 0xcb, &value.to_be_bytes());
    }
}

/// Appends the head of an array.
pub fn put_array_header(buf: &mut BytesMut, length: usize) {
    match length {
        0..=15 => buf.put_u8(0x90 | length as u8),
        16..=0xffff => put_marked(buf, 0xdc, &(length as u16).to_be_bytes()),
        _ => put_marked(buf, 0xdd, &(length as u32).to_be_bytes()),
    }
}

struct Encoder<'b> {
    buf: &'b mut BytesMut,
    dialect: Dialect,
    /// True exactly while the body of a raw value is written.
    raw: bool,
}

/// An array or map being written; the count of a map is set at its end.
struct Open<'e, 'b> {
    encoder: &'e mut Encoder<'b>,
    /// Where the head is.
    at: usize,
    entries: usize,
}

impl<'e, 'b> Open<'e, 'b> {
    fn map(encoder: &'e mut Encoder<'b>) -> Self {
        let at = encoder.buf.len();
        put_map16(encoder.buf, 0);
        Open { encoder, at, entries: 0 }
    }

    /// An array of unknown length gets room for the longest head.
    fn array(encoder: &'e mut Encoder<'b>, length: Option<usize>) -> Self {
        let at = encoder.buf.len();
        match length {
            Some(length) => put_array_header(encoder.buf, length),
            None => put_marked(encoder.buf, 0xdd, &[0; 4]),
        }
        Open { encoder, at, entries: 0 }
    }

    fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        self.entries += 1;
        value.serialize(&mut *self.encoder)
    }

    fn put_named<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), CodecError> {
        put_str(self.encoder.buf, key);
        self.put(value)
    }

    fn end_map(self) -> Result<(), CodecError> {
        let count = u16::try_from(self.entries)
            .map_err(|_| CodecError::other("a map of more than 65535 entries is not sent"))?;
        self.encoder.buf[self.at + 1..self.at + 3].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }

    fn end_array(self) -> Result<(), CodecError> {
        if self.encoder.buf[self.at] == 0xdd {
            let count = u32::try_from(self.entries)
                .map_err(|_| CodecError::other("an array of more than 2^32-1 values is not sent"))?;
            self.encoder.buf[self.at + 1..self.at + 5].copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }
}

impl<'e, 'b> Serializer for &'e mut Encoder<'b> {
    type Ok = ();
    type Error = CodecError;
    type SerializeSeq = Open<'e, 'b>;
    type SerializeTuple = Open<'e, 'b>;
    type SerializeTupleStruct = Open<'e, 'b>;
    type SerializeTupleVariant = Open<'e, 'b>;
    type SerializeMap = Open<'e, 'b>;
    type SerializeStruct = Open<'e, 'b>;
    type SerializeStructVariant = Open<'e, 'b>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), CodecError> {
        self.buf.put_u8(if value { 0xc3 } else { 0xc2 });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), CodecError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), CodecError> {
        put_int(self.buf, self.dialect, value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), CodecError> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), CodecError> {
        put_uint(self.buf, self.dialect, value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), CodecError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), CodecError> {
        put_float(self.buf, self.dialect, value);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), CodecError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<(), CodecError> {
        put_str(self.buf, text);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), CodecError> {
        if !self.raw {
            put_bin_header(self.buf, bytes.len());
        }
        self.buf.put_slice(bytes);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), CodecError> {
        self.buf.put_slice(ABSENT);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CodecError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CodecError> {
        self.buf.put_u8(0xc0);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), CodecError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), CodecError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        if name != RAW {
            return value.serialize(self);
        }
        self.raw = true;
        let outcome = value.serialize(&mut *self);
        self.raw = false;
        outcome
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CodecError> {
        let mut map = Open::map(self);
        map.put_named(variant, value)?;
        map.end_map()
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<Self::SerializeSeq, CodecError> {
        Ok(Open::array(self, length))
    }

    fn serialize_tuple(self, length: usize) -> Result<Self::SerializeTuple, CodecError> {
        Ok(Open::array(self, Some(length)))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleStruct, CodecError> {
        Ok(Open::array(self, Some(length)))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Self::SerializeTupleVariant, CodecError> {
        put_map16(self.buf, 1);
        put_str(self.buf, variant);
        Ok(Open::array(self, Some(length)))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, CodecError> {
        Ok(Open::map(self))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, CodecError> {
        Ok(Open::map(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, CodecError> {
        put_map16(self.buf, 1);
        put_str(self.buf, variant);
        Ok(Open::map(self))
    }
}

macro_rules! open_array {
    ($($interface:ident::$put:ident),+) => {
        $(impl ser::$interface for Open<'_, '_> {
            type Ok = ();
            type Error = CodecError;

            fn $put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
                self.put(value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.end_array()
            }
        })+
    };
}

open_array!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! open_struct {
    ($($interface:ident),+) => {
        $(impl ser::$interface for Open<'_, '_> {
            type Ok = ();
            type Error = CodecError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), CodecError> {
                self.put_named(key, value)
            }

            fn end(self) -> Result<(), CodecError> {
                self.end_map()
            }
        })+
    };
}

open_struct!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Open<'_, '_> {
    type Ok = ();
    type Error = CodecError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CodecError> {
        key.serialize(&mut *self.encoder)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CodecError> {
        self.put(value)
    }

    fn end(self) -> Result<(), CodecError> {
        self.end_map()
    }
}
