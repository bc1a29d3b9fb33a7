//! Outlets, and paths into stdins, that outlive their kernel: what is noted of one, and how the next kernel goes on with it.
//!
//! ```text
//!   opened ──note──▶ keeper ─ ─ killed ─ ─ ▶ adopted: a reader, or a way in, without a connection, of whoever had it
//! ```
//!
//! Its connection went with the kernel that had it, so what ends it is its other side, who closes it, the stream's end, or whoever
//! opened it. Invariant: a reader or a way in has no connection exactly when it says whose it is.

use crate::auth::grant::may_touch;
use crate::auth::principal::{Creator, Principal};
use crate::auth::subject::{Party, known_as};
use crate::calls::Turn;
use crate::intents::members::{Member, Under};
use crate::kernel::Kernel;
use crate::sessions::lifecycle::Doubt;
use crate::state::{Inlet, Named, Outliving, Place, RawSink, State, StreamSubscription, Way, Wish};
use bytes::{Bytes, BytesMut};
use kairo_dataplane::command::{From, Mode, OutletKind, Policy, Rate, Sink, Subscribe};
use kairo_dataplane::keeper::settlement::Outlet;
use kairo_dataplane::keeper::successor::HeldInlet;
use kairo_dataplane::key::{Channel, ConnectionKey, SubscriptionKey};
use kairo_dataplane::meter::ReaderMeter;
use kairo_dataplane::reactor::inlets::AdoptedInlet;
use kairo_dataplane::reactor::outlets::AdoptedOutlet;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::event::StreamEndReason;
use kairo_wire::id::{ProcessId, SubscriptionId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// To which intent something belongs, and to which story.
type Names = (Option<String>, Option<String>);

fn names(under: Option<&Under>) -> Names {
    let named = |name: Option<&Box<str>>| name.map(|name| name.to_string());
    (named(under.and_then(|of| of.intent.as_ref())), named(under.and_then(|of| of.story.as_ref())))
}

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
    #[serde(default)]
    under: Names,
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

/// Of a path into a stdin.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WayNote {
    v: u32,
    /// Whose it is.
    uid: u32,
    of_session: Option<String>,
    of_skill: Option<String>,
    /// Absent in notes of kernels that did not count it there.
    #[serde(default)]
    under: Names,
}

impl Kernel {
    /// What the keeper is to keep with an outlet; none where there is none, or it can't be gone on with.
    pub(crate) fn outlet_note(
        &self,
        connection: ConnectionKey,
        id: &SubscriptionId,
        wish: Wish,
        sink: &Sink,
        under: Option<&Under>,
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
        let (uid, of_session, of_skill) = self.holder(connection);
        let (id, policy, rate) = (id.as_str().to_owned(), wish.policy, wish.rate);
        let frames = Frames::of(sink, wish.mode);
        let under = names(under);
        written_down(&Note { v: 1, id, policy, rate, uid, of_session, of_skill, under, frames })
    }

    /// What the keeper is to keep with a path into a stdin.
    pub(crate) fn inlet_note(&self, connection: ConnectionKey, under: Option<&Under>) -> Bytes {
        let (uid, of_session, of_skill) = self.holder(connection);
        let note = WayNote { v: 1, uid, of_session, of_skill, under: names(under) };
        written_down(&note).unwrap_or_default()
    }

    fn holder(&self, connection: ConnectionKey) -> (u32, Option<String>, Option<String>) {
        let Creator { uid, session, name } = self.principal(connection).creator(self.config.owner_uid);
        let owned = |text: Option<Arc<str>>| text.map(|text| text.as_ref().to_owned());
        (uid, owned(session), owned(name))
    }

    /// Goes on with the path into the stdin of an adopted process. One whose note can't be read is the owner's.
    pub(crate) fn adopt_inlet(&mut self, process: u64, inlet: HeldInlet) -> AdoptedInlet {
        let HeldInlet { fd, path, until_ns, closes, note } = inlet;
        let (principal, under) = match from_slice(&note) {
            Ok(WayNote { uid, of_session, of_skill, under, .. }) => {
                let (session, name) = (of_session.map(Into::into), of_skill.map(Into::into));
                let creator = Creator { uid, session, name };
                (Principal::of_creator(&creator, self.config.owner_uid), Under::named(under.0, under.1))
            }
            Err(error) => {
                tracing::error!(component = "controlplane", %error, "the note of a way into a stdin can't be read");
                (Principal::Owner, None)
            }
        };
        self.enroll_under(Member::Inlet(process), under.as_deref());
        let way = Way::Outlives(Outliving { principal, account: None });
        self.state.inlets.insert(process, Inlet { way, under });
        AdoptedInlet { fd, path, until_ns, closes }
    }

    /// Goes on with the outlets of an adopted process. One whose note can't be read ends.
    pub(crate) fn adopt_outlets(&mut self, process: u64, outlets: Vec<Outlet>) -> Vec<AdoptedOutlet> {
        outlets.into_iter().filter_map(|outlet| self.adopt_outlet(process, outlet)).collect()
    }

    fn adopt_outlet(&mut self, serial: u64, outlet: Outlet) -> Option<AdoptedOutlet> {
        let Note { id, policy, rate, uid, of_session, of_skill, under, frames, .. } = from_slice(&outlet.note)
            .inspect_err(|error| tracing::error!(component = "controlplane", %error, "the note of an outlet can't be read"))
            .ok()
            .filter(|note: &Note| note.frames.is_some() == outlet.framed)?;
        let id = SubscriptionId::from_text(&id);
        let creator = Creator { uid, session: of_session.map(Into::into), name: of_skill.map(Into::into) };
        let principal = Principal::of_creator(&creator, self.config.owner_uid);
        let under = Under::named(under.0, under.1);
        let stream = self.state.next_serial();
        let process = self.state.processes.get_mut(&serial)?;
        process.readers.insert(stream);
        if let Some((at, to)) = outlet.offset().zip(outlet.uncertain) {
            process.doubt(Doubt { channel: outlet.channel, at, to });
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
            under,
            outlives: Some(Box::new(Outliving { principal, account: None })),
        };
        self.enroll_under(Member::Stream(stream), subscription.under.as_deref());
        self.state.streams.insert(stream, subscription);
        Some(AdoptedOutlet { fd: outlet.fd, place: outlet.place, subscribe })
    }

    /// Closes outlets and ways in of former kernels that whoever goes by this name has only by a grant. Returns how many.
    pub(crate) fn close_outliving(&mut self, turn: &mut Turn<'_>, party: &Party) -> u32 {
        let by_grant = |holder: &Principal, process: &u64| {
            let process = self.state.processes.get(process);
            let own = process.is_some_and(|process| may_touch(holder, &process.creator));
            !own && known_as(holder).as_ref() == Some(party)
        };
        let reads_by_grant = |stream: &StreamSubscription| match (&stream.outlives, &stream.place) {
            (Some(of), Place::Reading { process, .. }) => by_grant(&of.principal, process),
            _ => false,
        };
        let ways = self.state.inlets.iter().filter_map(|(process, inlet)| match &inlet.way {
            Way::Outlives(of) => by_grant(&of.principal, process).then_some(*process),
            Way::Of(_) => None,
        });
        let ways: Vec<u64> = ways.collect();
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
        for process in &ways {
            self.end_inlet(turn, *process);
        }
        (unheld.len() + ways.len()) as u32
    }
}

impl State {
    /// What has no connection and says whose it is.
    pub(crate) fn outliving(&self) -> impl Iterator<Item = (Member, &Outliving)> {
        let streams = self.streams.iter();
        let streams =
            streams.filter_map(|(serial, of)| Some((Member::Stream(*serial), of.outlives.as_deref()?)));
        let ways = self.inlets.iter().filter_map(|(serial, inlet)| match &inlet.way {
            Way::Outlives(of) => Some((Member::Inlet(*serial), of)),
            Way::Of(_) => None,
        });
        streams.chain(ways)
    }

    /// One of it, to change.
    pub(crate) fn outliving_mut(&mut self, member: Member) -> Option<&mut Outliving> {
        match member {
            Member::Stream(serial) => self.streams.get_mut(&serial)?.outlives.as_deref_mut(),
            Member::Inlet(serial) => match &mut self.inlets.get_mut(&serial)?.way {
                Way::Outlives(of) => Some(of),
                Way::Of(_) => None,
            },
            Member::Intent(_) | Member::Process(_) | Member::Call(_) | Member::Topic(_) => None,
        }
    }
}

fn written_down(note: &impl Serialize) -> Option<Bytes> {
    let mut buf = BytesMut::new();
    to_buf(&mut buf, Dialect::Int64, note)
        .inspect_err(|error| tracing::error!(component = "controlplane", %error, "nothing is written down of what outlives us"))
        .ok()?;
    Some(buf.freeze())
}
