//! Files: lists of a profile to rights of Landlock's, and what they can't say.
//!
//! A right holds below a path, whatever is below it later; Landlock has no exceptions, so a path denied inside an
//! allowed folder is beyond it: there it takes a mount namespace.

use super::{Outcome, Place, Planner, Refusal};
use crate::containment::{Denied, rights};
use crate::filter::Group;
use crate::profile::Complaint;
use crate::protection::Protection;
use crate::receipt::Mechanism;

const READ: u64 = rights::READ_FILE | rights::READ_DIR;
const WRITE: u64 = rights::WRITE_FILE | rights::TRUNCATE;
const CREATE: u64 = rights::MAKE_DIR
    | rights::MAKE_REG
    | rights::MAKE_SOCK
    | rights::MAKE_FIFO
    | rights::MAKE_SYM
    | rights::REFER;
const DELETE: u64 = rights::REMOVE_DIR | rights::REMOVE_FILE | rights::REFER;
/// Devices everybody may have, and what is done with them.
const BASIC: [(&str, u64); 6] = [
    ("/dev/null", rights::READ_FILE | WRITE),
    ("/dev/zero", rights::READ_FILE | WRITE),
    ("/dev/full", rights::READ_FILE | WRITE),
    ("/dev/random", rights::READ_FILE),
    ("/dev/urandom", rights::READ_FILE),
    ("/dev/tty", rights::READ_FILE | WRITE | rights::IOCTL_DEV),
];

impl Planner<'_> {
    pub(super) fn files(&mut self) -> Result<(), Refusal> {
        let profile = self.profile;
        let outcome = self.landlocked(1);
        self.settle(Protection::Files, self.files_in_words(), outcome)?;
        if self.holds(Protection::Files) {
            self.rules.files |= rights::ABI_1;
            if self.ability.landlock_abi >= 2 {
                self.rules.files |= rights::REFER;
            }
        }
        let with_files = |planner: &Planner<'_>, abi: u32| match planner.wants(Protection::Files) {
            true => planner.landlocked(abi),
            false => Outcome::NotAsked,
        };
        for (protection, abi, right) in
            [(Protection::Truncate, 3, rights::TRUNCATE), (Protection::DeviceCommands, 5, rights::IOCTL_DEV)]
        {
            let outcome = match with_files(self, abi) {
                Outcome::Nothing(reason) => self.or_by_mounts(reason, protection),
                outcome => outcome,
            };
            let asked = if right == rights::TRUNCATE { "what may be written" } else { "what is listed" };
            self.settle(protection, asked, outcome)?;
            match (self.is_by_mounts(protection), right) {
                (true, rights::TRUNCATE) => self.namespaces().read_only = true,
                (true, _) => self.namespaces().no_devices = true,
                (false, right) if self.holds(protection) => self.rules.files |= right,
                (false, _) => {}
            }
        }
        self.metadata()?;
        let lists = [
            ("read", &profile.files.read, READ),
            ("write", &profile.files.write, WRITE),
            // What is run is read.
            ("execute", &profile.files.execute, rights::EXECUTE | rights::READ_FILE),
            ("create", &profile.files.create, CREATE),
            ("delete", &profile.files.delete, DELETE),
        ];
        for (name, paths, right) in lists {
            for (at, path) in paths.iter().enumerate() {
                let path = resolve(path, self.place, || format!("files.{name}[{at}]"))?;
                self.grant(&path, right);
            }
        }
        for (at, path) in profile.devices.allow.iter().enumerate() {
            let path = resolve(path, self.place, || format!("devices.allow[{at}]"))?;
            self.grant(&path, rights::READ_FILE | WRITE | rights::IOCTL_DEV);
        }
        if profile.devices.basic {
            BASIC.into_iter().for_each(|(path, right)| self.grant(path, right));
        }
        self.denied_paths()
    }

    fn metadata(&mut self) -> Result<(), Refusal> {
        let (asked, outcome) = match self.profile.files.metadata {
            false => ("none", self.filtered()),
            true => {
                let nowhere =
                    "Landlock can't tell where: modes of files outside can be changed too".to_owned();
                ("of what may be changed", self.or_by_mounts(nowhere, Protection::Metadata))
            }
        };
        self.settle(Protection::Metadata, asked, outcome)?;
        match self.is_by_mounts(Protection::Metadata) {
            true => self.namespaces().read_only = true,
            false if self.holds(Protection::Metadata) => self.filter(Group::NoMetadata),
            false => {}
        }
        Ok(())
    }

    /// What Landlock can't do for this reason, by mounting everything anew that may be changed or is listed, and having the
    /// rest read-only or without devices.
    fn or_by_mounts(&self, reason: String, protection: Protection) -> Outcome {
        let files = &self.profile.files;
        let written = |path: &String| files.write.contains(path);
        if protection == Protection::Truncate && !files.create.iter().chain(&files.delete).all(written) {
            return Outcome::Nothing(format!("{reason}, and what is made isn't what may be written"));
        }
        match self.by_mounts() {
            Outcome::Nothing(also) => Outcome::Nothing(format!("{reason}; {also}")),
            outcome => outcome,
        }
    }

    fn is_by_mounts(&self, protection: Protection) -> bool {
        let entry = self.plan.receipt.of(protection);
        entry.is_some_and(|entry| entry.by.contains(&Mechanism::MountNamespace))
    }

    /// Grants what of a right is denied otherwise.
    pub(super) fn grant(&mut self, path: &str, right: u64) {
        let right = right & self.rules.files;
        if right != 0 {
            *self.below.entry(path.as_bytes().into()).or_default() |= right;
        }
    }

    fn denied_paths(&mut self) -> Result<(), Refusal> {
        let files = &self.profile.files;
        let (mut inside, mut unknown) = (Vec::new(), Vec::new());
        let changes = WRITE | CREATE | DELETE;
        for (name, denied, right, what) in [
            ("denyRead", &files.deny_read, READ | rights::EXECUTE, Denied::Read),
            ("denyWrite", &files.deny_write, changes & !rights::REFER, Denied::Write),
        ] {
            for (at, path) in denied.iter().enumerate() {
                match resolve(path, self.place, || format!("files.{name}[{at}]")) {
                    Ok(path) if path == "/" && self.is_granted_around(&path, right) => unknown.push(path),
                    Ok(path) if self.is_granted_around(&path, right) => {
                        inside.push((path.into_bytes(), what))
                    }
                    Ok(_) => {}
                    // Where it can't be told which path is meant, it may be one that is allowed.
                    Err(_) => unknown.push(path.clone()),
                }
            }
        }
        let asked = self.denied_in_words();
        let outcome = match (asked.is_none(), inside.is_empty(), unknown.is_empty()) {
            (true, _, _) => Outcome::NotAsked,
            _ if !self.holds(Protection::Files) => {
                Outcome::Nothing("files aren't protected at all".to_owned())
            }
            (false, true, true) => Outcome::by(Mechanism::Landlock),
            (false, _, false) => Outcome::Nothing(format!(
                "it is all there is, or there is no folder to tell which is meant: {}",
                unknown.join(", ")
            )),
            (false, false, true) => self.denied_apart(&inside),
        };
        self.settle(Protection::DeniedPaths, asked.unwrap_or("none".to_owned()), outcome)?;
        if !inside.is_empty() && self.holds(Protection::DeniedPaths) {
            let placeholders = !self.profile.accepts_weaker(Protection::DeniedPaths);
            let namespaces = self.namespaces();
            namespaces.denied = inside;
            namespaces.placeholders = placeholders;
        }
        Ok(())
    }

    /// Landlock keeps from mounting and unmounting, and nothing but the want of capabilities from copying a mount without
    /// what is mounted in it: it takes all three. Who has made a user namespace gives up its capabilities anyway.
    fn by_mounts(&self) -> Outcome {
        if !self.holds(Protection::Files) {
            return Outcome::Nothing("files aren't protected at all".to_owned());
        }
        if !self.holds(Protection::Privileges) && !self.ability.namespaces.user {
            return Outcome::Nothing("with root's capabilities mounts can be undone".to_owned());
        }
        match self.apart(&self.ability.namespaces.mount, Mechanism::MountNamespace) {
            Outcome::InForce(_) => Outcome::InForce(vec![Mechanism::MountNamespace, Mechanism::Landlock]),
            outcome => outcome,
        }
    }

    fn denied_apart(&self, inside: &[(Vec<u8>, Denied)]) -> Outcome {
        match self.by_mounts() {
            Outcome::Nothing(reason) => {
                let inside: Vec<_> = inside.iter().map(|(path, _)| String::from_utf8_lossy(path)).collect();
                Outcome::Nothing(format!(
                    "Landlock can't take back what is allowed above: {}; {reason}. Allow less, or accept it by name",
                    inside.join(", ")
                ))
            }
            outcome => outcome,
        }
    }

    /// Nothing if nothing is denied.
    pub(super) fn denied_in_words(&self) -> Option<String> {
        let files = &self.profile.files;
        let all: Vec<&str> = files.deny_read.iter().chain(&files.deny_write).map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Whether any of these rights is granted on a path, above it or below it.
    fn is_granted_around(&self, path: &str, right: u64) -> bool {
        let has = |rights: &u64| rights & right != 0;
        let above = |folder: &str| self.below.get(folder.as_bytes()).is_some_and(has);
        let mut ends = path.match_indices('/').map(|(end, _)| if end == 0 { "/" } else { &path[..end] });
        let inside = [path.trim_end_matches('/').as_bytes(), b"/"].concat();
        above(path)
            || ends.any(above)
            || self
                .below
                .range(inside.clone()..)
                .take_while(|(below, _)| below.starts_with(&inside))
                .any(|(_, rights)| has(rights))
    }

    pub(super) fn files_in_words(&self) -> String {
        let lists = self.profile.files.lists();
        let words: Vec<String> = (lists.iter().take(5))
            .filter(|(_, paths)| !paths.is_empty())
            .map(|(name, paths)| format!("{name} {}", paths.join(" ")))
            .collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
    }
}

/// The absolute path that is meant, without empty parts, `.` and trailing slashes.
pub(super) fn resolve(path: &str, place: &Place, field: impl Fn() -> String) -> Result<String, Complaint> {
    let (base, rest) = match path.as_bytes().first() {
        Some(b'~') => (place.home.as_deref(), &path[1..]),
        Some(b'.') => (place.folder.as_deref(), &path[1..]),
        _ => (Some(""), path),
    };
    let Some(base) = base.filter(|base| base.is_empty() || base.starts_with('/')) else {
        let what = if path.starts_with('~') { "home folder" } else { "absolute working folder" };
        return Err(Complaint::new(field(), format!("it has no {what} to stand in for the beginning")));
    };
    let whole = format!("{base}/{rest}");
    if whole.split('/').any(|part| part == "..") {
        return Err(Complaint::new(field(), "`..` is not followed: write the path out"));
    }
    let parts: Vec<&str> = whole.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Ok(format!("/{}", parts.join("/")))
}

/// Whether a path is this folder or below it, by their names.
pub(super) fn is_within(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
