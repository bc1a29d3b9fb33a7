//! What programs write a stdin by outlives the daemon that reads it: killed at any instant, no byte is missing, doubled or out of
//! its order, and the end of its writers is the end of the stdin.

use crate::adoption::lives_on_both_drivers;
use crate::earlier;
use crate::fifo::{said, stdin};
use crate::open::{connect, id, kill, spawn};
use crate::quotas::counted;
use crate::support::processes::{self, Name};
use crate::support::{Daemon, NOBODY, is_root, needs_root, pattern, program, reachable, until};
use kairo_client::Client;
use kairo_wire::error::Code;
use kairo_wire::methods::open::OpenStdinParams;
use kairo_wire::methods::process::{Status, StatusParams, StdinClose, TargetParams, Wait, WaitParams};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

lives_on_both_drivers!(
    what_is_written_goes_on_at_the_byte,
    at_every_point_it_goes_on_at_the_byte,
    who_dies_while_it_settles_leaves_all_of_it_to_the_next_one,
    the_end_of_its_writers_is_found_again,
    one_comes_after_the_other,
    a_terminal_is_told_of_the_end_once,
    one_nobody_has_opened_goes_on_waiting,
    who_came_while_nobody_was_there_is_served,
    one_that_nobody_was_told_of_goes_in_time,
    a_process_that_ends_without_a_kernel_takes_its_ways_in_along,
    the_next_kernel_knows_it_as_its_own,
    with_an_earlier_keeper_it_ends_with_its_kernel,
    it_counts_for_whoever_had_it_and_goes_with_its_intent,
);

/// A process that writes what it reads to a file.
struct Sink {
    name: &'static str,
    file: PathBuf,
}

impl Sink {
    fn start(daemon: &Daemon, name: &'static str) -> Sink {
        let file = daemon.folder().join(name);
        spawn(&connect(daemon), name, &["sh", "-c", "exec cat > \"$0\"", file.to_str().expect("text")]);
        Sink { name, file }
    }

    fn way(&self, daemon: &Daemon) -> PathBuf {
        way(daemon, &stdin(self.name))
    }

    /// Its stdin ends, and the sequence is what it read.
    fn ends_with(&self, daemon: &Daemon, bytes: u64) {
        let client = connect(daemon);
        let exit = client.call::<Wait>(&WaitParams { id: id(self.name), timeout_ms: Some(20_000) });
        assert_eq!(exit.expect("it ends").exit_code, 0);
        let written = fs::read(&self.file).expect("it has written");
        assert_eq!(written.len() as u64, bytes, "of {}", self.name);
        pattern::check(&written, 0);
        assert_eq!(stdin_of(&client, self.name), (bytes, true), "what goes in is counted");
    }

    /// The same, and it was the last one.
    fn is_the_last_and_ends_with(&self, daemon: &Daemon, bytes: u64) {
        self.ends_with(daemon, bytes);
        until("nothing is held of it", || holds(daemon, 0));
    }
}

fn way(daemon: &Daemon, params: &OpenStdinParams) -> PathBuf {
    connect(daemon).open_stdin_fifo(params).expect("it is ours").1
}

fn to_write(path: &Path) -> File {
    File::options().write(true).open(path).expect("it is there")
}

/// How much has gone into a stdin, and whether it is closed.
fn stdin_of(client: &Client, name: &str) -> (u64, bool) {
    let status = client.call::<Status>(&StatusParams { id: id(name), detail: true }).expect("it is known");
    let stdin = status.detail.expect("it is ours").stdin;
    (stdin.bytes, stdin.closed)
}

/// True if the keeper holds so many ways in, as far as that can be seen: it shows nobody but root what it has.
fn holds(daemon: &Daemon, wanted: usize) -> bool {
    let targets = processes::descriptor_targets(daemon.keeper().expect("a keeper").pid);
    let held = targets.iter().filter(|target| target.to_string_lossy().contains("/stdin_")).count();
    !is_root() || held == wanted
}

/// Writes the sequence until it is told to stop.
struct Writer {
    at: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn of(path: &Path) -> Writer {
        let (mut file, at, stop) = (to_write(path), Arc::new(AtomicU64::new(0)), Arc::default());
        let (seen, stopped) = (Arc::clone(&at), Arc::<AtomicBool>::clone(&stop));
        let thread = std::thread::spawn(move || {
            for length in [1, 7, 4_096, 100, 60_001, 65_536, 9, 30_000, 5_000].into_iter().cycle() {
                let bytes = pattern::bytes(seen.load(Ordering::Relaxed), length);
                file.write_all(&bytes).expect("nobody hangs up");
                seen.fetch_add(length as u64, Ordering::Relaxed);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Writer { at, stop, thread }
    }

    fn at(&self) -> u64 {
        self.at.load(Ordering::Relaxed)
    }

    fn goes_on(&self, bytes: u64) {
        let wanted = self.at() + bytes;
        until("it goes on", || {
            assert!(!self.thread.is_finished(), "it has ended at {}", self.at());
            self.at() >= wanted
        });
    }

    /// How much it has written.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        until("it ends", || self.thread.is_finished());
        self.thread.join().expect("it was never hung up on");
        self.at.load(Ordering::Relaxed)
    }
}

/// The daemon is killed, if it isn't dead, and another one comes to a point.
fn dies_at(daemon: &mut Daemon, writer: &Writer, point: &str) -> bool {
    daemon.signal_if_there(Signal::SIGKILL);
    daemon.wait();
    daemon.comes_to(point, || writer.at())
}

fn kill_and_succeed(daemon: &mut Daemon) {
    daemon.signal_if_there(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed(&[]);
}

fn what_is_written_goes_on_at_the_byte(daemon: &mut Daemon) {
    let sink = Sink::start(daemon, "sink");
    let writer = Writer::of(&sink.way(daemon));
    for _ in 0..8 {
        writer.goes_on(3_000_017);
        kill_and_succeed(daemon);
    }
    for _ in 0..3 {
        writer.goes_on(1_000_003);
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        daemon.succeed(&[]);
    }
    writer.goes_on(3_000_017);
    let bytes = writer.end();
    sink.is_the_last_and_ends_with(daemon, bytes);
}

fn at_every_point_it_goes_on_at_the_byte(daemon: &mut Daemon) {
    let sink = Sink::start(daemon, "sink");
    let writer = Writer::of(&sink.way(daemon));
    let died =
        daemon.dies_at_each(&["inlet.", "input.", "adopt."], || writer.at(), || writer.goes_on(700_001));
    // Taking in and handing on at both, adopting once.
    assert!(died >= 20, "only {died} points were met");
    let bytes = writer.end();
    sink.is_the_last_and_ends_with(daemon, bytes);
}

fn who_dies_while_it_settles_leaves_all_of_it_to_the_next_one(daemon: &mut Daemon) {
    let sink = Sink::start(daemon, "sink");
    let writer = Writer::of(&sink.way(daemon));
    for first in ["inlet.spliced", "inlet.expected", "inlet.read", "inlet.admitted", "input.staged"] {
        for second in ["adopt.received", "adopt.inbox_read", "adopt.settled", "adopt.taken", "adopt.served"] {
            assert!(dies_at(daemon, &writer, &format!("{first}:9")), "it takes more than that in");
            assert!(dies_at(daemon, &writer, &format!("{second}:1")), "it meets {second}");
            kill_and_succeed(daemon);
            writer.goes_on(300_007);
        }
    }
    let bytes = writer.end();
    sink.is_the_last_and_ends_with(daemon, bytes);
}

/// Succeeds a killed one with one that dies at a point.
fn succeed_dying(daemon: &mut Daemon, point: &str) {
    daemon.signal_if_there(Signal::SIGKILL);
    daemon.wait();
    daemon.succeed_unasked(&["--die-at", point]);
}

fn the_end_of_its_writers_is_found_again(daemon: &mut Daemon) {
    let bytes = pattern::bytes(0, 300_000);
    for (name, point) in [
        ("first", "inlet.spliced:1"),
        ("admitted", "inlet.admitted:1"),
        ("taken", "inlet.admitted:2"),
        ("ended", "inlet.ended:1"),
        ("closed", "inlet.closed:1"),
        ("moved", "input.settled:3"),
    ] {
        succeed_dying(daemon, point);
        let sink = Sink::start(daemon, name);
        let mut writer = to_write(&sink.way(daemon));
        writer.write_all(&bytes).expect("it is read");
        drop(writer);
        daemon.wait();
        daemon.succeed(&[]);
        sink.ends_with(daemon, bytes.len() as u64);
    }
    // Where its end is to be none the stdin is open, and free.
    succeed_dying(daemon, "inlet.ended:1");
    let sink = Sink::start(daemon, "open");
    let mut writer = to_write(&way(daemon, &OpenStdinParams { keep_open: true, ..stdin(sink.name) }));
    writer.write_all(&bytes).expect("it is read");
    drop(writer);
    daemon.wait();
    daemon.succeed(&[]);
    let client = connect(daemon);
    until("all of it is in", || stdin_of(&client, sink.name) == (bytes.len() as u64, false));
    until("nothing is held of it", || holds(daemon, 0));
    let mut next = None;
    until("the way is free", || {
        next = client.open_stdin_fifo(&stdin(sink.name)).ok();
        next.is_some()
    });
    let mut writer = to_write(&next.expect("it is there").1);
    writer.write_all(&pattern::bytes(300_000, 1_000)).expect("it is read");
    drop(writer);
    sink.is_the_last_and_ends_with(daemon, 301_000);
}

/// What comes of one that is over is not taken for news of the next.
fn one_comes_after_the_other(daemon: &mut Daemon) {
    let (sink, client) = (Sink::start(daemon, "sink"), connect(daemon));
    let keeps = OpenStdinParams { keep_open: true, ..stdin(sink.name) };
    for number in 0..200 {
        let mut next = None;
        until("the way is free", || {
            next = client.open_stdin_fifo(&keeps).ok();
            next.is_some()
        });
        // The daemon has time for whatever it has left to do.
        assert!(!stdin_of(&client, sink.name).1, "it is closed after {number}");
        let mut writer = to_write(&next.expect("it is there").1);
        writer.write_all(&pattern::bytes(number * 100, 100)).expect("it is read");
    }
    until("the last is over", || {
        client.open_stdin_fifo(&stdin(sink.name)).map(|(_, path)| to_write(&path)).is_ok()
    });
    sink.is_the_last_and_ends_with(daemon, 20_000);
}

/// A terminal has no end of its own: it gets a character, and a second one would be the end of whatever reads next.
fn a_terminal_is_told_of_the_end_once(daemon: &mut Daemon) {
    for point in ["inlet.ended:1", "inlet.closed:1"] {
        succeed_dying(daemon, point);
        let name = if point.starts_with("inlet.ended") { "ended" } else { "closed" };
        let script = "stty -echo; cat; echo first over; cat; echo second over";
        daemon.connect_modern().spawn(name, &["sh", "-c", script], json!({"pty": true}));
        let mut writer = to_write(&way(daemon, &stdin(name)));
        writer.write_all(b"one\n").expect("it is read");
        drop(writer);
        daemon.wait();
        daemon.succeed(&[]);
        let client = connect(daemon);
        until("the way is free", || holds(daemon, 0));
        daemon.connect().ok("process.stdin.write", json!({"id": name, "data": "two\n"}));
        client.call::<StdinClose>(&TargetParams { id: id(name) }).expect("it is open");
        client.call::<Wait>(&WaitParams { id: id(name), timeout_ms: None }).expect("it ends");
        let text = said(&client, name).replace('\r', "");
        let order = ["one", "first over", "two", "second over"].map(|word| text.find(word));
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{name}: {text}");
    }
}

fn one_nobody_has_opened_goes_on_waiting(daemon: &mut Daemon) {
    let (sink, brief) = (Sink::start(daemon, "sink"), Sink::start(daemon, "brief"));
    let path = sink.way(daemon);
    let waits = OpenStdinParams { wait_ms: Some(300), ..stdin(brief.name) };
    let never = way(daemon, &waits);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        daemon.signal(signal);
        daemon.wait();
        assert!(path.exists());
        daemon.succeed(&[]);
        assert!(path.exists());
    }
    // Its time goes on, too, and its end is told the next kernel's client by the way being free.
    until("nobody came", || !never.exists() && holds(daemon, 1));
    let client = connect(daemon);
    assert_eq!(stdin_of(&client, brief.name), (0, false));
    drop(to_write(&way(daemon, &waits)));
    brief.ends_with(daemon, 0);
    let writer = Writer::of(&path);
    until("its name is gone", || !path.exists());
    writer.goes_on(1_000_003);
    kill_and_succeed(daemon);
    writer.goes_on(1_000_003);
    let bytes = writer.end();
    sink.is_the_last_and_ends_with(daemon, bytes);
}

fn who_came_while_nobody_was_there_is_served(daemon: &mut Daemon) {
    let sinks = ["wrote", "waits", "empty", "begins"].map(|name| Sink::start(daemon, name));
    let paths = sinks.each_ref().map(|sink| sink.way(daemon));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let [mut wrote, mut waits, empty, mut begins] = paths.each_ref().map(|path| to_write(path));
    let bytes = pattern::bytes(0, 50_000);
    wrote.write_all(&bytes).expect("there is room");
    begins.write_all(&bytes).expect("there is room");
    drop((wrote, empty));
    daemon.succeed(&[]);
    until("their names are gone", || paths.iter().all(|path| !path.exists()));
    waits.write_all(&bytes).expect("it is read");
    begins.write_all(&pattern::bytes(50_000, 50_000)).expect("it is read");
    drop((waits, begins));
    for (sink, bytes) in sinks.iter().zip([50_000, 50_000, 0, 100_000]) {
        sink.ends_with(daemon, bytes);
    }
}

fn one_that_nobody_was_told_of_goes_in_time(daemon: &mut Daemon) {
    let sink = Sink::start(daemon, "sink");
    succeed_dying(daemon, "inlet.held:1");
    let brief = OpenStdinParams { wait_ms: Some(500), ..stdin(sink.name) };
    let mut raw = daemon.connect_modern();
    let params = json!({"id": sink.name, "transport": "fifo", "waitMs": 500});
    assert!(raw.try_call("stdin.open", params).is_none(), "it dies of it");
    daemon.wait();
    daemon.succeed(&[]);
    let client = connect(daemon);
    let mut next = client.open_stdin_fifo(&brief);
    until("the way is free", || {
        if let Err(error) = &next {
            assert_eq!(error.code(), Some(Code::WouldBlock));
            next = client.open_stdin_fifo(&brief);
        }
        next.is_ok()
    });
    drop(to_write(&next.expect("it is ours").1));
    sink.is_the_last_and_ends_with(daemon, 0);
}

fn leader(daemon: &Daemon, name: &str) -> Name {
    let status = connect(daemon).call::<Status>(&StatusParams { id: id(name), detail: true });
    let pid = status.expect("it is known").detail.expect("ours").pid.expect("it runs");
    processes::name(pid).expect("it runs")
}

fn a_process_that_ends_without_a_kernel_takes_its_ways_in_along(daemon: &mut Daemon) {
    let (first, second) = (Sink::start(daemon, "first"), Sink::start(daemon, "second"));
    let leaders = [&first, &second].map(|sink| leader(daemon, sink.name));
    let (opened, unopened) = (first.way(daemon), second.way(daemon));
    let mut writer = to_write(&opened);
    writer.write_all(b"x").expect("it is read");
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert!(holds(daemon, 2));
    for leader in leaders {
        nix::sys::signal::kill(Pid::from_raw(leader.pid), Signal::SIGKILL).expect("it is ours");
    }
    until("nobody will read it", || writer.write_all(b"y").is_err());
    until("they are gone", || holds(daemon, 0));
    until("its name is gone", || !unopened.exists());
    daemon.succeed(&[]);
    let error = connect(daemon).open_stdin_fifo(&stdin(first.name)).expect_err("it is over");
    assert_eq!(error.code(), Some(Code::StdinClosed));
}

fn the_next_kernel_knows_it_as_its_own(daemon: &mut Daemon) {
    let (sink, killed) = (Sink::start(daemon, "sink"), Sink::start(daemon, "killed"));
    // It goes on when its stdin is closed.
    spawn(&connect(daemon), "closed", &["sh", "-c", "cat > /dev/null; exec sleep 1000"]);
    let paths = [sink.way(daemon), way(daemon, &stdin("closed")), killed.way(daemon)];
    let mut writers = paths.map(|path| to_write(&path));
    kill_and_succeed(daemon);
    let client = connect(daemon);
    let error = client.open_stdin_fifo(&stdin(sink.name)).expect_err("there is one");
    assert_eq!(error.code(), Some(Code::WouldBlock));
    // Whoever closes the stdin, or ends the process, closes it to its writers.
    client.call::<StdinClose>(&TargetParams { id: id("closed") }).expect("it is open");
    kill(&client, killed.name);
    client.call::<Wait>(&WaitParams { id: id(killed.name), timeout_ms: None }).expect("it ends");
    let [first, second, third] = &mut writers;
    for writer in [second, third] {
        until("nobody will read it", || writer.write_all(b"y").is_err());
    }
    until("the others are let go", || holds(daemon, 1));
    assert_eq!(stdin_of(&client, "closed"), (0, true));
    kill(&client, "closed");
    first.write_all(&pattern::bytes(0, 1_000)).expect("it is read");
    drop(writers);
    sink.is_the_last_and_ends_with(daemon, 1_000);
}

fn it_counts_for_whoever_had_it_and_goes_with_its_intent(daemon: &mut Daemon) {
    let count =
        |daemon: &Daemon| ["owner", "skill:writer"].map(|who| counted(daemon, who, "subscriptions").0);
    let mut raw = daemon.connect_modern();
    let intent = raw.ok("intent.begin", json!({"name": "to write"}))["intentId"].clone();
    let (mine, its) = (Sink::start(daemon, "mine"), Sink::start(daemon, "its"));
    let mut skill = daemon.connect_modern();
    skill.ok("identify", json!({"skillId": "writer"}));
    skill.ok("process.spawn", json!({"id": "written", "command": ["sh", "-c", "cat > /dev/null"]}));
    let wish = |id: &str| json!({"id": id, "transport": "fifo"});
    let path = |opened: Json| PathBuf::from(opened["path"].as_str().expect("a path"));
    let of_skill = path(skill.ok("stdin.open", wish("written")));
    let under = json!({"intentId": intent});
    let of_intent = path(raw.call_with("stdin.open", &wish("its"), &under).expect("it opens"));
    let mut writer = to_write(&of_intent);
    let (writes, mut other) = (Writer::of(&mine.way(daemon)), to_write(&of_skill));
    drop((raw, skill));
    assert_eq!(count(daemon), [3, 1]);
    for _ in 0..2 {
        kill_and_succeed(daemon);
        writes.goes_on(500_000);
        assert_eq!(count(daemon), [3, 1]);
    }
    let receipt = daemon.connect_modern().ok("intent.cancel", json!({"intentId": intent}));
    let [stopped] = receipt["stopped"].as_array().expect("a list").as_slice() else { panic!("{receipt}") };
    assert_eq!((&stopped["kind"], &stopped["id"]), (&json!("stdin"), &json!("its")), "{receipt}");
    until("nobody will read it", || writer.write_all(b"y").is_err());
    until("it counts no more", || count(daemon) == [2, 1]);
    other.write_all(b"others go on").expect("it is read");
    drop(other);
    until("its writer has gone", || count(daemon) == [1, 0]);
    let bytes = writes.end();
    mine.ends_with(daemon, bytes);
    until("nothing counts any more", || count(daemon) == [0, 0]);
    kill(&connect(daemon), its.name);
}

fn with_an_earlier_keeper_it_ends_with_its_kernel(daemon: &mut Daemon) {
    earlier::keeper(daemon, 9);
    let sink = Sink::start(daemon, "sink");
    let unopened = Sink::start(daemon, "unopened");
    let never = unopened.way(daemon);
    let mut writer = to_write(&sink.way(daemon));
    let bytes = pattern::bytes(0, 10_000);
    writer.write_all(&bytes).expect("it is read");
    let client = connect(daemon);
    until("it is in", || stdin_of(&client, sink.name).0 == 10_000);
    assert!(holds(daemon, 0));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    until("it ends", || writer.write_all(b"lost").is_err());
    daemon.succeed(&[]);
    assert!(!never.exists());
    let mut writer = to_write(&sink.way(daemon));
    writer.write_all(&pattern::bytes(10_000, 10_000)).expect("it is read");
    drop(writer);
    sink.ends_with(daemon, 20_000);
    kill(&connect(daemon), unopened.name);
}

/// Where root runs the tests, an ordinary user does once more: his pipes have a budget, and his fifos are his.
#[test]
fn an_ordinary_user_loses_nothing_either() {
    if !needs_root("an_ordinary_user_loses_nothing_either") {
        return;
    }
    let own = reachable(&std::env::current_exe().expect("a running program has a path"));
    let mut command = Command::new(own);
    command.args(["ways_in::", "--skip", "an_ordinary_user", "--test-threads", "2"]);
    command.env("KAIRO_UNDER_TEST", program()).env("HOME", "/").current_dir("/");
    let output = command.uid(NOBODY).gid(NOBODY).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("26 passed"), "{text}");
}
