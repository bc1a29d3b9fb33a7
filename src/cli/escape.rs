//! C escapes, so that a newline can be typed inside quotes: `kairo write repl 'print(6*7)\n'`.

/// Why a text has no meaning.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EscapeError {
    /// Nothing follows the backslash.
    #[error("the text ends in a lone backslash; write \\\\ for one, or use --raw")]
    Unfinished,
    /// A letter that means nothing.
    #[error(
        "\\{0} is no escape; known are \\n \\r \\t \\a \\b \\e \\f \\v \\0 \\\\ \\' \\\" \\xHH \\NNN \\uHHHH, or use --raw"
    )]
    Unknown(char),
    /// Digits that are missing or mean no character.
    #[error("{0} is no character; \\x takes two hex digits, \\u four, \\NNN three octal ones up to 377")]
    Digits(String),
}

/// Replaces escapes by the bytes they mean. Everything else stays as it is.
pub(crate) fn unescape(text: &str) -> Result<Vec<u8>, EscapeError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = one(&rest[at + 1..], &mut bytes)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Reads what follows one backslash; returns what follows that.
fn one<'t>(text: &'t str, bytes: &mut Vec<u8>) -> Result<&'t str, EscapeError> {
    let letter = text.chars().next().ok_or(EscapeError::Unfinished)?;
    let rest = &text[letter.len_utf8()..];
    let byte = match letter {
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'a' => 0x07,
        'b' => 0x08,
        'e' => 0x1b,
        'f' => 0x0c,
        'v' => 0x0b,
        '\\' | '\'' | '"' => letter as u8,
        '0'..='7' => {
            let length = text.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
            let (digits, rest) = text.split_at(length);
            let value =
                u8::from_str_radix(digits, 8).map_err(|_| EscapeError::Digits(format!("\\{digits}")))?;
            bytes.push(value);
            return Ok(rest);
        }
        'x' => {
            let (value, rest) = hex(rest, 2, 'x')?;
            // Two hex digits are at most 255.
            bytes.push(value as u8);
            return Ok(rest);
        }
        'u' => {
            let (value, rest) = hex(rest, 4, 'u')?;
            let found =
                char::from_u32(value).ok_or_else(|| EscapeError::Digits(format!("\\u{value:04x}")))?;
            bytes.extend_from_slice(found.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        other => return Err(EscapeError::Unknown(other)),
    };
    bytes.push(byte);
    Ok(rest)
}

fn hex(text: &str, length: usize, letter: char) -> Result<(u32, &str), EscapeError> {
    let wrong =
        || EscapeError::Digits(format!("\\{letter}{}", text.chars().take(length).collect::<String>()));
    let (digits, rest) = text.split_at_checked(length).ok_or_else(wrong)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    u32::from_str_radix(digits, 16).map(|value| (value, rest)).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_become_the_bytes_they_mean() {
        for (text, bytes) in [
            ("print(6*7)\\n", &b"print(6*7)\n"[..]),
            ("", b""),
            ("plain ünï", "plain ünï".as_bytes()),
            ("\\r\\t\\a\\b\\e\\f\\v\\\\\\'\\\"", b"\r\t\x07\x08\x1b\x0c\x0b\\'\""),
            ("\\0\\3\\101\\1018", b"\0\x03AA8"),
            ("\\x00\\xff\\x411", b"\0\xffA1"),
            ("\\u20ac!", "€!".as_bytes()),
        ] {
            assert_eq!(unescape(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused_and_named() {
        assert_eq!(unescape("end\\"), Err(EscapeError::Unfinished));
        assert_eq!(unescape("\\q"), Err(EscapeError::Unknown('q')));
        assert_eq!(unescape("\\€"), Err(EscapeError::Unknown('€')));
        for text in ["\\x", "\\x4", "\\xg0", "\\x+1", "\\u12", "\\ud800", "\\777", "\\x€"] {
            assert!(matches!(unescape(text), Err(EscapeError::Digits(_))), "{text}");
        }
    }
}
