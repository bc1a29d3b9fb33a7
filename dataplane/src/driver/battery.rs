//! One battery of tests for every driver over real descriptors: what a reactor relies on, said once and tried on
//! each. The simulated driver has its own, over its own world; [`super::sim`].

use super::Driver;
use super::handle::Handle;
use super::op::{Answer, Completion, Interest, Lent, Op};
use super::sim::Sim;
use super::sim::world::{Remote, World, owner};
use super::token::Token;
use crate::control::Lineage;
use crate::sys::{pipe, socket};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// The other end of a connection, wherever it is.
pub(super) trait Far {
    /// All of them; there must be room.
    fn write_all(&mut self, bytes: &[u8]);
    /// As many as asked for; they must come.
    fn read_exact(&mut self, count: usize) -> Vec<u8>;
    /// What is there.
    fn read_available(&mut self) -> Vec<u8>;
    fn close_write(&mut self);
    /// True if nothing can be read any more.
    fn is_at_end(&mut self) -> bool;
}

impl Far for UnixStream {
    fn write_all(&mut self, bytes: &[u8]) {
        Write::write_all(self, bytes).unwrap();
    }
    fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        Read::read_exact(self, &mut bytes).unwrap();
        bytes
    }
    fn read_available(&mut self) -> Vec<u8> {
        self.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        let end = self.read_to_end(&mut bytes);
        assert!(end.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        self.set_nonblocking(false).unwrap();
        bytes
    }
    fn close_write(&mut self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }
    fn is_at_end(&mut self) -> bool {
        Read::read(self, &mut [0; 8]).unwrap() == 0
    }
}

impl Far for Remote {
    fn write_all(&mut self, bytes: &[u8]) {
        assert_eq!(self.write(bytes), Some(bytes.len()));
    }
    fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.read(count).unwrap();
        assert_eq!(bytes.len(), count);
        bytes
    }
    fn read_available(&mut self) -> Vec<u8> {
        self.read(usize::MAX).unwrap()
    }
    fn close_write(&mut self) {
        Remote::close_write(self);
    }
    fn is_at_end(&mut self) -> bool {
        self.read(8).is_none()
    }
}

/// What makes a connection: our end and the other.
type Connect<D> = Box<dyn FnMut(&mut D) -> (<D as Driver>::Fd, Box<dyn Far>)>;

/// A driver, and what a test needs around it.
pub(super) struct Bench<D: Driver> {
    driver: D,
    next: u32,
    connect: Connect<D>,
    /// Pipes that nobody writes to.
    crowd: Vec<(D::Fd, D::Fd)>,
}

impl<D: Driver<Fd = Handle>> Bench<D> {
    /// Over real descriptors.
    pub(super) fn real(driver: D) -> Bench<D> {
        let connect = |driver: &mut D| {
            let (here, there) = socket::stream_pair(true).unwrap();
            let there = UnixStream::from(there);
            there.set_nonblocking(false).unwrap();
            there.set_read_timeout(Some(PATIENCE)).unwrap();
            (driver.import(here), Box::new(there) as Box<dyn Far>)
        };
        Bench { driver, next: 0, connect: Box::new(connect), crowd: Vec::new() }
    }
}

impl Bench<Sim> {
    /// In a fake world that goes well.
    pub(super) fn simulated() -> Bench<Sim> {
        let world = World::kind(1);
        let driver = Sim::new(&world);
        let connect = move |_: &mut Sim| {
            let (here, there) = world.connect(owner(1));
            (here, Box::new(there) as Box<dyn Far>)
        };
        Bench { driver, next: 0, connect: Box::new(connect), crowd: Vec::new() }
    }
}

impl<D: Driver> Bench<D> {
    /// Many wait for what never comes.
    fn crowded(mut self) -> Bench<D> {
        for _ in 0..100 {
            let pipe = self.pipe();
            self.poll(&pipe.0, Interest::Read);
            self.crowd.push(pipe);
        }
        self
    }

    fn submit(&mut self, op: Op<D::Fd>) -> Token {
        self.next += 1;
        let token = Token::new(1, self.next, 7);
        self.driver.submit(token, op);
        token
    }

    fn poll(&mut self, handle: &D::Fd, interest: Interest) -> Token {
        self.submit(Op::Poll(handle.clone(), interest))
    }

    /// Waits for answers, as many as asked for.
    fn answers(&mut self, count: usize) -> Vec<Completion<D::Fd>> {
        let deadline = Instant::now() + PATIENCE;
        let mut answers = Vec::new();
        while answers.len() < count {
            assert!(Instant::now() < deadline, "only {answers:?} of {count}");
            let in_a_second = self.driver.now().monotonic_ns + 1_000_000_000;
            self.driver.wait(Some(in_a_second), &mut answers).unwrap();
        }
        assert_eq!(answers.len(), count, "{answers:?}");
        answers
    }

    /// The one answer there is.
    fn answer(&mut self, to: Token) -> Answer<D::Fd> {
        let completion = self.answers(1).remove(0);
        assert_eq!(completion.token, to);
        completion.answer
    }

    fn is_ready(&mut self, to: Token) {
        let answer = self.answer(to);
        assert!(matches!(answer, Answer::Ready), "{answer:?}");
    }

    /// Collects for a little while: nothing may come.
    fn stays_quiet(&mut self) {
        let mut answers = Vec::new();
        let until = self.driver.now().monotonic_ns + 20_000_000;
        while self.driver.now().monotonic_ns < until {
            self.driver.wait(Some(until), &mut answers).unwrap();
            assert!(answers.is_empty(), "{answers:?}");
        }
    }

    fn text(&mut self, lent: Lent) -> Vec<u8> {
        let bytes = self.driver.lent(&lent).to_vec();
        assert_eq!(bytes.len(), lent.len());
        self.driver.give_back(lent);
        bytes
    }

    fn pipe(&mut self) -> (D::Fd, D::Fd) {
        let (reader, writer, _) = self.driver.pipe(65_536).unwrap();
        (reader, writer)
    }

    fn sockets(&mut self) -> (D::Fd, Box<dyn Far>) {
        (self.connect)(&mut self.driver)
    }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

pub(super) fn a_pipe_is_readable_when_written_and_not_before<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&reader, Interest::Read);
    bench.stays_quiet();
    assert_eq!(bench.driver.write(&writer, b"hello").unwrap(), 5);
    bench.is_ready(read);
    assert_eq!(bench.driver.queued(&reader).unwrap(), 5);
    let mut bytes = [0; 16];
    assert_eq!(bench.driver.read(&reader, &mut bytes).unwrap(), 5);
    assert_eq!(errno(bench.driver.read(&reader, &mut bytes)), libc::EAGAIN);
    // The same descriptor again: what is armed from before must do, and must not answer by itself.
    for round in 0..3u8 {
        let read = bench.poll(&reader, Interest::Read);
        bench.stays_quiet();
        bench.driver.write(&writer, &[round]).unwrap();
        bench.is_ready(read);
        assert_eq!(bench.driver.read(&reader, &mut bytes).unwrap(), 1);
    }
}

pub(super) fn unread_bytes_are_not_reported_to_nobody<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&reader, Interest::Read);
    bench.driver.write(&writer, b"x").unwrap();
    bench.is_ready(read);
    bench.driver.write(&writer, b"y").unwrap();
    bench.stays_quiet();
    // And the next to ask learns of it at once.
    let read = bench.poll(&reader, Interest::Read);
    bench.is_ready(read);
}

pub(super) fn what_comes_while_one_lingers_is_found_and_nothing_is_waited_for_twice<D: Driver>(
    mut bench: Bench<D>,
) {
    let (one, into_one) = bench.pipe();
    let (other, into_other) = bench.pipe();
    let mut tokens = [bench.poll(&one, Interest::Read), bench.poll(&other, Interest::Read)];
    bench.driver.linger(100_000);
    bench.stays_quiet();
    for writer in [&into_one, &into_other] {
        bench.driver.write(writer, b"x").unwrap();
    }
    bench.driver.linger(100_000);
    let mut answers: Vec<Token> = bench.answers(2).into_iter().map(|answer| answer.token).collect();
    answers.sort_by_key(|token| token.bits());
    tokens.sort_by_key(|token| token.bits());
    assert_eq!(answers, tokens);
    // Without a deadline, and with nothing there when the moment is over.
    let mut bytes = [0; 8];
    assert_eq!(bench.driver.read(&one, &mut bytes).unwrap(), 1);
    let read = bench.poll(&one, Interest::Read);
    bench.driver.linger(100_000);
    bench.driver.write(&into_one, b"y").unwrap();
    let mut answers = Vec::new();
    bench.driver.wait(None, &mut answers).unwrap();
    assert_eq!(answers.iter().map(|answer| answer.token).collect::<Vec<_>>(), [read]);
}

pub(super) fn the_end_of_a_pipe_is_readiness_and_then_nothing<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&reader, Interest::Read);
    bench.driver.write(&writer, b"tail").unwrap();
    drop(writer);
    bench.is_ready(read);
    let mut bytes = [0; 16];
    assert_eq!(bench.driver.read(&reader, &mut bytes).unwrap(), 4);
    assert_eq!(bench.driver.read(&reader, &mut bytes).unwrap(), 0);
    bench.stays_quiet();
}

pub(super) fn a_full_pipe_is_writable_when_drained_or_without_readers<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let block = vec![1; 1 << 20];
    let mut filled = 0;
    let full = loop {
        match bench.driver.write(&writer, &block) {
            Ok(written) => filled += written,
            Err(error) => break error,
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::EAGAIN));
    assert_eq!(bench.driver.queued(&reader).unwrap(), filled);
    let write = bench.poll(&writer, Interest::Write);
    bench.stays_quiet();
    let mut bytes = vec![0; filled];
    assert_eq!(bench.driver.read(&reader, &mut bytes).unwrap(), filled);
    bench.is_ready(write);
    while bench.driver.write(&writer, &block).is_ok() {}
    let write = bench.poll(&writer, Interest::Write);
    drop(reader);
    bench.is_ready(write);
    assert_eq!(errno(bench.driver.write(&writer, b"x")), libc::EPIPE);
}

pub(super) fn a_terminals_tail_is_read_and_then_it_is_eio<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags | rustix::pty::OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave_flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let slave = rustix::fs::open(name, slave_flags, rustix::fs::Mode::empty()).unwrap();
    pipe::set_nonblocking(&master).unwrap();
    let master = bench.driver.import(master);
    bench.driver.resize(&master, 25, 81).unwrap();
    let size = rustix::termios::tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_row, size.ws_col), (25, 81));
    assert_eq!(bench.driver.eof_character(&master).unwrap(), 4);

    let read = bench.poll(&master, Interest::Read);
    bench.stays_quiet();
    rustix::io::write(&slave, b"tail").unwrap();
    bench.is_ready(read);
    drop(slave);
    let read = bench.poll(&master, Interest::Read);
    bench.is_ready(read);
    let (staging_reader, staging_writer) = bench.pipe();
    match bench.driver.splice(&master, &staging_writer, 65_536) {
        Ok(moved) => assert_eq!((moved, bench.driver.queued(&staging_reader).unwrap()), (4, 4)),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            assert_eq!(bench.driver.read(&master, &mut [0; 16]).unwrap(), 4);
        }
    }
    assert_eq!(errno(bench.driver.read(&master, &mut [0; 16])), libc::EIO);
    let hangup = bench.poll(&master, Interest::Hangup);
    bench.is_ready(hangup);
}

pub(super) fn a_hang_up_is_told_only_when_the_peer_is_wholly_gone<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    let hangup = bench.poll(&connection, Interest::Hangup);
    peer.write_all(b"bytes are no hang-up");
    bench.stays_quiet();
    peer.close_write();
    bench.stays_quiet();
    // It still reads.
    assert_eq!(bench.driver.send(&connection, &[IoSlice::new(b"reply")]).unwrap(), 5);
    assert_eq!(peer.read_exact(5), b"reply");
    bench.stays_quiet();
    drop(peer);
    bench.is_ready(hangup);
    bench.stays_quiet();
    let again = bench.poll(&connection, Interest::Hangup);
    bench.is_ready(again);
}

pub(super) fn a_hang_up_asked_for_on_a_half_closed_peer_waits<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    peer.close_write();
    let receive = bench.submit(Op::Receive(connection.clone()));
    assert!(matches!(bench.answer(receive), Answer::Eof));
    let hangup = bench.poll(&connection, Interest::Hangup);
    let write = bench.poll(&connection, Interest::Write);
    bench.is_ready(write);
    bench.stays_quiet();
    drop(peer);
    bench.is_ready(hangup);
}

pub(super) fn a_cancelled_hang_up_is_answered_once<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    peer.close_write();
    let hangup = bench.poll(&connection, Interest::Hangup);
    bench.stays_quiet();
    bench.driver.cancel(hangup);
    assert!(matches!(bench.answer(hangup), Answer::Failed(libc::ECANCELED)));
    bench.stays_quiet();
}

pub(super) fn a_message_is_received_into_a_lent_buffer<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    for message in [&b"first"[..], b"second", b"x"] {
        let receive = bench.submit(Op::Receive(connection.clone()));
        bench.stays_quiet();
        peer.write_all(message);
        match bench.answer(receive) {
            Answer::Received(lent) => assert_eq!(bench.text(lent), message),
            other => panic!("{other:?}"),
        }
    }
    let receive = bench.submit(Op::Receive(connection.clone()));
    peer.close_write();
    assert!(matches!(bench.answer(receive), Answer::Eof));
}

pub(super) fn a_flood_arrives_whole_and_in_order<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let (here, there) = socket::stream_pair(true).unwrap();
    let (connection, mut peer) = (bench.driver.import(here), UnixStream::from(there));
    peer.set_nonblocking(false).unwrap();
    let total = 8 << 20;
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..total).map(|at: usize| (at / 7) as u8).collect();
        Far::write_all(&mut peer, &bytes);
    });
    let mut at = 0;
    let mut receive = bench.submit(Op::Receive(connection.clone()));
    loop {
        match bench.answer(receive) {
            Answer::Received(lent) => {
                for byte in bench.text(lent) {
                    assert_eq!(byte, (at / 7) as u8, "at {at}");
                    at += 1;
                }
                receive = bench.submit(Op::Receive(connection.clone()));
            }
            Answer::Eof => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(at, total);
    sender.join().unwrap();
}

pub(super) fn one_descriptor_serves_many_operations_at_once<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    let block = vec![1; 1 << 16];
    while bench.driver.send(&connection, &[IoSlice::new(&block)]).is_ok() {}
    let write = bench.poll(&connection, Interest::Write);
    let receive = bench.submit(Op::Receive(connection.clone()));
    let hangup = bench.poll(&connection, Interest::Hangup);
    bench.stays_quiet();
    peer.write_all(b"request");
    match bench.answer(receive) {
        Answer::Received(lent) => assert_eq!(bench.text(lent), b"request"),
        other => panic!("{other:?}"),
    }
    bench.stays_quiet();
    assert!(!peer.read_available().is_empty());
    bench.is_ready(write);
    drop(peer);
    bench.is_ready(hangup);
}

pub(super) fn a_cancelled_operation_is_answered_once_and_others_live_on<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let (connection, mut peer) = bench.sockets();
    let kept = bench.poll(&reader, Interest::Read);
    let cancelled = bench.poll(&reader, Interest::Read);
    let receive = bench.submit(Op::Receive(connection.clone()));
    bench.stays_quiet();
    bench.driver.cancel(cancelled);
    assert!(matches!(bench.answer(cancelled), Answer::Failed(libc::ECANCELED)));
    bench.driver.cancel(receive);
    assert!(matches!(bench.answer(receive), Answer::Failed(libc::ECANCELED)));
    // Twice, and of nobody: nothing comes.
    bench.driver.cancel(receive);
    bench.driver.cancel(Token::new(9, 9, 9));
    bench.stays_quiet();
    // What arrives after a cancel is there for the next to ask.
    peer.write_all(b"late");
    bench.stays_quiet();
    let receive = bench.submit(Op::Receive(connection));
    match bench.answer(receive) {
        Answer::Received(lent) => assert_eq!(bench.text(lent), b"late"),
        other => panic!("{other:?}"),
    }
    bench.driver.write(&writer, b"x").unwrap();
    bench.is_ready(kept);
}

pub(super) fn a_cancel_that_races_its_answer_loses_no_byte<D: Driver>(mut bench: Bench<D>) {
    let (connection, mut peer) = bench.sockets();
    let mut received = Vec::new();
    for round in 0..500u32 {
        let receive = bench.submit(Op::Receive(connection.clone()));
        let mut early = Vec::new();
        if round % 3 != 0 {
            bench.driver.wait(Some(0), &mut early).unwrap();
        }
        peer.write_all(&round.to_le_bytes());
        bench.driver.cancel(receive);
        let answer = match early.pop() {
            Some(completion) => completion.answer,
            None => bench.answer(receive),
        };
        match answer {
            Answer::Received(lent) => received.extend(bench.text(lent)),
            Answer::Failed(errno) => assert_eq!(errno, libc::ECANCELED),
            other => panic!("{other:?}"),
        }
    }
    drop(peer);
    loop {
        let receive = bench.submit(Op::Receive(connection.clone()));
        match bench.answer(receive) {
            Answer::Received(lent) => received.extend(bench.text(lent)),
            Answer::Eof => break,
            other => panic!("{other:?}"),
        }
    }
    let expected: Vec<u8> = (0..500u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(received, expected);
}

pub(super) fn an_operation_keeps_its_descriptor_open<D: Driver>(mut bench: Bench<D>) {
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&reader, Interest::Read);
    drop(reader);
    bench.driver.write(&writer, b"somebody is there").unwrap();
    bench.is_ready(read);
    // Answered, the last clone is gone.
    assert_eq!(errno(bench.driver.write(&writer, b"x")), libc::EPIPE);
}

pub(super) fn a_duplicate_held_elsewhere_never_answers_for_a_closed_descriptor<D: Driver<Fd = Handle>>(
    mut bench: Bench<D>,
) {
    for _ in 0..50 {
        let (reader, writer) = bench.pipe();
        // As the keeper does.
        let elsewhere = reader.as_fd().try_clone_to_owned().unwrap();
        let number = reader.as_raw_fd();
        let read = bench.poll(&reader, Interest::Read);
        bench.driver.write(&writer, b"x").unwrap();
        bench.is_ready(read);
        drop(reader);
        bench.driver.write(&writer, b"y").unwrap();
        // Its number lives on with another file, whose readiness is its own.
        let (other, _other_writer) = bench.pipe();
        let read = bench.poll(&other, Interest::Read);
        let mut answers = Vec::new();
        bench.driver.wait(Some(0), &mut answers).unwrap();
        assert!(answers.is_empty(), "{number} and {}: {answers:?}", other.as_raw_fd());
        bench.driver.cancel(read);
        bench.answer(read);
        drop(elsewhere);
    }
    bench.stays_quiet();
}

pub(super) fn a_regular_file_is_always_ready<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let file = bench.driver.import(OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap()));
    for interest in [Interest::Read, Interest::Write] {
        let token = bench.poll(&file, interest);
        bench.is_ready(token);
    }
}

pub(super) fn a_thousand_descriptors_are_each_answered<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let before = open_descriptors();
    let mut pipes: Vec<(Handle, Handle)> = Vec::new();
    for _ in 0..1000 {
        // The default size: a thousand large ones are more than a user may have.
        let made = pipe::pipe(0, pipe::NonBlocking::Both).unwrap();
        pipes.push((Handle::from(made.reader), Handle::from(made.writer)));
    }
    for round in 0..3 {
        let mut asked = std::collections::HashSet::new();
        for (reader, _) in &pipes {
            asked.insert(bench.poll(reader, Interest::Read));
        }
        if round == 1 {
            bench.stays_quiet();
        }
        for (_, writer) in &pipes {
            bench.driver.write(writer, b"x").unwrap();
        }
        for completion in bench.answers(1000) {
            assert!(matches!(completion.answer, Answer::Ready));
            assert!(asked.remove(&completion.token));
        }
        for (reader, _) in &pipes {
            assert_eq!(bench.driver.read(reader, &mut [0; 8]).unwrap(), 1);
        }
    }
    drop(pipes);
    bench.stays_quiet();
    assert!(open_descriptors() <= before, "{} of {before}", open_descriptors());
}

pub(super) fn more_receives_than_buffers_all_come_in_the_end<D: Driver>(mut bench: Bench<D>) {
    let mut connections = Vec::new();
    for number in 0..200u32 {
        let (connection, mut peer) = bench.sockets();
        peer.write_all(&number.to_le_bytes());
        let token = bench.submit(Op::Receive(connection.clone()));
        connections.push((token, connection, peer));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut seen = 0;
    let mut held = Vec::new();
    while seen < connections.len() {
        assert!(Instant::now() < deadline, "{seen} came");
        let mut answers = Vec::new();
        let soon = bench.driver.now().monotonic_ns + 10_000_000;
        bench.driver.wait(Some(soon), &mut answers).unwrap();
        for completion in answers {
            let Answer::Received(lent) = completion.answer else { panic!("{completion:?}") };
            let number = connections.iter().position(|(token, ..)| *token == completion.token).unwrap();
            assert_eq!(bench.driver.lent(&lent), u32::try_from(number).unwrap().to_le_bytes());
            seen += 1;
            held.push(lent);
        }
        // Given back late and all at once: those who found none must still get theirs.
        for lent in held.drain(..) {
            bench.driver.give_back(lent);
        }
    }
}

pub(super) fn a_receive_that_waits_for_a_buffer_can_be_cancelled<D: Driver>(mut bench: Bench<D>) {
    let mut connections = Vec::new();
    for _ in 0..100 {
        let (connection, mut peer) = bench.sockets();
        peer.write_all(b"x");
        let token = bench.submit(Op::Receive(connection.clone()));
        connections.push((token, connection, peer));
    }
    let mut answers = Vec::new();
    let soon = bench.driver.now().monotonic_ns + 50_000_000;
    bench.driver.wait(Some(soon), &mut answers).unwrap();
    for (token, ..) in &connections {
        bench.driver.cancel(*token);
    }
    let missing = connections.len() - answers.len();
    answers.extend(bench.answers(missing));
    for completion in answers {
        match completion.answer {
            Answer::Received(lent) => bench.driver.give_back(lent),
            Answer::Failed(errno) => assert_eq!(errno, libc::ECANCELED),
            other => panic!("{other:?}"),
        }
    }
    bench.stays_quiet();
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kairo-battery-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn a_storm_of_connects_is_accepted_whole<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let folder = Folder::new();
    let path = folder.0.join("s");
    let listener = bench.driver.import(socket::bind(&path, 0o600).unwrap());
    let accept = bench.submit(Op::Accept(listener.clone()));
    bench.stays_quiet();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || {
                (0..100).map(|_| socket::connect(&path).unwrap()).collect::<Vec<OwnedFd>>()
            })
        })
        .collect();
    let mut accepted = Vec::new();
    let mut token = accept;
    while accepted.len() < 400 {
        match bench.answer(token) {
            Answer::Accepted(connection) => {
                let status = rustix::fs::fcntl_getfl(&connection).unwrap();
                assert!(status.contains(rustix::fs::OFlags::NONBLOCK));
                let flags = rustix::io::fcntl_getfd(&connection).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                accepted.push(connection);
            }
            other => panic!("{other:?}"),
        }
        token = bench.submit(Op::Accept(listener.clone()));
    }
    bench.stays_quiet();
    bench.driver.cancel(token);
    assert!(matches!(bench.answer(token), Answer::Failed(libc::ECANCELED)));
    for caller in callers {
        caller.join().unwrap();
    }
    let peer = bench.driver.peer(&accepted[0], 0).unwrap();
    assert_eq!(peer.pid, std::process::id().cast_signed());
    assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
    assert_eq!(peer.lineage, Lineage::Outside);
}

pub(super) fn packets_bring_descriptors_that_work<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let (here, there) = socket::packet_pair(true).unwrap();
    let (here, there) = (bench.driver.import(here), bench.driver.import(there));
    let (mut bytes, mut fds) = (b"stale".to_vec(), Vec::new());
    assert_eq!(errno(bench.driver.receive_packet(&there, &mut bytes, &mut fds)), libc::EAGAIN);
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&there, Interest::Read);
    bench.stays_quiet();
    bench.driver.send_packet(&here, b"a pipe's end", &[writer]).unwrap();
    bench.is_ready(read);
    let len = bench.driver.receive_packet(&there, &mut bytes, &mut fds).unwrap();
    assert_eq!((&bytes[..], len, fds.len()), (&b"a pipe's end"[..], 12, 1));
    bench.driver.write(&fds[0], b"x").unwrap();
    assert_eq!(bench.driver.queued(&reader).unwrap(), 1);
    let closing = bench.poll(&there, Interest::Read);
    drop(here);
    bench.is_ready(closing);
    assert_eq!(bench.driver.receive_packet(&there, &mut bytes, &mut fds).unwrap(), 0);
}

pub(super) fn a_bell_wakes_from_another_thread<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let (bell, hear) = pipe::bell().unwrap();
    let hear = bench.driver.import(hear);
    for _ in 0..100 {
        let heard = bench.poll(&hear, Interest::Read);
        let ringer = std::thread::spawn({
            let bell = bell.clone();
            move || bell.ring().unwrap()
        });
        let mut answers = Vec::new();
        // For ever: it is the bell that ends it.
        bench.driver.wait(None, &mut answers).unwrap();
        assert!(matches!(answers[..], [Completion { token, answer: Answer::Ready }] if token == heard));
        ringer.join().unwrap();
        while bench.driver.read(&hear, &mut [0; 64]).is_ok() {}
    }
}

pub(super) fn a_wait_ends_at_its_deadline<D: Driver>(mut bench: Bench<D>) {
    let (reader, _writer) = bench.pipe();
    bench.poll(&reader, Interest::Read);
    let begin = bench.driver.now().monotonic_ns;
    let mut answers = Vec::new();
    bench.driver.wait(Some(begin + 30_000_000), &mut answers).unwrap();
    let took = bench.driver.now().monotonic_ns - begin;
    assert!(took >= 29_000_000, "{took} ns");
    // In the past: only collects.
    bench.driver.wait(Some(0), &mut answers).unwrap();
    assert!(answers.is_empty());
}

pub(super) fn a_descriptor_is_given_away_only_by_its_last_holder<D: Driver<Fd = Handle>>(
    mut bench: Bench<D>,
) {
    let (reader, writer) = bench.pipe();
    let read = bench.poll(&reader, Interest::Read);
    let reader = bench.driver.export(reader).unwrap_err();
    bench.driver.write(&writer, b"x").unwrap();
    bench.is_ready(read);
    let owned = bench.driver.export(reader).unwrap();
    bench.driver.write(&writer, b"y").unwrap();
    bench.stays_quiet();
    assert_eq!(rustix::io::read(&owned, &mut [0; 8]).unwrap(), 2);
}

pub(super) fn adopting_a_pipe_changes_nothing_for_others<D: Driver<Fd = Handle>>(mut bench: Bench<D>) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let adopted = bench.driver.adopt(writer.as_raw_fd()).unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    let block = vec![1; 1 << 20];
    while bench.driver.write(&adopted, &block).is_ok() {}
    assert_eq!(errno(bench.driver.write(&adopted, &block)), libc::EAGAIN);
    drop(reader);
    assert_eq!(errno(bench.driver.write(&adopted, &block)), libc::EPIPE);

    let (here, mut there) = UnixStream::pair().unwrap();
    let adopted = bench.driver.adopt(here.as_raw_fd()).unwrap();
    while bench.driver.write(&adopted, &block).is_ok() {}
    assert_eq!(errno(bench.driver.write(&adopted, &block)), libc::EAGAIN);
    assert!(!rustix::fs::fcntl_getfl(&here).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
    Read::read_exact(&mut there, &mut [0; 16]).unwrap();
    drop(there);
    assert_eq!(errno(bench.driver.write(&adopted, b"x")), libc::EPIPE);

    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    let adopted = bench.driver.adopt(null.as_raw_fd()).unwrap();
    assert_eq!(bench.driver.write(&adopted, b"gone").unwrap(), 4);
    assert_eq!(errno(bench.driver.adopt(-1)), libc::EBADF);
}

pub(super) fn closing_a_driver_with_operations_in_flight_frees_everything<D: Driver<Fd = Handle>>(
    mut bench: Bench<D>,
) {
    let folder = Folder::new();
    let listener = socket::bind(&folder.0.join("s"), 0o600).unwrap();
    let listener = bench.driver.import(listener);
    bench.submit(Op::Accept(listener));
    let mut ends = Vec::new();
    for _ in 0..100 {
        let (connection, peer) = bench.sockets();
        bench.submit(Op::Receive(connection.clone()));
        bench.poll(&connection, Interest::Hangup);
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let reader = bench.driver.import(reader);
        bench.poll(&reader, Interest::Read);
        ends.push((peer, writer));
    }
    bench.driver.wait(Some(0), &mut Vec::new()).unwrap();
    for (mut peer, _) in ends.drain(..50) {
        peer.write_all(b"bytes nobody will read");
    }
    drop(bench);
    for (mut peer, writer) in ends {
        // All our ends are closed: that is what the others see.
        assert!(peer.is_at_end());
        assert_eq!(rustix::io::write(&writer, b"x").unwrap_err(), rustix::io::Errno::PIPE);
    }
}

/// Of this process, so a test that counts them must be alone: see [`alone`].
fn open_descriptors() -> usize {
    std::fs::read_dir("/dev/fd").map_or(0, Iterator::count)
}

/// One test at a time: several count descriptors or hold very many.
pub(super) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

macro_rules! battery {
    (real $($name:ident)*) => {
        /// The battery on readiness.
        mod poll {
            $(#[test]
            fn $name() {
                let _turn = super::alone();
                super::$name(super::Bench::real(crate::driver::poll::Poll::new().unwrap()));
            })*
        }
        /// The same where many wait already, which io_uring serves in another way.
        mod in_a_crowd {
            $(#[test]
            fn $name() {
                let _turn = super::alone();
                match crate::driver::Preferred::new() {
                    Ok(driver) => super::$name(super::Bench::real(driver).crowded()),
                    Err(reason) => println!("skipped {}: {reason}", stringify!($name)),
                }
            })*
        }
        /// The battery on the driver that is tried first: io_uring, where there is one.
        mod uring {
            $(#[test]
            fn $name() {
                let _turn = super::alone();
                match crate::driver::Preferred::new() {
                    Ok(driver) => super::$name(super::Bench::real(driver)),
                    Err(reason) => println!("skipped {}: {reason}", stringify!($name)),
                }
            })*
        }
    };
    ($($name:ident)* ; $($real:ident)*) => {
        /// The battery in a fake world: what makes sense there.
        mod sim {
            $(#[test]
            fn $name() {
                super::$name(super::Bench::simulated());
            })*
        }
        battery! { real $($name)* $($real)* }
    };
}

battery! {
    a_pipe_is_readable_when_written_and_not_before
    unread_bytes_are_not_reported_to_nobody
    what_comes_while_one_lingers_is_found_and_nothing_is_waited_for_twice
    the_end_of_a_pipe_is_readiness_and_then_nothing
    a_full_pipe_is_writable_when_drained_or_without_readers
    a_hang_up_is_told_only_when_the_peer_is_wholly_gone
    a_hang_up_asked_for_on_a_half_closed_peer_waits
    a_cancelled_hang_up_is_answered_once
    a_message_is_received_into_a_lent_buffer
    one_descriptor_serves_many_operations_at_once
    a_cancelled_operation_is_answered_once_and_others_live_on
    a_cancel_that_races_its_answer_loses_no_byte
    an_operation_keeps_its_descriptor_open
    more_receives_than_buffers_all_come_in_the_end
    a_receive_that_waits_for_a_buffer_can_be_cancelled
    a_wait_ends_at_its_deadline
    ;
    a_terminals_tail_is_read_and_then_it_is_eio
    a_flood_arrives_whole_and_in_order
    a_duplicate_held_elsewhere_never_answers_for_a_closed_descriptor
    a_regular_file_is_always_ready
    a_thousand_descriptors_are_each_answered
    a_storm_of_connects_is_accepted_whole
    packets_bring_descriptors_that_work
    a_bell_wakes_from_another_thread
    a_descriptor_is_given_away_only_by_its_last_holder
    adopting_a_pipe_changes_nothing_for_others
    closing_a_driver_with_operations_in_flight_frees_everything
}
