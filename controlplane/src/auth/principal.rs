//! Who asks: a principal is told by the operating system about the peer, never by the peer.
//!
//! ```text
//!              uid of the daemon, outside the keeper ──▶ Owner ──identify──▶ Skill
//!   any other uid (of a root daemon), outside ─────────▶ User ───identify──▶ Skill
//!   a descendant of the keeper ────────────────────────▶ Skill of its session
//!   cannot be told ────────────────────────────────────▶ Nobody
//! ```
//!
//! Invariant: what `identify` returns may do nothing that the principal before could not. Which deeds a kind may
//! do is in [`policy`](crate::auth::policy), to which processes in [`grant`](crate::auth::grant).

use kairo_wire::methods::system::PrincipalKind;
use std::fmt;
use std::sync::Arc;

/// What the name of an agent begins with where skills and agents stand in one field.
pub const AGENT: &str = "agent:";

/// The asker behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The daemon's own user: its administrator.
    Owner,
    /// Another user of the machine.
    User {
        /// Who.
        uid: u32,
    },
    /// A program with the rights of what it started itself: an agent, a skill, or a process the kernel has started.
    Skill(Skill),
    /// A peer whose place could not be told: it may talk, and touch nothing.
    Nobody {
        /// Its effective user, for the record only.
        uid: u32,
    },
}

/// A skill: known by the session it runs in, by a name it was lowered to, or by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skill {
    /// The user it runs as.
    pub uid: u32,
    /// The session it is part of; none when it was lowered from outside.
    pub session: Option<Arc<str>>,
    /// What `identify` lowered it to, or what it was started as; that of an agent begins with [`AGENT`].
    pub name: Option<Arc<str>>,
}

/// Who started a process, written down at its spawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creator {
    /// The user.
    pub uid: u32,
    /// The session the creator ran in.
    pub session: Option<Arc<str>>,
    /// The skill's name.
    pub name: Option<Arc<str>>,
}

impl Skill {
    /// The agent it is.
    pub fn agent(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.session.is_none())?.strip_prefix(AGENT)
    }
}

impl Principal {
    /// Its kind.
    pub fn kind(&self) -> PrincipalKind {
        match self {
            Principal::Owner => PrincipalKind::Owner,
            Principal::User { .. } => PrincipalKind::User,
            Principal::Skill(skill) if skill.agent().is_some() => PrincipalKind::Agent,
            Principal::Skill(_) => PrincipalKind::Skill,
            Principal::Nobody { .. } => PrincipalKind::Nobody,
        }
    }

    /// The user behind it; `owner_uid` is the daemon's.
    pub fn uid(&self, owner_uid: u32) -> u32 {
        match self {
            Principal::Owner => owner_uid,
            Principal::User { uid } | Principal::Nobody { uid } => *uid,
            Principal::Skill(skill) => skill.uid,
        }
    }

    /// What is written down about it when it starts something.
    pub fn creator(&self, owner_uid: u32) -> Creator {
        let (session, name) = match self {
            Principal::Skill(skill) => (skill.session.clone(), skill.name.clone()),
            Principal::Owner | Principal::User { .. } | Principal::Nobody { .. } => (None, None),
        };
        Creator { uid: self.uid(owner_uid), session, name }
    }

    /// Who had the rights that a creator is a trace of.
    pub fn of_creator(creator: &Creator, owner_uid: u32) -> Principal {
        let Creator { uid, session, name } = creator.clone();
        if session.is_some() || name.is_some() {
            Principal::Skill(Skill { uid, session, name })
        } else if uid == owner_uid {
            Principal::Owner
        } else {
            Principal::User { uid }
        }
    }

    /// Lowers to the skill `name`. Refused, with nothing, when that would be somebody else.
    pub fn lowered(&self, name: &str, owner_uid: u32) -> Option<Principal> {
        match self {
            Principal::Owner | Principal::User { .. } => Some(Principal::Skill(Skill {
                uid: self.uid(owner_uid),
                session: None,
                name: Some(name.into()),
            })),
            Principal::Skill(Skill { name: Some(already), .. }) if **already != *name => None,
            Principal::Skill(skill) => {
                let name = skill.name.clone().unwrap_or_else(|| name.into());
                Some(Principal::Skill(Skill { name: Some(name), ..skill.clone() }))
            }
            // It has nothing that could be lowered.
            Principal::Nobody { .. } => Some(self.clone()),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Owner => f.write_str("owner"),
            Principal::User { uid } => write!(f, "user:{uid}"),
            Principal::Nobody { .. } => f.write_str("nobody"),
            Principal::Skill(skill) => match (&skill.session, &skill.name) {
                (Some(session), Some(name)) => write!(f, "skill:{session}/{name}"),
                (None, Some(name)) if name.starts_with(AGENT) => f.write_str(name),
                (None, Some(name)) => write!(f, "skill:{name}"),
                (Some(session), None) => write!(f, "skill:{session}"),
                (None, None) => f.write_str("skill"),
            },
        }
    }
}

impl fmt::Display for Creator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid:{}", self.uid)?;
        for (part, text) in [("session", &self.session), ("skill", &self.name)] {
            if let Some(text) = text {
                write!(f, " {part}:{text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::grant::may_touch;

    fn of_session(session: &str) -> Principal {
        Principal::Skill(Skill { uid: 7, session: Some(session.into()), name: None })
    }

    #[test]
    fn identify_only_lowers() {
        let creators = |principals: &[Principal]| -> Vec<Creator> {
            principals.iter().map(|principal| principal.creator(7)).collect()
        };
        let before = [
            Principal::Owner,
            Principal::User { uid: 8 },
            of_session("s"),
            of_session("t"),
            Principal::Nobody { uid: 7 },
        ];
        let lowered: Vec<Principal> =
            before.iter().filter_map(|principal| principal.lowered("x", 7)).collect();
        assert_eq!(lowered.len(), before.len());
        let all = [creators(&before), creators(&lowered)].concat();
        for (one, other) in before.iter().zip(&lowered) {
            for creator in &all {
                assert!(may_touch(one, creator) || !may_touch(other, creator), "{one} -> {other}: {creator}");
            }
        }
    }

    #[test]
    fn a_lowered_skill_stays_who_it_is() {
        let lowered = Principal::Owner.lowered("x", 7).expect("the owner may lower itself");
        assert_eq!(lowered.lowered("x", 7), Some(lowered.clone()));
        assert_eq!(lowered.lowered("y", 7), None);
    }
}
