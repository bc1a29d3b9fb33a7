//! A child that writes the sequence of [`pattern`](super::pattern), which anybody can check.

pub(crate) use super::pattern::{BLOCK_BYTES, check};

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

/// The same, which begins when it has read a line.
pub(crate) fn argv_once_told(blocks: &str) -> Vec<&str> {
    [&["sh", "-c", "read x; exec \"$@\"", "sh"], &argv(blocks)[..]].concat()
}
