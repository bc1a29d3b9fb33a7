//! The log across lives of the daemon: it is killed at any moment, and what it has answered is so.

use crate::adoption::lives_on_both_drivers;
use crate::support::raw::{RESPONSE, Raw, value};
use crate::support::{Daemon, until};
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

lives_on_both_drivers!(
    who_asks_is_shown_all_that_happened_before,
    calls_with_a_key_happen_once_whenever_the_kernel_dies,
    a_consumer_loses_nothing_and_gets_nothing_answered_again,
    an_answer_that_was_given_outlives_the_kernel_and_a_question_does_not,
    what_goes_into_a_stdin_is_in_the_log,
);

/// All events of a type there are.
fn all_of(raw: &mut Raw, topic: &str) -> Vec<Json> {
    let (mut events, mut from) = (Vec::new(), 1);
    loop {
        let page = raw.ok("event.replay", json!({"types": [topic], "fromSeq": from}));
        events.extend(page["events"].as_array().into_iter().flatten().cloned());
        match page["next"].as_u64() {
            Some(next) => from = next,
            None => return events,
        }
    }
}

/// Nobody waits for these events to be written, so the log's writer takes its time.
fn who_asks_is_shown_all_that_happened_before(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    for number in 0..50 {
        let draft = json!({"type": "test.now", "data": {"number": number}, "ack": "memory"});
        let seq = raw.ok("event.publish", draft)["seq"].clone();
        let page = raw.ok("event.replay", json!({"fromSeq": seq}));
        assert_eq!((&page["events"][0]["seq"], &page["lastSeq"]), (&seq, &seq), "{page}");
    }
    let rows = raw.ok("view.get", json!({"name": "sessions"}));
    raw.ok("process.spawn", json!({"id": "p", "command": ["sleep", "1000"]}));
    let more = raw.ok("view.get", json!({"name": "sessions"}));
    let count = |rows: &Json| rows["rows"].as_array().map_or(0, Vec::len);
    assert_eq!(count(&more), count(&rows) + 1, "{more}");
    raw.ok("process.kill", json!({"id": "p", "graceMs": 0}));
}

fn calls_with_a_key_happen_once_whenever_the_kernel_dies(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    let mut spawned = Vec::new();
    for life in 0..6 {
        // Many are under way when it dies; each life leaves some without an answer.
        let publish = |number: usize| json!({"type": "test.once", "data": {"life": life, "number": number}});
        let key = |number: usize| format!("{life}-{number}");
        let calls: Vec<Option<u64>> =
            (0..40).map(|number| raw.send_once("event.publish", &publish(number), &key(number))).collect();
        let answered = if life == 0 { 40 } else { life * 5 };
        let mut receipts: Vec<Option<Json>> = vec![None; calls.len()];
        for (number, call) in calls.iter().enumerate().take(answered) {
            let answer = call.and_then(|id| raw.answer_if_any(id)).expect("it lives so long");
            receipts[number] = Some(crate::support::raw::json(&answer.expect("it is published")));
        }
        let id = format!("p{life}");
        let params = json!({"id": id, "command": ["sleep", "1000"]});
        let receipt = raw.call_once("process.spawn", &params, &id).expect("it lives").expect("it runs");
        spawned.push((id, params, receipt));
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        daemon.succeed(&[]);
        raw = daemon.connect_modern();
        for (number, receipt) in receipts.into_iter().enumerate() {
            let again = raw.call_once("event.publish", &publish(number), &key(number));
            let again = again.expect("it lives").expect("it is published");
            assert!(receipt.is_none_or(|receipt| receipt == again), "what was answered is answered so again");
        }
        let refusal = raw.call_once("event.publish", &json!({"type": "test.other"}), &key(0));
        assert_eq!(refusal.expect("it lives").expect_err("another body").code, "E_CONFLICT");
        assert_eq!(all_of(&mut raw, "test.once").len(), (life + 1) * 40, "each is there once");
    }
    for (id, params, receipt) in spawned {
        let again = raw.call_once("process.spawn", &params, &id).expect("it lives").expect("it ran");
        assert_eq!(again, receipt);
        raw.ok("process.kill", json!({"id": id, "graceMs": 0}));
    }
}

/// A connection that takes events of consumers.
fn consuming(daemon: &Daemon) -> Raw {
    let mut raw = daemon.connect();
    raw.ok("kernel.hello", json!({"features": ["envelope", "int64"]}));
    raw
}

/// The next event of a consumer: its number, place and delivery.
fn next_job(raw: &mut Raw) -> Option<(u64, u64, u64)> {
    let mut answers = Vec::new();
    loop {
        let frame = raw.frame()?;
        if frame.kind == RESPONSE {
            answers.push(frame);
            continue;
        }
        let event = frame.json();
        let number = |value: &Json| value.as_u64();
        if let (Some(job), Some(seq), Some(delivery)) =
            (number(&event["payload"]), number(&event["seq"]), number(&event["delivery"]))
        {
            raw.put_back(answers);
            return Some((job, seq, delivery));
        }
    }
}

fn a_consumer_loses_nothing_and_gets_nothing_answered_again(daemon: &mut Daemon) {
    const JOBS: u64 = 600;
    let mut raw = consuming(daemon);
    raw.ok("consumer.create", json!({"name": "work", "topic": "test.job", "maxInFlight": 50}));
    for job in 0..JOBS {
        raw.ok("event.publish", json!({"type": "test.job", "data": job, "ack": "memory"}));
    }
    // The last one is in the log, so all are.
    raw.ok("event.publish", json!({"type": "test.end"}));
    let mut done = vec![0; JOBS as usize];
    let mut answered = vec![false; JOBS as usize];
    for life in 0.. {
        raw.ok("consumer.attach", json!({"name": "work"}));
        // Some acknowledgements are on their way when it dies.
        let mut waiting = Vec::new();
        for _ in 0..if life < 5 { 90 } else { JOBS } {
            if raw.ok("consumer.status", json!({"name": "work"}))["acked"] == JOBS {
                break;
            }
            let (job, seq, _) = next_job(&mut raw).expect("it lives");
            assert!(!answered[job as usize], "job {job} was answered and comes again");
            done[job as usize] += 1;
            let id = raw.request("consumer.ack", value(&json!({"name": "work", "seq": seq})));
            waiting.push((id, job));
            if waiting.len() >= 20 {
                let (id, job) = waiting.remove(0);
                raw.answer(id).expect("it is acknowledged");
                answered[job as usize] = true;
            }
            if life >= 5 {
                for (id, job) in waiting.drain(..) {
                    raw.answer(id).expect("it is acknowledged");
                    answered[job as usize] = true;
                }
            }
        }
        if life >= 5 {
            break;
        }
        daemon.kill_and_succeed();
        raw = consuming(daemon);
    }
    assert!(done.iter().all(|times| *times > 0), "every job was done");
    let status = raw.ok("consumer.status", json!({"name": "work"}));
    assert_eq!((&status["acked"], &status["pending"]), (&json!(JOBS), &json!(0)));
    // A poisonous one is put aside, however often the kernel dies meanwhile.
    let poison = json!({"name": "poison", "topic": "test.poison", "maxDeliver": 3, "ackWaitMs": 60_000});
    raw.ok("consumer.create", poison);
    raw.ok("event.publish", json!({"type": "test.poison", "data": 1}));
    for delivery in 1..=3 {
        raw.ok("consumer.attach", json!({"name": "poison"}));
        let (_, seq, count) = next_job(&mut raw).expect("it lives");
        assert_eq!(count, delivery);
        raw.ok("consumer.nak", json!({"name": "poison", "seq": seq, "delayMs": 600_000}));
        daemon.kill_and_succeed();
        raw = consuming(daemon);
    }
    until("it is put aside", || raw.ok("consumer.status", json!({"name": "poison"}))["dead"] == 1);
    until("that is written", || !all_of(&mut raw, "kairo.kernel.dead_letter").is_empty());
    let letters = all_of(&mut raw, "kairo.kernel.dead_letter");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["payload"]["deliveries"], 3);
    // The last nak and the kill race: either is a delivery that came to nothing.
    let reason = letters[0]["payload"]["reason"].as_str();
    assert!(matches!(reason, Some("nak" | "gone")), "{reason:?}");
}

/// The next event of a type.
fn next_event(raw: &mut Raw, topic: &str) -> Json {
    loop {
        let event = raw.frame().expect("it lives").json();
        if event["topic"] == topic {
            return event;
        }
    }
}

fn an_answer_that_was_given_outlives_the_kernel_and_a_question_does_not(daemon: &mut Daemon) {
    let (mut asker, mut answerer) = (consuming(daemon), consuming(daemon));
    answerer.ok("subscribe", json!({"topic": "test.ask"}));
    let ask = json!({"type": "test.ask", "data": {"a": 1}, "timeoutMs": 60_000});
    let call = asker.send_once("event.request", &ask, "key").expect("it is sent");
    let asked = next_event(&mut answerer, "test.ask");
    answerer.ok("event.publish", json!({"type": "test.answer", "answers": asked["id"], "data": [1, 2]}));
    let result = crate::support::raw::json(&asker.answer(call).expect("it is answered"));
    assert_eq!(result["data"], json!([1, 2]));
    let open = asker.request("event.request", value(&ask));
    let asked = next_event(&mut answerer, "test.ask");
    daemon.kill_and_succeed();
    assert!(asker.answer_if_any(open).is_none(), "the question goes with the connection");
    let (mut asker, mut answerer) = (consuming(daemon), consuming(daemon));
    let again = asker.call_once("event.request", &ask, "key").expect("it lives").expect("it was answered");
    assert_eq!(again, result);
    let late = json!({"type": "test.answer", "answers": asked["id"]});
    assert_eq!(answerer.refused("event.publish", late).code, "E_CONFLICT");
    let error = json!({"code": "BUSY", "message": "not now"});
    answerer.ok("subscribe", json!({"topic": "test.ask"}));
    let call = asker.request("event.request", value(&ask));
    let asked = next_event(&mut answerer, "test.ask");
    answerer.ok("event.publish", json!({"type": "test.answer", "answers": asked["id"], "error": error}));
    let refusal = asker.answer(call).expect_err("an error");
    assert_eq!(
        (refusal.code.as_str(), &refusal.info["details"]["code"]),
        ("E_REQUEST_FAILED", &json!("BUSY"))
    );
    let told = all_of(&mut asker, "test.answer");
    assert_eq!(told.len(), 2);
    assert_eq!(told[1]["error"], error);
}

fn what_goes_into_a_stdin_is_in_the_log(daemon: &mut Daemon) {
    let mut raw = daemon.connect_modern();
    raw.spawn("cat", &["cat"], json!({}));
    for _ in 0..100 {
        raw.ok("process.stdin.write", json!({"id": "cat", "data": "0123456789"}));
    }
    raw.ok("process.stdin.close", json!({"id": "cat"}));
    raw.ok("process.wait", json!({"id": "cat"}));
    let mut told = Vec::new();
    until("all of it is told", || {
        told = all_of(&mut raw, "kairo.process.written");
        told.last().is_some_and(|event| event["payload"]["to"] == 1_000)
    });
    let calls: u64 = told.iter().filter_map(|event| event["payload"]["calls"].as_u64()).sum();
    assert_eq!(calls, 100);
    let mut at = json!(0);
    for event in &told {
        assert_eq!(event["payload"]["from"], at);
        at = event["payload"]["to"].clone();
    }
    let spawned = all_of(&mut raw, "kairo.process.spawned").pop().expect("it ran");
    assert_eq!(told[0]["causationId"], spawned["id"]);
}
