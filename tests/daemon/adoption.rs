//! The daemon is killed, and the next one goes on as if nothing had happened: output at the exact byte, input once, exit
//! codes once, whoever waits still waited for. It is killed by signal, and at each named point.

use crate::support::output::Chunk;
use crate::support::raw::Raw;
use crate::support::{Daemon, Driver, Options, processes, python, sequence, until};
use kairo_dataplane::points::Point;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// Each sentence on each driver, with a daemon it may kill.
macro_rules! lives_on_both_drivers {
    ($($behaviour:ident),+ $(,)?) => {
        mod uring {
            $(#[test] fn $behaviour() {
                crate::adoption::lives(crate::support::Driver::Uring, super::$behaviour);
            })+
        }
        mod poll {
            $(#[test] fn $behaviour() {
                crate::adoption::lives(crate::support::Driver::Poll, super::$behaviour);
            })+
        }
    };
}
pub(crate) use lives_on_both_drivers;

lives_on_both_drivers!(
    a_reader_that_waits_misses_nothing_and_gets_nothing_twice,
    who_waits_for_a_first_byte_is_waited_for,
    a_flood_that_nobody_reads_is_counted_on_and_its_latest_is_there,
    what_was_written_goes_in_once_whatever_the_client_heard,
    what_a_child_has_not_read_is_kept_and_so_is_the_wish_to_close,
    an_exit_without_a_kernel_is_told_by_the_next_one,
    a_kill_under_way_keeps_its_deadline,
    a_terminal_keeps_its_size_and_its_program,
    a_third_life_has_everything_of_the_first,
    what_has_ended_is_remembered_and_the_latest_of_it_can_be_read,
    at_every_point_of_its_life_a_kernel_can_die,
    at_every_point_of_its_adoption_a_kernel_can_die,
);

pub(crate) fn lives(driver: Driver, test: fn(&mut Daemon)) {
    if !driver.is_available() {
        return println!("skipped, this system forbids io_uring: {:?}", std::thread::current().name());
    }
    let mut daemon = Daemon::start(&Options::plain(driver));
    test(&mut daemon);
    daemon.finish();
}

/// Reads a stream across the lives of a daemon, and holds it to the sequence.
#[derive(Default)]
pub(crate) struct Follower {
    at: u64,
    pub(crate) last: Option<String>,
}

impl Follower {
    /// Subscribes where it is.
    pub(crate) fn resume(&mut self, raw: &mut Raw, id: &str) {
        let mut wish = json!({"stream": "stdout", "from": self.at});
        if let Some(last) = &self.last {
            wish["resumes"] = json!(last);
        }
        self.last = Some(raw.subscribe(id, wish));
    }

    /// Takes chunks until it has come to `offset`, or the connection is lost. True if it has come there.
    fn read_to(&mut self, raw: &mut Raw, offset: u64) -> bool {
        while self.at < offset {
            let Some(frame) = raw.frame() else { return false };
            if frame.kind != 4 {
                assert_ne!(frame.json()["topic"], "stream.gap", "a waiting reader misses nothing");
                continue;
            }
            let chunk = Chunk::of(&frame);
            assert_eq!(chunk.offset, Some(self.at), "the next byte is next");
            sequence::check(&chunk.data, self.at);
            self.at += chunk.data.len() as u64;
        }
        true
    }
}

fn bytes_of(raw: &mut Raw, id: &str) -> u64 {
    let status = raw.ok("process.status", json!({"id": id, "detail": true}));
    status["detail"]["streams"][0]["bytes"].as_u64().expect("a stream has a length")
}

/// Spawns what writes so many blocks of the sequence once it is told to.
pub(crate) fn spawn_late(raw: &mut Raw, id: &str, blocks: &str, options: Json) {
    raw.spawn(id, &sequence::argv_once_told(blocks), options);
}

fn a_reader_that_waits_misses_nothing_and_gets_nothing_twice(daemon: &mut Daemon) {
    let mut followers: Vec<Follower> = (0..3).map(|_| Follower::default()).collect();
    let mut raw = daemon.connect_modern();
    spawn_late(&mut raw, "flood", "100000000", json!({"whenUnread": "block"}));
    for life in 1..=6u64 {
        let mut raws: Vec<Raw> = followers.iter().map(|_| daemon.connect_modern()).collect();
        for (follower, raw) in followers.iter_mut().zip(&mut raws) {
            follower.resume(raw, "flood");
        }
        if life == 1 {
            raw.tell_to_go("flood");
        }
        // At the same time: one that doesn't read would hold up the others.
        std::thread::scope(|scope| {
            for (follower, raw) in followers.iter_mut().zip(&mut raws) {
                scope.spawn(move || assert!(follower.read_to(raw, life * 3_000_017)));
            }
        });
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        // What was in the sockets still counts; a half frame does not.
        for (follower, raw) in followers.iter_mut().zip(&mut raws) {
            assert!(!follower.read_to(raw, u64::MAX));
        }
        daemon.succeed(&[]);
    }
}

/// Before a first byte there is no ring that could say so.
fn who_waits_for_a_first_byte_is_waited_for(daemon: &mut Daemon) {
    // No more than the smallest pipe holds: it ends without a reader.
    const BYTES: u64 = sequence::BLOCK_BYTES as u64;
    let mut raw = daemon.connect_modern();
    spawn_late(&mut raw, "late", "1", json!({"history": {"headBytes": 4096, "tailBytes": 16_384}}));
    let mut followers: Vec<Follower> = (0..2).map(|_| Follower::default()).collect();
    // The second kernel sees no byte either.
    for life in 1..=2 {
        followers.iter_mut().for_each(|follower| follower.resume(&mut raw, "late"));
        if life == 2 {
            // It waits, too, and is back before the others.
            raw.spawn("fed", &["cat"], json!({"stdin": {"stream": {"id": "late"}}}));
        }
        // That all are there is known once they are asked about.
        raw.ok("process.status", json!({"id": "late", "detail": true}));
        daemon.kill_and_succeed();
        raw = daemon.connect_modern();
    }
    raw.tell_to_go("late");
    raw.wait_for_exit("late");
    until("all has come", || bytes_of(&mut raw, "late") == BYTES);
    // Whoever is back is waited for no longer, the other one is.
    for follower in &mut followers {
        let mut raw = daemon.connect_modern();
        follower.resume(&mut raw, "late");
        assert!(follower.read_to(&mut raw, BYTES));
    }
    raw.wait_for_exit("fed");
    let mut fed = Follower::default();
    fed.resume(&mut raw, "fed");
    assert!(fed.read_to(&mut raw, BYTES));
}

fn a_flood_that_nobody_reads_is_counted_on_and_its_latest_is_there(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("flood", &sequence::argv("200"), json!({"stderr": "stdout"}));
    until("some has come", || bytes_of(&mut raw, "flood") > 1 << 20);
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let total = 200 * sequence::BLOCK_BYTES as u64;
    until("all has come", || bytes_of(&mut raw, "flood") == total);
    let subscription = raw.subscribe("flood", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    let (head, tail) = output.stdout.split_at(64 << 10);
    sequence::check(head, 0);
    assert!(tail.len() >= 256 << 10, "only {} of its latest bytes are there", tail.len());
    sequence::check(tail, total - tail.len() as u64);
}

fn what_was_written_goes_in_once_whatever_the_client_heard(daemon: &mut Daemon) {
    daemon.connect().spawn("echo", &["cat"], json!({}));
    let mut expected = Vec::new();
    for round in 0..12 {
        let line = format!("{round:03} {}\n", "x".repeat(round * 977));
        let params = json!({"id": "echo", "data": line});
        let key = format!("write {round}");
        let mut raw = daemon.connect_modern();
        if round % 3 == 0 {
            // Nobody knows whether this one arrives before the kernel dies.
            raw.send_once("process.stdin.write", &params, &key);
            daemon.kill_and_succeed();
            raw = daemon.connect_modern();
        }
        let first =
            raw.call_once("process.stdin.write", &params, &key).expect("it lives").expect("it takes it");
        let again =
            raw.call_once("process.stdin.write", &params, &key).expect("it lives").expect("it knows it");
        expected.extend(line.into_bytes());
        assert_eq!((&first["offset"], &again["offset"]), (&json!(expected.len()), &json!(expected.len())));
        let other = json!({"id": "echo", "data": "something else"});
        let refused = raw
            .call_once("process.stdin.write", &other, &key)
            .expect("it lives")
            .expect_err("it is another write");
        assert_eq!(refused.code, "E_CONFLICT");
    }
    let mut raw = daemon.connect_modern();
    raw.ok("process.stdin.close", json!({"id": "echo"}));
    let subscription = raw.subscribe("echo", json!({"stream": "stdout"}));
    let output = raw.collect(&subscription, 1);
    assert!(output.stdout == expected, "what came back is what was written, in order, once");
}

/// Reads nothing until it gets a signal, then everything, and says how much and its sum.
const LATE_READER: &str = "\
import signal, sys, hashlib
signal.sigwait([signal.SIGUSR1])
data = sys.stdin.buffer.read()
print(len(data), hashlib.sha256(data).hexdigest())
";

fn what_a_child_has_not_read_is_kept_and_so_is_the_wish_to_close(daemon: &mut Daemon) {
    let script =
        format!("import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n{LATE_READER}");
    let mut raw = daemon.connect_modern();
    raw.spawn("late", &[python(), "-c", &script], json!({}));
    let data = "0123456789abcdef".repeat(100_000);
    for _ in 0..2 {
        raw.request("process.stdin.write", crate::support::raw::value(&json!({"id": "late", "data": data})));
    }
    raw.request("process.stdin.close", crate::support::raw::value(&json!({"id": "late"})));
    let parked = |raw: &mut Raw| {
        let status = raw.ok("process.status", json!({"id": "late", "detail": true}));
        let stdin = &status["detail"]["stdin"];
        let number = |name: &str| stdin[name].as_u64().unwrap_or(0);
        (number("bytes"), number("parkedBytes"), stdin["closed"] == true)
    };
    until("all is taken", || {
        let (bytes, parked, closed) = parked(&mut raw);
        bytes + parked == 3_200_000 && bytes > 0 && closed
    });
    daemon.kill_and_succeed();
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let (bytes, left, closed) = parked(&mut raw);
    assert_eq!((bytes + left, closed), (3_200_000, true), "{bytes} written, {left} parked");
    raw.ok("process.signal", json!({"id": "late", "signal": "USR1"}));
    raw.wait_for_exit("late");
    let subscription = raw.subscribe("late", json!({"stream": "stdout"}));
    let said = String::from_utf8(raw.collect(&subscription, 1).stdout).expect("it is text");
    let both = data.repeat(2);
    let sum = <sha2::Sha256 as sha2::Digest>::digest(both.as_bytes());
    let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said, format!("3200000 {sum}\n"));
}

fn an_exit_without_a_kernel_is_told_by_the_next_one(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("code", &["sh", "-c", "read line; echo $line; exit 7"], json!({}));
    raw.spawn("signal", &["sleep", "1000"], json!({}));
    raw.spawn("before", &["sh", "-c", "exit 3"], json!({}));
    raw.wait_for_exit("before");
    raw.spawn("fed", &["sh", "-c", "read line"], json!({}));
    raw.ok("process.stdin.write", json!({"id": "fed", "data": "six by\n"}));
    raw.wait_until_ended(&["fed"]);
    let leader = raw.ok("process.status", json!({"id": "signal"}))["pid"].as_i64().expect("it runs") as i32;
    raw.ok("process.stdin.write", json!({"id": "code", "data": "last words\n"}));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader), Signal::SIGTERM).expect("it is ours");
    until("both have ended", || processes::name(leader).is_none());
    daemon.succeed(&[]);
    let mut raw = daemon.connect_modern();
    let code = |raw: &mut Raw, id: &str| raw.ok("process.wait", json!({"id": id}))["exitCode"].clone();
    assert_eq!([code(&mut raw, "code"), code(&mut raw, "signal"), code(&mut raw, "before")], [7, 143, 3]);
    let subscription = raw.subscribe("code", json!({"stream": "stdout"}));
    assert_eq!(raw.collect(&subscription, 1).stdout, b"last words\n");
    assert_eq!(crate::streams::detail(&mut raw, "fed")["stdin"]["bytes"], 7);
    let listed = raw.ok("process.list", json!({}))["processes"].as_array().map_or(0, Vec::len);
    assert_eq!(listed, 4);
    // What had been noted of it is enough for a third life.
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    assert_eq!(crate::streams::detail(&mut raw, "fed")["stdin"]["bytes"], 7);
}

fn a_kill_under_way_keeps_its_deadline(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn(
        "stubborn",
        &["bash", "-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"],
        json!({}),
    );
    let subscription = raw.subscribe("stubborn", json!({"stream": "stdout"}));
    until("it is deaf", || bytes_of(&mut raw, "stubborn") > 0);
    drop(subscription);
    raw.ok("process.kill", json!({"id": "stubborn", "graceMs": 1500}));
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let ended = raw.ok("process.wait", json!({"id": "stubborn"}));
    assert_eq!((&ended["exitCode"], &ended["exit"]["endedBy"]["cause"]), (&json!(137), &json!("grace_over")));
}

fn a_terminal_keeps_its_size_and_its_program(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("repl", &[python(), "-q"], json!({"pty": {"rows": 30, "cols": 100}}));
    raw.ok("process.stdin.write", json!({"id": "repl", "data": "kept = 6 * 7\n"}));
    raw.ok("process.resize", json!({"id": "repl", "rows": 31, "cols": 101}));
    let contains = |raw: &mut Raw, word: &str| {
        let subscription = raw.subscribe("repl", json!({"stream": "stdout"}));
        let mut seen = Vec::new();
        until(&format!("the terminal shows {word}"), || {
            let frame = raw.frame().expect("it lives");
            if frame.kind == 4 {
                seen.extend(Chunk::of(&frame).data);
            }
            String::from_utf8_lossy(&seen).contains(word)
        });
        raw.ok("process.stdout.unsubscribe", json!({"subscriptionId": subscription}));
    };
    contains(&mut raw, "kept");
    daemon.kill_and_succeed();
    let mut raw = daemon.connect_modern();
    let status = raw.ok("process.status", json!({"id": "repl", "detail": true}));
    assert_eq!(status["detail"]["terminal"], json!({"rows": 31, "cols": 101}));
    let ask = "import os; print('size', *os.get_terminal_size(), 'kept', kept)\n";
    raw.ok("process.stdin.write", json!({"id": "repl", "data": ask}));
    contains(&mut raw, "size 101 31 kept 42");
    raw.ok("process.stdin.close", json!({"id": "repl"}));
    assert_eq!(raw.ok("process.wait", json!({"id": "repl"}))["exitCode"], 0);
}

fn a_third_life_has_everything_of_the_first(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let argv = ["sh", "-c", "echo out; echo err >&2; sleep 1000"];
    let options = json!({"env": {"SECRET": "s3cret"}, "secretArgs": [2], "history": {"headBytes": 4096, "tailBytes": 8192}});
    raw.spawn("p", &argv, options);
    until("it has written", || bytes_of(&mut raw, "p") == 4);
    let told = |raw: &mut Raw| {
        let mut status = raw.ok("process.status", json!({"id": "p", "detail": true}));
        status["detail"]["readers"] = Json::Null;
        status
    };
    let first = told(&mut raw);
    daemon.kill_and_succeed();
    assert_eq!(told(&mut daemon.connect_modern()), first);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    daemon.succeed(&[]);
    let mut raw = daemon.connect_modern();
    assert_eq!(told(&mut raw), first);
    assert_eq!(
        raw.refused("process.spawn", json!({"id": "p", "command": ["true"]})).code,
        "E_ALREADY_EXISTS"
    );
    let memory = std::fs::read(daemon.folder().join("log")).expect("there is a log");
    assert!(!String::from_utf8_lossy(&memory).contains("s3cret"));
}

fn what_has_ended_is_remembered_and_the_latest_of_it_can_be_read(daemon: &mut Daemon) {
    const CHILDREN: usize = 700;
    let mut raw = daemon.connect_modern();
    for number in 0..CHILDREN {
        let command = ["sh", "-c", &format!("echo number {number}; exit {}", number % 200)];
        raw.spawn(&format!("child-{number}"), &command, json!({"stderr": "stdout"}));
        raw.wait_for_exit(&format!("child-{number}"));
    }
    let ids: Vec<String> = (0..CHILDREN).map(|number| format!("child-{number}")).collect();
    raw.wait_until_ended(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    for life in 0..3 {
        match life {
            // In order, too, and then nobody is left to keep it but a file.
            1 => daemon.signal(Signal::SIGTERM),
            _ => daemon.signal(Signal::SIGKILL),
        }
        daemon.wait();
        daemon.succeed(&[]);
        let mut raw = daemon.connect_modern();
        let mut readable = 0;
        for (number, id) in ids.iter().enumerate() {
            let code = raw.ok("process.wait", json!({"id": id}))["exitCode"].clone();
            assert_eq!(code, number % 200, "{id} in life {life}");
            let text = format!("number {number}\n");
            assert_eq!(bytes_of(&mut raw, id), text.len() as u64, "{id} in life {life}");
            let subscription = raw.subscribe(id, json!({"stream": "stdout"}));
            let output = raw.collect(&subscription, 1);
            if output.gaps.is_empty() {
                assert_eq!(output.text(), text);
                readable += 1;
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kept = kairo_dataplane::limits::HELD_ENDED_MAX / cores;
        assert!(readable >= kept, "only {readable} outputs can be read in life {life}");
    }
}

/// One round of everything: a flood with a waiting reader, an echo that is written to, a child that ends.
struct Round {
    /// Ids and what they run; no two rounds share an id.
    children: [(String, Json); 3],
    /// As long as the daemon lives: a reader that goes is not waited for.
    raw: Option<Raw>,
    follower: Follower,
    written: Vec<u8>,
    echoed: Vec<u8>,
    writes: usize,
}

impl Round {
    fn new(tag: &str) -> Round {
        let ends = "sleep 0.05; echo done; exit 5";
        let children = [
            (format!("flood-{tag}"), json!(sequence::argv("100000000"))),
            (format!("echo-{tag}"), json!(["cat"])),
            (format!("ends-{tag}"), json!(["sh", "-c", ends])),
        ];
        Round {
            children,
            raw: None,
            follower: Follower::default(),
            written: Vec::new(),
            echoed: Vec::new(),
            writes: 0,
        }
    }

    fn id(&self, number: usize) -> &str {
        &self.children[number].0
    }

    /// Does everything once more, until the daemon dies of it or `bytes` have come. True if it lives.
    fn go_on(&mut self, daemon: &Daemon, bytes: u64) -> bool {
        let kept = self.raw.take();
        let Some(mut raw) = kept.or_else(|| self.come_back(daemon)) else { return false };
        let lives = self.do_all(&mut raw, bytes);
        self.raw = lives.then_some(raw);
        lives
    }

    /// Connects, starts what isn't there, and subscribes.
    fn come_back(&mut self, daemon: &Daemon) -> Option<Raw> {
        let mut raw = Raw::try_connect(&daemon.socket).ok()?;
        let hello = json!({"features": ["records", "int64", "chunks"], "chunkBytesMax": 1 << 20});
        raw.try_call("kernel.hello", hello)?.expect("it greets");
        for (id, argv) in &self.children {
            // Nothing is lost before there is a reader, either.
            let spawn = json!({"id": id, "command": argv, "options": {"whenUnread": "block"}});
            raw.call_once("process.spawn", &spawn, &format!("spawn {id}"))?.expect("it is spawned once");
        }
        let mut wish = json!({"pid": self.id(0), "stream": "stdout", "from": self.follower.at});
        if let Some(last) = &self.follower.last {
            wish["resumes"] = json!(last);
        }
        let subscribed = raw.try_call("process.stdout.subscribe", wish)?.expect("it is there");
        self.follower.last = subscribed["subscriptionId"].as_str().map(str::to_owned);
        Some(raw)
    }

    fn do_all(&mut self, raw: &mut Raw, bytes: u64) -> bool {
        let line = format!("line {}\n", self.writes);
        let write = json!({"id": self.id(1), "data": line});
        let Some(answer) = raw.call_once("process.stdin.write", &write, &format!("write {}", self.writes))
        else {
            // What came before the end counts.
            self.follower.read_to(raw, u64::MAX);
            return false;
        };
        self.written.extend(line.as_bytes());
        assert_eq!(answer.expect("it is written once")["offset"], json!(self.written.len()));
        self.writes += 1;
        let wanted = self.follower.at + bytes;
        let signal = json!({"id": self.id(0), "signal": "CONT"});
        let (Some(Ok(_)), true) =
            (raw.try_call("process.signal", signal), self.follower.read_to(raw, wanted))
        else {
            self.follower.read_to(raw, u64::MAX);
            return false;
        };
        match raw.try_call("process.wait", json!({"id": self.id(2)})) {
            None => {
                self.follower.read_to(raw, u64::MAX);
                false
            }
            Some(answer) => {
                assert_eq!(answer.expect("it ended")["exitCode"], 5);
                true
            }
        }
    }

    /// Takes what a dead daemon had sent.
    fn hear_the_rest(&mut self) {
        if let Some(mut raw) = self.raw.take() {
            self.follower.read_to(&mut raw, u64::MAX);
        }
    }

    /// What was echoed is what was written.
    fn check_echo(&mut self, daemon: &Daemon) {
        let mut raw = daemon.connect_modern();
        let written = self.written.len() as u64;
        until("all is echoed", || bytes_of(&mut raw, self.id(1)) >= written);
        raw.subscribe(self.id(1), json!({"stream": "stdout", "from": self.echoed.len()}));
        while (self.echoed.len() as u64) < written {
            let frame = raw.frame().expect("it lives");
            if frame.kind == 4 {
                self.echoed.extend(Chunk::of(&frame).data);
            }
        }
        assert_eq!(String::from_utf8_lossy(&self.echoed), String::from_utf8_lossy(&self.written));
    }
}

fn at_every_point_of_its_life_a_kernel_can_die(daemon: &mut Daemon) {
    // Those of a spool have a test of their own.
    let of_adoption =
        |point: &&Point| !["adopt.", "spool."].iter().any(|room| point.name().starts_with(room));
    let mut died = 0;
    for point in Point::ALL.iter().filter(of_adoption) {
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        let mut all = 0;
        for nth in [1, 3] {
            daemon.succeed_unasked(&["--die-at", &format!("{}:{nth}", point.name())]);
            let mut round = Round::new(&format!("{}-{nth}", point.name()));
            let mut lives = true;
            for _ in 0..4 {
                lives = lives && round.go_on(daemon, 1_500_000);
            }
            if lives {
                daemon.signal(Signal::SIGKILL);
            } else {
                all += 1;
            }
            daemon.wait();
            round.hear_the_rest();
            daemon.succeed(&[]);
            assert!(round.go_on(daemon, 1_500_000), "the next one lives on after {}", point.name());
            round.check_echo(daemon);
            let mut raw = daemon.connect();
            let ids = [round.id(0), round.id(1), round.id(2)];
            for id in ids {
                raw.ok("process.kill", json!({"id": id, "signal": "KILL"}));
            }
            raw.wait_until_ended(&ids);
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
        }
        died += usize::from(all > 0);
        println!("{}: died {all} times of 2", point.name());
        daemon.succeed(&[]);
    }
    assert!(died >= 14, "only {died} points were met");
    check_the_log(daemon);
}

/// Whatever died when: of each life the log tells each thing once, causes before what follows from them. The last kernel
/// tells what its predecessor hadn't while it already answers.
fn check_the_log(daemon: &Daemon) {
    const ONCE: [&str; 5] = [
        "kairo.process.ended ",
        "kairo.process.exited ",
        "kairo.process.spawned ",
        "kairo.stream.closed stderr",
        "kairo.stream.closed stdout",
    ];
    let is_whole = |events: &Vec<String>| {
        let terminal = events.len() == 4 && !events.iter().any(|event| event.ends_with("stderr"));
        terminal || *events == ONCE
    };
    let mut raw = daemon.connect();
    raw.ok("kernel.hello", json!({"features": ["int64"]}));
    until("every end is told", || {
        told(&mut raw)
            .values()
            .all(|events| events.iter().any(|event| event.starts_with("kairo.process.ended")))
    });
    let told = told(&mut raw);
    assert!(told.len() > 60, "{} lives", told.len());
    for (session, events) in told {
        assert!(is_whole(&events), "{session}: {events:?}");
    }
}

/// What the log tells of each session, sorted.
fn told(raw: &mut Raw) -> BTreeMap<String, Vec<String>> {
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut next, mut last, mut ids) = (json!(1), 0, BTreeSet::new());
    while !next.is_null() {
        let page = raw.ok("event.replay", json!({"fromSeq": next}));
        for event in page["events"].as_array().expect("events") {
            let seq = event["seq"].as_u64().expect("a place");
            assert_eq!(seq, last + 1, "no place is left out");
            last = seq;
            let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
            let cause = text(&event["causationId"]);
            assert!(cause.is_empty() || ids.contains(&cause), "a cause comes first: {event}");
            ids.insert(text(&event["id"]));
            let topic = text(&event["topic"]);
            let tells =
                ["kairo.process.", "kairo.stream.closed"].iter().any(|prefix| topic.starts_with(prefix));
            if let (true, Some(session)) = (tells, event["payload"]["session"].as_str()) {
                let what = format!("{topic} {}", text(&event["payload"]["stream"]));
                told.entry(session.to_owned()).or_default().push(what);
            }
        }
        next = page["next"].clone();
    }
    for events in told.values_mut() {
        events.sort();
        events.retain(|event| !event.contains("written"));
    }
    told
}

fn at_every_point_of_its_adoption_a_kernel_can_die(daemon: &mut Daemon) {
    let mut round = Round::new("adopted");
    assert!(round.go_on(daemon, 1_000_000));
    for point in Point::ALL.iter().filter(|point| point.name().starts_with("adopt.")) {
        for nth in [1, 2] {
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            round.hear_the_rest();
            daemon.succeed_unasked(&["--die-at", &format!("{}:{nth}", point.name())]);
            if !daemon.ready_line.is_empty() {
                daemon.signal(Signal::SIGKILL);
            }
            daemon.wait();
            daemon.succeed(&[]);
            assert!(round.go_on(daemon, 700_001), "the next one lives on after {}", point.name());
            round.check_echo(daemon);
        }
    }
}
