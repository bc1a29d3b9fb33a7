//! From what is asked for and what can be enforced to what will be done, or to a refusal that names the limit.
//!
//! Pure. Invariant: every limit of the profile is in the receipt exactly once, and one that is planned weaker
//! than asked for is there only because the profile accepted that.

use super::platform;
use crate::ability::Ability;
use crate::profile::{Profile, Resource, TreeLimits};
use crate::protection::Protection;
use serde::Serialize;

/// What the keeper is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Limits of the tree, for its cgroup.
    pub tree: TreeLimits,
    /// RLIMIT_* number of this platform, and value for soft and hard.
    pub rlimits: Vec<(u32, u64)>,
    /// What will be in force if all goes as planned.
    pub receipt: Receipt,
}

/// Asked for beside in force, limit by limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// In the order asked for.
    pub entries: Vec<Entry>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `memory`, `cpu`, `pids` or a resource's name.
    pub limit: String,
    /// Bytes, percent of one CPU, or a count.
    pub asked: u64,
    /// What enforces it and at which value; none: nothing does.
    pub in_force: Option<InForce>,
    /// Why it isn't in force as asked for.
    pub reason: Option<String>,
}

/// What enforces a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InForce {
    /// By what.
    pub mechanism: Mechanism,
    /// In the limit's unit.
    pub value: u64,
}

/// A way to enforce a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mechanism {
    /// cgroup v2: the tree together.
    Cgroup,
    /// setrlimit(2): each process apart.
    Rlimit,
}

/// A limit this machine can't enforce, and weaker wasn't accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("limit {limit} = {asked} cannot be enforced here: {reason}")]
pub struct Refusal {
    /// `memory`, `cpu`, `pids` or a resource's name.
    pub limit: String,
    /// What was asked for.
    pub asked: u64,
    /// Why not.
    pub reason: String,
}

impl Plan {
    /// Holds a profile against a machine.
    pub fn new(profile: &Profile, ability: &Ability) -> Result<Plan, Refusal> {
        let mut plan = Plan::default();
        for (protection, asked) in asked_for(&profile.limits) {
            plan.add_tree_limit(protection.name(), asked, profile.accepts_weaker(protection), ability)?;
        }
        for wish in &profile.rlimits {
            plan.add_rlimit(wish.resource, wish.value, profile.accepts_weaker(Protection::Rlimits))?;
        }
        Ok(plan)
    }

    fn add_tree_limit(
        &mut self,
        limit: &str,
        asked: u64,
        allow_weaker: bool,
        ability: &Ability,
    ) -> Result<(), Refusal> {
        let mut entry = Entry { limit: limit.to_owned(), asked, in_force: None, reason: None };
        if ability.cgroup.enforces(limit) {
            entry.in_force = Some(InForce { mechanism: Mechanism::Cgroup, value: asked });
        } else {
            let reason = without_cgroup(limit, ability);
            if !allow_weaker {
                return Err(Refusal { limit: limit.to_owned(), asked, reason });
            }
            // RLIMIT_AS stands in for memory, set by the keeper; nothing can for the others.
            if limit == "memory" {
                entry.in_force = Some(InForce { mechanism: Mechanism::Rlimit, value: asked });
            }
            entry.reason = Some(reason);
        }
        match limit {
            "memory" => self.tree.memory_bytes = Some(asked),
            "cpu" => self.tree.cpu_percent = Some(u32::try_from(asked).unwrap_or(u32::MAX)),
            _ => self.tree.pids = Some(asked),
        }
        self.receipt.entries.push(entry);
        Ok(())
    }

    fn add_rlimit(&mut self, resource: Resource, value: u64, allow_weaker: bool) -> Result<(), Refusal> {
        let limit = resource.name().to_owned();
        let Some(number) = platform::rlimit_number(resource) else {
            let reason = "this system has no such limit".to_owned();
            if !allow_weaker {
                return Err(Refusal { limit, asked: value, reason });
            }
            self.receipt.entries.push(Entry { limit, asked: value, in_force: None, reason: Some(reason) });
            return Ok(());
        };
        self.rlimits.push((number, value));
        let in_force = Some(InForce { mechanism: Mechanism::Rlimit, value });
        self.receipt.entries.push(Entry { limit, asked: value, in_force, reason: None });
        Ok(())
    }
}

impl Receipt {
    /// Corrects what was planned by what the keeper says came of the tree's limits: (`memory` | `cpu` | `pids`,
    /// mechanism, value). A planned limit it doesn't name isn't in force.
    pub fn settle(&mut self, in_force: &[(&str, Mechanism, u64)]) {
        for entry in self.entries.iter_mut().filter(|entry| TREE_LIMITS.contains(&entry.limit.as_str())) {
            let found = in_force.iter().find(|(limit, _, _)| *limit == entry.limit);
            let settled = found.map(|(_, mechanism, value)| InForce { mechanism: *mechanism, value: *value });
            let weaker = settled.is_none_or(|settled| settled.mechanism != Mechanism::Cgroup);
            if weaker && entry.reason.is_none() {
                entry.reason = Some("the cgroup could not be made".to_owned());
            }
            entry.in_force = settled;
        }
    }
}

const TREE_LIMITS: [&str; 3] = ["memory", "cpu", "pids"];

fn asked_for(limits: &TreeLimits) -> impl Iterator<Item = (Protection, u64)> {
    let values = [limits.memory_bytes, limits.cpu_percent.map(u64::from), limits.pids];
    [Protection::Memory, Protection::Cpu, Protection::Pids]
        .into_iter()
        .zip(values)
        .filter_map(|(limit, value)| Some((limit, value?)))
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
mod tests {
    use super::*;
    use crate::ability::{Answer, Cgroup, Pipes};
    use crate::profile::ProcessLimit;

    fn machine(controllers: &[&str]) -> Ability {
        Ability {
            system: "Pretended 1.0".into(),
            uid: 1000,
            landlock_abi: 0,
            seccomp_filter: false,
            seccomp_user_notification: false,
            user_namespaces: Answer::Allowed,
            cgroup: Cgroup {
                folder: Some("/cgroup".into()),
                writable: true,
                kill: true,
                controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
                withheld: None,
            },
            pidfd: true,
            peer_pidfd: false,
            subreaper: true,
            children_listed: true,
            io_uring: Answer::Allowed,
            memfd_seals: true,
            splice: true,
            pipes: Pipes::default(),
            rlimits: Vec::new(),
        }
    }

    fn wish(allow_weaker: bool) -> Profile {
        let limits = TreeLimits { memory_bytes: Some(1 << 20), cpu_percent: Some(150), pids: Some(10) };
        let rlimits = vec![ProcessLimit { resource: Resource::Core, value: 0 }];
        let weaker =
            [Protection::Memory, Protection::Cpu, Protection::Pids].into_iter().filter(|_| allow_weaker);
        Profile { limits, rlimits, accept_weaker: weaker.collect(), ..Profile::default() }
    }

    #[test]
    fn delegated_controllers_enforce_what_was_asked_for() {
        let plan = Plan::new(&wish(false), &machine(&["memory", "cpu", "pids"])).unwrap();
        assert_eq!(plan.tree.memory_bytes, Some(1 << 20));
        assert_eq!((plan.tree.cpu_percent, plan.tree.pids), (Some(150), Some(10)));
        let limits: Vec<&str> = plan.receipt.entries.iter().map(|entry| entry.limit.as_str()).collect();
        assert_eq!(limits, ["memory", "cpu", "pids", "core"]);
        assert!(plan.receipt.entries.iter().all(|entry| {
            entry.reason.is_none() && entry.in_force.is_some_and(|force| force.value == entry.asked)
        }));
        assert_eq!(plan.rlimits.len(), 1);
    }

    #[test]
    fn a_limit_that_cannot_be_enforced_is_refused_by_name() {
        let refusal = Plan::new(&wish(false), &machine(&["memory"])).unwrap_err();
        assert_eq!((refusal.limit.as_str(), refusal.asked), ("cpu", 150));
        assert!(refusal.reason.contains("not delegated"), "{refusal}");
        let mut nowhere = machine(&[]);
        nowhere.cgroup = Cgroup::default();
        assert!(Plan::new(&wish(false), &nowhere).unwrap_err().reason.contains("no cgroup v2"));
    }

    #[test]
    fn accepting_weaker_gives_an_rlimit_for_memory_and_nothing_for_cpu_and_says_so() {
        let plan = Plan::new(&wish(true), &machine(&["pids"])).unwrap();
        let [memory, cpu, pids, _] = plan.receipt.entries.as_slice() else { panic!("four were asked for") };
        assert_eq!(memory.in_force.unwrap().mechanism, Mechanism::Rlimit);
        assert!(memory.reason.is_some());
        assert!(cpu.in_force.is_none() && cpu.reason.is_some());
        assert_eq!(pids.in_force.unwrap().mechanism, Mechanism::Cgroup);
    }

    #[test]
    fn the_keeper_has_the_last_word() {
        let mut receipt = Plan::new(&wish(true), &machine(&["memory", "cpu", "pids"])).unwrap().receipt;
        receipt.settle(&[("memory", Mechanism::Rlimit, 1 << 20)]);
        let [memory, cpu, _, core] = receipt.entries.as_slice() else { panic!("four were asked for") };
        assert_eq!(memory.in_force.unwrap().mechanism, Mechanism::Rlimit);
        assert!(memory.reason.is_some() && cpu.in_force.is_none() && cpu.reason.is_some());
        assert!(core.in_force.is_some() && core.reason.is_none());
    }

    #[test]
    fn nothing_asked_for_is_nothing_planned() {
        let plan = Plan::new(&Profile::default(), &machine(&[])).unwrap();
        assert_eq!(plan, Plan::default());
    }
}
