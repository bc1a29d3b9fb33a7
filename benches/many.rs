//! A thousand streams of 1 MB/s each to a thousand readers, beside a tokio program that does the same.
//!
//! Each stream is the stdout of a child that sleeps; one thread of ours writes to all of these pipes, evenly over time, so
//! that no contender pays for a thousand writers that wake. Each reader is a pipe of its own, emptied by one thread. All
//! contenders are set up at once, and take turns being written to: whoever isn't sleeps.

use crate::support::daemon::{Daemon, cpu_of};
use crate::support::raw::Raw;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles;
use kairo_client::Client;
use kairo_wire::methods::open::{OpenParams, Transport};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::{Timespec, epoll};
use rustix::io::ioctl_fionread;
use serde_json::{Value as Json, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::unix::pipe::{Receiver, Sender};

const STREAMS: usize = 1_000;
const BYTES_PER_SECOND: u64 = 1_000_000;
/// How long all streams of one contender are written to.
const POURED_FOR: Duration = Duration::from_millis(1_500);
/// What is in the pipes then is through long before this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of every pipe.
const PIPE_BYTES: u32 = 256 << 10;
/// Write sizes, and the bars beside tokio's copying program.
const SIZES: [(usize, f64); 2] = [(64 << 10, 0.35), (4 << 10, 0.6)];

pub(crate) fn run(report: &mut Report) {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("a soft limit may be raised to the hard one");
    let mut contenders = [
        Contender::daemon("uring", STREAMS),
        Contender::daemon("poll", STREAMS),
        Contender::tokio("copy", STREAMS),
        Contender::tokio("splice", STREAMS),
    ];
    for (write_bytes, bar) in SIZES {
        let mut costs: [Vec<f64>; 4] = Default::default();
        let mut rates: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            for (nth, contender) in contenders.iter_mut().enumerate() {
                let (cost, rate) = contender.pour(write_bytes, STREAMS);
                costs[nth].push(cost);
                rates[nth].push(rate);
            }
        }
        let [uring, poll, copying, splicing] = &costs;
        let size = write_bytes >> 10;
        for ((who, rates), costs) in
            ["io_uring", "poll", "tokio", "tokio, splice"].iter().zip(&rates).zip(&costs)
        {
            report.row(&format!("{size} KiB writes, {who}: rate of all"), "GB/s", rates, Bar::None);
            report.row(&format!("{size} KiB writes, {who}: CPU"), "s/GB", costs, Bar::None);
        }
        report.ratio(&format!("{size} KiB writes: CPU beside tokio"), uring, copying, Bar::AtMost(bar));
        report.ratio(&format!("{size} KiB writes: CPU beside tokio with splice"), uring, splicing, Bar::None);
        report.ratio(
            &format!("{size} KiB writes: CPU of io_uring beside poll"),
            uring,
            poll,
            Bar::AtMost(1.1),
        );
    }
}

/// The same with fewer streams: CPU of the kernel and of tokio's copying program, for a line over their number.
pub(crate) fn lines(report: &mut Report) {
    let (write_bytes, _) = SIZES[0];
    for streams in [1, 10, 100, STREAMS] {
        let mut pair = [Contender::daemon("uring", streams), Contender::tokio("copy", streams)];
        let mut costs: [Vec<f64>; 2] = Default::default();
        for _ in 0..ROUNDS {
            for (nth, contender) in pair.iter_mut().enumerate() {
                costs[nth].push(contender.pour(write_bytes, streams).0);
            }
        }
        report.point(
            &format!("{streams} streams of 1 MB/s, kairo: CPU"),
            "s/GB",
            ("kairo", streams),
            &costs[0],
        );
        report.point(
            &format!("{streams} streams of 1 MB/s, tokio: CPU"),
            "s/GB",
            ("tokio", streams),
            &costs[1],
        );
    }
}

/// Whoever stands between the pipes and the sockets.
struct Contender {
    writers: Vec<File>,
    sink: Sink,
    relay: Relay,
}

enum Relay {
    Kairo(Daemon, #[expect(dead_code, reason = "it is there, that is all")] Client),
    Tokio { child: Child, control: Option<UnixStream>, how: &'static str },
}

impl Relay {
    fn name(&self) -> &'static str {
        match self {
            Relay::Kairo(..) => "kairo",
            Relay::Tokio { how, .. } => how,
        }
    }
}

impl Contender {
    fn daemon(driver: &str, streams: usize) -> Contender {
        let daemon = Daemon::start(&["--driver", driver]);
        let mut raw = daemon.connect();
        let options = cheapest(&mut raw);
        let client = Client::connect(&daemon.socket).expect("it connects");
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for number in 0..streams {
            let id = format!("stream-{number}");
            let params = json!({"id": id, "command": ["sleep", "1000"], "options": options});
            raw.ok("process.spawn", params);
            let pid = raw.ok("process.status", json!({"id": id}))["pid"].clone();
            writers.push(writer(pid.as_i64().expect("it runs")));
            readers.push(opened(&client, &id));
        }
        // The readers end with the client.
        Contender { writers, sink: Sink::start(readers), relay: Relay::Kairo(daemon, client) }
    }

    fn tokio(how: &'static str, streams: usize) -> Contender {
        let (control, theirs) = UnixStream::pair().expect("a pair of sockets");
        let count = streams.to_string();
        let mut command = roles::command("tokio-many", &[&count, how]);
        let stdin = Stdio::from(OwnedFd::from(theirs));
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout is piped"));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..streams {
            let mut line = String::new();
            lines.read_line(&mut line).expect("its stdout is text");
            let (pid, number) = line.trim().split_once(' ').expect("a pid and a descriptor");
            writers.push(writer(pid.parse().expect("a pid")));
            let reader = File::open(format!("/proc/{}/fd/{number}", child.id()));
            readers.push(reader.expect("it holds a reader's end"));
        }
        let relay = Relay::Tokio { child, control: Some(control), how };
        Contender { writers, sink: Sink::start(readers), relay }
    }

    fn cpu(&self) -> f64 {
        match &self.relay {
            Relay::Kairo(daemon, _) => daemon.cpu(),
            Relay::Tokio { child, .. } => cpu_of(child.id() as i32),
        }
    }

    /// Writes to all streams for a while: CPU s/GB, and GB/s that went through.
    fn pour(&mut self, write_bytes: usize, streams: usize) -> (f64, f64) {
        let (before, cpu) = (self.sink.bytes(), self.cpu());
        let written = pour(&mut self.writers, write_bytes, streams);
        let (until, mut through) = (Instant::now() + PATIENCE, 0);
        while through < written {
            assert!(
                Instant::now() < until,
                "{}: {through} of {written} bytes came through",
                self.relay.name()
            );
            std::thread::sleep(Duration::from_millis(1));
            through = self.sink.bytes() - before;
        }
        let cpu = self.cpu() - cpu;
        (cpu / (written as f64 / 1e9), written as f64 / 1e9 / POURED_FOR.as_secs_f64())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Relay::Tokio { child, control, .. } = &mut self.relay {
            // It ends, and its children with it, when this does.
            drop(control.take());
            let _ = child.wait();
        }
    }
}

/// Options of a stream that keeps as little as can be had.
fn cheapest(raw: &mut Raw) -> Json {
    let none = json!({"stdin": "null", "stderr": "stdout", "history": "none", "pipeBytes": PIPE_BYTES});
    let tried = raw.call("process.spawn", json!({"id": "probe", "command": ["true"], "options": none}));
    if tried.is_ok() {
        return none;
    }
    json!({"stdin": "null", "stderr": "stdout", "history": {"headBytes": 0, "tailBytes": 4_096},
        "pipeBytes": PIPE_BYTES})
}

/// The other end of what a child that sleeps has as its stdout.
fn writer(pid: i64) -> File {
    let path = format!("/proc/{pid}/fd/1");
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits());
    // It has its descriptors once it has executed.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match options.open(&path) {
            Ok(file) => return file,
            Err(error) => assert!(Instant::now() < until, "{path}: {error}"),
        }
    }
}

/// A pipe that one stream is read from.
fn opened(client: &Client, id: &str) -> File {
    let mut params: OpenParams = serde_json::from_value(json!({"id": id})).expect("an id is enough");
    params.transport = Transport::Pipe;
    params.pipe_bytes = Some(PIPE_BYTES);
    let mut opened = client.open(&params).expect("it opens");
    File::from(opened.descriptors.pop().expect("a pipe comes with it"))
}

/// Writes to all in turn, each at its rate; returns bytes.
fn pour(writers: &mut [File], write_bytes: usize, streams: usize) -> u64 {
    let block = vec![b'x'; write_bytes];
    let pause = Duration::from_secs_f64(write_bytes as f64 / (BYTES_PER_SECOND * streams as u64) as f64);
    let (begun, mut nth, mut bytes) = (Instant::now(), 0_u32, 0);
    while begun.elapsed() < POURED_FOR {
        while begun + pause * nth <= Instant::now() && begun.elapsed() < POURED_FOR {
            // A pipe that is full is one whose relay is behind; that shows in the rate.
            match writers[nth as usize % streams].write(&block) {
                Ok(written) => bytes += written as u64,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            nth += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bytes
}

/// One thread that empties all readers' pipes.
struct Sink {
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(readers: Vec<File>) -> Sink {
        let (bytes, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&bytes), Arc::clone(&over));
        let thread = std::thread::spawn(move || empty(&readers, &count, &stop));
        Sink { bytes, over, thread: Some(thread) }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn empty(readers: &[File], count: &AtomicU64, over: &AtomicBool) {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (nth, reader) in readers.iter().enumerate() {
        rustix::io::ioctl_fionbio(reader, true).expect("a pipe can be non-blocking");
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&ready, reader, data, epoll::EventFlags::IN).expect("it is watched");
    }
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(256);
    let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !over.load(Ordering::Relaxed) {
        events.clear();
        epoll::wait(&ready, rustix::buffer::spare_capacity(&mut events), Some(&tick)).expect("it waits");
        for event in &events {
            let nth = event.data.u64() as usize;
            match (&readers[nth]).read(&mut buffer) {
                // Whoever is gone is read no more.
                Ok(0) => epoll::delete(&ready, &readers[nth]).expect("it was watched"),
                Ok(got) => drop(count.fetch_add(got as u64, Ordering::Relaxed)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}

/// The tokio program: `streams` children that sleep, each one's stdout to a pipe of its own. Tells each child's pid and the
/// number of the pipe's other end, and ends when its stdin does.
pub(crate) fn play(streams: usize, splices: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        use tokio::io::AsyncReadExt;
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin can be duplicated");
        let control = UnixStream::from(stdin);
        control.set_nonblocking(true).expect("a socket can be non-blocking");
        let mut control = tokio::net::UnixStream::from_std(control).expect("a socket joins the runtime");
        let mut kept = Vec::new();
        for _ in 0..streams {
            let mut command = tokio::process::Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn().expect("it starts");
            let stdout = child.stdout.take().expect("its stdout is piped").into_owned_fd().expect("a pipe");
            let (reader, writer) = std::io::pipe().expect("a pipe");
            for pipe in [stdout.as_fd(), writer.as_fd()] {
                fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32)).expect("a pipe of that size");
            }
            println!("{} {}", child.id().expect("it runs"), reader.as_raw_fd());
            kept.push((child, reader));
            let from = Receiver::from_owned_fd(stdout).expect("a pipe joins the runtime");
            let to = Sender::from_owned_fd(writer.into()).expect("a pipe joins the runtime");
            match splices {
                false => drop(tokio::spawn(copy(from, to))),
                true => drop(tokio::spawn(splice(from, to))),
            }
        }
        // An end and an error mean the same: the bench is done.
        let _ = control.read_u8().await;
    });
}

async fn copy(mut from: Receiver, mut to: Sender) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..got]).await.is_err() {
            return;
        }
    }
}

async fn splice(from: Receiver, to: Sender) {
    use rustix::pipe::SpliceFlags;
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let move_on =
        || Ok::<usize, std::io::Error>(rustix::pipe::splice(&from, None, &to, None, 1 << 20, flags)?);
    while from.readable().await.is_ok() && to.writable().await.is_ok() {
        // Which of the two would block isn't told: it is the other one exactly when there is something in this.
        let moved = from.try_io(|| match move_on() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && ioctl_fionread(&from)? > 0 => Ok(None),
            moved => moved.map(Some),
        });
        let moved = match moved {
            Ok(None) => to.try_io(move_on).map(Some),
            moved => moved,
        };
        match moved {
            Ok(Some(0)) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
