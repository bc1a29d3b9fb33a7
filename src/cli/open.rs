//! `kairo open`: a stream of a process as a path, for programs that know nothing else.

use crate::cli::args::process::{Open, OutputChoice, PolicyChoice};
use crate::cli::context::{Context, Outcome, json_of, process_id};
use crate::cli::logs;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::stream::{Policy, StreamName};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

pub(crate) fn open(context: &Context, args: &Open) -> Outcome {
    let params = OpenParams {
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
        wait_ms: args.wait.map(|wait| u32::try_from(wait.0).unwrap_or(u32::MAX)),
        ..OpenParams::of(process_id(&args.id)?, Transport::Fifo)
    };
    let (result, path) = context.client()?.open_fifo(&params)?;
    if context.json {
        context.object(json_of(&result)?)?;
    } else {
        // A path is bytes, and the shell takes them as they are.
        io::stdout().lock().write_all(&[path.as_os_str().as_bytes(), b"\n"].concat())?;
    }
    Ok(0)
}
