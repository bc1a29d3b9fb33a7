//! Views of the real log: they are there, they follow, and they outlive whatever happens to the kernel.

use crate::support::raw::{EVENT, Raw, packed, value};
use crate::support::{Daemon, Driver, Options, until, with};
use kairo_controlplane::events::log::{self, Log};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn define(name: &str) -> Value {
    json!({ "definition": { "name": name, "topic": "build.*", "key": ["data.target"],
        "reducers": [{ "name": "n", "op": "count" }, { "name": "sum", "op": "sum", "path": "data.size" }] } })
}

fn built(raw: &mut Raw, target: &str, size: u64) {
    raw.ok("event.publish", json!({ "type": "build.done", "data": { "target": target, "size": size } }));
}

/// What `view.list` says of a view.
fn summary(raw: &mut Raw, name: &str) -> Value {
    let views = raw.ok("view.list", json!({}))["views"].clone();
    let found = views.as_array().and_then(|views| views.iter().find(|view| view["name"] == name).cloned());
    found.unwrap_or_else(|| panic!("there is no view {name}"))
}

/// All rows of a view that has looked at everything.
fn rows(raw: &mut Raw, name: &str) -> Vec<Value> {
    until("the view has looked at everything", || summary(raw, name)["lag"] == 0);
    let (mut rows, mut after) = (Vec::new(), Value::Null);
    loop {
        let page = raw.ok("view.get", json!({ "name": name, "limit": 50, "after": after }));
        rows.extend(page["rows"].as_array().cloned().unwrap_or_default());
        after = page["next"].clone();
        if after.is_null() {
            return rows;
        }
    }
}

#[test]
fn a_view_follows_what_happens() {
    let daemon = Daemon::start(&Options::plain(Driver::Poll));
    let (mut raw, mut watcher) = (daemon.connect_modern(), daemon.connect_modern());
    raw.ok("view.define", define("v"));
    let watch = watcher.ok("view.watch", json!({ "name": "v" }));
    built(&mut raw, "lib", u64::MAX);
    let frame = watcher.frame().expect("it is told");
    assert_eq!((frame.kind, &frame.json()["topic"]), (EVENT, &json!("view.changed")));
    let data = frame.json()["data"].clone();
    assert_eq!(data["subscriptionId"], watch["subscriptionId"]);
    assert_eq!((&data["key"], &data["row"]["value"]["sum"]), (&json!("lib"), &json!(u64::MAX)));
    assert_eq!(rows(&mut raw, "v").len(), 1);
    assert_eq!(raw.ok("view.drop", json!({ "name": "v" }))["ok"], true);
    assert_eq!(watcher.frame().expect("it is told").json()["topic"], "view.reset");
    assert_eq!(raw.refused("view.get", json!({ "name": "v" })).code, "E_NOT_FOUND");
    drop((raw, watcher));
    daemon.finish();
}

/// Publishes enough for a checkpoint, and waits for it.
fn built_much(raw: &mut Raw) {
    for round in 0..4 {
        let event = |at: u64| json!({ "type": "build.done", "data": { "target": format!("t{}", at % 70), "size": at } });
        let events: Vec<Value> = (0..400).map(|at| event(at * (round + 1))).collect();
        raw.ok("event.publish_batch", json!({ "events": events }));
    }
    until("a checkpoint is written", || !summary(raw, "v")["storedSeq"].is_null());
}

fn log_says(daemon: &Daemon, words: &str) -> bool {
    std::fs::read_to_string(daemon.folder().join("log")).unwrap_or_default().contains(words)
}

/// Takes a row out of what a dead kernel has stored of the view.
fn tear(daemon: &Daemon) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let options = log::Options { boot: boot.trim().to_owned(), audit: None };
    let (mut log, _) = Log::open(&daemon.folder().join("state/log"), options).expect("nobody has it open");
    let (key, _) = log.reader().values(b"view/v\0r").expect("it is read").swap_remove(7);
    let values = vec![log::Value { key, bytes: None }];
    log.append(&log::Batch { values, ..log::Batch::default() }).expect("it is written");
    log.sync().expect("it is flushed");
}

#[test]
fn a_view_outlives_kills_and_a_torn_checkpoint() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut raw = daemon.connect_modern();
    raw.ok("view.define", define("v"));
    raw.ok("view.define", define("w"));
    built_much(&mut raw);
    built(&mut raw, "after", 1);
    let before = rows(&mut raw, "v");
    assert_eq!(before.len(), 71);
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    assert_eq!(rows(&mut raw, "v"), before, "from the checkpoint on");
    assert!(!log_says(&daemon, "is folded again"));
    assert_eq!(raw.ok("view.drop", json!({ "name": "w" }))["ok"], true);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    tear(&daemon);
    daemon.succeed(&[]);
    let mut raw = daemon.connect_modern();
    assert_eq!(rows(&mut raw, "v"), before, "from the beginning");
    until("it says so", || log_says(&daemon, "is folded again"));
    let views = raw.ok("view.list", json!({}))["views"].clone();
    assert!(views.as_array().is_some_and(|views| views.iter().all(|view| view["name"] != "w")), "{views}");
    daemon.finish();
}

#[test]
fn a_view_that_is_folded_again_is_the_same_byte_for_byte() {
    let daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut raw = daemon.connect_modern();
    raw.ok("view.define", define("v"));
    built_much(&mut raw);
    // One without a target, one whose size is no number.
    raw.ok("event.publish", json!({ "type": "build.done", "data": { "size": 1 } }));
    raw.ok("event.publish", json!({ "type": "build.done", "data": { "target": "t1", "size": "big" } }));
    raw.spawn("p", &["sh", "-c", "echo out; exit 3"], json!({}));
    raw.ok("process.wait", json!({ "id": "p" }));
    let image = |raw: &mut Raw, name: &str| {
        rows(raw, name);
        let get = value(&json!({ "name": name, "limit": 1_000 }));
        let id = raw.request("view.get", get);
        let result = raw.answer(id).expect("it is read");
        let fields = result.as_map().expect("a map").iter();
        let rows = fields.filter(|(key, _)| key.as_str() == Some("rows"));
        rows.flat_map(|(_, rows)| packed(rows)).collect::<Vec<u8>>()
    };
    let has_ended = |row: &serde_json::Value| row["value"]["state"] == "ended";
    until("all of it has ended", || rows(&mut raw, "processes").first().is_some_and(has_ended));
    for name in ["v", "processes", "sessions", "live"] {
        let (before, told) = (image(&mut raw, name), summary(&mut raw, name));
        raw.ok("view.rebuild", json!({ "name": name }));
        assert_eq!(image(&mut raw, name), before, "{name}");
        let again = summary(&mut raw, name);
        assert_eq!((&again["skipped"], &again["events"]), (&told["skipped"], &told["events"]), "{name}");
    }
    let told = summary(&mut raw, "v");
    assert_eq!((&told["skipped"], &told["events"]), (&json!(2), &json!(1_600)), "{told}");
    daemon.finish();
}

/// What is compared: id, life, state, exit, and how long its outputs were.
type Told = (Value, Value, Value, Value, Value, Vec<(Value, Value)>);

fn totals(streams: &Value, bytes: &str) -> Vec<(Value, Value)> {
    let streams = streams.as_array().cloned().unwrap_or_default();
    streams.iter().map(|stream| (stream["stream"].clone(), stream[bytes].clone())).collect()
}

fn from_list(process: &Value) -> Told {
    let detail = &process["detail"];
    let exit = &detail["exit"];
    let totals = if detail["phase"] == "ended" { totals(&detail["streams"], "bytes") } else { Vec::new() };
    (
        process["id"].clone(),
        detail["session"].clone(),
        detail["phase"].clone(),
        exit["code"].clone(),
        exit["signal"].clone(),
        totals,
    )
}

fn from_view(row: &Value) -> Told {
    let value = &row["value"];
    let exit = &value["exit"];
    let totals = if value["state"] == "ended" { totals(&value["streams"], "totalBytes") } else { Vec::new() };
    (
        value["id"].clone(),
        value["session"].clone(),
        value["state"].clone(),
        exit["code"].clone(),
        exit["signal"].clone(),
        totals,
    )
}

/// The list and the view say the same of all that is listed, and nothing else lives. One moment, in which nothing happens
/// between the two, is enough.
fn agree(raw: &mut Raw) -> bool {
    let list = raw.ok("process.list", json!({}))["processes"].as_array().cloned().unwrap_or_default();
    let list: Vec<Told> = list.iter().map(from_list).collect();
    let mut view: Vec<Told> = rows(raw, "processes").iter().map(from_view).collect();
    let all = list.iter().all(|told| view.contains(told));
    view.retain(|told| !list.contains(told));
    all && view.iter().all(|told| told.2 == "ended" || told.2 == "lost")
}

#[test]
fn the_list_of_processes_is_the_view_of_them() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let mut raw = daemon.connect_modern();
    raw.spawn("code", &["sh", "-c", "echo some output; exit 7"], json!({}));
    raw.spawn("signal", &["sh", "-c", "kill -9 $$"], json!({}));
    raw.spawn("long", &["sleep", "1000"], json!({}));
    raw.spawn("tree", &["sh", "-c", "sleep 1000 & exit 0"], json!({}));
    raw.spawn("tty", &["sh", "-c", "echo here; sleep 1000"], json!({ "pty": { "rows": 24, "cols": 80 } }));
    let restart = json!({ "policy": "always", "backoffMs": 10, "limit": 3 });
    raw.spawn("again", &["sh", "-c", "echo life; exit 1"], json!({ "restart": restart }));
    let lives = |raw: &mut Raw| {
        let sessions = rows(raw, "sessions");
        let again = sessions.iter().find(|row| row["key"] == "again");
        again.map_or(Value::Null, |row| row["value"].clone())
    };
    until("it has had all its lives", || lives(&mut raw)["lives"] == 4);
    until("the list is the view", || agree(&mut raw));
    assert_eq!((&lives(&mut raw)["restarts"], &lives(&mut raw)["open"]), (&json!(3), &json!(false)));
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    until("the list is the view for the next kernel", || agree(&mut raw));
    raw.ok("process.kill", json!({ "id": "long", "graceMs": 0 }));
    raw.ok("process.kill", json!({ "id": "tree", "graceMs": 0, "scope": "tree" }));
    raw.spawn("code", &["sh", "-c", "exit 0"], json!({}));
    until("they have ended", || rows(&mut raw, "live").iter().all(|row| row["value"]["id"] == "tty"));
    until("the list is the view", || agree(&mut raw));
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    until("the list is the view for the third kernel", || agree(&mut raw));
    daemon.finish();
}

#[test]
fn defined_views_share_what_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[limits]\nview_bytes_max = \"6 MiB\"\n").expect("a file");
    let arguments = ["--config", file.to_str().expect("a path of text")];
    with(&Options { arguments: &arguments, ..Options::plain(Driver::Poll) }, |daemon| {
        let mut raw = daemon.connect_modern();
        raw.ok("view.define", define("v"));
        let refusal = raw.refused("view.define", define("w"));
        assert_eq!(
            (refusal.code.as_str(), &refusal.info["details"]["limit"]),
            ("E_BUSY", &json!("viewBytesMax"))
        );
        let mut small = define("w");
        small["definition"]["maxBytes"] = json!(1 << 20);
        raw.ok("view.define", small);
    });
}
