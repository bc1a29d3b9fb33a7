//! What a manifest newly reaches, against an older one that was approved.
//!
//! By containment, not by text: what lies in a folder that was allowed is not new, a wider range of ports is by the ports it has
//! gained, and a denial, a limit or a protection that is gone is. Invariant: what isn't in the list could be reached before.
//! Where it can't be told (paths from different bases), it is called new.

use super::Manifest;
use super::ask::{Ask, Right};
use super::host;
use super::pattern::{call_covers, is_within, may_meet, topic_covers, variable_covers};
use super::ports::Ports;
use super::words::{self, Group, Line};
use crate::profile::Reach;
use crate::protection::Strength;
use std::collections::BTreeSet;

impl Manifest {
    /// What it reaches that the older one doesn't.
    pub fn beyond(&self, older: &Manifest) -> Vec<Line> {
        let mut lines = BTreeSet::new();
        self.program(older, &mut lines);
        for permission in &self.permissions {
            let purpose = &permission.purpose;
            let line = |(group, text)| Line { group, text, purpose: purpose.clone() };
            match &permission.ask {
                Ask::File { right, path } => {
                    lines.extend(
                        self.gained(older, *right, path).into_iter().map(|text| line((Group::Files, text))),
                    );
                }
                ask => lines.extend(rest(ask, older).and_then(|ask| words::say(&ask)).map(line)),
            }
        }
        self.processes(older, &mut lines);
        self.loosened(older, &mut lines);
        lines.into_iter().collect()
    }

    /// What of a right on a path wasn't there before.
    fn gained(&self, older: &Manifest, right: Right, path: &str) -> Vec<String> {
        let before = |ask: &Ask| matches!(ask, Ask::File { right: of, path: folder } if *of == right && is_within(path, folder));
        let done = words::done_with_files(right);
        if !older.asks().any(before) {
            return vec![format!("{done} {}", words::place(path))];
        }
        // It was allowed, but for what was denied; that has to be denied still.
        let still = |denied: &str| {
            self.asks().any(|ask| matches!(ask, Ask::NoFile { denial, path } if denial.takes(right) && is_within(denied, path)))
        };
        let freed = older.asks().filter_map(|ask| match ask {
            Ask::NoFile { denial, path: denied }
                if denial.takes(right) && may_meet(denied, path) && !still(denied) =>
            {
                Some(format!("{done} {}, which was denied", words::place(denied)))
            }
            _ => None,
        });
        freed.collect()
    }

    /// Another program under the old name.
    fn program(&self, older: &Manifest, lines: &mut BTreeSet<Line>) {
        let (new, old) = (&self.identity, &older.identity);
        let mut changed = |what: String| lines.insert(Line::of(Group::Program, what));
        for (new, old) in [
            (&new.artifacts.binaries, &old.artifacts.binaries),
            (&new.artifacts.libraries, &old.artifacts.libraries),
        ] {
            for (platform, path) in new.iter().filter(|(platform, path)| old.get(*platform) != Some(*path)) {
                changed(format!("{path} on {platform}"));
            }
        }
        for (new, old) in [
            (&new.artifacts.wasm, &old.artifacts.wasm),
            (&new.artifacts.container_stack, &old.artifacts.container_stack),
        ] {
            if let Some(path) = new.as_ref().filter(|_| new != old) {
                changed(path.clone());
            }
        }
        if let (Some(kind), true) = (new.kind, new.kind != old.kind) {
            changed(format!("it is run as {}", format!("{kind:?}").to_lowercase()));
        }
    }

    /// Signals and traces go further: their defaults count, so profiles are compared.
    fn processes(&self, older: &Manifest, lines: &mut BTreeSet<Line>) {
        let (new, old) = (self.profile().processes, older.profile().processes);
        for (reach, before, ask) in [
            (new.signal, old.signal, Ask::Signal { reach: new.signal }),
            (new.ptrace, old.ptrace, Ask::Ptrace { reach: new.ptrace }),
        ] {
            if how_far(reach) > how_far(before) {
                let purpose = self.permissions.iter().find(|permission| permission.ask == ask);
                let purpose = purpose.and_then(|permission| permission.purpose.clone());
                lines.extend(words::say(&ask).map(|(group, text)| Line { group, text, purpose }));
            }
        }
    }

    /// Settings that hold it less.
    fn loosened(&self, older: &Manifest, lines: &mut BTreeSet<Line>) {
        let (new, old) = (&self.settings, &older.settings);
        let mut loose = |group, text: String| lines.insert(Line::of(group, text));
        if old.without_kernel && !new.without_kernel {
            loose(Group::Calls, "a connection to the kernel".to_owned());
        }
        if old.without_basic_devices && !new.without_basic_devices {
            loose(Group::Devices, "null, zero, full, random, urandom and its terminal".to_owned());
        }
        for (name, value) in new.set.iter().filter(|(name, value)| old.set.get(*name) != Some(*value)) {
            loose(Group::Environment, format!("{name} is set to {value}"));
        }
        let of = |limits: &super::Settings| {
            let resources =
                limits.rlimits.iter().map(|limit| (words::resource(limit.resource), Some(limit.value)));
            words::limits(limits.limits).into_iter().chain(resources).collect::<Vec<_>>()
        };
        let now = of(new);
        for (name, before) in of(old) {
            let Some(before) = before else { continue };
            match now.iter().find(|(of, _)| *of == name).and_then(|(_, value)| *value) {
                Some(value) if value <= before => {}
                Some(value) => drop(loose(Group::Limits, format!("{name}: {value}, up from {before}"))),
                None => drop(loose(Group::Limits, format!("{name}: any number, up from {before}"))),
            }
        }
        for (protection, strength) in &new.protections {
            let before = old.protections.get(protection).copied().unwrap_or_default();
            let accepted = *strength == Strength::Degradable && old.accept_weaker.contains(protection);
            if how_loose(*strength) > how_loose(before) && !accepted {
                loose(Group::Protections, words::protected(*protection, *strength));
            }
        }
        for protection in new.accept_weaker.difference(&old.accept_weaker) {
            let before = old.protections.get(protection).copied().unwrap_or_default();
            if before == Strength::Required {
                loose(Group::Protections, format!("{protection}: weaker is accepted"));
            }
        }
    }
}

fn how_far(reach: Reach) -> u8 {
    match reach {
        Reach::None => 0,
        Reach::Inside => 1,
        Reach::Any => 2,
    }
}

fn how_loose(strength: Strength) -> u8 {
    match strength {
        Strength::Required => 0,
        Strength::Degradable => 1,
        Strength::Off => 2,
    }
}

/// What of an ask the older manifest doesn't have; files and reaches are looked at above.
fn rest(ask: &Ask, older: &Manifest) -> Option<Ask> {
    let some = |ports: Ports| (!ports.is_empty()).then_some(ports);
    let had = |covers: &dyn Fn(&Ask) -> bool| if older.asks().any(covers) { None } else { Some(ask.clone()) };
    match ask {
        Ask::File { .. } | Ask::NoFile { .. } | Ask::Signal { .. } | Ask::Ptrace { .. } => None,
        Ask::Connect { host, ports } => {
            let before = union(older, |ask| match ask {
                Ask::Connect { host: None, ports } => Some(ports),
                Ask::Connect { host: Some(wide), ports } => {
                    host.as_ref().is_some_and(|narrow| host::covers(wide, narrow)).then_some(ports)
                }
                _ => None,
            });
            some(ports.without(&before)).map(|ports| Ask::Connect { host: host.clone(), ports })
        }
        Ask::Listen { ports } => some(ports.without(&listened(older))).map(|ports| Ask::Listen { ports }),
        Ask::Loopback { ports } => {
            let here = union(older, |ask| match ask {
                Ask::Loopback { ports } => Some(ports),
                _ => None,
            });
            let anywhere = union(older, |ask| match ask {
                Ask::Connect { host: None, ports } => Some(ports),
                _ => None,
            });
            let mut left = ports.without(&here).without(&anywhere);
            left.extend(&ports.without(&here).without(&listened(older)));
            some(left).map(|ports| Ask::Loopback { ports })
        }
        Ask::Metadata | Ask::Udp | Ask::PrivateNetwork | Ask::AnyUnixSocket => had(&|before| before == ask),
        Ask::UnixSocket { path } => had(&|before| match before {
            Ask::AnyUnixSocket => true,
            Ask::UnixSocket { path: folder } => is_within(path, folder),
            _ => false,
        }),
        Ask::DevicePath { path } => {
            had(&|before| matches!(before, Ask::DevicePath { path: folder } if is_within(path, folder)))
        }
        Ask::Device { request, criteria } => had(&|before| match before {
            Ask::Device { request: of, criteria: fewer } => {
                of == request && fewer.iter().all(|(key, value)| criteria.get(key) == Some(value))
            }
            _ => false,
        }),
        Ask::Variable { name } => {
            had(&|before| matches!(before, Ask::Variable { name: wide } if variable_covers(wide, name)))
        }
        Ask::Call { method } => {
            had(&|before| matches!(before, Ask::Call { method: wide } if call_covers(wide, method)))
        }
        Ask::Publish { pattern } => {
            had(&|before| matches!(before, Ask::Publish { pattern: wide } if topic_covers(wide, pattern)))
        }
        Ask::Subscribe { pattern } => {
            had(&|before| matches!(before, Ask::Subscribe { pattern: wide } if topic_covers(wide, pattern)))
        }
    }
}

fn listened(older: &Manifest) -> Ports {
    union(older, |ask| match ask {
        Ask::Listen { ports } => Some(ports),
        _ => None,
    })
}

fn union<'a>(older: &'a Manifest, ports: impl Fn(&'a Ask) -> Option<&'a Ports>) -> Ports {
    let mut all = Ports::default();
    older.asks().filter_map(ports).for_each(|more| all.extend(more));
    all
}
