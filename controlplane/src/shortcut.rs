//! The short way of the calls that come by the hundred thousand: `process.status {id}` and `kernel.ping {}`.
//!
//! It knows exactly the bytes that clients send for them and answers with bytes encoded before, in one pass and without
//! an allocation. Invariant: whatever it answers, the long way would have answered with the same bytes and no other
//! effect; whatever it isn't sure of (another order, another type, a denial, a first reply) it leaves to the long way.

use crate::auth::decision::Verdict;
use crate::auth::grant::may_touch;
use crate::auth::principal::Principal;
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::state::Connection;
use bytes::BytesMut;
use kairo_dataplane::control::Moment;
use kairo_dataplane::key::ConnectionKey;
use kairo_wire::frame::{Kind, put_header};
use kairo_wire::id::ProcessId;
use kairo_wire::limits::{HEADER_BYTES, PROCESS_ID_BYTES_MAX};
use kairo_wire::method::Method;
use kairo_wire::methods::process;
use kairo_wire::permission::Permission;

/// `{pong: true}`.
const PONG: &[u8] = b"\xde\x00\x01\xa4pong\xc3";

impl Kernel {
    /// Answers a REQUEST payload into `replies` if it is one of these. False, and nothing done, if it isn't.
    pub(crate) fn shortcut(
        &self,
        at: Moment,
        connection: ConnectionKey,
        payload: &[u8],
        replies: &mut BytesMut,
    ) -> bool {
        let Some(call) = Plain::read(payload) else { return false };
        let Some(peer) = self.state.connections.get(connection) else { return false };
        if !peer.greeted {
            return false;
        }
        match call.method {
            b"process.status" => {
                let Some(id) = only_id(call.params) else { return false };
                if !self.has(at, peer, process::Status::ROW.permission) {
                    return false;
                }
                let found = self.state.names.get(id).and_then(|serial| self.state.processes.get(serial));
                let status = match found {
                    None => &self.unknown,
                    // `77` does not find "77"; the long way says so.
                    Some(found) if !matches!(&found.id, ProcessId::Text(_)) => return false,
                    Some(found) if !may_touch(&peer.principal, &found.creator) => return false,
                    Some(found) => &found.status,
                };
                put_encoded(replies, call.id, status.bytes());
                true
            }
            b"kernel.ping" => {
                // Everybody may.
                let plain = matches!(call.params, b"\x80" | b"\xde\x00\x00" | b"\xc0");
                if plain {
                    put_encoded(replies, call.id, PONG);
                }
                plain
            }
            _ => false,
        }
    }

    /// Whether it is remembered of a peer that it may make such calls of whatever is its own, with nothing forbidden.
    fn has(&self, at: Moment, peer: &Connection, permission: Permission) -> bool {
        let known = || peer.rights.recall(&self.permissions.snapshot, permission, wall_ms(at));
        matches!(peer.principal, Principal::Owner) || matches!(known(), Some(Verdict::Anyway))
    }
}

/// A request of the common shape: `{id: text or integer, method: text, params: …}`, in this order.
#[derive(Debug, PartialEq, Eq)]
struct Plain<'a> {
    /// MessagePack, checked.
    id: &'a [u8],
    /// Any bytes.
    method: &'a [u8],
    /// Whatever follows, not looked at.
    params: &'a [u8],
}

impl<'a> Plain<'a> {
    fn read(payload: &'a [u8]) -> Option<Plain<'a>> {
        let rest = payload.strip_prefix(b"\xde\x00\x03").or_else(|| payload.strip_prefix(b"\x83"))?;
        let rest = rest.strip_prefix(b"\xa2id")?;
        let length = match *rest.first()? {
            0x00..=0x7f | 0xe0..=0xff => 1,
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xce | 0xd2 => 5,
            head @ 0xa0..=0xbf => 1 + usize::from(head & 0x1f),
            0xd9 => 2 + usize::from(*rest.get(1)?),
            _ => return None,
        };
        let (id, rest) = rest.split_at_checked(length)?;
        let (method, rest) = short_text(rest.strip_prefix(b"\xa6method")?)?;
        let params = rest.strip_prefix(b"\xa6params")?;
        Some(Plain { id, method, params })
    }
}

/// A str of up to 255 bytes, and what follows.
fn short_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes {
        [head @ 0xa0..=0xbf, rest @ ..] => rest.split_at_checked(usize::from(head & 0x1f)),
        [0xd9, length, rest @ ..] => rest.split_at_checked(usize::from(*length)),
        _ => None,
    }
}

/// The id of exactly `{id: text}`, if it could be the id of a process.
fn only_id(params: &[u8]) -> Option<&str> {
    let rest = params.strip_prefix(b"\xde\x00\x01").or_else(|| params.strip_prefix(b"\x81"))?;
    let (text, rest) = short_text(rest.strip_prefix(b"\xa2id")?)?;
    let could_be = rest.is_empty() && !text.is_empty() && text.len() <= PROCESS_ID_BYTES_MAX;
    if !could_be || text.contains(&0) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

/// Appends a RESPONSE frame `{id, result, error}` of values that are encoded already.
fn put_encoded(buf: &mut BytesMut, id: &[u8], result: &[u8]) {
    const ID: &[u8] = b"\xde\x00\x03\xa2id";
    const RESULT: &[u8] = b"\xa6result";
    const ERROR: &[u8] = b"\xa5error\xd4\x00\x00";
    let length = ID.len() + id.len() + RESULT.len() + result.len() + ERROR.len();
    buf.reserve(HEADER_BYTES + length);
    put_header(buf, Kind::RESPONSE, length);
    for piece in [ID, id, RESULT, result, ERROR] {
        buf.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::codec::encode::Dialect;
    use kairo_wire::codec::raw::Raw;
    use kairo_wire::{request, response};
    use std::collections::BTreeMap;

    #[test]
    fn the_short_way_writes_what_the_long_way_writes() {
        let pong = Raw::of(&kairo_wire::methods::system::PingResult { pong: true }).expect("a result");
        assert_eq!(pong.bytes(), PONG);
        let id = Raw::of("call-1").expect("a text");
        let (mut short, mut long) = (BytesMut::new(), BytesMut::new());
        put_encoded(&mut short, id.bytes(), pong.bytes());
        response::put_ok(&mut long, Dialect::V1, id.as_ref(), &pong);
        assert_eq!(short, long);
    }

    #[test]
    fn a_plain_request_is_read_as_the_long_way_reads_it() {
        let ids = [
            Raw::of("q7f3k2"),
            Raw::of(&7),
            Raw::of(&-5),
            Raw::of(&70_000),
            Raw::of(&"x".repeat(40)),
            Raw::of(""),
        ];
        for id in ids {
            let id = id.expect("an id");
            let mut frame = BytesMut::new();
            let params = BTreeMap::from([("id", "clip")]);
            request::put(&mut frame, &id, "process.status", &params, None).expect("a request");
            let payload = &frame[HEADER_BYTES..];
            let long = request::read(payload).expect("a request");
            let short = Plain::read(payload).expect("a plain one");
            assert_eq!(short.id, long.id.bytes());
            assert_eq!(short.method, long.method.as_bytes());
            assert_eq!(short.params, long.params.bytes());
            assert_eq!(only_id(short.params), Some("clip"));
            for cut in 0..payload.len() {
                let cut = Plain::read(&payload[..cut]).and_then(|plain| only_id(plain.params));
                assert_eq!(cut, None, "a truncated request is not the short way's");
            }
        }
    }

    #[test]
    fn only_a_text_of_its_own_is_an_id() {
        let encoded = |id: &str| Raw::of(&BTreeMap::from([("id", id)])).expect("a map of text");
        for id in ["a", "clip", "权限", &"x".repeat(200)] {
            assert_eq!(only_id(encoded(id).bytes()), Some(id));
        }
        assert_eq!(only_id(b"\x81\xa2id\xa1a"), Some("a"));
        for other in [
            &b"\x80"[..],
            b"\x81\xa2id\x4d",
            b"\x81\xa2id\xa0",
            b"\x81\xa2id\xd9\x00",
            b"\x81\xa2id\xa1\xff",
            b"\x81\xa2id\xa1\x00",
            b"\x81\xa2id\xa1a\x00",
            b"\x82\xa2id\xa1a\xa6detail\xc3",
            b"\x81\xa3pid\xa1a",
            b"\xc0",
        ] {
            assert_eq!(only_id(other), None, "{other:02x?}");
        }
        assert_eq!(only_id(encoded(&"x".repeat(300)).bytes()), None);
    }
}
