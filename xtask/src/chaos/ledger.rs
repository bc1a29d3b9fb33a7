//! What the log of a state says, read after each round and remembered for the next.
//!
//! Whatever died when: places rise without a hole, causes come before what follows from them, of each life each thing is
//! told once, and what was acknowledged to a publisher is there, once.

use super::check::Wrong;
use super::line::Caller;
use super::stage::{Acked, GLANCE, Sabotage, Stage};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the log may take to have what was told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Events that publishers numbered, and where they are.
type Published = BTreeMap<(String, u64), Vec<Acked>>;

/// An event, as far as it is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    id: String,
    topic: String,
    cause: Option<String>,
    pub(crate) data: Json,
}

impl Event {
    /// None if it has no place.
    pub(crate) fn of(frame: &Json) -> Option<Event> {
        let text = |name: &str| frame[name].as_str().map(str::to_owned);
        Some(Event {
            seq: frame["seq"].as_u64().filter(|seq| *seq > 0)?,
            id: text("id").unwrap_or_default(),
            topic: text("topic").unwrap_or_default(),
            cause: text("causationId"),
            data: frame["payload"].clone(),
        })
    }
}

/// Reads events from this place to the end.
pub(crate) fn pages(
    stage: &Stage,
    from: u64,
    topic: Option<&str>,
    mut each: impl FnMut(Event) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let mut caller = Caller::new(stage);
    let mut next = Some(from);
    while let Some(from) = next {
        stage.check()?;
        let mut params = json!({"fromSeq": from});
        if let Some(topic) = topic {
            params["types"] = json!([topic]);
        }
        let page = caller.must("event.replay", &params)?;
        let gaps = page["gaps"].as_array().map_or(0, Vec::len);
        if gaps > 0 {
            return Err(format!("the log has gaps: {}", page["gaps"]));
        }
        for event in page["events"].as_array().into_iter().flatten().filter_map(Event::of) {
            each(event)?;
        }
        next = page["next"].as_u64();
    }
    Ok(())
}

/// What the log has said so far.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    last: u64,
    ids: BTreeSet<String>,
    /// Of each life what was told.
    lives: BTreeMap<String, BTreeSet<String>>,
}

impl Ledger {
    /// Reads on, and compares with what publishers were told. Of who has just ended the log may not say so yet.
    pub(crate) fn go_on(&mut self, stage: &Stage) -> Result<(), Wrong> {
        let mut published = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read_on(stage, &mut published)?;
            match self.check_lives() {
                Ok(()) => return check_published(stage, &published),
                Err(wrong) if Instant::now() > deadline => return Err(wrong),
                Err(_) => std::thread::sleep(GLANCE),
            }
        }
    }

    fn read_on(&mut self, stage: &Stage, published: &mut Published) -> Result<(), Wrong> {
        pages(stage, self.last + 1, None, |event| {
            if stage.sabotages(Sabotage::Hole) {
                return Ok(());
            }
            if let Some((who, number)) = event.data["who"].as_str().zip(event.data["n"].as_u64()) {
                let acked = Acked { seq: event.seq, id: event.id.clone() };
                published.entry((who.to_owned(), number)).or_default().push(acked);
            }
            self.take(stage, event)
        })
    }

    fn take(&mut self, stage: &Stage, event: Event) -> Result<(), Wrong> {
        if event.seq != self.last + 1 {
            return Err(format!("behind place {} comes {}", self.last, event.seq));
        }
        self.last = event.seq;
        if let Some(cause) = event.cause.as_ref().filter(|cause| !self.ids.contains(*cause)) {
            return Err(format!("nothing called {cause} comes before what followed from it: {event:?}"));
        }
        if event.topic == LOST {
            return Err(format!("a process is lost: {event:?}"));
        }
        let tells = [
            "kairo.process.spawned",
            "kairo.process.exited",
            "kairo.process.ended",
            "kairo.stream.closed",
            LOST,
        ];
        let is_told = tells.contains(&&*event.topic)
            && !(event.topic == "kairo.process.ended" && stage.sabotages(Sabotage::Untold));
        if let Some(session) = event.data["session"].as_str().filter(|_| is_told) {
            let what = format!("{} {}", event.topic, event.data["stream"].as_str().unwrap_or_default());
            let told = self.lives.entry(session.to_owned()).or_default();
            if !told.insert(what.clone()) {
                return Err(format!("of {session} {what} is told twice: {event:?}"));
            }
        }
        if !self.ids.insert(event.id.clone()) {
            return Err(format!("an event is there twice: {event:?}"));
        }
        Ok(())
    }

    /// Everybody has ended: of every life it is told how, of one that another followed too.
    fn check_lives(&self) -> Result<(), Wrong> {
        for (session, told) in &self.lives {
            let is_told = |what: &str| told.iter().any(|one| one.starts_with(what));
            let all = [
                "kairo.process.spawned",
                "kairo.process.exited",
                "kairo.process.ended",
                "kairo.stream.closed",
            ];
            if let Some(missing) = all.iter().find(|what| !is_told(what)) {
                return Err(format!("of {session} the log says {told:?}, and no {missing}"));
            }
        }
        Ok(())
    }
}

/// What the log would say of a life that ended with its kernel.
const LOST: &str = "kairo.process.lost";

/// What was published is there once, and all that was acknowledged.
fn check_published(stage: &Stage, published: &Published) -> Result<(), Wrong> {
    if let Some((what, places)) = published.iter().find(|(_, places)| places.len() > 1) {
        return Err(format!("{what:?} was published once and is there {places:?}"));
    }
    for (what, acked) in stage.all_acked() {
        if published.get(&what).is_none_or(|places| places[..] != [acked.clone()]) {
            let found = published.get(&what);
            return Err(format!("{what:?} was acknowledged as {acked:?}, and the log has {found:?}"));
        }
    }
    Ok(())
}
