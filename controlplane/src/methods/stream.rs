//! Subscribing to what a process writes. Where a reader stands is in [`readers`](crate::sessions::readers).

use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::sessions::spool::unspooled;
use crate::state::{Named, Wish};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::{From, Mode, Policy};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::WireError;
use kairo_wire::id::SubscriptionId;
use kairo_wire::limits::BUFFER_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::stream::{
    self, Start, Subscribe, SubscribeParams, SubscribeResult, Unsubscribe, UnsubscribeResult,
};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] =
    &[(Subscribe::ROW, Answers::AtOnce, subscribe), (Unsubscribe::ROW, Answers::AtOnce, unsubscribe)];

fn subscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Subscribe>()?;
    let target = params.process()?.clone();
    let principal = kernel.principal(asking.connection);
    if let Some(process) = kernel.state.exactly(&target)
        && !may_touch(principal, &process.creator)
    {
        let id = target.to_string();
        return Err(WireError::denied_process(asking.method, &id).with("id", id));
    }
    if params.resumes.is_some() && kernel.state.exactly(&target).is_none() {
        return Err(WireError::process_not_found(&target.to_string()));
    }
    if params.descriptor.is_some() && !(kernel.config.embedded && *principal == Principal::Owner) {
        return Err(WireError::unsupported("descriptor", "only an embedded kernel writes to descriptors"));
    }
    if params.policy == stream::Policy::Spool
        && let Some(process) = kernel.state.exactly(&target)
        && process.spool.is_none()
    {
        return Err(unspooled(&target));
    }
    let id = SubscriptionId::stream(bits(&mut *kernel.entropy));
    kernel.add_reader(turn, asking.connection, id.clone(), target.clone(), wish(&params))?;
    let takes_records = kernel.state.connections.get(asking.connection).is_some_and(|peer| peer.records);
    let session =
        kernel.state.exactly(&target).filter(|_| takes_records).map(|process| process.session.clone());
    kernel.answer(turn, asking, &SubscribeResult { subscription_id: id, session });
    Ok(())
}

fn wish(params: &SubscribeParams) -> Wish {
    Wish {
        stdout: params.stream.stdout(),
        stderr: params.stream.stderr(),
        from: match params.from {
            Start::Oldest => From::Oldest,
            Start::Now => From::Now,
            Start::At(offset) => From::At([offset, offset]),
            Start::Each { stdout, stderr } => From::At([stdout, stderr]),
        },
        mode: match params.mode {
            stream::Mode::Chunk => Mode::Chunk,
            stream::Mode::Line => Mode::Line,
            stream::Mode::Lines => Mode::Lines,
        },
        policy: match params.policy {
            stream::Policy::Block => Policy::Block,
            stream::Policy::DropOldest => Policy::DropOldest,
            stream::Policy::Spool => Policy::Spool,
        },
        resumes: params.resumes.is_some(),
        history_bytes: params
            .buffer_size
            .filter(|wanted| *wanted > 0)
            .map(|wanted| wanted.min(BUFFER_BYTES_MAX as u64) as u32),
        descriptor: params.descriptor,
    }
}

fn unsubscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Unsubscribe>()?;
    let id = &params.subscription_id;
    let subscription = match kernel.state.subscriptions.get(id.as_str()) {
        Some(Named::Stream(serial)) => kernel.state.streams.get(serial).map(|s| (*serial, s.connection)),
        Some(Named::Topic(_)) | None => None,
    };
    if let Some((serial, holder)) = subscription {
        kernel.may_end(asking, holder)?;
        let frame = kernel.encoded(asking, &UnsubscribeResult { ok: true });
        kernel.end_reader(turn, serial, Departure::Asked(asking.connection, frame));
    } else {
        kernel.answer(turn, asking, &UnsubscribeResult { ok: false });
    }
    Ok(())
}

impl Kernel {
    /// Whether the caller may end a subscription of `holder`: its own, or another connection's of the same principal.
    pub(crate) fn may_end(&self, asking: &Asking<'_>, holder: ConnectionKey) -> Result<(), WireError> {
        if holder == asking.connection || self.principal(holder) == self.principal(asking.connection) {
            return Ok(());
        }
        Err(WireError::denied(asking.method, "the subscription is somebody else's"))
    }
}
