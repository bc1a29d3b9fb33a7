//! The daemon under a service manager: the test plays the manager, with a datagram socket and a listening one.

use crate::support::raw::Raw;
use crate::support::{program, until};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("kairo-service-").tempdir().expect("a temporary folder")
}

fn serve(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(["serve", "--driver", "poll", "--cores", "2"]);
    command.arg("--socket").arg(folder.join("kernel.sock")).arg("--state").arg(folder.join("state"));
    command.env_remove("KAIRO_IPC_SOCKET").env("XDG_CONFIG_HOME", folder.join("config"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn ready(child: &mut Child) {
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its stdout is piped");
    BufReader::new(stdout).read_line(&mut line).expect("its stdout is text");
    assert!(line.contains("ready"), "it ended before it was ready");
}

fn end(folder: &Path, child: &mut Child) {
    Raw::connect(&folder.join("kernel.sock")).ok("kernel.shutdown", json!({ "graceMs": 0 }));
    let mut status = None;
    until("the kernel ends", || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()));
}

fn hear(manager: &UnixDatagram) -> String {
    let mut text = [0; 512];
    let length = manager.recv(&mut text).expect("something is told in time");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[test]
fn the_manager_hears_that_it_is_ready_that_it_lives_and_that_it_ends() {
    let folder = folder();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut command = serve(folder.path());
    let mut child =
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000").spawn().expect("it starts");
    // A sign of life may come before.
    let first =
        std::iter::repeat_with(|| hear(&manager)).find(|told| told != "WATCHDOG=1").unwrap_or_default();
    assert!(first.starts_with("READY=1\nSTATUS=serving on "), "{first}");
    for _ in 0..3 {
        assert_eq!(hear(&manager), "WATCHDOG=1");
    }
    ready(&mut child);
    // What is the manager's is not the children's, not even of one that inherits everything.
    let mut raw = Raw::connect(&folder.path().join("kernel.sock"));
    let out = folder.path().join("environment");
    let script = format!("env > {}", out.display());
    let options = json!({ "inheritEnv": true });
    raw.ok("process.spawn", json!({ "id": "env", "command": ["sh", "-c", script], "options": options }));
    raw.ok("process.wait", json!({ "id": "env" }));
    let seen = fs::read_to_string(out).expect("it has written");
    assert!(!seen.contains("NOTIFY_SOCKET") && !seen.contains("WATCHDOG"), "{seen}");
    end(folder.path(), &mut child);
    let last =
        std::iter::repeat_with(|| hear(&manager)).find(|told| told != "WATCHDOG=1").unwrap_or_default();
    assert!(last.starts_with("STOPPING=1"), "{last}");
}

#[test]
fn a_socket_that_was_passed_is_served_and_left_where_it_is() {
    let folder = folder();
    let path = folder.path().join("kernel.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    for _ in 0..2 {
        // Who comes before the daemon waits and is served.
        let mut early = Raw::connect(&path);
        let call = early.request("kernel.ping", rmpv::Value::Map(Vec::new()));
        let mut command = Command::new("sh");
        let passed = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=kairo exec \"$@\"";
        command.args(["-c", passed, "sh"]).arg(program()).args(["serve", "--driver", "poll", "--cores", "1"]);
        command.arg("--socket").arg(folder.path().join("elsewhere.sock"));
        command.arg("--state").arg(folder.path().join("state"));
        command.env_remove("KAIRO_IPC_SOCKET").env("XDG_CONFIG_HOME", folder.path().join("config"));
        let given = OwnedFd::from(listener.try_clone().expect("a copy"));
        command.stdin(Stdio::from(given)).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("it starts");
        ready(&mut child);
        early.answer(call).expect("it is served");
        // Children are told where the daemon really listens.
        let out = folder.path().join("told");
        let script = format!("echo $KAIRO_IPC_SOCKET > {}", out.display());
        early.ok("process.spawn", json!({ "id": "c", "command": ["sh", "-c", script] }));
        early.ok("process.wait", json!({ "id": "c" }));
        let told = fs::read_to_string(&out).expect("it has written");
        assert_eq!(Some(told.trim_end()), path.to_str());
        assert!(!folder.path().join("elsewhere.sock").exists());
        end(folder.path(), &mut child);
        assert!(path.exists(), "the socket is the manager's");
    }
}

#[test]
fn what_is_no_listening_socket_is_refused_by_name() {
    let folder = folder();
    let mut command = Command::new("sh");
    let passed = "exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    command
        .args(["-c", passed, "sh"])
        .arg(program())
        .args(["serve", "--state"])
        .arg(folder.path().join("state"));
    let output = command.arg("--socket").arg(folder.path().join("s")).output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("ListenStream"), "{text}");
    assert_eq!(output.status.code(), Some(125));
}

/// `KEY=value` of a unit's section.
fn setting<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn the_units_we_ship_start_what_there_is_in_a_way_that_spares_the_keeper() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/systemd");
    let help = Command::new(program()).args(["serve", "--help"]).output().expect("it ends").stdout;
    let help = String::from_utf8(help).expect("help is text");
    for place in ["", "user"] {
        let copies = folder();
        let read = |name: &str| fs::read_to_string(shipped.join(place).join(name)).expect("it is shipped");
        let (service, socket) = (read("kairo.service"), read("kairo.socket"));
        assert_eq!(setting(&service, "KillMode"), Some("process"));
        assert_eq!(setting(&service, "Type"), Some("notify"));
        assert!(setting(&service, "WatchdogSec").is_some());
        assert_eq!(setting(&socket, "FileDescriptorName"), Some("kairo"));
        let start = setting(&service, "ExecStart").expect("it starts something");
        let mut words = start.split(' ');
        assert_eq!((words.next(), words.next()), (Some("/usr/bin/kairo"), Some("serve")));
        for flag in words.clone().filter(|word| word.starts_with("--")) {
            assert!(help.contains(flag), "there is no {flag}");
        }
        let listens = setting(&socket, "ListenStream").expect("it listens");
        assert!(start.contains(listens), "both name the same socket");
        // systemd itself has the last word where there is one; it wants the program to be there.
        let ours = service.replace("/usr/bin/kairo", program().to_str().expect("a path of text"));
        fs::write(copies.path().join("kairo.service"), ours).expect("a copy");
        fs::write(copies.path().join("kairo.socket"), socket).expect("a copy");
        let mut verify = Command::new("systemd-analyze");
        verify.arg("verify").args(["kairo.service", "kairo.socket"].map(|name| copies.path().join(name)));
        match verify.output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let about_us: Vec<&str> = said.lines().filter(|line| line.contains("kairo.s")).collect();
                assert!(about_us.is_empty(), "{about_us:?}");
            }
            Err(_) => println!("there is no systemd-analyze here: only our own check"),
        }
    }
    let limits = fs::read_to_string(shipped.join("kairo.service.d/limits.conf")).expect("it is shipped");
    // The name the keeper would give that part itself.
    assert_eq!(setting(&limits, "DelegateSubgroup"), Some(kairo_sandbox::ability::LEAF));
}
