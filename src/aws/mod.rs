//! What do we ask of Kinesis?
//!
//! One trait with the calls we make, in our own words; [`crate::aws`] is its implementation, and tests script it.

pub(crate) mod credentials;
pub(crate) mod http;
pub(crate) mod sdk;

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;

use crate::model::{ListedShard, ShardId, StartPosition, Stream};
use crate::retry::Fault;

/// The calls.
#[async_trait]
pub(crate) trait Service: Debug + Send + Sync + 'static {
    /// What time it is by the clock of the service, as its last answer told; `None` if none has.
    fn time(&self) -> Option<SystemTime> {
        None
    }

    /// Finds a stream by name or ARN.
    async fn describe_stream(&self, name_or_arn: &str) -> Result<Stream, Fault>;

    /// All shards of a stream, page after page.
    async fn list_shards(&self, stream: &Stream) -> Result<Vec<ListedShard>, Fault>;

    /// A consumer, by name.
    async fn describe_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault>;

    /// A consumer, by ARN.
    async fn describe_consumer_arn(&self, arn: &str) -> Result<ConsumerDescription, Fault>;

    /// Makes a consumer.
    async fn register_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault>;

    /// Removes a consumer.
    async fn deregister_consumer(&self, arn: &str) -> Result<(), Fault>;

    /// Begins a subscription: the service has agreed, and events follow in the body. Neither retried nor timed.
    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, start: &StartPosition) -> Result<SdkBody, Fault>;
}

/// A consumer of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerDescription {
    pub(crate) arn: String,
    pub(crate) status: ConsumerStatus,
}

/// How a consumer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConsumerStatus {
    Creating,
    Active,
    Deleting,
}
