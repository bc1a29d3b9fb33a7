//! What patterns cost that don't match, and how soon a subscriber knows.
//!
//! Of the patterns ten match every event, and one connection reads all ten copies; the others are literals and have stars and
//! tails at every place, on as many connections as they need. A subscriber knows of an event when the log has it, not
//! before: that is in its time, whatever the publisher waits for.

use crate::support::daemon::Daemon;
use crate::support::events::{PREFIX, batches, count, publish, topic};
use crate::support::flow::Flow;
use crate::support::raw::{RESPONSE, request_bytes, value};
use crate::support::report::{Bar, ROUNDS, Report, median};
use crate::support::{pin, unpin};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const EVENTS: u64 = 20_000;
const MATCHING: usize = 10;
const OTHERS: usize = 9_990;
const PATTERNS_EACH: usize = 250;

pub(crate) fn patterns(report: &mut Report) {
    let (few, many) = (Daemon::start(&[]), Daemon::start(&[]));
    let mut others = Vec::new();
    for first in (0..OTHERS).step_by(PATTERNS_EACH) {
        let mut flow = Flow::events(&many.socket);
        for number in first..(first + PATTERNS_EACH).min(OTHERS) {
            flow.call("subscribe", json!({"topic": other(number)}));
        }
        others.push(flow);
    }
    let requests = batches(EVENTS, 64, "log");
    let (mut with_few, mut with_many) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let rates = (rate(&few, &requests), rate(&many, &requests));
        if round > 0 {
            with_few.push(rates.0);
            with_many.push(rates.1);
        }
    }
    report.row("10 patterns, all match", "events/s", &with_few, Bar::None);
    report.row("10,000 patterns, 10 match", "events/s", &with_many, Bar::None);
    report.ratio("  beside 10", &with_many, &with_few, Bar::AtLeast(0.5));
}

/// A pattern that matches no event of ours.
fn other(number: usize) -> String {
    match number % 5 {
        0 => format!("{PREFIX}.x{number}"),
        1 => format!("*.kind.x{number}"),
        2 => format!("bench.x{number}.>"),
        3 => format!("bench.*.x{number}"),
        _ => format!("*.x{number}.>"),
    }
}

fn rate(daemon: &Daemon, requests: &[Vec<u8>]) -> f64 {
    let (mut publisher, mut subscriber) = (Flow::events(&daemon.socket), Flow::events(&daemon.socket));
    let all = ["bench.>", "bench.kind.>", "bench.kind.*", "bench.*.*", "*.kind.*"];
    let again = ["bench.*.>", "*.kind.>", "*.*.*", "bench.k*.*", "*.*.>"];
    for pattern in all.iter().chain(&again) {
        subscriber.call("subscribe", json!({"topic": pattern}));
    }
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // `*.*.*` and `*.*.>` hear of the kernel's own events, too: there are none while nothing else happens.
        scope.spawn(|| count(&mut subscriber, EVENTS as usize * MATCHING));
        publish(&mut publisher, requests);
    });
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

const TIMES: usize = 5_000;

/// The daemon has one reactor on core 0, as for `rpc`.
pub(crate) fn delivery(report: &mut Report) {
    pin(&[0]);
    let daemon = Daemon::start(&["--cores", "1"]);
    unpin();
    daemon.connect().ok("process.spawn", json!({"id": "sleeper", "command": ["sleep", "1000"]}));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (placement, core) in [("clients on the reactor's core", 0), ("clients on another core", 1)] {
        if core >= cores {
            println!("  skipped, there is one core: {placement}");
            continue;
        }
        let mut pair = Pair::new(&daemon);
        let (mut calls, mut news) = (Vec::new(), Vec::new());
        pin(&[core]);
        for _ in 0..ROUNDS {
            calls.push(pair.call_us());
            news.push(pair.news_us());
        }
        unpin();
        println!("  {placement}:");
        report.row("process.status, p50", "us", &calls, Bar::None);
        report.row("published until another connection has it, p50", "us", &news, Bar::None);
        report.ratio("  beside process.status", &news, &calls, Bar::AtMost(2.0));
    }
}

/// A connection that asks and publishes, and one that hears.
struct Pair {
    asks: UnixStream,
    hears: UnixStream,
    buffer: Vec<u8>,
}

impl Pair {
    fn new(daemon: &Daemon) -> Pair {
        let connect = || UnixStream::connect(&daemon.socket).expect("the daemon accepts connections");
        let mut pair = Pair { asks: connect(), hears: connect(), buffer: Vec::new() };
        let params = json!({"topic": format!("{PREFIX}.>")});
        pair.hears.write_all(&request_bytes(1, "subscribe", value(&params))).expect("the daemon reads");
        read(&mut pair.hears, &mut pair.buffer);
        pair
    }

    fn call_us(&mut self) -> f64 {
        let request = request_bytes(100, "process.status", value(&json!({"id": "sleeper"})));
        let times: Vec<f64> = (0..TIMES)
            .map(|_| {
                let begun = Instant::now();
                self.asks.write_all(&request).expect("the daemon reads");
                read(&mut self.asks, &mut self.buffer);
                begun.elapsed().as_nanos() as f64 / 1e3
            })
            .collect();
        median(&times)
    }

    fn news_us(&mut self) -> f64 {
        let draft = json!({"type": topic(1), "data": {"frame": 17}, "ack": "memory"});
        let request = request_bytes(100, "event.publish", value(&draft));
        let times: Vec<f64> = (0..TIMES)
            .map(|_| {
                let begun = Instant::now();
                self.asks.write_all(&request).expect("the daemon reads");
                read(&mut self.hears, &mut self.buffer);
                let took = begun.elapsed().as_nanos() as f64 / 1e3;
                assert_eq!(read(&mut self.asks, &mut self.buffer), RESPONSE);
                took
            })
            .collect();
        median(&times)
    }
}

/// Reads one frame and says its kind.
fn read(socket: &mut UnixStream, buffer: &mut Vec<u8>) -> u8 {
    let mut header = [0; 8];
    socket.read_exact(&mut header).expect("the daemon is there");
    buffer.resize(u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize, 0);
    socket.read_exact(buffer).expect("the daemon is there");
    header[3]
}
