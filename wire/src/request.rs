//! REQUEST frames: `{id, method, params, meta}`.
//!
//! [`read`] is the one way from a peer's bytes to a call. It decides what happens to bytes that are none: those that
//! aren't MessagePack close the connection, everything else is answered. Nothing is allocated for a well-formed call;
//! parameters stay raw until its method is known ([`method::params`](crate::method::params)).

use crate::codec::check::{CheckError, check};
use crate::codec::encode::{self, Dialect};
use crate::codec::raw::RawRef;
use crate::codec::{CodecError, decode};
use crate::error::{Code, WireError};
use crate::frame::{self, Kind};
use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A call.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Of any type; echoed byte for byte. `d4 00 00` if it was missing.
    pub id: RawRef<'a>,
    /// Not yet known to exist.
    pub method: Cow<'a, str>,
    /// `d4 00 00` if they were missing; not necessarily a map.
    pub params: RawRef<'a>,
    meta: Option<RawRef<'a>>,
}

/// What accompanies a call, all of it optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta<'a> {
    /// Ties together what has one cause; events that follow from the call carry it.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Cow<'a, str>>,
    /// The event that caused the call.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<Cow<'a, str>>,
    /// The intent it belongs to.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub intent_id: Option<Cow<'a, str>>,
    /// W3C Trace Context.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
    /// Two calls with the same key are meant to be one.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Cow<'a, str>>,
    /// The call is worth nothing after this many milliseconds from its arrival: it answers `E_TIMEOUT` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
}

/// A REQUEST payload that is no call.
#[derive(Clone, Debug)]
pub enum Refused<'a> {
    /// Not MessagePack: the connection is closed.
    Close(CheckError),
    /// Answered.
    Answer {
        /// The call's id as far as it could be found, else `d4 00 00`.
        id: RawRef<'a>,
        /// With this.
        error: Box<WireError>,
    },
}

/// Checks and reads a REQUEST payload.
pub fn read(payload: &[u8]) -> Result<Request<'_>, Refused<'_>> {
    match check(payload) {
        Ok(()) => {}
        Err(error) if error.is_malformed() => return Err(Refused::Close(error)),
        Err(error) => {
            let limit = if error == CheckError::TooDeep { "depthMax" } else { "elementsMax" };
            let id = parts(payload).id;
            let error = Box::new(WireError::too_large(limit, error.to_string()));
            return Err(Refused::Answer { id, error });
        }
    }
    let parts = parts(payload);
    match parts.method() {
        Ok(method) => Ok(Request { id: parts.id, method, params: parts.params, meta: parts.meta }),
        Err(error) => Err(Refused::Answer { id: parts.id, error }),
    }
}

impl<'a> Request<'a> {
    /// What accompanies it; the default if it carries none.
    pub fn meta(&self) -> Result<Meta<'a>, WireError> {
        match self.meta {
            None => Ok(Meta::default()),
            Some(raw) if raw.is_absent() => Ok(Meta::default()),
            Some(raw) => raw.decode().map_err(|error: CodecError| error.within("meta").into()),
        }
    }

    /// It carries a `meta` (that may still be wrong).
    pub fn has_meta(&self) -> bool {
        self.meta.is_some()
    }
}

/// The values of a call, wherever they stand in its map.
struct Parts<'a> {
    id: RawRef<'a>,
    method: RawRef<'a>,
    params: RawRef<'a>,
    meta: Option<RawRef<'a>>,
}

fn parts(payload: &[u8]) -> Parts<'_> {
    let mut parts = Parts { id: RawRef::ABSENT, method: RawRef::ABSENT, params: RawRef::ABSENT, meta: None };
    for (key, value) in decode::entries(payload) {
        let value = RawRef::checked(value);
        match key {
            b"id" => parts.id = value,
            b"method" => parts.method = value,
            b"params" => parts.params = value,
            b"meta" => parts.meta = Some(value),
            _ => {}
        }
    }
    parts
}

impl<'a> Parts<'a> {
    fn method(&self) -> Result<Cow<'a, str>, Box<WireError>> {
        if self.method.is_absent() {
            return Err(Box::new(WireError::missing(&["method"])));
        }
        match decode::str_body(self.method.bytes()) {
            Some(bytes) => Ok(String::from_utf8_lossy(bytes)),
            None => {
                let wrong = self.method.decode::<String>().err().map(|error| error.within("method").into());
                Err(Box::new(wrong.unwrap_or_else(|| WireError::missing(&["method"]))))
            }
        }
    }
}

/// Appends a REQUEST frame. Integers are exact: a kernel takes every width.
pub fn put<I: Serialize + ?Sized, P: Serialize + ?Sized>(
    buf: &mut BytesMut,
    id: &I,
    method: &str,
    params: &P,
    meta: Option<&Meta<'_>>,
) -> Result<(), WireError> {
    let at = frame::begin(Kind::REQUEST, buf);
    let outcome = put_payload(buf, id, method, params, meta);
    let length = buf.len() - at - crate::limits::HEADER_BYTES;
    let error = match outcome {
        Ok(()) if length <= crate::limits::FRAME_BYTES_MAX => {
            frame::finish(buf, at);
            return Ok(());
        }
        Ok(()) => {
            WireError::too_large("frameBytesMax", format!("a request of {length} bytes is over the limit"))
        }
        Err(error) => WireError::new(Code::InvalidParams, error.to_string()),
    };
    buf.truncate(at);
    Err(error)
}

fn put_payload<I: Serialize + ?Sized, P: Serialize + ?Sized>(
    buf: &mut BytesMut,
    id: &I,
    method: &str,
    params: &P,
    meta: Option<&Meta<'_>>,
) -> Result<(), CodecError> {
    encode::put_map16(buf, if meta.is_some() { 4 } else { 3 });
    encode::put_str(buf, "id");
    encode::to_buf(buf, Dialect::Int64, id)?;
    encode::put_str(buf, "method");
    encode::put_str(buf, method);
    encode::put_str(buf, "params");
    encode::to_buf(buf, Dialect::Int64, params)?;
    if let Some(meta) = meta {
        encode::put_str(buf, "meta");
        encode::to_buf(buf, Dialect::Int64, meta)?;
    }
    Ok(())
}
