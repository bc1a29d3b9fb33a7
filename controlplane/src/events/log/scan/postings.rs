//! Which sequence numbers to look at: all those that may match, found with whatever index helps.
//!
//! Every part of a query that an index knows is a group of lists; the candidates are the numbers that are in each group.
//! A lagging index says nothing behind its watermark, so there every number is a candidate. An index that can't be read
//! is done without. Invariant: no event that matches is left out.

use super::query::{Query, Types};
use crate::events::log::backend::{Fault, Rows, Space, View};
use crate::events::log::index::Times;
use crate::events::log::keys::{self, BLOCK, Room};
use bytes::Bytes;

/// Types that are looked for one by one; when a pattern has more, the events are looked through.
const TYPES_MAX: usize = 48;

/// Keys of a list that are stepped over rather than looked for anew: a block has hundreds.
const NEAR: u64 = 256;

/// The numbers to look at.
pub(super) struct Candidates<'a> {
    groups: Vec<Group<'a>>,
    times: Option<Blocks<'a>>,
    span: Span,
}

/// The range that is walked, and which way.
#[derive(Clone, Copy)]
struct Span {
    from: u64,
    to: u64,
    backward: bool,
}

impl Span {
    /// True if `seq` is not reached yet at `at`.
    fn is_before(self, seq: u64, at: u64) -> bool {
        if self.backward { seq > at } else { seq < at }
    }

    fn rest(self, at: u64) -> Span {
        if self.backward {
            Span { to: self.to.min(at), ..self }
        } else {
            Span { from: self.from.max(at), ..self }
        }
    }
}

/// Numbers that are in any of the lists.
struct Group<'a> {
    lists: Vec<List<'a>>,
    /// The lists are complete up to here.
    complete_to: u64,
}

/// Numbers under one prefix.
struct List<'a> {
    view: &'a dyn View,
    space: Space,
    /// The key of number 0.
    key: Bytes,
    rows: Option<Rows<'a>>,
    head: Option<u64>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(
        view: &'a dyn View,
        query: &Query,
        (from, to): (u64, u64),
        indexed_to: u64,
    ) -> Result<Candidates<'a>, Fault> {
        let span = Span { from, to, backward: query.backward };
        let mut groups = Vec::new();
        let mut add = |space: Space, keys: Vec<Bytes>, complete_to: u64| {
            let lists =
                keys.into_iter().map(|key| List { view, space, key, rows: None, head: None }).collect();
            groups.push(Group { lists, complete_to });
        };
        let under = |room: Room, text: &String| keys::indexed(room, text, 0);
        if let Some(text) = &query.correlation {
            add(Space::Index, vec![under(Room::Correlation, text)], indexed_to);
        }
        if let Some(text) = &query.intent {
            let texts = std::iter::once(text).chain(&query.or_intents);
            add(Space::Index, texts.map(|text| under(Room::Intent, text)).collect(), indexed_to);
        }
        if !query.sources.is_empty() && query.sources.len() <= TYPES_MAX {
            let keys = query.sources.iter().map(|text| under(Room::Source, text)).collect();
            add(Space::Index, keys, indexed_to);
        }
        if let Some(topics) = topics(view, &query.types)? {
            add(Space::Types, topics.iter().map(|topic| keys::typed(topic, 0)).collect(), u64::MAX);
        }
        // Blocks of which the index says everything.
        let whole = (indexed_to + 1) / BLOCK;
        let times = query.is_timed().then(|| Blocks::new(view, (query.from_ms, query.to_ms), whole));
        Ok(Candidates { groups, times, span })
    }

    /// The next one at `at` or beyond it.
    pub(super) fn next(&mut self, at: u64) -> Result<Option<u64>, Fault> {
        let span = self.span;
        let mut at = at;
        // Until all agree.
        loop {
            let begun = at;
            if let Some(times) = &mut self.times {
                match times.next(at, span) {
                    Ok(Some(next)) => at = next,
                    Ok(None) => return Ok(None),
                    Err(fault) if fault.is_damage() => self.times = None,
                    Err(fault) => return Err(fault),
                }
            }
            let mut unreadable = None;
            for (index, group) in self.groups.iter_mut().enumerate() {
                match group.next(at, span) {
                    Ok(Some(next)) => at = next,
                    Ok(None) => return Ok(None),
                    Err(fault) if fault.is_damage() => {
                        unreadable = Some(index);
                        break;
                    }
                    Err(fault) => return Err(fault),
                }
            }
            if let Some(index) = unreadable {
                self.groups.remove(index);
            }
            if at == begun {
                return Ok((span.from..=span.to).contains(&at).then_some(at));
            }
        }
    }
}

impl Group<'_> {
    fn next(&mut self, at: u64, span: Span) -> Result<Option<u64>, Fault> {
        if at > self.complete_to {
            return Ok(Some(at));
        }
        let mut next: Option<u64> = None;
        for list in &mut self.lists {
            let Some(seq) = list.next(at, span)? else { continue };
            next = Some(next.map_or(seq, |next| if span.backward { next.max(seq) } else { next.min(seq) }));
        }
        if span.backward {
            return Ok(next);
        }
        // Behind the watermark every number may be one.
        let tail = self.complete_to.checked_add(1).filter(|tail| *tail <= span.to);
        Ok(next.filter(|next| *next <= self.complete_to).or(tail))
    }
}

impl List<'_> {
    fn next(&mut self, at: u64, span: Span) -> Result<Option<u64>, Fault> {
        let mut steps = 0;
        while self.head.is_none_or(|head| span.is_before(head, at)) {
            if steps == NEAR {
                self.rows = None;
                steps = 0;
            }
            steps += 1;
            let rows = match &mut self.rows {
                Some(rows) => rows,
                None => {
                    let rest = span.rest(at);
                    let key = |seq: u64| [&self.key[..self.key.len() - 8], &seq.to_be_bytes()].concat();
                    let rows = self.view.rows(
                        self.space,
                        &key(rest.from),
                        &key(rest.to.saturating_add(1)),
                        span.backward,
                    );
                    self.rows.insert(rows)
                }
            };
            match rows.next() {
                Some(row) => self.head = keys::number(&row?.0),
                None => {
                    // Once at its end it stays there.
                    self.rows = Some(Box::new(std::iter::empty()));
                    self.head = None;
                    return Ok(None);
                }
            }
        }
        Ok(self.head)
    }
}

/// The topics that `types` mean, if they are few enough to be looked for one by one.
fn topics(view: &dyn View, types: &[Types]) -> Result<Option<Vec<String>>, Fault> {
    if types.is_empty() {
        return Ok(None);
    }
    let (mut topics, mut looks) = (Vec::new(), TYPES_MAX);
    for one in types {
        match one {
            Types::Exact(topic) => topics.push(topic.clone()),
            Types::Matching { prefix, .. } => match found(view, prefix, one, &mut looks, &mut topics) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(fault) if fault.is_damage() => return Ok(None),
                Err(fault) => return Err(fault),
            },
        }
        if topics.len() > TYPES_MAX {
            return Ok(None);
        }
    }
    topics.sort();
    topics.dedup();
    Ok(Some(topics))
}

/// Adds all topics there are that match, each found by one look. False when there are too many.
fn found(
    view: &dyn View,
    prefix: &str,
    types: &Types,
    looks: &mut usize,
    topics: &mut Vec<String>,
) -> Result<bool, Fault> {
    let mut from = prefix.as_bytes().to_vec();
    let to = keys::behind(prefix.as_bytes());
    while let Some(row) = view.rows(Space::Types, &from, &to, false).next() {
        if *looks == 0 {
            return Ok(false);
        }
        *looks -= 1;
        let (key, _) = row?;
        let topic = key.get(..key.len().saturating_sub(9)).unwrap_or_default();
        let text = String::from_utf8_lossy(topic);
        if types.matches(&text) {
            topics.push(text.into_owned());
        }
        // A topic has no character below 0x01.
        from = [topic, &[1]].concat();
    }
    Ok(true)
}

/// The time index: steps over whole blocks.
struct Blocks<'a> {
    view: &'a dyn View,
    wanted: (u64, u64),
    /// How many blocks, from the first, are in it whole.
    whole: u64,
    rows: Option<Rows<'a>>,
    /// The block it is at, which overlaps.
    head: Option<u64>,
}

impl<'a> Blocks<'a> {
    fn new(view: &'a dyn View, wanted: (u64, u64), whole: u64) -> Blocks<'a> {
        Blocks { view, wanted, whole, rows: None, head: None }
    }

    fn next(&mut self, at: u64, span: Span) -> Result<Option<u64>, Fault> {
        let block = at / BLOCK;
        if block >= self.whole {
            return Ok(Some(at));
        }
        while self.head.is_none_or(|head| span.is_before(head, block)) {
            let rows = match &mut self.rows {
                Some(rows) => rows,
                None => {
                    let rest = Span { from: span.from / BLOCK, to: span.to / BLOCK, ..span }.rest(block);
                    let (from, to) = (rest.from, rest.to.saturating_add(1).min(self.whole));
                    let key = |block: u64| keys::numbered(Room::Time, block);
                    self.rows.insert(self.view.rows(Space::Index, &key(from), &key(to), span.backward))
                }
            };
            let Some(row) = rows.next() else {
                // Behind the last whole block every number may be one.
                let tail = self.whole * BLOCK;
                return Ok((!span.backward && tail <= span.to).then_some(tail));
            };
            let (key, value) = row?;
            let overlaps = |times: Times| times.first <= self.wanted.1 && times.last >= self.wanted.0;
            self.head = keys::number(&key).filter(|_| Times::parse(&value).is_none_or(overlaps));
        }
        let head = self.head.unwrap_or(block);
        let (first, last) = (head * BLOCK, head * BLOCK + (BLOCK - 1));
        Ok(Some(if span.backward { at.min(last) } else { at.max(first) }))
    }
}
