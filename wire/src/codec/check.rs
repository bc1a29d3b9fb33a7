//! The walk over a peer's bytes before anything reads them.
//!
//! One pass, no recursion, no allocation: a level of nesting is a number in an array of [`DEPTH_MAX`]. What passes is
//! exactly one MessagePack value within the limits. UTF-8 isn't looked at, because v1 clients send invalid text.

use crate::limits::{DEPTH_MAX, ELEMENTS_MAX};

/// Why a payload is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It ends inside a value.
    #[error("the payload ends inside a value")]
    Truncated,
    /// Something follows the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
    /// The byte `c1`, which MessagePack never uses.
    #[error("byte c1 at offset {0}")]
    Reserved(usize),
    /// More than [`DEPTH_MAX`] levels.
    #[error("nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// More than [`ELEMENTS_MAX`] values.
    #[error("more than {ELEMENTS_MAX} values")]
    TooManyElements,
}

impl CheckError {
    /// True if the bytes are not MessagePack, which closes the connection; false if they are only too much of it,
    /// which is answered with a typed error.
    pub fn is_malformed(self) -> bool {
        match self {
            CheckError::Truncated | CheckError::Trailing(_) | CheckError::Reserved(_) => true,
            CheckError::TooDeep | CheckError::TooManyElements => false,
        }
    }
}

/// Passes exactly one value within the limits.
pub fn check(payload: &[u8]) -> Result<(), CheckError> {
    let end = value_end(payload)?;
    if end == payload.len() { Ok(()) } else { Err(CheckError::Trailing(payload.len() - end)) }
}

/// Where the first value of `bytes` ends.
#[inline]
pub(crate) fn value_end(bytes: &[u8]) -> Result<usize, CheckError> {
    let head = Head::read(bytes, 0)?;
    if !head.container {
        return Ok(head.end);
    }
    // Calls are shallow, and a short array is cheap to clear: only what is deeper is walked with the long one.
    const SHALLOW: usize = 8;
    match container_end::<SHALLOW>(bytes) {
        Err(CheckError::TooDeep) => container_end::<DEPTH_MAX>(bytes),
        outcome => outcome,
    }
}

fn container_end<const DEPTH: usize>(bytes: &[u8]) -> Result<usize, CheckError> {
    // `left` values are still to come at the current level, `open[..depth]` at those around it.
    let mut open = [0usize; DEPTH];
    let mut depth = 0;
    let mut left = 1usize;
    let mut elements = 1usize;
    let mut at = 0usize;
    loop {
        while left == 0 {
            if depth == 0 {
                return Ok(at);
            }
            depth -= 1;
            left = open[depth];
        }
        left -= 1;
        let head = Head::read(bytes, at)?;
        at = head.end;
        if !head.container {
            continue;
        }
        if head.children > bytes.len().saturating_sub(at) {
            return Err(CheckError::Truncated);
        }
        elements += head.children;
        if elements > ELEMENTS_MAX {
            return Err(CheckError::TooManyElements);
        }
        let place = open.get_mut(depth).ok_or(CheckError::TooDeep)?;
        *place = left;
        depth += 1;
        left = head.children;
    }
}

/// A marker and everything that belongs to it but its children.
struct Head {
    /// Offset behind it.
    end: usize,
    /// Values that follow and belong to it.
    children: usize,
    /// It is an array or a map.
    container: bool,
}

impl Head {
    #[inline(always)]
    fn read(bytes: &[u8], at: usize) -> Result<Head, CheckError> {
        let &marker = bytes.get(at).ok_or(CheckError::Truncated)?;
        let body = at + 1;
        match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => {
                Ok(Head { end: body, children: 0, container: false })
            }
            0xa0..=0xbf => skip(bytes, body, (marker & 0x1f) as usize),
            0x80..=0x8f => Ok(container(body, 2 * (marker & 0x0f) as usize)),
            0x90..=0x9f => Ok(container(body, (marker & 0x0f) as usize)),
            0xc1 => Err(CheckError::Reserved(at)),
            0xcc | 0xd0 => skip(bytes, body, 1),
            0xcd | 0xd1 => skip(bytes, body, 2),
            0xca | 0xce | 0xd2 => skip(bytes, body, 4),
            0xcb | 0xcf | 0xd3 => skip(bytes, body, 8),
            0xc4 | 0xd9 => skip(bytes, body + 1, number::<1>(bytes, body)?),
            0xc5 | 0xda => skip(bytes, body + 2, number::<2>(bytes, body)?),
            0xc6 | 0xdb => skip(bytes, body + 4, number::<4>(bytes, body)?),
            0xd4 => skip(bytes, body, 2),
            0xd5 => skip(bytes, body, 3),
            0xd6 => skip(bytes, body, 5),
            0xd7 => skip(bytes, body, 9),
            0xd8 => skip(bytes, body, 17),
            // One more for the type of the extension.
            0xc7 => skip(bytes, body + 1, number::<1>(bytes, body)? + 1),
            0xc8 => skip(bytes, body + 2, number::<2>(bytes, body)? + 1),
            0xc9 => skip(bytes, body + 4, number::<4>(bytes, body)? + 1),
            0xdc => Ok(container(body + 2, number::<2>(bytes, body)?)),
            0xdd => Ok(container(body + 4, number::<4>(bytes, body)?)),
            0xde => Ok(container(body + 2, 2 * number::<2>(bytes, body)?)),
            0xdf => Ok(container(body + 4, 2 * number::<4>(bytes, body)?)),
        }
    }
}

#[inline(always)]
fn skip(bytes: &[u8], body: usize, length: usize) -> Result<Head, CheckError> {
    let end = body + length;
    if end > bytes.len() {
        return Err(CheckError::Truncated);
    }
    Ok(Head { end, children: 0, container: false })
}

#[inline(always)]
fn container(end: usize, children: usize) -> Head {
    Head { end, children, container: true }
}

/// A big-endian number of `N` bytes.
#[inline(always)]
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<usize, CheckError> {
    let digits = bytes.get(at..at + N).ok_or(CheckError::Truncated)?;
    Ok(digits.iter().fold(0, |value, digit| value << 8 | *digit as usize))
}
