//! What is mounted where, as this process sees it (`/proc/self/mountinfo`).

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Of what: major and minor number.
    device: String,
    /// Which part of it.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) point: PathBuf,
    /// Type of file system.
    pub(super) kind: String,
}

/// All there are, read again when one has changed.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Tells that something changed since it was opened.
    file: Option<File>,
    known: Vec<Mount>,
}

impl Mounts {
    /// All, those on top of others behind them.
    pub(super) fn now(&mut self) -> io::Result<&[Mount]> {
        if self.file.as_ref().is_none_or(has_changed) {
            // What changes while it is read is told by the file that was opened before.
            let mut file = File::open("/proc/self/mountinfo")?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            self.known = text.lines().filter_map(parsed).collect();
            self.file = Some(file);
        }
        Ok(&self.known)
    }
}

fn has_changed(file: &File) -> bool {
    let mut polled = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
    // SAFETY: one structure that outlives the call; its descriptor is open until then, and the call doesn't wait.
    unsafe { libc::poll(&mut polled, 1, 0) != 0 }
}

/// id parent device root point options [optional…] - type source options
fn parsed(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(2);
    let (device, root, point) = (fields.next()?, fields.next()?, fields.next()?);
    let kind = right.split(' ').next()?;
    Some(Mount { device: device.into(), root: path(root), point: path(point), kind: kind.into() })
}

/// Blanks, line ends and backslashes are written as `\040` and so on.
fn path(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// Where else there is what is at a path, or something of it, because its file system is mounted more than once.
pub(super) fn elsewhere(all: &[Mount], path: &Path) -> Vec<PathBuf> {
    let around = all.iter().filter(|mount| path.starts_with(&mount.point));
    let Some(own) = around.max_by_key(|mount| mount.point.as_os_str().len()) else { return Vec::new() };
    let Ok(below) = path.strip_prefix(&own.point) else { return Vec::new() };
    let within = own.root.join(below);
    let of_same = all.iter().filter(|mount| mount.device == own.device && *mount != own);
    let candidates = of_same.filter_map(|mount| match within.strip_prefix(&mount.root) {
        Ok(rest) => Some((mount.point.join(rest), path.to_owned())),
        Err(_) => Some((mount.point.clone(), path.join(mount.root.strip_prefix(&within).ok()?))),
    });
    // One may be covered by another, and lead to something else altogether.
    candidates.filter(|(other, here)| other != here && is_same(other, here)).map(|(other, _)| other).collect()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let name = |found: Metadata| (found.dev(), found.ino());
    let found = |path: &Path| std::fs::symlink_metadata(path).ok().map(name);
    found(one).is_some_and(|one| Some(one) == found(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_whatever_is_in_their_paths() {
        let line = r"36 35 98:0 /a\040b /mnt\134\011x rw,noatime master:1 shared:2 - ext4 /dev/root rw";
        let mount = parsed(line).unwrap();
        assert_eq!((mount.device.as_str(), mount.kind.as_str()), ("98:0", "ext4"));
        assert_eq!((mount.root, mount.point), (PathBuf::from("/a b"), PathBuf::from("/mnt\\\tx")));
        assert_eq!(parsed("nothing of it"), None);
        assert!(Mounts::default().now().unwrap().iter().any(|mount| mount.point == Path::new("/")));
    }

    #[test]
    fn what_is_mounted_twice_is_found_by_its_other_path() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        // A symbolic link that is looked through stands for the second mount.
        std::fs::create_dir_all(folder.join("here/part/deep")).unwrap();
        std::os::unix::fs::symlink("here", folder.join("there")).unwrap();
        let mount = |device: &str, root: &str, point: PathBuf| {
            let (device, kind) = (device.to_owned(), "x".to_owned());
            Mount { device, root: root.into(), point, kind }
        };
        let whole = [
            mount("0:1", "/", folder.join("here")),
            mount("0:1", "/part", folder.join("there/part")),
            mount("0:2", "/part", folder.join("there")),
        ];
        let other = |path: &str| elsewhere(&whole, &folder.join(path));
        assert_eq!(other("here/part/deep"), [folder.join("there/part/deep")]);
        assert_eq!(other("here/part"), [folder.join("there/part")]);
        // Only a part of it is there as well.
        assert_eq!(other("here"), [folder.join("there/part")]);
        assert!(other("here/nothing").is_empty());
    }
}
