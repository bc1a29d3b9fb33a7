//! What waits for a decision: how much of it, of whom, and until when.
//!
//! Invariant: whoever asks takes no room that is somebody else's: programs fill three quarters of what there is at most, each of
//! them its own share, and nothing waits longer than its time.

use crate::auth::subject::Party;
use crate::calls::Turn;
use crate::clock::wall_ms;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::permissions::grants::{Id, Index};
use crate::permissions::{Clause, Request};
use crate::state::{Timer, Trace};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::PermissionExpired;
use kairo_wire::methods::permission::ManifestProgram;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests that may wait: of all, and of one who asks or is asked for.
pub(crate) const PENDING_MAX: usize = 1_024;
pub(crate) const PENDING_OF_ONE_MAX: usize = 64;
/// The same in bytes of what they say. All of them fit in one answer of `permission.pending`.
pub(crate) const PENDING_BYTES_MAX: usize = 8 << 20;
pub(crate) const PENDING_BYTES_OF_ONE_MAX: usize = 1 << 20;

/// The process that asked, and whatever of it has asked and is still connected.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub life: Arc<str>,
    pub connections: BTreeSet<ConnectionKey>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    all: BTreeMap<Id, Request>,
    of_party: Index<Party>,
    of_life: Index<Arc<str>>,
    due: BTreeSet<(u64, Id)>,
}

/// What some of them take.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    count: usize,
    bytes: usize,
}

impl Share {
    fn and(self, bytes: usize) -> Share {
        Share { count: self.count + 1, bytes: self.bytes + bytes }
    }

    /// What doesn't fit, if something doesn't.
    fn over(self, count: usize, bytes: usize) -> Option<&'static str> {
        match self {
            one if one.count > count => Some("requestsPendingMax"),
            one if one.bytes > bytes => Some("requestBytesMax"),
            _ => None,
        }
    }
}

impl Request {
    /// What it takes, bytes: the text of its manifest, what that says once more in words of ours, and its programs.
    fn weighed(&self) -> usize {
        let text = self.declared.as_deref().map_or(0, |declared| declared.text.len());
        let of = |clause: &Clause| {
            let resource = clause.resource.as_deref().map_or(0, str::len);
            size_of::<Clause>() + resource + clause.purpose.as_deref().map_or(0, str::len)
        };
        let newly = self.news.newly.iter().flatten().map(String::len).sum::<usize>();
        let named = self.declared.iter().flat_map(|declared| &declared.summary.programs);
        let path = |program: &ManifestProgram| size_of::<ManifestProgram>() + program.path.as_bytes().len();
        let programs = named.chain(&self.news.changed).map(path).sum::<usize>();
        size_of::<Request>() + text + newly + programs + self.rules.iter().map(of).sum::<usize>()
    }
}

impl Requests {
    /// One.
    pub(crate) fn get(&self, id: &str) -> Option<&Request> {
        self.all.get(id)
    }

    /// The calls that wait for one, to change.
    pub(crate) fn waiting(&mut self, id: &str) -> Option<&mut Vec<u64>> {
        self.all.get_mut(id).map(|request| &mut request.waiting)
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Id, &Request)> {
        self.all.iter()
    }

    /// Those for a party.
    pub(crate) fn of_party<'a>(&'a self, party: &Party) -> impl Iterator<Item = (&'a Id, &'a Request)> {
        self.of_party.of(party).filter_map(|id| self.all.get(id).map(|request| (id, request)))
    }

    /// The one by which the same was asked for before.
    pub(crate) fn like(&self, request: &Request) -> Option<Id> {
        let mut others = self.of_party(&request.party);
        others.find(|(_, other)| other.is_like(request)).map(|(id, _)| Arc::clone(id))
    }

    /// Adds one.
    fn insert(&mut self, id: Id, request: Request) {
        self.of_party.put(&request.party, &id);
        request.asker.iter().for_each(|asker| self.of_life.put(&asker.life, &id));
        self.due.insert((request.until_ms, Arc::clone(&id)));
        self.all.insert(id, request);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Request> {
        let (id, request) = self.all.remove_entry(id)?;
        self.of_party.take(&request.party, &id);
        request.asker.iter().for_each(|asker| self.of_life.take(&asker.life, &id));
        self.due.remove(&(request.until_ms, id));
        Some(request)
    }

    /// What it would be one too many of, if it was.
    fn lacks_room_for(&self, request: &Request, owner: bool) -> Option<&'static str> {
        let bytes = request.bytes;
        let (mut all, mut programs, mut own) = (Share::default(), Share::default(), Share::default());
        for other in self.all.values() {
            let takes = other.bytes;
            all = all.and(takes);
            // What programs ask for takes none of the room of people, not even under the same name.
            if other.by_program == request.by_program {
                let same = other.party == request.party || (!owner && other.by == request.by);
                own = if same { own.and(takes) } else { own };
            }
            programs = if other.by_program { programs.and(takes) } else { programs };
        }
        let of_programs = || match request.by_program {
            true => programs.and(bytes).over(PENDING_MAX / 4 * 3, PENDING_BYTES_MAX / 4 * 3),
            false => None,
        };
        let of_all = || all.and(bytes).over(PENDING_MAX, PENDING_BYTES_MAX);
        own.and(bytes).over(PENDING_OF_ONE_MAX, PENDING_BYTES_OF_ONE_MAX).or_else(of_programs).or_else(of_all)
    }

    /// Whether the indexes are as the table is.
    pub(crate) fn is_whole(&self) -> bool {
        let of_children = self.all.values().filter(|request| request.asker.is_some()).count();
        [self.of_party.count(), self.due.len()] == [self.all.len(); 2] && self.of_life.count() == of_children
    }
}

impl Kernel {
    /// Has a request wait, if there is room for it.
    pub(crate) fn keep_request(
        &mut self,
        turn: &mut Turn<'_>,
        id: &Id,
        mut request: Request,
        owner: bool,
    ) -> Result<(), WireError> {
        request.bytes = request.weighed();
        if let Some(limit) = self.permissions.requests.lacks_room_for(&request, owner) {
            let message = format!(
                "{PENDING_OF_ONE_MAX} requests of one principal, {PENDING_MAX} of all and three quarters of that of \
                 programs wait to be decided at most, with 1 MiB and 8 MiB of text"
            );
            return Err(WireError::new(Code::Busy, message).with("limit", limit));
        }
        self.permissions.requests.insert(Arc::clone(id), request);
        self.await_requests(turn);
        Ok(())
    }

    /// The same is asked for by another connection of its process.
    pub(crate) fn ask_also(&mut self, id: &str, connection: ConnectionKey) {
        let asker = self.permissions.requests.all.get_mut(id).and_then(|request| request.asker.as_mut());
        if let Some(asker) = asker {
            asker.connections.insert(connection);
        }
    }

    /// A process is over, or a connection of one is closed: what it asked for waits a while yet once both are.
    pub(crate) fn asker_gone(&mut self, turn: &mut Turn<'_>, life: &str, connection: Option<ConnectionKey>) {
        let over = self.of_life(life).is_none_or(|process| process.tree_gone);
        let until_ms = wall_ms(turn.at).saturating_add(self.config.limits.request_left_ms);
        let requests = &mut self.permissions.requests;
        let ids: Vec<Id> = requests.of_life.of(life).cloned().collect();
        for id in ids {
            let Some(request) = requests.all.get_mut(&id) else { continue };
            let Some(asker) = request.asker.as_mut() else { continue };
            if let Some(connection) = connection {
                asker.connections.remove(&connection);
            }
            if over && asker.connections.is_empty() && until_ms < request.until_ms {
                requests.due.remove(&(request.until_ms, Arc::clone(&id)));
                request.until_ms = until_ms;
                requests.due.insert((until_ms, id));
            }
        }
        self.await_requests(turn);
    }

    /// The next request has had its time.
    pub(crate) fn requests_rang(&mut self, turn: &mut Turn<'_>) {
        self.permissions.patience = None;
        let now_ms = wall_ms(turn.at);
        let due = self.permissions.requests.due.iter();
        let due: Vec<Id> =
            due.take_while(|(at_ms, _)| *at_ms <= now_ms).map(|(_, id)| Arc::clone(id)).collect();
        for id in due {
            let Some(request) = self.permissions.requests.remove(&id) else { continue };
            let event = PermissionExpired { request: request.told(&id) };
            self.publish(turn, Audience::Administration(request.party.uid), &Trace::default(), &event);
            self.answer_denied(turn, &id, request, None, Some("nobody has decided it in time"));
        }
        self.await_requests(turn);
    }

    /// Arms the timer of the next request that has waited enough.
    pub(crate) fn await_requests(&mut self, turn: &mut Turn<'_>) {
        let next = self.permissions.requests.due.first().map(|(at_ms, _)| *at_ms);
        self.permissions.patience = self.ring_at(turn, self.permissions.patience, next, Timer::Requests);
    }
}
