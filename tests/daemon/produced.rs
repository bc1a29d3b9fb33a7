//! A stream that a client writes outlives the daemon it was made by: killed at any instant, the client writes on and sees nothing of
//! it, and whoever reads misses no byte and gets none twice.

use crate::adoption::lives_on_both_drivers;
use crate::open::{by, connect, id};
use crate::outliving::{go_on_over, uncertain};
use crate::support::raw::Raw;
use crate::support::reader::Reader;
use crate::support::{Daemon, pattern, processes, until};
use kairo_client::produce::Room;
use kairo_client::shared::{End, Next, SharedError};
use kairo_client::{CallError, Client, ConnectOptions, DirectStream};
use kairo_shm::producer::Producer;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::process::{Kill, KillParams, Status, StatusParams};
use kairo_wire::methods::publish::{Entrance, PublishParams};
use kairo_wire::methods::stream::{Mode, Policy};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

lives_on_both_drivers!(
    what_goes_into_a_pipe_goes_on_over_kills,
    what_is_relayed_from_a_pipe_goes_on_over_kills,
    what_goes_to_disk_too_goes_on_over_kills,
    a_frame_of_what_is_written_is_finished_by_the_next_kernel,
    at_every_point_a_written_stream_is_exact,
    one_whose_kernel_died_before_its_writer_had_it_is_over_and_told_once,
    a_writer_that_goes_while_there_is_no_kernel_ends_its_stream_once,
    what_was_ended_stays_ended_at_every_point,
    a_stream_without_its_owner_is_its_writers_until_the_owner_is_back,
    a_daemon_that_ends_in_order_is_no_end_to_a_writer,
    a_daemon_that_ends_for_good_ends_what_is_written,
    what_is_written_in_place_goes_on_over_kills,
    at_every_point_what_is_written_in_place_is_exact,
    a_writer_in_place_that_goes_while_there_is_no_kernel_ends_its_stream_once,
    a_reader_in_place_that_is_ahead_of_others_goes_on_where_it_is,
    what_was_written_in_place_and_is_over_can_be_read_in_the_next_kernel,
    a_writer_in_place_that_lies_to_the_next_kernel_ends_its_stream_alone,
);

/// Writes the sequence until it is told to stop.
struct Writer {
    at: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn of(mut pipe: File) -> Writer {
        let (at, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (written, stopped) = (Arc::clone(&at), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            // Of no size that the other sizes here are a multiple of.
            let length = 70_001;
            while !stopped.load(Ordering::Relaxed) {
                let from = written.load(Ordering::Relaxed);
                pipe.write_all(&pattern::bytes(from, length)).expect("somebody has the other end");
                written.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        Writer { at, stop, thread }
    }

    /// Writes it in place.
    fn in_place(mut producer: Producer) -> Writer {
        let (at, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (written, stopped) = (Arc::clone(&at), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                write_some(&mut producer, 70_001);
                written.store(producer.taken(), Ordering::Relaxed);
            }
        });
        Writer { at, stop, thread }
    }

    /// Closes it. How much was written.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        until("the writer ends", || self.thread.is_finished());
        self.thread.join().expect("every byte was taken");
        self.at.load(Ordering::Relaxed)
    }
}

/// Writes so much of the sequence at most, as soon as there is room.
fn write_some(producer: &mut Producer, max: usize) {
    let at = producer.taken();
    match producer.room(max, Duration::from_millis(200)) {
        Room::Bytes(room) => {
            let len = room.len();
            room.copy_from_slice(&pattern::bytes(at, len));
            producer.commit(len);
        }
        Room::Full => {}
        other => panic!("{other:?} at {at}"),
    }
}

/// Makes a stream that is written in place, and has it mapped.
fn lend(daemon: &Daemon, wish: &Json) -> Producer {
    let client = connect(daemon);
    let params: PublishParams = serde_json::from_value(wish.clone()).expect("parameters");
    let (_, producer) = client.produce_in_place(&params).expect("it is made");
    std::mem::forget(client);
    producer
}

/// Reads it in place, whoever is its kernel, from the beginning to the end. How much came.
fn read_in_place(daemon: &Daemon, name: &str, policy: Policy) -> JoinHandle<u64> {
    let (socket, params) = (daemon.socket.clone(), OpenParams { policy, ..by(name, Transport::Shared) });
    let (begun, begins) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let client = Client::connect(&socket).expect("the daemon is there");
        let mut opened = None;
        // Not before its producer has mapped it.
        until("it can be shared", || {
            opened = client.open_shared(&params).ok();
            opened.is_some()
        });
        let mut stream = opened.expect("it is open");
        begun.send(()).expect("somebody waits");
        let mut came = 0;
        loop {
            let next = match stream.next(100_003, Duration::from_secs(1)) {
                Ok(next) => next,
                // Its kernel died while it was asked again.
                Err(SharedError::Call(CallError::Interrupted { .. })) => continue,
                Err(error) => panic!("{error}"),
            };
            let (len, wrong) = match next {
                Next::Run(offset, bytes) => (bytes.len(), pattern::wrong_at(bytes, offset)),
                Next::End(End::Complete, total) => {
                    assert_eq!(stream.offset(), total);
                    return came;
                }
                Next::Nothing | Next::Lost => continue,
                Next::Gap(..) if policy != Policy::Block => continue,
                other => panic!("{other:?}"),
            };
            if stream.advance(len) {
                assert_eq!(wrong, None, "near {}", stream.offset());
                came += len as u64;
            }
        }
    });
    begins.recv().expect("it begins");
    reading
}

/// Makes a stream whose owner is never told of any end.
fn publish(daemon: &Daemon, wish: &Json) -> File {
    try_publish(connect(daemon), wish).expect("it is made")
}

/// None if its kernel dies of it.
fn try_publish(client: Client, wish: &Json) -> Option<File> {
    let params: PublishParams = serde_json::from_value(wish.clone()).expect("parameters");
    let made = client.produce(&PublishParams { transport: Entrance::Pipe, ..params });
    std::mem::forget(client);
    made.ok().map(|(_, pipe)| pipe)
}

fn wish(name: &str, history: &Json) -> Json {
    json!({"id": name, "whenUnread": "block", "history": history})
}

fn history() -> Json {
    json!({"headBytes": 65_536, "tailBytes": 262_144})
}

fn open(daemon: &Daemon, name: &str, transports: &[Transport]) -> Vec<Reader> {
    let client = connect(daemon);
    let opened: Vec<_> = transports.iter().map(|it| client.open(&by(name, *it)).expect("it opens")).collect();
    std::mem::forget(client);
    let named = |transport: &Transport| format!("{} of {name}", transport.word());
    transports.iter().zip(opened).map(|(transport, opened)| Reader::of(&named(transport), opened)).collect()
}

/// Frames of it on a socket of its own.
fn open_framed(daemon: &Daemon, name: &str, mode: Mode, policy: Policy) -> DirectStream {
    let client = connect(daemon);
    let params = OpenParams { mode: Some(mode), policy, ..by(name, Transport::Socket) };
    let stream = client.open_framed(&params).expect("it opens");
    std::mem::forget(client);
    stream
}

/// Reads such frames, by one who waits for them and one who doesn't.
fn framed(daemon: &Daemon, name: &str) -> [Reader; 2] {
    [Policy::Block, Policy::DropOldest].map(|policy| {
        let called = format!("frames of {name}, {}", policy.word());
        Reader::framed(&called, open_framed(daemon, name, Mode::Chunk, policy))
    })
}

fn detail(raw: &mut Raw, name: &str) -> Json {
    raw.ok("process.status", json!({"id": name, "detail": true}))["detail"].clone()
}

/// What the log has of a life, in order.
fn story(raw: &mut Raw, session: &Json) -> Vec<String> {
    raw.ok("kernel.hello", json!({"features": ["int64"]}));
    let types =
        ["kairo.process.spawned", "kairo.process.exited", "kairo.process.ended", "kairo.process.lost"];
    let types: Vec<&str> = types.into_iter().chain(["kairo.stream.closed"]).collect();
    let page = raw.ok("event.replay", json!({"fromSeq": 1, "types": types}));
    let events = page["events"].as_array().expect("events").clone();
    let of_it = events.into_iter().filter(|event| event["payload"]["session"] == *session);
    of_it.map(|event| event["topic"].as_str().expect("a topic").to_owned()).collect()
}

/// The same, once as much is told as of a whole life.
fn whole_story(raw: &mut Raw, session: &Json) -> Vec<String> {
    let mut told = Vec::new();
    until("all is told", || {
        told = story(raw, session);
        told.len() >= WHOLE.len()
    });
    told
}

const WHOLE: [&str; 4] =
    ["kairo.process.spawned", "kairo.stream.closed", "kairo.process.exited", "kairo.process.ended"];

/// Ends what is written, and compares.
fn end(daemon: &Daemon, name: &str, writer: Writer, readers: Vec<Reader>) {
    let mut raw = daemon.connect_modern();
    let session = detail(&mut raw, name)["session"].clone();
    let written = writer.end();
    assert_eq!(raw.wait_for_exit(name)["exitCode"], 0);
    let ends: Vec<u64> = readers.into_iter().map(Reader::end).collect();
    let total = detail(&mut raw, name)["streams"][0]["bytes"].as_u64().expect("a length");
    assert!(total == written && ends.iter().all(|end| *end == total), "{ends:?} of {total} of {written}");
    assert_eq!(uncertain(&mut raw), 0);
    let told = whole_story(&mut raw, &session);
    assert_eq!(told, WHOLE, "{name}");
}

fn goes_on(daemon: &mut Daemon, history: &Json) {
    let pipe = publish(daemon, &wish("camera", history));
    let mut raw = daemon.connect_modern();
    let before = detail(&mut raw, "camera");
    let mut readers = open(daemon, "camera", &[Transport::Pipe, Transport::Socket, Transport::Pipe]);
    readers.extend(framed(daemon, "camera"));
    let writer = Writer::of(pipe);
    go_on_over(daemon, &readers, 8);
    let mut raw = daemon.connect_modern();
    let status = raw.ok("process.status", json!({"id": "camera", "detail": true}));
    let after = &status["detail"];
    assert_eq!(status["state"], "running");
    for same in ["session", "pid", "owner", "command"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    assert_eq!(raw.refused("stream.publish", wish("camera", history)).code, "E_ALREADY_EXISTS");
    end(daemon, "camera", writer, readers);
}

fn what_goes_into_a_pipe_goes_on_over_kills(daemon: &mut Daemon) {
    goes_on(daemon, &history());
}

fn what_is_relayed_from_a_pipe_goes_on_over_kills(daemon: &mut Daemon) {
    goes_on(daemon, &json!("none"));
}

/// Who reads takes nothing while kernels are killed, so a frame is cut wherever its socket was full.
fn a_frame_of_what_is_written_is_finished_by_the_next_kernel(daemon: &mut Daemon) {
    let in_pipe = |daemon: &Daemon, name: &str, history| Writer::of(publish(daemon, &wish(name, &history)));
    let kept =
        [(Mode::Chunk, Policy::Block), (Mode::Lines, Policy::Block), (Mode::Chunk, Policy::DropOldest)];
    for name in ["kept", "relayed", "in-place"] {
        let writer = match name {
            "kept" => in_pipe(daemon, name, history()),
            "relayed" => in_pipe(daemon, name, json!("none")),
            _ => Writer::in_place(lend(daemon, &in_place(name))),
        };
        let wishes = if name == "relayed" { &kept[..1] } else { &kept[..] };
        let open = |(mode, policy): &(Mode, Policy)| open_framed(daemon, name, *mode, *policy);
        let stopped: Vec<DirectStream> = wishes.iter().map(open).collect();
        for _ in 0..4 {
            let mut raw = daemon.connect_modern();
            until("nobody takes anything", || detail(&mut raw, name)["streams"][0]["paused"] == json!(true));
            daemon.kill_and_succeed();
        }
        let readers = stopped.into_iter().map(|stream| Reader::framed(name, stream)).collect();
        end(daemon, name, writer, readers);
    }
}

fn what_goes_to_disk_too_goes_on_over_kills(daemon: &mut Daemon) {
    let mut wish = wish("camera", &history());
    wish["spool"] = json!(true);
    wish["whenUnread"] = json!("drop");
    let writer = Writer::of(publish(daemon, &wish));
    for _ in 0..4 {
        let wanted = writer.at.load(Ordering::Relaxed) + 5_000_011;
        until("it is written", || writer.at.load(Ordering::Relaxed) > wanted);
        daemon.kill_and_succeed();
    }
    let written = writer.end();
    let mut raw = daemon.connect_modern();
    assert_eq!(raw.wait_for_exit("camera")["exitCode"], 0);
    let late = raw.subscribe("camera", json!({"stream": "stdout", "policy": "spool"}));
    assert_eq!(crate::spool::check_all(&mut raw, &late, 0), (written, vec![]));
}

fn at_every_point_a_written_stream_is_exact(daemon: &mut Daemon) {
    let (kept, relayed) = (wish("kept", &history()), wish("relayed", &json!("none")));
    let (kept, relayed) = (publish(daemon, &kept), publish(daemon, &relayed));
    let mut readers = open(daemon, "kept", &[Transport::Pipe, Transport::Socket]);
    readers.extend(framed(daemon, "kept"));
    let mut others = open(daemon, "relayed", &[Transport::Pipe, Transport::Pipe]);
    others.extend(framed(daemon, "relayed"));
    let (kept, relayed) = (Writer::of(kept), Writer::of(relayed));
    let died = daemon.dies_at_each(
        &["take.", "frame.", "adopt."],
        || readers[0].at(),
        || {
            readers.iter().chain(&others).for_each(|reader| reader.goes_on(700_001));
        },
    );
    assert!(died >= 18, "only {died} points were met");
    end(daemon, "kept", kept, readers);
    end(daemon, "relayed", relayed, others);
}

fn one_whose_kernel_died_before_its_writer_had_it_is_over_and_told_once(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed_unasked(&["--die-at", "producer.held:1"]);
    assert!(daemon.connect_modern().try_call("stream.publish", wish("early", &history())).is_none());
    daemon.wait();
    daemon.succeed(&[]);
    let mut raw = daemon.connect_modern();
    assert_eq!(raw.wait_for_exit("early")["exitCode"], 0);
    let session = detail(&mut raw, "early")["session"].clone();
    let told = whole_story(&mut raw, &session);
    assert_eq!(told, WHOLE);
    // Its id is free.
    drop(publish(daemon, &wish("early", &history())));
    assert_eq!(daemon.connect_modern().wait_for_exit("early")["exitCode"], 0);
}

fn a_writer_that_goes_while_there_is_no_kernel_ends_its_stream_once(daemon: &mut Daemon) {
    for (name, history, readers) in
        [("kept", history(), 0), ("read", history(), 2), ("relayed", json!("none"), 2)]
    {
        let mut pipe = publish(daemon, &wish(name, &history));
        let readers = open(daemon, name, &vec![Transport::Pipe; readers]);
        let mut raw = daemon.connect_modern();
        let session = detail(&mut raw, name)["session"].clone();
        pipe.write_all(&pattern::bytes(0, 1_000)).expect("it is taken");
        until("it is there", || detail(&mut raw, name)["streams"][0]["bytes"] == 1_000);
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        // The keeper has the other end, and whatever goes in.
        pipe.write_all(&pattern::bytes(1_000, 40_000)).expect("it fits");
        drop(pipe);
        for _ in 0..3 {
            daemon.succeed(&[]);
            let mut raw = daemon.connect_modern();
            assert_eq!(raw.wait_for_exit(name)["exitCode"], 0);
            let told = whole_story(&mut raw, &session);
            assert_eq!(told, WHOLE);
            assert_eq!(detail(&mut raw, name)["streams"][0]["bytes"], 41_000);
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
        }
        daemon.succeed(&[]);
        readers.into_iter().for_each(|reader| assert_eq!(reader.end(), 41_000));
    }
}

/// A stream with bytes in it, its session, and a client that doesn't wait for the next kernel; none if its kernel dies.
fn written(daemon: &Daemon, name: &str) -> Option<(Json, Client, File)> {
    let options = ConnectOptions { reconnect: None, ..ConnectOptions::default() };
    let client = Client::connect_with(&daemon.socket, &options).ok()?;
    let mut pipe = try_publish(client.clone(), &wish(name, &history()))?;
    // No more than the smallest pipe holds: its kernel may be gone.
    pipe.write_all(&pattern::bytes(0, 50_000)).ok()?;
    loop {
        let found = client.call::<Status>(&StatusParams { id: id(name), detail: true }).ok()?;
        let detail = serde_json::to_value(found.detail).expect("it is JSON");
        if detail["streams"][0]["bytes"] == 50_000 {
            return Some((detail["session"].clone(), client, pipe));
        }
        std::thread::yield_now();
    }
}

fn what_was_ended_stays_ended_at_every_point(daemon: &mut Daemon) {
    for (nth, point) in
        ["stream.closed", "producer.ended", "exit.heard", "exit.told", "signal.sent"].iter().enumerate()
    {
        for by_kill in [false, true] {
            let mut attempts = 0..;
            let (name, session, client, mut pipe) = loop {
                daemon.signal_if_there(Signal::SIGKILL);
                daemon.wait();
                daemon.succeed_unasked(&["--die-at", &format!("{point}:1")]);
                // What the last one was killed before it was noted may be what this one dies of.
                let name = format!("ended-{nth}-{by_kill}-{}", attempts.next().expect("a number"));
                match written(daemon, &name) {
                    Some((session, client, pipe)) => break (name, session, client, pipe),
                    None => {
                        daemon.wait();
                        daemon.succeed(&[]);
                    }
                }
            };
            if by_kill {
                let kill = KillParams { id: id(&name), signal: None, grace_ms: Some(100), scope: None };
                drop(client.call::<Kill>(&kill));
                until("its writer is told, or its kernel has died", || {
                    daemon.has_ended() || pipe.write_all(&[0]).is_err()
                });
            } else {
                drop(pipe);
            }
            let told_in_time = Instant::now() + Duration::from_secs(2);
            while !daemon.has_ended() && Instant::now() < told_in_time {
                std::thread::yield_now();
            }
            daemon.signal_if_there(Signal::SIGKILL);
            daemon.wait();
            daemon.succeed(&[]);
            let mut raw = daemon.connect_modern();
            let code = raw.wait_for_exit(&name)["exitCode"].clone();
            let expected: &[i32] = if by_kill { &[143, 137] } else { &[0] };
            assert!(expected.iter().any(|wanted| code == *wanted), "{point}: {code} of {expected:?}");
            let mut told = whole_story(&mut raw, &session);
            told.sort();
            let mut whole = WHOLE;
            whole.sort();
            assert_eq!(told, whole, "{point}");
        }
    }
}

fn a_stream_without_its_owner_is_its_writers_until_the_owner_is_back(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let token = raw.ok("kernel.hello", json!({}))["connection"].clone();
    let make = |raw: &mut Raw, name: &str| {
        let (_, descriptors) = raw.handed("stream.publish", wish(name, &history()));
        File::from(descriptors.into_iter().next().expect("one"))
    };
    let (left, ended, owned) = (make(&mut raw, "left"), make(&mut raw, "ended"), make(&mut raw, "owned"));
    let readers = open(daemon, "left", &[Transport::Pipe]);
    let (left, ended, owned) = (Writer::of(left), Writer::of(ended), Writer::of(owned));
    daemon.kill_and_succeed();
    // Whoever made it may end it, from wherever.
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": "ended"}));
    assert_eq!(raw.wait_for_exit("ended")["exitCode"], 143);
    until("its writer is told", || ended.thread.is_finished());
    assert!(ended.thread.join().is_err(), "it got EPIPE");
    // It has outlived the connection, and does so once more.
    daemon.kill_and_succeed();
    go_on_over(daemon, &readers, 1);
    end(daemon, "left", left, readers);
    // Owned again it ends with its owner.
    let mut raw = daemon.connect_modern();
    raw.ok("kernel.hello", json!({"resumes": token}));
    drop(raw);
    assert_eq!(daemon.connect_modern().wait_for_exit("owned")["exitCode"], 143);
    until("its writer is told", || owned.thread.is_finished());
}

fn a_daemon_that_ends_in_order_is_no_end_to_a_writer(daemon: &mut Daemon) {
    let pipe = publish(daemon, &wish("camera", &history()));
    let readers = open(daemon, "camera", &[Transport::Pipe]);
    let writer = Writer::of(pipe);
    readers[0].goes_on(1_000_000);
    for _ in 0..3 {
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        daemon.succeed(&[]);
        readers[0].goes_on(1_000_000);
    }
    end(daemon, "camera", writer, readers);
}

fn a_daemon_that_ends_for_good_ends_what_is_written(daemon: &mut Daemon) {
    let mut pipe = publish(daemon, &wish("camera", &history()));
    let mut raw = daemon.connect_modern();
    let session = detail(&mut raw, "camera")["session"].clone();
    let keeper = daemon.keeper();
    raw.ok("kernel.shutdown", json!({}));
    daemon.wait();
    until("its writer is told", || pipe.write_all(&[0]).is_err());
    until("the keeper ends", || keeper.is_none_or(|name| !processes::is_alive(name)));
    daemon.succeed(&[]);
    let told = story(&mut daemon.connect_modern(), &session);
    assert_eq!(told.iter().filter(|topic| *topic == "kairo.process.exited").count(), 1, "{told:?}");
    assert!(!told.contains(&"kairo.process.lost".to_owned()), "{told:?}");
}

fn in_place(name: &str) -> Json {
    json!({"id": name, "whenUnread": "block", "ringBytes": 1 << 20})
}

fn what_is_written_in_place_goes_on_over_kills(daemon: &mut Daemon) {
    let producer = lend(daemon, &in_place("camera"));
    let mut readers = open(daemon, "camera", &[Transport::Pipe, Transport::Socket]);
    readers.extend(framed(daemon, "camera"));
    let waiting = read_in_place(daemon, "camera", Policy::Block);
    let dropping = read_in_place(daemon, "camera", Policy::DropOldest);
    let writer = Writer::in_place(producer);
    go_on_over(daemon, &readers, 8);
    let written = {
        let at = writer.at.load(Ordering::Relaxed);
        end(daemon, "camera", writer, readers);
        until("they end", || waiting.is_finished() && dropping.is_finished());
        at
    };
    let total =
        detail(&mut daemon.connect_modern(), "camera")["streams"][0]["bytes"].as_u64().expect("a length");
    assert!(total >= written);
    assert_eq!(waiting.join().expect("every byte was right"), total);
    assert!(dropping.join().expect("every byte was right") > 0);
}

fn at_every_point_what_is_written_in_place_is_exact(daemon: &mut Daemon) {
    let producer = lend(daemon, &in_place("camera"));
    let mut readers = open(daemon, "camera", &[Transport::Pipe, Transport::Socket]);
    readers.extend(framed(daemon, "camera"));
    let waiting = read_in_place(daemon, "camera", Policy::Block);
    let writer = Writer::in_place(producer);
    let died = daemon.dies_at_each(
        &["take.expected", "take.read", "take.committed", "input.", "frame.", "adopt.", "ring."],
        || readers[0].at(),
        || {
            readers.iter().for_each(|reader| reader.goes_on(700_001));
        },
    );
    assert!(died >= 18, "only {died} points were met");
    end(daemon, "camera", writer, readers);
    until("it ends", || waiting.is_finished());
    let total =
        detail(&mut daemon.connect_modern(), "camera")["streams"][0]["bytes"].as_u64().expect("a length");
    assert_eq!(waiting.join().expect("every byte was right"), total);
}

fn a_writer_in_place_that_goes_while_there_is_no_kernel_ends_its_stream_once(daemon: &mut Daemon) {
    for name in ["read", "unread"] {
        let mut producer = lend(daemon, &in_place(name));
        let readers = open(daemon, name, &vec![Transport::Pipe; usize::from(name == "read")]);
        let mut raw = daemon.connect_modern();
        let session = detail(&mut raw, name)["session"].clone();
        write_some(&mut producer, 1_000);
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        while producer.taken() < 300_000 {
            write_some(&mut producer, 10_007);
        }
        let total = producer.taken();
        drop(producer);
        for _ in 0..3 {
            daemon.succeed(&[]);
            let mut raw = daemon.connect_modern();
            assert_eq!(raw.wait_for_exit(name)["exitCode"], 0);
            let told = whole_story(&mut raw, &session);
            assert_eq!(told, WHOLE);
            assert_eq!(detail(&mut raw, name)["streams"][0]["bytes"], total);
            let late = open(daemon, name, &[Transport::Pipe]);
            late.into_iter().for_each(|reader| assert_eq!(reader.end(), total));
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
        }
        daemon.succeed(&[]);
        readers.into_iter().for_each(|reader| assert_eq!(reader.end(), total));
    }
}

fn a_writer_in_place_that_lies_to_the_next_kernel_ends_its_stream_alone(daemon: &mut Daemon) {
    let honest = lend(daemon, &in_place("honest"));
    let readers = open(daemon, "honest", &[Transport::Pipe]);
    let honest = Writer::in_place(honest);
    let client = connect(daemon);
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let vandals = (0..8_u64).map(|nth| {
        let params = serde_json::from_value(in_place(&format!("vandal-{nth}"))).expect("parameters");
        let (_, made) = client.made(&params, Entrance::Shared).expect("it is made");
        <[_; 3]>::try_from(made).expect("three").map(File::from)
    });
    let vandals: Vec<[File; 3]> = vandals.collect();
    std::mem::forget(client);
    readers[0].goes_on(3_000_000);
    for _ in 0..2 {
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        for (nth, [ring, page, bell]) in vandals.iter().enumerate() {
            assert!(ring.set_len(0).is_err() && page.set_len(0).is_err(), "their sizes are sealed");
            for at in (0..4096).step_by(8) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(nth as u64);
                ring.write_all_at(&(random | 1 << 63).to_le_bytes(), at).expect("it may be written");
                page.write_all_at(&random.to_le_bytes(), at).expect("it may be written");
            }
            let _ = (&*bell).write(&[1]);
        }
        daemon.succeed(&[]);
        for nth in 0..vandals.len() {
            assert_eq!(daemon.connect_modern().wait_for_exit(&format!("vandal-{nth}"))["exitCode"], 1);
        }
        readers[0].goes_on(3_000_000);
    }
    drop(vandals);
    end(daemon, "honest", honest, readers);
}

/// Writes until nobody makes room any more.
fn write_until_full(producer: &mut Producer) {
    let mut before = None;
    while before != Some(producer.taken()) {
        before = Some(producer.taken());
        write_some(producer, 1 << 20);
    }
}

/// Its kernel dies, and it reads on what is written, which no kernel can take for another reader's sake.
fn a_reader_in_place_that_is_ahead_of_others_goes_on_where_it_is(daemon: &mut Daemon) {
    let mut producer = lend(daemon, &in_place("camera"));
    let client = connect(daemon);
    let mut ahead = None;
    until("it can be shared", || {
        ahead = client.open_shared(&by("camera", Transport::Shared)).ok();
        ahead.is_some()
    });
    let mut ahead = ahead.expect("it is open");
    // Nobody reads it yet.
    let other = connect(daemon);
    let behind = other.open(&by("camera", Transport::Pipe)).expect("it opens");
    std::mem::forget(other);
    let mut read_some = || {
        let before = ahead.offset();
        let len = match ahead.next(1 << 16, Duration::from_millis(100)) {
            Ok(Next::Run(offset, bytes)) => {
                assert_eq!((offset, pattern::wrong_at(bytes, offset)), (before, None));
                bytes.len()
            }
            Ok(Next::Nothing | Next::Lost) | Err(SharedError::Call(CallError::Interrupted { .. })) => 0,
            other => panic!("{other:?}"),
        };
        assert!(len == 0 || ahead.advance(len));
        ahead.offset()
    };
    write_until_full(&mut producer);
    until("it reads", || read_some() == producer.taken());
    for _ in 0..3 {
        let before = producer.taken();
        daemon.kill_and_succeed();
        write_until_full(&mut producer);
        until("it reads on", || read_some() == producer.taken());
        assert!(producer.taken() <= before + (2 << 20), "who reads nothing holds it up");
    }
    let behind = Reader::of("the one behind", behind);
    let writer = Writer::in_place(producer);
    // Whoever waits is waited for as long as it reads.
    until("both go on", || {
        read_some();
        behind.at() > 8_000_000
    });
    let written = writer.end();
    until("it has all", || read_some() == written);
    assert_eq!(behind.end(), written);
}

fn what_was_written_in_place_and_is_over_can_be_read_in_the_next_kernel(daemon: &mut Daemon) {
    for (name, bytes) in [("short", 300_000), ("long", 3_000_000)] {
        let mut producer = lend(daemon, &json!({"id": name, "ringBytes": 1 << 20}));
        while producer.taken() < bytes {
            write_some(&mut producer, 10_007);
        }
        let total = producer.taken();
        drop(producer);
        assert_eq!(daemon.connect_modern().wait_for_exit(name)["exitCode"], 0);
        for _ in 0..2 {
            daemon.kill_and_succeed();
            let streams = detail(&mut daemon.connect_modern(), name)["streams"].clone();
            assert_eq!(streams[0]["bytes"], total);
            let mut raw = daemon.connect_modern();
            let late = raw.subscribe(name, json!({"stream": "stdout", "policy": "drop_oldest"}));
            let (came, gaps) = crate::spool::check_all(&mut raw, &late, 0);
            assert!(
                came >= total.min(500_000)
                    && came + gaps.iter().map(|(from, to)| to - from).sum::<u64>() == total
            );
        }
    }
}
