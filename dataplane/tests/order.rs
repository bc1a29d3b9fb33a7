//! What a call had another reactor do, and what its client asks for on another connection once it has the reply.

#![forbid(unsafe_code)]

use bytes::Bytes;
use kairo_dataplane::budget::Budget;
use kairo_dataplane::command::{Command, Commands, Job};
use kairo_dataplane::control::{Control, Inbound, Moment, Notice, Peer};
use kairo_dataplane::driver::sim::world::owner;
use kairo_dataplane::key::{ConnectionKey, ProcessKey, ReactorId, Ticket};
use kairo_dataplane::plane::{DriverChoice, Plane, Start};
use kairo_dataplane::reactor::{Done, Worker};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

/// A frame without a payload.
const FRAME: &[u8] = b"KA\x01\x01\x00\x00\x00\x00";
const CALLS: u64 = 50;
/// What each call has its own reactor do besides, so that its reply is long gone when that is done.
const MUCH: u64 = 2_000;

struct NoWorker;

impl Worker for NoWorker {
    fn submit(&self, _: Job, done: Done) {
        done(Vec::new());
    }
}

/// Answers every frame at once, and has the other reactor do something.
struct Desk {
    calls: Mutex<u64>,
    told: Mutex<Sender<u64>>,
}

/// Something to do for a reactor, whose end is told.
fn something(ticket: u64) -> Command {
    let process = ProcessKey { home: ReactorId(1), serial: 1 };
    Command::Write { process, data: Bytes::new(), key: None, ticket: Ticket(ticket) }
}

impl Control for Desk {
    fn connected(&self, _: Moment, _: ConnectionKey, _: Peer, _: &mut Commands) {}

    fn received(&self, _: Moment, connection: ConnectionKey, _: Inbound<'_>, out: &mut Commands) {
        let mut calls = self.calls.lock().expect("nobody panics with it");
        *calls += 1;
        out.replies.extend_from_slice(FRAME);
        let here = |serial| ProcessKey { home: connection.reactor, serial };
        out.list.extend((1..=MUCH).map(|serial| Command::Forget { process: here(serial) }));
        out.push(something(2 * *calls));
    }

    fn notice(&self, _: Moment, _: ReactorId, notice: Notice, _: &mut Commands) {
        if let Notice::Done { ticket, .. } = notice {
            let told = self.told.lock().expect("nobody panics with it");
            told.send(ticket.0).expect("the test listens");
        }
    }
}

#[test]
fn what_a_reply_stands_for_is_done_before_whatever_is_asked_for_after_it() {
    let (told, hears) = channel();
    let lanes = [(); 2].map(|()| {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).expect("a pair")
    });
    let (ours, keeper): (Vec<_>, Vec<_>) = lanes.into_iter().unzip();
    let plane = Plane::start(Start {
        control: Arc::new(Desk { calls: Mutex::new(0), told: Mutex::new(told) }),
        worker: Arc::new(NoWorker),
        lanes: ours,
        keeper_pid: 1,
        listener: None,
        driver: DriverChoice::Auto,
        retained_bytes_max: 0,
        reconnect_grace_ns: 0,
        adopted: Vec::new(),
        spool: None,
        fifos: None,
        budget: Arc::new(Budget::new(1 << 20)),
        stall_ns: u64::MAX,
    })
    .expect("a plane");
    let (mut client, theirs) = UnixStream::pair().expect("a pair");
    theirs.set_nonblocking(true).expect("a socket");
    plane.handle().connect(theirs.into(), owner(1));
    for _ in 0..CALLS {
        client.write_all(FRAME).expect("it reads");
        let mut reply = [0; FRAME.len()];
        client.read_exact(&mut reply).expect("it answers");
        // What another connection of this client, on the other reactor, has it do.
        let mut commands = Commands::default();
        commands.push(something(1));
        plane.handle().carry_out(commands);
        let order: Vec<u64> = hears.iter().take(2).collect();
        assert_eq!((order[0] % 2, order[1]), (0, 1), "{order:?}");
    }
    let mut commands = Commands::default();
    commands.push(Command::Leave);
    plane.handle().carry_out(commands);
    plane.join().expect("it ends");
    drop(keeper);
}
