//! What a keeper says to whoever comes after a kernel that died, and what that one answers.
//!
//! `Hello` either way, then everything in acknowledged batches, `Complete`; then rings are replaced, lanes brought, and
//! the successor is the kernel. Packets and descriptors are as in [`protocol`](super::protocol). Only data is here.

use crate::control::{ExitStatus, Tree, Usage};
use crate::keeper::protocol::{Blob, End, Limit};
use crate::key::ProcessKey;
use serde::{Deserialize, Serialize};

/// Keeper to a kernel's successor, over the handover socket. `Hello`, then batches of all but the last three, each batch
/// closed by `Batch` and acknowledged before the next one starts, then `Complete`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum ToSuccessor<'a> {
    /// First.
    Hello {
        /// The highest version spoken.
        version: u16,
        /// The keeper's.
        pid: i32,
        /// How many `Reactor` follow.
        reactors: u16,
        /// How many `Session` follow.
        sessions: u32,
    },
    /// A reactor's page and the ends of its staging pipes follow this packet, as with [`ToKeeper::HoldReactor`](super::protocol::ToKeeper::HoldReactor).
    Reactor {
        /// Its number.
        reactor: u16,
    },
    /// A process; its ends that are still kept follow the packet, in the order of [`End::ALL`].
    Session {
        /// Its name under the dead kernel.
        process: ProcessKey,
        /// Its session.
        session: &'a str,
        /// The leader.
        pid: i32,
        /// With the pid, a name for good.
        start_ticks: u64,
        /// How well its tree is known.
        tree: Tree,
        /// If the leader has ended and the dead kernel had told so. An end it had not told comes once more over a lane.
        exit: Option<(ExitStatus, Usage)>,
        /// True exactly when nobody of the tree is left and the dead kernel had told so.
        ended: bool,
        /// True exactly when the tree is on a PTY.
        terminal: bool,
        /// Per end, in the order of [`End::ALL`]: it follows, with its pipe's size in force.
        pipe_bytes: [Option<u32>; 3],
        /// The spawn's record, up to [`RECORD_BYTES_MAX`](super::protocol::RECORD_BYTES_MAX).
        #[serde(borrow)]
        record: Blob<'a>,
    },
    /// A ring of the last session follows this packet.
    Stream {
        /// Whose.
        process: ProcessKey,
        /// Which end's bytes.
        end: End,
        /// Its name in a reactor's page, first half.
        slot: u32,
        /// Second half.
        generation: u32,
    },
    /// The inbox of the last session follows this packet.
    Input {
        /// Whose.
        process: ProcessKey,
    },
    /// More about the last session. Since version 3.
    Facts {
        /// Whose.
        process: ProcessKey,
        /// What limits hold.
        limits: Vec<Limit>,
        /// When the leader was reaped, CLOCK_MONOTONIC nanoseconds.
        exited_ns: Option<u64>,
        /// The kernel's last note, up to [`NOTE_BYTES_MAX`](super::protocol::NOTE_BYTES_MAX); empty if there was none.
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// End of a batch.
    Batch {
        /// Counted from 0.
        number: u32,
    },
    /// Nothing more.
    Complete,
    /// The ring of a [`FromSuccessor::Replace`] is kept instead of the old one.
    Replaced {
        /// From the request.
        process: ProcessKey,
        /// From the request.
        end: End,
    },
    /// The successor is the kernel now: everything else is said on its lanes.
    Adopted,
    /// An outlet of the last session and its place follow this packet. Since version 9.
    Outlet {
        /// Whose.
        process: ProcessKey,
        /// Its name.
        serial: u64,
        /// Which output it reads.
        end: End,
        /// As given.
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// The inlet of the last session follows this packet. Since version 10.
    Inlet {
        /// Whose stdin.
        process: ProcessKey,
        /// As given.
        #[serde(borrow)]
        path: Blob<'a>,
        /// As given.
        until_ns: u64,
        /// As given.
        closes: bool,
        /// As given.
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// As `Outlet`, of one in frames. Since version 10.
    Framed {
        /// Whose.
        process: ProcessKey,
        /// Its name.
        serial: u64,
        /// Which output it reads.
        end: End,
        /// As given.
        #[serde(borrow)]
        note: Blob<'a>,
    },
    /// The last session has no child: a client writes it. If that is in place, and not over, its ring, page and doorbell follow
    /// this packet. Since version 10.
    Producer {
        /// Whose.
        process: ProcessKey,
        /// They follow.
        in_place: bool,
    },
    /// Who waited for a first byte of the last session's outputs. Since version 11.
    Blockers {
        /// Whose.
        process: ProcessKey,
        /// As given.
        counts: [u32; 2],
    },
}

/// Packets of a batch, at most. Bounds what is in the socket: descriptors in flight count against the user.
pub(crate) const BATCH_PACKETS_MAX: usize = 32;

/// A successor to the keeper.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromSuccessor {
    /// First; the keeper starts the handover.
    Hello {
        /// The highest version spoken.
        version: u16,
        /// The successor's.
        pid: i32,
    },
    /// A batch arrived whole.
    Acknowledge {
        /// Which.
        number: u32,
    },
    /// End every tree, then the keeper.
    Shutdown {
        /// Between SIGTERM and SIGKILL, nanoseconds.
        grace_ns: u64,
    },
    /// Beside it: a stream's new ring, which holds all that the old one does. Answered by `Replaced`.
    Replace {
        /// Whose.
        process: ProcessKey,
        /// Which end's bytes.
        end: End,
        /// Its name in a reactor's page, first half.
        slot: u32,
        /// Second half.
        generation: u32,
    },
    /// Beside it: the keeper's end of one more lane.
    Lane,
    /// Be the keeper of the one who says this: what its lanes say counts from now on, and processes whose reactor is
    /// not there any more belong to their number modulo the number of lanes. Answered by `Adopted`, on this socket.
    Adopt {
        /// The new kernel.
        kernel_pid: i32,
    },
}
