//! Opening a stream by a transport of the caller's choice. Where a reader stands is in [`readers`](crate::sessions::readers),
//! and what it leaves by in [`outlets`](crate::sessions::outlets).

use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::methods::process::{not_found, with_stdin};
use crate::methods::stream::{from, mode, no_latest, policy, unsubscribe};
use crate::sessions::outlets::Opening;
use crate::sessions::pacing;
use crate::state::{Deed, RawSink, Wish};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::{From, NamedInlet, OutletKind};
use kairo_dataplane::limits::PIPE_BYTES;
use kairo_dataplane::sys::fifo::User;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::SubscriptionId;
use kairo_wire::limits::{BUFFER_BYTES_MAX, FIFO_WAIT_MS, FIFO_WAIT_MS_MAX};
use kairo_wire::method::Method;
use kairo_wire::methods::open::{
    Close, Framing, Open, OpenParams, OpenResult, OpenStdin, StdinTransport, Transport,
};
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
    if params.transport == StdinTransport::Fifo {
        let name = format!("stdin_{:032x}", bits(&mut *kernel.entropy)).into();
        let (user, wait_ns) = (kernel.user_of_fifo(asking)?, wait_ns(params.wait_ms)?);
        let under = kernel.under(asking);
        kernel.may_begin(under.as_deref())?;
        let (closes, note) = (!params.keep_open, kernel.inlet_note(asking.connection, under.as_deref()));
        let inlet = NamedInlet { name, user, wait_ns, closes, note };
        kernel.undertake(turn, asking, serial, Deed::OpenStdin { inlet: Some(Box::new(inlet)) });
        return Ok(());
    }
    for (given, field) in [(params.keep_open, "keepOpen"), (params.wait_ms.is_some(), "waitMs")] {
        if given {
            return Err(WireError::invalid(field, "only the transport fifo has it"));
        }
    }
    if kernel.state.processes.get(&serial).is_some_and(|process| process.terminal.is_some()) {
        return Err(WireError::unsupported("id", "a terminal is no pipe that could be handed out"));
    }
    kernel.undertake(turn, asking, serial, Deed::OpenStdin { inlet: None });
    Ok(())
}

fn open(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Open>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let session = process.session.clone();
    let kind = kernel.outlet(asking, &params)?;
    let framed = params.transport == Transport::Socket && kind.is_none();
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
        path: None,
        pipe_bytes: None,
        ring_bytes: None,
    };
    if framed || kind.is_some() {
        return kernel.open_outlet(
            turn,
            asking,
            Opening { id, target: params.id, wish, kind, under, result },
        );
    }
    kernel.add_reader(turn, asking.connection, id, params.id, wish, under)?;
    kernel.answer(turn, asking, &result);
    Ok(())
}

/// Whether what is asked for belongs to the transport it is asked of.
fn fits(params: &OpenParams) -> Result<(), WireError> {
    let (transport, framing) = (params.transport, params.framing.unwrap_or_default());
    let framed =
        matches!((transport, framing), (Transport::Frames, _) | (Transport::Socket, Framing::Frames));
    let piped = matches!(transport, Transport::Pipe | Transport::Fifo);
    if params.framing.is_some() && transport != Transport::Socket {
        return Err(WireError::invalid("framing", "only the transport socket has a choice"));
    }
    if params.mode.is_some() && !framed {
        return Err(WireError::invalid("mode", "raw bytes are not cut into frames"));
    }
    if params.ring_bytes.is_some() && transport != Transport::Shared {
        return Err(WireError::invalid("ringBytes", "only the transport shared has a ring"));
    }
    if params.pipe_bytes.is_some() && !piped {
        return Err(WireError::invalid("pipeBytes", "only the transports pipe and fifo have one"));
    }
    if params.wait_ms.is_some() && transport != Transport::Fifo {
        return Err(WireError::invalid("waitMs", "only a fifo waits to be opened"));
    }
    if params.policy == stream::Policy::Latest && !framed && transport != Transport::Shared {
        return Err(no_latest());
    }
    if transport == Transport::Shared { shareable(params) } else { Ok(()) }
}

impl Kernel {
    /// What is made for raw bytes to leave by; none where they travel in frames.
    fn outlet(&self, asking: &Asking<'_>, params: &OpenParams) -> Result<Option<OutletKind>, WireError> {
        fits(params)?;
        let bytes = params.pipe_bytes.unwrap_or(PIPE_BYTES);
        Ok(match (params.transport, params.framing.unwrap_or_default()) {
            (Transport::Frames, _) | (Transport::Socket, Framing::Frames) => None,
            (Transport::Socket, Framing::Raw) => Some(OutletKind::Socket),
            (Transport::Shared, _) => Some(OutletKind::Shared),
            (Transport::Pipe, _) => Some(OutletKind::Pipe { bytes }),
            (Transport::Fifo, _) => {
                let (user, wait_ns) = (self.user_of_fifo(asking)?, wait_ns(params.wait_ms)?);
                Some(OutletKind::Fifo { bytes, user, wait_ns })
            }
        })
    }

    /// Who may open a caller's fifo.
    fn user_of_fifo(&self, asking: &Asking<'_>) -> Result<User, WireError> {
        let Some(peer) = self.state.connections.get(asking.connection) else {
            return Err(WireError::new(Code::Internal, "the connection is gone"));
        };
        Ok(User { uid: peer.peer.uid, gid: peer.peer.gid })
    }
}

/// How long a fifo waits to be opened.
fn wait_ns(wait_ms: Option<u32>) -> Result<u64, WireError> {
    let wait_ms = wait_ms.unwrap_or(FIFO_WAIT_MS);
    if !(1..=FIFO_WAIT_MS_MAX).contains(&wait_ms) {
        return Err(WireError::invalid("waitMs", format!("a fifo waits 1 to {FIFO_WAIT_MS_MAX} ms")));
    }
    Ok(u64::from(wait_ms) * crate::clock::MS)
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
