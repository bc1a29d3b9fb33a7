//! `kairo write`: bytes into a process.

use crate::cli::args::process::Write;
use crate::cli::context::{Context, Outcome, json_of, process_id};
use crate::cli::escape::unescape;
use crate::cli::failure::Failure;
use bytes::Bytes;
use kairo_client::{CallError, Client};
use kairo_wire::codec::data::Data;
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::{
    StdinClose, StdinCloseResult, StdinCloseStatus, StdinWrite, StdinWriteParams, TargetParams,
};
use std::io::{self, Read};

/// Bytes of stdin that are sent at a time; the next wait until these are in the child's pipe.
const WRITE_BYTES: usize = 256 << 10;

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
