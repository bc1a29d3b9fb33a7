//! Raw video through three programs: joined by a shell, by plain pipes of ours, and with a tap at each edge.

use crate::support::daemon::Daemon;
use crate::support::report::{Bar, ROUNDS, Report};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Of one run: 1080p, 8 bits, 4:2:0.
const FRAMES: usize = 180;
const FRAME_BYTES: usize = 1920 * 1080 * 3 / 2;

/// A source, a filter and a sink; what they do beside moving frames is little.
fn stages() -> [Vec<String>; 3] {
    let raw = "-f rawvideo -pix_fmt yuv420p -s 1920x1080 -r 60";
    let source = format!(
        "ffmpeg -v error -nostdin -f lavfi -i testsrc2=size=1920x1080:rate=60 -frames:v {FRAMES} -pix_fmt yuv420p -f rawvideo -"
    );
    let filter = format!("ffmpeg -v error -nostdin {raw} -i - -vf hflip -f rawvideo -pix_fmt yuv420p -");
    let sink = format!("ffmpeg -v error -nostdin {raw} -i - -f null -");
    [source, filter, sink].map(|line| line.split(' ').map(str::to_owned).collect())
}

pub(crate) fn run(report: &mut Report) {
    let found = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        return println!("  skipped, there is no ffmpeg");
    }
    let daemon = Daemon::start(&[]);
    let (mut shell, mut plain, mut tapped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plain_cpu, mut tapped_cpu) = (Vec::new(), Vec::new());
    let gigabytes = (2 * FRAMES * FRAME_BYTES) as f64 / 1e9;
    for round in 0..ROUNDS {
        shell.push(by_shell());
        for (tap, rates, cpu) in [(false, &mut plain, &mut plain_cpu), (true, &mut tapped, &mut tapped_cpu)] {
            let before = daemon.cpu();
            rates.push(by_kairo(&daemon, &format!("film-{round}-{tap}"), tap));
            cpu.push((daemon.cpu() - before) / gigabytes);
        }
    }
    report.row("a shell's pipe", "frames/s", &shell, Bar::None);
    report.row("plain pipes", "frames/s", &plain, Bar::None);
    report.row("a tap at each edge", "frames/s", &tapped, Bar::None);
    report.ratio("plain pipes beside the shell", &plain, &shell, Bar::AtLeast(0.97));
    report.ratio("taps beside the shell", &tapped, &shell, Bar::AtLeast(0.97));
    report.row("daemon and keeper, plain", "CPU s/GB", &plain_cpu, Bar::None);
    report.row("daemon and keeper, taps", "CPU s/GB", &tapped_cpu, Bar::None);
}

fn by_shell() -> f64 {
    let script: Vec<String> = stages().iter().map(|stage| stage.join(" ")).collect();
    let begun = Instant::now();
    let status = Command::new("sh").args(["-c", &script.join(" | ")]).stdin(Stdio::null()).status();
    assert!(status.expect("there is a shell").success(), "ffmpeg does as it is told");
    FRAMES as f64 / begun.elapsed().as_secs_f64()
}

fn by_kairo(daemon: &Daemon, id: &str, tap: bool) -> f64 {
    let stages: Value = stages().iter().map(|command| json!({ "command": command })).collect();
    let mut raw = daemon.connect();
    let begun = Instant::now();
    raw.ok(
        "pipeline.spawn",
        json!({ "id": id, "stages": stages, "edges": [{ "tap": tap }, { "tap": tap }] }),
    );
    let ended = raw.ok("pipeline.wait", json!({ "id": id }));
    let elapsed = begun.elapsed().as_secs_f64();
    assert_eq!(ended["exitCode"], 0, "{ended}");
    FRAMES as f64 / elapsed
}
