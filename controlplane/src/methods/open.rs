//! Opening a stream by a transport of the caller's choice. Where a reader stands is in [`readers`](crate::sessions::readers),
//! and what it leaves by in [`outlets`](crate::sessions::outlets).

use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::methods::process::{not_found, with_stdin};
use crate::methods::stream::{from, mode, policy, unsubscribe};
use crate::sessions::outlets::Opening;
use crate::sessions::pacing;
use crate::state::{Deed, RawSink, Wish};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::{From, OutletKind};
use kairo_dataplane::limits::PIPE_BYTES;
use kairo_wire::error::WireError;
use kairo_wire::id::SubscriptionId;
use kairo_wire::limits::BUFFER_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::open::{Close, Open, OpenParams, OpenResult, OpenStdin, Transport};
use kairo_wire::methods::stream::{self, Start, StreamName};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Open::ROW, Answers::Later, open),
    (Close::ROW, Answers::AtOnce, unsubscribe),
    (OpenStdin::ROW, Answers::Later, open_stdin),
];

fn open_stdin(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<OpenStdin>()?;
    let serial = with_stdin(kernel, turn, asking, &params.id)?;
    if kernel.state.processes.get(&serial).is_some_and(|process| process.terminal.is_some()) {
        return Err(WireError::unsupported("id", "a terminal is no pipe that could be handed out"));
    }
    kernel.undertake(turn, asking, serial, Deed::OpenStdin);
    Ok(())
}

fn open(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Open>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let session = process.session.clone();
    let kind = outlet(&params)?;
    kernel.can_be_read_by(&params.id, params.policy)?;
    let under = kernel.under(asking);
    kernel.may_begin(under.as_deref())?;
    let channel = match params.stream {
        StreamName::Stdout => 0,
        StreamName::Stderr => 1,
    };
    let wish = Wish {
        stdout: channel == 0,
        stderr: channel == 1,
        from: begin(params.from, channel)?,
        mode: mode(params.mode.unwrap_or_default()),
        policy: policy(params.policy),
        resumes: params.resumes.is_some(),
        history_bytes: params.ring_bytes.map(|bytes| bytes.min(BUFFER_BYTES_MAX as u32)),
        raw: None,
        rate: pacing::rate(params.rate, "rate")?,
    };
    let raw = kind.map(|kind| RawSink::Outlet { kind, ticket: 0 });
    kernel.can_have(&params.id, &Wish { raw, ..wish })?;
    let begin = kernel.begun(&params.id, wish.from);
    let wish = Wish { from: begin, ..wish };
    let id = SubscriptionId::stream(bits(&mut *kernel.entropy));
    let from = match begin {
        From::At(offsets) => offsets[channel],
        From::Oldest | From::Now => 0,
    };
    let result = OpenResult {
        subscription_id: id.clone(),
        transport: params.transport,
        session: Some(session),
        from: Some(from),
        descriptors: Vec::new(),
        pipe_bytes: None,
        ring_bytes: None,
    };
    match kind {
        Some(kind) => {
            kernel.open_outlet(turn, asking, Opening { id, target: params.id, wish, kind, under, result })
        }
        None => {
            kernel.add_reader(turn, asking.connection, id, params.id, wish, under)?;
            kernel.answer(turn, asking, &result);
            Ok(())
        }
    }
}

/// What is made for a transport; none where bytes travel in frames.
fn outlet(params: &OpenParams) -> Result<Option<OutletKind>, WireError> {
    if params.mode.is_some() && params.transport != Transport::Frames {
        return Err(WireError::invalid("mode", "raw bytes are not cut into frames"));
    }
    if params.ring_bytes.is_some() && params.transport != Transport::Shared {
        return Err(WireError::invalid("ringBytes", "only the transport shared has a ring"));
    }
    if params.transport == Transport::Shared {
        shareable(params)?;
    }
    match (params.transport, params.pipe_bytes) {
        (Transport::Frames | Transport::Socket | Transport::Shared, Some(_)) => {
            Err(WireError::invalid("pipeBytes", "only the transport pipe has one"))
        }
        (Transport::Frames, None) => Ok(None),
        (Transport::Socket, None) => Ok(Some(OutletKind::Socket)),
        (Transport::Shared, None) => Ok(Some(OutletKind::Shared)),
        (Transport::Pipe, bytes) => Ok(Some(OutletKind::Pipe { bytes: bytes.unwrap_or(PIPE_BYTES) })),
    }
}

/// Nothing is sent to a reader of a shared ring, so nothing can be held back from it or brought from disk.
fn shareable(params: &OpenParams) -> Result<(), WireError> {
    if params.policy == stream::Policy::Spool {
        return Err(WireError::unsupported("policy", "a shared ring has no disk behind it"));
    }
    if params.rate.is_some() {
        return Err(WireError::unsupported("rate", "a shared ring is read as fast as its reader does"));
    }
    Ok(())
}

fn begin(start: Start, channel: usize) -> Result<From, WireError> {
    match (start, channel) {
        (Start::Each { .. }, _) => Err(WireError::invalid("from", "one stream has one offset")),
        (start, _) => Ok(from(start)),
    }
}
