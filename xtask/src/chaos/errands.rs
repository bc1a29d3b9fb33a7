//! Rows of loads whose actors begin what is theirs themselves: events, intents, pipelines, streams they write.
//!
//! Not here: the list of all rows (`loads`), what becomes of a row (`deeds`, `flows`, `produced`).

use super::loads::{MIB, cut, pace, process};
use super::plan::{Consumer, Deed, Intents, Pipeline, Policy, Producer, Publisher, Visitor};
use super::random::Random;

pub(super) fn publish(random: &mut Random) -> Vec<Deed> {
    let mut all = Vec::new();
    for _ in 0..random.within(1..=3) {
        let count = random.of_any_size(10..=300);
        all.push(Deed::Publish(Publisher {
            count,
            disk_percent: *random.one_of(&[0, 10, 50]),
            keyed_percent: *random.one_of(&[50, 100, 100]),
            pause_us: random.within(0..=400_000) / count,
            seed: random.next(),
        }));
    }
    for _ in 0..random.within(1..=2) {
        all.push(Deed::Follow { from_the_first: random.chance(1, 2) });
    }
    all.push(Deed::Consume(Consumer {
        nak_percent: random.within(0..=10),
        ignored_percent: random.within(0..=3),
        in_flight_max: random.of_any_size(1..=64),
        seed: random.next(),
    }));
    all
}

pub(super) fn intents(random: &mut Random) -> Vec<Deed> {
    let role = ["sleepy", "--ms", "60000"].map(str::to_owned).to_vec();
    let processes = random.within(3..=9);
    let (after_us, grace_ms) = (random.of_any_size(1..=200_000), random.of_any_size(1..=400));
    vec![Deed::Intend(Intents { processes, role, after_us, grace_ms })]
}

pub(super) fn pipelines(random: &mut Random) -> Vec<Deed> {
    vec![Deed::Pipe(pipeline(random))]
}

pub(super) fn visited(random: &mut Random) -> Vec<Deed> {
    let mut plan = pipeline(random);
    plan.taps.fill(true);
    for _ in 0..random.within(1..=4) {
        let transport = *random.one_of::<&str>(&["frames", "frames", "pipe", "socket"]);
        let drops = transport == "frames" && random.chance(1, 2);
        let visits = (0..random.within(1..=6)).map(|_| {
            let stays = if random.chance(1, 5) { u64::MAX } else { random.of_any_size(1..=plan.bytes) };
            (random.of_any_size(1..=80_000), stays)
        });
        plan.visitors.push(Visitor {
            visits: visits.collect(),
            stage: random.within(0..=plan.stages.len() as u64 - 1) as usize,
            transport,
            policy: if drops { Policy::DropOldest } else { Policy::Block },
            is_polite: random.chance(1, 2),
            pace: pace(random),
        });
    }
    vec![Deed::Pipe(plan)]
}

fn pipeline(random: &mut Random) -> Pipeline {
    let bytes = random.of_any_size(1_000..=4 * MIB);
    let count = random.within(2..=4);
    let exit = if random.chance(1, 3) { random.within(1..=80) as u8 } else { 0 };
    let mut first = process(random, &["flood"]);
    first.flag("bytes", bytes);
    cut(&mut first, random, bytes);
    let mut stages = vec![first.role];
    for _ in 1..count {
        let mut echo = process(random, &["echo"]);
        echo.flag("read-bytes", random.of_any_size(bytes / 500 + 1..=65_536));
        stages.push(echo.role);
    }
    let last = random.within(0..=count - 1) as usize;
    stages[last].extend(["--exit".to_owned(), exit.to_string()]);
    Pipeline {
        taps: stages[1..].iter().map(|_| random.chance(1, 2)).collect(),
        stages,
        bytes,
        exit,
        after_us: random.of_any_size(1..=60_000),
        pace: pace(random),
        visitors: Vec::new(),
    }
}

pub(super) fn producers(random: &mut Random) -> Vec<Deed> {
    vec![Deed::Produce(producer(random, "pipe"))]
}

pub(super) fn in_place(random: &mut Random) -> Vec<Deed> {
    (0..random.within(1..=2)).map(|_| Deed::Produce(producer(random, "shared"))).collect()
}

fn producer(random: &mut Random, transport: &'static str) -> Producer {
    let bytes = random.of_any_size(1_000..=4 * MIB);
    let write_bytes = random.of_any_size((bytes / 1_000).max(1)..=131_072);
    let writes = bytes / write_bytes + 1;
    let pause_us = if random.chance(1, 2) { random.within(20_000..=300_000) / writes } else { 0 };
    Producer { transport, bytes, write_bytes, pause_us }
}
