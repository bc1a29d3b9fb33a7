//! What a process has used. Of one that runs only the operating system knows, and a worker asks it.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::methods::process::not_found;
use crate::sessions::report::{self, stream_name};
use crate::state::{Pending, Phase, Process};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::{Command, Job};
use kairo_dataplane::control::{Failure, Moment, Outcome};
use kairo_dataplane::key::{Channel, Ticket};
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::Method;
use kairo_wire::methods::status::ProcessUsage;
use kairo_wire::methods::usage::{StdinUsage, StreamUsage, Usage, UsageResult};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[(Usage::ROW, Answers::Later, usage)];

/// Nanoseconds in a microsecond.
const US: u64 = 1_000;
/// Microseconds of a clock tick as `/proc` counts them (USER_HZ is 100 on every architecture of Linux we know).
const TICK_US: u64 = 10_000;

fn usage(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Usage>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let (serial, pid) = (process.key.serial, process.pid);
    if process.phase == Phase::Running {
        let files = ["stat", "status"].map(|name| format!("/proc/{pid}/{name}").into());
        let ticket = Ticket(kernel.park(turn, asking, Pending::Usage { process: serial }));
        turn.out.push(Command::Work { ticket, job: Job::Read(files.into()) });
        return Ok(());
    }
    if process.phase == Phase::Lost && process.exit.is_none() {
        return Err(kernel.lost(&params.id));
    }
    let used = report::exit(process).map(|exit| exit.usage).unwrap_or_default();
    let result = told(process, used, turn.at);
    kernel.answer(turn, asking, &result);
    Ok(())
}

impl Kernel {
    /// The worker has read of a process what it has used so far.
    pub(crate) fn usage_read(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        serial: u64,
        outcome: Result<Outcome, Failure>,
    ) {
        let read = match outcome {
            Ok(Outcome::Worked(read)) => read,
            Ok(_) | Err(_) => Vec::new(),
        };
        let text = |nth: usize| std::str::from_utf8(read.get(nth)?.as_ref().ok()?).ok();
        let now = text(0).zip(text(1)).and_then(|(stat, status)| so_far(stat, status));
        let process = self.state.processes.get(&serial);
        // It may have exited meanwhile, and then it is known exactly.
        let used = process.and_then(|process| report::exit(process).map(|exit| exit.usage)).or(now);
        match process.zip(used) {
            Some((process, used)) => {
                let result = told(process, used, turn.at);
                self.resolve(turn, ticket, &result);
            }
            None => {
                let why = "this machine does not tell what a running process has used";
                self.reject(turn, ticket, &WireError::new(Code::Unavailable, why));
            }
        }
    }
}

fn told(process: &Process, usage: ProcessUsage, now: Moment) -> UsageResult {
    let meter = &process.meter;
    let until = process.exited.unwrap_or(now);
    let stream = |channel: Channel| {
        let meter = &meter.streams[channel as usize];
        StreamUsage {
            stream: stream_name(channel),
            bytes: meter.taken_bytes.get(),
            paused_us: meter.paused_ns.get() / US,
            throttled_us: meter.throttled_ns.get() / US,
            idle_us: meter.idle_ns.get() / US,
        }
    };
    UsageResult {
        id: process.id.clone(),
        running: process.exit.is_none(),
        wall_us: until.monotonic_ns.saturating_sub(process.started.monotonic_ns) / US,
        usage,
        stdin: StdinUsage { bytes: meter.stdin_bytes.get(), parked_us: meter.stdin_parked_ns.get() / US },
        streams: Channel::ALL.into_iter().filter(|channel| process.has(*channel)).map(stream).collect(),
    }
}

/// From `/proc/PID/stat` and `/proc/PID/status` (proc(5)).
fn so_far(stat: &str, status: &str) -> Option<ProcessUsage> {
    // The name may hold anything, so what follows is counted from its end: the state is field 3.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let both = |own: usize, children: usize| Some(field(own)? + field(children)?);
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(ProcessUsage {
        user_us: both(14, 16)? * TICK_US,
        system_us: both(15, 17)? * TICK_US,
        // A kernel thread, and what has just died, has none.
        max_rss_kib: line("VmHWM").unwrap_or(0),
        minor_faults: both(10, 11)?,
        major_faults: both(12, 13)?,
        voluntary_switches: line("voluntary_ctxt_switches")?,
        involuntary_switches: line("nonvoluntary_ctxt_switches")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_read_field_by_field_whatever_it_is_called() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194304 100 20 3 4 50 60 7 8 20 0 1 0 12345 1000 2000";
        let status = "Name:\ta) b (c\nVmHWM:\t    5124 kB\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t2\n";
        let used = so_far(stat, status).expect("it is whole");
        assert_eq!((used.minor_faults, used.major_faults), (120, 7));
        assert_eq!((used.user_us, used.system_us), (570_000, 680_000));
        assert_eq!((used.max_rss_kib, used.voluntary_switches, used.involuntary_switches), (5_124, 9, 2));
        assert_eq!(so_far("77 (x", status), None);
        assert_eq!(so_far("77 (x) S 1", status), None);
    }
}
