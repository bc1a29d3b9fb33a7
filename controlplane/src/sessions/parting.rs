//! A connection that goes: what goes with it, and what outlives it.
//!
//! What has a name in the file system, a reader or the way into a stdin, is for whoever opens that, so it stays when the program
//! that asked for it ends. What it may is what its connection might: that stays for it, without a socket, in the eyes of quotas
//! and of whoever takes something back.
//!
//! Invariant: a connection that is gone is known exactly as long as something outlives it; a way into a stdin is listed by the
//! connection it was asked for on, unless that went with a former kernel, and by its process's serial.

use crate::calls::Turn;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
use crate::state::{Connection, Process, Way};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::event::{DeadReason, StreamEndReason};

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

    /// A path leads into a stdin, for whoever asked in this call; if that is gone, for nobody.
    pub(crate) fn note_inlet(&mut self, turn: &mut Turn<'_>, ticket: u64, serial: u64) {
        let connection = self.state.calls.get(&ticket).map(|call| call.connection);
        match connection.and_then(|key| Some((key, self.state.connections.get_mut(key)?))) {
            Some((key, peer)) if !peer.closing => {
                peer.inlets.insert(serial);
                self.state.inlets.insert(serial, Way::Of(key));
            }
            Some(_) | None => self.end_inlet(turn, serial),
        }
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
        let Some(Way::Of(key)) = self.state.inlets.remove(&serial) else { return };
        if let Some(peer) = self.state.connections.get_mut(key) {
            peer.inlets.remove(&serial);
        }
        self.forget_if_over(turn, key);
    }

    /// The last reader that has outlived a connection may be gone.
    pub(crate) fn forget_if_over(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        let is_over = |peer: &Connection| peer.streams.is_empty() && peer.inlets.is_empty();
        if self.state.connections.lingers(key).is_some_and(is_over) {
            self.forget_connection(turn, key);
        }
    }
}
