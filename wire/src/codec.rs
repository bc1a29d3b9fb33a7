//! MessagePack under limits.
//!
//! Bytes of a peer go through [`check::check`] first: one linear walk that bounds depth and count and finds truncated,
//! trailing and reserved bytes. Only then are they read into types ([`decode::from_slice`]), with the tolerance
//! existing clients need: any width of integer, whole floats for integers, nil and `d4 00 00` for absent, invalid
//! UTF-8. What goes out is written by [`encode::to_buf`] in the receiver's dialect.
//!
//! Our own serde implementations rather than a general one, because of that tolerance, of errors that name the path
//! of a field, and of the v1 shape of maps and integers. Invariant: no input makes this code panic, recurse deeper
//! than [`DEPTH_MAX`](crate::limits::DEPTH_MAX) or take memory beyond a small multiple of what was sent.

pub mod check;
pub mod data;
pub mod decode;
pub mod encode;
pub mod raw;
pub mod text;
pub mod time;
pub mod transcode;

use crate::error::WireError;
use std::fmt;

/// Why a value cannot be read as what it should be, or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    /// `options.limits.memory`, `command[2]`; empty for the whole value.
    field: String,
    problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The field is not there.
    Missing,
    /// It is something else.
    Mismatch {
        /// What should be there.
        expected: String,
        /// What is, shortened.
        found: String,
    },
    /// Anything else, in words.
    Other(String),
}

impl CodecError {
    fn new(problem: Problem) -> CodecError {
        CodecError(Box::new(Inner { field: String::new(), problem }))
    }

    pub(crate) fn mismatch(expected: impl fmt::Display, found: impl fmt::Display) -> CodecError {
        CodecError::new(Problem::Mismatch { expected: expected.to_string(), found: shorten(found) })
    }

    pub(crate) fn other(words: impl fmt::Display) -> CodecError {
        CodecError::new(Problem::Other(shorten(words)))
    }

    /// The path of the field, empty for the whole value.
    pub fn field(&self) -> &str {
        &self.0.field
    }

    /// What is wrong with it.
    pub fn problem(&self) -> &Problem {
        &self.0.problem
    }

    /// The same error, seen from the container that holds the value under `key`.
    pub(crate) fn within(mut self, key: &str) -> CodecError {
        let key = shorten(key);
        let field = &mut self.0.field;
        if field.is_empty() {
            *field = key;
        } else if field.starts_with('[') {
            field.insert_str(0, &key);
        } else {
            *field = format!("{key}.{field}");
        }
        self
    }

    /// The same error, seen from the array that holds the value at `index`.
    pub(crate) fn at_index(self, index: usize) -> CodecError {
        self.within(&format!("[{index}]"))
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        self.problem.fmt(f)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing => f.write_str("is missing"),
            Problem::Mismatch { expected, found } => write!(f, "expected {expected}, found {found}"),
            Problem::Other(words) => f.write_str(words),
        }
    }
}

impl From<CodecError> for WireError {
    fn from(error: CodecError) -> WireError {
        let Inner { field, problem } = *error.0;
        let field = if field.is_empty() { "params" } else { &field };
        let wire = WireError::invalid(field, &problem);
        match problem {
            Problem::Mismatch { expected, found } => wire.with("expected", expected).with("found", found),
            Problem::Missing | Problem::Other(_) => wire,
        }
    }
}

impl serde::de::Error for CodecError {
    fn custom<T: fmt::Display>(words: T) -> Self {
        CodecError::other(words)
    }

    fn invalid_type(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        CodecError::mismatch(expected, found)
    }

    fn invalid_value(found: serde::de::Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        CodecError::mismatch(expected, found)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        CodecError::mismatch(one_of(expected), format_args!("{:?}", shorten(found)))
    }

    fn missing_field(field: &'static str) -> Self {
        CodecError::new(Problem::Missing).within(field)
    }
}

impl serde::ser::Error for CodecError {
    fn custom<T: fmt::Display>(words: T) -> Self {
        CodecError::other(words)
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    quoted.join(" or ")
}

/// At most 120 bytes of a text: an error never echoes a payload.
pub(crate) fn shorten(words: impl fmt::Display) -> String {
    const BYTES_MAX: usize = 120;
    struct Short(String, bool);

    impl fmt::Write for Short {
        fn write_str(&mut self, piece: &str) -> fmt::Result {
            let room = BYTES_MAX - self.0.len();
            if piece.len() <= room {
                self.0.push_str(piece);
                return Ok(());
            }
            self.0.push_str(&piece[..piece.floor_char_boundary_stable(room)]);
            self.1 = true;
            Err(fmt::Error)
        }
    }

    let mut short = Short(String::new(), false);
    // The only error is our own "full".
    let _ = fmt::Write::write_fmt(&mut short, format_args!("{words}"));
    if short.1 {
        short.0.push('…');
    }
    short.0
}

/// `str::floor_char_boundary` is younger than the oldest compiler we promise.
trait CharBoundary {
    fn floor_char_boundary_stable(&self, at: usize) -> usize;
}

impl CharBoundary for str {
    fn floor_char_boundary_stable(&self, mut at: usize) -> usize {
        while !self.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}
