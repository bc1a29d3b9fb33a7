//! How much everybody has. What is counted, and for whom, is in [`quotas`](crate::quotas).

use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::quotas::holder::Holder;
use crate::quotas::ledger::Account;
use crate::table::{Answers, Entry};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::Method;
use kairo_wire::methods::quota::{QuotaAccount, QuotaName, QuotaUse, Status, StatusResult};
use kairo_wire::methods::system::Fact;

/// Quotas that are reached and named in a fact.
const NAMED_MAX: usize = 4;

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[(Status::ROW, Answers::AtOnce, status)];

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    kernel.measure_spools();
    let mut accounts = seen(kernel, asking.connection, turn.at.monotonic_ns);
    accounts.retain(|account| params.principal.as_deref().is_none_or(|name| name == account.principal));
    if let Some(name) = params.principal.as_ref().filter(|_| accounts.is_empty()) {
        let message = format!("principal: {name:?} has nothing, or the caller may not know");
        return Err(WireError::new(Code::NotFound, message).with("field", "principal"));
    }
    kernel.answer(turn, asking, &StatusResult { accounts });
    Ok(())
}

/// What a connection may know of, by name.
fn seen(kernel: &Kernel, connection: ConnectionKey, now_ns: u64) -> Vec<QuotaAccount> {
    let owner_uid = kernel.config.owner_uid;
    let principal = kernel.principal(connection);
    let own = Holder::of(principal);
    // Who may touch what somebody started may know how much that is.
    let seen = |account: &&Account| {
        account.holder == own || may_touch(principal, &account.holder.creator(owner_uid))
    };
    let all = kernel.quotas.iter().map(|(_, account)| account);
    let mut accounts: Vec<QuotaAccount> =
        all.filter(seen).map(|account| told(kernel, account, now_ns)).collect();
    accounts.sort_by(|one, other| (&one.principal, one.uid).cmp(&(&other.principal, other.uid)));
    accounts
}

impl Kernel {
    /// What `kernel.doctor` says of quotas: who has all it may.
    pub(crate) fn quotas_fact(&self, connection: ConnectionKey, now_ns: u64) -> Fact {
        let accounts = seen(self, connection, now_ns);
        let full = |account: &QuotaAccount| {
            let name = account.principal.clone();
            let full = account.quotas.clone().into_iter().filter(QuotaUse::is_reached);
            let words = move |of: QuotaUse| {
                format!("{name} has {} of {} {}", of.used, of.limit.unwrap_or(0), of.quota.word())
            };
            full.map(words).collect::<Vec<_>>()
        };
        let full: Vec<String> = accounts.iter().flat_map(full).collect();
        let value = match full.split_at(full.len().min(NAMED_MAX)) {
            ([], _) => "nobody has all it may".to_owned(),
            (named, []) => named.join(", "),
            (named, others) => format!("{} and {} more", named.join(", "), others.len()),
        };
        let advice = (!full.is_empty())
            .then(|| "`kairo quotas` shows all of them; [quotas] in config.toml sets them".to_owned());
        Fact { name: "quotas".to_owned(), holds: full.is_empty(), value, advice }
    }
}

fn told(kernel: &Kernel, account: &Account, now_ns: u64) -> QuotaAccount {
    let one = |quota: QuotaName| {
        let place = quota as usize;
        let used = match quota {
            QuotaName::EventsPerSecond => account.events.so_far(now_ns),
            _ => account.used[place],
        };
        QuotaUse {
            quota,
            used,
            limit: Some(account.limits[place]).filter(|limit| *limit > 0),
            peak: account.peak[place],
            refused: account.refused[place],
        }
    };
    QuotaAccount {
        principal: account.name.clone().into_string(),
        uid: account.holder.uid(kernel.config.owner_uid),
        under: account.above.and_then(|above| kernel.quotas.get(above)).map(|above| above.name.to_string()),
        quotas: QuotaName::ALL.map(one).to_vec(),
    }
}
