//! Views of the real log: they are there, they follow, and they outlive whatever happens to the kernel.

use crate::support::raw::{EVENT, Raw};
use crate::support::{Daemon, Driver, Options, until};
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
