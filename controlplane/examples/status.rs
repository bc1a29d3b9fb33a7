//! What one cheap call costs in the control plane, lock included: `process.status` and `kernel.ping`, in batches of 64
//! as a reactor hands them in.
//!
//! ```text
//! cargo run --release -p kairo-controlplane --example status
//! ```

use bytes::BytesMut;
use kairo_controlplane::config::Config;
use kairo_controlplane::entropy::Seeded;
use kairo_controlplane::events::outlet::Shelf;
use kairo_controlplane::kernel::{ControlPlane, Kernel};
use kairo_dataplane::command::{Command, Commands};
use kairo_dataplane::control::{
    Control, ExitStatus, Inbound, Lineage, Moment, Notice, Peer, StreamEnd, Tree, Usage,
};
use kairo_dataplane::key::{Channel, ConnectionKey, ReactorId};
use kairo_wire::codec::raw::Raw;
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::request;
use std::sync::OnceLock;
use std::time::Instant;

const BATCH: usize = 64;
const ROUNDS: usize = 20_000;

fn ticks() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Time this thread has been on a processor, so that neighbours don't count; the wall's where that isn't told.
fn busy_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    stat.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_else(ticks)
}

fn frame(method: &str, params: &serde_json::Value) -> Vec<u8> {
    let mut buf = BytesMut::new();
    let id = Raw::of("q7f3k2").unwrap_or_default();
    if let Err(error) = request::put(&mut buf, &id, method, params, None) {
        eprintln!("a request was not encoded: {error}");
    }
    buf[HEADER_BYTES..].to_vec()
}

/// Carries out the spawn that was commanded: it runs, exits, closes and ends.
fn live(control: &ControlPlane, at: Moment, out: &mut Commands) {
    for command in std::mem::take(&mut out.list) {
        let Command::Spawn(spawn) = command else { continue };
        let (process, limits) = (spawn.process, Vec::new());
        let pid = 4_711 + process.serial as i32;
        let mut tell = |notice| control.notice(at, process.home, notice, out);
        tell(Notice::Spawned { process, pid, tree: Tree::BestEffort, start_ticks: 1, limits });
        tell(Notice::Exited { process, status: ExitStatus::Code(0), usage: Usage::default(), at_ns: 0 });
        for channel in Channel::ALL {
            tell(Notice::Closed { process, channel, end: StreamEnd::default() });
        }
        tell(Notice::Ended { process });
    }
}

/// Calls that change nothing, in batches as a client that pipelines sends them.
fn calls(control: &ControlPlane, connection: ConnectionKey, out: &mut Commands) {
    let at = Moment::default();
    for (name, payload) in [
        ("process.status", frame("process.status", &serde_json::json!({ "id": "clip" }))),
        ("kernel.ping", frame("kernel.ping", &serde_json::json!({}))),
        ("unknown id", frame("process.status", &serde_json::json!({ "id": "nobody" }))),
    ] {
        let mut best = f64::MAX;
        for _ in 0..7 {
            let before = busy_ns();
            for _ in 0..ROUNDS / 7 {
                out.replies.clear();
                out.list.clear();
                for _ in 0..BATCH {
                    control.received(at, connection, Inbound { kind: 1, payload: &payload }, out);
                }
            }
            let calls = (ROUNDS / 7 * BATCH) as f64;
            best = best.min((busy_ns() - before) as f64 / calls);
        }
        println!("{name:16} {best:7.1} ns a call, {} bytes of reply", out.replies.len() / BATCH);
    }
}

/// Processes from spawn to end, and the list of them all.
fn lives(control: &ControlPlane, connection: ConnectionKey, out: &mut Commands) {
    let at = Moment::default();
    out.replies.clear();
    let before = busy_ns();
    const LIVES: u64 = 2_000;
    for nth in 0..LIVES {
        let params =
            serde_json::json!({ "id": format!("p{nth}"), "command": ["ffmpeg", "-i", "in.mp4", "-"] });
        let spawn = frame("process.spawn", &params);
        control.received(at, connection, Inbound { kind: 1, payload: &spawn }, out);
        live(control, at, out);
    }
    println!(
        "{:16} {:7.1} ns a life, request made included",
        "spawn to end",
        (busy_ns() - before) as f64 / LIVES as f64
    );
    let list = frame("process.list", &serde_json::json!({}));
    out.replies.clear();
    let before = busy_ns();
    control.received(at, connection, Inbound { kind: 1, payload: &list }, out);
    println!(
        "{:16} {:7.1} us for {LIVES}, {} bytes",
        "process.list",
        (busy_ns() - before) as f64 / 1e3,
        out.replies.len()
    );
}

fn main() {
    let config = Config::alone(1_000);
    let control = ControlPlane::new(
        Kernel::new(config, Box::new(Seeded::new(1)), Box::new(Shelf::default()), 0),
        ticks,
    );
    let connection = ConnectionKey { reactor: ReactorId(0), slot: 0, generation: 1 };
    let peer = Peer { pid: 2, uid: 1_000, gid: 1_000, groups: Vec::new(), lineage: Lineage::Outside };
    let at = Moment::default();
    let mut out = Commands::default();
    control.connected(at, connection, peer, &mut out);
    let spawn = frame("process.spawn", &serde_json::json!({ "id": "clip", "command": ["sleep", "1"] }));
    control.received(at, connection, Inbound { kind: 1, payload: &spawn }, &mut out);
    for command in std::mem::take(&mut out.list) {
        if let Command::Spawn(spawn) = command {
            let (process, limits) = (spawn.process, Vec::new());
            let notice =
                Notice::Spawned { process, pid: 4_711, tree: Tree::BestEffort, start_ticks: 1, limits };
            control.notice(at, process.home, notice, &mut out);
        }
    }
    calls(&control, connection, &mut out);
    lives(&control, connection, &mut out);
    let held = control.lock_held();
    println!(
        "lock held: p50 {} ns, p99.9 {} ns, max {} ns, {} samples",
        held.quantile_ns(500),
        held.quantile_ns(999),
        held.max_ns(),
        held.count()
    );
}
