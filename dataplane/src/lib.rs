//! The data plane: owns every descriptor, moves every byte, decides nothing.
//!
//! ```text
//!  client ──socket──▶ reactor ──Control──▶ whoever decides
//!                      │  ▲  ◀──Command──
//!               splice │  │ read
//!                      ▼  │
//!            staging pipe, ring ◀── child's pipes, PTYs ◀──fds── keeper
//! ```
//!
//! One reactor thread per core owns its connections and processes alone; threads talk by mail. What may be
//! decided only above comes down as a [`command`], what happens goes up through [`control`]. Who may see a byte
//! is not known here.

pub mod budget;
pub mod command;
pub mod control;
pub mod driver;
pub mod keeper;
pub mod key;
pub mod limits;
pub mod meter;
pub mod plane;
pub mod points;

pub mod reactor;
pub mod simulation;
pub mod spool;
pub mod stream;
pub mod sys;
pub mod transport;
