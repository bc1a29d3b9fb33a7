//! Attacks from inside, each a test of its own, as root and as a user where root runs the tests, on both drivers.
//!
//! An attack must fail under the whole profile and succeed once its protection is off: a test whose attack fails anyway
//! holds nothing. Where it doesn't succeed even uncontained (a system call this kernel lacks, a right nobody has) that
//! is said, and only the first half is held.

use super::arena::{Arena, NOBODY};
use crate::support::{Daemon, is_root};
use serde_json::{Value as Json, json};

/// Who can do it at all.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum By {
    Anybody,
    Root,
}

pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) argv: &'static [&'static str],
    /// What has to be off for it to succeed.
    pub(super) off: &'static [&'static str],
    /// What the profile allows besides, so that the attack gets as far as its protection.
    pub(super) with: fn() -> Json,
    /// Of the spawn.
    pub(super) options: fn() -> Json,
    pub(super) by: By,
    /// Whether this machine can do what it is held against.
    pub(super) can: fn(&str) -> bool,
}

pub(super) fn nothing() -> Json {
    json!({})
}

/// TCP to a port nobody listens on: so there are sockets.
fn some_tcp() -> Json {
    json!({"network": {"connect": [1]}})
}

fn any_unix() -> Json {
    json!({"unixSockets": {"any": true}})
}

pub(super) fn proc() -> Json {
    json!({"files": {"read": ["/usr", "/lib", "/lib64", "/bin", "/proc"]}})
}

fn hooked() -> Json {
    json!({"env": {"LD_PRELOAD": "libnothing.so"}})
}

fn terminal() -> Json {
    json!({"pty": true})
}

// For root the capabilities too: what it would look into has them.
pub(super) const LANDLOCK: &[&str] =
    &["files", "truncate", "deviceCommands", "signals", "abstractSockets", "privileges"];
const LANDLOCK_AND_PTRACE: &[&str] =
    &["files", "truncate", "deviceCommands", "signals", "abstractSockets", "ptrace", "privileges"];
const FILTERS: &[&str] =
    &["metadata", "network", "ports", "unixSockets", "abstractSockets", "ptrace", "systemCalls", "terminal"];
const CALLS_AND_PRIVILEGES: &[&str] = &["systemCalls", "privileges", "files", "truncate", "deviceCommands"];

impl Attack {
    pub(super) fn run(&self, daemon: &Daemon) {
        if !(self.can)(self.name) {
            return;
        }
        let mut users = vec![None];
        if is_root() && self.by == By::Anybody {
            users.push(Some(NOBODY));
        }
        if !is_root() && self.by == By::Root {
            return println!("skipped, needs root: {}", self.name);
        }
        for uid in users {
            self.run_as(daemon, uid);
        }
    }

    fn run_as(&self, daemon: &Daemon, uid: Option<u32>) {
        let test = format!("{}-{}", self.name, uid.unwrap_or_default());
        let Some(arena) = Arena::new(daemon, uid, &test) else { return };
        let mut raw = daemon.connect_modern();
        let (whole, options) = (arena.profile(&(self.with)()), (self.options)());
        let mut without = whole.clone();
        for protection in self.off {
            without["protections"][*protection] = json!("off");
        }
        let said = arena.attempt(&mut raw, self.argv, Some(whole), &options);
        assert!(said.contains("LOST") && !said.contains("WON"), "{test}, contained: {said}");
        if !arena.attempt(&mut raw, self.argv, None, &options).contains("WON") {
            return println!("half held, it doesn't succeed uncontained either: {test}");
        }
        let said = arena.attempt(&mut raw, self.argv, Some(without), &options);
        assert!(said.contains("WON"), "{test}, with {:?} off: {said}", self.off);
    }
}

macro_rules! attacks {
    ($($name:ident: $argv:expr, off $off:expr $(, with $with:expr)? $(, options $options:expr)? $(, by $by:expr)? $(, if $can:expr)?;)+) => {
        mod attack {
            $(#[allow(unused_assignments, unused_mut)] pub(super) fn $name(daemon: &crate::support::Daemon) {
                use super::*;
                let mut attack = Attack {
                    name: stringify!($name), argv: &$argv, off: $off, with: nothing, options: nothing, by: By::Anybody,
                    can: crate::sandbox::arena::can_contain,
                };
                $(attack.with = $with;)?
                $(attack.options = $options;)?
                $(attack.by = $by;)?
                $(attack.can = $can;)?
                attack.run(daemon);
            })+
        }
        use attack::*;
        crate::support::on_both_drivers!($($name),+);
    };
}

pub(super) use attacks;

attacks! {
    reading_a_file_outside: ["read", "{secret}"], off &["files"];
    listing_a_folder_outside: ["list", "{folder}"], off &["files"];
    writing_a_file_outside: ["write", "{secret}"], off &["files"];
    making_a_file_outside: ["create", "{outside}"], off &["files"];
    making_a_folder_outside: ["mkdir", "{outside}"], off &["files"];
    truncating_a_file_outside: ["truncate", "{secret}"], off &["files", "truncate"];
    removing_a_file_outside: ["unlink", "{secret}"], off &["files"];
    moving_a_file_out: ["rename", "{own}", "{outside}"], off &["files"];
    moving_a_file_in: ["rename", "{secret}", "{inside}"], off &["files"];
    linking_to_a_file_outside: ["link", "{secret}", "{inside}"], off &["files"];
    reading_through_a_link_of_its_own: ["symlink", "{secret}", "{inside}"], off &["files"];
    executing_a_file_outside: ["exec", "{tool}"], off &["files"];
    changing_the_mode_of_a_file_outside: ["chmod", "{secret}"], off &["metadata"];
    changing_the_owner_of_a_file_outside: ["chown", "{secret}"], off &["metadata"];
    making_a_device: ["mknod", "{inside}"], off CALLS_AND_PRIVILEGES, by By::Root;

    tracing_a_process_outside: ["ptrace", "{victim}"], off LANDLOCK_AND_PTRACE;
    reading_the_memory_of_a_process_outside: ["readmem", "{victim}", "1"], off LANDLOCK_AND_PTRACE;
    reading_the_environment_of_a_process_outside: ["environ", "{victim}"], off LANDLOCK, with proc;
    signalling_a_process_outside: ["signal", "{victim}"], off &["signals"];
    limiting_a_process_outside: ["limit", "{victim}"], off &["ptrace"];

    a_tcp_socket: ["socket", "2", "1", "0"], off &["network"];
    a_tcp_socket_of_version_6: ["socket", "10", "1", "0"], off &["network"];
    a_packet_socket: ["socket", "17", "3", "0"], off &["network", "privileges"], by By::Root;
    a_raw_socket: ["socket", "2", "3", "1"], off &["network", "privileges"], with some_tcp, by By::Root;
    a_netlink_socket_that_is_not_of_routes: ["socket", "16", "3", "9"], off &["network"];
    a_socket_to_virtual_machines: ["socket", "40", "1", "0"], off &["network"];
    a_socket_of_the_kernels_ciphers: ["socket", "38", "5", "0"], off &["network"];
    a_unix_socket: ["unix", "{listener}"], off &["unixSockets"];
    an_abstract_socket_outside: ["abstract", "{abstract}"], off &["unixSockets", "abstractSockets"];
    the_kernels_own_socket: ["unix", "{kernel}"], off &["unixSockets"], by By::Root;
    a_port_that_is_not_listed: ["connect", "{tcp}"], off &["ports"], with some_tcp;
    a_port_that_is_not_listed_by_fast_open: ["fastopen", "{tcp}"], off &["ports"], with some_tcp;
    a_port_that_is_not_listed_by_mptcp: ["mptcp", "{tcp}"], off &["network"], with some_tcp;
    listening_on_a_port_that_is_not_listed: ["bind", "0"], off &["ports"], with some_tcp;
    listening_without_a_port: ["listen"], off &["ports"], with some_tcp;
    udp_that_is_not_granted: ["udp", "{udp}"], off &["network"], with some_tcp;

    a_ring_of_io_uring: ["ring"], off &["systemCalls"];
    a_32_bit_entry: ["int80"], off FILTERS;
    an_x32_entry: ["x32"], off FILTERS;
    a_clone_whose_flags_nobody_sees: ["clone3"], off &["systemCalls"];
    a_user_namespace_by_clone: ["clone-user"], off &["systemCalls"];
    a_user_namespace: ["unshare-user"], off &["systemCalls"];
    a_mount_namespace: ["unshare-mount"], off &["systemCalls", "privileges"], by By::Root;
    a_mount: ["mount", "{folder}"], off CALLS_AND_PRIVILEGES, by By::Root;
    another_root: ["chroot", "/usr"], off &["systemCalls", "privileges"], by By::Root;
    a_key_in_a_shared_ring: ["keyctl"], off &["systemCalls"];
    a_program_in_the_kernel: ["bpf"], off &["systemCalls", "privileges"], by By::Root;
    watching_the_machine: ["perf"], off &["systemCalls", "privileges"];
    stopping_the_kernel_in_a_copy: ["userfaultfd"], off &["systemCalls"];
    shared_memory_of_system_v: ["sysv"], off &["systemCalls"];
    typing_into_its_terminal: ["terminal"], off &["terminal", "privileges"], options terminal;
    a_loaders_hook_in_its_environment: ["environment", "LD_PRELOAD"], off &["environment"], options hooked;
}

/// No profile opens these, so there is nothing to take away.
fn nothing_is_open_but_what_it_was_given(daemon: &Daemon) {
    let Some(arena) = Arena::new(daemon, None, "nothing_is_open_but_what_it_was_given") else { return };
    let mut raw = daemon.connect_modern();
    let said = arena.attempt(&mut raw, &["descriptors"], Some(arena.profile(&nothing())), &nothing());
    assert!(said.contains("LOST"), "{said}");
}

/// Whoever may use unix sockets finds the kernel behind its own, and is known there for what it is.
fn its_kernel_knows_it_however_it_comes(daemon: &Daemon) {
    let name = "its_kernel_knows_it_however_it_comes";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let kairo = arena.install(super::arena::kairo(), "kairo");
    let mut raw = daemon.connect_modern();
    let socket = daemon.socket.to_str().expect("text");
    for by in [format!("--socket {socket}"), String::new()] {
        let script = format!(
            "{kairo} {by} shutdown; {kairo} {by} kill victim-{name}-0; {kairo} {by} call kernel.hello"
        );
        let sandbox = arena.profile(&any_unix());
        let id = format!("by-{}", by.len());
        let output =
            raw.run(&id, &["sh", "-c", &script], json!({"cwd": "/", "stderr": "stdout", "sandbox": sandbox}));
        raw.ok("kernel.ping", json!({}));
        assert!(!output.text().contains("\"owner\""), "{}", output.text());
    }
}

/// As many as are granted, and no more.
fn a_bomb_of_forks_within_a_limit(daemon: &Daemon) {
    let name = "a_bomb_of_forks_within_a_limit";
    let Some(arena) = Arena::new(daemon, None, name) else { return };
    let mut raw = daemon.connect_modern();
    let limited = arena.profile(&json!({"limits": {"pids": 16}}));
    let command = ["true"];
    let wish = json!({"id": "probe", "command": command, "options": {"cwd": "/", "sandbox": limited}});
    if let Err(refusal) = raw.call("process.spawn", wish) {
        assert_eq!(refusal.info["details"]["protection"], "pids", "{refusal:?}");
        return println!(
            "skipped, no controller is delegated here, and the spawn was refused for it: {name}"
        );
    }
    let said = arena.attempt(&mut raw, &["forks", "64"], Some(limited), &nothing());
    assert!(said.contains("LOST 11"), "{said}");
    let said = arena.attempt(&mut raw, &["forks", "64"], Some(arena.profile(&nothing())), &nothing());
    assert!(said.contains("WON"), "{said}");
}

mod also {
    use super::{
        a_bomb_of_forks_within_a_limit, its_kernel_knows_it_however_it_comes,
        nothing_is_open_but_what_it_was_given,
    };
    crate::support::on_both_drivers!(
        nothing_is_open_but_what_it_was_given,
        its_kernel_knows_it_however_it_comes,
        a_bomb_of_forks_within_a_limit,
    );
}
