//! The file of the session records: append-only, each record whole or not there.
//!
//! ```text
//!   header:  "KAIROREC"  version u16  0 u16  crc32 u32          integers are little-endian
//!   record:  length u32  crc32 u32 (kind and payload)  kind u8  payload
//! ```
//!
//! Reading stops at the first record that isn't whole. What comes behind it is moved to `sessions.log.N.torn` and named,
//! never thrown away. A file that has grown beyond what it tells is written anew beside itself and put in place by a
//! rename. Invariant: every byte before the end of the last whole record stays as it was written. When records are
//! written and flushed is [`writer`](super::writer)'s; what they mean, the control plane's.

use super::seal::Seal;
use super::{StateError, create, os, sync_folder};
use kairo_controlplane::records::{Entry, Ledger, RECORD_VERSION, Recollection, Spec};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Its name in the folder.
pub(super) const FILE: &str = "sessions.log";

const MAGIC: &[u8; 8] = b"KAIROREC";
const HEADER_BYTES: usize = 16;
const PRELUDE_BYTES: usize = 9;
/// Longest payload: a request has at most 1 MiB of arguments and environment, and is sealed whole.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// A file is written anew when it is at least this long and …
const COMPACT_BYTES_MIN: u64 = 4 << 20;
/// … this many times as long as what it tells.
const COMPACT_FACTOR: u64 = 4;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An entry as it is.
    Clear,
    /// A spec, sealed.
    Sealed,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Clear => 1,
            Kind::Sealed => 2,
        }
    }

    fn of(byte: u8) -> Option<Kind> {
        [Kind::Clear, Kind::Sealed].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// The open file, at its end.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    seal: Seal,
    /// Bytes of whole records and the header.
    length: u64,
    /// Length after it was last written anew.
    compact: u64,
}

/// The first bytes of a file without records.
pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&RECORD_VERSION.to_le_bytes());
    let sum = crc32(&[&header[..12]]);
    header[12..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Appends one record to a buffer.
fn put(buf: &mut Vec<u8>, kind: Kind, payload: &[u8]) -> io::Result<()> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    buf.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buf.extend_from_slice(&crc32(&[&[kind.byte()], payload]).to_le_bytes());
    buf.push(kind.byte());
    buf.extend_from_slice(payload);
    Ok(())
}

/// The whole records at the beginning of `bytes`, and where the first one that isn't whole begins. Records of a kind
/// this version doesn't know are stepped over.
fn whole(bytes: &[u8]) -> (Vec<(Kind, &[u8])>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((kind, payload)) = bytes.get(at..).and_then(first) {
        found.extend(Kind::of(kind).map(|kind| (kind, payload)));
        at += PRELUDE_BYTES + payload.len();
    }
    (found, at)
}

fn first(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (prelude, rest) = bytes.split_at_checked(PRELUDE_BYTES)?;
    let word = |at: usize| prelude[at..at + 4].try_into().map(u32::from_le_bytes).ok();
    let (length, sum, kind) = (word(0)? as usize, word(4)?, prelude[8]);
    let payload = rest.get(..length).filter(|_| length <= PAYLOAD_BYTES_MAX)?;
    (crc32(&[&[kind], payload]) == sum).then_some((kind, payload))
}

impl Journal {
    /// Reads the file and goes on at its end. Returns the lives that have to be accounted for.
    pub(super) fn open(folder: &Path) -> Result<(Journal, Vec<Recollection>), StateError> {
        let path = folder.join(FILE);
        let seal = Seal::open(folder)?;
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.custom_flags(nofollow).open(&path).map_err(os("opening", &path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(os("reading", &path))?;
        let begins = check_header(&path, &bytes)?;
        let (records, end) = whole(&bytes[begins..]);
        let ledger = fold(&records, &seal);
        let end = begins + end;
        if end < bytes.len() || begins == 0 {
            set_aside(folder, &path, &mut file, &bytes, end).map_err(os("mending", &path))?;
        }
        let length = end.max(HEADER_BYTES) as u64;
        file.seek(SeekFrom::Start(length)).map_err(os("reading", &path))?;
        let folder = folder.to_path_buf();
        let mut journal = Journal { folder, file, seal, length, compact: 0 };
        if journal.is_overgrown() {
            journal.rewrite(&ledger).map_err(os("writing anew", &path))?;
        }
        Ok((journal, ledger.into_lives()))
    }

    /// Writes records, whole, without waiting for the disk.
    pub(super) fn append(&mut self, records: &[(Kind, &[u8])]) -> io::Result<()> {
        let mut buf = Vec::new();
        for (kind, payload) in records {
            match kind {
                Kind::Clear => put(&mut buf, Kind::Clear, payload)?,
                Kind::Sealed => put(&mut buf, Kind::Sealed, &self.seal.close(payload)?)?,
            }
        }
        match self.file.write_all(&buf) {
            Ok(()) => {
                self.length += buf.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record at the end would be found torn; better none.
                let _ = self.file.set_len(self.length);
                Err(error)
            }
        }
    }

    /// Waits until the disk has all that was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// True when most of the file tells of what is over.
    pub(super) fn is_overgrown(&self) -> bool {
        self.length >= COMPACT_BYTES_MIN && self.length >= self.compact * COMPACT_FACTOR
    }

    /// Writes the file anew with what it still has to tell.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        self.file.read_to_end(&mut bytes)?;
        let (records, _) = whole(&bytes);
        let ledger = fold(&records, &self.seal);
        self.rewrite(&ledger)
    }

    fn rewrite(&mut self, ledger: &Ledger) -> io::Result<()> {
        let mut buf = header().to_vec();
        for life in ledger.lives() {
            for entry in life.entries() {
                put(&mut buf, Kind::Clear, &entry.to_bytes().map_err(io::Error::other)?)?;
            }
            if let Some(spec) = &life.spec {
                let spec = spec.to_bytes().map_err(io::Error::other)?;
                put(&mut buf, Kind::Sealed, &self.seal.close(&spec)?)?;
            }
        }
        let (fresh, path) = (self.folder.join(format!("{FILE}.tmp")), self.folder.join(FILE));
        let mut file = create(&fresh)?;
        file.write_all(&buf)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        sync_folder(&self.folder)?;
        self.file = file;
        self.length = buf.len() as u64;
        self.compact = self.length;
        Ok(())
    }
}

/// Where the records begin; 0 if there is no header worth the name.
fn check_header(path: &Path, bytes: &[u8]) -> Result<usize, StateError> {
    let Some(found) = bytes.get(..HEADER_BYTES) else { return Ok(0) };
    let sum = found[12..].try_into().map(u32::from_le_bytes).unwrap_or_default();
    if found[..8] != MAGIC[..] || crc32(&[&found[..12]]) != sum {
        return Ok(0);
    }
    let version = u16::from_le_bytes([found[8], found[9]]);
    if version > RECORD_VERSION {
        let (found, known) = (version.into(), RECORD_VERSION.into());
        return Err(StateError::Newer { path: path.to_path_buf(), found, known });
    }
    Ok(HEADER_BYTES)
}

fn fold(records: &[(Kind, &[u8])], seal: &Seal) -> Ledger {
    let mut ledger = Ledger::default();
    for (kind, payload) in records {
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

/// Moves what comes behind the last whole record into a file of its own, and ends this one there.
fn set_aside(folder: &Path, path: &Path, file: &mut File, bytes: &[u8], end: usize) -> io::Result<()> {
    let torn = &bytes[end..];
    if !torn.is_empty() {
        let free = |number: &u32| !folder.join(format!("{FILE}.{number}.torn")).exists();
        let number = (1..=u32::MAX).find(free).unwrap_or(u32::MAX);
        let aside = folder.join(format!("{FILE}.{number}.torn"));
        let mut kept = create(&aside)?;
        kept.write_all(torn)?;
        kept.sync_all()?;
        sync_folder(folder)?;
        tracing::error!(
            component = "state", file = %path.display(), offset = end, bytes = torn.len(), kept = %aside.display(),
            "the session records end in the middle of one: processes recorded behind it are not known"
        );
    }
    file.set_len(end as u64)?;
    if end < HEADER_BYTES {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&header())?;
    }
    file.sync_all()
}

/// CRC-32 as in Ethernet and zip (ISO 3309), of all parts as one.
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut rest, mut bit) = (byte as u32, 0);
            while bit < 8 {
                rest = if rest & 1 == 1 { 0xedb8_8320 ^ (rest >> 1) } else { rest >> 1 };
                bit += 1;
            }
            table[byte] = rest;
            byte += 1;
        }
        table
    };
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize] ^ (sum >> 8))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kairo_controlplane::records::Life;
    use kairo_wire::event::LossCause;
    use kairo_wire::id::ProcessId;

    /// Of a process that is called as its session.
    pub(in crate::state) fn life(session: &str) -> Life {
        Life {
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
        }
    }

    fn spawned(session: &str) -> Entry {
        Entry::Spawned(Box::new(life(session)))
    }

    fn append(journal: &mut Journal, entries: &[Entry]) {
        for entry in entries {
            journal.append(&[(Kind::Clear, &entry.to_bytes().unwrap())]).unwrap();
        }
    }

    fn sessions(folder: &Path) -> Vec<String> {
        let (_, past) = Journal::open(folder).unwrap();
        past.into_iter().map(|one| one.life.session).collect()
    }

    fn torn(folder: &Path) -> usize {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".torn")).count()
    }

    #[test]
    fn the_checksum_is_the_well_known_one() {
        assert_eq!(crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
    }

    #[test]
    fn what_was_written_is_there_after_the_next_open() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, past) = Journal::open(folder.path()).unwrap();
        assert!(past.is_empty());
        append(&mut journal, &[spawned("1"), spawned("2")]);
        journal.flush().unwrap();
        drop(journal);
        assert_eq!(sessions(folder.path()), ["1", "2"]);
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        append(&mut journal, &[Entry::Ended { session: "1".to_owned(), due: false }, spawned("3")]);
        drop(journal);
        assert_eq!(sessions(folder.path()), ["2", "3"]);
        assert_eq!(torn(folder.path()), 0);
    }

    #[test]
    fn a_file_cut_off_at_any_byte_tells_all_whole_records_and_keeps_the_rest_aside() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        append(&mut journal, &[spawned("1")]);
        let one = journal.length as usize;
        append(&mut journal, &[spawned("2")]);
        drop(journal);
        let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
        for length in 0..bytes.len() {
            let cut = tempfile::tempdir().unwrap();
            std::fs::write(cut.path().join(FILE), &bytes[..length]).unwrap();
            let expected: &[&str] = if length < one { &[] } else { &["1"] };
            assert_eq!(sessions(cut.path()), expected, "{length}");
            let clean = [0, HEADER_BYTES, one].contains(&length);
            assert_eq!(torn(cut.path()), usize::from(!clean), "{length}");
            // It is mended: the next record is found.
            let (mut journal, _) = Journal::open(cut.path()).unwrap();
            append(&mut journal, &[spawned("3")]);
            drop(journal);
            assert_eq!(sessions(cut.path()).last().map(String::as_str), Some("3"), "{length}");
            assert_eq!(torn(cut.path()), usize::from(!clean), "{length}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_what_comes_behind_it_and_that_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        append(&mut journal, &[spawned("1")]);
        let one = journal.length as usize;
        append(&mut journal, &[spawned("2"), spawned("3")]);
        drop(journal);
        let path = folder.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[one + PRELUDE_BYTES + 5] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(sessions(folder.path()), ["1"]);
        let aside = std::fs::read(folder.path().join(format!("{FILE}.1.torn"))).unwrap();
        assert_eq!(aside, bytes[one..]);
        // A second accident gets a file of its own.
        bytes[one + PRELUDE_BYTES + 6] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(sessions(folder.path()), ["1"]);
        assert_eq!(torn(folder.path()), 2);
    }

    #[test]
    fn records_of_a_newer_version_are_refused_and_a_file_that_is_none_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let mut newer = header();
        newer[8] = 9;
        let sum = crc32(&[&newer[..12]]);
        newer[12..].copy_from_slice(&sum.to_le_bytes());
        std::fs::write(folder.path().join(FILE), newer).unwrap();
        assert!(matches!(Journal::open(folder.path()), Err(StateError::Newer { found: 9, .. })));
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), newer);
        std::fs::write(folder.path().join(FILE), b"a file of somebody who lost his way").unwrap();
        assert!(sessions(folder.path()).is_empty());
        assert_eq!(torn(folder.path()), 1);
    }

    #[test]
    fn a_file_written_anew_tells_the_same_in_fewer_words() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path()).unwrap();
        append(
            &mut journal,
            &[spawned("kept"), Entry::Lost { session: "kept".to_owned(), cause: LossCause::Reboot }],
        );
        while !journal.is_overgrown() {
            append(&mut journal, &[spawned("over"), Entry::Ended { session: "over".to_owned(), due: false }]);
        }
        let before = journal.length;
        journal.compact().unwrap();
        assert!(journal.length * 100 < before && !journal.is_overgrown());
        append(&mut journal, &[spawned("after")]);
        drop(journal);
        let (_, past) = Journal::open(folder.path()).unwrap();
        assert_eq!(past.len(), 2);
        assert_eq!(past[0].lost, Some(LossCause::Reboot));
        assert!(!folder.path().join(format!("{FILE}.tmp")).exists());
    }
}
