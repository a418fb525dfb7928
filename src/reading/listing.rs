//! Which shards does the service list, and how old may the answer be?
//!
//! Many shards of a stream may ask at the same time; one call serves them all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::aws::Service;
use crate::model::{ChildShard, ListedShard, ShardId, ShardListing, Stream};
use crate::retry::{self, Control, Fault};
use crate::sync::{Mutex, lock};
use crate::telemetry::health::Health;

/// A difference between a listing and the stored state is believed after this time: listings lag behind the changes,
/// and the pages of one listing may contradict each other.
pub(crate) const CONFIRMED_AFTER: Duration = Duration::from_secs(10);

/// When a shard asks whether it is closed, a listing of this age is as good as a new one, because a closed shard
/// stays closed.
const FRESH: Duration = Duration::from_secs(2);

/// The listings of one stream, and whether the stream is still the same one.
#[derive(Debug)]
pub(crate) struct StreamListing {
    service: Arc<dyn Service>,
    stream: Stream,
    last: tokio::sync::Mutex<Option<ShardListing>>,
    identity: tokio::sync::Mutex<Option<(Instant, StreamIdentity)>>,
    /// The stream that now exists under the name and ARN of this stream, once that is known.
    successor: Mutex<Option<Stream>>,
    /// Wakes the coordinator to handle a successor.
    wake: Arc<Notify>,
    health: Arc<Health>,
}

/// Which stream the service has under the name and ARN of the known one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamIdentity {
    /// The same stream, as far as can be told.
    Same,
    /// No stream.
    Gone,
    /// A stream that was created after the known one was deleted.
    Recreated,
    /// The service did not say.
    Unknown,
}

impl StreamListing {
    /// Creates the listings of a stream. `wake` is notified when the stream turns out to have been recreated.
    pub(crate) fn new(service: Arc<dyn Service>, stream: Stream, wake: Arc<Notify>, health: Arc<Health>) -> Self {
        let (last, identity) = (tokio::sync::Mutex::new(None), tokio::sync::Mutex::new(None));
        Self { service, stream, last, identity, successor: Mutex::new(None), wake, health }
    }

    /// Asks which stream exists now. Many shards may ask at the same time; an answer that was requested at `since` or
    /// later serves them all. This is cancel safe.
    pub(crate) async fn identity(&self, since: Instant) -> StreamIdentity {
        let mut last = self.identity.lock().await;
        if let Some((asked_at, identity)) = *last
            && asked_at >= since
        {
            return identity;
        }
        let asked_at = Instant::now();
        let identity = match self.service.describe_stream(self.stream.arn()).await {
            Ok(found) if self.stream.is_other_life(found.created()) => {
                *lock(&self.successor) = Some(found);
                self.wake.notify_one();
                StreamIdentity::Recreated
            }
            Ok(_) => StreamIdentity::Same,
            Err(fault) if retry::control(&fault) == Control::NotFound => StreamIdentity::Gone,
            Err(_) => StreamIdentity::Unknown,
        };
        *last = Some((asked_at, identity));
        identity
    }

    /// The service that is asked for the listings.
    pub(crate) fn service(&self) -> Arc<dyn Service> {
        Arc::clone(&self.service)
    }

    /// Whether a stream was created under the name and ARN of this stream.
    pub(crate) fn has_successor(&self) -> bool {
        lock(&self.successor).is_some()
    }

    /// The stream that was created under the name and ARN of this stream. It is returned once.
    pub(crate) fn take_successor(&self) -> Option<Stream> {
        lock(&self.successor).take()
    }

    /// Returns a listing that is at most this old. This is cancel safe.
    pub(crate) async fn list(&self, max_age: Duration) -> Result<ShardListing, Fault> {
        self.list_since(ago(max_age)).await
    }

    /// Returns a listing that was requested at this time or later. This is cancel safe.
    async fn list_since(&self, since: Instant) -> Result<ShardListing, Fault> {
        let mut last = self.last.lock().await;
        if let Some(listing) = &*last
            && listing.asked_at >= since
        {
            return Ok(listing.clone());
        }
        let asked_at = Instant::now();
        let listing = ShardListing { asked_at, shards: self.service.list_shards(&self.stream).await?.into() };
        *last = Some(listing.clone());
        Ok(listing)
    }

    /// The children of a closed shard; `None` if it is open, or if that is unknown now.
    pub(crate) async fn closed(&self, shard: &ShardId) -> Option<Vec<ChildShard>> {
        let shards = self.list_or_report(ago(FRESH)).await?.shards;
        shards.iter().any(|listed| listed.id == *shard && listed.closed).then(|| children(&shards, shard))
    }

    /// Whether the shard is in the stream, by a listing that was requested at `since` or later; `None` if that is
    /// unknown now.
    pub(crate) async fn presence(&self, shard: &ShardId, since: Instant) -> Option<ShardPresence> {
        let ShardListing { asked_at, shards } = self.list_or_report(since).await?;
        let is_listed = shards.iter().any(|listed| listed.id == *shard);
        Some(if is_listed {
            ShardPresence::Listed
        } else {
            ShardPresence::Missing { asked_at, children: children(&shards, shard) }
        })
    }

    async fn list_or_report(&self, since: Instant) -> Option<ShardListing> {
        match self.list_since(since).await {
            Ok(listing) => Some(listing),
            Err(fault) => {
                self.health.listing_failed(&self.stream, &fault);
                None
            }
        }
    }
}

/// The time that lies this far back, as far as the clock goes back.
fn ago(age: Duration) -> Instant {
    let now = Instant::now();
    now.checked_sub(age).unwrap_or(now)
}

/// Whether a shard is in its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ShardPresence {
    Listed,
    /// A listing that was requested then does not show the shard, but may show children of it.
    Missing {
        asked_at: Instant,
        children: Vec<ChildShard>,
    },
}

fn children(shards: &[ListedShard], of: &ShardId) -> Vec<ChildShard> {
    let of = shards.iter().filter(|shard| shard.parents.contains(of));
    of.map(|shard| ChildShard { id: shard.id.clone(), parents: shard.parents.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::service_that_splits;

    /// Otherwise a shard that was born since would be missing.
    #[tokio::test(start_paused = true)]
    async fn presence_is_judged_by_a_listing_that_is_requested_afterwards() {
        let (service, split) = service_that_splits();
        let stream = Stream::new("orders", "arn:orders");
        let listing = StreamListing::new(service, stream, Arc::default(), Arc::default());
        assert_eq!(listing.list(FRESH).await.unwrap().shards.len(), 1);
        split();
        // It is not older than a listing that says whether a shard is closed, and shows no child.
        assert_eq!(listing.closed(&"a".into()).await, None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(listing.presence(&"b".into(), Instant::now()).await, Some(ShardPresence::Listed));
    }
}
