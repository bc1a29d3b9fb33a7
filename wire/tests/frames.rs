//! Cutting a stream of bytes into frames.

use bytes::BytesMut;
use kairo_wire::frame::{Decoder, FrameError, Header, Kind, begin, finish, put_header};
use kairo_wire::limits::FRAME_BYTES_MAX;

type Frames = Vec<(Kind, Vec<u8>)>;

fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut buf = BytesMut::new();
    put_header(&mut buf, kind, payload.len());
    buf.extend_from_slice(payload);
    buf.to_vec()
}

fn feed(decoder: &mut Decoder, input: &[u8], frames: &mut Frames) -> Result<(), FrameError> {
    decoder.feed(input, |kind, payload| frames.push((kind, payload.to_vec())))
}

#[test]
fn frames_are_the_same_however_they_are_cut() {
    let expected: Frames = vec![
        (Kind::REQUEST, b"one".to_vec()),
        (Kind(9), Vec::new()),
        (Kind::STREAM_CHUNK, vec![7; 300]),
        (Kind::EVENT, b"last".to_vec()),
    ];
    let input: Vec<u8> = expected.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
    for piece in 1..=input.len() {
        let mut decoder = Decoder::new();
        let mut frames = Frames::new();
        for part in input.chunks(piece) {
            feed(&mut decoder, part, &mut frames).unwrap();
        }
        assert_eq!(frames, expected, "pieces of {piece}");
        assert_eq!(decoder.pending_bytes(), 0);
    }
}

#[test]
fn a_whole_frame_is_handed_out_without_a_copy() {
    let input = [frame(Kind::REQUEST, b"here"), frame(Kind::REQUEST, b"there")].concat();
    let range = input.as_ptr_range();
    let mut decoder = Decoder::new();
    let mut seen = 0;
    decoder
        .feed(&input, |_, payload| {
            assert!(range.contains(&payload.as_ptr()));
            seen += 1;
        })
        .unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn frames_before_a_bad_one_are_handed_out_and_nothing_after() {
    let bad: [(&[u8], FrameError); 3] = [
        (b"XX\x01\x01\0\0\0\0", FrameError::Magic(*b"XX")),
        (b"KA\x02\x01\0\0\0\0", FrameError::Version(2)),
        (b"KA\x01\x01\x01\0\0\x01", FrameError::TooLong { length: FRAME_BYTES_MAX as u32 + 1 }),
    ];
    for (header, error) in bad {
        let input = [&frame(Kind::REQUEST, b"good")[..], header, &frame(Kind::REQUEST, b"late")[..]].concat();
        for piece in [1, 5, input.len()] {
            let mut decoder = Decoder::new();
            let mut frames = Frames::new();
            let outcomes: Vec<_> =
                input.chunks(piece).map(|part| feed(&mut decoder, part, &mut frames)).collect();
            assert_eq!(frames, vec![(Kind::REQUEST, b"good".to_vec())], "pieces of {piece}");
            assert_eq!(outcomes.last(), Some(&Err(error)));
            assert_eq!(decoder.pending_bytes(), 0, "nothing is kept for a connection that is closed");
        }
    }
}

#[test]
fn a_bad_header_is_known_as_soon_as_it_is_there() {
    let mut decoder = Decoder::new();
    let mut frames = Frames::new();
    assert_eq!(feed(&mut decoder, b"KA\x01\x01\xff\xff\xff", &mut frames), Ok(()));
    assert_eq!(feed(&mut decoder, b"\xff", &mut frames), Err(FrameError::TooLong { length: u32::MAX }));
}

#[test]
fn a_claimed_length_takes_no_memory() {
    let mut decoder = Decoder::new();
    let header = Header { kind: Kind::REQUEST, length: FRAME_BYTES_MAX }.bytes();
    feed(&mut decoder, &header, &mut Frames::new()).unwrap();
    assert_eq!(decoder.pending_bytes(), header.len());
    assert!(decoder.reserved_bytes() <= 64, "{}", decoder.reserved_bytes());
    feed(&mut decoder, &[0; 5000], &mut Frames::new()).unwrap();
    assert!(decoder.reserved_bytes() <= 2 * 5008, "{}", decoder.reserved_bytes());
}

#[test]
fn a_drained_decoder_holds_no_memory() {
    let mut decoder = Decoder::new();
    let mut frames = Frames::new();
    let input = frame(Kind::REQUEST, &[1; 100_000]);
    for part in input.chunks(4096) {
        feed(&mut decoder, part, &mut frames).unwrap();
    }
    assert_eq!(frames.len(), 1);
    assert_eq!(decoder.reserved_bytes(), 0);
}

#[test]
fn the_longest_frame_passes() {
    let input = frame(Kind::REQUEST, &vec![1; FRAME_BYTES_MAX]);
    let mut decoder = Decoder::new();
    let mut lengths = Vec::new();
    for part in input.chunks(1 << 20) {
        decoder.feed(part, |_, payload| lengths.push(payload.len())).unwrap();
    }
    assert_eq!(lengths, [FRAME_BYTES_MAX]);
}

#[test]
fn a_length_can_be_written_afterwards() {
    let mut buf = BytesMut::from(&b"before"[..]);
    let at = begin(Kind::RESPONSE, &mut buf);
    buf.extend_from_slice(b"payload");
    finish(&mut buf, at);
    assert_eq!(&buf[6..], &frame(Kind::RESPONSE, b"payload")[..]);
}
