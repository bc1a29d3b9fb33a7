//! A connection to a kernel: connecting, greeting, calling.
//!
//! A [`Client`] is shared freely between threads and has no thread of its own (see `state` for who reads).
//! Calls are typed by their method ([`Client::call`]) or raw ([`Client::call_raw`]); many may be in flight.
//! Subscriptions are in [`crate::subscription`] and [`crate::events`]; a stream that deserves a connection of its own
//! is in [`crate::direct`].

use crate::direct::DirectStream;
use crate::error::{CallError, ConnectError, Lost};
use crate::events::{Cancels, Events, Exits};
use crate::reconnect::{Change, Greeted, Greeting, Home, Outage, Reconnect, Standing, Step};
use crate::replay::{Question, Replay};
use crate::state::{Link, Opens, Unshared};
use crate::subscription::Subscription;
use bytes::{Bytes, BytesMut};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::error::Code;
use kairo_wire::id::TopicPattern;
use kairo_wire::limits::CHUNK_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::consumer::NameParams;
use kairo_wire::methods::stream::SubscribeParams;
use kairo_wire::methods::{event, intent, system};
use kairo_wire::request::{self, Meta};
use serde::Serialize;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Name and version of the program, for the kernel's log.
    pub name: String,
    /// Exact integers on the wire.
    pub int64: bool,
    /// Events tell their place in the log and the subscription they are for. Without it an [`Events`] can't go on over a
    /// loss where it was.
    pub envelope: bool,
    /// Offsets in chunks; gaps and ends are told. Without it a [`Subscription`] can check sequence numbers only.
    pub records: bool,
    /// Chunks tell when they were read. Costs the kernel a look at the clock for each read.
    pub timestamps: bool,
    /// Longest data of a chunk, bytes; 0 leaves it at v1's 65,535.
    pub chunk_bytes_max: u32,
    /// How long the greeting may take.
    pub hello_deadline: Duration,
    /// How to come back when the connection is lost; none lets everything fail then. A socket that was connected by
    /// somebody else ([`Client::over`]) has no way back.
    pub reconnect: Option<Reconnect>,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            name: concat!("kairo-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            int64: true,
            envelope: true,
            records: true,
            timestamps: false,
            chunk_bytes_max: CHUNK_BYTES_MAX as u32,
            hello_deadline: Duration::from_secs(10),
            reconnect: Some(Reconnect::default()),
        }
    }
}

/// What accompanies a call.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// How long the answer may take. The kernel is told, and undoes what can be undone.
    pub deadline: Option<Duration>,
    /// Ties together what has one cause; events that follow from the call carry it.
    pub correlation_id: Option<String>,
    /// The event that caused the call.
    pub causation_id: Option<String>,
    /// The intent it belongs to; what it starts belongs to it too.
    pub intent_id: Option<String>,
    /// Two calls with the same key are one. A client that comes back after a loss gives every spawn and every write to a
    /// stdin a key of its own, so this is for what must be one over several clients.
    pub idempotency_key: Option<String>,
}

/// How much longer than the kernel we wait for its word that a deadline has passed.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// A connection. Clones share it; it closes with the last of them and of its subscriptions.
///
/// If the kernel goes away and another one takes its place, whoever waits for something brings the connection back:
/// subscriptions go on at their exact offsets, calls that only ask and calls with an idempotency key are sent again,
/// others that may have been carried out fail with [`CallError::Interrupted`].
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
}

impl Client {
    /// Connects to the daemon at `path` and greets it with everything this client can use.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        Client::connect_with(path, &ConnectOptions::default())
    }

    /// Connects with options.
    pub fn connect_with(path: impl AsRef<Path>, options: &ConnectOptions) -> Result<Client, ConnectError> {
        let path = path.as_ref();
        let socket =
            UnixStream::connect(path).map_err(|error| ConnectError::from_os(path.to_path_buf(), error))?;
        let home = match &options.reconnect {
            None => None,
            Some(reconnect) => Some(Home {
                path: path.to_path_buf(),
                options: options.clone(),
                reconnect: reconnect.clone(),
                keys: own_keys().map_err(|source| ConnectError::Os { path: path.to_path_buf(), source })?,
            }),
        };
        let greeted = match (greet(socket, options), &home) {
            (Err(ConnectError::Hello(CallError::Lost(lost))), Some(home)) if lost.is_the_kernels() => {
                greet_again(home, lost)?
            }
            (greeted, _) => greeted?,
        };
        Ok(Client { link: Arc::new(Link::new(greeted, home)) })
    }

    /// Takes a socket that is connected already, and greets.
    pub fn over(socket: UnixStream, options: &ConnectOptions) -> Result<Client, ConnectError> {
        socket
            .set_nonblocking(false)
            .map_err(|source| ConnectError::Os { path: PathBuf::from("(socket)"), source })?;
        Ok(Client { link: Arc::new(Link::new(greet(socket, options)?, None)) })
    }

    /// What the kernel said of itself, and what it granted; after a loss another one may say something else.
    pub fn hello(&self) -> Arc<system::HelloResult> {
        Arc::clone(&self.link.lock().standing.hello)
    }

    /// True if the kernel granted a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.link.lock().standing.has(feature)
    }

    /// Calls a method and waits for its result.
    pub fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, CallError> {
        self.begin::<M>(params)?.wait()
    }

    /// Calls with a deadline or a correlation.
    pub fn call_with<M: Method>(
        &self,
        params: &M::Params,
        options: &CallOptions,
    ) -> Result<M::Result, CallError> {
        let call = Call::<M>::begin(&self.link, params, Some(options), None)?;
        match options.deadline {
            Some(deadline) => call.wait_for(deadline + DEADLINE_GRACE),
            None => call.wait(),
        }
    }

    /// Sends a call; its result is waited for later. Calls begun one after the other are received in that order.
    pub fn begin<M: Method>(&self, params: &M::Params) -> Result<Call<M>, CallError> {
        Call::begin(&self.link, params, None, None)
    }

    /// Calls a method by name, with MessagePack that has been checked.
    pub fn call_raw(&self, method: &str, params: &Raw, options: &CallOptions) -> Result<Raw, CallError> {
        let number = self.link.send(method.to_owned(), params, Some(options), None)?;
        let deadline = options.deadline.map(|deadline| Instant::now() + deadline + DEADLINE_GRACE);
        let result = self.link.answer(number, deadline)?;
        RawRef::new(&result).map(RawRef::to_owned).map_err(|error| CallError::Shape(error.to_string()))
    }

    /// Reads what a process writes. Many subscriptions can share a connection; one whose consumer is slow holds up
    /// the others, so a heavy one belongs on a connection of its own ([`Client::into_stream`]).
    pub fn subscribe(&self, params: &SubscribeParams) -> Result<Subscription, CallError> {
        Subscription::open(&self.link, params)
    }

    /// Receives the bus events whose topic matches a pattern, from now on.
    pub fn events(&self, pattern: &str) -> Result<Events, CallError> {
        self.events_from(event::SubscribeParams::live(topic_pattern(pattern)?))
    }

    /// Receives bus events, from a place in the log or of a story on request. They go on over a loss of the connection
    /// where they were: none is missed and none comes twice.
    pub fn events_from(&self, params: event::SubscribeParams) -> Result<Events, CallError> {
        if params != event::SubscribeParams::live(params.topic.clone()) && !self.has("envelope") {
            return Err(CallError::Shape("this kernel keeps no log that could be asked".to_owned()));
        }
        Events::open(&self.link, params)
    }

    /// Receives what is delivered to a durable consumer, each event until it is answered with `consumer.ack`. After a loss it is
    /// attached again, and what had no answer comes again.
    pub fn consume(&self, name: &str) -> Result<Events, CallError> {
        if !self.has("envelope") {
            return Err(CallError::Shape("this kernel has no durable consumers".to_owned()));
        }
        Events::attach(&self.link, NameParams { name: name.to_owned() })
    }

    /// Publishes an event. If the connection is lost meanwhile it may have been published, and [`CallError::Interrupted`] says
    /// so; with a key ([`Client::call_with`]) it is published once.
    pub fn publish(&self, draft: &event::Draft) -> Result<event::PublishResult, CallError> {
        self.call::<event::Publish>(draft)
    }

    /// Publishes many events at once, in order: all of them or none.
    pub fn publish_batch(
        &self,
        events: Vec<event::Draft>,
        ack: event::Ack,
    ) -> Result<event::PublishBatchResult, CallError> {
        self.call::<event::PublishBatch>(&event::PublishBatchParams { events, ack })
    }

    /// Reads the log, page by page, in the order that is asked for. Whoever has taken two pages will want a third: from then
    /// on the next one is asked for while one is worked on, and shows what there was at that time.
    pub fn replay(&self, params: event::ReplayParams) -> Replay {
        Replay::new(self.clone(), Question::Replay(params))
    }

    /// Receives the `process.exit` notices the kernel sends to every connection that may see the process.
    pub fn exits(&self) -> Exits {
        Exits::open(&self.link)
    }

    /// Receives the cancels of intents this connection has registered for (`intent.register`). A registration ends with its
    /// connection, so it is to be made again after [`EventItem::Resumed`](crate::events::EventItem::Resumed).
    pub fn cancels(&self) -> Cancels {
        Cancels::open(&self.link)
    }

    /// Reads the events of an intent and of all under it, page by page, in the order that is asked for.
    pub fn timeline(&self, params: intent::TimelineParams) -> Replay {
        Replay::new(self.clone(), Question::Timeline(params))
    }

    /// Gives the whole connection to one subscription: no queue, no hand-over, one reusable buffer. Fails with
    /// [`CallError::Lost`] if the connection is still shared by clones or subscriptions.
    pub fn into_stream(self, params: &SubscribeParams) -> Result<DirectStream, CallError> {
        let link = Arc::try_unwrap(self.link).map_err(|_| {
            CallError::Shape("the connection is shared, and a direct stream needs it alone".to_owned())
        })?;
        let Unshared { line, socket, standing, home } = link.unshare();
        let line = line.ok_or(CallError::Lost(Lost::ClosedHere))?;
        DirectStream::open(line, socket, standing, home, params)
    }

    /// What was agreed on.
    pub(crate) fn standing(&self) -> Standing {
        self.link.lock().standing.clone()
    }

    /// The descriptors that came with the answer to a call.
    pub(crate) fn handed(&self, call: u64) -> Vec<std::os::fd::OwnedFd> {
        self.link.lock().handed.remove(&call).unwrap_or_default()
    }

    /// Ends the connection for all who share it; their calls and subscriptions fail at once.
    pub fn close(&self) {
        let mut state = self.link.lock();
        state.lose(Lost::ClosedHere);
        // A socket that is closed already is what was wanted.
        let _ = state.socket.shutdown(Shutdown::Both);
    }
}

/// A pattern of topics, as it was typed.
fn topic_pattern(text: &str) -> Result<TopicPattern, CallError> {
    TopicPattern::from_text(text)
        .ok_or_else(|| CallError::Shape("a topic pattern is not empty; > stands for everything".to_owned()))
}

/// Says hello over a fresh connection.
fn greet(socket: UnixStream, options: &ConnectOptions) -> Result<Greeted, ConnectError> {
    let mut greeting = Greeting::begin(socket, options, None)?;
    while !greeting.wait(None)? {}
    greeting.finish().ok_or(ConnectError::Hello(CallError::Deadline))
}

/// The kernel went away under the greeting: the next one is waited for, as later in the life of a connection.
fn greet_again(home: &Home, lost: Lost) -> Result<Greeted, CallError> {
    let mut outage = Outage::new(lost, &home.reconnect);
    loop {
        match outage.step(home, None, None) {
            Step::Back(greeted) => {
                home.tell(&Change::Back { outage: outage.since.elapsed() });
                return Ok(greeted);
            }
            Step::NotYet => {}
            Step::Never(lost) => {
                home.tell(&Change::GivenUp(lost.clone()));
                return Err(CallError::Lost(lost));
            }
        }
    }
}

/// What the idempotency keys of one client begin with, and nobody else's do.
fn own_keys() -> io::Result<Arc<str>> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)).into())
}

/// Appends a REQUEST frame.
pub(crate) fn put_request<P: Serialize + ?Sized>(
    out: &mut BytesMut,
    number: u64,
    method: &str,
    params: &P,
    options: Option<&CallOptions>,
    key: Option<&str>,
) -> Result<(), CallError> {
    let deadline = options.and_then(|options| options.deadline);
    let text = |of: fn(&CallOptions) -> Option<&str>| options.and_then(of).map(Into::into);
    let meta = Meta {
        deadline_ms: deadline.map(|deadline| deadline.as_millis().try_into().unwrap_or(u64::MAX)),
        correlation_id: text(|options| options.correlation_id.as_deref()),
        causation_id: text(|options| options.causation_id.as_deref()),
        intent_id: text(|options| options.intent_id.as_deref()),
        idempotency_key: key.map(Into::into),
        ..Meta::default()
    };
    let meta = Some(&meta).filter(|meta| **meta != Meta::default());
    request::put(out, &number, method, params, meta).map_err(|error| match error.code {
        Code::TooLarge => CallError::TooLarge { message: error.message.into_owned() },
        _ => CallError::Shape(error.message.into_owned()),
    })
}

/// A call in flight. Dropping it without waiting drops its answer, not its effect; [`Call::cancel`] takes it back.
#[derive(Debug)]
#[must_use = "a call's result is in its answer"]
pub struct Call<M: Method> {
    link: Arc<Link>,
    number: u64,
    settled: bool,
    method: PhantomData<M>,
}

impl<M: Method> Call<M> {
    pub(crate) fn begin(
        link: &Arc<Link>,
        params: &M::Params,
        options: Option<&CallOptions>,
        opens: Option<Opens>,
    ) -> Result<Call<M>, CallError> {
        let number = link.send(M::NAME, params, options, opens)?;
        Ok(Call { link: Arc::clone(link), number, settled: false, method: PhantomData })
    }

    /// Its id on the wire.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the result.
    pub fn wait(self) -> Result<M::Result, CallError> {
        self.settle(None)
    }

    /// Waits at most so long.
    pub fn wait_for(self, patience: Duration) -> Result<M::Result, CallError> {
        self.settle(Some(Instant::now() + patience))
    }

    /// Waits for the result, unread.
    pub(crate) fn wait_raw(mut self) -> Result<Bytes, CallError> {
        self.settled = true;
        self.link.answer(self.number, None)
    }

    fn settle(mut self, deadline: Option<Instant>) -> Result<M::Result, CallError> {
        self.settled = true;
        let result = self.link.answer(self.number, deadline)?;
        kairo_wire::codec::decode::from_slice(&result)
            .map_err(|error| CallError::Shape(format!("the result of {}: {error}", M::NAME)))
    }

    /// Asks the kernel to abandon the call, which then answers `E_CANCELLED` or what it had done before.
    pub fn cancel(&self) -> Result<bool, CallError> {
        let id = Raw::of(&self.number).map_err(|error| CallError::Shape(error.to_string()))?;
        Call::<system::Cancel>::begin(&self.link, &system::CancelParams { id }, None, None)?
            .wait()
            .map(|answer| answer.cancelled)
    }
}

impl<M: Method> Drop for Call<M> {
    fn drop(&mut self) {
        if !self.settled {
            self.link.lock().abandon_call(self.number);
        }
    }
}
