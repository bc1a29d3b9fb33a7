//! Answers of whoever reads ahead, against answers of whoever doesn't.

use super::*;
use crate::auth::principal::Principal;
use crate::events::ahead::Ahead;
use crate::events::outlet::{Found, Hearer, Question};
use crate::events::reading::answer;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::id::SubscriptionId;

/// Who asks for one page after the other.
fn asker(dice: &mut Dice, last: u64) -> Question {
    let principal = *dice.one(&[0, 7]);
    let principal = if principal == 0 { Principal::Owner } else { Principal::User { uid: principal } };
    let query = match dice.below(3) {
        0 => Query { backward: dice.below(2) == 0, ..Query::default() },
        _ => asked(dice, last, (9_000_000, 9_900_000)),
    };
    Question {
        ticket: 0,
        query,
        limit: 1 + dice.below(40) as usize,
        hearer: Hearer { principal, dialect: Dialect::Int64, envelope: true },
        subscription: (dice.below(8) == 0).then(|| SubscriptionId::from_text("topic_1")),
        raw: false,
    }
}

fn parts(found: &Found) -> (&[u8], usize, u64, bool) {
    (&found.bytes, found.events, found.seen, found.more)
}

fn grow(log: &mut Log, dice: &mut Dice, events: u64) {
    let begun = log.last_seq() + 1;
    let new: Vec<Kept> = (begun..begun + events).map(|seq| made(dice, seq, 9_000_000 + 900 * seq)).collect();
    log.append(&batch(&new)).unwrap();
    log.index(dice.below(2 * events) as usize).unwrap();
}

#[test]
fn what_was_read_ahead_is_what_would_be_read_now() {
    let mut given = 0;
    for seed in 1..=16 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let folder = tempfile::tempdir().unwrap();
        let mut log = match seed % 4 {
            0 => Log::open(folder.path(), Options::default()).unwrap().0,
            _ => Log::in_memory(u64::MAX).unwrap(),
        };
        grow(&mut log, &mut dice, 900);
        let reader = log.reader();
        let mut ahead = Ahead::new(&reader);
        let mut askers: Vec<Question> = (0..2).map(|_| asker(&mut dice, 900)).collect();
        for step in 0..400 {
            match dice.below(20) {
                0 => grow(&mut log, &mut dice, 40),
                // The beginning goes, and all but the latest of one type.
                1 => {
                    let bytes = Some(reader.stats().unwrap().record_bytes * 9 / 10);
                    let types = (*dice.one(&TOPICS)).to_owned();
                    let rule = Rule { types, age_ms: None, latest_by: None, count: Some(20) };
                    let policy = Retention { bytes, rules: vec![rule], ..Retention::default() };
                    log.retain(&policy, 0, 50).unwrap();
                }
                2 => ahead.forget(),
                3..8 => {}
                _ => ahead.look(),
            }
            let at = usize::from(dice.below(6) == 0);
            let question = &mut askers[at];
            let held = ahead.holds();
            let (one, other) = (ahead.answer(question), answer(&reader, question));
            let (one, other) = (one.found.unwrap(), other.found.unwrap());
            assert_eq!(parts(&one), parts(&other), "seed {seed}, step {step}: {question:?}");
            given += u32::from(held && !ahead.holds());
            match (one.more, question.query.backward) {
                (true, false) => question.query.from = one.seen + 1,
                (true, true) => question.query.to = one.seen + 1,
                (false, _) => *question = asker(&mut dice, log.last_seq()),
            }
        }
    }
    assert!(given > 500, "it was of use {given} times");
}

#[test]
fn one_page_is_held_and_only_for_whoever_goes_on() {
    let mut log = Log::in_memory(u64::MAX).unwrap();
    grow(&mut log, &mut Dice(1), 100);
    let reader = log.reader();
    let mut ahead = Ahead::new(&reader);
    let mut question = Question { limit: 10, subscription: None, ..asker(&mut Dice(2), 100) };
    question.query = Query::default();
    let mut ask = |ahead: &mut Ahead<'_>, from: u64| {
        question.query.from = from;
        ahead.answer(&question);
        ahead.look();
    };
    ask(&mut ahead, 1);
    assert!(!ahead.holds(), "many want one page only");
    ask(&mut ahead, 11);
    assert!(ahead.holds());
    // Others don't take its place, but so many of them do away with it.
    for _ in 0..32 {
        ask(&mut ahead, 1);
        assert!(ahead.holds());
    }
    ask(&mut ahead, 1);
    assert!(!ahead.holds());
    // Behind the last page there is nothing.
    ask(&mut ahead, 81);
    ask(&mut ahead, 91);
    assert!(!ahead.holds());
}
