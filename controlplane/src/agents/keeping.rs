//! What is written down of agents and sessions: each, whenever it changes.

use crate::agents::{Agent, Session};
use crate::events::journal::kept;
use crate::kernel::Kernel;
use bytes::Bytes;
use kairo_wire::codec::decode::from_slice;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What names of agents begin with.
pub const AGENT_PREFIX: &[u8] = b"agent/";
/// What names of their sessions begin with.
pub const SESSION_PREFIX: &[u8] = b"session/";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenAgent {
    uid: u32,
    name: Arc<str>,
    by: Box<str>,
    created_ms: u64,
    #[serde(default)]
    expires_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSession {
    id: Arc<str>,
    uid: u32,
    agent: Arc<str>,
    created_ms: u64,
    #[serde(default)]
    expires_ms: Option<u64>,
}

impl Kernel {
    /// Writes an agent down, or that it is no more.
    pub(crate) fn keep_agent(&mut self, uid: u32, name: &Arc<str>) {
        let written = self.agents.agents.get(&(uid, Arc::clone(name))).and_then(|agent| {
            let Agent { by, created_ms, expires_ms } = agent.clone();
            kept(&WrittenAgent { uid, name: Arc::clone(name), by, created_ms, expires_ms })
        });
        self.journal
            .value(Bytes::from([AGENT_PREFIX, &uid.to_be_bytes(), name.as_bytes()].concat()), written);
    }

    /// Writes a session down, or that it is over.
    pub(crate) fn keep_session(&mut self, id: &Arc<str>) {
        let written = self.agents.sessions.get(id).and_then(|session| {
            let Session { uid, agent, created_ms, expires_ms } = session.clone();
            kept(&WrittenSession { id: Arc::clone(id), uid, agent, created_ms, expires_ms })
        });
        self.journal.value(Bytes::from([SESSION_PREFIX, id.as_bytes()].concat()), written);
    }

    /// The agents and sessions of former kernels. For the start.
    pub fn recall_agents(
        &mut self,
        agents: impl IntoIterator<Item = (Bytes, Bytes)>,
        sessions: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        let wrong =
            || tracing::error!(component = "controlplane", "an agent or a session of one can't be read");
        for (_, value) in agents {
            let Ok(WrittenAgent { uid, name, by, created_ms, expires_ms }) = from_slice(&value) else {
                wrong();
                continue;
            };
            self.agents.agents.insert((uid, name), Agent { by, created_ms, expires_ms });
        }
        for (_, value) in sessions {
            let Ok(WrittenSession { id, uid, agent, created_ms, expires_ms }) = from_slice(&value) else {
                wrong();
                continue;
            };
            self.agents.sessions.insert(id, Session { uid, agent, created_ms, expires_ms });
        }
    }
}
