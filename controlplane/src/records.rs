//! The session records: what is written down of each life, so that a kernel whose keeper died too knows what there was.
//!
//! ```text
//!   spawned ──▶ exited ──▶ ended ──▶ (nothing is kept)          what a fold of the entries leaves is what a
//!      │           │         └─ due ──▶ spawned (the next life)   kernel at its start has to account for
//!      └───────────┴──────▶ lost ──▶ forgotten
//! ```
//!
//! Pure: entries to bytes and back, and the fold. Who writes them is the program's state folder, when, the sessions.
//! No entry holds a value of an environment, a secret argument or a byte of a stream: what a restart needs of those
//! is a [`Spec`], which is only ever written sealed.
//!
//! Invariant: an entry that names a life the fold doesn't know changes nothing, so entries may be folded twice.

use crate::auth::principal::Creator;
use crate::state::Cast;
use kairo_dataplane::control::{ExitStatus, StreamEnd};
use kairo_dataplane::key::Channel;
use kairo_dataplane::spool::SpoolLimits;
use kairo_wire::codec::text::OsText;
use kairo_wire::event::LossCause;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::SpawnParams;
use kairo_wire::methods::restart::Restart;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Version of [`Entry`] and [`Spec`]. Fields may be added within one; a change of meaning makes a new one.
pub const RECORD_VERSION: u16 = 1;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// They are not what this version writes.
    #[error("it can't be read: {0}")]
    Read(#[from] rmp_serde::decode::Error),
    /// It can't be written.
    #[error("it can't be written: {0}")]
    Write(#[from] rmp_serde::encode::Error),
}

/// Something that happened to a life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    /// It runs. Former lives of the same id are no longer of interest: they were over.
    Spawned(Box<Life>),
    /// Its leader ended.
    #[serde(rename_all = "camelCase")]
    Exited {
        /// Which.
        session: String,
        /// How.
        status: ExitStatus,
        /// When, milliseconds since 1970.
        at_ms: u64,
    },
    /// An output ended.
    #[serde(rename_all = "camelCase")]
    Closed {
        /// Which.
        session: String,
        /// Its stderr and not its stdout.
        stderr: bool,
        /// How long it was.
        total_bytes: u64,
        /// Of these, no longer kept.
        cut_bytes: u64,
    },
    /// Nobody of its tree is left.
    Ended {
        /// Which.
        session: String,
        /// It is to be started again.
        due: bool,
    },
    /// It is not to be started again, whatever it asked for.
    Renounced {
        /// Which.
        session: String,
    },
    /// Nobody can tell what became of it, and that has been told.
    Lost {
        /// Which.
        session: String,
        /// What took it.
        cause: LossCause,
    },
    /// Nobody needs to know any more.
    Forgotten {
        /// Which.
        session: String,
    },
}

/// A life, as it began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// Its name on the wire.
    pub id: ProcessId,
    /// This life's name.
    pub session: String,
    /// Who started it: the user …
    pub owner_uid: u32,
    /// … the session the creator ran in …
    #[serde(default)]
    pub owner_session: Option<String>,
    /// … and the skill it was.
    #[serde(default)]
    pub owner_skill: Option<String>,
    /// What it was started with, secrets replaced, long ones cut.
    pub argv: Vec<OsText>,
    /// Its working folder, if one was named.
    #[serde(default)]
    pub cwd: Option<OsText>,
    /// The user it runs as, if not the daemon's.
    #[serde(default)]
    pub run_uid: Option<u32>,
    /// Its leader.
    pub pid: i32,
    /// With the pid, a name for good within one boot.
    pub start_ticks: u64,
    /// When it ran, milliseconds since 1970.
    pub started_ms: u64,
    /// Rows and columns of its terminal.
    #[serde(default)]
    pub terminal: Option<(u16, u16)>,
    /// It has a stderr of its own.
    pub stderr: bool,
    /// How much of its output was kept, bytes: head and tail of its stdout.
    pub history: (u32, u32),
    /// How much of its output went to disk.
    #[serde(default)]
    pub spool: Option<SpoolLimits>,
    /// Whether it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// Restarts it has had.
    #[serde(default)]
    pub attempts: u32,
    /// Whom it is for the kernel: of which user, by which name, in which session of an agent.
    #[serde(default)]
    pub acts_as: Option<(u32, String, Option<String>)>,
    /// The grant it ran under.
    #[serde(default)]
    pub under: Option<String>,
    /// Who started it, and who started that: of which user, by which name.
    #[serde(default)]
    pub line: Vec<(u32, String)>,
}

impl Life {
    /// Who started it.
    pub fn creator(&self) -> Creator {
        Creator {
            uid: self.owner_uid,
            session: self.owner_session.as_deref().map(Into::into),
            name: self.owner_skill.as_deref().map(Into::into),
        }
    }

    /// In whose name it ran.
    pub(crate) fn cast(&self) -> Cast {
        Cast::read(self.acts_as.as_ref(), self.under.as_deref(), &self.line)
    }
}

/// What a restart needs and a record must not hold in clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Which life.
    pub session: String,
    /// The request as it came.
    pub params: SpawnParams,
    /// Group of the caller that became another user.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

impl Entry {
    /// Which life it is about.
    pub fn session(&self) -> &str {
        match self {
            Entry::Spawned(life) => &life.session,
            Entry::Exited { session, .. }
            | Entry::Closed { session, .. }
            | Entry::Ended { session, .. }
            | Entry::Renounced { session }
            | Entry::Lost { session, .. }
            | Entry::Forgotten { session } => session,
        }
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        Ok(rmp_serde::to_vec_named(self)?)
    }

    /// Reads it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Entry, RecordError> {
        Ok(rmp_serde::from_slice(bytes)?)
    }
}

impl Spec {
    /// As it is sealed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        Ok(rmp_serde::to_vec_named(self)?)
    }

    /// Reads it, unsealed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Spec, RecordError> {
        Ok(rmp_serde::from_slice(bytes)?)
    }
}

/// What is left of a life that a former kernel has written down.
#[derive(Clone, Debug)]
pub struct Recollection {
    /// As it began.
    pub life: Life,
    /// How its leader ended, and when (milliseconds since 1970), if it had.
    pub exit: Option<(ExitStatus, u64)>,
    /// Its outputs that had ended, by channel.
    pub ends: [Option<StreamEnd>; 2],
    /// Nobody of its tree was left, and its next life had not begun.
    pub due: bool,
    /// It has been told lost before.
    pub lost: Option<LossCause>,
    /// What a restart needs, if that could be unsealed.
    pub spec: Option<Spec>,
    /// Its leader is found to run still, under nobody.
    pub running: bool,
}

/// The fold of all entries: the lives that have to be accounted for, oldest first.
#[derive(Debug, Default)]
pub struct Ledger {
    lives: BTreeMap<u64, Recollection>,
    places: BTreeMap<String, u64>,
    born: u64,
    over: VecDeque<(String, [bool; 2])>,
}

/// How many lives that are over are remembered by the outputs that had closed before: more than a kernel can have ended that
/// its keeper does not know of.
const OVER_MAX: usize = 256;

impl Ledger {
    /// Folds one entry in.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Spawned(life) => self.spawned(*life),
            Entry::Exited { session, status, at_ms } => {
                self.with(&session, |life| life.exit = Some((status, at_ms)));
            }
            Entry::Closed { session, stderr, total_bytes, cut_bytes } => {
                let channel = if stderr { Channel::Stderr } else { Channel::Stdout };
                let end = StreamEnd { total_bytes, cut_bytes };
                self.with(&session, |life| life.ends[channel as usize] = Some(end));
            }
            Entry::Ended { session, due: true } => self.with(&session, |life| life.due = true),
            Entry::Renounced { session } => self.with(&session, |past| {
                past.life.restart = Restart::default();
                past.spec = None;
            }),
            Entry::Lost { session, cause } => self.with(&session, |life| life.lost = Some(cause)),
            Entry::Ended { session, due: false } | Entry::Forgotten { session } => {
                let place = self.places.remove(&session);
                let Some(life) = place.and_then(|place| self.lives.remove(&place)) else { return };
                self.over.push_back((session, life.ends.map(|end| end.is_some())));
                if self.over.len() > OVER_MAX {
                    self.over.pop_front();
                }
            }
        }
    }

    /// Folds unsealed specs in, each behind its life.
    pub fn specify(&mut self, specs: impl IntoIterator<Item = Spec>) {
        for spec in specs {
            let session = spec.session.clone();
            self.with(&session, |life| life.spec = Some(spec));
        }
    }

    fn spawned(&mut self, life: Life) {
        let over = |past: &Recollection| past.life.id == life.id;
        self.places.retain(|_, place| !self.lives.get(place).is_some_and(&over));
        self.lives.retain(|_, past| !over(past));
        self.born += 1;
        self.places.insert(life.session.clone(), self.born);
        let past = Recollection {
            life,
            exit: None,
            ends: [None; 2],
            due: false,
            lost: None,
            spec: None,
            running: false,
        };
        self.lives.insert(self.born, past);
    }

    fn with(&mut self, session: &str, change: impl FnOnce(&mut Recollection)) {
        if let Some(life) = self.places.get(session).and_then(|place| self.lives.get_mut(place)) {
            change(life);
        }
    }

    /// Whether a life of this name has to be accounted for.
    pub fn knows(&self, session: &str) -> bool {
        self.places.contains_key(session)
    }

    /// The latest lives that are over: which of their outputs had closed before, by channel.
    pub fn over(&self) -> impl Iterator<Item = &(String, [bool; 2])> {
        self.over.iter()
    }

    /// What there is, oldest first.
    pub fn lives(&self) -> impl Iterator<Item = &Recollection> {
        self.lives.values()
    }

    /// The same, to keep.
    pub fn into_lives(self) -> Vec<Recollection> {
        self.lives.into_values().collect()
    }
}

impl Recollection {
    /// The shortest entries whose fold is this.
    pub fn entries(&self) -> Vec<Entry> {
        let session = self.life.session.clone();
        let mut entries = vec![Entry::Spawned(Box::new(self.life.clone()))];
        if let Some((status, at_ms)) = self.exit {
            entries.push(Entry::Exited { session: session.clone(), status, at_ms });
        }
        for channel in Channel::ALL {
            if let Some(StreamEnd { total_bytes, cut_bytes }) = self.ends[channel as usize] {
                let stderr = channel == Channel::Stderr;
                entries.push(Entry::Closed { session: session.clone(), stderr, total_bytes, cut_bytes });
            }
        }
        if self.due {
            entries.push(Entry::Ended { session: session.clone(), due: true });
        }
        if let Some(cause) = self.lost {
            entries.push(Entry::Lost { session, cause });
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn life(id: &str, session: &str) -> Life {
        Life {
            id: ProcessId::Text(id.into()),
            session: session.to_owned(),
            owner_uid: 7,
            owner_session: None,
            owner_skill: Some("x".to_owned()),
            argv: vec!["sleep".into(), OsText::new(vec![0xff, 0xfe]).expect("no NUL")],
            cwd: None,
            run_uid: None,
            pid: 42,
            start_ticks: 9,
            started_ms: 1_700_000_000_000,
            terminal: Some((24, 80)),
            stderr: true,
            history: (1, 2),
            spool: None,
            restart: Restart::default(),
            attempts: 3,
            acts_as: Some((7, "agent:a".to_owned(), Some("as_1".to_owned()))),
            under: None,
            line: vec![(7, "skill:x".to_owned())],
        }
    }

    fn fold(entries: impl IntoIterator<Item = Entry>) -> Vec<String> {
        let mut ledger = Ledger::default();
        entries.into_iter().for_each(|entry| ledger.apply(entry));
        ledger.into_lives().into_iter().map(|past| past.life.session).collect()
    }

    fn spawned(id: &str, session: &str) -> Entry {
        Entry::Spawned(Box::new(life(id, session)))
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let session = || "s".to_owned();
        for entry in [
            spawned("a", "s"),
            Entry::Exited {
                session: session(),
                status: ExitStatus::Signal { signal: 9, core: true },
                at_ms: 5,
            },
            Entry::Closed { session: session(), stderr: true, total_bytes: 1 << 40, cut_bytes: 1 },
            Entry::Ended { session: session(), due: true },
            Entry::Renounced { session: session() },
            Entry::Lost { session: session(), cause: LossCause::Reboot },
            Entry::Forgotten { session: session() },
        ] {
            let bytes = entry.to_bytes().expect("it can be written");
            assert_eq!(Entry::from_bytes(&bytes).expect("and read"), entry);
        }
        assert!(Entry::from_bytes(b"nonsense").is_err());
    }

    #[test]
    fn what_has_ended_is_no_longer_of_interest_and_what_has_not_is() {
        let ended = |session: &str, due| Entry::Ended { session: session.to_owned(), due };
        assert_eq!(fold([spawned("a", "1"), spawned("b", "2"), ended("1", false)]), ["2"]);
        assert_eq!(fold([spawned("a", "1"), ended("1", true)]), ["1"]);
        assert_eq!(fold([spawned("a", "1"), ended("1", true), spawned("a", "2")]), ["2"]);
        assert_eq!(fold([ended("1", false), spawned("a", "1"), ended("2", true)]), ["1"]);
        let lost = Entry::Lost { session: "1".to_owned(), cause: LossCause::Keeper };
        assert_eq!(fold([spawned("a", "1"), lost.clone()]), ["1"]);
        assert_eq!(fold([spawned("a", "1"), lost.clone(), spawned("a", "2")]), ["2"]);
        assert!(fold([spawned("a", "1"), lost, Entry::Forgotten { session: "1".to_owned() }]).is_empty());
    }

    #[test]
    fn a_fold_written_down_and_folded_again_is_the_same() {
        let mut ledger = Ledger::default();
        for entry in [
            spawned("a", "1"),
            Entry::Exited { session: "1".to_owned(), status: ExitStatus::Code(3), at_ms: 5 },
            Entry::Closed { session: "1".to_owned(), stderr: false, total_bytes: 10, cut_bytes: 4 },
            spawned("b", "2"),
            Entry::Lost { session: "2".to_owned(), cause: LossCause::Reboot },
        ] {
            ledger.apply(entry);
        }
        let mut again = Ledger::default();
        ledger.lives().flat_map(Recollection::entries).for_each(|entry| again.apply(entry));
        let told = |ledger: &Ledger| format!("{:?}", ledger.lives().collect::<Vec<_>>());
        assert_eq!(told(&again), told(&ledger));
        assert!(again.knows("1") && !again.knows("3"));
    }

    #[test]
    fn a_request_comes_back_from_its_spec_whole() {
        let params = serde_json::json!({ "id": "a", "command": ["x", "y"], "options": {
            "env": { "A": "b" }, "pty": { "rows": 3, "cols": 4 }, "restart": "always", "durable": true,
            "limits": { "rlimits": { "nofile": 64 } }, "history": { "tailBytes": 8192 }, "user": 77,
        }});
        let params: SpawnParams = serde_json::from_value(params).expect("a request");
        let spec = Spec { session: "s".to_owned(), params, gid: 1, groups: vec![2] };
        let again = Spec::from_bytes(&spec.to_bytes().expect("it can be written")).expect("and read");
        assert_eq!(format!("{again:?}"), format!("{spec:?}"));
    }
}
