//! What landlock and seccomp can't say: paths denied inside folders that are allowed, a network of its own.
//!
//! Attacks as in `battery`, each of which succeeds once its protection is off; then what stands on the host meanwhile,
//! and what is there afterwards: nothing. Skipped by name where no namespaces can be made.

use super::arena::{Arena, NOBODY, can_divide};
use super::battery::{Attack, By, LANDLOCK, attacks, nothing};
use crate::support::{Daemon, Driver, Options, is_root, until};
use serde_json::{Value as Json, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn unread() -> Json {
    json!({"files": {"denyRead": ["{denied}"]}})
}

fn unread_file() -> Json {
    json!({"files": {"denyRead": ["{own}"]}})
}

fn unwritten() -> Json {
    json!({"files": {"denyWrite": ["{denied}"]}})
}

fn unwritten_file() -> Json {
    json!({"files": {"denyWrite": ["{own}"]}})
}

fn unmade() -> Json {
    json!({"files": {"denyWrite": ["{absent}"]}})
}

fn unmade_below() -> Json {
    json!({"files": {"denyWrite": ["{below}"]}})
}

/// Calls that could uncover what is denied get through to the kernel.
fn unread_with_calls() -> Json {
    json!({"files": {"denyRead": ["{denied}"]}, "protections": {"systemCalls": "off"}})
}

fn unwritten_with_calls() -> Json {
    json!({"files": {"denyWrite": ["{denied}"]}, "protections": {"systemCalls": "off"}})
}

fn unread_beside_proc() -> Json {
    let readable = ["/usr", "/lib", "/lib64", "/bin", "/proc", "{kept}"];
    json!({"files": {"denyRead": ["{denied}"], "read": readable}})
}

fn unread_by_others() -> Json {
    let mut wish = unread_beside_proc();
    wish["protections"] = json!({"systemCalls": "off"});
    wish
}

fn private() -> Json {
    json!({"network": {"private": true}})
}

fn modes() -> Json {
    json!({"files": {"metadata": true}})
}

const DENIED: &[&str] = &["deniedPaths"];
/// For what a domain of Landlock's keeps from as well.
const DENIED_AND_LANDLOCK: &[&str] =
    &[LANDLOCK[0], LANDLOCK[1], LANDLOCK[2], LANDLOCK[3], LANDLOCK[4], LANDLOCK[5], "deniedPaths", "ptrace"];
const NETWORK: &[&str] = &["network", "ports", "loopback"];

attacks! {
    reading_a_denied_file: ["read", "{own}"], off DENIED, with unread_file, if can_divide;
    reading_in_a_denied_folder: ["read", "{within}"], off DENIED, with unread, if can_divide;
    listing_a_denied_folder: ["list", "{denied}"], off DENIED, with unread, if can_divide;
    reading_a_denied_file_by_another_name: ["link", "{own}", "{inside}"], off DENIED, with unread_file, if can_divide;
    reading_a_denied_file_through_a_link: ["symlink", "{own}", "{inside}"], off DENIED, with unread_file, if can_divide;
    reading_what_is_denied_from_the_folder_above: ["read-from", "{kept}", "denied/file"], off DENIED, with unread, if can_divide;
    reading_what_is_denied_by_its_own_root: ["read-root", "self", "{within}"], off DENIED, with unread_beside_proc, if can_divide;
    reading_what_is_denied_by_the_root_of_others: ["read-root", "{victim}", "{within}"], off DENIED_AND_LANDLOCK, with unread_beside_proc, if can_divide;
    moving_a_denied_file_away: ["rename", "{own}", "{inside}"], off DENIED, with unread_file, if can_divide;

    writing_a_denied_file: ["write", "{own}"], off DENIED, with unwritten_file, if can_divide;
    truncating_a_denied_file: ["truncate", "{own}"], off DENIED, with unwritten_file, if can_divide;
    removing_a_denied_file: ["unlink", "{own}"], off DENIED, with unwritten_file, if can_divide;
    putting_a_file_in_the_place_of_a_denied_one: ["replace", "{own}"], off DENIED, with unwritten_file, if can_divide;
    exchanging_a_denied_file: ["exchange", "{own}"], off DENIED, with unwritten_file, if can_divide;
    writing_a_denied_file_by_another_name: ["link", "{own}", "{inside}"], off DENIED, with unwritten_file, if can_divide;
    writing_in_a_denied_folder: ["write", "{within}"], off DENIED, with unwritten, if can_divide;
    making_a_file_in_a_denied_folder: ["create", "{fresh}"], off DENIED, with unwritten, if can_divide;
    moving_a_file_into_a_denied_folder: ["rename", "{own}", "{fresh}"], off DENIED, with unwritten, if can_divide;
    linking_a_file_into_a_denied_folder: ["link", "{own}", "{fresh}"], off DENIED, with unwritten, if can_divide;
    moving_a_denied_folder_away: ["rename", "{denied}", "{inside}"], off DENIED, with unwritten, if can_divide;
    writing_what_is_denied_from_the_folder_above: ["write-from", "{kept}", "denied/file"], off DENIED, with unwritten, if can_divide;
    making_another_folder_above_what_is_denied: ["remake", "{kept}", "{denied}"], off DENIED, with unwritten, if can_divide;

    making_a_folder_that_is_denied: ["mkdir", "{absent}"], off DENIED, with unmade, if can_divide;
    making_a_file_that_is_denied: ["create", "{absent}"], off DENIED, with unmade, if can_divide;
    making_something_in_a_folder_that_is_denied: ["make", "{absent}"], off DENIED, with unmade, if can_divide;
    moving_a_file_to_a_name_that_is_denied: ["rename", "{own}", "{absent}"], off DENIED, with unmade, if can_divide;
    linking_a_file_to_a_name_that_is_denied: ["link", "{own}", "{absent}"], off DENIED, with unmade, if can_divide;
    making_a_link_of_a_name_that_is_denied: ["symlink", "{own}", "{absent}"], off DENIED, with unmade, if can_divide;
    making_another_folder_above_a_name_that_is_denied: ["remake", "{kept}", "{absent}"], off DENIED, with unmade, if can_divide;
    making_the_folder_above_a_name_that_is_denied: ["mkdir", "{absent}"], off DENIED, with unmade_below, if can_divide;

    unmounting_what_hides: ["unmount", "{denied}", "{within}"], off DENIED, with unread_with_calls, if can_divide;
    unmounting_in_a_namespace_within: ["nested-unmount", "{denied}", "{within}"], off DENIED, with unread_with_calls, if can_divide;
    copying_a_mount_without_what_hides: ["copy", "{granted}", "{within}"], off DENIED, with unread_with_calls, if can_divide;
    copying_a_mount_in_a_namespace_within: ["nested-copy", "{granted}", "{within}"], off DENIED, with unread_with_calls, if can_divide;
    mounting_again_to_be_written: ["remount", "{denied}", "{within}"], off DENIED, with unwritten_with_calls, if can_divide;
    mounting_again_in_a_namespace_within: ["nested-remount", "{denied}", "{within}"], off DENIED, with unwritten_with_calls, if can_divide;
    joining_the_mounts_of_others: ["join", "{victim}", "{within}"], off DENIED, with unread_by_others, if can_divide;

    changing_the_mode_of_what_may_not_be_changed: ["chmod", "{secret}"], off &["metadata"], with modes, if can_divide;
    changing_the_owner_of_what_may_not_be_changed: ["chown", "{secret}"], off &["metadata"], with modes, if can_divide;
    changing_times_of_what_may_not_be_changed: ["touch", "{secret}"], off &["metadata"], with modes, if can_divide;
    changing_attributes_of_what_may_not_be_changed: ["attribute", "{secret}"], off &["metadata"], with modes, if can_divide;

    this_machines_loopback_from_another_network: ["connect", "{tcp}"], off NETWORK, with private, if can_divide;
}

/// Users a test is to be run for.
fn users() -> Vec<Option<u32>> {
    if is_root() { vec![None, Some(NOBODY)] } else { vec![None] }
}

fn what_is_not_denied_goes_on_beside_it(daemon: &Daemon) {
    let name = "what_is_not_denied_goes_on_beside_it";
    if !can_divide(name) {
        return;
    }
    for uid in users() {
        let Some(arena) = Arena::new(daemon, uid, &format!("{name}-{}", uid.unwrap_or_default())) else {
            return;
        };
        let mut raw = daemon.connect_modern();
        let mut won = |argv: &[&str], with: fn() -> Json| {
            let said = arena.attempt(&mut raw, argv, Some(arena.profile(&with())), &nothing());
            assert!(said.contains("WON"), "{argv:?}: {said}");
        };
        won(&["read", "{within}"], unwritten);
        won(&["read", "{own}"], unread);
        won(&["make", "{kept}"], unwritten);
        won(&["rename", "{own}", "{inside}"], unwritten);
        won(&["make", "{absent}"], unwritten);
        won(&["own-loopback"], private);
        won(&["chmod", "{own}"], modes);
        won(&["touch", "{own}"], modes);
        won(&["rename", "{own}", "{inside}"], modes);
        won(&["make", "{fresh}"], modes);
    }
}

/// As seen from outside.
fn what_stands_for_a_name_is_gone_with_the_last_who_may_not_make_it(daemon: &Daemon) {
    let name = "what_stands_for_a_name_is_gone_with_the_last_who_may_not_make_it";
    if !can_divide(name) {
        return;
    }
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    let placeholder = arena.path("inside/absent");
    let is_there = || Path::new(&placeholder).exists();
    let sandbox = arena.profile(&json!({"files": {"denyWrite": [placeholder]}}));
    let options = json!({"cwd": "/", "sandbox": sandbox});
    for id in ["one", "two"] {
        let told =
            raw.ok("process.spawn", json!({"id": id, "command": ["sleep", "1000"], "options": options}));
        assert!(told["sandbox"]["warnings"].to_string().contains(&placeholder), "{told}");
    }
    // Two in one that isn't there.
    let nested = ["a", "b"].map(|part| format!("{placeholder}/{part}"));
    let below = arena.profile(&json!({"files": {"denyWrite": nested, "denyRead": [arena.path("inside/x/y"), arena.path("inside/x")]}}));
    let output = raw.run("nested", &["ls", "-A", &arena.inside()], json!({"cwd": "/", "sandbox": below}));
    assert!(output.text().contains("absent\n") && output.text().contains("x\n"), "{}", output.text());
    raw.wait_until_ended(&["nested"]);
    assert!(is_there() && !Path::new(&arena.path("inside/x")).exists());
    for (id, left) in [("one", true), ("two", false)] {
        raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
        raw.wait_until_ended(&[id]);
        assert_eq!(is_there(), left, "{id}");
    }
    // One that fails to start leaves none either.
    raw.refused("process.spawn", json!({"id": "none", "command": ["/no/such"], "options": options}));
    assert!(!is_there());
    // What somebody put there is theirs.
    raw.spawn("three", &["sleep", "1000"], options.clone());
    fs::write(format!("{placeholder}/theirs"), "").expect("a file");
    raw.ok("process.kill", json!({"id": "three", "signal": "KILL"}));
    raw.wait_until_ended(&["three"]);
    assert!(Path::new(&format!("{placeholder}/theirs")).exists());
}

/// Its tree has ended without it, and it is denied what it was.
fn who_leaves_its_tree_makes_nothing_that_is_denied_either(daemon: &Daemon) {
    let name = "who_leaves_its_tree_makes_nothing_that_is_denied_either";
    if !can_divide(name) {
        return;
    }
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    let placeholder = arena.path("inside/absent");
    let sandbox = arena.profile(&json!({"files": {"denyWrite": [placeholder]}}));
    let attack = arena.path("attack");
    let argv = [attack.as_str(), "outlive", &arena.inside(), "now", &placeholder];
    raw.run("it", &argv, json!({"cwd": "/", "sandbox": sandbox}));
    raw.wait_until_ended(&["it"]);
    assert!(Path::new(&placeholder).exists());
    fs::write(arena.path("inside/go"), "").expect("a file");
    let result = arena.path("inside/result");
    until("it has tried", || fs::read_to_string(&result).is_ok_and(|said| said.ends_with('\n')));
    assert_eq!(fs::read_to_string(&result).expect("a file"), "LOST\n");
    until("nothing stands there any more", || !Path::new(&placeholder).exists());
}

fn what_is_denied_weaker_by_name_leaves_the_host_alone_and_says_so(daemon: &Daemon) {
    let name = "what_is_denied_weaker_by_name_leaves_the_host_alone_and_says_so";
    if !can_divide(name) {
        return;
    }
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    fs::create_dir_all(arena.path("inside/.git/hooks")).expect("a folder");
    let inside = arena.inside();
    let config = json!({
        "network": {"allowedDomains": [], "deniedDomains": []},
        "filesystem": {"denyRead": [], "allowWrite": [inside], "denyWrite": []},
    });
    let script = "ls -A; echo x > .git/hooks/pre-commit || echo x > .bashrc";
    let command = ["sh", "-c", script];
    let options = json!({"cwd": arena.inside(), "sandbox": config});
    let told = raw.ok("process.spawn", json!({"id": "it", "command": command, "options": options}));
    let entries = told["sandbox"]["entries"].as_array().expect("entries");
    let denied = entries.iter().find(|entry| entry["protection"] == "deniedPaths").expect("an entry");
    assert_eq!(denied["standing"], "weaker", "{denied}");
    let reason = denied["reason"].as_str().expect("a reason");
    assert!(reason.contains(".bashrc") && !reason.contains(".git/hooks"), "{reason}");
    raw.wait_until_ended(&["it"]);
    let subscription = raw.subscribe("it", json!({"stream": "stdout"}));
    assert_eq!(raw.collect(&subscription, 1).text(), ".git\n");
    assert!(Path::new(&arena.path("inside/.bashrc")).exists());
    assert!(!Path::new(&arena.path("inside/.git/hooks/pre-commit")).exists());
}

fn a_link_that_could_be_replaced_keeps_a_denial_from_being_promised(daemon: &Daemon) {
    let name = "a_link_that_could_be_replaced_keeps_a_denial_from_being_promised";
    if !can_divide(name) {
        return;
    }
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    fs::create_dir(arena.path("inside/real")).expect("a folder");
    symlink("real", arena.path("inside/link")).expect("a link");
    let mut wish = json!({"files": {"denyWrite": [arena.path("inside/link/below")]}});
    let spawn =
        |sandbox: Json| json!({"id": "it", "command": ["true"], "options": {"cwd": "/", "sandbox": sandbox}});
    let refusal = raw.refused("process.spawn", spawn(arena.profile(&wish)));
    assert_eq!(
        (refusal.code.as_str(), &refusal.info["details"]["protection"]),
        ("E_UNSUPPORTED", &json!("deniedPaths")),
        "{refusal:?}"
    );
    wish["acceptWeaker"] = json!(["deniedPaths"]);
    let told = raw.ok("process.spawn", spawn(arena.profile(&wish)));
    assert!(told["sandbox"].to_string().contains("link/below"), "{told}");
    raw.wait_until_ended(&["it"]);
    // Another name of a file is a way past its denial.
    fs::write(arena.path("inside/one"), "x").expect("a file");
    fs::hard_link(arena.path("inside/one"), arena.path("inside/other")).expect("a link");
    let wish = json!({"files": {"denyRead": [arena.path("inside/one")]}});
    let refusal = raw.refused("process.spawn", spawn(arena.profile(&wish)));
    assert_eq!(refusal.info["details"]["protection"], "deniedPaths", "{refusal:?}");
    // A link that nobody inside can replace is followed.
    symlink(arena.path("inside/real"), arena.path("fixed")).expect("a link");
    fs::write(arena.path("inside/real/file"), "x").expect("a file");
    let wish = json!({"files": {"denyRead": [arena.path("fixed/file")], "read": ["/usr", "/lib", "/lib64", "/bin", arena.inside()]}});
    let mut sandbox = arena.profile(&wish);
    sandbox["files"]["read"].as_array_mut().expect("a list").push(json!(arena.path("fixed")));
    let output = raw.run(
        "reader",
        &["cat", &arena.path("inside/real/file")],
        json!({"cwd": "/", "stderr": "stdout", "sandbox": sandbox}),
    );
    assert!(output.text().contains("Permission denied"), "{}", output.text());
}

/// Signals, the exit as it was, a terminal: all as without.
fn a_process_with_namespaces_is_one_like_others(daemon: &Daemon) {
    let name = "a_process_with_namespaces_is_one_like_others";
    if !can_divide(name) {
        return;
    }
    for uid in users() {
        let Some(arena) = Arena::new(daemon, uid, &format!("{name}-{}", uid.unwrap_or_default())) else {
            return;
        };
        let mut raw = daemon.connect_modern();
        let id = |what: &str| format!("{what}-{}", uid.unwrap_or_default());
        let sandbox = arena.profile(
            &json!({"files": {"denyWrite": [arena.path("inside/absent")]}, "network": {"private": true}}),
        );
        let mut options = json!({"cwd": arena.inside(), "sandbox": sandbox});
        if let Some(uid) = uid {
            options["user"] = json!(uid);
        }
        let expected = uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let output = raw.run(&id("who"), &["sh", "-c", "id -u; pwd; exit 7"], options.clone());
        assert_eq!(output.text(), format!("{expected}\n{}\n", arena.inside()));
        assert_eq!(raw.wait_for_exit(&id("who"))["exitCode"], 7);
        let up = arena.path("inside/up");
        let script = "trap 'exit 9' TERM; echo > up; while :; do sleep 0.02; done";
        let mut terminal = options.clone();
        terminal["pty"] = json!(true);
        raw.spawn(&id("trap"), &["sh", "-c", script], terminal);
        until("it is up", || Path::new(&up).exists());
        raw.ok("process.pause", json!({"id": id("trap")}));
        raw.ok("process.resume", json!({"id": id("trap")}));
        raw.ok("process.kill", json!({"id": id("trap")}));
        assert_eq!(raw.wait_for_exit(&id("trap"))["exitCode"], 9);
        raw.wait_until_ended(&[&id("trap")]);
    }
}

/// What a killed keeper couldn't take with it, the next one does.
#[test]
fn what_a_killed_keeper_left_is_removed_by_the_next_who_meets_it() {
    let name = "what_a_killed_keeper_left_is_removed_by_the_next_who_meets_it";
    if !can_divide(name) {
        return;
    }
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let Some(arena) = Arena::new(&daemon, None, name) else { return daemon.finish() };
    let mut raw = daemon.connect_modern();
    let placeholder = arena.path("inside/absent");
    let sandbox = arena.profile(&json!({"files": {"denyWrite": [placeholder]}}));
    let options = json!({"cwd": "/", "sandbox": sandbox});
    raw.spawn("it", &["sleep", "1000"], options.clone());
    drop(raw);
    // A kernel that follows another finds it as it was.
    daemon.kill_and_succeed();
    assert!(Path::new(&placeholder).exists());
    let mut raw = daemon.connect_modern();
    raw.ok("process.kill", json!({"id": "it", "signal": "KILL"}));
    raw.wait_until_ended(&["it"]);
    assert!(!Path::new(&placeholder).exists());
    // As one that was killed leaves it.
    fs::create_dir(&placeholder).expect("a folder");
    let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(&placeholder).and_then(|folder| folder.set_modified(then)).expect("ours");
    raw.spawn("next", &["true"], options);
    raw.wait_until_ended(&["next"]);
    until("it is removed", || !Path::new(&placeholder).exists());
    raw.ok("process.kill", json!({"id": format!("victim-{name}"), "signal": "KILL"}));
    drop(raw);
    daemon.finish();
}

mod also {
    use super::{
        a_link_that_could_be_replaced_keeps_a_denial_from_being_promised,
        a_process_with_namespaces_is_one_like_others,
        what_is_denied_weaker_by_name_leaves_the_host_alone_and_says_so,
        what_is_not_denied_goes_on_beside_it,
        what_stands_for_a_name_is_gone_with_the_last_who_may_not_make_it,
        who_leaves_its_tree_makes_nothing_that_is_denied_either,
    };
    crate::support::on_both_drivers!(
        a_link_that_could_be_replaced_keeps_a_denial_from_being_promised,
        a_process_with_namespaces_is_one_like_others,
        what_is_denied_weaker_by_name_leaves_the_host_alone_and_says_so,
        what_is_not_denied_goes_on_beside_it,
        what_stands_for_a_name_is_gone_with_the_last_who_may_not_make_it,
        who_leaves_its_tree_makes_nothing_that_is_denied_either,
    );
}
