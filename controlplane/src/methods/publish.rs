//! Streams that clients write. To everybody but the data plane such a stream is a process like any other.

use crate::calls::{Asking, Turn};
use crate::kernel::Kernel;
use crate::permissions::programs::Place;
use crate::sessions::lifecycle::Birth;
use crate::sessions::plan::{self, Asker, Published};
use crate::table::{Answers, Entry};
use kairo_dataplane::command::OutletKind;
use kairo_dataplane::control::{Descriptors, Tree};
use kairo_dataplane::key::ProcessKey;
use kairo_dataplane::limits::{LENT_TAIL_BYTES, PIPE_BYTES};
use kairo_wire::codec::text::OsText;
use kairo_wire::error::WireError;
use kairo_wire::method::Method;
use kairo_wire::methods::open::DescriptorRole;
use kairo_wire::methods::options::{HistoryOption, OnDisconnect, SpawnOptions};
use kairo_wire::methods::process::SpawnParams;
use kairo_wire::methods::publish::{Entrance, Publish, PublishParams, PublishResult};

/// The behaviours of this room's rows.
pub(crate) const METHODS: &[Entry] = &[(Publish::ROW, Answers::Later, publish)];

/// What stands where others have an argv.
const ARGV: &str = "(published)";

fn publish(kernel: &mut Kernel, turn: &mut Turn<'_>, asking: &Asking<'_>) -> Result<(), WireError> {
    let params = asking.read::<Publish>()?;
    let kind = entrance(&params)?;
    let Some(peer) = kernel.state.connections.get(asking.connection) else { return Ok(()) };
    let pid = peer.peer.pid;
    kernel.may_begin_under(asking.trace.intent.as_deref())?;
    let options = SpawnOptions {
        history: match kind {
            OutletKind::Shared => {
                let tail_bytes = params.ring_bytes.unwrap_or(LENT_TAIL_BYTES);
                HistoryOption::Sizes { head_bytes: Some(0), tail_bytes: Some(tail_bytes) }
            }
            OutletKind::Pipe { .. } | OutletKind::Socket | OutletKind::Fifo { .. } => params.history,
        },
        when_unread: params.when_unread,
        on_disconnect: OnDisconnect::Kill,
        spool: params.spool,
        rate: params.rate,
        ..SpawnOptions::default()
    };
    let intent = asking.trace.intent.as_deref();
    let identity = kernel.identity(turn.at, asking.connection, (Some(&options), Place::default()), intent)?;
    let within = kernel.within(asking.connection);
    let command = vec![OsText::from(ARGV)];
    let spawn = SpawnParams { id: params.id, command, options: Some(Box::new(options)) };
    let Some(peer) = kernel.state.connections.get(asking.connection) else { return Ok(()) };
    let mut plan = plan::check(&kernel.config, &Asker::behind(peer, within, identity), spawn)?;
    // There is nobody to contain.
    plan.contained = None;
    plan.adapter = None;
    plan.published = Some(Published { kind, pid });
    plan.trace = asking.trace.clone();
    kernel.spawn(turn, asking, plan)
}

fn entrance(params: &PublishParams) -> Result<OutletKind, WireError> {
    match (params.transport, params.pipe_bytes, params.ring_bytes) {
        (Entrance::Pipe, bytes, None) => Ok(OutletKind::Pipe { bytes: bytes.unwrap_or(PIPE_BYTES) }),
        (Entrance::Shared, None, _) if params.rate.is_some() => {
            Err(WireError::unsupported("rate", "a shared ring is written as fast as its readers let it"))
        }
        (Entrance::Shared, None, _) => Ok(OutletKind::Shared),
        (Entrance::Pipe, _, Some(_)) => {
            Err(WireError::invalid("ringBytes", "only the transport shared has a ring"))
        }
        (Entrance::Shared, Some(_), _) => {
            Err(WireError::invalid("pipeBytes", "only the transport pipe has one"))
        }
    }
}

impl Kernel {
    /// A stream is there for its producer.
    pub(crate) fn published(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        descriptors: &Descriptors,
        bytes: usize,
    ) {
        let Some(process) = self.state.processes.get_mut(&key.serial) else { return };
        let Some(Published { kind, pid }) = process.published else { return };
        let result = PublishResult {
            id: process.id.clone(),
            session: process.session.clone(),
            descriptors: match kind {
                OutletKind::Pipe { .. } | OutletKind::Socket | OutletKind::Fifo { .. } => {
                    vec![DescriptorRole::PipeWriter]
                }
                OutletKind::Shared => {
                    vec![DescriptorRole::Ring, DescriptorRole::Seat, DescriptorRole::Doorbell]
                }
            },
            bytes: bytes as u64,
        };
        for ticket in std::mem::take(&mut process.spawning) {
            self.resolve_with(turn, ticket, &result, descriptors.clone());
        }
        let birth = Birth { pid, tree: Tree::Exact, start_ticks: 0, limits: Vec::new() };
        self.spawned(turn, key, birth);
    }
}
