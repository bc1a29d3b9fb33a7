//! The wire that clients of version 1 speak: they work untouched, whatever they do to it.

use crate::support::output::Chunk;
use crate::support::raw::{
    EVENT, REQUEST, RESPONSE, STREAM_CHUNK, field, frame_bytes, packed, request_bytes, value,
};
use crate::support::{Daemon, on_both_drivers};
use rmpv::Value;
use serde_json::json;
use std::net::Shutdown;

fn nothing_is_pushed_before_the_first_reply(daemon: &Daemon) {
    let mut silent = daemon.connect();
    let mut busy = daemon.connect();
    busy.run_v1("one", &["true"]);
    busy.run_v1("two", &["true"]);
    let id = silent.request("kernel.ping", value(&json!({})));
    let first = silent.frame().expect("an answer");
    assert_eq!(first.kind, RESPONSE, "the exit notices of others came before the first reply");
    assert_eq!(first.json()["id"], id);
}

fn a_v1_client_gets_the_shapes_it_knows(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let params = json!({"pid": "greeter", "stream": "stdout", "mode": "chunk", "bufferSize": 1_048_576});
    let subscribed = raw.ok("process.stdout.subscribe", params);
    assert!(subscribed["subscriptionId"].as_str().is_some_and(|id| id.starts_with("stream_")));
    let spawned =
        raw.ok("process.spawn", json!({"id": "greeter", "command": ["sh", "-c", "echo hello; read line"]}));
    assert_eq!((&spawned["status"], &spawned["id"]), (&json!("spawned"), &json!("greeter")));
    let frame = raw.frame().expect("a chunk");
    assert_eq!(frame.kind, STREAM_CHUNK);
    let keys: Vec<String> = keys(&frame.value());
    assert_eq!(keys, ["subscriptionId", "stream", "sequence", "data"]);
    let chunk = Chunk::of(&frame);
    assert_eq!((chunk.stream.as_str(), chunk.data.as_slice()), ("stdout", b"hello\n".as_slice()));
    let status = raw.ok("process.status", json!({"id": "greeter"}));
    assert_eq!(status["state"], "running");
    assert!(status["pid"].as_i64().is_some_and(|pid| pid > 1));
    let written = raw.ok("process.stdin.write", json!({"id": "greeter", "data": "bye\n"}));
    assert_eq!((&written["status"], &written["id"]), (&json!("written"), &json!("greeter")));
    let exit = raw.event("process.exit", |_| true);
    assert_eq!(exit, json!({"topic": "process.exit", "data": {"id": "greeter", "code": 0}}));
    let waited = raw.ok("process.wait", json!({"id": "greeter"}));
    assert_eq!(
        (&waited["status"], &waited["id"], &waited["exitCode"]),
        (&json!("exited"), &json!("greeter"), &json!(0))
    );
    let status = raw.ok("process.status", json!({"id": "greeter"}));
    assert_eq!(status, json!({"state": "exited", "exitCode": 0}));
}

fn a_reply_has_the_three_keys_and_an_error_a_fourth(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.request("kernel.ping", value(&json!({})));
    let reply = raw.frame().expect("an answer");
    assert_eq!(reply.payload[0], 0xde, "maps are map16 towards v1 clients");
    assert_eq!(keys(&reply.value()), ["id", "result", "error"]);
    assert_eq!(field(&reply.value(), "error"), Some(&Value::Ext(0, vec![0])), "absent is d4 00 00");
    raw.request("process.wait", value(&json!({"id": "nobody"})));
    let reply = raw.frame().expect("an answer");
    assert_eq!(keys(&reply.value()), ["id", "result", "error", "errorInfo"]);
    assert_eq!(field(&reply.value(), "result"), Some(&Value::Nil));
    let info = &reply.json()["errorInfo"];
    assert_eq!((&info["code"], &info["retryable"]), (&json!("E_NOT_FOUND"), &json!(false)));
}

fn v1_clients_find_the_texts_they_match_on(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let cases = [
        ("process.spawn", json!({}), "缺少参数: id, command"),
        ("process.stdin.write", json!({"id": "x"}), "缺少参数: "),
        ("process.stdout.subscribe", json!({}), "缺少参数: pid"),
        ("vault.get", json!({"token": "t", "handle": "h"}), "Vault 服务不可用"),
        ("no.such.method", json!({}), "未知方法: no.such.method"),
        ("process.wait", json!({"id": "ghost"}), "Process ghost not found"),
    ];
    for (method, params, text) in cases {
        let refusal = raw.refused(method, params);
        assert!(refusal.text.starts_with(text), "{method}: {}", refusal.text);
        assert!(refusal.code.starts_with("E_"), "{method}: {}", refusal.code);
    }
    let bare = raw.refused("process.kill", json!({"id": {}}));
    assert!(bare.info["message"].as_str().is_some_and(|text| text.contains("id")), "{bare:?}");
}

fn any_id_is_echoed_as_it_was(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let ids = [
        Value::from("text"),
        Value::from(""),
        Value::from(7),
        Value::from(u64::MAX),
        Value::from(i64::MIN),
        Value::Nil,
        Value::Boolean(true),
        Value::F64(1.5),
        Value::Binary(vec![1, 2, 3]),
        Value::Array(vec![1.into(), "two".into()]),
        Value::Map(vec![("a".into(), 1.into())]),
        Value::Ext(5, vec![9; 4]),
    ];
    for id in ids {
        let request = vec![("id".into(), id.clone()), ("method".into(), "kernel.ping".into())];
        raw.send(&frame_bytes(REQUEST, &packed(&Value::Map(request))));
        let reply = raw.frame().expect("an answer").value();
        assert_eq!(field(&reply, "id"), Some(&id));
    }
    raw.send(&frame_bytes(REQUEST, &packed(&Value::Map(vec![("method".into(), "kernel.ping".into())]))));
    let reply = raw.frame().expect("an answer").value();
    assert_eq!(field(&reply, "id"), Some(&Value::Ext(0, vec![0])), "a missing id is answered as absent");
}

fn two_calls_with_one_id_are_both_answered(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let first = request_bytes(5, "process.wait", value(&json!({"id": "sleeper"})));
    let second = request_bytes(5, "kernel.ping", value(&json!({})));
    raw.send(&[first, second].concat());
    let pong = raw.answer(5).expect("the ping is answered");
    assert_eq!(field(&pong, "pong"), Some(&Value::Boolean(true)));
    raw.ok("process.kill", json!({"id": "sleeper"}));
    let exit = raw.answer(5).expect("the wait is answered as well");
    assert_eq!(field(&exit, "exitCode").and_then(Value::as_u64), Some(143));
}

fn frames_may_come_together_or_byte_by_byte(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let many: Vec<u8> =
        (100..140).flat_map(|id| request_bytes(id, "kernel.ping", value(&json!({})))).collect();
    raw.send(&many);
    for id in 100..140 {
        raw.answer(id).expect("each is answered");
    }
    for byte in request_bytes(200, "kernel.ping", value(&json!({}))) {
        raw.send(&[byte]);
    }
    raw.answer(200).expect("it is answered");
}

fn absent_parameters_take_many_forms(daemon: &Daemon) {
    let mut raw = daemon.connect();
    for params in [Value::Nil, Value::Array(Vec::new()), Value::Ext(0, vec![0]), Value::Map(Vec::new())] {
        let id = raw.request("kernel.ping", params);
        raw.answer(id).expect("no parameters are needed");
    }
    let undefined = Value::Ext(0, vec![0]);
    let command = value(&json!(["true"]));
    let params = vec![
        ("id".into(), "undefined-options".into()),
        ("command".into(), command),
        ("options".into(), undefined.clone()),
    ];
    let id = raw.request("process.spawn", Value::Map(params));
    raw.answer(id).expect("an undefined option is absent");
    let params = vec![("id".into(), undefined), ("command".into(), value(&json!(["true"])))];
    let id = raw.request("process.spawn", Value::Map(params));
    let refusal = raw.answer(id).expect_err("an undefined id is missing");
    assert!(refusal.text.starts_with("缺少参数: id"), "{}", refusal.text);
}

fn whole_floats_are_integers_where_integers_are_meant(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let params = vec![("pid".into(), "later".into()), ("bufferSize".into(), Value::F64(65_536.0))];
    let id = raw.request("process.stdout.subscribe", Value::Map(params));
    raw.answer(id).expect("65536.0 is a size");
    let params = vec![("pid".into(), "later".into()), ("bufferSize".into(), Value::F64(0.5))];
    let id = raw.request("process.stdout.subscribe", Value::Map(params));
    let refusal = raw.answer(id).expect_err("0.5 is none");
    assert!(refusal.info["message"].as_str().is_some_and(|text| text.contains("bufferSize")), "{refusal:?}");
}

fn bytes_that_are_not_utf8_reach_the_child_unchanged(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("cat", &["cat"], json!({}));
    let subscription = raw.subscribe("cat", json!({"stream": "stdout"}));
    let odd = b"\xed\xa0\x80\xff\xfe ok\n".to_vec();
    // An invalid str and a bin: str8 header by hand, since no library writes one.
    let mut payload = packed(&Value::Map(vec![
        ("id".into(), 900.into()),
        ("method".into(), "process.stdin.write".into()),
        (
            "params".into(),
            Value::Map(vec![("id".into(), "cat".into()), ("data".into(), Value::Binary(odd.clone()))]),
        ),
    ]));
    let at = payload.len() - odd.len() - 2;
    assert_eq!(payload[at], 0xc4);
    raw.send(&frame_bytes(REQUEST, &payload));
    payload[at] = 0xd9;
    raw.send(&frame_bytes(REQUEST, &payload));
    raw.answer(900).expect("bytes are written");
    raw.answer(900).expect("and so is a text that isn't one");
    raw.ok("process.stdin.close", json!({"id": "cat"}));
    assert_eq!(raw.collect(&subscription, 1).stdout, odd.repeat(2));
}

fn frames_that_are_not_requests_are_ignored(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let event = packed(&value(&json!({"topic": "window.list.changed", "windows": []})));
    for kind in [RESPONSE, EVENT, STREAM_CHUNK, 9, 255] {
        raw.send(&frame_bytes(kind, &event));
    }
    raw.ok("kernel.ping", json!({}));
}

fn what_is_no_frame_closes_the_connection_after_the_frames_before_it(daemon: &Daemon) {
    let ping = |id| request_bytes(id, "kernel.ping", value(&json!({})));
    let mut trailing = packed(&value(&json!({"id": 1, "method": "kernel.ping"})));
    trailing.push(0xc0);
    let bad = [
        ("another magic", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", vec![0x4b, 0x41, 2, REQUEST, 0, 0, 0, 1, 0xc0]),
        ("no payload", frame_bytes(REQUEST, &[])),
        ("half a value", frame_bytes(REQUEST, &[0x93, 0x01])),
        ("a byte too many", frame_bytes(REQUEST, &trailing)),
        ("a byte that means nothing", frame_bytes(REQUEST, &[0xc1])),
        ("over 16 MiB", vec![0x4b, 0x41, 1, REQUEST, 1, 0, 0, 1]),
    ];
    for (what, bytes) in bad {
        let mut raw = daemon.connect();
        raw.send(&[ping(1), ping(2), bytes].concat());
        raw.answer(1).expect("the first is answered");
        raw.answer(2).expect("the second is answered");
        assert!(raw.is_closed(), "{what}: the connection is still open");
    }
    daemon.connect().ok("kernel.ping", json!({}));
}

fn a_nil_request_is_answered_and_kills_nobody(daemon: &Daemon) {
    let mut raw = daemon.connect();
    for payload in [vec![0xc0], vec![0x01], vec![0x90], vec![0xa1, b'x']] {
        raw.send(&frame_bytes(REQUEST, &payload));
        let reply = raw.frame().expect("an answer");
        assert!(reply.json()["error"].is_string(), "{:?}", reply.json());
    }
    raw.ok("kernel.ping", json!({}));
}

fn a_client_that_has_said_all_still_hears_the_answers(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("short", &["sh", "-c", "read line; exit 5"], json!({}));
    let wait = raw.request("process.wait", value(&json!({"id": "short"})));
    let write = raw.request("process.stdin.write", value(&json!({"id": "short", "data": "x\n"})));
    raw.socket().shutdown(Shutdown::Write).expect("half of a socket can be closed");
    raw.answer(write).expect("the write is answered");
    let exit = raw.answer(wait).expect("the wait is answered");
    assert_eq!(field(&exit, "exitCode").and_then(Value::as_u64), Some(5));
}

fn large_integers_are_floats_until_exact_ones_are_asked_for(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let started = |raw: &mut crate::support::raw::Raw| {
        let id = raw.request("process.status", value(&json!({"id": "sleeper", "detail": true})));
        let status = raw.answer(id).expect("a status");
        let detail = field(&status, "detail").cloned().expect("detail");
        field(&detail, "startedAtMs").cloned().expect("a time")
    };
    assert!(matches!(started(&mut raw), Value::F64(_)), "{:?}", started(&mut raw));
    let hello = raw.ok("kernel.hello", json!({"features": ["int64", "no-such-feature"]}));
    assert_eq!(hello["features"], json!(["int64"]));
    assert!(matches!(started(&mut raw), Value::Integer(_)), "{:?}", started(&mut raw));
}

fn hello_tells_the_limits_and_who_one_is(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let hello =
        raw.ok("kernel.hello", json!({"client": "t", "features": ["chunks"], "chunkBytesMax": 99_999_999}));
    assert_eq!((&hello["name"], &hello["protocol"]), (&json!("kairo"), &json!(1)));
    assert_eq!(hello["pid"], daemon.pid());
    let limits = json!({
        "frameBytesMax": 16 << 20, "chunkBytesMax": 1 << 20, "callsInFlightMax": 1024,
        "depthMax": 64, "elementsMax": 1_000_000,
    });
    assert_eq!(hello["limits"], limits);
    assert_eq!(hello["principal"]["kind"], "owner");
}

fn the_kernel_describes_every_method_it_has(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let all = raw.ok("kernel.introspect", json!({}));
    let methods = all["methods"].as_array().expect("methods");
    let names: Vec<&str> = methods.iter().filter_map(|method| method["name"].as_str()).collect();
    let expected = [
        "kernel.hello",
        "kernel.ping",
        "kernel.introspect",
        "kernel.cancel",
        "kernel.doctor",
        "kernel.shutdown",
        "system.get_metrics",
        "process.spawn",
        "process.kill",
        "process.signal",
        "process.pause",
        "process.resume",
        "process.stdin.write",
        "process.stdin.close",
        "process.resize",
        "process.wait",
        "process.status",
        "process.list",
        "process.stdout.subscribe",
        "process.stdout.unsubscribe",
        "subscribe",
        "unsubscribe",
        "identify",
        "device.list",
        "vault.get",
    ];
    for name in expected {
        assert!(names.contains(&name), "{name} is not described");
    }
    for method in methods {
        for key in ["params", "result"] {
            // `true` is the schema of what may be anything.
            assert!(
                method[key].is_object() || method[key] == true,
                "{} has no schema for {key}: {method}",
                method["name"]
            );
        }
        assert!(method["permission"].is_string(), "{method}");
    }
    for what in ["events", "errors", "permissions", "limits"] {
        assert!(all[what].as_array().is_some_and(|rows| !rows.is_empty()), "no {what}");
    }
}

fn a_call_can_be_abandoned(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let wait = raw.request("process.wait", value(&json!({"id": "sleeper"})));
    assert_eq!(raw.ok("kernel.cancel", json!({"id": wait}))["cancelled"], true);
    assert_eq!(raw.answer(wait).expect_err("the wait was abandoned").code, "E_CANCELLED");
    assert_eq!(raw.ok("kernel.cancel", json!({"id": wait}))["cancelled"], false);
}

fn a_deadline_that_passes_is_an_error(daemon: &Daemon) {
    let mut raw = daemon.connect();
    raw.spawn("sleeper", &["sleep", "1000"], json!({}));
    let request = json!({
        "id": 77, "method": "process.wait", "params": {"id": "sleeper"}, "meta": {"deadlineMs": 50},
    });
    raw.send(&frame_bytes(REQUEST, &packed(&value(&request))));
    let refusal = raw.answer(77).expect_err("the deadline passes first");
    assert_eq!((refusal.code.as_str(), &refusal.info["retryable"]), ("E_TIMEOUT", &json!(true)));
    let refusal = raw.refused("process.wait", json!({"id": "sleeper", "timeoutMs": 20}));
    assert_eq!(refusal.code, "E_TIMEOUT");
}

fn bus_events_have_the_eight_fields(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let topic = raw.ok("subscribe", json!({"topic": "kairo.process.>"}));
    assert!(topic["subscriptionId"].as_str().is_some_and(|id| id.starts_with("topic_")));
    raw.spawn("short", &["true"], json!({}));
    let frame = loop {
        let frame = raw.frame().expect("an event");
        if frame.kind == EVENT && frame.json()["topic"] != "process.exit" {
            break frame;
        }
    };
    let expected = ["topic", "payload", "correlationId", "causationId", "traceId", "source", "time", "id"];
    assert_eq!(keys(&frame.value()), expected);
    assert_eq!(frame.json()["topic"], "kairo.process.spawned");
    assert_eq!(raw.ok("unsubscribe", json!({"subscriptionId": topic["subscriptionId"]}))["ok"], true);
    assert_eq!(raw.ok("unsubscribe", json!({"subscriptionId": topic["subscriptionId"]}))["ok"], false);
}

fn a_pattern_matches_as_it_always_has(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let patterns = [
        "kairo.*.exited",
        "kairo.process.exit",
        "kairo.process.exite*",
        ">.exited",
        "kairo.process.exited.>",
    ];
    for pattern in patterns {
        raw.ok("subscribe", json!({"topic": pattern}));
    }
    raw.spawn("short", &["true"], json!({}));
    // Three of the patterns match, each delivers one; then comes what was asked for last.
    raw.wait_for_exit("short");
    raw.ok("subscribe", json!({"topic": "kairo.process.ended"}));
    raw.spawn("second", &["true"], json!({}));
    let mut exited = 0;
    loop {
        let frame = raw.frame().expect("events");
        let event = if frame.kind == EVENT { frame.json() } else { continue };
        let is_first = event["payload"]["id"] == "short";
        exited += usize::from(event["topic"] == "kairo.process.exited" && is_first);
        if event["topic"] == "kairo.process.ended" && event["payload"]["id"] == "second" {
            break;
        }
    }
    assert_eq!(exited, 3);
}

fn metrics_devices_and_the_vault_answer_as_they_should(daemon: &Daemon) {
    let mut raw = daemon.connect();
    let metrics = raw.ok("system.get_metrics", json!({}));
    let memory = &metrics["memory"];
    let number = |name: &str| memory[name].as_u64().expect("MiB");
    assert_eq!(number("total"), number("used") + number("free"));
    assert_eq!(metrics["cpu"]["usage"], 0, "the first call of a caller has nothing to compare with");
    assert_eq!(raw.ok("device.list", json!({})), json!([]));
    assert_eq!(raw.ok("identify", json!({}))["status"], "identified");
}

/// Keys of a map, in order.
fn keys(map: &Value) -> Vec<String> {
    let pairs = map.as_map().expect("a map").iter();
    pairs.map(|(key, _)| key.as_str().expect("keys are texts").to_owned()).collect()
}

impl crate::support::raw::Raw {
    /// Runs a program to its end as a v1 client would.
    fn run_v1(&mut self, id: &str, argv: &[&str]) {
        self.spawn(id, argv, json!({}));
        self.event("process.exit", |event| event["data"]["id"] == id);
    }
}

on_both_drivers!(
    nothing_is_pushed_before_the_first_reply,
    a_v1_client_gets_the_shapes_it_knows,
    frames_may_come_together_or_byte_by_byte,
    bytes_that_are_not_utf8_reach_the_child_unchanged,
    what_is_no_frame_closes_the_connection_after_the_frames_before_it,
    a_client_that_has_said_all_still_hears_the_answers,
    a_call_can_be_abandoned,
    a_deadline_that_passes_is_an_error,
    a_reply_has_the_three_keys_and_an_error_a_fourth,
    v1_clients_find_the_texts_they_match_on,
    any_id_is_echoed_as_it_was,
    two_calls_with_one_id_are_both_answered,
    absent_parameters_take_many_forms,
    whole_floats_are_integers_where_integers_are_meant,
    frames_that_are_not_requests_are_ignored,
    a_nil_request_is_answered_and_kills_nobody,
    large_integers_are_floats_until_exact_ones_are_asked_for,
    hello_tells_the_limits_and_who_one_is,
    the_kernel_describes_every_method_it_has,
    bus_events_have_the_eight_fields,
    a_pattern_matches_as_it_always_has,
    metrics_devices_and_the_vault_answer_as_they_should,
);
