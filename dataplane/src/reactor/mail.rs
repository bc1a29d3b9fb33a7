//! How reactors talk to each other, and how other threads reach them.
//!
//! One queue a reactor, and one wake-up descriptor. A sender wakes a reactor only if it sleeps, so a busy one costs its
//! correspondents no system call. The queues are unbounded, their content is not: frames are held by credit
//! ([`REMOTE_WINDOW_BYTES`](crate::limits::REMOTE_WINDOW_BYTES) a subscription), commands and notices by the calls in
//! flight that caused them.

use crate::command::Command;
use crate::control::{Notice, Peer};
use crate::key::{ConnectionKey, ReactorId, SubscriptionKey};
use crate::spool::service::Answer;
use crate::sys::pipe::{Bell, bell};
use bytes::Bytes;
use crossbeam::queue::SegQueue;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

/// What is mailed to a reactor.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Carry it out: its object lives with the receiver.
    Command(Command),
    /// A frame of a remote reader for one of the receiver's connections.
    Frame { connection: ConnectionKey, subscription: SubscriptionKey, frame: Bytes, credit: usize },
    /// A mailed frame is sent, or will never be.
    Credit { subscription: SubscriptionKey, bytes: usize },
    /// Something happened off the reactors (the worker).
    Notice(Notice),
    /// A connection to serve.
    Connection { socket: OwnedFd, peer: Peer },
    /// What the threads of the spool have done.
    Spool(Answer),
    /// Histories hold too much: give what can be given.
    Squeeze,
    /// Say that you live.
    Pulse(Sender<ReactorId>),
    /// End.
    Stop,
}

#[derive(Debug)]
struct Mailbox {
    queue: SegQueue<Mail>,
    /// True exactly while its reactor may be in `wait` without having looked here since.
    asleep: AtomicBool,
    bell: Bell,
}

/// Everybody's mailboxes.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    boxes: Arc<[Mailbox]>,
    shutting_down: Arc<AtomicBool>,
}

impl Post {
    /// One mailbox per reactor, and what each reactor listens to: readable once its bell has rung.
    pub(crate) fn new(reactors: u16) -> io::Result<(Post, Vec<OwnedFd>)> {
        let (mut boxes, mut ears) = (Vec::new(), Vec::new());
        for _ in 0..reactors {
            let (bell, ear) = bell()?;
            boxes.push(Mailbox { queue: SegQueue::new(), asleep: AtomicBool::new(false), bell });
            ears.push(ear);
        }
        Ok((Post { boxes: boxes.into(), shutting_down: Arc::default() }, ears))
    }

    pub(crate) fn reactors(&self) -> u16 {
        self.boxes.len() as u16
    }

    /// Delivers, and wakes the receiver if it sleeps.
    pub(crate) fn send(&self, to: ReactorId, mail: Mail) {
        let Some(mailbox) = self.boxes.get(to.0 as usize) else { return };
        mailbox.queue.push(mail);
        if mailbox.asleep.swap(false, Ordering::SeqCst) {
            // A bell that can't be rung has no reactor any more.
            let _ = mailbox.bell.ring();
        }
    }

    /// The next letter for `at`.
    pub(crate) fn receive(&self, at: ReactorId) -> Option<Mail> {
        self.boxes[at.0 as usize].queue.pop()
    }

    /// Says that `at` goes to sleep. False: don't, there is mail.
    pub(crate) fn sleep(&self, at: ReactorId) -> bool {
        let mailbox = &self.boxes[at.0 as usize];
        mailbox.asleep.store(true, Ordering::SeqCst);
        if mailbox.queue.is_empty() {
            return true;
        }
        mailbox.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// Says that `at` is awake.
    pub(crate) fn wake(&self, at: ReactorId) {
        self.boxes[at.0 as usize].asleep.store(false, Ordering::SeqCst);
    }

    /// From now on a keeper that goes was told to.
    pub(crate) fn begin_shutdown(&self) {
        self.shutting_down.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::SeqCst)
    }
}
