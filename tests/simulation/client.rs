//! A client of the simulated kernel, and what it demands of every stream.

use crate::keeper::{Truth, byte_at};
use kairo_dataplane::driver::sim::world::{Remote, World};
use kairo_wire::frame::{Decoder, Kind};
use rmpv::Value;
use std::collections::BTreeMap;

/// Every other process keeps nothing of what it writes.
pub(crate) fn is_relayed(process: usize) -> bool {
    process % 2 == 1
}

/// One subscription, as far as it was delivered.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) process: usize,
    pub(crate) blocks: bool,
    pub(crate) line: bool,
    /// It may have come after the first byte.
    pub(crate) late: bool,
    offset: u64,
    gaps: u64,
    sequence: u64,
    pub(crate) ended: Option<(u64, u64)>,
    /// It was given up, or is about to be.
    left: bool,
    id: Option<String>,
}

pub(crate) struct Client {
    world: World,
    pub(crate) remote: Remote,
    decoder: Decoder,
    unsent: Vec<u8>,
    calls: BTreeMap<u64, Option<usize>>,
    next_call: u64,
    pub(crate) readings: Vec<Reading>,
    /// Exit notices, by process: the offset each reading had reached then.
    exits: Vec<String>,
    pub(crate) bytes: u64,
    pub(crate) broken: bool,
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
}

pub(crate) fn get<'v>(value: &'v Value, key: &str) -> &'v Value {
    let found = value.as_map().and_then(|map| map.iter().find(|(k, _)| k.as_str() == Some(key)));
    found.map_or(&Value::Nil, |(_, value)| value)
}

impl Client {
    pub(crate) fn new(world: &World, remote: Remote) -> Client {
        let mut client = Client {
            world: world.clone(),
            remote,
            decoder: Decoder::new(),
            unsent: Vec::new(),
            calls: BTreeMap::new(),
            next_call: 1,
            readings: Vec::new(),
            exits: Vec::new(),
            bytes: 0,
            broken: false,
        };
        let features = Value::Array(["records", "int64", "chunks"].map(Value::from).to_vec());
        client.call("kernel.hello", &[("features", features), ("chunkBytesMax", 200_000.into())], None);
        client
    }

    fn call(&mut self, method: &str, params: &[(&str, Value)], reading: Option<usize>) {
        let id = self.next_call;
        self.next_call += 1;
        self.calls.insert(id, reading);
        let request = map(&[("id", id.into()), ("method", method.into()), ("params", map(params))]);
        let mut payload = Vec::new();
        rmpv::encode::write_value(&mut payload, &request).expect("a vector takes everything");
        self.unsent.extend(b"KA\x01\x01");
        self.unsent.extend((payload.len() as u32).to_be_bytes());
        self.unsent.extend(payload);
    }

    pub(crate) fn spawn(&mut self, process: usize) {
        let argv = Value::Array(vec!["writer".into(), process.to_string().into()]);
        let mut options = self.pace();
        if is_relayed(process) {
            options.push(("history", "none".into()));
        }
        let options = map(&options);
        let params = [("id", format!("p{process}").into()), ("command", argv), ("options", options)];
        self.call("process.spawn", &params, None);
    }

    /// Half of the time nothing, else a rate that is slow beside what the world can do.
    fn pace(&self) -> Vec<(&'static str, Value)> {
        if self.world.below(2) == 0 {
            return Vec::new();
        }
        let bytes_per_second = 300_000 << self.world.below(7);
        let mut rate = vec![("bytesPerSecond", bytes_per_second.into())];
        if self.world.below(2) == 0 {
            rate.push(("burst", (1 + self.world.below(100_000)).into()));
        }
        vec![("rate", map(&rate))]
    }

    /// Another rate, no rate, another size, or all of them.
    fn configure(&mut self, process: usize) {
        let mut params = vec![("id", Value::from(format!("p{process}")))];
        match self.world.below(3) {
            0 => params.push(("rate", map(&[("bytesPerSecond", 0.into())]))),
            _ => params.extend(self.pace()),
        }
        if self.world.below(2) == 0 {
            let (head, tail) = (self.world.below(100_000), 4_096 + self.world.below(400_000));
            params.push(("history", map(&[("headBytes", head.into()), ("tailBytes", tail.into())])));
        }
        self.call("stream.configure", &params, None);
    }

    pub(crate) fn subscribe(&mut self, process: usize, late: bool) {
        let modes = if is_relayed(process) { 1 } else { 4 };
        let (mode, line) = match 3 - self.world.below(modes) {
            0 => ("line", true),
            1 => ("lines", true),
            _ => ("chunk", false),
        };
        let blocks = self.world.below(2) == 0;
        let policy = if blocks { "block" } else { "drop_oldest" };
        let reading = Reading {
            process,
            blocks,
            line,
            late,
            offset: 0,
            gaps: 0,
            sequence: 0,
            ended: None,
            left: false,
            id: None,
        };
        self.readings.push(reading);
        let mut params = vec![
            ("pid", format!("p{process}").into()),
            ("stream", "stdout".into()),
            ("mode", mode.into()),
            ("policy", policy.into()),
        ];
        params.extend(self.pace());
        let at = self.readings.len() - 1;
        self.call("process.stdout.subscribe", &params, Some(at));
    }

    pub(crate) fn ask(&mut self, process: usize) {
        let id = ("id", Value::from(format!("p{process}")));
        match self.world.below(5) {
            3 | 4 => self.configure(process),
            0 => self.call("process.status", &[id], None),
            1 => self.call("process.wait", &[id], None),
            _ => self.call("kernel.ping", &[], None),
        }
    }

    /// Gives up something it reads: after the answer nothing of that may come.
    pub(crate) fn unsubscribe(&mut self) {
        let at = self.world.below(self.readings.len().max(1) as u64) as usize;
        let Some(reading) = self.readings.get(at).filter(|reading| reading.late && !reading.left) else {
            return;
        };
        let Some(id) = reading.id.clone() else { return };
        self.readings[at].left = true;
        self.call("process.stdout.unsubscribe", &[("subscriptionId", id.into())], Some(at));
    }

    /// True exactly when every call was answered and every stream delivered to its end.
    pub(crate) fn is_satisfied(&self) -> bool {
        self.unsent.is_empty()
            && self.calls.is_empty()
            && self.readings.iter().all(|reading| reading.ended.is_some() || reading.id.is_none())
    }

    /// Sends and reads a little.
    pub(crate) fn act(&mut self, eager: bool) {
        let chunk = self.unsent.len().min(1 + self.world.below(400) as usize);
        match self.remote.write(&self.unsent[..chunk]) {
            Some(sent) => drop(self.unsent.drain(..sent)),
            None => self.broken = true,
        }
        if !eager && self.world.below(3) == 0 {
            return;
        }
        let most = 1 + self.world.below(if eager { 300_000 } else { 60_000 }) as usize;
        let Some(bytes) = self.remote.read(most) else {
            self.broken = true;
            return;
        };
        let mut frames = Vec::new();
        let fed = self.decoder.feed(&bytes, |kind, payload| frames.push((kind, payload.to_vec())));
        fed.expect("the kernel sends frames");
        for (kind, payload) in frames {
            let value = rmpv::decode::read_value(&mut payload.as_slice()).expect("of MessagePack");
            match kind {
                Kind::RESPONSE => self.answered(&value),
                Kind::STREAM_CHUNK => self.chunk(&value),
                Kind::EVENT => self.event(&value),
                other => panic!("a frame of kind {other:?}"),
            }
        }
    }

    fn answered(&mut self, value: &Value) {
        let id = get(value, "id").as_u64().expect("our ids are numbers");
        let reading = self.calls.remove(&id).expect("every call is answered once");
        if let Some(at) = reading {
            // A refusal has none, and neither has who has left.
            let id = get(get(value, "result"), "subscriptionId").as_str();
            self.readings[at].id = id.map(str::to_owned);
        }
    }

    fn reading(&mut self, value: &Value) -> &mut Reading {
        let id = get(value, "subscriptionId").as_str().expect("a subscription's frame names it").to_owned();
        let found = self.readings.iter_mut().find(|reading| reading.id.as_deref() == Some(&id));
        found.expect("nothing comes before the reply that names the subscription")
    }

    fn chunk(&mut self, value: &Value) {
        let Value::Binary(data) = get(value, "data") else { panic!("data is bin") };
        let offset = get(value, "offset").as_u64().expect("records were asked for");
        let sequence = get(value, "sequence").as_u64();
        let partial = get(value, "partial").as_bool().unwrap_or(false);
        let reading = self.reading(value);
        assert!(reading.ended.is_none(), "nothing comes after the end");
        assert_eq!(offset, reading.offset, "bytes are lost or doubled");
        reading.sequence += 1;
        assert_eq!(sequence, Some(reading.sequence), "sequence has no gaps");
        if let Some(wrong) = data.iter().zip(offset..).position(|(byte, at)| *byte != byte_at(at)) {
            panic!("the byte at offset {} is wrong", offset + wrong as u64);
        }
        assert!(!data.is_empty());
        assert!(!partial || reading.line, "only lines come in pieces");
        reading.offset += data.len() as u64;
        self.bytes += data.len() as u64;
    }

    fn event(&mut self, value: &Value) {
        let data = get(value, "data").clone();
        match get(value, "topic").as_str() {
            Some("stream.gap") => {
                let (from, to) =
                    (get(&data, "from").as_u64(), get(&data, "to").as_u64().expect("a gap has an end"));
                let reading = self.reading(&data);
                assert_eq!(from, Some(reading.offset), "a gap begins where the reader is");
                assert!(to > reading.offset);
                if reading.blocks && is_relayed(reading.process) {
                    assert!(reading.late && reading.offset == 0, "only what was before it came is missed");
                }
                reading.gaps += to - reading.offset;
                reading.offset = to;
            }
            Some("stream.end") => {
                let totals = (get(&data, "totalBytes").as_u64(), get(&data, "gapBytes").as_u64());
                let reading = self.reading(&data);
                assert_eq!(totals, (Some(reading.offset), Some(reading.gaps)), "the end tells the totals");
                assert!(reading.ended.is_none(), "a stream ends once");
                reading.ended = Some((reading.offset, reading.gaps));
            }
            Some("process.exit") => {
                let id = get(&data, "id").as_str().expect("ours are text").to_owned();
                assert_eq!(get(&data, "code").as_u64(), Some(7));
                assert!(!self.exits.contains(&id), "an exit is told once");
                self.exits.push(id);
            }
            topic => panic!("an event {topic:?} nobody asked for"),
        }
    }

    /// Compares what was delivered with what the children wrote.
    pub(crate) fn judge(&self, truth: impl Fn(usize) -> Option<Truth>, from_start: impl Fn(usize) -> bool) {
        for reading in self.readings.iter().filter(|reading| reading.id.is_some()) {
            let Some(truth) = truth(reading.process) else { continue };
            assert!(truth.leader_bytes <= truth.total_bytes);
            let (total, gaps) = reading.ended.expect("every stream ends for its reader");
            assert_eq!(total, truth.total_bytes, "of p{}", reading.process);
            if reading.blocks && !reading.late && from_start(reading.process) {
                assert_eq!(gaps, 0, "a reader that was there from the start and waits misses nothing");
            }
        }
    }
}
