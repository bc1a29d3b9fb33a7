//! Secrets in files: so many random bytes that only the folder's user may read.
//!
//! Invariant: one that others may read, or that has another length, is not used.

use super::{StateError, os, replace};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Reads one; none if there is none. `lost` says what goes with it when it is removed.
pub(super) fn read<const N: usize>(
    folder: &Path,
    name: &str,
    lost: &'static str,
) -> Result<Option<[u8; N]>, StateError> {
    let path = folder.join(name);
    let mut file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(os("opening", &path)(error)),
    };
    let mode = file.metadata().map_err(os("looking at", &path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::ExposedKey { path, mode, lost });
    }
    let mut secret = Vec::new();
    file.by_ref().take(N as u64 + 1).read_to_end(&mut secret).map_err(os("reading", &path))?;
    secret.try_into().map(Some).map_err(|_| StateError::Unreadable { path })
}

/// Makes one.
pub(super) fn make<const N: usize>(folder: &Path, name: &str) -> io::Result<[u8; N]> {
    let secret = random::<N>()?;
    replace(folder, name, &secret)?;
    Ok(secret)
}

/// Bytes nobody can guess.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}
