//! Whom what a principal has is counted for.
//!
//! Invariant: two principals have one holder exactly if they are the same one to everybody else.

use crate::auth::principal::{AGENT, Creator, Principal, Skill};
use std::fmt;
use std::sync::Arc;

/// Who has something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// The owner.
    Owner,
    /// Another user.
    User(u32),
    /// A peer of this user that can't be told.
    Nobody(u32),
    /// A name that something outside was lowered to.
    Skill {
        /// As which user.
        uid: u32,
        /// Which.
        name: Arc<str>,
    },
    /// What runs in a session.
    Session {
        /// As which user.
        uid: u32,
        /// Which.
        session: Arc<str>,
        /// The name a part of it was lowered to.
        name: Option<Arc<str>>,
    },
}

impl Holder {
    /// Of a principal.
    pub(crate) fn of(principal: &Principal) -> Holder {
        match principal {
            Principal::Owner => Holder::Owner,
            Principal::User { uid } => Holder::User(*uid),
            Principal::Nobody { uid } => Holder::Nobody(*uid),
            Principal::Skill(Skill { uid, session: Some(session), name }) => {
                Holder::Session { uid: *uid, session: Arc::clone(session), name: name.clone() }
            }
            Principal::Skill(Skill { uid, session: None, name }) => {
                Holder::Skill { uid: *uid, name: name.clone().unwrap_or_default() }
            }
        }
    }

    /// Of whoever left this trace.
    pub(crate) fn of_creator(creator: &Creator, owner_uid: u32) -> Holder {
        Holder::of(&Principal::of_creator(creator, owner_uid))
    }

    /// The trace it leaves: who may touch that may know of it.
    pub(crate) fn creator(&self, owner_uid: u32) -> Creator {
        let (session, name) = match self {
            Holder::Owner | Holder::User(_) | Holder::Nobody(_) => (None, None),
            Holder::Skill { name, .. } => (None, Some(Arc::clone(name))),
            Holder::Session { session, name, .. } => (Some(Arc::clone(session)), name.clone()),
        };
        Creator { uid: self.uid(owner_uid), session, name }
    }

    /// The user behind it.
    pub(crate) fn uid(&self, owner_uid: u32) -> u32 {
        match self {
            Holder::Owner => owner_uid,
            Holder::User(uid)
            | Holder::Nobody(uid)
            | Holder::Skill { uid, .. }
            | Holder::Session { uid, .. } => *uid,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Owner => f.write_str("owner"),
            Holder::User(uid) => write!(f, "user:{uid}"),
            Holder::Nobody(_) => f.write_str("nobody"),
            Holder::Skill { name, .. } if name.starts_with(AGENT) => f.write_str(name),
            Holder::Skill { name, .. } => write!(f, "skill:{name}"),
            Holder::Session { session, name: None, .. } => write!(f, "session:{session}"),
            Holder::Session { session, name: Some(name), .. } => write!(f, "session:{session}/{name}"),
        }
    }
}
