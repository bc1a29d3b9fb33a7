//! The state folder: what outlives a kernel, and the proof that it is ours to use.
//!
//! ```text
//!   format     which version of all this         read before anything is touched
//!   migrating  a change of version under way     resumed at the next start
//!   identity   machine, user, boot               whose it is, and whether the machine was restarted since
//!   log/       everything that happened, session records among it      written by [`log`](crate::log)
//!   key        what restarts are sealed with     made at the first one: [`seal`]
//!   audit.key  what the audit is signed with       made at the first start: [`signing`]
//!   kernel.lock, keeper.sock                     who is alive
//! ```
//!
//! [`inspect`] comes first, while this program has one thread; [`open`] when there is a log. Both under the lock. Invariant: a folder of a newer
//! version, of another machine or of another user is refused before a byte in it has changed, the lock's file apart.

pub(crate) mod format;
pub(crate) mod identity;
mod leftovers;
pub(crate) mod records;
mod remains;
mod seal;
mod secret;
mod signing;

use identity::Identity;
use kairo_controlplane::audit::checkpoint::Key;
use kairo_controlplane::events::log::{Audited, Damage, Log, LogError, Opened, Options};
use kairo_controlplane::records::Recollection;
use kairo_wire::event::LossCause;
use seal::Seal;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the state folder can't be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// A newer kairo has been here.
    #[error("the state folder {} has format {found} and this kairo knows formats up to {known}; nothing was changed: \
        use a newer kairo, or choose another --state", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    /// It is somebody else's, or damaged.
    #[error("{} is not what kairo writes there; nothing was changed: move it away or choose another --state", path.display())]
    Unreadable { path: PathBuf },
    /// It comes from another machine or another user.
    #[error("the state folder {} was written on machine {theirs} and this is machine {ours}; nothing was changed: choose \
        another --state, or give --adopt-foreign-state to make it this machine's (its processes are then lost)", path.display())]
    Foreign { path: PathBuf, theirs: String, ours: String },
    /// A keeper that is not ours listens there.
    #[error("the keeper at {} belongs to uid {owner} and this is uid {ours}; it is left alone: choose another --state", path.display())]
    ForeignKeeper { path: PathBuf, owner: u32, ours: u32 },
    /// Others may read what must not be read.
    #[error("{} can be read by others (mode {mode:04o}); chmod it to 0600, or remove it: {lost}",
        path.display())]
    ExposedKey { path: PathBuf, mode: u32, lost: &'static str },
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system said no.
    #[error("{what} {}: {source}", path.display())]
    Os { what: &'static str, path: PathBuf, source: io::Error },
}

/// Turns an error of the system into one that says what was tried, on what.
fn os<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> StateError {
    let path = path.to_path_buf();
    move |error| StateError::Os { what, path, source: error.into() }
}

/// An open state folder.
pub(crate) struct State {
    log: Log,
    seal: Seal,
    past: Past,
}

/// What former kernels have left to account for.
#[derive(Debug)]
pub(crate) struct Past {
    lives: Vec<Recollection>,
    /// Lives that are over, and which of their outputs had closed before.
    over: Vec<(String, [bool; 2])>,
    cause: LossCause,
    /// What the log has lost, and where what is damaged was put.
    damage: (Vec<Damage>, Vec<PathBuf>),
    /// What was found of its audit.
    audit: Audited,
}

/// Whether the kernel that holds the folder's lock may use it. Changes nothing but a socket of a keeper that is dead.
/// With `adopt_foreign` it may whoever's it was.
pub(crate) fn inspect(folder: &Path, adopt_foreign: bool) -> Result<(), StateError> {
    format::gate(folder)?;
    let here = Identity::here();
    let before = Identity::read(folder)?.filter(|before| before.is_foreign_to(&here) && !adopt_foreign);
    if let Some(before) = before {
        let path = folder.to_path_buf();
        return Err(StateError::Foreign { path, theirs: before.told(), ours: here.told() });
    }
    leftovers::inspect_keeper(folder)
}

/// Opens a folder that [`inspect`] has found usable: brings it to this version, clears what dead kernels have left, reads
/// the records. Tells the log what it finds.
pub(crate) fn open(folder: &Path) -> Result<State, StateError> {
    let here = Identity::here();
    let before = Identity::read(folder)?;
    let foreign = before.as_ref().is_some_and(|before| before.is_foreign_to(&here));
    format::migrate(folder, &here, |_| Ok(()))?;
    leftovers::clear(folder)?;
    let seal = Seal::open(folder)?;
    let key = signing::key(folder)?;
    let (log, opened) = log_of(folder, &here, Some(key))?;
    let lives = opened.lives.iter().map(|(_, kind, bytes)| (*kind, &bytes[..]));
    let ledger = records::fold(lives, &seal);
    let over = ledger.over().cloned().collect();
    let lives = ledger.into_lives();
    let cause = match &before {
        Some(_) if foreign => LossCause::Moved,
        Some(before) if before.boot == here.boot => LossCause::Keeper,
        Some(_) => LossCause::Reboot,
        None => LossCause::Keeper,
    };
    // From here on the records are those of this boot. Were it written later, a crash in between would only have the
    // reboot told twice; were it never written, every start would tell of one.
    if before.as_ref() != Some(&here) {
        here.write(folder)?;
    }
    let past = Past { lives, over, cause, damage: (opened.damage, opened.quarantined), audit: opened.audit };
    Ok(State { log, seal, past })
}

/// The log of a folder.
fn log_of(folder: &Path, here: &Identity, audit: Option<Key>) -> Result<(Log, Opened), StateError> {
    Ok(Log::open(&folder.join("log"), Options { boot: here.boot.clone(), audit })?)
}

impl State {
    /// The log, to be written, what seals records, and the past.
    pub(crate) fn into_parts(self) -> (Log, Seal, Past) {
        (self.log, self.seal, self.past)
    }
}

impl Past {
    /// The latest lives that are over, and which of their outputs had closed before.
    pub(crate) fn over(&mut self) -> Vec<(String, [bool; 2])> {
        std::mem::take(&mut self.over)
    }

    /// What the log has lost.
    pub(crate) fn damage(&mut self) -> Vec<Damage> {
        for path in self.damage.1.drain(..) {
            tracing::error!(component = "state", path = %path.display(), "a damaged part of the log is kept here");
        }
        std::mem::take(&mut self.damage.0)
    }

    /// What was found of the audit.
    pub(crate) fn audit(&mut self) -> Audited {
        std::mem::take(&mut self.audit)
    }

    /// What the records tell of lives nobody has handed over, and what took them. Of those that will be started again
    /// nothing is left running when this returns. How long an output was that had not ended, its spool under `spools`
    /// tells.
    pub(crate) fn recollect(
        &mut self,
        adopted: &BTreeSet<String>,
        spools: &Path,
    ) -> (Vec<Recollection>, LossCause) {
        let mut past = std::mem::take(&mut self.lives);
        for one in past.iter_mut().filter(|one| !adopted.contains(&one.life.session)) {
            remains::measure(one, spools);
        }
        if self.cause == LossCause::Keeper {
            remains::look(past.iter_mut().filter(|one| !adopted.contains(&one.life.session)));
        }
        (past, self.cause)
    }
}

/// Puts a whole new file in the place of an old one: after a crash there is the one or the other.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (fresh, path) = (folder.join(format!("{name}.tmp")), folder.join(name));
    let mut file = create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, &path)?;
    sync_folder(folder)
}

/// An empty file only we may read.
fn create(path: &Path) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(nofollow).open(path)
}

/// Makes a rename, or a new name, last.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A small file's text; none if there is no such file.
fn text_of(path: &Path) -> Result<Option<String>, StateError> {
    const BYTES_MAX: u64 = 4_096;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(os("opening", path)(error)),
    };
    let mut text = String::new();
    match file.take(BYTES_MAX).read_to_string(&mut text) {
        Ok(_) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(StateError::Unreadable { path: path.to_path_buf() })
        }
        Err(error) => Err(os("reading", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_controlplane::events::log::Kind;
    use kairo_controlplane::records::{Entry, Ledger, Spec};
    use kairo_dataplane::control::ExitStatus;
    use kairo_wire::methods::process::SpawnParams;
    use records::tests::life;
    use std::os::unix::fs::PermissionsExt;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/state-v1");

    /// What the fixture tells: one that ran, one that is to be started again, one that was told lost.
    fn write_records(folder: &Path) {
        let State { mut log, mut seal, .. } = open(folder).unwrap();
        let params: SpawnParams = serde_json::from_value(serde_json::json!({
            "id": "due", "command": ["sleep", "9"], "options": { "env": { "A": "b" }, "restart": "always" },
        }))
        .unwrap();
        let mut due = life("due");
        due.restart = params.options.as_ref().unwrap().restart;
        due.attempts = 2;
        let spec = Spec { session: "due".to_owned(), params, gid: 5, groups: vec![6] };
        let mut ledger = Ledger::default();
        for entry in [
            Entry::Spawned(Box::new(life("ran"))),
            Entry::Spawned(Box::new(due)),
            Entry::Ended { session: "due".to_owned(), due: true },
        ] {
            ledger.apply(entry);
        }
        ledger.specify([spec]);
        log.replace_lives(&records::written(&ledger, &mut seal)).unwrap();
    }

    /// As the first release that had records left it.
    fn unpack_fixture(folder: &Path) {
        for name in ["format", "identity", "sessions.log", "key"] {
            std::fs::copy(Path::new(FIXTURE).join(name), folder.join(name)).unwrap();
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(folder.join(name), private).unwrap();
        }
    }

    #[test]
    fn a_folder_of_the_first_release_with_records_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        unpack_fixture(folder.path());
        inspect(folder.path(), true).unwrap();
        for opening in ["brought to this format", "and opened again"] {
            let past = open(folder.path()).unwrap().past.lives;
            let told: Vec<&str> = past.iter().map(|one| one.life.session.as_str()).collect();
            assert_eq!(told, ["ran", "due", "gone"], "{opening}");
            assert_eq!(past[0].ends[1].unwrap().total_bytes, 1 << 40);
            assert!(past[1].due && past[1].life.attempts == 2);
            assert_eq!(past[1].exit.unwrap().0, ExitStatus::Code(3));
            let spec = past[1].spec.as_ref().unwrap();
            assert_eq!(spec.params.options.as_ref().unwrap().env["A"].as_bytes(), b"b");
            assert_eq!(past[2].lost, Some(LossCause::Reboot));
            assert!(!folder.path().join("sessions.log").exists());
        }
    }

    #[test]
    fn a_restart_whose_key_is_gone_is_a_life_without_one() {
        let folder = tempfile::tempdir().unwrap();
        write_records(folder.path());
        std::fs::remove_file(folder.path().join("key")).unwrap();
        let past = open(folder.path()).unwrap().past.lives;
        assert!(past[1].due && past[1].spec.is_none());
    }

    #[test]
    fn nothing_in_the_folder_is_for_others_to_read() {
        let folder = tempfile::tempdir().unwrap();
        write_records(folder.path());
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
        }
        let State { log, .. } = open(folder.path()).unwrap();
        let lives = log.reader().lives().unwrap();
        assert!(lives.iter().any(|(_, kind, _)| *kind == Kind::Sealed));
        let clear = |bytes: &[u8]| bytes.windows(3).any(|window| window == b"A\xa1b");
        assert!(!lives.iter().any(|(_, _, bytes)| clear(bytes)), "the environment is in clear");
    }
}
