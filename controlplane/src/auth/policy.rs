//! Which kinds of deed each kind of principal may do at all.
//!
//! The policy is a value: a table of [`PrincipalKind`] by [`Permission`], nothing else. Everything not in it is
//! denied. To which processes a deed may be done is in [`grant`](crate::auth::grant).

use kairo_wire::methods::system::PrincipalKind;
use kairo_wire::permission::Permission;

/// True when principals of `kind` hold `permission`.
pub fn holds(kind: PrincipalKind, permission: Permission) -> bool {
    let [owner, user, skill, nobody] = row(permission);
    match kind {
        PrincipalKind::Owner => owner,
        PrincipalKind::User => user,
        // Until somebody says what exactly an agent or a skill may.
        PrincipalKind::Agent | PrincipalKind::Skill => skill,
        PrincipalKind::Nobody => nobody,
    }
}

/// Owner, user, skill or agent, nobody.
fn row(permission: Permission) -> [bool; 4] {
    match permission {
        Permission::KernelTalk | Permission::IdentityLower => [true, true, true, true],
        Permission::KernelAdministrate | Permission::AuditRead => [true, false, false, false],
        Permission::KernelInspect
        | Permission::ProcessSpawn
        | Permission::ProcessObserve
        | Permission::ProcessRead
        | Permission::ProcessWrite
        | Permission::ProcessControl
        | Permission::ProcessList
        | Permission::EventSubscribe
        | Permission::EventPublish
        | Permission::ViewRead
        | Permission::ViewDefine
        | Permission::IntentBegin
        | Permission::IntentObserve
        | Permission::IntentControl
        | Permission::IntentList
        | Permission::DeviceList
        | Permission::VaultRead
        | Permission::QuotaRead
        | Permission::PermissionRequest
        | Permission::PermissionRead => [true, true, true, false],
        // A program only if it was granted that.
        Permission::PermissionDecide
        | Permission::AgentManage
        | Permission::KernelCall
        | Permission::DeviceClaim
        | Permission::StreamPublish => [true, true, false, false],
        // Whoever runs under no manifest is kept from nothing by it; its sandbox, if it has one, is in its receipt.
        Permission::FileRead
        | Permission::FileWrite
        | Permission::FileExecute
        | Permission::FileCreate
        | Permission::FileDelete
        | Permission::FileMetadata
        | Permission::NetworkConnect
        | Permission::NetworkBind
        | Permission::NetworkLoopback
        | Permission::NetworkUdp
        | Permission::UnixConnect
        | Permission::DeviceOpen
        | Permission::SignalSend
        | Permission::ProcessTrace
        | Permission::EnvironmentRead
        | Permission::LimitUse => [true, true, true, false],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::permission::{PERMISSIONS, PermissionScope};

    const KINDS: [PrincipalKind; 5] = [
        PrincipalKind::Owner,
        PrincipalKind::User,
        PrincipalKind::Agent,
        PrincipalKind::Skill,
        PrincipalKind::Nobody,
    ];

    #[test]
    fn the_table_keeps_what_each_permission_promises() {
        for row in PERMISSIONS {
            let held = |kind| holds(kind, row.permission);
            assert!(held(PrincipalKind::Owner), "{}", row.name);
            match row.scope {
                PermissionScope::Everybody => assert!(KINDS.into_iter().all(held), "{}", row.name),
                PermissionScope::Administrator => {
                    assert!(!held(PrincipalKind::User) && !held(PrincipalKind::Skill), "{}", row.name);
                }
                PermissionScope::Caller
                | PermissionScope::Process
                | PermissionScope::Intent
                | PermissionScope::Principal
                | PermissionScope::Granted
                | PermissionScope::Filtered => {
                    assert!(!held(PrincipalKind::Nobody), "{}", row.name);
                }
            }
        }
    }
}
