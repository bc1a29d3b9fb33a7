//! Variables a contained program is not given: what loads code into it before its first line, and what opens doors.
//!
//! By name, because names are all there is to go by. A hook is dropped whoever gave it, unless the profile names it
//! whole; a secret only where it comes from the kernel's own environment, for a request that gives one means it.

use crate::profile::Environment;
use std::collections::BTreeMap;

/// Names and values.
pub type Variables = BTreeMap<Vec<u8>, Vec<u8>>;

/// Variables by which loaders and interpreters run or load what the program didn't ask for.
const HOOKS: [&str; 42] = [
    "BASH_ENV",
    "BASH_FUNC_*",
    "CDPATH",
    "CLASSPATH",
    "DYLD_*",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GIT_ASKPASS",
    "GIT_CONFIG*",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "GLIBC_TUNABLES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LD_*",
    "LESSOPEN",
    "LOCPATH",
    "LUA_INIT*",
    "MALLOC_*",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OPENSSL_CONF",
    "PAGER",
    "PERL5*",
    "PERLLIB",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHON*",
    "RUBY*",
    "RUSTC_WRAPPER",
    "SHELLOPTS",
    "SSH_ASKPASS",
    "ZDOTDIR",
];

/// Parts of names that hold secrets, or the way to an agent that does.
const SECRETS: [&str; 12] = [
    "AUTH",
    "COOKIE",
    "CREDENTIAL",
    "DBUS_SESSION_BUS_ADDRESS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PRIVATE",
    "SECRET",
    "SESSION_TOKEN",
    "TOKEN",
    "_KEY",
];

/// Whether a name is what a pattern says, which may end with `*`.
fn is(name: &[u8], pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning.as_bytes()),
        None => name == pattern.as_bytes(),
    }
}

/// Whether a variable makes programs run or load something.
pub fn is_hook(name: &[u8]) -> bool {
    HOOKS.iter().any(|pattern| is(name, pattern))
}

/// Whether a variable looks like a secret.
pub fn is_secret(name: &[u8]) -> bool {
    let upper = String::from_utf8_lossy(name).to_ascii_uppercase();
    SECRETS.iter().any(|part| upper.contains(part))
}

impl Environment {
    fn names(&self, name: &[u8]) -> bool {
        self.allow.iter().any(|pattern| pattern.as_bytes() == name)
    }

    /// Whether a variable of the kernel's own environment may be passed on, which it wouldn't be by itself.
    pub fn lets_in(&self, name: &[u8]) -> bool {
        self.allow.iter().any(|pattern| is(name, pattern))
            && (self.names(name) || !(is_hook(name) || is_secret(name)))
    }

    /// Takes out what isn't to be there, adds what is, and returns the names of the former.
    pub fn clean(&self, variables: &mut Variables) -> Vec<String> {
        let mut withheld = Vec::new();
        variables.retain(|name, _| {
            let stays = !is_hook(name) || self.names(name);
            if !stays {
                withheld.push(String::from_utf8_lossy(name).into_owned());
            }
            stays
        });
        for (name, value) in &self.set {
            variables.insert(name.clone().into_bytes(), value.clone().into_bytes());
        }
        withheld
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Variables {
        names.iter().map(|name| ((*name).into(), b"x".to_vec())).collect()
    }

    #[test]
    fn hooks_are_taken_out_whoever_gave_them_unless_they_are_named_whole() {
        let rules = Environment { allow: vec!["LD_*".into(), "BASH_ENV".into()], ..Environment::default() };
        let mut variables =
            of(&["LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "PATH", "PYTHONSTARTUP", "NODE_OPTIONS"]);
        let withheld = rules.clean(&mut variables);
        assert_eq!(withheld, ["LD_LIBRARY_PATH", "LD_PRELOAD", "NODE_OPTIONS", "PYTHONSTARTUP"]);
        assert_eq!(variables, of(&["BASH_ENV", "PATH"]));
    }

    #[test]
    fn a_pattern_lets_in_no_secret_and_no_hook() {
        let rules = Environment { allow: vec!["*".into(), "MY_TOKEN".into()], ..Environment::default() };
        for (name, let_in) in [
            ("CARGO_HOME", true),
            ("AWS_SECRET_ACCESS_KEY", false),
            ("GITHUB_TOKEN", false),
            ("MY_TOKEN", true),
            ("OPENAI_API_KEY", false),
            ("SSH_AUTH_SOCK", false),
            ("LD_PRELOAD", false),
            ("db_password", false),
        ] {
            assert_eq!(rules.lets_in(name.as_bytes()), let_in, "{name}");
        }
        assert!(!Environment::default().lets_in(b"ANYTHING"));
    }

    #[test]
    fn what_is_set_is_set_even_if_it_is_a_hook() {
        let set = [("PYTHONPATH".to_owned(), "/opt".to_owned())].into();
        let mut variables = of(&["PYTHONPATH"]);
        Environment { set, ..Environment::default() }.clean(&mut variables);
        assert_eq!(variables[&b"PYTHONPATH"[..]], b"/opt");
    }
}
