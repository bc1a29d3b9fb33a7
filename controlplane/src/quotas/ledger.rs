//! The accounts, and what is in them.
//!
//! An account is there as long as a connection, a process or an account under it needs it, and then for a while, so that
//! nobody gets a fresh bucket by coming back. Invariant: what is added to an account is added to all above it, and taken
//! from all of them again.

use super::bounds::{Bounds, COUNT, Rules};
use super::bucket::{Bucket, SECOND, Second};
use super::holder::Holder;
use crate::state::SerialMap;
use kairo_dataplane::key::TimerKey;
use kairo_wire::methods::quota::QuotaName;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Accounts above one at most: what is deeper counts for the one that many above, and not for those between.
pub(crate) const DEPTH_MAX: u8 = 16;
/// How long an account is kept that nobody needs.
const KEPT_NS: u64 = 60 * SECOND;
/// Most of those.
const KEPT_MAX: usize = 1_024;
/// Connections of one account that are only there to be told that they are too many.
pub(crate) const SURPLUS_MAX: u32 = 16;
/// Connections of everybody but the owner, who so finds room among the 12,000 of a kernel.
pub(crate) const STRANGERS_MAX: u64 = 11_000;

/// The name of an account; not used again as long as anybody has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountId(u32);

/// One account.
#[derive(Debug)]
pub(crate) struct Account {
    /// Whose.
    pub holder: Holder,
    /// The same, as it is told.
    pub name: Box<str>,
    /// For whom it counts as well.
    pub above: Option<AccountId>,
    depth: u8,
    /// Connections, processes and accounts that need it.
    pub needed: u32,
    idle_ns: u64,
    /// What it has, by quota; of events nothing.
    pub used: Bounds,
    /// The most it had.
    pub peak: Bounds,
    /// What it may have.
    pub limits: Bounds,
    /// How often it was refused more.
    pub refused: [u64; COUNT],
    /// When a refusal was last told, and how many weren't since.
    pub told: [(Option<u64>, u64); COUNT],
    /// Connections that are too many.
    pub surplus: u32,
    bucket: Bucket,
    /// Events of this second.
    pub events: Second,
}

/// A quota that would be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Whose.
    pub account: AccountId,
    /// Of what.
    pub quota: QuotaName,
    /// How much may be had.
    pub limit: u64,
    /// How much is.
    pub used: u64,
    /// When there is room again, if that is known.
    pub wait_ns: Option<u64>,
}

/// What is counted for a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bill {
    /// Whose it is.
    pub account: AccountId,
    /// It lives, or will again.
    pub lives: bool,
    /// Bytes its spools may take.
    pub spool_bytes: u64,
}

/// All accounts.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rules: Rules,
    slots: Vec<Option<Box<Account>>>,
    free: Vec<u32>,
    names: BTreeMap<Holder, AccountId>,
    /// Those that were needed by nobody: since when, and which. Some are needed again.
    idle: VecDeque<(u64, AccountId)>,
    /// What is counted for each process, by serial.
    pub bills: SerialMap<Bill>,
    /// Processes whose spools count for what they may be, by serial.
    pub spooling: BTreeSet<u64>,
    /// Connections of others than the owner.
    pub strangers: u64,
    /// Rings when refusals that are not told yet are due.
    pub telling: Option<TimerKey>,
}

impl Ledger {
    /// An empty one.
    pub(crate) fn new(rules: Rules) -> Ledger {
        Ledger { rules, ..Ledger::default() }
    }

    /// The account of a holder, if it has one.
    pub(crate) fn find(&self, holder: &Holder) -> Option<AccountId> {
        self.names.get(holder).copied()
    }

    /// An account.
    pub(crate) fn get(&self, AccountId(at): AccountId) -> Option<&Account> {
        self.slots.get(at as usize)?.as_deref()
    }

    /// The same, to change.
    pub(crate) fn get_mut(&mut self, AccountId(at): AccountId) -> Option<&mut Account> {
        self.slots.get_mut(at as usize)?.as_deref_mut()
    }

    /// All of them, by holder.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        self.names.values().filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// Opens an account that isn't there, under another one. Nobody needs it yet.
    pub(crate) fn open(&mut self, holder: Holder, above: Option<AccountId>) -> AccountId {
        let too_deep = above.and_then(|id| self.get(id)).filter(|account| account.depth >= DEPTH_MAX);
        let above = too_deep.map_or(above, |account| account.above);
        let depth = above.and_then(|id| self.get(id)).map_or(0, |account| account.depth + 1);
        let name: Box<str> = holder.to_string().into();
        let account = Account {
            limits: self.rules.of(&name),
            holder: holder.clone(),
            name,
            above,
            depth,
            needed: 0,
            idle_ns: 0,
            used: [0; COUNT],
            peak: [0; COUNT],
            refused: [0; COUNT],
            told: [(None, 0); COUNT],
            surplus: 0,
            bucket: Bucket::default(),
            events: Second::default(),
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[at as usize] = Some(Box::new(account));
        self.names.insert(holder, AccountId(at));
        if let Some(above) = above {
            self.hold(above);
        }
        AccountId(at)
    }

    /// Somebody needs it.
    pub(crate) fn hold(&mut self, id: AccountId) {
        if let Some(account) = self.get_mut(id) {
            account.needed += 1;
        }
    }

    /// One who needed it doesn't any more.
    pub(crate) fn release(&mut self, id: AccountId, now_ns: u64) {
        self.let_go(id, now_ns);
        self.sweep(now_ns);
    }

    fn let_go(&mut self, id: AccountId, now_ns: u64) {
        let Some(account) = self.get_mut(id) else { return };
        account.needed = account.needed.saturating_sub(1);
        if account.needed == 0 {
            account.idle_ns = now_ns;
            self.idle.push_back((now_ns, id));
        }
    }

    /// Closes what nobody has needed for long.
    fn sweep(&mut self, now_ns: u64) {
        while let Some((since, id)) = self.idle.front().copied() {
            if self.idle.len() <= KEPT_MAX && since.saturating_add(KEPT_NS) > now_ns {
                return;
            }
            self.idle.pop_front();
            if self.get(id).is_none_or(|account| account.needed > 0 || account.idle_ns != since) {
                continue;
            }
            let Some(gone) = self.slots.get_mut(id.0 as usize).and_then(Option::take) else { continue };
            self.names.remove(&gone.holder);
            self.free.push(id.0);
            if let Some(above) = gone.above {
                self.let_go(above, now_ns);
            }
        }
    }

    /// So much more is had.
    pub(crate) fn add(&mut self, id: AccountId, quota: QuotaName, more: u64) {
        let mut next = Some(id);
        while let Some(account) = next.and_then(|id| self.get_mut(id)) {
            let used = &mut account.used[quota as usize];
            *used += more;
            let peak = &mut account.peak[quota as usize];
            *peak = (*peak).max(*used);
            next = account.above;
        }
    }

    /// So much less is.
    pub(crate) fn sub(&mut self, id: AccountId, quota: QuotaName, less: u64) {
        let mut next = Some(id);
        while let Some(account) = next.and_then(|id| self.get_mut(id)) {
            let used = &mut account.used[quota as usize];
            debug_assert!(*used >= less, "{} gives back {less} {} of {used}", account.name, quota.word());
            *used = used.saturating_sub(less);
            next = account.above;
        }
    }

    /// Whether so much more may be had.
    pub(crate) fn room(&self, id: AccountId, quota: QuotaName, more: u64) -> Result<(), Over> {
        let mut next = Some(id);
        while let Some((id, account)) = next.and_then(|id| Some((id, self.get(id)?))) {
            let (limit, used) = (account.limits[quota as usize], account.used[quota as usize]);
            if limit > 0 && used.saturating_add(more) > limit {
                return Err(Over { account: id, quota, limit, used, wait_ns: None });
            }
            next = account.above;
        }
        Ok(())
    }

    /// True when what one has counts for the other.
    pub(crate) fn is_under(&self, id: AccountId, other: AccountId) -> bool {
        let mut next = Some(id);
        while let Some(id) = next.filter(|id| *id != other) {
            next = self.get(id).and_then(|account| account.above);
        }
        next.is_some()
    }

    /// True if a refusal of any of these was told within the last second, to whoever it was that has too much.
    pub(crate) fn told_lately(&self, id: AccountId, quotas: &[QuotaName], now_ns: u64) -> bool {
        let mut next = Some(id);
        while let Some(account) = next.and_then(|id| self.get(id)) {
            let lately = |quota: &QuotaName| {
                let (told, _) = account.told[*quota as usize];
                told.is_some_and(|told| told.saturating_add(SECOND) > now_ns)
            };
            if quotas.iter().any(lately) {
                return true;
            }
            next = account.above;
        }
        false
    }

    /// Of what refusals are not told, and whose.
    pub(crate) fn untold(&self) -> Vec<(AccountId, QuotaName)> {
        let of = |(id, account): (AccountId, &Account)| {
            let quotas = QuotaName::ALL.into_iter().filter(|quota| account.told[*quota as usize].1 > 0);
            quotas.map(|quota| (id, quota)).collect::<Vec<_>>()
        };
        self.iter().flat_map(of).collect()
    }

    /// The narrowest bound there is; none if there is none.
    pub(crate) fn bound(&self, id: AccountId, quota: QuotaName) -> Option<u64> {
        let mut next = Some(id);
        let mut narrowest = None;
        while let Some(account) = next.and_then(|id| self.get(id)) {
            let limit = Some(account.limits[quota as usize]).filter(|limit| *limit > 0);
            narrowest = [narrowest, limit].into_iter().flatten().min();
            next = account.above;
        }
        narrowest
    }

    /// Counts events that are about to happen, if they may.
    pub(crate) fn spend(&mut self, id: AccountId, count: u64, now_ns: u64) -> Result<(), Over> {
        let quota = QuotaName::EventsPerSecond;
        let mut next = Some(id);
        while let Some((id, account)) = next.and_then(|id| Some((id, self.get(id)?))) {
            let limit = account.limits[quota as usize];
            if limit > 0
                && let Some(wait) = account.bucket.wait_ns(limit, count, now_ns)
            {
                let used = account.events.so_far(now_ns);
                return Err(Over { account: id, quota, limit, used, wait_ns: Some(wait) });
            }
            next = account.above;
        }
        next = Some(id);
        while let Some(account) = next.and_then(|id| self.get_mut(id)) {
            let limit = account.limits[quota as usize];
            if limit > 0 {
                account.bucket.take(limit, count, now_ns);
            }
            let peak = &mut account.peak[quota as usize];
            *peak = (*peak).max(account.events.add(count, now_ns));
            next = account.above;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounds::Rule;
    use super::*;

    fn session(name: &str) -> Holder {
        Holder::Session { uid: 1, session: name.into(), name: None }
    }

    fn ledger(bounds: &[(&str, [Option<u64>; COUNT])]) -> Ledger {
        let rule = |(principal, bounds): &(&str, [Option<u64>; COUNT])| Rule {
            principal: (*principal).to_owned(),
            bounds: *bounds,
        };
        Ledger::new(Rules(bounds.iter().map(rule).collect()))
    }

    const PROCESSES: QuotaName = QuotaName::Processes;

    #[test]
    fn what_a_child_has_counts_for_all_above_it() {
        let mut ledger = ledger(&[
            ("owner", [Some(4), None, None, None, Some(10), None]),
            ("session:a", [Some(2), None, None, None, None, None]),
        ]);
        let owner = ledger.open(Holder::Owner, None);
        let a = ledger.open(session("a"), Some(owner));
        let b = ledger.open(session("b"), Some(a));
        for _ in 0..2 {
            assert_eq!(ledger.room(b, PROCESSES, 1), Ok(()));
            ledger.add(b, PROCESSES, 1);
        }
        let over = ledger.room(b, PROCESSES, 1).unwrap_err();
        assert_eq!((over.account, over.limit, over.used), (a, 2, 2), "whose bound it is");
        assert_eq!(ledger.room(owner, PROCESSES, 2), Ok(()));
        assert_eq!(ledger.room(owner, PROCESSES, 3).unwrap_err().account, owner);
        ledger.sub(b, PROCESSES, 2);
        for id in [owner, a, b] {
            let account = ledger.get(id).unwrap();
            assert_eq!((account.used[0], account.peak[0]), (0, 2));
        }
        assert_eq!(ledger.spend(b, 10, 0), Ok(()));
        let over = ledger.spend(a, 1, 0).unwrap_err();
        assert_eq!((over.account, over.used, over.wait_ns), (owner, 10, Some(SECOND / 10)));
        assert_eq!(ledger.get(a).unwrap().events.so_far(0), 10, "what is refused isn't counted anywhere");
    }

    #[test]
    fn a_line_is_only_so_deep_and_its_beginning_counts_all() {
        let mut ledger = ledger(&[]);
        let mut line = vec![ledger.open(Holder::Owner, None)];
        for nth in 0..100 {
            let above = line.last().copied();
            line.push(ledger.open(session(&nth.to_string()), above));
        }
        for id in &line {
            ledger.add(*id, PROCESSES, 1);
        }
        assert_eq!(ledger.get(line[0]).unwrap().used[0], 101);
        assert_eq!(ledger.get(line[15]).unwrap().used[0], 101 - 15);
        let longest = line.iter().map(|id| ledger.get(*id).unwrap().depth).max();
        assert_eq!(longest, Some(DEPTH_MAX));
    }

    #[test]
    fn an_account_is_kept_for_a_while_and_with_it_what_was_spent() {
        let mut ledger = ledger(&[("session", [None, None, None, None, Some(5), None])]);
        let owner = ledger.open(Holder::Owner, None);
        let a = ledger.open(session("a"), Some(owner));
        ledger.hold(a);
        ledger.spend(a, 5, 7).unwrap();
        ledger.release(a, 8);
        assert_eq!(ledger.find(&session("a")), Some(a));
        assert!(ledger.spend(a, 5, 9).is_err());
        ledger.hold(a);
        let b = ledger.open(session("b"), Some(owner));
        ledger.hold(b);
        ledger.release(b, 8 + KEPT_NS);
        assert_eq!(ledger.find(&session("a")), Some(a), "it is needed again");
        ledger.release(a, 9 + KEPT_NS);
        ledger.hold(b);
        ledger.release(b, 10 + 2 * KEPT_NS);
        assert_eq!(ledger.find(&session("a")), None);
        assert_eq!(ledger.get(owner).unwrap().needed, 1, "of b");
        for nth in 0..3 * KEPT_MAX {
            let id = ledger.open(session(&format!("n{nth}")), Some(owner));
            ledger.hold(id);
            ledger.release(id, 10 + 2 * KEPT_NS);
        }
        assert!(ledger.iter().count() <= KEPT_MAX + 2);
    }
}
