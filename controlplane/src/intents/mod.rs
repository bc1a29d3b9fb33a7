//! Intents: what somebody is about to do, and everything that belongs to it, so that it can be stopped at once.
//!
//! ```text
//!   begin ─▶ Open ──end──────────────────────────▶ Over: ended
//!              └──cancel, deadline, disconnect─▶ Cancelling ─(all of it is gone)─▶ Over: cancelled
//!
//!   intent ──children──▶ intents      meta.intentId, or the caller's process ─▶ members: processes, calls, readers
//! ```
//!
//! Each intent is a named value of the log, written with the event that changed it: so it outlives its kernel, and so
//! does a cancel ([`keeping`]). Who belongs to what is in [`members`], how it is stopped in [`cancelling`].
//!
//! Invariants: a parent began before its child, so there are no circles; an intent that is over has nothing open under
//! it; what belongs to an intent or a story is in its list exactly as long as it is there.

pub mod keeping;

pub(crate) mod beginning;
pub(crate) mod cancelling;
pub(crate) mod gone;
pub(crate) mod members;
pub(crate) mod requests;

use crate::auth::principal::Creator;
use crate::entropy::{Keyed, KeyedMap};
use crate::intents::cancelling::{Cancel, Step};
use crate::intents::members::Member;
use crate::sessions::wards::Guardian;
use crate::state::{SerialMap, Trace};
use kairo_dataplane::key::{ConnectionKey, TimerKey};
use kairo_wire::event::IntentCancelled;
use kairo_wire::id::EventId;
use kairo_wire::methods::intent::{IntentOnDisconnect, IntentState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What of intents and stories that are over is remembered, counted in intents and in lines of receipts.
const REMEMBERED_MAX: usize = 16_384;

/// All of them.
#[derive(Debug)]
pub(crate) struct Intents {
    /// By serial.
    pub all: SerialMap<Box<Intent>>,
    /// By name.
    pub names: KeyedMap<Arc<str>, u64>,
    /// By the place of their begin.
    pub by_seq: BTreeMap<u64, u64>,
    /// What belongs to each intent, by its name.
    pub of_intent: KeyedMap<Box<str>, BTreeSet<Member>>,
    /// What belongs to each story.
    pub of_story: KeyedMap<Box<str>, BTreeSet<Member>>,
    /// What is being cancelled: intents by their own serial, stories by one of theirs.
    pub cancels: SerialMap<Box<Cancel>>,
    /// Stories that are being cancelled.
    pub stories: KeyedMap<Arc<str>, u64>,
    /// Receipts of stories, with the names of the events that began it.
    pub receipts: KeyedMap<Arc<str>, (EventId, Creator, Box<IntentCancelled>)>,
    /// What a cancel has still to look at, the last first.
    pub steps: Vec<Step>,
    /// Rings when it goes on with that.
    pub walker: Option<TimerKey>,
    /// Intents that wait for a client of a former kernel to come back.
    pub orphans: BTreeSet<(crate::digest::GuardianDigest, u64)>,
    /// Intents that are not over, by user.
    pub open: BTreeMap<u32, usize>,
    /// What is over and remembered, oldest first.
    pub over: VecDeque<Past>,
    /// How much that is.
    pub weight: usize,
}

/// Something that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// An intent.
    Intent(u64),
    /// A story that was cancelled.
    Story(Arc<str>),
}

impl Intents {
    /// None yet.
    pub(crate) fn new(keyed: Keyed) -> Intents {
        Intents {
            all: SerialMap::default(),
            names: KeyedMap::with_hasher(keyed),
            by_seq: BTreeMap::new(),
            of_intent: KeyedMap::with_hasher(keyed),
            of_story: KeyedMap::with_hasher(keyed),
            cancels: SerialMap::default(),
            stories: KeyedMap::with_hasher(keyed),
            receipts: KeyedMap::with_hasher(keyed),
            steps: Vec::new(),
            walker: None,
            orphans: BTreeSet::new(),
            open: BTreeMap::new(),
            over: VecDeque::new(),
            weight: 0,
        }
    }

    /// By name.
    pub(crate) fn named(&self, id: &str) -> Option<&Intent> {
        self.all.get(self.names.get(id)?).map(|intent| &**intent)
    }

    /// Puts one into its tables.
    pub(crate) fn insert(&mut self, intent: Intent) {
        let serial = intent.serial;
        self.names.insert(intent.id.as_str().into(), serial);
        self.by_seq.insert(intent.seq, serial);
        if let Some(parent) = intent.parent.and_then(|parent| self.all.get_mut(&parent)) {
            parent.family.insert(serial);
            if !intent.is_over() {
                parent.children.insert(serial);
            }
        }
        if intent.is_over() {
            self.remember(Past::Intent(serial), &intent.stage);
        } else {
            *self.open.entry(intent.creator.uid).or_default() += 1;
            let story = self.of_story.entry((*intent.correlation).into()).or_default();
            story.insert(Member::Intent(serial));
        }
        self.all.insert(serial, Box::new(intent));
    }

    fn remember(&mut self, past: Past, stage: &Stage) {
        self.weight += stage.weight();
        self.over.push_back(past);
    }

    /// One is over: it is under its parent no more, and remembered for a while.
    pub(crate) fn conclude(&mut self, serial: u64, stage: Stage) {
        let Some(intent) = self.all.get_mut(&serial) else { return };
        let weight = stage.weight();
        intent.stage = stage;
        let (parent, uid) = (intent.parent, intent.creator.uid);
        let correlation = Arc::clone(&intent.correlation);
        if let Some(parent) = parent.and_then(|parent| self.all.get_mut(&parent)) {
            parent.children.remove(&serial);
        }
        if let Some(open) = self.open.get_mut(&uid) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&uid);
            }
        }
        members::take(&mut self.of_story, &correlation, Member::Intent(serial));
        self.weight += weight;
        self.over.push_back(Past::Intent(serial));
    }

    /// Keeps the receipt of a story.
    pub(crate) fn keep_receipt(
        &mut self,
        story: Arc<str>,
        of: EventId,
        creator: Creator,
        receipt: Box<IntentCancelled>,
    ) -> Option<EventId> {
        self.weight += 1 + receipt.stopped.len();
        let former = self.receipts.insert(Arc::clone(&story), (of, creator, receipt));
        if let Some((_, _, former)) = &former {
            self.weight -= 1 + former.stopped.len();
            self.over.retain(|past| !matches!(past, Past::Story(of) if *of == story));
        }
        self.over.push_back(Past::Story(story));
        former.map(|(of, ..)| of)
    }

    /// Forgets the oldest of what is over, if there is too much of it. Returns the name of its value.
    pub(crate) fn forget_one(&mut self) -> Option<EventId> {
        if self.weight <= REMEMBERED_MAX {
            return None;
        }
        match self.over.pop_front()? {
            Past::Intent(serial) => {
                let intent = self.all.remove(&serial)?;
                self.weight -= intent.stage.weight();
                self.names.remove(intent.id.as_str());
                self.by_seq.remove(&intent.seq);
                if let Some(parent) = intent.parent.and_then(|parent| self.all.get_mut(&parent)) {
                    parent.family.remove(&serial);
                }
                for child in intent.family {
                    if let Some(child) = self.all.get_mut(&child) {
                        child.parent = None;
                    }
                }
                Some(intent.id)
            }
            Past::Story(story) => {
                let (of, _, receipt) = self.receipts.remove(&story)?;
                self.weight -= 1 + receipt.stopped.len();
                Some(of)
            }
        }
    }
}

/// One intent.
#[derive(Debug)]
pub(crate) struct Intent {
    /// Its name in the tables.
    pub serial: u64,
    /// That of the event of its begin.
    pub id: EventId,
    /// What is to be done.
    pub name: String,
    /// What was asked for.
    pub query: Option<String>,
    /// The intent it is part of, if that is remembered.
    pub parent: Option<u64>,
    /// Its name.
    pub parent_id: Option<EventId>,
    /// Intents above it.
    pub depth: usize,
    /// Intents directly under it that are not over.
    pub children: BTreeSet<u64>,
    /// All that are remembered.
    pub family: BTreeSet<u64>,
    /// Who began it.
    pub creator: Creator,
    /// The story it belongs to.
    pub correlation: Arc<str>,
    /// Of what happens in it.
    pub trace: Trace,
    /// The place of its begin.
    pub seq: u64,
    /// When that was, milliseconds since 1970.
    pub started_ms: u64,
    /// When it is cancelled, milliseconds since 1970, and what rings then.
    pub deadline: Option<(u64, Option<TimerKey>)>,
    /// What becomes of it when the connection ends that began it.
    pub on_disconnect: IntentOnDisconnect,
    /// That connection, if it matters.
    pub guardian: Option<Guardian>,
    /// Digest of what names it, for the next kernel.
    pub guardian_digest: Option<crate::digest::GuardianDigest>,
    /// It is to be ended as soon as nothing under it is open.
    pub left: bool,
    /// Who is told of its cancel, and how many milliseconds before.
    pub registered: BTreeMap<ConnectionKey, u64>,
    /// How far it has come.
    pub stage: Stage,
}

/// How far an intent has come.
#[derive(Debug)]
pub(crate) enum Stage {
    /// It has begun.
    Open,
    /// Its things are being stopped: it is in `cancels` under its serial.
    Cancelling,
    /// It was ended.
    Ended {
        /// When, milliseconds since 1970.
        at_ms: u64,
        /// The place of that event.
        seq: u64,
        /// From begin to end, milliseconds.
        duration_ms: u64,
        /// What it was ended with.
        error: Option<String>,
        /// In a sentence.
        summary: Option<String>,
    },
    /// It was cancelled.
    Cancelled {
        /// When all of it was gone, milliseconds since 1970.
        at_ms: u64,
        /// What was stopped.
        receipt: Box<IntentCancelled>,
    },
}

impl Stage {
    fn weight(&self) -> usize {
        match self {
            Stage::Open | Stage::Cancelling => 0,
            Stage::Ended { .. } => 1,
            Stage::Cancelled { receipt, .. } => 1 + receipt.stopped.len(),
        }
    }
}

impl Intent {
    /// Nothing of it is open any more.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Ended { .. } | Stage::Cancelled { .. })
    }

    /// As it is told.
    pub(crate) fn state(&self) -> IntentState {
        match self.stage {
            Stage::Open => IntentState::Open,
            Stage::Cancelling => IntentState::Cancelling,
            Stage::Ended { .. } => IntentState::Ended,
            Stage::Cancelled { .. } => IntentState::Cancelled,
        }
    }
}
