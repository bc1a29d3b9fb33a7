//! Whatever the bytes and however they are cut: the same frames, the same refusal, and no memory beyond what came.

use kairo_wire::frame::{Decoder, FrameError, Header, Kind};
use kairo_wire::limits::HEADER_BYTES;

type Outcome = (Vec<(Kind, Vec<u8>)>, Result<(), FrameError>, usize);

/// The first byte says how the rest is cut.
pub(crate) fn frame(input: &[u8]) {
    let Some((&cut, stream)) = input.split_first() else { return };
    let whole = feed(stream, stream.len().max(1));
    assert_eq!(whole, feed(stream, cut as usize + 1), "cutting changes nothing");
    assert_eq!(whole, feed(stream, 1), "cutting changes nothing");

    // What came out, written again, is what went in.
    let (frames, outcome, pending) = whole;
    let mut again = Vec::new();
    for (kind, payload) in &frames {
        again.extend(Header { kind: *kind, length: payload.len() }.bytes());
        again.extend(payload);
    }
    assert!(stream.starts_with(&again));
    match outcome {
        Ok(()) => assert_eq!(again.len() + pending, stream.len()),
        Err(error) => {
            let header = stream[again.len()..].first_chunk::<HEADER_BYTES>().expect("a refusal has a header");
            assert_eq!(Header::parse(header), Err(error));
            assert_eq!(pending, 0);
        }
    }
}

fn feed(stream: &[u8], piece: usize) -> Outcome {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    let mut outcome = Ok(());
    for part in stream.chunks(piece) {
        outcome = decoder.feed(part, |kind, payload| frames.push((kind, payload.to_vec())));
        let (pending, reserved) = (decoder.pending_bytes(), decoder.reserved_bytes());
        assert!(reserved <= 2 * pending + 64, "{reserved} bytes are held for {pending}");
        assert!(pending > 0 || reserved == 0, "{reserved} bytes are held between frames");
        if outcome.is_err() {
            break;
        }
    }
    (frames, outcome, decoder.pending_bytes())
}
