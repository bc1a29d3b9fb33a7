//! The driver for every machine: readiness (epoll, kqueue), then the call.
//!
//! ```text
//!  submit ─▶ watch[fd].ops ─▶ (armed ⊉ wanted?) arm ─▶ wait ─▶ ready ─▶ recv, accept ─▶ answer
//! ```
//!
//! A descriptor is armed for the union of what its operations want and *stays* armed when they are answered: the
//! next request on the connection, the next bytes of the pipe need no call to arm it again. Only readiness that
//! nobody had asked for disarms it, once. Invariant: a descriptor is in the set exactly while its handle says so,
//! and it leaves the set before it closes (see [`super::handle`]). A regular file can't be watched: it is always
//! ready. What is tried at once is not here but in [`super::handle`].

use super::handle::{Engine, Handle, PacketBuffer, WeakHandle};
use super::inflight::Inflight;
use super::op::{Answer, Completion, Interest, Lent, Op};
use super::token::Token;
use crate::sys::clock::monotonic_ns;
use crate::sys::{Readiness, Ready, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

/// Bytes a lent buffer holds.
const BUFFER_BYTES: usize = 64 << 10;
/// Buffers kept for the next receive when nobody has them.
const IDLE_BUFFERS_MAX: usize = 16;

/// Readiness, then the call.
#[derive(Debug)]
pub struct Poll {
    readiness: Rc<Readiness>,
    /// By descriptor number.
    watches: Vec<Watch>,
    /// Which descriptor an operation is on.
    inflight: Inflight<usize>,
    /// Descriptors whose operations may want more than is armed.
    unarmed: Vec<usize>,
    /// Answers that needed no waiting.
    answered: Vec<Completion<Handle>>,
    events: Vec<(u64, Ready)>,
    buffers: Buffers,
    packets: PacketBuffer,
}

/// One descriptor's operations and what it is armed for.
#[derive(Debug, Default)]
struct Watch {
    ops: Vec<Pending>,
    /// In force while the descriptor is watched; left by an earlier one of this number otherwise.
    armed: Ready,
    /// Who is armed, to disarm it when no operation holds it.
    handle: Option<WeakHandle>,
}

#[derive(Debug)]
struct Pending {
    token: Token,
    op: Op<Handle>,
}

impl Pending {
    fn handle(&self) -> &Handle {
        match &self.op {
            Op::Poll(handle, _) | Op::Receive(handle) | Op::Accept(handle) => handle,
        }
    }

    fn wants(&self) -> Ready {
        let mut wants = Ready::default();
        match &self.op {
            Op::Poll(_, Interest::Read) | Op::Receive(_) | Op::Accept(_) => wants.read = true,
            Op::Poll(_, Interest::Write) => wants.write = true,
            Op::Poll(_, Interest::Hangup) => wants.hangup = true,
        }
        wants
    }
}

impl Ready {
    fn union(self, other: Ready) -> Ready {
        Ready {
            read: self.read || other.read,
            write: self.write || other.write,
            hangup: self.hangup || other.hangup,
        }
    }

    fn meets(self, other: Ready) -> bool {
        self.read && other.read || self.write && other.write || self.hangup && other.hangup
    }

    fn covers(self, other: Ready) -> bool {
        self.union(other) == self
    }
}

impl Watch {
    fn wants(&self) -> Ready {
        self.ops.iter().fold(Ready::default(), |wants, pending| wants.union(pending.wants()))
    }
}

impl Poll {
    /// A driver without descriptors. Fails if the platform's readiness set can't be made (EMFILE, ENOMEM).
    pub fn new() -> io::Result<Poll> {
        Ok(Poll {
            readiness: Rc::new(Readiness::new()?),
            watches: Vec::new(),
            inflight: Inflight::new(),
            unarmed: Vec::new(),
            answered: Vec::new(),
            events: Vec::new(),
            buffers: Buffers::default(),
            packets: PacketBuffer::default(),
        })
    }

    /// What is watched, for whoever waits for it by other means.
    pub fn set(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }

    /// Operations that wait.
    pub fn waiting(&self) -> usize {
        self.inflight.len()
    }

    /// True if it is to be collected from, whatever the kernel has to tell.
    pub fn has_news(&self) -> bool {
        !self.unarmed.is_empty() || !self.answered.is_empty()
    }

    /// True exactly while this operation waits here.
    pub fn has(&self, token: Token) -> bool {
        self.inflight.get(token).is_some()
    }

    /// Brings what is armed up to what is wanted, for the descriptors whose operations changed.
    fn arm(&mut self) {
        let mut unarmed = std::mem::take(&mut self.unarmed);
        for number in unarmed.drain(..) {
            let watch = &mut self.watches[number];
            let Some(pending) = watch.ops.first() else { continue };
            let handle = pending.handle().clone();
            let wants = watch.wants();
            if handle.is_watched() && watch.armed.covers(wants) {
                continue;
            }
            let done = if handle.is_watched() {
                self.readiness.modify(handle.as_fd(), number as u64, wants)
            } else {
                self.readiness.add(handle.as_fd(), number as u64, wants)
            };
            match done {
                Ok(()) => {
                    watch.armed = wants;
                    if !handle.is_watched() {
                        watch.handle = Some(handle.downgrade());
                        handle.watched_by(&self.readiness);
                    }
                }
                // A regular file: reading and writing never wait, and it never hangs up.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    self.answer_all(number, |op| match op {
                        Op::Poll(_, Interest::Read | Interest::Write) => Some(Answer::Ready),
                        Op::Poll(_, Interest::Hangup) => None,
                        Op::Receive(_) | Op::Accept(_) => Some(Answer::Failed(libc::ENOTSOCK)),
                    });
                }
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    self.answer_all(number, |_| Some(Answer::Failed(errno)));
                }
            }
        }
        self.unarmed = unarmed;
    }

    fn answer_all(&mut self, number: usize, answer: impl Fn(&Op<Handle>) -> Option<Answer<Handle>>) {
        let Poll { watches, inflight, answered, .. } = self;
        watches[number].ops.retain(|pending| match answer(&pending.op) {
            Some(answer) => {
                inflight.release(pending.token);
                answered.push(Completion { token: pending.token, answer });
                false
            }
            None => true,
        });
    }

    /// Answers the operations that a descriptor's readiness satisfies; disarms what nobody waits for.
    fn dispatch(&mut self, number: usize, ready: Ready, answers: &mut Vec<Completion<Handle>>) {
        let Some(watch) = self.watches.get_mut(number) else { return };
        let mut asked = false;
        let mut index = 0;
        while index < watch.ops.len() {
            let pending = &watch.ops[index];
            if !ready.meets(pending.wants()) {
                index += 1;
                continue;
            }
            asked = true;
            match carry_out(&pending.op, &mut self.buffers) {
                Some(answer) => {
                    let pending = watch.ops.swap_remove(index);
                    self.inflight.release(pending.token);
                    answers.push(Completion { token: pending.token, answer });
                }
                None => index += 1,
            }
        }
        if !asked {
            self.disarm(number);
        }
    }

    /// Readiness came that no operation had asked for: ask for no more than is wanted.
    fn disarm(&mut self, number: usize) {
        let watch = &mut self.watches[number];
        let Some(handle) = watch.handle.as_ref().and_then(WeakHandle::upgrade) else { return };
        watch.armed = watch.wants();
        if watch.ops.is_empty() {
            handle.unwatch();
        } else {
            // If the kernel can't, it fires again and comes here again.
            let _ = self.readiness.modify(handle.as_fd(), number as u64, watch.armed);
        }
    }
}

/// Makes the call an operation was waiting to make. None if it still has to wait.
fn carry_out(op: &Op<Handle>, buffers: &mut Buffers) -> Option<Answer<Handle>> {
    match op {
        Op::Poll(..) => Some(Answer::Ready),
        Op::Receive(handle) => {
            let (buffer, bytes) = buffers.take();
            let answer = match socket::receive(handle.as_fd(), bytes) {
                Ok(0) => Some(Answer::Eof),
                Ok(len) => {
                    let len = u32::try_from(len).unwrap_or(u32::MAX);
                    return Some(Answer::Received(Lent { buffer, len }));
                }
                Err(error) => failed(&error),
            };
            buffers.put(buffer);
            answer
        }
        Op::Accept(handle) => match socket::accept(handle.as_fd()) {
            Ok(fd) => Some(Answer::Accepted(Handle::from(fd))),
            Err(error) => failed(&error),
        },
    }
}

fn failed(error: &io::Error) -> Option<Answer<Handle>> {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => None,
        Some(errno) => Some(Answer::Failed(errno)),
        None => Some(Answer::Failed(libc::EIO)),
    }
}

impl Engine for Poll {
    fn engine_name(&self) -> &'static str {
        "poll"
    }

    fn waits_punctually(&self) -> bool {
        false
    }

    fn start(&mut self, token: Token, op: Op<Handle>) {
        let pending = Pending { token, op };
        let number =
            usize::try_from(pending.handle().as_raw_fd()).expect("an open descriptor is not negative");
        if self.watches.len() <= number {
            self.watches.resize_with(number + 1, Watch::default);
        }
        self.inflight.claim(token, number);
        let watch = &mut self.watches[number];
        if !pending.handle().is_watched() || !watch.armed.covers(pending.wants()) {
            self.unarmed.push(number);
        }
        watch.ops.push(pending);
    }

    fn stop(&mut self, token: Token) {
        let Some(number) = self.inflight.release(token) else { return };
        let ops = &mut self.watches[number].ops;
        if let Some(index) = ops.iter().position(|pending| pending.token == token) {
            ops.swap_remove(index);
        }
        self.answered.push(Completion { token, answer: Answer::Failed(libc::ECANCELED) });
    }

    fn collect(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Handle>>) -> io::Result<()> {
        self.arm();
        let timeout = if self.answered.is_empty() {
            deadline_ns.map(|deadline| Duration::from_nanos(deadline.saturating_sub(monotonic_ns())))
        } else {
            Some(Duration::ZERO)
        };
        answers.append(&mut self.answered);
        let mut events = std::mem::take(&mut self.events);
        let waited = self.readiness.wait(timeout, &mut events);
        for (number, ready) in events.drain(..) {
            self.dispatch(number as usize, ready, answers);
        }
        self.events = events;
        waited
    }

    fn lent_bytes(&self, lent: &Lent) -> &[u8] {
        &self.buffers.all[lent.buffer as usize][..lent.len as usize]
    }

    fn take_back(&mut self, lent: Lent) {
        self.buffers.put(lent.buffer);
    }

    fn packets(&mut self) -> &mut PacketBuffer {
        &mut self.packets
    }
}

/// Buffers to lend: as many as are out, the last given back lent first, as it is still in the cache.
#[derive(Debug, Default)]
struct Buffers {
    /// Empty while there is no memory behind it.
    all: Vec<Box<[u8]>>,
    /// Not lent, with memory.
    idle: Vec<u16>,
    /// Not lent, without memory.
    bare: Vec<u16>,
}

impl Buffers {
    fn take(&mut self) -> (u16, &mut [u8]) {
        let buffer = self.idle.pop().unwrap_or_else(|| {
            let fresh = vec![0; BUFFER_BYTES].into_boxed_slice();
            match self.bare.pop() {
                Some(buffer) => {
                    self.all[buffer as usize] = fresh;
                    buffer
                }
                None => {
                    let buffer = u16::try_from(self.all.len()).expect("65,536 buffers lent are a leak");
                    self.all.push(fresh);
                    buffer
                }
            }
        });
        (buffer, &mut self.all[buffer as usize])
    }

    fn put(&mut self, buffer: u16) {
        if self.idle.len() < IDLE_BUFFERS_MAX {
            self.idle.push(buffer);
        } else {
            self.all[buffer as usize] = Box::default();
            self.bare.push(buffer);
        }
    }
}
