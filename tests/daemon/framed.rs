//! Frames on a socket of their own, and readers that want only the newest.

use crate::open::{by, connect, id, kill, spawn, spawn_ready, spawn_with, tell};
use crate::support::raw::EVENT;
use crate::support::reader::read_frames;
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, until};
use kairo_client::shared::Next;
use kairo_client::{Client, DirectItem, DirectStream};
use kairo_wire::error::Code;
use kairo_wire::methods::open::{Close, DescriptorRole, Framing, OpenParams, Transport};
use kairo_wire::methods::options::{HistoryOption, SpawnOptions};
use kairo_wire::methods::process::{Status, StatusParams, Wait, WaitParams};
use kairo_wire::methods::stream::{Mode, Policy, Start, UnsubscribeParams};
use serde_json::json;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const TOTAL: u64 = 256 * BLOCK_BYTES as u64;
const PATIENCE: Duration = Duration::from_secs(30);

fn framed(client: &Client, params: &OpenParams) -> DirectStream {
    client.open_framed(params).expect("it opens")
}

fn socket(name: &str) -> OpenParams {
    by(name, Transport::Socket)
}

/// Reads the sequence to its end: how long it was, and what was missed.
fn read(stream: &mut DirectStream) -> (u64, u64) {
    read_frames(stream, &AtomicU64::new(0))
}

fn readers(client: &Client, name: &str) -> usize {
    let status = client.call::<Status>(&StatusParams { id: id(name), detail: true }).expect("it is known");
    status.detail.expect("it is ours").readers.len()
}

fn a_socket_of_ones_own_brings_frames_while_its_connection_calls(daemon: &Daemon) {
    let client = connect(daemon);
    for relayed in [false, true] {
        let name = if relayed { "relayed" } else { "kept" };
        let history = if relayed { HistoryOption::None } else { HistoryOption::default() };
        let argv = sequence::argv_once_told("256");
        spawn_with(&client, name, &argv, SpawnOptions { history, ..SpawnOptions::default() });
        let from = if relayed { Start::Now } else { Start::Oldest };
        let mut streams = [0; 2].map(|_| framed(&client, &OpenParams { from, ..socket(name) }));
        tell(&client, name);
        // The same connection is answered while its streams are full.
        assert_eq!(readers(&client, name), 2);
        std::thread::scope(|scope| {
            for stream in &mut streams {
                scope.spawn(|| assert_eq!(read(stream), (TOTAL, 0)));
            }
        });
        until("nobody reads any more", || readers(&client, name) == 0);
    }
}

fn whoever_is_slow_misses_by_name_and_whoever_goes_is_heard_of(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let mut stopped = framed(&client, &OpenParams { policy: Policy::DropOldest, ..socket("writer") });
    // It says nothing, and its going is heard at once.
    drop(framed(&client, &socket("writer")));
    until("the one that went is forgotten", || readers(&client, "writer") == 1);
    let mut live = framed(&client, &socket("writer"));
    tell(&client, "writer");
    assert_eq!(read(&mut live), (TOTAL, 0));
    let (total, missed) = read(&mut stopped);
    assert!(total == TOTAL && missed > 0, "it had not read");
    spawn(&client, "yes", &["yes"]);
    let mut stream = framed(&client, &socket("yes"));
    let subscription_id = stream.id().expect("it is open").clone();
    assert!(client.call::<Close>(&UnsubscribeParams { subscription_id }).expect("it is there").ok);
    // What was under way comes whole, then the end of the socket.
    while stream.next_within(PATIENCE).is_ok_and(|item| item.is_some()) {}
    let other = connect(daemon);
    let mut stream = framed(&other, &socket("yes"));
    drop(other);
    while stream.next_within(PATIENCE).is_ok_and(|item| item.is_some()) {}
    until("nobody reads any more", || readers(&client, "yes") == 0);
    kill(&client, "yes");
}

fn who_wants_the_newest_gets_that_and_is_told_the_rest(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let latest = OpenParams { policy: Policy::Latest, ..socket("writer") };
    let mut stopped = framed(&client, &latest);
    let mut live = framed(&client, &socket("writer"));
    tell(&client, "writer");
    assert_eq!(read(&mut live), (TOTAL, 0));
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0, "it has paced nobody");
    let (total, missed) = read(&mut stopped);
    assert!(total == TOTAL && missed > TOTAL / 2);
    // Who comes late gets one chunk at most, and that is the end.
    let (total, missed) = read(&mut framed(&client, &latest));
    assert!(total == TOTAL && (1..=1 << 20).contains(&(total - missed)), "{total} {missed}");
}

fn the_newest_line_is_a_whole_one(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "lines", &["sh", "-c", "seq 100000; printf end"]);
    let one = OpenParams { mode: Some(Mode::Line), policy: Policy::Latest, ..socket("lines") };
    client.call::<Wait>(&WaitParams { id: id("lines"), timeout_ms: None }).expect("it ends");
    let mut stream = framed(&client, &one);
    let mut said = Vec::new();
    while let Some(item) = stream.next_item().expect("it is well formed") {
        if let DirectItem::Chunk { data, .. } = item {
            said.push(String::from_utf8_lossy(data).into_owned());
        }
    }
    assert_eq!(said, ["end"]);
    // The same on the connection itself, and by the call of old.
    let mut raw = daemon.connect_modern();
    for method in ["stream.open", "process.stdout.subscribe"] {
        let (id, mode) = (json!("lines"), json!("line"));
        raw.ok(method, json!({"id": id, "stream": "stdout", "mode": mode, "policy": "latest"}));
        let mut chunks = 0;
        loop {
            let frame = raw.frame().expect("it comes");
            if frame.kind != EVENT {
                chunks += 1;
            } else if frame.json()["topic"] == "stream.end" {
                break;
            }
        }
        assert_eq!(chunks, 1, "{method}");
    }
}

fn a_shared_ring_has_the_newest_too(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("writer", &sequence::argv("256"), json!({}));
    raw.wait_for_exit("writer");
    let client = connect(daemon);
    let latest = OpenParams { policy: Policy::Latest, ..by("writer", Transport::Shared) };
    let mut stream = client.open_shared(&latest).expect("it opens");
    assert_eq!(stream.next(4_096, PATIENCE).expect("it is there"), Next::Gap(0, TOTAL - 4_096));
    let Next::Run(offset, bytes) = stream.next(4_096, PATIENCE).expect("it is there") else {
        panic!("no bytes")
    };
    assert_eq!((offset, bytes.len()), (TOTAL - 4_096, 4_096));
    assert!(stream.advance(4_096));
}

fn what_a_socket_can_not_be_is_refused_by_name(daemon: &Daemon) {
    let client = connect(daemon);
    let none = SpawnOptions { history: HistoryOption::None, ..SpawnOptions::default() };
    spawn_with(&client, "sleep", &["sleep", "1000"], none);
    let refused = |params: OpenParams, code: Code, field: &str| {
        let error = client.open(&params).expect_err("it can't be");
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    };
    let frames = Some(Framing::Frames);
    let framed = OpenParams { framing: frames, from: Start::Now, ..socket("sleep") };
    let pipe = OpenParams { framing: frames, ..by("sleep", Transport::Pipe) };
    refused(pipe, Code::InvalidParams, "framing");
    refused(OpenParams { mode: Some(Mode::Line), ..socket("sleep") }, Code::InvalidParams, "mode");
    refused(OpenParams { policy: Policy::Latest, ..socket("sleep") }, Code::Unsupported, "policy");
    // Of what is next nobody knows what will be the newest.
    refused(OpenParams { policy: Policy::Latest, ..framed.clone() }, Code::Conflict, "policy");
    let opened = client.open(&framed).expect("it opens");
    assert_eq!(opened.result.descriptors, [DescriptorRole::Socket]);
    kill(&client, "sleep");
}

on_both_drivers!(
    a_socket_of_ones_own_brings_frames_while_its_connection_calls,
    whoever_is_slow_misses_by_name_and_whoever_goes_is_heard_of,
    who_wants_the_newest_gets_that_and_is_told_the_rest,
    the_newest_line_is_a_whole_one,
    a_shared_ring_has_the_newest_too,
    what_a_socket_can_not_be_is_refused_by_name,
);
