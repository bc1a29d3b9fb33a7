//! The original's `SkillManifestV2`, read for what whoever wrote it hoped for.
//!
//! The original heeded two kinds of permission and dropped the rest, and never checked a shape; here each is heeded, or
//! refused by its field. Its skills could read and run every file, and a manifest had no way to ask for less: that is the
//! basis here too, as it is for its sandbox configuration ([`wish`]), and is listed as what is asked for.

use super::ask::{Ask, Denial, Permission, Right};
use super::ports::{self, Entry};
use super::refusal::{Reason, Refusal, spelled};
use super::tree::{self, Tree};
use super::{Artifacts, Identity, Interfaces, Kind, Manifest, Settings, host, pattern, sense};
use crate::wish;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SkillManifest {
    name: String,
    version: String,
    #[serde(rename = "type")]
    kind: Kind,
    description: Option<String>,
    #[serde(default)]
    artifacts: Artifacts,
    #[serde(default)]
    permissions: Vec<Rule>,
    interfaces: Option<Interfaces>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    scope: Scope,
    request: String,
    #[serde(default)]
    criteria: BTreeMap<String, String>,
    port: Option<Entry>,
    description: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Device,
    Network,
    Kernel,
}

/// The original's form as the inner one.
pub(super) fn compile(tree: Tree) -> Result<Manifest, Refusal> {
    let manifest: SkillManifest = tree::read(tree)?;
    let identity = Identity {
        name: manifest.name,
        version: manifest.version,
        kind: Some(manifest.kind),
        description: manifest.description,
        artifacts: manifest.artifacts,
        interfaces: manifest.interfaces,
    };
    sense::identity(&identity)?;
    let mut permissions = Vec::new();
    for (place, rule) in manifest.permissions.into_iter().enumerate() {
        let purpose = rule.description.clone();
        let asks = rule.asks().map_err(|refusal| refusal.at(place).below("permissions"))?;
        let field = format!("permissions[{place}]");
        permissions.extend(asks.into_iter().map(|ask| Permission {
            ask,
            purpose: purpose.clone(),
            field: field.clone(),
        }));
    }
    let settings = basis(&mut permissions)?;
    Ok(Manifest { identity, permissions, settings })
}

/// What every skill of the original had.
fn basis(permissions: &mut Vec<Permission>) -> Result<Settings, Refusal> {
    let written = |permission: &Permission| match &permission.ask {
        Ask::File { right: Right::Write, path } => Some(path.clone()),
        _ => None,
    };
    let writes: Vec<String> = permissions.iter().filter_map(written).collect();
    let config = json!({
        "network": { "allowedDomains": [], "deniedDomains": [] },
        "filesystem": { "denyRead": [], "allowWrite": writes, "denyWrite": [] },
    });
    let profile = wish::read(config).map_err(|complaint| {
        Refusal::new("permissions", Reason::Profile, format!("as the original had them: {complaint}"))
    })?;
    let files = profile.files;
    let allowed = [(Right::Read, files.read), (Right::Execute, files.execute)]
        .into_iter()
        .flat_map(|(right, paths)| paths.into_iter().map(move |path| Ask::File { right, path }));
    let denied = [(Denial::Read, files.deny_read), (Denial::Write, files.deny_write)]
        .into_iter()
        .flat_map(|(denial, paths)| paths.into_iter().map(move |path| Ask::NoFile { denial, path }));
    let metadata = files.metadata.then_some(Ask::Metadata);
    permissions.extend(allowed.chain(denied).chain(metadata).map(|ask| Permission {
        ask,
        purpose: None,
        field: "permissions (what every skill of the original has)".to_owned(),
    }));
    Ok(Settings {
        protections: profile.protections,
        accept_weaker: profile.accept_weaker,
        ..Settings::default()
    })
}

impl Rule {
    fn asks(mut self) -> Result<Vec<Ask>, Refusal> {
        if let Some(purpose) = &self.description {
            sense::purpose(purpose).map_err(|refusal| refusal.below("description"))?;
        }
        sense::word(&self.request).map_err(|refusal| refusal.below("request"))?;
        let asks = match (self.scope, self.request.as_str()) {
            (Scope::Network, "connect" | "egress" | "network:egress") => vec![self.connection()?],
            (Scope::Network, "listen" | "bind") => {
                vec![Ask::Listen { ports: self.ports(0)?.ok_or_else(no_port)? }]
            }
            (Scope::Kernel, "fs:read" | "filesystem:read") => self.files(&[Right::Read])?,
            (Scope::Kernel, "fs:write" | "filesystem:write") => {
                self.files(&[Right::Write, Right::Create, Right::Delete])?
            }
            (Scope::Kernel, "process" | "kernel:process") => {
                vec![Ask::Call { method: "process.*".to_owned() }]
            }
            (Scope::Device, _) => {
                let criteria = std::mem::take(&mut self.criteria);
                if criteria.is_empty() {
                    return Err(Refusal::new("criteria", Reason::Missing, "which device is meant?"));
                }
                vec![Ask::Device { request: self.request.clone(), criteria }]
            }
            (Scope::Network, _) => return Err(unknown("connect, egress, network:egress, listen, bind")),
            (Scope::Kernel, _) => {
                return Err(unknown(
                    "fs:read, fs:write, filesystem:read, filesystem:write, process, kernel:process",
                ));
            }
        };
        // What is left says something that nothing here heeds.
        if let Some(key) = self.criteria.keys().next() {
            let why = format!("it means nothing to {}", self.request);
            return Err(Refusal::new(spelled(key), Reason::Unknown, why).below("criteria"));
        }
        match self.port {
            Some(_) => {
                Err(Refusal::new("port", Reason::Unknown, format!("it means nothing to {}", self.request)))
            }
            None => Ok(asks),
        }
    }

    fn ports(&mut self, lowest: u16) -> Result<Option<ports::Ports>, Refusal> {
        let Some(entry) = self.port.take() else { return Ok(None) };
        let mut ports = ports::Ports::default();
        entry.add_to(&mut ports, lowest).map_err(|refusal| refusal.below("port"))?;
        Ok(Some(ports))
    }

    /// Without a port those of the web are meant: the original asked its proxies, by host alone.
    fn connection(&mut self) -> Result<Ask, Refusal> {
        let named = self.ports(1)?;
        let host = self.criterion("host")?;
        if host == "localhost" {
            return named.map(|ports| Ask::Loopback { ports }).ok_or_else(no_port);
        }
        if let Some(why) = host::fault(&host) {
            return Err(Refusal::new("host", Reason::Host, why).below("criteria"));
        }
        let web = || ports::set(&[Entry::Number(80), Entry::Number(443)], 1);
        Ok(Ask::Connect { host: Some(host), ports: named.map_or_else(web, Ok)? })
    }

    fn files(&mut self, rights: &[Right]) -> Result<Vec<Ask>, Refusal> {
        let written = self.criterion("path")?;
        let folder = written.strip_suffix("/**").unwrap_or(&written);
        let path = pattern::path(folder).map_err(|refusal| refusal.below("path").below("criteria"))?;
        Ok(rights.iter().map(|right| Ask::File { right: *right, path: path.clone() }).collect())
    }

    fn criterion(&mut self, key: &str) -> Result<String, Refusal> {
        let missing = || Refusal::new(key, Reason::Missing, "it has to be there").below("criteria");
        self.criteria.remove(key).ok_or_else(missing)
    }
}

fn no_port() -> Refusal {
    Refusal::new("port", Reason::Missing, "it has to be there")
}

fn unknown(known: &str) -> Refusal {
    Refusal::new("request", Reason::Unknown, format!("nothing here heeds it; there are {known}"))
}
