//! What becomes of messages that are rejected again and again?

use pipeline_plugin_api::config::Duration;
use pipeline_plugin_api::config::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The block `redelivery`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Redelivery {
    /// A message that was rejected this many times is given up; `0` for any number of times. It is counted from when this
    /// process began to read the shard.
    pub max_attempts: u32,

    /// A message that is rejected this long after it was first delivered, or later, is given up; `0s` for any time.
    pub max_age: Duration,

    /// What happens to a message that is given up: it is delivered again nevertheless, and holds its shard (`hold`), or
    /// it is dropped, counted and logged (`drop`). To keep it elsewhere, let the pipeline write it there and accept it:
    /// each message says in `kinesis_delivery_attempt` how often it was delivered.
    pub then: GivenUp,

    /// Whether a batch that was rejected as a whole twice is delivered again in halves, down to single messages, so that
    /// one bad message does not keep the others back. What is rejected together with others does not count as an attempt
    /// then. Leave it off for an output whose failures mostly concern it as a whole, or batches are small after each of
    /// them.
    pub bisect: bool,
}

/// What happens to a message that is given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GivenUp {
    /// It is delivered again.
    #[default]
    Hold,
    /// It is dropped, counted and logged.
    Drop,
}
