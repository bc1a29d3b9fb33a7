//! The key the audit's checkpoints are signed with.
//!
//! It lies in the folder it vouches for, readable by its user alone. So what it proves, it proves against whoever has a copy
//! of the audit, or can write to it, without being that user or root; docs/AUDIT.md says what that is worth. Invariant: it is
//! made once, and a folder that has lost it gets another, which the audit tells.

use super::secret;
use super::{StateError, os};
use kairo_controlplane::audit::checkpoint::{KEY_BYTES, Key};
use std::path::Path;

/// Its name in the folder.
const FILE: &str = "audit.key";

/// Reads it, or makes it.
pub(super) fn key(folder: &Path) -> Result<Key, StateError> {
    let lost = "what it has signed is then another key's";
    let secret = match secret::read::<KEY_BYTES>(folder, FILE, lost)? {
        Some(secret) => secret,
        None => secret::make(folder, FILE).map_err(os("making", &folder.join(FILE)))?,
    };
    Ok(Key::new(&secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let made = key(folder.path()).unwrap();
        assert_eq!(key(folder.path()).unwrap().public(), made.public());
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(key(folder.path()), Err(StateError::ExposedKey { mode: 0o644, .. })));
        std::fs::remove_file(&path).unwrap();
        assert_ne!(key(folder.path()).unwrap().public(), made.public());
    }
}
