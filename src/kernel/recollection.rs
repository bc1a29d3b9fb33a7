//! What a kernel has to know before anybody connects: from its keeper, from the session records, from the log.
//!
//! ```text
//!   agents, grants (values) ─▶ adopted (keeper) ─▶ reminded of what the log has told ─▶ recalled (records) ─▶ receipts, intents, consumers (values)
//! ```
//!
//! The order matters: only what the keeper has not handed over is recalled, and what is told of it must not have been told.

use crate::state::Past;
use anyhow::{Context, Result};
use kairo_controlplane::agents;
use kairo_controlplane::events::consumers::{CONFIG_PREFIX, STATE_PREFIX};
use kairo_controlplane::events::log::{Audited, Damage, Reader};
use kairo_controlplane::events::reading::{Milestone, births_told, ends_told};
use kairo_controlplane::intents::keeping;
use kairo_controlplane::kernel::ControlPlane;
use kairo_controlplane::permissions;
use kairo_controlplane::receipts;
use kairo_controlplane::sessions::adoption::births_from;
use kairo_dataplane::command::Commands;
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::reactor::adoption::Adopted;
use kairo_dataplane::sys::clock;
use std::collections::BTreeSet;
use std::path::Path;

/// What came of it.
pub(super) struct Recalled {
    /// For the reactors.
    pub(super) adopted: Vec<Adopted>,
    /// What the log has lost.
    pub(super) damage: Vec<Damage>,
    /// What was found of its audit.
    pub(super) audit: Audited,
}

/// Has the kernel know its past; `past` is that of a state folder, if there is one.
pub(super) fn recall(
    control: &ControlPlane,
    reader: &Reader,
    heirs: Vec<Heir>,
    mut past: Option<Past>,
    spools: &Path,
    out: &mut Commands,
) -> Result<Recalled> {
    let values = |prefix| reader.values(prefix).context("the log could not be read");
    let told = already_told(reader, &heirs)?;
    let receipts = values(receipts::PREFIX)?;
    let sessions: BTreeSet<String> = heirs.iter().map(|heir| heir.session.session.clone()).collect();
    let over = past.as_mut().map(Past::over).unwrap_or_default();
    let (agents, agent_sessions) = (values(agents::AGENT_PREFIX)?, values(agents::SESSION_VALUE_PREFIX)?);
    let (declared, grants) = (values(permissions::DECLARED_PREFIX)?, values(permissions::GRANT_PREFIX)?);
    let mut adopted = control.with(|kernel| {
        // Whoever is started again may need them.
        kernel.recall_agents(agents, agent_sessions);
        kernel.recall_grants(clock::now(), declared, grants);
        kernel.recall_receipts(receipts);
        let adopted = kernel.adopt(clock::now(), heirs, out);
        kernel.remind(clock::now(), &told, &over, out);
        adopted
    });
    if let Some(past) = &mut past {
        let (lives, cause) = past.recollect(&sessions, spools);
        adopted.extend(control.with(|kernel| kernel.recall(clock::now(), lives, cause, out)));
    }
    control.with(|kernel| kernel.settle_adopted(clock::now(), out));
    let intents = values(keeping::PREFIX)?;
    let (descriptions, standings) = (values(CONFIG_PREFIX)?, values(STATE_PREFIX)?);
    control.with(|kernel| {
        kernel.recall_intents(clock::now(), intents, out);
        kernel.recall_consumers(descriptions, standings);
        kernel.settle_agents(clock::now(), out);
        kernel.settle_grants(clock::now(), out);
    });
    let damage = past.as_mut().map(Past::damage).unwrap_or_default();
    let audit = past.as_mut().map(Past::audit).unwrap_or_default();
    Ok(Recalled { adopted, damage, audit })
}

/// What the log says of lives that the keeper hands over.
fn already_told(reader: &Reader, heirs: &[Heir]) -> Result<Vec<(String, Milestone)>> {
    let mut told = if heirs.is_empty() { Vec::new() } else { ends_told(reader)? };
    if let Some(from) = births_from(heirs) {
        told.extend(births_told(reader, from)?);
    }
    Ok(told)
}
