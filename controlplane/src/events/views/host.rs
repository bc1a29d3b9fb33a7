//! The views at work: they follow the log, answer what the kernel asks, and are stored in the log as values.
//!
//! ```text
//!   view/NAME 0 d        the definition       written by the kernel, before its call is answered
//!   view/NAME 0 h        head of a checkpoint written last
//!   view/NAME 0 r KEY    its rows             only those that changed
//! ```
//!
//! Done off the lock, by one thread ([`Keeping`] is its way to the log's writer). Invariants: who asks is answered once; a
//! checkpoint that is torn, damaged, another version's or of events that are lost since is not taken, and then the view is
//! folded again.

use crate::auth::decision::Hearing;
use crate::events::log::{Gap, LogError, PageLimit, Query as Events, Reader, Reason};
use crate::events::outlet::{Answer, Found, Hearer, Inquiry, Wanted};
use crate::events::views::{Limits, Query, View, Views};
use bytes::{Bytes, BytesMut};
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::codec::transcode::put_raw;
use kairo_wire::envelope::put_notice;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{ResetReason, ViewChangedRecord, ViewResetRecord};
use kairo_wire::id::SubscriptionId;
use kairo_wire::methods::view::{
    ViewChangesParams, ViewDefineResult, ViewDefinition, ViewDoneResult, ViewGap, ViewGetParams,
    ViewListResult, ViewRow, ViewWatchParams,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is folded between two looks at what was asked: some milliseconds.
const PAGE: PageLimit = PageLimit { events: 512, bytes: 1 << 20, looked_at: 4_096 };
/// Pages that are folded before a question is answered, if there are so many.
const PAGES_BEFORE_AN_ANSWER: usize = 32;
/// A checkpoint is written after so many events …
const STORED_AFTER: u64 = 16_384;
/// … or after so many, when there are no more for now.
const STORED_IDLE_AFTER: u64 = 1_024;
/// Bytes of a checkpoint that are written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Stored rows that are read at once.
const ROWS_AT_ONCE: usize = 1_024;
/// Rows a reader gets if it doesn't say how many.
const ROWS: u32 = 100;
/// Rows a watcher is told at once.
const CHANGES_AT_ONCE: usize = 64;

const PREFIX: &[u8] = b"view/";
const DEFINITION: u8 = b'd';
const HEAD: u8 = b'h';
const ROW: u8 = b'r';

/// A value to be written or taken away.
type Kept = (Bytes, Option<Bytes>);

/// Writes values into the log.
pub trait Keeping {
    /// Writes them as one, and returns when they are written. False if the log takes nothing any more.
    fn keep(&mut self, values: Vec<Kept>) -> bool;
}

/// A watcher of a view.
#[derive(Debug)]
struct Watcher {
    of: ViewWatchParams,
    hearer: Hearer,
    /// Under which it waits for the next change; none while it has enough to read.
    ticket: Option<u64>,
}

/// Who waits for a change to read.
#[derive(Debug)]
struct Poll {
    of: ViewChangesParams,
    hearer: Hearer,
}

/// The views, and what they read.
pub struct Host {
    reader: Reader,
    views: Views,
    watchers: BTreeMap<SubscriptionId, Watcher>,
    /// By ticket.
    polls: BTreeMap<u64, Poll>,
    /// How far each view was when it was stored.
    stored: BTreeMap<Arc<str>, u64>,
    /// Views of which something is stored that is of no use.
    leftover: Vec<Arc<str>>,
    /// Events that were read since the last checkpoint.
    unstored: u64,
}

impl Host {
    /// The views of a log, as they were stored; `owner_uid` is the daemon's.
    pub fn new(reader: Reader, owner_uid: u32, limits: Limits) -> Result<Host, LogError> {
        let mut host = Host {
            reader,
            views: Views::new(owner_uid, limits),
            watchers: BTreeMap::new(),
            polls: BTreeMap::new(),
            stored: BTreeMap::new(),
            leftover: Vec::new(),
            unstored: 0,
        };
        for name in host.stored_names()? {
            let definition = host.reader.value(&place(&name, DEFINITION))?;
            let loaded = definition.map(|bytes| host.views.load(&bytes).map(|of| *of == *name));
            if let Some(Err(error)) = &loaded {
                tracing::error!(component = "views", view = &*name, %error, "a definition can't be read");
            }
            if host.views.seq(&name).is_err() {
                host.leftover.push(name);
                continue;
            }
            host.restore(&name)?;
        }
        Ok(host)
    }

    /// The names of all views of which something is stored.
    fn stored_names(&self) -> Result<Vec<Arc<str>>, LogError> {
        let mut names = Vec::new();
        let mut after = Vec::new();
        while let Some((key, _)) = self.reader.values_after(PREFIX, &after, 1)?.pop() {
            let name = key.get(PREFIX.len()..).and_then(|rest| rest.split(|byte| *byte == 0).next());
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            after = place(&name, u8::MAX);
            names.push(Arc::from(&*name));
        }
        Ok(names)
    }

    fn restore(&mut self, name: &Arc<str>) -> Result<(), LogError> {
        let Some(header) = self.reader.value(&place(name, HEAD))? else { return Ok(()) };
        let prefix = place(name, ROW);
        let mut rows = Rows {
            reader: &self.reader,
            prefix: &prefix,
            page: Vec::new(),
            after: Some(Vec::new()),
            error: None,
        };
        let restored = self.views.restore(name, &header, &mut rows);
        if let Some(error) = rows.error {
            return Err(error);
        }
        if let Err(error) = restored {
            tracing::warn!(component = "views", view = &**name, %error, "a view is folded again");
            return Ok(());
        }
        let lost = self.reader.gaps()?;
        let lost: Vec<(u64, u64)> = lost
            .iter()
            .filter(|gap| matches!(gap.why, Reason::Damaged(_)))
            .map(|gap| (gap.from, gap.to.saturating_add(1)))
            .collect();
        if self.views.saw(name, self.reader.last_seq()?, &lost) {
            tracing::warn!(
                component = "views",
                view = &**name,
                "a view is folded again: events of it are lost"
            );
            return Ok(());
        }
        self.stored.insert(Arc::clone(name), self.views.seq(name).unwrap_or_default());
        Ok(())
    }

    /// Folds a page of the log for each place a view is at. True if there is more.
    pub fn step(&mut self) -> Result<bool, LogError> {
        let last = self.reader.last_seq()?;
        let mut more = false;
        for seq in self.views.cursors() {
            if seq >= last {
                continue;
            }
            let page = self.reader.scan(&Events { from: seq + 1, ..Events::default() }, None, PAGE)?;
            let seen = page.next.map_or(page.end_seq, |next| next - 1);
            let gaps: Vec<ViewGap> = page.gaps.iter().map(missing).collect();
            self.views.apply(seq + 1, seen, &page.events, &gaps);
            self.unstored += seen - seq;
            more |= page.next.is_some();
        }
        Ok(more)
    }

    /// Folds what there is before questions are answered, within bounds. True if there is more.
    pub fn catch_up(&mut self) -> Result<bool, LogError> {
        for _ in 0..PAGES_BEFORE_AN_ANSWER {
            if !self.step()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Somebody waits for what it folds next.
    pub fn is_heard(&self) -> bool {
        !self.watchers.is_empty() || !self.polls.is_empty()
    }

    /// Answers, now or when there is something to tell.
    pub fn ask(&mut self, inquiry: Inquiry) -> Option<Answer> {
        let (ticket, what, hearer) = match inquiry {
            Inquiry::Want { ticket, what, hearer } => (ticket, what, hearer),
            Inquiry::Forget(ticket) => {
                self.polls.remove(&ticket);
                return None;
            }
            Inquiry::Leave(subscription) => {
                self.watchers.remove(&subscription);
                return None;
            }
        };
        let mut keep = Vec::new();
        let found = match what {
            Wanted::List(hearing) => self.list(&hearer, &hearing),
            Wanted::Get(params) => self.get(&params, &hearer),
            Wanted::Define(definition) => self.define(*definition, &hearer, &mut keep),
            Wanted::Drop(name) => self.drop_view(&name, &hearer, &mut keep),
            Wanted::Rebuild(name) => self.rebuild(&name, &hearer, &mut keep),
            Wanted::Poll(of) => {
                let waits = of.wait_ms.is_some();
                let poll = Poll { of, hearer };
                match polled(&self.views, &poll, waits).transpose() {
                    Some(found) => found,
                    None => {
                        let waits = self.about(&poll.of.name, Found { more: true, ..Found::default() });
                        self.polls.insert(ticket, poll);
                        waits
                    }
                }
            }
            Wanted::Begin(of) => self.begin(&of),
            Wanted::Changes { of, subscription } => {
                let watcher = Watcher { of, hearer, ticket: None };
                self.watchers.entry(subscription).or_insert(watcher).ticket = Some(ticket);
                return None;
            }
        };
        Some(Answer { ticket, found, keep })
    }

    /// What is there to be told to those who wait.
    pub fn due(&mut self) -> Vec<Answer> {
        let mut due = Vec::new();
        let views = &self.views;
        self.watchers.retain(|subscription, watcher| {
            let Some(ticket) = watcher.ticket else { return true };
            let Some(found) = changes(views, subscription, watcher).transpose() else { return true };
            watcher.ticket = None;
            let goes_on = found.is_ok();
            due.push(Answer { ticket, found, keep: Vec::new() });
            goes_on
        });
        self.polls.retain(|ticket, poll| {
            let Some(found) = polled(views, poll, true).transpose() else { return true };
            due.push(Answer { ticket: *ticket, found, keep: Vec::new() });
            false
        });
        due
    }

    /// Something found of a view, with what that is made of.
    fn about(&self, name: &str, found: Found) -> Result<Found, WireError> {
        Ok(Found { topics: self.views.topics(name)?, ..found })
    }

    fn list(&self, hearer: &Hearer, hearing: &Hearing) -> Result<Found, WireError> {
        let last = self.reader.last_seq().map_err(unread)?;
        let mut views = self.views.list(last, &hearer.principal);
        let is_heard = |topic: &Arc<str>| hearing.denies(topic).is_none();
        views.retain(|view| self.views.topics(&view.name).is_ok_and(|topics| topics.iter().all(is_heard)));
        for view in &mut views {
            view.stored_seq = self.stored.get(view.name.as_str()).copied();
        }
        for definition in views.iter_mut().filter_map(|view| view.definition.as_mut()) {
            for condition in &mut definition.filter {
                condition.value = spoken(hearer.dialect, condition.value.as_ref())?;
            }
        }
        said(hearer.dialect, &ViewListResult { views })
    }

    fn get(&self, params: &ViewGetParams, hearer: &Hearer) -> Result<Found, WireError> {
        let query = Query {
            key: params.key.as_deref(),
            prefix: params.prefix.as_deref(),
            after: params.after.as_deref(),
            limit: params.limit.unwrap_or(ROWS) as usize,
        };
        let mut result = self.views.get(&params.name, &query, &hearer.principal)?;
        for row in &mut result.rows {
            speak(hearer.dialect, row)?;
        }
        self.about(&params.name, said(hearer.dialect, &result)?)
    }

    fn define(
        &mut self,
        definition: ViewDefinition,
        hearer: &Hearer,
        keep: &mut Vec<Kept>,
    ) -> Result<Found, WireError> {
        let name = definition.name.clone();
        let changed = self.views.define(definition, &hearer.principal)?;
        if changed {
            keep.push((place(&name, DEFINITION).into(), self.views.definition(&name)));
            self.begins_anew(&name, keep);
        }
        said(hearer.dialect, &ViewDefineResult { changed })
    }

    fn drop_view(&mut self, name: &str, hearer: &Hearer, keep: &mut Vec<Kept>) -> Result<Found, WireError> {
        let ok = self.views.drop(name, &hearer.principal)?;
        if ok {
            keep.push((place(name, DEFINITION).into(), None));
            self.begins_anew(name, keep);
            self.leftover.push(name.into());
        }
        said(hearer.dialect, &ViewDoneResult { ok })
    }

    fn rebuild(&mut self, name: &str, hearer: &Hearer, keep: &mut Vec<Kept>) -> Result<Found, WireError> {
        let ok = self.views.rebuild(name, &hearer.principal)?;
        if ok {
            self.begins_anew(name, keep);
        }
        said(hearer.dialect, &ViewDoneResult { ok })
    }

    /// What is stored of it is of no use any more, and what its watchers have been told neither.
    fn begins_anew(&mut self, name: &str, keep: &mut Vec<Kept>) {
        keep.push((place(name, HEAD).into(), None));
        self.stored.remove(name);
        // At the next look they find that they are ahead of it, whatever it has folded by then.
        for watcher in self.watchers.values_mut().filter(|watcher| watcher.of.name == name) {
            watcher.of.since = Some(u64::MAX);
        }
        for poll in self.polls.values_mut().filter(|poll| poll.of.name == name) {
            poll.of.since = u64::MAX;
        }
    }

    fn begin(&self, of: &ViewWatchParams) -> Result<Found, WireError> {
        let seq = self.views.seq(&of.name)?;
        self.about(&of.name, Found { seen: of.since.unwrap_or(seq), more: true, ..Found::default() })
    }

    /// Whether a checkpoint is to be written; `caught_up` says that there is nothing to fold for now.
    pub fn is_to_be_stored(&self, caught_up: bool) -> bool {
        self.unstored >= if caught_up { STORED_IDLE_AFTER } else { STORED_AFTER } || !self.leftover.is_empty()
    }

    /// Writes a checkpoint of every view that has gone on.
    pub fn store(&mut self, log: &mut dyn Keeping) -> Result<(), LogError> {
        self.unstored = 0;
        while let Some(name) = self.leftover.pop() {
            // It may have been defined again.
            if self.views.seq(&name).is_err() && !erase(&self.reader, &name, log)? {
                return Ok(());
            }
        }
        for (name, view) in self.views.iter_mut() {
            if self.stored.get(name) == Some(&view.seq()) {
                continue;
            }
            if !write(&self.reader, name, view, log)? {
                view.store_anew();
                return Ok(());
            }
            view.stored();
            self.stored.insert(Arc::clone(name), view.seq());
        }
        Ok(())
    }
}

/// Writes a checkpoint of one view, its head last. False if the log takes nothing any more.
fn write(reader: &Reader, name: &str, view: &View, log: &mut dyn Keeping) -> Result<bool, LogError> {
    let checkpoint = view.checkpoint();
    if checkpoint.whole && !erase(reader, name, log)? {
        return Ok(false);
    }
    let prefix = place(name, ROW);
    let mut chunk: Vec<Kept> = Vec::new();
    let mut bytes = 0;
    for (key, row) in checkpoint.rows {
        bytes += prefix.len() + key.len() + row.map_or(0, <[u8]>::len);
        chunk.push(([&prefix[..], key].concat().into(), row.map(Bytes::copy_from_slice)));
        if bytes >= CHUNK_BYTES {
            bytes = 0;
            if !log.keep(std::mem::take(&mut chunk)) {
                return Ok(false);
            }
        }
    }
    chunk.push((place(name, HEAD).into(), Some(checkpoint.header)));
    Ok(log.keep(chunk))
}

/// Takes away what is stored of a view but its definition. False if the log takes nothing any more.
fn erase(reader: &Reader, name: &str, log: &mut dyn Keeping) -> Result<bool, LogError> {
    if !log.keep(vec![(place(name, HEAD).into(), None)]) {
        return Ok(false);
    }
    let prefix = place(name, ROW);
    loop {
        let rows = reader.values_after(&prefix, &[], ROWS_AT_ONCE)?;
        if rows.is_empty() {
            return Ok(true);
        }
        if !log.keep(rows.into_iter().map(|(key, _)| (key, None)).collect()) {
            return Ok(false);
        }
    }
}

/// The name of a value; names of views have no NUL.
fn place(name: &str, kind: u8) -> Vec<u8> {
    [PREFIX, name.as_bytes(), &[0, kind]].concat()
}

fn missing(gap: &Gap) -> ViewGap {
    let events = match &gap.why {
        Reason::Compacted(summary) => Some(summary.events),
        Reason::Damaged(_) => None,
    };
    ViewGap { from: gap.from, to: gap.to.saturating_add(1), events }
}

/// Rows as they are stored, a page at a time.
struct Rows<'r> {
    reader: &'r Reader,
    prefix: &'r [u8],
    /// The next is the last.
    page: Vec<(Bytes, Bytes)>,
    /// Behind which name the next page begins; none if there is none.
    after: Option<Vec<u8>>,
    error: Option<LogError>,
}

impl Iterator for Rows<'_> {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<(Bytes, Bytes)> {
        if self.page.is_empty() {
            let after = self.after.take()?;
            match self.reader.values_after(self.prefix, &after, ROWS_AT_ONCE) {
                Ok(page) => self.page = page,
                Err(error) => self.error = Some(error),
            }
            if self.page.len() == ROWS_AT_ONCE {
                self.after = self.page.last().map(|(key, _)| key.to_vec());
            }
            self.page.reverse();
        }
        let (key, row) = self.page.pop()?;
        Some((key.slice(self.prefix.len()..), row))
    }
}

/// What has changed for who asks; nothing if nothing has and it waits.
fn polled(views: &Views, poll: &Poll, waits: bool) -> Result<Option<Found>, WireError> {
    let Poll { of, hearer } = poll;
    let limit = of.limit.unwrap_or(ROWS) as usize;
    let mut changes = views.changed_since(&of.name, of.since, of.key.as_deref(), limit, &hearer.principal)?;
    if waits && changes.rows.is_empty() && changes.removed.is_empty() && !changes.reset {
        return Ok(None);
    }
    for row in &mut changes.rows {
        speak(hearer.dialect, row)?;
    }
    Ok(Some(Found { topics: views.topics(&of.name)?, ..said(hearer.dialect, &changes)? }))
}

/// Frames of what a watcher is to be told; nothing if there is nothing.
fn changes(
    views: &Views,
    subscription: &SubscriptionId,
    watcher: &mut Watcher,
) -> Result<Option<Found>, WireError> {
    let Watcher { of, hearer, .. } = watcher;
    let since = of.since.unwrap_or_default();
    let changes =
        views.changed_since(&of.name, since, of.key.as_deref(), CHANGES_AT_ONCE, &hearer.principal)?;
    let seq = changes.seq;
    of.since = Some(seq);
    let mut frames = BytesMut::new();
    let events = changes.rows.len() + changes.removed.len();
    if changes.reset {
        let record = ViewResetRecord {
            subscription_id: subscription.clone(),
            name: of.name.clone(),
            reason: ResetReason::Behind,
            seq,
        };
        put_notice(&mut frames, hearer.dialect, &record).map_err(WireError::from)?;
    }
    let removed = changes.removed.into_iter().map(|key| (key, None));
    let rows = changes.rows.into_iter().map(|row| (row.key.clone(), Some(row)));
    for (key, mut row) in removed.chain(rows) {
        if let Some(row) = &mut row {
            speak(hearer.dialect, row)?;
        }
        let record = ViewChangedRecord {
            subscription_id: subscription.clone(),
            name: of.name.clone(),
            key,
            removed: row.is_none(),
            row: row.map(Box::new),
            seq,
        };
        put_notice(&mut frames, hearer.dialect, &record).map_err(WireError::from)?;
    }
    let topics = views.topics(&of.name)?;
    let told = Found { bytes: frames.freeze(), events, seen: seq, more: true, topics, ..Found::default() };
    Ok((!told.bytes.is_empty()).then_some(told))
}

/// Carries a row's value over into a dialect.
fn speak(dialect: Dialect, row: &mut ViewRow) -> Result<(), WireError> {
    row.value = spoken(dialect, row.value.as_ref())?;
    Ok(())
}

fn spoken(dialect: Dialect, value: RawRef<'_>) -> Result<Raw, WireError> {
    let mut buf = BytesMut::new();
    put_raw(&mut buf, dialect, value);
    RawRef::new(&buf).map(RawRef::to_owned).map_err(|error| WireError::new(Code::Internal, error.to_string()))
}

fn said<R: Serialize>(dialect: Dialect, result: &R) -> Result<Found, WireError> {
    let mut buf = BytesMut::new();
    to_buf(&mut buf, dialect, result).map_err(WireError::from)?;
    Ok(Found { bytes: buf.freeze(), ..Found::default() })
}

fn unread(error: LogError) -> WireError {
    WireError::new(Code::Unavailable, error.to_string())
}
