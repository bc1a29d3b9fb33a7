//! The real daemon, started for one test and held to account at its end.
//!
//! [`on`] starts `kairo serve` on a socket and a state folder of its own, hands it to the test, and afterwards
//! demands that nothing is left: no process, no descriptor, no socket. A test never waits for time: [`until`]
//! waits for a condition, under a deadline. When the test fails, the daemon's log is printed.
//!
//! Not here: what goes over the wire (`raw`), what `/proc` tells (`processes`).

pub(crate) mod output;
#[allow(dead_code, reason = "what writes the sequence is used by the chaos harness only")]
pub(crate) mod pattern;
pub(crate) mod processes;
pub(crate) mod raw;
pub(crate) mod reader;
pub(crate) mod sequence;

pub(crate) use raw::until;

use kairo_dataplane::points::Point;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use processes::Name;
use raw::Raw;
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A user without rights, where the tests run as root.
pub(crate) const NOBODY: u32 = 65534;
/// Descriptors a reactor may come to hold once for all its streams: its staging pipes, what wakes it, and what a relay needs.
const DESCRIPTORS_PER_REACTOR: usize = 9;
/// What its worker comes to hold with its first job.
const DESCRIPTORS_OF_WORKER: usize = 8;

/// How the daemon asks the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Uring,
    Poll,
}

impl Driver {
    fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Poll => "poll",
        }
    }

    pub(crate) fn is_available(self) -> bool {
        self == Driver::Poll || io_uring::IoUring::new(8).is_ok()
    }
}

/// Runs each named behaviour on each driver as a test of its own.
macro_rules! on_both_drivers {
    ($($behaviour:ident),+ $(,)?) => {
        mod uring {
            $(#[test] fn $behaviour() { crate::support::on(crate::support::Driver::Uring, super::$behaviour); })+
        }
        mod poll {
            $(#[test] fn $behaviour() { crate::support::on(crate::support::Driver::Poll, super::$behaviour); })+
        }
    };
}
pub(crate) use on_both_drivers;

/// True where the tests run as root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// True where the tests run as root; says what is skipped where they don't.
pub(crate) fn needs_root(test: &str) -> bool {
    if !is_root() {
        println!("skipped, needs root: {test}");
    }
    is_root()
}

/// A path to python3 that every user can execute.
pub(crate) fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// The program under test, where every user can execute it.
pub(crate) fn program() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        // Root has told an ordinary user where it is.
        let told = std::env::var_os("KAIRO_UNDER_TEST").map(PathBuf::from);
        told.unwrap_or_else(|| reachable(Path::new(env!("CARGO_BIN_EXE_kairo"))))
    })
}

/// A program that was built here, where every user can execute it if root runs the tests.
pub(crate) fn reachable(built: &Path) -> PathBuf {
    let is_open =
        |part: &Path| fs::metadata(part).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if !is_root() || built.ancestors().all(is_open) {
        return built.to_owned();
    }
    // One place for all test processes: a copy each would fill the disk, and nobody could remove the last.
    let stamp = fs::metadata(built).and_then(|metadata| metadata.modified()).expect("the program was built");
    let stamp = stamp.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_nanos());
    let copy = std::env::temp_dir().join(format!("kairo-under-test-{stamp:x}"));
    if !copy.exists() {
        let fresh = copy.with_extension(std::process::id().to_string());
        fs::copy(built, &fresh).expect("the program can be copied");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("and made executable");
        fs::rename(&fresh, &copy).expect("and put in place");
    }
    copy
}

/// A running `kairo serve`.
pub(crate) struct Daemon {
    child: Child,
    driver: Driver,
    arguments: Vec<String>,
    uid: Option<u32>,
    folder: TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) ready_line: String,
    descriptors_at_start: usize,
    /// What it may keep besides, because a test had its worker start.
    descriptors_of_worker: AtomicUsize,
}

/// What to start.
pub(crate) struct Options<'a> {
    pub(crate) driver: Driver,
    pub(crate) uid: Option<u32>,
    pub(crate) arguments: &'a [&'a str],
}

impl Options<'_> {
    /// As whoever runs the tests, with nothing special.
    pub(crate) fn plain(driver: Driver) -> Self {
        Options { driver, uid: None, arguments: &[] }
    }
}

/// Runs `test` against a daemon with this driver, then checks that nothing is left of it.
pub(crate) fn on(driver: Driver, test: fn(&Daemon)) {
    with(&Options::plain(driver), test);
}

/// As [`on`], with options.
pub(crate) fn with(options: &Options<'_>, test: impl FnOnce(&Daemon)) {
    if !options.driver.is_available() {
        println!("skipped, this system forbids io_uring: {:?}", std::thread::current().name());
        return;
    }
    let daemon = Daemon::start(options);
    test(&daemon);
    daemon.finish();
}

/// Starts a daemon in `folder` and waits for its first line, which is empty if it ends before.
fn serve(folder: &Path, driver: Driver, uid: Option<u32>, arguments: &[String]) -> (Child, String) {
    let log = File::options().append(true).create(true).open(folder.join("log")).expect("a log file");
    let mut command = Command::new(program());
    command.arg("serve").arg("--socket").arg(folder.join("kernel.sock"));
    command.arg("--state").arg(folder.join("state")).args(["--driver", driver.name()]).args(arguments);
    command.env_remove("KAIRO_IPC_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // No configuration of the machine's has a say.
    command.env("XDG_CONFIG_HOME", folder.join("config"));
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().expect("the daemon starts");
    let mut ready_line = String::new();
    let stdout = child.stdout.take().expect("its stdout is piped");
    BufReader::new(stdout).read_line(&mut ready_line).expect("its stdout is text");
    (child, ready_line)
}

impl Daemon {
    /// Starts and waits for the line that says it is ready.
    pub(crate) fn start(options: &Options<'_>) -> Daemon {
        let folder = tempfile::Builder::new().prefix("kairo-test-").tempdir().expect("a temporary folder");
        if let Some(uid) = options.uid {
            chown(folder.path(), Some(uid), Some(uid)).expect("root may give a folder away");
        }
        let socket = folder.path().join("kernel.sock");
        let arguments: Vec<String> = options.arguments.iter().map(|word| (*word).to_owned()).collect();
        let (driver, uid) = (options.driver, options.uid);
        let (child, ready_line) = serve(folder.path(), driver, uid, &arguments);
        let mut daemon = Daemon {
            child,
            driver,
            arguments,
            uid,
            folder,
            socket,
            ready_line,
            descriptors_at_start: 0,
            descriptors_of_worker: AtomicUsize::new(0),
        };
        assert!(!daemon.ready_line.is_empty(), "the daemon ended before it was ready");
        daemon.connect().ok("kernel.ping", json!({}));
        daemon.descriptors_at_start = daemon.descriptors();
        daemon
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// A folder that goes with the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A v1 connection.
    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    /// A connection that has asked for offsets, ends and large chunks.
    pub(crate) fn connect_modern(&self) -> Raw {
        let mut raw = self.connect();
        let hello =
            json!({"client": "tests", "features": ["records", "int64", "chunks"], "chunkBytesMax": 1 << 20});
        raw.ok("kernel.hello", hello);
        raw
    }

    /// Starts another one over the same state, once the last one has ended. `extra` comes after the usual arguments.
    pub(crate) fn succeed(&mut self, extra: &[&str]) {
        self.succeed_unasked(extra);
        assert!(!self.ready_line.is_empty(), "the next daemon ended before it was ready");
        self.connect().ok("kernel.ping", json!({}));
    }

    /// The same, for one that may die before it is ready or asked anything.
    pub(crate) fn succeed_unasked(&mut self, extra: &[&str]) {
        let extra = extra.iter().map(|word| (*word).to_owned());
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(extra).collect();
        let (child, ready_line) = serve(self.folder.path(), self.driver, self.uid, &arguments);
        (self.child, self.ready_line) = (child, ready_line);
    }

    /// Kills it and starts another one.
    pub(crate) fn kill_and_succeed(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
        self.succeed(&[]);
    }

    /// Starts another one, once the last one has ended, that dies at `point`; true if it came there before `at` had gone a few
    /// megabytes on.
    pub(crate) fn comes_to(&mut self, point: &str, at: impl Fn() -> u64) -> bool {
        self.succeed_unasked(&["--die-at", point]);
        let (wanted, patience) = (at() + 4_000_000, Instant::now() + Duration::from_secs(20));
        let mut has_died = false;
        while !has_died && at() < wanted && Instant::now() < patience {
            has_died = self.has_ended();
            std::thread::yield_now();
        }
        has_died
    }

    /// At every point whose name begins so, early and later, one dies and another one succeeds it, under which `goes_on` is to
    /// hold. Returns how many came there.
    pub(crate) fn dies_at_each(
        &mut self,
        names: &[&str],
        at: impl Fn() -> u64,
        mut goes_on: impl FnMut(),
    ) -> usize {
        let mut died = 0;
        let is_meant = |point: &&Point| names.iter().any(|name| point.name().starts_with(name));
        for point in Point::ALL.iter().filter(is_meant) {
            for nth in [1, 17] {
                self.signal(Signal::SIGKILL);
                self.wait();
                died += usize::from(self.comes_to(&format!("{}:{nth}", point.name()), &at));
                self.signal_if_there(Signal::SIGKILL);
                self.wait();
                self.succeed(&[]);
                goes_on();
            }
        }
        died
    }

    /// Where its keeper hands over.
    pub(crate) fn handover(&self) -> PathBuf {
        self.folder.path().join("state/keeper.sock")
    }

    /// The keeper, whoever started it.
    pub(crate) fn keeper(&self) -> Option<Name> {
        let handover = self.handover();
        processes::all().into_iter().find(|name| {
            fs::read(format!("/proc/{}/cmdline", name.pid)).is_ok_and(|line| {
                line.split(|byte| *byte == 0).any(|word| word == handover.as_os_str().as_encoded_bytes())
            })
        })
    }

    /// Runs the command line against this daemon.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).env("KAIRO_IPC_SOCKET", &self.socket).stdin(Stdio::null());
        command
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the daemon is there");
    }

    /// Sends it a signal, if it has not ended.
    pub(crate) fn signal_if_there(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(signal);
        }
    }

    /// True once it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", || {
            status = self.child.try_wait().expect("the daemon is our child");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("the daemon had ended"))
    }

    /// How many descriptors it has more than when it was idle, what reactors keep for good not counted.
    pub(crate) fn descriptors_leaked(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let worker = self.descriptors_of_worker.load(Ordering::Relaxed);
        let allowed = self.descriptors_at_start + DESCRIPTORS_PER_REACTOR * cores + worker;
        self.descriptors().saturating_sub(allowed)
    }

    /// It is asked for something that starts its worker, which stays.
    pub(crate) fn starts_its_worker(&self) {
        self.descriptors_of_worker.store(DESCRIPTORS_OF_WORKER, Ordering::Relaxed);
    }

    /// How many descriptors it has, without those of the log's tables: they come and go as it grows.
    fn descriptors(&self) -> usize {
        let log = self.folder.path().join("state/log/db");
        let all = processes::descriptor_targets(self.pid());
        all.iter().filter(|target| !target.starts_with(&log)).count()
    }

    fn end_all_processes(&self) {
        let mut raw = self.connect();
        let list = raw.ok("process.list", json!({}));
        let all = list["processes"].as_array().cloned().unwrap_or_default();
        for process in all.iter().filter(|process| process["detail"]["phase"] != "ended") {
            let kill = json!({"id": process["id"], "signal": "KILL", "graceMs": 0, "scope": "tree"});
            raw.ok("process.kill", kill);
        }
    }

    /// Ends it and everything it started, and demands that nothing is left.
    pub(crate) fn finish(mut self) {
        self.end_all_processes();
        let keeper = self.keeper();
        until("only the keeper is left of the daemon's processes", || {
            processes::descendants(self.pid()).iter().all(|name| Some(*name) == keeper)
        });
        if self.descriptors_leaked() > 0 {
            until(&format!("descriptors go, of {:?}", processes::descriptor_targets(self.pid())), || {
                self.descriptors_leaked() == 0
            });
        }
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(status.success(), "the daemon ended with {status}");
        until("the keeper ends", || keeper.is_none_or(|name| !processes::is_alive(name)));
        assert!(!self.socket.exists(), "the socket file is left behind");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            println!("the end of the daemon's log:");
            tail.iter().rev().for_each(|line| println!("  {line}"));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let Some(keeper) = self.keeper() {
            let left: Vec<Name> = processes::descendants(keeper.pid).into_iter().chain([keeper]).collect();
            for name in left.into_iter().filter(|name| processes::is_alive(*name)) {
                let _ = kill(Pid::from_raw(name.pid), Signal::SIGKILL);
            }
        }
    }
}
