//! Events from a publisher into the log and on to a subscriber, beside fjall and SQLite writing as many of the same length.
//!
//! One publisher has eight batches in flight; a round is over when the last one is acknowledged and one live subscriber has
//! counted every event: one that is lost ends the bench. fjall has its own settings, the same keys (place → record; type, story
//! and source with the place → nothing; the times of each block), one commit a batch, and shares its process with nobody; like
//! the daemon's log it is one over all rounds, so that what it does in the background is in its figure, too. Another one has
//! only the two keys that the daemon writes before it acknowledges; it writes the others a moment later. SQLite is the `sqlite3` program with statements on its stdin, so parsing them is in its figure; it has one
//! table and one index on the type.

use crate::support::bare::{Bare, Keys};
use crate::support::daemon::Daemon;
use crate::support::events::{
    DATA_BYTES, batches, noise, rate_of_bare, rate_with_a_subscriber, records, topic,
};
use crate::support::raw::{Raw, request_bytes, value};
use crate::support::report::{Bar, ROUNDS, Report};
use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const EVENTS: u64 = 100_000;
/// Batches of a round in which each is flushed.
const FLUSHED_BATCHES: u64 = 60;

pub(crate) fn run(report: &mut Report) {
    let records = records(EVENTS.max(FLUSHED_BATCHES * 1_024));
    for (size, ack) in [(64, "log"), (1_024, "log"), (64, "disk"), (1_024, "disk")] {
        let flush = ack == "disk";
        let events = if flush { FLUSHED_BATCHES * size } else { EVENTS };
        let (requests, records) = (batches(events, size, ack), &records[..events as usize]);
        let daemon = Daemon::start(&[]);
        let place = tempfile::tempdir().expect("a temporary folder");
        let fjall = Bare::open(&place.path().join("all"), Keys::All);
        let least = Bare::open(&place.path().join("own"), Keys::Own);
        let script = Script::new(records, size as usize, flush);
        let (mut ours, mut bare, mut lite) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
        for round in 0..=ROUNDS {
            let first = round as u64 * events + 1;
            let rates = (
                rate_with_a_subscriber(&daemon, &requests, events as usize),
                [&fjall, &least].map(|bare| rate_of_bare(bare, first, records, size as usize, flush)),
                script.rate(),
            );
            // The first one warms up.
            if round > 0 {
                ours.push(rates.0);
                bare.iter_mut().zip(rates.1).for_each(|(all, rate)| all.push(rate));
                lite.extend(rates.2);
            }
        }
        let how = if flush { ", each flushed" } else { "" };
        let [bare, least] = bare;
        report.row(&format!("fjall, batches of {size}{how}"), "events/s", &bare, Bar::None);
        report.row("  with the first two keys only", "events/s", &least, Bar::None);
        report.row(&format!("publish_batch of {size}, ack {ack}"), "events/s", &ours, Bar::None);
        report.ratio("  beside fjall", &ours, &bare, Bar::AtLeast(0.6));
        report.ratio("  beside fjall with the first two keys", &ours, &least, Bar::None);
        if lite.len() == ours.len() {
            report.row(&format!("SQLite WAL, batches of {size}{how}"), "events/s", &lite, Bar::None);
            report.ratio("  beside SQLite", &ours, &lite, Bar::None);
        } else {
            println!("  there is no sqlite3 here");
        }
    }
    println!("  {}", jetstream());
}

/// What there is of it.
fn jetstream() -> &'static str {
    match Command::new("nats-server").arg("--version").stdout(Stdio::null()).status() {
        Ok(_) => "a JetStream server is installed, and this bench doesn't speak to it",
        Err(_) => "a JetStream server is not installed",
    }
}

/// What the `sqlite3` program is to do.
struct Script {
    folder: tempfile::TempDir,
    events: usize,
}

impl Script {
    fn new(records: &[String], size: usize, flush: bool) -> Script {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let synchronous = if flush { "FULL" } else { "NORMAL" };
        let mut sql = format!("PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous};\n");
        sql += "CREATE TABLE events (seq INTEGER PRIMARY KEY, topic TEXT, record TEXT);\n";
        sql += "CREATE INDEX types ON events (topic);\n";
        for (number, batch) in records.chunks(size).enumerate() {
            sql += "BEGIN;\n";
            for (record, seq) in batch.iter().zip((number * size + 1) as u64..) {
                let topic = topic(seq);
                let _ = writeln!(sql, "INSERT INTO events VALUES ({seq}, '{topic}', '{record}');");
            }
            sql += "COMMIT;\n";
        }
        std::fs::write(folder.path().join("sql"), sql).expect("the folder is ours");
        Script { folder, events: records.len() }
    }

    fn rate(&self) -> Option<f64> {
        let place = tempfile::tempdir_in(self.folder.path()).expect("a temporary folder");
        let sql = File::open(self.folder.path().join("sql")).expect("it was written");
        let mut command = Command::new("sqlite3");
        command.arg("-bail").arg(place.path().join("events.db")).stdin(sql).stdout(Stdio::null());
        let begun = Instant::now();
        let status = command.status().ok()?;
        assert!(status.success(), "sqlite3 takes the script");
        Some(self.events as f64 / begun.elapsed().as_secs_f64())
    }
}

const PUBLISHERS: usize = 64;
const EVENTS_EACH: usize = 60;

/// One event at a time from each of 64 connections, acknowledged when the disk has it. The reference: as many threads that
/// wait for one that commits to fjall, and flushes, what has come meanwhile.
pub(crate) fn publishers(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let records = records((PUBLISHERS * EVENTS_EACH) as u64);
    let (mut ours, mut group) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let rates = (durable(&daemon), grouped(&records));
        if round > 0 {
            ours.push(rates.0);
            group.push(rates.1);
        }
    }
    report.row("fjall, one flush for all who wait", "events/s", &group, Bar::None);
    report.row("event.publish from 64 connections, ack disk", "events/s", &ours, Bar::None);
    report.ratio("  beside fjall", &ours, &group, Bar::None);
    println!("  {}: its rate is not beside it", jetstream());
}

fn durable(daemon: &Daemon) -> f64 {
    let mut connections: Vec<Raw> = (0..PUBLISHERS).map(|_| daemon.connect()).collect();
    let draft = json!({"type": topic(1), "data": noise(1, DATA_BYTES), "ack": "disk"});
    let request = request_bytes(100, "event.publish", value(&draft));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for raw in &mut connections {
            scope.spawn(|| {
                for _ in 0..EVENTS_EACH {
                    raw.send(&request);
                    raw.answer(100).expect("it is published");
                }
            });
        }
    });
    (PUBLISHERS * EVENTS_EACH) as f64 / begun.elapsed().as_secs_f64()
}

/// A record, and who waits for it.
type Wanted = (String, Sender<()>);

fn grouped(records: &[String]) -> f64 {
    let place = tempfile::tempdir().expect("a temporary folder");
    let bare = Bare::open(place.path(), Keys::All);
    let (wanted, all): (Sender<Wanted>, Receiver<Wanted>) = channel();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for own in records.chunks(EVENTS_EACH) {
            let wanted = wanted.clone();
            scope.spawn(move || {
                let (told, is_there) = channel();
                for record in own {
                    wanted.send((record.clone(), told.clone())).expect("somebody commits");
                    is_there.recv().expect("it is committed");
                }
            });
        }
        drop(wanted);
        let mut next = 1_u64;
        while let Ok(first) = all.recv() {
            let (group, waiting): (Vec<String>, Vec<Sender<()>>) =
                std::iter::once(first).chain(all.try_iter()).unzip();
            bare.write(
                group.iter().zip(next..).map(|(record, seq)| (seq, topic(seq), record.as_str())),
                true,
            );
            next += group.len() as u64;
            waiting.iter().for_each(|told| told.send(()).expect("it waits"));
        }
    });
    records.len() as f64 / begun.elapsed().as_secs_f64()
}
