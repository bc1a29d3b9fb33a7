//! The contract: what travels between a Kairo kernel and its clients, and nothing else.
//!
//! No I/O and no clock live here. Randomness is an argument. Everything a peer can ask for is one *row*
//! ([`method::METHODS`], [`event::EVENTS`], [`error::ERRORS`], [`permission::PERMISSIONS`]); dispatch, permission
//! tests, introspection and `docs/WIRE.md` are derived from the rows.
//!
//! The way of a request through this crate:
//!
//! ```text
//! bytes ─▶ frame::Decoder ─▶ codec::check ─▶ request::Request ─▶ method::params::<M> ─▶ M::Params
//!            8-byte header     limits, one      id, method and      typed, missing names
//!            length bound      linear walk      raw params          all named at once
//!
//! M::Result ─▶ response::put_ok ─▶ codec::to_buf (v1 or int64 dialect) ─▶ bytes
//! ```
//!
//! | room | holds |
//! |---|---|
//! | [`limits`] | every number, with its unit and what happens past it |
//! | [`frame`] | the 8-byte header, the incremental decoder |
//! | [`codec`] | msgpack: check, decode, encode, raw values |
//! | [`json`] | raw values to JSON and back, for command lines and documents |
//! | [`request`], [`response`], [`event`], [`chunk`] | the payloads of the four frame types |
//! | [`id`] | names on the wire |
//! | [`error`], [`permission`] | codes and rights, one row each |
//! | [`method`], [`methods`] | one row and one typed marker per method |
//! | [`introspect`], [`document`] | what the rows say, as data and as `docs/WIRE.md` |

#![forbid(unsafe_code)]

pub mod chunk;
pub mod codec;
pub mod document;
pub mod envelope;
pub mod error;
pub mod event;
pub mod frame;
pub mod id;
pub mod introspect;
pub mod json;
pub mod limits;
pub mod method;
pub mod methods;
pub mod permission;
pub mod request;
pub mod response;
