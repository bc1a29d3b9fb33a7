//! A connection that goes: what goes with it, and what outlives it.
//!
//! A reader with a name in the file system is for whoever opens that, so it stays when the program that asked for it ends. What
//! it may is what its connection might: that stays for it, without a socket, in the eyes of quotas and of whoever takes
//! something back.
//!
//! Invariant: a connection that is gone is known exactly as long as a reader outlives it.

use crate::calls::Turn;
use crate::kernel::Kernel;
use crate::sessions::readers::Departure;
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
        if lasting.is_empty() {
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
        for stream in streams.into_iter().flatten() {
            self.end_with_record(turn, stream, StreamEndReason::Revoked);
        }
    }

    /// The last reader that has outlived a connection may be gone.
    pub(crate) fn forget_if_over(&mut self, turn: &mut Turn<'_>, key: ConnectionKey) {
        if self.state.connections.lingers(key).is_some_and(|peer| peer.streams.is_empty()) {
            self.forget_connection(turn, key);
        }
    }
}
