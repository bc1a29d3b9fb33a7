//! A stream read in place, in a ring the kernel shares: no bytes travel, and nobody is called while there is something to
//! read. The fastest way to read, for whoever works on bytes where they lie.
//!
//! Invariant: whatever kernels come and go, the reader stands at an offset of the stream, and goes on exactly there.

use crate::connection::Client;
use crate::error::CallError;
use kairo_shm::shared::{Pace, Parts, SharedReader};
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::open::{OpenParams, Transport};
use kairo_wire::methods::stream::{Policy, Start};
use std::time::Duration;

pub use kairo_shm::layout::{End, RingError};
pub use kairo_shm::seat::Closed;
pub use kairo_shm::shared::Next;

/// Why a shared stream can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// It could not be opened, or not again.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was handed over can't be mapped.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// A stream in a shared ring.
#[derive(Debug)]
pub struct SharedStream<'c> {
    client: &'c Client,
    params: OpenParams,
    id: SubscriptionId,
    reader: SharedReader,
    lost: bool,
}

impl Client {
    /// Opens an output of a process in a shared ring. `params.transport` is taken to be that.
    pub fn open_shared(&self, params: &OpenParams) -> Result<SharedStream<'_>, SharedError> {
        let params = OpenParams { transport: Transport::Shared, ..params.clone() };
        let (id, reader) = open(self, &params)?;
        Ok(SharedStream { client: self, params, id, reader, lost: false })
    }
}

fn open(client: &Client, params: &OpenParams) -> Result<(SubscriptionId, SharedReader), SharedError> {
    let opened = client.open(params)?;
    let [ring, seat, doorbell] = <[_; 3]>::try_from(opened.descriptors)
        .map_err(|_| CallError::Shape("a ring, a page and a doorbell should have come".into()))?;
    let pace = if params.policy == Policy::Block { Pace::Waits } else { Pace::Drops };
    let reader = SharedReader::open(Parts { ring, seat, doorbell }, pace)?;
    Ok((opened.result.subscription_id, reader))
}

impl SharedStream<'_> {
    /// What comes next, at most `max` bytes of it, waiting for it no longer than `timeout`. [`Next::Lost`] is an interruption:
    /// whoever asks again goes on with the next kernel, if the client reconnects.
    pub fn next(&mut self, max: usize, timeout: Duration) -> Result<Next<'_>, SharedError> {
        if self.lost {
            self.open_again()?;
        }
        if self.params.policy == Policy::Latest
            && let Some((from, to)) = self.reader.skip_to_latest(max as u64)
        {
            return Ok(Next::Gap(from, to));
        }
        let next = self.reader.next(max, timeout)?;
        self.lost = next == Next::Lost;
        Ok(next)
    }

    fn open_again(&mut self) -> Result<(), SharedError> {
        let (from, resumes) = (Start::At(self.reader.offset()), Some(self.id.clone()));
        let params = OpenParams { from, resumes, ..self.params.clone() };
        (self.id, self.reader) = open(self.client, &params)?;
        self.lost = false;
        Ok(())
    }

    /// Goes on behind `bytes` more; see [`SharedReader::advance`].
    #[must_use = "bytes that were overwritten are not to be believed"]
    pub fn advance(&mut self, bytes: usize) -> bool {
        self.reader.advance(bytes)
    }

    /// Passes all but the latest `keep` bytes, and tells what it passed.
    pub fn skip_to_latest(&mut self, keep: u64) -> Option<(u64, u64)> {
        self.reader.skip_to_latest(keep)
    }

    /// The next offset.
    pub fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// Its name, for `stream.close`.
    pub fn id(&self) -> &SubscriptionId {
        &self.id
    }
}
