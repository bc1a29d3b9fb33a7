//! `--manifest`: a skill, and the program that is started as it.
//!
//! What is approved is approved for exactly this manifest and this program, so the program is found here as it will be
//! started, by a path that means the same to the kernel, and named with its digest. That what is executed has that digest is
//! the kernel's to see to.

use crate::cli::args::process::Program;
use crate::cli::context::milliseconds;
use crate::cli::failure::{Failure, NOT_EXECUTABLE, NOT_FOUND};
use crate::cli::manifest::{Loaded, load};
use crate::cli::program;
use crate::cli::table::visible;
use crate::config::environment;
use kairo_dataplane::sys::process::stat;
use kairo_sandbox::manifest::syntax::Syntax;
use kairo_sandbox::manifest::{Kind, Manifest};
use kairo_wire::codec::text::OsText;
use kairo_wire::error::Code;
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::permission::{ManifestProgram, ManifestSyntax, RequestParams, SkillOption};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A request has a manifest of at most so many bytes.
const MANIFEST_BYTES_MAX: usize = 256 << 10;

/// A skill that is to be started.
#[derive(Debug)]
pub(crate) struct Skill {
    pub(crate) manifest: Manifest,
    /// SHA-256 of what the manifest means.
    pub(crate) digest: String,
    text: String,
    syntax: ManifestSyntax,
    /// What is started as it: one program, or each stage of a pipeline.
    pub(crate) programs: Vec<Found>,
    /// Where it will work.
    pub(crate) folder: PathBuf,
    /// What a grant for the session is bound to.
    session: String,
    /// How long somebody who decides elsewhere is waited for.
    pub(crate) wait: Duration,
}

/// A program that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// It is read by another program, after it was looked at.
    pub(crate) is_script: bool,
    /// SHA-256 of its contents.
    pub(crate) digest: String,
}

impl Skill {
    /// What `--manifest` and its company say, if it was given.
    pub(crate) fn of(args: &Program) -> Result<Option<Skill>, Failure> {
        Skill::of_all(args, &args.command[..args.command.len().min(1)])
    }

    /// The same for several programs that are started together.
    pub(crate) fn of_all(args: &Program, names: &[OsString]) -> Result<Option<Skill>, Failure> {
        let Some(file) = &args.manifest else { return Ok(None) };
        let Loaded { manifest, text, syntax } = load(file, MANIFEST_BYTES_MAX)?;
        let mut folder = std::env::current_dir()?;
        folder.extend(args.cwd.as_ref());
        let programs =
            names.iter().map(|name| looked_at(find(args, name, &folder)?)).collect::<Result<Vec<_>, _>>()?;
        if manifest.identity.kind != Some(Kind::Script)
            && let Some(script) = programs.iter().find(|program| program.is_script)
        {
            let why = format!("{} is a script, and its manifest doesn't say so", shown(&script.path));
            return Err(Failure::new("E_MANIFEST", why).advise(
                "write `type: script` into it: what runs may be another script than the one that was looked at",
            ));
        }
        Ok(Some(Skill {
            digest: manifest.digest(),
            manifest,
            text,
            syntax: match syntax {
                Syntax::Json => ManifestSyntax::Json,
                Syntax::Yaml => ManifestSyntax::Yaml,
                Syntax::Toml => ManifestSyntax::Toml,
            },
            programs,
            folder,
            session: args.session.clone().unwrap_or_else(session_of_terminal),
            wait: Duration::from_millis(args.wait.map_or(0, |wait| wait.0)),
        }))
    }

    /// `photo-index 1.4.0`, to be shown.
    pub(crate) fn title(&self) -> String {
        let identity = &self.manifest.identity;
        format!("{} {}", visible(&identity.name), visible(&identity.version))
    }

    /// Who it is.
    pub(crate) fn principal(&self) -> String {
        format!("skill:{}", self.manifest.identity.name)
    }

    /// Asks for what it lists.
    pub(crate) fn request(&self, wait: Duration) -> RequestParams {
        let wait_ms = Some(milliseconds(wait)).filter(|wait| *wait > 0);
        RequestParams {
            manifest: Some(self.text.clone()),
            syntax: self.syntax,
            program: self.only().and_then(|program| words(&program.path)),
            program_digest: self.only().map(|program| program.digest.clone()),
            programs: if self.only().is_some() { Vec::new() } else { self.named() },
            session: Some(self.session.clone()),
            wait_ms: wait_ms.map(|wait| wait.try_into().unwrap_or(u32::MAX)),
            ..RequestParams::default()
        }
    }

    /// All of them, as they are told.
    pub(crate) fn named(&self) -> Vec<ManifestProgram> {
        let told = |program: &Found| {
            Some(ManifestProgram { path: words(&program.path)?, digest: program.digest.clone() })
        };
        self.programs.iter().filter_map(told).collect()
    }

    /// The program, if it is one.
    pub(crate) fn only(&self) -> Option<&Found> {
        <&[_; 1]>::try_from(self.programs.as_slice()).ok().map(|[only]| only)
    }

    /// Has a spawn start one of its programs as this.
    pub(crate) fn enter(&self, which: usize, options: &mut SpawnOptions, command: &mut [OsText]) {
        let Some(program) = self.programs.get(which) else { return };
        options.skill = Some(SkillOption {
            name: self.manifest.identity.name.clone(),
            manifest_digest: Some(self.digest.clone()),
            program_digest: Some(program.digest.clone()),
            session: Some(self.session.clone()),
        });
        options.watch = true;
        // What was approved is this file, whatever the kernel would find by its name.
        if let (Some(first), Some(program)) = (command.first_mut(), words(&program.path)) {
            *first = program;
        }
    }
}

fn words(path: &Path) -> Option<OsText> {
    OsText::new(path.as_os_str().as_bytes().to_vec())
}

fn looked_at(path: PathBuf) -> Result<Found, Failure> {
    Ok(Found { is_script: is_script(&path)?, digest: digest(&path)?, path })
}

/// The program as it will be started: as the shell does, but that a path is one in the folder it will work in.
fn find(args: &Program, name: &OsStr, folder: &Path) -> Result<PathBuf, Failure> {
    if name.as_bytes().contains(&b'/') {
        let path: PathBuf = folder.join(name).components().collect();
        let found = path.metadata().map_err(|error| missing(name, Some(&error)))?;
        return if can_run(&found) { Ok(path) } else { Err(forbidden(&path)) };
    }
    let given =
        program::options(args)?.env.get("PATH").map(|path| OsString::from_vec(path.as_bytes().to_vec()));
    let search = given.or_else(|| environment::inherited("PATH")).unwrap_or_default();
    let mut refused = None;
    for place in std::env::split_paths(&search) {
        let path: PathBuf = folder.join(place).join(name).components().collect();
        match path.metadata() {
            Ok(found) if can_run(&found) => return Ok(path),
            Ok(found) if found.is_file() => refused = refused.or(Some(path)),
            Ok(_) | Err(_) => {}
        }
    }
    Err(refused.map_or_else(|| missing(name, None), |path| forbidden(&path)))
}

fn can_run(found: &Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

fn missing(name: &OsStr, error: Option<&std::io::Error>) -> Failure {
    let name = visible(&name.to_string_lossy());
    let why = error.map_or_else(|| "it is in no folder of PATH".to_owned(), ToString::to_string);
    Failure::new(Code::ExecutableNotFound.name(), format!("{name}: {why}")).ending_with(NOT_FOUND)
}

fn forbidden(path: &Path) -> Failure {
    let why = format!("{}: it can't be executed", shown(path));
    Failure::new(Code::NotExecutable.name(), why).ending_with(NOT_EXECUTABLE)
}

/// SHA-256 of a file, hexadecimal.
pub(crate) fn digest(path: &Path) -> Result<String, Failure> {
    let mut hasher = Sha256::new();
    let copied = File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
    copied.map_err(|error| unreadable(path, &error))?;
    Ok(format!("{:x}", hasher.finalize()))
}

/// Whether the kernel would have another program read it.
fn is_script(path: &Path) -> Result<bool, Failure> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(2).read_to_end(&mut start));
    read.map_err(|error| unreadable(path, &error))?;
    Ok(start == b"#!")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let why = format!("{}: {error}: what can't be read can't be told by its digest", shown(path));
    Failure::new("E_IO", why)
}

fn shown(path: &Path) -> String {
    visible(&path.display().to_string())
}

/// Names the session of our terminal: its leader, and since when that is there, for numbers come again. A leader outside
/// of our pid namespace (the rule in a container) has no number here: whoever started this command stands for it.
fn session_of_terminal() -> String {
    let own = std::process::id() as i32;
    let seen = |number: i32| Some(number).filter(|number| *number > 0);
    let leader = stat(own).and_then(|own| seen(own.session).or(seen(own.parent))).unwrap_or(own);
    let since = stat(leader).map_or(0, |found| found.start_ticks);
    format!("terminal:{leader}:{since}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    fn typed(words: &[&str]) -> Program {
        match Cli::try_parse_from([&["kairo", "run"], words].concat()).unwrap().command {
            Command::Run(run) => run.program,
            other => panic!("{other:?}"),
        }
    }

    fn put(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn found(args: &Program, folder: &Path) -> Result<PathBuf, Failure> {
        find(args, &args.command[0], folder)
    }

    #[test]
    fn a_program_is_found_where_the_kernel_will_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        put(&one.join("tool"), 0o644);
        let path = format!("PATH={}:{}", one.display(), two.display());
        let args = typed(&["--env", &path, "--", "tool"]);
        assert_eq!(found(&args, folder.path()).unwrap_err().exit(), 126);
        put(&two.join("tool"), 0o755);
        assert_eq!(found(&args, folder.path()).unwrap(), two.join("tool"));
        assert_eq!(found(&typed(&["./two/./tool"]), folder.path()).unwrap(), folder.path().join("two/tool"));
        assert_eq!(found(&typed(&["./one/tool"]), folder.path()).unwrap_err().exit(), 126);
        assert_eq!(found(&typed(&["one"]), folder.path()).unwrap_err().exit(), 127);
        assert_eq!(found(&typed(&["one/none"]), folder.path()).unwrap_err().exit(), 127);
        assert_eq!(found(&typed(&["./one"]), folder.path()).unwrap_err().exit(), 126);
    }

    #[test]
    fn a_skill_names_its_manifest_and_its_program_by_their_digests() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        std::fs::write(&tool, "program\n").unwrap();
        std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755)).unwrap();
        let of = |name: &str| format!("{}/examples/manifests/{name}", env!("CARGO_MANIFEST_DIR"));
        let (manifest, script) = (&of("ffmpeg.yaml"), of("git-helper.toml"));
        let tool = tool.to_str().unwrap();
        let skill =
            Skill::of(&typed(&["--manifest", manifest, "--wait", "2m", "--", tool, "x"])).unwrap().unwrap();
        let asked = skill.request(skill.wait);
        assert_eq!((asked.wait_ms, asked.syntax), (Some(120_000), ManifestSyntax::Yaml));
        assert!(asked.session.is_some_and(|session| session.starts_with("terminal:")));
        // Of "program\n".
        assert_eq!(asked.program_digest.as_deref(), Some(skill.programs[0].digest.as_str()));
        assert_eq!(
            skill.programs[0].digest,
            "fba13a37a73d657dc0f1e671f0dc714f9891dd4da15ec45bd2a6f83e0434648e"
        );
        assert_eq!(skill.request(Duration::ZERO).wait_ms, None);
        let mut options = SpawnOptions::default();
        let mut command = vec![OsText::from("tool"), OsText::from("x")];
        skill.enter(0, &mut options, &mut command);
        assert_eq!(command[0].as_bytes(), tool.as_bytes());
        let meant = options.skill.unwrap();
        assert_eq!((meant.manifest_digest, meant.program_digest), (Some(skill.digest), asked.program_digest));
        assert!(meant.session.is_some_and(|session| session.starts_with("terminal:")));
        // Of several programs each is named, and each says which it is.
        let joined = typed(&["--manifest", manifest, "--", tool]);
        let several = Skill::of_all(&joined, &[tool.into(), "/bin/sh".into()]).unwrap().unwrap();
        let asked = several.request(Duration::ZERO);
        let paths: Vec<_> = asked.programs.iter().map(|program| program.path.to_text()).collect();
        assert_eq!((paths.join(" "), asked.program.is_some()), (format!("{tool} /bin/sh"), false));
        let mut options = SpawnOptions::default();
        several.enter(1, &mut options, &mut [OsText::from("sh")]);
        assert_eq!(options.skill.unwrap().program_digest.as_ref(), Some(&asked.programs[1].digest));
        assert!(Skill::of(&typed(&["true"])).unwrap().is_none());
        put(&folder.path().join("tool"), 0o755);
        let undeclared = Skill::of(&typed(&["--manifest", manifest, "--", tool])).unwrap_err();
        assert!(undeclared.text(false).unwrap().contains("type: script"));
        let declared = Skill::of(&typed(&["--manifest", &script, "--", tool])).unwrap().unwrap();
        assert!(declared.programs[0].is_script && declared.manifest.identity.name == "git-helper");
    }

    #[test]
    fn a_manifest_that_nobody_would_read_is_not_asked_about() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("long.yaml");
        std::fs::write(&file, vec![b'#'; MANIFEST_BYTES_MAX + 1]).unwrap();
        let failure = Skill::of(&typed(&["--manifest", file.to_str().unwrap(), "true"])).unwrap_err();
        assert!(failure.text(false).unwrap().contains("256 KiB"));
    }
}
