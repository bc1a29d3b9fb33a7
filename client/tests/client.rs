//! The client against a kernel that is pretended, so that it can also do what a kernel never should.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails where it stands")]

use bytes::BytesMut;
use kairo_client::{
    CallError, Client, ConnectError, ConnectOptions, DirectItem, EventItem, Item, Lost, StreamError,
};
use kairo_wire::chunk::{Prelude, put_prelude};
use kairo_wire::codec::encode::Dialect;
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::{Envelope, Extras, put_bus, put_notice};
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{
    CutReason, EventCutRecord, EventGapRecord, IntentCancelNotice, ProcessExitNotice, StreamEndReason,
    StreamEndRecord, StreamGapRecord,
};
use kairo_wire::frame::{Decoder, Kind};
use kairo_wire::id::{EventId, ProcessId, SubscriptionId, TopicPattern};
use kairo_wire::methods::event::{self, Ack, Draft, Gap, GapCause, Order, ReplayParams};
use kairo_wire::methods::process::{Status, StatusParams};
use kairo_wire::methods::stream::{Start, StreamName, SubscribeParams};
use kairo_wire::methods::system::{Ping, PingParams};
use kairo_wire::{request, response};
use serde_json::json;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

/// The kernel's end of a connection.
struct Fake {
    socket: UnixStream,
    decoder: Decoder,
    requests: VecDeque<Asked>,
}

/// A request as it came.
#[derive(Debug)]
struct Asked {
    id: Raw,
    method: String,
    params: Raw,
    deadline_ms: Option<u64>,
}

impl Fake {
    /// The next request; none when the client has closed.
    fn next(&mut self) -> Option<Asked> {
        while self.requests.is_empty() {
            let mut bytes = vec![0; 65_536];
            let read = self.socket.read(&mut bytes).unwrap_or(0);
            if read == 0 {
                return None;
            }
            let requests = &mut self.requests;
            self.decoder
                .feed(&bytes[..read], |kind, payload| {
                    assert_eq!(kind, Kind::REQUEST);
                    let request = request::read(payload).unwrap();
                    requests.push_back(Asked {
                        id: request.id.to_owned(),
                        method: request.method.to_string(),
                        params: request.params.to_owned(),
                        deadline_ms: request.meta().unwrap().deadline_ms,
                    });
                })
                .unwrap();
        }
        self.requests.pop_front()
    }

    /// The next request of a method; anything else is a failure of the test.
    fn expect(&mut self, method: &str) -> Asked {
        let asked = self.next().unwrap_or_else(|| panic!("{method} never came"));
        assert_eq!(asked.method, method);
        asked
    }

    fn send(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let mut frame = BytesMut::new();
        write(&mut frame);
        // A client that is gone by now is what some tests want.
        let _ = self.socket.write_all(&frame);
    }

    fn ok(&mut self, asked: &Asked, result: &serde_json::Value) {
        self.send(|frame| response::put_ok(frame, Dialect::Int64, asked.id.as_ref(), result));
    }

    fn err(&mut self, asked: &Asked, error: &WireError) {
        self.send(|frame| response::put_err(frame, Dialect::Int64, asked.id.as_ref(), error));
    }

    fn hello(&mut self) {
        let asked = self.expect("kernel.hello");
        let params: serde_json::Value = kairo_wire::json::to_value(asked.params.as_ref()).unwrap();
        let limits = json!({"frameBytesMax": 16 << 20, "chunkBytesMax": 1 << 20, "callsInFlightMax": 1024,
            "depthMax": 64, "elementsMax": 1_000_000});
        self.ok(
            &asked,
            &json!({"name": "kairo", "version": "0.0.0", "protocol": 1, "pid": 1, "features": params["features"],
                "limits": limits, "principal": {"kind": "owner", "uid": 0}}),
        );
    }

    fn subscribed(&mut self, id: &str) -> Asked {
        let asked = self.expect("process.stdout.subscribe");
        self.ok(&asked, &json!({ "subscriptionId": id }));
        asked
    }

    fn chunk(&mut self, id: &str, stream: StreamName, sequence: u64, offset: Option<u64>, data: &[u8]) {
        let prelude = Prelude { subscription_id: id, stream, sequence, offset, time: None, partial: false };
        self.send(|frame| {
            put_prelude(frame, Dialect::Int64, &prelude, data.len());
            frame.extend_from_slice(data);
        });
    }

    fn end(&mut self, id: &str, stream: StreamName, total_bytes: u64, gap_bytes: u64) {
        let reason = StreamEndReason::Closed;
        let end = StreamEndRecord {
            subscription_id: SubscriptionId::from_text(id),
            stream,
            total_bytes,
            gap_bytes,
            reason,
        };
        self.send(|frame| put_notice(frame, Dialect::Int64, &end).unwrap());
    }

    fn gap(&mut self, id: &str, stream: StreamName, from: u64, to: u64) {
        let gap = StreamGapRecord { subscription_id: SubscriptionId::from_text(id), stream, from, to };
        self.send(|frame| put_notice(frame, Dialect::Int64, &gap).unwrap());
    }

    /// Without a word of the subscription it is for.
    fn bus(&mut self, topic: &str, number: u128) {
        self.send(|frame| put_envelope_frame(frame, topic, number, None));
    }

    fn bus_for(&mut self, id: &str, seq: u64) {
        let extras = Extras {
            seq: Some(seq),
            principal: "owner",
            intent_id: Some("int_1"),
            subscription_id: Some(id),
            replayed: seq < 10,
            ..Extras::default()
        };
        self.send(|frame| put_envelope_frame(frame, "a.b", seq.into(), Some(&extras)));
    }
}

fn put_envelope_frame(frame: &mut BytesMut, topic: &str, number: u128, extras: Option<&Extras<'_>>) {
    let id = EventId::new(number);
    let body = Raw::of(&json!({ "number": 1 })).unwrap();
    let envelope = Envelope {
        topic,
        payload: body.as_ref(),
        id: id.as_str(),
        source: "kernel",
        time_ms: 0,
        correlation_id: None,
        causation_id: None,
        trace_id: None,
    };
    put_bus(frame, Dialect::Int64, &envelope, extras).unwrap();
}

/// A client that has been greeted, and a thread that plays the kernel from there on.
fn against<T: Send + 'static>(play: impl FnOnce(Fake) -> T + Send + 'static) -> (Client, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let kernel = std::thread::spawn(move || {
        let mut fake = Fake { socket: theirs, decoder: Decoder::new(), requests: VecDeque::new() };
        fake.hello();
        play(fake)
    });
    (Client::over(ours, &ConnectOptions::default()).unwrap(), kernel)
}

fn id(text: &str) -> ProcessId {
    ProcessId::from_text(text).unwrap()
}

fn read(name: &str) -> SubscribeParams {
    SubscribeParams { id: Some(id(name)), ..SubscribeParams::default() }
}

fn status(name: &str) -> StatusParams {
    StatusParams { id: id(name), detail: false }
}

#[test]
fn a_typed_call_gives_a_typed_result() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.expect("process.status");
        assert_eq!(kairo_wire::json::to_value(asked.params.as_ref()).unwrap()["id"], "x");
        fake.ok(&asked, &json!({"state": "running", "pid": 77}));
    });
    assert_eq!(client.call::<Status>(&status("x")).unwrap().pid, Some(77));
    assert!(client.has("records") && client.has("int64"));
    kernel.join().unwrap();
}

#[test]
fn answers_find_their_calls_in_whatever_order_they_come() {
    let (client, kernel) = against(|mut fake| {
        let mut asked: Vec<Asked> = (0..50).map(|_| fake.expect("process.status")).collect();
        asked.reverse();
        for one in &asked {
            let name = kairo_wire::json::to_value(one.params.as_ref()).unwrap()["id"].clone();
            let pid: i32 = name.as_str().unwrap().parse().unwrap();
            fake.ok(one, &json!({"state": "running", "pid": pid}));
        }
    });
    let calls: Vec<_> = (0..50).map(|n| client.begin::<Status>(&status(&n.to_string())).unwrap()).collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait().unwrap().pid, Some(n as i32));
    }
    kernel.join().unwrap();
}

#[test]
fn many_threads_share_a_connection() {
    const THREADS: usize = 8;
    const CALLS: usize = 200;
    let (client, kernel) = against(|mut fake| {
        for _ in 0..THREADS * CALLS {
            let asked = fake.expect("process.status");
            let name = kairo_wire::json::to_value(asked.params.as_ref()).unwrap()["id"].clone();
            let pid: i32 = name.as_str().unwrap().parse().unwrap();
            fake.ok(&asked, &json!({"state": "running", "pid": pid}));
        }
    });
    let start = Arc::new(Barrier::new(THREADS));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (client, start) = (client.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                for n in 0..CALLS {
                    let pid = (thread * CALLS + n) as i32;
                    assert_eq!(client.call::<Status>(&status(&pid.to_string())).unwrap().pid, Some(pid));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    kernel.join().unwrap();
}

#[test]
fn a_refusal_keeps_its_code_and_says_what_to_do() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.expect("process.status");
        fake.err(&asked, &WireError::process_not_found("x"));
    });
    let error = client.call::<Status>(&status("x")).unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.to_string(), "Process x not found");
    assert!(error.advice().unwrap().contains("kairo ps"));
    kernel.join().unwrap();
}

#[test]
fn a_raw_call_carries_anything_and_its_deadline() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.expect("no.such.method");
        assert_eq!(asked.deadline_ms, Some(1_500));
        let echo = kairo_wire::json::to_value(asked.params.as_ref()).unwrap();
        fake.ok(&asked, &echo);
    });
    let params = kairo_wire::json::from_text(r#"{"a":[1,2,{"b":true}]}"#).unwrap();
    let options =
        kairo_client::CallOptions { deadline: Some(Duration::from_millis(1_500)), ..Default::default() };
    let result = client.call_raw("no.such.method", &params, &options).unwrap();
    assert_eq!(kairo_wire::json::to_text(result.as_ref()).unwrap(), r#"{"a":[1,2,{"b":true}]}"#);
    kernel.join().unwrap();
}

#[test]
fn a_deadline_ends_the_waiting_and_a_late_answer_disturbs_nobody() {
    let (client, kernel) = against(|mut fake| {
        let first = fake.expect("kernel.ping");
        let second = fake.expect("process.status");
        fake.ok(&first, &json!({"pong": true}));
        fake.ok(&second, &json!({"state": "unknown"}));
    });
    let call = client.begin::<Ping>(&PingParams {}).unwrap();
    assert!(matches!(call.wait_for(Duration::from_millis(5)), Err(CallError::Deadline)));
    client.call::<Status>(&status("x")).unwrap();
    kernel.join().unwrap();
}

#[test]
fn cancelling_names_the_call() {
    let (client, kernel) = against(|mut fake| {
        let first = fake.expect("kernel.ping");
        let cancel = fake.expect("kernel.cancel");
        let named = kairo_wire::json::to_value(cancel.params.as_ref()).unwrap()["id"].clone();
        assert_eq!(named, kairo_wire::json::to_value(first.id.as_ref()).unwrap());
        fake.err(&first, &WireError::new(Code::Cancelled, "abandoned"));
        fake.ok(&cancel, &json!({"cancelled": true}));
    });
    let call = client.begin::<Ping>(&PingParams {}).unwrap();
    assert!(call.cancel().unwrap());
    assert_eq!(call.wait().unwrap_err().code(), Some(Code::Cancelled));
    kernel.join().unwrap();
}

#[test]
fn a_kernel_that_goes_away_fails_every_pending_call_at_once() {
    let (client, kernel) = against(|mut fake| {
        for _ in 0..4 {
            fake.expect("kernel.ping");
        }
    });
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.call::<Ping>(&PingParams {}).unwrap_err())
        })
        .collect();
    for thread in threads {
        let error = thread.join().unwrap();
        assert!(matches!(error, CallError::Lost(Lost::Closed { unread: 0 })), "{error:?}");
    }
    assert!(matches!(client.call::<Ping>(&PingParams {}), Err(CallError::Lost(_))));
    kernel.join().unwrap();
}

#[test]
fn closing_here_wakes_whoever_waits() {
    let (client, kernel) = against(|mut fake| while fake.next().is_some() {});
    let waiting = {
        let client = client.clone();
        std::thread::spawn(move || client.call::<Ping>(&PingParams {}))
    };
    client.close();
    assert!(matches!(waiting.join().unwrap(), Err(CallError::Lost(_))));
    kernel.join().unwrap();
}

#[test]
fn a_stream_comes_whole_with_its_end() {
    let big = vec![7u8; 1 << 20];
    let sent = big.clone();
    let (client, kernel) = against(move |mut fake| {
        fake.subscribed("stream_1");
        fake.chunk("stream_1", StreamName::Stdout, 1, Some(0), b"hello ");
        fake.chunk("stream_1", StreamName::Stderr, 2, Some(0), b"oh");
        fake.chunk("stream_1", StreamName::Stdout, 3, Some(6), &sent);
        fake.gap("stream_1", StreamName::Stderr, 2, 12);
        fake.end("stream_1", StreamName::Stdout, 6 + sent.len() as u64, 0);
        fake.end("stream_1", StreamName::Stderr, 12, 10);
        fake.expect("process.stdout.unsubscribe");
    });
    let items: Vec<Item> = client.subscribe(&read("x")).unwrap().map(Result::unwrap).collect();
    assert_eq!(items.len(), 6);
    let Item::Chunk(chunk) = &items[2] else { panic!("{items:?}") };
    assert_eq!((chunk.offset, &chunk.data[..]), (6, &big[..]));
    assert!(matches!(items[3], Item::Gap { stream: StreamName::Stderr, from: 2, to: 12 }));
    kernel.join().unwrap();
}

#[test]
fn a_missing_byte_is_an_error_its_consumer_sees_and_the_last_item() {
    let (client, kernel) = against(|mut fake| {
        fake.subscribed("stream_1");
        fake.chunk("stream_1", StreamName::Stdout, 1, Some(0), b"hello");
        fake.chunk("stream_1", StreamName::Stdout, 2, Some(6), b"world");
        while fake.next().is_some() {}
    });
    let mut items = client.subscribe(&read("x")).unwrap();
    assert!(items.next().unwrap().is_ok());
    let missing = StreamError::Missing { stream: StreamName::Stdout, from: 5, to: 6 };
    assert_eq!(items.next(), Some(Err(missing)));
    assert_eq!(items.next(), None);
    drop((items, client));
    kernel.join().unwrap();
}

#[test]
fn a_stream_that_breaks_off_is_not_taken_for_one_that_ended() {
    let (client, kernel) = against(|mut fake| {
        fake.subscribed("stream_1");
        fake.chunk("stream_1", StreamName::Stdout, 1, Some(0), b"hello");
    });
    let items: Vec<_> = client.subscribe(&read("x")).unwrap().collect();
    assert!(items[0].is_ok());
    assert!(matches!(items[1], Err(StreamError::Lost(_))), "{items:?}");
    kernel.join().unwrap();
}

#[test]
fn chunks_that_come_right_behind_the_answer_are_not_lost() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.expect("process.stdout.subscribe");
        let prelude = Prelude {
            subscription_id: "stream_1",
            stream: StreamName::Stdout,
            sequence: 1,
            offset: Some(0),
            time: None,
            partial: false,
        };
        // One write: answer and first chunk are read together.
        fake.send(|frame| {
            response::put_ok(
                frame,
                Dialect::Int64,
                asked.id.as_ref(),
                &json!({"subscriptionId": "stream_1"}),
            );
            put_prelude(frame, Dialect::Int64, &prelude, 5);
            frame.extend_from_slice(b"hello");
        });
        while fake.next().is_some() {}
    });
    let mut items = client.subscribe(&read("x")).unwrap();
    assert!(matches!(items.next_item().unwrap(), Item::Chunk(chunk) if &chunk.data[..] == b"hello"));
    drop((items, client));
    kernel.join().unwrap();
}

#[test]
fn a_consumer_that_does_not_consume_makes_the_kernel_wait_and_calls_still_get_through() {
    const CHUNKS: u64 = 24;
    let (client, kernel) = against(|mut fake| {
        fake.subscribed("stream_slow");
        let mib = vec![1u8; 1 << 20];
        for n in 0..CHUNKS {
            fake.chunk("stream_slow", StreamName::Stdout, n + 1, Some(n << 20), &mib);
        }
        fake.end("stream_slow", StreamName::Stdout, CHUNKS << 20, 0);
        let asked = fake.expect("kernel.ping");
        fake.ok(&asked, &json!({"pong": true}));
        while fake.next().is_some() {}
    });
    let mut slow = client
        .subscribe(&SubscribeParams { stream: kairo_wire::methods::stream::Selector::Stdout, ..read("x") })
        .unwrap();
    // The call has to read past everything the slow consumer has not taken.
    assert!(client.call::<Ping>(&PingParams {}).unwrap().pong);
    let total: usize = slow
        .by_ref()
        .map(|item| match item.unwrap() {
            Item::Chunk(chunk) => chunk.data.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(total as u64, CHUNKS << 20);
    drop((slow, client));
    kernel.join().unwrap();
}

#[test]
fn two_consumers_on_two_threads_read_for_each_other() {
    const CHUNKS: u64 = 2_000;
    let (client, kernel) = against(|mut fake| {
        fake.subscribed("stream_a");
        fake.subscribed("stream_b");
        for n in 0..CHUNKS {
            fake.chunk("stream_a", StreamName::Stdout, n + 1, Some(n * 6_000), &[b'a'; 6_000]);
            fake.chunk("stream_b", StreamName::Stdout, n + 1, Some(n * 100), &[b'b'; 100]);
        }
        fake.end("stream_a", StreamName::Stdout, CHUNKS * 6_000, 0);
        fake.end("stream_b", StreamName::Stdout, CHUNKS * 100, 0);
        while fake.next().is_some() {}
    });
    let only = |name| SubscribeParams { stream: kairo_wire::methods::stream::Selector::Stdout, ..read(name) };
    let (a, b) = (client.subscribe(&only("a")).unwrap(), client.subscribe(&only("b")).unwrap());
    let count = |items: kairo_client::Subscription| {
        std::thread::spawn(move || {
            items
                .map(|item| match item.unwrap() {
                    Item::Chunk(chunk) => chunk.data.len() as u64,
                    _ => 0,
                })
                .sum::<u64>()
        })
    };
    let (a, b) = (count(a), count(b));
    assert_eq!(a.join().unwrap(), CHUNKS * 6_000);
    assert_eq!(b.join().unwrap(), CHUNKS * 100);
    drop(client);
    kernel.join().unwrap();
}

#[test]
fn a_v1_kernel_is_read_without_offsets_and_its_overflow_is_told() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let kernel = std::thread::spawn(move || {
        let mut fake = Fake { socket: theirs, decoder: Decoder::new(), requests: VecDeque::new() };
        fake.hello();
        fake.subscribed("stream_1");
        fake.chunk("stream_1", StreamName::Stdout, 1, None, b"hello");
        let process_id = id("x");
        let overflow = kairo_wire::event::StreamOverflowNotice {
            subscription_id: SubscriptionId::from_text("stream_1"),
            process_id,
        };
        fake.send(|frame| put_notice(frame, Dialect::Int64, &overflow).unwrap());
        fake.chunk("stream_1", StreamName::Stdout, 2, None, b"world");
        while fake.next().is_some() {}
    });
    let plain =
        ConnectOptions { records: false, chunk_bytes_max: 0, int64: false, ..ConnectOptions::default() };
    let client = Client::over(ours, &plain).unwrap();
    let mut items = client.subscribe(&read("x")).unwrap();
    assert!(matches!(items.next_item().unwrap(), Item::Chunk(chunk) if chunk.offset == 0));
    assert_eq!(items.next_item().unwrap(), Item::Overflow);
    assert!(matches!(items.next_item().unwrap(), Item::Chunk(chunk) if chunk.offset == 5));
    drop((items, client));
    kernel.join().unwrap();
}

#[test]
fn a_direct_stream_borrows_its_bytes_and_checks_them_all_the_same() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.subscribed("stream_1");
        assert_eq!(kairo_wire::json::to_value(asked.params.as_ref()).unwrap()["from"], json!(100));
        let data: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        fake.chunk("stream_1", StreamName::Stdout, 1, Some(100), &data);
        fake.chunk("stream_1", StreamName::Stdout, 2, Some(300_100), b"tail");
        for name in ["another", "x"] {
            let exit = ProcessExitNotice { id: id(name), code: 3 };
            fake.send(|frame| put_notice(frame, Dialect::Int64, &exit).unwrap());
        }
        fake.end("stream_1", StreamName::Stdout, 300_104, 0);
        fake.chunk("stream_1", StreamName::Stderr, 3, Some(101), b"!");
    });
    let mut stream = client.into_stream(&SubscribeParams { from: Start::At(100), ..read("x") }).unwrap();
    match stream.next_item().unwrap().unwrap() {
        DirectItem::Chunk { stream: StreamName::Stdout, offset: 100, data, partial: false } => {
            assert!(data.len() == 300_000 && data.iter().enumerate().all(|(n, byte)| *byte == n as u8));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(stream.next_item().unwrap(), Some(DirectItem::Chunk { data: b"tail", .. })));
    assert_eq!(stream.next_item().unwrap(), Some(DirectItem::LeaderExited { code: 3 }));
    assert!(matches!(stream.next_item().unwrap(), Some(DirectItem::End { total_bytes: 300_104, .. })));
    let missing = StreamError::Missing { stream: StreamName::Stderr, from: 100, to: 101 };
    assert_eq!(stream.next_item(), Err(missing));
    assert!(stream.next_item().is_err());
    kernel.join().unwrap();
}

#[test]
fn a_shared_connection_is_not_given_away() {
    let (client, kernel) = against(|mut fake| while fake.next().is_some() {});
    let other = client.clone();
    assert!(matches!(client.into_stream(&read("x")), Err(CallError::Shape(_))));
    drop(other);
    kernel.join().unwrap();
}

#[test]
fn events_go_to_the_patterns_they_match_and_once_to_each() {
    let (client, kernel) = against(|mut fake| {
        for n in 0..3 {
            let asked = fake.expect("subscribe");
            fake.ok(&asked, &json!({ "subscriptionId": format!("topic_{n}") }));
        }
        // One frame per matching subscription, as a kernel sends them.
        fake.bus("kairo.process.spawned", 1);
        fake.bus("kairo.process.spawned", 1);
        fake.bus("kairo.kernel.ready", 2);
        fake.bus("kairo.process.ended", 3);
        fake.bus("kairo.process.ended", 3);
        let exit = ProcessExitNotice { id: id("x"), code: 3 };
        fake.send(|frame| put_notice(frame, Dialect::Int64, &exit).unwrap());
        while fake.next().is_some() {}
    });
    let mut exits = client.exits();
    let mut processes = client.events("kairo.process.*").unwrap();
    let mut all = client.events("kairo.>").unwrap();
    let mut none = client.events("other").unwrap();
    let topics = |events: &mut kairo_client::Events, count| -> Vec<String> {
        let topic = |item: EventItem<kairo_client::BusEvent>| match item {
            EventItem::Event(event) => event.topic.to_string(),
            EventItem::Gap(_) | EventItem::Cut { .. } | EventItem::Resumed { .. } => {
                panic!("nothing was lost")
            }
        };
        events.take(count).map(|item| topic(item.unwrap())).collect()
    };
    assert_eq!(topics(&mut processes, 2), ["kairo.process.spawned", "kairo.process.ended"]);
    assert_eq!(topics(&mut all, 3), ["kairo.process.spawned", "kairo.kernel.ready", "kairo.process.ended"]);
    assert!(matches!(exits.next(), Some(Ok(EventItem::Event(exit))) if exit.code == 3));
    assert!(none.next_within(Duration::from_millis(5)).unwrap().is_none());
    drop((exits, processes, all, none, client));
    kernel.join().unwrap();
}

fn gap(from: u64, to: u64) -> Gap {
    Gap { from, to, cause: GapCause::Compacted, summary: None }
}

#[test]
fn events_go_to_the_subscription_they_say_they_are_for_and_gaps_and_cuts_come_at_their_places() {
    let (client, kernel) = against(|mut fake| {
        for n in 0..2 {
            let asked = fake.expect("subscribe");
            fake.ok(&asked, &json!({ "subscriptionId": format!("topic_{n}"), "nextSeq": 50 }));
        }
        fake.bus_for("topic_1", 3);
        fake.bus_for("topic_of_nobody", 4);
        let missing =
            EventGapRecord { subscription_id: SubscriptionId::from_text("topic_1"), gap: gap(4, 11) };
        fake.send(|frame| put_notice(frame, Dialect::Int64, &missing).unwrap());
        fake.bus_for("topic_1", 12);
        let cut = EventCutRecord {
            subscription_id: SubscriptionId::from_text("topic_1"),
            seq: 13,
            reason: CutReason::Slow,
        };
        fake.send(|frame| put_notice(frame, Dialect::Int64, &cut).unwrap());
        let again = fake.expect("subscribe");
        let params = kairo_wire::json::to_value(again.params.as_ref()).unwrap();
        assert_eq!(params, json!({ "topic": "a.*", "fromSeq": 13, "correlationId": "c" }));
        fake.ok(&again, &json!({ "subscriptionId": "topic_2", "nextSeq": 50 }));
        fake.bus_for("topic_1", 13);
        fake.bus_for("topic_2", 13);
        fake.expect("unsubscribe");
        while fake.next().is_some() {}
    });
    let mut live = client.events("a.*").unwrap();
    let topic = TopicPattern::from_text("a.*").unwrap();
    let params = event::SubscribeParams {
        from_seq: Some(2),
        correlation_id: Some("c".to_owned()),
        ..event::SubscribeParams::live(topic)
    };
    let mut past = client.events_from(params).unwrap();
    assert_eq!((live.position(), past.position()), (Some(50), Some(2)));
    let EventItem::Event(event) = past.next().unwrap().unwrap() else { panic!("an event comes first") };
    assert_eq!((event.seq, event.replayed, event.intent_id.as_deref()), (Some(3), true, Some("int_1")));
    assert!(matches!(past.next(), Some(Ok(EventItem::Gap(found))) if found == gap(4, 11)));
    assert!(
        matches!(past.next(), Some(Ok(EventItem::Event(event))) if event.seq == Some(12) && !event.replayed)
    );
    assert!(matches!(past.next(), Some(Ok(EventItem::Cut { seq: 13, reason: CutReason::Slow }))));
    assert!(matches!(past.next(), Some(Ok(EventItem::Event(event))) if event.seq == Some(13)));
    assert_eq!((past.position(), past.id().unwrap().as_str()), (Some(14), "topic_2"));
    assert!(live.next_within(Duration::from_millis(5)).unwrap().is_none());
    drop((live, past, client));
    kernel.join().unwrap();
}

#[test]
fn a_consumer_is_attached_again_after_a_cut_unless_that_is_its_end() {
    let (client, kernel) = against(|mut fake| {
        let cut = |id: &str, reason| EventCutRecord {
            subscription_id: SubscriptionId::from_text(id),
            seq: 2,
            reason,
        };
        for (id, reason) in [("topic_1", CutReason::Slow), ("topic_2", CutReason::Cancelled)] {
            let asked = fake.expect("consumer.attach");
            assert_eq!(kairo_wire::json::to_value(asked.params.as_ref()).unwrap(), json!({ "name": "c" }));
            fake.ok(&asked, &json!({ "subscriptionId": id }));
            fake.bus_for(id, 1);
            fake.send(|frame| put_notice(frame, Dialect::Int64, &cut(id, reason)).unwrap());
        }
        let cancel =
            json!({"intentId": "i", "correlationId": "c", "by": {"kind": "owner", "uid": 0}, "graceMs": 500});
        let cancel: IntentCancelNotice = Raw::of(&cancel).unwrap().decode().unwrap();
        fake.send(|frame| put_notice(frame, Dialect::Int64, &cancel).unwrap());
        assert!(fake.next().is_none(), "nothing is asked for again");
    });
    let mut cancels = client.cancels();
    let mut events = client.consume("c").unwrap();
    for reason in [CutReason::Slow, CutReason::Cancelled] {
        assert!(matches!(events.next(), Some(Ok(EventItem::Event(event))) if event.seq == Some(1)));
        assert!(matches!(events.next(), Some(Ok(EventItem::Cut { reason: found, .. })) if found == reason));
    }
    assert!(matches!(events.next(), Some(Err(Lost::Payload(_)))));
    assert!(matches!(cancels.next(), Some(Ok(EventItem::Event(cancel))) if cancel.grace_ms == 500));
    drop((events, cancels, client));
    kernel.join().unwrap();
}

/// An event as a page lists it.
fn listed(seq: u64) -> serde_json::Value {
    json!({ "topic": "a.b", "payload": seq, "id": format!("evt_{seq}"), "source": "kernel", "seq": seq })
}

/// The places of a replay; a gap is its range.
fn places(client: &Client, params: ReplayParams) -> Vec<(u64, u64)> {
    let place = |item: &EventItem<kairo_client::BusEvent>| match item {
        EventItem::Event(event) => (event.seq.unwrap(), event.seq.unwrap()),
        EventItem::Gap(gap) => (gap.from, gap.to),
        EventItem::Cut { .. } | EventItem::Resumed { .. } => panic!("these are of subscriptions"),
    };
    client.replay(params).flat_map(|page| page.unwrap().items.iter().map(place).collect::<Vec<_>>()).collect()
}

#[test]
fn the_log_is_read_page_by_page_in_both_directions() {
    let (client, kernel) = against(|mut fake| {
        let mut page = |from: serde_json::Value, answer: serde_json::Value| {
            let asked = fake.expect("event.replay");
            let params = kairo_wire::json::to_value(asked.params.as_ref()).unwrap();
            let known = ["fromSeq", "toSeq", "limit"].map(|key| params[key].clone());
            assert_eq!(json!(known), from);
            fake.ok(&asked, &answer);
        };
        let gaps = json!([gap(2, 4)]);
        page(
            json!([1, null, null]),
            json!({"events": [listed(1), listed(5)], "next": 6, "gaps": gaps, "lastSeq": 9}),
        );
        page(json!([6, null, null]), json!({"events": [listed(9)], "lastSeq": 9}));
        page(
            json!([null, 9, 3]),
            json!({"events": [listed(9), listed(5)], "next": 4, "gaps": [], "lastSeq": 9}),
        );
        page(json!([null, 4, 1]), json!({"events": [listed(1)], "next": 0, "gaps": gaps, "lastSeq": 9}));
        let asked = fake.expect("event.publish_batch");
        let params = kairo_wire::json::to_value(asked.params.as_ref()).unwrap();
        assert_eq!((&params["events"][1]["type"], &params["ack"]), (&json!("b"), &json!("disk")));
        fake.ok(&asked, &json!({"count": 2, "firstSeq": 10, "lastSeq": 11, "ack": "disk"}));
    });
    let forward = places(&client, ReplayParams { from_seq: Some(1), ..ReplayParams::default() });
    assert_eq!(forward, [(1, 1), (2, 4), (5, 5), (9, 9)]);
    let backward =
        ReplayParams { to_seq: Some(9), limit: Some(3), order: Order::Backward, ..ReplayParams::default() };
    assert_eq!(places(&client, backward), [(9, 9), (5, 5), (2, 4), (1, 1)]);
    let draft = |topic: &str| Draft { topic: topic.to_owned(), ..Draft::default() };
    let published = client.publish_batch(vec![draft("a"), draft("b")], Ack::Disk).unwrap();
    assert_eq!((published.first_seq, published.last_seq), (10, 11));
    kernel.join().unwrap();
}

#[test]
fn whoever_goes_on_has_the_next_page_asked_for_and_may_leave_it() {
    let (asked_for, asked) = std::sync::mpsc::channel();
    let (client, kernel) = against(move |mut fake| {
        for seq in 1..=3 {
            let asked = fake.expect("event.replay");
            asked_for.send(seq).unwrap();
            fake.ok(&asked, &json!({"events": [listed(seq)], "next": seq + 1, "gaps": [], "lastSeq": 9}));
        }
        // What comes behind the page nobody takes is read all the same.
        let asked = fake.expect("kernel.ping");
        fake.ok(&asked, &json!({ "pong": true, "timestamp": 1 }));
        assert!(fake.next().is_none(), "no further page is asked for");
    });
    let mut pages = client.replay(ReplayParams::default());
    assert_eq!(pages.next().unwrap().unwrap().items.len(), 1);
    assert_eq!(asked.iter().next(), Some(1));
    assert!(asked.try_recv().is_err(), "one page may be all that is wanted");
    assert_eq!(pages.next().unwrap().unwrap().items.len(), 1);
    assert_eq!([asked.recv().unwrap(), asked.recv().unwrap()], [2, 3], "without being taken");
    drop(pages);
    client.call::<Ping>(&PingParams::default()).unwrap();
    drop(client);
    kernel.join().unwrap();
}

#[test]
fn nobody_there_is_told_apart_from_not_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::connect(folder.path().join("none.sock")).unwrap_err();
    assert!(matches!(error, ConnectError::NobodyThere { .. }), "{error}");
    assert!(error.advice().contains("kairo serve"));
}

#[test]
fn a_peer_that_is_no_kernel_is_found_out() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
    let error = Client::over(ours, &ConnectOptions::default()).unwrap_err();
    assert!(matches!(error, ConnectError::Hello(CallError::Lost(Lost::Frame(_)))), "{error:?}");
    let (ours, _silent) = UnixStream::pair().unwrap();
    let hasty = ConnectOptions { hello_deadline: Duration::from_millis(5), ..ConnectOptions::default() };
    assert!(matches!(Client::over(ours, &hasty), Err(ConnectError::Hello(CallError::Deadline))));
}

#[test]
fn parameters_that_fit_no_frame_are_refused_here() {
    let (client, kernel) = against(|mut fake| {
        let asked = fake.expect("kernel.ping");
        fake.ok(&asked, &json!({"pong": true}));
    });
    let huge = Raw::of(&"x".repeat(17 << 20)).unwrap();
    let error = client.call_raw("x", &huge, &Default::default()).unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error}");
    assert!(client.call::<Ping>(&PingParams {}).unwrap().pong);
    assert!(RawRef::new(huge.bytes()).is_ok());
    kernel.join().unwrap();
}
