//! What a shared ring promises to a reader in another mapping, and what its owner survives.

use kairo_shm::layout::{End, Geometry};
use kairo_shm::seat::{Closed, Nonsense, Seat, field};
use kairo_shm::shared::{Next, Pace, Parts, SharedReader};
use kairo_shm::writer::Writer;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn value(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// xorshift64*: a seed is a history.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// The kernel's side of one reader.
struct Served {
    seat: Seat,
    bell: UnixStream,
}

fn serve(ring: &Writer, offset: u64, pace: Pace) -> (Served, SharedReader) {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .expect("as asked");
    let seat = Seat::create(offset).expect("as asked");
    let parts = Parts {
        ring: ring.read_only().expect("as asked"),
        seat: seat.descriptor().try_clone_to_owned().expect("as asked"),
        doorbell: theirs,
    };
    (Served { seat, bell: ours.into() }, SharedReader::open(parts, pace).expect("as asked"))
}

fn put(ring: &mut Writer, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let at = ring.taken();
        let n = ring.room_bytes(left);
        ring.expect(n);
        for (i, byte) in ring.room(n).iter_mut().enumerate() {
            *byte = value(at + i as u64);
        }
        ring.commit(n);
        left -= n;
    }
}

fn hand_over(bell: &UnixStream, ring: &Writer) {
    let fd = ring.read_only().expect("as asked");
    let fds = [fd.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    let word = ring.generation().to_le_bytes();
    rustix::net::sendmsg(bell, &[IoSlice::new(&word)], &mut ancillary, SendFlags::empty()).expect("as asked");
}

/// Reads all there is; returns how many bytes were right and what was missed.
fn drain(mut reader: SharedReader) -> (u64, u64) {
    let (mut right, mut missed) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "stuck at {}", reader.offset());
        let len = match reader.next(1 << 16, Duration::from_secs(1)).expect("as asked") {
            Next::Run(offset, bytes) => {
                let good = bytes.iter().enumerate().all(|(i, byte)| *byte == value(offset + i as u64));
                Some((bytes.len(), good))
            }
            Next::Gap(from, to) => {
                missed += to - from;
                None
            }
            Next::Nothing => None,
            Next::End(end, total) => {
                assert_eq!((end, right + missed), (End::Complete, total));
                return (right, missed);
            }
            other => panic!("{other:?}"),
        };
        if let Some((len, good)) = len
            && reader.advance(len)
        {
            assert!(good, "torn bytes were believed");
            right += len as u64;
        }
    }
}

#[test]
fn a_waiting_reader_gets_every_byte_and_sleeps_in_between() {
    let mut ring = Writer::create(Geometry::new(4096, 1 << 16)).expect("as asked");
    let (mut served, reader) = serve(&ring, 0, Pace::Waits);
    let thread = std::thread::spawn(move || drain(reader));
    let (total, deadline) = (8 << 20, Instant::now() + PATIENCE);
    let mut random = Random(7);
    served.bell.set_read_timeout(Some(PATIENCE)).expect("as asked");
    while ring.taken() < total {
        assert!(Instant::now() < deadline);
        let room = |cursor: u64, taken: u64| ((1 << 16) - (taken - cursor.max(4096).min(taken))) as usize;
        let mut cursor = served.seat.look(ring.taken()).expect("as asked");
        if room(cursor, ring.taken()) == 0 {
            ring.want(Some(ring.taken() - (1 << 15)));
            cursor = served.seat.look(ring.taken()).expect("as asked");
            if room(cursor, ring.taken()) == 0 {
                assert_eq!(
                    served.bell.read(&mut [0]).expect("as asked"),
                    1,
                    "it rings when it has come so far"
                );
            }
            ring.want(None);
            continue;
        }
        let bytes = 1 + random.next() as usize % room(cursor, ring.taken());
        let left = (total - ring.taken()) as usize;
        put(&mut ring, bytes.min(left));
        ring.tell();
        if served.seat.wants_waking() {
            ring.wake();
        }
    }
    ring.end(End::Complete);
    ring.wake();
    assert_eq!(thread.join().expect("as asked"), (total, 0));
}

#[test]
fn a_dropping_reader_never_believes_a_torn_byte_and_knows_what_it_missed() {
    let mut ring = Writer::create(Geometry::new(0, 1 << 14)).expect("as asked");
    let readers: Vec<_> = (0..3).map(|_| serve(&ring, 0, Pace::Drops)).collect();
    let threads: Vec<_> = readers
        .into_iter()
        .map(|(served, reader)| (served, std::thread::spawn(move || drain(reader))))
        .collect();
    let mut random = Random(99);
    for _ in 0..4_000 {
        put(&mut ring, 1 + random.next() as usize % 9_000);
        ring.tell();
        ring.wake();
    }
    let total = ring.taken();
    ring.end(End::Complete);
    ring.wake();
    for (_served, thread) in threads {
        let (right, missed) = thread.join().expect("as asked");
        assert_eq!(right + missed, total);
    }
}

#[test]
fn a_reader_moves_to_the_new_ring_after_the_last_byte_of_the_old() {
    let mut ring = Writer::create(Geometry::new(4096, 1 << 14)).expect("as asked");
    let (served, reader) = serve(&ring, 0, Pace::Waits);
    put(&mut ring, 10_000);
    let thread = std::thread::spawn(move || drain(reader));
    for step in 1..=5 {
        ring = ring.resized(Geometry::new(4096, (1 << 14) + step * 4096)).expect("as asked");
        hand_over(&served.bell, &ring);
        let mut served_to = 0;
        put(&mut ring, 3_000);
        ring.tell();
        ring.wake();
        while served_to < ring.taken() && !thread.is_finished() {
            served_to = cursor_of(&served);
            std::thread::yield_now();
        }
    }
    ring.end(End::Complete);
    ring.wake();
    assert_eq!(thread.join().expect("as asked"), (25_000, 0));
}

fn cursor_of(served: &Served) -> u64 {
    page_word(&served.seat, field::CURSOR)
}

fn page_word(seat: &Seat, at: usize) -> u64 {
    let mut word = [0; 8];
    rustix::io::pread(seat.descriptor(), &mut word, at as u64).expect("as asked");
    u64::from_le_bytes(word)
}

fn scribble(seat: &Seat, at: usize, word: u64) {
    rustix::io::pwrite(seat.descriptor(), &word.to_le_bytes(), at as u64).expect("as asked");
}

#[test]
fn whatever_a_reader_writes_the_owner_believes_only_what_can_be() {
    let mut random = Random(3);
    for _ in 0..2_000 {
        let (taken, at) = (random.next() % 1_000_000, random.next() % 1_000_000);
        let Ok(mut seat) = Seat::create(at.min(taken)) else { panic!("no seat") };
        let mut believed = at.min(taken);
        for _ in 0..16 {
            let cursor = match random.next() % 4 {
                0 => random.next(),
                1 => taken + random.next() % 3,
                2 => believed.saturating_sub(random.next() % 3),
                _ => believed + random.next() % 1_000,
            };
            scribble(&seat, field::CURSOR, cursor);
            match seat.look(taken) {
                Ok(seen) => {
                    assert!(seen == cursor && believed <= seen && seen <= taken);
                    believed = seen;
                }
                Err(Nonsense) => assert!(cursor < believed || cursor > taken),
            }
        }
        // A page of noise, as a whole.
        for at in (0..4096).step_by(8) {
            scribble(&seat, at, random.next());
        }
        let _ = (seat.look(taken), seat.wants_waking());
        seat.close(Closed::Nonsense);
    }
}

#[test]
fn a_page_can_be_neither_cut_nor_grown_nor_a_ring_written_to() {
    let ring = Writer::create(Geometry::new(0, 8192)).expect("as asked");
    let (served, _reader) = serve(&ring, 0, Pace::Waits);
    let page = served.seat.descriptor();
    assert!(rustix::fs::ftruncate(page, 0).is_err());
    assert!(rustix::fs::ftruncate(page, 1 << 20).is_err());
    assert!(rustix::fs::fcntl_add_seals(page, rustix::fs::SealFlags::WRITE).is_err());
    let shared: OwnedFd = ring.read_only().expect("as asked");
    assert!(rustix::io::write(&shared, b"x").is_err());
    assert!(rustix::fs::ftruncate(&shared, 0).is_err());
    // Opened for writing again, as one of the same user can: still sealed.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&shared));
    if let Ok(again) = std::fs::OpenOptions::new().read(true).write(true).open(path) {
        assert!(rustix::io::write(&again, b"x").is_err());
        assert!(rustix::fs::ftruncate(&again, 0).is_err());
        let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert!(rustix::fs::fallocate(&again, punch, 0, 4096).is_err());
    }
}

#[test]
fn what_is_no_ring_or_no_page_is_refused() {
    let ring = Writer::create(Geometry::new(0, 8192)).expect("as asked");
    let seat = Seat::create(0).expect("as asked");
    let (_ours, theirs) = UnixStream::pair().expect("as asked");
    let page = || seat.descriptor().try_clone_to_owned().expect("as asked");
    let swapped = Parts {
        ring: page(),
        seat: ring.read_only().expect("as asked"),
        doorbell: theirs.try_clone().unwrap().into(),
    };
    assert!(SharedReader::open(swapped, Pace::Waits).is_err());
    let twice = Parts {
        ring: ring.read_only().expect("as asked"),
        seat: ring.read_only().unwrap(),
        doorbell: theirs.into(),
    };
    assert!(SharedReader::open(twice, Pace::Waits).is_err());
}

#[test]
fn a_reader_hears_that_it_is_closed_and_that_its_kernel_is_gone() {
    let mut ring = Writer::create(Geometry::new(0, 8192)).expect("as asked");
    put(&mut ring, 100);
    let (mut served, mut reader) = serve(&ring, 40, Pace::Waits);
    assert!(
        matches!(reader.next(99, PATIENCE).expect("as asked"), Next::Run(40, bytes) if bytes.len() == 60)
    );
    assert!(reader.advance(60));
    assert_eq!(reader.next(99, Duration::ZERO).expect("as asked"), Next::Nothing);
    served.seat.close(Closed::Ended);
    ring.tell();
    ring.wake();
    assert_eq!(reader.next(99, PATIENCE).expect("as asked"), Next::Closed(Closed::Ended));
    let (served, mut reader) = serve(&ring, 100, Pace::Waits);
    drop(served);
    assert_eq!(reader.next(99, PATIENCE).expect("as asked"), Next::Lost);
}

#[test]
fn the_ring_of_an_ended_stream_has_what_is_left_of_it() {
    let head: Vec<u8> = (0..8192).map(value).collect();
    let tail: Vec<u8> = (99_000..100_000).map(value).collect();
    let ring = Writer::of_ended(&head, &tail, 100_000).expect("as asked");
    let (_served, reader) = serve(&ring, 0, Pace::Waits);
    assert_eq!(drain(reader), (9_192, 99_000 - 8192));
    let ring = Writer::of_ended(&head[..100], &[], 100).expect("as asked");
    let (_served, reader) = serve(&ring, 0, Pace::Drops);
    assert_eq!(drain(reader), (100, 0));
    let ring = Writer::of_ended(&[], &[], 100_000).expect("as asked");
    let (_served, reader) = serve(&ring, 0, Pace::Waits);
    assert_eq!(drain(reader), (0, 100_000));
}
