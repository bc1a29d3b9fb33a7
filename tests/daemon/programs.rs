//! Digests of what is executed: a program that isn't the one that was allowed never runs, whatever is done to its file.
//!
//! What is allowed makes a file, what isn't a folder, so what has run can be seen. Each runs contained and not, where this
//! kernel can.

use crate::sandbox::arena::{can_contain, profile};
use crate::support::raw::{Raw, Refusal};
use crate::support::{Daemon, Driver, NOBODY, Options, needs_root, on_both_drivers, processes, until};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// More than is read of a program before somebody else gets a turn, and long to read.
const LONG_BYTES: u64 = 8 << 30;

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the file its argument names.
fn good() -> Vec<u8> {
    fs::read("/usr/bin/touch").expect("there is touch")
}

/// Makes the folder its argument names.
fn bad() -> Vec<u8> {
    fs::read("/usr/bin/mkdir").expect("there is mkdir")
}

/// A place for programs that everybody can reach.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("its mode");
        Place(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    /// Puts a program where another one may be running.
    fn install(&self, name: &str, bytes: &[u8]) -> String {
        let fresh = self.path("fresh");
        write(&fresh, bytes);
        fs::rename(&fresh, self.path(name)).expect("it takes its place");
        self.text(name)
    }

    /// Contained and not.
    fn ways(&self) -> Vec<Json> {
        let mut ways = vec![json!({"cwd": "/"})];
        if can_contain("digests of contained programs") {
            let mut sandbox = profile();
            for list in ["read", "execute", "write", "create"] {
                let mut paths = sandbox["files"][list].as_array().cloned().unwrap_or_default();
                paths.push(json!(self.0.path()));
                sandbox["files"][list] = paths.into();
            }
            ways.push(json!({"cwd": "/", "sandbox": sandbox}));
        }
        ways
    }
}

fn write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).expect("a file");
    file.write_all(bytes).expect("it can be written");
    file.set_permissions(fs::Permissions::from_mode(0o755)).expect("its mode");
}

fn wish(id: &str, argv: &[&str], way: &Json, more: &Json) -> Json {
    let mut options = way.clone();
    for (name, value) in more.as_object().expect("options") {
        options[name] = value.clone();
    }
    json!({"id": id, "command": argv, "options": options})
}

fn run(raw: &mut Raw, id: &str, argv: &[&str], way: &Json, more: &Json) -> Result<Json, Refusal> {
    let answer = raw.call("process.spawn", wish(id, argv, way, more))?;
    assert_eq!(raw.wait_for_exit(id)["exitCode"], 0, "{answer}");
    raw.wait_until_ended(&[id]);
    Ok(answer)
}

fn the_right_program_runs_and_is_told(daemon: &Daemon) {
    let place = Place::new();
    let mut raw = daemon.connect_modern();
    let (program, own) = (place.install("program", &good()), digest(&good()));
    for (nth, way) in place.ways().iter().enumerate() {
        for (kind, more) in
            [("digest", json!({"programDigest": own})), ("measure", json!({"measureProgram": true}))]
        {
            let (id, mark) = (format!("{kind}-{nth}"), place.text(&format!("{kind}-{nth}")));
            raw.ok("subscribe", json!({"topic": "kairo.process.spawned"}));
            let answer = run(&mut raw, &id, &[&program, &mark], way, &more).expect("it runs");
            assert_eq!(answer["program"], json!({"path": program, "digest": own}));
            let told = raw.event("kairo.process.spawned", |event| event["payload"]["id"] == *id);
            assert_eq!(told["payload"]["program"], answer["program"]);
            let status = raw.ok("process.status", json!({"id": id, "detail": true}));
            assert_eq!(status["detail"]["program"], answer["program"]);
            assert!(Path::new(&mark).is_file());
        }
        // Nobody asked: nothing is read, nothing told.
        let answer =
            run(&mut raw, "plain", &[&program, &place.text("plain")], way, &json!({})).expect("it runs");
        assert!(answer["program"].is_null(), "{answer}");
    }
    // On a terminal, and found by its name. Not touch: it closes its terminal before it exits, and is hung up.
    let shell = fs::read("/bin/sh").expect("there is a shell");
    place.install("shell", &shell);
    let pty = json!({"programDigest": digest(&shell), "pty": true, "env": {"PATH": place.0.path()}});
    let script = format!(": > {}", place.text("pty"));
    run(&mut raw, "pty", &["shell", "-c", &script], &json!({"cwd": "/"}), &pty).expect("it runs");
    assert!(place.path("pty").is_file());
}

fn another_program_never_runs_and_both_digests_are_named(daemon: &Daemon) {
    let place = Place::new();
    let mut raw = daemon.connect_modern();
    let allowed = json!({"programDigest": digest(&good())});
    // Approved, then replaced: by rename, in place, behind a link.
    place.install("program", &good());
    let replaced = place.install("program", &bad());
    let rewritten = place.install("rewritten", &good());
    write(Path::new(&rewritten), &bad());
    let linked = place.text("link");
    place.install("good", &good());
    symlink(place.path("good"), &linked).expect("a link");
    fs::remove_file(&linked).expect("it goes");
    symlink(place.path("program"), &linked).expect("a link");
    // A script that names what is allowed as its interpreter isn't that.
    let script = place.install("script", format!("#!{}\n", place.text("good")).as_bytes());
    for way in place.ways() {
        for program in [&replaced, &rewritten, &linked] {
            let mark = place.text("mark");
            let refusal = raw.refused("process.spawn", wish("it", &[program, &mark], &way, &allowed));
            let details = &refusal.info["details"];
            assert_eq!(
                (refusal.code.as_str(), &details["stage"]),
                ("E_PERMISSION_DENIED", &json!("program"))
            );
            let both = (json!(digest(&good())), json!(digest(&bad())));
            assert_eq!((&details["wanted"], &details["found"]), (&both.0, &both.1), "{refusal:?}");
            assert!(!Path::new(&mark).exists());
        }
        let mark = place.text("mark");
        let refusal = raw.refused("process.spawn", wish("it", &[&script, &mark], &way, &allowed));
        assert_eq!(refusal.code, "E_UNSUPPORTED", "{refusal:?}");
        let mut weaker = allowed.clone();
        weaker["acceptWeakerProgram"] = true.into();
        let refusal = raw.refused("process.spawn", wish("it", &[&script, &mark], &way, &weaker));
        assert_eq!(refusal.code, "E_PERMISSION_DENIED", "{refusal:?}");
        assert!(!Path::new(&mark).exists());
        let missing = place.text("missing");
        let refusal = raw.refused("process.spawn", wish("it", &[&missing, "x"], &way, &allowed));
        assert_eq!(refusal.code, "E_EXECUTABLE_NOT_FOUND", "{refusal:?}");
    }
    for wrong in ["", "12", &"g".repeat(64)] {
        let more = json!({"programDigest": wrong});
        let refusal = raw.refused("process.spawn", wish("it", &["true"], &json!({}), &more));
        assert_eq!(refusal.info["details"]["field"], "options.programDigest", "{refusal:?}");
    }
    let id = raw.ok("process.status", json!({"id": "it"}));
    assert_eq!(id["state"], "unknown");
}

fn a_script_is_read_itself_and_stands_weaker(daemon: &Daemon) {
    let place = Place::new();
    let mut raw = daemon.connect_modern();
    let texts = ["#!/bin/sh\ntouch \"$1\"\n", "#! /bin/sh -e\n: > \"$1\"\n"];
    for (nth, text) in texts.into_iter().enumerate() {
        let name = format!("script-{nth}");
        let (script, own) = (place.install(&name, text.as_bytes()), digest(text.as_bytes()));
        for way in place.ways() {
            let mut inside = way.clone();
            inside["cwd"] = json!(place.0.path());
            let mark = place.text("mark");
            for (program, way) in [(&script, &way), (&format!("./{name}"), &inside)] {
                let more = json!({"programDigest": own, "acceptWeakerProgram": true});
                let answer = run(&mut raw, "it", &[program, &mark], way, &more).expect("it runs");
                assert_eq!(answer["program"], json!({"path": script, "digest": own, "weaker": "script"}));
                let measured = json!({"measureProgram": true});
                let answer = run(&mut raw, "it", &[program, &mark], way, &measured).expect("it runs");
                assert_eq!(answer["program"]["digest"], json!(own));
                let strict = json!({"programDigest": own});
                let refusal = raw.refused("process.spawn", wish("no", &[program, &mark], way, &strict));
                assert_eq!(
                    (refusal.code.as_str(), &refusal.info["details"]["protection"]),
                    ("E_UNSUPPORTED", &json!("program"))
                );
            }
        }
    }
}

/// Somebody changes the file as fast as they can: what runs is what is allowed, every time.
fn no_race_is_won_against_the_digest(daemon: &Daemon) {
    let place = Place::new();
    let mut raw = daemon.connect_modern();
    let (program, allowed) = (place.install("program", &good()), json!({"programDigest": digest(&good())}));
    place.install("good", &good());
    place.install("bad", &bad());
    let over = AtomicBool::new(false);
    let (mut ran, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (good, bad) = (good(), bad());
            for nth in 0u32.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (name, bytes) = if nth % 2 == 0 { ("bad", &bad) } else { ("good", &good) };
                match nth / 2 % 3 {
                    // In place: refused while it runs.
                    0 => drop(fs::write(place.path("program"), bytes)),
                    1 => drop(place.install("program", bytes)),
                    _ => {
                        symlink(place.path(name), place.path("fresh-link")).expect("a link");
                        fs::rename(place.path("fresh-link"), place.path("program"))
                            .expect("it takes its place");
                        // What is written to next isn't what the link leads to.
                        place.install("good", &good);
                        place.install("bad", &bad);
                    }
                }
            }
        });
        let ways = place.ways();
        for nth in 0..200 {
            let (id, mark) = (format!("it-{nth}"), place.text(&format!("mark-{nth}")));
            let way = &ways[nth % ways.len()];
            match raw.call("process.spawn", wish(&id, &[&program, &mark], way, &allowed)) {
                Ok(_) => {
                    assert_eq!(raw.wait_for_exit(&id)["exitCode"], 0);
                    assert!(Path::new(&mark).is_file(), "something else has run");
                    ran += 1;
                }
                Err(refusal) => {
                    let known = ["E_PERMISSION_DENIED", "E_NOT_EXECUTABLE", "E_SPAWN_FAILED"];
                    assert!(known.contains(&refusal.code.as_str()), "{refusal:?}");
                    assert!(!Path::new(&mark).exists(), "{refusal:?}");
                    refused += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    println!("{ran} ran, {refused} were refused");
    assert!(ran > 0 && refused > 0, "{ran} ran, {refused} were refused");
}

/// Reading a large program holds nobody up, and what is being read when its kernel dies was never started.
#[test]
fn a_long_read_holds_nobody_up_and_ends_with_its_kernel() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let place = Place::new();
    let program = place.install("program", &good());
    File::options()
        .write(true)
        .open(&program)
        .and_then(|file| file.set_len(LONG_BYTES))
        .expect("a long file");
    let mut raw = daemon.connect_modern();
    let mark = place.text("mark");
    let asked = wish("long", &[&program, &mark], &json!({"cwd": "/"}), &json!({"measureProgram": true}));
    raw.request("process.spawn", crate::support::raw::value(&asked));
    let keeper = daemon.keeper().expect("a keeper");
    until("it stands still", || processes::descendants(keeper.pid).iter().any(|name| is_traced(name.pid)));
    let mut other = daemon.connect_modern();
    assert_eq!(other.run("other", &["echo", "served"], json!({})).text(), "served\n");
    assert!(processes::descendants(keeper.pid).iter().any(|name| is_traced(name.pid)), "it was read already");
    daemon.kill_and_succeed();
    until("it is gone", || !processes::descendants(keeper.pid).iter().any(|name| is_traced(name.pid)));
    let mut raw = daemon.connect_modern();
    assert!(raw.ok("process.status", json!({"id": "long"}))["state"] != "running");
    assert!(!Path::new(&mark).exists());
    drop((raw, other));
    daemon.finish();
}

fn is_traced(pid: i32) -> bool {
    processes::status_line(pid, "TracerPid").is_some_and(|tracer| tracer != "0")
}

/// What was let go is a process like any other: its next kernel ends it and is told.
#[test]
fn what_was_read_outlives_its_kernel() {
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let sleep = fs::read("/usr/bin/sleep").expect("there is sleep");
    let place = Place::new();
    let program = place.install("program", &sleep);
    let mut raw = daemon.connect_modern();
    let more = json!({"programDigest": digest(&sleep)});
    let answer = raw.ok("process.spawn", wish("it", &[&program, "1000"], &json!({"cwd": "/"}), &more));
    let pid = answer["pid"].as_i64().expect("a pid") as i32;
    assert_eq!(processes::status_line(pid, "TracerPid"), Some("0".into()));
    drop(raw);
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    assert_eq!(raw.ok("process.status", json!({"id": "it", "detail": true}))["detail"]["pid"], pid);
    raw.ok("process.kill", json!({"id": "it", "signal": "TERM"}));
    assert_eq!(raw.wait_for_exit("it")["exitCode"], 143);
    drop(raw);
    daemon.finish();
}

/// A root daemon reads what another user executes, even if only that user may.
#[test]
fn what_another_user_executes_is_read_too() {
    if !needs_root("what_another_user_executes_is_read_too") {
        return;
    }
    crate::support::on(Driver::Poll, |daemon| {
        let place = Place::new();
        let program = place.install("program", &good());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).expect("its mode");
        let mut raw = daemon.connect_modern();
        let way = json!({"cwd": "/", "user": NOBODY});
        let more = json!({"programDigest": digest(&good())});
        run(&mut raw, "it", &[&program, &place.text("mark")], &way, &more).expect("it runs");
        assert!(place.path("mark").is_file());
        place.install("program", &bad());
        let refusal = raw.refused("process.spawn", wish("no", &[&program, &place.text("no")], &way, &more));
        assert_eq!(refusal.code, "E_PERMISSION_DENIED");
        assert!(!place.path("no").exists());
    });
}

/// An ordinary user's daemon can't read what it may only execute, and says so.
#[test]
fn what_may_not_be_read_is_not_run() {
    if !needs_root("what_may_not_be_read_is_not_run") {
        return;
    }
    let options = Options { uid: Some(NOBODY), ..Options::plain(Driver::Poll) };
    crate::support::with(&options, |daemon| {
        let place = Place::new();
        let program = place.install("program", &good());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).expect("its mode");
        let spawn = |more: &[&str], mark: &str| {
            let arguments =
                [&["spawn", "--cwd", "/", "--stdin", "null"], more, &["--", &program, &place.text(mark)]];
            let mut command = daemon.cli(&arguments.concat());
            command.uid(NOBODY).gid(NOBODY).current_dir("/").output().expect("it runs")
        };
        let refusal = spawn(&["--program-digest", &digest(&good())], "no");
        let said = String::from_utf8_lossy(&refusal.stderr);
        assert!(!refusal.status.success() && said.contains("EACCES"), "{refusal:?}");
        assert!(!place.path("no").exists());
        assert!(spawn(&[], "it").status.success());
        until("it has run", || place.path("it").exists());
    });
}

on_both_drivers!(
    the_right_program_runs_and_is_told,
    another_program_never_runs_and_both_digests_are_named,
    a_script_is_read_itself_and_stands_weaker,
    no_race_is_won_against_the_digest,
);
