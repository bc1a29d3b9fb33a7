//! One flood to more and more readers, each of which gets every byte.

use crate::framed::{drain, pipe};
use crate::stopped::flood;
use crate::support::daemon::Daemon;
use crate::support::report::{ROUNDS, Report};
use crate::support::roles;
use std::time::Instant;

const TOTAL: u64 = 512 << 20;
const READERS: [usize; 5] = [1, 2, 4, 8, 16];

pub(crate) fn run(report: &mut Report) {
    let daemon = Daemon::start(&[]);
    let (mut direct, mut kairo) = (Vec::new(), READERS.map(|_| Vec::new()));
    for round in 0..ROUNDS {
        direct.push(directly());
        for (rates, readers) in kairo.iter_mut().zip(READERS) {
            let id = format!("to-{readers}-{round}");
            rates.push(flood(&daemon, &id, (TOTAL, readers), false) * readers as f64);
        }
    }
    for readers in [READERS[0], READERS[READERS.len() - 1]] {
        let what = format!("direct pipe, one reader, for the line at {readers}");
        report.point(&what, "GB/s", ("a direct pipe, one reader", readers), &direct);
    }
    for (rates, readers) in kairo.iter().zip(READERS) {
        let what = format!("kairo, in frames to {readers}: all together");
        report.point(&what, "GB/s", ("kairo, in frames", readers), rates);
    }
}

fn directly() -> f64 {
    let (reader, writer) = pipe();
    let begun = Instant::now();
    let mut child =
        roles::command("writer", &[&TOTAL.to_string()]).stdout(writer).spawn().expect("the writer starts");
    assert_eq!(drain(reader), TOTAL);
    let seconds = begun.elapsed().as_secs_f64();
    child.wait().expect("it is our child");
    TOTAL as f64 / 1e9 / seconds
}
