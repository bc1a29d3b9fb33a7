//! `--stats`: what a process used, and who waited for whom, on stderr because stdout is the program's.

use crate::cli::context::{Context, json_of, versioned};
use crate::cli::failure::Failure;
use crate::cli::table::{bytes, visible};
use kairo_client::Client;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::usage::{StreamUsage, Usage, UsageParams, UsageResult};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Asks and prints: a table each, which of several has its name above it, or with `--json` an object each.
pub(crate) fn print(context: &Context, client: &Client, ids: &[ProcessId]) -> Result<(), Failure> {
    let mut text = String::new();
    for id in ids {
        let used = ask(client, id)?;
        // Writing to a String does not fail.
        let _ = match (context.json, ids.len()) {
            (true, _) => writeln!(text, "{}", versioned(json!({ "stats": json_of(&used)? }))),
            (false, 1) => write!(text, "{}", table(&used)),
            (false, _) => write!(text, "{}:\n{}", visible(&id.to_string()), table(&used)),
        };
    }
    Ok(io::stderr().lock().write_all(text.as_bytes())?)
}

/// What it has used, for `--json`.
pub(crate) fn object(client: &Client, id: &ProcessId) -> Result<Json, Failure> {
    json_of(&ask(client, id)?)
}

fn ask(client: &Client, id: &ProcessId) -> Result<UsageResult, Failure> {
    Ok(client.call::<Usage>(&UsageParams { id: id.clone() })?)
}

fn seconds(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1_000)
}

fn table(used: &UsageResult) -> String {
    let usage = &used.usage;
    let cpu_us = usage.user_us + usage.system_us;
    let percent = (cpu_us * 100).checked_div(used.wall_us).unwrap_or(0);
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut row = |name: &str, fact: &str| {
        let _ = writeln!(text, "{name:<9}{fact}");
    };
    row("wall", &seconds(used.wall_us));
    let (user, system) = (seconds(usage.user_us), seconds(usage.system_us));
    row("cpu", &format!("{user} user, {system} system, {percent} % of a core"));
    row("memory", &format!("{} at its peak", bytes(usage.max_rss_kib << 10)));
    row("faults", &format!("{} minor, {} major", usage.minor_faults, usage.major_faults));
    let (voluntary, involuntary) = (usage.voluntary_switches, usage.involuntary_switches);
    row("switches", &format!("{voluntary} voluntary, {involuntary} involuntary"));
    for stream in &used.streams {
        row(stream.stream.word(), &output(stream, used.wall_us));
    }
    if used.stdin.bytes > 0 || used.stdin.parked_us > 0 {
        let waited = seconds(used.stdin.parked_us);
        row("stdin", &format!("{}; waited {waited} for the program to read", bytes(used.stdin.bytes)));
    }
    text
}

fn output(stream: &StreamUsage, wall_us: u64) -> String {
    let rate = (u128::from(stream.bytes) * 1_000_000).checked_div(wall_us.into()).unwrap_or(0);
    format!(
        "{}, {}/s; waited {} for readers, {} for its rate, {} for the program",
        bytes(stream.bytes),
        bytes(u64::try_from(rate).unwrap_or(u64::MAX)),
        seconds(stream.paused_us),
        seconds(stream.throttled_us),
        seconds(stream.idle_us)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_was_used_and_who_waited() {
        let used = json!({
            "id": "it", "running": false, "wallUs": 2_000_000,
            "usage": {"userUs": 500_000, "systemUs": 250_000, "maxRssKib": 2_048, "minorFaults": 3, "majorFaults": 1,
                "voluntarySwitches": 4, "involuntarySwitches": 5},
            "stdin": {"bytes": 0, "parkedUs": 0},
            "streams": [{"stream": "stdout", "bytes": 4_194_304, "pausedUs": 1_234_567, "throttledUs": 0, "idleUs": 42}],
        });
        let used = serde_json::from_value(used).expect("a usage");
        assert_eq!(
            table(&used),
            "wall     2.000 s\n\
             cpu      0.500 s user, 0.250 s system, 37 % of a core\n\
             memory   2.0 MiB at its peak\n\
             faults   3 minor, 1 major\n\
             switches 4 voluntary, 5 involuntary\n\
             stdout   4.0 MiB, 2.0 MiB/s; waited 1.234 s for readers, 0.000 s for its rate, 0.000 s for the program\n"
        );
    }
}
