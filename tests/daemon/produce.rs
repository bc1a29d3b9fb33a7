//! Streams that clients write, from the real daemon: through a pipe and in place, read in every way, ended in every way.

use crate::open::{by, connect, id};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, pattern, until};
use kairo_client::produce::Room;
use kairo_client::shared::{Closed, End, Next};
use kairo_client::{Client, SharedStream};
use kairo_wire::error::Code;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::process::{Wait, WaitParams};
use kairo_wire::methods::publish::{Entrance, PublishParams};
use kairo_wire::methods::stream::Policy;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

on_both_drivers!(
    what_goes_into_a_pipe_is_a_stream_as_any_other,
    what_is_written_in_place_is_read_in_place_and_in_frames,
    readers_that_wait_pace_a_producer_and_those_that_drop_do_not,
    a_stream_ends_with_its_producer_however_that_ends,
    a_producer_that_says_what_cannot_be_ends_its_stream_alone,
    an_id_is_taken_while_it_is_written,
);

const PATIENCE: Duration = Duration::from_secs(30);

fn params(name: &str) -> PublishParams {
    let params = json!({"id": name, "ringBytes": 1 << 20});
    let mut params: PublishParams = serde_json::from_value(params).expect("parameters");
    params.id = id(name);
    params
}

fn through_a_pipe(name: &str) -> PublishParams {
    PublishParams { ring_bytes: None, transport: Entrance::Pipe, ..params(name) }
}

fn exit_code(client: &Client, name: &str) -> i32 {
    client.call::<Wait>(&WaitParams { id: id(name), timeout_ms: None }).expect("it ends").exit_code
}

/// Reads all of a shared stream, which is the sequence; how many bytes came and were missed.
fn read(client: &Client, name: &str, policy: Policy) -> (u64, u64) {
    let params = OpenParams { policy, ..by(name, Transport::Shared) };
    read_all(client.open_shared(&params).expect("it opens"))
}

fn read_all(mut stream: SharedStream<'_>) -> (u64, u64) {
    let (mut came, mut missed, deadline) = (0, 0, Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < deadline, "stuck at {}", stream.offset());
        let (len, wrong) = match stream.next(1 << 18, Duration::from_secs(1)).expect("it is open") {
            Next::Run(offset, bytes) => (bytes.len(), pattern::wrong_at(bytes, offset)),
            Next::Gap(from, to) => {
                missed += to - from;
                continue;
            }
            Next::End(End::Complete, total) => {
                assert_eq!(came + missed, total);
                return (came, missed);
            }
            Next::Nothing => continue,
            other => panic!("{other:?}"),
        };
        if stream.advance(len) {
            assert_eq!(wrong, None);
            came += len as u64;
        }
    }
}

fn what_goes_into_a_pipe_is_a_stream_as_any_other(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    let (result, mut pipe) = client.produce(&through_a_pipe("camera")).expect("it is made");
    assert!(result.bytes > 0);
    let status = daemon.connect().ok("process.status", json!({"id": "camera", "detail": true}));
    assert_eq!(status["state"], "running", "{status}");
    let reader = other.open(&by("camera", Transport::Pipe)).expect("it opens");
    let mut file = File::from(reader.descriptors.into_iter().next().expect("one"));
    let bytes = pattern::bytes(0, 64 * BLOCK_BYTES);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| pipe.write_all(&bytes).map(|()| drop(pipe)));
        let mut came = Vec::new();
        file.read_to_end(&mut came).expect("it can be read");
        sequence::check(&came, 0);
        assert_eq!(came.len(), bytes.len());
        writing.join().expect("no panic").expect("it is taken");
    });
    assert_eq!(exit_code(&other, "camera"), 0);
    // Its head and its latest are kept.
    let (came, missed) = read(&other, "camera", Policy::Block);
    assert!(came > 0 && came + missed == bytes.len() as u64);
}

fn write_sequence(client: &Client, name: &str, blocks: usize) {
    let (_, mut producer) = client.produce_in_place(&params(name)).expect("it is made");
    produce(&mut producer, blocks);
}

fn produce(producer: &mut kairo_shm::producer::Producer, blocks: usize) {
    let total = (blocks * BLOCK_BYTES) as u64;
    while producer.taken() < total {
        let (at, left) = (producer.taken(), (total - producer.taken()) as usize);
        let Room::Bytes(room) = producer.room(left.min(200_000), PATIENCE) else { panic!("no room at {at}") };
        let len = room.len();
        room.copy_from_slice(&pattern::bytes(at, len));
        producer.commit(len);
    }
}

fn what_is_written_in_place_is_read_in_place_and_in_frames(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    let (_, mut producer) = client.produce_in_place(&params("camera")).expect("it is made");
    let mut waiting = None;
    until("the ring is mapped and sealed", || {
        waiting = other.open_shared(&by("camera", Transport::Shared)).ok();
        waiting.is_some()
    });
    let waiting = waiting.expect("it is open");
    let pipe = other.open(&by("camera", Transport::Pipe)).expect("it opens");
    std::thread::scope(|scope| {
        let shared = scope.spawn(move || read_all(waiting));
        let piped = scope.spawn(move || {
            let mut came = Vec::new();
            let mut file = File::from(pipe.descriptors.into_iter().next().expect("one"));
            file.read_to_end(&mut came).map(|_| came)
        });
        produce(&mut producer, 256);
        drop(producer);
        assert_eq!(shared.join().expect("no panic"), (256 * BLOCK_BYTES as u64, 0));
        let came = piped.join().expect("no panic").expect("it can be read");
        sequence::check(&came, 0);
        assert_eq!(came.len(), 256 * BLOCK_BYTES);
    });
    assert_eq!(exit_code(&client, "camera"), 0);
}

fn readers_that_wait_pace_a_producer_and_those_that_drop_do_not(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    let (_, mut producer) = client.produce_in_place(&params("camera")).expect("it is made");
    let mut stream = None;
    let dropping = OpenParams { policy: Policy::DropOldest, ..by("camera", Transport::Shared) };
    until("the ring is mapped and sealed", || {
        stream = other.open_shared(&dropping).ok();
        stream.is_some()
    });
    produce(&mut producer, 64);
    let waiting = other.open_shared(&by("camera", Transport::Shared)).expect("it opens");
    let before = producer.taken();
    // It stops a ring further at most, and goes on when nobody waits any more.
    let stopped = loop {
        match producer.room(1 << 16, Duration::from_millis(200)) {
            Room::Bytes(room) => {
                let len = room.len();
                producer.commit(len);
            }
            Room::Full => break producer.taken(),
            other => panic!("{other:?}"),
        }
    };
    assert!(stopped - before <= 1 << 20, "{before} {stopped}");
    drop(waiting);
    assert!(matches!(producer.room(1, PATIENCE), Room::Bytes(_)));
}

fn a_stream_ends_with_its_producer_however_that_ends(daemon: &Daemon) {
    let other = connect(daemon);
    let client = connect(daemon);
    write_sequence(&client, "done", 1);
    assert_eq!(exit_code(&other, "done"), 0);
    let (_, mut pipe) = client.produce(&through_a_pipe("gone")).expect("it is made");
    pipe.write_all(b"the last").expect("it is taken");
    drop(client);
    assert_eq!(exit_code(&other, "gone"), 128 + 15);
    let client = connect(daemon);
    let (_, mut producer) = client.produce_in_place(&params("killed")).expect("it is made");
    other_kill(daemon, "killed");
    assert_eq!(exit_code(&other, "killed"), 128 + 15);
    until("it is told", || {
        matches!(producer.room(1, Duration::from_millis(10)), Room::Closed(Closed::Ended) | Room::Lost)
    });
}

fn other_kill(daemon: &Daemon, name: &str) {
    daemon.connect().ok("process.kill", json!({"id": name}));
}

fn a_producer_that_says_what_cannot_be_ends_its_stream_alone(daemon: &Daemon) {
    let client = connect(daemon);
    let other = connect(daemon);
    let (_, mut honest) = client.produce_in_place(&params("honest")).expect("it is made");
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for nth in 0..8_u64 {
        let name = format!("vandal-{nth}");
        let made = client.made(&params(&name), Entrance::Shared).expect("it is made");
        let [ring, page, bell] = <[_; 3]>::try_from(made.1).expect("three");
        let (ring, page) = (File::from(ring), File::from(page));
        assert!(ring.set_len(0).is_err() && page.set_len(0).is_err(), "their sizes are sealed");
        for at in (0..4096).step_by(8) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(nth);
            ring.write_all_at(&(random | 1 << 63).to_le_bytes(), at).expect("it may be written");
            page.write_all_at(&random.to_le_bytes(), at).expect("it may be written");
        }
        let mut bell = std::os::unix::net::UnixStream::from(bell);
        bell.write_all(&[1]).expect("it rings");
        assert_eq!(exit_code(&other, &name), 1);
    }
    produce(&mut honest, 4);
    drop(honest);
    assert_eq!(exit_code(&other, "honest"), 0);
    assert!(read(&other, "honest", Policy::Block).0 > 0);
}

fn an_id_is_taken_while_it_is_written(daemon: &Daemon) {
    let client = connect(daemon);
    let (_, pipe) = client.produce(&through_a_pipe("camera")).expect("it is made");
    let error = client.produce(&through_a_pipe("camera")).expect_err("it is taken");
    assert_eq!(error.code(), Some(Code::AlreadyExists));
    drop(pipe);
    assert_eq!(exit_code(&client, "camera"), 0);
    let (_, pipe) = client.produce(&through_a_pipe("camera")).expect("it is free");
    drop(pipe);
}
