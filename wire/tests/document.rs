//! `docs/WIRE.md` says what the rows say.

use kairo_wire::document::render;
use kairo_wire::frame::{Decoder, Kind};
use kairo_wire::request;
use kairo_wire::response::Response;
use std::path::Path;

#[test]
fn the_document_is_what_the_rows_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/WIRE.md");
    let rendered = render();
    if std::env::var_os("KAIRO_BLESS").is_some() {
        std::fs::write(&path, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let place = written.lines().zip(rendered.lines()).position(|(written, rendered)| written != rendered);
    assert!(
        written == rendered,
        "docs/WIRE.md is old from line {}; KAIRO_BLESS=1 cargo test -p kairo-wire --test document rewrites it",
        place.unwrap_or(0) + 1
    );
}

#[test]
fn the_example_in_the_document_is_a_call_and_its_answer() {
    let rendered = render();
    let block = rendered.split("```").nth(1).unwrap();
    let bytes: Vec<u8> =
        block.split_whitespace().map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect();
    let mut frames = Vec::new();
    Decoder::new().feed(&bytes, |kind, payload| frames.push((kind, payload.to_vec()))).unwrap();
    let [(Kind::REQUEST, call), (Kind::RESPONSE, answer)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(request::read(call).unwrap().method, "kernel.ping");
    assert!(Response::read(answer).unwrap().outcome.is_ok());
}
