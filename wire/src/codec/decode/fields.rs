//! Reading by hand what comes by the thousand: the log's records, and events on their way to a client.
//!
//! The same tolerance as through serde, because what isn't the usual is left to it. Invariant: nothing is read that isn't
//! whole, and what was read is never read again.

use super::{Decoder, Token, str_body};
use crate::codec::CodecError;
use crate::codec::check::CheckError;
use crate::codec::raw::RawRef;
use serde::de::Deserialize;
use std::borrow::Cow;

/// Reads what has a known shape one value after the other: what serde does, without its detours.
pub struct Fields<'de>(Decoder<'de>);

impl<'de> Fields<'de> {
    /// Stands before the first value of `bytes`.
    pub fn new(bytes: &'de [u8]) -> Fields<'de> {
        Fields(Decoder { rest: bytes, depth: 0, keeps_nil: false })
    }

    /// Goes into an array, and says how many values are in it.
    #[inline]
    pub fn array(&mut self) -> Result<usize, CodecError> {
        if let [short @ 0x90..=0x9f, rest @ ..] = self.0.rest {
            self.0.rest = rest;
            return Ok((short & 0x0f) as usize);
        }
        match self.0.token()? {
            Token::Array(length) => Ok(length),
            token => Err(CodecError::mismatch("an array", token.unexpected())),
        }
    }

    /// Goes into a map, and says how many entries are in it.
    pub fn map(&mut self) -> Result<usize, CodecError> {
        match self.0.token()? {
            Token::Map(length) => Ok(length),
            token => Err(CodecError::mismatch("a map", token.unexpected())),
        }
    }

    /// The next key of a map; none if it is no text, or nothing is under it, and then it is stepped over.
    #[inline]
    pub fn key(&mut self) -> Result<Option<&'de [u8]>, CodecError> {
        let key = match self.short() {
            Some(key) => Some(key),
            None => str_body(self.0.raw()?),
        };
        match key {
            Some(key) if !self.0.skip_absent() => Ok(Some(key)),
            Some(_) => Ok(None),
            None => self.0.raw().map(|_| None),
        }
    }

    /// A number that is not negative.
    #[inline]
    pub fn number(&mut self) -> Result<u64, CodecError> {
        match self.0.rest {
            [small @ 0..=0x7f, rest @ ..] => {
                self.0.rest = rest;
                return Ok((*small).into());
            }
            [0xcf, rest @ ..] => {
                if let Some((long, rest)) = rest.split_first_chunk() {
                    self.0.rest = rest;
                    return Ok(u64::from_be_bytes(*long));
                }
            }
            _ => {}
        }
        match self.0.token()? {
            Token::Unsigned(number) => Ok(number),
            token => Err(CodecError::mismatch("a number", token.unexpected())),
        }
    }

    /// Text, or nothing.
    #[inline]
    pub fn maybe_text(&mut self) -> Result<Option<Cow<'de, str>>, CodecError> {
        if self.0.skip_absent() { Ok(None) } else { self.text().map(Some) }
    }

    /// Text, of anything that is taken for it.
    #[inline]
    pub fn text(&mut self) -> Result<Cow<'de, str>, CodecError> {
        let bytes = match self.short() {
            Some(bytes) => bytes,
            None if matches!(self.0.rest.first(), Some(0xd9..=0xdb)) => {
                str_body(self.0.raw()?).unwrap_or_default()
            }
            None => return String::deserialize(&mut self.0).map(Cow::Owned),
        };
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) => Ok(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())),
        }
    }

    /// The bytes of a text of at most 31 bytes, if one is next.
    #[inline(always)]
    fn short(&mut self) -> Option<&'de [u8]> {
        let [marker @ 0xa0..=0xbf, rest @ ..] = self.0.rest else { return None };
        let (text, rest) = rest.split_at_checked((marker & 0x1f) as usize)?;
        self.0.rest = rest;
        Some(text)
    }

    /// Any value, or nothing.
    pub fn maybe_value(&mut self) -> Result<Option<RawRef<'de>>, CodecError> {
        if self.0.skip_absent() { Ok(None) } else { self.value().map(Some) }
    }

    /// Any value.
    pub fn value(&mut self) -> Result<RawRef<'de>, CodecError> {
        self.0.raw().map(RawRef::checked)
    }

    /// The next value as a type.
    pub fn read<T: Deserialize<'de>>(&mut self) -> Result<T, CodecError> {
        T::deserialize(&mut self.0)
    }

    /// Steps over so many values.
    pub fn skip(&mut self, values: usize) -> Result<(), CodecError> {
        (0..values).try_for_each(|_| self.0.raw().map(drop))
    }

    /// Nothing may follow.
    pub fn end(self) -> Result<(), CodecError> {
        match self.0.rest.len() {
            0 => Ok(()),
            extra => Err(CheckError::Trailing(extra).into()),
        }
    }
}
