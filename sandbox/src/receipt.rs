//! The receipt: what was asked for beside what is in force, protection by protection, and what was seen inside.
//!
//! Invariant: every protection is listed once, whether asked for or not; one that is weaker than asked for has a reason.

use crate::containment::{Containment, Finding, Mounted};
use crate::protection::{Protection, Strength};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Asked for beside in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Operating system and release.
    pub system: String,
    /// Landlock's ABI; 0 for none.
    pub landlock_abi: u32,
    /// The filter in force; none if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<Filter>,
    /// The `sandbox-exec` profile in force; none if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sandbox_profile: Option<SandboxProfile>,
    /// One per protection.
    pub entries: Vec<Entry>,
    /// What was tried inside, just before exec.
    pub probes: Vec<Seen>,
    /// Paths that were granted and grant nothing: they don't exist here, or are reached by a symbolic link that isn't
    /// followed (none is to where things are changed, and only root's to where they are read).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<String>,
    /// Names of variables it was not given though they were there.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub withheld: Vec<String>,
    /// What is as asked for and still worth knowing.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// A filter by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Its length.
    pub instructions: u32,
}

/// A profile of `sandbox-exec`'s by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxProfile {
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// Its length.
    pub bytes: u32,
}

/// One protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Which.
    pub protection: Protection,
    /// How much it was insisted on.
    pub strength: Strength,
    /// What may be done, in words.
    pub asked: String,
    /// What came of it.
    pub standing: Standing,
    /// By what.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub by: Vec<Mechanism>,
    /// Why it isn't in force as asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// What came of a protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// In force as asked for.
    InForce,
    /// In force, and weaker than asked for, which was accepted.
    Weaker,
    /// Not in force, which was accepted.
    Absent,
    /// Nothing was asked for.
    NotAsked,
}

/// A way to enforce something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mechanism {
    /// A Landlock ruleset.
    Landlock,
    /// A system call filter.
    Seccomp,
    /// `no_new_privs`, and no capabilities.
    Unprivileged,
    /// Descriptors are closed at exec, by number.
    CloseOnExec,
    /// The environment is made anew.
    CleanEnvironment,
    /// A session of its own (setsid(2)).
    OwnSession,
    /// cgroup v2: the tree together.
    Cgroup,
    /// setrlimit(2): each process apart.
    Rlimit,
    /// A profile that macOS' `sandbox-exec` applies.
    SandboxExec,
    /// A mount namespace: paths lead elsewhere.
    MountNamespace,
    /// A network namespace: a network that is nobody else's.
    NetworkNamespace,
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Which.
    pub probe: String,
    /// On what, if it is about a path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<String>,
    /// The errno it met, or the value it read back.
    pub saw: i32,
}

impl Receipt {
    /// Adds what whoever applied it met.
    pub fn complete(&mut self, containment: &Containment, finding: &Finding) {
        self.landlock_abi = finding.abi;
        let filter = finding.filter.clone();
        self.filter = filter.map(|(digest, instructions)| Filter { digest, instructions });
        let profile = finding.profile.clone();
        self.sandbox_profile = profile.map(|(digest, bytes)| SandboxProfile { digest, bytes });
        let below = containment.landlock.as_ref().map(|rules| rules.below.as_slice()).unwrap_or_default();
        let missing = finding.missing.iter().filter_map(|place| below.get(*place as usize));
        self.missing = missing.map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
        if let Some(mounted) = &finding.mounted {
            self.complete_denied(containment, mounted);
        }
        self.probes = (containment.probes.iter().zip(&finding.probes))
            .map(|(probe, saw)| {
                let path = probe.path().map(|path| String::from_utf8_lossy(path).into_owned());
                Seen { probe: probe.name().to_owned(), path, saw: *saw }
            })
            .collect();
    }

    /// What became of denied paths. One that is left alone was accepted to be.
    fn complete_denied(&mut self, containment: &Containment, mounted: &Mounted) {
        let denied = containment.later.namespaces.as_ref().map_or(&[][..], |namespaces| &namespaces.denied);
        let left: Vec<_> = (mounted.left.iter())
            .filter_map(|place| denied.get(*place as usize))
            .map(|(path, _)| String::from_utf8_lossy(path))
            .collect();
        let entry = self.entries.iter_mut().find(|entry| entry.protection == Protection::DeniedPaths);
        if let (Some(entry), false) = (entry, left.is_empty()) {
            entry.standing = Standing::Weaker;
            entry.reason = Some(format!(
                "not there, behind a link that could be replaced, or there by another name too: {}",
                left.join(", ")
            ));
        }
        let placeholders = mounted.placeholders.iter().map(|path| String::from_utf8_lossy(path));
        self.warnings.extend(
            placeholders.map(|path| format!("an empty folder stands at {path} for as long as it runs")),
        );
    }

    /// The entry of a protection.
    pub fn of(&self, protection: Protection) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.protection == protection)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let abi = match self.landlock_abi {
            0 => "no Landlock".to_owned(),
            abi => format!("Landlock ABI {abi}"),
        };
        write!(f, "{}, {abi}", self.system)?;
        if let Some(filter) = &self.filter {
            write!(
                f,
                ", filter {} ({} instructions)",
                &filter.digest[..16.min(filter.digest.len())],
                filter.instructions
            )?;
        }
        if let Some(profile) = &self.sandbox_profile {
            let digest = &profile.digest[..16.min(profile.digest.len())];
            write!(f, ", sandbox-exec profile {digest} ({} bytes)", profile.bytes)?;
        }
        writeln!(f)?;
        for entry in &self.entries {
            let standing = match entry.standing {
                Standing::InForce => "in force",
                Standing::Weaker => "WEAKER",
                Standing::Absent => "ABSENT",
                Standing::NotAsked => "-",
            };
            let by: Vec<String> = entry.by.iter().map(|by| by.name().to_owned()).collect();
            write!(f, "  {:<15} {standing:<9} {}", entry.protection.name(), entry.asked)?;
            if !by.is_empty() {
                write!(f, " [{}]", by.join(", "))?;
            }
            match &entry.reason {
                Some(reason) => writeln!(f, ": {reason}")?,
                None => writeln!(f)?,
            }
        }
        let probes: Vec<String> =
            self.probes.iter().map(|seen| format!("{} {}", seen.probe, seen.saw)).collect();
        if !probes.is_empty() {
            writeln!(f, "  probes          {}", probes.join(", "))?;
        }
        for (what, list) in
            [("not there", &self.missing), ("withheld", &self.withheld), ("warning", &self.warnings)]
        {
            if !list.is_empty() {
                writeln!(f, "  {what:<15} {}", list.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Mechanism {
    /// What it is, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Mechanism::MountNamespace => "mount namespace",
            Mechanism::NetworkNamespace => "network namespace",
            other => other.name(),
        }
    }

    /// The name in a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Landlock => "landlock",
            Mechanism::Seccomp => "seccomp",
            Mechanism::Unprivileged => "unprivileged",
            Mechanism::CloseOnExec => "closeOnExec",
            Mechanism::CleanEnvironment => "cleanEnvironment",
            Mechanism::OwnSession => "ownSession",
            Mechanism::Cgroup => "cgroup",
            Mechanism::Rlimit => "rlimit",
            Mechanism::SandboxExec => "sandboxExec",
            Mechanism::MountNamespace => "mountNamespace",
            Mechanism::NetworkNamespace => "networkNamespace",
        }
    }
}
