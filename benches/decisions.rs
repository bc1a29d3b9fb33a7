//! Whether somebody may do something, among 10,000 grants: a decision made anew, and a call whose decision is remembered.
//!
//! A decision made anew is the function every call asks, over a snapshot that has just changed, of a skill with a hundred grants
//! among a hundred such. What is remembered is measured as a whole call through the kernel, by a skill that was granted it,
//! beside the same call by the owner, about whom nothing is ever decided: what lies between them is what deciding costs.

use crate::support::report::{Bar, ROUNDS, Report};
use bytes::BytesMut;
use kairo_controlplane::auth::decision::{Deed, Standing, Verdict};
use kairo_controlplane::auth::snapshot::Snapshot;
use kairo_controlplane::auth::subject::{Party, Subject};
use kairo_controlplane::config::Config;
use kairo_controlplane::entropy::Seeded;
use kairo_controlplane::events::outlet::Shelf;
use kairo_controlplane::kernel::Kernel;
use kairo_controlplane::permissions::{Clause, Grant};
use kairo_dataplane::command::Commands;
use kairo_dataplane::control::{Inbound, Lineage, Moment, Peer};
use kairo_dataplane::key::{ConnectionKey, ReactorId};
use kairo_wire::codec::raw::Raw;
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::Permission;
use kairo_wire::request;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const SKILLS: usize = 100;
const GRANTS: usize = 100;
const DECISIONS: usize = 10_000;
const CALLS: usize = 20_000;
const OWNER: u32 = 1_000;

pub(crate) fn run(report: &mut Report) {
    let (mut cold, mut far) = (Vec::new(), Vec::new());
    let (mut granted, mut free, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut spans = decisions();
        spans.sort_unstable_by(f64::total_cmp);
        cold.push(spans[spans.len() / 2]);
        far.push(spans[spans.len() * 99 / 100]);
        let (skill, owner) = calls();
        granted.push(skill);
        free.push(owner);
        beyond.push((skill - owner).max(0.0));
    }
    report.row("anew, over a snapshot that has changed, median", "us", &cold, Bar::None);
    report.row("  99th of a hundred", "us", &far, Bar::AtMost(50.0));
    report.row("a call of the owner's", "us", &free, Bar::None);
    report.row("the same call by a grant that is remembered", "us", &granted, Bar::None);
    report.row("  what that costs more", "us", &beyond, Bar::AtMost(2.0));
}

fn skill(nth: usize) -> Party {
    Party { uid: OWNER, subject: Subject::Skill(format!("skill-{nth}").into()) }
}

/// One of the hundred grants of a skill: files, topics, processes and ports by turns, each for another resource.
fn clause(nth: usize) -> Clause {
    let (permission, resource) = match nth % 4 {
        0 => (Permission::FileRead, format!("/srv/data/{nth}")),
        1 => (Permission::EventPublish, format!("skill.{nth}.*")),
        2 => (Permission::ProcessRead, format!("build-{nth}-*")),
        _ => (Permission::NetworkConnect, format!("host-{nth}.example.org:443")),
    };
    Clause { permission, resource: Some(resource.into()), purpose: None }
}

fn wanted(nth: usize) -> (Permission, String) {
    match nth % 4 {
        0 => (Permission::FileRead, format!("/srv/data/{}/a/b/c", nth % GRANTS / 4 * 4)),
        1 => (Permission::EventPublish, format!("skill.{}.done", nth % GRANTS)),
        2 => (Permission::ProcessRead, format!("build-{}-x", nth % GRANTS)),
        _ => (Permission::NetworkConnect, "nowhere.example.org:443".to_owned()),
    }
}

/// Microseconds of each decision. Before each the snapshot has become another one.
fn decisions() -> Vec<f64> {
    let mut snapshot = Snapshot::default();
    for who in 0..SKILLS {
        for nth in 0..GRANTS {
            snapshot =
                snapshot.with(&Arc::new(Grant::new(&format!("g{who}-{nth}"), skill(who), vec![clause(nth)])));
        }
        snapshot = snapshot.declaring(skill(who));
    }
    let extra = Arc::new(Grant::new("extra", skill(7), vec![clause(1)]));
    let mut spans = Vec::with_capacity(DECISIONS);
    for nth in 0..DECISIONS {
        let now = if nth % 2 == 0 { snapshot.with(&extra) } else { snapshot.without(&extra) };
        let standing =
            Standing { kind: PrincipalKind::Skill, parties: vec![skill(nth % SKILLS)], bound: Vec::new() };
        let (permission, resource) = wanted(nth);
        let deed = Deed { permission, method: Some("event.publish"), resource: Some(&resource) };
        let before = Instant::now();
        let verdict = black_box(standing.decide(black_box(&now), &deed, 0));
        spans.push(before.elapsed().as_nanos() as f64 / 1e3);
        assert_eq!(matches!(verdict, Verdict::Denied(_)), nth % 4 == 3, "{resource}");
    }
    spans
}

/// A kernel, and a log that has at once what it is handed.
struct Called {
    kernel: Kernel,
    shelf: Shelf,
    written: u64,
    out: Commands,
}

impl Called {
    fn new() -> Called {
        let shelf = Shelf::default();
        Called { kernel: kernel(shelf.clone()), shelf, written: 0, out: Commands::default() }
    }

    fn connect(&mut self, slot: u32) -> ConnectionKey {
        let key = ConnectionKey { reactor: ReactorId(0), slot, generation: 1 };
        let peer = Peer { pid: 2, uid: OWNER, gid: OWNER, groups: Vec::new(), lineage: Lineage::Outside };
        self.kernel.connected(Moment::default(), key, peer, &mut self.out);
        key
    }

    fn call(&mut self, key: ConnectionKey, payload: &[u8]) {
        self.out.replies.clear();
        self.out.list.clear();
        let at = Moment::default();
        let frame = Inbound { kind: 1, payload };
        let mut errand = self.kernel.received(at, key, frame, &mut self.out);
        while errand.run(payload) {
            errand = self.kernel.proceed(at, key, frame, errand, &mut self.out);
        }
    }

    /// The same, and the log has what it led to.
    fn settle(&mut self, key: ConnectionKey, method: &str, params: &Value) {
        self.call(key, &frame(method, params));
        self.kernel.hand_over();
        let entries: usize = self.shelf.take().batches.iter().map(|batch| batch.entries.len()).sum();
        self.written += entries as u64;
        while self.kernel.written(Moment::default(), self.written, &mut self.out) {}
    }
}

/// Microseconds of one call by an agent that was granted it, and of the same one by the owner.
fn calls() -> (f64, f64) {
    let mut called = Called::new();
    let (owner, other) = (called.connect(0), called.connect(1));
    for who in 0..SKILLS {
        for nth in 0..GRANTS {
            let Clause { permission, resource, .. } = clause(nth);
            let principal = format!("agent:a-{who}");
            let grant = json!({ "principal": principal, "permission": permission.name(), "resource": resource.as_deref() });
            called.settle(owner, "permission.grant", &grant);
        }
    }
    let agent = json!({ "name": "a-7", "permissions": [{ "permission": "process.list" }] });
    called.settle(owner, "agent.create", &agent);
    called.settle(other, "identify", &json!({ "agentId": "a-7" }));
    let list = frame("process.list", &json!({}));
    let mut span = |key| {
        let before = Instant::now();
        for _ in 0..CALLS {
            called.call(key, &list);
        }
        before.elapsed().as_nanos() as f64 / CALLS as f64 / 1e3
    };
    span(other);
    let spans = (span(other), span(owner));
    for key in [owner, other] {
        called.call(key, &list);
        let answered = called.out.replies.windows(9).any(|bytes| bytes == b"processes");
        assert!(answered, "the call is answered: {:?}", called.out.replies);
    }
    spans
}

fn frame(method: &str, params: &Value) -> Vec<u8> {
    let mut buf = BytesMut::new();
    let id = Raw::of("q7f3k2").expect("an id");
    request::put(&mut buf, &id, method, params, None).expect("a request");
    buf[HEADER_BYTES..].to_vec()
}

fn kernel(shelf: Shelf) -> Kernel {
    let config = Config::alone(OWNER);
    Kernel::new(config, Box::new(Seeded::new(1)), Box::new(shelf), 0)
}
