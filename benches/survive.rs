//! A kernel is killed: how soon the next one is ready, how soon a reader has its rate again, what the keeper costs while
//! nothing happens, and what it costs to take bytes so that all this is exact.

use crate::support::daemon::Daemon;
use crate::support::flow::{Flow, Seen};
use crate::support::processes::{memory_bytes, voluntary_switches};
use crate::support::report::{Bar, ROUNDS, Report, median};
use crate::support::roles::{self, PIPE_BYTES};
use kairo_dataplane::command::HistorySize;
use kairo_dataplane::driver::Driver;
use kairo_dataplane::driver::handle::Handle;
use kairo_dataplane::driver::poll::Poll;
use kairo_dataplane::stream::history::History;
use kairo_dataplane::stream::source::{Source, Staging, StagingPipe, Taken, take};
use kairo_shm::page::Page;
use nix::time::{ClockId, clock_gettime};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SESSIONS: usize = 100;
/// A reader's rate is that of so long a time.
const WINDOW: Duration = Duration::from_millis(500);
/// So long after the new kernel is up it has to be what it was.
const BACK_AFTER: Duration = Duration::from_millis(250);

pub(crate) fn run(report: &mut Report) {
    adoption(report);
    flood(report);
    taking(report);
}

/// A hundred sessions, each with a history that is full and a stdin that was written to.
fn adoption(report: &mut Report) {
    let mut daemon = Daemon::start(&[]);
    let empty = memory_bytes(daemon.keeper_pid(), "Anonymous");
    let mut raw = daemon.connect();
    for number in 0..SESSIONS {
        let id = format!("session-{number}");
        let script = "head -c 700000 /dev/zero; exec cat";
        raw.ok("process.spawn", json!({"id": id, "command": ["sh", "-c", script]}));
        raw.ok("process.stdin.write", json!({"id": id, "data": "a line\n"}));
    }
    let full = |raw: &mut crate::support::raw::Raw| {
        let list = raw.ok("process.list", json!({}));
        let all = list["processes"].as_array().cloned().unwrap_or_default();
        all.iter().all(|process| process["detail"]["streams"][0]["bytes"].as_u64() >= Some(700_007))
    };
    while !full(&mut raw) {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let mut ready = Vec::new();
    for _ in 0..ROUNDS {
        daemon.kill();
        daemon.succeed();
        ready.push(daemon.ready_after.as_secs_f64() * 1e3);
    }
    let mut raw = daemon.connect();
    assert!(full(&mut raw), "every session is there with every byte");
    let keeper = daemon.keeper_pid();
    let before = voluntary_switches(keeper);
    std::thread::sleep(Duration::from_secs(10));
    let switches = voluntary_switches(keeper) - before;
    let grown = memory_bytes(keeper, "Anonymous").saturating_sub(empty) as f64;
    report.row("ready with 100 live sessions after", "ms", &ready, Bar::AtMost(150.0));
    report.row("keeper: voluntary switches in 10 s", "", &[switches as f64], Bar::AtMost(0.0));
    report.row("keeper: anonymous, without sessions", "MiB", &[empty as f64 / 1_048_576.0], Bar::AtMost(1.0));
    let each = grown / 1024.0 / SESSIONS as f64;
    report.row("keeper: anonymous, for each session", "KiB", &[each], Bar::AtMost(4.0));
}

/// One reader of a flood, before and after.
fn flood(report: &mut Report) {
    let (mut before, mut after, mut first) = (Vec::new(), Vec::new(), Vec::new());
    let mut switches = 0;
    for _ in 0..ROUNDS {
        let mut daemon = Daemon::start(&[]);
        let argv = roles::argv("writer", &["1000000000000"]);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let mut flow = Flow::modern(&daemon.socket);
        let options = json!({"pipeBytes": PIPE_BYTES, "whenUnread": "block"});
        flow.call("process.spawn", json!({"id": "flood", "command": argv, "options": options}));
        let subscribed = flow.call("process.stdout.subscribe", json!({"id": "flood", "stream": "stdout"}));
        let mut at = read_for(&mut flow, WINDOW);
        let keeper = voluntary_switches(daemon.keeper_pid());
        let read = read_for(&mut flow, WINDOW);
        switches += voluntary_switches(daemon.keeper_pid()) - keeper;
        at += read;
        before.push(read as f64 / WINDOW.as_secs_f64() / 1e9);
        daemon.kill();
        at += flow.drain_dead();
        daemon.succeed();
        let up = Instant::now();
        let mut flow = Flow::modern(&daemon.socket);
        let wish =
            json!({"id": "flood", "stream": "stdout", "from": at, "resumes": subscribed["subscriptionId"]});
        flow.call("process.stdout.subscribe", wish);
        flow.next_chunk();
        first.push(up.elapsed().as_secs_f64() * 1e3);
        while up.elapsed() < BACK_AFTER {
            flow.next_chunk();
        }
        let read = read_for(&mut flow, WINDOW);
        after.push(read as f64 / WINDOW.as_secs_f64() / 1e9);
    }
    report.row("reader of a flood, before", "GB/s", &before, Bar::None);
    report.row("its first chunk after the new kernel is up", "ms", &first, Bar::None);
    report.row("250 ms after the new kernel is up", "GB/s", &after, Bar::None);
    report.ratio("that beside before", &after, &before, Bar::AtLeast(0.9));
    report.row("keeper: voluntary switches under the flood", "", &[switches as f64], Bar::AtMost(0.0));
}

fn read_for(flow: &mut Flow, time: Duration) -> u64 {
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < time {
        if let Seen::Chunk(length) = flow.next(|_| {}) {
            bytes += length as u64;
        }
    }
    bytes
}

/// Taking with the account of each step, beside plain reads into the same kind of ring.
fn taking(report: &mut Report) {
    const BYTES: u64 = 4_000_000_000;
    let (mut exact, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        exact.push(cpu_of_taking(BYTES, true));
        plain.push(cpu_of_taking(BYTES, false));
    }
    report.row("CPU of plain reads into a ring", "s/GB", &plain, Bar::None);
    report.row("CPU of taking through the staging pipe", "s/GB", &exact, Bar::None);
    report.ratio("that beside plain reads", &exact, &plain, Bar::AtMost(1.0));
    assert!(median(&plain) > 0.0);
}

/// CPU seconds of this thread for each GB.
fn cpu_of_taking(bytes: u64, exact: bool) -> f64 {
    const TAKE: usize = 256 << 10;
    let mut writer =
        roles::command("writer", &[&bytes.to_string()]).stdout(Stdio::piped()).spawn().expect("it starts");
    let stdout = writer.stdout.take().expect("its stdout is piped");
    let mut driver = Poll::new().expect("a driver");
    let source =
        Source { fd: Handle::from(std::os::fd::OwnedFd::from(stdout)), terminal: false, armed: false };
    let mut pipe = |bytes| {
        let (read_end, write_end, bytes_max) = driver.pipe(bytes).expect("a pipe");
        StagingPipe { read_end, write_end, bytes_max }
    };
    let (output, input) = (pipe(TAKE), pipe(4096));
    let staging = Staging { output, input, page: Page::create().expect("a page") };
    let mut history = History::new(HistorySize { head_bytes: 64 << 10, tail_bytes: 256 << 10 });
    let begun = thread_cpu();
    let mut taken = 0;
    while taken < bytes {
        let room = history.room_bytes(None).min(TAKE);
        let got = if exact {
            match take(&mut driver, &source, &staging, 1, &mut history, room, |_, _| {}).expect("it is taken")
            {
                Taken::Bytes(bytes) => bytes as u64,
                Taken::Nothing => 0,
                Taken::End => panic!("a writer ends after its last byte"),
            }
        } else {
            let (ring, _) = history.ring().expect("a ring");
            let read = driver.read(&source.fd, &mut ring.room(room)[..room]).unwrap_or(0);
            ring.commit(read);
            read as u64
        };
        taken += got;
        if got < room as u64 {
            let mut wanted = [PollFd::new(&source.fd, PollFlags::IN)];
            poll(&mut wanted, None).expect("a pipe can be waited for");
        }
    }
    let cpu = thread_cpu() - begun;
    writer.wait().expect("it ends");
    cpu / (bytes as f64 / 1e9)
}

fn thread_cpu() -> f64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}
