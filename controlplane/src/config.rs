//! What the control plane is told about the machine and about its own limits, once, before it starts.
//!
//! Nothing in this crate reads the environment, a file or the user database: whoever starts a kernel reads them
//! and hands them in here. Invariant: a configuration never changes while its kernel lives.

use crate::auth::rules::Policy;
use crate::quotas::bounds::Rules;
use kairo_dataplane::budget::Budget;
use kairo_dataplane::command::{Credentials, HistorySize};
use kairo_dataplane::limits::{HISTORY_BYTES_MAX, HISTORY_HEAD_BYTES, HISTORY_TAIL_BYTES, PIPE_BYTES};
use kairo_sandbox::ability::Ability;
use kairo_wire::limits::STDIN_PARKED_BYTES_MAX;
use kairo_wire::methods::options::{Rlimit, SignalName};
use kairo_wire::methods::system::Fact;
use std::fmt;
use std::sync::Arc;

/// Everything a kernel is told.
pub struct Config {
    /// The daemon's user: its administrator.
    pub owner_uid: u32,
    /// The daemon's pid.
    pub pid: i32,
    /// The daemon's version.
    pub version: String,
    /// True in `kairo run`: descriptors of this process may be inherited by children and written to.
    pub embedded: bool,
    /// Streams can be written to disk.
    pub spools: bool,
    /// Where the daemon listens; children find it in `KAIRO_IPC_SOCKET`.
    pub socket_path: Option<Vec<u8>>,
    /// The environment at the daemon's start, names and values.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// The users of the machine.
    pub accounts: Box<dyn Accounts>,
    /// The adapters there are.
    pub adapters: Box<dyn Adapters>,
    /// What this machine can enforce.
    pub ability: Ability,
    /// What is approved and forbidden without asking.
    pub policy: Arc<Policy>,
    /// What `kernel.doctor` answers.
    pub facts: Vec<Fact>,
    /// How long and how many.
    pub limits: Limits,
    /// How much each principal may have.
    pub quotas: Rules,
    /// The memory of all histories, as the reactors count it.
    pub budget: Arc<Budget>,
    /// What the operating system calls things.
    pub numbers: Numbers,
}

impl Config {
    /// Of a kernel with no machine around it, whose log is whoever drives it: for tests, simulations and benches.
    pub fn alone(owner_uid: u32) -> Config {
        Config {
            owner_uid,
            pid: 99,
            version: "alone".to_owned(),
            embedded: false,
            spools: true,
            socket_path: None,
            environment: Vec::new(),
            accounts: Box::new(NoAccounts),
            adapters: Box::new(NoAdapters),
            ability: Ability::none(),
            policy: Arc::default(),
            facts: Vec::new(),
            budget: Arc::new(Budget::new(1 << 30)),
            limits: Limits::default(),
            quotas: Rules::default(),
            numbers: Numbers::LINUX,
        }
    }
}

impl fmt::Debug for Config {
    /// Without the environment: it may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("owner_uid", &self.owner_uid)
            .field("pid", &self.pid)
            .field("version", &self.version)
            .field("embedded", &self.embedded)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The user database. Called under the control plane's lock, so it must answer from memory.
pub trait Accounts: Send {
    /// The account of a user id.
    fn by_uid(&self, uid: u32) -> Option<Account>;
    /// The account of a name.
    fn by_name(&self, name: &str) -> Option<Account>;
}

/// No users at all: for tests and machines without a database.
#[derive(Clone, Copy, Debug)]
pub struct NoAccounts;

impl Accounts for NoAccounts {
    fn by_uid(&self, _: u32) -> Option<Account> {
        None
    }
    fn by_name(&self, _: &str) -> Option<Account> {
        None
    }
}

/// The adapters: what reads the output of programs for how far they are. Called under the control plane's lock, so it
/// answers from memory.
pub trait Adapters: Send {
    /// The one that is asked for by name, or by `auto`, for a program (the first word of its command). An error: there is
    /// none of that name. None: no one suits.
    fn choose(&self, asked: &str, program: &[u8]) -> Result<Option<Adapter>, NoSuchAdapter>;
    /// What a process of this session is started with.
    fn prepare(&self, adapter: &str, session: &str) -> Preparation;
}

/// There is no adapter of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchAdapter;

/// An adapter, as far as a spawn depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// It reads the stderr of the program.
    pub stderr: bool,
    /// The program reports into a file of the daemon's user.
    pub side: bool,
}

/// What an adapter has a program started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preparation {
    /// Words between the program and its arguments.
    pub arguments: Vec<Vec<u8>>,
    /// Variables, unless they are set.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
}

/// No adapters at all: for tests.
#[derive(Clone, Copy, Debug)]
pub struct NoAdapters;

impl Adapters for NoAdapters {
    fn choose(&self, _: &str, _: &[u8]) -> Result<Option<Adapter>, NoSuchAdapter> {
        Err(NoSuchAdapter)
    }
    fn prepare(&self, _: &str, _: &str) -> Preparation {
        Preparation::default()
    }
}

/// One user, as passwd(5) and group(5) tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User, group, and the groups it is a member of.
    pub credentials: Credentials,
    /// Home folder.
    pub home: Vec<u8>,
    /// Login shell.
    pub shell: Vec<u8>,
}

/// How long and how many. Times are milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Between SIGTERM and SIGKILL of `process.kill`.
    pub kill_grace_ms: u64,
    /// The same, once a spawn wants the id.
    pub reuse_grace_ms: u64,
    /// How long that spawn waits for the tree to be gone.
    pub reuse_wait_ms: u64,
    /// How long an exited process is remembered.
    pub retention_ms: u64,
    /// How long the clients of a former kernel are waited for, by what was to die with them.
    pub reconnect_grace_ms: u64,
    /// How long a subscriber to events that has too many unread may read nothing before it is cut.
    pub subscriber_patience_ms: u64,
    /// How many exited processes are remembered.
    pub retained_max: usize,
    /// How long a request for permissions waits for a decision.
    pub request_ms: u64,
    /// The same, once the child that asked is gone with its connections.
    pub request_left_ms: u64,
    /// How long the receipt of a keyed call counts.
    pub receipt_ms: u64,
    /// How many receipts are kept.
    pub receipts_max: usize,
    /// Durable consumers of one user.
    pub consumers_max: usize,
    /// Bytes of events that may wait to be written before clients can publish no more.
    pub unwritten_bytes_max: usize,
    /// Topic subscriptions of one connection.
    pub topics_max: usize,
    /// Stream subscriptions of one connection that are being served.
    pub streams_max: usize,
    /// Output kept of a process by default.
    pub history: HistorySize,
    /// Most a caller may ask to be kept: of a head, of a tail, or by `bufferSize`, bytes.
    pub history_bytes_max: u32,
    /// Pipe size asked for by default, bytes.
    pub pipe_bytes: u32,
    /// Bytes one connection may have waiting for stdins.
    pub parked_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            kill_grace_ms: 5_000,
            reuse_grace_ms: 2_000,
            reuse_wait_ms: 4_000,
            retention_ms: 3_600_000,
            reconnect_grace_ms: 10_000,
            subscriber_patience_ms: 30_000,
            retained_max: 10_000,
            request_ms: 86_400_000,
            request_left_ms: 3_600_000,
            receipt_ms: 86_400_000,
            receipts_max: 100_000,
            consumers_max: 256,
            unwritten_bytes_max: 32 << 20,
            topics_max: 256,
            streams_max: 4_096,
            history: HistorySize { head_bytes: HISTORY_HEAD_BYTES, tail_bytes: HISTORY_TAIL_BYTES },
            history_bytes_max: HISTORY_BYTES_MAX,
            pipe_bytes: PIPE_BYTES,
            parked_bytes_max: STDIN_PARKED_BYTES_MAX,
        }
    }
}

/// Numbers that differ between operating systems.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// RLIMIT_* of setrlimit(2).
    pub rlimit: fn(Rlimit) -> u32,
    /// Of a signal.
    pub signal: fn(&SignalName) -> i32,
}

impl Numbers {
    /// Linux on x86, ARM and most others.
    pub const LINUX: Numbers = Numbers {
        rlimit: |resource| match resource {
            Rlimit::Cpu => 0,
            Rlimit::Fsize => 1,
            Rlimit::Data => 2,
            Rlimit::Stack => 3,
            Rlimit::Core => 4,
            Rlimit::Nproc => 6,
            Rlimit::Nofile => 7,
            Rlimit::Memlock => 8,
            Rlimit::As => 9,
        },
        signal: SignalName::number,
    };
}
