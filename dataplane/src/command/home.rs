//! Where commands are carried out, and which of a call's must not come behind its frames.

use super::{Adapt, Command, Commands};
use crate::key::ReactorId;

impl Command {
    /// Where it is carried out; none is wherever it was decided.
    pub(crate) fn home(&self) -> Option<ReactorId> {
        match self {
            Command::Reply { connection, .. }
            | Command::News { connection, .. }
            | Command::Hand { connection, .. }
            | Command::Close { connection } => Some(connection.reactor),
            Command::Spawn(spawn) => Some(spawn.process.home),
            Command::Subscribe(subscribe) => Some(subscribe.process.home),
            Command::Unsubscribe { subscription, .. } | Command::Pace { subscription, .. } => {
                Some(subscription.home)
            }
            Command::Tune { process, .. }
            | Command::Write { process, .. }
            | Command::AbandonWrite { process, .. }
            | Command::CloseStdin { process, .. }
            | Command::HandStdin { process, .. }
            | Command::EndInlet { process }
            | Command::Resize { process, .. }
            | Command::Signal { process, .. }
            | Command::Announce { process, .. }
            | Command::Acknowledge { process }
            | Command::Annotate { process, .. }
            | Command::Forget { process } => Some(process.home),
            Command::Arm { timer, .. } | Command::Disarm { timer } => Some(timer.home),
            Command::Adapt(Adapt::Begun(adapted)) => Some(adapted.process.home),
            Command::Adapt(Adapt::Over(process)) => Some(process.home),
            Command::Watch | Command::Work { .. } | Command::Shutdown { .. } | Command::Leave => None,
        }
    }

    /// A client sees it.
    fn is_frame(&self) -> bool {
        matches!(
            self,
            Command::Reply { .. } | Command::News { .. } | Command::Hand { .. } | Command::Close { .. }
        )
    }
}

impl Commands {
    /// Takes out, in order, what is carried out elsewhere than `here` and is not to come behind a frame for the same reactor.
    pub(crate) fn ahead(
        &mut self,
        here: Option<ReactorId>,
    ) -> impl Iterator<Item = (ReactorId, Command)> + '_ {
        // Nearly always none: a call has its reply in `replies`.
        let mut told: Vec<ReactorId> = Vec::new();
        let is_ahead = move |command: &mut Command| {
            let Some(home) = command.home().filter(|home| Some(*home) != here) else { return false };
            if command.is_frame() {
                told.push(home);
            }
            !told.contains(&home)
        };
        let ahead = self.list.extract_if(.., is_ahead);
        ahead.filter_map(|command| Some((command.home()?, command)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{ConnectionKey, ProcessKey};
    use bytes::Bytes;

    fn reply(reactor: u16) -> Command {
        let connection = ConnectionKey { reactor: ReactorId(reactor), slot: 0, generation: 0 };
        Command::Reply { connection, frame: Bytes::new() }
    }

    fn forget(reactor: u16, serial: u64) -> Command {
        Command::Forget { process: ProcessKey { home: ReactorId(reactor), serial } }
    }

    /// Processes by number, frames by a minus and their reactor.
    fn named(command: &Command) -> i64 {
        match command {
            Command::Forget { process } => process.serial as i64,
            other => -other.home().map_or(0, |home| i64::from(home.0)),
        }
    }

    #[test]
    fn what_others_carry_out_comes_before_every_frame_but_those_for_them() {
        let list =
            vec![forget(0, 1), reply(1), forget(2, 2), forget(1, 3), reply(2), forget(3, 4), forget(2, 5)];
        let mut commands = Commands { list, ..Commands::default() };
        let ahead: Vec<_> = commands.ahead(Some(ReactorId(0))).map(|(_, command)| named(&command)).collect();
        assert_eq!(ahead, [2, 4]);
        let rest: Vec<_> = commands.list.iter().map(named).collect();
        assert_eq!(rest, [1, -1, 3, -2, 5]);
    }
}
