//! What a ring promises to its writer and to readers in other mappings.

use kairo_shm::layout::{Geometry, RingError};
use kairo_shm::page::{Page, Side};
use kairo_shm::reader::Reader;
use kairo_shm::writer::Writer;
use std::os::fd::{AsFd, OwnedFd};

fn fill(ring: &mut Writer, bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let at = ring.taken();
        let room = ring.room(left);
        let n = room.len();
        for (i, byte) in room.iter_mut().enumerate() {
            *byte = value(at + i as u64);
        }
        ring.expect(n);
        ring.commit(n);
        left -= n;
    }
}

fn value(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn check(ring: &Writer, from: u64, to: u64) {
    let mut at = from;
    while at < to {
        let run = ring.run(at, (to - at) as usize).unwrap_or_else(|| panic!("offset {at} is not there"));
        for (i, byte) in run.iter().enumerate() {
            assert_eq!(*byte, value(at + i as u64), "at {}", at + i as u64);
        }
        at += run.len() as u64;
    }
}

#[test]
fn head_and_tail_are_kept_and_the_middle_is_gone() {
    let mut ring = Writer::create(Geometry::new(8192, 16384)).unwrap();
    fill(&mut ring, 100_000);
    check(&ring, 0, 8192);
    check(&ring, 100_000 - 16384, 100_000);
    assert!(ring.run(8192, 1).is_none());
    assert!(ring.run(100_000 - 16385, 1).is_none());
    assert!(ring.run(100_000, 1).is_none());
}

#[test]
fn a_run_across_the_seam_of_the_circle_is_contiguous() {
    let mut ring = Writer::create(Geometry::new(0, 4096)).unwrap();
    fill(&mut ring, 4096 + 1000);
    assert_eq!(ring.run(1000, 4096).unwrap().len(), 4096);
    check(&ring, 1000, 5096);
}

#[test]
fn a_larger_ring_holds_what_the_old_one_held() {
    let mut ring = Writer::create(Geometry::new(4096, 8192)).unwrap();
    fill(&mut ring, 50_000);
    let oldest = ring.tail_from();
    let mut larger = ring.resized(Geometry::new(8192, 65536)).unwrap();
    assert_eq!(larger.geometry().head_bytes, 4096, "a head doesn't grow over what is gone");
    assert_eq!(larger.generation(), 1);
    check(&larger, 0, 4096);
    check(&larger, oldest, 50_000);
    assert!(larger.run(oldest - 1, 1).is_none(), "it can't hold what was gone before");
    fill(&mut larger, 40_000);
    check(&larger, oldest, 90_000);
}

#[test]
fn a_ring_of_any_other_size_holds_its_beginning_and_its_latest() {
    let mut ring = Writer::create(Geometry::new(8192, 8192)).unwrap();
    fill(&mut ring, 12_000);
    let mut grown = ring.resized(Geometry::new(16_384, 4096)).unwrap();
    check(&grown, 0, 12_000);
    fill(&mut grown, 18_000);
    let smaller = grown.resized(Geometry::new(4096, 4096)).unwrap();
    check(&smaller, 0, 4096);
    check(&smaller, 30_000 - 4096, 30_000);
    for gone in [4096, 10_000, 30_000 - 4097] {
        assert!(smaller.run(gone, 1).is_none(), "{gone}");
    }
    assert_eq!(smaller.tail_from(), 30_000 - 4096);
}

#[test]
fn another_mapping_reads_what_was_written_and_never_a_torn_copy() {
    let mut ring = Writer::create(Geometry::new(4096, 8192)).unwrap();
    fill(&mut ring, 20_000);
    let reader = Reader::open(ring.descriptor()).unwrap();
    let mut copy = Vec::new();
    assert!(reader.copy(0, 4096, &mut copy));
    assert!(reader.copy(20_000 - 8192, 20_000, &mut copy));
    assert_eq!(copy.len(), 4096 + 8192);
    assert!(copy[..4096].iter().enumerate().all(|(i, b)| *b == value(i as u64)));
    assert!(!reader.copy(5000, 6000, &mut copy), "overwritten long ago");
    ring.expect(100);
    assert!(!reader.copy(20_000 - 8192, 20_000, &mut copy), "the writer may be just there");
    assert_eq!(copy.len(), 4096 + 8192, "a refused copy leaves nothing behind");
}

#[test]
fn nobody_can_map_a_sealed_ring_writable_or_change_its_size() {
    let ring = Writer::create(Geometry::new(0, 4096)).unwrap();
    assert!(rustix::fs::ftruncate(ring.descriptor(), 4096).is_err());
    assert!(rustix::fs::ftruncate(ring.descriptor(), 1 << 20).is_err());
    assert!(rustix::io::write(ring.descriptor(), b"x").is_err());
}

#[test]
fn what_is_not_a_ring_is_refused() {
    let unsealed = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&unsealed, 1 << 16).unwrap();
    assert!(matches!(Reader::open(unsealed.as_fd()), Err(RingError::Foreign(_))));
    rustix::fs::fcntl_add_seals(&unsealed, rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW)
        .unwrap();
    assert!(matches!(Reader::open(unsealed.as_fd()), Err(RingError::Foreign(_))));
}

#[test]
fn a_page_is_seen_by_who_was_given_its_descriptor() {
    let page = Page::create().unwrap();
    page.name(Side::Output, 77);
    let fd: OwnedFd = page.descriptor().try_clone_to_owned().unwrap();
    let seen = Page::open(fd).unwrap();
    assert_eq!((seen.named(Side::Output), seen.named(Side::Input)), (77, 0));
    page.name(Side::Output, 78);
    assert_eq!(seen.named(Side::Output), 78);
}

#[test]
fn a_successor_holds_what_the_dead_writer_held_and_goes_on() {
    let geometry = Geometry::new(4096, 16_384);
    let mut ring = Writer::create(geometry).unwrap();
    fill(&mut ring, 100_000);
    ring.pin(90_000, 2);
    // Killed in the middle of 5,000 more, of which 3,000 had come.
    ring.expect(5_000);
    let room = ring.room(5_000);
    for (i, byte) in room[..3_000].iter_mut().enumerate() {
        *byte = value(100_000 + i as u64);
    }
    let old = Reader::open(ring.descriptor()).unwrap();
    let mut next = Writer::succeed(&old, 103_000).unwrap();
    assert_eq!((next.taken(), next.generation()), (103_000, 1));
    assert_eq!(next.tail_from(), 105_000 - 16_384, "what the unfinished bytes may have hit is left behind");
    check(&next, 0, 4096);
    check(&next, next.tail_from(), 103_000);
    assert_eq!(Reader::open(next.descriptor()).unwrap().pinned(), (90_000, 2));
    fill(&mut next, 50_000);
    check(&next, next.tail_from(), 153_000);
}

#[test]
fn a_successor_of_a_ring_that_never_left_its_head_has_the_head() {
    let mut ring = Writer::create(Geometry::new(8192, 16_384)).unwrap();
    fill(&mut ring, 5_000);
    let mut next = Writer::succeed(&Reader::open(ring.descriptor()).unwrap(), 5_000).unwrap();
    fill(&mut next, 50_000);
    check(&next, 0, 8192);
    check(&next, next.tail_from(), 55_000);
}
