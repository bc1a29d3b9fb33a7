//! To whom something can be granted, by a text that names it on the wire, in the log and in a policy.
//!
//! A connection is several of these at once: a skill, in a session of an agent, in the session of a process. Invariant: what is
//! granted to a name counts for a peer only if the kernel knows that it is who that name means: it was lowered to it by
//! somebody with more rights, or was started as it.

use crate::auth::principal::{AGENT, Creator, Principal, Skill};
use std::fmt;
use std::sync::Arc;

/// Somebody, of a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Party {
    /// The user it runs as.
    pub uid: u32,
    /// Who of that user's.
    pub subject: Subject,
}

/// Who.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The user, outside of everything the kernel has started.
    User,
    /// An agent.
    Agent(Arc<str>),
    /// A skill.
    Skill(Arc<str>),
    /// A session: of an agent, or the life of a process.
    Session(Arc<str>),
}

impl Subject {
    /// Whom the name of a skill or an agent means, as principals have it.
    pub(crate) fn of_name(name: &Arc<str>) -> Subject {
        match name.strip_prefix(AGENT) {
            Some(agent) => Subject::Agent(agent.into()),
            None => Subject::Skill(Arc::clone(name)),
        }
    }
}

impl Party {
    /// What a text means, for somebody of this user.
    pub fn from_text(text: &str, uid: u32) -> Option<Party> {
        let (kind, name) = text.split_once(':')?;
        let named = |make: fn(Arc<str>) -> Subject| (!name.is_empty()).then(|| make(name.into()));
        let (uid, subject) = match kind {
            "user" => (name.parse().ok()?, Subject::User),
            "agent" => (uid, named(Subject::Agent)?),
            "skill" => (uid, named(Subject::Skill)?),
            "session" => (uid, named(Subject::Session)?),
            _ => return None,
        };
        Some(Party { uid, subject })
    }

    /// A principal that is nothing but this.
    pub fn principal(&self, owner_uid: u32) -> Principal {
        let uid = self.uid;
        let skill = |session, name| Principal::Skill(Skill { uid, session, name });
        match &self.subject {
            Subject::User if uid == owner_uid => Principal::Owner,
            Subject::User => Principal::User { uid },
            Subject::Agent(name) => skill(None, Some(format!("{AGENT}{name}").into())),
            Subject::Skill(name) => skill(None, Some(Arc::clone(name))),
            Subject::Session(session) => skill(Some(Arc::clone(session)), None),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::User => write!(f, "user:{}", self.uid),
            Subject::Agent(name) => write!(f, "agent:{name}"),
            Subject::Skill(name) => write!(f, "skill:{name}"),
            Subject::Session(session) => write!(f, "session:{session}"),
        }
    }
}

/// Whom a principal is known as by itself, whatever it is part of.
pub(crate) fn known_as(principal: &Principal) -> Option<Party> {
    let (uid, subject) = match principal {
        Principal::Owner | Principal::Nobody { .. } => return None,
        Principal::User { uid } => (uid, Subject::User),
        Principal::Skill(Skill { uid, session: Some(session), .. }) => {
            (uid, Subject::Session(Arc::clone(session)))
        }
        Principal::Skill(Skill { uid, session: None, name }) => (uid, Subject::of_name(name.as_ref()?)),
    };
    Some(Party { uid: *uid, subject })
}

/// The names a principal goes by, whether or not they give it anything: what is forbidden to them is forbidden to it.
pub(crate) fn claimed(creator: &Creator) -> Vec<Party> {
    let uid = creator.uid;
    let session = creator.session.clone().map(|session| Party { uid, subject: Subject::Session(session) });
    let name = creator.name.as_ref().map(|name| Party { uid, subject: Subject::of_name(name) });
    session.into_iter().chain(name).collect()
}

/// Whether a pattern of a policy means somebody: a whole text, or its beginning and `*`.
pub(crate) fn is_meant(pattern: &str, party: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => party.starts_with(start),
        None => pattern == party,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_read_as_it_is_written() {
        for text in ["user:7", "agent:coder", "skill:photo-index", "session:0123", "skill:a:b"] {
            let party = Party::from_text(text, 7).expect(text);
            assert_eq!(party.to_string(), text);
            assert_eq!(known_as(&party.principal(0)), Some(party));
        }
        for wrong in ["owner", "nobody", "user:", "user:x", "skill:", "agent", "x:y", ""] {
            assert_eq!(Party::from_text(wrong, 7), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_a_child_gives_itself_is_none_it_is_known_by() {
        let child = Skill { uid: 1, session: Some("s".into()), name: Some("photo".into()) };
        let principal = Principal::Skill(child);
        assert_eq!(known_as(&principal).map(|party| party.to_string()).as_deref(), Some("session:s"));
        let claimed: Vec<String> = claimed(&principal.creator(0)).iter().map(Party::to_string).collect();
        assert_eq!(claimed, ["session:s", "skill:photo"]);
    }

    #[test]
    fn a_pattern_means_whole_texts() {
        assert!(is_meant("skill:*", "skill:a") && is_meant("*", "user:1") && is_meant("skill:a", "skill:a"));
        assert!(!is_meant("skill:a", "skill:ab") && !is_meant("agent:*", "skill:a"));
    }
}
