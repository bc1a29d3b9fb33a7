//! Reading under limits, with the tolerance existing clients need.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails where it stands")]

use bytes::BytesMut;
use kairo_wire::codec::check::{CheckError, check};
use kairo_wire::codec::decode::from_slice;
use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::{Raw, RawRef};
use kairo_wire::codec::text::OsText;
use kairo_wire::error::{Code, WireError};
use kairo_wire::id::ProcessId;
use kairo_wire::json;
use kairo_wire::limits::{DEPTH_MAX, ELEMENTS_MAX};
use kairo_wire::method::{Method, params};
use kairo_wire::methods::options::{HistoryOption, Pty, Rlimit, SignalName, TerminalSize, User};
use kairo_wire::methods::stream::{Mode, Policy, Start};
use kairo_wire::methods::{event, process, stream, system};
use kairo_wire::request::{self, Refused};
use kairo_wire::response::{Response, put_err, put_ok};

/// Parameters given as JSON.
fn from_json<M: Method>(text: &str) -> Result<M::Params, WireError> {
    params::<M>(json::from_text(text).unwrap().as_ref())
}

/// The `error` text of parameters given as JSON.
fn refusal<M: Method>(text: &str) -> String {
    match from_json::<M>(text) {
        Ok(_) => panic!("{text} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn one_value_within_the_limits_passes() {
    for good in
        [&b"\xc0"[..], b"\x80", b"\x92\x01\xa1x", b"\xde\x00\x01\xa1k\x93\x01\x02\x03", b"\xd4\x00\x00"]
    {
        assert_eq!(check(good), Ok(()), "{good:02x?}");
    }
}

#[test]
fn what_is_not_one_whole_value_is_told_apart() {
    assert_eq!(check(b""), Err(CheckError::Truncated));
    assert_eq!(check(b"\xc1"), Err(CheckError::Reserved(0)));
    assert_eq!(check(b"\x92\x01"), Err(CheckError::Truncated));
    assert_eq!(check(b"\x01\x02\x03"), Err(CheckError::Trailing(2)));
    assert_eq!(check(b"\xdb\xff\xff\xff\xff"), Err(CheckError::Truncated));
    assert_eq!(check(b"\xc9\xff\xff\xff\xff\x01"), Err(CheckError::Truncated));
    assert_eq!(check(b"\x91\x91\xc1"), Err(CheckError::Reserved(2)));
}

#[test]
fn every_cut_of_a_value_is_truncated() {
    let whole =
        json::from_text(r#"{"a":[1,-2,300,70000,5000000000,1.5,"x",null,true],"b":{"c":{}}}"#).unwrap();
    for end in 0..whole.bytes().len() {
        assert_eq!(check(&whole.bytes()[..end]), Err(CheckError::Truncated), "cut at {end}");
    }
}

#[test]
fn nesting_is_bounded_exactly() {
    for open in [&b"\x91"[..], b"\x81\xa1k", b"\xdc\x00\x01", b"\xdf\x00\x00\x00\x01\xa1k"] {
        let nested = |levels: usize| [open.repeat(levels), b"\xc0".to_vec()].concat();
        assert_eq!(check(&nested(DEPTH_MAX)), Ok(()));
        assert_eq!(check(&nested(DEPTH_MAX + 1)), Err(CheckError::TooDeep));
        assert_eq!(check(&nested(1_000_000)), Err(CheckError::TooDeep));
        assert!(
            from_slice::<serde_json::Value>(&nested(1_000_000)).is_err(),
            "and does not overflow the stack"
        );
    }
}

#[test]
fn counts_are_bounded_exactly_and_lies_are_truncation() {
    let array = |count: u32| [&b"\xdd"[..], &count.to_be_bytes(), &vec![0xc0; count as usize]].concat();
    // The array itself is an element.
    assert_eq!(check(&array(ELEMENTS_MAX as u32 - 1)), Ok(()));
    assert_eq!(check(&array(ELEMENTS_MAX as u32)), Err(CheckError::TooManyElements));
    assert_eq!(check(b"\xdd\xff\xff\xff\xff\xc0"), Err(CheckError::Truncated));
    assert_eq!(check(b"\xdf\xff\xff\xff\xff\xc0"), Err(CheckError::Truncated));
}

#[test]
fn too_much_is_answered_and_what_is_no_messagepack_closes() {
    let deep = [&b"\x83\xa2id\x07\xa6method\xa1x\xa6params"[..], &[0x91; 100], b"\xc0"].concat();
    match request::read(&deep) {
        Err(Refused::Answer { id, error }) => {
            assert_eq!(id.bytes(), [7]);
            assert_eq!(error.code, Code::TooLarge);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(request::read(&[0xc0, 0xc0]), Err(Refused::Close(CheckError::Trailing(1)))));
    assert!(matches!(request::read(&[]), Err(Refused::Close(CheckError::Truncated))));
}

#[test]
fn payloads_that_are_no_call_are_answered_with_an_undefined_id() {
    for payload in [&b"\xc0"[..], b"\x01", b"\x93\x01\x02\x03", b"\xa1x", b"\xd4\x00\x00", b"\x80"] {
        match request::read(payload) {
            Err(Refused::Answer { id, error }) => {
                assert_eq!(id, RawRef::ABSENT);
                assert_eq!(error.to_string(), "缺少参数: method");
            }
            other => panic!("{other:?}"),
        }
    }
    match request::read(b"\x82\xa2id\x01\xa6method\x05") {
        Err(Refused::Answer { id, error }) => {
            assert_eq!(id.bytes(), [1]);
            assert_eq!(error.to_string(), "E_INVALID_PARAMS: method: expected a string, found integer `5`");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_missing_parameters_are_named_at_once_in_the_rows_order() {
    assert_eq!(refusal::<process::StdinWrite>("{}"), "缺少参数: id, data");
    assert_eq!(refusal::<process::StdinWrite>(r#"{"id":"x"}"#), "缺少参数: data");
    assert_eq!(refusal::<process::Spawn>(r#"{"command":null}"#), "缺少参数: id, command");
    assert_eq!(refusal::<process::Spawn>(r#"{"command":["x"],"id":""}"#), "缺少参数: id");
    assert_eq!(refusal::<process::Spawn>(r#"{"command":["x"],"id":0}"#), "缺少参数: id");
    assert_eq!(refusal::<event::Subscribe>(r#"{"topic":""}"#), "缺少参数: topic");
    assert_eq!(refusal::<stream::Unsubscribe>("{}"), "缺少参数: subscriptionId");
    let error = from_json::<process::StdinWrite>("{}").unwrap_err();
    assert_eq!(error.message, "missing parameters: id, data");
    assert_eq!(error.details.unwrap()["missing"], serde_json::json!(["id", "data"]));
}

#[test]
fn parameters_that_are_no_map_count_as_empty() {
    for raw in [&b"\xc0"[..], b"\xd4\x00\x00", b"\x93\x01\x02\x03", b"\x05", b"\xa1x"] {
        let raw = RawRef::new(raw).unwrap();
        assert_eq!(params::<process::Status>(raw).unwrap_err().to_string(), "缺少参数: id");
        assert!(params::<system::Hello>(raw).is_ok());
    }
}

#[test]
fn a_value_is_found_under_its_key_unless_it_is_absent() {
    let map = json::from_text(r#"{"a": {"b": 1}, "n": null, "z": 2}"#).unwrap();
    let map = map.as_ref();
    assert_eq!(map.get("a").and_then(|a| a.get("b")).map(|b| b.bytes()), Some(&[1][..]));
    assert_eq!(map.get("z").map(|z| z.bytes()), Some(&[2][..]));
    assert!(map.get("n").is_none() && map.get("none").is_none());
    assert!(map.get("z").is_some_and(|z| z.get("a").is_none()), "what is no map has no keys");
}

#[test]
fn empty_data_is_data() {
    assert_eq!(from_json::<process::StdinWrite>(r#"{"id":"x","data":""}"#).unwrap().data.0.len(), 0);
}

#[test]
fn an_alias_of_the_process_is_taken_and_a_contradiction_is_not() {
    let subscribe =
        |text: &str| from_json::<stream::Subscribe>(text).and_then(|params| params.process().cloned());
    let id = ProcessId::from_text("x").unwrap();
    assert_eq!(subscribe(r#"{"pid":"x"}"#).unwrap(), id);
    assert_eq!(subscribe(r#"{"id":"x"}"#).unwrap(), id);
    assert_eq!(subscribe(r#"{"id":"x","pid":"x"}"#).unwrap(), id);
    assert_eq!(
        subscribe(r#"{"id":"x","pid":"y"}"#).unwrap_err().to_string(),
        "E_INVALID_PARAMS: id: differs from pid"
    );
    assert_eq!(subscribe("{}").unwrap_err().to_string(), "缺少参数: pid");
    assert_eq!(subscribe(r#"{"pid":""}"#).unwrap_err().to_string(), "缺少参数: pid");
}

#[test]
fn wrong_types_are_named_by_their_path() {
    let cases = [
        (r#"{"id":"x","command":"ls"}"#, "command: expected a sequence, found string \"ls\""),
        (r#"{"id":"x","command":["ls",["y"]]}"#, "command[1]: expected text without NUL, found sequence"),
        (
            r#"{"id":"x","command":["ls","a\u0000b"]}"#,
            "command[1]: expected text without NUL, found a NUL byte",
        ),
        (r#"{"id":[],"command":["ls"]}"#, "id: expected a process id (text or integer), found sequence"),
        (
            r#"{"id":"x","command":["ls"],"options":{"limits":{"memory":"lots"}}}"#,
            "options.limits.memory: expected u64, found string \"lots\"",
        ),
        (
            r#"{"id":"x","command":["ls"],"options":{"limits":{"memory":-1}}}"#,
            "options.limits.memory: expected u64, found integer `-1`",
        ),
        (
            r#"{"id":"x","command":["ls"],"options":{"pty":{"rows":0,"cols":80}}}"#,
            "options.pty.rows: expected 1 to 65534, found integer `0`",
        ),
        (
            r#"{"id":"x","command":["ls"],"options":{"pty":{"rows":65535,"cols":80}}}"#,
            "options.pty.rows: expected 1 to 65534, found integer `65535`",
        ),
        (r#"{"id":"x","command":["ls"],"options":["/tmp"]}"#, "options: expected a map, found sequence"),
        (r#"{"id":"x","command":["ls"],"options":{"pty":{"rows":5}}}"#, "options.pty.cols: is missing"),
        (
            r#"{"id":"x","command":["ls"],"options":{"stdin":"tty"}}"#,
            "options.stdin: expected \"pipe\", \"null\", \"inherit\", {file} or {stream: {id, stream}}, found string \"tty\"",
        ),
        (
            r#"{"id":"x","command":["ls"],"options":{"env":{"A":{}}}}"#,
            "options.env.A: expected text without NUL, found map",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal::<process::Spawn>(text), format!("E_INVALID_PARAMS: {message}"));
    }
    let error = from_json::<process::Resize>(r#"{"id":"x","rows":"a","cols":1}"#).unwrap_err();
    let details = error.details.unwrap();
    assert_eq!((&details["field"], &details["expected"]), (&"rows".into(), &"u64".into()));
}

#[test]
fn signals_that_are_none_are_refused() {
    for signal in ["0", "65", "-1", "\"NOPE\"", "1.5", "\"\"", "[]", "9223372036854775807"] {
        let text = refusal::<process::Signal>(&format!(r#"{{"id":"x","signal":{signal}}}"#));
        assert!(text.starts_with("E_INVALID_PARAMS: signal: expected a signal name"), "{text}");
    }
    for signal in ["\"HUP\"", "\"SIGHUP\"", "\"hup\"", "\"1\"", "1", "1.0"] {
        let signal =
            from_json::<process::Signal>(&format!(r#"{{"id":"x","signal":{signal}}}"#)).unwrap().signal;
        assert_eq!(signal.number(), 1);
    }
    assert_eq!(SignalName::from_text("SIGKILL"), Some(SignalName::Name("KILL")));
    assert_eq!(SignalName::name_of(15), Some("TERM"));
}

#[test]
fn every_spawn_option_is_read() {
    let spawn = from_json::<process::Spawn>(
        r#"{"id":77,"command":["a",2,true],"options":{"cwd":"/tmp","env":{"A":"b","N":5,"U":null},"inheritEnv":true,
            "secretEnv":["A"],"secretArgs":[1],"limits":{"cpu":50,"memory":64,"pids":9,"rlimits":{"nofile":100}},
            "allowWeaker":true,"sandbox":{"network":{}},"pty":true,"stdin":"null","stderr":"stdout","pipeBytes":1048576,
            "history":{"headBytes":1,"tailBytes":2},"when_unread":"block","on_disconnect":"kill","user":"nobody",
            "later":[1,2,{"x":1}]}}"#,
    )
    .unwrap();
    let options = spawn.options.unwrap();
    assert_eq!(options.cwd, Some(OsText::from("/tmp")));
    assert_eq!(options.env.len(), 2, "an absent value sets nothing");
    assert_eq!(options.env["N"], OsText::from("5"));
    let limits = options.limits.unwrap();
    assert_eq!((limits.cpu, limits.memory, limits.pids), (Some(50), Some(64), Some(9)));
    assert_eq!(limits.rlimits[&Rlimit::Nofile], 100);
    assert_eq!(options.pty, Pty(Some(TerminalSize::DEFAULT)));
    assert_eq!(options.history, HistoryOption::Sizes { head_bytes: Some(1), tail_bytes: Some(2) });
    assert_eq!(options.when_unread.word(), "block");
    assert_eq!(options.on_disconnect.word(), "kill");
    assert_eq!(options.user, Some(User::Name("nobody".to_owned())));
    assert!(options.sandbox.is_some());
}

#[test]
fn the_start_of_a_reader_has_four_forms() {
    let start =
        |from: &str| from_json::<stream::Subscribe>(&format!(r#"{{"pid":"x","from":{from}}}"#)).unwrap().from;
    assert_eq!(start("\"oldest\""), Start::Oldest);
    assert_eq!(start("\"now\""), Start::Now);
    assert_eq!(start("9007199254740991"), Start::At(9_007_199_254_740_991));
    assert_eq!(start("1e6"), Start::At(1_000_000));
    assert_eq!(start(r#"{"stdout":5}"#), Start::Each { stdout: 5, stderr: 0 });
    assert_eq!(start("null"), Start::Oldest);
    for wrong in [r#""later""#, "-1", "1.5", "true", "9007199254740992"] {
        let text = refusal::<stream::Subscribe>(&format!(r#"{{"pid":"x","from":{wrong}}}"#));
        assert!(text.starts_with("E_INVALID_PARAMS: from: expected"), "{text}");
    }
    let subscribe =
        from_json::<stream::Subscribe>(r#"{"pid":"x","mode":"lines","policy":"drop_oldest"}"#).unwrap();
    assert_eq!((subscribe.mode, subscribe.policy), (Mode::Lines, Policy::DropOldest));
    assert!(
        refusal::<stream::Subscribe>(r#"{"pid":"x","mode":"word"}"#)
            .contains("\"chunk\" or \"line\" or \"lines\"")
    );
}

#[test]
fn integers_of_every_width_and_whole_floats_are_one_number() {
    let forms = ["05", "cc05", "cd0005", "ce00000005", "cf0000000000000005", "d005", "d10005", "d200000005"];
    for form in forms.iter().chain(&["d30000000000000005", "ca40a00000", "cb4014000000000000"]) {
        let bytes: Vec<u8> =
            (0..form.len()).step_by(2).map(|at| u8::from_str_radix(&form[at..at + 2], 16).unwrap()).collect();
        assert_eq!(from_slice::<u64>(&bytes), Ok(5), "{form}");
        assert_eq!(from_slice::<i32>(&bytes), Ok(5), "{form}");
        assert_eq!(from_slice::<f64>(&bytes), Ok(5.0), "{form}");
        assert_eq!(from_slice::<ProcessId>(&bytes), Ok(ProcessId::Integer(5)), "{form}");
    }
    assert!(from_slice::<u64>(b"\xcb\x3f\xf8\0\0\0\0\0\0").is_err(), "1.5 is no integer");
    assert!(from_slice::<u8>(b"\xcd\x01\x00").is_err(), "256 is no u8");
    assert_eq!(from_slice::<u64>(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), Ok(u64::MAX));
}

#[test]
fn two_ids_with_one_text_are_different_and_collide() {
    let (number, text) = (ProcessId::Integer(77), ProcessId::from_text("77").unwrap());
    assert_ne!(number, text);
    assert_eq!(number.key(), text.key());
    assert!(from_slice::<ProcessId>(b"\xcb\x3f\xf8\0\0\0\0\0\0").is_err());
    assert!(from_slice::<ProcessId>(&[&b"\xda\x01\x00"[..], &[b'x'; 256]].concat()).is_err());
}

#[test]
fn invalid_utf8_is_kept_in_data_and_replaced_in_text() {
    let write = b"\x82\xa2id\xa1x\xa4data\xa3\xed\xa0\x80";
    let params_of = |bytes: &[u8]| params::<process::StdinWrite>(RawRef::new(bytes).unwrap());
    assert_eq!(&params_of(write).unwrap().data.0[..], b"\xed\xa0\x80");
    assert_eq!(from_slice::<OsText>(b"\xa2\xff\xfe").unwrap().as_bytes(), b"\xff\xfe");
    assert_eq!(from_slice::<String>(b"\xa2a\xff"), Ok("a\u{fffd}".to_owned()));
    // A key of invalid UTF-8 is an unknown key.
    assert!(params_of(b"\x83\xa1\xff\x01\xa2id\xa1x\xa4data\xc4\x00").is_ok());
}

#[test]
fn dates_are_taken_where_time_or_text_is_wanted() {
    let date = b"\xd6\xff\x00\x00\x00\x02";
    assert_eq!(from_slice::<u64>(date), Ok(2000));
    assert_eq!(from_slice::<String>(date), Ok("1970-01-01T00:00:02.000Z".to_owned()));
    assert_eq!(from_slice::<Option<u64>>(b"\xd4\x00\x00"), Ok(None));
    assert!(from_slice::<u64>(b"\xd4\x05\x00").is_err(), "other extensions are nothing we know");
}

#[test]
fn unknown_keys_of_every_kind_are_ignored() {
    // 5: [..], true: {}, nil: 1, bin: 2, [1]: 3, then the id.
    let bytes = b"\x86\x05\x91\x01\xc3\x80\xc0\x01\xc4\x01x\x02\x91\x01\x03\xa2id\xa1x";
    assert!(params::<process::Status>(RawRef::new(bytes).unwrap()).is_ok());
    // An integer key is no place of a field.
    let bytes = b"\x81\x00\xa1x";
    assert!(params::<process::Status>(RawRef::new(bytes).unwrap()).is_err());
}

#[test]
fn an_error_never_echoes_a_payload() {
    let long = "x".repeat(100_000);
    let text = refusal::<process::Spawn>(&format!(r#"{{"id":"x","command":"{long}"}}"#));
    assert!(text.len() < 400, "{}", text.len());
    let text = refusal::<process::Spawn>(&format!(
        r#"{{"id":"x","command":["a"],"options":{{"limits":{{"rlimits":{{"{long}":1}}}}}}}}"#
    ));
    assert!(text.len() < 600, "{}", text.len());
    assert!(WireError::unknown_method(&long).to_string().len() < 400);
}

#[test]
fn meta_is_read_when_wanted() {
    let payload = json::from_text(
        r#"{"id":1,"method":"kernel.ping","meta":{"correlationId":"c","deadlineMs":250.0,"idempotencyKey":null}}"#,
    )
    .unwrap();
    let call = request::read(payload.bytes()).unwrap();
    let meta = call.meta().unwrap();
    assert_eq!((meta.correlation_id.as_deref(), meta.deadline_ms), (Some("c"), Some(250)));
    assert_eq!(meta.idempotency_key, None);

    let payload = json::from_text(r#"{"id":1,"method":"kernel.ping","meta":{"deadlineMs":"soon"}}"#).unwrap();
    let error = request::read(payload.bytes()).unwrap().meta().unwrap_err();
    assert_eq!(error.to_string(), "E_INVALID_PARAMS: meta.deadlineMs: expected u64, found string \"soon\"");
}

#[test]
fn an_answer_is_read_as_it_was_written() {
    let id = Raw::of(&7).unwrap();
    let mut buf = BytesMut::new();
    put_ok(&mut buf, Dialect::V1, id.as_ref(), &"fine");
    let response = Response::read(&buf[8..]).unwrap();
    assert_eq!(response.id, id.as_ref());
    assert_eq!(response.outcome.unwrap().decode::<String>().unwrap(), "fine");

    buf.clear();
    put_err(&mut buf, Dialect::V1, id.as_ref(), &WireError::process_not_found("ghost"));
    let error = Response::read(&buf[8..]).unwrap().outcome.unwrap_err();
    assert_eq!(error.text, "Process ghost not found");
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.info.unwrap().details.unwrap().decode::<serde_json::Value>().unwrap()["id"], "ghost");
}

#[test]
fn errors_carry_the_texts_v1_clients_match_on() {
    let texts = [
        (WireError::unknown_method("x.y"), "未知方法: x.y"),
        (WireError::denied_process("process.kill", "clip"), "权限拒绝: process.kill 对进程 clip"),
        (WireError::process_not_found("clip"), "Process clip not found"),
        (WireError::vault_unavailable(), "Vault 服务不可用"),
        (WireError::new(Code::Busy, "wait"), "E_BUSY: wait"),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
    }
    assert!(WireError::denied("kernel.shutdown", "only the owner may").to_string().contains("权限拒绝"));
}

#[test]
fn an_answer_over_the_frame_limit_becomes_an_error() {
    let mut buf = BytesMut::from(&b"kept"[..]);
    put_ok(&mut buf, Dialect::V1, RawRef::new(&[7]).unwrap(), &"x".repeat(17 << 20));
    let response = Response::read(&buf[4 + 8..]).unwrap();
    assert_eq!(response.outcome.unwrap_err().code(), Some(Code::TooLarge));
    // And an id that fills a frame alone.
    let id = Raw::of(&"i".repeat((16 << 20) - 30)).unwrap();
    buf.clear();
    put_ok(&mut buf, Dialect::V1, id.as_ref(), &"more than fits");
    assert_eq!(Response::read(&buf[8..]).unwrap().id, RawRef::ABSENT);
}

#[test]
fn json_passes_through_messagepack() {
    let text = r#"{"z":[1,-1,1.5,"t",null,true,18446744073709551615],"a":{"$base64":"/wA="},"e":{}}"#;
    let raw = json::from_text(text).unwrap();
    assert_eq!(json::to_text(raw.as_ref()).unwrap(), text, "keys keep their order");
    for (bytes, base64) in [(&b"\xff"[..], "/w=="), (b"\xff\xff", "//8="), (b"\xff\xff\xff", "////")] {
        let raw = Raw::of(&kairo_wire::codec::data::Data(bytes::Bytes::copy_from_slice(bytes))).unwrap();
        let text = json::to_text(raw.as_ref()).unwrap();
        assert_eq!(text, format!(r#"{{"$base64":"{base64}"}}"#));
        assert_eq!(json::from_text(&text).unwrap(), raw);
    }
    for wrong in [
        r#"{"$base64":"?"}"#,
        r#"{"$base64":"AAAAA"}"#,
        r#"{"$base64":"AA"}"#,
        r#"{"$base64":"AB=="}"#,
        r#"{"$base64":"AA==","x":1}"#,
    ] {
        assert!(json::from_text(wrong).is_err(), "{wrong}");
    }
    let absent = RawRef::ABSENT;
    assert_eq!(json::to_text(absent).unwrap(), "null");
}

#[test]
fn results_are_read_back_as_they_were_written() {
    let spawn = process::SpawnParams {
        id: ProcessId::Integer(-5),
        command: vec![OsText::new(b"\xff".to_vec()).unwrap(), OsText::from("x")],
        options: Some(Box::default()),
    };
    for dialect in [Dialect::V1, Dialect::Int64] {
        let mut buf = BytesMut::new();
        to_buf(&mut buf, dialect, &spawn).unwrap();
        let back: process::SpawnParams = from_slice(&buf).unwrap();
        assert_eq!((back.id, back.command), (spawn.id.clone(), spawn.command.clone()));
        let options = back.options.unwrap();
        assert_eq!((options.pty, options.history), (Pty(None), HistoryOption::Default));
    }
}

#[test]
fn an_answer_and_an_event_that_are_cut_or_too_long_are_refused() {
    let value = serde_json::json!({"id": 7, "result": {"a": [1, "x"]}, "error": null});
    let answer = Raw::of(&value).unwrap();
    let event = Raw::of(&serde_json::json!({
        "topic": "a.b", "payload": {"n": 1}, "source": null, "other": [1, 2], "seq": 5, "replayed": true,
    }))
    .unwrap();
    let read = kairo_wire::envelope::EventFrame::parse(event.bytes()).unwrap();
    assert_eq!((&*read.topic, read.source, read.seq, read.replayed), ("a.b", None, Some(5), true));
    assert!(Response::read(answer.bytes()).unwrap().outcome.is_ok());
    for end in 0..answer.bytes().len() {
        assert!(Response::read(&answer.bytes()[..end]).is_err(), "{end}");
    }
    for end in 0..event.bytes().len() {
        assert!(kairo_wire::envelope::EventFrame::parse(&event.bytes()[..end]).is_err(), "{end}");
    }
    let longer = |raw: &Raw| [raw.bytes(), &[0xc0]].concat();
    assert!(Response::read(&longer(&answer)).is_err());
    assert!(kairo_wire::envelope::EventFrame::parse(&longer(&event)).is_err());
    let nameless = Raw::of(&serde_json::json!({"topic": null, "payload": 1})).unwrap();
    assert!(kairo_wire::envelope::EventFrame::parse(nameless.bytes()).is_err());
}
