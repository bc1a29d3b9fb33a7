//! What a spawn says of containment, in either of two languages, as a profile: our own, or the `SandboxRuntimeConfig`
//! of the original.
//!
//! The latter is read strictly: an empty allow list means none, an unknown key is an error, and what a profile can't
//! express is refused by the field's name. Paths are relative to the program's working folder.

use crate::profile::{Complaint, Files, Network, Profile, UnixSockets};
use crate::protection::{Protection, Strength};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Reads a profile in either language.
pub fn read(wish: Value) -> Result<Profile, Complaint> {
    let Value::Object(fields) = &wish else {
        return Err(Complaint::new("", "a profile is a map"));
    };
    let complaint = |error: serde_json::Error| Complaint::new("", error.to_string());
    let profile = match is_of_the_original(fields) {
        true => serde_json::from_value::<RuntimeConfig>(wish).map_err(complaint)?.profile()?,
        false => serde_json::from_value(wish).map_err(complaint)?,
    };
    profile.check()?;
    Ok(profile)
}

/// Told by fields only it has.
fn is_of_the_original(fields: &Map<String, Value>) -> bool {
    let network = fields.get("network").and_then(Value::as_object);
    ["filesystem", "ignoreViolations", "enableWeakerNestedSandbox", "fallbackWorkDir"]
        .iter()
        .any(|name| fields.contains_key(*name))
        || network.is_some_and(|network| {
            [
                "allowedDomains",
                "deniedDomains",
                "allowUnixSockets",
                "allowAllUnixSockets",
                "allowLocalBinding",
            ]
            .iter()
            .any(|name| network.contains_key(*name))
        })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuntimeConfig {
    network: OriginalNetwork,
    filesystem: OriginalFiles,
    #[serde(default)]
    ignore_violations: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    enable_weaker_nested_sandbox: bool,
    fallback_work_dir: Option<String>,
    /// Ours: protections that may be weaker.
    #[serde(default)]
    accept_weaker: BTreeSet<Protection>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OriginalNetwork {
    allowed_domains: Vec<String>,
    denied_domains: Vec<String>,
    #[serde(default)]
    allow_unix_sockets: Vec<String>,
    #[serde(default)]
    allow_all_unix_sockets: bool,
    #[serde(default)]
    allow_local_binding: bool,
    http_proxy_port: Option<u16>,
    socks_proxy_port: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OriginalFiles {
    deny_read: Vec<String>,
    allow_write: Vec<String>,
    deny_write: Vec<String>,
}

impl RuntimeConfig {
    fn profile(self) -> Result<Profile, Complaint> {
        let RuntimeConfig { network, filesystem, accept_weaker, .. } = self;
        if network.allow_local_binding {
            let why = "this machine's ports can't be told from other machines': name them in a profile";
            return Err(Complaint::new("network.allowLocalBinding", why));
        }
        if !self.ignore_violations.is_empty() {
            return Err(Complaint::new("ignoreViolations", "violations aren't reported yet"));
        }
        if self.enable_weaker_nested_sandbox {
            return Err(Complaint::new(
                "enableWeakerNestedSandbox",
                "nothing here needs to be weaker for that",
            ));
        }
        if self.fallback_work_dir.is_some() {
            return Err(Complaint::new("fallbackWorkDir", "say options.cwd"));
        }
        let writable = paths("filesystem.allowWrite", filesystem.allow_write)?;
        let everything = || vec!["/".to_owned()];
        let mut deny_write = paths("filesystem.denyWrite", filesystem.deny_write)?;
        // It never promised the first three, and the last only where somebody named what to deny.
        let mut degradable = vec![Protection::Metadata, Protection::Signals, Protection::AbstractSockets];
        if deny_write.is_empty() && !writable.is_empty() {
            deny_write = ALWAYS_DENIED.into_iter().map(str::to_owned).collect();
            degradable.push(Protection::DeniedPaths);
        }
        let files = Files {
            metadata: true,
            read: everything(),
            execute: everything(),
            write: writable.clone(),
            create: writable.clone(),
            delete: writable,
            deny_read: paths("filesystem.denyRead", filesystem.deny_read)?,
            deny_write,
        };
        let proxies = [network.http_proxy_port, network.socks_proxy_port];
        Ok(Profile {
            files,
            network: Network {
                loopback: proxies.into_iter().flatten().collect(),
                // Nothing can be reached that isn't allowed, so what is denied besides needs nothing.
                domains: if network.allowed_domains.is_empty() {
                    Vec::new()
                } else {
                    [network.allowed_domains, network.denied_domains].concat()
                },
                ..Network::default()
            },
            unix_sockets: UnixSockets {
                paths: if network.allow_all_unix_sockets {
                    Vec::new()
                } else {
                    paths("network.allowUnixSockets", network.allow_unix_sockets)?
                },
                any: network.allow_all_unix_sockets,
            },
            protections: degradable.into_iter().map(|name| (name, Strength::Degradable)).collect(),
            accept_weaker,
            ..Profile::default()
        })
    }
}

/// What the original kept from being written in whatever it allowed: files that run commands for whoever comes by.
const ALWAYS_DENIED: [&str; 18] = [
    "./.bash_profile",
    "./.bashrc",
    "./.claude/agents",
    "./.claude/commands",
    "./.claude/settings.json",
    "./.claude/settings.local.json",
    "./.git/config",
    "./.git/hooks",
    "./.gitconfig",
    "./.gitmodules",
    "./.idea",
    "./.mcp.json",
    "./.profile",
    "./.ripgreprc",
    "./.vscode",
    "./.zprofile",
    "./.zshrc",
    "~/.claude/settings.json",
];

/// Paths as a profile has them.
fn paths(field: &str, list: Vec<String>) -> Result<Vec<String>, Complaint> {
    let plain = |(place, path): (usize, String)| {
        let path = path.strip_suffix("/**").unwrap_or(&path);
        if path.is_empty() || path.contains(['*', '?', '[', ']']) {
            let why = "patterns are not expanded: name the folder";
            return Err(Complaint::new(format!("{field}[{place}]"), why));
        }
        let own = path == "~" || path == "." || ["/", "~/", "./"].iter().any(|start| path.starts_with(start));
        Ok(if own { path.to_owned() } else { format!("./{path}") })
    };
    list.into_iter().enumerate().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(network: Value, filesystem: Value) -> Value {
        let mut config = json!({
            "network": {"allowedDomains": [], "deniedDomains": []},
            "filesystem": {"denyRead": [], "allowWrite": [], "denyWrite": []},
        });
        for (part, with) in [("network", network), ("filesystem", filesystem)] {
            for (name, value) in with.as_object().unwrap() {
                config[part][name] = value.clone();
            }
        }
        config
    }

    #[test]
    fn empty_lists_of_the_original_allow_nothing() {
        let profile = read(config(json!({}), json!({}))).unwrap();
        assert_eq!(profile.network, Network::default());
        assert!(profile.files.write.is_empty() && profile.files.create.is_empty());
        assert_eq!(profile.files.read, ["/"]);
        assert_eq!(profile.unix_sockets, UnixSockets::default());
    }

    #[test]
    fn what_the_original_allows_is_allowed() {
        let network =
            json!({"allowedDomains": ["example.org"], "allowUnixSockets": ["/run/x"], "httpProxyPort": 3128});
        let files = json!({"allowWrite": ["/tmp/x/**", "out", "~/y"], "denyRead": ["~/.ssh"], "denyWrite": [".git/hooks"]});
        let profile = read(config(network, files)).unwrap();
        assert_eq!(profile.files.write, ["/tmp/x", "./out", "~/y"]);
        assert_eq!(profile.files.create, profile.files.delete);
        assert_eq!(
            (profile.files.deny_read, profile.files.deny_write),
            (vec!["~/.ssh".into()], vec!["./.git/hooks".into()])
        );
        assert_eq!(
            (profile.network.domains, profile.network.loopback),
            (vec!["example.org".into()], vec![3128])
        );
        assert_eq!(profile.unix_sockets.paths, ["/run/x"]);
    }

    #[test]
    fn what_a_profile_cannot_say_is_refused_by_its_name() {
        let field = |wish: Value| read(wish).unwrap_err().field;
        assert_eq!(field(config(json!({"allowLocalBinding": true}), json!({}))), "network.allowLocalBinding");
        assert_eq!(field(config(json!({}), json!({"allowWrite": ["a/*.txt"]}))), "filesystem.allowWrite[0]");
        for name in ["ignoreViolations", "enableWeakerNestedSandbox", "fallbackWorkDir"] {
            let mut wish = config(json!({}), json!({}));
            wish[name] = match name {
                "ignoreViolations" => json!({"*": ["/x"]}),
                "fallbackWorkDir" => json!("/x"),
                _ => json!(true),
            };
            assert_eq!(field(wish), name);
        }
        let mut missing = config(json!({}), json!({}));
        missing["network"].as_object_mut().unwrap().remove("deniedDomains");
        assert!(read(missing).unwrap_err().why.contains("deniedDomains"));
        assert!(
            read(config(json!({"allowedDomain": []}), json!({}))).unwrap_err().why.contains("allowedDomain")
        );
    }

    #[test]
    fn anything_else_is_a_profile_of_ours() {
        let profile = read(json!({"files": {"read": ["/usr"]}, "network": {"connect": [443]}})).unwrap();
        assert_eq!((profile.files.read, profile.network.connect), (vec!["/usr".into()], vec![443]));
        assert!(read(json!([])).is_err() && read(json!({"fils": {}})).is_err());
        assert_eq!(read(json!({"files": {"read": ["x"]}})).unwrap_err().field, "files.read[0]");
    }
}
