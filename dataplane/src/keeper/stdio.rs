//! A child's standard descriptors: the ends it gets, and the ends the kernel gets and the keeper holds.
//!
//! The kernel's ends are non-blocking, the child's are not; all are close-on-exec until the forker places them.

use crate::command::{StderrTarget, StdinSource, Stdio};
use crate::keeper::session::Kept;
use crate::sys::pipe::{NonBlocking, Pipe, pipe};
use crate::sys::pty;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Both sides of descriptors 0, 1 and 2.
#[derive(Debug)]
pub(super) struct Prepared {
    child: [Source; 3],
    pub(super) kept: [Option<Kept>; 3],
    pub(super) terminal: bool,
}

/// What a child's descriptor is made of.
#[derive(Debug)]
enum Source {
    Own(OwnedFd),
    /// The same as descriptor 0 of the child, or 1.
    Same(usize),
    Null,
    KeepersStdin,
    KeepersStderr,
}

/// What a child's descriptors are instead of what its [`Stdio`] says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Given<'a> {
    /// Descriptor 0 will be this file, which the child opens.
    pub(super) file: Option<&'a [u8]>,
    /// Descriptor 0.
    pub(super) stdin: Option<BorrowedFd<'a>>,
    /// Descriptor 1.
    pub(super) stdout: Option<BorrowedFd<'a>>,
}

impl Prepared {
    /// Opens everything. `EPERM`: inheriting from a keeper that isn't embedded.
    pub(super) fn new(
        stdio: Stdio,
        given: Given<'_>,
        owner: Option<u32>,
        embedded: bool,
    ) -> io::Result<Prepared> {
        match stdio {
            Stdio::Pty(size) => {
                let pty = pty::open(size, owner)?;
                let master = Kept { fd: pty.master, pipe_bytes: 0 };
                Ok(Prepared {
                    child: [Source::Own(pty.terminal), Source::Same(0), Source::Same(0)],
                    kept: [None, Some(master), None],
                    terminal: true,
                })
            }
            Stdio::Pipes { stdin, stderr, pipe_bytes } => {
                let inherits = stdin == StdinSource::Inherit || stderr == StderrTarget::Inherit;
                if inherits && !embedded {
                    return Err(io::Error::from_raw_os_error(libc::EPERM));
                }
                let (stdin, kept_stdin) = match stdin {
                    _ if given.file.is_some() => (Source::Null, None),
                    _ if given.stdin.is_some() => (given_by_kernel(given.stdin)?, None),
                    StdinSource::Pipe => written_by_us(pipe_bytes)?,
                    StdinSource::Null => (Source::Null, None),
                    StdinSource::Inherit => (Source::KeepersStdin, None),
                };
                let (stdout, kept_stdout) = match given.stdout {
                    Some(_) => (given_by_kernel(given.stdout)?, None),
                    None => read_by_us(pipe_bytes)?,
                };
                let (stderr, kept_stderr) = match stderr {
                    StderrTarget::Pipe => read_by_us(pipe_bytes)?,
                    StderrTarget::Stdout => (Source::Same(1), None),
                    StderrTarget::Inherit => (Source::KeepersStderr, None),
                };
                Ok(Prepared {
                    child: [stdin, stdout, stderr],
                    kept: [kept_stdin, kept_stdout, kept_stderr],
                    terminal: false,
                })
            }
        }
    }

    /// The child's ends.
    pub(super) fn child<'a>(&'a self, null: BorrowedFd<'a>) -> [BorrowedFd<'a>; 3] {
        let resolve = |source: &'a Source| match source {
            Source::Own(fd) => fd.as_fd(),
            Source::Null | Source::Same(_) => null,
            Source::KeepersStdin => rustix::stdio::stdin(),
            Source::KeepersStderr => rustix::stdio::stderr(),
        };
        self.child.each_ref().map(|source| match source {
            Source::Same(other) => resolve(&self.child[*other]),
            source => resolve(source),
        })
    }
}

fn kept(fd: OwnedFd, capacity_bytes: usize) -> Option<Kept> {
    Some(Kept { fd, pipe_bytes: u32::try_from(capacity_bytes).unwrap_or(u32::MAX) })
}

fn given_by_kernel(end: Option<BorrowedFd<'_>>) -> io::Result<Source> {
    end.map_or(Ok(Source::Null), |end| end.try_clone_to_owned().map(Source::Own))
}

fn written_by_us(bytes: u32) -> io::Result<(Source, Option<Kept>)> {
    let Pipe { reader, writer, capacity_bytes } = pipe(bytes as usize, NonBlocking::Writer)?;
    Ok((Source::Own(reader), kept(writer, capacity_bytes)))
}

fn read_by_us(bytes: u32) -> io::Result<(Source, Option<Kept>)> {
    let Pipe { reader, writer, capacity_bytes } = pipe(bytes as usize, NonBlocking::Reader)?;
    Ok((Source::Own(writer), kept(reader, capacity_bytes)))
}
