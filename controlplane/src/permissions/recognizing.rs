//! Who a peer is, attested at its connect: by its credentials, and by its place under the keeper.
//!
//! Invariant: whose session can't be told has the least rights, and nothing a peer says of itself gives it any.

use crate::auth::principal::{Principal, Skill};
use crate::auth::subject::Party;
use crate::clock::wall_ms;
use crate::kernel::Kernel;
use crate::state::{ActsAs, Process};
use kairo_dataplane::control::{Lineage, Peer};
use std::sync::Arc;

/// Who a peer is.
pub(crate) struct Recognized {
    /// Whose rights it has.
    pub principal: Principal,
    /// The life it is part of.
    pub life: Option<Arc<str>>,
    /// The session of an agent it is in.
    pub agent_session: Option<Arc<str>>,
    /// Whom it was started as.
    pub party: Option<Party>,
}

impl Recognized {
    fn plain(principal: Principal) -> Recognized {
        Recognized { principal, life: None, agent_session: None, party: None }
    }
}

impl Kernel {
    /// Who a peer is, by what the operating system says about it.
    pub(crate) fn recognize(&self, peer: &Peer) -> Recognized {
        let uid = peer.uid;
        let (ancestors, session) = match &peer.lineage {
            Lineage::Unknown => return Recognized::plain(Principal::Nobody { uid }),
            Lineage::Outside if uid == self.config.owner_uid => return Recognized::plain(Principal::Owner),
            Lineage::Outside => return Recognized::plain(Principal::User { uid }),
            Lineage::Child { ancestors, session } => (ancestors, session),
        };
        let Some(session) = self.session_of(ancestors, session.as_deref(), uid) else {
            return Recognized::plain(Principal::Nobody { uid });
        };
        let life: Arc<str> = session.into();
        let process = self.of_life(&life);
        let started_ms = process.map_or(0, |process| wall_ms(process.started));
        let Some(acts_as) = process.and_then(|process| process.cast.acts_as.clone()) else {
            let skill = Skill { uid, session: Some(Arc::clone(&life)), name: None };
            return Recognized { life: Some(life), ..Recognized::plain(Principal::Skill(skill)) };
        };
        // An agent that is no more, and a session that is over, are nobody.
        let there = self.is_there(&acts_as, started_ms);
        let party = acts_as.party();
        let ActsAs { name, session, .. } = acts_as;
        let over = session.as_deref().is_some_and(|session| !self.agents.sessions.contains_key(session));
        if over || !there {
            return Recognized::plain(Principal::Nobody { uid });
        }
        let principal = Principal::Skill(Skill { uid, session: None, name: Some(name) });
        Recognized { principal, life: Some(life), agent_session: session, party: Some(party) }
    }

    /// The session a descendant of the keeper belongs to: that of the nearest ancestor that leads one. The marker of
    /// its environment is only heard when no ancestor does, and only if that session's tree still is there and runs
    /// as the same user: an orphan.
    fn session_of(&self, ancestors: &[i32], marker: Option<&str>, uid: u32) -> Option<String> {
        let runs_as = |process: &Process| process.run_uid.unwrap_or(self.config.owner_uid);
        let leader = ancestors.iter().find_map(|pid| self.state.leaders.get(&(*pid as u64)));
        if let Some(process) = leader.and_then(|serial| self.state.processes.get(serial)) {
            return Some(process.session.as_str().to_owned());
        }
        let process = self.state.processes.get(self.state.sessions.get(marker?)?)?;
        (!process.tree_gone && runs_as(process) == uid).then(|| process.session.as_str().to_owned())
    }
}
