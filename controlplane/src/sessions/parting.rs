//! A connection that goes: what goes with it, and what outlives it.
//!
//! What has a name in the file system, a reader or the way into a stdin, is for whoever opens that, so it stays when the program
//! that asked for it ends. What it may is what its connection might: that stays for it, without a socket, in the eyes of quotas
//! and of whoever takes something back.
//!
//! Invariant: a connection that is gone is known exactly as long as something outlives it; a way into a stdin is listed by the
//! connection it was asked for on, unless that went with a former kernel, and by its process's serial.

use crate::auth::principal::Creator;
use crate::calls::Turn;
use crate::intents::members::Member;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::{Connection, Inlet, Process, Way};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{DeadReason, StreamEndReason};
use kairo_wire::methods::quota::QuotaName;

impl Kernel {
    /// The connection is gone, and with it its calls, its subscriptions and its wards.
    pub(crate) fn disconnected(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        let Some(peer) = self.state.connections.get_mut(key) else { return };
        peer.closing = true;
        let calls = std::mem::take(&mut peer.calls);
        let (topics, attached) = (std::mem::take(&mut peer.topics), std::mem::take(&mut peer.attached));
        let wards: Vec<u64> = std::mem::take(&mut peer.wards).into_iter().collect();
        // Whoever has not been told where its fifo is can't hand that on.
        let named = |serial: &u64| self.state.streams.get(serial).and_then(|stream| stream.named_by());
        let outlives = |serial: &u64| named(serial).is_some_and(|call| !calls.contains(&call));
        let streams = self.state.connections.get(key).map(|peer| peer.streams.clone()).unwrap_or_default();
        let (lasting, streams): (Vec<u64>, Vec<u64>) = streams.into_iter().partition(outlives);
        self.drop_calls(turn, calls);
        for stream in streams {
            self.end_reader(turn, stream, Departure::Unasked);
        }
        for topic in topics {
            self.end_topic(turn, topic);
            self.end_watch(topic);
        }
        for attachment in attached {
            self.end_attachment(turn, attachment, DeadReason::Gone);
        }
        self.end_wards(turn, wards, key);
        self.end_intents(turn, key);
        self.state.audience.remove(&key);
        let life = self.state.connections.get(key).and_then(|peer| peer.life.clone());
        let inlets = self.state.connections.get(key).is_some_and(|peer| !peer.inlets.is_empty());
        if lasting.is_empty() && !inlets {
            self.forget_connection(turn, key);
        } else {
            self.state.connections.linger(key);
        }
        if let Some(life) = life {
            self.asker_gone(turn, &life, Some(key));
        }
    }

    /// Nothing is left of a connection.
    fn forget_connection(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        if let Some(peer) = self.state.connections.remove(key) {
            self.unbill_connection(turn.at.monotonic_ns, &peer);
            peer.names.iter().for_each(|party| self.permissions.known.take(party, &key));
        }
    }

    /// What has outlived a connection is over, too.
    pub(crate) fn end_lasting(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        let streams = self.state.connections.lingers(key).map(|peer| peer.streams.clone());
        if streams.is_some() {
            self.end_inlets(turn, key, |_, _| true);
        }
        for stream in streams.into_iter().flatten() {
            self.end_with_record(turn, stream, StreamEndReason::Revoked);
        }
    }

    /// A path leads into a stdin, for whoever asked in this call; if that is gone, or has too much, for nobody.
    pub(crate) fn note_inlet(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: u64,
        serial: u64,
    ) -> Result<(), WireError> {
        let noted = self.list_inlet(turn, ticket, serial);
        if noted.is_err() {
            self.end_inlet(turn, serial);
        }
        noted
    }

    fn list_inlet(&mut self, turn: &mut Turn<'_>, ticket: u64, serial: u64) -> Result<(), WireError> {
        let gone = || WireError::new(Code::Cancelled, "whoever asked is gone");
        let call = self.state.calls.get(&ticket).ok_or_else(gone)?;
        let (key, under) = (call.connection, call.under.clone());
        self.may_begin(under.as_deref())?;
        self.within_quota(turn, key, QuotaName::Subscriptions, 1)?;
        let peer = self.state.connections.get_mut(key).filter(|peer| !peer.closing).ok_or_else(gone)?;
        peer.inlets.insert(serial);
        self.bill_subscription(key, true);
        self.enroll_under(Member::Inlet(serial), under.as_deref());
        self.state.inlets.insert(serial, Inlet { way: Way::Of(key), under });
        Ok(())
    }

    /// Whose a way into a stdin is.
    pub(crate) fn holder_of(&self, inlet: &Inlet) -> Creator {
        let principal = match &inlet.way {
            Way::Of(key) => self.principal(*key),
            Way::Outlives(of) => &of.principal,
        };
        principal.creator(self.config.owner_uid)
    }

    /// Ends a way into a stdin.
    pub(crate) fn end_inlet(&self, turn: &mut Turn<'_>, serial: u64) {
        if let Some(process) = self.state.processes.get(&serial) {
            turn.out.push(Command::EndInlet { process: process.key });
        }
    }

    /// Ends the ways into stdins of a connection that are so. Returns how many.
    pub(crate) fn end_inlets(
        &self,
        turn: &mut Turn<'_>,
        key: ConnectionKey,
        so: impl Fn(&Kernel, &Process) -> bool,
    ) -> u32 {
        let inlets = self.state.connections.get(key).into_iter().flat_map(|peer| &peer.inlets);
        let mut ended = 0;
        for serial in inlets {
            if self.state.processes.get(serial).is_none_or(|process| so(self, process)) {
                self.end_inlet(turn, *serial);
                ended += 1;
            }
        }
        ended
    }

    /// A way into a stdin is over.
    pub(crate) fn inlet_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(Inlet { way, under }) = self.state.inlets.remove(&serial) else { return };
        match way {
            Way::Of(key) => {
                if let Some(peer) = self.state.connections.get_mut(key) {
                    peer.inlets.remove(&serial);
                }
                self.bill_subscription(key, false);
                self.forget_if_over(turn, key);
            }
            Way::Outlives(of) => self.unbill_outliving(turn.at.monotonic_ns, &of),
        }
        self.strike(turn, Member::Inlet(serial), under.as_deref());
    }

    /// The last reader that has outlived a connection may be gone.
    pub(crate) fn forget_if_over(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        let is_over = |peer: &Connection| peer.streams.is_empty() && peer.inlets.is_empty();
        if self.state.connections.lingers(key).is_some_and(is_over) {
            self.forget_connection(turn, key);
        }
    }
}
