//! The daemon's place in the file system: one socket, one state folder, nobody else's.
//!
//! A daemon that unlinks whatever is at its path takes over from a living one, and one that binds in a folder
//! others may write to can be replaced by anybody. So before there is a listener it is proved that the folder is
//! safe, that what is at the path is nothing, or a dead socket of our own, and that no other daemon holds the
//! state. The socket is born with the mode it keeps: there is no moment in which more people could connect.
//!
//! Invariant: while a [`Claim`] lives, its lock is held and the path names its socket. Accepting is the data
//! plane's; who may connect and what they may do is the control plane's.

use crate::config::Group;
use crate::state::{self, StateError};
use kairo_dataplane::sys::process::stat;
use kairo_dataplane::sys::socket::credentials;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketType, sockopt};
use rustix::process::{Pid, test_kill_process};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest path a socket address holds, bytes (`sun_path` less its NUL; 103 on macOS).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Connections that may wait to be accepted; the system cuts it down to its own limit.
const BACKLOG: i32 = 4096;

/// How long another daemon may take to look at the same folder.
const FOLDER_LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// A daemon that was killed a moment ago may look alive for so long: whoever starts the next one at once need not wait.
const DYING_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Why the daemon refuses to start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    /// Somebody answers there.
    #[error("a daemon is already listening on {}; use it, end it with `kairo shutdown`, or choose another --socket", path.display())]
    Alive { path: PathBuf },
    /// It is not a socket.
    #[error("{} is not a socket; it is left alone: move it away or choose another --socket", path.display())]
    NotASocket { path: PathBuf },
    /// It is somebody else's.
    #[error("{} belongs to uid {owner}; it is left alone: choose another --socket", path.display())]
    ForeignFile { path: PathBuf, owner: u32 },
    /// Anybody could replace the socket.
    #[error("the folder {} can be written by everybody (mode {mode:04o}), so anybody could replace the socket; \
        chmod it or choose a --socket elsewhere", path.display())]
    OpenFolder { path: PathBuf, mode: u32 },
    /// Somebody else could replace the socket.
    #[error("the folder {} belongs to uid {owner}, who could replace the socket; choose a --socket elsewhere", path.display())]
    ForeignFolder { path: PathBuf, owner: u32 },
    /// The parent is a file.
    #[error("{} is not a folder", path.display())]
    NotAFolder { path: PathBuf },
    /// A socket address is a short thing.
    #[error("the socket path {} has {length} bytes and may have {SOCKET_PATH_BYTES_MAX}; choose a shorter --socket", path.display())]
    TooLong { path: PathBuf, length: usize },
    /// Two daemons, one state folder.
    #[error("the state folder {} is in use by another daemon{}; choose another --state", path.display(),
        holder.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    StateInUse { path: PathBuf, holder: Option<String> },
    /// Somebody holds the folder's lock and doesn't let go.
    #[error("another program keeps the folder {} locked; try again or choose a --socket elsewhere", path.display())]
    FolderBusy { path: PathBuf },
    /// A manager passed something else.
    #[error(
        "what was passed to listen on is no listening unix stream socket with a path; write ListenStream=/… into its unit"
    )]
    NoListener,
    /// The state folder is not for this kairo.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system said no.
    #[error("{what} {}: {source}", path.display())]
    Os { what: &'static str, path: PathBuf, source: io::Error },
}

/// Turns an error of the system into one that says what was tried, on what.
fn os<E: Into<io::Error>>(what: &'static str, path: &Path) -> impl FnOnce(E) -> GuardError {
    let path = path.to_path_buf();
    move |error| GuardError::Os { what, path, source: error.into() }
}

/// The listener, and the right to be the only one.
#[derive(Debug)]
pub(crate) struct Claim {
    listener: Option<OwnedFd>,
    path: PathBuf,
    /// Device and inode of our socket: what is there later may be another's. None for one that isn't ours to remove.
    identity: Option<(u64, u64)>,
    _state: File,
}

impl Claim {
    /// Makes folders, checks them, clears a dead socket of our own away, binds and listens.
    pub(crate) fn take(socket: &Path, state: &Path, group: Option<&Group>) -> Result<Claim, GuardError> {
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            return Err(GuardError::TooLong { path: socket.to_path_buf(), length });
        }
        let state_lock = lock_state(state)?;
        let folder = socket.parent().unwrap_or(Path::new("/"));
        prepare_folder(folder, group)?;
        check_folder(folder)?;
        // Held over look, unlink and bind: of two daemons that find the same dead socket, the second finds a
        // living one.
        let _folder_lock = lock_folder(folder)?;
        clear(socket)?;
        let (listener, identity) = bind(socket, group)?;
        Ok(Claim {
            listener: Some(listener),
            path: socket.to_path_buf(),
            identity: Some(identity),
            _state: state_lock,
        })
    }

    /// Takes a socket that a service manager listens on. It is the manager's: its file stays when we go.
    pub(crate) fn adopt(listener: OwnedFd, state: &Path) -> Result<Claim, GuardError> {
        let state_lock = lock_state(state)?;
        // Not every system tells whether it listens; to say it once more does no harm, and to others it is an error.
        let (stream, listens) = (sockopt::socket_type(&listener), rustix::net::listen(&listener, BACKLOG));
        let path = rustix::net::getsockname(&listener).ok().and_then(|address| path_of(&address));
        match (path, stream, listens) {
            (Some(path), Ok(SocketType::STREAM), Ok(())) => {
                Ok(Claim { listener: Some(listener), path, identity: None, _state: state_lock })
            }
            _ => Err(GuardError::NoListener),
        }
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands the listener out, once. The path and the locks stay with the claim.
    pub(crate) fn listener(&mut self) -> Option<OwnedFd> {
        self.listener.take()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| Some((found.dev(), found.ino())) == self.identity);
        if ours {
            // A socket that can't be removed is found dead by the next daemon.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The path of a unix socket's address.
fn path_of(address: &SocketAddrAny) -> Option<PathBuf> {
    let address = SocketAddrUnix::try_from(address.clone()).ok()?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(address.path()?.to_bytes())))
}

/// Creates the state folder (0700) and takes the lock file in it for the life of the daemon.
fn lock_state(state: &Path) -> Result<File, GuardError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(os("creating the state folder", state))?;
    let path = state.join("kernel.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path)
        .map_err(os("opening the lock file", &path))?;
    match lock_within(&file, DYING_PATIENCE) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let holder = io::read_to_string(&file).ok().map(|text| text.trim().to_owned());
            let holder = holder.filter(|pid| !pid.is_empty());
            return Err(GuardError::StateInUse { path: state.to_path_buf(), holder });
        }
        Err(errno) => return Err(os("locking", &path)(errno)),
    }
    // A folder of a newer kairo is left exactly as it is, and so are its locks.
    state::format::gate(state)?;
    // The pid is a courtesy to whoever meets the lock; the lock itself is what counts.
    file.set_len(0).map_err(os("writing", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(os("writing", &path))?;
    Ok(file)
}

/// Creates the socket's folder if it is not there: 0700, or 0750 and the group's with `--group`.
fn prepare_folder(folder: &Path, group: Option<&Group>) -> Result<(), GuardError> {
    if folder.exists() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(os("creating the folder", folder))?;
    if let Some(group) = group {
        chown(folder, None, Some(group.gid)).map_err(os("giving to the group the folder", folder))?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o750))
            .map_err(os("opening to the group the folder", folder))?;
    }
    Ok(())
}

/// Safe exactly when nobody but root and us can put something else in the socket's place.
fn check_folder(folder: &Path) -> Result<(), GuardError> {
    let found = std::fs::metadata(folder).map_err(os("looking at", folder))?;
    let path = folder.to_path_buf();
    if !found.is_dir() {
        return Err(GuardError::NotAFolder { path });
    }
    if found.uid() != 0 && found.uid() != own_uid() {
        return Err(GuardError::ForeignFolder { path, owner: found.uid() });
    }
    let (everybody_writes, sticky) = (found.mode() & 0o002 != 0, found.mode() & 0o1000 != 0);
    if everybody_writes && !sticky {
        return Err(GuardError::OpenFolder { path, mode: found.mode() & 0o7777 });
    }
    Ok(())
}

fn lock_folder(folder: &Path) -> Result<OwnedFd, GuardError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(os("opening", folder))?;
    match lock_within(&opened, FOLDER_LOCK_PATIENCE) {
        Ok(()) => Ok(opened),
        Err(Errno::WOULDBLOCK) => Err(GuardError::FolderBusy { path: folder.to_path_buf() }),
        Err(errno) => Err(os("locking", folder)(errno)),
    }
}

fn lock_within(file: impl AsFd, patience: Duration) -> Result<(), Errno> {
    let give_up = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < give_up => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
}

/// Makes sure that nothing is at the path: removes a dead socket of ours, refuses everything else.
fn clear(socket: &Path) -> Result<(), GuardError> {
    let found = match std::fs::symlink_metadata(socket) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(os("looking at", socket)(error)),
    };
    let path = socket.to_path_buf();
    if !found.file_type().is_socket() {
        return Err(GuardError::NotASocket { path });
    }
    if found.uid() != own_uid() {
        return Err(GuardError::ForeignFile { path, owner: found.uid() });
    }
    let give_up = Instant::now() + DYING_PATIENCE;
    let mut found = probe(socket);
    while matches!(found, Ok(Listener::Alive)) && Instant::now() < give_up {
        std::thread::sleep(PAUSE);
        found = probe(socket);
    }
    match found {
        Err(Errno::CONNREFUSED) | Ok(Listener::Dead) => {
            std::fs::remove_file(socket).map_err(os("removing the dead socket", socket))
        }
        // Whoever left took it away meanwhile.
        Err(Errno::NOENT) => Ok(()),
        // A full backlog is a daemon too, if a busy one.
        Ok(Listener::Alive) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(GuardError::Alive { path }),
        Err(errno) => Err(os("trying", socket)(errno)),
    }
}

/// Whose a socket is that takes connections.
enum Listener {
    Alive,
    /// The system has not yet put its last operations away: with io_uring that takes a moment longer than the process.
    Dead,
}

/// Connects without waiting.
fn probe(socket: &Path) -> Result<Listener, Errno> {
    let address = SocketAddrUnix::new(socket)?;
    let trial = stream_socket()?;
    rustix::io::ioctl_fionbio(&trial, true)?;
    rustix::net::connect(&trial, &address)?;
    let listener = credentials(trial.as_fd()).ok().and_then(|who| Pid::from_raw(who.pid));
    Ok(match listener {
        Some(pid) if test_kill_process(pid) == Err(Errno::SRCH) => Listener::Dead,
        // Nobody has waited for it yet.
        Some(pid) if stat(pid.as_raw_nonzero().get()).is_some_and(|found| found.dead()) => Listener::Dead,
        Some(_) | None => Listener::Alive,
    })
}

/// A socket that no child inherits. The flag is set in a second call, because not every system can do both in one;
/// this program has one thread yet, and starts its children through the keeper.
fn stream_socket() -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Binds with mode 0600 from the first moment, then opens to the group if there is one.
fn bind(socket: &Path, group: Option<&Group>) -> Result<(OwnedFd, (u64, u64)), GuardError> {
    let address = SocketAddrUnix::new(socket).map_err(os("using the path", socket))?;
    let listener = stream_socket().map_err(os("making a socket for", socket))?;
    // Linux gives the file the mode of the unbound socket, less the umask: so it is private before anybody can
    // see it. Elsewhere the folder, which is private when it is ours, covers the moment until the mode is set.
    let _born_private = rustix::fs::fchmod(&listener, Mode::from_raw_mode(0o600));
    rustix::net::bind(&listener, &address).map_err(os("binding", socket))?;
    let settled = settle(socket, group)
        .and_then(|()| rustix::net::listen(&listener, BACKLOG).map_err(os("listening on", socket)))
        .and_then(|()| look_at(socket));
    match settled {
        Ok(found) => Ok((listener, (found.dev(), found.ino()))),
        Err(error) => {
            let _ = std::fs::remove_file(socket);
            Err(error)
        }
    }
}

fn look_at(socket: &Path) -> Result<std::fs::Metadata, GuardError> {
    std::fs::symlink_metadata(socket).map_err(os("looking at", socket))
}

/// The mode it keeps; the group comes before the mode that lets it in.
fn settle(socket: &Path, group: Option<&Group>) -> Result<(), GuardError> {
    let mode = match group {
        None => 0o600,
        Some(group) => {
            chown(socket, None, Some(group.gid)).map_err(os("giving to the group", socket))?;
            0o660
        }
    };
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(mode))
        .map_err(os("setting the mode of", socket))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            Place { folder: tempfile::tempdir().unwrap() }
        }
        fn socket(&self) -> PathBuf {
            self.folder.path().join("run/kernel.sock")
        }
        fn state(&self) -> PathBuf {
            self.folder.path().join("state")
        }
        fn take(&self) -> Result<Claim, GuardError> {
            Claim::take(&self.socket(), &self.state(), None)
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_fresh_place_gets_private_folders_and_a_private_socket() {
        let place = Place::new();
        let mut claim = place.take().unwrap();
        assert_eq!(mode(&place.socket()), 0o600);
        assert_eq!(mode(place.socket().parent().unwrap()), 0o700);
        assert_eq!(mode(&place.state()), 0o700);
        let listener = UnixListener::from(claim.listener().unwrap());
        let _client = UnixStream::connect(place.socket()).unwrap();
        listener.accept().unwrap();
        assert!(claim.listener().is_none());
        drop(claim);
        assert!(!place.socket().exists());
    }

    #[test]
    fn a_group_may_connect_and_nobody_else() {
        let place = Place::new();
        let own = Group { name: "own".to_owned(), gid: rustix::process::getegid().as_raw() };
        let _claim = Claim::take(&place.socket(), &place.state(), Some(&own)).unwrap();
        assert_eq!(mode(&place.socket()), 0o660);
        assert_eq!(mode(place.socket().parent().unwrap()), 0o750);
    }

    #[test]
    fn a_living_socket_is_never_taken_over() {
        let place = Place::new();
        let _claim = place.take().unwrap();
        let other_state = place.folder.path().join("other");
        let error = Claim::take(&place.socket(), &other_state, None).unwrap_err();
        assert!(matches!(error, GuardError::Alive { .. }), "{error}");
        UnixStream::connect(place.socket()).unwrap();
    }

    #[test]
    fn a_dead_socket_of_our_own_is_replaced() {
        let place = Place::new();
        std::fs::create_dir(place.folder.path().join("run")).unwrap();
        drop(UnixListener::bind(place.socket()).unwrap());
        assert!(place.socket().exists());
        let _claim = place.take().unwrap();
        UnixStream::connect(place.socket()).unwrap();
    }

    #[test]
    fn a_file_a_folder_and_a_link_are_left_alone() {
        let place = Place::new();
        std::fs::create_dir(place.folder.path().join("run")).unwrap();
        std::fs::write(place.socket(), b"precious").unwrap();
        assert!(matches!(place.take().unwrap_err(), GuardError::NotASocket { .. }));
        assert_eq!(std::fs::read(place.socket()).unwrap(), b"precious");
        std::fs::remove_file(place.socket()).unwrap();
        std::os::unix::fs::symlink("elsewhere", place.socket()).unwrap();
        assert!(matches!(place.take().unwrap_err(), GuardError::NotASocket { .. }));
    }

    #[test]
    fn a_folder_everybody_writes_is_refused_unless_sticky() {
        let place = Place::new();
        let run = place.folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(place.take().unwrap_err(), GuardError::OpenFolder { mode: 0o777, .. }));
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o1777)).unwrap();
        place.take().unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let place = Place::new();
        let run = place.folder.path().join("run");
        std::fs::create_dir(&run).unwrap();
        // Only root can make a folder somebody else's; others find one they can write to nowhere portable.
        if chown(&run, Some(54_321), None).is_err() {
            return;
        }
        assert!(matches!(place.take().unwrap_err(), GuardError::ForeignFolder { owner: 54_321, .. }));
        chown(&run, Some(0), None).unwrap();
        drop(UnixListener::bind(place.socket()).unwrap());
        chown(place.socket(), Some(54_321), None).unwrap();
        assert!(matches!(place.take().unwrap_err(), GuardError::ForeignFile { owner: 54_321, .. }));
    }

    #[test]
    fn two_daemons_do_not_share_a_state_folder() {
        let place = Place::new();
        let _claim = place.take().unwrap();
        let elsewhere = place.folder.path().join("run/other.sock");
        let error = Claim::take(&elsewhere, &place.state(), None).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_path_no_address_holds_is_refused_before_anything_is_made() {
        let place = Place::new();
        let long = place.folder.path().join("x".repeat(120));
        assert!(matches!(Claim::take(&long, &place.state(), None), Err(GuardError::TooLong { .. })));
        assert!(!place.state().exists());
    }

    #[test]
    fn a_successor_at_the_same_path_survives_its_predecessors_end() {
        let place = Place::new();
        let claim = place.take().unwrap();
        std::fs::remove_file(place.socket()).unwrap();
        let _successor = UnixListener::bind(place.socket()).unwrap();
        drop(claim);
        assert!(place.socket().exists());
    }
}
