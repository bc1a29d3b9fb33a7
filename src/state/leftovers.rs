//! What dead kernels have left in the state folder: cleared away if it is provably ours and dead, else left and named.
//!
//! Whoever looks holds the folder's lock, so no kernel is alive there; a keeper may be. Its cgroups are named after its pid:
//! those of a pid that is no more go where they are empty.

use super::{StateError, format, identity, os, records};
use kairo_dataplane::sys::clear_cgroups;
use kairo_dataplane::sys::process::connect_packets;
use kairo_dataplane::sys::socket::credentials;
use std::fs::DirEntry;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Where a keeper waits for the next kernel.
const KEEPER_SOCKET: &str = "keeper.sock";

/// Refuses the folder if the keeper in it is somebody else's. A living one of ours is left alone; a socket behind which
/// nobody is any more is removed.
pub(super) fn inspect_keeper(folder: &Path) -> Result<(), StateError> {
    let path = folder.join(KEEPER_SOCKET);
    let found = match std::fs::symlink_metadata(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(os("looking at", &path)(error)),
    };
    let ours = rustix::process::geteuid().as_raw();
    let foreign = |owner| StateError::ForeignKeeper { path: path.clone(), owner, ours };
    if found.uid() != ours {
        return Err(foreign(found.uid()));
    }
    if !found.file_type().is_socket() {
        return Err(StateError::Unreadable { path });
    }
    match connect_packets(&path) {
        Ok(socket) => {
            let keeper = credentials(socket.as_fd()).map_err(os("asking who is behind", &path))?;
            if keeper.uid == ours { Ok(()) } else { Err(foreign(keeper.uid)) }
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match std::fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!(component = "state", socket = %path.display(), "nobody is behind it any more: removed");
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(os("removing the dead socket", &path)(error)),
        },
        // One that had nothing more to keep has taken it away meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A keeper that is busy is one; whoever talks to it will see.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(os("trying", &path)(error)),
    }
}

/// Removes what a kernel writes on the way to a rename, and names what it doesn't know; empty cgroups of dead keepers too.
pub(super) fn clear(folder: &Path) -> Result<(), StateError> {
    clear_cgroups();
    let entries = std::fs::read_dir(folder).map_err(os("listing", folder))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".tmp")) else { continue };
        let path = entry.path();
        if is_ours(&entry, name) {
            std::fs::remove_file(&path).map_err(os("removing", &path))?;
            tracing::info!(component = "state", file = %path.display(), "left half-written by a dead kernel: removed");
        } else {
            tracing::warn!(component = "state", file = %path.display(), "it is not known who left this: left alone");
        }
    }
    Ok(())
}

fn is_ours(entry: &DirEntry, name: &str) -> bool {
    let known = [format::FORMAT_FILE, format::MARKER, identity::FILE, records::FILE, super::seal::FILE];
    let mine =
        |found: &std::fs::Metadata| found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    known.contains(&name) && entry.metadata().is_ok_and(|found| mine(&found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_dataplane::sys::process::listen_packets;

    #[test]
    fn what_is_ours_and_half_written_goes_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["format.tmp", "sessions.log.tmp", "letter.tmp", "sessions.log.1.torn", "notes"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("notes", folder.path().join("key.tmp")).unwrap();
        clear(folder.path()).unwrap();
        let left = |name: &str| folder.path().join(name).symlink_metadata().is_ok();
        assert!(!left("format.tmp") && !left("sessions.log.tmp"));
        assert!(left("letter.tmp") && left("sessions.log.1.torn") && left("notes") && left("key.tmp"));
    }

    #[test]
    fn a_dead_keepers_socket_goes_and_a_living_ones_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEEPER_SOCKET);
        inspect_keeper(folder.path()).unwrap();
        let keeper = listen_packets(&path).unwrap();
        inspect_keeper(folder.path()).unwrap();
        assert!(path.exists());
        drop(keeper);
        inspect_keeper(folder.path()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_keeper_may_leave_while_it_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEEPER_SOCKET);
        let (keepers, left) = (3_000, std::sync::atomic::AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..keepers {
                    let keeper = listen_packets(&path);
                    // Away before it is closed, as a keeper's is; whoever looks may have been faster.
                    let _ = std::fs::remove_file(&path);
                    drop(keeper);
                    left.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            while left.load(std::sync::atomic::Ordering::Relaxed) < keepers {
                inspect_keeper(folder.path()).unwrap();
            }
        });
    }

    #[test]
    fn a_keeper_of_somebody_else_and_what_is_no_socket_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEEPER_SOCKET);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(inspect_keeper(folder.path()), Err(StateError::Unreadable { .. })));
        std::fs::remove_file(&path).unwrap();
        let _keeper = listen_packets(&path).unwrap();
        // Only root can make it somebody else's.
        if std::os::unix::fs::chown(&path, Some(54_321), None).is_ok() {
            let error = inspect_keeper(folder.path()).unwrap_err();
            assert!(matches!(error, StateError::ForeignKeeper { owner: 54_321, .. }), "{error}");
            assert!(path.exists());
        }
    }
}
