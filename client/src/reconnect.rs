//! Coming back: from a lost connection to a greeted one, by whoever waits.
//!
//! ```text
//!   lost ──▶ try to connect ──nobody there──▶ pause, a little longer each time ──▶ try again …
//!                 │                                                       └─patience over──▶ given up
//!                 └─▶ greet: hello with the former connection's token, identify again ──▶ back
//! ```
//!
//! An outage is a state, not a thread: each step of it is made by whoever waits for something just then, up to that
//! one's deadline, and the next who waits goes on where it was left. Which calls and subscriptions live on is decided in
//! `state` and `reading`; here is only the way to a new connection with the rights of the old one.
//!
//! Invariant: a connection is handed on only when the kernel has granted every feature the former one had, and has
//! lowered it again if the former was lowered.

use crate::connection::{ConnectOptions, put_request};
use crate::error::{CallError, Lost};
use crate::inlet::{Inlet, Stop};
use bytes::BytesMut;
use kairo_wire::codec::raw::Raw;
use kairo_wire::frame::Kind;
use kairo_wire::method::Method;
use kairo_wire::methods::identity::Identify;
use kairo_wire::methods::system::{Hello, HelloParams, HelloResult};
use std::fmt;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The calls of a greeting; every later call has a higher number.
const HELLO_CALL: u64 = 1;
const IDENTIFY_CALL: u64 = 2;
/// The first number of a call that is no greeting.
pub(crate) const FIRST_CALL: u64 = 16;

/// How to come back when the kernel is gone: it may have been replaced by a new one, which goes on with its processes.
#[derive(Clone, Debug)]
pub struct Reconnect {
    /// How long a kernel is waited for, from the loss on; then everything fails with [`Lost::NotBack`].
    pub patience: Duration,
    /// Between the first two attempts; each further pause is twice as long.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Is told what happens.
    pub watch: Option<Watch>,
}

impl Default for Reconnect {
    /// 30 s of patience; pauses from 5 ms to 50 ms, because asking for a socket that isn't there costs microseconds.
    fn default() -> Reconnect {
        Reconnect {
            patience: Duration::from_secs(30),
            pause_first: Duration::from_millis(5),
            pause_max: Duration::from_millis(50),
            watch: None,
        }
    }
}

/// What happens to a connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// It is lost; the kernel is waited for.
    Lost(Lost),
    /// It is there again, and what was subscribed and in flight goes on.
    Back {
        /// How long it was away, from when that was noticed.
        outage: Duration,
    },
    /// The patience is over.
    GivenUp(Lost),
}

/// A function that is told of each [`Change`], by whichever thread notices it. It must not use the connection.
#[derive(Clone)]
pub struct Watch(Arc<dyn Fn(&Change) + Send + Sync>);

impl Watch {
    /// Wraps the function.
    pub fn new(told: impl Fn(&Change) + Send + Sync + 'static) -> Watch {
        Watch(Arc::new(told))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Where a connection leads, for the way back.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) options: ConnectOptions,
    pub(crate) reconnect: Reconnect,
    /// Begins the idempotency keys of this client; nobody else's begin with it.
    pub(crate) keys: Arc<str>,
}

impl Home {
    pub(crate) fn tell(&self, change: &Change) {
        if let Some(Watch(told)) = &self.reconnect.watch {
            told(change);
        }
    }

    fn end_of_patience(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.reconnect.patience)
    }
}

/// What a connection has from its kernel, and a new one has to have too.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) hello: Arc<HelloResult>,
    /// The parameters of the `identify` that lowered it.
    pub(crate) lowered: Option<Raw>,
}

impl Standing {
    /// The kernel answers a repeated call by its key.
    pub(crate) fn honours_keys(&self) -> bool {
        // What came with the keys: a kernel that tells no connection knows neither.
        !self.hello.connection.is_empty()
    }

    pub(crate) fn has(&self, feature: &str) -> bool {
        self.hello.features.iter().any(|granted| granted == feature)
    }
}

/// A connection, or the way to one.
#[derive(Debug)]
pub(crate) enum Line {
    Up(Inlet),
    Down(Box<Outage>),
}

/// A connection that is being greeted.
#[derive(Debug)]
pub(crate) struct Greeting {
    socket: Arc<UnixStream>,
    inlet: Inlet,
    until: Instant,
    hello: Option<HelloResult>,
    /// The answer to `identify` is due.
    lowering: bool,
}

impl Greeting {
    /// Says hello; for a lost connection in its place.
    pub(crate) fn begin(
        socket: UnixStream,
        options: &ConnectOptions,
        standing: Option<&Standing>,
    ) -> Result<Greeting, CallError> {
        let mut features = Vec::new();
        if options.int64 {
            features.push("int64".to_owned());
        }
        if options.envelope {
            features.push("envelope".to_owned());
        }
        if options.records {
            features.push("records".to_owned());
        }
        if options.timestamps {
            features.push("timestamps".to_owned());
        }
        if options.chunk_bytes_max > 0 {
            features.push("chunks".to_owned());
        }
        let token = standing.map(|standing| standing.hello.connection.clone());
        let params = HelloParams {
            client: Some(options.name.clone()),
            features,
            chunk_bytes_max: (options.chunk_bytes_max > 0).then_some(options.chunk_bytes_max),
            resumes: token.filter(|token| !token.is_empty()),
        };
        let lowered = standing.and_then(|standing| standing.lowered.as_ref());
        let mut out = BytesMut::new();
        put_request(&mut out, HELLO_CALL, Hello::NAME, &params, None, None)?;
        if let Some(lowered) = lowered {
            put_request(&mut out, IDENTIFY_CALL, Identify::NAME, lowered, None, None)?;
        }
        (&socket).write_all(&out).map_err(|error| CallError::Lost(Lost::from_write(error)))?;
        let socket = Arc::new(socket);
        Ok(Greeting {
            inlet: Inlet::new(Arc::clone(&socket)),
            socket,
            until: Instant::now() + options.hello_deadline,
            hello: None,
            lowering: lowered.is_some(),
        })
    }

    /// Waits for what is due; false at the deadline, with everything as it was.
    pub(crate) fn wait(&mut self, deadline: Option<Instant>) -> Result<bool, CallError> {
        while self.hello.is_none() || self.lowering {
            let end = deadline.map_or(self.until, |deadline| deadline.min(self.until));
            let (kind, range) = match self.inlet.fill(Some(end)) {
                Ok(filled) => filled,
                Err(Stop::Deadline) if Instant::now() >= self.until => return Err(CallError::Deadline),
                Err(Stop::Deadline) => return Ok(false),
                Err(stop) => return Err(CallError::Lost(stop.into())),
            };
            let answer = match kind {
                Kind::RESPONSE => Some(crate::codec::response(&self.inlet.bytes()[range.clone()], None)?),
                // Nothing is pushed before the first reply, and after it nothing was asked for.
                Kind(_) => None,
            };
            self.inlet.consume(range.end);
            let Some((call, outcome)) = answer else { continue };
            let result = outcome.map_err(|refusal| CallError::Kernel(Box::new(refusal)))?;
            match call {
                HELLO_CALL => self.hello = Some(crate::codec::value(&result)?),
                IDENTIFY_CALL => self.lowering = false,
                _ => {}
            }
        }
        Ok(true)
    }

    /// The greeted connection; none if an answer is due.
    pub(crate) fn finish(self) -> Option<Greeted> {
        let hello = self.hello.filter(|_| !self.lowering)?;
        Some(Greeted { socket: self.socket, inlet: self.inlet, hello: Arc::new(hello) })
    }
}

/// A connection that has been greeted.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) socket: Arc<UnixStream>,
    pub(crate) inlet: Inlet,
    pub(crate) hello: Arc<HelloResult>,
}

/// The time without a connection.
#[derive(Debug)]
pub(crate) struct Outage {
    lost: Lost,
    pub(crate) since: Instant,
    pause: Duration,
    next: Instant,
    greeting: Option<Greeting>,
    told: bool,
}

/// What a step of an outage has come to.
#[derive(Debug)]
pub(crate) enum Step {
    /// There is a connection.
    Back(Greeted),
    /// Not yet, and the deadline is there.
    NotYet,
    /// There will be none.
    Never(Lost),
}

impl Outage {
    pub(crate) fn new(lost: Lost, reconnect: &Reconnect) -> Outage {
        let now = Instant::now();
        Outage { lost, since: now, pause: reconnect.pause_first, next: now, greeting: None, told: false }
    }

    /// Works at it up to the deadline. Without a standing the connection was lost before it was greeted.
    pub(crate) fn step(
        &mut self,
        home: &Home,
        standing: Option<&Standing>,
        deadline: Option<Instant>,
    ) -> Step {
        if !self.told {
            self.told = true;
            home.tell(&Change::Lost(self.lost.clone()));
        }
        let patience = home.end_of_patience(self.since);
        let end = deadline.into_iter().chain(patience).min();
        loop {
            if patience.is_some_and(|patience| patience <= Instant::now()) {
                let patience = home.reconnect.patience;
                return Step::Never(Lost::NotBack { patience, lost: Box::new(self.lost.clone()) });
            }
            let Some(greeting) = &mut self.greeting else {
                if !self.attempt(home, standing, end) && end.is_some_and(|end| end <= Instant::now()) {
                    return self.not_yet(patience);
                }
                continue;
            };
            match greeting.wait(end) {
                Ok(false) => return self.not_yet(patience),
                Err(_) => self.put_off(home),
                Ok(true) => match self.greeting.take().and_then(Greeting::finish) {
                    Some(greeted) => return accept(greeted, standing),
                    None => self.put_off(home),
                },
            }
        }
    }

    /// At the end of a step; the end of the patience is told by the next.
    fn not_yet(&self, patience: Option<Instant>) -> Step {
        match patience.filter(|patience| *patience <= Instant::now()) {
            Some(patience) => Step::Never(Lost::NotBack {
                patience: patience - self.since,
                lost: Box::new(self.lost.clone()),
            }),
            None => Step::NotYet,
        }
    }

    /// Connects, when it is time to; false if it wasn't, or nobody is there.
    fn attempt(&mut self, home: &Home, standing: Option<&Standing>, end: Option<Instant>) -> bool {
        let now = Instant::now();
        if now < self.next {
            let until = end.map_or(self.next, |end| end.min(self.next));
            std::thread::sleep(until.saturating_duration_since(now));
            return false;
        }
        let begun = UnixStream::connect(&home.path)
            .map_err(|error| CallError::Lost(Lost::Os(Arc::new(error))))
            .and_then(|socket| Greeting::begin(socket, &home.options, standing));
        match begun {
            Ok(greeting) => self.greeting = Some(greeting),
            Err(_) => self.put_off(home),
        }
        self.greeting.is_some()
    }

    /// The next attempt comes after a pause, the one after that after a longer one.
    fn put_off(&mut self, home: &Home) {
        self.greeting = None;
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(home.reconnect.pause_max.max(self.pause));
    }
}

/// A kernel that grants less can't go on where the former one was.
fn accept(greeted: Greeted, standing: Option<&Standing>) -> Step {
    let granted = &greeted.hello.features;
    let had = standing.map_or(&[][..], |standing| &standing.hello.features);
    match had.iter().find(|feature| !granted.contains(feature)) {
        None => Step::Back(greeted),
        Some(feature) => {
            Step::Never(Lost::Payload(format!("the kernel that came back does not grant {feature}").into()))
        }
    }
}
