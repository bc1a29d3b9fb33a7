//! Manifests: what a skill says it needs, read strictly into one form, whichever it was written in.
//!
//! ```text
//!  JSON, YAML, TOML ─▶ syntax ─▶ tree ─┬─▶ full (ours)  ─┬─▶ sense ─▶ Manifest ─▶ Profile, digest, words, what is new
//!                                      └─▶ original (V2) ─┘
//! ```
//!
//! Pure. Invariants: what is not understood to the last key is refused, with the field's name; a manifest that is taken asks for
//! exactly what it lists, each in its one spelling, in one order; its profile allows all of that, and where a profile can't
//! keep things apart that the manifest does, [`Manifest::notes`] says so.

use crate::filter::hexadecimal;
use crate::profile::{
    Devices, Environment, Files, Network, ProcessLimit, Processes, Profile, TreeLimits, UnixSockets,
};
use crate::protection::{Protection, Strength};
use ask::{Ask, Denial, Permission, Right};
use refusal::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use syntax::Syntax;
use tree::Tree;

pub mod ask;
mod full;
mod host;
mod original;
pub mod pattern;
pub mod ports;
pub mod refusal;
mod sense;
pub mod single;
pub mod syntax;
pub mod tree;
pub mod wider;
pub mod words;
mod yaml;

/// Everything a skill says of itself, and asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// What it asks for, each once.
    pub permissions: Vec<Permission>,
    /// What holds besides.
    pub settings: Settings,
}

/// Who it is, as the original has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What runs it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// In a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its files, by platform.
    pub artifacts: Artifacts,
    /// How it is spoken to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interfaces: Option<Interfaces>,
}

/// What runs a skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An interpreter.
    Script,
    /// The system.
    Binary,
    /// A WebAssembly runtime.
    Wasm,
    /// A container runtime.
    Container,
    /// Several of them.
    Hybrid,
}

/// Files of a skill, relative to its folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Artifacts {
    /// Programs by platform, `linux-x64`.
    pub binaries: BTreeMap<String, String>,
    /// Libraries by platform.
    pub libraries: BTreeMap<String, String>,
    /// A WebAssembly module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasm: Option<String>,
    /// A stack of containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_stack: Option<String>,
}

/// How a skill is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interfaces {
    /// By what.
    pub ipc: Ipc,
    /// Where it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
}

/// A way to speak to a skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ipc {
    /// A socket of its own.
    UnixSocket,
    /// Its standard input and output.
    Stdio,
}

/// What holds for it that isn't asked for one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// It has no connection to its kernel.
    pub without_kernel: bool,
    /// It has not even the harmless devices.
    pub without_basic_devices: bool,
    /// Variables it is given.
    pub set: BTreeMap<String, String>,
    /// Limits of the tree.
    pub limits: TreeLimits,
    /// Limits of each process.
    pub rlimits: Vec<ProcessLimit>,
    /// Protections not insisted on as usual.
    pub protections: BTreeMap<Protection, Strength>,
    /// Protections that may be weaker.
    pub accept_weaker: BTreeSet<Protection>,
}

/// Reads a manifest of either form; ours is the one that says `manifest: 1`.
pub fn read(text: &[u8], syntax: Syntax) -> Result<Manifest, Refusal> {
    let tree = syntax::parse(text, syntax)?;
    let Tree::Map(fields) = &tree else {
        return Err(Refusal::new("", Reason::Type, "a manifest is a map"));
    };
    let mut manifest = match fields.iter().any(|(key, _)| key == "manifest") {
        true => full::compile(tree)?,
        false => original::compile(tree)?,
    };
    sense::check(&manifest)?;
    manifest.settle();
    // Whatever a profile can't take is refused here, not at the spawn.
    manifest.profile().check().map_err(|complaint| {
        // What it sets is all that stands elsewhere in a profile.
        let field = complaint.field.replacen("environment.set.", "environment.", 1);
        Refusal::new(field, Reason::Profile, complaint.why)
    })?;
    Ok(manifest)
}

/// The JSON Schema of our form.
pub fn schema() -> serde_json::Value {
    full::schema()
}

impl Manifest {
    /// Brings what is asked for into one order, each once.
    fn settle(&mut self) {
        let mut settled: Vec<Permission> = Vec::new();
        // What only ports keep apart is one, for each purpose. Few kinds do, so few are gone through.
        let mut with_ports: Vec<Permission> = Vec::new();
        for permission in self.permissions.drain(..) {
            match permission.ask {
                Ask::Connect { .. } | Ask::Listen { .. } | Ask::Loopback { .. } => {
                    let same = |kept: &mut Permission| {
                        kept.purpose == permission.purpose && kept.ask.absorb(&permission.ask)
                    };
                    if !with_ports.iter_mut().any(same) {
                        with_ports.push(permission);
                    }
                }
                _ => settled.push(permission),
            }
        }
        settled.append(&mut with_ports);
        settled.sort_by_cached_key(canonical);
        settled.dedup_by(|one, other| one.ask == other.ask && one.purpose == other.purpose);
        self.permissions = settled;
        self.settings.rlimits.sort_by_key(|limit| limit.resource.name());
        self.settings.protections.retain(|_, strength| *strength != Strength::Required);
    }

    /// SHA-256 of what it means, hexadecimal: the same whichever form, syntax, order or spelling it is written in.
    pub fn digest(&self) -> String {
        let digest = Sha256::new_with_prefix(b"kairo manifest 1\n").chain_update(canonical(self)).finalize();
        hexadecimal(&digest)
    }

    /// What is asked for.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.permissions.iter().map(|permission| &permission.ask)
    }

    /// What a spawn takes as `sandbox`.
    pub fn profile(&self) -> Profile {
        let settings = &self.settings;
        let mut profile = Profile {
            files: Files::default(),
            network: Network::default(),
            unix_sockets: UnixSockets::default(),
            processes: Processes::default(),
            devices: Devices { basic: !settings.without_basic_devices, ..Devices::default() },
            environment: Environment { set: settings.set.clone(), ..Environment::default() },
            kernel: !settings.without_kernel,
            limits: settings.limits,
            rlimits: settings.rlimits.clone(),
            protections: settings.protections.clone(),
            accept_weaker: settings.accept_weaker.clone(),
        };
        self.asks().for_each(|ask| add(&mut profile, ask));
        let network = &mut profile.network;
        for ports in [&mut network.connect, &mut network.bind, &mut network.loopback] {
            ports.sort_unstable();
            ports.dedup();
        }
        profile
    }

    /// Where its profile is coarser than what it asks for, and what it says of itself that no permission gives.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let mut by_host = self.asks().filter_map(|ask| match ask {
            Ask::Connect { host: Some(_), ports } => Some(ports),
            _ => None,
        });
        if let Some(first) = by_host.next()
            && by_host.any(|ports| ports != first)
        {
            notes.push(
                "a profile doesn't keep ports of hosts apart: each host on each of the ports".to_owned(),
            );
        }
        if self.identity.interfaces.as_ref().is_some_and(|interfaces| interfaces.socket_path.is_some()) {
            notes.push("that it listens at socket_path gives it no right to make a socket there".to_owned());
        }
        notes
    }
}

/// What is hashed and sorted by: JSON of what is there, in the order of its definition.
fn canonical<T: Serialize>(value: &T) -> String {
    // Texts, numbers, lists and maps of texts: there is nothing in them JSON can't say.
    #[allow(clippy::expect_used, reason = "a digest of nothing would be the same for all")]
    serde_json::to_string(value).expect("a manifest is made of what JSON has")
}

fn add(profile: &mut Profile, ask: &Ask) {
    let files = &mut profile.files;
    match ask {
        Ask::File { right, path } => {
            let list = match right {
                Right::Read => &mut files.read,
                Right::Write => &mut files.write,
                Right::Execute => &mut files.execute,
                Right::Create => &mut files.create,
                Right::Delete => &mut files.delete,
            };
            put(list, path);
        }
        Ask::NoFile { denial, path } => match denial {
            Denial::Read => put(&mut files.deny_read, path),
            Denial::Write => put(&mut files.deny_write, path),
        },
        Ask::Metadata => files.metadata = true,
        Ask::Connect { host, ports } => {
            profile.network.connect.extend(ports.each());
            if let Some(host) = host {
                put(&mut profile.network.domains, host);
            }
        }
        Ask::Listen { ports } => profile.network.bind.extend(ports.each()),
        Ask::Loopback { ports } => profile.network.loopback.extend(ports.each()),
        Ask::Udp => profile.network.udp = true,
        Ask::PrivateNetwork => profile.network.private = true,
        Ask::UnixSocket { path } => put(&mut profile.unix_sockets.paths, path),
        Ask::AnyUnixSocket => profile.unix_sockets.any = true,
        Ask::DevicePath { path } => put(&mut profile.devices.allow, path),
        Ask::Variable { name } => put(&mut profile.environment.allow, name),
        Ask::Signal { reach } => profile.processes.signal = *reach,
        Ask::Ptrace { reach } => profile.processes.ptrace = *reach,
        Ask::Device { .. } | Ask::Call { .. } | Ask::Publish { .. } | Ask::Subscribe { .. } => {}
    }
}

/// Permissions are in order, so what is the same stands together.
fn put(list: &mut Vec<String>, text: &str) {
    if list.last().is_none_or(|last| last != text) {
        list.push(text.to_owned());
    }
}
