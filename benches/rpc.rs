//! Calls one after the other, and 64 at a time, beside a bare echo of the same sizes at the same placement.
//!
//! The daemon has one reactor on core 0; the client sits on the same core or on the other one, and so do the
//! client and the server of the bare ping-pong.

use crate::support::daemon::Daemon;
use crate::support::raw::{RESPONSE, request_bytes, value};
use crate::support::report::{Bar, ROUNDS, Report, median};
use crate::support::{pin, roles, unpin};
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Instant;

const SEQUENTIAL: usize = 20_000;
const DEEP: usize = 64;
const BATCHES: usize = 3_000;

/// A way to ask and be answered.
struct Wire {
    socket: UnixStream,
    request: Vec<u8>,
    reply_bytes: usize,
    /// The echo server, if it is one of ours.
    server: Option<Child>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = self.socket.shutdown(Shutdown::Both);
            let _ = server.wait();
        }
    }
}

pub(crate) fn run(report: &mut Report) {
    pin(&[0]);
    let daemon = Daemon::start(&["--cores", "1"]);
    unpin();
    let mut raw = daemon.connect();
    let sleeper = json!({"id": "sleeper", "command": ["sleep", "1000"]});
    raw.ok("process.spawn", sleeper);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (placement, core, deep_bar) in
        [("client on the reactor's core", 0, 0.3), ("client on another core", 1, 0.4)]
    {
        if core >= cores {
            println!("  skipped, there is one core: {placement}");
            continue;
        }
        let mut kairo = connect(&daemon);
        let mut bare = bare(&kairo);
        let (mut figures, mut baselines) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..ROUNDS {
            pin(&[core]);
            baselines[0].push(bare.sequential());
            figures[0].push(kairo.sequential());
            baselines[1].push(bare.deep());
            figures[1].push(kairo.deep());
            unpin();
        }
        println!("  {placement}:");
        report.row("bare ping-pong, p50", "us", &baselines[0], Bar::None);
        report.row("process.status, p50", "us", &figures[0], Bar::None);
        report.ratio("  beside the bare ping-pong", &figures[0], &baselines[0], Bar::AtMost(1.25));
        report.row("bare ping-pong, 64 deep", "k/s", &baselines[1], Bar::None);
        report.row("process.status, 64 deep", "k/s", &figures[1], Bar::None);
        report.ratio("  beside the bare ping-pong", &figures[1], &baselines[1], Bar::AtLeast(deep_bar));
    }
}

/// A call of the kernel's; its answer must be what it should.
fn connect(daemon: &Daemon) -> Wire {
    let socket = UnixStream::connect(&daemon.socket).expect("the daemon accepts connections");
    // An id of one width, so that all requests and all replies have one length.
    let request = request_bytes(100, "process.status", value(&json!({"id": "sleeper"})));
    let mut wire = Wire { socket, request, reply_bytes: 0, server: None };
    wire.socket.write_all(&wire.request).expect("the daemon reads");
    let mut header = [0; 8];
    wire.socket.read_exact(&mut header).expect("the daemon answers");
    assert_eq!(header[3], RESPONSE);
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    let mut payload = vec![0; length];
    wire.socket.read_exact(&mut payload).expect("the daemon answers");
    assert!(payload.windows(7).any(|window| window == b"running"), "the sleeper sleeps");
    wire.reply_bytes = 8 + length;
    wire
}

/// A server that does nothing but answer, with messages as long as the kernel's, on the kernel's core.
fn bare(like: &Wire) -> Wire {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let sizes = [like.request.len().to_string(), like.reply_bytes.to_string()];
    let stdin = Stdio::from(std::os::fd::OwnedFd::from(theirs));
    pin(&[0]);
    let server =
        roles::command("pong", &[&sizes[0], &sizes[1]]).stdin(stdin).spawn().expect("the server starts");
    unpin();
    Wire { socket: ours, request: like.request.clone(), reply_bytes: like.reply_bytes, server: Some(server) }
}

impl Wire {
    /// The median of one call, microseconds.
    fn sequential(&mut self) -> f64 {
        let mut reply = vec![0; self.reply_bytes];
        let mut times = Vec::with_capacity(SEQUENTIAL);
        for _ in 0..SEQUENTIAL {
            let begun = Instant::now();
            self.socket.write_all(&self.request).expect("the server reads");
            self.socket.read_exact(&mut reply).expect("the server answers");
            times.push(begun.elapsed().as_nanos() as f64 / 1e3);
        }
        median(&times)
    }

    /// Thousands of calls a second, 64 in a write, and the next 64 when all are answered.
    fn deep(&mut self) -> f64 {
        let requests = self.request.repeat(DEEP);
        let mut replies = vec![0; self.reply_bytes * DEEP];
        let begun = Instant::now();
        for _ in 0..BATCHES {
            self.socket.write_all(&requests).expect("the server reads");
            self.socket.read_exact(&mut replies).expect("the server answers");
        }
        (BATCHES * DEEP) as f64 / begun.elapsed().as_secs_f64() / 1e3
    }
}
