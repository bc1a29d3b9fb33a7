//! Manifests: what is taken and what it becomes, what is refused and by which field, and what is new against an older one.

use kairo_sandbox::manifest::refusal::{Reason, Refusal};
use kairo_sandbox::manifest::syntax::Syntax;
use kairo_sandbox::manifest::tree::{
    BYTES_MAX, DEPTH_MAX, ENTRIES_MAX, NODES_MAX, TEXT_BYTES_MAX, TOML_BYTES_MAX,
};
use kairo_sandbox::manifest::{self, Manifest, words};
use kairo_sandbox::profile::Profile;
use kairo_sandbox::protection::{Protection, Strength};
use serde_json::{Value, json};
use std::path::Path;

fn read(value: &Value) -> Result<Manifest, Refusal> {
    manifest::read(value.to_string().as_bytes(), Syntax::Json)
}

/// Ours, with these permissions.
fn ours(permissions: Value) -> Value {
    json!({"manifest": 1, "name": "x", "version": "1", "permissions": permissions})
}

/// The original's, with these.
fn theirs(permissions: Value) -> Value {
    json!({"name": "x", "version": "1", "type": "binary", "description": "d", "permissions": permissions})
}

fn file(path: &str, allow: &[&str]) -> Value {
    json!({"path": path, "allow": allow, "purpose": "p"})
}

fn refused(value: &Value) -> (String, Reason) {
    let refusal = read(value).expect_err(&value.to_string());
    (refusal.field, refusal.reason)
}

fn yaml(text: &str) -> Result<Manifest, Refusal> {
    manifest::read(text.as_bytes(), Syntax::Yaml)
}

// ---------------------------------------------------------------- what is taken

#[test]
fn every_shipped_manifest_is_in_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/manifests");
    let mut seen = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let syntax = Syntax::of_extension(path.extension().unwrap().to_str().unwrap()).unwrap();
        let manifest = manifest::read(&std::fs::read(&path).unwrap(), syntax);
        seen.push(manifest.unwrap_or_else(|refusal| panic!("{}: {refusal}", path.display())).identity.name);
    }
    seen.sort();
    assert_eq!(seen, ["ffmpeg-transcode", "git-helper", "weather-station"]);
}

#[test]
fn the_ffmpeg_manifest_is_the_profile_that_is_shipped_for_it() {
    let manifest = yaml(include_str!("../../examples/manifests/ffmpeg.yaml")).unwrap();
    let mut shipped: Profile = toml::from_str(include_str!("../../examples/profiles/ffmpeg.toml")).unwrap();
    let spell = |list: &mut Vec<String>| list.sort();
    spell(&mut shipped.files.read);
    spell(&mut shipped.files.execute);
    assert_eq!(manifest.profile(), shipped);
}

#[test]
fn ours_says_everything_a_profile_can() {
    let manifest = read(&json!({
        "manifest": 1, "name": "x", "version": "1", "type": "hybrid", "description": "d",
        "permissions": {
            "files": [file("/a", &["read", "write", "execute", "create", "delete"]),
                {"path": "/a/b", "deny": ["read", "write"], "purpose": "p"}],
            "metadata": {"purpose": "p"},
            "connect": [{"ports": [443, "8000-8002"], "purpose": "p"}],
            "listen": [{"ports": [0, 80], "purpose": "p"}],
            "loopback": [{"ports": [5432], "purpose": "p"}],
            "udp": {"purpose": "p"},
            "unixSockets": [{"path": "/run/x", "purpose": "p"}],
            "devicePaths": [{"path": "/dev/ttyUSB0", "purpose": "p"}],
            "devices": [{"request": "claim", "criteria": {"type": "camera"}, "purpose": "p"}],
            "variables": [{"name": "CARGO_*", "purpose": "p"}],
            "signal": {"reach": "any", "purpose": "p"},
            "ptrace": {"reach": "inside", "purpose": "p"},
            "calls": [{"method": "process.*", "purpose": "p"}],
            "publish": [{"pattern": "x.>", "purpose": "p"}],
            "subscribe": [{"pattern": "kairo.process.*", "purpose": "p"}],
        },
        "environment": {"A": "b"}, "basicDevices": false,
        "limits": {"memoryBytes": 1, "cpuPercent": 2, "pids": 3},
        "rlimits": [{"resource": "core", "value": 0}],
        "protections": {"ptrace": "degradable"}, "acceptWeaker": ["domains"],
    }))
    .unwrap();
    let expected: Profile = serde_json::from_value(json!({
        "files": {"read": ["/a"], "write": ["/a"], "execute": ["/a"], "create": ["/a"], "delete": ["/a"], "metadata": true,
            "denyRead": ["/a/b"], "denyWrite": ["/a/b"]},
        "network": {"connect": [443, 8000, 8001, 8002], "bind": [0, 80], "loopback": [5432], "domains": [], "udp": true},
        "unixSockets": {"paths": ["/run/x"], "any": false},
        "processes": {"signal": "any", "ptrace": "inside"},
        "devices": {"basic": false, "allow": ["/dev/ttyUSB0"]},
        "environment": {"allow": ["CARGO_*"], "set": {"A": "b"}},
        "kernel": true,
        "limits": {"memoryBytes": 1, "cpuPercent": 2, "pids": 3},
        "rlimits": [{"resource": "core", "value": 0}],
        "protections": {"ptrace": "degradable"}, "acceptWeaker": ["domains"],
    })).unwrap();
    assert_eq!(manifest.profile(), expected);
    let text: Vec<String> = words::lines(&manifest).into_iter().map(|line| line.text).collect();
    for said in [
        "read, write, run, create in, delete in /a",
        "never read or run /a/b",
        "connect to any host on ports 443, 8000-8002",
        "claim the device with type camera",
        "call process.*",
        "publish events x.>",
        "hear events kairo.process.*",
        "A is set to b",
    ] {
        assert!(text.iter().any(|line| line == said), "{said}: {text:?}");
    }
    assert!(
        read(&json!({"manifest": 1, "name": "x", "version": "1"})).unwrap().profile() == Profile::default()
    );
}

#[test]
fn the_originals_means_what_its_writer_hoped_for() {
    let manifest = read(&theirs(json!([
        {"scope": "network", "request": "connect", "criteria": {"host": "api.example.org"}},
        {"scope": "network", "request": "egress", "criteria": {"host": "*.example.com"}, "port": 8443},
        {"scope": "network", "request": "connect", "criteria": {"host": "localhost"}, "port": 5432},
        {"scope": "kernel", "request": "fs:write", "criteria": {"path": "/tmp/x/**"}, "description": "scratch"},
        {"scope": "kernel", "request": "kernel:process"},
        {"scope": "device", "request": "claim", "criteria": {"type": "camera"}},
    ]))).unwrap();
    let profile = manifest.profile();
    assert_eq!(profile.network.connect, [80, 443, 8443]);
    assert_eq!(profile.network.domains, ["*.example.com", "api.example.org"]);
    assert_eq!(profile.network.loopback, [5432]);
    assert_eq!((&profile.files.read, &profile.files.execute), (&vec!["/".to_owned()], &vec!["/".to_owned()]));
    assert_eq!(
        (&profile.files.write, &profile.files.create),
        (&vec!["/tmp/x".to_owned()], &vec!["/tmp/x".to_owned()])
    );
    // As its sandbox configuration has it: hooks of whatever is worked on stay as they are.
    assert!(profile.files.deny_write.contains(&"./.git/hooks".to_owned()));
    assert_eq!(profile.strength(Protection::DeniedPaths), Strength::Degradable);
    assert_eq!(profile.strength(Protection::Domains), Strength::Required);
    assert!(manifest.notes()[0].contains("ports"), "{:?}", manifest.notes());
    let said = words::lines(&manifest);
    assert!(said.iter().any(|line| line.text == "write, create in, delete in /tmp/x"
        && line.purpose.as_deref() == Some("scratch")));
    assert!(said.iter().any(|line| line.text == "read, run / (every file there is)"), "{said:?}");
}

// ---------------------------------------------------------------- the digest

#[test]
fn the_digest_is_of_the_meaning_and_not_of_the_text() {
    let json = r#"{"manifest": 1, "name": "x", "version": "1.0.0", "permissions": {
        "files": [{"path": "/usr", "allow": ["read", "execute"], "purpose": "p"}, {"path": "./", "allow": ["read"], "purpose": "q"}],
        "connect": [{"ports": [443, 8000, 8001], "purpose": "r"}]}, "protections": {"files": "required"}}"#;
    let yaml_text = "# said otherwise\npermissions:\n  connect: [{purpose: r, ports: ['8000-8001', 443]}]\n  files:\n  - {purpose: \"q\", path: ., allow: \
        [read]}\n  - path: /usr/\n    allow: [execute, read, read]\n    purpose: p\nversion: 1.0.0\nname: x\nmanifest: 1\n";
    let toml_text = "manifest = 1\nname = 'x'\nversion = \"1.0.0\"\nkernel = true\n[[permissions.connect]]\nports = [443]\npurpose = 'r'\n\
        [[permissions.connect]]\nports = ['8000-8001']\npurpose = 'r'\n[[permissions.files]]\npath = '/usr'\nallow = ['read']\n\
        purpose = 'p'\n[[permissions.files]]\npath = '//usr/.'\nallow = ['execute']\npurpose = 'p'\n[[permissions.files]]\npath = './'\n\
        allow = ['read']\npurpose = 'q'\n";
    let digest = manifest::read(json.as_bytes(), Syntax::Json).unwrap().digest();
    assert_eq!(digest.len(), 64);
    assert_eq!(yaml(yaml_text).unwrap().digest(), digest);
    assert_eq!(manifest::read(toml_text.as_bytes(), Syntax::Toml).unwrap().digest(), digest);
    let mut others = vec![digest];
    for (from, to) in [
        ("/usr", "/usr/lib"),
        ("8001", "8002"),
        ("\"read\", ", ""),
        ("\"r\"", "\"s\""),
        ("1.0.0", "1.0.1"),
        ("required", "off"),
        ("\"x\"", "\"y\""),
        ("443", "444"),
        ("\"ports\"", "\"host\": \"a.example.org\", \"ports\""),
    ] {
        let changed = json.replacen(from, to, 1);
        let digest = manifest::read(changed.as_bytes(), Syntax::Json).unwrap().digest();
        assert!(!others.contains(&digest), "{from} {to}");
        others.push(digest);
    }
}

// ---------------------------------------------------------------- what is refused

#[test]
fn each_field_is_refused_by_its_name() {
    let files = |rule: Value| ours(json!({"files": [file("/ok", &["read"]), rule]}));
    let connect = |rule: Value| ours(json!({"connect": [rule]}));
    for (value, field, reason) in [
        (json!([]), "", Reason::Type),
        (json!({"manifest": 2, "name": "x", "version": "1"}), "manifest", Reason::Unknown),
        (json!({"manifest": 1, "version": "1"}), "name", Reason::Missing),
        (json!({"manifest": 1, "name": "x", "version": 1}), "version", Reason::Type),
        (json!({"manifest": 1, "name": "x y", "version": "1"}), "name", Reason::Text),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "permisions": {}}),
            "permisions",
            Reason::Unknown,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "description": null}),
            "description",
            Reason::Type,
        ),
        (json!({"manifest": 1, "name": "x", "version": "1", "type": "exe"}), "type", Reason::Unknown),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "artifacts": {"binaries": {"linux-x64": "../x"}}}),
            "artifacts.binaries.linux-x64",
            Reason::Path,
        ),
        (
            files(json!({"path": "/a/../b", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Path,
        ),
        (
            files(json!({"path": "a", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Path,
        ),
        (
            files(json!({"path": "/a/*", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Path,
        ),
        (
            files(json!({"path": "", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Text,
        ),
        (
            files(json!({"path": "/a\u{7}", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Text,
        ),
        (
            files(json!({"path": "/a\u{202e}b", "allow": ["read"], "purpose": "p"})),
            "permissions.files[1].path",
            Reason::Text,
        ),
        (
            files(json!({"path": "/a", "allow": ["reed"], "purpose": "p"})),
            "permissions.files[1].allow[0]",
            Reason::Unknown,
        ),
        (
            files(json!({"path": "/a", "allow": "read", "purpose": "p"})),
            "permissions.files[1].allow",
            Reason::Type,
        ),
        (files(json!({"path": "/a", "allow": ["read"]})), "permissions.files[1].purpose", Reason::Missing),
        (
            files(json!({"path": "/a", "allow": ["read"], "purpose": " "})),
            "permissions.files[1].purpose",
            Reason::Text,
        ),
        (files(json!({"path": "/a", "purpose": "p"})), "permissions.files[1].allow", Reason::Missing),
        (
            files(json!({"path": "/a", "alow": [], "purpose": "p"})),
            "permissions.files[1].alow",
            Reason::Unknown,
        ),
        (
            files(json!({"path": "/a", "allow": ["create"], "purpose": "p"})),
            "permissions.files[1]",
            Reason::Contradiction,
        ),
        (
            files(json!({"path": "/ok", "deny": ["read"], "purpose": "p"})),
            "permissions.files[0]",
            Reason::Contradiction,
        ),
        (
            files(json!({"path": "/", "deny": ["read"], "purpose": "p"})),
            "permissions.files[0]",
            Reason::Contradiction,
        ),
        (
            connect(json!({"host": "*", "ports": [1], "purpose": "p"})),
            "permissions.connect[0].host",
            Reason::Host,
        ),
        (
            connect(json!({"host": "*.com", "ports": [1], "purpose": "p"})),
            "permissions.connect[0].host",
            Reason::Host,
        ),
        (
            connect(json!({"host": "127.0.0.1", "ports": [1], "purpose": "p"})),
            "permissions.connect[0].host",
            Reason::Host,
        ),
        (connect(json!({"ports": [65536], "purpose": "p"})), "permissions.connect[0].ports[0]", Reason::Port),
        (connect(json!({"ports": [80, 0], "purpose": "p"})), "permissions.connect[0].ports[1]", Reason::Port),
        (
            connect(json!({"ports": ["90-80"], "purpose": "p"})),
            "permissions.connect[0].ports[0]",
            Reason::Port,
        ),
        (connect(json!({"ports": [1.5], "purpose": "p"})), "permissions.connect[0].ports[0]", Reason::Type),
        (connect(json!({"ports": [], "purpose": "p"})), "permissions.connect[0].ports", Reason::Missing),
        (connect(json!({"ports": ["1-65535"], "purpose": "p"})), "permissions.connect[0]", Reason::Bound),
        (
            ours(
                json!({"connect": [{"ports": [1], "purpose": "p"}, {"host": "a.example.org", "ports": [2], "purpose": "p"}]}),
            ),
            "permissions.connect[1]",
            Reason::Contradiction,
        ),
        (
            ours(json!({"unixSockets": [{"path": "/x", "purpose": "p"}], "anyUnixSocket": {"purpose": "p"}})),
            "permissions.unixSockets[0]",
            Reason::Contradiction,
        ),
        (
            ours(json!({"calls": [{"method": "*", "purpose": "p"}]})),
            "permissions.calls[0].method",
            Reason::Text,
        ),
        (
            ours(json!({"signal": {"reach": "all", "purpose": "p"}})),
            "permissions.signal.reach",
            Reason::Unknown,
        ),
        (ours(json!({"udp": true})), "permissions.udp", Reason::Type),
        (
            ours(json!({"variables": [{"name": "A*B", "purpose": "p"}]})),
            "permissions.variables[0].name",
            Reason::Text,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "protections": {"flies": "off"}}),
            "protections.flies",
            Reason::Unknown,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "protections": {"files": "off"}, "acceptWeaker": ["files"]}),
            "acceptWeaker",
            Reason::Contradiction,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "limits": {"pids": 0}}),
            "limits.pids",
            Reason::Profile,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "limits": {"pids": -1}}),
            "limits.pids",
            Reason::Type,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "rlimits": [{"resource": "core", "value": 0}, {"resource": "core", "value": 1}]}),
            "rlimits[1]",
            Reason::Duplicate,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "kernel": false, "permissions": {"calls": [{"method": "a.b", "purpose": "p"}]}}),
            "permissions.calls[0]",
            Reason::Contradiction,
        ),
        (
            json!({"manifest": 1, "name": "x", "version": "1", "environment": {"A": "b"}, "permissions": {"variables": [{"name": "A", "purpose": "p"}]}}),
            "permissions.variables[0]",
            Reason::Contradiction,
        ),
    ] {
        assert_eq!(refused(&value), (field.to_owned(), reason), "{value}");
    }
}

#[test]
fn each_field_of_the_originals_is_refused_by_its_name() {
    for (rule, field, reason) in [
        (
            json!({"scope": "network", "request": "connect", "criteria": {"host": "Api.example.org"}}),
            "criteria.host",
            Reason::Host,
        ),
        (
            json!({"scope": "network", "request": "connect", "criteria": {"host": "аpi.example.org"}}),
            "criteria.host",
            Reason::Host,
        ),
        (json!({"scope": "network", "request": "connect", "criteria": {}}), "criteria.host", Reason::Missing),
        (json!({"scope": "network", "request": "connect"}), "criteria.host", Reason::Missing),
        (
            json!({"scope": "network", "request": "connect", "criteria": {"host": "a.example.org", "hots": "b"}}),
            "criteria.hots",
            Reason::Unknown,
        ),
        (
            json!({"scope": "network", "request": "connect", "criteria": {"host": "a.example.org"}, "port": 0}),
            "port",
            Reason::Port,
        ),
        (
            json!({"scope": "network", "request": "conect", "criteria": {"host": "a.example.org"}}),
            "request",
            Reason::Unknown,
        ),
        (json!({"scope": "network", "request": "listen"}), "port", Reason::Missing),
        (json!({"scope": "net", "request": "connect"}), "scope", Reason::Unknown),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": "data"}}),
            "criteria.path",
            Reason::Path,
        ),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": "/a/../etc"}}),
            "criteria.path",
            Reason::Path,
        ),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": 7}}),
            "criteria.path",
            Reason::Type,
        ),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": "/a"}, "port": 1}),
            "port",
            Reason::Unknown,
        ),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": "./.git/hooks"}}),
            "",
            Reason::Contradiction,
        ),
        (json!({"scope": "device", "request": "claim"}), "criteria", Reason::Missing),
        (json!({"request": "claim"}), "scope", Reason::Missing),
        (
            json!({"scope": "kernel", "request": "fs:write", "criteria": {"path": "/a"}, "extra": 1}),
            "extra",
            Reason::Unknown,
        ),
    ] {
        let ok = json!({"scope": "kernel", "request": "process"});
        let field =
            if field.is_empty() { "permissions[1]".to_owned() } else { format!("permissions[1].{field}") };
        assert_eq!(refused(&theirs(json!([ok, rule]))), (field, reason), "{rule}");
    }
    assert_eq!(refused(&json!({"name": "x", "version": "1"})), ("type".to_owned(), Reason::Missing));
    assert_eq!(
        refused(&json!({"name": "x", "version": "1", "type": "binary", "permissions": {}})),
        ("permissions".to_owned(), Reason::Type)
    );
}

#[test]
fn a_hundred_thousand_rules_are_refused_by_the_name_of_their_list() {
    let rules: Vec<Value> = (0..100_000).map(|number| file(&format!("/a/{number}"), &["read"])).collect();
    assert_eq!(refused(&ours(json!({ "files": rules }))), ("permissions.files".to_owned(), Reason::Bound));
    let rule = |number: usize| json!({"scope": "network", "request": "connect", "criteria": {"host": format!("h{number}.example.org")}});
    let rules: Vec<Value> = (0..100_000).map(rule).collect();
    assert_eq!(refused(&theirs(json!(rules))), ("permissions".to_owned(), Reason::Bound));
    let mut text = String::from("manifest: 1\nname: x\nversion: '1'\npermissions:\n  files:\n");
    (0..100_000)
        .for_each(|number| text.push_str(&format!("  - {{path: /a/{number}, allow: [read], purpose: p}}\n")));
    assert_eq!(yaml(&text).unwrap_err().field, "permissions.files");
    let mut text = String::from("manifest = 1\nname = 'x'\nversion = '1'\n");
    (0..100_000).for_each(|number| text.push_str(&format!("[[permissions.files]]\npath = '/a/{number}'\n")));
    assert_eq!(manifest::read(text.as_bytes(), Syntax::Toml).unwrap_err().field, "permissions.files");
    // Within each list's bound, and together not.
    let many = |count: usize| {
        (0..count).map(|number| file(&format!("/a/{number}"), &["read", "write"])).collect::<Vec<_>>()
    };
    assert!(read(&ours(json!({"files": many(ENTRIES_MAX / 2)}))).is_ok());
    assert_eq!(
        refused(&ours(json!({"files": many(ENTRIES_MAX / 2 + 1)}))),
        (format!("permissions.files[{}]", ENTRIES_MAX / 2), Reason::Bound)
    );
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_before_it_grows() {
    let long = vec![b' '; BYTES_MAX + 1];
    assert_eq!(manifest::read(&long, Syntax::Yaml).unwrap_err().reason, Reason::Bound);
    assert_eq!(
        refused(&ours(json!({"files": [file(&"/a".repeat(4_000), &["read"])]}))),
        ("permissions.files[0].path".to_owned(), Reason::Bound)
    );
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [20, 100, 100_000] {
            let text = format!("{{\"name\": {}1{}}}", open.repeat(depth), close.repeat(depth));
            for syntax in [Syntax::Json, Syntax::Yaml] {
                let refusal = manifest::read(text.as_bytes(), syntax).unwrap_err();
                assert!(matches!(refusal.reason, Reason::Bound | Reason::Syntax), "{refusal}");
            }
        }
        let toml = format!("name = {}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(manifest::read(toml.as_bytes(), Syntax::Toml).is_err());
    }
    // What a scanner would keep whole, at two hundred times its length.
    let bracket = format!("a: [{}]", "b: c,\n ".repeat(1 << 20));
    assert_eq!(yaml(&bracket).unwrap_err().reason, Reason::Bound);
    let numbers = format!("a = [{}]", "1,".repeat(1 << 20));
    assert_eq!(manifest::read(numbers.as_bytes(), Syntax::Toml).unwrap_err().reason, Reason::Bound);
    let dashes = format!("name: {}x", "\n- ".repeat(50_000));
    assert!(yaml(&dashes).is_err());
    let indented: String = (0..3_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(yaml(&indented).is_err());
}

#[test]
fn yaml_has_no_second_meaning() {
    let head = "manifest: 1\nname: x\nversion: '1'\n";
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    for (text, field) in [
        (bomb.to_owned(), "a"),
        (format!("{head}description: !!str x\n"), "description"),
        (format!("{head}description: &d x\n"), "description"),
        (format!("{head}description: *d\n"), "description"),
        (format!("{head}<<: {{description: x}}\n"), ""),
        (format!("{head}--- \nmanifest: 1\n"), ""),
        (format!("{head}name: y\n"), "name"),
        (format!("{head}description:\n"), "description"),
        (format!("{head}description: ~\n"), "description"),
        (format!("{head}kernel: yes\n"), "kernel"),
        (format!("{head}kernel: 'true'\n"), "kernel"),
        (format!("{head}limits: {{pids: 010}}\n"), "limits.pids"),
        (format!("{head}limits: {{pids: 0x10}}\n"), "limits.pids"),
        (format!("{head}limits: {{pids: 1e1}}\n"), "limits.pids"),
        (format!("{head}limits: {{pids: 99999999999999999999}}\n"), "limits.pids"),
        (format!("{head}? [a]\n: b\n"), ""),
        ("manifest: 1\nname: x\nversion: 1.0\n".to_owned(), "version"),
        (String::new(), ""),
        ("\u{feff}\u{0}".to_owned(), ""),
        ("just words".to_owned(), ""),
    ] {
        assert_eq!(yaml(&text).expect_err(&text).field, field, "{text}");
    }
    assert_eq!(
        yaml(&format!("{head}description: no\n")).unwrap().identity.description.as_deref(),
        Some("no")
    );
    assert_eq!(yaml(&format!("--- \n{head}...\n")).unwrap().identity.name, "x");
}

#[test]
fn keys_stand_once_in_every_syntax() {
    let json = br#"{"manifest": 1, "name": "x", "version": "1", "permissions": {"udp": {"purpose": "a", "purpose": "b"}}}"#;
    let refusal = manifest::read(json, Syntax::Json).unwrap_err();
    assert_eq!((refusal.field.as_str(), refusal.reason), ("permissions.udp.purpose", Reason::Duplicate));
    assert!(manifest::read(b"name = 'x'\nname = 'y'\n", Syntax::Toml).is_err());
    assert!(
        manifest::read(b"{} {}", Syntax::Json).is_err() && manifest::read(b"\xff", Syntax::Json).is_err()
    );
    assert!(
        manifest::read(b"version = 1979-05-27\nname = 'x'\ntype = 'binary'", Syntax::Toml)
            .unwrap_err()
            .field
            .starts_with("version")
    );
    // A key is shown without what isn't seen, or isn't shown.
    let refusal = manifest::read("{\"na\\u202eme\": 1}".as_bytes(), Syntax::Json).unwrap_err();
    assert!(refusal.field.is_ascii() && refusal.field.contains("202e"), "{refusal}");
}

// ---------------------------------------------------------------- what is new

/// What the second reaches beyond the first.
fn new(older: &Value, newer: &Value) -> Vec<String> {
    let (older, newer) = (read(older).expect("in order"), read(newer).expect("in order"));
    newer.beyond(&older).into_iter().map(|line| line.text).collect()
}

fn new_permissions(older: Value, newer: Value) -> Vec<String> {
    new(&ours(older), &ours(newer))
}

#[test]
fn only_what_was_out_of_reach_is_new() {
    let files = |rules: &[Value]| json!({ "files": rules });
    let deny = |path: &str, what: &[&str]| json!({"path": path, "deny": what, "purpose": "p"});
    let none: [&str; 0] = [];
    assert_eq!(new_permissions(files(&[file("/a", &["read"])]), files(&[file("/a/b", &["read"])])), none);
    assert_eq!(new_permissions(files(&[file("/", &["read"])]), files(&[file("~/x", &["read"])])), none);
    assert_eq!(
        new_permissions(files(&[file("/a/b", &["read"])]), files(&[file("/a", &["read"])])),
        ["read /a"]
    );
    assert_eq!(
        new_permissions(files(&[file("/a", &["read"])]), files(&[file("/ab", &["read"])])),
        ["read /ab"]
    );
    assert_eq!(
        new_permissions(files(&[file("/a", &["read"])]), files(&[file("/a", &["read", "write"])])),
        ["write /a"]
    );
    assert_eq!(
        new_permissions(files(&[file("/home/u", &["read"])]), files(&[file("~/", &["read"])])),
        ["read ~/ (the whole home folder)"]
    );
    // A denial that is gone, or covers less, is reach.
    let denied = files(&[file("/a", &["read", "write"]), deny("/a/b", &["read", "write"])]);
    assert_eq!(new_permissions(denied.clone(), denied.clone()), none);
    assert_eq!(
        new_permissions(denied.clone(), files(&[file("/a", &["read"])])),
        ["read /a/b, which was denied"]
    );
    assert_eq!(new_permissions(denied.clone(), files(&[file("/a/c", &["read"])])), none);
    assert_eq!(
        new_permissions(denied.clone(), files(&[file("/a/b/c", &["read"])])),
        ["read /a/b, which was denied"]
    );
    let less = files(&[file("/a", &["read", "write"]), deny("/a/b", &["read"]), deny("/a/b/c", &["write"])]);
    assert_eq!(new_permissions(denied.clone(), less.clone()), ["write /a/b, which was denied"]);
    assert_eq!(new_permissions(less, denied), none);
}

#[test]
fn a_host_a_port_and_what_they_had_together() {
    let connect = |rules: Value| json!({ "connect": rules });
    let rule = |host: &str, ports: Value| json!({"host": host, "ports": ports, "purpose": "p"});
    let any = |ports: Value| json!({"ports": ports, "purpose": "p"});
    let none: [&str; 0] = [];
    let narrow = connect(json!([rule("a.example.org", json!([443]))]));
    assert_eq!(
        new_permissions(narrow.clone(), connect(json!([rule("b.example.org", json!([443]))]))),
        ["connect to b.example.org on ports 443"]
    );
    assert_eq!(
        new_permissions(connect(json!([rule("*.example.org", json!([443, 80]))])), narrow.clone()),
        none
    );
    assert_eq!(
        new_permissions(narrow.clone(), connect(json!([rule("*.example.org", json!([443]))]))),
        ["connect to *.example.org on ports 443"]
    );
    // Hosts that are no longer named are all hosts.
    assert_eq!(
        new_permissions(narrow.clone(), connect(json!([any(json!([443]))]))),
        ["connect to any host on ports 443"]
    );
    assert_eq!(new_permissions(connect(json!([any(json!([443]))])), narrow), none);
    // What one host had on one port isn't another's.
    let two = connect(json!([rule("a.example.org", json!([443])), rule("b.example.org", json!([22]))]));
    assert_eq!(
        new_permissions(two, connect(json!([rule("a.example.org", json!([22, 443]))]))),
        ["connect to a.example.org on ports 22"]
    );
    let wide = |ports: &str| connect(json!([any(json!([ports]))]));
    assert_eq!(new_permissions(wide("8000-8010"), wide("8002-8009")), none);
    assert_eq!(
        new_permissions(wide("8000-8010"), wide("7999-8012")),
        ["connect to any host on ports 7999, 8011-8012"]
    );
    let port = |name: &str| json!({name: [{"ports": [80], "purpose": "p"}]});
    assert_eq!(
        new_permissions(port("listen"), port("loopback")),
        ["connect and be reached within this machine on ports 80"]
    );
    assert_eq!(new_permissions(port("loopback"), port("listen")), ["be reached from anywhere on ports 80"]);
}

#[test]
fn what_holds_it_less_is_new_too() {
    let with = |extra: Value| {
        let mut manifest = ours(json!({}));
        manifest.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        manifest
    };
    let plain = with(json!({}));
    for (older, newer, said) in [
        (json!({"kernel": false}), json!({}), "a connection to the kernel"),
        (json!({"basicDevices": false}), json!({}), "null, zero, full, random, urandom and its terminal"),
        (json!({"environment": {"A": "b"}}), json!({"environment": {"A": "c"}}), "A is set to c"),
        (
            json!({"limits": {"pids": 4}}),
            json!({"limits": {"pids": 5}}),
            "processes and threads: 5, up from 4",
        ),
        (json!({"limits": {"pids": 4}}), json!({}), "processes and threads: any number, up from 4"),
        (
            json!({"rlimits": [{"resource": "core", "value": 0}]}),
            json!({}),
            "bytes of core file: any number, up from 0",
        ),
        (
            json!({}),
            json!({"protections": {"files": "off"}}),
            "files: off. Nothing keeps it from: Reading, writing, executing, creating and deleting files outside the folders allowed.",
        ),
        (json!({}), json!({"acceptWeaker": ["domains"]}), "domains: weaker is accepted"),
        (
            json!({"permissions": {"signal": {"reach": "none", "purpose": "p"}}}),
            json!({}),
            "send signals to what it has started itself",
        ),
        (
            json!({}),
            json!({"permissions": {"ptrace": {"reach": "any", "purpose": "p"}}}),
            "look into every process its user may",
        ),
        (
            json!({}),
            json!({"permissions": {"calls": [{"method": "process.*", "purpose": "p"}]}}),
            "call process.*",
        ),
        (
            json!({"permissions": {"publish": [{"pattern": "a.*", "purpose": "p"}]}}),
            json!({"permissions": {"publish": [{"pattern": "a.>", "purpose": "p"}]}}),
            "publish events a.>",
        ),
        (
            json!({"permissions": {"devices": [{"request": "claim", "criteria": {"type": "camera", "id": "a"}, "purpose": "p"}]}}),
            json!({"permissions": {"devices": [{"request": "claim", "criteria": {"type": "camera"}, "purpose": "p"}]}}),
            "claim the device with type camera",
        ),
        (
            json!({"permissions": {"variables": [{"name": "*", "purpose": "p"}]}}),
            json!({"permissions": {"variables": [{"name": "MY_TOKEN", "purpose": "p"}]}}),
            "see MY_TOKEN of the kernel's environment",
        ),
        (
            json!({"artifacts": {"binaries": {"linux-x64": "a"}}}),
            json!({"artifacts": {"binaries": {"linux-x64": "b"}}}),
            "b on linux-x64",
        ),
    ] {
        assert_eq!(new(&with(older.clone()), &with(newer.clone())), [said], "{older} {newer}");
        let back = new(&with(newer.clone()), &with(older.clone()));
        assert!(!back.iter().any(|line| line == said), "{back:?}");
    }
    assert!(new(&plain, &plain).is_empty());
}

#[test]
fn the_schema_knows_every_field_and_takes_no_other() {
    let schema = manifest::schema();
    assert_eq!(schema["additionalProperties"], false);
    for field in ["manifest", "name", "version", "permissions", "environment", "acceptWeaker", "rlimits"] {
        assert!(schema["properties"].get(field).is_some(), "{field}");
    }
    assert_eq!(schema["required"], json!(["manifest", "name", "version"]));
    // What isn't there is left out: none is no value here.
    assert!(!schema.to_string().contains("null\""), "{schema}");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let permissions = &schema["$defs"]["Permissions"];
    assert_eq!(permissions["additionalProperties"], false);
    for field in ["files", "connect", "anyUnixSocket", "devicePaths", "subscribe"] {
        assert!(permissions["properties"].get(field).is_some(), "{field}");
    }
}

#[test]
fn the_document_says_what_is_so() {
    let document = include_str!("../../docs/MANIFEST.md");
    let blocks: Vec<&str> =
        document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 1);
    for block in blocks {
        let manifest = yaml(block).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert!(manifest.asks().any(|ask| ask.is_the_kernels()) && manifest.notes().is_empty());
    }
    for reason in [
        Reason::Syntax,
        Reason::Bound,
        Reason::Duplicate,
        Reason::Unknown,
        Reason::Missing,
        Reason::Type,
        Reason::Text,
        Reason::Path,
        Reason::Host,
        Reason::Port,
        Reason::Contradiction,
        Reason::Profile,
    ] {
        let name = serde_json::to_value(reason).unwrap();
        assert!(document.contains(&format!("| `{}` |", name.as_str().unwrap())), "{reason:?}");
    }
    let bounds = format!(
        "more than {} MiB ({} MiB of TOML; a quarter of that in one bracket of YAML), {ENTRIES_MAX} entries of a list, \
         {ENTRIES_MAX} permissions or ports in all, {NODES_MAX} values, {DEPTH_MAX} levels, {TEXT_BYTES_MAX} bytes",
        BYTES_MAX >> 20,
        TOML_BYTES_MAX >> 20
    );
    assert!(document.contains(&bounds), "{bounds}");
}

// ---------------------------------------------------------------- a network of its own

#[test]
fn a_network_of_its_own_is_the_profiles_and_goes_with_no_other() {
    let private = json!({"privateNetwork": {"purpose": "its workers talk to each other"}});
    let manifest = read(&ours(private.clone())).unwrap();
    let network = manifest.profile().network;
    assert!(network.private && network.connect.is_empty() && !network.udp);
    let texts: Vec<String> = words::lines(&manifest).into_iter().map(|line| line.text).collect();
    assert!(
        texts.contains(&"talk to itself on a network of its own, which reaches nobody else".to_owned()),
        "{texts:?}"
    );
    let plain = read(&ours(json!({}))).unwrap();
    assert_ne!(manifest.digest(), plain.digest());
    assert_eq!((manifest.beyond(&plain).len(), plain.beyond(&manifest).len()), (1, 0));
    for (shared, rule) in [
        ("connect", json!([{"ports": [443], "purpose": "p"}])),
        ("listen", json!([{"ports": [0], "purpose": "p"}])),
        ("loopback", json!([{"ports": [7700], "purpose": "p"}])),
        ("udp", json!({"purpose": "p"})),
    ] {
        let mut both = private.clone();
        both[shared] = rule;
        assert_eq!(
            refused(&ours(both)),
            ("permissions.privateNetwork".to_owned(), Reason::Contradiction),
            "{shared}"
        );
    }
    assert_eq!(refused(&ours(json!({"privateNetwork": true}))).0, "permissions.privateNetwork");
    let schema = manifest::schema().to_string();
    assert!(schema.contains("privateNetwork"));
}
