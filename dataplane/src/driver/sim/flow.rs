//! What bytes and packets lie in between two ends: a queue with a bound, and how many hold either end.
//!
//! Ends are counted like open files: cloning one is dup(2), dropping the last writer is the end of the stream,
//! dropping the last reader is EPIPE. Chance and time are not here but in [`super::world`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A bounded queue of `T`: bytes of a stream, or packets of a lane.
#[derive(Debug)]
struct Flow<T> {
    queue: RefCell<VecDeque<T>>,
    capacity: usize,
    writers: Cell<usize>,
    readers: Cell<usize>,
    /// The reader closed without reading everything.
    refused: Cell<bool>,
}

/// The end that puts in.
#[derive(Debug)]
pub(super) struct WriteEnd<T>(Rc<Flow<T>>);

/// The end that takes out.
#[derive(Debug)]
pub(super) struct ReadEnd<T>(Rc<Flow<T>>);

/// A queue of at most `capacity`, and its two ends.
pub(super) fn flow<T>(capacity: usize) -> (ReadEnd<T>, WriteEnd<T>) {
    let flow = Rc::new(Flow {
        queue: RefCell::new(VecDeque::new()),
        capacity,
        writers: Cell::new(1),
        readers: Cell::new(1),
        refused: Cell::new(false),
    });
    (ReadEnd(Rc::clone(&flow)), WriteEnd(flow))
}

impl<T> WriteEnd<T> {
    pub(super) fn room(&self) -> usize {
        self.0.capacity - self.0.queue.borrow().len()
    }
    pub(super) fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }
    /// Nobody reads any more.
    pub(super) fn is_broken(&self) -> bool {
        self.0.readers.get() == 0
    }
    /// Nobody reads any more, and bytes were left behind.
    pub(super) fn is_refused(&self) -> bool {
        self.0.refused.get()
    }
    pub(super) fn put(&self, items: impl IntoIterator<Item = T>) {
        let mut queue = self.0.queue.borrow_mut();
        queue.extend(items);
        assert!(queue.len() <= self.0.capacity, "more was put in than there was room for");
    }
}

impl<T> ReadEnd<T> {
    pub(super) fn len(&self) -> usize {
        self.0.queue.borrow().len()
    }
    /// Nobody writes any more; what is queued may still be read.
    pub(super) fn is_ending(&self) -> bool {
        self.0.writers.get() == 0
    }
    pub(super) fn copy(&self, count: usize) -> Vec<T>
    where
        T: Clone,
    {
        self.0.queue.borrow().iter().take(count).cloned().collect()
    }
    pub(super) fn take(&self, count: usize) -> Vec<T> {
        self.0.queue.borrow_mut().drain(..count).collect()
    }
}

impl<T> Clone for WriteEnd<T> {
    fn clone(&self) -> Self {
        self.0.writers.set(self.0.writers.get() + 1);
        WriteEnd(Rc::clone(&self.0))
    }
}

impl<T> Clone for ReadEnd<T> {
    fn clone(&self) -> Self {
        self.0.readers.set(self.0.readers.get() + 1);
        ReadEnd(Rc::clone(&self.0))
    }
}

impl<T> Drop for WriteEnd<T> {
    fn drop(&mut self) {
        self.0.writers.set(self.0.writers.get() - 1);
    }
}

impl<T> Drop for ReadEnd<T> {
    fn drop(&mut self) {
        self.0.readers.set(self.0.readers.get() - 1);
        if self.0.readers.get() == 0 {
            let left: VecDeque<T> = std::mem::take(&mut *self.0.queue.borrow_mut());
            self.0.refused.set(!left.is_empty());
        }
    }
}
