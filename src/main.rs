//! The `kairo` program: which of its three lives this one is.
//!
//! Started as `kairo keeper` it is the small process that forks, and nothing else of the program is touched: no
//! argument parser, no configuration, no thread. Otherwise it is the command line, which may become the daemon
//! (`kairo serve`), a kernel for one program (`kairo run`), or a client.

#![forbid(unsafe_code)]

mod adapters;
mod cli;
mod config;
mod doctor;
mod kernel;
mod log;
mod logging;
mod service;
mod socket_guard;
mod state;
mod violations;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    if words.nth(1).is_some_and(|word| word == "keeper") {
        let code = kairo_dataplane::keeper::main::run(words);
        return ExitCode::from((code & 0xff) as u8);
    }
    cli::main(std::env::args_os().collect())
}
