//! The log over memory and over files, against what a look at each event says.

mod ahead;
mod audit;
mod damage;
mod faults;
mod format;
mod retention;

use super::*;
use crate::events::record::Record;
use crate::events::record::tests::record;
use kairo_wire::codec::raw::Raw;

/// Numbers that look like chance and come from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most.max(1)
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}

const TOPICS: [&str; 8] =
    ["a", "a.b", "a.b.c", "kairo.process.spawned", "kairo.process.exited", "kairo.stream.ended", "b.c", "ab"];
const STORIES: [&str; 4] = ["c1", "c2", "c3", "c33"];
const SOURCES: [&str; 3] = ["kernel", "owner", "skill:x"];
const BIG: PageLimit = PageLimit { events: usize::MAX, bytes: usize::MAX, looked_at: usize::MAX };

struct Kept {
    seq: u64,
    topic: String,
    bytes: Bytes,
}

fn made(dice: &mut Dice, seq: u64, time_ms: u64) -> Kept {
    let data = Raw::of(&serde_json::json!({"n": seq, "k": dice.below(5)})).unwrap();
    let topic = *dice.one(&TOPICS);
    let mut one = record(seq, topic, &data);
    one.time_ms = time_ms;
    one.source = (*dice.one(&SOURCES)).into();
    one.correlation = (dice.below(3) > 0).then(|| (*dice.one(&STORIES)).into());
    one.intent = (dice.below(4) == 0).then(|| (*dice.one(&STORIES)).into());
    Kept { seq, topic: topic.to_owned(), bytes: one.encode().unwrap() }
}

fn batch(kept: &[Kept]) -> Batch<'_> {
    let stored = |one: &'_ Kept| (one.seq, one.bytes.clone());
    let events = kept
        .iter()
        .map(|one| {
            let (seq, record) = stored(one);
            Stored { seq, topic: &one.topic, record }
        })
        .collect();
    Batch { events, ..Batch::default() }
}

fn asked(dice: &mut Dice, last: u64, times: (u64, u64)) -> Query {
    let mut query = Query::default();
    for _ in 0..dice.below(3) {
        let patterns =
            ["a", "a.*", "a.>", ">", "kairo.process.*", "*", "*.c", "kairo.>", "nothing", "b*.c", "ab"];
        query.types.push(Types::new(dice.one::<&str>(&patterns)).unwrap());
    }
    if dice.below(3) == 0 {
        query.sources.push((*dice.one(&SOURCES)).to_owned());
    }
    if dice.below(3) == 0 {
        query.correlation = Some((*dice.one(&STORIES)).to_owned());
    }
    if dice.below(4) == 0 {
        query.intent = Some((*dice.one(&STORIES)).to_owned());
    }
    if dice.below(2) == 0 {
        query.from = dice.below(last + 10);
        query.to = query.from + dice.below(last);
    }
    if dice.below(3) == 0 {
        query.from_ms = times.0 + dice.below(times.1 - times.0 + 1);
        query.to_ms = query.from_ms + dice.below(times.1 - times.0);
    }
    query.backward = dice.below(2) == 0;
    query
}

/// Page by page, as a client would.
fn all(reader: &Reader, query: &Query, limit: PageLimit) -> (Vec<u64>, Vec<Gap>) {
    let (mut seqs, mut gaps, mut at) = (Vec::new(), Vec::new(), None);
    loop {
        let page = reader.scan(query, at, limit).unwrap();
        seqs.extend(page.events.iter().map(|event| event.0));
        gaps.extend(page.gaps);
        match page.next {
            Some(next) => at = Some(next),
            None => return (seqs, gaps),
        }
    }
}

fn expected(kept: &[Kept], query: &Query) -> Vec<u64> {
    let wanted = |one: &&Kept| {
        (query.from..=query.to).contains(&one.seq)
            && query.matches(&Record::parse(one.seq, &one.bytes).unwrap())
    };
    let mut seqs: Vec<u64> = kept.iter().filter(wanted).map(|one| one.seq).collect();
    if query.backward {
        seqs.reverse();
    }
    seqs
}

#[test]
fn every_query_finds_what_a_look_at_each_event_finds() {
    for seed in 1..=24 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let folder = tempfile::tempdir().unwrap();
        let mut log = match seed % 4 {
            0 => Log::open(folder.path(), Options::default()).unwrap().0,
            _ => Log::in_memory(u64::MAX).unwrap(),
        };
        let (mut kept, mut seq, mut time) = (Vec::new(), 0, 10_000_000);
        for _ in 0..dice.below(30) + 5 {
            let mut new = Vec::new();
            for _ in 0..dice.below(300) {
                seq += 1 + u64::from(dice.below(20) == 0) * dice.below(100);
                // The clock goes back now and then.
                time = if dice.below(400) == 0 { time - 50_000 } else { time + dice.below(100) };
                new.push(made(&mut dice, seq, time));
            }
            log.append(&batch(&new)).unwrap();
            kept.extend(new);
            log.index(dice.below(400) as usize).unwrap();
        }
        let reader = log.reader();
        let times = (9_800_000, time.max(9_900_000));
        for _ in 0..60 {
            let query = asked(&mut dice, seq, times);
            let few = PageLimit {
                events: 1 + dice.below(50) as usize,
                bytes: 1 + dice.below(9_000) as usize,
                looked_at: 1 + dice.below(200) as usize,
            };
            let limit = if dice.below(2) == 0 { BIG } else { few };
            assert_eq!(all(&reader, &query, limit).0, expected(&kept, &query), "seed {seed}: {query:?}");
        }
    }
}

#[test]
fn what_is_no_longer_at_hand_is_indexed_all_the_same() {
    let mut log = Log::in_memory(u64::MAX).unwrap();
    let data = Raw::of(&"x".repeat(64 << 10)).unwrap();
    let kept: Vec<Kept> = (1..=200)
        .map(|seq| {
            let mut one = record(seq, "big", &data);
            one.correlation = Some(if seq % 2 == 0 { "even" } else { "odd" }.into());
            Kept { seq, topic: "big".to_owned(), bytes: one.encode().unwrap() }
        })
        .collect();
    for few in kept.chunks(7) {
        log.append(&batch(few)).unwrap();
        // Far behind at first, close by in the end.
        if few[0].seq > 100 {
            log.index(9).unwrap();
        }
    }
    log.index(usize::MAX).unwrap();
    assert_eq!(log.indexed_to(), 200);
    let query = Query { correlation: Some("even".to_owned()), ..Query::default() };
    assert_eq!(all(&log.reader(), &query, BIG).0, (1..=100).map(|half| half * 2).collect::<Vec<_>>());
    assert_eq!(log.reader().source.view().rows(backend::Space::Index, b"c", b"d", false).count(), 200);
}

#[test]
fn what_was_written_is_there_after_the_next_open() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, opened) = Log::open(folder.path(), Options::default()).unwrap();
    assert_eq!((opened.last_seq, opened.damage.len(), opened.lives.len()), (0, 0, 0));
    let kept: Vec<Kept> = (1..=100).map(|seq| made(&mut Dice(seq), seq, seq)).collect();
    let life = |text: &'static str| Life { kind: Kind::Sealed, bytes: text.into() };
    let mut first = batch(&kept);
    first.lives = vec![life("one"), life("two")];
    first.values = vec![
        Value { key: "v/1".into(), bytes: Some("x".into()) },
        Value { key: "w".into(), bytes: Some("y".into()) },
    ];
    log.append(&first).unwrap();
    log.append(&Batch { values: vec![Value { key: "w".into(), bytes: None }], ..Batch::default() }).unwrap();
    assert!(matches!(log.append(&first), Err(LogError::Order { seq: 1, last: 100 })));
    log.index(1_000).unwrap();
    log.close().unwrap();

    let (mut log, opened) = Log::open(folder.path(), Options::default()).unwrap();
    assert_eq!((opened.last_seq, opened.damage), (100, Vec::new()));
    let texts = |lives: &[(u64, Kind, Bytes)]| lives.iter().map(|life| life.2.clone()).collect::<Vec<_>>();
    assert_eq!(texts(&opened.lives), ["one", "two"]);
    let reader = log.reader();
    assert_eq!(reader.value(b"v/1").unwrap().unwrap(), "x");
    assert_eq!(reader.value(b"w").unwrap(), None);
    assert_eq!(reader.values(b"v").unwrap(), [("v/1".into(), "x".into())]);
    assert_eq!(reader.index_lag().unwrap(), IndexLag { indexed_to: 100, lag: 0 });
    assert_eq!(reader.get(7).unwrap().unwrap(), kept[6].bytes);
    assert_eq!(reader.stats().unwrap().events, 100);
    log.replace_lives(&[life("three")]).unwrap();
    log.append(&Batch { lives: vec![life("four")], ..Batch::default() }).unwrap();
    assert_eq!(texts(&reader.lives().unwrap()), ["three", "four"]);
    // Past the end there is nothing, and that is no error.
    assert_eq!(reader.scan(&Query::default(), Some(101), BIG).unwrap().events, []);
}

#[test]
fn a_hundred_thousand_types_are_as_good_as_one() {
    let mut log = Log::in_memory(u64::MAX).unwrap();
    let data = Raw::of(&1).unwrap();
    let topics: Vec<String> = (1..=100_000).map(|n| format!("t.{n}.x")).collect();
    for (chunk, topics) in topics.chunks(10_000).enumerate() {
        let stored = topics.iter().zip(chunk as u64 * 10_000 + 1..).map(|(topic, seq)| Stored {
            seq,
            topic,
            record: record(seq, topic, &data).encode().unwrap(),
        });
        log.append(&Batch { events: stored.collect(), ..Batch::default() }).unwrap();
    }
    let found = |text: &str| {
        let query = Query { types: vec![Types::new(text).unwrap()], ..Query::default() };
        all(&log.reader(), &query, BIG).0
    };
    assert_eq!(found("t.77777.x"), [77_777]);
    assert_eq!(found("t.9999*.x").len(), 10);
    assert_eq!(found("t.*.x").len(), 100_000);
    assert_eq!(found("*.x").len(), 0);
}
