//! 2 GB to a client that reads 1 MB/s for five seconds and then as fast as it can: all bytes, flat memory.

use crate::support::daemon::Daemon;
use crate::support::flow::Flow;
use crate::support::processes::memory_bytes;
use crate::support::report::{Bar, Report};
use crate::support::roles::{self, PIPE_BYTES};
use serde_json::json;
use std::time::{Duration, Instant};

const TOTAL: u64 = 2_000_000_000;
/// What a stream keeps by itself: a head of 64 KiB and a ring of 512 KiB.
const HISTORY_BYTES: u64 = (64 + 512) * 1024;
const SLOW_BYTES_PER_SECOND: u64 = 1_000_000;
const SLOW_FOR: Duration = Duration::from_secs(5);

pub(crate) fn run(report: &mut Report) {
    let (mut growth, mut rate) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let daemon = Daemon::start(&[]);
        // What is allocated once for any stream is not growth.
        Flow::modern(&daemon.socket).start("warm", &["true"], json!({}), json!({}));
        let before = memory_bytes(daemon.pid(), "Pss");
        let (peak, seconds) = dawdle(&daemon);
        growth.push(peak.saturating_sub(before + HISTORY_BYTES) as f64 / 1e6);
        rate.push(TOTAL as f64 / 1e9 / seconds);
    }
    report.row("growth of the daemon's Pss beyond the history", "MB", &growth, Bar::AtMost(4.0));
    report.row("rate over all", "GB/s", &rate, Bar::None);
}

/// Peak Pss seen and seconds taken. That every byte came is checked.
fn dawdle(daemon: &Daemon) -> (u64, f64) {
    let argv = roles::argv("writer", &[&TOTAL.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut flow = Flow::modern(&daemon.socket);
    let begun = Instant::now();
    flow.start("flood", &argv, json!({"stream": "stdout"}), json!({"pipeBytes": PIPE_BYTES}));
    let (mut peak, mut taken, mut looked) = (0, 0_u64, begun);
    let (bytes, _) = flow.drain(|piece| {
        taken += piece.len() as u64;
        let elapsed = begun.elapsed();
        if elapsed < SLOW_FOR {
            let due = Duration::from_secs_f64(taken as f64 / SLOW_BYTES_PER_SECOND as f64);
            std::thread::sleep(due.min(SLOW_FOR).saturating_sub(elapsed));
        }
        if looked.elapsed() > Duration::from_millis(50) {
            looked = Instant::now();
            peak = peak.max(memory_bytes(daemon.pid(), "Pss"));
        }
    });
    assert_eq!(bytes, TOTAL, "every byte");
    (peak.max(memory_bytes(daemon.pid(), "Pss")), begun.elapsed().as_secs_f64())
}
