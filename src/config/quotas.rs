//! How much each principal may have: `[quotas.KIND]`, `[quotas."KIND:NAME"]`, `[quotas."KIND:BEGINNING*"]`.

use super::raw::{ByteSize, RawQuotas};
use super::{ConfigError, File, bounded, checked};
use kairo_controlplane::quotas::bounds::{Rule, Rules};
use std::collections::BTreeMap;
use toml::Spanned;

/// Bounds are at most this, so that every number of ours can hold them.
const MOST: u64 = 1 << 50;
/// Most events in a second that can be told apart from no bound.
const EVENTS_MOST: i64 = 10_000_000;
/// Longest name of a principal, bytes.
const NAME_BYTES_MAX: usize = 512;

/// Checks what the file says, and puts it over the defaults. 0: without a bound.
pub(super) fn decide(
    from: &File<'_>,
    raw: BTreeMap<String, Spanned<RawQuotas>>,
) -> Result<Rules, ConfigError> {
    let mut rules = Rules::default();
    for (principal, quotas) in raw {
        let place = quotas.span();
        let said = from.said(Some(Spanned::new(place, principal)));
        let principal = checked("quotas", said, check_principal)?.unwrap_or_default();
        let bounds = bounds(from, quotas.into_inner())?;
        rules.extend([Rule { principal, bounds }]);
    }
    Ok(rules)
}

fn bounds(from: &File<'_>, raw: RawQuotas) -> Result<[Option<u64>; 6], ConfigError> {
    let count = |field, value: Option<Spanned<i64>>, most: i64| {
        checked(field, from.said(value), |number| bounded(number, 0, most).map(|number| number as u64))
    };
    let size = |field, value: Option<Spanned<ByteSize>>| {
        checked(field, from.said(value), |ByteSize(bytes)| bounded(bytes, 0, MOST))
    };
    // In the order of `QuotaName`.
    Ok([
        count("quotas.processes", raw.processes, MOST as i64)?,
        size("quotas.bytes_in_flight", raw.bytes_in_flight)?,
        count("quotas.connections", raw.connections, MOST as i64)?,
        count("quotas.subscriptions", raw.subscriptions, MOST as i64)?,
        count("quotas.events_per_second", raw.events_per_second, EVENTS_MOST)?,
        size("quotas.spool_bytes", raw.spool_bytes)?,
    ])
}

fn check_principal(text: String) -> Result<String, String> {
    let (kind, name) = text.split_once(':').map_or((text.as_str(), None), |(kind, name)| (kind, Some(name)));
    if !Rules::KINDS.contains(&kind) {
        return Err(format!("{text:?}: a principal is one of {}, or KIND:NAME", Rules::KINDS.join(", ")));
    }
    if name.is_some_and(str::is_empty) || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!("{text:?} names no principal"));
    }
    if text.strip_suffix('*').unwrap_or(&text).contains('*') {
        return Err(format!("{text:?}: * stands at the end"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::{Flags, decide as decide_all};
    use std::path::Path;

    fn decided(text: &str) -> Result<Rules, String> {
        let machine = Environment::pretend(1000, &[("HOME", "/home/u")]);
        decide_all(&Flags::default(), &machine, Some((Path::new("kairo.toml"), text)))
            .map(|config| config.quotas)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn everything_can_be_said_and_what_is_not_said_is_as_usual() {
        assert_eq!(decided("").unwrap(), Rules::default());
        let text = "[quotas.skill]\nprocesses = 7\nspool_bytes = \"2 GiB\"\n\
            [quotas.\"skill:render*\"]\nbytes_in_flight = \"1 MiB\"\nconnections = 3\nsubscriptions = 4\nevents_per_second = 0\n";
        let rules = decided(text).unwrap();
        let of = |principal: &str| rules.0.iter().find(|rule| rule.principal == principal).unwrap().bounds;
        let mut usual = Rules::default().0.into_iter().find(|rule| rule.principal == "skill").unwrap().bounds;
        (usual[0], usual[5]) = (Some(7), Some(2 << 30));
        assert_eq!(of("skill"), usual);
        assert_eq!(of("skill:render*"), [None, Some(1 << 20), Some(3), Some(4), Some(0), None]);
    }

    #[test]
    fn what_means_nothing_is_named_with_its_line() {
        for (text, wrong) in [
            ("[quotas.skills]\nprocesses = 1\n", "kairo.toml:1: quotas: \"skills\": a principal is one of"),
            ("[quotas.\"skill:\"]\nprocesses = 1\n", "kairo.toml:1: quotas:"),
            ("[quotas.\"skill:*a\"]\nprocesses = 1\n", "kairo.toml:1: quotas:"),
            ("[quotas.user]\nprocesses = -1\n", "kairo.toml:2: quotas.processes: -1 must be from 0"),
            ("[quotas.user]\nevents_per_second = 10000001\n", "kairo.toml:2: quotas.events_per_second"),
            ("[quotas.user]\nthreads = 1\n", "kairo.toml:2"),
        ] {
            let error = decided(text).unwrap_err();
            assert!(error.starts_with(wrong), "{error}");
        }
    }
}
