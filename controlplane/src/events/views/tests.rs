//! Views against small histories by hand, and against long ones by seed.

use super::*;
use crate::auth::grant::hears;
use crate::auth::principal::{Creator, Skill};
use crate::entropy::{Entropy, Seeded};
use crate::events::record::Audience;
use crate::events::record::tests::record;
use kairo_wire::codec::raw::Raw;
use kairo_wire::json::to_value;
use kairo_wire::methods::view::{Define, ViewRow};
use serde_json::{Value, json};

fn limits(keys: usize, bytes: usize) -> Limits {
    let bounds = Bounds { keys, bytes, finished: usize::MAX };
    Limits { builtin: bounds, defined: bounds, defined_bytes: u64::MAX }
}

/// How many events the view that is farthest behind has yet to look at.
fn lag(views: &Views, last: u64) -> u64 {
    views.cursors().first().map_or(0, |seq| last.saturating_sub(*seq))
}

type Page = Vec<(u64, Bytes)>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const OWNER: Principal = Principal::Owner;

fn of(uid: u32, name: Option<&str>) -> Audience {
    Audience::Of(Creator { uid, session: None, name: name.map(Into::into) })
}

fn skill(name: &str) -> Principal {
    Principal::Skill(Skill { uid: 1, session: None, name: Some(name.into()) })
}

/// A history: events by hand, numbered from 1.
#[derive(Default)]
struct History {
    page: Page,
    intent: Option<&'static str>,
    correlation: Option<&'static str>,
    audience: Option<Audience>,
}

impl History {
    fn add(&mut self, topic: &str, data: Value) -> &mut History {
        let data = Raw::of(&data).expect("a value");
        self.add_raw(topic, &data)
    }

    fn add_raw(&mut self, topic: &str, data: &Raw) -> &mut History {
        let seq = self.page.len() as u64 + 1;
        let mut one = record(seq, topic, data);
        one.intent = self.intent.map(Into::into);
        one.correlation = self.correlation.map(Into::into);
        one.audience = self.audience.clone().unwrap_or(Audience::All);
        self.page.push((seq, one.encode().expect("it can be written")));
        self
    }

    fn views(&self) -> Views {
        let mut views = Views::new(0, Limits::default());
        views.apply_page(1, &self.page);
        views
    }

    fn view(&self, definition: Value) -> Views {
        let mut views = Views::new(0, Limits::default());
        views.define(definition_of(definition), &OWNER).expect("it may be defined");
        views.apply_page(1, &self.page);
        views
    }
}

fn definition_of(definition: Value) -> ViewDefinition {
    serde_json::from_value(definition).expect("a definition")
}

fn all<'q>() -> Query<'q> {
    Query { limit: ROWS_MAX, ..Query::default() }
}

fn rows(views: &Views, name: &str, principal: &Principal) -> Vec<ViewRow> {
    views.get(name, &all(), principal).expect("it is there").rows
}

fn value(row: &ViewRow) -> Value {
    to_value(row.value.as_ref()).expect("a value")
}

fn shown(views: &Views, name: &str) -> BTreeMap<String, Value> {
    rows(views, name, &OWNER).iter().map(|row| (row.key.clone(), value(row))).collect()
}

fn summary(views: &Views, name: &str) -> ViewSummary {
    let list = views.list(0, &OWNER);
    list.into_iter().find(|summary| summary.name == name).expect("it is there")
}

fn life(history: &mut History, id: &str, session: &str) {
    history.add(
        "kairo.process.spawned",
        json!({"id": id, "pid": 7, "session": session, "argv": ["a"], "startedAtMs": 5, "tree": "exact",
            "owner": {"kind": "owner", "uid": 0}}),
    );
}

fn death(history: &mut History, id: &str, session: &str) {
    history.add(
        "kairo.process.exited",
        json!({"id": id, "pid": 7, "session": session, "code": 3, "durationMs": 9,
        "endedBy": {"cause": "kill"}, "usage": {}}),
    );
    history.add(
        "kairo.stream.closed",
        json!({"id": id, "session": session, "stream": "stderr", "totalBytes": 2,
        "cutBytes": 0}),
    );
    history.add(
        "kairo.process.ended",
        json!({"id": id, "session": session, "durationMs": 9, "stdinBytes": 4,
        "streams": [{"stream": "stdout", "totalBytes": 1u64 << 40, "cutBytes": 1}]}),
    );
}

#[test]
fn a_process_has_a_row_from_its_spawn_to_its_end() {
    let mut history = History { correlation: Some("c"), intent: Some("i"), ..History::default() };
    life(&mut history, "p", "s");
    history.add(
        "kairo.process.progress",
        json!({"id": "p", "session": "s", "adapter": "x", "done": 1, "total": 4.5}),
    );
    let running = shown(&history.views(), "processes");
    assert_eq!(running["s"]["state"], "running");
    assert_eq!(running["s"]["progress"]["total"], 4.5);
    death(&mut history, "p", "s");
    let ended = shown(&history.views(), "processes");
    let row = &ended["s"];
    assert_eq!(row["state"], "ended");
    assert_eq!(row["exit"], json!({"code": 3, "cause": "kill", "durationMs": 9}));
    assert_eq!(row["streams"][0], json!({"stream": "stdout", "totalBytes": 1u64 << 40, "cutBytes": 1}));
    assert_eq!(row["streams"][1]["stream"], "stderr");
    assert_eq!((&row["correlationId"], &row["intentId"]), (&json!("c"), &json!("i")));
    assert_eq!(row["owner"], json!({"kind": "owner", "uid": 0}));
}

#[test]
fn lives_and_restarts_are_counted_once() {
    let mut history = History::default();
    life(&mut history, "p", "s1");
    life(&mut history, "p", "s1");
    death(&mut history, "p", "s1");
    for (session, former) in [("s2", "s1"), ("s3", "s2")] {
        history.add("kairo.process.restarted", json!({"id": "p", "session": session, "former": former}));
    }
    let waiting = shown(&history.views(), "processes");
    assert_eq!((&waiting["s1"]["state"], &waiting["s2"]["state"]), (&json!("ended"), &json!("ended")));
    assert_eq!(waiting["s3"]["state"], "starting");
    life(&mut history, "p", "s3");
    assert_eq!(shown(&history.views(), "processes")["s3"]["state"], "running");
    let expected =
        json!({"id": "p", "session": "s3", "lives": 2, "restarts": 2, "startedAtMs": 5, "open": true});
    assert_eq!(shown(&history.views(), "sessions")["p"], expected);
}

#[test]
fn what_is_lost_after_its_exit_has_exited() {
    let mut history = History::default();
    for session in ["a", "b"] {
        life(&mut history, session, session);
    }
    history.add("kairo.process.exited", json!({"id": "a", "session": "a", "code": 0}));
    for session in ["a", "b"] {
        history.add("kairo.process.lost", json!({"id": session, "session": session, "cause": "keeper"}));
    }
    let rows = shown(&history.views(), "processes");
    assert_eq!((&rows["a"]["state"], &rows["b"]["state"]), (&json!("exited"), &json!("lost")));
    assert!(shown(&history.views(), "live").is_empty());
}

#[test]
fn intents_count_their_processes_and_end_once() {
    let mut history = History::default();
    history.add(
        "kairo.intent.started",
        json!({"intentId": "i", "name": "render", "parent": "h", "deadlineMs": 9}),
    );
    history.intent = Some("i");
    life(&mut history, "p", "s");
    life(&mut history, "q", "t");
    death(&mut history, "p", "s");
    history.intent = None;
    history.add("kairo.intent.cancelled", json!({"intentId": "i"}));
    history.add("kairo.intent.ended", json!({"intentId": "i", "error": "x", "summary": "late"}));
    history.add("kairo.intent.ended", json!({"intentId": "j", "error": {"code": "E"}}));
    history.add("kairo.intent.started", json!({"intentId": ["k"]}));
    let views = history.views();
    let rows = shown(&views, "intents");
    let row = &rows["i"];
    assert_eq!(
        (&row["state"], &row["summary"], &row["name"]),
        (&json!("cancelled"), &json!("late"), &json!("render"))
    );
    assert_eq!(row["processes"], json!({"started": 2, "exited": 1, "ended": 1}));
    assert_eq!(rows["j"]["state"], "failed");
    let skips = summary(&views, "intents").skips;
    assert_eq!((skips.len(), skips[0].seq), (1, history.page.len() as u64));
    assert!(skips[0].reason.starts_with("intentId: expected"), "{}", skips[0].reason);
}

#[test]
fn live_has_what_is_there() {
    let mut history = History::default();
    history.add("kairo.intent.started", json!({"intentId": "i", "name": "n"}));
    life(&mut history, "p", "s");
    let keys = |history: &History| shown(&history.views(), "live").into_keys().collect::<Vec<_>>();
    assert_eq!(keys(&history), ["intent/i", "process/s", "stream/s/stderr", "stream/s/stdout"]);
    history
        .add("kairo.stream.closed", json!({"id": "p", "session": "s", "stream": "stdout", "totalBytes": 1}));
    history.add("kairo.process.exited", json!({"id": "p", "session": "s"}));
    assert_eq!(keys(&history), ["intent/i", "stream/s/stderr"]);
    history.add("kairo.process.ended", json!({"id": "p", "session": "s"}));
    history.add("kairo.intent.ended", json!({"intentId": "i"}));
    assert!(keys(&history).is_empty());
}

#[test]
fn a_story_has_its_first_and_last_event_and_counts_its_types() {
    let mut history = History { correlation: Some("c"), ..History::default() };
    for at in 0..20 {
        history.add(&format!("t.{at:02}"), json!(null)).add("t.00", json!(1));
    }
    let row = &shown(&history.views(), "correlations")["c"];
    assert_eq!((&row["firstSeq"], &row["lastSeq"], &row["events"]), (&json!(1), &json!(40), &json!(40)));
    assert_eq!((&row["types"]["t.00"], &row["otherTypes"]), (&json!(21), &json!(4)));
    assert_eq!(row["types"].as_object().map(|types| types.len()), Some(16));
    assert_eq!(row["root"], json!({"id": "07070707-0707-4707-8707-070707070707", "type": "t.00"}));
}

#[test]
fn every_reduction_gives_what_it_says() {
    let mut history = History::default();
    for value in [json!(5), json!(-2), json!(7), json!(1.0)] {
        history.add("n", json!({"v": value, "id": 77}));
    }
    history.add("n", json!({"id": "77"}));
    let reducers = ["sum", "min", "max", "last", "first", "count"]
        .map(|op| json!({"name": op, "op": op, "path": "data.v"}));
    let mut definition = json!({"name": "v", "topic": "n", "key": ["data.id"], "reducers": reducers});
    let more = [
        json!({"name": "all", "op": "count"}),
        json!({"name": "two", "op": "collect", "path": "data.v", "n": 2}),
    ];
    definition["reducers"].as_array_mut().expect("reducers").extend(more);
    let rows = shown(&history.view(definition), "v");
    // A number and its text are one key, as they are one process.
    let expected =
        json!({"sum": 11, "min": -2, "max": 7, "last": 1, "first": 5, "count": 4, "all": 5, "two": [7, 1]});
    assert_eq!(rows, BTreeMap::from([("77".to_owned(), expected)]));
}

/// Sum, least and greatest of these values, what is not exact, and how many were skipped.
fn reduced(values: &[Raw]) -> (Value, Vec<String>, u64) {
    let mut history = History::default();
    for value in values {
        history.add_raw("n", &Raw::of(&BTreeMap::from([("v", value)])).expect("a map"));
    }
    let reducers = ["sum", "min", "max"].map(|op| json!({"name": op, "op": op, "path": "data.v"}));
    let views = history.view(json!({"name": "v", "topic": "n", "reducers": reducers}));
    let row = rows(&views, "v", &OWNER).pop().expect("a row");
    (value(&row), row.inexact, summary(&views, "v").skipped)
}

fn raws<T: serde::Serialize>(values: &[T]) -> Vec<Raw> {
    values.iter().map(|value| Raw::of(value).expect("a value")).collect()
}

#[test]
fn integers_are_exact_to_64_bits_and_what_is_not_is_named() {
    let (row, inexact, _) = reduced(&raws(&[u64::MAX - 1, 1]));
    assert_eq!((row, inexact.len()), (json!({"sum": u64::MAX, "min": 1, "max": u64::MAX - 1}), 0));
    let (row, _, _) = reduced(&raws(&[i64::MIN, 0]));
    assert_eq!((&row["sum"], &row["min"]), (&json!(i64::MIN), &json!(i64::MIN)));
    // It comes back into 64 bits exactly.
    let there_and_back = [raws(&[u64::MAX, u64::MAX]), raws(&[i64::MIN; 3])].concat();
    let (row, inexact, _) = reduced(&there_and_back);
    let exact = 2 * i128::from(u64::MAX) + 3 * i128::from(i64::MIN);
    assert_eq!((row["sum"].as_i64().map(i128::from), inexact.len()), (Some(exact), 0));
    let (row, inexact, _) = reduced(&raws(&[u64::MAX, u64::MAX]));
    assert_eq!((row["sum"].as_f64(), inexact), (Some(2.0 * u64::MAX as f64), vec!["sum".to_owned()]));
}

#[test]
fn floats_stay_finite_and_nan_is_skipped() {
    let odd = [f64::NAN, f64::INFINITY, -0.5];
    let (row, _, skipped) = reduced(&raws(&odd));
    // What one reducer can't digest no other counts.
    assert_eq!((row, skipped), (json!({"sum": -0.5, "min": -0.5, "max": -0.5}), 2));
    let (row, _, _) = reduced(&raws(&[f64::MAX, f64::MAX]));
    assert_eq!(row["sum"], json!(f64::MAX));
    let mixed = [raws(&[1u64 << 60]), raws(&[0.5])].concat();
    let (row, _, _) = reduced(&mixed);
    assert_eq!((&row["min"], &row["max"]), (&json!(0.5), &json!(1u64 << 60)));
    assert_eq!(row["sum"].as_f64(), Some((1u64 << 60) as f64));
}

#[test]
fn conditions_hold_for_what_they_say() {
    let mut history = History { correlation: Some("c"), ..History::default() };
    history.add("a.b", json!({"n": u64::MAX, "f": 1.5, "t": "text", "b": true, "o": {"x": 1}, "l": []}));
    for (path, op, value, holds) in [
        ("data.n", "eq", json!(u64::MAX), true),
        ("data.n", "eq", json!(u64::MAX as f64), false),
        ("data.n", "lt", json!(1.9e19), true),
        ("data.n", "gt", json!(-1e300), true),
        ("data.f", "gt", json!(1), true),
        ("data.f", "le", json!(1), false),
        ("data.f", "ge", json!(1.5), true),
        ("data.t", "prefix", json!("te"), true),
        ("data.t", "gt", json!("tex"), true),
        ("data.t", "gt", json!(3), false),
        ("data.t", "ne", json!(3), true),
        ("data.b", "eq", json!(true), true),
        ("data.o.x", "ne", json!(1), false),
        ("data.l", "exists", json!(null), true),
        ("data.l", "eq", json!(1), false),
        ("data.none", "exists", json!(false), true),
        ("data.none", "ne", json!(1), false),
        ("data.t.x", "exists", json!(true), false),
        ("type", "eq", json!("a.b"), true),
        ("correlationId", "prefix", json!("c"), true),
        ("intentId", "exists", json!(true), false),
        ("seq", "eq", json!(1), true),
        ("timeMs", "gt", json!(1_000), true),
        ("source", "eq", json!("kernel"), true),
        ("principal", "ne", json!("owner"), false),
    ] {
        let mut condition = json!({"path": path, "op": op});
        if !value.is_null() {
            condition["value"] = value.clone();
        }
        let definition = json!({"name": "v", "topic": ">", "filter": [condition],
            "reducers": [{"name": "c", "op": "count"}]});
        assert_eq!(rows(&history.view(definition), "v", &OWNER).len() == 1, holds, "{path} {op} {value}");
    }
}

#[test]
fn what_is_wrong_with_a_definition_is_named() {
    let count = json!({"name": "c", "op": "count"});
    let good = json!({"name": "v", "topic": "a", "key": ["type"], "filter": [], "reducers": [count]});
    let mut views = Views::new(0, Limits::default());
    assert_eq!(views.define(definition_of(good.clone()), &OWNER), Ok(true));
    assert_eq!(views.define(definition_of(good.clone()), &OWNER), Ok(false));
    let condition = |path: &str, op: &str, value: Value| json!([{"path": path, "op": op, "value": value}]);
    for (key, value, field) in [
        ("name", json!(""), "definition.name"),
        ("name", json!("a\nb"), "definition.name"),
        ("name", json!("n".repeat(129)), "definition.name"),
        ("topic", json!("t".repeat(200)), "definition.topic"),
        ("key", json!(vec!["type"; 5]), "definition.key"),
        ("key", json!(["type", "kind"]), "definition.key[1]"),
        ("key", json!(["data..x"]), "definition.key[0]"),
        ("key", json!([format!("data.{}", "x".repeat(300))]), "definition.key[0]"),
        ("reducers", json!([]), "definition.reducers"),
        ("reducers", json!([count, count]), "definition.reducers[1].name"),
        ("reducers", json!([{"name": "", "op": "count"}]), "definition.reducers[0].name"),
        ("reducers", json!([{"name": "s", "op": "sum"}]), "definition.reducers[0].path"),
        ("reducers", json!([{"name": "s", "op": "count", "path": "x"}]), "definition.reducers[0].path"),
        ("reducers", json!([{"name": "s", "op": "collect", "path": "seq"}]), "definition.reducers[0].n"),
        (
            "reducers",
            json!([{"name": "s", "op": "collect", "path": "seq", "n": 101}]),
            "definition.reducers[0].n",
        ),
        ("reducers", json!([{"name": "s", "op": "count", "n": 1}]), "definition.reducers[0].n"),
        ("filter", condition("when", "eq", json!(1)), "definition.filter[0].path"),
        ("filter", condition("type", "eq", json!(null)), "definition.filter[0].value"),
        ("filter", condition("type", "eq", json!([1])), "definition.filter[0].value"),
        ("filter", condition("type", "prefix", json!(1)), "definition.filter[0].value"),
        ("filter", condition("type", "exists", json!(1)), "definition.filter[0].value"),
        ("filter", condition("type", "eq", json!("x".repeat(2_000))), "definition.filter[0].value"),
    ] {
        let mut bad = good.clone();
        bad[key] = value.clone();
        match views.define(definition_of(bad), &OWNER) {
            Err(ViewError::Definition(error)) => assert_eq!(error.field, field, "{key} {value}"),
            other => panic!("{key} {value}: {other:?}"),
        }
    }
    assert_eq!(
        views.define(definition_of(json!({"name": "live", "topic": "a", "reducers": [count]})), &OWNER),
        Err(ViewError::Foreign)
    );
}

#[test]
fn a_key_a_definition_does_not_have_is_refused_and_named() {
    for (definition, field) in [
        (json!({"name": "v", "topic": "a", "reducers": [], "colour": 1}), "colour"),
        (
            json!({"name": "v", "topic": "a", "reducers": [{"name": "c", "op": "count", "by": 1}]}),
            "reducers[0].by",
        ),
        (json!({"name": "v", "topic": "a", "reducers": [{"name": "c", "op": "mean"}]}), "reducers[0].op"),
    ] {
        let raw = Raw::of(&json!({"definition": definition})).expect("a value");
        let error = kairo_wire::method::params::<Define>(raw.as_ref()).expect_err("it is refused");
        assert!(error.message.contains(&format!("definition.{field}")), "{}", error.message);
    }
}

#[test]
fn keys_of_several_parts_can_not_be_mistaken() {
    let mut history = History::default();
    for (a, b) in [("x/y", "z"), ("x", "y/z"), ("x\\", "z")] {
        history.add("n", json!({"a": a, "b": b}));
    }
    history.add("n", json!({"a": 1})).add("n", json!({"a": {}, "b": 1})).add("n", json!({"a": "\0", "b": 1}));
    history.add("n", json!({"a": "k".repeat(600), "b": 1}));
    let views = history.view(json!({"name": "v", "topic": "n", "key": ["data.a", "data.b"],
        "reducers": [{"name": "c", "op": "count"}]}));
    let keys: Vec<String> = shown(&views, "v").into_keys().collect();
    assert_eq!(keys, ["x/y\\/z", "x\\/y/z", "x\\\\/z"]);
    let reasons: Vec<String> = summary(&views, "v").skips.into_iter().map(|skip| skip.reason).collect();
    let expected =
        ["key[1]: is missing", "key[0]: is no text or number", "its key has a NUL", "its key is too long"];
    assert_eq!(reasons, expected);
}

fn counting(name: &str) -> ViewDefinition {
    definition_of(
        json!({"name": name, "topic": "n", "key": ["data.k"], "reducers": [{"name": "c", "op": "count"}]}),
    )
}

#[test]
fn rows_are_read_in_pages_and_by_prefix() {
    let mut history = History::default();
    for at in 0..25 {
        history.add("n", json!({"k": format!("k{at:02}")}));
    }
    history.add("n", json!({"k": "k0"}));
    let mut views = Views::new(0, Limits::default());
    views.define(counting("v"), &OWNER).expect("it may be defined");
    views.apply_page(1, &history.page);
    let mut read = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let query = Query { after: after.as_deref(), limit: 7, ..Query::default() };
        let page = views.get("v", &query, &OWNER).expect("it is there");
        assert!(page.rows.len() <= 7);
        read.extend(page.rows.into_iter().map(|row| row.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(read.len(), 26);
    assert!(read.is_sorted());
    let keys = |query: Query<'_>| -> Vec<String> {
        views.get("v", &query, &OWNER).expect("it is there").rows.into_iter().map(|row| row.key).collect()
    };
    assert_eq!(keys(Query { prefix: Some("k2"), ..all() }), ["k20", "k21", "k22", "k23", "k24"]);
    assert_eq!(keys(Query { prefix: Some("k2"), after: Some("k22"), ..all() }), ["k23", "k24"]);
    assert_eq!(keys(Query { key: Some("k0"), ..all() }), ["k0"]);
    assert!(keys(Query { key: Some("k"), ..all() }).is_empty());
    assert_eq!(views.get("none", &all(), &OWNER), Err(ViewError::Unknown));
}

#[test]
fn a_watcher_is_told_each_change_once_and_when_it_missed_some() {
    let mut history = History::default();
    let mut views = Views::new(0, Limits::default());
    views.define(counting("v"), &OWNER).expect("it may be defined");
    let begin = views.changed_since("v", 0, None, 10, &OWNER).expect("it is there");
    assert!(begin.rows.is_empty() && !begin.reset && begin.seq == 0);
    for key in ["a", "b", "a", "c", "a"] {
        history.add("n", json!({"k": key}));
    }
    views.apply_page(1, &history.page);
    let changed = |views: &Views, since, limit| {
        views.changed_since("v", since, None, limit, &OWNER).expect("it is there")
    };
    let two = changed(&views, 0, 2);
    let keys = |rows: &[ViewRow]| rows.iter().map(|row| row.key.clone()).collect::<Vec<_>>();
    // In the order in which they last changed, and up to the fourth event, after which another key would come.
    assert_eq!((keys(&two.rows), two.seq, two.rows[0].seq), (vec!["b".to_owned(), "c".to_owned()], 4, 2));
    let rest = changed(&views, two.seq, 2);
    assert_eq!((keys(&rest.rows), rest.seq), (vec!["a".to_owned()], 5));
    assert!(changed(&views, 5, 2).rows.is_empty());
    assert!(changed(&views, 6, 2).reset, "from the future");
    for _ in 0..10_000 {
        history.add("n", json!({"k": "z"}));
    }
    views.apply_page(6, &history.page[5..]);
    assert_eq!(keys(&changed(&views, 5, 2).rows), ["z"], "however often");
    let begin = history.page.len();
    for at in 0..10_000 {
        history.add("n", json!({"k": at}));
    }
    views.apply_page(begin as u64 + 1, &history.page[begin..]);
    assert!(changed(&views, 5, 2).reset, "too many");
    assert_eq!(keys(&changed(&views, 20_003, 2).rows), ["9998", "9999"]);
}

#[test]
fn what_is_gone_is_told_to_those_who_could_hear_of_it() {
    let mut history = History { audience: Some(of(1, Some("a"))), ..History::default() };
    life(&mut history, "p", "s");
    let mut views = history.views();
    history.add("kairo.process.exited", json!({"id": "p", "session": "s"}));
    views.apply_page(2, &history.page[1..]);
    let gone = |principal: &Principal| {
        views.changed_since("live", 1, None, 10, principal).expect("it is there").removed
    };
    assert_eq!(gone(&skill("a")), ["process/s"]);
    assert!(gone(&skill("b")).is_empty());
}

#[test]
fn past_its_limits_a_view_makes_no_row_and_goes_on_with_those_it_has() {
    let mut history = History::default();
    for key in ["a", "b", "c", "a", "c"] {
        history.add("n", json!({"k": key}));
    }
    let small = (&mut Views::new(0, limits(2, 1 << 20)), &mut Views::new(0, limits(9, 500)));
    for views in [small.0, small.1] {
        views.define(counting("v"), &OWNER).expect("it may be defined");
        views.apply_page(1, &history.page);
        assert_eq!(
            shown(views, "v"),
            BTreeMap::from([("a".into(), json!({"c": 2})), ("b".into(), json!({"c": 1}))])
        );
        assert_eq!(summary(views, "v").overflowed, 2);
    }
}

#[test]
fn gaps_are_noted_and_what_was_seen_is_not_missed() {
    let mut history = History::default();
    for _ in 0..10 {
        history.add("n", json!({"k": 1}));
    }
    let mut views = Views::new(0, Limits::default());
    views.define(counting("v"), &OWNER).expect("it may be defined");
    views.apply_page(1, &history.page[..2]);
    views.apply_page(4, &history.page[3..5]);
    assert_eq!(lag(&views, 10), 8, "a page from further on is not for it");
    views.apply(3, 4, &[], &[ViewGap { from: 3, to: 5, events: Some(2) }]);
    views.apply(1, 3, &[], &[ViewGap { from: 1, to: 4, events: Some(3) }]);
    views.apply_page(5, &[history.page[4].clone(), history.page[7].clone()]);
    let told = summary(&views, "v");
    assert_eq!((told.seq, told.gaps, told.missed, told.events), (8, 2, 2, 4));
    assert_eq!(told.gap[0], ViewGap { from: 3, to: 5, events: Some(2) });
    assert_eq!(told.gap[1], ViewGap { from: 6, to: 8, events: None });
}

#[test]
fn a_view_is_changed_by_who_made_it_and_who_is_above() {
    let mut views = Views::new(0, limits(9, 1 << 20));
    views.define(counting("v"), &skill("a")).expect("it may be defined");
    for other in [skill("b"), Principal::User { uid: 2 }] {
        assert_eq!(views.drop("v", &other), Err(ViewError::Foreign));
        assert_eq!(views.rebuild("v", &other), Err(ViewError::Foreign));
        assert_eq!(views.define(counting("v"), &other), Err(ViewError::Foreign));
        let list = views.list(0, &other);
        assert!(list.iter().all(|summary| summary.definition.is_none()));
    }
    assert_eq!(views.rebuild("v", &skill("a")), Ok(true));
    assert_eq!(views.rebuild("live", &skill("a")), Err(ViewError::Foreign));
    assert_eq!(views.rebuild("live", &OWNER), Ok(true));
    assert_eq!(views.drop("live", &OWNER), Err(ViewError::Foreign));
    assert_eq!(views.drop("v", &Principal::User { uid: 1 }), Ok(true));
    assert_eq!(views.drop("v", &OWNER), Ok(false));
    for at in 0..DEFINED_MAX {
        let definer = skill(&(at / DEFINED_BY_ONE_MAX).to_string());
        views.define(counting(&format!("v{at}")), &definer).expect("there is room");
        if at == DEFINED_BY_ONE_MAX - 1 {
            assert_eq!(views.define(counting("more"), &definer), Err(ViewError::Full));
        }
    }
    assert_eq!(views.define(counting("more"), &OWNER), Err(ViewError::Full));
}

#[test]
fn defined_views_share_what_they_may_take() {
    let all = Limits { defined_bytes: 10 << 20, ..Limits::default() };
    let mut views = Views::new(0, all);
    let sized = |name: &str, bytes| ViewDefinition { max_bytes: Some(bytes), ..counting(name) };
    views.define(counting("a"), &OWNER).expect("there is room");
    views.define(sized("b", 6 << 20), &OWNER).expect("there is room");
    assert_eq!(views.define(sized("c", 1), &OWNER), Err(ViewError::Budget(10 << 20)));
    assert_eq!(views.define(sized("b", u64::MAX), &OWNER), Err(ViewError::Budget(10 << 20)));
    views.define(sized("b", 5 << 20), &OWNER).expect("it takes less");
    views.define(sized("c", 1 << 20), &OWNER).expect("what it has left");
    views.drop("a", &OWNER).expect("it is the owner's");
    views.define(counting("d"), &OWNER).expect("there is room again");
}

#[test]
fn what_is_over_makes_room_oldest_first_and_what_lives_stays() {
    let mut history = History::default();
    life(&mut history, "living", "living");
    let lives = 12_000;
    for at in 0..lives {
        let (id, session) = (format!("p{}", at % 7_000), format!("s{at}"));
        life(&mut history, &id, &session);
        death(&mut history, &id, &session);
    }
    let mut views = history.views();
    let finished = Limits::default().builtin.finished;
    for name in ["processes", "sessions"] {
        let told = summary(&views, name);
        assert_eq!((told.rows, told.overflowed, told.skipped), (finished as u64 + 1, 0, 0), "{name}");
    }
    assert_eq!(summary(&views, "processes").evicted, (lives - finished) as u64);
    assert_eq!(summary(&views, "live").rows, 3, "a process and its outputs");
    let bytes: u64 = views.list(0, &OWNER).iter().map(|summary| summary.bytes).sum();
    assert!(bytes < 16 << 20, "{bytes}");
    let there = |session: &str| {
        let query = Query { key: Some(session), limit: 1, ..Query::default() };
        !views.get("processes", &query, &OWNER).expect("it is there").rows.is_empty()
    };
    assert!(there("living") && there("s11999") && there("s7000") && !there("s6999"));
    // What was made and has gone between two checkpoints is nothing to write.
    let (_, view) = views.iter_mut().find(|(name, _)| &***name == "processes").expect("it is there");
    view.stored();
    let begin = history.page.len();
    for at in 0..6_000 {
        life(&mut history, "q", &format!("q{at}"));
        death(&mut history, "q", &format!("q{at}"));
    }
    views.apply_page(begin as u64 + 1, &history.page[begin..]);
    let (_, view) = views.iter_mut().find(|(name, _)| &***name == "processes").expect("it is there");
    assert_eq!(view.checkpoint().rows.count(), 2 * finished, "those that are new, and those that are gone");
}

// By seed.

struct Dice(Seeded);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % end as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

const TOPICS: [&str; 15] = [
    "kairo.process.spawned",
    "kairo.process.spawned",
    "kairo.process.exited",
    "kairo.process.ended",
    "kairo.process.lost",
    "kairo.process.restarted",
    "kairo.process.restarts_spent",
    "kairo.process.progress",
    "kairo.stream.closed",
    "kairo.intent.started",
    "kairo.intent.ended",
    "kairo.intent.cancelled",
    "n.a",
    "n.b",
    "other",
];

fn audiences() -> [Audience; 6] {
    let user = Audience::User(1);
    [Audience::All, of(1, None), of(1, Some("a")), of(2, Some("a")), user, Audience::Administration(1)]
}

fn odd_value(dice: &mut Dice) -> Raw {
    match dice.below(12) {
        0 => Raw::of(&f64::NAN),
        1 => Raw::of(&u64::MAX),
        2 => Raw::of(&i64::MIN),
        3 => Raw::of(&1e308),
        4 => Raw::of("text"),
        5 => Raw::of(&[1, 2]),
        6 => Raw::of(&()),
        7 => Raw::of(&"long".repeat(400)),
        8 => Raw::of(&0.1),
        at => Raw::of(&(at as i64 - 9)),
    }
    .expect("a value")
}

fn random_event(dice: &mut Dice, seq: u64) -> Bytes {
    if dice.below(40) == 0 {
        return Bytes::from_static(b"\x93 no event");
    }
    let (id, session) = (dice.below(4), dice.below(7));
    let mut fields: BTreeMap<&str, Raw> = BTreeMap::new();
    let mut put = |name, raw: Result<Raw, _>| fields.insert(name, raw.expect("a value"));
    put("id", Raw::of(&format!("p{id}")));
    put("intentId", Raw::of(&format!("i{id}")));
    put("session", Raw::of(&format!("s{session}")));
    put("former", Raw::of(&format!("s{}", session / 2)));
    put("stream", Raw::of(dice.pick(&["stdout", "stderr"])));
    put("totalBytes", Raw::of(&dice.below(1_000)));
    put("code", Raw::of(&dice.below(3)));
    put("v", Ok(odd_value(dice)));
    if dice.below(10) == 0 {
        let name = dice.pick(&["id", "session", "stream", "v", "code"]);
        put(name, Ok(odd_value(dice)));
    }
    let data = if dice.below(20) == 0 { odd_value(dice) } else { Raw::of(&fields).expect("a map") };
    let mut one = record(seq, dice.pick(&TOPICS), &data);
    one.time_ms = dice.below(1 << 40) as u64;
    one.audience = dice.pick(&audiences());
    one.correlation = dice.pick(&[None, Some("c"), Some("d"), Some("")]).map(Into::into);
    one.intent = dice.pick(&[None, Some("p0"), Some("p1")]).map(Into::into);
    one.encode().expect("it can be written")
}

/// Events with holes in their numbers.
fn random_log(dice: &mut Dice, count: usize) -> Page {
    let mut seq = 0;
    (0..count)
        .map(|_| {
            seq += if dice.below(30) == 0 { 1 + dice.below(5) as u64 } else { 1 };
            (seq, random_event(dice, seq))
        })
        .collect()
}

fn definitions() -> [(ViewDefinition, Principal); 3] {
    let reducers = ["sum", "min", "max", "last", "first", "count"]
        .map(|op| json!({"name": op, "op": op, "path": "data.v"}));
    let kept = json!([{"name": "kept", "op": "collect", "path": "data.code", "n": 3}, {"name": "all", "op": "count"}]);
    [
        (json!({"name": "all", "topic": ">", "key": ["type", "data.id"], "reducers": kept}), OWNER),
        (json!({"name": "numbers", "topic": "n.*", "key": ["data.id"], "reducers": reducers}), OWNER),
        (
            json!({"name": "mine", "topic": "kairo.>", "filter": [{"path": "data.code", "op": "gt", "value": 0}],
                "reducers": kept}),
            skill("a"),
        ),
    ]
    .map(|(definition, definer)| (definition_of(definition), definer))
}

fn fresh_views(limits: Limits) -> Views {
    let mut views = Views::new(0, limits);
    for (definition, definer) in definitions() {
        views.define(definition, &definer).expect("it may be defined");
    }
    views
}

/// What a store holds of views.
#[derive(Clone, Debug, Default, PartialEq)]
struct Store(BTreeMap<String, (Vec<u8>, Rows)>);

impl Store {
    fn save(&mut self, name: &str, view: &mut View) {
        let Checkpoint { header, whole, rows } = view.checkpoint();
        let (stored, kept) = self.0.entry(name.to_owned()).or_default();
        *stored = header.to_vec();
        if whole {
            kept.clear();
        }
        for (key, row) in rows {
            match row {
                Some(row) => kept.insert(key.to_vec(), row.to_vec()),
                None => kept.remove(key),
            };
        }
        view.stored();
    }

    fn load(&self, limits: Limits) -> Views {
        let mut views = Views::new(0, limits);
        for (definition, definer) in definitions() {
            let stored = Defined { definition, definer }.encode().expect("it can be written");
            let name = views.load(&stored).expect("it can be read");
            assert_eq!(views.definition(&name), Some(stored));
        }
        for (name, (header, rows)) in &self.0 {
            views.restore(name, header, rows.iter()).expect("what was stored is taken");
        }
        views
    }
}

fn image(views: &mut Views) -> Store {
    let mut store = Store::default();
    for (name, view) in views.iter_mut() {
        view.store_anew();
        store.save(name, view);
    }
    store
}

fn catch_up(views: &mut Views, log: &Page, most: usize) {
    for cursor in views.cursors() {
        let begin = log.partition_point(|(seq, _)| *seq <= cursor);
        views.apply_page(cursor + 1, &log[begin..(begin + most).min(log.len())]);
    }
}

#[test]
fn folded_again_in_any_pages_and_over_any_restarts_a_view_is_the_same_byte_for_byte() {
    for seed in 0..20 {
        let mut dice = Dice(Seeded::new(seed));
        let limits = dice.pick(&[
            Limits::default(),
            limits(5, 1 << 20),
            limits(99, 4_000),
            Limits { builtin: Bounds { keys: 99, bytes: 1 << 20, finished: 3 }, ..Limits::default() },
            Limits { builtin: Bounds { keys: 99, bytes: 9_000, finished: 9 }, ..Limits::default() },
        ]);
        let log = random_log(&mut dice, 400);
        let last = log.last().map_or(0, |(seq, _)| *seq);
        let mut whole = fresh_views(limits);
        whole.apply_page(1, &log);
        let expected = image(&mut whole);
        let mut views = fresh_views(limits);
        let mut store = Store::default();
        while lag(&views, last) > 0 {
            catch_up(&mut views, &log, 1 + dice.below(60));
            for (name, view) in views.iter_mut() {
                match dice.below(8) {
                    0..4 => store.save(name, view),
                    4 => view.store_anew(),
                    _ => {}
                }
            }
            if dice.below(4) == 0 {
                views = store.load(limits);
            }
        }
        for (name, view) in views.iter_mut() {
            store.save(name, view);
        }
        assert_eq!(store, expected, "seed {seed}: what was written bit by bit");
        assert_eq!(image(&mut views), expected, "seed {seed}");
        for name in whole.views.keys().cloned().collect::<Vec<_>>() {
            whole.rebuild(&name, &OWNER).expect("the owner may");
        }
        catch_up(&mut whole, &log, usize::MAX / 2);
        assert_eq!(image(&mut whole), expected, "seed {seed}: rebuilt");
        assert!(whole.list(last, &OWNER).iter().all(|summary| summary.skipped > 0 && summary.lag == 0));
    }
}

#[test]
fn a_reader_sees_the_fold_of_what_it_may_hear_and_nothing_else() {
    let readers = [
        OWNER,
        Principal::User { uid: 1 },
        Principal::User { uid: 2 },
        skill("a"),
        skill("b"),
        Principal::Nobody { uid: 1 },
    ];
    for seed in 100..108 {
        let mut dice = Dice(Seeded::new(seed));
        let log = random_log(&mut dice, 300);
        let mut views = fresh_views(Limits::default());
        views.apply_page(1, &log);
        for reader in &readers {
            let heard: Page = log
                .iter()
                .filter(|(seq, bytes)| {
                    Record::parse(*seq, bytes).is_ok_and(|one| hears(reader, &one.audience))
                })
                .cloned()
                .collect();
            let mut own = fresh_views(Limits::default());
            own.apply_page(1, &heard);
            for name in views.views.keys() {
                assert_eq!(
                    rows(&views, name, reader),
                    rows(&own, name, &OWNER),
                    "seed {seed}: {name} for {reader}"
                );
            }
        }
    }
}

#[test]
fn who_watches_has_what_who_reads_has() {
    for seed in 200..203 {
        let mut dice = Dice(Seeded::new(seed));
        let log = random_log(&mut dice, 300);
        let last = log.last().map_or(0, |(seq, _)| *seq);
        let mut views = fresh_views(Limits::default());
        let names: Vec<Arc<str>> = views.views.keys().cloned().collect();
        let watchers = [OWNER, Principal::User { uid: 1 }, skill("a")];
        // Per watcher and view what it has and how far it is.
        let mut mirrors: Vec<(BTreeMap<String, ViewRow>, u64)> =
            vec![Default::default(); watchers.len() * names.len()];
        while lag(&views, last) > 0 {
            catch_up(&mut views, &log, 1 + dice.below(40));
            for (at, (mirror, since)) in mirrors.iter_mut().enumerate() {
                let (name, watcher) = (&names[at % names.len()], &watchers[at / names.len()]);
                loop {
                    let limit = 1 + dice.below(4);
                    let changed =
                        views.changed_since(name, *since, None, limit, watcher).expect("it is there");
                    assert!(!changed.reset && changed.seq >= *since);
                    for row in changed.rows {
                        mirror.insert(row.key.clone(), row);
                    }
                    for key in &changed.removed {
                        mirror.remove(key);
                    }
                    *since = changed.seq;
                    if changed.seq == views.cursors().first().copied().unwrap_or(0) {
                        break;
                    }
                }
                let mirrored: Vec<ViewRow> = mirror.values().cloned().collect();
                assert_eq!(mirrored, rows(&views, name, watcher), "seed {seed}: {name} for {watcher}");
            }
        }
    }
}

#[test]
fn a_checkpoint_that_is_not_whole_is_refused_and_the_view_begins_again() {
    let mut dice = Dice(Seeded::new(7));
    let log = random_log(&mut dice, 200);
    let limits = Limits::default();
    let mut views = fresh_views(limits);
    views.apply_page(1, &log);
    let expected = image(&mut views);
    let name = "processes";
    let (header, rows) = expected.0[name].clone();
    let refused = |views: &mut Views, header: &[u8], rows: &Rows| {
        let outcome = views.restore(name, header, rows.iter());
        assert_eq!(summary(views, name).seq == 0, outcome.is_err());
        outcome.err()
    };
    for at in 0..header.len() {
        let mut bad = header.clone();
        bad[at] ^= 1 << dice.below(8);
        assert_eq!(refused(&mut views, &bad, &rows), Some(RestoreError::Damaged), "byte {at}");
        assert_eq!(refused(&mut views, &header[..at], &rows), Some(RestoreError::Damaged), "{at} bytes");
    }
    for key in rows.keys() {
        let mut bad = rows.clone();
        let row = bad.get_mut(key).expect("it is there");
        let at = dice.below(row.len());
        row[at] ^= 1 << dice.below(8);
        assert_eq!(refused(&mut views, &header, &bad), Some(RestoreError::Damaged));
        bad.remove(key);
        assert_eq!(refused(&mut views, &header, &bad), Some(RestoreError::Damaged));
    }
    let mut more = rows.clone();
    more.insert(b"x\0\0".to_vec(), rows[rows.keys().next().expect("a row")].clone());
    assert_eq!(refused(&mut views, &header, &more), Some(RestoreError::Damaged));
    assert_eq!(refused(&mut views, &expected.0["live"].0, &rows), Some(RestoreError::Definition));
    let mut other = Views::new(0, super::tests::limits(3, 1 << 20));
    assert_eq!(refused(&mut other, &header, &rows), Some(RestoreError::Definition));
    assert_eq!(refused(&mut views, &header, &rows), None);
    assert_eq!(refused(&mut views, &header[1..], &rows), Some(RestoreError::Damaged));
    catch_up(&mut views, &log, usize::MAX / 2);
    assert_eq!(image(&mut views), expected);
}

#[test]
fn only_what_changed_is_written_again() {
    let mut history = History::default();
    for at in 0..1_000 {
        history.add("n", json!({"k": at}));
    }
    let mut views = Views::new(0, Limits::default());
    views.define(counting("v"), &OWNER).expect("it may be defined");
    views.apply_page(1, &history.page);
    let written = |views: &mut Views| {
        let (_, view) = views.iter_mut().find(|(name, _)| &***name == "v").expect("it is there");
        let Checkpoint { whole, rows, .. } = view.checkpoint();
        let written = (whole, rows.count());
        view.stored();
        written
    };
    assert_eq!(written(&mut views), (true, 1_000));
    history.add("n", json!({"k": 5})).add("n", json!({"k": 7})).add("n", json!({"k": 5}));
    views.apply_page(1_001, &history.page[1_000..]);
    assert_eq!(written(&mut views), (false, 2));
    assert_eq!(written(&mut views), (false, 0));
}
