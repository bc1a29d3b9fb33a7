//! Lines of a stream that comes in pieces: cut at `\n` and at `\r`, because a program that redraws its line ends it so.
//!
//! The invariant: the lines are the same whatever the pieces were, and no more than [`LINE_BYTES_MAX`] are ever kept.

use std::borrow::Cow;

/// A longer line is no line: it is dropped whole, and counted.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// What has come of a line that isn't over.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    carry: Vec<u8>,
    /// True exactly when what has come of this line isn't all there: it is too long, or its beginning was lost.
    spoilt: bool,
}

/// What a piece had in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A line that isn't empty, without its end.
    Whole(&'a [u8]),
    /// One that was too long.
    TooLong,
}

impl Lines {
    /// Hands on every line that is complete with this piece.
    pub(crate) fn feed(&mut self, mut piece: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(at) = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = (&piece[..at], &piece[at + 1..]);
            piece = rest;
            // Most lines are in one piece: they are handed on where they lie.
            if self.carry.is_empty() && !self.spoilt && line.len() <= LINE_BYTES_MAX {
                if !line.is_empty() {
                    each(Line::Whole(line));
                }
                continue;
            }
            self.keep(line, &mut each);
            self.end(&mut each);
        }
        self.keep(piece, &mut each);
    }

    /// The stream is over, and so is its last line.
    pub(crate) fn end(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.spoilt && !self.carry.is_empty() {
            each(Line::Whole(&self.carry));
        }
        self.carry.clear();
        self.spoilt = false;
    }

    /// Bytes are missing here: what is left of the line they were in is nobody's.
    pub(crate) fn lose(&mut self) {
        self.carry.clear();
        self.spoilt = true;
    }

    fn keep(&mut self, piece: &[u8], each: &mut impl FnMut(Line<'_>)) {
        if self.spoilt {
            return;
        }
        if self.carry.len() + piece.len() > LINE_BYTES_MAX {
            self.lose();
            each(Line::TooLong);
        } else {
            self.carry.extend_from_slice(piece);
        }
    }
}

/// A line without the sequences that colour it and move the cursor, so that patterns needn't know of them.
pub(crate) fn plain(line: &[u8]) -> Cow<'_, [u8]> {
    const ESCAPE: u8 = 0x1b;
    if !line.contains(&ESCAPE) {
        return Cow::Borrowed(line);
    }
    let mut text = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.iter().position(|byte| *byte == ESCAPE) {
        text.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let over = match rest.first() {
            // Up to and with the letter that ends it.
            Some(b'[') => rest[1..].iter().position(|byte| matches!(byte, 0x40..=0x7e)).map(|at| at + 2),
            // A title or a link: up to BEL, or to the escape that ends it, which the next round takes.
            Some(b']') => {
                rest.iter().position(|byte| matches!(*byte, 0x07 | ESCAPE)).map(|at| match rest[at] {
                    ESCAPE => at,
                    _ => at + 1,
                })
            }
            Some(_) => Some(1),
            None => None,
        };
        rest = &rest[over.unwrap_or(rest.len())..];
    }
    text.extend_from_slice(rest);
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut each = |line: Line<'_>| {
            found.push(match line {
                Line::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Line::TooLong => "(too long)".to_owned(),
            });
        };
        for piece in pieces {
            lines.feed(piece, &mut each);
        }
        lines.end(&mut each);
        found
    }

    #[test]
    fn a_line_ends_where_it_is_redrawn_and_empty_ones_are_none() {
        assert_eq!(cut(&[b"\r 1%\r 2%\r\n\nend"]), [" 1%", " 2%", "end"]);
        assert_eq!(cut(&[b"a", b"b\r", b"\nc", b"", b"d"]), ["ab", "cd"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_of_once_and_the_next_is_read() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(cut(&[&long, b"\nnext\n"]), ["(too long)", "next"]);
        assert_eq!(cut(&[&long[1..], b"x", &long, b"\nnext\n"]), ["(too long)", "next"]);
        assert_eq!(cut(&[&[&long[..], b"\nnext\n"].concat()]), ["(too long)", "next"]);
        assert_eq!(cut(&[&long[1..], b"\n"])[0].len(), LINE_BYTES_MAX);
    }

    #[test]
    fn after_a_loss_the_line_it_was_in_is_left_out() {
        let (mut lines, mut found) = (Lines::default(), 0);
        lines.feed(b"begun", |_| found += 1);
        lines.lose();
        lines.feed(b" over\nwhole\n", |line| {
            assert_eq!(line, Line::Whole(b"whole"));
            found += 1;
        });
        assert_eq!(found, 1);
    }

    #[test]
    fn colours_and_titles_are_no_text() {
        let text = |line: &[u8]| String::from_utf8_lossy(&plain(line)).into_owned();
        assert_eq!(text(b"\x1b[1m\x1b[32m[1/5]\x1b[0m cc\x1b[K"), "[1/5] cc");
        assert_eq!(text(b"\x1b]0;title\x07[2/5]\x1b]8;;x\x1b\\link"), "[2/5]link");
        for cut_off in [&b"a\x1b"[..], b"a\x1b[", b"a\x1b[3", b"a\x1b]0;t"] {
            assert_eq!(text(cut_off), "a");
        }
    }
}
