//! A child that writes a sequence anybody can check, and the check.
//!
//! The stream is a row of blocks of 64 KiB; each begins with its number (8 bytes, big-endian), and what follows is
//! the same in all blocks and repeats nowhere within one. So every byte has one right value at each offset, a byte
//! lost or doubled is seen at once, and the writer does little more than write.

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

/// The right byte at an offset.
fn expected(offset: u64) -> u8 {
    let (block, at) = (offset / BLOCK_BYTES as u64, (offset % BLOCK_BYTES as u64) as usize);
    if at < 8 {
        return block.to_be_bytes()[at];
    }
    let word = (at as u64 / 4).wrapping_mul(2_654_435_761) as u32;
    word.to_be_bytes()[at % 4]
}

/// The bytes of the stream from an offset on.
#[track_caller]
pub(crate) fn check(bytes: &[u8], from: u64) {
    let wrong = bytes.iter().zip(from..).position(|(byte, offset)| *byte != expected(offset));
    assert_eq!(wrong, None, "the byte at offset {:?} is wrong", wrong.map(|at| at as u64 + from));
}
