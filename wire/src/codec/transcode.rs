//! A carried value in a receiver's dialect: what was stored exactly goes to a client that can't take 64-bit integers.
//!
//! A MessagePack value is a row of tokens, and a container's token says how many follow, not how many bytes: so one walk
//! over the tokens rewrites integers and copies everything else as it is. Invariant: for a valid value the result is
//! a valid value, equal but for integers beyond 32 bits, which are floats.

use crate::codec::encode::{Dialect, put_int, put_uint};
use crate::codec::raw::RawRef;
use bytes::BytesMut;

/// Appends `value` in `dialect`.
pub fn put_raw(buf: &mut BytesMut, dialect: Dialect, value: RawRef<'_>) {
    let bytes = value.bytes();
    match dialect {
        Dialect::Int64 => buf.extend_from_slice(bytes),
        Dialect::V1 => put_v1(buf, bytes),
    }
}

fn put_v1(buf: &mut BytesMut, bytes: &[u8]) {
    let (mut copied, mut at) = (0, 0);
    while let Some(marker) = bytes.get(at) {
        let length = token_bytes(*marker, &bytes[at..]);
        let eight = bytes.get(at + 1..at + 9).and_then(|eight| eight.try_into().ok());
        if let (0xcf | 0xd3, Some(eight)) = (*marker, eight) {
            buf.extend_from_slice(&bytes[copied..at]);
            if *marker == 0xcf {
                put_uint(buf, Dialect::V1, u64::from_be_bytes(eight));
            } else {
                put_int(buf, Dialect::V1, i64::from_be_bytes(eight));
            }
            copied = at + length;
        }
        at += length;
    }
    buf.extend_from_slice(&bytes[copied..]);
}

/// Bytes of the token that begins `bytes`, without the values in it if it is a container.
fn token_bytes(marker: u8, bytes: &[u8]) -> usize {
    let length = |width: usize| {
        bytes.get(1..=width).map_or(0, |be| be.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    match marker {
        0xa0..=0xbf => 1 + usize::from(marker & 0x1f),
        0xc4 | 0xd9 => 2 + length(1),
        0xc5 | 0xda => 3 + length(2),
        0xc6 | 0xdb => 5 + length(4),
        0xc7 => 3 + length(1),
        0xc8 => 4 + length(2),
        0xc9 => 6 + length(4),
        0xcc | 0xd0 => 2,
        0xcd | 0xd1 | 0xdc | 0xde | 0xd4 => 3,
        0xd5 => 4,
        0xca | 0xce | 0xd2 | 0xdd | 0xdf => 5,
        0xd6 => 6,
        0xcb | 0xcf | 0xd3 => 9,
        0xd7 => 10,
        0xd8 => 18,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode::to_buf;
    use crate::codec::raw::Raw;
    use serde_json::json;

    #[test]
    fn a_carried_value_is_what_the_encoder_would_have_written() {
        for value in [
            json!(null),
            json!({"a": [1, -1, u64::MAX, i64::MIN, 1u64 << 32, -(1i64 << 31) - 1], "b": {"c": "x".repeat(300)}}),
            json!([0.5, true, "", "\u{6743}", [[[4294967295u64, 4294967296u64]]]]),
            json!("y".repeat(70_000)),
        ] {
            let exact = Raw::of(&value).expect("a value");
            let mut carried = BytesMut::new();
            put_raw(&mut carried, Dialect::V1, exact.as_ref());
            let mut written = BytesMut::new();
            to_buf(&mut written, Dialect::V1, &value).expect("a value");
            assert_eq!(carried, written, "{value}");
            let mut same = BytesMut::new();
            put_raw(&mut same, Dialect::Int64, exact.as_ref());
            assert_eq!(&same[..], exact.bytes());
        }
    }

    #[test]
    fn integers_inside_other_tokens_are_left_alone() {
        // A binary and an extension that hold the marker of an integer, then an integer of 64 bits that is small.
        let bytes = [
            0x93, 0xc4, 9, 0xcf, 0, 0, 0, 0, 0, 0, 0, 1, 0xd6, 5, 0xcf, 0xd3, 0xcf, 0xd3, 0xcf, 0, 0, 0, 0,
            0, 0, 0, 5,
        ];
        let mut carried = BytesMut::new();
        put_raw(&mut carried, Dialect::V1, RawRef::new(&bytes).expect("a value"));
        let mut expected = bytes[..18].to_vec();
        expected.push(5);
        assert_eq!(&carried[..], expected);
    }
}
