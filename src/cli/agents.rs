//! `kairo agents`, `agent`, `session`: principals with names that last, and the times of their work.

use crate::cli::args::permission::{
    Agent, AgentCreate, AgentRemove, AgentSubcommand, Session, SessionCreate, SessionEnd, SessionSubcommand,
};
use crate::cli::context::{Context, Outcome, json_of};
use crate::cli::failure::Failure;
use crate::cli::grants::went;
use crate::cli::moment::now_ms;
use crate::cli::table::{Edge, Table, duration, visible};
use kairo_client::CallError;
use kairo_wire::error::Code;
use kairo_wire::methods::agent::{
    self, AgentSession, CreateParams, ListParams, RemoveParams, SessionCreateParams, SessionEndParams,
};

pub(crate) fn agents(context: &Context) -> Outcome {
    let found = context.client()?.call::<agent::List>(&ListParams {})?;
    if context.json {
        context.object(json_of(&found)?)?;
    } else {
        context.text(&table(&found.agents, now_ms()).render(context.width(), context.colour()))?;
    }
    Ok(0)
}

/// Each agent, and under it its sessions.
fn table(agents: &[agent::Agent], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        ("AGENT", Edge::Left),
        ("USER", Edge::Right),
        ("AGE", Edge::Right),
        ("ENDS IN", Edge::Right),
        ("PROCESSES", Edge::Left),
    ]);
    let age = |since: u64| duration(now_ms.saturating_sub(since));
    let ends = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| duration(at.saturating_sub(now_ms)));
    for agent in agents {
        let agent::Agent { name, uid, created_ms, expires_ms, sessions, .. } = agent;
        table.row([name.clone(), uid.to_string(), age(*created_ms), ends(*expires_ms)]);
        for AgentSession { session_id, created_ms, expires_ms, processes } in sessions {
            let processes: Vec<String> = processes.iter().map(ToString::to_string).collect();
            let id = format!("  {session_id}");
            table.row([id, String::new(), age(*created_ms), ends(*expires_ms), processes.join(" ")]);
        }
    }
    table
}

pub(crate) fn agent(context: &Context, args: &Agent) -> Outcome {
    match &args.command {
        AgentSubcommand::Create(args) => create(context, args),
        AgentSubcommand::Remove(args) => remove(context, args),
    }
}

fn create(context: &Context, args: &AgentCreate) -> Outcome {
    let params = CreateParams {
        name: args.name.clone(),
        permissions: Some(args.allow.clone()).filter(|allow| !allow.is_empty()),
        lifetime_ms: args.lasts.map(|lasts| lasts.0),
    };
    let made = context.client()?.call::<agent::Create>(&params)?;
    match context.json {
        true => context.object(json_of(&made)?)?,
        false => context.line(&visible(&made.principal))?,
    }
    Ok(0)
}

fn remove(context: &Context, args: &AgentRemove) -> Outcome {
    let params = RemoveParams { name: args.name.clone(), running: args.running.option() };
    let gone = context.client()?.call::<agent::Remove>(&params).map_err(advised)?;
    match context.json {
        true => context.object(json_of(&gone)?)?,
        false => context.text(&went(&gone.sessions, &gone.revoked, &gone.ended))?,
    }
    Ok(0)
}

pub(crate) fn session(context: &Context, args: &Session) -> Outcome {
    match &args.command {
        SessionSubcommand::Create(args) => begin(context, args),
        SessionSubcommand::End(args) => end(context, args),
    }
}

fn begin(context: &Context, args: &SessionCreate) -> Outcome {
    let params =
        SessionCreateParams { agent: args.agent.clone(), lifetime_ms: args.lasts.map(|lasts| lasts.0) };
    let begun = context.client()?.call::<agent::SessionCreate>(&params).map_err(advised)?;
    match context.json {
        true => context.object(json_of(&begun)?)?,
        false => context.line(&visible(&begun.session_id))?,
    }
    Ok(0)
}

fn end(context: &Context, args: &SessionEnd) -> Outcome {
    let params = SessionEndParams { session_id: args.id.clone(), running: args.running.option() };
    let ended = context.client()?.call::<agent::SessionEnd>(&params).map_err(advised)?;
    match context.json {
        true => context.object(json_of(&ended)?)?,
        false => context.text(&went(&[], &ended.revoked, &ended.ended))?,
    }
    Ok(0)
}

fn advised(error: CallError) -> Failure {
    let unknown = error.code() == Some(Code::NotFound);
    let failure = Failure::from(error);
    if unknown { failure.advise("`kairo agents` lists agents and their sessions") } else { failure }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_wire::id::ProcessId;

    #[test]
    fn sessions_stand_under_their_agent() {
        let agent = agent::Agent {
            name: "coder".to_owned(),
            uid: 7,
            by: "owner".to_owned(),
            created_ms: 0,
            expires_ms: Some(65_000),
            sessions: vec![AgentSession {
                session_id: "as_1".to_owned(),
                created_ms: 4_000,
                expires_ms: None,
                processes: vec![ProcessId::from_text("a").unwrap(), ProcessId::from_text("b").unwrap()],
            }],
        };
        let text = table(&[agent], 5_000).render(None, false);
        let expected = "AGENT   USER   AGE  ENDS IN  PROCESSES\ncoder      7  5.0s    1m00s\n  as_1        1.0s        -  a b\n";
        assert_eq!(text, expected);
    }
}
