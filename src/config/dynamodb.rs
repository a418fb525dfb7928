//! Where are leases and checkpoints kept in DynamoDB?

use pipeline_plugin_api::config::Optional;
use pipeline_plugin_api::config::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::session::{self, Credentials, Tcp};
use super::values::is_plain_name;

/// The block `dynamodb`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct DynamoDb {
    /// The name of the table. Its hash key is `StreamID` and its range key `ShardID`, both text.
    #[schemars(extend("x-example" = "kinesis-checkpoints"))]
    pub table: String,

    /// The name under which the workers of this pipeline keep their rows, so that any number of pipelines can share a
    /// table. Workers of another namespace, or of none, don't see the rows, nor do Redpanda Connect and Bento; in a new
    /// namespace every stream begins anew. At most 64 letters, digits, `_`, `.` and `-`, and not `kinesis-input`. Empty:
    /// the rows that are shared with Redpanda Connect and Bento.
    #[schemars(
        regex(pattern = r"^[a-zA-Z0-9_.-]{0,64}$"),
        extend("x-advanced" = true, "examples" = ["orders-to-files"])
    )]
    pub namespace: Optional<String>,

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
#[non_exhaustive]
pub enum BillingMode {
    /// By capacity.
    Provisioned,
    /// By request.
    #[default]
    PayPerRequest,
}

/// Returns whether this can be a namespace. It becomes a part of keys, which it must not make ambiguous, and of the names
/// of consumers.
pub(crate) fn is_namespace(name: &str) -> bool {
    is_plain_name(name, 1..=64) && name != "kinesis-input"
}

/// Returns whether this can be the name or the ARN of a table.
pub(super) fn is_table(name_or_arn: &str) -> bool {
    let name = match name_or_arn.strip_prefix("arn:") {
        None => name_or_arn,
        Some(rest) => match rest.splitn(5, ':').collect::<Vec<_>>()[..] {
            [partition, "dynamodb", region, account, resource] if ![partition, region, account].contains(&"") => {
                resource.strip_prefix("table/").unwrap_or_default()
            }
            _ => "",
        },
    };
    is_plain_name(name, 3..=255)
}

/// What a table has to be, for messages.
pub(super) const TABLE_RULE: &str =
    "the name of a table has 3 to 255 characters: letters, digits, `_`, `.` and `-`; or give its ARN";

/// What a namespace has to be, for messages.
pub(crate) const NAMESPACE_RULE: &str =
    "a namespace has 1 to 64 characters: letters, digits, `_`, `.` and `-`; `kinesis-input` is taken";

impl DynamoDb {
    /// Returns whether the table is reached by its own session instead of the session of the streams.
    pub fn has_own_session(&self) -> bool {
        self.region.is_some() || self.endpoint.is_some() || self.credentials != Credentials::default()
    }
}
