//! `kairo logs` and `kairo write`: bytes out of a process, bytes into it.

use crate::cli::args::{FromChoice, Logs, StreamChoice, Write};
use crate::cli::context::{Context, Outcome, json_of, process_id};
use crate::cli::escape::unescape;
use crate::cli::failure::Failure;
use crate::cli::output::Printer;
use bytes::Bytes;
use kairo_client::{CallError, Client, DirectStream};
use kairo_wire::codec::data::Data;
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::{
    self, StatusParams, StdinClose, StdinCloseResult, StdinCloseStatus, StdinWrite, StdinWriteParams,
    TargetParams,
};
use kairo_wire::methods::status::ProcessStatus;
use kairo_wire::methods::stream::{Policy, Selector, Start, StreamName, SubscribeParams};
use std::io::{self, Read};

/// Bytes of stdin that are sent at a time; the next wait until these are in the child's pipe.
const WRITE_BYTES: usize = 256 << 10;

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
    let selector = select(args.stream, &found);
    let params = SubscribeParams {
        id: Some(id),
        stream: selector,
        from: start(args.from),
        policy: Policy::Block,
        ..SubscribeParams::default()
    };
    let targets = if args.follow || !known { None } else { Some(Targets::of(&found, selector)) };
    let mut stream = client.into_stream(&params)?;
    let mut printer = Printer::new(&args.id, context.json)?;
    print_until(&mut stream, &mut printer, targets, args.from)?;
    Ok(0)
}

/// A terminal has one stream, whatever was asked for.
fn select(choice: StreamChoice, found: &ProcessStatus) -> Selector {
    let terminal = found.detail.as_ref().is_some_and(|detail| detail.terminal.is_some());
    match choice {
        StreamChoice::Both if terminal => Selector::Stdout,
        StreamChoice::Stdout => Selector::Stdout,
        StreamChoice::Stderr => Selector::Stderr,
        StreamChoice::Both => Selector::Both,
    }
}

fn start(from: FromChoice) -> Start {
    match from {
        FromChoice::Oldest => Start::Oldest,
        FromChoice::Now => Start::Now,
        FromChoice::Offset(offset) => Start::At(offset),
    }
}

/// Where each stream was when we asked: without `--follow` that is where we stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Targets([u64; 2]);

impl Targets {
    fn of(found: &ProcessStatus, selector: Selector) -> Targets {
        let mut targets = [0; 2];
        for stream in found.detail.iter().flat_map(|detail| &detail.streams) {
            match stream.stream {
                StreamName::Stdout if selector.stdout() => targets[0] = stream.bytes,
                StreamName::Stderr if selector.stderr() => targets[1] = stream.bytes,
                StreamName::Stdout | StreamName::Stderr => {}
            }
        }
        Targets(targets)
    }

    fn reached(self, stream: &DirectStream, from: FromChoice) -> bool {
        let begins = match from {
            FromChoice::Oldest => 0,
            FromChoice::Offset(offset) => offset,
            FromChoice::Now => return true,
        };
        let at = |name| stream.position(name).unwrap_or(begins);
        at(StreamName::Stdout) >= self.0[0] && at(StreamName::Stderr) >= self.0[1]
    }
}

fn print_until(
    stream: &mut DirectStream,
    printer: &mut Printer,
    targets: Option<Targets>,
    from: FromChoice,
) -> Result<(), Failure> {
    let mut ended = [false; 2];
    loop {
        // An ended stream's account is closed, so its position says nothing any more.
        let reached = targets.is_some_and(|Targets([stdout, stderr])| {
            let left = Targets([if ended[0] { 0 } else { stdout }, if ended[1] { 0 } else { stderr }]);
            left.reached(stream, from)
        });
        if reached {
            return Ok(());
        }
        let Some(item) = stream.next_item()? else { return Ok(()) };
        if let kairo_client::DirectItem::End { stream, .. } = &item {
            ended[usize::from(*stream == StreamName::Stderr)] = true;
        }
        printer.print(&item)?;
    }
}

pub(crate) fn write(context: &Context, args: &Write) -> Outcome {
    let id = process_id(&args.id)?;
    let typed = match args.data.as_deref() {
        None | Some("-") => None,
        Some(text) if args.raw => Some(text.as_bytes().to_vec()),
        Some(text) => Some(unescape(text).map_err(|error| Failure::usage(error.to_string()))?),
    };
    let client = context.lasting(args.lasting.no_reconnect)?;
    let mut last = None;
    match typed {
        Some(bytes) => {
            for piece in bytes.chunks(WRITE_BYTES) {
                last = Some(put(&client, &id, Bytes::copy_from_slice(piece))?);
            }
        }
        None => {
            let mut piece = vec![0; WRITE_BYTES];
            loop {
                let read = io::stdin().lock().read(&mut piece)?;
                if read == 0 {
                    break;
                }
                last = Some(put(&client, &id, Bytes::copy_from_slice(&piece[..read]))?);
            }
        }
    }
    if args.close {
        let closed = close_stdin(&client, &id)?;
        if context.json && last.is_none() {
            context.object(json_of(&closed)?)?;
        }
    }
    if let (true, Some(written)) = (context.json, last) {
        context.object(written)?;
    }
    Ok(0)
}

/// Writes and waits until the bytes are in the child's pipe.
fn put(client: &Client, id: &ProcessId, bytes: Bytes) -> Result<serde_json::Value, Failure> {
    let written = client.call::<StdinWrite>(&StdinWriteParams { id: id.clone(), data: Data(bytes) })?;
    json_of(&written)
}

/// Closes a stdin. Twice is as good as once, so a daemon that went away before it answered is asked again.
pub(crate) fn close_stdin(client: &Client, id: &ProcessId) -> Result<StdinCloseResult, CallError> {
    let params = TargetParams { id: id.clone() };
    match client.call::<StdinClose>(&params) {
        Err(CallError::Interrupted { .. }) => match client.call::<StdinClose>(&params) {
            Err(error) if error.code() == Some(Code::StdinClosed) => {
                Ok(StdinCloseResult { status: StdinCloseStatus::Closed, id: id.clone() })
            }
            again => again,
        },
        first => first,
    }
}
