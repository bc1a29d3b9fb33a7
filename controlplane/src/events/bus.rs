//! The bus: an event goes to every subscription whose pattern matches and whose connection may hear of it.
//!
//! ```text
//!   publish ─▶ place, record ─▶ journal ─▶ (written) ─▶ tell ─▶ subscriptions that are up to date
//! ```
//!
//! An event is encoded once for the log, and once per form somebody hears it in. Invariant: what a principal may not touch
//! it hears nothing of. How a subscription that is not up to date gets there is in [`following`](crate::events::following).

use crate::auth::grant::hears;
use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::entropy::bits;
use crate::events::form::{Form, put_frame};
use crate::events::journal::News;
use crate::events::record::{Audience, Record};
use crate::kernel::Kernel;
use crate::state::{TopicPlace, Trace};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::Command;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::event::Event;
use kairo_wire::id::EventId;
use kairo_wire::methods::event::AnswerError;
use std::sync::Arc;

/// The kernel as a publisher.
const KERNEL: &str = "kernel";

/// An event before it has a place.
#[derive(Debug)]
pub(crate) struct Fresh<'a> {
    /// Its name.
    pub id: EventId,
    /// Its type.
    pub topic: Arc<str>,
    /// What publishes it.
    pub source: &'a str,
    /// Who may hear of it.
    pub audience: Audience,
    /// Its place in a larger story.
    pub trace: &'a Trace,
    /// The key under which it is published once.
    pub key: Option<&'a str>,
    /// What it says.
    pub data: RawRef<'a>,
    /// The request it answers.
    pub answer: Option<Answer<'a>>,
}

impl<'a> Fresh<'a> {
    fn of_kernel<E: Event>(id: EventId, audience: Audience, trace: &'a Trace, data: RawRef<'a>) -> Fresh<'a> {
        Fresh { id, topic: E::TOPIC.into(), source: KERNEL, audience, trace, key: None, data, answer: None }
    }
}

/// That an event is an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    /// The id of the request.
    pub to: &'a str,
    /// What went wrong, if it did.
    pub error: Option<&'a AnswerError>,
}

impl Kernel {
    /// A name for an event.
    pub(crate) fn name_event(&mut self) -> EventId {
        EventId::new(bits(&mut *self.entropy))
    }

    /// Publishes one event of the kernel, the same for every receiver. Returns its name.
    pub(crate) fn publish<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        audience: Audience,
        trace: &Trace,
        event: &E,
    ) -> EventId {
        let id = self.name_event();
        self.publish_as(turn, id.clone(), audience, trace, event);
        id
    }

    /// The same under a name it was given before.
    pub(crate) fn publish_as<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        id: EventId,
        audience: Audience,
        trace: &Trace,
        event: &E,
    ) {
        let Some(data) = said(event) else { return };
        let fresh = Fresh::of_kernel::<E>(id, audience, trace, data.as_ref());
        self.admit(turn, &fresh, None);
    }

    /// Publishes one event that says more to one connection, the owner of what it is about, than to others.
    pub(crate) fn publish_to<E: Event>(
        &mut self,
        turn: &mut Turn<'_>,
        audience: Audience,
        trace: &Trace,
        own: Option<ConnectionKey>,
        to_own: &E,
        to_others: &E,
    ) {
        let Some(data) = said(to_others) else { return };
        let own = own.and_then(|connection| Some((connection, said(to_own)?)));
        let id = self.name_event();
        let fresh = Fresh::of_kernel::<E>(id, audience, trace, data.as_ref());
        self.admit(turn, &fresh, own);
    }

    /// Gives an event its place and hands it to the log. Returns the place; 0 if the log takes nothing any more, and then it
    /// is told at once.
    pub(crate) fn admit(
        &mut self,
        turn: &mut Turn<'_>,
        fresh: &Fresh<'_>,
        own: Option<(ConnectionKey, Raw)>,
    ) -> u64 {
        let Fresh { id, topic, source, audience, trace, key, data, answer } = fresh;
        let failed = answer.and_then(|answer| answer.error).and_then(|error| Raw::of(error).ok());
        let broken = self.journal.broken.is_some();
        let record = Record {
            seq: if broken { 0 } else { self.journal.last_seq + 1 },
            id: id.to_bytes().unwrap_or_default(),
            time_ms: wall_ms(turn.at),
            topic: (**topic).into(),
            source: (*source).into(),
            principal: trace.principal.as_deref().unwrap_or(KERNEL).into(),
            audience: audience.clone(),
            // An event that belongs to no story begins its own.
            correlation: Some(trace.correlation.as_deref().unwrap_or(id.as_str()).into()),
            causation: trace.causation.as_deref().map(Into::into),
            intent: trace.intent.as_deref().map(Into::into),
            trace: trace.trace.as_deref().map(Into::into),
            span: trace.span.as_deref().map(Into::into),
            key: key.map(Into::into),
            tool_call: trace.tool_call.as_deref().map(Into::into),
            data: *data,
            answers: answer.map(|answer| answer.to.into()),
            error: failed.as_ref().map(Raw::as_ref),
        };
        let bytes = match record.encode() {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(component = "controlplane", topic = &**topic, %error, "an event was not kept");
                return 0;
            }
        };
        let seq = record.seq;
        if broken {
            self.tell(turn, &News::unkept(Arc::clone(topic), bytes, own));
        } else {
            self.journal.event(Arc::clone(topic), bytes, own);
            if !self.state.requests.is_empty() {
                self.consider_answer(turn, fresh, seq);
            }
        }
        seq
    }

    /// Delivers an event to the subscriptions that are up to date.
    pub(crate) fn tell(&mut self, turn: &mut Turn<'_>, news: &News) {
        if self.state.matcher.is_empty() {
            return;
        }
        let serials = self.state.matcher.matching(&news.topic);
        if serials.is_empty() {
            return;
        }
        let Ok(record) = Record::parse(news.seq, &news.record) else { return };
        // By dialect, of those without the feature `envelope`, who all get the same bytes.
        let mut plain: [Option<Bytes>; 2] = [None, None];
        for serial in serials {
            let Some(topic) = self.state.topics.get(&serial) else {
                self.consumer_told(turn, serial, news, &record);
                continue;
            };
            let TopicPlace::Live { next } = topic.place else { continue };
            let Some(peer) = self.state.connections.get(topic.connection) else { continue };
            let wanted = (news.seq == 0 || news.seq >= next) && topic.takes(&record);
            if !wanted || peer.closing || !hears(&peer.principal, &record.audience) {
                continue;
            }
            let own =
                news.own.as_ref().filter(|(owner, _)| *owner == peer.key).map(|(_, data)| data.as_ref());
            let form = Form {
                dialect: peer.dialect,
                envelope: peer.envelope,
                replayed: false,
                subscription: Some(topic.id.as_str()),
                delivery: None,
            };
            let encode = || {
                let mut buf = BytesMut::new();
                if let Err(error) = put_frame(&mut buf, &record, own, &form) {
                    tracing::error!(component = "controlplane", topic = &*news.topic, %error, "an event was not sent");
                }
                buf.freeze()
            };
            let frame = if form.envelope || own.is_some() {
                encode()
            } else {
                plain[usize::from(form.dialect == Dialect::Int64)].get_or_insert_with(encode).clone()
            };
            self.send_news(turn, serial, news.seq, frame);
        }
    }

    /// Sends a live event, unless its connection has too many unread: then the subscription falls behind.
    fn send_news(&mut self, turn: &mut Turn<'_>, serial: u64, seq: u64, frame: Bytes) {
        let Some(topic) = self.state.topics.get_mut(&serial) else { return };
        let Some(peer) = self.state.connections.get_mut(topic.connection) else { return };
        if seq > 0 && (peer.is_choked(frame.len()) || self.quotas.is_over_in_flight(peer)) {
            return self.fall_behind(turn, serial, seq);
        }
        self.quotas.news_given(peer, frame.len());
        if seq > 0 {
            topic.place = TopicPlace::Live { next: seq + 1 };
        }
        turn.out.push(Command::News { connection: peer.key, frames: frame });
    }
}

fn said<E: Event>(event: &E) -> Option<Raw> {
    match Raw::of(event) {
        Ok(data) => Some(data),
        Err(error) => {
            tracing::error!(component = "controlplane", topic = E::TOPIC, %error, "an event was not written");
            None
        }
    }
}
