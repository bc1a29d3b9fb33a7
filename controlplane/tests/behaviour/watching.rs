//! Digests of programs and violations of sandboxes, as far as the control plane has to do with them: what is asked of the
//! keeper, what is told to whom.

use crate::harness::{World, config};
use kairo_controlplane::config::Config;
use kairo_dataplane::command::{Command, ProgramCheck};
use kairo_dataplane::control::{
    ExitStatus, Lineage, Moment, Notice, Program, SpawnFailure, SpawnStage, Weakness,
};
use kairo_dataplane::key::ConnectionKey;
use kairo_sandbox::ability::{Ability, Answer};
use kairo_sandbox::violation::{Denied, What};
use serde_json::{Value, json};

/// A machine that has all of it.
fn world() -> World {
    let ability = Ability {
        landlock_abi: 9,
        seccomp_filter: true,
        no_new_privileges: true,
        exec_stop: Answer::Allowed,
        denied_calls: Answer::Allowed,
        ..Ability::none()
    };
    World::with(Config { ability, ..config() })
}

fn program(digest: [u8; 32], weakness: Option<Weakness>) -> Box<Program> {
    Box::new(Program { path: b"/bin/a".to_vec(), digest, weakness })
}

#[test]
fn a_digest_goes_to_the_keeper_and_what_was_found_to_the_caller() {
    let mut world = world();
    let owner = world.owner();
    let params = |options: Value| json!({ "id": "p", "command": ["a"], "options": options });
    let call = world.start(owner, "process.spawn", params(json!({ "programDigest": "07".repeat(32) })));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(spawn.program, Some(ProgramCheck { wanted: Some([7; 32]), accept_weaker: false }));
    world.notice(Notice::Measured { process: spawn.process, program: program([8; 32], None) });
    let failure = SpawnFailure { stage: SpawnStage::Program, errno: 0 };
    world.notice(Notice::SpawnFailed { process: spawn.process, failure });
    let refusal = world.answer(owner, &call).unwrap().unwrap_err();
    assert_eq!(refusal.info.as_ref().unwrap().code, "E_PERMISSION_DENIED");
    assert!(
        refusal.text.contains(&"08".repeat(32)) && refusal.text.contains(&"07".repeat(32)),
        "{refusal:?}"
    );
    let call = world.start(owner, "process.spawn", params(json!({ "measureProgram": true })));
    let spawn = world.take_spawn().unwrap();
    assert_eq!(spawn.program, Some(ProgramCheck::default()));
    world.notice(Notice::Measured {
        process: spawn.process,
        program: program([8; 32], Some(Weakness::Script)),
    });
    world.bear(&spawn);
    let answer = world.answer(owner, &call).unwrap().unwrap();
    let told = json!({ "path": "/bin/a", "digest": "08".repeat(32), "weaker": "script" });
    assert_eq!(answer["program"], told);
    let mut other = World::new();
    let owner = other.owner();
    let (code, text) =
        other.fails(owner, "process.spawn", params(json!({ "programDigest": "07".repeat(32) })));
    assert_eq!(code, "E_UNSUPPORTED", "{text}");
}

/// A watched process of this id, and its pid.
fn watched(world: &mut World, owner: ConnectionKey, id: &str) -> (kairo_dataplane::key::ProcessKey, i32) {
    let options =
        json!({ "sandbox": { "acceptWeaker": ["files", "network", "ports"] }, "watch": true, "cwd": "/" });
    world.start(owner, "process.spawn", json!({ "id": id, "command": ["a"], "options": options }));
    let first = world.take(|command| matches!(command, Command::Watch).then_some(()));
    assert!(first.is_some(), "it is heard before it runs");
    let spawn = world.take_spawn().unwrap();
    assert!(spawn.containment.as_ref().is_some_and(|containment| containment.later.log));
    world.bear(&spawn)
}

fn denies(world: &mut World, pid: i32, killed: bool, lineage: &Lineage) {
    let what = What::Call { architecture: 0xC000_003E, number: 272, killed };
    world.tell(|kernel, out| {
        kernel.violated(Moment::default(), &Denied { pid, what: what.clone() }, lineage, 3, out);
        false
    });
}

fn violations(world: &mut World, of: ConnectionKey) -> Vec<Value> {
    let told = world.events(of).into_iter().filter(|(topic, _)| topic == "kairo.security.violation");
    told.map(|(_, data)| data).collect()
}

#[test]
fn a_violation_is_its_processes_and_nobody_elses() {
    let mut world = world();
    let (owner, other) = (world.owner(), world.user(2_000));
    for who in [owner, other] {
        world.ok(who, "subscribe", json!({ "topic": "kairo.security.violation" }));
    }
    let (key, pid) = watched(&mut world, owner, "p");
    world.run(owner, "free");
    denies(&mut world, pid, false, &Lineage::Unknown);
    let below = Lineage::Child { ancestors: vec![77, pid], session: None };
    denies(&mut world, 77, false, &below);
    // Of others, and of what isn't contained, nothing is told.
    denies(&mut world, 78, false, &Lineage::Unknown);
    denies(&mut world, pid + 1, false, &Lineage::Unknown);
    let told = violations(&mut world, owner);
    let pids: Vec<&Value> = told.iter().map(|told| &told["pid"]).collect();
    assert_eq!((pids, told[0]["count"].clone()), (vec![&json!(pid), &json!(77)], json!(3)), "{told:?}");
    assert!(violations(&mut world, other).is_empty());
    // Heard of after the exit it led to; and of an end by the filter once, from wherever it is heard first.
    world.exits(key, ExitStatus::Signal { signal: 31, core: false });
    denies(&mut world, pid, true, &Lineage::Unknown);
    denies(&mut world, pid, false, &Lineage::Unknown);
    let told = violations(&mut world, owner);
    let rules: Vec<&Value> = told.iter().map(|told| &told["rule"]).collect();
    assert_eq!(rules.len(), 2, "{told:?}");
    assert_eq!(rules[0], "architecture");
}
