//! `kairo open`: a stream of a process as a path, for programs that know nothing else.

use crate::cli::args::process::{Open, OutputChoice, PolicyChoice};
use crate::cli::context::{Context, Outcome, json_of, process_id};
use crate::cli::logs;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::open::{OpenParams, OpenStdinParams, StdinTransport, Transport};
use kairo_wire::methods::stream::{Policy, StreamName};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn open(context: &Context, args: &Open) -> Outcome {
    let id = process_id(&args.id)?;
    let wait_ms = args.wait.map(|wait| u32::try_from(wait.0).unwrap_or(u32::MAX));
    let client = context.client()?;
    let (result, path) = if args.stdin {
        let (transport, keep_open) = (StdinTransport::Fifo, args.keep_open);
        let params = OpenStdinParams { id, transport, keep_open, wait_ms };
        let (result, path) = client.open_stdin_fifo(&params)?;
        (json_of(&result)?, path)
    } else {
        let (result, path) = client.open_fifo(&output(args, id, wait_ms))?;
        (json_of(&result)?, path)
    };
    if context.json {
        context.object(result)?;
    } else {
        // A path is bytes, and the shell takes them as they are.
        io::stdout().lock().write_all(&[path.as_os_str().as_bytes(), b"\n"].concat())?;
    }
    Ok(0)
}

fn output(args: &Open, id: ProcessId, wait_ms: Option<u32>) -> OpenParams {
    OpenParams {
        stream: match args.stream {
            OutputChoice::Stdout => StreamName::Stdout,
            OutputChoice::Stderr => StreamName::Stderr,
        },
        from: logs::start(args.from),
        policy: match args.policy {
            PolicyChoice::Block => Policy::Block,
            PolicyChoice::DropOldest => Policy::DropOldest,
            PolicyChoice::Spool => Policy::Spool,
        },
        wait_ms,
        ..OpenParams::of(id, Transport::Fifo)
    }
}
