//! The version of the state folder, and the way from one to the next.
//!
//! Version 0 is a folder of a kairo that wrote nothing but `kernel.lock`, version 1 has the session records in a file of
//! their own, in version 2 they are in the log, which has an audit beside it from version 3 on. A migration is a list of steps, each of which
//! may be done twice; while one is under way the file `migrating` says from where to where, so that whoever comes next,
//! after a crash between any two of them, goes on. Invariant: a version is claimed only after everything it promises is
//! there.

use super::identity::Identity;
use super::{StateError, log_of, os, records, replace, sync_folder, text_of};
use std::io;
use std::path::Path;

/// What this kairo writes.
pub(crate) const FORMAT: u32 = 3;

pub(super) const FORMAT_FILE: &str = "format";
pub(super) const MARKER: &str = "migrating";
const PREFIX: &str = "kairo state ";

/// The steps from any version to this one, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say that a migration is under way.
    Mark,
    /// Say whose the folder is.
    Identify,
    /// Begin the log, and take the session records into it.
    Begin,
    /// Take their file away.
    Clear,
    /// Claim the version.
    Claim,
    /// Say that it is over.
    Unmark,
}

impl Step {
    const ALL: [Step; 6] = [Step::Mark, Step::Identify, Step::Begin, Step::Clear, Step::Claim, Step::Unmark];
}

/// Refuses a folder of a newer kairo. Changes nothing.
pub(crate) fn gate(folder: &Path) -> Result<(), StateError> {
    let aimed_at = marker(folder)?.unwrap_or_default();
    let found = version(folder)?.max(aimed_at);
    if found > FORMAT {
        return Err(StateError::Newer { path: folder.to_path_buf(), found, known: FORMAT });
    }
    Ok(())
}

/// Brings the folder to this version. `before` is called before each step, and stops it with an error.
pub(crate) fn migrate(
    folder: &Path,
    here: &Identity,
    mut before: impl FnMut(Step) -> io::Result<()>,
) -> Result<(), StateError> {
    let from = version(folder)?;
    if from == FORMAT && marker(folder)?.is_none() {
        return Ok(());
    }
    for step in Step::ALL {
        let doing = "bringing to the new format the state folder";
        before(step).map_err(os(doing, folder))?;
        match step {
            Step::Begin => begin(folder, here)?,
            _ => perform(folder, here, step).map_err(os(doing, folder))?,
        }
    }
    tracing::info!(component = "state", from, to = FORMAT, "the state folder has a new format");
    Ok(())
}

fn perform(folder: &Path, here: &Identity, step: Step) -> io::Result<()> {
    match step {
        Step::Mark => replace(folder, MARKER, format!("{PREFIX}{FORMAT}\n").as_bytes()),
        Step::Identify if folder.join(super::identity::FILE).exists() => Ok(()),
        Step::Identify => replace(folder, super::identity::FILE, here.text().as_bytes()),
        Step::Begin => Ok(()),
        Step::Clear => remove(folder, records::FILE),
        Step::Claim => replace(folder, FORMAT_FILE, format!("{PREFIX}{FORMAT}\n").as_bytes()),
        Step::Unmark => remove(folder, MARKER),
    }
}

/// Begins the log with the records of an older folder; as long as their file is there, they are all it has.
fn begin(folder: &Path, here: &Identity) -> Result<(), StateError> {
    let lives = records::of_file(folder)?;
    let (mut log, _) = log_of(folder, here, None)?;
    if let Some(lives) = lives {
        log.replace_lives(&lives)?;
    }
    Ok(log.sync()?)
}

fn remove(folder: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(folder),
    }
}

/// The version of the folder; 0 if nothing claims one.
fn version(folder: &Path) -> Result<u32, StateError> {
    Ok(number(folder, FORMAT_FILE)?.unwrap_or_default())
}

/// Where a migration that has not ended goes.
fn marker(folder: &Path) -> Result<Option<u32>, StateError> {
    number(folder, MARKER)
}

fn number(folder: &Path, name: &str) -> Result<Option<u32>, StateError> {
    let path = folder.join(name);
    let Some(text) = text_of(&path)? else { return Ok(None) };
    let number = text.strip_prefix(PREFIX).and_then(|rest| rest.trim_end().parse().ok());
    number.map(Some).ok_or(StateError::Unreadable { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_migration_cut_off_before_any_step_is_finished_by_the_next_start() {
        for cut in Step::ALL {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("kernel.lock"), "7\n").unwrap();
            let here = Identity::here();
            let error = migrate(folder.path(), &here, |step| {
                if step == cut { Err(io::Error::other("the lights went out")) } else { Ok(()) }
            });
            assert!(error.is_err(), "{cut:?}");
            gate(folder.path()).unwrap();
            migrate(folder.path(), &here, |_| Ok(())).unwrap();
            assert_eq!(version(folder.path()).unwrap(), FORMAT);
            assert_eq!(listing(folder.path()), ["format", "identity", "kernel.lock", "log"], "{cut:?}");
            // And once more changes nothing.
            migrate(folder.path(), &here, |step| panic!("{step:?}")).unwrap();
        }
    }

    #[test]
    fn a_migration_keeps_what_it_finds() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(super::super::identity::FILE), "somebody").unwrap();
        migrate(folder.path(), &Identity::here(), |_| Ok(())).unwrap();
        let text = std::fs::read_to_string(folder.path().join(super::super::identity::FILE)).unwrap();
        assert_eq!(text, "somebody");
    }

    #[test]
    fn a_newer_folder_is_refused_untouched_and_so_is_nonsense() {
        for (name, text) in [("format", "kairo state 4\n"), ("migrating", "kairo state 9\n")] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(name), text).unwrap();
            assert!(matches!(
                super::super::inspect(folder.path(), true),
                Err(StateError::Newer { known: FORMAT, .. })
            ));
            assert_eq!(listing(folder.path()), [name]);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("format"), "shopping list").unwrap();
        assert!(matches!(gate(folder.path()), Err(StateError::Unreadable { .. })));
    }
}
