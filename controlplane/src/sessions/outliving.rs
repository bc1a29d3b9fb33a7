//! Outlets that outlive their kernel: what is noted of one, and how the next kernel goes on with it.
//!
//! ```text
//!   opened ──note──▶ keeper ─ ─ killed ─ ─ ▶ adopted: a reader without a connection, of whoever had it
//! ```
//!
//! Its connection went with the kernel that had it, so what ends it is its reader, who closes it, the stream's end, or whoever
//! opened it. Invariant: a reader has no connection exactly when it says whose it is.

use crate::auth::grant::may_touch;
use crate::auth::principal::{Creator, Principal};
use crate::auth::subject::{Party, known_as};
use crate::calls::Turn;
use crate::kernel::Kernel;
use crate::state::{Named, Place, RawSink, StreamSubscription, Wish};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::{From, Mode, OutletKind, Policy, Rate, Sink, Subscribe};
use kairo_dataplane::keeper::settlement::Outlet;
use kairo_dataplane::key::{Channel, ConnectionKey, SubscriptionKey};
use kairo_dataplane::meter::ReaderMeter;
use kairo_dataplane::reactor::outlets::AdoptedOutlet;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::event::StreamEndReason;
use kairo_wire::id::{ProcessId, SubscriptionId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Of an outlet, for whoever comes after us.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    v: u32,
    id: String,
    policy: Policy,
    rate: Option<Rate>,
    /// Whose it is.
    uid: u32,
    of_session: Option<String>,
    of_skill: Option<String>,
    /// How its frames look; none where its bytes are raw.
    #[serde(default)]
    frames: Option<Frames>,
}

/// What its connection had negotiated, and it had asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frames {
    mode: Mode,
    chunk_bytes_max: u32,
    records: bool,
    timestamps: bool,
    int64: bool,
}

impl Frames {
    /// Of a reader in frames.
    fn of(sink: &Sink, mode: Mode) -> Option<Frames> {
        let Sink::Frames { chunk_bytes_max, records, timestamps, dialect, .. } = *sink else { return None };
        Some(Frames { mode, chunk_bytes_max, records, timestamps, int64: dialect == Dialect::Int64 })
    }

    /// The same for a reader without a connection: whoever goes on with its socket makes it one.
    fn sink(self, connection: ConnectionKey, process_id: ProcessId) -> Sink {
        let Frames { chunk_bytes_max, records, timestamps, int64, .. } = self;
        let dialect = if int64 { Dialect::Int64 } else { Dialect::V1 };
        Sink::Frames {
            connection,
            dedicated: None,
            chunk_bytes_max,
            records,
            timestamps,
            dialect,
            process_id,
        }
    }
}

impl Kernel {
    /// What the keeper is to keep with an outlet; none where there is none, or it can't be gone on with.
    pub(crate) fn outlet_note(
        &self,
        connection: ConnectionKey,
        id: &SubscriptionId,
        wish: Wish,
        sink: &Sink,
    ) -> Option<Bytes> {
        match wish.raw {
            // A fifo nobody has opened has lost its other end: that is found with the first byte, and it ends.
            Some(RawSink::Outlet {
                kind: OutletKind::Pipe { .. } | OutletKind::Socket | OutletKind::Fifo { .. },
                ..
            })
            | Some(RawSink::Framed { .. }) => {}
            // The ring is mapped by its reader, which finds out by itself that nobody writes it any more.
            Some(RawSink::Outlet { kind: OutletKind::Shared, .. } | RawSink::Own(_) | RawSink::Kept)
            | None => return None,
        }
        let Creator { uid, session, name } = self.principal(connection).creator(self.config.owner_uid);
        let owned = |text: Option<Arc<str>>| text.map(|text| text.as_ref().to_owned());
        let (id, policy, rate) = (id.as_str().to_owned(), wish.policy, wish.rate);
        let (of_session, of_skill, frames) = (owned(session), owned(name), Frames::of(sink, wish.mode));
        let note = Note { v: 1, id, policy, rate, uid, of_session, of_skill, frames };
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::Int64, &note)
            .inspect_err(|error| tracing::error!(component = "controlplane", %error, "nothing is written down of an outlet"))
            .ok()?;
        Some(buf.freeze())
    }

    /// Goes on with the outlets of an adopted process. One whose note can't be read ends.
    pub(crate) fn adopt_outlets(&mut self, process: u64, outlets: Vec<Outlet>) -> Vec<AdoptedOutlet> {
        outlets.into_iter().filter_map(|outlet| self.adopt_outlet(process, outlet)).collect()
    }

    fn adopt_outlet(&mut self, serial: u64, outlet: Outlet) -> Option<AdoptedOutlet> {
        let Note { id, policy, rate, uid, of_session, of_skill, frames, .. } = from_slice(&outlet.note)
            .inspect_err(|error| tracing::error!(component = "controlplane", %error, "the note of an outlet can't be read"))
            .ok()
            .filter(|note: &Note| note.frames.is_some() == outlet.framed)?;
        let id = SubscriptionId::from_text(&id);
        let creator = Creator { uid, session: of_session.map(Into::into), name: of_skill.map(Into::into) };
        let principal = Principal::of_creator(&creator, self.config.owner_uid);
        let stream = self.state.next_serial();
        let process = self.state.processes.get_mut(&serial)?;
        process.readers.insert(stream);
        if let Some(at) = outlet.offset().filter(|_| outlet.uncertain) {
            process.doubt(outlet.channel, at);
        }
        let (of, target) = (process.key, process.id.clone());
        let wish = Wish {
            stdout: outlet.channel == Channel::Stdout,
            stderr: outlet.channel == Channel::Stderr,
            from: From::Oldest,
            mode: frames.map_or(Mode::Chunk, |frames| frames.mode),
            policy,
            resumes: true,
            history_bytes: None,
            raw: Some(RawSink::Kept),
            rate,
        };
        let connection = ConnectionKey { reactor: of.home, slot: u32::MAX, generation: u32::MAX };
        let (key, meter) =
            (SubscriptionKey { home: of.home, serial: outlet.serial }, Arc::new(ReaderMeter::default()));
        let subscribe = Subscribe {
            subscription: key,
            id: id.clone(),
            process: of,
            stdout: wish.stdout,
            stderr: wish.stderr,
            from: wish.from,
            resumes: wish.resumes,
            mode: wish.mode,
            policy,
            sink: frames.map_or(Sink::Kept, |frames| frames.sink(connection, target.clone())),
            history_bytes: None,
            rate,
            note: None,
            meter: Arc::clone(&meter),
        };
        self.state.reading.insert(key.serial, stream);
        self.state.subscriptions.insert(id.shared(), Named::Stream(stream));
        let subscription = StreamSubscription {
            id,
            connection,
            target,
            wish,
            place: Place::Reading { key, process: serial, meter },
            under: None,
            outlives: Some(Box::new(principal)),
        };
        self.state.streams.insert(stream, subscription);
        Some(AdoptedOutlet { fd: outlet.fd, place: outlet.place, subscribe })
    }

    /// Closes outlets of former kernels that whoever goes by this name reads only by a grant. Returns how many.
    pub(crate) fn close_outliving(&mut self, turn: &mut Turn<'_>, party: &Party) -> u32 {
        let reads_by_grant = |stream: &StreamSubscription| {
            let (Some(holder), Place::Reading { process, .. }) = (&stream.outlives, &stream.place) else {
                return false;
            };
            let own =
                self.state.processes.get(process).is_some_and(|process| may_touch(holder, &process.creator));
            !own && known_as(holder).as_ref() == Some(party)
        };
        let mut unheld: Vec<u64> = self
            .state
            .streams
            .iter()
            .filter_map(|(serial, stream)| reads_by_grant(stream).then_some(*serial))
            .collect();
        unheld.sort_unstable();
        for serial in &unheld {
            self.end_with_record(turn, *serial, StreamEndReason::Revoked);
        }
        unheld.len() as u32
    }
}
