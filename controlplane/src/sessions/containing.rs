//! Containment of a spawn: its profile held against this machine before anything is started, its receipt completed when
//! the child is about to run.
//!
//! Invariant: a spawn that says `sandbox` is started contained as its receipt says, or not at all. What can be enforced
//! and how is the sandbox crate's; a plan of it travels with the spawn's own, so a process that is started again is
//! contained again.

use crate::config::{Account, Config};
use crate::kernel::Kernel;
use crate::sessions::environment::Variables;
use crate::sessions::record::Record;
use crate::state::Process;
use kairo_dataplane::command::CgroupLimits;
use kairo_dataplane::key::ConnectionKey;
use kairo_sandbox::ability::Answer;
use kairo_sandbox::containment::{Containment, Finding};
use kairo_sandbox::plan::{Place, Plan, Refusal};
use kairo_sandbox::profile::{Complaint, Environment, Profile, TreeLimits};
use kairo_sandbox::protection::Protection;
use kairo_sandbox::receipt::{Receipt, Standing};
use kairo_sandbox::wish;
use kairo_wire::codec::raw::Raw;
use kairo_wire::error::WireError;
use kairo_wire::methods::options::SpawnOptions;
use kairo_wire::methods::restart::RestartReach;

/// The field of a spawn that asks for it.
const FIELD: &str = "options.sandbox";

/// What is done to one process, and what is said of it.
#[derive(Clone, Debug)]
pub(crate) struct Contained {
    /// For the keeper.
    pub containment: Containment,
    /// Which variables it is given; none for those of anybody.
    pub environment: Option<Environment>,
    /// It may use unix sockets, so the kernel's path means something to it.
    pub finds_paths: bool,
    /// Of its own resources; what it starts has the same for itself.
    rlimits: Vec<(u32, u64)>,
    /// Of its tree; what it starts has the same for itself.
    tree: TreeLimits,
    /// As far as it is known: planned, and once it runs, complete.
    pub receipt: Receipt,
    /// The same, once it is complete, as it is told in each place.
    told: Option<Raw>,
}

/// What whoever asks for a spawn is in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Within<'a> {
    /// Nothing.
    Nothing,
    /// This.
    Sandbox(&'a Contained),
    /// Something a former kernel knew.
    Forgotten,
}

/// How a process is contained.
#[derive(Debug)]
pub(crate) enum Containing {
    /// It isn't.
    Not,
    /// By this kernel.
    By(Box<Contained>),
    /// By a former one, or it may have been.
    Before,
}

impl Containing {
    /// What a keeper's record says of it; one that can't be read says nothing.
    pub(crate) fn recorded(record: Option<&Record>) -> Containing {
        if record.is_none_or(|record| record.contained) { Containing::Before } else { Containing::Not }
    }
}

/// A plan, as a spawn's plan takes it in.
pub(crate) struct Narrowed {
    pub contained: Option<Box<Contained>>,
    pub rlimits: Vec<(u32, u64)>,
    pub cgroup: CgroupLimits,
}

/// What a contained process asks its kernel to start is contained as it is: else it would only have to ask. `given` are
/// the variables of the request, which lose what isn't let in; the limits are those of the request, and become no wider.
pub(crate) fn narrow(
    config: &Config,
    within: Within<'_>,
    (asked, approved): (&SpawnOptions, Option<&Profile>),
    place: (Option<&Account>, Option<&[u8]>),
    given: &mut Variables,
    (rlimits, cgroup): (Vec<(u32, u64)>, CgroupLimits),
) -> Result<Narrowed, WireError> {
    let contained = match (within, &asked.sandbox) {
        (Within::Nothing, None) => match approved {
            None => return Ok(Narrowed { contained: None, rlimits, cgroup }),
            Some(profile) => contain(config, profile, place)?,
        },
        (Within::Nothing, Some(_)) if approved.is_some() => {
            return Err(WireError::invalid(FIELD, "a skill runs in the sandbox of its manifest"));
        }
        (Within::Nothing, Some(wish)) => contain(config, &wished(wish)?, place)?,
        (Within::Forgotten, _) => {
            let why = "it is contained by a kernel that is gone: by what exactly is not known any more";
            return Err(WireError::denied("process.spawn", why));
        }
        (Within::Sandbox(_), wish) if wish.is_some() || approved.is_some() => {
            let why =
                "a contained process starts others in its own sandbox, and can't ask for another one yet";
            return Err(WireError::unsupported(FIELD, why));
        }
        (Within::Sandbox(_), _)
            if asked.restart.reach == RestartReach::Records && !asked.restart.is_never() =>
        {
            let why = "what a contained process starts is contained as long as this kernel lives; ask for reach: kernel";
            return Err(WireError::unsupported("options.restart", why));
        }
        (Within::Sandbox(own), _) => Box::new(Contained { told: None, ..own.clone() }),
    };
    let mut contained = contained;
    if asked.watch && matches!(within, Within::Nothing) {
        watched(config, &mut contained);
    }
    let rules = contained.environment.as_ref();
    contained.receipt.withheld = rules.map(|rules| rules.clean(given)).unwrap_or_default();
    let tree = contained.tree;
    let cgroup = CgroupLimits {
        memory_bytes: narrower(cgroup.memory_bytes, tree.memory_bytes),
        cpu_percent: narrower(cgroup.cpu_percent, tree.cpu_percent),
        pids: narrower(cgroup.pids, tree.pids),
        // The profile's own were planned already; none of them may be less in the end.
        allow_weaker: cgroup.allow_weaker && tree == TreeLimits::default(),
    };
    let rlimits = merged(rlimits, &contained.rlimits);
    Ok(Narrowed { contained: Some(contained), rlimits, cgroup })
}

/// What it is denied is to be told, as far as this machine tells it.
fn watched(config: &Config, contained: &mut Contained) {
    contained.containment.later.log = config.ability.denied_calls.allowed();
    if let Answer::Refused(why) = &config.ability.denied_calls {
        contained.receipt.warnings.push(format!("what it is denied is not told: {why}"));
    }
}

/// Reads a wish.
fn wished(wish: &Raw) -> Result<Profile, WireError> {
    let wish: serde_json::Value =
        wish.decode().map_err(|error| WireError::invalid(FIELD, error.to_string()))?;
    wish::read(wish).map_err(|complaint| complained(&complaint))
}

/// Holds a profile against this machine.
fn contain(
    config: &Config,
    profile: &Profile,
    (account, cwd): (Option<&Account>, Option<&[u8]>),
) -> Result<Box<Contained>, WireError> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let own_home = || config.environment.iter().find(|(name, _)| name == b"HOME").map(|(_, home)| home);
    let home = account.map(|account| &account.home).or_else(own_home);
    let place = Place {
        uid: account.map_or(config.owner_uid, |account| account.credentials.uid),
        home: home.and_then(|home| text(home)),
        folder: cwd.and_then(text),
    };
    let plan = Plan::new(profile, &config.ability, &place).map_err(|refusal| match refusal {
        Refusal::Complaint(complaint) => complained(&complaint),
        Refusal::Protection { protection, .. } => {
            let message = format!("{refusal}; acceptWeaker takes its name");
            WireError::unsupported(FIELD, &message).with("protection", protection.name())
        }
    })?;
    let Plan { tree, rlimits, containment, receipt } = plan;
    let guarded =
        |protection| receipt.of(protection).is_some_and(|entry| entry.standing != Standing::NotAsked);
    let environment = guarded(Protection::Environment).then(|| profile.environment.clone());
    Ok(Box::new(Contained {
        containment,
        environment,
        finds_paths: profile.unix_sockets.any || !profile.unix_sockets.paths.is_empty(),
        rlimits,
        tree,
        receipt,
        told: None,
    }))
}

fn narrower<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// Both, and of two on one resource the smaller.
fn merged(mut rlimits: Vec<(u32, u64)>, others: &[(u32, u64)]) -> Vec<(u32, u64)> {
    for (resource, value) in others {
        match rlimits.iter_mut().find(|(already, _)| already == resource) {
            Some((_, already)) => *already = (*already).min(*value),
            None => rlimits.push((*resource, *value)),
        }
    }
    rlimits
}

fn complained(complaint: &Complaint) -> WireError {
    let field = match complaint.field.as_str() {
        "" => FIELD.to_owned(),
        field => format!("{FIELD}.{field}"),
    };
    WireError::invalid(&field, &complaint.why)
}

impl Kernel {
    /// What a connection's peer is in.
    pub(crate) fn within(&self, connection: ConnectionKey) -> Within<'_> {
        let peer = self.state.connections.get(connection);
        let Some(life) = peer.and_then(|peer| peer.life.as_deref()) else { return Within::Nothing };
        match self.of_life(life) {
            None => Within::Forgotten,
            Some(process) => match &process.contained {
                Containing::Not => Within::Nothing,
                Containing::By(contained) => Within::Sandbox(contained),
                Containing::Before => Within::Forgotten,
            },
        }
    }
}

impl Process {
    /// The keeper has contained it, and it is about to run.
    pub(crate) fn is_contained(&mut self, finding: &Finding) {
        if let Containing::By(contained) = &mut self.contained {
            contained.receipt.complete(&contained.containment, finding);
            contained.told = Raw::of(&contained.receipt).ok();
        }
    }

    /// What it is told of with.
    pub(crate) fn receipt(&self) -> Option<Raw> {
        match &self.contained {
            Containing::By(contained) => contained.told.clone().or_else(|| Raw::of(&contained.receipt).ok()),
            Containing::Not | Containing::Before => None,
        }
    }
}
