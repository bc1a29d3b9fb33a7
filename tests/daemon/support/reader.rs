//! Who reads a stream to its end on a thread of its own, raw or in frames, and holds it to the sequence.

use super::{sequence, until};
use kairo_client::{DirectItem, DirectStream, Opened};
use kairo_wire::event::StreamEndReason;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// No stream stands still for so long, whoever is killed meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Reader {
    name: String,
    at: Arc<AtomicU64>,
    /// How much it has missed.
    thread: JoinHandle<u64>,
}

impl Reader {
    fn with(name: &str, read: impl FnOnce(&AtomicU64) -> u64 + Send + 'static) -> Reader {
        let at = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&at);
        Reader { name: name.to_owned(), at, thread: std::thread::spawn(move || read(&seen)) }
    }

    /// Of raw bytes, from the stream's first one on.
    pub(crate) fn of(name: &str, opened: Opened) -> Reader {
        Reader::of_descriptors(name, opened.descriptors)
    }

    pub(crate) fn of_descriptors(name: &str, descriptors: Vec<OwnedFd>) -> Reader {
        let [descriptor] = <[_; 1]>::try_from(descriptors).expect("one descriptor");
        let mut file = File::from(descriptor);
        Reader::with(name, move |seen| {
            let mut bytes = vec![0; 128 << 10];
            loop {
                let read = file.read(&mut bytes).expect("it can be read");
                if read == 0 {
                    return 0;
                }
                sequence::check(&bytes[..read], seen.load(Ordering::Relaxed));
                seen.fetch_add(read as u64, Ordering::Relaxed);
            }
        })
    }

    /// Of frames.
    pub(crate) fn framed(name: &str, mut stream: DirectStream) -> Reader {
        Reader::with(name, move |seen| read_frames(&mut stream, seen).1)
    }

    pub(crate) fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    /// Until it has so many bytes more.
    pub(crate) fn goes_on(&self, bytes: u64) {
        let wanted = self.at() + bytes;
        until(&format!("{} goes on from {}", self.name, wanted - bytes), || {
            assert!(!self.thread.is_finished(), "{} has ended at {}", self.name, self.at());
            self.at() >= wanted
        });
    }

    /// How long what it read was, once that has ended.
    pub(crate) fn end(self) -> u64 {
        self.end_and_missed().0
    }

    /// The same, and how much of it was told as gaps.
    pub(crate) fn end_and_missed(self) -> (u64, u64) {
        let (name, at) = (self.name.clone(), Arc::clone(&self.at));
        let missed = self.outcome().unwrap_or_else(|_| panic!("what {name} read was not right"));
        (at.load(Ordering::Relaxed), missed)
    }

    /// An error if something was not as it should be, once it has ended.
    pub(crate) fn outcome(self) -> std::thread::Result<u64> {
        until(&format!("{} ends", self.name), || self.thread.is_finished());
        self.thread.join()
    }
}

/// Reads frames to the end of a stream that is closed: how long that was, and what was told as gaps.
pub(crate) fn read_frames(stream: &mut DirectStream, seen: &AtomicU64) -> (u64, u64) {
    let (mut at, mut missed) = (0, 0);
    loop {
        match stream.next_within(PATIENCE).expect("no frame is torn").expect("there is more, or the end") {
            DirectItem::Chunk { offset, data, .. } => {
                assert_eq!(offset, at);
                sequence::check(data, offset);
                at += data.len() as u64;
            }
            DirectItem::Gap { from, to, .. } => {
                assert_eq!(from, at);
                (at, missed) = (to, missed + to - from);
            }
            DirectItem::End { total_bytes, gap_bytes, reason, .. } => {
                assert_eq!((total_bytes, gap_bytes, reason), (at, missed, StreamEndReason::Closed));
                assert!(stream.next_item().expect("it is over").is_none());
                return (at, missed);
            }
            other => panic!("{other:?}"),
        }
        seen.store(at, Ordering::Relaxed);
    }
}
