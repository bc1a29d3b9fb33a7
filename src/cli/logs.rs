//! `kairo logs`: what a process has written, all of it or a part, as it is, line by line or into a file.
//!
//! ```text
//!  from, tail ─▶ where to begin ─▶ chunks ─▶ head: where to stop ─▶ screen | lines that match | file
//! ```
//!
//! Invariant: memory doesn't grow with what is read. A tail counted in lines is found backwards, window by window, and
//! remembers where so many lines begin; a line is held only up to [`LINE_BYTES_MAX`].

use crate::cli::args::process::{FromChoice, Logs, StreamChoice};
use crate::cli::context::{Context, Outcome, process_id, versioned};
use crate::cli::failure::Failure;
use crate::cli::output::Printer;
use crate::cli::violations::Violations;
use kairo_client::{DirectItem, DirectStream};
use kairo_wire::codec::data::Data;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::{self, StatusParams};
use kairo_wire::methods::status::ProcessStatus;
use kairo_wire::methods::stream::{Policy, Selector, Start, StreamName, SubscribeParams};
use regex::bytes::Regex;
use serde_json::json;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// Longest line that is matched as one; of a longer one each piece of this length is a line.
const LINE_BYTES_MAX: usize = 64 << 10;
/// The first window looked through for a tail's lines; each further one is four times as large.
const WINDOW_BYTES: u64 = 64 << 10;

/// `--head` and `--tail`: so many lines, or so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Lines(u64),
    Bytes(u64),
}

impl std::str::FromStr for Amount {
    type Err = String;

    /// A bare number counts lines, one with a unit bytes.
    fn from_str(text: &str) -> Result<Amount, String> {
        if let Ok(lines) = text.parse() {
            return Ok(Amount::Lines(lines));
        }
        let size = crate::config::raw::ByteSize::parse(text);
        let wrong = || format!("{text:?} is no amount; write 100 for lines, 512B, 64KiB or 1MiB for bytes");
        size.map(|size| Amount::Bytes(size.0)).ok_or_else(wrong)
    }
}

pub(crate) fn logs(context: &Context, args: &Logs) -> Outcome {
    let id = process_id(&args.id)?;
    let client = context.lasting(args.lasting.no_reconnect)?;
    let found = client.call::<process::Status>(&StatusParams { id: id.clone(), detail: true })?;
    let known = found.detail.is_some();
    if !known && !args.follow {
        crate::cli::processes::known_status(&client, &id)?;
    }
    if !known {
        eprintln!("kairo: there is no process {id} yet; waiting for it to be started");
    }
    let selector = select(args, &found)?;
    let mut sink = Sink::new(context, args, selector)?;
    let targets = if args.follow || !known { None } else { Some(Targets::of(&found, selector)) };
    let wish = Wish { id, selector, policy: policy(&found) };
    let start = match args.tail {
        Some(amount) => Start::from(tail(context, &wish, &found, args.from, amount)?),
        None => start(args.from),
    };
    let _violations = match args.follow {
        true => Some(Violations::begin(
            context,
            &context.lasting_silently(args.lasting.no_reconnect)?,
            std::slice::from_ref(&wish.id),
        )?),
        false => None,
    };
    let mut stream = client.into_stream(&wish.from(start))?;
    pass(&mut stream, &mut sink, &mut Head::new(args.head, selector), targets, start)?;
    sink.finish()?;
    Ok(0)
}

/// What is read, but for where it begins.
struct Wish {
    id: ProcessId,
    selector: Selector,
    policy: Policy,
}

impl Wish {
    fn from(&self, from: Start) -> SubscribeParams {
        let Wish { id, selector, policy } = self;
        let (id, stream, policy) = (Some(id.clone()), *selector, *policy);
        SubscribeParams { id, stream, from, policy, ..SubscribeParams::default() }
    }
}

/// Whoever can be served from disk holds nobody up.
fn policy(found: &ProcessStatus) -> Policy {
    let spooled = found.detail.iter().flat_map(|detail| &detail.streams).any(|stream| stream.spool.is_some());
    if spooled { Policy::Spool } else { Policy::Block }
}

/// A terminal has one stream, whatever was asked for; a file holds one.
fn select(args: &Logs, found: &ProcessStatus) -> Result<Selector, Failure> {
    let terminal = found.detail.as_ref().is_some_and(|detail| detail.terminal.is_some());
    match args.stream {
        Some(StreamChoice::Both) if args.save.is_some() && !terminal => {
            let failure = Failure::usage("--save: a file holds one stream");
            Err(failure.advise("write --stream stdout or --stream stderr"))
        }
        Some(StreamChoice::Stderr) => Ok(Selector::Stderr),
        Some(StreamChoice::Stdout) => Ok(Selector::Stdout),
        Some(StreamChoice::Both) | None if terminal || args.save.is_some() => Ok(Selector::Stdout),
        Some(StreamChoice::Both) | None => Ok(Selector::Both),
    }
}

/// A place to begin, in the wire's words.
pub(crate) fn start(from: FromChoice) -> Start {
    match from {
        FromChoice::Oldest => Start::Oldest,
        FromChoice::Now => Start::Now,
        FromChoice::Offset(offset) => Start::At(offset),
    }
}

fn slot(stream: StreamName) -> usize {
    usize::from(stream == StreamName::Stderr)
}

const STREAMS: [StreamName; 2] = [StreamName::Stdout, StreamName::Stderr];

fn reads(selector: Selector, stream: StreamName) -> bool {
    match stream {
        StreamName::Stdout => selector.stdout(),
        StreamName::Stderr => selector.stderr(),
    }
}

/// Where each stream was when we asked: without `--follow` that is where we stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Targets([u64; 2]);

impl From<Targets> for Start {
    fn from(Targets([stdout, stderr]): Targets) -> Start {
        Start::Each { stdout, stderr }
    }
}

impl Targets {
    fn of(found: &ProcessStatus, selector: Selector) -> Targets {
        let mut targets = [0; 2];
        for stream in found.detail.iter().flat_map(|detail| &detail.streams) {
            if reads(selector, stream.stream) {
                targets[slot(stream.stream)] = stream.bytes;
            }
        }
        Targets(targets)
    }

    fn reached(self, stream: &DirectStream, begins: [u64; 2], ended: [bool; 2]) -> bool {
        // An ended stream's account is closed, so its position says nothing any more.
        let at = |name| stream.position(name).unwrap_or(begins[slot(name)]);
        STREAMS.into_iter().all(|name| ended[slot(name)] || at(name) >= self.0[slot(name)])
    }
}

/// Reads up to the targets, the end of the head, or the ends of the streams.
fn pass(
    stream: &mut DirectStream,
    sink: &mut dyn Take,
    head: &mut Head,
    targets: Option<Targets>,
    start: Start,
) -> Result<(), Failure> {
    let mut ended = [false; 2];
    let begins = match start {
        Start::Oldest => [0; 2],
        Start::At(offset) => [offset; 2],
        Start::Each { stdout, stderr } => [stdout, stderr],
        Start::Now if targets.is_some() => return Ok(()),
        Start::Now => [0; 2],
    };
    loop {
        if targets.is_some_and(|targets| targets.reached(stream, begins, ended)) || head.is_over(ended) {
            return Ok(());
        }
        let Some(item) = stream.next_item()? else { return Ok(()) };
        match item {
            DirectItem::Chunk { stream, offset, data, partial } => {
                let data = head.take(stream, data);
                if !data.is_empty() {
                    sink.take(&DirectItem::Chunk { stream, offset, data, partial })?;
                }
            }
            DirectItem::End { stream, .. } => {
                sink.take(&item)?;
                ended[slot(stream)] = true;
            }
            DirectItem::Gap { .. } | DirectItem::Overflow | DirectItem::LeaderExited { .. } => {
                sink.take(&item)?
            }
        }
    }
}

/// How much of each stream is still to come.
struct Head([Option<Amount>; 2]);

impl Head {
    fn new(amount: Option<Amount>, selector: Selector) -> Head {
        let left = |stream| if reads(selector, stream) { amount } else { Some(Amount::Bytes(0)) };
        Head(STREAMS.map(left))
    }

    /// The part of `data` that belongs to the head.
    fn take<'a>(&mut self, stream: StreamName, data: &'a [u8]) -> &'a [u8] {
        match &mut self.0[slot(stream)] {
            None => data,
            Some(Amount::Bytes(left)) => {
                let taken = &data[..data.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
                *left -= taken.len() as u64;
                taken
            }
            Some(Amount::Lines(left)) => {
                let mut end = 0;
                while *left > 0 && end < data.len() {
                    match data[end..].iter().position(|byte| *byte == b'\n') {
                        Some(at) => {
                            end += at + 1;
                            *left -= 1;
                        }
                        None => end = data.len(),
                    }
                }
                &data[..end]
            }
        }
    }

    fn is_over(&self, ended: [bool; 2]) -> bool {
        let over = |stream: StreamName| {
            ended[slot(stream)] || matches!(self.0[slot(stream)], Some(Amount::Bytes(0) | Amount::Lines(0)))
        };
        STREAMS.into_iter().all(over)
    }
}

/// Where a tail begins, in each stream.
fn tail(
    context: &Context,
    wish: &Wish,
    found: &ProcessStatus,
    from: FromChoice,
    amount: Amount,
) -> Result<Targets, Failure> {
    let ends = Targets::of(found, wish.selector);
    let least = match from {
        FromChoice::Oldest => 0,
        FromChoice::Offset(offset) => offset,
        FromChoice::Now => return Ok(ends),
    };
    let mut begins = [0; 2];
    for stream in STREAMS.into_iter().filter(|stream| reads(wish.selector, *stream)) {
        let end = ends.0[slot(stream)];
        begins[slot(stream)] = match amount {
            Amount::Bytes(bytes) => end.saturating_sub(bytes).max(least.min(end)),
            Amount::Lines(lines) => line_from_end(context, wish, stream, least.min(end)..end, lines)?,
        };
    }
    Ok(Targets(begins))
}

/// Where the last `lines` lines before the end of a range begin.
fn line_from_end(
    context: &Context,
    wish: &Wish,
    stream: StreamName,
    range: std::ops::Range<u64>,
    lines: u64,
) -> Result<u64, Failure> {
    let wish = Wish {
        id: wish.id.clone(),
        selector: match stream {
            StreamName::Stdout => Selector::Stdout,
            StreamName::Stderr => Selector::Stderr,
        },
        policy: wish.policy,
    };
    let mut window = WINDOW_BYTES;
    loop {
        let begin = range.end.saturating_sub(window).max(range.start);
        let mut starts = LineStarts::new(begin, range.end, lines);
        let mut targets = [0; 2];
        targets[slot(stream)] = range.end;
        let mut reader = context.client()?.into_stream(&wish.from(Start::At(begin)))?;
        let mut all = Head::new(None, wish.selector);
        pass(&mut reader, &mut starts, &mut all, Some(Targets(targets)), Start::At(begin))?;
        match starts.found() {
            Some(start) => return Ok(start),
            None if begin == range.start => return Ok(begin),
            None => window *= 4,
        }
    }
}

/// What is done with what comes.
trait Take {
    fn take(&mut self, item: &DirectItem<'_>) -> Result<(), Failure>;
}

/// Remembers where the last lines begin.
struct LineStarts {
    starts: VecDeque<u64>,
    begin: u64,
    end: u64,
    lines: u64,
}

impl LineStarts {
    fn new(begin: u64, end: u64, lines: u64) -> LineStarts {
        LineStarts { starts: VecDeque::new(), begin, end, lines }
    }

    fn note(&mut self, start: u64) {
        // A line begins only where there is something of it.
        if start < self.end {
            self.starts.push_back(start);
            if self.starts.len() as u64 > self.lines {
                self.starts.pop_front();
            }
        }
    }

    /// Of the first of them, if there were as many as wanted.
    fn found(&self) -> Option<u64> {
        if self.lines == 0 {
            return Some(self.end);
        }
        (self.starts.len() as u64 >= self.lines).then(|| self.starts.front().copied()).flatten()
    }
}

impl Take for LineStarts {
    fn take(&mut self, item: &DirectItem<'_>) -> Result<(), Failure> {
        if let DirectItem::Chunk { offset, data, .. } = item {
            if *offset == 0 && self.begin == 0 {
                self.note(0);
            }
            for (at, _) in data.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
                self.note(offset + at as u64 + 1);
            }
        }
        Ok(())
    }
}

/// Where it goes.
enum Sink {
    Print(Printer),
    Grep(Box<Grep>),
    Save(Save),
}

impl Sink {
    fn new(context: &Context, args: &Logs, selector: Selector) -> Result<Sink, Failure> {
        if let Some(path) = &args.save {
            return Ok(Sink::Save(Save::new(path, &args.id, selector, context.json)?));
        }
        let printer = Printer::new(&args.id, context.json)?;
        Ok(match &args.grep {
            Some(pattern) => {
                Sink::Grep(Box::new(Grep::new(pattern.clone(), args.offsets, context.json, printer)?))
            }
            None => Sink::Print(printer),
        })
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Sink::Print(_) => Ok(()),
            Sink::Grep(mut grep) => STREAMS.into_iter().try_for_each(|stream| grep.flush(stream)),
            Sink::Save(save) => save.finish(),
        }
    }
}

impl Take for Sink {
    fn take(&mut self, item: &DirectItem<'_>) -> Result<(), Failure> {
        match self {
            Sink::Print(printer) => printer.print(item),
            Sink::Grep(grep) => grep.take(item),
            Sink::Save(save) => save.take(item),
        }
    }
}

/// Prints the lines that match.
struct Grep {
    pattern: Regex,
    offsets: bool,
    json: bool,
    printer: Printer,
    stdout: File,
    /// The beginning of a line whose end has not come, and its offset, by stream.
    open: [(Vec<u8>, u64); 2],
    out: Vec<u8>,
}

impl Grep {
    fn new(pattern: Regex, offsets: bool, json: bool, printer: Printer) -> Result<Grep, Failure> {
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Grep { pattern, offsets, json, printer, stdout, open: Default::default(), out: Vec::new() })
    }

    fn take(&mut self, item: &DirectItem<'_>) -> Result<(), Failure> {
        match item {
            DirectItem::Chunk { stream, offset, data, .. } => self.lines(*stream, *offset, data),
            DirectItem::Gap { stream, .. } | DirectItem::End { stream, .. } => {
                self.flush(*stream)?;
                self.printer.print(item)
            }
            DirectItem::Overflow | DirectItem::LeaderExited { .. } => self.printer.print(item),
        }
    }

    fn lines(&mut self, stream: StreamName, offset: u64, mut data: &[u8]) -> Result<(), Failure> {
        let mut at = offset;
        while !data.is_empty() {
            let (mut line, mut begin) = std::mem::take(&mut self.open[slot(stream)]);
            if line.is_empty() {
                begin = at;
            }
            let room = LINE_BYTES_MAX - line.len();
            let end = data[..data.len().min(room)].iter().position(|byte| *byte == b'\n');
            let length = end.map_or(data.len().min(room), |end| end + 1);
            let (piece, rest) = data.split_at(length);
            if end.is_some() && line.is_empty() {
                self.line(stream, begin, piece)?;
            } else {
                line.extend_from_slice(piece);
                if end.is_some() || line.len() == LINE_BYTES_MAX {
                    self.line(stream, begin, &line)?;
                    line.clear();
                }
            }
            self.open[slot(stream)] = (line, begin);
            at += length as u64;
            data = rest;
        }
        self.put(stream)
    }

    fn line(&mut self, stream: StreamName, offset: u64, line: &[u8]) -> Result<(), Failure> {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        if !self.pattern.is_match(bare) {
            return Ok(());
        }
        if self.json {
            let data = Data(bytes::Bytes::copy_from_slice(line));
            let data =
                serde_json::to_value(&data).map_err(|error| Failure::new("E_SHAPE", error.to_string()))?;
            let line = versioned(json!({ "stream": stream.word(), "offset": offset, "data": data }));
            writeln!(self.out, "{line}")?;
            return Ok(());
        }
        if self.offsets {
            write!(self.out, "{offset}:")?;
        }
        self.out.extend_from_slice(bare);
        self.out.push(b'\n');
        Ok(())
    }

    fn put(&mut self, stream: StreamName) -> Result<(), Failure> {
        if !self.out.is_empty() {
            match stream {
                StreamName::Stderr if !self.json => io::stderr().lock().write_all(&self.out)?,
                StreamName::Stdout | StreamName::Stderr => self.stdout.write_all(&self.out)?,
            }
            self.out.clear();
        }
        Ok(())
    }

    /// The last line needn't have an end.
    fn flush(&mut self, stream: StreamName) -> Result<(), Failure> {
        let (line, offset) = std::mem::take(&mut self.open[slot(stream)]);
        if !line.is_empty() {
            self.line(stream, offset, &line)?;
        }
        self.put(stream)
    }
}

/// Writes the bytes to a file that has its name only once it is whole.
struct Save {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    what: String,
    json: bool,
    bytes: u64,
    gaps: u64,
    missed: u64,
}

impl Save {
    fn new(path: &Path, id: &str, selector: Selector, json: bool) -> Result<Save, Failure> {
        let mut name = path.file_name().map(ToOwned::to_owned).unwrap_or_default();
        if name.is_empty() {
            return Err(Failure::usage(format!("--save {}: that is no file's name", path.display())));
        }
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = File::create(&partial).map_err(|error| failed("make", &partial, &error))?;
        let stream = if selector == Selector::Stderr { StreamName::Stderr } else { StreamName::Stdout };
        let what = format!("{id}'s {}", stream.word());
        Ok(Save { file, path: path.to_owned(), partial, what, json, bytes: 0, gaps: 0, missed: 0 })
    }

    fn take(&mut self, item: &DirectItem<'_>) -> Result<(), Failure> {
        match item {
            DirectItem::Chunk { data, .. } => {
                self.file.write_all(data).map_err(|error| failed("write", &self.partial, &error))?;
                self.bytes += data.len() as u64;
            }
            DirectItem::Gap { from, to, .. } => {
                self.gaps += 1;
                self.missed += to - from;
                if !self.json {
                    let mut err = io::stderr().lock();
                    writeln!(err, "kairo: bytes {from} to {to} of {} are no longer kept", self.what)?;
                }
            }
            DirectItem::End { .. } | DirectItem::Overflow | DirectItem::LeaderExited { .. } => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let Save { file, path, partial, what, json, bytes, gaps, missed } = self;
        drop(file);
        std::fs::rename(&partial, &path).map_err(|error| failed("name", &path, &error))?;
        if json {
            let saved = path.display().to_string();
            let told = json!({ "saved": saved, "bytes": bytes, "gaps": gaps, "gapBytes": missed });
            writeln!(io::stdout().lock(), "{}", versioned(told))?;
        } else {
            let gone =
                if gaps == 0 { String::new() } else { format!(", {missed} more in {gaps} gaps are missing") };
            writeln!(io::stderr().lock(), "kairo: {}: {bytes} bytes of {what}{gone}", path.display())?;
        }
        Ok(())
    }
}

fn failed(step: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new("E_IO", format!("could not {step} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_counts_lines_and_one_with_a_unit_bytes() {
        assert_eq!("100".parse(), Ok(Amount::Lines(100)));
        assert_eq!("100B".parse(), Ok(Amount::Bytes(100)));
        assert_eq!("2MiB".parse(), Ok(Amount::Bytes(2 << 20)));
        for text in ["", "-1", "lines", "1KB"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_head_ends_within_a_chunk() {
        let mut lines = Head::new(Some(Amount::Lines(2)), Selector::Stdout);
        assert_eq!(lines.take(StreamName::Stdout, b"on"), b"on");
        assert_eq!(lines.take(StreamName::Stdout, b"e\ntwo\nthree\n"), b"e\ntwo\n");
        assert!(lines.is_over([false; 2]));
        let mut bytes = Head::new(Some(Amount::Bytes(5)), Selector::Both);
        assert_eq!(bytes.take(StreamName::Stdout, b"0123456"), b"01234");
        assert!(!bytes.is_over([false; 2]) && bytes.is_over([false, true]));
        assert!(!Head::new(None, Selector::Both).is_over([true, false]));
    }

    #[test]
    fn the_last_lines_are_found_whether_the_last_has_an_end_or_not() {
        let find = |text: &str, begin: u64, lines| {
            let end = begin + text.len() as u64;
            let mut starts = LineStarts::new(begin, end, lines);
            let chunk = DirectItem::Chunk {
                stream: StreamName::Stdout,
                offset: begin,
                data: text.as_bytes(),
                partial: false,
            };
            starts.take(&chunk).unwrap();
            starts.found()
        };
        assert_eq!(find("a\nb\nc\n", 0, 2), Some(2));
        assert_eq!(find("a\nb\nc", 0, 2), Some(2));
        assert_eq!(find("a\nb\nc", 0, 3), Some(0));
        assert_eq!(find("a\nb\nc", 0, 4), None);
        assert_eq!(find("a\nb\n", 100, 1), Some(102));
        assert_eq!(find("a\nb\n", 100, 2), None, "where the first line begins can't be told");
        assert_eq!(find("a\n", 0, 0), Some(2));
    }
}
