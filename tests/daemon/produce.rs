//! Streams that clients write, from the real daemon: through a pipe and in place, read in every way, ended in every way.

use crate::open::{by, connect, id};
use crate::sandbox::{can_contain, profile};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, pattern, python, until};
use kairo_client::produce::Room;
use kairo_client::shared::{Closed, End, Next};
use kairo_client::{Client, SharedStream};
use kairo_wire::error::Code;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::process::{Wait, WaitParams};
use kairo_wire::methods::publish::{Entrance, PublishParams};
use kairo_wire::methods::spool::SpoolOption;
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
    what_is_produced_is_on_disk_too_for_who_comes_late_or_is_slow,
    a_program_publishes_by_a_grant_over_the_connection_it_was_born_with,
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

fn what_is_produced_is_on_disk_too_for_who_comes_late_or_is_slow(daemon: &Daemon) {
    let client = connect(daemon);
    let spool: SpoolOption = serde_json::from_value(json!(true)).expect("a spool");
    const BLOCKS: usize = 128;
    let total = (BLOCKS * BLOCK_BYTES) as u64;
    for (name, entrance) in [("piped", Entrance::Pipe), ("in-place", Entrance::Shared)] {
        let mut slow = daemon.connect_modern();
        // It waits for a stream that isn't there yet, and reads when that is over.
        let spooled = slow.subscribe(name, json!({"stream": "stdout", "policy": "spool"}));
        if entrance == Entrance::Pipe {
            let params = PublishParams { spool, ..through_a_pipe(name) };
            let (_, mut pipe) = client.produce(&params).expect("it is made");
            pipe.write_all(&pattern::bytes(0, BLOCKS * BLOCK_BYTES)).expect("it is taken");
        } else {
            let params = PublishParams { spool, ..params(name) };
            let (_, mut producer) = client.produce_in_place(&params).expect("it is made");
            produce(&mut producer, BLOCKS);
        }
        assert_eq!(exit_code(&client, name), 0);
        assert_eq!(crate::spool::check_all(&mut slow, &spooled, 0), (total, vec![]), "{name}");
        let late = slow.subscribe(name, json!({"stream": "stdout", "policy": "spool"}));
        assert_eq!(crate::spool::check_all(&mut slow, &late, 0), (total, vec![]), "{name}");
    }
}

/// Publishes over its own connection once it is told to, after it was refused before.
const PUBLISHER: &str = "\
import os, socket, struct, sys
def packed(value):
    if isinstance(value, dict):
        return bytes([0x80 | len(value)]) + b''.join(packed(k) + packed(v) for k, v in value.items())
    if isinstance(value, int):
        return struct.pack('>BQ', 0xCF, value)
    text = value.encode()
    return struct.pack('>BH', 0xDA, len(text)) + text
kernel = socket.socket(fileno=int(os.environ['KAIRO_IPC_FD']))
def publish(number):
    payload = packed({'id': number, 'method': 'stream.publish', 'params': {'id': 'made'}})
    kernel.sendall(struct.pack('>2sBBI', b'KA', 1, 1, len(payload)) + payload)
    answer, fds = b'', []
    while len(answer) < 8 or len(answer) < 8 + struct.unpack('>I', answer[4:8])[0]:
        more, came, _, _ = socket.recv_fds(kernel, 65536, 4)
        assert more, 'the connection ended'
        answer, fds = answer + more, fds + came
    return answer, fds
answer, fds = publish(1)
assert not fds and b'E_PERMISSION_DENIED' in answer and b'stream.publish' in answer, (answer, fds)
print('refused', flush=True)
sys.stdin.readline()
answer, fds = publish(2)
assert len(fds) == 1, answer
for number in range(64):
    block = struct.pack('>Q', number) + b''.join(struct.pack('>I', n * 2654435761 & 0xffffffff) for n in range(2, 16384))
    while block:
        block = block[os.write(fds[0], block):]
os.close(fds[0])
print('done', flush=True)
sys.stdin.readline()
";

fn a_program_publishes_by_a_grant_over_the_connection_it_was_born_with(daemon: &Daemon) {
    if !can_contain("a_program_publishes_by_a_grant_over_the_connection_it_was_born_with") {
        return;
    }
    let (mut raw, mut reader) = (daemon.connect_modern(), daemon.connect_modern());
    let spawn = json!({"sandbox": profile(), "cwd": "/"});
    raw.spawn("producer", &[python(), "-c", PUBLISHER], spawn);
    let output = raw.subscribe("producer", json!({}));
    until("it was refused", || crate::streams::stream(&mut raw, "producer", "stdout")["bytes"] == 8);
    let session = crate::streams::detail(&mut raw, "producer")["session"].clone();
    let principal = format!("session:{}", session.as_str().expect("a session"));
    raw.ok("permission.grant", json!({"principal": principal, "permission": "stream.publish"}));
    let made = reader.subscribe("made", json!({"stream": "stdout"}));
    raw.tell_to_go("producer");
    let bytes = reader.collect(&made, 1).stdout;
    assert_eq!(bytes.len(), 64 * BLOCK_BYTES);
    sequence::check(&bytes, 0);
    raw.ok("process.stdin.write", json!({"id": "producer", "data": "end\n"}));
    let output = raw.collect(&output, 2);
    assert_eq!(output.text(), "refused\ndone\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(reader.wait_for_exit("made")["exitCode"], 0);
}
