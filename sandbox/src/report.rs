//! What an ability means for whoever runs Kairo here: one finding per guarantee, for people and for programs.

use crate::ability::{Ability, Answer};
use crate::plan::{Place, Plan};
use crate::profile::{Files, Network, ProcessLimit, Profile, Resource, TreeLimits, UnixSockets};
use crate::protection::Protection;
use crate::receipt::{Entry, Standing};
use serde::Serialize;
use std::fmt;

/// All findings, most important first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Operating system and release.
    pub system: String,
    /// One per guarantee.
    pub findings: Vec<Finding>,
    /// One per protection of a sandbox that somebody asks for in full: what it can be enforced by here.
    pub ladder: Vec<Finding>,
}

/// One guarantee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What is guaranteed, in camel case.
    pub name: &'static str,
    /// Whether it is.
    pub status: Status,
    /// What was found and what that means.
    pub detail: String,
}

/// Whether a guarantee holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// As far as it goes.
    Holds,
    /// With the restriction the detail names.
    Partly,
    /// Not here.
    Missing,
}

impl Report {
    /// Reads an ability.
    pub fn new(ability: &Ability) -> Report {
        let findings = vec![
            exact_trees(ability),
            tree_limits(ability),
            peers(ability),
            signals(ability),
            driver(ability),
            streams(ability),
            pipes(ability),
            files(ability),
            calls(ability),
            namespaces(ability),
            divided(
                "mountNamespaces",
                &ability.namespaces.mount,
                "paths denied inside allowed folders",
                ability,
            ),
            divided("networkNamespaces", &ability.namespaces.network, "a loopback of its own", ability),
            descriptors(ability),
            programs(ability),
            violations(ability),
        ];
        Report { system: ability.system.clone(), findings, ladder: ladder(ability) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.system)?;
        for finding in &self.findings {
            let mark = match finding.status {
                Status::Holds => "yes   ",
                Status::Partly => "partly",
                Status::Missing => "no    ",
            };
            writeln!(f, "  {mark}  {:<18} {}", finding.name, finding.detail)?;
        }
        Ok(())
    }
}

/// Everything there is to ask for, and what comes of it where less is accepted too.
fn ladder(ability: &Ability) -> Vec<Finding> {
    let inside = || vec!["/a".to_owned()];
    let profile = Profile {
        files: Files { read: inside(), deny_read: vec!["/a/b".to_owned()], ..Files::default() },
        network: Network { connect: vec![443], loopback: vec![80], domains: inside(), ..Network::default() },
        unix_sockets: UnixSockets { paths: inside(), any: false },
        limits: TreeLimits { memory_bytes: Some(1), cpu_percent: Some(1), pids: Some(1) },
        rlimits: vec![ProcessLimit { resource: Resource::Core, value: 0 }],
        accept_weaker: Protection::ALL.iter().copied().collect(),
        ..Profile::default()
    };
    let plan = Plan::new(&profile, ability, &Place { uid: ability.uid, ..Place::default() });
    let entries = plan.map(|plan| plan.receipt.entries).unwrap_or_default();
    let rung = |entry: Entry| {
        let by: Vec<&str> = entry.by.iter().map(|by| by.name()).collect();
        let status = match entry.standing {
            Standing::InForce | Standing::NotAsked => Status::Holds,
            Standing::Weaker => Status::Partly,
            Standing::Absent => Status::Missing,
        };
        let detail = match (by.is_empty(), entry.reason) {
            (false, Some(reason)) => format!("{}: {reason}", by.join(", ")),
            (true, Some(reason)) => reason,
            (_, None) => by.join(", "),
        };
        finding(entry.protection.name(), status, detail)
    };
    entries.into_iter().map(rung).collect()
}

fn finding(name: &'static str, status: Status, detail: impl Into<String>) -> Finding {
    Finding { name, status, detail: detail.into() }
}

fn exact_trees(ability: &Ability) -> Finding {
    let name = "exactTrees";
    let cgroup = &ability.cgroup;
    match (&cgroup.folder, cgroup.writable) {
        (Some(folder), true) => {
            let kill = if cgroup.kill { ", killed at once" } else { ", killed one by one" };
            finding(name, Status::Holds, format!("a cgroup per session below {}{kill}", folder.display()))
        }
        (folder, _) => {
            let why = folder.as_ref().map_or("no cgroup v2 is mounted".to_owned(), |folder| {
                format!("the cgroup {} is not ours to write", folder.display())
            });
            let best = "trees are known by parentage and KAIRO_SESSION";
            match ability.subreaper && ability.children_listed {
                true => finding(name, Status::Partly, format!("{why}; {best}")),
                false => finding(name, Status::Missing, format!("{why}, and orphans can't be found again")),
            }
        }
    }
}

fn tree_limits(ability: &Ability) -> Finding {
    let name = "treeLimits";
    let cgroup = &ability.cgroup;
    let missing: Vec<&str> =
        ["memory", "cpu", "pids"].into_iter().filter(|limit| !cgroup.enforces(limit)).collect();
    let why = cgroup.withheld.clone().unwrap_or_else(|| "no controller is delegated to us".to_owned());
    let enforced = cgroup.controllers.join(", ");
    match missing.as_slice() {
        [] => finding(name, Status::Holds, format!("{enforced}, by cgroup")),
        [_, _, _] => {
            finding(name, Status::Missing, format!("{why}; limits are refused unless weaker is allowed"))
        }
        some => finding(name, Status::Partly, format!("{enforced} by cgroup; not {}", some.join(", "))),
    }
}

fn peers(ability: &Ability) -> Finding {
    let name = "peerIdentity";
    match (ability.peer_pidfd, ability.pidfd) {
        (true, _) => finding(name, Status::Holds, "a socket names its peer for good (SO_PEERPIDFD)"),
        (false, true) => {
            finding(name, Status::Partly, "by pid and start time (SO_PEERPIDFD came with Linux 6.5)")
        }
        (false, false) => finding(name, Status::Missing, "by pid alone, which may be reused: least rights"),
    }
}

fn signals(ability: &Ability) -> Finding {
    let name = "safeSignals";
    match ability.pidfd {
        true => finding(name, Status::Holds, "descendants are signalled by handle (pidfd)"),
        false => finding(name, Status::Partly, "descendants are signalled by pid after a check"),
    }
}

fn driver(ability: &Ability) -> Finding {
    match &ability.io_uring {
        Answer::Allowed => finding("ioUring", Status::Holds, "the uring driver runs"),
        Answer::Refused(reason) => {
            finding("ioUring", Status::Missing, format!("{reason}; the poll driver runs instead"))
        }
    }
}

fn streams(ability: &Ability) -> Finding {
    let name = "exactCounting";
    match (ability.splice, ability.memfd_seals) {
        (true, true) => {
            finding(name, Status::Holds, "splice and sealed memory: no byte is lost with the kernel")
        }
        (true, false) => finding(name, Status::Partly, "memory can't be sealed: no shared transport"),
        (false, _) => {
            finding(name, Status::Missing, "no splice: bytes on their way are lost with the kernel")
        }
    }
}

fn pipes(ability: &Ability) -> Finding {
    let name = "largePipes";
    let pipes = ability.pipes;
    let detail = match (ability.uid, pipes.user_pages_soft) {
        (0, _) | (_, 0) => format!("up to {} KiB each", pipes.bytes_max / 1024),
        (_, pages) => format!("up to {} KiB each, {pages} pages in all, then small", pipes.bytes_max / 1024),
    };
    let status = if pipes.bytes_max >= 1 << 20 { Status::Holds } else { Status::Partly };
    finding(name, status, detail)
}

fn files(ability: &Ability) -> Finding {
    match ability.landlock_abi {
        0 if ability.sandbox_exec => {
            let detail = "files, sockets and signals are contained by a profile; no system calls";
            finding("sandboxExec", Status::Partly, detail)
        }
        0 => finding("landlock", Status::Missing, "file access can't be contained by an ordinary user"),
        abi => finding("landlock", Status::Holds, format!("ABI {abi}")),
    }
}

fn calls(ability: &Ability) -> Finding {
    match (ability.seccomp_filter, ability.seccomp_user_notification) {
        (true, true) => finding("seccomp", Status::Holds, "filters and supervised calls"),
        (true, false) => finding("seccomp", Status::Partly, "filters, no supervised calls"),
        (false, _) => finding("seccomp", Status::Missing, "system calls can't be filtered"),
    }
}

fn namespaces(ability: &Ability) -> Finding {
    match &ability.user_namespaces {
        Answer::Allowed => finding("userNamespaces", Status::Holds, "allowed by the settings"),
        Answer::Refused(reason) => finding("userNamespaces", Status::Missing, reason.clone()),
    }
}

fn programs(ability: &Ability) -> Finding {
    match &ability.exec_stop {
        Answer::Allowed => {
            finding("programDigests", Status::Holds, "a program is read and compared before it runs")
        }
        Answer::Refused(why) => {
            finding("programDigests", Status::Missing, format!("a wish for one is refused: {why}"))
        }
    }
}

fn violations(ability: &Ability) -> Finding {
    let name = "sandboxViolations";
    match (&ability.denied_calls, &ability.denied_files) {
        (Answer::Allowed, Answer::Allowed) => {
            finding(name, Status::Holds, "denied calls and accesses are told")
        }
        (Answer::Allowed, Answer::Refused(files)) => {
            finding(name, Status::Partly, format!("denied calls are told, accesses aren't: {files}"))
        }
        (Answer::Refused(calls), _) => {
            finding(name, Status::Missing, format!("only that the filter ended a program is told: {calls}"))
        }
    }
}

fn divided(name: &'static str, answer: &Answer, what_for: &str, ability: &Ability) -> Finding {
    let by = if ability.namespaces.user { "by way of a user namespace, for its own user" } else { "as root" };
    match answer {
        Answer::Allowed => finding(name, Status::Holds, format!("{what_for}; {by}")),
        Answer::Refused(reason) => finding(name, Status::Missing, format!("no {what_for}: {reason}")),
    }
}

fn descriptors(ability: &Ability) -> Finding {
    let limit = ability.rlimits.iter().find(|limit| limit.name == "descriptors").and_then(|limit| limit.hard);
    match limit {
        Some(hard) if hard < 65_536 => {
            let detail = format!("{hard} at most: about {} processes at once", hard / 4);
            finding("descriptors", Status::Partly, detail)
        }
        Some(hard) => finding("descriptors", Status::Holds, format!("{hard}")),
        None => finding("descriptors", Status::Holds, "unlimited"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reported_whole() {
        let ability = Ability::probe();
        let report = Report::new(&ability);
        assert_eq!(report.findings.len(), 15);
        let rungs: Vec<&str> = report.ladder.iter().map(|rung| rung.name).collect();
        assert_eq!(rungs, Protection::ALL.iter().map(|protection| protection.name()).collect::<Vec<_>>());
        assert!(report.ladder.iter().all(|rung| !rung.detail.is_empty()));
        let text = report.to_string();
        assert!(report.findings.iter().all(|finding| text.contains(finding.name)), "{text}");
        assert!(text.starts_with(&ability.system));
    }

    #[test]
    fn probing_leaves_no_descriptor_behind() {
        let count = || std::fs::read_dir("/dev/fd").map(Iterator::count).unwrap_or_default();
        let leaves_none = |_| {
            let before = count();
            Ability::probe();
            count() == before
        };
        // Another test may open and close some meanwhile; what leaks, leaks each time.
        assert!((0..20).any(leaves_none));
    }
}
