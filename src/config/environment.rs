//! The one place that reads the environment.
//!
//! Everything the program wants to know about its surroundings before it decides (variables, who it runs as,
//! whether a runtime folder exists) is read here once and handed on as a value, so that every decision in
//! [`crate::config`] is a pure function and can be tested with a pretended machine.

use crate::service;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What was there when the program started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<String, OsString>,
    /// Effective user.
    pub(crate) uid: u32,
    /// `/run/user/UID`, if it is a folder that exists.
    pub(crate) run_user: Option<PathBuf>,
}

/// Every variable the program reads, and why. `kairo config check --json` and the manual list them.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    ("KAIRO_IPC_SOCKET", "the daemon's socket (--socket)"),
    ("KAIRO_IPC_FD", "3: a connection to the kernel that a contained program was given"),
    ("KAIRO_STATE", "the daemon's state folder (--state)"),
    ("KAIRO_DRIVER", "auto, uring or poll (--driver)"),
    ("KAIRO_CORES", "reactor threads (--cores)"),
    ("KAIRO_GROUP", "group that may connect (--group)"),
    ("KAIRO_CONFIG", "configuration file (--config)"),
    ("KAIRO_LOG", "log level or filter (--log)"),
    ("KAIRO_LOG_FORMAT", "text or json (--log-format)"),
    ("KAIRO_LOG_FILE", "log file instead of stderr (--log-file)"),
    ("KAIRO_RECONNECT", "seconds a daemon that is gone is waited for, 30; 0: not at all (--no-reconnect)"),
    ("NOTIFY_SOCKET", "where a service manager is told: ready, stopping"),
    ("WATCHDOG_USEC", "how often a service manager wants a sign of life"),
    ("WATCHDOG_PID", "from which process"),
    ("LISTEN_PID", "which process a service manager passes sockets to"),
    ("LISTEN_FDS", "how many"),
    ("LISTEN_FDNAMES", "what they are called"),
    ("XDG_RUNTIME_DIR", "parent of the default socket"),
    ("XDG_CONFIG_HOME", "parent of the user's configuration"),
    ("XDG_STATE_HOME", "parent of the default state folder"),
    ("HOME", "fallback of the two above"),
    ("NO_COLOR", "no colour in tables"),
    ("TERM", "dumb: no colour in tables"),
];

/// The value of a variable that somebody named in order to pass it on to a child.
pub(crate) fn inherited(name: &str) -> Option<OsString> {
    if name.is_empty() || name.contains(['=', '\0']) { None } else { std::env::var_os(name) }
}

/// Everything, for a kernel that decides what of it its children get; what a service manager says to it is not theirs.
pub(crate) fn all() -> Vec<(Vec<u8>, Vec<u8>)> {
    let ours = |name: &OsString| service::VARIABLES.iter().any(|variable| name == variable);
    let all = std::env::vars_os().filter(|(name, _)| !ours(name));
    all.map(|(name, value)| (name.into_vec(), value.into_vec())).collect()
}

impl Environment {
    /// Reads what [`VARIABLES`] names. An empty variable counts as absent.
    pub(crate) fn read() -> Environment {
        let mut variables = BTreeMap::new();
        for (name, _) in VARIABLES {
            if let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) {
                variables.insert((*name).to_owned(), value);
            }
        }
        let uid = rustix::process::geteuid().as_raw();
        let run_user = Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|path| path.is_dir());
        Environment { variables, uid, run_user }
    }

    /// A pretended environment.
    #[cfg(test)]
    pub(crate) fn pretend(uid: u32, variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(n, v)| ((*n).to_owned(), OsString::from(v))).collect();
        Environment { variables, uid, run_user: None }
    }

    /// A variable's value as text; what is not UTF-8 is replaced, and then refused by whoever checks it.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable that names a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables.get(name).map(PathBuf::from)
    }

    /// An XDG base folder: the specification says to ignore relative ones.
    fn base(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }

    fn home(&self, below: &str) -> Option<PathBuf> {
        self.base("HOME").map(|home| home.join(below))
    }

    /// True exactly when the daemon would serve the whole machine.
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Where the state lives unless somebody says otherwise.
    pub(crate) fn default_state(&self) -> Option<PathBuf> {
        if self.is_root() {
            return Some(PathBuf::from("/var/lib/kairo"));
        }
        let parent = self.base("XDG_STATE_HOME").or_else(|| self.home(".local/state"))?;
        Some(parent.join("kairo"))
    }

    /// Where the socket is unless somebody says otherwise: `/run/kairo` for root, else `$XDG_RUNTIME_DIR/kairo`;
    /// without that variable `/run/user/UID/kairo` if the folder is there, else the state folder.
    pub(crate) fn default_socket(&self) -> Option<PathBuf> {
        if self.is_root() {
            return Some(PathBuf::from("/run/kairo/kernel.sock"));
        }
        let runtime = self.base("XDG_RUNTIME_DIR").or_else(|| self.run_user.clone());
        let folder = match runtime {
            Some(parent) => parent.join("kairo"),
            None => self.default_state()?,
        };
        Some(folder.join("kernel.sock"))
    }

    /// Configuration files in the order they are looked for; the first that exists counts.
    pub(crate) fn config_candidates(&self) -> Vec<PathBuf> {
        self.candidates("config.toml")
    }

    /// The same of the policy.
    pub(crate) fn policy_candidates(&self) -> Vec<PathBuf> {
        self.candidates("policy.toml")
    }

    fn candidates(&self, name: &str) -> Vec<PathBuf> {
        let user = self.base("XDG_CONFIG_HOME").or_else(|| self.home(".config"));
        let mut found: Vec<PathBuf> =
            user.map(|parent| parent.join("kairo").join(name)).into_iter().collect();
        found.push(Path::new("/etc/kairo").join(name));
        found
    }

    /// True exactly when colour is not unwelcome; whether the output is a terminal is another question.
    pub(crate) fn allows_colour(&self) -> bool {
        !self.variables.contains_key("NO_COLOR") && self.text("TERM").is_some_and(|term| term != "dumb")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_fixed_places_and_others_have_xdg_ones() {
        let root = Environment::pretend(0, &[("XDG_RUNTIME_DIR", "/run/user/0"), ("HOME", "/root")]);
        assert_eq!(root.default_socket(), Some(PathBuf::from("/run/kairo/kernel.sock")));
        let user = Environment::pretend(1000, &[("XDG_RUNTIME_DIR", "/run/user/1000"), ("HOME", "/home/u")]);
        assert_eq!(user.default_socket(), Some(PathBuf::from("/run/user/1000/kairo/kernel.sock")));
        assert_eq!(user.default_state(), Some(PathBuf::from("/home/u/.local/state/kairo")));
    }

    #[test]
    fn without_a_runtime_folder_the_socket_moves_to_the_state_folder() {
        let mut user =
            Environment::pretend(1000, &[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "not/absolute")]);
        assert_eq!(user.default_socket(), Some(PathBuf::from("/home/u/.local/state/kairo/kernel.sock")));
        user.run_user = Some(PathBuf::from("/run/user/1000"));
        assert_eq!(user.default_socket(), Some(PathBuf::from("/run/user/1000/kairo/kernel.sock")));
        assert_eq!(Environment::pretend(1000, &[]).default_socket(), None);
    }

    #[test]
    fn the_users_configuration_comes_before_the_machines() {
        let user = Environment::pretend(1000, &[("HOME", "/home/u")]);
        let candidates = user.config_candidates();
        assert_eq!(candidates[0], PathBuf::from("/home/u/.config/kairo/config.toml"));
        assert_eq!(candidates[1], PathBuf::from("/etc/kairo/config.toml"));
    }
}
