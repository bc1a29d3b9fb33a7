//! Answering what is asked of the audit: off the lock, each answer a page of bounded work.
//!
//! Invariant: a page says how far it has looked, and the end of the chain as it was then.

use super::chain::Head;
use super::checkpoint::Checkpoint;
use super::export;
use super::verify::Checker;
use super::{about, grant_of, text};
use crate::events::log::audit::{Piece, check};
use crate::events::log::{Damage, LogError, PageLimit, Reader, Standing, Types};
use crate::events::outlet::{Answer, Found};
use crate::events::record::Record;
use bytes::BytesMut;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::error::{Code, WireError};
use kairo_wire::methods::audit::{
    AuditExportParams, AuditExportResult, AuditQueryResult, AuditRecord, AuditStatusResult, AuditVerifyResult,
};
use serde::Serialize;

/// Records a page looks at …
const LOOKED_AT_MAX: usize = 8_192;
/// … and bytes of them: some milliseconds of hashing.
const LOOKED_AT_BYTES: usize = 2 << 20;
/// Bytes of records in the answer to a query.
const ANSWER_BYTES: usize = 1 << 20;

/// Something asked of the audit.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Comes back with the answer.
    pub ticket: u64,
    /// How integers are written.
    pub dialect: Dialect,
    /// What.
    pub what: Inspected,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Inspected {
    /// `audit.query`.
    Records(Box<Filter>),
    /// `audit.status`, and `audit.prune` when it is done.
    Standing,
    /// `audit.checkpoint`.
    Checkpoint,
    /// `audit.verify`, behind this record.
    Soundness(Option<u64>),
    /// `audit.export`.
    Lines(AuditExportParams),
}

/// Which records are wanted.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Of this principal.
    pub principal: Option<String>,
    /// Of these types.
    pub types: Option<Types>,
    /// Not before …
    pub from_ms: u64,
    /// … and not after.
    pub to_ms: u64,
    /// Of this intent.
    pub intent: Option<String>,
    /// About this.
    pub target: Option<String>,
    /// Under this grant.
    pub grant: Option<String>,
    /// Behind this record.
    pub after: u64,
    /// At most so many.
    pub limit: usize,
}

impl Filter {
    fn matches(&self, record: &Record<'_>) -> bool {
        const TARGETS: [&str; 4] = ["target", "id", "session", "resource"];
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        (self.from_ms..=self.to_ms).contains(&record.time_ms)
            && self.types.as_ref().is_none_or(|types| types.matches(&record.topic))
            && self.principal.as_ref().is_none_or(|wanted| {
                is_of(&record.principal, wanted) || about(record).contains(&Some(wanted.as_str()))
            })
            && same(&self.intent, record.intent.as_deref())
            && (self.grant.is_none() || same(&self.grant, grant_of(record)))
            && self
                .target
                .as_deref()
                .is_none_or(|wanted| TARGETS.iter().any(|field| text(record, field) == Some(wanted)))
    }
}

/// True if a principal is the one that is wanted: `skill:NAME` is it in any session, `skill:SESSION` under any name.
fn is_of(principal: &str, wanted: &str) -> bool {
    if principal == wanted {
        return true;
    }
    let Some(((kind, name), (wanted_kind, wanted))) = principal.split_once(':').zip(wanted.split_once(':'))
    else {
        return false;
    };
    kind == wanted_kind
        && name.split_once('/').is_some_and(|(session, name)| session == wanted || name == wanted)
}

/// Looks. What is not as it was written is returned as well, to be told.
pub fn inspect(reader: &Reader, inspection: &Inspection) -> (Answer, Vec<Damage>) {
    let mut damage = Vec::new();
    let found = look(reader, inspection, &mut damage);
    (Answer { ticket: inspection.ticket, found, keep: Vec::new() }, damage)
}

fn look(reader: &Reader, inspection: &Inspection, damage: &mut Vec<Damage>) -> Result<Found, WireError> {
    let standing = reader.audit().map_err(unavailable)?;
    let Some(standing) = standing else {
        return Err(WireError::new(Code::Unavailable, "this kernel keeps no audit"));
    };
    let dialect = inspection.dialect;
    match &inspection.what {
        Inspected::Standing => found(dialect, &status(reader, &standing).map_err(unavailable)?),
        Inspected::Checkpoint => match &standing.last {
            Some(last) => found(dialect, &last.told()),
            None => Err(WireError::new(Code::Unavailable, "there is nothing to sign yet")),
        },
        Inspected::Records(filter) => {
            found(dialect, &records(reader, &standing, filter).map_err(unavailable)?)
        }
        Inspected::Soundness(after) => {
            let result = verified(reader, &standing, *after)?;
            damage.extend(result.problems.iter().map(|one| Damage {
                from: one.from,
                to: one.to,
                what: one.what.clone(),
            }));
            found(dialect, &result)
        }
        Inspected::Lines(page) => found(dialect, &lines(reader, &standing, page)?),
    }
}

fn unavailable(error: LogError) -> WireError {
    WireError::new(Code::Unavailable, error.to_string())
}

fn found<R: Serialize>(dialect: Dialect, result: &R) -> Result<Found, WireError> {
    let mut bytes = BytesMut::new();
    to_buf(&mut bytes, dialect, result).map_err(WireError::from)?;
    Ok(Found { bytes: bytes.freeze(), ..Found::default() })
}

fn status(reader: &Reader, standing: &Standing) -> Result<AuditStatusResult, LogError> {
    let anchor = standing.anchor.as_ref().map_or(0, |anchor| anchor.n);
    Ok(AuditStatusResult {
        first: (standing.head.n > anchor).then_some(anchor + 1),
        head: standing.head.told(),
        anchor: standing.anchor.as_ref().map(Checkpoint::told),
        checkpoints: reader.audit_checkpoints(u64::MAX - 1)?,
        last_checkpoint: standing.last.as_ref().map(Checkpoint::told),
        public_key: crate::digest::hex(&standing.key),
        bytes: reader.audit_bytes(),
    })
}

fn limit() -> PageLimit {
    PageLimit { events: LOOKED_AT_MAX, bytes: LOOKED_AT_BYTES, looked_at: LOOKED_AT_MAX }
}

fn records(reader: &Reader, standing: &Standing, filter: &Filter) -> Result<AuditQueryResult, LogError> {
    let stretch = reader.audit_stretch(filter.after, standing.head.n, limit())?;
    let (mut records, mut bytes, mut next): (Vec<AuditRecord>, usize, _) = (Vec::new(), 0, stretch.next);
    for piece in &stretch.pieces {
        let Piece::Record(link) = piece else { continue };
        if !link.record().is_ok_and(|record| filter.matches(&record)) {
            continue;
        }
        if records.len() >= filter.limit || bytes > ANSWER_BYTES {
            next = records.last().map(|last| last.n);
            break;
        }
        bytes += link.body.len();
        records.extend(link.told().ok());
    }
    Ok(AuditQueryResult { records, next, head: standing.head.told() })
}

fn verified(
    reader: &Reader,
    standing: &Standing,
    after: Option<u64>,
) -> Result<AuditVerifyResult, WireError> {
    let (key, anchor) = (Some(standing.key), standing.anchor.clone());
    let mut checker = match (after, anchor) {
        (None, None) => Checker::whole(key),
        (None, Some(anchor)) => Checker::anchored(anchor, key),
        (Some(after), _) => {
            let place = reader.audit_place(after).map_err(unavailable)?;
            let Some(head) = place else {
                return Err(WireError::invalid("after", "there is no such record"));
            };
            Checker::behind(head, reader.audit_checkpoint(after).map_err(unavailable)?, key)
        }
    };
    let from = checker.head().n;
    let stretch = reader.audit_stretch(from, standing.head.n, limit()).map_err(unavailable)?;
    stretch.pieces.iter().for_each(|piece| check(&mut checker, piece));
    let reached = checker.head().n;
    if stretch.next.is_none() && reached < standing.written {
        checker.tell(reached + 1, standing.written, "missing: they were written by this kernel");
    }
    Ok(AuditVerifyResult {
        records: checker.records,
        checkpoints: checker.checkpoints,
        signed_to: checker.signed_to(),
        // A stretch that ends in what can't be read is gone on behind as it is.
        next: stretch.next.map(|next| if reached > from { reached } else { next }),
        head: standing.head.told(),
        problems: checker.problems,
    })
}

fn lines(
    reader: &Reader,
    standing: &Standing,
    page: &AuditExportParams,
) -> Result<AuditExportResult, WireError> {
    let anchor = standing.anchor.as_ref().map_or(0, |anchor| anchor.n);
    let AuditExportParams { after, from, to } = *page;
    if from.is_some_and(|from| from != anchor) {
        return Err(WireError::new(Code::Conflict, "records were dropped meanwhile: begin the export anew"));
    }
    // What is not signed would be nobody's word.
    let to = to.or(standing.last.as_ref().map(|last| last.n)).unwrap_or_default();
    let after = after.unwrap_or(anchor);
    let mut lines = match page.after {
        None => export::header(&standing.key, standing.anchor.as_ref()),
        Some(_) => Vec::new(),
    };
    let stretch = reader.audit_stretch(after, to, limit()).map_err(unavailable)?;
    lines.extend(stretch.pieces.iter().filter_map(|piece| match piece {
        Piece::Record(link) => Some(export::record(link)),
        Piece::Checkpoint(one) => Some(export::checkpoint(one)),
        // It is missing, and whoever verifies says so.
        Piece::Unreadable(..) => None,
    }));
    if stretch.next.is_none() {
        let last = reader.audit_checkpoint(to).map_err(unavailable)?;
        let end = last.as_ref().map_or(Head::default(), Checkpoint::head);
        let checkpoints = reader.audit_checkpoints(to).map_err(unavailable)?;
        lines.push(export::end(&end, to - anchor, checkpoints));
    }
    let next =
        stretch.next.map(|after| AuditExportParams { after: Some(after), from: Some(anchor), to: Some(to) });
    Ok(AuditExportResult { lines, next, head: standing.head.told() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_is_known_by_its_name_and_by_its_session() {
        for (principal, wanted, is) in [
            ("owner", "owner", true),
            ("skill:s1/x", "skill:x", true),
            ("skill:s1/x", "skill:s1", true),
            ("skill:s1/x", "skill:s1/x", true),
            ("skill:x", "skill:x", true),
            ("skill:s1/x", "agent:x", false),
            ("skill:s1/xy", "skill:x", false),
            ("owner", "skill:x", false),
        ] {
            assert_eq!(is_of(principal, wanted), is, "{principal} {wanted}");
        }
    }
}
