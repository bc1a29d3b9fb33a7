//! Which cores a process runs on, and which one serves its streams.
//!
//! Refused by name where a core isn't there: what a harness measures on another core than it asked for it would not notice.

use crate::auth::principal::Principal;
use crate::config::Cores;
use crate::kernel::Kernel;
use crate::sessions::plan::Plan;
use kairo_dataplane::command::Placement;
use kairo_dataplane::key::{ConnectionKey, ReactorId};
use kairo_wire::error::WireError;
use kairo_wire::methods::options::SpawnOptions;

/// Checks what was asked for.
pub(crate) fn asked(
    cores: &Cores,
    principal: &Principal,
    asked: &SpawnOptions,
) -> Result<Placement, WireError> {
    let there = |field: &str, cpu: u16| match cores.allowed.contains(&cpu) {
        true => Ok(()),
        false if cores.allowed.is_empty() => {
            Err(WireError::unsupported(field, "this operating system binds nothing to cores"))
        }
        false => {
            let message = format!("core {cpu} is not online, or not the kernel's to use");
            Err(WireError::invalid(field, message))
        }
    };
    let mut cpus = asked.cpus.clone().unwrap_or_default();
    if asked.cpus.is_some() && cpus.is_empty() {
        return Err(WireError::invalid("options.cpus", "names at least one core"));
    }
    for (nth, cpu) in cpus.iter().enumerate() {
        there(&format!("options.cpus[{nth}]"), *cpu)?;
    }
    if let Some(cpu) = asked.reactor_cpu {
        there("options.reactorCpu", cpu)?;
        // Others are served by that reactor as well.
        if *principal != Principal::Owner {
            return Err(WireError::denied("process.spawn", "options.reactorCpu is the owner's only"));
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(Placement { cpus, reactor_cpu: asked.reactor_cpu })
}

impl Kernel {
    /// The reactor that serves it: its connection's, unless another core was asked for. As many reactors as there are take turns
    /// over the cores.
    pub(crate) fn home_of(&self, plan: &Plan, connection: ConnectionKey) -> ReactorId {
        let asked = || plan.placement.reactor_cpu.and_then(|cpu| reactor_on(&self.config.cores, cpu));
        // What is joined to others lives where they do.
        self.home_of_joined(plan).or_else(asked).unwrap_or(connection.reactor)
    }
}

fn reactor_on(cores: &Cores, cpu: u16) -> Option<ReactorId> {
    let place = cores.allowed.iter().position(|allowed| *allowed == cpu)?;
    Some(ReactorId((place % usize::from(cores.reactors.max(1))) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores() -> Cores {
        Cores { allowed: vec![0, 2, 3], reactors: 2 }
    }

    fn wanted(cpus: Option<Vec<u16>>, reactor_cpu: Option<u16>) -> Result<Placement, String> {
        let options = SpawnOptions { cpus, reactor_cpu, ..SpawnOptions::default() };
        asked(&cores(), &Principal::Owner, &options).map_err(|error| error.message.into_owned())
    }

    #[test]
    fn cores_that_are_not_there_are_refused_by_name() {
        assert_eq!(wanted(Some(vec![3, 0, 3]), None).unwrap().cpus, [0, 3]);
        let refusal = wanted(Some(vec![0, 1]), None).unwrap_err();
        assert!(refusal.contains("options.cpus[1]") && refusal.contains("core 1"), "{refusal}");
        assert!(wanted(Some(vec![]), None).unwrap_err().contains("options.cpus"));
        assert!(wanted(None, Some(1)).unwrap_err().contains("options.reactorCpu"));
    }

    #[test]
    fn a_core_has_one_reactor_and_a_stranger_may_not_bind_it() {
        let home = |cpu| reactor_on(&cores(), cpu);
        assert_eq!([0, 2, 3].map(home), [0, 1, 0].map(|reactor| Some(ReactorId(reactor))));
        assert_eq!(home(1), None);
        let options = SpawnOptions { reactor_cpu: Some(0), ..SpawnOptions::default() };
        assert!(asked(&cores(), &Principal::User { uid: 7 }, &options).is_err());
        assert!(asked(&Cores::default(), &Principal::Owner, &options).is_err());
    }
}
