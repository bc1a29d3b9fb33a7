//! Our form: everything a profile can say, each with its purpose, and what the kernel grants besides.
//!
//! The types here are the schema; what they can't say is checked as they become permissions.

use super::ask::{Ask, Denial, Permission, Right};
use super::ports::{self, Entry};
use super::refusal::{Reason, Refusal};
use super::tree::{self, Tree};
use super::{Artifacts, Identity, Interfaces, Kind, Manifest, Settings, host, pattern, sense};
use crate::profile::{ProcessLimit, Reach, TreeLimits};
use crate::protection::{Protection, Strength};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a skill says it needs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Kairo manifest")]
struct Full {
    /// Version of this form: 1.
    #[schemars(range(min = 1, max = 1))]
    manifest: u32,
    /// Its name: letters, digits, `.`, `_` and `-`, 64 at most.
    #[schemars(regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    name: String,
    /// Its version.
    version: String,
    /// What runs it.
    #[serde(rename = "type")]
    kind: Option<Kind>,
    /// In a sentence.
    description: Option<String>,
    /// Its files, relative to its folder.
    #[serde(default)]
    artifacts: Artifacts,
    /// How it is spoken to.
    interfaces: Option<Interfaces>,
    /// What it asks for.
    #[serde(default)]
    permissions: Permissions,
    /// Variables it is given, with their values.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// A connection to its kernel, as the skill it is.
    #[serde(default = "yes")]
    kernel: bool,
    /// null, zero, full, random, urandom and the terminal it is on.
    #[serde(default = "yes")]
    basic_devices: bool,
    /// Limits of all its processes together.
    #[serde(default)]
    limits: TreeLimits,
    /// Limits of each process, setrlimit(2).
    #[serde(default)]
    rlimits: Vec<ProcessLimit>,
    /// How much each protection is insisted on; what is absent is required.
    #[serde(default)]
    protections: BTreeMap<Protection, Strength>,
    /// Protections that may be weaker where a machine has nothing better.
    #[serde(default)]
    accept_weaker: BTreeSet<Protection>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Permissions {
    /// Files and folders.
    files: Vec<FileRule>,
    /// Modes, owners and attributes of whatever its user may change.
    metadata: Option<Wish>,
    /// TCP ports of hosts.
    connect: Vec<ConnectRule>,
    /// TCP ports to be reached at; 0 for any the system chooses.
    listen: Vec<PortRule>,
    /// TCP ports of this machine alone.
    loopback: Vec<PortRule>,
    /// UDP, to and from anywhere.
    udp: Option<Wish>,
    /// A network of its own instead: a loopback that nobody else is on, every port of it, and no other machine.
    private_network: Option<Wish>,
    /// Unix sockets by path.
    unix_sockets: Vec<PathRule>,
    /// Any unix socket.
    any_unix_socket: Option<Wish>,
    /// Devices by path.
    device_paths: Vec<PathRule>,
    /// Devices of the kernel's registry.
    devices: Vec<DeviceRule>,
    /// Variables of the kernel's environment.
    variables: Vec<VariableRule>,
    /// Signals to other processes: to those it has started, unless this says otherwise.
    signal: Option<ReachRule>,
    /// Looking into other processes.
    ptrace: Option<ReachRule>,
    /// Methods of the kernel.
    calls: Vec<CallRule>,
    /// Events it publishes.
    publish: Vec<TopicRule>,
    /// Events it hears.
    subscribe: Vec<TopicRule>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FileRule {
    /// Absolute, or with `~/` or `./` at its beginning; it stands for all below it.
    path: String,
    /// What may be done.
    #[serde(default)]
    allow: Vec<Right>,
    /// What may not, though it may above.
    #[serde(default)]
    deny: Vec<Denial>,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConnectRule {
    /// `api.example.org`, or `*.example.org` for all below it; any host if absent.
    host: Option<String>,
    /// Ports and ranges of ports.
    ports: Vec<Entry>,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PortRule {
    /// Ports and ranges of ports.
    ports: Vec<Entry>,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PathRule {
    /// Absolute, or with `~/` or `./` at its beginning.
    path: String,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeviceRule {
    /// What is asked of it: `claim`.
    request: String,
    /// Which: `type: camera`, `id: front-door`.
    criteria: BTreeMap<String, String>,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VariableRule {
    /// Its name, or the beginning of one and `*`.
    name: String,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReachRule {
    /// How far.
    reach: Reach,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CallRule {
    /// `process.spawn`, or `process.*` for all of them.
    method: String,
    /// What for.
    purpose: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TopicRule {
    /// A topic; `*` is anything between two dots, `>` anything.
    pattern: String,
    /// What for.
    purpose: String,
}

pub(super) fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = settings.into_generator().into_root_schema_for::<Full>().to_value();
    without_null(&mut schema);
    schema
}

/// What is optional may be left out here, not be null.
fn without_null(schema: &mut serde_json::Value) {
    let is_null =
        |one: &serde_json::Value| one == "null" || one.get("type").is_some_and(|kind| kind == "null");
    match schema {
        serde_json::Value::Array(all) => all.iter_mut().for_each(without_null),
        serde_json::Value::Object(fields) => {
            for key in ["type", "anyOf"] {
                let Some(serde_json::Value::Array(choices)) = fields.get_mut(key) else { continue };
                choices.retain(|choice| !is_null(choice));
                let [only] = choices.as_mut_slice() else { continue };
                match only.take() {
                    serde_json::Value::Object(only) if key == "anyOf" => {
                        fields.remove(key);
                        fields.extend(only);
                    }
                    only => drop(fields.insert(key.to_owned(), only)),
                }
            }
            fields.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

/// Our form as the inner one.
pub(super) fn compile(tree: Tree) -> Result<Manifest, Refusal> {
    let full: Full = tree::read(tree)?;
    if full.manifest != 1 {
        return Err(Refusal::new("manifest", Reason::Unknown, "this form has version 1"));
    }
    let identity = Identity {
        name: full.name,
        version: full.version,
        kind: full.kind,
        description: full.description,
        artifacts: full.artifacts,
        interfaces: full.interfaces,
    };
    sense::identity(&identity)?;
    let mut asked = Asked(Vec::new());
    asked.all(full.permissions).map_err(|refusal| refusal.below("permissions"))?;
    let settings = Settings {
        without_kernel: !full.kernel,
        without_basic_devices: !full.basic_devices,
        set: full.environment,
        limits: full.limits,
        rlimits: full.rlimits,
        protections: full.protections,
        accept_weaker: full.accept_weaker,
    };
    Ok(Manifest { identity, permissions: asked.0, settings })
}

/// Permissions in the making.
struct Asked(Vec<Permission>);

impl Asked {
    fn add(&mut self, ask: Ask, purpose: &str, field: String) -> Result<(), Refusal> {
        sense::purpose(purpose).map_err(|refusal| refusal.below("purpose"))?;
        let field = format!("permissions.{field}");
        self.0.push(Permission { ask, purpose: Some(purpose.to_owned()), field });
        Ok(())
    }

    /// Goes through a list of rules, and says where one is refused.
    fn each<T>(
        &mut self,
        name: &str,
        rules: Vec<T>,
        mut one: impl FnMut(&mut Asked, T, String) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        for (place, rule) in rules.into_iter().enumerate() {
            one(self, rule, format!("{name}[{place}]")).map_err(|refusal| refusal.at(place).below(name))?;
        }
        Ok(())
    }

    fn all(&mut self, of: Permissions) -> Result<(), Refusal> {
        self.each("files", of.files, Asked::files)?;
        self.each("connect", of.connect, |asked, rule, field| {
            if let Some(why) = rule.host.as_deref().and_then(host::fault) {
                return Err(Refusal::new("host", Reason::Host, why));
            }
            let ports = ports::set(&rule.ports, 1).map_err(|refusal| refusal.below("ports"))?;
            asked.add(Ask::Connect { host: rule.host, ports }, &rule.purpose, field)
        })?;
        self.each("listen", of.listen, |asked, rule, field| {
            let ports = ports::set(&rule.ports, 0).map_err(|refusal| refusal.below("ports"))?;
            asked.add(Ask::Listen { ports }, &rule.purpose, field)
        })?;
        self.each("loopback", of.loopback, |asked, rule, field| {
            let ports = ports::set(&rule.ports, 1).map_err(|refusal| refusal.below("ports"))?;
            asked.add(Ask::Loopback { ports }, &rule.purpose, field)
        })?;
        let path = |rule: &PathRule| pattern::path(&rule.path).map_err(|refusal| refusal.below("path"));
        self.each("unixSockets", of.unix_sockets, |asked, rule, field| {
            asked.add(Ask::UnixSocket { path: path(&rule)? }, &rule.purpose, field)
        })?;
        self.each("devicePaths", of.device_paths, |asked, rule, field| {
            asked.add(Ask::DevicePath { path: path(&rule)? }, &rule.purpose, field)
        })?;
        self.each("devices", of.devices, |asked, rule, field| {
            sense::word(&rule.request).map_err(|refusal| refusal.below("request"))?;
            if rule.criteria.is_empty() {
                return Err(Refusal::new("criteria", Reason::Missing, "which device is meant?"));
            }
            let device = Ask::Device { request: rule.request, criteria: rule.criteria };
            asked.add(device, &rule.purpose, field)
        })?;
        self.each("variables", of.variables, |asked, rule, field| {
            pattern::variable(&rule.name).map_err(|refusal| refusal.below("name"))?;
            asked.add(Ask::Variable { name: rule.name }, &rule.purpose, field)
        })?;
        self.each("calls", of.calls, |asked, rule, field| {
            pattern::call(&rule.method).map_err(|refusal| refusal.below("method"))?;
            asked.add(Ask::Call { method: rule.method }, &rule.purpose, field)
        })?;
        self.each("publish", of.publish, |asked, rule, field| {
            pattern::topic(&rule.pattern).map_err(|refusal| refusal.below("pattern"))?;
            asked.add(Ask::Publish { pattern: rule.pattern }, &rule.purpose, field)
        })?;
        self.each("subscribe", of.subscribe, |asked, rule, field| {
            pattern::topic(&rule.pattern).map_err(|refusal| refusal.below("pattern"))?;
            asked.add(Ask::Subscribe { pattern: rule.pattern }, &rule.purpose, field)
        })?;
        let reach =
            |rule: Option<ReachRule>, ask: fn(Reach) -> Ask| rule.map(|rule| (ask(rule.reach), rule.purpose));
        let wish = |wish: Option<Wish>, ask: Ask| wish.map(|wish| (ask, wish.purpose));
        let single = [
            ("metadata", wish(of.metadata, Ask::Metadata)),
            ("udp", wish(of.udp, Ask::Udp)),
            ("privateNetwork", wish(of.private_network, Ask::PrivateNetwork)),
            ("anyUnixSocket", wish(of.any_unix_socket, Ask::AnyUnixSocket)),
            ("signal", reach(of.signal, |reach| Ask::Signal { reach })),
            ("ptrace", reach(of.ptrace, |reach| Ask::Ptrace { reach })),
        ];
        for (name, asked) in single {
            if let Some((ask, purpose)) = asked {
                self.add(ask, &purpose, name.to_owned()).map_err(|refusal| refusal.below(name))?;
            }
        }
        Ok(())
    }

    fn files(&mut self, rule: FileRule, field: String) -> Result<(), Refusal> {
        let path = pattern::path(&rule.path).map_err(|refusal| refusal.below("path"))?;
        if rule.allow.is_empty() && rule.deny.is_empty() {
            return Err(Refusal::new("allow", Reason::Missing, "what may be done there, or what not?"));
        }
        for right in rule.allow {
            self.add(Ask::File { right, path: path.clone() }, &rule.purpose, field.clone())?;
        }
        for denial in rule.deny {
            self.add(Ask::NoFile { denial, path: path.clone() }, &rule.purpose, field.clone())?;
        }
        Ok(())
    }
}
