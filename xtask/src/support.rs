//! What the harness shares with the tests of the daemon: the files are theirs, compiled here as well, so that there
//! is one raw client, one view of `/proc` and one checkable sequence.

#[allow(dead_code, reason = "the tests use what the harness doesn't")]
#[path = "../../tests/daemon/support/output.rs"]
pub(crate) mod output;
#[allow(dead_code, reason = "the tests use what the harness doesn't")]
#[path = "../../tests/daemon/support/pattern.rs"]
pub(crate) mod pattern;
#[allow(dead_code, reason = "the tests use what the harness doesn't")]
#[path = "../../tests/daemon/support/processes.rs"]
pub(crate) mod processes;
#[allow(dead_code, reason = "the tests use what the harness doesn't")]
#[path = "../../tests/daemon/support/raw.rs"]
pub(crate) mod raw;
