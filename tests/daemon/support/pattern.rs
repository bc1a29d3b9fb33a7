//! A sequence of bytes in which every offset has one right byte, and the check.
//!
//! The stream is a row of blocks of 64 KiB; each begins with its number (8 bytes, big-endian), and what follows is
//! the same in all blocks and repeats nowhere within one. So a byte lost or doubled is seen at once, and whoever
//! writes or checks the sequence does little more than copy or compare.
//!
//! Not here: programs that write it (`sequence`, and the children of the chaos harness).

use std::sync::OnceLock;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// A block without its number.
fn body() -> &'static [u8] {
    static BODY: OnceLock<Vec<u8>> = OnceLock::new();
    BODY.get_or_init(|| {
        let words = 2..BLOCK_BYTES as u64 / 4;
        words.flat_map(|word| (word.wrapping_mul(2_654_435_761) as u32).to_be_bytes()).collect()
    })
}

/// Calls back with each run of the sequence that lies in one piece, for `length` bytes from an offset on.
fn runs(from: u64, length: usize, mut each: impl FnMut(u64, &[u8]) -> bool) {
    let (mut offset, mut left) = (from, length);
    while left > 0 {
        let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let number = block.to_be_bytes();
        let run = if at < 8 { &number[at..] } else { &body()[at - 8..] };
        let run = &run[..run.len().min(left)];
        if !each(offset, run) {
            return;
        }
        offset += run.len() as u64;
        left -= run.len();
    }
}

/// The bytes of the sequence from an offset on.
pub(crate) fn bytes(from: u64, length: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(length);
    runs(from, length, |_, run| {
        all.extend_from_slice(run);
        true
    });
    all
}

/// The offset of the first byte that is not as it should be.
pub(crate) fn wrong_at(bytes: &[u8], from: u64) -> Option<u64> {
    let mut wrong = None;
    runs(from, bytes.len(), |offset, run| {
        let at = (offset - from) as usize;
        let found = &bytes[at..at + run.len()];
        if found != run {
            wrong =
                found.iter().zip(run).position(|(byte, right)| byte != right).map(|by| offset + by as u64);
        }
        wrong.is_none()
    });
    wrong
}

/// Where in its block a piece of the sequence is from, if it is from there: what was lost or doubled before it.
pub(crate) fn place_in_block(bytes: &[u8]) -> Option<u64> {
    let piece = bytes.get(..12)?;
    body().windows(piece.len()).position(|window| window == piece).map(|at| at as u64 + 8)
}

/// The bytes of the stream from an offset on are right, or the test is over.
#[track_caller]
pub(crate) fn check(bytes: &[u8], from: u64) {
    if let Some(offset) = wrong_at(bytes, from) {
        panic!("the byte at offset {offset} is wrong");
    }
}
