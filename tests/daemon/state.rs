//! What outlives kernel and keeper: records, restarts, and who may have the state folder.
//!
//! A machine that loses its power is played by SIGKILL to keeper and kernel. What they had started runs on, which after
//! a power cut it would not: so the next kernel has to deal with that as well.

use crate::spool::check_all;
use crate::support::output::Chunk;
use crate::support::processes::{self, Name};
use crate::support::raw::{Raw, STREAM_CHUNK};
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Driver, needs_root, program, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A place where one kernel after the other is started.
struct Place {
    folder: TempDir,
    driver: Driver,
}

/// A kernel at such a place.
struct Kernel {
    child: Child,
    keeper: Name,
    socket: PathBuf,
}

impl Place {
    fn new(driver: Driver) -> Option<Place> {
        if !driver.is_available() {
            println!("skipped, this system forbids io_uring: {:?}", std::thread::current().name());
            return None;
        }
        let folder = tempfile::Builder::new().prefix("kairo-state-").tempdir().expect("a temporary folder");
        Some(Place { folder, driver })
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn command(&self, state: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        let socket = self.folder.path().join("kernel.sock");
        command.arg("serve").arg("--socket").arg(socket).arg("--state").arg(state);
        let driver = if self.driver == Driver::Uring { "uring" } else { "poll" };
        command.args(["--driver", driver, "--cores", "1"]).args(arguments);
        command.env_remove("KAIRO_IPC_SOCKET").env("XDG_CONFIG_HOME", self.folder.path().join("config"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Kernel {
        self.start_with(&self.state(), &[])
    }

    fn start_with(&self, state: &Path, arguments: &[&str]) -> Kernel {
        let mut command = self.command(state, arguments);
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut child = command.stderr(log.expect("a log file")).spawn().expect("the kernel starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("its stdout is text");
        assert!(!line.is_empty(), "the kernel ended before it was ready: {}", self.log());
        let socket = self.folder.path().join("kernel.sock");
        Kernel { child, keeper: keeper(state).expect("a kernel has a keeper"), socket }
    }

    /// A start that is refused: exit code and error.
    fn refused(&self, arguments: &[&str]) -> (i32, Value) {
        let mut command = self.command(&self.state(), arguments);
        let output = command.arg("--json").output().expect("it ends");
        assert!(output.stdout.is_empty(), "it was ready");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().last().unwrap_or_default();
        let told = serde_json::from_str(line).unwrap_or_else(|_| panic!("it tells JSON: {text}"));
        (output.status.code().unwrap_or(-1), told)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What is in the state folder, byte for byte.
    fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.state()).expect("it is there").flatten();
        entries
            .map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, fs::read(entry.path()).unwrap_or_default())
            })
            .collect()
    }
}

/// The keeper of a state folder, whichever kernel has started it.
fn keeper(state: &Path) -> Option<Name> {
    let handover = state.join("keeper.sock");
    let wanted = [&b"keeper"[..], handover.as_os_str().as_encoded_bytes()];
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        wanted.iter().all(|wanted| line.split(|byte| *byte == 0).any(|word| word == *wanted))
    });
    processes::name(found?)
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

impl Kernel {
    fn connect(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    fn connect_modern(&self) -> Raw {
        let mut raw = self.connect();
        raw.ok("kernel.hello", json!({ "client": "tests", "features": ["records", "int64", "chunks"] }));
        raw
    }

    /// Keeper and kernel die, and nobody has time to say anything.
    fn power_cut(mut self) {
        kill(Pid::from_raw(self.keeper.pid), Signal::SIGKILL).expect("the keeper is there");
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL).expect("the kernel is there");
        self.child.wait().expect("it is our child");
        until("the keeper is gone", || !processes::is_alive(self.keeper));
    }

    /// The kernel dies; its keeper and what that has started go on.
    fn die(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL).expect("the kernel is there");
        self.child.wait().expect("it is our child");
    }

    /// Ends it in order; nothing may be left of it.
    fn finish(mut self) {
        self.connect().ok("kernel.shutdown", json!({ "graceMs": 0 }));
        let mut status = None;
        until("the kernel ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "the kernel ended with {status:?}");
        until("the keeper ends", || !processes::is_alive(self.keeper));
        assert!(!self.socket.exists(), "the socket file is left behind");
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let left = processes::descendants(self.child.id() as i32);
            let _ = self.child.kill();
            let _ = self.child.wait();
            for name in left.into_iter().filter(|name| processes::is_alive(*name)) {
                let _ = kill(Pid::from_raw(name.pid), Signal::SIGKILL);
            }
        }
    }
}

/// Each behaviour on each driver, at a place of its own.
macro_rules! at_a_place {
    ($($behaviour:ident),+ $(,)?) => {
        mod uring {
            $(#[test] fn $behaviour() {
                crate::state::Place::new(crate::support::Driver::Uring).iter().for_each(super::$behaviour);
            })+
        }
        mod poll {
            $(#[test] fn $behaviour() {
                crate::state::Place::new(crate::support::Driver::Poll).iter().for_each(super::$behaviour);
            })+
        }
    };
}

at_a_place! {
    what_ran_when_keeper_and_kernel_died_is_lost_and_known,
    what_a_lost_process_had_on_disk_is_read_in_every_later_kernel,
    who_asked_to_be_started_again_is_and_once,
    a_supervised_program_gets_one_life_after_the_other_and_its_reader_follows,
    what_the_keeper_hands_over_is_never_started_again_and_watched_as_before,
    of_many_kernels_started_at_once_one_serves,
}

fn spawn(raw: &mut Raw, id: &str, command: &[&str], options: Value) -> i32 {
    let params = json!({ "id": id, "command": command, "options": options });
    raw.ok("process.spawn", params)["pid"].as_i64().expect("a pid") as i32
}

fn detail(raw: &mut Raw, id: &str) -> Value {
    raw.ok("process.status", json!({ "id": id, "detail": true }))["detail"].clone()
}

fn what_ran_when_keeper_and_kernel_died_is_lost_and_known(place: &Place) {
    let kernel = place.start();
    let mut raw = kernel.connect();
    let pid = spawn(&mut raw, "kept", &["sleep", "1000"], json!({ "durable": true }));
    let left = processes::name(pid).expect("it runs");
    let secret = spawn(&mut raw, "bare", &["sleep", "1000"], json!({ "durable": false }));
    let bare = processes::name(secret).expect("it runs");
    spawn(&mut raw, "over", &["true"], json!({}));
    raw.ok("process.wait", json!({ "id": "over" }));
    assert_eq!(detail(&mut raw, "kept")["record"], "written");
    assert_eq!(detail(&mut raw, "bare")["record"], "none");
    kernel.power_cut();

    let kernel = place.start();
    let mut raw = kernel.connect();
    let lost = detail(&mut raw, "kept");
    assert_eq!((&lost["phase"], &lost["pid"]), (&json!("lost"), &json!(pid)));
    assert_eq!(lost["argv"], json!(["sleep", "1000"]));
    assert_eq!(raw.refused("process.wait", json!({ "id": "kept" })).code, "E_LOST");
    assert_eq!(raw.ok("process.status", json!({ "id": "bare" }))["state"], "unknown");
    // Nobody asked for it to be ended, so it runs on, and the log says so.
    assert!(processes::is_alive(left));
    until("the log says so", || place.log().contains("running=true"));
    let mut command = Command::new(program());
    let output =
        command.args(["ps", "--all"]).env("KAIRO_IPC_SOCKET", &kernel.socket).output().expect("it ends");
    assert!(String::from_utf8_lossy(&output.stdout).contains("lost"), "{output:?}");
    // Its id can be used again, and then nothing is lost any more.
    spawn(&mut raw, "kept", &["true"], json!({}));
    raw.ok("process.wait", json!({ "id": "kept" }));
    kernel.finish();
    let kernel = place.start();
    assert_eq!(kernel.connect().ok("process.status", json!({ "id": "kept" }))["state"], "unknown");
    kernel.finish();
    for name in [left, bare] {
        kill(Pid::from_raw(name.pid), Signal::SIGKILL).expect("it runs still");
    }
}

fn what_a_lost_process_had_on_disk_is_read_in_every_later_kernel(place: &Place) {
    const BYTES: u64 = 48 * BLOCK_BYTES as u64;
    let script = r#""$@"; exec sleep 1000"#;
    let mut command = vec!["sh", "-c", script, "sh"];
    command.extend(sequence::argv("48"));
    let kernel = place.start();
    let mut raw = kernel.connect();
    let pid = spawn(&mut raw, "writer", &command, json!({ "spool": { "segmentBytes": 1 << 20 } }));
    let left = processes::name(pid).expect("it runs");
    let silent = spawn(&mut raw, "silent", &["sleep", "1000"], json!({ "spool": true }));
    let silent = processes::name(silent).expect("it runs");
    until("all of it is on disk", || {
        detail(&mut raw, "writer")["streams"][0]["spool"]["to"].as_u64() == Some(BYTES)
    });
    until("both are written down", || place.log_holds(b"writer") && place.log_holds(b"silent"));
    kernel.power_cut();

    for again in [false, true] {
        let kernel = place.start();
        let mut raw = kernel.connect_modern();
        let lost = detail(&mut raw, "writer");
        assert_eq!((&lost["phase"], &lost["streams"][0]["bytes"]), (&json!("lost"), &json!(BYTES)));
        for (policy, from) in [("spool", 0), ("drop_oldest", 0), ("block", 1_234_567)] {
            let wish = json!({ "stream": "stdout", "policy": policy, "from": from });
            let subscription = raw.subscribe("writer", wish);
            assert_eq!(check_all(&mut raw, &subscription, from), (BYTES - from, vec![]), "{again} {policy}");
        }
        let subscription = raw.subscribe("silent", json!({ "stream": "stdout", "policy": "spool" }));
        assert_eq!(check_all(&mut raw, &subscription, 0), (0, vec![]));
        if again {
            // A later life of the id takes its place, and its disk is free again.
            spawn(&mut raw, "writer", &["true"], json!({}));
            let session = lost["session"].as_str().expect("a session");
            let files = place.state().join("spool").join(session).join("stdout");
            until("its files are gone", || !files.exists());
            kernel.finish();
        } else {
            kernel.die();
        }
    }
    for name in [left, silent] {
        kill(Pid::from_raw(name.pid), Signal::SIGKILL).expect("it runs still");
    }
}

/// A program that writes down each of its lives.
fn diary(place: &Place) -> (PathBuf, String) {
    let lives = place.folder.path().join("lives");
    let script = format!("echo $KAIRO_SESSION $A >> {}; sleep 1000", lives.display());
    (lives, script)
}

impl Place {
    /// Every file of the log.
    fn files_of_the_log(&self) -> Vec<PathBuf> {
        let (mut files, mut folders) = (Vec::new(), vec![self.state().join("log")]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// Whether these bytes stand anywhere in the log.
    fn log_holds(&self, wanted: &[u8]) -> bool {
        let holds = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.windows(wanted.len()).any(|window| window == wanted)
        };
        self.files_of_the_log().iter().any(holds)
    }
}

fn lives(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn who_asked_to_be_started_again_is_and_once(place: &Place) {
    let (path, script) = diary(place);
    let kernel = place.start();
    let mut raw = kernel.connect();
    let restart = json!({ "policy": "always", "backoffMs": 20 });
    let options = json!({ "durable": true, "restart": restart, "env": { "A": "remembered" } });
    let pid = spawn(&mut raw, "server", &["sh", "-c", &script], options);
    let first = processes::name(pid).expect("it runs");
    until("its first life is written down", || lives(&path).len() == 1);
    assert!(place.log_holds(b"server"), "there are records");
    assert!(!place.log_holds(b"remembered"), "its environment is in clear");
    kernel.power_cut();

    let kernel = place.start();
    let mut raw = kernel.connect();
    until("its second life is written down", || lives(&path).len() == 2);
    until("what was left of the first is gone", || !processes::is_alive(first));
    until("it runs", || detail(&mut raw, "server")["phase"] == "running");
    let now = detail(&mut raw, "server");
    assert_eq!(now["restart"]["attempts"], 1);
    let told = lives(&path);
    assert_eq!(told[1], format!("{} remembered", now["session"].as_str().expect("a session")));
    assert_ne!(told[0], told[1]);
    let session = now["session"].as_str().expect("a session").as_bytes();
    until("its second life is recorded", || place.log_holds(session));
    kernel.power_cut();

    let kernel = place.start();
    let mut raw = kernel.connect();
    until("its third life is written down", || lives(&path).len() == 3);
    // Who is killed by a client is not started again, by the next kernel neither.
    raw.ok("process.kill", json!({ "id": "server", "graceMs": 0 }));
    raw.ok("process.wait", json!({ "id": "server" }));
    // Whoever asks for it is shown what is written: so its end is.
    raw.ok("event.replay", json!({ "types": ["kairo.process.>"] }));
    kernel.power_cut();
    let kernel = place.start();
    let mut raw = kernel.connect();
    spawn(&mut raw, "other", &["true"], json!({}));
    raw.ok("process.wait", json!({ "id": "other" }));
    assert_eq!(lives(&path).len(), 3);
    kernel.finish();
}

fn a_supervised_program_gets_one_life_after_the_other_and_its_reader_follows(place: &Place) {
    let kernel = place.start();
    let mut raw = kernel.connect();
    let restart = json!({ "policy": "on_failure", "limit": 2, "backoffMs": 1 });
    raw.ok("process.stdout.subscribe", json!({ "pid": "p" }));
    spawn(&mut raw, "p", &["sh", "-c", "echo alive; exit 3"], json!({ "restart": restart }));
    until("it has had its restarts", || detail(&mut raw, "p")["restart"].is_null());
    assert_eq!(raw.ok("process.wait", json!({ "id": "p" }))["exitCode"], 3);
    let mut heard = Vec::new();
    while heard.len() < 3 * "alive\n".len() {
        let frame = raw.frame().expect("the kernel stays");
        if frame.kind == STREAM_CHUNK {
            heard.extend(Chunk::of(&frame).data);
        }
    }
    assert_eq!(heard, b"alive\nalive\nalive\n");
    kernel.finish();
}

fn what_the_keeper_hands_over_is_never_started_again_and_watched_as_before(place: &Place) {
    let (path, script) = diary(place);
    let kernel = place.start();
    let restart = json!({ "policy": "always", "backoffMs": 20 });
    let options = json!({ "durable": true, "restart": restart, "env": { "A": "x" } });
    let pid = spawn(&mut kernel.connect(), "p", &["sh", "-c", &script], options);
    until("its first life is written down", || lives(&path).len() == 1);
    kernel.die();

    // Handed over: the same process, and a second kernel's death changes nothing.
    for _ in 0..2 {
        let kernel = place.start();
        let now = detail(&mut kernel.connect(), "p");
        assert_eq!((&now["phase"], &now["pid"]), (&json!("running"), &json!(pid)));
        assert_eq!((&now["record"], &now["restart"]["attempts"]), (&json!("written"), &json!(0)));
        kernel.die();
    }
    assert_eq!(lives(&path).len(), 1);

    // Its life ends while there is no kernel: the next one begins another.
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    let kernel = place.start();
    until("its second life is written down", || lives(&path).len() == 2);
    let mut raw = kernel.connect();
    until("it runs", || detail(&mut raw, "p")["phase"] == "running");
    let second = detail(&mut raw, "p")["pid"].as_i64().expect("a pid") as i32;
    assert_ne!(second, pid);
    // Under a kernel that adopted it, as under the one that started it.
    kernel.die();
    let kernel = place.start();
    kill(Pid::from_raw(second), Signal::SIGKILL).expect("it runs");
    until("its third life is written down", || lives(&path).len() == 3);
    let mut raw = kernel.connect();
    until("it runs", || detail(&mut raw, "p")["phase"] == "running");
    assert_eq!(detail(&mut raw, "p")["restart"]["attempts"], 2);
    kernel.finish();
}

fn of_many_kernels_started_at_once_one_serves(place: &Place) {
    const KERNELS: usize = 8;
    for _ in 0..3 {
        let started: Vec<Child> = (0..KERNELS)
            .map(|_| place.command(&place.state(), &["--json"]).spawn().expect("it starts"))
            .collect();
        let mut serving = Vec::new();
        for mut child in started {
            let mut line = String::new();
            let stdout = child.stdout.take().expect("its stdout is piped");
            BufReader::new(stdout).read_line(&mut line).expect("its stdout is text");
            if line.is_empty() {
                let output = child.wait_with_output().expect("it ends");
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let told: Value = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("{text}"));
                assert_eq!(told["error"]["code"], "E_STATE_IN_USE", "{told}");
                assert_eq!(output.status.code(), Some(125));
            } else {
                serving.push(child);
            }
        }
        assert_eq!(serving.len(), 1, "one serves");
        Raw::connect(&place.folder.path().join("kernel.sock")).ok("kernel.shutdown", json!({}));
        for mut child in serving {
            assert!(child.wait().expect("it ends").success());
        }
    }
}

#[test]
fn state_of_a_newer_kairo_is_refused_and_not_touched() {
    let Some(place) = Place::new(Driver::Poll) else { return };
    place.start().finish();
    fs::write(place.state().join("format"), "kairo state 4\n").expect("it is ours");
    let before = place.contents();
    let (code, told) = place.refused(&[]);
    assert_eq!((code, &told["error"]["code"]), (125, &json!("E_STATE_NEWER")), "{told}");
    assert!(told["error"]["message"].as_str().is_some_and(|text| text.contains("format 4")), "{told}");
    assert_eq!(place.contents(), before);
}

#[test]
fn state_of_another_machine_is_refused_until_it_is_taken_on_purpose() {
    let Some(place) = Place::new(Driver::Poll) else { return };
    let kernel = place.start();
    let restart = json!({ "policy": "always", "backoffMs": 1 });
    let pid =
        spawn(&mut kernel.connect(), "p", &["sleep", "1000"], json!({ "durable": true, "restart": restart }));
    let left = processes::name(pid).expect("it runs");
    kernel.power_cut();
    let identity = place.state().join("identity");
    let here = fs::read_to_string(&identity).expect("it is written");
    let uid = here.lines().find(|line| line.starts_with("uid ")).expect("it names the user");
    fs::write(&identity, format!("machine feedfeedfeedfeed\n{uid}\nboot x\n")).expect("it is ours");
    let (code, told) = place.refused(&[]);
    assert_eq!((code, &told["error"]["code"]), (125, &json!("E_STATE_FOREIGN")), "{told}");
    assert!(
        told["error"]["message"].as_str().is_some_and(|text| text.contains("feedfeedfeedfeed")),
        "{told}"
    );
    let kernel = place.start_with(&place.state(), &["--adopt-foreign-state"]);
    let mut raw = kernel.connect();
    // It may run on its own machine still: neither started again nor ended here.
    assert_eq!(detail(&mut raw, "p")["phase"], "lost");
    assert!(processes::is_alive(left));
    kernel.finish();
    kill(Pid::from_raw(left.pid), Signal::SIGKILL).expect("it runs still");
    place.start().finish();
}

#[test]
fn a_torn_record_is_none_and_the_rest_is_known() {
    let Some(place) = Place::new(Driver::Poll) else { return };
    let kernel = place.start();
    let mut raw = kernel.connect();
    let pids: Vec<i32> = ["a", "b"]
        .iter()
        .map(|id| spawn(&mut raw, id, &["sleep", "1000"], json!({ "durable": true })))
        .collect();
    let left: Vec<Name> = pids.iter().filter_map(|pid| processes::name(*pid)).collect();
    kernel.power_cut();
    let written = place.files_of_the_log().into_iter().filter_map(|path| {
        let bytes = fs::read(&path).ok()?;
        let end = bytes.iter().rposition(|byte| *byte != 0)?;
        path.extension().is_some_and(|extension| extension == "jnl").then_some((path, end as u64))
    });
    let (journal, end) = written.max_by_key(|(_, end)| *end).expect("there are records");
    fs::OpenOptions::new()
        .write(true)
        .open(journal)
        .and_then(|file| file.set_len(end - 2))
        .expect("it is ours");
    let kernel = place.start();
    let mut raw = kernel.connect();
    assert_eq!(detail(&mut raw, "a")["phase"], "lost");
    assert_eq!(raw.ok("process.status", json!({ "id": "b" }))["state"], "unknown");
    kernel.finish();
    for name in left {
        kill(Pid::from_raw(name.pid), Signal::SIGKILL).expect("it runs still");
    }
}

#[test]
fn a_full_disk_refuses_who_insists_and_nobody_else() {
    if !needs_root("a_full_disk_refuses_who_insists_and_nobody_else") {
        return;
    }
    let Some(place) = Place::new(Driver::Poll) else { return };
    let small = place.folder.path().join("small");
    fs::create_dir(&small).expect("a folder");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return println!("skipped, nothing can be mounted here");
    }
    let kernel = place.start_with(&small.join("state"), &[]);
    let mut raw = kernel.connect();
    spawn(&mut raw, "before", &["true"], json!({ "durable": true }));
    raw.ok("subscribe", json!({ "topic": "kairo.kernel.>" }));
    // Fills what is left; it fails when it has.
    let _ = fs::write(small.join("filler"), vec![b'x'; 32 << 20]);
    let insists = json!({ "id": "x", "command": ["sleep", "1000"], "options": { "durable": true } });
    // A page of the records may have room: the disk is full when the next one is needed.
    until("the disk is full", || {
        let id = json!(format!("fill-{}", std::process::id()));
        let params =
            json!({ "id": id, "command": ["true", "x".repeat(900)], "options": { "durable": true } });
        let failed = raw.call("process.spawn", params).is_err();
        if !failed {
            raw.ok("process.wait", json!({ "id": id }));
        }
        failed
    });
    assert_eq!(raw.refused("process.spawn", insists).code, "E_UNAVAILABLE");
    spawn(&mut raw, "others", &["true"], json!({}));
    assert_eq!(raw.ok("process.wait", json!({ "id": "others" }))["exitCode"], 0);
    let facts = raw.ok("kernel.doctor", json!({}))["facts"].clone();
    let fact = facts.as_array().and_then(|facts| facts.iter().find(|fact| fact["name"] == "durableRecords"));
    assert_eq!(fact.map(|fact| fact["holds"].clone()), Some(json!(false)));
    kernel.finish();
    let unmounted = Command::new("umount").arg(&small).status().expect("umount runs");
    assert!(unmounted.success());
}

#[test]
fn empty_cgroups_of_a_dead_keeper_go_and_others_stay() {
    let own = kairo_sandbox::ability::own_cgroup();
    let Some(own) = own.filter(|_| needs_root("empty_cgroups_of_a_dead_keeper_go_and_others_stay")) else {
        return;
    };
    // No process can have the one number, and this one has the other.
    let (dead, living) = (own.join("kairo-99999999"), own.join(format!("kairo-{}", std::process::id())));
    if fs::create_dir_all(dead.join("s0")).and_then(|()| fs::create_dir(&living)).is_err() {
        return println!("skipped, no cgroup can be made here");
    }
    let Some(place) = Place::new(Driver::Poll) else { return };
    place.start().finish();
    let left = (dead.exists(), living.exists());
    fs::remove_dir(&living).expect("it is empty");
    assert_eq!(left, (false, true));
}
