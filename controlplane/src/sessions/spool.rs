//! Output on disk, as far as it is decided here: what may be asked for, who may read it, what is told of it.
//!
//! Bytes, files and failures are the data plane's. Invariant: a process has limits of a spool exactly if its outputs are
//! written to disk, and only such a process can be read with the policy `spool`.

use crate::calls::Turn;
use crate::config::Config;
use crate::events::record::Audience;
use crate::kernel::Kernel;
use crate::sessions::report;
use kairo_dataplane::control::SpoolNews;
use kairo_dataplane::key::{Channel, ProcessKey};
use kairo_dataplane::limits::{SPOOL_SEGMENT_BYTES, SPOOL_SEGMENT_BYTES_MAX, SPOOL_SEGMENT_BYTES_MIN};
use kairo_dataplane::meter::SpoolMeter;
use kairo_dataplane::spool::SpoolLimits;
use kairo_wire::error::{Code, WireError};
use kairo_wire::event::{StreamSpoolFailed, StreamSpoolResumed, StreamStore, StreamTruncated};
use kairo_wire::id::ProcessId;
use kairo_wire::methods::spool::{SpoolOption, SpoolSizes, SpoolState, SpoolStatus};
use std::sync::atomic::Ordering;

/// Checks what a spawn asks for.
pub(crate) fn limits(config: &Config, asked: SpoolOption) -> Result<Option<SpoolLimits>, WireError> {
    let Some(asked) = asked.0 else { return Ok(None) };
    if !config.spools {
        return Err(WireError::unsupported("options.spool", "only a daemon has a folder for it"));
    }
    let SpoolSizes { segment_bytes, bytes_max, age_ms, segments, sync, keep } = asked;
    if let Some(bytes) = bytes_max.filter(|bytes| *bytes < SPOOL_SEGMENT_BYTES_MIN) {
        let message = format!("{bytes} bytes are less than the smallest segment, {SPOOL_SEGMENT_BYTES_MIN}");
        return Err(WireError::invalid("options.spool.bytesMax", message));
    }
    if let Some(bytes) = segment_bytes {
        let most = SPOOL_SEGMENT_BYTES_MAX.min(bytes_max.unwrap_or(u64::MAX));
        if !(SPOOL_SEGMENT_BYTES_MIN..=most).contains(&bytes) {
            let message = format!("{SPOOL_SEGMENT_BYTES_MIN} to {most} bytes");
            return Err(WireError::invalid("options.spool.segmentBytes", message));
        }
    }
    for (field, zero) in
        [("options.spool.ageMs", age_ms == Some(0)), ("options.spool.segments", segments == Some(0))]
    {
        if zero {
            return Err(WireError::invalid(field, "a limit is at least 1"));
        }
    }
    // A bound of few segments would cut much at a time.
    let eighth = bytes_max.map_or(SPOOL_SEGMENT_BYTES, |bytes| bytes / 8);
    let usual = eighth.clamp(SPOOL_SEGMENT_BYTES_MIN, SPOOL_SEGMENT_BYTES);
    Ok(Some(SpoolLimits {
        segment_bytes: segment_bytes.unwrap_or(usual),
        bytes_max,
        age_ms_max: age_ms,
        segments_max: segments,
        sync,
        keep,
    }))
}

/// The policy `spool` for a process that has none.
pub(crate) fn unspooled(id: &ProcessId) -> WireError {
    let message = format!("policy: spool needs a process spawned with options.spool, and {id} was not");
    WireError::new(Code::Conflict, message).with("field", "policy").with("id", id.to_string())
}

/// What is told of a spool.
pub(crate) fn status(meter: &SpoolMeter) -> SpoolStatus {
    let errno = meter.errno.load(Ordering::Relaxed);
    SpoolStatus {
        state: if errno == 0 { SpoolState::Working } else { SpoolState::Failed },
        from: meter.oldest.get(),
        to: meter.end.get(),
        bytes: meter.bytes.get(),
        segments: meter.segments.load(Ordering::Relaxed),
        errno: (errno != 0).then_some(errno),
    }
}

impl Kernel {
    /// Something happened to what is on disk.
    pub(crate) fn spool_news(
        &mut self,
        turn: &mut Turn<'_>,
        key: ProcessKey,
        channel: Channel,
        news: SpoolNews,
    ) {
        let Some(process) = self.state.processes.get(&key.serial) else { return };
        let (id, session) = (process.id.clone(), process.session.as_str().to_owned());
        let (creator, trace, stream) =
            (process.creator.clone(), process.story(), report::stream_name(channel));
        let audience = Audience::Of(creator.clone());
        match news {
            SpoolNews::Truncated(cut) => {
                let (store, from, to) = (StreamStore::Spool, cut.from, cut.to);
                let event = StreamTruncated { id, session, stream, store, from, to };
                self.publish(turn, audience, &trace, &event);
            }
            SpoolNews::Failed { errno, good_to } => {
                let event = StreamSpoolFailed { id, session, stream, errno, good_to };
                self.publish(turn, audience, &trace, &event);
            }
            SpoolNews::Resumed { good_to, from } => {
                let event = StreamSpoolResumed { id, session, stream, good_to, from };
                self.publish(turn, audience, &trace, &event);
            }
        }
    }
}
