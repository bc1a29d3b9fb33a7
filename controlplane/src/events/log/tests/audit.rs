//! The audit's chain in the store: what is in it, what becomes of it when something becomes of its files, and what is left of
//! it when it is pruned.

use super::damage::{copied, files};
use super::*;
use crate::audit::Order;
use crate::audit::chain::Head;
use crate::audit::verify::Checker;
use crate::events::log::audit::{Piece, check};
use crate::events::log::simulation::Disk;
use kairo_wire::methods::audit::AuditProblem;
use std::fs;

const AUDITED: &str = "kairo.process.spawned";

fn key() -> Key {
    Key::new(&[5; 32])
}

fn options() -> Options {
    Options { boot: "b".to_owned(), audit: Some(key()) }
}

/// Place and record of all that is in the chain, page by page, and what is not as it was written.
fn chain(reader: &Reader) -> (Vec<(u64, u64, Bytes)>, Vec<AuditProblem>) {
    let standing = reader.audit().unwrap().unwrap();
    let public = Some(key().public());
    let mut checker = match standing.anchor {
        Some(anchor) => Checker::anchored(anchor, public),
        None => Checker::whole(public),
    };
    let (mut found, mut after) = (Vec::new(), Some(0));
    while let Some(at) = after {
        let stretch = reader.audit_stretch(at, standing.head.n, PageLimit { events: 7, ..BIG }).unwrap();
        for piece in &stretch.pieces {
            check(&mut checker, piece);
            if let Piece::Record(link) = piece {
                found.push((link.n(), link.seq(), link.body.slice(16..)));
            }
        }
        after = stretch.next;
    }
    assert!(checker.problems.len() + found.len() > 0 || standing.head == Head::default());
    (found, checker.problems)
}

fn audited(kept: &[Kept]) -> Vec<(u64, u64, Bytes)> {
    let events = kept.iter().filter(|one| one.topic == AUDITED);
    events.zip(1..).map(|(one, n)| (n, one.seq, one.bytes.clone())).collect()
}

fn events(seed: u64, count: u64) -> Vec<Kept> {
    let mut dice = Dice(seed);
    (1..=count).map(|seq| made(&mut dice, seq, seq)).collect()
}

fn order(log: &mut Log, order: Order) {
    log.append(&Batch { orders: vec![order], ..Batch::default() }).unwrap();
}

#[test]
fn what_is_audited_is_in_the_chain_in_order_and_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let kept = events(7, 3_000);
    for (life, part) in kept.chunks(500).enumerate() {
        let (mut log, opened) = Log::open(folder.path(), options()).unwrap();
        assert_eq!(opened.audit.damage, []);
        assert_eq!(opened.audit.begins.is_some(), life == 0);
        part.chunks(30).for_each(|chunk| log.append(&batch(chunk)).unwrap());
        if life % 2 == 0 {
            log.sign_audit(9_000).unwrap();
            assert!(!log.is_unsigned());
            log.close().unwrap();
        }
    }
    let (log, _) = Log::open(folder.path(), options()).unwrap();
    let (found, problems) = chain(&log.reader());
    assert_eq!(problems, []);
    assert_eq!(found, audited(&kept));
    // Retention takes events, and no records.
    let mut log = log;
    log.index(usize::MAX).unwrap();
    log.retain(&Retention { bytes: Some(0), ..Retention::default() }, 1, usize::MAX).unwrap();
    assert_eq!((log.totals().events, chain(&log.reader()).0.len()), (0, found.len()));
}

#[test]
fn a_log_without_a_key_keeps_none() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, opened) = Log::open(folder.path(), Options::default()).unwrap();
    log.append(&batch(&events(1, 100))).unwrap();
    order(&mut log, Order::Sign { at_ms: 1 });
    assert!(log.reader().audit().unwrap().is_none() && opened.audit == Audited::default());
}

#[test]
fn long_chains_and_long_times_are_signed_without_being_asked() {
    let mut dice = Dice(3);
    let mut audited = |seq: u64, time_ms: u64| loop {
        let one = made(&mut dice, seq, time_ms);
        if one.topic == AUDITED {
            return one;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(folder.path(), options()).unwrap();
    let hour = 3_600_000;
    for (seq, time_ms, signed) in [(1, 1, 1), (2, 2, 1), (3, hour, 3), (4, hour + 1, 3)] {
        log.append(&batch(&[audited(seq, time_ms)])).unwrap();
        assert_eq!(log.reader().audit().unwrap().unwrap().last.unwrap().n, signed, "{seq}");
    }
    let many: Vec<Kept> = (5..2_000).map(|seq| audited(seq, hour)).collect();
    log.append(&batch(&many)).unwrap();
    assert_eq!(log.reader().audit().unwrap().unwrap().last.unwrap().n, 1_999);
}

/// Records in tables and in the journal, some behind the last checkpoint.
fn filled(folder: &Path) -> (Log, Vec<Kept>) {
    let kept = events(11, 900);
    let (mut log, _) = Log::open(folder, options()).unwrap();
    for (place, chunk) in kept[..600].chunks(60).enumerate() {
        log.append(&batch(chunk)).unwrap();
        if place % 3 == 0 {
            order(&mut log, Order::Sign { at_ms: place as u64 });
        }
    }
    log.close().unwrap();
    backend::disk::Disk::open(&folder.join("db")).unwrap().flush().unwrap();
    let (mut log, _) = Log::open(folder, options()).unwrap();
    for chunk in kept[600..].chunks(30) {
        log.append(&batch(chunk)).unwrap();
    }
    (log, kept)
}

#[test]
fn a_flipped_byte_or_a_cut_in_any_file_changes_nothing_unsaid() {
    let folder = tempfile::tempdir().unwrap();
    let (log, kept) = filled(folder.path());
    let written = audited(&kept);
    let signed = log.reader().audit().unwrap().unwrap().last.unwrap().n;
    let mut dice = Dice(9);
    let (mut told, mut unharmed) = (0, 0);
    for path in files(folder.path()) {
        let name = path.strip_prefix(folder.path()).unwrap();
        for round in 0..3 {
            let copy = copied(folder.path());
            let mut bytes = fs::read(copy.path().join(name)).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = dice.below(bytes.len() as u64) as usize;
            match round {
                0 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << dice.below(8),
            }
            fs::write(copy.path().join(name), bytes).unwrap();
            let what = format!("{} at {at}, round {round}", name.display());
            let (mut log, opened) =
                Log::open(copy.path(), options()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let (found, problems) = chain(&log.reader());
            let is_whole = found == written;
            let is_said =
                !problems.is_empty() || !opened.audit.damage.is_empty() || !opened.damage.is_empty();
            assert!(is_whole || is_said, "{what}: {} of {} and not a word", found.len(), written.len());
            for (n, seq, record) in &found {
                let same = written.get(*n as usize - 1).is_some_and(|one| (one.1, &one.2) == (*seq, record));
                assert!(
                    same || problems.iter().any(|one| (one.from..=one.to).contains(n)),
                    "{what}: record {n}"
                );
            }
            told += usize::from(!is_whole);
            unharmed += usize::from(is_whole && problems.is_empty());
            // It goes on, and what was signed is nobody else's number.
            let next = made(&mut Dice(2), log.last_seq() + 1, 1);
            let next = Kept { topic: "kairo.security.denied".to_owned(), ..next };
            log.append(&batch(std::slice::from_ref(&next))).unwrap();
            let head = log.reader().audit().unwrap().unwrap().head;
            assert!(head.n > signed, "{what}: {head:?}");
        }
    }
    assert!(told > 2 && unharmed > 5, "{told} {unharmed}");
}

#[test]
fn what_is_pruned_leaves_its_checkpoint_whenever_the_process_dies() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, kept) = filled(folder.path());
    let written = audited(&kept);
    order(&mut log, Order::Prune { before_ms: 5, at_ms: 2_000 });
    let anchor = log.reader().audit().unwrap().unwrap().anchor.expect("something was signed before").n;
    assert!(anchor > 10 && anchor < written.len() as u64);
    let mut deaths = 0;
    while log.is_pruning() {
        log.prune_audit(4).unwrap();
        drop(log);
        log = Log::open(folder.path(), options()).unwrap().0;
        let (found, problems) = chain(&log.reader());
        assert_eq!((&found[..], problems), (&written[anchor as usize..], vec![]));
        deaths += 1;
    }
    assert!(deaths > 3);
    assert_eq!(log.reader().audit_checkpoint(anchor - 1).unwrap(), None, "older checkpoints are gone, too");
    order(&mut log, Order::Prune { before_ms: 5, at_ms: 2_001 });
    assert!(!log.is_pruning(), "what is dropped is not dropped again");
}

#[test]
fn of_a_batch_that_was_not_written_nothing_is_in_the_chain() {
    for seed in 1..=40 {
        let mut dice = Dice(seed);
        let (disk, folder) = (Disk::default(), tempfile::tempdir().unwrap());
        let mut kept: Vec<Kept> = Vec::new();
        for _ in 0..6 {
            let backend = Box::new(disk.mount().unwrap());
            let (mut log, opened) = Log::over_backend_in(backend, folder.path(), options()).unwrap();
            kept.retain(|one| log.reader().get(one.seq).unwrap().is_some());
            let (found, problems) = chain(&log.reader());
            let there: Vec<(u64, Bytes)> = found.into_iter().map(|(_, seq, record)| (seq, record)).collect();
            let expected: Vec<(u64, Bytes)> =
                audited(&kept).into_iter().map(|(_, seq, record)| (seq, record)).collect();
            assert_eq!(there, expected, "seed {seed}: a record for each event, and none for another");
            assert!(problems.is_empty() || !opened.damage.is_empty() || kept.len() < 10_000, "seed {seed}");
            if dice.below(3) == 0 {
                disk.fail_writes(dice.below(8), std::io::ErrorKind::StorageFull);
            }
            for _ in 0..10 {
                let from = log.last_seq() + 1;
                let more: Vec<Kept> =
                    (from..from + 1 + dice.below(20)).map(|seq| made(&mut dice, seq, seq)).collect();
                if log.append(&batch(&more)).is_err() || (dice.below(4) == 0 && log.sync().is_err()) {
                    break;
                }
                kept.extend(more);
            }
            match dice.below(2) {
                0 => disk.kill(),
                _ => drop(disk.crash(dice.below(1_000))),
            }
        }
    }
}

#[test]
fn a_log_of_the_first_format_gets_an_audit_that_begins_now() {
    for is_cut_off in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        format::copy(Path::new(format::FIXTURE), folder.path());
        if is_cut_off {
            // A start that was killed as it made the space.
            fs::create_dir_all(folder.path().join("db/keyspaces/5/tables")).unwrap();
        }
        let (mut log, opened) = Log::open(folder.path(), options()).unwrap();
        assert_eq!((opened.last_seq, opened.quarantined.len(), opened.damage.len()), (50, 0, 0));
        assert_eq!(opened.audit, Audited { begins: Some(key().public()), damage: Vec::new() });
        let next = Kept { topic: "kairo.security.denied".to_owned(), ..made(&mut Dice(1), 51, 1) };
        log.append(&batch(&[next])).unwrap();
        drop(log);
        let (log, opened) = Log::open(folder.path(), options()).unwrap();
        assert_eq!((opened.audit, chain(&log.reader()).0.len()), (Audited::default(), 1));
        drop(log);
        // From now on it is missed when it isn't there.
        fs::remove_dir_all(folder.path().join("db/keyspaces/5")).unwrap();
        let (_, opened) = Log::open(folder.path(), options()).unwrap();
        assert_eq!(opened.quarantined.len(), 1);
    }
}
