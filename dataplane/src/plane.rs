//! The whole data plane of one kernel: its reactors, from start to join.
//!
//! Whoever embeds a kernel makes the keeper first ([`launch`](crate::keeper::link::launch), while it has no threads),
//! then starts a plane with a [`Control`] and a [`Worker`], and ends with [`Plane::join`].

use crate::budget::Budget;
use crate::command::Commands;
use crate::control::{Control, Peer};
use crate::driver::handle::Handle;
use crate::driver::poll::Poll;
use crate::driver::{Driver, Preferred};
use crate::key::ReactorId;
use crate::reactor::adoption::Adopted;
use crate::reactor::mail::{Mail, Post};
use crate::reactor::{Parts, Reactor, Worker};
pub use crate::spool::service::SpoolRoot;
use crate::spool::service::Spools;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Which driver the reactors use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// io_uring where it is to be had, readiness elsewhere.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Readiness.
    Poll,
}

/// What a plane is started with. Its number of reactors is the number of lanes.
pub struct Start {
    /// Decides.
    pub control: Arc<dyn Control>,
    /// Does what may block.
    pub worker: Arc<dyn Worker>,
    /// One to the keeper per reactor.
    pub lanes: Vec<OwnedFd>,
    /// The keeper, to tell its descendants by.
    pub keeper_pid: i32,
    /// Where clients connect; none for an embedded kernel.
    pub listener: Option<OwnedFd>,
    /// Asked for.
    pub driver: DriverChoice,
    /// History of ended streams that is kept, all reactors together, bytes; shared out evenly.
    pub retained_bytes_max: usize,
    /// How long readers of a kernel that died are waited for, nanoseconds.
    pub reconnect_grace_ns: u64,
    /// Processes of a kernel that died; each has its home among the lanes.
    pub adopted: Vec<Adopted>,
    /// Where spools are; none where nothing can be spooled.
    pub spool: Option<SpoolRoot>,
    /// Where fifos are made, [prepared](crate::sys::fifo::prepare); none where there are none.
    pub fifos: Option<PathBuf>,
    /// The memory of all histories.
    pub budget: Arc<Budget>,
    /// A wait of a source for a reader that is longer than this is a stall, nanoseconds.
    pub stall_ns: u64,
}

/// Reactors that run.
pub struct Plane {
    post: Post,
    spools: Option<Spools>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    driver: &'static str,
}

/// Speaks to a plane from any thread.
#[derive(Clone, Debug)]
pub struct PlaneHandle {
    post: Post,
}

impl PlaneHandle {
    /// Carries out what a call into the control plane from outside the reactors has returned.
    pub fn carry_out(&self, mut commands: Commands) {
        for (home, command) in commands.ahead(None) {
            self.post.send(home, Mail::Command(command));
        }
        for command in commands.list {
            let home = command.home().unwrap_or(ReactorId(0));
            self.post.send(home, Mail::Command(command));
        }
    }

    /// Asks every reactor for a sign of life. Each that goes round its loop sends one.
    pub fn pulse(&self) -> (u16, Receiver<ReactorId>) {
        let (heard, signs) = channel();
        for reactor in 0..self.post.reactors() {
            self.post.send(ReactorId(reactor), Mail::Pulse(heard.clone()));
        }
        (self.post.reactors(), signs)
    }

    /// Serves a connected socket as if it had been accepted from `peer`.
    pub fn connect(&self, socket: OwnedFd, peer: Peer) {
        self.post.send(ReactorId(0), Mail::Connection { socket, peer });
    }
}

impl Plane {
    /// Starts the reactors and returns once each has its driver, or with the first failure.
    pub fn start(start: Start) -> io::Result<Plane> {
        let (post, ears) = Post::new(start.lanes.len() as u16)?;
        let (report, reports) = channel();
        let spools = start.spool.map(|root| Spools::new(root, post.clone()));
        let mut plane = Plane { post: post.clone(), spools: spools.clone(), threads: Vec::new(), driver: "" };
        let mut listener = start.listener;
        let mut adopted = start.adopted;
        for (number, (lane, ear)) in start.lanes.into_iter().zip(ears).enumerate() {
            let id = ReactorId(number as u16);
            let own = |adopted: &mut Adopted| adopted.heir.session.process.home == id;
            let seed = Seed {
                id,
                control: start.control.clone(),
                worker: start.worker.clone(),
                post: post.clone(),
                ear,
                lane,
                listener: listener.take(),
                keeper_pid: start.keeper_pid,
                retained_bytes_max: start.retained_bytes_max / usize::from(post.reactors()),
                reconnect_grace_ns: start.reconnect_grace_ns,
                adopted: adopted.extract_if(.., own).collect(),
                spools: spools.clone(),
                fifos: start.fifos.clone(),
                budget: start.budget.clone(),
                stall_ns: start.stall_ns,
            };
            let (choice, report) = (start.driver, report.clone());
            let thread = std::thread::Builder::new().name(format!("reactor-{number}")).spawn(move || {
                let _others = EndTogether(seed.post.clone());
                run(seed, choice, &report)
            })?;
            plane.threads.push(thread);
        }
        drop((report, spools));
        plane.await_drivers(&reports)?;
        Ok(plane)
    }

    fn await_drivers(&mut self, reports: &Receiver<io::Result<&'static str>>) -> io::Result<()> {
        for _ in 0..self.threads.len() {
            let report =
                reports.recv().unwrap_or_else(|_| Err(io::Error::other("a reactor died at its start")));
            match report {
                Ok(name) => self.driver = name,
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The driver in use: `io_uring` or `poll`.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// For other threads.
    pub fn handle(&self) -> PlaneHandle {
        PlaneHandle { post: self.post.clone() }
    }

    fn stop(&self) {
        drop(EndTogether(self.post.clone()));
    }

    /// Waits until every reactor has ended, by shutdown or failure, and what they had spooled is written; the first
    /// failure is returned, and ends the rest.
    pub fn join(mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        for thread in std::mem::take(&mut self.threads) {
            let ended = thread.join().unwrap_or_else(|_| Err(io::Error::other("a reactor panicked")));
            outcome = outcome.and(ended);
        }
        if let Some(spools) = self.spools.take() {
            spools.finish();
        }
        outcome
    }
}

/// Ends all reactors when one ends, however it ends: half a kernel would leave its clients hanging.
struct EndTogether(Post);

impl Drop for EndTogether {
    fn drop(&mut self) {
        for reactor in 0..self.0.reactors() {
            self.0.send(ReactorId(reactor), Mail::Stop);
        }
    }
}

/// What a reactor's thread is given; its driver is made there, for it belongs to one thread.
struct Seed {
    id: ReactorId,
    control: Arc<dyn Control>,
    worker: Arc<dyn Worker>,
    post: Post,
    ear: OwnedFd,
    lane: OwnedFd,
    listener: Option<OwnedFd>,
    keeper_pid: i32,
    retained_bytes_max: usize,
    reconnect_grace_ns: u64,
    adopted: Vec<Adopted>,
    spools: Option<Spools>,
    fifos: Option<PathBuf>,
    budget: Arc<Budget>,
    stall_ns: u64,
}

fn run(seed: Seed, choice: DriverChoice, report: &Sender<io::Result<&'static str>>) -> io::Result<()> {
    if choice != DriverChoice::Poll {
        match Preferred::new() {
            Ok(driver) if choice == DriverChoice::Auto || driver.name() == "io_uring" => {
                return run_on(driver, seed, report);
            }
            Ok(driver) => tracing::debug!(driver = driver.name(), "not what was asked for"),
            Err(error) => tracing::info!(%error, "io_uring can't be used"),
        }
    }
    if choice == DriverChoice::Uring {
        // The receiver waits for exactly this; if it is gone nobody does.
        let _ = report.send(Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring can't be used here")));
        return Ok(());
    }
    match Poll::new() {
        Ok(driver) => run_on(driver, seed, report),
        Err(error) => {
            let _ = report.send(Err(error));
            Ok(())
        }
    }
}

fn run_on<D: Driver<Fd = Handle>>(
    mut driver: D,
    seed: Seed,
    report: &Sender<io::Result<&'static str>>,
) -> io::Result<()> {
    let name = driver.name();
    let parts = Parts {
        id: seed.id,
        ear: Some(driver.import(seed.ear)),
        lane: driver.import(seed.lane),
        listener: seed.listener.map(|listener| driver.import(listener)),
        driver,
        control: seed.control,
        worker: seed.worker,
        post: seed.post,
        keeper_pid: seed.keeper_pid,
        retained_bytes_max: seed.retained_bytes_max,
        reconnect_grace_ns: seed.reconnect_grace_ns,
        adopted: seed.adopted,
        spools: seed.spools,
        fifos: seed.fifos,
        budget: seed.budget,
        stall_ns: seed.stall_ns,
    };
    let mut reactor = Reactor::new(parts);
    let _ = report.send(Ok(name));
    // `report` is cloned per thread; a clone that outlives its message would keep the starter waiting for nobody.
    reactor.run()
}
