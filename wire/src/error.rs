//! Errors on the wire: the codes, one row each, and the value a failed call answers with.
//!
//! A failure travels twice: as the string v1 clients show and match on (`error`), and beside it as `errorInfo
//! {code, message, details, retryable}`. The constructors here are the only place that knows the v1 texts. How a
//! failure is framed is in `response`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $retryable:literal;)+) => {
        /// What kind of failure it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
        pub enum Code {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// The code of a name, if this version knows it.
            pub fn from_name(name: &str) -> Option<Code> {
                match name { $($name => Some(Code::$variant),)+ _ => None }
            }

            /// True if the same call may succeed later with nothing changed by the caller.
            pub fn retryable(self) -> bool {
                match self { $(Code::$variant => $retryable,)+ }
            }
        }

        /// All of them.
        pub const ERRORS: &[ErrorRow] = &[
            $(ErrorRow { code: Code::$variant, name: $name, doc: concat!($($doc, "\n"),+), retryable: $retryable },)+
        ];
    };
}

/// One code.
#[derive(Clone, Copy, Debug)]
pub struct ErrorRow {
    /// Which.
    pub code: Code,
    /// Its name on the wire.
    pub name: &'static str,
    /// When it is answered.
    pub doc: &'static str,
    /// See [`Code::retryable`].
    pub retryable: bool,
}

codes! {
    /// A parameter is missing, of the wrong type or out of its range; `details.field` or `details.missing` names it.
    InvalidParams = "E_INVALID_PARAMS", false;
    /// There is no method of this name.
    UnknownMethod = "E_UNKNOWN_METHOD", false;
    /// The thing that was named is not there, or the caller may not know that it is.
    NotFound = "E_NOT_FOUND", false;
    /// The caller may not do this to that.
    PermissionDenied = "E_PERMISSION_DENIED", false;
    /// A deadline passed. What could be undone was.
    Timeout = "E_TIMEOUT", true;
    /// The caller abandoned the call with `kernel.cancel`, or the intent it belongs to was cancelled.
    Cancelled = "E_CANCELLED", false;
    /// Something else has to end first.
    Busy = "E_BUSY", true;
    /// The request contradicts itself or the state of things.
    Conflict = "E_CONFLICT", false;
    /// It was understood, and this kernel on this machine does not do it.
    Unsupported = "E_UNSUPPORTED", false;
    /// Too many bytes wait for the child to read them.
    WouldBlock = "E_WOULD_BLOCK", true;
    /// The connection has too many unanswered calls.
    TooManyCalls = "E_TOO_MANY_CALLS", true;
    /// The request is over a limit; `details.limit` names it.
    TooLarge = "E_TOO_LARGE", false;
    /// The id is taken by somebody else or by a process that is still there.
    AlreadyExists = "E_ALREADY_EXISTS", false;
    /// No program of this name in any folder of the search path.
    ExecutableNotFound = "E_EXECUTABLE_NOT_FOUND", false;
    /// The program is there and cannot be executed.
    NotExecutable = "E_NOT_EXECUTABLE", false;
    /// The working folder cannot be entered.
    Cwd = "E_CWD", false;
    /// The child could not be made; `details.stage` and `details.errno` say where and why.
    SpawnFailed = "E_SPAWN_FAILED", false;
    /// Whoever was asked with `event.request` has answered with an error; `details.code` and `details.message` are its words.
    RequestFailed = "E_REQUEST_FAILED", false;
    /// The child's stdin is closed, by it or by us.
    StdinClosed = "E_STDIN_CLOSED", false;
    /// The process has no terminal.
    NoTerminal = "E_NO_TERMINAL", false;
    /// The keeper is gone: nothing can be started or signalled until the kernel is started again.
    KeeperLost = "E_KEEPER_LOST", false;
    /// What has become of the process can't be told: its keeper died, or the machine was restarted.
    Lost = "E_LOST", false;
    /// The kernel is stopping, or out of something it needs for this.
    Unavailable = "E_UNAVAILABLE", true;
    /// There is no vault.
    VaultUnavailable = "E_VAULT_UNAVAILABLE", false;
    /// A fault of the kernel.
    Internal = "E_INTERNAL", false;
    /// The principal has as much as it may have at a time; `details` has `quota`, `principal` (whose it is: the caller's, or that
    /// of somebody it belongs to), `limit`, `used`, and of a rate `retryAfterMs`.
    QuotaExceeded = "E_QUOTA_EXCEEDED", true;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failed call, as the kernel answers it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .text.as_deref().map_or_else(|| Cow::Owned(format!("{}: {}", .code, .message)), Cow::Borrowed))]
pub struct WireError {
    /// What kind.
    pub code: Code,
    /// English, names the field or the thing.
    pub message: Cow<'static, str>,
    /// Facts for programs, a JSON object.
    pub details: Option<Box<serde_json::Value>>,
    /// Worth trying again unchanged.
    pub retryable: bool,
    /// The v1 text of `error`, where v1 clients match on one; else `error` is `CODE: message`.
    pub text: Option<Cow<'static, str>>,
}

impl WireError {
    /// A failure whose `error` text is `CODE: message`.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> WireError {
        WireError { code, message: message.into(), details: None, retryable: code.retryable(), text: None }
    }

    /// The same with one more fact for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> WireError {
        let details =
            self.details.get_or_insert_with(|| Box::new(serde_json::Value::Object(Default::default())));
        if let Some(object) = details.as_object_mut() {
            object.insert(key.to_owned(), value.into());
        }
        self
    }

    /// The same with another text for v1 clients.
    #[must_use]
    fn text(mut self, text: impl Into<Cow<'static, str>>) -> WireError {
        self.text = Some(text.into());
        self
    }

    /// Required parameters are missing: all of them in one error, in the row's order.
    pub fn missing(names: &[&str]) -> WireError {
        let list = names.join(", ");
        WireError::new(Code::InvalidParams, format!("missing parameters: {list}"))
            .text(format!("缺少参数: {list}"))
            .with("missing", names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    /// A parameter is wrong; `field` is its path (`options.limits.memory`).
    pub fn invalid(field: &str, message: impl fmt::Display) -> WireError {
        WireError::new(Code::InvalidParams, format!("{field}: {message}")).with("field", field)
    }

    /// No such method.
    pub fn unknown_method(method: &str) -> WireError {
        let method = crate::codec::shorten(method);
        WireError::new(
            Code::UnknownMethod,
            format!("unknown method {method:?}; kernel.introspect lists them"),
        )
        .text(format!("未知方法: {method}"))
    }

    /// The caller may not call `method` on process `id`.
    pub fn denied_process(method: &str, id: &str) -> WireError {
        WireError::new(Code::PermissionDenied, format!("{method} on process {id} is not allowed"))
            .text(format!("权限拒绝: {method} 对进程 {id}"))
            .with("id", id)
    }

    /// The caller may not call `method`; `why` says what it lacks.
    pub fn denied(method: &str, why: &str) -> WireError {
        WireError::new(Code::PermissionDenied, format!("{method}: {why}"))
            .text(format!("权限拒绝: {method}: {why}"))
    }

    /// No process of this id that the caller may see.
    pub fn process_not_found(id: &str) -> WireError {
        WireError::new(Code::NotFound, format!("Process {id} not found"))
            .text(format!("Process {id} not found"))
            .with("id", id)
    }

    /// There is no vault.
    pub fn vault_unavailable() -> WireError {
        WireError::new(Code::VaultUnavailable, "no vault is configured").text("Vault 服务不可用")
    }

    /// Too many unanswered calls.
    pub fn too_many_calls() -> WireError {
        let limit = crate::limits::CALLS_IN_FLIGHT_MAX;
        WireError::new(Code::TooManyCalls, format!("{limit} calls of this connection are unanswered"))
            .with("limit", "callsInFlightMax")
    }

    /// Over a limit of [`crate::limits::LIMITS`].
    pub fn too_large(limit: &'static str, message: impl Into<Cow<'static, str>>) -> WireError {
        WireError::new(Code::TooLarge, message).with("limit", limit)
    }

    /// What is asked for is not done here.
    pub fn unsupported(field: &str, why: &str) -> WireError {
        WireError::new(Code::Unsupported, format!("{field}: {why}")).with("field", field)
    }
}
