//! A few dozen rounds of chaos on each driver, and the proof that a violation is found: `cargo test --test chaos`.
//!
//! The same rounds as `cargo xtask chaos` runs, see `docs/CHAOS.md`. This program has a `main` of its own, because
//! the children of its rounds are itself in other roles; of the standard harness's arguments it knows those that
//! choose tests. Rounds on each driver: 14, or `KAIRO_CHAOS_ROUNDS`; of the seed `KAIRO_CHAOS_SEED`, or always the
//! same.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use xtask::chaos::{Options, run};

/// Name and test. A test that fails panics.
const TESTS: &[(&str, fn())] = &[
    ("every_kind_of_violation_is_found", every_kind_of_violation_is_found),
    ("kernels_on_io_uring_die_and_nothing_is_lost", || rounds("uring")),
    ("kernels_on_poll_die_and_nothing_is_lost", || rounds("poll")),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "child") {
        return xtask::child::main(&words);
    }
    let chosen = chosen(&words);
    if words.iter().any(|word| word == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let begun = Instant::now();
    let failed: Vec<&str> = chosen
        .iter()
        .filter(|(name, test)| {
            let is_well = std::panic::catch_unwind(test).is_ok();
            println!("test {name} ... {}", if is_well { "ok" } else { "FAILED" });
            !is_well
        })
        .map(|(name, _)| *name)
        .collect();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = chosen.len() - failed.len();
    println!("\ntest result: {word}. {passed} passed; {} failed; {:?}\n", failed.len(), begun.elapsed());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tests that the arguments of `cargo test` ask for.
fn chosen(words: &[String]) -> Vec<(&'static str, fn())> {
    let with_value = ["--skip", "--test-threads", "--format", "--color", "--logfile", "-Z"];
    let follows = |at: usize, flags: &[&str]| at > 0 && flags.contains(&words[at - 1].as_str());
    let plain =
        words.iter().enumerate().filter(|(at, word)| !word.starts_with('-') && !follows(*at, &with_value));
    let wanted: Vec<&String> = plain.map(|(_, word)| word).collect();
    let skipped: Vec<&String> =
        words.iter().enumerate().filter(|(at, _)| follows(*at, &["--skip"])).map(|(_, word)| word).collect();
    let is_exact = words.iter().any(|word| word == "--exact");
    let matches =
        |name: &str, word: &String| if is_exact { name == word } else { name.contains(word.as_str()) };
    let is_chosen = |name: &str| {
        (wanted.is_empty() || wanted.iter().any(|word| matches(name, word)))
            && !skipped.iter().any(|word| matches(name, word))
    };
    TESTS.iter().copied().filter(|(name, _)| is_chosen(name)).collect()
}

/// Runs rounds and returns the number of violations.
fn violations(words: &[&str]) -> u64 {
    let own = std::env::current_exe().expect("a running program has a path").display().to_string();
    let child = [own, "child".to_owned()];
    let options = Options::of(words).expect("the flags are right");
    run(&options, Path::new(env!("CARGO_BIN_EXE_kairo")), &child).expect("rounds can be run")
}

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn rounds(driver: &str) {
    if driver == "uring" && io_uring::IoUring::new(8).is_err() {
        return println!("skipped, this system forbids io_uring");
    }
    let (rounds, seed) = (setting("KAIRO_CHAOS_ROUNDS", "14"), setting("KAIRO_CHAOS_SEED", "0x5eed"));
    assert_eq!(
        violations(&["--rounds", &rounds, "--seed", &seed, "--driver", driver, "--points"]),
        0,
        "see above"
    );
}

fn every_kind_of_violation_is_found() {
    let kinds = [
        ("byte", "flood"),
        ("again", "flood"),
        ("cut", "outlets"),
        ("byte", "relayed"),
        ("byte", "framed"),
        ("again", "framed"),
        ("skipped", "sifted"),
        ("visited", "visited"),
        ("produced", "producers"),
        ("produced", "in_place"),
        ("exit", "sleepy"),
        ("twice", "sleepy"),
        ("told", "sleepy"),
        ("written", "echo"),
        ("written", "ways"),
        ("untold", "phoenix"),
        ("orphan", "sleepy"),
        ("file", "sleepy"),
        ("descriptor", "sleepy"),
        ("crash", "sleepy"),
        ("unlogged", "publish"),
        ("published", "publish"),
        ("cause", "publish"),
        ("hole", "publish"),
        ("missed", "publish"),
        ("heard", "publish"),
        ("redone", "publish"),
        ("spared", "intents"),
        ("touched", "intents"),
    ];
    let mut well = "";
    for (kind, load) in kinds {
        let words = ["--rounds", "1", "--seed", "3", "--driver", "poll", "--kills", "0", "--load", load];
        // Each load once, as those of one load stand together.
        if load != std::mem::replace(&mut well, load) {
            assert_eq!(violations(&words), 0, "{load} is well when nothing is done on purpose");
        }
        let words = [&words[..], &["--sabotage", kind]].concat();
        assert_eq!(violations(&words), 1, "sabotage {kind} is noticed");
    }
}
