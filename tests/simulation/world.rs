//! One history: who does what, as the seed says, and the judgement at its end.

use crate::client::Client;
use crate::keeper::Keeper;
use kairo_controlplane::config::Config;
use kairo_controlplane::entropy::Seeded;
use kairo_controlplane::events::outlet::Shelf;
use kairo_controlplane::kernel::{ControlPlane, Kernel};
use kairo_dataplane::budget::Budget;
use kairo_dataplane::command::Job;
use kairo_dataplane::driver::sim::world::{World, owner};
use kairo_dataplane::reactor::{Done, Worker};
use kairo_dataplane::simulation::Simulation;
use std::sync::Arc;

const OWNER: u32 = 1000;
const CLIENTS: u64 = 4;
const PROCESSES: usize = 4;

struct NoWorker;

impl Worker for NoWorker {
    fn submit(&self, _: Job, done: Done) {
        done(Vec::new());
    }
}

fn kernel(seed: u64, budget: Arc<Budget>) -> ControlPlane {
    let config = Config { budget, ..Config::alone(OWNER) };
    ControlPlane::new(Kernel::new(config, Box::new(Seeded::new(seed)), Box::new(Shelf::default()), 0), || 0)
}

/// Plays the history of a seed and returns how many bytes were checked in it.
pub(crate) fn history(seed: u64) -> u64 {
    let world = World::new(seed);
    // Some histories are tight in memory from the start.
    let budget = Arc::new(Budget::new([1 << 30, 1 << 20, 300 << 10][world.below(3) as usize]));
    let control = Arc::new(kernel(seed, budget.clone()));
    let (mut reactor, port, lane) =
        Simulation::new(&world, control, Arc::new(NoWorker), budget.clone()).expect("a reactor");
    let mut keeper = Keeper::new(&world, lane);
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..1 + world.below(CLIENTS) {
        let remote = port.connect(owner(100 + number as i32)).expect("it listens");
        clients.push(Client::new(&world, remote));
    }
    let mut bytes = 0;
    let mut spawned = 0;
    for _ in 0..3_000 {
        if clients.is_empty() {
            break;
        }
        let at = world.below(clients.len() as u64) as usize;
        match world.below(60) {
            0..=3 if spawned < PROCESSES => {
                // The spawner reads from the start, and waits for it.
                clients[at].subscribe(spawned, false);
                clients[at].spawn(spawned);
                spawned += 1;
            }
            4..=6 if spawned > 0 => {
                let process = world.below(spawned as u64) as usize;
                clients[at].ask(process);
            }
            8 if spawned > 0 && world.below(4) == 0 => {
                let process = world.below(spawned as u64) as usize;
                clients[at].subscribe(process, true);
            }
            9 => clients[at].unsubscribe(),
            7 if world.below(40) == 0 && clients.len() > 1 => {
                // One vanishes, in the middle of whatever it was sent.
                bytes += clients.remove(at).bytes;
            }
            _ => clients[at].act(false),
        }
        keeper.act();
        reactor.round(Some(world.now().monotonic_ns + 50_000)).expect("the driver works");
        assert!(clients.iter().all(|client| !client.broken), "nobody is cut off");
    }
    finish(&world, &mut reactor, &mut keeper, &mut clients);
    while budget.is_over() {
        // Nobody reads any more, so everything can be given.
        assert!(budget.retained_bytes() > 0, "{budget:?}");
        reactor.round(Some(world.now().monotonic_ns + 50_000)).expect("the driver works");
    }
    for client in &clients {
        client.judge(|process| keeper.truth(process), |_| true);
        bytes += client.bytes;
    }
    drop((reactor, keeper, clients, port));
    world.assert_clean();
    bytes
}

/// Everybody reads eagerly until nothing is owed to anybody.
fn finish(world: &World, reactor: &mut Simulation, keeper: &mut Keeper, clients: &mut [Client]) {
    for round in 0.. {
        let owed = clients.iter().any(|client| !client.is_satisfied()) || !keeper.all_ended();
        if !owed {
            return;
        }
        assert!(
            round < 60_000,
            "something is owed for ever: {:?}",
            clients.iter().map(|c| &c.readings).collect::<Vec<_>>()
        );
        for client in clients.iter_mut() {
            client.act(true);
        }
        keeper.act();
        reactor.round(Some(world.now().monotonic_ns + 50_000)).expect("the driver works");
    }
}
