//! A child that writes a sequence anybody can check, and the check.
//!
//! The stream is a row of blocks of 64 KiB; each begins with its number (8 bytes, big-endian), and what follows is
//! the same in all blocks and repeats nowhere within one. So every byte has one right value at each offset, a byte
//! lost or doubled is seen at once, and the writer does little more than write.

use std::sync::OnceLock;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// Writes as many blocks as its argument says, each in one write, then ends.
const WRITER: &str = "\
import os, sys, struct
body = b''.join(struct.pack('>I', n * 2654435761 & 0xffffffff) for n in range(2, 16384))
for number in range(int(sys.argv[1])):
    block = struct.pack('>Q', number) + body
    while block:
        block = block[os.write(1, block):]
";

/// The writer as a command line.
pub(crate) fn argv(blocks: &str) -> [&str; 4] {
    [super::python(), "-c", WRITER, blocks]
}

/// A block without its number.
fn body() -> &'static [u8] {
    static BODY: OnceLock<Vec<u8>> = OnceLock::new();
    BODY.get_or_init(|| {
        let words = 2..BLOCK_BYTES as u64 / 4;
        words.flat_map(|word| (word.wrapping_mul(2_654_435_761) as u32).to_be_bytes()).collect()
    })
}

/// The bytes of the stream from an offset on.
#[track_caller]
pub(crate) fn check(bytes: &[u8], from: u64) {
    let (mut offset, mut rest) = (from, bytes);
    while !rest.is_empty() {
        let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
        let number = block.to_be_bytes();
        let expected = if at < 8 { &number[at..] } else { &body()[at - 8..] };
        let length = expected.len().min(rest.len());
        if rest[..length] != expected[..length] {
            let wrong = rest.iter().zip(expected).position(|(byte, right)| byte != right).unwrap_or(0);
            panic!("the byte at offset {} is wrong", offset + wrong as u64);
        }
        offset += length as u64;
        rest = &rest[length..];
    }
}
