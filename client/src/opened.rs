//! Streams on descriptors of their own: what they bring is read as from any pipe, by whomever they are handed to.
//!
//! Invariant: a descriptor comes with exactly the answer that names it, so whoever has the answer has them all.

use crate::connection::{Call, Client};
use crate::error::CallError;
use kairo_wire::methods::open::{Open, OpenParams, OpenResult};
use std::os::fd::OwnedFd;

/// A stream that is open.
#[derive(Debug)]
pub struct Opened {
    /// What the kernel says of it.
    pub result: OpenResult,
    /// What came with it, in the order of [`OpenResult::descriptors`].
    pub descriptors: Vec<OwnedFd>,
}

impl Client {
    /// Opens an output of a process by a transport of one's choice. What is read from its descriptor ends with this connection:
    /// the stream's own end is told apart by its length, in the event `kairo.stream.closed` and in the status.
    pub fn open(&self, params: &OpenParams) -> Result<Opened, CallError> {
        let call: Call<Open> = self.begin(params)?;
        let number = call.number();
        let result = call.wait()?;
        let descriptors = self.handed(number);
        if descriptors.len() == result.descriptors.len() {
            return Ok(Opened { result, descriptors });
        }
        let missing =
            format!("{} descriptors came, and {} are named", descriptors.len(), result.descriptors.len());
        Err(CallError::Shape(missing))
    }
}
