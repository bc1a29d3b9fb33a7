//! Whether this principal may touch that process: one function, asked by calls, notices and events alike.
//!
//! Invariant: what a principal may not touch it is not told about either. The permission for the kind of deed is
//! checked before, in [`policy`](crate::auth::policy).

use crate::auth::principal::{Creator, Principal};
use crate::events::record::Audience;

/// True when `principal` may touch what `creator` started: the owner everything, a user what was started under
/// its uid, a skill what it started itself, nobody nothing.
pub fn may_touch(principal: &Principal, creator: &Creator) -> bool {
    match principal {
        Principal::Owner => true,
        Principal::User { uid } => creator.uid == *uid,
        Principal::Skill(skill) => {
            skill.uid == creator.uid
                && skill.session == creator.session
                && (skill.name.is_none() || skill.name == creator.name)
        }
        Principal::Nobody { .. } => false,
    }
}

/// True when `principal` may hear of an event for this audience.
pub fn hears(principal: &Principal, audience: &Audience) -> bool {
    match (audience, principal) {
        (_, Principal::Nobody { .. }) => false,
        (Audience::All, _) | (_, Principal::Owner) => true,
        (Audience::Of(creator), _) => may_touch(principal, creator),
        (Audience::User(uid), Principal::User { uid: own }) => own == uid,
        (Audience::User(uid), Principal::Skill(skill)) => skill.uid == *uid,
        (Audience::Administration(uid), Principal::User { uid: own }) => own == uid,
        (Audience::Administration(_), Principal::Skill(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::principal::Skill;

    fn skill(uid: u32, session: Option<&str>, name: Option<&str>) -> Principal {
        Principal::Skill(Skill { uid, session: session.map(Into::into), name: name.map(Into::into) })
    }

    #[test]
    fn each_sees_its_own_and_nothing_else() {
        let askers = [
            Principal::User { uid: 1 },
            Principal::User { uid: 2 },
            skill(1, None, Some("a")),
            skill(1, None, Some("b")),
            skill(2, None, Some("a")),
            skill(1, Some("s"), None),
            skill(1, Some("t"), None),
        ];
        for (asking, asker) in askers.iter().enumerate() {
            for (made, maker) in askers.iter().enumerate() {
                let creator = maker.creator(0);
                let same_user = matches!(asker, Principal::User { uid } if *uid == creator.uid);
                assert_eq!(may_touch(asker, &creator), asking == made || same_user, "{asker} on {maker}'s");
            }
        }
    }

    #[test]
    fn who_hears_is_who_may_touch_and_who_administers() {
        let askers = [
            Principal::Owner,
            Principal::User { uid: 1 },
            Principal::User { uid: 2 },
            skill(1, None, Some("a")),
            skill(2, None, Some("a")),
            Principal::Nobody { uid: 1 },
        ];
        let of = skill(1, None, Some("a")).creator(0);
        for (audience, hearing) in [
            (Audience::All, [true, true, true, true, true, false]),
            (Audience::Of(of), [true, true, false, true, false, false]),
            (Audience::User(1), [true, true, false, true, false, false]),
            (Audience::Administration(1), [true, true, false, false, false, false]),
        ] {
            for (asker, heard) in askers.iter().zip(hearing) {
                assert_eq!(hears(asker, &audience), heard, "{asker} of {audience:?}");
            }
        }
    }

    #[test]
    fn the_owner_touches_all_and_nobody_nothing() {
        let creator = skill(3, Some("s"), Some("a")).creator(0);
        assert!(may_touch(&Principal::Owner, &creator));
        assert!(!may_touch(&Principal::Nobody { uid: 3 }, &creator));
        assert!(!may_touch(&Principal::Nobody { uid: 0 }, &Principal::Nobody { uid: 0 }.creator(0)));
    }

    #[test]
    fn a_skill_lowered_inside_its_session_sees_only_what_that_name_started() {
        let whole = skill(1, Some("s"), None);
        let part = skill(1, Some("s"), Some("a"));
        assert!(may_touch(&whole, &part.creator(0)));
        assert!(!may_touch(&part, &whole.creator(0)));
    }
}
