//! Files that somebody else writes while we read: told of when they grow, and kept small from the front.
//!
//! A platform that lacks a call says `Unsupported`: whoever reads then looks now and then, and the file keeps its size.

use super::platform::file as platform;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// A descriptor that is readable when a file of a folder was made, written or renamed.
pub fn watch_folder(folder: &Path) -> io::Result<OwnedFd> {
    platform::watch_folder(folder)
}

/// Names of files that have changed since the last call; none when too much has, and any may have. Never blocks.
pub fn changed(watch: &OwnedFd) -> io::Result<Option<Vec<OsString>>> {
    platform::changed(watch)
}

/// Gives the disk back what `[0, end)` of a file takes; what is there reads as zeros, and offsets stay.
pub fn punch(file: &File, end: u64) -> io::Result<()> {
    platform::punch(file, end)
}

/// Where the first byte is that was not punched out, to the block; 0 where nobody can tell.
pub fn first_data(file: &File) -> u64 {
    platform::first_data(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_folder_tells_of_files_that_grow_and_a_file_is_kept_small() {
        let folder = tempfile::tempdir().unwrap();
        let watch = watch_folder(folder.path()).unwrap();
        assert_eq!(changed(&watch).unwrap(), Some(vec![]));
        let path = folder.path().join("side");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(&[7; 1 << 20]).unwrap();
        assert!(changed(&watch).unwrap().is_none_or(|names| names.iter().all(|name| name == "side")));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(first_data(&file), 0);
        // A file system without holes keeps it whole, which is no error of ours.
        if punch(&file, 1 << 19).is_ok() {
            let found = file.metadata().unwrap();
            assert_eq!(found.len(), 1 << 20);
            assert!(found.blocks() * 512 < 1 << 20, "{} blocks", found.blocks());
            assert!((1..=1 << 19).contains(&first_data(&file)));
        }
    }
}
