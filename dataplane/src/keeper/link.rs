//! The kernel's side of a lane: messages to bytes and back.
//!
//! Pure, and generic over the descriptor type of the driver: a reactor sends and receives the packets itself
//! (`Driver::send_packet`, `Driver::receive_packet`), so that it runs against a simulated keeper too. Two
//! things here do touch the system: [`launch`], which starts a keeper before any thread exists, and
//! [`pack`], which moves a message that is too long for a packet into a memfd.

use crate::command::{Scope, Spawn};
use crate::control::{ExitStatus, LimitInForce, Program, SpawnFailure, Tree, Usage};
use crate::keeper::protocol::{
    BULK_BYTES_MAX, Blob, End, INLET_PATH_BYTES_MAX, Limit, NOTE_BYTES_MAX, PACKET_BYTES_MAX, ProtocolError,
    RECORD_BYTES_MAX, SpawnRequest, ToKeeper, ToKernel, VERSION, Wires, spoken,
};
use crate::key::{ProcessKey, Ticket};
use crate::sys::process;
use kairo_sandbox::containment::Finding;
use serde::Serialize;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What arrived from the keeper, its descriptors in place.
#[derive(Debug)]
pub enum FromKeeper<F> {
    /// First on every lane.
    Hello {
        /// The keeper's.
        pid: i32,
        /// What both speak.
        version: u16,
    },
    /// The child runs.
    Spawned(Box<Spawned<F>>),
    /// The child that is about to be told of is contained.
    Contained {
        /// Which.
        process: ProcessKey,
        /// What was met, and seen inside.
        finding: Box<Finding>,
    },
    /// The child that is about to be told of, one way or the other, executes this.
    Measured {
        /// Which.
        process: ProcessKey,
        /// What.
        program: Box<Program>,
    },
    /// There is no child.
    SpawnFailed {
        /// Which.
        process: ProcessKey,
        /// Why.
        failure: SpawnFailure,
    },
    /// The leader ended. Answer with [`encode_acknowledge`].
    Exited {
        /// Which.
        process: ProcessKey,
        /// How.
        status: ExitStatus,
        /// What it used.
        usage: Usage,
        /// When it was reaped, CLOCK_MONOTONIC nanoseconds.
        at_ns: u64,
    },
    /// Nobody of the tree is left.
    TreeEnded {
        /// Whose.
        process: ProcessKey,
    },
    /// A signal with a ticket was sent to so many, or failed with an errno.
    Signalled {
        /// From the request.
        ticket: Ticket,
        /// 0 for a process that has ended.
        outcome: Result<u32, i32>,
    },
    /// The ring is kept: the page may name it.
    Held {
        /// Whose.
        process: ProcessKey,
        /// Which stream.
        end: End,
        /// From the request.
        generation: u32,
    },
}

/// A running child and our ends of it. All ends are non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Spawned<F> {
    /// Which.
    pub process: ProcessKey,
    /// Its pid.
    pub pid: i32,
    /// `/proc/PID/stat` field 22.
    pub start_ticks: u64,
    /// How well its tree is known.
    pub tree: Tree,
    /// What limits hold.
    pub limits: Vec<LimitInForce>,
    /// Where stdin is written; none for a PTY (write to its master), `/dev/null` and inherited stdin.
    pub stdin: Option<Pipe<F>>,
    /// What is read: a pipe or the PTY master. None where another child reads it.
    pub stdout: Option<Output<F>>,
    /// None if stderr is not a pipe of its own.
    pub stderr: Option<Pipe<F>>,
}

/// Our end of a pipe.
#[derive(Debug)]
pub struct Pipe<F> {
    /// The end.
    pub fd: F,
    /// Size in force, which may be less than was asked for.
    pub bytes: u32,
}

/// Where a child's descriptor 1 arrives.
#[derive(Debug)]
pub enum Output<F> {
    /// Read end.
    Pipe(Pipe<F>),
    /// Master: read it, write it, resize it.
    Terminal(F),
}

/// Clears `packet` and puts one message there.
fn encode(message: &impl Serialize, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    packet.clear();
    Ok(rmp_serde::encode::write(packet, message)?)
}

/// First on every lane.
pub fn encode_hello(kernel_pid: i32, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Hello { version: VERSION, kernel_pid }, packet)
}

/// Start a process. `KAIRO_SESSION` is put into its environment here, whatever the command's `env` says of it.
///
/// The result may exceed a packet: hand it to [`pack`]. Errors: empty argv, a NUL in a string, a record or a
/// message that is too long.
pub fn encode_spawn(spawn: &Spawn, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    if spawn.argv.is_empty() {
        return Err(ProtocolError::EmptyArgv);
    }
    if spawn.record.len() > RECORD_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "record", bytes: spawn.record.len() });
    }
    let mut marker = Vec::with_capacity(MARKER.len() + spawn.session.len());
    marker.extend_from_slice(MARKER);
    marker.extend_from_slice(spawn.session.as_bytes());
    // First, where it is found without reading all of a large environment.
    let kept = std::iter::once(&marker).chain(spawn.env.iter().filter(|entry| !entry.starts_with(MARKER)));
    let argv = terminated(spawn.argv.iter(), "argv")?;
    let env = terminated(kept, "env")?;
    refuse_nul(&spawn.search_path, "search_path")?;
    refuse_nul(spawn.cwd.as_deref().unwrap_or_default(), "cwd")?;
    let request = SpawnRequest {
        process: spawn.process,
        session: &spawn.session,
        argv: Blob(&argv),
        env: Blob(&env),
        search_path: Blob(&spawn.search_path),
        cwd: spawn.cwd.as_deref().map(Blob),
        stdio: spawn.stdio,
        credentials: spawn.credentials.clone(),
        rlimits: spawn.rlimits.clone(),
        cgroup: spawn.cgroup,
        record: Blob(&spawn.record),
    };
    let containment = spawn.containment.clone();
    let wiring = &spawn.wiring;
    refuse_nul(wiring.stdin_file.as_deref().unwrap_or_default(), "stdin file")?;
    let message = match (containment, spawn.program) {
        (containment, check) if wiring.is_joined() => {
            let file = wiring.stdin_file.as_deref().map(Blob);
            let wires = Wires { file, stdin: wiring.stdin.is_some(), stdout: wiring.stdout.is_some() };
            ToKeeper::Join { spawn: request, containment, check, wires }
        }
        (None, None) => ToKeeper::Spawn(request),
        (Some(containment), None) => ToKeeper::Contain { spawn: request, containment },
        (containment, Some(check)) => ToKeeper::Measure { spawn: request, containment, check },
    };
    encode(&message, packet)?;
    if !spawn.placement.cpus.is_empty() {
        let start = std::mem::take(packet);
        encode(&ToKeeper::Placed { start: Blob(&start), cpus: spawn.placement.cpus.clone() }, packet)?;
    }
    if packet.len() > BULK_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "message", bytes: packet.len() });
    }
    Ok(())
}

/// What the environment of every member of a session begins an entry with.
pub const MARKER: &[u8] = b"KAIRO_SESSION=";

fn terminated<'a>(
    strings: impl Iterator<Item = &'a Vec<u8>> + Clone,
    what: &'static str,
) -> Result<Vec<u8>, ProtocolError> {
    let mut whole = Vec::with_capacity(strings.clone().map(|string| string.len() + 1).sum());
    for string in strings {
        refuse_nul(string, what)?;
        whole.extend_from_slice(string);
        whole.push(0);
    }
    Ok(whole)
}

fn refuse_nul(bytes: &[u8], what: &'static str) -> Result<(), ProtocolError> {
    if memchr::memchr(0, bytes).is_some() { Err(ProtocolError::Nul { what }) } else { Ok(()) }
}

/// Send a signal (1 to 64).
pub fn encode_signal(
    process: ProcessKey,
    signal: i32,
    scope: Scope,
    ticket: Option<Ticket>,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Signal { process, signal, scope, ticket }, packet)
}

/// The exit was heard.
pub fn encode_acknowledge(process: ProcessKey, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Acknowledge { process }, packet)
}

/// Drop the keeper's duplicate of one end.
pub fn encode_close_channel(
    process: ProcessKey,
    end: End,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::CloseChannel { process, end }, packet)
}

/// Drop all that is kept of a process.
pub fn encode_forget(process: ProcessKey, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Forget { process }, packet)
}

/// Keep a process's inbox: send its memfd with the packet.
pub fn encode_hold_input(process: ProcessKey, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::HoldInput { process }, packet)
}

/// Keep what a reader is given bytes by, raw or framed: send its end and its place, in this order, with the packet.
pub fn encode_hold_outlet(
    process: ProcessKey,
    serial: u64,
    (end, framed): (End, bool),
    note: &[u8],
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "note", bytes: note.len() });
    }
    let note = Blob(note);
    let message = match framed {
        true => ToKeeper::HoldFramed { process, serial, end, note },
        false => ToKeeper::HoldOutlet { process, serial, end, note },
    };
    encode(&message, packet)
}

/// Let go of what a reader was given bytes by.
pub fn encode_drop_outlet(
    process: ProcessKey,
    serial: u64,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::DropOutlet { process, serial }, packet)
}

/// Keep what a client is to write a process's output by: send it with the packet.
pub fn encode_hold_producer(
    spawn: &Spawn,
    pipe_bytes: Option<u32>,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    let (process, session, record) = (spawn.process, &spawn.session, &spawn.record);
    if record.len() > RECORD_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "record", bytes: record.len() });
    }
    encode(&ToKeeper::HoldProducer { process, session, pipe_bytes, record: Blob(record) }, packet)
}

/// Let go of what a client wrote a process's output by.
pub fn encode_end_producer(
    process: ProcessKey,
    status: ExitStatus,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::EndProducer { process, status }, packet)
}

/// Keep a fifo that a stdin is written by, which is at `path` until somebody opens it: send its end with the packet.
pub fn encode_hold_inlet(
    process: ProcessKey,
    path: &[u8],
    until_ns: u64,
    closes: bool,
    note: &[u8],
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    for (what, bytes, max) in [("note", note, NOTE_BYTES_MAX), ("path", path, INLET_PATH_BYTES_MAX)] {
        if bytes.len() > max {
            return Err(ProtocolError::TooLong { what, bytes: bytes.len() });
        }
    }
    encode(&ToKeeper::HoldInlet { process, path: Blob(path), until_ns, closes, note: Blob(note) }, packet)
}

/// Let go of what a stdin was written by.
pub fn encode_drop_inlet(process: ProcessKey, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::DropInlet { process }, packet)
}

/// So many readers wait for a first byte of each output. Only for a keeper that speaks
/// [`VERSION_AWAITS`](crate::keeper::protocol::VERSION_AWAITS).
pub fn encode_blockers(
    process: ProcessKey,
    counts: [u32; 2],
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Blockers { process, counts }, packet)
}

/// Keep a note of a process.
pub fn encode_annotate(process: ProcessKey, note: &[u8], packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(ProtocolError::TooLong { what: "note", bytes: note.len() });
    }
    encode(&ToKeeper::Annotate { process, note: Blob(note) }, packet)
}

/// The kernel goes, and means to be followed.
pub fn encode_leave(packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Leave, packet)
}

/// Several encoded messages without descriptors. Only for a keeper that speaks version 4.
pub fn encode_several<'a>(
    messages: impl Iterator<Item = &'a [u8]>,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Several { messages: messages.map(Blob).collect() }, packet)
}

/// Keep this reactor's page, and read end and write end of its output staging pipe and of its input staging pipe: send
/// them, in this order, with the packet.
pub fn encode_hold_reactor(packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::HoldReactor, packet)
}

/// Keep a stream's ring: send its memfd with the packet; [`FromKeeper::Held`] comes back.
pub fn encode_hold_stream(
    process: ProcessKey,
    end: End,
    slot: u32,
    generation: u32,
    packet: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    encode(&ToKeeper::HoldStream { process, end, slot, generation }, packet)
}

/// End every tree, then the keeper.
pub fn encode_shutdown(grace_ns: u64, packet: &mut Vec<u8>) -> Result<(), ProtocolError> {
    encode(&ToKeeper::Shutdown { grace_ns }, packet)
}

/// Moves a message over [`PACKET_BYTES_MAX`] into a sealed memfd, which the caller sends with what is left in
/// `packet`. `None`: the packet is fine as it is and takes no descriptor.
pub fn pack(packet: &mut Vec<u8>) -> io::Result<Option<OwnedFd>> {
    if packet.len() <= PACKET_BYTES_MAX {
        return Ok(None);
    }
    let memory = process::sealed_memory(packet.as_slice())?;
    let bytes = packet.len() as u64;
    encode(&ToKeeper::Bulk { bytes }, packet).map_err(io::Error::other)?;
    Ok(Some(memory))
}

/// One packet with the descriptors that came beside it.
pub fn decode<F>(packet: &[u8], fds: Vec<F>) -> Result<FromKeeper<F>, ProtocolError> {
    let message: ToKernel = rmp_serde::from_slice(packet)?;
    let got = fds.len();
    let without = |expected: FromKeeper<F>| match got {
        0 => Ok(expected),
        _ => Err(ProtocolError::Descriptors { expected: 0, got }),
    };
    match message {
        ToKernel::Hello { version, pid } => {
            let version = spoken(VERSION, version).ok_or(ProtocolError::Version(version))?;
            without(FromKeeper::Hello { pid, version })
        }
        ToKernel::Contained { process, finding } => {
            without(FromKeeper::Contained { process, finding: Box::new(finding) })
        }
        ToKernel::Measured { process, program } => {
            without(FromKeeper::Measured { process, program: Box::new(program) })
        }
        ToKernel::SpawnFailed { process, failure } => without(FromKeeper::SpawnFailed { process, failure }),
        ToKernel::Exited { process, status, usage, at_ns } => {
            without(FromKeeper::Exited { process, status, usage, at_ns })
        }
        ToKernel::TreeEnded { process } => without(FromKeeper::TreeEnded { process }),
        ToKernel::Signalled { ticket, outcome } => without(FromKeeper::Signalled { ticket, outcome }),
        ToKernel::Held { process, end, generation } => without(FromKeeper::Held { process, end, generation }),
        ToKernel::Spawned { process, pid, start_ticks, tree, limits, terminal, pipe_bytes } => {
            let expected = pipe_bytes.iter().flatten().count();
            let mut fds = fds.into_iter();
            let mut take = |bytes: Option<u32>| bytes.and_then(|bytes| Some(Pipe { fd: fds.next()?, bytes }));
            let [stdin, stdout, stderr] = pipe_bytes.map(&mut take);
            if expected != got || (terminal && stdout.is_none()) {
                return Err(ProtocolError::Descriptors {
                    expected: expected.max(usize::from(terminal)),
                    got,
                });
            }
            let whole = |pipe: Pipe<F>| if terminal { Output::Terminal(pipe.fd) } else { Output::Pipe(pipe) };
            let stdout = stdout.map(whole);
            let limits = limits.into_iter().map(in_force).collect();
            let spawned = Spawned { process, pid, start_ticks, tree, limits, stdin, stdout, stderr };
            Ok(FromKeeper::Spawned(Box::new(spawned)))
        }
    }
}

/// A limit, as whoever decides knows it.
pub(crate) fn in_force(limit: Limit) -> LimitInForce {
    LimitInForce { name: limit.name, mechanism: limit.mechanism.name(), value: limit.value }
}

/// How to start a keeper.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program; `None` is this very one, executed afresh.
    pub program: Option<PathBuf>,
    /// What comes before the keeper's own flags, `keeper` for the `kairo` binary.
    pub arguments: Vec<OsString>,
    /// One lane per reactor; none for a keeper that begins from what another one left, and is then taken over.
    pub lanes: u16,
    /// What that one left.
    pub resume: Option<PathBuf>,
    /// What it does when its kernel is gone.
    pub on_kernel_loss: OnKernelLoss,
    /// Keep our stdin and stderr, so that children may inherit them (`kairo run`).
    pub embedded: bool,
    /// Soft and hard RLIMIT_NOFILE for children; `None`: as the keeper finds it. A kernel that raised its own
    /// names here what it was started with.
    pub nofile: Option<(u64, u64)>,
    /// When a session gets a cgroup of its own.
    pub cgroups: CgroupUse,
    /// The highest version of the protocol to speak; [`VERSION`] unless an older keeper is wanted.
    pub version: u16,
}

/// When a session gets a cgroup of its own, where that can be had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupUse {
    /// Only if it asks for a limit.
    #[default]
    Limits,
    /// Always: trees are exact.
    Always,
    /// Never: a session that asks for a limit is refused.
    Never,
}

/// What a keeper does when all its lanes have closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnKernelLoss {
    /// SIGTERM to every tree, SIGKILL 2 s later, exit.
    #[default]
    End,
    /// Keep everything and hand it to whoever of the same user connects to this socket (created 0600).
    Hold {
        /// Where.
        handover: PathBuf,
    },
}

/// A keeper that runs.
#[derive(Debug)]
pub struct Launched {
    /// Our child: [`reap`] it once its lanes have closed.
    pub pid: i32,
    /// One per reactor, non-blocking, close-on-exec, `SOCK_SEQPACKET`.
    pub lanes: Vec<OwnedFd>,
}

/// Starts a keeper. To be called before this process has threads.
pub fn launch(launch: &Launch) -> io::Result<Launched> {
    let (lanes, theirs) = process::lane_pairs(launch.lanes)?;
    let mut flags = launch.arguments.clone();
    for lane in &theirs {
        flags.push("--lane".into());
        flags.push(process::descriptor_number(lane).to_string().into());
    }
    match &launch.on_kernel_loss {
        OnKernelLoss::End => flags.extend(["--on-kernel-loss".into(), "end".into()]),
        OnKernelLoss::Hold { handover } => flags.extend([
            "--on-kernel-loss".into(),
            "hold".into(),
            "--handover".into(),
            handover.clone().into_os_string(),
        ]),
    }
    if let Some(resume) = &launch.resume {
        flags.extend(["--resume".into(), resume.clone().into_os_string()]);
    }
    if launch.embedded {
        flags.push("--embedded".into());
    }
    if let Some((soft, hard)) = launch.nofile {
        flags.extend(["--nofile".into(), format!("{soft}:{hard}").into()]);
    }
    let cgroups = match launch.cgroups {
        CgroupUse::Limits => "limits",
        CgroupUse::Always => "always",
        CgroupUse::Never => "never",
    };
    flags.extend(["--cgroups".into(), cgroups.into(), "--speak".into(), launch.version.to_string().into()]);
    let pid = process::launch(launch.program.as_deref(), &flags, &theirs, launch.embedded)?;
    Ok(Launched { pid, lanes })
}

/// Waits for a launched keeper to end and returns its exit code, 128+n for a signal.
pub fn reap(pid: i32) -> io::Result<i32> {
    process::wait_for(pid)
}

/// The exit code of a launched keeper that has ended; none while it lives.
pub fn ended(pid: i32) -> io::Result<Option<i32>> {
    process::look_for(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::protocol::{Limit, Mechanism};
    use crate::key::ReactorId;

    const PROCESS: ProcessKey = ProcessKey { home: ReactorId(1), serial: u64::MAX };

    /// Its predecessor takes as many parts as it knows, and is told of no others where there are none.
    #[test]
    fn what_has_no_namespaces_is_said_as_by_the_version_before() {
        use kairo_sandbox::containment::{Containment, Mounted, Namespaces};
        let parts = |packed: Vec<u8>| packed[0] & 0x0f;
        let mut containment = Containment::default();
        let mut finding = Finding::default();
        let pack = |containment: &Containment| rmp_serde::to_vec(containment).unwrap();
        assert_eq!((parts(pack(&containment)), parts(rmp_serde::to_vec(&finding).unwrap())), (7, 5));
        containment.later.namespaces =
            Some(Namespaces { user: true, network: true, ..Namespaces::default() });
        finding.mounted = Some(Mounted { left: vec![1], placeholders: vec![b"/a".to_vec()] });
        assert_eq!(rmp_serde::from_slice::<Containment>(&pack(&containment)).unwrap(), containment);
        let packed = rmp_serde::to_vec(&finding).unwrap();
        assert_eq!(rmp_serde::from_slice::<Finding>(&packed).unwrap(), finding);
    }

    fn packet(message: &ToKernel) -> Vec<u8> {
        rmp_serde::to_vec(message).unwrap()
    }

    fn spawned(terminal: bool, pipe_bytes: [Option<u32>; 3]) -> Vec<u8> {
        let limits = vec![Limit { name: "memory".into(), mechanism: Mechanism::Cgroup, value: 1 }];
        let (process, tree) = (PROCESS, Tree::Exact);
        packet(&ToKernel::Spawned { process, pid: 7, start_ticks: 8, tree, limits, terminal, pipe_bytes })
    }

    #[test]
    fn descriptors_find_their_places() {
        let whole = spawned(false, [Some(1), Some(2), Some(3)]);
        let Ok(FromKeeper::Spawned(child)) = decode(&whole, vec!["in", "out", "err"]) else {
            panic!("a spawned child was sent")
        };
        assert_eq!((child.process, child.pid, child.start_ticks), (PROCESS, 7, 8));
        assert_eq!(child.stdin.map(|pipe| (pipe.fd, pipe.bytes)), Some(("in", 1)));
        assert_eq!(child.stderr.map(|pipe| (pipe.fd, pipe.bytes)), Some(("err", 3)));
        assert!(matches!(child.stdout, Some(Output::Pipe(Pipe { fd: "out", bytes: 2 }))));
        assert_eq!((child.limits[0].name.as_str(), child.limits[0].mechanism), ("memory", "cgroup"));
        let terminal = spawned(true, [None, Some(0), None]);
        let Ok(FromKeeper::Spawned(child)) = decode(&terminal, vec!["master"]) else {
            panic!("a spawned child was sent")
        };
        assert!(matches!(child.stdout, Some(Output::Terminal("master"))));
        assert!(child.stdin.is_none() && child.stderr.is_none());
    }

    #[test]
    fn missing_and_surplus_descriptors_are_an_error() {
        for (terminal, pipe_bytes, given) in [
            (false, [Some(1), Some(2), None], 1),
            (false, [None, Some(2), None], 2),
            (true, [Some(1), None, None], 1),
        ] {
            let refused = decode(&spawned(terminal, pipe_bytes), vec![(); given]);
            assert!(matches!(refused, Err(ProtocolError::Descriptors { got, .. }) if got == given));
        }
        let Ok(FromKeeper::Spawned(child)) = decode(&spawned(false, [Some(1), None, None]), vec!["in"])
        else {
            panic!("what another child reads is not ours")
        };
        assert!(child.stdout.is_none() && child.stdin.is_some());
        let surplus = decode(&packet(&ToKernel::TreeEnded { process: PROCESS }), vec![()]);
        assert!(matches!(surplus, Err(ProtocolError::Descriptors { expected: 0, got: 1 })));
    }

    #[test]
    fn a_version_that_is_too_old_is_refused_by_name_and_a_newer_one_comes_down_to_ours() {
        let hello = |version| decode::<()>(&packet(&ToKernel::Hello { version, pid: 1 }), Vec::new());
        assert!(matches!(hello(1), Err(ProtocolError::Version(1))));
        assert!(matches!(hello(2), Ok(FromKeeper::Hello { version: 2, .. })));
        assert!(matches!(hello(VERSION + 1), Ok(FromKeeper::Hello { version: VERSION, .. })));
    }

    #[test]
    fn no_cut_or_bent_packet_is_taken_for_a_whole_one() {
        let whole = spawned(false, [Some(1), Some(2), Some(3)]);
        for len in 0..whole.len() {
            assert!(decode(&whole[..len], vec![(); 3]).is_err(), "{len} of {} bytes", whole.len());
        }
        // Whatever a bent packet says, it is told without a panic.
        for place in 0..whole.len() {
            for bent in 0..=255 {
                let mut packet = whole.clone();
                packet[place] = bent;
                let _ = decode(&packet, vec![(); 3]);
            }
        }
    }

    #[test]
    fn what_fits_a_packet_takes_no_descriptor() {
        let mut short = vec![1; PACKET_BYTES_MAX];
        assert!(pack(&mut short).unwrap().is_none());
        let mut long = vec![1; PACKET_BYTES_MAX + 1];
        assert!(pack(&mut long).unwrap().is_some());
        let message: ToKeeper<'_> = rmp_serde::from_slice(&long).unwrap();
        assert_eq!(message, ToKeeper::Bulk { bytes: PACKET_BYTES_MAX as u64 + 1 });
    }
}
