//! Namespaces of a child's own: what to mount is settled in the keeper, mounted in the child.
//!
//! ```text
//!  keeper   settle(): denied paths ─links followed─▶ there: a mount │ not there: a placeholder, or left alone
//!           a network made ahead, if there is one
//!  child    enter(): user namespace ▶ mount, network namespace ▶ mounts, top down ▶ loopback up
//! ```
//!
//! What may not be changed is mounted over itself, read-only; what may not be seen is mounted over by something nobody
//! may open. A folder above what may not be changed, in a folder where things may be moved, is mounted over itself as
//! well: a mount point can't be moved, so nothing else comes to stand under the denied name.
//!
//! Invariant: every denied path that isn't listed as left is a mount point when `enter` returns `Ok`, found by a path
//! without links in the child's own namespace. Whoever mounts has to be kept from unmounting by others: by Landlock,
//! and by having no capability.

use super::mounts::{Mounts, elsewhere};
use super::networks::{Networks, raise_loopback};
use super::paths;
use super::placeholder::Placeholders;
use crate::containment::{Denied, Mounted, Namespaces, Owner, Ruleset, rights};
use crate::links::follow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::rc::Rc;

// linux/mount.h
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const AT_EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
/// Both ends of a move are descriptors.
const MOVE_MOUNT_EMPTY_PATHS: libc::c_uint = 0x04 | 0x40;
const ATTR_READ_ONLY: u64 = 0x01;
const ATTR_NO_DEVICES: u64 = 0x04;
/// Nothing runs from it, gives rights or is a device.
const ATTR_INERT: u64 = 0x02 | 0x04 | 0x08;
/// Most paths that are excepted where everything else is limited.
const EXCEPTED_MAX: usize = 256;
/// Where what is no folder is hidden: a device, where devices are none, can't be opened.
const NOTHING: &CStr = c"/dev/null";
/// Rights that let things under a folder be moved, or others be put in their place.
const MOVES: u64 = rights::REMOVE_DIR
    | rights::REMOVE_FILE
    | rights::MAKE_DIR
    | rights::MAKE_REG
    | rights::MAKE_SYM
    | rights::MAKE_SOCK
    | rights::MAKE_FIFO
    | rights::REFER;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user: u64,
}

/// What is mounted over a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cover {
    /// Itself, so that it can't be moved.
    Itself,
    /// Itself, read-only.
    ReadOnly,
    /// An empty folder nobody may open.
    EmptyFolder,
    /// What is no folder and can't be opened.
    Nothing,
}

/// Where its network comes from.
#[derive(Debug)]
enum Network {
    /// It has everybody's.
    Shared,
    /// It makes one.
    Made,
    /// It goes into one that nobody else has been in.
    Ready(OwnedFd),
}

/// Namespaces that are settled.
#[derive(Debug)]
pub(super) struct Settled {
    user: Option<Rc<OwnedFd>>,
    network: Network,
    /// What everything is but [`Settled::excepted`]: attributes of mounts.
    everything: u64,
    /// What is limited less, and to what.
    excepted: Vec<(CString, u64)>,
    /// Sorted, so that what is above comes first.
    mounts: Vec<(CString, Cover)>,
    mounted: Mounted,
    placeholders: Placeholders,
}

impl Settled {
    /// Finds out where denied paths lead, and takes the places of those that aren't there.
    pub(super) fn new(
        namespaces: &Namespaces,
        rules: Option<&Ruleset>,
        owner: Option<Owner<'_>>,
        supply: &mut Supply,
    ) -> io::Result<Settled> {
        let below = rules.map(|rules| rules.below.as_slice()).unwrap_or_default();
        let mut covers = BTreeMap::new();
        let mut left = Vec::new();
        let mut placeholders = Placeholders::new(owner);
        let user = namespaces.user.then(|| supply.user_namespace()).transpose()?;
        let all = if namespaces.denied.is_empty() { &[][..] } else { supply.mounts.now()? };
        for (place, (path, denied)) in (0u32..).zip(&namespaces.denied) {
            let path = Path::new(OsStr::from_bytes(path));
            let taken = namespaces.placeholders.then_some(&mut placeholders);
            match cover(path, *denied, below, taken) {
                Ok(Some((path, over))) => {
                    if has_other_names(&path) {
                        if namespaces.placeholders {
                            return Err(io::Error::from_raw_os_error(libc::EMLINK));
                        }
                        left.push(place);
                    }
                    for path in std::iter::once(path.clone()).chain(elsewhere(all, &path)) {
                        if *denied == Denied::Write {
                            pin(&path, below, &mut covers);
                        }
                        let at: &mut Cover = covers.entry(path).or_insert(over);
                        *at = over.max(*at);
                    }
                }
                Ok(None) => {}
                Err(_) if !namespaces.placeholders => left.push(place),
                Err(error) => return Err(error),
            }
        }
        let text = |path: PathBuf| CString::new(path.into_os_string().into_encoded_bytes());
        let mounts: Result<Vec<_>, _> =
            visible(covers).into_iter().map(|(path, over)| Ok((text(path)?, over))).collect();
        let read_only = if namespaces.read_only { ATTR_READ_ONLY } else { 0 };
        let no_devices = if namespaces.no_devices { ATTR_NO_DEVICES } else { 0 };
        let mut everything = read_only | no_devices;
        let excepted = excepted(&mut everything, below)?;
        let network = match namespaces.network {
            false => Network::Shared,
            // One that is made outside belongs to whom is outside.
            true if user.is_some() => Network::Made,
            true => supply.networks.take().map_or(Network::Made, Network::Ready),
        };
        Ok(Settled {
            user,
            network,
            everything,
            excepted,
            mounts: mounts.map_err(|error: std::ffi::NulError| error)?,
            mounted: Mounted { left, placeholders: placeholders.paths() },
            placeholders,
        })
    }

    pub(super) fn mounted(&self) -> Mounted {
        self.mounted.clone()
    }

    pub(super) fn placeholders(&mut self) -> Placeholders {
        std::mem::take(&mut self.placeholders)
    }

    pub(super) fn takes_user(&self) -> bool {
        self.user.is_some()
    }

    /// The one it goes into that is there already: of users, or else of network.
    pub(super) fn there(&self) -> Option<BorrowedFd<'_>> {
        let network = if let Network::Ready(network) = &self.network { Some(network.as_fd()) } else { None };
        self.user.as_ref().map(|user| user.as_fd()).or(network)
    }

    /// Enters them. `there` is the number the one that is there already has in the child. System calls only.
    ///
    /// # Safety
    /// For a process that was just cloned and is about to exec, the only thread of its descriptor table, credentials,
    /// root and working folder.
    pub(super) unsafe fn enter(&self, there: RawFd) -> Result<(), i32> {
        // SAFETY: integers and null or static strings only, for this task alone: namespaces, credentials and working
        // folder are not shared (see above), and last as long as it.
        unsafe {
            if self.user.is_some() {
                done(libc::syscall(libc::SYS_setns, there, libc::CLONE_NEWUSER))?;
            }
            if matches!(self.network, Network::Ready(_)) {
                done(libc::syscall(libc::SYS_setns, there, libc::CLONE_NEWNET))?;
            }
            let mounts = if self.changes_mounts() { libc::CLONE_NEWNS } else { 0 };
            let network = if matches!(self.network, Network::Made) { libc::CLONE_NEWNET } else { 0 };
            done(libc::syscall(libc::SYS_unshare, mounts | network))?;
            if mounts != 0 {
                apart()?;
            }
        }
        if self.changes_mounts() {
            // As long as it can be found, and opened.
            let nothing = opened(paths::open_without_links(NOTHING))?;
            self.limit_everything()?;
            self.mounts.iter().try_for_each(|(path, over)| mount(path, *over, &nothing))?;
            find_folder_anew()?;
        }
        if matches!(self.network, Network::Made) { raise_loopback() } else { Ok(()) }
    }

    fn changes_mounts(&self) -> bool {
        self.everything != 0 || !self.mounts.is_empty()
    }

    /// What is excepted is copied first, everything is limited, and the copies are put over it.
    fn limit_everything(&self) -> Result<(), i32> {
        if self.everything == 0 {
            return Ok(());
        }
        let mut copies = [const { None }; EXCEPTED_MAX];
        for ((path, attributes), place) in self.excepted.iter().zip(&mut copies) {
            *place = Some(copy(&opened(paths::open_without_links(path))?, *attributes)?);
        }
        limit(&opened(paths::open_without_links(c"/"))?, self.everything, libc::MS_PRIVATE)?;
        for ((path, _), tree) in self.excepted.iter().zip(copies.iter().flatten()) {
            move_to(tree, &opened(paths::open_without_links(path))?)?;
        }
        Ok(())
    }
}

/// What is excepted where everything else is limited: what may be changed is not read-only, and a listed device is one.
fn excepted(everything: &mut u64, below: &[(Vec<u8>, u64)]) -> io::Result<Vec<(CString, u64)>> {
    let mut excepted: Vec<(&Path, u64)> = Vec::new();
    let mut granted: Vec<_> = below.iter().map(|(path, rights)| (OsStr::from_bytes(path), rights)).collect();
    granted.sort();
    for (path, rights) in granted {
        let path = Path::new(path);
        // What isn't there grants nothing, nor does a link.
        let Ok(found) = std::fs::symlink_metadata(path) else { continue };
        let device = found.file_type().is_char_device() || found.file_type().is_block_device();
        let inside = excepted.iter().any(|(above, _)| path.starts_with(above));
        let changed = rights & rights::CHANGES != 0 && *everything & ATTR_READ_ONLY != 0;
        if device && *everything & ATTR_NO_DEVICES != 0 {
            excepted.push((path, 0));
        } else if changed && path == Path::new("/") {
            *everything &= !ATTR_READ_ONLY;
        } else if changed && !inside && paths::open(path, false).is_ok() {
            excepted.push((path, *everything & !ATTR_READ_ONLY));
        }
    }
    if excepted.len() > EXCEPTED_MAX {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let text =
        |(path, attributes): (&Path, u64)| Ok((CString::new(path.as_os_str().as_bytes())?, attributes));
    excepted.into_iter().map(text).collect()
}

/// What to mount over a denied path, and where; nothing if nothing is there and nothing can come to be there. Without
/// `placeholders`, what isn't there is an error.
fn cover(
    path: &Path,
    denied: Denied,
    below: &[(Vec<u8>, u64)],
    placeholders: Option<&mut Placeholders>,
) -> io::Result<Option<(PathBuf, Cover)>> {
    // A link that could be replaced inside would lead elsewhere afterwards.
    let (there, rest) = follow(path, |folder, _| !is_granted(folder, below, MOVES))?;
    let kind = std::fs::symlink_metadata(&there)?.file_type();
    let mut components = rest.components();
    if let (Some(first), true) = (components.next(), kind.is_dir()) {
        if denied == Denied::Write && !is_granted(&there, below, MOVES) {
            return Ok(None);
        }
        let over = if denied == Denied::Read { Cover::EmptyFolder } else { Cover::ReadOnly };
        let path = there.join(first);
        if std::fs::symlink_metadata(&path).is_err_and(|error| is_barred(&error)) {
            // Whoever can't look into it has no way through it either.
            return Ok(Some((there, over)));
        }
        let placeholders = placeholders.ok_or(io::ErrorKind::NotFound)?;
        placeholders.join(&there)?;
        if placeholders.has(&there) {
            // Nothing is put into what is ours.
            return Ok(Some((there, over)));
        }
        return match placeholders.take(&path) {
            Ok(()) => Ok(Some((path, over))),
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(None),
            // As its user it couldn't either.
            Err(error) if is_barred(&error) && denied == Denied::Write => Ok(None),
            Err(error) => Err(error),
        };
    }
    if let Some(placeholders) = placeholders {
        placeholders.join(&there)?;
    }
    let special = kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device();
    let over = match denied {
        // Below what is no folder nothing is, as long as it stays.
        Denied::Read if !rest.as_os_str().is_empty() => Cover::ReadOnly,
        Denied::Read if kind.is_dir() => Cover::EmptyFolder,
        Denied::Read => Cover::Nothing,
        // Read-only is said of files and folders.
        Denied::Write if special => Cover::Nothing,
        Denied::Write => Cover::ReadOnly,
    };
    Ok(Some((there, over)))
}

/// Whether it can be reached by a name that isn't denied.
fn has_other_names(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir() && found.nlink() > 1)
}

/// Without what is below what is hidden.
fn visible(covers: BTreeMap<PathBuf, Cover>) -> Vec<(PathBuf, Cover)> {
    let mut hidden: Option<PathBuf> = None;
    let mut visible = Vec::new();
    for (path, over) in covers {
        if hidden.as_ref().is_some_and(|hidden| path.starts_with(hidden)) {
            continue;
        }
        if over == Cover::EmptyFolder {
            hidden = Some(path.clone());
        }
        visible.push((path, over));
    }
    visible
}

fn is_barred(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// Holds the folders above a path in their places, where they could be moved.
fn pin(path: &Path, below: &[(Vec<u8>, u64)], covers: &mut BTreeMap<PathBuf, Cover>) {
    let above = path.ancestors().skip(1);
    let movable =
        above.filter(|folder| folder.parent().is_some_and(|parent| is_granted(parent, below, MOVES)));
    for folder in movable {
        covers.entry(folder.to_owned()).or_insert(Cover::Itself);
    }
}

/// Whether any of these rights is granted in a folder.
fn is_granted(folder: &Path, below: &[(Vec<u8>, u64)], right: u64) -> bool {
    let above = |granted: &[u8]| folder.starts_with(OsStr::from_bytes(granted));
    below.iter().any(|(path, rights)| rights & right != 0 && above(path))
}

pub(super) fn done(result: libc::c_long) -> Result<libc::c_long, i32> {
    // SAFETY: errno of this thread, or of the one this child stands in for, whose call has just failed.
    if result < 0 { Err(unsafe { *libc::__errno_location() }) } else { Ok(result) }
}

/// A descriptor a call has just opened, closed when it is let go of: close(2) and nothing else.
pub(super) fn opened(result: libc::c_long) -> Result<OwnedFd, i32> {
    // SAFETY: opened for this child in a table of its own, whose number nobody else knows, until it is dropped.
    done(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What is mounted here from now on is nobody else's; what others unmount is unmounted here too.
unsafe fn apart() -> Result<(), i32> {
    let none = ptr::null::<u8>();
    // SAFETY: a static string and null pointers, which the call takes for absent; nobody else's memory is read.
    done(unsafe {
        libc::syscall(libc::SYS_mount, none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_SLAVE, none)
    })
    .map(drop)
}

/// Mounts over a path that has no links.
fn mount(path: &CStr, over: Cover, nothing: &OwnedFd) -> Result<(), i32> {
    let at = opened(paths::open_without_links(path))?;
    let tree = match over {
        Cover::Itself => copy(&at, 0)?,
        Cover::ReadOnly => copy(&at, ATTR_READ_ONLY | ATTR_NO_DEVICES)?,
        Cover::Nothing => copy(nothing, ATTR_READ_ONLY | ATTR_INERT)?,
        Cover::EmptyFolder => empty_folder()?,
    };
    move_to(&tree, &at)
}

/// Goes to the working folder once more: what was mounted over it or above it isn't seen from where it stood.
fn find_folder_anew() -> Result<(), i32> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is this stack's, as long as is said and outlives both calls. What the first one leaves there ends in
    // NUL, and is empty if it fails.
    unsafe {
        let found = libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len());
        // One that is gone, or not below the root, is nowhere here either.
        let path = if found > 0 && path[0] == b'/' { path.as_ptr().cast() } else { c"/".as_ptr() };
        done(libc::syscall(libc::SYS_chdir, path))
            .or_else(|_| done(libc::syscall(libc::SYS_chdir, c"/".as_ptr())))
    }
    .map(drop)
}

fn move_to(tree: &OwnedFd, at: &OwnedFd) -> Result<(), i32> {
    // SAFETY: both descriptors are open until the end of the call, and the paths are static and empty.
    done(unsafe {
        let (from, to, empty) = (tree.as_raw_fd(), at.as_raw_fd(), c"".as_ptr());
        libc::syscall(libc::SYS_move_mount, from, empty, to, empty, MOVE_MOUNT_EMPTY_PATHS)
    })
    .map(drop)
}

/// What a descriptor names, with all that is mounted below it, to be mounted once more.
fn copy(at: &OwnedFd, attributes: u64) -> Result<OwnedFd, i32> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH;
    // SAFETY: the descriptor is open until the end of the call, the path is static and empty; nothing is written.
    let tree = opened(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), c"".as_ptr(), flags) })?;
    if attributes != 0 {
        limit(&tree, attributes, libc::MS_PRIVATE)?;
    }
    Ok(tree)
}

/// Sets attributes of a mount and of all below it. What others mount there later would be without them, so where that matters
/// it has to be private.
fn limit(mount: &OwnedFd, attributes: u64, propagation: u64) -> Result<(), i32> {
    let set = MountAttributes { set: attributes, clear: 0, propagation, user: 0 };
    // SAFETY: the structure outlives the call, the size is its own, and it is only read; the descriptor is open until then.
    done(unsafe {
        let (set, size) = (ptr::from_ref(&set), size_of::<MountAttributes>());
        let flags = AT_RECURSIVE | AT_EMPTY_PATH;
        libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, set, size)
    })
    .map(drop)
}

fn empty_folder() -> Result<OwnedFd, i32> {
    let (text, none) = (FSCONFIG_SET_STRING, ptr::null::<u8>());
    // SAFETY: static strings and null pointers, read by the call at most; the descriptor is open until it is dropped.
    unsafe {
        let made = opened(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC))?;
        for (key, value) in [(c"mode", c"0"), (c"nr_inodes", c"1"), (c"size", c"4k")] {
            let fd = made.as_raw_fd();
            done(libc::syscall(libc::SYS_fsconfig, fd, text, key.as_ptr(), value.as_ptr(), 0))?;
        }
        done(libc::syscall(libc::SYS_fsconfig, made.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0))?;
        let attributes = ATTR_READ_ONLY | ATTR_INERT;
        opened(libc::syscall(libc::SYS_fsmount, made.as_raw_fd(), FSMOUNT_CLOEXEC, attributes))
    }
}

/// What a trial has met: errnos.
struct Trial {
    mount: i32,
    network: i32,
}

const TRIAL_STACK: usize = 32 * 1024;

/// Tries to make both, as what we are or by way of a user namespace, in a process that ends at once. Errnos, 0 for none.
pub(super) fn try_out(user: bool) -> (i32, i32) {
    let mut trial = Trial { mount: libc::EPERM, network: libc::EPERM };
    let mut stack = vec![0u128; TRIAL_STACK / size_of::<u128>()];
    // No signal tells of its end, and nobody else's wait finds it.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | if user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: the stack is this call's, 16-aligned at its top and large enough for a few system calls; clone returns only
    // when the child, which is all that uses it and `trial`, has ended (CLONE_VFORK).
    let pid = unsafe {
        let (top, trial) = (stack.as_mut_ptr_range().end, ptr::from_mut(&mut trial));
        libc::clone(run_trial, top.cast(), flags, trial.cast())
    };
    if pid < 0 {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM);
        return (errno, errno);
    }
    // SAFETY: a child of ours, and no status is asked for. Volatile, because the compiler saw nobody write to `trial`.
    unsafe {
        libc::waitpid(pid, ptr::null_mut(), libc::__WALL);
        (ptr::read_volatile(&trial.mount), ptr::read_volatile(&trial.network))
    }
}

extern "C" fn run_trial(trial: *mut libc::c_void) -> libc::c_int {
    let errno = |outcome: Result<(), i32>| outcome.err().unwrap_or(0);
    // SAFETY: `try_out` holds it and stands still until this process, with namespaces of its own, has ended.
    unsafe {
        let trial = trial.cast::<Trial>();
        let made = |flag: libc::c_int| done(libc::syscall(libc::SYS_unshare, flag));
        let mounted = made(libc::CLONE_NEWNS).and_then(|_| apart()).and_then(|()| {
            mount(NOTHING, Cover::Nothing, &opened(paths::open_without_links(NOTHING))?)?;
            empty_folder().map(drop)
        });
        ptr::write_volatile(&raw mut (*trial).mount, errno(mounted));
        let network = made(libc::CLONE_NEWNET).and_then(|_| raise_loopback());
        ptr::write_volatile(&raw mut (*trial).network, errno(network));
        libc::syscall(libc::SYS_exit, 0);
    }
    0
}

/// What is made once and used by many, or made ahead of who takes it.
#[derive(Debug, Default)]
pub(super) struct Supply {
    user_namespace: Option<Rc<OwnedFd>>,
    networks: Networks,
    mounts: Mounts,
}

impl Supply {
    /// Ours, which costs an exec, once. It keeps nobody from anybody: who contains has to see to that.
    fn user_namespace(&mut self) -> io::Result<Rc<OwnedFd>> {
        if let Some(known) = &self.user_namespace {
            return Ok(Rc::clone(known));
        }
        let made = Rc::new(make_user_namespace()?);
        self.user_namespace = Some(Rc::clone(&made));
        Ok(made)
    }
}

/// A user namespace, which can be entered by others of this user as long as it is held. It takes a process to make one that
/// may be looked into for a moment, so it is made by one that has nothing to see: this program, started anew with [`MAKE`].
fn make_user_namespace() -> io::Result<OwnedFd> {
    use std::io::Read;
    use std::process::{Command, Stdio};
    let is_flag = |word: &OsStr| word.as_bytes().starts_with(b"--");
    let words = std::env::args_os().skip(1).take_while(|word| !is_flag(word));
    let mut maker = Command::new("/proc/self/exe");
    maker.args(words).arg(MAKE).env_clear();
    let mut maker = maker.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut made = [0];
    let told = maker.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.read_exact(&mut made);
    let namespace = told.and_then(|()| std::fs::File::open(format!("/proc/{}/ns/user", maker.id())));
    drop(maker.stdin.take());
    maker.wait()?;
    namespace.map(OwnedFd::from)
}

/// What a keeper is started with to be [`hold_user_namespace`].
pub const MAKE: &str = "--make-user-namespace";

/// Makes a user namespace of this process's user, says so on stdout and waits for the end of stdin. The exit code.
pub fn hold_user_namespace() -> i32 {
    use std::io::{Read, Write};
    // SAFETY: these take nothing and can't fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let make = || {
        // SAFETY: an integer, for this process, which has one thread yet.
        done(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) })
            .map_err(io::Error::from_raw_os_error)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        io::stdout().write_all(b"1")?;
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())
    };
    i32::from(make().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    fn settled(namespaces: &Namespaces, granted: &[&Path]) -> io::Result<Settled> {
        let below = granted.iter().map(|path| (bytes(path), MOVES | rights::WRITE_FILE)).collect();
        let rules = Ruleset { below, ..Ruleset::default() };
        Settled::new(namespaces, Some(&rules), None, &mut Supply::default())
    }

    fn denying(placeholders: bool, denied: &[(PathBuf, Denied)]) -> Namespaces {
        let denied = denied.iter().map(|(path, what)| (bytes(path), *what)).collect();
        Namespaces { denied, placeholders, ..Namespaces::default() }
    }

    fn mounts_of(settled: &Settled, folder: &Path) -> Vec<(PathBuf, Cover)> {
        let path = |path: &CString| PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let below = |at: PathBuf| at.strip_prefix(folder).map(Path::to_owned).ok();
        settled.mounts.iter().filter_map(|(at, over)| Some((below(path(at))?, *over))).collect()
    }

    #[test]
    fn what_is_denied_is_covered_and_what_is_above_it_is_held_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let at = |path: &str| folder.join(path);
        std::fs::create_dir_all(at("g/.git/hooks")).unwrap();
        std::fs::create_dir_all(at("g/seen/not")).unwrap();
        std::fs::write(at("g/key"), "").unwrap();
        let denied = [
            (at("g/.git/hooks"), Denied::Write),
            (at("g/key"), Denied::Read),
            (at("g/key"), Denied::Write),
            (at("g/seen"), Denied::Read),
            (at("g/seen/not"), Denied::Write),
        ];
        let settled = settled(&denying(true, &denied), &[&at("g")]).unwrap();
        let expected = [
            ("g/.git", Cover::Itself),
            ("g/.git/hooks", Cover::ReadOnly),
            ("g/key", Cover::Nothing),
            ("g/seen", Cover::EmptyFolder),
        ];
        assert_eq!(mounts_of(&settled, &folder), expected.map(|(path, over)| (path.into(), over)));
        assert_eq!(settled.mounted(), Mounted::default());
    }

    #[test]
    fn what_is_not_there_is_taken_left_or_nothing_to_care_for() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let at = |path: &str| folder.join(path);
        std::fs::create_dir(at("g")).unwrap();
        let denied = [(at("g/a/b"), Denied::Write), (at("else/where"), Denied::Write)];
        let left = settled(&denying(false, &denied), &[&at("g")]).unwrap();
        assert_eq!((left.mounts.len(), left.mounted().left), (0, vec![0]));
        let mut taken = settled(&denying(true, &denied), &[&at("g")]).unwrap();
        assert_eq!(mounts_of(&taken, &folder), [(PathBuf::from("g/a"), Cover::ReadOnly)]);
        assert_eq!(taken.mounted().placeholders, [bytes(&at("g/a"))]);
        let held = taken.placeholders();
        drop(taken);
        assert!(at("g/a").exists() && !at("else").exists());
        drop(held);
        assert!(!at("g/a").exists());
        let many: Vec<_> = (0..65).map(|number| (at(&format!("g/{number}")), Denied::Write)).collect();
        let refused = settled(&denying(true, &many), &[&at("g")]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
        assert_eq!(std::fs::read_dir(at("g")).unwrap().count(), 0);
    }

    #[test]
    fn what_may_be_changed_is_excepted_once_and_so_are_listed_devices() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let at = |path: &str| folder.join(path);
        std::fs::create_dir_all(at("a/b")).unwrap();
        let limits = Namespaces { read_only: true, no_devices: true, ..Namespaces::default() };
        let null = Path::new("/dev/null");
        let settled_for = |granted: &[&Path]| settled(&limits, granted).unwrap();
        let both = settled_for(&[&at("a/b"), &at("a"), &at("none"), null]);
        let paths: Vec<_> = both.excepted.iter().map(|(path, less)| (path.as_bytes(), *less)).collect();
        let (a, null_bytes) = (bytes(&at("a")), bytes(null));
        let mut expected = [(a.as_slice(), ATTR_NO_DEVICES), (null_bytes.as_slice(), 0)];
        expected.sort();
        assert_eq!(paths, expected);
        // Whoever may change all there is has no part that is read-only.
        assert_eq!(settled_for(&[Path::new("/")]).everything, ATTR_NO_DEVICES);
        let many: Vec<_> = (0..=EXCEPTED_MAX).map(|number| at(&format!("c{number}"))).collect();
        many.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        let many: Vec<&Path> = many.iter().map(PathBuf::as_path).collect();
        assert_eq!(settled(&limits, &many).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    }
}
