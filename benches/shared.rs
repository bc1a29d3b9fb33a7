//! A stream in a shared ring, every byte of it summed where it lies, beside a direct pipe whose reader sums.

use crate::framed::pipe;
use crate::support::daemon::Daemon;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use kairo_client::produce::Room;
use kairo_client::shared::Next;
use kairo_client::{Client, SharedStream};
use kairo_wire::methods::open::OpenParams;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::json;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Bytes of a round.
const TOTAL: u64 = 2 << 30;
/// Bytes that are looked at at once.
const RUN_BYTES: usize = 256 << 10;
/// Readers beside each other.
const MANY: usize = 16;

/// Adds up all bytes, eight at a time.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add((*byte).into()))
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let gigabytes = TOTAL as f64 / 1e9;
    let (mut direct, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let (mut one_cpu, mut many_cpu) = (Vec::new(), Vec::new());
    let (mut direct_all, mut one_all) = (Vec::new(), Vec::new());
    let (mut eight, mut beside) = (Vec::new(), Vec::new());
    let mut produced = Vec::new();
    for round in 0..ROUNDS {
        // The writer is this process's child, and waited for.
        let before = used(UsageWho::RUSAGE_SELF) + used(UsageWho::RUSAGE_CHILDREN);
        direct.push(gigabytes / direct_pipe());
        let all = used(UsageWho::RUSAGE_SELF) + used(UsageWho::RUSAGE_CHILDREN) - before;
        direct_all.push(all / gigabytes);
        let (cpu, own, id) = (daemon.cpu(), used(UsageWho::RUSAGE_SELF), format!("one-{round}"));
        one.push(gigabytes / shared(&daemon, &id, 1, 0));
        let (cpu, own) = (daemon.cpu() - cpu, used(UsageWho::RUSAGE_SELF) - own);
        one_cpu.push(cpu / gigabytes);
        one_all.push((cpu + own + used_by(&daemon, &id)) / gigabytes);
        let cpu = daemon.cpu();
        many.push(MANY as f64 * gigabytes / shared(&daemon, &format!("many-{round}"), MANY, 0));
        many_cpu.push((daemon.cpu() - cpu) / gigabytes);
        eight.push(gigabytes / shared(&daemon, &format!("eight-{round}"), 8, 0));
        produced.push(gigabytes / in_place(&daemon, &format!("made-{round}")));
        beside.push(gigabytes / shared(&daemon, &format!("beside-{round}"), 8, 1));
    }
    report.row("direct pipe, summed", "GB/s", &direct, Bar::None);
    report.row("shared, one reader", "GB/s", &one, Bar::None);
    report.ratio("  beside the direct pipe", &one, &direct, Bar::AtLeast(0.95));
    report.row("  CPU", "s/GB", &one_cpu, Bar::None);
    report.row("  CPU of writer, kernel and reader", "s/GB", &one_all, Bar::None);
    report.row("  CPU of writer and reader of the direct pipe", "s/GB", &direct_all, Bar::None);
    report.ratio("  CPU of all, beside the direct pipe's", &one_all, &direct_all, Bar::AtMost(1.05));
    report.row("shared, 16 readers together", "GB/s", &many, Bar::None);
    report.ratio("  beside the direct pipe", &many, &direct, Bar::AtLeast(6.0));
    report.row("  CPU", "s/GB of input", &many_cpu, Bar::AtMost(0.30));
    report.row("shared, each of 8 readers", "GB/s", &eight, Bar::None);
    report.ratio("  with one beside them that has stopped", &beside, &eight, Bar::AtLeast(0.9));
    report.row("written in place, one reader", "GB/s", &produced, Bar::None);
    report.ratio("  beside the direct pipe", &produced, &direct, Bar::AtLeast(3.0));
}

/// CPU time, seconds: of this process with all its threads, or of its children that were waited for.
fn used(who: UsageWho) -> f64 {
    let usage = getrusage(who).expect("it can be asked");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// The same of a process of the daemon's, which the keeper has waited for.
fn used_by(daemon: &Daemon, id: &str) -> f64 {
    let mut raw = daemon.connect();
    raw.ok("process.wait", json!({"id": id}));
    let usage = raw.ok("process.usage", json!({"id": id}))["usage"].clone();
    let micros = |name: &str| usage[name].as_f64().expect("it has used something");
    (micros("userUs") + micros("systemUs")) / 1e6
}

/// Seconds in which a reader has summed all that a producer has written in place.
fn in_place(daemon: &Daemon, id: &str) -> f64 {
    let connect = || {
        let socket = UnixStream::connect(&daemon.socket).expect("it is there");
        Client::over(socket, &Default::default()).expect("it greets")
    };
    let (writing, reading) = (connect(), connect());
    let params = serde_json::from_value(json!({"id": id})).expect("parameters");
    let (_, mut producer) = writing.produce_in_place(&params).expect("it is made");
    let until = Instant::now() + Duration::from_secs(5);
    let stream = loop {
        match reading.open_shared(&open_params(id, "block")) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while producer.taken() < TOTAL {
                let left = (TOTAL - producer.taken()).min(RUN_BYTES as u64) as usize;
                match producer.room(left, Duration::from_secs(5)) {
                    Room::Bytes(room) => {
                        room.fill(b'x');
                        let len = room.len();
                        producer.commit(len);
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        sum_all(stream);
    });
    begun.elapsed().as_secs_f64()
}

fn sum_all(mut stream: SharedStream<'_>) {
    let (mut bytes, mut total) = (0, 0_u64);
    loop {
        let len = match stream.next(RUN_BYTES, Duration::from_secs(5)).expect("it is open") {
            Next::Run(_, run) => {
                total = total.wrapping_add(sum(run));
                run.len()
            }
            Next::End(..) => break,
            other => panic!("{other:?}"),
        };
        assert!(stream.advance(len));
        bytes += len as u64;
    }
    std::hint::black_box(total);
    assert_eq!(bytes, TOTAL);
}

fn direct_pipe() -> f64 {
    let (mut reader, writer) = pipe();
    let begun = Instant::now();
    let mut child =
        roles::command("writer", &[&TOTAL.to_string()]).stdout(writer).spawn().expect("the writer starts");
    let mut buffer = vec![0; RUN_BYTES];
    let (mut bytes, mut total) = (0, 0_u64);
    loop {
        match reader.read(&mut buffer).expect("a pipe is readable") {
            0 => break,
            got => {
                total = total.wrapping_add(sum(&buffer[..got]));
                bytes += got as u64;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::hint::black_box(total);
    assert_eq!(bytes, TOTAL);
    child.wait().expect("it is our child");
    seconds
}

fn open_params(id: &str, policy: &str) -> OpenParams {
    let params = json!({"id": id, "transport": "shared", "policy": policy});
    serde_json::from_value(params).expect("parameters")
}

/// Seconds in which so many readers have each summed all of a writer's output, with some beside them that drop and have stopped.
fn shared(daemon: &Daemon, id: &str, readers: usize, stopped: usize) -> f64 {
    let mut raw = daemon.connect();
    // It begins when all are there.
    let mut argv = vec!["sh".to_owned(), "-c".to_owned(), "read x; exec \"$@\"".to_owned(), "sh".to_owned()];
    argv.extend(roles::argv("writer", &[&TOTAL.to_string()]));
    raw.ok("process.spawn", json!({"id": id, "command": argv, "options": {"pipeBytes": PIPE_BYTES}}));
    let clients: Vec<Client> = (0..readers + stopped)
        .map(|_| Client::over(UnixStream::connect(&daemon.socket).expect("it is there"), &Default::default()))
        .map(|client| client.expect("it greets"))
        .collect();
    let (live, idle) = clients.split_at(readers);
    let _idle: Vec<_> = idle
        .iter()
        .map(|client| client.open_shared(&open_params(id, "drop_oldest")).expect("it opens"))
        .collect();
    let streams: Vec<_> =
        live.iter().map(|client| client.open_shared(&open_params(id, "block")).expect("it opens")).collect();
    let begun = Instant::now();
    raw.ok("process.stdin.write", json!({"id": id, "data": "go\n"}));
    std::thread::scope(|scope| {
        for stream in streams {
            scope.spawn(move || sum_all(stream));
        }
    });
    begun.elapsed().as_secs_f64()
}
