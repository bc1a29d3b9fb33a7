//! Readers that come and go: when, by which transport, with which policy and for how long is drawn; what they are given is
//! compared with what there is, byte by byte, at its offset.
//!
//! Not here: what is read (`media`).

use super::Site;
use super::tools::{connect, equal, only, some, taken, told, until};
use crate::chaos::{Random, Wrong};
use crate::support::output::Chunk;
use crate::support::raw::{EVENT, Raw, STREAM_CHUNK};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::time::Duration;

/// How bytes reach a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Frames,
    Pipe,
    Socket,
}

/// Where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At the first byte, of which nothing is missing.
    First,
    /// At the first that is retained.
    Oldest,
    /// At one that is on disk.
    At(u64),
    /// At whatever comes next.
    Now,
}

/// A reader's plan.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// It comes when so much has been written.
    pub(super) joins_at: u64,
    pub(super) by: By,
    pub(super) policy: &'static str,
    pub(super) begin: Begin,
    /// It leaves after so much.
    pub(super) stays: u64,
    /// It says goodbye, or just goes.
    pub(super) is_polite: bool,
    /// It sleeps so long at each of its pieces.
    pub(super) nap: Duration,
}

impl Guest {
    /// One that comes before the first byte and stays to the end.
    pub(super) fn faithful(by: By, policy: &'static str) -> Guest {
        Guest {
            joins_at: 0,
            by,
            policy,
            begin: Begin::First,
            stays: u64::MAX,
            is_polite: true,
            nap: Duration::ZERO,
        }
    }

    /// One of a stream of about so many bytes. `is_kept`: all of it is on disk.
    pub(super) fn drawn(random: &mut Random, bytes: u64, is_kept: bool) -> Guest {
        let by = *random.one_of(&[By::Frames, By::Frames, By::Pipe, By::Socket]);
        let joins_at = if random.chance(1, 3) { 0 } else { random.within(1..=bytes * 9 / 10) };
        let policy = match (by, is_kept) {
            (By::Frames, true) => *random.one_of(&["block", "drop_oldest", "spool"]),
            (By::Frames, false) => *random.one_of(&["block", "drop_oldest"]),
            _ => "block",
        };
        let begin = match (joins_at, is_kept) {
            (0, _) => Begin::First,
            (_, true) => *random.one_of(&[Begin::First, Begin::At(joins_at / 2), Begin::Now]),
            (_, false) => *random.one_of(&[Begin::Oldest, Begin::Now]),
        };
        // What a raw reader is given in the middle has no offset: seen from the end, it has.
        let knows_its_place = by == By::Frames || matches!(begin, Begin::First | Begin::At(_));
        let leaves = knows_its_place && random.chance(1, 2);
        let stays = if leaves { random.of_any_size(1..=bytes) } else { u64::MAX };
        let nap = Duration::from_micros(if random.chance(1, 4) { random.within(1..=3_000) } else { 0 });
        Guest { joins_at, by, policy, begin, stays, is_polite: random.chance(1, 2), nap }
    }

    /// Comes, reads, compares, and goes. How many bytes it was given.
    pub(super) fn visit(&self, site: &Site<'_>, id: &str, truth: &[u8]) -> Result<u64, Wrong> {
        let mut raw = connect(site.socket);
        until("there is as much as a guest waits for", || Ok(taken(&mut raw, id) >= self.joins_at))?;
        // The clients panic where no answer comes.
        let visit = std::panic::AssertUnwindSafe(|| match self.by {
            By::Frames => self.in_frames(&mut raw, id, truth),
            By::Pipe | By::Socket => self.raw(&mut raw, id, truth),
        });
        let given = std::panic::catch_unwind(visit).unwrap_or_else(|panic| Err(told(&*panic)));
        given.map_err(|wrong| format!("{self:?}: {wrong}"))
    }

    fn params(&self, id: &str) -> Json {
        let transport = match self.by {
            By::Frames => "frames",
            By::Pipe => "pipe",
            By::Socket => "socket",
        };
        let from = match self.begin {
            Begin::First | Begin::Oldest => json!("oldest"),
            Begin::At(offset) => json!(offset),
            Begin::Now => json!("now"),
        };
        json!({"id": id, "transport": transport, "policy": self.policy, "from": from})
    }

    fn in_frames(&self, raw: &mut Raw, id: &str, truth: &[u8]) -> Result<u64, Wrong> {
        let opened = raw.ok("stream.open", self.params(id));
        let name = opened["subscriptionId"].as_str().unwrap_or_default().to_owned();
        let mut place = match self.begin {
            Begin::First | Begin::Oldest => Some(0),
            Begin::At(offset) => Some(offset),
            Begin::Now => None,
        };
        let mut given = 0;
        while given < self.stays {
            let frame = raw.frame().ok_or("the connection ended")?;
            if frame.kind == STREAM_CHUNK {
                let chunk = Chunk::of(&frame);
                let offset = chunk.offset.ok_or("a chunk has no offset")?;
                self.follows(&mut place, offset)?;
                let end = offset as usize + chunk.data.len();
                equal("a chunk", &chunk.data, truth.get(offset as usize..end).unwrap_or_default())?;
                place = Some(end as u64);
                given += chunk.data.len() as u64;
                std::thread::sleep(self.nap);
            } else if frame.kind == EVENT && frame.json()["data"]["subscriptionId"] == name.as_str() {
                let event = frame.json();
                let number = |field: &str| event["data"][field].as_u64().unwrap_or(u64::MAX);
                if event["topic"] == "stream.end" {
                    return self.is_complete(place, number("totalBytes"), truth).map(|()| given);
                }
                if event["topic"] != "stream.gap" {
                    continue;
                }
                self.may_miss(place, &event["data"])?;
                self.follows(&mut place, number("from"))?;
                place = Some(number("to"));
            }
        }
        if self.is_polite {
            let closed = raw.ok("stream.close", json!({"subscriptionId": name}));
            return (closed["ok"] == true).then_some(given).ok_or_else(|| format!("close: {closed}"));
        }
        Ok(given)
    }

    /// What comes next must begin where the last ended.
    fn follows(&self, place: &mut Option<u64>, offset: u64) -> Result<(), Wrong> {
        let at = *place.get_or_insert(offset);
        if at == offset { Ok(()) } else { Err(format!("{offset} follows {at}")) }
    }

    fn may_miss(&self, place: Option<u64>, gap: &Json) -> Result<(), Wrong> {
        // Of a relay nothing is kept between the answer that says where now is and the first byte.
        let late = self.begin == Begin::Now && place.is_none();
        let may = self.policy == "drop_oldest" || self.begin == Begin::Oldest || late;
        if may { Ok(()) } else { Err(format!("a gap from {} to {}, at {place:?}", gap["from"], gap["to"])) }
    }

    fn is_complete(&self, place: Option<u64>, total: u64, truth: &[u8]) -> Result<(), Wrong> {
        let length = truth.len() as u64;
        // One that came after the last byte has no place.
        if total == length && place.is_none_or(|place| place == length) {
            return Ok(());
        }
        Err(format!("it ended at {place:?} of {total}, and there were {length}"))
    }

    fn raw(&self, raw: &mut Raw, id: &str, truth: &[u8]) -> Result<u64, Wrong> {
        let (opened, descriptors) = raw.open(self.params(id));
        let mut file = File::from(only(descriptors)?);
        let (mut bytes, mut piece, mut is_over) = (Vec::new(), vec![0; 1 << 18], false);
        while (bytes.len() as u64) < self.stays && !is_over {
            let read = some(&mut file, &mut piece)?;
            bytes.extend_from_slice(&piece[..read]);
            is_over = read == 0;
            std::thread::sleep(self.nap);
        }
        if self.is_polite && !is_over {
            raw.ok("stream.close", json!({"subscriptionId": opened["subscriptionId"]}));
        }
        let begin = match self.begin {
            Begin::First => 0,
            Begin::At(offset) => offset as usize,
            Begin::Now => truth.len() - bytes.len().min(truth.len()),
            Begin::Oldest => return pieces(&bytes, truth).map(|()| bytes.len() as u64),
        };
        let shall =
            if is_over { &truth[begin..] } else { &truth[begin..][..bytes.len().min(truth.len() - begin)] };
        equal("a descriptor", &bytes, shall)?;
        Ok(bytes.len() as u64)
    }
}

/// What a raw reader gets of a stream that has lost its middle: the first bytes there were, then the last.
fn pieces(bytes: &[u8], truth: &[u8]) -> Result<(), Wrong> {
    let head = bytes.iter().zip(truth).take_while(|(one, other)| one == other).count();
    let tail = &bytes[head..];
    equal("the end of a descriptor", tail, &truth[truth.len() - tail.len().min(truth.len())..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found() {
        let truth: Vec<u8> = (0..200).collect();
        assert!(pieces(&[&truth[..50], &truth[150..]].concat(), &truth).is_ok());
        assert!(
            pieces(&[&truth[..50], &truth[150..199]].concat(), &truth).is_err(),
            "its last byte is missing"
        );
        let guest = Guest::faithful(By::Frames, "block");
        let mut place = Some(0);
        assert!(guest.follows(&mut place, 0).is_ok() && guest.follows(&mut place, 1).is_err());
        assert!(guest.may_miss(place, &json!({"from": 0, "to": 1})).is_err());
        assert!(guest.is_complete(Some(200), 200, &truth).is_ok());
        assert!(guest.is_complete(Some(199), 200, &truth).is_err());
        let dropping = Guest { policy: "drop_oldest", ..guest };
        assert!(dropping.may_miss(place, &json!({"from": 0, "to": 1})).is_ok());
    }

    #[test]
    fn a_seed_draws_the_same_guests() {
        let drawn = |seed| format!("{:?}", Guest::drawn(&mut Random::new(seed), 1 << 20, true));
        assert_eq!(drawn(7), drawn(7));
        assert!((0..50).any(|seed| drawn(seed) != drawn(seed + 1)));
    }
}
