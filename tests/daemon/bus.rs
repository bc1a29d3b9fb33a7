//! The log across lives of the daemon: it is killed at any moment, and what it has answered is so.

use crate::adoption::lives_on_both_drivers;
use crate::support::Daemon;
use crate::support::raw::Raw;
use nix::sys::signal::Signal;
use serde_json::{Value as Json, json};

lives_on_both_drivers!(calls_with_a_key_happen_once_whenever_the_kernel_dies);

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
