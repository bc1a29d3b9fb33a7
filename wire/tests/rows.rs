//! The tables: nothing missing, nothing twice, nothing that contradicts itself.

#![expect(clippy::unwrap_used, reason = "a test that can not go on fails where it stands")]

use kairo_wire::codec::encode::{Dialect, to_buf};
use kairo_wire::codec::raw::RawRef;
use kairo_wire::error::{Code, ERRORS};
use kairo_wire::event::{EVENTS, Shape};
use kairo_wire::limits::LIMITS;
use kairo_wire::method::{METHODS, Method, MethodRow, missing, params, row};
use kairo_wire::methods::{
    agent, audit, consumer, device, event, identity, intent, log, open, permission, pipeline, process,
    publish, quota, stream, system, usage, view,
};
use kairo_wire::permission::{PERMISSIONS, PermissionScope};
use kairo_wire::{introspect, json};
use std::collections::BTreeSet;

fn all_different<'a>(names: impl IntoIterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for name in names {
        assert!(seen.insert(name), "{name} is there twice");
    }
}

#[test]
fn no_name_is_there_twice() {
    all_different(METHODS.iter().map(|row| row.name));
    all_different(EVENTS.iter().copied().flatten().map(|row| row.topic));
    all_different(ERRORS.iter().map(|row| row.name));
    all_different(PERMISSIONS.iter().map(|row| row.name));
    all_different(LIMITS.iter().map(|row| row.name));
}

#[test]
fn every_v1_method_is_there() {
    for name in [
        "system.get_metrics",
        "process.spawn",
        "process.kill",
        "process.pause",
        "process.resume",
        "process.stdin.write",
        "process.wait",
        "process.status",
        "process.stdout.subscribe",
        "process.stdout.unsubscribe",
        "subscribe",
        "unsubscribe",
        "identify",
        "device.list",
        "vault.get",
    ] {
        assert_eq!(row(name).unwrap_or_else(|| panic!("{name}")).since.name(), "v1");
    }
    assert_eq!(METHODS.iter().filter(|row| row.since.name() == "v1").count(), 15);
}

/// The example of a method is what the method takes.
fn example<M: Method>() {
    let raw = json::from_text(M::ROW.example).unwrap_or_else(|error| panic!("{}: {error}", M::NAME));
    params::<M>(raw.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", M::NAME));
}

#[test]
fn every_example_is_a_call_that_makes_sense() {
    let checked: &[(&MethodRow, fn())] = &[
        (system::Hello::ROW, example::<system::Hello>),
        (system::Ping::ROW, example::<system::Ping>),
        (system::Introspect::ROW, example::<system::Introspect>),
        (system::Cancel::ROW, example::<system::Cancel>),
        (system::Doctor::ROW, example::<system::Doctor>),
        (system::Shutdown::ROW, example::<system::Shutdown>),
        (system::GetMetrics::ROW, example::<system::GetMetrics>),
        (process::Spawn::ROW, example::<process::Spawn>),
        (process::Kill::ROW, example::<process::Kill>),
        (process::Signal::ROW, example::<process::Signal>),
        (process::Pause::ROW, example::<process::Pause>),
        (process::Resume::ROW, example::<process::Resume>),
        (process::StdinWrite::ROW, example::<process::StdinWrite>),
        (process::StdinClose::ROW, example::<process::StdinClose>),
        (process::Resize::ROW, example::<process::Resize>),
        (process::Wait::ROW, example::<process::Wait>),
        (process::Status::ROW, example::<process::Status>),
        (process::List::ROW, example::<process::List>),
        (stream::Subscribe::ROW, example::<stream::Subscribe>),
        (stream::Unsubscribe::ROW, example::<stream::Unsubscribe>),
        (stream::Configure::ROW, example::<stream::Configure>),
        (stream::ConfigureReader::ROW, example::<stream::ConfigureReader>),
        (open::Open::ROW, example::<open::Open>),
        (open::Close::ROW, example::<open::Close>),
        (open::OpenStdin::ROW, example::<open::OpenStdin>),
        (event::Subscribe::ROW, example::<event::Subscribe>),
        (event::Unsubscribe::ROW, example::<event::Unsubscribe>),
        (event::Publish::ROW, example::<event::Publish>),
        (event::PublishBatch::ROW, example::<event::PublishBatch>),
        (event::Replay::ROW, example::<event::Replay>),
        (intent::Begin::ROW, example::<intent::Begin>),
        (intent::End::ROW, example::<intent::End>),
        (intent::List::ROW, example::<intent::List>),
        (intent::Status::ROW, example::<intent::Status>),
        (intent::Timeline::ROW, example::<intent::Timeline>),
        (intent::Cancel::ROW, example::<intent::Cancel>),
        (intent::Register::ROW, example::<intent::Register>),
        (intent::Release::ROW, example::<intent::Release>),
        (event::Request::ROW, example::<event::Request>),
        (log::Compact::ROW, example::<log::Compact>),
        (log::LogStatus::ROW, example::<log::LogStatus>),
        (consumer::Create::ROW, example::<consumer::Create>),
        (consumer::Attach::ROW, example::<consumer::Attach>),
        (consumer::Ack::ROW, example::<consumer::Ack>),
        (consumer::Nak::ROW, example::<consumer::Nak>),
        (consumer::List::ROW, example::<consumer::List>),
        (consumer::Status::ROW, example::<consumer::Status>),
        (consumer::Delete::ROW, example::<consumer::Delete>),
        (view::Define::ROW, example::<view::Define>),
        (view::Drop::ROW, example::<view::Drop>),
        (view::Rebuild::ROW, example::<view::Rebuild>),
        (view::List::ROW, example::<view::List>),
        (view::Get::ROW, example::<view::Get>),
        (view::Changes::ROW, example::<view::Changes>),
        (view::Watch::ROW, example::<view::Watch>),
        (identity::Identify::ROW, example::<identity::Identify>),
        (identity::VaultGet::ROW, example::<identity::VaultGet>),
        (device::List::ROW, example::<device::List>),
        (permission::Request::ROW, example::<permission::Request>),
        (permission::Pending::ROW, example::<permission::Pending>),
        (permission::Approve::ROW, example::<permission::Approve>),
        (permission::Deny::ROW, example::<permission::Deny>),
        (permission::Give::ROW, example::<permission::Give>),
        (permission::Grants::ROW, example::<permission::Grants>),
        (permission::Revoke::ROW, example::<permission::Revoke>),
        (permission::Can::ROW, example::<permission::Can>),
        (agent::Create::ROW, example::<agent::Create>),
        (agent::Remove::ROW, example::<agent::Remove>),
        (agent::List::ROW, example::<agent::List>),
        (agent::SessionCreate::ROW, example::<agent::SessionCreate>),
        (agent::SessionEnd::ROW, example::<agent::SessionEnd>),
        (quota::Status::ROW, example::<quota::Status>),
        (audit::AuditQuery::ROW, example::<audit::AuditQuery>),
        (audit::AuditStatus::ROW, example::<audit::AuditStatus>),
        (audit::AuditVerify::ROW, example::<audit::AuditVerify>),
        (audit::AuditExport::ROW, example::<audit::AuditExport>),
        (audit::AuditCheckpoint::ROW, example::<audit::AuditCheckpoint>),
        (audit::AuditPrune::ROW, example::<audit::AuditPrune>),
        (usage::Usage::ROW, example::<usage::Usage>),
        (pipeline::Spawn::ROW, example::<pipeline::Spawn>),
        (pipeline::Status::ROW, example::<pipeline::Status>),
        (pipeline::Wait::ROW, example::<pipeline::Wait>),
        (pipeline::Kill::ROW, example::<pipeline::Kill>),
        (pipeline::List::ROW, example::<pipeline::List>),
        (publish::Publish::ROW, example::<publish::Publish>),
    ];
    let names: Vec<&str> = checked.iter().map(|(row, _)| row.name).collect();
    assert_eq!(names, METHODS.iter().map(|row| row.name).collect::<Vec<_>>(), "this table follows METHODS");
    for (_, check) in checked {
        check();
    }
}

#[test]
fn every_required_parameter_is_in_the_schema_and_missing_without_it() {
    let description = introspect::description();
    for (row, described) in METHODS.iter().zip(description["methods"].as_array().unwrap()) {
        let schema = resolve(&description, &described["params"]);
        for need in row.required {
            let known = [Some(need.name), need.alias];
            for name in known.into_iter().flatten() {
                assert!(schema["properties"][name].is_object(), "{}: {name} is not in the schema", row.name);
            }
        }
        let lacking = missing(row, RawRef::new(b"\x80").unwrap());
        assert_eq!(lacking.is_some(), !row.required.is_empty(), "{}", row.name);
        // What the schema requires, the row names.
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap();
            assert!(
                row.required.iter().any(|need| need.name == name),
                "{}: {name} is not in the row",
                row.name
            );
        }
    }
}

fn resolve<'a>(description: &'a serde_json::Value, schema: &'a serde_json::Value) -> &'a serde_json::Value {
    match schema["$ref"].as_str() {
        Some(reference) => description.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

#[test]
fn every_row_says_something() {
    for row in METHODS {
        assert!(row.doc.trim().ends_with('.'), "{}", row.name);
    }
    for row in EVENTS.iter().copied().flatten() {
        assert!(row.doc.trim().ends_with('.'), "{}", row.topic);
        assert_eq!(row.shape == Shape::Bus, row.topic.starts_with("kairo."), "{}", row.topic);
    }
    for row in ERRORS {
        assert!(row.doc.trim().ends_with('.') && row.name.starts_with("E_"), "{}", row.name);
        assert_eq!(Code::from_name(row.name), Some(row.code));
    }
}

#[test]
fn every_permission_is_needed_by_some_method_or_granted() {
    for permission in PERMISSIONS {
        if permission.scope == PermissionScope::Granted {
            assert!(METHODS.iter().all(|row| row.permission != permission.permission), "{}", permission.name);
            continue;
        }
        assert!(METHODS.iter().any(|row| row.permission == permission.permission), "{}", permission.name);
    }
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let description = introspect::description();
    let mut todo = vec![&description];
    let mut references = 0;
    while let Some(value) = todo.pop() {
        if let Some(reference) = value.get("$ref").and_then(|reference| reference.as_str()) {
            assert!(description.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
            references += 1;
        }
        todo.extend(value.as_array().into_iter().flatten());
        todo.extend(value.as_object().into_iter().flat_map(|object| object.values()));
    }
    assert!(references > 20);
}

#[test]
fn the_description_is_the_same_in_both_dialects() {
    // It is written once and sent to everybody, so it must hold no integer that v1 clients can't read.
    let description = introspect::description();
    let (mut v1, mut int64) = (Default::default(), Default::default());
    to_buf(&mut v1, Dialect::V1, &description).unwrap();
    to_buf(&mut int64, Dialect::Int64, &description).unwrap();
    assert_eq!(v1, int64);
    assert_eq!(introspect::all().bytes(), &v1[..]);
}

#[test]
fn one_method_is_described_with_the_definitions_it_needs() {
    let raw = introspect::method("process.spawn").unwrap();
    let value = json::to_value(raw.as_ref()).unwrap();
    assert_eq!(value["name"], "process.spawn");
    assert!(value["$defs"]["SpawnOptions"]["properties"]["pty"].is_object());
    assert!(value["$defs"]["TerminalSize"].is_object(), "definitions of definitions too");
    assert!(value["$defs"].get("HelloResult").is_none());
    assert!(introspect::method("process.nothing").is_none());
    for row in METHODS {
        assert!(introspect::method(row.name).is_some());
    }
}

#[test]
fn no_two_types_share_a_name() {
    // schemars numbers the second of two types with one name; documentation would show `Foo2`.
    let description = introspect::description();
    for name in description["$defs"].as_object().unwrap().keys() {
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}");
    }
}

#[test]
fn what_is_sensitive_is_told_or_tells_itself() {
    // There is no vault yet; the others are told as what they do.
    let silent = ["vault.get", "intent.cancel", "event.compact"];
    for row in METHODS.iter().filter(|row| row.is_sensitive() && !silent.contains(&row.name)) {
        assert!(row.is_told(), "{} leaves nothing to be audited", row.name);
    }
    assert!(
        ["process.spawn", "kernel.shutdown", "audit.prune"]
            .iter()
            .all(|name| row(name).unwrap().is_sensitive())
    );
    assert!(!row("event.publish").unwrap().is_sensitive());
}
