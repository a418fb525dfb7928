//! Where are leases and checkpoints kept in DynamoDB?

use pipeline_plugin_api::config::Optional;
use pipeline_plugin_api::config::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::session::{self, Credentials, Tcp};

/// The block `dynamodb`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct DynamoDb {
    /// The name of the table. Its hash key is `StreamID` and its range key `ShardID`, both text.
    #[schemars(extend("x-example" = "kinesis-checkpoints"))]
    pub table: String,

    /// Whether to create the table if it doesn't exist, and to wait until it is there.
    #[schemars(extend("x-example" = true))]
    pub create: bool,

    /// How a table that is created here is paid for.
    #[schemars(extend("x-advanced" = true))]
    pub billing_mode: BillingMode,

    /// Read capacity of a table that is created here; at least 1 when `billing_mode` is `PROVISIONED`.
    #[schemars(extend("x-advanced" = true))]
    pub read_capacity_units: u32,

    /// Write capacity of a table that is created here; at least 1 when `billing_mode` is `PROVISIONED`.
    #[schemars(extend("x-advanced" = true))]
    pub write_capacity_units: u32,

    /// The region of the table. As soon as this, `endpoint` or `credentials` is set, the table is reached by a session of its
    /// own; otherwise by that of the streams.
    #[schemars(extend("x-advanced" = true))]
    pub region: Optional<String>,

    /// Another endpoint for the table than AWS's own, as an `http` or `https` URL.
    #[schemars(regex(pattern = session::ENDPOINT), extend("x-advanced" = true))]
    pub endpoint: Optional<String>,

    /// Timeouts and probes of the TCP connections of a session for the table.
    #[schemars(extend("x-advanced" = true))]
    pub tcp: Tcp,

    /// Credentials for the table, where it belongs to another account.
    #[schemars(extend("x-advanced" = true))]
    pub credentials: Credentials,
}

/// How a DynamoDB table is paid for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BillingMode {
    /// By capacity.
    Provisioned,
    /// By request.
    #[default]
    PayPerRequest,
}

impl DynamoDb {
    /// Returns whether the table is reached by its own session instead of the session of the streams.
    pub fn has_own_session(&self) -> bool {
        self.region.is_some() || self.endpoint.is_some() || self.credentials != Credentials::default()
    }
}
