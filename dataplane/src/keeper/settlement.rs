//! What a dead kernel left in the middle is brought to an end, so that another one can go on.
//!
//! ```text
//!  for each stream:  account (T, E, what is staged) ─▶ new ring with what is in the old one ─▶ the keeper holds it
//!                                                   ─▶ what is staged goes into it, in the usual steps
//!  for each input:   T = E less what is staged; what is staged is in the inbox still, and is thrown away
//!  for each outlet:  the same; what is staged is in the ring or in the source still, or is kept with the outlet now
//!  for each inlet:   account (A, C, what is staged) ─▶ what is staged goes into the inbox, which the keeper holds
//!  then:             lanes ─▶ the keeper has its next kernel
//! ```
//!
//! Nobody can write to a dead kernel's rings (they are sealed), hence the new ones. This may be killed at any instant as
//! well: before the keeper has a new ring the old account holds, afterwards the new ring and the same staging pipe make
//! the same account. Invariant: at no instant is a byte only in this process.

use crate::command::HistorySize;
use crate::control::StreamEnd;
use crate::keeper::protocol::End;
use crate::keeper::succession::{FromSuccessor, ToSuccessor};
use crate::keeper::successor::{Estate, HeldLending, HeldOutlet, HeldReactor, HeldRing, HeldSession};
use crate::key::{Channel, ProcessKey};
use crate::limits::TAKE_BYTES_MAX;
use crate::points::{Point, reach};
use crate::stream::history::History;
use crate::stream::source::{Account, inlet_name, input_name, outlet_name, output_name};
use crate::sys::pipe::queued;
use kairo_shm::inbox::Inbox;
use kairo_shm::layout::RingError;
use kairo_shm::page::{Page, Side};
use kairo_shm::reader::Reader;
use kairo_shm::writer::Writer;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

/// A process with all that is needed to go on with it.
#[derive(Debug)]
pub struct Heir {
    /// What is known of it; its rings and inbox are below.
    pub session: HeldSession,
    /// What is kept of each output, by `Channel as usize`; none if no byte ever came, or all has been let go.
    pub rings: [Option<Writer>; 2],
    /// What waits for its stdin.
    pub inbox: Option<Inbox>,
    /// What its readers are given bytes by, each of which knows where it has come to.
    pub outlets: Vec<Outlet>,
    /// How far outputs may have come of which up to a read's worth of bytes may be missing, by `Channel as usize`: the dead
    /// kernel took them in one step, and did not live to note how many.
    pub uncertain: [Option<u64>; 2],
}

impl Heir {
    /// A process of which the keeper has nothing, because it is another keeper.
    pub fn of_nothing(process: ProcessKey, session: &str, pid: i32, start_ticks: u64) -> Heir {
        let bare = HeldSession::bare(process, session, pid, start_ticks);
        let session = HeldSession { ended: true, ..bare };
        Heir { session, rings: [None, None], inbox: None, outlets: Vec::new(), uncertain: [None; 2] }
    }

    /// How long an output was, if it has ended.
    pub fn end(&self, channel: Channel) -> Option<StreamEnd> {
        let in_place = self.session.lending.is_some() && channel == Channel::Stdout;
        if in_place || self.session.ends[End::of(channel) as usize].is_some() {
            return None;
        }
        let ring = self.rings[channel as usize].as_ref();
        let (total_bytes, cut_bytes) = ring.map_or((0, 0), |ring| (ring.taken(), ring.cut_bytes()));
        Some(StreamEnd { total_bytes, cut_bytes })
    }
}

/// An outlet that can be gone on with.
#[derive(Debug)]
pub struct Outlet {
    /// Its name.
    pub serial: u64,
    /// Which output it reads.
    pub channel: Channel,
    /// In frames: its place counts bytes of the wire.
    pub framed: bool,
    /// As its kernel noted it.
    pub note: Vec<u8>,
    /// Pipe, fifo or socket.
    pub fd: OwnedFd,
    /// Where it has come to.
    pub place: Inbox,
    /// How far it may have come: its kernel died in the middle of giving it bytes, and didn't live to note how many.
    pub uncertain: Option<u64>,
}

/// A keeper that serves us, and everything it kept.
#[derive(Debug)]
pub struct Inheritance {
    /// The keeper.
    pub keeper_pid: i32,
    /// One per reactor.
    pub lanes: Vec<OwnedFd>,
    /// Every process.
    pub heirs: Vec<Heir>,
}

/// It can't be gone on with. The keeper still has everything.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The keeper does not answer as it should.
    #[error("the keeper: {0}")]
    Keeper(#[from] io::Error),
    /// A ring, page or inbox is not what it should be, or there is no memory for another.
    #[error("{what} of session {session}: {source}")]
    Memory {
        /// `ring`, `inbox` or `page`.
        what: &'static str,
        /// Whose.
        session: String,
        /// Why.
        source: RingError,
    },
    /// What was noted and what is there contradict each other.
    #[error(
        "the account of session {session} doesn't add up: {taken} bytes taken, {expected} expected, {staged} staged"
    )]
    Account {
        /// Whose.
        session: String,
        /// T.
        taken: u64,
        /// E.
        expected: u64,
        /// In the staging pipe.
        staged: u64,
    },
}

/// Settles everything and becomes the keeper's kernel, with `lanes` lanes. `history` tells how much of a session's output
/// is kept.
pub fn settle(
    mut estate: Estate,
    lanes: u16,
    history: impl Fn(&HeldSession) -> HistorySize,
) -> Result<Inheritance, SettleError> {
    reach(Point::AdoptReceived);
    let reactors = estate.reactors.drain(..).map(Desk::open).collect::<Result<Vec<_>, _>>()?;
    let mut sessions = std::mem::take(&mut estate.sessions);
    let mut settled = Vec::with_capacity(sessions.len());
    for session in &mut sessions {
        let size = history(session);
        settled.push(settle_one(&mut estate, session, &reactors, size)?);
    }
    reach(Point::AdoptSettled);
    estate.sessions = sessions;
    let lanes = estate.adopt(lanes)?;
    reach(Point::AdoptTaken);
    let heirs = estate.sessions.into_iter().zip(settled).map(|(session, settled)| {
        let Settled { rings, inbox, outlets, uncertain } = settled;
        Heir { session, rings, inbox, outlets, uncertain }
    });
    Ok(Inheritance { keeper_pid: estate.keeper_pid, lanes, heirs: heirs.collect() })
}

/// What a dead reactor was in the middle of.
struct Desk {
    output_named: u64,
    input_named: u64,
    held: HeldReactor,
}

impl Desk {
    fn open(held: HeldReactor) -> Result<Desk, SettleError> {
        let memory = |source| SettleError::Memory { what: "page", session: String::new(), source };
        let page = Page::open(held.page.try_clone()?).map_err(memory)?;
        Ok(Desk { output_named: page.named(Side::Output), input_named: page.named(Side::Input), held })
    }
}

#[derive(Default)]
struct Settled {
    rings: [Option<Writer>; 2],
    inbox: Option<Inbox>,
    outlets: Vec<Outlet>,
    uncertain: [Option<u64>; 2],
}

fn settle_one(
    estate: &mut Estate,
    session: &mut HeldSession,
    desks: &[Desk],
    size: HistorySize,
) -> Result<Settled, SettleError> {
    let mut settled = Settled { outlets: settle_outlets(session, desks)?, ..Settled::default() };
    let mut lending = session.lending.take();
    for channel in Channel::ALL {
        let end = End::of(channel);
        let ring = session.rings.iter().find(|ring| ring.end == end);
        let name = output_name(session.process, channel);
        let desk = desks.iter().find(|desk| desk.output_named == name);
        let staged = match desk {
            Some(desk) => queued(desk.held.staging_reader.as_fd())? as u64,
            None => 0,
        };
        if ring.is_none() && staged == 0 {
            continue;
        }
        if let Some(writer) = followed(&session.session, &mut lending, ring, channel) {
            reach(Point::AdoptRingMade);
            hold(estate, session.process, channel, &writer)?;
            reach(Point::AdoptRingHeld);
            settled.rings[channel as usize] = Some(writer);
            continue;
        }
        let given = settled.outlets.iter().filter(|outlet| outlet.channel == channel && size.is_none());
        let given = given.filter_map(Outlet::given).max();
        let (writer, staged, uncertain) = renew(session, ring, size, (staged, desk.is_some()), given)?;
        if ring.is_none() {
            writer.pin(0, session.blockers[channel as usize]);
        }
        reach(Point::AdoptRingMade);
        hold(estate, session.process, channel, &writer)?;
        reach(Point::AdoptRingHeld);
        let writer = match desk {
            Some(desk) if staged > 0 => {
                drain(writer, &desk.held.staging_reader, staged as usize, size.is_none())?
            }
            Some(_) | None => writer,
        };
        reach(Point::AdoptDrained);
        settled.rings[channel as usize] = Some(writer);
        settled.uncertain[channel as usize] = uncertain;
    }
    session.lending = lending;
    if let Some(inbox) = session.inbox.take() {
        let desk = desks.iter().find(|desk| desk.input_named == input_name(session.process));
        let inbox = open_inbox(&session.session, inbox)?;
        let mut inbox = settle_input(&session.session, inbox, desk)?;
        settle_intake(session, &mut inbox, desks)?;
        settled.inbox = Some(inbox);
    }
    session.rings.clear();
    Ok(settled)
}

impl Outlet {
    /// The offset of the byte that is next for it, if it is raw.
    pub fn offset(&self) -> Option<u64> {
        let from = self.place.fed_from().filter(|_| !self.framed)?;
        Some(from + self.place.written())
    }

    /// How far it was given what is relayed, and whether that says how far the stream was taken, even if it was not taken on.
    fn given(&self) -> Option<(u64, bool)> {
        if self.place.is_moving() {
            let parcel = self.place.parcel()?;
            return Some((parcel.payload_left(self.place.written()).start, true));
        }
        Some((self.offset()?, false))
    }
}

/// Bytes that were on their way to a reader and are staged still it has not had; they are where they came from.
fn settle_outlets(session: &mut HeldSession, desks: &[Desk]) -> Result<Vec<Outlet>, SettleError> {
    let mut outlets = Vec::with_capacity(session.outlets.len());
    for HeldOutlet { serial, end, framed, note, fd, place } in session.outlets.drain(..) {
        let channel = if end == End::Stderr { Channel::Stderr } else { Channel::Stdout };
        let desk = desks.iter().find(|desk| desk.input_named == outlet_name(serial));
        let (place, uncertain) = match desk {
            Some(desk) => (settle_outlet(&session.session, place, desk)?, None),
            None => open_unstaged(&session.session, place)?,
        };
        outlets.push(Outlet { serial, channel, framed, note, fd, place, uncertain });
    }
    Ok(outlets)
}

/// The same of one outlet; what is nowhere else is kept with it.
fn settle_outlet(session: &str, place: OwnedFd, desk: &Desk) -> Result<Inbox, SettleError> {
    let (mut place, staging) = (open_inbox(session, place)?, &desk.held.input_reader);
    if !place.is_moving() {
        return settle_input(session, place, Some(desk));
    }
    let staged = queued(staging.as_fd())?;
    let (taken, expected) = (place.written(), place.expected());
    let wrong =
        || SettleError::Account { session: session.to_owned(), taken, expected, staged: staged as u64 };
    if place.settle_moving(staged).ok_or_else(wrong)? {
        reach(Point::AdoptInboxRead);
        let mut staging = staging.try_clone().map(File::from)?;
        place.keep_staged(staged, |into| staging.read_exact(into))?;
    }
    Ok(place)
}

/// What went to an outlet by no staging pipe was noted afterwards, or is in doubt. Whoever dies before it could say so leaves it
/// to the next one.
fn open_unstaged(session: &str, place: OwnedFd) -> Result<(Inbox, Option<u64>), SettleError> {
    let place = open_inbox(session, place)?;
    let (written, expected) = (place.written(), place.expected());
    let uncertain = place.fed_from().filter(|_| expected > written).map(|from| from + expected);
    Ok((place, uncertain))
}

/// A ring like the old one that can be written to, what is to be added from the staging pipe, and how far the stream may have
/// come if something may be missing. `given`: how far a reader of a relayed stream has come, and whether that is exact.
fn renew(
    session: &HeldSession,
    ring: Option<&HeldRing>,
    size: HistorySize,
    (staged, named): (u64, bool),
    given: Option<(u64, bool)>,
) -> Result<(Writer, u64, Option<u64>), SettleError> {
    let memory = |source| SettleError::Memory { what: "ring", session: session.session.clone(), source };
    let Some(ring) = ring else {
        // Killed between the first splice and the first ring: all there is is staged.
        return Ok((History::first_ring(size).map_err(memory)?, staged, None));
    };
    let old = Reader::open(ring.memory.as_fd()).map_err(memory)?;
    let (taken, expected) = (old.taken(), old.expected());
    // Where there is no splice nothing is staged: what a read brought that was not noted can't be told.
    let uncertain = !named && expected > taken;
    // What was relayed is noted of its reader first.
    let is_known =
        |(given, exact): &(u64, bool)| uncertain && (taken + u64::from(!exact)..=expected).contains(given);
    let given = given.filter(is_known).map(|(given, _)| given);
    let uncertain = uncertain && given.is_none();
    let account = match uncertain {
        _ if given.is_some() => Account { in_ring_to: given.unwrap_or(taken), staged_bytes: 0 },
        true => Account { in_ring_to: taken, staged_bytes: 0 },
        false => {
            let account = Account::of(taken, expected, staged, named);
            let session = session.session.clone();
            account.ok_or(SettleError::Account { session, taken, expected, staged })?
        }
    };
    let writer = Writer::succeed(&old, account.in_ring_to).map_err(memory)?;
    if uncertain && size.is_none() {
        // Whoever dies before it could say so leaves it to the next one.
        writer.expect_to_pass((expected - taken) as usize, old.is_to_one());
    }
    Ok((writer, account.staged_bytes, uncertain.then_some(expected)))
}

/// The ring of a stream that a client writes in place, if it is one: what was copied counts, and the rest is where it was written.
/// Where it can't be gone on with it is over.
fn followed(
    session: &str,
    lending: &mut Option<HeldLending>,
    ring: Option<&HeldRing>,
    channel: Channel,
) -> Option<Writer> {
    let (Some(lent), Some(ring), Channel::Stdout) = (&lending, ring, channel) else { return None };
    let old = Reader::open(ring.memory.as_fd()).ok()?;
    let made = match old.generation() {
        // Its first kernel had it in place itself.
        0 => Writer::after_lent(lent.ring.as_fd(), &old, TAKE_BYTES_MAX),
        _ => Writer::succeed(&old, old.taken()),
    };
    if let Err(error) = &made {
        tracing::error!(session, %error, "what a client writes in place can't be gone on with");
        *lending = None;
    }
    made.or_else(|_| Writer::of_ended(&[], &[], old.taken())).ok()
}

/// Has the keeper hold a ring instead of the old one, and waits until it does.
fn hold(estate: &mut Estate, process: ProcessKey, channel: Channel, ring: &Writer) -> io::Result<()> {
    let (name, end) = (output_name(process, channel), End::of(channel));
    let (slot, generation) = ((name >> 32) as u32, name as u32);
    let message = FromSuccessor::Replace { process, end, slot, generation };
    estate.wire.say(&message, &[ring.descriptor()])?;
    estate.wire.await_answer(&ToSuccessor::Replaced { process, end })
}

/// Steps 2 to 4 of a take, the first of which the dead kernel did. What was being `relayed` every reader has.
fn drain(mut ring: Writer, staging: &OwnedFd, bytes: usize, relayed: bool) -> io::Result<Writer> {
    ring.expect(bytes);
    if relayed {
        let taken = staging.try_clone().map(File::from)?.take(bytes as u64);
        io::copy(&mut { taken }, &mut io::sink())?;
        ring.commit(bytes);
        return Ok(ring);
    }
    let room = ring.room(bytes).get_mut(..bytes).ok_or(io::ErrorKind::InvalidData)?;
    staging.try_clone().map(File::from)?.read_exact(room)?;
    ring.commit(bytes);
    Ok(ring)
}

/// Steps 2 to 4 of taking in what was written by a path, as far as the dead kernel did not do them.
fn settle_intake(session: &HeldSession, inbox: &mut Inbox, desks: &[Desk]) -> Result<(), SettleError> {
    let Some(desk) = desks.iter().find(|desk| desk.output_named == inlet_name(session.process)) else {
        return Ok(());
    };
    let staged = queued(desk.held.staging_reader.as_fd())? as u64;
    let (taken, expected) = (inbox.appended(), inbox.coming());
    let account = Account::of(taken, expected, staged, true);
    let fits = staged <= (expected - taken).max(inbox.room_bytes() as u64);
    if account.is_none() || !fits {
        return Err(SettleError::Account { session: session.session.clone(), taken, expected, staged });
    }
    if expected == taken {
        inbox.await_bytes(staged as usize);
    }
    let room = inbox.awaited();
    let read = room.len() - staged as usize;
    desk.held.staging_reader.try_clone().map(File::from)?.read_exact(&mut room[read..])?;
    reach(Point::AdoptInboxRead);
    inbox.admit();
    Ok(())
}

fn open_inbox(session: &str, inbox: OwnedFd) -> Result<Inbox, SettleError> {
    let memory = |source| SettleError::Memory { what: "inbox", session: session.to_owned(), source };
    Inbox::open(inbox).map_err(memory)
}

fn settle_input(session: &str, inbox: Inbox, desk: Option<&Desk>) -> Result<Inbox, SettleError> {
    let (written, expected) = (inbox.written(), inbox.expected());
    if expected > written {
        let staged = match desk {
            Some(desk) => queued(desk.held.input_reader.as_fd())? as u64,
            None => 0,
        };
        let Some(offset) = expected.checked_sub(staged).filter(|offset| *offset >= written) else {
            let session = session.to_owned();
            return Err(SettleError::Account { session, taken: written, expected, staged });
        };
        inbox.settle(offset);
    } else if inbox.fed_from().is_some() {
        // What was about to be moved is where it came from.
        inbox.settle(written);
    }
    Ok(inbox)
}
