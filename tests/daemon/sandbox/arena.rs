//! A place to attack from: a folder that is granted, one that isn't, and somebody to attack.

use crate::support::raw::Raw;
use crate::support::{Daemon, program};
use kairo_sandbox::ability::{Ability, Namespaces};
use serde_json::{Value as Json, json};
use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// `nobody`.
pub(super) const NOBODY: u32 = 65_534;
/// What every program here needs to run at all.
const SYSTEM: [&str; 5] = ["/usr", "/lib", "/lib64", "/bin", "/sbin"];

/// Whether this kernel can contain as the tests ask for; says which test is skipped otherwise.
pub(crate) fn can_contain(test: &str) -> bool {
    static ABILITY: OnceLock<Ability> = OnceLock::new();
    let ability = ABILITY.get_or_init(Ability::probe);
    let can = ability.landlock_abi >= 6 && ability.filters();
    if !can {
        println!("skipped, this kernel has Landlock ABI {}, 6 is needed: {test}", ability.landlock_abi);
    }
    can
}

/// Whether children can be given namespaces here, of which a test is skipped otherwise.
pub(super) fn can_divide(test: &str) -> bool {
    static NAMESPACES: OnceLock<Namespaces> = OnceLock::new();
    let namespaces = NAMESPACES.get_or_init(|| Ability::probe().namespaces);
    let can = namespaces.mount.allowed() && namespaces.network.allowed();
    if !can {
        println!("skipped, no namespaces can be made here ({namespaces:?}): {test}");
    }
    can && can_contain(test)
}

/// A profile with which ordinary programs run and reach nothing else.
pub(crate) fn profile() -> Json {
    json!({"files": {"read": SYSTEM, "execute": SYSTEM}})
}

/// The attacker, compiled once; none without a compiler.
fn attacker() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<&'static Path>> = OnceLock::new();
    *BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/attack.c");
        let changed = fs::metadata(&source).and_then(|found| found.modified()).ok()?;
        let stamp = changed.duration_since(std::time::UNIX_EPOCH).ok()?.as_nanos();
        let built = folder.join(format!("attack-{stamp:x}"));
        if !built.exists() {
            let fresh = folder.join(format!("attack-{}", std::process::id()));
            let compiled = Command::new("cc").arg("-O1").arg("-o").arg(&fresh).arg(source).status();
            compiled.ok().filter(std::process::ExitStatus::success)?;
            fs::rename(&fresh, &built).ok()?;
        }
        Some(Box::leak(built.into_boxed_path()) as &Path)
    })
}

pub(super) struct Arena {
    folder: TempDir,
    uid: Option<u32>,
    attacker: String,
    victim: i32,
    tcp: TcpListener,
    udp: UdpSocket,
    _unix: UnixListener,
    _abstract: UnixListener,
    socket: String,
    next: std::cell::Cell<u32>,
}

impl Arena {
    /// For whoever runs the tests, or for another user of a root daemon. None if it can't be had here, which is said.
    pub(super) fn new(daemon: &Daemon, uid: Option<u32>, test: &str) -> Option<Arena> {
        if !can_contain(test) {
            return None;
        }
        let Some(built) = attacker() else {
            println!("skipped, there is no C compiler: {test}");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("kairo-arena-").tempdir().expect("a folder");
        let mut arena = Arena {
            uid,
            attacker: String::new(),
            victim: 0,
            tcp: TcpListener::bind("127.0.0.1:0").expect("a port"),
            udp: UdpSocket::bind("127.0.0.1:0").expect("a port"),
            _unix: UnixListener::bind(folder.path().join("listener")).expect("a socket"),
            _abstract: abstract_listener(folder.path().file_name().expect("a name")),
            socket: daemon.socket.to_str().expect("text").to_owned(),
            next: std::cell::Cell::new(0),
            folder,
        };
        for part in ["inside", "outside"] {
            fs::create_dir(arena.path(part)).expect("a folder");
        }
        arena.fill();
        arena.attacker = arena.install(built, "attack");
        let all = ["", "inside", "outside", "outside/secret", "outside/tool", "outside/folder"];
        all.iter().for_each(|part| arena.give_away(part));
        fs::set_permissions(arena.path("listener"), fs::Permissions::from_mode(0o777)).expect("ours");
        let mut raw = daemon.connect_modern();
        let mut options = json!({"cwd": "/"});
        arena.become_user(&mut options);
        let victim = raw.ok(
            "process.spawn",
            json!({"id": format!("victim-{test}"), "command": ["sleep", "1000"], "options": options}),
        );
        arena.victim = victim["pid"].as_i64().expect("a pid") as i32;
        Some(arena)
    }

    /// Things to be had outside, as new.
    fn fill(&self) {
        let _ = fs::create_dir(self.path("outside/folder"));
        fs::write(self.path("outside/secret"), "secret").expect("a file");
        fs::write(self.path("outside/tool"), "#!/bin/sh\necho WON\n").expect("a file");
        fs::set_permissions(self.path("outside/secret"), fs::Permissions::from_mode(0o600)).expect("ours");
        fs::set_permissions(self.path("outside/tool"), fs::Permissions::from_mode(0o755)).expect("ours");
    }

    fn give_away(&self, part: &str) {
        if self.uid.is_some() {
            chown(self.path(part), self.uid, self.uid).expect("root may");
        }
    }

    fn become_user(&self, options: &mut Json) {
        if let Some(uid) = self.uid {
            options["user"] = json!(uid);
        }
    }

    pub(super) fn path(&self, part: &str) -> String {
        self.folder.path().join(part).to_str().expect("text").to_owned()
    }

    pub(super) fn inside(&self) -> String {
        self.path("inside")
    }

    pub(super) fn outside(&self) -> String {
        self.path("outside")
    }

    pub(super) fn secret(&self) -> String {
        self.path("outside/secret")
    }

    /// Puts a program where it may be executed.
    pub(super) fn install(&self, from: &Path, name: &str) -> String {
        let to = self.path(name);
        fs::copy(from, &to).expect("a copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("ours");
        to
    }

    /// Everything in `inside`, the programs of the arena, and what `with` says on top.
    pub(super) fn profile(&self, with: &Json) -> Json {
        let inside = [self.inside()];
        let programs = |name: &str| self.path(name);
        let (attack, kairo) = (programs("attack"), programs("kairo"));
        let readable: Vec<String> = SYSTEM
            .iter()
            .map(|path| (*path).to_owned())
            .chain(inside.clone())
            .chain([self.path("wish.json")])
            .collect();
        let executable: Vec<String> = SYSTEM
            .iter()
            .map(|path| (*path).to_owned())
            .chain(inside.clone())
            .chain([attack, kairo])
            .collect();
        let mut profile = json!({
            "files": {"read": readable, "execute": executable, "write": inside, "create": inside, "delete": inside},
        });
        let mut with = with.clone();
        self.mean(&mut with);
        merge(&mut profile, &with);
        profile
    }

    /// Puts the arena's paths in the places of their names.
    fn mean(&self, value: &mut Json) {
        match value {
            Json::String(word) => *word = self.meant(word),
            Json::Array(list) => list.iter_mut().for_each(|value| self.mean(value)),
            Json::Object(fields) => fields.values_mut().for_each(|value| self.mean(value)),
            _ => {}
        }
    }

    /// What the attacker says to an attempt under a sandbox, or without one.
    pub(super) fn attempt(&self, raw: &mut Raw, argv: &[&str], sandbox: Option<Json>, more: &Json) -> String {
        self.fill();
        ["outside/secret", "outside/tool", "outside/folder"].iter().for_each(|part| self.give_away(part));
        for left in fs::read_dir(self.inside())
            .expect("a folder")
            .chain(fs::read_dir(self.path("outside/folder")).expect("a folder"))
        {
            let left = left.expect("an entry").path();
            let _ = fs::remove_file(&left).or_else(|_| fs::remove_dir_all(&left));
        }
        let _ =
            fs::remove_file(self.path("outside/new")).or_else(|_| fs::remove_dir(self.path("outside/new")));
        fs::write(self.path("inside/own"), "own").expect("a file");
        fs::create_dir_all(self.path("inside/kept/denied")).expect("a folder");
        fs::write(self.path("inside/kept/denied/file"), "kept").expect("a file");
        ["inside/own", "inside/kept", "inside/kept/denied", "inside/kept/denied/file"]
            .iter()
            .for_each(|part| self.give_away(part));
        let words: Vec<String> = argv.iter().map(|word| self.meant(word)).collect();
        let mut command = vec![self.attacker.clone()];
        command.extend(words);
        let mut options = json!({"cwd": "/", "stderr": "stdout"});
        if more.get("pty").is_some() {
            options = json!({"cwd": "/"});
        }
        merge(&mut options, more);
        self.become_user(&mut options);
        if let Some(sandbox) = sandbox {
            options["sandbox"] = sandbox;
        }
        self.next.set(self.next.get() + 1);
        let id = format!("attempt-{}-{}", self.uid.unwrap_or_default(), self.next.get());
        raw.ok("process.spawn", json!({"id": id, "command": command, "options": options}));
        let subscription = raw.subscribe(&id, json!({"stream": "stdout"}));
        let said = raw.collect(&subscription, 1).text();
        raw.wait_until_ended(&[&id]);
        said
    }

    fn meant(&self, word: &str) -> String {
        let port =
            |address: std::io::Result<std::net::SocketAddr>| address.expect("bound").port().to_string();
        match word {
            "{inside}" => self.path("inside/new"),
            "{own}" => self.path("inside/own"),
            "{granted}" => self.inside(),
            "{kept}" => self.path("inside/kept"),
            "{denied}" => self.path("inside/kept/denied"),
            "{within}" => self.path("inside/kept/denied/file"),
            "{fresh}" => self.path("inside/kept/denied/fresh"),
            "{absent}" => self.path("inside/kept/absent"),
            "{below}" => self.path("inside/kept/absent/below"),
            "{outside}" => self.path("outside/new"),
            "{folder}" => self.path("outside/folder"),
            "{secret}" => self.secret(),
            "{tool}" => self.path("outside/tool"),
            "{victim}" => self.victim.to_string(),
            "{tcp}" => port(self.tcp.local_addr()),
            "{udp}" => port(self.udp.local_addr()),
            "{listener}" => self.path("listener"),
            "{abstract}" => {
                self.folder.path().file_name().expect("a name").to_str().expect("text").to_owned()
            }
            "{kernel}" => self.socket.clone(),
            word => word.to_owned(),
        }
    }
}

fn abstract_listener(name: &OsStr) -> UnixListener {
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::ffi::OsStrExt::as_bytes(name);
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("a name");
    UnixListener::bind_addr(&address).expect("a socket")
}

/// Lays one object over another, deep.
fn merge(into: &mut Json, with: &Json) {
    match (into, with) {
        (Json::Object(into), Json::Object(with)) => {
            for (name, value) in with {
                merge(into.entry(name.clone()).or_insert(Json::Null), value);
            }
        }
        (into, with) => *into = with.clone(),
    }
}

/// The program under test, where another user can run it.
pub(super) fn kairo() -> &'static Path {
    program()
}
