//! When is a batch of messages complete?

use pipeline_plugin_api::config::schemars::JsonSchema;
use pipeline_plugin_api::config::{ByteSize, Duration, Optional};
use serde::Deserialize;
use serde_json::Value;

/// The block `batching`. Batches are gathered for each shard separately.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Batching {
    /// A batch is complete with this many messages; `0` for no such limit. One that is larger than `checkpoint_limit`
    /// comes once everything before it is acknowledged. What the pool has no space for is not waited for.
    pub count: usize,

    /// A batch is complete with this many bytes of payload, which its last message may exceed; `0` for no such limit.
    pub byte_size: ByteSize,

    /// A batch is delivered at the latest this long after the one before it, however few messages it has. Empty: only the
    /// other limits count, so the last messages of a quiet shard wait for more.
    #[schemars(extend("examples" = ["1s", "500ms"]))]
    pub period: Optional<Duration>,

    /// Adds a random part of up to `jitter` times `period` to each period, so that shards don't flush together.
    #[schemars(extend("x-advanced" = true, "examples" = [0.1]))]
    #[schemars(range(min = 0.0))]
    pub jitter: f64,

    /// Has to be empty. Where Redpanda Connect and Bento take a query here, this belongs to the host's pipeline.
    #[schemars(length(max = 0), extend("x-advanced" = true))]
    pub check: String,

    /// Has to be empty. Where Redpanda Connect and Bento take processors here, they belong to the host's pipeline.
    #[schemars(length(max = 0), extend("x-advanced" = true))]
    pub processors: Vec<Value>,
}

impl Batching {
    /// Returns whether there is no limit at all, so that nothing is gathered.
    pub fn is_off(&self) -> bool {
        self.count == 0 && self.byte_size.bytes() == 0 && self.period.is_none_or(|period| period.is_zero())
    }
}
