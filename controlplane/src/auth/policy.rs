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
        PrincipalKind::Skill => skill,
        PrincipalKind::Nobody => nobody,
    }
}

/// Owner, user, skill, nobody.
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
        | Permission::VaultRead => [true, true, true, false],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::permission::{PERMISSIONS, PermissionScope};

    const KINDS: [PrincipalKind; 4] =
        [PrincipalKind::Owner, PrincipalKind::User, PrincipalKind::Skill, PrincipalKind::Nobody];

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
                | PermissionScope::Filtered => {
                    assert!(!held(PrincipalKind::Nobody), "{}", row.name);
                }
            }
        }
    }
}
