//! A keyed call whose caller gives up or goes, while what it asked for is under way.
//!
//! ```text
//!   first call gone ──somebody waits──▶ that one takes its place
//!                    └─nobody does────▶ what can't be taken back goes on without a caller; the rest ends, the key is free
//! ```
//!
//! Invariant: what goes on without a caller is in no connection's list and is answered to nobody, but has its receipt.

use crate::calls::Turn;
use crate::kernel::Kernel;
use crate::state::{Deed, Pending, Timer};
use kairo_wire::error::WireError;
use kairo_wire::response;

impl Kernel {
    /// Has a keyed call go on without its caller, who is told `error` if it is still there. False if it is no such call or
    /// can't, and nothing is done.
    pub(crate) fn outlive_caller(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        error: Option<&WireError>,
    ) -> bool {
        let Some(call) = self.state.calls.get(&ticket) else { return false };
        let Some(claim) = call.claim else { return false };
        let Some(flight) = self.receipts.flight(claim.name).filter(|flight| flight.call == ticket) else {
            return false;
        };
        if call.headless {
            // Its caller has had an answer, or is gone.
            return true;
        }
        let heir = flight.waiting.first().copied();
        let goes_on = match &call.pending {
            Pending::Deed { deed: Deed::Write { .. }, .. } => false,
            Pending::Deed { .. } | Pending::Cancelling { .. } | Pending::Compaction { .. } => true,
            // Whoever has lost its connection wants what it asked for; whoever gives up doesn't.
            Pending::Spawn { .. } => error.is_none(),
            Pending::Reuse { .. }
            | Pending::Wait { .. }
            | Pending::Metrics
            | Pending::Published
            | Pending::Request { .. }
            | Pending::Repeat { .. }
            | Pending::Decision { .. }
            | Pending::Replay { .. }
            | Pending::Open { .. }
            | Pending::Changes { .. }
            | Pending::Watch { .. } => false,
        };
        if heir.is_none() && !goes_on {
            return false;
        }
        let (connection, id) = (call.connection, call.id.clone());
        self.detach_call(turn, ticket);
        if let Some(heir) = heir {
            self.succeed(ticket, heir);
        }
        if let Some(error) = error {
            self.send(turn, connection, |buf, dialect| response::put_err(buf, dialect, id.as_ref(), error));
            self.close_if_over(turn, connection);
        }
        true
    }

    /// Takes a call out of its connection's list.
    fn detach_call(&mut self, turn: &mut Turn<'_>, ticket: u64) {
        let Some(call) = self.state.calls.get_mut(&ticket) else { return };
        call.headless = true;
        let (connection, deadline) = (call.connection, call.deadline.take());
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.calls.retain(|other| *other != ticket);
        }
        if let Some(timer) = deadline {
            self.disarm(turn, timer);
        }
    }

    /// A repetition takes the place of the call it repeats.
    fn succeed(&mut self, ticket: u64, heir: u64) {
        let Some(from) = self.state.calls.remove(&heir) else { return };
        let Some(call) = self.state.calls.get_mut(&ticket) else { return };
        (call.connection, call.id, call.deadline) = (from.connection, from.id, from.deadline);
        call.claim = from.claim;
        call.headless = false;
        if let Some(timer) = call.deadline {
            self.state.timers.insert(timer.serial, Timer::Deadline { call: ticket });
        }
        if let Some(claim) = from.claim {
            self.receipts.unwait(claim.name, heir);
        }
        if let Some(peer) = self.state.connections.get_mut(from.connection) {
            peer.calls.retain(|other| *other != heir);
            peer.calls.push(ticket);
        }
    }
}
