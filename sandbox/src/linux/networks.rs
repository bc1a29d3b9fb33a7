//! Network namespaces, made ahead of who goes into them: to make one takes longer than all the rest of a spawn, and whoever
//! clones stands still while a child makes its own.
//!
//! Invariant: one is given away once, with its loopback up and nothing else ever done in it; what nobody takes for a while
//! goes, and so does the thread that makes them.

use super::namespaces::{done, opened};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How many wait for somebody; one more is being made.
const SPARE: usize = 3;
/// How long they wait.
const KEPT: Duration = Duration::from_secs(3);
const STACK_BYTES: usize = 64 * 1024;

/// Those that are made.
#[derive(Debug, Default)]
pub(super) struct Networks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stock: Mutex<Stock>,
    taken: Condvar,
}

#[derive(Debug, Default)]
struct Stock {
    ready: Vec<OwnedFd>,
    /// There is a thread that makes more.
    maker: bool,
    /// None can be made here, so nobody tries again.
    barred: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Networks {
    /// One that nobody has been in; none if none is ready, and then some are soon.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        let mut stock = self.0.lock();
        if !stock.maker && !stock.barred {
            let shared = Arc::clone(&self.0);
            let maker = thread::Builder::new().name("networks".into()).stack_size(STACK_BYTES);
            stock.maker = maker.spawn(move || make(&shared)).is_ok();
        }
        let taken = stock.ready.pop();
        drop(stock);
        self.0.taken.notify_one();
        taken
    }
}

/// Makes them until nobody takes any. No signal comes here: a keeper has blocked them before, to read them off a descriptor.
fn make(shared: &Shared) {
    loop {
        let made = make_one();
        let mut stock = shared.lock();
        match made {
            Ok(network) => stock.ready.push(network),
            Err(_) => {
                (stock.maker, stock.barred) = (false, true);
                return;
            }
        }
        let is_full = |stock: &mut Stock| stock.ready.len() >= SPARE;
        let waited = shared.taken.wait_timeout_while(stock, KEPT, is_full);
        let (mut stock, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            stock.maker = false;
            let idle = std::mem::take(&mut stock.ready);
            drop(stock);
            drop(idle);
            return;
        }
    }
}

/// Makes one, which this thread is in until it makes the next.
fn make_one() -> io::Result<OwnedFd> {
    // SAFETY: an integer; it moves this thread alone, which does nothing else with networks; the one it was in stays who is in it.
    done(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) })
        .and_then(|_| raise_loopback())
        .map_err(io::Error::from_raw_os_error)?;
    File::open("/proc/thread-self/ns/net").map(OwnedFd::from)
}

/// `struct ifreq`, as far as flags of an interface go.
#[repr(C)]
struct InterfaceFlags {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// The loopback of a new network is there, and down.
pub(super) fn raise_loopback() -> Result<(), i32> {
    let mut wish =
        InterfaceFlags { name: [0; libc::IFNAMSIZ], flags: libc::IFF_UP as libc::c_short, rest: [0; 22] };
    wish.name[..2].copy_from_slice(b"lo");
    // SAFETY: the structure is as long as the kernel's, outlives the call and is this stack's alone.
    unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let socket = opened(libc::syscall(libc::SYS_socket, libc::AF_INET, kind, 0))?;
        done(libc::syscall(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, ptr::from_mut(&mut wish)))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;
    use std::time::Instant;

    #[test]
    fn each_is_given_once_and_what_nobody_takes_goes_with_its_maker() {
        if make_one_elsewhere().is_err() {
            println!("skipped, no network namespace can be made here");
            return;
        }
        let networks = Networks::default();
        let until = Instant::now() + Duration::from_secs(30);
        let (mut taken, mut seen) = (Vec::new(), BTreeSet::new());
        while taken.len() < 2 * SPARE {
            assert!(Instant::now() < until, "they are made");
            match networks.take() {
                Some(network) => taken.push(File::from(network)),
                None => thread::yield_now(),
            }
        }
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        seen.extend(taken.iter().map(|network| network.metadata().unwrap().ino()));
        assert_eq!(seen.len(), 2 * SPARE);
        assert!(!seen.contains(&own));
        let mut stock = networks.0.lock();
        while stock.maker {
            assert!(Instant::now() < until, "the maker ends");
            stock = networks.0.taken.wait_timeout(stock, Duration::from_millis(20)).unwrap().0;
        }
        assert!(stock.ready.is_empty());
    }

    fn make_one_elsewhere() -> io::Result<OwnedFd> {
        thread::spawn(make_one).join().unwrap()
    }
}
