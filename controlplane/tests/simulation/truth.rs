//! What was promised to whom, and whether the log keeps it.

use crate::machine::{Crash, Machine};
use kairo_controlplane::events::log::{Gap, PageLimit, Query, Reader};
use kairo_controlplane::events::record::Record;
use kairo_wire::codec::raw::RawRef;
use kairo_wire::id::EventId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// How long something lasts that was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// As long as kernels end in order.
    Memory,
    /// As long as there is power.
    Log,
    /// For ever.
    Disk,
}

impl Hold {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Hold::Memory => "memory",
            Hold::Log => "log",
            Hold::Disk => "disk",
        }
    }

    /// Whether it survives the end of a life.
    pub(crate) fn survives(self, crash: Crash) -> bool {
        match crash {
            Crash::Stopped => true,
            Crash::Killed => self >= Hold::Log,
            Crash::PowerFailed => self == Hold::Disk,
        }
    }
}

/// An event of the log, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) seq: u64,
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) causation: Option<String>,
    pub(crate) data: Vec<u8>,
}

impl Told {
    pub(crate) fn of(record: &Record<'_>) -> Told {
        Told {
            seq: record.seq,
            id: EventId::from_bytes(record.id).as_str().to_owned(),
            topic: record.topic.clone().into_owned(),
            causation: record.causation.clone().map(std::borrow::Cow::into_owned),
            data: record.data.bytes().to_vec(),
        }
    }

    /// The number of a draft, if a client of ours published it.
    pub(crate) fn number(&self) -> Option<u64> {
        value(RawRef::new(&self.data).ok()?).get("n").and_then(Value::as_u64)
    }
}

pub(crate) fn value(raw: RawRef<'_>) -> Value {
    kairo_wire::json::to_value(raw).expect("a value JSON can hold")
}

/// All that is in the log, and what isn't.
pub(crate) fn everything(reader: &Reader) -> (Vec<Told>, Vec<Gap>) {
    let (mut all, mut gaps) = (Vec::new(), Vec::new());
    let mut next = Some(1);
    while let Some(at) = next {
        let limit = PageLimit { events: 100, bytes: 1 << 20, looked_at: 1_000 };
        let page = reader.scan(&Query::default(), Some(at), limit).expect("the log is read");
        for (seq, record) in &page.events {
            all.push(Told::of(&Record::parse(*seq, record).expect("a record")));
        }
        gaps.extend(page.gaps);
        next = page.next;
    }
    (all, gaps)
}

/// What the world knows.
#[derive(Default)]
pub(crate) struct Truth {
    /// What was told or acknowledged, by place.
    told: BTreeMap<u64, (String, Hold)>,
    /// Of these, what a power failure took.
    gone: BTreeSet<u64>,
    /// Done, as a consumer was told.
    acked: BTreeMap<u64, Hold>,
    /// Intents that are over, as whoever ended them was told.
    over: BTreeMap<String, Hold>,
}

impl Truth {
    /// Somebody was told of an event.
    pub(crate) fn tell(&mut self, seq: u64, id: &str, hold: Hold) {
        let (known, held) = self.told.entry(seq).or_insert_with(|| (id.to_owned(), hold));
        assert!(*known == id, "place {seq} is that of {known}, and of {id}");
        *held = hold.max(*held);
    }

    pub(crate) fn ack(&mut self, seq: u64) {
        self.acked.entry(seq).or_insert(Hold::Log);
    }

    pub(crate) fn is_acked(&self, seq: u64) -> bool {
        self.acked.contains_key(&seq)
    }

    pub(crate) fn end(&mut self, intent: &str) {
        self.over.entry(intent.to_owned()).or_insert(Hold::Log);
    }

    pub(crate) fn is_gone(&self, seq: u64) -> bool {
        self.gone.contains(&seq)
    }

    /// A client says a thing again whatever became of its cause.
    fn is_lost(&self, id: &str) -> bool {
        self.gone.iter().any(|seq| self.told.get(seq).is_some_and(|(of, _)| of == id))
    }

    /// Something that can be named as a cause: an event somebody was told of.
    pub(crate) fn some_id(&self, chance: u64) -> Option<String> {
        let at = chance % (self.told.len() as u64).max(1);
        let (seq, (id, _)) = self.told.iter().nth(at as usize)?;
        (!self.gone.contains(seq)).then(|| id.clone())
    }

    /// The disk has all of it.
    pub(crate) fn synced(&mut self) {
        let all = self.told.values_mut().map(|(_, hold)| hold);
        for hold in all.chain(self.acked.values_mut()).chain(self.over.values_mut()) {
            *hold = Hold::Disk;
        }
    }

    /// A life is over and another kernel stands over what is left.
    pub(crate) fn survive(&mut self, crash: Crash, machine: &Machine) -> Vec<Told> {
        self.acked.retain(|_, hold| hold.survives(crash));
        self.over.retain(|_, hold| hold.survives(crash));
        let all = self.check(&machine.reader);
        let there: BTreeSet<u64> = all.iter().map(|event| event.seq).collect();
        for (seq, (id, hold)) in &self.told {
            if there.contains(seq) || self.gone.contains(seq) {
                continue;
            }
            assert!(!hold.survives(crash), "{crash:?}: {id} at {seq} was promised to last ({hold:?})");
            self.gone.insert(*seq);
        }
        let last = self.told.keys().next_back().copied().unwrap_or_default();
        let end = machine.reader.last_seq().expect("the log is read");
        assert!(end >= last, "the log goes on behind {end}, and {last} was given to somebody");
        all
    }

    /// What holds of a log at any time.
    pub(crate) fn check(&self, reader: &Reader) -> Vec<Told> {
        let (all, gaps) = everything(reader);
        let (mut ids, mut numbers) = (BTreeMap::new(), BTreeSet::new());
        let mut last = 0;
        for event in &all {
            assert!(event.seq > last, "{} comes behind {last}", event.seq);
            for missing in last + 1..event.seq {
                let is_named = gaps.iter().any(|gap| gap.from <= missing && missing <= gap.to);
                assert!(is_named, "nobody says why {missing} is missing");
                if let Some(gap) = gaps.iter().find(|gap| gap.from <= missing && gap.to >= event.seq - 1) {
                    assert!(gap.to < u64::MAX);
                    break;
                }
            }
            last = event.seq;
            if let Some(cause) = event.causation.as_ref().filter(|cause| !self.is_lost(cause)) {
                assert!(ids.contains_key(cause), "{} at {last} comes before its cause {cause}", event.id);
            }
            assert!(ids.insert(event.id.clone(), last).is_none(), "{} is there twice", event.id);
            let is_new = event.number().is_none_or(|number| numbers.insert(number));
            assert!(is_new, "what was published once is there twice: {event:?}");
            if let Some((id, _)) = self.told.get(&event.seq) {
                assert!(*id == event.id, "place {last} is given to {} and was that of {id}", event.id);
            }
        }
        all
    }

    /// Intents are open that have begun and not ended, as the log has it.
    pub(crate) fn check_intents(&self, listed: &BTreeSet<String>, all: &[Told]) {
        let mut open = BTreeSet::new();
        for event in all {
            let data = RawRef::new(&event.data).map(value).unwrap_or_default();
            let intent = data["intentId"].as_str().unwrap_or_default().to_owned();
            match event.topic.as_str() {
                "kairo.intent.started" => open.insert(intent),
                "kairo.intent.ended" | "kairo.intent.cancelled" | "kairo.intent.cancelling" => {
                    open.remove(&intent)
                }
                _ => false,
            };
        }
        assert_eq!(*listed, open, "open are those whose end is not in the log");
        for intent in self.over.keys() {
            assert!(!listed.contains(intent), "{intent} is over, as was said");
        }
    }
}
