//! The past: reading it through a client that decodes every event, and what a large log costs a daemon that starts over it.
//!
//! The large log has as many events as `KAIRO_BENCH_EVENTS` says; this program writes them with the log's own code, because
//! how fast that is isn't the question here. Its payload is 300 bytes for each event.

use crate::support::bare::{Bare, Keys};
use crate::support::bytes_in;
use crate::support::daemon::Daemon;
use crate::support::events::{
    DATA_BYTES, PREFIX, RECORD_BYTES, batches, client, noise, publish, rate_of_bare, record, records, topic,
};
use crate::support::flow::Flow;
use crate::support::processes::memory_bytes;
use crate::support::report::{Bar, ROUNDS, Report};
use kairo_client::EventItem;
use kairo_controlplane::events::log::{Batch, Log, Options, Stored};
use kairo_controlplane::events::record::Audience;
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::TopicPattern;
use kairo_wire::methods::event::{ReplayParams, SubscribeParams};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const EVENTS: u64 = 200_000;
const LARGE_EVENTS: u64 = 10_000_000;
const APPENDED_AT_ONCE: u64 = 1_024;

pub(crate) fn replay(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    publish(&mut Flow::events(&daemon.socket), &batches(EVENTS, 1_024, "disk"));
    let place = tempfile::tempdir().expect("a temporary folder");
    let bare = Bare::open(place.path(), Keys::Own);
    rate_of_bare(&bare, 1, &records(EVENTS), 1_024, false);
    bare.settle();
    let (mut paged, mut followed, mut base) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        base.push(scanned(&bare));
        paged.push(replayed(&daemon));
        followed.push(subscribed(&daemon));
    }
    report.row("fjall, all values", "events/s", &base, Bar::None);
    report.row("event.replay, every event decoded", "events/s", &paged, Bar::None);
    report.ratio("  beside fjall", &paged, &base, Bar::AtLeast(0.3));
    report.row("subscribe from the first, every event decoded", "events/s", &followed, Bar::None);
    report.ratio("  beside fjall", &followed, &base, Bar::AtLeast(0.3));
}

fn scanned(bare: &Bare) -> f64 {
    let begun = Instant::now();
    assert_eq!(bare.scan(), EVENTS as usize * RECORD_BYTES);
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

fn ours() -> TopicPattern {
    TopicPattern::from_text(&format!("{PREFIX}.>")).expect("it is a pattern")
}

fn replayed(daemon: &Daemon) -> f64 {
    let client = client(daemon);
    let begun = Instant::now();
    let params = ReplayParams { types: vec![ours()], ..ReplayParams::default() };
    let pages = client.replay(params).map(|page| page.expect("the log can be read").items);
    let events = pages.flatten().filter(|item| matches!(item, EventItem::Event(_))).count();
    assert_eq!(events as u64, EVENTS);
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

fn subscribed(daemon: &Daemon) -> f64 {
    let client = client(daemon);
    let begun = Instant::now();
    let params = SubscribeParams { from_seq: Some(1), ..SubscribeParams::live(ours()) };
    let events = client.events_from(params).expect("the log can be read");
    for item in events.take(EVENTS as usize) {
        let item = item.expect("the daemon stays");
        assert!(matches!(item, EventItem::Event(_)), "{item:?}");
    }
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

pub(crate) fn large(report: &mut Report) {
    let wanted = std::env::var("KAIRO_BENCH_EVENTS").ok().and_then(|text| text.parse().ok());
    let events: u64 = wanted.unwrap_or(LARGE_EVENTS);
    let mut daemon = Daemon::start(&[]);
    daemon.stop();
    let folder = daemon.state().join("log");
    let rate = fill(&folder, events);
    let disk = bytes_in(&folder) / (events * RECORD_BYTES as u64) as f64;
    let million = events as f64 / 1e6;
    report.row(&format!("{million} M events, written by the log itself"), "events/s", &[rate], Bar::None);
    report.row("  files after a close, beside the payload", "x", &[disk], Bar::AtMost(1.6));
    let few = batches(10_000, 64, "log");
    let anonymous = |daemon: &Daemon| memory_bytes(daemon.pid(), "Anonymous") as f64 / 1e6;
    let (mut closed, mut killed, mut held, mut used) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        daemon.succeed();
        closed.push(daemon.ready_after.as_secs_f64() * 1e3);
        held.push(anonymous(&daemon));
        publish(&mut Flow::events(&daemon.socket), &few);
        daemon.kill();
        daemon.succeed();
        killed.push(daemon.ready_after.as_secs_f64() * 1e3);
        held.push(anonymous(&daemon));
        publish(&mut Flow::events(&daemon.socket), &few);
        let params = json!({"types": [format!("{PREFIX}.1")], "fromSeq": events / 2, "limit": 1_000});
        let page = daemon.connect().ok("event.replay", params);
        assert_eq!(page["events"].as_array().map(Vec::len), Some(1_000), "the middle is there");
        used.push(anonymous(&daemon));
        daemon.stop();
    }
    report.row("  ready after a close", "ms", &closed, Bar::AtMost(300.0));
    report.row("  ready after a kill", "ms", &killed, Bar::AtMost(300.0));
    report.row("  anonymous memory when ready", "MB", &held, Bar::AtMost(64.0));
    report.row("  when 10,000 more were published and a page was read", "MB", &used, Bar::AtMost(64.0));
    daemon.succeed();
}

/// Events a second.
fn fill(folder: &Path, events: u64) -> f64 {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let options = Options { boot: boot.trim().to_owned(), audit: None };
    let mut log = Log::open(folder, options).expect("the log opens").0;
    let first = log.last_seq() + 1;
    let begun = Instant::now();
    for from in (first..first + events).step_by(APPENDED_AT_ONCE as usize) {
        let all = from..(from + APPENDED_AT_ONCE).min(first + events);
        let topics: Vec<String> = all.clone().map(topic).collect();
        let stored = all.zip(&topics).map(|(seq, topic)| stored(seq, topic));
        log.append(&Batch { events: stored.collect(), ..Batch::default() }).expect("it can be appended");
        log.index(APPENDED_AT_ONCE as usize).expect("it can be indexed");
    }
    log.close().expect("it closes");
    events as f64 / begun.elapsed().as_secs_f64()
}

/// As a client's event is stored.
fn stored(seq: u64, topic: &str) -> Stored<'_> {
    let data = Raw::of(&noise(seq, DATA_BYTES)).expect("a text is a value");
    let story = noise(seq / 50, 36);
    let record = record(seq, topic, "user:0", Audience::User(0), &story, data.as_ref());
    assert!(record.len().abs_diff(RECORD_BYTES) < 16, "a record has {} bytes", record.len());
    Stored { seq, topic, record }
}
