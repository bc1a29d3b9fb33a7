//! Adapters, as far as the control plane has to do with them: who gets one, what a child is started with, who is told.

use crate::harness::{Alice, World, config};
use kairo_controlplane::config::{Adapter, Adapters, Config, NoSuchAdapter, Preparation};
use kairo_dataplane::command::{Adapt, Command, Commands};
use kairo_dataplane::control::{ExitStatus, Notice};
use kairo_dataplane::key::ProcessKey;
use kairo_wire::event::ProcessProgress;
use kairo_wire::id::ProcessId;
use serde_json::json;

/// Knows `side`, which suits films, and `plain`, which reads stderr.
struct Two;

impl Adapters for Two {
    fn choose(&self, asked: &str, program: &[u8]) -> Result<Option<Adapter>, NoSuchAdapter> {
        let of =
            |name: &str| Adapter { name: name.to_owned(), stderr: name == "plain", side: name == "side" };
        match asked {
            "auto" => Ok((program == b"film").then(|| of("side"))),
            "side" | "plain" => Ok(Some(of(asked))),
            _ => Err(NoSuchAdapter),
        }
    }
    fn prepare(&self, adapter: &str, session: &str) -> Preparation {
        Preparation {
            arguments: vec![b"--report".to_vec(), format!("{adapter}/{session}").into_bytes()],
            environment: vec![(b"A".to_vec(), b"ours".to_vec()), (b"B".to_vec(), b"ours".to_vec())],
        }
    }
}

fn world(change: impl FnOnce(Config) -> Config) -> World {
    World::with(change(Config { adapters: Box::new(Two), ..config() }))
}

fn take_adapt(world: &mut World) -> Option<Adapt> {
    world.take(|command| match command {
        Command::Adapt(news) => Some(news.clone()),
        _ => None,
    })
}

fn progress(world: &mut World, process: ProcessKey) {
    let event = ProcessProgress {
        id: ProcessId::from_text("p").unwrap(),
        session: "s".to_owned(),
        adapter: "side".to_owned(),
        done: Some(1.0),
        total: None,
        unit: None,
        rate: None,
        eta_ms: None,
        percent: None,
        raw: [("frame".to_owned(), "1".to_owned())].into(),
        broken_lines: 0,
    };
    let at = world.at;
    world.tell(|kernel, out: &mut Commands| {
        kernel.progress(at, process, &event, out);
        false
    });
}

#[test]
fn a_child_is_started_with_what_its_adapter_adds_and_told_of_without_it() {
    let mut world = world(|config| config);
    let owner = world.owner();
    let options = json!({ "adapter": "auto", "env": { "A": "theirs" }, "secretArgs": [1] });
    world.start(owner, "process.spawn", json!({ "id": "p", "command": ["film", "x"], "options": options }));
    let Some(Command::Spawn(spawn)) = world.commands.last() else { panic!("no spawn") };
    let report = format!("side/{}", spawn.session);
    assert_eq!(spawn.argv, [&b"film"[..], b"--report", report.as_bytes(), b"x"]);
    let has = |line: &str| spawn.env.iter().any(|one| one == line.as_bytes());
    assert!(has("A=theirs") && has("B=ours"));
    assert!(take_adapt(&mut world).is_none(), "it doesn't run yet");
    let (process, _) = world.born();
    let Some(Adapt::Begun(begun)) = take_adapt(&mut world) else { panic!("nobody is told") };
    assert_eq!(
        (begun.process, begun.adapter.as_str(), begun.stderr, begun.resumed),
        (process, "side", true, false)
    );
    let status = world.ok(owner, "process.status", json!({ "id": "p", "detail": true }));
    assert_eq!(status["detail"]["argv"], json!(["film", "<secret>"]));
    world.exits(process, ExitStatus::Code(0));
    assert!(matches!(take_adapt(&mut world), Some(Adapt::Over(over)) if over == process));
}

#[test]
fn progress_is_told_to_those_who_may_see_the_process_and_follows_from_its_birth() {
    let mut world = world(|config| Config { owner_uid: 0, accounts: Box::new(Alice), ..config });
    let (root, alice) = (world.connect(0, kairo_dataplane::control::Lineage::Outside), world.user(2_000));
    for listener in [root, alice] {
        world.ok(listener, "subscribe", json!({ "topic": "kairo.process.*" }));
    }
    let (process, _) = world.run_with(root, json!({ "id": "p", "command": ["film"] }));
    progress(&mut world, process);
    let events = world.envelopes(root);
    let of = |topic: &str| events.iter().find(|event| event["topic"] == topic).expect(topic);
    let (born, told) = (of("kairo.process.spawned"), of("kairo.process.progress"));
    assert_eq!((&told["causationId"], &told["correlationId"]), (&born["id"], &born["correlationId"]));
    assert_eq!(told["payload"]["raw"]["frame"], "1");
    assert!(world.envelopes(alice).is_empty(), "it is not hers");
    // Whoever says it of a process that is forgotten says it to nobody.
    progress(&mut world, ProcessKey { serial: 12_345, ..process });
    assert!(world.envelopes(root).is_empty());
}

#[test]
fn what_can_not_be_read_is_refused_and_auto_refuses_nothing() {
    let mut plain = world(|config| config);
    let owner = plain.owner();
    let spawn = |program: &str, options| json!({ "id": "p", "command": [program], "options": options });
    let (code, text) = plain.fails(owner, "process.spawn", spawn("film", json!({ "adapter": "nobody" })));
    assert!(code == "E_INVALID_PARAMS" && text.contains("options.adapter"), "{text}");
    plain.run_with(owner, spawn("sh", json!({ "adapter": "auto" })));
    assert!(take_adapt(&mut plain).is_none(), "none suits");

    let mut embedded = world(|config| Config { embedded: true, ..config });
    let owner = embedded.owner();
    let options = json!({ "adapter": "plain", "stderr": "inherit" });
    assert_eq!(embedded.fails(owner, "process.spawn", spawn("sh", options)).0, "E_CONFLICT");

    let mut foreign = world(|config| Config { owner_uid: 0, accounts: Box::new(Alice), ..config });
    let alice = foreign.user(2_000);
    let (code, text) = foreign.fails(alice, "process.spawn", spawn("film", json!({ "adapter": "side" })));
    assert!(code == "E_UNSUPPORTED" && text.contains("options.adapter"), "{text}");
}

#[test]
fn of_a_spawn_that_fails_nobody_is_told() {
    let mut world = world(|config| config);
    let owner = world.owner();
    world.start(
        owner,
        "process.spawn",
        json!({ "id": "p", "command": ["film"], "options": { "adapter": "auto" } }),
    );
    let process = world.take_spawn().expect("a spawn is under way").process;
    let failure = kairo_dataplane::control::SpawnFailure {
        stage: kairo_dataplane::control::SpawnStage::Exec,
        errno: 2,
    };
    world.notice(Notice::SpawnFailed { process, failure });
    assert!(take_adapt(&mut world).is_none());
}
