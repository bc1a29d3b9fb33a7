//! The same protections by macOS' own sandbox: one profile that says all of it.
//!
//! It says more than Landlock does (paths denied inside allowed folders, this machine's ports, where modes may be
//! changed) and nothing of system calls. What it can't say is refused by name like anywhere else.

use super::files::resolve;
use super::network::ports_in_words;
use super::{Outcome, Planner, Refusal, reach};
use crate::profile::{Complaint, Reach};
use crate::protection::Protection;
use crate::receipt::Mechanism;
use crate::seatbelt::{Belt, Denial, Port, START_FOLDERS, Unsayable, Use, check, check_denied};

/// What is done with files nobody guards.
const EVERYTHING: [Use; 7] =
    [Use::Read, Use::Write, Use::Execute, Use::Create, Use::Delete, Use::Metadata, Use::Device];

impl Planner<'_> {
    pub(super) fn belted(&mut self) -> Result<(), Refusal> {
        let mut belt = Belt::default();
        self.belt_privileges(&mut belt)?;
        self.belt_files(&mut belt)?;
        self.belt_denied_paths(&mut belt)?;
        self.belt_network(&mut belt)?;
        self.belt_unix_sockets(&mut belt)?;
        self.belt_processes(&mut belt)?;
        if self.plan.receipt.entries.iter().any(|entry| entry.by.contains(&Mechanism::SandboxExec)) {
            // What can't be written is said now, not by the keeper.
            belt.compile().map_err(|unsayable| Complaint::new("", unsayable.to_string()))?;
            self.plan.receipt.warnings.push(format!(
                "whatever is allowed, it may read what every program needs to start: {}",
                START_FOLDERS.join(", ")
            ));
            self.plan.containment.belt = Some(belt);
        }
        Ok(())
    }

    fn belt_privileges(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let outcome = match self.place.uid {
            0 => weaker("it runs as uid 0, and macOS has no way to take root's rights from root: say user"),
            _ => belted(),
        };
        self.settle(Protection::Privileges, "none", outcome)?;
        belt.privileges = !self.holds(Protection::Privileges);
        Ok(())
    }

    fn belt_files(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let files = &self.profile.files;
        self.settle(Protection::Files, self.files_in_words(), belted())?;
        let guarded = self.holds(Protection::Files);
        let with_files = || if guarded { belted() } else { Outcome::NotAsked };
        self.settle(Protection::Truncate, "what may be written", with_files())?;
        self.settle(Protection::DeviceCommands, "what is listed", with_files())?;
        let (asked, outcome) = match files.metadata {
            true => ("of what may be written", with_files()),
            false => ("none", belted()),
        };
        self.settle(Protection::Metadata, asked, outcome)?;
        belt.devices = self.profile.devices.basic;
        if !guarded {
            let none = self.holds(Protection::Metadata);
            let uses = EVERYTHING.into_iter().filter(|what| !(none && *what == Use::Metadata));
            belt.allow.extend(uses.map(|what| (what, b"/".to_vec())));
            return Ok(());
        }
        let metadata = !self.holds(Protection::Metadata) || files.metadata;
        let lists = [
            ("files.read", &files.read, Use::Read),
            ("files.write", &files.write, Use::Write),
            ("files.execute", &files.execute, Use::Execute),
            ("files.create", &files.create, Use::Create),
            ("files.delete", &files.delete, Use::Delete),
            ("devices.allow", &self.profile.devices.allow, Use::Device),
        ];
        for (name, paths, what) in lists {
            for (at, path) in paths.iter().enumerate() {
                let field = || format!("{name}[{at}]");
                let path = sayable(resolve(path, self.place, field)?, check, field)?;
                if what == Use::Write && metadata {
                    belt.allow.push((Use::Metadata, path.clone()));
                }
                belt.allow.push((what, path));
            }
        }
        Ok(())
    }

    fn belt_denied_paths(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let files = &self.profile.files;
        let (mut denied, mut unknown) = (Vec::new(), Vec::new());
        for (name, paths, what) in
            [("denyRead", &files.deny_read, Denial::Read), ("denyWrite", &files.deny_write, Denial::Write)]
        {
            for (at, path) in paths.iter().enumerate() {
                let field = || format!("files.{name}[{at}]");
                match resolve(path, self.place, field) {
                    Ok(whole) => denied.push((what, sayable(whole, check_denied, field)?)),
                    Err(_) => unknown.push(path.as_str()),
                }
            }
        }
        let outcome = match (denied.is_empty(), unknown.is_empty()) {
            (true, true) => Outcome::NotAsked,
            (_, false) => {
                weaker(format!("there is no folder to tell which is meant by {}", unknown.join(", ")))
            }
            (false, true) => belted(),
        };
        let asked = self.denied_in_words().unwrap_or("none".to_owned());
        self.settle(Protection::DeniedPaths, asked, outcome)?;
        if self.holds(Protection::DeniedPaths) {
            belt.deny = denied;
        }
        Ok(())
    }

    fn belt_network(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let network = &self.profile.network;
        let outcome = match network.private {
            true => Outcome::Nothing("macOS has no network but the one".to_owned()),
            false => belted(),
        };
        self.settle(Protection::Network, network.in_words(), outcome)?;
        let open = !self.holds(Protection::Network);
        belt.families = open;
        let outcome = match network.bind.contains(&0) {
            true => {
                weaker("sandbox-exec doesn't know which port the system will choose: all can be listened on")
            }
            false => belted(),
        };
        self.settle(Protection::Ports, network.ports_in_words(), outcome)?;
        let guarded = self.holds(Protection::Ports);
        let outcome = match network.loopback.is_empty() {
            true => Outcome::NotAsked,
            false if !guarded => Outcome::Nothing("ports aren't protected".to_owned()),
            false => weaker("what is listened on as this machine's can be reached at every address it has"),
        };
        self.settle(Protection::Loopback, ports_in_words(&network.loopback), outcome)?;
        let port = |listen, number| Port { listen, udp: false, local: false, number };
        if guarded {
            belt.ports.extend(network.connect.iter().map(|number| port(false, Some(*number))));
            let chosen = |number: &u16| (*number != 0).then_some(*number);
            belt.ports.extend(network.bind.iter().map(|number| port(true, chosen(number))));
            let local =
                !matches!(self.profile.strength(Protection::Loopback), crate::protection::Strength::Off);
            for number in &network.loopback {
                let both = [port(false, Some(*number)), port(true, Some(*number))];
                belt.ports.extend(both.map(|port| Port { local, ..port }));
            }
        } else if open || network.tcp() {
            belt.ports.extend([port(false, None), port(true, None)]);
        }
        if open || network.udp {
            let udp = |listen| Port { udp: true, ..port(listen, None) };
            belt.ports.extend([udp(false), udp(true)]);
        }
        self.domains()
    }

    fn belt_unix_sockets(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let unix = &self.profile.unix_sockets;
        let outcome = || if unix.any { Outcome::NotAsked } else { belted() };
        self.settle(Protection::UnixSockets, unix.in_words(), outcome())?;
        // There are none: what has no path has no name.
        self.settle(Protection::AbstractSockets, if unix.any { "any" } else { "none outside" }, outcome())?;
        if !self.holds(Protection::UnixSockets) {
            belt.allow.push((Use::Connect, b"/".to_vec()));
        }
        for (at, path) in unix.paths.iter().enumerate() {
            let field = || format!("unixSockets.paths[{at}]");
            let path = sayable(resolve(path, self.place, field)?, check, field)?;
            belt.allow.push((Use::Connect, path));
        }
        // Who has sockets may listen where it may make them.
        if !self.holds(Protection::UnixSockets) || !unix.paths.is_empty() {
            let made = belt.allow.iter().filter(|(what, _)| *what == Use::Create);
            let listened: Vec<_> = made.map(|(_, path)| (Use::Listen, path.clone())).collect();
            belt.allow.extend(listened);
        }
        Ok(())
    }

    fn belt_processes(&mut self, belt: &mut Belt) -> Result<(), Refusal> {
        let processes = self.profile.processes;
        let asked =
            |whom: Reach, outcome: Outcome| if whom == Reach::Any { Outcome::NotAsked } else { outcome };
        self.settle(Protection::Signals, reach(processes.signal), asked(processes.signal, belted()))?;
        let held = |planner: &Planner<'_>, protection, whom: Reach| match planner.holds(protection) {
            true => whom.into(),
            false => Reach::Any.into(),
        };
        belt.signal = held(self, Protection::Signals, processes.signal);
        let open = "sandbox-exec doesn't guard KERN_PROCARGS2: arguments and variables of its user's processes can be read";
        self.settle(Protection::Ptrace, reach(processes.ptrace), asked(processes.ptrace, weaker(open)))?;
        belt.look = held(self, Protection::Ptrace, processes.ptrace);
        let calls = "sandbox-exec knows operations, not system calls: mounts, settings and services are denied as such";
        self.settle(Protection::SystemCalls, "none of those on the list", weaker(calls))?;
        belt.system = !self.holds(Protection::SystemCalls);
        Ok(())
    }
}

fn belted() -> Outcome {
    Outcome::by(Mechanism::SandboxExec)
}

fn weaker(reason: impl Into<String>) -> Outcome {
    Outcome::Weaker(vec![Mechanism::SandboxExec], reason.into())
}

/// A path that can be written, or the field it stands in.
fn sayable(
    path: String,
    check: impl Fn(&[u8]) -> Result<&str, Unsayable>,
    field: impl Fn() -> String,
) -> Result<Vec<u8>, Complaint> {
    match check(path.as_bytes()) {
        Ok(_) => Ok(path.into_bytes()),
        Err(unsayable) => Err(Complaint::new(field(), unsayable.to_string())),
    }
}
