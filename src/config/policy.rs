//! The policy: a file beside the configuration, read once at the start.
//!
//! What it means is the control plane's ([`rules`](kairo_controlplane::auth::rules)); here it becomes a value, or an error
//! with its place. Invariant: what decides unattended is written by who runs the kernel: a file that others can change is
//! refused.

use crate::config::raw::parse;
use crate::config::{Config, ConfigError};
use kairo_controlplane::auth::rules::{Complaint, Policy};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The policy that counts; the empty one, which leaves everything to people, if there is none.
pub(crate) fn load(config: &Config) -> Result<Policy, ConfigError> {
    config.policy.as_deref().map_or_else(|| Ok(Policy::default()), read)
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Policy, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let found = path.metadata().map_err(failed)?;
    if let Some(why) = exposed(&found, rustix::process::geteuid().as_raw()) {
        return Err(ConfigError::Exposed { path: path.to_path_buf(), why });
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let policy: Policy = parse(path, &text)?;
    policy.check().map_err(|Complaint { field, why }| ConfigError::Syntax {
        path: path.to_path_buf(),
        line: line_of(&text, &field),
        field: Some(field),
        message: why,
    })
}

/// Who else could change it.
fn exposed(found: &Metadata, uid: u32) -> Option<String> {
    let owner = found.uid();
    if owner != uid && owner != 0 {
        return Some(format!("it belongs to user {owner}"));
    }
    (found.mode() & 0o022 != 0).then(|| "others than its owner may write it".to_owned())
}

/// Where the table or the key stands that a complaint is about.
fn line_of(text: &str, field: &str) -> usize {
    let number = field.strip_prefix("rule[").and_then(|rest| rest.split(']').next());
    let mut lines = (1..).zip(text.lines().map(str::trim));
    let found = match number.and_then(|number| number.parse().ok()) {
        Some(number) => lines.filter(|(_, line)| line.starts_with("[[rule]]")).nth(number),
        None => lines.find(|(_, line)| line.starts_with(field.split('[').next().unwrap_or(field))),
    };
    found.map_or(1, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::{Flags, load as load_config};
    use std::os::unix::fs::PermissionsExt;

    fn written(text: &str) -> Result<Policy, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        read(&file).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    #[test]
    fn a_policy_that_means_nothing_is_named_with_its_line() {
        let good = "[[rule]]\nname = \"libraries\"\neffect = \"approve\"\nprincipal = \"skill:*\"\n\
            permission = \"file.read\"\nresource = \"/usr\"\n";
        assert_eq!(written(good).unwrap().rules[0].name, "libraries");
        assert_eq!(written("").unwrap(), Policy::default());
        for (text, wrong) in [
            ("[[rule]]\neffect = \"aprove\"\nprincipal = \"*\"\n", "policy.toml:2: rule.effect:"),
            ("[[rule]]\neffect = \"ask\"\nprincipal = \"*\"\nfrom = 1\n", "policy.toml:4: rule.from:"),
            ("[[rules]]\n", "policy.toml:1:"),
            (
                &format!("{good}\n[[rule]]\neffect = \"ask\"\nprincipal = \"x\"\n"),
                "policy.toml:8: rule[1].principal:",
            ),
            ("\nchildren = [\"no.such\"]\n", "policy.toml:2: children[0]:"),
        ] {
            let error = written(text).unwrap_err();
            assert!(error.starts_with(wrong), "{text}: {error}");
        }
    }

    #[test]
    fn the_policy_of_the_documentation_is_one() {
        let page = include_str!("../../docs/PERMISSIONS.md");
        let shown = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let policy = written(shown).unwrap();
        let names: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["our-indexer", "libraries", "keys", "cameras-are-for-people"]);
        assert!(policy.children.is_some());
    }

    #[test]
    fn a_policy_that_others_can_change_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, "").unwrap();
        let uid = rustix::process::geteuid().as_raw();
        for (mode, good) in [(0o644, true), (0o664, false), (0o602, false)] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(exposed(&file.metadata().unwrap(), uid).is_none(), good, "{mode:o}");
            assert_eq!(read(&file).is_ok(), good, "{mode:o}");
        }
    }

    #[test]
    fn the_policy_beside_the_configuration_counts_unless_another_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("kairo")).unwrap();
        let beside = folder.path().join("kairo/policy.toml");
        let base = folder.path().to_str().unwrap();
        let environment = Environment::pretend(1000, &[("HOME", "/nonexistent"), ("XDG_CONFIG_HOME", base)]);
        let policy = |named: Option<&str>| {
            let flags = Flags { policy: named.map(str::to_owned), ..Flags::default() };
            load_config(&flags, &environment).unwrap().policy
        };
        assert_ne!(policy(None).as_deref(), Some(beside.as_path()));
        std::fs::write(&beside, "").unwrap();
        assert_eq!(policy(None).as_deref(), Some(beside.as_path()));
        assert_eq!(policy(Some("/p.toml")).as_deref(), Some(Path::new("/p.toml")));
    }
}
