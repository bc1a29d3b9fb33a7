//! Sealing: what a restart needs (arguments, environment) is never on the disk in clear.
//!
//! The key lies in the same folder, readable by its user alone. So this protects what is copied without it (backups
//! and support bundles that leave `key` out, a disk block that comes to light), and not against whoever runs as the same
//! user: they could read the environment of the process itself. XChaCha20-Poly1305 with a random nonce each.

use super::StateError;
use super::secret::{self, random};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Its name in the folder.
pub(super) const FILE: &str = "key";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// What is sealed says with this what it is.
const PURPOSE: &[u8] = b"kairo session spec 1";

/// The key of a folder, made when it is first needed.
pub(crate) struct Seal {
    folder: PathBuf,
    cipher: Option<XChaCha20Poly1305>,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").field("made", &self.cipher.is_some()).finish_non_exhaustive()
    }
}

impl Seal {
    /// One that seals nothing: where nothing outlives its kernel.
    pub(crate) fn none() -> Seal {
        Seal { folder: PathBuf::new(), cipher: None }
    }

    /// Reads the key if there is one.
    pub(super) fn open(folder: &Path) -> Result<Seal, StateError> {
        let key = secret::read::<KEY_BYTES>(folder, FILE, "what is sealed with it is lost then")?;
        let cipher = key.map(|key| XChaCha20Poly1305::new(Key::from_slice(&key)));
        Ok(Seal { folder: folder.to_path_buf(), cipher })
    }

    /// Seals; makes the key if there is none.
    pub(crate) fn close(&mut self, clear: &[u8]) -> io::Result<Vec<u8>> {
        let cipher = match &self.cipher {
            Some(cipher) => cipher,
            None => {
                let key = secret::make::<KEY_BYTES>(&self.folder, FILE)?;
                self.cipher.insert(XChaCha20Poly1305::new(Key::from_slice(&key)))
            }
        };
        let nonce = random::<NONCE_BYTES>()?;
        let payload = Payload { msg: clear, aad: PURPOSE };
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| io::Error::other("it can't be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what was sealed with this key; none if it wasn't, or was changed.
    pub(crate) fn unseal(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let payload = Payload { msg: sealed, aad: PURPOSE };
        self.cipher.as_ref()?.decrypt(XNonce::from_slice(nonce), payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_sealed_is_opened_by_the_same_key_and_by_no_other() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut seal = Seal::open(folder.path()).unwrap();
        assert!(!folder.path().join(FILE).exists(), "there is no key before there is something to seal");
        let mut sealed = seal.close(b"TOKEN=hunter2").unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        let again = Seal::open(folder.path()).unwrap();
        assert_eq!(again.unseal(&sealed).as_deref(), Some(&b"TOKEN=hunter2"[..]));
        let mut stranger = Seal::open(other.path()).unwrap();
        stranger.close(b"x").unwrap();
        assert_eq!(stranger.unseal(&sealed), None);
        *sealed.last_mut().unwrap() ^= 1;
        assert_eq!(again.unseal(&sealed), None);
        assert_eq!(again.unseal(b"short"), None);
    }

    #[test]
    fn a_key_others_may_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        Seal::open(folder.path()).unwrap().close(b"x").unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Seal::open(folder.path()), Err(StateError::ExposedKey { mode: 0o640, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(matches!(Seal::open(folder.path()), Err(StateError::Unreadable { .. })));
    }
}
