//! The client library against the real daemon.

use crate::support::raw::PATIENCE;
use crate::support::sequence::{self, BLOCK_BYTES};
use crate::support::{Daemon, on_both_drivers};
use kairo_client::{Client, DirectItem, Item};
use kairo_wire::codec::text::OsText;
use kairo_wire::id::ProcessId;
use kairo_wire::methods::process::{
    Kill, KillParams, Spawn, SpawnParams, Status, StatusParams, Wait, WaitParams,
};
use kairo_wire::methods::stream::{Selector, SubscribeParams};

fn id(text: &str) -> ProcessId {
    ProcessId::from_text(text).expect("a short id")
}

fn spawn(client: &Client, name: &str, argv: &[&str]) {
    let command: Vec<OsText> = argv.iter().map(|word| (*word).into()).collect();
    client.call::<Spawn>(&SpawnParams { id: id(name), command, options: None }).expect("it starts");
}

fn stdout_of(name: &str) -> SubscribeParams {
    SubscribeParams { id: Some(id(name)), stream: Selector::Stdout, ..Default::default() }
}

fn a_library_client_calls_and_reads(daemon: &Daemon) {
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    let mut subscription = client.subscribe(&stdout_of("hello")).expect("a subscription may come first");
    spawn(&client, "hello", &["echo", "hello"]);
    let (mut bytes, mut total) = (Vec::new(), None);
    while let Some(item) = subscription.next_within(PATIENCE).expect("no byte is missing") {
        match item {
            Item::Chunk(chunk) => bytes.extend_from_slice(&chunk.data),
            Item::End { total_bytes, .. } => {
                total = Some(total_bytes);
                break;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!((bytes.as_slice(), total), (&b"hello\n"[..], Some(6)));
    let exit = client.call::<Wait>(&WaitParams { id: id("hello"), timeout_ms: None }).expect("it ended");
    assert_eq!(exit.exit_code, 0);
    let error =
        client.call::<Kill>(&KillParams { id: id("nobody"), signal: None, grace_ms: None, scope: None });
    assert!(error.expect_err("nobody is there").to_string().contains("nobody"));
}

fn a_stream_with_a_connection_of_its_own_gets_every_byte(daemon: &Daemon) {
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    let control = Client::connect(&daemon.socket).expect("the daemon is there");
    let mut stream = client.into_stream(&stdout_of("writer")).expect("the connection is not shared");
    spawn(&control, "writer", &sequence::argv("256"));
    let (mut bytes, mut ended) = (Vec::new(), false);
    while let Some(item) = stream.next_item().expect("no byte is missing") {
        match item {
            DirectItem::Chunk { offset, data, .. } => {
                assert_eq!(offset, bytes.len() as u64);
                bytes.extend_from_slice(data);
            }
            DirectItem::End { total_bytes, .. } => {
                assert_eq!(total_bytes, (256 * BLOCK_BYTES) as u64);
                ended = true;
            }
            DirectItem::LeaderExited { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(ended);
    sequence::check(&bytes, 0);
}

fn calls_in_flight_are_answered_each_for_itself(daemon: &Daemon) {
    let client = Client::connect(&daemon.socket).expect("the daemon is there");
    spawn(&client, "sleeper", &["sleep", "1000"]);
    let wait = client.begin::<Wait>(&WaitParams { id: id("sleeper"), timeout_ms: None }).expect("it is sent");
    let running =
        client.call::<Status>(&StatusParams { id: id("sleeper"), detail: false }).expect("a status");
    assert!(running.pid.is_some());
    client
        .call::<Kill>(&KillParams { id: id("sleeper"), signal: None, grace_ms: None, scope: None })
        .expect("killed");
    assert_eq!(wait.wait_for(PATIENCE).expect("it ended").exit_code, 143);
}

on_both_drivers!(
    a_library_client_calls_and_reads,
    a_stream_with_a_connection_of_its_own_gets_every_byte,
    calls_in_flight_are_answered_each_for_itself,
);
