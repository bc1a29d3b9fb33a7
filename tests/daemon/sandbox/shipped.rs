//! Real programs under the profiles that are shipped in `examples/profiles`, through `kairo run`.
//!
//! Each does its everyday work in a folder of its own and fails to leave it. One whose program isn't here is skipped
//! by name.

use super::arena::can_contain;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

struct Shipped {
    profile: &'static str,
    folder: TempDir,
}

impl Shipped {
    /// None if it can't be run here, which is said.
    fn new(profile: &'static str, program: &str) -> Option<Shipped> {
        if !can_contain(profile) {
            return None;
        }
        let is_there =
            |flag| Command::new(program).arg(flag).output().is_ok_and(|said| said.status.success());
        if !is_there("--version") && !is_there("-version") {
            println!("skipped, there is no {program} here: {profile}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("kairo-shipped-").tempdir().expect("a folder");
        Some(Shipped { profile, folder })
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }

    fn run(&self, argv: &[&str]) -> Output {
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/profiles").join(self.profile);
        let mut command = Command::new(env!("CARGO_BIN_EXE_kairo"));
        command.args(["run", "--stdin", "null", "--sandbox"]).arg(profile).arg("--").args(argv);
        command.current_dir(self.folder.path()).env_remove("KAIRO_IPC_SOCKET");
        command.output().expect("kairo runs")
    }

    /// What it says; it must succeed.
    fn says(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{argv:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    fn fails(&self, argv: &[&str]) {
        let output = self.run(argv);
        assert!(!output.status.success(), "{argv:?} should have been kept from it");
    }

    /// A path next to its folder.
    fn beside(&self) -> String {
        format!("{}-beside", self.folder.path().display())
    }
}

#[test]
fn bash_works_in_its_folder() {
    let Some(bash) = Shipped::new("bash.toml", "bash") else { return };
    let script = "mkdir d; for i in 1 2 3; do echo $i > d/$i; done; cp d/1 d/4; mv d/4 d/5; rm d/1; cat d/* | sort -r | tr '\\n' ' '";
    assert_eq!(bash.says(&["bash", "-c", script]), "3 2 1 ");
    bash.fails(&["bash", "-c", &format!("echo x > {}", bash.beside())]);
    bash.fails(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/1"]);
    assert!(!Path::new(&bash.beside()).exists());
}

#[test]
fn python_works_in_its_folder() {
    let Some(python) = Shipped::new("python3.toml", "/usr/bin/python3") else { return };
    python.file(
        "main.py",
        "import json, subprocess, tempfile, threading\nopen('out', 'w').write('x')\n\
        t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()\n\
        print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout, end='')\n\
        print(tempfile.TemporaryFile(dir='.').write(b'abc'))\n",
    );
    assert_eq!(python.says(&["/usr/bin/python3", "main.py"]), "thread\nchild\n3\n");
    python.fails(&["/usr/bin/python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 1))"]);
    python.fails(&["/usr/bin/python3", "-c", "open('/etc/passwd')"]);
}

#[test]
fn git_works_in_its_repository() {
    let Some(git) = Shipped::new("git.toml", "git") else { return };
    git.says(&["git", "init", "-q", "."]);
    git.file("f", "one\n");
    git.says(&["git", "add", "f"]);
    git.says(&["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one"]);
    git.says(&["git", "gc", "-q"]);
    assert!(git.says(&["git", "log", "--oneline"]).ends_with("one\n"));
    git.fails(&["git", "clone", "-q", ".", &git.beside()]);
    assert!(!Path::new(&git.beside()).exists());
}

#[test]
fn cargo_builds_and_runs_in_its_folder() {
    let Some(cargo) = Shipped::new("cargo.toml", "cargo") else { return };
    cargo.file(
        "Cargo.toml",
        "[package]\nname = \"x\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    );
    cargo.file("src/main.rs", "fn main() { println!(\"{}\", env!(\"BUILT\")); }\n");
    cargo.file("build.rs", "fn main() {\n    assert!(std::fs::read_dir(\"/etc\").is_err());\n    assert!(std::net::TcpStream::connect(\"127.0.0.1:1\").is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied));\n    println!(\"cargo:rustc-env=BUILT=yes\");\n}\n");
    assert_eq!(cargo.says(&["cargo", "run", "-q"]), "yes\n");
}

#[test]
fn npm_runs_the_scripts_of_its_package() {
    let Some(npm) = Shipped::new("npm.toml", "npm") else { return };
    npm.file("package.json", r#"{"name": "x", "version": "1.0.0", "scripts": {"hi": "node hi.js"}}"#);
    npm.file(
        "hi.js",
        "try { require('fs').readdirSync('/etc'); console.log('read'); } catch (e) { console.log(e.code); }",
    );
    npm.says(&["npm", "install", "--silent"]);
    assert_eq!(npm.says(&["npm", "run", "-s", "hi"]), "EACCES\n");
}

#[test]
fn ffmpeg_encodes_in_its_folder() {
    let Some(ffmpeg) = Shipped::new("ffmpeg.toml", "ffmpeg") else { return };
    ffmpeg.says(&["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=d=0.1:s=64x64", "-y", "o.mkv"]);
    ffmpeg.says(&["ffmpeg", "-v", "error", "-i", "o.mkv", "-f", "null", "-"]);
    ffmpeg.fails(&["ffmpeg", "-v", "error", "-i", "/etc/passwd", "-f", "null", "-"]);
    ffmpeg.fails(&["ffmpeg", "-v", "error", "-i", "http://127.0.0.1:1/x", "-f", "null", "-"]);
}
