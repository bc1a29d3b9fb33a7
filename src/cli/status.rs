//! How a process looks to a person: a line of `kairo ps`, the page of `kairo status`.

use crate::cli::limit::told;
use crate::cli::program;
use crate::cli::table::{Edge, Table, bytes, duration, visible};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::options::SignalName;
use kairo_wire::methods::spool::SpoolStatus;
use kairo_wire::methods::status::{Detail, Exit, Phase, ProcessStatus, State};
use std::fmt::Write as _;

/// Something of it still runs.
pub(crate) fn is_alive(process: &ProcessStatus) -> bool {
    match process.detail.as_ref().map(|detail| detail.phase) {
        Some(Phase::Ended | Phase::Lost) => false,
        Some(Phase::Starting | Phase::Running | Phase::Paused | Phase::Ending | Phase::Exited) => true,
        None => process.state == State::Running,
    }
}

/// `kairo ps`
pub(crate) fn table(processes: &[ProcessStatus], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        ("ID", Edge::Left),
        ("PID", Edge::Right),
        ("STATE", Edge::Left),
        ("AGE", Edge::Right),
        ("OUT", Edge::Right),
        ("READERS", Edge::Right),
        ("COMMAND", Edge::Left),
    ]);
    for process in processes {
        let id = process.id.as_ref().map(ToString::to_string).unwrap_or_default();
        let Some(detail) = process.detail.as_deref() else {
            table.row([id, pid(process.pid), process.state.word().to_owned()]);
            continue;
        };
        let out: u64 = detail.streams.iter().map(|stream| stream.bytes).sum();
        table.row([
            id,
            pid(process.pid),
            phase(detail),
            duration(now_ms.saturating_sub(detail.started_at_ms)),
            bytes(out),
            detail.readers.len().to_string(),
            command(detail),
        ]);
    }
    table
}

fn pid(pid: Option<i32>) -> String {
    pid.map_or("-".to_owned(), |pid| pid.to_string())
}

fn command(detail: &Detail) -> String {
    detail.argv.iter().map(|word| quoted(&word.to_text())).collect::<Vec<_>>().join(" ")
}

/// A word as a shell would have to be given it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./=:,+@%^".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn phase(detail: &Detail) -> String {
    match (detail.phase, &detail.exit) {
        (Phase::Exited | Phase::Ended | Phase::Lost, Some(exit)) => {
            format!("{} {}", detail.phase.word(), ending(exit))
        }
        (phase, _) => phase.word().to_owned(),
    }
}

/// `0`, `3`, `SIGKILL`.
fn ending(exit: &Exit) -> String {
    match (exit.signal, exit.code) {
        (Some(signal), _) => {
            let name = exit.signal_name.as_deref().or_else(|| SignalName::name_of(signal));
            let name = name.map(|name| format!("SIG{}", name.trim_start_matches("SIG")));
            name.unwrap_or_else(|| format!("signal {signal}"))
        }
        (None, Some(code)) => code.to_string(),
        (None, None) => "?".to_owned(),
    }
}

/// `kairo status`
pub(crate) fn describe(id: &ProcessId, process: &ProcessStatus, now_ms: u64) -> String {
    let mut page = Page(String::new());
    page.row("id", &id.to_string());
    let Some(detail) = process.detail.as_deref() else {
        page.row("state", process.state.word());
        page.row("pid", &pid(process.pid));
        return page.0;
    };
    page.row("state", detail.phase.word());
    page.row("pid", &pid(detail.pid.or(process.pid)));
    page.row("command", &command(detail));
    if let Some(cwd) = &detail.cwd {
        page.row("folder", &cwd.to_text());
    }
    page.row("started", &format!("{} ago", duration(now_ms.saturating_sub(detail.started_at_ms))));
    page.row("owner", &owner(detail));
    page.row("tree", detail.tree.word());
    if let Some(size) = detail.terminal {
        page.row("terminal", &format!("{}x{}", size.cols, size.rows));
    }
    page.row("stdin", &stdin(detail));
    streams(&mut page, detail);
    readers(&mut page, detail);
    for waiting in &detail.waiting_for {
        page.row("waiting", &format!("{} for {}", waiting.what, waiting.for_what));
    }
    for limit in &detail.limits {
        page.row("limit", &format!("{} {} by {}", limit.name, limit.value, limit.mechanism));
    }
    if let Some(receipt) = &detail.sandbox {
        for line in program::receipt(receipt).unwrap_or_default().lines() {
            page.row("sandbox", line.trim_start());
        }
    }
    if let Some(program) = &detail.program {
        let weaker = program.weaker.map(|weaker| format!(" ({})", weaker.word())).unwrap_or_default();
        page.row("program", &format!("{} sha256 {}{weaker}", program.path.to_text(), program.digest));
    }
    if let Some(restart) = &detail.restart {
        let pending = if restart.pending { ", the next one is on its way" } else { "" };
        let (attempts, limit) = (restart.attempts, restart.limit);
        page.row("restart", &format!("{}, {attempts} of {limit}{pending}", restart.policy.word()));
    }
    page.row("record", detail.record.word());
    page.row("session", &format!("{}, environment {}", detail.session, detail.env_digest));
    if let Some(exit) = &detail.exit {
        exited(&mut page, exit);
    }
    page.0
}

/// Names on the left, facts on the right.
struct Page(String);

impl Page {
    fn row(&mut self, name: &str, fact: &str) {
        // Writing to a String does not fail.
        let _ = writeln!(self.0, "{name:<10}{}", visible(fact));
    }
}

fn owner(detail: &Detail) -> String {
    let owner = &detail.owner;
    match &owner.skill {
        Some(skill) => format!("{} {skill}, uid {}", owner.kind.word(), owner.uid),
        None => format!("{}, uid {}", owner.kind.word(), owner.uid),
    }
}

fn stdin(detail: &Detail) -> String {
    let stdin = &detail.stdin;
    let mut text = bytes(stdin.bytes);
    if stdin.parked_bytes > 0 {
        let _ = write!(text, ", {} waiting to go in", bytes(stdin.parked_bytes));
    }
    if stdin.pipe_bytes > 0 {
        let _ = write!(text, ", pipe of {}", bytes(stdin.pipe_bytes.into()));
    }
    if stdin.closed {
        text.push_str(", closed");
    }
    text
}

fn streams(page: &mut Page, detail: &Detail) {
    for stream in &detail.streams {
        let mut text = bytes(stream.bytes);
        if stream.cut_bytes > 0 {
            let gone = if stream.spool.is_some() { "in memory" } else { "kept" };
            let _ = write!(text, ", of which {} are no longer {gone}", bytes(stream.cut_bytes));
        }
        if let Some(cut) = stream.cut {
            let _ = write!(text, " ({} to {})", cut.from, cut.to);
        }
        if let Some(rate) = stream.rate {
            let _ = write!(text, ", at most {}", told(rate));
        }
        if stream.throttled_ms > 0 {
            let _ = write!(text, ", held back for {}", duration(stream.throttled_ms));
        }
        if stream.pipe_bytes > 0 {
            let _ = write!(text, ", pipe of {}", bytes(stream.pipe_bytes.into()));
        }
        if stream.paused {
            text.push_str(", paused");
        }
        if stream.paused_ms > 0 {
            let _ = write!(text, ", has waited {}", duration(stream.paused_ms));
        }
        if stream.closed {
            text.push_str(", closed");
        }
        page.row(stream.stream.word(), &text);
        if let Some(spool) = stream.spool.as_ref().filter(|spool| spool.segments > 0 || spool.errno.is_some())
        {
            page.row("on disk", &on_disk(stream.stream.word(), spool));
        }
    }
}

fn on_disk(stream: &str, spool: &SpoolStatus) -> String {
    let SpoolStatus { from, to, segments, .. } = spool;
    let mut text = format!("{stream} from {from} to {to}, {} in {segments} files", bytes(spool.bytes));
    if let Some(errno) = spool.errno {
        let why = std::io::Error::from_raw_os_error(errno);
        let _ = write!(text, ", {}: {why}", spool.state.word());
    }
    text
}

fn readers(page: &mut Page, detail: &Detail) {
    for reader in &detail.readers {
        let name = reader.subscription_id.as_ref().map_or("another's", |id| id.as_str());
        let mut text = format!("{name}, {}, {}", reader.mode.word(), reader.policy.word());
        for at in &reader.at {
            let _ = write!(text, ", {} at {} ({} behind)", at.stream.word(), at.offset, bytes(at.lag_bytes));
        }
        if reader.gap_bytes > 0 {
            let _ = write!(text, ", missed {}", bytes(reader.gap_bytes));
        }
        if let Some(rate) = reader.rate {
            let _ = write!(text, ", at most {}", told(rate));
        }
        if reader.stalled {
            text.push_str(", takes no more");
        }
        page.row("reader", &text);
    }
}

fn exited(page: &mut Page, exit: &Exit) {
    let core = if exit.core { ", with a core" } else { "" };
    let by = match &exit.ended_by.principal {
        Some(principal) => format!("{} of {}", exit.ended_by.cause.word(), principal.kind.word()),
        None => exit.ended_by.cause.word().to_owned(),
    };
    page.row("exit", &format!("{}{core}, by {by}, after {}", ending(exit), duration(exit.duration_ms)));
    let usage = &exit.usage;
    let text = format!(
        "{} user, {} system, peak {}",
        duration(usage.user_us / 1000),
        duration(usage.system_us / 1000),
        bytes(usage.max_rss_kib << 10)
    );
    page.row("used", &text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample(phase: &str, exit: serde_json::Value) -> ProcessStatus {
        let mut detail = json!({
            "phase": phase, "session": "00ff", "pid": 77, "owner": {"kind": "owner", "uid": 0},
            "argv": ["python3", "-c", "print('hi')"], "cwd": "/tmp", "envDigest": "abcd", "startedAtMs": 1_000,
            "tree": "exact", "stdin": {"bytes": 3, "parkedBytes": 5, "pipeBytes": 65_536, "closed": false},
            "streams": [{"stream": "stdout", "bytes": 2_048, "cutBytes": 1_024, "pipeBytes": 65_536, "paused": true,
                "pausedMs": 2_500, "closed": false}],
            "readers": [{"policy": "block", "mode": "chunk", "sequence": 3, "gapBytes": 7, "stalled": true,
                "at": [{"stream": "stdout", "offset": 10, "lagBytes": 2_038}]}],
            "waitingFor": [{"what": "stdout", "for": "a reader"}],
            "limits": [{"name": "pids", "mechanism": "cgroup", "value": 64}],
            "historyHeadBytes": 1, "historyTailBytes": 1, "whenUnread": "drop", "onDisconnect": "keep",
        });
        if !exit.is_null() {
            detail["exit"] = exit;
        }
        serde_json::from_value(json!({"state": "running", "pid": 77, "id": "repl", "detail": detail}))
            .unwrap()
    }

    fn killed() -> serde_json::Value {
        let usage = json!({"userUs": 1_500_000, "systemUs": 0, "maxRssKib": 2_048, "minorFaults": 0,
            "majorFaults": 0, "voluntarySwitches": 0, "involuntarySwitches": 0});
        json!({"signal": 9, "endedBy": {"cause": "kill"}, "usage": usage, "durationMs": 12_000})
    }

    #[test]
    fn a_line_tells_what_runs_and_for_how_long() {
        let text = table(&[sample("running", json!(null))], 13_000).render(None, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ID    PID  STATE    AGE      OUT  READERS  COMMAND");
        assert_eq!(lines[1], "repl   77  running  12s  2.0 KiB        1  python3 -c 'print('\\''hi'\\'')'");
    }

    #[test]
    fn what_has_ended_says_how() {
        let ended = sample("ended", killed());
        assert!(!is_alive(&ended) && is_alive(&sample("exited", killed())));
        assert!(table(std::slice::from_ref(&ended), 0).render(None, false).contains("ended SIGKILL"));
        let page = describe(&ProcessId::from_text("repl").unwrap(), &ended, 0);
        assert!(page.contains("exit      SIGKILL, by kill, after 12s"), "{page}");
        assert!(page.contains("peak 2.0 MiB"), "{page}");
    }

    #[test]
    fn the_page_names_who_waits_for_whom() {
        let page = describe(&ProcessId::from_text("repl").unwrap(), &sample("running", json!(null)), 13_000);
        for part in [
            "waiting   stdout for a reader",
            "stdin     3 B, 5 B waiting to go in",
            "of which 1.0 KiB are no longer kept",
            "paused, has waited 2.5s",
            "stdout at 10 (2.0 KiB behind), missed 7 B, takes no more",
            "limit     pids 64 by cgroup",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
    }
}
