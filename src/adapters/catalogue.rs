//! The adapters as the control plane asks for them: which one, and what a program is started with.
//!
//! Everything is answered from memory, because it is asked under the control plane's lock.

use crate::adapters::declaration::{AUTO, Declaration, SIDE, Source};
use crate::adapters::registry::Registry;
use kairo_controlplane::config::{Adapter, Adapters, NoSuchAdapter, Preparation};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Adapters, and where their side files are.
#[derive(Debug)]
pub(crate) struct Catalogue {
    registry: Registry,
    folder: Option<PathBuf>,
}

impl Catalogue {
    pub(crate) fn new(registry: Registry, folder: Option<PathBuf>) -> Arc<Catalogue> {
        Arc::new(Catalogue { registry, folder })
    }

    /// Of side files; none where nothing is adapted.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The one of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Declaration>> {
        self.registry.named(name)
    }
}

/// What the control plane is given.
#[derive(Debug)]
pub(crate) struct Desk(pub(crate) Arc<Catalogue>);

impl Adapters for Desk {
    fn choose(&self, asked: &str, program: &[u8]) -> Result<Option<Adapter>, NoSuchAdapter> {
        let found = match asked {
            AUTO => self.0.registry.suiting(Path::new(OsStr::from_bytes(program))),
            name => Some(self.0.named(name).ok_or(NoSuchAdapter)?),
        };
        Ok(found.map(|declaration| Adapter {
            name: declaration.name.clone(),
            stderr: declaration.reads(Source::Stderr),
            side: declaration.source == Source::Side,
        }))
    }

    fn prepare(&self, adapter: &str, session: &str) -> Preparation {
        let (Some(declaration), Some(folder)) = (self.0.named(adapter), self.0.folder()) else {
            return Preparation::default();
        };
        let side = folder.join(session);
        let filled = |word: &String| replace(word.as_bytes(), side.as_os_str().as_bytes());
        Preparation {
            arguments: declaration.arguments.iter().map(filled).collect(),
            environment: declaration
                .environment
                .iter()
                .map(|(name, value)| (name.clone().into_bytes(), filled(value)))
                .collect(),
        }
    }
}

/// The side file's path in the places that stand for it.
fn replace(word: &[u8], side: &[u8]) -> Vec<u8> {
    let mark = SIDE.as_bytes();
    let mut filled = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(side);
        rest = &rest[at + mark.len()..];
    }
    filled.extend_from_slice(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_by_name_and_told_where_to_report() {
        let catalogue = Catalogue::new(Registry::of(&[]).unwrap(), Some(PathBuf::from("/side")));
        let desk = Desk(catalogue);
        let found = desk.choose(AUTO, b"/usr/bin/ffmpeg").unwrap().unwrap();
        assert_eq!(found, Adapter { name: "ffmpeg".to_owned(), stderr: true, side: true });
        assert_eq!(desk.choose(AUTO, b"sh"), Ok(None));
        assert_eq!(desk.choose("nobody", b"sh"), Err(NoSuchAdapter));
        assert!(desk.choose("ninja", b"sh").unwrap().is_some_and(|found| !found.side && !found.stderr));
        let words = desk.prepare("ffmpeg", "s1").arguments;
        assert_eq!(words, [&b"-progress"[..], b"/side/s1", b"-nostats"]);
        assert_eq!(replace(b"a{side}b{side}", b"X"), b"aXbX");
    }
}
