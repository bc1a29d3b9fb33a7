//! The keys that leave an attached terminal without ending what runs in it.
//!
//! A sequence such as `ctrl-p,ctrl-q` is looked for in what is typed. Its beginning is held back until it is clear
//! that the rest does not follow, so nothing of a completed sequence reaches the program and nothing else is lost.

use std::fmt;
use std::str::FromStr;

/// A sequence of key presses; empty: there is no way out but the program's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// The sequence that is not typed by accident, and that docker's users have in their fingers.
    pub(crate) const DEFAULT: &'static str = "ctrl-p,ctrl-q";

    /// True exactly when there is a way out.
    pub(crate) fn leave(&self) -> bool {
        !self.0.is_empty()
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<DetachKeys, String> {
        if text == "none" {
            return Ok(DetachKeys(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<Vec<u8>, String>>().map(DetachKeys)
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, byte) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match byte {
                0..=31 => write!(f, "{comma}ctrl-{}", char::from(byte | 0x40).to_ascii_lowercase())?,
                _ => write!(f, "{comma}{}", char::from(*byte))?,
            }
        }
        Ok(())
    }
}

fn key(text: &str) -> Result<u8, String> {
    let wrong = || {
        format!(
            "{text:?} is no key; write ctrl-X (X a letter or one of @ [ \\ ] ^ _), one character, or none"
        )
    };
    let (control, name) = match text.strip_prefix("ctrl-") {
        Some(name) => (true, name),
        None => (false, text),
    };
    let [byte] = name.as_bytes() else { return Err(wrong()) };
    match (control, byte.to_ascii_uppercase()) {
        (true, upper @ (b'@'..=b'_')) => Ok(upper & 0x1f),
        (false, _) if byte.is_ascii_graphic() => Ok(*byte),
        _ => Err(wrong()),
    }
}

/// Watches what is typed.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: DetachKeys,
    /// How many keys of the sequence have been seen and are held back.
    seen: usize,
}

impl Watch {
    pub(crate) fn new(keys: DetachKeys) -> Watch {
        Watch { keys, seen: 0 }
    }

    /// Takes typed bytes, appends to `onward` those that are meant for the program. True if the sequence is
    /// complete; what was typed after it is dropped.
    pub(crate) fn feed(&mut self, typed: &[u8], onward: &mut Vec<u8>) -> bool {
        let count = self.keys.0.len();
        if count == 0 {
            onward.extend_from_slice(typed);
            return false;
        }
        for byte in typed {
            while self.seen > 0 && self.keys.0[self.seen] != *byte {
                self.fall_back(onward);
            }
            if self.keys.0[self.seen] != *byte {
                onward.push(*byte);
                continue;
            }
            self.seen += 1;
            if self.seen == count {
                self.seen = 0;
                return true;
            }
        }
        false
    }

    /// Gives back as few held bytes as leave a beginning of the sequence: typing `ctrl-p` twice and then
    /// `ctrl-q` leaves, with one `ctrl-p` passed on.
    fn fall_back(&mut self, onward: &mut Vec<u8>) {
        let held = &self.keys.0[..self.seen];
        let kept = (0..self.seen).rev().find(|&length| held.ends_with(&self.keys.0[..length])).unwrap_or(0);
        onward.extend_from_slice(&held[..self.seen - kept]);
        self.seen = kept;
    }

    /// What is still held back when typing ends.
    pub(crate) fn finish(&mut self, onward: &mut Vec<u8>) {
        onward.extend_from_slice(&self.keys.0[..self.seen]);
        self.seen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(keys: &str) -> Watch {
        Watch::new(keys.parse().unwrap())
    }

    fn typed(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut watch, mut onward, mut left) = (watch(keys), Vec::new(), false);
        for piece in pieces {
            left |= watch.feed(piece, &mut onward);
        }
        if !left {
            watch.finish(&mut onward);
        }
        (onward, left)
    }

    #[test]
    fn keys_are_written_the_way_they_are_read() {
        for text in ["ctrl-p,ctrl-q", "ctrl-\\", "ctrl-]", "~,.", "none", "ctrl-@,a"] {
            assert_eq!(text.parse::<DetachKeys>().unwrap().to_string(), text);
        }
        assert_eq!("ctrl-P,q".parse::<DetachKeys>().unwrap(), DetachKeys(vec![16, b'q']));
        for text in ["", "ctrl-", "ctrl-pp", "ctrl-1", "é", "a,,b", "ctrl-p,", " "] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_sequence_leaves_even_when_typed_in_pieces() {
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ls\x10\x11rm"]), (b"ls".to_vec(), true));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"ls\x10", b"\x11"]), (b"ls".to_vec(), true));
    }

    #[test]
    fn a_broken_sequence_reaches_the_program_whole_and_in_order() {
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x11\x10"]), (b"\x11\x10".to_vec(), false));
        assert_eq!(typed("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed("a,a,b", &[b"aaaab"]), (b"aa".to_vec(), true));
        assert_eq!(typed("a,b,a,c", &[b"abab", b"ac"]), (b"ab".to_vec(), true));
    }

    #[test]
    fn without_keys_everything_goes_through() {
        assert_eq!(typed("none", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
