//! Words as execve(2) takes them: C strings, and arrays of pointers to them.

use std::ffi::c_char;
use std::ptr;

/// A NULL-terminated array of C strings.
#[derive(Debug, Default)]
pub(super) struct Pointers(pub(super) Vec<*const c_char>);

impl Pointers {
    /// Of NUL-terminated strings that stand one after the other.
    pub(super) fn fill(&mut self, strings: &[u8]) {
        self.0.clear();
        let mut rest = strings;
        while let Some(end) = memchr::memchr(0, rest) {
            self.0.push(rest.as_ptr().cast());
            rest = &rest[end + 1..];
        }
        self.0.push(ptr::null());
    }

    /// Gives back what one enormous spawn took.
    pub(super) fn shrink(&mut self) {
        self.0.clear();
        self.0.shrink_to(512);
    }
}

/// With the NUL a C string ends with.
pub(super) fn terminated(path: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(path.len() + 1);
    whole.extend_from_slice(path);
    whole.push(0);
    whole
}
