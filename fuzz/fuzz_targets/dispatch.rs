//! `cargo fuzz run dispatch`
#![no_main]

#[path = "../bodies/dispatch.rs"]
mod dispatch;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    dispatch::dispatch(input);
});
