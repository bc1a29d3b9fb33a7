//! A manifest as the kernel keeps it: what it asks for as clauses, what it means as a profile, and the text it was read from.
//!
//! Reading one takes longer than the lock may be held, so it is done in between, on what the frame holds.

use crate::permissions::Clause;
use kairo_sandbox::manifest::ask::{Ask, Denial, Right};
use kairo_sandbox::manifest::pattern::is_within;
use kairo_sandbox::manifest::syntax::Syntax;
use kairo_sandbox::manifest::{self, Manifest};
use kairo_sandbox::profile::{Profile, Reach};
use kairo_wire::error::WireError;
use kairo_wire::methods::permission::{ManifestProgram, ManifestSummary, ManifestSyntax};
use kairo_wire::permission::Permission;
use std::sync::Arc;

/// Longest manifest the kernel reads, bytes.
pub(crate) const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// A manifest that was read.
#[derive(Debug)]
pub(crate) struct Declared {
    /// As it is told.
    pub summary: ManifestSummary,
    /// The text it was read from, from which a later kernel reads it.
    pub text: Box<str>,
    /// In what that is written.
    pub syntax: ManifestSyntax,
    /// What it says.
    pub manifest: Manifest,
    /// What that means for containment.
    pub profile: Profile,
}

impl Declared {
    /// Reads it.
    pub(crate) fn read(
        text: &str,
        syntax: ManifestSyntax,
        mut programs: Vec<ManifestProgram>,
    ) -> Result<Declared, WireError> {
        if text.len() > MANIFEST_BYTES_MAX {
            let message = format!("manifest: at most {MANIFEST_BYTES_MAX} bytes are taken");
            return Err(WireError::too_large("manifestBytesMax", message).with("field", "manifest"));
        }
        let written = match syntax {
            ManifestSyntax::Json => Syntax::Json,
            ManifestSyntax::Yaml => Syntax::Yaml,
            ManifestSyntax::Toml => Syntax::Toml,
        };
        let manifest = manifest::read(text.as_bytes(), written).map_err(|refusal| {
            let field = match refusal.field.as_str() {
                "" => "manifest".to_owned(),
                field => format!("manifest.{field}"),
            };
            WireError::invalid(&field, &refusal.why)
                .with("reason", serde_json::to_value(refusal.reason).unwrap_or_default())
        })?;
        programs.iter_mut().for_each(|program| program.digest.make_ascii_lowercase());
        let only = <&[_; 1]>::try_from(programs.as_slice()).ok().map(|[only]: &[ManifestProgram; 1]| only);
        let summary = ManifestSummary {
            name: manifest.identity.name.clone(),
            version: manifest.identity.version.clone(),
            digest: manifest.digest(),
            program: only.map(|only| only.path.clone()),
            program_digest: only.map(|only| only.digest.clone()),
            programs,
        };
        let profile = manifest.profile();
        Ok(Declared { summary, text: text.into(), syntax, manifest, profile })
    }

    /// What it asks for.
    pub(crate) fn clauses(&self) -> Vec<Clause> {
        asked_by(&self.manifest)
    }

    /// Whether it denies itself this path, though a folder above is allowed.
    pub(crate) fn denies(&self, permission: Permission, path: &str) -> bool {
        let denied = match permission {
            Permission::FileRead | Permission::FileExecute => Denial::Read,
            Permission::FileWrite | Permission::FileCreate | Permission::FileDelete => Denial::Write,
            _ => return false,
        };
        let takes = |ask: &Ask| matches!(ask, Ask::NoFile { denial, path: of } if *denial == denied && is_within(path, of));
        self.manifest.asks().any(takes)
    }
}

/// What a manifest asks for.
pub fn asked_by(manifest: &Manifest) -> Vec<Clause> {
    let asked = manifest.permissions.iter().flat_map(|permission| {
        let purpose: Option<Box<str>> = permission.purpose.as_deref().map(Box::from);
        let clause = move |(permission, resource): (Permission, Option<String>)| Clause {
            permission,
            resource: resource.map(Arc::from),
            purpose: purpose.clone(),
        };
        wanted(&permission.ask).into_iter().map(clause)
    });
    asked.chain(limits(manifest)).collect()
}

fn limits(manifest: &Manifest) -> Vec<Clause> {
    let settings = &manifest.settings;
    let tree = settings.limits;
    let tree = [
        ("memoryBytes", tree.memory_bytes),
        ("cpuPercent", tree.cpu_percent.map(u64::from)),
        ("pids", tree.pids),
    ];
    let tree = tree.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    let own = settings.rlimits.iter().map(|limit| format!("{}={}", limit.resource.name(), limit.value));
    let clause = |text: String| Clause {
        permission: Permission::LimitUse,
        resource: Some(text.into()),
        purpose: None,
    };
    tree.chain(own).map(clause).collect()
}

/// What an ask is as permissions and resources.
fn wanted(ask: &Ask) -> Vec<(Permission, Option<String>)> {
    let one = |permission, resource: &str| vec![(permission, Some(resource.to_owned()))];
    match ask {
        Ask::File { right, path } => {
            let permission = match right {
                Right::Read => Permission::FileRead,
                Right::Write => Permission::FileWrite,
                Right::Execute => Permission::FileExecute,
                Right::Create => Permission::FileCreate,
                Right::Delete => Permission::FileDelete,
            };
            one(permission, path)
        }
        // One takes away, the other reaches nobody: both are in the profile.
        Ask::NoFile { .. } | Ask::PrivateNetwork => Vec::new(),
        Ask::Metadata => vec![(Permission::FileMetadata, None)],
        Ask::Connect { host, ports } => {
            let host = host.as_deref().unwrap_or("*");
            let of = |range: &str| (Permission::NetworkConnect, Some(format!("{host}:{range}")));
            ports.to_string().split(", ").map(of).collect()
        }
        Ask::Listen { ports } => each(Permission::NetworkBind, &ports.to_string()),
        Ask::Loopback { ports } => each(Permission::NetworkLoopback, &ports.to_string()),
        Ask::Udp => vec![(Permission::NetworkUdp, None)],
        Ask::UnixSocket { path } => one(Permission::UnixConnect, path),
        Ask::AnyUnixSocket => vec![(Permission::UnixConnect, None)],
        Ask::DevicePath { path } => one(Permission::DeviceOpen, path),
        Ask::Device { request, criteria } => {
            let criteria = criteria.iter().map(|(name, value)| format!(" {name}={value}"));
            one(Permission::DeviceClaim, &format!("{request}{}", criteria.collect::<String>()))
        }
        Ask::Variable { name } => one(Permission::EnvironmentRead, name),
        Ask::Signal { reach } => one(Permission::SignalSend, word(*reach)),
        Ask::Ptrace { reach } => one(Permission::ProcessTrace, word(*reach)),
        Ask::Call { method } => one(Permission::KernelCall, method),
        Ask::Publish { pattern } => one(Permission::EventPublish, pattern),
        Ask::Subscribe { pattern } => one(Permission::EventSubscribe, pattern),
    }
}

fn each(permission: Permission, ranges: &str) -> Vec<(Permission, Option<String>)> {
    ranges.split(", ").map(|range| (permission, Some(range.to_owned()))).collect()
}

fn word(reach: Reach) -> &'static str {
    match reach {
        Reach::None => "none",
        Reach::Inside => "inside",
        Reach::Any => "any",
    }
}
