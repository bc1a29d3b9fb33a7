//! Unix sockets: listening and connecting, who is at the other end, packets that carry descriptors.
//!
//! A peer is who the kernel says it is (SEMANTICS 24, 25), never who it says it is. A packet's descriptors are
//! either all received or all closed: a packet cut short by its buffer, or by a full descriptor table, is an error
//! that leaks nothing. What packets mean is the keeper's protocol; what is sent to clients is the stream's business.

use super::platform::io as platform;
use crate::control::Peer;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SocketAddrUnix, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Largest packet on a keeper lane.
pub const PACKET_BYTES_MAX: usize = 64 << 10;
/// Most descriptors with one packet.
pub const PACKET_FDS_MAX: usize = 16;
/// Connections the kernel queues for a listener before `connect` waits.
const BACKLOG: i32 = 4096;

/// What the socket says about its peer, of the time of `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process; 0 if it is outside our pid namespace.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Who is at the other end of an accepted connection.
pub fn peer(socket: BorrowedFd<'_>, keeper_pid: i32) -> io::Result<Peer> {
    let Credentials { pid, uid, gid } = credentials(socket)?;
    let groups = platform::groups(socket)?;
    let lineage = platform::lineage(socket, pid, keeper_pid);
    Ok(Peer { pid, uid, gid, groups, lineage })
}

/// SO_PEERCRED, or what stands in for it.
pub fn credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    platform::credentials(socket)
}

/// Listens on `path`, non-blocking, for those whom `mode` lets in. What is at `path` already is the caller's to
/// judge and remove: this fails with `AddrInUse`.
///
/// The mode is set between bind(2) and listen(2). Before listen nobody can connect, so the umask, which belongs
/// to all threads, is left alone and there is no moment with other permissions.
pub fn bind(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let socket = platform::socket(SocketType::STREAM, true)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let listening = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .and_then(|()| Ok(rustix::net::listen(&socket, BACKLOG)?));
    match listening {
        Ok(()) => Ok(socket),
        Err(error) => {
            // Ours, just made. The first error is the one to tell.
            let _ = std::fs::remove_file(path);
            Err(error)
        }
    }
}

/// Connects to a listener, waiting if its queue is full. The socket blocks.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = platform::socket(SocketType::STREAM, false)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Two stream sockets connected to each other.
pub fn stream_pair(non_blocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    platform::socket_pair(SocketType::STREAM, non_blocking)
}

/// Two ends of a keeper lane.
pub fn packet_pair(non_blocking: bool) -> io::Result<(OwnedFd, OwnedFd)> {
    platform::socket_pair(platform::PACKET_SOCKET, non_blocking)
}

/// accept(2), non-blocking and close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    platform::accept(listener)
}

/// sendmsg(2) that neither waits nor raises SIGPIPE. Bytes queued; may be fewer than given.
pub fn send(socket: BorrowedFd<'_>, bytes: &[IoSlice<'_>]) -> io::Result<usize> {
    // One slice is the usual case, and sendto(2) is cheaper than sendmsg(2).
    let sent = match bytes {
        [] => 0,
        [one] => rustix::net::send(socket, one, platform::SEND_FLAGS)?,
        many => {
            rustix::net::sendmsg(socket, many, &mut SendAncillaryBuffer::default(), platform::SEND_FLAGS)?
        }
    };
    Ok(sent)
}

/// As [`send`], of one slice, with descriptors that come with its first byte. `InvalidInput` without a byte or with more than
/// [`PACKET_FDS_MAX`].
pub fn send_with(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    send_ancillary(socket, bytes, &borrowed)
}

fn send_ancillary(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > PACKET_FDS_MAX || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)))
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, platform::SEND_FLAGS)?)
}

/// recv(2) that doesn't wait. 0 is the end.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    let (received, _) = rustix::net::recv(socket, into, rustix::net::RecvFlags::DONTWAIT)?;
    Ok(received)
}

/// A path that opens anew what descriptor `fd` of this process refers to, where the platform has one.
pub(crate) fn reopen_path(fd: i32) -> Option<String> {
    platform::reopen_path(fd)
}

/// Sends one packet, whole or not at all. `EAGAIN` if the lane is full. `InvalidInput` beyond the two limits.
pub fn send_packet(lane: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > PACKET_BYTES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = send_ancillary(lane, bytes, fds)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMSGSIZE)) }
}

/// Receives one packet into `buffer` ([`PACKET_BYTES_MAX`] of it, used again and again) and appends its
/// descriptors, close-on-exec, to `fds`. Bytes received; 0 is the end of the lane. `EMSGSIZE` for a packet, or
/// a set of descriptors, that was cut: the packet is gone, its descriptors are closed.
pub fn receive_packet(lane: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
    // What isn't taken out of it is closed when it is dropped.
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(buffer)];
    let flags = platform::RECEIVE_PACKET_FLAGS;
    let received = match rustix::net::recvmsg(lane, &mut into, &mut control, flags).map_err(io::Error::from) {
        Err(error) if platform::is_lane_end(&error) => return Ok(0),
        other => other?,
    };
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for fd in rights {
                platform::keep_from_children(&fd)?;
                fds.push(fd);
            }
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Lineage;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("kairo-socket-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Waits, as what is sent to a socket in this machine is there at once but nobody promises it.
    fn until_there<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match attempt() {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && std::time::Instant::now() < deadline =>
                {
                    std::thread::yield_now();
                }
                other => return other,
            }
        }
    }

    #[test]
    fn a_listener_has_the_mode_asked_for_whatever_the_umask() {
        let folder = Folder::new("mode");
        for mode in [0o600, 0o660, 0o666] {
            let path = folder.0.join(format!("{mode:o}"));
            let _listener = bind(&path, mode).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
    }

    #[test]
    fn a_taken_path_is_refused_and_left_alone() {
        let folder = Folder::new("taken");
        let path = folder.0.join("file");
        std::fs::write(&path, b"mine").unwrap();
        assert_eq!(bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_peer_is_who_the_kernel_says() {
        let folder = Folder::new("peer");
        let path = folder.0.join("s");
        let listener = bind(&path, 0o600).unwrap();
        let _client = connect(&path).unwrap();
        let served = until_there(|| accept(listener.as_fd())).unwrap();
        let peer = peer(served.as_fd(), 0).unwrap();
        assert_eq!(peer.pid, std::process::id().cast_signed());
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        assert_eq!(peer.lineage, Lineage::Outside);
        let flags = rustix::fs::fcntl_getfl(&served).unwrap();
        assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(&served).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_packet_brings_its_descriptors_close_on_exec() {
        let (here, there) = packet_pair(true).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_packet(here.as_fd(), b"two", &[reader.as_fd(), writer.as_fd()]).unwrap();
        drop((reader, writer));
        let (mut buffer, mut fds) = (vec![0; PACKET_BYTES_MAX], Vec::new());
        let len = until_there(|| receive_packet(there.as_fd(), &mut buffer, &mut fds)).unwrap();
        assert_eq!((&buffer[..len], fds.len()), (&b"two"[..], 2));
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        rustix::io::write(&fds[1], b"x").unwrap();
        assert_eq!(rustix::io::read(&fds[0], &mut [0; 8]).unwrap(), 1);
    }

    #[test]
    fn the_largest_packet_with_the_most_descriptors_fits() {
        let (here, there) = packet_pair(true).unwrap();
        let fds = vec![there.as_fd(); PACKET_FDS_MAX];
        send_packet(here.as_fd(), &vec![7; PACKET_BYTES_MAX], &fds).unwrap();
        let (mut buffer, mut received) = (vec![0; PACKET_BYTES_MAX], Vec::new());
        let len = until_there(|| receive_packet(there.as_fd(), &mut buffer, &mut received)).unwrap();
        assert_eq!((len, received.len()), (PACKET_BYTES_MAX, PACKET_FDS_MAX));
    }

    #[test]
    fn too_much_for_a_packet_is_refused_before_it_is_sent() {
        let (here, there) = packet_pair(true).unwrap();
        for (bytes, fds) in [(0, 0), (PACKET_BYTES_MAX + 1, 0), (1, PACKET_FDS_MAX + 1)] {
            let error = send_packet(here.as_fd(), &vec![0; bytes], &vec![there.as_fd(); fds]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_packet_cut_short_is_an_error_and_leaks_no_descriptor() {
        let (here, there) = packet_pair(true).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_packet(here.as_fd(), &[7; 100], &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut fds = Vec::new();
        let error = until_there(|| receive_packet(there.as_fd(), &mut [0; 10], &mut fds)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(fds.is_empty());
        // The end shows that nobody holds the writer any more.
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn more_descriptors_than_there_is_room_for_is_an_error_and_leaks_none() {
        let (here, there) = packet_pair(true).unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        // What a stranger might send, past our own check.
        let fds = vec![writer.as_fd(); PACKET_FDS_MAX * 2];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX * 2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [IoSlice::new(b"many")];
        rustix::net::sendmsg(&here, &bytes, &mut control, platform::SEND_FLAGS).unwrap();
        drop(writer);
        let mut received = Vec::new();
        let error = until_there(|| receive_packet(there.as_fd(), &mut [0; 64], &mut received)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert!(received.is_empty());
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn the_end_of_a_lane_is_no_packet() {
        let (here, there) = packet_pair(true).unwrap();
        drop(here);
        assert_eq!(receive_packet(there.as_fd(), &mut [0; 64], &mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn a_send_takes_many_slices_and_stops_when_full() {
        let (here, there) = stream_pair(true).unwrap();
        assert_eq!(send(here.as_fd(), &[IoSlice::new(b"ab"), IoSlice::new(b"cd")]).unwrap(), 4);
        let mut bytes = [0; 16];
        assert_eq!(receive(there.as_fd(), &mut bytes).unwrap(), 4);
        assert_eq!(&bytes[..4], b"abcd");
        let block = vec![0; 1 << 16];
        let full = loop {
            if let Err(error) = send(here.as_fd(), &[IoSlice::new(&block)]) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(here.as_raw_fd() >= 0);
    }
}
