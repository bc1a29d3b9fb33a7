//! Whoever acts in a name, and what it is told when it may not.

use crate::harness::World;
use kairo_dataplane::key::ConnectionKey;
use serde_json::{Value, json};

/// The code of what may not be done.
pub(crate) const DENIED: &str = "E_PERMISSION_DENIED";

/// The code of a call that must fail.
pub(crate) fn code(world: &mut World, connection: ConnectionKey, method: &str, params: Value) -> String {
    world.fails(connection, method, params).0
}

/// An agent that may this, and a connection of it.
pub(crate) fn agent(world: &mut World, name: &str, permissions: Value) -> ConnectionKey {
    let owner = world.owner();
    world.ok(owner, "agent.create", json!({ "name": name, "permissions": permissions }));
    world.ok(owner, "identify", json!({ "agentId": name }));
    owner
}
