//! The keeper with real children, over its lanes as a kernel uses them.
//!
//! A keeper is this very program executed again, so the file brings its own `main`: with `keeper` as first
//! argument it is one, else it runs the tests whose names contain the first argument that isn't a flag.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod keeping;

use kairo_dataplane::command::{
    CgroupLimits, Credentials, HistorySize, Placement, ProgramCheck, Scope, Spawn, StderrTarget, StdinSource,
    Stdio, TerminalSize,
};
use kairo_dataplane::control::{ExitStatus, SpawnFailure, SpawnStage, Tree};
use kairo_dataplane::keeper::link::{self, CgroupUse, Launch, OnKernelLoss, Output};
use kairo_dataplane::keeper::protocol::{
    End, ProtocolError, VERSION_AWAITS, VERSION_FRAMES, VERSION_HOLDS, VERSION_MIN, VERSION_PRODUCES,
};
use kairo_dataplane::keeper::settlement::{Inheritance, settle};
use kairo_dataplane::keeper::successor::Estate;
use kairo_dataplane::key::Channel;
use kairo_dataplane::sys::{process as system, socket};
use kairo_sandbox::ability::Ability;
use kairo_sandbox::containment::Containment;
use kairo_sandbox::plan::{Place, Plan};
use kairo_sandbox::profile::Profile;
use kairo_shm::inbox::{Inbox, Parcel, Standing};
use kairo_shm::layout::Geometry;
use kairo_shm::writer::Writer;
use keeping::{Kernel, command, eventually, pid_is_gone, read_to_end, sh, shell_pid};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == "keeper") {
        std::process::exit(kairo_dataplane::keeper::main::run(arguments));
    }
    keeping::run(&TESTS);
}

macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as fn())),*] };
}

const TESTS: [(&str, fn()); 56] = tests![
    an_exit_code_is_told,
    a_child_is_named_by_pid_and_start_time,
    a_death_by_signal_is_told_apart_from_a_code,
    usage_is_what_the_child_used,
    output_comes_whole_and_its_end_is_seen,
    stdin_arrives_and_ends_when_both_duplicates_are_closed,
    a_missing_program_fails_at_exec,
    a_program_that_is_not_executable_fails_at_exec,
    a_folder_is_no_program,
    a_script_without_interpreter_line_is_not_given_to_a_shell,
    a_bad_working_folder_fails_at_cwd,
    two_megabytes_of_argument_are_too_much,
    a_deleted_program_fails_and_leaves_nothing,
    the_search_goes_on_past_a_denied_candidate,
    strings_with_nul_never_leave_the_kernel,
    the_environment_is_exactly_what_was_given,
    descriptors_are_limited_as_they_were_before_the_kernel_raised_its_own,
    a_child_has_three_descriptors,
    a_child_starts_with_default_signals_and_none_blocked,
    rlimits_are_set_and_a_refused_one_is_named,
    a_child_stays_on_its_cores_and_a_core_that_is_not_there_is_named,
    a_terminal_controls_the_child_and_has_its_size,
    stderr_can_go_into_stdout,
    only_an_embedded_keeper_lends_its_stdin,
    a_double_forker_belongs_to_its_session,
    killing_a_tree_reaches_a_double_forker,
    signals_that_come_together_reach_every_tree_whole,
    a_tree_that_ignores_term_is_killed,
    a_paused_tree_is_killed,
    term_continues_a_paused_tree,
    a_leader_that_is_gone_leaves_its_tree_running,
    a_signal_to_an_ended_process_reaches_nobody,
    two_hundred_children_at_once,
    nothing_leaks_over_hundreds_of_processes,
    a_keeper_without_kernel_ends_all_trees,
    shutdown_ends_everything,
    the_last_news_arrive_behind_requests_that_were_never_read,
    a_held_keeper_hands_over_everything,
    a_successor_becomes_the_kernel_and_is_told_what_nobody_was,
    a_keeper_of_the_version_before_is_taken_over_too,
    what_a_client_writes_by_is_held_handed_over_and_let_go_once,
    a_producer_is_nobodys_parent,
    what_a_client_writes_ends_with_the_first_kernel_that_knows_nothing_of_it,
    what_a_client_wrote_last_is_left_in_a_file_too,
    what_is_held_is_handed_to_whoever_has_a_word_for_it,
    what_nobody_came_for_is_left_in_a_file_and_begun_from,
    a_file_that_is_bent_or_newer_is_not_begun_from,
    another_user_is_become_or_refused,
    what_an_old_landlock_lacks_is_mounted_instead,
    mounts_hide_nothing_from_where_a_child_stands_already,
    limits_without_a_cgroup_are_refused_or_weakened,
    a_cgroup_holds_a_tree_exactly,
    limits_are_enforced_by_a_cgroup_where_controllers_are_delegated,
    what_was_looked_at_starts_like_any_other,
    what_stands_still_takes_signals_like_any_other,
    a_keeper_that_ends_takes_along_what_stands_still,
];

fn an_exit_code_is_told() {
    let mut kernel = Kernel::start();
    for code in [0, 1, 42, 255] {
        let process = kernel.spawn(sh(&format!("exit {code}"))).unwrap().process;
        assert_eq!(kernel.exited(process).0, ExitStatus::Code(code));
        kernel.ended(process);
    }
}

fn a_child_is_named_by_pid_and_start_time() {
    let mut kernel = Kernel::start();
    for _ in 0..200 {
        let spawned = kernel.spawn(command(&["cat"])).unwrap();
        let stat = kairo_dataplane::sys::process::stat(spawned.pid).unwrap();
        assert_eq!(stat.start_ticks, spawned.start_ticks);
        kernel.signal(spawned.process, libc::SIGKILL, Scope::Leader).unwrap();
        kernel.forget(spawned.process);
    }
}

fn a_death_by_signal_is_told_apart_from_a_code() {
    let mut kernel = Kernel::start();
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGPIPE] {
        let process = kernel.spawn(sh(&format!("kill -{signal} $$"))).unwrap().process;
        assert_eq!(kernel.exited(process).0, ExitStatus::Signal { signal, core: false });
    }
    let process = kernel.spawn(sh("exit 137")).unwrap().process;
    assert_eq!(kernel.exited(process).0, ExitStatus::Code(137));
}

fn usage_is_what_the_child_used() {
    let mut kernel = Kernel::start();
    let busy = kernel.spawn(sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")).unwrap().process;
    let busy = kernel.exited(busy).1;
    assert!(busy.user_us > 1_000, "{busy:?}");
    assert!(busy.max_rss_kib > 100 && busy.minor_faults > 10, "{busy:?}");
    let sleeper = kernel.spawn(sh("read x")).unwrap();
    kernel.signal(sleeper.process, libc::SIGKILL, Scope::Tree).unwrap();
    assert!(kernel.exited(sleeper.process).1.user_us < busy.user_us);
}

fn output_comes_whole_and_its_end_is_seen() {
    let mut kernel = Kernel::start();
    let spawned = kernel.spawn(sh("head -c 3000000 /dev/zero; echo done >&2")).unwrap();
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert!(stdout.bytes >= 65_536, "{}", stdout.bytes);
    assert_eq!(read_to_end(&stdout.fd).len(), 3_000_000);
    assert_eq!(read_to_end(&spawned.stderr.unwrap().fd), b"done\n");
    kernel.ended(spawned.process);
}

fn stdin_arrives_and_ends_when_both_duplicates_are_closed() {
    let mut kernel = Kernel::start();
    let spawned = kernel.spawn(command(&["cat"])).unwrap();
    let stdin = spawned.stdin.unwrap();
    rustix::io::write(&stdin.fd, b"hello").unwrap();
    drop(stdin);
    kernel.close_channel(spawned.process, End::Stdin);
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"hello");
    assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(0));
}

fn fails(kernel: &mut Kernel, argv: &[&str]) -> SpawnFailure {
    kernel.spawn(command(argv)).unwrap_err()
}

fn at_exec(errno: i32) -> SpawnFailure {
    SpawnFailure { stage: SpawnStage::Exec, errno }
}

fn a_missing_program_fails_at_exec() {
    let mut kernel = Kernel::start();
    assert_eq!(fails(&mut kernel, &["no-such-program-anywhere"]), at_exec(libc::ENOENT));
    assert_eq!(fails(&mut kernel, &["/no/such/program"]), at_exec(libc::ENOENT));
    assert_eq!(fails(&mut kernel, &[""]), at_exec(libc::ENOENT));
    assert_eq!(fails(&mut kernel, &["/etc/passwd/x"]), at_exec(libc::ENOTDIR));
}

fn a_program_that_is_not_executable_fails_at_exec() {
    let mut kernel = Kernel::start();
    assert_eq!(fails(&mut kernel, &["/etc/passwd"]), at_exec(libc::EACCES));
}

fn a_folder_is_no_program() {
    let mut kernel = Kernel::start();
    assert_eq!(fails(&mut kernel, &["/usr"]), at_exec(libc::EACCES));
}

fn script(folder: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn a_script_without_interpreter_line_is_not_given_to_a_shell() {
    let mut kernel = Kernel::start();
    let folder = tempfile::tempdir().unwrap();
    let path = script(&folder, "plain", "echo no\n", 0o755);
    assert_eq!(fails(&mut kernel, &[&path]), at_exec(libc::ENOEXEC));
}

fn a_bad_working_folder_fails_at_cwd() {
    let mut kernel = Kernel::start();
    let mut within = |cwd: &str| {
        let mut spawn = sh("pwd");
        spawn.cwd = Some(cwd.into());
        kernel.spawn(spawn)
    };
    let at_cwd = |errno| SpawnFailure { stage: SpawnStage::Cwd, errno };
    assert_eq!(within("/no/such/folder").unwrap_err(), at_cwd(libc::ENOENT));
    assert_eq!(within("/etc/passwd").unwrap_err(), at_cwd(libc::ENOTDIR));
    let Some(Output::Pipe(stdout)) = within("/usr").unwrap().stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"/usr\n");
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o000)).unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    match within(&path) {
        Err(failure) => assert_eq!(failure, at_cwd(libc::EACCES)),
        // Root goes anywhere, unless it becomes somebody else first.
        Ok(_) => {
            let mut spawn = sh("pwd");
            spawn.cwd = Some(path.into());
            spawn.credentials = Some(Credentials { uid: 65_534, gid: 65_534, groups: vec![] });
            assert_eq!(kernel.spawn(spawn).unwrap_err(), at_cwd(libc::EACCES));
        }
    }
}

fn two_megabytes_of_argument_are_too_much() {
    let mut kernel = Kernel::start();
    let mut spawn = command(&["true"]);
    spawn.argv.push(vec![b'x'; 2 << 20]);
    assert_eq!(kernel.spawn(spawn).unwrap_err(), at_exec(libc::E2BIG));
    // What fits a kernel but no packet arrives all the same.
    let mut spawn = sh("echo $#");
    spawn.argv.extend((0..3).map(|_| vec![b'x'; 100_000]));
    let Some(Output::Pipe(stdout)) = kernel.spawn(spawn).unwrap().stdout else {
        panic!("a pipe was asked for")
    };
    assert_eq!(read_to_end(&stdout.fd), b"2\n");
}

fn a_deleted_program_fails_and_leaves_nothing() {
    let mut kernel = Kernel::start();
    let folder = tempfile::tempdir().unwrap();
    let path = script(&folder, "gone", "#!/bin/sh\necho $0\nread x\n", 0o755);
    let running = kernel.spawn(command(&[&path])).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fails(&mut kernel, &[&path]), at_exec(libc::ENOENT));
    // An interpreter that is missing is the same to execve.
    let path = script(&folder, "odd", "#!/no/such/interpreter\n", 0o755);
    assert_eq!(fails(&mut kernel, &[&path]), at_exec(libc::ENOENT));
    kernel.signal(running.process, libc::SIGKILL, Scope::Tree).unwrap();
    kernel.ended(running.process);
}

fn the_search_goes_on_past_a_denied_candidate() {
    let mut kernel = Kernel::start();
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    script(&first, "tool", "#!/bin/sh\necho first\n", 0o644);
    let search = |folders: &[&tempfile::TempDir]| {
        let folders: Vec<&str> = folders.iter().map(|folder| folder.path().to_str().unwrap()).collect();
        let mut spawn = command(&["tool"]);
        spawn.search_path = format!("/no/such/folder:{}", folders.join(":")).into();
        spawn
    };
    assert_eq!(kernel.spawn(search(&[&first, &second])).unwrap_err(), at_exec(libc::EACCES));
    assert_eq!(kernel.spawn(search(&[&second])).unwrap_err(), at_exec(libc::ENOENT));
    script(&second, "tool", "#!/bin/sh\necho second\n", 0o755);
    let spawned = kernel.spawn(search(&[&first, &second])).unwrap();
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"second\n");
}

fn strings_with_nul_never_leave_the_kernel() {
    let mut packet = Vec::new();
    let mut spawn = command(&["true"]);
    spawn.argv.push(b"a\0b".to_vec());
    assert!(matches!(link::encode_spawn(&spawn, &mut packet), Err(ProtocolError::Nul { what: "argv" })));
    let mut spawn = command(&["true"]);
    spawn.env.push(b"A=\0".to_vec());
    assert!(matches!(link::encode_spawn(&spawn, &mut packet), Err(ProtocolError::Nul { what: "env" })));
    let mut spawn = command(&["true"]);
    spawn.argv.clear();
    assert!(matches!(link::encode_spawn(&spawn, &mut packet), Err(ProtocolError::EmptyArgv)));
}

fn the_environment_is_exactly_what_was_given() {
    let mut kernel = Kernel::start();
    let mut spawn = command(&["env", "-0"]);
    spawn.session = "mine".into();
    spawn.env = vec![b"A=1".to_vec(), b"KAIRO_SESSION=forged".to_vec(), b"B=\xff=2".to_vec()];
    let Some(Output::Pipe(stdout)) = kernel.spawn(spawn).unwrap().stdout else {
        panic!("a pipe was asked for")
    };
    assert_eq!(read_to_end(&stdout.fd), b"KAIRO_SESSION=mine\0A=1\0B=\xff=2\0");
}

fn shell_says(kernel: &mut Kernel, script: &str) -> String {
    let Some(Output::Pipe(stdout)) = kernel.spawn(sh(script)).unwrap().stdout else {
        panic!("a pipe was asked for")
    };
    String::from_utf8(read_to_end(&stdout.fd)).unwrap()
}

fn descriptors_are_limited_as_they_were_before_the_kernel_raised_its_own() {
    let mut kernel = Kernel::launch(&Launch { nofile: Some((99, 555)), ..keeping::launch() });
    assert_eq!(shell_says(&mut kernel, "ulimit -Sn; ulimit -Hn"), "99\n555\n");
}

fn a_child_has_three_descriptors() {
    let mut kernel = Kernel::start();
    let held: Vec<_> = (0..20).map(|_| kernel.spawn(command(&["cat"])).unwrap()).collect();
    // ls itself has the folder open as 3.
    assert_eq!(shell_says(&mut kernel, "exec ls /proc/self/fd"), "0\n1\n2\n3\n");
    let modes = "for n in 0 1 2; do grep flags /proc/$$/fdinfo/$n; done";
    for flags in shell_says(&mut kernel, modes).lines() {
        let flags = u32::from_str_radix(flags.trim_start_matches("flags:").trim(), 8).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK as u32, 0, "the child's ends block");
    }
    drop(held);
}

fn a_child_starts_with_default_signals_and_none_blocked() {
    let mut kernel = Kernel::start();
    let said = shell_says(&mut kernel, "exec grep -E 'SigBlk|SigIgn|SigPnd' /proc/self/status");
    assert_eq!(said.matches("0000000000000000").count(), 3, "{said}");
    assert_eq!(shell_says(&mut kernel, "umask"), "0022\n");
    assert_eq!(shell_says(&mut kernel, "set -- $(cat /proc/$$/stat); [ $5 = $6 ] && echo leads"), "leads\n");
}

fn rlimits_are_set_and_a_refused_one_is_named() {
    let mut kernel = Kernel::start();
    let mut spawn = sh("ulimit -c; ulimit -n; ulimit -f");
    let resources = [(libc::RLIMIT_CORE, 0), (libc::RLIMIT_NOFILE, 77), (libc::RLIMIT_FSIZE, 1 << 20)];
    spawn.rlimits = resources.to_vec();
    let spawned = kernel.spawn(spawn).unwrap();
    let in_force: Vec<_> = spawned.limits.iter().map(|limit| (limit.mechanism, limit.value)).collect();
    assert_eq!(in_force, [("rlimit", 0), ("rlimit", 77), ("rlimit", 1 << 20)]);
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"0\n77\n2048\n");
    let mut spawn = sh("true");
    spawn.rlimits = vec![(999, 1)];
    let failure = SpawnFailure { stage: SpawnStage::Rlimit, errno: libc::EINVAL };
    assert_eq!(kernel.spawn(spawn).unwrap_err(), failure);
}

fn a_child_stays_on_its_cores_and_a_core_that_is_not_there_is_named() {
    let mut kernel = Kernel::start();
    let on = |cpus: &[u16]| Placement { cpus: cpus.to_vec(), ..Placement::default() };
    let allowed = || sh("grep Cpus_allowed_list /proc/self/status");
    let said = said_by(&mut kernel, Spawn { placement: on(&[0]), ..allowed() });
    assert_eq!(said, "Cpus_allowed_list:\t0\n");
    let everywhere = said_by(&mut kernel, allowed());
    assert_eq!(everywhere, said_by(&mut kernel, allowed()), "the keeper stays where it is");
    let large =
        Spawn { placement: on(&[0]), env: vec![[&b"X="[..], &[b'x'; 100_000]].concat()], ..allowed() };
    assert_eq!(said_by(&mut kernel, large), "Cpus_allowed_list:\t0\n", "a long message as well");
    let failure = SpawnFailure { stage: SpawnStage::Affinity, errno: libc::EINVAL };
    assert_eq!(kernel.spawn(Spawn { placement: on(&[1_023]), ..sh("true") }).unwrap_err(), failure);
}

fn a_terminal_controls_the_child_and_has_its_size() {
    let mut kernel = Kernel::start();
    let mut spawn = sh("stty size; tty <&0 >/dev/null && echo tty; echo here >/dev/tty; ps -o tpgid= -p $$");
    spawn.stdio = Stdio::Pty(TerminalSize { rows: 41, cols: 133 });
    let spawned = kernel.spawn(spawn).unwrap();
    let Some(Output::Terminal(master)) = spawned.stdout else { panic!("a terminal was asked for") };
    assert!(spawned.stdin.is_none() && spawned.stderr.is_none());
    let said = String::from_utf8(read_to_end(&master)).unwrap();
    let lines: Vec<&str> = said.split("\r\n").map(str::trim).collect();
    assert_eq!(lines, ["41 133", "tty", "here", &spawned.pid.to_string(), ""]);
    assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(0));
    kernel.ended(spawned.process);
    // Interrupts come from the terminal.
    let mut spawn = sh("echo ready; read x");
    spawn.stdio = Stdio::Pty(TerminalSize { rows: 1, cols: 1 });
    let spawned = kernel.spawn(spawn).unwrap();
    let Some(Output::Terminal(master)) = &spawned.stdout else { panic!("a terminal was asked for") };
    keeping::read_until(master, b"ready");
    rustix::io::write(master, b"\x03").unwrap();
    let interrupted = ExitStatus::Signal { signal: libc::SIGINT, core: false };
    assert_eq!(kernel.exited(spawned.process).0, interrupted);
}

fn stderr_can_go_into_stdout() {
    let mut kernel = Kernel::start();
    let mut spawn = sh("echo out; echo err >&2; cat");
    spawn.stdio =
        Stdio::Pipes { stdin: StdinSource::Null, stderr: StderrTarget::Stdout, pipe_bytes: 1 << 20 };
    let spawned = kernel.spawn(spawn).unwrap();
    assert!(spawned.stdin.is_none() && spawned.stderr.is_none());
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"out\nerr\n");
}

fn only_an_embedded_keeper_lends_its_stdin() {
    let inherit =
        Stdio::Pipes { stdin: StdinSource::Inherit, stderr: StderrTarget::Inherit, pipe_bytes: 65_536 };
    let mut spawn = command(&["true"]);
    spawn.stdio = inherit;
    let failure = SpawnFailure { stage: SpawnStage::Resources, errno: libc::EPERM };
    assert_eq!(Kernel::start().spawn(spawn).unwrap_err(), failure);
    let mut kernel = Kernel::launch(&Launch { embedded: true, ..keeping::launch() });
    let mut spawn = sh("readlink /proc/self/fd/2; umask");
    spawn.stdio = inherit;
    let spawned = kernel.spawn(spawn).unwrap();
    assert!(spawned.stdin.is_none() && spawned.stderr.is_none());
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    let ours = std::fs::read_link("/proc/self/fd/2").unwrap();
    let said = String::from_utf8(read_to_end(&stdout.fd)).unwrap();
    assert_eq!(said.lines().next(), ours.to_str());
}

/// Leaves a daemon behind that is in a session of its own, then ends. The daemon's pid is printed.
const DOUBLE_FORK: &str = "setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' </dev/null & read x";

fn a_double_forker_belongs_to_its_session() {
    let mut kernel = Kernel::start();
    let other = kernel.spawn(command(&["cat"])).unwrap();
    let spawned = kernel.spawn(sh(DOUBLE_FORK)).unwrap();
    let daemon = shell_pid(&spawned);
    drop(spawned.stdin);
    kernel.close_channel(spawned.process, End::Stdin);
    kernel.exited(spawned.process);
    assert!(!pid_is_gone(daemon));
    // The daemon alone keeps the tree alive: nothing is told until it ends.
    assert!(kernel.nothing_more());
    rustix::process::kill_process(rustix::process::Pid::from_raw(daemon).unwrap(), KILL).unwrap();
    kernel.ended(spawned.process);
    assert_eq!(kernel.signal(other.process, libc::SIGKILL, Scope::Tree), Ok(1));
    kernel.ended(other.process);
}

const KILL: rustix::process::Signal = rustix::process::Signal::KILL;

fn killing_a_tree_reaches_a_double_forker() {
    let mut kernel = Kernel::start();
    let other = kernel.spawn(command(&["cat"])).unwrap();
    let spawned = kernel.spawn(sh(DOUBLE_FORK)).unwrap();
    let daemon = shell_pid(&spawned);
    drop(spawned.stdin);
    kernel.close_channel(spawned.process, End::Stdin);
    kernel.exited(spawned.process);
    assert_eq!(kernel.signal(spawned.process, libc::SIGKILL, Scope::Leader), Ok(0));
    assert_eq!(kernel.signal(spawned.process, libc::SIGKILL, Scope::Tree), Ok(1));
    kernel.ended(spawned.process);
    assert!(pid_is_gone(daemon));
    assert_eq!(kernel.signal(other.process, 0x7fff_ffff, Scope::Leader), Err(libc::EINVAL));
}

/// Each line it reads leaves it an orphan, of which nobody tells the keeper.
const ORPHANS: &str = "while read -r line; do (sleep 1000 & echo $!); done";
/// At a line it begins to fork.
const FORKS: &str = "read -r line; i=0; while [ $i -lt 300 ]; do sleep 1000 & i=$((i+1)); done; wait";

fn tell(shell: &link::Spawned<OwnedFd>) {
    rustix::io::write(&shell.stdin.as_ref().unwrap().fd, b"now\n").unwrap();
}

fn signals_that_come_together_reach_every_tree_whole() {
    let mut kernel = Kernel::start();
    let cat = kernel.spawn(command(&["cat"])).unwrap();
    let leaderless = kernel.spawn(sh(DOUBLE_FORK)).unwrap();
    let mut pids = vec![shell_pid(&leaderless)];
    drop(leaderless.stdin);
    kernel.close_channel(leaderless.process, End::Stdin);
    kernel.exited(leaderless.process);
    let parent = kernel.spawn(sh(ORPHANS)).unwrap();
    let forker = kernel.spawn(sh(FORKS)).unwrap();
    let all = [cat.process, parent.process, leaderless.process];
    for orphans in 1..4 {
        tell(&parent);
        let orphan = shell_pid(&parent);
        let keeper = kernel.keeper_pid();
        eventually("it is an orphan", || parent_of(orphan) == keeper);
        pids.push(orphan);
        let [on, parent_on, leaderless_on] = all.map(|process| (process, libc::SIGCONT));
        let signals = [on, (cat.process, libc::SIGSTOP), parent_on, on, leaderless_on];
        let reached = kernel.signal_together(&signals, || {});
        assert_eq!(reached, [Ok(1), Ok(1), Ok(1 + orphans), Ok(1), Ok(1)]);
        eventually("it was continued last", || state_of(cat.pid) != b'T');
    }
    let signals = [all[0], forker.process, all[1], all[2]].map(|process| (process, libc::SIGKILL));
    let reached = kernel.signal_together(&signals, || tell(&forker));
    assert_eq!((reached[0], reached[2], reached[3]), (Ok(1), Ok(4), Ok(1)));
    for process in [all[0], all[1], forker.process] {
        kernel.exited(process);
    }
    for process in all.into_iter().chain([forker.process]) {
        kernel.ended(process);
    }
    assert!(pids.into_iter().all(pid_is_gone));
}

fn a_tree_that_ignores_term_is_killed() {
    let mut kernel = Kernel::start();
    let script =
        "trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$; while :; do sleep 1000; done\" & wait; wait";
    let spawned = kernel.spawn(sh(script)).unwrap();
    let grandchild = shell_pid(&spawned);
    assert!(kernel.signal(spawned.process, libc::SIGTERM, Scope::Tree).unwrap() >= 2);
    assert!(!pid_is_gone(grandchild));
    assert!(kernel.signal(spawned.process, libc::SIGKILL, Scope::Tree).unwrap() >= 2);
    let killed = ExitStatus::Signal { signal: libc::SIGKILL, core: false };
    assert_eq!(kernel.exited(spawned.process).0, killed);
    kernel.ended(spawned.process);
    assert!(pid_is_gone(grandchild));
}

fn parent_of(pid: i32) -> i32 {
    kairo_dataplane::sys::process::stat(pid).map_or(0, |stat| stat.parent)
}

fn state_of(pid: i32) -> u8 {
    kairo_dataplane::sys::process::stat(pid).map_or(0, |stat| stat.state)
}

fn paused(kernel: &mut Kernel) -> (kairo_dataplane::key::ProcessKey, i32, i32) {
    let spawned = kernel.spawn(sh("sh -c 'echo $$; exec sleep 1000' & wait")).unwrap();
    let grandchild = shell_pid(&spawned);
    assert!(kernel.signal(spawned.process, libc::SIGSTOP, Scope::Tree).unwrap() >= 2);
    eventually("leader and grandchild are stopped", || {
        state_of(spawned.pid) == b'T' && state_of(grandchild) == b'T'
    });
    (spawned.process, spawned.pid, grandchild)
}

fn a_paused_tree_is_killed() {
    let mut kernel = Kernel::start();
    let (process, _, grandchild) = paused(&mut kernel);
    kernel.signal(process, libc::SIGKILL, Scope::Tree).unwrap();
    kernel.ended(process);
    assert!(pid_is_gone(grandchild));
}

fn term_continues_a_paused_tree() {
    let mut kernel = Kernel::start();
    let (process, _, grandchild) = paused(&mut kernel);
    kernel.signal(process, libc::SIGTERM, Scope::Tree).unwrap();
    kernel.ended(process);
    assert!(pid_is_gone(grandchild));
    let (process, leader, _) = paused(&mut kernel);
    kernel.signal(process, libc::SIGCONT, Scope::Tree).unwrap();
    eventually("the leader goes on", || state_of(leader) == b'S');
}

fn a_leader_that_is_gone_leaves_its_tree_running() {
    let mut kernel = Kernel::start();
    let spawned = kernel.spawn(sh("(echo $$; sleep 1000) & exit 7")).unwrap();
    assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(7));
    let Some(Output::Pipe(stdout)) = &spawned.stdout else { panic!("a pipe was asked for") };
    keeping::read_until(stdout.fd.as_fd(), b"\n");
    // The grandchild holds stdout: no end yet, of stream or tree.
    assert_eq!(rustix::io::read(&stdout.fd, &mut [0; 8]), Err(rustix::io::Errno::AGAIN));
    assert!(kernel.nothing_more());
    assert!(kernel.signal(spawned.process, libc::SIGTERM, Scope::Tree).unwrap() >= 1);
    kernel.ended(spawned.process);
    assert_eq!(read_to_end(&stdout.fd), b"");
}

fn a_signal_to_an_ended_process_reaches_nobody() {
    let mut kernel = Kernel::start();
    let process = kernel.spawn(sh("true")).unwrap().process;
    kernel.ended(process);
    assert_eq!(kernel.signal(process, libc::SIGTERM, Scope::Tree), Ok(0));
    assert_eq!(kernel.signal(process, libc::SIGTERM, Scope::Leader), Ok(0));
    kernel.forget(process);
    assert_eq!(kernel.signal(process, libc::SIGTERM, Scope::Tree), Ok(0));
}

fn two_hundred_children_at_once() {
    let mut kernel = Kernel::start();
    let spawns: Vec<_> = (0..200).map(|number| sh(&format!("read x; exit {}", number % 100))).collect();
    let keys: Vec<_> = spawns.into_iter().map(|spawn| kernel.ask(spawn)).collect();
    let spawned: Vec<_> = keys.iter().map(|key| kernel.spawned(*key).unwrap()).collect();
    for spawned in spawned {
        drop(spawned.stdin);
        kernel.close_channel(spawned.process, End::Stdin);
    }
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(kernel.exited(*key).0, ExitStatus::Code(number as i32 % 100));
        kernel.ended(*key);
        kernel.forget(*key);
    }
}

fn nothing_leaks_over_hundreds_of_processes() {
    let mut kernel = Kernel::start();
    // One spawn first: what is opened once and for all is open then.
    let process = kernel.spawn(sh("true")).unwrap().process;
    kernel.ended(process);
    kernel.forget(process);
    // A keeper with room for hardly more than one process at a time can lose none.
    let keeper = rustix::process::Pid::from_raw(kernel.keeper_pid()).unwrap();
    let narrow = rustix::process::Rlimit { current: Some(30), maximum: Some(30) };
    rustix::process::prlimit(Some(keeper), rustix::process::Resource::Nofile, narrow).unwrap();
    for round in 0..300 {
        let mut spawn = if round % 3 == 0 { command(&["no-such-program"]) } else { sh("exit 0") };
        spawn.rlimits = vec![(libc::RLIMIT_NOFILE, 20)];
        if round % 5 == 0 {
            spawn.stdio = Stdio::Pty(TerminalSize { rows: 24, cols: 80 });
        }
        match kernel.spawn(spawn) {
            Ok(spawned) => {
                kernel.ended(spawned.process);
                kernel.forget(spawned.process);
            }
            Err(failure) => assert_eq!(failure, at_exec(libc::ENOENT)),
        }
    }
    // Too many at once fail one by one, and leave room for the next.
    let mut alive = Vec::new();
    let failure = loop {
        let mut spawn = command(&["cat"]);
        spawn.rlimits = vec![(libc::RLIMIT_NOFILE, 20)];
        match kernel.spawn(spawn) {
            Ok(spawned) => alive.push(spawned.process),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure, SpawnFailure { stage: SpawnStage::Resources, errno: libc::EMFILE });
    assert!(!alive.is_empty());
    for process in alive {
        kernel.signal(process, libc::SIGKILL, Scope::Tree).unwrap();
        kernel.ended(process);
        kernel.forget(process);
    }
    // Behind the last `forget`, which has no answer of its own.
    assert!(kernel.nothing_more());
    if let Ok(folder) = std::fs::read_dir(format!("/proc/{}/fd", kernel.keeper_pid())) {
        // 0, 1, 2; 3 to 8 and null of the forker; null, lane, signals, list of children.
        let count = folder.count();
        assert!(count <= 15, "{count}");
    }
}

fn a_keeper_without_kernel_ends_all_trees() {
    let mut kernel = Kernel::start();
    let polite = kernel.spawn(sh("(echo $$; sleep 1000) & wait")).unwrap().pid;
    let spawned = kernel.spawn(sh("trap '' TERM; echo $$; while :; do sleep 1000; done")).unwrap();
    let stubborn = shell_pid(&spawned);
    let keeper = kernel.lose_lanes();
    assert_eq!(link::reap(keeper).unwrap(), 0);
    assert!(pid_is_gone(polite) && pid_is_gone(stubborn));
}

fn shutdown_ends_everything() {
    let mut kernel = Kernel::start();
    let script = "trap 'read x; exit 3' TERM; echo $$; while :; do sleep 0.01; done";
    let spawned = kernel.spawn(sh(script)).unwrap();
    shell_pid(&spawned);
    kernel.shutdown(Duration::from_secs(50));
    let refused = SpawnFailure { stage: SpawnStage::Keeper, errno: libc::ESHUTDOWN };
    assert_eq!(kernel.spawn(sh("true")).unwrap_err(), refused);
    rustix::io::write(&spawned.stdin.unwrap().fd, b"\n").unwrap();
    assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(3));
    kernel.ended(spawned.process);
    let keeper = kernel.lose_lanes();
    assert_eq!(link::reap(keeper).unwrap(), 0);
}

fn the_last_news_arrive_behind_requests_that_were_never_read() {
    let mut kernel = Kernel::start();
    let keys: Vec<_> = (0..20).map(|_| kernel.spawn(command(&["cat"])).unwrap().process).collect();
    kernel.shutdown(Duration::ZERO);
    for key in keys.iter().cycle().take(100) {
        kernel.acknowledge(*key);
    }
    for key in keys {
        kernel.exited(key);
        kernel.ended(key);
    }
    assert!(kernel.hangs_up());
}

fn a_held_keeper_hands_over_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handover");
    let launch = Launch {
        lanes: 2,
        on_kernel_loss: OnKernelLoss::Hold { handover: path.clone() },
        ..keeping::launch()
    };
    let mut kernel = Kernel::launch(&launch);
    let page = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let (staging_reader, staging_writer) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&staging_writer, b"staged").unwrap();
    let staging = [staging_reader.as_fd(), staging_writer.as_fd()];
    kernel.hold_reactor(0, &[page.as_fd(), staging[0], staging[1], staging[0], staging[1]]);
    let mut keys = Vec::new();
    for number in 0..100 {
        let mut spawn = sh(&format!("echo {number}; exit {number}"));
        spawn.record = format!("record {number}").into_bytes().into();
        keys.push(kernel.spawn(spawn).unwrap().process);
    }
    for key in &keys {
        kernel.ended(*key);
    }
    // Its exit was told, and the end of its tree; of the second one only the exit.
    kernel.acknowledge(keys[0]);
    kernel.acknowledge(keys[0]);
    kernel.acknowledge(keys[3]);
    kernel.forget(keys[1]);
    let mut ring = tempfile::tempfile().unwrap();
    ring.write_all(b"ring").unwrap();
    kernel.hold_stream(keys[2], End::Stdout, 7, 9, ring.as_fd());
    let living = kernel.spawn(sh("sleep 1000")).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let early = Estate::receive(&path, Duration::from_millis(50)).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::TimedOut, "nobody is let in while the kernel lives");
    let keeper = kernel.lose_lanes();
    for _ in 0..2 {
        let estate = Estate::receive(&path, Duration::from_secs(10)).unwrap();
        assert_eq!(estate.keeper_pid, keeper);
        check_estate(&estate, &keys, living.pid);
    }
    let estate = Estate::receive(&path, Duration::from_secs(10)).unwrap();
    assert!(!pid_is_gone(living.pid));
    estate.shutdown(Duration::from_secs(1)).unwrap();
    assert_eq!(link::reap(keeper).unwrap(), 0);
    assert!(pid_is_gone(living.pid));
    assert!(!path.exists());
}

fn check_estate(estate: &Estate, keys: &[kairo_dataplane::key::ProcessKey], living: i32) {
    let [reactor] = estate.reactors.as_slice() else { panic!("one reactor gave something to hold") };
    assert_eq!(reactor.reactor, 0);
    assert_eq!(rustix::io::ioctl_fionread(&reactor.staging_reader).unwrap(), 6);
    assert_eq!(estate.sessions.len(), 100, "99 ended ones and the living one");
    for (number, key) in keys.iter().enumerate() {
        let Some(held) = estate.sessions.iter().find(|session| session.process == *key) else {
            assert_eq!(number, 1, "only the forgotten one is missing");
            continue;
        };
        let told = [0, 3].contains(&number).then_some(ExitStatus::Code(number as i32));
        assert_eq!((held.exit.map(|(status, _)| status), held.ended), (told, number == 0));
        assert!(held.exited_ns.is_some());
        assert_eq!(held.record, format!("record {number}").into_bytes());
        let (stdout, bytes) = held.ends[End::Stdout as usize].as_ref().unwrap();
        assert!(*bytes >= 4096);
        let queued = rustix::io::ioctl_fionread(stdout).unwrap();
        assert_eq!(queued, format!("{number}\n").len() as u64, "unread output is still there");
        match held.rings.as_slice() {
            [ring] => assert_eq!((number, ring.end, ring.slot, ring.generation), (2, End::Stdout, 7, 9)),
            rings => assert!(rings.is_empty() && number != 2),
        }
    }
    let held = estate.sessions.iter().find(|session| session.pid == living).unwrap();
    assert!(held.exit.is_none() && held.exited_ns.is_none() && !held.ended && held.start_ticks > 0);
}

fn held(path: &std::path::Path) -> Launch {
    Launch { on_kernel_loss: OnKernelLoss::Hold { handover: path.to_owned() }, ..keeping::launch() }
}

const SIZE: HistorySize = HistorySize { head_bytes: 4096, tail_bytes: 8192 };

/// Takes over whatever is at `path`.
fn take_over(path: &std::path::Path, lanes: u16) -> Inheritance {
    let estate = Estate::receive(path, Duration::from_secs(10)).unwrap();
    settle(estate, lanes, |_| SIZE).unwrap()
}

fn a_successor_becomes_the_kernel_and_is_told_what_nobody_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let mut kernel = Kernel::launch(&held(&path));
    let cat = kernel.spawn(command(&["cat"])).unwrap().process;
    let told = kernel.spawn(sh("exit 3")).unwrap().process;
    kernel.ended(told);
    kernel.acknowledge(told);
    kernel.acknowledge(told);
    let untold = kernel.spawn(sh("exit 4")).unwrap().process;
    kernel.ended(untold);
    kernel.annotate(cat, b"a note");
    let mut ring = Writer::create(Geometry::new(4096, 8192)).unwrap();
    ring.room(5)[..5].copy_from_slice(b"bytes");
    ring.expect(5);
    ring.commit(5);
    kernel.hold_stream(cat, End::Stdout, 0, (cat.serial << 1) as u32, ring.descriptor());
    let pid = kernel.lose_lanes();
    let Inheritance { keeper_pid, lanes, heirs } = take_over(&path, 3);
    assert_eq!((keeper_pid, lanes.len(), heirs.len()), (pid, 3, 3));
    let heir = |key: kairo_dataplane::key::ProcessKey| {
        heirs.iter().find(|heir| heir.session.process.serial == key.serial).unwrap()
    };
    assert_eq!(
        (heir(told).session.exit.map(|(status, _)| status), heir(told).session.ended),
        (Some(ExitStatus::Code(3)), true)
    );
    assert_eq!((heir(untold).session.exit.is_none(), heir(untold).session.ended), (true, false));
    assert_eq!(heir(cat).session.note, b"a note");
    let renewed = heir(cat).rings[0].as_ref().unwrap();
    assert_eq!((renewed.taken(), renewed.generation(), renewed.run(0, 9)), (5, 1, Some(&b"bytes"[..])));
    let mut kernel = Kernel::succeed(pid, lanes, 100);
    assert_eq!(kernel.exited(untold).0, ExitStatus::Code(4));
    kernel.ended(untold);
    assert!(kernel.nothing_more(), "what was told is not told again");
    let next = kernel.spawn(sh("exit 5")).unwrap().process;
    assert_eq!(kernel.exited(next).0, ExitStatus::Code(5));
    assert_eq!(kernel.signal(cat, libc::SIGKILL, Scope::Tree), Ok(1));
    kernel.ended(cat);
}

/// What a profile is on this machine, were its Landlock this old; none if it can't be divided or contained here.
fn contained_by(abi: u32, wish: &str) -> Option<Containment> {
    let ability = Ability::probe();
    if !ability.namespaces.mount.allowed() || ability.landlock_abi < 6 || !ability.filters() {
        eprint!("skipped, this machine can't: ");
        return None;
    }
    let profile: Profile = serde_json::from_str(wish).unwrap();
    let place = Place { uid: ability.uid, ..Place::default() };
    Some(Plan::new(&profile, &Ability { landlock_abi: abi, ..ability }, &place).unwrap().containment)
}

fn said_by(kernel: &mut Kernel, spawn: Spawn) -> String {
    let spawned = kernel.spawn(spawn).unwrap();
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    let said = String::from_utf8(read_to_end(&stdout.fd)).unwrap();
    kernel.ended(spawned.process);
    said
}

/// Landlock of ABI 2 knows neither truncate(2) nor devices' commands.
fn what_an_old_landlock_lacks_is_mounted_instead() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(&outside, "as it was").unwrap();
    let system = r#""/usr", "/lib", "/lib64", "/bin", "/dev""#;
    let wish = |more: &str| {
        format!(
            r#"{{"kernel": false, "files": {{"read": [{system}], "execute": [{system}], "write": [{inside:?}], "create": [{inside:?}],
            "delete": [{inside:?}]}}, "devices": {{"basic": false, "allow": ["/dev/null"]}}, "acceptWeaker": ["signals"{more}]}}"#
        )
    };
    let Some(containment) = contained_by(2, &wish("")) else { return };
    let mut kernel = Kernel::start();
    let script = format!(
        "exec 2>&1; cd {inside:?}; echo x > f; : > f; mv f g; cat < /dev/null; cat < /dev/zero | head -c 1; \
        perl -e 'truncate $ARGV[0], 0 or print \"no: $!\\n\"' {outside:?}; test -e g && echo g"
    );
    let said = said_by(&mut kernel, Spawn { containment: Some(Box::new(containment)), ..sh(&script) });
    assert!(said.contains("/dev/zero: Permission denied") && said.ends_with("g\n"), "{said}");
    assert!(!said.contains("/dev/null"), "{said}");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "as it was");
    // Without, it is as Landlock has it.
    let mut without = contained_by(2, &wish("")).unwrap();
    without.later.namespaces = None;
    without.probes.clear();
    let said = said_by(&mut kernel, Spawn { containment: Some(Box::new(without)), ..sh(&script) });
    assert!(!said.contains("/dev/zero"), "{said}");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "");
}

/// A child that is given no folder stands where its keeper does.
fn mounts_hide_nothing_from_where_a_child_stands_already() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (above, hidden) = (folder.join("above"), folder.join("above/hidden"));
    std::fs::create_dir_all(&hidden).unwrap();
    std::fs::write(hidden.join("secret"), "secret").unwrap();
    let system = r#""/usr", "/lib", "/lib64", "/bin""#;
    let wish = format!(
        r#"{{"kernel": false, "files": {{"read": [{system}, {folder:?}], "execute": [{system}], "denyRead": [{hidden:?}],
        "write": [{folder:?}], "create": [{folder:?}], "delete": [{folder:?}], "denyWrite": [{:?}]}}}}"#,
        above.join("kept")
    );
    let Some(containment) = contained_by(6, &wish) else { return };
    let before = std::env::current_dir().unwrap();
    for stands in [&above, &hidden] {
        std::env::set_current_dir(stands).unwrap();
        let mut kernel = Kernel::start();
        std::env::set_current_dir(&before).unwrap();
        let script = "exec 2>&1; cat secret; cat hidden/secret; echo x > kept/x; ls kept";
        let said =
            said_by(&mut kernel, Spawn { containment: Some(Box::new(containment.clone())), ..sh(script) });
        assert!(!said.contains("secret\n") && !said.starts_with("secret") && !said.contains("x\n"), "{said}");
    }
    assert!(!above.join("kept").exists());
}

fn a_keeper_of_the_version_before_is_taken_over_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let mut kernel = Kernel::launch(&Launch { version: VERSION_MIN, ..held(&path) });
    let spawned = kernel.spawn(command(&["cat"])).unwrap();
    let pid = kernel.lose_lanes();
    let Inheritance { lanes, heirs, .. } = take_over(&path, 1);
    assert_eq!((heirs.len(), heirs[0].session.pid), (1, spawned.pid));
    assert!(heirs[0].session.note.is_empty(), "it knows no notes");
    let mut kernel = Kernel::succeed(pid, lanes, 100);
    assert_eq!(kernel.signal(spawned.process, libc::SIGTERM, Scope::Tree), Ok(1));
    kernel.ended(spawned.process);
}

/// A kernel that knows raw outlets only would take the place of one in frames for an offset.
fn what_is_held_is_handed_to_whoever_has_a_word_for_it() {
    for version in [VERSION_HOLDS, VERSION_FRAMES, VERSION_AWAITS] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.sock");
        let mut kernel = Kernel::launch(&Launch { version, ..held(&path) });
        let spawned = kernel.spawn(command(&["cat"])).unwrap();
        let raw = Inbox::create(4_096).unwrap();
        raw.begin_feed(7);
        let mut framed = Inbox::for_parcels(4_096, Standing { offset: Some(5), gap_bytes: 0 }).unwrap();
        framed.begin_parcel(&[b"prelude"], Parcel { payload: 5..9, ..Parcel::default() });
        framed.settle(8);
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        kernel.hold_outlet(spawned.process, 21, false, &[ours.as_fd(), raw.descriptor()]);
        kernel.hold_outlet(spawned.process, 22, true, &[ours.as_fd(), framed.descriptor()]);
        kernel.tell_blockers(spawned.process, [3, 1]);
        kernel.tell_blockers(spawned.process, [2, 0]);
        let pid = kernel.lose_lanes();
        let Inheritance { lanes, heirs, .. } = take_over(&path, 1);
        let outlets = &heirs[0].outlets;
        let known: Vec<_> = outlets.iter().map(|it| (it.serial, it.framed, it.offset())).collect();
        match version {
            VERSION_HOLDS => assert_eq!(known, [(21, false, Some(7))]),
            _ => {
                assert_eq!(known, [(21, false, Some(7)), (22, true, None)]);
                let parcel = outlets[1].place.parcel().expect("it is under way");
                assert_eq!((parcel.payload_left(8), outlets[1].note.as_slice()), (6..9, &b"its note"[..]));
            }
        }
        assert_eq!(heirs[0].session.blockers, if version < VERSION_AWAITS { [0, 0] } else { [2, 0] });
        let mut kernel = Kernel::succeed(pid, lanes, 100);
        assert_eq!(kernel.signal(spawned.process, libc::SIGTERM, Scope::Tree), Ok(1));
        kernel.ended(spawned.process);
    }
}

fn what_nobody_came_for_is_left_in_a_file_and_begun_from() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("keeper.sock"), folder.path().join("keeper.estate"));
    let mut kernel = Kernel::launch(&held(&path));
    let mut spawn = sh("echo unread; exit 6");
    spawn.record = b"its record".to_vec().into();
    let process = kernel.spawn(spawn).unwrap().process;
    kernel.ended(process);
    let mut ring = Writer::create(Geometry::new(4096, 8192)).unwrap();
    ring.room(4)[..4].copy_from_slice(b"ring");
    ring.commit(4);
    kernel.hold_stream(process, End::Stderr, 0, (process.serial << 1 | 1) as u32, ring.descriptor());
    kernel.leave();
    let pid = kernel.lose_lanes();
    assert_eq!(link::reap(pid).unwrap(), 0, "nothing keeps it: no child, and its kernel has left in order");
    assert!(left.exists() && !path.exists());
    for _ in 0..2 {
        // Begun from, looked at and lost before anybody took it over, it is still there.
        let keeper = link::launch(&Launch { lanes: 0, resume: Some(left.clone()), ..held(&path) }).unwrap();
        assert_eq!(begun(&path).sessions.len(), 1);
        let pid = rustix::process::Pid::from_raw(keeper.pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        link::reap(keeper.pid).unwrap();
        assert!(left.exists());
    }
    let keeper = link::launch(&Launch { lanes: 0, resume: Some(left.clone()), ..held(&path) }).unwrap();
    let Inheritance { lanes, heirs, .. } = settle(begun(&path), 1, |_| SIZE).unwrap();
    let [heir] = heirs.as_slice() else { panic!("one session was left") };
    assert_eq!(
        (heir.session.record.as_slice(), heir.session.process.serial),
        (&b"its record"[..], process.serial)
    );
    assert_eq!(heir.rings[1].as_ref().unwrap().run(0, 9), Some(&b"ring"[..]));
    let (stdout, _) = heir.session.ends[End::Stdout as usize].as_ref().unwrap();
    assert_eq!(keeping::read_to_end(stdout), b"unread\n");
    let mut kernel = Kernel::succeed(keeper.pid, lanes, 100);
    assert_eq!(kernel.exited(process).0, ExitStatus::Code(6), "nobody had told it");
    kernel.ended(process);
    assert!(!left.exists(), "it is in a keeper's hands again");
}

/// What a keeper hands over that has just been started.
fn begun(path: &std::path::Path) -> Estate {
    let mut found = None;
    keeping::eventually_mut("it hands over", || {
        found = Estate::receive(path, Duration::from_secs(10)).ok();
        found.is_some()
    });
    found.unwrap()
}

fn a_file_that_is_bent_or_newer_is_not_begun_from() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("keeper.sock"), folder.path().join("keeper.estate"));
    for bytes in
        [&b""[..], b"KAIROEST", b"KAIROEST\x02\0\0\0", b"KAIROEST\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f"]
    {
        std::fs::write(&left, bytes).unwrap();
        let keeper = link::launch(&Launch { lanes: 0, resume: Some(left.clone()), ..held(&path) }).unwrap();
        assert_eq!(link::reap(keeper.pid).unwrap(), 1);
        assert_eq!(std::fs::read(&left).unwrap(), bytes, "it is left as it is");
    }
}

fn another_user_is_become_or_refused() {
    let mut kernel = Kernel::start();
    let mut spawn = sh("id -u; id -g; id -G");
    spawn.credentials = Some(Credentials { uid: 65_534, gid: 65_533, groups: vec![65_532, 65_531] });
    match kernel.spawn(spawn) {
        Ok(spawned) => {
            let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
            let said = String::from_utf8(read_to_end(&stdout.fd)).unwrap();
            assert_eq!(said, "65534\n65533\n65533 65531 65532\n");
            let mut spawn = command(&["no-such-program"]);
            spawn.credentials = Some(Credentials { uid: 65_534, gid: 65_534, groups: vec![] });
            assert_eq!(kernel.spawn(spawn).unwrap_err(), at_exec(libc::ENOENT));
            let mut spawn = sh("stat -c %u \"$(tty)\"");
            spawn.stdio = Stdio::Pty(TerminalSize { rows: 24, cols: 80 });
            spawn.credentials = Some(Credentials { uid: 65_534, gid: 65_534, groups: vec![] });
            let Some(Output::Terminal(master)) = kernel.spawn(spawn).unwrap().stdout else {
                panic!("a terminal was asked for")
            };
            assert_eq!(read_to_end(&master), b"65534\r\n");
        }
        Err(failure) => {
            assert!(!rustix::process::geteuid().is_root());
            assert_eq!(failure, SpawnFailure { stage: SpawnStage::Credentials, errno: libc::EPERM });
        }
    }
}

const MEMORY: CgroupLimits =
    CgroupLimits { memory_bytes: Some(64 << 20), cpu_percent: None, pids: None, allow_weaker: false };

fn limits_without_a_cgroup_are_refused_or_weakened() {
    let mut kernel = Kernel::launch(&Launch { cgroups: CgroupUse::Never, ..keeping::launch() });
    let mut spawn = sh("ulimit -v");
    spawn.cgroup = MEMORY;
    let refused = SpawnFailure { stage: SpawnStage::Cgroup, errno: libc::EOPNOTSUPP };
    assert_eq!(kernel.spawn(spawn).unwrap_err(), refused);
    let mut spawn = sh("ulimit -v");
    spawn.cgroup = CgroupLimits { allow_weaker: true, cpu_percent: Some(50), ..MEMORY };
    let spawned = kernel.spawn(spawn).unwrap();
    assert_eq!(spawned.tree, Tree::BestEffort);
    let [memory] = spawned.limits.as_slice() else { panic!("memory alone is in force") };
    assert_eq!((memory.name.as_str(), memory.mechanism, memory.value), ("memory", "rlimit", 64 << 20));
    let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
    assert_eq!(read_to_end(&stdout.fd), b"65536\n");
}

fn a_cgroup_holds_a_tree_exactly() {
    let mut kernel = Kernel::launch(&Launch { cgroups: CgroupUse::Always, ..keeping::launch() });
    // Scrubs its environment and leaves its session: nothing but the cgroup can tell whose it is.
    let script = "setsid env -i /bin/sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' </dev/null & read x";
    let other = kernel.spawn(command(&["cat"])).unwrap();
    let spawned = kernel.spawn(sh(script)).unwrap();
    if spawned.tree != Tree::Exact {
        eprint!("(no cgroup v2 to write here: best effort) ");
        return;
    }
    let daemon = shell_pid(&spawned);
    let place = std::fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap();
    let keepers = format!("kairo-{}", kernel.keeper_pid());
    assert!(place.lines().any(|line| line.starts_with("0::") && line.contains(&keepers)), "{place}");
    drop(spawned.stdin);
    kernel.close_channel(spawned.process, End::Stdin);
    kernel.exited(spawned.process);
    assert!(kernel.nothing_more());
    assert_eq!(kernel.signal(spawned.process, libc::SIGKILL, Scope::Tree), Ok(1));
    kernel.ended(spawned.process);
    assert!(pid_is_gone(daemon));
    assert_eq!(kernel.signal(other.process, libc::SIGTERM, Scope::Tree), Ok(1));
    kernel.ended(other.process);
}

fn limits_are_enforced_by_a_cgroup_where_controllers_are_delegated() {
    let enforced = kairo_sandbox::ability::Ability::probe().cgroup.controllers.len() == 3;
    let mut kernel = Kernel::start();
    let limits = CgroupLimits { cpu_percent: Some(50), pids: Some(12), ..MEMORY };
    let mut spawn =
        sh("cat /sys/fs/cgroup/$(sed -n s/^0:://p /proc/self/cgroup)/{memory,cpu,pids}.max; read x");
    spawn.argv[0] = b"bash".to_vec();
    spawn.cgroup = limits;
    let spawned = match kernel.spawn(spawn) {
        Ok(spawned) => spawned,
        Err(failure) => {
            let refused = SpawnFailure { stage: SpawnStage::Cgroup, errno: libc::EOPNOTSUPP };
            assert_eq!((failure, enforced), (refused, false));
            eprint!("(no controllers here: refused) ");
            return;
        }
    };
    assert_eq!(spawned.tree, Tree::Exact);
    let in_force: Vec<_> = spawned.limits.iter().map(|limit| (limit.name.as_str(), limit.value)).collect();
    assert_eq!(in_force, [("memory", 64 << 20), ("cpu", 50), ("pids", 12)]);
    assert!(spawned.limits.iter().all(|limit| limit.mechanism == "cgroup"));
    let Some(Output::Pipe(stdout)) = &spawned.stdout else { panic!("a pipe was asked for") };
    let said = keeping::read_until(stdout.fd.as_fd(), b"\n12\n");
    assert_eq!(String::from_utf8(said).unwrap(), "67108864\n50000 100000\n12\n");
    kernel.signal(spawned.process, libc::SIGKILL, Scope::Tree).unwrap();
    kernel.ended(spawned.process);
    // Memory: tail keeps what has no line end.
    let mut spawn = sh("head -c 200000000 /dev/zero | tail -c 100000001 | wc -c");
    spawn.cgroup = MEMORY;
    let spawned = kernel.spawn(spawn).unwrap();
    let Some(Output::Pipe(stdout)) = &spawned.stdout else { panic!("a pipe was asked for") };
    assert_ne!(String::from_utf8(read_to_end(&stdout.fd)).unwrap().trim(), "100000001");
    kernel.ended(spawned.process);
    // Processes: the shell itself is one.
    let mut spawn = sh("for n in 1 2 3 4 5 6; do sleep 1000 & done; echo started");
    spawn.cgroup = CgroupLimits { memory_bytes: None, pids: Some(4), ..MEMORY };
    let spawned = kernel.spawn(spawn).unwrap();
    assert!(String::from_utf8_lossy(&read_until_end_of_leader(&mut kernel, &spawned)).contains("fork"));
    assert_eq!(kernel.signal(spawned.process, libc::SIGKILL, Scope::Tree), Ok(3));
    kernel.ended(spawned.process);
}

/// What the leader alone said on stderr, while its descendants hold the pipe.
fn read_until_end_of_leader(kernel: &mut Kernel, spawned: &link::Spawned<OwnedFd>) -> Vec<u8> {
    kernel.exited(spawned.process);
    keeping::read_until(spawned.stderr.as_ref().unwrap().fd.as_fd(), b"\n")
}

fn looked_at(mut spawn: Spawn) -> Spawn {
    spawn.program = Some(ProgramCheck::default());
    spawn
}

fn what_was_looked_at_starts_like_any_other() {
    let mut kernel = Kernel::start();
    let script = "ls /proc/self/fd; exec grep -E 'SigBlk|SigIgn|SigPnd|TracerPid' /proc/self/status";
    let mut said = |spawn: Spawn| {
        let spawned = kernel.spawn(spawn).unwrap();
        let Some(Output::Pipe(stdout)) = spawned.stdout else { panic!("a pipe was asked for") };
        let said = String::from_utf8(read_to_end(&stdout.fd)).unwrap();
        assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(0), "{said}");
        kernel.ended(spawned.process);
        said
    };
    assert_eq!(said(looked_at(sh(script))), said(sh(script)));
    // What can't be executed fails where it always does.
    let failure = kernel.spawn(looked_at(command(&["/no/such/program"]))).unwrap_err();
    assert_eq!(failure, SpawnFailure { stage: SpawnStage::Exec, errno: libc::ENOENT });
    let mut wanted = looked_at(command(&["true"]));
    wanted.program = Some(ProgramCheck { wanted: Some([7; 32]), accept_weaker: false });
    let failure = kernel.spawn(wanted).unwrap_err();
    assert_eq!(failure, SpawnFailure { stage: SpawnStage::Program, errno: 0 });
}

/// A program that takes long to read, with whoever stands still for it.
fn long(
    kernel: &mut Kernel,
    folder: &tempfile::TempDir,
    bytes: u64,
) -> (kairo_dataplane::key::ProcessKey, i32) {
    let program = folder.path().join("long");
    std::fs::copy("/bin/sleep", &program).unwrap();
    std::fs::File::options().write(true).open(&program).unwrap().set_len(bytes).unwrap();
    let key = kernel.ask(looked_at(command(&[program.to_str().unwrap(), "1000"])));
    let keeper = kernel.keeper_pid();
    let children = || std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    let traced = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("TracerPid:\t{keeper}"))
    };
    eventually("it stands still", || children().split_whitespace().any(traced));
    let pid = children().split_whitespace().find(|pid| traced(pid)).and_then(|pid| pid.parse().ok());
    (key, pid.unwrap_or_default())
}

fn what_stands_still_takes_signals_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::start();
    let (key, pid) = long(&mut kernel, &folder, 16 << 30);
    // Others don't wait for it.
    let other = kernel.spawn(sh("exit 3")).unwrap();
    assert_eq!(kernel.exited(other.process).0, ExitStatus::Code(3));
    kernel.ended(other.process);
    assert_eq!(kernel.signal(key, libc::SIGKILL, Scope::Leader), Ok(1));
    let gone = SpawnFailure { stage: SpawnStage::Measure, errno: libc::ESRCH };
    assert_eq!(kernel.spawned(key).unwrap_err(), gone);
    eventually("it is gone", || pid_is_gone(pid));
    // One that doesn't end it there is waiting for it when it runs.
    let (key, _) = long(&mut kernel, &folder, 64 << 20);
    assert_eq!(kernel.signal(key, libc::SIGTERM, Scope::Tree), Ok(1));
    if kernel.spawned(key).is_ok() {
        let signal = ExitStatus::Signal { signal: libc::SIGTERM, core: false };
        assert_eq!(kernel.exited(key).0, signal);
        kernel.ended(key);
    }
}

fn a_keeper_that_ends_takes_along_what_stands_still() {
    let folder = tempfile::tempdir().unwrap();
    let mut kernel = Kernel::start();
    let (_, pid) = long(&mut kernel, &folder, 16 << 30);
    let keeper = kernel.lose_lanes();
    assert_eq!(link::reap(keeper).unwrap(), 0);
    eventually("it is gone", || pid_is_gone(pid));
    // Not even a keeper that is killed leaves it running.
    let mut kernel = Kernel::start();
    let (_, pid) = long(&mut kernel, &folder, 16 << 30);
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(kernel.keeper_pid()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    eventually("it is gone", || pid_is_gone(pid));
    let keeper = kernel.lose_lanes();
    assert_eq!(link::reap(keeper).unwrap(), 128 + 9);
}

/// A pipe that a client would write, and its size.
fn inlet() -> (OwnedFd, std::fs::File, Option<u32>) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), std::fs::File::from(OwnedFd::from(writer)), Some(65_536))
}

fn what_a_client_writes_by_is_held_handed_over_and_let_go_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let mut kernel = Kernel::launch(&held(&path));
    let (reader, mut pipe, pipe_bytes) = inlet();
    let piped = kernel.hold_producer(pipe_bytes, &[reader.as_fd()]);
    drop(reader);
    let lent = kairo_shm::producer::Lent::create(8192).unwrap();
    let (bell, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let in_place = kernel.hold_producer(None, &[lent.ring(), lent.page(), bell.as_fd()]);
    kernel.hold_stream(in_place, End::Stdout, 0, 1, lent.account().descriptor());
    drop((lent, bell));
    assert_eq!(kernel.signal(piped, libc::SIGKILL, Scope::Tree), Ok(0), "there is nobody");
    assert_eq!(kernel.signal(piped, libc::SIGKILL, Scope::Leader), Ok(0), "nor a leader");
    pipe.write_all(b"before").unwrap();
    let pid = kernel.lose_lanes();
    pipe.write_all(b", after").unwrap();
    let Inheritance { lanes, mut heirs, .. } = take_over(&path, 1);
    heirs.sort_unstable_by_key(|heir| heir.session.process.serial);
    let [first, second] = heirs.as_mut_slice() else { panic!("both are there") };
    assert!(first.session.produced && first.session.lending.is_none() && first.session.exit.is_none());
    assert_eq!((first.session.pid, first.session.record.as_slice()), (0, &b"its record"[..]));
    assert!(second.session.produced && second.session.lending.is_some());
    assert!(first.end(Channel::Stdout).is_none() && second.end(Channel::Stdout).is_none());
    assert_eq!(second.rings[0].as_ref().unwrap().taken(), 0);
    let (held_end, bytes) = first.session.ends[End::Stdout as usize].as_ref().unwrap();
    assert_eq!(Some(*bytes), pipe_bytes);
    assert_eq!(keeping::read_until(held_end.as_fd(), b"after"), b"before, after");
    let mut kernel = Kernel::succeed(pid, lanes, 100);
    drop(heirs);
    kernel.end_producer(piped, ExitStatus::Code(3));
    assert_eq!(kernel.exited(piped).0, ExitStatus::Code(3));
    kernel.ended(piped);
    kernel.end_producer(piped, ExitStatus::Code(4));
    kernel.forget(in_place);
    assert!(kernel.nothing_more(), "an end is told once, and what is forgotten has none");
    assert_eq!(pipe.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(std::io::Read::read(&mut &theirs, &mut [0]).unwrap(), 0, "its doorbell is hung up");
    // Not acknowledged it is told to the next one, too.
    let pid = kernel.lose_lanes();
    let Inheritance { lanes, heirs, .. } = take_over(&path, 1);
    assert_eq!((heirs.len(), heirs[0].session.exit), (1, None));
    assert_eq!(heirs[0].end(Channel::Stdout).unwrap().total_bytes, 0);
    let mut kernel = Kernel::succeed(pid, lanes, 200);
    assert_eq!(kernel.exited(piped).0, ExitStatus::Code(3));
    kernel.ended(piped);
    kernel.acknowledge(piped);
    kernel.acknowledge(piped);
    kernel.forget(piped);
    kernel.leave();
    assert_eq!(link::reap(kernel.lose_lanes()).unwrap(), 0, "it has nothing left");
    assert!(!path.with_extension("estate").exists());
}

/// Who has left its session and its environment belongs to the only tree there is.
fn a_producer_is_nobodys_parent() {
    let mut kernel = Kernel::start();
    let (reader, pipe, pipe_bytes) = inlet();
    kernel.hold_producer(pipe_bytes, &[reader.as_fd()]);
    let script = "setsid env -i sh -c 'echo up; exec sleep 1000' & read x";
    let spawned = kernel.spawn(sh(script)).unwrap();
    let (Some(stdin), Some(Output::Pipe(stdout))) = (&spawned.stdin, &spawned.stdout) else {
        panic!("pipes")
    };
    assert_eq!(keeping::read_until(&stdout.fd, b"up\n"), b"up\n");
    std::fs::File::from(stdin.fd.try_clone().unwrap()).write_all(b"go\n").unwrap();
    assert_eq!(kernel.exited(spawned.process).0, ExitStatus::Code(0));
    assert_eq!(kernel.signal(spawned.process, libc::SIGTERM, Scope::Tree), Ok(1), "it is that one's");
    kernel.ended(spawned.process);
    drop(pipe);
}

fn what_a_client_wrote_last_is_left_in_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let (path, left) = (folder.path().join("keeper.sock"), folder.path().join("keeper.estate"));
    let mut kernel = Kernel::launch(&held(&path));
    let (reader, mut pipe, pipe_bytes) = inlet();
    let process = kernel.hold_producer(pipe_bytes, &[reader.as_fd()]);
    drop(reader);
    kernel.leave();
    let pid = kernel.lose_lanes();
    pipe.write_all(b"unread").unwrap();
    assert_eq!(Estate::receive(&path, Duration::from_secs(10)).unwrap().sessions.len(), 1, "it is written");
    drop(pipe);
    assert_eq!(link::reap(pid).unwrap(), 0, "nobody writes, and its kernel has left in order");
    let keeper = link::launch(&Launch { lanes: 0, resume: Some(left), ..held(&path) }).unwrap();
    let Inheritance { lanes, heirs, .. } = settle(begun(&path), 1, |_| SIZE).unwrap();
    let (stdout, _) = heirs[0].session.ends[End::Stdout as usize].as_ref().unwrap();
    assert_eq!(keeping::read_to_end(stdout), b"unread");
    let mut kernel = Kernel::succeed(keeper.pid, lanes, 100);
    assert_eq!(kernel.exited(process).0, ExitStatus::Code(0));
    kernel.ended(process);
}

/// What a successor of an earlier version says, in the order of its kinds.
#[derive(serde::Serialize)]
#[expect(dead_code, reason = "their places count")]
enum Earlier {
    Hello { version: u16, pid: i32 },
    Acknowledge { number: u32 },
    Shutdown { grace_ns: u64 },
    Replace,
    Lane,
    Adopt { kernel_pid: i32 },
}

fn what_a_client_writes_ends_with_the_first_kernel_that_knows_nothing_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.sock");
    let mut kernel = Kernel::launch(&held(&path));
    let (reader, mut pipe, pipe_bytes) = inlet();
    let process = kernel.hold_producer(pipe_bytes, &[reader.as_fd()]);
    drop(reader);
    let pid = kernel.lose_lanes();
    pipe.write_all(b"held").unwrap();
    let wire = system::connect_packets(&path).unwrap();
    let say = |message: &Earlier, fds: &[std::os::fd::BorrowedFd<'_>]| {
        socket::send_packet(wire.as_fd(), &rmp_serde::to_vec(message).unwrap(), fds).unwrap();
    };
    let hear = || {
        let (mut packet, mut fds) = ([0; 4096], Vec::new());
        keeping::wait_for(wire.as_fd(), rustix::event::PollFlags::IN, Duration::from_secs(10));
        let bytes = socket::receive_packet(wire.as_fd(), &mut packet, &mut fds).unwrap();
        String::from_utf8_lossy(&packet[..bytes]).into_owned()
    };
    say(&Earlier::Hello { version: VERSION_PRODUCES - 1, pid: 1 }, &[]);
    assert!(hear().contains("Hello"));
    assert!(hear().contains("Complete"), "there is nothing it could understand");
    let (lane, theirs) = system::lane_pairs(1).unwrap();
    say(&Earlier::Lane, &[theirs[0].as_fd()]);
    say(&Earlier::Adopt { kernel_pid: std::process::id() as i32 }, &[]);
    assert!(hear().contains("Adopted"));
    let mut kernel = Kernel::succeed(pid, lane, 100);
    assert!(kernel.nothing_more(), "nor is it told an end");
    assert_eq!(kernel.signal(process, libc::SIGCONT, Scope::Tree), Ok(0));
    assert_eq!(pipe.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
