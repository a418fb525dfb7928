//! Which requests does the input make to Kinesis?
//!
//! The trait `Service` has the calls that the input makes, in the input's own types; `sdk` implements it, and tests
//! script it.

pub(crate) mod cbor;
pub(crate) mod credentials;
mod get_records;
pub(crate) mod http;
pub(crate) mod regions;
pub(crate) mod sdk;
pub(crate) mod take_body;

use std::fmt::Debug;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;

use crate::model::{ListedShard, ShardId, StartPosition, Stream};
use crate::retry::Fault;

/// The calls to Kinesis.
#[async_trait]
pub(crate) trait Service: Debug + Send + Sync + 'static {
    /// The time by the clock of the service, as its last answer said; `None` before the first answer.
    fn time(&self) -> Option<SystemTime> {
        None
    }

    /// Finds a stream by name or ARN.
    async fn describe_stream(&self, name_or_arn: &str) -> Result<Stream, Fault>;

    /// Lists all shards of a stream, page after page.
    async fn list_shards(&self, stream: &Stream) -> Result<Vec<ListedShard>, Fault>;

    /// Describes a consumer, by name.
    async fn describe_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault>;

    /// Describes a consumer, by ARN.
    async fn describe_consumer_arn(&self, arn: &str) -> Result<ConsumerDescription, Fault>;

    /// Registers a consumer.
    async fn register_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault>;

    /// Deregisters a consumer.
    async fn deregister_consumer(&self, arn: &str) -> Result<(), Fault>;

    /// Begins a subscription: when this returns, the service has accepted it, and events follow in the body. The call
    /// is neither retried nor timed.
    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, start: &StartPosition) -> Result<SdkBody, Fault>;

    /// Gets an iterator, which stands for a position in a shard for five minutes. The call is neither retried nor
    /// timed.
    async fn shard_iterator(&self, stream: &Stream, shard: &ShardId, start: &StartPosition) -> Result<String, Fault>;

    /// Gets at most `limit` records from an iterator on: when this returns, the service has accepted the call, and its
    /// answer follows in the body. The call is neither retried nor timed.
    async fn get_records(
        &self,
        stream: &Stream,
        iterator: &str,
        limit: u32,
        encoding: Encoding,
    ) -> Result<RecordsAnswer, Fault>;
}

/// How calls of GetRecords and their answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Cbor,
}

/// An answer of GetRecords whose body is not read yet.
#[derive(Debug)]
pub(crate) struct RecordsAnswer {
    pub(crate) body: SdkBody,
    /// The encoding of the body, which need not be that of the call.
    pub(crate) encoding: Encoding,
    /// The number of bytes of the body, if the answer says so.
    pub(crate) len: Option<u64>,
}

/// A consumer of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerDescription {
    pub(crate) arn: String,
    pub(crate) status: ConsumerStatus,
}

/// The status of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConsumerStatus {
    Creating,
    Active,
    Deleting,
}
