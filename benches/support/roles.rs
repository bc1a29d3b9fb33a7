//! The other parts this program plays: writers, bare echo servers, the tokio program.
//!
//! Each is one process with one job, started as `bars --role NAME …`, so that a baseline and a contender are fed
//! by the same writer.

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, Signal};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// Bytes of one write of a writer.
pub(crate) const WRITE_BYTES: usize = 64 * 1024;
/// Size of every pipe in a bulk bench.
pub(crate) const PIPE_BYTES: i32 = 1 << 20;
/// A line, its end included.
pub(crate) const LINE_BYTES: usize = 80;
/// The longest data the tokio program puts into a frame, as the kernel does when asked for large chunks.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// This program in a role, as a command line.
pub(crate) fn argv(role: &str, arguments: &[&str]) -> Vec<String> {
    let own = std::env::current_exe().expect("a running program has a path").display().to_string();
    let head = [own, "--role".to_owned(), role.to_owned()];
    head.into_iter().chain(arguments.iter().map(|argument| (*argument).to_owned())).collect()
}

/// The same, to be started.
pub(crate) fn command(role: &str, arguments: &[&str]) -> Command {
    let argv = argv(role, arguments);
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).stdin(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Plays a role to its end.
pub(crate) fn play(arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<u64>().expect("a role's figures are numbers");
    match arguments[0].as_str() {
        "writer" => write_bulk(number(1), &vec![b'x'; WRITE_BYTES]),
        "lines" => write_bulk(number(1), &lines_block()),
        "pong" => pong(number(1) as usize, number(2) as usize),
        "contained" => crate::contained::play(),
        "log" => crate::log::play(&arguments[1..]),
        "tokio" => tokio_relay(&arguments[1]),
        "tokio-many" => crate::many::play(number(1) as usize, arguments[2] == "splice"),
        "ticker" => tick(number(1)),
        "mortal" => mortal(std::path::Path::new(&arguments[1])),
        other => panic!("there is no role called {other}"),
    }
}

/// Waits for SIGTERM, notes in `file` when it came, and ends. The file is there, and empty, when the signal may come.
fn mortal(file: &std::path::Path) {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().expect("a signal can be blocked");
    std::fs::write(file, "").expect("the folder is ours");
    signals.wait().expect("a signal can be waited for");
    std::fs::write(file, super::monotonic().as_nanos().to_string()).expect("the folder is ours");
}

/// Writes the time of the clock, and sleeps until everybody else does.
fn tick(writes: u64) {
    // Not by way of the standard library's buffer, which cuts at line ends.
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().expect("stdout can be duplicated");
    let mut out = std::fs::File::from(stdout);
    for _ in 0..writes {
        std::thread::sleep(std::time::Duration::from_millis(3));
        let now = (super::monotonic().as_nanos() as u64).to_ne_bytes();
        if out.write_all(&now).is_err() {
            return;
        }
    }
}

/// Whole lines, as many as end with a write's end after a whole number of writes.
fn lines_block() -> Vec<u8> {
    let line: Vec<u8> = std::iter::repeat_n(b'l', LINE_BYTES - 1).chain([b'\n']).collect();
    line.repeat(WRITE_BYTES)
}

/// Writes the block over and over, in writes of 64 KiB, until `total` bytes are out.
fn write_bulk(total: u64, block: &[u8]) {
    let stdout = std::io::stdout();
    // A pipe is made as large as the bench wants it; a terminal is what it is.
    let _ = fcntl(stdout.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    let mut out = std::fs::File::from(stdout.as_fd().try_clone_to_owned().expect("stdout can be duplicated"));
    let (mut left, mut at) = (total, 0);
    while left > 0 {
        let length = (WRITE_BYTES as u64).min(left).min((block.len() - at) as u64) as usize;
        if out.write_all(&block[at..at + length]).is_err() {
            return;
        }
        left -= length as u64;
        at = (at + length) % block.len();
    }
}

/// Answers each `request_bytes` that come with `reply_bytes`, in as few writes as they came in reads.
fn pong(request_bytes: usize, reply_bytes: usize) {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin can be duplicated");
    let mut socket = UnixStream::from(stdin);
    let mut requests = vec![0; 64 * 1024];
    let replies = vec![7; (requests.len() / request_bytes + 1) * reply_bytes];
    let mut pending = 0;
    loop {
        match socket.read(&mut requests) {
            Ok(0) | Err(_) => return,
            Ok(got) => pending += got,
        }
        let whole = pending / request_bytes;
        pending -= whole * request_bytes;
        if socket.write_all(&replies[..whole * reply_bytes]).is_err() {
            return;
        }
    }
}

/// What one would write with tokio: read the child's pipe, put a frame around it, write it to the socket.
fn tokio_relay(total: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().expect("stdin can be duplicated");
        let socket = UnixStream::from(stdin);
        socket.set_nonblocking(true).expect("a socket can be non-blocking");
        let mut socket = tokio::net::UnixStream::from_std(socket).expect("a socket joins the runtime");
        let argv = argv("writer", &[total]);
        let mut command = tokio::process::Command::new(&argv[0]);
        let mut child =
            command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
        let mut stdout = child.stdout.take().expect("its stdout is piped");
        let prelude = prelude();
        let mut frame = vec![0; 8 + prelude.len() + 4 + CHUNK_BYTES_MAX];
        let data_at = 8 + prelude.len() + 4;
        loop {
            let got = stdout.read(&mut frame[data_at..]).await.expect("a pipe is readable");
            if got == 0 {
                break;
            }
            let length = (prelude.len() + 4 + got) as u32;
            frame[..4].copy_from_slice(&[0x4b, 0x41, 1, 4]);
            frame[4..8].copy_from_slice(&length.to_be_bytes());
            frame[8..8 + prelude.len()].copy_from_slice(&prelude);
            frame[data_at - 4..data_at].copy_from_slice(&(got as u32).to_be_bytes());
            socket.write_all(&frame[..data_at + got]).await.expect("the reader reads");
        }
        child.wait().await.expect("the writer is our child");
    });
}

/// What stands before the length of the data in a chunk: the keys and values a kernel sends.
fn prelude() -> Vec<u8> {
    let mut bytes = vec![0x84];
    let pairs: [(&str, rmpv::Value); 3] = [
        ("subscriptionId", "stream_00112233445566778899aabbccddeeff".into()),
        ("stream", "stdout".into()),
        ("sequence", 1_u64.into()),
    ];
    for (key, value) in pairs {
        bytes.extend(super::raw::packed(&key.into()));
        bytes.extend(super::raw::packed(&value));
    }
    bytes.extend(super::raw::packed(&"data".into()));
    bytes.push(0xc6);
    bytes
}
