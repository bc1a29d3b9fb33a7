//! What the kernel tells of its audit: that it begins, and what of it is not as it was written.
//!
//! Both are events, so both are records of the chain they are about.

use crate::audit::checkpoint::PublicKey;
use crate::calls::Turn;
use crate::digest::hex;
use crate::events::log::{Audited, Damage};
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::state::Trace;
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_wire::event::{KernelAuditBegun, KernelAuditDamaged};

impl Kernel {
    /// What was found of the audit as the log was opened.
    pub fn audit_found(&mut self, at: Moment, found: &Audited, out: &mut Commands) {
        if let Some(key) = &found.begins {
            self.audit_begins(at, key, out);
        }
        self.audit_damaged(at, &found.damage, out);
    }

    fn audit_begins(&mut self, at: Moment, key: &PublicKey, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let event = KernelAuditBegun { public_key: hex(key) };
        let audience = Audience::Administration(self.config.owner_uid);
        self.publish(turn, audience, &Trace::default(), &event);
    }

    /// Records of the audit were found to be changed, or gone.
    pub fn audit_damaged(&mut self, at: Moment, damage: &[Damage], out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        for Damage { from, to, what } in damage {
            tracing::error!(component = "controlplane", from, to, what, "the audit is not what was written");
            let event = KernelAuditDamaged { from: *from, to: *to, reason: what.clone() };
            let audience = Audience::Administration(self.config.owner_uid);
            self.publish(turn, audience, &Trace::default(), &event);
        }
    }
}
