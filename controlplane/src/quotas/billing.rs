//! What counts for whom, from when and until when.
//!
//! | what | from | until |
//! |---|---|---|
//! | a connection, its subscriptions, its bytes | it connects, or becomes somebody else | it is gone, or becomes somebody else |
//! | an outlet, a way into a stdin, of a former kernel's connection | it is adopted | it is gone |
//! | a process | it is in the table | its tree is gone and it will not be started again |
//! | a spool | the same | its process is forgotten |
//!
//! A process counts for whoever started it, whoever is connected by then; after a kernel's death too, for its record says who
//! that was.

use super::bounds::Bounds;
use super::holder::Holder;
use super::ledger::{AccountId, Bill, Ledger, Over, STRANGERS_MAX, SURPLUS_MAX};
use crate::auth::principal::{Creator, Principal};
use crate::calls::Turn;
use crate::intents::members::Member;
use crate::kernel::Kernel;
use crate::sessions::plan::Plan;
use crate::state::{Connection, Outliving, Process};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::{Channel, ConnectionKey};
use kairo_dataplane::spool::SpoolLimits;
use kairo_wire::error::WireError;
use kairo_wire::methods::quota::QuotaName;
use kairo_wire::request;
use std::collections::BTreeMap;

/// A line of holders is followed no further: the rest of a longer one is not attributed.
const CLIMB_MAX: usize = 64;

/// How a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Welcome {
    /// It counts.
    Counted,
    /// It is too many: its first call is told so, unless there is room by then.
    Surplus,
    /// There are enough of those as well.
    Closed,
}

impl Kernel {
    /// Whom a holder's things count for as well.
    fn above(&self, holder: &Holder) -> Option<Holder> {
        let root = |uid: u32| if uid == self.config.owner_uid { Holder::Owner } else { Holder::User(uid) };
        match holder {
            Holder::Owner | Holder::User(_) | Holder::Nobody(_) => None,
            Holder::Skill { uid, .. } => Some(root(*uid)),
            Holder::Session { uid, session, name: Some(_) } => {
                Some(Holder::Session { uid: *uid, session: session.clone(), name: None })
            }
            Holder::Session { uid, session, name: None } => {
                let serial = self.state.sessions.get(&**session);
                let process = serial.and_then(|serial| self.state.processes.get(serial));
                let creator = process.map(|process| &process.creator);
                Some(creator.map_or(root(*uid), |creator| Holder::of_creator(creator, self.config.owner_uid)))
            }
        }
    }

    /// The account of a holder, which somebody needs from now on.
    fn hold_account(&mut self, holder: Holder) -> AccountId {
        let mut above = self.quotas.find(&holder);
        let mut line = Vec::new();
        let mut next = Some(holder);
        while above.is_none()
            && let Some(holder) = next.take().filter(|_| line.len() < CLIMB_MAX)
        {
            next = self.above(&holder);
            above = next.as_ref().and_then(|above| self.quotas.find(above));
            line.push(holder);
        }
        let mut account = above;
        for holder in line.into_iter().rev() {
            account = Some(self.quotas.open(holder, account));
        }
        // The line has at least the holder itself, unless it has an account.
        let account = account.unwrap_or_else(|| self.quotas.open(Holder::Owner, None));
        self.quotas.hold(account);
        account
    }

    /// The same of whoever started something.
    pub(crate) fn hold_creators(&mut self, creator: &Creator) -> AccountId {
        self.hold_account(Holder::of_creator(creator, self.config.owner_uid))
    }

    /// A connection of this principal begins.
    pub(crate) fn bill_connection(
        &mut self,
        turn: &mut Turn<'_>,
        principal: &Principal,
    ) -> (AccountId, Welcome) {
        let account = self.hold_account(Holder::of(principal));
        let is_owner = *principal == Principal::Owner;
        let over = self.too_many(account, is_owner);
        self.quotas.strangers += u64::from(!is_owner);
        let Err(over) = over else {
            self.quotas.add(account, QuotaName::Connections, 1);
            return (account, Welcome::Counted);
        };
        self.exceeded(turn, over);
        let crowded = self.quotas.strangers > STRANGERS_MAX;
        match self.quotas.get_mut(account) {
            Some(account) if account.surplus < SURPLUS_MAX && !crowded => account.surplus += 1,
            Some(_) | None => return (account, Welcome::Closed),
        }
        (account, Welcome::Surplus)
    }

    /// Whether an account may have one more connection. The owner always may.
    fn too_many(&self, account: AccountId, is_owner: bool) -> Result<(), Over> {
        if is_owner {
            return Ok(());
        }
        let quota = QuotaName::Connections;
        if self.quotas.strangers >= STRANGERS_MAX {
            let (limit, used) = (STRANGERS_MAX, self.quotas.strangers);
            return Err(Over { account, quota, limit, used, wait_ns: None });
        }
        self.quotas.room(account, quota, 1)
    }

    /// The first call of a connection that was too many: false, and it counts, if there is room now; else it is told so, and
    /// closed.
    pub(crate) fn turn_away(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        payload: &[u8],
    ) -> bool {
        let Some(peer) = self.state.connections.get_mut(connection) else { return true };
        let account = peer.account;
        let Err(over) = self.quotas.room(account, QuotaName::Connections, 1) else {
            peer.welcome = Welcome::Counted;
            self.quotas.add(account, QuotaName::Connections, 1);
            if let Some(account) = self.quotas.get_mut(account) {
                account.surplus -= 1;
            }
            return false;
        };
        let error = self.exceeded(turn, over);
        if let Ok(request) = request::read(payload) {
            self.refuse(turn, connection, request.id, &error);
        }
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.closing = true;
        }
        turn.out.push(Command::Close { connection });
        true
    }

    /// A connection is gone, and all it had but what is counted here.
    pub(crate) fn unbill_connection(&mut self, now_ns: u64, peer: &Connection) {
        self.unload(peer.account, peer);
        self.quotas.strangers -= u64::from(peer.principal != Principal::Owner);
        self.quotas.release(peer.account, now_ns);
    }

    fn unload(&mut self, account: AccountId, peer: &Connection) {
        for (quota, count) in peer.loads() {
            self.quotas.sub(account, quota, count);
        }
        if peer.welcome == Welcome::Surplus
            && let Some(account) = self.quotas.get_mut(account)
        {
            account.surplus -= 1;
        }
    }

    /// A connection becomes somebody else, with all it has: the only way to change a principal. Refused, with nothing done, if
    /// it has more than that one may have.
    pub(crate) fn act_as(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
        after: Principal,
    ) -> Result<(), WireError> {
        let to = self.hold_account(Holder::of(&after));
        let Some(peer) = self.state.connections.get_mut(connection) else {
            self.quotas.release(to, turn.at.monotonic_ns);
            return Ok(());
        };
        let (from, loads) = (peer.account, peer.loads());
        // What both belong to has it already.
        for (quota, count) in loads {
            self.quotas.sub(from, quota, count);
        }
        let over = loads.iter().filter(|(_, count)| *count > 0);
        let over = over.map(|(quota, count)| self.quotas.room(to, *quota, *count)).find_map(Result::err);
        let at = if over.is_some() { from } else { to };
        for (quota, count) in loads {
            self.quotas.add(at, quota, count);
        }
        if let Some(over) = over {
            self.quotas.release(to, turn.at.monotonic_ns);
            return Err(self.exceeded(turn, over));
        }
        if peer.welcome == Welcome::Surplus {
            for (account, more) in [(from, -1), (to, 1)] {
                if let Some(account) = self.quotas.get_mut(account) {
                    account.surplus = account.surplus.saturating_add_signed(more);
                }
            }
        }
        self.quotas.strangers += u64::from(after != Principal::Owner);
        self.quotas.strangers -= u64::from(peer.principal != Principal::Owner);
        if peer.principal != after {
            // What it was started as, and what it remembers that it may, was another's.
            (peer.party, peer.rights) = (None, Default::default());
        }
        (peer.account, peer.principal) = (to, after);
        self.quotas.release(from, turn.at.monotonic_ns);
        Ok(())
    }

    /// A subscription of a connection begins, or ends.
    pub(crate) fn bill_subscription(&mut self, connection: ConnectionKey, begins: bool) {
        let Some(peer) = self.state.connections.get(connection) else { return };
        match begins {
            true => self.quotas.add(peer.account, QuotaName::Subscriptions, 1),
            false => self.quotas.sub(peer.account, QuotaName::Subscriptions, 1),
        }
    }

    /// Outlets of a former kernel and ways into stdins go on, and each counts for whoever had it, be it too many. All are
    /// adopted: for whom things count may lie with somebody younger than what is read.
    pub(crate) fn bill_outliving(&mut self) {
        let all = self.state.outliving().map(|(member, of)| (member, of.principal.clone()));
        let mut all: Vec<(Member, Principal)> = all.collect();
        all.sort_unstable_by_key(|(member, _)| *member);
        for (member, principal) in all {
            let account = self.hold_account(Holder::of(&principal));
            self.quotas.add(account, QuotaName::Subscriptions, 1);
            self.state.outliving_mut(member).into_iter().for_each(|of| of.account = Some(account));
        }
    }

    /// One of them is gone.
    pub(crate) fn unbill_outliving(&mut self, now_ns: u64, of: &Outliving) {
        if let Some(account) = of.account {
            self.quotas.sub(account, QuotaName::Subscriptions, 1);
            self.quotas.release(account, now_ns);
        }
    }

    /// A process is in the table.
    pub(crate) fn bill_process(&mut self, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let (creator, lives, spool_bytes) =
            (process.creator.clone(), process.counts(), process.spool_bytes());
        let account = self.hold_creators(&creator);
        self.quotas.add(account, QuotaName::Processes, u64::from(lives));
        self.quotas.add(account, QuotaName::SpoolBytes, spool_bytes);
        self.quotas.bills.insert(serial, Bill { account, lives, spool_bytes });
        if spool_bytes > 0 {
            self.quotas.spooling.insert(serial);
        }
    }

    /// Something has happened to a process.
    pub(crate) fn rebill_process(&mut self, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let Some(bill) = self.quotas.bills.get_mut(&serial) else { return };
        let (before, lives, account) = (bill.lives, process.counts(), bill.account);
        bill.lives = lives;
        match (before, lives) {
            (true, false) => self.quotas.sub(account, QuotaName::Processes, 1),
            (false, true) => self.quotas.add(account, QuotaName::Processes, 1),
            (true, true) | (false, false) => {}
        }
    }

    /// A process is forgotten.
    pub(crate) fn unbill_process(&mut self, now_ns: u64, serial: u64) {
        let Some(Bill { account, lives, spool_bytes }) = self.quotas.bills.remove(&serial) else { return };
        self.quotas.spooling.remove(&serial);
        self.quotas.sub(account, QuotaName::Processes, u64::from(lives));
        self.quotas.sub(account, QuotaName::SpoolBytes, spool_bytes);
        self.quotas.release(account, now_ns);
    }

    /// Counts spools that are not written any more as what they are.
    pub(crate) fn measure_spools(&mut self) {
        let size = |serial: &u64| Some((*serial, self.state.processes.get(serial)?.spooled()?));
        let over: Vec<(u64, u64)> = self.quotas.spooling.iter().filter_map(size).collect();
        for (serial, bytes) in over {
            self.quotas.spooling.remove(&serial);
            let Some(bill) = self.quotas.bills.get_mut(&serial) else { continue };
            let (account, less) = (bill.account, bill.spool_bytes.saturating_sub(bytes));
            bill.spool_bytes -= less;
            self.quotas.sub(account, QuotaName::SpoolBytes, less);
        }
    }

    /// The accounts hold what the tables do.
    pub(crate) fn check_quotas(&self, hold: &mut impl FnMut(bool, &str, u64)) {
        let owner_uid = self.config.owner_uid;
        let mut wanted: BTreeMap<&Holder, (Bounds, u32, u32)> = BTreeMap::new();
        let mut count = |account: AccountId, loads: &[(QuotaName, u64)], surplus: bool| {
            let mut next = Some(account);
            while let Some(account) = next.and_then(|id| self.quotas.get(id)) {
                let (used, ..) = wanted.entry(&account.holder).or_default();
                loads.iter().for_each(|(quota, more)| used[*quota as usize] += more);
                next = account.above;
            }
            if let Some(account) = self.quotas.get(account) {
                let (_, needed, too_many) = wanted.entry(&account.holder).or_default();
                (*needed, *too_many) = (*needed + 1, *too_many + u32::from(surplus));
            }
        };
        let mut strangers = 0;
        for peer in self.state.connections.iter() {
            count(peer.account, &peer.loads(), peer.welcome == Welcome::Surplus);
            strangers += u64::from(peer.principal != Principal::Owner);
            let own = self.quotas.get(peer.account).map(|account| &account.holder);
            let is_own = own == Some(&Holder::of(&peer.principal));
            hold(is_own, "a connection counts for somebody else", u64::from(peer.key.slot));
        }
        hold(strangers == self.quotas.strangers, "the strangers are miscounted", strangers);
        for (member, of) in self.state.outliving() {
            let own = of.account.and_then(|id| self.quotas.get(id)).map(|account| &account.holder);
            let is_own = own == Some(&Holder::of(&of.principal));
            hold(is_own, "what is left of a former kernel counts for somebody else", member.serial());
            of.account
                .into_iter()
                .for_each(|account| count(account, &[(QuotaName::Subscriptions, 1)], false));
        }
        for (serial, process) in &self.state.processes {
            let Some(bill) = self.quotas.bills.get(serial) else {
                hold(false, "a process counts for nobody", *serial);
                continue;
            };
            let loads = [
                (QuotaName::Processes, u64::from(process.counts())),
                (QuotaName::SpoolBytes, bill.spool_bytes),
            ];
            count(bill.account, &loads, false);
            let whole = bill.spool_bytes > 0 && bill.spool_bytes >= process.spool_bytes();
            let counts = whole || !self.quotas.spooling.contains(serial);
            hold(counts, "a spool counts for less than it may be", *serial);
            let own = self.quotas.get(bill.account).map(|account| &account.holder);
            let is_own = own == Some(&Holder::of_creator(&process.creator, owner_uid));
            hold(is_own, "a process counts for somebody else", *serial);
        }
        hold(self.quotas.bills.len() == self.state.processes.len(), "nothing counts for somebody", 0);
        for (id, account) in self.quotas.iter() {
            let (used, needed, surplus) = wanted.remove(&account.holder).unwrap_or_default();
            let children = self.quotas.iter().filter(|(_, other)| other.above == Some(id)).count() as u32;
            for quota in QuotaName::ALL {
                let (is, should) = (account.used[quota as usize], used[quota as usize]);
                hold(
                    is == should,
                    &format!("{} is said to have {is} {}", account.name, quota.word()),
                    should,
                );
            }
            let fits = (account.needed, account.surplus) == (needed + children, surplus);
            hold(fits, &format!("an account is needed or not: {}", account.name), u64::from(account.needed));
        }
    }
}

impl Ledger {
    /// A connection is given so many bytes of events.
    pub(crate) fn news_given(&mut self, peer: &mut Connection, bytes: usize) {
        peer.news_unsent += bytes;
        self.add(peer.account, QuotaName::BytesInFlight, bytes as u64);
    }

    /// So many have been sent.
    pub(crate) fn news_sent(&mut self, peer: &mut Connection, bytes: usize) {
        let sent = bytes.min(peer.news_unsent);
        peer.news_unsent -= sent;
        peer.news_read += 1;
        self.sub(peer.account, QuotaName::BytesInFlight, sent as u64);
    }

    /// A call of a connection waits with so many bytes for a stdin.
    pub(crate) fn parked(&mut self, peer: &mut Connection, bytes: usize) {
        peer.parked_bytes += bytes;
        self.add(peer.account, QuotaName::BytesInFlight, bytes as u64);
    }

    /// It waits no more.
    pub(crate) fn unparked(&mut self, peer: &mut Connection, bytes: usize) {
        peer.parked_bytes -= bytes;
        self.sub(peer.account, QuotaName::BytesInFlight, bytes as u64);
    }
}

impl Connection {
    /// What it has of what there is a quota of.
    pub(crate) fn loads(&self) -> [(QuotaName, u64); 3] {
        let subscriptions = self.streams.len() + self.inlets.len() + self.topics.len() + self.attached.len();
        [
            (QuotaName::Connections, u64::from(self.welcome == Welcome::Counted)),
            (QuotaName::Subscriptions, subscriptions as u64),
            (QuotaName::BytesInFlight, (self.parked_bytes + self.news_unsent) as u64),
        ]
    }
}

impl Process {
    /// It lives, or will again.
    fn counts(&self) -> bool {
        !self.tree_gone || self.awaits_another()
    }

    /// What its spools may take.
    fn spool_bytes(&self) -> u64 {
        let outputs = Channel::ALL.into_iter().filter(|channel| self.has(*channel)).count();
        bytes_of(self.spool, outputs)
    }

    /// What its spools take, once nothing is written to them any more.
    fn spooled(&self) -> Option<u64> {
        self.spool?;
        let mut sum = 0;
        for channel in Channel::ALL {
            let spool = &self.meter.streams[channel as usize].spool;
            let Some(end) = self.ends[channel as usize] else {
                if self.open[channel as usize] {
                    return None;
                }
                continue;
            };
            if spool.end.get() < end.total_bytes {
                return None;
            }
            sum += spool.bytes.get();
        }
        Some(sum)
    }
}

impl Plan {
    /// What the spools of the process to be may take.
    pub(crate) fn spool_bytes(&self) -> u64 {
        bytes_of(self.spool, self.outputs().into_iter().filter(|ours| *ours).count())
    }
}

fn bytes_of(spool: Option<SpoolLimits>, outputs: usize) -> u64 {
    spool.and_then(|spool| spool.bytes_max).unwrap_or(0).saturating_mul(outputs as u64)
}
