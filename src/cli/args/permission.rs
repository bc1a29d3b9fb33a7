//! Commands about who may what: requests, grants, agents, sessions, the policy.

use super::events::parse_span;
use crate::config::raw::Span;
use clap::{Args, Subcommand, ValueEnum};
use kairo_wire::methods::permission::{GrantScope, GrantedPermission, RunningOption};
use std::path::PathBuf;

/// `--scope`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeChoice {
    Once,
    Session,
    Intent,
    Always,
}

impl From<ScopeChoice> for GrantScope {
    fn from(choice: ScopeChoice) -> GrantScope {
        match choice {
            ScopeChoice::Once => GrantScope::Once,
            ScopeChoice::Session => GrantScope::Session,
            ScopeChoice::Intent => GrantScope::Intent,
            ScopeChoice::Always => GrantScope::Always,
        }
    }
}

/// What becomes of what runs under what is taken back.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Running {
    /// Let what runs under it go on, with what can't be taken from it; else it is ended
    #[arg(long)]
    pub(crate) keep: bool,
}

impl Running {
    pub(crate) fn option(self) -> RunningOption {
        if self.keep { RunningOption::Keep } else { RunningOption::End }
    }
}

/// Show what was asked for and nobody has decided
///
/// With REQUEST, all that one asks for, in words, with the purposes its manifest gives.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo approvals\n  kairo approvals rq_00112233445566778899aabbccddeeff\n  kairo approvals --watch\n  \
    kairo approvals --json | jq -r '.requests[].requestId'"
)]
pub(crate) struct Approvals {
    /// One request, in full
    #[arg(conflicts_with = "watch")]
    pub(crate) request: Option<String>,
    /// Only for this principal
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// Go on with what is asked for from now on, one a line
    #[arg(long, short)]
    pub(crate) watch: bool,
}

/// Grant what was asked for
///
/// An approval of a manifest is good for exactly that manifest and that program, by their digests: when one of them
/// changes, it is asked for again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo approve rq_00112233445566778899aabbccddeeff --scope once\n  \
    kairo approve rq_00112233445566778899aabbccddeeff --scope always --for 30d")]
pub(crate) struct Approve {
    /// The request; `kairo approvals` lists them
    pub(crate) request: String,
    /// How long it is good [default: as it was asked for, else session]
    #[arg(long, value_enum, value_name = "SCOPE")]
    pub(crate) scope: Option<ScopeChoice>,
    /// At most so long: 90m, 7d (s m h d w)
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) lasts: Option<Span>,
}

/// Deny what was asked for
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo deny rq_00112233445566778899aabbccddeeff --reason 'not on this machine'"
)]
pub(crate) struct Deny {
    /// The request; `kairo approvals` lists them
    pub(crate) request: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// List what is granted and forbidden
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo grants\n  kairo grants --principal skill:photo-index\n  \
    kairo grants --json | jq -r '.grants[] | select(.scope == \"always\").id'")]
pub(crate) struct Grants {
    /// Only to this principal
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
}

/// Grant a permission that nobody asked for, or forbid one
///
/// `kairo introspect --json` lists permissions. What is forbidden stays so whatever else is granted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo grant skill:photo-index process.read 'camera-*'\n  \
    kairo grant agent:coder event.publish 'build.>' --for 8h\n  \
    kairo grant skill:photo-index event.publish --forbid")]
pub(crate) struct Grant {
    /// agent:NAME, skill:NAME, session:ID, or for the administrator user:UID
    pub(crate) principal: String,
    /// The permission
    pub(crate) permission: String,
    /// For what; for all if absent
    pub(crate) resource: Option<String>,
    /// Forbid it
    #[arg(long)]
    pub(crate) forbid: bool,
    /// How long it is good [default: always]
    #[arg(long, value_enum, value_name = "SCOPE")]
    pub(crate) scope: Option<ScopeChoice>,
    /// The session that --scope session means
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// The intent that --scope intent means
    #[arg(long, value_name = "INTENT")]
    pub(crate) intent: Option<String>,
    /// At most so long: 90m, 7d (s m h d w)
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) lasts: Option<Span>,
    /// The user the principal runs as [default: ours]
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
    /// What for, in words
    #[arg(long, value_name = "TEXT")]
    pub(crate) purpose: Option<String>,
}

/// Take a grant back, or all of a principal
///
/// Its next call is refused and what it reads is closed. What a running program was contained by can't be made narrower from
/// outside, so what runs under the grant is ended; with --keep it goes on, and what it keeps is named.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo revoke gr_00112233445566778899aabbccddeeff\n  \
    kairo revoke skill:photo-index --keep")]
pub(crate) struct Revoke {
    /// A grant, or a principal such as skill:NAME
    #[arg(value_name = "GRANT|PRINCIPAL")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// Tell whether something may be done, without doing it
///
/// Exit codes: 0 it may; 1 it may not, and the smallest grant that would allow it is named; 125 it can't be told.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo can process.spawn\n  \
    kairo can event.publish photo.done --as skill:photo-index && echo yes\n  \
    kairo can kernel.shutdown --as agent:coder")]
pub(crate) struct Can {
    /// A permission, or a method
    #[arg(value_name = "PERMISSION|METHOD")]
    pub(crate) deed: String,
    /// For what
    pub(crate) resource: Option<String>,
    /// Who [default: us]
    #[arg(long = "as", value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// The user it runs as [default: ours]
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u32>,
}

/// Tell why something was refused, and what would allow it
///
/// A denial is an event of type kairo.security.denied, kairo.permission.denied or kairo.security.violation.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo why last\n  kairo why 1024    # the event at this place of the log\n  \
    kairo why 0d5c7a2e-9f1b-4c3d-8e6f-1a2b3c4d5e6f"
)]
pub(crate) struct Why {
    /// The place or the id of its event, or last
    #[arg(default_value = "last", value_name = "SEQ|EVENT-ID|last")]
    pub(crate) denial: String,
}

/// List agents and their sessions
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo agents\n  kairo agents --json | jq -r '.agents[].name'")]
pub(crate) struct Agents {}

/// Create and remove agents
///
/// An agent is a principal with a name that lasts: what it has started is its own, whichever connection it comes by.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo agent create coder --for 8h\n  kairo agent remove coder")]
pub(crate) struct Agent {
    #[command(subcommand)]
    pub(crate) command: AgentSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentSubcommand {
    Create(AgentCreate),
    Remove(AgentRemove),
}

/// Create an agent, or change how long it lasts
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo agent create coder\n  \
    kairo agent create coder --for 8h --allow process.spawn --allow 'event.publish=build.>'")]
pub(crate) struct AgentCreate {
    /// Letters, digits, `.`, `_` and `-`
    pub(crate) name: String,
    /// It may exactly what is named so; else what any program may that the daemon has started
    #[arg(long, value_name = "PERMISSION[=RESOURCE]", value_parser = parse_permission)]
    pub(crate) allow: Vec<GrantedPermission>,
    /// How long it lasts: 90m, 7d (s m h d w) [default: until it is removed]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) lasts: Option<Span>,
}

/// End an agent, its sessions, its grants and what runs in them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo agent remove coder\n  kairo agent remove coder --keep")]
pub(crate) struct AgentRemove {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// Begin and end sessions of agents
///
/// A session is a time of an agent's work, to which grants can be bound.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo spawn --agent-session \"$(kairo session create coder --for 1h)\" -- ./work\n  \
    kairo session end as_00112233445566778899aabbccddeeff"
)]
pub(crate) struct Session {
    #[command(subcommand)]
    pub(crate) command: SessionSubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SessionSubcommand {
    Create(SessionCreate),
    End(SessionEnd),
}

/// Begin a session of an agent, and print its id
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo session create coder --for 1h")]
pub(crate) struct SessionCreate {
    /// The agent
    pub(crate) agent: String,
    /// How long it lasts: 90m, 7d (s m h d w) [default: as long as its agent]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) lasts: Option<Span>,
}

/// End a session: the grants that are bound to it, and what runs in it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo session end as_00112233445566778899aabbccddeeff")]
pub(crate) struct SessionEnd {
    /// The session
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// Look at a policy: what is approved and forbidden while nobody is there to be asked
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kairo policy check policy.toml")]
pub(crate) struct PolicyCommand {
    #[command(subcommand)]
    pub(crate) command: PolicySubcommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicySubcommand {
    Check(PolicyCheck),
}

/// Read a policy as the daemon would, and say what it would decide
///
/// Exit codes: 0 in order; 125 it can't be read or means nothing, with the field's name.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kairo policy check\n  kairo policy check policy.toml --manifest skill.yaml\n  \
    kairo policy check policy.toml --as agent:coder --manifest skill.yaml"
)]
pub(crate) struct PolicyCheck {
    /// The file; the one that counts if absent
    pub(crate) file: Option<PathBuf>,
    /// What it would decide about this manifest
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Asked for by this principal [default: skill:NAME of the manifest]
    #[arg(long = "as", value_name = "PRINCIPAL", requires = "manifest")]
    pub(crate) principal: Option<String>,
    /// For this program; for a pipeline, each of them
    #[arg(long, value_name = "FILE", requires = "manifest")]
    pub(crate) program: Vec<PathBuf>,
}

fn parse_permission(text: &str) -> Result<GrantedPermission, String> {
    let (permission, resource) = match text.split_once('=') {
        Some((permission, resource)) => (permission, Some(resource.to_owned())),
        None => (text, None),
    };
    if permission.is_empty() || resource.as_deref() == Some("") {
        return Err(format!("{text:?}: write PERMISSION or PERMISSION=RESOURCE"));
    }
    Ok(GrantedPermission { permission: permission.to_owned(), resource, purpose: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_permission_is_typed_with_its_resource() {
        let found = parse_permission("event.publish=a=b").unwrap();
        assert_eq!((found.permission.as_str(), found.resource.as_deref()), ("event.publish", Some("a=b")));
        assert_eq!(parse_permission("process.spawn").unwrap().resource, None);
        assert!(parse_permission("=x").is_err() && parse_permission("x=").is_err());
    }

    #[test]
    fn what_is_kept_is_said() {
        let typed = |words: &[&str]| match Cli::try_parse_from([&["kairo", "revoke", "gr_1"], words].concat())
        {
            Ok(Cli { command: Command::Revoke(revoke), .. }) => revoke.running.option(),
            other => panic!("{other:?}"),
        };
        assert_eq!(typed(&[]), RunningOption::End);
        assert_eq!(typed(&["--keep"]), RunningOption::Keep);
    }
}
