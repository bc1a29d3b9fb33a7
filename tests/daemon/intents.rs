//! Intents with real children: what belongs to one, and that a cancel stops that, in this life of the daemon or the next.

use crate::adoption::lives_on_both_drivers;
use crate::support::raw::{Raw, json as json_of};
use crate::support::{Daemon, processes, program, python, until};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

lives_on_both_drivers!(
    a_cancel_stops_whole_trees_children_first_and_twice_is_once,
    what_a_child_starts_belongs_to_the_intent_whatever_it_says,
    a_cancel_goes_on_in_the_next_life_and_signals_nobody_twice,
    a_request_of_the_past_cancels_nothing,
    a_story_goes_through_children_of_children,
    two_hundred_processes_go_in_one_go,
);

/// Says when it is ready, counts its SIGTERMs aloud and heeds none.
const DEAF: &str = "import signal, time
signal.signal(signal.SIGTERM, lambda *_: print('TERM', flush=True))
print('ready', flush=True)
while True: time.sleep(100)";

fn begin(raw: &mut Raw, params: Json) -> String {
    raw.ok("intent.begin", params)["intentId"].as_str().expect("an id").to_owned()
}

fn spawn(raw: &mut Raw, meta: &Json, id: &str, command: &[&str]) {
    let params = json!({"id": id, "command": command});
    raw.call_with("process.spawn", &params, meta).unwrap_or_else(|error| panic!("{id}: {error:?}"));
}

/// What a process has written so far.
fn output(raw: &mut Raw, id: &str) -> String {
    let status = raw.ok("process.status", json!({"id": id, "detail": true}));
    let length = status["detail"]["streams"][0]["bytes"].as_u64().expect("a length") as usize;
    let subscription = raw.subscribe(id, json!({"stream": "stdout"}));
    let mut text = Vec::new();
    while text.len() < length {
        let frame = raw.frame().expect("the daemon is there");
        if frame.kind != 4 {
            continue;
        }
        // One that was asked before may have had more on the way than was waited for.
        let chunk = crate::support::output::Chunk::of(&frame);
        if chunk.subscription == subscription {
            text.extend(chunk.data);
        }
    }
    raw.ok("process.stdout.unsubscribe", json!({"subscriptionId": subscription}));
    String::from_utf8_lossy(&text).into_owned()
}

fn is_there(raw: &mut Raw, id: &str) -> bool {
    raw.ok("process.status", json!({"id": id}))["state"] == "running"
}

fn how(receipt: &Json, id: &str) -> String {
    let all = receipt["stopped"].as_array().expect("a list");
    let one = all.iter().find(|stopped| stopped["id"] == id).unwrap_or_else(|| panic!("{id} in {receipt}"));
    one["how"].as_str().expect("a word").to_owned()
}

fn a_cancel_stops_whole_trees_children_first_and_twice_is_once(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let top = begin(&mut raw, json!({"name": "top"}));
    let child = begin(&mut raw, json!({"name": "child", "parent": top}));
    spawn(&mut raw, &json!({"intentId": top}), "mild", &["sleep", "1000"]);
    spawn(&mut raw, &json!({"intentId": child}), "deaf", &[python(), "-u", "-c", DEAF]);
    let tree = "trap 'exit 7' TERM; sleep 1000 & (trap '' TERM; sleep 1000; sleep 1000) & echo ready; wait";
    spawn(&mut raw, &json!({"intentId": child}), "tree", &["sh", "-c", tree]);
    spawn(&mut raw, &json!({}), "other", &["sleep", "1000"]);
    until("both can be signalled", || {
        output(&mut raw, "deaf").contains("ready\n") && output(&mut raw, "tree").contains("ready")
    });
    let mut second = daemon.connect_modern();
    let params = json!({"intentId": top, "reason": "enough", "graceMs": 700});
    let first = raw.send_with("intent.cancel", &params, &json!({})).expect("it is sent");
    until("it is under way", || {
        second.ok("intent.status", json!({"intentId": top}))["state"] == "cancelling"
    });
    let again = second.ok("intent.cancel", json!({"intentId": top}));
    let receipt = json_of(&raw.answer(first).expect("a receipt"));
    assert_eq!(receipt, again, "twice is the same receipt");
    assert_eq!(how(&receipt, "mild"), "terminated");
    assert_eq!(how(&receipt, "deaf"), "killed");
    assert_eq!(how(&receipt, "tree"), "killed", "its leader heard, somebody of its tree did not");
    assert_eq!((&receipt["children"], &receipt["left"]), (&json!([child]), &json!(0)));
    assert!(receipt["durationMs"].as_u64().expect("a duration") >= 700, "{receipt}");
    assert_eq!(output(&mut raw, "deaf"), "ready\nTERM\n", "one signal");
    let status = raw.ok("process.status", json!({"id": "mild", "detail": true}));
    assert_eq!(status["detail"]["exit"]["endedBy"]["cause"], "cancel");
    assert!(is_there(&mut raw, "other"));
    let keeper = daemon.keeper().expect("a keeper");
    let left = processes::descendants(keeper.pid).len();
    assert_eq!(left, 1, "only what belongs to no intent is there");
    let late = json!({"id": "late", "command": ["true"]});
    let refused = raw.call_with("process.spawn", &late, &json!({"intentId": child})).expect_err("it is over");
    assert_eq!(refused.code, "E_CONFLICT");
}

fn what_a_child_starts_belongs_to_the_intent_whatever_it_says(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let intent = begin(&mut raw, json!({"name": "i"}));
    let kairo = program().to_str().expect("a path");
    let script =
        format!("{kairo} spawn --id inner -- sleep 1000 && echo $KAIRO_INTENT_ID && exec sleep 1000");
    spawn(&mut raw, &json!({"intentId": intent}), "outer", &["sh", "-c", &script]);
    until("the child's child runs", || is_there(&mut raw, "inner"));
    until("it has said so", || output(&mut raw, "outer").contains(&intent));
    let status = raw.ok("intent.status", json!({"intentId": intent}));
    assert_eq!(status["processes"], 2);
    let receipt = raw.ok("intent.cancel", json!({"intentId": intent}));
    assert_eq!((&*how(&receipt, "outer"), &*how(&receipt, "inner")), ("terminated", "terminated"));
    assert!(!is_there(&mut raw, "inner"));
}

fn a_cancel_goes_on_in_the_next_life_and_signals_nobody_twice(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let top = begin(&mut raw, json!({"name": "top"}));
    let child = begin(&mut raw, json!({"name": "child", "parent": top}));
    spawn(&mut raw, &json!({"intentId": child}), "deaf", &[python(), "-u", "-c", DEAF]);
    spawn(&mut raw, &json!({"intentId": top}), "mild", &["sleep", "1000"]);
    until("it can be signalled", || output(&mut raw, "deaf").contains("ready\n"));
    raw.ok("subscribe", json!({"topic": "kairo.intent.cancelling"}));
    let params = json!({"intentId": top, "reason": "enough", "graceMs": 3_000});
    raw.send_with("intent.cancel", &params, &json!({})).expect("it is sent");
    let mut begun = 0;
    while begun < 2 {
        let frame = raw.frame().expect("the daemon is there");
        begun += usize::from(frame.json()["topic"] == "kairo.intent.cancelling");
    }
    until("it was signalled", || output(&mut daemon.connect_modern(), "deaf").contains("TERM"));
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let status = raw.ok("intent.status", json!({"intentId": child}));
    assert_eq!(status["state"], "cancelling");
    let late = json!({"id": "late", "command": ["true"]});
    let refused = raw.call_with("process.spawn", &late, &json!({"intentId": child})).expect_err("it is over");
    assert_eq!(refused.code, "E_CANCELLED");
    let receipt = raw.ok("intent.cancel", json!({"intentId": top}));
    assert_eq!((&receipt["reason"], &receipt["children"]), (&json!("enough"), &json!([child])));
    assert_eq!((&*how(&receipt, "deaf"), &*how(&receipt, "mild")), ("killed", "terminated"));
    assert_eq!(output(&mut raw, "deaf"), "ready\nTERM\n", "one signal in two lives");
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    assert_eq!(raw.ok("intent.cancel", json!({"intentId": top})), receipt, "the receipt outlives them both");
}

fn a_request_of_the_past_cancels_nothing(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let intent = begin(&mut raw, json!({"name": "open"}));
    for _ in 0..3 {
        let data = json!({"targetCorrelationId": "story"});
        raw.ok("event.publish", json!({"type": "kairo.cancel", "data": data, "ack": "log"}));
        spawn(&mut raw, &json!({"correlationId": "story"}), "told", &["sleep", "1000"]);
        spawn(&mut raw, &json!({"intentId": intent}), "kept", &["sleep", "1000"]);
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        daemon.succeed(&[]);
        raw = daemon.connect_modern();
        raw.ok("subscribe", json!({"topic": ">", "fromSeq": 1}));
        assert!(is_there(&mut raw, "told") && is_there(&mut raw, "kept"));
        assert_eq!(raw.ok("intent.status", json!({"intentId": intent}))["processes"], 1);
        for id in ["told", "kept"] {
            raw.ok("process.kill", json!({"id": id}));
        }
        raw.wait_until_ended(&["told", "kept"]);
    }
    let data = json!({"targetCorrelationId": "story"});
    spawn(&mut raw, &json!({"correlationId": "story"}), "told", &["sleep", "1000"]);
    raw.ok("event.publish", json!({"type": "kairo.cancel", "data": data}));
    raw.wait_until_ended(&["told"]);
}

fn a_story_goes_through_children_of_children(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let intent = begin(&mut raw, json!({"name": "i"}));
    let kairo = program().to_str().expect("a path");
    let inner = format!("{kairo} spawn --id third -- sh -c 'env; exec sleep 1000'; exec sleep 1000");
    let outer = format!("{kairo} spawn --id second -- sh -c \"{inner}\"; exec sleep 1000");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let meta = json!({"intentId": intent, "correlationId": "story", "traceparent": traceparent});
    spawn(&mut raw, &meta, "first", &["sh", "-c", &outer]);
    until("the last of them runs", || is_there(&mut raw, "third"));
    until("it has said all", || output(&mut raw, "third").contains("TRACEPARENT="));
    let environment = output(&mut raw, "third");
    let variable = |name: &str| {
        let mut lines = environment.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        lines.next_back().unwrap_or_else(|| panic!("{name} in {environment}")).to_owned()
    };
    assert_eq!(variable("KAIRO_CORRELATION_ID"), "story");
    assert_eq!(variable("KAIRO_INTENT_ID"), intent);
    let traceparent = variable("TRACEPARENT");
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [_, of_trace, span, _] = parts[..] else { panic!("{traceparent}") };
    assert_eq!(of_trace, trace);
    assert_ne!(span, "00f067aa0ba902b7", "each has a span of its own");
    // Backwards from its birth to the first call: nothing is missing.
    let all = raw.ok("event.replay", json!({"correlationId": "story"}));
    let events = all["events"].as_array().expect("a list");
    let mut causes = Vec::new();
    let mut id = variable("KAIRO_CAUSATION_ID");
    while let Some(event) = events.iter().find(|event| event["id"] == *id) {
        causes.push(event["topic"].as_str().expect("a text").to_owned());
        id = event["causationId"].as_str().unwrap_or_default().to_owned();
    }
    causes.reverse();
    assert_eq!(causes.last().map(String::as_str), Some("kairo.process.spawned"));
    // A child that calls before the kernel has heard that it runs has its own call as the nearer cause.
    let calls = causes.iter().filter(|topic| *topic == "kairo.kernel.called").count();
    assert_eq!(calls, 3, "{causes:?}");
    assert!(
        !causes.windows(2).any(|pair| pair[0] == pair[1] && pair[0] == "kairo.process.spawned"),
        "{causes:?}"
    );
    assert_eq!(id, intent, "and that is the intent's begin");
    let receipt = raw.ok("intent.cancel", json!({"intentId": intent}));
    assert_eq!(receipt["stopped"].as_array().map(Vec::len), Some(3));
}

fn two_hundred_processes_go_in_one_go(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let top = begin(&mut raw, json!({"name": "top"}));
    for child in 0..20 {
        let intent = begin(&mut raw, json!({"name": "child", "parent": top}));
        for number in 0..10 {
            spawn(&mut raw, &json!({"intentId": intent}), &format!("{child}.{number}"), &["sleep", "1000"]);
        }
    }
    let receipt = raw.ok("intent.cancel", json!({"intentId": top}));
    let stopped = receipt["stopped"].as_array().expect("a list");
    assert_eq!((stopped.len(), &receipt["left"]), (200, &json!(0)));
    assert!(stopped.iter().all(|one| one["how"] == "terminated"), "{receipt}");
    until("nobody but the keeper is there", || {
        processes::descendants(daemon.keeper().expect("a keeper").pid).is_empty()
    });
}
