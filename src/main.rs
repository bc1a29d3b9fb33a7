//! The `kairo` program.
#![forbid(unsafe_code)]

mod config;
mod logging;
mod worker;

fn main() {}
