//! The numbers Kairo promises, each beside its baseline in one run.
//!
//! `cargo bench --bench bars` runs all of them, `cargo bench --bench bars -- rpc spawn` some. A contender and its
//! baselines take turns, seven rounds or more, and what is compared is the median of the ratios of a round: the
//! absolute figures belong to the machine, the ratios travel. CPU is that of the daemon, its worker threads, the
//! kernel's workers on its behalf and the keeper; the clients and writers are not counted. Results are printed
//! and written to `bench-results/NAME.json` in the target folder.
//!
//! The program starts itself again in other roles (`--role writer …`): see `support::roles`.

#![forbid(unsafe_code)]

mod bus;
mod contained;
mod decisions;
mod durable;
mod events;
mod framed;
mod idle;
mod idle_streams;
mod intents;
mod limits;
mod lines;
mod log;
mod past;
mod pty;
mod rpc;
mod shared;
mod slow_client;
mod spawn;
mod spool;
mod support;
mod survive;

use support::report::Report;

/// One bench.
struct Bench {
    name: &'static str,
    what: &'static str,
    run: fn(&mut Report),
}

const fn bench(name: &'static str, what: &'static str, run: fn(&mut Report)) -> Bench {
    Bench { name, what, run }
}

const BENCHES: &[Bench] = &[
    bench("framed", "one stream to one subscriber in frames", framed::run),
    bench("shared", "one stream in a shared ring, to one reader and to many", shared::run),
    bench("rpc", "calls, one after the other and 64 deep", rpc::run),
    bench("spawn", "spawn to exit, 8 in flight", spawn::run),
    bench("contained", "contained children, spawn to exit, 8 in flight", contained::run),
    bench("decisions", "whether somebody may, among 10,000 grants", decisions::run),
    bench("durable", "spawns with and without a record the disk has", durable::run),
    bench("lines", "whole lines against chunks", lines::run),
    bench("limits", "20 MiB/s for ten seconds", limits::run),
    bench("pty", "draining a terminal", pty::run),
    bench("spool", "output to disk, and back", spool::run),
    bench("slow_client", "2 GB to a client that dawdles", slow_client::run),
    bench("survive", "a kernel is killed and followed by another", survive::run),
    bench("log", "events appended and read, and many of them opened", log::run),
    bench("events", "300 bytes each, into the log and to a subscriber", events::run),
    bench("publishers", "64 of them, each waiting for the disk", events::publishers),
    bench("replay", "200,000 events to a client", past::replay),
    bench("patterns", "10,000 of which 10 match", bus::patterns),
    bench("delivery", "from a publisher to a subscriber", bus::delivery),
    bench("intents", "200 processes in 20 intents are cancelled", intents::run),
    bench("large_log", "a daemon over many events", past::large),
    bench("idle_streams", "1,000 streams on which nothing happens", idle_streams::run),
    bench("idle", "a daemon with nothing to do", idle::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--role") {
        return support::roles::play(&arguments[1..]);
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for name in &wanted {
        assert!(BENCHES.iter().any(|bench| bench.name == *name), "there is no bench called {name}");
    }
    let mut missed = 0;
    for Bench { name, what, run } in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let mut report = Report::new(name, what);
            run(&mut report);
            missed += report.finish();
        }
    }
    println!("{missed} of the bars missed");
}
