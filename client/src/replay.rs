//! The log, read page by page.
//!
//! A page says where the next begins, so nothing is held between two of them: an iterator that is dropped, or whose kernel
//! dies, leaves nothing behind. Invariant: every place of the range asked for is in exactly one page, as an event, in a gap,
//! or passed over because it doesn't match or may not be seen.

use crate::connection::Client;
use crate::error::CallError;
use crate::events::{BusEvent, EventItem};
use kairo_wire::codec::raw::Raw;
use kairo_wire::limits::REPLAY_EVENTS_MAX;
use kairo_wire::methods::event::{self, Gap, Order, ReplayParams, ReplayResult};
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
}

/// An iterator over pages. An error is its last item.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    /// For the next page; none behind the last.
    question: Option<Question>,
    /// Events still wanted, if they are counted.
    left: Option<u32>,
}

impl Replay {
    /// `limit` counts all events, over all pages.
    pub(crate) fn new(client: Client, mut question: Question) -> Replay {
        let left = *question.parts().limit;
        Replay { client, question: Some(question), left }
    }

    fn page(&mut self, mut question: Question) -> Result<Page, CallError> {
        *question.parts().limit = self.left.map(|left| left.min(REPLAY_EVENTS_MAX as u32));
        let found = match &question {
            Question::Replay(params) => self.client.call::<event::Replay>(params),
            Question::Timeline(params) => self.client.call::<intent::Timeline>(params),
        }?;
        self.left = self.left.map(|left| left.saturating_sub(found.events.len() as u32));
        let Parts { from_seq, to_seq, order, .. } = question.parts();
        if found.next.is_some() && self.left != Some(0) {
            match order {
                Order::Forward => *from_seq = found.next,
                Order::Backward => *to_seq = found.next,
            }
            self.question = Some(question);
        }
        page(found, order)
    }
}

impl Iterator for Replay {
    type Item = Result<Page, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let question = self.question.take()?;
        Some(self.page(question))
    }
}

/// Puts gaps at their places among the events.
fn page(found: ReplayResult, order: Order) -> Result<Page, CallError> {
    let mut gaps = found.gaps;
    gaps.sort_unstable_by_key(|gap| gap.from);
    if order == Order::Backward {
        gaps.reverse();
    }
    let mut gaps = gaps.into_iter().peekable();
    let mut items = Vec::with_capacity(found.events.len());
    for raw in &found.events {
        let event = read(raw)?;
        let before = |gap: &Gap| {
            event.seq.is_some_and(|seq| if order == Order::Forward { gap.from <= seq } else { gap.to >= seq })
        };
        while let Some(gap) = gaps.next_if(before) {
            items.push(EventItem::Gap(gap));
        }
        items.push(EventItem::Event(event));
    }
    items.extend(gaps.map(EventItem::Gap));
    Ok(Page { items, last_seq: found.last_seq })
}

fn read(raw: &Raw) -> Result<BusEvent, CallError> {
    BusEvent::read(raw.bytes()).map_err(|error| CallError::Shape(format!("an event of the log: {error}")))
}
