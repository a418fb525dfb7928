//! When is progress stored?
//!
//! Every `commit_period`, for all shards at once, and only where it moved. A shard that is idle is stored now and
//! then all the same, so that its place doesn't grow older than the stream's retention.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::delivery::Progress;
use crate::lease::{Lease, LeaseStore, Place, StoreError, Write, Written};
use crate::names::{SequenceNumber, ShardId, Stream};
use crate::sync::{Mutex, lock};
use crate::telemetry;

/// How often the place of an idle shard is stored.
const IDLE_PERIOD: Duration = Duration::from_mins(5);

/// Stores the progress of all shards that are read.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    store: Arc<dyn LeaseStore>,
    shards: Mutex<HashMap<(Stream, ShardId), Entry>>,
    /// One flush at a time: an older one must not overtake a newer one.
    flushing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    progress: Arc<Progress>,
    /// Cancelled when the lease is lost.
    stop: CancellationToken,
    stored: Option<SequenceNumber>,
    stored_done: u64,
    stored_at: Instant,
}

/// What became of a shard's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndStored {
    Stored,
    /// The shard is someone else's now.
    Lost,
}

/// How thoroughly to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// What was acked, and idle places that have become old.
    Due,
    /// Everything that moved at all.
    All,
}

impl Checkpointer {
    pub(crate) fn new(store: Arc<dyn LeaseStore>) -> Self {
        Self { store, shards: Mutex::default(), flushing: tokio::sync::Mutex::new(()) }
    }

    /// Takes charge of a shard, and of its lease. `stop` is cancelled should the lease be lost.
    pub(crate) fn add(&self, lease: Lease, progress: Arc<Progress>, stop: CancellationToken) {
        let key = (lease.stream.clone(), lease.shard.clone());
        let entry = Entry { lease, progress, stop, stored: None, stored_done: 0, stored_at: Instant::now() };
        lock(&self.shards).insert(key, entry);
    }

    /// How many shards it is in charge of.
    pub(crate) fn len(&self) -> usize {
        lock(&self.shards).len()
    }

    /// Stores what is due, for ever. Whoever drops it, calls [`finish`](Self::finish).
    pub(crate) async fn run(&self, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.flush(Flush::Due).await {
                telemetry::store_failed(&error);
            }
        }
    }

    async fn flush(&self, flush: Flush) -> Result<(), StoreError> {
        let _turn = self.flushing.lock().await;
        let due = self.due(flush);
        if due.is_empty() {
            return Ok(());
        }
        let writes = due.iter().map(Due::write).collect();
        let written = self.store.commit(writes).await?;
        telemetry::stored(written.iter().filter(|one| **one == Written::Stored).count());
        for (due, written) in due.into_iter().zip(written) {
            match written {
                Written::Stored => self.stored(due),
                Written::Lost { holder } => self.lost(&due.key, &holder),
            }
        }
        Ok(())
    }

    fn due(&self, flush: Flush) -> Vec<Due> {
        let shards = lock(&self.shards);
        let mut due = Vec::new();
        for (key, entry) in shards.iter() {
            let (place, done) = entry.progress.checkpoint();
            let Some(place) = place.filter(|place| Some(place) != entry.stored.as_ref()) else { continue };
            if flush == Flush::All || done > entry.stored_done || entry.stored_at.elapsed() >= IDLE_PERIOD {
                due.push(Due { key: key.clone(), epoch: entry.lease.epoch, place, done });
            }
        }
        due
    }

    fn stored(&self, due: Due) {
        if let Some(entry) = lock(&self.shards).get_mut(&due.key) {
            entry.stored = Some(due.place);
            entry.stored_done = due.done;
            entry.stored_at = Instant::now();
        }
    }

    fn lost(&self, key: &(Stream, ShardId), holder: &str) {
        telemetry::lease_lost(&key.0, &key.1, holder);
        if let Some(entry) = lock(&self.shards).remove(key) {
            // Reading stops before anything else.
            entry.stop.cancel();
            entry.progress.retire();
        }
    }

    /// Stores the end of a shard, however long it takes, and gives its lease back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it may or may not have stored the end; the shard is then read on from its last
    /// place, where it is found to be at its end again.
    pub(crate) async fn store_end(&self, progress: &Progress, last: Option<SequenceNumber>) -> EndStored {
        let key = (progress.names.stream.clone(), progress.names.shard.clone());
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(5));
        loop {
            let Some(epoch) = lock(&self.shards).get(&key).map(|entry| entry.lease.epoch) else {
                return EndStored::Lost;
            };
            let end = Write { stream: key.0.clone(), shard: key.1.clone(), epoch, place: Place::End(last.clone()) };
            let outcome = {
                let _turn = self.flushing.lock().await;
                self.store.commit(vec![end]).await
            };
            match outcome.map(|written| written.into_iter().next()) {
                Ok(Some(Written::Stored)) => {
                    telemetry::stored(1);
                    let entry = lock(&self.shards).remove(&key);
                    progress.retire();
                    if let Some(entry) = entry
                        && let Err(error) = self.store.release(vec![entry.lease]).await
                    {
                        telemetry::store_failed(&error);
                    }
                    return EndStored::Stored;
                }
                Ok(Some(Written::Lost { holder })) => {
                    self.lost(&key, &holder);
                    return EndStored::Lost;
                }
                Ok(None) => {}
                Err(error) => telemetry::store_failed(&error),
            }
            sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }

    /// Nothing counts any more from here on: stores what was acked, and gives all leases back.
    pub(crate) async fn finish(&self) -> Result<(), StoreError> {
        for entry in lock(&self.shards).values() {
            entry.progress.retire();
        }
        let stored = self.flush(Flush::All).await;
        let leases = std::mem::take(&mut *lock(&self.shards)).into_values().map(|entry| entry.lease).collect();
        let released = self.store.release(leases).await;
        stored.and(released)
    }
}

/// A place that is to be stored.
#[derive(Debug)]
struct Due {
    key: (Stream, ShardId),
    epoch: u64,
    place: SequenceNumber,
    done: u64,
}

impl Due {
    fn write(&self) -> Write {
        Write {
            stream: self.key.0.clone(),
            shard: self.key.1.clone(),
            epoch: self.epoch,
            place: Place::After(self.place.clone()),
        }
    }
}
