//! What can be configured, and what do the fields mean?
//!
//! The module is pure: nothing here does I/O. One declaration, [`Config`], provides parsing, checks, schema,
//! reference and example; the implementation is in [`pipeline_plugin_api::config`].
//!
//! # Layout
//!
//! - `values`: the rules for single fields that their types don't hold.
//! - `checks`: the rules that several fields must satisfy together.
//! - [`streams`]: the syntax of the `streams` entries.
//! - `session`: how to reach AWS: region, endpoint, credentials, sockets.
//! - `dynamodb`, `batching`, `redelivery`, `fan_out`: the blocks with those names.
//! - `timestamp`: points in time.
//! - `about`: the text around the fields, for the documentation.

mod about;
mod batching;
mod checks;
#[cfg(test)]
mod compatibility_tests;
#[cfg(test)]
mod compatible_blocks;
#[cfg(test)]
mod docs_tests;
mod dynamodb;
mod fan_out;
mod polling;
mod redelivery;
mod session;
pub mod streams;
#[cfg(test)]
mod tests;
mod timestamp;
mod values;

use std::path::PathBuf;

use pipeline_plugin_api::config::schemars::JsonSchema;
use pipeline_plugin_api::config::{Duration, Optional};
use serde::Deserialize;

pub use about::about;
pub use batching::Batching;
pub use dynamodb::{BillingMode, DynamoDb};
pub(crate) use dynamodb::{NAMESPACE_RULE, is_namespace};
use dynamodb::{TABLE_RULE, is_table};
pub use fan_out::EnhancedFanOut;
pub use polling::{PollEncoding, Polling};
pub use redelivery::{GivenUp, Redelivery};
pub use session::{Credentials, KeepAlive, KeepAliveIdle, Tcp};
pub(crate) use session::{is_region, odd_key};
pub use streams::{StreamArn, StreamEntry, StreamRef, Streams};
pub use timestamp::Timestamp;

/// The block `aws_kinesis`.
///
/// `Debug` shows no secrets. A configuration that is built by hand is unchecked; [`Document::parse`] checks it.
///
/// [`Document::parse`]: pipeline_plugin_api::config::Document::parse
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The streams to read: a name, a full ARN, or either with `:` and the id of one shard (`orders:shardId-000000000000`).
    /// An element may hold several, separated by commas.
    ///
    /// Without shards, the shards of every stream are balanced among all processes that share the lease table. With
    /// shards, exactly those are read; the two can't be mixed. List a stream once for each of its shards.
    #[schemars(extend("x-example" = ["orders"]))]
    #[schemars(extend("examples" = [["orders"], ["arn:aws:kinesis:eu-west-1:111122223333:stream/orders"], ["orders:shardId-000000000000,orders:shardId-000000000001"]]))]
    pub streams: Streams,

    /// The table that holds leases and checkpoints. It makes any number of processes share the shards of a stream.
    #[serde(default)]
    pub dynamodb: DynamoDb,

    /// A file that holds leases and checkpoints instead of a table, for one process alone. Exactly one of
    /// `dynamodb.table` and `checkpoint_file` has to be set.
    #[serde(default)]
    #[schemars(extend("examples" = ["/var/lib/pipeline/orders.checkpoints"]))]
    pub checkpoint_file: Optional<PathBuf>,

    /// The name under which this process holds leases; each process needs its own. One that stays the same over restarts
    /// (such as the name of a pod in a `StatefulSet`) gets its shards back at once after a crash. Empty: a random one.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true, "examples" = ["pipeline-0"]))]
    pub client_id: Optional<String>,

    /// How many messages of one shard may be on their way at once: from the oldest that isn't acknowledged to the newest
    /// that was delivered. `1` makes delivery strictly one after the other.
    ///
    /// It bounds throughput: a shard comes at most at `checkpoint_limit` messages in the time that the output takes to
    /// acknowledge them. With 1,024, and an output that takes 100 ms, that is some 10,000 messages a second. Outputs that
    /// write large batches or acknowledge late need more; the pool bounds memory whatever the limit is.
    #[serde(default = "default_checkpoint_limit")]
    #[schemars(range(min = 1))]
    pub checkpoint_limit: usize,

    /// Whether messages that are rejected by the rest of the pipeline are delivered again, until they are accepted. If
    /// `false` they are dropped, counted and logged.
    #[serde(default = "yes")]
    pub auto_replay_nacks: bool,

    /// What becomes of messages that are rejected again and again. By default they are delivered until they are accepted,
    /// and hold their shard.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub redelivery: Redelivery,

    /// How often checkpoints are stored. What was acknowledged since the last time is read again after a crash. Must be
    /// shorter than `lease_period`.
    #[serde(default = "default_commit_period")]
    pub commit_period: Duration,

    /// How long beyond the owner's next commit a process waits for a shard that it takes over to be handed to it. Longer
    /// means slower balancing and fewer duplicates.
    #[serde(default = "default_steal_grace_period")]
    pub steal_grace_period: Duration,

    /// How often each process looks whether shards should change hands.
    #[serde(default = "default_rebalance_period")]
    #[schemars(extend("x-advanced" = true))]
    pub rebalance_period: Duration,

    /// A lease that was not renewed for this long may be taken by another process.
    #[serde(default = "default_lease_period")]
    #[schemars(extend("x-advanced" = true))]
    pub lease_period: Duration,

    /// Where to start in a shard that has no checkpoint, and no parent that is read: at the oldest record (`true`), or
    /// with what is written from now on (`false`). "Now" is the first connect, and is kept over restarts and reshards, so
    /// that nothing in between is skipped.
    #[serde(default = "yes")]
    pub start_from_oldest: bool,

    /// Start at the first record written at or after this time, in RFC 3339, in shards that have no checkpoint.
    /// Overrides `start_from_oldest`.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    #[schemars(extend("examples" = ["2026-11-01T00:00:00Z"]))]
    pub start_at_timestamp: Optional<Timestamp>,

    /// When polling, the shortest time between two reads of one shard; `0s` reads as fast as AWS allows. At most
    /// `lease_period`. Nothing to do with enhanced fan-out.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub poll_period: Duration,

    /// How shards are polled, without enhanced fan-out.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub polling: Polling,

    /// How many batches may wait to be taken by the pipeline; `0` hands each over directly.
    #[serde(default = "default_message_buffer_cap")]
    #[schemars(extend("x-advanced" = true))]
    pub message_buffer_cap: usize,

    /// Whether records that the Kinesis Producer Library packed into one are delivered one by one (`auto`), or as they
    /// are stored (`off`).
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub deaggregate: Deaggregate,

    /// How user records of aggregates are treated.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub kpl: Kpl,

    /// Reading by enhanced fan-out: 2 MB/s of its own for every shard, pushed as records arrive. AWS charges for it by
    /// shard, hour and volume. Without it shards are polled.
    #[serde(default)]
    pub enhanced_fan_out: EnhancedFanOut,

    /// Messages of one shard are gathered into batches, and each is handed to the pipeline by itself; the remainder at the
    /// end of a shard, before a hand-over and before a graceful stop, too. Without any limit here the pipeline is given what is ready, of any
    /// shards, up to what it asks for.
    #[serde(default)]
    pub batching: Batching,

    /// The AWS region. Empty: from the environment or the profile.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true, "examples" = ["eu-west-1"]))]
    pub region: Optional<String>,

    /// Another endpoint than AWS's own, as an `http` or `https` URL, such as that of a local server.
    #[serde(default)]
    #[schemars(regex(pattern = session::ENDPOINT), extend("x-advanced" = true, "examples" = ["http://localhost:4566"]))]
    pub endpoint: Optional<String>,

    /// Timeouts and probes of the TCP connections to AWS.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub tcp: Tcp,

    /// Credentials for AWS, where those of the environment, of the machine or of a web identity won't do.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub credentials: Credentials,
}

/// How records that the Kinesis Producer Library aggregated are delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Deaggregate {
    /// Each user record becomes a message.
    #[default]
    Auto,
    /// A record is a message, as it is stored.
    Off,
}

/// How user records of aggregates are treated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kpl {
    /// What happens to a user record whose hash key lies outside its shard, which is found in aggregates that were on
    /// their way while the shard was split or merged. The KPL sends such records again, so they are dropped and counted
    /// (`drop`). Other producers of aggregates do not, so with them only `deliver` loses nothing. `auto` drops, unless
    /// the stream distributes its records automatically.
    #[serde(default)]
    #[schemars(extend("x-advanced" = true))]
    pub out_of_range: OutOfRange,
}

/// What happens to a user record whose hash key lies outside its shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OutOfRange {
    /// It is dropped where hash keys decide the shard, and delivered where the service distributes the records.
    #[default]
    Auto,
    /// It is dropped and counted.
    Drop,
    /// It is delivered.
    Deliver,
}

impl Config {
    /// Creates a configuration with every default, for these streams. It still needs a store for checkpoints.
    pub fn new(streams: Streams) -> Self {
        Self {
            streams,
            dynamodb: DynamoDb::default(),
            checkpoint_file: Optional::NONE,
            client_id: Optional::NONE,
            checkpoint_limit: default_checkpoint_limit(),
            auto_replay_nacks: yes(),
            redelivery: Redelivery::default(),
            commit_period: default_commit_period(),
            steal_grace_period: default_steal_grace_period(),
            rebalance_period: default_rebalance_period(),
            lease_period: default_lease_period(),
            start_from_oldest: yes(),
            start_at_timestamp: Optional::NONE,
            poll_period: Duration::ZERO,
            polling: Polling::default(),
            message_buffer_cap: default_message_buffer_cap(),
            deaggregate: Deaggregate::Auto,
            kpl: Kpl::default(),
            enhanced_fan_out: EnhancedFanOut::default(),
            batching: Batching::default(),
            region: Optional::NONE,
            endpoint: Optional::NONE,
            tcp: Tcp::default(),
            credentials: Credentials::default(),
        }
    }

    /// The streams to read, each once, in the order in which they were first written.
    pub fn stream_entries(&self) -> &[StreamEntry] {
        self.streams.entries()
    }
}

fn yes() -> bool {
    true
}

fn default_checkpoint_limit() -> usize {
    1024
}

fn default_commit_period() -> Duration {
    Duration::from_secs(5)
}

fn default_steal_grace_period() -> Duration {
    Duration::from_secs(2)
}

fn default_rebalance_period() -> Duration {
    Duration::from_secs(30)
}

fn default_lease_period() -> Duration {
    Duration::from_secs(30)
}

fn default_message_buffer_cap() -> usize {
    64
}
