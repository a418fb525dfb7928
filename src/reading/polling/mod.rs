//! How is a stream read by polling, with GetRecords for each shard?

mod pace;
pub(crate) mod poller;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::listing::StreamListing;
use super::{ReaderFactory, ShardReader, ShardToRead};
use crate::aws::Encoding;
use crate::model::StartPosition;
use crate::pool::Pool;
use crate::sync::{Mutex, lock};
use crate::telemetry::health::Health;

use poller::Poller;

/// The reader factory for polling.
#[derive(Debug)]
pub(crate) struct Polling {
    shared: Mutex<StreamAccess>,
}

/// The parts that all pollers of a stream share.
#[derive(Debug, Clone)]
pub(crate) struct StreamAccess {
    pub(crate) shards: Arc<StreamListing>,
    pub(crate) pool: Pool,
    pub(crate) health: Arc<Health>,
    pub(crate) encodings: Arc<Encodings>,
    /// The shortest time between two calls on a shard that the configuration wants.
    pub(crate) period: Duration,
    /// When one of the rounds is in which idle shards are asked.
    pub(crate) round: Instant,
    /// The longest delay of ordinary retries.
    pub(crate) retry_ceiling: Duration,
}

impl Polling {
    pub(crate) fn new(shared: StreamAccess) -> Self {
        Self { shared: Mutex::new(shared) }
    }
}

#[async_trait]
impl ReaderFactory for Polling {
    fn reader(&self, shard: ShardToRead, start: StartPosition, begin: Instant) -> Box<dyn ShardReader> {
        Box::new(Poller::new(lock(&self.shared).clone(), shard, start, begin))
    }

    async fn recreated(&self, listing: Arc<StreamListing>) {
        lock(&self.shared).shards = listing;
    }

    async fn clean_up(&self) {}
}

/// The encoding of the calls of an input, which it agrees on with the endpoint.
#[derive(Debug)]
pub(crate) struct Encodings {
    /// Whether JSON may be used when the endpoint does not know CBOR.
    may_fall_back: bool,
    cbor: AtomicBool,
}

impl Encodings {
    /// Makes calls in CBOR if `cbor` says so, and in JSON from the time on that the endpoint does not know CBOR, if
    /// `may_fall_back` says so.
    pub(crate) fn new(cbor: bool, may_fall_back: bool) -> Self {
        Self { may_fall_back, cbor: AtomicBool::new(cbor) }
    }

    /// The encoding of the next call.
    fn next(&self) -> Encoding {
        if self.cbor.load(Ordering::Relaxed) { Encoding::Cbor } else { Encoding::Json }
    }

    fn may_fall_back(&self) -> bool {
        self.may_fall_back
    }

    /// Uses JSON from now on. Returns whether that changes anything.
    fn fall_back(&self) -> bool {
        self.may_fall_back && self.cbor.swap(false, Ordering::Relaxed)
    }
}
