//! What is asked of the audit, and what it says of who asks.

use crate::harness::{World, config};
use kairo_controlplane::audit::checkpoint::Key;
use kairo_controlplane::events::log::backend::memory::Memory;
use kairo_controlplane::events::log::{Log, Options};
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};

/// A world whose log has an audit, with its owner.
fn world() -> (World, ConnectionKey, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { boot: "b".to_owned(), audit: Some(Key::new(&[8; 32])) };
    let (log, _) = Log::over_backend_in(Box::new(Memory::default()), folder.path(), options).unwrap();
    let mut world = World::over(config(), log);
    let owner = world.owner();
    (world, owner, folder)
}

fn types(world: &mut World, owner: ConnectionKey, params: Value) -> Vec<String> {
    let page = world.ok(owner, "audit.query", params);
    let records = page["records"].as_array().unwrap().iter();
    records.map(|one| one["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn who_asks_is_shown_all_that_happened_before_page_by_page() {
    let (mut world, owner, _folder) = world();
    let skill = world.owner();
    world.ok(skill, "identify", json!({"skillId": "x"}));
    for _ in 0..5 {
        world.fails(skill, "kernel.shutdown", json!({}));
    }
    let first = world.ok(owner, "audit.query", json!({"principal": "skill:x", "limit": 3}));
    assert_eq!(first["records"].as_array().unwrap().len(), 3);
    let rest =
        world.ok(owner, "audit.query", json!({"principal": "skill:x", "limit": 3, "after": first["next"]}));
    assert_eq!((rest["records"].as_array().unwrap().len(), &rest["next"]), (2, &Value::Null));
    assert_eq!(rest["head"], world.ok(owner, "audit.status", json!({}))["head"]);
    let (code, text) = world.fails(owner, "audit.query", json!({"type": ""}));
    assert!(code == "E_INVALID_PARAMS" && text.contains("type"), "{text}");
    let (code, _) = world.fails(owner, "audit.verify", json!({"after": 4_000}));
    assert_eq!(code, "E_INVALID_PARAMS");
}

#[test]
fn a_checkpoint_is_made_when_it_is_asked_for_and_only_of_something_new() {
    let (mut world, owner, _folder) = world();
    world.fails(owner, "audit.checkpoint", json!({}));
    let skill = world.owner();
    world.ok(skill, "identify", json!({"skillId": "x"}));
    world.fails(skill, "kernel.shutdown", json!({}));
    let made = world.ok(owner, "audit.checkpoint", json!({}));
    let head = world.ok(owner, "audit.status", json!({}))["head"].clone();
    assert_eq!((&made["checkpoint"]["n"], &made["checkpoint"]["hash"]), (&head["n"], &head["hash"]));
    assert_eq!(world.ok(owner, "audit.checkpoint", json!({})), made);
}

#[test]
fn that_records_are_dropped_is_a_record_that_stays() {
    let (mut world, owner, _folder) = world();
    let skill = world.owner();
    world.ok(skill, "identify", json!({"skillId": "x"}));
    world.fails(skill, "kernel.shutdown", json!({}));
    let signed = world.ok(owner, "audit.checkpoint", json!({}))["checkpoint"]["n"].clone();
    world.advance(1_000);
    let pruned = world.ok(owner, "audit.prune", json!({"beforeMs": 1u64 << 50}));
    assert_eq!(pruned["anchor"]["checkpoint"]["n"], signed);
    let left = types(&mut world, owner, json!({}));
    assert_eq!(left, ["kairo.kernel.called", "kairo.kernel.audit_pruned"]);
    let called = world.ok(owner, "audit.query", json!({}))["records"][0].clone();
    assert_eq!((&called["principal"], &called["data"]["method"]), (&json!("owner"), &json!("audit.prune")));
    assert_eq!(world.ok(owner, "audit.verify", json!({}))["problems"], json!([]));
    let again = world.ok(owner, "audit.prune", json!({"beforeMs": 1}));
    assert_eq!(again["anchor"], pruned["anchor"], "nothing was signed so long ago");
}

#[test]
fn a_kernel_that_keeps_none_says_so() {
    let mut world = World::new();
    let owner = world.owner();
    for method in ["query", "status", "verify", "export", "checkpoint", "prune"] {
        let (code, text) = world.fails(owner, &format!("audit.{method}"), json!({"beforeMs": 1}));
        assert_eq!(code, "E_UNAVAILABLE");
        assert!(text.ends_with("this kernel keeps no audit"), "{text}");
    }
}

#[test]
fn nobody_publishes_what_would_be_a_record() {
    let (mut world, owner, _folder) = world();
    for topic in ["kairo.permission.granted", "kairo.agent.made", "kairo.session.made", "kairo.quota.spent"] {
        assert_eq!(world.fails(owner, "event.publish", json!({"type": topic})).0, "E_PERMISSION_DENIED");
    }
    assert_eq!(types(&mut world, owner, json!({"type": "kairo.permission.>"})), Vec::<String>::new());
}
