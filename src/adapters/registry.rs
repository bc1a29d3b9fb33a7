//! All adapters there are: those that come with the program, and the user's over them.
//!
//! The user's are in `adapters.toml` and in files of the folder `adapters`, both beside the configuration file. One that
//! is called like one of ours takes its place. What doesn't read well is an error, with its place, before anything starts.

use crate::adapters::declaration::{Declaration, parse};
use crate::config::environment::Environment;
use crate::config::{Config, ConfigError, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that come with the program.
const SHIPPED: &[(&str, &str)] = &[
    ("ffmpeg.toml", include_str!("shipped/ffmpeg.toml")),
    ("cargo.toml", include_str!("shipped/cargo.toml")),
    ("ninja.toml", include_str!("shipped/ninja.toml")),
    ("pytest.toml", include_str!("shipped/pytest.toml")),
    ("percent.toml", include_str!("shipped/percent.toml")),
];

/// An adapter and where it is written.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) declaration: Arc<Declaration>,
    /// None: it came with the program.
    pub(crate) file: Option<PathBuf>,
}

/// Adapters by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    entries: BTreeMap<String, Entry>,
}

impl Registry {
    /// Ours, and the user's.
    pub(crate) fn load(config: &Config, environment: &Environment) -> Result<Registry, ConfigError> {
        let mut files = Vec::new();
        for path in user_files(config, environment)? {
            let text = std::fs::read_to_string(&path);
            files.push((path.clone(), text.map_err(|source| ConfigError::Read { path, source })?));
        }
        Registry::of(&files)
    }

    /// Ours, and those of files that were read.
    pub(crate) fn of(files: &[(PathBuf, String)]) -> Result<Registry, ConfigError> {
        let mut registry = Registry::default();
        for (name, text) in SHIPPED {
            registry.take(Path::new(name), text, false)?;
        }
        for (path, text) in files {
            registry.take(path, text, true)?;
        }
        Ok(registry)
    }

    fn take(&mut self, path: &Path, text: &str, users: bool) -> Result<(), ConfigError> {
        for declaration in parse(path, text)? {
            let file = users.then(|| path.to_path_buf());
            let name = declaration.name.clone();
            let entry = Entry { declaration: Arc::new(declaration), file };
            // Ours may be replaced; of two of the user's one would be ignored without a word.
            if let Some(Entry { file: Some(other), .. }) = self.entries.insert(name.clone(), entry) {
                let line =
                    text.lines().position(|line| line.contains(&format!("\"{name}\""))).unwrap_or(0) + 1;
                let origin = Origin::File { path: path.to_path_buf(), line };
                let message = format!("{name:?} is in {} already", other.display());
                return Err(ConfigError::Value { origin, field: "name", message });
            }
        }
        Ok(())
    }

    /// All of them, by name.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The user's files that any are in.
    pub(crate) fn files(&self) -> BTreeSet<&Path> {
        self.entries.values().filter_map(|entry| entry.file.as_deref()).collect()
    }

    /// The one that suits a program; of several the first by name, the user's before ours.
    pub(crate) fn suiting(&self, program: &Path) -> Option<&Arc<Declaration>> {
        let name = program.file_name()?.to_str()?;
        let suits = |entry: &&Entry| entry.declaration.programs.iter().any(|suited| suited == name);
        let found = self.entries.values().filter(suits).min_by_key(|entry| entry.file.is_none());
        found.map(|entry| &entry.declaration)
    }

    /// The one of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Declaration>> {
        self.entries.get(name).map(|entry| &entry.declaration)
    }
}

/// The user's files, in the order they count: beside the file that was read; without one, in the first place a file is
/// looked for that has some.
fn user_files(config: &Config, environment: &Environment) -> Result<Vec<PathBuf>, ConfigError> {
    let candidates = match &config.file {
        Some(file) => vec![file.clone()],
        None => environment.config_candidates(),
    };
    for place in candidates.iter().filter_map(|file| file.parent()) {
        let mut files = Vec::new();
        let single = place.join("adapters.toml");
        if single.exists() {
            files.push(single);
        }
        files.extend(folder(&place.join("adapters"))?);
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let mut files = Vec::new();
    match std::fs::read_dir(path) {
        Ok(all) => {
            for one in all {
                files.push(one.map_err(failed)?.path());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Flags};

    const MINE: &str = "[[adapter]]\nname = \"ninja\"\nsource = \"stderr\"\nformat = \"json-lines\"\n";

    fn load(folder: &Path) -> Result<Registry, String> {
        let file = folder.join("config.toml");
        std::fs::write(&file, "").unwrap();
        let environment = Environment::pretend(1000, &[("HOME", "/nonexistent")]);
        let flags = Flags { config: Some(file), ..Flags::default() };
        let config = config::load(&flags, &environment).unwrap();
        Registry::load(&config, &environment).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_shipped_is_in_order() {
        let registry = Registry::of(&[]).unwrap();
        let names: Vec<_> = registry.entries().map(|entry| entry.declaration.name.as_str()).collect();
        assert_eq!(names, ["cargo", "ffmpeg", "ninja", "percent", "percent-stderr", "pytest"]);
    }

    #[test]
    fn the_users_take_the_place_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapters.toml"), MINE).unwrap();
        std::fs::create_dir(folder.path().join("adapters")).unwrap();
        let other = MINE.replace("ninja", "other");
        std::fs::write(folder.path().join("adapters/other.toml"), &other).unwrap();
        std::fs::write(folder.path().join("adapters/other.toml~"), "no").unwrap();
        let registry = load(folder.path()).unwrap();
        assert!(registry.named("other").is_some() && registry.named("ffmpeg").is_some());
        let ninja = registry.entries().find(|entry| entry.declaration.name == "ninja").unwrap();
        assert_eq!(ninja.file.as_deref(), Some(folder.path().join("adapters.toml").as_path()));
    }

    #[test]
    fn two_of_one_name_and_files_that_do_not_read_well_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapters.toml"), format!("{MINE}{MINE}")).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains("name: \"ninja\" is in"), "{error}");
        std::fs::write(folder.path().join("adapters.toml"), format!("{MINE}form = 3\n")).unwrap();
        let error = load(folder.path()).unwrap_err();
        assert!(error.contains("adapters.toml:5: adapter.form: unknown field"), "{error}");
    }
}
