//! The rules of the house, held against the real files.
//!
//! Which crate may import which, where the platform may differ, where unsafe code may live, how long a file may
//! grow: rules that nobody reads are broken by the third person who comes along, so each is a test that reads the
//! tree. Every rule is a function from sources to complaints, and every function is shown a bad sample as well:
//! a rule that cannot fail holds nothing. The ratchets (`LONG_FILES`, `LONG_FUNCTIONS`) name what is too long
//! today; an entry may only shrink or go.
//!
//! Not here: what clippy and rustc already check (see `[workspace.lints]` in `Cargo.toml`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file that are not tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;
/// Files that are too long, and how long they may be.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions that are too long (`path::name`), and how long they may be.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

/// Crate, folder, and which of ours it may import.
const LAYERS: &[(&str, &str, &[&str])] = &[
    ("kairo-wire", "wire", &[]),
    ("kairo-shm", "shm", &[]),
    ("kairo-sandbox", "sandbox", &[]),
    ("kairo-dataplane", "dataplane", &["kairo-wire", "kairo-shm", "kairo-sandbox"]),
    ("kairo-controlplane", "controlplane", &["kairo-wire", "kairo-sandbox", "kairo-dataplane"]),
    ("kairo-client", "client", &["kairo-wire", "kairo-shm"]),
    ("xtask", "xtask", &["kairo-shm"]),
    (
        "kairo",
        "",
        &[
            "kairo-wire",
            "kairo-shm",
            "kairo-sandbox",
            "kairo-dataplane",
            "kairo-controlplane",
            "kairo-client",
        ],
    ),
];
/// The data plane moves frames; what is in them is the business of others.
const WIRE_ROOMS_OF_DATAPLANE: &[&str] =
    &["chunk", "codec", "envelope", "event", "frame", "id", "limits", "methods"];
/// The only files that may ask which platform this is.
const SEAMS: &[&str] = &[
    "dataplane/src/driver/mod.rs",
    "dataplane/src/sys/mod.rs",
    "sandbox/src/lib.rs",
    "shm/src/memory/mod.rs",
    "src/worker/mod.rs",
];
/// The only places where unsafe code may be.
const UNSAFE_ROOMS: &[&str] = &[
    "shm/src/",
    "dataplane/src/driver/",
    "dataplane/src/sys/",
    "sandbox/src/linux/",
    "sandbox/src/macos.rs",
];
/// Roots that promise to have none.
const SAFE_ROOTS: &[&str] =
    &["wire/src/lib.rs", "client/src/lib.rs", "controlplane/src/lib.rs", "src/main.rs", "xtask/src/lib.rs"];

/// A Rust file in three views of equal shape: as written, without comments and literals, and tests only.
struct Source {
    path: String,
    text: String,
    code: String,
    test_lines: BTreeSet<usize>,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = blank(text);
        let test_lines =
            if is_test_path(path) { (0..text.lines().count()).collect() } else { test_lines(&code) };
        Source { path: path.to_owned(), text: text.to_owned(), code, test_lines }
    }

    /// Lines of code, with their numbers from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    fn is_test(&self, line: usize) -> bool {
        self.test_lines.contains(&(line - 1))
    }

    /// The crate (by folder) this file is part of the library or binary of.
    fn layer(&self) -> Option<(&'static str, &'static str, &'static [&'static str])> {
        LAYERS.iter().copied().find(|(_, folder, _)| {
            let src = if folder.is_empty() { "src/".to_owned() } else { format!("{folder}/src/") };
            self.path.starts_with(&src)
        })
    }
}

fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The text with comments and the insides of literals turned into spaces, line by line as long as before.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_or_comment(bytes, at);
        if end > at {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            let word = bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_';
            at += 1;
            // A prefix such as `r"` begins a word: step over whole words so that `for"` is none.
            while word && at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_') {
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One past the comment or literal that starts at `at`, or `at` if none does.
fn literal_or_comment(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'r' | b'c')).count().min(2);
    let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let raw = rest[..prefix].contains(&b'r');
    if raw && rest.get(prefix + hashes) == Some(&b'"') {
        let close = [vec![b'"'], vec![b'#'; hashes]].concat();
        let body = &rest[prefix + hashes + 1..];
        let found = body.windows(close.len()).position(|window| window == close).unwrap_or(body.len());
        return at + prefix + hashes + 1 + (found + close.len()).min(body.len());
    }
    if !raw && rest.get(prefix) == Some(&b'"') {
        return at + prefix + quoted(&rest[prefix..], b'"');
    }
    if rest[0] == b'\'' {
        // A character literal, not a lifetime: it closes after one character or starts with a backslash.
        let chars: Vec<char> = String::from_utf8_lossy(&rest[..rest.len().min(8)]).chars().take(3).collect();
        if chars.get(1) == Some(&'\\') || chars.get(2) == Some(&'\'') {
            return at + quoted(rest, b'\'');
        }
    }
    at
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Indexes of the lines of items marked `#[cfg(test)]` (or `#[cfg(all(test, …))]`).
fn test_lines(code: &str) -> BTreeSet<usize> {
    let mut marked = BTreeSet::new();
    let starts = code.match_indices("#[cfg(").filter(|(at, _)| {
        let condition = code[*at..].split(']').next().unwrap_or_default();
        words(condition).any(|word| word == "test") && !condition.contains("not(")
    });
    for (start, _) in starts {
        let Some(open) = code[start..].find(['{', ';']).map(|found| start + found) else { continue };
        let end = if code.as_bytes()[open] == b'{' { closing(code, open) } else { open };
        let line = |offset: usize| code[..offset].matches('\n').count();
        marked.extend(line(start)..=line(end));
    }
    marked
}

/// Offset of the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    partner(code, open, (b'{', b'}'))
}

/// The same for another pair.
fn partner(code: &str, open: usize, (opens, closes): (u8, u8)) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            _ if byte == opens => depth += 1,
            _ if byte == closes && depth == 1 => return offset,
            _ if byte == closes => depth -= 1,
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').filter(|word| !word.is_empty())
}

// ---------------------------------------------------------------- the rules

/// Imports between our crates follow the arrows.
fn layers(source: &Source) -> Vec<String> {
    let Some((name, _, allowed)) = source.layer() else { return Vec::new() };
    let own = name.replace('-', "_");
    let mut complaints = Vec::new();
    for (number, line) in source.lines().filter(|(number, _)| !source.is_test(*number)) {
        for word in words(line).filter(|word| word.starts_with("kairo_") && *word != own) {
            let is_crate = LAYERS.iter().any(|(other, _, _)| other.replace('-', "_") == word);
            if is_crate && !allowed.iter().any(|other| other.replace('-', "_") == word) {
                complaints.push(format!("{}:{number}: {name} may not import {word}", source.path));
            }
        }
    }
    if name == "kairo-dataplane" {
        complaints.extend(wire_rooms(source));
    }
    complaints
}

/// The data plane reaches into `wire` only for what a frame is.
fn wire_rooms(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, path) in source.code.match_indices("kairo_wire::") {
        let rest = &source.code[at + path.len()..];
        let rooms: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => top_level(&group[..closing(rest, 0) - 1]),
            None => words(rest).next().into_iter().collect(),
        };
        for room in rooms.into_iter().filter(|room| !WIRE_ROOMS_OF_DATAPLANE.contains(room)) {
            let number = source.code[..at].matches('\n').count() + 1;
            complaints
                .push(format!("{}:{number}: the data plane may not use kairo_wire::{room}", source.path));
        }
    }
    complaints
}

/// First words of the comma-separated parts of a use group, at its own depth.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (offset, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&group[start..offset]);
                start = offset + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts.into_iter().filter_map(|part| words(part).next()).collect()
}

/// Dependencies between our crates follow the arrows too.
fn manifest_layers(name: &str, manifest: &toml::Table) -> Vec<String> {
    let allowed = LAYERS.iter().find(|(other, _, _)| *other == name).map(|(_, _, allowed)| *allowed);
    let Some(allowed) = allowed else { return vec![format!("{name} has no row in LAYERS")] };
    let ours = dependencies(manifest, &["dependencies", "build-dependencies"]);
    ours.into_iter()
        .filter(|dependency| is_ours(dependency) && !allowed.contains(&dependency.as_str()))
        .map(|dependency| format!("Cargo.toml of {name}: it may not depend on {dependency}"))
        .collect()
}

fn is_ours(dependency: &str) -> bool {
    LAYERS.iter().any(|(name, _, _)| *name == dependency)
}

/// Names under the given tables of a manifest, `[target.….dependencies]` included.
fn dependencies(manifest: &toml::Table, tables: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let holders = targets.into_iter().flat_map(|table| table.values()).filter_map(toml::Value::as_table);
    for holder in holders.chain([manifest]) {
        for table in tables.iter().filter_map(|table| holder.get(*table)).filter_map(toml::Value::as_table) {
            found.extend(table.keys().cloned());
        }
    }
    found
}

/// The platform is asked for in the seams only.
fn seams(source: &Source) -> Vec<String> {
    if SEAMS.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let asks = |line: &str| words(line).any(|word| matches!(word, "target_os" | "target_family" | "windows"));
    let cfg = |line: &str| line.contains("cfg(") || line.contains("cfg!(") || line.contains("cfg_attr(");
    (source.lines())
        .filter(|(number, line)| !source.is_test(*number) && cfg(line) && asks(line))
        .map(|(number, _)| format!("{}:{number}: a platform switch outside the seams", source.path))
        .collect()
}

/// Unsafe code stays in its rooms, each use under a `SAFETY:` note.
fn unsafe_rooms(source: &Source) -> Vec<String> {
    let in_room = UNSAFE_ROOMS.iter().any(|room| source.path.starts_with(room));
    let text: Vec<&str> = source.text.lines().collect();
    let mut complaints = Vec::new();
    for (number, line) in source.lines() {
        if !words(line).any(|word| word == "unsafe") {
            continue;
        }
        if !in_room {
            complaints.push(format!("{}:{number}: unsafe outside its rooms", source.path));
        } else if line.contains("unsafe {") || line.contains("unsafe impl") {
            let above = &text[number.saturating_sub(10)..number];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                complaints.push(format!("{}:{number}: unsafe without a SAFETY note above it", source.path));
            }
        }
    }
    complaints
}

/// Roots that promise no unsafe code say so to the compiler.
fn safe_roots(source: &Source) -> Vec<String> {
    if SAFE_ROOTS.contains(&source.path.as_str()) && !source.code.contains("#![forbid(unsafe_code)]") {
        return vec![format!("{}: no #![forbid(unsafe_code)]", source.path)];
    }
    Vec::new()
}

/// No file has grown past its bound; a bound that is too generous is tightened.
fn file_lengths(source: &Source, ratchet: &[(&str, usize)]) -> Vec<String> {
    let lines = source.text.lines().count() - source.test_lines.len();
    within(&source.path, lines, FILE_LINES_MAX, ratchet)
}

/// Nor has any function.
fn function_lengths(source: &Source, ratchet: &[(&str, usize)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (at, keyword) in source.code.match_indices("fn ") {
        let before = source.code[..at].chars().next_back();
        let name = words(&source.code[at + keyword.len()..]).next().unwrap_or_default();
        let first = source.code[..at].matches('\n').count() + 1;
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') || source.is_test(first) {
            continue;
        }
        let Some(open) = signature_end(&source.code, at) else { continue };
        if source.code.as_bytes()[open] == b'{' {
            let lines = source.code[at..=closing(&source.code, open)].matches('\n').count() + 1;
            complaints.extend(within(
                &format!("{}::{name}", source.path),
                lines,
                FUNCTION_LINES_MAX,
                ratchet,
            ));
        }
    }
    complaints
}

/// Offset of the brace that opens the body, or of the semicolon of a mere declaration.
fn signature_end(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' | b';' if depth == 0 => return Some(offset),
            _ => {}
        }
    }
    None
}

fn within(name: &str, lines: usize, max: usize, ratchet: &[(&str, usize)]) -> Vec<String> {
    match ratchet.iter().find(|(listed, _)| *listed == name).map(|(_, bound)| *bound) {
        None if lines > max => vec![format!("{name}: {lines} lines, at most {max} are allowed")],
        Some(bound) if lines > bound => {
            vec![format!("{name}: {lines} lines, and it may only shrink from {bound}")]
        }
        Some(_) if lines <= max => vec![format!("{name}: {lines} lines, take it off the ratchet")],
        Some(bound) if lines < bound => vec![format!("{name}: tighten the ratchet from {bound} to {lines}")],
        None | Some(_) => Vec::new(),
    }
}

/// Every file says first what it is for.
fn openings(source: &Source) -> Vec<String> {
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if first.starts_with("//!") || first.starts_with("#!/") {
        return Vec::new();
    }
    vec![format!("{}: it does not open with //! and what it is for", source.path)]
}

/// Nothing is left for later. The words are put together here so that this file holds none of them.
fn unfinished(path: &str, text: &str) -> Vec<String> {
    let words_banned = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let macros = [concat!("todo", "!("), concat!("unimplemented", "!(")];
    let hit = |line: &str| {
        words(line).any(|word| words_banned.contains(&word)) || macros.iter().any(|name| line.contains(name))
    };
    numbered(path, text, hit, "unfinished business")
}

/// Nothing names a folder of one machine, or the host of a package registry.
fn machine_names(path: &str, text: &str) -> Vec<String> {
    if path == "Cargo.lock" || path == "fuzz/Cargo.lock" {
        return Vec::new();
    }
    let banned = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.debian", ".org"),
    ];
    // Homes that tests and examples pretend to have.
    let text = &text.replace(concat!("/ho", "me/ana"), "~").replace(concat!("/ho", "me/u"), "~");
    numbered(
        path,
        text,
        |line| banned.iter().any(|name| line.contains(name)),
        "a path or host of one machine",
    )
}

fn numbered(path: &str, text: &str, hit: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| hit(line));
    lines.map(|(index, line)| format!("{path}:{}: {what}: {}", index + 1, line.trim())).collect()
}

/// Tests wait for conditions, never for time.
fn sleeping_tests(source: &Source) -> Vec<String> {
    (source.lines())
        .filter(|(number, line)| source.is_test(*number) && line.contains(concat!("sleep", "(")))
        .map(|(number, _)| format!("{}:{number}: a test that sleeps", source.path))
        .collect()
}

/// Tests run, all of them, always.
fn ignored_tests(source: &Source) -> Vec<String> {
    (source.lines())
        .filter(|(_, line)| line.contains(concat!("#[ig", "nore")))
        .map(|(number, _)| format!("{}:{number}: a test that is switched off", source.path))
        .collect()
}

/// Inside a crate a thing is imported from where it is defined, not from the crate's root.
fn root_imports(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let Some((_, folder, _)) = source.layer() else { return Vec::new() };
    let src = if folder.is_empty() { "src".to_owned() } else { format!("{folder}/src") };
    let is_room = |name: &str| exists(&format!("{src}/{name}.rs")) || exists(&format!("{src}/{name}/mod.rs"));
    let mut complaints = Vec::new();
    for (at, path) in source.code.match_indices("crate::") {
        let before = source.code[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | '$')) {
            continue;
        }
        let rest = &source.code[at + path.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level(&group[..closing(rest, 0) - 1]),
            None => words(rest).next().into_iter().collect(),
        };
        for name in names {
            let is_macro = rest[name.len().min(rest.len())..].starts_with('!');
            if !is_macro && !is_room(name) && name != "self" {
                let number = source.code[..at].matches('\n').count() + 1;
                complaints.push(format!("{}:{number}: crate::{name} goes through the root", source.path));
            }
        }
    }
    complaints
}

/// No room is named after nothing in particular.
fn room_names(path: &str) -> Vec<String> {
    let vague = ["utils", "util", "common", "core", "helpers", "misc"];
    let parts = Path::new(path).components().filter_map(|part| part.as_os_str().to_str());
    parts
        .map(|part| part.trim_end_matches(".rs"))
        .filter(|part| path.ends_with(".rs") && vague.contains(part))
        .map(|part| format!("{path}: `{part}` says nothing about what is in it"))
        .collect()
}

/// Every package we depend on has a row that says what it saves us, and no row outlives its package.
fn dependency_rows(used: &BTreeMap<String, BTreeSet<String>>, document: &str) -> Vec<String> {
    let section =
        document.split("\n## ").find(|section| section.starts_with("Dependencies")).unwrap_or_default();
    let rows: BTreeSet<&str> = (section.lines())
        .filter_map(|line| line.strip_prefix("| `").and_then(|rest| rest.split('`').next()))
        .collect();
    let missing = used.iter().filter(|(name, _)| !rows.contains(name.as_str()));
    let stale = rows.iter().filter(|row| !used.contains_key(**row));
    missing
        .map(|(name, by)| format!("docs/ARCHITECTURE.md: no line for `{name}`, which {by:?} depend on"))
        .chain(stale.map(|row| format!("docs/ARCHITECTURE.md: a line for `{row}`, on which nobody depends")))
        .collect()
}

// ---------------------------------------------------------------- the tree

/// Benches without a section in the document of what was measured, and rows with a bar that are not in it: as far as the label
/// of a row is a literal, its longest piece between places that are filled in.
fn unmeasured(source: &Source, document: &str) -> Vec<String> {
    let literal = |text: &str| Some(text.split_once('"')?.1.split_once('"')?.0.to_owned());
    let calls = |opening: &'static str| {
        let places = source.code.match_indices(opening).map(move |(at, _)| at + opening.len() - 1);
        let call = |open| source.text.get(open..partner(&source.code, open, (b'(', b')')));
        places.filter_map(move |open| call(open).map(str::to_owned))
    };
    let path = &source.path;
    let benches = calls("bench(").filter(|_| path == "benches/main.rs").filter_map(|call| literal(&call));
    let benches = benches.filter(|name| !document.contains(&format!("\n## {name}\n")));
    let rows = calls(".row(").chain(calls(".ratio(")).filter(|call| call.contains("Bar::At"));
    let labels = rows.filter_map(|call| literal(&call)).filter_map(|label| {
        let pieces = label.split(['{', '}']).step_by(2).map(str::trim);
        pieces.max_by_key(|piece| piece.len()).map(str::to_owned)
    });
    // What nobody has run has no rows yet, and says so.
    let own = format!("\n## {}\n", path.trim_start_matches("benches/").trim_end_matches(".rs"));
    let section = document.split_once(&own).and_then(|(_, rest)| rest.split("\n## ").next());
    let measured = !section.is_some_and(|section| section.contains("\nNot measured yet."));
    let labels = labels.filter(|label| measured && !document.contains(label.as_str()));
    benches
        .chain(labels)
        .map(|what| format!("{path}: docs/PERFORMANCE.md does not tell of {what:?}"))
        .collect()
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Paths of all files that belong to the project: what git knows or would add; without git, all but build output.
fn files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top())
        .output()
        .ok()
        .filter(|output| output.status.success() && !output.stdout.is_empty());
    let mut paths: Vec<String> = match listed {
        Some(output) => String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect(),
        None => walk(&top())
            .iter()
            .filter_map(|path| Some(path.strip_prefix(top()).ok()?.display().to_string()))
            .collect(),
    };
    paths.retain(|path| top().join(path).is_file());
    paths.sort();
    paths.dedup();
    assert!(paths.iter().any(|path| path == "Cargo.toml"), "the tree was not found: {paths:?}");
    paths
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let kept = entries.filter(|path| !path.ends_with("target") && !path.ends_with(".git"));
    kept.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(top().join(path)).expect("a listed file is readable")).into_owned()
}

fn sources() -> Vec<Source> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    let mut sources: Vec<Source> = rust.map(|path| Source::new(&path, &read(&path))).collect();
    let tests: BTreeSet<String> = sources.iter().flat_map(test_modules).collect();
    for source in sources.iter_mut().filter(|source| tests.contains(&source.path)) {
        source.test_lines = (0..source.text.lines().count()).collect();
    }
    sources
}

/// Where the modules lie that a file declares for its tests only: `#[cfg(test)] mod battery;`.
fn test_modules(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("mod" | "lib" | "main") => path.with_file_name(""),
        _ => path.with_extension(""),
    };
    let marked =
        source.lines().filter(|(number, line)| source.is_test(*number) && line.trim_end().ends_with(';'));
    marked
        .filter_map(|(_, line)| line.split("mod ").nth(1)?.strip_suffix(';'))
        .flat_map(|name| [format!("{name}.rs"), format!("{name}/mod.rs")])
        .map(|file| folder.join(file).display().to_string())
        .collect()
}

fn manifests() -> Vec<(String, toml::Table)> {
    let folders = LAYERS.iter().map(|(name, folder, _)| (*name, Path::new(folder).join("Cargo.toml")));
    folders
        .map(|(name, path)| {
            let table = read(&path.display().to_string()).parse().expect("a manifest is TOML");
            (name.to_owned(), table)
        })
        .collect()
}

fn hold(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// A rule complains about a bad sample as often as expected, and not about a good one.
fn poke(bad: &[String], expected: usize, good: &[String]) {
    assert_eq!(bad.len(), expected, "the rule misjudged its bad sample: {bad:?}");
    assert!(good.is_empty(), "the rule misjudged its good sample: {good:?}");
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let bad =
        Source::new("wire/src/frame.rs", "use kairo_dataplane::key::ReactorId;\nfn f() { kairo_shm::g() }");
    let good = Source::new(
        "client/src/lib.rs",
        "// kairo_dataplane\nuse kairo_wire::frame; let s = \"kairo_dataplane\";",
    );
    poke(&layers(&bad), 2, &layers(&good));
    let bad =
        Source::new("dataplane/src/reactor.rs", "use kairo_wire::{frame::Header, request::Request, method};");
    let good = Source::new("dataplane/src/reactor.rs", "use kairo_wire::{frame::{Header, Kind}, id};");
    poke(&layers(&bad), 2, &layers(&good));
    hold(sources().iter().flat_map(layers).collect());
}

#[test]
fn manifests_depend_only_on_what_lies_below_them() {
    let bad = "[dependencies]\nkairo-client.workspace = true".parse().expect("a sample");
    let good = "[dependencies]\nkairo-wire.workspace = true\n[dev-dependencies]\nx = \"1\""
        .parse()
        .expect("a sample");
    poke(&manifest_layers("kairo-dataplane", &bad), 1, &manifest_layers("kairo-dataplane", &good));
    hold(manifests().iter().flat_map(|(name, manifest)| manifest_layers(name, manifest)).collect());
}

#[test]
fn only_seams_ask_for_the_platform() {
    let bad = Source::new("src/cli/run.rs", "#[cfg(target_os = \"linux\")]\nfn f() { if cfg!(windows) {} }");
    let good = Source::new("dataplane/src/sys/mod.rs", "#[cfg(target_os = \"linux\")]\nmod linux;");
    poke(&seams(&bad), 2, &seams(&good));
    hold(sources().iter().flat_map(seams).collect());
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_is_explained() {
    let bad = Source::new("wire/src/frame.rs", "fn f() { unsafe { g() } }");
    let good = Source::new("wire/src/lib.rs", "#![forbid(unsafe_code)] // unsafe\n");
    poke(&unsafe_rooms(&bad), 1, &unsafe_rooms(&good));
    let bad = Source::new("shm/src/layout.rs", "fn f() {\n    unsafe { g() }\n}");
    let good =
        Source::new("shm/src/layout.rs", "fn f() {\n    // SAFETY: g wants nothing.\n    unsafe { g() }\n}");
    poke(&unsafe_rooms(&bad), 1, &unsafe_rooms(&good));
    hold(sources().iter().flat_map(unsafe_rooms).collect());
}

#[test]
fn safe_crates_forbid_unsafe_code() {
    let bad = Source::new("wire/src/lib.rs", "//! x\n// #![forbid(unsafe_code)]");
    let good = Source::new("wire/src/lib.rs", "//! x\n#![forbid(unsafe_code)]");
    poke(&safe_roots(&bad), 1, &safe_roots(&good));
    let sources = sources();
    for root in SAFE_ROOTS {
        assert!(sources.iter().any(|source| source.path == *root), "{root} is gone: correct SAFE_ROOTS");
    }
    hold(sources.iter().flat_map(safe_roots).collect());
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long = "//! x\n".repeat(FILE_LINES_MAX);
    let tests = "#[cfg(test)]\nmod tests {\n    fn f() {}\n}\n";
    let bad = Source::new("src/a.rs", &format!("{long}fn f() {{}}\n{tests}"));
    let good = Source::new("src/a.rs", &format!("{long}{tests}"));
    poke(&file_lengths(&bad, &[]), 1, &file_lengths(&good, &[]));
    let parent = Source::new("dataplane/src/driver/mod.rs", "#[cfg(test)]\nmod battery;\npub mod op;\n");
    assert_eq!(
        test_modules(&parent),
        ["dataplane/src/driver/battery.rs", "dataplane/src/driver/battery/mod.rs"]
    );
    poke(&file_lengths(&bad, &[("src/a.rs", 700)]), 1, &file_lengths(&bad, &[("src/a.rs", 601)]));
    hold(sources().iter().flat_map(|source| file_lengths(source, LONG_FILES)).collect());
}

#[test]
fn functions_are_short_enough_to_be_read() {
    let body = |lines: usize| format!("fn f(x: [u8; 2]) -> u8 {{\n{}}}\n", "    g(\"}\");\n".repeat(lines));
    let bad = Source::new("src/a.rs", &body(FUNCTION_LINES_MAX - 1));
    let good = Source::new("src/a.rs", &body(FUNCTION_LINES_MAX - 2));
    poke(&function_lengths(&bad, &[]), 1, &function_lengths(&good, &[]));
    hold(sources().iter().flat_map(|source| function_lengths(source, LONG_FUNCTIONS)).collect());
}

#[test]
fn every_file_says_what_it_is_for() {
    let bad = Source::new("src/a.rs", "use std::io;\n//! late\n");
    let good = Source::new("src/a.rs", "//! What it is for.\n");
    poke(&openings(&bad), 1, &openings(&good));
    hold(sources().iter().flat_map(openings).collect());
}

#[test]
fn every_bar_is_in_the_document_of_what_was_measured() {
    let text = "const B: &[Bench] = &[bench(\"fast\", \"what\")];\nfn f(report: &mut Report) {\n    \
        report.row(&format!(\"{n} calls, deep\"), \"x\", &a, Bar::AtMost(1.0));\n    report.row(\"told\", \"x\", &a, Bar::None);\n}\n";
    let benches = Source::new("benches/main.rs", text);
    poke(&unmeasured(&benches, "none"), 2, &unmeasured(&benches, "\n## fast\n| 64 calls, deep |"));
    let document = read("docs/PERFORMANCE.md");
    let benches = sources().into_iter().filter(|source| source.path.starts_with("benches/"));
    hold(benches.flat_map(|source| unmeasured(&source, &document)).collect());
}

#[test]
fn nothing_is_left_for_later() {
    let bad = format!("fn f() {{ {}) }}\n// {}: more\n", concat!("todo", "!("), concat!("TO", "DO"));
    poke(&unfinished("src/a.rs", &bad), 2, &unfinished("src/a.rs", "fn f() {}\n"));
    let read_all = files().into_iter().filter(|path| !path.ends_with(".lock"));
    hold(read_all.flat_map(|path| unfinished(&path, &read(&path))).collect());
}

#[test]
fn no_file_names_a_machine() {
    let bad = format!("cd {}x\n# from {}\n", concat!("/ro", "ot/"), concat!("crates", ".io"));
    poke(&machine_names("README.md", &bad), 2, &machine_names("README.md", "cd /tmp\n"));
    hold(files().into_iter().flat_map(|path| machine_names(&path, &read(&path))).collect());
}

#[test]
fn tests_wait_for_conditions_and_never_for_time() {
    let sleep = concat!("thread::sleep", "(d);");
    let bad = Source::new("src/a.rs", &format!("#[cfg(test)]\nmod tests {{\n    fn f() {{ {sleep} }}\n}}\n"));
    let good = Source::new("src/a.rs", &format!("fn f() {{ {sleep} }}\n#[cfg(test)]\nmod tests {{}}\n"));
    poke(&sleeping_tests(&bad), 1, &sleeping_tests(&good));
    hold(sources().iter().flat_map(sleeping_tests).collect());
}

#[test]
fn no_test_is_switched_off() {
    let bad = Source::new("src/a.rs", concat!("#[te", "st]\n#[ig", "nore]\nfn f() {}\n"));
    poke(&ignored_tests(&bad), 1, &ignored_tests(&Source::new("src/a.rs", "fn f() {}\n")));
    hold(sources().iter().flat_map(ignored_tests).collect());
}

#[test]
fn a_crate_imports_its_own_things_from_where_they_are() {
    let exists = |path: &str| matches!(path, "shm/src/layout.rs" | "shm/src/ring/mod.rs");
    let bad = Source::new("shm/src/writer.rs", "use crate::Ring;\nuse crate::{layout::Page, open};");
    let good =
        Source::new("shm/src/writer.rs", "use crate::layout::Page;\nuse crate::{ring, layout::{A, B}};");
    poke(&root_imports(&bad, exists), 2, &root_imports(&good, exists));
    let present: BTreeSet<String> = files().into_iter().collect();
    hold(sources().iter().flat_map(|source| root_imports(source, |path| present.contains(path))).collect());
}

#[test]
fn no_room_is_named_after_nothing() {
    poke(&room_names("wire/src/utils.rs"), 1, &room_names("wire/src/frame.rs"));
    hold(files().iter().flat_map(|path| room_names(path)).collect());
}

#[test]
fn every_dependency_has_its_line_in_the_architecture() {
    let used = BTreeMap::from([("bytes".to_owned(), BTreeSet::from(["wire".to_owned()]))]);
    let bad = "# A\n\n## Dependencies\n\n| `tokio` | x |\n";
    poke(
        &dependency_rows(&used, bad),
        2,
        &dependency_rows(&used, "# A\n\n## Dependencies\n\n| `bytes` | x |\n"),
    );
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, manifest) in manifests() {
        let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
        for dependency in dependencies(&manifest, &tables).into_iter().filter(|name| !is_ours(name)) {
            used.entry(dependency).or_default().insert(name.clone());
        }
    }
    hold(dependency_rows(&used, &read("docs/ARCHITECTURE.md")));
}
