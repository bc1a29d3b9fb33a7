//! Streams on descriptors of their own, from the real daemon: every byte, every way to leave.

use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers, pattern, python};
use kairo_client::{Client, Opened};
use kairo_wire::codec::data::Data;
use kairo_wire::codec::text::OsText;
use kairo_wire::error::Code;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::open::{Close, DescriptorRole, Open, OpenParams, Transport};
use kairo_wire::methods::options::{SpawnOptions, WhenUnread};
use kairo_wire::methods::process::{
    Kill, KillParams, Spawn, SpawnParams, StdinWrite, StdinWriteParams, Wait, WaitParams,
};
use kairo_wire::methods::stream::{Policy, Start, UnsubscribeParams};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;

pub(crate) fn id(text: &str) -> ProcessId {
    ProcessId::from_text(text).expect("a short id")
}

pub(crate) fn connect(daemon: &Daemon) -> Client {
    Client::connect(&daemon.socket).expect("the daemon is there")
}

/// Starts a program that waits for whoever reads it.
pub(crate) fn spawn(client: &Client, name: &str, argv: &[&str]) {
    spawn_with(client, name, argv, SpawnOptions::default());
}

/// The same with more options.
pub(crate) fn spawn_with(client: &Client, name: &str, argv: &[&str], options: SpawnOptions) {
    let command: Vec<OsText> = argv.iter().map(|word| (*word).into()).collect();
    let options = SpawnOptions { when_unread: WhenUnread::Block, ..options };
    client
        .call::<Spawn>(&SpawnParams { id: id(name), command, options: Some(Box::new(options)) })
        .expect("it starts");
}

/// Starts one that writes the sequence once it is told to.
pub(crate) fn spawn_ready(client: &Client, name: &str) {
    let argv = sequence::argv_once_told("256");
    spawn(client, name, &argv);
}

pub(crate) fn tell(client: &Client, name: &str) {
    let params = StdinWriteParams { id: id(name), data: Data(b"go\n".to_vec().into()) };
    client.call::<StdinWrite>(&params).expect("it reads");
}

pub(crate) fn kill(client: &Client, name: &str) {
    let params = KillParams { id: id(name), signal: None, grace_ms: None, scope: None };
    client.call::<Kill>(&params).expect("it is there");
}

pub(crate) fn by(name: &str, transport: Transport) -> OpenParams {
    OpenParams::of(id(name), transport)
}

/// The one descriptor that came.
fn file(opened: Opened) -> File {
    let [descriptor] = <[_; 1]>::try_from(opened.descriptors).expect("one descriptor");
    File::from(descriptor)
}

fn whole(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("it can be read");
    bytes
}

fn a_pipe_and_a_socket_bring_every_byte_and_their_end(daemon: &Daemon) {
    let client = connect(daemon);
    for (transport, role) in
        [(Transport::Pipe, DescriptorRole::PipeReader), (Transport::Socket, DescriptorRole::Socket)]
    {
        let name = transport.word();
        spawn(&client, name, &sequence::argv("256"));
        let opened = client.open(&by(name, transport)).expect("it opens");
        assert_eq!(opened.result.descriptors, [role]);
        assert_eq!(opened.result.from, Some(0));
        assert_eq!(opened.result.pipe_bytes.is_some(), transport == Transport::Pipe);
        let bytes = whole(file(opened));
        assert_eq!(bytes.len(), 256 * BLOCK_BYTES);
        sequence::check(&bytes, 0);
    }
}

fn many_read_beside_each_other_and_one_who_leaves_hurts_nobody(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let readers: Vec<File> =
        (0..4).map(|_| file(client.open(&by("writer", Transport::Pipe)).expect("it opens"))).collect();
    let leaver = file(client.open(&by("writer", Transport::Pipe)).expect("it opens"));
    tell(&client, "writer");
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers.into_iter().map(|reader| scope.spawn(|| whole(reader))).collect();
        let mut some = [0; 1_000];
        (&leaver).read_exact(&mut some).expect("something comes");
        drop(leaver);
        for thread in threads {
            let bytes = thread.join().expect("it reads");
            assert_eq!(bytes.len(), 256 * BLOCK_BYTES);
            sequence::check(&bytes, 0);
        }
    });
    let exit = client.call::<Wait>(&WaitParams { id: id("writer"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0, "its writer has met no broken pipe");
}

fn who_goes_by_drops_and_paces_nobody(daemon: &Daemon) {
    let client = connect(daemon);
    spawn_ready(&client, "writer");
    let dropping = OpenParams { policy: Policy::DropOldest, ..by("writer", Transport::Pipe) };
    let stopped = file(client.open(&dropping).expect("it opens"));
    let reader = file(client.open(&by("writer", Transport::Pipe)).expect("it opens"));
    tell(&client, "writer");
    let bytes = whole(reader);
    assert_eq!(bytes.len(), 256 * BLOCK_BYTES);
    // What it has is the beginning, and from wherever it goes on the end of what there was.
    let late = whole(stopped);
    assert!(!late.is_empty() && late.len() < bytes.len(), "{} bytes", late.len());
    assert_eq!(late[..4_096], bytes[..4_096]);
    assert_eq!(late[late.len() - 4_096..], bytes[bytes.len() - 4_096..]);
}

fn a_descriptor_ends_with_its_connection_or_when_it_is_closed(daemon: &Daemon) {
    let (client, other) = (connect(daemon), connect(daemon));
    spawn(&client, "yes", &["yes"]);
    let opened = other.open(&by("yes", Transport::Pipe)).expect("it opens");
    let mut reader = file(opened);
    let mut some = [0; 1_000];
    reader.read_exact(&mut some).expect("something comes");
    drop(other);
    whole(reader);
    let opened = client.open(&by("yes", Transport::Socket)).expect("it opens");
    let subscription_id = opened.result.subscription_id.clone();
    let mut reader = file(opened);
    reader.read_exact(&mut some).expect("something comes");
    assert!(client.call::<Close>(&UnsubscribeParams { subscription_id }).expect("it is there").ok);
    whole(reader);
    kill(&client, "yes");
}

fn a_stdin_that_is_handed_out_is_a_pipe_like_any(daemon: &Daemon) {
    let client = connect(daemon);
    let sum = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())";
    spawn(&client, "sum", &[python(), "-c", sum]);
    let first = StdinWriteParams { id: id("sum"), data: Data(b"first\n".to_vec().into()) };
    client.call::<StdinWrite>(&first).expect("it reads");
    let (result, descriptor) = client.open_stdin(id("sum")).expect("it is ours");
    assert_eq!((result.offset, &result.descriptors[..]), (6, &[DescriptorRole::PipeWriter][..]));
    let rest = pattern::bytes(0, 8 << 20);
    File::from(descriptor).write_all(&rest).expect("it reads on");
    let digest = Sha256::new().chain_update(b"first\n").chain_update(&rest).finalize();
    let said = whole(file(client.open(&by("sum", Transport::Pipe)).expect("it opens")));
    assert_eq!(String::from_utf8_lossy(&said).trim(), format!("{digest:x}"));
    spawn(&client, "cat", &["cat"]);
    let (_, ours) = client.open_stdin(id("cat")).expect("it is ours");
    let error = client.open_stdin(id("cat")).expect_err("it is nobody else's");
    assert_eq!(error.code(), Some(Code::StdinClosed));
    drop(ours);
    let exit = client.call::<Wait>(&WaitParams { id: id("cat"), timeout_ms: None }).expect("it ends");
    assert_eq!(exit.exit_code, 0);
}

fn what_cannot_be_opened_is_refused_by_name(daemon: &Daemon) {
    let client = connect(daemon);
    let refused = |params: &OpenParams| {
        let error = client.open(params).expect_err("it can't be");
        (error.code().expect("the kernel says so"), error.to_string())
    };
    assert_eq!(refused(&by("nobody", Transport::Pipe)).0, Code::NotFound);
    spawn(&client, "sleep", &["sleep", "1000"]);
    let sized = OpenParams { pipe_bytes: Some(4_096), ..by("sleep", Transport::Socket) };
    let (code, text) = refused(&sized);
    assert!(code == Code::InvalidParams && text.contains("pipeBytes"), "{text}");
    let spooled = OpenParams { policy: Policy::Spool, ..by("sleep", Transport::Pipe) };
    assert_eq!(refused(&spooled).0, Code::Conflict);
    let each = OpenParams { from: Start::Each { stdout: 1, stderr: 1 }, ..by("sleep", Transport::Pipe) };
    assert!(refused(&each).1.contains("from"));
    kill(&client, "sleep");
}

fn an_answer_nobody_waits_for_takes_its_descriptor_along(daemon: &Daemon) {
    let client = connect(daemon);
    spawn(&client, "sleep", &["sleep", "1000"]);
    for _ in 0..10 {
        drop(client.begin::<Open>(&by("sleep", Transport::Pipe)).expect("sent"));
    }
    // What is asked for afterwards gets its own, and not what nobody wanted.
    let socket = file(client.open(&by("sleep", Transport::Socket)).expect("it opens"));
    assert!(socket.metadata().expect("it is open").file_type().is_socket());
    let pipe = file(client.open(&by("sleep", Transport::Pipe)).expect("it opens"));
    assert!(pipe.metadata().expect("it is open").file_type().is_fifo());
    kill(&client, "sleep");
    assert!(whole(pipe).is_empty() && whole(socket).is_empty());
}

on_both_drivers!(
    a_pipe_and_a_socket_bring_every_byte_and_their_end,
    many_read_beside_each_other_and_one_who_leaves_hurts_nobody,
    who_goes_by_drops_and_paces_nobody,
    a_descriptor_ends_with_its_connection_or_when_it_is_closed,
    a_stdin_that_is_handed_out_is_a_pipe_like_any,
    what_cannot_be_opened_is_refused_by_name,
    an_answer_nobody_waits_for_takes_its_descriptor_along,
);
