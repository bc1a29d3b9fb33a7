//! A connection to a kernel: connecting, greeting, calling.
//!
//! A [`Client`] is shared freely between threads and has no thread of its own (see `state` for who reads).
//! Calls are typed by their method ([`Client::call`]) or raw ([`Client::call_raw`]); many may be in flight.
//! Subscriptions are in [`crate::subscription`] and [`crate::events`]; a stream that deserves a connection of its own
//! is in [`crate::direct`].

use crate::direct::DirectStream;
use crate::error::{CallError, ConnectError, Lost};
use crate::events::{Events, Exits};
use crate::inlet::Inlet;
use crate::state::{EventKinds, Interest, Shared, Unmet};
use crate::subscription::Subscription;
use bytes::{Bytes, BytesMut};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::error::Code;
use kairo_wire::id::TopicPattern;
use kairo_wire::limits::CHUNK_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::stream::SubscribeParams;
use kairo_wire::methods::{event, stream, system};
use kairo_wire::request::{self, Meta};
use serde::Serialize;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Name and version of the program, for the kernel's log.
    pub name: String,
    /// Exact integers on the wire.
    pub int64: bool,
    /// Offsets in chunks; gaps and ends are told. Without it a [`Subscription`] can check sequence numbers only.
    pub records: bool,
    /// Longest data of a chunk, bytes; 0 leaves it at v1's 65,535.
    pub chunk_bytes_max: u32,
    /// How long the greeting may take.
    pub hello_deadline: Duration,
}

impl Default for ConnectOptions {
    fn default() -> ConnectOptions {
        ConnectOptions {
            name: concat!("kairo-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            int64: true,
            records: true,
            chunk_bytes_max: CHUNK_BYTES_MAX as u32,
            hello_deadline: Duration::from_secs(10),
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
}

/// How much longer than the kernel we wait for its word that a deadline has passed.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);

/// A connection. Clones share it; it closes with the last of them and of its subscriptions.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
    hello: Arc<system::HelloResult>,
}

/// What calls and subscriptions of one connection share.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<UnixStream>,
    /// Taken for the length of one write, so that requests do not mix.
    out: Mutex<BytesMut>,
    pub(crate) shared: Shared,
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
        Client::over(socket, options)
    }

    /// Takes a socket that is connected already, and greets.
    pub fn over(socket: UnixStream, options: &ConnectOptions) -> Result<Client, ConnectError> {
        socket
            .set_nonblocking(false)
            .map_err(|source| ConnectError::Os { path: PathBuf::from("(socket)"), source })?;
        let link = Arc::new(Link::new(socket));
        let mut features = Vec::new();
        if options.int64 {
            features.push("int64".to_owned());
        }
        if options.records {
            features.push("records".to_owned());
        }
        if options.chunk_bytes_max > 0 {
            features.push("chunks".to_owned());
        }
        let params = system::HelloParams {
            client: Some(options.name.clone()),
            features,
            chunk_bytes_max: (options.chunk_bytes_max > 0).then_some(options.chunk_bytes_max),
            resumes: None,
        };
        let call = Call::<system::Hello>::begin(&link, &params, None, None)?;
        let hello = call.wait_for(options.hello_deadline)?;
        Ok(Client { link, hello: Arc::new(hello) })
    }

    /// What the kernel said of itself, and what it granted.
    pub fn hello(&self) -> &system::HelloResult {
        &self.hello
    }

    /// True if the kernel granted a feature.
    pub fn has(&self, feature: &str) -> bool {
        self.hello.features.iter().any(|granted| granted == feature)
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
        let number = self.link.send(method, params, Some(options), None)?;
        let deadline = options.deadline.map(|deadline| Instant::now() + deadline + DEADLINE_GRACE);
        let result = self.link.answer(number, deadline)?;
        RawRef::new(&result).map(RawRef::to_owned).map_err(|error| CallError::Shape(error.to_string()))
    }

    /// Reads what a process writes. Many subscriptions can share a connection; one whose consumer is slow holds up
    /// the others, so a heavy one belongs on a connection of its own ([`Client::into_stream`]).
    pub fn subscribe(&self, params: &SubscribeParams) -> Result<Subscription, CallError> {
        Subscription::open(&self.link, params, self.has("records"))
    }

    /// Receives the bus events whose topic matches a pattern, from now on.
    pub fn events(&self, pattern: &str) -> Result<Events, CallError> {
        let topic = TopicPattern::from_text(pattern).ok_or_else(|| {
            CallError::Shape("a topic pattern is not empty; > stands for everything".to_owned())
        })?;
        let room = self.link.shared.lock().open_events(EventKinds::Bus(pattern.to_owned()));
        let params = event::SubscribeParams { topic };
        let opened = Call::<event::Subscribe>::begin(&self.link, &params, None, None).and_then(Call::wait);
        match opened {
            Ok(opened) => Ok(Events::new(Arc::clone(&self.link), room, opened.subscription_id)),
            Err(error) => {
                self.link.shared.lock().close_events(room);
                Err(error)
            }
        }
    }

    /// Receives the `process.exit` notices the kernel sends to every connection that may see the process.
    pub fn exits(&self) -> Exits {
        let room = self.link.shared.lock().open_events(EventKinds::Exits);
        Exits::new(Arc::clone(&self.link), room)
    }

    /// Gives the whole connection to one subscription: no queue, no hand-over, one reusable buffer. Fails with
    /// [`CallError::Lost`] if the connection is still shared by clones or subscriptions.
    pub fn into_stream(self, params: &SubscribeParams) -> Result<DirectStream, CallError> {
        let records = self.has("records");
        let link = Arc::try_unwrap(self.link).map_err(|_| {
            CallError::Shape("the connection is shared, and a direct stream needs it alone".to_owned())
        })?;
        let Link { socket, shared, .. } = link;
        let inlet = shared.into_inlet().ok_or(CallError::Lost(Lost::ClosedHere))?;
        DirectStream::open(socket, inlet, params, records)
    }

    /// Ends the connection for all who share it; their calls and subscriptions fail at once.
    pub fn close(&self) {
        self.link.shared.lock().lose(Lost::ClosedHere);
        // A socket that is closed already is what was wanted.
        let _ = self.link.socket.shutdown(Shutdown::Both);
    }
}

impl Link {
    fn new(socket: UnixStream) -> Link {
        let socket = Arc::new(socket);
        let shared = Shared::new(Inlet::new(Arc::clone(&socket)));
        Link { socket, out: Mutex::new(BytesMut::new()), shared }
    }

    /// Sends a call; returns its number.
    pub(crate) fn send<P: Serialize + ?Sized>(
        &self,
        method: &str,
        params: &P,
        options: Option<&CallOptions>,
        opens: Option<u64>,
    ) -> Result<u64, CallError> {
        let number = self.shared.lock().open_call(opens)?;
        let sent = self.write(number, method, params, options);
        if sent.is_err() {
            self.shared.lock().forget_call(number);
        }
        sent.map(|()| number)
    }

    fn write<P: Serialize + ?Sized>(
        &self,
        number: u64,
        method: &str,
        params: &P,
        options: Option<&CallOptions>,
    ) -> Result<(), CallError> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.clear();
        put_request(&mut out, number, method, params, options)?;
        match (&*self.socket).write_all(&out) {
            Ok(()) => {
                if out.capacity() > REQUEST_BYTES_KEPT {
                    *out = BytesMut::new();
                }
                Ok(())
            }
            Err(error) => {
                drop(out);
                let lost = Lost::from_write(error);
                self.shared.lock().lose(lost.clone());
                Err(CallError::Lost(lost))
            }
        }
    }

    /// Waits for the answer of a call.
    pub(crate) fn answer(&self, number: u64, deadline: Option<Instant>) -> Result<Bytes, CallError> {
        match self.shared.wait(Interest::Call(number), deadline, |state| state.take_answer(number)) {
            Ok(answer) => answer,
            Err(Unmet::Lost(lost)) => Err(CallError::Lost(lost)),
            Err(Unmet::Deadline) => {
                self.shared.lock().abandon_call(number);
                Err(CallError::Deadline)
            }
        }
    }

    /// Sends a call whose answer interests nobody.
    pub(crate) fn tell<P: Serialize + ?Sized>(&self, method: &str, params: &P) {
        if let Ok(number) = self.send(method, params, None, None) {
            self.shared.lock().abandon_call(number);
        }
    }
}

/// A request buffer larger than this is not kept for the next request.
const REQUEST_BYTES_KEPT: usize = 256 << 10;

/// Appends a REQUEST frame.
pub(crate) fn put_request<P: Serialize + ?Sized>(
    out: &mut BytesMut,
    number: u64,
    method: &str,
    params: &P,
    options: Option<&CallOptions>,
) -> Result<(), CallError> {
    let meta = options.and_then(|options| {
        let wanted = options.deadline.is_some() || options.correlation_id.is_some();
        wanted.then(|| Meta {
            deadline_ms: options.deadline.map(|deadline| deadline.as_millis().try_into().unwrap_or(u64::MAX)),
            correlation_id: options.correlation_id.as_deref().map(Into::into),
            ..Meta::default()
        })
    });
    request::put(out, &number, method, params, meta.as_ref()).map_err(|error| match error.code {
        Code::TooLarge => CallError::TooLarge { message: error.message.into_owned() },
        _ => CallError::Shape(error.message.into_owned()),
    })
}

impl Lost {
    fn from_write(error: io::Error) -> Lost {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Lost::Closed { unread: 0 },
            _ => Lost::Os(Arc::new(error)),
        }
    }
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
        opens: Option<u64>,
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
            self.link.shared.lock().abandon_call(self.number);
        }
    }
}

/// Ends a subscription to a process on the kernel's side.
pub(crate) fn unsubscribe_stream(link: &Link, params: &stream::UnsubscribeParams) {
    link.tell(stream::Unsubscribe::NAME, params);
}

/// Ends a subscription to events on the kernel's side.
pub(crate) fn unsubscribe_events(link: &Link, params: &event::UnsubscribeParams) {
    link.tell(event::Unsubscribe::NAME, params);
}
