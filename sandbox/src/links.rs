//! Where symbolic links lead.
//!
//! A contained program that may make files in a folder could leave a link there for the next one, so a grant trusts
//! root's links only; a denial has to hold wherever any link leads.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Links followed on the way to one path.
const LINKS_MAX: usize = 32;

/// The same place by a path without links, if all on the way are root's.
pub fn without_links(path: &Path) -> io::Result<PathBuf> {
    match follow(path, |_, link| link.uid() == 0)? {
        (whole, rest) if rest.as_os_str().is_empty() => Ok(whole),
        _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
    }
}

/// The same place by a path without links, as far as there is anything that can be looked at, and the rest of it. Whether a
/// link is followed is asked, with the folder it is in.
pub fn follow(path: &Path, may: impl Fn(&Path, &Metadata) -> bool) -> io::Result<(PathBuf, PathBuf)> {
    let mut left: Vec<PathBuf> =
        path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect();
    let (mut walked, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        match part.components().next() {
            None | Some(Component::RootDir | Component::CurDir | Component::Prefix(_)) => continue,
            Some(Component::ParentDir) => {
                walked.pop();
                continue;
            }
            Some(Component::Normal(_)) => {}
        }
        let next = walked.join(&part);
        let found = match std::fs::symlink_metadata(&next) {
            Ok(found) => found,
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) =>
            {
                return Ok((walked, left.iter().rev().fold(part, |rest, part| rest.join(part))));
            }
            Err(error) => return Err(error),
        };
        if !found.is_symlink() {
            walked = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX || !may(&walked, &found) {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = std::fs::read_link(&next)?;
        if target.is_absolute() {
            walked = PathBuf::from("/");
        }
        left.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
    }
    Ok((walked, PathBuf::new()))
}

/// The same place by a path without links, whoever they are of, as far as there is anything; the rest as it is.
pub fn wherever_it_leads(path: &Path) -> PathBuf {
    let mut existing = path;
    while let (Err(_), Some(parent)) = (existing.canonicalize(), existing.parent()) {
        existing = parent;
    }
    let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
    let resolved = existing.canonicalize().unwrap_or_else(|_| existing.to_owned());
    rest.components().fold(resolved, |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_is_followed_as_far_as_there_is_anything() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("there")).unwrap();
        symlink("there", folder.join("link")).unwrap();
        assert_eq!(wherever_it_leads(&folder.join("link/a/b")), folder.join("there/a/b"));
        assert_eq!(wherever_it_leads(&folder.join("link")), folder.join("there"));
        assert_eq!(wherever_it_leads(&folder.join("a/b")), folder.join("a/b"));
        assert_eq!(wherever_it_leads(Path::new("/")), Path::new("/"));
    }
}
