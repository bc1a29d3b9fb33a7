//! What happens to pipelines; their stages are processes, whose events follow from the start.

use crate::id::ProcessId;
use crate::methods::pipeline::{PipelineEdge, StageExit};
use crate::methods::system::Principal;

super::events! {
    /// A pipeline is started: the starts of its stages follow from this.
    PipelineStarted = "kairo.pipeline.started", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// Its stages, in order.
        pub stages: Vec<ProcessId>,
        /// How they are joined.
        pub edges: Vec<PipelineEdge>,
        /// Who started it.
        pub owner: Principal,
    }

    /// Every stage of a pipeline has exited, or it came to nothing.
    PipelineEnded = "kairo.pipeline.ended", Bus {
        /// As its client named it.
        pub id: ProcessId,
        /// That of the last stage that failed, 0 if none did; absent if that can't be told, or if it never began.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub exit_code: Option<i32>,
        /// Which stage that was, or which could not be started; from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub failed_stage: Option<u32>,
        /// Why it could not be started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub error: Option<String>,
        /// Each stage, in order.
        pub stages: Vec<StageExit>,
        /// From start to here, milliseconds.
        pub duration_ms: u64,
    }
}
