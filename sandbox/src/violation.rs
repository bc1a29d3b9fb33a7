//! What a contained program was refused, as the operating system's audit tells it, in words.
//!
//! ```text
//!  record 1326 (a call)                              ─┐
//!  record 1423 (an access) + 1424 or 1300 (by whom)  ─┴▶ Records ─▶ Denied ─with the groups in force─▶ Violation
//! ```
//!
//! Records are text made by the kernel (audit.h: AUDIT_SECCOMP, AUDIT_LANDLOCK_ACCESS, AUDIT_LANDLOCK_DOMAIN,
//! AUDIT_SYSCALL), but for names of files and programs, which it quotes or writes in hexadecimal. Of calls they tell the
//! number, not the arguments: where several rules refuse one, all of them are named. Pure.

use crate::filter::{Architecture, Groups, refusals};
use std::collections::VecDeque;

const SECCOMP: u32 = 1326;
const LANDLOCK_ACCESS: u32 = 1423;
const LANDLOCK_DOMAIN: u32 = 1424;
const SYSCALL: u32 = 1300;
/// Domains whose first process is remembered; the oldest goes first.
const DOMAINS_MAX: usize = 4_096;
/// Longest path that is told, bytes.
const PATH_BYTES_MAX: usize = 4_096;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denied {
    /// Who was refused, or who made the sandbox it is in.
    pub pid: i32,
    /// What.
    pub what: What,
}

/// What was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// A system call, by the filter.
    Call {
        /// AUDIT_ARCH_*.
        architecture: u32,
        /// Its number there.
        number: u32,
        /// The process was ended for it.
        killed: bool,
    },
    /// An access, by the ruleset.
    Access {
        /// Which right was lacking, `fs.read_file`, `net.connect_tcp`, `scope.signal` …
        blocker: String,
        /// To which file.
        path: Option<String>,
        /// To which port.
        port: Option<u16>,
    },
    /// More than are told one by one.
    More,
}

/// What refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The filter.
    Seccomp,
    /// The ruleset.
    Landlock,
}

/// A refusal in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What refused it.
    pub mechanism: Mechanism,
    /// Which rule: groups of system calls, or a right.
    pub rule: String,
    /// On what: a system call, a path, a port.
    pub subject: String,
    /// What would have to be granted.
    pub hint: String,
}

/// Reads records one after the other.
#[derive(Debug, Default)]
pub struct Records {
    /// An access whose subject isn't known yet: serial, domain, what.
    waiting: Option<(String, String, What)>,
    domains: VecDeque<(String, i32)>,
}

impl Records {
    /// Takes a record of this type; what it, or one before it, refuses if that is complete.
    pub fn take(&mut self, kind: u32, text: &str) -> Option<Denied> {
        match kind {
            SECCOMP => call(text),
            LANDLOCK_ACCESS => {
                let (serial, domain) = (serial(text)?, field(text, "domain")?);
                let what = access(text)?;
                let known = self.domains.iter().find(|(known, _)| *known == domain).map(|(_, pid)| *pid);
                match known {
                    Some(pid) => Some(Denied { pid, what }),
                    None => {
                        self.waiting = Some((serial.to_owned(), domain.to_owned(), what));
                        None
                    }
                }
            }
            LANDLOCK_DOMAIN => {
                let domain = field(text, "domain")?;
                self.domains.retain(|(known, _)| known != domain);
                let pid = field(text, "pid")?.parse().ok()?;
                if self.domains.len() >= DOMAINS_MAX {
                    self.domains.pop_front();
                }
                self.domains.push_back((domain.to_owned(), pid));
                let (_, _, what) = self.waiting.take_if(|(_, waiting, _)| waiting == domain)?;
                Some(Denied { pid, what })
            }
            SYSCALL => {
                let (pid, serial) = (field(text, "pid")?.parse().ok()?, serial(text)?);
                let (_, _, what) = self.waiting.take_if(|(waiting, _, _)| waiting == serial)?;
                Some(Denied { pid, what })
            }
            _ => None,
        }
    }

    /// The same of a line of the kernel's log, which tells the type in words.
    pub fn take_line(&mut self, line: &str) -> Option<Denied> {
        let (_, text) = line.split_once(";audit: type=")?;
        let (kind, text) = text.split_once(' ')?;
        self.take(kind.parse().ok()?, text.trim_end())
    }
}

/// `audit(1796007803.833:52):`
fn serial(text: &str) -> Option<&str> {
    text.strip_prefix("audit(")?.split_once(')').map(|(serial, _)| serial)
}

/// The value of a name, as it is written. What others choose is quoted, or hexadecimal, so it holds no name.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn call(text: &str) -> Option<Denied> {
    let number = |name| field(text, name)?.parse::<u32>().ok();
    let hexadecimal = |name: &str| {
        let value = field(text, name)?;
        u32::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
    };
    let what = What::Call {
        architecture: hexadecimal("arch")?,
        number: number("syscall")?,
        killed: number("sig")? != 0,
    };
    Some(Denied { pid: field(text, "pid")?.parse().ok()?, what })
}

fn access(text: &str) -> Option<What> {
    // Several rights may lack at a time; the first says it.
    let blocker = field(text, "blockers")?.split(',').next()?.to_owned();
    let port = ["dest", "src"].into_iter().find_map(|name| field(text, name)?.parse().ok());
    Some(What::Access { blocker, path: quoted(text, " path="), port })
}

/// A name of somebody's choice: in quotation marks, or in hexadecimal if it has any itself.
fn quoted(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(name)?;
    let bytes = match rest.strip_prefix('"') {
        Some(rest) => rest.split('"').next()?.as_bytes().to_vec(),
        None => {
            let digits = rest.split(' ').next()?.as_bytes();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            digits.chunks(2).map(byte).collect::<Option<Vec<u8>>>()?
        }
    };
    let cut = bytes.len().min(PATH_BYTES_MAX);
    Some(String::from_utf8_lossy(&bytes[..cut]).into_owned())
}

/// What a refusal means under these groups of rules.
pub fn describe(what: &What, groups: Groups) -> Violation {
    match what {
        What::Call { architecture, number, killed } => {
            described_call(groups, *architecture, *number, *killed)
        }
        What::Access { blocker, path, port } => {
            let subject = match (path, port) {
                (Some(path), _) => path.clone(),
                (None, Some(port)) => format!("port {port}"),
                (None, None) => blocker.clone(),
            };
            let hint = granted(blocker, path.as_deref(), *port);
            Violation { mechanism: Mechanism::Landlock, rule: blocker.clone(), subject, hint }
        }
        What::More => Violation {
            mechanism: Mechanism::Seccomp,
            rule: "more".to_owned(),
            subject: "more refusals than are told one by one".to_owned(),
            hint: "look at the first ones".to_owned(),
        },
    }
}

/// Of a process that was ended by SIGSYS, when nothing more is known: the filter ends nobody for another reason, but
/// somebody may have sent it that.
pub fn killed() -> Violation {
    Violation {
        mechanism: Mechanism::Seccomp,
        rule: "architecture".to_owned(),
        subject: "a system call of another architecture (it ended by SIGSYS)".to_owned(),
        hint: "a sandbox runs this machine's own programs only, no 32-bit ones: build it for this machine"
            .to_owned(),
    }
}

fn described_call(groups: Groups, architecture: u32, number: u32, was_killed: bool) -> Violation {
    let own = Architecture::own().filter(|own| own.audit() == architecture);
    let Some(own) = own.filter(|_| !was_killed) else {
        return Violation { subject: format!("system call {number} of another architecture"), ..killed() };
    };
    let found = refusals(groups, own, number);
    let list = |of: &dyn Fn(&crate::filter::Refused) -> &str| {
        let mut all: Vec<String> = Vec::new();
        for refused in &found {
            let one = of(refused).to_owned();
            if !all.contains(&one) {
                all.push(one);
            }
        }
        all
    };
    let subject =
        found.first().map_or_else(|| format!("system call {number}"), |refused| refused.call.clone());
    match found.is_empty() {
        true => Violation {
            mechanism: Mechanism::Seccomp,
            rule: "seccomp".to_owned(),
            subject,
            hint: "the program's own filter, or a number of another interface (x32)".to_owned(),
        },
        false => Violation {
            mechanism: Mechanism::Seccomp,
            rule: list(&|refused| refused.group.name()).join(" or "),
            subject,
            hint: list(&|refused| refused.group.hint()).join("; or "),
        },
    }
}

/// What a profile would have to grant.
fn granted(blocker: &str, path: Option<&str>, port: Option<u16>) -> String {
    let list = |name: &str| format!("{name}: [{:?}]", path.unwrap_or("…"));
    let ports = |name: &str| format!("{name}: [{}]", port.map_or("…".to_owned(), |port| port.to_string()));
    match blocker {
        "fs.execute" => list("files.execute"),
        "fs.read_file" | "fs.read_dir" => list("files.read"),
        "fs.write_file" | "fs.truncate" => list("files.write"),
        "fs.refer" => format!("{} and files.delete where it comes from", list("files.create")),
        "fs.ioctl_dev" => list("devices.allow"),
        "net.connect_tcp" => ports("network.connect"),
        "net.bind_tcp" => ports("network.bind"),
        "scope.signal" => "processes.signal: \"any\"".to_owned(),
        "scope.abstract_unix_socket" => "unixSockets.any: true".to_owned(),
        "fs.resolve_unix" => list("unixSockets.paths"),
        "ptrace" => "processes.ptrace: \"any\"".to_owned(),
        making if making.starts_with("fs.make_") => list("files.create"),
        removing if removing.starts_with("fs.remove_") => list("files.delete"),
        _ => "no profile can grant it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Group;

    const CALL: &str = "audit(1796007803.833:52): auid=4294967295 uid=0 gid=0 ses=4294967295 subj=unconfined pid=5774 comm=\"a\" exe=\"/tmp/x pid=7 /a\" sig=0 arch=c000003e syscall=41 compat=0 ip=0x7fa635c4cbe7 code=0x50000";

    #[test]
    fn a_call_is_read_and_named_by_the_groups_in_force() {
        let denied = Records::default().take(1326, CALL).unwrap();
        let what = What::Call { architecture: 0xC000_003E, number: 41, killed: false };
        assert_eq!(denied, Denied { pid: 5774, what });
        let line = format!("5,52,33936710082,-;audit: type=1326 {CALL}\n");
        assert_eq!(Records::default().take_line(&line), Some(denied.clone()));
        if Architecture::own() != Some(Architecture::X86_64) {
            return;
        }
        let mut groups = Groups::default();
        groups.insert(Group::NoNetwork);
        let told = describe(&denied.what, groups);
        assert_eq!((told.rule.as_str(), told.subject.as_str()), ("no-network", "socket"));
        assert!(told.hint.contains("network.connect"), "{told:?}");
        groups.insert(Group::Families);
        assert_eq!(describe(&denied.what, groups).rule, "socket-families or no-network");
        assert_eq!(describe(&denied.what, Groups::default()).rule, "seccomp");
        let killed = CALL.replace("sig=0 arch=c000003e", "sig=31 arch=40000003");
        let denied = Records::default().take(1326, &killed).unwrap();
        assert_eq!(describe(&denied.what, groups).rule, "architecture");
    }

    #[test]
    fn an_access_is_told_once_it_is_known_whose_it_is() {
        let access = |serial: u32, path: &str| {
            format!(
                "audit(1.2:{serial}): domain=17a773d30 blockers=fs.read_file path={path} dev=\"vda\" ino=2"
            )
        };
        let mut records = Records::default();
        assert_eq!(records.take(1423, &access(62, "\"/etc/passwd\"")), None);
        let domain = "audit(1.2:62): domain=17a773d30 status=allocated mode=enforcing pid=9 uid=0 exe=\"/l\" comm=\"l\"";
        let denied = records.take(1424, domain).unwrap();
        assert_eq!(denied.pid, 9);
        let told = describe(&denied.what, Groups::default());
        assert_eq!((told.mechanism, told.subject.as_str()), (Mechanism::Landlock, "/etc/passwd"));
        assert_eq!(told.hint, "files.read: [\"/etc/passwd\"]");
        // Known from here on, and a name that isn't plain is in hexadecimal.
        let denied = records.take(1423, &access(63, "2F612062")).unwrap();
        assert_eq!(describe(&denied.what, Groups::default()).subject, "/a b");
        assert_eq!(records.take(1424, "audit(1.2:64): domain=17a773d30 status=deallocated denials=2"), None);
        // Of a domain that was there before us the call tells.
        let port = "audit(1.2:65): domain=1 blockers=net.connect_tcp daddr=127.0.0.1 dest=80";
        assert_eq!(records.take(1423, port), None);
        assert_eq!(records.take(1300, "audit(1.2:66): arch=c000003e syscall=42 pid=4"), None);
        let denied = records.take(1300, "audit(1.2:65): arch=c000003e syscall=42 ppid=3 pid=4").unwrap();
        assert_eq!(
            (denied.pid, describe(&denied.what, Groups::default()).hint.as_str()),
            (4, "network.connect: [80]")
        );
    }

    #[test]
    fn what_is_no_record_is_nothing() {
        for text in
            ["", "audit(", "audit(1:2): ", "audit(1:2): pid=x arch=1 syscall=2 sig=0", "domain=", "path=\""]
        {
            for kind in [0, 1300, 1326, 1423, 1424] {
                assert_eq!(Records::default().take(kind, text), None, "{kind} {text}");
            }
            assert_eq!(Records::default().take_line(text), None);
        }
    }
}
