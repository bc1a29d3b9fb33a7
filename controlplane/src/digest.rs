//! Digests that mean the same in every life of the kernel, so that what one kernel has written down the next can
//! look up.
//!
//! Two kinds. A *name* (128 bits of SHA-256) stands for something nobody may be able to imitate: the key of a call with
//! who made it, the token of a connection. A *body* (64 bits of XXH64) only tells a repetition from a mistake of the same
//! caller, whose parameters may be megabytes long, so it has to be fast and need not resist anybody.
//! The hashes of the tables are secret and of one life: they are in [`entropy`](crate::entropy).

use crate::auth::principal::Creator;
use sha2::{Digest, Sha256};
use std::fmt;

/// Names a call that is to happen once, and what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// Of the caller, the method and `meta.idempotencyKey`.
    pub name: u128,
    /// Of the parameters.
    pub body: u64,
}

/// Names the connection a process is to die with, without the token that proves to be that connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuardianDigest(pub u128);

impl IdempotencyKey {
    /// Of a call.
    pub(crate) fn of(caller: &Creator, method: &str, key: &str, params: &[u8]) -> IdempotencyKey {
        let uid = caller.uid.to_le_bytes();
        let session = caller.session.as_deref().unwrap_or_default();
        let name = caller.name.as_deref().unwrap_or_default();
        let parts =
            [&b"key"[..], &uid, session.as_bytes(), name.as_bytes(), method.as_bytes(), key.as_bytes()];
        IdempotencyKey { name: named(&parts), body: xxh64(params) }
    }

    /// What its [`Display`](fmt::Display) wrote.
    pub fn from_text(text: &str) -> Option<IdempotencyKey> {
        let (name, body) = text.split_once('-')?;
        Some(IdempotencyKey {
            name: u128::from_str_radix(name, 16).ok()?,
            body: u64::from_str_radix(body, 16).ok()?,
        })
    }
}

/// The W3C trace of a story that came without one.
pub(crate) fn trace_of(correlation: &str) -> String {
    format!("{:032x}", named(&[b"trace", correlation.as_bytes()]))
}

/// As session records hold it: hexadecimal, the name and the body.
impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.name, self.body)
    }
}

impl GuardianDigest {
    /// Of a connection's token.
    pub fn of(token: &str) -> GuardianDigest {
        GuardianDigest(named(&[b"guardian", token.as_bytes()]))
    }

    /// What its [`Display`](fmt::Display) wrote.
    pub fn from_text(text: &str) -> Option<GuardianDigest> {
        u128::from_str_radix(text, 16).ok().map(GuardianDigest)
    }
}

/// As session records hold it: 32 hexadecimal digits.
impl fmt::Display for GuardianDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of so many hexadecimal digits; none if it is anything else.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A SHA-256 as it is typed, in digits of either case; none if it is anything else.
pub(crate) fn sha256_of(text: &str) -> Option<[u8; 32]> {
    from_hex(&text.to_ascii_lowercase())
}

/// Each part goes in with its length, so that no two lists of parts are the same bytes.
pub(crate) fn named(parts: &[&[u8]]) -> u128 {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part);
    }
    let digest: [u8; 32] = sha.finalize().into();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(first)
}

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// XXH64 with seed 0, as its specification has it (xxHash, `doc/xxhash_spec.md`).
pub(crate) fn xxh64(bytes: &[u8]) -> u64 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let round =
        |lane: u64, word: u64| lane.wrapping_add(word.wrapping_mul(p2)).rotate_left(31).wrapping_mul(p1);
    let mut stripes = bytes.chunks_exact(32);
    let mut hash = if bytes.len() < 32 {
        p5
    } else {
        let mut lanes = [p1.wrapping_add(p2), p2, 0, 0u64.wrapping_sub(p1)];
        for stripe in stripes.by_ref() {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, little(word));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a.rotate_left(1).wrapping_add(b.rotate_left(7)).wrapping_add(c.rotate_left(12));
        lanes.into_iter().fold(sum.wrapping_add(d.rotate_left(18)), |hash, lane| {
            (hash ^ round(0, lane)).wrapping_mul(p1).wrapping_add(p4)
        })
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let mut words = stripes.remainder().chunks_exact(8);
    for word in words.by_ref() {
        hash = (hash ^ round(0, little(word))).rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
    }
    let mut halves = words.remainder().chunks_exact(4);
    for half in halves.by_ref() {
        hash = (hash ^ little(half).wrapping_mul(p1)).rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
    }
    for byte in halves.remainder() {
        hash = (hash ^ u64::from(*byte).wrapping_mul(p5)).rotate_left(11).wrapping_mul(p1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(p2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(p3);
    hash ^ (hash >> 32)
}

/// Up to eight bytes, the least significant first.
fn little(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written() {
        assert_eq!(from_hex::<3>(&hex(&[0, 0xab, 0xff])), Some([0, 0xab, 0xff]));
        for wrong in ["00abf", "00abffg0", "00ABFF", "+0abff"] {
            assert_eq!(from_hex::<3>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bodies_have_the_digests_the_specification_gives_them() {
        for (text, digest) in [
            ("", 0xef46_db37_51d8_e999),
            ("a", 0xd24e_c4f1_a98c_6e5b),
            ("abc", 0x44bc_2cf5_ad77_0999),
            ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
        ] {
            assert_eq!(xxh64(text.as_bytes()), digest, "{text:?}");
        }
    }

    #[test]
    fn a_name_depends_on_every_part_and_on_where_it_stands() {
        let caller = |uid, session: Option<&str>, name: Option<&str>| Creator {
            uid,
            session: session.map(Into::into),
            name: name.map(Into::into),
        };
        let names = [
            (caller(1, None, None), "process.spawn", "k"),
            (caller(2, None, None), "process.spawn", "k"),
            (caller(1, Some("s"), None), "process.spawn", "k"),
            (caller(1, None, Some("s")), "process.spawn", "k"),
            (caller(1, None, None), "process.stdin.write", "k"),
            (caller(1, None, None), "process.spawn", "kk"),
            (caller(1, None, None), "process.spawnk", ""),
        ]
        .map(|(caller, method, key)| IdempotencyKey::of(&caller, method, key, b"").name);
        let different: std::collections::BTreeSet<u128> = names.into_iter().collect();
        assert_eq!(different.len(), names.len());
    }

    /// Written down by one kernel, looked up by a later one: these must never change.
    #[test]
    fn digests_are_the_same_in_every_life() {
        let caller = Creator { uid: 1_000, session: None, name: None };
        let key = IdempotencyKey::of(&caller, "process.spawn", "once", b"\x80");
        assert_eq!(IdempotencyKey::from_text(&key.to_string()), Some(key));
        assert_eq!(key.to_string(), "6269ec939285f2eff749b8d1840da8be-841226287060849f");
        let guardian = GuardianDigest::of("00112233445566778899aabbccddeeff");
        assert_eq!(GuardianDigest::from_text(&guardian.to_string()), Some(guardian));
        assert_eq!(guardian.to_string(), "93d8a9420eff368948a175ebb391109c");
        assert_eq!(IdempotencyKey::from_text("no digest"), None);
    }
}
