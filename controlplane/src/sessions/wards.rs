//! Wards: processes that die with the connection that started them (`onDisconnect: kill`), their guardian.
//!
//! ```text
//!   spawn ──▶ Present ──its connection ends─────────────────────────▶ Gone: the ward is ended
//!                ▲                                                      ▲
//!                └──hello with its token── Orphaned (a kernel died) ────┘ after a grace, if it is a child
//! ```
//!
//! A connection that ends under a living kernel takes its wards with it at once. A kernel that dies ends all its
//! connections, which is no client's wish; so its successor holds what it adopts as orphans until their clients have
//! come back and said, by the token only they were told, whose wards they are. A stream that a client writes is an orphan until
//! then, for it ends with whoever writes it, which needs no connection for that. The token outlives each kernel: the
//! session record, which can't be changed, names it, so a connection that resumes another goes by its token.
//!
//! Invariant: a connection's `wards` are exactly the processes it is the guardian of, `orphans` exactly the orphaned
//! ones, and each orphan that is a child has its timer.

use crate::auth::grant::may_touch;
use crate::calls::Turn;
use crate::clock::after_ms;
use crate::digest::GuardianDigest;
use crate::entropy::bits;
use crate::kernel::Kernel;
use crate::state::{Process, Timer};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::methods::status::{EndCause, EndedBy};

/// With whom a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guardian {
    /// With this connection, which is there.
    Present(ConnectionKey),
    /// With whoever comes back in time and has this token.
    Orphaned {
        /// Of the connection that started it, in a former kernel.
        digest: GuardianDigest,
        /// Rings when nobody has come; none if that is no end to it.
        timer: Option<TimerKey>,
    },
    /// It is gone; the process is being ended, or has been.
    Gone,
}

impl Kernel {
    /// A process that was started with `onDisconnect: kill` in a former kernel, by the connection of this digest: it
    /// waits for that client, and is ended as by its disconnect if the client doesn't come within the grace. For
    /// adoption: the process is in the tables, and has no guardian yet.
    pub fn orphan_ward(&mut self, at: Moment, process: u64, digest: GuardianDigest, out: &mut Commands) {
        let turn = &mut Turn { at, here: None, out };
        let Some(ward) = self.state.processes.get_mut(&process) else { return };
        if ward.tree_gone {
            ward.guardian = Some(Guardian::Gone);
            return;
        }
        let home = ward.published.is_none().then_some(ward.key.home);
        let timer = home.map(|home| {
            let at_ns = after_ms(turn.at, self.config.limits.reconnect_grace_ms);
            let timer = self.arm(turn, home, at_ns);
            self.state.timers.insert(timer.serial, Timer::Orphan { process });
            timer
        });
        self.state.orphans.insert((digest, process));
        if let Some(ward) = self.state.processes.get_mut(&process) {
            ward.guardian = Some(Guardian::Orphaned { digest, timer });
        }
    }

    /// What names a connection to its client, and to nobody else.
    pub(crate) fn token(&mut self, connection: ConnectionKey) -> Box<str> {
        if let Some(token) = self.state.connections.get(connection).and_then(|peer| peer.token.clone()) {
            return token;
        }
        let token: Box<str> = format!("{:032x}", bits(&mut *self.entropy)).into();
        if let Some(peer) = self.state.connections.get_mut(connection) {
            peer.token = Some(token.clone());
        }
        token
    }

    /// A process is started with this guardian.
    pub(crate) fn entrust(&mut self, connection: ConnectionKey, ward: u64) {
        if let Some(guardian) = self.state.connections.get_mut(connection) {
            guardian.wards.insert(ward);
        }
    }

    /// A client says that it had the connection of `token`: what was orphaned by its loss, and it may touch, is its
    /// own again. From then on the connection goes by that token.
    pub(crate) fn resume_wards(&mut self, turn: &mut Turn<'_>, connection: ConnectionKey, token: &str) {
        let digest = GuardianDigest::of(token);
        let named: Vec<u64> =
            self.state.orphans.range((digest, 0)..=(digest, u64::MAX)).map(|(_, serial)| *serial).collect();
        let mut any = self.resume_intents(turn, connection, digest);
        for serial in named {
            let Some(ward) = self.state.processes.get(&serial) else { continue };
            if !may_touch(self.principal(connection), &ward.creator) {
                continue;
            }
            self.unorphan(turn, serial, Guardian::Present(connection));
            self.entrust(connection, serial);
            any = true;
        }
        if any && let Some(peer) = self.state.connections.get_mut(connection) {
            // One that has a token of its own has told it already, and may have wards by it.
            peer.token.get_or_insert_with(|| token.into());
        }
    }

    /// Nobody has come back for an orphan.
    pub(crate) fn orphan_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        self.unorphan(turn, serial, Guardian::Gone);
        let Some(ward) = self.state.processes.get(&serial) else { return };
        let principal = Some(ward.creator.told(self.config.owner_uid));
        self.doom(turn, serial, EndedBy { cause: EndCause::Disconnect, principal });
    }

    fn unorphan(&mut self, turn: &mut Turn<'_>, serial: u64, guardian: Guardian) {
        let Some(ward) = self.state.processes.get_mut(&serial) else { return };
        let Some(Guardian::Orphaned { digest, timer }) = ward.guardian.replace(guardian) else { return };
        self.state.orphans.remove(&(digest, serial));
        timer.into_iter().for_each(|timer| self.disarm(turn, timer));
    }

    /// A connection that ends takes its wards with it.
    pub(crate) fn end_wards(&mut self, turn: &mut Turn<'_>, wards: Vec<u64>, connection: ConnectionKey) {
        for serial in wards {
            let by = self.ended_by(connection, EndCause::Disconnect);
            if let Some(ward) = self.state.processes.get_mut(&serial) {
                ward.guardian = Some(Guardian::Gone);
            }
            self.doom(turn, serial, by);
        }
    }

    /// The record of a ward is freed.
    pub(crate) fn release_ward(&mut self, turn: &mut Turn<'_>, process: &Process) {
        let serial = process.key.serial;
        match process.guardian {
            Some(Guardian::Present(connection)) => {
                if let Some(guardian) = self.state.connections.get_mut(connection) {
                    guardian.wards.remove(&serial);
                }
            }
            Some(Guardian::Orphaned { digest, timer }) => {
                self.state.orphans.remove(&(digest, serial));
                timer.into_iter().for_each(|timer| self.disarm(turn, timer));
            }
            Some(Guardian::Gone) | None => {}
        }
    }
}
