//! What is approved for the programs of a pipeline: each is named to whoever decides, and each is bound in its place.

use crate::harness::{World, config};
use kairo_controlplane::config::Config;
use kairo_dataplane::command::ProgramCheck;
use kairo_dataplane::key::ConnectionKey;
use kairo_sandbox::ability::{Ability, Answer};
use kairo_sandbox::protection::Protection;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A machine that reads what it executes.
fn measuring() -> Config {
    Config { ability: Ability { exec_stop: Answer::Allowed, ..Ability::none() }, ..config() }
}

/// A manifest that any machine can contain.
fn manifest() -> String {
    let off: BTreeMap<_, _> = Protection::ALL.iter().map(|of| (of.name(), json!("off"))).collect();
    json!({ "manifest": 1, "name": "joiner", "version": "1", "protections": off }).to_string()
}

/// `a` is `/bin/a` with the digest `0a0a…`.
fn program(name: char) -> Value {
    json!({ "path": format!("/bin/{name}"), "digest": digest(name) })
}

fn digest(name: char) -> String {
    format!("0{name}").repeat(32)
}

fn programs(names: &str) -> Vec<Value> {
    names.chars().map(program).collect()
}

fn request(names: &str) -> Value {
    json!({ "manifest": manifest(), "programs": programs(names) })
}

/// Asks, and has it approved for good.
fn approve(world: &mut World, by: ConnectionKey, asked: Value) -> Value {
    approve_for(world, by, asked, "always")
}

fn approve_for(world: &mut World, by: ConnectionKey, asked: Value, scope: &str) -> Value {
    let asked = world.ok(by, "permission.request", asked);
    assert_eq!(asked["status"], "pending", "{asked}");
    let owner = world.owner();
    let approval = json!({ "requestId": asked["requestId"], "scope": scope });
    world.ok(owner, "permission.approve", approval)["grant"].clone()
}

/// A stage for each letter: a capital is a skill's that says its program, `?` one that doesn't, any other is nobody's.
fn pipeline(id: &str, stages: &str) -> Value {
    let stage = |name: char| match name {
        '?' => json!({ "command": ["x"], "options": { "skill": { "name": "joiner" } } }),
        name if name.is_ascii_uppercase() => {
            let skill = json!({ "name": "joiner", "programDigest": digest(name.to_ascii_lowercase()) });
            json!({ "command": ["x"], "options": { "skill": skill } })
        }
        _ => json!({ "command": ["x"] }),
    };
    json!({ "id": id, "stages": stages.chars().map(stage).collect::<Vec<_>>() })
}

/// What each stage has to be, if the whole is started.
fn started(world: &mut World, by: ConnectionKey, params: Value) -> Vec<Option<ProgramCheck>> {
    world.start(by, "pipeline.spawn", params);
    std::iter::from_fn(|| world.take_spawn()).map(|spawn| spawn.program).collect()
}

fn bound(name: char) -> Option<ProgramCheck> {
    let digit = name as u8 - b'a' + 0x0a;
    Some(ProgramCheck { wanted: Some([digit; 32]), accept_weaker: false })
}

fn refused(world: &mut World, by: ConnectionKey, method: &str, params: Value) -> Value {
    let error = world.call(by, method, params).unwrap_err().info.unwrap();
    let details: Value = error.details.unwrap().decode().unwrap();
    json!({ "code": error.code, "field": details["field"] })
}

#[test]
fn a_pipeline_is_approved_for_the_programs_of_all_its_stages_and_asked_about_when_one_is_another() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    world.ok(owner, "subscribe", json!({ "topic": "kairo.permission.*" }));
    let grant = approve(&mut world, owner, request("abc"));
    assert_eq!(grant["manifest"]["programs"], json!(programs("abc")));
    let events = world.events(owner);
    let told: Vec<_> = events.iter().map(|(topic, data)| (topic.as_str(), data)).collect();
    let [("kairo.permission.requested", requested), ("kairo.permission.approved", given)] = told[..] else {
        panic!("{told:?}")
    };
    for of in [requested, &given["grant"]] {
        assert_eq!(of["manifest"]["programs"], json!(programs("abc")), "{of}");
    }
    let again = world.ok(owner, "permission.request", request("abc"));
    assert_eq!((&again["status"], &again["grant"]["id"]), (&json!("approved"), &grant["id"]));
    // What was approved is what runs, whether or not it is said once more.
    for (id, stages) in [("p", "ABC"), ("q", "???")] {
        let checks = started(&mut world, owner, pipeline(id, stages));
        assert_eq!(checks, [bound('a'), bound('b'), bound('c')], "{stages}");
    }
    // The second stage's file is another one by now.
    let asked = world.ok(owner, "permission.request", request("adc"));
    assert_eq!((&asked["status"], &asked["newly"]), (&json!("pending"), &json!([])));
    assert_eq!(asked["changed"], json!(programs("d")));
    let pending = world.ok(owner, "permission.pending", json!({}))["requests"][0].clone();
    assert_eq!(pending["manifest"]["programs"], json!(programs("adc")));
    assert_eq!(pending["changed"], json!(programs("d")));
    let (_, event) = world.events(owner).pop().unwrap();
    assert_eq!(event, pending);
    let denied = json!("E_PERMISSION_DENIED");
    assert_eq!(refused(&mut world, owner, "pipeline.spawn", pipeline("r", "ADC"))["code"], denied);
    let mut own = pipeline("r", "???");
    own["stages"][1]["options"]["programDigest"] = json!(digest('d'));
    let refusal = refused(&mut world, owner, "pipeline.spawn", own);
    assert_eq!(refusal, json!({ "code": denied, "field": "stages[1].options.programDigest" }));
    assert!(world.take_spawn().is_none());
    // In another order they are another pipeline, and so are more and fewer of them.
    for names in ["acb", "ab", "abca", "a"] {
        assert_eq!(world.ok(owner, "permission.request", request(names))["status"], "pending", "{names}");
    }
}

#[test]
fn what_is_approved_for_several_programs_is_for_them_together_and_for_one_wherever_that_is() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    approve(&mut world, owner, request("ab"));
    let denied = json!("E_PERMISSION_DENIED");
    let alone = |name: &str| {
        let skill = json!({ "name": "joiner", "programDigest": digest('a') });
        json!({ "id": name, "command": ["x"], "options": { "skill": skill } })
    };
    assert_eq!(refused(&mut world, owner, "process.spawn", alone("x"))["code"], denied);
    for (id, stages) in [("one", "A"), ("more", "AB?"), ("turned", "BA"), ("fewer", "x?")] {
        assert_eq!(
            refused(&mut world, owner, "pipeline.spawn", pipeline(id, stages))["code"],
            denied,
            "{id}"
        );
    }
    // Stages that are nobody's skill don't count.
    let checks = started(&mut world, owner, pipeline("mixed", "xA?x"));
    assert_eq!(checks, [None, bound('a'), bound('b'), None]);
    let of_one = json!({ "manifest": manifest(), "program": "/bin/a", "programDigest": digest('a') });
    let grant = approve(&mut world, owner, of_one);
    assert_eq!(grant["manifest"]["programs"], json!(programs("a")));
    assert_eq!(started(&mut world, owner, pipeline("twice", "A?")), [bound('a'), bound('a')]);
    world.start(owner, "process.spawn", alone("x"));
    assert_eq!(world.take_spawn().unwrap().program, bound('a'));
    // One in a list is one.
    assert_eq!(world.ok(owner, "permission.request", request("a"))["status"], "approved");
    // The approval of another number of programs was for the same skill: this one has taken its place.
    assert_eq!(refused(&mut world, owner, "pipeline.spawn", pipeline("gone", "AB"))["code"], denied);
}

#[test]
fn a_program_may_start_a_pipeline_as_a_skill_if_all_its_programs_were_named() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let (_, pid) = world.run(owner, "p");
    let child = world.child(&[pid], None);
    let nameless = json!({ "manifest": manifest() });
    let refusal = refused(&mut world, child, "permission.request", nameless.clone());
    assert_eq!(refusal["field"], "programDigest");
    approve(&mut world, owner, nameless);
    let denied = json!("E_PERMISSION_DENIED");
    assert_eq!(refused(&mut world, child, "pipeline.spawn", pipeline("c", "??"))["code"], denied);
    approve(&mut world, child, request("ab"));
    assert_eq!(started(&mut world, child, pipeline("c", "??")), [bound('a'), bound('b')]);
}

#[test]
fn once_is_one_start_of_the_whole_pipeline_and_lasts_as_long_as_any_stage_does() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let grant = approve_for(&mut world, owner, request("abc"), "once");
    let revoked = "kairo.permission.revoked";
    world.ok(owner, "subscribe", json!({ "topic": revoked }));
    let told = |world: &mut World| {
        let events = world.events(owner).into_iter().filter(|(topic, _)| topic == revoked);
        events.map(|(_, event)| event).collect::<Vec<_>>()
    };
    world.start(owner, "pipeline.spawn", pipeline("p", "???"));
    let spawns: Vec<_> = std::iter::from_fn(|| world.take_spawn()).collect();
    assert_eq!(spawns.len(), 3);
    for spawn in &spawns {
        world.bear(spawn);
    }
    let denied = json!("E_PERMISSION_DENIED");
    assert_eq!(refused(&mut world, owner, "pipeline.spawn", pipeline("q", "???"))["code"], denied);
    for ends in [0, 2] {
        world.finish(spawns[ends].process, 0);
        let left = world.ok(owner, "permission.grants", json!({}))["grants"].clone();
        assert_eq!((left[0]["id"].clone(), left.as_array().unwrap().len()), (grant["id"].clone(), 1));
        assert_eq!((world.take_signal(), told(&mut world)), (None, Vec::new()), "the others go on");
    }
    world.finish(spawns[1].process, 0);
    assert_eq!(world.ok(owner, "permission.grants", json!({}))["grants"], json!([]));
    let told = told(&mut world);
    let [revoked] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&revoked["grant"]["id"], &revoked["cause"]), (&grant["id"], &json!("used")));
    assert_eq!(world.ok(owner, "permission.request", request("abc"))["status"], "pending");
    // One for a single program is one stage's.
    approve_for(&mut world, owner, request("a"), "once");
    assert_eq!(refused(&mut world, owner, "pipeline.spawn", pipeline("r", "??"))["code"], denied);
    assert!(world.take_spawn().is_none());
}

#[test]
fn a_later_kernel_knows_for_which_programs_it_was() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let grant = approve(&mut world, owner, request("ab"));
    let mut next = World::over(measuring(), world.kept);
    let owner = next.owner();
    assert_eq!(next.ok(owner, "permission.grants", json!({}))["grants"], json!([grant]));
    assert_eq!(next.ok(owner, "permission.request", request("ab"))["status"], "approved");
    assert_eq!(next.ok(owner, "permission.request", request("ac"))["changed"], json!(programs("c")));
    assert_eq!(started(&mut next, owner, pipeline("p", "??")), [bound('a'), bound('b')]);
}

/// What a manifest was before it could have several programs.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Former {
    name: String,
    version: String,
    digest: String,
    #[serde(default)]
    program: Option<String>,
    #[serde(default)]
    program_digest: Option<String>,
}

#[test]
fn whoever_knows_of_one_program_reads_what_it_did() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let asked = world.ok(owner, "permission.request", json!({ "manifest": manifest() }));
    assert_eq!((&asked["status"], &asked["changed"]), (&json!("pending"), &Value::Null));
    let pending = world.ok(owner, "permission.pending", json!({}))["requests"][0].clone();
    assert_eq!(pending["changed"], Value::Null);
    let former: Former = serde_json::from_value(pending["manifest"].clone()).expect("nothing is new there");
    assert_eq!((former.name.as_str(), former.program), ("joiner", None));
    let of_one = json!({ "manifest": manifest(), "program": "/bin/a", "programDigest": digest('a') });
    let mut told = approve(&mut world, owner, of_one)["manifest"].take();
    told.as_object_mut().unwrap().remove("programs");
    let former: Former = serde_json::from_value(told).expect("the rest is as it was");
    assert_eq!(former.program.as_deref(), Some("/bin/a"));
    assert_eq!(former.program_digest, Some(digest('a')));
}

#[test]
fn programs_that_mean_nothing_are_refused_by_their_field() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let of = |programs: Value| json!({ "manifest": manifest(), "programs": programs });
    let both = json!({ "manifest": manifest(), "program": "/bin/a", "programDigest": digest('a'), "programs": programs("ab") });
    let long = json!([{ "path": "a".repeat(4_096), "digest": digest('a') }]);
    for (wrong, field) in [
        (of(json!([program('a'), { "path": "/bin/b", "digest": "0b" }])), "programs[1].digest"),
        (of(json!(vec![program('a'); 33])), "programs"),
        (of(long), "program"),
        (both, "programs"),
        (json!({ "permission": "event.publish", "programs": programs("ab") }), "programs"),
    ] {
        assert_eq!(refused(&mut world, owner, "permission.request", wrong)["field"], field);
    }
    let most = of(json!(vec![program('a'); 32]));
    assert_eq!(world.ok(owner, "permission.request", most)["status"], "pending");
}

#[test]
fn the_names_of_programs_take_room_among_what_waits() {
    let mut world = World::with(measuring());
    let owner = world.owner();
    let long = json!(vec![json!({ "path": "a".repeat(4_095), "digest": digest('a') }); 32]);
    let mut waiting = 0;
    let error = loop {
        let asked = json!({ "manifest": manifest(), "programs": long, "session": format!("tty{waiting}") });
        match world.call(owner, "permission.request", asked) {
            Ok(asked) => assert_eq!(asked["status"], "pending"),
            Err(error) => break error.info.unwrap(),
        }
        waiting += 1;
    };
    let limit: Value = error.details.unwrap().decode().unwrap();
    assert_eq!((error.code.as_str(), &limit["limit"]), ("E_BUSY", &json!("requestBytesMax")));
    assert!(waiting <= (1 << 20) / (32 * 4_095), "{waiting} wait");
}
