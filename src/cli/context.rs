//! What every command needs: the configuration, a connection, and a way to print.

use crate::cli::args::{Global, Story};
use crate::cli::failure::Failure;
use crate::cli::terminal;
use crate::config::environment::Environment;
use crate::config::{self, Config, Flags};
use kairo_client::{CallOptions, Client, ConnectError, ConnectOptions};
use kairo_dataplane::sys::process;
use kairo_wire::codec::raw::Raw;
use kairo_wire::id::ProcessId;
use kairo_wire::json as wire_json;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

/// How a command ends: with an exit code, or early.
pub(crate) type Outcome = Result<u8, Failure>;

/// The surroundings of a command.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) environment: Environment,
    pub(crate) config: Config,
    pub(crate) json: bool,
    /// The connection a contained program was given, until it is used.
    given: Mutex<Option<OwnedFd>>,
}

/// The flags that every command has.
pub(crate) fn flags(global: &Global) -> Flags {
    Flags { config: global.config.clone(), socket: global.socket.clone(), ..Flags::default() }
}

impl Context {
    /// Decides the configuration.
    pub(crate) fn new(global: &Global, flags: &Flags, environment: Environment) -> Result<Context, Failure> {
        // Before anything is opened: its number is only known to be its own as long as nothing else is.
        let given = match (&flags.socket, environment.text("KAIRO_IPC_FD").as_deref()) {
            (None, Some("3")) => process::passed_on(1).ok().and_then(|mut passed| passed.pop()),
            _ => None,
        };
        let config = config::load(flags, &environment)?;
        Ok(Context { environment, config, json: global.json, given: Mutex::new(given) })
    }

    /// A connection to the daemon, for as long as that is there. What goes on for long has one that comes back
    /// ([`Context::lasting`]).
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(self.connected(&ConnectOptions { reconnect: None, ..ConnectOptions::default() })?)
    }

    /// The same with options: over the connection we were given, if we were; what is lost of that doesn't come back.
    pub(crate) fn connected(&self, options: &ConnectOptions) -> Result<Client, ConnectError> {
        let given = self.given.lock().ok().and_then(|mut given| given.take());
        Ok(match given {
            Some(given) => Client::over(given.into(), options)?,
            None => Client::connect_with(&self.config.socket, options)?,
        })
    }

    /// Prints a line.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        writeln!(io::stdout().lock(), "{text}")?;
        Ok(())
    }

    /// Prints text that has its own line ends.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        io::stdout().lock().write_all(text.as_bytes())?;
        Ok(())
    }

    /// Prints an object on one line, with `"v": 1` in it. Anything that is no object becomes its `value`.
    pub(crate) fn object(&self, value: Value) -> Result<(), Failure> {
        self.line(&versioned(value).to_string())
    }

    /// Whether stdout takes colour.
    pub(crate) fn colour(&self) -> bool {
        self.environment.allows_colour() && io::stdout().is_terminal()
    }

    /// Columns of the terminal, if stdout is one.
    pub(crate) fn width(&self) -> Option<usize> {
        if !io::stdout().is_terminal() {
            return None;
        }
        terminal::size().map(|size| usize::from(size.cols))
    }
}

/// `"v": 1` and the object.
pub(crate) fn versioned(value: Value) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("v".to_owned(), Value::from(1));
    match value {
        Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    Value::Object(object)
}

/// A value of the wire as JSON.
pub(crate) fn json_of<T: serde::Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new("E_SHAPE", error.to_string()))
}

/// A raw value of the wire as JSON, its integers exact.
pub(crate) fn value_of(raw: &Raw) -> Result<Value, Failure> {
    wire_json::to_value(raw.as_ref()).map_err(|error| Failure::new("E_SHAPE", error.to_string()))
}

/// JSON that was typed, or read from stdin for `-`, as a value of the wire.
pub(crate) fn raw_of(typed: &str, what: &str) -> Result<Raw, Failure> {
    let text = match typed {
        "-" => io::read_to_string(io::stdin().lock())?,
        typed => typed.to_owned(),
    };
    wire_json::from_text(&text).map_err(|error| {
        Failure::usage(format!("{what} is no JSON: {error}")).advise(
            "write an object in single quotes, '{\"id\": \"repl\"}', and a text in both kinds: '\"hello\"'",
        )
    })
}

/// What accompanies a call.
pub(crate) fn accompanied(story: &Story) -> CallOptions {
    CallOptions {
        correlation_id: story.correlation.clone(),
        intent_id: story.intent.clone(),
        idempotency_key: story.key.clone(),
        ..CallOptions::default()
    }
}

/// A process's id as it was typed.
pub(crate) fn process_id(text: &str) -> Result<ProcessId, Failure> {
    ProcessId::from_text(text).map_err(Failure::usage)
}

/// Seconds, as they were typed.
pub(crate) fn seconds(value: f64, flag: &str) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).ok().filter(|duration| duration.as_secs() < 1 << 32).ok_or_else(|| {
        Failure::usage(format!("{flag} {value}: write a number of seconds, such as 0.5 or 30"))
    })
}

/// Milliseconds of a duration, never rounded to nothing.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let whole = duration.as_millis() as u64;
    if whole == 0 && !duration.is_zero() { 1 } else { whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_json_value_carries_its_version() {
        assert_eq!(versioned(json!({"b": 1, "a": 2}))["v"], 1);
        assert!(versioned(json!({"z": 1})).to_string().contains("\"v\":1"));
        assert_eq!(versioned(json!([1, 2])), json!({"v": 1, "value": [1, 2]}));
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(milliseconds(seconds(1.5, "--grace").unwrap()), 1_500);
        assert_eq!(milliseconds(seconds(0.0, "--grace").unwrap()), 0);
        assert_eq!(milliseconds(seconds(0.000_1, "--grace").unwrap()), 1);
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(seconds(wrong, "--grace").is_err(), "{wrong}");
        }
    }
}
