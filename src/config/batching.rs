//! When is a batch of messages complete?

use pipeline_plugin_api::config::schemars::JsonSchema;
use pipeline_plugin_api::config::{ByteSize, Duration, Optional};
use serde::Deserialize;
use serde_json::Value;

/// The block `batching`. Batches are formed for each shard separately.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Batching {
    /// The number of messages that completes a batch; `0` for no such limit.
    pub count: usize,

    /// The number of bytes that completes a batch; `0` for no such limit.
    pub byte_size: ByteSize,

    /// A batch is complete after this time, however few messages it has. Empty: only the other limits count.
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
    /// Returns whether there is no limit at all, so that every message is a batch of its own.
    pub fn is_off(&self) -> bool {
        self.count == 0 && self.byte_size.bytes() == 0 && self.period.is_none_or(|period| period.is_zero())
    }
}
