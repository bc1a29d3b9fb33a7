//! A keeper that an earlier release started serves this one until it has nothing to keep: what it has no word for ends with its
//! kernel, which is told, and the rest goes on.

use crate::adoption::{Follower, lives_on_both_drivers, spawn_late};
use crate::open::{by, connect, id, spawn};
use crate::support::raw::Raw;
use crate::support::reader::Reader;
use crate::support::{Daemon, pattern, program, sequence, until};
use kairo_client::DirectItem;
use kairo_wire::methods::open::Transport;
use kairo_wire::methods::process::{Wait, WaitParams};
use kairo_wire::methods::publish::{Entrance, PublishParams};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::Write;
use std::process::{Command, Stdio};

lives_on_both_drivers!(
    a_stream_that_a_client_writes_ends_with_its_kernel,
    frames_on_a_socket_of_their_own_end_with_their_kernel_and_raw_bytes_go_on,
    who_waits_for_a_first_byte_is_told_what_is_missed,
);

/// Puts a keeper that speaks this version in the place of the daemon's.
pub(crate) fn keeper(daemon: &mut Daemon, version: u16) {
    // One that has ended is what it begins from; without anything it would go at once.
    let client = connect(daemon);
    spawn(&client, "ended", &["echo", "unread"]);
    client.call::<Wait>(&WaitParams { id: id("ended"), timeout_ms: None }).expect("it ends");
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    until("its keeper is gone", || daemon.keeper().is_none());
    let left = daemon.folder().join("state/keeper.estate");
    let mut keeper = Command::new(program());
    keeper.args([
        "keeper",
        "--on-kernel-loss",
        "hold",
        "--cgroups",
        "limits",
        "--speak",
        &version.to_string(),
    ]);
    keeper.arg("--handover").arg(daemon.handover()).arg("--resume").arg(&left);
    let mut keeper = keeper.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts");
    until("it listens", || {
        assert!(keeper.try_wait().expect("it is ours").is_none(), "it has ended");
        daemon.handover().exists()
    });
    // It is waited for by its own thread: whoever looks for it finds nothing once it has ended.
    std::thread::spawn(move || keeper.wait());
    daemon.succeed(&[]);
}

/// Whom the log has an event of this type of.
fn told(raw: &mut Raw, topic: &str) -> Vec<String> {
    raw.ok("kernel.hello", json!({"features": ["int64"]}));
    let page = raw.ok("event.replay", json!({"fromSeq": 1, "types": [topic]}));
    let events = page["events"].as_array().expect("events").clone();
    events.iter().map(|event| event["payload"]["id"].as_str().expect("an id").to_owned()).collect()
}

fn a_stream_that_a_client_writes_ends_with_its_kernel(daemon: &mut Daemon) {
    keeper(daemon, 9);
    let client = connect(daemon);
    let wish = json!({"id": "camera", "whenUnread": "block"});
    let params: PublishParams = serde_json::from_value(wish).expect("parameters");
    let (_, mut pipe) =
        client.produce(&PublishParams { transport: Entrance::Pipe, ..params }).expect("it is made");
    pipe.write_all(&pattern::bytes(0, 100_000)).expect("it is read");
    let mut raw = daemon.connect_modern();
    let status = |raw: &mut Raw| raw.ok("process.status", json!({"id": "camera", "detail": true}));
    until("it is in", || status(&mut raw)["detail"]["streams"][0]["bytes"] == 100_000);
    // The log alone knows of it.
    until("it is in the log", || told(&mut raw, "kairo.process.spawned").contains(&"camera".to_owned()));
    daemon.kill_and_succeed();
    assert_eq!(pipe.write_all(b"more").expect_err("nobody reads it").kind(), std::io::ErrorKind::BrokenPipe);
    let mut raw = daemon.connect_modern();
    until("it is told", || told(&mut raw, "kairo.process.lost") == ["camera"]);
    // The name is free.
    raw.spawn("camera", &["true"], json!({}));
    raw.wait_for_exit("camera");
}

fn frames_on_a_socket_of_their_own_end_with_their_kernel_and_raw_bytes_go_on(daemon: &mut Daemon) {
    keeper(daemon, 9);
    let mut raw = daemon.connect_modern();
    // Of two, for a reader that doesn't come back is waited for.
    let ids = ["in frames", "raw"];
    for id in ids {
        spawn_late(&mut raw, id, "100000000", json!({"whenUnread": "block"}));
    }
    let client = connect(daemon);
    let mut framed = client.open_framed(&by(ids[0], Transport::Socket)).expect("it opens");
    let direct = Reader::of(ids[1], client.open(&by(ids[1], Transport::Pipe)).expect("it opens"));
    ids.into_iter().for_each(|id| raw.tell_to_go(id));
    let mut at = 0;
    while at < 1_000_000 {
        match framed.next_item().expect("no frame is torn") {
            Some(DirectItem::Chunk { offset, data, .. }) => {
                assert_eq!(offset, at);
                sequence::check(data, offset);
                at += data.len() as u64;
            }
            other => panic!("{other:?}"),
        }
    }
    daemon.kill_and_succeed();
    loop {
        match framed.next_item() {
            Ok(Some(DirectItem::Chunk { offset, data, .. })) => {
                assert_eq!(offset, at);
                at += data.len() as u64;
            }
            Ok(other) => panic!("no end is told: {other:?}"),
            // It was cut off.
            Err(_) => break,
        }
    }
    direct.goes_on(3_000_000);
    raw = daemon.connect_modern();
    for id in ids {
        raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
    }
    direct.end();
}

fn who_waits_for_a_first_byte_is_told_what_is_missed(daemon: &mut Daemon) {
    const BYTES: u64 = sequence::BLOCK_BYTES as u64;
    keeper(daemon, 10);
    let mut raw = daemon.connect_modern();
    spawn_late(&mut raw, "late", "1", json!({"history": {"headBytes": 4096, "tailBytes": 16_384}}));
    let mut follower = Follower::default();
    follower.resume(&mut raw, "late");
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    raw.tell_to_go("late");
    raw.wait_for_exit("late");
    let subscription = raw.subscribe("late", json!({"stream": "stdout", "resumes": follower.last}));
    let output = raw.collect(&subscription, 1);
    assert!(output.stdout.len() < BYTES as usize);
    let missed: u64 = output.gaps.iter().map(|gap| gap.2 - gap.1).sum();
    assert_eq!(output.stdout.len() as u64 + missed, BYTES);
}
