//! Where fifos are: beside the socket, in a folder called after it, so that of two daemons in one folder each has its own.
//!
//! Invariant: the folder is there exactly as long as the daemon, but for one that is killed, or leaves behind what the next one
//! goes on with; that one clears it of all else.

use kairo_dataplane::sys::fifo;
use std::path::{Path, PathBuf};

/// The folder, until it is dropped.
#[derive(Debug)]
pub(super) struct Fifos(Option<PathBuf>);

impl Fifos {
    /// Makes it, empty but for what is `kept`. A daemon that can't serves all but fifos.
    pub(super) fn prepare(socket: &Path, kept: &[&Path]) -> Fifos {
        let mut name = socket.as_os_str().to_owned();
        name.push(".fifos");
        let prepared = std::path::absolute(name).and_then(|path| fifo::prepare(&path, kept).map(|()| path));
        match prepared {
            Ok(path) => Fifos(Some(path)),
            Err(error) => {
                tracing::warn!(component = "kernel", socket = %socket.display(), %error, "no fifos can be made beside it");
                Fifos(None)
            }
        }
    }

    /// Where it is, if there is one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        self.0.clone()
    }

    /// The next kernel goes on with what is left in it.
    pub(super) fn leave(mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fifo::leave(&path)
        {
            tracing::warn!(component = "kernel", folder = %path.display(), %error, "left behind");
        }
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fifo::clear(path)
        {
            tracing::warn!(component = "kernel", folder = %path.display(), %error, "left behind");
        }
    }
}
