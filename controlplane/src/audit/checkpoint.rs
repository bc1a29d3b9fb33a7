//! Checkpoints: what is signed of the chain, and with what.
//!
//! What is signed is a text, so that anybody can put it together again from what an export says:
//!
//! ```text
//!   kairo audit checkpoint 1
//!   n 1024
//!   hash 5f2a…
//!   time 1764547200000
//!   count 1024
//!   previous 0000…
//!   key 9c1d…
//! ```
//!
//! each line ended by a newline. Invariant: `previous` is SHA-256 of the text before, so a checkpoint that is missing shows.

use super::chain::{HASH_BYTES, Hash, Head};
use crate::digest::{from_hex, hex};
use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use kairo_wire::methods::audit::{AuditCheckpointBody, SignedCheckpoint};
use sha2::{Digest, Sha256};
use std::fmt;

/// The bytes of a key, secret or public.
pub const KEY_BYTES: usize = 32;
/// Of a signature.
pub const SIGNATURE_BYTES: usize = 64;
/// As it is stored: numbers and bytes in the order of the fields.
const STORED_BYTES: usize = 8 + HASH_BYTES + 8 + 8 + HASH_BYTES + KEY_BYTES + SIGNATURE_BYTES;

/// A public key.
pub type PublicKey = [u8; KEY_BYTES];

/// The key checkpoints are signed with.
#[derive(Clone)]
pub struct Key(SigningKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&hex(&self.public())).finish()
    }
}

impl Key {
    /// The key of 32 random bytes.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Key {
        Key(SigningKey::from_bytes(secret))
    }

    /// What its signatures are verified with.
    pub fn public(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// Signs the end of a chain, behind `last`.
    pub fn sign(&self, head: &Head, time_ms: u64, last: Option<&Checkpoint>) -> Checkpoint {
        let mut made = Checkpoint {
            n: head.n,
            hash: head.hash,
            time_ms,
            count: head.n - last.map_or(0, |last| last.n.min(head.n)),
            previous: last.map_or([0; HASH_BYTES], Checkpoint::digest),
            key: self.public(),
            signature: [0; SIGNATURE_BYTES],
        };
        made.signature = self.0.sign(made.text().as_bytes()).to_bytes();
        made
    }
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The record it is made behind.
    pub n: u64,
    /// Its hash.
    pub hash: Hash,
    /// When.
    pub time_ms: u64,
    /// Records since the one before.
    pub count: u64,
    /// The digest of the one before; zeros if there is none.
    pub previous: Hash,
    /// What it is verified with.
    pub key: PublicKey,
    /// Of its text.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Checkpoint {
    /// What is signed.
    pub fn text(&self) -> String {
        format!(
            "kairo audit checkpoint 1\nn {}\nhash {}\ntime {}\ncount {}\nprevious {}\nkey {}\n",
            self.n,
            hex(&self.hash),
            self.time_ms,
            self.count,
            hex(&self.previous),
            hex(&self.key),
        )
    }

    /// What the next one says of it.
    pub fn digest(&self) -> Hash {
        Sha256::digest(self.text()).into()
    }

    /// True if whoever has its key has signed it.
    pub fn is_signed(&self) -> bool {
        let signature = Signature::from_bytes(&self.signature);
        let key = VerifyingKey::from_bytes(&self.key);
        key.is_ok_and(|key| key.verify_strict(self.text().as_bytes(), &signature).is_ok())
    }

    /// The place in the chain it is of.
    pub fn head(&self) -> Head {
        Head { n: self.n, hash: self.hash }
    }

    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(STORED_BYTES);
        bytes.put_u64(self.n);
        bytes.put_slice(&self.hash);
        bytes.put_u64(self.time_ms);
        bytes.put_u64(self.count);
        bytes.put_slice(&self.previous);
        bytes.put_slice(&self.key);
        bytes.put_slice(&self.signature);
        bytes.freeze()
    }

    /// Reads what is stored. None if it is none, whoever signed it.
    pub fn parse(bytes: &[u8]) -> Option<Checkpoint> {
        let (n, rest) = bytes.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        let (time_ms, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let (previous, rest) = rest.split_first_chunk()?;
        let (key, signature) = rest.split_first_chunk()?;
        Some(Checkpoint {
            n: u64::from_be_bytes(*n),
            hash: *hash,
            time_ms: u64::from_be_bytes(*time_ms),
            count: u64::from_be_bytes(*count),
            previous: *previous,
            key: *key,
            signature: signature.try_into().ok()?,
        })
    }

    /// As it is told.
    pub fn told(&self) -> SignedCheckpoint {
        SignedCheckpoint {
            checkpoint: AuditCheckpointBody {
                n: self.n,
                hash: hex(&self.hash),
                time_ms: self.time_ms,
                count: self.count,
                previous: hex(&self.previous),
                key: hex(&self.key),
            },
            signature: hex(&self.signature),
        }
    }

    /// Of one that was told. None if something in it is no hash, key or signature.
    pub fn of(told: &SignedCheckpoint) -> Option<Checkpoint> {
        let AuditCheckpointBody { n, hash, time_ms, count, previous, key } = &told.checkpoint;
        Some(Checkpoint {
            n: *n,
            hash: from_hex(hash)?,
            time_ms: *time_ms,
            count: *count,
            previous: from_hex(previous)?,
            key: from_hex(key)?,
            signature: from_hex(&told.signature)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_its_signers_as_long_as_nothing_of_it_is_changed() {
        let key = Key::new(&[7; 32]);
        let first = key.sign(&Head { n: 3, hash: [1; 32] }, 5, None);
        let second = key.sign(&Head { n: 10, hash: [2; 32] }, 6, Some(&first));
        assert!(first.is_signed() && second.is_signed());
        assert_eq!((second.count, second.previous), (7, first.digest()));
        assert_eq!(Checkpoint::parse(&second.encode()), Some(second.clone()));
        assert_eq!(Checkpoint::of(&second.told()), Some(second.clone()));
        let stored = second.encode();
        for at in 0..stored.len() {
            let mut bytes = stored.to_vec();
            bytes[at] ^= 1;
            assert!(!Checkpoint::parse(&bytes).expect("it is long enough").is_signed(), "byte {at}");
        }
        assert_eq!(Checkpoint::parse(&stored[1..]), None);
        assert!(!format!("{key:?}").contains(&hex(&[7; 32])), "a key doesn't show its secret");
    }
}
