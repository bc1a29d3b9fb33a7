//! How much each principal may have, as the configuration says it.
//!
//! Invariant: of two rules that name a principal and bound the same, the more exact one counts.

use kairo_wire::methods::quota::QuotaName;
use serde::Serialize;

/// How many quotas there are.
pub(crate) const COUNT: usize = QuotaName::ALL.len();
/// Bounds, by `QuotaName as usize`; 0 is none.
pub(crate) type Bounds = [u64; COUNT];

/// What some principals may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Which: a kind (`skill`), one of a kind (`skill:render`), or some of a kind (`skill:render-*`).
    pub principal: String,
    /// Bounds that are given, by `QuotaName as usize`; 0 is without one.
    #[serde(serialize_with = "by_name")]
    pub bounds: [Option<u64>; COUNT],
}

fn by_name<S: serde::Serializer>(bounds: &[Option<u64>; COUNT], to: S) -> Result<S::Ok, S::Error> {
    let given =
        QuotaName::ALL.iter().zip(bounds).filter_map(|(quota, bound)| Some((quota.word(), (*bound)?)));
    to.collect_map(given)
}

impl Rule {
    /// How exactly it names this principal: more characters are more exact, all of them most.
    fn exactness(&self, name: &str) -> Option<usize> {
        let kind = name.split(':').next().unwrap_or(name);
        match self.principal.strip_suffix('*') {
            None if self.principal == name => Some(usize::MAX),
            None => (self.principal == kind).then_some(0),
            Some(beginning) => name.starts_with(beginning).then_some(beginning.len()),
        }
    }
}

/// All rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Rules(pub Vec<Rule>);

impl Default for Rules {
    /// Nothing for the owner, and for others far more than any program needs that means well.
    fn default() -> Rules {
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        let some = Option::Some;
        let of_program = [1_024, 128 * MIB, 512, 16_384, 100_000, 8 * GIB].map(some);
        let rules = [
            ("user", [4_096, 512 * MIB, 2_048, 65_536, 200_000, 8 * GIB].map(some)),
            ("agent", of_program),
            ("skill", of_program),
            ("session", of_program),
            ("nobody", [None, None, some(64), None, None, None]),
        ];
        let rule = |(kind, bounds): (&str, _)| Rule { principal: kind.to_owned(), bounds };
        Rules(rules.into_iter().map(rule).collect())
    }
}

impl Rules {
    /// Kinds of principals a rule can name.
    pub const KINDS: [&str; 6] = ["owner", "user", "agent", "skill", "session", "nobody"];

    /// Adds rules, which replace those of the same principals, bound by bound.
    pub fn extend(&mut self, rules: impl IntoIterator<Item = Rule>) {
        for rule in rules {
            match self.0.iter_mut().find(|there| there.principal == rule.principal) {
                Some(there) => {
                    for (place, bound) in there.bounds.iter_mut().zip(rule.bounds) {
                        *place = bound.or(*place);
                    }
                }
                None => self.0.push(rule),
            }
        }
    }

    /// What a principal of this name may have.
    pub(crate) fn of(&self, name: &str) -> Bounds {
        let mut bounds = [(None, 0); COUNT];
        for rule in &self.0 {
            let exactness = rule.exactness(name);
            for (place, bound) in bounds.iter_mut().zip(rule.bounds) {
                if let Some(bound) = bound.filter(|_| exactness.is_some() && exactness >= place.0) {
                    *place = (exactness, bound);
                }
            }
        }
        bounds.map(|(_, bound)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_exact_rule_counts_whatever_the_order() {
        let rule = |principal: &str, processes, connections| Rule {
            principal: principal.to_owned(),
            bounds: [processes, None, connections, None, None, None],
        };
        let mut all = vec![
            rule("skill", Some(1), Some(10)),
            rule("skill:a*", Some(2), None),
            rule("skill:ab*", Some(3), None),
            rule("skill:abc", None, Some(0)),
        ];
        for _ in 0..all.len() {
            all.rotate_left(1);
            let rules = Rules(all.clone());
            for (name, expected) in [
                ("skill:z", [1, 10]),
                ("skill:a", [2, 10]),
                ("skill:abd", [3, 10]),
                ("skill:abc", [3, 0]),
                ("skills:abc", [0, 0]),
                ("owner", [0, 0]),
            ] {
                let bounds = rules.of(name);
                assert_eq!([bounds[0], bounds[2]], expected, "{name}");
            }
        }
    }

    #[test]
    fn what_is_said_replaces_bound_by_bound_what_was() {
        let mut rules = Rules::default();
        let before = rules.of("skill:x");
        let bounds = [Some(7), Some(0), None, None, None, None];
        rules.extend([Rule { principal: "skill".to_owned(), bounds }]);
        let after = rules.of("skill:x");
        assert_eq!((after[0], after[1]), (7, 0));
        assert_eq!(after[2..], before[2..]);
        assert_eq!(rules.of("session:x"), before, "others as before");
        assert_eq!(rules.of("owner"), [0; COUNT]);
    }
}
