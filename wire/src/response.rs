//! RESPONSE frames: `{id, result, error}`, in that order, and behind them `errorInfo` on failure, `meta` where a call with an
//! idempotency key succeeded.
//!
//! Existing clients take an answer for a failure exactly when `error` is truthy, so a success carries `d4 00 00` there
//! and a failure a non-empty string. Invariant: a response never exceeds the frame limit, whatever the result or the
//! echoed id; what would is answered with `E_TOO_LARGE`.

use crate::codec::check::{CheckError, check};
use crate::codec::encode::{self, Dialect};
use crate::codec::raw::{ABSENT, NIL, Raw, RawRef};
use crate::codec::{CodecError, decode};
use crate::error::{Code, WireError};
use crate::frame::{self, Kind};
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES};
use bytes::{BufMut, BytesMut};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is said beside an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnswerMeta {
    /// Of a call with an idempotency key.
    pub idempotency: Idempotency,
}

/// The receipt a call is answered with: a repetition is answered with it until it expires, or until there are too many
/// newer ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Idempotency {
    /// This call did nothing: it is answered as an earlier one was.
    pub replayed: bool,
    /// The log has it, so a later kernel knows it too.
    pub durable: bool,
    /// The key is free from then on, milliseconds since 1970.
    pub expires_at_ms: u64,
    /// How many receipts are newer, at most.
    pub newer: u64,
    /// It goes when so many are.
    pub newer_max: u64,
    /// When the oldest receipt there is was given, milliseconds since 1970.
    pub oldest_at_ms: u64,
}

/// Appends the answer to a call that succeeded.
pub fn put_ok<T: Serialize + ?Sized>(buf: &mut BytesMut, dialect: Dialect, id: RawRef<'_>, result: &T) {
    put_ok_with(buf, dialect, id, result, None);
}

/// The same with what is said beside it.
pub fn put_ok_with<T: Serialize + ?Sized>(
    buf: &mut BytesMut,
    dialect: Dialect,
    id: RawRef<'_>,
    result: &T,
    meta: Option<&AnswerMeta>,
) {
    put(buf, dialect, id, |buf| {
        encode::put_map16(buf, if meta.is_some() { 4 } else { 3 });
        encode::put_str(buf, "id");
        buf.put_slice(id.bytes());
        encode::put_str(buf, "result");
        encode::to_buf(buf, dialect, result)?;
        encode::put_str(buf, "error");
        buf.put_slice(ABSENT);
        if let Some(meta) = meta {
            encode::put_str(buf, "meta");
            encode::to_buf(buf, dialect, meta)?;
        }
        Ok(())
    });
}

/// Appends the answer to a call that failed.
pub fn put_err(buf: &mut BytesMut, dialect: Dialect, id: RawRef<'_>, error: &WireError) {
    put(buf, dialect, id, |buf| {
        encode::put_map16(buf, 4);
        encode::put_str(buf, "id");
        buf.put_slice(id.bytes());
        encode::put_str(buf, "result");
        buf.put_slice(NIL);
        encode::put_str(buf, "error");
        encode::put_str(buf, &error.to_string());
        encode::put_str(buf, "errorInfo");
        encode::to_buf(
            buf,
            dialect,
            &Info {
                code: error.code,
                message: &error.message,
                details: error.details.as_deref(),
                retryable: error.retryable,
            },
        )
    });
}

#[derive(Serialize)]
struct Info<'a> {
    code: Code,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a serde_json::Value>,
    retryable: bool,
}

/// Frames what `body` writes; what cannot be sent is answered with an error of its own.
fn put(
    buf: &mut BytesMut,
    dialect: Dialect,
    id: RawRef<'_>,
    body: impl FnOnce(&mut BytesMut) -> Result<(), CodecError>,
) {
    let at = frame::begin(Kind::RESPONSE, buf);
    let outcome = body(buf);
    let length = buf.len() - at - HEADER_BYTES;
    let error = match outcome {
        Ok(()) if length <= FRAME_BYTES_MAX => return frame::finish(buf, at),
        Ok(()) => {
            WireError::too_large("frameBytesMax", format!("an answer of {length} bytes is over the limit"))
        }
        Err(error) => WireError::new(Code::Internal, format!("the answer could not be written: {error}")),
    };
    buf.truncate(at);
    // An id that alone fills a frame cannot be echoed beside an error.
    let id = if id.bytes().len() > FRAME_BYTES_MAX / 2 { RawRef::ABSENT } else { id };
    put_err(buf, dialect, id, &error);
}

/// An answer, as a client reads it.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// Of the call.
    pub id: RawRef<'a>,
    /// What came of it.
    pub outcome: Result<RawRef<'a>, CallError>,
    /// What is said beside it; an [`AnswerMeta`].
    pub meta: Option<RawRef<'a>>,
}

/// A failed call, as a client reads it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{text}")]
pub struct CallError {
    /// The text for people and v1 clients.
    pub text: String,
    /// The same for programs; absent from kernels that are only v1.
    pub info: Option<ErrorInfo>,
}

impl CallError {
    /// The code, if the kernel sent one this version knows.
    pub fn code(&self) -> Option<Code> {
        self.info.as_ref().and_then(|info| Code::from_name(&info.code))
    }
}

/// `errorInfo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorInfo {
    /// One of the codes of `kernel.introspect`, or one of a later release.
    pub code: String,
    /// English, names the field or the thing.
    pub message: String,
    /// Facts for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Raw>,
    /// Worth trying again unchanged.
    #[serde(default)]
    pub retryable: bool,
}

/// Why a RESPONSE payload is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not MessagePack, or too much of it.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// Not what a response holds.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl<'a> Response<'a> {
    /// Checks and reads a RESPONSE payload.
    pub fn read(payload: &'a [u8]) -> Result<Response<'a>, ResponseError> {
        let (mut id, mut result, mut error, mut info, mut meta) =
            (RawRef::ABSENT, RawRef::ABSENT, RawRef::ABSENT, None, None);
        let mut entries = decode::entries(payload);
        for (key, value) in entries.by_ref() {
            let value = RawRef::checked(value);
            match key {
                b"id" => id = value,
                b"result" => result = value,
                b"error" => error = value,
                b"errorInfo" if !value.is_absent() => info = Some(value),
                b"meta" if !value.is_absent() => meta = Some(value),
                _ => {}
            }
        }
        // To find the entries is to walk over all of it; only what isn't whole is walked over again, for what is wrong.
        if !entries.is_at_end() {
            check(payload)?;
        }
        // Nil, undefined and "" are no error; anything else is, a string or not.
        if error.is_absent() || error.bytes() == [0xa0] {
            return Ok(Response { id, outcome: Ok(result), meta });
        }
        let text = error.decode::<String>().unwrap_or_else(|_| format!("{error:?}"));
        let info = info.map(|raw| raw.decode::<ErrorInfo>()).transpose()?;
        Ok(Response { id, outcome: Err(CallError { text, info }), meta })
    }
}
