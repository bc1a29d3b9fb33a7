//! Declare → approve → enforce: the loop as a person at a terminal, a script without one, and an administrator see it.
//!
//! What is asked is typed on a real terminal. Skills are shell scripts under a manifest of their own; each run is contained,
//! so all but the plain questions need Landlock and seccomp and are skipped by name where this kernel has less.

use crate::sandbox::can_contain;
use crate::support::raw::PATIENCE;
use crate::support::{Daemon, Driver, Options, on_both_drivers, program, until, with};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;
use tempfile::TempDir;

/// A skill: its manifest and its program, in a folder of their own.
struct Skill {
    folder: TempDir,
}

impl Skill {
    /// Says `said 42` when it runs.
    fn new() -> Skill {
        let folder = tempfile::Builder::new().prefix("kairo-skill-").tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let skill = Skill { folder };
        skill.declare("1.0.0", &[]);
        skill.program("echo said $((40+2))");
        skill
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn manifest(&self) -> String {
        self.path("skill.json").to_str().expect("text").to_owned()
    }

    fn tool(&self) -> String {
        self.path("tool").to_str().expect("text").to_owned()
    }

    /// Writes the manifest; `reads` are folders it may read besides what every program needs.
    fn declare(&self, version: &str, reads: &[&str]) {
        let file = |path: &str, allow: &[&str], purpose: &str| json!({"path": path, "allow": allow, "purpose": purpose});
        let own = self.folder.path().to_str().expect("text");
        let system = ["/usr", "/lib", "/lib64", "/bin", "/sbin", own];
        let mut files: Vec<Json> =
            system.iter().map(|path| file(path, &["read", "execute"], "to run at all")).collect();
        files.extend(reads.iter().map(|path| file(path, &["read"], "to look around")));
        let manifest = json!({
            "manifest": 1, "name": "tester", "version": version, "type": "script", "permissions": {"files": files},
        });
        fs::write(self.manifest(), manifest.to_string()).expect("written");
    }

    fn program(&self, script: &str) {
        let fresh = self.path("fresh");
        fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("ours");
        fs::rename(&fresh, self.tool()).expect("put in place");
    }

    /// `kairo run` of it against a daemon.
    fn run(&self, daemon: &Daemon, flags: &[&str]) -> Command {
        let (manifest, tool) = (self.manifest(), self.tool());
        let words = [&["run", "--manifest", &manifest], flags, &["--", &tool]].concat();
        let mut command = daemon.cli(&words);
        command.env("XDG_CONFIG_HOME", daemon.folder().join("config"));
        command
    }
}

/// A shell on a terminal, typed at.
struct Terminal {
    child: Child,
    stdin: ChildStdin,
    pieces: Receiver<Vec<u8>>,
    said: String,
}

impl Terminal {
    /// `kairo` talks to whatever listens on `socket`.
    fn new(socket: &Path, config: &Path) -> Terminal {
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", "sh", "/dev/null"]).env("PS1", "").env("KAIRO_IPC_SOCKET", socket);
        command.env("XDG_CONFIG_HOME", config).env("SHELL", "/bin/sh").env("ENV", "");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = child.stdout.take().expect("piped");
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(got @ 1..) = stdout.read(&mut piece) {
                if sender.send(piece[..got].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, stdin, pieces, said: String::new() }
    }

    fn of(daemon: &Daemon) -> Terminal {
        Terminal::new(&daemon.socket, &daemon.folder().join("config"))
    }

    fn type_line(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    }

    /// Waits until it has said this; returns what it said up to there since the last time.
    fn until(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.find(wanted) {
                let rest = self.said.split_off(at + wanted.len());
                return std::mem::replace(&mut self.said, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let piece = self.pieces.recv_timeout(left);
            let piece = piece.unwrap_or_else(|_| panic!("never said {wanted:?}: {:?}", self.said));
            self.said.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    /// Starts the skill and answers when asked; returns the question. The end is told as `ended CODE.`.
    fn run_and_answer(&mut self, skill: &Skill, answer: &str) -> String {
        self.start(skill, &[]);
        let asked = self.until("[N]o ");
        self.type_line(answer);
        asked
    }

    fn start(&mut self, skill: &Skill, flags: &[&str]) {
        let (program, flags) = (program().display(), flags.join(" "));
        let (manifest, tool) = (skill.manifest(), skill.tool());
        self.type_line(&format!("{program} run {flags} --manifest {manifest} -- {tool}; echo ended $?."));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command says, and that it ends well.
fn good(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.cli(arguments).output().expect("the program runs");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn json_of(text: &str) -> Json {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn grants(daemon: &Daemon) -> Vec<Json> {
    json_of(&good(daemon, &["--json", "grants"]))["grants"].as_array().cloned().expect("grants")
}

fn pending(daemon: &Daemon) -> Vec<Json> {
    json_of(&good(daemon, &["--json", "approvals"]))["requests"].as_array().cloned().expect("requests")
}

/// A run that has said `begun`.
fn begun(skill: &Skill, daemon: &Daemon) -> Child {
    let mut command = skill.run(daemon, &["--receipt"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut said = [0; 6];
    child.stdout.as_mut().expect("piped").read_exact(&mut said).expect("it has begun");
    child
}

/// The one request that waits.
fn asked(daemon: &Daemon) -> String {
    let all = pending(daemon);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0]["requestId"].as_str().expect("an id").to_owned()
}

fn ran(output: &Output) -> bool {
    output.status.success() && text(&output.stdout) == "said 42\n"
}

fn done(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

fn a_person_is_asked_and_what_they_say_is_done(daemon: &Daemon) {
    if !can_contain("a_person_is_asked_and_what_they_say_is_done") {
        return;
    }
    let skill = Skill::new();
    let mut terminal = Terminal::of(daemon);
    let asked = terminal.run_and_answer(&skill, "");
    for said in [
        "the skill tester 1.0.0 asks",
        "it is a script",
        &skill.tool(),
        "read, run /usr — to run at all",
        "[s]ession",
    ] {
        assert!(asked.contains(said), "{said}: {asked}");
    }
    terminal.until("answered no");
    terminal.until("ended 126.");
    assert!(grants(daemon).is_empty() && pending(daemon).is_empty());
    // An interruption is a no, too.
    terminal.run_and_answer(&skill, "\u{3}");
    terminal.until("ended 130.");
    assert!(grants(daemon).is_empty() && pending(daemon).is_empty());
    // What means nothing is asked again.
    terminal.run_and_answer(&skill, "yes");
    terminal.until("[N]o ");
    terminal.type_line("once");
    terminal.until("said 42");
    terminal.until("ended 0.");
    assert!(grants(daemon).is_empty(), "once is over");
    let told = good(daemon, &["--json", "events", "--reverse", "--limit", "1", "kairo.permission.revoked"]);
    assert!(told.contains("\"cause\":\"used\""), "{told}");
    terminal.run_and_answer(&skill, "s");
    terminal.until("said 42");
    terminal.until("ended 0.");
    // The same terminal isn't asked again, another one is.
    terminal.start(&skill, &[]);
    let without_question = terminal.until("ended 0.");
    assert!(without_question.contains("said 42") && !without_question.contains("[N]o"), "{without_question}");
    assert_eq!(grants(daemon)[0]["scope"], "session");
    let (manifest, tool) = (skill.manifest(), skill.tool());
    terminal.type_line(&format!(
        "{} spawn --id in --manifest {manifest} -- {tool}; echo ended $?.",
        program().display()
    ));
    let without_question = terminal.until("ended 0.");
    assert!(!without_question.contains("[N]o"), "{without_question}");
    let mut other = Terminal::of(daemon);
    other.run_and_answer(&skill, "always");
    other.until("said 42");
    other.until("ended 0.");
    assert!(ran(&done(skill.run(daemon, &[]))), "always is for everybody who may start it");
}

fn what_could_not_be_contained_is_not_asked_about(daemon: &Daemon) {
    let skill = Skill::new();
    let manifest = json!({
        "manifest": 1, "name": "tester", "version": "1.0.0", "type": "script",
        "permissions": {"connect": [{"host": "example.org", "ports": [443], "purpose": "news"}]},
    });
    fs::write(skill.manifest(), manifest.to_string()).expect("written");
    let mut terminal = Terminal::of(daemon);
    terminal.start(&skill, &[]);
    let said = terminal.until("ended 125.");
    assert!(said.contains("this machine can't enforce for tester 1.0.0: domains"), "{said}");
}

fn what_has_changed_is_asked_about_again(daemon: &Daemon) {
    if !can_contain("what_has_changed_is_asked_about_again") {
        return;
    }
    let skill = Skill::new();
    let mut terminal = Terminal::of(daemon);
    terminal.run_and_answer(&skill, "a");
    terminal.until("ended 0.");
    skill.declare("1.1.0", &["/etc"]);
    let asked = terminal.run_and_answer(&skill, "a");
    let new = asked.split("it newly reaches").nth(1).unwrap_or_else(|| panic!("nothing new: {asked}"));
    assert!(new.contains("read /etc") && !new.contains("/usr"), "{new}");
    terminal.until("ended 0.");
    let all = grants(daemon);
    let versions: Vec<_> = all.iter().map(|grant| &grant["manifest"]["version"]).collect();
    assert_eq!(versions, ["1.1.0"], "the former approval is gone");
    skill.program("echo changed $((40+2))");
    let asked = terminal.run_and_answer(&skill, "n");
    assert!(asked.contains("reaches nothing new"), "{asked}");
    terminal.until("ended 126.");
    // Its old name doesn't help: what was approved is the file's contents.
    let output = done(skill.run(daemon, &[]));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(126), String::new()));
}

fn a_binary_is_approved_by_its_contents(daemon: &Daemon) {
    if !can_contain("a_binary_is_approved_by_its_contents") {
        return;
    }
    let skill = Skill::new();
    let manifest = fs::read_to_string(skill.manifest()).expect("a manifest");
    let undeclared = manifest.replace("\"type\":\"script\",", "");
    fs::write(skill.manifest(), undeclared).expect("written");
    let output = done(skill.run(daemon, &[]));
    assert!(text(&output.stderr).contains("`type: script`"), "{}", text(&output.stderr));
    assert!(pending(daemon).is_empty(), "nobody is asked about it");
    let become_copy_of = |program: &str| {
        fs::remove_file(skill.tool()).expect("ours");
        fs::copy(program, skill.tool()).expect("copied");
    };
    become_copy_of("/bin/uname");
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "always"]);
    let output = done(skill.run(daemon, &["--receipt"]));
    assert_eq!(text(&output.stdout), "Linux\n", "{}", text(&output.stderr));
    let (manifest, tool) = (skill.manifest(), skill.tool());
    good(daemon, &["spawn", "--id", "one", "--manifest", &manifest, "--", &tool]);
    assert_eq!(done(daemon.cli(&["wait", "one"])).status.code(), Some(0));
    become_copy_of("/bin/true");
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126));
    // Approved in its place, it runs, and what was there before is asked about again.
    good(daemon, &["approve", &asked(daemon), "--scope", "always"]);
    assert!(done(skill.run(daemon, &[])).status.success());
    become_copy_of("/bin/uname");
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126));
}

fn a_run_without_a_terminal_waits_for_somebody_elsewhere(daemon: &Daemon) {
    if !can_contain("a_run_without_a_terminal_waits_for_somebody_elsewhere") {
        return;
    }
    let skill = Skill::new();
    let output = done(skill.run(daemon, &[]));
    let request = asked(daemon);
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains(&format!("kairo approve {request}")), "{}", text(&output.stderr));
    let shown = good(daemon, &["approvals", &request]);
    assert!(shown.contains("file.execute, file.read /usr — to run at all"), "{shown}");
    let mut command = skill.run(daemon, &["--wait", "1m"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut watch = daemon.cli(&["--json", "approvals", "--watch"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut watched = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next =
        || json_of(&watched.next().expect("a line").expect("text"))["request"]["requestId"].clone();
    assert_eq!(next(), request.as_str());
    assert_eq!(pending(daemon).len(), 1, "asked twice is one request");
    good(daemon, &["approve", &request, "--scope", "once"]);
    let output = waiting.wait_with_output().expect("it ends");
    assert!(ran(&output), "{}", text(&output.stderr));
    let mut command = skill.run(daemon, &["--wait", "1m", "--json"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    until("it asks", || !pending(daemon).is_empty());
    let request = asked(daemon);
    assert_eq!(next(), request.as_str());
    watch.kill().expect("ours");
    watch.wait().expect("ours");
    good(daemon, &["deny", &request, "--reason", "not today"]);
    let output = waiting.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(126), "{said}");
    let told = json_of(said.lines().last().expect("a line"));
    assert_eq!(told["error"]["code"], "E_PERMISSION_DENIED", "{said}");
    assert!(said.contains("not today"), "{said}");
    // The denial is told, and why.
    let why = good(daemon, &["why", "last"]);
    assert!(why.contains("skill:tester") && why.contains("not today"), "{why}");
    let unknown = done(daemon.cli(&["approve", &request]));
    assert!(text(&unknown.stderr).contains("kairo approvals"), "{}", text(&unknown.stderr));
}

fn a_spawned_skill_is_asked_for_and_ended_with_its_grant(daemon: &Daemon) {
    if !can_contain("a_spawned_skill_is_asked_for_and_ended_with_its_grant") {
        return;
    }
    let skill = Skill::new();
    skill.program("exec sleep 1000");
    let (manifest, tool) = (skill.manifest(), skill.tool());
    let spawn = |id: &str| {
        let words = ["spawn", "--id", id, "--manifest", &manifest, "--receipt", "--", &tool];
        done(daemon.cli(&words))
    };
    assert_eq!(spawn("one").status.code(), Some(126));
    let approve = || {
        let request = asked(daemon);
        good(daemon, &["approve", &request, "--scope", "always", "--for", "1h"]).trim().to_owned()
    };
    let grant = approve();
    let output = spawn("one");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("landlock"), "{}", text(&output.stdout));
    let status = json_of(&good(daemon, &["--json", "status", "one"]));
    assert_eq!(status["process"]["detail"]["owner"]["kind"], "owner", "{status}");
    // Kept, it goes on with what can't be taken from it; it is named.
    let said = good(daemon, &["revoke", &grant, "--keep"]);
    assert!(said.contains("one goes on, and keeps") && said.contains("file.read /usr"), "{said}");
    assert!(good(daemon, &["ps", "--quiet"]).contains("one"));
    assert_eq!(spawn("two").status.code(), Some(126), "nothing is in force any more");
    let grant = approve();
    assert!(spawn("two").status.success());
    let said = good(daemon, &["revoke", &grant]);
    assert!(said.contains("ended two"), "{said}");
    assert_eq!(done(daemon.cli(&["wait", "two"])).status.code(), Some(143));
    let gone = done(daemon.cli(&["revoke", &grant]));
    assert!(text(&gone.stderr).contains("kairo grants"), "{}", text(&gone.stderr));
    assert_eq!(spawn("three").status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "once"]);
    assert!(spawn("three").status.success());
    assert_eq!(spawn("four").status.code(), Some(126), "once is once");
}

fn each_stage_of_a_pipeline_is_contained_by_its_manifest(daemon: &Daemon) {
    if !can_contain("each_stage_of_a_pipeline_is_contained_by_its_manifest") {
        return;
    }
    let skill = Skill::new();
    let secret = daemon.folder().join("secret");
    fs::write(&secret, "a secret").expect("the folder is ours");
    skill.program(&format!("tr a-z A-Z\nread line < {} && echo $line", secret.display()));
    let other = skill.path("other").to_str().expect("text").to_owned();
    fs::rename(skill.tool(), &other).expect("ours");
    skill.program("echo said $((40+2))");
    let (manifest, tool) = (skill.manifest(), skill.tool());
    let of = |words: &[&str]| {
        let words = [words, &["--manifest", &manifest, "--", &tool, "|", &other]].concat();
        let mut command = daemon.cli(&words);
        command.env("XDG_CONFIG_HOME", daemon.folder().join("config"));
        done(command)
    };
    assert_eq!(of(&["run"]).status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "always"]);
    let output = of(&["run", "--receipt"]);
    let said = text(&output.stderr);
    assert_eq!((text(&output.stdout).as_str(), output.status.success()), ("SAID 42\n", false), "{said}");
    assert!(["pipeline.0:\n", "run:\n", "landlock"].iter().all(|part| said.contains(part)), "{said}");
    let output = of(&["spawn", "--id", "both", "--tap"]);
    assert_eq!(text(&output.stdout), "both\n", "{}", text(&output.stderr));
    assert_ne!(done(daemon.cli(&["wait", "both"])).status.code(), Some(0));
    assert_eq!(text(&done(daemon.cli(&["logs", "both.1"])).stdout), "SAID 42\n");
    for flags in [&["run", "--adapter", "auto"][..], &["spawn", "--pty"], &["spawn", "--restart", "always"]] {
        let output = of(flags);
        let said = text(&output.stderr);
        assert!(
            output.status.code() == Some(125) && said.contains(&format!("{} is for one", flags[1])),
            "{said}"
        );
    }
}

fn a_pipeline_is_asked_about_again_when_one_of_its_programs_is_another(daemon: &Daemon) {
    if !can_contain("a_pipeline_is_asked_about_again_when_one_of_its_programs_is_another") {
        return;
    }
    let skill = Skill::new();
    let other = skill.path("other").to_str().expect("text").to_owned();
    let becomes = |script: &str| {
        skill.program(script);
        fs::rename(skill.tool(), &other).expect("ours");
        skill.program("echo said $((40+2))");
    };
    becomes("tr a-z A-Z");
    let (manifest, tool) = (skill.manifest(), skill.tool());
    let of = |words: &[&str]| {
        let mut command = daemon.cli(&[words, &["--manifest", &manifest, "--", &tool, "|", &other]].concat());
        command.env("XDG_CONFIG_HOME", daemon.folder().join("config"));
        done(command)
    };
    assert_eq!(of(&["run"]).status.code(), Some(126));
    let page = good(daemon, &["approvals", &asked(daemon)]);
    let [first, second] = [&tool, &other].map(|path| format!("program {path} (sha256 "));
    assert!(page.contains(&first) && page.contains(&second) && page.contains("it is a pipeline"), "{page}");
    good(daemon, &["approve", &asked(daemon), "--scope", "always"]);
    assert_eq!(text(&of(&["run"]).stdout), "SAID 42\n");
    assert_eq!(of(&["spawn", "--id", "both"]).status.code(), Some(0));
    assert_eq!(done(daemon.cli(&["wait", "both"])).status.code(), Some(0));
    assert!(pending(daemon).is_empty(), "the same again is approved");
    becomes("tr a-z ' '");
    for words in [&["run"][..], &["spawn", "--id", "changed"]] {
        let output = of(words);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(126), ""), "{words:?}");
    }
    let request = &pending(daemon)[0];
    let programs = request["manifest"]["programs"].as_array().expect("a list");
    assert_eq!((programs.len(), &request["newly"]), (2, &json!([])));
    assert_eq!(request["changed"], json!([programs[1]]));
    let page = good(daemon, &["approvals", &asked(daemon)]);
    let new = page.lines().filter(|line| line.contains("another one than was approved"));
    assert!(new.map(|line| line.starts_with(&second)).eq([true]), "{page}");
    good(daemon, &["approve", &asked(daemon), "--scope", "always"]);
    assert_eq!(text(&of(&["run"]).stdout), "     42\n");
    // Once is one start of all of it, under the daemon as well.
    becomes("tr 0-9 x");
    assert_eq!(of(&["spawn", "--id", "once"]).status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "once"]);
    assert_eq!(text(&of(&["spawn", "--id", "once"]).stdout), "once\n");
    assert_eq!(done(daemon.cli(&["wait", "once"])).status.code(), Some(0));
    assert_eq!(text(&done(daemon.cli(&["logs", "once.1"])).stdout), "said xx\n");
    assert_eq!(of(&["spawn", "--id", "twice"]).status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "once"]);
    assert_eq!(text(&of(&["run"]).stdout), "said xx\n");
    assert_eq!(of(&["run"]).status.code(), Some(126));
}

fn what_runs_under_a_daemons_grant_ends_when_that_is_taken_back(daemon: &Daemon) {
    if !can_contain("what_runs_under_a_daemons_grant_ends_when_that_is_taken_back") {
        return;
    }
    let skill = Skill::new();
    skill.program("echo begun; exec sleep 1000");
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126));
    let start = || begun(&skill, daemon);
    let approve = || {
        let request = asked(daemon);
        good(daemon, &["approve", &request, "--scope", "always"]).trim().to_owned()
    };
    let grant = approve();
    let running = start();
    good(daemon, &["revoke", &grant]);
    let output = running.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{said}");
    assert!(
        said.contains(&grant) && said.contains("taken back by the owner") && said.contains("landlock"),
        "{said}"
    );
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126));
    let grant = approve();
    let mut running = start();
    good(daemon, &["revoke", &grant, "--keep"]);
    let mut said = String::new();
    let mut stderr = running.stderr.take().expect("piped");
    let mut piece = [0; 512];
    while !said.contains("the program goes on") {
        let got = stderr.read(&mut piece).expect("text");
        assert!(got > 0, "it ended: {said}");
        said.push_str(&text(&piece[..got]));
    }
    assert!(running.try_wait().expect("ours").is_none(), "it goes on");
    running.kill().expect("ours");
    running.wait().expect("ours");
}

fn what_was_approved_for_a_time_or_a_session_ends_with_it(daemon: &Daemon) {
    if !can_contain("what_was_approved_for_a_time_or_a_session_ends_with_it") {
        return;
    }
    let skill = Skill::new();
    let in_session = |id: &str| done(skill.run(daemon, &["--session", id]));
    assert_eq!(in_session("mine").status.code(), Some(126));
    good(daemon, &["approve", &asked(daemon), "--scope", "session"]);
    assert!(ran(&in_session("mine")) && ran(&in_session("mine")));
    assert_eq!(in_session("theirs").status.code(), Some(126), "another session is asked about");
    assert_eq!(done(skill.run(daemon, &[])).status.code(), Some(126), "so is none");
    good(daemon, &["revoke", "skill:tester"]);
    let skill = Skill::new();
    skill.program("echo begun; exec sleep 1000");
    let mut command = skill.run(daemon, &["--wait", "1m"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let is_ours = |request: &&Json| request["manifest"]["program"] == skill.tool().as_str();
    let ours = || pending(daemon).iter().find(is_ours).map(|request| request["requestId"].clone());
    until("it asks", || ours().is_some());
    let request = ours().unwrap_or_default();
    good(daemon, &["approve", request.as_str().expect("an id"), "--scope", "always", "--for", "2s"]);
    let output = running.wait_with_output().expect("it ends");
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(143), "begun\n"), "{said}");
    assert!(said.contains("its time is over"), "{said}");
}

fn agents_work_in_sessions(daemon: &Daemon) {
    assert_eq!(good(daemon, &["agent", "create", "coder", "--for", "1h"]).trim(), "agent:coder");
    let session = good(daemon, &["session", "create", "coder"]).trim().to_owned();
    good(daemon, &["spawn", "--id", "work", "--agent-session", &session, "--", "sleep", "1000"]);
    let agents = json_of(&good(daemon, &["--json", "agents"]));
    assert_eq!(agents["agents"][0]["name"], "coder", "{agents}");
    assert_eq!(agents["agents"][0]["sessions"][0]["processes"], json!(["work"]), "{agents}");
    assert!(good(daemon, &["agents"]).contains("work"));
    assert!(good(daemon, &["session", "end", &session]).contains("ended work"));
    assert_eq!(done(daemon.cli(&["wait", "work"])).status.code(), Some(143));
    good(daemon, &["agent", "create", "narrow", "--allow", "process.list"]);
    let session = good(daemon, &["session", "create", "narrow"]).trim().to_owned();
    assert!(good(daemon, &["agent", "remove", "narrow"]).contains(&session));
    let gone = done(daemon.cli(&["session", "end", &session]));
    assert!(text(&gone.stderr).contains("kairo agents"), "{}", text(&gone.stderr));
}

fn a_refusal_names_the_grant_that_would_allow_it(daemon: &Daemon) {
    let can = |words: &[&str]| {
        let output = done(daemon.cli(&[&["can"], words].concat()));
        (output.status.code(), text(&output.stdout))
    };
    assert_eq!(can(&["kernel.shutdown"]).0, Some(0));
    good(daemon, &["agent", "create", "narrow", "--allow", "process.list"]);
    assert_eq!(can(&["process.list", "--as", "agent:narrow"]).0, Some(0));
    let (code, said) = can(&["event.publish", "build.done", "--as", "agent:narrow"]);
    assert_eq!(code, Some(1), "{said}");
    let line = said.lines().find_map(|line| line.split("allowed by: kairo ").nth(1));
    let line = line.unwrap_or_else(|| panic!("no grant is named: {said}"));
    good(daemon, &line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(can(&["event.publish", "build.done", "--as", "agent:narrow"]).0, Some(0));
    assert_eq!(can(&["event.publish", "other", "--as", "agent:narrow"]).0, Some(1));
    good(daemon, &["grant", "agent:narrow", "event.publish", "build.>", "--forbid"]);
    assert_eq!(can(&["event.publish", "build.done", "--as", "agent:narrow"]).0, Some(1), "forbid wins");
    assert!(good(daemon, &["grants", "--principal", "agent:narrow"]).contains("never event.publish build.>"));
    assert_eq!(can(&["no.such.thing"]).0, Some(125));
    // What was refused to somebody is told to the owner, with the line to type.
    let mut raw = daemon.connect();
    raw.ok("identify", json!({"agentId": "narrow"}));
    good(daemon, &["spawn", "--id", "theirs", "--", "sleep", "1000"]);
    assert_eq!(raw.refused("process.kill", json!({"id": "theirs"})).code, "E_PERMISSION_DENIED");
    let why = good(daemon, &["why"]);
    assert!(why.contains("agent:narrow wanted process.control for theirs by process.kill"), "{why}");
    assert!(why.contains("it would be allowed by: kairo grant agent:narrow process.control theirs"), "{why}");
    assert_eq!(raw.refused("event.publish", json!({"type": "secret.x"})).code, "E_PERMISSION_DENIED");
    let why = good(daemon, &["why"]);
    assert!(why.contains("kairo grant agent:narrow event.publish secret.x"), "{why}");
    let told = json_of(&good(daemon, &["--json", "why", "last"]));
    let (seq, id) =
        (told["event"]["seq"].to_string(), told["event"]["id"].as_str().expect("an id").to_owned());
    for named in [seq.as_str(), &id] {
        assert_eq!(json_of(&good(daemon, &["--json", "why", named]))["event"]["id"], id.as_str());
    }
}

on_both_drivers!(
    a_person_is_asked_and_what_they_say_is_done,
    what_could_not_be_contained_is_not_asked_about,
    what_has_changed_is_asked_about_again,
    a_binary_is_approved_by_its_contents,
    a_run_without_a_terminal_waits_for_somebody_elsewhere,
    a_spawned_skill_is_asked_for_and_ended_with_its_grant,
    each_stage_of_a_pipeline_is_contained_by_its_manifest,
    a_pipeline_is_asked_about_again_when_one_of_its_programs_is_another,
    what_runs_under_a_daemons_grant_ends_when_that_is_taken_back,
    what_was_approved_for_a_time_or_a_session_ends_with_it,
    agents_work_in_sessions,
    a_refusal_names_the_grant_that_would_allow_it,
);

/// A policy file in a folder of its own.
fn policy(rules: &str) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.toml");
    fs::write(&file, rules).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let path = file.to_str().expect("text").to_owned();
    (folder, path)
}

const APPROVES: &str =
    "[[rule]]\nname = \"testers\"\neffect = \"approve\"\nprincipal = \"skill:test*\"\nscope = \"once\"\n";
const FORBIDS: &str = "[[rule]]\nname = \"no-etc\"\neffect = \"forbid\"\nprincipal = \"skill:*\"\npermission = \"file.*\"\n\
    resource = \"/etc\"\n";

#[test]
fn a_policy_decides_while_nobody_is_there() {
    if !can_contain("a_policy_decides_while_nobody_is_there") {
        return;
    }
    let (_folder, file) = policy(&format!("{APPROVES}{FORBIDS}"));
    let skill = Skill::new();
    let flags = ["--policy", &file];
    with(&Options { arguments: &flags, ..Options::plain(Driver::Poll) }, |daemon| {
        assert!(ran(&done(skill.run(daemon, &[]))));
        assert!(ran(&done(skill.run(daemon, &[]))), "once, each time");
        assert!(grants(daemon).is_empty());
        skill.declare("1.1.0", &["/etc"]);
        let output = done(skill.run(daemon, &[]));
        assert_eq!(output.status.code(), Some(126));
        assert!(text(&output.stderr).contains("policy:no-etc"), "{}", text(&output.stderr));
        let manifest = skill.manifest();
        let said = good(daemon, &["policy", "check", &file, "--manifest", &manifest]);
        assert!(said.contains("would be denied: rule no-etc"), "{said}");
        skill.declare("1.2.0", &[]);
        let said = good(daemon, &["policy", "check", &file, "--manifest", &manifest]);
        assert!(said.contains("would be approved: rule testers, scope once"), "{said}");
    });
}

#[test]
fn a_policy_that_means_nothing_starts_no_daemon() {
    let (folder, file) = policy("[[rule]]\neffect = \"aprove\"\nprincipal = \"*\"\n");
    let socket = folder.path().join("kernel.sock");
    let mut command = Command::new(program());
    command.arg("serve").arg("--socket").arg(&socket).arg("--state").arg(folder.path().join("state"));
    command.args(["--policy", &file]).env("XDG_CONFIG_HOME", folder.path());
    let output = done(command);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("policy.toml:2: rule.effect"), "{}", text(&output.stderr));
    assert!(!socket.exists());
}

#[test]
fn without_a_daemon_there_is_once_or_a_policy() {
    if !can_contain("without_a_daemon_there_is_once_or_a_policy") {
        return;
    }
    let skill = Skill::new();
    let nowhere = skill.path("no.sock");
    let run = |config: &Path| {
        let mut command = Command::new(program());
        command.args(["run", "--manifest", &skill.manifest(), "--wait", "1m", "--", &skill.tool()]);
        command.env("KAIRO_IPC_SOCKET", &nowhere).env("XDG_CONFIG_HOME", config).stdin(Stdio::null());
        done(command)
    };
    let output = run(Path::new("/nonexistent"));
    assert_eq!(output.status.code(), Some(126));
    assert!(text(&output.stderr).contains("kairo serve"), "{}", text(&output.stderr));
    let (folder, _) = policy("");
    fs::create_dir(folder.path().join("kairo")).expect("a folder");
    let beside = folder.path().join("kairo/policy.toml");
    fs::write(&beside, APPROVES).expect("written");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).expect("ours");
    let output = run(folder.path());
    assert!(ran(&output), "{}", text(&output.stderr));
    let mut terminal = Terminal::new(&nowhere, Path::new("/nonexistent"));
    terminal.start(&skill, &[]);
    let asked = terminal.until("[N]o ");
    assert!(!asked.contains("[a]lways"), "{asked}");
    terminal.type_line("o");
    terminal.until("said 42");
    terminal.until("ended 0.");
}

#[test]
fn a_daemon_that_is_killed_knows_what_was_granted() {
    if !can_contain("a_daemon_that_is_killed_knows_what_was_granted") {
        return;
    }
    let skill = Skill::new();
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    assert_eq!(done(skill.run(&daemon, &[])).status.code(), Some(126));
    good(&daemon, &["approve", &asked(&daemon), "--scope", "always"]);
    daemon.kill_and_succeed();
    assert!(ran(&done(skill.run(&daemon, &[]))));
    skill.declare("1.1.0", &[]);
    let mut command = skill.run(&daemon, &["--wait", "1m"]);
    let waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    until("it asks", || !pending(&daemon).is_empty());
    daemon.kill_and_succeed();
    until("it asks the next one", || !pending(&daemon).is_empty());
    good(&daemon, &["approve", &asked(&daemon), "--scope", "once"]);
    assert!(ran(&waiting.wait_with_output().expect("it ends")));
    skill.declare("1.0.0", &[]);
    // What runs meanwhile is ended by the next daemon's word.
    skill.program("echo begun; exec sleep 1000");
    assert_eq!(done(skill.run(&daemon, &[])).status.code(), Some(126));
    let grant = good(&daemon, &["approve", &asked(&daemon), "--scope", "always"]).trim().to_owned();
    let mut running = begun(&skill, &daemon);
    daemon.kill_and_succeed();
    assert!(running.try_wait().expect("ours").is_none(), "it goes on without a daemon");
    good(&daemon, &["revoke", &grant]);
    let output = running.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(143), "{}", text(&output.stderr));
    daemon.finish();
}

#[test]
fn once_for_a_pipeline_is_that_of_whichever_stage_is_left_under_the_next_daemon() {
    if !can_contain("once_for_a_pipeline_is_that_of_whichever_stage_is_left_under_the_next_daemon") {
        return;
    }
    let skill = Skill::new();
    let mut daemon = Daemon::start(&Options::plain(Driver::Poll));
    let (flag, other) = (skill.path("flag"), skill.path("other").to_str().expect("text").to_owned());
    fs::write(&flag, "").expect("ours");
    skill.program("cat; exec sleep 1000");
    fs::rename(skill.tool(), &other).expect("ours");
    skill.program(&format!("while test -e {}; do sleep 0.05; done", flag.display()));
    let (manifest, tool) = (skill.manifest(), skill.tool());
    let spawn = ["spawn", "--id", "once", "--manifest", &manifest, "--", &tool, "|", &other];
    assert_eq!(done(daemon.cli(&spawn)).status.code(), Some(126));
    good(&daemon, &["approve", &asked(&daemon), "--scope", "once"]);
    good(&daemon, &spawn);
    let state = |daemon: &Daemon, id: &str| {
        daemon.connect_modern().ok("process.status", json!({"id": id}))["state"].clone()
    };
    let first = daemon.connect_modern().ok("process.status", json!({"id": "once.0"}))["pid"].as_i64();
    let first = format!("/proc/{}", first.expect("it runs"));
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    fs::remove_file(&flag).expect("ours");
    until("the first stage ends without a kernel", || !Path::new(&first).exists());
    daemon.succeed(&[]);
    assert_eq!((state(&daemon, "once.0"), state(&daemon, "once.1")), (json!("exited"), json!("running")));
    assert_eq!((grants(&daemon).len(), &grants(&daemon)[0]["scope"]), (1, &json!("once")));
    assert_eq!(done(daemon.cli(&spawn)).status.code(), Some(126), "it is used");
    good(&daemon, &["kill", "once.1"]);
    until("nothing runs under it", || grants(&daemon).is_empty());
    daemon.finish();
}
