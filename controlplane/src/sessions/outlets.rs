//! Outlets: raw bytes of a stream on a descriptor that is the client's alone.
//!
//! ```text
//!   stream.open ──park──▶ Subscribe, with an outlet ──made──▶ the answer, with the client's end of it
//!                                    └────────────no──▶ the reader ends, the call is refused
//! ```
//!
//! Invariant: a call that opens an outlet and its reader have each other's names until the outlet is made; then the call is
//! answered, and the reader lives as any other.

use crate::calls::{Asking, Turn};
use crate::intents::members::Under;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::{Named, Opened, Pending, Place, RawSink, Wish};
use kairo_dataplane::command::OutletKind;
use kairo_dataplane::control::{Failure, Outcome};
use kairo_wire::codec::text::OsText;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{StreamEndReason, StreamEndRecord};
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::methods::open::{DescriptorRole, OpenResult, OpenStdinResult, Transport};
use kairo_wire::methods::stream::StreamName;
use std::os::unix::ffi::OsStringExt;

/// ENFILE and EMFILE, which have these numbers everywhere.
const TOO_MANY_FILES: [i32; 2] = [23, 24];
/// ETIMEDOUT of Linux, which alone has fifos: nobody has opened one.
const TIMED_OUT: i32 = 110;

/// An outlet to be.
#[derive(Debug)]
pub(crate) struct Opening {
    pub id: SubscriptionId,
    pub target: ProcessId,
    pub wish: Wish,
    /// Raw bytes leave by it; none for frames on a socket.
    pub kind: Option<OutletKind>,
    pub under: Option<Box<Under>>,
    /// What is answered once it is there.
    pub result: OpenResult,
}

impl Kernel {
    /// Has an outlet made and read into. The call is answered with it.
    pub(crate) fn open_outlet(
        &mut self,
        turn: &mut Turn<'_>,
        asking: &Asking<'_>,
        opening: Opening,
    ) -> Result<(), WireError> {
        let Opening { id, target, wish, kind, under, mut result } = opening;
        result.descriptors = match kind {
            Some(OutletKind::Pipe { .. }) => vec![DescriptorRole::PipeReader],
            Some(OutletKind::Socket) | None => vec![DescriptorRole::Socket],
            Some(OutletKind::Shared) => {
                vec![DescriptorRole::Ring, DescriptorRole::Seat, DescriptorRole::Doorbell]
            }
            Some(OutletKind::Fifo { .. }) => Vec::new(),
        };
        let opened = Box::new(Opened { id: id.clone(), result });
        let ticket = self.park(turn, asking, Pending::Open { opened });
        let raw = kind.map_or(RawSink::Framed { ticket }, |kind| RawSink::Outlet { kind, ticket });
        let wish = Wish { raw: Some(raw), ..wish };
        let added = self.add_reader(turn, asking.connection, id, target, wish, under);
        if let Err(error) = added {
            self.reject(turn, ticket, &error);
        }
        Ok(())
    }

    /// The outlet is made, or can't be.
    pub(crate) fn outlet_made(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        opened: &Opened,
        outcome: Result<Outcome, Failure>,
    ) {
        let error = match outcome {
            Ok(Outcome::Opened { descriptors, bytes }) => {
                let mut result = opened.result.clone();
                let bytes = Some(bytes as u64).filter(|bytes| *bytes > 0);
                match result.transport {
                    Transport::Shared => result.ring_bytes = bytes,
                    Transport::Frames | Transport::Pipe | Transport::Socket | Transport::Fifo => {
                        result.pipe_bytes = bytes;
                    }
                }
                return self.resolve_with(turn, ticket, &result, descriptors);
            }
            Ok(Outcome::Named { path, bytes }) => {
                let path = OsText::new(path.into_os_string().into_vec());
                let result = OpenResult { path, pipe_bytes: Some(bytes as u64), ..opened.result.clone() };
                return self.resolve(turn, ticket, &result);
            }
            Ok(_) => WireError::new(Code::Internal, "another answer than an outlet"),
            Err(Failure::Gone) => WireError::new(Code::NotFound, "the process is gone"),
            Err(Failure::Os(errno)) if TOO_MANY_FILES.contains(&errno) => {
                WireError::new(Code::Busy, "transport: no more descriptors can be had")
                    .with("field", "transport")
            }
            Err(failure) => WireError::unsupported("transport", &failure.to_string()),
        };
        self.reject(turn, ticket, &error);
        self.end_opened(turn, &opened.id);
    }

    /// Ends the reader of an outlet nobody takes.
    pub(crate) fn end_opened(&mut self, turn: &mut Turn<'_>, id: &SubscriptionId) {
        if let Some(Named::Stream(serial)) = self.state.subscriptions.get(id.as_str()).copied() {
            self.end_reader(turn, serial, Departure::Unasked);
        }
    }

    /// The writing end of a stdin is the caller's from now on, or a path is that leads there.
    pub(crate) fn stdin_handed(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        id: ProcessId,
        serial: u64,
        outcome: Outcome,
    ) {
        let offset = self.state.processes.get(&serial).map_or(0, |process| process.meter.stdin_bytes.get());
        match outcome {
            Outcome::Opened { descriptors, bytes } => {
                let (roles, pipe_bytes) = (vec![DescriptorRole::PipeWriter], bytes as u64);
                let result = OpenStdinResult { id, offset, descriptors: roles, path: None, pipe_bytes };
                self.resolve_with(turn, ticket, &result, descriptors);
            }
            Outcome::Named { path, bytes } => {
                let (descriptors, pipe_bytes) = (Vec::new(), bytes as u64);
                let path = OsText::new(path.into_os_string().into_vec());
                let result = OpenStdinResult { id, offset, descriptors, path, pipe_bytes };
                match self.note_inlet(turn, ticket, serial) {
                    Ok(()) => self.resolve(turn, ticket, &result),
                    Err(error) => self.reject(turn, ticket, &error),
                }
            }
            _ => self.reject(turn, ticket, &WireError::new(Code::Internal, "another answer than a pipe")),
        }
    }

    /// Everything has gone into an outlet, or its reader has closed it: the subscription is over, and follows no later spawn.
    /// `errno`: what its end was found by, if that was no end.
    pub(crate) fn end_outlet(&mut self, turn: &mut Turn<'_>, serial: u64, errno: i32) {
        let Some(reader) = self.state.streams.get(&serial) else { return };
        let (connection, subscription_id, wish) = (reader.connection, reader.id.clone(), reader.wish);
        let Place::Reading { process, meter, .. } = &reader.place else { return };
        let channel = usize::from(wish.stderr);
        let total_bytes =
            self.state.processes.get(process).map_or(0, |was| was.meter.streams[channel].taken_bytes.get());
        let gap_bytes = meter.gap_bytes.get();
        let reason = match meter.offset[channel].get() < total_bytes {
            _ if errno == TIMED_OUT => StreamEndReason::Unopened,
            true => StreamEndReason::ReaderGone,
            false => StreamEndReason::Closed,
        };
        let stream = if wish.stderr { StreamName::Stderr } else { StreamName::Stdout };
        let end = StreamEndRecord { subscription_id, stream, total_bytes, gap_bytes, reason };
        // On a socket of its own it has come there, if everything was sent.
        let told = matches!(wish.raw, Some(RawSink::Framed { .. })) && reason == StreamEndReason::Closed;
        if !told && self.state.connections.get(connection).is_some_and(|peer| peer.records) {
            self.send(turn, connection, |buf, dialect| {
                if let Err(error) = put_notice(buf, dialect, &end) {
                    tracing::error!(component = "controlplane", %error, "a record was not sent");
                }
            });
        }
        self.end_reader(turn, serial, Departure::Unasked);
    }
}
