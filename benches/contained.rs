//! Contained children from spawn to exit, eight in flight, beside the same rules without a kernel and beside bubblewrap.
//!
//! The bare contender is a process of its own that does for each child what the keeper does, and nothing else: it makes the
//! ruleset, clones as vfork does, applies the same containment with its probes, executes. Bubblewrap is given no network and a
//! read-only root, which is less than the profile denies; it is one more program for each child, as its users have it.

use crate::support::daemon::Daemon;
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
use std::process::{Command, Stdio};
use std::time::Instant;

const CHILDREN: usize = 1_000;
const IN_FLIGHT: usize = 8;

/// What a program needs to run at all, and no more.
fn profile() -> Value {
    let system = ["/usr", "/lib", "/lib64", "/bin"];
    let read = [&system[..], &["/etc/ld.so.cache"]].concat();
    json!({"files": {"read": read, "execute": system}})
}

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    if let Err(error) = daemon.connect().call("process.spawn", params("first")) {
        return println!("  this machine can't contain it: {error:?}");
    }
    let has_bwrap = bwrap().is_some();
    let (mut free, mut ours, mut bare, mut wrapped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        free.push(spawned(&daemon, round, false));
        ours.push(spawned(&daemon, round, true));
        bare.push(by_a_role());
        wrapped.extend(if has_bwrap { bwrap() } else { None });
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
    }
}

fn params(id: &str) -> Value {
    json!({"id": id, "command": ["/bin/true"], "sandbox": profile()})
}

/// Children a second through the daemon, counted by their exit notices.
fn spawned(daemon: &Daemon, round: usize, contained: bool) -> f64 {
    let mut raw = daemon.connect();
    raw.ok("kernel.ping", json!({}));
    let requests: Vec<Value> = (0..CHILDREN)
        .map(|number| {
            let id = format!("{round}.{contained}.{number}");
            if contained { params(&id) } else { json!({"id": id, "command": ["/bin/true"]}) }
        })
        .collect();
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
            cwd: None,
            stdio: [null.as_fd(); 3],
            terminal: false,
            credentials: None,
            rlimits: &[],
            containment: Some(&ready),
            kernel: None,
            cgroup: None,
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
fn bwrap() -> Option<f64> {
    let start = || {
        let mut command = Command::new("bwrap");
        command.args(["--unshare-net", "--ro-bind", "/", "/", "/bin/true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(drop)
    };
    let works = Command::new("bwrap").args(["--unshare-net", "--ro-bind", "/", "/", "/bin/true"]).status();
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
