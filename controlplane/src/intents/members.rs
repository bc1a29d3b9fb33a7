//! What belongs to an intent, and to a story: processes, calls that wait, subscriptions.
//!
//! Both are lists by name, so that a cancel looks at nothing else. Invariant: a member is in the lists its own record
//! names, from when it is there until it is gone.

use crate::auth::grant::may_touch;
use crate::auth::principal::Creator;
use crate::calls::{Asking, Turn};
use crate::entropy::KeyedMap;
use crate::intents::{Intent, Stage};
use crate::kernel::Kernel;
use crate::state::{Process, StreamSubscription, Trace};
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::error::{Code, WireError};
use std::collections::BTreeSet;

/// Something that belongs to an intent or a story. Intents are only in stories: under each other they are its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Member {
    /// By serial.
    Intent(u64),
    /// By serial.
    Process(u64),
    /// By ticket.
    Call(u64),
    /// A reader, by serial.
    Stream(u64),
    /// A receiver of events, by serial.
    Topic(u64),
    /// A way into a stdin, by the serial of the process.
    Inlet(u64),
}

impl Member {
    /// The number it is known by.
    pub(crate) fn serial(self) -> u64 {
        let (Member::Intent(of)
        | Member::Process(of)
        | Member::Call(of)
        | Member::Stream(of)
        | Member::Topic(of)
        | Member::Inlet(of)) = self;
        of
    }
}

/// To what something belongs that is no process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Under {
    /// The intent.
    pub intent: Option<Box<str>>,
    /// The story.
    pub story: Option<Box<str>>,
}

impl Under {
    fn of(trace: &Trace) -> Option<Box<Under>> {
        Under::named(trace.intent.as_deref(), trace.correlation.as_deref())
    }

    /// By their names, if there are any.
    pub(crate) fn named<T: Into<Box<str>>>(intent: Option<T>, story: Option<T>) -> Option<Box<Under>> {
        let under = Under { intent: intent.map(Into::into), story: story.map(Into::into) };
        (under.intent.is_some() || under.story.is_some()).then(|| Box::new(under))
    }
}

impl Process {
    /// It is there, or will be again.
    pub(crate) fn is_member(&self) -> bool {
        !self.tree_gone || self.awaits_another()
    }
}

/// Takes something out of a list, and the list away when it is empty.
pub(crate) fn take(lists: &mut KeyedMap<Box<str>, BTreeSet<Member>>, name: &str, member: Member) {
    if let Some(list) = lists.get_mut(name) {
        list.remove(&member);
        if list.is_empty() {
            lists.remove(name);
        }
    }
}

impl Kernel {
    /// To what a call belongs, and what it begins.
    pub(crate) fn under(&self, asking: &Asking<'_>) -> Option<Box<Under>> {
        if asking.trace.principal.is_some() {
            return Under::of(&asking.trace);
        }
        let of_process =
            self.state.connections.get(asking.connection).is_some_and(|peer| peer.life.is_some());
        if asking.meta.is_none() && !of_process {
            return None;
        }
        Under::of(&self.trace_of(asking.connection, asking.meta.as_ref()))
    }

    /// Puts something into the lists it belongs to.
    pub(crate) fn enroll(&mut self, member: Member, intent: Option<&str>, story: Option<&str>) {
        let intents = &mut self.state.intents;
        for (lists, name) in [(&mut intents.of_intent, intent), (&mut intents.of_story, story)] {
            let Some(name) = name else { continue };
            match lists.get_mut(name) {
                Some(list) => drop(list.insert(member)),
                None => drop(lists.insert(name.into(), BTreeSet::from([member]))),
            }
        }
    }

    /// The same for what keeps its place itself.
    pub(crate) fn enroll_under(&mut self, member: Member, under: Option<&Under>) {
        if let Some(under) = under {
            self.enroll(member, under.intent.as_deref(), under.story.as_deref());
        }
    }

    /// A process is there.
    pub(crate) fn enroll_process(&mut self, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let (intent, story) = (process.trace.intent.clone(), process.trace.correlation.clone());
        self.enroll(Member::Process(serial), intent.as_deref(), story.as_deref());
        self.bill_process(serial);
    }

    /// Something is gone: whoever cancels it may be through.
    pub(crate) fn strike(&mut self, turn: &mut Turn<'_>, member: Member, under: Option<&Under>) {
        let Some(under) = under else { return };
        let intents = &mut self.state.intents;
        if let Some(intent) = &under.intent {
            take(&mut intents.of_intent, intent, member);
        }
        if let Some(story) = &under.story {
            take(&mut intents.of_story, story, member);
        }
        self.member_gone(turn, member, under.intent.as_deref(), under.story.as_deref());
    }

    /// A process may be gone, and not come again.
    pub(crate) fn strike_process(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        if process.is_member() {
            return;
        }
        self.strike_record(turn, serial);
    }

    /// A process is to be forgotten.
    pub(crate) fn strike_record(&mut self, turn: &mut Turn<'_>, serial: u64) {
        let Some(process) = self.state.processes.get(&serial) else { return };
        let name = process.trace.intent.as_deref().or(process.trace.correlation.as_deref());
        let lists = match process.trace.intent {
            Some(_) => &self.state.intents.of_intent,
            None => &self.state.intents.of_story,
        };
        let listed =
            name.and_then(|name| lists.get(name)).is_some_and(|list| list.contains(&Member::Process(serial)));
        if listed {
            let under = Under::of(&process.trace);
            self.strike(turn, Member::Process(serial), under.as_deref());
        }
    }

    /// Whose a reader is.
    pub(crate) fn reader_of(&self, stream: &StreamSubscription) -> Creator {
        let principal = match &stream.outlives {
            Some(of) => &of.principal,
            None => self.principal(stream.connection),
        };
        principal.creator(self.config.owner_uid)
    }

    /// The intent a caller's own process belongs to.
    fn inherited(&self, connection: ConnectionKey) -> Option<&str> {
        let life = self.state.connections.get(connection)?.life.as_deref()?;
        self.of_life(life)?.trace.intent.as_deref()
    }

    /// An intent the caller names in `field`, if it may work under it: its own, or the one its process belongs to.
    pub(crate) fn own_intent(
        &self,
        connection: ConnectionKey,
        method: &str,
        field: &'static str,
        id: &str,
    ) -> Result<&Intent, WireError> {
        let Some(intent) = self.state.intents.named(id) else { return Err(no_intent(field, id)) };
        if may_touch(self.principal(connection), &intent.creator) || self.inherited(connection) == Some(id) {
            return Ok(intent);
        }
        Err(denied(method, field, id))
    }

    /// Whether something can be part of the intent `meta` names.
    pub(crate) fn may_belong(&self, asking: &Asking<'_>, id: &str) -> Result<(), WireError> {
        self.may_be_under(asking.connection, asking.method, "meta.intentId", id)
    }

    /// The same of the one that is named in `field`.
    pub(crate) fn may_be_under(
        &self,
        connection: ConnectionKey,
        method: &str,
        field: &'static str,
        id: &str,
    ) -> Result<(), WireError> {
        match self.own_intent(connection, method, field, id)?.stage {
            Stage::Open | Stage::Cancelling => Ok(()),
            Stage::Ended { .. } => Err(over(field, id, "is ended")),
            Stage::Cancelled { .. } => Err(over(field, id, "is cancelled")),
        }
    }

    /// Whether anything new can begin under an intent: nothing that would have to be stopped at once.
    pub(crate) fn may_begin_under(&self, intent: Option<&str>) -> Result<(), WireError> {
        let Some(id) = intent else { return Ok(()) };
        let mut next = self.state.intents.named(id);
        while let Some(intent) = next {
            if matches!(intent.stage, Stage::Cancelling | Stage::Cancelled { .. }) {
                let message = format!("intent {id} is being cancelled, or was");
                return Err(WireError::new(Code::Cancelled, message).with("intentId", id));
            }
            next =
                intent.parent.and_then(|parent| self.state.intents.all.get(&parent)).map(|intent| &**intent);
        }
        Ok(())
    }

    /// The same of what a call would begin.
    pub(crate) fn may_begin(&self, under: Option<&Under>) -> Result<(), WireError> {
        self.may_begin_under(under.and_then(|under| under.intent.as_deref()))
    }
}

/// No intent of this name that the caller may know of.
pub(crate) fn no_intent(field: &'static str, id: &str) -> WireError {
    let id: String = id.chars().take(64).collect();
    WireError::new(Code::NotFound, format!("{field}: there is no intent {id}"))
        .with("field", field)
        .with("intentId", id)
}

/// Somebody else's.
pub(crate) fn denied(method: &str, field: &'static str, id: &str) -> WireError {
    WireError::denied(method, &format!("intent {id} is somebody else's")).with("field", field).with("id", id)
}

/// It is over.
pub(crate) fn over(field: &'static str, id: &str, what: &str) -> WireError {
    WireError::new(Code::Conflict, format!("{field}: intent {id} {what}"))
        .with("field", field)
        .with("intentId", id)
}
