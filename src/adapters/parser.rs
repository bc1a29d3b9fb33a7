//! Bytes in, events out: one parser per process, under its declaration.
//!
//! A broken line is counted and read no further; a report of which parts are missing is dropped. Time comes in as an
//! argument and does two things: it paces the events (the last one always comes, if late), and it says how fast a
//! program goes that doesn't say so itself. The invariant: the same bytes of each stream at the same times give the
//! same events, in whatever pieces they come.

use crate::adapters::declaration::{Declaration, Format, Source};
use crate::adapters::lines::{Line, Lines, plain};
use crate::adapters::progress::{Known, Progress, Record, put, word};
use regex::bytes::Regex;
use serde_json::Value;
use std::sync::Arc;

/// How deep an object's words are looked for.
const DEPTH_MAX: usize = 4;

/// Reads what one process says of itself.
#[derive(Debug)]
pub(crate) struct Parser {
    reading: Reading,
    lines: [Lines; 3],
    pace: Pace,
}

/// What has been understood.
#[derive(Debug)]
struct Reading {
    declaration: Arc<Declaration>,
    /// When the process was started.
    started_ms: u64,
    /// What is known besides the reports.
    known: Known,
    /// The report under way.
    record: Record,
    broken_lines: u64,
}

/// Which of the events are sent, and when.
#[derive(Debug)]
struct Pace {
    interval_ms: u64,
    sent_ms: Option<u64>,
    /// The latest that is held back.
    held: Option<Progress>,
    /// The latest there was.
    last: Option<Progress>,
}

impl Parser {
    /// For a process that was started at a time of the same clock as the times below.
    pub(crate) fn new(declaration: Arc<Declaration>, started_ms: u64) -> Parser {
        let interval_ms = 1_000 / u64::from(declaration.rate_limit.max(1));
        Parser {
            reading: Reading {
                declaration,
                started_ms,
                known: Known::default(),
                record: Record::new(),
                broken_lines: 0,
            },
            lines: Default::default(),
            pace: Pace { interval_ms, sent_ms: None, held: None, last: None },
        }
    }

    /// Reads a piece of a stream.
    pub(crate) fn feed(&mut self, source: Source, bytes: &[u8], now_ms: u64, out: &mut Vec<Progress>) {
        let Parser { reading, lines, pace } = self;
        lines[source as usize]
            .feed(bytes, |line| pace.offer(reading.line(source, line, now_ms), now_ms, out));
    }

    /// Bytes of a stream are missing here.
    pub(crate) fn lose(&mut self, source: Source) {
        self.lines[source as usize].lose();
        if self.reading.declaration.source == source {
            self.reading.record.clear();
        }
    }

    /// A stream is over: its last line needs no end. The last event comes when the stream of the reports is.
    pub(crate) fn end(&mut self, source: Source, now_ms: u64, out: &mut Vec<Progress>) {
        let Parser { reading, lines, pace } = self;
        lines[source as usize].end(|line| pace.offer(reading.line(source, line, now_ms), now_ms, out));
        if reading.declaration.source == source {
            pace.release(now_ms, out);
        }
    }

    /// What comes until its time is over was told before: of that only the last is sent.
    pub(crate) fn resume(&mut self, now_ms: u64) {
        self.pace.sent_ms = Some(now_ms);
    }

    /// When [`Self::flush`] has something to send.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.pace.held.as_ref()?;
        Some(self.pace.sent_ms? + self.pace.interval_ms)
    }

    /// Sends what was held back, if its time has come.
    pub(crate) fn flush(&mut self, now_ms: u64, out: &mut Vec<Progress>) {
        if self.due_ms().is_some_and(|due| due <= now_ms) {
            self.pace.release(now_ms, out);
        }
    }
}

impl Pace {
    fn offer(&mut self, found: Option<Progress>, now_ms: u64, out: &mut Vec<Progress>) {
        let Some(found) = found else { return };
        if self.last.as_ref().is_some_and(|last| !found.is_news(last)) {
            return;
        }
        self.last = Some(found.clone());
        self.held = Some(found);
        // A clock that was set back holds nothing up.
        if self.sent_ms.is_none_or(|sent| now_ms < sent || now_ms - sent >= self.interval_ms) {
            self.release(now_ms, out);
        }
    }

    fn release(&mut self, now_ms: u64, out: &mut Vec<Progress>) {
        if let Some(held) = self.held.take() {
            self.sent_ms = Some(now_ms);
            out.push(held);
        }
    }
}

impl Reading {
    fn line(&mut self, source: Source, line: Line<'_>, now_ms: u64) -> Option<Progress> {
        let Line::Whole(line) = line else {
            // A program's own output may be one line of a gigabyte; only where reports are due is that a broken one.
            self.broken_lines += u64::from(self.declaration.source == source);
            return None;
        };
        let line = plain(line);
        let declaration = Arc::clone(&self.declaration);
        for hint in declaration.context.iter().filter(|hint| hint.source == source) {
            let mut record = Record::new();
            if captured(&hint.pattern, &line, &mut record) {
                let (known, broken) = Known::read(&hint.fields, &record);
                self.broken_lines += broken;
                self.known.learn(known);
            }
        }
        if declaration.source != source || !self.understand(&declaration, &line) {
            return None;
        }
        let record = std::mem::take(&mut self.record);
        let (said, broken) = Known::read(&declaration.fields, &record);
        self.broken_lines += broken;
        let elapsed_ms = now_ms.saturating_sub(self.started_ms);
        let report = said.report(&self.known, declaration.unit.as_deref(), elapsed_ms)?;
        Some(Progress { raw: record, broken_lines: self.broken_lines, ..report })
    }

    /// Takes a line into the report; true exactly when that is whole.
    fn understand(&mut self, declaration: &Declaration, line: &[u8]) -> bool {
        match declaration.format {
            Format::Regex => {
                declaration.patterns.iter().any(|pattern| captured(pattern, line, &mut self.record))
            }
            Format::KeyValue => {
                let at = line.iter().position(|byte| *byte == b'=');
                let Some((key, value)) = at.map(|at| (word(&line[..at]), word(&line[at + 1..]))) else {
                    self.broken_lines += 1;
                    return false;
                };
                let over = declaration.end.as_ref() == Some(&key);
                put(&mut self.record, key, value);
                over
            }
            Format::JsonLines => match serde_json::from_slice(line) {
                Ok(Value::Object(fields)) => {
                    let object = Value::Object(fields);
                    flatten("", &object, 0, &mut self.record);
                    true
                }
                Ok(_) | Err(_) => {
                    self.broken_lines += u64::from(!line.trim_ascii().is_empty());
                    false
                }
            },
        }
    }
}

/// The named groups of a line that matches, as words.
fn captured(pattern: &Regex, line: &[u8], record: &mut Record) -> bool {
    let Some(found) = pattern.captures(line) else { return false };
    for name in pattern.capture_names().flatten() {
        if let Some(group) = found.name(name) {
            put(record, name.to_owned(), word(group.as_bytes()));
        }
    }
    true
}

/// An object's numbers and texts, called by the way to them: `stats.done`.
fn flatten(name: &str, value: &Value, depth: usize, record: &mut Record) {
    match value {
        Value::Object(fields) if depth < DEPTH_MAX => {
            for (key, value) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, depth + 1, record);
            }
        }
        Value::String(text) => put(record, word(name.as_bytes()), word(text.as_bytes())),
        Value::Number(number) => put(record, word(name.as_bytes()), number.to_string()),
        Value::Bool(flag) => put(record, word(name.as_bytes()), flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {}
    }
}

#[cfg(test)]
mod tests;
