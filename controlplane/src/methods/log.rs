//! The log as a whole. What dropping is, is in [`compacting`](crate::events::compacting).

use crate::calls::{Asking, Turn};
use crate::events::compacting::Chore;
use crate::events::journal::unkept;
use crate::events::log::{Retention, Rule, Types};
use crate::kernel::Kernel;
use crate::methods::consumer::told_of;
use crate::state::Pending;
use crate::table::{Answers, Entry};
use kairo_wire::error::WireError;
use kairo_wire::limits::TOPIC_BYTES_MAX;
use kairo_wire::method::Method;
use kairo_wire::methods::log::{
    Compact, CompactParams, LogStatus, LogStatusResult, RetentionPolicy, RetentionRule,
};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] =
    &[(Compact::ROW, Answers::Later, compact), (LogStatus::ROW, Answers::AtOnce, log_status)];

fn compact(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Compact>()?;
    let dry_run = params.dry_run;
    let what = what(params)?;
    if let Some(reason) = &kernel.journal.broken {
        return Err(unkept(reason));
    }
    let story = Box::new(asking.trace.clone());
    let ticket = kernel.park(turn, asking, Pending::Compaction { story });
    kernel.journal.charge(Chore { ticket, what, dry_run });
    Ok(())
}

/// What is to be dropped; none for what the configuration says.
fn what(params: CompactParams) -> Result<Option<Retention>, WireError> {
    let CompactParams { older_than_ms: age_ms, bytes, topic, latest_by, count, dry_run: _ } = params;
    let Some(topic) = topic else {
        for (field, is_there) in [("latestBy", latest_by.is_some()), ("count", count.is_some())] {
            if is_there {
                return Err(WireError::invalid(field, "it takes a type"));
            }
        }
        let is_there = age_ms.is_some() || bytes.is_some();
        return Ok(is_there.then(|| Retention { age_ms, bytes, ..Retention::default() }));
    };
    if bytes.is_some() {
        return Err(WireError::invalid("bytes", "it is for the log as a whole, not for a type"));
    }
    if age_ms.is_none() && latest_by.is_none() && count.is_none() {
        return Err(WireError::invalid("type", "it takes olderThanMs, latestBy or count"));
    }
    if latest_by.as_ref().is_some_and(|field| field.is_empty() || field.len() > TOPIC_BYTES_MAX) {
        return Err(WireError::invalid("latestBy", format!("a field has 1 to {TOPIC_BYTES_MAX} bytes")));
    }
    Types::new(topic.as_str()).map_err(|error| WireError::invalid("type", error))?;
    let rule = Rule { types: topic.as_str().to_owned(), age_ms, latest_by, count };
    Ok(Some(Retention { rules: vec![rule], ..Retention::default() }))
}

fn log_status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    asking.read::<LogStatus>()?;
    let journal = &kernel.journal;
    let figures = journal.figures();
    let result = LogStatusResult {
        first_seq: figures.first_seq,
        last_seq: journal.last_seq,
        told_seq: journal.told_seq,
        events: figures.events,
        bytes: figures.bytes,
        stored_bytes: figures.stored_bytes,
        unwritten_bytes: journal.unwritten_bytes() as u64,
        index_lag: figures.last_seq.saturating_sub(figures.indexed_to),
        gaps: figures.gaps,
        compacting: figures.compacting,
        broken: journal.broken.clone(),
        policy: told_policy(&figures.policy),
        consumers: told_of(kernel, asking.connection),
    };
    kernel.answer(turn, asking, &result);
    Ok(())
}

fn told_policy(policy: &Retention) -> RetentionPolicy {
    let rule = |rule: &Rule| RetentionRule {
        topic: rule.types.clone(),
        age_ms: rule.age_ms,
        latest_by: rule.latest_by.clone(),
        count: rule.count,
    };
    let rules = policy.rules.iter().map(rule).collect();
    RetentionPolicy { age_ms: policy.age_ms, bytes: policy.bytes, rules }
}
