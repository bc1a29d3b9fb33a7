//! The same lines in `lines` mode and in `chunk` mode; every line is counted by the client in both.

use crate::support::daemon::Daemon;
use crate::support::flow::Flow;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, LINE_BYTES, PIPE_BYTES};
use serde_json::json;
use std::time::Instant;

/// Lines of a round.
const LINES: u64 = 12_000_000;

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut chunk, mut lines) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        chunk.push(rate(&daemon, "chunk", round));
        lines.push(rate(&daemon, "lines", round));
    }
    report.row("chunk mode, 80-byte lines", "GB/s", &chunk, Bar::None);
    report.row("lines mode, 80-byte lines", "GB/s", &lines, Bar::None);
    report.ratio("  beside chunk mode", &lines, &chunk, Bar::AtLeast(0.3));
}

fn rate(daemon: &Daemon, mode: &str, round: usize) -> f64 {
    let total = LINES * LINE_BYTES as u64;
    let argv = roles::argv("lines", &[&total.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut flow = Flow::modern(&daemon.socket);
    let begun = Instant::now();
    let options = json!({"pipeBytes": PIPE_BYTES});
    flow.start(&format!("{mode}-{round}"), &argv, json!({"stream": "stdout", "mode": mode}), options);
    let mut seen = 0;
    let (bytes, _) = flow.drain(|piece| seen += line_ends(piece));
    assert_eq!((bytes, seen), (total, LINES), "every byte, every line");
    total as f64 / 1e9 / begun.elapsed().as_secs_f64()
}

/// Counts in bytes, so that the compiler counts many at once: the client must not be what is measured.
fn line_ends(piece: &[u8]) -> u64 {
    piece
        .chunks(255)
        .map(|part| u64::from(part.iter().map(|byte| u8::from(*byte == b'\n')).sum::<u8>()))
        .sum()
}
