//! The log, read page by page.
//!
//! A page says where the next begins, so nothing is held between two of them: an iterator that is dropped, or whose kernel
//! dies, leaves nothing behind. Invariant: every place of the range asked for is in exactly one page, as an event, in a gap,
//! or passed over because it doesn't match or may not be seen.

use crate::connection::Client;
use crate::error::CallError;
use crate::events::{BusEvent, EventItem};
use kairo_wire::codec::raw::Raw;
use kairo_wire::methods::event::{self, Gap, Order, ReplayParams, ReplayResult};

/// A page of the past.
#[derive(Clone, Debug)]
pub struct Page {
    /// Events, and gaps at their places among them, in the order that was asked for.
    pub items: Vec<EventItem<BusEvent>>,
    /// The last place there was in the log.
    pub last_seq: u64,
}

/// An iterator over pages. An error is its last item.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    /// Of the next page; none behind the last.
    params: Option<ReplayParams>,
    /// Events still wanted, if they are counted.
    left: Option<u32>,
}

impl Replay {
    /// `limit` counts all events, over all pages.
    pub(crate) fn new(client: Client, params: ReplayParams) -> Replay {
        let left = params.limit;
        Replay { client, params: Some(params), left }
    }

    fn page(&mut self, params: ReplayParams) -> Result<Page, CallError> {
        let found = self.client.call::<event::Replay>(&params)?;
        self.left = self.left.map(|left| left.saturating_sub(found.events.len() as u32));
        if let Some(next) = found.next.filter(|_| self.left != Some(0)) {
            let limit = self.left;
            self.params = Some(match params.order {
                Order::Forward => ReplayParams { from_seq: Some(next), limit, ..params },
                Order::Backward => ReplayParams { to_seq: Some(next), limit, ..params },
            });
        }
        page(found, params.order)
    }
}

impl Iterator for Replay {
    type Item = Result<Page, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut params = self.params.take()?;
        params.limit = self.left.map(|left| left.min(kairo_wire::limits::REPLAY_EVENTS_MAX as u32));
        Some(self.page(params))
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
