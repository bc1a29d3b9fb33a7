//! A Mac, pretended: what its sandbox says, what it can't, and by which name that is refused.

use super::*;
use crate::seatbelt::{Belt, Denial, Port, Ring, Use};

fn mac() -> Ability {
    Ability { system: "macOS".into(), sandbox_exec: true, ..Ability::none() }
}

/// With what no Mac can enforce whole accepted.
fn accepting(mut json: serde_json::Value, more: &[&str]) -> serde_json::Value {
    json["acceptWeaker"] = [&["ptrace", "systemCalls", "terminal"], more].concat().into();
    json
}

fn belt(json: serde_json::Value, more: &[&str]) -> Belt {
    plan(accepting(json, more), &mac()).unwrap().containment.belt.unwrap()
}

#[test]
fn every_protection_is_listed_once_and_what_is_not_whole_is_named() {
    let plan = plan(accepting(serde_json::json!({}), &[]), &mac()).unwrap();
    let listed: Vec<Protection> = plan.receipt.entries.iter().map(|entry| entry.protection).collect();
    assert_eq!(listed, Protection::ALL);
    let weaker: Vec<&str> = (plan.receipt.entries.iter())
        .filter(|entry| entry.standing == Standing::Weaker)
        .map(|entry| entry.protection.name())
        .collect();
    assert_eq!(weaker, ["ptrace", "systemCalls", "terminal"]);
    assert!(plan.receipt.entries.iter().all(|entry| entry.standing != Standing::Absent));
    let files = plan.receipt.of(Protection::Files).unwrap();
    assert_eq!((files.standing, files.by.as_slice()), (Standing::InForce, &[Mechanism::SandboxExec][..]));
    assert!(plan.receipt.warnings.iter().any(|warning| warning.contains("/usr/lib")));
    let containment = plan.containment;
    assert!(containment.landlock.is_none() && containment.filter.is_empty() && !containment.unprivileged);
    assert!(containment.probes.is_empty() && containment.core_bytes == Some(0) && containment.kernel);
    let nothing = Belt { devices: true, signal: Ring::Sandbox, ..Belt::default() };
    assert_eq!(containment.belt, Some(nothing));
}

#[test]
fn what_a_mac_cannot_say_is_refused_by_name_as_elsewhere() {
    let mac = mac();
    let refused_but = |json: serde_json::Value| refused(accepting(json, &[]), &mac);
    assert_eq!(refused(serde_json::json!({}), &mac), Protection::Ptrace);
    assert_eq!(refused(serde_json::json!({"acceptWeaker": ["ptrace"]}), &mac), Protection::SystemCalls);
    let two = serde_json::json!({"acceptWeaker": ["ptrace", "systemCalls"]});
    assert_eq!(refused(two, &mac), Protection::Terminal);
    assert_eq!(refused_but(serde_json::json!({"limits": {"memoryBytes": 1 << 30}})), Protection::Memory);
    assert_eq!(refused_but(serde_json::json!({"limits": {"cpuPercent": 50}})), Protection::Cpu);
    assert_eq!(refused_but(serde_json::json!({"limits": {"pids": 5}})), Protection::Pids);
    assert_eq!(
        refused_but(serde_json::json!({"network": {"domains": ["example.org"]}})),
        Protection::Domains
    );
    assert_eq!(refused_but(serde_json::json!({"network": {"loopback": [80]}})), Protection::Loopback);
    assert_eq!(refused_but(serde_json::json!({"network": {"bind": [0]}})), Protection::Ports);
    let root = Place { uid: 0, ..place() };
    let refusal = Plan::new(&profile(accepting(serde_json::json!({}), &[])), &mac, &root).unwrap_err();
    assert!(matches!(refusal, Refusal::Protection { protection: Protection::Privileges, .. }));
    let accepted = accepting(serde_json::json!({"limits": {"memoryBytes": 7}}), &["memory"]);
    assert_eq!(standing(&plan(accepted, &mac).unwrap(), Protection::Memory), Standing::Weaker);
}

#[test]
fn every_list_is_what_it_allows_and_denies() {
    let belt = belt(
        serde_json::json!({
            "files": {
                "read": ["/r"], "write": ["./w"], "execute": ["/x"], "create": ["~/c"], "delete": ["/d"],
                "metadata": true, "denyRead": ["/r/no"], "denyWrite": ["./w/no"]
            },
            "unixSockets": {"paths": ["/s"]},
            "devices": {"basic": false, "allow": ["/dev/y"]}
        }),
        &[],
    );
    let allowed = [
        (Use::Read, "/r"),
        (Use::Metadata, "/place/p/w"),
        (Use::Write, "/place/p/w"),
        (Use::Execute, "/x"),
        (Use::Create, "/people/u/c"),
        (Use::Delete, "/d"),
        (Use::Device, "/dev/y"),
        (Use::Connect, "/s"),
        (Use::Listen, "/people/u/c"),
    ];
    assert_eq!(belt.allow, allowed.map(|(what, path)| (what, path.as_bytes().to_vec())));
    assert_eq!(belt.deny, [(Denial::Read, b"/r/no".to_vec()), (Denial::Write, b"/place/p/w/no".to_vec())]);
    assert!(!belt.devices);
}

#[test]
fn ports_are_those_listed_of_any_machine_or_of_this_one() {
    let tcp = |listen, local, number: u16| Port { listen, udp: false, local, number: Some(number) };
    let network =
        |network: serde_json::Value, more: &[&str]| belt(serde_json::json!({"network": network}), more).ports;
    assert_eq!(network(serde_json::json!({}), &[]), []);
    assert_eq!(
        network(serde_json::json!({"connect": [443], "bind": [80], "loopback": [5]}), &["loopback"]),
        [tcp(false, false, 443), tcp(true, false, 80), tcp(false, true, 5), tcp(true, true, 5)]
    );
    let chosen = network(serde_json::json!({"bind": [0]}), &["ports"]);
    assert_eq!(chosen, [Port { number: None, ..tcp(true, false, 0) }]);
    let udp = network(serde_json::json!({"udp": true}), &[]);
    assert!(udp.len() == 2 && udp.iter().all(|port| port.udp && port.number.is_none()));
}

#[test]
fn what_is_off_is_open_and_nothing_else_is() {
    let off = |name: &str| belt(serde_json::json!({"protections": {name: "off"}}), &[]);
    let files = off("files");
    assert!(files.allow.contains(&(Use::Write, b"/".to_vec())));
    // Denied by a protection of its own.
    assert!(!files.allow.iter().any(|(what, _)| *what == Use::Metadata));
    assert_eq!(off("unixSockets").allow, [(Use::Connect, b"/".to_vec())]);
    assert_eq!(off("signals").signal, Ring::Any);
    assert_eq!(off("ptrace").look, Ring::Any);
    assert!(off("systemCalls").system && off("privileges").privileges);
    let network = off("network");
    assert!(network.families && network.ports.iter().all(|port| port.udp));
    let all: serde_json::Map<String, serde_json::Value> =
        Protection::ALL.iter().map(|protection| (protection.name().to_owned(), "off".into())).collect();
    let nothing = plan(serde_json::json!({"protections": all}), &mac()).unwrap();
    assert_eq!(nothing.containment.belt, None);
    assert!(nothing.receipt.warnings.is_empty());
}

#[test]
fn a_path_that_cannot_be_written_is_refused_by_its_field() {
    let field = |json: serde_json::Value| match plan(accepting(json, &[]), &mac()) {
        Err(Refusal::Complaint(complaint)) => complaint.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(serde_json::json!({"files": {"read": ["/a", "/a\nb"]}})), "files.read[1]");
    assert_eq!(field(serde_json::json!({"files": {"denyWrite": ["/a\u{1}"]}})), "files.denyWrite[0]");
    assert_eq!(field(serde_json::json!({"unixSockets": {"paths": ["/a\u{7f}"]}})), "unixSockets.paths[0]");
    let long = format!("/{}", "a".repeat(400));
    assert_eq!(field(serde_json::json!({"files": {"denyRead": [long]}})), "files.denyRead[0]");
}

#[test]
fn a_denied_path_that_cannot_be_told_is_weaker_by_name_only() {
    let denied = serde_json::json!({"files": {"denyRead": ["~/.ssh", "/secret"]}});
    let nowhere = Place { home: None, ..place() };
    let refusal = Plan::new(&profile(accepting(denied.clone(), &[])), &mac(), &nowhere).unwrap_err();
    assert!(matches!(refusal, Refusal::Protection { protection: Protection::DeniedPaths, .. }));
    let plan = Plan::new(&profile(accepting(denied, &["deniedPaths"])), &mac(), &nowhere).unwrap();
    assert_eq!(standing(&plan, Protection::DeniedPaths), Standing::Weaker);
    assert_eq!(plan.containment.belt.unwrap().deny, [(Denial::Read, b"/secret".to_vec())]);
}

#[test]
fn the_receipt_names_the_profile_by_its_digest() {
    use crate::containment::Finding;
    let Plan { containment, mut receipt, .. } = plan(accepting(serde_json::json!({}), &[]), &mac()).unwrap();
    assert_eq!(&Belt::digest("")[..16], "e3b0c44298fc1c14");
    let profile = Some(("ab".repeat(32), 1_234));
    receipt.complete(&containment, &Finding { profile, ..Finding::default() });
    let text = receipt.to_string();
    assert!(
        text.starts_with("macOS, no Landlock, sandbox-exec profile abababababababab (1234 bytes)\n"),
        "{text}"
    );
    assert!(text.contains("[sandboxExec]"), "{text}");
}
