//! What a command that goes on for long says while its daemon is away, and how long it waits for it.
//!
//! One line when the daemon is gone, one when it is back, on stderr so that output stays output: dim on a terminal, an
//! object with `--json`. A command with two connections speaks of one of them.
//! Coming back itself is the client library's.

use crate::cli::context::{Context, versioned};
use crate::cli::failure::Failure;
use crate::cli::terminal;
use kairo_client::{Change, Client, ConnectError, ConnectOptions, Reconnect, Watch};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How what is said looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voice {
    json: bool,
    dim: bool,
}

impl Context {
    /// A connection that comes back when the daemon does, and tells the user.
    pub(crate) fn lasting(&self, no_reconnect: bool) -> Result<Client, Failure> {
        let voice = self.voice();
        let watch = Watch::new(move |change| say(voice, change));
        Ok(self.connected(&self.options(no_reconnect, Some(watch))?)?)
    }

    /// How this command says things beside its output.
    pub(crate) fn voice(&self) -> Voice {
        Voice { json: self.json, dim: self.environment.allows_colour() && io::stderr().is_terminal() }
    }

    /// The same beside one that tells.
    pub(crate) fn lasting_silently(&self, no_reconnect: bool) -> Result<Client, Failure> {
        Ok(self.connected(&self.options(no_reconnect, None)?)?)
    }

    /// The same, or none if no daemon of ours is there.
    pub(crate) fn lasting_if_there(&self) -> Result<Option<Client>, Failure> {
        match self.connected(&self.options(false, None)?) {
            Ok(client) => Ok(Some(client)),
            Err(ConnectError::NobodyThere { .. } | ConnectError::Forbidden { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn options(&self, no_reconnect: bool, watch: Option<Watch>) -> Result<ConnectOptions, Failure> {
        let patience = patience(self.environment.text("KAIRO_RECONNECT").as_deref())?;
        let patience = patience.filter(|_| !no_reconnect);
        let reconnect = patience.map(|patience| Reconnect { patience, watch, ..Reconnect::default() });
        Ok(ConnectOptions { reconnect, ..ConnectOptions::default() })
    }
}

/// How long a daemon is waited for; none if it isn't.
fn patience(typed: Option<&str>) -> Result<Option<Duration>, Failure> {
    let Some(typed) = typed else { return Ok(Some(Reconnect::default().patience)) };
    let number = typed.trim().parse().unwrap_or(f64::NAN);
    let patience = crate::cli::context::seconds(number, "KAIRO_RECONNECT")?;
    Ok(Some(patience).filter(|patience| !patience.is_zero()))
}

fn say(voice: Voice, change: &Change) {
    if let Some(words) = words(change) {
        put(voice, &words, object(change));
    }
}

/// Says something on stderr: a line, or an object.
pub(crate) fn put(voice: Voice, words: &str, object: Value) {
    let line = match (voice.json, terminal::is_raw()) {
        (true, _) => format!("{}\n", versioned(object)),
        // A raw terminal takes a line's end as it is, and the cursor may be anywhere.
        (false, true) => format!("\r\n{}\r\n", dimmed(voice, words)),
        (false, false) => format!("{}\n", dimmed(voice, words)),
    };
    // Nobody may be there to read it.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// One that was given up is told by the error the command ends with.
fn words(change: &Change) -> Option<String> {
    match change {
        Change::Lost(_) => Some("the daemon is gone; waiting for it to come back …".to_owned()),
        Change::Back { outage } => Some(format!("the daemon is back after {:.1} s", outage.as_secs_f64())),
        _ => None,
    }
}

fn object(change: &Change) -> Value {
    match change {
        Change::Back { outage } => {
            json!({ "notice": { "daemon": "back", "outageMs": outage.as_millis() as u64 } })
        }
        _ => json!({ "notice": { "daemon": "gone" } }),
    }
}

fn dimmed(voice: Voice, words: &str) -> String {
    if voice.dim { format!("\x1b[2mkairo: {words}\x1b[0m") } else { format!("kairo: {words}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_is_a_number_of_seconds_and_nothing_is_not_at_all() {
        assert_eq!(patience(None).unwrap(), Some(Duration::from_secs(30)));
        assert_eq!(patience(Some("2.5")).unwrap(), Some(Duration::from_millis(2_500)));
        assert_eq!(patience(Some("0")).unwrap(), None);
        for wrong in ["soon", "-1", "inf", ""] {
            assert!(patience(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_said_is_dim_on_a_terminal_only() {
        let back = Change::Back { outage: Duration::from_millis(1_240) };
        let words = words(&back).unwrap();
        assert_eq!(words, "the daemon is back after 1.2 s");
        assert_eq!(dimmed(Voice { json: false, dim: false }, &words), format!("kairo: {words}"));
        assert!(dimmed(Voice { json: false, dim: true }, &words).starts_with("\x1b[2m"));
        assert_eq!(object(&back), json!({ "notice": { "daemon": "back", "outageMs": 1_240 } }));
    }
}
