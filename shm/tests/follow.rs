//! A ring that a kernel lent and the next one follows: every byte once, whatever its producer and its readers do meanwhile.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kairo_shm::follow::Follow;
use kairo_shm::producer::{Lent, Parts, Producer, Room, field};
use kairo_shm::reader::Reader;
use kairo_shm::seat::Seat;
use kairo_shm::shared::{self, Next, Pace, SharedReader};
use kairo_shm::writer::Writer;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

const RING: usize = 8192;
const AT_ONCE: Duration = Duration::ZERO;

fn value(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn check(bytes: &[u8], from: u64) {
    let wrong = bytes.iter().zip(from..).position(|(byte, offset)| *byte != value(offset));
    assert_eq!(wrong, None, "of {} bytes from {from}", bytes.len());
}

/// A producer and the kernel it has.
struct Made {
    lent: Lent,
    producer: Producer,
    ring: OwnedFd,
    page: OwnedFd,
    bell: UnixStream,
}

fn make() -> Made {
    let mut made = make_open();
    made.lent.settle().unwrap();
    made
}

/// One whose ring can be written to still by whoever has it.
fn make_open() -> Made {
    let lent = Lent::create(RING).unwrap();
    let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let (ring, page) = (copy(lent.ring()), copy(lent.page()));
    let (bell, doorbell) = UnixStream::pair().unwrap();
    let parts = Parts { ring: copy(lent.ring()), page: copy(lent.page()), doorbell: doorbell.into() };
    let producer = Producer::open(parts).unwrap();
    Made { lent, producer, ring, page, bell }
}

/// Writes until there is no room. How much.
fn write_all(producer: &mut Producer, most: u64) -> u64 {
    let before = producer.taken();
    while producer.taken() - before < most {
        let (at, left) = (producer.taken(), most - (producer.taken() - before));
        let Room::Bytes(room) = producer.room(left.min(1_000) as usize, AT_ONCE) else { break };
        let bytes = room.len();
        room.iter_mut().zip(at..).for_each(|(byte, offset)| *byte = value(offset));
        producer.commit(bytes);
    }
    producer.taken() - before
}

/// What is copied goes into the ring.
fn copy(follow: &mut Follow, ring: &mut Writer, most: usize) -> usize {
    let bytes = ring.room_bytes(follow.look().unwrap().min(most));
    ring.expect(bytes);
    let copied = follow.copy(ring.room(bytes));
    ring.commit(copied);
    copied
}

#[test]
fn what_could_have_been_written_again_is_not_kept_and_the_rest_is() {
    // How far the producer goes on after its kernel's last look, and where a reader holds it up.
    for (more, pinned) in [(0, None), (100, None), (4_096, None), (4_096, Some(9_000)), (1_000, Some(12_000))]
    {
        let Made { mut lent, mut producer, ring, page, bell: _bell } = make();
        for _ in 0..3 {
            write_all(&mut producer, 4_096);
            lent.look().unwrap();
            lent.grant(pinned, false);
        }
        lent.pin(pinned.unwrap_or(0), u32::from(pinned.is_some()));
        let taken = lent.taken();
        let account = lent.account().descriptor().try_clone_to_owned().unwrap();
        // Its kernel is killed.
        drop(lent);
        write_all(&mut producer, more);
        let account = Reader::open(account.as_fd()).unwrap();
        let mut own = Writer::after_lent(ring.as_fd(), &account, 4_096).unwrap();
        assert_eq!((own.taken(), own.generation()), (taken, 1));
        assert_eq!(own.pinned(), (pinned.unwrap_or(0), u32::from(pinned.is_some())));
        assert!(pinned.is_none_or(|pinned| own.tail_from() <= pinned), "what is waited for is there");
        let from = own.tail_from();
        check(own.run(from, RING * 2).unwrap_or_default(), from);
        // And on, and once more.
        let mut follow = Follow::open(ring.as_fd(), page.try_clone().unwrap(), own.taken()).unwrap();
        for round in 0..200 {
            if round == 100 {
                drop(follow);
                let old = Reader::open(own.descriptor()).unwrap();
                own = Writer::succeed(&old, old.taken()).unwrap();
                follow = Follow::open(ring.as_fd(), page.try_clone().unwrap(), own.taken()).unwrap();
            }
            copy(&mut follow, &mut own, 1 + round * 37 % 3_000);
            follow.grant(true);
            let latest = own.taken().saturating_sub(3_000);
            check(own.run(latest, 3_000).unwrap(), latest);
            write_all(&mut producer, 1 + round as u64 * 53 % 5_000);
        }
        assert!(own.taken() > 100_000, "{}", own.taken());
        let total = producer.taken();
        drop(producer);
        while copy(&mut follow, &mut own, RING) > 0 {}
        assert!(follow.is_ended() && own.taken() == total);
    }
}

#[test]
fn where_there_is_no_room_nothing_is_granted() {
    let Made { lent, mut producer, ring, page, bell: _bell } = make();
    drop(lent);
    let mut follow = Follow::open(ring.as_fd(), page, 0).unwrap();
    let granted = write_all(&mut producer, 1 << 20);
    assert_eq!(granted, RING as u64 / 2);
    follow.look().unwrap();
    follow.grant(false);
    assert_eq!(write_all(&mut producer, 1 << 20), 0);
    let mut bytes = vec![0; RING];
    assert_eq!(follow.copy(&mut bytes), RING / 2);
    check(&bytes[..RING / 2], 0);
    follow.grant(false);
    assert_eq!(write_all(&mut producer, 1 << 20), 0);
    follow.grant(true);
    assert_eq!(write_all(&mut producer, 1 << 20), RING as u64 / 2);
}

#[test]
fn whatever_a_producer_writes_there_only_what_can_be_is_believed() {
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for nth in 0..500_u64 {
        let Made { lent, producer, ring, page, bell: _bell } = make_open();
        let account = lent.account().descriptor().try_clone_to_owned().unwrap();
        drop(lent);
        std::mem::forget(producer);
        let (ring_file, page_file) =
            (File::from(ring.try_clone().unwrap()), File::from(page.try_clone().unwrap()));
        let mut scribble = |file: &File| {
            for at in (0..4096).step_by(8) {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(nth);
                let word = random >> (random >> 58);
                file.write_all_at(&word.to_le_bytes(), at).unwrap();
            }
        };
        scribble(&ring_file);
        scribble(&page_file);
        let account = Reader::open(account.as_fd()).unwrap();
        let mut own = Writer::after_lent(ring.as_fd(), &account, 4_096).unwrap();
        let Ok(mut follow) = Follow::open(ring.as_fd(), page, own.taken()) else { continue };
        for _ in 0..4 {
            let Ok(wanted) = follow.look() else { break };
            assert!(wanted <= RING, "{wanted}");
            let bytes = own.room_bytes(wanted);
            let copied = follow.copy(own.room(bytes));
            own.commit(copied);
            follow.grant(true);
            scribble(&page_file);
        }
    }
    // A limit that was put lower is put right.
    let Made { lent, mut producer, ring, page, bell: _bell } = make();
    drop(lent);
    let page_file = File::from(page.try_clone().unwrap());
    let mut follow = Follow::open(ring.as_fd(), page, 0).unwrap();
    page_file.write_all_at(&[0; 8], field::LIMIT as u64).unwrap();
    assert_eq!(write_all(&mut producer, 1), 0);
    follow.grant(true);
    assert_eq!(write_all(&mut producer, 1), 1);
}

/// It is served no longer, and its producer goes on: what it reads is right until it finds that out, soon.
#[test]
fn a_reader_that_waits_believes_nothing_that_was_written_again_after_its_kernel() {
    for stands in [false, true] {
        let Made { mut lent, mut producer, ring, page, bell: _bell } = make();
        write_all(&mut producer, 3_000);
        lent.look().unwrap();
        let (seat, (ours, theirs)) = (Seat::create(0).unwrap(), UnixStream::pair().unwrap());
        let parts = shared::Parts {
            ring: lent.read_only().unwrap().unwrap(),
            seat: seat.descriptor().try_clone_to_owned().unwrap(),
            doorbell: theirs.into(),
        };
        let mut reader = SharedReader::open(parts, Pace::Waits).unwrap();
        drop((lent, ours));
        let mut follow = Follow::open(ring.as_fd(), page, 3_000).unwrap();
        let mut came = 0;
        let mut go_on = |rounds: usize| {
            for _ in 0..rounds {
                follow.look().unwrap();
                follow.copy(&mut vec![0; RING]);
                follow.grant(true);
                // Faster than it reads, or just so fast.
                write_all(&mut producer, if stands { 4_096 } else { 500 });
            }
        };
        if stands {
            // It had begun to read when it was overtaken.
            assert!(matches!(reader.next(1_000, AT_ONCE).unwrap(), Next::Run(0, _)));
            go_on(8);
            assert!(!reader.advance(1_000), "that may be anything");
        }
        loop {
            let len = match reader.next(500, Duration::from_secs(1)).unwrap() {
                Next::Run(offset, bytes) => {
                    check(bytes, offset);
                    bytes.len()
                }
                Next::Lost => break,
                Next::Nothing => continue,
                other => panic!("{other:?}"),
            };
            came += u64::from(reader.advance(len)) * len as u64;
            assert!(came < 3 * RING as u64, "there is always more, and it never looks");
            go_on(1);
        }
        assert_eq!(reader.offset(), came, "it goes on there");
        assert!(stands || came >= RING as u64 / 2);
    }
}
