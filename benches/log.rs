//! The event log: appends beside fjall writing the same keys, reads beside fjall reading them, and what a large log costs to
//! open and to hold; and what the audit adds to an append.
//!
//! The baseline has fjall's own settings. A record is 300 bytes, most of them noise that doesn't compress. The large log has
//! as many events as `KAIRO_BENCH_EVENTS` says; its payload is 300 bytes for each of them. Processes that are killed, and
//! those whose memory is looked at, are this program in the role `log`.

use crate::support::bare::{Bare, Keys};
use crate::support::bytes_in;
use crate::support::events::{KINDS, RECORD_BYTES, noise, record, topic};
use crate::support::processes::{memory_bytes, voluntary_switches};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles;
use bytes::Bytes;
use kairo_controlplane::audit::checkpoint::Key;
use kairo_controlplane::events::log::{Batch, Log, Options, PageLimit, Query, Stored, Types};
use kairo_controlplane::events::record::{Audience, Record};
use kairo_wire::codec::raw::Raw;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Events of one round, and of one in which every batch is flushed.
const EVENTS: usize = 200_000;
const FLUSHED_BATCHES: usize = 60;
/// Events of the large log, and by how many it grows before its process is killed.
const LARGE_EVENTS: u64 = 1_000_000;
const GROWTH: u64 = 40_000;
/// Events appended between two looks of the large log's writer at itself.
const STRETCH: u64 = 20_480;
const PAGE: PageLimit = PageLimit { events: 1_000, bytes: 1 << 20, looked_at: 100_000 };
/// A type that is audited.
const AUDITED: &str = "kairo.security.denied";
const IDLE_FOR: Duration = Duration::from_secs(10);

struct Event {
    topic: String,
    record: Bytes,
}

fn event(seq: u64) -> Event {
    event_of(seq, topic(seq))
}

fn event_of(seq: u64, topic: String) -> Event {
    let story = format!("story-{}", seq / 50);
    // The envelope is what is left.
    let noise = noise(seq, RECORD_BYTES - 68 - topic.len() - story.len());
    let data = Raw::of(&noise).expect("a text is a value");
    let record = record(seq, &topic, "bench", Audience::All, &story, data.as_ref());
    assert!(record.len().abs_diff(RECORD_BYTES) < 8, "a record has {} bytes", record.len());
    Event { topic, record }
}

pub(crate) fn run(report: &mut Report) {
    let events: Vec<Event> = (1..=EVENTS as u64).map(event).collect();
    appends(report, &events);
    reads(report, &events);
    drop(events);
    audits(report);
    large(report);
    idle(report);
}

fn opened(folder: &Path) -> Log {
    opened_with(folder, None)
}

fn opened_with(folder: &Path, audit: Option<Key>) -> Log {
    Log::open(folder, Options { boot: "bench".to_owned(), audit }).expect("the log opens").0
}

/// Seconds it takes.
fn append(log: &mut Log, events: &[Event], size: usize, flush: bool) -> f64 {
    let begun = Instant::now();
    for events in events.chunks(size) {
        let stored = events.iter().zip(log.last_seq() + 1..).map(|(event, seq)| Stored {
            seq,
            topic: &event.topic,
            record: event.record.clone(),
        });
        log.append(&Batch { events: stored.collect(), ..Batch::default() }).expect("it can be appended");
        if flush {
            log.sync().expect("it can be flushed");
        }
    }
    begun.elapsed().as_secs_f64()
}

/// Seconds it takes fjall.
fn append_bare(bare: &Bare, events: &[Event], size: usize, flush: bool) -> f64 {
    let begun = Instant::now();
    for (chunk, events) in events.chunks(size).enumerate() {
        let numbered = events.iter().zip((chunk * size + 1) as u64..);
        bare.write(numbered.map(|(event, seq)| (seq, &event.topic, event.record.clone())), flush);
    }
    begun.elapsed().as_secs_f64()
}

/// Seconds of a read of all values.
fn scan_bare(bare: &Bare, events: usize) -> f64 {
    let begun = Instant::now();
    assert!(bare.scan() >= events * (RECORD_BYTES - 8));
    begun.elapsed().as_secs_f64()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn appends(report: &mut Report, events: &[Event]) {
    for (size, flush) in [(64, false), (1_024, false), (64, true), (1_024, true)] {
        let events = if flush { &events[..(FLUSHED_BATCHES * size).min(events.len())] } else { events };
        let (mut ours, mut bare, mut indexed) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (place, other) = (folder(), folder());
            let mut log = opened(place.path());
            // What makes the files is not what appends.
            append(&mut log, &[event(1)], 1, false);
            let seconds = append(&mut log, events, size, flush);
            let begun = Instant::now();
            log.index(events.len()).expect("it can be indexed");
            let index = begun.elapsed().as_secs_f64();
            drop(log);
            let base = append_bare(&Bare::open(other.path(), Keys::Own), events, size, flush);
            if round > 0 {
                ours.push(events.len() as f64 / seconds);
                bare.push(events.len() as f64 / base);
                indexed.push(index / seconds);
            }
        }
        let how = if flush { ", each flushed" } else { "" };
        report.row(&format!("fjall, batches of {size}{how}"), "events/s", &bare, Bar::None);
        report.row(&format!("log, batches of {size}{how}"), "events/s", &ours, Bar::None);
        report.ratio("  beside fjall", &ours, &bare, Bar::AtLeast(0.6));
        if !flush {
            report.row("  indexing, beside appending", "x", &indexed, Bar::AtMost(1.0));
        }
    }
}

/// The same events into a log with an audit and into one without, in turns. One event in twenty is audited, which is more
/// than a kernel sees that runs programs and is published to; and, as the worst case, every one. Each record is a copy of its
/// event, hashed, in the same batch.
fn audits(report: &mut Report) {
    for (every, what, bar) in
        [(20, "one event in 20 audited", Bar::AtLeast(0.9)), (1, "every event audited", Bar::None)]
    {
        let of = |seq: u64| match seq % every {
            0 => event_of(seq, AUDITED.to_owned()),
            _ => event(seq),
        };
        let events: Vec<Event> = (1..=EVENTS as u64).map(of).collect();
        for size in [64, 1_024] {
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for round in 0..=ROUNDS {
                let (place, other) = (folder(), folder());
                let mut audited = opened_with(place.path(), Some(Key::new(&[1; 32])));
                let mut plain = opened(other.path());
                append(&mut audited, &[event(1)], 1, false);
                append(&mut plain, &[event(1)], 1, false);
                // Who comes second finds a warmer machine.
                let (one, two) = match round % 2 {
                    0 => {
                        let one = append(&mut audited, &events, size, false);
                        (one, append(&mut plain, &events, size, false))
                    }
                    _ => {
                        let two = append(&mut plain, &events, size, false);
                        (append(&mut audited, &events, size, false), two)
                    }
                };
                if round > 0 {
                    with.push(events.len() as f64 / one);
                    without.push(events.len() as f64 / two);
                }
            }
            report.row(
                &format!("log with its audit, batches of {size}, {what}"),
                "events/s",
                &with,
                Bar::None,
            );
            report.row("  the same without audit", "events/s", &without, Bar::None);
            report.ratio("  beside without", &with, &without, bar);
        }
    }
}

/// Seconds of a read of all that is asked for, each event decoded, and how many there were.
fn replay(log: &Log, query: &Query) -> (f64, usize) {
    let (begun, reader) = (Instant::now(), log.reader());
    let (mut found, mut at, mut times) = (0, None, 0);
    loop {
        let page = reader.scan(query, at, PAGE).expect("it can be read");
        for (seq, bytes) in &page.events {
            times ^= Record::parse(*seq, bytes).expect("it is a record").time_ms;
        }
        found += page.events.len();
        at = page.next;
        if at.is_none() {
            std::hint::black_box(times);
            return (begun.elapsed().as_secs_f64(), found);
        }
    }
}

fn reads(report: &mut Report, events: &[Event]) {
    let (place, other) = (folder(), folder());
    let (mut log, bare) = (opened(place.path()), Bare::open(other.path(), Keys::Own));
    append(&mut log, events, 1_024, false);
    log.index(events.len()).expect("it can be indexed");
    append_bare(&bare, events, 1_024, false);
    bare.settle();
    let (mut all, mut typed, mut base) = (Vec::new(), Vec::new(), Vec::new());
    let dense =
        Query { types: (0..KINDS / 2).map(|kind| Types::Exact(topic(kind))).collect(), ..Query::default() };
    for _ in 0..ROUNDS {
        let rate = |(seconds, found): (f64, usize)| found as f64 / seconds;
        base.push(rate((scan_bare(&bare, events.len()), events.len())));
        all.push(rate(replay(&log, &Query::default())));
        typed.push(rate(replay(&log, &dense)));
    }
    report.row("fjall, all values", "events/s", &base, Bar::None);
    report.row("log, all events, decoded", "events/s", &all, Bar::None);
    report.ratio("  beside fjall", &all, &base, Bar::AtLeast(0.3));
    report.row("log, half of all by their types", "events/s", &typed, Bar::None);
    report.ratio("  beside all events", &typed, &all, Bar::AtLeast(0.2));
}

/// What a process in the role says of itself.
struct Told(Vec<f64>);

/// A process that works on the log in `folder`, up to the line it says; then it is killed, or left to end.
fn told(folder: &Path, job: &str, events: u64, kill: bool) -> Told {
    let folder = folder.to_str().expect("a path of this program's is text");
    let mut command = roles::command("log", &[job, folder, &events.to_string()]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it says a line");
    if kill {
        child.kill().expect("it is our child");
    }
    // It ends with its stdin.
    drop(child.stdin.take());
    child.wait().expect("it is our child");
    Told(line.split_whitespace().map(|figure| figure.parse().expect("figures are numbers")).collect())
}

fn large(report: &mut Report) {
    let events = std::env::var("KAIRO_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: u64 = events.unwrap_or(LARGE_EVENTS);
    let place = folder();
    let path = place.path();
    let filled = told(path, "fill", events, true).0;
    let million = events as f64 / 1e6;
    report.row(&format!("{million} M events, appended and indexed"), "events/s", &filled[..1], Bar::None);
    report.row("  most anonymous memory", "MB", &filled[1..2], Bar::AtMost(64.0));
    let (mut killed, mut closed, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        told(path, "fill", GROWTH, true);
        let found = told(path, "open", 0, false).0;
        killed.push(found[0]);
        held.push(found[1]);
        told(path, "fill", GROWTH, false);
        let found = told(path, "open", 0, false).0;
        closed.push(found[0]);
        held.push(found[1]);
    }
    report.row("  opened after a kill", "ms", &killed, Bar::AtMost(300.0));
    report.row("  opened after a close", "ms", &closed, Bar::AtMost(300.0));
    report.row("  anonymous memory then", "MB", &held, Bar::AtMost(64.0));
    let replayed = told(path, "replay", 0, false).0;
    report.row("  replayed, decoded", "events/s", &replayed[..1], Bar::None);
    report.row("  most anonymous memory", "MB", &replayed[1..2], Bar::AtMost(64.0));
    let payload = (events + 2 * ROUNDS as u64 * GROWTH) * RECORD_BYTES as u64;
    let mut disk = kairo_controlplane::events::log::backend::disk::Disk::open(&path.join("db"))
        .expect("the database opens");
    disk.flush().expect("it can be flushed");
    drop(disk);
    report.row("  files beside the payload", "x", &[bytes_in(path) / payload as f64], Bar::AtMost(1.6));
}

/// An open log that nobody uses.
fn idle(report: &mut Report) {
    let place = folder();
    let path = place.path().to_str().expect("a path of this program's is text");
    let mut command = roles::command("log", &["fill", path, "1000"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program starts");
    let stdout = child.stdout.take().expect("its stdout is piped");
    BufReader::new(stdout).read_line(&mut String::new()).expect("it says a line");
    let pid = child.id() as i32;
    // The line is out before the threads have gone to sleep.
    std::thread::sleep(Duration::from_secs(1));
    let before = voluntary_switches(pid);
    std::thread::sleep(IDLE_FOR);
    let switches = voluntary_switches(pid) - before;
    report.row("an idle log, voluntary switches in 10 s", "", &[switches as f64], Bar::AtMost(0.0));
    drop(child.stdin.take());
    child.wait().expect("it is our child");
}

/// The role: does the job, says figures in one line, and ends when its stdin does.
pub(crate) fn play(arguments: &[String]) {
    let (job, folder) = (arguments[0].as_str(), Path::new(&arguments[1]));
    let events: u64 = arguments[2].parse().expect("a role's figures are numbers");
    let anonymous = || memory_bytes(std::process::id() as i32, "Anonymous") as f64 / 1e6;
    let begun = Instant::now();
    let mut log = opened(folder);
    let opening = begun.elapsed().as_secs_f64() * 1e3;
    let (mut seconds, mut most) = (0.0, anonymous());
    match job {
        "open" => seconds = opening,
        "fill" => {
            let first = log.last_seq() + 1;
            let last = first + events;
            for from in (first..last).step_by(STRETCH as usize) {
                let stretch: Vec<Event> = (from..last.min(from + STRETCH)).map(event).collect();
                let begun = Instant::now();
                for part in stretch.chunks(1_024) {
                    append(&mut log, part, 1_024, false);
                    log.index(part.len()).expect("it can be indexed");
                }
                seconds += begun.elapsed().as_secs_f64();
                // The events are this bench's own memory.
                let own = stretch.iter().map(|event| event.record.len() + event.topic.len() + 128);
                most = most.max(anonymous() - own.sum::<usize>() as f64 / 1e6);
            }
            seconds = events as f64 / seconds;
        }
        "replay" => {
            let (took, found) = replay(&log, &Query::default());
            (seconds, most) = (found as f64 / took, anonymous());
        }
        other => panic!("a log has no job called {other}"),
    }
    println!("{seconds} {most}");
    std::io::stdout().flush().expect("stdout is open");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("stdin is open");
    log.close().expect("it closes");
}
