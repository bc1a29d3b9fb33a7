//! Streams with a name in the file system: any program reads them, and the name is gone with the first.

use crate::open::{by, connect, id, kill, spawn, spawn_ready, spawn_with, tell};
use crate::support::raw::EVENT;
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{
    Daemon, Driver, NOBODY, Options, needs_root, on_both_drivers, pattern, program, python, until, with,
};
use kairo_client::Client;
use kairo_wire::error::Code;
use kairo_wire::methods::open::{Close, OpenParams, OpenStdinParams, StdinTransport, Transport};
use kairo_wire::methods::options::{HistoryOption, SpawnOptions};
use kairo_wire::methods::process::{Status, StatusParams, StdinClose, TargetParams, Wait, WaitParams};
use kairo_wire::methods::stream::{Policy, Start, UnsubscribeParams};
use nix::sys::signal::Signal;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const BLOCKS: &str = "256";
const TOTAL: usize = 256 * BLOCK_BYTES;

fn fifo(name: &str) -> OpenParams {
    by(name, Transport::Fifo)
}

fn path_of(client: &Client, params: &OpenParams) -> PathBuf {
    client.open_fifo(params).expect("it opens").1
}

fn whole(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(path).expect("it is there").read_to_end(&mut bytes).expect("it can be read");
    bytes
}

pub(crate) fn stdin(name: &str) -> OpenStdinParams {
    OpenStdinParams { id: id(name), transport: StdinTransport::Fifo, keep_open: false, wait_ms: None }
}

fn said_so_far(client: &Client, name: &str) -> u64 {
    let status = client.call::<Status>(&StatusParams { id: id(name), detail: true }).expect("it is known");
    status.detail.expect("it is ours").streams[0].bytes
}

fn folder(daemon: &Daemon) -> PathBuf {
    daemon.folder().join("kernel.sock.fifos")
}

/// Names in the folders of all users.
fn names(daemon: &Daemon) -> usize {
    let users = fs::read_dir(folder(daemon)).expect("it is there").flatten();
    users.map(|user| fs::read_dir(user.path()).expect("ours").count()).sum()
}

fn readers(client: &Client, name: &str) -> usize {
    let status = client.call::<Status>(&StatusParams { id: id(name), detail: true }).expect("it is known");
    status.detail.expect("it is ours").readers.len()
}

/// What a shell writes.
fn shell(daemon: &Daemon, script: &str) -> String {
    let mut command = Command::new("bash");
    command.args(["-ec", script]).env("KAIRO_IPC_SOCKET", &daemon.socket).env("kairo", program());
    let output = command.stdin(Stdio::null()).output().expect("bash is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn any_program_reads_a_stream_by_its_path(daemon: &Daemon) {
    let client = connect(daemon);
    let mut expected = Command::new(python());
    expected.args(&sequence::argv(BLOCKS)[1..]);
    let sum = format!("{:x}", Sha256::digest(expected.output().expect("it runs").stdout));
    for name in ["cat", "python", "late"] {
        spawn(&client, name, &sequence::argv(BLOCKS));
    }
    assert_eq!(shell(daemon, r#"cat "$("$kairo" open cat)" | sha256sum"#), format!("{sum}  -"));
    let python = format!(
        r#"{} -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$("$kairo" open python)""#,
        python()
    );
    assert_eq!(shell(daemon, &python), sum);
    // Who comes when all is over has what there is, and the end.
    spawn(&client, "short", &["sh", "-c", "echo hello; echo there >&2"]);
    client.call::<Wait>(&WaitParams { id: id("short"), timeout_ms: None }).expect("it ends");
    assert_eq!(shell(daemon, r#"cat "$("$kairo" open short)""#), "hello");
    assert_eq!(shell(daemon, r#"cat "$("$kairo" open --stream stderr short)""#), "there");
    assert_eq!(shell(daemon, r#"cat "$("$kairo" open --from 2 short)""#), "llo");
    assert_eq!(names(daemon), 0, "all were opened");
    let told = shell(daemon, r#""$kairo" open --json late"#);
    let told: serde_json::Value = serde_json::from_str(&told).expect("an object");
    assert_eq!((&told["v"], &told["transport"]), (&1.into(), &"fifo".into()));
    let path = Path::new(told["path"].as_str().expect("a path"));
    let found = path.symlink_metadata().expect("it is there");
    let of_user = path.parent().expect("a folder").symlink_metadata().expect("it is there");
    let uid = nix::unistd::geteuid().as_raw();
    assert!(found.file_type().is_fifo() && of_user.is_dir());
    assert_eq!((found.mode() & 0o777, found.uid()), (0o400, uid));
    assert_eq!((of_user.mode() & 0o777, of_user.uid()), (0o700, uid));
    assert_eq!(format!("{:x}", Sha256::digest(whole(path))), sum);
}

fn ffmpeg_reads_raw_video_by_a_path(daemon: &Daemon) {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        return println!("skipped, there is no ffmpeg");
    }
    let source = "-v error -nostdin -f lavfi -i testsrc2=s=160x90:r=25:d=2 -pix_fmt yuv420p -f rawvideo";
    let direct = shell(daemon, &format!("ffmpeg {source} -f md5 -"));
    let client = connect(daemon);
    let argv: Vec<&str> = ["ffmpeg"].into_iter().chain(source.split(' ')).chain(["-"]).collect();
    spawn(&client, "cam", &argv);
    let format = "-f rawvideo -pix_fmt yuv420p -s 160x90 -r 25";
    let read = format!(r#"ffmpeg -v error -nostdin {format} -i "$("$kairo" open cam)" -f rawvideo -f md5 -"#);
    assert_eq!(shell(daemon, &read), direct);
}

fn it_is_one_readers_and_outlives_who_asked_for_it(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    spawn_ready(&client, "writer");
    let path = path_of(&other, &fifo("writer"));
    let waiting = path_of(&client, &fifo("writer"));
    drop(other);
    until("the connection is gone", || readers(&client, "writer") == 2);
    let mut first = File::open(&path).expect("it is there");
    until("its name is gone", || !path.exists());
    assert_eq!(File::open(&path).expect_err("another finds nothing").kind(), std::io::ErrorKind::NotFound);
    tell(&client, "writer");
    let mut bytes = vec![0; 64 << 10];
    first.read_exact(&mut bytes).expect("it comes");
    sequence::check(&bytes, 0);
    // It leaves in the middle, and nobody else feels it.
    drop(first);
    let bytes = whole(&waiting);
    assert_eq!(bytes.len(), TOTAL);
    sequence::check(&bytes, 0);
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0);
    until("nobody reads any more", || readers(&client, "writer") == 0);
}

fn one_nobody_opens_goes_in_time_and_holds_up_nobody_longer(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("writer", &sequence::argv(BLOCKS), json!({}));
    let opened = raw.ok("stream.open", json!({"id": "writer", "transport": "fifo", "waitMs": 200}));
    let path = PathBuf::from(opened["path"].as_str().expect("a path"));
    assert!(path.exists());
    let end = loop {
        let frame = raw.frame().expect("it is told");
        let event = if frame.kind == EVENT { frame.json() } else { continue };
        if event["topic"] == "stream.end" {
            break event["data"].clone();
        }
    };
    assert_eq!((&end["subscriptionId"], &end["reason"]), (&opened["subscriptionId"], &json!("unopened")));
    assert!(!path.exists());
    // It has waited for that reader, and for nobody since.
    let client = connect(daemon);
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0);
    // Closed by name, by another connection of the same principal: whoever reads finds the end of what was sent.
    spawn(&client, "yes", &["yes"]);
    let (result, path) = connect(daemon).open_fifo(&fifo("yes")).expect("it opens");
    let mut reader = File::open(path).expect("it is there");
    let mut some = [0; 1_000];
    reader.read_exact(&mut some).expect("something comes");
    let params = UnsubscribeParams { subscription_id: result.subscription_id };
    assert!(client.call::<Close>(&params).expect("it is there").ok);
    reader.read_to_end(&mut Vec::new()).expect("it ends");
    assert!(!client.call::<Close>(&params).expect("it is over").ok);
    kill(&client, "yes");
}

fn a_stream_of_which_nothing_is_kept_goes_by_a_path_too(daemon: &Daemon) {
    let client = connect(daemon);
    let argv = sequence::argv_once_told(BLOCKS);
    let none = SpawnOptions { history: HistoryOption::None, ..SpawnOptions::default() };
    spawn_with(&client, "relay", &argv, none);
    let paths = [0, 1].map(|_| path_of(&client, &OpenParams { from: Start::Now, ..fifo("relay") }));
    tell(&client, "relay");
    std::thread::scope(|scope| {
        let threads = paths.each_ref().map(|path| scope.spawn(|| whole(path)));
        for thread in threads {
            let bytes = thread.join().expect("it reads");
            assert_eq!(bytes.len(), TOTAL);
            sequence::check(&bytes, 0);
        }
    });
}

fn who_reads_from_disk_by_a_path_has_all_of_it(daemon: &Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("long", &sequence::argv(BLOCKS), json!({"spool": true}));
    raw.wait_for_exit("long");
    let client = connect(daemon);
    for transport in [Transport::Fifo, Transport::Pipe, Transport::Socket] {
        let params = OpenParams { policy: Policy::Spool, ..by("long", transport) };
        let bytes = match transport {
            Transport::Fifo => whole(&path_of(&client, &params)),
            _ => {
                let [descriptor] = <[_; 1]>::try_from(client.open(&params).expect("it opens").descriptors)
                    .expect("one descriptor");
                let mut bytes = Vec::new();
                File::from(descriptor).read_to_end(&mut bytes).expect("it can be read");
                bytes
            }
        };
        assert_eq!(bytes.len(), TOTAL, "{}", transport.word());
        sequence::check(&bytes, 0);
    }
}

fn what_a_fifo_can_not_be_is_refused_by_name(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "sleep", &["sleep", "1000"]);
    let refused = |params: OpenParams, code: Code, field: &str| {
        let error = client.open(&params).expect_err("it can't be");
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    };
    refused(OpenParams { policy: Policy::Latest, ..fifo("sleep") }, Code::Unsupported, "policy");
    refused(OpenParams { policy: Policy::Spool, ..fifo("sleep") }, Code::Conflict, "policy");
    for wait_ms in [0, 3_600_001] {
        refused(OpenParams { wait_ms: Some(wait_ms), ..fifo("sleep") }, Code::InvalidParams, "waitMs");
    }
    let piped = by("sleep", Transport::Pipe);
    refused(OpenParams { wait_ms: Some(1), ..piped.clone() }, Code::InvalidParams, "waitMs");
    refused(OpenParams { policy: Policy::Latest, ..piped }, Code::Unsupported, "policy");
    refused(fifo("nobody"), Code::NotFound, "nobody");
    kill(&client, "sleep");
}

/// The sum a process has printed of what it read.
pub(crate) fn said(client: &Client, name: &str) -> String {
    let bytes = whole(&path_of(client, &fifo(name)));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn any_program_writes_a_stdin_by_its_path(daemon: &Daemon) {
    let client = connect(daemon);
    let bytes = pattern::bytes(0, 8 << 20);
    let sum = format!("{:x}", Sha256::digest(&bytes));
    let source = daemon.folder().join("source");
    fs::write(&source, &bytes).expect("it can be written");
    let summer = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())";
    // Each waits a little before it reads, and nobody loses a byte.
    let slow = format!("import time; time.sleep(0.2)\n{summer}");
    for (name, program) in [("quick", summer), ("slow", &slow)] {
        spawn(&client, name, &[python(), "-c", program]);
        let source = source.display();
        shell(daemon, &format!(r#"cat {source} > "$("$kairo" open --stdin {name})""#));
        assert_eq!(said(&client, name), sum);
        let status = client.call::<Status>(&StatusParams { id: id(name), detail: true }).expect("known");
        let stdin = status.detail.expect("ours").stdin;
        assert_eq!(stdin.bytes, 8 << 20, "what goes in is counted");
    }
    assert_eq!(names(daemon), 0);
    // Its end is no end, if that was wished: others go on writing.
    spawn(&client, "cat", &["cat"]);
    shell(daemon, r#"printf one > "$("$kairo" open --stdin --keep-open cat)""#);
    let mut path = None;
    until("the way is free again", || {
        path = client.open_stdin_fifo(&stdin("cat")).ok().map(|(_, path)| path);
        path.is_some()
    });
    // Nothing at all is written there, which is an end, too.
    drop(File::options().write(true).open(path.expect("a path")).expect("it is there"));
    let exit = client.call::<Wait>(&WaitParams { id: id("cat"), timeout_ms: None }).expect("it ends");
    assert_eq!((exit.exit_code, said(&client, "cat").as_str()), (0, "one"));
}

fn a_way_in_is_one_programs_and_goes_when_nobody_comes(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    spawn(&client, "cat", &["cat"]);
    let (result, path) = other.open_stdin_fifo(&stdin("cat")).expect("it is ours");
    assert!(result.descriptors.is_empty() && result.offset == 0);
    let error = client.open_stdin_fifo(&stdin("cat")).expect_err("there is one");
    assert_eq!(error.code(), Some(Code::WouldBlock));
    drop(other);
    let mut writer = File::options().write(true).open(&path).expect("it outlives who asked");
    until("its name is gone", || !path.exists());
    writer.write_all(b"first ").expect("it is read");
    // Others may write, too; what they write comes in between.
    until("the first is in", || {
        let status = client.call::<Status>(&StatusParams { id: id("cat"), detail: true }).expect("known");
        status.detail.is_some_and(|detail| detail.stdin.bytes == 6)
    });
    tell(&client, "cat");
    writer.write_all(b"last").expect("it is read");
    drop(writer);
    assert_eq!(said(&client, "cat"), "first go\nlast");
    spawn(&client, "other", &["cat"]);
    let brief = OpenStdinParams { wait_ms: Some(50), ..stdin("other") };
    let (_, path) = client.open_stdin_fifo(&brief).expect("it is ours");
    until("nobody came", || !path.exists());
    // Its stdin is as it was; whoever writes when it is closed finds a broken pipe.
    let (_, path) = client.open_stdin_fifo(&stdin("other")).expect("it is ours");
    let mut writer = File::options().write(true).open(&path).expect("it is there");
    writer.write_all(b"x").expect("it is read");
    until("it has come", || said_so_far(&client, "other") == 1);
    client.call::<StdinClose>(&TargetParams { id: id("other") }).expect("it is ours");
    until("nobody reads any more", || writer.write_all(b"y").is_err());
    let refused = |params: &OpenStdinParams, code: Code, field: &str| {
        let error = client.open_stdin_fifo(params).expect_err("it can't be");
        assert!(error.code() == Some(code) && error.to_string().contains(field), "{error}");
    };
    refused(&stdin("other"), Code::StdinClosed, "other");
    spawn(&client, "sleep", &["sleep", "1000"]);
    refused(&OpenStdinParams { wait_ms: Some(0), ..stdin("sleep") }, Code::InvalidParams, "waitMs");
    kill(&client, "sleep");
}

on_both_drivers!(
    who_reads_from_disk_by_a_path_has_all_of_it,
    any_program_writes_a_stdin_by_its_path,
    a_way_in_is_one_programs_and_goes_when_nobody_comes,
    any_program_reads_a_stream_by_its_path,
    ffmpeg_reads_raw_video_by_a_path,
    it_is_one_readers_and_outlives_who_asked_for_it,
    one_nobody_opens_goes_in_time_and_holds_up_nobody_longer,
    a_stream_of_which_nothing_is_kept_goes_by_a_path_too,
    what_a_fifo_can_not_be_is_refused_by_name,
);

fn kernels_come_and_go(driver: Driver) {
    let mut daemon = Daemon::start(&Options::plain(driver));
    let client = connect(&daemon);
    for name in ["begun", "late", "never"] {
        spawn(&client, name, &sequence::argv(BLOCKS));
    }
    spawn(&client, "cat", &["cat"]);
    let [begun, late, never] = ["begun", "late", "never"].map(|name| path_of(&client, &fifo(name)));
    let mut begun = File::open(begun).expect("it is there");
    let mut bytes = vec![0; 64 << 10];
    begun.read_exact(&mut bytes).expect("something comes");
    let (_, way) = client.open_stdin_fifo(&stdin("cat")).expect("it is ours");
    let mut writer = File::options().write(true).open(way).expect("it is there");
    writer.write_all(b"all of it\n").expect("it is read");
    until("it is in", || said_so_far(&client, "cat") == 10);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    // Nobody reads, and nobody has hung up.
    writer.write_all(b"still ").expect("it goes on");
    // Nobody waits, even now.
    let mut late = File::open(&late).expect("it is there");
    assert!(never.exists(), "a killed kernel removes nothing");
    daemon.succeed(&[]);
    assert_eq!((never.exists(), names(&daemon)), (false, 0));
    begun.read_to_end(&mut bytes).expect("it goes on");
    assert_eq!(bytes.len(), TOTAL);
    sequence::check(&bytes, 0);
    bytes.clear();
    late.read_to_end(&mut bytes).expect("it goes on");
    assert_eq!(bytes.len(), TOTAL);
    sequence::check(&bytes, 0);
    let client = connect(&daemon);
    until("nobody is waited for who never came", || readers(&client, "never") == 0);
    kill(&client, "never");
    writer.write_all(b"and more").expect("it goes on");
    drop(writer);
    assert_eq!(said(&client, "cat"), "all of it\nstill and more");
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    assert!(!folder(&daemon).exists());
    daemon.succeed(&[]);
    daemon.finish();
}

/// A kernel that goes politely takes the names along; what a killed one leaves, the next one clears. Whoever has opened one
/// has every byte.
#[test]
fn a_kernel_that_goes_leaves_no_name() {
    [Driver::Uring, Driver::Poll]
        .into_iter()
        .filter(|driver| driver.is_available())
        .for_each(kernels_come_and_go);
}

/// Who serves many users gives each its own, which no other can enter.
#[test]
fn a_fifo_is_the_user_s_who_asked_for_it() {
    if !needs_root("a_fifo_is_the_user_s_who_asked_for_it") {
        return;
    }
    let arguments = ["--group", "nogroup"];
    with(&Options { arguments: &arguments, ..Options::plain(Driver::Poll) }, |daemon| {
        fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).expect("the folder is ours");
        let nobody = |arguments: &[&str]| {
            let mut command = daemon.cli(arguments);
            let output = command.current_dir("/").uid(NOBODY).gid(NOBODY).output().expect("it runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text").trim().to_owned()
        };
        nobody(&["spawn", "--id", "nobodys", "--cwd", "/", "--", "sh", "-c", "echo hello"]);
        let path = PathBuf::from(nobody(&["open", "nobodys"]));
        let client = connect(daemon);
        spawn(&client, "roots", &["sleep", "1000"]);
        let roots = path_of(&client, &fifo("roots"));
        for (path, uid) in [(&path, NOBODY), (&roots, 0)] {
            let (found, parent) = (fs::metadata(path), fs::metadata(path.parent().expect("a folder")));
            let (found, parent) = (found.expect("it is there"), parent.expect("it is there"));
            assert_eq!((found.uid(), found.mode() & 0o777), (uid, 0o400));
            assert_eq!((parent.uid(), parent.mode() & 0o777), (uid, 0o700));
        }
        assert_eq!(fs::metadata(folder(daemon)).expect("it is there").mode() & 0o777, 0o711);
        let cat = |path: &Path| {
            let mut command = Command::new("cat");
            command.arg(path).uid(NOBODY).gid(NOBODY).output().expect("it runs")
        };
        assert!(!cat(&roots).status.success() && roots.exists(), "another one's can't be opened");
        assert_eq!(cat(&path).stdout, b"hello\n");
        kill(&client, "roots");
    });
}
