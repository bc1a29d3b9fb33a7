//! What a quota refuses, and how that is told: to the caller at once, to whoever listens once a second.

use super::bucket::SECOND;
use super::ledger::{AccountId, Ledger, Over};
use crate::calls::{Asking, Turn};
use crate::clock::MS;
use crate::events::following::PAGE_BELOW_BYTES;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::plan::Plan;
use crate::state::{Connection, Timer, Trace};
use kairo_dataplane::key::{ConnectionKey, ReactorId};
use kairo_dataplane::limits::{SPOOL_SEGMENT_BYTES, SPOOL_SEGMENT_BYTES_MIN};
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::QuotaExceeded;
use kairo_wire::method::Method;
use kairo_wire::methods::process::Spawn;
use kairo_wire::methods::quota::QuotaName;

/// A spool that said nothing of its size has this part of what its principal may have, for each output.
const SPOOL_SHARE: u64 = 16;

impl Kernel {
    /// Whether a connection may have so much more of something.
    pub(crate) fn within_quota(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        quota: QuotaName,
        more: u64,
    ) -> Result<(), WireError> {
        let Some(peer) = self.state.connections.get(connection) else { return Ok(()) };
        match self.quotas.room(peer.account, quota, more) {
            Ok(()) => Ok(()),
            Err(over) => Err(self.exceeded(turn, over)),
        }
    }

    /// Whether a connection may have one more subscription: there has to be room for what comes of it, too.
    pub(crate) fn may_have_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
    ) -> Result<(), WireError> {
        self.within_quota(turn, connection, QuotaName::Subscriptions, 1)?;
        self.within_quota(turn, connection, QuotaName::BytesInFlight, 1)
    }

    /// Counts events that a connection is about to publish, if it may.
    pub(crate) fn within_rate(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        count: usize,
    ) -> Result<(), WireError> {
        let Some(peer) = self.state.connections.get(connection) else { return Ok(()) };
        match self.quotas.spend(peer.account, count as u64, turn.at.monotonic_ns) {
            Ok(()) => Ok(()),
            Err(over) => Err(self.exceeded(turn, over)),
        }
    }

    /// Whether what a plan starts may be started. A spool without a bound gets one, if its principal has.
    pub(crate) fn may_launch(&mut self, turn: &mut Turn<'_>, plan: &mut Plan) -> Result<(), WireError> {
        self.bound_spool(turn, plan);
        let account = self.hold_creators(&plan.creator);
        // One that would have been started again, and whose place it takes, leaves room.
        let holder = self.state.named(&plan.id).map(|holder| holder.key.serial);
        let bill = holder.and_then(|serial| self.quotas.bills.get(&serial));
        let replaces = bill.is_some_and(|bill| bill.lives && self.quotas.is_under(bill.account, account));
        let room = self.quotas.room(account, QuotaName::Processes, u64::from(!replaces));
        let room = room.and_then(|()| self.room_for_spool(account, plan.spool_bytes()));
        self.quotas.release(account, turn.at.monotonic_ns);
        room.map_err(|over| self.exceeded(turn, over))
    }

    /// Of spools that are not written any more their size counts, once somebody needs the room.
    fn room_for_spool(&mut self, account: AccountId, bytes: u64) -> Result<(), Over> {
        if bytes == 0 || self.quotas.room(account, QuotaName::SpoolBytes, bytes).is_ok() {
            return Ok(());
        }
        self.measure_spools();
        self.quotas.room(account, QuotaName::SpoolBytes, bytes)
    }

    /// Gives the spool of a plan a bound, if there is one for all of its principal's and it has none of its own.
    pub(crate) fn bound_spool(&mut self, turn: &mut Turn<'_>, plan: &mut Plan) {
        let Some(spool) = plan.spool.as_mut().filter(|spool| spool.bytes_max.is_none()) else { return };
        let account = self.hold_creators(&plan.creator);
        let bound = self.quotas.bound(account, QuotaName::SpoolBytes);
        self.quotas.release(account, turn.at.monotonic_ns);
        let Some(bound) = bound else { return };
        let bytes = (bound / SPOOL_SHARE).max(SPOOL_SEGMENT_BYTES_MIN);
        let segment = (bytes / 8).clamp(SPOOL_SEGMENT_BYTES_MIN, SPOOL_SEGMENT_BYTES);
        spool.segment_bytes = spool.segment_bytes.min(segment);
        spool.bytes_max = Some(bytes);
    }

    /// Refuses a spawn that is too much before it is told as a call, if such a refusal was told within the last second: whoever
    /// floods fills a count, and not the log.
    pub(crate) fn refuse_flood(&mut self, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
        const QUOTAS: [QuotaName; 2] = [QuotaName::Processes, QuotaName::SpoolBytes];
        let Some(peer) = self.state.connections.get(asking.connection) else { return Ok(()) };
        let account = peer.account;
        if asking.method != Spawn::ROW.name
            || !self.quotas.told_lately(account, &QUOTAS, turn.at.monotonic_ns)
        {
            return Ok(());
        }
        // What is wrong otherwise is told as ever.
        let Ok(Some(mut plan)) = self.planned(turn.at, asking) else { return Ok(()) };
        match self.is_free(asking.connection, &plan.id) {
            true => self.may_launch(turn, &mut plan),
            false => Ok(()),
        }
    }

    /// Something was refused: that is counted, and told at once, or if something was told within the last second at the end of
    /// that. Returns what the caller is told.
    pub(crate) fn exceeded(&mut self, turn: &mut Turn<'_>, over: Over) -> WireError {
        let Over { account: id, quota, wait_ns, .. } = over;
        let (place, now_ns) = (quota as usize, turn.at.monotonic_ns);
        let Some(account) = self.quotas.get_mut(id) else {
            return WireError::new(Code::Internal, "an account is gone");
        };
        account.refused[place] += 1;
        let (told, untold) = &mut account.told[place];
        *untold += 1;
        let is_due = told.is_none_or(|told| told.saturating_add(SECOND) <= now_ns);
        let error = refusal(&account.name, over);
        match is_due {
            true => self.tell_refused(turn, over),
            false => self.await_telling(turn),
        }
        debug_assert!(wait_ns.is_none() || quota == QuotaName::EventsPerSecond);
        error
    }

    /// Tells what was refused and isn't told.
    fn tell_refused(&mut self, turn: &mut Turn<'_>, over: Over) {
        let Over { account, quota, limit, used, .. } = over;
        let (now_ns, owner_uid) = (turn.at.monotonic_ns, self.config.owner_uid);
        let Some(account) = self.quotas.get_mut(account) else { return };
        let (told, untold) = &mut account.told[quota as usize];
        let count = std::mem::take(untold);
        *told = Some(now_ns);
        let (principal, uid) = (account.name.clone().into_string(), account.holder.uid(owner_uid));
        let audience = Audience::Of(account.holder.creator(owner_uid));
        tracing::info!(
            component = "controlplane",
            principal,
            quota = quota.word(),
            limit,
            used,
            count,
            "too much"
        );
        let event = QuotaExceeded { principal, uid, quota, limit, used, count };
        self.publish(turn, audience, &Trace::default(), &event);
    }

    /// Arms the timer of what is not told, if it isn't.
    fn await_telling(&mut self, turn: &mut Turn<'_>) {
        if self.quotas.telling.is_some() {
            return;
        }
        let timer = self.arm(turn, ReactorId(0), turn.at.monotonic_ns.saturating_add(SECOND));
        self.state.timers.insert(timer.serial, Timer::Refusals);
        self.quotas.telling = Some(timer);
    }

    /// Tells all that was refused and isn't told, for what it was refused for a second ago or longer.
    pub(crate) fn refusals_rang(&mut self, turn: &mut Turn<'_>) {
        self.quotas.telling = None;
        for (id, quota) in self.quotas.untold() {
            let Some(account) = self.quotas.get(id) else { continue };
            let (told, _) = account.told[quota as usize];
            if told.is_some_and(|told| told.saturating_add(SECOND) > turn.at.monotonic_ns) {
                self.await_telling(turn);
                continue;
            }
            let limit = account.limits[quota as usize];
            let used = match quota {
                QuotaName::EventsPerSecond => account.events.so_far(turn.at.monotonic_ns),
                _ => account.used[quota as usize],
            };
            self.tell_refused(turn, Over { account: id, quota, limit, used, wait_ns: None });
        }
    }

    /// True when a connection is to be sent nothing more before it has read: it has enough unread itself, or it has some and
    /// its principal has enough in flight.
    pub(crate) fn is_busy(&self, peer: &Connection) -> bool {
        peer.news_unsent >= PAGE_BELOW_BYTES || self.quotas.is_over_in_flight(peer)
    }
}

impl Ledger {
    /// True when a connection has something unread and its principal enough in flight.
    pub(crate) fn is_over_in_flight(&self, peer: &Connection) -> bool {
        peer.news_unsent > 0 && self.room(peer.account, QuotaName::BytesInFlight, 1).is_err()
    }
}

/// What the caller is told.
fn refusal(principal: &str, over: Over) -> WireError {
    let Over { quota, limit, used, wait_ns, .. } = over;
    let what = quota.word();
    let message = match quota {
        QuotaName::EventsPerSecond => format!("{principal} may publish {limit} events in a second ({what})"),
        _ => format!("{principal} has {used} of {limit} {what}"),
    };
    let error = WireError::new(Code::QuotaExceeded, message)
        .with("quota", what)
        .with("principal", principal)
        .with("limit", limit)
        .with("used", used);
    match wait_ns {
        Some(wait_ns) => error.with("retryAfterMs", wait_ns.div_ceil(MS)),
        None => error,
    }
}
