//! Output to disk: as fast as `writer | cat > file`, and read back by somebody who comes late.
//!
//! Both write to the same file system, and each round's files are removed before the next begins, so that neither pays for
//! the other's dirty pages.

use crate::support::daemon::{Daemon, cpu_of};
use crate::support::flow::Flow;
use crate::support::processes::memory_bytes;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use serde_json::json;
use std::fs::{File, remove_dir_all, remove_file};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of a round.
const TOTAL: u64 = 1 << 30;
const GIGABYTES: f64 = TOTAL as f64 / 1e9;
/// Rounds, with one more to warm up.
const ALL_ROUNDS: usize = ROUNDS + 2;

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let folder = daemon.socket.parent().expect("a socket is in a folder").to_owned();
    let (mut cat, mut spool) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let (mut from_file, mut late, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ALL_ROUNDS {
        let (rate, cpu, back) = through_cat(&folder.join("file"));
        let ours = spooled(&daemon, &format!("spooled-{round}"));
        remove_dir_all(folder.join("state/spool")).expect("the spool is ours");
        if round == 0 {
            continue;
        }
        cat.0.push(rate);
        cat.1.push(cpu);
        from_file.push(back);
        spool.0.push(ours.rate);
        spool.1.push(ours.cpu);
        late.push(ours.late);
        grown.push(ours.grown);
    }
    report.row("writer | cat > file", "GB/s", &cat.0, Bar::None);
    report.row("  CPU of cat", "s/GB", &cat.1, Bar::None);
    report.row("kairo, spooled, nobody reads", "GB/s", &spool.0, Bar::None);
    report.ratio("  beside cat", &spool.0, &cat.0, Bar::AtLeast(0.8));
    report.row("  CPU", "s/GB", &spool.1, Bar::None);
    report.row("cat file | reader", "GB/s", &from_file, Bar::None);
    report.row("a late reader, from offset 0", "GB/s", &late, Bar::None);
    report.ratio("  beside cat", &late, &from_file, Bar::None);
    report.row("  memory it costs", "MB", &grown, Bar::AtMost(4.0));
}

/// Rate, CPU of cat, and the rate at which the file comes back through a pipe.
fn through_cat(path: &Path) -> (f64, f64, f64) {
    let (reader, writer) = crate::framed::pipe();
    let begun = Instant::now();
    let mut child =
        roles::command("writer", &[&TOTAL.to_string()]).stdout(writer).spawn().expect("the writer starts");
    let file = File::create(path).expect("a file");
    let cat = std::process::Command::new("cat").stdin(reader).stdout(file).spawn();
    let mut cat = cat.expect("cat starts");
    child.wait().expect("it is our child");
    let cpu = loop {
        // Its clock is gone once it is waited for.
        let cpu = cpu_of(cat.id() as i32);
        if cat.try_wait().expect("it is our child").is_some() {
            break cpu;
        }
        std::thread::park_timeout(Duration::from_micros(200));
    };
    let rate = GIGABYTES / begun.elapsed().as_secs_f64();
    let (reader, writer) = crate::framed::pipe();
    let begun = Instant::now();
    let mut back = std::process::Command::new("cat").arg(path).stdout(writer).spawn().expect("cat starts");
    assert_eq!(crate::framed::drain(reader), TOTAL);
    let back_rate = GIGABYTES / begun.elapsed().as_secs_f64();
    back.wait().expect("it is our child");
    remove_file(path).expect("the file is ours");
    (rate, cpu / GIGABYTES, back_rate)
}

struct Ours {
    rate: f64,
    cpu: f64,
    late: f64,
    grown: f64,
}

fn spooled(daemon: &Daemon, id: &str) -> Ours {
    let argv = roles::argv("writer", &[&TOTAL.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut raw = daemon.connect();
    let (begun, cpu) = (Instant::now(), daemon.cpu());
    let options = json!({"pipeBytes": PIPE_BYTES, "spool": true});
    raw.ok("process.spawn", json!({"id": id, "command": argv, "options": options}));
    raw.ok("process.wait", json!({"id": id}));
    let written = |raw: &mut crate::support::raw::Raw| {
        let status = raw.ok("process.status", json!({"id": id, "detail": true}));
        status["detail"]["streams"][0]["spool"]["to"].as_u64()
    };
    while written(&mut raw) != Some(TOTAL) {
        std::thread::park_timeout(Duration::from_micros(200));
    }
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), daemon.cpu() - cpu);
    let before = memory_bytes(daemon.pid(), "Pss");
    let mut flow = Flow::modern(&daemon.socket);
    let begun = Instant::now();
    flow.call("process.stdout.subscribe", json!({"pid": id, "stream": "stdout", "policy": "spool"}));
    let (bytes, _) = flow.drain(|_| {});
    assert_eq!(bytes, TOTAL);
    Ours {
        rate: GIGABYTES / seconds,
        cpu: cpu / GIGABYTES,
        late: GIGABYTES / begun.elapsed().as_secs_f64(),
        grown: memory_bytes(daemon.pid(), "Pss").saturating_sub(before) as f64 / 1e6,
    }
}
