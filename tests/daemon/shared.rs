//! Streams in shared rings, from the real daemon: read in place by Rust and by Python, across new rings and new kernels, beside
//! readers that stop, die, and write nonsense.

use crate::adoption::lives_on_both_drivers;
use crate::open::{by, connect, id, kill, spawn, spawn_ready, spawn_with, tell};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, python, until};
use kairo_client::SharedStream;
use kairo_client::shared::{Closed, End, Next};
use kairo_shm::seat;
use kairo_wire::error::Code;
use kairo_wire::methods::open::{Close, DescriptorRole, OpenParams, Transport};
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::process::{Wait, WaitParams};
use kairo_wire::methods::stream::{Policy, Rate, UnsubscribeParams};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

on_both_drivers!(
    a_ring_has_every_byte_and_its_end,
    python_reads_the_same_bytes_through_new_rings,
    who_drops_knows_what_it_missed_and_paces_nobody,
    what_went_by_a_dropping_reader_is_an_event,
    who_waits_in_place_is_waited_for_beside_a_spool_too,
    a_reader_that_is_killed_or_leaves_is_waited_for_no_longer,
    whatever_a_reader_writes_the_others_feel_nothing,
    nobody_feels_who_is_deaf_or_goes_mad_on_the_way,
    a_stream_that_has_ended_is_shared_too,
    what_cannot_be_shared_is_refused_by_name,
    who_has_left_sees_nothing_more,
    many_who_wait_hold_a_flood_up_and_let_it_go_on,
);

mod killed {
    use super::*;
    lives_on_both_drivers!(a_reader_goes_on_at_its_exact_byte_with_the_next_kernel);
}

const PATIENCE: Duration = Duration::from_secs(30);
/// Of a run that is looked at at once.
const RUN_BYTES: usize = 256 << 10;

fn shared(name: &str) -> OpenParams {
    by(name, Transport::Shared)
}

/// Reads the sequence to its end, or until it has come to `to`. What was missed, and how the stream ended.
fn read(stream: &mut SharedStream<'_>, to: u64) -> (u64, Option<u64>) {
    let (mut missed, deadline) = (0, Instant::now() + PATIENCE);
    while stream.offset() < to {
        assert!(Instant::now() < deadline, "stuck at {}", stream.offset());
        let (len, wrong) = match stream.next(RUN_BYTES, Duration::from_secs(1)).expect("it is open") {
            Next::Run(offset, bytes) => (bytes.len(), crate::support::pattern::wrong_at(bytes, offset)),
            Next::Gap(from, to) => {
                missed += to - from;
                continue;
            }
            Next::End(end, total) => {
                assert_eq!(end, End::Complete);
                return (missed, Some(total));
            }
            Next::Nothing | Next::Lost => continue,
            Next::Closed(why) => panic!("closed: {why:?}"),
        };
        if stream.advance(len) {
            assert_eq!(wrong, None);
        }
    }
    (missed, None)
}

fn a_ring_has_every_byte_and_its_end(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "writer", &sequence::argv("512"));
    let mut stream = client.open_shared(&shared("writer")).expect("it opens");
    assert_eq!(read(&mut stream, u64::MAX), (0, Some(512 * BLOCK_BYTES as u64)));
}

/// The source is held up again and again, also by what it took since its readers were last asked to tell where they are.
fn many_who_wait_hold_a_flood_up_and_let_it_go_on(daemon: &Daemon) {
    const FLOOD_BYTES: u64 = 100_000_000;
    let client = connect(daemon);
    let options = SpawnOptions { pipe_bytes: Some(1 << 20), ..SpawnOptions::default() };
    spawn_with(&client, "flood", &["sh", "-c", "read x; exec head -c 100000000 /dev/zero"], options);
    let clients: Vec<_> = (0..4).map(|_| connect(daemon)).collect();
    let streams: Vec<_> =
        clients.iter().map(|client| client.open_shared(&shared("flood")).expect("it opens")).collect();
    tell(&client, "flood");
    std::thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                loop {
                    let len = match stream.next(RUN_BYTES, PATIENCE).expect("it is open") {
                        // Work, so that the source is the faster side.
                        Next::Run(_, bytes) => {
                            assert!(bytes.iter().all(|byte| *byte == 0));
                            bytes.len()
                        }
                        Next::End(_, total) => break assert_eq!(total, FLOOD_BYTES),
                        other => panic!("{other:?}"),
                    };
                    assert!(stream.advance(len));
                }
            });
        }
    });
}

/// The reader that was written from the specification.
struct Fixture {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Fixture {
    fn start(daemon: &Daemon, name: &str, policy: &str, more: &[&str]) -> Fixture {
        let mut command = Command::new(python());
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/shared_ring.py"));
        command.arg(&daemon.socket).args([name, policy]).args(more).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python is there");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout is piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("its stdout is text");
        assert_eq!(line, "reading\n");
        Fixture { child, lines }
    }

    fn report(mut self) -> Json {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).expect("its stdout is text");
        assert!(self.child.wait().expect("it is our child").success());
        serde_json::from_str(&text).expect("a report")
    }
}

fn whole(blocks: usize) -> Vec<u8> {
    crate::support::pattern::bytes(0, blocks * BLOCK_BYTES)
}

fn python_reads_the_same_bytes_through_new_rings(daemon: &Daemon) {
    let client = connect(daemon);
    let mut raw = daemon.connect_modern();
    spawn_ready(&client, "writer");
    let fixture = Fixture::start(daemon, "writer", "block", &[]);
    tell(&client, "writer");
    for step in 1..=6_u32 {
        let history = json!({"tailBytes": (5 << 20) + (step % 3) * (512 << 10)});
        raw.ok("stream.configure", json!({"id": "writer", "stream": "stdout", "history": history}));
    }
    let report = fixture.report();
    let bytes = whole(256);
    assert_eq!(report["bytes"], bytes.len());
    assert_eq!(report["sha256"], format!("{:x}", Sha256::digest(&bytes)));
    assert_eq!((&report["gaps"], &report["end"]), (&json!([]), &json!(1)));
    assert!(report["rings"].as_u64() > Some(1), "{report}");
}

fn who_drops_knows_what_it_missed_and_paces_nobody(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let slow = Fixture::start(daemon, "writer", "drop_oldest", &["slow"]);
    let dropping = OpenParams { policy: Policy::DropOldest, ..shared("writer") };
    let mut stopped = client.open_shared(&dropping).expect("it opens");
    let mut live = client.open_shared(&shared("writer")).expect("it opens");
    tell(&client, "writer");
    let total = 256 * BLOCK_BYTES as u64;
    assert_eq!(read(&mut live, u64::MAX), (0, Some(total)));
    let (missed, end) = read(&mut stopped, u64::MAX);
    assert!(missed > 0 && end == Some(total), "{missed} of {total}");
    let report = slow.report();
    let gaps: u64 = report["gaps"].as_array().into_iter().flatten().map(gap_bytes).sum();
    assert_eq!(report["bytes"].as_u64().map(|bytes| bytes + gaps), Some(total), "{report}");
}

/// What went by a reader in place is told to whoever listens, too.
fn what_went_by_a_dropping_reader_is_an_event(daemon: &Daemon) {
    let client = connect(daemon);
    let mut raw = daemon.connect_modern();
    raw.ok("subscribe", json!({"topic": "kairo.stream.gap"}));
    spawn_ready(&client, "writer");
    let dropping = OpenParams { policy: Policy::DropOldest, ..shared("writer") };
    let mut stopped = client.open_shared(&dropping).expect("it opens");
    let mut live = client.open_shared(&dropping).expect("it opens");
    tell(&client, "writer");
    let total = 256 * BLOCK_BYTES as u64;
    assert_eq!(read(&mut live, u64::MAX).1, Some(total));
    // It has the head, then nothing up to what is left of the tail.
    let Next::Run(0, head) = stopped.next(RUN_BYTES, PATIENCE).expect("it is open") else {
        panic!("no head")
    };
    let head = head.len();
    assert!(stopped.advance(head));
    let gap = loop {
        match stopped.next(RUN_BYTES, PATIENCE).expect("it is open") {
            Next::Gap(from, to) => break (from, to),
            Next::Run(_, run) => {
                let len = run.len();
                assert!(stopped.advance(len));
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(read(&mut stopped, u64::MAX), (0, Some(total)));
    let told = raw.event("kairo.stream.gap", |event| event["payload"]["from"] == gap.0);
    assert_eq!((&told["payload"]["to"], &told["payload"]["id"]), (&json!(gap.1), &json!("writer")), "{told}");
    assert_eq!(told["payload"]["stream"], "stdout");
}

fn who_waits_in_place_is_waited_for_beside_a_spool_too(daemon: &Daemon) {
    let client = connect(daemon);
    let mut raw = daemon.connect_modern();
    let argv = sequence::argv_once_told("256");
    raw.spawn("writer", &argv, json!({"spool": true}));
    let mut stream = client.open_shared(&shared("writer")).expect("it opens");
    tell(&client, "writer");
    let mut before = json!(0);
    until("the source stands still", || {
        let now = crate::streams::stream(&mut raw, "writer", "stdout")["bytes"].clone();
        std::thread::park_timeout(Duration::from_millis(50));
        now != 0 && std::mem::replace(&mut before, now.clone()) == now
    });
    assert_eq!(read(&mut stream, u64::MAX), (0, Some(256 * BLOCK_BYTES as u64)));
}

fn gap_bytes(gap: &Json) -> u64 {
    gap[1].as_u64().unwrap_or(0) - gap[0].as_u64().unwrap_or(0)
}

fn a_reader_that_is_killed_or_leaves_is_waited_for_no_longer(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let mut doomed = Fixture::start(daemon, "writer", "block", &["slow"]);
    let leaver = connect(daemon);
    let stopped = leaver.open(&shared("writer")).expect("it opens");
    let closed = client.open_shared(&shared("writer")).expect("it opens");
    let mut live = client.open_shared(&shared("writer")).expect("it opens");
    tell(&client, "writer");
    // All wait for those that don't read.
    read(&mut live, 1 << 20);
    doomed.child.kill().expect("it runs");
    doomed.child.wait().expect("it is our child");
    let params = UnsubscribeParams { subscription_id: closed.id().clone() };
    assert!(client.call::<Close>(&params).expect("it is there").ok);
    drop((stopped, leaver));
    assert_eq!(read(&mut live, u64::MAX), (0, Some(256 * BLOCK_BYTES as u64)));
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0);
}

fn whatever_a_reader_writes_the_others_feel_nothing(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut vandals = Vec::new();
    for nth in 0..12_u64 {
        let opened = client.open(&shared("writer")).expect("it opens");
        let roles = [DescriptorRole::Ring, DescriptorRole::Seat, DescriptorRole::Doorbell];
        assert_eq!(opened.result.descriptors, roles);
        let [ring, page, bell] = <[_; 3]>::try_from(opened.descriptors).expect("three");
        let page = File::from(page);
        assert!(page.set_len(0).is_err() && page.set_len(1 << 20).is_err(), "its size is sealed");
        assert!(File::from(ring).write_at(b"x", 4096).is_err(), "and so is the ring");
        for at in (0..4096).step_by(8) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(nth);
            page.write_all_at(&random.to_le_bytes(), at).expect("it may be written");
        }
        page.write_all_at(&[1; 8], seat::field::ASLEEP as u64).expect("it may be written");
        vandals.push((page, bell));
    }
    let mut live = client.open_shared(&shared("writer")).expect("it opens");
    tell(&client, "writer");
    assert_eq!(read(&mut live, u64::MAX), (0, Some(256 * BLOCK_BYTES as u64)));
    for (page, _bell) in &vandals {
        let mut word = [0; 8];
        page.read_exact_at(&mut word, seat::field::CLOSED as u64).expect("it may be read");
        assert_eq!(u64::from_le_bytes(word), Closed::Nonsense as u64);
    }
}

/// Who is deaf never wakes, never moves, takes no new ring; who goes mad writes into its page all the time. Both drop, so nobody waits
/// for them; the mad one is told so.
fn nobody_feels_who_is_deaf_or_goes_mad_on_the_way(daemon: &Daemon) {
    let client = connect(daemon);
    let mut raw = daemon.connect_modern();
    spawn_ready(&client, "writer");
    let dropping = OpenParams { policy: Policy::DropOldest, ..shared("writer") };
    let open = || <[_; 3]>::try_from(client.open(&dropping).expect("it opens").descriptors).expect("three");
    let deaf: Vec<_> = (0..8).map(|_| open()).collect();
    let mad = open();
    let mut live = client.open_shared(&shared("writer")).expect("it opens");
    let mut dropper = client.open_shared(&dropping).expect("it opens");
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let total = 256 * BLOCK_BYTES as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (page, mut random) = (File::from(mad[1].try_clone().expect("it is ours")), 1_u64);
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Cursor and sleep, and now and then all of the page.
                let places = if random >> 60 == 0 { 0..512 } else { 8..10 };
                places.for_each(|word| {
                    page.write_all_at(&random.rotate_left(word as u32).to_le_bytes(), word * 8).expect("ours")
                });
            }
        });
        tell(&client, "writer");
        for step in 1..=24_u64 {
            assert_eq!(read(&mut live, step * total / 32), (0, None));
            let history = json!({"tailBytes": (2 << 20) + (step % 3) * (512 << 10)});
            raw.ok("stream.configure", json!({"id": "writer", "stream": "stdout", "history": history}));
        }
        assert_eq!(read(&mut live, u64::MAX), (0, Some(total)));
        assert_eq!(read(&mut dropper, u64::MAX).1, Some(total));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0);
    drop((deaf, mad));
}

fn a_stream_that_has_ended_is_shared_too(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "short", &["printf", "hello"]);
    client.call::<Wait>(&WaitParams { id: id("short"), timeout_ms: None }).expect("it ends");
    spawn(&client, "silent", &["true"]);
    client.call::<Wait>(&WaitParams { id: id("silent"), timeout_ms: None }).expect("it ends");
    let mut stream = client.open_shared(&shared("short")).expect("it opens");
    assert!(matches!(stream.next(99, PATIENCE).expect("it is open"), Next::Run(0, b"hello")));
    assert!(stream.advance(5));
    assert_eq!(stream.next(99, PATIENCE).expect("it is open"), Next::End(End::Complete, 5));
    let mut stream = client.open_shared(&shared("silent")).expect("it opens");
    assert_eq!(stream.next(99, PATIENCE).expect("it is open"), Next::End(End::Complete, 0));
}

fn what_cannot_be_shared_is_refused_by_name(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "sleep", &["sleep", "1000"]);
    let refused = |params: &OpenParams| {
        let error = client.open(params).expect_err("it can't be");
        (error.code().expect("the kernel says so"), error.to_string())
    };
    let paced = OpenParams { rate: Some(Rate { bytes_per_second: 1, burst: None }), ..shared("sleep") };
    let (code, text) = refused(&paced);
    assert!(code == Code::Unsupported && text.contains("rate"), "{text}");
    let sized = OpenParams { ring_bytes: Some(1 << 20), ..by("sleep", Transport::Pipe) };
    assert!(refused(&sized).1.contains("ringBytes"));
    assert_eq!(refused(&shared("nobody")).0, Code::NotFound);
    let spooled = OpenParams { policy: Policy::Spool, ..shared("sleep") };
    assert_eq!(refused(&spooled).0, Code::Unsupported);
    kill(&client, "sleep");
}

fn who_has_left_sees_nothing_more(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let opened = client.open(&shared("writer")).expect("it opens");
    let mut parts = opened.descriptors.into_iter();
    let left = parts.next().expect("a ring");
    let mut live = client.open_shared(&shared("writer")).expect("it opens");
    let params = UnsubscribeParams { subscription_id: opened.result.subscription_id };
    assert!(client.call::<Close>(&params).expect("it is there").ok);
    tell(&client, "writer");
    assert_eq!(read(&mut live, u64::MAX), (0, Some(256 * BLOCK_BYTES as u64)));
    let ring = File::from(left);
    let mut bytes = vec![0; 1 << 20];
    ring.read_exact_at(&mut bytes, 4096).expect("it may be read");
    assert!(bytes.iter().all(|byte| *byte == 0), "nothing came into the ring it had");
}

fn a_reader_goes_on_at_its_exact_byte_with_the_next_kernel(daemon: &mut Daemon) {
    let client = connect(daemon);
    spawn(&client, "writer", &sequence::argv("4096"));
    let mut stream = client.open_shared(&shared("writer")).expect("it opens");
    for life in 1..=4_u64 {
        let (missed, end) = read(&mut stream, life * (20 << 20) + 12_345);
        assert_eq!((missed, end), (0, None));
        daemon.kill_and_succeed();
    }
    assert_eq!(read(&mut stream, u64::MAX), (0, Some(4096 * BLOCK_BYTES as u64)));
    until("it has ended", || {
        client
            .call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None })
            .is_ok_and(|exit| exit.exit_code == 0)
    });
}
