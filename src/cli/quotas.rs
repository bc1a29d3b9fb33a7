//! `kairo quotas`: how much each principal has, and may have.

use crate::cli::args::Quotas;
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::table::{Edge, Table, bytes};
use kairo_wire::methods::quota::{QuotaAccount, QuotaName, QuotaUse, Status, StatusParams};

pub(crate) fn quotas(context: &Context, args: &Quotas) -> Outcome {
    let found = context.client()?.call::<Status>(&StatusParams { principal: args.principal.clone() })?;
    if context.json {
        context.object(json_of(&found)?)?;
    } else {
        let table = table(&found.accounts, args.principal.is_some());
        context.text(&table.render(context.width(), context.colour()))?;
    }
    Ok(0)
}

/// What was never had and never refused is only told if it was asked for.
fn table(accounts: &[QuotaAccount], all: bool) -> Table {
    let mut table = Table::new(&[
        ("PRINCIPAL", Edge::Left),
        ("QUOTA", Edge::Left),
        ("USED", Edge::Right),
        ("LIMIT", Edge::Right),
        ("PEAK", Edge::Right),
        ("REFUSED", Edge::Right),
        ("UNDER", Edge::Left),
    ]);
    for account in accounts {
        for one in account.quotas.iter().filter(|one| all || one.peak > 0 || one.refused > 0) {
            table.row([
                account.principal.clone(),
                one.quota.word().to_owned(),
                amount(one, one.used),
                one.limit.map_or_else(|| "-".to_owned(), |limit| limited(one, limit)),
                amount(one, one.peak),
                one.refused.to_string(),
                account.under.clone().unwrap_or_default(),
            ]);
        }
    }
    table
}

/// What may be had, and that it is.
fn limited(of: &QuotaUse, limit: u64) -> String {
    let mark = if of.is_reached() { " (reached)" } else { "" };
    format!("{}{mark}", amount(of, limit))
}

fn amount(of: &QuotaUse, number: u64) -> String {
    match of.quota {
        QuotaName::BytesInFlight | QuotaName::SpoolBytes => bytes(number),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_quota_that_somebody_has_something_of() {
        let one = |quota, used, limit, refused| QuotaUse { quota, used, limit, peak: used, refused };
        let account = QuotaAccount {
            principal: "skill:x".to_owned(),
            uid: 1,
            under: Some("owner".to_owned()),
            quotas: vec![
                one(QuotaName::Processes, 3, Some(4), 1),
                one(QuotaName::Connections, 0, None, 0),
                one(QuotaName::SpoolBytes, 2_048, None, 0),
            ],
        };
        let text = table(std::slice::from_ref(&account), false).render(None, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["skill:x", "processes", "3", "4", "3", "1", "owner"]);
        assert_eq!(lines[2], ["skill:x", "spoolBytes", "2.0", "KiB", "-", "2.0", "KiB", "0", "owner"]);
        assert_eq!(lines.len(), 3);
        assert_eq!(table(&[account], true).render(None, false).lines().count(), 4);
        let full = QuotaAccount {
            principal: "skill:y".to_owned(),
            uid: 1,
            under: None,
            quotas: vec![one(QuotaName::Processes, 4, Some(4), 0)],
        };
        assert!(table(&[full], false).render(None, false).contains("4 (reached)"));
    }
}
