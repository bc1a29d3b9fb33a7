//! How a subscriber receives: as [`frames`] on its connection, or as raw bytes on a [`descriptor`].
//!
//! A transport knows bytes and how full its other end is. What is sent when, and to whom, is the reactor's.

pub mod descriptor;
pub mod frames;
pub mod outflow;
