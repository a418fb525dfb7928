//! In which region is each call made?
//!
//! A stream that is configured by its ARN may be in another region than the session. Everything that is called for it is
//! then called there, with the same credentials.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;

use super::{ConsumerDescription, Encoding, RecordsAnswer, Service};
use crate::model::{ListedShard, ShardId, StartPosition, Stream};
use crate::retry::Fault;

/// A service in several regions.
#[derive(Debug)]
pub(crate) struct Regions {
    /// The service in the region of the session.
    session: Arc<dyn Service>,
    others: BTreeMap<String, Arc<dyn Service>>,
}

impl Regions {
    /// Makes the service of the session's region and of others.
    pub(crate) fn new(session: Arc<dyn Service>, others: BTreeMap<String, Arc<dyn Service>>) -> Self {
        Self { session, others }
    }

    /// The service in the region of a stream or a consumer, by its ARN; that of the session for a name.
    fn of(&self, name_or_arn: &str) -> &dyn Service {
        let other = region_of(name_or_arn).and_then(|region| self.others.get(region));
        &**other.unwrap_or(&self.session)
    }
}

/// The region in an ARN.
fn region_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(2)
}

#[async_trait]
impl Service for Regions {
    fn time(&self) -> Option<SystemTime> {
        // The clocks of the service are the same everywhere.
        std::iter::once(&self.session).chain(self.others.values()).find_map(|service| service.time())
    }

    async fn describe_stream(&self, name_or_arn: &str) -> Result<Stream, Fault> {
        self.of(name_or_arn).describe_stream(name_or_arn).await
    }

    async fn list_shards(&self, stream: &Stream) -> Result<Vec<ListedShard>, Fault> {
        self.of(stream.arn()).list_shards(stream).await
    }

    async fn describe_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault> {
        self.of(stream.arn()).describe_consumer(stream, name).await
    }

    async fn describe_consumer_arn(&self, arn: &str) -> Result<ConsumerDescription, Fault> {
        self.of(arn).describe_consumer_arn(arn).await
    }

    async fn register_consumer(&self, stream: &Stream, name: &str) -> Result<ConsumerDescription, Fault> {
        self.of(stream.arn()).register_consumer(stream, name).await
    }

    async fn deregister_consumer(&self, arn: &str) -> Result<(), Fault> {
        self.of(arn).deregister_consumer(arn).await
    }

    async fn subscribe(&self, consumer_arn: &str, shard: &ShardId, start: &StartPosition) -> Result<SdkBody, Fault> {
        self.of(consumer_arn).subscribe(consumer_arn, shard, start).await
    }

    async fn shard_iterator(&self, stream: &Stream, shard: &ShardId, start: &StartPosition) -> Result<String, Fault> {
        self.of(stream.arn()).shard_iterator(stream, shard, start).await
    }

    async fn get_records(
        &self,
        stream: &Stream,
        iterator: &str,
        limit: u32,
        encoding: Encoding,
    ) -> Result<RecordsAnswer, Fault> {
        self.of(stream.arn()).get_records(stream, iterator, limit, encoding).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_the_fourth_part_of_an_arn() {
        assert_eq!(region_of("arn:aws-cn:kinesis:cn-north-1:111122223333:stream/orders"), Some("cn-north-1"));
        assert_eq!(region_of("arn:aws:kinesis:eu-west-1:111122223333:stream/a/consumer/b:1"), Some("eu-west-1"));
        assert_eq!(region_of("orders"), None);
    }
}
