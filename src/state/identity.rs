//! Whose a state folder is: the machine, the user, and the boot it was last used in.
//!
//! A folder that was copied or mounted elsewhere tells of processes that run on another machine, if anywhere. The
//! machine is known by a digest of machine-id(5), which must not be shown itself; where there is none it is unknown, and
//! what is unknown is not foreign.

use super::{StateError, os, replace, text_of};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Its name in the folder.
pub(super) const FILE: &str = "identity";

/// What is said of a machine or a boot that can't be told.
const UNKNOWN: &str = "unknown";
/// Mixed into the digest, so that it is ours and no one else's.
const SALT: &[u8] = b"kairo state folder\n";

/// Machine, user and boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// 16 hex digits, or `unknown`.
    pub(crate) machine: String,
    /// Of the kernel.
    pub(crate) uid: u32,
    /// A UUID of the kernel below, or `unknown`.
    pub(crate) boot: String,
}

impl Identity {
    /// Of this kernel, here and now.
    pub(crate) fn here() -> Identity {
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let named = |text: &String| !text.is_empty() && text != "uninitialized";
        let machine =
            ["/etc/machine-id", "/var/lib/dbus/machine-id"].into_iter().find_map(read).filter(named);
        let boot = read("/proc/sys/kernel/random/boot_id").filter(named);
        Identity {
            machine: machine.map_or_else(|| UNKNOWN.to_owned(), |id| digest(&id)),
            uid: rustix::process::geteuid().as_raw(),
            boot: boot.unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }

    /// Of whoever used the folder last; none if nobody has.
    pub(super) fn read(folder: &Path) -> Result<Option<Identity>, StateError> {
        let path = folder.join(FILE);
        let Some(text) = text_of(&path)? else { return Ok(None) };
        Identity::parse(&text).map(Some).ok_or(StateError::Unreadable { path })
    }

    /// Says that the folder is this one's.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StateError> {
        replace(folder, FILE, self.text().as_bytes()).map_err(os("writing", &folder.join(FILE)))
    }

    /// As it is written.
    pub(super) fn text(&self) -> String {
        format!("machine {}\nuid {}\nboot {}\n", self.machine, self.uid, self.boot)
    }

    fn parse(text: &str) -> Option<Identity> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let (machine, boot) = (field("machine")?.to_owned(), field("boot")?.to_owned());
        Some(Identity { machine, uid: field("uid")?.parse().ok()?, boot })
    }

    /// True exactly when the folder is known to be another machine's or another user's.
    pub(super) fn is_foreign_to(&self, here: &Identity) -> bool {
        let known = self.machine != UNKNOWN && here.machine != UNKNOWN;
        self.uid != here.uid || (known && self.machine != here.machine)
    }

    /// As it is told in an error.
    pub(super) fn told(&self) -> String {
        format!("{} (uid {})", self.machine, self.uid)
    }
}

fn digest(machine: &str) -> String {
    let hash = Sha256::new().chain_update(SALT).chain_update(machine).finalize();
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(machine: &str, uid: u32) -> Identity {
        Identity { machine: machine.to_owned(), uid, boot: "b".to_owned() }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_nonsense_is_none() {
        let here = Identity::here();
        assert_eq!(Identity::parse(&here.text()), Some(here));
        for text in ["", "machine a\n", "machine a\nuid x\nboot b\n"] {
            assert_eq!(Identity::parse(text), None);
        }
    }

    #[test]
    fn another_machine_and_another_user_are_foreign_and_the_unknown_is_not() {
        let here = identity("a", 1);
        assert!(!here.is_foreign_to(&here));
        assert!(identity("c", 1).is_foreign_to(&here));
        assert!(identity("a", 2).is_foreign_to(&here));
        assert!(!identity(UNKNOWN, 1).is_foreign_to(&here));
    }

    #[test]
    fn the_machines_own_id_is_not_shown() {
        let here = Identity::here();
        if let Ok(id) = std::fs::read_to_string("/etc/machine-id") {
            assert!(id.trim().is_empty() || !here.text().contains(id.trim()));
        }
    }

    #[test]
    fn a_moved_folder_is_refused_untouched_until_somebody_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        super::super::inspect(folder.path(), false).unwrap();
        drop(super::super::open(folder.path()).unwrap());
        let foreign = Identity { machine: "feedfeedfeedfeed".to_owned(), ..Identity::here() };
        std::fs::write(folder.path().join(FILE), foreign.text()).unwrap();
        let error = super::super::inspect(folder.path(), false).unwrap_err().to_string();
        assert!(error.contains("feedfeedfeedfeed") && error.contains(&Identity::here().machine), "{error}");
        assert_eq!(Identity::read(folder.path()).unwrap(), Some(foreign));
        super::super::inspect(folder.path(), true).unwrap();
        let state = super::super::open(folder.path()).unwrap();
        assert_eq!(
            state.into_parts().2.recollect(&Default::default(), folder.path()).1,
            kairo_wire::event::LossCause::Moved
        );
        assert_eq!(Identity::read(folder.path()).unwrap(), Some(Identity::here()));
    }
}
