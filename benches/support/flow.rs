//! A subscriber that does as little as one can: it finds the data in each frame and hands it on in place.
//!
//! The frames are larger than the buffer, so that the reader stays in the cache as a good client does. What isn't
//! a chunk is decoded by the general client's code.

use super::raw::{Frame, STREAM_CHUNK, request_bytes, value};
use serde_json::{Value as Json, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Bytes asked for at once, for a direct pipe as for a socket.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;
/// Enough for all that stands before the data of a chunk.
const PRELUDE_BYTES_MAX: usize = 256;

/// A connection that reads in bulk.
pub(crate) struct Flow {
    socket: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    calls: u64,
}

/// What a frame was.
pub(crate) enum Seen {
    /// A chunk with this many bytes of data, all handed on.
    Chunk(usize),
    /// Anything else.
    Other(Frame),
}

impl Flow {
    /// Connects and asks for the features.
    pub(crate) fn connect(socket: &Path, features: Json) -> Flow {
        let socket = UnixStream::connect(socket).expect("the daemon accepts connections");
        let mut flow = Flow { socket, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, calls: 0 };
        flow.call("kernel.hello", features);
        flow
    }

    /// Over a connected socket, on which nothing is asked.
    pub(crate) fn over(socket: UnixStream) -> Flow {
        Flow { socket, buffer: vec![0; BUFFER_BYTES], start: 0, end: 0, calls: 0 }
    }

    /// Offsets, ends, large chunks.
    pub(crate) fn modern(socket: &Path) -> Flow {
        let features = ["records", "chunks", "int64"];
        Flow::connect(socket, json!({"client": "bench", "features": features, "chunkBytesMax": 1 << 20}))
    }

    /// The same, and when it was read.
    pub(crate) fn timed(socket: &Path) -> Flow {
        let features = ["records", "chunks", "int64", "timestamps"];
        Flow::connect(socket, json!({"client": "bench", "features": features, "chunkBytesMax": 1 << 20}))
    }

    /// For events, with all there is about each. What doesn't come in time doesn't come.
    pub(crate) fn events(socket: &Path) -> Flow {
        let features = ["records", "int64", "envelope"];
        let flow = Flow::connect(socket, json!({"client": "bench", "features": features}));
        flow.socket.set_read_timeout(Some(super::raw::PATIENCE)).expect("a socket has a timeout");
        flow
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the daemon reads");
    }

    /// Sends a request.
    pub(crate) fn request(&mut self, method: &str, params: Json) -> u64 {
        self.calls += 1;
        let bytes = request_bytes(self.calls, method, value(&params));
        self.socket.write_all(&bytes).expect("the daemon reads");
        self.calls
    }

    /// Calls, while no chunk is to be expected.
    pub(crate) fn call(&mut self, method: &str, params: Json) -> Json {
        let id = self.request(method, params);
        loop {
            let Seen::Other(frame) = self.next(|_| {}) else { continue };
            let reply = frame.json();
            if frame.kind == super::raw::RESPONSE && reply["id"] == id {
                assert!(reply["error"].is_null(), "{method}: {}", reply["error"]);
                return reply["result"].clone();
            }
        }
    }

    /// Subscribes to a process that is to come, then starts it.
    pub(crate) fn start(&mut self, id: &str, command: &[&str], subscribe: Json, options: Json) {
        let mut params = subscribe;
        params["pid"] = id.into();
        self.call("process.stdout.subscribe", params);
        self.request("process.spawn", json!({"id": id, "command": command, "options": options}));
    }

    /// Reads until the end record of stdout; `on_data` sees the data in pieces. Bytes in all, frames in all.
    pub(crate) fn drain(&mut self, mut on_data: impl FnMut(&[u8])) -> (u64, u64) {
        let (mut bytes, mut frames) = (0, 0);
        loop {
            match self.next(&mut on_data) {
                Seen::Chunk(length) => {
                    bytes += length as u64;
                    frames += 1;
                }
                Seen::Other(frame) => {
                    let value = frame.json();
                    assert!(value["error"].is_null(), "refused: {}", value["error"]);
                    assert_ne!(value["topic"], "stream.gap", "bytes were dropped: {value}");
                    if value["topic"] == "stream.end" && value["data"]["stream"] == "stdout" {
                        assert_eq!(value["data"]["totalBytes"], bytes, "the end record counts what came");
                        return (bytes, frames);
                    }
                }
            }
        }
    }

    /// The next frame.
    pub(crate) fn next(&mut self, mut on_data: impl FnMut(&[u8])) -> Seen {
        self.fill(8);
        let header = &self.buffer[self.start..self.start + 8];
        let kind = header[3];
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        self.start += 8;
        if kind != STREAM_CHUNK {
            self.fill(length);
            let payload = self.buffer[self.start..self.start + length].to_vec();
            self.start += length;
            return Seen::Other(Frame { kind, payload });
        }
        self.fill(length.min(PRELUDE_BYTES_MAX));
        let (data_at, data_length) = find_data(&self.buffer[self.start..self.end]);
        assert_eq!(data_at + data_length, length, "data is the last thing in a chunk");
        self.start += data_at;
        self.hand_on(data_length, &mut on_data);
        Seen::Chunk(data_length)
    }

    /// The next chunk.
    pub(crate) fn next_chunk(&mut self) -> usize {
        loop {
            if let Seen::Chunk(length) = self.next(|_| {}) {
                return length;
            }
        }
    }

    /// Data of the whole chunks that are left of a connection whose daemon is dead.
    pub(crate) fn drain_dead(&mut self) -> u64 {
        let mut left = self.buffer[self.start..self.end].to_vec();
        let _ = self.socket.read_to_end(&mut left);
        let (mut at, mut bytes) = (0, 0);
        while let Some(header) = left.get(at..at + 8) {
            let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            let Some(payload) = left.get(at + 8..at + 8 + length) else { break };
            if header[3] == STREAM_CHUNK {
                bytes += find_data(payload).1 as u64;
            }
            at += 8 + length;
        }
        bytes
    }

    /// Hands on exactly `length` bytes.
    pub(crate) fn hand_on(&mut self, length: usize, on_data: &mut impl FnMut(&[u8])) {
        let mut left = length;
        while left > 0 {
            if self.start == self.end {
                self.start = 0;
                self.end = self.socket.read(&mut self.buffer).expect("the socket is readable");
                assert!(self.end > 0, "the connection ended within a frame");
            }
            let piece = left.min(self.end - self.start);
            on_data(&self.buffer[self.start..self.start + piece]);
            self.start += piece;
            left -= piece;
        }
    }

    /// Makes `length` bytes stand in a row.
    fn fill(&mut self, length: usize) {
        if self.buffer.len() - self.start < length {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.buffer.resize(self.buffer.len().max(length), 0);
        }
        while self.end - self.start < length {
            let got = self.socket.read(&mut self.buffer[self.end..]).expect("the socket is readable");
            assert!(got > 0, "the connection ended within a frame");
            self.end += got;
        }
    }
}

/// Where the data of a chunk starts and how long it is: a walk over the map's keys.
fn find_data(payload: &[u8]) -> (usize, usize) {
    let mut at = match payload[0] {
        0xde => 3,
        0x80..=0x8f => 1,
        other => panic!("a chunk begins with {other:#x}"),
    };
    loop {
        let (key, value) = string(payload, at);
        if key == b"data" {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let width = match payload[value] {
                0xc4 => 1,
                0xc5 => 2,
                0xc6 => 4,
                other => panic!("data begins with {other:#x}"),
            };
            return (value + 1 + width, number(&payload[value + 1..value + 1 + width]));
        }
        at = match payload[value] {
            0x00..=0x7f | 0xc2 | 0xc3 => value + 1,
            0xcc => value + 2,
            0xcd => value + 3,
            0xce => value + 5,
            0xcb | 0xcf => value + 9,
            _ => string(payload, value).1,
        };
    }
}

fn string(payload: &[u8], at: usize) -> (&[u8], usize) {
    let (start, length) = match payload[at] {
        short @ 0xa0..=0xbf => (at + 1, usize::from(short - 0xa0)),
        0xd9 => (at + 2, usize::from(payload[at + 1])),
        other => panic!("no string but {other:#x}"),
    };
    (&payload[start..start + length], start + length)
}
