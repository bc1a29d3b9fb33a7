//! What becomes of the log when something becomes of its files.

use super::*;
use std::collections::BTreeSet;
use std::fs;

/// Cuts and flips of each file.
const ROUNDS: usize = 1;

fn options(boot: &str) -> Options {
    Options { boot: boot.to_owned(), audit: None }
}

/// All files under `folder` but those in quarantine.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().unwrap() != "quarantine" {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// As it would be found if the process were killed now; zeros at the end of a journal are holes here as well.
pub(super) fn copied(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for path in files(from) {
        let place = to.path().join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let file = fs::File::create(&place).unwrap();
        std::io::Write::write_all(&mut &file, &bytes[..used]).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }
    to
}

/// A log with 400 events in tables and 200 in the journal; the log is open.
fn filled(folder: &Path) -> (Log, Vec<Kept>) {
    let mut dice = Dice(77);
    let kept: Vec<Kept> = (1..=600).map(|seq| made(&mut dice, seq, seq)).collect();
    let (mut log, _) = Log::open(folder, options("b")).unwrap();
    for chunk in kept[..400].chunks(40) {
        log.append(&batch(chunk)).unwrap();
    }
    log.append(&Batch {
        lives: vec![Life { kind: Kind::Clear, bytes: "life".into() }],
        values: vec![Value { key: "name".into(), bytes: Some("value".into()) }],
        ..Batch::default()
    })
    .unwrap();
    log.index(300).unwrap();
    log.close().unwrap();
    backend::disk::Disk::open(&folder.join("db")).unwrap().flush().unwrap();
    let (mut log, opened) = Log::open(folder, options("b")).unwrap();
    assert_eq!((opened.last_seq, opened.damage), (400, Vec::new()));
    for chunk in kept[400..].chunks(20) {
        log.append(&batch(chunk)).unwrap();
    }
    log.index(100).unwrap();
    (log, kept)
}

/// Every event is there as it was or in a damaged range, forward and backward, and no number comes again. Returns how many
/// are missing.
fn accounted(log: &mut Log, opened: &Opened, kept: &[Kept], what: &str) -> usize {
    let mut missing = BTreeSet::new();
    for backward in [false, true] {
        let query = Query { backward, ..Query::default() };
        let limit = PageLimit { events: 50, ..BIG };
        let (seqs, gaps) = all(&log.reader(), &query, limit);
        let seqs: BTreeSet<u64> = seqs.into_iter().collect();
        for one in kept {
            let damaged = |gap: &Gap| gap.meets(one.seq, one.seq) && matches!(gap.why, Reason::Damaged(_));
            if seqs.contains(&one.seq) {
                assert_eq!(log.reader().get(one.seq).unwrap().unwrap(), one.bytes, "{what}: {}", one.seq);
            } else {
                assert!(gaps.iter().any(damaged), "{what}: {} is missing, {gaps:?} {opened:?}", one.seq);
                missing.insert(one.seq);
            }
        }
    }
    let last = kept.last().unwrap().seq;
    assert!(opened.last_seq >= last, "{what}: {} would be used again", opened.last_seq + 1);
    // What a query finds by an index it finds by a look at each event.
    let there: Vec<Kept> = kept
        .iter()
        .filter(|one| !missing.contains(&one.seq))
        .map(|one| Kept { seq: one.seq, topic: one.topic.clone(), bytes: one.bytes.clone() })
        .collect();
    log.index(usize::MAX).unwrap();
    let mut dice = Dice(5);
    for _ in 0..20 {
        let query = asked(&mut dice, last, (1, last));
        let query = Query { to: query.to.min(last), ..query };
        assert_eq!(all(&log.reader(), &query, BIG).0, expected(&there, &query), "{what}: {query:?}");
    }
    // It goes on.
    let next = made(&mut dice, opened.last_seq + 1, 1);
    log.append(&batch(std::slice::from_ref(&next))).unwrap();
    assert_eq!(log.reader().get(next.seq).unwrap().unwrap(), next.bytes);
    missing.len()
}

/// Opens a copy of the folder after `harm`, and again.
fn harmed(folder: &Path, kept: &[Kept], what: &str, harm: impl FnOnce(&Path)) -> usize {
    let copy = copied(folder);
    harm(copy.path());
    let (mut log, opened) =
        Log::open(copy.path(), options("b")).unwrap_or_else(|error| panic!("{what}: {error}"));
    let missing = accounted(&mut log, &opened, kept, what);
    let found = log.damage().unwrap();
    assert!(missing == 0 || opened.damage.len() + found.len() > 0, "{what}: it was said to nobody");
    let kept_last = log.last_seq();
    drop(log);
    let (mut log, opened) = Log::open(copy.path(), options("b")).unwrap();
    assert_eq!((opened.last_seq, &opened.damage[..]), (kept_last, &[][..]), "{what}: said twice");
    assert_eq!(accounted(&mut log, &opened, kept, what), missing, "{what}: and again");
    missing
}

#[test]
fn a_log_that_was_never_written_to_has_lost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for boot in ["b", "b", "c"] {
        let (_, opened) = Log::open(folder.path(), options(boot)).unwrap();
        assert_eq!((opened.last_seq, opened.damage), (0, Vec::new()));
    }
}

/// Its numbers are leased a moment before the first event is there.
#[test]
fn a_process_that_is_killed_before_its_first_event_is_there_has_lost_nothing() {
    for steps in 0..=2 {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(folder.path(), options("b")).unwrap();
        log.backend.make().unwrap();
        let head = log.head.as_mut().unwrap();
        match steps {
            0 => {}
            1 => head.mark(0).unwrap(),
            _ => log.lease(1).unwrap(),
        }
        drop(log);
        let (_, opened) = Log::open(folder.path(), options("b")).unwrap();
        assert_eq!((opened.last_seq, opened.damage), (0, Vec::new()), "after {steps} steps");
    }
}

#[test]
fn a_killed_process_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, kept) = filled(folder.path());
    assert_eq!(harmed(folder.path(), &kept, "killed", |_| {}), 0);
    assert!(matches!(Log::open(folder.path(), options("b")), Err(LogError::InUse)));
    drop(log);
}

#[test]
fn a_process_that_is_killed_while_it_writes_much_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(folder.path(), options("b")).unwrap();
    let kept: Vec<Kept> = (1..=40_000).map(|seq| made(&mut Dice(seq), seq, seq)).collect();
    for (at, chunk) in kept.chunks(1_000).enumerate() {
        log.append(&batch(chunk)).unwrap();
        log.index(1_000).unwrap();
        if at % 8 == 7 {
            // Some of it is in tables, some was being written to them, some is in journals.
            drop(log);
            if at == 15 {
                backend::disk::Disk::open(&folder.path().join("db")).unwrap().flush().unwrap();
            }
            let copy = copied(folder.path());
            let (copied, opened) = Log::open(copy.path(), options("b")).unwrap();
            let seqs = all(&copied.reader(), &Query::default(), BIG).0;
            assert_eq!(seqs, expected(&kept[..(at + 1) * 1_000], &Query::default()));
            assert_eq!((opened.last_seq, opened.damage), (chunk.last().unwrap().seq, Vec::new()));
            log = Log::open(folder.path(), options("b")).unwrap().0;
        }
    }
    assert_eq!(log.index(usize::MAX).unwrap().lag, 0);
    let mut dice = Dice(3);
    for _ in 0..20 {
        let query = asked(&mut dice, 40_000, (1, 40_000));
        assert_eq!(all(&log.reader(), &query, BIG).0, expected(&kept, &query), "{query:?}");
    }
    // Every run begins a journal: they don't add up.
    for seq in 40_001..40_030 {
        drop(log);
        log = Log::open(folder.path(), options("b")).unwrap().0;
        log.append(&batch(&[made(&mut dice, seq, seq)])).unwrap();
    }
    drop(log);
    let journals =
        files(folder.path()).iter().filter(|path| path.extension().is_some_and(|end| end == "jnl")).count();
    assert!(journals < 20, "{journals}");
}

#[test]
fn a_full_disk_ends_the_log_and_the_next_one_has_all_that_was_said_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(folder.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return println!("skipped, nothing can be mounted here");
    }
    let outcome = std::panic::catch_unwind(|| {
        let (mut log, _) = Log::open(folder.path(), options("b")).unwrap();
        let mut dice = Dice(8);
        let noise = || Raw::of(&(0..2_000).map(|_| dice.below(1 << 40)).collect::<Vec<u64>>()).unwrap();
        let data: Vec<Raw> = std::iter::repeat_with(noise).take(16).collect();
        let mut written = 0;
        let error = loop {
            let seqs = written + 1..=written + 16;
            let records = seqs.clone().zip(&data).map(|(seq, data)| record(seq, "a", data).encode().unwrap());
            let stored = seqs.zip(records).map(|(seq, record)| Stored { seq, topic: "a", record });
            match log.append(&Batch { events: stored.collect(), ..Batch::default() }) {
                Ok(()) => written += 16,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LogError::Store(_)), "{error}");
        assert!(matches!(log.sync(), Err(LogError::Failed)));
        assert_eq!(all(&log.reader(), &Query::default(), BIG).0.len() as u64, written);
        drop(log);
        let (log, opened) = {
            // Somebody made room.
            let more = std::process::Command::new("mount")
                .args(["-o", "remount,size=64m"])
                .arg(folder.path())
                .status();
            assert!(more.unwrap().success());
            Log::open(folder.path(), options("b")).unwrap()
        };
        let seqs = all(&log.reader(), &Query::default(), BIG).0;
        assert_eq!(seqs[..written as usize], (1..=written).collect::<Vec<u64>>());
        assert!(opened.damage.iter().all(|damage| damage.from > written), "{:?}", opened.damage);
    });
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status().unwrap();
    assert!(outcome.is_ok() && unmounted.success());
}

#[test]
fn whatever_happens_to_one_file_the_rest_is_there_and_the_loss_has_a_range() {
    let folder = tempfile::tempdir().unwrap();
    let (_log, kept) = filled(folder.path());
    let mut dice = Dice(99);
    for path in files(folder.path()) {
        let name = path.strip_prefix(folder.path()).unwrap().to_owned();
        if name.ends_with("lock") {
            continue;
        }
        let used =
            fs::read(&path).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1) as u64;
        let what = name.display().to_string();
        harmed(folder.path(), &kept, &format!("{what} removed"), |copy| {
            fs::remove_file(copy.join(&name)).unwrap()
        });
        for _ in 0..ROUNDS {
            let at = dice.below(used);
            harmed(folder.path(), &kept, &format!("{what} cut at {at} of {used}"), |copy| {
                fs::OpenOptions::new().write(true).open(copy.join(&name)).unwrap().set_len(at).unwrap();
            });
            let (at, bit) = (dice.below(used), dice.below(8));
            harmed(folder.path(), &kept, &format!("{what} bit {bit} flipped at {at} of {used}"), |copy| {
                let mut bytes = fs::read(copy.join(&name)).unwrap();
                bytes[at as usize] ^= 1 << bit;
                fs::write(copy.join(&name), bytes).unwrap();
            });
        }
    }
}
