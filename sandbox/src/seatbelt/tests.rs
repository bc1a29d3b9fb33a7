//! Each rule as it is written, and what no path can do to it.

use super::*;
use crate::ability::Ability;
use crate::plan::{Place, Plan};
use crate::profile::Profile;

/// An expression of Scheme, as far as a profile has any.
#[derive(Debug, PartialEq)]
enum Expression {
    List(Vec<Expression>),
    Text(String),
    Word(String),
}

/// Reads all of a text; anything left open or over is a failure.
fn read(text: &str) -> Vec<Expression> {
    let mut open: Vec<Vec<Expression>> = vec![Vec::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let read = match letter {
            '(' => {
                open.push(Vec::new());
                continue;
            }
            ')' => Expression::List(open.pop().unwrap()),
            '"' => {
                let mut text = String::new();
                loop {
                    match letters.next().unwrap() {
                        '"' => break Expression::Text(text),
                        '\\' => {
                            let escaped = letters.next().unwrap();
                            assert!(['"', '\\'].contains(&escaped), "{escaped:?} is escaped");
                            text.push(escaped);
                        }
                        letter => text.push(letter),
                    }
                }
            }
            letter if letter.is_whitespace() => continue,
            letter => {
                let mut word = String::from(letter);
                while let Some(letter) =
                    letters.next_if(|next| !next.is_whitespace() && !"()\"".contains(*next))
                {
                    word.push(letter);
                }
                Expression::Word(word)
            }
        };
        open.last_mut().unwrap().push(read);
    }
    assert_eq!(open.len(), 1, "{text}");
    open.pop().unwrap()
}

/// A rule: verdict, operations, filters with their strings. One about everything has no filters.
#[derive(Debug, PartialEq)]
struct Rule {
    verdict: String,
    operations: Vec<String>,
    filters: Vec<(String, String)>,
}

fn rules(text: &str) -> Vec<Rule> {
    let rule = |expression| {
        let Expression::List(parts) = expression else { panic!("{expression:?} is no rule") };
        let (mut operations, mut filters) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Expression::Word(word) => operations.push(word),
                Expression::Text(_) => panic!("a string in no filter"),
                Expression::List(parts) => match parts.as_slice() {
                    [Expression::Word(kind), Expression::Text(text)] => {
                        filters.push((kind.clone(), text.clone()));
                    }
                    [Expression::Word(kind), Expression::Word(word)] => {
                        filters.push((kind.clone(), word.clone()));
                    }
                    [Expression::Word(end), Expression::Word(protocol), Expression::Text(text)] => {
                        filters.push((format!("{end} {protocol}"), text.clone()));
                    }
                    other => panic!("{other:?} is no filter"),
                },
            }
        }
        Rule { verdict: operations.remove(0), operations, filters }
    };
    read(text).into_iter().map(rule).collect()
}

fn compiled(belt: &Belt) -> Vec<Rule> {
    rules(&belt.compile().unwrap())
}

/// What a belt adds to an empty one, in its order.
fn added(belt: &Belt) -> String {
    let bare = Belt::default().compile().unwrap();
    let text = belt.compile().unwrap();
    let old: Vec<&str> = bare.lines().collect();
    text.lines().filter(|line| !old.contains(line)).map(|line| format!("{line}\n")).collect()
}

/// As it was written last; `KAIRO_BLESS=1` says that what is written now is meant.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/seatbelt/golden").join(name);
    if std::env::var_os("KAIRO_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap());
}

fn allowing(what: Use, path: &str) -> Belt {
    Belt { allow: vec![(what, path.into())], ..Belt::default() }
}

fn denying(what: Denial, path: &str) -> Belt {
    Belt { deny: vec![(what, path.into())], ..Belt::default() }
}

#[test]
fn nothing_is_allowed_but_to_start() {
    golden("start.sb", &Belt::default().compile().unwrap());
}

/// A whole profile of ours, on a pretended Mac.
#[test]
fn a_profile_is_written_as_it_always_was() {
    let profile: Profile = serde_json::from_value(serde_json::json!({
        "files": {
            "read": ["/etc/hosts", "/opt/homebrew"], "execute": ["/bin"], "write": ["./"], "create": ["./"],
            "delete": ["./"], "metadata": true, "denyRead": ["~/.ssh"], "denyWrite": ["./.git/hooks"]
        },
        "network": {"connect": [443], "bind": [8080], "loopback": [5000], "udp": true},
        "unixSockets": {"paths": ["/tmp/agent.sock"]},
        "devices": {"allow": ["/dev/cu.usb1"]},
        "acceptWeaker": ["loopback", "ptrace", "systemCalls", "terminal"]
    }))
    .unwrap();
    let mac = Ability { sandbox_exec: true, ..Ability::none() };
    let place = Place { uid: 501, home: Some("/Users/u".into()), folder: Some("/Users/u/place".into()) };
    let belt = Plan::new(&profile, &mac, &place).unwrap().containment.belt.unwrap();
    golden("profile.sb", &belt.compile().unwrap());
}

#[test]
fn each_use_is_its_own_operations_below_its_path() {
    let folders = "(allow file-read-metadata file-test-existence\n  (literal \"/\")\n  (literal \"/a\"))\n";
    for (what, operations) in [
        (Use::Read, "file-read* file-test-existence file-map-executable"),
        (Use::Write, "file-write-data file-write-times"),
        (Use::Execute, "process-exec file-read* file-test-existence file-map-executable"),
        (Use::Create, "file-write-create"),
        (Use::Delete, "file-write-unlink"),
        (Use::Metadata, "file-write-flags file-write-mode file-write-owner file-write-xattr"),
        (Use::Device, "file-read* file-test-existence file-write-data file-ioctl"),
        (Use::Connect, "network-outbound"),
        (Use::Listen, "network-bind network-inbound"),
    ] {
        let rule = format!("(allow {operations}\n  (subpath \"/a/b\"))\n");
        let bare = added(&allowing(what, "/a/b"));
        // The rule that has operations in common with the start is told by its path.
        let expected: String = [rule, folders.to_owned()]
            .concat()
            .lines()
            .filter(|line| !Belt::default().compile().unwrap().lines().any(|old| old == *line))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(bare, expected, "{what:?}");
        let rules = compiled(&allowing(what, "/a/b"));
        let about = [("subpath".to_owned(), "/a/b".to_owned())];
        let rule = rules.iter().find(|rule| rule.filters == about).unwrap();
        assert_eq!((rule.verdict.as_str(), rule.operations.join(" ").as_str()), ("allow", operations));
    }
}

#[test]
fn a_path_stands_there_by_every_name_it_may_have() {
    let below = |belt: &Belt| -> Vec<String> {
        let rules = compiled(belt);
        let written = rules.into_iter().find(|rule| rule.operations == ["file-write-create"]).unwrap();
        written.filters.into_iter().filter(|(kind, _)| kind == "subpath").map(|(_, path)| path).collect()
    };
    assert_eq!(below(&allowing(Use::Create, "/tmp/x")), ["/private/tmp/x", "/tmp/x"]);
    assert_eq!(below(&allowing(Use::Create, "/var")), ["/private/var", "/var"]);
    assert_eq!(below(&allowing(Use::Create, "/variable")), ["/variable"]);
    assert_eq!(below(&allowing(Use::Create, "/private/tmp/x")), ["/private/tmp/x"]);
    assert_eq!(
        below(&allowing(Use::Create, "/System/Volumes/Data/tmp/x")),
        ["/System/Volumes/Data/tmp/x", "/private/tmp/x", "/tmp/x"]
    );
    // The volume itself has no shorter name but one that is everything.
    assert_eq!(below(&allowing(Use::Create, "/System/Volumes/Data")), ["/System/Volumes/Data"]);
    let denied = compiled(&denying(Denial::Write, "/TMP/x"));
    let subpaths: Vec<&str> =
        (denied.iter().find(|rule| rule.operations.contains(&"file-write*".into())).unwrap().filters.iter())
            .filter(|(kind, _)| kind == "subpath")
            .map(|(_, path)| path.as_str())
            .collect();
    assert_eq!(
        subpaths,
        ["/System/Volumes/Data/TMP/x", "/System/Volumes/Data/private/TMP/x", "/TMP/x", "/private/TMP/x"]
    );
}

#[test]
fn denials_stand_after_everything_that_is_allowed() {
    let everything = [Use::Read, Use::Write, Use::Create, Use::Delete, Use::Execute];
    let belt = Belt {
        allow: everything.map(|what| (what, b"/".to_vec())).into(),
        deny: vec![(Denial::Read, b"/a/b".to_vec()), (Denial::Write, b"/c/d".to_vec())],
        devices: true,
        ports: vec![Port { listen: false, udp: true, local: false, number: None }],
        system: true,
        ..Belt::default()
    };
    let rules = compiled(&belt);
    let denied = rules.iter().skip(2).position(|rule| rule.verdict == "deny").unwrap() + 2;
    assert!(rules[denied..].iter().all(|rule| rule.verdict == "deny" && !rule.filters.is_empty()));
    assert_eq!(
        rules[1],
        Rule { verdict: "deny".into(), operations: vec!["default".into()], filters: vec![] }
    );
}

#[test]
fn every_operation_that_is_allowed_on_files_is_denied_by_its_own_name() {
    let denied: Vec<&str> = [Denial::Read.operations(), Denial::Write.operations()].concat();
    for what in [Use::Read, Use::Write, Use::Execute, Use::Create, Use::Delete, Use::Metadata] {
        for operation in what.operations() {
            assert!(denied.contains(operation), "{operation}");
        }
    }
}

#[test]
fn what_is_denied_and_every_folder_above_cannot_be_moved_away() {
    for what in [Denial::Read, Denial::Write] {
        let rules = compiled(&denying(what, "/a/b/c"));
        let unmoved: Vec<&(String, String)> = (rules.iter())
            .filter(|rule| rule.verdict == "deny" && rule.operations == ["file-write-unlink"])
            .flat_map(|rule| &rule.filters)
            .collect();
        for (kind, text) in [
            ("subpath", "/a/b/c"),
            ("regex", "^/[aA]/[bB]/[cC]$"),
            ("regex", "^/[aA]/[bB]/[cC]/"),
            ("literal", "/a/b"),
            ("literal", "/a"),
            ("literal", "/"),
            ("regex", "^/[aA]/[bB]$"),
            ("regex", "^/[aA]$"),
            ("literal", "/System/Volumes/Data/a/b"),
            ("literal", "/System/Volumes"),
        ] {
            assert!(
                unmoved.iter().any(|(has, is)| (has.as_str(), is.as_str()) == (kind, text)),
                "{kind} {text}"
            );
        }
        let unmade =
            rules.iter().find(|rule| rule.verdict == "deny" && rule.operations == ["file-write-create"]);
        assert_eq!(unmade.is_some(), what == Denial::Write);
        if let Some(unmade) = unmade {
            assert!(unmade.filters.contains(&("literal".into(), "/a/b".into())));
            assert!(unmade.filters.contains(&("regex".into(), "^/[aA]/[bB]$".into())));
        }
    }
}

#[test]
fn a_denial_is_of_capitals_and_small_letters_and_patterns_are_letters() {
    let patterns = |path: &str| -> Vec<String> {
        let rules = compiled(&denying(Denial::Read, path));
        let denied =
            rules.into_iter().find(|rule| rule.verdict == "deny" && !rule.filters.is_empty()).unwrap();
        let mut patterns: Vec<String> =
            denied.filters.into_iter().filter(|(kind, _)| kind == "regex").map(|(_, text)| text).collect();
        patterns.retain(|pattern| !pattern.contains("[vV][oO][lL]") && pattern.ends_with('$'));
        patterns
    };
    assert_eq!(patterns("/w/.git"), [r"^/[wW]/\.[gG][iI][tT]$"]);
    assert_eq!(patterns("/1*?[2-3]{4}"), [r"^/1\*\?\[2-3\]\{4\}$"]);
    assert_eq!(patterns(r#"/1^(2|3)+$\"#), [r"^/1\^\(2\|3\)\+\$\\$"]);
    // However it is written: with its accent in one, or after it.
    assert_eq!(patterns("/1/caf\u{e9}x"), ["^/1/[cC][aA][^/]+[xX]$"]);
    assert_eq!(patterns("/1/cafe\u{301}\u{302}x"), ["^/1/[cC][aA][fF][^/]+[xX]$"]);
}

#[test]
fn ports_are_named_and_hosts_are_any_or_this_one() {
    let port = Port { listen: false, udp: false, local: false, number: Some(443) };
    let written = |port: Port| added(&Belt { ports: vec![port], ..Belt::default() });
    assert_eq!(written(port), "(allow network-outbound (remote tcp \"*:443\"))\n");
    assert_eq!(
        written(Port { local: true, ..port }),
        "(allow network-outbound (remote tcp \"localhost:443\"))\n"
    );
    assert_eq!(
        written(Port { listen: true, number: None, ..port }),
        "(allow network-bind network-inbound (local tcp \"*:*\"))\n"
    );
    assert_eq!(
        written(Port { udp: true, number: None, ..port }),
        "(allow network-outbound (remote udp \"*:*\"))\n(allow network-outbound\n  (literal \"/private/var/run/mDNSResponder\"))\n"
    );
    let without = compiled(&Belt::default());
    assert!(
        !without.iter().flat_map(|rule| &rule.operations).any(|operation| operation.starts_with("network"))
    );
    assert_eq!(added(&Belt { families: true, ..Belt::default() }), "(allow system-socket)\n");
}

#[test]
fn other_processes_are_out_of_reach_unless_they_are_in() {
    let written = |signal, look| {
        let text = Belt { signal, look, ..Belt::default() }.compile().unwrap();
        let lines = text.lines().filter(|line| line.contains("signal") || line.contains("process-info"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        written(Ring::Sandbox, Ring::Own),
        ["(allow signal (target same-sandbox))", "(allow process-info* mach-priv-task-port (target self))"]
    );
    assert_eq!(
        written(Ring::Any, Ring::Sandbox),
        ["(allow signal)", "(allow process-info* mach-priv-task-port (target same-sandbox))"]
    );
    assert_eq!(Ring::from(Reach::None), Ring::Own);
}

#[test]
fn devices_are_commanded_only_where_it_takes_it() {
    let commanded = |belt: &Belt| -> Vec<String> {
        let rules = compiled(belt).into_iter().filter(|rule| rule.operations.contains(&"file-ioctl".into()));
        rules.flat_map(|rule| rule.filters).map(|(_, text)| text).collect()
    };
    assert_eq!(commanded(&Belt::default()), Vec::<String>::new());
    assert_eq!(commanded(&Belt { devices: true, ..Belt::default() }), ["/dev/tty", "^/dev/ttys[0-9]+$"]);
    assert_eq!(commanded(&allowing(Use::Device, "/dev/cu.x")), ["/dev/cu.x"]);
}

#[test]
fn where_rights_and_the_system_are_not_guarded_it_says_so() {
    let open = added(&Belt { privileges: true, system: true, ..Belt::default() });
    for line in ["(allow forbidden-exec-sugid)", "(allow mach-lookup)", "(allow file-mount file-unmount)"] {
        assert!(open.lines().any(|written| written == line), "{line}");
    }
}

/// Whatever a profile of ours says: a second name for a file would get around every denial, and so would an extension.
#[test]
fn nothing_gives_a_file_a_second_name_or_hands_rights_on() {
    let port = Port { listen: true, udp: true, local: false, number: None };
    let belt = Belt {
        allow: Use::ALL.iter().map(|what| (*what, b"/".to_vec())).collect(),
        deny: Vec::new(),
        devices: true,
        ports: vec![port, Port { listen: false, ..port }],
        families: true,
        signal: Ring::Any,
        look: Ring::Any,
        system: true,
        privileges: true,
    };
    let allowed: Vec<String> = compiled(&belt).into_iter().skip(2).flat_map(|rule| rule.operations).collect();
    for operation in ["file*", "file-write*", "file-link", "file-clone", "file-issue-extension", "default"] {
        assert!(!allowed.iter().any(|has| has == operation), "{operation}");
    }
}

#[test]
fn hostile_paths_are_letters_in_a_string() {
    for path in [
        r#"/a") (allow default) (deny file-read* (literal ""#,
        r#"/a\"#,
        r#"/a\" ) (allow file-write*) ;"#,
        r"/a\\\",
        "/a;b",
        "/a#|b|#",
        "/a'b`c,d",
        "/(((",
        "/)))",
        "/a*b?[c]{d,e}",
        "/#\"x\"",
        "/\u{202e}\u{200b}é漢😀",
        "/$(id)",
        "/%s%n",
    ] {
        let allowed = compiled(&allowing(Use::Write, path));
        assert!(
            allowed.iter().any(|rule| rule.filters == [("subpath".to_owned(), path.to_owned())]),
            "{path}"
        );
        let bare = compiled(&denying(Denial::Write, "/plain"));
        let denied = compiled(&denying(Denial::Write, path));
        assert!(denied.iter().any(|rule| rule.filters.contains(&("subpath".into(), path.into()))), "{path}");
        let shape = |rules: &[Rule]| -> Vec<(String, Vec<String>)> {
            rules.iter().map(|rule| (rule.verdict.clone(), rule.operations.clone())).collect()
        };
        assert_eq!(shape(&denied), shape(&bare), "{path}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let long = format!("/{}", "1".repeat(1_023));
    let letters = format!("/{}", "a".repeat(300));
    for (path, why) in [
        (&b"/a\nb"[..], "control"),
        (b"/a\0b", "NUL"),
        (b"/a\x01", "control"),
        (b"/a\x7f", "control"),
        ("/a\u{85}b".as_bytes(), "control"),
        (b"/\xff", "UTF-8"),
        (b"/\xc0\xaf", "UTF-8"),
        (b"a", "absolute"),
        (b"", "absolute"),
        (b"/a/", "slash at its end"),
        (b"/a//b", "empty parts"),
        (b"/a/../b", "`..`"),
        (b"/./a", "`..`"),
        (long.as_bytes(), "longer than"),
    ] {
        for belt in [
            Belt { allow: vec![(Use::Read, path.into())], ..Belt::default() },
            Belt { deny: vec![(Denial::Read, path.into())], ..Belt::default() },
        ] {
            let refused = belt.compile().unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
    assert!(allowing(Use::Read, &letters).compile().is_ok());
    assert!(
        denying(Denial::Read, &letters).compile().unwrap_err().to_string().contains("small letters alike")
    );
    assert!(denying(Denial::Read, "/system/volumes/DATA").compile().is_err());
    let many = (0..10_000).map(|number| (Use::Read, format!("/{number}/{}", "1".repeat(100)).into_bytes()));
    let many = Belt { allow: many.collect(), ..Belt::default() };
    assert!(matches!(many.compile(), Err(Unsayable::Long(_))));
}

#[test]
fn links_are_followed_by_denials_and_to_what_is_read_if_they_are_trusted() {
    let mut belt = Belt {
        allow: vec![
            (Use::Read, b"/roots".to_vec()),
            (Use::Read, b"/theirs".to_vec()),
            (Use::Write, b"/roots".to_vec()),
        ],
        deny: vec![(Denial::Read, b"/theirs".to_vec()), (Denial::Write, b"/plain".to_vec())],
        ..Belt::default()
    };
    let before = belt.clone();
    let leads = |path: &Path| PathBuf::from(format!("/there{}", path.display()));
    belt.follow(
        |path| (path != Path::new("/theirs")).then(|| leads(path)),
        |path| Some(if path == Path::new("/plain") { path.to_owned() } else { leads(path) }),
    );
    assert_eq!(belt.allow[before.allow.len()..], [(Use::Read, b"/there/roots".to_vec())]);
    assert_eq!(belt.deny[before.deny.len()..], [(Denial::Read, b"/there/theirs".to_vec())]);
}

/// Marsaglia's xorshift: the same numbers every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// A path of bytes that mean something to somebody, and of others.
    fn path(&mut self) -> Vec<u8> {
        const MEANT: [&[u8]; 24] = [
            b"/",
            b"\"",
            b"\\",
            b"(",
            b")",
            b";",
            b"#\"",
            b"#|",
            b"\n",
            b"\0",
            b" ",
            b"'",
            b"*",
            b"[",
            b"]",
            b"^",
            b"$",
            b"..",
            b"tmp",
            b"/private",
            b"\xff",
            b"\xe2\x82",
            b"\\x41;",
            b"(allow default)",
        ];
        let mut path = b"/".to_vec();
        for _ in 0..self.below(12) {
            match self.below(4) {
                0 => path.push(self.below(256) as u8),
                1 => path.extend(
                    char::from_u32(self.below(0x3000) as u32).unwrap_or('x').to_string().into_bytes(),
                ),
                _ => path.extend(MEANT[self.below(MEANT.len())]),
            }
        }
        path
    }
}

#[test]
fn whatever_the_bytes_what_is_read_back_is_what_was_meant_or_it_is_refused() {
    let (mut written, mut refused) = (0, 0);
    for seed in 1..=200u64 {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for _ in 0..20 {
            let path = numbers.path();
            let belt = Belt {
                allow: vec![(Use::ALL[numbers.below(Use::ALL.len())], path.clone())],
                deny: vec![(Denial::Write, path.clone())],
                ..Belt::default()
            };
            let Ok(text) = belt.compile() else {
                refused += 1;
                assert!(check_denied(&path).is_err(), "seed {seed}: {path:?}");
                continue;
            };
            written += 1;
            let path = String::from_utf8(path).unwrap();
            let rules = rules(&text);
            let names = names(&path);
            for (verdict, expected) in [("allow", &names), ("deny", &aliases(&path))] {
                // By all its names, and by nothing else: every string is one of these, or of the start's, or a pattern.
                for name in expected {
                    let about = ("subpath".to_owned(), name.clone());
                    let found =
                        rules.iter().any(|rule| rule.verdict == verdict && rule.filters.contains(&about));
                    assert!(found, "seed {seed}: {path:?}");
                }
            }
            let bare = compiled(&Belt::default());
            let known: Vec<&String> =
                bare.iter().flat_map(|rule| &rule.filters).map(|(_, text)| text).collect();
            let aliases = aliases(&path);
            let ours = |text: &String| {
                aliases.contains(text)
                    || aliases.iter().any(|name| ancestors(name).any(|above| above == text))
            };
            for (kind, text) in rules.iter().flat_map(|rule| &rule.filters) {
                assert!(
                    kind == "regex" || known.contains(&text) || ours(text),
                    "seed {seed}: {path:?}: {text:?}"
                );
            }
        }
    }
    assert!(written > 300 && refused > 300, "{written} written, {refused} refused");
}
