//! What the control plane promises, sentence by sentence, driven directly: no reactor, no clock, no process.
#![allow(clippy::unwrap_used, reason = "a test that finds nothing where something must be has failed")]

mod adapting;
mod audit;
mod bus;
mod calls;
mod causality;
mod consumers;
mod deeds;
mod ends;
mod harness;
mod intents;
mod limits;
mod lines;
mod named;
mod opening;
mod permissions;
mod permissions_bounds;
mod permissions_hostile;
mod permissions_pipelines;
mod pipelines;
mod principals;
mod quotas;
mod receipts;
mod records;
mod requests;
mod retention;
mod spawning;
mod streams;
mod views;
mod waiting;
mod walk;
mod wards;
mod watching;
