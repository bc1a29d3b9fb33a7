//! Parsers against what programs really wrote, and against what none would.
//!
//! The fixtures are captures of ffmpeg 5.1, cargo 1.95, ninja 1.13 and pytest 9, with paths made relative.

use super::*;
use crate::adapters::declaration;
use crate::adapters::lines::LINE_BYTES_MAX;
use crate::adapters::registry::Registry;
use std::path::Path;

fn shipped(name: &str) -> Arc<Declaration> {
    Registry::of(&[]).unwrap().named(name).cloned().unwrap()
}

fn declared(text: &str) -> Arc<Declaration> {
    Arc::new(declaration::parse(Path::new("test.toml"), text).unwrap().remove(0))
}

/// Every event there is: each line comes a second after the one before.
fn all(parser: &mut Parser, source: Source, bytes: &[u8]) -> Vec<Progress> {
    let mut out = Vec::new();
    for (second, line) in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')).enumerate() {
        parser.feed(source, line, second as u64 * 1_000, &mut out);
    }
    parser.end(source, u64::MAX, &mut out);
    out
}

fn counts(events: &[Progress]) -> Vec<(Option<f64>, Option<f64>)> {
    events.iter().map(|event| (event.done, event.total)).collect()
}

#[test]
fn ffmpeg_says_how_long_it_takes_on_stderr_and_how_far_it_is_on_the_side() {
    let mut parser = Parser::new(shipped("ffmpeg"), 0);
    assert!(all(&mut parser, Source::Stderr, include_bytes!("../fixtures/ffmpeg-stderr.txt")).is_empty());
    let events = all(&mut parser, Source::Side, include_bytes!("../fixtures/ffmpeg-progress.txt"));
    assert_eq!(events.len(), 8);
    let last = events.last().unwrap();
    assert_eq!((last.total, last.unit.as_deref()), (Some(8.0), Some("s")));
    assert_eq!((last.done, last.rate), (Some(2.961), Some(0.96)));
    assert_eq!(last.percent.map(f64::round), Some(37.0));
    assert_eq!(last.eta_ms, Some(5_249));
    assert_eq!((last.raw["frame"].as_str(), last.raw["progress"].as_str()), ("75", "end"));
    assert_eq!(last.raw["bitrate"], "503.8kbits/s");
    assert_eq!(last.broken_lines, 0);
}

#[test]
fn cargo_ninja_and_pytest_count() {
    let mut parser = Parser::new(shipped("cargo"), 0);
    let events = all(&mut parser, Source::Stderr, include_bytes!("../fixtures/cargo.txt"));
    let found: Vec<_> = events.iter().filter_map(|event| event.done).collect();
    assert_eq!(found, [0.0, 0.0, 1.0, 2.0, 3.0]);
    assert_eq!((events[3].total, events[3].raw["names"].as_str()), (Some(4.0), "a, d"));

    let mut parser = Parser::new(shipped("ninja"), 0);
    let events = all(&mut parser, Source::Stdout, include_bytes!("../fixtures/ninja.txt"));
    assert_eq!(counts(&events), (1..=5).map(|n| (Some(f64::from(n)), Some(5.0))).collect::<Vec<_>>());
    let mut parser = Parser::new(shipped("ninja"), 0);
    let events = all(&mut parser, Source::Stdout, include_bytes!("../fixtures/ninja-terminal.txt"));
    assert_eq!((events[0].done, events[0].raw["step"].as_str()), (Some(0.0), "COPY a1"));
    assert_eq!(events.last().and_then(|event| event.percent), Some(100.0));

    let mut parser = Parser::new(shipped("pytest"), 0);
    let events = all(&mut parser, Source::Stdout, include_bytes!("../fixtures/pytest-count.txt"));
    let expected = [59.0, 101.0, 160.0, 202.0].map(|done| (Some(done), Some(202.0)));
    assert_eq!(counts(&events), expected);
    let mut parser = Parser::new(shipped("pytest"), 0);
    let events = all(&mut parser, Source::Stdout, include_bytes!("../fixtures/pytest.txt"));
    let found: Vec<_> = events.iter().filter_map(|event| event.percent).collect();
    assert_eq!(found, [30.0, 50.0, 80.0, 100.0]);
    assert_eq!(events[0].total, Some(202.0));
}

#[test]
fn the_last_percentage_of_a_line_counts() {
    let mut parser = Parser::new(shipped("percent"), 0);
    let events = all(&mut parser, Source::Stdout, b"1%\r 2 %\rcpu 50%, done 3.5%\rno 4\r1000%\r100%\n");
    let found: Vec<_> = events.iter().filter_map(|event| event.percent).collect();
    assert_eq!(found, [1.0, 2.0, 3.5, 100.0]);
}

#[test]
fn objects_are_read_as_deep_as_their_words_are_named() {
    let mut parser = Parser::new(
        declared(
            "[[adapter]]\nname = \"j\"\nsource = \"stdout\"\nformat = \"json-lines\"\nunit = \"B\"\n\
            fields = { done = { from = \"stats.kb\", scale = 1024 }, total = \"size\" }\n",
        ),
        0,
    );
    let text = b"{\"stats\":{\"kb\":2},\"size\":\"4096\",\"list\":[1]}\nno object\n[1]\n{\"size\":1}\n{\"stats\":{\"kb\":\"x\"}}\n{\"stats\":{\"kb\":4}}";
    let events = all(&mut parser, Source::Stdout, text);
    assert_eq!(counts(&events), [(Some(2048.0), Some(4096.0)), (Some(4096.0), None)]);
    assert_eq!((events[0].broken_lines, events[1].broken_lines), (0, 3));
}

#[test]
fn what_makes_no_sense_is_counted_and_ends_nothing() {
    let mut parser = Parser::new(shipped("ffmpeg"), 0);
    let long = vec![b'x'; LINE_BYTES_MAX * 3];
    let text = [
        b"no pair\nout_time_us=N/A\nprogress=continue\nout_time_us=soon\nprogress=continue\n\xff=\xfe\n"
            .as_slice(),
        &long,
        b"\nout_time_us=1000000\nspeed=2x\nprogress=continue\n",
    ];
    let events = all(&mut parser, Source::Side, &text.concat());
    assert_eq!(counts(&events), [(Some(1.0), None)]);
    assert_eq!(events[0].broken_lines, 3);
    assert!(events[0].raw.contains_key("\u{fffd}"));
}

#[test]
fn a_report_with_a_hole_in_it_is_none() {
    let mut parser = Parser::new(shipped("ffmpeg"), 0);
    let mut out = Vec::new();
    parser.feed(Source::Side, b"out_time_us=1000000\nspe", 0, &mut out);
    parser.lose(Source::Side);
    parser.feed(
        Source::Side,
        b"ed=1x\nprogress=continue\nout_time_us=2000000\nprogress=continue\n",
        0,
        &mut out,
    );
    assert_eq!(counts(&out), [(Some(2.0), None)]);
}

#[test]
fn events_are_paced_and_the_last_one_always_comes() {
    let mut parser = Parser::new(shipped("percent"), 0);
    let mut out = Vec::new();
    for percent in 0..=99u64 {
        parser.feed(Source::Stdout, format!("{percent}%\n").as_bytes(), percent * 10, &mut out);
    }
    let sent: Vec<_> = out.drain(..).filter_map(|event| event.percent).collect();
    assert_eq!(sent, [0.0, 25.0, 50.0, 75.0]);
    assert_eq!(parser.due_ms(), Some(1_000));
    parser.flush(999, &mut out);
    assert!(out.is_empty());
    parser.flush(1_000, &mut out);
    assert_eq!((out[0].percent, parser.due_ms()), (Some(99.0), None));
    // The same again is no news.
    parser.feed(Source::Stdout, b"99%\n99%\n", 5_000, &mut out);
    assert_eq!(out.len(), 1);
    parser.feed(Source::Stdout, b"100%", 1_001, &mut out);
    parser.end(Source::Stdout, 1_001, &mut out);
    assert_eq!(out.last().and_then(|event| event.percent), Some(100.0));
}

/// A generator that any run repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Bytes that now and then are what a parser looks for.
fn noise(random: &mut Random) -> Vec<u8> {
    let pieces: [&[u8]; 16] = [
        b"\n",
        b"\r",
        b"\r\n",
        b"=",
        b"out_time_us=",
        b"progress=",
        b"7",
        b"99999999999999999999",
        b"%",
        b"[3/4] x",
        b"{\"done\":1,\"total\":",
        b"}",
        b"\x1b[",
        b"\x1b]0;",
        b"\xff\xfe\0",
        b"  Duration: 00:00:08.00,",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.below(60) {
        match random.below(20) {
            0 => bytes.resize(bytes.len() + random.below(2 * LINE_BYTES_MAX), b'y'),
            1 => bytes.push(random.below(256) as u8),
            _ => bytes.extend_from_slice(pieces[random.below(pieces.len())]),
        }
    }
    bytes
}

#[test]
fn any_bytes_in_any_pieces_give_the_same_events() {
    let json = "[[adapter]]\nname = \"j\"\nsource = \"stdout\"\nformat = \"json-lines\"\n";
    let mut declarations: Vec<_> =
        Registry::of(&[]).unwrap().entries().map(|entry| Arc::clone(&entry.declaration)).collect();
    declarations.push(declared(json));
    for seed in 1..=400 {
        let mut random = Random(seed * 0x9e37_79b9);
        let bytes = noise(&mut random);
        for declaration in &declarations {
            let source = declaration.source;
            let mut whole = (Parser::new(declaration.clone(), 0), Vec::new());
            whole.0.feed(source, &bytes, 5_000, &mut whole.1);
            let mut cut = (Parser::new(declaration.clone(), 0), Vec::new());
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let most = rest.len().min(1 << random.below(16));
                let (piece, more) = rest.split_at(1 + random.below(most));
                cut.0.feed(source, piece, 5_000, &mut cut.1);
                rest = more;
            }
            for (parser, out) in [&mut whole, &mut cut] {
                parser.end(source, 5_000, out);
            }
            assert_eq!(whole.1, cut.1, "seed {seed}, {}", declaration.name);
            assert_eq!(whole.0.reading.broken_lines, cut.0.reading.broken_lines, "seed {seed}");
            for event in whole.1 {
                let numbers = [event.done, event.total, event.rate, event.percent];
                assert!(
                    numbers.iter().flatten().all(|n| n.is_finite() && *n >= 0.0),
                    "seed {seed}: {event:?}"
                );
            }
        }
    }
}
