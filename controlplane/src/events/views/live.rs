//! The view `live`: the processes whose leader runs, the outputs that are open, the intents that have not ended.
//!
//! Invariant: what has ended has no row for whoever may hear of its end, so the view is as small as what is there: ends
//! are told to whom the beginnings were told.

use crate::events::record::Record;
use crate::events::views::fold::{Fields, Folded, Skip, cut};
use crate::events::views::intents;
use crate::events::views::table::{State, Table};
use kairo_wire::event::{Event, ProcessEnded, ProcessExited, ProcessLost, ProcessSpawned, StreamClosed};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::rows::{LiveKind, LiveRow};
use kairo_wire::methods::stream::StreamName;

const STREAMS: [StreamName; 2] = [StreamName::Stdout, StreamName::Stderr];

/// Longest name of a life, bytes: with it no key is too long, so a spawn has all of its rows or none.
const SESSION_BYTES_MAX: usize = 255;

/// Longest name of an intent that is kept, bytes.
const NAME_BYTES_MAX: usize = 512;

pub(super) fn fold(record: &Record<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let fields = Fields::of(record);
    match &*record.topic {
        intents::STARTED => intent(record, fields, table),
        intents::ENDED | intents::CANCELLED => {
            let Some(id) = intents::named(record, fields)? else { return Ok(Folded::No) };
            Ok(gone(record, table, &[format!("intent/{id}")]))
        }
        ProcessSpawned::TOPIC => spawned(record, fields, table),
        ProcessExited::TOPIC => {
            let session: &str = fields.need("session")?;
            Ok(gone(record, table, &[format!("process/{session}")]))
        }
        ProcessEnded::TOPIC | ProcessLost::TOPIC => {
            let session: &str = fields.need("session")?;
            let streams = STREAMS.map(|stream| format!("stream/{session}/{}", stream.word()));
            Ok(gone(record, table, &[&[format!("process/{session}")][..], &streams].concat()))
        }
        StreamClosed::TOPIC => {
            let (session, stream): (&str, StreamName) = (fields.need("session")?, fields.need("stream")?);
            Ok(gone(record, table, &[format!("stream/{session}/{}", stream.word())]))
        }
        _ => Ok(Folded::No),
    }
}

impl State for LiveRow {}

/// What was not there is no event of this view's.
fn gone(record: &Record<'_>, table: &mut Table, texts: &[String]) -> Folded {
    let removed = texts.iter().filter(|text| table.remove(record.seq, text, &record.audience)).count();
    if removed > 0 { Folded::Yes } else { Folded::No }
}

fn row(record: &Record<'_>, kind: LiveKind) -> LiveRow {
    LiveRow {
        kind,
        id: None,
        session: None,
        stream: None,
        name: None,
        intent_id: record.intent.as_deref().map(str::to_owned),
        since_ms: record.time_ms,
    }
}

fn put(record: &Record<'_>, table: &mut Table, text: &str, row: LiveRow) -> Result<Folded, Skip> {
    table.update(record.seq, (text, &record.audience), || Some(row), |_| Ok(()))
}

fn intent(record: &Record<'_>, fields: Fields<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let Some(id) = intents::named(record, fields)? else { return Ok(Folded::No) };
    let name = fields.get::<&str>("name").map(|name| cut(name, NAME_BYTES_MAX));
    let row = LiveRow { name, intent_id: Some(id.to_owned()), ..row(record, LiveKind::Intent) };
    put(record, table, &format!("intent/{id}"), row)
}

/// A spawn that doesn't say which outputs there are has both: one that isn't there goes with the tree.
fn spawned(record: &Record<'_>, fields: Fields<'_>, table: &mut Table) -> Result<Folded, Skip> {
    let id: ProcessId = fields.need("id")?;
    let session: &str = fields.need("session")?;
    if session.len() > SESSION_BYTES_MAX {
        return Err(Skip::new("session: is too long"));
    }
    let streams = fields.get::<Vec<StreamName>>("streams").unwrap_or_else(|| STREAMS.to_vec());
    let of = |kind, stream| LiveRow {
        id: Some(id.clone()),
        session: Some(session.to_owned()),
        stream,
        ..row(record, kind)
    };
    let folded = put(record, table, &format!("process/{session}"), of(LiveKind::Process, None))?;
    for stream in streams {
        let text = format!("stream/{session}/{}", stream.word());
        put(record, table, &text, of(LiveKind::Stream, Some(stream)))?;
    }
    Ok(folded)
}
