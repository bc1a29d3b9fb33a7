//! Who started whom: what is forbidden to anybody in a line is forbidden to all behind it.

use crate::harness::{OWNER, World, config};
use crate::named::DENIED;
use kairo_dataplane::command::{Commands, Spawn};
use kairo_dataplane::control::{ExitStatus, Lineage, Notice};
use kairo_dataplane::keeper::settlement::Heir;
use kairo_dataplane::key::{ConnectionKey, ProcessKey};
use serde_json::json;
use std::collections::BTreeSet;

fn forbid(world: &mut World, principal: &str) {
    let owner = world.owner();
    let grant = json!({ "principal": principal, "permission": "event.publish", "effect": "forbid" });
    world.ok(owner, "permission.grant", grant);
}

fn publishes(world: &mut World, connection: ConnectionKey) -> bool {
    match world.call(connection, "event.publish", json!({ "type": "a.b" })) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(crate::harness::code(&error).0, DENIED);
            false
        }
    }
}

fn named(world: &mut World, name: &str) -> ConnectionKey {
    let connection = world.owner();
    world.ok(connection, "identify", json!({ "skillId": name }));
    connection
}

#[test]
fn no_line_is_too_long_for_what_is_forbidden_at_its_beginning() {
    let mut world = World::new();
    let mut starter = named(&mut world, "x");
    for at in 0..100 {
        let (_, pid) = world.run(starter, &format!("p{at}"));
        starter = world.child(&[pid], None);
    }
    assert!(publishes(&mut world, starter));
    forbid(&mut world, "skill:x");
    assert!(!publishes(&mut world, starter));
}

#[test]
fn nobody_gets_rid_of_it_by_the_end_of_whoever_stands_between() {
    let mut world = World::new();
    let x = named(&mut world, "x");
    let (mut process, pid) = world.run(x, "p0");
    let mut starter = world.child(&[pid], None);
    for at in 1..600 {
        let (next, pid) = world.run(starter, &format!("p{at}"));
        world.disconnect(starter);
        starter = world.child(&[pid], None);
        world.finish(process, 0);
        process = next;
        // Records of what is over are forgotten after an hour.
        world.advance(600_000);
    }
    assert!(publishes(&mut world, starter));
    forbid(&mut world, "skill:x");
    assert!(!publishes(&mut world, starter), "its line has one that lives and one that is forbidden it");
}

#[test]
fn a_line_of_too_many_that_live_goes_no_further() {
    let mut world = World::new();
    let mut starter = named(&mut world, "x");
    // Each goes by its session and by a name, and begins with one that has no session.
    for at in 0..128 {
        let (_, pid) = world.run(starter, &format!("p{at}"));
        starter = world.child(&[pid], None);
        world.ok(starter, "identify", json!({ "skillId": format!("n{at}") }));
    }
    let (code, message) = world.fails(starter, "process.spawn", json!({ "id": "more", "command": ["a"] }));
    assert_eq!(code, "E_TOO_LARGE", "{message}");
}

#[test]
fn a_later_kernel_knows_the_line() {
    let mut before = World::new();
    let mut starter = named(&mut before, "x");
    let mut spawn: Option<Box<Spawn>> = None;
    for at in 0..3 {
        before.start(starter, "process.spawn", json!({ "id": format!("p{at}"), "command": ["a"] }));
        let next = before.take_spawn().expect("it is started");
        let (_, pid) = before.bear(&next);
        starter = before.child(&[pid], None);
        spawn = Some(next);
    }
    let spawn = spawn.expect("the last");
    let mut world = World::with(config());
    world.at = before.at;
    let mut heir = Heir::of_nothing(spawn.process, &spawn.session, 77, 1);
    heir.session.record = spawn.record.to_vec();
    let (at, mut out) = (world.at, Commands::default());
    world.kernel.adopt(at, vec![heir], &mut out);
    world.kernel.settle_adopted(at, &mut out);
    world.carry_out(None, out);
    let last = world.connect(OWNER, Lineage::Child { ancestors: vec![77], session: None });
    assert!(publishes(&mut world, last));
    forbid(&mut world, "skill:x");
    assert!(!publishes(&mut world, last), "whoever stood between is not there any more");
}

/// One process of a made-up world: its pid, its key, all names of whoever is above it, and whether it lives.
struct One {
    pid: i32,
    process: ProcessKey,
    above: BTreeSet<String>,
    lives: bool,
}

#[test]
fn a_decision_is_what_a_search_through_all_lines_would_say() {
    for seed in 0..8_u64 {
        let mut world = World::new();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = move |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        let mut all: Vec<One> = Vec::new();
        let mut forbidden: BTreeSet<String> = BTreeSet::new();
        for step in 0..60 {
            let living: Vec<usize> = (0..all.len()).filter(|at| all[*at].lives).collect();
            let parent = (!living.is_empty() && below(6) > 0).then(|| living[below(living.len())]);
            let name = (below(2) == 0 || parent.is_none()).then(|| format!("n{}", below(6)));
            let starter = match parent {
                Some(parent) => world.child(&[all[parent].pid], None),
                None => world.owner(),
            };
            let mut above = parent.map(|parent| all[parent].above.clone()).unwrap_or_default();
            if let Some(name) = &name {
                // What was started by a name of which something is said has that name already.
                if world.call(starter, "identify", json!({ "skillId": name })).is_ok() {
                    above.insert(name.clone());
                }
            }
            let (process, pid) = world.run(starter, &format!("p{step}"));
            world.disconnect(starter);
            all.push(One { pid, process, above, lives: true });
            if below(3) == 0 {
                let one = all.len() - 1;
                let one = below(one + 1);
                if std::mem::replace(&mut all[one].lives, false) {
                    world.exits(all[one].process, ExitStatus::Code(0));
                    world.notice(Notice::Ended { process: all[one].process });
                }
            }
            if below(10) == 0 {
                let name = format!("n{}", below(6));
                forbid(&mut world, &format!("skill:{name}"));
                forbidden.insert(name);
            }
        }
        for one in all.iter().filter(|one| one.lives) {
            let connection = world.child(&[one.pid], None);
            let may = one.above.is_disjoint(&forbidden);
            assert_eq!(
                publishes(&mut world, connection),
                may,
                "seed {seed}: {:?} of {forbidden:?}",
                one.above
            );
        }
    }
}
