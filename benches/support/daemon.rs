//! A daemon to measure.

use super::processes::{self, Name};
use super::raw::Raw;
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running `kairo serve`; ends with this value.
pub(crate) struct Daemon {
    child: Child,
    keeper: Option<Name>,
    arguments: Vec<String>,
    pub(crate) socket: PathBuf,
    /// From the start of the program to its ready line.
    pub(crate) ready_after: Duration,
    folder: TempDir,
}

impl Daemon {
    /// Starts one with the arguments, on the cores this thread is confined to.
    pub(crate) fn start(arguments: &[&str]) -> Daemon {
        let folder = tempfile::Builder::new().prefix("kairo-bench-").tempdir().expect("a temporary folder");
        let socket = folder.path().join("kernel.sock");
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let (child, ready_after) = serve(&folder, &socket, &arguments);
        let is_keeper = |name: &Name| {
            std::fs::read(format!("/proc/{}/cmdline", name.pid))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"keeper"))
        };
        let keeper = processes::descendants(child.id() as i32).into_iter().find(is_keeper);
        Daemon { child, keeper, arguments, socket, ready_after, folder }
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Has it end by itself, and its keeper with it.
    pub(crate) fn stop(&mut self) {
        self.connect().ok("kernel.shutdown", json!({"graceMs": 0}));
        self.child.wait().expect("it is our child");
    }

    /// The folder with all that outlives it.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts the next one over the same state; its keeper is the same.
    pub(crate) fn succeed(&mut self) {
        (self.child, self.ready_after) = serve(&self.folder, &self.socket, &self.arguments);
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub(crate) fn keeper_pid(&self) -> i32 {
        self.keeper.expect("a daemon has a keeper").pid
    }

    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(&self.socket)
    }

    /// CPU time of the daemon with all its threads and the keeper, seconds.
    pub(crate) fn cpu(&self) -> f64 {
        cpu_of(self.pid()) + self.keeper.map_or(0.0, |keeper| cpu_of(keeper.pid))
    }
}

/// Starts the program, on the cores this thread is confined to, and waits until it is ready.
fn serve(folder: &TempDir, socket: &Path, arguments: &[String]) -> (Child, Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kairo"));
    command.arg("serve").arg("--socket").arg(socket).arg("--state").arg(folder.path().join("state"));
    command.env("XDG_CONFIG_HOME", folder.path()).args(arguments);
    let begun = Instant::now();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.expect("the daemon starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("its stdout is text");
    assert!(!line.is_empty(), "the daemon ended before it was ready");
    (child, begun.elapsed())
}

/// CPU time of a process with all its threads, those that have ended and the kernel's workers on its behalf
/// included (they are threads of it), seconds. A child that has not been waited for still tells.
pub(crate) fn cpu_of(pid: i32) -> f64 {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).and_then(ClockId::now);
    clock.map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(mut raw) = Raw::try_connect(&self.socket) {
            let _ = raw.call("kernel.shutdown", json!({"graceMs": 0}));
        }
        let until = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(keeper) = self.keeper.filter(|keeper| processes::is_alive(*keeper)) {
            let _ = kill(Pid::from_raw(keeper.pid), Signal::SIGTERM);
        }
    }
}
