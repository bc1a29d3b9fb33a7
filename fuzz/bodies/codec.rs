//! Whatever the bytes: no panic, the walk and the decoder agree, ids come back as they came, and what is understood can
//! be written and understood again.

use bytes::BytesMut;
use kairo_wire::chunk::Chunk;
use kairo_wire::codec::check::check;
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::EventFrame;
use kairo_wire::json;
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::method::{Method, params};
use kairo_wire::methods::{device, event, identity, process, stream, system};
use kairo_wire::request::{self, Refused};
use kairo_wire::response::{Response, put_err, put_ok};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The input is a payload.
pub(crate) fn codec(input: &[u8]) {
    let checked = check(input);
    agrees_with_another_decoder(input, checked.is_ok());
    call(input);
    let _ = Response::read(input);
    let _ = EventFrame::parse(input);
    let _ = Chunk::read(input);
    every_method(input);
    match RawRef::new(input) {
        Ok(raw) => value(raw),
        Err(error) => assert_eq!(Err(error), checked),
    }
}

/// The walk passes exactly what another implementation reads to the end.
fn agrees_with_another_decoder(input: &[u8], passed: bool) {
    let mut other = rmp_serde::Deserializer::new(std::io::Cursor::new(input));
    let read = <IgnoredAny as serde::Deserialize>::deserialize(&mut other);
    let whole = read.is_ok() && other.position() == input.len() as u64;
    // The other has no limits on depth and count of ours, so it may read more.
    assert!(whole || !passed, "only this crate reads {input:02x?}");
}

/// A payload is a call, is answered, or closes the connection; an answer carries the id as it came.
fn call(input: &[u8]) {
    let id = match request::read(input) {
        Ok(call) => {
            let _ = call.meta();
            call.id
        }
        Err(Refused::Answer { id, error }) => {
            assert!(!error.to_string().is_empty());
            let mut buf = BytesMut::new();
            put_err(&mut buf, Dialect::V1, id, &error);
            let response = Response::read(&buf[HEADER_BYTES..]).expect("an answer of ours is one");
            assert!(response.outcome.is_err());
            id
        }
        Err(Refused::Close(error)) => {
            assert_eq!(check(input), Err(error));
            assert!(error.is_malformed());
            return;
        }
    };
    let mut buf = BytesMut::new();
    put_ok(&mut buf, Dialect::V1, id, &true);
    let response = Response::read(&buf[HEADER_BYTES..]).expect("an answer of ours is one");
    assert_eq!(response.id, id);
    assert_eq!(response.outcome.map(|result| result.bytes().to_vec()), Ok(vec![0xc3]));
}

fn value(raw: RawRef<'_>) {
    assert_eq!(Raw::of(&raw).expect("a raw value is written as it is").bytes(), raw.bytes());
    // Values that JSON can't say (other extensions) are refused; the others settle after one round.
    if let Some(once) = through_json(raw)
        && let Some(twice) = through_json(once.as_ref())
    {
        assert_eq!(through_json(twice.as_ref()), Some(twice));
    }
}

fn through_json(raw: RawRef<'_>) -> Option<Raw> {
    json::from_text(&json::to_text(raw).ok()?).ok()
}

fn every_method(input: &[u8]) {
    let all: &[fn(&[u8])] = &[
        method::<system::Hello>,
        method::<system::Ping>,
        method::<system::Introspect>,
        method::<system::Cancel>,
        method::<system::Doctor>,
        method::<system::Shutdown>,
        method::<system::GetMetrics>,
        method::<process::Spawn>,
        method::<process::Kill>,
        method::<process::Signal>,
        method::<process::Pause>,
        method::<process::StdinWrite>,
        method::<process::Resize>,
        method::<process::Wait>,
        method::<process::Status>,
        method::<process::List>,
        method::<stream::Subscribe>,
        method::<stream::Unsubscribe>,
        method::<event::Subscribe>,
        method::<identity::Identify>,
        method::<identity::VaultGet>,
        method::<device::List>,
    ];
    for check in all {
        check(input);
    }
}

/// Parameters and results, from bytes that were never checked and from a call's own.
fn method<M: Method>(input: &[u8]) {
    settles::<M::Params>(input);
    settles::<M::Result>(input);
    if let Ok(call) = request::read(input)
        && let Ok(read) = params::<M>(call.params)
    {
        let raw = Raw::of(&read).expect("what was read can be written");
        assert!(params::<M>(raw.as_ref()).is_ok());
    }
}

/// What is read, written, read and written again is the same bytes.
fn settles<T: Serialize + DeserializeOwned>(input: &[u8]) {
    let Ok(value) = from_slice::<T>(input) else { return };
    let mut first = BytesMut::new();
    to_buf(&mut first, Dialect::Int64, &value).expect("what was read can be written");
    check(&first).expect("what is written passes");
    let value: T = from_slice(&first).expect("what was written can be read");
    let mut second = BytesMut::new();
    to_buf(&mut second, Dialect::Int64, &value).expect("what was read can be written");
    assert_eq!(first, second);
    to_buf(&mut second, Dialect::V1, &value).expect("what was read can be written to anybody");
}
