//! The whole kernel, control plane and reactor, in a fake world: one seed, one history.
//!
//! Clients come, call, read slowly and vanish; children write a sequence in which every offset has one right byte,
//! leave grandchildren behind and exit; sends are cut short, readiness is a lie, answers come late. Whatever happens: a
//! reader that makes its source wait gets every byte, one that doesn't gets exact gaps, every stream ends with its
//! true total, the exit notice comes after the leader's bytes, every call is answered once, and nothing is left.
//!
//! `KAIRO_SEEDS` says how many seeds (default 40), `KAIRO_SEED` runs one.

#![forbid(unsafe_code)]

mod client;
mod keeper;
mod world;

#[test]
fn every_byte_is_delivered_or_named_in_every_history() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = match number("KAIRO_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("KAIRO_SEEDS").unwrap_or(40)),
    };
    let mut bytes = 0;
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| world::history(seed));
        bytes += outcome.unwrap_or_else(|cause| {
            println!("seed {seed} fails: KAIRO_SEED={seed} shows it again");
            std::panic::resume_unwind(cause)
        });
    }
    println!("{count} histories, {bytes} bytes checked");
    assert!(bytes > 0);
}

#[test]
fn one_seed_is_one_history() {
    assert_eq!(world::history(12_345), world::history(12_345));
}
