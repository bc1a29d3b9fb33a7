//! Streams that are opened with a name in the file system, and what outlives whoever asked for one.

use crate::harness::World;
use kairo_dataplane::command::{Command, Commands, OutletKind, Sink, Subscribe};
use kairo_dataplane::control::{Notice, Outcome};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::keeper::successor::HeldInlet;
use kairo_dataplane::key::{ConnectionKey, Ticket};
use kairo_wire::request::Meta;
use serde_json::{Value, json};

const OTHER: u32 = 1_001;

/// Has a fifo of a process made, and tells the call where it is.
fn opened(world: &mut World, connection: ConnectionKey, params: Value) -> (Box<Subscribe>, Value) {
    let call = world.start(connection, "stream.open", params);
    let (told, ticket) = asked(world);
    world.done(ticket, Ok(Outcome::Named { path: "/run/there".into(), bytes: 4_096 }));
    let result = world.answer(connection, &call).expect("it is answered").expect("it opens");
    (told, result)
}

fn asked(world: &mut World) -> (Box<Subscribe>, Ticket) {
    let told = world.take_subscribe().expect("it is read");
    let Sink::Outlet { kind: OutletKind::Fifo { .. }, ticket } = told.sink else { panic!("{told:?}") };
    (told, ticket)
}

fn fifo(id: &str) -> Value {
    json!({ "id": id, "transport": "fifo" })
}

#[test]
fn a_path_is_told_and_outlives_its_connection_until_it_is_read() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    world.run(owner, "p");
    let (told, result) = opened(&mut world, other, fifo("p"));
    assert_eq!((&result["path"], &result["pipeBytes"]), (&json!("/run/there"), &json!(4_096)));
    assert!(result.get("descriptors").is_none(), "{result}");
    world.disconnect(other);
    assert_eq!(world.take_unsubscribe(), None);
    assert_eq!(world.kernel.census()[..4], [2, 0, 1, 1]);
    world.notice(Notice::Drained { subscription: told.subscription });
    assert_eq!(world.kernel.census()[..4], [1, 0, 1, 0]);
    assert!(world.kernel.broken().is_empty());
}

#[test]
fn whoever_goes_before_it_has_heard_the_path_takes_it_along() {
    let mut world = World::new();
    let (owner, other) = (world.owner(), world.owner());
    world.run(owner, "p");
    world.start(other, "stream.open", fifo("p"));
    let (told, ticket) = asked(&mut world);
    world.disconnect(other);
    assert_eq!(world.take_unsubscribe(), Some(told.subscription));
    world.done(ticket, Ok(Outcome::Named { path: "/run/there".into(), bytes: 4_096 }));
    assert_eq!(world.kernel.census()[..4], [1, 0, 1, 0]);
}

#[test]
fn what_is_taken_back_closes_the_fifo_of_a_connection_that_is_gone() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let grant = json!({ "principal": "agent:a", "permission": "process.read", "resource": "p" });
    let grant = world.ok(owner, "permission.grant", grant)["grant"].clone();
    let agent = world.owner();
    world.ok(agent, "identify", json!({ "agentId": "a" }));
    let (told, result) = opened(&mut world, agent, fifo("p"));
    world.disconnect(agent);
    // Nobody else may end it, and whoever comes under the same name may.
    let stranger = world.user(OTHER);
    let close = json!({ "subscriptionId": result["subscriptionId"] });
    assert_eq!(world.fails(stranger, "stream.close", close).0, "E_PERMISSION_DENIED");
    let revoked = world.ok(owner, "permission.revoke", json!({ "grant": grant["id"] }));
    assert_eq!(revoked["closed"], 1);
    assert_eq!(world.take_unsubscribe(), Some(told.subscription));
    assert_eq!(world.kernel.census()[3], 0);
}

#[test]
fn a_way_into_a_stdin_outlives_its_connection_and_is_taken_back() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let grant = json!({ "principal": "agent:a", "permission": "process.write", "resource": "p" });
    let grant = world.ok(owner, "permission.grant", grant)["grant"].clone();
    let way = |world: &mut World, connection: ConnectionKey| {
        let call = world.start(connection, "stdin.open", json!({ "id": "p", "transport": "fifo" }));
        let ticket = world.take(|command| match command {
            Command::HandStdin { inlet: Some(inlet), ticket, .. } => {
                assert!(inlet.closes && inlet.name.starts_with("stdin_"));
                Some(*ticket)
            }
            _ => None,
        });
        let named = Outcome::Named { path: "/run/there".into(), bytes: 4_096 };
        world.done(ticket.expect("it is asked for"), Ok(named));
        let result = world.answer(connection, &call).expect("it is answered").expect("it opens");
        assert_eq!((&result["path"], &result["descriptors"]), (&json!("/run/there"), &json!([])));
        world.disconnect(connection);
    };
    let ended = |world: &mut World| {
        world.take(|command| match command {
            Command::EndInlet { process } => Some(*process),
            _ => None,
        })
    };
    let agent = world.owner();
    world.ok(agent, "identify", json!({ "agentId": "a" }));
    way(&mut world, agent);
    assert_eq!((world.kernel.census()[0], ended(&mut world)), (2, None));
    let revoked = world.ok(owner, "permission.revoke", json!({ "grant": grant["id"] }));
    assert_eq!((&revoked["closed"], ended(&mut world)), (&json!(1), Some(process)));
    world.notice(Notice::InletOver { process });
    assert_eq!(world.kernel.census()[0], 1);
    // One that isn't taken back ends by itself.
    let other = world.owner();
    way(&mut world, other);
    world.notice(Notice::InletOver { process });
    assert_eq!((world.kernel.census()[0], ended(&mut world)), (1, None));
    assert!(world.kernel.broken().is_empty());
    for (field, value) in [("keepOpen", json!(true)), ("waitMs", json!(1))] {
        let (code, text) = world.fails(owner, "stdin.open", json!({ "id": "p", field: value }));
        assert!(code == "E_INVALID_PARAMS" && text.contains(field), "{text}");
    }
}

/// An agent that may write to `p` by a grant alone; it and the grant's id.
fn agent_by_grant(world: &mut World) -> (ConnectionKey, Value) {
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": "a", "permissions": [] }));
    let grant = json!({ "principal": "agent:a", "permission": "process.write", "resource": "p" });
    let grant = world.ok(owner, "permission.grant", grant)["grant"]["id"].clone();
    let agent = world.owner();
    world.ok(agent, "identify", json!({ "agentId": "a" }));
    (agent, grant)
}

#[test]
fn a_way_into_a_stdin_outlives_its_kernel_and_is_taken_back() {
    let mut before = World::new();
    let owner = before.owner();
    before.start(owner, "process.spawn", json!({ "id": "p", "command": ["a"] }));
    let spawn = before.take_spawn().expect("it is started");
    before.bear(&spawn);
    let (agent, _) = agent_by_grant(&mut before);
    let mut note_of = |connection: ConnectionKey| {
        before.start(connection, "stdin.open", json!({ "id": "p", "transport": "fifo" }));
        let inlet = before.take(|command| match command {
            Command::HandStdin { inlet, .. } => inlet.clone(),
            _ => None,
        });
        inlet.expect("it is asked for").note
    };
    let (of_agent, of_owner) = (note_of(agent), note_of(owner));
    for (note, closed) in [(&of_agent[..], 1), (&of_owner[..], 0), (b"nonsense", 0)] {
        let mut world = World::new();
        world.at = before.at;
        let mut heir = Heir::of_nothing(spawn.process, &spawn.session, 7, 1);
        heir.session.record = spawn.record.to_vec();
        heir.session.ended = false;
        let fd = std::fs::File::open("/dev/null").expect("it is there").into();
        let (path, note) = ("/run/there".into(), note.to_vec());
        heir.session.inlet = Some(HeldInlet { fd, path, until_ns: 5, closes: true, note });
        let (at, mut out) = (world.at, Commands::default());
        let adopted = world.kernel.adopt(at, vec![heir], &mut out);
        let inlet = adopted[0].inlet.as_ref().expect("it goes on");
        assert_eq!((inlet.path.to_str(), inlet.until_ns, inlet.closes), (Some("/run/there"), 5, true));
        world.kernel.settle_adopted(at, &mut out);
        world.carry_out(None, out);
        let (_, grant) = agent_by_grant(&mut world);
        let owner = world.owner();
        let revoked = world.ok(owner, "permission.revoke", json!({ "grant": grant }));
        assert_eq!(revoked["closed"], closed);
        let ended = world.take(|command| match command {
            Command::EndInlet { process } => Some(*process),
            _ => None,
        });
        assert_eq!(ended, (closed == 1).then_some(spawn.process));
        world.notice(Notice::InletOver { process: spawn.process });
        assert!(world.kernel.broken().is_empty());
    }
}

#[test]
fn a_way_into_a_stdin_goes_with_the_intent_it_was_opened_under() {
    let mut world = World::new();
    let owner = world.owner();
    let (process, _) = world.run(owner, "p");
    let intent = world.ok(owner, "intent.begin", json!({ "name": "to write" }))["intentId"].clone();
    let meta = Meta { intent_id: Some(intent.as_str().unwrap().into()), ..Meta::default() };
    world.send_with(owner, &json!("o"), "stdin.open", &fifo("p"), Some(&meta));
    let ticket = world.take(|command| match command {
        Command::HandStdin { ticket, .. } => Some(*ticket),
        _ => None,
    });
    world.done(ticket.unwrap(), Ok(Outcome::Named { path: "/run/there".into(), bytes: 4_096 }));
    assert!(world.answer(owner, &json!("o")).unwrap().is_ok());
    let status = world.ok(owner, "intent.status", json!({ "intentId": intent }));
    assert_eq!(status["subscriptions"], 1, "{status}");
    let call = world.start(owner, "intent.cancel", json!({ "intentId": intent }));
    let ended = world.take(|command| match command {
        Command::EndInlet { process } => Some(*process),
        _ => None,
    });
    assert_eq!(ended, Some(process));
    world.notice(Notice::InletOver { process });
    let receipt = world.answer(owner, &call).unwrap().unwrap();
    let stopped = &receipt["stopped"][0];
    assert_eq!((&stopped["kind"], &stopped["id"]), (&json!("stdin"), &json!("p")), "{receipt}");
    assert!(world.kernel.broken().is_empty(), "{:?}", world.kernel.broken());
    // What is cancelled takes no other.
    let meta = Meta { intent_id: Some(intent.as_str().unwrap().into()), ..Meta::default() };
    world.send_with(owner, &json!("again"), "stdin.open", &fifo("p"), Some(&meta));
    assert!(world.answer(owner, &json!("again")).unwrap().is_err());
}

#[test]
fn a_fifo_is_its_callers_users() {
    let mut world = World::of_root();
    let user = world.user(OTHER);
    world.run(user, "p");
    world.start(user, "stream.open", fifo("p"));
    let Sink::Outlet { kind: OutletKind::Fifo { user: whose, wait_ns, bytes }, .. } =
        asked(&mut world).0.sink
    else {
        panic!("no fifo");
    };
    assert_eq!((whose.uid, whose.gid, wait_ns, bytes), (OTHER, OTHER, 60_000_000_000, 256 << 10));
}

#[test]
fn what_does_not_belong_together_is_refused_by_name() {
    let mut world = World::new();
    let owner = world.owner();
    world.run(owner, "p");
    for (more, code, field) in [
        (json!({ "transport": "fifo", "waitMs": 0 }), "E_INVALID_PARAMS", "waitMs"),
        (json!({ "transport": "fifo", "waitMs": 3_600_001 }), "E_INVALID_PARAMS", "waitMs"),
        (json!({ "transport": "pipe", "waitMs": 1 }), "E_INVALID_PARAMS", "waitMs"),
        (json!({ "transport": "fifo", "framing": "raw" }), "E_INVALID_PARAMS", "framing"),
        (json!({ "transport": "socket", "framing": "letters" }), "E_INVALID_PARAMS", "framing"),
        (json!({ "transport": "socket", "mode": "line" }), "E_INVALID_PARAMS", "mode"),
        (
            json!({ "transport": "socket", "framing": "frames", "pipeBytes": 1 }),
            "E_INVALID_PARAMS",
            "pipeBytes",
        ),
        (json!({ "transport": "fifo", "ringBytes": 1 }), "E_INVALID_PARAMS", "ringBytes"),
        (json!({ "transport": "fifo", "policy": "latest" }), "E_UNSUPPORTED", "policy"),
        (json!({ "transport": "pipe", "policy": "latest" }), "E_UNSUPPORTED", "policy"),
        (json!({ "transport": "socket", "policy": "latest" }), "E_UNSUPPORTED", "policy"),
    ] {
        let mut params = json!({ "id": "p" });
        let fields = params.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let (got, text) = world.fails(owner, "stream.open", params);
        assert_eq!(got, code, "{text}");
        assert!(text.contains(field), "{text}");
    }
    for frames in [json!({ "transport": "frames" }), json!({ "transport": "socket", "framing": "frames" })] {
        let mut params = json!({ "id": "p", "policy": "latest", "mode": "line" });
        params.as_object_mut().expect("an object").extend(frames.as_object().expect("an object").clone());
        world.start(owner, "stream.open", params);
        assert!(matches!(world.take_subscribe().expect("it is read").sink, Sink::Frames { .. }));
    }
}
