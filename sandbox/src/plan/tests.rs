//! Every machine pretended: what is in force, what is refused, and by which name.

use super::*;
use crate::ability::{self, Answer, Cgroup, Pipes};
use crate::profile::ProcessLimit;

fn no() -> Answer {
    Answer::Refused("a container forbids it".to_owned())
}

/// One that makes namespaces, by way of a user namespace or not.
fn dividing(abi: u32, user: bool) -> Ability {
    let namespaces = ability::Namespaces { mount: Answer::Allowed, network: Answer::Allowed, user };
    Ability { namespaces, ..machine(abi) }
}

fn machine(abi: u32) -> Ability {
    Ability {
        system: "Pretended 1.0".into(),
        uid: 1000,
        landlock_abi: abi,
        seccomp_filter: true,
        sandbox_exec: false,
        seccomp_user_notification: false,
        user_namespaces: Answer::Allowed,
        namespaces: ability::Namespaces { mount: no(), network: no(), user: true },
        no_new_privileges: true,
        cores_are_piped: false,
        exec_stop: Answer::Allowed,
        denied_calls: Answer::Allowed,
        denied_files: Answer::Allowed,
        cgroup: Cgroup::default(),
        pidfd: true,
        peer_pidfd: false,
        subreaper: true,
        children_listed: true,
        io_uring: Answer::Allowed,
        memfd_seals: true,
        splice: true,
        pipes: Pipes::default(),
        rlimits: Vec::new(),
    }
}

fn delegated(controllers: &[&str]) -> Ability {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    let cgroup =
        Cgroup { folder: Some("/cgroup".into()), writable: true, kill: true, controllers, withheld: None };
    Ability { cgroup, ..machine(9) }
}

fn place() -> Place {
    Place { uid: 1000, home: Some("/people/u".into()), folder: Some("/place/p".into()) }
}

fn profile(json: serde_json::Value) -> Profile {
    serde_json::from_value(json).unwrap()
}

fn plan(json: serde_json::Value, ability: &Ability) -> Result<Plan, Refusal> {
    Plan::new(&profile(json), ability, &place())
}

fn refused(json: serde_json::Value, ability: &Ability) -> Protection {
    match plan(json, ability) {
        Err(Refusal::Protection { protection, .. }) => protection,
        other => panic!("{other:?}"),
    }
}

fn standing(plan: &Plan, protection: Protection) -> Standing {
    plan.receipt.of(protection).unwrap().standing
}

#[test]
fn an_empty_profile_is_in_force_whole_from_abi_6_on_and_lists_every_protection_once() {
    for abi in 6..=9 {
        let plan = plan(serde_json::json!({}), &machine(abi)).unwrap();
        let listed: Vec<Protection> = plan.receipt.entries.iter().map(|entry| entry.protection).collect();
        assert_eq!(listed, Protection::ALL);
        assert!(plan.receipt.entries.iter().all(|entry| entry.reason.is_none()));
        assert!(plan.containment.unprivileged && plan.containment.core_bytes == Some(0));
        let rules = plan.containment.landlock.unwrap();
        assert_eq!((rules.scopes, rules.ports), (3, 0));
        assert_eq!(rules.files, (1 << 16) - 1);
        for group in
            [Group::NoNetwork, Group::NoUnixSockets, Group::SystemCalls, Group::Ptrace, Group::Terminal]
        {
            assert!(plan.containment.filter.has(group), "{group:?}");
        }
    }
}

#[test]
fn each_older_abi_is_refused_by_what_it_lacks_first() {
    let empty = || serde_json::json!({});
    assert_eq!(refused(empty(), &machine(0)), Protection::Files);
    assert_eq!(refused(empty(), &machine(1)), Protection::Truncate);
    assert_eq!(refused(empty(), &machine(2)), Protection::Truncate);
    assert_eq!(refused(empty(), &machine(3)), Protection::DeviceCommands);
    assert_eq!(refused(empty(), &machine(4)), Protection::DeviceCommands);
    assert_eq!(refused(empty(), &machine(5)), Protection::Signals);
    let ports = serde_json::json!({"network": {"connect": [443]}, "acceptWeaker": ["truncate"]});
    let three = serde_json::json!({"network": {"connect": [443]}, "acceptWeaker": ["deviceCommands"]});
    assert_eq!(refused(ports, &machine(1)), Protection::DeviceCommands);
    assert_eq!(refused(three, &machine(3)), Protection::Ports);
}

#[test]
fn what_is_accepted_by_name_is_absent_with_its_reason_and_nothing_else_is_weaker() {
    let weaker = ["truncate", "deviceCommands", "signals"];
    let plan = plan(serde_json::json!({"acceptWeaker": weaker}), &machine(1)).unwrap();
    for entry in &plan.receipt.entries {
        let expected =
            if weaker.contains(&entry.protection.name()) { Standing::Absent } else { entry.standing };
        assert_eq!(entry.standing, expected);
        assert_eq!(entry.reason.is_some(), entry.standing == Standing::Absent, "{entry:?}");
    }
    let rules = plan.containment.landlock.unwrap();
    assert_eq!((rules.files, rules.scopes), (rights::ABI_1, 0));
    assert!(rules.below.iter().all(|(_, granted)| granted & !rights::ABI_1 == 0));
}

#[test]
fn without_filters_what_needs_them_is_refused() {
    let mut bare = machine(9);
    bare.seccomp_filter = false;
    assert_eq!(refused(serde_json::json!({}), &bare), Protection::Metadata);
    let accepted = serde_json::json!({"acceptWeaker": ["metadata", "network", "ports", "unixSockets", "ptrace", "systemCalls", "terminal"]});
    let plan = plan(accepted, &bare).unwrap();
    assert!(plan.containment.filter.is_empty());
    assert_eq!(standing(&plan, Protection::Ports), Standing::Weaker);
    assert_eq!(standing(&plan, Protection::Terminal), Standing::Weaker);
}

#[test]
fn ports_are_landlocks_and_what_it_does_not_know_is_filtered() {
    let tcp = serde_json::json!({"network": {"connect": [443, 80], "bind": [80]}});
    let plan = plan(tcp, &machine(7)).unwrap();
    let rules = plan.containment.landlock.unwrap();
    assert_eq!(rules.ports, 3);
    assert_eq!(rules.on, [(443, 2), (80, 3)]);
    let filter = plan.containment.filter;
    assert!(filter.has(Group::Ports) && filter.has(Group::NoUdp) && filter.has(Group::Families));
    assert!(!filter.has(Group::NoNetwork) && !filter.has(Group::NoListening));
}

#[test]
fn a_port_that_is_only_connected_to_leaves_nothing_to_listen_with() {
    let plan = plan(serde_json::json!({"network": {"connect": [443]}}), &machine(7)).unwrap();
    assert!(plan.containment.filter.has(Group::NoListening));
}

#[test]
fn what_neither_landlock_nor_a_filter_can_say_is_refused_by_name() {
    for (asked, protection) in [
        (serde_json::json!({"files": {"metadata": true}}), Protection::Metadata),
        (serde_json::json!({"network": {"domains": ["example.org"]}}), Protection::Domains),
        (serde_json::json!({"network": {"loopback": [8080]}}), Protection::Loopback),
        (serde_json::json!({"unixSockets": {"paths": ["/run/x"]}}), Protection::UnixSockets),
        (serde_json::json!({"files": {"read": ["~/"], "denyRead": ["~/.ssh"]}}), Protection::DeniedPaths),
        (
            serde_json::json!({"files": {"write": ["./"], "denyWrite": ["./.git/hooks"]}}),
            Protection::DeniedPaths,
        ),
        (serde_json::json!({"files": {"read": ["/a/b"], "denyRead": ["/a"]}}), Protection::DeniedPaths),
        (serde_json::json!({"files": {"read": ["/"], "denyRead": ["/a/b/c"]}}), Protection::DeniedPaths),
        (serde_json::json!({"files": {"read": ["/a/b"], "denyRead": ["/"]}}), Protection::DeniedPaths),
        (serde_json::json!({"files": {"execute": ["/a/b"], "denyRead": ["/a/b"]}}), Protection::DeniedPaths),
    ] {
        assert_eq!(refused(asked.clone(), &machine(8)), protection);
        let mut accepted = asked;
        accepted["acceptWeaker"] = serde_json::json!([protection.name(), "abstractSockets"]);
        let plan = plan(accepted, &machine(8)).unwrap();
        assert!(plan.receipt.of(protection).unwrap().reason.is_some());
    }
}

#[test]
fn paths_denied_inside_what_is_allowed_are_a_mount_namespaces() {
    let asked = || serde_json::json!({"files": {"read": ["~/"], "write": ["./"], "denyRead": ["~/.ssh"], "denyWrite": ["./.git/hooks", "/usr"]}});
    for (abi, user) in [(6, true), (6, false), (9, true)] {
        let plan = plan(asked(), &dividing(abi, user)).unwrap();
        let entry = plan.receipt.of(Protection::DeniedPaths).unwrap();
        assert_eq!(
            (entry.standing, entry.by.as_slice()),
            (Standing::InForce, &[Mechanism::MountNamespace, Mechanism::Landlock][..])
        );
        let namespaces = plan.containment.later.namespaces.unwrap();
        let denied = |path: &str, what| (path.as_bytes().to_vec(), what);
        assert_eq!(
            namespaces.denied,
            [denied("/people/u/.ssh", Denied::Read), denied("/place/p/.git/hooks", Denied::Write)]
        );
        assert_eq!((namespaces.user, namespaces.placeholders, namespaces.network), (user, true, false));
        assert!(plan.containment.probes.contains(&Probe::Hidden(b"/people/u/.ssh".to_vec())));
        assert!(plan.containment.probes.contains(&Probe::Unchanged(b"/place/p/.git/hooks".to_vec())));
    }
    let mut weaker = asked();
    weaker["acceptWeaker"] = serde_json::json!(["deniedPaths"]);
    assert!(!plan(weaker, &dividing(6, true)).unwrap().containment.later.namespaces.unwrap().placeholders);
    let mut unguarded = asked();
    unguarded["protections"] =
        serde_json::json!({"files": "off", "truncate": "off", "deviceCommands": "off"});
    assert_eq!(refused(unguarded, &dividing(6, true)), Protection::DeniedPaths);
}

#[test]
fn where_modes_may_be_changed_is_a_mount_namespaces_to_say() {
    let asked = || serde_json::json!({"files": {"metadata": true, "write": ["./"]}});
    let plan = plan(asked(), &dividing(7, true)).unwrap();
    let entry = plan.receipt.of(Protection::Metadata).unwrap();
    assert_eq!((entry.standing, entry.by[0]), (Standing::InForce, Mechanism::MountNamespace));
    let containment = plan.containment;
    assert!(containment.later.namespaces.unwrap().read_only && !containment.filter.has(Group::NoMetadata));
    assert!(containment.probes.contains(&Probe::Unchanged(b"/etc/passwd".to_vec())));
    assert_eq!(refused(asked(), &machine(9)), Protection::Metadata);
}

#[test]
fn what_an_older_landlock_lacks_a_mount_namespace_has_but_for_signals() {
    let accepted = || serde_json::json!({"acceptWeaker": ["signals"]});
    let old = plan(accepted(), &dividing(2, true)).unwrap();
    for protection in [Protection::Truncate, Protection::DeviceCommands] {
        let entry = old.receipt.of(protection).unwrap();
        assert_eq!((entry.standing, entry.by[0]), (Standing::InForce, Mechanism::MountNamespace));
    }
    assert_eq!(old.containment.landlock.unwrap().files, rights::ABI_1 | rights::REFER);
    let namespaces = old.containment.later.namespaces.unwrap();
    assert!(namespaces.read_only && namespaces.no_devices);
    assert_eq!(refused(serde_json::json!({}), &dividing(2, true)), Protection::Signals);
    // What may be made and not written could be shortened.
    let mut made = accepted();
    made["files"] = serde_json::json!({"create": ["/tmp"]});
    assert_eq!(refused(made, &dividing(2, true)), Protection::Truncate);
    // What Landlock has is left to it.
    assert_eq!(plan(accepted(), &dividing(5, true)).unwrap().containment.later.namespaces, None);
}

#[test]
fn nothing_that_is_asked_for_without_namespaces_takes_one() {
    for asked in [
        serde_json::json!({}),
        serde_json::json!({"files": {"read": ["/usr"], "denyRead": ["/etc"]}, "network": {"connect": [443]}}),
    ] {
        assert_eq!(plan(asked, &dividing(7, true)).unwrap().containment.later.namespaces, None);
    }
}

#[test]
fn a_user_namespace_is_its_makers_and_root_without_one_serves_anybody() {
    let denied = || profile(serde_json::json!({"files": {"read": ["/a"], "denyRead": ["/a/b"]}}));
    let other = || Place { uid: 1001, ..place() };
    assert!(matches!(
        Plan::new(&denied(), &dividing(7, true), &other()),
        Err(Refusal::Protection { protection: Protection::DeniedPaths, reason, .. }) if reason.contains("root")
    ));
    assert!(Plan::new(&denied(), &dividing(7, false), &other()).is_ok());
}

#[test]
fn a_network_of_its_own_is_a_network_namespace() {
    let asked = || serde_json::json!({"network": {"private": true}, "unixSockets": {"any": true}});
    let plan = plan(asked(), &dividing(6, true)).unwrap();
    for protection in [Protection::Network, Protection::Ports, Protection::Loopback] {
        let entry = plan.receipt.of(protection).unwrap();
        assert_eq!(entry.standing, Standing::InForce);
        assert_eq!(entry.by[0], Mechanism::NetworkNamespace);
    }
    let containment = plan.containment;
    assert!(containment.later.namespaces.unwrap().network);
    assert_eq!(containment.landlock.unwrap().ports, 0);
    assert!(containment.filter.has(Group::Families) && !containment.filter.has(Group::NoNetwork));
    assert!(containment.probes.contains(&Probe::NoRoute));
    assert_eq!(refused(asked(), &machine(9)), Protection::Network);
    let mut accepted = asked();
    accepted["acceptWeaker"] = serde_json::json!(["network"]);
    assert_eq!(refused(accepted, &machine(9)), Protection::Ports);
}

#[test]
fn abstract_sockets_are_of_a_network_where_landlock_knows_none() {
    let asked = serde_json::json!({"network": {"private": true}, "unixSockets": {"paths": ["/run/x"]},
        "acceptWeaker": ["unixSockets", "signals", "deviceCommands", "truncate"]});
    let plan = plan(asked, &dividing(1, true)).unwrap();
    let entry = plan.receipt.of(Protection::AbstractSockets).unwrap();
    assert_eq!(
        (entry.standing, entry.by.as_slice()),
        (Standing::InForce, &[Mechanism::NetworkNamespace][..])
    );
}

#[test]
fn a_denied_path_outside_everything_allowed_is_denied() {
    let asked = serde_json::json!({"files": {"read": ["/usr"], "denyRead": ["~/.ssh", "/usrlocal"], "write": ["/tmp/x"], "denyWrite": ["/usr"]}});
    let plan = plan(asked, &machine(7)).unwrap();
    assert_eq!(standing(&plan, Protection::DeniedPaths), Standing::InForce);
}

#[test]
fn unix_sockets_by_path_are_landlocks_from_abi_9_on() {
    let plan = plan(serde_json::json!({"unixSockets": {"paths": ["/run/x"]}}), &machine(9)).unwrap();
    let rules = plan.containment.landlock.unwrap();
    assert!(rules.files & rights::RESOLVE_UNIX != 0);
    assert!(rules.below.contains(&(b"/run/x".to_vec(), rights::RESOLVE_UNIX)));
    assert!(!plan.containment.filter.has(Group::NoUnixSockets));
    assert!(rules.scopes & rights::SCOPE_ABSTRACT != 0);
}

#[test]
fn what_is_off_is_not_there_and_says_so() {
    let everything: BTreeMap<&str, &str> = Protection::ALL.iter().map(|p| (p.name(), "off")).collect();
    let plan = plan(serde_json::json!({"protections": everything, "kernel": false}), &machine(0)).unwrap();
    assert_eq!(plan.containment, Containment::default());
    assert!(plan.receipt.entries.iter().all(|entry| entry.standing == Standing::NotAsked));
}

#[test]
fn paths_are_resolved_from_the_home_and_the_working_folder() {
    let asked = serde_json::json!({"files": {"read": ["~", "~/a//b/", "./c", ".", "/"]}, "devices": {"basic": false}});
    let plan = plan(asked, &machine(7)).unwrap();
    let below = plan.containment.landlock.unwrap().below;
    let paths: Vec<String> =
        below.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(paths, ["/", "/people/u", "/people/u/a/b", "/place/p", "/place/p/c"]);
    let nowhere = Place { home: None, ..place() };
    let homeless =
        Plan::new(&profile(serde_json::json!({"files": {"read": ["~/a"]}})), &machine(7), &nowhere);
    assert!(matches!(homeless, Err(Refusal::Complaint(complaint)) if complaint.field == "files.read[0]"));
}

#[test]
fn probes_try_only_what_is_not_granted() {
    let all = plan(serde_json::json!({"files": {"read": ["/"]}}), &machine(7)).unwrap();
    assert!(!all.containment.probes.iter().any(|probe| matches!(probe, Probe::Read(_))));
    assert!(all.containment.probes.contains(&Probe::Write(b"/etc/passwd".to_vec())));
    let none = plan(serde_json::json!({}), &machine(7)).unwrap();
    assert!(none.containment.probes.contains(&Probe::Read(b"/etc/passwd".to_vec())));
    assert!(none.containment.probes.len() <= crate::containment::PROBES_MAX);
}

#[test]
fn root_is_warned_that_it_owns_its_files() {
    let root = Place { uid: 0, ..place() };
    let plan = Plan::new(&Profile::default(), &machine(7), &root).unwrap();
    assert!(plan.receipt.warnings[0].contains("uid 0"));
}

#[test]
fn cores_that_are_piped_need_a_limit_of_one() {
    let piped = Ability { cores_are_piped: true, ..machine(7) };
    assert_eq!(plan(serde_json::json!({}), &piped).unwrap().containment.core_bytes, Some(1));
}

fn limits(weaker: &[Protection]) -> Profile {
    Profile {
        limits: TreeLimits { memory_bytes: Some(1 << 20), cpu_percent: Some(150), pids: Some(10) },
        rlimits: vec![ProcessLimit { resource: Resource::Core, value: 0 }],
        accept_weaker: weaker.iter().copied().collect(),
        ..Profile::default()
    }
}

#[test]
fn delegated_controllers_enforce_what_was_asked_for() {
    let plan = Plan::new(&limits(&[]), &delegated(&["memory", "cpu", "pids"]), &place()).unwrap();
    assert_eq!(plan.tree, TreeLimits { memory_bytes: Some(1 << 20), cpu_percent: Some(150), pids: Some(10) });
    assert_eq!(plan.rlimits.len(), 1);
    assert_eq!(standing(&plan, Protection::Rlimits), Standing::InForce);
}

#[test]
fn a_limit_that_cannot_be_enforced_is_refused_by_name() {
    let refusal = Plan::new(&limits(&[]), &delegated(&["memory"]), &place()).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Protection { protection: Protection::Cpu, asked, .. } if asked.starts_with("150"))
    );
    assert!(refusal.to_string().contains("not delegated"), "{refusal}");
    let nowhere = Plan::new(&limits(&[]), &machine(9), &place()).unwrap_err();
    assert!(nowhere.to_string().contains("no cgroup v2"), "{nowhere}");
}

#[test]
fn accepting_weaker_gives_an_rlimit_for_memory_and_nothing_for_cpu_and_says_so() {
    let weaker = [Protection::Memory, Protection::Cpu];
    let plan = Plan::new(&limits(&weaker), &delegated(&["pids"]), &place()).unwrap();
    assert_eq!(plan.tree, TreeLimits { pids: Some(10), ..TreeLimits::default() });
    assert_eq!(standing(&plan, Protection::Memory), Standing::Weaker);
    assert_eq!(standing(&plan, Protection::Cpu), Standing::Absent);
    assert_eq!(standing(&plan, Protection::Pids), Standing::InForce);
    assert_eq!(plan.rlimits.len(), 2);
}

#[test]
fn a_system_with_nothing_refuses_by_name_and_starts_nothing_uncontained() {
    let bare = Ability { landlock_abi: 0, seccomp_filter: false, no_new_privileges: false, ..machine(0) };
    assert_eq!(refused(serde_json::json!({}), &bare), Protection::Privileges);
}

mod belt;
