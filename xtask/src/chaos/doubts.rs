//! How many bytes of a stream that nobody keeps kernels may have let go by uncounted, as they tell.
//!
//! ```text
//! an event of ours, in the log ─▶ whatever was told before it is there, too ─▶ kairo.stream.uncertain of one process
//! ```
//!
//! Invariant: each place counts once, however many kernels tell it.

use super::check::Wrong;
use super::ledger::pages;
use super::line::Caller;
use super::stage::Stage;
use serde_json::json;
use std::collections::BTreeMap;

/// The most a kernel moves in one step, and the most kernels that may have died at one place.
const STEP_BYTES_MAX: u64 = 1 << 20;
const STEPS_MAX: u64 = 8;

/// So many bytes of a process at most, all doubts together.
pub(crate) fn uncounted(stage: &Stage, id: &str) -> Result<u64, Wrong> {
    Caller::new(stage).must("event.publish", &json!({"type": "chaos.barrier", "ack": "log"}))?;
    let mut all = BTreeMap::new();
    pages(stage, 1, Some("kairo.stream.uncertain"), |event| {
        if event.data["id"] == id {
            let number = |name: &str| event.data[name].as_u64();
            let range = number("from").zip(number("to")).filter(|(from, to)| from < to);
            let Some((from, to)) = range.filter(|(from, to)| to - from <= STEP_BYTES_MAX * STEPS_MAX) else {
                return Err(format!("a doubt without a range, or with too large a one: {}", event.data));
            };
            all.entry(from).and_modify(|known: &mut u64| *known = to.max(*known)).or_insert(to);
        }
        Ok(())
    })?;
    Ok(all.into_iter().map(|(from, to)| to - from).sum())
}
