//! The log, read page by page.
//!
//! A page says where the next begins, so the kernel holds nothing between two of them. Whoever goes on gets the next one
//! while it works on one: it is asked for as soon as it is known where it begins. An iterator that is dropped, or whose
//! kernel dies, leaves nothing behind but an answer nobody takes. Invariant: every place of the range asked for is in exactly one page, as an event, in a gap,
//! or passed over because it doesn't match or may not be seen.

use crate::connection::{Call, Client};
use crate::error::CallError;
use crate::events::{BusEvent, EventItem};
use bytes::Bytes;
use kairo_wire::codec::CodecError;
use kairo_wire::codec::decode::Fields;
use kairo_wire::envelope::EventFrame;
use kairo_wire::limits::REPLAY_EVENTS_MAX;
use kairo_wire::methods::event::{self, Gap, Order, ReplayParams};
use kairo_wire::methods::intent::{self, TimelineParams};

/// A page of the past.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events, and gaps at their places among them, in the order that was asked for.
    pub items: Vec<EventItem<BusEvent>>,
    /// The last place there was in the log.
    pub last_seq: u64,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Question {
    Replay(ReplayParams),
    Timeline(TimelineParams),
}

/// What changes from page to page.
struct Parts<'q> {
    from_seq: &'q mut Option<u64>,
    to_seq: &'q mut Option<u64>,
    limit: &'q mut Option<u32>,
    order: Order,
}

impl Question {
    fn parts(&mut self) -> Parts<'_> {
        match self {
            Question::Replay(ReplayParams { from_seq, to_seq, limit, order, .. })
            | Question::Timeline(TimelineParams { from_seq, to_seq, limit, order, .. }) => {
                Parts { from_seq, to_seq, limit, order: *order }
            }
        }
    }

    fn ask(&self, client: &Client) -> Result<Asked, CallError> {
        match self {
            Question::Replay(params) => client.begin::<event::Replay>(params).map(Asked::Replay),
            Question::Timeline(params) => client.begin::<intent::Timeline>(params).map(Asked::Timeline),
        }
    }
}

/// A page on its way.
#[derive(Debug)]
enum Asked {
    Replay(Call<event::Replay>),
    Timeline(Call<intent::Timeline>),
}

impl Asked {
    fn wait(self) -> Result<Bytes, CallError> {
        match self {
            Asked::Replay(call) => call.wait_raw(),
            Asked::Timeline(call) => call.wait_raw(),
        }
    }
}

/// An iterator over pages. An error is its last item.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    /// For the next page; none behind the last.
    question: Option<Question>,
    /// It has been asked already.
    asked: Option<Asked>,
    /// A page has been taken, and now another one.
    goes_on: bool,
    /// Events still wanted, if they are counted.
    left: Option<u32>,
}

impl Replay {
    /// `limit` counts all events, over all pages.
    pub(crate) fn new(client: Client, mut question: Question) -> Replay {
        let left = *question.parts().limit;
        *question.parts().limit = at_once(left);
        Replay { client, question: Some(question), asked: None, goes_on: false, left }
    }

    fn page(&mut self, mut question: Question) -> Result<Page, CallError> {
        let asked = match self.asked.take() {
            Some(asked) => asked,
            None => question.ask(&self.client)?,
        };
        let result = asked.wait()?;
        let Beginning { next, events } = Beginning::read(&result).map_err(nonsense)?;
        self.left = self.left.map(|left| left.saturating_sub(events as u32));
        let Parts { from_seq, to_seq, order, .. } = question.parts();
        if next.is_some() && self.left != Some(0) {
            match order {
                Order::Forward => *from_seq = next,
                Order::Backward => *to_seq = next,
            }
            *question.parts().limit = at_once(self.left);
            if self.goes_on {
                // What keeps it from being asked now is told when its turn comes.
                self.asked = question.ask(&self.client).ok();
            }
            self.question = Some(question);
        }
        self.goes_on = true;
        page(&result, order).map_err(nonsense)
    }
}

impl Iterator for Replay {
    type Item = Result<Page, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let question = self.question.take()?;
        Some(self.page(question))
    }
}

/// Of the events that are left, as many as a page can have.
fn at_once(left: Option<u32>) -> Option<u32> {
    left.map(|left| left.min(REPLAY_EVENTS_MAX as u32))
}

/// Of a [`ReplayResult`](event::ReplayResult) what is known before the events are read, which takes the longest.
struct Beginning {
    next: Option<u64>,
    /// How many.
    events: usize,
}

impl Beginning {
    fn read(result: &[u8]) -> Result<Beginning, CodecError> {
        let mut found = Beginning { next: None, events: 0 };
        let mut fields = Fields::new(result);
        for _ in 0..fields.map()? {
            match fields.key()? {
                Some(b"next") => found.next = fields.read()?,
                Some(b"events") => {
                    found.events = fields.array()?;
                    // A kernel that says it at all says it first; others are looked through.
                    if found.next.is_some() {
                        break;
                    }
                    fields.skip(found.events)?;
                }
                Some(_) => fields.skip(1)?,
                None => {}
            }
        }
        Ok(found)
    }
}

fn page(result: &[u8], order: Order) -> Result<Page, CodecError> {
    let (mut items, mut gaps, mut last_seq) = (Vec::new(), Vec::new(), 0);
    let mut fields = Fields::new(result);
    for _ in 0..fields.map()? {
        match fields.key()? {
            Some(b"events") => items = events(&mut fields)?,
            Some(b"gaps") => gaps = fields.read()?,
            Some(b"lastSeq") => last_seq = fields.read()?,
            Some(_) => fields.skip(1)?,
            None => {}
        }
    }
    if !gaps.is_empty() {
        items = with_gaps(items, gaps, order);
    }
    Ok(Page { items, last_seq })
}

fn events(fields: &mut Fields<'_>) -> Result<Vec<EventItem<BusEvent>>, CodecError> {
    let count = fields.array()?;
    // No page has more, whatever it claims.
    let mut items = Vec::with_capacity(count.min(REPLAY_EVENTS_MAX));
    let mut texts = String::new();
    for _ in 0..count {
        items.push(EventItem::Event(BusEvent::of(&EventFrame::read(fields)?, &mut texts)));
    }
    Ok(items)
}

/// Puts gaps at their places among the events.
fn with_gaps(events: Vec<EventItem<BusEvent>>, mut gaps: Vec<Gap>, order: Order) -> Vec<EventItem<BusEvent>> {
    gaps.sort_unstable_by_key(|gap| gap.from);
    if order == Order::Backward {
        gaps.reverse();
    }
    let mut items = Vec::with_capacity(events.len() + gaps.len());
    let mut gaps = gaps.into_iter().peekable();
    for item in events {
        let seq = if let EventItem::Event(event) = &item { event.seq } else { None };
        let before = |gap: &Gap| {
            seq.is_some_and(|seq| if order == Order::Forward { gap.from <= seq } else { gap.to >= seq })
        };
        while let Some(gap) = gaps.next_if(before) {
            items.push(EventItem::Gap(gap));
        }
        items.push(item);
    }
    items.extend(gaps.map(EventItem::Gap));
    items
}

fn nonsense(error: CodecError) -> CallError {
    CallError::Shape(format!("a page of the log: {error}"))
}
