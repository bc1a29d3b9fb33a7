//! Writing rules: strings that end where they should, and the names a path has.

use super::Unsayable;

/// Longest string that is written. XNU takes no longer path; a longer pattern may be cut, and would then mean another.
const STRING_BYTES_MAX: usize = 1_023;

/// The volume firmlinks lead to; what is there has a shorter name.
const DATA_VOLUME: &str = "/System/Volumes/Data";

/// Folders that are links into `/private`.
const PRIVATE: [&str; 3] = ["etc", "tmp", "var"];

/// A profile as it grows.
#[derive(Debug, Default)]
pub(super) struct Rules(String);

impl Rules {
    pub(super) fn text(self) -> String {
        self.0
    }

    /// A line as it is.
    pub(super) fn plain(&mut self, rule: &str) {
        self.0.push_str(rule);
        self.0.push('\n');
    }

    /// A rule about something; none about nothing, for that would be about everything.
    pub(super) fn about(
        &mut self,
        verdict: &str,
        operations: &[&str],
        filters: impl Iterator<Item = String>,
    ) {
        let mut filters = filters.peekable();
        if filters.peek().is_none() {
            return;
        }
        self.0.push_str(&format!("({verdict} {}", operations.join(" ")));
        for filter in filters {
            self.0.push_str("\n  ");
            self.0.push_str(&filter);
        }
        self.0.push_str(")\n");
    }

    pub(super) fn below(path: &str) -> String {
        format!("(subpath {})", quoted(path))
    }

    pub(super) fn exactly(path: &str) -> String {
        format!("(literal {})", quoted(path))
    }

    pub(super) fn matching(pattern: &str) -> String {
        format!("(regex {})", quoted(pattern))
    }

    pub(super) fn below_in_either_case(path: &str) -> Vec<String> {
        match path {
            "/" => vec![Rules::below(path)],
            path => {
                let pattern = in_either_case(path);
                let exactly = Rules::matching(&format!("^{pattern}$"));
                vec![Rules::below(path), exactly, Rules::matching(&format!("^{pattern}/"))]
            }
        }
    }

    pub(super) fn exactly_in_either_case(path: &str) -> [String; 2] {
        [Rules::exactly(path), Rules::matching(&format!("^{}$", in_either_case(path)))]
    }
}

/// A string of SBPL, which is Scheme's. What is checked has nothing else that could mean anything in one.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A pattern for a path in capitals or small letters. Letters beyond ASCII can be written in several ways, with the letter
/// before them or apart from it; what stands for those is wider than any.
fn in_either_case(path: &str) -> String {
    const ANY: &str = "[^/]+";
    let mut parts: Vec<String> = Vec::new();
    for letter in path.chars() {
        match letter {
            letter if !letter.is_ascii() => {
                if parts.last().is_some_and(|part| part != "/" && part != ANY) {
                    parts.pop();
                }
                if parts.last().is_none_or(|part| part != ANY) {
                    parts.push(ANY.to_owned());
                }
            }
            letter if letter.is_ascii_alphabetic() => {
                let (small, capital) = (letter.to_ascii_lowercase(), letter.to_ascii_uppercase());
                parts.push(format!("[{small}{capital}]"));
            }
            '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '\\' => {
                parts.push(format!("\\{letter}"));
            }
            letter => parts.push(letter.to_string()),
        }
    }
    parts.concat()
}

/// The names a path may have once links every Mac has are followed.
pub(super) fn names(path: &str) -> Vec<String> {
    let mut names = vec![path.to_owned()];
    names.extend(off_the_data_volume(path).filter(|rest| !rest.is_empty()).map(str::to_owned));
    let linked = |path: &String| {
        let first = path.split('/').nth(1).unwrap_or_default();
        PRIVATE.iter().any(|link| first.eq_ignore_ascii_case(link)).then(|| format!("/private{path}"))
    };
    names.extend(names.iter().filter_map(linked).collect::<Vec<_>>());
    names
}

/// The same, and those by which it could be reached besides.
pub(super) fn aliases(path: &str) -> Vec<String> {
    let names = names(path);
    let longer = |name: &String| (name != "/").then(|| format!("{DATA_VOLUME}{name}"));
    let on_its_volume: Vec<String> =
        names.iter().filter(|name| off_the_data_volume(name).is_none()).filter_map(longer).collect();
    [names, on_its_volume].concat()
}

/// What is left of a path without the data volume's; nothing for the volume itself.
fn off_the_data_volume(path: &str) -> Option<&str> {
    let (volume, rest) = path.split_at_checked(DATA_VOLUME.len())?;
    (volume.eq_ignore_ascii_case(DATA_VOLUME) && (rest.is_empty() || rest.starts_with('/'))).then_some(rest)
}

/// A path that can be written beyond doubt: what control characters mean inside a string was tried by nobody here.
pub fn check(path: &[u8]) -> Result<&str, Unsayable> {
    let fault = |why| Unsayable::Path { path: String::from_utf8_lossy(path).into_owned(), why };
    let text = std::str::from_utf8(path).map_err(|_| fault("a path of sandbox-exec's is UTF-8"))?;
    let why = match text {
        text if !text.starts_with('/') => "a path of sandbox-exec's is absolute",
        text if text.bytes().any(|byte| byte == 0) => "a path has no NUL",
        text if text.chars().any(char::is_control) => "a path of sandbox-exec's has no control characters",
        text if text.len() > 1 && text.ends_with('/') => "a path of sandbox-exec's has no slash at its end",
        text if text.split('/').skip(1).any(|part| matches!(part, "." | "..")) || text.contains("//") => {
            "a path of sandbox-exec's has no empty parts, `.` or `..`"
        }
        text if text.len() > STRING_BYTES_MAX => "longer than a path can be on macOS",
        text => return Ok(text),
    };
    Err(fault(why))
}

/// A path that can be denied, which takes more than to be allowed: a pattern of either case.
pub fn check_denied(path: &[u8]) -> Result<&str, Unsayable> {
    let text = check(path)?;
    let fault = |why| Err(Unsayable::Path { path: text.to_owned(), why });
    if off_the_data_volume(text) == Some("") {
        return fault("all of it has shorter names: deny those");
    }
    let longest = aliases(text).iter().map(|name| quoted(&in_either_case(name)).len() + 2).max();
    match longest {
        Some(bytes) if bytes > STRING_BYTES_MAX => {
            fault("too long to be denied in capitals and small letters alike")
        }
        _ => Ok(text),
    }
}
