//! What this machine guarantees: `kairo doctor`, and the facts a kernel answers `kernel.doctor` with.
//!
//! The sandbox crate asks the machine and judges; here each finding gets what a person can do about it. Nothing is
//! changed by asking.

use kairo_sandbox::ability::Ability;
use kairo_sandbox::report::{Finding as Judged, Report, Status};
use kairo_wire::methods::system::Fact;
use serde::Serialize;

/// One guarantee here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// A short name, stable across releases.
    pub(crate) name: String,
    /// Whether it holds.
    pub(crate) standing: Standing,
    /// What was found, and what that means.
    pub(crate) value: String,
    /// What to do about it, if it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

/// Whether a guarantee holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// In full.
    Holds,
    /// With a restriction that is named.
    Partly,
    /// Not here.
    Lacks,
}

/// Asks the machine.
pub(crate) fn findings() -> Vec<Finding> {
    told(&Ability::probe())
}

fn told(ability: &Ability) -> Vec<Finding> {
    let report = Report::new(ability);
    let system = Finding {
        name: "system".to_owned(),
        standing: Standing::Holds,
        value: report.system.clone(),
        advice: None,
    };
    // What can't be enforced is refused by these names when somebody asks for it.
    let rung =
        |judged: Judged| Finding { name: format!("sandbox.{}", judged.name), advice: None, ..judge(judged) };
    let (guarantees, ladder) = (report.findings.into_iter().map(judge), report.ladder.into_iter().map(rung));
    std::iter::once(system).chain(guarantees).chain(ladder).collect()
}

/// The same as the wire has it.
pub(crate) fn facts(ability: &Ability) -> Vec<Fact> {
    let fact = |finding: Finding| Fact {
        holds: finding.standing == Standing::Holds,
        name: finding.name,
        value: finding.value,
        advice: finding.advice,
    };
    told(ability).into_iter().map(fact).collect()
}

fn judge(judged: Judged) -> Finding {
    let standing = match judged.status {
        Status::Holds => Standing::Holds,
        Status::Partly => Standing::Partly,
        Status::Missing => Standing::Lacks,
    };
    let advice = match standing {
        Standing::Holds => None,
        Standing::Partly | Standing::Lacks => advice(judged.name).map(str::to_owned),
    };
    Finding { name: judged.name.to_owned(), standing, value: judged.detail, advice }
}

/// What to do about a guarantee that does not hold in full.
fn advice(name: &str) -> Option<&'static str> {
    Some(match name {
        "exactTrees" => "run the daemon in a cgroup of its own that it may write (systemd: Delegate=yes)",
        "treeLimits" => {
            "delegate controllers (systemd: dist/systemd/kairo.service.d/limits.conf), or pass --allow-weaker"
        }
        "peerIdentity" | "safeSignals" => "a newer kernel has it: Linux 6.5",
        "ioUring" => {
            "allow io_uring (sysctl kernel.io_uring_disabled=0, and the container's seccomp profile)"
        }
        "largePipes" => "raise fs.pipe-user-pages-soft, or run fewer streams with large pipes",
        "descriptors" => "raise the hard limit of open files (ulimit -Hn, systemd: LimitNOFILE=)",
        "sandboxViolations" => {
            "run the daemon as root, or with CAP_AUDIT_READ; for accesses turn the audit on (auditctl -e 1; Linux 6.15)"
        }
        "landlock" => "boot a kernel with lsm=landlock; containment takes it",
        "seccomp" => "a kernel with CONFIG_SECCOMP_FILTER has it; containment takes it",
        "mountNamespaces" | "networkNamespaces" => {
            "allow user namespaces, or run the daemon as root with CAP_SYS_ADMIN"
        }
        "userNamespaces" => "allow them (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_a_name_and_says_what_it_means() {
        let findings = findings();
        assert!(findings.len() > 5);
        for finding in &findings {
            assert!(!finding.name.is_empty() && !finding.value.is_empty(), "{finding:?}");
        }
        assert_eq!(facts(&Ability::probe()).len(), findings.len());
    }

    #[test]
    fn advice_is_given_exactly_where_something_is_missing() {
        let judged = |status| judge(Judged { name: "ioUring", status, detail: "x".to_owned() });
        assert_eq!(judged(Status::Holds).advice, None);
        assert!(judged(Status::Missing).advice.is_some());
        assert_eq!(judged(Status::Partly).standing, Standing::Partly);
    }
}
