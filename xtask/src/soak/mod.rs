//! Real use, kept up: programs people have, readers that come and go, and every byte compared.
//!
//! ```text
//! seed ─▶ scene (media, archive, sleeper) on a kernel ─▶ hashes, frames and counts as without one ─▶ next seed …
//! ```
//!
//! A scene is short, and the same whether `cargo test --test daemon` runs it once on each driver or `cargo xtask soak` for
//! an hour. It sees a kernel from outside, and brings its own truth: what the same programs write where no kernel is.
//! A seed makes the same plan again, not the same history. What a scene lacks a program for is skipped by name.
//!
//! Not here: kernels that are killed at any instant under any load (`chaos`); `lasting` has them die while programs run.

mod archive;
mod guests;
mod lasting;
mod media;
mod sleeper;
mod tools;

use crate::chaos::{self, Census, Driver, Drivers, Home, Past, Random, Wrong, round_seed};
use clap::Args;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A user without rights, whose pages of pipes are counted.
const STRANGER: u32 = 65533;
/// How long it may take a kernel to put things away.
const SETTLING: Duration = Duration::from_secs(15);

/// Run real programs through a kernel for a while, and compare every byte
///
/// ffmpeg to an encoder, a hash, a disk and readers that come, go and stop; a tar through a compressor with a tap; `yes` into
/// a reader that sleeps. On each driver, and as root also as an ordinary user, whose pipes are counted.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Examples:\n  cargo xtask soak --minutes 60 --release\n  cargo xtask soak --seed 0x5eed --minutes 0 --scene media --driver poll\n  \
    cargo xtask soak --minutes 60 --kill-every 500"
)]
pub struct Options {
    /// How long; the round that has begun is finished, and there is one at least
    #[arg(long, default_value_t = 10)]
    pub minutes: u64,
    /// Of the first round; the others' follow from it [default: from the clock]
    #[arg(long, value_parser = chaos::seed)]
    pub seed: Option<u64>,
    /// Which driver
    #[arg(long, value_enum, default_value_t = Drivers::Both)]
    pub driver: Drivers,
    /// Only these scenes; all if absent
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub scene: Vec<String>,
    /// As root: not also as an ordinary user
    #[arg(long)]
    pub only_root: bool,
    /// As root: only as an ordinary user
    #[arg(long, conflicts_with = "only_root")]
    pub only_ordinary: bool,
    /// The source tree that is packed [default: this one]
    #[arg(long, value_name = "FOLDER")]
    pub tree: Option<PathBuf>,
    /// How much larger than in the tests
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub scale: u64,
    /// Kill the kernel about so often, milliseconds, and start the next one; the scenes are those that go on over that
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..))]
    pub kill_every: Option<u64>,
    /// The kernel to run [default: builds one]
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// Build the kernel with optimizations
    #[arg(long)]
    pub release: bool,
}

/// A kernel, as a scene finds it.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Where it is spoken to.
    pub socket: &'a Path,
    /// A folder its children can read.
    pub folder: &'a Path,
    /// A source tree they can read.
    pub tree: &'a Path,
    /// Its process.
    pub kernel: i32,
    /// How much larger than the least that shows anything.
    pub scale: u64,
    /// Whether the kernel may be killed, held while it is and until there is another; none where it isn't.
    pub mortal: Option<&'a Mutex<bool>>,
}

impl Site<'_> {
    /// From now on the kernel may be killed, or no more; by then there is one that lives.
    fn may_die(&self, may: bool) {
        if let Some(mortal) = self.mortal {
            *mortal.lock().unwrap_or_else(PoisonError::into_inner) = may;
        }
    }
}

/// What a scene came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Everything was as it must be: so many bytes were compared.
    Bytes(u64),
    /// There is no such program.
    Lacks(&'static str),
}

type Scene = fn(&Site<'_>, &mut Random) -> Result<Seen, Wrong>;

/// All there are.
const SCENES: &[(&str, Scene)] = &[
    ("media", media::kept),
    ("relayed", media::relayed),
    ("archive", archive::run),
    ("sleeper", sleeper::run),
];

/// Those that are played over kernels that are killed.
const LASTING: &[(&str, Scene)] = &[
    ("media", |site, _| lasting::video(site, true)),
    ("relayed", |site, _| lasting::video(site, false)),
    ("archive", |site, _| lasting::archive(site)),
    ("sleeper", lasting::sleeper),
];

/// The names of all scenes.
pub fn names() -> impl Iterator<Item = &'static str> {
    SCENES.iter().map(|(name, _)| *name)
}

/// Runs one scene with the plan of this seed.
///
/// # Errors
///
/// What was not as it must be, in words.
pub fn play(name: &str, site: &Site<'_>, seed: u64) -> Result<Seen, String> {
    let known = SCENES.iter().find(|(known, _)| *known == name);
    let (_, scene) = known.ok_or_else(|| format!("there is no scene called {name}"))?;
    scene(site, &mut Random::new(seed))
}

/// The same while kernels are killed, about every so often, by `kill`, which starts another. How many were, besides.
///
/// # Errors
///
/// What was not as it must be, in words.
pub fn play_over_kills(
    name: &str,
    site: &Site<'_>,
    seed: u64,
    every: Duration,
    mut kill: impl FnMut() -> Result<(), String>,
) -> Result<(Seen, u64), String> {
    let known = LASTING.iter().find(|(known, _)| *known == name);
    let (_, scene) = known.ok_or_else(|| format!("there is no scene called {name}"))?;
    let (mortal, mut random) = (Mutex::new(false), Random::new(seed));
    let site = &Site { mortal: Some(&mortal), ..*site };
    let mut kills = 0;
    let seen = std::thread::scope(|scope| {
        let scene = scope.spawn(|| scene(site, &mut Random::new(seed)));
        let mut next = Instant::now();
        while !scene.is_finished() {
            let may = mortal.lock().unwrap_or_else(PoisonError::into_inner);
            if *may && Instant::now() >= next {
                kill()?;
                kills += 1;
                let every_us = every.as_micros() as u64;
                next = Instant::now() + Duration::from_micros(random.within(every_us / 2..=every_us * 3 / 2));
            }
            drop(may);
            std::thread::park_timeout(Duration::from_millis(1));
        }
        tools::joined("a scene", scene)
    })?;
    Ok((seen, kills))
}

/// `cargo xtask soak`.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    let program = match &options.program {
        Some(program) => Ok(program.clone()),
        None => chaos::build(options.release),
    };
    match program.and_then(|program| run(options, &program)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("xtask: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, program: &Path) -> Result<(), Wrong> {
    let unknown = options.scene.iter().find(|name| names().all(|known| known != name.as_str()));
    if let Some(name) = unknown {
        return Err(format!("there is no scene called {name}"));
    }
    let seed = options.seed.unwrap_or_else(chaos::seed_of_the_clock);
    let end = Instant::now() + Duration::from_secs(options.minutes * 60);
    let is_root = nix::unistd::geteuid().is_root();
    let stranger = if is_root && !options.only_root { Some(Stranger::invite(program)?) } else { None };
    for round in 0.. {
        let seed = round_seed(seed, round);
        for driver in options.driver.all() {
            if !(is_root && options.only_ordinary) {
                one_kernel(options, program, *driver, seed)?;
            }
            stranger.as_ref().map_or(Ok(()), |stranger| stranger.plays(options, *driver, seed))?;
        }
        if Instant::now() > end {
            break;
        }
    }
    Ok(())
}

/// An ordinary user, with what he needs where he can reach it.
struct Stranger(tempfile::TempDir);

impl Stranger {
    fn invite(program: &Path) -> Result<Stranger, Wrong> {
        let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir();
        let folder = folder.map_err(|error| format!("no folder: {error}"))?;
        let own = std::env::current_exe().map_err(|error| format!("who am I? {error}"))?;
        for (file, name) in [(own.as_path(), "xtask"), (program, "kairo")] {
            let copied = fs::copy(file, folder.path().join(name));
            copied.map_err(|error| format!("{} can't be copied: {error}", file.display()))?;
        }
        archive::copy(&top(), &folder.path().join("tree"))?;
        Ok(Stranger(folder))
    }

    /// One round as that user: kernel, children and whoever reads.
    fn plays(&self, options: &Options, driver: Driver, seed: u64) -> Result<(), Wrong> {
        let mut command = Command::new(self.0.path().join("xtask"));
        command.args(["soak", "--minutes", "0", "--driver", driver.name()]);
        command.args(["--seed", &format!("{seed:#x}"), "--scale", &options.scale.to_string()]);
        for (flag, name) in [("--program", "kairo"), ("--tree", "tree")] {
            command.arg(flag).arg(self.0.path().join(name));
        }
        command.args(options.kill_every.map(|every| format!("--kill-every={every}")));
        if !options.scene.is_empty() {
            command.args(["--scene", &options.scene.join(",")]);
        }
        // The groups of root go as well, or he had rights by them.
        command.uid(STRANGER).gid(STRANGER).current_dir("/").env("HOME", "/").env_remove("XDG_RUNTIME_DIR");
        let status = command.status().map_err(|error| format!("an ordinary user can't be: {error}"))?;
        status
            .success()
            .then_some(())
            .ok_or_else(|| format!("as an ordinary user, uid {STRANGER}: see above"))
    }
}

/// The top of this source tree.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All scenes, one after the other, on one kernel; then nothing may be left.
fn one_kernel(options: &Options, program: &Path, driver: Driver, seed: u64) -> Result<(), Wrong> {
    let mut home = Home::new(program, driver)?;
    home.start(2, None)?;
    home.wait_until_ready(false)?;
    let baseline = Census::take(&home);
    let (mut past, socket, folder) = (Past::default(), home.socket(), home.path().to_owned());
    let tree = options.tree.clone().unwrap_or_else(top);
    let kernel = home.pid().unwrap_or_default();
    let site =
        Site { socket: &socket, folder: &folder, tree: &tree, kernel, scale: options.scale, mortal: None };
    let is_wanted = |name: &str| options.scene.is_empty() || options.scene.iter().any(|one| one == name);
    for name in names().filter(|name| is_wanted(name)) {
        let began = Instant::now();
        let played = match options.kill_every {
            Some(every) => over_kills(&mut home, (name, &site, seed), Duration::from_millis(every)),
            None => played(name, &site, seed).map(|seen| (seen, 0)),
        };
        let seen = match played {
            Ok((Seen::Bytes(bytes), 0)) => format!("{} MiB", bytes >> 20),
            Ok((Seen::Bytes(bytes), kills)) => format!("{} MiB over {kills} kills", bytes >> 20),
            Ok((Seen::Lacks(what), _)) => format!("skipped, there is no {what}"),
            Err(wrong) => {
                eprintln!("{name} on {}: {wrong}\n{}", driver.name(), home.log_tail());
                home.keep();
                let again = format!("--seed {seed:#x} --minutes 0 --scene {name} --driver {}", driver.name());
                let kills =
                    options.kill_every.map(|every| format!(" --kill-every {every}")).unwrap_or_default();
                return Err(format!("try again: cargo xtask soak {again} --scale {}{kills}", options.scale));
            }
        };
        let uid = nix::unistd::geteuid();
        println!(
            "{seed:#x} uid {uid} {:<5} {name:<8} {seen}, {:.1} s",
            driver.name(),
            began.elapsed().as_secs_f64()
        );
        past.processes += PROCESSES_PER_SCENE;
        past.outputs += 2 * PROCESSES_PER_SCENE;
    }
    Census::settled(&home, &baseline, past, SETTLING)?;
    chaos::shut_down(&mut home, &baseline)
}

/// Processes a scene starts, at most.
const PROCESSES_PER_SCENE: usize = 8;

/// One scene while kernels die.
fn over_kills(
    home: &mut Home,
    (name, site, seed): (&str, &Site<'_>, u64),
    every: Duration,
) -> Result<(Seen, u64), Wrong> {
    play_over_kills(name, site, seed, every, || {
        home.kill()?;
        home.start(2, None)?;
        home.wait_until_ready(false).map(drop)
    })
}

/// One scene; a panic of its clients is a wrong like any other.
fn played(name: &str, site: &Site<'_>, seed: u64) -> Result<Seen, Wrong> {
    std::panic::catch_unwind(|| play(name, site, seed)).unwrap_or_else(|panic| Err(tools::told(&*panic)))
}
