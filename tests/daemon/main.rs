//! Sentences about the real daemon, each with real children, each on both drivers where the driver may matter.
//!
//! One program for all topics: they share the harness in `support`, and a machine with two cores links once. Run
//! a topic with `cargo test --test daemon streams::`. What needs root says so and is skipped by name without it;
//! with root some tests also run a daemon as an ordinary user.

#![forbid(unsafe_code)]

mod adapters;
mod adoption;
mod audit;
mod bad_input;
mod bus;
mod cli;
mod counting;
mod earlier;
mod events;
mod fifo;
mod framed;
mod framed_lives;
mod intents;
mod library;
mod limits;
mod numbers;
mod open;
mod outliving;
mod permissions;
mod pipelines;
mod principals;
mod processes;
mod produce;
mod produced;
mod programs;
mod pty;
mod quotas;
mod reconnect;
mod relay;
mod retention;
mod sandbox;
mod service;
mod shared;
mod soak;
mod spool;
mod state;
mod streams;
mod support;
mod views;
mod ways_in;
mod wire_v1;
