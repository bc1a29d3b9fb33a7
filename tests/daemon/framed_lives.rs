//! Frames on a socket of their own outlive the daemon that sends them: killed at any instant, no frame is torn, and the next
//! one is next.

use crate::adoption::lives_on_both_drivers;
use crate::open::{by, connect};
use crate::outliving::uncertain;
use crate::support::raw::STREAM_CHUNK;
use crate::support::reader::Reader;
use crate::support::sequence;
use crate::support::{Daemon, until};
use kairo_client::Client;
use kairo_wire::frame::Decoder;
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::open::{Close, Framing, OpenParams, Transport};
use kairo_wire::methods::stream::{Mode, Policy, Rate, StreamName, UnsubscribeParams};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::Read;

lives_on_both_drivers!(
    frames_go_on_over_kills_whatever_a_reader_wants,
    frames_of_a_relay_go_on_over_kills,
    who_has_a_relay_alone_goes_on_in_frames,
    at_every_point_a_frame_is_whole,
    what_is_taken_for_one_alone_is_exact_wherever_kernels_die,
    a_frame_that_was_half_sent_is_finished_by_the_next_kernel,
    a_reader_that_waits_for_nobody_is_told_its_gaps_over_kills,
    who_reads_the_past_from_disk_goes_on_in_frames,
    what_had_ended_is_told_to_have_ended,
    a_framed_socket_ends_when_it_is_closed_by_whoever_had_it,
    a_frame_is_finished_of_what_nobody_wants_any_more,
    a_daemon_that_ends_in_order_is_no_end_to_frames,
);

fn socket(id: &str) -> OpenParams {
    by(id, Transport::Socket)
}

/// Starts what writes the sequence, once it is told to, and waits for whoever reads it.
fn start(daemon: &Daemon, id: &str, blocks: &str, more: &Json) {
    let mut options = json!({"whenUnread": "block", "history": {"headBytes": 65_536, "tailBytes": 262_144}});
    options.as_object_mut().expect("it is one").extend(more.as_object().expect("it is one").clone());
    let argv = sequence::argv_once_told(blocks);
    daemon.connect_modern().spawn(id, &argv, options);
}

fn begin(daemon: &Daemon, id: &str) {
    daemon.connect().tell_to_go(id);
}

fn flood(daemon: &Daemon, id: &str, more: &Json) {
    start(daemon, id, "100000000", more);
}

fn kill(daemon: &Daemon, id: &str) -> u64 {
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
    let closed = |raw: &mut crate::support::raw::Raw| {
        let status = raw.ok("process.status", json!({"id": id, "detail": true}));
        let stream = status["detail"]["streams"][0].clone();
        stream["closed"].as_bool().unwrap_or(false).then(|| stream["bytes"].as_u64().expect("a length"))
    };
    let mut bytes = None;
    until("its output has ended", || {
        bytes = closed(&mut raw);
        bytes.is_some()
    });
    bytes.expect("it has ended")
}

fn readers(daemon: &Daemon, id: &str) -> usize {
    let status = daemon.connect_modern().ok("process.status", json!({"id": id, "detail": true}));
    status["detail"]["readers"].as_array().map_or(0, Vec::len)
}

/// A client whose connection goes with its daemon only.
fn lasting(daemon: &Daemon) -> &'static Client {
    Box::leak(Box::new(connect(daemon)))
}

fn frames_go_on_over_kills_whatever_a_reader_wants(daemon: &mut Daemon) {
    flood(daemon, "flood", &json!({}));
    let client = lasting(daemon);
    let open =
        |name: &str, params: OpenParams| Reader::framed(name, client.open_framed(&params).expect("it opens"));
    let rate = Some(Rate { bytes_per_second: 64 << 20, burst: None });
    let waiting = [
        open("chunks", socket("flood")),
        open("chunks too", socket("flood")),
        open("lines", OpenParams { mode: Some(Mode::Lines), ..socket("flood") }),
        open("each line", OpenParams { mode: Some(Mode::Line), ..socket("flood") }),
    ];
    let others = [
        open("dropping", OpenParams { policy: Policy::DropOldest, ..socket("flood") }),
        open("latest", OpenParams { policy: Policy::Latest, ..socket("flood") }),
        open("slowly", OpenParams { policy: Policy::DropOldest, rate, ..socket("flood") }),
    ];
    begin(daemon, "flood");
    let all_go_on = || waiting.iter().chain(&others).for_each(|reader| reader.goes_on(1_500_017));
    for _ in 0..6 {
        all_go_on();
        daemon.kill_and_succeed();
    }
    all_go_on();
    assert_eq!(readers(daemon, "flood"), 7, "each is counted, and once");
    let total = kill(daemon, "flood");
    for reader in waiting {
        assert_eq!(reader.end_and_missed(), (total, 0));
    }
    for reader in others {
        assert_eq!(reader.end(), total);
    }
    until("nobody reads any more", || readers(daemon, "flood") == 0);
}

/// Frames and raw bytes, those who wait and those who don't, of one source.
fn frames_of_a_relay_go_on_over_kills(daemon: &mut Daemon) {
    flood(daemon, "flood", &json!({"history": "none"}));
    let client = lasting(daemon);
    let open =
        |name: &str, params: OpenParams| Reader::framed(name, client.open_framed(&params).expect("it opens"));
    let dropping = OpenParams { policy: Policy::DropOldest, ..socket("flood") };
    let rate = Some(Rate { bytes_per_second: 64 << 20, burst: None });
    let waiting = [open("one", socket("flood")), open("two", OpenParams { rate, ..socket("flood") })];
    let dropping = open("dropping", dropping);
    let raw = client.open(&by("flood", Transport::Pipe)).expect("it opens");
    let raw = std::thread::spawn(move || {
        let [descriptor] = <[_; 1]>::try_from(raw.descriptors).expect("one descriptor");
        std::io::copy(&mut std::fs::File::from(descriptor), &mut std::io::sink()).expect("it can be read")
    });
    begin(daemon, "flood");
    let all_go_on = || waiting.iter().chain([&dropping]).for_each(|reader| reader.goes_on(1_500_017));
    for _ in 0..6 {
        all_go_on();
        daemon.kill_and_succeed();
    }
    all_go_on();
    assert_eq!(readers(daemon, "flood"), 4);
    let total = kill(daemon, "flood");
    for reader in waiting {
        assert_eq!(reader.end_and_missed(), (total, 0));
    }
    assert_eq!((dropping.end(), raw.join().expect("it has ended")), (total, total));
    until("nobody reads any more", || readers(daemon, "flood") == 0);
}

fn who_has_a_relay_alone_goes_on_in_frames(daemon: &mut Daemon) {
    for policy in [Policy::Block, Policy::DropOldest] {
        let id = policy.word();
        flood(daemon, id, &json!({"history": "none"}));
        let client = lasting(daemon);
        let params = OpenParams { policy, ..socket(id) };
        let reader = Reader::framed(id, client.open_framed(&params).expect("it opens"));
        begin(daemon, id);
        for _ in 0..6 {
            reader.goes_on(3_000_017);
            daemon.kill_and_succeed();
        }
        reader.goes_on(3_000_017);
        let total = kill(daemon, id);
        let (came_to, missed) = reader.end_and_missed();
        assert!(came_to == total && (missed == 0 || policy != Policy::Block), "{missed} of {total}");
    }
}

fn at_every_point_a_frame_is_whole(daemon: &mut Daemon) {
    let none = json!({"history": "none"});
    let client = lasting(daemon);
    let open = |params: OpenParams| client.open_framed(&params).expect("it opens");
    for (id, more) in [("kept", &json!({})), ("relayed", &none), ("alone", &none)] {
        flood(daemon, id, more);
    }
    let dropping = |id| OpenParams { policy: Policy::DropOldest, ..socket(id) };
    let readers = [
        Reader::framed("chunks", open(socket("kept"))),
        Reader::framed("each line", open(OpenParams { mode: Some(Mode::Line), ..socket("kept") })),
        Reader::framed("dropping", open(dropping("kept"))),
        Reader::framed("relayed", open(socket("relayed"))),
        Reader::framed("relayed too", open(socket("relayed"))),
        Reader::framed("relayed, dropping", open(dropping("relayed"))),
        Reader::framed("alone", open(socket("alone"))),
    ];
    ["kept", "relayed", "alone"].iter().for_each(|id| begin(daemon, id));
    let died = daemon.dies_at_each(
        &["take.", "input.", "adopt.", "frame."],
        || readers[0].at(),
        || {
            readers.iter().for_each(|reader| reader.goes_on(700_001));
        },
    );
    assert!(died >= 20, "only {died} points were met");
    let totals = ["kept", "relayed", "alone"].map(|id| kill(daemon, id));
    let ends = readers.map(Reader::end_and_missed);
    for (end, of) in ends.iter().zip([0, 0, 0, 1, 1, 1, 2]) {
        assert_eq!(end.0, totals[of], "{ends:?} of {totals:?}");
    }
    assert!([0, 1, 3, 4, 6].iter().all(|waiting| ends[*waiting].1 == 0), "{ends:?}");
}

/// What is taken for it is in its socket, in the staging pipe or in what is noted of its frame, and nowhere else. So neither the kernel that
/// takes it may lose any, nor the next one, which settles that, and dies of it.
fn what_is_taken_for_one_alone_is_exact_wherever_kernels_die(daemon: &mut Daemon) {
    flood(daemon, "alone", &json!({"history": "none"}));
    let reader = Reader::framed("alone", lasting(daemon).open_framed(&socket("alone")).expect("it opens"));
    begin(daemon, "alone");
    let firsts = ["frame.noted", "input.staged", "input.expected", "input.spliced", "input.settled"];
    let seconds = ["adopt.inbox_read", "adopt.ring_made", "adopt.ring_held", "adopt.settled", "adopt.taken"];
    let mut died = [0; 2];
    for first in firsts.into_iter().chain(["frame.moving", "frame.kept", "chunk.sent"]) {
        for (nth, second) in seconds.into_iter().enumerate() {
            for (kernel, point) in
                [format!("{first}:{}", 2 * nth + 1), format!("{second}:1")].iter().enumerate()
            {
                daemon.signal_if_there(Signal::SIGKILL);
                daemon.wait();
                died[kernel] += usize::from(daemon.comes_to(point, || reader.at()));
            }
            daemon.signal_if_there(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed(&[]);
            reader.goes_on(300_001);
        }
    }
    // There is nothing to be read into an inbox behind most of them.
    assert!(died[0] >= 30 && died[1] >= 28, "{died:?}");
    let total = kill(daemon, "alone");
    assert_eq!(reader.end_and_missed(), (total, 0));
    assert_eq!(uncertain(&mut daemon.connect_modern()), 0);
}

/// It takes nothing while its daemon is killed, so a frame is cut wherever its socket was full.
fn a_frame_that_was_half_sent_is_finished_by_the_next_kernel(daemon: &mut Daemon) {
    let client = lasting(daemon);
    let none = json!({"history": "none"});
    for (id, more, modes) in [
        ("kept", &json!({}), &[Mode::Chunk, Mode::Lines, Mode::Line][..]),
        // Nobody else's place keeps its bytes.
        ("kept for one", &json!({}), &[Mode::Chunk]),
        ("relayed", &none, &[Mode::Chunk, Mode::Chunk]),
        ("alone", &none, &[Mode::Chunk]),
    ] {
        start(daemon, id, "256", more);
        let stopped = modes.iter().map(|mode| OpenParams { mode: Some(*mode), ..socket(id) });
        let stopped = stopped.map(|params| client.open_framed(&params).expect("it opens"));
        let stopped: Vec<_> = stopped.collect();
        begin(daemon, id);
        for _ in 0..4 {
            let mut raw = daemon.connect_modern();
            until("nobody takes anything", || {
                let status = raw.ok("process.status", json!({"id": id, "detail": true}));
                let readers = status["detail"]["readers"].as_array().cloned().unwrap_or_default();
                let stands = status["detail"]["streams"][0]["paused"] == json!(true);
                readers.len() == stopped.len() && stands
            });
            daemon.kill_and_succeed();
        }
        let total = 256 * sequence::BLOCK_BYTES as u64;
        let stopped: Vec<_> = stopped.into_iter().map(|stream| Reader::framed(id, stream)).collect();
        for reader in stopped {
            assert_eq!(reader.end_and_missed(), (total, 0));
        }
    }
}

fn a_reader_that_waits_for_nobody_is_told_its_gaps_over_kills(daemon: &mut Daemon) {
    start(daemon, "writer", "1024", &json!({}));
    let client = lasting(daemon);
    let open = |params: OpenParams| client.open_framed(&params).expect("it opens");
    let live = Reader::framed("one that reads", open(socket("writer")));
    let dropping = OpenParams { policy: Policy::DropOldest, ..socket("writer") };
    let stopped = [open(dropping), open(OpenParams { policy: Policy::Latest, ..socket("writer") })];
    begin(daemon, "writer");
    for _ in 0..3 {
        live.goes_on(9_000_001);
        daemon.kill_and_succeed();
    }
    let total = 1_024 * sequence::BLOCK_BYTES as u64;
    assert_eq!(live.end_and_missed(), (total, 0));
    for reader in stopped.map(|stream| Reader::framed("one that had stopped", stream)) {
        let (came_to, missed) = reader.end_and_missed();
        assert!(came_to == total && missed > total / 2, "{missed} of {total}");
    }
}

/// What has left memory is on disk, whichever kernel brought it there.
fn who_reads_the_past_from_disk_goes_on_in_frames(daemon: &mut Daemon) {
    start(daemon, "writer", "1024", &json!({"spool": true}));
    let client = lasting(daemon);
    let live = Reader::framed("one that reads", client.open_framed(&socket("writer")).expect("it opens"));
    let spooled = OpenParams { policy: Policy::Spool, ..socket("writer") };
    let spooled = client.open_framed(&spooled).expect("it opens");
    begin(daemon, "writer");
    live.goes_on(9_000_001);
    daemon.kill_and_succeed();
    let spooled = Reader::framed("one that is brought the past", spooled);
    for _ in 0..3 {
        spooled.goes_on(3_000_001);
        daemon.kill_and_succeed();
    }
    let total = 1_024 * sequence::BLOCK_BYTES as u64;
    assert_eq!((live.end_and_missed(), spooled.end()), ((total, 0), total));
}

/// Its end, and all before it, were in memory, in the socket, or half of each.
fn what_had_ended_is_told_to_have_ended(daemon: &mut Daemon) {
    let client = lasting(daemon);
    let mut streams = Vec::new();
    for (id, blocks) in [("short", "1"), ("long", "4")] {
        start(daemon, id, blocks, &json!({}));
        let params = socket(id);
        streams.push((id, blocks, client.open_framed(&params).expect("it opens")));
        streams.push((id, blocks, client.open_framed(&params).expect("it opens")));
        begin(daemon, id);
        let mut raw = daemon.connect_modern();
        raw.wait_for_exit(id);
    }
    let errors = OpenParams { stream: StreamName::Stderr, ..socket("short") };
    let silent = client.open_framed(&errors).expect("it opens");
    for _ in 0..2 {
        daemon.kill_and_succeed();
    }
    for (id, blocks, stream) in streams {
        let blocks: u64 = blocks.parse().expect("a number");
        assert_eq!(Reader::framed(id, stream).end_and_missed(), (blocks * sequence::BLOCK_BYTES as u64, 0));
    }
    assert_eq!(Reader::framed("silent", silent).end_and_missed(), (0, 0));
}

fn a_framed_socket_ends_when_it_is_closed_by_whoever_had_it(daemon: &mut Daemon) {
    flood(daemon, "flood", &json!({}));
    let client = lasting(daemon);
    let (subscription_id, stream) = open_raw(client, "flood");
    let gone = client.open_framed(&socket("flood")).expect("it opens");
    daemon.kill_and_succeed();
    assert_eq!(readers(daemon, "flood"), 2);
    // It says nothing, and its going is heard at once, and by the keeper too.
    drop(gone);
    until("who left is gone", || readers(daemon, "flood") == 1);
    daemon.kill_and_succeed();
    assert_eq!(readers(daemon, "flood"), 1);
    begin(daemon, "flood");
    until("its socket is full", || {
        let status = daemon.connect_modern().ok("process.status", json!({"id": "flood", "detail": true}));
        status["detail"]["readers"][0]["stalled"] == json!(true)
    });
    let client = connect(daemon);
    assert!(client.call::<Close>(&UnsubscribeParams { subscription_id }).expect("it is there").ok);
    assert_eq!(readers(daemon, "flood"), 0);
    ends_with_a_whole_frame(stream);
    daemon.kill_and_succeed();
    assert_eq!(readers(daemon, "flood"), 0);
    kill(daemon, "flood");
}

/// What comes is whole, and then nothing does.
fn ends_with_a_whole_frame(mut socket: File) {
    let (mut decoder, mut chunks, mut bytes) = (Decoder::new(), 0, vec![0; 64 << 10]);
    loop {
        let read = socket.read(&mut bytes).expect("it can be read");
        if read == 0 {
            break;
        }
        let frames = decoder.feed(&bytes[..read], |kind, _| chunks += usize::from(kind.0 == STREAM_CHUNK));
        frames.expect("they are frames");
    }
    assert_eq!(decoder.pending_bytes(), 0, "the last of {chunks} is torn");
    assert!(chunks > 0);
}

fn open_raw(client: &Client, id: &str) -> (SubscriptionId, File) {
    let params = OpenParams { framing: Some(Framing::Frames), ..socket(id) };
    let opened = client.open(&params).expect("it opens");
    let [descriptor] = <[_; 1]>::try_from(opened.descriptors).expect("one descriptor");
    (opened.result.subscription_id, File::from(descriptor))
}

/// Whoever closes it doesn't read, and the daemon is killed before what had begun to leave is through.
fn a_frame_is_finished_of_what_nobody_wants_any_more(daemon: &mut Daemon) {
    for (id, more) in [("kept", json!({})), ("relayed", json!({"history": "none"}))] {
        flood(daemon, id, &more);
        let client = connect(daemon);
        let (subscription_id, stream) = open_raw(&client, id);
        begin(daemon, id);
        let mut raw = daemon.connect_modern();
        until("it takes nothing", || {
            let status = raw.ok("process.status", json!({"id": id, "detail": true}));
            status["detail"]["readers"][0]["stalled"] == json!(true)
        });
        assert!(client.call::<Close>(&UnsubscribeParams { subscription_id }).expect("it is there").ok);
        daemon.kill_and_succeed();
        ends_with_a_whole_frame(stream);
        until("it is not read", || readers(daemon, id) == 0);
        kill(daemon, id);
    }
}

fn a_daemon_that_ends_in_order_is_no_end_to_frames(daemon: &mut Daemon) {
    flood(daemon, "flood", &json!({}));
    let client = lasting(daemon);
    let reader = Reader::framed("chunks", client.open_framed(&socket("flood")).expect("it opens"));
    begin(daemon, "flood");
    for _ in 0..3 {
        reader.goes_on(1_000_000);
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        daemon.succeed(&[]);
    }
    reader.goes_on(1_000_000);
    let total = kill(daemon, "flood");
    assert_eq!(reader.end_and_missed(), (total, 0));
}
