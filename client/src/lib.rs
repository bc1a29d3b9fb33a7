//! The Rust client of a Kairo kernel.
//!
//! ```no_run
//! use kairo_client::{Client, Item};
//! use kairo_wire::id::ProcessId;
//! use kairo_wire::methods::process::{Spawn, SpawnParams};
//! use kairo_wire::methods::stream::SubscribeParams;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("/run/kairo/kernel.sock")?;
//! let id = ProcessId::from_text("hello")?;
//! let command = vec!["echo".into(), "hello".into()];
//! client.call::<Spawn>(&SpawnParams { id: id.clone(), command, options: None })?;
//! for item in client.subscribe(&SubscribeParams { id: Some(id), ..Default::default() })? {
//!     match item? {
//!         Item::Chunk(chunk) => println!("{} at {}: {:?}", chunk.stream.word(), chunk.offset, chunk.data),
//!         Item::Gap { from, to, .. } => println!("missed {from} to {to}"),
//!         Item::End { total_bytes, .. } => println!("over after {total_bytes} bytes"),
//!         Item::Overflow => println!("missed some"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Synchronous, without a thread or a runtime of its own: whoever waits, reads (`state`). A kernel that dies and is
//! replaced is an interruption, not an end: the connection comes back by itself ([`Reconnect`]), every stream goes on at
//! the exact byte, events behind the last one that came, and a spawn or a write that was in flight happens once. A missing byte is an error
//! its consumer sees ([`StreamError::Missing`]). A consumer that is slow makes its connection slow, never its memory
//! large; so a heavy stream has a connection of its own ([`Client::into_stream`]), which is also the fastest way.
//!
//! | room | holds |
//! |---|---|
//! | [`connection`] | connecting, greeting, calling |
//! | [`subscription`], [`events`], [`replay`] | iterators over shared connections |
//! | [`direct`] | one stream with a connection of its own |
//! | [`shared`] | one stream read in place, in a shared ring |
//! | [`produce`] | streams this client writes |
//! | [`reconnect`] | from a lost connection to the next one |
//! | `state`, `queue` | who waits, reads; where things wait |
//! | `outlet`, `inlet`, `dispatch` | requests out; frames in, and where they go |
//! | `reading`, `ledger` | what a subscription has had, and what it asks the next kernel for |
//! | `resume` | what becomes of calls and subscriptions when a connection is lost |
//! | [`topic`], `codec` | patterns, payloads |
//! | [`error`] | what can go wrong, and what to do about it |

#![forbid(unsafe_code)]

mod codec;
pub mod connection;
pub mod direct;
mod dispatch;
pub mod error;
pub mod events;
mod inlet;
mod ledger;
pub mod opened;
mod outlet;
pub mod produce;
mod queue;
mod reading;
pub mod reconnect;
pub mod replay;
mod resume;
pub mod shared;
mod state;
pub mod subscription;
pub mod text;
pub mod topic;

pub use connection::{Call, CallOptions, Client, ConnectOptions};
pub use direct::{DirectItem, DirectStream};
pub use error::{CallError, ConnectError, Lost, StreamError};
pub use events::{BusEvent, Cancels, EventItem, Events, Exits, Notices};
pub use opened::Opened;
pub use reconnect::{Change, Reconnect, Watch};
pub use replay::{Page, Replay};
pub use shared::SharedStream;
pub use subscription::{Chunk, Item, Subscription};
pub use text::Text;
