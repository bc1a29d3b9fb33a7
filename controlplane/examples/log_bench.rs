//! What the event log costs on this machine, beside the same keys written to fjall without it.
//!
//! `cargo run --release -p kairo-controlplane --example log_bench -- FOLDER [EVENTS]`: fills FOLDER, opens it again, reads it.

use bytes::Bytes;
use fjall::{Database, KeyspaceCreateOptions};
use kairo_controlplane::events::log::{Batch, Log, Options, PageLimit, Query, Stored, Types};
use kairo_controlplane::events::record::{Audience, Record};
use kairo_wire::codec::raw::Raw;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Bytes of a record.
const RECORD_BYTES: usize = 300;
/// Events of a comparison.
const COMPARED: u64 = 500_000;

/// An event of about 300 bytes that doesn't compress to nothing.
fn event(seq: u64) -> Outcome<(String, Bytes)> {
    let mut state = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = String::with_capacity(RECORD_BYTES);
    while noise.len() < RECORD_BYTES - 110 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.push_str(&format!("{state:016x}"));
    }
    let data = Raw::of(&noise)?;
    let topic = format!("bench.kind.{}", seq % 20);
    let record = Record {
        seq,
        id: u128::from(state).to_be_bytes(),
        time_ms: 1_700_000_000_000 + seq,
        topic: topic.as_str().into(),
        source: "bench".into(),
        principal: "owner".into(),
        audience: Audience::All,
        correlation: Some(format!("story-{}", seq / 50).into()),
        causation: None,
        intent: None,
        trace: None,
        span: None,
        key: None,
        tool_call: None,
        data: data.as_ref(),
    };
    let bytes = record.encode()?;
    Ok((topic, bytes))
}

fn anonymous_kb() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("RssAnon")).unwrap_or("RssAnon: unknown").to_owned()
}

fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |path: PathBuf| match std::fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => disk_bytes(&path),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(|entry| size(entry.path())).sum()
}

/// Appends `events` in batches; returns events per second.
fn fill(log: &mut Log, events: &[(String, Bytes)], size: usize) -> Outcome<f64> {
    let begun = Instant::now();
    let first = log.last_seq() + 1;
    for (chunk, events) in events.chunks(size).enumerate() {
        let seqs = first + (chunk * size) as u64..;
        let stored = events.iter().zip(seqs).map(|((topic, record), seq)| Stored {
            seq,
            topic,
            record: record.clone(),
        });
        log.append(&Batch { events: stored.collect(), ..Batch::default() })?;
    }
    Ok(events.len() as f64 / begun.elapsed().as_secs_f64())
}

/// The same keys without the log.
fn raw(folder: &Path, events: &[(String, Bytes)], size: usize) -> Outcome<f64> {
    let database = Database::builder(folder).open()?;
    let by_seq = database.keyspace("events", KeyspaceCreateOptions::default)?;
    let by_type = database.keyspace("types", KeyspaceCreateOptions::default)?;
    let begun = Instant::now();
    for (chunk, part) in events.chunks(size).enumerate() {
        let mut batch = database.batch();
        for ((topic, record), seq) in part.iter().zip((chunk * size) as u64..) {
            batch.insert(&by_seq, seq.to_be_bytes(), record.clone());
            batch.insert(&by_type, [topic.as_bytes(), &[0], &seq.to_be_bytes()].concat(), Bytes::new());
        }
        batch.commit()?;
    }
    Ok(events.len() as f64 / begun.elapsed().as_secs_f64())
}

fn compare(folder: &Path) -> Outcome<()> {
    let events = (1..=COMPARED).map(event).collect::<Outcome<Vec<_>>>()?;
    for size in [64, 1_024] {
        for round in 0..3 {
            let (ours, theirs) =
                (folder.join(format!("log-{size}-{round}")), folder.join(format!("raw-{size}-{round}")));
            let (mut log, _) = Log::open(&ours, Options::default())?;
            let log = fill(&mut log, &events, size)?;
            let raw = raw(&theirs, &events, size)?;
            println!(
                "append in batches of {size}: {log:.0} events/s, fjall alone {raw:.0}, ratio {:.2}",
                log / raw
            );
            std::fs::remove_dir_all(&ours)?;
            std::fs::remove_dir_all(&theirs)?;
        }
    }
    Ok(())
}

fn reopen(folder: &Path) -> Outcome<()> {
    let begun = Instant::now();
    let (log, opened) = Log::open(folder, Options::default())?;
    println!("open: {:?}, last {}, {}", begun.elapsed(), opened.last_seq, anonymous_kb());
    let reader = log.reader();
    let limit = PageLimit { events: 1_000, bytes: 1 << 20, looked_at: 100_000 };
    for (what, query) in [
        ("all", Query::default()),
        ("one type", Query { types: vec![Types::new("bench.kind.7")?], ..Query::default() }),
        (
            "pattern, backward",
            Query { types: vec![Types::new("bench.*.1*")?], backward: true, ..Query::default() },
        ),
        ("one story", Query { correlation: Some("story-77".to_owned()), ..Query::default() }),
        ("late times", Query { from_ms: 1_700_000_000_000 + opened.last_seq - 5_000, ..Query::default() }),
    ] {
        let (begun, mut found, mut at) = (Instant::now(), 0, None);
        loop {
            let page = reader.scan(&query, at, limit)?;
            found += page.events.len();
            at = page.next;
            if at.is_none() || found >= 200_000 {
                break;
            }
        }
        println!("{what}: {found} in {:?}", begun.elapsed());
    }
    println!("after reading: {}", anonymous_kb());
    log.close()?;
    Ok(())
}

fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("a folder is needed")?);
    let events: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    if folder.join("full").exists() {
        return reopen(&folder.join("full"));
    }
    let begun = Instant::now();
    let (log, _) = Log::open(&folder.join("empty"), Options::default())?;
    println!("open of an empty folder: {:?}, {}", begun.elapsed(), anonymous_kb());
    log.close()?;
    let begun = Instant::now();
    let (log, _) = Log::open(&folder.join("empty"), Options::default())?;
    println!("open again: {:?}, {}", begun.elapsed(), anonymous_kb());
    log.close()?;
    compare(&folder)?;
    let (mut log, _) = Log::open(&folder.join("full"), Options::default())?;
    let mut payload = 0;
    let begun = Instant::now();
    for first in (1..=events).step_by(20_480) {
        let part = (first..(first + 20_480).min(events + 1)).map(event).collect::<Outcome<Vec<_>>>()?;
        payload += part.iter().map(|event| event.1.len() as u64).sum::<u64>();
        fill(&mut log, &part, 1_024)?;
        log.index(part.len())?;
    }
    println!("{events} events, indexed, in {:?}", begun.elapsed());
    log.close()?;
    println!(
        "on disk: {:.2} times the payload of {payload} bytes",
        disk_bytes(&folder.join("full")) as f64 / payload as f64
    );
    reopen(&folder.join("full"))
}
