//! How are shards polled?

use pipeline_plugin_api::config::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The block `polling`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Polling {
    /// The encoding of the calls that bring records. CBOR takes a quarter less of the network than JSON and less CPU.
    /// AWS speaks it with its Java clients. `auto` asks for it, and uses JSON where the endpoint does not know it.
    #[schemars(extend("x-advanced" = true))]
    pub encoding: PollEncoding,
}

/// The encoding of the calls that bring records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PollEncoding {
    /// CBOR where the endpoint knows it, otherwise JSON.
    #[default]
    Auto,
    /// JSON.
    Json,
    /// CBOR.
    Cbor,
}
