//! The keeper and the children, as a kernel sees them: packets and pipes.

use kairo_dataplane::command::Stdio;
use kairo_dataplane::control::{ExitStatus, Tree, Usage};
use kairo_dataplane::driver::sim::Fd;
use kairo_dataplane::driver::sim::world::{KeeperEnd, Remote, World};
use kairo_dataplane::keeper::protocol::{ToKeeper, ToKernel, VERSION};
use kairo_dataplane::key::ProcessKey;
use std::collections::VecDeque;

/// The right byte at an offset of any simulated stream.
pub(crate) fn byte_at(offset: u64) -> u8 {
    // Lines of different lengths, some empty, one in a while longer than the longest that is delivered whole.
    let word = (offset / 3).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48;
    let long = (offset / 150_000).is_multiple_of(3);
    if !long && word.is_multiple_of(53) { b'\n' } else { b'a' + (word % 23) as u8 }
}

/// A child: writes, perhaps leaves a grandchild that writes on, ends.
struct Child {
    process: ProcessKey,
    /// The number its spawner gave it as its argument.
    number: usize,
    output: Option<Remote>,
    _errors: Option<Remote>,
    _input: Option<Remote>,
    written: u64,
    /// What the leader writes, and what the whole tree writes.
    leader_bytes: u64,
    total_bytes: u64,
    kept: [Option<Fd>; 3],
    exited: bool,
    ended: bool,
}

/// What the keeper would tell about a child that is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Truth {
    /// Bytes the leader had written at its exit.
    pub(crate) leader_bytes: u64,
    /// Bytes of the stream.
    pub(crate) total_bytes: u64,
}

/// The keeper.
pub(crate) struct Keeper {
    lane: KeeperEnd,
    world: World,
    children: Vec<Child>,
    held: Vec<Fd>,
    outbox: VecDeque<(Vec<u8>, Vec<Fd>)>,
}

fn number_of(argument: Option<&[u8]>) -> usize {
    let text = argument.and_then(|bytes| str::from_utf8(bytes).ok());
    text.and_then(|text| text.parse().ok()).expect("a simulated child is numbered")
}

fn packed(message: &ToKernel) -> Vec<u8> {
    rmp_serde::to_vec(message).expect("a message is encodable")
}

impl Keeper {
    pub(crate) fn new(world: &World, lane: KeeperEnd) -> Keeper {
        Keeper { lane, world: world.clone(), children: Vec::new(), held: Vec::new(), outbox: VecDeque::new() }
    }

    /// Lets keeper and children do something.
    pub(crate) fn act(&mut self) {
        for _ in 0..4 {
            if let Some((packet, fds)) = self.lane.receive() {
                self.obey(&packet, fds);
            }
        }
        for at in 0..self.children.len() {
            self.child_acts(at);
        }
        while let Some((packet, fds)) = self.outbox.front() {
            if !self.lane.send(packet, fds) {
                return;
            }
            self.outbox.pop_front();
        }
    }

    /// What is true of the process with this number, once its tree is gone.
    pub(crate) fn truth(&self, number: usize) -> Option<Truth> {
        let child = self.children.iter().find(|child| child.number == number && child.ended)?;
        Some(Truth { leader_bytes: child.leader_bytes, total_bytes: child.total_bytes })
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.outbox.is_empty() && self.children.iter().all(|child| child.ended)
    }

    fn say(&mut self, message: &ToKernel, fds: Vec<Fd>) {
        self.outbox.push_back((packed(message), fds));
    }

    fn obey(&mut self, packet: &[u8], fds: Vec<Fd>) {
        match rmp_serde::from_slice(packet).expect("the kernel speaks the protocol") {
            ToKeeper::Hello { .. } => self.say(&ToKernel::Hello { version: VERSION, pid: 1 }, Vec::new()),
            ToKeeper::Spawn(request) => {
                let Stdio::Pipes { .. } = request.stdio else { panic!("only pipes are simulated") };
                let argument = request.argv.0.split(|byte| *byte == 0).nth(1);
                self.start(request.process, number_of(argument));
            }
            ToKeeper::HoldReactor | ToKeeper::HoldStream { .. } | ToKeeper::HoldInput { .. } => {
                self.held.extend(fds);
            }
            ToKeeper::CloseChannel { process, end } => {
                if let Some(child) = self.child(process) {
                    child.kept[end as usize] = None;
                }
            }
            ToKeeper::Forget { process } => {
                if let Some(child) = self.child(process) {
                    child.kept = [const { None }; 3];
                }
            }
            ToKeeper::Signal { process, ticket, .. } => {
                let alive = self.child(process).is_some_and(|child| !child.exited);
                if let Some(child) = self.child(process) {
                    // Whatever the signal, a simulated child ends where it stands.
                    child.total_bytes = child.written;
                    child.leader_bytes = child.leader_bytes.min(child.written);
                }
                if let Some(ticket) = ticket {
                    self.say(&ToKernel::Signalled { ticket, outcome: Ok(u32::from(alive)) }, Vec::new());
                }
            }
            ToKeeper::Acknowledge { .. } | ToKeeper::Annotate { .. } | ToKeeper::Blockers { .. } => {}
            ToKeeper::Several { messages } => {
                for message in messages {
                    self.obey(message.0, Vec::new());
                }
            }
            ToKeeper::Bulk { .. }
            | ToKeeper::Contain { .. }
            | ToKeeper::Measure { .. }
            | ToKeeper::Placed { .. }
            | ToKeeper::HoldOutlet { .. }
            | ToKeeper::DropOutlet { .. }
            | ToKeeper::HoldInlet { .. }
            | ToKeeper::DropInlet { .. }
            | ToKeeper::HoldFramed { .. }
            | ToKeeper::HoldProducer { .. }
            | ToKeeper::EndProducer { .. }
            | ToKeeper::Join { .. }
            | ToKeeper::Shutdown { .. }
            | ToKeeper::Leave => panic!("not simulated"),
        }
    }

    fn child(&mut self, process: ProcessKey) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.process == process)
    }

    fn start(&mut self, process: ProcessKey, number: usize) {
        let capacity = 4096 << self.world.below(7);
        let (stdin, input) = self.world.pipe_to_child(capacity as usize);
        let (stdout, output) = self.world.pipe_from_child(capacity as usize);
        let (stderr, errors) = self.world.pipe_from_child(capacity as usize);
        let leader_bytes = match self.world.below(4) {
            0 => self.world.below(100),
            1 => self.world.below(70_000),
            _ => self.world.below(600_000),
        };
        let left_behind = if self.world.below(3) == 0 { self.world.below(200_000) } else { 0 };
        let fds = vec![stdin, stdout, stderr];
        let spawned = ToKernel::Spawned {
            process,
            pid: 1000 + self.children.len() as i32,
            start_ticks: 1,
            tree: Tree::BestEffort,
            limits: Vec::new(),
            terminal: false,
            pipe_bytes: [Some(capacity as u32); 3],
        };
        let kept = [0, 1, 2].map(|end: usize| fds.get(end).map(Fd::duplicate));
        self.say(&spawned, fds);
        self.children.push(Child {
            process,
            number,
            output: Some(output),
            _errors: Some(errors),
            _input: Some(input),
            written: 0,
            leader_bytes,
            total_bytes: leader_bytes + left_behind,
            kept,
            exited: false,
            ended: false,
        });
    }

    fn child_acts(&mut self, at: usize) {
        let burst = 1 + self.world.below(60_000);
        let child = &mut self.children[at];
        if child.ended {
            return;
        }
        // A tree that was killed may have written more than it now is meant to: it ends where it stands.
        child.total_bytes = child.total_bytes.max(child.written);
        child.leader_bytes = child.leader_bytes.min(child.total_bytes);
        let goal = if child.exited { child.total_bytes } else { child.leader_bytes };
        let count = burst.min(goal.saturating_sub(child.written));
        if count > 0 {
            let bytes: Vec<u8> = (child.written..child.written + count).map(byte_at).collect();
            match child.output.as_ref().and_then(|output| output.write(&bytes)) {
                Some(written) => child.written += written as u64,
                None => {
                    (child.total_bytes, child.leader_bytes) =
                        (child.written, child.leader_bytes.min(child.written))
                }
            }
        }
        let (process, usage) = (child.process, Usage::default());
        if !child.exited && child.written >= child.leader_bytes {
            child.exited = true;
            child.leader_bytes = child.written;
            self.say(&ToKernel::Exited { process, status: ExitStatus::Code(7), usage, at_ns: 0 }, Vec::new());
        } else if child.exited && child.written >= child.total_bytes {
            child.ended = true;
            (child.output, child._errors, child._input) = (None, None, None);
            self.say(&ToKernel::TreeEnded { process }, Vec::new());
        }
    }
}
