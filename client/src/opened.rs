//! Streams on descriptors of their own: what they bring is read as from any pipe, by whomever they are handed to.
//!
//! Invariant: a descriptor comes with exactly the answer that names it, so whoever has the answer has them all.

use crate::connection::Client;
use crate::direct::DirectStream;
use crate::error::CallError;
use kairo_wire::codec::text::OsText;
use kairo_wire::id::ProcessId;
use kairo_wire::method::Method;
use kairo_wire::methods::open::{
    Framing, Open, OpenParams, OpenResult, OpenStdin, OpenStdinParams, OpenStdinResult, StdinTransport,
    Transport,
};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

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
        let (result, descriptors) =
            self.with_descriptors::<Open>(params, |result| result.descriptors.len())?;
        Ok(Opened { result, descriptors })
    }

    /// Opens an output of a process as a path, for any program to read; `params.transport` is taken to be that. Whoever opens
    /// it first has the stream, whatever becomes of this connection.
    pub fn open_fifo(&self, params: &OpenParams) -> Result<(OpenResult, PathBuf), CallError> {
        let params = OpenParams { transport: Transport::Fifo, ..params.clone() };
        let result = self.open(&params)?.result;
        let path = told(result.path.as_ref())?;
        Ok((result, path))
    }

    /// Opens an output of a process as frames on a socket of its own, while this connection goes on calling; `params.transport`
    /// and `.framing` are taken to be that. It ends with this connection, but goes on if that ends because its kernel was killed and
    /// another one came. It is told of no leader's exit.
    pub fn open_framed(&self, params: &OpenParams) -> Result<DirectStream, CallError> {
        let (transport, framing) = (Transport::Socket, Some(Framing::Frames));
        let params = OpenParams { transport, framing, ..params.clone() };
        let Opened { result, descriptors } = self.open(&params)?;
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| CallError::Shape("one socket should have come".into()))?;
        DirectStream::over(UnixStream::from(socket), self.standing(), &params, result)
    }

    /// Takes the way into a process: what is written to the descriptor is what it reads, until the descriptor is closed.
    pub fn open_stdin(&self, id: ProcessId) -> Result<(OpenStdinResult, OwnedFd), CallError> {
        let params = OpenStdinParams { id, transport: StdinTransport::Pipe, keep_open: false, wait_ms: None };
        let (result, descriptors) =
            self.with_descriptors::<OpenStdin>(&params, |result| result.descriptors.len())?;
        match <[OwnedFd; 1]>::try_from(descriptors) {
            Ok([descriptor]) => Ok((result, descriptor)),
            Err(others) => Err(CallError::Shape(format!("{} descriptors came instead of one", others.len()))),
        }
    }

    /// Makes a process's stdin a path, for any program to write; `params.transport` is taken to be that. Whoever opens it first
    /// writes what the process reads, whatever becomes of this connection.
    pub fn open_stdin_fifo(&self, params: &OpenStdinParams) -> Result<(OpenStdinResult, PathBuf), CallError> {
        let params = OpenStdinParams { transport: StdinTransport::Fifo, ..params.clone() };
        let (result, _) = self.with_descriptors::<OpenStdin>(&params, |result| result.descriptors.len())?;
        let path = told(result.path.as_ref())?;
        Ok((result, path))
    }

    /// Calls what descriptors come with; `named` tells how many the result names.
    fn with_descriptors<M: Method>(
        &self,
        params: &M::Params,
        named: impl FnOnce(&M::Result) -> usize,
    ) -> Result<(M::Result, Vec<OwnedFd>), CallError> {
        let call = self.begin::<M>(params)?;
        let number = call.number();
        let result = call.wait()?;
        let (descriptors, named) = (self.handed(number), named(&result));
        if descriptors.len() != named {
            let came = descriptors.len();
            return Err(CallError::Shape(format!("{came} descriptors came, and {named} are named")));
        }
        Ok((result, descriptors))
    }
}

/// The path an answer should tell.
fn told(path: Option<&OsText>) -> Result<PathBuf, CallError> {
    let path = path.map(|path| PathBuf::from(OsStr::from_bytes(path.as_bytes())));
    path.ok_or_else(|| CallError::Shape("no path came".into()))
}
