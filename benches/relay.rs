//! What goes from a child to its readers without being looked at, beside a direct pipe.
//!
//! All pipes are of 1 MiB, all writes of 64 KiB. A round's time runs from the first byte a reader has to the last, so that
//! starting programs, which a direct pipe does too, isn't counted. CPU is that of the kernel and its keeper.

use crate::framed::pipe;
use crate::support::daemon::{Daemon, cpu_of};
use crate::support::flow::{BUFFER_BYTES, Flow, Seen};
use crate::support::processes;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use kairo_client::Client;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::open::{Framing, OpenParams, Transport};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Bytes of a round with one reader.
const TOTAL: u64 = 4 << 30;
/// Bytes of a round with many.
const TOTAL_MANY: u64 = 1 << 30;
/// Readers at once.
const READERS: usize = 16;

/// Rate in GB/s of what readers have together, and CPU, s/GB of what the child wrote.
#[derive(Default)]
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

impl Figures {
    fn note(&mut self, written: u64, read: u64, seconds: f64, cpu: f64) {
        self.rate.push(read as f64 / 1e9 / seconds);
        self.cpu.push(cpu / (written as f64 / 1e9));
    }
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let [mut direct, mut embedded, mut large, mut own, mut v1, mut one, mut fifo, mut many] =
        [(); 8].map(|()| Figures::default());
    for round in 0..ROUNDS {
        direct_pipe(&mut direct);
        run_embedded(&mut embedded);
        framed(&daemon, &mut large, &format!("large-{round}"), Flow::modern(&daemon.socket));
        let plain = Flow::connect(&daemon.socket, json!({"features": ["records"]}));
        framed(&daemon, &mut v1, &format!("small-{round}"), plain);
        framed_apart(&daemon, &mut own, &format!("own-{round}"));
        opened(&daemon, &mut one, &format!("one-{round}"), [Transport::Pipe; 1], TOTAL);
        opened(&daemon, &mut fifo, &format!("fifo-{round}"), [Transport::Fifo; 1], TOTAL);
        opened(&daemon, &mut many, &format!("many-{round}"), [Transport::Pipe; READERS], TOTAL_MANY);
    }
    report.row("direct pipe", "GB/s", &direct.rate, Bar::None);
    let mut contender = |what: &str, figures: &Figures, least: f64, most: f64| {
        report.row(what, "GB/s", &figures.rate, Bar::None);
        report.ratio("  beside the direct pipe", &figures.rate, &direct.rate, Bar::AtLeast(least));
        report.row("  CPU", "s/GB", &figures.cpu, Bar::AtMost(most));
    };
    contender("kairo run, to a pipe", &embedded, 0.97, 0.09);
    contender("a daemon, to a pipe", &one, 0.90, 0.13);
    contender("a daemon, to a fifo", &fifo, 0.90, 0.13);
    contender("in frames of up to 1 MiB", &large, 0.93, 0.11);
    contender("in such frames on a socket of its own", &own, 0.93, 0.11);
    contender("in frames of up to 65,535 bytes", &v1, 0.85, 0.14);
    contender("a daemon, to 16 pipes, together", &many, 5.0, 0.20);
}

/// Reads `total` bytes: since when there were some, and until when.
fn drain(mut from: impl Read, total: u64) -> (Instant, Instant) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut begun, mut bytes) = (None, 0);
    while bytes < total {
        let got = from.read(&mut buffer).expect("it can be read");
        assert!(got > 0, "it ends after {bytes} of {total} bytes");
        begun.get_or_insert_with(Instant::now);
        bytes += got as u64;
    }
    (begun.unwrap_or_else(Instant::now), Instant::now())
}

fn direct_pipe(figures: &mut Figures) {
    let (reader, writer) = pipe();
    let mut command = roles::command("writer", &[&TOTAL.to_string()]);
    let mut child = command.stdout(writer).spawn().expect("the writer starts");
    drop(command);
    let (begun, ended) = drain(reader, TOTAL);
    figures.note(TOTAL, TOTAL, (ended - begun).as_secs_f64(), 0.0);
    child.wait().expect("it is our child");
}

fn run_embedded(figures: &mut Figures) {
    let (reader, writer) = pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairo"));
    command.args(["run", "--"]).args(roles::argv("writer", &[&TOTAL.to_string()]));
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null()).stdout(writer);
    let mut child = command.spawn().expect("kairo starts");
    drop(command);
    let (begun, ended) = drain(reader, TOTAL);
    let pid = child.id() as i32;
    // Its keeper is its only child; the writer is the keeper's.
    let keeper = processes::descendants(pid).first().map_or(0.0, |keeper| cpu_of(keeper.pid));
    let cpu = cpu_of(pid) + keeper;
    figures.note(TOTAL, TOTAL, (ended - begun).as_secs_f64(), cpu);
    assert!(child.wait().expect("it is our child").success());
}

fn options() -> Json {
    json!({"pipeBytes": PIPE_BYTES, "history": "none", "whenUnread": "block"})
}

fn framed(daemon: &Daemon, figures: &mut Figures, id: &str, mut flow: Flow) {
    let argv = roles::argv("writer", &[&TOTAL.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let cpu = daemon.cpu();
    flow.start(id, &argv, json!({"stream": "stdout"}), options());
    let seconds = read_frames(flow);
    figures.note(TOTAL, TOTAL, seconds, daemon.cpu() - cpu);
}

/// The same, on a socket that nothing else goes by.
fn framed_apart(daemon: &Daemon, figures: &mut Figures, id: &str) {
    let client = Client::connect(&daemon.socket).expect("the daemon accepts connections");
    let mut flow = Flow::modern(&daemon.socket);
    begin_at_a_word(&mut flow, id, TOTAL);
    let framing = Some(Framing::Frames);
    let params = OpenParams { framing, ..OpenParams::of(process(id), Transport::Socket) };
    let socket = client.open(&params).expect("it opens").descriptors.pop().expect("a descriptor");
    let cpu = daemon.cpu();
    flow.call("process.stdin.write", json!({"id": id, "data": "go\n"}));
    let seconds = read_frames(Flow::over(socket.into()));
    figures.note(TOTAL, TOTAL, seconds, daemon.cpu() - cpu);
}

/// Reads all of a stream in frames: how long it took, seconds.
fn read_frames(mut flow: Flow) -> f64 {
    let (mut begun, mut bytes) = (None, 0);
    while bytes < TOTAL {
        if let Seen::Chunk(length) = flow.next(|_| {}) {
            begun.get_or_insert_with(Instant::now);
            bytes += length as u64;
        }
    }
    begun.expect("something came").elapsed().as_secs_f64()
}

fn process(id: &str) -> ProcessId {
    ProcessId::from_text(id).expect("a short id")
}

/// Starts a writer that waits for a line, so that all readers are there from its first byte on.
fn begin_at_a_word(flow: &mut Flow, id: &str, total: u64) {
    let argv = roles::argv("writer", &[&total.to_string()]);
    let argv: Vec<&str> = ["sh", "-c", "read x; exec \"$@\"", "sh"]
        .into_iter()
        .chain(argv.iter().map(String::as_str))
        .collect();
    flow.call("process.spawn", json!({"id": id, "command": argv, "options": options()}));
}

/// Readers that have pipes of their own, all from the first byte on.
fn opened<const READERS: usize>(
    daemon: &Daemon,
    figures: &mut Figures,
    id: &str,
    transports: [Transport; READERS],
    total: u64,
) {
    let client = Client::connect(&daemon.socket).expect("the daemon accepts connections");
    let mut flow = Flow::modern(&daemon.socket);
    begin_at_a_word(&mut flow, id, total);
    let open = |transport| {
        let pipe_bytes = Some(PIPE_BYTES as u32);
        let params = OpenParams { pipe_bytes, ..OpenParams::of(process(id), transport) };
        if transport == Transport::Fifo {
            let (_, path) = client.open_fifo(&params).expect("it opens");
            return File::open(path).expect("a fifo");
        }
        File::from(client.open(&params).expect("it opens").descriptors.pop().expect("a descriptor"))
    };
    let files = transports.map(open);
    let cpu = daemon.cpu();
    flow.call("process.stdin.write", json!({"id": id, "data": "go\n"}));
    let threads = files.map(|file| std::thread::spawn(move || drain(file, total)));
    let times = threads.map(|thread| thread.join().expect("it reads"));
    let begun = times.iter().map(|(begun, _)| *begun).min().expect("there are readers");
    let ended = times.iter().map(|(_, ended)| *ended).max().expect("there are readers");
    let read = total * READERS as u64;
    figures.note(total, read, (ended - begun).as_secs_f64(), daemon.cpu() - cpu);
}
