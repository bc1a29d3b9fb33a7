//! A reactor in a fake world: the same loop, streams and transports, over [`sim`](crate::driver::sim), one round at a
//! time.
//!
//! Whoever drives it plays the clients, the children and the keeper through the [`World`]; chance, time and faults come
//! from the world's seed, so one seed is one history. Nothing of a kernel that serves anybody is here.

use crate::budget::Budget;
use crate::control::Control;
use crate::driver::op::Completion;
use crate::driver::sim::world::{KeeperEnd, Port, World};
use crate::driver::sim::{Fd, Sim};
use crate::key::ReactorId;
use crate::limits::{RECONNECT_GRACE_NS, RETAINED_BYTES_MAX, STALL_NS};
use crate::reactor::mail::Post;
use crate::reactor::{Parts, Reactor, Worker};
use std::io;
use std::sync::Arc;

/// One simulated reactor.
pub struct Simulation {
    reactor: Reactor<Sim>,
    answers: Vec<Completion<Fd>>,
}

impl Simulation {
    /// A reactor in `world` that listens where the port connects and whose keeper is played through the returned end.
    pub fn new(
        world: &World,
        control: Arc<dyn Control>,
        worker: Arc<dyn Worker>,
        budget: Arc<Budget>,
    ) -> io::Result<(Simulation, Port, KeeperEnd)> {
        let (post, _) = Post::new(1)?;
        let (listener, port) = world.listener();
        let (lane, keeper) = world.lane();
        let parts = Parts {
            id: ReactorId(0),
            driver: Sim::new(world),
            control,
            worker,
            post,
            ear: None,
            lane,
            listener: Some(listener),
            keeper_pid: 1,
            retained_bytes_max: RETAINED_BYTES_MAX,
            reconnect_grace_ns: RECONNECT_GRACE_NS,
            adopted: Vec::new(),
            spools: None,
            fifos: None,
            budget,
            stall_ns: STALL_NS,
        };
        Ok((Simulation { reactor: Reactor::new(parts), answers: Vec::new() }, port, keeper))
    }

    /// One round of the loop. Time passes to the next thing that can happen, but not past `until_ns`; without it, and
    /// with nothing to come, the world is idle afterwards.
    pub fn round(&mut self, until_ns: Option<u64>) -> io::Result<()> {
        self.reactor.round(&mut self.answers, until_ns)
    }

    /// True exactly when the reactor has been told to end.
    pub fn is_over(&self) -> bool {
        self.reactor.is_stopping()
    }
}
