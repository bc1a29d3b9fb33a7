//! The kernel is killed while several streams of one reactor flow at full speed; what the keeper holds afterwards
//! is all there is, and not a byte is lost or doubled.
//!
//! Each child writes a sequence in which every offset has one right byte. After the kill the test plays the next
//! kernel: it takes the ring, the staging pipe and the child's pipe from the keeper, computes from the offsets noted
//! there how far each had come, and reads on from there. Rounds: 3 a driver, or `KAIRO_COUNTING_ROUNDS`.

use crate::support::{Daemon, Driver, Options, sequence, until};
use kairo_dataplane::keeper::protocol::End;
use kairo_dataplane::keeper::successor::{Estate, HeldReactor, HeldSession};
use kairo_dataplane::stream::source::Account;
use kairo_dataplane::sys::pipe::queued;
use kairo_shm::page::{Page, Side};
use kairo_shm::reader::Reader;
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const STREAMS: usize = 4;
/// Read from each child's pipe after the kill, to see that it goes on where the ring ends.
const BEYOND_BYTES: usize = 1 << 20;

#[test]
fn after_a_kill_on_io_uring_every_byte_is_in_one_place() {
    rounds(Driver::Uring);
}

#[test]
fn after_a_kill_on_poll_every_byte_is_in_one_place() {
    rounds(Driver::Poll);
}

fn rounds(driver: Driver) {
    if !driver.is_available() {
        return println!("skipped, this system forbids io_uring: counting on {driver:?}");
    }
    let asked = std::env::var("KAIRO_COUNTING_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let mut in_the_middle = 0;
    let rounds = asked.unwrap_or(3);
    for round in 0..rounds {
        in_the_middle += round_of(driver, round);
    }
    println!("{rounds} rounds, {in_the_middle} kills in the middle of a take");
}

/// One kill. Returns whether it hit the middle of a take.
fn round_of(driver: Driver, round: usize) -> usize {
    let options = Options { arguments: &["--cores", "1"], ..Options::plain(driver) };
    let mut daemon = Daemon::start(&options);
    let path = daemon.folder().join("state/keeper.sock");
    let mut raw = daemon.connect_modern();
    for stream in 0..STREAMS {
        raw.spawn(&format!("flood-{stream}"), &sequence::argv("1000000000"), json!({}));
    }
    // Another amount every round, so that the kill hits another place of the take.
    let enough = (4 << 20) + (round as u64 * 7_919_333) % (16 << 20);
    until("every stream has flowed", || {
        let list = raw.ok("process.list", json!({}));
        let all = list["processes"].as_array().cloned().unwrap_or_default();
        all.len() == STREAMS
            && all.iter().all(|process| process["detail"]["streams"][0]["bytes"].as_u64() > Some(enough))
    });
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let estate = receive(&path);
    assert_eq!((estate.reactors.len(), estate.sessions.len()), (1, STREAMS));
    let middle = check_all(&estate);
    estate.shutdown(Duration::ZERO).expect("the keeper listens");
    let sessions: Vec<i32> = estate.sessions.iter().map(|session| session.pid).collect();
    let keeper = estate.keeper_pid;
    drop(estate);
    until("children and keeper are gone", || {
        sessions.iter().chain([&keeper]).all(|pid| crate::support::processes::name(*pid).is_none())
    });
    middle
}

fn receive(path: &std::path::Path) -> Estate {
    let mut estate = None;
    until("the keeper hands everything over", || {
        estate = Estate::receive(path, Duration::from_secs(5)).ok();
        estate.is_some()
    });
    estate.expect("until saw it")
}

fn check_all(estate: &Estate) -> usize {
    let reactor = &estate.reactors[0];
    let page = Page::open(reactor.page.try_clone().expect("a descriptor is free")).expect("it is a page");
    let staged = queued(reactor.staging_reader.as_fd()).expect("it is a pipe") as u64;
    let mut owners = 0;
    // The one the staging pipe belongs to first: it must be emptied before anybody else's is looked at.
    let (named, others): (Vec<_>, Vec<_>) =
        estate.sessions.iter().partition(|session| is_named(session, page.named(Side::Output)));
    for (session, named) in named.iter().map(|s| (s, true)).chain(others.iter().map(|s| (s, false))) {
        owners += usize::from(named);
        check_one(session, named, staged, reactor);
    }
    assert!(staged == 0 || owners == 1, "{staged} staged bytes belong to {owners} streams");
    usize::from(staged > 0)
}

fn is_named(session: &HeldSession, name: u64) -> bool {
    session.rings.iter().any(|ring| u64::from(ring.slot) << 32 | u64::from(ring.generation) == name)
}

fn check_one(session: &HeldSession, named: bool, staged: u64, reactor: &HeldReactor) {
    let ring = session.rings.iter().find(|ring| ring.end == End::Stdout).expect("its ring is held");
    let ring = Reader::open(ring.memory.as_fd()).expect("it is a ring");
    let account = Account::of(ring.taken(), ring.expected(), staged, named).expect("the numbers add up");
    let (head, total) = (ring.head_bytes(), account.in_ring_to);
    let mut bytes = Vec::new();
    assert!(ring.copy(0, head.min(total), &mut bytes), "the head is always there");
    sequence::check(&bytes, 0);
    // What may be half overwritten by the take that was cut off is not counted on.
    let from = ring.tail_from(ring.expected()).max(head);
    bytes.clear();
    assert!(ring.copy(from, total, &mut bytes), "the tail is there");
    sequence::check(&bytes, from);
    let mut beyond = read_exactly(&reactor.staging_reader, account.staged_bytes as usize);
    let (stdout, _) = session.ends[End::Stdout as usize].as_ref().expect("its stdout is held");
    beyond.extend(read_exactly(stdout, BEYOND_BYTES));
    sequence::check(&beyond, total);
}

fn read_exactly(fd: &OwnedFd, bytes: usize) -> Vec<u8> {
    let mut file = std::fs::File::from(fd.try_clone().expect("a descriptor is free"));
    let mut into = vec![0; bytes];
    let mut at = 0;
    until("the pipe has more", || {
        while at < bytes {
            match file.read(&mut into[at..]) {
                Ok(0) => panic!("the writer is gone"),
                Ok(n) => at += n,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
        true
    });
    into
}
