//! A containment in the language of `sandbox-exec`, macOS' way to contain a program (SBPL).
//!
//! Pure, and so tested on any machine. Invariants: what isn't allowed is denied; denials stand after everything that is
//! allowed, for the last rule that matches is the one that counts; a rule is never written without what it is about,
//! which would make it about everything; no path can end the string it stands in, and one that can't be written beyond
//! doubt is refused.
//!
//! XNU compares the path a file has, links followed: so every path stands there by each name it may have, and whoever
//! applies this adds where links lead ([`Belt::follow`]). Its file systems take capitals for small letters, which the
//! comparison doesn't: so a denial is of either case.

use crate::filter::hexadecimal;
use crate::profile::Reach;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

mod text;

use text::{Rules, aliases, names};
pub use text::{check, check_denied};

/// The program that applies it.
pub const PROGRAM: &str = "/usr/bin/sandbox-exec";

/// Longest text that is handed to [`PROGRAM`], which is an argument and shares execve(2)'s one megabyte with others.
pub const TEXT_BYTES_MAX: usize = 512 * 1024;

/// What is allowed, and what of that isn't.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belt {
    /// Below which paths what may be done.
    pub allow: Vec<(Use, Vec<u8>)>,
    /// Below which paths it may not, whatever is allowed.
    pub deny: Vec<(Denial, Vec<u8>)>,
    /// The harmless devices, and the terminal it is on.
    pub devices: bool,
    /// Sockets of the internet.
    pub ports: Vec<Port>,
    /// Sockets of other families.
    pub families: bool,
    /// Who may be sent signals.
    pub signal: Ring,
    /// Who may be looked into.
    pub look: Ring,
    /// Mounts, the system's services, settings of the kernel.
    pub system: bool,
    /// Programs that give rights to whoever runs them.
    pub privileges: bool,
}

/// Something that is done with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Use {
    /// Read it, list it, map it as code.
    Read,
    /// Change what is in it.
    Write,
    /// Run it.
    Execute,
    /// Make something there.
    Create,
    /// Remove it, or move it away.
    Delete,
    /// Change its mode, owner and attributes.
    Metadata,
    /// Read, write and command it.
    Device,
    /// Connect to the unix socket.
    Connect,
    /// Listen at a unix socket.
    Listen,
}

/// Something that is not to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// To read or run it.
    Read,
    /// To change, make or remove it.
    Write,
}

/// How far something goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// To the process itself.
    #[default]
    Own,
    /// To whoever is in the same sandbox.
    Sandbox,
    /// To anybody.
    Any,
}

impl From<Reach> for Ring {
    fn from(reach: Reach) -> Ring {
        match reach {
            Reach::None => Ring::Own,
            Reach::Inside => Ring::Sandbox,
            Reach::Any => Ring::Any,
        }
    }
}

/// A port. There is no third way to name a host: it is `*` or `localhost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// To be listened on; connected to otherwise.
    pub listen: bool,
    /// Of UDP; of TCP otherwise.
    pub udp: bool,
    /// Of this machine only.
    pub local: bool,
    /// Which; none for all of them.
    pub number: Option<u16>,
}

/// What can't be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    /// A path.
    #[error("{path:?}: {why}")]
    Path {
        /// As far as it can be shown.
        path: String,
        /// Why not.
        why: &'static str,
    },
    /// All of it.
    #[error("a profile of {0} bytes, at most {TEXT_BYTES_MAX} are taken")]
    Long(usize),
}

impl Belt {
    /// Adds where paths lead. Denials follow every link; what is read, run or connected to follows those that `trusted` follows;
    /// where things are changed no link is followed, for a contained program may have left it there for the next one.
    pub fn follow(
        &mut self,
        trusted: impl Fn(&Path) -> Option<PathBuf>,
        every: impl Fn(&Path) -> Option<PathBuf>,
    ) {
        let leads = |path: &[u8], to: Option<PathBuf>| {
            to.map(|to| to.as_os_str().as_bytes().to_vec()).filter(|to| to != path)
        };
        let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let read =
            self.allow.iter().filter(|(what, _)| matches!(what, Use::Read | Use::Execute | Use::Connect));
        let allowed: Vec<_> =
            read.filter_map(|(what, from)| Some((*what, leads(from, trusted(&path(from)))?))).collect();
        let denied: Vec<_> = (self.deny.iter())
            .filter_map(|(what, from)| Some((*what, leads(from, every(&path(from)))?)))
            .collect();
        self.allow.extend(allowed);
        self.deny.extend(denied);
    }

    /// The profile.
    pub fn compile(&self) -> Result<String, Unsayable> {
        let mut rules = Rules::default();
        rules.plain("(version 1)");
        rules.plain("(deny default)");
        start(&mut rules);
        self.processes(&mut rules);
        self.files(&mut rules)?;
        self.sockets(&mut rules)?;
        self.denials(&mut rules)?;
        let text = rules.text();
        match text.len() {
            0..=TEXT_BYTES_MAX => Ok(text),
            bytes => Err(Unsayable::Long(bytes)),
        }
    }

    /// Which profile it is: SHA-256 of its text, in hexadecimal.
    pub fn digest(text: &str) -> String {
        hexadecimal(&Sha256::digest(text))
    }

    fn processes(&self, rules: &mut Rules) {
        rules.plain("(allow process-fork)");
        for (operations, ring) in [("signal", self.signal), ("process-info* mach-priv-task-port", self.look)]
        {
            let whom = match ring {
                Ring::Own => " (target self)",
                Ring::Sandbox => " (target same-sandbox)",
                Ring::Any => "",
            };
            rules.plain(&format!("(allow {operations}{whom})"));
        }
        if self.privileges {
            rules.plain("(allow forbidden-exec-sugid)");
        }
        if self.system {
            rules.plain("(allow mach-lookup)");
            rules.plain("(allow sysctl-read sysctl-write)");
            rules.plain("(allow iokit-open)");
            rules.plain("(allow ipc-posix*)");
            rules.plain("(allow file-mount file-unmount)");
        }
    }

    fn files(&self, rules: &mut Rules) -> Result<(), Unsayable> {
        if self.devices {
            devices(rules);
        }
        let mut above = BTreeSet::new();
        for what in Use::ALL {
            let mut paths = BTreeSet::new();
            for (_, path) in self.allow.iter().filter(|(with, _)| with == what) {
                paths.extend(names(check(path)?));
            }
            above.extend(paths.iter().flat_map(|path| ancestors(path)).map(str::to_owned));
            rules.about("allow", what.operations(), paths.iter().map(|path| Rules::below(path)));
        }
        // What resolves a path looks at every folder on the way.
        let looked_at = ["file-read-metadata", "file-test-existence"];
        rules.about("allow", &looked_at, above.iter().map(|path| Rules::exactly(path)));
        Ok(())
    }

    fn sockets(&self, rules: &mut Rules) -> Result<(), Unsayable> {
        if self.families {
            rules.plain("(allow system-socket)");
        }
        let ports: BTreeSet<&Port> = self.ports.iter().collect();
        for port in &ports {
            let protocol = if port.udp { "udp" } else { "tcp" };
            let host = if port.local { "localhost" } else { "*" };
            let number = port.number.map_or("*".to_owned(), |number| number.to_string());
            match port.listen {
                true => {
                    let whom = format!("(local {protocol} \"{host}:{number}\")");
                    rules.plain(&format!("(allow network-bind network-inbound {whom})"));
                }
                false => {
                    rules.plain(&format!("(allow network-outbound (remote {protocol} \"{host}:{number}\"))"))
                }
            }
        }
        // Names are looked up by a service, which is asked at a socket.
        if ports.iter().any(|port| port.udp && !port.listen) {
            let resolver = [Rules::exactly("/private/var/run/mDNSResponder")];
            rules.about("allow", &["network-outbound"], resolver.into_iter());
        }
        Ok(())
    }

    fn denials(&self, rules: &mut Rules) -> Result<(), Unsayable> {
        let (mut kept, mut above, mut unmade) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for what in [Denial::Read, Denial::Write] {
            let mut paths = BTreeSet::new();
            for (_, path) in self.deny.iter().filter(|(with, _)| *with == what) {
                paths.extend(aliases(check_denied(path)?));
            }
            rules.about(
                "deny",
                what.operations(),
                paths.iter().flat_map(|path| Rules::below_in_either_case(path)),
            );
            let parents: BTreeSet<String> =
                paths.iter().flat_map(|path| ancestors(path)).map(str::to_owned).collect();
            if what == Denial::Write {
                unmade.extend(parents.iter().cloned());
            }
            above.extend(parents);
            kept.extend(paths);
        }
        // Moved away, or below a folder that is, it would go by a name that nothing denies.
        let moved = ["file-write-unlink"];
        rules.about("deny", &moved, kept.iter().flat_map(|path| Rules::below_in_either_case(path)));
        rules.about("deny", &moved, above.iter().flat_map(|path| Rules::exactly_in_either_case(path)));
        // A folder that isn't there yet could be made elsewhere, filled, and moved here; or be a link.
        let made = ["file-write-create"];
        rules.about("deny", &made, unmade.iter().flat_map(|path| Rules::exactly_in_either_case(path)));
        Ok(())
    }
}

impl Use {
    const ALL: &[Use] = &[
        Use::Read,
        Use::Write,
        Use::Execute,
        Use::Create,
        Use::Delete,
        Use::Metadata,
        Use::Device,
        Use::Connect,
        Use::Listen,
    ];

    fn operations(self) -> &'static [&'static str] {
        match self {
            Use::Read => &["file-read*", "file-test-existence", "file-map-executable"],
            Use::Write => &["file-write-data", "file-write-times"],
            Use::Execute => &["process-exec", "file-read*", "file-test-existence", "file-map-executable"],
            Use::Create => &["file-write-create"],
            Use::Delete => &["file-write-unlink"],
            Use::Metadata => &["file-write-flags", "file-write-mode", "file-write-owner", "file-write-xattr"],
            Use::Device => &["file-read*", "file-test-existence", "file-write-data", "file-ioctl"],
            Use::Connect => &["network-outbound"],
            Use::Listen => &["network-bind", "network-inbound"],
        }
    }
}

impl Denial {
    /// Each by its own name besides the family's: it isn't known that a denied family outdoes an allowed member.
    fn operations(self) -> &'static [&'static str] {
        match self {
            Denial::Read => &[
                "file-read*",
                "file-read-data",
                "file-read-metadata",
                "file-read-xattr",
                "file-test-existence",
                "file-map-executable",
                "process-exec",
            ],
            Denial::Write => &[
                "file-write*",
                "file-write-create",
                "file-write-data",
                "file-write-flags",
                "file-write-mode",
                "file-write-owner",
                "file-write-times",
                "file-write-unlink",
                "file-write-xattr",
            ],
        }
    }
}

/// What every program needs before its first line: the loader and its libraries, what they ask of the machine, and
/// the services behind user names, logs and temporary folders. Nothing here acts for whoever asks.
fn start(rules: &mut Rules) {
    let readable = START_FOLDERS.iter().map(|path| Rules::below(path));
    rules.about("allow", &["file-read*", "file-test-existence", "file-map-executable"], readable);
    let root = [Rules::exactly("/")].into_iter();
    rules.about("allow", &["file-read*", "file-test-existence"], root);
    let about = |kind: &str, names: &[&str]| {
        names.iter().map(|name| format!("({kind} {})", text::quoted(name))).collect::<Vec<_>>().into_iter()
    };
    rules.about("allow", &["sysctl-read"], about("sysctl-name-prefix", &["hw.", "machdep.cpu."]));
    rules.about("allow", &["sysctl-read"], about("sysctl-name", &START_FACTS));
    rules.about("allow", &["mach-lookup"], about("global-name", &START_SERVICES));
    // A pair of sockets has no name that could be asked about.
    rules.plain("(allow system-socket (socket-domain AF_UNIX))");
}

/// Read by every program, whoever allows it. It is the system's and the same on every Mac of a release.
pub const START_FOLDERS: [&str; 6] = [
    "/Library/Apple",
    "/System/Cryptexes",
    "/System/Library",
    "/System/Volumes/Preboot/Cryptexes",
    "/private/var/db/dyld",
    "/usr/lib",
];

const START_FACTS: [&str; 17] = [
    "kern.argmax",
    "kern.hostname",
    "kern.iossupportversion",
    "kern.maxfilesperproc",
    "kern.maxproc",
    "kern.ngroups",
    "kern.osproductversion",
    "kern.osrelease",
    "kern.ostype",
    "kern.osvariant_status",
    "kern.osversion",
    "kern.secure_kernel",
    "kern.usrstack64",
    "kern.version",
    "machdep.ptrauth_enabled",
    "security.mac.lockdown_mode_state",
    "sysctl.proc_cputype",
];

const START_SERVICES: [&str; 6] = [
    "com.apple.bsd.dirhelper",
    "com.apple.logd",
    "com.apple.system.logger",
    "com.apple.system.notification_center",
    "com.apple.system.opendirectoryd.libinfo",
    "com.apple.system.opendirectoryd.membership",
];

fn devices(rules: &mut Rules) {
    let exactly =
        |paths: &[&str]| paths.iter().map(|path| Rules::exactly(path)).collect::<Vec<_>>().into_iter();
    let both = ["/dev/null", "/dev/tty", "/dev/zero"];
    let read = ["file-read*", "file-test-existence"];
    rules.about("allow", &read, exactly(&both).chain(exactly(&["/dev", "/dev/random", "/dev/urandom"])));
    rules.about("allow", &["file-write-data"], exactly(&both));
    // Opening one of these is dup(2).
    rules.about(
        "allow",
        &["file-read*", "file-test-existence", "file-write-data"],
        [Rules::below("/dev/fd")].into_iter(),
    );
    // Of terminals only those it was given: the others it can't open.
    let terminals = [Rules::exactly("/dev/tty"), Rules::matching("^/dev/ttys[0-9]+$")];
    rules.about("allow", &["file-ioctl"], terminals.into_iter());
}

/// Every folder a path is in, the nearest first; none for the root, which is in none.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    let parents = Path::new(path).ancestors().skip(1);
    parents.filter_map(Path::to_str)
}

#[cfg(test)]
mod tests;
