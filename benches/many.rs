//! A thousand streams of 1 MB/s each to a thousand readers, beside a tokio program that does the same.
//!
//! Each stream is the stdout of a child that sleeps; one thread of ours writes to all of these pipes, evenly over time, so
//! that no contender pays for a thousand writers that wake. Each reader is a socket of its own, emptied by one thread. All
//! contenders are set up at once, and take turns being written to: whoever isn't sleeps.

use crate::support::daemon::{Daemon, cpu_of};
use crate::support::raw::{Raw, request_bytes, value};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::{Timespec, epoll};
use serde_json::{Value as Json, json};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const STREAMS: usize = 1_000;
const BYTES_PER_SECOND: u64 = 1_000_000;
/// How long all streams of one contender are written to.
const POURED_FOR: Duration = Duration::from_millis(1_500);
/// What is in the pipes then is through after this.
const SETTLED_AFTER: Duration = Duration::from_millis(200);
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
    Kairo(Daemon),
    Tokio { child: Child, control: Option<UnixStream> },
}

impl Contender {
    fn daemon(driver: &str, streams: usize) -> Contender {
        let daemon = Daemon::start(&["--driver", driver]);
        let mut raw = daemon.connect();
        let options = cheapest(&mut raw);
        let (mut writers, mut sockets) = (Vec::new(), Vec::new());
        for number in 0..streams {
            let id = format!("stream-{number}");
            let params = json!({"id": id, "command": ["sleep", "1000"], "options": options});
            raw.ok("process.spawn", params);
            let pid = raw.ok("process.status", json!({"id": id}))["pid"].clone();
            writers.push(writer(pid.as_i64().expect("it runs")));
            sockets.push(subscribe(&daemon.socket, &id));
        }
        Contender { writers, sink: Sink::start(sockets), relay: Relay::Kairo(daemon) }
    }

    fn tokio(how: &str, streams: usize) -> Contender {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("sink.sock");
        let listener = UnixListener::bind(&path).expect("a socket of ours");
        let (control, theirs) = UnixStream::pair().expect("a pair of sockets");
        let count = streams.to_string();
        let mut command = roles::command("tokio-many", &[&count, &path.display().to_string(), how]);
        let stdin = Stdio::from(OwnedFd::from(theirs));
        let mut child = command.stdin(stdin).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout is piped"));
        let (mut writers, mut sockets) = (Vec::new(), Vec::new());
        for _ in 0..streams {
            sockets.push(listener.accept().expect("it connects").0);
            let mut line = String::new();
            lines.read_line(&mut line).expect("its stdout is text");
            writers.push(writer(line.trim().parse().expect("a pid")));
        }
        let relay = Relay::Tokio { child, control: Some(control) };
        Contender { writers, sink: Sink::start(sockets), relay }
    }

    fn cpu(&self) -> f64 {
        match &self.relay {
            Relay::Kairo(daemon) => daemon.cpu(),
            Relay::Tokio { child, .. } => cpu_of(child.id() as i32),
        }
    }

    /// Writes to all streams for a while: CPU s/GB, and GB/s that went through.
    fn pour(&mut self, write_bytes: usize, streams: usize) -> (f64, f64) {
        let (before, cpu) = (self.sink.bytes(), self.cpu());
        let written = pour(&mut self.writers, write_bytes, streams);
        std::thread::sleep(SETTLED_AFTER);
        let (cpu, through) = (self.cpu() - cpu, self.sink.bytes() - before);
        assert!(through >= written, "{through} of {written} bytes came through");
        (cpu / (written as f64 / 1e9), written as f64 / 1e9 / POURED_FOR.as_secs_f64())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Relay::Tokio { child, control } = &mut self.relay {
            // It ends, and its children with it, when this does.
            drop(control.take());
            let _ = child.wait();
        }
    }
}

/// Options of a stream that keeps as little as can be had.
fn cheapest(raw: &mut Raw) -> Json {
    let none = json!({"stdin": "null", "stderr": "stdout", "history": "none"});
    let tried = raw.call("process.spawn", json!({"id": "probe", "command": ["true"], "options": none}));
    if tried.is_ok() {
        return none;
    }
    json!({"stdin": "null", "stderr": "stdout", "history": {"headBytes": 0, "tailBytes": 4_096}})
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

/// A connection of its own that reads one stream.
fn subscribe(socket: &Path, id: &str) -> UnixStream {
    let mut connection = UnixStream::connect(socket).expect("the daemon accepts connections");
    let hello = json!({"features": ["records", "chunks", "int64"], "chunkBytesMax": 1 << 20});
    let mut bytes = request_bytes(1, "kernel.hello", value(&hello));
    let subscribe = json!({"pid": id, "stream": "stdout"});
    bytes.extend(request_bytes(2, "process.stdout.subscribe", value(&subscribe)));
    connection.write_all(&bytes).expect("the daemon reads");
    connection
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

/// One thread that empties all sockets.
struct Sink {
    bytes: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(sockets: Vec<UnixStream>) -> Sink {
        let (bytes, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&bytes), Arc::clone(&over));
        let thread = std::thread::spawn(move || empty(&sockets, &count, &stop));
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

fn empty(sockets: &[UnixStream], count: &AtomicU64, over: &AtomicBool) {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    for (nth, socket) in sockets.iter().enumerate() {
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&ready, socket, data, epoll::EventFlags::IN).expect("it is watched");
    }
    let mut buffer = vec![0; 256 << 10];
    let mut events = Vec::with_capacity(256);
    let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !over.load(Ordering::Relaxed) {
        events.clear();
        epoll::wait(&ready, rustix::buffer::spare_capacity(&mut events), Some(&tick)).expect("it waits");
        for event in &events {
            let nth = event.data.u64() as usize;
            match (&sockets[nth]).read(&mut buffer) {
                // Whoever is gone is read no more.
                Ok(0) => epoll::delete(&ready, &sockets[nth]).expect("it was watched"),
                Ok(got) => drop(count.fetch_add(got as u64, Ordering::Relaxed)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
}

/// The tokio program: `streams` children that sleep, each one's stdout to a socket of its own. Tells their pids, and ends
/// when its stdin does.
pub(crate) fn play(streams: usize, sink: &str, splices: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        use std::os::fd::AsFd;
        use tokio::io::AsyncReadExt;
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin can be duplicated");
        let control = UnixStream::from(stdin);
        control.set_nonblocking(true).expect("a socket can be non-blocking");
        let mut control = tokio::net::UnixStream::from_std(control).expect("a socket joins the runtime");
        let mut children = Vec::new();
        for _ in 0..streams {
            let mut command = tokio::process::Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn().expect("it starts");
            let stdout = child.stdout.take().expect("its stdout is piped");
            let socket = tokio::net::UnixStream::connect(sink).await.expect("the bench accepts");
            println!("{}", child.id().expect("it runs"));
            children.push(child);
            match splices {
                false => drop(tokio::spawn(copy(stdout, socket))),
                true => drop(tokio::spawn(splice(stdout, socket))),
            }
        }
        // An end and an error mean the same: the bench is done.
        let _ = control.read_u8().await;
    });
}

async fn copy(mut pipe: tokio::process::ChildStdout, mut socket: tokio::net::UnixStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 64 << 10];
    while let Ok(got @ 1..) = pipe.read(&mut buffer).await {
        if socket.write_all(&buffer[..got]).await.is_err() {
            return;
        }
    }
}

async fn splice(pipe: tokio::process::ChildStdout, socket: tokio::net::UnixStream) {
    use rustix::pipe::SpliceFlags;
    let pipe = pipe.into_owned_fd().expect("a pipe has a descriptor");
    let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).expect("a pipe joins the runtime");
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let move_on = || Ok(rustix::pipe::splice(&pipe, None, &socket, None, 1 << 20, flags)?);
    while pipe.readable().await.is_ok() && socket.writable().await.is_ok() {
        // Which of the two would block isn't told: a pipe that is empty is the common case.
        match pipe.try_io(move_on) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
