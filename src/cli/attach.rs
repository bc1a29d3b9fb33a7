//! `kairo attach`: this terminal and a process, connected.
//!
//! Three parties, a thread each: the process's output is printed (the main thread), what is typed goes to its stdin
//! and is watched for the detach keys, and signals are answered (a changed window, an end asked for). Whoever finds
//! that it is over restores the terminal and ends the program; the terminal is restored first on every way out.

use crate::cli::args::process::Attach;
use crate::cli::context::{Context, Outcome, process_id};
use crate::cli::detach::{DetachKeys, Watch};
use crate::cli::failure::Failure;
use crate::cli::output::Printer;
use crate::cli::processes::{exit_code, known_status};
use crate::cli::streams::close_stdin;
use crate::cli::terminal::{self, Raw, Size};
use crate::cli::violations::Violations;
use bytes::Bytes;
use kairo_client::{CallError, Client, DirectItem, DirectStream};
use kairo_wire::codec::data::Data;
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::{self, ResizeParams, StdinWrite, StdinWriteParams, WaitParams};
use kairo_wire::methods::status::{Detail, Phase};
use kairo_wire::methods::stream::{Selector, Start, SubscribeParams};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use std::io::{self, IsTerminal, Read, Write};

/// Bytes taken from the keyboard (or a file in its place) at a time.
const TYPED_BYTES: usize = 64 << 10;

pub(crate) fn attach(context: &Context, args: &Attach) -> Outcome {
    let id = process_id(&args.id)?;
    // Of the two connections the one that shows what comes tells when the daemon is gone.
    let client = context.lasting_silently(args.lasting.no_reconnect)?;
    let found = known_status(&client, &id)?;
    let detail = found.detail.ok_or_else(|| Failure::new("E_SHAPE", "the daemon tells no details"))?;
    if matches!(detail.phase, Phase::Exited | Phase::Ended | Phase::Lost) && !args.replay {
        return Err(Failure::new(Code::NotFound.name(), format!("{id} has exited"))
            .advise(format!("see what it wrote: kairo logs {id}")));
    }
    let params = SubscribeParams {
        id: Some(id.clone()),
        stream: if detail.terminal.is_some() { Selector::Stdout } else { Selector::Both },
        from: if args.replay { Start::Oldest } else { Start::Now },
        ..SubscribeParams::default()
    };
    let _violations = detail
        .sandbox
        .is_some()
        .then(|| Violations::begin(context, &client, std::slice::from_ref(&id)))
        .transpose()?;
    let stream = context.lasting(args.lasting.no_reconnect)?.into_stream(&params)?;
    let session = Session { client, id, name: args.id.clone() };
    let raw = take_over(&session, &detail, args)?;
    let shown = show(stream, Printer::new(&args.id, context.json)?);
    drop(raw);
    shown?;
    let ended =
        session.client.call::<process::Wait>(&WaitParams { id: session.id.clone(), timeout_ms: None })?;
    if context.json {
        context.object(crate::cli::context::json_of(&ended)?)?;
    }
    Ok(exit_code(&ended))
}

/// Who is attached to what.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) id: ProcessId,
    pub(crate) name: String,
}

/// Starts the threads for keys and signals, and makes the terminal raw if the process has one too.
fn take_over(session: &Session, detail: &Detail, args: &Attach) -> Result<Option<Raw>, Failure> {
    let keys = if args.read_only { None } else { Some(args.detach_keys.clone()) };
    match detail.terminal {
        None => {
            on_signals(session, false)?;
            if let Some(_keys) = keys {
                on_lines(session)?;
            }
            Ok(None)
        }
        Some(_) => {
            let raw = on_terminal(session, keys)?;
            if let Some(size) = terminal::size() {
                repaint(session, size)?;
            }
            Ok(raw)
        }
    }
}

/// Connects our terminal to a process that has one. Without keys what is typed stays here.
pub(crate) fn on_terminal(session: &Session, keys: Option<DetachKeys>) -> Result<Option<Raw>, Failure> {
    on_signals(session, true)?;
    let Some(keys) = keys else { return Ok(None) };
    let raw = if io::stdin().is_terminal() {
        if keys.leave() && io::stderr().is_terminal() {
            eprintln!("kairo: attached to {}; {keys} leaves it running", session.name);
        }
        Some(Raw::enter()?)
    } else {
        None
    };
    let session = session.clone();
    spawn_thread("keys", move || feed_keys(&session, Watch::new(keys)))?;
    Ok(raw)
}

fn on_lines(session: &Session) -> Result<(), Failure> {
    let session = session.clone();
    spawn_thread("stdin", move || feed_lines(&session))
}

fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
    Ok(())
}

/// Prints until the process has exited, and all it wrote is printed, or its streams have ended.
fn show(mut stream: DirectStream, mut printer: Printer) -> Result<(), Failure> {
    while let Some(item) = stream.next_item()? {
        if let DirectItem::LeaderExited { .. } = item {
            return Ok(());
        }
        printer.print(&item)?;
    }
    Ok(())
}

/// From the keyboard to the process's terminal, until the detach keys or the end of what is typed.
fn feed_keys(session: &Session, mut watch: Watch) {
    let mut typed = vec![0; TYPED_BYTES];
    let mut onward = Vec::new();
    loop {
        let read = io::stdin().lock().read(&mut typed);
        onward.clear();
        let over = match read {
            Ok(0) => {
                watch.finish(&mut onward);
                true
            }
            Ok(read) => {
                if watch.feed(&typed[..read], &mut onward) {
                    put(session, &onward);
                    leave(0, Some(&format!("left {} running; kairo attach {0} comes back", session.name)));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => true,
        };
        if !put(session, &onward) || over {
            return;
        }
    }
}

/// From our stdin to the process's, and its end too.
fn feed_lines(session: &Session) {
    let mut typed = vec![0; TYPED_BYTES];
    loop {
        match io::stdin().lock().read(&mut typed) {
            Ok(0) => {
                // Closed already, or the process is gone: both are what was wanted.
                let _ = close_stdin(&session.client, &session.id);
                return;
            }
            Ok(read) => {
                if !put(session, &typed[..read]) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// False if the process takes no more.
fn put(session: &Session, bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let data = Data(Bytes::copy_from_slice(bytes));
    match session.client.call::<StdinWrite>(&StdinWriteParams { id: session.id.clone(), data }) {
        Ok(_) => true,
        // The main thread tells what happened to the process or the connection.
        Err(CallError::Kernel(_) | CallError::Lost(_)) => false,
        Err(
            error @ (CallError::Interrupted { .. }
            | CallError::Deadline
            | CallError::Shape(_)
            | CallError::TooLarge { .. }),
        ) => leave(crate::cli::failure::FAILED, Some(&error.to_string())),
    }
}

fn on_signals(session: &Session, has_terminal: bool) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGHUP, SIGINT, SIGQUIT])?;
    let session = session.clone();
    spawn_thread("signals", move || {
        for signal in signals.forever() {
            match signal {
                SIGWINCH if has_terminal => {
                    if let Some(size) = terminal::size() {
                        // A process that has gone needs no size.
                        let _ = resize(&session, size);
                    }
                }
                SIGWINCH => {}
                other => {
                    let exit = crate::cli::failure::exit_of(None, Some(other));
                    leave(exit, Some(&format!("left {} running", session.name)));
                }
            }
        }
    })
}

/// Ends the program from any thread, the terminal restored first.
fn leave(exit: u8, words: Option<&str>) -> ! {
    terminal::restore();
    let _ = io::stdout().lock().flush();
    if let Some(words) = words {
        eprintln!("\nkairo: {words}");
    }
    std::process::exit(exit.into())
}

fn resize(session: &Session, size: Size) -> Result<(), CallError> {
    let params = ResizeParams { id: session.id.clone(), rows: size.rows, cols: size.cols };
    session.client.call::<process::Resize>(&params).map(drop)
}

/// Gives the process our size in a way it notices even if it had that size before: programs that draw the whole
/// screen draw it again.
fn repaint(session: &Session, size: Size) -> Result<(), Failure> {
    let other = Size { cols: if size.cols > 1 { size.cols - 1 } else { 2 }, ..size };
    let ended = |error: &CallError| matches!(error.code(), Some(Code::NotFound | Code::NoTerminal));
    match resize(session, other).and_then(|()| resize(session, size)) {
        Err(error) if !ended(&error) => Err(error.into()),
        // A process that has just ended is told of by its streams.
        Ok(()) | Err(_) => Ok(()),
    }
}
