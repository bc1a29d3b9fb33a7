//! Session records on their way into the log: sealed where they must be, and written anew when most of them tell of what is
//! over.

use crate::state::records::{Sealer, fold};
use kairo_controlplane::events::log::{self, Kind, Log, LogError};
use kairo_controlplane::events::outlet::Life;

/// They are written anew when there are at least so many and …
const COMPACT_MIN: u64 = 2_048;
/// … this many times as many as there were after the last time.
const COMPACT_FACTOR: u64 = 4;

/// What is known of the records in the log.
#[derive(Debug)]
pub(crate) struct Lives {
    sealer: Sealer,
    count: u64,
    /// How many there were after they were last written anew.
    compact: u64,
}

impl Lives {
    /// Of a log that has just been opened.
    pub(super) fn new(sealer: Sealer) -> Lives {
        Lives { sealer, count: 0, compact: 0 }
    }

    /// Adds one to a batch.
    pub(super) fn put(&mut self, life: &Life, to: &mut Vec<log::Life>) {
        self.count += 1;
        to.push(log::Life { kind: Kind::Clear, bytes: life.clear.clone() });
        if life.secret.is_empty() {
            return;
        }
        match self.sealer.close(&life.secret) {
            Ok(sealed) => to.push(log::Life { kind: Kind::Sealed, bytes: sealed.into() }),
            Err(error) => tracing::error!(component = "log", %error, "what a restart needs can't be sealed"),
        }
    }

    /// True when most of them tell of what is over.
    pub(super) fn are_overgrown(&self) -> bool {
        self.count >= COMPACT_MIN && self.count >= self.compact * COMPACT_FACTOR
    }

    /// Writes them anew with what they still have to tell.
    pub(super) fn compact(&mut self, log: &mut Log) -> Result<(), LogError> {
        let all = log.reader().lives()?;
        let ledger = fold(all.iter().map(|(_, kind, bytes)| (*kind, &bytes[..])), &self.sealer);
        let lives = crate::state::records::written(&ledger, &mut self.sealer);
        log.replace_lives(&lives)?;
        (self.count, self.compact) = (lives.len() as u64, lives.len() as u64);
        Ok(())
    }
}
