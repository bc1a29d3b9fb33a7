//! One child's output to one subscriber in frames, beside a direct pipe, a pipe through `cat`, and a tokio program.

use crate::support::daemon::{Daemon, cpu_of};
use crate::support::flow::{BUFFER_BYTES, Flow, Seen};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles::{self, PIPE_BYTES};
use nix::fcntl::{FcntlArg, fcntl};
use serde_json::json;
use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Instant;

/// Bytes of a round.
const TOTAL: u64 = 4 << 30;

/// Rate in GB/s and CPU of what stands between writer and reader, s/GB.
struct Figures {
    rate: Vec<f64>,
    cpu: Vec<f64>,
}

impl Figures {
    fn new() -> Figures {
        Figures { rate: Vec::new(), cpu: Vec::new() }
    }

    fn note(&mut self, seconds: f64, cpu: f64) {
        let gigabytes = TOTAL as f64 / 1e9;
        self.rate.push(gigabytes / seconds);
        self.cpu.push(cpu / gigabytes);
    }
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut direct, mut cat, mut tokio) = (Figures::new(), Figures::new(), Figures::new());
    let (mut kairo, mut v1, mut timed) = (Figures::new(), Figures::new(), Figures::new());
    for round in 0..ROUNDS {
        direct_pipe(&mut direct);
        framed(&daemon, &mut kairo, &format!("large-{round}"), Flow::modern(&daemon.socket));
        through_cat(&mut cat);
        framed(&daemon, &mut timed, &format!("timed-{round}"), Flow::timed(&daemon.socket));
        let plain = Flow::connect(&daemon.socket, json!({"features": ["records"]}));
        framed(&daemon, &mut v1, &format!("small-{round}"), plain);
        tokio_program(&mut tokio);
    }
    report.row("direct pipe", "GB/s", &direct.rate, Bar::None);
    report.row("kairo, chunks of up to 1 MiB", "GB/s", &kairo.rate, Bar::None);
    report.ratio("  beside the direct pipe", &kairo.rate, &direct.rate, Bar::AtLeast(0.55));
    report.row("  CPU", "s/GB", &kairo.cpu, Bar::AtMost(0.30));
    report.row("kairo, chunks of up to 65,535 bytes", "GB/s", &v1.rate, Bar::None);
    report.ratio("  beside the direct pipe", &v1.rate, &direct.rate, Bar::None);
    report.row("  CPU", "s/GB", &v1.cpu, Bar::None);
    report.row("kairo, large chunks with the time of each read", "GB/s", &timed.rate, Bar::None);
    report.ratio("  beside those without", &timed.rate, &kairo.rate, Bar::None);
    report.row("  CPU", "s/GB", &timed.cpu, Bar::None);
    report.row("through cat", "GB/s", &cat.rate, Bar::None);
    report.ratio("  beside the direct pipe", &cat.rate, &direct.rate, Bar::None);
    report.row("  CPU", "s/GB", &cat.cpu, Bar::None);
    report.row("a tokio program, framed", "GB/s", &tokio.rate, Bar::None);
    report.ratio("  beside the direct pipe", &tokio.rate, &direct.rate, Bar::None);
    report.row("  CPU", "s/GB", &tokio.cpu, Bar::None);
}

/// A pipe of the size all of them have.
pub(crate) fn pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).expect("a pipe of 1 MiB");
    (reader, writer)
}

/// Reads to the end; how many bytes.
pub(crate) fn drain(mut reader: PipeReader) -> u64 {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        match reader.read(&mut buffer).expect("a pipe is readable") {
            0 => return bytes,
            got => bytes += got as u64,
        }
    }
}

fn reap(mut child: Child) {
    child.wait().expect("it is our child");
}

fn direct_pipe(figures: &mut Figures) {
    let (reader, writer) = pipe();
    let begun = Instant::now();
    let child =
        roles::command("writer", &[&TOTAL.to_string()]).stdout(writer).spawn().expect("the writer starts");
    assert_eq!(drain(reader), TOTAL);
    figures.note(begun.elapsed().as_secs_f64(), 0.0);
    reap(child);
}

fn through_cat(figures: &mut Figures) {
    let ((first, into_first), (second, into_second)) = (pipe(), pipe());
    let begun = Instant::now();
    let child =
        roles::command("writer", &[&TOTAL.to_string()]).stdout(into_first).spawn().expect("it starts");
    let cat = std::process::Command::new("cat").stdin(first).stdout(into_second).spawn().expect("cat starts");
    assert_eq!(drain(second), TOTAL);
    let seconds = begun.elapsed().as_secs_f64();
    figures.note(seconds, cpu_of(cat.id() as i32));
    reap(child);
    reap(cat);
}

fn framed(daemon: &Daemon, figures: &mut Figures, id: &str, mut flow: Flow) {
    let argv = roles::argv("writer", &[&TOTAL.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let (begun, cpu) = (Instant::now(), daemon.cpu());
    flow.start(id, &argv, json!({"stream": "stdout"}), json!({"pipeBytes": PIPE_BYTES}));
    let (bytes, _) = flow.drain(|_| {});
    assert_eq!(bytes, TOTAL);
    figures.note(begun.elapsed().as_secs_f64(), daemon.cpu() - cpu);
}

fn tokio_program(figures: &mut Figures) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let begun = Instant::now();
    let stdin = Stdio::from(std::os::fd::OwnedFd::from(theirs));
    let null = File::open("/dev/null").expect("there is a null device");
    let relay =
        roles::command("tokio", &[&TOTAL.to_string()]).stdin(stdin).stdout(null).spawn().expect("it starts");
    let mut flow = Flow::over(ours);
    let mut bytes = 0;
    while bytes < TOTAL {
        match flow.next(|_| {}) {
            Seen::Chunk(length) => bytes += length as u64,
            Seen::Other(frame) => panic!("not a chunk: {frame:?}"),
        }
    }
    figures.note(begun.elapsed().as_secs_f64(), cpu_of(relay.id() as i32));
    reap(relay);
}
