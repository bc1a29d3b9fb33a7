//! From what is asked for and what can be enforced to what will be done, or to a refusal that names the protection.
//!
//! Pure. Invariant: every protection is in the receipt exactly once, and one that is planned weaker than asked for is
//! there only because the profile accepted that by name.

use super::platform;
use crate::ability::{Ability, Answer};
use crate::containment::{Containment, Denied, Namespaces, Probe, Ruleset, rights};
use crate::filter::Group;
use crate::profile::{Complaint, Profile, Reach, Resource, TreeLimits};
use crate::protection::{Protection, Strength};
use crate::receipt::{Entry, Mechanism, Receipt, Standing};
use std::collections::BTreeMap;

mod belt;
mod files;
mod network;

/// What the keeper is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Limits of the tree, for its cgroup.
    pub tree: TreeLimits,
    /// RLIMIT_* number of this platform, and value for soft and hard.
    pub rlimits: Vec<(u32, u64)>,
    /// What the child does to itself.
    pub containment: Containment,
    /// What will be in force if all goes as planned.
    pub receipt: Receipt,
}

/// Where and as whom a program will run: what the paths of a profile are relative to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its user.
    pub uid: u32,
    /// For `~/`.
    pub home: Option<String>,
    /// For `./`.
    pub folder: Option<String>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The profile makes no sense.
    #[error(transparent)]
    Complaint(#[from] Complaint),
    /// A protection that this machine can't enforce, and weaker wasn't accepted.
    #[error("{protection} ({asked}) cannot be enforced here: {reason}")]
    Protection {
        /// Which.
        protection: Protection,
        /// What was asked for.
        asked: String,
        /// Why not.
        reason: String,
    },
}

/// What a machine makes of a protection.
enum Outcome {
    InForce(Vec<Mechanism>),
    Weaker(Vec<Mechanism>, String),
    Nothing(String),
    NotAsked,
}

impl Outcome {
    fn by(mechanism: Mechanism) -> Outcome {
        Outcome::InForce(vec![mechanism])
    }
}

/// A plan in the making.
struct Planner<'a> {
    profile: &'a Profile,
    ability: &'a Ability,
    place: &'a Place,
    plan: Plan,
    rules: Ruleset,
    below: BTreeMap<Vec<u8>, u64>,
}

impl Plan {
    /// Holds a profile against a machine.
    pub fn new(profile: &Profile, ability: &Ability, place: &Place) -> Result<Plan, Refusal> {
        profile.check()?;
        let mut planner = Planner {
            profile,
            ability,
            place,
            plan: Plan::default(),
            rules: Ruleset::default(),
            below: BTreeMap::new(),
        };
        planner.plan.receipt.system = ability.system.clone();
        if ability.sandbox_exec {
            planner.belted()?;
        } else {
            planner.privileges()?;
            planner.files()?;
            planner.network()?;
            planner.unix_sockets()?;
            planner.processes()?;
        }
        planner.always()?;
        planner.tree_limits()?;
        planner.rlimits()?;
        Ok(planner.finish())
    }
}

impl Planner<'_> {
    /// Whether a protection is asked for at all.
    fn wants(&self, protection: Protection) -> bool {
        self.profile.strength(protection) != Strength::Off
    }

    /// Writes down what becomes of a protection, or refuses.
    fn settle(
        &mut self,
        protection: Protection,
        asked: impl Into<String>,
        outcome: Outcome,
    ) -> Result<(), Refusal> {
        let (asked, strength) = (asked.into(), self.profile.strength(protection));
        let accepted = self.profile.accepts_weaker(protection);
        let (standing, by, reason) = match outcome {
            _ if strength == Strength::Off => (Standing::NotAsked, Vec::new(), None),
            Outcome::NotAsked => (Standing::NotAsked, Vec::new(), None),
            Outcome::InForce(by) => (Standing::InForce, by, None),
            Outcome::Weaker(_, reason) | Outcome::Nothing(reason) if !accepted => {
                return Err(Refusal::Protection { protection, asked, reason });
            }
            Outcome::Weaker(by, reason) => (Standing::Weaker, by, Some(reason)),
            Outcome::Nothing(reason) => (Standing::Absent, Vec::new(), Some(reason)),
        };
        self.plan.receipt.entries.push(Entry { protection, strength, asked, standing, by, reason });
        Ok(())
    }

    /// True exactly when a protection is in force, weaker or not.
    fn holds(&self, protection: Protection) -> bool {
        let entry = self.plan.receipt.of(protection);
        entry.is_some_and(|entry| matches!(entry.standing, Standing::InForce | Standing::Weaker))
    }

    fn filter(&mut self, group: Group) {
        self.plan.containment.filter.insert(group);
    }

    /// In force by a filter, or not at all.
    fn filtered(&self) -> Outcome {
        match self.ability.filters() {
            true => Outcome::by(Mechanism::Seccomp),
            false => Outcome::Nothing("system calls can't be filtered here".to_owned()),
        }
    }

    /// In force from an ABI of Landlock's on.
    fn landlocked(&self, abi: u32) -> Outcome {
        match self.ability.landlock_abi {
            0 => Outcome::Nothing("this kernel has no Landlock".to_owned()),
            has if has < abi => {
                Outcome::Nothing(format!("it takes Landlock ABI {abi}, and this kernel has {has}"))
            }
            _ => Outcome::by(Mechanism::Landlock),
        }
    }

    /// In force by a namespace of this kind, or not at all.
    fn apart(&self, kind: &Answer, mechanism: Mechanism) -> Outcome {
        let namespaces = &self.ability.namespaces;
        match kind {
            Answer::Refused(reason) => Outcome::Nothing(format!("no {} here: {reason}", mechanism.words())),
            // A user namespace has its maker's user and no other.
            Answer::Allowed if namespaces.user && self.place.uid != self.ability.uid => {
                Outcome::Nothing(format!("a {} for another user takes the rights of root", mechanism.words()))
            }
            Answer::Allowed => Outcome::by(mechanism),
        }
    }

    /// The namespaces that are planned, with none yet.
    fn namespaces(&mut self) -> &mut Namespaces {
        let user = self.ability.namespaces.user;
        let none = || Namespaces { user, ..Namespaces::default() };
        self.plan.containment.later.namespaces.get_or_insert_with(none)
    }

    fn privileges(&mut self) -> Result<(), Refusal> {
        let outcome = match self.ability.no_new_privileges {
            true => Outcome::by(Mechanism::Unprivileged),
            false => Outcome::Nothing("this system can't take the rights to gain rights".to_owned()),
        };
        self.settle(Protection::Privileges, "none", outcome)?;
        self.plan.containment.unprivileged = self.holds(Protection::Privileges);
        if self.plan.containment.unprivileged && self.place.uid == 0 {
            self.plan.receipt.warnings.push(
                "it runs as uid 0: without capabilities that still owns root's files; say user".to_owned(),
            );
        }
        Ok(())
    }

    fn processes(&mut self) -> Result<(), Refusal> {
        let processes = self.profile.processes;
        let outcome = match processes.signal {
            Reach::Any => Outcome::NotAsked,
            Reach::None | Reach::Inside => self.landlocked(6),
        };
        self.settle(Protection::Signals, reach(processes.signal), outcome)?;
        if self.holds(Protection::Signals) {
            self.rules.scopes |= rights::SCOPE_SIGNAL;
        }
        let outcome = match processes.ptrace {
            Reach::Any => Outcome::NotAsked,
            Reach::None => self.filtered(),
            // A domain may look into what is below it, and nobody else (landlock(7), "Ptrace restrictions").
            Reach::Inside if self.holds(Protection::Files) => Outcome::by(Mechanism::Landlock),
            Reach::Inside => {
                Outcome::Nothing("it takes Landlock, and files aren't protected by it".to_owned())
            }
        };
        self.settle(Protection::Ptrace, reach(processes.ptrace), outcome)?;
        if self.holds(Protection::Ptrace) && processes.ptrace == Reach::None {
            self.filter(Group::Ptrace);
        }
        let outcome = self.filtered();
        self.settle(Protection::SystemCalls, "none of those on the list", outcome)?;
        if self.holds(Protection::SystemCalls) {
            self.filter(Group::SystemCalls);
        }
        Ok(())
    }

    /// What the keeper does for whoever is contained, on every machine.
    fn always(&mut self) -> Result<(), Refusal> {
        let kernel = self.profile.kernel;
        let asked = if kernel { "its standard three and its kernel" } else { "its standard three" };
        self.settle(Protection::Descriptors, asked, Outcome::by(Mechanism::CloseOnExec))?;
        self.plan.containment.kernel = kernel;
        let environment = &self.profile.environment;
        let asked = match environment.allow.as_slice() {
            [] => "the usual".to_owned(),
            allow => format!("the usual and {}", allow.join(", ")),
        };
        self.settle(Protection::Environment, asked, Outcome::by(Mechanism::CleanEnvironment))?;
        let outcome = match self.ability.filters() {
            true => Outcome::InForce(vec![Mechanism::OwnSession, Mechanism::Seccomp]),
            false => Outcome::Weaker(
                vec![Mechanism::OwnSession],
                "without a filter it may type into a terminal it is given".to_owned(),
            ),
        };
        self.settle(Protection::Terminal, "a session of its own", outcome)?;
        if self.holds(Protection::Terminal) && self.ability.filters() {
            self.filter(Group::Terminal);
        }
        self.settle(Protection::CoreDumps, "none", Outcome::by(Mechanism::Rlimit))?;
        self.plan.containment.core_bytes =
            self.holds(Protection::CoreDumps).then_some(u64::from(self.ability.cores_are_piped));
        Ok(())
    }

    fn tree_limits(&mut self) -> Result<(), Refusal> {
        let limits = self.profile.limits;
        let cgroup =
            |planner: &Planner<'_>, controller: &str| match planner.ability.cgroup.enforces(controller) {
                true => Outcome::by(Mechanism::Cgroup),
                false => Outcome::Nothing(without_cgroup(controller, planner.ability)),
            };
        match limits.memory_bytes {
            None => self.settle(Protection::Memory, "any", Outcome::NotAsked)?,
            Some(bytes) => {
                let outcome = match cgroup(self, "memory") {
                    Outcome::Nothing(reason) => {
                        // Stands in for it: each process apart, and addresses, not memory.
                        Outcome::Weaker(vec![Mechanism::Rlimit], reason)
                    }
                    outcome => outcome,
                };
                self.settle(Protection::Memory, format!("{bytes} bytes"), outcome)?;
                match self.plan.receipt.of(Protection::Memory).map(|entry| entry.standing) {
                    Some(Standing::InForce) => self.plan.tree.memory_bytes = Some(bytes),
                    Some(Standing::Weaker) => {
                        let number = platform::rlimit_number(Resource::AddressSpace);
                        self.plan.rlimits.extend(number.map(|number| (number, bytes)));
                    }
                    _ => {}
                }
            }
        }
        match limits.cpu_percent {
            None => self.settle(Protection::Cpu, "any", Outcome::NotAsked)?,
            Some(percent) => {
                let outcome = cgroup(self, "cpu");
                self.settle(Protection::Cpu, format!("{percent} percent of one"), outcome)?;
                self.plan.tree.cpu_percent = self.holds(Protection::Cpu).then_some(percent);
            }
        }
        match limits.pids {
            None => self.settle(Protection::Pids, "any", Outcome::NotAsked)?,
            Some(pids) => {
                let outcome = cgroup(self, "pids");
                self.settle(Protection::Pids, pids.to_string(), outcome)?;
                self.plan.tree.pids = self.holds(Protection::Pids).then_some(pids);
            }
        }
        Ok(())
    }

    fn rlimits(&mut self) -> Result<(), Refusal> {
        let wishes = &self.profile.rlimits;
        let words: Vec<String> =
            wishes.iter().map(|wish| format!("{} {}", wish.resource.name(), wish.value)).collect();
        let absent = wishes.iter().find(|wish| platform::rlimit_number(wish.resource).is_none());
        let outcome = match absent {
            _ if wishes.is_empty() => Outcome::NotAsked,
            None => Outcome::by(Mechanism::Rlimit),
            Some(wish) => {
                let reason = format!("this system has no limit of {}", wish.resource.name());
                Outcome::Weaker(vec![Mechanism::Rlimit], reason)
            }
        };
        self.settle(
            Protection::Rlimits,
            if words.is_empty() { "any".to_owned() } else { words.join(", ") },
            outcome,
        )?;
        if self.holds(Protection::Rlimits) {
            let numbers =
                wishes.iter().filter_map(|wish| Some((platform::rlimit_number(wish.resource)?, wish.value)));
            self.plan.rlimits.extend(numbers);
        }
        Ok(())
    }

    fn finish(mut self) -> Plan {
        self.rules.below = self.below.into_iter().collect();
        let some = self.rules.files | self.rules.ports | self.rules.scopes != 0;
        self.plan.containment.landlock = some.then_some(self.rules);
        self.plan.receipt.landlock_abi = self.ability.landlock_abi;
        self.plan.receipt.entries.sort_by_key(|entry| entry.protection);
        self.plan.containment.probes = probes(&self.plan.containment);
        self.plan
    }
}

/// What is tried inside. A path is tried only where nothing that is granted contains it.
fn probes(containment: &Containment) -> Vec<Probe> {
    let mut probes = Vec::new();
    if containment.unprivileged {
        probes.extend([Probe::NoNewPrivileges, Probe::Capabilities]);
    }
    if let Some(rules) = containment.landlock.as_ref().filter(|rules| rules.files != 0) {
        let granted = |path: &str, right: u64| {
            rules.below.iter().any(|(above, rights)| {
                rights & right != 0 && files::is_within(path, &String::from_utf8_lossy(above))
            })
        };
        let outside = |right: u64| OUTSIDE.iter().find(|path| !granted(path, right));
        probes.extend(outside(rights::READ_FILE).map(|path| Probe::Read(path.as_bytes().into())));
        probes.extend(outside(rights::WRITE_FILE).map(|path| Probe::Write(path.as_bytes().into())));
    }
    if let Some(namespaces) = &containment.later.namespaces {
        let first = |wanted: Denied| namespaces.denied.iter().find(|(_, denied)| *denied == wanted);
        // Root with its capabilities opens an empty folder that nobody may open.
        let hidden = first(Denied::Read).filter(|_| containment.unprivileged);
        probes.extend(hidden.map(|(path, _)| Probe::Hidden(path.clone())));
        probes.extend(first(Denied::Write).map(|(path, _)| Probe::Unchanged(path.clone())));
        let granted = |path: &&str| {
            let rules = containment.landlock.iter().flat_map(|rules| &rules.below);
            let mut changes = rules.filter(|(_, rights)| rights & rights::CHANGES != 0);
            changes.any(|(above, _)| files::is_within(path, &String::from_utf8_lossy(above)))
        };
        let outside = OUTSIDE.iter().find(|path| namespaces.read_only && !granted(path));
        probes.extend(outside.map(|path| Probe::Unchanged(path.as_bytes().into())));
        probes.extend(namespaces.network.then_some(Probe::NoRoute));
    }
    let filter = containment.filter;
    if !filter.is_empty() {
        probes.push(Probe::FilterMode);
    }
    let by_group = [
        (Group::SystemCalls, Probe::Ring),
        (Group::Ptrace, Probe::Trace),
        (Group::Families, Probe::PacketSocket),
        (Group::NoNetwork, Probe::InternetSocket),
        (Group::NoUnixSockets, Probe::UnixSocket),
        (Group::Terminal, Probe::TerminalInput),
    ];
    probes.extend(by_group.into_iter().filter(|(group, _)| filter.has(*group)).map(|(_, probe)| probe));
    probes
}

/// Files that are everywhere, whose opening does nothing.
const OUTSIDE: [&str; 4] = ["/etc/passwd", "/etc/group", "/proc/self/status", "/dev/full"];

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::None => "nobody",
        Reach::Inside => "inside",
        Reach::Any => "anybody",
    }
}

fn without_cgroup(controller: &str, ability: &Ability) -> String {
    let cgroup = &ability.cgroup;
    match (&cgroup.folder, cgroup.writable, &cgroup.withheld) {
        (None, _, _) => "no cgroup v2 is mounted".to_owned(),
        (Some(folder), false, _) => format!("the cgroup {} is not ours to write", folder.display()),
        (Some(_), true, Some(withheld)) => withheld.clone(),
        (Some(folder), true, None) => {
            format!("the controller {controller} is not delegated to {}", folder.display())
        }
    }
}

#[cfg(test)]
mod tests;
