//! The kernel's audit, as far as this process may hear it: its multicast (netlink(7), AUDIT_NLGRP_READLOG, for who has
//! CAP_AUDIT_READ), else its log (`/dev/kmsg`), where the same records stand while no audit daemon takes them.

use crate::ability::Answer;
use crate::violation::{Denied, Records};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::ptr;
use std::time::Duration;

/// linux/audit.h
const AUDIT_NLGRP_READLOG: u32 = 1;
const AUDIT_GET: u16 = 1000;
/// `struct nlmsghdr`: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// MAX_AUDIT_MESSAGE_LENGTH, and more than a line of the log.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Inode of the first pid namespace (PROC_PID_INIT_INO).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// How long the kernel is waited for to say whether it audits; it answers at once.
const ANSWER: Duration = Duration::from_millis(100);

/// Where records come from.
#[derive(Debug)]
enum Source {
    Audit(OwnedFd),
    Log(File),
}

/// What contained programs are refused, from now on; others' refusals among it.
#[derive(Debug)]
pub struct Denials {
    source: Source,
    records: Records,
    buffer: Vec<u8>,
}

impl Denials {
    /// Begins to listen.
    pub fn open() -> io::Result<Denials> {
        let source = match audit(AUDIT_NLGRP_READLOG) {
            Ok(socket) => Source::Audit(socket),
            Err(_) => {
                let mut log = OpenOptions::new();
                let mut log =
                    log.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/kmsg")?;
                log.seek(SeekFrom::End(0))?;
                Source::Log(log)
            }
        };
        Ok(Denials { source, records: Records::default(), buffer: vec![0; RECORD_BYTES_MAX] })
    }

    /// Readable while there is something to take.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Audit(socket) => socket.as_fd(),
            Source::Log(log) => log.as_fd(),
        }
    }

    /// The next refusal; none if there is none yet. What came too fast to be read is skipped.
    pub fn take(&mut self) -> io::Result<Option<Denied>> {
        loop {
            let read = match &mut self.source {
                Source::Audit(socket) => receive(socket, &mut self.buffer),
                Source::Log(log) => log.read(&mut self.buffer),
            };
            let record = match read {
                Ok(read) => &self.buffer[..read],
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(None),
                    Some(libc::EINTR | libc::ENOBUFS | libc::EPIPE) => continue,
                    _ => return Err(error),
                },
            };
            let denied = match &self.source {
                Source::Audit(_) if record.len() > HEADER_BYTES => {
                    let kind = u16::from_ne_bytes([record[4], record[5]]);
                    let text = String::from_utf8_lossy(&record[HEADER_BYTES..]);
                    self.records.take(kind.into(), text.trim_end_matches('\0'))
                }
                Source::Audit(_) => None,
                Source::Log(_) => self.records.take_line(&String::from_utf8_lossy(record)),
            };
            if denied.is_some() {
                return Ok(denied);
            }
        }
    }
}

/// A socket of the audit's, with these groups.
fn audit(groups: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: integers only.
    let socket = super::owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_AUDIT) }.into())?;
    // SAFETY: all zeroes is a value of this structure, which is plain numbers.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = groups;
    // SAFETY: the address outlives the call, and the size is its own.
    let bound = unsafe {
        let size = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), size)
    };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer outlives the call and is as long as is said.
    let read = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// Whether the kernel audits at all; it records filtered calls anyway, and accesses only then.
fn is_enabled() -> io::Result<bool> {
    let socket = audit(0)?;
    let mut request = [0u8; HEADER_BYTES];
    request[..4].copy_from_slice(&(HEADER_BYTES as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&AUDIT_GET.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // SAFETY: the request outlives the call and is as long as is said.
    let sent = unsafe { libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut polled = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure that outlives the call.
    unsafe { libc::poll(&mut polled, 1, ANSWER.as_millis() as libc::c_int) };
    let mut answer = [0u8; 256];
    let read = receive(&socket, &mut answer)?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    // `struct audit_status`: mask, enabled …
    let at = HEADER_BYTES + 4;
    let enabled = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    match (kind == AUDIT_GET && read >= at + 4, enabled) {
        (true, Some(enabled)) => Ok(enabled != 0),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Records name processes by their numbers in the first pid namespace, which nobody in another can tell.
fn is_elsewhere() -> Option<Answer> {
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?;
    (namespace.ino() != FIRST_PID_NAMESPACE).then(|| {
        let why =
            "the kernel's audit numbers processes as the first pid namespace does, and this one is another";
        Answer::Refused(why.to_owned())
    })
}

/// Whether denied calls can be heard of.
pub(super) fn of_calls() -> Answer {
    match Denials::open() {
        Ok(_) => is_elsewhere().unwrap_or(Answer::Allowed),
        Err(error) => Answer::Refused(format!(
            "it takes CAP_AUDIT_READ, or a kernel log that may be read (kernel.dmesg_restrict=0): {error}"
        )),
    }
}

/// Whether denied accesses can be heard of.
pub(super) fn of_files(landlock_abi: u32) -> Answer {
    match (landlock_abi, audit(AUDIT_NLGRP_READLOG).and_then(|_| is_enabled())) {
        (..=6, _) => Answer::Refused(format!("it takes Landlock ABI 7, and this kernel has {landlock_abi}")),
        (_, Ok(true)) => is_elsewhere().unwrap_or(Answer::Allowed),
        (_, Ok(false)) => Answer::Refused("the kernel's audit is off (auditctl -e 1)".to_owned()),
        (_, Err(_)) => Answer::Refused("it takes CAP_AUDIT_READ and CAP_AUDIT_CONTROL".to_owned()),
    }
}
