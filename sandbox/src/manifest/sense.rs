//! What each field can't tell by itself: who the skill is, and whether what it asks for contradicts itself.
//!
//! A contradiction is refused, not decided: whoever approved one half didn't approve the other.

use super::ask::{Ask, Right};
use super::pattern::is_within;
use super::refusal::{Reason, Refusal, spelled};
use super::{Artifacts, Identity, Manifest};
use crate::profile::ENTRIES_MAX;
use crate::protection::Strength;
use std::collections::BTreeMap;

/// Longest purpose, bytes: it is read by whoever approves.
const PURPOSE_BYTES_MAX: usize = 500;

/// What a thing is asked for.
pub(super) fn purpose(text: &str) -> Result<(), Refusal> {
    match text.len() {
        0..=PURPOSE_BYTES_MAX => Ok(()),
        long => Err(Refusal::new(
            "",
            Reason::Bound,
            format!("{long} bytes; at most {PURPOSE_BYTES_MAX} are read"),
        )),
    }
}

/// A word of a small language.
pub(super) fn word(text: &str) -> Result<(), Refusal> {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'_' | b'-');
    match text.len() <= 64 && text.bytes().all(letter) {
        true => Ok(()),
        false => Err(Refusal::new("", Reason::Text, "letters, digits, `:`, `.`, `_` and `-`, 64 at most")),
    }
}

/// Who it is.
pub(super) fn identity(identity: &Identity) -> Result<(), Refusal> {
    word(&identity.name).map_err(|refusal| refusal.below("name"))?;
    if identity.name.contains(':') || !identity.name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        let why = "it begins with a letter or a digit, and has no `:`";
        return Err(Refusal::new("name", Reason::Text, why));
    }
    if identity.version.len() > 64 || !identity.version.is_ascii() {
        return Err(Refusal::new("version", Reason::Text, "at most 64 bytes of ASCII"));
    }
    if let Some(description) = &identity.description {
        purpose(description).map_err(|refusal| refusal.below("description"))?;
    }
    artifacts(&identity.artifacts).map_err(|refusal| refusal.below("artifacts"))?;
    let socket = identity.interfaces.as_ref().and_then(|interfaces| interfaces.socket_path.as_deref());
    let socket = socket.map_or(Ok(()), |path| super::pattern::path(path).map(drop));
    socket.map_err(|refusal| refusal.below("socket_path").below("interfaces"))
}

/// Files of the skill, which stay in its folder.
fn artifacts(artifacts: &Artifacts) -> Result<(), Refusal> {
    let inside = |path: &str| match path.starts_with(['/', '~']) || path.split('/').any(|part| part == "..") {
        true => Err(Refusal::new("", Reason::Path, "it is relative to the skill's folder, and stays there")),
        false => Ok(()),
    };
    let by_platform = |name: &str, files: &BTreeMap<String, String>| {
        for (platform, path) in files {
            let known = platform.split_once('-').is_some_and(|(system, machine)| {
                [system, machine].iter().all(|part| {
                    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                })
            });
            if !known {
                let why = "a platform is named as linux-x64";
                return Err(Refusal::new(spelled(platform), Reason::Text, why).below(name));
            }
            inside(path).map_err(|refusal| refusal.below(platform).below(name))?;
        }
        Ok(())
    };
    by_platform("binaries", &artifacts.binaries)?;
    by_platform("libraries", &artifacts.libraries)?;
    for (name, path) in [("wasm", &artifacts.wasm), ("container_stack", &artifacts.container_stack)] {
        path.as_deref().map_or(Ok(()), inside).map_err(|refusal| refusal.below(name))?;
    }
    Ok(())
}

/// Whether it is of one mind.
pub(super) fn check(manifest: &Manifest) -> Result<(), Refusal> {
    bounds(manifest)?;
    files(manifest)?;
    hosts(manifest)?;
    networks(manifest)?;
    sockets(manifest)?;
    settings(manifest)
}

/// Each entry is small; all together have to fit a profile, which names each port.
fn bounds(manifest: &Manifest) -> Result<(), Refusal> {
    if manifest.permissions.len() > ENTRIES_MAX {
        let field = &manifest.permissions[ENTRIES_MAX].field;
        return Err(Refusal::new(
            field,
            Reason::Bound,
            format!("more than {ENTRIES_MAX} permissions in all"),
        ));
    }
    let mut ports = [0; 3];
    for permission in &manifest.permissions {
        let (kind, more) = match &permission.ask {
            Ask::Connect { ports, .. } => (0, ports),
            Ask::Listen { ports } => (1, ports),
            Ask::Loopback { ports } => (2, ports),
            _ => continue,
        };
        ports[kind] += more.count();
        if ports[kind] > ENTRIES_MAX {
            let why = format!("more than {ENTRIES_MAX} ports in all; a profile names each");
            return Err(Refusal::new(&permission.field, Reason::Bound, why));
        }
    }
    Ok(())
}

fn contradiction(field: &str, why: impl Into<String>) -> Refusal {
    Refusal::new(field, Reason::Contradiction, why)
}

fn files(manifest: &Manifest) -> Result<(), Refusal> {
    let allowed = || {
        manifest.permissions.iter().filter_map(|permission| match &permission.ask {
            Ask::File { right, path } => Some((*right, path, &permission.field)),
            _ => None,
        })
    };
    for permission in &manifest.permissions {
        let Ask::NoFile { denial, path } = &permission.ask else { continue };
        let void = allowed().find(|(right, below, _)| denial.takes(*right) && is_within(below, path));
        if let Some((_, below, field)) = void {
            let why = format!("{below} is allowed and, by {}, denied", permission.field);
            return Err(contradiction(field, why));
        }
    }
    let mut writes: Vec<&str> = Vec::new();
    writes.extend(allowed().filter(|(right, ..)| *right == Right::Write).map(|(_, path, _)| path.as_str()));
    for (_, path, field) in allowed().filter(|(right, ..)| *right == Right::Create) {
        if !writes.iter().any(|folder| is_within(path, folder)) {
            let why = format!("files may be created in {path}, and not be written there");
            return Err(contradiction(field, why));
        }
    }
    Ok(())
}

/// A profile names hosts for all ports or for none.
fn hosts(manifest: &Manifest) -> Result<(), Refusal> {
    let mut any = None;
    let mut named = None;
    for permission in &manifest.permissions {
        if let Ask::Connect { host, .. } = &permission.ask {
            let seen = if host.is_none() { &mut any } else { &mut named };
            *seen = seen.or(Some(&permission.field));
        }
    }
    match (any, named) {
        (Some(any), Some(named)) => Err(contradiction(
            named,
            format!("it names a host, and {any} allows every host: name all, or none"),
        )),
        _ => Ok(()),
    }
}

/// Whoever has a network of its own is on no other.
fn networks(manifest: &Manifest) -> Result<(), Refusal> {
    let private = manifest.permissions.iter().find(|permission| permission.ask == Ask::PrivateNetwork);
    let is_shared =
        |ask: &Ask| matches!(ask, Ask::Connect { .. } | Ask::Listen { .. } | Ask::Loopback { .. } | Ask::Udp);
    let shared = manifest.permissions.iter().find(|permission| is_shared(&permission.ask));
    match (private, shared) {
        (Some(private), Some(shared)) => Err(contradiction(
            &private.field,
            format!("whoever has a network of its own reaches no other, and {} asks for that", shared.field),
        )),
        _ => Ok(()),
    }
}

fn sockets(manifest: &Manifest) -> Result<(), Refusal> {
    let any = manifest.permissions.iter().find(|permission| permission.ask == Ask::AnyUnixSocket);
    let named =
        manifest.permissions.iter().find(|permission| matches!(permission.ask, Ask::UnixSocket { .. }));
    match (any, named) {
        (Some(any), Some(named)) => {
            Err(contradiction(&named.field, format!("it names a socket, and {} allows any", any.field)))
        }
        _ => Ok(()),
    }
}

fn settings(manifest: &Manifest) -> Result<(), Refusal> {
    let settings = &manifest.settings;
    for permission in &manifest.permissions {
        match &permission.ask {
            ask if settings.without_kernel && ask.is_the_kernels() => {
                let why = "the kernel grants it, and `kernel: false` leaves no connection to it";
                return Err(contradiction(&permission.field, why));
            }
            Ask::Variable { name } if settings.set.contains_key(name) => {
                let why =
                    format!("{name} comes from the kernel's environment and, by environment, from here");
                return Err(contradiction(&permission.field, why));
            }
            _ => {}
        }
    }
    for name in settings.set.keys() {
        // A star would be a name here, and a pattern to whoever reads it.
        if name.contains('*') {
            let field = format!("environment.{}", spelled(name));
            return Err(Refusal::new(field, Reason::Text, "a value is given to one name"));
        }
    }
    for (place, limit) in settings.rlimits.iter().enumerate() {
        if settings.rlimits[..place].iter().any(|other| other.resource == limit.resource) {
            let why = format!("{} has a limit already", limit.resource.name());
            return Err(Refusal::new(format!("rlimits[{place}]"), Reason::Duplicate, why));
        }
    }
    for protection in &settings.accept_weaker {
        if settings.protections.get(protection) == Some(&Strength::Off) {
            return Err(contradiction("acceptWeaker", format!("{protection} is off already")));
        }
    }
    Ok(())
}
