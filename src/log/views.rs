//! The thread of the views: it folds what is written, answers what the kernel asks, and has checkpoints written.
//!
//! It sleeps until somebody asks or so much has been written that it would be long in coming: a daemon nobody asks pays a
//! sleeping thread for its views. Invariant: whoever writes rings once, however much it writes before this thread looks.

use super::{Ear, Shared};
use bytes::Bytes;
use kairo_controlplane::events::log::Reader;
use kairo_controlplane::events::outlet::{Answer, Batch, Entry, Inquiry};
use kairo_controlplane::events::views::{Host, Keeping, Limits};
use kairo_wire::error::{Code, WireError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// It begins without being asked after so many events.
const BEGIN_AFTER: u64 = 4_096;

/// What is written is folded so long after, with what is written meanwhile; who asks is not kept waiting.
const GATHERED_FOR: Duration = Duration::from_millis(10);

/// While nobody listens it waits for the first moment without an event, so that folding takes no core from what is under way,
const QUIET_FOR: Duration = Duration::from_millis(100);

/// or until so many events wait that whoever asks would have to wait for them.
const BEHIND_MAX: u64 = 65_536;

/// What the thread is told.
pub(super) enum Word {
    Inquiry(Inquiry),
    Written,
    End,
}

#[derive(Default)]
struct Bell {
    /// It has begun.
    begun: AtomicBool,
    /// It has been told to look and has not looked yet.
    rung: AtomicBool,
    /// Events since it looked.
    written: AtomicU64,
}

/// The way to the thread.
#[derive(Clone)]
pub(super) struct Caller {
    words: Sender<Word>,
    bell: Arc<Bell>,
}

impl Caller {
    pub(super) fn new() -> (Caller, Receiver<Word>) {
        let (words, heard) = channel();
        (Caller { words, bell: Arc::default() }, heard)
    }

    pub(super) fn inquire(&self, inquiry: Inquiry) {
        // Nobody listens only when the kernel is about to end.
        let _ = self.words.send(Word::Inquiry(inquiry));
    }

    /// So many more events are in the log.
    pub(super) fn written(&self, events: u64) {
        let bell = &self.bell;
        let written = bell.written.fetch_add(events, Ordering::Relaxed) + events;
        if events > 0
            && (bell.begun.load(Ordering::Acquire) || written >= BEGIN_AFTER)
            && !bell.rung.swap(true, Ordering::AcqRel)
        {
            let _ = self.words.send(Word::Written);
        }
    }

    pub(super) fn end(&self) {
        let _ = self.words.send(Word::End);
    }
}

/// The way of checkpoints to the log's writer.
pub(super) struct Keeper(Arc<Shared>);

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Keeper {
        Keeper(shared)
    }
}

impl Keeping for Keeper {
    fn keep(&mut self, values: Vec<(Bytes, Option<Bytes>)>) -> bool {
        let entries = values.into_iter().map(|(key, value)| Entry::Value { key, value }).collect();
        let mut queue = self.0.lock();
        if self.0.failed.load(Ordering::Acquire) {
            return false;
        }
        queue.checkpoint = Some(Batch { entries, ..Batch::default() });
        queue.keeping = true;
        self.0.demand(&mut queue, 0);
        while queue.keeping && !self.0.failed.load(Ordering::Acquire) {
            queue = self.0.kept.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        !self.0.failed.load(Ordering::Acquire)
    }
}

/// What the thread is started with.
pub(super) struct Beginning {
    pub(super) reader: Reader,
    pub(super) owner_uid: u32,
    pub(super) limits: Limits,
    pub(super) words: Receiver<Word>,
    pub(super) caller: Caller,
    pub(super) keeper: Keeper,
    pub(super) ear: Ear,
}

pub(super) fn run(from: Beginning) {
    let mut host = None;
    let mut more = false;
    let Beginning { reader, owner_uid, limits, words, caller, mut keeper, ear } = from;
    loop {
        let first = if more { None } else { words.recv().ok() };
        let gathers = matches!(first, Some(Word::Written));
        let is_heard = host.as_ref().is_some_and(Host::is_heard);
        let second = if gathers { gathered(&words, &caller.bell, is_heard) } else { None };
        let (mut inquiries, mut over) = (Vec::new(), false);
        for word in first.into_iter().chain(second).chain(words.try_iter()) {
            match word {
                Word::Inquiry(inquiry) => inquiries.push(inquiry),
                Word::Written => {}
                Word::End => over = true,
            }
        }
        caller.bell.begun.store(true, Ordering::Release);
        // Before the log is looked at: what is written from here on rings again.
        caller.bell.rung.store(false, Ordering::Release);
        caller.bell.written.store(0, Ordering::Relaxed);
        if over {
            host.iter_mut().for_each(|host| store(host, &mut keeper));
            return;
        }
        if host.is_none() {
            match Host::new(reader.clone(), owner_uid, limits) {
                Ok(begun) => host = Some(begun),
                Err(error) => refuse(&ear, inquiries.drain(..), &error.to_string()),
            }
        }
        let Some(host) = &mut host else { continue };
        more = work(host, inquiries, &ear);
        if host.is_to_be_stored(!more) {
            store(host, &mut keeper);
        }
    }
}

/// Waits until it is time to fold, or until there is another word.
fn gathered(words: &Receiver<Word>, bell: &Bell, is_heard: bool) -> Option<Word> {
    if is_heard {
        return words.recv_timeout(GATHERED_FOR).ok();
    }
    let mut before = bell.written.load(Ordering::Relaxed);
    loop {
        match words.recv_timeout(QUIET_FOR) {
            Ok(word) => return Some(word),
            Err(_) => {
                let written = bell.written.load(Ordering::Relaxed);
                if written == before || written >= BEHIND_MAX {
                    return None;
                }
                before = written;
            }
        }
    }
}

/// Folds and answers. True if there is more to fold.
fn work(host: &mut Host, inquiries: Vec<Inquiry>, ear: &Ear) -> bool {
    let folded = if inquiries.is_empty() { host.step() } else { host.catch_up() };
    let more = folded.unwrap_or_else(|error| {
        tracing::error!(component = "views", %error, "the log can't be read");
        false
    });
    for inquiry in inquiries {
        if let Some(answer) = host.ask(inquiry) {
            tell(ear, answer);
        }
    }
    host.due().into_iter().for_each(|answer| tell(ear, answer));
    more
}

fn store(host: &mut Host, keeper: &mut Keeper) {
    if let Err(error) = host.store(keeper) {
        tracing::error!(component = "views", %error, "views can't be stored");
    }
}

fn refuse(ear: &Ear, inquiries: impl Iterator<Item = Inquiry>, reason: &str) {
    tracing::error!(component = "views", reason, "there are no views");
    for inquiry in inquiries {
        let Inquiry::Want { ticket, .. } = inquiry else { continue };
        let found = Err(WireError::new(Code::Unavailable, reason.to_owned()));
        tell(ear, Answer { ticket, found, keep: Vec::new() });
    }
}

fn tell(ear: &Ear, answer: Answer) {
    ear.tell(|kernel, at, out| kernel.answered(at, answer, out));
}
