//! The session records: what lines of the log mean together, and how those of an older folder come into it.
//!
//! ```text
//!   sessions.log (format 1):  "KAIROREC"  version u16  0 u16  crc32 u32          integers are little-endian
//!                  record:    length u32  crc32 u32 (kind and payload)  kind u8  payload
//! ```
//!
//! What a line means is the control plane's to say. Invariant: of an older file every whole record is taken; what comes
//! behind the last one stays in `sessions.log.torn`, and is named.

use super::seal::Seal;
use super::{StateError, os};
use kairo_controlplane::events::log::{Kind, Life};
use kairo_controlplane::records::{Entry, Ledger, RECORD_VERSION, Spec};
use std::io;
use std::path::Path;

/// Seals and unseals what a restart needs.
pub(crate) type Sealer = Seal;

/// The file of a folder of format 1.
pub(super) const FILE: &str = "sessions.log";
const MAGIC: &[u8; 8] = b"KAIROREC";
const HEADER_BYTES: usize = 16;
const PRELUDE_BYTES: usize = 9;
/// Longest payload: a request has at most 1 MiB of arguments and environment, and is sealed whole.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// What lines mean together. Those that can't be read are stepped over, and named.
pub(crate) fn fold<'a>(lives: impl Iterator<Item = (Kind, &'a [u8])>, seal: &Seal) -> Ledger {
    let mut ledger = Ledger::default();
    for (kind, payload) in lives {
        match kind {
            Kind::Clear => match Entry::from_bytes(payload) {
                Ok(entry) => ledger.apply(entry),
                Err(error) => tracing::warn!(component = "state", %error, "a record is stepped over"),
            },
            Kind::Sealed => match seal.unseal(payload).map(|clear| Spec::from_bytes(&clear)) {
                Some(Ok(spec)) => ledger.specify([spec]),
                Some(Err(error)) => {
                    tracing::warn!(component = "state", %error, "a sealed record is stepped over")
                }
                None => tracing::warn!(
                    component = "state",
                    "a sealed record has lost its key: no restart from it"
                ),
            },
        }
    }
    ledger
}

/// The shortest lines that mean the same.
pub(crate) fn written(ledger: &Ledger, seal: &mut Seal) -> Vec<Life> {
    let mut lives = Vec::new();
    let mut put = |kind, bytes: io::Result<Vec<u8>>| match bytes {
        Ok(bytes) => lives.push(Life { kind, bytes: bytes.into() }),
        Err(error) => tracing::error!(component = "state", %error, "a record can't be written again"),
    };
    for life in ledger.lives() {
        for entry in life.entries() {
            put(Kind::Clear, entry.to_bytes().map_err(io::Error::other));
        }
        if let Some(spec) = &life.spec {
            let sealed = spec.to_bytes().map_err(io::Error::other).and_then(|spec| seal.close(&spec));
            put(Kind::Sealed, sealed);
        }
    }
    lives
}

/// The records of a folder of format 1; none if it has no file of them.
pub(super) fn of_file(folder: &Path) -> Result<Option<Vec<Life>>, StateError> {
    let path = folder.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(os("reading", &path)(error)),
    };
    let begins = check_header(&path, &bytes)?;
    let (lives, end) = whole(&bytes[begins..]);
    let torn = &bytes[begins + end..];
    if !torn.is_empty() {
        let aside = folder.join(format!("{FILE}.torn"));
        std::fs::write(&aside, torn).map_err(os("writing", &aside))?;
        tracing::error!(
            component = "state", file = %path.display(), offset = begins + end, bytes = torn.len(),
            kept = %aside.display(),
            "the session records end in the middle of one: processes recorded behind it are not known"
        );
    }
    Ok(Some(lives))
}

/// The whole records at the beginning of `bytes`, and where the first one that isn't whole begins. Records of a kind
/// this version doesn't know are stepped over.
fn whole(bytes: &[u8]) -> (Vec<Life>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((kind, payload)) = bytes.get(at..).and_then(first) {
        let kind = [(1, Kind::Clear), (2, Kind::Sealed)].into_iter().find(|known| known.0 == kind);
        found.extend(kind.map(|(_, kind)| Life { kind, bytes: payload.to_vec().into() }));
        at += PRELUDE_BYTES + payload.len();
    }
    (found, at)
}

fn first(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (prelude, rest) = bytes.split_at_checked(PRELUDE_BYTES)?;
    let word = |at: usize| prelude[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    let (length, sum, kind) = (word(0)? as usize, word(4)?, prelude[8]);
    let payload = rest.get(..length).filter(|_| length <= PAYLOAD_BYTES_MAX)?;
    let mut found = crc32fast::Hasher::new();
    found.update(&[kind]);
    found.update(payload);
    (found.finalize() == sum).then_some((kind, payload))
}

/// Where the records begin; 0 if there is no header worth the name.
fn check_header(path: &Path, bytes: &[u8]) -> Result<usize, StateError> {
    let Some(found) = bytes.get(..HEADER_BYTES) else { return Ok(0) };
    let sum = found[12..].try_into().map(u32::from_le_bytes).unwrap_or_default();
    if found[..8] != MAGIC[..] || crc32fast::hash(&found[..12]) != sum {
        return Ok(0);
    }
    let version = u16::from_le_bytes([found[8], found[9]]);
    if version > RECORD_VERSION {
        let (found, known) = (version.into(), RECORD_VERSION.into());
        return Err(StateError::Newer { path: path.to_path_buf(), found, known });
    }
    Ok(HEADER_BYTES)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kairo_wire::id::ProcessId;

    /// Of a process that is called as its session.
    pub(in crate::state) fn life(session: &str) -> kairo_controlplane::records::Life {
        kairo_controlplane::records::Life {
            id: ProcessId::Text(session.into()),
            session: session.to_owned(),
            owner_uid: 1_000,
            owner_session: None,
            owner_skill: None,
            argv: vec!["sleep".into(), "9".into()],
            cwd: None,
            run_uid: None,
            pid: i32::MAX,
            start_ticks: 7,
            started_ms: 1_700_000_000_000,
            terminal: None,
            stderr: true,
            history: (65_536, 262_144),
            spool: None,
            restart: Default::default(),
            attempts: 0,
            acts_as: None,
            under: None,
            line: Vec::new(),
        }
    }

    #[test]
    fn a_file_torn_anywhere_gives_its_whole_records() {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/state-v1/sessions.log");
        let bytes = std::fs::read(fixture).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut before = 0;
        for end in 0..=bytes.len() {
            std::fs::write(folder.path().join(FILE), &bytes[..end]).unwrap();
            let lives = of_file(folder.path()).unwrap().unwrap();
            assert!(lives.len() == before || lives.len() == before + 1, "{end}");
            before = lives.len();
        }
        assert!(before > 5);
        let mut harmed = bytes.clone();
        let last = harmed.len() - 1;
        harmed[last] ^= 1;
        std::fs::write(folder.path().join(FILE), &harmed).unwrap();
        assert_eq!(of_file(folder.path()).unwrap().unwrap().len(), before - 1);
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let mut header = *b"KAIROREC\x63\x00\x00\x00\x00\x00\x00\x00";
        let sum = crc32fast::hash(&header[..12]).to_le_bytes();
        header[12..].copy_from_slice(&sum);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), header).unwrap();
        assert!(matches!(of_file(folder.path()), Err(StateError::Newer { found: 99, .. })));
    }
}
