//! Hosts by name: exactly one name, or all names below one that has a single owner.
//!
//! Invariant: a host that passes is written in the one way a resolver compares it (lower case, ASCII, no dot at the end), can't be
//! taken for another one by whoever reads it, and isn't an address.

use super::refusal::spelled;

/// Names below which everybody can have one, besides those with a [`CLASSES`] label under a country's.
const SHARED: [&str; 44] = [
    "amazonaws.com",
    "appspot.com",
    "azureedge.net",
    "azurewebsites.net",
    "blob.core.windows.net",
    "blogspot.com",
    "bitbucket.io",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudfront.net",
    "cloudfunctions.net",
    "core.windows.net",
    "deno.dev",
    "duckdns.org",
    "dyndns.org",
    "fastly.net",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "githubusercontent.com",
    "gitlab.io",
    "glitch.me",
    "googleapis.com",
    "herokuapp.com",
    "hf.space",
    "js.org",
    "netlify.app",
    "ngrok.app",
    "ngrok.io",
    "ngrok-free.app",
    "no-ip.org",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "readthedocs.io",
    "repl.co",
    "s3.amazonaws.com",
    "storage.googleapis.com",
    "surge.sh",
    "trycloudflare.com",
    "vercel.app",
    "web.app",
    "windows.net",
    "workers.dev",
];

/// Labels that, under a country's, are nobody's own: `co.uk`, `com.au`.
const CLASSES: [&str; 20] = [
    "ac", "co", "com", "edu", "gen", "go", "gob", "gouv", "gov", "govt", "id", "ltd", "me", "mil", "ne",
    "net", "nom", "or", "org", "plc",
];

/// Whether a name is one below which everybody can have a name.
fn is_shared(name: &str) -> bool {
    let mut labels = name.rsplit('.');
    let (last, second, third) = (labels.next().unwrap_or_default(), labels.next(), labels.next());
    match (second, third) {
        (None, _) => true,
        (Some(class), None) if last.len() == 2 && CLASSES.contains(&class) => true,
        _ => SHARED.contains(&name),
    }
}

/// Why a host is not taken; none if it is. `*.` at its beginning stands for every name below.
pub(super) fn fault(host: &str) -> Option<String> {
    let (wild, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host),
    };
    if host.chars().all(|c| matches!(c, '*' | '.')) {
        return Some("every host there is: leave host out, if that is meant".to_owned());
    }
    if let Some(why) = misspelt(name) {
        return Some(why);
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return Some("this machine is no host: ask for loopback ports".to_owned());
    }
    match (is_shared(name), wild) {
        (true, true) => Some(format!("below {} everybody can have a name: write the hosts out", name)),
        (true, false) if !name.contains('.') => {
            Some("a host has a name and a domain, such as api.example.org".to_owned())
        }
        // What is shared below may be a host itself (storage.googleapis.com), a class under a country's is not.
        (true, false) if name.matches('.').count() == 1 && !SHARED.contains(&name) => {
            Some("it is a registry's, not a host".to_owned())
        }
        _ => None,
    }
}

/// Why a name can't be compared with what a resolver sees, or looks like another.
fn misspelt(name: &str) -> Option<String> {
    let why = |text: &str| Some(text.to_owned());
    if !name.is_ascii() {
        return why("letters of other scripts look like others: only ASCII is taken");
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return why("write it in lower case: names are compared as they stand");
    }
    if name.contains("://") || name.contains('/') {
        return why("a name is meant, not an address of a page");
    }
    if name.contains(':') {
        return why("a name is meant: ports stand apart, and addresses aren't taken");
    }
    if name.contains('*') {
        return why("a star stands for whole names, and at the beginning only: *.example.org");
    }
    if name.ends_with('.') || name.starts_with('.') || name.contains("..") {
        return why("a dot stands between two labels");
    }
    if name.len() > 253 {
        return why("longer than a name can be");
    }
    for label in name.split('.') {
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !letters || label.starts_with('-') || label.ends_with('-') || label.len() > 63 {
            return Some(format!("{} is no label of a host's name", spelled(label)));
        }
        if label.starts_with("xn--") {
            return why("what an encoded name shows as may look like another: it is not taken");
        }
    }
    // Whatever ends in a number is an address to somebody: 127.1, 0x7f.1, 2130706433.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if last.bytes().all(|byte| byte.is_ascii_digit()) || hexadecimal {
        return why("addresses are not taken as names");
    }
    None
}

/// Whether every name of one is a name of the other.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        None => wide == narrow,
        Some(tail) => {
            wide == narrow
                || narrow.strip_prefix('*').unwrap_or(narrow).ends_with(tail) && narrow.len() > tail.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_or_all_below_one_owner_passes() {
        for host in [
            "api.example.org",
            "*.example.org",
            "t.co",
            "a-b.example.co.uk",
            "*.example.co.uk",
            "storage.googleapis.com",
            "x1.y2.dev",
        ] {
            assert_eq!(fault(host), None, "{host}");
        }
    }

    #[test]
    fn what_is_too_broad_or_looks_like_another_is_refused() {
        for host in [
            "*",
            "*.",
            "*.*",
            "*.*.com",
            "*.com",
            "*.uk",
            "*.co.uk",
            "*.com.au",
            "co.uk",
            "com",
            "foo",
            "*.github.io",
            "*.amazonaws.com",
            "example.org.",
            ".example.org",
            "a..b",
            "Example.org",
            "еxample.org",
            "xn--pple-43d.com",
            "127.0.0.1",
            "127.1",
            "0x7f.0x1",
            "2130706433",
            "[::1]",
            "::1",
            "example.org:443",
            "https://example.org",
            "exa mple.org",
            "-a.example.org",
            "a*.example.org",
            "a.*.org",
            "localhost",
            "*.localhost",
            "a_b.example.org",
            "example.org/x",
            "user@example.org",
        ] {
            assert!(fault(host).is_some(), "{host}");
        }
        assert!(fault(&format!("{}.example.org", "a".repeat(64))).is_some());
        assert!(fault(&format!("{}example.org", "a.".repeat(130))).is_some());
    }

    #[test]
    fn one_covers_another_exactly_when_it_has_all_its_names() {
        for (wide, narrow, yes) in [
            ("example.org", "example.org", true),
            ("example.org", "a.example.org", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "*.b.example.org", true),
            ("*.example.org", "*.example.org", true),
            ("*.example.org", "example.org", false),
            ("*.example.org", "badexample.org", false),
            ("*.b.example.org", "*.example.org", false),
            ("a.example.org", "*.example.org", false),
        ] {
            assert_eq!(covers(wide, narrow), yes, "{wide} {narrow}");
        }
    }
}
