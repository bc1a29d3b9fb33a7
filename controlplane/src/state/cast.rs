//! In whose name a process runs: whom it is, by which grant, and by whom it was started.
//!
//! Invariant: what is written down of it, with the keeper and in the session records, is all of it, so that a later kernel
//! takes the process for the same one.

use crate::auth::subject::{Party, Subject};
use std::sync::Arc;

/// In whose name a process runs, and by what right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cast {
    /// Whom it is for the kernel, if somebody with a name.
    pub acts_as: Option<ActsAs>,
    /// The grant it runs under.
    pub under: Option<Arc<str>>,
    /// Who started it, and who started that, by all names they went by: what is forbidden to them is forbidden to it.
    pub line: Arc<[Party]>,
}

impl Cast {
    /// The session of an agent it runs in.
    pub(crate) fn session(&self) -> Option<&str> {
        self.acts_as.as_ref()?.session.as_deref()
    }
}

/// Whom a process is for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActsAs {
    /// The user that name is of; not always the one it runs as.
    pub uid: u32,
    /// A skill, or an agent with what agents begin with.
    pub name: Arc<str>,
    /// The session of an agent.
    pub session: Option<Arc<str>>,
}

impl ActsAs {
    /// The party that is.
    pub(crate) fn party(&self) -> Party {
        Party { uid: self.uid, subject: Subject::of_name(&self.name) }
    }
}

/// Whom it is, as it is written down: the user, the name, the session of an agent.
pub(crate) type Written = (u32, String, Option<String>);

impl Cast {
    /// What was written down, read.
    pub(crate) fn read(acts_as: Option<&Written>, under: Option<&str>, line: &[(u32, String)]) -> Cast {
        let acts_as = acts_as.map(|(uid, name, session)| ActsAs {
            uid: *uid,
            name: name.as_str().into(),
            session: session.as_deref().map(Into::into),
        });
        let line = line.iter().filter_map(|(uid, name)| Party::from_text(name, *uid)).collect();
        Cast { acts_as, under: under.map(Into::into), line }
    }

    /// Whom it is, to be written down.
    pub(crate) fn acts_as_written(&self) -> Option<Written> {
        let ActsAs { uid, name, session } = self.acts_as.as_ref()?;
        Some((*uid, name.as_ref().to_owned(), session.as_deref().map(str::to_owned)))
    }

    /// Who started it, to be written down.
    pub(crate) fn line_written(&self) -> Vec<(u32, String)> {
        self.line.iter().map(|party| (party.uid, party.to_string())).collect()
    }
}
