//! What an earlier version wrote is read by this one.

use super::*;
use std::fs;

pub(super) const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/log-v1");

/// Copies every file of a folder.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let place = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &place);
        } else {
            fs::copy(&path, &place).unwrap();
        }
    }
}

fn events() -> Vec<Kept> {
    (1..=50).map(|seq| made(&mut Dice(seq), seq, seq)).collect()
}

#[test]
fn the_first_format_is_read() {
    if std::env::var_os("KAIRO_WRITE_FIXTURE").is_some() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path(), Options::default()).unwrap();
        let kept = events();
        let mut first = batch(&kept);
        first.lives = vec![Life { kind: Kind::Clear, bytes: "life".into() }];
        first.values = vec![Value { key: "name".into(), bytes: Some("value".into()) }];
        log.append(&first).unwrap();
        log.index(usize::MAX).unwrap();
        log.retain(&Retention { age_ms: Some(0), keep_from: Some(11), ..Retention::default() }, 1_000, 100)
            .unwrap();
        log.close().unwrap();
        backend::disk::Disk::open(&folder.path().join("db")).unwrap().flush().unwrap();
        // Opening cuts the zeros off that the journal was filled with.
        drop(backend::disk::Disk::open(&folder.path().join("db")).unwrap());
        drop(fs::remove_dir_all(FIXTURE));
        copy(folder.path(), Path::new(FIXTURE));
    }
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(FIXTURE), folder.path());
    let (log, opened) = Log::open(folder.path(), Options::default()).unwrap();
    assert_eq!((opened.last_seq, opened.damage.len(), opened.quarantined.len()), (50, 0, 0));
    assert_eq!(opened.lives, [(0, Kind::Clear, "life".into())]);
    assert_eq!(log.reader().value(b"name").unwrap().unwrap(), "value");
    let page = log.reader().scan(&Query::default(), None, BIG).unwrap();
    let kept = events();
    assert_eq!(page.events.len(), 40);
    assert!(page.events.iter().all(|(seq, record)| kept[*seq as usize - 1].bytes == *record));
    assert_eq!((page.gaps.len(), page.gaps[0].from, page.gaps[0].to), (1, 1, 10));
    assert_eq!(log.reader().index_lag().unwrap().lag, 0);
}

#[test]
fn a_later_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    copy(Path::new(FIXTURE), folder.path());
    head::tests::set_format(folder.path(), head::FORMAT + 1);
    let before = fs::read(folder.path().join("head")).unwrap();
    let refused = Log::open(folder.path(), Options::default());
    assert!(matches!(refused, Err(LogError::Newer { found }) if found == head::FORMAT + 1));
    assert_eq!(fs::read(folder.path().join("head")).unwrap(), before);
}
