//! How long it takes from a child's write to a reader that wakes, when nothing else happens: directly, through `pv`, and
//! through the kernel.

use crate::framed::pipe;
use crate::support::daemon::Daemon;
use crate::support::flow::{Flow, Seen};
use crate::support::monotonic;
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles;
use kairo_client::Client;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::process::Spawn;
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Writes of a round.
const WRITES: usize = 400;
/// A time of the clock.
const WRITE_BYTES: usize = 8;

/// Percentiles of each round, microseconds.
#[derive(Default)]
struct Waits {
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Waits {
    fn note(&mut self, mut waits: Vec<f64>) {
        // What is first isn't warm.
        waits.drain(..WRITES / 10);
        waits.sort_by(f64::total_cmp);
        self.p50.push(waits[waits.len() / 2]);
        self.p99.push(waits[waits.len() * 99 / 100]);
    }
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let beside = if Command::new("pv").arg("--version").stdout(Stdio::null()).status().is_ok() {
        "pv"
    } else {
        "a relay of ours (there is no pv here)"
    };
    let client = Client::connect(&daemon.socket).expect("it connects");
    let (mut direct, mut between) = (Waits::default(), Waits::default());
    let (mut kairo, mut in_frames) = (Waits::default(), Waits::default());
    for round in 0..ROUNDS {
        direct.note(directly());
        between.note(through(beside == "pv"));
        kairo.note(piped(&client, round));
        in_frames.note(framed(&daemon, round));
    }
    for (name, at) in [("p50", (|waits| &waits.p50) as fn(&Waits) -> &Vec<f64>), ("p99", |waits| &waits.p99)]
    {
        report.row(&format!("{name}, direct pipe"), "us", at(&direct), Bar::None);
        report.row(&format!("{name}, through {beside}"), "us", at(&between), Bar::None);
        report.row(&format!("{name}, kairo, to a pipe"), "us", at(&kairo), Bar::None);
        report.row(&format!("{name}, kairo, in frames"), "us", at(&in_frames), Bar::None);
        let added = |waits: &Waits| -> Vec<f64> {
            at(waits).iter().zip(at(&direct)).map(|(whole, direct)| (whole - direct).max(0.1)).collect()
        };
        let what = format!("  {name}: what kairo adds to a pipe, beside what {beside} adds");
        report.ratio(&what, &added(&kairo), &added(&between), Bar::AtMost(1.3));
        let what = format!("  {name}: what kairo adds in frames, beside what {beside} adds");
        report.ratio(&what, &added(&in_frames), &added(&between), Bar::None);
    }
}

fn writer() -> Command {
    roles::command("ticker", &[&WRITES.to_string()])
}

/// Microseconds since the time that was written.
fn since(written: &[u8]) -> f64 {
    let now = monotonic();
    let then = u64::from_ne_bytes(written.try_into().expect("a time is eight bytes"));
    (now.as_nanos() as f64 - then as f64) / 1e3
}

fn read_all(mut reader: impl Read) -> Vec<f64> {
    let mut time = [0; WRITE_BYTES];
    (0..WRITES).map(|_| reader.read_exact(&mut time).map(|()| since(&time)).expect("it is written")).collect()
}

fn reap(mut child: Child) {
    child.wait().expect("it is our child");
}

fn directly() -> Vec<f64> {
    let (reader, into) = pipe();
    let child = writer().stdout(into).spawn().expect("the writer starts");
    let waits = read_all(reader);
    reap(child);
    waits
}

fn through(pv: bool) -> Vec<f64> {
    let ((first, into_first), (second, into_second)) = (pipe(), pipe());
    let child = writer().stdout(into_first).spawn().expect("the writer starts");
    let mut relay = if pv { Command::new("pv") } else { Command::new("cat") };
    if pv {
        relay.arg("-q");
    }
    let relay = relay.stdin(first).stdout(into_second).spawn().expect("the relay starts");
    let waits = read_all(second);
    reap(child);
    reap(relay);
    waits
}

fn piped(client: &Client, round: usize) -> Vec<f64> {
    let id = format!("ticker-into-a-pipe-{round}");
    let argv = roles::argv("ticker", &[&WRITES.to_string()]);
    let options = json!({"stdin": "null"});
    let spawn = serde_json::from_value(json!({"id": id, "command": argv, "options": options}));
    client.call::<Spawn>(&spawn.expect("a spawn")).expect("it starts");
    let mut params: OpenParams = serde_json::from_value(json!({"id": id})).expect("an id is enough");
    params.transport = Transport::Pipe;
    let mut opened = client.open(&params).expect("it opens");
    read_all(File::from(opened.descriptors.pop().expect("a pipe comes with it")))
}

fn framed(daemon: &Daemon, round: usize) -> Vec<f64> {
    let argv = roles::argv("ticker", &[&WRITES.to_string()]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let mut flow = Flow::modern(&daemon.socket);
    flow.start(&format!("ticker-{round}"), &argv, json!({"stream": "stdout"}), json!({"stdin": "null"}));
    let (mut waits, mut seen) = (Vec::new(), Vec::new());
    while waits.len() < WRITES {
        if let Seen::Chunk(_) = flow.next(|data| seen.extend_from_slice(data)) {
            // A time may come in two pieces: it is there when the second one is.
            let whole = seen.len() - seen.len() % WRITE_BYTES;
            waits.extend(seen[..whole].chunks_exact(WRITE_BYTES).map(since));
            seen.drain(..whole);
        }
    }
    waits
}
