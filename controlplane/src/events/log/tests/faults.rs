//! A disk that says no, and one that forgets.

use super::*;
use crate::events::log::simulation::Disk;
use std::io::ErrorKind;

#[test]
fn after_a_failed_write_or_sync_nothing_is_written_any_more() {
    for fail_at in 0..4 {
        let disk = Disk::default();
        let (mut log, _) = Log::over_backend(Box::new(disk.mount().unwrap())).unwrap();
        let kept: Vec<Kept> = (1..=10).map(|seq| made(&mut Dice(seq), seq, seq)).collect();
        disk.fail_writes(fail_at, ErrorKind::StorageFull);
        for (at, one) in kept.iter().enumerate() {
            let result = log.append(&batch(std::slice::from_ref(one)));
            match (at as u64).cmp(&fail_at) {
                std::cmp::Ordering::Less => result.unwrap(),
                std::cmp::Ordering::Equal => assert!(matches!(result, Err(LogError::Store(_)))),
                std::cmp::Ordering::Greater => assert!(matches!(result, Err(LogError::Failed))),
            }
        }
        assert!(matches!(log.sync(), Err(LogError::Failed)));
        // What was written before can still be read.
        assert_eq!(all(&log.reader(), &Query::default(), BIG).0.len() as u64, fail_at);
    }
    let disk = Disk::default();
    let (mut log, _) = Log::over_backend(Box::new(disk.mount().unwrap())).unwrap();
    disk.fail_sync(ErrorKind::Other);
    assert!(matches!(log.sync(), Err(LogError::Store(_))));
    let one = made(&mut Dice(1), 1, 1);
    assert!(matches!(log.append(&batch(std::slice::from_ref(&one))), Err(LogError::Failed)));
}

#[test]
fn what_was_synced_survives_every_crash_and_the_rest_is_a_prefix() {
    for seed in 1..=200 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let disk = Disk::default();
        let (mut synced, mut kept): (u64, Vec<Kept>) = (0, Vec::new());
        for _ in 0..6 {
            let (mut log, opened) = Log::over_backend(Box::new(disk.mount().unwrap())).unwrap();
            assert!(opened.last_seq >= synced, "seed {seed}");
            kept.retain(|one| one.seq <= opened.last_seq);
            let seqs = all(&log.reader(), &Query::default(), BIG).0;
            assert_eq!(seqs, expected(&kept, &Query::default()), "seed {seed}");
            for _ in 0..dice.below(12) {
                let first = log.last_seq() + 1;
                let new: Vec<Kept> =
                    (first..first + dice.below(8)).map(|seq| made(&mut dice, seq, seq)).collect();
                log.append(&batch(&new)).unwrap();
                kept.extend(new);
                log.index(dice.below(5) as usize).unwrap();
                if dice.below(5) == 0 {
                    log.sync().unwrap();
                    synced = log.last_seq();
                }
            }
            drop(log);
            disk.crash(dice.below(1 << 20));
            let (mut log, opened) = Log::over_backend(Box::new(disk.mount().unwrap())).unwrap();
            kept.retain(|one| one.seq <= opened.last_seq);
            log.index(usize::MAX).unwrap();
            let query = asked(&mut dice, opened.last_seq + 1, (1, 200));
            assert_eq!(all(&log.reader(), &query, BIG).0, expected(&kept, &query), "seed {seed}: {query:?}");
        }
    }
}
