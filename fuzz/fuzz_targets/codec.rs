//! `cargo fuzz run codec`
#![no_main]

#[path = "../bodies/codec.rs"]
mod codec;

libfuzzer_sys::fuzz_target!(|input: &[u8]| codec::codec(input));
