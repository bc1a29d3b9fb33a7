//! What is asked for, as data, not yet held against any machine.
//!
//! Deny by default: an empty profile allows nothing but to run without files, network, other processes or devices
//! beyond the harmless ones, and an empty list means none. What is true of a profile by itself (paths that make
//! sense, lists within bounds) is checked by [`Profile::check`]; what a machine can make of it is the
//! [`plan`](crate::plan)'s.
//!
//! A path is absolute, or begins with `~/` (the home folder of whoever runs it) or `./` (its working folder), has no
//! `..` and stands for itself and all below it.

use crate::protection::{Protection, Strength};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Longest list of a profile.
pub const ENTRIES_MAX: usize = 1_024;
/// Longest path, name or value, bytes.
pub const TEXT_BYTES_MAX: usize = 4_095;

/// A wish: what a process may use, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Profile {
    /// Files and folders.
    pub files: Files,
    /// Other machines, and this one by way of the network.
    pub network: Network,
    /// Other processes by way of the file system.
    pub unix_sockets: UnixSockets,
    /// Other processes.
    pub processes: Processes,
    /// Devices.
    pub devices: Devices,
    /// Variables.
    pub environment: Environment,
    /// A connection to its kernel, as the skill it is: `KAIRO_IPC_FD`.
    pub kernel: bool,
    /// Limits of the tree as a whole.
    pub limits: TreeLimits,
    /// Limits of each process apart, setrlimit(2): soft and hard alike.
    pub rlimits: Vec<ProcessLimit>,
    /// How much each protection is insisted on; what is absent is required.
    pub protections: BTreeMap<Protection, Strength>,
    /// Protections that may be weaker than asked for where this machine has nothing better.
    pub accept_weaker: BTreeSet<Protection>,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            files: Files::default(),
            network: Network::default(),
            unix_sockets: UnixSockets::default(),
            processes: Processes::default(),
            devices: Devices::default(),
            environment: Environment::default(),
            kernel: true,
            limits: TreeLimits::default(),
            rlimits: Vec::new(),
            protections: BTreeMap::new(),
            accept_weaker: BTreeSet::new(),
        }
    }
}

/// Files and folders, by what may be done there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Files {
    /// Read files and list folders.
    pub read: Vec<String>,
    /// Change what is there.
    pub write: Vec<String>,
    /// Run programs and their loaders, which are read for that.
    pub execute: Vec<String>,
    /// Make files, folders, links, fifos and sockets; move things here from another folder.
    pub create: Vec<String>,
    /// Remove files and folders; move things from here to another folder.
    pub delete: Vec<String>,
    /// Change modes, owners and attributes of what may be changed. Where no mount namespace can be had, nobody can say of
    /// what: then it is of whatever its user may, and has to be accepted.
    pub metadata: bool,
    /// Not to be read, though a folder above may be.
    pub deny_read: Vec<String>,
    /// Not to be changed, made or removed, though that may be done in a folder above.
    pub deny_write: Vec<String>,
}

impl Files {
    /// Every list with its name.
    pub fn lists(&self) -> [(&'static str, &[String]); 7] {
        [
            ("read", &self.read),
            ("write", &self.write),
            ("execute", &self.execute),
            ("create", &self.create),
            ("delete", &self.delete),
            ("denyRead", &self.deny_read),
            ("denyWrite", &self.deny_write),
        ]
    }
}

/// The network: nothing unless listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    /// TCP ports of any host that may be connected to.
    pub connect: Vec<u16>,
    /// TCP ports that may be listened on; 0 for any the system chooses.
    pub bind: Vec<u16>,
    /// TCP ports of this machine only, to connect to and to listen on.
    pub loopback: Vec<u16>,
    /// Hosts by name, `example.org` or `*.example.org`.
    pub domains: Vec<String>,
    /// UDP, to and from anywhere: names are looked up with it.
    pub udp: bool,
    /// A network of its own instead: a loopback that nobody else is on, with every port of TCP and UDP, and no other
    /// machine. What listens on this machine's loopback isn't there.
    pub private: bool,
}

/// Unix sockets: none of its own unless listed. Pairs (socketpair) and descriptors it was given always work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UnixSockets {
    /// Sockets that may be connected to.
    pub paths: Vec<String>,
    /// Any.
    pub any: bool,
}

/// What may be done to other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Processes {
    /// Who may be sent signals.
    pub signal: Reach,
    /// Who may be looked into and debugged.
    pub ptrace: Reach,
}

impl Default for Processes {
    fn default() -> Processes {
        Processes { signal: Reach::Inside, ptrace: Reach::None }
    }
}

/// How far something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reach {
    /// To nobody.
    None,
    /// To processes it has started, itself or through others, since it is contained.
    Inside,
    /// To whoever its user may reach.
    Any,
}

/// Devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Devices {
    /// The harmless ones: null, zero, full, random, urandom, and the terminal it is on.
    pub basic: bool,
    /// Others, by path, to be read, written and commanded.
    pub allow: Vec<String>,
}

impl Default for Devices {
    fn default() -> Devices {
        Devices { basic: true, allow: Vec::new() }
    }
}

/// Variables. What the kernel gives every child (`PATH`, `HOME`, `LANG` …) is there, and what the request gives; hooks
/// of loaders and interpreters are not, unless they are named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Environment {
    /// Names that may come from the kernel's own environment; a name may end with `*`. A hook or a secret only
    /// where it is named whole.
    pub allow: Vec<String>,
    /// Names and values.
    pub set: BTreeMap<String, String>,
}

/// Limits that hold for all processes of a tree together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TreeLimits {
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Percent of one CPU: 250 is two and a half.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// A limit each process has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessLimit {
    /// Which.
    pub resource: Resource,
    /// Its value, in the resource's unit.
    pub value: u64,
}

/// What setrlimit(2) can limit, of what makes sense for a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Resource {
    /// RLIMIT_AS, bytes.
    AddressSpace,
    /// RLIMIT_CORE, bytes.
    Core,
    /// RLIMIT_CPU, seconds.
    CpuSeconds,
    /// RLIMIT_FSIZE, bytes.
    FileSize,
    /// RLIMIT_NOFILE, one more than the highest number.
    Descriptors,
    /// RLIMIT_NPROC, of the user, not of the tree.
    Processes,
    /// RLIMIT_MEMLOCK, bytes.
    LockedMemory,
    /// RLIMIT_STACK, bytes.
    Stack,
}

impl Resource {
    /// The name in a request and a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Resource::AddressSpace => "addressSpace",
            Resource::Core => "core",
            Resource::CpuSeconds => "cpuSeconds",
            Resource::FileSize => "fileSize",
            Resource::Descriptors => "descriptors",
            Resource::Processes => "processes",
            Resource::LockedMemory => "lockedMemory",
            Resource::Stack => "stack",
        }
    }
}

/// What is wrong with a profile, whatever the machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Complaint {
    /// Which field, `files.read[2]`.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl Complaint {
    /// A complaint.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Complaint {
        Complaint { field: field.into(), why: why.into() }
    }
}

impl Profile {
    /// How much a protection is insisted on.
    pub fn strength(&self, protection: Protection) -> Strength {
        self.protections.get(&protection).copied().unwrap_or_default()
    }

    /// Whether a protection may be weaker than asked for.
    pub fn accepts_weaker(&self, protection: Protection) -> bool {
        self.accept_weaker.contains(&protection) || self.strength(protection) == Strength::Degradable
    }

    /// Whether every entry makes sense by itself.
    pub fn check(&self) -> Result<(), Complaint> {
        for (name, list) in self.files.lists() {
            check_paths(&format!("files.{name}"), list)?;
        }
        check_paths("unixSockets.paths", &self.unix_sockets.paths)?;
        check_paths("devices.allow", &self.devices.allow)?;
        for (name, ports) in [
            ("connect", &self.network.connect),
            ("bind", &self.network.bind),
            ("loopback", &self.network.loopback),
        ] {
            within(&format!("network.{name}"), ports.len())?;
        }
        if let Some(place) = self.network.connect.iter().position(|port| *port == 0) {
            return Err(Complaint::new(format!("network.connect[{place}]"), "no port is 0"));
        }
        let network = &self.network;
        let shared =
            [&network.connect, &network.bind, &network.loopback].iter().any(|ports| !ports.is_empty())
                || !network.domains.is_empty()
                || network.udp;
        if network.private && shared {
            let why = "who has a network of its own reaches no other: name it or the others";
            return Err(Complaint::new("network.private", why));
        }
        if self.unix_sockets.any && !self.unix_sockets.paths.is_empty() {
            return Err(Complaint::new("unixSockets", "any and paths contradict each other"));
        }
        self.environment.check()?;
        let zero = [
            ("limits.memoryBytes", self.limits.memory_bytes == Some(0)),
            ("limits.cpuPercent", self.limits.cpu_percent == Some(0)),
            ("limits.pids", self.limits.pids == Some(0)),
        ];
        match zero.into_iter().find(|(_, zero)| *zero) {
            Some((field, _)) => Err(Complaint::new(field, "a limit is at least 1")),
            None => Ok(()),
        }
    }
}

impl Environment {
    fn check(&self) -> Result<(), Complaint> {
        within("environment.allow", self.allow.len())?;
        within("environment.set", self.set.len())?;
        let bad = |name: &str| name.is_empty() || name.len() > TEXT_BYTES_MAX || name.contains(['=', '\0']);
        for (place, name) in self.allow.iter().enumerate() {
            if bad(name) || name.strip_suffix('*').unwrap_or(name).contains('*') {
                let why = "a variable's name, or the beginning of one and `*`";
                return Err(Complaint::new(format!("environment.allow[{place}]"), why));
            }
        }
        for (name, value) in &self.set {
            if bad(name) || value.contains('\0') {
                let why = "a name is not empty and has no `=`; neither it nor its value has a NUL";
                return Err(Complaint::new(format!("environment.set.{name}"), why));
            }
        }
        Ok(())
    }
}

fn within(field: &str, count: usize) -> Result<(), Complaint> {
    match count {
        0..=ENTRIES_MAX => Ok(()),
        _ => Err(Complaint::new(field, format!("{count} entries, at most {ENTRIES_MAX} are taken"))),
    }
}

fn check_paths(field: &str, paths: &[String]) -> Result<(), Complaint> {
    within(field, paths.len())?;
    for (place, path) in paths.iter().enumerate() {
        let why = match path.as_str() {
            path if path.len() > TEXT_BYTES_MAX => "longer than a path can be",
            path if path.contains('\0') => "a path has no NUL",
            path if path.split('/').any(|part| part == "..") => "`..` is not followed: write the path out",
            "~" | "." => continue,
            path if ["/proc/self", "/proc/thread-self"].iter().any(|own| path.starts_with(own)) => {
                "it is another folder for every process, and grants are made for all of them: allow /proc, or nothing"
            }
            path if path.starts_with('/') || path.starts_with("~/") || path.starts_with("./") => continue,
            _ => "a path is absolute, or begins with `~/` or `./`",
        };
        return Err(Complaint::new(format!("{field}[{place}]"), why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(json: &str) -> String {
        serde_json::from_str::<Profile>(json).unwrap().check().unwrap_err().to_string()
    }

    #[test]
    fn an_empty_profile_asks_for_everything_to_be_in_force() {
        let profile: Profile = serde_json::from_str("{}").unwrap();
        assert_eq!(profile, Profile::default());
        assert!(profile.check().is_ok());
        assert!(Protection::ALL.iter().all(|protection| {
            profile.strength(*protection) == Strength::Required && !profile.accepts_weaker(*protection)
        }));
    }

    #[test]
    fn a_profile_is_written_and_read_the_same() {
        let text = r#"{"files":{"read":["/usr","~/x"],"denyRead":["~/.ssh"]},"network":{"connect":[443],"udp":true},
            "unixSockets":{"paths":["/run/x"]},"processes":{"signal":"any","ptrace":"inside"},"devices":{"basic":false},
            "environment":{"allow":["CARGO_*"],"set":{"A":"b"}},"kernel":false,"limits":{"pids":7},
            "rlimits":[{"resource":"core","value":0}],"protections":{"signals":"degradable","ptrace":"off"},
            "acceptWeaker":["loopback"]}"#;
        let profile: Profile = serde_json::from_str(text).unwrap();
        let again = serde_json::from_value(serde_json::to_value(&profile).unwrap()).unwrap();
        assert_eq!(profile, again);
        assert!(profile.accepts_weaker(Protection::Signals) && profile.accepts_weaker(Protection::Loopback));
        assert_eq!(profile.strength(Protection::Ptrace), Strength::Off);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for text in [
            r#"{"file":{}}"#,
            r#"{"files":{"reed":[]}}"#,
            r#"{"protections":{"filez":"off"}}"#,
            r#"{"acceptWeaker":["everything"]}"#,
        ] {
            assert!(serde_json::from_str::<Profile>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_field() {
        assert!(complaint(r#"{"files":{"read":["/usr","/a/../etc"]}}"#).starts_with("files.read[1]: `..`"));
        assert!(complaint(r#"{"files":{"read":["/proc/self/fd"]}}"#).starts_with("files.read[0]"));
        assert!(complaint(r#"{"files":{"write":["etc"]}}"#).starts_with("files.write[0]"));
        assert!(complaint(r#"{"files":{"write":["/a\u0000"]}}"#).starts_with("files.write[0]"));
        assert!(complaint(r#"{"network":{"connect":[0]}}"#).starts_with("network.connect[0]"));
        assert!(complaint(r#"{"unixSockets":{"any":true,"paths":["/x"]}}"#).starts_with("unixSockets"));
        assert!(complaint(r#"{"network":{"private":true,"udp":true}}"#).starts_with("network.private"));
        assert!(complaint(r#"{"environment":{"allow":["A*B"]}}"#).starts_with("environment.allow[0]"));
        assert!(complaint(r#"{"limits":{"pids":0}}"#).starts_with("limits.pids"));
        let many = serde_json::json!({"network": {"bind": vec![1u16; ENTRIES_MAX + 1]}}).to_string();
        assert!(complaint(&many).starts_with("network.bind: 1025 entries"));
    }
}
