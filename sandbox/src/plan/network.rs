//! Sockets: a filter decides which there are at all, Landlock which TCP ports and which unix sockets they reach.
//!
//! Neither sees addresses, so "this machine only" and hosts by name are beyond both. A network namespace is another
//! machine as far as addresses go: nothing of this one is on it, so it serves who wants a loopback to itself and nobody
//! who wants to reach this machine's.

use super::files::resolve;
use super::{Outcome, Planner, Refusal};
use crate::containment::rights;
use crate::filter::Group;
use crate::profile::{Network, UnixSockets};
use crate::protection::Protection;
use crate::receipt::Mechanism;

impl Planner<'_> {
    pub(super) fn network(&mut self) -> Result<(), Refusal> {
        let network = &self.profile.network;
        if network.private {
            return self.network_apart();
        }
        let any = network.tcp() || network.udp;
        let outcome = self.filtered();
        self.settle(Protection::Network, network.in_words(), outcome)?;
        let filtered = self.holds(Protection::Network);
        if filtered {
            self.filter(Group::Families);
            if !any {
                self.filter(Group::NoNetwork);
            } else if !network.udp {
                self.filter(Group::NoUdp);
            }
        }
        self.ports(filtered && !any)?;
        let outcome = match network.loopback.is_empty() {
            true => Outcome::NotAsked,
            false if !self.holds(Protection::Ports) => Outcome::Nothing("ports aren't protected".to_owned()),
            false => Outcome::Weaker(
                vec![Mechanism::Landlock],
                "Landlock knows ports, not addresses: these ports of every machine can be reached".to_owned(),
            ),
        };
        self.settle(Protection::Loopback, ports_in_words(&network.loopback), outcome)?;
        self.domains()
    }

    /// A loopback of its own. What isn't of a network namespace (other families) is the filter's.
    fn network_apart(&mut self) -> Result<(), Refusal> {
        let apart = |planner: &Planner<'_>| {
            planner.apart(&planner.ability.namespaces.network, Mechanism::NetworkNamespace)
        };
        let outcome = match (apart(self), self.ability.filters()) {
            (Outcome::InForce(by), true) => Outcome::InForce([by, vec![Mechanism::Seccomp]].concat()),
            (Outcome::InForce(by), false) => {
                let reason = "without a filter there are sockets that know no namespace (vsock, ciphers)";
                Outcome::Weaker(by, reason.to_owned())
            }
            (outcome, _) => outcome,
        };
        self.settle(Protection::Network, self.profile.network.in_words(), outcome)?;
        if self.holds(Protection::Network) {
            self.namespaces().network = true;
            if self.ability.filters() {
                self.filter(Group::Families);
            }
        }
        let outcome = |planner: &Planner<'_>| match planner.holds(Protection::Network) {
            true => Outcome::by(Mechanism::NetworkNamespace),
            false => Outcome::Nothing("it has no network of its own".to_owned()),
        };
        self.settle(Protection::Ports, "any of its own network", outcome(self))?;
        self.settle(Protection::Loopback, "its own", outcome(self))?;
        self.domains()
    }

    /// On no machine yet.
    pub(super) fn domains(&mut self) -> Result<(), Refusal> {
        let network = &self.profile.network;
        let outcome = match network.domains.is_empty() {
            true => Outcome::NotAsked,
            false => Outcome::Nothing(
                "hosts are not told apart by name: allow ports, or wait for the egress proxy".to_owned(),
            ),
        };
        let asked = if network.domains.is_empty() { "any".to_owned() } else { network.domains.join(", ") };
        self.settle(Protection::Domains, asked, outcome)
    }

    /// `none` says that there are no sockets to reach a port with.
    fn ports(&mut self, none: bool) -> Result<(), Refusal> {
        let network = &self.profile.network;
        let asked = network.ports_in_words();
        let outcome = match none {
            true => Outcome::by(Mechanism::Seccomp),
            false => match self.landlocked(4) {
                Outcome::InForce(_) if self.ability.filters() => {
                    Outcome::InForce(vec![Mechanism::Landlock, Mechanism::Seccomp])
                }
                Outcome::InForce(by) => {
                    let reason =
                        "without a filter there are sockets Landlock doesn't know (MPTCP, fast open)";
                    Outcome::Weaker(by, reason.to_owned())
                }
                outcome => outcome,
            },
        };
        self.settle(Protection::Ports, asked, outcome)?;
        if none || !self.holds(Protection::Ports) {
            return Ok(());
        }
        self.rules.ports = rights::BIND_TCP | rights::CONNECT_TCP;
        let both = rights::BIND_TCP | rights::CONNECT_TCP;
        let lists = [
            (&network.connect, rights::CONNECT_TCP),
            (&network.bind, rights::BIND_TCP),
            (&network.loopback, both),
        ];
        for (ports, right) in lists {
            for port in ports {
                match self.rules.on.iter_mut().find(|(listed, _)| listed == port) {
                    Some((_, rights)) => *rights |= right,
                    None => self.rules.on.push((*port, right)),
                }
            }
        }
        if self.ability.filters() {
            self.filter(Group::Ports);
            let listens = !network.bind.is_empty() || !network.loopback.is_empty();
            let unix = &self.profile.unix_sockets;
            // listen(2) doesn't say of what; a unix socket has to be bound first, which files guard.
            if !listens && !unix.any && unix.paths.is_empty() {
                self.filter(Group::NoListening);
            }
        }
        Ok(())
    }

    pub(super) fn unix_sockets(&mut self) -> Result<(), Refusal> {
        let unix = &self.profile.unix_sockets;
        let none = !unix.any && unix.paths.is_empty();
        let outcome = match () {
            () if unix.any => Outcome::NotAsked,
            () if none => self.filtered(),
            // By path is by file, and Landlock has to guard files for that.
            () if !self.holds(Protection::Files) => Outcome::Nothing("files aren't protected".to_owned()),
            () => self.landlocked(9),
        };
        self.settle(Protection::UnixSockets, unix.in_words(), outcome)?;
        let holds = self.holds(Protection::UnixSockets);
        if holds && none {
            self.filter(Group::NoUnixSockets);
        } else if holds {
            self.rules.files |= rights::RESOLVE_UNIX;
            for (at, path) in unix.paths.iter().enumerate() {
                let path = resolve(path, self.place, || format!("unixSockets.paths[{at}]"))?;
                self.grant(&path, rights::RESOLVE_UNIX);
            }
        }
        let outcome = match () {
            () if unix.any => Outcome::NotAsked,
            () if none && holds => Outcome::by(Mechanism::Seccomp),
            () => match (self.landlocked(6), self.has_own_network()) {
                // Such names are of a network.
                (Outcome::Nothing(_), true) => Outcome::by(Mechanism::NetworkNamespace),
                (outcome, _) => outcome,
            },
        };
        self.settle(Protection::AbstractSockets, if unix.any { "any" } else { "none outside" }, outcome)?;
        if self.holds(Protection::AbstractSockets) && self.ability.landlock_abi >= 6 {
            self.rules.scopes |= rights::SCOPE_ABSTRACT;
        }
        Ok(())
    }
}

impl Planner<'_> {
    fn has_own_network(&self) -> bool {
        self.plan.containment.later.namespaces.as_ref().is_some_and(|namespaces| namespaces.network)
    }
}

impl Network {
    /// Whether there is any port of TCP.
    pub(super) fn tcp(&self) -> bool {
        [&self.connect, &self.bind, &self.loopback].iter().any(|ports| !ports.is_empty())
    }

    pub(super) fn in_words(&self) -> &'static str {
        match (self.tcp(), self.udp) {
            _ if self.private => "a loopback of its own",
            (false, false) => "none",
            (true, false) => "TCP",
            (false, true) => "UDP",
            (true, true) => "TCP and UDP",
        }
    }

    pub(super) fn ports_in_words(&self) -> String {
        format!("connect {}; listen {}", ports_in_words(&self.connect), ports_in_words(&self.bind))
    }
}

impl UnixSockets {
    pub(super) fn in_words(&self) -> String {
        match (self.any, self.paths.as_slice()) {
            (true, _) => "any".to_owned(),
            (false, []) => "none".to_owned(),
            (false, paths) => paths.join(" "),
        }
    }
}

pub(super) fn ports_in_words(ports: &[u16]) -> String {
    match ports {
        [] => "none".to_owned(),
        ports => ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" "),
    }
}
