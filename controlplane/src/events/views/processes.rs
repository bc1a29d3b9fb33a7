//! The views `processes` (a row per life) and `sessions` (a row per process id).
//!
//! Invariant: an event that comes late, or twice, takes nothing back: an exit stays, a life counts once.

use crate::events::record::Record;
use crate::events::views::fold::{Fields, Folded, Skip, cut};
use crate::events::views::table::{State, Table};
use kairo_wire::event::{
    Event, ProcessEnded, ProcessExited, ProcessLost, ProcessRestarted, ProcessRestartsSpent, ProcessSpawned,
    StreamClosed,
};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::rows::{ProcessRow, ProcessRowExit, ProgressRow, SessionRow};
use kairo_wire::methods::status::{Phase, StreamTotal};
use std::borrow::Cow;

/// What an adapter makes of a program's output.
pub(super) const PROGRESS: &str = "kairo.process.progress";

/// Longest text an adapter gives, bytes.
const WORD_BYTES_MAX: usize = 64;

/// `processes`.
pub(super) fn fold(record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let apply = match &*record.topic {
        ProcessSpawned::TOPIC => spawned,
        ProcessExited::TOPIC => exited,
        ProcessEnded::TOPIC => ended,
        ProcessLost::TOPIC => lost,
        ProcessRestarted::TOPIC => restarted,
        ProcessRestartsSpent::TOPIC => never_began,
        StreamClosed::TOPIC => closed,
        PROGRESS => progress,
        _ => return Ok(Folded::No),
    };
    let fields = Fields::of(record);
    let id: ProcessId = fields.need("id")?;
    let session: &str = fields.need("session")?;
    // What is told of a life that is over begins none.
    let begins = !matches!(&*record.topic, StreamClosed::TOPIC | PROGRESS | ProcessRestartsSpent::TOPIC);
    let fresh = || begins.then(|| blank(id, session));
    let folded = table.update(record.seq, (session, &record.audience), fresh, |row| {
        let owned = |text: &Option<Cow<'_, str>>| text.as_deref().map(str::to_owned);
        row.intent_id = row.intent_id.take().or_else(|| owned(&record.intent));
        row.correlation_id = row.correlation_id.take().or_else(|| owned(&record.correlation));
        apply(row, record, fields)
    })?;
    if record.topic == ProcessRestarted::TOPIC
        && let Some(former) = fields.get::<&str>("former").filter(|former| *former != session)
    {
        // A name that can't be a key has no row.
        let known = (former, &record.audience);
        let _ = table.update(record.seq, known, || None, |row| never_began(row, record, fields));
    }
    Ok(folded)
}

impl State for ProcessRow {
    fn is_over(&self) -> bool {
        matches!(self.state, Phase::Ended | Phase::Lost)
    }
}

impl State for SessionRow {
    fn is_over(&self) -> bool {
        !self.open
    }
}

/// What is known of a life before anything is told of it.
fn blank(id: ProcessId, session: &str) -> ProcessRow {
    ProcessRow {
        id,
        session: session.to_owned(),
        pid: None,
        owner: None,
        state: Phase::Running,
        exit: None,
        streams: Vec::new(),
        stdin_bytes: None,
        started_at_ms: None,
        exited_at_ms: None,
        ended_at_ms: None,
        correlation_id: None,
        intent_id: None,
        former: None,
        progress: None,
    }
}

fn spawned(row: &mut ProcessRow, record: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    row.pid = fields.get("pid");
    row.owner = fields.get("owner");
    row.started_at_ms = fields.get("startedAtMs").or(Some(record.time_ms));
    if row.state == Phase::Starting {
        row.state = Phase::Running;
    }
    Ok(())
}

fn exited(row: &mut ProcessRow, record: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    row.pid = row.pid.or_else(|| fields.get("pid"));
    row.exit = Some(ProcessRowExit {
        code: fields.get("code"),
        signal: fields.get("signal"),
        cause: fields.inner("endedBy").and_then(|ended_by| ended_by.get("cause")),
        duration_ms: fields.get("durationMs"),
    });
    row.exited_at_ms = Some(record.time_ms);
    if matches!(row.state, Phase::Starting | Phase::Running) {
        row.state = Phase::Exited;
    }
    Ok(())
}

fn ended(row: &mut ProcessRow, record: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    totals(row, fields);
    row.stdin_bytes = fields.get("stdinBytes");
    row.ended_at_ms = Some(record.time_ms);
    row.state = Phase::Ended;
    Ok(())
}

/// Of a life whose leader had exited the end of the tree alone is not known.
fn lost(row: &mut ProcessRow, record: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    totals(row, fields);
    row.pid = row.pid.or_else(|| fields.get("pid"));
    row.ended_at_ms = Some(record.time_ms);
    if matches!(row.state, Phase::Starting | Phase::Running) {
        row.state = Phase::Lost;
    }
    Ok(())
}

fn restarted(row: &mut ProcessRow, _: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    row.former = fields.get("former");
    if row.started_at_ms.is_none() && row.state == Phase::Running {
        row.state = Phase::Starting;
    }
    Ok(())
}

/// A life that was to begin and could not has ended when the next is to begin, or none is.
fn never_began(row: &mut ProcessRow, record: &Record<'_>, _: Fields<'_>) -> Result<(), Skip> {
    if row.state == Phase::Starting {
        row.state = Phase::Ended;
        row.ended_at_ms = Some(record.time_ms);
    }
    Ok(())
}

fn closed(row: &mut ProcessRow, _: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    let total = StreamTotal {
        stream: fields.need("stream")?,
        total_bytes: fields.need("totalBytes")?,
        cut_bytes: fields.get("cutBytes").unwrap_or_default(),
    };
    put_total(row, total);
    Ok(())
}

fn totals(row: &mut ProcessRow, fields: Fields<'_>) {
    let streams: Vec<StreamTotal> = fields.get("streams").unwrap_or_default();
    streams.into_iter().for_each(|total| put_total(row, total));
}

fn put_total(row: &mut ProcessRow, total: StreamTotal) {
    row.streams.retain(|known| known.stream != total.stream);
    row.streams.push(total);
    row.streams.sort_by_key(|known| known.stream as u8);
}

fn progress(row: &mut ProcessRow, record: &Record<'_>, fields: Fields<'_>) -> Result<(), Skip> {
    let word = |name| fields.get::<&str>(name).map(|text| cut(text, WORD_BYTES_MAX));
    let number = |name| fields.get::<f64>(name).filter(|number| number.is_finite());
    row.progress = Some(ProgressRow {
        adapter: word("adapter"),
        done: number("done"),
        total: number("total"),
        unit: word("unit"),
        rate: number("rate"),
        eta_ms: number("etaMs"),
        at_ms: record.time_ms,
    });
    Ok(())
}

/// `sessions`.
pub(super) fn fold_session(record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let topic = &*record.topic;
    if !matches!(
        topic,
        ProcessSpawned::TOPIC
            | ProcessRestarted::TOPIC
            | ProcessRestartsSpent::TOPIC
            | ProcessEnded::TOPIC
            | ProcessLost::TOPIC
    ) {
        return Ok(Folded::No);
    }
    let fields = Fields::of(record);
    let id: ProcessId = fields.need("id")?;
    let session: &str = fields.need("session")?;
    let text = id.key().into_owned();
    let begins = matches!(topic, ProcessSpawned::TOPIC | ProcessRestarted::TOPIC);
    let fresh = || begins.then(|| unknown(&id));
    table.update(record.seq, (&text, &record.audience), fresh, |row| {
        let newest = row.session.as_deref() == Some(session);
        match topic {
            ProcessRestarted::TOPIC => {
                row.restarts += 1;
                row.open = true;
            }
            ProcessSpawned::TOPIC if !newest => {
                row.id = id.clone();
                row.session = Some(session.to_owned());
                row.lives += 1;
                row.started_at_ms = fields.get("startedAtMs").or(Some(record.time_ms));
                row.open = true;
            }
            ProcessEnded::TOPIC | ProcessLost::TOPIC if newest => row.open = false,
            ProcessRestartsSpent::TOPIC => row.open = false,
            _ => {}
        }
        Ok(())
    })
}

fn unknown(id: &ProcessId) -> SessionRow {
    SessionRow { id: id.clone(), session: None, lives: 0, restarts: 0, started_at_ms: None, open: false }
}
