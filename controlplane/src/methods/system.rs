//! The kernel itself and the machine it runs on.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::state::Pending;
use crate::table::{Answers, Entry};
use bytes::Bytes;
use kairo_dataplane::command::{Command, Job};
use kairo_dataplane::control::{Failure, Outcome};
use kairo_dataplane::key::Ticket;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::error::{Code, WireError};
use kairo_wire::introspect;
use kairo_wire::limits::{
    CALLS_IN_FLIGHT_MAX, CHUNK_BYTES_MAX, CHUNK_V1_BYTES_MAX, DEPTH_MAX, ELEMENTS_MAX, FRAME_BYTES_MAX,
};
use kairo_wire::method::Method;
use kairo_wire::methods::system::{
    BatteryMetrics, Cancel, CancelResult, CpuMetrics, Doctor, DoctorResult, FEATURES, Fact, GetMetrics,
    GetMetricsResult, Hello, HelloLimits, HelloResult, Introspect, MemoryMetrics, Ping, PingResult, Shutdown,
    ShutdownResult, ShutdownStatus,
};
use std::path::PathBuf;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Hello::ROW, Answers::AtOnce, hello),
    (Ping::ROW, Answers::AtOnce, ping),
    (Introspect::ROW, Answers::AtOnce, introspect),
    (Cancel::ROW, Answers::AtOnce, cancel),
    (Doctor::ROW, Answers::AtOnce, doctor),
    (Shutdown::ROW, Answers::AtOnce, shutdown),
    (GetMetrics::ROW, Answers::Later, get_metrics),
];

/// Smallest chunk that can be negotiated, bytes: smaller ones would only make work.
const CHUNK_BYTES_MIN: u32 = 4_096;

fn hello(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Hello>()?;
    let granted: Vec<String> = FEATURES
        .iter()
        .filter(|feature| params.features.iter().any(|name| name == feature.name))
        .map(|feature| feature.name.to_owned())
        .collect();
    let has = |name: &str| granted.iter().any(|feature| feature == name);
    let chunk_bytes_max = match (has("chunks"), params.chunk_bytes_max) {
        (false, _) => CHUNK_V1_BYTES_MAX as u32,
        (true, None) => CHUNK_BYTES_MAX as u32,
        (true, Some(wanted)) => wanted.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX as u32),
    };
    let (int64, records, envelope) = (has("int64"), has("records"), has("envelope"));
    if let Some(token) = &params.resumes {
        kernel.resume_wards(turn, asking.connection, token);
    }
    let connection = kernel.token(asking.connection).into_string();
    if let Some(peer) = kernel.state.connections.get_mut(asking.connection) {
        peer.dialect = if int64 { Dialect::Int64 } else { Dialect::V1 };
        peer.records = records;
        peer.timestamps = has("timestamps");
        peer.envelope = envelope;
        peer.chunk_bytes_max = chunk_bytes_max;
        tracing::debug!(
            component = "controlplane", connectionId = ?peer.key,
            client = params.client.as_deref().unwrap_or(""), features = ?granted, "a client said hello"
        );
    }
    let result = HelloResult {
        name: "kairo".to_owned(),
        version: kernel.config.version.clone(),
        protocol: introspect::PROTOCOL,
        pid: kernel.config.pid,
        features: granted,
        limits: HelloLimits {
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            chunk_bytes_max,
            calls_in_flight_max: CALLS_IN_FLIGHT_MAX as u32,
            depth_max: DEPTH_MAX as u32,
            elements_max: ELEMENTS_MAX as u32,
        },
        principal: kernel.principal_told(asking.connection),
        connection,
    };
    kernel.answer(turn, asking, &result);
    Ok(())
}

fn ping(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    kernel.answer(turn, asking, &PingResult { pong: true });
    Ok(())
}

fn introspect(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Introspect>()?;
    let answer = match params.method.as_deref() {
        None => introspect::all(),
        Some(name) => introspect::method(name)
            .ok_or_else(|| WireError::new(Code::NotFound, format!("there is no method {name:?}")))?,
    };
    kernel.answer(turn, asking, answer);
    Ok(())
}

fn cancel(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Cancel>()?;
    let cancelled = kernel.cancel(turn, asking.connection, params.id.bytes());
    kernel.answer(turn, asking, &CancelResult { cancelled });
    Ok(())
}

fn doctor(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<Doctor>()?;
    let mut facts = kernel.config.facts.clone();
    facts.push(Fact {
        name: "keeper".to_owned(),
        holds: !kernel.keeper_lost,
        value: if kernel.keeper_lost { "gone" } else { "there" }.to_owned(),
        advice: kernel.keeper_lost.then(|| "start the kernel again".to_owned()),
    });
    let budget = &kernel.config.budget;
    let (held, most) = (budget.held_bytes(), budget.bytes_max());
    facts.push(Fact {
        name: "history memory".to_owned(),
        holds: held <= most,
        value: format!(
            "{held} of {most} bytes, {} of them of ended streams; {} living streams",
            budget.retained_bytes(),
            budget.live_streams()
        ),
        advice: (held > most).then(|| {
            "readers hold more than there is: raise limits.history_memory_max, or end some".to_owned()
        }),
    });
    facts.push(kernel.records_fact());
    facts.push(kernel.quotas_fact(asking.connection, turn.at.monotonic_ns));
    kernel.answer(turn, asking, &DoctorResult { facts });
    Ok(())
}

fn shutdown(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Shutdown>()?;
    let grace_ms = params.grace_ms.unwrap_or(kernel.config.limits.kill_grace_ms);
    let processes = kernel.stop_for(turn, asking.method, grace_ms);
    kernel.answer(turn, asking, &ShutdownResult { status: ShutdownStatus::Stopping, processes });
    Ok(())
}

// What `system.get_metrics` reads; places in the list of files.
const STAT: usize = 0;
const MEMINFO: usize = 1;
const BATTERIES: std::ops::Range<usize> = 2..6;
const SENSORS: std::ops::Range<usize> = 6..10;

fn files() -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = vec!["/proc/stat".into(), "/proc/meminfo".into()];
    for battery in ["BAT0", "BAT1"] {
        for number in ["capacity", "status"] {
            list.push(format!("/sys/class/power_supply/{battery}/{number}").into());
        }
    }
    list.extend((0..SENSORS.len()).map(|zone| format!("/sys/class/thermal/thermal_zone{zone}/temp").into()));
    list
}

fn get_metrics(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<GetMetrics>()?;
    let ticket = Ticket(kernel.park(turn, asking, Pending::Metrics));
    turn.out.push(Command::Work { ticket, job: Job::Read(files()) });
    Ok(())
}

impl Kernel {
    /// The worker has read the files of `system.get_metrics`.
    pub(crate) fn metrics_read(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        outcome: Result<Outcome, Failure>,
    ) {
        let Some(call) = self.state.calls.get(&ticket) else { return };
        let connection = call.connection;
        let read = match outcome {
            Ok(Outcome::Worked(read)) => read,
            Ok(
                Outcome::Ok
                | Outcome::Written { .. }
                | Outcome::Signalled { .. }
                | Outcome::Tuned { .. }
                | Outcome::Opened { .. }
                | Outcome::Named { .. },
            )
            | Err(_) => Vec::new(),
        };
        let text = |place: usize| -> Option<&str> {
            let bytes: &Bytes = read.get(place)?.as_ref().ok()?;
            std::str::from_utf8(bytes).ok()
        };
        let Some((spent, memory)) = text(STAT).and_then(cpu).zip(text(MEMINFO).and_then(memory)) else {
            let error = WireError::new(Code::Unavailable, "this machine does not tell its load (no /proc)");
            return self.reject(turn, ticket, &error);
        };
        let before = self.state.connections.get_mut(connection).and_then(|peer| peer.cpu.replace(spent));
        let battery = BATTERIES.step_by(2).find_map(|place| battery(text(place)?, text(place + 1)));
        let temperature = SENSORS.filter_map(|place| temperature(text(place)?)).reduce(f64::max);
        let cpu = CpuMetrics { usage: usage(before, spent), temperature };
        self.resolve(turn, ticket, &GetMetricsResult { cpu, memory, battery });
    }
}

/// (busy, all) of the first line of `/proc/stat`, in clock ticks since boot (proc(5)).
fn cpu(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; what follows is counted in user already.
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let all = ticks.iter().sum::<u64>();
    let idle = ticks.get(3)? + ticks.get(4).unwrap_or(&0);
    Some((all - idle, all))
}

/// Percent of all processors between two readings; 0 without a first one.
fn usage(before: Option<(u64, u64)>, now: (u64, u64)) -> u32 {
    let Some(before) = before else { return 0 };
    let (busy, all) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
    (busy * 100 + all / 2).checked_div(all).unwrap_or(0).min(100) as u32
}

/// Of `/proc/meminfo`, MiB, rounded.
fn memory(meminfo: &str) -> Option<MemoryMetrics> {
    let mib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some((kib + 512) / 1_024)
    };
    let (total, free) = (mib("MemTotal")?, mib("MemFree")?);
    Some(MemoryMetrics { total, used: total.saturating_sub(free), free })
}

fn battery(capacity: &str, status: Option<&str>) -> Option<BatteryMetrics> {
    let level: u32 = capacity.trim().parse().ok()?;
    Some(BatteryMetrics {
        level: level.min(100),
        charging: status.is_some_and(|text| text.trim() == "Charging"),
    })
}

/// Degrees Celsius of a sensor that tells thousandths; none if it tells nothing above 0.
fn temperature(text: &str) -> Option<f64> {
    let thousandths: i64 = text.trim().parse().ok()?;
    (thousandths > 0).then_some(thousandths as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_was_busy_between_two_readings() {
        let first = cpu("cpu  100 0 100 700 100 0 0 0 5 5\ncpu0 1 1 1 1").expect("a reading");
        assert_eq!(first, (200, 1_000));
        let second = cpu("cpu  150 0 150 800 100 0 0 0 5 5\n").expect("a reading");
        assert_eq!(usage(None, first), 0);
        assert_eq!(usage(Some(first), second), 50);
        assert_eq!(usage(Some(second), second), 0);
        assert_eq!(usage(Some(second), first), 0);
    }

    #[test]
    fn memory_is_mebibytes_and_free_is_memfree() {
        let text = "MemTotal:       16384512 kB\nMemFree:         4096000 kB\nMemAvailable:    9000000 kB\n";
        let memory = memory(text).expect("readable");
        assert_eq!((memory.total, memory.used, memory.free), (16_001, 12_001, 4_000));
    }

    #[test]
    fn nonsense_is_nothing() {
        assert_eq!(cpu("intr 1 2 3"), None);
        assert_eq!(cpu("cpu  a b c"), None);
        assert!(memory("MemTotal: many kB").is_none());
        assert!(battery("full", None).is_none());
        assert_eq!(temperature("-5000"), None);
        assert_eq!(temperature("45500\n"), Some(45.5));
        assert_eq!(files().len(), SENSORS.end);
    }
}
