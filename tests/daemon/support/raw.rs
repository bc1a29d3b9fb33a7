//! A v1 client made of nothing but a socket and a MessagePack library.
//!
//! It shares no line with the kernel or with the client library, so that what it reads is what any client reads.
//! Frames that nobody asked for are kept in order and handed out by [`Raw::frame`]. Every wait has a deadline.

use rmpv::Value;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use serde_json::{Map, Value as Json};
use std::collections::VecDeque;
use std::io::{self, BufReader, ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const REQUEST: u8 = 1;
pub(crate) const RESPONSE: u8 = 2;
pub(crate) const EVENT: u8 = 3;
pub(crate) const STREAM_CHUNK: u8 = 4;

/// Longest wait for a frame that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The payload, decoded.
    pub(crate) fn value(&self) -> Value {
        let mut rest = self.payload.as_slice();
        let value = rmpv::decode::read_value(&mut rest).expect("a frame of the kernel's is MessagePack");
        assert!(rest.is_empty(), "{} bytes trail the payload", rest.len());
        value
    }

    /// The payload as JSON, see [`json`].
    pub(crate) fn json(&self) -> Json {
        json(&self.value())
    }
}

/// An error as the kernel tells it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    /// The `error` string v1 clients see.
    pub(crate) text: String,
    /// `errorInfo.code`.
    pub(crate) code: String,
    /// All of `errorInfo`.
    pub(crate) info: Json,
}

/// Waits for a condition; says what was waited for if it doesn't come true.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Descriptors that come are nobody's who is started meanwhile, where that can be said.
#[cfg(target_os = "linux")]
pub(crate) const RECEIVE_FLAGS: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
pub(crate) const RECEIVE_FLAGS: RecvFlags = RecvFlags::empty();

/// What comes on a socket: bytes, and descriptors beside them.
struct Inlet {
    socket: UnixStream,
    descriptors: VecDeque<OwnedFd>,
}

impl Read for Inlet {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(into)];
        let received = recvmsg(&self.socket, &mut room, &mut control, RECEIVE_FLAGS)?;
        assert!(!received.flags.contains(ReturnFlags::CTRUNC), "descriptors were lost");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }
}

/// A connection.
pub(crate) struct Raw {
    reader: BufReader<Inlet>,
    writer: UnixStream,
    calls: u64,
    pushed: VecDeque<Frame>,
}

/// Header and payload of a frame.
pub(crate) fn frame_bytes(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of a test is short");
    let mut bytes = vec![0x4b, 0x41, 1, kind];
    bytes.extend(length.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A value as MessagePack.
pub(crate) fn packed(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("a vector takes everything");
    bytes
}

/// A whole request frame.
pub(crate) fn request_bytes(id: u64, method: &str, params: Value) -> Vec<u8> {
    let fields = [("id", id.into()), ("method", method.into()), ("params", params)];
    let map = fields.map(|(key, value): (&str, Value)| (key.into(), value)).to_vec();
    frame_bytes(REQUEST, &packed(&Value::Map(map)))
}

/// JSON as a MessagePack value.
pub(crate) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(flag) => Value::Boolean(*flag),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (_, Some(number)) => number.into(),
            _ => number.as_f64().unwrap_or_default().into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => Value::Array(items.iter().map(value).collect()),
        Json::Object(fields) => {
            Value::Map(fields.iter().map(|(key, item)| (key.as_str().into(), value(item))).collect())
        }
    }
}

/// A MessagePack value as JSON: bytes become text, `undefined` becomes null, whole floats become integers.
pub(crate) fn json(value: &Value) -> Json {
    match value {
        Value::Nil | Value::Ext(_, _) => Json::Null,
        Value::Boolean(flag) => Json::Bool(*flag),
        Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (_, number) => number.into(),
        },
        Value::F32(number) => json(&Value::F64(f64::from(*number))),
        Value::F64(number) if number.fract() == 0.0 && number.abs() < 9.1e15 => (*number as i64).into(),
        Value::F64(number) => (*number).into(),
        Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into_owned().into(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned().into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Map(fields) => {
            let name = |key: &Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            Json::Object(fields.iter().map(|(key, item)| (name(key), json(item))).collect::<Map<_, _>>())
        }
    }
}

/// A field of a map.
pub(crate) fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    map.as_map()?.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
}

impl Raw {
    /// Connects; the daemon must be there.
    pub(crate) fn connect(socket: &Path) -> Raw {
        Raw::try_connect(socket).expect("the daemon accepts connections")
    }

    /// Connects if it can.
    pub(crate) fn try_connect(socket: &Path) -> io::Result<Raw> {
        Raw::over(UnixStream::connect(socket)?)
    }

    /// Speaks over a socket that is connected already.
    pub(crate) fn over(stream: UnixStream) -> io::Result<Raw> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let inlet = Inlet { socket: stream.try_clone()?, descriptors: VecDeque::new() };
        let reader = BufReader::with_capacity(1 << 20, inlet);
        Ok(Raw { reader, writer: stream, calls: 0, pushed: VecDeque::new() })
    }

    /// The socket, for what a well-behaved client doesn't do.
    pub(crate) fn socket(&mut self) -> &mut UnixStream {
        &mut self.writer
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("the daemon reads what it is sent");
    }

    /// Sends a request and returns its id.
    pub(crate) fn request(&mut self, method: &str, params: Value) -> u64 {
        self.calls += 1;
        self.send(&request_bytes(self.calls, method, params));
        self.calls
    }

    /// The next frame, pushed or not; none at the end of the connection.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        self.pushed.pop_front().or_else(|| self.receive())
    }

    /// Hands frames back, to be handed out again before all others.
    pub(crate) fn put_back(&mut self, frames: Vec<Frame>) {
        for frame in frames.into_iter().rev() {
            self.pushed.push_front(frame);
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut header = [0; 8];
        match self.reader.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("no frame within {PATIENCE:?}")
            }
            Err(_) => return None,
        }
        assert_eq!(&header[..3], [0x4b, 0x41, 1], "magic and version");
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut payload = vec![0; length as usize];
        // A daemon that is killed may leave half a frame.
        self.reader.read_exact(&mut payload).ok()?;
        Some(Frame { kind: header[3], payload })
    }

    /// The answer to the request `id`; what comes before it is kept for [`Raw::frame`].
    pub(crate) fn answer(&mut self, id: u64) -> Result<Value, Refusal> {
        self.answer_if_any(id).expect("the connection lasts until the answer")
    }

    /// The same, or none if the connection ends before.
    pub(crate) fn answer_if_any(&mut self, id: u64) -> Option<Result<Value, Refusal>> {
        let waited = self.pushed.iter().position(|frame| is_answer(frame, id));
        let frame = match waited.and_then(|at| self.pushed.remove(at)) {
            Some(frame) => frame,
            None => loop {
                let frame = self.receive()?;
                if is_answer(&frame, id) {
                    break frame;
                }
                self.pushed.push_back(frame);
            },
        };
        Some(outcome(&frame.value()))
    }

    /// Calls with a key, if the daemon lives until its answer.
    pub(crate) fn call_once(
        &mut self,
        method: &str,
        params: &Json,
        key: &str,
    ) -> Option<Result<Json, Refusal>> {
        let id = self.send_once(method, params, key)?;
        self.answer_if_any(id).map(|answer| answer.map(|result| json(&result)))
    }

    /// Sends a request with a key, if the daemon takes it.
    pub(crate) fn send_once(&mut self, method: &str, params: &Json, key: &str) -> Option<u64> {
        self.send_with(method, params, &serde_json::json!({ "idempotencyKey": key }))
    }

    /// Calls with `meta` and waits.
    pub(crate) fn call_with(&mut self, method: &str, params: &Json, meta: &Json) -> Result<Json, Refusal> {
        let id = self.send_with(method, params, meta).expect("the daemon takes requests");
        self.answer(id).map(|result| json(&result))
    }

    /// Sends a request with `meta`, if the daemon takes it.
    pub(crate) fn send_with(&mut self, method: &str, params: &Json, meta: &Json) -> Option<u64> {
        self.calls += 1;
        let meta = value(meta);
        let fields: [(&str, Value); 4] =
            [("id", self.calls.into()), ("method", method.into()), ("params", value(params)), ("meta", meta)];
        let map = fields.map(|(key, value)| (key.into(), value)).to_vec();
        self.writer.write_all(&frame_bytes(REQUEST, &packed(&Value::Map(map)))).ok()?;
        Some(self.calls)
    }

    /// Calls, if the daemon lives until its answer.
    pub(crate) fn try_call(&mut self, method: &str, params: Json) -> Option<Result<Json, Refusal>> {
        self.calls += 1;
        let bytes = request_bytes(self.calls, method, value(&params));
        self.writer.write_all(&bytes).ok()?;
        self.answer_if_any(self.calls).map(|answer| answer.map(|result| json(&result)))
    }

    /// Writes the line that a program waits for.
    pub(crate) fn tell_to_go(&mut self, id: &str) {
        self.ok("process.stdin.write", serde_json::json!({"id": id, "data": "go\n"}));
    }

    /// Calls and waits.
    pub(crate) fn call(&mut self, method: &str, params: Json) -> Result<Json, Refusal> {
        let id = self.request(method, value(&params));
        self.answer(id).map(|result| json(&result))
    }

    /// Calls what must succeed.
    pub(crate) fn ok(&mut self, method: &str, params: Json) -> Json {
        match self.call(method, params.clone()) {
            Ok(result) => result,
            Err(refusal) => panic!("{method} {params}: {refusal:?}"),
        }
    }

    /// Opens a stream by a transport that brings descriptors: its answer, and they.
    pub(crate) fn open(&mut self, params: Json) -> (Json, Vec<OwnedFd>) {
        self.open_with(params, &Json::Object(Map::new()))
    }

    /// The same with `meta`.
    pub(crate) fn open_with(&mut self, params: Json, meta: &Json) -> (Json, Vec<OwnedFd>) {
        self.handed_with("stream.open", params, meta)
    }

    /// Calls what brings descriptors: its answer, and they.
    pub(crate) fn handed(&mut self, method: &str, params: Json) -> (Json, Vec<OwnedFd>) {
        self.handed_with(method, params, &Json::Object(Map::new()))
    }

    fn handed_with(&mut self, method: &str, params: Json, meta: &Json) -> (Json, Vec<OwnedFd>) {
        let opened = self.call_with(method, &params, meta);
        let opened = opened.unwrap_or_else(|refusal| panic!("{method} {params}: {refusal:?}"));
        let count = opened["descriptors"].as_array().map_or(0, Vec::len);
        let descriptors = &mut self.reader.get_mut().descriptors;
        assert!(count <= descriptors.len(), "{} came for {opened}", descriptors.len());
        let came = descriptors.drain(..count).collect();
        (opened, came)
    }

    /// Calls what must be refused.
    pub(crate) fn refused(&mut self, method: &str, params: Json) -> Refusal {
        match self.call(method, params.clone()) {
            Ok(result) => panic!("{method} {params} was not refused but answered {result}"),
            Err(refusal) => refusal,
        }
    }

    /// True when the other side has closed: reads until then, for at most [`PATIENCE`].
    pub(crate) fn is_closed(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut rest = [0; 4096];
        loop {
            match self.reader.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) if Instant::now() < until => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return true,
                Ok(_) | Err(_) => return false,
            }
        }
    }
}

/// What a RESPONSE says.
pub(crate) fn outcome(reply: &Value) -> Result<Value, Refusal> {
    match field(reply, "error") {
        Some(Value::String(text)) => {
            let info = json(field(reply, "errorInfo").unwrap_or(&Value::Nil));
            let code = info["code"].as_str().unwrap_or_default().to_owned();
            Err(Refusal { text: String::from_utf8_lossy(text.as_bytes()).into_owned(), code, info })
        }
        _ => Ok(field(reply, "result").cloned().unwrap_or(Value::Nil)),
    }
}

fn is_answer(frame: &Frame, id: u64) -> bool {
    frame.kind == RESPONSE && field(&frame.value(), "id").and_then(Value::as_u64) == Some(id)
}
