//! Watchers of views: they are told of changes as fast as they read.
//!
//! ```text
//!   view.watch ─▶ begin ─▶ asks for changes ─▶ (some) ─▶ told ─▶ asks again, or once it has read enough
//! ```
//!
//! The views hold back nothing for a watcher that doesn't ask: it is told what has become of each row when it does.
//! Invariant: a watcher has at most one question with the views, and its connection's window of unread bytes is kept.

use crate::calls::Turn;
use crate::entropy::bits;
use crate::events::outlet::{Found, Inquiry, Wanted};
use crate::kernel::Kernel;
use crate::state::{Named, Pending, WatchSubscription};
use bytes::BytesMut;
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{ResetReason, ViewResetRecord};
use kairo_wire::id::SubscriptionId;
use kairo_wire::method::Method;
use kairo_wire::methods::view::{ViewWatchResult, Watch};

impl Kernel {
    /// Whether a connection may have one more subscription to events or views.
    pub(crate) fn may_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionKey,
    ) -> Result<(), WireError> {
        let limit = self.config.limits.topics_max;
        if self.state.connections.get(connection).is_some_and(|peer| peer.topics.len() >= limit) {
            let message = format!("a connection has at most {limit} subscriptions to events and views");
            return Err(WireError::new(Code::Busy, message));
        }
        self.may_have_subscription(turn, connection)
    }

    /// The views have said from where on changes are told, or that there is nothing to watch.
    pub(crate) fn watch_begins(&mut self, turn: &mut Turn<'_>, call: u64, found: Result<Found, WireError>) {
        let Some(Pending::Watch { of }) = self.state.calls.get(&call).map(|call| &call.pending) else {
            return;
        };
        let (mut of, connection) = (of.clone(), self.state.calls[&call].connection);
        let begun = found.and_then(|found| self.may_subscribe(turn, connection).map(|()| found));
        let (seq, topics) = match begun {
            Ok(found) => (found.seen, found.topics),
            Err(error) => return self.reject(turn, call, &error),
        };
        let id = SubscriptionId::topic(bits(&mut *self.entropy));
        let serial = self.state.next_serial();
        let Some(peer) = self.state.connections.get_mut(connection) else { return };
        peer.topics.insert(serial);
        self.bill_subscription(connection, true);
        of.since = Some(seq);
        self.state.subscriptions.insert(id.shared(), Named::Watch(serial));
        let result = ViewWatchResult { subscription_id: id.clone(), seq };
        self.state.watches.insert(serial, WatchSubscription { id, connection, of, topics, asked: None });
        self.resolve(turn, call, &result);
        self.look(serial);
    }

    /// Asks for the next changes, if the connection reads.
    pub(crate) fn look(&mut self, serial: u64) {
        let ticket = self.state.next_serial();
        let Some(watch) = self.state.watches.get(&serial).filter(|watch| watch.asked.is_none()) else {
            return;
        };
        let Some(peer) = self.state.connections.get(watch.connection) else { return };
        if peer.closing || self.is_busy(peer) {
            return;
        }
        let hearer = peer.hearer();
        let what = Wanted::Changes { of: watch.of.clone(), subscription: watch.id.clone() };
        if let Some(watch) = self.state.watches.get_mut(&serial) {
            watch.asked = Some(ticket);
        }
        self.state.pages.insert(ticket, serial);
        self.journal.inquire(Inquiry::Want { ticket, what, hearer });
    }

    /// There are changes to tell, or nothing to watch any more.
    pub(crate) fn watched(&mut self, turn: &mut Turn<'_>, serial: u64, found: Result<Found, WireError>) {
        let Some(watch) = self.state.watches.get_mut(&serial) else { return };
        watch.asked = None;
        let Ok(found) = found else { return self.watch_over(turn, serial) };
        let connection = watch.connection;
        // It may have been defined anew, of other events.
        if self.may_hear(turn.at, connection, Watch::ROW.name, &found.topics).is_err() {
            return self.watch_over(turn, serial);
        }
        let Some(watch) = self.state.watches.get_mut(&serial) else { return };
        watch.topics = found.topics;
        watch.of.since = Some(found.seen);
        if let Some(peer) = self.state.connections.get_mut(watch.connection) {
            self.quotas.news_given(peer, found.bytes.len());
            turn.out.push(Command::News { connection: peer.key, frames: found.bytes });
        }
        self.look(serial);
    }

    /// The view is gone, or its watcher may not see it any more, who is told so.
    pub(crate) fn watch_over(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(watch) = self.state.watches.get(&serial) else { return };
        let record = ViewResetRecord {
            subscription_id: watch.id.clone(),
            name: watch.of.name.clone(),
            reason: ResetReason::Dropped,
            seq: watch.of.since.unwrap_or_default(),
        };
        let connection = watch.connection;
        self.end_watch(serial);
        let Some(peer) = self.state.connections.get(connection) else { return };
        let mut frame = BytesMut::new();
        if put_notice(&mut frame, peer.dialect, &record).is_ok() {
            turn.out.push(Command::Reply { connection, frame: frame.freeze() });
        }
        self.close_if_over(turn, connection);
    }

    /// Ends a watch.
    pub(crate) fn end_watch(&mut self, serial: u64) {
        let Some(watch) = self.state.watches.remove(&serial) else { return };
        self.state.subscriptions.remove(watch.id.as_str());
        if let Some(peer) = self.state.connections.get_mut(watch.connection) {
            peer.topics.remove(&serial);
        }
        self.bill_subscription(watch.connection, false);
        self.journal.inquire(Inquiry::Leave(watch.id));
        if let Some(ticket) = watch.asked {
            self.state.pages.remove(&ticket);
        }
    }
}
