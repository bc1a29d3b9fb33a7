//! The daemon as a service: what a manager such as systemd passes it, and what it wants to hear.
//!
//! ```text
//!   NOTIFY_SOCKET ◀─ READY=1, STATUS=…, WATCHDOG=1, STOPPING=1          sd_notify(3)
//!   LISTEN_FDS    ─▶ the listening socket, instead of one of our own    sd_listen_fds(3)
//!   WATCHDOG_USEC ─▶ signs of life, each after a look at every reactor and at the control plane's lock: [`watchdog`]
//! ```
//!
//! Few enough lines to be ours: a datagram, and descriptors from 3 up. Nothing here runs when nobody has asked.
//! Invariant: none of these variables reaches a child or the keeper.

pub(crate) mod watchdog;

use crate::config::environment::Environment;
use kairo_dataplane::sys::process;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Variables of the protocol, which are ours and nobody's below us.
pub(crate) const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The socket's name in a unit that passes several (`FileDescriptorName=`).
const SOCKET_NAME: &str = "kairo";
/// Descriptors a manager may pass: one is wanted.
const DESCRIPTORS_MAX: usize = 64;

/// Why what was passed can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// It doesn't read as the manual says.
    #[error("environment variable {name}: {value:?} is not what a service manager passes")]
    Variable { name: &'static str, value: String },
    /// Which of them?
    #[error(
        "{count} sockets were passed and none of them, or several, are called {SOCKET_NAME:?}: write \
        FileDescriptorName={SOCKET_NAME} into the socket's unit"
    )]
    Ambiguous { count: usize },
    /// They are not there.
    #[error("the sockets that were to be passed can't be taken over: {source}")]
    Descriptors { source: io::Error },
}

/// What was passed.
#[derive(Debug, Default)]
pub(crate) struct Service {
    /// Where to send what is to be told.
    address: Option<Vec<u8>>,
    /// How long the manager waits for a sign of life.
    watchdog: Option<Duration>,
    /// Names of the descriptors from 3 up.
    names: Vec<String>,
}

impl Service {
    /// Reads what was passed to the process `pid`, which is this one.
    pub(crate) fn of(environment: &Environment, pid: u32) -> Result<Service, ServiceError> {
        let text = |name: &'static str| environment.text(name);
        let number = |name: &'static str| match text(name) {
            None => Ok(None),
            Some(value) => match value.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ServiceError::Variable { name, value }),
            },
        };
        let ours = |addressee: Option<u64>| addressee == Some(pid.into());
        let microseconds = number("WATCHDOG_USEC")?.filter(|time| *time > 0);
        let watched = text("WATCHDOG_PID").is_none() || ours(number("WATCHDOG_PID")?);
        let count = number("LISTEN_FDS")?.filter(|_| number("LISTEN_PID").is_ok_and(ours));
        let count = count.unwrap_or_default() as usize;
        if count > DESCRIPTORS_MAX {
            return Err(ServiceError::Variable { name: "LISTEN_FDS", value: count.to_string() });
        }
        let given = text("LISTEN_FDNAMES").unwrap_or_default();
        let mut names: Vec<String> = given.split(':').map(str::to_owned).collect();
        names.resize(count, "unknown".to_owned());
        Ok(Service {
            address: text("NOTIFY_SOCKET").map(String::into_bytes),
            watchdog: microseconds.filter(|_| watched).map(Duration::from_micros),
            names,
        })
    }

    /// The socket to listen on, if one was passed. To be called once, before anything else is opened: what comes in
    /// under the numbers from 3 up is closed but for this one.
    pub(crate) fn listener(&self) -> Result<Option<OwnedFd>, ServiceError> {
        if self.names.is_empty() {
            return Ok(None);
        }
        let place = self.wanted()?;
        let passed = process::passed_on(self.names.len());
        let mut passed = passed.map_err(|source| ServiceError::Descriptors { source })?;
        Ok(Some(passed.swap_remove(place)))
    }

    /// Which of the descriptors is meant: the only one, or the one with our name.
    fn wanted(&self) -> Result<usize, ServiceError> {
        let named = |place: &usize| self.names[*place] == SOCKET_NAME;
        let mut ours = (0..self.names.len()).filter(named);
        match (ours.next(), ours.next(), self.names.len()) {
            (_, _, 1) => Ok(0),
            (Some(place), None, _) => Ok(place),
            (None | Some(_), _, count) => Err(ServiceError::Ambiguous { count }),
        }
    }

    /// Tells the manager something, `NAME=value` each. Without one, or if it doesn't listen, nothing happens.
    pub(crate) fn tell(&self, lines: &[&str]) {
        let Some(address) = &self.address else { return };
        let message = lines.join("\n");
        if let Err(error) = process::send_datagram(address, message.as_bytes()) {
            tracing::warn!(component = "service", %error, message, "the service manager was not told");
        }
    }

    /// How long the manager waits for a sign of life, if it wants any.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn service(variables: &[(&str, &str)]) -> Result<Service, ServiceError> {
        Service::of(&Environment::pretend(0, variables), 7)
    }

    #[test]
    fn without_a_manager_there_is_nothing_to_do() {
        let service = service(&[]).unwrap();
        assert!(service.listener().unwrap().is_none() && service.watchdog().is_none());
        service.tell(&["READY=1"]);
    }

    #[test]
    fn what_is_meant_for_another_process_is_not_for_us() {
        let theirs =
            [("LISTEN_PID", "8"), ("LISTEN_FDS", "1"), ("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "8")];
        let service = service(&theirs).unwrap();
        assert!(service.names.is_empty() && service.watchdog().is_none());
    }

    #[test]
    fn the_socket_is_the_only_one_or_the_one_with_our_name() {
        let with = |count: &str, names: &str| {
            let passed = [("LISTEN_PID", "7"), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)];
            service(&passed).unwrap().wanted().ok()
        };
        assert_eq!(with("1", ""), Some(0));
        assert_eq!(with("3", "a:kairo:b"), Some(1));
        assert_eq!(with("2", "a:b"), None);
        assert_eq!(with("2", "kairo:kairo"), None);
        let error = service(&[("LISTEN_PID", "7"), ("LISTEN_FDS", "many")]).unwrap_err().to_string();
        assert!(error.contains("LISTEN_FDS"), "{error}");
    }

    #[test]
    fn what_is_told_arrives_at_a_path_and_at_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let told =
            service(&[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "2000000")]).unwrap();
        assert_eq!(told.watchdog(), Some(Duration::from_secs(2)));
        told.tell(&["READY=1", "STATUS=well"]);
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap();
        assert_eq!(&text[..length], b"READY=1\nSTATUS=well");
        // Nobody there: a line in the log, and that is all.
        service(&[("NOTIFY_SOCKET", "@kairo-nobody-listens-here")]).unwrap().tell(&["READY=1"]);
    }
}
