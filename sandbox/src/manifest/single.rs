//! One resource by itself, as somebody is granted one without a manifest: as strict as in one.
//!
//! Invariant: what passes is written in the one way it is compared. A manifest's paths are brought into their one spelling; here
//! somebody else has to find by it what was granted, so another spelling is refused, with that one.

use super::ports::{self, Entry};
use super::refusal::{Refusal, spelled};
use super::{host, pattern, tree};

/// What is wrong with it, in words.
type Checked = Result<(), String>;

fn words(refusal: Refusal) -> String {
    refusal.why
}

/// A text that shows as what it is.
pub fn text(text: &str) -> Checked {
    tree::shown(text)
}

/// A folder and all below it, or a file: from the root on, or from a home folder.
pub fn path(written: &str) -> Checked {
    let spelling = pattern::path(written).map_err(words)?;
    match written {
        _ if spelling.starts_with("./") => {
            Err("nobody can tell which folder ./ is of: it begins with / or ~/".to_owned())
        }
        _ if spelling == written => Ok(()),
        _ => Err(format!("it is written {}", spelled(&spelling))),
    }
}

/// `HOST:PORT`, either of which may be `*`.
pub fn endpoint(text: &str) -> Checked {
    let Some((name, number)) = text.rsplit_once(':') else {
        return Err("it is HOST:PORT, either of which may be *".to_owned());
    };
    if let Some(why) = (name != "*").then(|| host::fault(name)).flatten() {
        return Err(why);
    }
    if number == "*" { Ok(()) } else { ports(number, 1) }
}

/// A port, or a range of them; `lowest` is 0 where the system may choose.
pub fn ports(text: &str, lowest: u16) -> Checked {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let entry = match text.parse().ok().filter(|_| plain) {
        Some(number) => Entry::Number(number),
        None => Entry::Range(text.to_owned()),
    };
    ports::set(&[entry], lowest).map(drop).map_err(words)
}

/// A variable's name, or the beginning of one and a star.
pub fn variable(name: &str) -> Checked {
    pattern::variable(name).map_err(words)
}

/// A method, or all of a room.
pub fn call(method: &str) -> Checked {
    pattern::call(method).map_err(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_in_its_one_spelling() {
        for right in ["/", "/usr", "/usr/lib/x", "~/", "~/.ssh"] {
            assert_eq!(path(right), Ok(()), "{right}");
        }
        for wrong in [
            "/usr/",
            "//usr",
            "/usr//lib",
            "/usr/./lib",
            "/usr/../etc",
            "/..",
            "/usr/.",
            "~",
            "~/x/",
            "./",
            "./x",
            "usr",
            "../x",
            "~root/x",
            "/usr/*",
            "/a/?",
            "/a/[b]",
            "/a\0b",
            "",
            "$HOME/x",
            "/proc/self/fd",
        ] {
            assert!(path(wrong).is_err(), "{wrong:?}");
        }
        assert!(path("/usr//lib/").unwrap_err().contains("/usr/lib"));
    }

    #[test]
    fn others_are_as_in_a_manifest() {
        for right in ["*:443", "api.example.org:443", "*.example.org:8000-8010", "api.example.org:*", "*:*"] {
            assert_eq!(endpoint(right), Ok(()), "{right}");
        }
        for wrong in [
            "*",
            "example.org",
            "API.example.org:1",
            "10.0.0.1:80",
            "*.co.uk:443",
            "*:0",
            "*:x",
            "*:09",
            ":1",
        ] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
        for right in ["80", "8000-8010"] {
            assert_eq!(ports(right, 1), Ok(()), "{right}");
        }
        for wrong in ["", "0", "-1", "+80", " 80", "080", "70000", "10-5", "8000-", "a"] {
            assert!(ports(wrong, 1).is_err(), "{wrong}");
        }
        assert!(ports("0", 0).is_ok() && variable("A_*").is_ok() && variable("A=B").is_err());
        assert!(call("process.*").is_ok() && call("*").is_err() && text("a").is_ok());
        for hidden in ["", " ", "a\u{202e}b", "a\u{200b}b", "a\u{7}b"] {
            assert!(text(hidden).is_err(), "{hidden:?}");
        }
    }
}
