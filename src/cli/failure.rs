//! What a command that failed leaves behind: an exit code, and a sentence that says what to do next.
//!
//! Exit codes: the child's own where there is a child; 125 Kairo failed (wrong usage included), 126 the program is
//! not executable, 127 it was not found, 128+n signal n ended it.

use crate::config::ConfigError;
use crate::socket_guard::GuardError;
use crate::state::StateError;
use kairo_client::{CallError, ConnectError, Lost, StreamError};
use kairo_wire::error::Code;
use serde_json::{Value, json};
use std::io;

/// Kairo failed.
pub(crate) const FAILED: u8 = 125;
/// The program is there and can't be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
pub(crate) const NOT_FOUND: u8 = 127;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read our output has had enough. Nothing to say.
    NobodyReads,
    /// Something to say.
    Told(Box<Told>),
}

/// What is said.
#[derive(Debug)]
pub(crate) struct Told {
    /// For programs: the kernel's code, or one of ours.
    code: &'static str,
    message: String,
    advice: Option<String>,
    /// For programs: what the message is made of.
    details: Option<Value>,
    exit: u8,
}

impl Failure {
    /// A failure of ours; `code` begins with `E_`.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Failure {
        Failure::Told(Box::new(Told {
            code,
            message: message.into(),
            advice: None,
            details: None,
            exit: FAILED,
        }))
    }

    /// Something typed wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new("E_USAGE", message)
    }

    /// The same with what to do next.
    #[must_use]
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Failure {
        if let Failure::Told(told) = &mut self {
            told.advice = Some(advice.into());
        }
        self
    }

    /// The same with what its message is made of.
    #[must_use]
    pub(crate) fn detail(mut self, details: Value) -> Failure {
        if let Failure::Told(told) = &mut self {
            told.details = Some(details);
        }
        self
    }

    /// The same with an exit code of its own: what was asked is answered, and the answer is no.
    #[must_use]
    pub(crate) fn ending_with(mut self, exit: u8) -> Failure {
        if let Failure::Told(told) = &mut self {
            told.exit = exit;
        }
        self
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Failure::NobodyReads => 0,
            Failure::Told(told) => told.exit,
        }
    }

    /// What goes to stderr, without the line's end; none if there is nothing to say.
    pub(crate) fn text(&self, as_json: bool) -> Option<String> {
        let Failure::Told(told) = self else { return None };
        if as_json {
            let mut error = json!({ "code": told.code, "message": told.message, "advice": told.advice });
            if let Some(details) = &told.details {
                error["details"] = details.clone();
            }
            return Some(json!({ "v": 1, "error": error, "exit": told.exit }).to_string());
        }
        Some(match &told.advice {
            Some(advice) => format!("kairo: {}\n  → {advice}", told.message),
            None => format!("kairo: {}", told.message),
        })
    }
}

/// Exit code of a process that returned, or that a signal ended.
pub(crate) fn exit_of(code: Option<i32>, signal: Option<i32>) -> u8 {
    let number = match (code, signal) {
        (_, Some(signal)) => 128 + signal,
        (Some(code), None) => code,
        (None, None) => i32::from(FAILED),
    };
    // What wait(2) hands on of an exit code are its lowest eight bits.
    (number & 0xff) as u8
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        let (code, exit) = match (&error, error.code()) {
            (_, Some(Code::ExecutableNotFound)) => (Code::ExecutableNotFound.name(), NOT_FOUND),
            (_, Some(Code::NotExecutable)) => (Code::NotExecutable.name(), NOT_EXECUTABLE),
            (_, Some(code)) => (code.name(), FAILED),
            (CallError::Kernel(_), None) => ("E_UNKNOWN", FAILED),
            (CallError::Lost(_), None) => ("E_DISCONNECTED", FAILED),
            (CallError::Interrupted { .. }, None) => ("E_INTERRUPTED", FAILED),
            (CallError::Deadline, None) => ("E_TIMEOUT", FAILED),
            (CallError::Shape(_), None) => ("E_SHAPE", FAILED),
            (CallError::TooLarge { .. }, None) => ("E_TOO_LARGE", FAILED),
        };
        let advice = error.advice().map(str::to_owned);
        Failure::Told(Box::new(Told { code, message: error.to_string(), advice, details: None, exit }))
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        Failure::new("E_CONNECT", error.to_string()).advise(error.advice())
    }
}

impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Failure {
        let code = match &error {
            StreamError::Lost(_) => "E_DISCONNECTED",
            StreamError::Forgotten | StreamError::OtherLife => Code::NotFound.name(),
            StreamError::NotFollowed | StreamError::NotResumed(_) => "E_NOT_RESUMED",
            StreamError::Missing { .. }
            | StreamError::Repeated { .. }
            | StreamError::OutOfSequence { .. }
            | StreamError::GapsDisagree { .. }
            | StreamError::NoOffset { .. } => "E_STREAM",
        };
        let failure = Failure::new(code, error.to_string());
        match &error {
            StreamError::Forgotten | StreamError::OtherLife => {
                failure.advise("`kairo ps --all` lists what there is")
            }
            _ => failure,
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Failure {
        CallError::Lost(lost).into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new("E_CONFIG", error.to_string())
            .advise("`kairo config check --help` tells where it is looked for")
    }
}

impl From<GuardError> for Failure {
    fn from(error: GuardError) -> Failure {
        let code = match &error {
            GuardError::State(_) => "E_STATE",
            GuardError::StateInUse { .. } => "E_STATE_IN_USE",
            _ => "E_SOCKET",
        };
        Failure::new(code, error.to_string())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Failure {
        let code = match &error {
            StateError::Newer { .. } => "E_STATE_NEWER",
            StateError::Foreign { .. } | StateError::ForeignKeeper { .. } => "E_STATE_FOREIGN",
            StateError::Unreadable { .. }
            | StateError::ExposedKey { .. }
            | StateError::Log(_)
            | StateError::Os { .. } => "E_STATE",
        };
        Failure::new(code, error.to_string())
    }
}

/// An error while writing our own output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::NobodyReads,
            _ => Failure::new("E_IO", error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::new("E_KERNEL", format!("{error:#}")).advise("`kairo doctor` tells what this machine lacks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::response::{CallError as Refusal, ErrorInfo};

    fn refused(code: Code) -> Failure {
        let info = ErrorInfo {
            code: code.name().to_owned(),
            message: "no".to_owned(),
            details: None,
            retryable: false,
        };
        CallError::Kernel(Box::new(Refusal { text: "no".to_owned(), info: Some(info) })).into()
    }

    #[test]
    fn a_program_that_can_not_run_has_the_shells_exit_codes() {
        assert_eq!(refused(Code::ExecutableNotFound).exit(), 127);
        assert_eq!(refused(Code::NotExecutable).exit(), 126);
        assert_eq!(refused(Code::Cwd).exit(), 125);
        assert_eq!(Failure::from(CallError::Deadline).exit(), 125);
    }

    #[test]
    fn a_childs_end_is_ours() {
        assert_eq!(exit_of(Some(0), None), 0);
        assert_eq!(exit_of(Some(3), None), 3);
        assert_eq!(exit_of(Some(255), None), 255);
        assert_eq!(exit_of(None, Some(9)), 137);
        assert_eq!(exit_of(None, Some(64)), 192);
        assert_eq!(exit_of(None, None), 125);
    }

    #[test]
    fn every_error_of_the_kernel_is_told_with_what_to_do_next() {
        let text = refused(Code::NoTerminal).text(false).unwrap();
        assert!(text.contains("→") && text.contains("--pty"), "{text}");
        let value: serde_json::Value =
            serde_json::from_str(&refused(Code::Busy).text(true).unwrap()).unwrap();
        assert_eq!(value["v"], 1);
        assert_eq!(value["error"]["code"], "E_BUSY");
        assert_eq!(value["exit"], 125);
    }

    #[test]
    fn a_reader_that_has_had_enough_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit(), failure.text(false)), (0, None));
    }
}
