//! The fuzz target `manifest`, from fixed seeds: texts that are nearly right, spoiled, cut, doubled and nested.

#[path = "../../fuzz/bodies/manifest.rs"]
mod manifest;
#[path = "../../fuzz/bodies/seed.rs"]
mod seed;

use seed::Seed;

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

/// Names the seed of an input that fails.
fn each_seed(body: impl Fn(&mut Seed)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {}", self.0);
            }
        }
    }
    for number in 0..INPUTS {
        let _name = Name(number);
        body(&mut Seed::new(number));
    }
}

#[test]
fn spoiled_manifests_are_refused_or_read_but_never_panic() {
    each_seed(|seed| {
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
    each_seed(|seed| {
        let text: String = (0..seed.below(40)).map(|_| seed.pick(PIECES)).collect();
        manifest::manifest(text.as_bytes());
    });
}
