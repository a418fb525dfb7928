//! How is a stream read by enhanced fan-out, with a consumer for the stream and a subscription for each shard?

pub(crate) mod consumer;
#[cfg(test)]
mod consumer_tests;
pub(crate) mod frames;
pub(crate) mod subscription;

pub use frames::Frames;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::listing::StreamListing;
use super::{ReaderFactory, ShardReader, ShardToRead};
use crate::model::StartPosition;
use crate::sync::{Mutex, lock};
use crate::telemetry;

use subscription::{StreamAccess, Subscription};

/// The reader factory for enhanced fan-out.
#[derive(Debug)]
pub(crate) struct FanOut {
    shared: Mutex<StreamAccess>,
}

impl FanOut {
    pub(crate) fn new(shared: StreamAccess) -> Self {
        Self { shared: Mutex::new(shared) }
    }
}

#[async_trait]
impl ReaderFactory for FanOut {
    fn reader(&self, shard: ShardToRead, start: StartPosition, begin: Instant) -> Box<dyn ShardReader> {
        Box::new(Subscription::new(lock(&self.shared).clone(), shard, start, begin))
    }

    async fn recreated(&self, listing: Arc<StreamListing>) {
        let consumer = {
            let mut shared = lock(&self.shared);
            shared.shards = listing;
            Arc::clone(&shared.consumer)
        };
        // A consumer is deleted together with its stream.
        if let Err(error) = consumer.refresh().await {
            telemetry::consumer_failed(consumer.stream(), &error);
        }
    }

    async fn clean_up(&self) {
        let consumer = Arc::clone(&lock(&self.shared).consumer);
        consumer.deregister().await;
    }
}
