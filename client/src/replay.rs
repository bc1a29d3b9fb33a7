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
use kairo_wire::codec::decode::{Fields, entries, from_slice};
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
        let found = Found::read(&result).map_err(nonsense)?;
        self.left = self.left.map(|left| left.saturating_sub(found.count as u32));
        let Parts { from_seq, to_seq, order, .. } = question.parts();
        if found.next.is_some() && self.left != Some(0) {
            match order {
                Order::Forward => *from_seq = found.next,
                Order::Backward => *to_seq = found.next,
            }
            *question.parts().limit = at_once(self.left);
            if self.goes_on {
                // What keeps it from being asked now is told when its turn comes.
                self.asked = question.ask(&self.client).ok();
            }
            self.question = Some(question);
        }
        self.goes_on = true;
        found.page(order).map_err(nonsense)
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

/// A [`ReplayResult`](event::ReplayResult) of which the events are not read yet: where the next page begins is known first.
struct Found<'a> {
    events: Fields<'a>,
    count: usize,
    next: Option<u64>,
    gaps: Vec<Gap>,
    last_seq: u64,
}

impl<'a> Found<'a> {
    fn read(result: &'a [u8]) -> Result<Found<'a>, CodecError> {
        let mut found =
            Found { events: Fields::new(&[]), count: 0, next: None, gaps: Vec::new(), last_seq: 0 };
        for (key, value) in entries(result) {
            match key {
                b"events" => {
                    found.events = Fields::new(value);
                    found.count = found.events.array()?;
                }
                b"next" => found.next = from_slice(value)?,
                b"gaps" => found.gaps = from_slice(value)?,
                b"lastSeq" => found.last_seq = from_slice(value)?,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Reads the events, and puts gaps at their places among them.
    fn page(mut self, order: Order) -> Result<Page, CodecError> {
        self.gaps.sort_unstable_by_key(|gap| gap.from);
        if order == Order::Backward {
            self.gaps.reverse();
        }
        let mut items = Vec::with_capacity(self.count + self.gaps.len());
        let mut gaps = self.gaps.into_iter().peekable();
        let mut texts = String::new();
        for _ in 0..self.count {
            let event = BusEvent::of(&EventFrame::read(&mut self.events)?, &mut texts);
            let before = |gap: &Gap| {
                event
                    .seq
                    .is_some_and(|seq| if order == Order::Forward { gap.from <= seq } else { gap.to >= seq })
            };
            while let Some(gap) = gaps.next_if(before) {
                items.push(EventItem::Gap(gap));
            }
            items.push(EventItem::Event(event));
        }
        items.extend(gaps.map(EventItem::Gap));
        Ok(Page { items, last_seq: self.last_seq })
    }
}

fn nonsense(error: CodecError) -> CallError {
    CallError::Shape(format!("a page of the log: {error}"))
}
