//! Requests out: one at a time onto the socket, each with a place for its answer before it is sent.
//!
//! A request that may be needed again (see `resume`) is kept as it was sent, until it is answered. What happens once is
//! told apart from what may be asked twice here, by the method; a spawn and a write to a stdin carry a key, so that a
//! kernel answers the second as it did the first.
//!
//! Invariant: a request is in the tables, as delivered, before its first byte is on the socket; so nobody can take it for
//! undelivered when the kernel has it.

use crate::connection::{CallOptions, put_request};
use crate::error::{CallError, Lost};
use crate::resume::{Errand, Resuming};
use crate::state::{EventRoom, Interest, Link, Opens, Unmet, Waiting};
use bytes::{Bytes, BytesMut};
use kairo_wire::method::Method;
use kairo_wire::methods::process::{List, Spawn, Status, StdinWrite, Wait};
use kairo_wire::methods::system::{Cancel, Doctor, GetMetrics, Introspect, Ping};
use kairo_wire::methods::{consumer, device, event, identity, intent, open, publish, quota, stream, view};
use serde::Serialize;
use std::borrow::Cow;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// A request buffer larger than this is not kept for the next request.
const REQUEST_BYTES_KEPT: usize = 256 << 10;
/// A request up to this size is copied to be kept, so that the buffer can be used again.
const REQUEST_BYTES_COPIED: usize = 4 << 10;

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) socket: Arc<UnixStream>,
    buffer: BytesMut,
}

impl Outlet {
    pub(crate) fn new(socket: Arc<UnixStream>) -> Outlet {
        Outlet { socket, buffer: BytesMut::new() }
    }
}

/// A request as it was sent.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Cow<'static, str>,
    /// Header and payload, where it may be sent again.
    pub(crate) frame: Option<Bytes>,
    pub(crate) again: Again,
    /// The kernel may have it.
    pub(crate) delivered: bool,
}

/// What sending a request twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nothing: it only asks, or says what is so already.
    Harmless,
    /// Nothing, because the kernel knows it by its key.
    Keyed,
    /// It may happen twice.
    Twice,
}

/// Methods that change nothing, or nothing more when they are called again.
const HARMLESS: &[&str] = &[
    Cancel::NAME,
    consumer::Ack::NAME,
    consumer::Attach::NAME,
    consumer::List::NAME,
    consumer::Status::NAME,
    device::List::NAME,
    Doctor::NAME,
    event::Subscribe::NAME,
    event::Replay::NAME,
    event::Unsubscribe::NAME,
    event::Replay::NAME,
    GetMetrics::NAME,
    // A second cancel, register or release is answered as the first was.
    intent::Cancel::NAME,
    intent::List::NAME,
    intent::Register::NAME,
    intent::Release::NAME,
    intent::Status::NAME,
    intent::Timeline::NAME,
    identity::Identify::NAME,
    Introspect::NAME,
    List::NAME,
    Ping::NAME,
    quota::Status::NAME,
    Status::NAME,
    stream::Subscribe::NAME,
    stream::Unsubscribe::NAME,
    Wait::NAME,
    view::Get::NAME,
    view::List::NAME,
    view::Watch::NAME,
];

/// Methods whose calls get a key of ours if the caller gives none.
const KEYED: &[&str] = &[Spawn::NAME, StdinWrite::NAME, intent::Begin::NAME];

impl Again {
    fn of(method: &str, has_key: bool) -> Again {
        if HARMLESS.contains(&method) {
            Again::Harmless
        } else if has_key {
            Again::Keyed
        } else {
            Again::Twice
        }
    }
}

impl Link {
    pub(crate) fn outlet(&self) -> MutexGuard<'_, Outlet> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_call(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a call; returns its number.
    pub(crate) fn send<P: Serialize + ?Sized>(
        &self,
        method: impl Into<Cow<'static, str>>,
        params: &P,
        options: Option<&CallOptions>,
        opens: Option<Opens>,
    ) -> Result<u64, CallError> {
        self.post(method.into(), params, options, Sending::Call { opens, wanted: true })
    }

    /// Sends a call whose answer interests nobody; not over a connection that is lost, which took it along.
    pub(crate) fn tell<P: Serialize + ?Sized>(&self, method: &'static str, params: &P) {
        // Whoever hears of a failure is whoever waits next.
        let _ = self.post(method.into(), params, None, Sending::Call { opens: None, wanted: false });
    }

    fn post<P: Serialize + ?Sized>(
        &self,
        method: Cow<'static, str>,
        params: &P,
        options: Option<&CallOptions>,
        sending: Sending,
    ) -> Result<u64, CallError> {
        let mut out = self.outlet();
        let call = self.next_call();
        let key = self.key(&method, call, options);
        out.buffer.clear();
        put_request(&mut out.buffer, call, &method, params, options, key.as_deref())?;
        let again = Again::of(&method, key.is_some());
        let keeps = self.home.is_some() && again != Again::Twice;
        let frame = keeps.then(|| kept(&mut out.buffer));
        let up = {
            let mut state = self.lock();
            let up = !state.down;
            match sending {
                Sending::Call { wanted: false, .. } if !up => return Ok(call),
                Sending::Call { opens, wanted } => {
                    let opens = opens.or_else(|| brings_descriptors(&method).then_some(Opens::Descriptors));
                    let request = self.home.is_some().then(|| {
                        // One that is not delivered is sent later, whatever it is.
                        let frame = frame.clone().or_else(|| (!up).then(|| kept(&mut out.buffer)));
                        Request { method, frame, again, delivered: up }
                    });
                    state.open_call(call, Waiting { opens, wanted, request })?;
                }
                Sending::Resuming(_) if !up => return Ok(call),
                Sending::Resuming(resuming) => drop(state.resuming.insert(call, resuming)),
            }
            up
        };
        if up {
            self.put(&mut out, call, frame.as_ref())?;
        }
        if out.buffer.capacity() > REQUEST_BYTES_KEPT {
            out.buffer = BytesMut::new();
        }
        Ok(call)
    }

    /// Writes a request whose place is ready.
    fn put(&self, out: &mut Outlet, call: u64, frame: Option<&Bytes>) -> Result<(), CallError> {
        let bytes = frame.map_or(&out.buffer[..], |frame| frame);
        let Err(error) = (&*out.socket).write_all(bytes) else { return Ok(()) };
        let lost = Lost::from_write(error);
        let mut state = self.lock();
        if self.home.is_some() && lost.is_the_kernels() {
            // It has not left whole, so nobody has it. That the connection is lost is found by who reads, after the
            // answers that are still on the way.
            let whole = frame.cloned().unwrap_or_else(|| kept(&mut out.buffer));
            state.is_undelivered(call, whole);
            return Ok(());
        }
        state.forget_call(call);
        state.lose(lost.clone());
        Err(CallError::Lost(lost))
    }

    /// The idempotency key of a call: the caller's, or one of ours where it would be honoured.
    fn key(&self, method: &str, call: u64, options: Option<&CallOptions>) -> Option<String> {
        if let Some(key) = options.and_then(|options| options.idempotency_key.clone()) {
            return Some(key);
        }
        let home = self.home.as_ref()?;
        KEYED.contains(&method).then(|| format!("{}-{call}", home.keys))
    }

    /// Waits for the answer of a call.
    pub(crate) fn answer(&self, call: u64, deadline: Option<Instant>) -> Result<Bytes, CallError> {
        match self.wait(Interest::Call(call), deadline, |state| state.take_answer(call)) {
            Ok(answer) => answer,
            Err(Unmet::Lost(lost)) => Err(CallError::Lost(lost)),
            Err(Unmet::Deadline) => {
                self.lock().abandon_call(call);
                Err(CallError::Deadline)
            }
        }
    }

    /// Sends what has to be sent because of what came.
    pub(crate) fn run(&self, errands: Vec<Errand>) {
        for errand in errands {
            match errand {
                Errand::EndStream(subscription_id) => {
                    self.tell(stream::Unsubscribe::NAME, &stream::UnsubscribeParams { subscription_id });
                }
                Errand::EndEvents(subscription_id) => {
                    self.tell(event::Unsubscribe::NAME, &event::UnsubscribeParams { subscription_id });
                }
                Errand::EventsAgain(room) => {
                    let again = self.lock().events.get(&room).and_then(EventRoom::again);
                    if let Some((method, params)) = again {
                        let resuming = Sending::Resuming(Resuming::Cut(room));
                        let _ = self.post(method.into(), &params, None, resuming);
                    }
                }
                Errand::Afresh(stream, params) => {
                    let resuming = Sending::Resuming(Resuming::Stream(stream));
                    // If it can't be sent, the connection is lost, and the next one is asked the same.
                    let _ = self.post(stream::Subscribe::NAME.into(), &*params, None, resuming);
                }
            }
        }
    }
}

/// Whether descriptors come with the answers of a method.
fn brings_descriptors(method: &str) -> bool {
    [open::Open::NAME, open::OpenStdin::NAME, publish::Publish::NAME].contains(&method)
}

/// Where the answer of a request goes.
#[derive(Clone, Copy, Debug)]
enum Sending {
    Call { opens: Option<Opens>, wanted: bool },
    Resuming(Resuming),
}

/// The bytes of a request, to be kept. The buffer keeps them too, or gives them away.
fn kept(buffer: &mut BytesMut) -> Bytes {
    if buffer.len() <= REQUEST_BYTES_COPIED {
        return Bytes::copy_from_slice(buffer);
    }
    buffer.split().freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_twice_is_listed_and_nothing_else() {
        assert_eq!(Again::of("process.kill", false), Again::Twice);
        assert_eq!(Again::of("process.kill", true), Again::Keyed);
        assert_eq!(Again::of("process.spawn", false), Again::Twice);
        assert_eq!(Again::of("process.spawn", true), Again::Keyed);
        assert_eq!(Again::of("process.wait", false), Again::Harmless);
    }
}
