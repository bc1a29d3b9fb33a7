//! How much everybody has. What is counted, and for whom, is in [`quotas`](crate::quotas).

use crate::auth::grant::may_touch;
use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::quotas::holder::Holder;
use crate::quotas::ledger::Account;
use crate::table::{Answers, Entry};
use kairo_wire::error::{Code, WireError};
use kairo_wire::method::Method;
use kairo_wire::methods::quota::{QuotaAccount, QuotaName, QuotaUse, Status, StatusResult};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[(Status::ROW, Answers::AtOnce, status)];

fn status(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Status>()?;
    kernel.measure_spools();
    let owner_uid = kernel.config.owner_uid;
    let principal = kernel.principal(asking.connection);
    let own = Holder::of(principal);
    // Who may touch what somebody started may know how much that is.
    let seen = |account: &&Account| {
        account.holder == own || may_touch(principal, &account.holder.creator(owner_uid))
    };
    let wanted = |account: &&Account| params.principal.as_deref().is_none_or(|name| name == &*account.name);
    let all = kernel.quotas.iter().map(|(_, account)| account);
    let now_ns = turn.at.monotonic_ns;
    let mut accounts: Vec<QuotaAccount> =
        all.filter(seen).filter(wanted).map(|account| told(kernel, account, now_ns)).collect();
    if let Some(name) = params.principal.as_ref().filter(|_| accounts.is_empty()) {
        let message = format!("principal: {name:?} has nothing, or the caller may not know");
        return Err(WireError::new(Code::NotFound, message).with("field", "principal"));
    }
    accounts.sort_by(|one, other| (&one.principal, one.uid).cmp(&(&other.principal, other.uid)));
    kernel.answer(turn, asking, &StatusResult { accounts });
    Ok(())
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
