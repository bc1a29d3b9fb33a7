//! The bytes existing clients send and expect, as msgpackr 1.11.8 (the encoder they use) writes them.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails where it stands")]

use bytes::{Bytes, BytesMut};
use kairo_wire::chunk::{Chunk, Prelude, put_prelude};
use kairo_wire::codec::data::Data;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::envelope::{Envelope, put_bus, put_notice};
use kairo_wire::error::WireError;
use kairo_wire::event::{KernelReady, ProcessExitNotice, StreamOverflowNotice};
use kairo_wire::frame::Header;
use kairo_wire::id::{EventId, ProcessId, SubscriptionId};
use kairo_wire::limits::HEADER_BYTES;
use kairo_wire::method::{Method, params};
use kairo_wire::methods::status::{ProcessStatus, State};
use kairo_wire::methods::stream::{Selector, StreamName};
use kairo_wire::methods::system::{BatteryMetrics, CpuMetrics, GetMetricsResult, MemoryMetrics};
use kairo_wire::methods::{process, stream};
use kairo_wire::request;
use kairo_wire::response::{put_err, put_ok};
use serde::Serialize;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The payload of the one frame in `buf`, in hex, its header checked.
fn payload(buf: &[u8]) -> String {
    let header = Header::parse(buf.first_chunk().unwrap()).unwrap();
    assert_eq!(header.length, buf.len() - HEADER_BYTES);
    hex(&buf[HEADER_BYTES..])
}

fn ok<T: Serialize>(id: &[u8], result: &T) -> String {
    let mut buf = BytesMut::new();
    put_ok(&mut buf, Dialect::V1, RawRef::new(id).unwrap(), result);
    assert_eq!(buf[3], 2);
    payload(&buf)
}

fn text_id(text: &str) -> ProcessId {
    ProcessId::from_text(text).unwrap()
}

const CALL_ID: &[u8] = b"\xa5k3f9a";

#[test]
fn a_running_status_is_byte_for_byte_v1() {
    let status = ProcessStatus { state: State::Running, pid: Some(4242), ..ProcessStatus::UNKNOWN };
    assert_eq!(
        ok(CALL_ID, &status),
        "de0003a26964a56b33663961a6726573756c74de0002a57374617465a772756e6e696e67a3706964cd1092a56572726f72d40000"
    );
    assert_eq!(
        ok(CALL_ID, &ProcessStatus::UNKNOWN),
        "de0003a26964a56b33663961a6726573756c74de0001a57374617465a7756e6b6e6f776ea56572726f72d40000"
    );
}

#[test]
fn a_missing_call_id_is_echoed_as_undefined() {
    let status = ProcessStatus { state: State::Exited, exit_code: Some(143), ..ProcessStatus::UNKNOWN };
    let call = request::read(b"\x81\xa6method\xaekernel.explode").unwrap();
    assert_eq!(
        ok(call.id.bytes(), &status),
        "de0003a26964d40000a6726573756c74de0002a57374617465a6657869746564a865786974436f6465cc8fa56572726f72d40000"
    );
}

#[test]
fn metrics_keep_absent_values_under_their_keys() {
    let mut metrics = GetMetricsResult {
        cpu: CpuMetrics { usage: 12, temperature: None },
        memory: MemoryMetrics { total: 65536, used: 1000, free: 64536 },
        battery: None,
    };
    assert_eq!(
        ok(&[7], &metrics),
        "de0003a2696407a6726573756c74de0003a3637075de0002a575736167650cab74656d7065726174757265d40000a66d656d6f7279de0003\
         a5746f74616cce00010000a475736564cd03e8a466726565cdfc18a762617474657279d40000a56572726f72d40000"
    );
    metrics.cpu.temperature = Some(45.5);
    metrics.battery = Some(BatteryMetrics { level: 80, charging: true });
    assert_eq!(
        ok(&[7], &metrics),
        "de0003a2696407a6726573756c74de0003a3637075de0002a575736167650cab74656d7065726174757265cb4046c00000000000a66d656d\
         6f7279de0003a5746f74616cce00010000a475736564cd03e8a466726565cdfc18a762617474657279de0002a56c6576656c50a86368617267\
         696e67c3a56572726f72d40000"
    );
    metrics.cpu.temperature = Some(45.0);
    metrics.battery = None;
    assert!(ok(&[7], &metrics).contains("ab74656d70657261747572652da6"), "a whole float is an integer");
}

#[test]
fn a_failure_begins_as_v1_and_adds_error_info() {
    let mut buf = BytesMut::new();
    let id = RawRef::new(b"\xa1e").unwrap();
    put_err(&mut buf, Dialect::V1, id, &WireError::missing(&["id", "data"]));
    let golden = "a26964a165a6726573756c74c0a56572726f72b6e7bcbae5b091e58f82e695b03a2069642c2064617461";
    let text = payload(&buf);
    assert!(text.starts_with(&format!("de0004{golden}a96572726f72496e666f")), "{text}");
}

#[test]
fn notices_are_byte_for_byte_v1() {
    let mut buf = BytesMut::new();
    put_notice(&mut buf, Dialect::V1, &ProcessExitNotice { id: text_id("clip"), code: -1 }).unwrap();
    assert_eq!(
        payload(&buf),
        "de0002a5746f706963ac70726f636573732e65786974a464617461de0002a26964a4636c6970a4636f6465ff"
    );
    buf.clear();
    put_notice(&mut buf, Dialect::V1, &ProcessExitNotice { id: ProcessId::Integer(77), code: 0 }).unwrap();
    assert_eq!(
        payload(&buf),
        "de0002a5746f706963ac70726f636573732e65786974a464617461de0002a269644da4636f646500"
    );
    buf.clear();
    let overflow = StreamOverflowNotice {
        subscription_id: SubscriptionId::from_text("stream_00112233"),
        process_id: text_id("clip"),
    };
    put_notice(&mut buf, Dialect::V1, &overflow).unwrap();
    assert_eq!(
        payload(&buf),
        "de0002a5746f706963af73747265616d2e6f766572666c6f77a464617461de0002ae737562736372697074696f6e4964af73747265616d5f\
         3030313132323333a970726f636573734964a4636c6970"
    );
}

#[test]
fn a_bus_event_has_the_v1_envelope() {
    let mut buf = BytesMut::new();
    let said = Raw::of(&KernelReady { pid: 300, version: "0.1.0".to_owned() }).unwrap();
    let id = EventId::new(0);
    let envelope = Envelope {
        topic: "kairo.kernel.ready",
        payload: said.as_ref(),
        id: id.as_str(),
        source: "kernel",
        time_ms: 1_795_348_805_123,
        correlation_id: None,
        causation_id: None,
        trace_id: None,
    };
    put_bus(&mut buf, Dialect::V1, &envelope, None).unwrap();
    assert_eq!(
        payload(&buf),
        "de0008a5746f706963b26b6169726f2e6b65726e656c2e7265616479a77061796c6f6164de0002a3706964cd012ca776657273696f6ea530\
         2e312e30ad636f7272656c6174696f6e4964d40000ab636175736174696f6e4964d40000a774726163654964d40000a6736f75726365a66b65\
         726e656ca474696d65b8323032362d31312d32325431323a30303a30352e3132335aa26964d92430303030303030302d303030302d34303030\
         2d383030302d303030303030303030303030"
    );
}

#[test]
fn a_chunk_is_v1_with_its_data_last() {
    let id = SubscriptionId::stream(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    let prelude = Prelude {
        subscription_id: id.as_str(),
        stream: StreamName::Stdout,
        sequence: 1,
        offset: None,
        time: None,
        partial: false,
    };
    let mut buf = BytesMut::new();
    put_prelude(&mut buf, Dialect::V1, &prelude, 6);
    buf.extend_from_slice(b"hello\n");
    assert_eq!(
        payload(&buf),
        "de0004ae737562736372697074696f6e4964d92773747265616d5f3030313132323333343435353636373738383939616162626363646465\
         656666a673747265616da67374646f7574a873657175656e636501a464617461c40668656c6c6f0a"
    );
    let chunk = Chunk::read(&buf[HEADER_BYTES..]).unwrap();
    assert_eq!((chunk.data, chunk.sequence, chunk.offset, chunk.partial), (&b"hello\n"[..], 1, None, false));
}

#[test]
fn the_word_data_comes_once_and_last_before_the_bytes() {
    let id = SubscriptionId::stream(u128::MAX);
    let prelude = Prelude {
        subscription_id: id.as_str(),
        stream: StreamName::Stderr,
        sequence: (1 << 53) - 1,
        offset: Some((1 << 53) - 1),
        time: Some(1 << 60),
        partial: true,
    };
    for dialect in [Dialect::V1, Dialect::Int64] {
        for length in [0, 255, 256, 65_535, 65_536, 1 << 20] {
            let mut buf = BytesMut::new();
            put_prelude(&mut buf, dialect, &prelude, length);
            assert!(buf.len() <= kairo_wire::chunk::PRELUDE_BYTES_MAX, "{}", buf.len());
            assert_eq!(buf.windows(4).filter(|window| window == b"data").count(), 1);
            buf.resize(buf.len() + length, b'x');
            let chunk = Chunk::read(&buf[HEADER_BYTES..]).unwrap();
            assert_eq!((chunk.data.len(), chunk.offset), (length, Some((1 << 53) - 1)));
            assert_eq!(chunk.time, Some(1 << 60).filter(|_| dialect == Dialect::Int64));
            assert!(chunk.partial);
        }
    }
}

#[test]
fn numbers_take_the_form_javascript_gives_them() {
    let golden: [(i64, &str); 21] = [
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (255, "ccff"),
        (256, "cd0100"),
        (65535, "cdffff"),
        (65536, "ce00010000"),
        (4_294_967_295, "ceffffffff"),
        (4_294_967_296, "cb41f0000000000000"),
        (1_795_348_805_123, "cb427a20320b603000"),
        (9_007_199_254_740_991, "cb433fffffffffffff"),
        (-1, "ff"),
        (-32, "e0"),
        (-33, "d0df"),
        (-128, "d080"),
        (-129, "d1ff7f"),
        (-32768, "d18000"),
        (-32769, "d2ffff7fff"),
        (-2_147_483_648, "d280000000"),
        (-2_147_483_649, "cbc1e0000000200000"),
        (-9_007_199_254_740_991, "cbc33fffffffffffff"),
    ];
    for (number, bytes) in golden {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::V1, &number).unwrap();
        assert_eq!(hex(&buf), bytes, "{number}");
    }
    for (number, bytes) in [(1.5, "cb3ff8000000000000"), (-0.0, "00"), (f64::NAN, "cb7ff8000000000000")] {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::V1, &number).unwrap();
        assert_eq!(hex(&buf), bytes);
    }
}

#[test]
fn the_int64_dialect_is_exact_where_v1_is_a_float() {
    for number in [4_294_967_296u64, u64::MAX] {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::Int64, &number).unwrap();
        assert_eq!(hex(&buf), format!("cf{number:016x}"));
    }
    let mut buf = BytesMut::new();
    to_buf(&mut buf, Dialect::Int64, &i64::MIN).unwrap();
    assert_eq!(hex(&buf), "d38000000000000000");
}

#[test]
fn texts_and_bytes_take_the_shortest_head() {
    let heads: [(usize, &str); 5] =
        [(31, "bf"), (32, "d920"), (256, "da0100"), (65_535, "daffff"), (65_536, "db00010000")];
    for (length, head) in heads {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::V1, &"x".repeat(length)).unwrap();
        assert!(hex(&buf[..5]).starts_with(head), "{length}");
    }
    for (length, head) in [(0, "c400"), (255, "c4ff"), (256, "c50100"), (65_536, "c600010000")] {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, Dialect::V1, &Data(Bytes::from(vec![0; length]))).unwrap();
        assert!(hex(&buf).starts_with(head), "{length}");
    }
    let mut buf = BytesMut::new();
    to_buf(&mut buf, Dialect::V1, &[1u8; 16].as_slice()).unwrap();
    assert_eq!(hex(&buf[..4]), "dc001001");
}

/// What `read` makes of a payload in hex, with its parameters.
fn call<M: Method>(text: &str) -> Result<M::Params, WireError> {
    let payload = unhex(text);
    let call = request::read(&payload).unwrap();
    assert_eq!(call.method, M::NAME);
    params::<M>(call.params)
}

#[test]
fn calls_of_the_original_client_are_understood() {
    let text = "de0003a26964a56b33663962a66d6574686f64ad70726f636573732e737061776ea6706172616d73de0003a269644da7636f6d6d616e6493\
                a46563686fa2686903a76f7074696f6e73d40000";
    let spawn = call::<process::Spawn>(&text.replace(char::is_whitespace, "")).unwrap();
    assert_eq!(spawn.id, ProcessId::Integer(77));
    let argv: Vec<&[u8]> = spawn.command.iter().map(|argument| argument.as_bytes()).collect();
    assert_eq!(argv, [&b"echo"[..], b"hi", b"3"], "numbers in argv are their text");
    assert!(spawn.options.is_none(), "undefined is absent");

    let text = "de0003a26964a173a66d6574686f64b870726f636573732e7374646f75742e737562736372696265a6706172616d73de0004a3706964a463\
                6c6970a673747265616dd40000a46d6f6465d40000aa62756666657253697a65ce00100000";
    let subscribe = call::<stream::Subscribe>(&text.replace(char::is_whitespace, "")).unwrap();
    assert_eq!(subscribe.process().unwrap(), &text_id("clip"));
    assert_eq!((subscribe.stream, subscribe.buffer_size), (Selector::Both, Some(1_048_576)));

    let text = "de0003a26964a177a66d6574686f64b370726f636573732e737464696e2e7772697465a6706172616d73de0002a26964a4636c6970a46461\
                7461c40300ff0a";
    let write = call::<process::StdinWrite>(&text.replace(char::is_whitespace, "")).unwrap();
    assert_eq!(&write.data.0[..], b"\x00\xff\n");
}

#[test]
fn any_id_goes_back_as_it_came() {
    // A float, a binary, an array, a map with an integer key, a big integer, an extension, nil, a lone surrogate.
    for id in [
        "cb3ff8000000000000",
        "c402ffff",
        "920102",
        "8101c3",
        "d30000000000000005",
        "d6ff00000001",
        "c0",
        "a3eda080",
    ] {
        let mut text = b"\x82\xa2id".to_vec();
        text.extend(unhex(id));
        text.extend(b"\xa6method\xabkernel.ping");
        let call = request::read(&text).unwrap();
        let answer = ok(call.id.bytes(), &true);
        assert_eq!(answer, format!("de0003a26964{id}a6726573756c74c3a56572726f72d40000"));
        assert_eq!(call.id.to_owned().bytes(), unhex(id));
    }
}

#[test]
fn raw_values_pass_through_unchanged() {
    // Not the form we would write: a fixmap, a long integer.
    let raw: Raw = RawRef::new(&unhex("8101d30000000000000005")).unwrap().to_owned();
    let mut buf = BytesMut::new();
    to_buf(&mut buf, Dialect::V1, &[&raw, &raw]).unwrap();
    assert_eq!(hex(&buf), "928101d300000000000000058101d30000000000000005");
    assert_eq!(kairo_wire::json::to_text(raw.as_ref()).unwrap(), r#"{"1":5}"#);
}
