//! A connection to whichever kernel is there.
//!
//! A [`Line`] lasts as long as its kernel; what is lost with it is said ([`Cut::Lost`]) and never hidden. A
//! [`Caller`] opens the next line by itself and asks again, for calls that may be asked twice.
//!
//! Invariant: frames come out whole and in their order; a frame that had come before the kernel died comes out
//! before the loss does.
//!
//! Not here: what frames look like (`raw`), subscriptions over several lines (`reader`).

use super::check::Wrong;
use super::stage::{GLANCE, Stage};
use crate::support::raw::{
    Frame, RECEIVE_FLAGS, REQUEST, RESPONSE, Refusal, field, frame_bytes, json, outcome, packed, value,
};
use rmpv::Value;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg};
use serde_json::{Value as Json, json};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a read waits before somebody looks whether there is anything to wait for.
const TICK: Duration = Duration::from_millis(20);
const HEADER_BYTES: usize = 8;

/// Why an exchange did not come to its end.
#[derive(Debug)]
pub(crate) enum Cut {
    /// The kernel is gone, or has closed the connection.
    Lost,
    /// Something that may not be, or the end of the round's patience.
    Wrong(Wrong),
}

impl From<Wrong> for Cut {
    fn from(wrong: Wrong) -> Cut {
        Cut::Wrong(wrong)
    }
}

/// What a call carries beside its parameters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meta<'a> {
    /// It happens once.
    pub(crate) key: Option<&'a str>,
    /// What it starts belongs to this intent.
    pub(crate) intent: Option<&'a str>,
}

impl<'a> Meta<'a> {
    fn keyed(key: Option<&'a str>) -> Meta<'a> {
        Meta { key, intent: None }
    }

    fn fields(self) -> Vec<(Value, Value)> {
        let fields = [("idempotencyKey", self.key), ("intentId", self.intent)];
        fields.into_iter().filter_map(|(name, text)| Some((name.into(), text?.into()))).collect()
    }
}

/// What the kernel said to a call.
pub(crate) type Answer = Result<Json, Refusal>;

/// A connection to one kernel.
pub(crate) struct Line<'a> {
    stage: &'a Stage,
    stream: UnixStream,
    buffer: Vec<u8>,
    calls: u64,
    pushed: VecDeque<Frame>,
    /// Descriptors that came with answers, in their order.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Frames nobody asked for that were given out.
    pub(crate) given: u64,
    /// Its name, for the connection that takes its place; empty if the kernel gave it none.
    token: String,
}

impl<'a> Line<'a> {
    /// Connects as soon as there is a kernel, and asks for offsets and records. `resumes`: the connection whose
    /// place it takes.
    pub(crate) fn open(stage: &'a Stage, resumes: Option<&str>) -> Result<Line<'a>, Wrong> {
        loop {
            stage.check()?;
            let Ok(stream) = UnixStream::connect(&stage.socket) else {
                std::thread::sleep(GLANCE);
                continue;
            };
            let timeouts = [stream.set_read_timeout(Some(TICK)), stream.set_write_timeout(Some(TICK))];
            if let Some(error) = timeouts.into_iter().find_map(Result::err) {
                return Err(format!("a socket has no timeout: {error}"));
            }
            let mut line = Line {
                stage,
                stream,
                buffer: Vec::new(),
                calls: 0,
                pushed: VecDeque::new(),
                descriptors: Vec::new(),
                given: 0,
                token: String::new(),
            };
            let features = json!(["records", "int64", "chunks", "envelope"]);
            let mut hello = json!({"client": "chaos", "features": features, "chunkBytesMax": 262_144});
            if let Some(resumes) = resumes {
                hello["resumes"] = resumes.into();
            }
            match line.call("kernel.hello", &hello, None) {
                Ok(Ok(reply)) => {
                    line.token = reply["connection"].as_str().unwrap_or_default().to_owned();
                    return Ok(line);
                }
                Ok(Err(refusal)) if !is_retryable(&refusal) => return Err(format!("hello: {refusal:?}")),
                Ok(Err(_)) | Err(Cut::Lost) => std::thread::sleep(GLANCE),
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
    }

    /// Calls and waits for the answer.
    pub(crate) fn call(&mut self, method: &str, params: &Json, key: Option<&str>) -> Result<Answer, Cut> {
        self.call_with(method, value(params), Meta::keyed(key))
    }

    /// The same with parameters that JSON doesn't have.
    pub(crate) fn call_with(&mut self, method: &str, params: Value, meta: Meta<'_>) -> Result<Answer, Cut> {
        self.calls += 1;
        let id = self.calls;
        let mut fields: Vec<(Value, Value)> =
            vec![("id".into(), id.into()), ("method".into(), method.into()), ("params".into(), params)];
        let meta = meta.fields();
        if !meta.is_empty() {
            fields.push(("meta".into(), Value::Map(meta)));
        }
        self.send(&frame_bytes(REQUEST, &packed(&Value::Map(fields))))?;
        loop {
            let Some(frame) = self.receive()? else { continue };
            let reply = (frame.kind == RESPONSE).then(|| frame.value());
            match reply {
                Some(reply) if field(&reply, "id").and_then(Value::as_u64) == Some(id) => {
                    return Ok(outcome(&reply).map(|result| json(&result)));
                }
                _ => self.pushed.push_back(frame),
            }
        }
    }

    /// The next frame nobody asked for; none if there was none for a moment.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, Cut> {
        let frame = match self.pushed.pop_front() {
            Some(frame) => Some(frame),
            None => self.receive()?,
        };
        self.given += u64::from(frame.is_some());
        Ok(frame)
    }

    /// How many of them will have been given out when those that came before the last answer are.
    pub(crate) fn come(&self) -> u64 {
        self.given + self.pushed.len() as u64
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Cut> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(Cut::Lost),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) => self.weigh(&error)?,
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Option<Frame>, Cut> {
        if let Some(frame) = self.buffered()? {
            return Ok(Some(frame));
        }
        let held = self.buffer.len();
        self.buffer.resize(held + 262_144, 0);
        let got = self.take(held);
        self.buffer.truncate(held + got.as_ref().map_or(0, |got| *got));
        match got {
            Ok(0) => Err(Cut::Lost),
            Ok(_) => self.buffered(),
            Err(error) => self.weigh(&error).map(|()| None),
        }
    }

    /// What comes next, into the buffer from there on, and what comes with it.
    fn take(&mut self, at: usize) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut self.buffer[at..])];
        let got = recvmsg(&self.stream, into, &mut control, RECEIVE_FLAGS)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(got.bytes)
    }

    fn buffered(&mut self) -> Result<Option<Frame>, Cut> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let &[magic, more, version, kind, a, b, c, d] = header;
        if [magic, more, version] != [0x4b, 0x41, 1] {
            return Err(Cut::Wrong(format!("a frame begins with {header:02x?}")));
        }
        let end = HEADER_BYTES + u32::from_be_bytes([a, b, c, d]) as usize;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let payload = self.buffer[HEADER_BYTES..end].to_vec();
        self.buffer.drain(..end);
        Ok(Some(Frame { kind, payload }))
    }

    /// What an error of the socket means.
    fn weigh(&self, error: &std::io::Error) -> Result<(), Cut> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(self.stage.check()?),
            _ => Err(Cut::Lost),
        }
    }
}

/// Somebody who calls, whichever kernel is there.
pub(crate) struct Caller<'a> {
    stage: &'a Stage,
    line: Option<Line<'a>>,
    /// The connection before this one.
    token: Option<String>,
}

impl<'a> Caller<'a> {
    /// Not connected yet.
    pub(crate) fn new(stage: &'a Stage) -> Caller<'a> {
        Caller { stage, line: None, token: None }
    }

    /// Calls once; what a loss means is the caller's to find out. Answers that say "later" are asked again.
    pub(crate) fn once(&mut self, method: &str, params: Value, key: Option<&str>) -> Result<Answer, Cut> {
        self.once_with(method, params, Meta::keyed(key))
    }

    /// The same with more beside the parameters.
    pub(crate) fn once_with(&mut self, method: &str, params: Value, meta: Meta<'_>) -> Result<Answer, Cut> {
        loop {
            let line = match &mut self.line {
                Some(line) => line,
                None => self.line.insert(Line::open(self.stage, self.token.as_deref())?),
            };
            if !line.token.is_empty() {
                self.token = Some(line.token.clone());
            }
            match line.call_with(method, params.clone(), meta) {
                Ok(Err(refusal)) if is_retryable(&refusal) => {
                    self.stage.check()?;
                    std::thread::sleep(GLANCE);
                }
                Err(Cut::Lost) => {
                    self.line = None;
                    self.stage.reconnections.fetch_add(1, Ordering::Relaxed);
                    return Err(Cut::Lost);
                }
                other => return other,
            }
        }
    }

    /// Calls until a kernel answers.
    pub(crate) fn insist(&mut self, method: &str, params: &Json) -> Result<Answer, Wrong> {
        loop {
            match self.once(method, value(params), None) {
                Ok(answer) => return Ok(answer),
                Err(Cut::Lost) => {}
                Err(Cut::Wrong(wrong)) => return Err(wrong),
            }
        }
    }

    /// Calls what must succeed.
    pub(crate) fn must(&mut self, method: &str, params: &Json) -> Result<Json, Wrong> {
        self.insist(method, params)?.map_err(|refusal| format!("{method} {params}: {refusal:?}"))
    }
}

fn is_retryable(refusal: &Refusal) -> bool {
    refusal.info["retryable"] == true
}
