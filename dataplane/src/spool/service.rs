//! The two threads that do to files what a reactor must not wait for.
//!
//! ```text
//!  reactor ──Job──▶ writing thread: ring ─▶ segments ──Answer (mail)──▶ reactor
//!  reactor ──Read─▶ reading thread: segments ─▶ a piece ──Answer (mail)──▶ reactor
//! ```
//!
//! One of each per kernel, started with the first spool. The writer reads a ring through a mapping of its own; the reactor
//! has pinned what it is told to write, and hands over the next ring before a job that needs it, so a mapping is never of
//! the wrong generation. Invariant: every job that wants an answer gets exactly one, and of one stream's they come in order.
//!
//! Not here: what is written when, and what becomes of an answer (`reactor/spool`).

use super::quota::Ledger;
use super::segment::{file_name, first_of};
use super::writer::Writer;
use super::{Cut, CutReason, Found, Identity, Reader, SpoolError, SpoolLimits};
use crate::key::{Channel, ProcessKey, SubscriptionKey};
use crate::limits::SPOOL_RECORD_BYTES_MAX;
use crate::reactor::mail::{Mail, Post};
use crate::sys::clock;
use bytes::Bytes;
use kairo_shm::reader::Reader as Ring;
use nix::sys::signal::{SigSet, Signal};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Places of readers that are kept open at a time; each holds a descriptor and a record.
const READERS_MAX: usize = 32;

/// Between two recounts of what is on disk, nanoseconds.
const RECOUNT_NS: u64 = 10_000_000_000;

/// Where spools are, and how much of the disk is theirs.
#[derive(Clone, Debug)]
pub struct SpoolRoot {
    /// `STATE/spool`; made when the first byte is written.
    pub folder: PathBuf,
    /// All streams together, bytes.
    pub bytes_max: u64,
}

/// One output of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamKey {
    pub(crate) process: ProcessKey,
    pub(crate) channel: Channel,
}

/// What the writing thread is asked.
#[derive(Debug)]
pub(crate) enum Job {
    /// Find out where this stream's spool ends.
    Open { stream: StreamKey, session: Arc<str>, limits: SpoolLimits },
    /// Jobs of this stream mean this ring from now on.
    Ring { stream: StreamKey, ring: OwnedFd },
    /// Write `[from, to)` of the ring; it is pinned until the answer. What is on disk already is left out. After a
    /// failure nothing is written before a `fresh` start, which may leave a gap.
    Append { stream: StreamKey, from: u64, to: u64, fresh: bool },
    /// Nothing more comes.
    Close { stream: StreamKey },
    /// The session is forgotten.
    Forget { stream: StreamKey },
}

/// What the reading thread is asked.
#[derive(Debug)]
enum Read {
    Piece {
        subscription: SubscriptionKey,
        channel: Channel,
        session: Arc<str>,
        offset: u64,
        bytes_max: usize,
    },
    Leave(SubscriptionKey),
}

/// How large a spool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) oldest: u64,
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    pub(crate) segments: u32,
    /// Where the segment that is written to begins.
    pub(crate) resumed: u64,
}

/// What a reader is brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Bytes),
    /// Nothing up to this offset.
    Gap(u64),
    /// Nothing from there on, or nothing that can be read.
    End,
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To [`Job::Open`] and [`Job::Append`]: an errno if it failed. [`Numbers::end`] says how far it came.
    Written { stream: StreamKey, outcome: Result<(), i32>, numbers: Numbers, cuts: Vec<Cut> },
    /// Unasked: age or quota took something.
    Cut { stream: StreamKey, numbers: Numbers, cuts: Vec<Cut> },
    /// To a reader.
    Piece { subscription: SubscriptionKey, channel: Channel, offset: u64, piece: Piece },
}

/// The threads, as reactors see them.
#[derive(Clone, Debug)]
pub(crate) struct Spools(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: SpoolRoot,
    post: Post,
    jobs: OnceLock<Option<Sender<Job>>>,
    reads: OnceLock<Option<Sender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Spools {
    pub(crate) fn new(root: SpoolRoot, post: Post) -> Spools {
        let threads = Mutex::new(Vec::new());
        Spools(Arc::new(Shared { root, post, jobs: OnceLock::new(), reads: OnceLock::new(), threads }))
    }

    /// False if there is no thread to do it.
    pub(crate) fn submit(&self, job: Job) -> bool {
        let jobs = self.0.jobs.get_or_init(|| {
            let (root, post) = (self.0.root.clone(), self.0.post.clone());
            self.start("spool-writer", move |jobs| Spooler::new(root, post).run(&jobs))
        });
        jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok())
    }

    /// Asks for at most so many bytes at an offset, for a reader; fewer come only where some are missing; at most one piece of a reader and channel is under way.
    pub(crate) fn read(
        &self,
        subscription: SubscriptionKey,
        channel: Channel,
        session: Arc<str>,
        offset: u64,
        bytes_max: usize,
    ) -> bool {
        let bytes_max = bytes_max.min(SPOOL_RECORD_BYTES_MAX);
        self.ask(Read::Piece { subscription, channel, session, offset, bytes_max })
    }

    /// A reader needs nothing more.
    pub(crate) fn leave(&self, subscription: SubscriptionKey) {
        self.ask(Read::Leave(subscription));
    }

    fn ask(&self, read: Read) -> bool {
        let reads = self.0.reads.get_or_init(|| {
            let (root, post) = (self.0.root.folder.clone(), self.0.post.clone());
            self.start("spool-reader", move |reads| bring(&root, &post, &reads))
        });
        reads.as_ref().is_some_and(|reads| reads.send(read).is_ok())
    }

    fn start<T: Send + 'static>(
        &self,
        name: &str,
        run: impl FnOnce(Receiver<T>) + Send + 'static,
    ) -> Option<Sender<T>> {
        let (sender, receiver) = channel();
        let begin = move || {
            block_signals();
            run(receiver);
        };
        match std::thread::Builder::new().name(name.to_owned()).spawn(begin) {
            Ok(thread) => {
                self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                Some(sender)
            }
            Err(error) => {
                tracing::error!(name, %error, "a thread could not be started: nothing is spooled");
                None
            }
        }
    }

    /// Waits until everything asked for is done. The reactors, who ask, have ended.
    pub(crate) fn finish(self) {
        let Some(shared) = Arc::into_inner(self.0) else { return };
        let Shared { jobs, reads, threads, .. } = shared;
        drop((jobs, reads));
        for thread in threads.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if thread.join().is_err() {
                tracing::error!("a thread of the spool panicked");
            }
        }
    }
}

/// SIGXFSZ comes to the thread that writes past a limit, and would end the daemon; blocked, the write fails with EFBIG.
/// The others are somebody else's to wait for.
fn block_signals() {
    let mut signals = SigSet::all();
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
        signals.remove(fault);
    }
    if let Err(error) = signals.thread_block() {
        tracing::warn!(%error, "signals are not blocked");
    }
}

/// A stream that is being spooled, or was.
struct Spooled {
    identity: Arc<Identity>,
    keep: bool,
    writer: Writer,
    ring: Option<Ring>,
    /// A write failed: what comes behind it waits for a fresh start, or there would be holes nobody chose.
    broken: Option<i32>,
}

/// Segments of a session this kernel has not been told about: they count, and go when there is too much of all.
struct Stray {
    folder: PathBuf,
    /// (first offset, bytes), oldest first.
    segments: VecDeque<(u64, u64)>,
}

struct Spooler {
    root: SpoolRoot,
    post: Post,
    streams: HashMap<StreamKey, Spooled>,
    names: HashMap<Arc<Identity>, StreamKey>,
    strays: HashMap<Arc<Identity>, Stray>,
    ledger: Ledger<Arc<Identity>>,
    /// The next recount is not before this, CLOCK_MONOTONIC nanoseconds.
    recount_ns: u64,
}

impl Spooler {
    fn new(root: SpoolRoot, post: Post) -> Spooler {
        let mut spooler = Spooler {
            ledger: Ledger::new(root.bytes_max),
            root,
            post,
            streams: HashMap::new(),
            names: HashMap::new(),
            strays: HashMap::new(),
            recount_ns: 0,
        };
        if let Err(error) = spooler.find_strays() {
            tracing::warn!(%error, "what former kernels have spooled is not counted");
        }
        spooler
    }

    fn find_strays(&mut self) -> Result<(), SpoolError> {
        for session in super::sessions(&self.root.folder)? {
            for channel in Channel::ALL {
                let identity = Arc::new(Identity::new(&session, channel)?);
                let folder = identity.folder(&self.root.folder);
                let mut segments: Vec<(u64, u64)> = sizes(&folder).collect();
                segments.sort_unstable();
                if !segments.is_empty() {
                    self.ledger.note(&identity, segments.iter().map(|(_, bytes)| bytes).sum());
                    self.strays.insert(identity, Stray { folder, segments: segments.into() });
                }
            }
        }
        Ok(())
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.patience() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(patience) => jobs.recv_timeout(patience),
            };
            match job {
                Ok(job) => self.carry_out(job),
                Err(RecvTimeoutError::Timeout) => self.expire(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// How long there is nothing to do unasked; for ever in most cases.
    fn patience(&self) -> Option<Duration> {
        let next_ns = self.streams.values().filter_map(|spooled| spooled.writer.expires_ns()).min()?;
        // A little later, so that one wake-up does for what ends at about the same time.
        let wait_ns = next_ns.saturating_sub(clock::now().wall_ns).saturating_add(10_000_000);
        Some(Duration::from_nanos(wait_ns))
    }

    fn carry_out(&mut self, job: Job) {
        match job {
            Job::Open { stream, session, limits } => self.open(stream, &session, limits),
            Job::Ring { stream, ring } => {
                let Some(spooled) = self.streams.get_mut(&stream) else { return };
                match Ring::open(ring.as_fd()) {
                    Ok(ring) => spooled.ring = Some(ring),
                    Err(error) => tracing::error!(%error, "a ring can't be spooled"),
                }
            }
            Job::Append { stream, from, to, fresh } => self.append(stream, from..to, fresh),
            Job::Close { stream } => {
                let Some(spooled) = self.streams.get_mut(&stream) else { return };
                spooled.ring = None;
                if let Err(error) = spooled.writer.close() {
                    tracing::warn!(%error, "the last segment of a stream may not be on the device");
                }
            }
            Job::Forget { stream } => self.forget(stream),
        }
    }

    fn open(&mut self, stream: StreamKey, session: &str, limits: SpoolLimits) {
        let opened = Identity::new(session, stream.channel).and_then(|identity| {
            let writer = Writer::resume(&self.root.folder, identity.clone(), limits)?;
            Ok((Arc::new(identity), writer))
        });
        let outcome = match opened {
            Ok((identity, writer)) => {
                self.strays.remove(&identity);
                self.ledger.note(&identity, writer.bytes());
                self.names.insert(identity.clone(), stream);
                let spooled = Spooled { identity, keep: limits.keep, writer, ring: None, broken: None };
                self.streams.insert(stream, spooled);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, session, "a stream can't be spooled");
                Err(error.errno())
            }
        };
        self.answer(stream, outcome, Vec::new());
    }

    fn append(&mut self, stream: StreamKey, range: Range<u64>, fresh: bool) {
        let (mut cuts, mut outcome) = (Vec::new(), Err(libc::EBADF));
        if let Some(spooled) = self.streams.get_mut(&stream) {
            spooled.broken = spooled.broken.filter(|_| !fresh);
            outcome = match spooled.broken {
                Some(errno) => Err(errno),
                None => spooled.append(range, &mut cuts),
            };
            spooled.broken = outcome.err();
            self.ledger.note(&spooled.identity, spooled.writer.bytes());
        }
        self.answer(stream, outcome, cuts);
        self.within_quota();
    }

    fn answer(&self, stream: StreamKey, outcome: Result<(), i32>, cuts: Vec<Cut>) {
        let numbers = self.numbers(stream);
        self.tell(stream, Answer::Written { stream, outcome, numbers, cuts });
    }

    fn numbers(&self, stream: StreamKey) -> Numbers {
        self.streams.get(&stream).map_or(Numbers::default(), |Spooled { writer, .. }| Numbers {
            oldest: writer.oldest(),
            end: writer.end(),
            bytes: writer.bytes(),
            segments: writer.segments(),
            resumed: writer.newest(),
        })
    }

    fn tell(&self, stream: StreamKey, answer: Answer) {
        self.post.send(stream.process.home, Mail::Spool(answer));
    }

    fn expire(&mut self) {
        let now_ns = clock::now().wall_ns;
        let mut told = Vec::new();
        for (stream, spooled) in &mut self.streams {
            let (writer, mut cuts) = (&mut spooled.writer, Vec::new());
            if let Err(error) = writer.expire(now_ns, &mut cuts) {
                tracing::warn!(%error, "a segment is not flushed");
            }
            if !cuts.is_empty() {
                self.ledger.note(&spooled.identity, writer.bytes());
                told.push((*stream, cuts));
            }
        }
        for (stream, cuts) in told {
            let numbers = self.numbers(stream);
            self.tell(stream, Answer::Cut { stream, numbers, cuts });
        }
    }

    /// Has the largest spool give back its oldest segment until all are within the quota.
    fn within_quota(&mut self) {
        if self.ledger.debtor().is_some() {
            self.recount();
        }
        while let Some(debtor) = self.ledger.debtor() {
            let gave = match self.names.get(&debtor).copied() {
                Some(stream) => self.cut_stream(stream),
                None => self.cut_stray(&debtor),
            };
            if !gave {
                // It has nothing to give and is told to have something: never ask it again.
                self.ledger.forget(&debtor);
            }
        }
    }

    /// Before anything goes for want of room: files that others have deleted take none. Now and then is enough.
    fn recount(&mut self) {
        let now_ns = clock::now().monotonic_ns;
        if now_ns < self.recount_ns {
            return;
        }
        self.recount_ns = now_ns + RECOUNT_NS;
        let mut told = Vec::new();
        for (stream, spooled) in &mut self.streams {
            let mut cuts = Vec::new();
            if let Err(error) = spooled.writer.recount(&mut cuts) {
                tracing::warn!(%error, "a spool can't be counted");
            }
            if !cuts.is_empty() {
                self.ledger.note(&spooled.identity, spooled.writer.bytes());
                told.push((*stream, cuts));
            }
        }
        for (identity, stray) in &mut self.strays {
            stray.segments.retain(|(first, _)| stray.folder.join(file_name(*first)).exists());
            self.ledger.note(identity, stray.segments.iter().map(|(_, bytes)| bytes).sum());
        }
        for (stream, cuts) in told {
            let numbers = self.numbers(stream);
            self.tell(stream, Answer::Cut { stream, numbers, cuts });
        }
    }

    fn cut_stream(&mut self, stream: StreamKey) -> bool {
        let Some(spooled) = self.streams.get_mut(&stream) else { return false };
        let (writer, mut cuts) = (&mut spooled.writer, Vec::new());
        let gave = match writer.cut_oldest(CutReason::Quota, &mut cuts) {
            Ok(gave) => gave,
            Err(error) => {
                tracing::warn!(%error, "a segment is not flushed");
                false
            }
        };
        self.ledger.note(&spooled.identity, writer.bytes());
        let numbers = self.numbers(stream);
        self.tell(stream, Answer::Cut { stream, numbers, cuts });
        gave
    }

    fn cut_stray(&mut self, identity: &Arc<Identity>) -> bool {
        let Some(stray) = self.strays.get_mut(identity) else { return false };
        let Some((first, _)) = stray.segments.pop_front() else { return false };
        let path = stray.folder.join(file_name(first));
        tracing::info!(path = %path.display(), "over the quota: a segment of a former kernel goes");
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(%error, "it is gone already");
        }
        let left = stray.segments.iter().map(|(_, bytes)| bytes).sum();
        self.ledger.note(identity, left);
        true
    }

    fn forget(&mut self, stream: StreamKey) {
        let Some(spooled) = self.streams.remove(&stream) else { return };
        self.names.remove(&spooled.identity);
        if spooled.keep {
            // It still takes its room.
            let folder = spooled.identity.folder(&self.root.folder);
            let segments = sizes(&folder).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            self.strays.insert(spooled.identity, Stray { folder, segments });
            return;
        }
        self.ledger.forget(&spooled.identity);
        let folder = spooled.identity.folder(&self.root.folder);
        drop(spooled);
        remove_folder(&folder);
    }
}

impl Spooled {
    /// Writes a range of the ring.
    fn append(&mut self, range: Range<u64>, cuts: &mut Vec<Cut>) -> Result<(), i32> {
        let Some(ring) = &self.ring else { return Err(libc::EBADF) };
        let writer = &mut self.writer;
        let now_ns = clock::now().wall_ns;
        let mut at = range.start.max(writer.end());
        while at < range.end {
            let most = ((range.end - at) as usize).min(SPOOL_RECORD_BYTES_MAX);
            let Some(run) = ring.run(at, most) else {
                tracing::error!(at, to = range.end, "what is to be spooled is not in the ring any more");
                return Err(libc::ENODATA);
            };
            writer.append(at, run, now_ns, cuts).map_err(|error| {
                tracing::warn!(%error, session = self.identity.session, "a stream is not spooled any further");
                error.errno()
            })?;
            at += run.len() as u64;
        }
        Ok(())
    }
}

/// First offsets and sizes of the segments of a folder.
fn sizes(folder: &Path) -> impl Iterator<Item = (u64, u64)> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        Some((entry.file_name().to_str().and_then(first_of)?, entry.metadata().ok()?.len()))
    })
}

/// Removes a stream's folder, and its session's if that was the last in it.
fn remove_folder(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "a spool is not removed");
    }
    if let Some(session) = folder.parent() {
        // The other stream's is in it, or it never was.
        let _ = fs::remove_dir(session);
    }
}

/// The reading thread.
fn bring(root: &Path, post: &Post, reads: &Receiver<Read>) {
    let mut readers = Readers { root: root.to_owned(), open: HashMap::new() };
    for read in reads {
        match read {
            Read::Leave(subscription) => readers.open.retain(|(reader, _), _| *reader != subscription),
            Read::Piece { subscription, channel, session, offset, bytes_max } => {
                let key = (subscription, channel);
                let mut piece = readers.piece(key, &session, offset, bytes_max);
                if piece.as_ref().is_err_and(is_out_of_descriptors) {
                    // Those of the others are as good as any: they find their places again.
                    readers.open.clear();
                    piece = readers.piece(key, &session, offset, bytes_max);
                }
                let piece = piece.unwrap_or_else(|error| {
                    tracing::warn!(%error, session = &*session, offset, "a spool can't be read");
                    Piece::End
                });
                let answer = Answer::Piece { subscription, channel, offset, piece };
                post.send(subscription.home, Mail::Spool(answer));
            }
        }
    }
}

fn is_out_of_descriptors(error: &SpoolError) -> bool {
    [libc::EMFILE, libc::ENFILE].contains(&error.errno())
}

/// Places of readers in their spools.
struct Readers {
    root: PathBuf,
    open: HashMap<(SubscriptionKey, Channel), Reader>,
}

impl Readers {
    fn piece(
        &mut self,
        key: (SubscriptionKey, Channel),
        session: &str,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Piece, SpoolError> {
        if self.open.len() >= READERS_MAX && !self.open.contains_key(&key) {
            self.open.clear();
        }
        let reader = match self.open.entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(super::open(&self.root, session, key.1)?),
        };
        piece_of(reader, offset, bytes_max)
    }
}

fn piece_of(reader: &mut Reader, offset: u64, bytes_max: usize) -> Result<Piece, SpoolError> {
    let mut bytes = Vec::with_capacity(bytes_max);
    let found = reader.read(offset, bytes_max, &mut bytes)?;
    bytes.shrink_to_fit();
    Ok(match found {
        Found::Bytes(_) => Piece::Bytes(Bytes::from(bytes)),
        Found::Gap(to) => Piece::Gap(to),
        Found::End => Piece::End,
    })
}
