//! What retention would drop, without dropping it.
//!
//! Limits are looked at from the beginning of the log, rules from its end: going backwards the first event of a key is the
//! latest, and the first so many are those that are kept. Invariant: with a clock that doesn't go back the answer is what
//! [`Log::retain`] would drop if nothing was written meanwhile.

use super::retention::{Dropped, Retention, SPAN, limit, value_of};
use super::scan::query::{Query, Types};
use super::{Log, LogError};
use crate::events::record::Record;
use std::collections::{BTreeMap, BTreeSet};

/// A look ahead that is under way; one key of 16 bytes is remembered for each value of a rule's field.
#[derive(Debug, Default)]
pub struct Foresight {
    /// Where the next step begins.
    at: Option<u64>,
    /// The limits have had their look; they drop everything up to here.
    limited: Option<u64>,
    freed: u64,
    rules: Vec<Ranks>,
    gone: BTreeMap<u64, Dropped>,
}

/// What a rule has seen, latest first.
#[derive(Debug, Default)]
struct Ranks {
    keys: BTreeSet<Vec<u8>>,
    kept: u64,
}

impl Foresight {
    fn drop(&mut self, span: u64, seq: u64, bytes: &[u8], record: Option<&Record<'_>>) {
        self.gone.entry(span).or_insert_with(|| Dropped::at(seq)).add(seq, bytes, record);
    }

    /// What would go, by range.
    pub fn into_dropped(self) -> Vec<Dropped> {
        self.gone.into_values().collect()
    }
}

impl Log {
    /// Looks at no more than `budget` events. True if there is more to look at.
    pub fn foresee(
        &self,
        foresight: &mut Foresight,
        policy: &Retention,
        now_ms: u64,
        budget: usize,
    ) -> Result<bool, LogError> {
        let end = self.retained_to(policy);
        match foresight.limited {
            None => self.foresee_limits(foresight, policy, now_ms, (end, budget))?,
            Some(limited) => {
                return self.foresee_rules(foresight, policy, now_ms, (limited + 1, end), budget);
            }
        }
        Ok(foresight.limited.is_none() || !policy.rules.is_empty())
    }

    fn foresee_limits(
        &self,
        foresight: &mut Foresight,
        policy: &Retention,
        now_ms: u64,
        (end, budget): (u64, usize),
    ) -> Result<(), LogError> {
        let over = policy.bytes.map_or(0, |bytes| self.totals.bytes.saturating_sub(bytes));
        let too_old = policy.age_ms.map(|age| now_ms.saturating_sub(age));
        let from = foresight.at.unwrap_or(self.oldest);
        if over == 0 && too_old.is_none() {
            foresight.limited = Some(0);
            return Ok(());
        }
        let page = self.reader.scan(&Query { from, to: end, ..Query::default() }, None, limit(budget))?;
        for (seq, bytes) in &page.events {
            let record = Record::parse(*seq, bytes).ok();
            let is_old = record.as_ref().zip(too_old).is_some_and(|(record, line)| record.time_ms < line);
            if foresight.freed >= over && !is_old {
                (foresight.limited, foresight.at) = (Some(seq - 1), None);
                return Ok(());
            }
            foresight.freed += bytes.len() as u64;
            foresight.drop(0, *seq, bytes, record.as_ref());
        }
        foresight.at = page.next;
        if page.next.is_none() {
            foresight.limited = Some(end);
        }
        Ok(())
    }

    fn foresee_rules(
        &self,
        foresight: &mut Foresight,
        policy: &Retention,
        now_ms: u64,
        (from, to): (u64, u64),
        budget: usize,
    ) -> Result<bool, LogError> {
        let types: Vec<Option<Types>> =
            policy.rules.iter().map(|rule| Types::new(&rule.types).ok()).collect();
        foresight.rules.resize_with(types.len(), Ranks::default);
        let wanted: Vec<Types> = types.iter().flatten().cloned().collect();
        if wanted.is_empty() || from > to {
            return Ok(false);
        }
        let query = Query { types: wanted, from, to, backward: true, ..Query::default() };
        let page = self.reader.scan(&query, foresight.at, limit(budget))?;
        for (seq, bytes) in &page.events {
            let Ok(record) = Record::parse(*seq, bytes) else { continue };
            let mut goes = false;
            for (index, rule) in policy.rules.iter().enumerate() {
                if goes || !types[index].as_ref().is_some_and(|types| types.matches(&record.topic)) {
                    continue;
                }
                let ranks = &mut foresight.rules[index];
                let key = rule.latest_by.as_ref().and_then(|field| value_of(&record, field));
                if key.is_some_and(|key| !ranks.keys.insert(key)) {
                    goes = true;
                    continue;
                }
                ranks.kept += 1;
                goes = rule.age_ms.is_some_and(|age| record.time_ms < now_ms.saturating_sub(age))
                    || rule.count.is_some_and(|count| ranks.kept > count);
            }
            if goes {
                foresight.drop(seq / SPAN + 1, *seq, bytes, Some(&record));
            }
        }
        foresight.at = page.next;
        Ok(page.next.is_some())
    }
}
