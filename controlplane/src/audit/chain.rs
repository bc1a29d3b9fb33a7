//! The chain, byte by byte.
//!
//! ```text
//!   body of record n:   n u64 ‖ seq u64 ‖ the event's record, as the log has it        integers are big-endian
//!   hash of record n:   SHA-256(hash of record n-1 ‖ body of record n)                  32 zeros before the first
//!   as it is stored:    hash ‖ body
//! ```
//!
//! Invariant: a number is used once, and the next one is one more.

use crate::digest::hex;
use crate::events::record::Record;
use bytes::{BufMut, Bytes, BytesMut};
use kairo_wire::codec::CodecError;
use kairo_wire::id::EventId;
use kairo_wire::methods::audit::{AuditHead, AuditRecord};
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; HASH_BYTES];
/// Its bytes.
pub const HASH_BYTES: usize = 32;
/// Of a body before the event's record.
const FRONT_BYTES: usize = 16;

/// The end of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its last record; 0 before the first.
    pub n: u64,
    /// The hash of that.
    pub hash: Hash,
}

impl Head {
    /// The hash of a record that follows.
    pub fn hash_of(&self, body: &[u8]) -> Hash {
        Sha256::new().chain_update(self.hash).chain_update(body).finalize().into()
    }

    /// Adds an event. Returns the record as it is stored.
    pub fn add(&mut self, seq: u64, record: &[u8]) -> Bytes {
        let n = self.n + 1;
        let mut stored = BytesMut::with_capacity(HASH_BYTES + FRONT_BYTES + record.len());
        stored.put_bytes(0, HASH_BYTES);
        stored.put_u64(n);
        stored.put_u64(seq);
        stored.put_slice(record);
        let hash = self.hash_of(&stored[HASH_BYTES..]);
        stored[..HASH_BYTES].copy_from_slice(&hash);
        *self = Head { n, hash };
        stored.freeze()
    }

    /// As it is told.
    pub fn told(&self) -> AuditHead {
        AuditHead { n: self.n, hash: hex(&self.hash) }
    }
}

/// A record, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it says its hash is.
    pub hash: Hash,
    /// What is hashed.
    pub body: Bytes,
}

impl Link {
    /// Reads what is stored. None if it is too short to be one.
    pub fn parse(stored: &Bytes) -> Option<Link> {
        let hash = *stored.first_chunk::<HASH_BYTES>()?;
        let body = stored.slice(HASH_BYTES..);
        (body.len() > FRONT_BYTES).then_some(Link { hash, body })
    }

    /// Its number, as its own bytes have it.
    pub fn n(&self) -> u64 {
        number(&self.body, 0)
    }

    /// The place of the event.
    pub fn seq(&self) -> u64 {
        number(&self.body, 8)
    }

    /// The event.
    pub fn record(&self) -> Result<Record<'_>, CodecError> {
        Record::parse(self.seq(), self.body.get(FRONT_BYTES..).unwrap_or_default())
    }

    /// To be read.
    pub fn told(&self) -> Result<AuditRecord, CodecError> {
        let record = self.record()?;
        let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        Ok(AuditRecord {
            n: self.n(),
            seq: self.seq(),
            id: EventId::from_bytes(record.id).as_str().to_owned(),
            time_ms: record.time_ms,
            topic: record.topic.clone().into_owned(),
            source: record.source.clone().into_owned(),
            principal: record.principal.clone().into_owned(),
            intent_id: owned(&record.intent),
            correlation_id: owned(&record.correlation),
            causation_id: owned(&record.causation),
            tool_call_id: owned(&record.tool_call),
            grant: super::grant_of(&record).map(str::to_owned),
            data: record.data.to_owned(),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::record::tests::record;
    use kairo_wire::codec::raw::Raw;

    #[test]
    fn a_record_is_read_as_it_was_added_and_follows_from_the_one_before() {
        let data = Raw::of(&serde_json::json!({"method": "process.spawn", "grant": "g1"})).expect("a value");
        let mut head = Head::default();
        let mut before = head;
        for seq in [7, 9] {
            let stored =
                head.add(seq, &record(seq, "kairo.kernel.called", &data).encode().expect("a record"));
            let link = Link::parse(&stored).expect("a link");
            assert_eq!((link.n(), link.seq(), link.hash), (before.n + 1, seq, head.hash));
            assert_eq!(before.hash_of(&link.body), link.hash);
            let told = link.told().expect("it can be read");
            assert_eq!((told.n, told.grant.as_deref()), (head.n, Some("g1")));
            before = head;
        }
    }

    #[test]
    fn the_first_hash_is_what_the_document_says() {
        let stored = Head::default().add(5, b"x");
        let body = [&[0; 7][..], &[1], &[0; 7], &[5], b"x"].concat();
        let hash: Hash = Sha256::digest([&[0; 32][..], &body].concat()).into();
        assert_eq!(&stored[..32], hash);
        assert_eq!(&stored[32..], body);
        assert_eq!(Link::parse(&stored.slice(..48)), None);
    }
}
