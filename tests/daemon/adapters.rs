//! Adapters: what a program says of itself anyway is progress that everybody understands, whoever dies meanwhile.
//!
//! Most of it is shown with a script that reports as ffmpeg does, so that it is shown everywhere; ffmpeg itself where it is.

use crate::adoption::lives_on_both_drivers;
use crate::support::raw::Raw;
use crate::support::{Daemon, Driver, Options, on_both_drivers, processes, program, until, with};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

on_both_drivers!(
    percentages_are_progress_of_the_process_that_wrote_them,
    a_program_that_reports_into_a_file_is_read_and_its_file_goes_with_it,
    a_flood_and_broken_lines_keep_nobody_from_being_read,
    nobody_reads_where_nothing_is_adapted,
    real_ffmpeg_says_how_far_it_is,
);

mod lives {
    use super::*;
    lives_on_both_drivers!(a_next_kernel_reads_on);
}

/// Reports as ffmpeg does: the length on stderr, and for each line of its stdin one report into the file it is given. A
/// number is how far it is; anything else is written as it is.
const REPORTER: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    [ "$1" = -progress ] && { file=$2; shift; }
    shift
done
exec 3>"$file"
echo "  Duration: 00:00:08.00, start: 0.000000, bitrate: 427 kb/s" >&2
echo ready
while read -r word; do
    case $word in
        [0-9]*) printf 'frame=%s\nout_time_us=%s000000\nspeed=2.0x\nprogress=continue\n' "$word" "$word" >&3 ;;
        end) exit 3 ;;
        *) printf '%s\n' "$word" >&3 ;;
    esac
done
"#;

fn reporter(folder: &Path) -> PathBuf {
    let path = folder.join("ffmpeg");
    fs::write(&path, REPORTER).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("made executable");
    path
}

/// A connection that hears of progress.
fn listener(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect();
    raw.ok("subscribe", json!({"topic": "kairo.process.progress"}));
    raw
}

/// The next progress there is.
fn progress(raw: &mut Raw) -> Json {
    loop {
        let frame = raw.frame().expect("the daemon lives");
        let event = frame.json();
        if event["topic"] == "kairo.process.progress" {
            return event;
        }
    }
}

/// Progress, until it has come so far.
fn until_done(raw: &mut Raw, done: f64) -> Json {
    loop {
        let event = progress(raw);
        if event["payload"]["done"].as_f64() == Some(done) {
            return event;
        }
    }
}

fn write(daemon: &Daemon, id: &str, text: &str) {
    daemon.connect().ok("process.stdin.write", json!({"id": id, "data": text}));
}

fn sides(daemon: &Daemon) -> Vec<String> {
    let all = fs::read_dir(daemon.folder().join("state/adapters")).expect("the folder is there");
    all.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// True while the daemon has the thread that reads.
fn reads(daemon: &Daemon) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it lives");
    tasks
        .flatten()
        .any(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "adapters\n"))
}

fn percentages_are_progress_of_the_process_that_wrote_them(daemon: &Daemon) {
    let mut raw = listener(daemon);
    raw.ok("subscribe", json!({"topic": "kairo.process.spawned"}));
    let script = "while read n; do printf \" $n%%\\r\"; done";
    raw.spawn("bar", &["sh", "-c", script], json!({"adapter": "percent"}));
    let born = loop {
        let event = raw.frame().expect("the daemon lives").json();
        if event["topic"] == "kairo.process.spawned" {
            break event;
        }
    };
    for percent in ["5", "37.5", "100"] {
        write(daemon, "bar", &format!("{percent}\n"));
        let event = progress(&mut raw);
        let payload = &event["payload"];
        assert_eq!(payload["percent"].as_f64(), percent.parse().ok(), "{event}");
        assert_eq!((&payload["id"], &payload["adapter"]), (&json!("bar"), &json!("percent")));
        assert_eq!(payload["session"], born["payload"]["session"]);
        assert_eq!(payload["raw"]["percent"], percent);
        // It is part of the story that the process is part of.
        assert_eq!(event["correlationId"], born["correlationId"]);
        assert_eq!(event["causationId"], born["id"]);
    }
    let refused = raw.refused("event.publish", json!({"type": "kairo.process.progress", "data": {}}));
    assert!(format!("{refused:?}").contains("kairo.process.progress"), "{refused:?}");
    let refused = raw
        .refused("process.spawn", json!({"id": "x", "command": ["true"], "options": {"adapter": "nobody"}}));
    assert!(format!("{refused:?}").contains("options.adapter"), "{refused:?}");
}

fn a_program_that_reports_into_a_file_is_read_and_its_file_goes_with_it(daemon: &Daemon) {
    let mut raw = listener(daemon);
    let reporter = reporter(daemon.folder());
    let reporter = reporter.to_str().expect("text");
    raw.spawn("film", &[reporter, "-i", "in.mkv"], json!({"adapter": "auto"}));
    write(daemon, "film", "2\n");
    let event = until_done(&mut raw, 2.0);
    let payload = &event["payload"];
    assert_eq!((&payload["adapter"], &payload["unit"]), (&json!("ffmpeg"), &json!("s")));
    assert_eq!(payload["raw"]["frame"], "2");
    // The length came on another stream, so maybe later.
    write(daemon, "film", "4\n");
    let event = until_done(&mut raw, 4.0);
    let payload = &event["payload"];
    assert_eq!((payload["total"].as_f64(), payload["percent"].as_f64()), (Some(8.0), Some(50.0)), "{event}");
    assert_eq!((payload["rate"].as_f64(), payload["etaMs"].as_u64()), (Some(2.0), Some(2_000)));
    assert_eq!(sides(daemon).len(), 1);
    // What it was started with is what was asked for.
    let status = raw.ok("process.status", json!({"id": "film", "detail": true}));
    assert_eq!(status["detail"]["argv"], json!([reporter, "-i", "in.mkv"]), "{status}");
    write(daemon, "film", "8\nend\n");
    until_done(&mut raw, 8.0);
    until("its file is gone", || sides(daemon).is_empty());
}

fn a_flood_and_broken_lines_keep_nobody_from_being_read(daemon: &Daemon) {
    let mut raw = listener(daemon);
    raw.spawn("flood", &["yes", "no progress at all"], json!({"adapter": "percent"}));
    let reporter = reporter(daemon.folder());
    raw.spawn("film", &[reporter.to_str().expect("text")], json!({"adapter": "ffmpeg"}));
    write(daemon, "film", "nonsense\nmore nonsense\nout_time_us=never\nprogress=x\n3\n");
    let event = until_done(&mut raw, 3.0);
    assert_eq!(event["payload"]["brokenLines"], 3, "{event}");
    // Nobody waits for a parser.
    let before = raw.ok("process.status", json!({"id": "flood", "detail": true}));
    let bytes = |status: &Json| status["detail"]["streams"][0]["bytes"].as_u64().expect("a length");
    until("the flood goes on", || {
        let now = raw.ok("process.status", json!({"id": "flood", "detail": true}));
        bytes(&now) > bytes(&before) + (64 << 20)
    });
}

fn nobody_reads_where_nothing_is_adapted(daemon: &Daemon) {
    let mut raw = listener(daemon);
    raw.spawn("plain", &["echo", "50%"], json!({}));
    raw.spawn("unknown", &["sh", "-c", "echo 50%"], json!({"adapter": "auto"}));
    raw.wait_for_exit("plain");
    raw.wait_for_exit("unknown");
    assert!(!reads(daemon));
    for round in 0..3 {
        let id = format!("bar{round}");
        raw.spawn(&id, &["sh", "-c", "printf 1%%; read end"], json!({"adapter": "percent"}));
        until("somebody reads", || reads(daemon));
        write(daemon, &id, "end\n");
        // The last line had no end, and counts.
        assert_eq!(progress(&mut raw)["payload"]["percent"].as_f64(), Some(1.0));
        until("nobody reads", || !reads(daemon));
    }
}

fn a_next_kernel_reads_on(daemon: &mut Daemon) {
    let reporter = reporter(daemon.folder());
    let mut raw = listener(daemon);
    raw.spawn("film", &[reporter.to_str().expect("text")], json!({"adapter": "ffmpeg"}));
    raw.spawn("bar", &["sh", "-c", "while read n; do echo $n%; done"], json!({"adapter": "percent"}));
    write(daemon, "film", "1\n2\n");
    until_done(&mut raw, 2.0);
    write(daemon, "bar", "20\n");
    while progress(&mut raw)["payload"]["percent"].as_f64() != Some(20.0) {}
    for life in 3..=5u32 {
        daemon.kill_and_succeed();
        let mut raw = listener(daemon);
        write(daemon, "film", &format!("{life}\n"));
        write(daemon, "bar", &format!("{life}0\n"));
        let (mut film, mut bar) = (0.0, 0.0);
        while film < f64::from(life) || bar < f64::from(life * 10) {
            let event = progress(&mut raw);
            let payload = &event["payload"];
            let percent = payload["percent"].as_f64().expect("a share");
            let at = if payload["id"] == "film" { &mut film } else { &mut bar };
            let now = payload["done"].as_f64().unwrap_or(percent);
            // What was told before the kernel died is not told as news: at most where it was.
            assert!(now >= *at && percent >= f64::from(life - 1) * 10.0, "life {life}: {event}");
            *at = now;
            if payload["id"] == "film" {
                assert_eq!(payload["total"].as_f64(), Some(8.0), "what was said once is known: {event}");
            }
        }
    }
    // One that reports and ends while nobody is there is read to its end by the next.
    let status = daemon.connect().ok("process.status", json!({"id": "film"}));
    let film = status["pid"].as_i64().and_then(|pid| processes::name(pid as i32)).expect("it runs");
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let [side] = &sides(daemon)[..] else { panic!("one file") };
    let side = File::options().append(true).open(daemon.folder().join("state/adapters").join(side));
    side.expect("it is there").write_all(b"out_time_us=7000000\nprogress=continue\n").expect("it grows");
    kill(Pid::from_raw(film.pid), Signal::SIGKILL).expect("it runs");
    until("it has ended", || !processes::is_alive(film));
    daemon.succeed(&[]);
    let mut raw = daemon.connect();
    raw.ok("subscribe", json!({"topic": "kairo.process.progress", "fromSeq": 1}));
    until_done(&mut raw, 7.0);
    until("its file is gone", || sides(daemon).is_empty());
}

fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// A film of four seconds out of nothing, taken at twice its speed.
fn film(folder: &Path) -> PathBuf {
    let path = folder.join("in.mkv");
    let made = Command::new("ffmpeg")
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=160x120:rate=25:duration=4",
            "-c:v",
            "mpeg4",
        ])
        .arg(&path)
        .status();
    assert!(made.expect("ffmpeg runs").success());
    path
}

fn real_ffmpeg_says_how_far_it_is(daemon: &Daemon) {
    if !has_ffmpeg() {
        return println!("skipped, there is no ffmpeg: {:?}", std::thread::current().name());
    }
    let input = film(daemon.folder());
    let output = daemon.folder().join("out.mkv");
    let mut raw = listener(daemon);
    let words = ["ffmpeg", "-readrate", "2", "-i", input.to_str().expect("text"), "-c:v", "mpeg4"];
    let words = [&words[..], &[output.to_str().expect("text")]].concat();
    raw.spawn("film", &words, json!({"adapter": "ffmpeg", "stdin": "null"}));
    let mut last = -1.0;
    let event = loop {
        let event = progress(&mut raw);
        let done = event["payload"]["done"].as_f64().expect("a length");
        assert!(done >= last, "it goes on: {event}");
        last = done;
        if event["payload"]["raw"]["progress"] == "end" {
            break event;
        }
    };
    let payload = &event["payload"];
    assert_eq!(payload["total"].as_f64(), Some(4.0), "{event}");
    assert!(payload["percent"].as_f64().is_some_and(|percent| percent > 95.0), "{event}");
    assert_eq!((&payload["raw"]["frame"], &payload["brokenLines"]), (&json!("100"), &json!(0)));
    assert!(["fps", "out_time", "speed"].iter().all(|word| payload["raw"][*word].is_string()), "{event}");
}

/// `kairo run` with an adapter, without anybody's configuration.
fn run(arguments: &[&str], temporary: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg("run").args(arguments).env("XDG_CONFIG_HOME", "/nonexistent").env("TMPDIR", temporary);
    command.stdin(Stdio::null());
    command
}

fn done(mut command: Command) -> Output {
    command.output().expect("the program runs")
}

#[test]
fn run_passes_everything_on_and_ends_as_its_program_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "printf out; printf '10%%\\r' >&2; printf err >&2; exit 7";
    for driver in ["uring", "poll"] {
        for adapter in ["percent", "percent-stderr", "auto"] {
            let arguments = ["--driver", driver, "--adapter", adapter, "--", "sh", "-c", script];
            let output = done(run(&arguments, folder.path()));
            assert_eq!(output.status.code(), Some(7), "{adapter} on {driver}");
            assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"out"[..], &b"10%\rerr"[..]));
        }
    }
    let output = done(run(&["--adapter", "nobody", "--", "true"], folder.path()));
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left behind");
}

#[test]
fn run_shows_a_bar_on_a_terminal_and_the_output_past_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let reporter = reporter(folder.path());
    let line = format!(
        "(echo 2; sleep 1; echo end) | {} run --adapter auto -- {} -i in.mkv",
        program().display(),
        reporter.display()
    );
    // script gives the command a terminal of its own.
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("XDG_CONFIG_HOME", "/nonexistent");
    command.env("TMPDIR", folder.path()).env("TERM", "xterm").stdin(Stdio::null());
    let output = done(command);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("2 of 8 s") && said.contains("25%"), "{said:?}");
    assert!(said.contains("ready") && said.contains("Duration: 00:00:08.00"), "{said:?}");
}

#[test]
fn the_users_adapters_are_a_daemons_too_and_the_command_line_asks_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.toml");
    fs::write(&config, "").expect("written");
    let declaration = "[[adapter]]\nname = \"mine\"\nmatch = [\"sh\"]\nsource = \"stdout\"\nformat = \"json-lines\"\nunit = \"cows\"\n";
    fs::write(folder.path().join("adapters.toml"), declaration).expect("written");
    let arguments = ["--config", config.to_str().expect("text")];
    with(&Options { driver: Driver::Poll, uid: None, arguments: &arguments }, |daemon| {
        let mut raw = listener(daemon);
        let script = "echo '{\"done\": 3, \"total\": 12}'; read end";
        let spawned =
            done(daemon.cli(&["spawn", "--id", "herd", "--adapter", "auto", "--", "sh", "-c", script]));
        assert!(spawned.status.success(), "{}", String::from_utf8_lossy(&spawned.stderr));
        let event = progress(&mut raw);
        assert_eq!(
            (&event["payload"]["adapter"], &event["payload"]["unit"]),
            (&json!("mine"), &json!("cows"))
        );
        assert_eq!(event["payload"]["percent"].as_f64(), Some(25.0));
    });
    fs::write(folder.path().join("adapters.toml"), "[[adapter]]\nname = 3\n").expect("written");
    let mut command = Command::new(program());
    command.arg("serve").args(arguments).arg("--state").arg(folder.path().join("state"));
    command.arg("--socket").arg(folder.path().join("kernel.sock"));
    let refused = done(command);
    assert_eq!(refused.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("adapters.toml:2"));
}
