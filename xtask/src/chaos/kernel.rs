//! One state folder and the kernels that live in it, one after the other.
//!
//! ```text
//! start ─▶ ready ─▶ killed ─▶ start over the same state ─▶ … ─▶ shut down ─▶ nothing is left
//! ```
//!
//! Whatever is started here, by us or by a kernel, has a marker in its environment, so that all of it can be found.
//!
//! Invariant: at most one kernel runs over a state folder, and every one that ended was ended by us or by a point.
//!
//! Not here: when a kernel is killed (`round`), what is counted (`census`).

use super::check::Wrong;
use super::ledger::Ledger;
use crate::support::processes::{self, Name};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The marker's name; its value is the folder.
pub(crate) const MARKER: &str = "KAIRO_CHAOS";
/// Longest wait for a kernel to be ready, or to end when it was told to.
const PATIENCE: Duration = Duration::from_secs(15);
/// Lines of a log that are shown.
const LOG_TAIL_LINES: usize = 30;

/// How a kernel asks the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Uring,
    Poll,
}

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Poll => "poll",
        }
    }
}

/// A folder with a state, and the kernel that is there now.
pub(crate) struct Home {
    folder: PathBuf,
    /// It is left where it is, for whoever looks into what went wrong.
    is_kept: bool,
    program: PathBuf,
    driver: Driver,
    kernel: Option<Kernel>,
    /// What its log has said so far.
    pub(crate) ledger: Ledger,
}

/// A running kernel.
struct Kernel {
    child: Child,
    started: Instant,
    ready: Arc<OnceLock<Instant>>,
}

impl Home {
    /// A new folder with nobody in it.
    pub(crate) fn new(program: &Path, driver: Driver) -> Result<Home, Wrong> {
        let folder = tempfile::Builder::new().prefix("kairo-chaos-").tempdir();
        let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?.keep();
        for name in ["births", "witnesses", "config"] {
            let made = fs::create_dir(folder.join(name));
            made.map_err(|error| format!("the folder {name} can't be made: {error}"))?;
        }
        Ok(Home {
            folder,
            is_kept: false,
            program: program.to_owned(),
            driver,
            kernel: None,
            ledger: Ledger::default(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("kernel.sock")
    }

    /// What finds all that was started here.
    pub(crate) fn marker(&self) -> String {
        self.path().display().to_string()
    }

    /// Starts a kernel over the state. `die_at`: a named point it shall not come past.
    pub(crate) fn start(&mut self, cores: u64, die_at: Option<&str>) -> Result<(), Wrong> {
        self.kernel = Some(self.launch(cores, die_at)?);
        Ok(())
    }

    /// Starts a second one beside the first: it refuses to serve, in time, and the first doesn't mind.
    pub(crate) fn rival(&self) -> Result<(), Wrong> {
        let mut rival = self.launch(1, None)?;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match rival.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                other => {
                    let _ = rival.child.kill();
                    return Err(format!(
                        "a second kernel over the state of a living one does not go away: {other:?}"
                    ));
                }
            }
        };
        if status.code().is_some_and(|code| code != 0) && rival.ready.get().is_none() {
            Ok(())
        } else {
            Err(format!("a second kernel over the state of a living one ended with {status}"))
        }
    }

    fn launch(&self, cores: u64, die_at: Option<&str>) -> Result<Kernel, Wrong> {
        let log = OpenOptions::new().create(true).append(true).open(self.path().join("log"));
        let log: File = log.map_err(|error| format!("no log: {error}"))?;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--socket").arg(self.socket()).arg("--state").arg(self.path().join("state"));
        command.args(["--driver", self.driver.name(), "--cores", &cores.to_string()]);
        command.args(die_at.into_iter().flat_map(|point| ["--die-at", point]));
        command.env_remove("KAIRO_IPC_SOCKET").env("XDG_CONFIG_HOME", self.path().join("config"));
        command.env(MARKER, self.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let started = Instant::now();
        let mut child = command.spawn().map_err(|error| format!("the kernel can't be started: {error}"))?;
        let ready = Arc::new(OnceLock::new());
        if let Some(stdout) = child.stdout.take() {
            let ready = Arc::clone(&ready);
            std::thread::spawn(move || {
                let mut line = String::new();
                if BufReader::new(stdout).read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                    // Set once, as there is one line.
                    let _ = ready.set(Instant::now());
                }
            });
        }
        Ok(Kernel { child, started, ready })
    }

    /// Its pid, while there is one.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.kernel.as_ref().map(|kernel| kernel.child.id() as i32)
    }

    /// When it was started.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.kernel.as_ref().map(|kernel| kernel.started)
    }

    /// How long it took to be ready, if it is.
    pub(crate) fn ready_after(&self) -> Option<Duration> {
        let kernel = self.kernel.as_ref()?;
        Some(kernel.ready.get()?.duration_since(kernel.started))
    }

    /// How it ended, if it did by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.kernel.as_mut()?.child.try_wait().ok()?
    }

    /// Waits until it is ready. False: it is gone, by a point it was to die at.
    pub(crate) fn wait_until_ready(&mut self, may_die: bool) -> Result<bool, Wrong> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.ready_after().is_some() {
                return Ok(true);
            }
            if let Some(status) = self.ended() {
                return if may_die && is_kill(status) { Ok(false) } else { Err(ended_by_itself(status)) };
            }
            if Instant::now() > deadline {
                return Err(format!("a kernel was not ready within {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
    }

    /// SIGKILL. An error if it had ended otherwise.
    pub(crate) fn kill(&mut self) -> Result<(), Wrong> {
        let Some(mut kernel) = self.kernel.take() else { return Ok(()) };
        let _ = kernel.child.kill();
        match kernel.child.wait() {
            Ok(status) if is_kill(status) => Ok(()),
            Ok(status) => Err(ended_by_itself(status)),
            Err(error) => Err(format!("the kernel can't be waited for: {error}")),
        }
    }

    /// SIGTERM: it ends in order.
    pub(crate) fn ask(&mut self) -> Result<(), Wrong> {
        if let Some(pid) = self.pid() {
            // It may have ended, which the wait finds out.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        self.wait_for_end()
    }

    /// Waits for its end in order.
    pub(crate) fn wait_for_end(&mut self) -> Result<(), Wrong> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended() {
                self.kernel = None;
                return if status.success() { Ok(()) } else { Err(ended_by_itself(status)) };
            }
            if Instant::now() > deadline {
                return Err(format!("a kernel that was told to end did not within {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All processes that were started here, by us or by a kernel.
    pub(crate) fn all(&self) -> Vec<Name> {
        let marker = format!("{MARKER}={}\0", self.marker());
        let below = self.pid().map(processes::descendants).unwrap_or_default();
        let is_ours = |name: &Name| {
            let environment = fs::read(format!("/proc/{}/environ", name.pid)).unwrap_or_default();
            environment.windows(marker.len()).any(|window| window == marker.as_bytes())
                || below.contains(name)
                || (is_keeper(*name) && words(name.pid).iter().any(|word| word.contains(&self.marker())))
        };
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let alive = pids.filter_map(processes::name).filter(|name| processes::is_alive(*name));
        alive.filter(is_ours).collect()
    }

    /// Its keepers: one, when nothing is going on. A keeper has no environment; its command line names the state,
    /// or the kernel that started it is still there.
    pub(crate) fn keepers(&self) -> Vec<Name> {
        self.all().into_iter().filter(|name| is_keeper(*name)).collect()
    }

    /// Everything but kernel and keeper.
    pub(crate) fn strays(&self) -> Vec<Name> {
        let is_known = |name: &Name| Some(name.pid) == self.pid() || is_keeper(*name);
        self.all().into_iter().filter(|name| !is_known(name)).collect()
    }

    /// The files there are, log and the round's own left out.
    pub(crate) fn files(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let relative = path.strip_prefix(self.path()).unwrap_or(&path).to_owned();
                // What is on disk of processes and events that are remembered is not left behind.
                let own = ["births", "witnesses", "config", "log", "state/spool", "state/log"];
                let is_own = own.iter().any(|own| relative.starts_with(own));
                if is_own {
                    continue;
                }
                // Where fifos are stays there as long as a kernel does; what is in it doesn't.
                let stays = path.is_dir() && relative.starts_with("kernel.sock.fifos");
                if path.is_dir() {
                    folders.push(path);
                }
                if !stays {
                    found.insert(relative);
                }
            }
        }
        found
    }

    /// The end of the log.
    pub(crate) fn log_tail(&self) -> String {
        let text = fs::read(self.path().join("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(LOG_TAIL_LINES).collect();
        lines.into_iter().rev().map(|line| format!("    {line}\n")).collect()
    }

    /// Leaves the folder where it is, whatever becomes of this value.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Ends everything that was started here, whatever it takes.
    pub(crate) fn end_all(&mut self) {
        // How it ended was judged before.
        let _ = self.kill();
        for name in self.all() {
            let _ = kill(Pid::from_raw(name.pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.end_all();
        if !self.is_kept {
            // What can't be removed is in the system's temporary folder.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn is_keeper(name: Name) -> bool {
    words(name.pid).get(1).is_some_and(|word| word == "keeper")
}

/// The words of its command line.
pub(crate) fn words(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn is_kill(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGKILL as i32)
}

fn ended_by_itself(status: ExitStatus) -> Wrong {
    format!("a kernel ended by itself: {status}")
}

/// The names of the points at which a kernel can be told to die; none if it knows of none.
pub(crate) fn points(program: &Path) -> Vec<String> {
    let Ok(listed) = Command::new(program).args(["serve", "--die-at", "list"]).stdin(Stdio::null()).output()
    else {
        return Vec::new();
    };
    // Whether it lists them or says which there are, as there is none called so.
    let text = [listed.stdout, listed.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let words = text.split(|letter: char| letter.is_whitespace() || letter == ',');
    let is_point = |word: &str| {
        let (stage, step) = word.split_once('.').unwrap_or_default();
        !stage.is_empty() && !step.is_empty() && stage.chars().chain(step.chars()).all(is_letter)
    };
    words.filter(|word| is_point(word)).map(str::to_owned).collect()
}

/// A process in a message.
pub(crate) fn described(name: Name) -> String {
    format!("{} ({})", name.pid, words(name.pid).join(" "))
}
