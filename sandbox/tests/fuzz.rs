//! The fuzz target `manifest`, from fixed seeds: texts that are nearly right, spoiled, cut, doubled and nested.

#[path = "../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../fuzz/bodies/seed.rs"]
mod seed;

use seed::{Seed, each_seed};

const INPUTS: u64 = 1500;

const SHIPPED: [&str; 3] = [
    include_str!("../../examples/manifests/ffmpeg.yaml"),
    include_str!("../../examples/manifests/git-helper.toml"),
    include_str!("../../examples/manifests/weather.json"),
];

/// What makes a difference somewhere.
const PIECES: &[&str] = &[
    "/",
    "..",
    "./",
    "~",
    "*",
    "*.com",
    "\u{202e}",
    "\u{0}",
    "&a",
    "*a",
    "<<: ",
    "!!str ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    ": ",
    "#",
    "\n",
    "\t",
    "null",
    "true",
    "-1",
    "65536",
    "1e9",
    "99999999999999999999",
    "0x1f",
    "manifest: 1\n",
    "permissions",
    "host",
    "xn--",
    "---\n",
    "...\n",
    "? ",
    "|",
    ">-",
    "%YAML 1.2\n",
    "[[permissions.files]]\n",
    "=",
    "é",
    "🦀",
    ",",
];

#[test]
fn spoiled_manifests_are_refused_or_read_but_never_panic() {
    each_seed(INPUTS, |seed| {
        let mut bytes = seed.pick(&SHIPPED).as_bytes().to_vec();
        for _ in 0..seed.below(4) {
            let at = seed.below(bytes.len());
            let piece = seed.pick(PIECES);
            let until = (at + seed.below(3)).min(bytes.len());
            bytes.splice(at..until, piece.bytes());
        }
        seed::spoil(seed, &mut bytes);
        manifest::manifest(&bytes);
    });
}

#[test]
fn pieces_in_any_order_are_refused_or_read_but_never_panic() {
    each_seed(INPUTS, |seed| {
        let text: String = (0..seed.below(40)).map(|_| seed.pick(PIECES)).collect();
        manifest::manifest(text.as_bytes());
    });
}

/// A file to be read or written, or a port of a host.
type Atom = (&'static str, String, u16);

/// A small world: everything there is in it can be gone through.
fn world() -> Vec<Atom> {
    let mut folders = vec![String::new()];
    for _ in 0..3 {
        let below: Vec<String> =
            folders.iter().flat_map(|folder| ["a", "b"].map(|name| format!("{folder}/{name}"))).collect();
        folders.extend(below);
    }
    folders.sort();
    folders.dedup();
    let files = folders.into_iter().filter(|folder| !folder.is_empty());
    let files = files.flat_map(|path| ["read", "write"].map(|right| (right, path.clone(), 0)));
    let hosts = ["e.org", "x.e.org", "y.e.org", "x.y.e.org", "f.org"];
    let ports = hosts.iter().flat_map(|host| (1..8).map(|port| ("connect", (*host).to_owned(), port)));
    files.chain(ports).collect()
}

/// Rules of one manifest, apart from any code of ours that reads them.
#[derive(Default)]
struct Rules {
    allow: Vec<(&'static str, String)>,
    deny: Vec<(&'static str, String)>,
    connect: Vec<(Option<&'static str>, u16, u16)>,
}

impl Rules {
    fn drawn(seed: &mut Seed) -> Rules {
        let mut rules = Rules::default();
        let path = |seed: &mut Seed| -> String {
            let depth = 1 + seed.below(2);
            (0..depth).map(|_| ["/a", "/b"][seed.below(2)]).collect()
        };
        for _ in 0..seed.below(4) {
            rules.allow.push((["read", "write"][seed.below(2)], path(seed)));
        }
        for _ in 0..seed.below(3) {
            rules.deny.push((["read", "write"][seed.below(2)], path(seed)));
        }
        let any = seed.one_in(4);
        for _ in 0..seed.below(3) {
            let host = ["e.org", "x.e.org", "*.e.org", "*.y.e.org"][seed.below(4)];
            let first = 1 + seed.below(5) as u16;
            rules.connect.push(((!any).then_some(host), first, first + seed.below(3) as u16));
        }
        rules
    }

    fn text(&self) -> String {
        let list = |items: Vec<String>| items.join(", ");
        let file = |what: &str, (right, path): &(&str, String)| {
            format!("{{path: {path}, {what}: [{right}], purpose: p}}")
        };
        let files = self.allow.iter().map(|rule| file("allow", rule));
        let files = files.chain(self.deny.iter().map(|rule| file("deny", rule))).collect();
        let connect = self.connect.iter().map(|(host, first, last)| {
            let host = host.map_or(String::new(), |host| format!("host: '{host}', "));
            format!("{{{host}ports: ['{first}-{last}'], purpose: p}}")
        });
        format!(
            "manifest: 1\nname: x\nversion: '1'\npermissions:\n  files: [{}]\n  connect: [{}]\n",
            list(files),
            list(connect.collect())
        )
    }

    fn allows(&self, (what, which, port): &Atom) -> bool {
        let holds = |rules: &[(&str, String)]| {
            let below = |path: &str| which == path || which.starts_with(&format!("{path}/"));
            rules.iter().any(|(right, path)| right == what && below(path))
        };
        let reaches = |(host, first, last): &(Option<&str>, u16, u16)| {
            let named = host.is_none_or(|host| match host.strip_prefix('*') {
                Some(tail) => which.ends_with(tail),
                None => which == host,
            });
            *what == "connect" && named && (first..=last).contains(&port)
        };
        holds(&self.allow) && !holds(&self.deny) || self.connect.iter().any(reaches)
    }
}

#[test]
fn what_is_called_new_is_what_can_newly_be_reached() {
    use kairo_sandbox::manifest::syntax::Syntax;
    let world = world();
    let (mut compared, mut wider) = (0, 0);
    for number in 0..20_000 {
        let mut seed = Seed::new(number);
        let (before, after) = (Rules::drawn(&mut seed), Rules::drawn(&mut seed));
        let read = |rules: &Rules| kairo_sandbox::manifest::read(rules.text().as_bytes(), Syntax::Yaml);
        // What contradicts itself isn't compared.
        let (Ok(older), Ok(newer)) = (read(&before), read(&after)) else { continue };
        let lines: Vec<String> = newer.beyond(&older).into_iter().map(|line| line.text).collect();
        for what in ["read", "write", "connect"] {
            let gained =
                world.iter().any(|atom| atom.0 == what && after.allows(atom) && !before.allows(atom));
            let told = lines.iter().any(|line| line.starts_with(what));
            assert_eq!(told, gained, "seed {number}, {what}: {lines:?}\n{}\n{}", before.text(), after.text());
            compared += 1;
            wider += usize::from(gained);
        }
    }
    assert!(compared > 10_000 && wider > 1_000 && wider < compared - 1_000, "{wider} of {compared}");
}
