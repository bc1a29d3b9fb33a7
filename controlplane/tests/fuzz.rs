//! The fuzz target `dispatch`, from fixed seeds.

use kairo_wire::method::METHODS;
use std::collections::BTreeSet;

#[path = "../../fuzz/bodies/dispatch.rs"]
mod dispatch;
#[path = "../../fuzz/bodies/seed.rs"]
mod seed;

use seed::each_seed;

const SCRIPTS: u64 = 1500;

#[test]
fn no_script_breaks_the_tables_or_the_order_of_answers() {
    let methods: Vec<&str> = METHODS.iter().map(|row| row.name).collect();
    let mut seen = BTreeSet::new();
    each_seed(SCRIPTS, |seed| {
        let script = seed::script(seed, &methods);
        seen.append(&mut dispatch::dispatch(&script));
    });
    // Scripts that go nowhere would break nothing.
    let everything = [
        "abandon write",
        "announce",
        "arm",
        "close",
        "close stdin",
        "disarm",
        "forget",
        "reply",
        "resize",
        "shutdown",
        "signal",
        "spawn",
        "subscribe",
        "unsubscribe",
        "work",
        "write",
    ];
    assert!(everything.iter().all(|name| seen.contains(name)), "only reached {seen:?}");
}

#[test]
fn noise_is_no_script_that_breaks_anything() {
    each_seed(SCRIPTS, |seed| {
        let noise: Vec<u8> = (0..seed.below(200)).map(|_| seed.draw() as u8).collect();
        dispatch::dispatch(&noise);
    });
}
