//! The driver for Linux with io_uring: everything that waits, waits in one call.
//!
//! ```text
//!  submit ─▶ submission queue ─▶ enter (hands in, waits) ─▶ completion queue ─▶ answer
//!                                   ▲                             │
//!             lent buffers ─────────┴── ring of buffers ◀─ given back
//! ```
//!
//! An operation, its descriptor and its buffer belong to the kernel until its completion is seen. Invariant: a
//! token is in the table exactly while the kernel may still complete it, or while it waits for a buffer. Closing
//! is a join: everything is cancelled, and memory is freed when nothing is in flight.
//!
//! Where many wait for something to read they do so in a readiness set ([`super::poll`]), and the ring waits for the set.
//!
//! Tokens are the kernel's `user_data`; those of kind [`INTERNAL`] are our own cancellations, whose completions
//! say nothing, and the wait for that set. Operations are never forced to a kernel worker. What is tried at once is in [`super::handle`].

mod buffers;

use super::handle::{Engine, Handle, PacketBuffer};
use super::inflight::Inflight;
use super::op::{Answer, Completion, Interest, Lent, Op};
use super::poll::Poll;
use super::token::Token;
use crate::sys::clock::monotonic_ns;
use buffers::{BUFFER_GROUP, BufferRing};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Kind of tokens that are the driver's own.
pub const INTERNAL: u8 = 0xFF;

/// Slot of the one operation of the driver's own whose completion says something: the readiness set has something to tell.
const SET: u32 = 1;
/// With so many operations in flight, those that wait for something to read do so in a readiness set that stays, and
/// the ring waits for the set: a request for each of many, made anew each time, costs more than all else about a small write.
const FEW: usize = 64;

/// Operations handed in at once; more are handed in before the next one.
const SUBMISSIONS: u32 = 256;
/// Completions the kernel keeps in shared memory; past that it queues them on its side.
const COMPLETIONS: u32 = 1024;
/// IORING_RECVSEND_POLL_FIRST: wait for data before the first attempt, as after a reply the next request is hardly
/// ever there yet.
const POLL_FIRST: u16 = 1;

/// Why there is no io_uring here. The `poll` driver does the same work.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The kernel has none, or it is forbidden (`kernel.io_uring_disabled`, seccomp, limits).
    #[error("io_uring_setup is refused: {0}")]
    Refused(#[source] io::Error),
    /// This kernel's io_uring is too old.
    #[error("this kernel's io_uring lacks {0}")]
    Lacks(&'static str),
    /// No ring of buffers to receive into: too old, or memory is short.
    #[error("no ring of receive buffers: {0}")]
    Buffers(#[source] io::Error),
}

/// io_uring.
pub struct Uring {
    ring: IoUring,
    inflight: Inflight<Flight>,
    /// Receives that found no buffer; handed in again when one comes back. Empty when no buffer is lent.
    starved: VecDeque<Token>,
    /// Buffers that are out.
    lent: u16,
    /// Answers that came up while something else was done.
    answered: Vec<Completion<Handle>>,
    packets: PacketBuffer,
    /// Where many wait for something to read.
    many: Poll,
    /// The ring waits for the set.
    awaits_many: bool,
    /// The set has something to tell.
    many_ready: bool,
    /// Its end has begun: no step of anything is begun any more.
    closing: bool,
    /// After `ring`: fields are dropped in this order, and the kernel knows these addresses.
    buffers: BufferRing,
}

#[derive(Debug)]
struct Flight {
    op: Op<Handle>,
    stage: Stage,
    /// Its end was asked for: no further step is begun.
    cancelled: bool,
}

/// What the kernel was last asked for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The operation itself.
    Asked,
    /// Readiness, to ask for the operation again after: some kernels refuse to wait where O_NONBLOCK is set.
    Readiness,
    /// Nothing: it waits for a buffer.
    Starved,
    /// To end a watch for the hang-up that has come.
    HungUp,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("inflight", &self.inflight.len()).finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for the calling thread, which alone may use it. Looks at what this kernel offers first.
    pub fn new() -> Result<Uring, Unavailable> {
        let ring = set_up().map_err(Unavailable::Refused)?;
        let offered = ring.params();
        for (there, name) in [
            (offered.is_feature_nodrop(), "IORING_FEAT_NODROP"),
            (offered.is_feature_submit_stable(), "IORING_FEAT_SUBMIT_STABLE"),
            (offered.is_feature_fast_poll(), "IORING_FEAT_FAST_POLL"),
            (offered.is_feature_ext_arg(), "IORING_FEAT_EXT_ARG"),
        ] {
            if !there {
                return Err(Unavailable::Lacks(name));
            }
        }
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(Unavailable::Refused)?;
        for (code, name) in [
            (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
            (opcode::Recv::CODE, "IORING_OP_RECV"),
            (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
            (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
        ] {
            if !probe.is_supported(code) {
                return Err(Unavailable::Lacks(name));
            }
        }
        let buffers = BufferRing::register(&ring).map_err(Unavailable::Buffers)?;
        Ok(Uring {
            ring,
            inflight: Inflight::new(),
            starved: VecDeque::new(),
            lent: 0,
            answered: Vec::new(),
            packets: PacketBuffer::default(),
            many: Poll::new().map_err(Unavailable::Refused)?,
            awaits_many: false,
            many_ready: false,
            closing: false,
            buffers,
        })
    }

    /// Queues what the kernel is to be asked for `token` now.
    fn ask(&mut self, token: Token) {
        let Some(flight) = self.inflight.get(token) else { return };
        let entry = entry(flight).user_data(token.bits());
        if let Err(error) = self.push(&entry) {
            self.inflight.release(token);
            let answer = Answer::Failed(error.raw_os_error().unwrap_or(libc::EIO));
            self.answered.push(Completion { token, answer });
        }
    }

    /// Queues an entry; a full queue is handed in first.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: what the entry names stays valid until its completion: its descriptor by the clone in
            // `inflight` or by `many`, its buffers by `buffers`, all of which outlive the ring's use of them (see `drop`).
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The kernel has too many completions in store: take them first.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN)) => {
                    let mut answers = std::mem::take(&mut self.answered);
                    self.reap(&mut answers);
                    self.answered = answers;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks the kernel to end what it does for a token, or for all.
    fn ask_to_cancel(&mut self, whose: types::CancelBuilder) {
        let entry = opcode::AsyncCancel2::new(whose)
            .build()
            .user_data(Token::new(INTERNAL, 0, 0).bits())
            .flags(squeue::Flags::SKIP_SUCCESS);
        // If it can't be handed in, the operation is answered when it is done, which is allowed.
        let _ = self.push(&entry);
    }

    /// Takes completions until there are none.
    fn reap(&mut self, answers: &mut Vec<Completion<Handle>>) {
        loop {
            let Some(completion) = self.ring.completion().next() else { return };
            self.complete(&completion, answers);
        }
    }

    fn complete(&mut self, completion: &cqueue::Entry, answers: &mut Vec<Completion<Handle>>) {
        let token = Token::from_bits(completion.user_data());
        if token.kind() == INTERNAL {
            if token.slot() == SET {
                (self.awaits_many, self.many_ready) = (false, true);
            }
            return;
        }
        let buffer = cqueue::buffer_select(completion.flags());
        let (all_in_ring, closing) = (self.lent == 0, self.closing);
        let Some(flight) = self.inflight.get_mut(token) else {
            debug_assert!(false, "{token:?} completed but was not in flight");
            return;
        };
        let step = match next(flight, completion) {
            // The cancellation came too late for this step, and nothing is left for it to find.
            Next::Ask(_) | Next::Starve if flight.cancelled || closing => {
                Next::Answer(Answer::Failed(libc::ECANCELED))
            }
            step => step,
        };
        match step {
            Next::Answer(answer) => {
                if matches!(answer, Answer::Received(_)) {
                    self.lent += 1;
                } else {
                    self.return_buffer(buffer);
                }
                self.inflight.release(token);
                answers.push(Completion { token, answer });
            }
            Next::Wait => {}
            Next::Ask(stage) => {
                flight.stage = stage;
                self.return_buffer(buffer);
                self.ask(token);
            }
            // All have come back since: none that comes back later would hand it in again.
            Next::Starve if all_in_ring => self.ask(token),
            Next::Starve => {
                flight.stage = Stage::Starved;
                self.starved.push_back(token);
            }
            Next::Unwatch => {
                flight.stage = Stage::HungUp;
                self.ask_to_cancel(types::CancelBuilder::user_data(token.bits()));
            }
        }
    }

    /// Collects from the readiness set, and has the ring wait for what comes next there.
    fn look_at_many(&mut self, answers: &mut Vec<Completion<Handle>>) -> io::Result<()> {
        if std::mem::take(&mut self.many_ready) || self.many.has_news() {
            self.many.collect(Some(0), answers)?;
        }
        if self.many.waiting() > 0 && !self.awaits_many {
            let set = types::Fd(self.many.set().as_raw_fd());
            let entry = opcode::PollAdd::new(set, libc::POLLIN as u32)
                .build()
                .user_data(Token::new(INTERNAL, SET, 0).bits());
            self.push(&entry)?;
            self.awaits_many = true;
        }
        Ok(())
    }

    fn return_buffer(&mut self, buffer: Option<u16>) {
        if let Some(buffer) = buffer {
            self.buffers.put(buffer);
        }
    }

    /// Hands in what is queued and waits for `want` completions, at most until `deadline_ns`. True if a signal cut
    /// it short.
    fn enter(&mut self, want: usize, deadline_ns: Option<u64>) -> io::Result<bool> {
        let entered = match deadline_ns {
            Some(deadline) if want > 0 => {
                let left = deadline.saturating_sub(monotonic_ns());
                let nanoseconds = u32::try_from(left % 1_000_000_000).unwrap_or(0);
                let timeout = types::Timespec::new().sec(left / 1_000_000_000).nsec(nanoseconds);
                let arguments = types::SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(want, &arguments)
            }
            Some(_) | None => self.ring.submit_and_wait(want),
        };
        match entered {
            Ok(_) => Ok(false),
            Err(error) => match error.raw_os_error() {
                // In time; or completions in store that must be taken first.
                Some(libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(false),
                Some(libc::EINTR) => Ok(true),
                Some(_) | None => Err(error),
            },
        }
    }

    /// True exactly when there is something to tell the kernel, or something it does only when it is entered.
    fn has_errand(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }
}

/// A ring with the cheapest completion this kernel has: run by the thread that waits, when it waits.
fn set_up() -> io::Result<IoUring> {
    let mut error = io::Error::from_raw_os_error(libc::EINVAL);
    for attempt in 0..4 {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(COMPLETIONS).setup_clamp();
        match attempt {
            0 => builder.setup_submit_all().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            1 => builder.setup_submit_all().setup_single_issuer().setup_coop_taskrun().setup_taskrun_flag(),
            2 => builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag(),
            _ => &mut builder,
        };
        match builder.build(SUBMISSIONS) {
            Ok(ring) => return Ok(ring),
            Err(refused) if refused.raw_os_error() == Some(libc::EINVAL) => error = refused,
            Err(refused) => return Err(refused),
        }
    }
    Err(error)
}

/// How an operation is put to the kernel.
fn entry(flight: &Flight) -> squeue::Entry {
    let read = (libc::POLLIN | libc::POLLRDHUP) as u32;
    match &flight.op {
        Op::Poll(handle, interest) => {
            let (events, many) = match interest {
                Interest::Read => (read, false),
                Interest::Write => (libc::POLLOUT as u32, false),
                // The kernel always adds POLLRDHUP, which a half-closed socket has for ever: only a watch that tells
                // changes can wait past it.
                Interest::Hangup => (0, true),
            };
            opcode::PollAdd::new(types::Fd(handle.as_raw_fd()), events).multi(many).build()
        }
        Op::Receive(handle) | Op::Accept(handle) if flight.stage == Stage::Readiness => {
            opcode::PollAdd::new(types::Fd(handle.as_raw_fd()), read).build()
        }
        Op::Receive(handle) => opcode::Recv::new(types::Fd(handle.as_raw_fd()), std::ptr::null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .ioprio(POLL_FIRST)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT),
        Op::Accept(handle) => {
            let (address, length) = (std::ptr::null_mut(), std::ptr::null_mut());
            opcode::Accept::new(types::Fd(handle.as_raw_fd()), address, length)
                .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
                .build()
        }
    }
}

/// What a completion means for its operation.
enum Next {
    /// It is over.
    Answer(Answer<Handle>),
    /// More completions come by themselves.
    Wait,
    /// Ask (again).
    Ask(Stage),
    /// There was no buffer.
    Starve,
    /// The hang-up has come; the kernel still watches.
    Unwatch,
}

fn next(flight: &Flight, completion: &cqueue::Entry) -> Next {
    let (result, flags) = (completion.result(), completion.flags());
    let poll_failed = |errno: i32| match errno {
        // What can't be polled is always ready.
        libc::EOPNOTSUPP | libc::EPERM => Next::Answer(Answer::Ready),
        errno => Next::Answer(Answer::Failed(errno)),
    };
    match (&flight.op, flight.stage) {
        (_, Stage::Readiness) if result >= 0 => Next::Ask(Stage::Asked),
        (_, Stage::Readiness) => Next::Answer(Answer::Failed(-result)),
        (Op::Poll(_, Interest::Read | Interest::Write), _) if result >= 0 => Next::Answer(Answer::Ready),
        (Op::Poll(_, Interest::Read | Interest::Write), _) => poll_failed(-result),
        (Op::Poll(_, Interest::Hangup), stage) => {
            let gone = stage == Stage::HungUp
                || result >= 0 && result & i32::from(libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0;
            match (gone, cqueue::more(flags)) {
                (true, true) if stage == Stage::HungUp => Next::Wait,
                (true, true) => Next::Unwatch,
                (true, false) => Next::Answer(Answer::Ready),
                (false, true) => Next::Wait,
                (false, false) if result >= 0 => Next::Ask(Stage::Asked),
                (false, false) => Next::Answer(Answer::Failed(-result)),
            }
        }
        (Op::Receive(_), _) => match (result, cqueue::buffer_select(flags)) {
            (0, _) => Next::Answer(Answer::Eof),
            (received, Some(buffer)) if received > 0 => {
                Next::Answer(Answer::Received(Lent { buffer, len: received.unsigned_abs() }))
            }
            (error, _) => match -error {
                libc::ENOBUFS => Next::Starve,
                libc::EAGAIN => Next::Ask(Stage::Readiness),
                libc::EINTR => Next::Ask(Stage::Asked),
                errno => Next::Answer(Answer::Failed(errno)),
            },
        },
        (Op::Accept(_), _) if result >= 0 => {
            // SAFETY: the kernel made this descriptor for the operation just completed, and tells it once.
            Next::Answer(Answer::Accepted(Handle::from(unsafe { OwnedFd::from_raw_fd(result) })))
        }
        (Op::Accept(_), _) => match -result {
            libc::EAGAIN => Next::Ask(Stage::Readiness),
            libc::EINTR => Next::Ask(Stage::Asked),
            errno => Next::Answer(Answer::Failed(errno)),
        },
    }
}

impl Engine for Uring {
    fn engine_name(&self) -> &'static str {
        "io_uring"
    }

    fn waits_punctually(&self) -> bool {
        true
    }

    fn start(&mut self, token: Token, op: Op<Handle>) {
        assert_ne!(token.kind(), INTERNAL, "kind {INTERNAL} is the driver's own");
        if matches!(op, Op::Poll(_, Interest::Read)) && self.inflight.len() + self.many.waiting() >= FEW {
            return self.many.start(token, op);
        }
        self.inflight.claim(token, Flight { op, stage: Stage::Asked, cancelled: false });
        self.ask(token);
    }

    fn stop(&mut self, token: Token) {
        if self.many.has(token) {
            return self.many.stop(token);
        }
        let Some(flight) = self.inflight.get_mut(token) else { return };
        if flight.stage != Stage::Starved {
            flight.cancelled = true;
            self.ask_to_cancel(types::CancelBuilder::user_data(token.bits()));
            return;
        }
        self.starved.retain(|starved| *starved != token);
        self.inflight.release(token);
        self.answered.push(Completion { token, answer: Answer::Failed(libc::ECANCELED) });
    }

    fn collect(&mut self, deadline_ns: Option<u64>, answers: &mut Vec<Completion<Handle>>) -> io::Result<()> {
        let before = answers.len();
        self.reap(answers);
        self.look_at_many(answers)?;
        answers.append(&mut self.answered);
        loop {
            let late = deadline_ns.is_some_and(|deadline| deadline <= monotonic_ns());
            let want = usize::from(answers.len() == before && !late);
            if want == 0 && !self.has_errand() {
                return Ok(());
            }
            let interrupted = self.enter(want, deadline_ns)?;
            self.reap(answers);
            self.look_at_many(answers)?;
            answers.append(&mut self.answered);
            // What came may have been nobody's: a cancellation's own completion, a step of a longer operation.
            if answers.len() > before || late || interrupted {
                return Ok(());
            }
        }
    }

    fn lent_bytes(&self, lent: &Lent) -> &[u8] {
        self.buffers.bytes(lent.buffer, lent.len as usize)
    }

    fn take_back(&mut self, lent: Lent) {
        self.buffers.put(lent.buffer);
        self.lent -= 1;
        // One for one; the last one back wakes all, as some of them may find nothing to receive.
        let woken = if self.lent == 0 { self.starved.len() } else { self.starved.len().min(1) };
        for _ in 0..woken {
            let Some(token) = self.starved.pop_front() else { return };
            if let Some(flight) = self.inflight.get_mut(token) {
                flight.stage = Stage::Asked;
                self.ask(token);
            }
        }
    }

    fn packets(&mut self) -> &mut PacketBuffer {
        &mut self.packets
    }
}

impl Drop for Uring {
    /// Closing is a join.
    fn drop(&mut self) {
        self.closing = true;
        for token in std::mem::take(&mut self.starved) {
            self.inflight.release(token);
        }
        let mut answers = Vec::new();
        while self.inflight.len() > 0 {
            self.ask_to_cancel(types::CancelBuilder::any());
            // Asked again after a second, in case the cancellation itself could not be handed in.
            if self.enter(1, Some(monotonic_ns() + 1_000_000_000)).is_err() {
                // The kernel still owns buffers, and can't be asked: they stay its.
                self.buffers.leak();
                return;
            }
            self.reap(&mut answers);
        }
    }
}
