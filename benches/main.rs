//! The numbers Kairo promises, each beside its baseline in one run.
//!
//! `cargo bench --bench bars` runs all of them, `cargo bench --bench bars -- rpc spawn` some. A contender and its
//! baselines take turns, seven rounds or more, and what is compared is the median of the ratios of a round: the
//! absolute figures belong to the machine, the ratios travel. CPU is that of the daemon, its worker threads, the
//! kernel's workers on its behalf and the keeper; the clients and writers are not counted. Results are printed
//! and written to `bench-results/NAME.json` in the target folder; `cargo bench --bench bars -- --document` renders what
//! is there as `docs/PERFORMANCE.md`.
//!
//! The program starts itself again in other roles (`--role writer …`): see `support::roles`.

#![forbid(unsafe_code)]

mod bus;
mod contained;
mod decisions;
mod durable;
mod events;
mod fanout;
mod framed;
mod idle;
mod idle_streams;
mod intents;
mod limits;
mod lines;
mod log;
mod many;
mod past;
mod pipelines;
mod pty;
mod relay;
mod rpc;
mod shared;
mod slow_client;
mod spawn;
mod spool;
mod stopped;
mod support;
mod survive;
mod wake;

use std::path::Path;
use support::report::Report;

/// One bench.
struct Bench {
    name: &'static str,
    what: &'static str,
    /// What it is measured beside.
    beside: &'static str,
    run: fn(&mut Report),
}

const fn bench(name: &'static str, what: &'static str, beside: &'static str, run: fn(&mut Report)) -> Bench {
    Bench { name, what, beside, run }
}

const BENCHES: &[Bench] = &[
    bench(
        "framed",
        "one stream to one subscriber in frames",
        "a direct pipe, a pipe through `cat`, a tokio program that frames",
        framed::run,
    ),
    bench(
        "rpc",
        "calls, one after the other and 64 deep",
        "a bare echo of messages of the same sizes, at the same placement",
        rpc::run,
    ),
    bench("spawn", "spawn to exit, 8 in flight", "posix_spawn with as many in flight", spawn::run),
    bench(
        "contained",
        "contained children, spawn to exit, 8 in flight",
        "the same rules without a kernel, and bubblewrap",
        contained::run,
    ),
    bench(
        "decisions",
        "whether somebody may, among 10,000 grants",
        "nothing: the bars are absolute",
        decisions::run,
    ),
    bench(
        "durable",
        "spawns with and without a record the disk has",
        "the same without a record, and with one nobody waits for",
        durable::run,
    ),
    bench("lines", "whole lines against chunks", "the same lines in chunks", lines::run),
    bench("limits", "20 MiB/s for ten seconds", "`pv -L 20M`", limits::run),
    bench("pty", "draining a terminal", "`script`", pty::run),
    bench("spool", "output to disk, and back", "`writer | cat > file` on the same file system", spool::run),
    bench("slow_client", "2 GB to a client that dawdles", "nothing: the bars are absolute", slow_client::run),
    bench(
        "many",
        "1,000 streams of 1 MB/s each to 1,000 readers",
        "a tokio program that copies, and one that splices; io_uring beside readiness",
        many::run,
    ),
    bench("streams", "1 to 1,000 streams of 1 MB/s each", "a tokio program that copies", many::lines),
    bench("wake", "from a write to a reader that wakes", "a direct pipe, and `pv` between two", wake::run),
    bench("fanout", "one flood to 1 to 16 readers", "a direct pipe to one reader", fanout::run),
    bench(
        "stopped",
        "a flood to eight readers, and one that has stopped",
        "the same without the stopped reader",
        stopped::run,
    ),
    bench(
        "shared",
        "one stream in a shared ring, to one reader and to many",
        "a direct pipe whose consumer sums",
        shared::run,
    ),
    bench("relay", "what is spliced from a child to its readers", "a direct pipe", relay::run),
    bench("pipelines", "raw video through three programs", "the shell's pipes", pipelines::run),
    bench(
        "survive",
        "a kernel is killed and followed by another",
        "the same kernel before it was killed; plain reads",
        survive::run,
    ),
    bench(
        "log",
        "events appended and read, and many of them opened",
        "fjall writing and reading the same keys",
        log::run,
    ),
    bench(
        "events",
        "300 bytes each, into the log and to a subscriber",
        "fjall and SQLite writing as many of the same length",
        events::run,
    ),
    bench(
        "publishers",
        "64 of them, each waiting for the disk",
        "nothing: the bars are absolute",
        events::publishers,
    ),
    bench("replay", "200,000 events to a client", "nothing: the bars are absolute", past::replay),
    bench(
        "patterns",
        "10,000 of which 10 match",
        "the same without the 9,990 that don't match",
        bus::patterns,
    ),
    bench("delivery", "from a publisher to a subscriber", "nothing: the bars are absolute", bus::delivery),
    bench(
        "intents",
        "200 processes in 20 intents are cancelled",
        "nothing: the bars are absolute",
        intents::run,
    ),
    bench("large_log", "a daemon over many events", "the same daemon over an empty log", past::large),
    bench(
        "idle_streams",
        "1,000 streams on which nothing happens",
        "the same stream in a daemon without them",
        idle_streams::run,
    ),
    bench("idle", "a daemon with nothing to do", "nothing: the bars are absolute", idle::run),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--role") {
        return support::roles::play(&arguments[1..]);
    }
    if arguments.iter().any(|argument| argument == "--document") {
        return support::document::render(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"));
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    for name in &wanted {
        assert!(BENCHES.iter().any(|bench| bench.name == *name), "there is no bench called {name}");
    }
    let mut missed = 0;
    for Bench { name, what, run, .. } in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            let mut report = Report::new(name, what);
            run(&mut report);
            missed += report.finish();
        }
    }
    println!("{missed} of the bars missed");
}
