//! The client against a kernel that dies at any byte and comes back: every byte once, every spawn once, every answer.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails where it stands")]

mod mortal;

use kairo_client::{
    CallError, CallOptions, Change, Client, ConnectError, ConnectOptions, DirectItem, EventItem, Item, Lost,
    Reconnect, StreamError, Watch,
};
use kairo_wire::codec::data::Data;
use kairo_wire::id::{ProcessId, TopicPattern};
use kairo_wire::methods::event;
use kairo_wire::methods::identity::{Identify, IdentifyParams};
use kairo_wire::methods::process::{
    Kill, KillParams, Spawn, SpawnParams, Status, StatusParams, StdinWrite, StdinWriteParams, Wait,
    WaitParams,
};
use kairo_wire::methods::stream::{Selector, Start, StreamName, SubscribeParams};
use kairo_wire::methods::system::{Ping, PingParams};
use mortal::{Dice, Kernel, Program, World};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn id(text: &str) -> ProcessId {
    ProcessId::from_text(text).unwrap()
}

fn read(name: &str) -> SubscribeParams {
    SubscribeParams { id: Some(id(name)), ..SubscribeParams::default() }
}

fn hasty() -> Reconnect {
    Reconnect { pause_first: Duration::from_millis(1), ..Reconnect::default() }
}

fn connect(path: &Path, reconnect: Reconnect) -> Client {
    let options = ConnectOptions { reconnect: Some(reconnect), ..ConnectOptions::default() };
    loop {
        match Client::connect_with(path, &options) {
            Ok(client) => return client,
            // Between two lives: whether anybody is there at the beginning is nobody's to wait for but ours.
            Err(ConnectError::NobodyThere { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn bytes(dice: &mut Dice, length: u64) -> Vec<u8> {
    (0..length).map(|_| dice.below(256) as u8).collect()
}

fn spawn(name: &str) -> SpawnParams {
    SpawnParams { id: id(name), command: vec!["true".into()], options: None }
}

fn write(data: &str) -> StdinWriteParams {
    StdinWriteParams { id: id("p"), data: Data(data.to_owned().into()) }
}

/// A world in which `p` has written something, and lives of random lengths.
fn world(dice: &mut Dice, lives: u64, budget: u64) -> World {
    let stdout = dice.below(40_000);
    let stderr = dice.below(9_000);
    let program = Program {
        stdout: bytes(dice, stdout),
        stderr: bytes(dice, stderr),
        exit: Some(7),
        ..Program::default()
    };
    World {
        programs: [("p".to_owned(), program)].into(),
        budgets: (0..lives).map(|_| dice.below(budget)).collect(),
        modern: true,
        ..World::default()
    }
}

#[test]
fn whatever_byte_a_kernel_dies_at_every_byte_comes_once_and_everything_happens_once() {
    let mut lives = 0;
    for seed in 0..150 {
        let mut dice = Dice(seed);
        let kernel = Kernel::new(world(&mut dice, 12, 20_000));
        let client = connect(kernel.path(), hasty());
        let reader = {
            let client = client.clone();
            std::thread::spawn(move || collect(&client, seed))
        };
        let waiter = {
            let client = client.clone();
            std::thread::spawn(move || {
                client.call::<Wait>(&WaitParams { id: id("p"), timeout_ms: None }).unwrap().exit_code
            })
        };
        let mut typed = String::new();
        for turn in 0..30 {
            match dice.below(3) {
                0 => {
                    let name = format!("child{turn}");
                    assert_eq!(client.call::<Spawn>(&spawn(&name)).unwrap().id, id(&name), "seed {seed}");
                }
                1 => {
                    let piece = format!("{turn};").repeat(dice.below(500) as usize + 1);
                    typed.push_str(&piece);
                    let written = client.call::<StdinWrite>(&write(&piece)).unwrap();
                    assert_eq!(written.offset, typed.len() as u64, "seed {seed}");
                }
                _ => {
                    let params = StatusParams { id: id("p"), detail: false };
                    assert_eq!(client.call::<Status>(&params).unwrap().pid, Some(7), "seed {seed}");
                }
            }
        }
        let got = reader.join().unwrap();
        assert_eq!(waiter.join().unwrap(), 7);
        let world = kernel.world();
        let program = &world.programs["p"];
        assert!(got[0] == program.stdout && got[1] == program.stderr, "seed {seed}: other bytes");
        assert!(world.stdin == typed.as_bytes(), "seed {seed}: other bytes in the stdin");
        assert!(world.starts.values().all(|times| *times == 1), "seed {seed}: {:?}", world.starts);
        lives += world.lives;
    }
    assert!(lives > 500, "only {lives} kernels have lived");
}

/// Everything of `p`, by stream.
fn collect(client: &Client, seed: u64) -> [Vec<u8>; 2] {
    let mut got = [Vec::new(), Vec::new()];
    for item in client.subscribe(&read("p")).unwrap() {
        match item.unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            Item::Chunk(chunk) => {
                let bytes = &mut got[usize::from(chunk.stream == StreamName::Stderr)];
                assert_eq!(chunk.offset, bytes.len() as u64, "seed {seed}");
                bytes.extend_from_slice(&chunk.data);
            }
            Item::End { stream, total_bytes, gap_bytes, .. } => {
                let bytes = &got[usize::from(stream == StreamName::Stderr)];
                assert_eq!((total_bytes, gap_bytes), (bytes.len() as u64, 0), "seed {seed}");
            }
            Item::Gap { .. } | Item::Overflow => panic!("seed {seed}: nothing was dropped"),
        }
    }
    got
}

#[test]
fn a_stream_with_a_connection_of_its_own_goes_on_just_the_same() {
    for seed in 1_000..1_100 {
        let mut dice = Dice(seed);
        let kernel = Kernel::new(world(&mut dice, 10, 15_000));
        let client = connect(kernel.path(), hasty());
        let mut stream = client.into_stream(&read("p")).unwrap();
        let mut got = [Vec::new(), Vec::new()];
        while let Some(item) = stream.next_item().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            if let DirectItem::Chunk { stream, offset, data, .. } = item {
                let bytes: &mut Vec<u8> = &mut got[usize::from(stream == StreamName::Stderr)];
                assert_eq!(offset, bytes.len() as u64, "seed {seed}");
                bytes.extend_from_slice(data);
            }
        }
        let world = kernel.world();
        let program = &world.programs["p"];
        assert!(got[0] == program.stdout && got[1] == program.stderr, "seed {seed}: other bytes");
    }
}

/// A kernel with `p`, which has written `stdout` and goes on running.
fn with_output(stdout: &[u8]) -> Kernel {
    let program = Program { stdout: stdout.to_vec(), exit: Some(0), ..Program::default() };
    Kernel::new(World { programs: [("p".to_owned(), program)].into(), modern: true, ..World::default() })
}

/// The calls of a method since the beginning, their parameters.
fn calls(kernel: &Kernel, method: &str) -> Vec<serde_json::Value> {
    let world = kernel.world();
    world.calls.iter().filter(|(name, _)| name == method).map(|(_, params)| params.clone()).collect()
}

#[test]
fn a_client_says_whose_place_it_takes_and_lowers_itself_again() {
    let kernel = with_output(b"");
    let client = connect(kernel.path(), hasty());
    client
        .call::<Identify>(&IdentifyParams { skill_id: Some("probe".to_owned()), ..IdentifyParams::default() })
        .unwrap();
    kernel.kill();
    assert!(client.call::<Ping>(&PingParams {}).unwrap().pong);
    assert_eq!(calls(&kernel, "kernel.hello").last().unwrap()["resumes"], "token-1");
    let world = kernel.world();
    let order: Vec<&str> = world.calls.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(order, ["kernel.hello", "identify", "kernel.hello", "identify", "kernel.ping"]);
}

#[test]
fn what_may_have_happened_and_would_happen_twice_is_said_to_be_unknown() {
    let mut kernel = World { modern: true, ..World::default() };
    // The greeting and the call get through, and the answer doesn't.
    kernel.budgets = vec![1_000, u64::MAX];
    let kernel = Kernel::new(kernel);
    let client = connect(kernel.path(), hasty());
    let kill = KillParams { id: id("p"), signal: None, grace_ms: None, scope: None };
    let mut interrupted = 0;
    while kernel.world().lives == 1 {
        match client.call::<Kill>(&kill) {
            Ok(_) => {}
            Err(CallError::Interrupted { method }) => {
                assert_eq!(method, "process.kill");
                interrupted += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(interrupted <= 1);
    client.call::<Kill>(&kill).unwrap();
}

#[test]
fn a_call_the_kernel_never_got_is_made_to_the_next_one() {
    let kernel = with_output(b"");
    let client = connect(kernel.path(), hasty());
    client.call::<Ping>(&PingParams {}).unwrap();
    kernel.kill();
    // The first write fails or goes nowhere; a kill that surely did not happen is sent, any other is told.
    let kill = KillParams { id: id("p"), signal: None, grace_ms: None, scope: None };
    match client.call::<Kill>(&kill) {
        Ok(_) => assert_eq!(calls(&kernel, "process.kill").len(), 1),
        Err(error) => assert!(matches!(error, CallError::Interrupted { .. }), "{error:?}"),
    }
}

#[test]
fn the_key_a_caller_gives_is_the_key_that_is_sent() {
    let kernel = with_output(b"");
    let keyed = CallOptions { idempotency_key: Some("mine".to_owned()), ..CallOptions::default() };
    for _ in 0..2 {
        let client = connect(kernel.path(), hasty());
        client.call_with::<Spawn>(&spawn("child"), &keyed).unwrap();
    }
    assert_eq!(kernel.world().starts["child"], 1);
}

#[test]
fn a_kernel_that_knows_no_keys_is_not_sent_a_spawn_twice() {
    let program = Program::default();
    let budgets = vec![900, u64::MAX];
    let kernel =
        Kernel::new(World { programs: [("p".to_owned(), program)].into(), budgets, ..World::default() });
    let client = connect(kernel.path(), hasty());
    let mut turn = 0;
    while kernel.world().lives == 1 {
        turn += 1;
        match client.call::<Spawn>(&spawn(&format!("child{turn}"))) {
            Ok(_) | Err(CallError::Interrupted { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(kernel.world().starts.values().all(|times| *times == 1));
}

#[test]
fn bytes_that_are_no_longer_kept_are_a_gap_and_its_length_is_told_at_the_end() {
    let kernel = with_output(&[b'x'; 1_000]);
    kernel.world().programs.get_mut("p").unwrap().exit = None;
    let client = connect(kernel.path(), hasty());
    let params = SubscribeParams { stream: Selector::Stdout, from: Start::At(10), ..read("p") };
    let mut stream = client.subscribe(&params).unwrap();
    let mut at = 10;
    let Item::Chunk(chunk) = stream.next_item().unwrap() else { panic!("a chunk comes first") };
    at += chunk.data.len() as u64;
    kernel.change(|world| {
        let program = world.programs.get_mut("p").unwrap();
        (program.stdout, program.kept_from) = (vec![b'y'; 5_000], [4_000, 0]);
    });
    let mut missed = 0;
    let mut killed = false;
    while !stream.is_over() {
        match stream.next_item().unwrap() {
            Item::Chunk(chunk) => {
                assert_eq!(chunk.offset, at);
                at += chunk.data.len() as u64;
                if !std::mem::replace(&mut killed, true) {
                    kernel.kill();
                }
            }
            Item::Gap { from, to, .. } => {
                assert_eq!(from, at);
                (at, missed) = (to, missed + to - from);
            }
            Item::End { total_bytes, gap_bytes, .. } => assert_eq!((total_bytes, gap_bytes), (at, missed)),
            Item::Overflow => panic!("a kernel with records names what was missed"),
        }
    }
    assert_eq!(stream.position(StreamName::Stdout), Some(at));
}

#[test]
fn a_process_the_new_kernel_does_not_know_is_an_error_and_no_endless_wait() {
    for direct in [false, true] {
        let kernel = with_output(&[b'x'; 200_000]);
        let client = connect(kernel.path(), hasty());
        let params = SubscribeParams { stream: Selector::Stdout, ..read("p") };
        let forget = |kernel: &Kernel| {
            kernel.change(|world| world.programs.clear());
            kernel.kill();
        };
        let error = if direct {
            let mut stream = client.into_stream(&params).unwrap();
            stream.next_item().unwrap().unwrap();
            forget(&kernel);
            loop {
                match stream.next_item() {
                    Ok(item) => assert!(item.is_some(), "it has not ended"),
                    Err(error) => break error,
                }
            }
        } else {
            let mut stream = client.subscribe(&params).unwrap();
            stream.next_item().unwrap();
            forget(&kernel);
            stream.find_map(Result::err).unwrap()
        };
        assert_eq!(error, StreamError::Forgotten);
    }
}

#[test]
fn another_process_under_the_same_id_is_not_taken_for_the_former() {
    let kernel = with_output(&[b'x'; 200_000]);
    let client = connect(kernel.path(), hasty());
    let mut stream = client.subscribe(&SubscribeParams { stream: Selector::Stdout, ..read("p") }).unwrap();
    stream.next_item().unwrap();
    kernel.change(|world| world.programs.get_mut("p").unwrap().session = 1);
    kernel.kill();
    assert_eq!(stream.find_map(Result::err), Some(StreamError::OtherLife));
    drop(stream);
    // What was opened for it is given back.
    client.call::<Ping>(&PingParams {}).unwrap();
    kernel.until(|world| world.calls.iter().any(|(name, _)| name == "process.stdout.unsubscribe"));
}

#[test]
fn a_process_that_has_not_come_yet_is_waited_for_over_a_loss() {
    let kernel = Kernel::new(World { modern: true, ..World::default() });
    let client = connect(kernel.path(), hasty());
    let mut stream = client.subscribe(&SubscribeParams { from: Start::Now, ..read("late") }).unwrap();
    kernel.kill();
    client.call::<Ping>(&PingParams {}).unwrap();
    assert_eq!(stream.next_within(Duration::from_millis(1)), Ok(None));
    let program = Program { stdout: b"hello".to_vec(), exit: Some(0), ..Program::default() };
    kernel.change(|world| drop(world.programs.insert("late".to_owned(), program)));
    let mut bytes = Vec::new();
    while bytes.len() < 5 {
        // Its other output may end first, and the bytes come in any pieces.
        if let Item::Chunk(chunk) = stream.next_item().unwrap() {
            bytes.extend_from_slice(&chunk.data);
        }
    }
    assert_eq!(bytes, b"hello");
}

#[test]
fn whatever_byte_a_kernel_dies_at_every_event_comes_once_and_in_order() {
    const EVENTS: u64 = 200;
    let mut lives = 0;
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut world = world(&mut dice, 12, 15_000);
        (world.events, world.cut_every) = (dice.below(50), dice.below(40));
        let kernel = Kernel::new(world);
        let client = connect(kernel.path(), hasty());
        let topic = TopicPattern::from_text(">").unwrap();
        let from_seq = (dice.below(2) == 0).then_some(1);
        let mut events = client
            .events_from(event::SubscribeParams { from_seq, ..event::SubscribeParams::live(topic) })
            .unwrap();
        // One that was to begin now says where that is.
        let mut next = events.position().unwrap();
        kernel.change(|world| world.events += 20);
        while next <= EVENTS {
            match events.next().unwrap().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
                EventItem::Event(event) => {
                    assert_eq!(event.seq, Some(next), "seed {seed}");
                    next += 1;
                    kernel.change(|world| world.events = EVENTS.min(world.events + 1));
                }
                EventItem::Resumed { complete, .. } => assert!(complete, "seed {seed}"),
                EventItem::Cut { seq, .. } => assert_eq!(seq, next, "seed {seed}"),
                EventItem::Gap(gap) => panic!("seed {seed}: {gap:?}"),
            }
        }
        assert_eq!(events.position(), Some(next), "seed {seed}");
        lives += kernel.world().lives;
    }
    assert!(lives > 100, "only {lives} kernels have lived");
}

#[test]
fn a_log_that_is_another_one_is_not_gone_on_in() {
    let kernel = with_output(b"");
    kernel.world().events = 900;
    let client = connect(kernel.path(), hasty());
    let mut events = client.events(">").unwrap();
    kernel.change(|world| world.events = 7);
    kernel.kill();
    assert!(matches!(events.next(), Some(Ok(EventItem::Resumed { complete: false, .. }))));
    kernel.change(|world| world.events = 8);
    assert!(matches!(events.next(), Some(Ok(EventItem::Event(event))) if event.seq == Some(8)));
}

#[test]
fn who_listens_to_a_kernel_without_a_log_is_told_that_some_may_be_missing() {
    let kernel = Kernel::new(World::default());
    let client = connect(kernel.path(), hasty());
    let mut events = client.events("kairo.>").unwrap();
    let mut exits = client.exits();
    assert!(matches!(events.next(), Some(Ok(EventItem::Event(_)))));
    let before = events.id();
    kernel.kill();
    assert!(matches!(events.next(), Some(Ok(EventItem::Resumed { complete: false, .. }))));
    assert_ne!(events.id(), before);
    assert!(matches!(exits.next(), Some(Ok(EventItem::Resumed { complete: false, .. }))));
    let past = event::SubscribeParams {
        from_seq: Some(1),
        ..event::SubscribeParams::live(TopicPattern::from_text(">").unwrap())
    };
    assert!(matches!(client.events_from(past), Err(CallError::Shape(_))));
    kernel.change(|world| world.events += 1);
    assert!(
        matches!(events.next(), Some(Ok(EventItem::Event(event))) if event.topic == "kairo.process.spawned")
    );
}

#[test]
fn patience_has_an_end_and_everybody_is_told() {
    let kernel = with_output(b"");
    let told: Arc<Mutex<Vec<Change>>> = Arc::default();
    let watch = {
        let told = Arc::clone(&told);
        Watch::new(move |change| told.lock().unwrap().push(change.clone()))
    };
    let reconnect = Reconnect { patience: Duration::from_millis(40), watch: Some(watch), ..hasty() };
    let client = connect(kernel.path(), reconnect);
    kernel.kill();
    client.call::<Ping>(&PingParams {}).unwrap();
    drop(kernel);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || {
            client.call::<Wait>(&WaitParams { id: id("p"), timeout_ms: None }).unwrap_err()
        })
    };
    let error = client.call::<Ping>(&PingParams {}).unwrap_err();
    assert!(matches!(error, CallError::Lost(Lost::NotBack { .. })), "{error:?}");
    assert!(matches!(waiting.join().unwrap(), CallError::Lost(Lost::NotBack { .. })));
    let told = told.lock().unwrap();
    assert!(
        matches!(told[..], [Change::Lost(_), Change::Back { .. }, Change::Lost(_), Change::GivenUp(_)]),
        "{told:?}"
    );
}

#[test]
fn a_deadline_holds_while_nobody_is_there_and_the_next_who_waits_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernel.sock");
    let world = || World { modern: true, ..World::default() };
    let kernel = Kernel::at(&path, world());
    let client = connect(&path, hasty());
    drop(kernel);
    let call = client.begin::<Ping>(&PingParams {}).unwrap();
    assert!(matches!(call.wait_for(Duration::from_millis(5)), Err(CallError::Deadline)));
    let hurried = CallOptions { deadline: Some(Duration::from_millis(5)), ..CallOptions::default() };
    assert!(matches!(client.call_with::<Ping>(&PingParams {}, &hurried), Err(CallError::Deadline)));
    let _kernel = Kernel::at(&path, world());
    assert!(client.call::<Ping>(&PingParams {}).unwrap().pong);
}

#[test]
fn closing_here_ends_the_waiting_for_a_kernel() {
    let kernel = with_output(b"");
    let client = connect(kernel.path(), hasty());
    drop(kernel);
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.call::<Ping>(&PingParams {}))
    };
    client.close();
    assert!(matches!(waiting.join().unwrap(), Err(CallError::Lost(Lost::ClosedHere))));
}

#[test]
fn without_the_wish_to_come_back_a_loss_is_the_end() {
    let kernel = with_output(b"");
    let options = ConnectOptions { reconnect: None, ..ConnectOptions::default() };
    let client = Client::connect_with(kernel.path(), &options).unwrap();
    kernel.kill();
    assert!(matches!(client.call::<Ping>(&PingParams {}), Err(CallError::Lost(Lost::Closed { .. }))));
}
