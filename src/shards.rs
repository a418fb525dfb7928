//! Which shards does the service list, and how old may the answer be?
//!
//! Many shards of a stream may ask at the same time; one call serves them all.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::efo::wire::ChildShard;
use crate::names::{ShardId, Stream};
use crate::retry::{self, Control, Fault};
use crate::service::Service;
use crate::topology::{Listed, Listing};

/// A listing of this age is as good as a new one when a shard asks whether it is over.
const FRESH: Duration = Duration::from_secs(2);

/// The listings of one stream.
#[derive(Debug)]
pub(crate) struct Shards {
    service: Arc<dyn Service>,
    stream: Stream,
    last: tokio::sync::Mutex<Option<Listing>>,
}

impl Shards {
    pub(crate) fn new(service: Arc<dyn Service>, stream: Stream) -> Self {
        Self { service, stream, last: tokio::sync::Mutex::new(None) }
    }

    /// A listing that is at most this old. Cancel safe.
    pub(crate) async fn list(&self, max_age: Duration) -> Result<Listing, Fault> {
        let mut last = self.last.lock().await;
        if let Some(listing) = &*last
            && listing.asked_at.elapsed() <= max_age
        {
            return Ok(listing.clone());
        }
        let asked_at = Instant::now();
        let listing = Listing { asked_at, shards: self.service.list_shards(&self.stream).await?.into() };
        *last = Some(listing.clone());
        Ok(listing)
    }

    /// The children of a shard that is closed; `None` if it is open, or nobody can tell now.
    pub(crate) async fn closed(&self, shard: &ShardId) -> Option<Vec<ChildShard>> {
        let shards = self.list_or_report().await?;
        shards.iter().any(|listed| listed.id == *shard && listed.closed).then(|| children(&shards, shard))
    }

    /// The children of a shard that isn't in the stream any more; `None` if it is, or nobody can tell now.
    pub(crate) async fn gone(&self, shard: &ShardId) -> Option<Vec<ChildShard>> {
        let shards = self.list_or_report().await?;
        shards.iter().all(|listed| listed.id != *shard).then(|| children(&shards, shard))
    }

    /// Whether the stream itself is gone, as far as anybody can tell now.
    pub(crate) async fn stream_is_gone(&self) -> bool {
        let answer = self.service.describe_stream(self.stream.arn()).await;
        answer.is_err_and(|fault| retry::control(&fault) == Control::NotFound)
    }

    async fn list_or_report(&self) -> Option<Arc<[Listed]>> {
        match self.list(FRESH).await {
            Ok(listing) => Some(listing.shards),
            Err(fault) => {
                crate::telemetry::listing_failed(&self.stream, &fault);
                None
            }
        }
    }
}

fn children(shards: &[Listed], of: &ShardId) -> Vec<ChildShard> {
    let of = shards.iter().filter(|shard| shard.parents.contains(of));
    of.map(|shard| ChildShard { id: shard.id.clone(), parents: shard.parents.clone() }).collect()
}
