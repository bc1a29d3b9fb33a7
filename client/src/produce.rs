//! Streams this client writes: through a pipe, or in place in a ring its readers map.
//!
//! Invariant: the stream is there as long as its writing end is, and, unless its kernel dies, no longer than this connection. A kernel that
//! dies is noticed by neither: the next one takes what was written on.

use crate::connection::{Call, Client};
use crate::error::CallError;
use crate::shared::SharedError;
use kairo_shm::producer::{Parts, Producer};
use kairo_wire::methods::publish::{Entrance, Publish, PublishParams, PublishResult};
use std::fs::File;
use std::os::fd::OwnedFd;

pub use kairo_shm::producer::Room;

impl Client {
    /// Makes a stream that is written through a pipe. `params.transport` is taken to be that.
    pub fn produce(&self, params: &PublishParams) -> Result<(PublishResult, File), CallError> {
        let (result, descriptors) = self.made(params, Entrance::Pipe)?;
        let [pipe] = <[_; 1]>::try_from(descriptors).map_err(|_| missing())?;
        Ok((result, File::from(pipe)))
    }

    /// Makes a stream that is written in place. `params.transport` is taken to be that.
    pub fn produce_in_place(&self, params: &PublishParams) -> Result<(PublishResult, Producer), SharedError> {
        let (result, descriptors) = self.made(params, Entrance::Shared)?;
        let [ring, page, doorbell] = <[_; 3]>::try_from(descriptors).map_err(|_| missing())?;
        Ok((result, Producer::open(Parts { ring, page, doorbell })?))
    }

    /// What the kernel hands out for a stream, for whoever writes it by other means: the pipe, or the ring, its page and its
    /// doorbell.
    pub fn made(
        &self,
        params: &PublishParams,
        transport: Entrance,
    ) -> Result<(PublishResult, Vec<OwnedFd>), CallError> {
        let call: Call<Publish> = self.begin(&PublishParams { transport, ..params.clone() })?;
        let number = call.number();
        let result = call.wait()?;
        Ok((result, self.handed(number)))
    }
}

fn missing() -> CallError {
    CallError::Shape("other descriptors came than the answer names".into())
}
