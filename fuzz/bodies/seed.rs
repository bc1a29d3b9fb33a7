//! Inputs from a seed: values, calls and byte streams that are nearly right, and ways to spoil them.
//!
//! One seed gives one input, on every machine. The fuzzer brings its own bytes; the fixed-seed tests bring these, so
//! they lean on the structure of what is tested: real names, real shapes, odd encodings of the same value.

#![allow(dead_code, reason = "no target uses every kind of input")]

/// SplitMix64.
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Seed {
        Seed(seed)
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end` − 1.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.draw() % end.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// So many inputs, one after the other. Names the seed of one that fails.
pub(crate) fn each_seed(inputs: u64, mut body: impl FnMut(&mut Seed)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    for number in 0..inputs {
        let _name = Name(number);
        body(&mut Seed::new(number));
    }
}

/// Keys that mean something somewhere.
const KEYS: &[&str] = &[
    "id",
    "pid",
    "command",
    "options",
    "signal",
    "scope",
    "graceMs",
    "data",
    "rows",
    "cols",
    "timeoutMs",
    "detail",
    "stream",
    "mode",
    "bufferSize",
    "from",
    "policy",
    "descriptor",
    "subscriptionId",
    "topic",
    "intentId",
    "correlationId",
    "parent",
    "name",
    "skillId",
    "runtimeToken",
    "token",
    "handle",
    "client",
    "features",
    "chunkBytesMax",
    "method",
    "cwd",
    "env",
    "inheritEnv",
    "limits",
    "cpu",
    "memory",
    "pids",
    "rlimits",
    "nofile",
    "sandbox",
    "pty",
    "stdin",
    "stderr",
    "pipeBytes",
    "history",
    "headBytes",
    "tailBytes",
    "whenUnread",
    "onDisconnect",
    "user",
    "stdout",
    "deadlineMs",
    "$base64",
];

/// Texts that mean something somewhere.
const TEXTS: &[&str] = &[
    "",
    "clip",
    "77",
    "stdout",
    "stderr",
    "both",
    "chunk",
    "line",
    "lines",
    "block",
    "drop_oldest",
    "oldest",
    "now",
    "none",
    "TERM",
    "SIGKILL",
    "tree",
    "leader",
    "pipe",
    "null",
    "int64",
    "records",
    "chunks",
    "kairo.>",
    "*",
    "/",
    "/bin/true",
    "缺少",
    "a\0b",
    "stream_00",
    "root",
    "AA==",
];

/// A call: usually all four keys, usually a real method.
pub(crate) fn call(seed: &mut Seed, methods: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let meta = seed.one_in(4);
    map_head(seed, &mut out, if meta { 4 } else { 3 });
    text(&mut out, "id");
    if seed.one_in(3) {
        value(seed, &mut out, 2)
    } else {
        text(&mut out, "call")
    }
    text(&mut out, "method");
    if seed.one_in(20) {
        value(seed, &mut out, 1)
    } else {
        text(&mut out, seed.pick(methods))
    }
    text(&mut out, "params");
    if seed.one_in(10) {
        value(seed, &mut out, 4)
    } else {
        map(seed, &mut out, 4)
    }
    if meta {
        text(&mut out, "meta");
        map(seed, &mut out, 2);
    }
    out
}

/// Any value, at most `depth` containers deep.
pub(crate) fn value(seed: &mut Seed, out: &mut Vec<u8>, depth: usize) {
    match seed.below(if depth == 0 { 9 } else { 12 }) {
        0 => out.push(0xc0),
        1 => out.extend([0xd4, 0, 0]),
        2 => out.push(if seed.one_in(2) { 0xc2 } else { 0xc3 }),
        3 | 4 => integer(seed, out),
        5 => {
            out.push(0xcb);
            let number =
                if seed.one_in(2) { seed.below(100_000) as f64 } else { f64::from_bits(seed.draw()) };
            out.extend(number.to_bits().to_be_bytes());
        }
        6 | 7 => {
            let chosen = seed.pick(TEXTS);
            text(out, chosen);
        }
        8 => match seed.below(4) {
            0 => out.extend([0xc4, 3, 0, 0xff, b'x']),
            1 => out.extend([0xd6, 0xff, 0, 0, 0, 9]),
            2 => out.extend([0xa3, 0xed, 0xa0, 0x80]),
            _ => out.extend([0xd5, 0x42, 1, 2]),
        },
        9 | 10 => map(seed, out, depth - 1),
        _ => {
            let count = seed.below(5);
            match seed.below(3) {
                0 => out.extend([0xdc, 0, count as u8]),
                1 => out.extend([0xdd, 0, 0, 0, count as u8]),
                _ => out.push(0x90 | count as u8),
            }
            for _ in 0..count {
                value(seed, out, depth - 1);
            }
        }
    }
}

fn map(seed: &mut Seed, out: &mut Vec<u8>, depth: usize) {
    let count = seed.below(6);
    map_head(seed, out, count);
    for _ in 0..count {
        if seed.one_in(12) {
            value(seed, out, 0);
        } else {
            let key = seed.pick(KEYS);
            text(out, key);
        }
        value(seed, out, depth.saturating_sub(1));
    }
}

fn map_head(seed: &mut Seed, out: &mut Vec<u8>, count: usize) {
    match seed.below(3) {
        0 => out.extend([0xde, 0, count as u8]),
        1 => out.extend([0xdf, 0, 0, 0, count as u8]),
        _ => out.push(0x80 | count as u8),
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        0..=31 => out.push(0xa0 | text.len() as u8),
        _ => out.extend([0xd9, text.len() as u8]),
    }
    out.extend(text.as_bytes());
}

fn integer(seed: &mut Seed, out: &mut Vec<u8>) {
    let number = match seed.below(4) {
        0 => seed.below(70) as u64,
        1 => seed.draw() >> seed.below(64),
        2 => u64::MAX - seed.below(70) as u64,
        _ => seed.below(70_000) as u64,
    };
    match seed.below(5) {
        0 => out.push(number as u8 & 0x7f),
        1 => out.extend([0xcd, (number >> 8) as u8, number as u8]),
        2 => {
            out.push(0xd2);
            out.extend((number as i32).to_be_bytes());
        }
        3 => {
            out.push(0xd3);
            out.extend((number as i64).to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend(number.to_be_bytes());
        }
    }
}

/// A frame around a payload.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![b'K', b'A', 1, kind];
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

/// Changes a few bytes, lengths or places, or nothing.
pub(crate) fn spoil(seed: &mut Seed, bytes: &mut Vec<u8>) {
    for _ in 0..seed.below(4) {
        let at = seed.below(bytes.len());
        match seed.below(6) {
            0 if !bytes.is_empty() => bytes[at] = seed.draw() as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << seed.below(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, seed.draw() as u8),
            4 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            _ => {
                let end = (at + seed.below(9)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.extend(piece);
            }
        }
    }
}

/// A script for `dispatch`: mostly calls, mostly well-formed, some of them of one life from spawn to end.
pub(crate) fn script(seed: &mut Seed, methods: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..20 + seed.below(60) {
        let op = match seed.below(24) {
            0..=11 => 0,
            12..=14 => 11,
            15 | 16 => 12,
            17 => 13,
            18..=20 => 14,
            21 => 15,
            22 => 16,
            _ => seed.draw() as u8,
        };
        let mut bytes = match op % 17 {
            0..=8 if seed.one_in(2) => likely_call(seed),
            0..=8 => call(seed, methods),
            15 => seed.draw().to_le_bytes().to_vec(),
            _ => vec![seed.draw() as u8],
        };
        if seed.one_in(12) {
            spoil(seed, &mut bytes);
        }
        let client = if seed.one_in(2) { 0 } else { seed.below(4) as u8 };
        out.extend([op, client]);
        out.extend((bytes.len() as u16).to_be_bytes());
        out.extend(bytes);
    }
    out
}

/// A call that means something, on one of few processes.
fn likely_call(seed: &mut Seed) -> Vec<u8> {
    let process = seed.pick(&["a", "b", "c"]);
    let (method, fields): (&str, &[(&str, &[u8])]) = match seed.below(28) {
        16 => ("kernel.hello", &[("features", b"\x91\xa8envelope")]),
        17 => ("consumer.create", &[("name", b"\xa1c"), ("topic", b"\xa1>"), ("ackWaitMs", b"\x05")]),
        18 => ("consumer.attach", &[("name", b"\xa1c")]),
        19 => ("consumer.ack", &[("name", b"\xa1c"), ("seq", b"\x02")]),
        20 => ("consumer.nak", &[("name", b"\xa1c"), ("seq", b"\x03")]),
        21 => ("event.publish", &[("type", b"\xa1x"), ("data", b"\x01")]),
        22 => ("event.request", &[("type", b"\xa1y"), ("replyType", b"\xa1x")]),
        23 => ("consumer.delete", &[("name", b"\xa1c")]),
        0..=2 => ("process.spawn", &[("command", b"\x91\xa4true")]),
        3 => ("process.stdout.subscribe", &[]),
        4 => ("process.wait", &[("timeoutMs", b"\x05")]),
        5 => ("process.wait", &[]),
        6 => ("process.kill", &[("graceMs", b"\x05")]),
        7 | 26 | 27 => ("process.stdin.write", &[("data", b"\xa2hi")]),
        8 => ("process.status", &[("detail", b"\xc3")]),
        9 => ("process.signal", &[("signal", b"\x01")]),
        10 => ("subscribe", &[("topic", b"\xa1>")]),
        11 | 24 | 25 => ("kernel.cancel", &[]),
        12 => ("process.pause", &[]),
        13 => ("process.spawn", &[("command", b"\x91\xa4true"), ("options", b"\x81\xa3pty\xc3")]),
        14 => ("process.resize", &[("rows", b"\x05"), ("cols", b"\x06")]),
        _ => ("process.stdin.close", &[]),
    };
    let keyed = seed.one_in(4);
    let mut out = vec![if keyed { 0x84 } else { 0x83 }];
    if keyed {
        text(&mut out, "meta");
        out.push(0x81);
        text(&mut out, "idempotencyKey");
        text(&mut out, seed.pick(&["k", "l"]));
    }
    text(&mut out, "id");
    text(&mut out, process);
    text(&mut out, "method");
    text(&mut out, method);
    text(&mut out, "params");
    out.push(0x81 + fields.len() as u8);
    text(&mut out, "id");
    text(&mut out, process);
    for (key, value) in fields {
        text(&mut out, key);
        out.extend(*value);
    }
    out
}
