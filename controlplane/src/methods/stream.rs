//! Subscribing to what a process writes. Where a reader stands is in [`readers`](crate::sessions::readers).

use crate::auth::principal::Principal;
use crate::calls::{Asking, Turn};
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::methods::process::not_found;
use crate::sessions::pacing;
use crate::sessions::readers::Departure;
use crate::sessions::relaying;
use crate::sessions::spool::unspooled;
use crate::state::{Deed, Named, Place, RawSink, Wish};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::{Command, From, Mode, Policy};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::{ProcessId, SubscriptionId};
use kairo_wire::limits::BUFFER_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::stream::{
    self, Configure, ConfigureReader, ConfigureReaderResult, Start, Subscribe, SubscribeParams,
    SubscribeResult, Unsubscribe, UnsubscribeResult,
};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[
    (Subscribe::ROW, Answers::AtOnce, subscribe),
    (Unsubscribe::ROW, Answers::AtOnce, unsubscribe),
    (Configure::ROW, Answers::Later, configure),
    (ConfigureReader::ROW, Answers::AtOnce, configure_reader),
];

fn subscribe(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Subscribe>()?;
    let target = params.process()?.clone();
    kernel.target(turn, asking, &target)?;
    let principal = kernel.principal(asking.connection);
    if params.resumes.is_some() && kernel.state.exactly(&target).is_none() {
        return Err(WireError::process_not_found(&target.to_string()));
    }
    if params.descriptor.is_some() && !(kernel.config.embedded && *principal == Principal::Owner) {
        return Err(WireError::unsupported("descriptor", "only an embedded kernel writes to descriptors"));
    }
    if params.descriptor.is_some() && params.policy == stream::Policy::Latest {
        return Err(no_latest());
    }
    kernel.can_be_read_by(&target, params.policy)?;
    let under = kernel.under(asking);
    kernel.may_begin(under.as_deref())?;
    let id = SubscriptionId::stream(bits(&mut *kernel.entropy));
    let mut wish = Wish { rate: pacing::rate(params.rate, "rate")?, ..wish(&params) };
    kernel.can_have(&target, &wish)?;
    wish.from = kernel.begun(&target, wish.from);
    kernel.add_reader(turn, asking.connection, id.clone(), target.clone(), wish, under)?;
    let takes_records = kernel.state.connections.get(asking.connection).is_some_and(|peer| peer.records);
    let life = kernel.state.exactly(&target).filter(|_| takes_records);
    let session = life.map(|process| process.session.clone());
    let from = life.map(|_| match wish.from {
        From::At([stdout, stderr]) => Start::Each { stdout, stderr },
        From::Oldest | From::Now => Start::Each { stdout: 0, stderr: 0 },
    });
    kernel.answer(turn, asking, &SubscribeResult { subscription_id: id, session, from });
    Ok(())
}

/// Where a reader begins, in the data plane's words.
pub(crate) fn from(start: Start) -> From {
    match start {
        Start::Oldest => From::Oldest,
        Start::Now => From::Now,
        Start::At(offset) => From::At([offset, offset]),
        Start::Each { stdout, stderr } => From::At([stdout, stderr]),
    }
}

/// How bytes become frames, in the data plane's words.
pub(crate) fn mode(mode: stream::Mode) -> Mode {
    match mode {
        stream::Mode::Chunk => Mode::Chunk,
        stream::Mode::Line => Mode::Line,
        stream::Mode::Lines => Mode::Lines,
    }
}

/// What is only the newest has no mark in raw bytes.
pub(crate) fn no_latest() -> WireError {
    WireError::unsupported(
        "policy",
        "raw bytes have no place to say what was passed; frames and a shared ring have",
    )
}

/// What a slow reader causes, in the data plane's words.
pub(crate) fn policy(policy: stream::Policy) -> Policy {
    match policy {
        stream::Policy::Block => Policy::Block,
        stream::Policy::DropOldest => Policy::DropOldest,
        stream::Policy::Spool => Policy::Spool,
        stream::Policy::Latest => Policy::Latest,
    }
}

fn wish(params: &SubscribeParams) -> Wish {
    Wish {
        stdout: params.stream.stdout(),
        stderr: params.stream.stderr(),
        from: from(params.from),
        mode: mode(params.mode),
        policy: policy(params.policy),
        resumes: params.resumes.is_some(),
        history_bytes: params
            .buffer_size
            .filter(|wanted| *wanted > 0)
            .map(|wanted| wanted.min(BUFFER_BYTES_MAX as u64) as u32),
        raw: params.descriptor.map(RawSink::Own),
        // Checked by the caller, for it can be wrong.
        rate: None,
    }
}

pub(crate) fn unsubscribe(
    kernel: &mut Kernel,
    turn: &mut Turn<'_>,
    asking: &Asking<'_>,
) -> Result<(), WireError> {
    let params = asking.read::<Unsubscribe>()?;
    let id = &params.subscription_id;
    let subscription = match kernel.state.subscriptions.get(id.as_str()) {
        Some(Named::Stream(serial)) => Some(*serial),
        Some(Named::Topic(_) | Named::Watch(_) | Named::Attached(_)) | None => None,
    };
    if let Some(serial) = subscription {
        kernel.may_end_stream(asking, serial)?;
        let frame = kernel.encoded(asking, &UnsubscribeResult { ok: true });
        kernel.end_reader(turn, serial, Departure::Asked(asking.connection, frame));
    } else {
        kernel.answer(turn, asking, &UnsubscribeResult { ok: false });
    }
    Ok(())
}

fn configure(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Configure>()?;
    let process = kernel.target(turn, asking, &params.id)?.ok_or_else(|| not_found(&params.id))?;
    let (serial, relayed) = (process.key.serial, process.is_relayed());
    let tuning = pacing::tuning(&kernel.config, &params)?;
    if params.history.is_some() && relayed {
        let lack = ("history", "none can be had any more");
        return Err(relaying::refusal(&params.id, lack));
    }
    kernel.undertake(turn, asking, serial, Deed::Tune { tuning });
    Ok(())
}

fn configure_reader(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<ConfigureReader>()?;
    let subscription_id = params.subscription_id;
    let rate = pacing::rate(Some(params.rate), "rate")?;
    let unknown = || {
        let message = format!("there is no subscription {}", subscription_id.as_str());
        WireError::new(Code::NotFound, message).with("field", "subscriptionId")
    };
    let Some(Named::Stream(serial)) = kernel.state.subscriptions.get(subscription_id.as_str()).copied()
    else {
        return Err(unknown());
    };
    kernel.may_end_stream(asking, serial)?;
    if let Some(stream) = kernel.state.streams.get_mut(&serial) {
        // What it reads next, in another life of the id, has the rate from the start.
        stream.wish.rate = rate;
        if let Place::Reading { key, .. } = &stream.place {
            turn.out.push(Command::Pace { subscription: *key, rate });
        }
    }
    kernel.answer(turn, asking, &ConfigureReaderResult { subscription_id, rate: rate.map(pacing::told) });
    Ok(())
}

impl Kernel {
    /// Whether a process, if it is there, has what a policy needs.
    pub(crate) fn can_be_read_by(&self, target: &ProcessId, policy: stream::Policy) -> Result<(), WireError> {
        match self.state.exactly(target) {
            Some(process) if policy == stream::Policy::Spool && process.spool.is_none() => {
                Err(unspooled(target))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Where `now` is, if the process is there: so that whoever loses its connection before the first byte knows where
    /// to go on. What has been taken since is delivered too.
    pub(crate) fn begun(&self, target: &ProcessId, from: From) -> From {
        match (from, self.state.exactly(target)) {
            (From::Now, Some(process)) => {
                From::At([0, 1].map(|channel: usize| process.meter.streams[channel].taken_bytes.get()))
            }
            (from, _) => from,
        }
    }

    /// Whether the caller may change or end a reader of a process.
    fn may_end_stream(&self, asking: &Asking<'_>, serial: u64) -> Result<(), WireError> {
        match self.state.streams.get(&serial).map(|stream| (stream.connection, &stream.outlives)) {
            Some((_, Some(of))) if of.principal == *self.principal(asking.connection) => Ok(()),
            Some((holder, _)) => self.may_end(asking, holder),
            None => Ok(()),
        }
    }

    /// Whether the caller may change or end a subscription of `holder`: its own, or another connection's of the same principal.
    pub(crate) fn may_end(&self, asking: &Asking<'_>, holder: ConnectionKey) -> Result<(), WireError> {
        if holder == asking.connection || self.principal(holder) == self.principal(asking.connection) {
            return Ok(());
        }
        Err(WireError::denied(asking.method, "the subscription is somebody else's"))
    }
}
