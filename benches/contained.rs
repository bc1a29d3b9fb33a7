//! Contained children from spawn to exit, eight in flight, beside the same rules without a kernel and beside bubblewrap.
//!
//! The bare contender is a process of its own that does for each child what the keeper does, and nothing else: it makes the
//! ruleset, clones as vfork does, applies the same containment with its probes, executes. Bubblewrap is given no network and a
//! read-only root, which is less than the profile denies; it is one more program for each child, as its users have it.
//! With namespaces both make a mount and a network namespace, mount one folder read-only and hide another.

use crate::support::daemon::Daemon;
use crate::support::monotonic;
use crate::support::raw::{EVENT, Raw, value};
use crate::support::report::{Bar, ROUNDS, Report};
use crate::support::roles;
use kairo_dataplane::sys::process::{Forker, Image};
use kairo_sandbox::ability::Ability;
use kairo_sandbox::containment::Containment;
use kairo_sandbox::enforce::{Filters, Ready};
use kairo_sandbox::plan::{Place, Plan};
use kairo_sandbox::wish;
use nix::sys::wait::wait;
use serde_json::{Value, json};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const CHILDREN: usize = 1_000;
const IN_FLIGHT: usize = 8;
const DENIED: usize = 30;
/// What bubblewrap is asked for beside the plain profile.
const PLAIN: [&str; 4] = ["--unshare-net", "--ro-bind", "/", "/"];

/// What a program needs to run at all, and no more.
fn profile() -> Value {
    let system = ["/usr", "/lib", "/lib64", "/bin"];
    let read = [&system[..], &["/etc/ld.so.cache"]].concat();
    json!({"files": {"read": read, "execute": system}})
}

/// The same with a folder that is kept as it is, one that isn't seen, and a network of its own.
fn divided(folder: &Path) -> Value {
    let mut wish = profile();
    wish["files"]["write"] = json!([folder]);
    wish["files"]["denyWrite"] = json!([folder.join("kept")]);
    wish["files"]["denyRead"] = json!([folder.join("hidden")]);
    wish["files"]["read"].as_array_mut().expect("a list").push(json!(folder));
    wish["network"] = json!({"private": true});
    wish
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    match daemon.connect().call("process.spawn", params("first", Some(&profile()))) {
        Ok(answer) => assert!(answer["sandbox"].is_object(), "it is contained, with a receipt: {answer}"),
        Err(error) => return println!("  this machine can't contain it: {error:?}"),
    }
    let has_bwrap = bwrap(&PLAIN).is_some();
    let (mut free, mut ours, mut bare, mut wrapped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        free.push(spawned(&daemon, &format!("free.{round}"), None));
        ours.push(spawned(&daemon, &format!("ours.{round}"), Some(&profile())));
        bare.push(by_a_role());
        wrapped.extend(if has_bwrap { bwrap(&PLAIN) } else { None });
    }
    report.row("vfork, the same rules, exec", "/s", &bare, Bar::None);
    report.row("kairo, contained", "/s", &ours, Bar::None);
    report.ratio("  beside the same rules without a kernel", &ours, &bare, Bar::AtLeast(0.85));
    report.row("kairo, not contained", "/s", &free, Bar::None);
    report.ratio("  contained beside not contained", &ours, &free, Bar::None);
    if wrapped.is_empty() {
        println!("  there is no bwrap here, or it can't run");
    } else {
        report.row("bwrap --unshare-net --ro-bind / /", "/s", &wrapped, Bar::None);
        report.ratio("  kairo beside bwrap", &ours, &wrapped, Bar::AtLeast(3.5));
        // What is left is the child: its exec, its loader, its end.
        report.ratio("  the same rules without a kernel beside bwrap", &bare, &wrapped, Bar::None);
    }
    with_namespaces(report, &daemon);
    violations(report, &daemon);
}

/// From the moment before a child does what is denied to the event that tells of it. Each child is one of its own, for what is
/// denied again and again is told together.
fn violations(report: &mut Report, daemon: &Daemon) {
    if !Ability::probe().denied_calls.allowed() {
        return println!("  this machine doesn't tell of denied calls");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut wish = profile();
    for access in ["write", "create"] {
        wish["files"][access] = json!([folder.path()]);
    }
    let script = "import socket, sys, time\nfile = open(sys.argv[1], 'w')\nprint(time.monotonic_ns(), file=file, flush=True)\n\
        try: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nexcept OSError: time.sleep(1)\n";
    let mut raw = daemon.connect();
    raw.ok("subscribe", json!({"topic": "kairo.security.violation"}));
    let mut waits = Vec::new();
    for number in 0..DENIED {
        let (id, note) = (format!("denied.{number}"), folder.path().join(number.to_string()));
        let command = json!(["/usr/bin/python3", "-c", script, &note]);
        let options = json!({"watch": true, "sandbox": wish});
        raw.ok("process.spawn", json!({"id": id, "command": command, "options": options}));
        loop {
            let frame = raw.frame().expect("the daemon stays");
            let is_told = |event: Value| {
                event["topic"] == "kairo.security.violation" && event["payload"]["id"] == json!(id)
            };
            if frame.kind == EVENT && is_told(frame.json()) {
                break;
            }
        }
        let told = monotonic().as_nanos() as f64;
        let begun = std::fs::read_to_string(&note).expect("it has noted when");
        waits.push((told - begun.trim().parse::<f64>().expect("a time")) / 1e6);
        raw.ok("process.kill", json!({"id": id, "signal": "SIGKILL"}));
    }
    report.row("a denied call, until its event", "ms", &waits, Bar::None);
    waits.sort_by(f64::total_cmp);
    report.row("  the slowest of them", "ms", &waits[waits.len() - 1..], Bar::AtMost(50.0));
}

fn with_namespaces(report: &mut Report, daemon: &Daemon) {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["kept", "hidden"] {
        std::fs::create_dir(folder.path().join(part)).expect("a folder");
    }
    let wish = divided(folder.path());
    if let Err(error) = daemon.connect().call("process.spawn", params("divided", Some(&wish))) {
        return println!("  this machine can't make namespaces: {error:?}");
    }
    let part = |name: &str| folder.path().join(name).display().to_string();
    let (kept, hidden) = (part("kept"), part("hidden"));
    let same = ["--unshare-net", "--bind", "/", "/", "--ro-bind", &kept, &kept, "--tmpfs", &hidden];
    let (mut ours, mut wrapped) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(spawned(daemon, &format!("divided.{round}"), Some(&wish)));
        wrapped.extend(bwrap(&same));
    }
    report.row("kairo, with namespaces", "/s", &ours, Bar::None);
    if !wrapped.is_empty() {
        report.row("bwrap with the same", "/s", &wrapped, Bar::None);
        report.ratio("  kairo with namespaces beside bwrap", &ours, &wrapped, Bar::AtLeast(1.3));
    }
}

fn params(id: &str, sandbox: Option<&Value>) -> Value {
    let mut params = json!({"id": id, "command": ["/bin/true"]});
    if let Some(sandbox) = sandbox {
        params["options"] = json!({"sandbox": sandbox});
    }
    params
}

/// Children a second through the daemon, counted by their exit notices.
fn spawned(daemon: &Daemon, name: &str, sandbox: Option<&Value>) -> f64 {
    let mut raw = daemon.connect();
    raw.ok("kernel.ping", json!({}));
    let requests: Vec<Value> =
        (0..CHILDREN).map(|number| params(&format!("{name}.{number}"), sandbox)).collect();
    let mut requests = requests.iter().map(value);
    let begun = Instant::now();
    let mut start = |raw: &mut Raw| {
        if let Some(request) = requests.next() {
            raw.request("process.spawn", request);
        }
    };
    (0..IN_FLIGHT).for_each(|_| start(&mut raw));
    let mut done = 0;
    while done < CHILDREN {
        let frame = raw.frame().expect("the daemon stays");
        // The text is looked for in the bytes: the client is not what is measured.
        if frame.kind == EVENT && frame.payload.windows(12).any(|window| window == b"process.exit") {
            done += 1;
            start(&mut raw);
        }
    }
    CHILDREN as f64 / begun.elapsed().as_secs_f64()
}

/// The rate that the role says.
fn by_a_role() -> f64 {
    let output = roles::command("contained", &[]).output().expect("the role runs");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().expect("a number")
}

/// Starts contained children by itself, and says how many a second that were.
pub(crate) fn play() {
    let profile = wish::read(profile()).expect("the profile is one");
    let plan = Plan::new(&profile, &Ability::probe(), &Place::default()).expect("the daemon could do it");
    let containment = Containment { kernel: false, ..plan.containment };
    let mut forker = Forker::new().expect("its descriptors are free");
    let null = File::options().read(true).write(true).open("/dev/null").expect("it is there");
    let mut filters = Filters::default();
    let mut start = || {
        let ready = Ready::new(&containment, None, &mut filters).expect("the rules are made");
        let image = Image {
            argv: b"/bin/true\0",
            env: b"",
            search_path: b"",
            stdin_file: None,
            cwd: None,
            stdio: [null.as_fd(); 3],
            terminal: false,
            credentials: None,
            rlimits: &[],
            containment: Some(&ready),
            kernel: None,
            cgroup: None,
            held: false,
            cpus: &[],
        };
        forker.spawn(&image).expect("it starts");
    };
    let begun = Instant::now();
    (0..IN_FLIGHT).for_each(|_| start());
    for done in 0..CHILDREN {
        wait().expect("a child of ours ends");
        if done + IN_FLIGHT < CHILDREN {
            start();
        }
    }
    println!("{}", CHILDREN as f64 / begun.elapsed().as_secs_f64());
}

/// Children a second, eight in flight; none if it can't be had.
fn bwrap(arguments: &[&str]) -> Option<f64> {
    let start = || {
        let mut command = Command::new("bwrap");
        command.args(arguments).arg("/bin/true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(drop)
    };
    let works = Command::new("bwrap").args(arguments).arg("/bin/true").status();
    works.ok().filter(std::process::ExitStatus::success)?;
    let count = CHILDREN / 4;
    let begun = Instant::now();
    (0..IN_FLIGHT).try_for_each(|_| start())?;
    for done in 0..count {
        wait().expect("a child of ours ends");
        if done + IN_FLIGHT < count {
            start()?;
        }
    }
    Some(count as f64 / begun.elapsed().as_secs_f64())
}
