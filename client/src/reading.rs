//! A subscription to a process, across connections: what was asked for, what has come, and what to ask a new kernel for.
//!
//! ```text
//!   asked ──answer──▶ opened ──chunks, gaps, ends──▶ over
//!                       ▲  └──the connection is lost──▶ asked again, from the exact offsets
//!                       └──────────answer──────────────────┘
//! ```
//!
//! Pure: no socket, no queue. Both kinds of subscription use it ([`subscription`](crate::subscription),
//! [`direct`](crate::direct)). Invariant: what is asked for again begins where the account of what has come ends, and
//! only in the life of the process that was read before.

use crate::error::{CallError, StreamError};
use crate::ledger::Ledger;
use crate::state::StreamFrame;
use crate::subscription::{Chunk, Item, slot};
use kairo_wire::error::Code;
use kairo_wire::id::{SessionId, SubscriptionId};
use kairo_wire::methods::stream::{Selector, Start, StreamName, SubscribeParams, SubscribeResult};

/// One subscription.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// As it was asked for.
    params: SubscribeParams,
    /// Its name on the wire; none before the first answer.
    id: Option<SubscriptionId>,
    /// The life it reads, where the kernel has told.
    session: Option<SessionId>,
    ledger: Ledger,
    /// Streams that have not ended.
    open: [bool; 2],
    records: bool,
}

/// What a refusal to go on means.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The process had not been there before either: it is waited for as at first.
    Afresh(SubscribeParams),
    /// The end.
    Failed(StreamError),
}

impl Reading {
    pub(crate) fn new(params: &SubscribeParams, records: bool) -> Reading {
        Reading {
            params: params.clone(),
            id: None,
            session: None,
            ledger: Ledger::new(params.from, records),
            open: [params.stream.stdout(), params.stream.stderr()],
            records,
        }
    }

    /// Its name on the wire, since the kernel has given it one.
    pub(crate) fn id(&self) -> Option<&SubscriptionId> {
        self.id.as_ref()
    }

    pub(crate) fn params(&self) -> &SubscribeParams {
        &self.params
    }

    /// Every stream that was asked for has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.open == [false; 2]
    }

    /// A stream was asked for and has not ended.
    pub(crate) fn reads(&self, stream: StreamName) -> bool {
        self.open[slot(stream)]
    }

    /// One past the last byte that came or was named as missed.
    pub(crate) fn position(&self, stream: StreamName) -> Option<u64> {
        self.ledger.position(stream)
    }

    /// A kernel has taken the subscription, for the first time or again.
    /// One that tells lives (`tells`) and tells none has none: it waits for the process, from its first byte.
    pub(crate) fn opened(&mut self, opened: &SubscribeResult, tells: bool) -> Result<(), StreamError> {
        if let (Some(before), Some(now)) = (&self.session, &opened.session)
            && before != now
        {
            return Err(StreamError::OtherLife);
        }
        self.id = Some(opened.subscription_id.clone());
        if opened.session.is_some() {
            self.session = opened.session.clone();
        }
        let waits = tells && opened.session.is_none();
        let beginning = waits.then_some(Start::Each { stdout: 0, stderr: 0 });
        self.ledger.begin(opened.from.or(beginning));
        Ok(())
    }

    /// What a new kernel is asked for; none if there is nothing left to read.
    pub(crate) fn again(&self) -> Result<Option<SubscribeParams>, StreamError> {
        let stream = match self.open {
            [false, false] => return Ok(None),
            [true, false] => Selector::Stdout,
            [false, true] => Selector::Stderr,
            [true, true] => Selector::Both,
        };
        if !self.records {
            let why = "without the feature `records` there are no offsets to go on from".to_owned();
            return Err(StreamError::NotResumed(why));
        }
        let at = |open: bool, name: StreamName| match self.ledger.position(name) {
            _ if !open => Ok(0),
            Some(offset) => Ok(offset),
            None => {
                let why = format!("the kernel had not told where in {} it begins", name.word());
                Err(StreamError::NotResumed(why))
            }
        };
        let [stdout, stderr] = self.open;
        let from =
            Start::Each { stdout: at(stdout, StreamName::Stdout)?, stderr: at(stderr, StreamName::Stderr)? };
        let resumes = self.id.clone().filter(|_| self.has_begun());
        Ok(Some(SubscribeParams { stream, from, resumes, ..self.params.clone() }))
    }

    /// It reads a process, and doesn't wait for one. Nothing is held for one that waits, and it must not be taken for
    /// another one that is waited for.
    fn has_begun(&self) -> bool {
        self.session.is_some() || self.ledger.has_begun()
    }

    /// A new kernel has refused what it was asked for.
    pub(crate) fn refused(&self, error: &CallError) -> Refused {
        if error.code() != Some(Code::NotFound) {
            return Refused::Failed(StreamError::NotResumed(error.to_string()));
        }
        if self.has_begun() {
            return Refused::Failed(StreamError::Forgotten);
        }
        Refused::Afresh(self.params.clone())
    }

    /// Accounts for a chunk; returns where its bytes are in the stream.
    pub(crate) fn chunk(
        &mut self,
        stream: StreamName,
        sequence: u64,
        offset: Option<u64>,
        length: usize,
    ) -> Result<u64, StreamError> {
        self.live();
        self.ledger.chunk(stream, sequence, offset, length)
    }

    /// Accounts for a named gap.
    pub(crate) fn gap(&mut self, stream: StreamName, from: u64, to: u64) -> Result<(), StreamError> {
        self.live();
        self.ledger.gap(stream, from, to)
    }

    /// Closes the account of a stream. Returns how many of its bytes were missed, over all connections.
    pub(crate) fn end(
        &mut self,
        stream: StreamName,
        total_bytes: u64,
        gap_bytes: u64,
    ) -> Result<u64, StreamError> {
        self.open[slot(stream)] = false;
        self.ledger.end(stream, total_bytes, gap_bytes)
    }

    /// What comes after the end of all streams is of the id's next life. Which one that is the kernel doesn't tell.
    fn live(&mut self) {
        if self.is_over() {
            self.open = [self.params.stream.stdout(), self.params.stream.stderr()];
            self.session = None;
        }
    }

    /// Accounts for a frame that is kept.
    pub(crate) fn account(&mut self, frame: StreamFrame) -> Result<Item, StreamError> {
        Ok(match frame {
            StreamFrame::Chunk { stream, sequence, offset, time, partial, data } => {
                let offset = self.chunk(stream, sequence, offset, data.len())?;
                Item::Chunk(Chunk { stream, offset, data, time, partial })
            }
            StreamFrame::Gap { stream, from, to } => {
                self.gap(stream, from, to)?;
                Item::Gap { stream, from, to }
            }
            StreamFrame::End { stream, total_bytes, gap_bytes, reason } => {
                let gap_bytes = self.end(stream, total_bytes, gap_bytes)?;
                Item::End { stream, total_bytes, gap_bytes, reason }
            }
            StreamFrame::Overflow => Item::Overflow,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StreamName::{Stderr, Stdout};

    fn opened(id: &str, session: Option<&str>, from: Option<Start>) -> SubscribeResult {
        let session = session.map(|_| SessionId::new(session.map_or(0, |text| text.len() as u64)));
        SubscribeResult { subscription_id: SubscriptionId::from_text(id), session, from }
    }

    fn reading(from: Start) -> Reading {
        Reading::new(&SubscribeParams { from, ..SubscribeParams::default() }, true)
    }

    #[test]
    fn it_goes_on_where_it_stood_and_only_with_what_has_not_ended() {
        let mut reading = reading(Start::Oldest);
        reading.opened(&opened("a", Some("1"), None), true).unwrap();
        reading.chunk(Stdout, 1, Some(0), 10).unwrap();
        reading.gap(Stderr, 0, 4).unwrap();
        let again = reading.again().unwrap().unwrap();
        assert_eq!(again.from, Start::Each { stdout: 10, stderr: 4 });
        assert_eq!((again.stream, again.resumes), (Selector::Both, Some(SubscriptionId::from_text("a"))));
        reading.opened(&opened("b", Some("1"), None), true).unwrap();
        assert_eq!(reading.end(Stderr, 4, 0), Ok(4), "what was missed before counts");
        assert_eq!(reading.chunk(Stdout, 1, Some(10), 5), Ok(10), "numbers begin again");
        let again = reading.again().unwrap().unwrap();
        assert_eq!((again.stream, again.from), (Selector::Stdout, Start::Each { stdout: 15, stderr: 0 }));
        reading.end(Stdout, 15, 0).unwrap();
        assert!(reading.again().unwrap().is_none());
    }

    #[test]
    fn now_is_where_the_kernel_said_it_was() {
        let mut reading = reading(Start::Now);
        let now = Start::Each { stdout: 700, stderr: 0 };
        reading.opened(&opened("a", Some("1"), Some(now)), true).unwrap();
        assert_eq!(reading.again().unwrap().unwrap().from, now);
        // A process that is not there yet begins at its beginning.
        let mut reading = self::reading(Start::Now);
        reading.opened(&opened("a", None, None), true).unwrap();
        assert_eq!(reading.again().unwrap().unwrap().from, Start::Each { stdout: 0, stderr: 0 });
        // A kernel that doesn't tell can't be gone on from.
        let mut reading = self::reading(Start::Now);
        reading.opened(&opened("a", None, None), false).unwrap();
        assert!(matches!(reading.again(), Err(StreamError::NotResumed(_))));
    }

    #[test]
    fn another_life_of_the_id_is_not_the_same_stream() {
        let mut reading = reading(Start::Oldest);
        reading.opened(&opened("a", Some("1"), None), true).unwrap();
        assert_eq!(reading.opened(&opened("b", Some("22"), None), true), Err(StreamError::OtherLife));
    }

    #[test]
    fn what_has_begun_is_not_waited_for_again() {
        let refusal = CallError::Kernel(Box::new(kairo_wire::response::CallError {
            text: "Process x not found".to_owned(),
            info: Some(kairo_wire::response::ErrorInfo {
                code: "E_NOT_FOUND".to_owned(),
                message: "Process x not found".to_owned(),
                details: None,
                retryable: false,
            }),
        }));
        let mut waiting = reading(Start::Oldest);
        waiting.opened(&opened("a", None, None), true).unwrap();
        assert!(matches!(waiting.refused(&refusal), Refused::Afresh(_)));
        waiting.chunk(Stdout, 1, Some(0), 1).unwrap();
        assert!(matches!(waiting.refused(&refusal), Refused::Failed(StreamError::Forgotten)));
        let lost = CallError::Deadline;
        assert!(matches!(waiting.refused(&lost), Refused::Failed(StreamError::NotResumed(_))));
    }
}
