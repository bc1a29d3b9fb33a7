//! What a manifest asks for, in words for whoever approves it.
//!
//! Invariant: every permission and every setting that isn't the default is in exactly one line, and what stands for
//! everything is said as that.

use super::Manifest;
use super::ask::{Ask, Denial, Permission, Right};
use crate::profile::{Reach, Resource, TreeLimits};
use crate::protection::{Protection, Strength};
use serde::Serialize;

/// What a line is about, in the order they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Its own files.
    Program,
    /// Files and folders.
    Files,
    /// Other machines, and this one by way of the network.
    Network,
    /// Other processes.
    Processes,
    /// Variables.
    Environment,
    /// Devices.
    Devices,
    /// Limits.
    Limits,
    /// The kernel: calls and events.
    Calls,
    /// Protections that are less than usual.
    Protections,
}

impl Group {
    /// All, in order.
    pub const ALL: [Group; 9] = [
        Group::Program,
        Group::Files,
        Group::Network,
        Group::Processes,
        Group::Environment,
        Group::Devices,
        Group::Limits,
        Group::Calls,
        Group::Protections,
    ];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Group::Program => "program",
            Group::Files => "files",
            Group::Network => "network",
            Group::Processes => "processes",
            Group::Environment => "environment",
            Group::Devices => "devices",
            Group::Limits => "limits",
            Group::Calls => "calls",
            Group::Protections => "protections",
        }
    }
}

/// One thing, in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    /// What it is about.
    pub group: Group,
    /// What.
    pub text: String,
    /// What for, in the words of whoever asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

impl Line {
    /// A line nobody gave a purpose for.
    pub(super) fn of(group: Group, text: impl Into<String>) -> Line {
        Line { group, text: text.into(), purpose: None }
    }
}

/// Everything a manifest asks for.
pub fn lines(manifest: &Manifest) -> Vec<Line> {
    let mut lines = Vec::new();
    let artifacts = &manifest.identity.artifacts;
    let of_platform = artifacts.binaries.iter().chain(&artifacts.libraries);
    lines.extend(
        of_platform.map(|(platform, path)| Line::of(Group::Program, format!("{path} on {platform}"))),
    );
    let others = artifacts.wasm.iter().chain(&artifacts.container_stack);
    lines.extend(others.map(|path| Line::of(Group::Program, path.as_str())));
    files(&manifest.permissions, &mut lines);
    for permission in &manifest.permissions {
        if let Some((group, text)) = say(&permission.ask) {
            lines.push(Line { group, text, purpose: permission.purpose.clone() });
        }
    }
    settings(manifest, &mut lines);
    lines.sort_by_key(|line| line.group);
    lines
}

/// Rights on one path for one purpose are one line.
fn files(permissions: &[Permission], lines: &mut Vec<Line>) {
    let mut by_path: Vec<(&str, Option<&str>, Vec<Right>)> = Vec::new();
    let mut asked: Vec<(&str, Option<&str>, Right)> = Vec::new();
    for permission in permissions {
        if let Ask::File { right, path } = &permission.ask {
            asked.push((path, permission.purpose.as_deref(), *right));
        }
    }
    asked.sort_by_key(|(path, purpose, right)| (*path, *purpose, *right as u8));
    for (path, purpose, right) in asked {
        match by_path.last_mut() {
            Some((last, of, rights)) if *last == path && *of == purpose => rights.push(right),
            _ => by_path.push((path, purpose, vec![right])),
        }
    }
    lines.extend(by_path.into_iter().map(|(path, purpose, rights)| {
        let words: Vec<&str> = rights.into_iter().map(done_with_files).collect();
        Line {
            group: Group::Files,
            text: format!("{} {}", words.join(", "), place(path)),
            purpose: purpose.map(str::to_owned),
        }
    }));
}

/// A right as something that is done.
pub(super) fn done_with_files(right: Right) -> &'static str {
    match right {
        Right::Read => "read",
        Right::Write => "write",
        Right::Execute => "run",
        Right::Create => "create in",
        Right::Delete => "delete in",
    }
}

/// A path, and what it stands for where that is more than it looks like.
pub(super) fn place(path: &str) -> String {
    match path {
        "/" => "/ (every file there is)".to_owned(),
        "~/" => "~/ (the whole home folder)".to_owned(),
        "./" => "./ (its working folder)".to_owned(),
        path => path.to_owned(),
    }
}

/// Anything but a right on files, in words.
pub(super) fn say(ask: &Ask) -> Option<(Group, String)> {
    Some(match ask {
        Ask::File { .. } => return None,
        Ask::NoFile { denial: Denial::Read, path } => {
            (Group::Files, format!("never read or run {}", place(path)))
        }
        Ask::NoFile { denial: Denial::Write, path } => {
            (Group::Files, format!("never change {}", place(path)))
        }
        Ask::Metadata => {
            (Group::Files, "change modes, owners and attributes of every file its user may".to_owned())
        }
        Ask::Connect { host: None, ports } => {
            (Group::Network, format!("connect to any host on ports {ports}"))
        }
        Ask::Connect { host: Some(host), ports } => {
            (Group::Network, format!("connect to {host} on ports {ports}"))
        }
        Ask::Listen { ports } => {
            let any = if ports.each().next() == Some(0) { " (0: any the system chooses)" } else { "" };
            (Group::Network, format!("be reached from anywhere on ports {ports}{any}"))
        }
        Ask::Loopback { ports } => {
            (Group::Network, format!("connect and be reached within this machine on ports {ports}"))
        }
        Ask::Udp => (Group::Network, "send and receive UDP, to and from anywhere".to_owned()),
        Ask::PrivateNetwork => {
            (Group::Network, "talk to itself on a network of its own, which reaches nobody else".to_owned())
        }
        Ask::UnixSocket { path } => (Group::Network, format!("connect to unix sockets at {}", place(path))),
        Ask::AnyUnixSocket => (Group::Network, "connect to every unix socket its user may".to_owned()),
        Ask::DevicePath { path } => (Group::Devices, format!("read, write and command {}", place(path))),
        Ask::Device { request, criteria } => {
            let which: Vec<String> = criteria.iter().map(|(key, value)| format!("{key} {value}")).collect();
            (Group::Devices, format!("{request} the device with {}", which.join(", ")))
        }
        Ask::Variable { name } => (Group::Environment, format!("see {name} of the kernel's environment")),
        Ask::Signal { reach } => (Group::Processes, format!("send signals to {}", whom(*reach))),
        Ask::Ptrace { reach } => (Group::Processes, format!("look into {}", whom(*reach))),
        Ask::Call { method } => (Group::Calls, format!("call {method}")),
        Ask::Publish { pattern } => (Group::Calls, format!("publish events {pattern}")),
        Ask::Subscribe { pattern } => (Group::Calls, format!("hear events {pattern}")),
    })
}

/// Processes within reach.
pub(super) fn whom(reach: Reach) -> &'static str {
    match reach {
        Reach::None => "nobody",
        Reach::Inside => "what it has started itself",
        Reach::Any => "every process its user may",
    }
}

fn settings(manifest: &Manifest, lines: &mut Vec<Line>) {
    let settings = &manifest.settings;
    if settings.without_kernel {
        lines.push(Line::of(Group::Calls, "no connection to the kernel"));
    }
    if settings.without_basic_devices {
        lines.push(Line::of(Group::Devices, "not even /dev/null"));
    }
    lines.extend(
        settings
            .set
            .iter()
            .map(|(name, value)| Line::of(Group::Environment, format!("{name} is set to {value}"))),
    );
    lines.extend(limits(settings.limits).into_iter().filter_map(|(name, value)| {
        value.map(|value| Line::of(Group::Limits, format!("{name}: {value} at most, for all its processes")))
    }));
    lines.extend(settings.rlimits.iter().map(|limit| {
        Line::of(
            Group::Limits,
            format!("{}: {} at most, for each process", resource(limit.resource), limit.value),
        )
    }));
    lines.extend(
        settings
            .protections
            .iter()
            .map(|(protection, strength)| Line::of(Group::Protections, protected(*protection, *strength))),
    );
    lines.extend(
        settings
            .accept_weaker
            .iter()
            .map(|protection| Line::of(Group::Protections, format!("{protection}: weaker is accepted"))),
    );
}

/// How much a protection is insisted on, and what it means where it isn't.
pub(super) fn protected(protection: Protection, strength: Strength) -> String {
    match strength {
        Strength::Required => format!("{protection}: insisted on"),
        Strength::Degradable => format!("{protection}: as far as the machine can"),
        Strength::Off => format!("{protection}: off. Nothing keeps it from: {}", protection.meaning()),
    }
}

/// Limits of a tree with their names.
pub(super) fn limits(limits: TreeLimits) -> [(&'static str, Option<u64>); 3] {
    [
        ("bytes of memory", limits.memory_bytes),
        ("percent of one processor", limits.cpu_percent.map(u64::from)),
        ("processes and threads", limits.pids),
    ]
}

/// A limit of a process by name and unit.
pub(super) fn resource(resource: Resource) -> &'static str {
    match resource {
        Resource::AddressSpace => "bytes of addresses",
        Resource::Core => "bytes of core file",
        Resource::CpuSeconds => "seconds of processor time",
        Resource::FileSize => "bytes of a file it writes",
        Resource::Descriptors => "open descriptors",
        Resource::Processes => "processes of its user",
        Resource::LockedMemory => "bytes of locked memory",
        Resource::Stack => "bytes of stack",
    }
}
